//! I2: at most one final outcome per job, unchanging within a connected cluster.
//!
//! Source: DESIGN §2.2, §9.4 and §14. In parts that can be told at once:
//! a node decides no job that its own disk says is decided; none twice in one life; only in a group whose
//! highest claim on its disk is its own; and in a cluster without trouble for a while, none that another node
//! decided a while ago. What is decided was seen: a completed job has a process that exited with 0, a stopped
//! one a wish. What a node shows as final is on a second disk. At the end all nodes show the same outcome.
//! Planted bugs: `decide-twice`, `no-fence`.

use std::collections::{BTreeMap, BTreeSet};

use proto::event::{AttemptFinished, JobOutcome};
use proto::record::{Record, RecordKey};
use proto::{GroupId, JobId, JobState};

use super::super::coverage::Coverage;
use super::super::host::Host;
use super::super::runner::Runner;
use super::Violation;

/// A cluster is connected when nothing was wrong for this long: time to detect, to sync, to hear.
const CALM_US: u64 = 15_000_000;

/// What was decided, by whom.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    /// Per job: host, its life, and when.
    decided: BTreeMap<JobId, Vec<(usize, u64, u64)>>,
    completed: BTreeSet<JobId>,
    pub(crate) coverage: Coverage,
}

impl Outcomes {
    pub(crate) fn on_process_ended(&mut self, _host: usize, finished: &AttemptFinished) {
        if finished.ending.state() == JobState::Completed {
            self.completed.insert(finished.attempt.job);
        }
    }

    pub(crate) fn on_host_died(&mut self, _host: usize, _runner: &Runner) {}

    pub(crate) fn on_decided(
        &mut self,
        host: usize,
        hosts: &[Host],
        group: GroupId,
        jobs: &[JobOutcome],
        now_us: u64,
        calm_for_us: u64,
    ) -> Result<(), Violation> {
        let fail = |what: String| Err(Violation::new("I2", what));
        let machine = &hosts[host];
        if let Some(Record::Group(record)) = machine.disk.records.get(&RecordKey::Group(group))
            && record.claim.is_some_and(|claim| claim.coordinator != machine.id)
        {
            return fail(format!("host {host} decides in group {group}, which its own disk says another coordinates"));
        }
        for outcome in jobs {
            let job = JobId { group, member: outcome.member };
            let record = match machine.disk.records.get(&RecordKey::Job(job)) {
                Some(Record::Job(record)) => Some(record),
                _ => None,
            };
            if record.is_some_and(|record| record.outcome.is_some()) {
                return fail(format!("host {host} decides {job}, which its own disk says is decided"));
            }
            let earlier = self.decided.entry(job).or_default();
            if earlier.iter().any(|&(by, life, _)| by == host && life == machine.life) {
                return fail(format!("host {host} decides {job} twice in one life"));
            }
            let old = |&&(by, _, at): &&(usize, u64, u64)| {
                at + CALM_US <= now_us && !hosts[by].lost_disk && hosts[by].daemon.is_some()
            };
            if let Some((by, ..)) = earlier.iter().find(old).filter(|_| calm_for_us >= CALM_US) {
                return fail(format!("host {host} decides {job}, which host {by} decided long ago, in a calm cluster"));
            }
            earlier.push((host, machine.life, now_us));
            if outcome.ending.state() == JobState::Completed && !self.completed.contains(&job) {
                return fail(format!("{job} is decided completed, but no process of it exited with 0"));
            }
            let wished = || {
                let member = record.is_some_and(|record| record.stop.is_some());
                let whole = machine.disk.records.get(&RecordKey::Group(group));
                member || matches!(whole, Some(Record::Group(record)) if record.stop.is_some())
            };
            if outcome.ending.state() == JobState::Stopped && !wished() {
                return fail(format!("{job} is decided stopped, but nobody wished it"));
            }
        }
        Ok(())
    }

    /// What a node believes to be held elsewhere, and so shows as final, is on another disk.
    pub(crate) fn check_held(&self, host: usize, hosts: &[Host]) -> Result<(), Violation> {
        let Some(daemon) = &hosts[host].daemon else { return Ok(()) };
        for (log, &seq) in &daemon.core.view().held.0 {
            let position = proto::entry::Position { log: *log, seq };
            let has = |other: &Host| other.disk.vector().covers(position);
            let mut others = hosts.iter().enumerate().filter(|(at, _)| *at != host).map(|(_, other)| other);
            // Who lost its disk had it when it said so.
            if !others.any(|other| other.lost_disk || has(other)) {
                let life = log.incarnation;
                return Err(Violation::new("I2", format!("host {host} takes {seq} of its life {life} for held")));
            }
        }
        Ok(())
    }

    /// At the end all nodes show the same.
    pub(crate) fn check_final(&self, hosts: &[Host]) -> Result<(), Violation> {
        let mut shown: BTreeMap<JobId, (usize, JobState)> = BTreeMap::new();
        for (at, host) in hosts.iter().enumerate().filter(|(_, host)| !host.gone) {
            for (key, record) in &host.disk.records {
                let (RecordKey::Job(job), Record::Job(record)) = (key, record) else { continue };
                let (first, state) = *shown.entry(*job).or_insert((at, record.state()));
                if state != record.state() {
                    let now = record.state();
                    return Err(Violation::new("I2", format!("{job} is {state} on host {first} and {now} on {at}")));
                }
            }
        }
        Ok(())
    }
}
