//! Random logs for the store, and all that can be asked of it, to compare one store with another.

use std::collections::{BTreeMap, VecDeque};

use node::store::{GroupFilter, ProjectSummary, Store, ValueRow};
use proto::entry::{Identity, VerifiedEntry};
use proto::event::{AttemptFinished, Event, JobOutcome, Mark};
use proto::job::{Ending, GroupSpec, IndexRanges, LostReason, Usage};
use proto::log::{EntryRange, Log};
use proto::record::{ClusterRecord, JobRecord, NodeRecord, Record, RecordKey};
use proto::{AttemptId, ContentId, GroupId, Hlc, JobId, Member, NodeId, ValueKey, ValueNote, ValueRecord};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

const GROUPS: u8 = 8;

/// Everything that queries tell.
#[derive(Debug, PartialEq)]
pub(crate) struct Answers {
    records: BTreeMap<RecordKey, Record>,
    listed: Vec<GroupId>,
    unfinished: Vec<GroupId>,
    by_project: Vec<Vec<GroupId>>,
    jobs: BTreeMap<GroupId, Vec<(Member, JobRecord)>>,
    nodes: Vec<(NodeId, NodeRecord)>,
    projects: Vec<ProjectSummary>,
    cluster: ClusterRecord,
    values: Vec<(ValueKey, ValueRecord)>,
    of_function: Vec<Vec<ValueRow>>,
}

/// Asks `store` everything.
pub(crate) fn answers(store: &Store) -> Answers {
    let filter = GroupFilter { hidden: true, ..GroupFilter::default() };
    let list = |filter: &GroupFilter| -> Vec<GroupId> {
        // By pages of two, so that paging is tried as well.
        let mut all = Vec::new();
        let mut filter = filter.clone();
        loop {
            let page = store.groups(&filter, 2).expect("sound");
            filter.before = page.last().map(|(group, _)| *group);
            all.extend(page.iter().map(|(group, _)| *group));
            if page.len() < 2 {
                return all;
            }
        }
    };
    let mut records = BTreeMap::new();
    let mut jobs = BTreeMap::new();
    for group in (0..GROUPS).map(group) {
        let key = RecordKey::Group(group);
        records.extend(store.record(&key).expect("sound").map(|record| (key, record)));
        let found = store.jobs_of(group, None, usize::MAX).expect("sound");
        for (member, job) in &found {
            let key = RecordKey::Job(JobId { group, member: *member });
            assert_eq!(store.record(&key).expect("sound"), Some(Record::Job(job.clone())));
        }
        jobs.insert(group, found);
    }
    let by_project = |name: &str| list(&GroupFilter { project: Some(name.to_owned()), ..filter.clone() });
    Answers {
        records,
        listed: list(&filter),
        unfinished: list(&GroupFilter { unfinished: true, ..filter.clone() }),
        by_project: ["project 0", "project 1", "project 2", "none"].map(by_project).to_vec(),
        jobs,
        nodes: store.nodes().expect("sound"),
        projects: store.projects().expect("sound"),
        cluster: store.cluster().expect("sound"),
        values: values(store),
        of_function: ["f0", "f1", "none"].map(|name| store.values_of(name, u64::MAX, 9).expect("sound")).to_vec(),
    }
}

/// By pages of one, each compared with what is told of it alone and with the rows of its functions.
fn values(store: &Store) -> Vec<(ValueKey, ValueRecord)> {
    let mut all: Vec<(ValueKey, ValueRecord)> = Vec::new();
    while let Some((key, record)) = store.values(all.last().map(|(key, _)| *key), 1).expect("sound").pop() {
        assert_eq!(store.value(key).expect("sound").as_ref(), Some(&record));
        for value in record.values.values() {
            let row = ValueRow { key, made_unix_ms: value.made_unix_ms, took_ms: value.took_ms };
            let rows = store.values_of(&value.function, value.made_unix_ms + 1, usize::MAX).expect("sound");
            assert!(rows.is_sorted_by(|newer, older| newer.made_unix_ms >= older.made_unix_ms), "{rows:?}");
            assert!(rows.iter().any(|found| (found.key, found.made_unix_ms) == (row.key, row.made_unix_ms)));
        }
        all.push((key, record));
    }
    all
}

/// Every entry that `store` can read, by its heads.
pub(crate) fn entries(store: &Store, heads: &BTreeMap<proto::entry::LogId, proto::log::Head>) -> Vec<VerifiedEntry> {
    let mut all = Vec::new();
    for (&log, head) in heads {
        let mut next = 1;
        while next <= head.seq {
            let range = EntryRange { log, first: next, last: head.seq };
            let page = store.read(range, 4096).expect("readable");
            assert!(!page.is_empty(), "entry {next} of {} is missing", head.seq);
            next += page.len() as u64;
            all.extend(page.into_iter().map(|signed| signed.verify().expect("signed")));
        }
        assert_eq!(all.last().map(VerifiedEntry::hash), Some(head.hash));
    }
    all
}

/// Some logs of some authors, two lives each, mixed in some order that keeps each log's own.
pub(crate) fn any_entries(rng: &mut StdRng, per_log: usize) -> Vec<VerifiedEntry> {
    let identities: Vec<Identity> = (1..4).map(|seed| Identity::from_seed([seed; 32])).collect();
    let nodes: Vec<_> = identities.iter().map(Identity::node).collect();
    let mut logs: Vec<VecDeque<VerifiedEntry>> = Vec::new();
    for (identity, life) in identities.iter().flat_map(|identity| [(identity, 1), (identity, 2)]) {
        let mut log = Log::new(identity.clone(), life, BTreeMap::new(), Hlc::default());
        let mut entries = VecDeque::new();
        for _ in 0..rng.random_range(1..=per_log) {
            let mut events = (0..rng.random_range(1..4)).map(|_| any_event(rng, &nodes)).collect();
            entries.extend(log.append(rng.random_range(0..50), &mut events));
        }
        logs.push(entries);
    }
    let mut mixed = Vec::new();
    while !logs.is_empty() {
        let at = rng.random_range(0..logs.len());
        match logs[at].pop_front() {
            Some(entry) => mixed.push(entry),
            None => {
                logs.remove(at);
            }
        }
    }
    mixed
}

fn group(number: u8) -> GroupId {
    GroupId::v7(1_700_000_000_000 + u64::from(number), [number; 10])
}

fn any_spec(rng: &mut StdRng) -> Box<GroupSpec> {
    Box::new(GroupSpec {
        array: IndexRanges::from_indices(1..=3),
        // Some are too long for one cell of the index.
        params_json: if rng.random_range(0..4) == 0 { "x".repeat(rng.random_range(0..60_000)) } else { String::new() },
        ..GroupSpec::new("user", format!("project {}", rng.random_range(0..3)), vec!["true".to_owned()])
    })
}

fn any_event(rng: &mut StdRng, nodes: &[NodeId]) -> Event {
    let group = group(rng.random_range(0..GROUPS));
    let member = *[Member::Only, Member::Index(1), Member::Index(2), Member::Index(3)].choose(rng).expect("some");
    let job = JobId { group, member };
    let attempt = AttemptId { job, epoch: rng.random_range(1..3), number: rng.random_range(1..3) };
    let worker = *nodes.choose(rng).expect("some");
    let ending =
        [Ending::Exited { code: 0 }, Ending::Exited { code: 1 }, Ending::Stopped].choose(rng).expect("some").clone();
    match rng.random_range(0..21) {
        0 | 1 => Event::GroupSubmitted { group, spec: any_spec(rng), inline: vec![vec![7; rng.random_range(0..2000)]] },
        2 => Event::TookOver { group, epoch: attempt.epoch + 1 },
        3 | 4 => Event::AttemptStarted { attempt, started_unix_ms: rng.random_range(0..100) },
        5 | 6 => Event::AttemptFinished {
            inline: vec![vec![9; rng.random_range(0..2000)]],
            finished: Box::new(AttemptFinished {
                attempt,
                ending,
                usage: Usage::default(),
                started_unix_ms: 1,
                ended_unix_ms: rng.random_range(0..9),
                outputs: None,
                log: None,
                ran_with: None,
            }),
        },
        7 => Event::AttemptLost { attempt, worker, reason: LostReason::NodeDown },
        8 | 9 => Event::Outcomes {
            group,
            epoch: attempt.epoch,
            jobs: vec![JobOutcome { member, attempt: Some((attempt, worker)), ending }],
        },
        10 => Event::StopWished { job },
        11 => Event::Marked { job, mark: Mark::Noted("n".repeat(rng.random_range(0..40_000))) },
        12 => Event::MemberJoined { name: rng.random_range(0..9).to_string(), software: String::new() },
        13 => Event::MemberDrained { node: worker, drained: rng.random() },
        14 => Event::ProjectDescribed {
            project: format!("project {}", rng.random_range(2..5)),
            description: "d".to_owned(),
        },
        19 => Event::ProjectNoted {
            project: format!("project {}", rng.random_range(2..5)),
            note: Box::new(proto::ProjectNote { user: "u".to_owned(), text: "n".repeat(rng.random_range(0..4_000)) }),
        },
        15 => Event::Unknown(proto::event::Frame { kind: 9999, version: 1, body: vec![1, 2, 3] }),
        16 | 17 => any_value(rng),
        18 if rng.random() => Event::ValueKept { key: ValueKey([rng.random_range(0..3); 32]), kept: rng.random() },
        18 => Event::ValuePurged { key: ValueKey([rng.random_range(0..3); 32]) },
        _ => Event::SecretRotated { number: rng.random_range(0..9) },
    }
}

fn any_value(rng: &mut StdRng) -> Event {
    let bytes = vec![rng.random::<u8>(); rng.random_range(0..2000)];
    let value = ValueNote {
        content: ContentId::of(&bytes),
        bytes: bytes.len() as u64,
        function: format!("f{}", rng.random_range(0..2)),
        project: "project 0".to_owned(),
        user: "user".to_owned(),
        // A row is of a key and a time; two values with both equal took equally long here.
        took_ms: 7,
        made_unix_ms: rng.random_range(0..50),
        expires_unix_ms: None,
        parts: ContentId([1; 32]),
    };
    Event::ValueMade { key: ValueKey([rng.random_range(0..3); 32]), value: Box::new(value), inline: vec![bytes] }
}
