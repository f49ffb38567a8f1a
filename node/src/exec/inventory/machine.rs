//! Processors, memory, disk and the facts that people read, from the kernel's own files. Called by the
//! inventory; starts no process and opens no device.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proto::ByteSize;

use super::cgroup::Cgroups;

/// Facts are short lines for people; a longer one is cut.
const FACT_CHARS_MAX: usize = 200;
/// Kept back for the system and for the daemon itself: a twentieth of the memory, within these bounds, so
/// that a node full of jobs still answers.
const RESERVE_MIN: u64 = 256 << 20;
const RESERVE_MAX: u64 = 2 << 30;

/// Thousandths of a CPU that this process may use, before the owner's cap; at least 1.
#[must_use]
pub fn cpu_milli(cgroups: &Cgroups) -> u32 {
    // The kernel keeps the affinity mask within the cpuset of every ancestor, so cpusets need no reading.
    let by_affinity = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count()).max(1);
    let by_affinity = by_affinity.saturating_mul(1000);
    cgroups.cpu_limit_milli().map_or(by_affinity, |limit| limit.min(by_affinity))
}

/// Memory that jobs may be given, before the owner's cap: the smaller of the machine's and the control
/// group's, less a reserve.
#[must_use]
pub fn memory(root: &Path, cgroups: &Cgroups) -> ByteSize {
    let total = memory_total(root);
    offered(cgroups.memory_limit().map_or(total, |limit| limit.min(total)))
}

fn offered(total: u64) -> ByteSize {
    // On a very small machine the reserve is a quarter: some memory must be left to offer.
    let reserve = (total / 20).clamp(RESERVE_MIN, RESERVE_MAX).min(total / 4);
    ByteSize(total - reserve)
}

/// `MemTotal` in bytes; 0 when the kernel does not say.
#[must_use]
pub fn memory_total(root: &Path) -> u64 {
    meminfo(&fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default(), "MemTotal")
}

/// `MemAvailable` in bytes: what could be used now without swapping.
#[must_use]
pub fn memory_available(root: &Path) -> u64 {
    meminfo(&fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default(), "MemAvailable")
}

fn meminfo(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(key)?.strip_prefix(':')?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        })
        .unwrap_or(0)
        .saturating_mul(1024)
}

/// Space that a process of ours may still fill on the file system of `path`, or of its nearest ancestor that
/// exists; 0 when even that cannot be asked.
#[must_use]
pub fn disk_free(path: &Path) -> ByteSize {
    let stat = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok());
    ByteSize(stat.map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// What `fnode node show` prints about the machine; no rule reads it.
#[must_use]
pub fn facts(root: &Path) -> BTreeMap<String, String> {
    let uname = rustix::system::uname();
    let cpuinfo = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let os_release = fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
    let mut facts = BTreeMap::new();
    let mut tell = |key: &str, value: String| {
        let value: String = value.chars().filter(|c| !c.is_control()).take(FACT_CHARS_MAX).collect();
        if !value.is_empty() {
            facts.insert(key.to_owned(), value);
        }
    };
    tell("hostname", uname.nodename().to_string_lossy().into_owned());
    tell("kernel", uname.release().to_string_lossy().into_owned());
    tell("architecture", uname.machine().to_string_lossy().into_owned());
    tell("os", os_name(&os_release));
    tell("cpu", cpu_model(&cpuinfo));
    tell("cpu_threads", cpu_threads(&cpuinfo).to_string());
    tell("cpu_cores", physical_cores(&cpuinfo).to_string());
    tell("memory_total", ByteSize(memory_total(root)).to_string());
    facts
}

fn os_name(os_release: &str) -> String {
    let value = |key: &str| os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or("Linux").trim_matches('"').to_owned()
}

fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (name, value) = line.split_once(':')?;
    (name.trim() == key).then(|| value.trim())
}

fn cpu_model(cpuinfo: &str) -> String {
    // ARM kernels have no "model name"; "Hardware" is the nearest they say.
    ["model name", "Hardware", "cpu model"]
        .iter()
        .find_map(|key| cpuinfo.lines().find_map(|line| field(line, key)))
        .unwrap_or_default()
        .to_owned()
}

fn cpu_threads(cpuinfo: &str) -> usize {
    cpuinfo.lines().filter(|line| field(line, "processor").is_some()).count().max(1)
}

/// Distinct (socket, core) pairs; the number of threads where the kernel does not tell cores apart.
fn physical_cores(cpuinfo: &str) -> usize {
    let mut cores = BTreeSet::new();
    for block in cpuinfo.split("\n\n") {
        let value = |key: &str| block.lines().find_map(|line| field(line, key));
        if let Some(core) = value("core id") {
            cores.insert((value("physical id").unwrap_or("0").to_owned(), core.to_owned()));
        }
    }
    if cores.is_empty() { cpu_threads(cpuinfo) } else { cores.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_THREADS_ONE_CORE: &str = "processor\t: 0\nmodel name\t: Xeon(R) 8375C\nphysical id\t: 0\ncore id\t: 0\n\n\
         processor\t: 1\nmodel name\t: Xeon(R) 8375C\nphysical id\t: 0\ncore id\t: 0\n\n";

    #[test]
    fn hyperthreads_are_not_cores() {
        assert_eq!(cpu_threads(TWO_THREADS_ONE_CORE), 2);
        assert_eq!(physical_cores(TWO_THREADS_ONE_CORE), 1);
        assert_eq!(cpu_model(TWO_THREADS_ONE_CORE), "Xeon(R) 8375C");
        assert_eq!(physical_cores("processor : 0\n\nprocessor : 1\n"), 2);
    }

    #[test]
    fn the_reserve_is_small_and_never_everything() {
        assert_eq!(offered(512 << 20), ByteSize(384 << 20));
        assert_eq!(offered(16 << 30), ByteSize((16 << 30) - (16 << 30) / 20));
        assert_eq!(offered(1 << 40), ByteSize((1 << 40) - RESERVE_MAX));
        assert_eq!(offered(0), ByteSize(0));
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       24561236 kB\nMemFree: 1 kB\nMemAvailable:   23000000 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), 24_561_236 * 1024);
        assert_eq!(meminfo(text, "MemAvailable"), 23_000_000 * 1024);
        assert_eq!(meminfo("MemTotal: lots", "MemTotal"), 0);
    }

    #[test]
    fn this_machine_has_a_processor_memory_and_a_name() {
        let root = Path::new("/");
        let cgroups = Cgroups::of_this_process(root);
        assert!(cpu_milli(&cgroups) > 0);
        assert!(memory(root, &cgroups).0 > 0);
        assert!(disk_free(&std::env::temp_dir().join("not/there/yet")).0 > 0);
        assert!(facts(root).contains_key("kernel"));
    }
}
