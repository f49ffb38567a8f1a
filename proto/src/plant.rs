//! Known bugs, one in each rule that an invariant guards (DESIGN §14): the simulator must find each from seeds
//! alone. Compiled in only with the feature `planted`, which nothing but that test turns on; then one of them is
//! chosen at run time, so that one build serves all. Without the feature every question here is a constant `false`.

#[cfg(feature = "planted")]
use std::sync::atomic::{AtomicU8, Ordering};

/// A bug that can be planted. The invariant that must find it stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Plant {
    /// I7: takes an entry that does not name the one before it.
    BrokenChain = 1,
    /// I2: decides a job again while its outcome is on its way into the log.
    DecideTwice = 2,
    /// I1: vouches for an entry that is not on disk yet.
    EarlyHold = 3,
    /// I5: forgets a job that a worker refused.
    ForgetRefused = 4,
    /// I6: does not stop what runs.
    IgnoreStop = 5,
    /// I4: merges claims in the order in which they arrive.
    LastArrivalWins = 6,
    /// I2: goes on coordinating what another took over.
    NoFence = 7,
    /// I3: reserves as if nothing were taken.
    Overcommit = 8,
    /// I7: takes an entry without checking its signature.
    UnsignedEntries = 9,
    /// I4: takes a snapshot in without the tombstones in it.
    ForgetTombstones = 10,
}

/// Every plant, with the name that the simulator's command line knows and the invariant that finds it.
pub const PLANTS: [(Plant, &str, &str); 10] = [
    (Plant::BrokenChain, "broken-chain", "I7"),
    (Plant::DecideTwice, "decide-twice", "I2"),
    (Plant::EarlyHold, "early-hold", "I1"),
    (Plant::ForgetRefused, "forget-refused", "I5"),
    (Plant::IgnoreStop, "ignore-stop", "I6"),
    (Plant::LastArrivalWins, "last-arrival-wins", "I4"),
    (Plant::NoFence, "no-fence", "I2"),
    (Plant::Overcommit, "overcommit", "I3"),
    (Plant::UnsignedEntries, "unsigned-entries", "I7"),
    (Plant::ForgetTombstones, "forget-tombstones", "I4"),
];

#[cfg(feature = "planted")]
static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Plants a bug in every core of this process.
#[cfg(feature = "planted")]
pub fn plant(plant: Plant) {
    PLANTED.store(plant as u8, Ordering::Relaxed);
}

/// Whether this bug is planted.
#[cfg(feature = "planted")]
pub(crate) fn is_planted(plant: Plant) -> bool {
    PLANTED.load(Ordering::Relaxed) == plant as u8
}

/// Whether this bug is planted: never in a build that anybody runs.
#[cfg(not(feature = "planted"))]
pub(crate) const fn is_planted(_: Plant) -> bool {
    false
}
