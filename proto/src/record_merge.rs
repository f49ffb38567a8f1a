//! Folds a record into a record: what a snapshot is taken in with. Each field keeps the law of its events, so
//! merging the folds of two sets of entries gives the fold of their union: commutative, associative, idempotent
//! (`record_tests.rs` tries it). A group's tally is not merged but follows its jobs.

use super::{
    AttemptRecord, ClusterRecord, GroupRecord, JobRecord, Marks, NodeRecord, Record, RecordKey, Records, Stamp,
    earliest, edit_group, edit_job, edit_node, fullest, greatest, latest, raise_claim,
};
use crate::id::GroupId;
use crate::plant::{self, Plant};
use crate::project;
use crate::value;

/// Folds `record`, found under `key` elsewhere, into `records`. A record of another kind than its key is left out.
pub fn merge(key: &RecordKey, record: Record, records: &mut impl Records) {
    match (key, record) {
        (RecordKey::Group(group), Record::Group(theirs)) => {
            edit_group(records, *group, |mine| mine.merge(*group, theirs));
        }
        (RecordKey::Job(job), Record::Job(theirs)) => edit_job(records, *job, |mine| mine.merge(job.group, theirs)),
        (RecordKey::Node(node), Record::Node(theirs)) => edit_node(records, *node, |mine| mine.merge(theirs)),
        (RecordKey::Project(name), Record::Project(theirs)) => project::merge(records, name, theirs),
        (RecordKey::Cluster, Record::Cluster(theirs)) => {
            let mine = match records.get(key) {
                Some(Record::Cluster(record)) => record.secret_number,
                _ => 0,
            };
            let secret_number = mine.max(theirs.secret_number);
            records.put(RecordKey::Cluster, Record::Cluster(ClusterRecord { secret_number }));
        }
        (RecordKey::Value(key), Record::Value(theirs)) => value::merge(records, *key, theirs),
        _ => {}
    }
}

pub(crate) fn latest_of<T>(slot: &mut Option<(Stamp, T)>, theirs: Option<(Stamp, T)>) {
    if let Some((stamp, value)) = theirs {
        latest(slot, stamp, value);
    }
}

fn earliest_of<T: Ord>(slot: &mut Option<T>, theirs: Option<T>) {
    if let Some(value) = theirs {
        earliest(slot, value);
    }
}

impl GroupRecord {
    fn merge(&mut self, group: GroupId, theirs: Self) {
        if let Some(new) = theirs.submitted
            && self.submitted.as_ref().is_none_or(|old| new.position < old.position)
        {
            self.submitted = Some(new);
        }
        if let Some(claim) = theirs.claim {
            raise_claim(self, group, claim);
        }
        earliest_of(&mut self.stop, theirs.stop);
        self.marks.merge(theirs.marks);
    }
}

impl JobRecord {
    fn merge(&mut self, group: GroupId, theirs: Self) {
        for (key, attempt) in theirs.attempts {
            self.attempts.entry(key).or_default().merge(attempt);
        }
        for (place, checkpoint) in theirs.checkpoints {
            self.add_checkpoint(place, checkpoint);
        }
        if let Some(outcome) = theirs.outcome {
            self.raise_outcome(group, outcome);
        }
        earliest_of(&mut self.stop, theirs.stop);
        self.marks.merge(theirs.marks);
    }
}

impl AttemptRecord {
    fn merge(&mut self, theirs: Self) {
        earliest_of(&mut self.started_unix_ms, theirs.started_unix_ms);
        if let Some(finished) = theirs.finished {
            fullest(&mut self.finished, finished);
        }
        earliest_of(&mut self.lost, theirs.lost);
        if let Some(tracked) = theirs.tracked {
            greatest(&mut self.tracked, tracked);
        }
    }
}

impl Marks {
    fn merge(&mut self, theirs: Self) {
        latest_of(&mut self.archived, theirs.archived);
        self.deleted |= theirs.deleted && !plant::is_planted(Plant::ForgetTombstones);
        for (key, (stamp, value)) in theirs.tags {
            self.put_tag(stamp, &key, value);
        }
        latest_of(&mut self.note, theirs.note);
        latest_of(&mut self.kept, theirs.kept);
    }
}

impl NodeRecord {
    fn merge(&mut self, theirs: Self) {
        if let Some(new) = theirs.joined
            && self.joined.as_ref().is_none_or(|old| old.0 < new.0)
        {
            self.joined = Some(new);
        }
        self.removed |= theirs.removed;
        latest_of(&mut self.labels, theirs.labels);
        latest_of(&mut self.drained, theirs.drained);
    }
}
