//! I7: no entry is accepted with a broken chain or signature.
//!
//! Source: DESIGN §2.4, §7 and §14. The simulator saw every entry being written, so it needs no cryptography
//! to tell which are genuine: whatever reaches a disk must be one of those, after the one it names. A snapshot is no entry: that its state is
//! that of the entries it stands for is checked by I4.
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
        let before = disk.hash_at(position.log, position.seq - 1);
        if !self.written.contains(&entry.hash()) {
            return Err(Violation::new("I7", format!("host {host} took an entry that its author never wrote")));
        }
        if disk.hash_at(position.log, position.seq) != Some(entry.hash()) || Some(entry.prev()) != before {
            return Err(Violation::new("I7", format!("host {host} took an entry out of its chain")));
        }
        Ok(())
    }
}
