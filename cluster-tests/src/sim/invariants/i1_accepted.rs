//! I1: an accepted job is never absent from every holder that was counted.
//!
//! Source: DESIGN §2.1 and §14. Stricter here: it is on the disk of *each* counted holder, with its bundle,
//! from the moment of the answer until that holder's disk is lost.
//! Planted bug: `early-hold` vouches for an entry that is not on disk yet.

use std::collections::{BTreeMap, BTreeSet};

use proto::record::{Record, RecordKey};
use proto::{ContentId, GroupId};

use super::super::host::Host;
use super::Violation;

/// What users were promised.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    held: BTreeMap<GroupId, (BTreeSet<usize>, Option<ContentId>)>,
}

impl Accepted {
    /// A user was told that `group` is held.
    pub(crate) fn on_accepted(
        &mut self,
        group: GroupId,
        holders: Vec<usize>,
        manifest: Option<ContentId>,
        hosts: &[Host],
    ) -> Result<(), Violation> {
        let mut counted: BTreeSet<usize> = holders.into_iter().collect();
        // A holder whose disk was lost between its word and the answer vouched for what it then had.
        counted.retain(|&holder| !hosts[holder].lost_disk || is_held(&hosts[holder], group, manifest));
        self.held.insert(group, (counted, manifest));
        self.check_group(group, hosts)
    }

    pub(crate) fn on_disk_lost(&mut self, host: usize) {
        for (holders, _) in self.held.values_mut() {
            holders.remove(&host);
        }
    }

    /// After crashes, and at the end: disks only grow otherwise.
    pub(crate) fn check(&self, hosts: &[Host]) -> Result<(), Violation> {
        self.held.keys().try_for_each(|&group| self.check_group(group, hosts))
    }

    fn check_group(&self, group: GroupId, hosts: &[Host]) -> Result<(), Violation> {
        let (holders, manifest) = &self.held[&group];
        match holders.iter().find(|&&holder| !is_held(&hosts[holder], group, *manifest)) {
            None => Ok(()),
            Some(holder) => {
                Err(Violation::new("I1", format!("group {group} was accepted, and counted holder {holder} lacks it")))
            }
        }
    }
}

fn is_held(host: &Host, group: GroupId, manifest: Option<ContentId>) -> bool {
    let entry = matches!(
        host.disk.records.get(&RecordKey::Group(group)),
        Some(Record::Group(record)) if record.submitted.is_some()
    );
    entry && manifest.is_none_or(|manifest| host.disk.bundles.contains(&manifest))
}
