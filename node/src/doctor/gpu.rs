//! Graphics processors: devices, rights, NVIDIA's library and Vulkan. The drivers themselves are only touched in
//! the probe's child process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, access};

use super::{Context, Verdict};
use crate::exec::inventory::gpu::{AdapterKind, NvmlWatch, cards, has_gpu_device};

/// A little within the limits of these checks, so that they can say themselves what hangs.
const NVML_LIMIT: Duration = Duration::from_secs(2);
const PROBE_LIMIT: Duration = Duration::from_secs(7);

/// PCI classes 0x03…: display and 3D controllers; and accelerators, 0x12….
const GPU_CLASSES: [&str; 2] = ["0x03", "0x12"];
const VENDORS: [(&str, &str, &str); 2] = [
    ("0x10de", "NVIDIA", "install NVIDIA's driver (Debian: apt-get install nvidia-driver), then restart this machine"),
    ("0x1002", "AMD", "load the amdgpu driver (modprobe amdgpu), and install ROCm for machine learning"),
];

pub(super) fn devices(_: &Context) -> Verdict {
    devices_below(Path::new("/"))
}

fn devices_below(root: &Path) -> Verdict {
    let nodes = nodes(root);
    if has_gpu_device(root) {
        let names: Vec<String> = nodes.iter().map(|path| format!("/{}", relative(root, path))).collect();
        let drivers: Vec<String> =
            cards(root).into_iter().map(|card| format!("{} {}", card.driver, card.pci)).collect();
        let cards = if drivers.is_empty() { String::new() } else { format!("; {}", drivers.join(", ")) };
        return Verdict::ok(format!("{}{cards}", names.join(" ")));
    }
    match idle_card(root) {
        Some((pci, name, remedy)) => Verdict::warn(format!("an {name} card at {pci}, but no device for it"), remedy),
        None => Verdict::skipped("no graphics processor here"),
    }
}

pub(super) fn permissions(_: &Context) -> Verdict {
    let nodes = nodes(Path::new("/"));
    if nodes.is_empty() {
        return Verdict::skipped("no graphics processor here");
    }
    let closed: Vec<String> =
        nodes.iter().filter(|node| !may_use(node)).map(|node| node.display().to_string()).collect();
    if closed.is_empty() {
        return Verdict::ok("this user may use every device");
    }
    let finding = format!("this user may not use {}", closed.join(" "));
    Verdict::fail(finding, "sudo usermod -aG render,video $USER, then log in again; in a container pass the devices in")
}

pub(super) fn nvml(_: &Context) -> Verdict {
    if !["/dev/nvidiactl", "/dev/dxg"].iter().any(|node| Path::new(node).exists()) {
        return Verdict::skipped("NVIDIA's driver is not loaded");
    }
    match NvmlWatch::default().ask(NVML_LIMIT) {
        Ok(gpus) if gpus.is_empty() => Verdict::warn(
            "NVIDIA's driver is loaded and sees no card",
            "look at `nvidia-smi` and `dmesg | grep -i nvrm`; the machine may need a restart",
        ),
        Ok(gpus) => {
            let names: Vec<&str> = gpus.iter().map(|gpu| gpu.name.as_str()).collect();
            Verdict::ok(format!("{}; driver {}, CUDA {}", names.join(", "), gpus[0].driver, gpus[0].cuda))
        }
        Err(error) => Verdict::fail(
            error.to_string(),
            "make `nvidia-smi` work first: the same library (libnvidia-ml.so.1) serves both",
        ),
    }
}

pub(super) fn vulkan(context: &Context) -> Verdict {
    let has_device = has_gpu_device(Path::new("/"));
    let report = match context.probe.list(PROBE_LIMIT) {
        Ok(report) => report,
        Err(error) if has_device => {
            let remedy =
                "update the card's driver; until then its speed is not measured, NVIDIA and ROCm cards still work";
            return Verdict::warn(error.to_string().replace('\n', " "), remedy);
        }
        Err(error) => return Verdict::skipped(error.to_string().replace('\n', " ")),
    };
    let named = |software: bool| {
        let chosen = report.adapters.iter().filter(|adapter| (adapter.kind == AdapterKind::Software) == software);
        chosen.map(|adapter| adapter.name.clone()).collect::<Vec<_>>().join(", ")
    };
    let (hardware, software) = (named(false), named(true));
    let seen = match (hardware.is_empty(), software.is_empty()) {
        (false, _) => return Verdict::ok(hardware),
        (true, false) => format!("only software adapters, which are not counted: {software}"),
        (true, true) => no_adapter(),
    };
    if has_device {
        let remedy = "install libvulkan1 and the card's Vulkan driver; without it the card's speed is not measured";
        Verdict::warn(seen, remedy)
    } else {
        Verdict::skipped(seen)
    }
}

/// Which part of Vulkan is missing: its loader, or a driver for it.
fn no_adapter() -> String {
    let loader = ["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
        .iter()
        .any(|dir| Path::new(dir).join("libvulkan.so.1").exists());
    let drivers = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"]
        .iter()
        .any(|dir| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()));
    match (loader, drivers) {
        (false, _) => "no Vulkan loader (libvulkan.so.1)".to_owned(),
        (true, false) => "a Vulkan loader, but no driver (icd.d is empty)".to_owned(),
        (true, true) => "Vulkan is installed, but no driver finds a device".to_owned(),
    }
}

/// Not opened: that would wake a card that sleeps.
fn may_use(node: &Path) -> bool {
    access(node, Access::READ_OK | Access::WRITE_OK).is_ok()
}

/// The devices that programs compute through.
fn nodes(root: &Path) -> Vec<PathBuf> {
    let starts = |dir: &str, test: fn(&str) -> bool| -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(root.join(dir)) else { return Vec::new() };
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(test))
            .map(|entry| entry.path())
            .collect()
    };
    let mut nodes = starts("dev/dri", |name| name.starts_with("renderD"));
    nodes.extend(starts("dev", |name| {
        let card =
            name.strip_prefix("nvidia").is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()));
        card || ["nvidiactl", "nvidia-uvm", "kfd", "dxg"].contains(&name)
    }));
    nodes.sort();
    nodes
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// A card on the bus that no driver has taken.
fn idle_card(root: &Path) -> Option<(String, &'static str, &'static str)> {
    let entries = fs::read_dir(root.join("sys/bus/pci/devices")).ok()?;
    entries.flatten().find_map(|entry| {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let (class, vendor) = (read("class"), read("vendor"));
        let is_gpu = GPU_CLASSES.iter().any(|prefix| class.starts_with(prefix));
        let (_, name, remedy) = VENDORS.iter().find(|(id, ..)| is_gpu && vendor.trim() == *id)?;
        Some((entry.file_name().to_string_lossy().into_owned(), *name, *remedy))
    })
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_card_without_driver_is_told_and_a_machine_without_card_is_not_bothered() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(devices_below(dir.path()).state, State::Skipped);
        let device = dir.path().join("sys/bus/pci/devices/0000:17:00.0");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("class"), "0x030200\n").unwrap();
        fs::write(device.join("vendor"), "0x10de\n").unwrap();
        let verdict = devices_below(dir.path());
        assert!(verdict.state == State::Warn && verdict.remedy.contains("nvidia-driver"), "{verdict:?}");
        fs::create_dir_all(dir.path().join("dev")).unwrap();
        for node in ["nvidia0", "nvidiactl", "nvidia-modeset"] {
            fs::write(dir.path().join("dev").join(node), "").unwrap();
        }
        assert_eq!(devices_below(dir.path()), Verdict::ok("/dev/nvidia0 /dev/nvidiactl"));
    }
}
