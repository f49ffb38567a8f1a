//! What becomes of a job, told from its record alone: every coordinator, the first and each that takes
//! over, comes to the same answer.

use crate::event::AttemptFinished;
use crate::id::{AttemptId, JobId, NodeId};
use crate::job::{Ending, GroupSpec, JobState, LostReason, OnLost, StartFailure};
use crate::record::{AttemptKey, AttemptRecord, JobRecord};

/// So many lost attempts fail a job: a poison job does not walk through the lab.
pub const LOST_MAX: usize = 5;
/// So many nodes may fail to prepare a job for reasons of their own before it fails.
pub const UNPREPARED_MAX: usize = 5;

/// What becomes of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ended.
    Done {
        /// The attempt that counts, and where it ran.
        attempt: Option<(AttemptId, NodeId)>,
        /// How.
        ending: Ending,
    },
    /// An attempt runs.
    Running,
    /// It needs an attempt, unless one is on its way.
    Needed,
}

/// Judges `job` by its record.
#[must_use]
pub fn judge(spec: &GroupSpec, job: JobId, record: &JobRecord, stop_wished: bool) -> Verdict {
    let done = |(key, ending): (&AttemptKey, &Ending)| Verdict::Done {
        attempt: Some((key.id(job), key.worker)),
        ending: ending.clone(),
    };
    let finished = || record.attempts.iter().filter_map(|(key, attempt)| Some((key, ending_of(attempt)?)));
    // The first that completed counts, even one that was given up: the work is done.
    if let Some(completed) = finished().find(|(_, ending)| ending.state() == JobState::Completed) {
        return done(completed);
    }
    if record.running().next().is_some() {
        return Verdict::Running;
    }
    if stop_wished {
        let last = finished().next_back();
        let attempt = last.map(|(key, _)| (key.id(job), key.worker));
        return Verdict::Done { attempt, ending: Ending::Stopped };
    }
    let lost = || finished().filter(|(_, ending)| matches!(ending, Ending::Lost(_)));
    if let Some(last) = lost().next_back().filter(|_| spec.on_lost == OnLost::Fail) {
        return done(last);
    }
    if let Some((key, _)) = lost().next_back().filter(|_| lost().count() >= LOST_MAX) {
        return done((key, &Ending::Lost(LostReason::CrashLimit)));
    }
    let unprepared = || finished().filter(|(_, ending)| is_node_specific(ending));
    if let Some(last) = unprepared().next_back().filter(|_| unprepared().count() >= UNPREPARED_MAX) {
        return done(last);
    }
    let failed = || finished().filter(|(_, ending)| ending.state() == JobState::Failed && counts(ending));
    match failed().next_back() {
        Some(last) if failed().count() > spec.retries as usize => done(last),
        _ => Verdict::Needed,
    }
}

/// Whether another node may well succeed where this one could not even start.
#[must_use]
pub fn is_node_specific(ending: &Ending) -> bool {
    matches!(
        ending,
        Ending::NotStarted(
            StartFailure::BundleMissing(_)
                | StartFailure::DiskFull
                | StartFailure::DataMissing(_)
                | StartFailure::SecretMissing(_)
        )
    )
}

/// Failures that use up a retry.
fn counts(ending: &Ending) -> bool {
    !matches!(ending, Ending::Lost(_)) && !is_node_specific(ending)
}

/// How an attempt ended: as its worker says, else as a coordinator gave it up.
fn ending_of(attempt: &AttemptRecord) -> Option<&Ending> {
    const NODE_DOWN: &Ending = &Ending::Lost(LostReason::NodeDown);
    const RUNNER_DOWN: &Ending = &Ending::Lost(LostReason::RunnerDown);
    const NOT_FOUND: &Ending = &Ending::Lost(LostReason::NotFound);
    const CRASH_LIMIT: &Ending = &Ending::Lost(LostReason::CrashLimit);
    if let Some(AttemptFinished { ending, .. }) = attempt.finished.as_deref() {
        return Some(ending);
    }
    Some(match attempt.lost? {
        LostReason::NodeDown => NODE_DOWN,
        LostReason::RunnerDown => RUNNER_DOWN,
        LostReason::NotFound => NOT_FOUND,
        LostReason::CrashLimit => CRASH_LIMIT,
    })
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
