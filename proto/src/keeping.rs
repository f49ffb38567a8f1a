//! Second copies: what a job left, and its last checkpoint while it runs, is kept by one more node, and that is seen through. A copy that could not be made
//! is tried again, a keeper that is gone is replaced, and what ended while nobody looked is looked at.
//!
//! Every node computes the same keepers from what it sees, so nothing is negotiated; where two views differ, one copy
//! too many is made. Called by [`crate::core`] alone; the copying itself is the shell's.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core_io::{Effect, Now};
use crate::event::LogRef;
use crate::id::{GroupId, JobId, NodeId};
use crate::job::BundleRef;
use crate::outbox::Out;
use crate::record::{AttemptKey, JobRecord, rank};
use crate::time::Timestamp;
use crate::view::View;

/// Copies made at a time: enough to fill a network, few enough to leave a disk usable.
const UNDER_WAY_MAX: usize = 4;
/// A copy that could not be made is tried again after this, then after twice as long, and so on …
const RETRY_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Copies that wait to be made; more are found again by the next review.
const WANTED_MAX: usize = 10_000;
/// Nodes that are asked for a copy: where it should be comes first.
const PROVIDERS_MAX: usize = 8;
/// After somebody came or went, and after a start, once the others have settled.
const REVIEW_AFTER: Duration = Duration::from_secs(5);
/// Without a reason: what was missed is found.
const REVIEW_EVERY: Duration = Duration::from_secs(600);
/// What ended before is not looked at any more.
const REVIEW_DAYS: u64 = 7;

/// What a job left beyond the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Whose.
    pub job: JobId,
    /// Where it was made.
    pub worker: NodeId,
    /// Its log, unless that is small and came with the record.
    pub log: Option<LogRef>,
    /// Its outputs; of a job that runs, its last checkpoint.
    pub outputs: Option<BundleRef>,
    /// Points of its metrics, and its artifacts.
    pub tracked: Option<BundleRef>,
}

/// Copies that this node shall have.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    wanted: BTreeMap<JobId, Copy>,
    review_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Copy {
    left: Left,
    /// Whether it ended just now: then nobody but its worker has it.
    is_fresh: bool,
    tries: u32,
    next: Timestamp,
    under_way: bool,
}

impl Left {
    /// What the attempt that counts left; `None`: not ended, or nothing that is not in the journal.
    #[must_use]
    pub fn of(job: JobId, record: &JobRecord) -> Option<Self> {
        let (attempt, worker) = record.outcome.as_ref()?.attempt?;
        let key = AttemptKey::of(attempt, worker);
        let attempt = record.attempts.get(&key)?;
        let finished = attempt.finished.as_ref()?;
        let log = finished.log.clone().filter(|log| !log.is_inline());
        let tracked = attempt.tracked.as_ref().and_then(|tracked| tracked.files);
        let something = log.is_some() || finished.outputs.is_some() || tracked.is_some();
        something.then_some(Self { job, worker, log, outputs: finished.outputs, tracked })
    }

    /// The newest checkpoint of a job that has not ended.
    #[must_use]
    pub fn checkpoint_of(job: JobId, record: &JobRecord) -> Option<Self> {
        let (&(key, _), checkpoint) = record.checkpoints.last_key_value()?;
        let left = Self { job, worker: key.worker, log: None, outputs: Some(checkpoint.bundle), tracked: None };
        record.outcome.is_none().then_some(left)
    }
}

/// Nodes that are up, but for `worker`, the one that ranks first for the group first.
fn ranked(group: GroupId, worker: NodeId, view: &View) -> Vec<NodeId> {
    let others = view.nodes.keys().copied().filter(|&node| node != worker && view.is_up(node));
    let mut others: Vec<NodeId> = others.collect();
    others.sort_by_key(|&node| std::cmp::Reverse(rank(group, node)));
    others
}

/// Whether this node is one of the two that should have what a job of `worker` left: that one and the one that ranks
/// first; the two that rank first where it is gone.
fn is_keeper(left: &Left, view: &View) -> bool {
    let others = if view.is_up(left.worker) { 1 } else { 2 };
    left.worker != view.me && ranked(left.job.group, left.worker, view).iter().take(others).any(|&node| node == view.me)
}

/// Other nodes that may have what a job left, likeliest first.
pub(crate) fn providers(left: &Left, view: &View) -> Vec<NodeId> {
    let from = view.is_up(left.worker).then_some(left.worker);
    let all = from.into_iter().chain(ranked(left.job.group, left.worker, view));
    all.filter(|&node| node != view.me).take(PROVIDERS_MAX).collect()
}

impl Keeping {
    /// Something was left just now.
    pub(crate) fn on_left(&mut self, now: Now, left: Left, view: &View) {
        self.want(now, left, true, view);
    }

    fn want(&mut self, now: Now, left: Left, is_fresh: bool, view: &View) {
        let known = self.wanted.get(&left.job).is_some_and(|copy| copy.left == left);
        if !known && is_keeper(&left, view) && self.wanted.len() < WANTED_MAX {
            self.wanted.insert(left.job, Copy { left, is_fresh, tries: 0, next: now.at, under_way: false });
        }
    }

    /// What the shell found among the jobs that ended lately.
    pub(crate) fn on_reviewed(&mut self, now: Now, all: Vec<Left>, view: &View) {
        for left in all {
            self.want(now, left, false, view);
        }
    }

    /// A copy was made, or could not be.
    pub(crate) fn on_kept(&mut self, now: Now, left: &Left, complete: bool) {
        let Some(copy) = self.wanted.get_mut(&left.job).filter(|copy| copy.left == *left) else { return };
        if complete {
            self.wanted.remove(&left.job);
            return;
        }
        copy.under_way = false;
        copy.next = now.at + RETRY_MIN.saturating_mul(1 << copy.tries.min(16)).min(RETRY_MAX);
        copy.tries += 1;
    }

    /// Somebody came or went.
    pub(crate) fn on_alarm(&mut self, now: Now) {
        let soon = now.at + REVIEW_AFTER;
        self.review_at = Some(self.review_at.map_or(soon, |at| at.min(soon)));
    }

    /// Looks again at what ended lately when that is due.
    pub(crate) fn on_tick(&mut self, now: Now, view: &View, out: &mut Out) {
        let due = *self.review_at.get_or_insert(now.at + REVIEW_AFTER);
        if due <= now.at {
            self.review_at = Some(now.at + REVIEW_EVERY);
            if view.peers().next().is_some() {
                let oldest_unix_ms = now.unix_ms.saturating_sub(REVIEW_DAYS * 24 * 3_600_000);
                out.effects.push(Effect::Review { oldest_unix_ms });
                self.review_checkpoints(now, view);
            }
        }
        self.wanted.retain(|_, copy| copy.under_way || is_keeper(&copy.left, view));
        self.begin(now, view, out);
    }

    /// Those of jobs that have not ended are all at hand.
    fn review_checkpoints(&mut self, now: Now, view: &View) {
        for (&group, live) in &view.groups {
            for (&member, record) in &live.jobs {
                if let Some(left) = Left::checkpoint_of(JobId { group, member }, record) {
                    self.want(now, left, false, view);
                }
            }
        }
    }

    /// Orders copies that are due.
    pub(crate) fn begin(&mut self, now: Now, view: &View, out: &mut Out) {
        let mut under_way = self.wanted.values().filter(|copy| copy.under_way).count();
        for copy in self.wanted.values_mut().filter(|copy| !copy.under_way && copy.next <= now.at) {
            if under_way >= UNDER_WAY_MAX {
                return;
            }
            let providers = providers(&copy.left, view);
            if providers.is_empty() {
                continue;
            }
            under_way += 1;
            copy.under_way = true;
            let unless_held = !std::mem::take(&mut copy.is_fresh);
            out.effects.push(Effect::Keep { left: Box::new(copy.left.clone()), providers, unless_held });
        }
    }
}

#[cfg(test)]
#[path = "keeping_tests.rs"]
mod tests;
