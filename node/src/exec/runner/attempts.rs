//! All attempts of a runner: starts them, waits for them, stops them with everything they left behind, and
//! remembers how they ended until the daemon has that on disk. Called by the loop in `serve.rs`.
//!
//! **What belongs to an attempt**: its process group, the descendants of its main process, and orphans that
//! carry its marker. The runner is a child subreaper, so a process that left its parent and its group becomes
//! the runner's child and is recognised by the marker in its environment. When the main process ends by
//! itself the rest is killed: nothing outlives its job. An attempt is over when its tree is gone.
//! Not recognised: a process that both forked away twice and was started with another environment; only a
//! cgroup holds that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use proto::AttemptId;
use proto::job::{Ending, LostReason, StartFailure, Usage};
use rustix::process::{Signal, kill_process_group, test_kill_process_group};

use super::attempt::{Attempt, Cause, Phase};
use super::cgroup::{Cgroup, Cgroups};
use super::cleaner::Cleaner;
use super::log::{note, unix_ms};
use super::memory::{OomCount, Watchdog, beyond, proportional_bytes, resident_bytes};
use super::orphans::Orphans;
use super::spawn::{Spawner, system};
use super::sys;
use super::waiting::Waiting;
use crate::exec::process::{ProcessRow, ProcessTable, raw_pid, signal};
use crate::exec::protocol::{AttemptStatus, Ended, Event, StartOrder, Started};

/// Most attempts that run at once; more processes than that only thrash.
const LIVE_MAX: usize = 4096;
/// Most orders that wait for another attempt: one for each that can run.
const WAITING_MAX: usize = LIVE_MAX;
/// Most endings that are remembered; a daemon that never has them on disk gets no more starts.
const ENDED_MAX: usize = 200_000;

/// The table of attempts.
pub(super) struct Attempts {
    spawner: Spawner,
    cgroups: Option<Cgroups>,
    cleaner: Cleaner,
    waiting: Waiting,
    live: BTreeMap<AttemptId, Attempt>,
    /// Attempts by main process, until that is waited for.
    mains: HashMap<u32, AttemptId>,
    /// Attempts whose main process is gone and whose tree may not be.
    draining: BTreeSet<AttemptId>,
    ended: BTreeMap<AttemptId, Ended>,
    timers: BTreeSet<(Instant, AttemptId)>,
    /// Stops since the last look, signalled together: one walk through `/proc` serves all.
    stopping: BTreeSet<AttemptId>,
    orphans: Orphans,
    watchdog: Watchdog,
    oom_count: OomCount,
    events: Vec<Event>,
    /// Whether the daemon should hear of the events now: something of its capacity is free, or it asked.
    is_urgent: bool,
    shutting_down: bool,
}

impl Attempts {
    /// An empty table, plus `ended` from the runner before.
    pub(super) fn new(spawner: Spawner, cgroups: Option<Cgroups>, ended: Vec<Ended>) -> Self {
        Self {
            spawner,
            cgroups,
            cleaner: Cleaner::default(),
            waiting: Waiting::default(),
            live: BTreeMap::new(),
            mains: HashMap::new(),
            draining: BTreeSet::new(),
            ended: ended.into_iter().map(|ended| (ended.attempt, ended)).collect(),
            timers: BTreeSet::new(),
            stopping: BTreeSet::new(),
            orphans: Orphans::new(),
            watchdog: Watchdog::default(),
            oom_count: OomCount::default(),
            events: Vec::new(),
            is_urgent: false,
            shutting_down: false,
        }
    }

    /// Whether an attempt runs or waits.
    pub(super) fn is_busy(&self) -> bool {
        !self.live.is_empty() || self.waiting.len() > 0
    }

    /// Endings that the daemon may not have on disk.
    pub(super) fn unforgotten(&self) -> impl ExactSizeIterator<Item = &Ended> {
        self.ended.values()
    }

    /// What happened since the last call, oldest first, and whether the daemon should hear of it now.
    pub(super) fn take_events(&mut self) -> (Vec<Event>, bool) {
        (std::mem::take(&mut self.events), std::mem::take(&mut self.is_urgent))
    }

    /// Every attempt that waits or runs, or ended and is not forgotten; sorted.
    pub(super) fn list(&self) -> Vec<AttemptStatus> {
        let waiting = self.waiting.ids().map(AttemptStatus::Waiting);
        let running = self.live.values().map(|attempt| AttemptStatus::Running(attempt.started));
        let ended = self.ended.values().cloned().map(AttemptStatus::Ended);
        let mut all: Vec<_> = waiting.chain(running).chain(ended).collect();
        all.sort_unstable_by_key(AttemptStatus::attempt);
        all
    }

    /// When [`Attempts::on_time`] must be called next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|&(at, _)| at);
        [timer, self.watchdog.due()].into_iter().flatten().min()
    }

    /// Starts one attempt, keeps it until its predecessor has ended, or repeats what is known of it.
    pub(super) fn start(&mut self, order: StartOrder, now: Instant) {
        let id = order.attempt;
        if let Some(attempt) = self.live.get(&id) {
            self.is_urgent = true;
            self.events.push(Event::Started(attempt.started));
        } else if let Some(ended) = self.ended.get(&id) {
            self.is_urgent = true;
            self.events.push(Event::Ended(ended.clone()));
        } else if !self.waiting.contains(id) {
            let is_pending = |after: &AttemptId| self.live.contains_key(after) || self.waiting.contains(*after);
            match order.after.filter(is_pending) {
                Some(after) if self.waiting.len() < WAITING_MAX => self.waiting.add(order, after),
                Some(_) => self.refuse(id, system("the runner keeps no more waiting attempts")),
                None => self.start_now(&order, now),
            }
        }
    }

    /// Begins to stop an attempt; SIGTERM is sent by the next [`Attempts::settle`].
    pub(super) fn stop(&mut self, id: AttemptId, grace: Duration, now: Instant) {
        if let Some(ended) = self.ended.get(&id) {
            self.is_urgent = true;
            self.events.push(Event::Ended(ended.clone()));
        } else if self.live.contains_key(&id) {
            self.begin_stop(id, Cause::Stopped, grace, now);
        } else if self.waiting.remove(id) {
            self.report(never_started(id, Ending::Stopped));
        } else {
            self.is_urgent = true;
            self.events.push(Event::Unknown(id));
        }
    }

    /// Stops everything with its own grace and starts nothing any more.
    pub(super) fn shut_down(&mut self, now: Instant) {
        self.shutting_down = true;
        for id in self.waiting.ids().collect::<Vec<_>>() {
            self.waiting.remove(id);
            self.report(never_started(id, Ending::Lost(LostReason::RunnerDown)));
        }
        let all: Vec<_> = self.live.iter().map(|(&id, attempt)| (id, attempt.grace)).collect();
        for (id, grace) in all {
            self.begin_stop(id, Cause::Shutdown, grace, now);
        }
    }

    /// `pid` is a child that the runner started for itself, not an orphan of a job.
    pub(super) fn ignore_child(&mut self, pid: u32) {
        self.orphans.ignore(pid);
    }

    /// Drops endings that the daemon has on disk.
    pub(super) fn forget(&mut self, ids: &[AttemptId]) {
        for id in ids {
            self.ended.remove(id);
        }
    }

    /// Waits for every dead child; `on_other` gets the numbers of those that are nobody's main process.
    pub(super) fn reap(&mut self, now: Instant, mut on_other: impl FnMut(u32)) {
        while let Some(pid) = sys::dead_child() {
            let Some(id) = self.mains.get(&pid).copied() else {
                sys::reap(pid);
                self.orphans.on_reaped(pid);
                on_other(pid);
                continue;
            };
            let attempt = self.live.get_mut(&id).expect("mains and live hold the same attempts");
            if attempt.phase != Phase::Stopping {
                // Before it is waited for, so that the number cannot belong to another group.
                kill_group(pid);
            }
            attempt.exit = Some(sys::reap(pid).expect("a dead child is there until it is waited for"));
            // Its own timeout is over; a grace is not, for the rest of the tree.
            if attempt.phase == Phase::Running {
                self.set_timer(id, None);
            }
            self.mains.remove(&pid);
            self.draining.insert(id);
        }
        self.drain(now);
        self.start_ready(now);
    }

    /// Does what is due: timeouts, ends of graces, rounds of SIGKILL, memory.
    pub(super) fn on_time(&mut self, now: Instant) {
        let mut killing = Vec::new();
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            self.set_timer(id, None);
            let attempt = self.live.get(&id).expect("timers belong to live attempts");
            match attempt.phase {
                Phase::Running => self.begin_stop(id, Cause::TimedOut, attempt.grace, now),
                Phase::Stopping | Phase::Killing { .. } => killing.push(id),
            }
        }
        self.kill_round(&killing, None, now);
        if self.watchdog.due().is_some_and(|due| due <= now) {
            self.watch_memory(now);
        }
    }

    /// Sends the signals that were ordered since the last call. The loop calls it once per turn.
    pub(super) fn settle(&mut self, now: Instant) {
        let stopping = std::mem::take(&mut self.stopping);
        if !stopping.is_empty() {
            self.terminate(&stopping, now);
        }
        self.start_ready(now);
    }

    fn terminate(&mut self, stopping: &BTreeSet<AttemptId>, now: Instant) {
        self.find_orphans();
        let table = read_table();
        for id in stopping {
            let Some(attempt) = self.live.get(id) else { continue };
            // Groups first: the kernel signals a group at once, and a tree only as fast as it is walked.
            if attempt.exit.is_none() {
                signal_group(attempt.pid(), Signal::TERM);
            }
            for row in self.tree(*id, attempt, &table) {
                if row.group != attempt.pid() {
                    signal(row.id, Signal::TERM);
                }
            }
        }
        // No grace at all: the timer is due already.
        self.on_time(now);
    }

    /// Starts those whose predecessor has ended.
    fn start_ready(&mut self, now: Instant) {
        while let Some(order) = self.waiting.next_ready() {
            self.start_now(&order, now);
        }
    }

    fn start_now(&mut self, order: &StartOrder, now: Instant) {
        if let Err(failure) = self.try_start(order, now) {
            self.refuse(order.attempt, failure);
        }
    }

    fn refuse(&mut self, id: AttemptId, failure: StartFailure) {
        self.report(never_started(id, Ending::NotStarted(failure)));
    }

    fn try_start(&mut self, order: &StartOrder, now: Instant) -> Result<(), StartFailure> {
        if self.shutting_down {
            return Err(system("the runner is shutting down"));
        }
        if self.live.len() >= LIVE_MAX || self.ended.len() >= ENDED_MAX {
            return Err(system("the runner has reached its limit of running or unacknowledged attempts"));
        }
        let cgroup = self.make_cgroup(order);
        let oom_count = self.oom_count.recent(now);
        let process = match self.spawner.spawn(order) {
            Ok(process) => process,
            Err(failure) => {
                cgroup.iter().for_each(Cgroup::remove);
                return Err(failure);
            }
        };
        let cgroup = cgroup.filter(|group| {
            let added = group.add(process.pid);
            if let Err(error) = &added {
                note(format_args!("{}: watched instead, cannot enter its cgroup: {error}", order.attempt));
                group.remove();
            }
            added.is_ok()
        });
        let started = Started { attempt: order.attempt, process, started_unix_ms: unix_ms() };
        let attempt = Attempt::new(order, started, cgroup, oom_count, now);
        if attempt.is_watched() {
            self.watchdog.wake(now);
        }
        if let Some(timer) = attempt.timer {
            self.timers.insert((timer, order.attempt));
        }
        self.live.insert(order.attempt, attempt);
        self.mains.insert(process.pid, order.attempt);
        self.events.push(Event::Started(started));
        Ok(())
    }

    fn make_cgroup(&self, order: &StartOrder) -> Option<Cgroup> {
        let cgroups = self.cgroups.as_ref().filter(|_| order.memory_limit_bytes > 0)?;
        let made = cgroups.create(order.attempt, order.memory_limit_bytes, order.cpu_milli);
        made.inspect_err(|error| note(format_args!("{}: watched instead, no cgroup: {error}", order.attempt))).ok()
    }

    fn begin_stop(&mut self, id: AttemptId, cause: Cause, grace: Duration, now: Instant) {
        let Some(attempt) = self.live.get_mut(&id) else { return };
        let before = attempt.timer;
        // An attempt whose main process is gone is being killed already.
        if attempt.stop(cause, grace, now) {
            self.stopping.insert(id);
        }
        let after = attempt.timer;
        self.move_timer(id, before, after);
    }

    /// Ends those draining attempts whose tree is gone and kills what others left.
    fn drain(&mut self, now: Instant) {
        if self.draining.is_empty() {
            return;
        }
        self.find_orphans();
        let draining: Vec<_> = self.draining.iter().copied().collect();
        let mut leftover = Vec::new();
        for id in draining {
            let attempt = self.live.get(&id).expect("draining attempts are live");
            if !self.has_survivors(id, attempt) {
                self.finish(id, now);
            } else if attempt.phase == Phase::Running {
                leftover.push(id);
            }
        }
        self.kill_round(&leftover, None, now);
    }

    /// Cheap and exact for all but zombies of the group, which count until their parent waits for them.
    fn has_survivors(&self, id: AttemptId, attempt: &Attempt) -> bool {
        raw_pid(attempt.pid()).is_some_and(|group| test_kill_process_group(group).is_ok())
            || self.orphans.of(id).next().is_some()
            || attempt.cgroup.as_ref().is_some_and(Cgroup::is_populated)
    }

    /// One round of SIGKILL over the trees of `ids`; ends those whose tree turns out to be gone.
    fn kill_round(&mut self, ids: &[AttemptId], cause: Option<Cause>, now: Instant) {
        if ids.is_empty() {
            return;
        }
        self.find_orphans();
        let table = read_table();
        for &id in ids {
            let Some(attempt) = self.live.get_mut(&id) else { continue };
            let before = attempt.timer;
            attempt.kill(cause, now);
            let after = attempt.timer;
            self.move_timer(id, before, after);
            let attempt = &self.live[&id];
            if attempt.exit.is_none() {
                kill_group(attempt.pid());
            }
            attempt.cgroup.iter().for_each(Cgroup::kill);
            let tree = self.tree(id, attempt, &table);
            for row in &tree {
                signal(row.id, Signal::KILL);
            }
            let populated = attempt.cgroup.as_ref().is_some_and(Cgroup::is_populated);
            if attempt.exit.is_some() && tree.is_empty() && !populated {
                self.finish(id, now);
            } else if attempt.is_stuck(now) {
                note(format_args!("{id}: {} processes do not die; reported as ended", tree.len()));
                self.finish(id, now);
            }
        }
    }

    /// Processes of an attempt that are alive: its group, its main process's descendants, its orphans' too.
    fn tree(&self, id: AttemptId, attempt: &Attempt, table: &ProcessTable) -> Vec<ProcessRow> {
        let mut roots: BTreeSet<u32> = self.orphans.of(id).collect();
        if attempt.exit.is_none() {
            roots.insert(attempt.pid());
        }
        table.below(&roots)
    }

    fn find_orphans(&mut self) {
        let (mains, live) = (&self.mains, &self.live);
        self.orphans.find(|pid| mains.contains_key(&pid), live.keys().map(|id| (*id, live[id].pid())));
    }

    fn finish(&mut self, id: AttemptId, now: Instant) {
        let attempt = self.live.remove(&id).expect("only live attempts end");
        if let Some(timer) = attempt.timer {
            self.timers.remove(&(timer, id));
        }
        self.draining.remove(&id);
        let ended = attempt.ended(|| self.oom_count.now(now));
        attempt.cgroup.iter().for_each(Cgroup::remove);
        if let Some(directory) = attempt.cleanup_dir {
            self.cleaner.remove(directory);
        }
        self.report(ended);
    }

    fn report(&mut self, ended: Ended) {
        // With a successor the reservation is in use already, so the news can wait for more.
        self.is_urgent |= !self.waiting.on_ended(ended.attempt);
        self.events.push(Event::Ended(ended.clone()));
        // Starts that were refused for this very limit are reported, not remembered.
        if self.ended.len() < ENDED_MAX + LIVE_MAX {
            self.ended.insert(ended.attempt, ended);
        }
    }

    fn watch_memory(&mut self, now: Instant) {
        let clock = Instant::now();
        self.find_orphans();
        let table = read_table();
        let mut beyond_limit = Vec::new();
        let mut seen = Vec::new();
        for (&id, attempt) in self.live.iter().filter(|(_, attempt)| attempt.is_watched()) {
            let tree = self.tree(id, attempt, &table);
            let over = beyond(attempt.memory_limit_bytes, &tree, proportional_bytes);
            if over.is_some() {
                beyond_limit.push(id);
            }
            // Resident sizes of a tree above its limit count shared pages twice, so they are no peak.
            seen.push((id, over.unwrap_or_else(|| resident_bytes(&tree).min(attempt.memory_limit_bytes))));
        }
        let more = !seen.is_empty();
        for (id, bytes) in seen {
            let attempt = self.live.get_mut(&id).expect("listed above");
            attempt.memory_seen_bytes = attempt.memory_seen_bytes.max(bytes);
        }
        self.kill_round(&beyond_limit, Some(Cause::OutOfMemory), now);
        self.watchdog.on_measured(now, clock.elapsed(), more);
    }

    fn set_timer(&mut self, id: AttemptId, timer: Option<Instant>) {
        let Some(attempt) = self.live.get_mut(&id) else { return };
        let before = std::mem::replace(&mut attempt.timer, timer);
        self.move_timer(id, before, timer);
    }

    fn move_timer(&mut self, id: AttemptId, before: Option<Instant>, after: Option<Instant>) {
        if let Some(before) = before {
            self.timers.remove(&(before, id));
        }
        if let Some(after) = after {
            self.timers.insert((after, id));
        }
    }
}

fn never_started(attempt: AttemptId, ending: Ending) -> Ended {
    Ended { attempt, ending, usage: Usage::default(), started_unix_ms: 0, ended_unix_ms: unix_ms() }
}

/// SIGKILL to a group whose leader is alive or not yet waited for, so that the number is still its own.
fn kill_group(leader: u32) {
    signal_group(leader, Signal::KILL);
}

fn signal_group(leader: u32, signal: Signal) {
    if let Some(group) = raw_pid(leader) {
        // Nobody left in it is what everyone hopes for.
        let _ = kill_process_group(group, signal);
    }
}

fn read_table() -> ProcessTable {
    ProcessTable::read().unwrap_or_else(|error| {
        note(format_args!("cannot read /proc: {error}"));
        ProcessTable::default()
    })
}
