//! The rules of snapshots, one node at a time: an input, and all that comes of it.

use super::*;
use crate::entry::{LogId, Position};
use crate::view::NodeView;

const EVERY: u64 = 100;

fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

fn log(seed: u8) -> LogId {
    LogId { author: identity(seed).node(), incarnation: 1 }
}

fn vector(seqs: &[(u8, u64)]) -> VersionVector {
    VersionVector(seqs.iter().map(|&(seed, seq)| (log(seed), seq)).collect())
}

fn now(ms: u64) -> Now {
    Now { at: Timestamp(ms), unix_ms: 1_000_000 + ms }
}

fn rules() -> SnapshotRules {
    SnapshotRules { every: EVERY, horizon: Duration::from_millis(5_000) }
}

fn node(held: Vec<SignedSnapshot>) -> Snapshotting {
    Snapshotting::new(rules(), held, VersionVector::default())
}

fn name(vector: VersionVector, content: &str) -> SnapshotName {
    SnapshotName { format: FORMAT, vector, id: ContentId::of(content.as_bytes()), size: 9 }
}

fn signed(name: &SnapshotName, by: &[u8]) -> SignedSnapshot {
    let signatures = by.iter().map(|&seed| (identity(seed).node(), name.sign(&identity(seed)))).collect();
    SignedSnapshot { name: name.clone(), signatures }
}

fn view(me: u8, peers: &[u8]) -> View {
    let mut view = View::new(identity(me).node());
    for &peer in peers {
        view.nodes.insert(identity(peer).node(), NodeView { connected: true, ..NodeView::default() });
    }
    view
}

fn words(out: &Out) -> Vec<(NodeId, SnapshotWord)> {
    let word = |(to, message): &(NodeId, Message)| match message {
        Message::Snapshot(word) => (*to, word.clone()),
        other => panic!("{other:?}"),
    };
    out.sends.iter().map(word).collect()
}

fn tick(node: &mut Snapshotting, ms: u64, durable: &VersionVector, view: &View) -> Vec<Effect> {
    let mut out = Out::default();
    node.on_tick(now(ms), durable, view, &mut out);
    out.effects
}

/// The proposal that node 1 makes to node 2 once it is due.
fn propose(node: &mut Snapshotting, durable: &VersionVector) -> SnapshotWord {
    let mut out = Out::default();
    node.on_equal(now(1), identity(2).node(), durable, &mut out);
    assert_eq!(out.effects, [Effect::Snapshot(SnapshotOrder::Make)]);
    let [(to, word)] = <[_; 1]>::try_from(words(&out)).expect("one word");
    assert_eq!(to, identity(2).node());
    word
}

fn made(node: &mut Snapshotting, me: u8, name: &SnapshotName) -> Out {
    let mut out = Out::default();
    node.on_made(now(2), Some(name.clone()), &identity(me), &mut out);
    out
}

fn hear(node: &mut Snapshotting, me: u8, from: u8, word: SnapshotWord, durable: &VersionVector) -> Out {
    let mut out = Out::default();
    let here = (durable, &identity(me), &view(me, &[from]));
    node.on_word(now(3), identity(from).node(), word, here, &mut out);
    out
}

#[test]
fn two_that_made_the_same_keep_it_with_both_signatures() {
    let durable = vector(&[(1, 60), (2, 40)]);
    let (mut one, mut two) = (node(Vec::new()), node(Vec::new()));
    let proposal = propose(&mut one, &durable);
    assert_eq!(hear(&mut two, 2, 1, proposal, &durable).effects, [Effect::Snapshot(SnapshotOrder::Make)]);
    let same = name(durable.clone(), "state");
    let from_one = made(&mut one, 1, &same);
    let from_two = made(&mut two, 2, &same);
    assert_eq!((&from_one.effects, &from_two.effects), (&Vec::new(), &Vec::new()), "nobody trusts itself alone");
    let keep = [Effect::Snapshot(SnapshotOrder::Keep(Box::new(signed(&same, &[1, 2]))))];
    for (node, me, other, told) in [(&mut one, 1, 2, from_two), (&mut two, 2, 1, from_one)] {
        let [(_, vote)] = <[_; 1]>::try_from(words(&told)).expect("one vote");
        assert_eq!(hear(node, me, other, vote.clone(), &durable).effects, keep);
        assert_eq!(hear(node, me, other, vote, &durable).effects, [], "once");
    }
}

#[test]
fn nothing_is_made_before_it_is_due_or_with_other_entries() {
    let (early, due) = (vector(&[(1, 99)]), vector(&[(1, 100)]));
    let mut one = node(Vec::new());
    let mut out = Out::default();
    one.on_equal(now(1), identity(2).node(), &early, &mut out);
    assert!(out.is_empty());
    let proposal = propose(&mut one, &due);
    assert!(hear(&mut node(Vec::new()), 2, 1, proposal.clone(), &early).is_empty(), "another vector");
    let other = SnapshotWord::Proposal { vector: due.digest(), format: [0; 3] };
    assert!(hear(&mut node(Vec::new()), 2, 1, other, &due).is_empty(), "another format");
    let covered = signed(&name(vector(&[(1, 1)]), "old"), &[1, 2]);
    one = node(vec![covered]);
    one.on_equal(now(1), identity(2).node(), &due, &mut out);
    assert!(out.is_empty(), "99 since the last one");
}

#[test]
fn another_state_of_the_same_entries_is_told_and_kept_by_nobody() {
    let durable = vector(&[(1, 100)]);
    for (theirs, told) in
        [(name(durable.clone(), "another state"), true), (name(vector(&[(1, 101)]), "one entry more"), false)]
    {
        let mut one = node(Vec::new());
        let _ = propose(&mut one, &durable);
        let _ = made(&mut one, 1, &name(durable.clone(), "state"));
        let vote = SnapshotWord::Vote { signature: theirs.sign(&identity(2)), name: theirs };
        let want = if told { vec![Effect::News(News::Diverged(identity(2).node()))] } else { Vec::new() };
        assert_eq!(hear(&mut one, 1, 2, vote, &durable).effects, want);
        let mut out = Out::default();
        one.on_equal(now(100), identity(2).node(), &durable, &mut out);
        assert!(out.is_empty(), "not at once again");
        one.on_equal(now(20_000), identity(2).node(), &durable, &mut out);
        assert_eq!(out.effects, [Effect::Snapshot(SnapshotOrder::Make)]);
    }
}

#[test]
fn a_vote_that_its_sender_did_not_sign_counts_for_nothing() {
    let durable = vector(&[(1, 100)]);
    let mut one = node(Vec::new());
    let _ = propose(&mut one, &durable);
    let same = name(durable.clone(), "state");
    let _ = made(&mut one, 1, &same);
    let stranger = SnapshotWord::Vote { name: same.clone(), signature: same.sign(&identity(3)) };
    assert!(hear(&mut one, 1, 3, stranger.clone(), &durable).is_empty(), "nobody asked it");
    assert!(hear(&mut one, 1, 2, stranger, &durable).is_empty());
}

#[test]
fn who_is_alone_signs_alone_and_who_is_not_does_not() {
    let durable = vector(&[(1, 100)]);
    let mut one = node(Vec::new());
    assert_eq!(tick(&mut one, 1, &durable, &view(1, &[2])), []);
    let mut removed = view(1, &[2]);
    removed.removed.insert(identity(2).node());
    assert_eq!(tick(&mut one, 2, &durable, &removed), [Effect::Snapshot(SnapshotOrder::Make)]);
    let same = name(durable, "state");
    let keep = [Effect::Snapshot(SnapshotOrder::Keep(Box::new(signed(&same, &[1]))))];
    assert_eq!(made(&mut one, 1, &same).effects, keep);
}

#[test]
fn who_lacks_much_or_what_is_gone_is_sent_the_snapshot() {
    let held = signed(&name(vector(&[(1, 90), (2, 10)]), "state"), &[1, 2]);
    let peer = identity(2).node();
    let range = |first, last| EntryRange { log: log(1), first, last };
    let offered = vec![(peer, SnapshotWord::Signed(Box::new(held.clone())))];
    let mut one = node(vec![held]);
    one.floors = vector(&[(1, 40)]);
    for (what, missing, offer, entries) in [
        ("much of it covered", vec![range(50, 200)], true, vec![]),
        ("much, but not covered", vec![range(91, 200)], false, vec![range(91, 200)]),
        ("little", vec![range(80, 95)], false, vec![range(80, 95)]),
        ("one that is gone", vec![range(40, 41)], true, vec![]),
    ] {
        let mut out = Out::default();
        assert_eq!(one.answer(peer, missing, &mut out), entries, "{what}");
        assert_eq!(words(&out), if offer { offered.clone() } else { Vec::new() }, "{what}");
    }
    // Who cannot use it gets what there is.
    let durable = vector(&[(1, 200)]);
    assert!(hear(&mut one, 1, 2, SnapshotWord::Declined(ContentId::of(b"state")), &durable).is_empty());
    let mut out = Out::default();
    assert_eq!(one.answer(peer, vec![range(1, 9), range(50, 200)], &mut out), [range(50, 200)]);
    assert!(out.is_empty());
    let _ = tick(&mut one, 90_000, &durable, &view(1, &[2]));
    assert_eq!(one.answer(peer, vec![range(50, 200)], &mut out), [], "a minute later it may have been upgraded");
}

#[test]
fn an_offer_is_fetched_once_if_it_is_genuine_and_of_use() {
    let same = name(vector(&[(1, 90), (2, 10)]), "state");
    let offer = |signed: SignedSnapshot| SnapshotWord::Signed(Box::new(signed));
    let mut joiner = node(Vec::new());
    let none = VersionVector::default();
    let declined = [(identity(2).node(), SnapshotWord::Declined(same.id))];
    let mut forged = signed(&same, &[1, 2]);
    forged.name.size += 1;
    let out = hear(&mut joiner, 3, 2, offer(forged), &none);
    assert_eq!((words(&out).as_slice(), out.effects), (&declined[..], vec![]));
    let out = hear(&mut joiner, 3, 2, offer(signed(&SnapshotName { format: [9; 3], ..same.clone() }, &[1, 2])), &none);
    assert_eq!((words(&out).as_slice(), out.effects), (&declined[..], vec![]), "another version");
    assert!(hear(&mut joiner, 3, 2, offer(signed(&same, &[1, 2])), &same.vector).is_empty(), "all of it is here");
    let genuine = signed(&same, &[1, 2]);
    let providers = vec![identity(2).node()];
    let fetch = Effect::Snapshot(SnapshotOrder::Fetch { signed: Box::new(genuine.clone()), providers });
    assert_eq!(hear(&mut joiner, 3, 2, offer(genuine.clone()), &none).effects, std::slice::from_ref(&fetch));
    assert!(hear(&mut joiner, 3, 2, offer(genuine.clone()), &none).is_empty(), "it is on its way");
    let mut out = Out::default();
    joiner.on_failed(now(4), same.id, &mut out);
    assert_eq!(words(&out), declined, "it could not be had");
    assert_eq!(hear(&mut joiner, 3, 2, offer(genuine.clone()), &none).effects, [fetch]);
    let mut out = Out::default();
    let from = joiner.on_installed(now(5), genuine.clone(), same.vector.clone(), &mut out);
    assert_eq!(from, Some(identity(2).node()), "which may have more");
    assert_eq!(out.effects, [Effect::News(News::Snapshot { entries: 100, signers: 2 })]);
    assert_eq!((joiner.held(), &joiner.floors), (&[genuine][..], &same.vector));
}

#[test]
fn a_snapshot_of_own_work_stays_beside_one_that_does_not_cover_it() {
    let alone = signed(&name(vector(&[(3, 200)]), "own"), &[3]);
    let mut joiner = node(vec![alone.clone()]);
    let theirs = signed(&name(vector(&[(1, 500)]), "theirs"), &[1, 2]);
    let mut out = Out::default();
    joiner.on_installed(now(1), theirs.clone(), VersionVector::default(), &mut out);
    assert_eq!(joiner.held(), [alone, theirs]);
    let both = signed(&name(vector(&[(1, 500), (3, 210)]), "both"), &[1, 3]);
    joiner.on_installed(now(1), both.clone(), VersionVector::default(), &mut out);
    assert_eq!(joiner.held(), [both]);
}

#[test]
fn what_is_covered_goes_when_it_is_past_the_horizon() {
    let durable = vector(&[(1, 50)]);
    let peers = view(1, &[2]);
    assert_eq!(tick(&mut node(Vec::new()), 1, &durable, &peers), [], "nothing is covered");
    let mut one = node(vec![signed(&name(durable.clone(), "state"), &[1, 2])]);
    let compact = |before_unix_ms| [Effect::Snapshot(SnapshotOrder::Compact { before_unix_ms })];
    assert_eq!(tick(&mut one, 1, &durable, &peers), compact(1_000_001 - 5_000));
    assert_eq!(tick(&mut one, 5_000, &durable, &peers), []);
    assert_eq!(tick(&mut one, 5_001, &durable, &peers), compact(1_005_001 - 5_000));
    one.on_compacted(vector(&[(1, 20)]));
    let range = EntryRange { log: log(1), first: 20, last: 20 };
    let mut out = Out::default();
    assert_eq!(one.answer(identity(2).node(), vec![range], &mut out), []);
    assert_eq!(words(&out).len(), 1);
    assert!(durable.covers(Position { log: log(1), seq: 20 }));
}
