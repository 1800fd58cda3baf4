//! The protocol with a fake in place of Sky, over pairs of sockets and over real ones.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use sky::process::ProcessRule;
use sky::{ListedProcess, Listing, Removal, Report};
use sky_devices::icache::ClassStats;
use sky_devices::layers::{CacheClass, CacheStats, LayerStats};

use super::client::exchange;
use super::server::serve;
use super::*;

/// Remembers what it was asked for.
#[derive(Default)]
struct Fake {
    rules: Mutex<Vec<(u64, ProcessRule)>>,
    removed: Mutex<Vec<Removal>>,
    /// Whether the guest can be watched.
    broken: bool,
}

impl Controls for Fake {
    fn add(&self, rule: &ProcessRule) -> sky::Result<u64> {
        let mut rules = self.rules.lock().unwrap();
        let number = rules.len() as u64;
        rules.push((number, rule.clone()));
        Ok(number)
    }

    fn remove(&self, what: Removal) -> sky::Result<usize> {
        self.removed.lock().unwrap().push(what);
        Ok(2)
    }

    fn list(&self) -> sky::Result<Listing> {
        let process = ListedProcess { pid: 42, executable: "\u{1b}[2Jwriter".into(), rule: 0 };
        Ok(Listing { rules: self.rules.lock().unwrap().clone(), processes: vec![process], outstanding: 3 })
    }

    fn report(&self) -> Report {
        Report { problem: self.broken.then(|| "no such kernel".to_owned()), attached: 5, ..Report::default() }
    }

    fn detach(&self) -> sky::Result<()> {
        Err(sky::Error::Busy)
    }

    fn arm(&self) -> sky::Result<()> {
        if self.broken { Err(sky::Error::NotArmed) } else { Ok(()) }
    }

    fn disks(&self) -> Vec<DiskLayers> {
        let (cache, dedup) = (Some(cache_stats()), None);
        vec![DiskLayers { path: "a.img".into(), layers: LayerStats { cache, dedup } }]
    }

    fn cache(&self, disk: usize, action: &CacheAction) -> Result<Value, String> {
        match (disk, action) {
            (0, CacheAction::List) => {
                Ok(json!({ "blocks": [(0, 5, false), (4096, 5, false), (8192, 5, true)] }))
            }
            (0, CacheAction::Resize(size)) => Ok(json!({ "size": size })),
            (0, CacheAction::Classes(text)) => Err(format!("classes: {text}")),
            (0, _) => Ok(json!({})),
            (other, _) => Err(format!("there is no disk {other}")),
        }
    }
}

fn cache_stats() -> CacheStats {
    let counters = ClassStats { hits: 7, misses: 3, read_bytes: 40960, written_bytes: 0, lines: 2 };
    CacheStats {
        classes: vec![CacheClass { id: 5, name: "meta\u{1b}data".into(), counters }],
        size_bytes: 5 << 20,
        capacity_blocks: 1024,
        dirty_blocks: 1,
        written_back_blocks: 0,
        fast_errors: 0,
        lost_reads: 0,
        failed: false,
    }
}

fn reply(fake: &Fake, line: &str) -> Value {
    let reply = answer(fake, line.as_bytes());
    assert!(!reply.contains('\n'));
    serde_json::from_str(&reply).unwrap()
}

#[test]
fn requests_reach_sky_and_its_answers_come_back() {
    let fake = Fake::default();
    let rule = r#"{"command":"add","rule":{"executable":"w*","parent":1,"children":true}}"#;
    assert_eq!(reply(&fake, rule), json!({"ok": {"rule": 0}}));
    assert_eq!(fake.rules.lock().unwrap()[0].1.to_string(), "executable w*, parent 1, with children");
    for (line, what) in [
        (r#"{"command":"remove","rule":7}"#, Removal::Rule(7)),
        (r#"{"command":"remove","pid":42}"#, Removal::Process(42)),
        (r#"{"command":"remove","all":true}"#, Removal::All),
    ] {
        assert_eq!(reply(&fake, line), json!({"ok": {"processes": 2}}));
        assert_eq!(fake.removed.lock().unwrap().pop(), Some(what));
    }
    let listing = reply(&fake, r#"{"command":"list"}"#);
    assert_eq!(listing["ok"]["rules"][0][1]["executable"], "w*");
    assert_eq!(listing["ok"]["processes"][0]["pid"], 42);
    assert_eq!(reply(&fake, r#"{"command":"report"}"#)["ok"]["attached"], 5);
    let text = &reply(&fake, r#"{"command":"report","text":true}"#)["ok"];
    assert_eq!(text.as_str().unwrap(), fake.report().to_string());
    let metrics = &reply(&fake, r#"{"command":"metrics"}"#)["ok"];
    assert_eq!(metrics.as_str().unwrap(), fake.report().prometheus());
    assert_eq!(reply(&fake, r#"{"command":"arm"}"#), json!({"ok": {}}));
    assert_eq!(
        reply(&fake, r#"{"command":"detach"}"#),
        json!({"error": "the guest did not come to a stop in time"})
    );
    let disks = reply(&fake, r#"{"command":"disks"}"#);
    assert_eq!(disks["ok"]["disks"][0]["cache"]["classes"][0]["hits"], 7);
    assert_eq!(reply(&fake, r#"{"command":"cache","disk":0,"action":"flush"}"#), json!({"ok": {}}));
    assert_eq!(
        reply(&fake, r#"{"command":"cache","disk":0,"action":{"classes":"x"}}"#),
        json!({"error": "classes: x"})
    );
    assert_eq!(
        reply(&fake, r#"{"command":"cache","disk":0,"action":{"resize":8388608}}"#),
        json!({"ok": {"size": 8_388_608}})
    );
    assert_eq!(
        reply(&fake, r#"{"command":"cache","disk":1,"action":"clear"}"#),
        json!({"error": "there is no disk 1"})
    );
    let broken = Fake { broken: true, ..Fake::default() };
    assert_eq!(reply(&broken, r#"{"command":"arm"}"#), json!({"error": "no such kernel"}));
}

#[test]
fn what_is_no_request_is_an_error_and_does_nothing() {
    let fake = Fake::default();
    let deep = "[".repeat(60_000);
    for line in [
        "{}",
        "null",
        "add",
        "\u{0}\u{1}\u{2}",
        r#"{"command":"fly"}"#,
        r#"{"command":"add"}"#,
        r#"{"command":"add","rule":{"executabel":"x"}}"#,
        r#"{"command":"add","rule":{"pid":-1}}"#,
        r#"{"command":"add","rule":{"executable":"x"},"more":1}"#,
        r#"{"command":"list","more":1}"#,
        r#"{"command":"list"} {"command":"list"}"#,
        r#"{"command":"remove"}"#,
        r#"{"command":"remove","all":false}"#,
        r#"{"command":"cache","disk":0}"#,
        r#"{"command":"cache","disk":-1,"action":"flush"}"#,
        r#"{"command":"cache","disk":0,"action":"burn"}"#,
        r#"{"command":"cache","disk":0,"action":{"resize":-1}}"#,
        r#"{"command":"remove","rule":1,"all":true}"#,
        r#"{"command":"remove","pid":4294967296}"#,
        &deep,
    ] {
        let reply = reply(&fake, line);
        assert!(reply["error"].is_string(), "{line:.80}: {reply}");
    }
    let reply = answer(&fake, b"{\"command\":\"\xff\"}");
    assert!(reply.starts_with(r#"{"error":"#), "{reply}");
    assert!(fake.rules.lock().unwrap().is_empty() && fake.removed.lock().unwrap().is_empty());
}

/// Runs `client` against a server for one client.
fn with_server<T>(fake: &Fake, client: impl FnOnce(UnixStream) -> T) -> T {
    let (near, far) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = serve(&far, fake, &Mutex::default());
        });
        client(near)
    })
}

#[test]
fn a_client_makes_as_many_requests_as_it_likes() {
    let fake = Fake::default();
    with_server(&fake, |stream| {
        for number in 0..3 {
            let rule = ProcessRule::executable("x");
            assert_eq!(exchange(&stream, &Request::Add { rule }).unwrap(), json!({"rule": number}));
        }
        let removal = Request::Remove { rule: None, pid: Some(42), all: false };
        assert_eq!(exchange(&stream, &removal).unwrap(), json!({"processes": 2}));
        let error = exchange(&stream, &Request::Detach {}).unwrap_err();
        assert!(matches!(&error, ClientError::Refused(why) if why.contains("in time")), "{error}");
    });
    assert_eq!(fake.removed.lock().unwrap().pop(), Some(Removal::Process(42)));
}

#[test]
fn requests_may_come_in_pieces_or_together_and_the_last_needs_no_end_of_line() {
    with_server(&Fake::default(), |mut stream| {
        stream.write_all(b"{\"comm").unwrap();
        thread::sleep(std::time::Duration::from_millis(20));
        stream.write_all(b"and\":\"arm\"}\n\n  \r\nnonsense\n{\"command\":\"arm\"}").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let replies: Vec<String> = BufReader::new(stream).lines().map(Result::unwrap).collect();
        assert_eq!(replies.len(), 3, "{replies:?}");
        assert_eq!((&*replies[0], &*replies[2]), (r#"{"ok":{}}"#, r#"{"ok":{}}"#));
        assert!(replies[1].starts_with(r#"{"error":"this is no request"#));
    });
}

#[test]
fn a_line_has_a_limit() {
    let request = |length: usize| {
        let rule = format!(r#"{{"command":"add","rule":{{"executable":"{}"}}}}"#, "x".repeat(length));
        (rule.len(), format!("{rule}\n"))
    };
    let (rest, _) = request(0);
    for (length, fits) in [(MAX_LINE - rest, true), (MAX_LINE - rest + 1, false), (MAX_LINE * 20, false)] {
        let (size, line) = request(length);
        assert_eq!(size <= MAX_LINE, fits);
        let reply = with_server(&Fake::default(), |stream| {
            let mut writer = stream.try_clone().unwrap();
            // The server hangs up before it has read all of it.
            let writing = thread::spawn(move || writer.write_all(line.as_bytes()));
            let mut reply = String::new();
            BufReader::new(&stream).read_line(&mut reply).unwrap();
            drop(stream);
            let _ = writing.join().unwrap();
            reply
        });
        assert_eq!(reply.starts_with(r#"{"ok""#), fits, "{size}: {reply}");
        assert_eq!(reply.contains("at most 65536 bytes"), !fits, "{size}: {reply}");
    }
}

#[test]
fn tables_are_for_people_and_terminals() {
    let fake = Fake::default();
    fake.add(&ProcessRule::executable("w*")).unwrap();
    let listing = serde_json::to_value(fake.list().unwrap()).unwrap();
    let text = table::show(&Request::List {}, listing).unwrap();
    assert_eq!(
        text,
        "rule  what\n   0  executable w*\n\n    pid  rule  executable\n     42     0  \u{fffd}[2Jwriter\n\n\
         system calls on their way: 3"
    );
    let disks = json!({ "disks": fake.disks() });
    assert_eq!(
        table::show(&Request::Disks {}, disks).unwrap(),
        "disk 0: a.img\n  cache of 4 MiB, 4 KiB not written back\n  \
         class  name                          hits    misses        read     written        held\n      \
         5  meta\u{fffd}data                        7         3      40 KiB         0 B       8 KiB\n"
    );
    let list = Request::Cache { disk: 0, action: CacheAction::List };
    assert_eq!(
        table::show(&list, fake.cache(0, &CacheAction::List).unwrap()).unwrap(),
        "         offset        length  class\n              0          8192      5\n           \
         8192          4096      5  not written back"
    );
    let resize = Request::Cache { disk: 0, action: CacheAction::Resize(8 << 20) };
    assert_eq!(table::show(&resize, json!({"size": 8 << 20})).unwrap(), "the cache has 8 MiB");
    let removal = Request::Remove { rule: Some(1), pid: None, all: false };
    assert_eq!(table::show(&removal, json!({"processes": 1})).unwrap(), "1 process is left alone");
    assert!(table::show(&removal, json!({"rule": 1})).is_err());
}

#[test]
fn the_socket_is_the_users_alone_and_goes_with_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let socket = ControlSocket::listen(&path, Arc::new(Fake::default())).unwrap();
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ask(&path, &Request::Arm {}).unwrap(), json!({}));
    let second = ControlSocket::listen(&path, Arc::new(Fake::default())).unwrap_err();
    assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(ask(&path, &Request::Arm {}).unwrap(), json!({}), "the first is still there");
    // One who says nothing must not hold up the others, nor the end.
    let silent = UnixStream::connect(&path).unwrap();
    assert_eq!(ask(&path, &Request::Arm {}).unwrap(), json!({}));
    drop(socket);
    assert!(!path.exists());
    assert!(matches!(ask(&path, &Request::Arm {}), Err(ClientError::Connect { .. })));
    drop(silent);
}

#[test]
fn what_is_left_of_the_dead_is_replaced_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    // Its descriptor closes, the file stays: so does the kernel leave it when a process is killed.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = ControlSocket::listen(&path, Arc::new(Fake::default())).unwrap();
    assert_eq!(ask(&path, &Request::Arm {}).unwrap(), json!({}));
    // Somebody has put another file there meanwhile: that is not ours to remove.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "dear diary").unwrap();
    drop(socket);
    assert_eq!(fs::read_to_string(&path).unwrap(), "dear diary");
    let error = ControlSocket::listen(&path, Arc::new(Fake::default())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(&path).unwrap(), "dear diary");
}

#[test]
fn there_are_a_few_seats_and_they_become_free_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let _socket = ControlSocket::listen(&path, Arc::new(Fake::default())).unwrap();
    let seated: Vec<UnixStream> = (0..8)
        .map(|_| {
            let stream = UnixStream::connect(&path).unwrap();
            exchange(&stream, &Request::Arm {}).unwrap();
            stream
        })
        .collect();
    let mut turned_away = String::new();
    UnixStream::connect(&path).unwrap().read_to_string(&mut turned_away).unwrap();
    assert_eq!(turned_away, "{\"error\":\"too many clients\"}\n");
    drop(seated);
    let free = (0..500).any(|_| {
        thread::sleep(std::time::Duration::from_millis(10));
        ask(&path, &Request::Arm {}).is_ok()
    });
    assert!(free);
}

/// Everybody at once: requests are carried out one after the other.
#[test]
fn requests_take_turns() {
    struct Slow(Mutex<()>, Fake);
    impl Controls for Slow {
        fn add(&self, rule: &ProcessRule) -> sky::Result<u64> {
            let _alone = self.0.try_lock().map_err(|_| sky::Error::Busy)?;
            thread::sleep(std::time::Duration::from_millis(5));
            self.1.add(rule)
        }
        fn remove(&self, what: Removal) -> sky::Result<usize> {
            self.1.remove(what)
        }
        fn list(&self) -> sky::Result<Listing> {
            self.1.list()
        }
        fn report(&self) -> Report {
            self.1.report()
        }
        fn detach(&self) -> sky::Result<()> {
            self.1.detach()
        }
        fn arm(&self) -> sky::Result<()> {
            self.1.arm()
        }
        fn disks(&self) -> Vec<DiskLayers> {
            self.1.disks()
        }
        fn cache(&self, disk: usize, action: &CacheAction) -> Result<Value, String> {
            self.1.cache(disk, action)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let _socket = ControlSocket::listen(&path, Arc::new(Slow(Mutex::default(), Fake::default()))).unwrap();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let rule = ProcessRule::executable("x");
                    ask(&path, &Request::Add { rule }).unwrap();
                }
            });
        }
    });
    assert_eq!(ask(&path, &Request::List {}).unwrap()["rules"].as_array().unwrap().len(), 30);
}
