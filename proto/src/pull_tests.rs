//! What a worker with room asks for, and when.

use super::*;
use crate::core_io::Effect;
use crate::event::Event;
use crate::fixture::{Did, ME, THREE, TWO, at, attempt, capacity, did, finished, group, position, spec, view};
use crate::id::{AttemptId, Member};
use crate::job::Ending;
use crate::message::{Accepting, Offer};
use crate::record::rank;

/// Four CPUs, and a runner that has answered.
fn open(view: &View) -> Worker {
    let mut worker = Worker::new(capacity(4_000));
    assert_eq!(did(|out| worker.on_adopted(at(0), Vec::new(), view, out)), Did::NOTHING);
    worker
}

fn demand(number: u8, waiting: u32, cpu_milli: u32) -> Demand {
    Demand {
        group: group(number),
        waiting,
        requirement: Requirement { cpu_milli, ..Requirement::default() },
        user: "ada".to_owned(),
        project: "vision".to_owned(),
        priority: 0,
        submitted_unix_ms: at(0).unix_ms,
    }
}

fn claims(to: NodeId, number: u8, count: u32) -> Did {
    Did::sent([(to, Message::Claim { group: group(number), count })])
}

fn asks(worker: &mut Worker, now: Now, view: &View) -> Did {
    did(|out| worker.ask(now, view, out))
}

/// Has the worker run a job of `number`, all of it reserved.
fn occupy(worker: &mut Worker, view: &View, now: Now, number: u8, cpu_milli: u32) -> AttemptId {
    let members = vec![(Member::Only, 1)];
    let offer = Offer {
        group: group(number),
        epoch: 1,
        members,
        spec: spec(cpu_milli),
        position: position(TWO),
        checkpoints: BTreeMap::new(),
    };
    did(|out| worker.on_offer(now, TWO, offer, view, out));
    let handed = did(|out| worker.run_next(now, view, out));
    assert!(matches!(handed.effects.as_slice(), [Effect::Run(_)]), "{handed:?}");
    attempt(number, 1, 1)
}

#[test]
fn a_worker_with_room_asks_for_as_many_as_fit_or_wait() {
    let view = view(&[TWO]);
    let mut worker = open(&view);
    worker.pull_mut().on_demands(at(0), TWO, vec![demand(1, 100, 1_000)]);
    assert_eq!(asks(&mut worker, at(0), &view), claims(TWO, 1, 4));
    let mut few = open(&view);
    few.pull_mut().on_demands(at(0), TWO, vec![demand(1, 2, 1_000)]);
    assert_eq!(asks(&mut few, at(0), &view), claims(TWO, 1, 2));
}

#[test]
fn one_question_at_a_time_is_repeated_after_half_a_second() {
    let view = view(&[TWO]);
    let mut worker = open(&view);
    worker.pull_mut().on_demands(at(0), TWO, vec![demand(1, 1, 1_000)]);
    assert_eq!(asks(&mut worker, at(0), &view), claims(TWO, 1, 1));
    assert_eq!(asks(&mut worker, at(499), &view), Did::NOTHING);
    assert_eq!(asks(&mut worker, at(500), &view), claims(TWO, 1, 1));
    worker.pull_mut().on_answered(TWO, group(1));
    assert_eq!(asks(&mut worker, at(501), &view), claims(TWO, 1, 1), "an answer allows the next question");
}

#[test]
fn a_full_worker_asks_for_nothing() {
    let view = view(&[TWO]);
    let mut worker = open(&view);
    occupy(&mut worker, &view, at(0), 9, 4_000);
    worker.pull_mut().on_demands(at(0), TWO, vec![demand(1, 1, 1_000)]);
    assert_eq!(asks(&mut worker, at(0), &view), Did::NOTHING);
}

#[test]
fn a_paused_or_drained_worker_asks_for_nothing() {
    let mut view = view(&[TWO]);
    let mut worker = open(&view);
    worker.pull_mut().on_demands(at(0), TWO, vec![demand(1, 1, 1_000)]);
    worker.set_accepting(Accepting::Paused);
    assert_eq!(asks(&mut worker, at(0), &view), Did::NOTHING);
    worker.set_accepting(Accepting::Yes);
    let stamp = crate::record::Stamp { hlc: crate::Hlc::default(), position: position(TWO), event: 0 };
    view.nodes.get_mut(&ME).expect("this node").record.drained = Some((stamp, true));
    assert_eq!(asks(&mut worker, at(0), &view), Did::NOTHING);
    view.nodes.get_mut(&ME).expect("this node").record.drained = Some((stamp, false));
    assert_eq!(asks(&mut worker, at(0), &view), claims(TWO, 1, 1));
}

#[test]
fn who_holds_least_comes_first_then_priority_then_age() {
    let view = view(&[TWO]);
    let mut worker = open(&view);
    occupy(&mut worker, &view, at(0), 9, 1_000);
    let by = |number, user: &str, project: &str, priority, age_ms| Demand {
        user: user.to_owned(),
        project: project.to_owned(),
        priority,
        submitted_unix_ms: at(0).unix_ms - age_ms,
        ..demand(number, 1, 1_000)
    };
    // Ada's project "vision" holds one CPU here. Of bob's four, the second is urgent and of those the last is old.
    let demands = [
        by(1, "ada", "vision", 100, 900),
        by(2, "ada", "speech", 0, 900),
        by(3, "bob", "vision", 0, 900),
        by(4, "bob", "vision", 5, 100),
        by(5, "bob", "vision", 5, 200),
    ];
    worker.pull_mut().on_demands(at(0), TWO, demands.to_vec());
    let mut left = demands.to_vec();
    for expected in [5, 4, 3, 2, 1] {
        assert_eq!(asks(&mut worker, at(0), &view), claims(TWO, expected, 1));
        left.retain(|demand| demand.group != group(expected));
        worker.pull_mut().on_demands(at(0), TWO, left.clone());
    }
}

#[test]
fn what_was_spent_lately_counts_and_is_forgiven() {
    let view = view(&[TWO]);
    let mut worker = open(&view);
    let took = occupy(&mut worker, &view, at(0), 9, 4_000);
    let end = Box::new(finished(took, Ending::Exited { code: 0 }));
    let told = did(|out| worker.on_ended(at(10_000), end.clone(), Vec::new(), out));
    assert_eq!(told, Did::wrote([Event::AttemptFinished { finished: end, inline: Vec::new() }]));
    let bobs = Demand { user: "bob".to_owned(), submitted_unix_ms: at(0).unix_ms + 1, ..demand(2, 1, 1_000) };
    let both = vec![demand(1, 1, 1_000), bobs];
    worker.pull_mut().on_demands(at(10_000), TWO, both.clone());
    assert_eq!(asks(&mut worker, at(10_000), &view), claims(TWO, 2, 1), "ada's job ran ten seconds on four CPUs");
    // 40,000,000 is halved with every minute.
    for minute in 1..=26 {
        did(|out| worker.on_tick(at(10_000 + minute * 60_000), &view, out));
    }
    let now = at(10_000 + 27 * 60_000);
    worker.pull_mut().on_demands(now, TWO, both);
    assert_eq!(asks(&mut worker, now, &view), claims(TWO, 1, 1), "the older one");
}

#[test]
fn a_demand_that_had_to_be_refused_is_left_alone_for_a_moment() {
    let view = view(&[TWO]);
    let mut worker = open(&view);
    worker.pull_mut().on_demands(at(0), TWO, vec![demand(1, 1, 1_000)]);
    worker.pull_mut().on_refused(at(0), TWO, group(1));
    assert_eq!(asks(&mut worker, at(99), &view), Did::NOTHING);
    // Also when it is told anew meanwhile.
    worker.pull_mut().on_demands(at(99), TWO, vec![demand(1, 1, 1_000)]);
    assert_eq!(asks(&mut worker, at(99), &view), Did::NOTHING);
    assert_eq!(asks(&mut worker, at(100), &view), claims(TWO, 1, 1));
}

#[test]
fn a_demand_that_is_not_repeated_is_forgotten() {
    let view = view(&[TWO, THREE]);
    let mut worker = open(&view);
    worker.pull_mut().on_demands(at(0), TWO, vec![demand(1, 1, 1_000)]);
    did(|out| worker.on_tick(at(9_999), &view, out));
    assert!(worker.pull_mut().may_ask(at(9_999)));
    did(|out| worker.on_tick(at(10_000), &view, out));
    assert_eq!(asks(&mut worker, at(10_000), &view), Did::NOTHING);
    // An empty word is a word: nothing waits there any more.
    worker.pull_mut().on_demands(at(10_001), THREE, vec![demand(2, 1, 1_000)]);
    worker.pull_mut().on_demands(at(10_002), THREE, Vec::new());
    assert_eq!(asks(&mut worker, at(10_002), &view), Did::NOTHING);
}

#[test]
fn a_coordinator_that_is_away_is_not_asked() {
    let mut view = view(&[TWO]);
    let mut worker = open(&view);
    worker.pull_mut().on_demands(at(0), TWO, vec![demand(1, 1, 1_000)]);
    view.nodes.get_mut(&TWO).expect("a peer").refused_at = Some(at(0).at);
    assert_eq!(asks(&mut worker, at(0), &view), Did::NOTHING);
}

#[test]
fn jobs_are_claimed_ahead_by_their_pace_and_never_more_than_512() {
    let mut pull = Pull::default();
    let one_cpu = Requirement::default();
    assert_eq!(pull.ahead(group(1), &one_cpu, &capacity(4_000)), 0, "of an unknown pace nothing");
    for (took_ms, expected) in [(400, 2), (100, 8), (10, 80), (1, 512)] {
        let mut pull = Pull::default();
        pull.on_took(group(1), &spec(1_000), Duration::from_millis(took_ms));
        assert_eq!(pull.ahead(group(1), &one_cpu, &capacity(4_000)), expected, "{took_ms} ms on four CPUs");
    }
    // A pace follows what comes: (7 * 80 + 0) / 8.
    pull.on_took(group(1), &spec(1_000), Duration::from_millis(80));
    pull.on_took(group(1), &spec(1_000), Duration::ZERO);
    assert_eq!(pull.ahead(group(1), &one_cpu, &capacity(1_000)), 200 / 70);
}

#[test]
fn a_large_job_that_waited_long_is_given_room_by_the_node_that_ranks_first() {
    for me_first in [true, false] {
        let number = (1..=255).find(|&number| (rank(group(number), ME) > rank(group(number), TWO)) == me_first);
        let large = number.expect("one of 255 groups ranks so");
        let view = view(&[TWO]);
        let mut worker = open(&view);
        occupy(&mut worker, &view, at(0), 0, 1_000);
        let waits = demand(large, 1, 4_000);
        let now = Now { unix_ms: waits.submitted_unix_ms + 30_001, ..at(0) };
        let other = if large == 255 { 254 } else { 255 };
        let young = Demand { submitted_unix_ms: now.unix_ms, ..demand(other, 1, 1_000) };
        worker.pull_mut().on_demands(now, TWO, vec![waits, young]);
        let expected = if me_first { Did::NOTHING } else { claims(TWO, other, 1) };
        assert_eq!(asks(&mut worker, now, &view), expected, "ranks first: {me_first}");
        assert_eq!(worker.pull_mut().holds_back_for_another(group(other)), me_first);
        assert!(!worker.pull_mut().holds_back_for_another(group(large)));
        // Room is held for what still waits, no longer.
        worker.pull_mut().on_demands(now, TWO, vec![demand(other, 1, 1_000)]);
        assert!(!worker.pull_mut().holds_back_for_another(group(other)));
    }
}
