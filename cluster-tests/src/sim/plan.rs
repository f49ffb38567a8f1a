//! What one seed decides before the first step: how large the cluster is, how bad its world.

use std::ops::Range;
use std::time::Duration;

use proto::snapshotting::SnapshotRules;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// One run's settings. Times in microseconds of simulated time unless they say otherwise.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Decides everything else.
    pub seed: u64,
    /// How many machines.
    pub hosts: usize,
    /// No fault at all: then nothing may run twice either.
    pub calm: bool,
    /// How long phase one lasts.
    pub phase_one_us: u64,
    /// Delay of one message.
    pub latency_us: Range<u64>,
    /// Messages out of 1,000 that vanish although their stream holds.
    pub loss_permille: u32,
    /// Mean time between streams that break, in the whole cluster; `None`: they hold.
    pub break_us: Option<u64>,
    /// Mean time between partitions.
    pub partition_us: Option<u64>,
    /// Mean time between daemons that are killed while their host goes on.
    pub daemon_crash_us: Option<u64>,
    /// Mean time between hosts that fall silent.
    pub host_crash_us: Option<u64>,
    /// One host loses its disk with its first crash.
    pub disk_loss: bool,
    /// One host crashes in phase one and never comes back.
    pub gone: bool,
    /// Time of one fdatasync.
    pub sync_us: Range<u64>,
    /// This host's disk takes fifty times as long.
    pub slow_disk: Option<usize>,
    /// Wall clocks are off by up to so many milliseconds, either way.
    pub skew_ms: u64,
    /// Monotonic clocks run fast or slow by up to so many millionths.
    pub drift_ppm: u64,
    /// Messages travel as bytes, through the codec.
    pub encode: bool,
    /// Cores check signatures themselves, as they do for entries that come raw.
    pub raw: bool,
    /// Forged and broken entries are slipped in.
    pub forge: bool,
    /// How many groups are submitted.
    pub groups: usize,
    /// Owners pause and drain nodes.
    pub owners: bool,
    /// After how few entries a snapshot is made, and how soon what it covers is removed.
    pub snapshot_rules: SnapshotRules,
    /// A host that starts for the first time so late.
    pub late: Option<(usize, u64)>,
}

impl Plan {
    /// The plan of `seed`.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed ^ 0x0070_6c61_6e00);
        let hosts = match rng.random_range(0..40) {
            0 => rng.random_range(18..26),
            1..4 => 1,
            4..10 => 2,
            10..20 => 3,
            _ => rng.random_range(4..9),
        };
        let calm = rng.random_range(0..6) == 0;
        let faulty = |rng: &mut StdRng, odds: f64| !calm && rng.random_bool(odds);
        let second = 1_000_000;
        let mean = |rng: &mut StdRng, odds: f64, range: Range<u64>| {
            let mean = rng.random_range(range) * second;
            faulty(rng, odds).then_some(mean)
        };
        let slow_network = rng.random_range(0..4) == 0;
        let slow_sync = rng.random_range(0..4) == 0;
        let phase_one_us = rng.random_range(6..40) * second;
        Self {
            seed,
            hosts,
            calm,
            phase_one_us,
            latency_us: if slow_network { 2_000..120_000 } else { 100..2_500 },
            loss_permille: if faulty(rng, 0.3) { rng.random_range(1..50) } else { 0 },
            break_us: mean(rng, 0.5, 1..10),
            partition_us: mean(rng, 0.4, 5..25),
            daemon_crash_us: mean(rng, 0.5, 3..20),
            host_crash_us: mean(rng, 0.4, 5..30),
            disk_loss: faulty(rng, 0.3),
            gone: faulty(rng, 0.15) && hosts > 2,
            sync_us: if slow_sync { 2_000..40_000 } else { 50..3_000 },
            slow_disk: faulty(rng, 0.2).then(|| rng.random_range(0..hosts)),
            skew_ms: if rng.random_bool(0.3) { 6_000 } else { 300 },
            drift_ppm: if rng.random_bool(0.2) { 5_000 } else { 100 },
            encode: rng.random_range(0..4) == 0,
            raw: rng.random_range(0..6) == 0,
            forge: faulty(rng, 0.3),
            groups: rng.random_range(1..if hosts > 16 { 8 } else { 24 }),
            owners: faulty(rng, 0.2),
            snapshot_rules: snapshot_rules(rng),
            late: (hosts > 1 && rng.random_range(0..3) == 0)
                .then(|| (rng.random_range(0..hosts), rng.random_range(0..phase_one_us))),
        }
    }

    /// The same plan without faults.
    #[must_use]
    pub fn without_faults(self) -> Self {
        Self {
            calm: true,
            loss_permille: 0,
            break_us: None,
            partition_us: None,
            daemon_crash_us: None,
            host_crash_us: None,
            disk_loss: false,
            gone: false,
            slow_disk: None,
            forge: false,
            owners: false,
            ..self
        }
    }
}

/// Most worlds make snapshots all the time; in the others no log is long enough for one.
fn snapshot_rules(rng: &mut StdRng) -> SnapshotRules {
    if rng.random_range(0..4) == 0 {
        return SnapshotRules::default();
    }
    let horizon = Duration::from_millis(rng.random_range(0..6_000));
    SnapshotRules { every: rng.random_range(4..150), horizon }
}
