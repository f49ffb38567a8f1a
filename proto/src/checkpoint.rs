//! Checkpoints of attempts that run: numbered where they are made, told in the log, kept by a second node
//! ([`crate::keeping`]), handed to the next attempt. Called by [`crate::core`] alone.

use std::collections::BTreeMap;

use crate::core_io::RunCheckpoint;
use crate::event::Event;
use crate::id::{AttemptId, JobId, NodeId};
use crate::job::BundleRef;
use crate::keeping::{Left, providers};
use crate::outbox::Out;
use crate::record::{AttemptKey, CHECKPOINTS_MAX, Checkpoint, CheckpointMap};
use crate::view::View;

/// Numbers of the checkpoints that this node told, per attempt, until their records tell them.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    told: BTreeMap<AttemptId, (u32, BundleRef)>,
}

impl Checkpoints {
    /// The checkpoint directory of an attempt that runs here has this content, which is on this disk.
    pub(crate) fn on_saved(
        &mut self,
        attempt: AttemptId,
        bundle: BundleRef,
        saved_unix_ms: u64,
        view: &View,
        out: &mut Out,
    ) {
        let live = view.groups.get(&attempt.job.group);
        let Some(live) = live.filter(|_| !view.has_outcome(attempt.job)) else { return };
        let key = AttemptKey::of(attempt, view.me);
        let record = live.jobs.get(&attempt.job.member);
        let logged = record.and_then(|record| {
            let of_attempt = record.checkpoints.range((key, 0)..=(key, u32::MAX));
            of_attempt.map(|(&(_, number), checkpoint)| (number, checkpoint.bundle)).next_back()
        });
        let last = logged.max(self.told.get(&attempt).copied());
        // A daemon that has just started does not know what its last life told.
        if last.is_some_and(|(_, told)| told == bundle) {
            return;
        }
        let number = last.map_or(1, |(number, _)| number + 1);
        self.told.insert(attempt, (number, bundle));
        out.events.push(Event::CheckpointSaved { attempt, number, bundle, saved_unix_ms });
    }

    /// These attempts have ended.
    pub(crate) fn forget(&mut self, attempts: &[AttemptId]) {
        for attempt in attempts {
            self.told.remove(attempt);
        }
    }
}

/// From where the next attempt of `job` goes on, as far as its coordinator, which `offered` it, and this node know.
pub(crate) fn for_run(job: JobId, offered: &CheckpointMap, view: &View) -> Option<RunCheckpoint> {
    let record = view.groups.get(&job.group).and_then(|live| live.jobs.get(&job.member));
    let mut known = record.map(|record| record.checkpoints.clone()).unwrap_or_default();
    known.extend(offered);
    let (&(key, _), newest) = known.last_key_value()?;
    let left = Left { job, worker: key.worker, log: None, outputs: Some(newest.bundle), tracked: None };
    let bundle = |(&(key, _), checkpoint): (&(AttemptKey, u32), &Checkpoint)| (key.worker, checkpoint.bundle);
    let bundles: Vec<(NodeId, BundleRef)> = known.iter().rev().map(bundle).take(CHECKPOINTS_MAX).collect();
    Some(RunCheckpoint { bundles, providers: providers(&left, view) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ContentId;
    use crate::id::GroupId;
    use crate::record::{AttemptRecord, JobRecord};

    const ME: NodeId = NodeId([1; 32]);

    fn bundle(number: u8) -> BundleRef {
        BundleRef { manifest: ContentId([number; 32]), total_bytes: 1, files: 1 }
    }

    fn attempt(number: u32) -> AttemptId {
        AttemptId { job: JobId::only(GroupId([9; 16])), epoch: 1, number }
    }

    /// A view in which the first attempt, of this node, has told `known`.
    fn view(known: &[(u32, u8)]) -> View {
        let key = AttemptKey { epoch: 1, number: 1, worker: ME };
        let mut record = JobRecord::default();
        record.attempts.insert(key, AttemptRecord { started_unix_ms: Some(1), ..AttemptRecord::default() });
        for &(number, content) in known {
            record.checkpoints.insert((key, number), Checkpoint { bundle: bundle(content), saved_unix_ms: 5 });
        }
        let mut view = View::new(ME);
        let job = attempt(1).job;
        view.groups.entry(job.group).or_default().jobs.insert(job.member, record);
        view
    }

    fn saved(checkpoints: &mut Checkpoints, content: u8, view: &View) -> Vec<Event> {
        let mut out = Out::default();
        checkpoints.on_saved(attempt(1), bundle(content), 7, view, &mut out);
        out.events
    }

    fn told(number: u32, content: u8) -> Event {
        Event::CheckpointSaved { attempt: attempt(1), number, bundle: bundle(content), saved_unix_ms: 7 }
    }

    #[test]
    fn checkpoints_are_counted_and_the_same_is_not_told_twice() {
        let mut checkpoints = Checkpoints::default();
        assert_eq!(saved(&mut checkpoints, 1, &view(&[])), [told(1, 1)]);
        assert_eq!(saved(&mut checkpoints, 1, &view(&[])), [], "its record has not come yet");
        assert_eq!(saved(&mut checkpoints, 2, &view(&[(1, 1)])), [told(2, 2)]);
        let mut next_life = Checkpoints::default();
        assert_eq!(saved(&mut next_life, 2, &view(&[(1, 1), (2, 2)])), []);
        assert_eq!(saved(&mut next_life, 1, &view(&[(1, 1), (2, 2)])), [told(3, 1)], "going back is news");
    }

    #[test]
    fn the_next_attempt_is_told_the_newest_first() {
        let (job, none) = (attempt(2).job, CheckpointMap::new());
        let run = for_run(job, &none, &view(&[(3, 3), (4, 4)])).expect("there are two");
        assert_eq!(run.bundles, [(ME, bundle(4)), (ME, bundle(3))]);
        assert_eq!(for_run(job, &none, &view(&[])), None);
        // The offer is here before the record that it was made for.
        let other = AttemptKey { epoch: 1, number: 2, worker: NodeId([7; 32]) };
        let offered = CheckpointMap::from([((other, 1), Checkpoint { bundle: bundle(9), saved_unix_ms: 1 })]);
        let run = for_run(job, &offered, &view(&[(3, 3), (4, 4)])).expect("there are three");
        assert_eq!(run.bundles, [(NodeId([7; 32]), bundle(9)), (ME, bundle(4))]);
    }
}
