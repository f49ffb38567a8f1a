//! I4: equal sets of entries give equal state digests.
//!
//! Source: DESIGN §7 and §14. Whenever a batch is durable anywhere, the pair (version vector, state) is
//! compared with every pair seen before in the run: whatever order entries came in, wherever.
//! So is whatever a snapshot gave: it stands for the entries that it covers.
//! Planted bugs: `last-arrival-wins`, `forget-tombstones`.

use std::collections::BTreeMap;

use proto::ContentId;

use super::super::disk::Disk;
use super::super::host::Host;
use super::Violation;

/// Every state that some set of entries gave.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    states: BTreeMap<ContentId, (usize, u128)>,
}

impl Merge {
    pub(crate) fn on_durable(&mut self, host: usize, disk: &Disk) -> Result<(), Violation> {
        let state = disk.state();
        let (first, known) = *self.states.entry(disk.vector().digest()).or_insert((host, state));
        if known == state {
            return Ok(());
        }
        Err(Violation::new("I4", format!("hosts {first} and {host} have the same entries and different records")))
    }

    /// At the end everybody has everything.
    pub(crate) fn check_agreement(&self, hosts: &[Host]) -> Result<(), Violation> {
        let mut alive = hosts.iter().enumerate().filter(|(_, host)| !host.gone);
        let Some((first, one)) = alive.next() else { return Ok(()) };
        for (at, other) in alive {
            if one.disk.vector() != other.disk.vector() || one.disk.state() != other.disk.state() {
                return Err(Violation::new("I4", format!("hosts {first} and {at} do not agree at the end")));
            }
        }
        Ok(())
    }
}
