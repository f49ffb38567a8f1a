//! This machine's capacity, kept current: the inventory with the owner's labels, looked at from blocking threads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use proto::Capacity;

use crate::exec::inventory::gpu::{Benchmark, GpuUsage};
use crate::exec::inventory::{Caps, Inventory};

/// Shared by the loop and the threads that look.
#[derive(Clone)]
pub(super) struct Machine {
    inventory: Arc<Inventory>,
    labels: BTreeMap<String, String>,
    last: Arc<Mutex<Capacity>>,
    python: Arc<OnceLock<String>>,
}

impl Machine {
    /// Looks at everything but graphics processors: milliseconds.
    pub(super) fn probe(caps: Caps, home: &Path, labels: BTreeMap<String, String>) -> Self {
        let inventory = Inventory::new(caps, home);
        let mut capacity = inventory.probe();
        capacity.labels.clone_from(&labels);
        Self { inventory: Arc::new(inventory), labels, last: Arc::new(Mutex::new(capacity)), python: Arc::default() }
    }

    /// As it was seen last.
    pub(super) fn capacity(&self) -> Capacity {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The full version of what `python3` is here; empty: there is none. Blocks when it is asked for first.
    pub(super) fn python(&self) -> String {
        self.python.get_or_init(|| self.inventory.python_version()).clone()
    }

    /// Looks at the graphics processors, then measures those without a score. Seconds; blocks. `told`
    /// is called after each of the two with what was seen.
    pub(super) fn probe_gpus(&self, mut told: impl FnMut(Capacity)) {
        for benchmark in [Benchmark::Remembered, Benchmark::Measure] {
            let report = self.inventory.probe_gpus(benchmark);
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.gpus != report.gpus {
                last.gpus = report.gpus;
                told(last.clone());
            }
            if last.gpus.is_empty() {
                return;
            }
        }
    }

    /// How much of each graphics processor is used now. Blocks.
    pub(super) fn gpu_usage(&self) -> Vec<GpuUsage> {
        self.inventory.gpu_usage()
    }

    /// Looks at what changes by itself, and for the paths that jobs ask for; `None` when nothing worth telling changed.
    pub(super) fn refresh(&self, data_wanted: BTreeSet<String>) -> Option<Capacity> {
        let data = data_wanted.into_iter().filter(|path| Path::new(path).exists()).collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = last.clone();
        self.inventory.refresh(&mut now);
        now.labels.clone_from(&self.labels);
        now.data = data;
        // Hysteresis: free disk changes with every byte written; an eighth is news.
        let disk_moved = now.disk_free.0.abs_diff(last.disk_free.0) > last.disk_free.0 / 8;
        if !disk_moved {
            now.disk_free = last.disk_free;
        }
        let changed = now != *last;
        if changed {
            last.clone_from(&now);
        }
        changed.then_some(now)
    }
}
