//! The command line without a daemon: what it says, where, and how it exits.

mod harness;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;

use harness::{Node, write};

#[test]
fn help_goes_to_standard_output_and_shows_examples() {
    let node = Node::new();
    for args in [vec!["--help"], vec!["submit", "--help"], vec!["job", "explain", "--help"], vec!["start", "-h"]] {
        let text = node.ok(&args);
        assert!(text.contains("EXAMPLES") && text.contains("--json"), "{args:?}: {text}");
    }
    assert_eq!(node.ok(&["help", "submit"]), node.ok(&["submit", "--help"]));
    assert_eq!(node.ok(&["--version"]), format!("fnode {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(node.ok(&["version"]), format!("fnode {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_words_are_one_line_and_exit_code_2() {
    let node = Node::new();
    let run = |words: &[&str], line: &str| node.refused(words, 2, line);
    run(&[], "a command is missing; see fnode --help");
    run(&["job"], "a command is missing; see fnode job --help");
    run(&["sumbit"], "unrecognized subcommand 'sumbit'; a similar subcommand exists: 'submit'; see fnode --help");
    run(&["submit"], "the following required arguments were not provided: <COMMAND>...; see fnode submit --help");
    run(&["submit", "--cpsu", "1", "--", "true"], "unexpected argument '--cpsu' found");
    run(&["jobs", "--limit", "0"], "invalid value '0' for '--limit <N>'");
    run(&["logs", "x", "--tail", "-1"], "invalid value '-1' for '--tail <LINES>'");
    run(&["completion", "cobol"], "invalid value 'cobol' for '<SHELL>'");
}

#[test]
fn wrong_amounts_are_told_before_anything_is_sent() {
    let node = Node::new();
    for (flag, value, says) in [
        ("--cpus", "0", "a job needs more than 0 CPUs"),
        ("--cpus", "-1", "not a number of CPUs"),
        ("--cpus", "1e9", "not a number of CPUs"),
        ("--cpus", "20000", "not a number of CPUs"),
        ("--memory", "0", "zero bytes"),
        ("--memory", "-4GiB", "not a size"),
        ("--memory", "16", "16 bytes are too little for any process; did you mean 16GiB?"),
        ("--memory", "much", "not a size; write for example 512MiB or 16GiB"),
        ("--memory", "9999TiB", "more than any machine has"),
        ("--gpus", "-1", "not a number of GPUs"),
        ("--gpus", "9999", "more than any machine has; ask for at most 256"),
        ("--gpu-memory", "1XB", "not a size"),
        ("--timeout", "soon", "not a duration; write for example 90s, 15m, 2h or 3d"),
        ("--timeout", "0s", "zero is not a duration"),
        ("--timeout", "-5m", "not a duration"),
        ("--array", "9-1", "\"9-1\" is not a list of indices"),
        ("--array", "0-9000000", "9000001 jobs are more than the 1000000"),
        ("--env", "PATH", "no = in it; write KEY=VALUE"),
        ("--env", "1A=x", "\"1A\" cannot name a variable"),
        ("--env", "FNODE_NODE=x", "FNODE_NODE is set by the node"),
        ("--after", "0193:sometimes", "\"sometimes\" is not a trigger"),
        ("--python", "three", "not a Python version"),
        ("--retries", "-1", "-1 is not in 0..=1000"),
        ("--on-lost", "cry", "write rerun or fail"),
        ("--project", "a/b", "\"a/b\" cannot name a project"),
        ("--label", "=x", "\"\" is not a label's key"),
    ] {
        let ran = node.run(&["submit", flag, value, "--", "true"]);
        assert_eq!((ran.code, ran.err.lines().count()), (Some(2), 1), "{flag} {value}: {}", ran.err);
        assert!(ran.err.contains(says), "{flag} {value}: {}", ran.err);
        assert!(ran.err.contains(flag), "{flag} {value}: {}", ran.err);
    }
    node.refused(&["submit", "--data", "here", "--", "true"], 2, "data path \"here\" is not absolute");
    node.refused(&["submit", "--params", "{", "--", "true"], 2, "--params is not a JSON object; correct it");
    let words = ["submit", "--secret", "A", "--env", "A=1", "--", "true"];
    node.refused(&words, 2, "A is given both as a variable and as a secret");
    node.refused(&["submit", "--no-bundle", "dir", "--", "true"], 2, "the argument '--no-bundle' cannot be used with");
}

#[test]
fn a_directory_that_is_none_is_told_first() {
    let node = Node::new();
    node.refused(&["submit", "/no/such", "--", "true"], 2, "no such directory: /no/such; give the directory");
    write(&node.file("plain"), "x");
    let plain = node.file("plain");
    let line = format!("{} is not a directory; give the directory", plain.display());
    node.refused(&["submit", plain.to_str().unwrap(), "--", "true"], 2, &line);
}

#[test]
fn without_a_daemon_every_command_says_how_to_start_one() {
    let node = Node::new();
    let line = format!("no daemon is running for {}; start one with: fnode start\n", node.home().display());
    for words in [
        &["status"][..],
        &["jobs"],
        &["submit", "--", "true"],
        &["submit", "--no-bundle", "--", "true"],
        &["logs", "x"],
        &["stop", "x"],
        &["shutdown"],
        &["invite"],
        &["node", "list"],
        &["project", "list"],
        &["secret", "list"],
        &["gc"],
        &["pause"],
    ] {
        node.refused(words, 1, &line);
    }
    assert!(!node.home().exists(), "asking makes nothing");
}

#[test]
fn a_daemon_of_another_version_is_told() {
    let node = Node::new();
    std::fs::create_dir_all(node.home().join("run")).unwrap();
    let listener = UnixListener::bind(node.home().join("run/api.sock")).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nfnode-version: 9.1.0\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    });
    let line = format!("the daemon of {} runs fnode 9.1.0, this command is fnode ", node.home().display());
    node.refused(&["jobs"], 1, &line);
    server.join().unwrap();
}

#[test]
fn a_program_that_is_no_daemon_is_not_taken_for_one() {
    let node = Node::new();
    std::fs::create_dir_all(node.home().join("run")).unwrap();
    let listener = UnixListener::bind(node.home().join("run/api.sock")).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    });
    let line = format!("the daemon of {} does not answer as fnode does", node.home().display());
    node.refused(&["jobs"], 1, &line);
    server.join().unwrap();
}

#[test]
fn the_configuration_tells_where_each_value_comes_from() {
    let node = Node::new();
    write(&node.home().join("config.toml"), "name = \"from-file\"\nmdns = false\n");
    let mut command = node.command(&["config", "show", "--json"]);
    let output = command.env("FNODE_CPUS", "2.5").output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |name: &str| shown.as_array().unwrap().iter().find(|line| line["name"] == name).unwrap().clone();
    assert_eq!((of("cpus")["value"].as_str(), of("cpus")["origin"].as_str()), (Some("2.5"), Some("FNODE_CPUS")));
    assert_eq!(of("name")["value"], "from-file");
    assert!(of("name")["origin"].as_str().unwrap().ends_with("config.toml"));
    assert_eq!((of("api")["value"].as_str(), of("api")["origin"].as_str()), (Some("127.0.0.1:4681"), Some("default")));
    assert_eq!(of("home")["origin"], "FNODE_HOME");
    write(&node.home().join("config.toml"), "colour = 1\n");
    let line = format!("{} line 1: unknown field `colour`", node.home().join("config.toml").display());
    node.refused(&["config", "show"], 2, &line);
}

#[test]
fn a_start_that_cannot_be_is_one_line() {
    let node = Node::new();
    let refused = |more: &[&str], code, line: &str| {
        let words = [&["start", "--listen", "127.0.0.1:0", "--api", "0"], more].concat();
        node.refused(&words, code, line);
    };
    refused(&["--join", "fnode1qqqq"], 1, "cannot join: the ticket is torn");
    refused(&["--join", "/no/such/ticket"], 1, "cannot read /no/such/ticket: no such file or directory; give a file");
    write(&node.file("text"), "hello");
    refused(&["--join", "text"], 1, "cannot join: this is not a ticket");
    refused(&["--cpus", "0"], 2, "invalid value '0' for '--cpus <N>'");
    refused(&["--name", "a b"], 2, "--name cannot be used; a node's name has");
    node.refused(&["start", "--api", "0.0.0.0:0"], 1, "the API would listen on 0.0.0.0:0, which other machines reach");
    node.refused(&["start", "--api", "nowhere"], 2, "--api cannot be used; \"nowhere\" is not an address");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    node.refused(&["start", "--api", &port], 1, &format!("port {port} on 127.0.0.1 is in use"));
    let file = node.file("text");
    let home = file.to_str().unwrap();
    let line = format!("cannot use the data directory {home}");
    node.refused(&["start", "--listen", "127.0.0.1:0", "--api", "0", "--home", home], 1, &line);
}

#[test]
fn completion_is_printed_for_each_shell() {
    let node = Node::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = node.ok(&["completion", shell]);
        assert!(script.contains("fnode") && script.contains("submit"), "{shell}");
    }
}

#[test]
fn a_closed_pipe_is_not_a_failure() {
    let node = Node::new();
    let mut child = node.command(&["completion", "bash"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
