//! The cache's socket against whole nodes in one process, over loopback: what a program asks, stores and loses; one
//! value on two nodes; one computation between two.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop with a line number")]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::node::{Config, Home, NodeHandle, Running, start};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// Everything here happens within this, or the test fails.
const DEADLINE: Duration = Duration::from_secs(30);

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn home(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn start(&self, name: &str, join: Option<&NodeHandle>) -> Running {
        let join = match join {
            Some(node) => Some(node.invite(Duration::from_secs(60)).await.unwrap()),
            None => None,
        };
        let config = Config {
            join,
            cpu_milli_max: Some(2_000),
            ..Config::on_loopback(Home::new(&self.home(name)), name, PathBuf::from(env!("CARGO_BIN_EXE_fnode")))
        };
        start(config).await.unwrap()
    }

    async fn pair(&self) -> (Running, Running) {
        let one = self.start("one", None).await;
        let two = self.start("two", Some(&one.handle)).await;
        for (node, other) in [(&one, &two), (&two, &one)] {
            until(async || {
                let view = node.handle.view().await.unwrap();
                view.nodes.get(&other.handle.me()).is_some_and(|seen| seen.connected && seen.liveness.is_some())
            })
            .await;
        }
        (one, two)
    }

    /// A program that has connected to a node.
    async fn program(&self, name: &str) -> Program {
        let stream = UnixStream::connect(self.home(name).join("cache.sock")).await.unwrap();
        let (read, write) = stream.into_split();
        Program { lines: BufReader::new(read).lines(), write }
    }

    fn record(&self, name: &str, key: &str) -> PathBuf {
        self.home(name).join("cache/values").join(&key[..2]).join(key)
    }

    /// The value of a record as a program reads it: from the record, or from the blob that it names.
    fn value(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        let bytes = std::fs::read(self.record(name, key)).ok()?;
        let at = bytes.iter().position(|&byte| byte == b'\n')?;
        let line: Value = serde_json::from_slice(&bytes[..at]).unwrap();
        assert_eq!((&line["v"], &line["key"]), (&json!(1), &json!(key)));
        let value = match line["inline"].as_bool() {
            Some(true) => bytes[at + 1..].to_vec(),
            _ => std::fs::read(line["path"].as_str()?).ok()?,
        };
        assert_eq!(line["bytes"], json!(value.len()));
        Some(value)
    }

    /// Writes a file that a program hands over; returns its name.
    fn incoming(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.home(name).join("cache/incoming/ab12"), bytes).unwrap();
        "incoming/ab12".to_owned()
    }
}

struct Program {
    lines: tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    write: tokio::net::unix::OwnedWriteHalf,
}

impl Program {
    async fn send(&mut self, line: &str) {
        self.write.write_all(line.as_bytes()).await.unwrap();
        self.write.write_all(b"\n").await.unwrap();
    }

    async fn answer(&mut self) -> Value {
        let line = tokio::time::timeout(DEADLINE, self.lines.next_line()).await.expect("an answer in time");
        serde_json::from_str(&line.unwrap().expect("an answer")).unwrap()
    }

    async fn request(&mut self, word: Value) -> Value {
        let mut word = word;
        word["id"] = json!(7);
        self.send(&word.to_string()).await;
        let mut answer = self.answer().await;
        assert_eq!(answer["id"], json!(7));
        answer.as_object_mut().unwrap().remove("id");
        answer
    }

    async fn ask(&mut self, key: &str, wait_ms: u64) -> Value {
        self.request(json!({"ask": {"key": key, "function": "lab.f", "project": "p", "wait_ms": wait_ms}})).await
    }

    async fn store(&mut self, key: &str, given: Value) -> Value {
        let mut word = json!({"key": key, "lease": null, "function": "lab.f", "project": "p", "user": "ada",
            "seconds": 1.5, "expires_unix_ms": null, "inline": null, "file": null, "parts_digest": "ab".repeat(32)});
        word.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        self.request(json!({"store": word})).await
    }
}

fn key(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

fn inline(bytes: &[u8]) -> Value {
    use base64::Engine as _;
    json!({"inline": base64::engine::general_purpose::STANDARD.encode(bytes)})
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("it holds in time");
}

async fn end(nodes: impl IntoIterator<Item = Running>) {
    for node in nodes {
        node.handle.shutdown(true).await.unwrap();
        node.ended.await.unwrap();
    }
}

fn is_compute(answer: &Value) -> bool {
    answer["compute"]["lease"].is_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_stored_found_and_purged() {
    let lab = Lab::new();
    let node = lab.start("one", None).await;
    let mut program = lab.program("one").await;
    assert!(is_compute(&program.ask(&key(1), 0).await));
    assert_eq!(program.store(&key(1), inline(b"value")).await, json!({"stored": {"bytes": 5}}));
    assert_eq!(program.ask(&key(1), 0).await, json!({"hit": {}}));
    assert_eq!(lab.value("one", &key(1)), Some(b"value".to_vec()));
    // Larger than what rides in the log, than what lies in a record, and handed over as a file.
    let (middle, large) = (vec![1; 40_000], vec![2; 3 << 20]);
    assert_eq!(program.store(&key(2), inline(&middle)).await, json!({"stored": {"bytes": 40_000}}));
    let file = lab.incoming("one", &large);
    assert_eq!(program.store(&key(3), json!({"file": file})).await, json!({"stored": {"bytes": 3 << 20}}));
    assert!(!lab.home("one").join("cache").join(file).exists(), "it was moved");
    assert_eq!((lab.value("one", &key(2)), lab.value("one", &key(3))), (Some(middle), Some(large.clone())));
    // What is gone or damaged on disk is brought back from what is sound.
    std::fs::remove_file(lab.record("one", &key(1))).unwrap();
    assert_eq!(program.ask(&key(1), 0).await, json!({"hit": {}}));
    assert_eq!(lab.value("one", &key(1)), Some(b"value".to_vec()));
    assert_eq!(program.request(json!({"purge": {"key": key(3)}})).await, json!({"purged": {}}));
    assert_eq!(lab.value("one", &key(3)), None);
    assert!(is_compute(&program.ask(&key(3), 0).await), "a purged value is computed again");
    let file = lab.incoming("one", &large);
    assert_eq!(program.store(&key(3), json!({"file": file})).await, json!({"stored": {"bytes": 3 << 20}}));
    assert_eq!(program.ask(&key(3), 0).await, json!({"hit": {}}), "what is made after a purge is not hidden");
    let socket = lab.home("one").join("cache.sock");
    assert!(is_private(&socket));
    end([node]).await;
    assert!(!socket.exists());
}

fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777 == 0o600
}

#[tokio::test(flavor = "multi_thread")]
async fn one_program_computes_and_its_death_lets_the_next() {
    let lab = Lab::new();
    let node = lab.start("one", None).await;
    let (mut first, mut second) = (lab.program("one").await, lab.program("one").await);
    assert!(is_compute(&first.ask(&key(1), 0).await));
    let busy = second.ask(&key(1), 50).await;
    assert_eq!(busy["busy"]["node"], json!("one"), "{busy}");
    // It waits until the other has stored.
    second.send(&json!({"id": 9, "ask": {"key": key(1), "function": "lab.f", "wait_ms": 30_000}}).to_string()).await;
    first.store(&key(1), inline(b"value")).await;
    assert_eq!(second.answer().await, json!({"id": 9, "hit": {}}));
    // It is gone, or says that it failed: the other computes.
    assert!(is_compute(&first.ask(&key(2), 0).await));
    second.send(&json!({"id": 9, "ask": {"key": key(2), "function": "none", "wait_ms": 30_000}}).to_string()).await;
    drop(first);
    assert!(is_compute(&second.answer().await));
    let mut third = lab.program("one").await;
    third.send(&json!({"id": 9, "ask": {"key": key(2), "function": "none", "wait_ms": 30_000}}).to_string()).await;
    assert_eq!(second.request(json!({"drop": {"key": key(2), "lease": "x"}})).await, json!({"dropped": {}}));
    assert!(is_compute(&third.answer().await));
    end([node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_that_wait_for_each_other_both_end() {
    let lab = Lab::new();
    let node = lab.start("one", None).await;
    let (mut first, mut second) = (lab.program("one").await, lab.program("one").await);
    assert!(is_compute(&first.ask(&key(1), 0).await));
    assert!(is_compute(&second.ask(&key(2), 0).await));
    let ask = |key: String| json!({"id": 9, "ask": {"key": key, "function": "none", "wait_ms": 60_000}}).to_string();
    first.send(&ask(key(2))).await;
    second.send(&ask(key(1))).await;
    // Whoever is told first need not wait, and ends what the other waits for.
    let alone = json!({"id": 9, "alone": {}});
    let (told, is_first) = tokio::select! {
        told = first.answer() => (told, true),
        told = second.answer() => (told, false),
    };
    let (mut lucky, held, mut other) = if is_first { (first, key(1), second) } else { (second, key(2), first) };
    assert_eq!(told, alone);
    lucky.store(&held, inline(b"value")).await;
    let told = other.answer().await;
    assert!(told == json!({"id": 9, "hit": {}}) || told == alone, "{told}");
    end([node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_lines_are_told_and_the_program_may_go_on() {
    let lab = Lab::new();
    let node = lab.start("one", None).await;
    let mut program = lab.program("one").await;
    program.send("no json").await;
    let answer = program.answer().await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!("wrong_line")));
    let store = |more: Value| (key(1), more);
    let wrong = [
        store(json!({"file": "../../identity"})),
        store(json!({"file": "incoming/../../identity"})),
        store(json!({"file": "/etc/passwd"})),
        store(json!({"file": "incoming/none"})),
        store(json!({"inline": "no base64!"})),
        store(json!({"inline": null})),
        store(json!({"inline": "AAAA", "seconds": -1.0})),
        store(json!({"inline": "AAAA", "parts_digest": "x"})),
        store(json!({"inline": "AAAA", "function": "f".repeat(2_000)})),
        ("AB".repeat(32), inline(b"value")),
        ("../../../identity".to_owned(), inline(b"value")),
    ];
    for (key, more) in wrong {
        let answer = program.store(&key, more.clone()).await;
        assert_eq!(answer["error"]["code"], json!("wrong_line"), "{more}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| !text.contains('\n')), "{answer}");
    }
    assert!(lab.home("one").join("identity").exists());
    assert!(is_compute(&program.ask(&key(1), 0).await), "the connection is good, and nothing was stored");
    program.send(&"x".repeat((1 << 20) + 1)).await;
    assert_eq!(program.answer().await["error"]["code"], json!("too_long"));
    assert_eq!(program.lines.next_line().await.unwrap_or(None), None, "who sends this is not heard any more");
    end([node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_programs_kept_without_a_daemon_is_taken_over() {
    let lab = Lab::new();
    end([lab.start("one", None).await]).await;
    let (small, large) = (b"small".to_vec(), vec![3; 100_000]);
    let keep = |key: &str, bytes: &[u8], inline: bool| {
        let path = lab.record("one", key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let beside = path.with_extension("value");
        let body = if inline { bytes } else { std::fs::write(&beside, bytes).map(|()| &[][..]).unwrap() };
        let seen = std::fs::metadata(&beside)
            .ok()
            .map(|meta| json!({"inode": meta.ino(), "mtime_ns": meta.mtime() * 1_000_000_000 + meta.mtime_nsec()}));
        let line = json!({"v": 1, "key": key, "function": "lab.f", "made_unix_ms": 5, "seconds": 1.5, "user": "ada",
            "project": "p", "node": null, "expires_unix_ms": null, "bytes": bytes.len(), "inline": inline,
            "blob": null, "path": if inline { None } else { Some(&beside) }, "seen": seen});
        std::fs::write(&path, [line.to_string().as_bytes(), b"\n", body].concat()).unwrap();
    };
    keep(&key(1), &small, true);
    keep(&key(2), &large, false);
    std::fs::write(lab.home("one").join("cache.sock"), "stale").unwrap();
    let one = lab.start("one", None).await;
    let two = lab.start("two", Some(&one.handle)).await;
    for (key, value) in [(key(1), small), (key(2), large)] {
        let mut program = lab.program("two").await;
        until(async || {
            let found = program.ask(&key, 0).await == json!({"hit": {}});
            if !found {
                program.request(json!({"drop": {"key": key, "lease": null}})).await;
            }
            found
        })
        .await;
        assert_eq!(lab.value("two", &key), Some(value.clone()));
        // A record that is under way, or was removed while it was, is written when a program asks.
        let mut program = lab.program("one").await;
        until(async || program.ask(&key, 0).await == json!({"hit": {}})).await;
        assert_eq!(lab.value("one", &key), Some(value));
    }
    end([two, one]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_one_node_is_a_hit_on_the_other_and_purged_on_both() {
    let lab = Lab::new();
    let (one, two) = lab.pair().await;
    let (mut here, mut there) = (lab.program("one").await, lab.program("two").await);
    let large = vec![4; 2 << 20];
    for (key, bytes) in [(key(1), b"value".to_vec()), (key(2), vec![5; 40_000]), (key(3), large)] {
        assert!(is_compute(&here.ask(&key, 0).await));
        let given = if bytes.len() > 65_536 { json!({"file": lab.incoming("one", &bytes)}) } else { inline(&bytes) };
        assert_eq!(here.store(&key, given).await["stored"]["bytes"], json!(bytes.len()));
        assert_eq!(there.ask(&key, 5_000).await, json!({"hit": {}}), "its entry is waited for");
        assert_eq!(lab.value("two", &key), Some(bytes.clone()));
        // A disk of the second node damages it: it is brought again.
        if bytes.len() > 65_536 {
            let text = std::fs::read_to_string(lab.record("two", &key)).unwrap();
            let line: Value = serde_json::from_str(&text).unwrap();
            let path = Path::new(line["path"].as_str().unwrap());
            let mut damaged = bytes.clone();
            damaged[1_000] ^= 1;
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, damaged).unwrap();
            assert_eq!(there.ask(&key, 0).await, json!({"hit": {}}));
            assert_eq!(lab.value("two", &key), Some(bytes));
        }
    }
    assert_eq!(there.request(json!({"purge": {"key": key(3)}})).await, json!({"purged": {}}));
    until(async || !lab.record("one", &key(3)).exists()).await;
    assert!(is_compute(&here.ask(&key(3), 0).await));
    end([two, one]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_want_one_key_at_once_compute_it_once() {
    let lab = Lab::new();
    let (one, two) = lab.pair().await;
    let (mut here, mut there) = (lab.program("one").await, lab.program("two").await);
    // Keys that the one and the other node keeps.
    for number in 1..9 {
        let key = key(number);
        let (first, second) = tokio::join!(here.ask(&key, 0), there.ask(&key, 0));
        assert!(is_compute(&first) != is_compute(&second), "{first} {second}");
        let (computes, waits) = if is_compute(&first) { (&mut here, &mut there) } else { (&mut there, &mut here) };
        let ask = json!({"id": 9, "ask": {"key": key, "function": "none", "wait_ms": 60_000}});
        waits.send(&ask.to_string()).await;
        computes.store(&key, inline(&[number])).await;
        assert_eq!(waits.answer().await, json!({"id": 9, "hit": {}}));
    }
    end([two, one]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_away_while_it_computes_is_taken_over() {
    let lab = Lab::new();
    let (one, two) = lab.pair().await;
    let (mut here, mut there) = (lab.program("one").await, lab.program("two").await);
    for number in 1..5 {
        assert!(is_compute(&there.ask(&key(number), 0).await));
    }
    end([two]).await;
    for number in 1..5 {
        let answer = here.ask(&key(number), 25_000).await;
        assert!(is_compute(&answer) || answer == json!({"alone": {}}), "{answer}");
    }
    end([one]).await;
}
