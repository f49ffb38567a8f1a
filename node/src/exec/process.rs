//! Processes as `/proc` shows them: who they are, whose children they are, and how to signal one
//! without ever hitting a later process that got its number. Called by the runner, and by a daemon whose
//! runner died ([`kill_orphans`]). Never signals by number alone, never group 0 or process 1.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::time::Duration;
use std::{fs, io};

use proto::AttemptId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};

use super::protocol::{MARKER, ProcessId};

/// Clock ticks per second in `/proc`: part of Linux's ABI, the same on every architecture.
pub const TICKS_PER_SECOND: u64 = 100;
/// More of a process's environment is not read when its marker is looked for.
const ENVIRON_MAX: u64 = 4 << 20;
/// Rounds of SIGKILL over what a dead runner left; each round catches what was forked during the last.
const ORPHAN_ROUNDS: u32 = 50;
const ORPHAN_ROUND_PAUSE: Duration = Duration::from_millis(20);

/// What one line of `/proc/PID/stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessRow {
    /// Who it is.
    pub id: ProcessId,
    /// Its parent's number.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Resident memory, in pages.
    pub resident_pages: u64,
    /// Processor time of it and of the children that it waited for, in ticks.
    pub cpu_ticks: u64,
    /// Whether it is dead already and only waits for its parent.
    pub zombie: bool,
}

/// All processes at one moment. A snapshot: what it says may be over by the time it is read.
#[derive(Clone, Debug, Default)]
pub struct ProcessTable {
    rows: BTreeMap<u32, ProcessRow>,
}

impl ProcessTable {
    /// Reads `/proc`. Processes that end meanwhile are left out.
    ///
    /// # Errors
    /// `/proc` cannot be listed.
    pub fn read() -> io::Result<Self> {
        let mut rows = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Ok(row) = read_row(pid) {
                rows.insert(pid, row);
            }
        }
        Ok(Self { rows })
    }

    /// `roots` and all their descendants, without those that are dead already.
    #[must_use]
    pub fn below(&self, roots: &BTreeSet<u32>) -> Vec<ProcessRow> {
        let mut inside = BTreeSet::new();
        for &pid in self.rows.keys() {
            self.mark_if_below(pid, roots, &mut inside);
        }
        inside.iter().filter_map(|pid| self.rows.get(pid)).filter(|row| !row.zombie).copied().collect()
    }

    /// Every process.
    #[must_use]
    pub fn all(&self) -> Vec<ProcessRow> {
        self.rows.values().copied().collect()
    }

    /// Numbers of the direct children of `parent`.
    #[must_use]
    pub fn children_of(&self, parent: u32) -> Vec<u32> {
        self.rows.values().filter(|row| row.parent == parent).map(|row| row.id.pid).collect()
    }

    /// Adds `pid` and the ancestors between to `inside` if one of them is in `roots` or `inside`.
    fn mark_if_below(&self, pid: u32, roots: &BTreeSet<u32>, inside: &mut BTreeSet<u32>) {
        let mut chain = Vec::new();
        let mut at = pid;
        // A snapshot is not taken at one instant, so numbers that were used twice could form a ring.
        while chain.len() <= self.rows.len() {
            if roots.contains(&at) || inside.contains(&at) {
                chain.push(at);
                inside.extend(chain.into_iter().filter(|pid| self.rows.contains_key(pid)));
                return;
            }
            chain.push(at);
            match self.rows.get(&at) {
                Some(row) if row.parent > 1 => at = row.parent,
                _ => return,
            }
        }
    }
}

/// The process that has number `pid` now.
///
/// # Errors
/// There is none.
pub fn read_row(pid: u32) -> io::Result<ProcessRow> {
    let mut text = [0; 1024];
    let mut file = fs::File::open(format!("/proc/{pid}/stat"))?;
    let len = file.read(&mut text)?;
    parse_stat(pid, &text[..len]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Who this process is.
///
/// # Errors
/// `/proc` is not mounted.
pub fn this_process() -> io::Result<ProcessId> {
    Ok(read_row(std::process::id())?.id)
}

/// The kernel's id of this boot.
///
/// # Errors
/// `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Whether `process` runs, or is dead and not waited for.
#[must_use]
pub fn exists(process: ProcessId) -> bool {
    read_row(process.pid).is_ok_and(|row| row.id == process)
}

/// Ticks since boot, as processes' start times are counted.
#[must_use]
pub fn now_ticks() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    u64::try_from(now.tv_sec).unwrap_or(0) * TICKS_PER_SECOND + nanos / (1_000_000_000 / TICKS_PER_SECOND)
}

/// Sends `signal` to `process`; returns whether it was there to receive it. The file descriptor is
/// taken first and the start time compared afterwards, so a later process is never hit.
pub fn signal(process: ProcessId, signal: Signal) -> bool {
    let Some(pid) = raw_pid(process.pid) else { return false };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    exists(process) && pidfd_send_signal(&handle, signal).is_ok()
}

/// `pid` as the kernel's type; `None` for 0, 1 and what no process can have: nobody may signal those.
#[must_use]
pub fn raw_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?).filter(|pid| !pid.is_init())
}

/// The attempt named by the environment that `pid` was started with, as text.
#[must_use]
pub fn marker_of(pid: u32) -> Option<String> {
    let file = fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    let mut environment = Vec::new();
    // What could be read before the process ended is still its environment.
    let _ = file.take(ENVIRON_MAX).read_to_end(&mut environment);
    let variables = environment.split(|&byte| byte == 0);
    let value = variables.filter_map(|text| text.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"=")).next()?;
    String::from_utf8(value.to_vec()).ok()
}

/// Kills what a dead runner left of `attempts`: every process that carries the marker of one, the groups that those
/// are in, and their descendants. Returns whether nothing of it is left. Blocks for up to a second.
#[must_use]
pub fn kill_orphans(attempts: &BTreeSet<AttemptId>) -> bool {
    if attempts.is_empty() {
        return true;
    }
    let markers: BTreeSet<String> = attempts.iter().map(AttemptId::to_string).collect();
    for round in 0..ORPHAN_ROUNDS {
        let Ok(table) = ProcessTable::read() else { return false };
        let left = table.below(&orphan_roots(&table, &markers));
        if left.is_empty() {
            return true;
        }
        for row in left {
            signal(row.id, Signal::KILL);
        }
        if round + 1 < ORPHAN_ROUNDS {
            std::thread::sleep(ORPHAN_ROUND_PAUSE);
        }
    }
    false
}

fn orphan_roots(table: &ProcessTable, markers: &BTreeSet<String>) -> BTreeSet<u32> {
    let ours = std::process::id();
    let is_marked =
        |row: &&ProcessRow| row.id.pid != ours && marker_of(row.id.pid).is_some_and(|marker| markers.contains(&marker));
    let marked: Vec<&ProcessRow> = table.rows.values().filter(is_marked).collect();
    // A job leads a group of its own; whoever is in it without the marker cleared its environment.
    let groups: BTreeSet<u32> = marked.iter().map(|row| row.group).collect();
    let in_group = table.rows.values().filter(|row| groups.contains(&row.group) && row.id.pid != ours);
    marked.iter().copied().chain(in_group).map(|row| row.id.pid).collect()
}

/// `pid (name) state ppid pgrp …`; the name may hold spaces and parentheses, so fields count from the last `)`.
fn parse_stat(pid: u32, text: &[u8]) -> Option<ProcessRow> {
    let after_name = text.iter().rposition(|&byte| byte == b')')? + 1;
    let text = std::str::from_utf8(&text[after_name..]).ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().take(22).collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(ProcessRow {
        id: ProcessId { pid, start_time: number(22)? },
        parent: u32::try_from(number(4)?).ok()?,
        group: u32::try_from(number(5)?).ok()?,
        resident_pages: number(24)?,
        cpu_ticks: (14..=17).filter_map(number).fold(0, u64::saturating_add),
        zombie: matches!(fields.first(), Some(&("Z" | "X" | "x"))),
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn row(pid: u32, parent: u32, zombie: bool) -> ProcessRow {
        ProcessRow { id: ProcessId { pid, start_time: 1 }, parent, group: pid, resident_pages: 0, cpu_ticks: 0, zombie }
    }

    fn pids(rows: &[ProcessRow]) -> Vec<u32> {
        rows.iter().map(|row| row.id.pid).collect()
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_is_no_trap() {
        let text = b"42 (a) R (b c) S 7 42 1 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 9999 123 77 0 0\n";
        let row = parse_stat(42, text).expect("valid");
        assert_eq!(row.id, ProcessId { pid: 42, start_time: 9999 });
        assert_eq!((row.parent, row.group, row.resident_pages, row.cpu_ticks, row.zombie), (7, 42, 77, 10, false));
        assert_eq!(parse_stat(42, b"42 (x) S 7"), None);
    }

    #[test]
    fn a_tree_has_all_descendants_of_its_roots_and_no_dead_ones() {
        let rows = [row(10, 1, false), row(11, 10, false), row(12, 11, false), row(13, 11, true), row(20, 1, false)];
        let table = ProcessTable { rows: rows.into_iter().map(|row| (row.id.pid, row)).collect() };
        assert_eq!(pids(&table.below(&BTreeSet::from([10]))), [10, 11, 12]);
        assert_eq!(pids(&table.below(&BTreeSet::from([11, 20]))), [11, 12, 20]);
        assert_eq!(pids(&table.below(&BTreeSet::from([99]))), [0_u32; 0]);
    }

    #[test]
    fn a_ring_of_parents_ends() {
        let rows = [row(10, 11, false), row(11, 10, false)];
        let table = ProcessTable { rows: rows.into_iter().map(|row| (row.id.pid, row)).collect() };
        assert!(table.below(&BTreeSet::from([99])).is_empty());
    }

    #[test]
    fn the_clock_counts_as_start_times_do() {
        let before = now_ticks();
        let mut child = Command::new("true").spawn().expect("true is there");
        let after = now_ticks();
        let start_time = read_row(child.id()).expect("not waited for yet").id.start_time;
        child.wait().expect("waits");
        assert!((before..=after).contains(&start_time), "{before} {start_time} {after}");
    }

    #[test]
    fn a_process_with_another_start_time_is_not_signalled() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep is there");
        let process = read_row(child.id()).expect("runs").id;
        let other = ProcessId { start_time: process.start_time + 1, ..process };
        assert!(!signal(other, Signal::KILL) && exists(process) && !exists(other));
        assert!(signal(process, Signal::KILL));
        child.wait().expect("waits");
        assert!(!exists(process));
        assert!(raw_pid(0).is_none() && raw_pid(1).is_none() && raw_pid(u32::MAX).is_none());
    }
}
