//! Files: what is refused, and properties of whatever is generated.

use std::cmp::Ordering;
use std::path::{Component, Path};

use super::PolicyErrorKind as Kind;
use super::*;

#[test]
fn what_casadm_accepts_is_accepted() {
    let plain = policy("1,metadata&done,,0.5\n");
    for text in [
        "IO class id,IO class name,Eviction priority,Allocation\r\n1,metadata&done,,0.5\r\n",
        "Allocation,Eviction priority,IO class name,IO class id\n.5,,metadata&done,1",
        " IO class id , \"IO class name\",Eviction priority,Allocation\n\n  \n \"1\" , metadata&done ,\"\", 0.50\n\n",
    ] {
        assert_eq!(Policy::parse(text).as_ref(), Ok(&plain), "{text}");
    }
    let spaced = policy("1,\"process_name:kworker \",1,1");
    assert!(spaced.classify(&Facts { process_name: Some("kworker "), ..Facts::default() }).get() == 1);
    assert_eq!(Policy::parse(&spaced.to_csv()), Ok(spaced));
}

#[test]
fn files_that_are_refused() {
    assert_eq!(error(""), (1, Kind::NoHeader));
    assert_eq!(error("\n"), (1, Kind::NoHeader));
    assert_eq!(error(HEADER), (1, Kind::NoClasses));
    assert_eq!(error(&file("\n\n")), (3, Kind::NoClasses));
    assert_eq!(error("IO class id,Allocation"), (1, Kind::MissingColumn("IO class name")));
    assert_eq!(error("IO class id,Colour"), (1, Kind::UnknownColumn("Colour".into())));
    assert_eq!(error("IO class id,IO class id"), (1, Kind::DuplicateColumn("IO class id")));
    assert_eq!(error(&file(&" ".repeat(MAX_FILE_BYTES))), (1, Kind::FileTooLong));
    assert_eq!(error(&file("0,unclassified,1,1\n\n1,metadata,1")), (4, Kind::Fields(3)));
    assert_eq!(error(&file("1,metadata,1,1,1")), (2, Kind::Fields(5)));
    assert_eq!(error(&file("1,\"metadata,1,1")), (2, Kind::Quote));
    assert_eq!(error(&file("1,\"metadata\"x,1,1")), (2, Kind::Quote));
    assert_eq!(error(&file("1,metadata,1,1\n1,direct,1,1")), (3, Kind::DuplicateId(1)));
    for id in ["34", "-1", "+1", "", "one", "256"] {
        assert_eq!(error(&file(&format!("{id},metadata,1,1"))), (2, Kind::Id(id.into())));
    }
    assert_eq!(error(&file("0,rest,1,1")), (2, Kind::FixedName { id: 0, expected: "unclassified" }));
    assert_eq!(error(&file("33,direct,1,1")), (2, Kind::FixedName { id: 33, expected: "prefetch" }));
    for name in ["", "\"a,b\"", "\"a\"\"b\"", "caf\u{e9}", "a\tb", &"x".repeat(MAX_NAME + 1)] {
        assert_eq!(error(&file(&format!("1,{name},1,1"))), (2, Kind::Name), "{name}");
    }
    for priority in ["256", "-1", "1.0", "high"] {
        assert_eq!(error(&file(&format!("1,metadata,{priority},1"))), (2, Kind::Priority(priority.into())));
    }
    for allocation in ["", ".", "1.01", "2", "-0.5", "0.125", "1e0", "half"] {
        assert_eq!(
            error(&file(&format!("1,metadata,1,{allocation}"))),
            (2, Kind::Allocation(allocation.into()))
        );
    }
    // An old file of OpenCAS (utils/ext4-config.csv), which its classifier refuses, too.
    assert!(matches!(error(&file("1,Superblock,0,1")), (2, Kind::Rule(RuleError::UnknownCondition(_)))));
}

#[test]
fn rules_that_are_refused() {
    use RuleError as E;
    for (rule, name) in
        [("colour:red", "colour"), ("metadata&&done", ""), ("&done", ""), ("metadata &done", "metadata ")]
    {
        assert_eq!(rule_error(rule), E::UnknownCondition(name.into()));
    }
    assert_eq!(rule_error("done:1"), E::UnexpectedValue("done"));
    assert_eq!(rule_error("metadata:"), E::UnexpectedValue("metadata"));
    assert_eq!(rule_error("direct:yes"), E::UnexpectedValue("direct"));
    assert_eq!(rule_error("extension"), E::MissingValue("extension"));
    assert_eq!(rule_error("lba:"), E::MissingValue("lba"));
    assert_eq!(rule_error("lba:is:4"), E::UnknownOperator("is".into()));
    assert_eq!(rule_error("lba::4"), E::UnknownOperator(String::new()));
    for number in ["", "-1", "4k", "18446744073709551616", "1:2"] {
        assert_eq!(rule_error(&format!("file_size:gt:{number}")), E::Number(number.into()));
    }
    assert_eq!(rule_error(&format!("extension:{}", "x".repeat(257))), E::LongValue("extension"));
    assert_eq!(rule_error("directory:var/log"), E::Directory("var/log".into()));
    assert_eq!(rule_error("directory:/var/../log"), E::Directory("/var/../log".into()));
    assert_eq!(rule_error("io_direction:up"), E::Direction("up".into()));
    assert_eq!(rule_error("core_id:4096"), E::CoreId(4096));
}

#[test]
fn errors_name_the_line() {
    let error = Policy::parse(&file("0,unclassified,1,1\n1,lba:is:4,1,1")).unwrap_err();
    assert_eq!(error.to_string(), "line 3: unknown operator \"is\", expected eq, ne, lt, gt, le or ge");
}

#[test]
fn the_largest_policy_fits() {
    let longest = "lba:1|".repeat(MAX_NAME / 6);
    let lines: String = (1..=32).map(|id| format!("{id},{longest},255,1.00\n")).collect();
    assert_eq!(policy(&lines).classes().count(), 33);
}

#[test]
fn allocations_are_rounded_to_hundredths() {
    for (text, percent) in
        [("0", 0), ("1", 100), ("1.00", 100), ("0.66", 66), (".125", 13), (".994", 99), ("1.", 100)]
    {
        let policy = policy(&format!("1,metadata,1,{text}"));
        assert_eq!(policy.class(ClassId::new(1).unwrap()).allocation().percent(), percent, "{text}");
    }
    assert_eq!(Allocation::ALL.of(u64::MAX), u64::MAX);
}

const PATHS: [&str; 8] = ["/a", "/a/b.c", "/ab/b.c", "/a//./bb.d", "a/b.c", "/a/../b", "/b/..", "/a/b/c"];

fn facts() -> impl Strategy<Value = Facts<'static>> {
    let number = || prop::option::of(0..4_u64);
    let small = prop::option::of(0..4_u8);
    let class = prop::sample::select(vec![IoClass::Unknown, IoClass::Metadata, IoClass::Data]);
    let direction = prop::option::of(prop::sample::select(vec![Direction::Read, Direction::Write]));
    let path = prop::option::of(prop::sample::select(&PATHS[..]));
    let process_name = prop::option::of(prop::sample::select(vec!["a", "ab"]));
    let words = (class, prop::option::of(any::<bool>()), path, process_name, direction);
    let numbers = (number(), number(), number(), number(), small, prop::option::weighted(0.2, 0..40_u32));
    (words, numbers).prop_map(|((class, direct, path, process_name, direction), numbers)| {
        let (file_size, file_offset, lba, request_size, write_hint, hint) = numbers;
        let (pid, disk) = (hint.map(|hint| hint / 2), write_hint.map(u16::from));
        let facts = Facts { class, direct, file_size, file_offset, path, process_name, ..Facts::default() };
        Facts { pid, lba, request_size, direction, write_hint, disk, hint, ..facts }
    })
}

fn condition() -> impl Strategy<Value = String> {
    let number = "(file_size|file_offset|lba|pid|request_size|wlth|core_id|io_class|hint):((eq|ne|lt|gt|le|ge):)?[0-3]";
    prop_oneof![
        2 => "(done|metadata|direct|io_direction:(read|write)|process_name:ab?)",
        1 => "(directory:/(a(/b?)?)?|extension:[cd]|file_name_prefix:b{1,2})",
        3 => number,
    ]
}

fn lines() -> impl Strategy<Value = String> {
    let rule = (condition(), prop::collection::vec(("[&|]", condition()), 0..4));
    let line =
        (rule, prop::option::of(any::<u8>()), 0..=100_u8).prop_map(|((first, more), priority, percent)| {
            let rule = more.into_iter().fold(first, |rule, (join, condition)| rule + &join + &condition);
            let priority = priority.map_or(String::new(), |priority| priority.to_string());
            format!("{rule},{priority},{}.{:02}", percent / 100, percent % 100)
        });
    prop::collection::hash_map(1..=32_u8, line, 1..8)
        .prop_map(|lines| lines.into_iter().map(|(id, line)| format!("{id},{line}\n")).collect())
}

/// The meaning of a rule, from its text.
fn means(rule: &str, facts: &Facts<'_>, so_far: u8) -> (bool, bool) {
    let joins = std::iter::once('|').chain(rule.chars().filter(|join| matches!(join, '&' | '|')));
    let (mut value, mut ended, mut done) = (false, false, false);
    for (join, condition) in joins.zip(rule.split(['&', '|'])) {
        ended |= done || (join == '&' && !value);
        if !ended {
            value = asks(condition, facts, so_far) || (join == '|' && value);
            done = condition == "done";
        }
    }
    (value, done)
}

fn asks(condition: &str, facts: &Facts<'_>, so_far: u8) -> bool {
    let words: Vec<_> = condition.split(':').collect();
    let name = facts.path.and_then(|path| path.split('/').next_back()).filter(|name| *name != "..");
    let number = match words[..] {
        ["done"] => return true,
        ["metadata"] => return facts.class == IoClass::Metadata,
        ["direct"] => return facts.direct == Some(true),
        ["io_direction", "read"] => return facts.direction == Some(Direction::Read),
        ["io_direction", _] => return facts.direction == Some(Direction::Write),
        ["process_name", wanted] => return facts.process_name == Some(wanted),
        ["extension", wanted] => return name.is_some_and(|name| name.ends_with(&format!(".{wanted}"))),
        ["file_name_prefix", wanted] => return name.is_some_and(|name| name.starts_with(wanted)),
        ["directory", directory] => {
            let inside = |path: &Path| {
                path.starts_with(directory) && path.components().all(|part| part != Component::ParentDir)
            };
            return facts.path.is_some_and(|path| inside(Path::new(path)));
        }
        ["file_size", ..] => facts.file_size,
        ["file_offset", ..] => facts.file_offset,
        ["lba", ..] => facts.lba,
        ["pid", ..] => facts.pid.map(u64::from),
        ["request_size", ..] => facts.request_size,
        ["wlth", ..] => facts.write_hint.map(u64::from),
        ["core_id", ..] => facts.disk.map(u64::from),
        ["io_class", ..] => Some(so_far.into()),
        ["hint", ..] => facts.hint.map(u64::from),
        _ => panic!("{condition}"),
    };
    let value: u64 = words[words.len() - 1].parse().unwrap();
    number.is_some_and(|number| match (number.cmp(&value), words[1]) {
        (Ordering::Less, operator) => matches!(operator, "lt" | "le" | "ne"),
        (Ordering::Greater, operator) => matches!(operator, "gt" | "ge" | "ne"),
        (Ordering::Equal, operator) => !matches!(operator, "lt" | "gt" | "ne"),
    })
}

fn reference(policy: &Policy, facts: &Facts<'_>) -> u8 {
    let ids: Vec<_> = policy.classes().map(|class| class.id().get()).collect();
    if let Some(id) = ids.iter().find(|id| facts.hint == Some(u32::from(**id))) {
        return *id;
    }
    let mut winner = 0;
    for class in policy.classes().skip(1) {
        let (matches, done) = means(class.name(), facts, winner);
        winner = if matches { class.id().get() } else { winner };
        if done {
            break;
        }
    }
    winner
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_parsed_or_refused(text in any::<String>(), lines in "([0-9]{1,2},[a-z_:&|\"]{1,30}[0-9]?,[0-9]{0,3},[01.]{1,4}\r?\n){0,4}") {
        for text in [text.clone(), file(&text), file(&lines)] {
            if let Ok(policy) = Policy::parse(&text) {
                prop_assert_eq!(Policy::parse(&policy.to_csv()), Ok(policy));
            }
        }
    }

    #[test]
    fn a_policy_is_the_same_after_it_was_written(lines in lines()) {
        let policy = policy(&lines);
        prop_assert_eq!(Policy::parse(&policy.to_string()), Ok(policy));
    }

    #[test]
    fn classes_are_those_of_a_naive_reading(lines in lines(), facts in prop::collection::vec(facts(), 8)) {
        let policy = policy(&lines);
        for facts in facts {
            prop_assert_eq!(policy.classify(&facts).get(), reference(&policy, &facts), "{}{:?}", lines, facts);
        }
    }
}
