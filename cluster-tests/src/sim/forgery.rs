//! Entries that nobody may believe: with a wrong signature, or signed well and chained badly.

use std::collections::{BTreeMap, VecDeque};

use proto::entry::{Entry, Identity, LogId, Position, SignedEntry};
use proto::event::Event;
use proto::log::Log;
use proto::message::Message;
use proto::{ContentId, Hlc, codec};
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;

use super::world::World;

impl World {
    /// Slips one bad entry to one node, as if a confused peer had sent it.
    pub(crate) fn forge(&mut self) {
        if self.hosts.len() < 2 {
            return;
        }
        let (from, to) = (self.rng.random_range(0..self.hosts.len()), self.rng.random_range(0..self.hosts.len()));
        if from == to {
            return;
        }
        let entries = if self.rng.random_bool(0.5) { self.wrongly_signed(to) } else { self.wrongly_chained() };
        let to = self.hosts[to].id;
        self.tell(|| format!("forged entries from {from} to {}", to.short()));
        self.send(from, to, Message::Fresh(entries));
    }

    /// The very next entry of an honest log, but not by its author.
    fn wrongly_signed(&mut self, to: usize) -> Vec<SignedEntry> {
        let heads: Vec<_> = self.hosts[to].disk.heads().into_iter().collect();
        let Some(&(log, head)) = heads.choose(&mut self.rng) else { return Vec::new() };
        let position = Position { log, seq: head.seq + 1 };
        let frames = vec![Event::SecretRotated { number: self.rng.random() }.to_frame()];
        let hlc = Hlc { unix_ms: 1_750_000_000_000, counter: 0 };
        let bytes = codec::encode(&Entry { position, hlc, prev: head.hash, frames });
        vec![SignedEntry { bytes, signature: vec![7; 64] }]
    }

    /// A log of a member that nobody knows: its first entry is fine, its second names another first.
    fn wrongly_chained(&mut self) -> Vec<SignedEntry> {
        let identity = Identity::from_seed(self.rng.random());
        let mut log = Log::new(identity.clone(), 1, BTreeMap::new(), Hlc::default());
        let mut events = VecDeque::from([Event::SecretRotated { number: 1 }]);
        let first = log.append(1_750_000_000_000, &mut events).expect("one event makes one entry");
        let own = LogId { author: identity.node(), incarnation: 1 };
        let second = identity.sign(Entry {
            position: Position { log: own, seq: 2 },
            hlc: first.hlc(),
            prev: ContentId::of(b"another entry"),
            frames: vec![Event::SecretRotated { number: 2 }.to_frame()],
        });
        self.checks.log.on_written(&first);
        vec![first.signed().clone(), second.signed().clone()]
    }
}
