//! The binary as a user runs it: a data directory of its own, a daemon on free ports, and what it printed.
//! Every daemon is ended with its test. Used by the `cli_*` and `http_*` tests.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Everything happens within this, or the test fails with what was seen last.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A node that is not started yet, or whose daemon runs until this goes.
pub(crate) struct Node {
    dir: TempDir,
    /// Whom its commands run as, when not as the test's own user.
    user: Option<u32>,
}

/// Nobody's number on Linux.
pub(crate) const NOBODY: u32 = 65_534;

/// How a command ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Node {
    /// A data directory, and no daemon.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("fnode-t").tempdir().unwrap(), user: None }
    }

    /// The same below `dir`, for a disk of the test's own.
    pub(crate) fn new_in(dir: &Path) -> Self {
        Self { dir: tempfile::Builder::new().prefix("fnode-t").tempdir_in(dir).unwrap(), user: None }
    }

    /// The same, with commands for which permissions count: they are run by nobody where the test is run by root.
    pub(crate) fn of_nobody() -> Self {
        let mut node = Self::new();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(node.dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            node.user = Some(NOBODY);
        }
        node
    }

    /// A daemon on free ports, named `name`.
    pub(crate) fn started(name: &str) -> Self {
        let node = Self::new();
        node.start(&["--name", name]);
        node
    }

    /// Starts the daemon, with `more` flags.
    pub(crate) fn start(&self, more: &[&str]) {
        let ran = self.run(&[&START, more].concat());
        assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A place for the test's own files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command as this node's user runs it.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fnode"));
        command.args(args).env_clear().current_dir(self.dir.path());
        command.env("FNODE_HOME", self.home()).env("HOME", self.dir.path()).env("USER", "tester");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// The same binary under another of its names.
    pub(crate) fn named(&self, name: &str, args: &[&str]) -> Command {
        let mut command = self.command(args);
        command.arg0(name);
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        Ran::of(&self.command(args).output().unwrap())
    }

    /// Runs with `input` on standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::of(&child.wait_with_output().unwrap())
    }

    /// Runs what must succeed; returns standard output.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "fnode {}: {}{}", args.join(" "), ran.out, ran.err);
        ran.out
    }

    /// Runs with `--json` what must succeed; returns the one value.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[&["--json"], args].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}: {text}", args.join(" ")))
    }

    /// Runs what must fail with `code` and one line that begins with `line`.
    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str], code: i32, line: &str) {
        let ran = self.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "fnode {}: {}", args.join(" "), ran.err);
        assert_eq!(ran.err.lines().count(), 1, "fnode {}: {}", args.join(" "), ran.err);
        assert!(ran.err.starts_with(&format!("fnode: {line}")), "fnode {}: {}", args.join(" "), ran.err);
    }

    /// Submits without a bundle; returns the job's id.
    pub(crate) fn submit(&self, options: &[&str], command: &[&str]) -> String {
        let mut args = vec!["submit", "--no-bundle", "--project", "test"];
        args.extend(options);
        args.push("--");
        args.extend(command);
        self.json(&args)["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the job has ended.
    pub(crate) fn ended(&self, id: &str) -> Ran {
        let ran = self.run(&["job", "wait", id, "--timeout", "30s"]);
        assert!(!ran.err.contains("has not ended"), "{}: {}", ran.err, self.run(&["job", "explain", id]).out);
        ran
    }

    /// Waits until the job has ended well.
    #[track_caller]
    pub(crate) fn completed(&self, id: &str) {
        let ran = self.ended(id);
        assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    }

    /// Waits until `path` of `fnode args --json` is `value`.
    #[track_caller]
    pub(crate) fn until(&self, args: &[&str], path: &str, value: &Value) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let seen = self.json(args);
            if seen.pointer(path) == Some(value) {
                return seen;
            }
            assert!(Instant::now() < deadline, "fnode {}: {path} is not {value}: {seen:#}", args.join(" "));
        }
    }

    /// `api.json`.
    pub(crate) fn api(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.home().join("api.json")).unwrap()).unwrap()
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.api()["pid"].as_i64().unwrap()).unwrap()
    }

    /// One request over the Unix socket.
    pub(crate) fn http(&self, head: &str, body: &[u8]) -> Answer {
        let stream = UnixStream::connect(self.home().join("run/api.sock")).unwrap();
        ask(stream, head, "Host: localhost\r\n", body)
    }
}

/// Flags with which every daemon of a test starts: free ports, and no other node of the LAN.
pub(crate) const START: [&str; 9] =
    ["start", "--detach", "--listen", "127.0.0.1:0", "--api", "0", "--no-mdns", "--gpus", "0"];

impl Drop for Node {
    fn drop(&mut self) {
        if self.home().join("run").exists() {
            let _ = self.command(&["shutdown", "--jobs"]).output();
        }
    }
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends `head` (`GET /nodes`) with `headers` and `body` on `stream`, and reads the answer to its end.
pub(crate) fn ask(mut stream: impl std::io::Read + std::io::Write, head: &str, headers: &str, body: &[u8]) -> Answer {
    let (method, path) = head.split_once(' ').unwrap();
    let length = body.len();
    let path = if path.starts_with("/api/") { path.to_owned() } else { format!("/api/fnode/v1{path}") };
    let text = format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    // A server that refuses a large body may close before it has read it.
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head[9..12].parse().expect("a status");
    let body = if head.contains("transfer-encoding: chunked") { unchunk(&bytes[end..]) } else { bytes[end..].to_vec() };
    Answer { status, head, body }
}

fn unchunk(bytes: &[u8]) -> Vec<u8> {
    let mut reader = BufReader::new(bytes);
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
        if size == 0 {
            return body;
        }
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).unwrap();
        body.extend_from_slice(&chunk[..size]);
    }
}

/// A child that is killed with its test.
pub(crate) struct Background(pub(crate) Child);

impl Background {
    pub(crate) fn of(mut command: Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        signal(i32::try_from(self.0.id()).unwrap(), name);
    }

    /// Reads standard output until `text` has come.
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        let out = self.0.stdout.as_mut().unwrap();
        let mut seen = String::new();
        let mut byte = [0];
        while !seen.contains(text) {
            assert_eq!(out.read(&mut byte).unwrap(), 1, "ended before {text:?}: {seen}");
            seen.push(char::from(byte[0]));
        }
        seen
    }

    pub(crate) fn finish(mut self) -> Ran {
        let mut ran = Ran { code: None, out: String::new(), err: String::new() };
        self.0.stdout.take().unwrap().read_to_string(&mut ran.out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut ran.err).unwrap();
        ran.code = self.0.wait().unwrap().code();
        ran
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a signal by its name to a process that the test started.
pub(crate) fn signal(pid: i32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}");
}

/// Writes a file with its directories.
pub(crate) fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
