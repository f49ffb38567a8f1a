//! The runner's children that it did not start: processes whose parent died inside a job and that became the
//! runner's because it is a child subreaper. Finds out whose they are; `attempts.rs` decides what to do.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use proto::AttemptId;

use super::log::note;
use crate::exec::process::{ProcessTable, marker_of, read_row};

/// Orphans by number. The numbers stay theirs until the runner waits for them, so nothing else is needed to
/// tell them from later processes.
pub(super) struct Orphans {
    /// `None`: nobody's; it is left alone.
    owners: BTreeMap<u32, Option<AttemptId>>,
    /// `/proc/self/task/ID/children`; `None` on kernels without it, where all of `/proc` is read instead.
    children: Option<File>,
    text: Vec<u8>,
}

impl Orphans {
    /// None so far.
    pub(super) fn new() -> Self {
        let id = std::process::id();
        // Orphans go to the first living thread, which is the main one: the runner's loop runs there.
        let children = File::open(format!("/proc/self/task/{id}/children")).ok();
        Self { owners: BTreeMap::new(), children, text: Vec::new() }
    }

    /// The orphans of one attempt.
    pub(super) fn of(&self, attempt: AttemptId) -> impl Iterator<Item = u32> + '_ {
        self.owners.iter().filter(move |(_, owner)| **owner == Some(attempt)).map(|(&pid, _)| pid)
    }

    /// `pid` is a child that the runner started for itself.
    pub(super) fn ignore(&mut self, pid: u32) {
        self.owners.insert(pid, None);
    }

    /// One of them, or another child, was waited for.
    pub(super) fn on_reaped(&mut self, pid: u32) {
        self.owners.remove(&pid);
    }

    /// Looks for new ones. `is_main`: whether the runner started this child itself; `live`: attempts with the
    /// process groups they lead.
    pub(super) fn find(&mut self, is_main: impl Fn(u32) -> bool, live: impl Iterator<Item = (AttemptId, u32)> + Clone) {
        for pid in self.children() {
            if is_main(pid) || self.owners.contains_key(&pid) {
                continue;
            }
            let Ok(row) = read_row(pid) else { continue };
            // A dead one has no environment to read any more, and is waited for in this very turn.
            if row.zombie {
                continue;
            }
            let by_group = live.clone().find(|&(_, group)| group == row.group);
            let owner = by_group.or_else(|| {
                let marker = marker_of(pid)?;
                live.clone().find(|(id, _)| id.to_string() == marker)
            });
            if owner.is_none() {
                note(format_args!("process {pid} was left by nobody known and is left alone"));
            }
            self.owners.insert(pid, owner.map(|(id, _)| id));
        }
    }

    fn children(&mut self) -> Vec<u32> {
        let Some(file) = &self.children else { return children_from_table() };
        let mut len = 0;
        loop {
            self.text.resize(len + 4096, 0);
            match file.read_at(&mut self.text[len..], len as u64) {
                Ok(0) | Err(_) => break,
                Ok(more) => len += more,
            }
        }
        let text = std::str::from_utf8(&self.text[..len]).unwrap_or_default();
        text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }
}

fn children_from_table() -> Vec<u32> {
    let own = std::process::id();
    ProcessTable::read().map(|table| table.children_of(own)).unwrap_or_default()
}
