//! What a worker claimed ahead and cannot run yet: in order, with the sums that decide whether more is claimed.
//!
//! Owned by [`crate::worker`], which keeps the attempts themselves.

use std::collections::{BTreeMap, VecDeque};

use crate::capacity::Requirement;
use crate::id::{AttemptId, GroupId};

/// Claimed attempts that are not handed to the shell yet, with their sums.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) order: VecDeque<AttemptId>,
    pub(crate) by_group: BTreeMap<GroupId, u64>,
    pub(crate) cpu_milli: u64,
    pub(crate) memory_bytes: u64,
    /// How many of them need a graphics processor.
    pub(crate) gpu_jobs: usize,
}

impl Waiting {
    pub(crate) fn add(&mut self, attempt: AttemptId, requirement: &Requirement) {
        self.order.push_back(attempt);
        *self.by_group.entry(attempt.job.group).or_default() += 1;
        self.cpu_milli += u64::from(requirement.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_add(requirement.memory.0);
        self.gpu_jobs += usize::from(requirement.gpus > 0);
    }

    /// Everything but its place in the order.
    pub(crate) fn subtract(&mut self, attempt: AttemptId, requirement: &Requirement) {
        if let Some(count) = self.by_group.get_mut(&attempt.job.group) {
            *count -= 1;
            if *count == 0 {
                self.by_group.remove(&attempt.job.group);
            }
        }
        self.cpu_milli -= u64::from(requirement.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_sub(requirement.memory.0);
        self.gpu_jobs -= usize::from(requirement.gpus > 0);
    }
}
