//! I6: a stopped job has no running attempt once its node is reachable.
//!
//! Source: DESIGN §14. Reachable is taken literally: the wish, or the outcome, is on the disk of the very node
//! that runs the attempt, and its daemon is up and has adopted; then the process is told to stop within a bound.
//! Planted bug: `ignore-stop`.

use std::collections::BTreeMap;

use proto::record::{Record, RecordKey};
use proto::{AttemptId, JobId, JobState};

use super::super::host::Host;
use super::super::runner::Phase;
use super::Violation;

/// A daemon that knows has this long: one tick is enough, an fsync and a look-up on a slow disk are not counted tightly.
const BOUND_US: u64 = 5_000_000;

/// Since when attempts run that should not.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    since: BTreeMap<(usize, AttemptId), u64>,
}

impl Stops {
    pub(crate) fn check(&mut self, at: usize, host: &Host, now_us: u64) -> Result<(), Violation> {
        let knows = host.daemon.as_ref().is_some_and(|daemon| daemon.adopted);
        self.since.retain(|(on, attempt), _| *on != at || (knows && host.runner.processes.contains_key(attempt)));
        for (&attempt, process) in host.runner.processes.iter().filter(|_| knows) {
            let runs = !process.halted && !matches!(process.phase, Phase::Ended { .. });
            if !runs || !is_stopped(host, attempt.job) {
                self.since.remove(&(at, attempt));
                continue;
            }
            let since = *self.since.entry((at, attempt)).or_insert(now_us);
            if since + BOUND_US < now_us {
                return Err(Violation::new(
                    "I6",
                    format!("host {at} knows that {} is stopped and runs {attempt}", attempt.job),
                ));
            }
        }
        Ok(())
    }
}

fn is_stopped(host: &Host, job: JobId) -> bool {
    let group = host.disk.records.get(&RecordKey::Group(job.group));
    let whole = matches!(group, Some(Record::Group(record)) if record.stop.is_some());
    let member = host.disk.records.get(&RecordKey::Job(job));
    whole
        || matches!(
            member,
            Some(Record::Job(record)) if record.stop.is_some() || record.state() == JobState::Stopped
        )
}
