//! The graphics processors of this machine, from three sources joined on the PCI address: NVML, wgpu (over
//! Vulkan, in a child process) and sysfs. Owned by the inventory. An absent driver, loader or device is normal
//! and said in a fact, never an error.

mod benchmark;
mod child;
mod join;
mod nvml;
mod probe;
mod scores;
mod sysfs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::{ByteSize, Capacity, Gpu};

pub use self::child::{Adapter, AdapterKind, ProbeError, ProbeProgram, ProbeReport};
pub use self::join::{Joined, Uncounted, join};
pub use self::nvml::{NvmlError, NvmlGpu, NvmlWatch};
pub use self::probe::{ProbeArgs, probe_main};
pub use self::scores::{Score, Scores};
pub use self::sysfs::{Card, cards, has_gpu_device};

/// Listing adapters loads every Vulkan driver; a cold one from a slow disk takes seconds.
pub const LIST_LIMIT: Duration = Duration::from_secs(20);
/// A benchmark runs 1-2 s on real hardware; a software adapter needs about 10 s.
pub const BENCHMARK_LIMIT: Duration = Duration::from_secs(60);
/// NVML answers in milliseconds once it is initialised; a driver that has lost its card never does.
pub const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Whether a survey may keep graphics processors busy for seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Benchmark {
    /// Use scores that were measured before.
    Remembered,
    /// Measure what has no score and is idle.
    Measure,
}

/// How much of a graphics processor is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuUsage {
    /// What jobs are given.
    pub uuid: String,
    /// Part of the last second in which it computed; `None`: it does not tell, as parts of a divided card.
    pub percent: Option<u32>,
    /// Bytes of its memory that are used.
    pub memory_bytes: u64,
}

/// A process that uses a graphics processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuProcess {
    /// Of the graphics processor.
    pub uuid: String,
    /// Process id as the driver sees it: in the machine's own PID namespace, also when the daemon is in a container.
    pub pid: u32,
    /// Video memory that it holds; 0 when the driver does not tell.
    pub memory: ByteSize,
}

/// What a survey found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuReport {
    /// Ordered by PCI address.
    pub gpus: Vec<Gpu>,
    /// What people should know: devices that are not counted and why, drivers that do not answer.
    pub facts: BTreeMap<String, String>,
}

impl GpuReport {
    /// Puts the report into `capacity`, in place of an earlier one.
    pub fn apply(self, capacity: &mut Capacity) {
        capacity.gpus = self.gpus;
        capacity.facts.retain(|key, _| !key.starts_with("gpu_"));
        capacity.facts.extend(self.facts);
    }
}

/// Takes surveys and remembers what they need.
#[derive(Debug)]
pub struct Survey {
    root: PathBuf,
    program: ProbeProgram,
    scores_file: PathBuf,
    nvml: NvmlWatch,
    /// `CUDA_VISIBLE_DEVICES` of the daemon: who starts it with some devices hidden does not offer those.
    visible: Option<String>,
}

impl Survey {
    /// `scores_file` keeps measured scores between starts.
    #[must_use]
    pub fn new(scores_file: PathBuf) -> Self {
        Self {
            root: PathBuf::from("/"),
            program: ProbeProgram::this(),
            scores_file,
            nvml: NvmlWatch::default(),
            visible: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
        }
    }

    /// See [`super::Inventory::probe_gpus`].
    #[must_use]
    pub fn take(&self, benchmark: Benchmark) -> GpuReport {
        if !has_gpu_device(&self.root) {
            return GpuReport::default();
        }
        let mut facts = BTreeMap::new();
        let nvml = self.ask_nvml(&mut facts);
        let cards = cards(&self.root);
        let adapters = match self.program.list(LIST_LIMIT) {
            Ok(report) => report.adapters,
            Err(error) => {
                facts.insert("gpu_vulkan".to_owned(), error.to_string());
                Vec::new()
            }
        };
        let mut joined = join(&nvml, &adapters, &cards, self.root.join("dev/kfd").exists());
        let mut scores = Scores::read(&self.scores_file);
        if benchmark == Benchmark::Measure {
            self.measure(&joined, &mut scores);
        }
        scores.rate(&mut joined);
        for (n, left_out) in joined.uncounted.iter().enumerate() {
            facts.insert(format!("gpu_not_offered_{n}"), left_out.to_string());
        }
        let mut gpus: Vec<Gpu> = joined.gpus.into_iter().map(|found| found.gpu).collect();
        if let Some(visible) = &self.visible {
            gpus = join::visible(gpus, visible);
        }
        GpuReport { gpus, facts }
    }

    /// See [`super::Inventory::refresh`].
    pub fn refresh(&self, capacity: &mut Capacity) -> Vec<GpuProcess> {
        let mut facts = BTreeMap::new();
        let nvml = self.ask_nvml(&mut facts);
        capacity.facts.remove("gpu_nvml");
        capacity.facts.append(&mut facts);
        let cards = if nvml.len() < capacity.gpus.len() { cards(&self.root) } else { Vec::new() };
        join::refresh(&mut capacity.gpus, &nvml, &cards);
        nvml.into_iter()
            .filter(|seen| capacity.gpus.iter().any(|gpu| gpu.uuid == seen.uuid))
            .flat_map(|seen| seen.processes)
            .collect()
    }

    /// See [`super::Inventory::gpu_usage`].
    #[must_use]
    pub fn usage(&self) -> Vec<GpuUsage> {
        let used = |gpu: NvmlGpu| GpuUsage {
            percent: gpu.percent,
            memory_bytes: gpu.memory.saturating_sub(gpu.memory_free),
            uuid: gpu.uuid,
        };
        self.ask_nvml(&mut BTreeMap::new()).into_iter().map(used).collect()
    }

    fn ask_nvml(&self, facts: &mut BTreeMap<String, String>) -> Vec<NvmlGpu> {
        if !nvidia_device(&self.root) {
            return Vec::new();
        }
        self.nvml.ask(ASK_LIMIT).unwrap_or_else(|error| {
            facts.insert("gpu_nvml".to_owned(), error.to_string());
            Vec::new()
        })
    }

    /// Measures one adapter of each kind that has no score; those that someone computes on are left alone,
    /// for the number would be wrong and the stranger's work slower.
    fn measure(&self, joined: &Joined, scores: &mut Scores) {
        for found in &joined.gpus {
            let Some(adapter) = &found.adapter else { continue };
            if found.busy || scores.settled(adapter) {
                continue;
            }
            let measured = self.program.benchmark(adapter, BENCHMARK_LIMIT);
            if let Err(error) = &measured {
                tracing::info!(adapter = adapter.name, %error, "the GPU benchmark gave no score");
            }
            scores.note(adapter, measured.map_err(|error| error.to_string()));
            scores.write(&self.scores_file);
        }
    }
}

/// Whether NVIDIA's driver is loaded; on WSL it stands behind `/dev/dxg`.
fn nvidia_device(root: &Path) -> bool {
    ["dev/nvidiactl", "dev/nvidia0", "dev/dxg"].iter().any(|device| root.join(device).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_gpu_device_no_child_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let survey = Survey {
            root: dir.path().to_path_buf(),
            program: ProbeProgram::new("/no/such/program", []),
            ..Survey::new(dir.path().join("scores.json"))
        };
        assert_eq!(survey.take(Benchmark::Measure), GpuReport::default());
    }

    #[test]
    fn a_probe_that_cannot_run_is_a_fact_and_sysfs_still_counts() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("sys/class/drm/card0/device");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::create_dir_all(dir.path().join("dev/dri")).unwrap();
        std::fs::create_dir_all(dir.path().join("sys/bus/pci/drivers/amdgpu")).unwrap();
        for (file, text) in [
            ("vendor", "0x1002\n"),
            ("device", "0x740f\n"),
            ("uevent", "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:83:00.0\n"),
            ("mem_info_vram_total", "68702699520\n"),
            ("mem_info_vram_used", "702699520\n"),
            ("product_name", "AMD Instinct MI210\n"),
        ] {
            std::fs::write(device.join(file), text).unwrap();
        }
        for node in ["dri/renderD128", "kfd"] {
            std::fs::write(dir.path().join("dev").join(node), "").unwrap();
        }
        let survey = Survey {
            root: dir.path().to_path_buf(),
            program: ProbeProgram::new("/no/such/program", []),
            visible: None,
            ..Survey::new(dir.path().join("scores.json"))
        };
        let report = survey.take(Benchmark::Measure);
        assert!(report.facts["gpu_vulkan"].contains("/no/such/program"), "{:?}", report.facts);
        let [gpu] = report.gpus.as_slice() else { panic!("{:?}", report.gpus) };
        assert_eq!((gpu.name.as_str(), gpu.pci.as_str()), ("AMD Instinct MI210", "0000:83:00.0"));
        assert_eq!(gpu.memory_free, ByteSize(68_000_000_000));
        let mut capacity = Capacity::default();
        report.apply(&mut capacity);
        std::fs::write(device.join("mem_info_vram_used"), "68702699520\n").unwrap();
        assert_eq!(survey.refresh(&mut capacity), []);
        assert_eq!(capacity.gpus[0].memory_free, ByteSize(0));
    }
}
