//! How far each log is stored, and whether an entry is the next of its log.
//!
//! Owned by the writer; the recovery fills it. `proto`'s log decides what is offered to the store; this
//! keeps what is stored contiguous and chained whatever the journal's bytes turned out to be.

use std::collections::BTreeMap;

use proto::entry::{LogId, VerifiedEntry};
use proto::log::{Head, VersionVector};
use proto::snapshot::SnapshotLog;

use super::cell::{self, LogState};
use super::keys;
use super::table::Batch;

/// Heads of all logs, and those that the batch in hand would make.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    known: BTreeMap<LogId, LogState>,
    fresh: BTreeMap<LogId, LogState>,
    next_number: u32,
}

/// What an entry is to its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// The next; its log has this number.
    Next(u32),
    /// Stored before.
    Known,
    /// Neither; the log's last entry has this number.
    Apart(u64),
}

impl Ledger {
    /// With what the table says.
    pub(crate) fn new(known: BTreeMap<LogId, LogState>) -> Self {
        let next_number = known.values().map(|state| state.number + 1).max().unwrap_or(0);
        Self { known, fresh: BTreeMap::new(), next_number }
    }

    /// Takes `entry` into the batch when it is the next of its log.
    pub(crate) fn admit(&mut self, entry: &VerifiedEntry) -> Admitted {
        let position = entry.position();
        let state = self.fresh.get(&position.log).or_else(|| self.known.get(&position.log));
        let head = state.map_or(Head::NONE, |state| state.head);
        if position.seq <= head.seq {
            return Admitted::Known;
        }
        if position.seq != head.seq + 1 || entry.prev() != head.hash {
            return Admitted::Apart(head.seq);
        }
        let number = state.map_or(self.next_number, |state| state.number);
        let floor = state.map_or(0, |state| state.floor);
        // Not taken back when the batch fails: a gap in the numbers harms nothing.
        self.next_number = self.next_number.max(number + 1);
        let head = Head { seq: position.seq, hash: entry.hash() };
        self.fresh.insert(position.log, LogState { number, head, hlc: entry.hlc(), floor });
        Admitted::Next(number)
    }

    /// Whether every entry that `vector` names is stored, or covered.
    pub(crate) fn covers(&self, vector: &VersionVector) -> bool {
        vector.0.iter().all(|(log, &seq)| self.known.get(log).is_some_and(|state| state.head.seq >= seq))
    }

    /// Whether a log, of which entries are here, will go on after a gap when [`Self::raise`]d.
    pub(crate) fn jumps_at(&self, logs: &BTreeMap<LogId, SnapshotLog>) -> bool {
        let is_behind = |(log, there): (&LogId, &SnapshotLog)| {
            self.known.get(log).is_some_and(|state| (1..there.head.seq).contains(&state.head.seq))
        };
        logs.iter().any(is_behind)
    }

    /// A base says where logs stand: those that are behind go on from there.
    pub(crate) fn raise(&mut self, logs: &BTreeMap<LogId, SnapshotLog>) {
        for (&log, &SnapshotLog { head, hlc }) in logs {
            let known = self.known.get(&log);
            if known.is_some_and(|state| state.head.seq >= head.seq) {
                continue;
            }
            let number = known.map_or(self.next_number, |state| state.number);
            self.next_number = self.next_number.max(number + 1);
            self.fresh.insert(log, LogState { number, head, hlc, floor: head.seq });
        }
    }

    /// Entries of `log` up to `floor` are about to be removed. Returns the log's number and its floor so far.
    pub(crate) fn set_floor(&mut self, log: LogId, floor: u64) -> Option<(u32, u64)> {
        let state = *self.known.get(&log)?;
        let before = state.floor;
        self.fresh.insert(log, LogState { floor: before.max(floor), ..state });
        Some((state.number, before))
    }

    /// Up to which entry each log may be covered by a base alone.
    pub(crate) fn floors(&self) -> VersionVector {
        let floors = self.known.iter().filter(|(_, state)| state.floor > 0);
        VersionVector(floors.map(|(&log, state)| (log, state.floor)).collect())
    }

    /// What the batch would change so far, to [`Self::restore`] when a part of it is refused.
    pub(crate) fn mark(&self) -> BTreeMap<LogId, LogState> {
        self.fresh.clone()
    }

    /// Forgets what was admitted since `mark`.
    pub(crate) fn restore(&mut self, mark: BTreeMap<LogId, LogState>) {
        self.fresh = mark;
    }

    /// Adds the new heads to what the table gets.
    pub(crate) fn write(&self, batch: &mut Batch) {
        for (log, state) in &self.fresh {
            batch.insert(keys::log(*log), Some(cell::encode(state)));
        }
    }

    /// The batch is stored.
    pub(crate) fn settle(&mut self) {
        self.known.append(&mut self.fresh);
    }

    /// The batch is not stored.
    pub(crate) fn forget(&mut self) {
        self.fresh.clear();
    }

    /// Every stored log.
    pub(crate) fn logs(&self) -> &BTreeMap<LogId, LogState> {
        &self.known
    }
}
