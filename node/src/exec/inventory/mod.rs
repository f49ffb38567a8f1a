//! What this machine has and what of it is free, as [`proto::Capacity`]. Called by the node's loop at start
//! and then every few seconds, and by `fnode doctor`. Everything here blocks; the loop calls it from a
//! blocking thread. It never decides what a job gets, and it never touches wgpu in this process: drivers
//! crash, hang and stay in memory, so that happens in a child ([`gpu::probe_main`]).
//!
//! Three calls by cost: [`Inventory::probe`] takes milliseconds and lets the node start;
//! [`Inventory::probe_gpus`] takes from nothing (no GPU device) to minutes (a benchmark);
//! [`Inventory::refresh`] looks again at what changes.

pub mod cgroup;
pub mod command;
pub mod gpu;
pub mod machine;
pub mod python;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use proto::{ByteSize, Capacity};
use serde::Serialize;

use self::cgroup::Cgroups;
use self::gpu::{Benchmark, GpuProcess, GpuReport, GpuUsage, Survey};
use self::python::{Interpreter, Pythons, Search, full_version};

/// File in the data directory that remembers the versions of interpreters that had to be run.
pub const PYTHON_CACHE_FILE: &str = "pythons.json";
/// File in the data directory with the measured scores of graphics processors.
pub const BENCHMARK_CACHE_FILE: &str = "gpu-benchmark.json";

/// What the owner lets this node offer at most: `--cpus`, `--memory`, `--gpus`. `None`: all there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Thousandths of a CPU.
    pub cpu_milli: Option<u32>,
    /// Memory. Where there is less, what there is less a reserve is offered.
    pub memory: Option<ByteSize>,
    /// How many graphics processors, lowest PCI addresses first; 0 also keeps the drivers untouched.
    pub gpus: Option<u32>,
}

/// This machine, seen through the owner's caps.
#[derive(Debug)]
pub struct Inventory {
    caps: Caps,
    data_dir: PathBuf,
    search: Search,
    survey: Survey,
}

impl Inventory {
    /// Looks at nothing yet. `data_dir` is where free disk is measured and the two caches are kept.
    #[must_use]
    pub fn new(caps: Caps, data_dir: &Path) -> Self {
        Self {
            caps,
            data_dir: data_dir.to_path_buf(),
            search: Search::of_this_process(Some(data_dir.join(PYTHON_CACHE_FILE))),
            survey: Survey::new(data_dir.join(BENCHMARK_CACHE_FILE)),
        }
    }

    /// Everything but the graphics processors, within milliseconds. `labels` are the caller's to add.
    #[must_use]
    pub fn probe(&self) -> Capacity {
        let root = Path::new("/");
        let cgroups = Cgroups::of_this_process(root);
        let mut facts = machine::facts(root);
        facts.insert("fnode".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        Capacity {
            cpu_milli: capped(machine::cpu_milli(&cgroups), self.caps.cpu_milli),
            memory: capped(machine::memory(root, &cgroups), self.caps.memory),
            disk_free: machine::disk_free(&self.data_dir),
            pythons: Pythons::find(&self.search).versions(),
            facts,
            ..Capacity::default()
        }
    }

    /// The graphics processors. Without a GPU device on the machine, or with a cap of 0, this starts no
    /// process; else it lists them in a child within [`gpu::LIST_LIMIT`], and with [`Benchmark::Measure`]
    /// then measures those that are idle and have no score yet, each within [`gpu::BENCHMARK_LIMIT`].
    #[must_use]
    pub fn probe_gpus(&self, benchmark: Benchmark) -> GpuReport {
        if self.caps.gpus == Some(0) {
            return GpuReport::default();
        }
        let mut report = self.survey.take(benchmark);
        if let Some(cap) = self.caps.gpus {
            report.gpus.truncate(usize::try_from(cap).unwrap_or(usize::MAX));
        }
        report
    }

    /// Updates what changes by itself: free disk, free memory of the graphics processors. Takes milliseconds
    /// (at most [`gpu::ASK_LIMIT`] when a driver hangs) and starts no process. Returns the processes
    /// that are on the offered graphics processors now; whoever is not a job of ours is a stranger.
    pub fn refresh(&self, capacity: &mut Capacity) -> Vec<GpuProcess> {
        capacity.disk_free = machine::disk_free(&self.data_dir);
        if capacity.gpus.is_empty() { Vec::new() } else { self.survey.refresh(capacity) }
    }

    /// The interpreters that jobs and environments may use; looks again, so that one which was
    /// installed meanwhile is found.
    #[must_use]
    pub fn pythons(&self) -> Pythons {
        Pythons::find(&self.search)
    }

    /// How much of each graphics processor is used now; none where there is no driver that tells. Takes milliseconds (at
    /// most [`gpu::ASK_LIMIT`]) and starts no process.
    #[must_use]
    pub fn gpu_usage(&self) -> Vec<GpuUsage> {
        self.survey.usage()
    }

    /// The full version of what `python3` means here, as `3.11.7`; empty: there is none. May run it once.
    #[must_use]
    pub fn python_version(&self) -> String {
        let pythons = self.pythons();
        let version = |python: &Interpreter| full_version(&python.path, self.search.cache.as_deref());
        pythons.get("").and_then(version).unwrap_or_default()
    }
}

fn capped<T: Ord>(has: T, cap: Option<T>) -> T {
    match cap {
        Some(cap) => has.min(cap),
        None => has,
    }
}

/// Replaces a cache file as a whole. A failure is traced and otherwise ignored: caches only save time.
fn replace_file(path: &Path, value: &impl Serialize) {
    let write = || -> std::io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.persist(path)?;
        Ok(())
    };
    if let Err(error) = write() {
        tracing::debug!(path = %path.display(), %error, "a cache file cannot be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_lower_what_is_offered_and_never_raise_it() {
        let dir = tempfile::tempdir().unwrap();
        let all = Inventory::new(Caps::default(), dir.path()).probe();
        let half = Caps { cpu_milli: Some(500), memory: Some(ByteSize(1 << 20)), gpus: Some(0) };
        let capped = Inventory::new(half, dir.path());
        let capacity = capped.probe();
        assert_eq!((capacity.cpu_milli, capacity.memory), (500, ByteSize(1 << 20)));
        assert_eq!(capped.probe_gpus(Benchmark::Measure).gpus, []);
        let more = Caps { cpu_milli: Some(u32::MAX), memory: Some(ByteSize(u64::MAX)), gpus: None };
        let capacity = Inventory::new(more, dir.path()).probe();
        assert_eq!((capacity.cpu_milli, capacity.memory), (all.cpu_milli, all.memory));
    }

    #[test]
    fn a_probe_is_quick_enough_not_to_delay_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let inventory = Inventory::new(Caps::default(), dir.path());
        let start = std::time::Instant::now();
        let mut capacity = inventory.probe();
        assert!(start.elapsed() < std::time::Duration::from_secs(1), "took {:?}", start.elapsed());
        assert_eq!(inventory.refresh(&mut capacity), []);
        assert!(capacity.disk_free.0 > 0 && capacity.facts.contains_key("fnode"));
    }
}
