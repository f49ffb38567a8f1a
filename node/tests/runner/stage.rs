//! A runner of its own for each test: its directory, its handle, its orders, and waits with a deadline.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use node::exec::client::{RunnerEvent, RunnerEvents, RunnerHandle, RunnerLaunch};
use node::exec::process::{ProcessTable, exists, marker_of, read_row};
use node::exec::protocol::{
    AttemptStatus, Ended, Event, Output, ProcessId, ShutdownWhen, StartOrder, Started, Welcome,
};
use node::exec::runner::RunnerFiles;
use proto::{AttemptId, GroupId, JobId};
use tokio::time::timeout;

/// Longer than anything here takes, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// One test's world. Dropping it kills its runner and with that test's jobs, nothing else.
pub(crate) struct Stage {
    pub(crate) home: tempfile::TempDir,
    pub(crate) group: GroupId,
    pub(crate) runner: Option<Welcome>,
}

/// A daemon's end of the socket.
pub(crate) struct Daemon {
    pub(crate) handle: RunnerHandle,
    pub(crate) events: RunnerEvents,
    pub(crate) runner: Welcome,
    pub(crate) listed: Vec<AttemptStatus>,
    seen: Vec<Event>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let mut random = [0; 10];
        random[..4].copy_from_slice(&std::process::id().to_le_bytes());
        random[4..8].copy_from_slice(&now.subsec_nanos().to_le_bytes());
        let group = GroupId::v7(u64::try_from(now.as_millis()).expect("fits"), random);
        Self { home: tempfile::tempdir().expect("made"), group, runner: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn files(&self) -> RunnerFiles {
        RunnerFiles::new(&self.path("run")).expect("absolute")
    }

    pub(crate) fn launch(&self) -> RunnerLaunch {
        let exe = PathBuf::from(env!("CARGO_BIN_EXE_fnode"));
        RunnerLaunch { files: self.files(), exe, daemon_command: Vec::new() }
    }

    pub(crate) async fn connect(&mut self) -> Daemon {
        self.connect_with(self.launch()).await
    }

    pub(crate) async fn connect_with(&mut self, launch: RunnerLaunch) -> Daemon {
        let (handle, mut events) = RunnerHandle::connect_or_spawn(launch).await.expect("a runner");
        let first = timeout(DEADLINE, events.recv()).await.expect("in time");
        let Some(RunnerEvent::Connected { runner, attempts }) = first else { panic!("not connected: {first:?}") };
        self.runner = Some(runner.clone());
        Daemon { handle, events, runner, listed: attempts, seen: Vec::new() }
    }

    pub(crate) fn attempt(&self, number: u32) -> AttemptId {
        AttemptId { job: JobId::only(self.group), epoch: 1, number }
    }

    /// An order that runs `script` with `sh`.
    pub(crate) fn sh(&self, number: u32, script: &str) -> StartOrder {
        self.order(number, &["sh", "-c", script])
    }

    pub(crate) fn order(&self, number: u32, command: &[&str]) -> StartOrder {
        let path = std::env::var("PATH").expect("set");
        StartOrder {
            attempt: self.attempt(number),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            cwd: self.home.path().to_owned(),
            env: BTreeMap::from([("PATH".to_owned(), path)]),
            stdout: Output::Null,
            stderr: Output::Null,
            memory_limit_bytes: 0,
            cpu_milli: 1000,
            timeout_s: 0,
            grace_ms: 5_000,
            cleanup_dir: None,
            after: None,
        }
    }

    /// Processes that carry the marker of this test's attempts, whoever their parent is.
    pub(crate) fn jobs_left(&self) -> Vec<u32> {
        let group = self.group.to_string();
        let all = ProcessTable::read().expect("readable").all();
        let is_ours = |pid: &u32| marker_of(*pid).is_some_and(|marker| marker.starts_with(&group));
        all.into_iter().filter(|row| !row.zombie).map(|row| row.id.pid).filter(is_ours).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(runner) = &self.runner {
            let kill = |process: ProcessId| node::exec::process::signal(process, rustix::process::Signal::KILL);
            kill(runner.runner);
            for pid in self.jobs_left() {
                if let Ok(row) = read_row(pid) {
                    kill(row.id);
                }
            }
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.files().log()).unwrap_or_default();
            eprintln!("runner's log:\n{log}");
        }
    }
}

impl Daemon {
    pub(crate) fn start(&self, orders: impl IntoIterator<Item = StartOrder>) {
        self.handle.start(orders.into_iter().collect()).expect("sent");
    }

    /// Waits until attempt `id` has started.
    pub(crate) async fn started(&mut self, id: AttemptId) -> Started {
        self.find(|event| match event {
            Event::Started(started) if started.attempt == id => Some(*started),
            _ => None,
        })
        .await
    }

    /// Waits until attempt `id` has ended.
    pub(crate) async fn ended(&mut self, id: AttemptId) -> Ended {
        self.find(|event| match event {
            Event::Ended(ended) if ended.attempt == id => Some(ended.clone()),
            _ => None,
        })
        .await
    }

    /// Waits for the first event that `pick` takes; the others stay for later.
    pub(crate) async fn find<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.seen.iter().position(|event| pick(event).is_some()) {
                return pick(&self.seen.remove(at)).expect("it was picked");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.events.recv()).await {
                Ok(Some(RunnerEvent::Progress(mut events))) => self.seen.append(&mut events),
                Ok(Some(RunnerEvent::Connected { attempts, .. })) => self.listed = attempts,
                Ok(Some(RunnerEvent::Gone | RunnerEvent::Listed(_))) => {}
                Ok(None) => panic!("the link ended; seen {:?}", self.seen),
                Err(_) => panic!("nothing came in time; seen {:?}", self.seen),
            }
        }
    }

    pub(crate) async fn list(&mut self) -> Vec<AttemptStatus> {
        self.handle.list().expect("sent");
        loop {
            match timeout(DEADLINE, self.events.recv()).await.expect("in time") {
                Some(RunnerEvent::Listed(attempts)) => return attempts,
                Some(RunnerEvent::Progress(mut events)) => self.seen.append(&mut events),
                other => panic!("no list but {other:?}"),
            }
        }
    }

    pub(crate) async fn gone(&mut self) {
        loop {
            match timeout(DEADLINE, self.events.recv()).await.expect("in time") {
                Some(RunnerEvent::Progress(mut events)) => self.seen.append(&mut events),
                Some(RunnerEvent::Connected { .. } | RunnerEvent::Listed(_)) => {}
                Some(RunnerEvent::Gone) | None => return,
            }
        }
    }

    /// Waits for the next connection; returns its list.
    pub(crate) async fn connected(&mut self) -> Vec<AttemptStatus> {
        loop {
            match timeout(DEADLINE, self.events.recv()).await.expect("in time") {
                Some(RunnerEvent::Connected { attempts, .. }) => return attempts,
                Some(_) => {}
                None => panic!("the link ended"),
            }
        }
    }

    pub(crate) async fn shutdown(&self, when: ShutdownWhen) {
        self.handle.shutdown(when).await.expect("told");
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until `process` is gone.
pub(crate) async fn until_gone(process: ProcessId) {
    until("the process is gone", || !exists(process)).await;
}

/// Waits until `path` has `lines` lines, and returns them.
pub(crate) async fn lines_of(path: &Path, lines: usize) -> Vec<String> {
    let read = || fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    until("the file has its lines", || read().len() >= lines).await;
    read()
}
