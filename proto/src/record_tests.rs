//! The laws of every merge: whatever order entries of different authors come in, the records are equal.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::{Record, RecordKey, Records, apply};
use crate::entry::{Identity, VerifiedEntry};
use crate::event::{AttemptFinished, Event, JobOutcome, Mark};
use crate::id::{AttemptId, GroupId, JobId, Member};
use crate::job::{Ending, GroupSpec, IndexRanges, LostReason, Usage};
use crate::log::Log;
use crate::time::Hlc;
use crate::track::{Summary, Tracked};

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

fn spec() -> Box<GroupSpec> {
    Box::new(GroupSpec {
        user: "user".to_owned(),
        project: "project".to_owned(),
        name: String::new(),
        command: vec!["true".to_owned()],
        bundle: None,
        requirement: crate::Requirement::default(),
        env: BTreeMap::new(),
        secrets: std::collections::BTreeSet::new(),
        array: IndexRanges::from_indices(1..=3),
        timeout_s: 0,
        retries: 0,
        on_lost: crate::job::OnLost::Rerun,
        priority: 0,
        after: Vec::new(),
        capture: true,
        keep_outputs: true,
        params_json: String::new(),
        environment: None,
    })
}

fn any_event(rng: &mut StdRng, nodes: &[crate::NodeId]) -> Event {
    let group = GroupId([rng.random_range(0..2); 16]);
    let member = *[Member::Only, Member::Index(1), Member::Index(2), Member::Index(3)].choose(rng).expect("some");
    let job = JobId { group, member };
    let attempt = AttemptId { job, epoch: rng.random_range(1..3), number: rng.random_range(1..3) };
    let worker = *nodes.choose(rng).expect("some");
    let ending =
        [Ending::Exited { code: 0 }, Ending::Exited { code: 1 }, Ending::Stopped].choose(rng).expect("some").clone();
    match rng.random_range(0..15) {
        0 => Event::GroupSubmitted { group, spec: spec(), inline: Vec::new() },
        1 => Event::TookOver { group, epoch: attempt.epoch + 1 },
        2 | 3 => Event::AttemptStarted { attempt, started_unix_ms: rng.random_range(0..100) },
        4 | 5 => Event::AttemptFinished {
            inline: vec![vec![7; rng.random_range(0..9)]],
            finished: Box::new(AttemptFinished {
                attempt,
                ending,
                usage: Usage::default(),
                started_unix_ms: 1,
                ended_unix_ms: rng.random_range(0..9),
                outputs: None,
                log: None,
            }),
        },
        6 => Event::AttemptLost {
            attempt,
            worker,
            reason: *[LostReason::NodeDown, LostReason::NotFound].choose(rng).expect("some"),
        },
        7 | 8 => Event::Outcomes {
            group,
            epoch: attempt.epoch,
            jobs: vec![JobOutcome { member, attempt: Some((attempt, worker)), ending }],
        },
        9 => Event::StopWished { job },
        10 => {
            let text = rng.random_range(0..100).to_string();
            let mark = match rng.random_range(0..6) {
                0 => Mark::Archived(rng.random()),
                1 => Mark::Deleted,
                2 => Mark::Tagged { key: "k".to_owned(), value: text },
                3 => Mark::Untagged { key: "k".to_owned() },
                4 => Mark::Noted(text),
                _ => Mark::Kept(rng.random()),
            };
            Event::Marked { job, mark }
        }
        11 => Event::MemberJoined { name: rng.random_range(0..9).to_string(), software: String::new() },
        13 => {
            let mut summary = Summary::default();
            summary.params.insert("p".to_owned(), rng.random_range(0..3).to_string());
            let tracked = Tracked { revision: rng.random_range(0..3), summary, files: None };
            Event::AttemptTracked { attempt, tracked: Box::new(tracked) }
        }
        12 => Event::MemberDrained { node: worker, drained: rng.random() },
        _ => Event::SecretRotated { number: rng.random_range(0..9) },
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

#[test]
fn records_do_not_depend_on_the_order_of_arrival() {
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let logs = any_logs(&mut rng);
        let first = fold_in_random_order(logs.clone(), &mut rng);
        for _ in 0..5 {
            assert!(fold_in_random_order(logs.clone(), &mut rng) == first, "seed {seed}");
        }
    }
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
