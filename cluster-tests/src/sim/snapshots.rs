//! The simulated shell of snapshots: making one takes a moment, getting one needs a provider that can be reached.

use proto::NodeId;
use proto::core_io::Input;
use proto::snapshot::{SignedSnapshot, SnapshotInput, SnapshotOrder};
use rand::RngExt as _;

use super::invariants::Violation;
use super::world::{Happening, World};

impl World {
    pub(crate) fn begin_snapshot_order(&mut self, host: usize, order: SnapshotOrder) {
        let life = self.hosts[host].life;
        let most_us = match order {
            SnapshotOrder::Compact { .. } => 1_000,
            SnapshotOrder::Make | SnapshotOrder::Keep(_) => 80_000,
            // Long enough for its providers to go meanwhile.
            SnapshotOrder::Fetch { .. } => 3_000_000,
        };
        let after = self.rng.random_range(100..most_us);
        self.after(after, Happening::Snapshot { host, life, order });
    }

    pub(crate) fn on_snapshot_order(&mut self, host: usize, life: u64, order: SnapshotOrder) -> Result<(), Violation> {
        if self.hosts[host].life != life || self.hosts[host].daemon.is_none() {
            return Ok(());
        }
        let disk = &mut self.hosts[host].disk;
        let input = match order {
            SnapshotOrder::Make => SnapshotInput::Made(Some(disk.make_snapshot())),
            SnapshotOrder::Keep(signed) => {
                let id = signed.name.id;
                let kept = disk.keep_snapshot(*signed);
                kept.map_or(SnapshotInput::Failed(id), |kept| SnapshotInput::Installed(Box::new(kept)))
            }
            SnapshotOrder::Fetch { signed, providers } => self.fetch_snapshot(host, *signed, &providers),
            SnapshotOrder::Compact { before_unix_ms } => {
                if disk.compact(before_unix_ms) > 0 {
                    self.coverage.count("entries removed");
                }
                SnapshotInput::Compacted(self.hosts[host].disk.floors())
            }
        };
        self.checks.merge.on_durable(host, &self.hosts[host].disk)?;
        self.step(host, Input::Snapshot(input))
    }

    fn fetch_snapshot(&mut self, host: usize, signed: SignedSnapshot, providers: &[NodeId]) -> SnapshotInput {
        let id = signed.name.id;
        let reach = |at: usize| self.network.is_open(host, at) && self.hosts[at].daemon.is_some();
        let mut found = providers.iter().map(|node| self.index[node]).filter(|&at| reach(at));
        let bytes = found.find_map(|at| self.hosts[at].disk.snapshot(id));
        let installed = bytes.and_then(|bytes| self.hosts[host].disk.install(signed, bytes).ok());
        self.tell(|| format!("{host}: snapshot {}: {}", id.short(), installed.is_some()));
        self.coverage.count(if installed.is_some() { "snapshot fetched" } else { "snapshot that could not be had" });
        installed.map_or(SnapshotInput::Failed(id), |installed| SnapshotInput::Installed(Box::new(installed)))
    }
}
