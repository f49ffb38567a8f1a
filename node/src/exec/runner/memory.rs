//! Memory limits where no cgroup can enforce them: a watchdog that adds up each limited tree a few times a
//! second, and the kernel's own count of out-of-memory kills. Measures only; `attempts.rs` kills.

use std::fs;
use std::time::{Duration, Instant};

use crate::exec::process::ProcessRow;

/// How often limited trees are measured: a job that fills 10 GB/s is caught within a few GB.
const INTERVAL: Duration = Duration::from_millis(250);
/// Measuring may take this part of the time at most: one in so many.
const COST_SHARE: u32 = 50;
/// The kernel's count is read at most this often when attempts start: reading costs as much as a tenth of a start.
const OOM_COUNT_AGE: Duration = Duration::from_secs(1);

/// When to measure next.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    due: Option<Instant>,
}

/// The kernel's count of processes that it killed for memory, with the time it was read.
#[derive(Debug, Default)]
pub(super) struct OomCount {
    read: Option<(Instant, u64)>,
}

impl Watchdog {
    /// Starts measuring if nothing was measured so far.
    pub(super) fn wake(&mut self, now: Instant) {
        self.due.get_or_insert(now + INTERVAL);
    }

    /// When to measure next; `None`: no limited attempt runs.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Notes that measuring took `cost` until `now`; `more`: limited attempts still run.
    pub(super) fn on_measured(&mut self, now: Instant, cost: Duration, more: bool) {
        self.due = more.then(|| now + INTERVAL.max(cost * COST_SHARE));
    }
}

impl OomCount {
    /// The count, not older than a second.
    pub(super) fn recent(&mut self, now: Instant) -> u64 {
        match self.read {
            Some((at, count)) if now.duration_since(at) < OOM_COUNT_AGE => count,
            _ => self.now(now),
        }
    }

    /// The count at this moment.
    pub(super) fn now(&mut self, now: Instant) -> u64 {
        let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0);
        self.read = Some((now, count));
        count
    }
}

/// Memory of a tree in bytes if it is more than `limit`. Resident sizes count shared pages once per process, which
/// is far too much for forked data loaders; so a tree that seems too large is measured again by
/// proportional size, which costs more and counts each page once.
pub(super) fn beyond(limit: u64, tree: &[ProcessRow], proportional: impl Fn(u32) -> Option<u64>) -> Option<u64> {
    let resident = resident_bytes(tree);
    if resident <= limit {
        return None;
    }
    let page = page_bytes();
    let used = tree.iter().map(|row| proportional(row.id.pid).unwrap_or(row.resident_pages * page)).sum();
    (used > limit).then_some(used)
}

/// Sum of the resident sizes of a tree, in bytes.
pub(super) fn resident_bytes(tree: &[ProcessRow]) -> u64 {
    tree.iter().map(|row| row.resident_pages).sum::<u64>() * page_bytes()
}

/// A process's memory with each shared page divided among its sharers, in bytes.
pub(super) fn proportional_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::protocol::ProcessId;

    fn process(pid: u32, resident_pages: u64) -> ProcessRow {
        ProcessRow {
            id: ProcessId { pid, start_time: 1 },
            parent: 1,
            group: pid,
            resident_pages,
            cpu_ticks: 0,
            zombie: false,
        }
    }

    #[test]
    fn shared_pages_count_once() {
        let page = page_bytes();
        let tree = [process(2, 100), process(3, 100)];
        assert_eq!(beyond(200 * page, &tree, |_| unreachable!("not too large")), None);
        assert_eq!(beyond(150 * page, &tree, |_| Some(60 * page)), None);
        assert_eq!(beyond(150 * page, &tree, |_| Some(80 * page)), Some(160 * page));
        assert_eq!(beyond(150 * page, &tree, |_| None), Some(200 * page));
    }

    #[test]
    fn this_process_has_a_proportional_size() {
        assert!(proportional_bytes(std::process::id()).is_none_or(|bytes| bytes > 100_000));
    }

    #[test]
    fn measuring_slows_down_when_it_is_expensive_and_ends_with_the_last_limit() {
        let now = Instant::now();
        let mut watchdog = Watchdog::default();
        watchdog.wake(now);
        assert_eq!(watchdog.due(), Some(now + INTERVAL));
        watchdog.on_measured(now, Duration::from_millis(20), true);
        assert_eq!(watchdog.due(), Some(now + Duration::from_secs(1)));
        watchdog.on_measured(now, Duration::ZERO, false);
        assert_eq!(watchdog.due(), None);
    }
}
