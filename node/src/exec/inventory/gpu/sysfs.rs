//! What the kernel says about graphics cards, whatever their driver's libraries: `/sys/class/drm` and the
//! device nodes. Opens no device. `root` is `/`, or a recorded tree in tests.

use std::fs;
use std::path::Path;

/// A machine has at most a few dozen cards.
const CARDS_MAX: usize = 64;

/// One card that the kernel has a driver for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// As `0000:17:00.0`.
    pub pci: String,
    /// PCI vendor id, as 0x10de.
    pub vendor: u32,
    /// PCI device id.
    pub device: u32,
    /// The kernel's driver, as `amdgpu`.
    pub driver: String,
    /// The product's name where the driver tells it, else empty.
    pub name: String,
    /// Bytes; 0 where the driver does not tell (only amdgpu does).
    pub memory: u64,
    /// Bytes.
    pub memory_used: u64,
    /// How busy it is, in percent; 0 where the driver does not tell.
    pub busy_percent: u32,
}

/// The cards of this machine, ordered by PCI address.
#[must_use]
pub fn cards(root: &Path) -> Vec<Card> {
    let Ok(entries) = fs::read_dir(root.join("sys/class/drm")) else { return Vec::new() };
    let mut cards: Vec<Card> = entries
        .flatten()
        // Beside `card0` there are its outputs, as `card0-HDMI-A-1`.
        .filter(|entry| {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("card"));
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        })
        .take(CARDS_MAX)
        .filter_map(|entry| card(&entry.path().join("device")))
        .collect();
    cards.sort_by(|a, b| a.pci.cmp(&b.pci));
    cards
}

/// Whether there is any device through which a program could compute: a render node, NVIDIA's nodes, ROCm's,
/// or WSL's. Without one, no driver needs to be asked.
#[must_use]
pub fn has_gpu_device(root: &Path) -> bool {
    let any = |dir: &str, prefix: &str| {
        fs::read_dir(root.join(dir))
            .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(prefix)))
    };
    root.join("dev/kfd").exists() || root.join("dev/dxg").exists() || any("dev/dri", "renderD") || any("dev", "nvidia")
}

fn card(device: &Path) -> Option<Card> {
    let text = |file: &str| fs::read_to_string(device.join(file)).ok().map(|text| text.trim().to_owned());
    let number = |file: &str| text(file).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let hex = |file: &str| u32::from_str_radix(text(file)?.strip_prefix("0x")?, 16).ok();
    let uevent = text("uevent")?;
    let field = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some(Card {
        pci: super::join::pci_address(field("PCI_SLOT_NAME")?)?,
        vendor: hex("vendor")?,
        device: hex("device")?,
        driver: field("DRIVER").unwrap_or_default().to_owned(),
        name: text("product_name").unwrap_or_default(),
        memory: number("mem_info_vram_total"),
        memory_used: number("mem_info_vram_used"),
        busy_percent: u32::try_from(number("gpu_busy_percent")).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_and_cards_that_are_not_on_pci_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let drm = dir.path().join("sys/class/drm");
        for (card, uevent) in [
            ("card1", "DRIVER=i915\nPCI_SLOT_NAME=0000:00:02.0\n"),
            ("card1-HDMI-A-1", "DRIVER=i915\nPCI_SLOT_NAME=0000:00:02.0\n"),
            ("card0", "DRIVER=vc4-drm\n"),
            ("renderD128", "PCI_SLOT_NAME=0000:00:02.0\n"),
        ] {
            fs::create_dir_all(drm.join(card).join("device")).unwrap();
            fs::write(drm.join(card).join("device/uevent"), uevent).unwrap();
            fs::write(drm.join(card).join("device/vendor"), "0x8086\n").unwrap();
            fs::write(drm.join(card).join("device/device"), "0x3e92\n").unwrap();
        }
        let found = cards(dir.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].vendor, found[0].driver.as_str()), (0x8086, "i915"));
        assert!(!has_gpu_device(dir.path()));
        fs::create_dir_all(dir.path().join("dev/dri")).unwrap();
        fs::write(dir.path().join("dev/dri/card0"), "").unwrap();
        assert!(!has_gpu_device(dir.path()), "a display without a render node does not compute");
        fs::write(dir.path().join("dev/nvidia0"), "").unwrap();
        assert!(has_gpu_device(dir.path()));
    }
}
