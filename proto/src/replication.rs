//! How entries get everywhere: gossip of fresh ones, anti-entropy for the rest, and holders that vouch.
//!
//! An entry leaves a node only after it is durable there. Fresh entries go to every peer of a small
//! cluster at once; in a larger one to some, and each that did not know them passes them on to a few
//! (Demers et al. 1987, rumour mongering). Whatever is missed is found by comparing version vectors.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::core_io::{Answer, Effect, Now, RequestId};
use crate::entry::{LogId, Position, VerifiedEntry};
use crate::id::{GroupId, NodeId};
use crate::job::BundleRef;
use crate::log::{EntryRange, VersionVector};
use crate::message::{MESSAGE_MAX, Message};
use crate::outbox::Out;
use crate::plant::{self, Plant};
use crate::record::rank;
use crate::snapshot::SnapshotLog;
use crate::snapshotting::Snapshotting;
use crate::time::Timestamp;
use crate::view::View;

/// Up to so many peers get fresh entries directly: one hop, no duplicates.
const DIRECT_MAX: usize = 16;
/// In a larger cluster, so many random peers get them from their author.
const FANOUT: usize = 8;
/// So many from each node that did not know them.
const FORWARD: usize = 4;
/// Version vectors are compared with one random peer this often.
pub(crate) const SYNC_EVERY: Duration = Duration::from_millis(2_000);
/// Missing entries are asked for again after this.
const WANT_AGAIN: Duration = Duration::from_millis(1_500);
/// A holder has this long before another is asked (DESIGN §8).
const HOLD_NEXT: Duration = Duration::from_millis(2_000);
/// After this the answer says `held by 1`.
const HOLD_GIVE_UP: Duration = Duration::from_millis(5_000);
/// More submissions than this are not promised to be held at once; who asked asks another.
const PROMISES_MAX: usize = 10_000;
/// A message of fresh entries is cut at this size.
const FRESH_MAX: usize = MESSAGE_MAX / 2;

/// What one node knows of who has what.
#[derive(Debug, Default)]
pub(crate) struct Replication {
    /// What is on disk here; only this is told and sent.
    durable: VersionVector,
    synced_at: Timestamp,
    wanted: BTreeMap<LogId, (u64, Timestamp)>,
    /// Submissions of this node's users that wait for a holder.
    submissions: Vec<Submission>,
    /// What others asked this node to hold.
    promises: Vec<Promise>,
}

/// A submission that waits for a holder.
#[derive(Debug)]
struct Submission {
    request: RequestId,
    group: GroupId,
    position: Position,
    bundle: Option<BundleRef>,
    asked: BTreeSet<NodeId>,
    ask_next: Timestamp,
    give_up: Timestamp,
}

/// What another node asked this one to hold.
#[derive(Debug)]
struct Promise {
    from: NodeId,
    position: Position,
    bundle: Option<BundleRef>,
    complete: bool,
    /// Who asked has given up by then.
    until: Timestamp,
}

impl Replication {
    pub(crate) fn new(durable: VersionVector) -> Self {
        Self { durable, ..Self::default() }
    }

    pub(crate) fn durable(&self) -> &VersionVector {
        &self.durable
    }

    /// A submission was written at `position`; it is answered once it is held.
    pub(crate) fn on_submitted(
        &mut self,
        now: Now,
        request: RequestId,
        group: GroupId,
        position: Position,
        bundle: Option<BundleRef>,
    ) {
        self.submissions.push(Submission {
            request,
            group,
            position,
            bundle,
            asked: BTreeSet::new(),
            ask_next: now.at,
            give_up: now.at + HOLD_GIVE_UP,
        });
    }

    /// Entries are durable: tell their authors, spread the fresh ones, see who can be answered now.
    pub(crate) fn on_stored(
        &mut self,
        now: Now,
        entries: &[VerifiedEntry],
        forward: bool,
        view: &View,
        rng: &mut StdRng,
        out: &mut Out,
    ) {
        let mut heads: BTreeMap<LogId, u64> = BTreeMap::new();
        for entry in entries {
            let position = entry.position();
            self.durable.raise(position);
            heads.insert(position.log, position.seq);
        }
        for (&log, &seq) in heads.iter().filter(|(log, _)| log.author != view.me) {
            out.send(log.author, Message::Held(vec![Position { log, seq }]));
        }
        let own = entries.iter().all(|entry| entry.position().log.author == view.me);
        if own || forward {
            spread(entries, own, view, rng, out);
        }
        self.keep_promises(out);
        self.seek_holders(now, view, out);
    }

    /// Compares with a peer that has just come into reach. One of the two begins, else all that is missing
    /// would be sent twice.
    pub(crate) fn on_connected(&mut self, node: NodeId, view: &View, out: &mut Out) {
        self.wanted.clear();
        if view.me < node {
            out.send(node, Message::Digest(self.durable.digest()));
        }
    }

    /// Returns whether `from` has the very same entries.
    pub(crate) fn on_digest(&mut self, from: NodeId, digest: crate::ContentId, out: &mut Out) -> bool {
        let is_same = digest == self.durable.digest();
        if !is_same {
            out.send(from, Message::Vector(self.durable.clone()));
        }
        is_same
    }

    /// A snapshot of `logs` is on disk here; their authors are told.
    pub(crate) fn on_installed(&mut self, logs: &BTreeMap<LogId, SnapshotLog>, view: &View, out: &mut Out) {
        let connected = |node: &NodeId| view.nodes.get(node).is_some_and(|seen| seen.connected);
        for (&log, state) in logs {
            let position = Position { log, seq: state.head.seq };
            self.durable.raise(position);
            if log.author != view.me && connected(&log.author) {
                out.send(log.author, Message::Held(vec![position]));
            }
        }
        self.wanted.clear();
        self.keep_promises(out);
    }

    /// Sends what is missing there, asks for what is missing here.
    pub(crate) fn on_vector(
        &mut self,
        now: Now,
        from: NodeId,
        theirs: &VersionVector,
        snapshots: &Snapshotting,
        out: &mut Out,
    ) {
        let missing_there = snapshots.answer(from, self.durable.beyond(theirs), out);
        if !missing_there.is_empty() {
            out.effects.push(Effect::SendEntries { to: from, ranges: missing_there });
        }
        let missing_here = theirs.beyond(&self.durable);
        self.want(now, from, missing_here, out);
    }

    /// Asks for ranges that are not on their way already.
    pub(crate) fn want(&mut self, now: Now, from: NodeId, ranges: Vec<EntryRange>, out: &mut Out) {
        let wanted = &mut self.wanted;
        let ranges: Vec<EntryRange> = ranges
            .into_iter()
            .filter(|range| match wanted.get(&range.log) {
                Some(&(last, until)) if last >= range.last && now.at < until => false,
                _ => {
                    wanted.insert(range.log, (range.last, now.at + WANT_AGAIN));
                    true
                }
            })
            .collect();
        if !ranges.is_empty() {
            out.send(from, Message::Want(ranges));
        }
    }

    pub(crate) fn on_want(&self, from: NodeId, ranges: Vec<EntryRange>, snapshots: &Snapshotting, out: &mut Out) {
        let have = |range: EntryRange| {
            let last = range.last.min(self.durable.0.get(&range.log).copied().unwrap_or(0));
            (range.first <= last).then_some(EntryRange { last, ..range })
        };
        let ranges = snapshots.answer(from, ranges.into_iter().filter_map(have).collect(), out);
        if !ranges.is_empty() {
            out.effects.push(Effect::SendEntries { to: from, ranges });
        }
    }

    /// The sender has more than fitted its answer.
    pub(crate) fn on_more(&mut self, from: NodeId, out: &mut Out) {
        self.wanted.clear();
        out.send(from, Message::Digest(self.durable.digest()));
    }

    pub(crate) fn on_hold(
        &mut self,
        now: Now,
        from: NodeId,
        position: Position,
        bundle: Option<BundleRef>,
        out: &mut Out,
    ) {
        let same = |promise: &Promise| (promise.from, promise.position, promise.bundle) == (from, position, bundle);
        if self.promises.iter().any(same) || self.promises.len() >= PROMISES_MAX {
            return;
        }
        if let Some(bundle) = bundle {
            out.effects.push(Effect::Fetch { position, bundle, from });
        }
        let until = now.at + HOLD_GIVE_UP;
        self.promises.push(Promise { from, position, bundle, complete: bundle.is_none(), until });
        self.keep_promises(out);
    }

    /// A bundle that was to be held is here, or cannot be had: then another node is asked in time.
    pub(crate) fn on_fetched(&mut self, position: Position, bundle: BundleRef, complete: bool, out: &mut Out) {
        let named = |promise: &Promise| promise.position == position && promise.bundle == Some(bundle);
        if complete {
            for promise in self.promises.iter_mut().filter(|promise| named(promise)) {
                promise.complete = true;
            }
        } else {
            self.promises.retain(|promise| !named(promise));
        }
        self.keep_promises(out);
    }

    /// Vouches for everything whose entry and bundle are on disk.
    fn keep_promises(&mut self, out: &mut Out) {
        let durable = &self.durable;
        self.promises.retain(|promise| {
            let covered = durable.covers(promise.position) || plant::is_planted(Plant::EarlyHold);
            let kept = promise.complete && covered;
            if kept {
                out.send(promise.from, Message::HoldDone { position: promise.position, bundle: promise.bundle });
            }
            !kept
        });
    }

    pub(crate) fn on_hold_done(
        &mut self,
        from: NodeId,
        position: Position,
        bundle: Option<BundleRef>,
        view: &View,
        out: &mut Out,
    ) {
        self.submissions.retain(|submission| {
            let held = submission.position == position && submission.bundle == bundle;
            if held {
                let answer = Answer::Accepted { held_by: vec![view.me, from] };
                out.effects.push(Effect::Reply { request: submission.request, answer });
            }
            !held
        });
    }

    /// Asks for holders of what is on disk here; gives up where there is nobody, or nobody in time.
    fn seek_holders(&mut self, now: Now, view: &View, out: &mut Out) {
        let durable = &self.durable;
        self.submissions.retain_mut(|submission| {
            if !durable.covers(submission.position) {
                return true;
            }
            let connected = |node: &NodeId| view.nodes.get(node).is_some_and(|seen| seen.connected);
            let mut peers: Vec<NodeId> = view.peers().filter(connected).collect();
            if peers.is_empty() || submission.give_up <= now.at {
                let answer = Answer::Accepted { held_by: vec![view.me] };
                out.effects.push(Effect::Reply { request: submission.request, answer });
                return false;
            }
            if submission.ask_next <= now.at {
                submission.ask_next = now.at + HOLD_NEXT;
                // Who has the files answers at once and copies nothing; else the heir, which then has what it needs
                // to take over.
                let lacks = |node: NodeId| {
                    let advert = view.nodes.get(&node).and_then(|seen| seen.advert.as_ref());
                    submission
                        .bundle
                        .is_some_and(|bundle| !advert.is_some_and(|advert| advert.has_bundle(bundle.manifest)))
                };
                peers.sort_by_key(|&node| {
                    (submission.asked.contains(&node), lacks(node), std::cmp::Reverse(rank(submission.group, node)))
                });
                submission.asked.insert(peers[0]);
                out.send(peers[0], Message::Hold { position: submission.position, bundle: submission.bundle });
            }
            true
        });
    }

    /// Compares with one random peer now and then; asks the next holder.
    pub(crate) fn on_tick(&mut self, now: Now, view: &View, rng: &mut StdRng, out: &mut Out) {
        if self.synced_at + SYNC_EVERY <= now.at {
            self.synced_at = now.at;
            let peers: Vec<NodeId> = connected_peers(view);
            if let Some(&peer) = rand::seq::IndexedRandom::choose(peers.as_slice(), rng) {
                out.send(peer, Message::Digest(self.durable.digest()));
            }
        }
        self.promises.retain(|promise| now.at < promise.until);
        self.seek_holders(now, view, out);
    }

    /// Whether somebody waits for an answer.
    pub(crate) fn is_busy(&self) -> bool {
        !self.submissions.is_empty() || !self.promises.is_empty()
    }
}

fn connected_peers(view: &View) -> Vec<NodeId> {
    let connected = |node: &NodeId| view.nodes.get(node).is_some_and(|seen| seen.connected);
    view.nodes.keys().copied().filter(|&node| node != view.me).filter(connected).collect()
}

fn spread(entries: &[VerifiedEntry], own: bool, view: &View, rng: &mut StdRng, out: &mut Out) {
    let mut peers = connected_peers(view);
    if peers.len() > DIRECT_MAX {
        peers.shuffle(rng);
        peers.truncate(if own { FANOUT } else { FORWARD });
    } else if !own {
        return; // The author has told everyone itself.
    }
    let mut batch = Vec::new();
    let mut size = 0;
    for entry in entries {
        let signed = entry.signed().clone();
        if size + signed.bytes.len() > FRESH_MAX && !batch.is_empty() {
            tell(&peers, std::mem::take(&mut batch), out);
            size = 0;
        }
        size += signed.bytes.len() + 80;
        batch.push(signed);
    }
    tell(&peers, batch, out);
}

fn tell(peers: &[NodeId], batch: Vec<crate::entry::SignedEntry>, out: &mut Out) {
    for &peer in peers {
        out.send(peer, Message::Fresh(batch.clone()));
    }
}

#[cfg(test)]
#[path = "replication_tests.rs"]
mod tests;
