//! The processes that a node has started, found by its data directory: daemon, runner, jobs and their
//! descendants. The laboratory kills these and nothing else. It never signals by name, nor a number that
//! meanwhile belongs to another process.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// What was forked while the others were killed is found in the next round; this is enough rounds for all.
const KILL_MAX: Duration = Duration::from_secs(10);
const KILL_PAUSE: Duration = Duration::from_millis(10);

/// The variable by which the laboratory marks the processes of a node with its data directory.
pub(crate) const MARK: &str = "LAB_NODE_HOME";
/// The one that every job has.
const JOB_MARK: &str = "FNODE_HOME";

/// What a process of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `fnode start`.
    Daemon,
    /// `fnode runner`.
    Runner,
    /// Part of a job.
    Job,
    /// A command that talks to the daemon, or a child of the daemon.
    Other,
}

/// The processes of the node at `home` that are alive, zombies left out.
pub(crate) fn of(home: &Path) -> Vec<(u32, Kind)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc can be listed").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if pid != std::process::id()
            && let Some(kind) = kind(pid, home)
        {
            found.push((pid, kind));
        }
    }
    found
}

/// Whether `pid` is there and not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = text.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Sends `signal` to the processes of `home` whose kind `wanted` accepts; returns how many there were.
pub(crate) fn signal(home: &Path, signal: Signal, wanted: impl Fn(Kind) -> bool) -> usize {
    let mut count = 0;
    for (pid, _) in of(home).into_iter().filter(|&(_, kind)| wanted(kind)) {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        let Ok(handle) = pidfd_open(number, PidfdFlags::empty()) else { continue };
        // The handle is fixed now; look again that it is not a later process with the same number.
        if kind(pid, home).is_some_and(&wanted) && pidfd_send_signal(&handle, signal).is_ok() {
            count += 1;
        }
    }
    count
}

/// Kills the processes of `home` whose kind `wanted` accepts, until there is none.
pub(crate) fn kill(home: &Path, wanted: impl Fn(Kind) -> bool) {
    let deadline = Instant::now() + KILL_MAX;
    while signal(home, Signal::KILL, &wanted) > 0 {
        assert!(Instant::now() < deadline, "processes of {} do not die: {:?}", home.display(), of(home));
        std::thread::sleep(KILL_PAUSE);
    }
}

fn kind(pid: u32, home: &Path) -> Option<Kind> {
    if !is_alive(pid) {
        return None;
    }
    let home = home.to_str().expect("the laboratory's paths are UTF-8");
    let arguments = words(pid, "cmdline");
    let variables = words(pid, "environ");
    let named = |path: &str| path == home || path.strip_prefix(home).is_some_and(|rest| rest.starts_with('/'));
    let verb = |word: &str| arguments.iter().skip(1).any(|argument| argument == word);
    let is_marked = |variable: &String| {
        variable.split_once('=').is_some_and(|(name, value)| matches!(name, MARK | JOB_MARK) && named(value))
    };
    if variables.iter().any(is_marked) {
        if variables.iter().any(|variable| variable.starts_with("FNODE_JOB_ID=")) {
            return Some(Kind::Job);
        }
    } else if !arguments.iter().any(|argument| named(argument)) {
        return None;
    }
    // A runner's arguments hold its daemon's command line.
    Some(if arguments.get(1).is_some_and(|word| word == "runner") {
        Kind::Runner
    } else if verb("start") {
        Kind::Daemon
    } else {
        Kind::Other
    })
}

/// A file of `/proc` that holds words, each closed by a zero byte.
fn words(pid: u32, file: &str) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    bytes.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}
