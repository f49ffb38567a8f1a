//! Load: how fast the cores alone are, without faults, disks that wait, or a network that delays.
//!
//! Two measurements. `array`: one array of very short jobs on a few nodes, in jobs per second of core time.
//! `big`: one coordinator and many thin workers, in placements per second, with the utilisation that an
//! omniscient packer would have had for comparison (DESIGN §13).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::capacity::Capacity;
use proto::core::Boot;
use proto::core_io::{Effect, Input, Now, RequestId};
use proto::entry::{Identity, VerifiedEntry};
use proto::event::AttemptFinished;
use proto::job::{Ending, IndexRanges, Usage};
use proto::log::VersionVector;
use proto::message::Message;
use proto::record::{Record, RecordKey, Records, apply};
use proto::snapshotting::SnapshotRules;
use proto::{AttemptId, ByteSize, Core, GroupId, GroupSpec, Hlc, NodeId, Timestamp};

/// What a run of `array` or `big` took.
#[derive(Debug)]
pub struct Load {
    /// Jobs that ended.
    pub jobs: u64,
    /// Time inside the cores alone, of all nodes together.
    pub core_time: Duration,
    /// Of the busiest node.
    pub busiest: Duration,
    /// Time in folding records, which the store does.
    pub fold_time: Duration,
    /// Simulated time from the submission to the last outcome.
    pub simulated: Duration,
    /// Steps of all cores.
    pub steps: u64,
    /// CPU time of the jobs over CPU time of the machines while it lasted.
    pub utilisation: f64,
}

struct Node {
    id: NodeId,
    core: Core,
    records: Store,
    wake: u64,
    spent: Duration,
}

#[derive(Default)]
struct Store {
    records: BTreeMap<RecordKey, Record>,
    changed: BTreeSet<RecordKey>,
}

impl Records for Store {
    fn get(&mut self, key: &RecordKey) -> Option<Record> {
        self.records.get(key).cloned()
    }

    fn put(&mut self, key: RecordKey, record: Record) {
        self.changed.insert(key.clone());
        self.records.insert(key, record);
    }
}

struct Loaded {
    nodes: Vec<Node>,
    index: BTreeMap<NodeId, usize>,
    queue: BTreeMap<(u64, u64), (usize, Input)>,
    scheduled: u64,
    now_ms: u64,
    length_ms: u64,
    steps: u64,
    ended: u64,
    busy_ms: u64,
    fold_time: Duration,
    verified: BTreeMap<Vec<u8>, VerifiedEntry>,
}

/// `jobs` jobs of `length_ms` each, as one array, on `nodes` nodes of `cpus` CPUs.
#[must_use]
pub fn array(nodes: usize, cpus: u32, jobs: u32, length_ms: u64) -> Load {
    let mut world = Loaded::new(nodes, cpus, length_ms);
    world.run_until(2_000, u64::MAX);
    let began_ms = world.now_ms;
    for node in &mut world.nodes {
        node.spent = Duration::ZERO;
    }
    (world.steps, world.fold_time) = (0, Duration::ZERO);
    let spec = Box::new(spec(jobs));
    let group = GroupId::v7(1_750_000_000_000, [1; 10]);
    world.schedule(0, 0, Input::Submit { request: RequestId(1), group, spec, inline: Vec::new() });
    world.run_until(began_ms + 36_000_000, u64::from(jobs));
    let simulated_ms = (world.now_ms - began_ms).max(1);
    let capacity_ms = simulated_ms * nodes as u64 * u64::from(cpus);
    Load {
        jobs: world.ended,
        core_time: world.nodes.iter().map(|node| node.spent).sum(),
        busiest: world.nodes.iter().map(|node| node.spent).max().unwrap_or_default(),
        fold_time: world.fold_time,
        simulated: Duration::from_millis(simulated_ms),
        steps: world.steps,
        utilisation: world.busy_ms as f64 / capacity_ms as f64,
    }
}

impl Loaded {
    fn new(nodes: usize, cpus: u32, length_ms: u64) -> Self {
        let nodes: Vec<Node> = (0..nodes).map(|index| node(index, cpus)).collect();
        let index = nodes.iter().enumerate().map(|(at, node)| (node.id, at)).collect();
        let mut world = Self {
            nodes,
            index,
            queue: BTreeMap::new(),
            scheduled: 0,
            now_ms: 1,
            length_ms,
            steps: 0,
            ended: 0,
            busy_ms: 0,
            fold_time: Duration::ZERO,
            verified: BTreeMap::new(),
        };
        for one in 0..world.nodes.len() {
            world.schedule(0, one, Input::Tick);
            world.schedule(1, one, Input::Adopted { attempts: Vec::new() });
            // Workers of a large cluster are only connected with the first node: what is measured is one coordinator.
            let peers = if world.nodes.len() > 16 && one > 0 { 0..1 } else { 0..world.nodes.len() };
            for peer in peers.filter(|&peer| peer != one) {
                let connected = Input::Connected(world.nodes[peer].id);
                world.schedule(2, one, connected);
            }
        }
        world
    }

    fn schedule(&mut self, after_ms: u64, node: usize, input: Input) {
        self.scheduled += 1;
        self.queue.insert((self.now_ms + after_ms, self.scheduled), (node, input));
    }

    fn run_until(&mut self, end_ms: u64, jobs: u64) {
        while let Some(((at, _), (node, input))) = self.queue.pop_first() {
            if at > end_ms {
                break;
            }
            self.now_ms = at;
            if matches!(input, Input::Tick) && self.nodes[node].wake > at {
                continue;
            }
            self.step(node, input);
            if self.ended >= jobs && self.nodes.iter().all(|node| node.core.view().groups.is_empty()) {
                break;
            }
        }
    }

    fn step(&mut self, at: usize, input: Input) {
        let now = Now { at: Timestamp(self.now_ms), unix_ms: 1_750_000_000_000 + self.now_ms };
        let began = Instant::now();
        let effects = self.nodes[at].core.step(now, input);
        self.nodes[at].spent += began.elapsed();
        self.steps += 1;
        for effect in effects {
            self.run_effect(at, effect);
        }
    }

    fn run_effect(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Send { to, message } => {
                let to = self.index[&to];
                let from = self.nodes[at].id;
                let input = match message {
                    Message::Fresh(signed) => self.entries(from, signed, true),
                    Message::Entries { entries, .. } => self.entries(from, entries, false),
                    message => Input::Received { from, message },
                };
                self.schedule(1, to, input);
            }
            Effect::Store { ticket, entries } => {
                let began = Instant::now();
                let store = &mut self.nodes[at].records;
                for entry in &entries {
                    apply(entry, store);
                }
                let changed = std::mem::take(&mut store.changed);
                let changed = changed.into_iter().map(|key| (key.clone(), store.records[&key].clone())).collect();
                self.fold_time += began.elapsed();
                for entry in entries {
                    self.verified.insert(entry.signed().bytes.clone(), entry);
                }
                self.schedule(2, at, Input::Stored { ticket, changed });
            }
            Effect::Run(run) => {
                let attempt = run.attempt;
                self.busy_ms += self.length_ms;
                self.schedule(0, at, Input::Started { attempt, started_unix_ms: self.now_ms });
                self.schedule(self.length_ms, at, ended(attempt, self.now_ms));
                self.ended += 1;
            }
            Effect::WakeAt(time) => {
                self.nodes[at].wake = time.0;
                self.schedule(time.0.saturating_sub(self.now_ms).max(1), at, Input::Tick);
            }
            _ => {}
        }
    }

    fn entries(&self, from: NodeId, signed: Vec<proto::entry::SignedEntry>, fresh: bool) -> Input {
        let known = |signed: proto::entry::SignedEntry| self.verified[&signed.bytes].clone();
        Input::Entries { from, entries: signed.into_iter().map(known).collect(), fresh, more: false }
    }
}

fn ended(attempt: AttemptId, started_unix_ms: u64) -> Input {
    let finished = AttemptFinished {
        attempt,
        ending: Ending::Exited { code: 0 },
        usage: Usage::default(),
        started_unix_ms,
        ended_unix_ms: started_unix_ms,
        outputs: None,
        log: None,
        ran_with: None,
    };
    Input::Ended { finished: Box::new(finished), inline: Vec::new() }
}

fn node(index: usize, cpus: u32) -> Node {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(index as u64 + 1).to_le_bytes());
    let identity = Identity::from_seed(seed);
    let capacity = Capacity { cpu_milli: cpus * 1_000, memory: ByteSize(1 << 36), ..Capacity::default() };
    let id = identity.node();
    let core = Core::new(Boot {
        identity,
        incarnation: 1,
        name: format!("node-{index}"),
        software: "load".to_owned(),
        heads: BTreeMap::new(),
        hlc: Hlc::default(),
        snapshots: Vec::new(),
        floors: VersionVector::default(),
        snapshot_rules: SnapshotRules::default(),
        records: Vec::new(),
        capacity,
        addrs: Vec::new(),
        seed: index as u64,
    });
    Node { id, core, records: Store::default(), wake: 0, spent: Duration::ZERO }
}

fn spec(jobs: u32) -> GroupSpec {
    GroupSpec {
        array: IndexRanges::from_indices(1..=jobs),
        capture: false,
        keep_outputs: false,
        ..GroupSpec::new(
            "ada",
            "digits",
            vec!["python".to_owned(), "train.py".to_owned(), "--epochs".to_owned(), "5".to_owned()],
        )
    }
}
