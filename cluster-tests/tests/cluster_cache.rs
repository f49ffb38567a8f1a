//! Cached values while nodes die: a value is whole or not there at all, bytes that a disk has changed are nobody's
//! value, and whoever waits for somebody who is gone computes. Nodes are processes that are killed with SIGKILL; the test is the
//! programs, and speaks to each node's socket as the Python package does.

mod lab;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use lab::network::Network;
use lab::output::text;
use lab::{LATE, Lab, SOON, wait_for};
use proto::NodeId;
use serde_json::{Value, json};

/// A value that takes a while to move, and is no multiple of anything.
const LARGE: usize = (16 << 20) + 13;

/// A program that uses the cache of one node.
struct Program {
    stream: BufReader<UnixStream>,
    home: PathBuf,
}

impl Program {
    fn of(lab: &Lab, node: usize) -> Self {
        let home = lab.home(node).to_owned();
        let stream = wait_for("the cache's socket answers", SOON, || UnixStream::connect(home.join("cache.sock")).ok());
        stream.set_read_timeout(Some(LATE)).expect("a socket has a timeout");
        Self { stream: BufReader::new(stream), home }
    }

    fn send(&mut self, word: &Value) {
        let mut word = word.clone();
        word["id"] = json!(1);
        self.stream.get_mut().write_all(format!("{word}\n").as_bytes()).expect("the daemon reads");
    }

    /// `None`: the daemon is gone.
    fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).ok().filter(|&read| read > 0)?;
        Some(serde_json::from_str(&line).expect("an answer is JSON"))
    }

    fn send_ask(&mut self, key: &str) {
        self.send(&json!({"ask": {"key": key, "function": "lab.f", "project": "p", "user": "ada", "wait_ms": 60_000}}));
    }

    fn ask(&mut self, key: &str) -> Value {
        self.send_ask(key);
        self.answer().expect("the daemon answers")
    }

    fn send_store(&mut self, key: &str, bytes: &[u8]) {
        std::fs::write(self.home.join("cache/incoming/value"), bytes).expect("a file can be written");
        self.send(&json!({"store": {"key": key, "lease": null, "function": "lab.f", "project": "p", "user": "ada",
            "seconds": 1.5, "expires_unix_ms": null, "inline": null, "file": "incoming/value", "parts_digest": key}}));
    }

    fn store(&mut self, key: &str, bytes: &[u8]) {
        self.send_store(key, bytes);
        let answer = self.answer().expect("the daemon answers");
        assert_eq!(answer["stored"]["bytes"], bytes.len(), "{answer}");
    }

    /// As a program reads it: a file that is not as its record says was changed, and is no value.
    fn value(&self, key: &str) -> Option<Vec<u8>> {
        let record = std::fs::read(self.home.join("cache/values").join(&key[..2]).join(key)).ok()?;
        let (line, rest) = record.split_at(record.iter().position(|&byte| byte == b'\n')? + 1);
        let line: Value = serde_json::from_slice(line).expect("a record is JSON");
        match line["inline"].as_bool() {
            Some(true) => Some(rest.to_vec()),
            _ => {
                let path = line["path"].as_str()?;
                let meta = std::fs::metadata(path).ok()?;
                let mtime_ns = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
                let is_as_seen = line["seen"] == json!({"inode": meta.ino(), "mtime_ns": mtime_ns});
                is_as_seen.then(|| std::fs::read(path).expect("a value that is here can be read"))
            }
        }
    }

    /// The value's bytes, from this node's disk or fetched; `None`: it has to be computed.
    fn got(&mut self, key: &str) -> Option<Vec<u8>> {
        let answer = self.ask(key);
        if answer["hit"].is_object() {
            return Some(self.value(key).expect("a hit is there"));
        }
        assert!(answer["compute"].is_object() || answer["alone"].is_object(), "{answer}");
        self.send(&json!({"drop": {"key": key, "lease": null}}));
        self.answer();
        None
    }
}

fn key(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

/// Bytes that differ everywhere, so that a piece in the wrong place is noticed.
fn large(seed: u8) -> Vec<u8> {
    (0..LARGE).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

fn blob_path(lab: &Lab, node: usize, key: &str) -> PathBuf {
    let content = text(&lab.json(0, &["cache", "show", key]), "content").to_owned();
    lab.home(node).join("blobs/blobs").join(&content[..2]).join(content)
}

/// How far storing has come, in words and as the test sees it.
type Stage = (&'static str, fn(&Lab) -> bool);

#[test]
fn a_value_is_whole_or_not_there_when_its_daemon_is_killed_while_it_stores() {
    let mut lab = Lab::start(2);
    let bytes = large(1);
    let stages: [Stage; 3] = [
        ("it was told", |_| true),
        ("the file was taken", |lab| !lab.home(0).join("cache/incoming/value").exists()),
        ("it was told in the log", |lab| {
            lab.json(1, &["cache", "list"])["values"].as_array().is_some_and(|all| !all.is_empty())
        }),
    ];
    for (number, (what, reached)) in (1..).zip(stages) {
        let key = key(number);
        let mut program = Program::of(&lab, 0);
        program.send_store(&key, &bytes);
        wait_for(what, SOON, || reached(&lab).then_some(()));
        lab.kill9(0);
        let is_stored = program.answer().is_some_and(|answer| answer["stored"].is_object());
        lab.restart(0);
        lab.wait_for_members(&[0, 1]);
        for node in [0, 1] {
            let got = Program::of(&lab, node).got(&key);
            assert!(got.is_some() || !is_stored, "killed when {what}: n{node} lost what it had said is stored");
            assert!(got.is_none_or(|got| got == bytes), "killed when {what}: n{node} has something else");
        }
        // And it can be stored again.
        Program::of(&lab, 0).store(&key, &bytes);
        assert!(Program::of(&lab, 1).got(&key).is_some_and(|got| got == bytes));
        lab.fnode(0, &["cache", "purge", &key]).ok();
        wait_for("the purge is everywhere", SOON, || (lab.fnode(1, &["cache", "show", &key]).code == 1).then_some(()));
    }
}

#[test]
fn a_value_whose_only_holder_dies_while_it_is_fetched_is_computed() {
    let mut lab = Lab::start(2);
    let (key, bytes) = (key(1), large(2));
    Program::of(&lab, 0).store(&key, &bytes);
    wait_for("the other node knows of it", SOON, || (lab.fnode(1, &["cache", "show", &key]).code == 0).then_some(()));
    let mut program = Program::of(&lab, 1);
    program.send_ask(&key);
    // Once it is under way, or, on a fast machine, done.
    let partial = lab.home(1).join("blobs/partial");
    let is_begun = || {
        let files = std::fs::read_dir(&partial).into_iter().flatten().count();
        (files > 0 || program.value(&key).is_some()).then_some(())
    };
    wait_for("the fetch begins", SOON, is_begun);
    lab.kill_host(0);
    let answer = program.answer().expect("the asking node lives");
    match answer["hit"].is_object() {
        true => assert!(program.value(&key).expect("a hit is there") == bytes),
        false => assert!(answer["compute"].is_object() || answer["alone"].is_object(), "{answer}"),
    }
    program.store(&key, &bytes);
    assert!(program.got(&key).is_some_and(|got| got == bytes));
}

#[test]
fn bytes_that_a_disk_has_changed_are_nobodys_value() {
    let lab = Lab::start(3);
    let (key, bytes) = (key(1), large(3));
    Program::of(&lab, 0).store(&key, &bytes);
    let poison = |node: usize| {
        let path = blob_path(&lab, node, &key);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("the blob is there");
        let mut wrong = bytes.clone();
        wrong[LARGE / 2] ^= 1;
        std::fs::write(&path, wrong).expect("the blob can be written");
    };
    wait_for("n1 has it, too", SOON, || Program::of(&lab, 1).got(&key));
    assert!(Program::of(&lab, 0).value(&key).is_some_and(|got| got == bytes), "a hit asks nobody");
    poison(0);
    assert_eq!(Program::of(&lab, 0).value(&key), None, "what was changed in place is no hit");
    assert!(Program::of(&lab, 2).got(&key).is_some_and(|got| got == bytes), "n1 has it whole");
    // Now no whole copy is left: it is computed, once, and that is what all find.
    std::fs::remove_file(blob_path(&lab, 2, &key)).expect("the blob is there");
    poison(1);
    let mut program = Program::of(&lab, 2);
    assert_eq!(program.got(&key), None);
    program.store(&key, &bytes);
    for node in [0, 1] {
        assert!(Program::of(&lab, node).got(&key).is_some_and(|got| got == bytes), "n{node} mends its copy");
    }
}

#[test]
fn what_another_node_has_goes_first_last_copies_go_last_and_kept_ones_stay() {
    const BYTES: usize = 100_000;
    let lab = Lab::start(2);
    let (mut here, mut there) = (Program::of(&lab, 0), Program::of(&lab, 1));
    let ids = [0, 1].map(|node| -> NodeId { text(&lab.json(node, &["status"])["node"], "id").parse().expect("an id") });
    let (mut spare, mut last) = (Vec::new(), Vec::new());
    for number in 1..=12 {
        let key = key(number);
        here.store(&key, &[number; BYTES]);
        // Every second one gets a second copy; of these, one node each keeps it longest.
        let is_shared = number % 2 == 0;
        if is_shared {
            assert!(there.got(&key).is_some());
        }
        let longest = proto::lease::keeper(key.parse().expect("a key"), ids.into_iter());
        let is_spare = is_shared && longest != Some(ids[0]);
        if is_spare { &mut spare } else { &mut last }.push(key);
    }
    let has = |program: &Program, keys: &[String]| keys.iter().filter(|key| program.value(key).is_some()).count();
    assert!(last.len() >= 6, "those that are here alone");

    let max = (last.len() * BYTES).to_string();
    let freed = lab.json(0, &["cache", "gc", "--max-size", &max]);
    assert_eq!((&freed["values"], has(&here, &spare), has(&here, &last)), (&json!(spare.len()), 0, last.len()));
    // Those that were used least were last copies, but one of them is kept.
    lab.fnode(1, &["cache", "keep", &last[0]]).ok();
    wait_for("the word is heard", SOON, || {
        (lab.json(0, &["cache", "show", &last[0]])["is_kept"] == true).then_some(())
    });
    let freed = lab.json(0, &["cache", "gc", "--max-size", "0"]);
    assert_eq!((&freed["values"], has(&here, &last)), (&json!(last.len() - 1), 1));
    assert!(here.value(&last[0]).is_some());
    lab.fnode(0, &["cache", "keep", &last[0], "--undo"]).ok();
    assert_eq!(lab.json(0, &["cache", "gc", "--max-size", "0"])["values"], 1);
    assert_eq!(has(&there, &spare), spare.len(), "what one had to spare, the other still has");
}

#[test]
fn of_three_nodes_that_want_one_value_one_computes_and_a_dead_one_is_replaced() {
    let mut lab = Lab::start(3);
    let key = key(1);
    let mut waiting: Vec<(usize, Program)> = (0..3).map(|node| (node, Program::of(&lab, node))).collect();
    waiting.iter_mut().for_each(|(_, program)| program.send_ask(&key));
    // Two die computing; the third one's turn comes each time.
    for _ in 0..2 {
        let at =
            wait_for("one is told to compute", LATE, || waiting.iter_mut().position(|(_, program)| is_told(program)));
        let answer = waiting[at].1.answer().expect("it is there");
        assert!(answer["compute"].is_object(), "{answer}");
        assert!(
            !waiting.iter_mut().enumerate().any(|(other, (_, program))| other != at && is_told(program)),
            "one alone"
        );
        if waiting.len() == 2 {
            // This one gets there.
            waiting[at].1.store(&key, b"a value");
            let (_, mut last) = waiting.remove(1 - at);
            assert!(last.answer().is_some_and(|answer| answer["hit"].is_object()));
            assert_eq!(last.value(&key), Some(b"a value".to_vec()));
            return;
        }
        let (node, program) = waiting.remove(at);
        lab.kill_host(node);
        drop(program);
    }
}

/// Whether an answer is there to be read.
fn is_told(program: &mut Program) -> bool {
    let stream = program.stream.get_ref();
    stream.set_nonblocking(true).expect("a socket can be so");
    let is_there = program.stream.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
    program.stream.get_ref().set_nonblocking(false).expect("a socket can be so");
    is_there
}

#[test]
fn both_sides_of_a_partition_compute_and_agree_on_one_value_once_it_heals() {
    let Some(network) = Network::or_skip(2) else { return };
    let lab = Lab::start_on(network, 4);
    let key = key(1);
    lab.network().part();
    lab.wait_until_missed(0, 2);
    lab.wait_until_missed(3, 1);
    for (node, bytes) in [(0, b"left"), (3, b"righ")] {
        let mut program = Program::of(&lab, node);
        assert_eq!(program.got(&key), None, "nobody here has it");
        program.store(&key, bytes);
    }
    for (node, bytes) in [(1, b"left"), (2, b"righ")] {
        assert_eq!(Program::of(&lab, node).got(&key), Some(bytes.to_vec()), "each side finds its own");
    }
    lab.network().heal();
    lab.wait_for_members(&[0, 1, 2, 3]);
    let contents = || (0..4).map(|node| lab.json(node, &["cache", "show", &key])["content"].clone());
    wait_for("all four tell the same", SOON, || {
        let all: Vec<Value> = contents().collect();
        all.iter().all(|content| *content == all[0]).then_some(())
    });
    let got: Vec<_> = (0..4).map(|node| Program::of(&lab, node).got(&key)).collect();
    assert!(got.iter().all(|value| value.is_some() && *value == got[0]), "{got:?}");
}
