//! Attempts on this node, from the core's order to the record of their end: prepare, hand to the runner,
//! collect what they leave. Sequential work; every decision came from the core or goes to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::AttemptId;
use proto::core_io::{Adopted, Run};
use proto::event::AttemptFinished;
use proto::job::{BundleRef, Ending, LostReason, StartFailure, Usage};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::collect::{self, Collected};
use super::handle::{Shared, unix_ms};
use super::usage::Meter;
use super::{prepare, tracking, watch};
use crate::exec::client::RunnerHandle;
use crate::exec::environment::Environments;
use crate::exec::protocol::{AttemptStatus, Ended, Event, ProcessId, StartOrder, Started};
use crate::track::last_exit;

/// Between SIGTERM and SIGKILL.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);

/// Attempts that the core handed over and whose end it has not heard.
pub(super) struct Attempts {
    context: Arc<Context>,
    runner: RunnerHandle,
    table: BTreeMap<AttemptId, Live>,
    orders: Vec<StartOrder>,
    /// Ended, oldest generation first; see [`Attempts::on_stored`].
    forget: [Vec<AttemptId>; 3],
    done: mpsc::UnboundedSender<Done>,
}

/// What preparing and collecting need.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) environments: Environments,
}

/// One attempt.
struct Live {
    run: Arc<Run>,
    stage: Stage,
    /// While its process runs.
    watch: Option<AbortHandle>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end_watch();
    }
}

impl Live {
    fn end_watch(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }
}

enum Stage {
    Preparing(AbortHandle),
    /// The runner has it.
    Ordered,
    Collecting,
}

/// Work that was done aside.
pub(super) enum Done {
    /// Everything is there, or will never be.
    Prepared(AttemptId, Result<Box<StartOrder>, StartFailure>),
    /// Its checkpoint directory is stored, then, in milliseconds since 1970.
    Saved(AttemptId, BundleRef, u64),
    /// What it left is stored.
    Collected(Collected),
}

/// What the core must hear.
pub(super) enum Told {
    Started { attempt: AttemptId, started_unix_ms: u64 },
    Saved { attempt: AttemptId, bundle: BundleRef, saved_unix_ms: u64 },
    Ended(Collected),
}

impl Context {
    /// Follows what an attempt tells of itself, unless it leaves nothing at all.
    fn track(&self, run: &Run) {
        if !prepare::is_bare(&run.spec) {
            self.shared.tracks.begin(&self.shared.home, run.attempt);
        }
    }
}

impl Attempts {
    /// `done` receives what [`Self::on_done`] must be given; it is bounded by the attempts in the table.
    pub(super) fn new(context: Context, runner: RunnerHandle, done: mpsc::UnboundedSender<Done>) -> Self {
        Self {
            context: Arc::new(context),
            runner,
            table: BTreeMap::new(),
            orders: Vec::new(),
            forget: Default::default(),
            done,
        }
    }

    pub(super) fn runner(&self) -> &RunnerHandle {
        &self.runner
    }

    /// The core's order.
    pub(super) fn run(&mut self, run: Run, told: &mut Vec<Told>) {
        let (attempt, run) = (run.attempt, Arc::new(run));
        let stage = if prepare::is_simple(&run.spec) && run.checkpoint.is_none() {
            match prepare::simple_order(&self.context.shared, &run) {
                Ok(order) => self.orders.push(order),
                Err(failure) => {
                    told.push(Told::Ended(never_started(attempt, Ending::NotStarted(failure)).into()));
                    return;
                }
            }
            Stage::Ordered
        } else {
            let (context, run, done) = (self.context.clone(), run.clone(), self.done.clone());
            let task = tokio::spawn(async move {
                let order = prepare::prepare(&context, &run).await;
                let _ = done.send(Done::Prepared(attempt, order.map(Box::new)));
            });
            Stage::Preparing(task.abort_handle())
        };
        self.context.track(&run);
        self.table.insert(attempt, Live { run, stage, watch: None });
    }

    /// The core no longer wants it.
    pub(super) fn halt(&mut self, attempt: AttemptId, told: &mut Vec<Told>) {
        match self.table.get(&attempt).map(|live| &live.stage) {
            Some(Stage::Preparing(task)) => {
                task.abort();
                told.push(self.end_unstarted(attempt, Ending::Stopped));
            }
            Some(Stage::Ordered) => {
                // An order of this very turn must reach the runner before its stop.
                self.flush();
                let _ = self.runner.stop(attempt, STOP_GRACE);
            }
            Some(Stage::Collecting) | None => {}
        }
    }

    fn end_unstarted(&mut self, attempt: AttemptId, ending: Ending) -> Told {
        self.table.remove(&attempt);
        self.context.shared.tracks.end(attempt);
        let dir = prepare::attempt_dir(&self.context.shared.home, attempt);
        tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir));
        Told::Ended(never_started(attempt, ending).into())
    }

    /// Work that was done aside is done.
    pub(super) fn on_done(&mut self, done: Done, told: &mut Vec<Told>) {
        match done {
            Done::Prepared(attempt, order) => {
                let Some(live) = self.table.get_mut(&attempt) else { return };
                match order {
                    Ok(order) => {
                        live.stage = Stage::Ordered;
                        self.orders.push(*order);
                    }
                    Err(failure) => {
                        // The log tells how far it came; it is kept like any other.
                        let ended = Ended {
                            attempt,
                            ending: Ending::NotStarted(failure),
                            usage: Usage::default(),
                            started_unix_ms: 0,
                            ended_unix_ms: unix_ms(),
                        };
                        self.on_ended(ended, told);
                    }
                }
            }
            Done::Saved(attempt, bundle, saved_unix_ms) => {
                if self.table.contains_key(&attempt) {
                    told.push(Told::Saved { attempt, bundle, saved_unix_ms });
                }
            }
            Done::Collected(collected) => {
                let attempt = collected.finished.attempt;
                self.table.remove(&attempt);
                self.forget[2].push(attempt);
                if let Some(bundle) = collected.checkpoint {
                    let saved_unix_ms = collected.finished.ended_unix_ms;
                    told.push(Told::Saved { attempt, bundle, saved_unix_ms });
                }
                told.push(Told::Ended(collected));
            }
        }
    }

    /// The runner told something.
    pub(super) fn on_progress(&mut self, events: Vec<Event>, told: &mut Vec<Told>) {
        for event in events {
            match event {
                Event::Started(started) => {
                    self.measure(&started, true);
                    self.watch(started.attempt);
                    told.push(Told::Started { attempt: started.attempt, started_unix_ms: started.started_unix_ms })
                }
                Event::Ended(ended) => self.on_ended(ended, told),
                // It ended before the stop came; its end is on the way or known.
                Event::Unknown(_) => {}
            }
        }
    }

    /// Its process runs: what it uses is read.
    fn measure(&self, started: &Started, is_new: bool) {
        let Some(live) = self.table.get(&started.attempt) else { return };
        let attended = live.run.spec.attends.as_ref();
        let process = attended
            .map_or(started.process, |attended| ProcessId { pid: attended.pid, start_time: attended.start_time });
        let is_new = is_new && attended.is_none();
        let meter = Meter::new(process, live.run.reservation.gpus.clone(), is_new, Instant::now());
        self.context.shared.tracks.measure(started.attempt, meter);
    }

    /// Its process runs: what it makes meanwhile is looked after.
    fn watch(&mut self, attempt: AttemptId) {
        let Some(live) = self.table.get_mut(&attempt) else { return };
        if live.watch.is_none() && !prepare::is_bare(&live.run.spec) {
            let task = watch::watch(self.context.shared.clone(), live.run.clone(), self.done.clone());
            live.watch = Some(tokio::spawn(task).abort_handle());
        }
    }

    fn on_ended(&mut self, mut ended: Ended, told: &mut Vec<Told>) {
        let Some(live) = self.table.get_mut(&ended.attempt) else {
            // Told twice: the first time counted.
            self.forget[2].push(ended.attempt);
            return;
        };
        if matches!(live.stage, Stage::Collecting) {
            return;
        }
        if prepare::is_simple(&live.run.spec) && !live.run.spec.capture && !live.run.spec.keep_outputs {
            self.table.remove(&ended.attempt);
            self.forget[2].push(ended.attempt);
            let mut collected = Collected::from(finished(ended));
            collected.ran_with(self.context.shared.ran_withs.plain(&self.context.shared));
            told.push(Told::Ended(collected));
            return;
        }
        if live.run.spec.attends.is_some() && matches!(ended.ending, Ending::Exited { .. }) {
            let track = tracking::track_path(&self.context.shared.home, ended.attempt);
            // Its exit code is what stood in its place: only a parent is told a process's own.
            if last_exit(&track).ok().flatten().is_none() {
                ended.ending = Ending::Untold;
            }
        }
        live.end_watch();
        live.stage = Stage::Collecting;
        let (context, run, done) = (self.context.clone(), live.run.clone(), self.done.clone());
        tokio::spawn(async move {
            let collected = collect::collect(&context, &run, ended).await;
            let _ = done.send(Done::Collected(collected));
        });
    }

    /// What the runner holds after a start of this daemon: goes on from there.
    pub(super) fn adopt(&mut self, attempts: Vec<AttemptStatus>, told: &mut Vec<Told>) -> Vec<Adopted> {
        let mut adopted = Vec::new();
        for status in attempts {
            let mut runs = None;
            let (attempt, started_unix_ms, ended) = match status {
                // Told to start when another ends; the daemon that chained them is gone, the chain is not.
                AttemptStatus::Waiting(attempt) => (attempt, 0, None),
                AttemptStatus::Running(started) => {
                    runs = Some(started);
                    (started.attempt, started.started_unix_ms, None)
                }
                AttemptStatus::Ended(ended) => (ended.attempt, ended.started_unix_ms, Some(ended)),
            };
            if prepare::is_recorded(&self.context.shared, attempt) {
                // Its end is in the log already; only the runner had not been told.
                self.forget[2].push(attempt);
                continue;
            }
            let Some(run) = prepare::recall(&self.context.shared, attempt) else {
                // Nothing is known of it: nobody here can ask for it, and another attempt will be made.
                tracing::warn!(%attempt, "an attempt that nobody knows");
                self.forget[2].push(attempt);
                continue;
            };
            adopted.push(Adopted {
                attempt,
                spec: Box::new(run.spec.clone()),
                reservation: run.reservation.clone(),
                started_unix_ms,
            });
            self.context.track(&run);
            self.table.insert(attempt, Live { run: Arc::new(run), stage: Stage::Ordered, watch: None });
            if let Some(started) = runs {
                self.measure(&started, false);
            }
            self.watch(attempt);
            if let Some(ended) = ended {
                self.on_ended(ended, told);
            }
        }
        adopted
    }

    /// The runner is another one now: what the old one had is gone.
    pub(super) fn on_runner_changed(&mut self, attempts: &[AttemptStatus], told: &mut Vec<Told>) {
        let known: Vec<AttemptId> = attempts.iter().map(AttemptStatus::attempt).collect();
        let gone: Vec<AttemptId> = self
            .table
            .iter()
            .filter(|(attempt, live)| matches!(live.stage, Stage::Ordered) && !known.contains(attempt))
            .map(|(&attempt, _)| attempt)
            .collect();
        for attempt in gone {
            if self.orders.iter().any(|order| order.attempt == attempt) {
                continue;
            }
            let ended = Ended {
                attempt,
                ending: Ending::Lost(LostReason::RunnerDown),
                usage: Usage::default(),
                started_unix_ms: 0,
                ended_unix_ms: unix_ms(),
            };
            self.on_ended(ended, told);
        }
    }

    /// Hands over this turn's orders.
    pub(super) fn flush(&mut self) {
        if !self.orders.is_empty() {
            let _ = self.runner.start(std::mem::take(&mut self.orders));
        }
    }

    /// An entry of this node is durable. An end that was told to the core is in one of the next two
    /// entries: what was told three entries ago is recorded, and the runner need not remember it.
    pub(super) fn on_stored(&mut self) {
        let recorded = std::mem::take(&mut self.forget[0]);
        self.forget.rotate_left(1);
        if recorded.is_empty() {
            return;
        }
        let _ = self.runner.forget(&recorded);
        // Until now a crash could have lost what was collected; it would have been collected again.
        let home = self.context.shared.home.clone();
        tokio::task::spawn_blocking(move || {
            for attempt in recorded {
                let _ = std::fs::remove_dir_all(prepare::attempt_dir(&home, attempt));
            }
        });
    }

    /// Whether ends wait for [`Self::on_stored`].
    pub(super) fn remembers(&self) -> bool {
        self.forget.iter().any(|generation| !generation.is_empty())
    }
}

fn never_started(attempt: AttemptId, ending: Ending) -> AttemptFinished {
    finished(Ended { attempt, ending, usage: Usage::default(), started_unix_ms: 0, ended_unix_ms: unix_ms() })
}

/// An end without anything left behind.
pub(super) fn finished(ended: Ended) -> AttemptFinished {
    AttemptFinished {
        attempt: ended.attempt,
        ending: ended.ending,
        usage: ended.usage,
        started_unix_ms: ended.started_unix_ms,
        ended_unix_ms: ended.ended_unix_ms,
        outputs: None,
        log: None,
        ran_with: None,
    }
}

/// Directories of attempts that nobody holds any more: left by a crash of the machine.
pub(super) fn sweep_dirs(jobs: &std::path::Path, held: &[String]) {
    let entries = std::fs::read_dir(jobs).into_iter().flatten().flatten();
    for entry in entries {
        let known = entry.file_name().to_str().is_some_and(|name| held.iter().any(|held| held == name));
        if !known {
            let path: PathBuf = entry.path();
            let _ = std::fs::remove_dir_all(path);
        }
    }
}
