//! What running attempts use of the machine, every few seconds: processors, memory, leased graphics processors. Each
//! reading is a line in the attempt's track file, so it is kept, shown and sealed like the job's own metrics. Nothing is
//! read while nothing runs; `/proc` is read once for all attempts.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::exec::inventory::gpu::GpuUsage;
use crate::exec::process::{ProcessRow, ProcessTable, TICKS_PER_SECOND};
use crate::exec::protocol::ProcessId;

/// A job that is over by then has no readings; its largest memory is known all the same.
const FIRST: Duration = Duration::from_secs(2);
/// Reading `/proc` of a few hundred processes takes some milliseconds: a thousandth of a processor.
const EVERY: Duration = Duration::from_secs(5);

/// Reads one attempt.
#[derive(Debug)]
pub(super) struct Meter {
    /// Its main process; of a script that was started by hand, that.
    process: ProcessId,
    gpus: BTreeSet<String>,
    next: Instant,
    /// When it was read last, and the processor time until then; `None`: not known, it ran before.
    last: Option<(Instant, u64)>,
}

impl Meter {
    /// Of a process that has just started here (`is_new`), or one that ran before.
    pub(super) fn new(process: ProcessId, gpus: BTreeSet<String>, is_new: bool, now: Instant) -> Self {
        Self { process, gpus, next: now + FIRST, last: is_new.then_some((now, 0)) }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next <= now
    }

    /// Whether graphics processors must be asked.
    pub(super) fn has_gpus(&self) -> bool {
        !self.gpus.is_empty()
    }

    /// What it uses now, by the names of the series; none once its process is gone.
    pub(super) fn read(&mut self, now: Instant, table: &ProcessTable, gpus: &[GpuUsage]) -> Vec<(&'static str, f64)> {
        self.next = now + EVERY;
        let tree = self.tree(table);
        if tree.is_empty() {
            return Vec::new();
        }
        let ticks = tree.iter().map(|row| row.cpu_ticks).sum::<u64>();
        let pages = tree.iter().map(|row| row.resident_pages).sum::<u64>();
        let mut values = Vec::new();
        if let Some((at, before)) = self.last.replace((now, ticks)) {
            let seconds = now.duration_since(at).as_secs_f64();
            // A child that nobody waited for takes its time along.
            let used = ticks.saturating_sub(before) as f64 / TICKS_PER_SECOND as f64;
            values.push(("cpu", if seconds > 0.0 { (used / seconds * 1_000.0).round() / 1_000.0 } else { 0.0 }));
        }
        values.push(("memory_bytes", (pages * rustix::param::page_size() as u64) as f64));
        let leased: Vec<&GpuUsage> = gpus.iter().filter(|gpu| self.gpus.contains(&gpu.uuid)).collect();
        if !leased.is_empty() {
            let percents: Vec<f64> = leased.iter().filter_map(|gpu| gpu.percent.map(f64::from)).collect();
            if !percents.is_empty() {
                values.push(("gpu_percent", percents.iter().sum::<f64>() / percents.len() as f64));
            }
            values.push(("gpu_memory_bytes", leased.iter().map(|gpu| gpu.memory_bytes).sum::<u64>() as f64));
        }
        values
    }

    /// The process, its group and all their descendants.
    fn tree(&self, table: &ProcessTable) -> Vec<ProcessRow> {
        let all = table.all();
        if !all.iter().any(|row| row.id == self.process) {
            return Vec::new();
        }
        let of_group = all.iter().filter(|row| row.group == self.process.pid).map(|row| row.id.pid);
        table.below(&of_group.chain([self.process.pid]).collect())
    }
}

/// Adds readings to a track file, in one write as its other writers do.
pub(super) fn note(track: &Path, values: &[(&'static str, f64)], unix_ms: u64) -> io::Result<()> {
    let seconds = unix_ms as f64 / 1_000.0;
    let line = |(name, value): &(&str, f64)| format!("[\"u\",\"{name}\",{value},{seconds}]\n");
    let lines: String = values.iter().map(line).collect();
    OpenOptions::new().append(true).create(true).open(track)?.write_all(lines.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::Reader;

    #[test]
    fn a_tree_is_read_with_its_children_and_shares_no_reading() {
        let script = "i=0; sleep 60 & while :; do i=$((i+1)); done";
        let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
        let process = crate::exec::process::read_row(child.id()).unwrap().id;
        let start = Instant::now();
        let mut meter = Meter::new(process, BTreeSet::from(["GPU-1".to_owned()]), true, start);
        assert!(!meter.is_due(start) && meter.is_due(start + FIRST));
        // By the clock of processor time, so that a busy machine only takes longer.
        let busy = || crate::exec::process::read_row(process.pid).unwrap().cpu_ticks;
        while busy() < 20 {
            std::thread::yield_now();
        }
        let gpu = |uuid: &str, percent| GpuUsage { uuid: uuid.to_owned(), percent, memory_bytes: 7 };
        let gpus = [gpu("GPU-1", Some(50)), gpu("GPU-2", Some(90))];
        let now = start + Duration::from_secs(1);
        let values = meter.read(now, &ProcessTable::read().unwrap(), &gpus);
        let value = |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        assert!(value("cpu").is_some_and(|cpu| cpu >= 0.2), "{values:?}");
        assert!(value("memory_bytes").is_some_and(|bytes| bytes > 100_000.0), "{values:?}");
        assert_eq!((value("gpu_percent"), value("gpu_memory_bytes")), (Some(50.0), Some(7.0)));
        assert!(!meter.is_due(now) && meter.is_due(now + EVERY));
        let mut adopted = Meter::new(process, BTreeSet::new(), false, start);
        let first = adopted.read(now, &ProcessTable::read().unwrap(), &gpus);
        assert!(first.iter().map(|(name, _)| *name).eq(["memory_bytes"]), "it ran before: {first:?}");
        for row in meter.tree(&ProcessTable::read().unwrap()) {
            crate::exec::process::signal(row.id, rustix::process::Signal::KILL);
        }
        child.wait().unwrap();
        assert_eq!(meter.read(now, &ProcessTable::read().unwrap(), &gpus), []);
    }

    #[test]
    fn readings_are_lines_that_are_no_news() {
        let dir = tempfile::tempdir().unwrap();
        let track = dir.path().join("track");
        note(&track, &[("cpu", 1.5), ("memory_bytes", 4096.0)], 1_700_000_000_500).unwrap();
        let mut reader = Reader::new(&track, &dir.path().join("points"));
        assert!(reader.read().unwrap() && !reader.take_news());
        let summary = reader.summary();
        assert_eq!((summary.metrics["system/cpu"].count, summary.left_out), (1, 0));
        assert_eq!(summary.metrics["system/memory_bytes"].at_unix_ms, 1_700_000_000_500);
    }
}
