//! Nothing runs twice without need: in a run without faults, a job has one attempt at a time, and none after
//! one that completed (DESIGN §2.2: "never silently", and the aim of every rule of placement).

use std::collections::{BTreeMap, BTreeSet};

use proto::event::AttemptFinished;
use proto::message::Offer;
use proto::{AttemptId, JobId, JobState};

use super::super::coverage::Coverage;
use super::super::host::Host;
use super::Violation;

/// What ran, and what was offered.
#[derive(Debug)]
pub(crate) struct Once {
    calm: bool,
    runs: BTreeMap<JobId, u32>,
    completed: BTreeSet<JobId>,
    offered: BTreeSet<(usize, usize, AttemptId)>,
    pub(crate) coverage: Coverage,
}

impl Once {
    pub(crate) fn new(calm: bool) -> Self {
        Self {
            calm,
            runs: BTreeMap::new(),
            completed: BTreeSet::new(),
            offered: BTreeSet::new(),
            coverage: Coverage::default(),
        }
    }

    pub(crate) fn on_run(&mut self, host: usize, _hosts: &[Host], attempt: AttemptId) -> Result<(), Violation> {
        let running = self.runs.entry(attempt.job).or_default();
        *running += 1;
        if *running > 1 {
            self.coverage.count("attempt run twice for one job");
        }
        if attempt.number > 1 {
            self.coverage.count("job retried");
        }
        if self.calm && (*running > 1 || self.completed.contains(&attempt.job)) {
            return Err(Violation::new(
                "once",
                format!("host {host} runs {attempt} needlessly, in a run without faults"),
            ));
        }
        Ok(())
    }

    pub(crate) fn on_ended(&mut self, finished: &AttemptFinished) {
        if let Some(running) = self.runs.get_mut(&finished.attempt.job) {
            *running = running.saturating_sub(1);
        }
        if finished.ending.state() == JobState::Completed {
            self.completed.insert(finished.attempt.job);
        }
    }

    pub(crate) fn on_offer(&mut self, from: usize, to: usize, offer: &Offer, coverage: &mut Coverage) {
        for &(member, number) in &offer.members {
            let job = JobId { group: offer.group, member };
            let attempt = AttemptId { job, epoch: offer.epoch, number };
            if !self.offered.insert((from, to, attempt)) {
                coverage.count("offer repeated");
            }
        }
    }
}
