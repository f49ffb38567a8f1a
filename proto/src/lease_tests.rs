//! Each rule of the leases by itself, then many processes over many keys, with messages that take any time and
//! nodes and processes that die: everybody ends.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

const KEY: ValueKey = ValueKey([1; 32]);
const SEEDS: std::ops::Range<u64> = 0..300;

fn process(node: u8, number: u64) -> Process {
    Process { node: NodeId([node; 32]), number }
}

fn at(ms: u64) -> Timestamp {
    Timestamp(ms)
}

fn busy(node: u8, since_ms: u64) -> LeaseAnswer {
    LeaseAnswer::Busy { node: NodeId([node; 32]), since_ms }
}

#[test]
fn one_computes_and_the_others_wait_until_it_has_stored() {
    let (one, two) = (process(1, 1), process(2, 1));
    let mut leases = Leases::default();
    assert_eq!(leases.ask(at(0), KEY, one, None), LeaseAnswer::Compute);
    assert_eq!(leases.ask(at(500), KEY, two, None), busy(1, 500));
    assert!(leases.release(at(600), KEY, one, true));
    assert_eq!(leases.ask(at(601), KEY, two, None), LeaseAnswer::Stored, "its entry is on the way");
    assert_eq!(leases.ask(at(3_600), KEY, two, None), LeaseAnswer::Compute, "it never came");
}

#[test]
fn who_gives_up_lets_the_next_compute() {
    let (one, two) = (process(1, 1), process(2, 1));
    let mut leases = Leases::default();
    assert_eq!(leases.ask(at(0), KEY, one, None), LeaseAnswer::Compute);
    assert!(!leases.release(at(1), KEY, two, false), "it is not its lease");
    assert!(leases.release(at(2), KEY, one, false));
    assert!(leases.is_empty());
    assert_eq!(leases.ask(at(3), KEY, two, None), LeaseAnswer::Compute);
}

#[test]
fn only_a_running_computer_renews() {
    let (one, two) = (process(1, 1), process(2, 1));
    let mut leases = Leases::default();
    assert_eq!(leases.ask(at(0), KEY, one, None), LeaseAnswer::Compute);
    assert!(leases.renew(at(3_000), KEY, one, false));
    assert_eq!(leases.ask(at(6_999), KEY, two, None), busy(1, 6_999));
    assert_eq!(leases.ask(at(7_000), KEY, two, None), LeaseAnswer::Compute, "it was not heard for four seconds");
    assert!(!leases.renew(at(7_001), KEY, one, false), "too late");
    assert_eq!(leases.ask(at(7_002), KEY, one, None), busy(2, 2));
}

#[test]
fn nobody_waits_for_one_that_waits_nor_for_itself() {
    let (one, two) = (process(1, 1), process(2, 1));
    let mut leases = Leases::default();
    assert_eq!(leases.ask(at(0), KEY, one, None), LeaseAnswer::Compute);
    assert_eq!(leases.ask(at(1), KEY, one, None), LeaseAnswer::Alone);
    assert_eq!(leases.ask(at(1), KEY, two, None), busy(1, 1));
    assert!(leases.renew(at(2), KEY, one, true));
    assert_eq!(leases.ask(at(3), KEY, two, None), LeaseAnswer::Alone);
    assert!(leases.renew(at(4), KEY, one, false));
    assert_eq!(leases.ask(at(5), KEY, two, None), busy(1, 5));
}

#[test]
fn a_computation_that_takes_twice_as_long_as_usual_is_passed_on_once() {
    let (one, two, three) = (process(1, 1), process(2, 1), process(3, 1));
    let patience = patience(vec![600, 500, 9_000]);
    assert_eq!(patience, Some(Duration::from_millis(1_200)));
    let mut leases = Leases::default();
    assert_eq!(leases.ask(at(0), KEY, one, patience), LeaseAnswer::Compute);
    assert_eq!(leases.ask(at(1_199), KEY, two, patience), busy(1, 1_199));
    assert_eq!(leases.ask(at(1_200), KEY, two, patience), LeaseAnswer::Compute);
    assert_eq!(leases.ask(at(1_201), KEY, three, patience), busy(2, 1));
    assert!(!leases.renew(at(1_300), KEY, one, false));
    assert!(leases.release(at(1_400), KEY, one, true), "its value is one all the same");
    assert_eq!(leases.ask(at(1_401), KEY, three, patience), LeaseAnswer::Stored);
}

#[test]
fn patience_has_a_least_and_none_without_a_past() {
    assert_eq!(patience(vec![]), None);
    assert_eq!(patience(vec![3, 4]), Some(PATIENCE_MIN));
    assert_eq!(patience(vec![u64::MAX]), Some(Duration::from_millis(u64::MAX)));
}

#[test]
fn a_new_keeper_takes_up_what_is_renewed_with_it() {
    let (one, two) = (process(1, 1), process(2, 1));
    let mut leases = Leases::default();
    assert!(leases.renew(at(0), KEY, one, false));
    assert_eq!(leases.ask(at(1), KEY, two, None), busy(1, 1));
    assert!(leases.release(at(2), KEY, one, true));
    assert!(!leases.renew(at(3), KEY, one, false), "a renewal that was overtaken brings nothing back");
    leases.purge(KEY);
    assert_eq!(leases.ask(at(4), KEY, two, None), LeaseAnswer::Compute, "nothing is on its way any more");
}

#[test]
fn all_agree_on_the_keeper_and_only_its_keys_move() {
    let nodes: Vec<NodeId> = (1..6).map(|node| NodeId([node; 32])).collect();
    let keys: Vec<ValueKey> = (0..200).map(|key| ValueKey([key; 32])).collect();
    let all: Vec<_> = keys.iter().map(|&key| keeper(key, nodes.iter().rev().copied()).unwrap()).collect();
    for (&key, &was) in keys.iter().zip(&all) {
        let now = keeper(key, nodes[1..].iter().copied()).unwrap();
        assert!(now == was || was == nodes[0]);
    }
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), nodes.len());
    assert_eq!(keeper(KEY, std::iter::empty()), None);
}

/// What a process does: calls one after the other, each with the calls that are made while it computes.
#[derive(Clone, Debug)]
struct Call {
    key: ValueKey,
    inner: Vec<Call>,
    compute_ms: u64,
}

/// What is to happen, the earliest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Asked { who: usize, key: ValueKey },
    Answered { who: usize, key: ValueKey, answer: u8 },
    Renewed { who: usize, key: ValueKey, waits: bool },
    Released { who: usize, key: ValueKey },
    Computed { who: usize, turn: u64 },
    Arrived { node: u8, key: ValueKey },
    Beat { who: usize },
    Died { who: usize },
    NodeDied { node: u8 },
}

/// A call that a process is in: it waits for an answer, or computes.
struct Frame {
    call: Call,
    next: usize,
    lease: bool,
}

struct Program {
    process: Process,
    node: u8,
    calls: Vec<Call>,
    stack: Vec<Frame>,
    waits: bool,
    turn: u64,
    alive: bool,
}

struct World {
    rng: StdRng,
    now: u64,
    queue: BinaryHeap<std::cmp::Reverse<(u64, u64, Event)>>,
    sent: u64,
    tables: BTreeMap<u8, Leases>,
    values: BTreeSet<(u8, ValueKey)>,
    programs: Vec<Program>,
    computed: BTreeMap<ValueKey, u32>,
    allowed: BTreeMap<ValueKey, u32>,
    deaths: u32,
}

impl World {
    fn new(seed: u64, nodes: u8, depth: u32) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let keys = rng.random_range(1..6);
        let mut programs = Vec::new();
        for number in 0..rng.random_range(2..10) {
            let node = rng.random_range(0..nodes);
            let calls = (0..rng.random_range(1..4)).map(|_| any_call(&mut rng, keys, depth)).collect();
            let process = process(node, number);
            programs.push(Program { process, node, calls, stack: Vec::new(), waits: false, turn: 0, alive: true });
        }
        let mut world = Self {
            rng,
            now: 0,
            queue: BinaryHeap::new(),
            sent: 0,
            tables: (0..nodes).map(|node| (node, Leases::default())).collect(),
            values: BTreeSet::new(),
            programs,
            computed: BTreeMap::new(),
            allowed: BTreeMap::new(),
            deaths: 0,
        };
        for who in 0..world.programs.len() {
            world.go_on(who);
            world.send_in(1_000, Event::Beat { who });
        }
        world
    }

    fn send(&mut self, event: Event) {
        let delay = self.rng.random_range(0..200);
        self.send_in(delay, event);
    }

    fn send_in(&mut self, delay_ms: u64, event: Event) {
        self.sent += 1;
        self.queue.push(std::cmp::Reverse((self.now + delay_ms, self.sent, event)));
    }

    fn keeper(&self, key: ValueKey) -> u8 {
        keeper(key, self.tables.keys().map(|&node| NodeId([node; 32]))).expect("one node lives").0[0]
    }

    /// The process makes its next call, or goes on with the one that it is in.
    fn go_on(&mut self, who: usize) {
        let program = &mut self.programs[who];
        let call = match program.stack.last_mut() {
            Some(frame) if frame.next < frame.call.inner.len() => {
                frame.next += 1;
                Some(frame.call.inner[frame.next - 1].clone())
            }
            Some(frame) => {
                program.turn += 1;
                let (turn, delay) = (program.turn, frame.call.compute_ms);
                return self.send_in(delay, Event::Computed { who, turn });
            }
            None => program.calls.pop(),
        };
        if let Some(call) = call {
            let key = call.key;
            program.stack.push(Frame { call, next: 0, lease: false });
            self.send(Event::Asked { who, key });
        }
    }

    fn set_waits(&mut self, who: usize, waits: bool) {
        if std::mem::replace(&mut self.programs[who].waits, waits) != waits {
            self.renew(who);
        }
    }

    fn renew(&mut self, who: usize) {
        let waits = self.programs[who].waits;
        let held: Vec<ValueKey> =
            self.programs[who].stack.iter().filter(|frame| frame.lease).map(|frame| frame.call.key).collect();
        for key in held {
            self.send(Event::Renewed { who, key, waits });
        }
    }

    fn run(&mut self) {
        while let Some(std::cmp::Reverse((when, _, event))) = self.queue.pop() {
            self.now = when;
            if self.is_over() || self.now > 3_600_000 {
                return;
            }
            self.on(event);
        }
    }

    fn is_over(&self) -> bool {
        self.programs.iter().all(|program| !program.alive || (program.calls.is_empty() && program.stack.is_empty()))
    }

    fn on(&mut self, event: Event) {
        let now = at(self.now);
        match event {
            Event::Asked { who, key } if self.programs[who].alive => {
                if self.values.contains(&(self.programs[who].node, key)) {
                    return self.end_call(who, key);
                }
                let (process, keeper) = (self.programs[who].process, self.keeper(key));
                let answer = self.tables.get_mut(&keeper).map(|table| table.ask(now, key, process, None));
                let answer = match answer.expect("it lives") {
                    LeaseAnswer::Compute => 0,
                    LeaseAnswer::Alone => 1,
                    LeaseAnswer::Busy { .. } => 2,
                    LeaseAnswer::Stored => 3,
                };
                self.send(Event::Answered { who, key, answer });
            }
            Event::Answered { who, key, answer } if self.programs[who].alive => self.answered(who, key, answer),
            Event::Renewed { who, key, waits } if self.programs[who].alive => {
                let (process, keeper) = (self.programs[who].process, self.keeper(key));
                self.tables.get_mut(&keeper).expect("it lives").renew(now, key, process, waits);
            }
            Event::Released { who, key } => {
                let (process, keeper) = (self.programs[who].process, self.keeper(key));
                self.tables.get_mut(&keeper).expect("it lives").release(now, key, process, true);
            }
            Event::Computed { who, turn } if self.programs[who].alive && self.programs[who].turn == turn => {
                let frame = self.programs[who].stack.last().expect("it computes");
                let key = frame.call.key;
                self.values.insert((self.programs[who].node, key));
                for node in self.tables.keys().copied().collect::<Vec<_>>() {
                    self.send(Event::Arrived { node, key });
                }
                self.send(Event::Released { who, key });
                self.end_call(who, key);
            }
            Event::Arrived { node, key } => drop(self.values.insert((node, key))),
            Event::Beat { who } if self.programs[who].alive => {
                self.renew(who);
                self.send_in(1_000, Event::Beat { who });
            }
            Event::Died { who } => {
                self.programs[who].alive = false;
                self.deaths += 1;
            }
            Event::NodeDied { node } => {
                self.tables.remove(&node);
                self.deaths += 1;
                self.programs
                    .iter_mut()
                    .filter(|program| program.node == node)
                    .for_each(|program| program.alive = false);
            }
            _ => {}
        }
    }

    fn answered(&mut self, who: usize, key: ValueKey, answer: u8) {
        if answer >= 2 {
            self.set_waits(who, true);
            return self.send_in(100, Event::Asked { who, key });
        }
        self.set_waits(who, false);
        self.programs[who].stack.last_mut().expect("it asked").lease = answer == 0;
        *self.computed.entry(key).or_default() += 1;
        *self.allowed.entry(key).or_default() += u32::from(answer == 1);
        self.go_on(who);
    }

    fn end_call(&mut self, who: usize, key: ValueKey) {
        self.set_waits(who, false);
        let ended = self.programs[who].stack.pop().expect("it was in a call");
        assert_eq!(ended.call.key, key);
        self.go_on(who);
    }
}

fn any_call(rng: &mut StdRng, keys: u8, depth: u32) -> Call {
    let inner = if depth == 0 { 0 } else { rng.random_range(0..3) };
    Call {
        key: ValueKey([rng.random_range(0..keys); 32]),
        inner: (0..inner).map(|_| any_call(rng, keys, depth - 1)).collect(),
        compute_ms: rng.random_range(1..8_000),
    }
}

fn assert_over(seed: u64, world: &World) {
    assert!(world.is_over(), "seed {seed}: somebody still waits after {} ms", world.now);
}

#[test]
fn calls_that_call_nobody_are_computed_once() {
    for seed in SEEDS {
        let mut world = World::new(seed, 3, 0);
        world.run();
        assert_over(seed, &world);
        assert!(world.computed.values().all(|&times| times == 1), "seed {seed}: {:?}", world.computed);
    }
}

/// Processes that call each other's functions in opposite order are the rule here, not the exception.
#[test]
fn nobody_waits_for_ever_and_only_who_was_told_to_computes_again() {
    let mut alone = 0;
    for seed in SEEDS {
        let mut world = World::new(seed, 3, 2);
        world.run();
        assert_over(seed, &world);
        for (key, &times) in &world.computed {
            let allowed = world.allowed.get(key).copied().unwrap_or(0);
            assert!(times <= 1 + allowed, "seed {seed}: {key:?} {times} times, {allowed} times alone");
            alone += allowed;
        }
    }
    assert!(alone > 100, "waiting in circles was tried: {alone}");
}

#[test]
fn whoever_dies_the_others_end() {
    let mut deaths = 0;
    for seed in SEEDS {
        let mut world = World::new(seed, 4, 2);
        for _ in 0..3 {
            let who = world.rng.random_range(0..world.programs.len());
            let delay = world.rng.random_range(0..20_000);
            world.send_in(delay, Event::Died { who });
        }
        let (node, delay) = (world.rng.random_range(0..3), world.rng.random_range(0..20_000));
        world.send_in(delay, Event::NodeDied { node });
        world.run();
        assert_over(seed, &world);
        deaths += world.deaths;
    }
    assert!(deaths > 300, "they died before the end: {deaths}");
}
