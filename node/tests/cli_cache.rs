//! `fnode cache` against a real daemon: what programs on its machine stored is listed, explained, removed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop with a line number")]

mod harness;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use base64::Engine as _;
use harness::Node;
use serde_json::{Value, json};

struct Program(BufReader<UnixStream>);

impl Program {
    fn of(node: &Node) -> Self {
        let stream = UnixStream::connect(node.home().join("cache.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(BufReader::new(stream))
    }

    fn request(&mut self, word: &Value) -> Value {
        self.0.get_mut().write_all(format!("{word}\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Stores a value of `lab.train` for the project vision, made of `parts`.
    fn store(&mut self, key: &str, user: &str, seconds: f64, parts: &Value) {
        let head = json!({"kind": "pickle5", "parts": parts}).to_string();
        let len = u32::try_from(head.len()).unwrap().to_le_bytes();
        let bytes = [b"FNV1", len.as_slice(), head.as_bytes(), &[7; 1_000]].concat();
        let word = json!({"id": 1, "store": {"key": key, "lease": null, "function": "lab.train", "project": "vision",
            "user": user, "seconds": seconds, "expires_unix_ms": null, "file": null, "parts_digest": key,
            "inline": base64::engine::general_purpose::STANDARD.encode(&bytes)}});
        assert_eq!(self.request(&word)["stored"]["bytes"], json!(bytes.len()));
    }

    fn is_hit(&mut self, key: &str) -> bool {
        let word = json!({"id": 2, "ask": {"key": key, "function": "lab.train", "project": "vision",
            "user": "bob", "wait_ms": 0}});
        self.request(&word)["hit"].is_object()
    }
}

#[test]
fn the_cache_says_what_it_holds_what_it_saves_and_what_differed() {
    let node = Node::started("alpha");
    let mut program = Program::of(&node);
    let (first, second) = ("1a".repeat(32), "2b".repeat(32));
    let parts = |code: &str, more: Value| {
        json!([["function", "lab.load", code], ["argument", "lr", "aa"], ["package", "numpy", "2.1"], more])
    };
    program.store(&first, "ada", 90.0, &parts("c1", json!(["env", "SEED", "7"])));
    program.store(&second, "bob", 30.0, &parts("c2", json!(["file", "data.csv", "f1"])));
    assert!(program.is_hit(&first) && program.is_hit(&first));

    let stats = node.json(&["cache", "stats"]);
    assert_eq!((&stats["values"], &stats["here_values"], &stats["took_ms"]), (&json!(2), &json!(2), &json!(120_000)));
    assert_eq!(stats["uses"][0]["user"], "ada");
    assert_eq!(stats["hits"], json!([{"project": "vision", "user": "bob", "hits": 2, "saved_ms": 180_000}]));
    assert_eq!(stats["silent"], json!([]));
    // What programs read by themselves they tell in a file.
    std::fs::write(node.home().join("cache/hits.log"), "[\"vision\",\"ada\",40,7200000]\n").unwrap();
    let text = node.ok(&["cache", "stats"]);
    assert!(text.contains("saved          2h03m") && text.contains("ada"), "{text}");

    let listed = node.json(&["cache", "list", "--function", "lab.train"]);
    assert_eq!(listed["values"].as_array().unwrap().len(), 2);
    assert_eq!(node.json(&["cache", "list", "--user", "bob"])["values"][0]["key"], json!(second));
    assert_eq!(node.ok(&["cache", "list", "--function", "none"]), "no values\n");
    let shown = node.json(&["cache", "show", "1A1A"]);
    assert_eq!((&shown["node"]["name"], &shown["is_here"]), (&json!("alpha"), &json!(true)));

    let why = node.json(&["cache", "why", &second]);
    assert_eq!(why["earlier"]["key"], json!(first));
    let differs = json!([{"kind": "env", "name": "SEED", "change": "removed"},
        {"kind": "file", "name": "data.csv", "change": "added"},
        {"kind": "function", "name": "lab.load", "change": "changed"}]);
    assert_eq!(why["differs"], differs);
    assert!(node.ok(&["cache", "why", "2b2b"]).contains("function lab.load: another"));
    // The nearest is not the latest: it differs from the first in one argument alone.
    let third = "3c".repeat(32);
    let parts = json!([
        ["function", "lab.load", "c1"],
        ["argument", "lr", "bb"],
        ["package", "numpy", "2.1"],
        ["env", "SEED", "7"]
    ]);
    program.store(&third, "ada", 1.0, &parts);
    let why = node.json(&["cache", "why", &third]);
    assert_eq!(why["earlier"]["key"], json!(first));
    assert_eq!(why["differs"], json!([{"kind": "argument", "name": "lr", "change": "changed"}]));
    assert!(node.ok(&["cache", "why", "1a1a"]).contains("is the earliest value of lab.train"));
}

#[test]
fn values_leave_one_node_or_all() {
    let node = Node::started("alpha");
    let mut program = Program::of(&node);
    let (first, second) = ("1a".repeat(32), "1b".repeat(32));
    program.store(&first, "ada", 1.0, &json!([]));
    program.store(&second, "ada", 1.0, &json!([]));
    node.refused(&["cache", "show", "ffff"], 1, "no value that counts has the key ffff; see fnode cache list");
    node.refused(&["cache", "show", "x"], 2, "invalid value 'x' for '<KEY>'");
    assert!(node.ok(&["cache", "purge", "1a1a"]).contains("gone from every node"));
    assert!(!program.is_hit(&first));
    program.request(&json!({"id": 3, "drop": {"key": first, "lease": null}}));
    assert_eq!(node.json(&["cache", "list"])["values"].as_array().unwrap().len(), 1);
    // Eviction: the record goes, the value in the log brings it back.
    let would = node.json(&["cache", "gc", "--max-size", "1KiB", "--dry-run"]);
    assert_eq!(would["values"], json!(1));
    assert_eq!(node.json(&["cache", "stats"])["here_values"], json!(1));
    assert_eq!(node.json(&["cache", "gc", "--max-size", "1KiB"])["values"], json!(1));
    assert_eq!(node.json(&["cache", "stats"])["here_values"], json!(0));
    assert!(program.is_hit(&second));
    // Many at once.
    node.refused(&["cache", "purge"], 2, "the following required arguments were not provided");
    node.refused(&["cache", "purge", "1b1b", "--user", "ada"], 2, "the argument '[KEY]' cannot be used with");
    assert_eq!(node.json(&["cache", "purge", "--function", "lab.other"])["values"], json!(0));
    let would = node.json(&["cache", "purge", "--function", "lab.train", "--user", "ada", "--dry-run"]);
    assert_eq!((&would["values"], &would["dry_run"]), (&json!(1), &json!(true)));
    assert!(node.ok(&["cache", "purge", "--function", "lab.train"]).starts_with("removed 1 value of"));
    assert!(!program.is_hit(&second));
}

#[test]
fn a_killed_daemon_forgets_no_value() {
    let node = Node::started("alpha");
    let mut program = Program::of(&node);
    let key = "3c".repeat(32);
    program.store(&key, "ada", 1.0, &json!([]));
    let pid = node.pid();
    harness::signal(pid, "KILL");
    // Its runner starts it again.
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while node.pid() == pid || node.run(&["status"]).code != Some(0) {
        assert!(std::time::Instant::now() < deadline, "the daemon is back");
    }
    node.until(&["cache", "stats"], "/values", &json!(1));
    std::fs::remove_dir_all(node.home().join("cache/values/3c")).unwrap();
    assert!(Program::of(&node).is_hit(&key));
}

#[test]
fn what_a_disk_has_changed_is_found_and_removed_or_mended() {
    let node = Node::started("alpha");
    let mut program = Program::of(&node);
    let (small, large) = ("4d".repeat(32), "5e".repeat(32));
    program.store(&small, "ada", 1.0, &json!([]));
    std::fs::write(node.home().join("cache/incoming/large"), vec![7; 300_000]).unwrap();
    let word = json!({"id": 1, "store": {"key": large, "lease": null, "function": "lab.train", "project": "vision",
        "user": "ada", "seconds": 1.0, "expires_unix_ms": null, "file": "incoming/large", "parts_digest": large,
        "inline": null}});
    assert!(program.request(&word)["stored"].is_object());
    assert!(node.ok(&["cache", "verify"]).contains("every byte is as its maker stored it"));

    // The small one is in the log: it comes back. The large one is nowhere else.
    let record = node.home().join("cache/values/4d").join(&small);
    let mut bytes = std::fs::read(&record).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&record, bytes).unwrap();
    let content = node.json(&["cache", "show", &large])["content"].as_str().unwrap().to_owned();
    let blob = node.home().join("blobs/blobs").join(&content[..2]).join(&content);
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, vec![8; 300_000]).unwrap();
    let ran = node.run(&["cache", "verify", "--json"]);
    let told = serde_json::from_str::<Value>(&ran.out).unwrap();
    assert_eq!((ran.code, &told["values"]), (Some(1), &json!(2)), "{told}");
    let damaged = json!([{"key": small, "function": "lab.train", "mended": true},
        {"key": large, "function": "lab.train", "mended": false}]);
    assert_eq!((&told["damaged"], &told["next"]), (&damaged, &Value::Null));
    assert!(program.is_hit(&small) && !program.is_hit(&large));
    assert_eq!(node.run(&["cache", "verify"]).code, Some(0));
}

#[test]
fn a_command_that_computes_again_what_it_finds_is_summed() {
    let node = Node::new();
    let line = r#"{"function":"lab.train","key":"4d","same":false}"#;
    let script = format!("echo $FNODE_CACHE; echo '{line}' >> $FNODE_CACHE_REPORT");
    let ran = node.run(&["cache", "verify", "--sample", "0.5", "--", "sh", "-c", &script]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.out.starts_with("verify:0.5\n1 call of 1 function computed again; these came out otherwise:"),
        "{}",
        ran.out
    );
    let ran = node.run(&["cache", "verify", "--json", "--", "sh", "-c", "echo out; exit 3"]);
    assert_eq!(
        (ran.code, serde_json::from_str::<Value>(&ran.out).unwrap()),
        (Some(1), json!({"calls": 0, "functions": 0, "differ": []}))
    );
    assert!(ran.err.starts_with("out\n"), "{}", ran.err);
    node.refused(&["cache", "verify", "--", "/none/such"], 1, "cannot run /none/such");
    node.refused(&["cache", "verify", "--sample", "2", "--", "true"], 2, "invalid value '2' for '--sample <FRACTION>'");
}
