//! Wrong input and unhelpful machines: each costs one line that says what to do, and leaves nothing half done.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod harness;

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use harness::{Node, START, write};
use serde_json::json;

/// A small file system in memory, gone with its value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with the reason printed: this user may not mount.
    fn mount(mebibytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "fnode-t"]).arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            Ok(output) => {
                println!("skipped: no small disk: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: no small disk: mount: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still have a file open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn nothing_was_submitted(node: &Node) {
    assert_eq!(node.json(&["jobs", "--all"])["jobs"], json!([]), "nothing was left half done");
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let node = Node::of_nobody();
    node.start(&["--name", "alpha"]);
    let dir = node.file("mnist");
    write(&dir.join("train.py"), "");
    write(&dir.join("sub/secret"), "x");
    mode(&dir.join("sub/secret"), 0o000);
    let (path, remedy) = (dir.to_str().unwrap(), "change its permissions, or leave it out with .fnodeignore");
    let submit = ["submit", path, "--", "true"];
    node.refused(&submit, 1, &format!("cannot read {path}/sub/secret: Permission denied (os error 13); {remedy}"));
    mode(&dir.join("sub"), 0o000);
    let ran = node.run(&submit);
    mode(&dir.join("sub"), 0o755);
    assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 1), "{}", ran.err);
    assert!(ran.err.contains(&format!("cannot read {path}/sub")) && ran.err.ends_with(&format!("{remedy}\n")));
    nothing_was_submitted(&node);
    // What the line says helps.
    write(&dir.join(".fnodeignore"), "secret\n");
    node.ok(&["submit", path, "--wait", "--", "true"]);
}

#[test]
fn a_directory_that_may_not_be_written_is_no_place_for_a_node() {
    let node = Node::of_nobody();
    let closed = node.file("closed");
    std::fs::create_dir(&closed).unwrap();
    mode(&closed, 0o555);
    let home = closed.join("home");
    let detached = [&START[..], &["--home", home.to_str().unwrap()]].concat();
    let here: Vec<&str> = detached.iter().copied().filter(|word| *word != "--detach").collect();
    for words in [&detached, &here] {
        let ran = node.run(words);
        assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 1), "{}", ran.err);
        let says = [home.to_str().unwrap(), "ermission denied", "another", "--home"];
        assert!(says.iter().all(|part| ran.err.contains(part)), "{}", ran.err);
    }
    assert!(!home.exists());
    // A configuration that may not be read is not taken for none.
    write(&node.home().join("config.toml"), "name = \"beta\"\n");
    mode(&node.home().join("config.toml"), 0o000);
    let line = format!("cannot read {}/config.toml: permission denied; change its permissions", node.home().display());
    node.refused(&["config", "show"], 1, &line);
}

#[test]
fn a_bundle_larger_than_the_disk_is_refused_before_it_is_written() {
    // The node keeps 256 MiB free for its journal.
    let Some(disk) = SmallDisk::mount(256 + 48) else { return };
    let node = Node::new_in(disk.0.path());
    node.start(&["--name", "alpha"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let dir = elsewhere.path().join("mnist");
    write(&dir.join("small"), "x");
    std::fs::File::create(dir.join("large")).unwrap().set_len(96 << 20).unwrap();
    let path = dir.to_str().unwrap();
    let ran = node.run(&["submit", path, "--", "true"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.lines().count()), (Some(1), "", 1), "{}", ran.err);
    assert!(ran.err.contains("has 96.0 MiB that the node does not have yet, and its disk has"), "{}", ran.err);
    assert!(ran.err.contains("leave files out with .fnodeignore, or free some space (fnode gc)"), "{}", ran.err);
    nothing_was_submitted(&node);
    // The node goes on: without the large file there is room.
    write(&dir.join(".fnodeignore"), "large\n");
    node.ok(&["submit", path, "--wait", "--", "test", "-e", "small"]);
}

#[test]
fn a_command_that_no_node_has_fails_with_its_name() {
    let node = Node::started("alpha");
    let words = ["submit", "--no-bundle", "--project", "p", "--propagate", "--", "no-such-program", "-x"];
    let ran = node.run(&words);
    assert_eq!(ran.code, Some(127), "{}{}", ran.out, ran.err);
    let says = "command not found: \"no-such-program\" is neither in the bundle nor on the node's PATH";
    assert!(ran.out.contains(says), "{}{}", ran.out, ran.err);
    let dir = node.file("scripts");
    write(&dir.join("run.sh"), "#!/bin/sh\n");
    let ran = node.run(&["submit", dir.to_str().unwrap(), "--propagate", "--", "./run.sh"]);
    assert_eq!(ran.code, Some(126), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("not executable: \"./run.sh\"; chmod +x it, or name its interpreter"), "{}", ran.out);
}

#[test]
fn requirements_that_do_not_install_fail_the_job_with_the_words_of_the_tool() {
    let can = Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        println!("skipped: python3 -m venv cannot be used here (on Debian: apt-get install python3-venv)");
        return;
    }
    let node = Node::started("alpha");
    let dir = node.file("mnist");
    write(&dir.join("train.py"), "");
    write(&dir.join("broken-1.0-py3-none-any.whl"), "not a package");
    write(&dir.join("requirements.txt"), "--no-index\n./broken-1.0-py3-none-any.whl\n");
    let ran = node.run(&["submit", dir.to_str().unwrap(), "--wait", "--", "python", "train.py"]);
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("failed: ") && ran.out.contains("environment"), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("broken"), "{}{}", ran.out, ran.err);
    let job = &node.json(&["jobs"])["jobs"][0];
    let shown = node.json(&["job", "show", job["id"].as_str().unwrap()]);
    assert_eq!(shown["ending"]["reason"], "environment");
}

#[test]
fn lengths_of_time_are_told_apart_from_words() {
    let node = Node::new();
    for words in [
        ["job", "wait", "x", "--timeout"],
        ["jobs", "--all", "--json", "--age"],
        ["gc", "--json", "--home=x", "--older-than"],
        ["invite", "--json", "--home=x", "--ttl"],
    ] {
        let flag = words[3];
        for (value, says) in [
            ("soon", "not a duration; write for example 90s, 15m, 2h or 3d"),
            ("0s", "zero is not a duration"),
            ("-5m", "not a duration"),
            ("5 parsecs", "not a duration"),
            ("99999999999999999999d", "not a duration"),
            ("400d", "longer than 365 days"),
            ("", "not a duration"),
        ] {
            let ran = node.run(&[&words[..], &[value]].concat());
            assert_eq!((ran.code, ran.err.lines().count()), (Some(2), 1), "{words:?} {value}: {}", ran.err);
            assert!(ran.err.contains(says) && ran.err.contains(flag), "{words:?} {value}: {}", ran.err);
        }
    }
    // A length of time or a point in time.
    for value in ["soon", "-5m", "5 parsecs", "2026-13-01", ""] {
        let ran = node.run(&["logs", "x", "--since", value]);
        assert_eq!((ran.code, ran.err.lines().count()), (Some(2), 1), "{value}: {}", ran.err);
        assert!(ran.err.contains("--since"), "{value}: {}", ran.err);
    }
}

#[test]
fn an_invitation_does_not_last_for_ever() {
    let node = Node::started("alpha");
    node.refused(&["invite", "--ttl", "31d"], 2, "a ticket may be used for 1 s to 30 days; give another --ttl");
}

#[test]
fn words_that_are_not_text_are_refused() {
    let node = Node::new();
    let odd = || OsString::from_vec(vec![b'a', 0xff]);
    for words in [
        vec!["submit".into(), "--no-bundle".into(), "--".into(), odd()],
        vec!["submit".into(), "--name".into(), odd(), "--".into(), "true".into()],
        vec!["logs".into(), odd()],
        vec![odd()],
    ] {
        let ran = node.run(&words);
        assert_eq!((ran.code, ran.err.lines().count()), (Some(2), 1), "{words:?}: {}", ran.err);
        assert!(ran.err.starts_with("fnode: ") && ran.err.contains("see fnode"), "{words:?}: {}", ran.err);
    }
    let dir = [OsString::from("submit"), node.file("nowhere").join(odd()).into(), "--".into(), "true".into()];
    let ran = node.run(&dir);
    assert_eq!((ran.code, ran.err.lines().count()), (Some(2), 1), "{}", ran.err);
    assert!(ran.err.contains("no such directory"), "{}", ran.err);
}

#[test]
fn a_configuration_that_cannot_be_meant_is_told_with_its_line() {
    let node = Node::new();
    let path = node.home().join("config.toml");
    let refused = |says: &str| {
        for words in [&["config", "show"][..], &["start", "--detach", "--no-mdns", "--api", "0"]] {
            let ran = node.run(words);
            assert_eq!((ran.code, ran.err.lines().count()), (Some(2), 1), "{words:?} {says}: {}", ran.err);
            assert!(ran.err.contains("config.toml") && ran.err.contains(says), "{words:?} {says}: {}", ran.err);
        }
        assert!(!node.home().join("cluster.json").exists(), "nothing was left half done");
    };
    for (text, says) in [
        ("name = \"a\ncpus = 1\n", "line 1"),
        ("\n\nmdns = \"perhaps\"\n", "line 3"),
        ("labels = [1]\n", "line 1"),
        ("cpus = 0\n", "more than 0 CPUs"),
        ("cpus = \"many\"\n", "not a number of CPUs"),
        ("memory = -1\n", "not a size"),
        ("memory = \"9999TiB\"\n", "more than any machine has"),
        ("name = \"a b\"\n", "a node's name has"),
        ("listen = \"nowhere\"\n", "not an address"),
        ("listen = 99999\n", ""),
        ("[labels]\n\"\" = \"x\"\n", "label"),
        ("name = 1\nname = 2\n", "line"),
    ] {
        write(&path, text);
        refused(says);
    }
    std::fs::write(&path, [b'n', 0xff, b'\n']).unwrap();
    let ran = node.run(&["config", "show"]);
    assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 1), "{}", ran.err);
    assert!(ran.err.contains("config.toml"), "{}", ran.err);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let ran = node.run(&["config", "show"]);
    assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 1), "{}", ran.err);
    assert!(ran.err.contains("config.toml"), "{}", ran.err);
}

#[test]
fn a_pattern_that_is_none_is_told_with_its_line() {
    let node = Node::started("alpha");
    let dir = node.file("mnist");
    write(&dir.join("train.py"), "");
    let path = dir.to_str().unwrap();
    for pattern in ["[z-a]", "a{b", "***[", "\\"] {
        write(&dir.join(".fnodeignore"), &format!("*.pyc\n{pattern}\n"));
        let ran = node.run(&["submit", path, "--wait", "--", "true"]);
        match ran.code {
            // A pattern that git takes literally.
            Some(0) => {}
            code => {
                assert_eq!((code, ran.err.lines().count()), (Some(1), 1), "{pattern}: {}", ran.err);
                assert!(ran.err.contains(".fnodeignore") && ran.err.contains("line 2"), "{pattern}: {}", ran.err);
            }
        }
    }
    write(&dir.join(".fnodeignore"), "[z-a]\n");
    let ran = node.run(&["submit", path, "--", "true"]);
    assert_eq!(ran.code, Some(1), "a range that ends before it begins: {}{}", ran.out, ran.err);
}

#[test]
fn a_damaged_data_directory_is_named_with_a_way_out() {
    for (file, text) in [("cluster.json", "{\"version\":1"), ("cluster.json", ""), ("identity", "hello\n")] {
        let node = Node::started("alpha");
        let found = std::fs::read_dir(node.home()).unwrap().flatten().map(|entry| entry.file_name());
        let names: Vec<String> = found.filter_map(|name| name.into_string().ok()).collect();
        assert!(names.iter().any(|name| name == file), "{names:?}");
        node.ok(&["shutdown"]);
        write(&node.home().join(file), text);
        let ran = node.run(&START);
        assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 1), "{file} {text:?}: {}", ran.err);
        let says = ["restore it from a backup", file];
        assert!(says.iter().all(|part| ran.err.contains(part)), "{file} {text:?}: {}", ran.err);
    }
}

#[test]
fn what_cannot_be_is_told_by_its_name() {
    let node = Node::started("alpha");
    let submit = |args: &[&str], line: &str| {
        let all = [&["submit", "--no-bundle"], args, &["--", "true"]].concat();
        let ran = node.run(&all);
        assert_eq!((ran.code, ran.err.lines().count()), (Some(2), 1), "{args:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(line), "{args:?}: {}", ran.err);
    };
    submit(
        &["--array", "0-99999999999"],
        "index 99999999999 is larger than any array has; an index is at most 4294967295",
    );
    submit(&["--array", "1-x"], "is not a list of indices; write for example");
    submit(&["--gpus", "99999"], "more than any machine has; ask for at most 256");
    submit(&["--gpus", "some"], "not a number of GPUs");
    for blank in ["", " ", " \t"] {
        submit(&["--project", blank], "the project has no name");
    }
    let odd = OsString::from_vec(vec![b'a', 0xff]);
    let args = ["job", "show"].map(OsString::from);
    let ran = node.run(&[&args[..], &[odd]].concat());
    assert_eq!((ran.code, ran.err.lines().count()), (Some(2), 1), "{}", ran.err);
    assert!(ran.err.starts_with("fnode: the argument \"a\u{fffd}\" is not UTF-8 text"), "{}", ran.err);
    for path in ["/jobs/%FF", "/projects/%FF", "/api/v2beta/projects/%FF/job_listing"] {
        let answer = node.http(&format!("GET {path}"), b"");
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["code"]), (400, &json!("bad_input")), "{path}: {answer:?}");
        assert!(error["message"].as_str().unwrap().contains("Invalid UTF-8"), "{error}");
    }
}

#[test]
fn what_is_done_is_told_with_its_ids() {
    let node = Node::started("alpha");
    let id = node.submit(&["--array", "1-2"], &["true"]);
    node.completed(&id);
    let me = node.json(&["node", "show", "alpha"])["id"].clone();
    let one = format!("{id}/1");
    for (args, action, key, of) in [
        (&["job", "tag", &one, "a=b"][..], "mark", "job", json!(one)),
        (&["job", "note", &id, "hi"], "mark", "job", json!(id)),
        (&["job", "archive", &id], "mark", "job", json!(id)),
        (&["node", "drain", "alpha"], "drain", "node", me.clone()),
        (&["node", "undrain", "alpha"], "undrain", "node", me.clone()),
        (&["node", "label", "alpha", "x=1"], "label", "node", me.clone()),
        (&["pause"], "pause", "node", me.clone()),
        (&["resume"], "resume", "node", me),
        (&["project", "note", "test", "hi"], "note", "project", json!("test")),
        (&["job", "delete", &id], "delete", "job", json!(id)),
    ] {
        let done = node.json(args);
        assert_eq!((&done["action"], &done[key]), (&json!(action), &of), "{args:?}: {done}");
    }
}

/// A start that failed leaves nothing that the next one would take for a node's life.
#[test]
fn a_first_start_that_fails_leaves_no_node_behind() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = busy.local_addr().unwrap().to_string();
    let node = Node::new();
    let ran = node.run(&["start", "--detach", "--listen", &addr, "--api", "0", "--no-mdns", "--gpus", "0"]);
    assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 1), "{}", ran.err);
    assert!(ran.err.contains("the port is in use"), "{}", ran.err);
    for name in ["identity", "cluster.json", "store"] {
        assert!(!node.home().join(name).exists(), "{name} was left behind");
    }
    node.start(&["--name", "alpha"]);
    let id = std::fs::read(node.home().join("identity")).unwrap();
    node.ok(&["shutdown"]);
    assert_eq!(
        node.run(&["start", "--detach", "--listen", &addr, "--api", "0", "--no-mdns", "--gpus", "0"]).code,
        Some(1)
    );
    assert_eq!(std::fs::read(node.home().join("identity")).unwrap(), id, "a node that was one stays it");
    node.start(&["--name", "alpha"]);
}
