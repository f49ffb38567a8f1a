//! Joins what three sources say about graphics processors, on the PCI address. Pure: recorded inputs in, the
//! offered processors out, and for each one that is not offered the reason. Called by the survey.

use std::fmt;

use proto::{ByteSize, Gpu};

use super::{Adapter, AdapterKind, Card, NvmlGpu};

const NVIDIA: u32 = 0x10de;
const AMD: u32 = 0x1002;
/// Above this, someone is computing on a card whose processes nobody can list.
const BUSY_PERCENT: u32 = 20;

/// What was found, with what was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// Ordered by PCI address, then UUID.
    pub gpus: Vec<Found>,
    /// Devices that jobs are not given.
    pub uncounted: Vec<Uncounted>,
}

/// One offered graphics processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// As jobs see it; its scores are still 0.
    pub gpu: Gpu,
    /// What wgpu calls it, for the benchmark; `None`: no Vulkan driver knows it.
    pub adapter: Option<Adapter>,
    /// Someone computes on it now.
    pub busy: bool,
}

/// A device that is not offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncounted {
    /// For people.
    pub name: String,
    /// Empty for a software adapter.
    pub pci: String,
    /// In words, with what would change it.
    pub reason: &'static str,
}

impl fmt::Display for Uncounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, pci, reason } = self;
        if pci.is_empty() { write!(f, "{name}: {reason}") } else { write!(f, "{name} ({pci}): {reason}") }
    }
}

const SOFTWARE: &str = "a software adapter, it computes on the CPU";
const INTEGRATED: &str = "integrated graphics without a compute driver (NVML or ROCm)";
const UNKNOWN_KIND: &str = "neither a discrete nor an integrated device";
const NO_ADDRESS: &str = "its driver tells no PCI address";
const NO_NVIDIA_DRIVER: &str = "NVIDIA's driver is not in use for it; install it, jobs need CUDA";
const NO_COMPUTE_DRIVER: &str = "no Vulkan and no compute driver for it; install its driver";

/// A PCI address in its usual form, `0000:17:00.0`, from any of the forms that drivers use
/// (`00000000:17:00.0`, `17:00.0`, upper case). `None`: it is not one.
#[must_use]
pub(super) fn pci_address(text: &str) -> Option<String> {
    let mut parts = text.trim().rsplitn(3, ':');
    let (device, function) = parts.next()?.split_once('.')?;
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let (bus, domain) = (hex(parts.next()?)?, parts.next().map_or(Some(0), hex)?);
    let (device, function) = (hex(device)?, hex(function)?);
    let valid = bus <= 0xff && device <= 0x1f && function <= 7;
    valid.then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
}

/// Joins the three lists. What NVML knows is offered. A card that only others know is offered when it is
/// discrete and has a Vulkan driver, or when amdgpu drives it and ROCm is there (`has_rocm`: `/dev/kfd`
/// exists), which also makes integrated ones count. Software adapters never are.
#[must_use]
pub fn join(nvml: &[NvmlGpu], adapters: &[Adapter], cards: &[Card], has_rocm: bool) -> Joined {
    let mut joined = Joined::default();
    let hardware = placed(adapters, nvml, cards, &mut joined.uncounted);
    for seen in nvml {
        joined.gpus.push(from_nvml(seen, hardware.iter().find(|adapter| adapter.pci == seen.pci)));
    }
    let unknown_to_nvml = |pci: &str| nvml.iter().all(|seen| seen.pci != pci);
    for card in cards.iter().filter(|card| unknown_to_nvml(&card.pci)) {
        let adapter = hardware.iter().find(|adapter| adapter.pci == card.pci);
        match reason_against(card, adapter, has_rocm) {
            None => joined.gpus.push(from_card(card, adapter)),
            // Cards without any use for computing (a server's display chip) are not worth a line.
            Some(reason) if adapter.is_some() || [NVIDIA, AMD].contains(&card.vendor) => {
                let name = adapter.map_or_else(|| card_name(card), |adapter| adapter.name.clone());
                joined.uncounted.push(Uncounted { name, pci: card.pci.clone(), reason });
            }
            Some(_) => {}
        }
    }
    // In containers the device may be there while sysfs is hidden.
    for adapter in &hardware {
        if unknown_to_nvml(&adapter.pci) && cards.iter().all(|card| card.pci != adapter.pci) {
            if adapter.kind == AdapterKind::Integrated {
                let (name, pci) = (adapter.name.clone(), adapter.pci.clone());
                joined.uncounted.push(Uncounted { name, pci, reason: INTEGRATED });
            } else {
                joined.gpus.push(from_adapter(adapter));
            }
        }
    }
    joined.gpus.sort_by(|a, b| (&a.gpu.pci, &a.gpu.uuid).cmp(&(&b.gpu.pci, &b.gpu.uuid)));
    joined.gpus.dedup_by(|a, b| a.gpu.uuid == b.gpu.uuid);
    joined
}

/// Takes the news of NVML and sysfs into `gpus`; what neither knows keeps its last values.
pub(super) fn refresh(gpus: &mut [Gpu], nvml: &[NvmlGpu], cards: &[Card]) {
    for gpu in gpus {
        if let Some(seen) = nvml.iter().find(|seen| seen.uuid == gpu.uuid) {
            gpu.memory_free = ByteSize(seen.memory_free);
        } else if let Some(card) = cards.iter().find(|card| card.pci == gpu.pci && card.memory > 0) {
            gpu.memory_free = ByteSize(card.memory.saturating_sub(card.memory_used));
        }
    }
}

/// What `CUDA_VISIBLE_DEVICES` leaves of `gpus`: an NVIDIA device must be named by UUID, by the start of it,
/// or by its number in PCI order; as in CUDA, the list ends at the first entry that names nothing.
#[must_use]
pub(super) fn visible(gpus: Vec<Gpu>, list: &str) -> Vec<Gpu> {
    let is_nvidia = |gpu: &Gpu| gpu.uuid.starts_with("GPU-") || gpu.uuid.starts_with("MIG-");
    let (nvidia, mut kept): (Vec<Gpu>, Vec<Gpu>) = gpus.into_iter().partition(is_nvidia);
    for entry in list.split(',').map(str::trim) {
        let named = match entry.parse::<usize>() {
            Ok(number) => nvidia.get(number),
            Err(_) => nvidia.iter().find(|gpu| entry.len() > "GPU-".len() && gpu.uuid.starts_with(entry)),
        };
        let Some(gpu) = named else { break };
        if !kept.contains(gpu) {
            kept.push(gpu.clone());
        }
    }
    kept.sort_by(|a, b| (&a.pci, &a.uuid).cmp(&(&b.pci, &b.uuid)));
    kept
}

/// The hardware adapters, each with its PCI address, once; the others go to `uncounted`.
fn placed(adapters: &[Adapter], nvml: &[NvmlGpu], cards: &[Card], uncounted: &mut Vec<Uncounted>) -> Vec<Adapter> {
    let mut placed: Vec<Adapter> = Vec::new();
    for adapter in adapters {
        let reason = match adapter.kind {
            AdapterKind::Software => Some(SOFTWARE),
            AdapterKind::Other => Some(UNKNOWN_KIND),
            AdapterKind::Discrete | AdapterKind::Integrated | AdapterKind::Virtual => None,
        };
        let pci = pci_address(&adapter.pci).or_else(|| address_by_id(adapter, nvml, cards));
        match (reason, pci) {
            // Two Vulkan drivers for one card list it twice; the first one is the system's choice.
            (None, Some(pci)) if placed.iter().any(|other| other.pci == pci) => {}
            (None, Some(pci)) => placed.push(Adapter { pci, ..adapter.clone() }),
            (reason, _) => {
                let reason = reason.unwrap_or(NO_ADDRESS);
                uncounted.push(Uncounted { name: adapter.name.clone(), pci: String::new(), reason });
            }
        }
    }
    placed
}

/// Some drivers tell no address. If exactly one device of the machine has this vendor and model, it is that.
fn address_by_id(adapter: &Adapter, nvml: &[NvmlGpu], cards: &[Card]) -> Option<String> {
    let mut candidates: Vec<&str> = cards
        .iter()
        .filter(|card| (card.vendor, card.device) == (adapter.vendor, adapter.device))
        .map(|card| card.pci.as_str())
        .chain(
            nvml.iter()
                .filter(|seen| (NVIDIA, seen.device) == (adapter.vendor, adapter.device))
                .map(|seen| seen.pci.as_str()),
        )
        .collect();
    candidates.sort_unstable();
    candidates.dedup();
    match candidates.as_slice() {
        [only] => Some((*only).to_owned()),
        _ => None,
    }
}

fn reason_against(card: &Card, adapter: Option<&Adapter>, has_rocm: bool) -> Option<&'static str> {
    let rocm = has_rocm && card.driver == "amdgpu" && card.memory > 0;
    match adapter.map(|adapter| adapter.kind) {
        _ if rocm => None,
        // Nouveau's Vulkan driver runs shaders, but no machine-learning framework.
        _ if card.vendor == NVIDIA => Some(NO_NVIDIA_DRIVER),
        Some(AdapterKind::Integrated) => Some(INTEGRATED),
        Some(_) => None,
        None => Some(NO_COMPUTE_DRIVER),
    }
}

fn from_nvml(seen: &NvmlGpu, adapter: Option<&Adapter>) -> Found {
    Found {
        gpu: Gpu {
            uuid: seen.uuid.clone(),
            name: seen.name.clone(),
            pci: seen.pci.clone(),
            driver: format!("nvidia {}", seen.driver).trim_end().to_owned(),
            memory: ByteSize(seen.memory),
            memory_free: ByteSize(seen.memory_free),
            cuda: seen.cuda.clone(),
            ..Gpu::default()
        },
        // Vulkan shows a divided card as one, if at all; its score would not be the instance's.
        adapter: adapter.filter(|_| !seen.uuid.starts_with("MIG-")).cloned(),
        busy: seen.computing,
    }
}

fn from_card(card: &Card, adapter: Option<&Adapter>) -> Found {
    Found {
        gpu: Gpu {
            uuid: card.pci.clone(),
            name: adapter.map_or_else(|| card_name(card), |adapter| adapter.name.clone()),
            pci: card.pci.clone(),
            driver: adapter.map_or_else(|| card.driver.clone(), Adapter::driver),
            memory: ByteSize(card.memory),
            memory_free: ByteSize(card.memory.saturating_sub(card.memory_used)),
            ..Gpu::default()
        },
        adapter: adapter.cloned(),
        busy: card.busy_percent > BUSY_PERCENT,
    }
}

fn from_adapter(adapter: &Adapter) -> Found {
    Found {
        gpu: Gpu {
            uuid: adapter.pci.clone(),
            name: adapter.name.clone(),
            pci: adapter.pci.clone(),
            driver: adapter.driver(),
            ..Gpu::default()
        },
        adapter: Some(adapter.clone()),
        busy: false,
    }
}

fn card_name(card: &Card) -> String {
    let vendor = match card.vendor {
        NVIDIA => "NVIDIA",
        AMD => "AMD",
        0x8086 => "Intel",
        _ => "PCI",
    };
    if card.name.is_empty() { format!("{vendor} GPU {:04x}", card.device) } else { card.name.clone() }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
