//! Who keeps second copies, how copies are tried again, and when ended jobs are looked at again.

use std::collections::BTreeMap;

use super::*;
use crate::ContentId;
use crate::entry::{LogId, Position};
use crate::event::{AttemptFinished, INLINE_MAX};
use crate::id::AttemptId;
use crate::job::{Ending, Usage};
use crate::membership::Liveness;
use crate::record::{AttemptRecord, Claim, Outcome};
use crate::time::Hlc;
use crate::view::NodeView;

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

/// What `me` sees when these nodes are up.
fn view(me: NodeId, up: &[NodeId]) -> View {
    let mut view = View::new(me);
    for &node in up.iter().filter(|&&node| node != me) {
        view.nodes.insert(node, NodeView { liveness: Some(Liveness::Alive), ..NodeView::default() });
    }
    view
}

fn at(ms: u64) -> Now {
    Now { at: Timestamp(ms), unix_ms: 1_000_000_000_000 + ms }
}

fn job(number: u8) -> JobId {
    JobId::only(GroupId([number; 16]))
}

fn left(job: JobId, worker: NodeId) -> Left {
    let log = Some(LogRef { content: ContentId([1; 32]), size: INLINE_MAX as u64 + 1, times: None });
    Left { job, worker, log, outputs: None, tracked: None }
}

fn ended_at(worker: NodeId, job: JobId, log_bytes: u64) -> JobRecord {
    let attempt = AttemptId { job, epoch: 1, number: 1 };
    let finished = AttemptFinished {
        attempt,
        ending: Ending::Exited { code: 0 },
        usage: Usage::default(),
        started_unix_ms: 1,
        ended_unix_ms: 2,
        outputs: None,
        log: Some(LogRef { content: ContentId([1; 32]), size: log_bytes, times: None }),
        ran_with: None,
    };
    let log = LogId { author: worker, incarnation: 1 };
    JobRecord {
        attempts: BTreeMap::from([(
            AttemptKey { epoch: 1, number: 1, worker },
            AttemptRecord { finished: Some(Box::new(finished)), ..AttemptRecord::default() },
        )]),
        outcome: Some(Outcome {
            claim: Claim { epoch: 1, coordinator: worker },
            position: Position { log, seq: 1 },
            hlc: Hlc::default(),
            attempt: Some((attempt, worker)),
            ending: Ending::Exited { code: 0 },
        }),
        ..JobRecord::default()
    }
}

fn tick(keeping: &mut Keeping, now: Now, view: &View) -> Vec<Effect> {
    let mut out = Out::default();
    keeping.on_tick(now, view, &mut out);
    assert!(out.sends.is_empty() && out.events.is_empty());
    out.effects
}

fn kept(left: &Left, providers: &[NodeId], unless_held: bool) -> Effect {
    Effect::Keep { left: Box::new(left.clone()), providers: providers.to_vec(), unless_held }
}

#[test]
fn what_is_in_the_journal_needs_no_copy() {
    let large = INLINE_MAX as u64 + 1;
    assert_eq!(Left::of(job(9), &ended_at(node(1), job(9), large)), Some(left(job(9), node(1))));
    assert_eq!(Left::of(job(9), &ended_at(node(1), job(9), INLINE_MAX as u64)), None);
    assert_eq!(Left::of(job(9), &JobRecord { outcome: None, ..ended_at(node(1), job(9), large) }), None);
}

#[test]
fn two_nodes_that_are_up_keep_it_whoever_dies() {
    let nodes: Vec<NodeId> = (1..6).map(node).collect();
    let keepers = |left: &Left, up: &[NodeId]| -> Vec<NodeId> {
        up.iter().copied().filter(|&me| is_keeper(left, &view(me, up))).collect()
    };
    for &worker in &nodes {
        let left = left(job(9), worker);
        let first = keepers(&left, &nodes);
        assert_eq!(first.len(), 1, "beside the worker");
        assert_ne!(first[0], worker);
        let without = |gone: NodeId| nodes.iter().copied().filter(|&node| node != gone).collect::<Vec<_>>();
        let second = keepers(&left, &without(first[0]));
        assert_eq!(second.len(), 1, "a keeper that is gone is replaced");
        let both = keepers(&left, &without(worker));
        assert!(both.len() == 2 && both.contains(&first[0]) && both.contains(&second[0]), "and so is the worker");
    }
    let alone = left(job(9), node(1));
    assert_eq!(keepers(&alone, &[node(1)]), [], "alone there is nobody to keep it");
}

#[test]
fn a_copy_is_tried_again_later_and_later_until_it_is_made() {
    let (me, worker) = (node(1), node(2));
    let view = view(me, &[me, worker]);
    let mut keeping = Keeping::default();
    let left = left(job(9), worker);
    keeping.on_left(at(0), left.clone(), &view);
    assert_eq!(tick(&mut keeping, at(0), &view), [kept(&left, &[worker], false)]);
    assert_eq!(tick(&mut keeping, at(900), &view), [], "it is under way");
    let mut now = 1_000;
    for wait in [1_000, 2_000, 4_000] {
        keeping.on_kept(at(now), &left, false);
        let orders =
            |effects: Vec<Effect>| effects.into_iter().filter(|one| matches!(one, Effect::Keep { .. })).count();
        assert_eq!(orders(tick(&mut keeping, at(now + wait - 1), &view)), 0);
        assert_eq!(orders(tick(&mut keeping, at(now + wait), &view)), 1, "after {wait} ms");
        now += wait;
    }
    keeping.on_kept(at(now), &left, true);
    assert!(keeping.wanted.is_empty());
}

#[test]
fn who_is_no_keeper_any_more_wants_nothing() {
    let (worker, nodes) = (node(9), [node(1), node(2), node(9)]);
    let left = left(job(7), worker);
    let me = *nodes.iter().find(|&&me| is_keeper(&left, &view(me, &nodes))).expect("one keeps it");
    let other = if me == node(1) { node(2) } else { node(1) };
    let mut keeping = Keeping::default();
    // While `me` is not seen, the other one wants it; when it is back, no longer.
    keeping.on_left(at(0), left, &view(other, &[other, worker]));
    assert_eq!(keeping.wanted.len(), 1);
    let _ = tick(&mut keeping, at(1), &view(other, &nodes));
    assert!(keeping.wanted.is_empty());
}

#[test]
fn a_few_copies_are_made_at_a_time() {
    let (me, worker) = (node(1), node(2));
    let view = view(me, &[me, worker]);
    let mut keeping = Keeping::default();
    let all: Vec<Left> = (1..=10).map(|number| left(job(number), worker)).collect();
    keeping.on_reviewed(at(0), all.clone(), &view);
    keeping.on_reviewed(at(0), all.clone(), &view);
    let mut out = Out::default();
    keeping.begin(at(0), &view, &mut out);
    let first: Vec<Effect> = all[..4].iter().map(|left| kept(left, &[worker], true)).collect();
    assert_eq!(out.effects, first);
    keeping.on_kept(at(1), &all[2], true);
    let mut out = Out::default();
    keeping.begin(at(1), &view, &mut out);
    assert_eq!(out.effects, [kept(&all[4], &[worker], true)]);
}

#[test]
fn what_ended_lately_is_looked_at_after_a_start_and_when_somebody_came_or_went() {
    let (me, other) = (node(1), node(2));
    let view_of = |up: &[NodeId]| view(me, up);
    let both = view_of(&[me, other]);
    let mut keeping = Keeping::default();
    assert_eq!(tick(&mut keeping, at(0), &both), []);
    let review = |ms: u64| Effect::Review { oldest_unix_ms: 1_000_000_000_000 + ms - 7 * 86_400_000 };
    assert_eq!(tick(&mut keeping, at(5_000), &both), [review(5_000)]);
    assert_eq!(tick(&mut keeping, at(20_000), &both), []);
    keeping.on_alarm(at(20_000));
    keeping.on_alarm(at(24_000));
    assert_eq!(tick(&mut keeping, at(24_999), &both), []);
    assert_eq!(tick(&mut keeping, at(25_000), &both), [review(25_000)], "the first alarm counts");
    assert_eq!(tick(&mut keeping, at(625_000), &both), [review(625_000)], "and now and then");
    assert_eq!(tick(&mut keeping, at(1_225_000), &view_of(&[me])), [], "alone nothing can be copied");
}
