//! A simulated machine: its clocks, its disk, its runner, and now and then a daemon with a core.

use std::collections::{BTreeMap, BTreeSet};

use proto::capacity::{Capacity, Gpu};
use proto::core::Boot;
use proto::core_io::Now;
use proto::entry::Identity;
use proto::snapshotting::SnapshotRules;
use proto::{ByteSize, Core, NodeId, Timestamp};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::disk::Disk;
use super::plan::Plan;
use super::runner::Runner;

/// Wall clocks start here: an ordinary day, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_750_000_000_000;

/// One machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) identity: Identity,
    pub(crate) capacity: Capacity,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) runner: Runner,
    pub(crate) daemon: Option<Daemon>,
    /// Whether the machine has power: a daemon may be down while its host is up.
    pub(crate) powered: bool,
    /// Counts daemons: what was meant for an earlier one is not delivered.
    pub(crate) life: u64,
    /// It never comes back.
    pub(crate) gone: bool,
    pub(crate) snapshot_rules: SnapshotRules,
    /// Its disk was lost once: what it held before does not count.
    pub(crate) lost_disk: bool,
}

/// A daemon that runs.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) core: Core,
    /// When it wants its next tick, in global time.
    pub(crate) wake_us: u64,
    /// Whether the runner has answered.
    pub(crate) adopted: bool,
}

/// A machine's idea of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start_ms: u64,
    ppm: i64,
    skew_ms: i64,
}

impl Clock {
    fn of(plan: &Plan, rng: &mut StdRng) -> Self {
        let bound = |most: u64, rng: &mut StdRng| {
            let most = i64::try_from(most).expect("a small bound");
            rng.random_range(-most..=most)
        };
        Self {
            start_ms: rng.random_range(0..1_000_000),
            ppm: bound(plan.drift_ppm, rng),
            skew_ms: bound(plan.skew_ms, rng),
        }
    }

    pub(crate) fn now(self, now_us: u64) -> Now {
        let local_us = i128::from(now_us) * i128::from(1_000_000 + self.ppm) / 1_000_000;
        let at = self.start_ms + u64::try_from(local_us / 1_000).expect("time is not negative");
        let unix_ms = EPOCH_MS.saturating_add_signed(self.skew_ms) + now_us / 1_000;
        Now { at: Timestamp(at), unix_ms }
    }

    /// The earliest global time at which the local clock shows `at`.
    pub(crate) fn global_us(self, at: Timestamp) -> u64 {
        let local_us = i128::from(at.0.saturating_sub(self.start_ms)) * 1_000;
        let global = (local_us * 1_000_000).div_euclid(i128::from(1_000_000 + self.ppm)) + 1;
        u64::try_from(global).expect("time is not negative")
    }
}

impl Host {
    pub(crate) fn new(index: usize, plan: &Plan, rng: &mut StdRng) -> Self {
        let mut seed = [u8::try_from(index).expect("few hosts"); 32];
        seed[1..9].copy_from_slice(&plan.seed.to_le_bytes());
        let identity = Identity::from_seed(seed);
        Self {
            id: identity.node(),
            identity,
            capacity: any_capacity(index, plan, rng),
            clock: Clock::of(plan, rng),
            disk: Disk::default(),
            runner: Runner::default(),
            daemon: None,
            powered: true,
            life: 0,
            gone: false,
            snapshot_rules: plan.snapshot_rules,
            lost_disk: false,
        }
    }

    /// Starts a daemon from what the disk has.
    pub(crate) fn start(&mut self, now_us: u64, rng: &mut StdRng) {
        self.life += 1;
        let now = self.clock.now(now_us);
        self.disk.incarnation = (self.disk.incarnation + 1).max(now.unix_ms);
        let core = Core::new(Boot {
            identity: self.identity.clone(),
            incarnation: self.disk.incarnation,
            name: format!("n{}", self.id.short()),
            software: "sim".to_owned(),
            heads: self.disk.heads(),
            hlc: self.disk.hlc(),
            snapshots: self.disk.bases.iter().map(|base| base.signed.clone()).collect(),
            floors: self.disk.floors(),
            snapshot_rules: self.snapshot_rules,
            records: self.disk.boot_records(),
            capacity: self.capacity.clone(),
            addrs: Vec::new(),
            seed: rng.random(),
        });
        self.daemon = Some(Daemon { core, wake_us: 0, adopted: false });
    }

    pub(crate) fn now(&self, now_us: u64) -> Now {
        self.clock.now(now_us)
    }
}

fn any_capacity(index: usize, plan: &Plan, rng: &mut StdRng) -> Capacity {
    let thin = plan.hosts > 16;
    let gpus = if !thin && rng.random_range(0..3) == 0 { rng.random_range(1..5) } else { 0 };
    let gpu = |number: u32, rng: &mut StdRng| Gpu {
        uuid: format!("GPU-{index}-{number}"),
        pci: format!("0000:{number:02}:00.0"),
        memory: ByteSize(24 << 30),
        memory_free: ByteSize(24 << 30),
        gflops: rng.random_range(1_000..80_000),
        ..Gpu::default()
    };
    let (mut labels, mut data) = (BTreeMap::new(), BTreeSet::new());
    if rng.random_range(0..3) == 0 {
        labels.insert("fast".to_owned(), String::new());
        data.insert("/data/large".to_owned());
    }
    Capacity {
        cpu_milli: if thin { 1_000 } else { rng.random_range(1..9) * 1_000 },
        memory: ByteSize(rng.random_range(4..65) << 30),
        disk_free: ByteSize(1 << 40),
        gpus: (0..gpus).map(|number| gpu(number, rng)).collect(),
        labels,
        pythons: BTreeSet::new(),
        data,
        facts: BTreeMap::new(),
    }
}
