//! Recorded machines, as their three sources describe them.

use super::*;

fn nvml(uuid: &str, pci: &str, free: u64) -> NvmlGpu {
    NvmlGpu {
        uuid: uuid.to_owned(),
        name: "NVIDIA H200".to_owned(),
        pci: pci.to_owned(),
        device: 0x2335,
        driver: "550.90.07".to_owned(),
        cuda: "12.4".to_owned(),
        memory: 150_000,
        memory_free: free,
        ..NvmlGpu::default()
    }
}

fn adapter(name: &str, kind: AdapterKind, pci: &str, vendor: u32, device: u32) -> Adapter {
    Adapter {
        name: name.to_owned(),
        kind,
        pci: pci.to_owned(),
        vendor,
        device,
        driver_name: "driver".to_owned(),
        ..Adapter::default()
    }
}

fn llvmpipe() -> Adapter {
    adapter("llvmpipe (LLVM 15.0.6, 256 bits)", AdapterKind::Software, "", 0x10005, 0)
}

fn card(pci: &str, vendor: u32, device: u32, driver: &str, memory: u64) -> Card {
    Card { pci: pci.to_owned(), vendor, device, driver: driver.to_owned(), memory, ..Card::default() }
}

fn offered(joined: &Joined) -> Vec<(&str, &str)> {
    joined.gpus.iter().map(|found| (found.gpu.uuid.as_str(), found.gpu.name.as_str())).collect()
}

fn reasons(joined: &Joined) -> Vec<&str> {
    joined.uncounted.iter().map(|left_out| left_out.reason).collect()
}

#[test]
fn addresses_are_compared_in_one_form() {
    for text in ["0000:17:00.0", "00000000:17:00.0", "17:00.0", " 0000:17:00.0\n", "00000000:17:00.0"] {
        assert_eq!(pci_address(text).as_deref(), Some("0000:17:00.0"), "{text}");
    }
    assert_eq!(pci_address("10000:E1:1F.7").as_deref(), Some("10000:e1:1f.7"));
    for text in ["", "17:00", "17:00.8", "1ff:00.0", "x:y.z", "0000:17:20.0", "é:00.0", "::."] {
        assert_eq!(pci_address(text), None, "{text}");
    }
}

#[test]
fn a_container_with_cuda_but_without_vulkan_offers_what_nvml_knows() {
    let joined = join(&[nvml("GPU-b", "0000:41:00.0", 7), nvml("GPU-a", "0000:17:00.0", 9)], &[], &[], false);
    assert_eq!(offered(&joined), [("GPU-a", "NVIDIA H200"), ("GPU-b", "NVIDIA H200")]);
    assert_eq!(joined.gpus[0].gpu.memory_free, ByteSize(9));
    assert_eq!(joined.gpus[0].gpu.driver, "nvidia 550.90.07");
    assert_eq!(joined.gpus[0].adapter, None);
}

#[test]
fn one_card_that_all_three_know_is_one_gpu() {
    let joined = join(
        &[nvml("GPU-a", "0000:17:00.0", 9)],
        &[llvmpipe(), adapter("NVIDIA H200", AdapterKind::Discrete, "0000:17:00.0", NVIDIA, 0x2335)],
        &[card("0000:17:00.0", NVIDIA, 0x2335, "nvidia", 0), card("0000:03:00.0", 0x1a03, 0x2000, "ast", 0)],
        false,
    );
    assert_eq!(offered(&joined), [("GPU-a", "NVIDIA H200")]);
    assert!(joined.gpus[0].adapter.is_some());
    assert_eq!(reasons(&joined), [SOFTWARE], "the display chip of the server is not worth a line");
}

#[test]
fn a_desktop_offers_its_card_and_not_its_integrated_graphics() {
    let joined = join(
        &[],
        &[
            adapter("Intel(R) UHD Graphics 630", AdapterKind::Integrated, "0000:00:02.0", 0x8086, 0x3e92),
            adapter("AMD Radeon RX 7900 XTX (RADV NAVI31)", AdapterKind::Discrete, "0000:0B:00.0", AMD, 0x744c),
            adapter("AMD Radeon RX 7900 XTX (AMDVLK)", AdapterKind::Discrete, "0000:0b:00.0", AMD, 0x744c),
        ],
        &[card("0000:00:02.0", 0x8086, 0x3e92, "i915", 0), card("0000:0b:00.0", AMD, 0x744c, "amdgpu", 24)],
        false,
    );
    assert_eq!(offered(&joined), [("0000:0b:00.0", "AMD Radeon RX 7900 XTX (RADV NAVI31)")]);
    assert_eq!(reasons(&joined), [INTEGRATED]);
}

#[test]
fn rocm_makes_a_card_count_without_vulkan() {
    let mi210 = Card {
        name: "AMD Instinct MI210".to_owned(),
        busy_percent: 99,
        ..card("0000:83:00.0", AMD, 0x740f, "amdgpu", 64)
    };
    let with = join(&[], &[], std::slice::from_ref(&mi210), true);
    assert_eq!(offered(&with), [("0000:83:00.0", "AMD Instinct MI210")]);
    assert!(with.gpus[0].busy);
    let without = join(&[], &[], &[mi210], false);
    assert_eq!((offered(&without), reasons(&without)), (vec![], vec![NO_COMPUTE_DRIVER]));
}

#[test]
fn a_card_under_nouveau_is_told_but_not_offered() {
    let joined = join(
        &[],
        &[adapter("NVIDIA GeForce RTX 2060 (NVK TU106)", AdapterKind::Discrete, "0000:01:00.0", NVIDIA, 0x1f08)],
        &[card("0000:01:00.0", NVIDIA, 0x1f08, "nouveau", 0)],
        false,
    );
    assert_eq!((offered(&joined), reasons(&joined)), (vec![], vec![NO_NVIDIA_DRIVER]));
}

#[test]
fn an_adapter_without_an_address_is_placed_by_its_model_when_there_is_only_one() {
    let nameless = adapter("NVIDIA H200", AdapterKind::Discrete, "", NVIDIA, 0x2335);
    let one = join(&[nvml("GPU-a", "0000:17:00.0", 9)], std::slice::from_ref(&nameless), &[], false);
    assert!(one.gpus[0].adapter.is_some());
    let two = [nvml("GPU-a", "0000:17:00.0", 9), nvml("GPU-b", "0000:18:00.0", 9)];
    let joined = join(&two, &[nameless], &[], false);
    assert!(joined.gpus.iter().all(|found| found.adapter.is_none()));
    assert_eq!(reasons(&joined), [NO_ADDRESS]);
}

#[test]
fn the_instances_of_a_divided_card_are_offered_one_by_one_without_the_cards_score() {
    let joined = join(
        &[nvml("MIG-2", "0000:17:00.0", 4), nvml("MIG-1", "0000:17:00.0", 3)],
        &[adapter("NVIDIA H200", AdapterKind::Discrete, "0000:17:00.0", NVIDIA, 0x2335)],
        &[card("0000:17:00.0", NVIDIA, 0x2335, "nvidia", 0)],
        false,
    );
    assert_eq!(offered(&joined), [("MIG-1", "NVIDIA H200"), ("MIG-2", "NVIDIA H200")]);
    assert!(joined.gpus.iter().all(|found| found.adapter.is_none()));
}

#[test]
fn memory_that_strangers_took_meanwhile_is_no_longer_free() {
    let mut gpus = vec![
        Gpu { uuid: "GPU-a".to_owned(), memory_free: ByteSize(9), ..Gpu::default() },
        Gpu { uuid: "0000:83:00.0".to_owned(), pci: "0000:83:00.0".to_owned(), ..Gpu::default() },
        Gpu { uuid: "GPU-gone".to_owned(), memory_free: ByteSize(5), ..Gpu::default() },
    ];
    let used = Card { memory_used: 60, ..card("0000:83:00.0", AMD, 0x740f, "amdgpu", 64) };
    refresh(&mut gpus, &[nvml("GPU-a", "0000:17:00.0", 2)], &[used]);
    let free: Vec<u64> = gpus.iter().map(|gpu| gpu.memory_free.0).collect();
    assert_eq!(free, [2, 4, 5]);
}

#[test]
fn devices_that_are_hidden_from_the_daemon_are_not_offered() {
    let gpu = |uuid: &str, pci: &str| Gpu { uuid: uuid.to_owned(), pci: pci.to_owned(), ..Gpu::default() };
    let all =
        || vec![gpu("GPU-aa11", "0000:01:00.0"), gpu("GPU-bb22", "0000:02:00.0"), gpu("0000:03:00.0", "0000:03:00.0")];
    let left = |list: &str| visible(all(), list).into_iter().map(|gpu| gpu.uuid).collect::<Vec<_>>();
    assert_eq!(left("1"), ["GPU-bb22", "0000:03:00.0"]);
    assert_eq!(left("GPU-bb,GPU-aa11,0"), ["GPU-aa11", "GPU-bb22", "0000:03:00.0"]);
    assert_eq!(left(""), ["0000:03:00.0"]);
    assert_eq!(left("0,-1,1"), ["GPU-aa11", "0000:03:00.0"]);
}
