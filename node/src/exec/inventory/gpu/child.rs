//! The daemon's side of the GPU probe: starts the child, waits no longer than told, and trusts nothing that it
//! prints. Vulkan drivers crash, hang and write to standard output; here that is an error with a name.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Score;
use crate::exec::inventory::command;

/// More adapters than any machine has.
const ADAPTERS_MAX: usize = 64;
/// Vulkan bounds its names to 256 bytes.
const TEXT_MAX: usize = 256;
/// How the line of the child begins. Some drivers print lines of their own.
const MARK: &str = "{\"fnode_gpu_probe\":1,";

/// What a wgpu adapter is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// A card with memory of its own.
    Discrete,
    /// Shares the machine's memory.
    Integrated,
    /// Given to a virtual machine.
    Virtual,
    /// Computes on the CPU (llvmpipe, SwiftShader); never counted.
    Software,
    /// Whatever else a driver says.
    #[default]
    Other,
}

/// One adapter, as wgpu describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// Its place in wgpu's list, which is the same in each child of one machine and boot.
    pub index: u32,
    /// For people.
    pub name: String,
    /// What it is.
    pub kind: AdapterKind,
    /// PCI address; empty where the driver does not tell.
    pub pci: String,
    /// PCI vendor id, or Vulkan's number for a vendor without one.
    pub vendor: u32,
    /// PCI device id.
    pub device: u32,
    /// As `NVIDIA` or `radv`.
    pub driver_name: String,
    /// The driver's version, in its own form.
    pub driver_info: String,
}

impl Adapter {
    /// Driver and its version.
    #[must_use]
    pub fn driver(&self) -> String {
        format!("{} {}", self.driver_name, self.driver_info).trim().to_owned()
    }
}

/// What the child prints: one line of JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Version of this form; the first field, for it marks the line.
    pub fnode_gpu_probe: u32,
    /// All that wgpu lists over Vulkan, software adapters included.
    pub adapters: Vec<Adapter>,
    /// One for each adapter that was measured.
    #[serde(default)]
    pub measured: Vec<Measured>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Of the adapter.
    pub index: u32,
    /// The score, or why there is none.
    pub result: Result<Score, String>,
}

/// Why the probe gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The child could not be started.
    #[error("the GPU probe {program} cannot be started: {reason}")]
    Start {
        /// What was to be run.
        program: String,
        /// The system's words.
        reason: String,
    },
    /// It was killed after this many seconds.
    #[error("the Vulkan driver did not answer within {0} s; try `vulkaninfo --summary`")]
    Silent(u64),
    /// It ended otherwise than with 0: drivers crash.
    #[error("the Vulkan driver ended the GPU probe with {how}: {last_line}")]
    Crashed {
        /// Exit code or signal.
        how: String,
        /// The last that it wrote to standard error.
        last_line: String,
    },
    /// It ended well but printed nothing that can be a report.
    #[error("the GPU probe printed no report")]
    Garbled,
    /// The benchmark ran and failed.
    #[error("the GPU benchmark failed: {0}")]
    Benchmark(String),
}

/// How to start the child.
#[derive(Clone, Debug)]
pub struct ProbeProgram {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl ProbeProgram {
    /// This very program, as `gpu-probe`, also when its file was replaced by an upgrade meanwhile.
    #[must_use]
    pub fn this() -> Self {
        Self::new("/proc/self/exe", ["gpu-probe".into()])
    }

    /// Another program that prints the same report; for tests.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self { program: program.into(), arguments: arguments.into_iter().collect() }
    }

    /// All adapters, software ones included.
    ///
    /// # Errors
    /// When the child cannot be started, outlasts `limit`, crashes, or prints nonsense.
    pub fn list(&self, limit: Duration) -> Result<ProbeReport, ProbeError> {
        self.ask(&["--json"], limit)
    }

    /// Measures one adapter, in a child of its own: a driver that crashes takes no other score along.
    ///
    /// # Errors
    /// As [`ProbeProgram::list`], and when the benchmark itself fails.
    pub fn benchmark(&self, adapter: &Adapter, limit: Duration) -> Result<Score, ProbeError> {
        let index = adapter.index.to_string();
        let report = self.ask(&["--json", "--benchmark", "--adapter", &index], limit)?;
        // Between two children a device may have come or gone.
        let same = report.adapters.iter().any(|seen| seen.index == adapter.index && seen.name == adapter.name);
        let measured = report.measured.into_iter().find(|measured| same && measured.index == adapter.index);
        let score = measured.ok_or(ProbeError::Garbled)?.result.map_err(ProbeError::Benchmark)?;
        if score.is_plausible() { Ok(score) } else { Err(ProbeError::Garbled) }
    }

    fn ask(&self, arguments: &[&str], limit: Duration) -> Result<ProbeReport, ProbeError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(arguments);
        // Mesa's device selection asks the display server; the probe wants no window and waits for none.
        command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        let finished = command::run(&mut command, limit).map_err(|error| ProbeError::Start {
            program: self.program.display().to_string(),
            reason: error.to_string(),
        })?;
        let Some(status) = finished.status else { return Err(ProbeError::Silent(limit.as_secs())) };
        if !status.success() {
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, signal) => format!("signal {}", signal.unwrap_or(0)),
            };
            let last_line = finished.stderr.lines().rev().map(clean).find(|line| !line.is_empty()).unwrap_or_default();
            return Err(ProbeError::Crashed { how, last_line });
        }
        parse(&finished.stdout).ok_or(ProbeError::Garbled)
    }
}

/// The report within what the child printed, checked and shortened. `None`: there is none.
fn parse(stdout: &str) -> Option<ProbeReport> {
    let line = stdout.lines().rev().find(|line| line.starts_with(MARK))?;
    let mut report: ProbeReport = serde_json::from_str(line).ok()?;
    report.adapters.truncate(ADAPTERS_MAX);
    report.measured.truncate(ADAPTERS_MAX);
    for adapter in &mut report.adapters {
        for text in [&mut adapter.name, &mut adapter.pci, &mut adapter.driver_name, &mut adapter.driver_info] {
            *text = clean(text);
        }
    }
    for measured in &mut report.measured {
        if let Err(reason) = &mut measured.result {
            *reason = clean(reason);
        }
    }
    Some(report)
}

/// One short line, fit for a terminal.
fn clean(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_MAX).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check, sections};

    const LIMIT: Duration = Duration::from_secs(20);

    fn child(script: &str) -> ProbeProgram {
        ProbeProgram::new("/bin/sh", ["-c".into(), script.into(), "probe".into()])
    }

    fn report(name: &str, measured: &str) -> String {
        format!(
            "{MARK}\"adapters\":[{{\"index\":0,\"name\":\"{name}\",\"kind\":\"discrete\",\"pci\":\"0000:01:00.0\",\
             \"vendor\":4318,\"device\":1,\"driver_name\":\"NVIDIA\",\"driver_info\":\"550\"}}],\"measured\":[{measured}]}}"
        )
    }

    #[test]
    fn the_report_is_found_among_what_drivers_print() {
        let found = parse(&format!("MESA-INTEL: warning\n\n{}\nbye\n", report("RTX", ""))).unwrap();
        assert_eq!((found.adapters[0].name.as_str(), found.adapters[0].driver()), ("RTX", "NVIDIA 550".to_owned()));
    }

    #[test]
    fn what_the_child_says_is_bounded_and_without_control_characters() {
        let found = parse(&report(&format!("\\u001b[31m{}", "x".repeat(9_000)), "")).unwrap();
        assert!(found.adapters[0].name.len() <= TEXT_MAX);
        assert!(!found.adapters[0].name.contains('\u{1b}'));
        for text in
            ["", "{}", "{\"fnode_gpu_probe\":2,\"adapters\":[]}", "{\"fnode_gpu_probe\":1,\"adapters\":{}}", MARK]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_impossible_score_or_another_adapters_is_refused() {
        let rtx = Adapter { name: "RTX".to_owned(), ..Adapter::default() };
        let print = |name: &str, measured: &str| child(&format!("cat <<'END'\n{}\nEND", report(name, measured)));
        let good = "{\"index\":0,\"result\":{\"Ok\":{\"gflops\":100.0,\"gbytes_per_s\":10.0}}}";
        let score = print("RTX", good).benchmark(&rtx, LIMIT);
        assert_eq!(score, Ok(Score { gflops: 100.0, gbytes_per_s: 10.0 }));
        assert_eq!(print("GTX", good).benchmark(&rtx, LIMIT), Err(ProbeError::Garbled));
        let absurd = "{\"index\":0,\"result\":{\"Ok\":{\"gflops\":1e18,\"gbytes_per_s\":10.0}}}";
        assert_eq!(print("RTX", absurd).benchmark(&rtx, LIMIT), Err(ProbeError::Garbled));
        let failed = "{\"index\":0,\"result\":{\"Err\":\"out of memory\"}}";
        let refused = print("RTX", failed).benchmark(&rtx, LIMIT);
        assert_eq!(refused, Err(ProbeError::Benchmark("out of memory".to_owned())));
    }

    #[test]
    fn a_driver_that_crashes_hangs_or_babbles_is_an_error_with_a_name() {
        let crashed = child("echo 'radv: boom' >&2; kill -SEGV $$").list(LIMIT);
        let (how, last_line) = ("signal 11".to_owned(), "radv: boom".to_owned());
        assert_eq!(crashed, Err(ProbeError::Crashed { how, last_line }));
        assert_eq!(child("sleep 60").list(Duration::from_millis(100)), Err(ProbeError::Silent(0)));
        assert_eq!(child("yes | head -c 1000000").list(LIMIT), Err(ProbeError::Garbled));
        assert!(matches!(ProbeProgram::new("/no/such", []).list(LIMIT), Err(ProbeError::Start { .. })));
    }

    #[test]
    fn golden_probe_report() {
        let rtx = Adapter {
            index: 1,
            name: "RTX".to_owned(),
            kind: AdapterKind::Discrete,
            pci: "0000:01:00.0".to_owned(),
            vendor: 4_318,
            device: 1,
            driver_name: "NVIDIA".to_owned(),
            driver_info: "550".to_owned(),
        };
        let score = Score { gflops: 100.5, gbytes_per_s: 10.0 };
        let measured =
            vec![Measured { index: 1, result: Ok(score) }, Measured { index: 2, result: Err("busy".into()) }];
        let report = ProbeReport { fnode_gpu_probe: 1, adapters: vec![rtx], measured };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(parse(&text), Some(report.clone()));
        check("exec.ProbeReport", &[Sample::text("the child's line", &report, &text)]);
        use AdapterKind::{Discrete, Integrated, Other, Software, Virtual};
        let kinds = [Discrete, Integrated, Virtual, Software, Other];
        check("exec.AdapterKind", &sections(&kinds, |kind| serde_json::to_vec(kind).unwrap()));
        attack_loosely("the child's line", text.as_bytes(), 500, |bytes| {
            parse(&String::from_utf8_lossy(bytes)).is_some()
        });
    }
}
