//! `fnode doctor`: looks at what a node needs from its machine, and says for each thing that is wrong what to do.
//! Called by the command line, also when no daemon runs. Changes nothing, apart from a small file that it writes and
//! deletes in the data directory. Every check has a limit: a machine that is ill is where it is used.

mod clock;
mod gpu;
mod machine;
mod network;
mod python;
mod storage;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::exec::inventory::gpu::ProbeProgram;

/// No check takes longer; all run at the same time.
pub const CHECK_LIMIT: Duration = Duration::from_secs(2);
/// Loading a Vulkan driver from a cold disk alone takes seconds.
const VULKAN_LIMIT: Duration = Duration::from_secs(8);

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Does not apply here, or cannot be told.
    Skipped,
    /// The node works, with the limits that the finding names.
    Warn,
    /// Something will not work.
    Fail,
}

/// One line of `fnode doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, as `disk sync`.
    pub name: String,
    /// What it came to.
    pub state: State,
    /// What was found, in one line.
    pub finding: String,
    /// What to do, in one line; never empty for [`State::Warn`] and [`State::Fail`].
    pub remedy: String,
}

/// What the checks need to know of the node.
#[derive(Clone, Debug)]
pub struct Context {
    /// Data directory.
    pub home: PathBuf,
    /// Its peer-to-peer TCP port; 0: any free one.
    pub port: u16,
    /// A daemon runs from this data directory now, so its port is expected to be in use.
    pub running: bool,
    /// How the GPU probe is started.
    pub probe: ProbeProgram,
}

impl Context {
    /// A node in `home` on `port`.
    #[must_use]
    pub fn new(home: &Path, port: u16, running: bool) -> Self {
        Self { home: home.to_path_buf(), port, running, probe: ProbeProgram::this() }
    }
}

/// What one check says; its name is in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    state: State,
    finding: String,
    remedy: String,
}

impl Verdict {
    fn ok(finding: impl Into<String>) -> Self {
        Self { state: State::Ok, finding: finding.into(), remedy: String::new() }
    }

    fn skipped(finding: impl Into<String>) -> Self {
        Self { state: State::Skipped, finding: finding.into(), remedy: String::new() }
    }

    fn warn(finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Warn, finding: finding.into(), remedy: remedy.into() }
    }

    fn fail(finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Fail, finding: finding.into(), remedy: remedy.into() }
    }
}

type Run = fn(&Context) -> Verdict;

const CHECKS: [(&str, Run, Duration); 19] = [
    ("data directory", storage::directory, CHECK_LIMIT),
    ("disk space", storage::space, CHECK_LIMIT),
    ("disk sync", storage::sync, CHECK_LIMIT),
    ("memory", machine::memory, CHECK_LIMIT),
    ("open files", machine::open_files, CHECK_LIMIT),
    ("cgroup", machine::cgroup, CHECK_LIMIT),
    ("python", python::interpreters, CHECK_LIMIT),
    ("venv", python::venv, CHECK_LIMIT),
    ("uv", python::uv, CHECK_LIMIT),
    ("gpu devices", gpu::devices, CHECK_LIMIT),
    ("gpu permissions", gpu::permissions, CHECK_LIMIT),
    ("nvml", gpu::nvml, Duration::from_secs(5)),
    ("vulkan", gpu::vulkan, VULKAN_LIMIT),
    ("addresses", network::addresses, CHECK_LIMIT),
    ("port", network::port, CHECK_LIMIT),
    ("mdns", network::mdns, CHECK_LIMIT),
    ("firewall", network::firewall, CHECK_LIMIT),
    ("clock", clock::year, CHECK_LIMIT),
    ("clock sync", clock::synchronised, CHECK_LIMIT),
];

/// Runs all checks at the same time and returns them in the order of the table, after [`CHECK_LIMIT`] in
/// general, and at most 8 s where a GPU driver hangs. A check that has not answered by then says so; its thread is
/// left behind, so this is for a process that ends soon.
#[must_use]
pub fn checks(context: &Context) -> Vec<Check> {
    run(&CHECKS, context)
}

fn run(table: &[(&str, Run, Duration)], context: &Context) -> Vec<Check> {
    let start = Instant::now();
    let waiting: Vec<_> = table
        .iter()
        .map(|&(name, check, limit)| {
            let (sender, receiver) = mpsc::sync_channel(1);
            let context = context.clone();
            thread::spawn(move || sender.send(check(&context)));
            (name, limit, receiver)
        })
        .collect();
    let mut done = Vec::with_capacity(waiting.len());
    for (name, limit, receiver) in waiting {
        let left = limit.saturating_sub(start.elapsed());
        let verdict = receiver.recv_timeout(left).unwrap_or_else(|_| {
            let finding = format!("no answer within {} s", limit.as_secs());
            Verdict::warn(finding, "look at `dmesg` and the load of this machine, then run fnode doctor again")
        });
        let Verdict { state, finding, remedy } = verdict;
        done.push(Check { name: name.to_owned(), state, finding, remedy });
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_answers_in_time_and_every_complaint_has_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let mut context = Context::new(dir.path(), 0, false);
        context.probe = ProbeProgram::new("/no/such/probe", []);
        let start = Instant::now();
        let found = checks(&context);
        assert!(start.elapsed() < VULKAN_LIMIT + CHECK_LIMIT);
        assert_eq!(found.len(), CHECKS.len());
        for check in &found {
            eprintln!("{check:?}");
            assert!(!check.finding.is_empty() && !check.finding.contains('\n'), "{check:?}");
            let complains = check.state > State::Skipped;
            assert!(!complains || (!check.remedy.is_empty() && !check.remedy.contains('\n')), "{check:?}");
        }
        assert_eq!(found[0].state, State::Ok, "{:?}", found[0]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        let json = serde_json::to_value(&found[0]).unwrap();
        assert_eq!((json["name"].as_str(), json["state"].as_str()), (Some("data directory"), Some("ok")));
    }

    #[test]
    fn a_check_that_hangs_or_panics_is_a_warning() {
        fn hangs(_: &Context) -> Verdict {
            loop {
                thread::park();
            }
        }
        fn panics(_: &Context) -> Verdict {
            panic!("a bug in a check")
        }
        let context = Context::new(Path::new("/"), 0, false);
        let table: [(&str, Run, Duration); 2] =
            [("hangs", hangs, Duration::from_millis(50)), ("panics", panics, Duration::from_secs(5))];
        let states: Vec<State> = run(&table, &context).iter().map(|check| check.state).collect();
        assert_eq!(states, [State::Warn, State::Warn]);
    }
}
