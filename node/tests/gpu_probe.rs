//! The GPU probe as a real child process over whatever Vulkan this machine has. Debian's `mesa-vulkan-drivers`
//! gives a software adapter; without any adapter the tests say so and pass.

use std::ffi::OsString;
use std::time::Duration;

use node::exec::inventory::gpu::{self, AdapterKind, ProbeProgram, ProbeReport};

const LIMIT: Duration = Duration::from_secs(90);

/// The probe as the daemon starts it: this program, in a process of its own.
fn probe(flags: &[&str]) -> ProbeProgram {
    let words = ["gpu-probe"].iter().chain(flags).map(OsString::from);
    ProbeProgram::new(env!("CARGO_BIN_EXE_fnode"), words)
}

fn listed() -> Option<ProbeReport> {
    let report = probe(&[]).list(LIMIT).expect("a machine without Vulkan gives an empty list");
    if report.adapters.is_empty() {
        eprintln!("skipped: no Vulkan adapter here (apt-get install mesa-vulkan-drivers gives a software one)");
        return None;
    }
    Some(report)
}

#[test]
fn software_adapters_are_recognised_and_never_counted() {
    let Some(report) = listed() else { return };
    for adapter in &report.adapters {
        eprintln!("{adapter:?}");
        let is_software = ["llvmpipe", "SwiftShader"].iter().any(|name| adapter.name.contains(name));
        assert_eq!(is_software, adapter.kind == AdapterKind::Software, "{adapter:?}");
    }
    let software = report.adapters.iter().filter(|adapter| adapter.kind == AdapterKind::Software).count();
    let joined = gpu::join(&[], &report.adapters, &[], false);
    assert!(joined.gpus.len() <= report.adapters.len() - software);
    assert!(joined.uncounted.len() >= software);
}

#[test]
fn an_adapter_is_measured_within_the_limit() {
    let Some(report) = listed() else { return };
    let score =
        probe(&["--software"]).benchmark(&report.adapters[0], LIMIT).expect("the first adapter can be measured");
    eprintln!("{}: {score:?}", report.adapters[0].name);
    assert!(score.is_plausible());
}

#[test]
fn a_probe_that_hangs_is_given_up() {
    let hangs = ProbeProgram::new("/bin/sh", ["-c", "exec sleep 600"].map(OsString::from));
    let error = hangs.list(Duration::from_millis(500)).expect_err("it never answers");
    assert!(matches!(error, gpu::ProbeError::Silent(_)), "{error}");
}
