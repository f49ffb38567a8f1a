//! Counts how often rare paths were reached: a simulator that never loses a worker proves little.

use std::collections::BTreeMap;
use std::fmt;

/// How often each path was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

/// Paths that 500 seeds must reach; the test fails when one was not.
pub const MUST_REACH: &[&str] = &[
    "accepted, held by one",
    "accepted, held by two",
    "adoption of an ended attempt",
    "adoption of a running attempt",
    "attempt from a checkpoint",
    "attempt lost: crash limit",
    "attempt lost: node down",
    "attempt lost: not found",
    "attempt run twice for one job",
    "bad entry refused",
    "batch torn by a crash",
    "cancel",
    "claim",
    "daemon crash",
    "dependency never",
    "dependency opened",
    "disk lost",
    "entries removed",
    "ended jobs reviewed",
    "entries asked for in parts",
    "fork quarantined",
    "halt",
    "host crash",
    "host gone for good",
    "job failed",
    "job retried",
    "job stopped",
    "member removed",
    "node down",
    "offer repeated",
    "offer refused",
    "outcome overruled",
    "partition",
    "refused connection",
    "second copy ordered",
    "snapshot fetched",
    "snapshot instead of entries",
    "snapshot made alone",
    "snapshot made by two",
    "snapshot that could not be had",
    "stop of a running attempt",
    "take-over",
    "take-over answered with attempts",
];

impl Coverage {
    /// One more of `path`.
    pub fn count(&mut self, path: &'static str) {
        *self.0.entry(path).or_default() += 1;
    }

    /// Adds what another run reached.
    pub fn add(&mut self, other: &Self) {
        for (path, count) in &other.0 {
            *self.0.entry(path).or_default() += count;
        }
    }

    /// How often `path` was taken.
    #[must_use]
    pub fn of(&self, path: &str) -> u64 {
        self.0.get(path).copied().unwrap_or(0)
    }

    /// Paths of [`MUST_REACH`] that were not taken.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        MUST_REACH.iter().copied().filter(|path| self.of(path) == 0).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, count) in &self.0 {
            writeln!(f, "{count:>9}  {path}")?;
        }
        Ok(())
    }
}
