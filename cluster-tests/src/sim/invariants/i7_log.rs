//! I7: no entry is accepted with a broken chain or signature.
//!
//! Source: DESIGN §2.4, §7 and §14. The simulator saw every entry being written, so it needs no cryptography
//! to tell which are genuine: whatever reaches a disk must be one of those, after the one it names.
//! Planted bugs: `unsigned-entries`, `broken-chain`.

use std::collections::BTreeSet;

use proto::ContentId;
use proto::entry::VerifiedEntry;

use super::super::disk::Disk;
use super::Violation;

/// Every entry that its author wrote.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    written: BTreeSet<ContentId>,
}

impl Logs {
    pub(crate) fn on_written(&mut self, entry: &VerifiedEntry) {
        self.written.insert(entry.hash());
    }

    pub(crate) fn on_durable(&self, host: usize, entry: &VerifiedEntry, disk: &Disk) -> Result<(), Violation> {
        let position = entry.position();
        let at = usize::try_from(position.seq).expect("short logs");
        let log = &disk.logs()[&position.log];
        let before = at.checked_sub(2).and_then(|at| log.get(at)).map_or(ContentId([0; 32]), VerifiedEntry::hash);
        if !self.written.contains(&entry.hash()) {
            return Err(Violation::new("I7", format!("host {host} took an entry that its author never wrote")));
        }
        if log.get(at - 1).map(VerifiedEntry::hash) != Some(entry.hash()) || entry.prev() != before {
            return Err(Violation::new("I7", format!("host {host} took an entry out of its chain")));
        }
        Ok(())
    }
}
