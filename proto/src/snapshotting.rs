//! The rules of snapshots: when one is made and with whom, who is sent one instead of entries, what one lets go.
//!
//! A snapshot counts once two members made the same bytes of the same entries, each by itself. Both begin when one
//! finds, comparing version vectors, that they have the same ones: what each then makes is of what is stored at
//! that moment, and if one stored more meanwhile the attempt lapses and another follows. No third message is
//! needed: each tells the other what it made, and each that sees its own confirmed has both signatures.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::blob::ContentId;
use crate::core_io::{Effect, News, Now};
use crate::entry::Identity;
use crate::id::NodeId;
use crate::log::{EntryRange, VersionVector};
use crate::message::Message;
use crate::outbox::Out;
use crate::snapshot::{FORMAT, SignedSnapshot, SnapshotName, SnapshotOrder, SnapshotWord};
use crate::time::Timestamp;
use crate::view::View;

/// So long an attempt may take: making one is seconds for a million records, a lost message is noticed by this alone.
const ATTEMPT_MAX: Duration = Duration::from_secs(60);
/// After an attempt that lapsed or failed.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// So long a snapshot may take to come.
const FETCH_MAX: Duration = Duration::from_secs(600);
/// A node that could not use a snapshot is not sent it again before, but entries as far as there are any.
const DECLINED_FOR: Duration = Duration::from_secs(60);
/// What may go is looked at this often; more often where the horizon is shorter.
const COMPACT_EVERY: Duration = Duration::from_secs(3_600);
/// And never more often than this.
const COMPACT_EVERY_MIN: Duration = Duration::from_millis(1_000);

/// What an owner may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRules {
    /// A snapshot is made once so many entries were stored since the last one. Who lacks a quarter of that is sent a
    /// snapshot instead.
    pub every: u64,
    /// Entries that a snapshot covers are kept this much longer, by the time in them: a node that was away for less
    /// gets what it missed and nothing else.
    pub horizon: Duration,
}

impl Default for SnapshotRules {
    /// 20,000 entries, some 10 MB of log; seven days.
    fn default() -> Self {
        Self { every: 20_000, horizon: Duration::from_secs(7 * 24 * 3_600) }
    }
}

/// What one node knows of snapshots.
#[derive(Debug)]
pub(crate) struct Snapshotting {
    rules: SnapshotRules,
    /// What this node starts from, none covered by another; more than one where a cluster of one joined another.
    held: Vec<SignedSnapshot>,
    /// Up to which entry each log may not be here.
    floors: VersionVector,
    attempt: Option<Attempt>,
    again_at: Timestamp,
    fetching: Option<Fetching>,
    declined: BTreeMap<NodeId, Timestamp>,
    compact_at: Timestamp,
}

/// A snapshot that is being made.
#[derive(Debug)]
struct Attempt {
    /// With whom; `None`: there is nobody else in the cluster.
    with: Option<NodeId>,
    until: Timestamp,
    made: Option<SnapshotName>,
    /// What the other one made, and its signature.
    theirs: Option<(SnapshotName, Vec<u8>)>,
    /// It is signed and on its way to become the base.
    keeping: bool,
}

#[derive(Debug)]
struct Fetching {
    id: ContentId,
    from: NodeId,
    until: Timestamp,
}

impl Snapshotting {
    pub(crate) fn new(rules: SnapshotRules, held: Vec<SignedSnapshot>, floors: VersionVector) -> Self {
        Self {
            rules,
            held,
            floors,
            attempt: None,
            again_at: Timestamp::default(),
            fetching: None,
            declined: BTreeMap::new(),
            compact_at: Timestamp::default(),
        }
    }

    /// The snapshots that this node starts from.
    pub(crate) fn held(&self) -> &[SignedSnapshot] {
        &self.held
    }

    fn covered(&self) -> VersionVector {
        let mut covered = VersionVector::default();
        self.held.iter().for_each(|signed| covered.join(&signed.name.vector));
        covered
    }

    fn may_begin(&self, now: Now, durable: &VersionVector) -> bool {
        let since = || durable.len().saturating_sub(self.covered().len());
        self.attempt.is_none() && self.fetching.is_none() && self.again_at <= now.at && since() >= self.rules.every
    }

    fn begin(&mut self, now: Now, with: Option<NodeId>, out: &mut Out) {
        self.attempt = Some(Attempt { with, until: now.at + ATTEMPT_MAX, made: None, theirs: None, keeping: false });
        out.effects.push(Effect::Snapshot(SnapshotOrder::Make));
    }

    /// `peer` has the same entries as this node.
    pub(crate) fn on_equal(&mut self, now: Now, peer: NodeId, durable: &VersionVector, out: &mut Out) {
        if self.may_begin(now, durable) {
            tell(peer, SnapshotWord::Proposal { vector: durable.digest(), format: FORMAT }, out);
            self.begin(now, Some(peer), out);
        }
    }

    pub(crate) fn on_tick(&mut self, now: Now, durable: &VersionVector, view: &View, out: &mut Out) {
        if self.attempt.as_ref().is_some_and(|attempt| attempt.until <= now.at) {
            self.lapse(now);
        }
        if self.fetching.as_ref().is_some_and(|fetching| fetching.until <= now.at) {
            self.fetching = None;
        }
        self.declined.retain(|_, until| now.at < *until);
        let is_alone = || view.nodes.keys().all(|node| *node == view.me || view.removed.contains(node));
        if is_alone() && self.may_begin(now, durable) {
            self.begin(now, None, out);
        }
        if !self.held.is_empty() && self.compact_at <= now.at {
            self.compact_at = now.at + self.rules.horizon.clamp(COMPACT_EVERY_MIN, COMPACT_EVERY);
            let horizon_ms = u64::try_from(self.rules.horizon.as_millis()).unwrap_or(u64::MAX);
            let before_unix_ms = now.unix_ms.saturating_sub(horizon_ms);
            out.effects.push(Effect::Snapshot(SnapshotOrder::Compact { before_unix_ms }));
        }
    }

    fn lapse(&mut self, now: Now) {
        self.attempt = None;
        self.again_at = now.at + AGAIN_AFTER;
    }

    pub(crate) fn on_word(
        &mut self,
        now: Now,
        from: NodeId,
        word: SnapshotWord,
        (durable, identity, view): (&VersionVector, &Identity, &View),
        out: &mut Out,
    ) {
        match word {
            SnapshotWord::Proposal { vector, format } => {
                let is_free = self.attempt.is_none() && self.fetching.is_none();
                if is_free && format == FORMAT && vector == durable.digest() {
                    self.begin(now, Some(from), out);
                }
            }
            SnapshotWord::Vote { name, signature } => {
                if let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.with == Some(from)) {
                    attempt.theirs = Some((name, signature));
                    self.settle(now, identity, out);
                }
            }
            SnapshotWord::Signed(signed) => self.on_offered(now, from, signed, durable, view, out),
            SnapshotWord::Declined(_) => drop(self.declined.insert(from, now.at + DECLINED_FOR)),
        }
    }

    /// This node's snapshot was made, or could not be.
    pub(crate) fn on_made(&mut self, now: Now, made: Option<SnapshotName>, identity: &Identity, out: &mut Out) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| !attempt.keeping) else { return };
        let Some(name) = made else { return self.lapse(now) };
        if let Some(peer) = attempt.with {
            tell(peer, SnapshotWord::Vote { signature: name.sign(identity), name: name.clone() }, out);
        }
        attempt.made = Some(name);
        self.settle(now, identity, out);
    }

    /// Compares what both made.
    fn settle(&mut self, now: Now, identity: &Identity, out: &mut Out) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| !attempt.keeping) else { return };
        let Some(name) = attempt.made.clone() else { return };
        let mut signatures = BTreeMap::from([(identity.node(), name.sign(identity))]);
        if let Some(peer) = attempt.with {
            let Some((theirs, signature)) = attempt.theirs.take() else { return };
            if theirs.vector == name.vector && theirs.format == name.format && theirs.id != name.id {
                out.effects.push(Effect::News(News::Diverged(peer)));
            }
            if theirs != name || !name.is_signed_by(peer, &signature) {
                return self.lapse(now);
            }
            signatures.insert(peer, signature);
        }
        attempt.keeping = true;
        attempt.until = now.at + ATTEMPT_MAX;
        out.effects.push(Effect::Snapshot(SnapshotOrder::Keep(Box::new(SignedSnapshot { name, signatures }))));
    }

    /// Which of `missing`, entries that `to` lacks, are sent as entries: all, unless a snapshot is sent instead.
    pub(crate) fn answer(&self, to: NodeId, missing: Vec<EntryRange>, out: &mut Out) -> Vec<EntryRange> {
        let floor = |range: &EntryRange| self.floors.0.get(&range.log).copied().unwrap_or(0);
        let is_gone = |range: &EntryRange| range.first <= floor(range);
        if !self.declined.contains_key(&to) {
            let useful = |signed: &&SignedSnapshot| {
                let vector = &signed.name.vector;
                let covers = |range: &&EntryRange| vector.0.get(&range.log).is_some_and(|&last| last >= range.first);
                missing.iter().filter(covers).any(is_gone)
                    || missing.iter().map(|range| vector.overlap(range)).sum::<u64>() > self.rules.every / 4
            };
            if let Some(signed) = self.held.iter().find(useful) {
                tell(to, SnapshotWord::Signed(Box::new(signed.clone())), out);
                return Vec::new();
            }
        }
        missing.into_iter().filter(|range| !is_gone(range)).collect()
    }

    fn on_offered(
        &mut self,
        now: Now,
        from: NodeId,
        signed: Box<SignedSnapshot>,
        durable: &VersionVector,
        view: &View,
        out: &mut Out,
    ) {
        let id = signed.name.id;
        if self.fetching.is_some() || signed.name.vector.beyond(durable).is_empty() {
            return;
        }
        if signed.name.format != FORMAT || !signed.is_genuine() {
            return tell(from, SnapshotWord::Declined(id), out);
        }
        // A snapshot that is being made would be replaced by this one.
        self.attempt = None;
        let connected = |node: &NodeId| view.nodes.get(node).is_some_and(|seen| seen.connected);
        let signers = signed.signatures.keys().copied().filter(|node| *node != from && connected(node));
        let providers = std::iter::once(from).chain(signers).collect();
        self.fetching = Some(Fetching { id, from, until: now.at + FETCH_MAX });
        out.effects.push(Effect::Snapshot(SnapshotOrder::Fetch { signed, providers }));
    }

    /// A snapshot is this node's base now. Returns who had it, when it came from elsewhere: there may be more there.
    pub(crate) fn on_installed(
        &mut self,
        now: Now,
        signed: SignedSnapshot,
        floors: VersionVector,
        out: &mut Out,
    ) -> Option<NodeId> {
        let (id, signers) = (signed.name.id, signed.signatures.len());
        out.effects.push(Effect::News(News::Snapshot { entries: signed.name.vector.len(), signers }));
        self.held.retain(|held| !held.name.vector.beyond(&signed.name.vector).is_empty());
        self.held.push(signed);
        self.floors = floors;
        self.compact_at = now.at;
        self.attempt.take_if(|attempt| attempt.keeping);
        self.fetching.take_if(|fetching| fetching.id == id).map(|fetching| fetching.from)
    }

    /// A snapshot did not become the base: it could not be had, or is not what it was said to be.
    pub(crate) fn on_failed(&mut self, now: Now, id: ContentId, out: &mut Out) {
        if let Some(fetching) = self.fetching.take_if(|fetching| fetching.id == id) {
            tell(fetching.from, SnapshotWord::Declined(id), out);
        }
        if self.attempt.as_ref().is_some_and(|attempt| attempt.keeping) {
            self.lapse(now);
        }
    }

    /// Entries were removed.
    pub(crate) fn on_compacted(&mut self, floors: VersionVector) {
        self.floors = floors;
    }
}

fn tell(to: NodeId, word: SnapshotWord, out: &mut Out) {
    out.send(to, Message::Snapshot(word));
}

#[cfg(test)]
#[path = "snapshotting_tests.rs"]
mod tests;
