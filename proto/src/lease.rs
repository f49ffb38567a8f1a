//! Who computes a cached value while others wait: leases, kept by one node per key (DESIGN §11, single flight).
//!
//! Leases are a courtesy, not a lock: losing one costs a second computation of an equal value, never a wrong one. So
//! the table is in memory alone, and a node that loses it, or that cannot reach the keeper of a key, computes.
//!
//! Nobody waits for ever: a lease lives only while its holder renews it, is passed on when it takes twice as long as
//! its function usually does, and nobody waits for a holder that itself waits: a circle of waiting processes has
//! such holders only, wherever their leases are kept, and is undone with the first renewal that tells.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::time::Timestamp;
use crate::value::ValueKey;

/// A lease that was not renewed for so long is nobody's: a lost renewal or two are no reason yet.
pub const LEASE: Duration = Duration::from_secs(4);
/// Holders renew this often.
pub const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Whoever asks so soon after a value was stored is told so, because the entry that names it is still on its way.
pub const STORED_KEPT: Duration = Duration::from_secs(3);
/// Nobody gives a running computation up sooner than this, however short the function usually is.
pub const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// Leases that a node keeps at most; beyond it, whoever asks computes. A process has few at a time.
const LEASES_MAX: usize = 100_000;

/// A program that asks for values: a connection to its node's daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Where it runs.
    pub node: NodeId,
    /// Which there; drawn by chance, so that no two are ever equal.
    pub number: u64,
}

/// What a process that asks shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseAnswer {
    /// Compute: it holds the lease now.
    Compute,
    /// Wait: another one computes.
    Busy {
        /// Where.
        node: NodeId,
        /// For how many milliseconds by now.
        since_ms: u64,
    },
    /// Compute without a lease: waiting might never end.
    Alone,
    /// Look again: the value was stored a moment ago.
    Stored,
}

/// The leases that this node keeps.
#[derive(Debug, Default)]
pub struct Leases {
    held: BTreeMap<ValueKey, Lease>,
    /// When values were stored, for [`STORED_KEPT`].
    stored: BTreeMap<ValueKey, Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Lease {
    holder: Process,
    since: Timestamp,
    renewed: Timestamp,
    /// Whether the holder waits for another key.
    waits: bool,
}

impl Lease {
    fn is_alive(&self, now: Timestamp) -> bool {
        now - self.renewed < LEASE
    }
}

impl Leases {
    /// `who` wants the value of `key`. It passes a running computation by that has taken longer than `patience`, which
    /// is told by [`patience`]; `None`: it has all the time.
    pub fn ask(&mut self, now: Timestamp, key: ValueKey, who: Process, patience: Option<Duration>) -> LeaseAnswer {
        self.expire(now, key);
        let is_full = self.held.len() >= LEASES_MAX;
        match self.held.get_mut(&key) {
            // A recursion, or two threads: it would wait for itself.
            Some(lease) if lease.holder == who => LeaseAnswer::Alone,
            Some(lease) if lease.waits => LeaseAnswer::Alone,
            Some(lease) if patience.is_some_and(|patience| now - lease.since >= patience) => {
                // To one of those that wait; the others give it as much time again.
                *lease = Lease { holder: who, since: now, renewed: now, waits: false };
                LeaseAnswer::Compute
            }
            Some(lease) => {
                let since_ms = u64::try_from((now - lease.since).as_millis()).unwrap_or(u64::MAX);
                LeaseAnswer::Busy { node: lease.holder.node, since_ms }
            }
            None if self.stored.contains_key(&key) => LeaseAnswer::Stored,
            None if is_full => LeaseAnswer::Alone,
            None => {
                self.held.insert(key, Lease { holder: who, since: now, renewed: now, waits: false });
                LeaseAnswer::Compute
            }
        }
    }

    /// `who` still computes, and `waits` or not for another key meanwhile. False: the lease is another's by now. One
    /// that is nobody's is taken up: its keeper may be new.
    pub fn renew(&mut self, now: Timestamp, key: ValueKey, who: Process, waits: bool) -> bool {
        self.expire(now, key);
        let is_full = self.held.len() >= LEASES_MAX;
        match self.held.get_mut(&key) {
            Some(lease) if lease.holder == who => {
                (lease.renewed, lease.waits) = (now, waits);
                true
            }
            None if !is_full && !self.stored.contains_key(&key) => {
                self.held.insert(key, Lease { holder: who, since: now, renewed: now, waits });
                true
            }
            _ => false,
        }
    }

    /// `who` has stored the value, or gives up. Whether somebody may go on: those that wait ask again.
    pub fn release(&mut self, now: Timestamp, key: ValueKey, who: Process, stored: bool) -> bool {
        self.expire(now, key);
        if stored {
            self.stored.insert(key, now);
        }
        let is_holder = self.held.get(&key).is_some_and(|lease| lease.holder == who);
        // A value that somebody else stored is one, too.
        if is_holder || stored {
            self.held.remove(&key);
        }
        is_holder || stored
    }

    /// No value of `key` counts any more: whoever asks next need not wait for one that is on its way.
    pub fn purge(&mut self, key: ValueKey) {
        self.stored.remove(&key);
    }

    /// Whether a lease or a memory of one is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.stored.is_empty()
    }

    /// Forgets all leases that nobody renews any more; call it now and then, so that they take no memory.
    pub fn sweep(&mut self, now: Timestamp) {
        self.held.retain(|_, lease| lease.is_alive(now));
        self.stored.retain(|_, &mut at| now - at < STORED_KEPT);
    }

    fn expire(&mut self, now: Timestamp, key: ValueKey) {
        if self.held.get(&key).is_some_and(|lease| !lease.is_alive(now)) {
            self.held.remove(&key);
        }
        if self.stored.get(&key).is_some_and(|&at| now - at >= STORED_KEPT) {
            self.stored.remove(&key);
        }
    }
}

/// The node that keeps the lease of `key`: of those that are up, the one that ranks first (rendezvous hashing).
#[must_use]
pub fn keeper(key: ValueKey, up: impl Iterator<Item = NodeId>) -> Option<NodeId> {
    up.max_by_key(|node| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&key.0);
        hasher.update(&node.0);
        *hasher.finalize().as_bytes()
    })
}

/// How long a computation is waited for, of a function that took so many milliseconds the last times: twice the
/// median. `None`, as long as it lives, when it never ended before.
#[must_use]
pub fn patience(mut took_ms: Vec<u64>) -> Option<Duration> {
    took_ms.sort_unstable();
    let median = took_ms.get(took_ms.len() / 2)?;
    Some(Duration::from_millis(median.saturating_mul(2)).max(PATIENCE_MIN))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
