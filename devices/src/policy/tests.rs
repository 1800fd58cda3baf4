use proptest::prelude::*;

use super::*;
use crate::io_class::IoClass;

mod generated;

/// `utils/ioclass-config.csv` of OpenCAS, the newer one with the class for what the cache reads ahead.
const SHIPPED: &str = "\
IO class id,IO class name,Eviction priority,Allocation
0,unclassified,22,1
1,metadata&done,0,1
11,file_size:le:4096&done,9,1
12,file_size:le:16384&done,10,1
13,file_size:le:65536&done,11,1
14,file_size:le:262144&done,12,1
15,file_size:le:1048576&done,13,1
16,file_size:le:4194304&done,14,1
17,file_size:le:16777216&done,15,1
18,file_size:le:67108864&done,16,1
19,file_size:le:268435456&done,17,1
20,file_size:le:1073741824&done,18,1
21,file_size:gt:1073741824&done,19,1
22,direct&done,20,1
33,prefetch,21,1
";

fn file(lines: &str) -> String {
    format!("{HEADER}\n{lines}")
}

fn policy(lines: &str) -> Policy {
    Policy::parse(&file(lines)).unwrap()
}

fn error(text: &str) -> (usize, PolicyErrorKind) {
    let error = Policy::parse(text).unwrap_err();
    (error.line, error.kind)
}

fn rule_error(rule: &str) -> RuleError {
    match error(&file(&format!("1,{rule},1,1"))) {
        (2, PolicyErrorKind::Rule(error)) => error,
        other => panic!("{rule}: {other:?}"),
    }
}

/// Whether a rule alone takes a block.
fn takes(rule: &str, facts: &Facts<'_>) -> bool {
    policy(&format!("1,{rule},1,1")).classify(facts).get() == 1
}

fn sized(size: u64) -> Facts<'static> {
    Facts { class: IoClass::Data, file_size: Some(size), ..Facts::default() }
}

fn at(path: &str) -> Facts<'_> {
    Facts { path: Some(path), ..Facts::default() }
}

#[test]
fn the_shipped_file_of_opencas_classifies_as_its_guide_says() {
    let policy = Policy::parse(SHIPPED).unwrap();
    assert_eq!(policy.classes().count(), 15);
    let class = |facts: &Facts<'_>| policy.classify(facts).get();
    assert_eq!(class(&Facts { class: IoClass::Metadata, file_size: Some(1), ..Facts::default() }), 1);
    for (size, expected) in
        [(0, 11), (4096, 11), (4097, 12), (1 << 20, 15), (1 << 30, 20), ((1 << 30) + 1, 21)]
    {
        assert_eq!(class(&sized(size)), expected, "{size}");
    }
    assert_eq!(class(&Facts { direct: Some(true), ..Facts::default() }), 22);
    assert_eq!(class(&Facts::default()), 0);
    let priority = |id| policy.class(ClassId::new(id).unwrap()).priority();
    assert_eq!((priority(1), priority(0)), (Priority::Level(0), Priority::Level(22)));
    assert_eq!(priority(ClassId::PREFETCH.get()), Priority::Level(21));
    assert!(policy.to_csv().contains("11,file_size:le:4096&done,9,1.00\n"));
}

#[test]
fn directories_of_the_guide() {
    let policy =
        policy("0,unclassified,22,0\n1,directory:/data/dataa|directory:/data/datab,1,1\n2,metadata,3,0.2\n");
    let class = |facts: &Facts<'_>| policy.classify(facts).get();
    assert_eq!(class(&at("/data/dataa/x")), 1);
    assert_eq!(class(&at("/data/datab/deep/x")), 1);
    assert_eq!(class(&at("/data/datac")), 0);
    assert_eq!(class(&Facts { class: IoClass::Metadata, ..at("/data/dataa/x") }), 2);
    assert!(!policy.class(ClassId::UNCLASSIFIED).allocation().caches());
    assert_eq!(policy.class(ClassId::new(2).unwrap()).allocation().of(1000), 200);
}

#[test]
fn combined_rules_of_the_guide() {
    let policy = policy(
        "0,unclassified,22,1\n1,file_size:gt:40960,2,0.5\n2,io_class:1&file_size:lt:81920&done,3,1\n\
         3,directory:/mnt/drv1/dir,5,1\n4,directory:/mnt/drv1/dir/subdir/|directory:/mnt/drv1/dir/subdir2/,4,1\n",
    );
    let class = |size, path| policy.classify(&Facts { path: Some(path), ..sized(size) }).get();
    assert_eq!(class(40960, "/a"), 0);
    assert_eq!(class(81920, "/a"), 1);
    assert_eq!(class(50000, "/mnt/drv1/dir/a"), 2);
    assert_eq!(class(100, "/mnt/drv1/dir/a"), 3);
    assert_eq!(class(100, "/mnt/drv1/dir/subdir/a"), 4);
    assert_eq!(class(100_000, "/mnt/drv1/dir/subdir2/a"), 4);
}

#[test]
fn the_table_of_the_paper() {
    let policy = Policy::default();
    for (mib, expected) in [(0, 4), (1, 3), (2, 2), (5, 1), (10, 0), (11, 0)] {
        assert_eq!(policy.classify(&sized(mib * MIB)).get(), expected, "{mib} MiB");
        let below = (mib * MIB).saturating_sub(1);
        assert_eq!(policy.classify(&sized(below)).get(), if mib == 11 { 0 } else { 4.min(expected + 1) });
    }
    assert_eq!(policy.classify(&Facts { class: IoClass::Metadata, ..sized(1) }).get(), 5);
    assert_eq!(policy.classify(&Facts::default()), ClassId::UNCLASSIFIED);
    let mut kept_longest_first: Vec<_> = policy.classes().collect();
    kept_longest_first.sort_by_key(|class| class.priority());
    let ids: Vec<_> = kept_longest_first.iter().map(|class| class.id().get()).collect();
    assert_eq!(ids, [5, 4, 3, 2, 1, 0]);
    assert_eq!(Policy::parse(&policy.to_csv()).unwrap(), policy);
}

#[test]
fn every_operator() {
    let holds =
        |operator: &str| [9, 10, 11].map(|size| takes(&format!("file_size:{operator}10"), &sized(size)));
    assert_eq!(holds(""), [false, true, false]);
    assert_eq!(holds("eq:"), [false, true, false]);
    assert_eq!(holds("ne:"), [true, false, true]);
    assert_eq!(holds("lt:"), [true, false, false]);
    assert_eq!(holds("gt:"), [false, false, true]);
    assert_eq!(holds("le:"), [true, true, false]);
    assert_eq!(holds("ge:"), [false, true, true]);
}

#[test]
fn every_condition_matches_what_it_asks_for_and_nothing_unknown() {
    let all = Facts {
        class: IoClass::Metadata,
        direct: Some(true),
        file_size: Some(1),
        file_offset: Some(2),
        path: Some("/var/log/app.log"),
        process_name: Some("gpg"),
        pid: Some(3),
        lba: Some(4),
        request_size: Some(5),
        direction: Some(Direction::Write),
        write_hint: Some(6),
        disk: Some(7),
        hint: Some(800),
    };
    let conditions = "metadata direct file_size:1 file_offset:2 directory:/var extension:log file_name_prefix:app \
                      process_name:gpg pid:3 lba:4 request_size:5 io_direction:write wlth:6 core_id:7 hint:800";
    for condition in conditions.split_whitespace() {
        assert!(takes(condition, &all), "{condition}");
        assert!(!takes(condition, &Facts::default()), "{condition}");
    }
    for name in ["file_size", "file_offset", "lba", "pid", "request_size", "wlth", "core_id", "hint"] {
        assert!(takes(&format!("{name}:ne:99"), &all), "{name}");
        assert!(!takes(&format!("{name}:ne:99"), &Facts::default()), "{name}");
    }
    assert!(takes("io_class:0", &Facts::default()));
    assert!(!takes("metadata", &Facts { class: IoClass::Data, ..all }));
    assert!(!takes("direct", &Facts { direct: Some(false), ..all }));
    assert!(!takes("io_direction:read", &all));
    assert!(!takes("process_name:gp", &all));
}

#[test]
fn directories_end_at_a_component() {
    let inside = |path| takes("directory:/var/log", &at(path));
    for path in ["/var/log", "/var/log/", "/var/log/x", "/var/log/a/b", "//var/./log//x"] {
        assert!(inside(path), "{path}");
    }
    for path in
        ["/var/logs", "/var/logs/x", "/var", "var/log/x", "/x/var/log", "/var/log/../x", "/a/../var/log", ""]
    {
        assert!(!inside(path), "{path}");
    }
    assert!(takes("directory:/var/log/", &at("/var/log/x")));
    assert!(takes("directory:/", &at("/x")));
    assert!(!takes("directory:/", &at("x")));
}

#[test]
fn names_of_files() {
    assert!(takes("extension:gz", &at("/a/b.tar.gz")));
    assert!(takes("extension:gz", &at("b.gz")));
    assert!(takes("extension:profile", &at("/home/.profile")));
    assert!(!takes("extension:gz", &at("/a.gz/b")));
    assert!(!takes("extension:gz", &at("/a/gz")));
    assert!(!takes("extension:g", &at("/a/b.gz")));
    assert!(takes("file_name_prefix:foo", &at("/a/foobar")));
    assert!(!takes("file_name_prefix:foo", &at("/foo/bar")));
    assert!(!takes("file_name_prefix:.", &at("/foo/..")));
}

#[test]
fn operators_join_from_left_to_right_as_in_opencas() {
    let none = Facts::default();
    let direct = Facts { direct: Some(true), ..none };
    assert!(takes("metadata|direct", &direct));
    assert!(!takes("metadata&direct", &direct));
    assert!(!takes("direct|direct&metadata", &direct), "not direct or (direct and metadata)");
    assert!(takes("direct&metadata|direct", &direct));
    assert!(!takes("metadata&direct|direct", &direct), "a false left side ends the rule at &");
    assert!(takes("direct&", &direct), "an operator at the end is let pass");
    assert!(!takes("direct|", &none));
}

#[test]
fn the_last_match_wins_unless_done() {
    let facts = Facts { class: IoClass::Metadata, direct: Some(true), ..Facts::default() };
    assert_eq!(policy("1,metadata,1,1\n2,direct,1,1").classify(&facts).get(), 2);
    assert_eq!(policy("1,metadata&done,1,1\n2,direct,1,1").classify(&facts).get(), 1);
    assert_eq!(
        policy("2,direct,1,1\n1,metadata&done,1,1").classify(&facts).get(),
        1,
        "by number, not by line"
    );
    let data = Facts { class: IoClass::Data, ..facts };
    assert_eq!(
        policy("1,metadata&done,1,1\n2,direct,1,1").classify(&data).get(),
        2,
        "done only counts when reached"
    );
    assert_eq!(policy("1,metadata|done,1,1\n2,direct,1,1").classify(&data).get(), 1, "done always holds");
    assert_eq!(policy("1,direct,1,1\n2,io_class:1&done,1,1\n3,direct,1,1").classify(&data).get(), 2);
}

#[test]
fn hints_win() {
    let policy = policy("1,file_size:lt:10&done,1,1\n7,hint:ge:100,1,1\n");
    let hinted = |hint| policy.classify(&Facts { hint: Some(hint), ..sized(1) }).get();
    assert_eq!(hinted(7), 7);
    assert_eq!(hinted(0), 0, "the rest is a class, too");
    assert_eq!(hinted(2), 1, "no such class");
    assert_eq!(hinted(256 + 7), 1, "no number is cut short");
    assert_eq!(policy.classify(&Facts { hint: Some(100), ..sized(99) }).get(), 7);
}

#[test]
fn a_class_of_an_earlier_policy_is_unclassified() {
    let policy = policy("1,metadata,,1\n");
    let gone = ClassId::new(9).unwrap();
    assert_eq!(policy.get(gone), None);
    assert_eq!(policy.class(gone).id(), ClassId::UNCLASSIFIED);
    assert_eq!(policy.class(gone).priority(), Priority::Level(255), "a file need not name class 0");
    assert_eq!(policy.class(ClassId::new(1).unwrap()).priority(), Priority::Pinned);
    assert!(Priority::Pinned < Priority::Level(0));
}
