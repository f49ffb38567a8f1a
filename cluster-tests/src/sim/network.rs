//! A simulated network: one ordered stream per pair of nodes, which breaks, and then loses what was on it.

use std::collections::{BTreeMap, BTreeSet};

/// All streams, and which machines cannot reach each other.
#[derive(Debug, Default)]
pub(crate) struct Network {
    links: BTreeMap<(usize, usize), Link>,
    /// Machines on the far side of a partition.
    pub(crate) apart: BTreeSet<usize>,
}

/// The stream between two machines.
#[derive(Debug, Default)]
struct Link {
    up: bool,
    /// Counts connections: what was sent on an earlier one never arrives.
    epoch: u64,
    /// Per direction, when the last message arrives: order is kept.
    busy_until: [u64; 2],
}

impl Network {
    /// Opens the stream; returns false when it was open.
    pub(crate) fn open(&mut self, one: usize, other: usize) -> bool {
        let link = self.link_mut(one, other);
        if link.up {
            return false;
        }
        *link = Link { up: true, epoch: link.epoch + 1, busy_until: [0; 2] };
        true
    }

    /// Breaks the stream; returns its epoch when it was open.
    pub(crate) fn cut(&mut self, one: usize, other: usize) -> Option<u64> {
        let link = self.link_mut(one, other);
        std::mem::take(&mut link.up).then_some(link.epoch)
    }

    pub(crate) fn is_open(&self, one: usize, other: usize) -> bool {
        self.links.get(&pair(one, other)).is_some_and(|link| link.up)
    }

    pub(crate) fn epoch(&self, one: usize, other: usize) -> u64 {
        self.links.get(&pair(one, other)).map_or(0, |link| link.epoch)
    }

    /// When a message sent now arrives, and on which connection.
    pub(crate) fn schedule(&mut self, from: usize, to: usize, now_us: u64, latency_us: u64) -> (u64, u64) {
        let link = self.link_mut(from, to);
        let busy = &mut link.busy_until[usize::from(from < to)];
        *busy = (*busy + 1).max(now_us + latency_us);
        (*busy, link.epoch)
    }

    /// Whether a partition keeps the two apart.
    pub(crate) fn is_apart(&self, one: usize, other: usize) -> bool {
        self.apart.contains(&one) != self.apart.contains(&other)
    }

    fn link_mut(&mut self, one: usize, other: usize) -> &mut Link {
        self.links.entry(pair(one, other)).or_default()
    }
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}
