//! The child process that touches wgpu: `fnode gpu-probe`, a hidden command. Lists the adapters, measures those it
//! is told to, prints one report and ends. It may crash or hang; its parent expects that of it.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};

use super::benchmark::measure;
use super::child::Measured;
use super::{Adapter, AdapterKind, ProbeReport};

/// The probe ends itself after this time, should its parent have died while a driver hung. Longer than any
/// limit of the parent.
const LIFE_MAX: Duration = Duration::from_secs(180);

/// Arguments of `fnode gpu-probe`.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct ProbeArgs {
    /// Print the report as one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// Measure the adapters: f32 operations and memory bandwidth.
    #[arg(long)]
    pub benchmark: bool,
    /// Measure only the adapter with this number.
    #[arg(long, value_name = "NUMBER")]
    pub adapter: Option<u32>,
    /// Measure software adapters too, which are never counted.
    #[arg(long)]
    pub software: bool,
}

/// Runs the probe in this process and prints its report. 0 also when there is no adapter or no Vulkan loader;
/// 1 when it cannot run or print.
#[must_use]
pub fn probe_main(args: &ProbeArgs) -> ExitCode {
    // A driver that crashes must not leave a core file of a gigabyte in somebody's directory.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    thread::spawn(|| {
        thread::sleep(LIFE_MAX);
        // Not `exit`: the clean-up of a driver that hangs would hang as well.
        let _ = kill_process(getpid(), Signal::KILL);
    });
    let printed = tokio::runtime::Builder::new_current_thread()
        .build()
        .map(|runtime| runtime.block_on(probe(args)))
        .and_then(|report| print(&report, args.json));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "fnode: the GPU probe cannot run: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn probe(args: &ProbeArgs) -> ProbeReport {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN,
        // Validation layers, which a debug build would load, slow the benchmark down.
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut report = ProbeReport { fnode_gpu_probe: 1, ..ProbeReport::default() };
    for (index, adapter) in (0..).zip(instance.enumerate_adapters(wgpu::Backends::VULKAN).await) {
        let described = describe(index, adapter.get_info());
        let wanted = args.adapter.is_none_or(|wanted| wanted == index);
        if args.benchmark && wanted && (args.software || described.kind != AdapterKind::Software) {
            report.measured.push(Measured { index, result: measure(&adapter).await });
        }
        report.adapters.push(described);
    }
    report
}

fn describe(index: u32, info: wgpu::AdapterInfo) -> Adapter {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
        wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
        wgpu::DeviceType::Cpu => AdapterKind::Software,
        wgpu::DeviceType::Other => AdapterKind::Other,
    };
    Adapter {
        index,
        name: info.name,
        kind,
        pci: info.device_pci_bus_id,
        vendor: info.vendor,
        device: info.device,
        driver_name: info.driver,
        driver_info: info.driver_info,
    }
}

fn print(report: &ProbeReport, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        // On a line of its own, whatever a driver has printed before without ending its line.
        writeln!(out, "\n{}", serde_json::to_string(report)?)?;
        return out.flush();
    }
    if report.adapters.is_empty() {
        writeln!(out, "no Vulkan adapter (no loader, no driver, or no device)")?;
    }
    for adapter in &report.adapters {
        let Adapter { index, name, kind, pci, .. } = adapter;
        let kind = match kind {
            AdapterKind::Software => "software, never counted".to_owned(),
            kind => format!("{kind:?}").to_lowercase(),
        };
        let place = if pci.is_empty() { "no PCI address" } else { pci };
        writeln!(out, "{index}: {name} ({kind}; {place}; driver {})", adapter.driver())?;
        match report.measured.iter().find(|measured| measured.index == *index).map(|measured| &measured.result) {
            Some(Ok(score)) => writeln!(out, "   {:.0} GFLOP/s, {:.0} GB/s", score.gflops, score.gbytes_per_s)?,
            Some(Err(reason)) => writeln!(out, "   not measured: {reason}")?,
            None => {}
        }
    }
    out.flush()
}
