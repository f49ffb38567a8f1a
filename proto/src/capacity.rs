//! What a node has, what of it is free, and what a job asks for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::size::ByteSize;

/// What one node offers to jobs, after caps and the limits of its cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Thousandths of a CPU.
    pub cpu_milli: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Free space on the file system of the data directory.
    pub disk_free: ByteSize,
    /// Graphics processors that a job can use; software adapters are never among them.
    pub gpus: Vec<Gpu>,
    /// Set by the owner or by `fnode node label`.
    pub labels: BTreeMap<String, String>,
    /// Python versions that can be had without a download, as `3.11`.
    pub pythons: BTreeSet<String>,
    /// Of the paths that unfinished jobs ask for ([`Requirement::data`]), those that exist here.
    pub data: BTreeSet<String>,
    /// Facts for people: operating system, kernel, processor, versions. Never read by a rule.
    pub facts: BTreeMap<String, String>,
}

/// One graphics processor, joined from wgpu, NVML and sysfs on its PCI address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// What jobs are given in `CUDA_VISIBLE_DEVICES` (NVIDIA's UUID), else the PCI address.
    pub uuid: String,
    /// For people, as `NVIDIA H200`.
    pub name: String,
    /// PCI address as `0000:17:00.0`, lowercase.
    pub pci: String,
    /// Driver and its version.
    pub driver: String,
    /// All video memory.
    pub memory: ByteSize,
    /// Video memory that no process uses now, foreign ones included.
    pub memory_free: ByteSize,
    /// Measured by the wgpu benchmark: f32 fused multiply-adds counted as two, in GFLOP/s. 0: not measured.
    pub gflops: u32,
    /// Measured by the wgpu benchmark: memory copied, read plus written, in GB/s. 0: not measured.
    pub gbytes_per_s: u32,
    /// NVIDIA's CUDA version that the driver supports, as `12.4`; empty where there is none.
    pub cuda: String,
}

/// What one job asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Requirement {
    /// Thousandths of a CPU; at least 1.
    pub cpu_milli: u32,
    /// Memory.
    pub memory: ByteSize,
    /// How many graphics processors, each leased whole.
    pub gpus: u32,
    /// Free video memory on each of them.
    pub gpu_memory: ByteSize,
    /// Python version as `3.11`; empty: any, or none.
    pub python: String,
    /// Every one must be on the node, with this value; an empty value asks only for the key.
    pub labels: BTreeMap<String, String>,
    /// Names or ids of nodes that may run it; empty: any.
    pub nodes: BTreeSet<String>,
    /// Paths that must exist on the node: data that already lies there.
    pub data: BTreeSet<String>,
}

impl Default for Requirement {
    fn default() -> Self {
        Self {
            cpu_milli: 1_000,
            memory: ByteSize(0),
            gpus: 0,
            gpu_memory: ByteSize(0),
            python: String::new(),
            labels: BTreeMap::new(),
            nodes: BTreeSet::new(),
            data: BTreeSet::new(),
        }
    }
}

/// What a running or claimed job holds of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Thousandths of a CPU.
    pub cpu_milli: u32,
    /// Memory.
    pub memory: ByteSize,
    /// UUIDs of the leased graphics processors.
    pub gpus: BTreeSet<String>,
}

/// One thing that a node lacks for a job, with what there is. Ordered by how far off it is: a node
/// that only lacks free CPUs is nearer than one that lacks a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lack {
    /// Too few free CPUs now, in thousandths.
    CpuBusy {
        /// Free now.
        free: u32,
    },
    /// Too little free memory now.
    MemoryBusy {
        /// Free now.
        free: ByteSize,
    },
    /// Too few free graphics processors now.
    GpuBusy {
        /// Free now, with enough free memory.
        free: u32,
    },
    /// The node is draining, paused by its owner, or still starting.
    NotAccepting,
    /// The node is suspected or down.
    NotAlive,
    /// Fewer CPUs than asked even when idle, in thousandths.
    Cpu {
        /// In all.
        total: u32,
    },
    /// Less memory than asked even when idle.
    Memory {
        /// In all.
        total: ByteSize,
    },
    /// Fewer graphics processors than asked even when idle.
    Gpu {
        /// In all, with enough memory.
        total: u32,
    },
    /// No such Python version.
    Python,
    /// A label is missing or has another value.
    Label(String),
    /// A path with data that is not there.
    Data(String),
    /// Not among the nodes the job names.
    Node,
    /// Refused by this node for this job before; the reason was told then.
    Refused,
}

impl Lack {
    /// Whether waiting can help: the node has it, but not free now.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::CpuBusy { .. } | Self::MemoryBusy { .. } | Self::GpuBusy { .. } | Self::NotAccepting | Self::NotAlive
        )
    }
}

impl Capacity {
    /// What this node lacks for `requirement` when `used` is taken; empty means that it fits now.
    /// Node names and aliveness are the caller's to check.
    #[must_use]
    pub fn lacks(&self, requirement: &Requirement, used: &Reservation) -> Vec<Lack> {
        let mut lacks = Vec::new();
        let cpu_free = self.cpu_milli.saturating_sub(used.cpu_milli);
        if self.cpu_milli < requirement.cpu_milli {
            lacks.push(Lack::Cpu { total: self.cpu_milli });
        } else if cpu_free < requirement.cpu_milli {
            lacks.push(Lack::CpuBusy { free: cpu_free });
        }
        let memory_free = ByteSize(self.memory.0.saturating_sub(used.memory.0));
        if self.memory < requirement.memory {
            lacks.push(Lack::Memory { total: self.memory });
        } else if memory_free < requirement.memory {
            lacks.push(Lack::MemoryBusy { free: memory_free });
        }
        lacks.extend(self.lacks_gpu(requirement, used));
        if !requirement.python.is_empty() && !self.pythons.contains(&requirement.python) {
            lacks.push(Lack::Python);
        }
        for (key, value) in &requirement.labels {
            if self.labels.get(key).is_none_or(|has| !value.is_empty() && has != value) {
                lacks.push(Lack::Label(key.clone()));
            }
        }
        lacks.extend(requirement.data.difference(&self.data).cloned().map(Lack::Data));
        lacks
    }

    /// Whether `requirement` fits now: nothing is lacking. Cheaper than asking what is.
    #[must_use]
    pub fn fits(&self, requirement: &Requirement, used: &Reservation) -> bool {
        let cpu = used.cpu_milli.saturating_add(requirement.cpu_milli) <= self.cpu_milli;
        let memory = used.memory.0.saturating_add(requirement.memory.0) <= self.memory.0;
        let nowhere_special = requirement.labels.is_empty() && requirement.data.is_empty();
        let simple = requirement.gpus == 0 && requirement.python.is_empty() && nowhere_special;
        cpu && memory && (simple || self.lacks(requirement, used).is_empty())
    }

    fn lacks_gpu(&self, requirement: &Requirement, used: &Reservation) -> Option<Lack> {
        let count = |gpus: usize| u32::try_from(gpus).unwrap_or(u32::MAX);
        if requirement.gpus == 0 {
            return None;
        }
        let total = count(self.gpus.iter().filter(|gpu| gpu.memory >= requirement.gpu_memory).count());
        if total < requirement.gpus {
            return Some(Lack::Gpu { total });
        }
        let free = count(self.free_gpus(requirement, used).count());
        (free < requirement.gpus).then_some(Lack::GpuBusy { free })
    }

    /// The graphics processors that `requirement` may lease now, best measured score first.
    pub fn free_gpus<'a>(
        &'a self,
        requirement: &'a Requirement,
        used: &'a Reservation,
    ) -> impl Iterator<Item = &'a Gpu> + 'a {
        let mut free: Vec<&Gpu> = self
            .gpus
            .iter()
            .filter(|gpu| !used.gpus.contains(&gpu.uuid) && gpu.memory_free >= requirement.gpu_memory)
            .collect();
        free.sort_by_key(|gpu| (std::cmp::Reverse(gpu.gflops), gpu.pci.clone()));
        free.into_iter()
    }

    /// What `requirement` would hold of this node, or `None` when it does not fit beside `used`.
    #[must_use]
    pub fn reserve(&self, requirement: &Requirement, used: &Reservation) -> Option<Reservation> {
        if !self.fits(requirement, used) {
            return None;
        }
        let gpus = self.free_gpus(requirement, used).take(requirement.gpus as usize);
        Some(Reservation {
            cpu_milli: requirement.cpu_milli,
            memory: requirement.memory,
            gpus: gpus.map(|gpu| gpu.uuid.clone()).collect(),
        })
    }
}

impl Reservation {
    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.cpu_milli += other.cpu_milli;
        self.memory.0 += other.memory.0;
        self.gpus.extend(other.gpus.iter().cloned());
    }

    /// What is left when `other`, which must be part of `self`, is given back.
    pub fn remove(&mut self, other: &Self) {
        self.cpu_milli = self.cpu_milli.checked_sub(other.cpu_milli).expect("CPUs given back were reserved");
        self.memory.0 = self.memory.0.checked_sub(other.memory.0).expect("memory given back was reserved");
        for gpu in &other.gpus {
            assert!(self.gpus.remove(gpu), "GPU {gpu} given back was reserved");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str, gflops: u32, memory_free: u64) -> Gpu {
        Gpu {
            uuid: uuid.to_owned(),
            gflops,
            memory: ByteSize(80),
            memory_free: ByteSize(memory_free),
            ..Gpu::default()
        }
    }

    fn lab_node() -> Capacity {
        Capacity {
            cpu_milli: 8_000,
            memory: ByteSize(64 << 30),
            gpus: vec![gpu("slow", 10, 80), gpu("fast", 20, 80), gpu("taken by a stranger", 30, 5)],
            labels: BTreeMap::from([("rack".to_owned(), "b".to_owned())]),
            ..Capacity::default()
        }
    }

    #[test]
    fn the_fastest_free_gpu_with_enough_memory_is_leased() {
        let requirement = Requirement { gpus: 1, gpu_memory: ByteSize(40), ..Requirement::default() };
        let reserved = lab_node().reserve(&requirement, &Reservation::default()).expect("fits");
        assert_eq!(reserved.gpus, BTreeSet::from(["fast".to_owned()]));
        let second = lab_node().reserve(&requirement, &reserved).expect("one is left");
        assert_eq!(second.gpus, BTreeSet::from(["slow".to_owned()]));
    }

    #[test]
    fn what_waiting_cures_is_told_from_what_it_does_not() {
        let busy = Reservation { cpu_milli: 7_500, ..Reservation::default() };
        let one_cpu = Requirement::default();
        assert_eq!(lab_node().lacks(&one_cpu, &busy), [Lack::CpuBusy { free: 500 }]);
        let huge = Requirement { cpu_milli: 9_000, ..Requirement::default() };
        let lacks = lab_node().lacks(&huge, &busy);
        assert_eq!(lacks, [Lack::Cpu { total: 8_000 }]);
        assert!(!lacks[0].is_passing());
    }

    #[test]
    fn labels_match_by_value_or_by_key_alone() {
        let asks = |value: &str| Requirement {
            labels: BTreeMap::from([("rack".to_owned(), value.to_owned())]),
            ..Requirement::default()
        };
        assert_eq!(lab_node().lacks(&asks("b"), &Reservation::default()), []);
        assert_eq!(lab_node().lacks(&asks(""), &Reservation::default()), []);
        assert_eq!(lab_node().lacks(&asks("c"), &Reservation::default()), [Lack::Label("rack".to_owned())]);
    }
}
