//! Addresses of peers that were met, so that a restarted node finds its cluster again by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proto::NodeId;
use proto::message::ADDRESSED_MAX;

use crate::net::Multiaddr;

/// Most addresses kept of one peer: the latest ones.
const ADDRS_MAX: usize = 8;

/// Who was met where.
pub(super) struct Peers {
    path: PathBuf,
    known: BTreeMap<NodeId, BTreeSet<Multiaddr>>,
    changed: bool,
}

impl Peers {
    /// What the file at `path` remembers; a damaged one is like none: peers are found again.
    pub(super) fn load(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let stored: BTreeMap<String, Vec<String>> = serde_json::from_str(&text).unwrap_or_default();
        let known = stored.into_iter().filter_map(|(node, addrs)| {
            let addrs = addrs.iter().filter_map(|addr| addr.parse().ok()).take(ADDRS_MAX).collect();
            Some((node.parse().ok()?, addrs))
        });
        Self { path, known: known.collect(), changed: false }
    }

    pub(super) fn known(&self) -> &BTreeMap<NodeId, BTreeSet<Multiaddr>> {
        &self.known
    }

    /// `node` says that it listens there; whether that is news.
    pub(super) fn met(&mut self, node: NodeId, addrs: &[String]) -> bool {
        let addrs: BTreeSet<Multiaddr> = addrs.iter().filter_map(|addr| addr.parse().ok()).take(ADDRS_MAX).collect();
        let news = !addrs.is_empty() && self.known.get(&node) != Some(&addrs);
        if news {
            self.known.insert(node, addrs);
            self.changed = true;
        }
        news
    }

    /// Everything known, as it is told to others.
    pub(super) fn told(&self) -> Vec<(NodeId, Vec<String>)> {
        let told = self.known.iter().map(|(&node, addrs)| (node, addrs.iter().map(ToString::to_string).collect()));
        told.take(ADDRESSED_MAX).collect()
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.changed |= self.known.remove(&node).is_some();
    }

    /// Writes what changed. A failure is traced: the file only saves time.
    pub(super) fn save(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let stored: BTreeMap<String, Vec<String>> = self
            .known
            .iter()
            .map(|(node, addrs)| (node.to_string(), addrs.iter().map(ToString::to_string).collect()))
            .collect();
        let written = serde_json::to_vec_pretty(&stored).map_err(std::io::Error::other);
        let written = written.and_then(|bytes| super::cluster::write_private(&self.path, &bytes));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "cannot remember peers");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check};

    #[test]
    fn golden_peers_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.json");
        let mut peers = Peers::load(path.clone());
        assert!(peers.met(NodeId([8; 32]), &["/ip4/192.0.2.7/tcp/4747".to_owned(), "nowhere".to_owned()]));
        peers.save();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(Peers::load(path.clone()).known(), peers.known());
        check("node.Peers", &[Sample::text("peers.json", peers.known(), &text)]);
        attack_loosely("peers.json", text.as_bytes(), 20, |bytes| {
            std::fs::write(&path, bytes).unwrap();
            !Peers::load(path.clone()).known().is_empty()
        });
    }
}
