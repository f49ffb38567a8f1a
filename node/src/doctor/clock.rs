//! The wall clock. Leases do not read it, but schedules, display and last-writer merges do.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Context, Verdict};
use crate::exec::inventory::command;

/// 2025-01-01: this program is younger.
const BUILT_AFTER_UNIX_S: u64 = 1_735_689_600;
/// Within the limit of a check; asking starts a service that may need a moment.
const ASK_LIMIT: Duration = Duration::from_millis(1_800);
const REMEDY: &str = "sudo timedatectl set-ntp true, or install chrony";
/// As the kernel shortens the names of processes.
const DAEMONS: [&str; 4] = ["chronyd", "ntpd", "ntpsec", "systemd-timesyn"];

pub(super) fn year(_: &Context) -> Verdict {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now < BUILT_AFTER_UNIX_S {
        return Verdict::fail(format!("this machine's clock is years behind ({now} s since 1970)"), REMEDY);
    }
    Verdict::ok(format!("{} UTC", humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(now))))
}

pub(super) fn synchronised(_: &Context) -> Verdict {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Verdict::ok("synchronised by systemd-timesyncd");
    }
    let mut ask = Command::new("timedatectl");
    ask.args(["show", "--property=NTPSynchronized", "--value"]);
    let answer = command::run(&mut ask, ASK_LIMIT).ok().and_then(command::Finished::success);
    let daemon = daemon(Path::new("/proc"));
    match (answer.as_deref().map(str::trim), daemon) {
        (Some("yes"), _) => Verdict::ok("synchronised"),
        (Some("no"), Some(daemon)) => Verdict::warn(
            format!("{daemon} runs, but the clock is not synchronised yet"),
            "wait a minute; if it stays so, are time servers reachable (UDP 123)?",
        ),
        (Some("no"), None) => {
            let finding = "the clock is not synchronised; from 5 s off, this node fires no schedule";
            Verdict::warn(finding, REMEDY)
        }
        (_, Some(daemon)) => Verdict::ok(format!("{daemon} keeps the clock")),
        // A container or a virtual machine takes its host's clock; nothing in here can tell.
        (_, None) => Verdict::skipped("no timedatectl and no time daemon here: cannot be told"),
    }
}

fn daemon(proc: &Path) -> Option<String> {
    let entries = fs::read_dir(proc).ok()?;
    entries.flatten().find_map(|entry| {
        let is_process = entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        let name = if is_process { fs::read_to_string(entry.path().join("comm")).ok()? } else { return None };
        DAEMONS.contains(&name.trim()).then(|| name.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_daemon_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, name) in [("1", "systemd\n"), ("42", "chronyd\n"), ("self", "ntpd\n")] {
            fs::create_dir(dir.path().join(pid)).unwrap();
            fs::write(dir.path().join(pid).join("comm"), name).unwrap();
        }
        assert_eq!(daemon(dir.path()).as_deref(), Some("chronyd"));
    }
}
