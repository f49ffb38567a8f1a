//! The rules of the replicated log: which entries are taken, in which order, and what two nodes tell each
//! other to find out what is missing.
//!
//! Every log is contiguous here, so a version vector names exactly what a node has.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::blob::ContentId;
use crate::codec::encode_body;
use crate::entry::{ENTRY_TARGET, Entry, Identity, LogId, Position, VerifiedEntry};
use crate::event::Event;
use crate::id::NodeId;
use crate::plant::{self, Plant};
use crate::snapshot::SnapshotLog;
use crate::time::Hlc;

/// The heads of all logs that a node knows, and the way to write its own.
#[derive(Debug)]
pub struct Log {
    identity: Identity,
    own: LogId,
    hlc: Hlc,
    /// The latest reading in any entry, however far ahead its author's clock was.
    heard: Hlc,
    heads: BTreeMap<LogId, Head>,
    quarantined: BTreeSet<NodeId>,
}

/// The last entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its number; all before it are here too, or covered by a snapshot.
    pub seq: u64,
    /// Its hash.
    pub hash: ContentId,
}

/// How far a node has each log: inclusive, 0 or absent for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionVector(pub BTreeMap<LogId, u64>);

/// Entries `first..=last` of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryRange {
    /// Which log.
    pub log: LogId,
    /// First wanted, from 1.
    pub first: u64,
    /// Last wanted, inclusive.
    pub last: u64,
}

/// What became of an entry that was offered to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is the next of its log and was taken.
    Taken,
    /// It was here already.
    Known,
    /// Entries before it are missing; ask for these.
    Gap(EntryRange),
    /// Its author wrote two different entries for one place (a cloned disk): nothing of this author is taken any more.
    Forked,
}

impl Log {
    /// A log that has `heads`, whose owner writes in `incarnation` from now on.
    ///
    /// # Panics
    /// When `incarnation` was used before: the caller makes a greater one durable first.
    #[must_use]
    pub fn new(identity: Identity, incarnation: u64, heads: BTreeMap<LogId, Head>, hlc: Hlc) -> Self {
        let own = LogId { author: identity.node(), incarnation };
        assert!(!heads.contains_key(&own), "incarnation {incarnation} was used before");
        Self { identity, own, hlc: Hlc::default(), heard: hlc, heads, quarantined: BTreeSet::new() }
    }

    /// The key pair that signs its entries.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The log that this node writes.
    #[must_use]
    pub fn own(&self) -> LogId {
        self.own
    }

    /// The node that writes it.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.own.author
    }

    /// The latest reading of the hybrid clock in any entry here: what a later life starts from.
    #[must_use]
    pub fn heard(&self) -> Hlc {
        self.heard
    }

    /// Writes as many of `events`, from the front, as one entry may hold; at least one when there is one.
    pub fn append(&mut self, unix_ms: u64, events: &mut std::collections::VecDeque<Event>) -> Option<VerifiedEntry> {
        let mut frames = Vec::new();
        let mut size = 0;
        let mut overwrites = false;
        while let Some(event) = events.front() {
            let frame = event.to_frame();
            size += frame.body.len() + 8;
            if size > ENTRY_TARGET && !frames.is_empty() {
                break;
            }
            frames.push(frame);
            overwrites |= event.overwrites();
            events.pop_front();
        }
        if frames.is_empty() {
            return None;
        }
        self.hlc = self.hlc.after_hearing(self.heard, unix_ms).next(unix_ms);
        // What replaces must be above what it replaces, also when that came from a clock far ahead. Only this
        // entry follows it there: this node's own clock is not dragged along.
        let hlc = if overwrites { self.hlc.max(self.heard.next(unix_ms)) } else { self.hlc };
        self.heard = self.heard.max(hlc);
        let head = self.heads.get(&self.own).copied().unwrap_or(Head::NONE);
        let position = Position { log: self.own, seq: head.seq + 1 };
        let entry = self.identity.sign(Entry { position, hlc, prev: head.hash, frames });
        self.heads.insert(self.own, Head { seq: position.seq, hash: entry.hash() });
        Some(entry)
    }

    /// Offers an entry of another node.
    pub fn offer(&mut self, entry: &VerifiedEntry) -> Offered {
        let Position { log, seq } = entry.position();
        if self.quarantined.contains(&log.author) {
            return Offered::Forked;
        }
        // Own entries that come back from others (after a lost disk) are those of earlier incarnations;
        // one of this incarnation that is not here means that somebody else writes with our key.
        let head = self.heads.get(&log).copied().unwrap_or(Head::NONE);
        if seq <= head.seq {
            if seq == head.seq && entry.hash() != head.hash {
                self.quarantined.insert(log.author);
                return Offered::Forked;
            }
            return Offered::Known;
        }
        if seq > head.seq + 1 {
            return Offered::Gap(EntryRange { log, first: head.seq + 1, last: seq - 1 });
        }
        if (entry.prev() != head.hash && !plant::is_planted(Plant::BrokenChain)) || log == self.own {
            self.quarantined.insert(log.author);
            return Offered::Forked;
        }
        self.heard = self.heard.max(entry.hlc());
        self.heads.insert(log, Head { seq, hash: entry.hash() });
        Offered::Taken
    }

    /// A snapshot was taken in: logs that are behind it go on from where it says that they stand. Returns authors
    /// that wrote something else there.
    pub fn raise(&mut self, logs: &BTreeMap<LogId, SnapshotLog>) -> Vec<NodeId> {
        let mut forked = Vec::new();
        for (&log, state) in logs {
            let head = self.heads.get(&log).copied().unwrap_or(Head::NONE);
            let is_other = state.head.seq == head.seq && state.head.hash != head.hash;
            if is_other || (log == self.own && state.head.seq > head.seq) {
                self.quarantined.insert(log.author);
                forked.push(log.author);
            } else if state.head.seq > head.seq {
                self.heard = self.heard.max(state.hlc);
                self.heads.insert(log, state.head);
            }
        }
        forked
    }

    /// Whether entries of `author` are refused because it forked its log.
    #[must_use]
    pub fn is_quarantined(&self, author: NodeId) -> bool {
        self.quarantined.contains(&author)
    }

    /// Heads of all logs.
    #[must_use]
    pub fn heads(&self) -> &BTreeMap<LogId, Head> {
        &self.heads
    }

    /// How far each log is here.
    #[must_use]
    pub fn vector(&self) -> VersionVector {
        VersionVector(self.heads.iter().map(|(&log, head)| (log, head.seq)).collect())
    }
}

impl Head {
    /// Before the first entry.
    pub const NONE: Self = Self { seq: 0, hash: ContentId([0; 32]) };
}

impl VersionVector {
    /// Equal for equal vectors; compared before the vectors themselves travel.
    #[must_use]
    pub fn digest(&self) -> ContentId {
        ContentId::of(&encode_body(self))
    }

    /// What `self` has and `other` lacks.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Vec<EntryRange> {
        let ranges = self.0.iter().filter_map(|(&log, &last)| {
            let first = other.0.get(&log).copied().unwrap_or(0) + 1;
            (first <= last).then_some(EntryRange { log, first, last })
        });
        ranges.collect()
    }

    /// How far each log of `author`, one per life, is there.
    pub fn of(&self, author: NodeId) -> impl Iterator<Item = Position> + '_ {
        let life = |incarnation| LogId { author, incarnation };
        self.0.range(life(0)..=life(u64::MAX)).map(|(&log, &seq)| Position { log, seq })
    }

    /// Whether the entry at `position` is covered.
    #[must_use]
    pub fn covers(&self, position: Position) -> bool {
        self.0.get(&position.log).is_some_and(|&last| last >= position.seq)
    }

    /// How many entries it names.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.values().sum()
    }

    /// Whether it names none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries of `range` it names.
    #[must_use]
    pub fn overlap(&self, range: &EntryRange) -> u64 {
        let last = self.0.get(&range.log).copied().unwrap_or(0).min(range.last);
        (last + 1).saturating_sub(range.first)
    }

    /// Names what either names. Commutative, associative, idempotent (a maximum).
    pub fn join(&mut self, other: &Self) {
        for (&log, &seq) in &other.0 {
            self.raise(Position { log, seq });
        }
    }

    /// Notes that everything up to `position` is there. Commutative, associative, idempotent (a maximum).
    pub fn raise(&mut self, position: Position) {
        let last = self.0.entry(position.log).or_insert(0);
        *last = (*last).max(position.seq);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn log(seed: u8, incarnation: u64) -> Log {
        Log::new(Identity::from_seed([seed; 32]), incarnation, BTreeMap::new(), Hlc::default())
    }

    fn write(log: &mut Log, number: u32) -> VerifiedEntry {
        log.append(10, &mut VecDeque::from([Event::SecretRotated { number }])).expect("one event")
    }

    #[test]
    fn entries_are_taken_in_order_once() {
        let (mut author, mut reader) = (log(1, 1), log(2, 1));
        let (one, two, three) = (write(&mut author, 1), write(&mut author, 2), write(&mut author, 3));
        assert_eq!(reader.offer(&one), Offered::Taken);
        assert_eq!(reader.offer(&one), Offered::Known);
        assert_eq!(reader.offer(&three), Offered::Gap(EntryRange { log: author.own(), first: 2, last: 2 }));
        assert_eq!(reader.offer(&two), Offered::Taken);
        assert_eq!(reader.offer(&three), Offered::Taken);
        assert_eq!(reader.vector().beyond(&author.vector()), []);
    }

    #[test]
    fn a_cloned_disk_is_quarantined() {
        let (mut author, mut clone, mut reader) = (log(1, 1), log(1, 1), log(2, 1));
        assert_eq!(reader.offer(&write(&mut author, 1)), Offered::Taken);
        assert_eq!(reader.offer(&write(&mut clone, 2)), Offered::Forked);
        assert_eq!(reader.offer(&write(&mut author, 3)), Offered::Forked, "nothing of this author any more");
        assert!(reader.is_quarantined(author.me()));
    }

    #[test]
    fn a_fork_is_found_by_its_chain_when_it_goes_on() {
        let (mut author, mut clone, mut reader) = (log(1, 1), log(1, 1), log(2, 1));
        let _ = reader.offer(&write(&mut author, 1));
        let _ = write(&mut clone, 2);
        assert_eq!(reader.offer(&write(&mut clone, 3)), Offered::Forked);
    }

    #[test]
    fn what_overwrites_is_stamped_above_what_it_replaces() {
        let (mut ahead, mut behind) = (log(1, 1), log(2, 1));
        let node = ahead.me();
        let drained = |drained| VecDeque::from([Event::MemberDrained { node, drained }]);
        let first = ahead.append(100_000, &mut drained(true)).expect("one event");
        assert_eq!(behind.offer(&first), Offered::Taken);
        let second = behind.append(10, &mut drained(false)).expect("one event");
        assert!(second.hlc() > first.hlc());
        assert_eq!(write(&mut behind, 1).hlc().unix_ms, 5_010, "its own clock is no more than 5 s ahead");
    }

    #[test]
    fn a_large_event_has_an_entry_of_its_own() {
        let mut author = log(1, 1);
        let large = || Event::ProjectDescribed { project: "p".to_owned(), description: "x".repeat(ENTRY_TARGET) };
        let mut events = VecDeque::from([large(), Event::SecretRotated { number: 1 }, large()]);
        let sizes: Vec<usize> =
            std::iter::from_fn(|| author.append(10, &mut events)).map(|entry| entry.events().len()).collect();
        assert_eq!(sizes, [1, 1, 1]);
    }
}
