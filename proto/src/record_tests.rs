//! The laws of every merge: whatever order entries come in, however they are grouped and however often they are
//! told, the records are equal. Every kind of event and every field of a record takes part, and that is counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};

use super::{
    AttemptKey, AttemptRecord, ClusterRecord, GroupRecord, JobRecord, Marks, NodeRecord, Outcome, Record, RecordKey,
    Records, Tally, apply, merge,
};
use crate::blob::ContentId;
use crate::entry::{Identity, VerifiedEntry};
use crate::event::{AttemptFinished, Event, Frame, JobOutcome, LogRef, Mark};
use crate::id::{AttemptId, GroupId, JobId, Member};
use crate::job::{BundleRef, Ending, GroupSpec, IndexRanges, LostReason, StartFailure, Usage};
use crate::log::Log;
use crate::project::{ProjectNote, ProjectRecord};
use crate::time::Hlc;
use crate::track::{Summary, Tracked};
use crate::value::{ValueKey, ValueNote, ValueRecord};

/// Seeds tried on every run; one that failed once is added for ever.
const SEEDS: std::ops::Range<u64> = 0..200;

#[derive(Default, Debug, PartialEq, Clone)]
struct Memory(BTreeMap<RecordKey, Record>);

impl Records for Memory {
    fn get(&mut self, key: &RecordKey) -> Option<Record> {
        self.0.get(key).cloned()
    }

    fn put(&mut self, key: RecordKey, record: Record) {
        self.0.insert(key, record);
    }
}

/// Two nodes may accept a group of one id with different specifications: only one of them is kept.
fn spec(user: u8) -> Box<GroupSpec> {
    Box::new(GroupSpec {
        array: IndexRanges::from_indices(1..=3),
        ..GroupSpec::new(user.to_string(), "project", vec!["true".to_owned()])
    })
}

fn any_event(rng: &mut StdRng, nodes: &[crate::NodeId]) -> Event {
    let group = GroupId([rng.random_range(0..2); 16]);
    let member = *[Member::Only, Member::Index(1), Member::Index(2), Member::Index(3)].choose(rng).expect("some");
    let job = JobId { group, member };
    let attempt = AttemptId { job, epoch: rng.random_range(1..3), number: rng.random_range(1..3) };
    let worker = *nodes.choose(rng).expect("some");
    let ending = any_ending(rng, job);
    match rng.random_range(0..21) {
        0 => Event::GroupSubmitted { group, spec: spec(rng.random_range(0..3)), inline: Vec::new() },
        1 => Event::TookOver { group, epoch: attempt.epoch + 1 },
        2 | 3 => Event::AttemptStarted { attempt, started_unix_ms: rng.random_range(0..100) },
        4 | 5 => Event::AttemptFinished {
            inline: vec![vec![7; rng.random_range(0..9)]],
            finished: Box::new(any_finished(rng, attempt, ending)),
        },
        6 => Event::AttemptLost { attempt, worker, reason: *LOST.choose(rng).expect("some") },
        7 | 8 => Event::Outcomes { group, epoch: attempt.epoch, jobs: any_outcomes(rng, job, worker) },
        9 => Event::StopWished { job },
        10 | 11 => Event::Marked { job, mark: any_mark(rng) },
        12 => Event::MemberJoined { name: rng.random_range(0..9).to_string(), software: String::new() },
        13 => Event::MemberDrained { node: worker, drained: rng.random() },
        14 => {
            let labels = BTreeMap::from([("rack".to_owned(), rng.random_range(0..9).to_string())]);
            Event::MemberLabelled { node: worker, labels }
        }
        15 => match rng.random_range(0..4) {
            0 => Event::MemberRemoved { node: worker },
            1 => Event::Unknown(Frame { kind: 999, version: 1, body: vec![rng.random()] }),
            2 => Event::ProjectNoted {
                project: rng.random_range(0..2).to_string(),
                note: Box::new(ProjectNote { user: "ada".to_owned(), text: rng.random_range(0..100).to_string() }),
            },
            _ => Event::ProjectDescribed {
                project: rng.random_range(0..2).to_string(),
                description: rng.random_range(0..100).to_string(),
            },
        },
        16 => {
            let mut summary = Summary::default();
            summary.params.insert("p".to_owned(), rng.random_range(0..3).to_string());
            let tracked = Tracked { revision: rng.random_range(0..3), summary, files: None };
            Event::AttemptTracked { attempt, tracked: Box::new(tracked) }
        }
        17 => Event::CheckpointSaved {
            attempt,
            number: rng.random_range(1..4),
            bundle: crate::job::BundleRef {
                manifest: crate::ContentId([rng.random_range(0..3); 32]),
                total_bytes: 1,
                files: 1,
            },
            saved_unix_ms: rng.random_range(0..9),
        },
        18 => Event::ValueMade { key: any_key(rng), value: Box::new(any_value(rng)), inline: vec![vec![7; 3]] },
        19 if rng.random() => Event::ValueKept { key: any_key(rng), kept: rng.random() },
        19 if rng.random() => Event::ValuePurged { key: any_key(rng) },
        _ => Event::SecretRotated { number: rng.random_range(0..9) },
    }
}

fn any_key(rng: &mut StdRng) -> ValueKey {
    ValueKey([rng.random_range(0..2); 32])
}

fn any_value(rng: &mut StdRng) -> ValueNote {
    ValueNote {
        content: ContentId([rng.random_range(0..3); 32]),
        bytes: 1,
        function: rng.random_range(0..2).to_string(),
        project: "project".to_owned(),
        user: "ada".to_owned(),
        took_ms: rng.random_range(0..9),
        made_unix_ms: rng.random_range(0..9),
        expires_unix_ms: rng.random::<bool>().then_some(5),
        parts: ContentId([rng.random_range(0..3); 32]),
    }
}

const LOST: [LostReason; 4] =
    [LostReason::NodeDown, LostReason::RunnerDown, LostReason::NotFound, LostReason::CrashLimit];

fn any_ending(rng: &mut StdRng, job: JobId) -> Ending {
    let endings = [
        Ending::Exited { code: 0 },
        Ending::Exited { code: 1 },
        Ending::Signalled { signal: 9 },
        Ending::OutOfMemory,
        Ending::TimedOut,
        Ending::Stopped,
        Ending::NotStarted(StartFailure::Dependency(job)),
        Ending::Lost(LostReason::NotFound),
        Ending::Untold,
    ];
    endings.choose(rng).expect("some").clone()
}

fn any_finished(rng: &mut StdRng, attempt: AttemptId, ending: Ending) -> AttemptFinished {
    let content = ContentId([rng.random_range(0..3); 32]);
    let bundle = BundleRef { manifest: content, total_bytes: 1, files: 1 };
    AttemptFinished {
        attempt,
        ending,
        usage: Usage { cpu_ms: rng.random_range(0..2), memory_max_bytes: rng.random_range(0..2) },
        started_unix_ms: rng.random_range(0..2),
        ended_unix_ms: rng.random_range(0..9),
        outputs: rng.random::<bool>().then_some(bundle),
        log: rng.random::<bool>().then_some(LogRef { content, size: 1, times: None }),
        ran_with: rng.random::<bool>().then_some(content),
    }
}

/// Of some jobs of one group, as one event tells them.
fn any_outcomes(rng: &mut StdRng, job: JobId, worker: crate::NodeId) -> Vec<JobOutcome> {
    let members = [Member::Only, Member::Index(1), Member::Index(2), Member::Index(3)];
    let mut outcomes = Vec::new();
    for member in members {
        if member == job.member || rng.random_range(0..4) == 0 {
            let id = AttemptId { job: JobId { member, ..job }, epoch: 1, number: rng.random_range(1..3) };
            let attempt = rng.random::<bool>().then_some((id, worker));
            outcomes.push(JobOutcome { member, attempt, ending: any_ending(rng, job) });
        }
    }
    outcomes
}

fn any_mark(rng: &mut StdRng) -> Mark {
    let text = rng.random_range(0..100).to_string();
    let key = ["a", "b"].choose(rng).map(|&key| key.to_owned()).expect("some");
    match rng.random_range(0..6) {
        0 => Mark::Archived(rng.random()),
        1 => Mark::Deleted,
        2 => Mark::Tagged { key, value: text },
        3 => Mark::Untagged { key },
        4 => Mark::Noted(text),
        _ => Mark::Kept(rng.random()),
    }
}

/// Some logs of some authors, with equal clocks now and then.
fn any_logs(rng: &mut StdRng) -> Vec<VecDeque<VerifiedEntry>> {
    let identities: Vec<Identity> = (1..4).map(|seed| Identity::from_seed([seed; 32])).collect();
    let nodes: Vec<_> = identities.iter().map(Identity::node).collect();
    // Two lives each: the logs of one author's lives come in any order, too.
    let log = |(identity, life): (&Identity, u64), rng: &mut StdRng| {
        let mut log = Log::new(identity.clone(), life, BTreeMap::new(), Hlc::default());
        let mut entries = VecDeque::new();
        for _ in 0..rng.random_range(1..12) {
            let count = rng.random_range(1..4);
            let mut events = (0..count).map(|_| any_event(rng, &nodes)).collect();
            entries.extend(log.append(rng.random_range(0..50), &mut events));
        }
        entries
    };
    identities.iter().flat_map(|identity| [(identity, 1), (identity, 2)]).map(|life| log(life, rng)).collect()
}

fn fold_in_random_order(mut logs: Vec<VecDeque<VerifiedEntry>>, rng: &mut StdRng) -> Memory {
    let mut records = Memory::default();
    while !logs.is_empty() {
        let at = rng.random_range(0..logs.len());
        match logs[at].pop_front() {
            Some(entry) => apply(&entry, &mut records),
            None => {
                logs.remove(at);
            }
        }
    }
    records
}

/// Compares record by record, so that a failure names the one that differs, and its seed.
fn assert_same(seed: u64, law: &str, one: &Memory, other: &Memory) {
    for key in one.0.keys().chain(other.0.keys()) {
        let (left, right) = (one.0.get(key), other.0.get(key));
        assert!(left == right, "seed {seed}: {law}: {key:?}\n{left:#?}\n{right:#?}");
    }
}

fn fold<'a>(entries: impl IntoIterator<Item = &'a VerifiedEntry>) -> Memory {
    let mut records = Memory::default();
    entries.into_iter().for_each(|entry| apply(entry, &mut records));
    records
}

#[test]
fn records_do_not_depend_on_the_order_of_arrival() {
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let logs = any_logs(&mut rng);
        let first = fold_in_random_order(logs.clone(), &mut rng);
        for _ in 0..5 {
            assert_same(seed, "order of logs", &first, &fold_in_random_order(logs.clone(), &mut rng));
        }
    }
}

/// Stronger than what the store needs, which keeps the order within a log: every merge is commutative and
/// associative by itself, so entries may come one by one in any order at all.
#[test]
fn records_do_not_depend_on_the_order_within_a_log_either() {
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut entries: Vec<VerifiedEntry> = any_logs(&mut rng).into_iter().flatten().collect();
        let first = fold(&entries);
        for _ in 0..5 {
            entries.shuffle(&mut rng);
            assert_same(seed, "order of entries", &first, &fold(&entries));
        }
    }
}

#[test]
fn an_entry_that_is_told_again_changes_nothing() {
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let entries: Vec<VerifiedEntry> = any_logs(&mut rng).into_iter().flatten().collect();
        let first = fold(&entries);
        let mut twice: Vec<&VerifiedEntry> = entries.iter().chain(&entries).collect();
        twice.shuffle(&mut rng);
        assert_same(seed, "entries told twice", &first, &fold(twice));
        // At once as well: after any prefix, its last entry is a word that was heard.
        let stuttered = entries.iter().flat_map(|entry| [entry, entry]);
        assert_same(seed, "entries told twice in a row", &first, &fold(stuttered));
    }
}

/// What the laws above were tried with: were a kind or a field never there, they would say nothing of it.
#[test]
fn every_kind_of_event_and_every_field_of_a_record_takes_part() {
    let mut kinds = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let logs = any_logs(&mut rng);
        let events = logs.iter().flatten().flat_map(|entry| entry.events());
        kinds.extend(events.map(|event| event.to_frame().kind));
        for record in fold_in_random_order(logs, &mut rng).0.values() {
            see(record, &mut |field, is_set| {
                seen.insert((field, is_set));
            });
        }
    }
    assert_eq!(kinds, (1..=20).chain([999]).collect());
    let fields: BTreeSet<&str> = seen.iter().map(|(field, _)| *field).collect();
    let always: Vec<&str> = fields.iter().copied().filter(|field| !seen.contains(&(*field, true))).collect();
    assert_eq!(always, Vec::<&str>::new(), "fields that were never set");
    let never: Vec<&str> = fields.iter().copied().filter(|field| !seen.contains(&(*field, false))).collect();
    assert_eq!(never, Vec::<&str>::new(), "fields that were set in every record");
}

/// Tells every field of a record, and whether something is in it. Patterns name all fields: a new one is an error here.
fn see(record: &Record, tell: &mut impl FnMut(&'static str, bool)) {
    match record {
        Record::Group(GroupRecord { submitted, claim, stop, marks, tally }) => {
            tell("group.submitted", submitted.is_some());
            tell("group.claim", claim.is_some());
            tell("group.stop", stop.is_some());
            let Tally { running, completed, failed, stopped } = *tally;
            tell("group.running", running > 0);
            tell("group.completed", completed > 0);
            tell("group.failed", failed > 0);
            tell("group.stopped", stopped > 0);
            see_marks(marks, tell);
        }
        Record::Job(JobRecord { attempts, outcome, stop, marks, checkpoints }) => {
            tell("job.checkpoints", !checkpoints.is_empty());
            for AttemptRecord { started_unix_ms, finished, lost, tracked } in attempts.values() {
                tell("attempt.tracked", tracked.is_some());
                tell("attempt.started", started_unix_ms.is_some());
                tell("attempt.finished", finished.is_some());
                tell("attempt.lost", lost.is_some());
                if let Some(finished) = finished {
                    tell("finished.outputs", finished.outputs.is_some());
                    tell("finished.log", finished.log.is_some());
                }
            }
            tell("job.outcome", outcome.is_some());
            tell("job.stop", stop.is_some());
            see_marks(marks, tell);
        }
        Record::Node(NodeRecord { joined, removed, labels, drained }) => {
            tell("node.joined", joined.is_some());
            tell("node.removed", *removed);
            tell("node.labels", labels.is_some());
            tell("node.drained", drained.is_some());
        }
        Record::Project(ProjectRecord { description, notes }) => {
            tell("project.description", description.is_some());
            tell("project.notes", !notes.is_empty());
        }
        Record::Cluster(ClusterRecord { secret_number }) => tell("cluster.secret_number", *secret_number > 0),
        Record::Value(ValueRecord { values, purged, kept }) => {
            tell("value.values", !values.is_empty());
            tell("value.purged", purged.is_some());
            tell("value.kept", kept.is_some());
        }
    }
}

fn see_marks(marks: &Marks, tell: &mut impl FnMut(&'static str, bool)) {
    let Marks { archived, deleted, tags, note, kept } = marks;
    tell("marks.archived", archived.is_some());
    tell("marks.deleted", *deleted);
    tell("marks.tags", tags.values().any(|(_, value)| value.is_some()));
    tell("marks.tags taken off", tags.values().any(|(_, value)| value.is_none()));
    tell("marks.note", note.is_some());
    tell("marks.kept", kept.is_some());
}

#[test]
fn a_tally_is_the_sum_over_its_jobs() {
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let logs = any_logs(&mut rng);
        let records = fold_in_random_order(logs, &mut rng);
        for (key, record) in &records.0 {
            let (RecordKey::Group(group), Record::Group(record)) = (key, record) else { continue };
            let mut sum = super::Tally::default();
            for (key, job) in &records.0 {
                if let (RecordKey::Job(id), Record::Job(job)) = (key, job)
                    && id.group == *group
                {
                    sum.change(crate::JobState::Queued, job.state());
                }
            }
            assert_eq!(record.tally, sum, "seed {seed}");
        }
    }
}

/// The fold of the first entries of each log.
fn fold_prefixes(logs: &[VecDeque<VerifiedEntry>], lens: &[usize], rng: &mut StdRng) -> Memory {
    let cut = logs.iter().zip(lens).map(|(log, &len)| log.iter().take(len).cloned().collect()).collect();
    fold_in_random_order(cut, rng)
}

fn merged(mut records: Memory, others: Memory) -> Memory {
    for (key, record) in others.0 {
        merge(&key, record, &mut records);
    }
    records
}

#[test]
fn merging_two_folds_gives_the_fold_of_both_sets_of_entries() {
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let logs = any_logs(&mut rng);
        let cut = |rng: &mut StdRng| logs.iter().map(|log| rng.random_range(0..=log.len())).collect::<Vec<_>>();
        let (ours, theirs, third) = (cut(&mut rng), cut(&mut rng), cut(&mut rng));
        let max = |one: &[usize], other: &[usize]| one.iter().zip(other).map(|(a, b)| *a.max(b)).collect::<Vec<_>>();
        let [a, b, c] = [&ours, &theirs, &third].map(|lens| fold_prefixes(&logs, lens, &mut rng));
        let both = fold_prefixes(&logs, &max(&ours, &theirs), &mut rng);
        assert!(merged(a.clone(), b.clone()) == both, "seed {seed}: the union");
        assert!(merged(b.clone(), a.clone()) == both, "seed {seed}: commutative");
        assert!(merged(both.clone(), a.clone()) == both, "seed {seed}: idempotent");
        let all = fold_prefixes(&logs, &max(&max(&ours, &theirs), &third), &mut rng);
        assert!(merged(a, merged(b, c)) == all, "seed {seed}: associative");
    }
}

#[test]
fn entries_that_come_after_a_merge_fold_as_ever() {
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let logs = any_logs(&mut rng);
        let snapshot: Vec<usize> = logs.iter().map(|log| rng.random_range(0..=log.len())).collect();
        let mut records = merged(Memory::default(), fold_prefixes(&logs, &snapshot, &mut rng));
        for (log, &from) in logs.iter().zip(&snapshot) {
            log.iter().skip(from).for_each(|entry| apply(entry, &mut records));
        }
        assert!(records == fold_in_random_order(logs, &mut rng), "seed {seed}");
    }
}

#[test]
fn the_attempt_that_people_mean_is_the_outcomes_else_one_that_runs_else_the_last() {
    let group = GroupId([1; 16]);
    let (one, two) = (crate::NodeId([1; 32]), crate::NodeId([2; 32]));
    let attempt = |number| AttemptId { job: JobId { group, member: Member::Only }, epoch: 1, number };
    let mut record = JobRecord::default();
    assert_eq!(record.counted(), None);
    let key = |number, worker| AttemptKey::of(attempt(number), worker);
    for (number, worker) in [(1, one), (2, two), (3, one)] {
        record.attempts.insert(key(number, worker), AttemptRecord::default());
    }
    let counted = |record: &JobRecord| record.counted().map(|(key, _)| key);
    assert_eq!(counted(&record), Some(key(3, one)), "the last");
    record.attempts.get_mut(&key(2, two)).expect("there").started_unix_ms = Some(5);
    assert_eq!(counted(&record), Some(key(2, two)), "the one that runs");
    record.outcome = Some(Outcome {
        claim: super::Claim { epoch: 1, coordinator: one },
        position: crate::entry::Position { log: crate::entry::LogId { author: one, incarnation: 1 }, seq: 1 },
        hlc: Hlc::default(),
        attempt: Some((attempt(1), one)),
        ending: Ending::Exited { code: 0 },
    });
    assert_eq!(counted(&record), Some(key(1, one)), "the outcome's");
}
