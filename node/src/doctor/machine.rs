//! Memory, the limit on open files, and what control groups allow.

use std::path::Path;

use proto::ByteSize;
use rustix::process::{Resource, getrlimit};

use super::{Context, Verdict};
use crate::exec::inventory::cgroup::{Cgroups, Delegation};
use crate::exec::inventory::machine;

/// Less than this, and even a small job drives the machine into swapping.
const MEMORY_WARN: u64 = 1 << 30;
/// A peer takes two connections, a job's log and its copy a handful of files, sled a few dozen.
const FILES_WARN: u64 = 4_096;

pub(super) fn memory(_: &Context) -> Verdict {
    let root = Path::new("/");
    let (total, available) = (machine::memory_total(root), machine::memory_available(root));
    let mut finding = format!("{} of {} available", ByteSize(available), ByteSize(total));
    if let Some(limit) = Cgroups::of_this_process(root).memory_limit().filter(|&limit| limit < total) {
        finding += &format!("; the control group allows {}", ByteSize(limit));
    }
    if available < MEMORY_WARN {
        Verdict::warn(finding, "close what is not needed, or offer less with --memory")
    } else {
        Verdict::ok(finding)
    }
}

pub(super) fn open_files(_: &Context) -> Verdict {
    let limit = getrlimit(Resource::Nofile);
    let show = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let finding = format!("{} now, can be raised to {}", show(limit.current), show(limit.maximum));
    if limit.maximum.is_some_and(|maximum| maximum < FILES_WARN) {
        Verdict::warn(finding, "set LimitNOFILE=65536 in the systemd unit, or nofile in /etc/security/limits.conf")
    } else {
        Verdict::ok(finding)
    }
}

pub(super) fn cgroup(_: &Context) -> Verdict {
    let fallback = "jobs are limited by rlimits and a watchdog instead of the kernel";
    let unit = "run fnode as the systemd unit in scripts/ (Delegate=yes)";
    match Cgroups::of_this_process(Path::new("/")).delegation() {
        Delegation::Delegated { group, controllers } => {
            let missing: Vec<&str> =
                ["cpu", "memory"].into_iter().filter(|name| !controllers.iter().any(|has| has == name)).collect();
            if missing.is_empty() {
                Verdict::ok(format!("version 2, delegated at {}: {}", group.display(), controllers.join(" ")))
            } else {
                let finding = format!("version 2, delegated without {}: {fallback}", missing.join(" and "));
                Verdict::warn(finding, unit)
            }
        }
        Delegation::NotDelegated { .. } => {
            Verdict::warn(format!("version 2, but our group may not be divided: {fallback}"), unit)
        }
        Delegation::Version1 => Verdict::warn(
            format!("version 1: {fallback}"),
            "boot with systemd.unified_cgroup_hierarchy=1 for version 2, or live with it",
        ),
        Delegation::Absent => Verdict::skipped(format!("no control groups here: {fallback}")),
    }
}
