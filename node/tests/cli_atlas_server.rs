//! The command `atlas-server`, and `foundations setup`: this machine's node under the words that Atlas's users know.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod harness;

use harness::{Node, Ran};
use serde_json::json;

const NO_SERVER: &str = "Cannot currently find Atlas server. Start Atlas server with `atlas-server start`.\n";

/// Runs a command with variables; its node takes free ports and looks for no other.
fn run(node: &Node, name: &str, args: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = node.named(name, args);
    command.envs([("FNODE_LISTEN", "127.0.0.1:0"), ("FNODE_MDNS", "false"), ("FNODE_API", "0")]);
    Ran::of(&command.envs(variables.iter().copied()).output().unwrap())
}

#[track_caller]
fn ok(node: &Node, args: &[&str], variables: &[(&str, &str)]) -> String {
    let ran = run(node, "atlas-server", args, variables);
    assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.out, ran.err);
    ran.out
}

#[test]
fn a_server_is_started_asked_and_stopped() {
    let node = Node::new();
    let version = format!("atlas-server {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(ok(&node, &["version"], &[]), version);
    let ran = run(&node, "atlas-server", &["stop"], &[]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(1), NO_SERVER, ""));
    let out = ok(&node, &["start"], &[]);
    assert!(out.contains("This machine's GPUs are not offered; start with -g to offer them\n"), "{out}");
    assert!(out.contains(" is node ") && !out.contains("Ignored"), "{out}");
    assert_eq!(node.json(&["node", "show"])["gpus"], json!([]));
    assert_eq!(ok(&node, &["version"], &[]), version);
    let ran = run(&node, "atlas-server", &["start"], &[]);
    assert_eq!(ran.code, Some(1), "a second one is refused");
    assert!(
        ran.err.starts_with("atlas-server: ") && ran.err.contains("is in use by a daemon that runs"),
        "{}",
        ran.err
    );
    assert!(ok(&node, &["stop"], &[]).ends_with(" ends; its jobs go on\n"));
    node.refused(&["status"], 1, "no daemon is running for ");
}

#[test]
fn flags_without_a_meaning_are_taken_and_told_in_one_line() {
    let node = Node::new();
    let words = ["start", "-g", "-p", "-a", "5557", "-T", "5959", "-t", "-u", "8080", "-s", "host", "-l", "-d", "0"];
    let out = ok(&node, &words, &[("CUDA_VISIBLE_DEVICES", "")]);
    let line = "Foundations INFO: Ignored, because a node has none of it: -p (authentication), -a (archive), \
                -T (TensorBoard), -t (no TensorBoard), -u (authentication), -s (scheduler's host)\n";
    assert!(out.starts_with(line), "{out}");
    assert!(!out.contains("-g to offer"), "{out}");
    assert!(out.ends_with(&format!("The node's log is {}\n", node.home().join("daemon.log").display())), "{out}");
}

#[test]
fn workers_are_processors_that_are_offered() {
    let node = Node::new();
    for text in ["0", "two", "-1", "1.5"] {
        let ran = run(&node, "atlas-server", &["start"], &[("NUM_WORKERS", text)]);
        let line =
            format!("atlas-server: NUM_WORKERS={text} is not a number of workers; write a whole number above 0\n");
        assert_eq!((ran.code, ran.out.as_str(), ran.err), (Some(2), "", line));
    }
    assert!(!node.home().exists(), "nothing was started");
    let out = ok(&node, &["start"], &[("NUM_WORKERS", "1")]);
    assert!(out.contains("NUM_WORKERS=1: 1 CPU offered; "), "{out}");
    assert_eq!(node.json(&["node", "show"])["cpu_milli"], json!(1_000));
}

#[test]
fn wrong_words_are_one_line() {
    let node = Node::new();
    for (args, line) in [
        (&[][..], "atlas-server: a command is missing; see atlas-server --help\n"),
        (&["restart"], "atlas-server: unrecognized subcommand 'restart'"),
        (&["start", "-d", "many"], "atlas-server: invalid value 'many' for '-d <PORT>'"),
        (&["start", "--fast"], "atlas-server: unexpected argument '--fast' found"),
    ] {
        let ran = run(&node, "atlas-server", args, &[]);
        assert_eq!((ran.code, ran.err.lines().count()), (Some(2), 1), "{args:?}: {}", ran.err);
        assert!(ran.err.starts_with(line), "{args:?}: {}", ran.err);
    }
    assert!(ok(&node, &["start", "-h"], &[]).contains("NUM_WORKERS"));
}

#[test]
fn setup_starts_the_node_unless_it_runs() {
    let node = Node::new();
    let setup = |what: &[&str]| {
        let ran = run(&node, "foundations", &[&["setup"], what].concat(), &[]);
        assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
        ran.out
    };
    assert!(setup(&["atlas"]).contains(" is node "));
    let running = format!("Atlas server is running: fnode {} at http://", env!("CARGO_PKG_VERSION"));
    assert!(setup(&[]).starts_with(&running));
    let out = setup(&["orbit"]);
    assert!(out.starts_with("Foundations INFO: Monitors and data contracts of Orbit are not there yet"), "{out}");
    assert!(out.contains(&running), "{out}");
    let ran = run(&node, "foundations", &["setup", "everything"], &[]);
    assert_eq!(ran.code, Some(2), "{}", ran.err);
}
