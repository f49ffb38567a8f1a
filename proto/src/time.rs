//! Two kinds of time. Leases, graces and timeouts read [`Timestamp`], a local clock that never jumps;
//! display and last-writer merges read [`Hlc`], which every node may read but no rule may wait on.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A node's clock runs at most this far ahead of its own wall clock on another's word (DESIGN §7).
pub const HLC_AHEAD_MAX: Duration = Duration::from_secs(5);

/// Milliseconds on this node's monotonic clock. Means nothing on another node and is never sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    /// Zero when `earlier` is later.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A hybrid logical clock (Kulkarni et al. 2014): milliseconds since 1970, then a counter.
/// Later events that a node knows of compare greater. Orders for display and last-writer merges only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hlc {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Tells apart what happened in the same millisecond.
    pub counter: u32,
}

impl Hlc {
    /// The next reading, later than `self` and not before `wall_unix_ms`.
    #[must_use]
    pub fn next(self, wall_unix_ms: u64) -> Self {
        if wall_unix_ms > self.unix_ms {
            return Self { unix_ms: wall_unix_ms, counter: 0 };
        }
        match self.counter.checked_add(1) {
            Some(counter) => Self { unix_ms: self.unix_ms, counter },
            None => Self { unix_ms: self.unix_ms + 1, counter: 0 },
        }
    }

    /// The clock after hearing `heard`. A reading more than [`HLC_AHEAD_MAX`] past the wall clock
    /// moves it only that far: an entry is never refused for its time, and never drags others along.
    #[must_use]
    pub fn after_hearing(self, heard: Self, wall_unix_ms: u64) -> Self {
        let ahead_max_ms = u64::try_from(HLC_AHEAD_MAX.as_millis()).expect("five seconds fit");
        let ceiling = Self { unix_ms: wall_unix_ms.saturating_add(ahead_max_ms), counter: 0 };
        self.max(heard.min(ceiling))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.unix_ms, self.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hybrid_clock_moves_forward_when_the_wall_clock_goes_back() {
        let first = Hlc::default().next(1_000);
        let second = first.next(400);
        assert!(second > first);
        assert_eq!(second, Hlc { unix_ms: 1_000, counter: 1 });
    }

    #[test]
    fn a_clock_far_ahead_drags_nobody_past_the_bound() {
        let heard = Hlc { unix_ms: 9_999_999_999, counter: 3 };
        assert_eq!(Hlc::default().after_hearing(heard, 1_000), Hlc { unix_ms: 6_000, counter: 0 });
    }
}
