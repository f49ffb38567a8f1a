//! The replicated state: records, each folded from events, `(old record, event) -> new record`.
//!
//! The store applies [`apply`] to every entry exactly once per log position and in log order per author;
//! across authors the order does not matter: every merge here is commutative and associative, and the
//! tests at the end try random orders. What a merge is, is told at each field.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec::Word;
use crate::entry::{Position, VerifiedEntry};
use crate::event::{AttemptFinished, Event, JobOutcome, Mark};
use crate::id::{AttemptId, GroupId, JobId, Member, NodeId};
use crate::job::{BundleRef, Ending, GroupSpec, JobState, LostReason};
use crate::plant::{self, Plant};
use crate::project::{self, ProjectRecord};
use crate::time::Hlc;
use crate::track::Tracked;
use crate::value::{self, ValueKey, ValueRecord};

/// Checkpoints of a job that its record names.
pub(crate) const CHECKPOINTS_MAX: usize = 2;

/// Under what a record is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordKey {
    /// A [`GroupRecord`].
    Group(GroupId),
    /// A [`JobRecord`].
    Job(JobId),
    /// A [`NodeRecord`].
    Node(NodeId),
    /// A [`ProjectRecord`].
    Project(String),
    /// The one [`ClusterRecord`].
    Cluster,
    /// A [`ValueRecord`].
    Value(ValueKey),
}

/// A record of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Under [`RecordKey::Group`].
    Group(GroupRecord),
    /// Under [`RecordKey::Job`].
    Job(JobRecord),
    /// Under [`RecordKey::Node`].
    Node(NodeRecord),
    /// Under [`RecordKey::Project`].
    Project(ProjectRecord),
    /// Under [`RecordKey::Cluster`].
    Cluster(ClusterRecord),
    /// Under [`RecordKey::Value`].
    Value(ValueRecord),
}

/// Where the store keeps records while one batch of entries is folded.
pub trait Records {
    /// The record as the batch has left it so far.
    fn get(&mut self, key: &RecordKey) -> Option<Record>;
    /// Replaces it.
    fn put(&mut self, key: RecordKey, record: Record);
}

/// A group as all nodes know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// What to run; `None` while only events of other authors about it have come. First position wins.
    pub submitted: Option<Submitted>,
    /// Who coordinates it: the claim that ranks highest.
    pub claim: Option<Claim>,
    /// A user wants all of it to stop: the earliest wish.
    pub stop: Option<Hlc>,
    /// What people see of it.
    pub marks: Marks,
    /// How its jobs stand: always the sum over its job records.
    pub tally: Tally,
}

/// A group's acceptance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// Where in the log.
    pub position: Position,
    /// When, by the accepting node's hybrid clock.
    pub hlc: Hlc,
    /// What to run. Shared: a group's record is folded anew with every job of it.
    pub spec: Arc<GroupSpec>,
}

/// Who coordinates a group. Ordered: the greater claim fences the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// 1 for the accepting node, then one more with every take-over.
    pub epoch: u32,
    /// Who.
    pub coordinator: NodeId,
}

/// Counts of a group's jobs; those in no count are queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// With a started attempt that has not ended.
    pub running: u32,
    /// Ended with exit code 0.
    pub completed: u32,
    /// Ended otherwise.
    pub failed: u32,
    /// Ended because a user asked.
    pub stopped: u32,
}

/// A job as all nodes know it; absent while nothing has happened to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// All attempts: a union.
    pub attempts: BTreeMap<AttemptKey, AttemptRecord>,
    /// Where its newest checkpoints are, by attempt and number: the greatest of a union. The last but one is for when
    /// the last was made a moment before its node was lost.
    pub checkpoints: CheckpointMap,
    /// How it ended: the outcome whose claim ranks highest, of one claim the first.
    pub outcome: Option<Outcome>,
    /// A user wants this member of an array to stop: the earliest wish.
    pub stop: Option<Hlc>,
    /// What people see of this member of an array.
    pub marks: Marks,
}

/// One attempt among a job's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptKey {
    /// Of the coordinator that ordered it.
    pub epoch: u32,
    /// Counted by that coordinator.
    pub number: u32,
    /// Where it was claimed.
    pub worker: NodeId,
}

/// What is known of an attempt. Each field is written once, by one author; the earliest value wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Milliseconds since 1970 by the worker's clock.
    pub started_unix_ms: Option<u64>,
    /// How it ended.
    pub finished: Option<Box<AttemptFinished>>,
    /// A coordinator gave it up; it may finish all the same.
    pub lost: Option<LostReason>,
    /// What it told of itself; the highest revision.
    pub tracked: Option<Box<Tracked>>,
}

/// Checkpoints by the attempt that made them and their number in it.
pub type CheckpointMap = BTreeMap<(AttemptKey, u32), Checkpoint>;

/// What was in a job's checkpoint directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The directory.
    pub bundle: BundleRef,
    /// Milliseconds since 1970, by the worker's clock.
    pub saved_unix_ms: u64,
}

/// A job's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Who says so.
    pub claim: Claim,
    /// Where in that coordinator's log.
    pub position: Position,
    /// When, by the coordinator's hybrid clock.
    pub hlc: Hlc,
    /// The attempt that counts.
    pub attempt: Option<(AttemptId, NodeId)>,
    /// How it ended.
    pub ending: Ending,
}

/// What people changed. Each is last writer wins by [`Stamp`], but [`Marks::deleted`], which stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Hidden from listings by default.
    pub archived: Option<(Stamp, bool)>,
    /// Gone for people; a tombstone.
    pub deleted: bool,
    /// Tags; `None` for one that was taken off.
    pub tags: BTreeMap<String, (Stamp, Option<String>)>,
    /// Free text.
    pub note: Option<(Stamp, String)>,
    /// Its blobs are not collected.
    pub kept: Option<(Stamp, bool)>,
}

/// Orders writes: by time, then, so that no two are equal, by place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// When.
    pub hlc: Hlc,
    /// Which entry, and so who.
    pub position: Position,
    /// Which event of that entry.
    pub event: u32,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Name and software of its latest start; `None` until its own log has come.
    pub joined: Option<(Stamp, String, String)>,
    /// Shut out for ever; a tombstone.
    pub removed: bool,
    /// Labels that users gave; last writer wins.
    pub labels: Option<(Stamp, BTreeMap<String, String>)>,
    /// Whether it takes no more work; last writer wins.
    pub drained: Option<(Stamp, bool)>,
}

/// What concerns the cluster as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Number of the current secret: the highest.
    pub secret_number: u32,
}

impl Word for Record {
    const KIND: u16 = 12;
}

/// Folds one entry into `records`.
pub fn apply(entry: &VerifiedEntry, records: &mut impl Records) {
    for (stamp, event) in stamped(entry) {
        apply_event(stamp, event, records);
    }
}

/// The events of an entry, each with its place.
pub fn stamped(entry: &VerifiedEntry) -> impl Iterator<Item = (Stamp, &Event)> {
    let stamp = |at| Stamp { hlc: entry.hlc(), position: entry.position(), event: at };
    (0..).map(stamp).zip(entry.events())
}

/// Smallest of what there is: the law of fields that are written once.
fn earliest<T: Ord>(slot: &mut Option<T>, value: T) {
    match slot {
        Some(old) if *old <= value => {}
        _ => *slot = Some(value),
    }
}

/// Of two ends of one attempt, the one that says more: a second life can find less of what an attempt left.
fn fullest(slot: &mut Option<Box<AttemptFinished>>, finished: Box<AttemptFinished>) {
    let rank = |finished: &AttemptFinished| (finished.log.is_none(), finished.outputs.is_none(), finished.clone());
    if slot.as_deref().is_none_or(|old| rank(&finished) < rank(old)) {
        *slot = Some(finished);
    }
}

/// The greatest: the law of what counts up. Two lives of a worker may both count from one; all agree all the same.
fn greatest<T: Ord>(slot: &mut Option<T>, value: T) {
    if slot.as_ref().is_none_or(|old| *old < value) {
        *slot = Some(value);
    }
}

/// Greatest stamp wins: the law of fields that anybody may overwrite.
pub(crate) fn latest<T>(slot: &mut Option<(Stamp, T)>, stamp: Stamp, value: T) {
    match slot {
        Some((old, _)) if *old >= stamp => {}
        _ => *slot = Some((stamp, value)),
    }
}

/// Folds one event that stands at `stamp`: an entry's, or one that a snapshot carried along unfolded.
pub fn apply_event(stamp: Stamp, event: &Event, records: &mut impl Records) {
    let position = stamp.position;
    let author = position.log.author;
    match event {
        Event::GroupSubmitted { group, spec, .. } => edit_group(records, *group, |record| {
            if record.submitted.as_ref().is_none_or(|old| position < old.position) {
                record.submitted = Some(Submitted { position, hlc: stamp.hlc, spec: Arc::new(GroupSpec::clone(spec)) });
            }
            raise_claim(record, *group, Claim { epoch: 1, coordinator: author });
        }),
        Event::TookOver { group, epoch } => edit_group(records, *group, |record| {
            raise_claim(record, *group, Claim { epoch: *epoch, coordinator: author });
        }),
        Event::AttemptStarted { attempt, started_unix_ms } => edit_attempt(records, *attempt, author, |record| {
            earliest(&mut record.started_unix_ms, *started_unix_ms);
        }),
        Event::AttemptFinished { finished, .. } => edit_attempt(records, finished.attempt, author, |record| {
            // One author, but perhaps two of its lives, whose logs come in any order.
            fullest(&mut record.finished, finished.clone());
        }),
        Event::AttemptTracked { attempt, tracked } => edit_attempt(records, *attempt, author, |record| {
            greatest(&mut record.tracked, tracked.clone());
        }),
        Event::CheckpointSaved { attempt, number, bundle, saved_unix_ms } => {
            let key = AttemptKey::of(*attempt, author);
            let checkpoint = Checkpoint { bundle: *bundle, saved_unix_ms: *saved_unix_ms };
            edit_job(records, attempt.job, |record| record.add_checkpoint((key, *number), checkpoint));
        }
        Event::AttemptLost { attempt, worker, reason } => edit_attempt(records, *attempt, *worker, |record| {
            earliest(&mut record.lost, *reason);
        }),
        Event::Outcomes { group, epoch, jobs } => {
            let claim = Claim { epoch: *epoch, coordinator: author };
            for job in jobs {
                apply_outcome(position, stamp.hlc, claim, *group, job, records);
            }
        }
        Event::StopWished { job } => edit_shown(records, *job, |stop, _| earliest(stop, stamp.hlc)),
        Event::Marked { job, mark } => edit_shown(records, *job, |_, marks| marks.set(stamp, mark)),
        Event::ProjectDescribed { project, description } => project::described(records, project, stamp, description),
        Event::ProjectNoted { project, note } => project::noted(records, project, stamp, note),
        Event::MemberJoined { name, software } => edit_node(records, author, |record| {
            if record.joined.as_ref().is_none_or(|(old, ..)| *old < stamp) {
                record.joined = Some((stamp, name.clone(), software.clone()));
            }
        }),
        Event::MemberRemoved { node } => edit_node(records, *node, |record| record.removed = true),
        Event::MemberLabelled { node, labels } => {
            edit_node(records, *node, |record| latest(&mut record.labels, stamp, labels.clone()));
        }
        Event::MemberDrained { node, drained } => {
            edit_node(records, *node, |record| latest(&mut record.drained, stamp, *drained));
        }
        Event::SecretRotated { number } => {
            let mut record = match records.get(&RecordKey::Cluster) {
                Some(Record::Cluster(record)) => record,
                _ => ClusterRecord::default(),
            };
            record.secret_number = record.secret_number.max(*number);
            records.put(RecordKey::Cluster, Record::Cluster(record));
        }
        Event::ValueMade { key, value, .. } => value::made(records, *key, stamp, value),
        Event::ValuePurged { key } => value::purged(records, *key, stamp),
        Event::ValueKept { key, kept } => value::kept(records, *key, stamp, *kept),
        Event::Unknown(_) => {}
    }
}

fn raise_claim(record: &mut GroupRecord, group: GroupId, claim: Claim) {
    if record.claim.is_none_or(|old| claim.outranks(&old, group)) || plant::is_planted(Plant::LastArrivalWins) {
        record.claim = Some(claim);
    }
}

fn apply_outcome(
    position: Position,
    hlc: Hlc,
    claim: Claim,
    group: GroupId,
    job: &JobOutcome,
    records: &mut impl Records,
) {
    let outcome = Outcome { claim, position, hlc, attempt: job.attempt, ending: job.ending.clone() };
    edit_job(records, JobId { group, member: job.member }, |record| record.raise_outcome(group, outcome));
}

fn edit_group(records: &mut impl Records, group: GroupId, edit: impl FnOnce(&mut GroupRecord)) {
    let key = RecordKey::Group(group);
    let mut record = match records.get(&key) {
        Some(Record::Group(record)) => record,
        _ => GroupRecord::default(),
    };
    edit(&mut record);
    records.put(key, Record::Group(record));
}

/// Edits a job and carries the change of its state over into its group's tally.
fn edit_job(records: &mut impl Records, job: JobId, edit: impl FnOnce(&mut JobRecord)) {
    let key = RecordKey::Job(job);
    let mut record = match records.get(&key) {
        Some(Record::Job(record)) => record,
        _ => JobRecord::default(),
    };
    let before = record.state();
    edit(&mut record);
    let after = record.state();
    records.put(key, Record::Job(record));
    // Also when nothing is counted: a job whose submission has not come yet has a group all the same.
    if before != after || records.get(&RecordKey::Group(job.group)).is_none() {
        edit_group(records, job.group, |group| group.tally.change(before, after));
    }
}

fn edit_attempt(records: &mut impl Records, attempt: AttemptId, worker: NodeId, edit: impl FnOnce(&mut AttemptRecord)) {
    let key = AttemptKey::of(attempt, worker);
    edit_job(records, attempt.job, |record| edit(record.attempts.entry(key).or_default()));
}

/// A wish about [`Member::Only`] concerns the group, about an index that member.
fn edit_shown(records: &mut impl Records, job: JobId, edit: impl FnOnce(&mut Option<Hlc>, &mut Marks)) {
    match job.member {
        Member::Only => edit_group(records, job.group, |record| edit(&mut record.stop, &mut record.marks)),
        Member::Index(_) => edit_job(records, job, |record| edit(&mut record.stop, &mut record.marks)),
    }
}

fn edit_node(records: &mut impl Records, node: NodeId, edit: impl FnOnce(&mut NodeRecord)) {
    let key = RecordKey::Node(node);
    let mut record = match records.get(&key) {
        Some(Record::Node(record)) => record,
        _ => NodeRecord::default(),
    };
    edit(&mut record);
    records.put(key, Record::Node(record));
}

impl Claim {
    /// Whether this claim fences `other`: a higher epoch, else the higher rendezvous rank.
    #[must_use]
    pub fn outranks(&self, other: &Self, group: GroupId) -> bool {
        (self.epoch, rank(group, self.coordinator)) > (other.epoch, rank(group, other.coordinator))
    }
}

/// Rendezvous rank of `node` for `group` (Thaler and Ravishankar 1998): every node computes the same
/// order, and a node that comes or goes changes only what it ranked first for.
#[must_use]
pub fn rank(group: GroupId, node: NodeId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&group.0);
    hasher.update(&node.0);
    *hasher.finalize().as_bytes()
}

impl GroupRecord {
    /// Whether every job has an outcome. A group that is not known yet is not finished.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.submitted.as_ref().is_some_and(|submitted| u64::from(self.tally.ended()) >= submitted.spec.len())
    }
}

impl Tally {
    /// Jobs with an outcome.
    #[must_use]
    pub fn ended(&self) -> u32 {
        self.completed + self.failed + self.stopped
    }

    fn change(&mut self, before: JobState, after: JobState) {
        if let Some(count) = self.count(before) {
            *count -= 1;
        }
        if let Some(count) = self.count(after) {
            *count += 1;
        }
    }

    fn count(&mut self, state: JobState) -> Option<&mut u32> {
        match state {
            JobState::Queued | JobState::Preparing => None,
            JobState::Running => Some(&mut self.running),
            JobState::Completed => Some(&mut self.completed),
            JobState::Failed => Some(&mut self.failed),
            JobState::Stopped => Some(&mut self.stopped),
        }
    }
}

impl JobRecord {
    /// Where the job stands by its record; preparing shows only at the node that prepares.
    #[must_use]
    pub fn state(&self) -> JobState {
        match &self.outcome {
            Some(outcome) => outcome.ending.state(),
            None if self.running().next().is_some() => JobState::Running,
            None => JobState::Queued,
        }
    }

    /// The greatest places stay; of two lives of a worker that tell the same place, the smaller value.
    fn add_checkpoint(&mut self, place: (AttemptKey, u32), checkpoint: Checkpoint) {
        let known = self.checkpoints.entry(place).or_insert(checkpoint);
        *known = checkpoint.min(*known);
        while self.checkpoints.len() > CHECKPOINTS_MAX {
            self.checkpoints.pop_first();
        }
    }

    /// The highest claim's outcome counts, of one claim the first.
    fn raise_outcome(&mut self, group: GroupId, new: Outcome) {
        let wins = |old: &Outcome| {
            new.claim.outranks(&old.claim, group) || (new.claim == old.claim && new.position < old.position)
        };
        if self.outcome.as_ref().is_none_or(wins) {
            self.outcome = Some(new);
        }
    }

    /// The attempt that people mean: the outcome's, else the one that runs, else the last.
    #[must_use]
    pub fn counted(&self) -> Option<(AttemptKey, &AttemptRecord)> {
        let outcome = self.outcome.as_ref().and_then(|outcome| outcome.attempt);
        let by_outcome = outcome.map(|(attempt, worker)| AttemptKey::of(attempt, worker));
        let running = || self.running().next_back().copied();
        let last = || self.attempts.keys().next_back().copied();
        let key = by_outcome.or_else(running).or_else(last)?;
        self.attempts.get_key_value(&key).map(|(key, attempt)| (*key, attempt))
    }

    /// Attempts that started and have neither ended nor been given up.
    pub fn running(&self) -> impl DoubleEndedIterator<Item = &AttemptKey> {
        self.attempts.iter().filter(|(_, attempt)| attempt.is_running()).map(|(key, _)| key)
    }

    /// How many attempts were given up and did not finish.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.attempts.values().filter(|attempt| attempt.lost.is_some() && attempt.finished.is_none()).count()
    }

    /// The highest attempt number so far; 0 when there was none.
    #[must_use]
    pub fn last_number(&self) -> u32 {
        self.attempts.keys().map(|key| key.number).max().unwrap_or(0)
    }
}

impl AttemptRecord {
    /// Started, not ended, not given up.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.started_unix_ms.is_some() && self.finished.is_none() && self.lost.is_none()
    }
}

impl AttemptKey {
    /// The key of `attempt` as it was claimed by `worker`.
    #[must_use]
    pub fn of(attempt: AttemptId, worker: NodeId) -> Self {
        Self { epoch: attempt.epoch, number: attempt.number, worker }
    }

    /// The attempt's id within `job`.
    #[must_use]
    pub fn id(&self, job: JobId) -> AttemptId {
        AttemptId { job, epoch: self.epoch, number: self.number }
    }
}

impl Marks {
    fn set(&mut self, stamp: Stamp, mark: &Mark) {
        match mark {
            Mark::Archived(archived) => latest(&mut self.archived, stamp, *archived),
            Mark::Deleted => self.deleted = true,
            Mark::Tagged { key, value } => self.put_tag(stamp, key, Some(value.clone())),
            Mark::Untagged { key } => self.put_tag(stamp, key, None),
            Mark::Noted(text) => latest(&mut self.note, stamp, text.clone()),
            Mark::Kept(kept) => latest(&mut self.kept, stamp, *kept),
        }
    }

    fn put_tag(&mut self, stamp: Stamp, key: &str, value: Option<String>) {
        match self.tags.get(key) {
            Some((old, _)) if *old >= stamp => {}
            _ => {
                self.tags.insert(key.to_owned(), (stamp, value));
            }
        }
    }

    /// Whether listings leave it out by default.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.deleted || self.archived.is_some_and(|(_, archived)| archived)
    }
}

#[path = "record_merge.rs"]
mod merge;

pub(crate) use merge::latest_of;
pub use merge::merge;

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
