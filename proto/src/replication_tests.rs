//! Who is sent what, and when a submission counts as held.

use rand::SeedableRng as _;

use super::*;
use crate::blob::ContentId;
use crate::entry::Identity;
use crate::event::Event;
use crate::fixture::{Did, at, did, group};
use crate::log::Log;
use crate::membership::Liveness;
use crate::message::Advert;
use crate::snapshotting::{SnapshotRules, Snapshotting};
use crate::time::Hlc;
use crate::view::NodeView;

fn identity(number: u8) -> Identity {
    Identity::from_seed([number; 32])
}

/// The log of node `number`.
fn log(number: u8) -> Log {
    Log::new(identity(number), 1, BTreeMap::new(), Hlc::default())
}

fn entry(log: &mut Log) -> VerifiedEntry {
    log.append(5, &mut [Event::SecretRotated { number: 1 }].into()).expect("one event")
}

/// What node 1 sees: the nodes named, alive and connected.
fn view(peers: &[u8]) -> View {
    let mut view = View::new(identity(1).node());
    for &peer in peers {
        let seen = NodeView { liveness: Some(Liveness::Alive), connected: true, ..NodeView::default() };
        view.nodes.insert(identity(peer).node(), seen);
    }
    view
}

fn stored(replication: &mut Replication, now: Now, entries: &[VerifiedEntry], view: &View) -> Did {
    did(|out| replication.on_stored(now, entries, false, view, &mut StdRng::seed_from_u64(1), out))
}

fn tick(replication: &mut Replication, now: Now, view: &View) -> Did {
    did(|out| replication.on_tick(now, view, &mut StdRng::seed_from_u64(1), out))
}

fn accepted(held_by: &[NodeId]) -> Effect {
    Effect::Reply { request: RequestId(3), answer: Answer::Accepted { held_by: held_by.to_vec() } }
}

fn bundle() -> BundleRef {
    BundleRef { manifest: ContentId([4; 32]), total_bytes: 5, files: 6 }
}

/// The peers of node 1 by rank for the group: whom it asks, in order.
fn ranked(peers: &[u8]) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = peers.iter().map(|&peer| identity(peer).node()).collect();
    nodes.sort_by_key(|&node| std::cmp::Reverse(rank(group(1), node)));
    nodes
}

/// Node 1 has submitted, at 0; the entry is not durable yet.
fn submitting() -> (Replication, VerifiedEntry) {
    let entry = entry(&mut log(1));
    let mut replication = Replication::default();
    replication.on_submitted(at(0), RequestId(3), group(1), entry.position(), Some(bundle()));
    replication.synced_at = at(0).at;
    (replication, entry)
}

/// No snapshot is known: entries alone answer.
fn none() -> Snapshotting {
    Snapshotting::new(SnapshotRules::default(), Vec::new(), VersionVector::default())
}

#[test]
fn alone_a_submission_is_accepted_as_soon_as_it_is_durable() {
    let (mut replication, entry) = submitting();
    let view = view(&[]);
    assert_eq!(tick(&mut replication, at(1), &view), Did::NOTHING, "not durable yet");
    let told = stored(&mut replication, at(2), &[entry], &view);
    assert_eq!(told, Did::ordered([accepted(&[view.me])]));
    assert_eq!(tick(&mut replication, at(3), &view), Did::NOTHING);
    assert!(!replication.is_busy());
}

#[test]
fn a_holder_is_asked_at_once_another_after_two_seconds_and_none_after_five() {
    let (mut replication, entry) = submitting();
    let view = view(&[2, 3]);
    let order = ranked(&[2, 3]);
    let hold = |node| (node, Message::Hold { position: entry.position(), bundle: Some(bundle()) });
    let fresh = |peer| (identity(peer).node(), Message::Fresh(vec![entry.signed().clone()]));
    let mut told = stored(&mut replication, at(0), std::slice::from_ref(&entry), &view);
    told.sends.sort_by_key(|(node, message)| (matches!(message, Message::Hold { .. }), *node));
    let mut peers = vec![fresh(2), fresh(3)];
    peers.sort_by_key(|(node, _)| *node);
    assert_eq!(told, Did::sent([peers.remove(0), peers.remove(0), hold(order[0])]));
    // Only what concerns the submission: vectors are compared at these times as well.
    let holds = |did: Did| -> Vec<(NodeId, Message)> {
        did.sends.into_iter().filter(|(_, message)| matches!(message, Message::Hold { .. })).collect()
    };
    assert_eq!(tick(&mut replication, at(1_999), &view), Did::NOTHING);
    assert_eq!(holds(tick(&mut replication, at(2_000), &view)), [hold(order[1])]);
    assert_eq!(holds(tick(&mut replication, at(3_999), &view)), []);
    assert_eq!(holds(tick(&mut replication, at(4_000), &view)), [hold(order[0])], "all were asked: the first again");
    assert_eq!(tick(&mut replication, at(4_999), &view).effects, []);
    assert_eq!(tick(&mut replication, at(5_000), &view).effects, [accepted(&[view.me])]);
    assert!(!replication.is_busy());
}

#[test]
fn who_has_the_bundle_already_is_asked_first() {
    let (mut replication, entry) = submitting();
    let mut view = view(&[2, 3, 4]);
    let last = *ranked(&[2, 3, 4]).last().expect("three");
    let advert = Advert { bundles: vec![[4; 8]], ..Advert::default() };
    view.nodes.get_mut(&last).expect("seen").advert = Some(advert);
    let position = entry.position();
    let told = stored(&mut replication, at(2), &[entry], &view);
    let asked: Vec<_> = told.sends.iter().filter(|(_, message)| matches!(message, Message::Hold { .. })).collect();
    assert_eq!(asked, [&(last, Message::Hold { position, bundle: Some(bundle()) })], "it copies nothing");
}

#[test]
fn the_first_holder_that_answers_is_named() {
    let (mut replication, entry) = submitting();
    let view = view(&[2, 3]);
    stored(&mut replication, at(0), std::slice::from_ref(&entry), &view);
    let two = identity(2).node();
    let done = |replication: &mut Replication, position, bundle| {
        did(|out| replication.on_hold_done(two, position, bundle, &view, out))
    };
    assert_eq!(done(&mut replication, entry.position(), None), Did::NOTHING, "another bundle than was asked for");
    let mut later = entry.position();
    later.seq += 1;
    assert_eq!(done(&mut replication, later, Some(bundle())), Did::NOTHING, "another entry");
    let told = done(&mut replication, entry.position(), Some(bundle()));
    assert_eq!(told, Did::ordered([accepted(&[view.me, two])]));
    assert_eq!(done(&mut replication, entry.position(), Some(bundle())), Did::NOTHING, "answered once");
}

#[test]
fn holding_means_the_entry_all_before_it_and_the_whole_bundle() {
    let view = view(&[2]);
    let (two, mut theirs) = (identity(2).node(), log(2));
    let (first, second) = (entry(&mut theirs), entry(&mut theirs));
    let mut replication = Replication::default();
    let position = second.position();
    let asked = did(|out| replication.on_hold(at(0), two, position, Some(bundle()), out));
    assert_eq!(asked, Did::ordered([Effect::Fetch { position, bundle: bundle(), from: two }]));
    let again = did(|out| replication.on_hold(at(1), two, position, Some(bundle()), out));
    assert_eq!(again, Did::NOTHING, "it is on its way");
    let held = |seq| (two, Message::Held(vec![Position { seq, ..position }]));
    assert_eq!(stored(&mut replication, at(2), &[first], &view), Did::sent([held(1)]));
    let fetched = did(|out| replication.on_fetched(position, bundle(), true, out));
    assert_eq!(fetched, Did::NOTHING, "the bundle alone is not enough");
    let done = (two, Message::HoldDone { position, bundle: Some(bundle()) });
    assert_eq!(stored(&mut replication, at(3), &[second], &view), Did::sent([held(2), done]));
    assert!(!replication.is_busy());
}

#[test]
fn a_bundle_that_cannot_be_had_is_not_vouched_for() {
    let view = view(&[2]);
    let (two, theirs) = (identity(2).node(), entry(&mut log(2)));
    let position = theirs.position();
    let mut replication = Replication::default();
    did(|out| replication.on_hold(at(0), two, position, Some(bundle()), out));
    assert_eq!(did(|out| replication.on_fetched(position, bundle(), false, out)), Did::NOTHING);
    let told = stored(&mut replication, at(1), &[theirs], &view);
    assert_eq!(told, Did::sent([(two, Message::Held(vec![position]))]));
    assert!(!replication.is_busy());
}

#[test]
fn a_promise_that_nobody_waits_for_any_more_is_dropped() {
    let view = view(&[2]);
    let two = identity(2).node();
    let position = entry(&mut log(2)).position();
    let mut replication = Replication::default();
    assert_eq!(did(|out| replication.on_hold(at(0), two, position, None, out)), Did::NOTHING);
    tick(&mut replication, at(4_999), &view);
    assert!(replication.is_busy());
    tick(&mut replication, at(5_000), &view);
    assert!(!replication.is_busy());
}

#[test]
fn equal_vectors_cost_one_digest_and_others_bring_what_is_missing_both_ways() {
    let (one, two) = (entry(&mut log(1)), entry(&mut log(2)));
    let (mine, theirs) = (one.position(), two.position());
    let view = view(&[2]);
    let mut replication = Replication::default();
    stored(&mut replication, at(0), &[one], &view);
    let from = identity(2).node();
    let equal = replication.durable().digest();
    assert_eq!(did(|out| assert!(replication.on_digest(from, equal, out))), Did::NOTHING);
    let other = did(|out| assert!(!replication.on_digest(from, ContentId([9; 32]), out)));
    assert_eq!(other, Did::sent([(from, Message::Vector(replication.durable().clone()))]));
    let vector = VersionVector(BTreeMap::from([(theirs.log, 7)]));
    let range = |log, first, last| EntryRange { log, first, last };
    let told = did(|out| replication.on_vector(at(1), from, &vector, &none(), out));
    let send = Effect::SendEntries { to: from, ranges: vec![range(mine.log, 1, 1)] };
    let want = (from, Message::Want(vec![range(theirs.log, 1, 7)]));
    assert_eq!(told, Did { effects: vec![send.clone()], ..Did::sent([want.clone()]) });
    // What is on its way is not asked for twice, until it should have come.
    let again = did(|out| replication.on_vector(at(1_500), from, &vector, &none(), out));
    assert_eq!(again, Did::ordered([send.clone()]));
    let later = did(|out| replication.on_vector(at(1_501), from, &vector, &none(), out));
    assert_eq!(later, Did { effects: vec![send], ..Did::sent([want]) });
}

#[test]
fn only_what_is_on_disk_is_sent() {
    let one = entry(&mut log(1));
    let log = one.position().log;
    let mut replication = Replication::default();
    let from = identity(2).node();
    let asked = |replication: &Replication, first, last| {
        did(|out| replication.on_want(from, vec![EntryRange { log, first, last }], &none(), out))
    };
    assert_eq!(asked(&replication, 1, 9), Did::NOTHING);
    stored(&mut replication, at(0), &[one], &view(&[2]));
    let ranges = vec![EntryRange { log, first: 1, last: 1 }];
    assert_eq!(asked(&replication, 1, 9), Did::ordered([Effect::SendEntries { to: from, ranges }]));
    assert_eq!(asked(&replication, 2, 9), Did::NOTHING);
}

#[test]
fn of_two_nodes_that_meet_the_smaller_begins() {
    let (small, great) = (view(&[2]), identity(2).node());
    let mut replication = Replication::default();
    let met = did(|out| replication.on_connected(great, &small, out));
    let begins = Did::sent([(great, Message::Digest(replication.durable().digest()))]);
    assert_eq!(met, if small.me < great { begins } else { Did::NOTHING });
    let mut theirs = View::new(great);
    theirs.nodes.insert(small.me, NodeView::default());
    let met = did(|out| replication.on_connected(small.me, &theirs, out));
    let begins = Did::sent([(small.me, Message::Digest(replication.durable().digest()))]);
    assert_eq!(met, if great < small.me { begins } else { Did::NOTHING });
}

#[test]
fn vectors_are_compared_every_two_seconds() {
    let view = view(&[2]);
    let mut replication = Replication::default();
    let digest = Did::sent([(identity(2).node(), Message::Digest(replication.durable().digest()))]);
    assert_eq!(tick(&mut replication, at(2_000), &view), digest);
    assert_eq!(tick(&mut replication, at(3_999), &view), Did::NOTHING);
    assert_eq!(tick(&mut replication, at(4_000), &view), digest);
}
