//! The address book: where peers are, and when each is dialled next.
//!
//! Pure: the control actor tells what happened and when, and dials what is due. Wanted peers are tried for
//! ever, with growing pauses; peers that mDNS found are tried too, but seldom once they hold another secret:
//! the LAN may have clusters of other people.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use proto::NodeId;

use super::transport::Obstacle;

/// Pause after the first failed dial; each further one doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause: a node that returns is found within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Pause for a peer that mDNS found and that is none of ours.
const FOREIGN_PAUSE: Duration = Duration::from_secs(600);
/// Addresses kept per peer, the earliest learnt first out.
const ADDRS_MAX: usize = 16;
/// Peers known only from mDNS: anyone on the LAN can invent them.
const DISCOVERED_MAX: usize = 256;

/// All known peers.
#[derive(Debug, Default)]
pub(super) struct Book {
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    addrs: Vec<Multiaddr>,
    /// Where it was reached last.
    last_good: Option<Multiaddr>,
    /// The application wants a connection.
    wanted: bool,
    /// mDNS found it.
    discovered: bool,
    up: bool,
    /// Connections of any state; while there is one, nothing is dialled.
    connections: u32,
    dial: Dial,
    failures: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Dial {
    #[default]
    Idle,
    Running,
    At(Instant),
}

impl Book {
    /// Adds addresses of `node`; a new one is tried at once.
    pub(super) fn learn(&mut self, node: NodeId, addrs: impl IntoIterator<Item = Multiaddr>, now: Instant) {
        let peer = self.peers.entry(node).or_default();
        if peer.learn(addrs) {
            peer.failures = 0;
            peer.plan(now);
        }
    }

    /// mDNS found `node` at `addrs`.
    pub(super) fn discover(&mut self, node: NodeId, addrs: impl IntoIterator<Item = Multiaddr>, now: Instant) {
        let known = self.peers.contains_key(&node);
        if !known && self.peers.values().filter(|peer| peer.discovered && !peer.wanted).count() >= DISCOVERED_MAX {
            return;
        }
        let peer = self.peers.entry(node).or_default();
        peer.discovered = true;
        let is_new = peer.learn(addrs);
        // A stranger's new address does not make it less of a stranger.
        if is_new && (peer.wanted || peer.dial == Dial::Idle) {
            peer.plan(now);
        }
    }

    /// From now on `wanted` are the peers to be connected to.
    pub(super) fn keep(&mut self, wanted: &BTreeSet<NodeId>, now: Instant) {
        for (node, peer) in &mut self.peers {
            peer.wanted = wanted.contains(node);
            if !peer.wanted && !peer.discovered && peer.dial != Dial::Running {
                peer.dial = Dial::Idle;
            }
        }
        for &node in wanted {
            let peer = self.peers.entry(node).or_default();
            peer.wanted = true;
            if peer.dial == Dial::Idle {
                peer.plan(now);
            }
        }
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.peers.remove(&node);
    }

    /// Whether the application wants a connection to `node`.
    pub(super) fn is_wanted(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.wanted)
    }

    /// Whether frames for `node` have a chance to be sent soon.
    pub(super) fn is_reachable_soon(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.connections > 0 || peer.dial == Dial::Running)
    }

    pub(super) fn last_good(&self, node: NodeId) -> Option<&Multiaddr> {
        self.peers.get(&node)?.last_good.as_ref()
    }

    /// Whom to dial now, and where. The first try after a connection goes only to where the peer was: its
    /// refusal tells at once that the host lives and the daemon does not.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(NodeId, Vec<Multiaddr>)> {
        let mut due = Vec::new();
        for (&node, peer) in &mut self.peers {
            if !matches!(peer.dial, Dial::At(at) if at <= now) {
                continue;
            }
            let addrs = peer.candidates();
            peer.dial = if addrs.is_empty() { Dial::Idle } else { Dial::Running };
            if !addrs.is_empty() {
                due.push((node, addrs));
            }
        }
        due
    }

    /// When [`Book::take_due`] gives something next.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let at = |peer: &Peer| if let Dial::At(at) = peer.dial { Some(at) } else { None };
        self.peers.values().filter_map(at).min()
    }

    pub(super) fn on_connection(&mut self, node: NodeId) {
        self.peers.entry(node).or_default().connections += 1;
    }

    /// `remaining` connections to `node` are left. Without one, a dial that led to this one counts as failed.
    pub(super) fn on_connection_closed(&mut self, node: NodeId, remaining: u32, now: Instant, jitter: f64) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        peer.connections = remaining;
        if remaining > 0 || peer.up {
            return;
        }
        if peer.dial == Dial::Running {
            peer.fail(None, now, jitter);
        } else if peer.wanted && peer.dial == Dial::Idle {
            peer.plan(now);
        }
        self.prune(node);
    }

    /// Frames can be exchanged; the peer was reached, or can be, at `addr`.
    pub(super) fn on_up(&mut self, node: NodeId, addr: Option<Multiaddr>) {
        let peer = self.peers.entry(node).or_default();
        peer.up = true;
        peer.failures = 0;
        peer.dial = Dial::Idle;
        if let Some(addr) = addr {
            peer.learn([addr.clone()]);
            peer.last_good = Some(addr);
        }
    }

    /// Frames can no longer be exchanged: a wanted peer is dialled at once.
    pub(super) fn on_down(&mut self, node: NodeId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.up = false;
            if peer.wanted || peer.discovered {
                peer.plan(now);
            }
        }
    }

    /// A dial failed. `jitter` is drawn from 0 to 1.
    pub(super) fn on_dial_failed(&mut self, node: NodeId, obstacle: Obstacle, now: Instant, jitter: f64) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.fail(Some(obstacle), now, jitter);
            self.prune(node);
        }
    }

    /// Drops what nobody will ask for again.
    fn prune(&mut self, node: NodeId) {
        let idle = |peer: &Peer| !peer.wanted && peer.connections == 0 && peer.dial == Dial::Idle;
        if self.peers.get(&node).is_some_and(|peer| idle(peer) && peer.addrs.is_empty()) {
            self.peers.remove(&node);
        }
    }
}

impl Peer {
    fn learn(&mut self, addrs: impl IntoIterator<Item = Multiaddr>) -> bool {
        let mut is_new = false;
        for addr in addrs {
            if self.addrs.contains(&addr) {
                continue;
            }
            if self.addrs.len() >= ADDRS_MAX {
                self.addrs.remove(0);
            }
            self.addrs.push(addr);
            is_new = true;
        }
        is_new
    }

    fn plan(&mut self, now: Instant) {
        let wished = self.wanted || self.discovered;
        if !self.up && self.connections == 0 && self.dial != Dial::Running && wished {
            self.dial = Dial::At(now);
        }
    }

    fn fail(&mut self, obstacle: Option<Obstacle>, now: Instant, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        let foreign = matches!(
            obstacle,
            Some(Obstacle::WrongSecret | Obstacle::NotFnode | Obstacle::NotAdmitted | Obstacle::BadAddress)
        );
        self.dial = match (self.up, self.wanted, self.discovered) {
            (true, _, _) | (_, false, false) => Dial::Idle,
            (false, false, true) if foreign => Dial::At(now + FOREIGN_PAUSE),
            // Without a connection so far, so that a lasting obstacle is met more and more rarely.
            (false, _, _) => Dial::At(now + backoff(self.failures, jitter)),
        };
    }

    fn candidates(&self) -> Vec<Multiaddr> {
        match &self.last_good {
            Some(last_good) if self.failures == 0 => vec![last_good.clone()],
            Some(last_good) => {
                let others = self.addrs.iter().filter(|addr| *addr != last_good);
                std::iter::once(last_good).chain(others).cloned().collect()
            }
            None => self.addrs.clone(),
        }
    }
}

/// Doubles from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], then takes between half and all of it: nodes that lost the
/// same peer do not come back in step.
fn backoff(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    (BACKOFF_MIN * (1 << doublings)).min(BACKOFF_MAX).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([1; 32]);

    fn addr(last: u8) -> Multiaddr {
        format!("/ip4/192.0.2.{last}/tcp/4747").parse().unwrap()
    }

    fn wanted(now: Instant) -> Book {
        let mut book = Book::default();
        book.learn(NODE, [addr(1), addr(2)], now);
        book.keep(&BTreeSet::from([NODE]), now);
        book
    }

    #[test]
    fn a_wanted_peer_is_dialled_at_once_then_with_growing_pauses() {
        let mut now = Instant::now();
        let mut book = wanted(now);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert_eq!(book.take_due(now), [(NODE, vec![addr(1), addr(2)])]);
            assert_eq!(book.take_due(now), [], "one dial at a time");
            book.on_dial_failed(NODE, Obstacle::Refused, now, 1.0);
            let next = book.next_at().unwrap();
            pauses.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!(backoff(1, 0.0), Duration::from_millis(50));
        assert_eq!(backoff(u32::MAX, 0.5), Duration::from_millis(7_500));
    }

    #[test]
    fn after_a_connection_the_first_try_goes_where_the_peer_was() {
        let now = Instant::now();
        let mut book = wanted(now);
        book.take_due(now);
        book.on_connection(NODE);
        book.on_up(NODE, Some(addr(2)));
        assert_eq!(book.next_at(), None);
        book.on_down(NODE, now);
        book.on_connection_closed(NODE, 0, now, 1.0);
        assert_eq!(book.take_due(now), [(NODE, vec![addr(2)])]);
        book.on_dial_failed(NODE, Obstacle::Refused, now, 1.0);
        let next = book.next_at().unwrap();
        assert_eq!(book.take_due(next), [(NODE, vec![addr(2), addr(1)])]);
    }

    #[test]
    fn a_connection_without_a_hello_counts_as_a_failed_dial() {
        let now = Instant::now();
        let mut book = wanted(now);
        book.take_due(now);
        book.on_connection(NODE);
        book.on_connection_closed(NODE, 0, now, 1.0);
        assert_eq!(book.next_at(), Some(now + BACKOFF_MIN));
    }

    #[test]
    fn a_failed_dial_to_a_peer_that_came_in_meanwhile_changes_nothing() {
        let now = Instant::now();
        let mut book = wanted(now);
        book.take_due(now);
        book.on_connection(NODE);
        book.on_up(NODE, Some(addr(1)));
        book.on_dial_failed(NODE, Obstacle::Silent, now, 1.0);
        assert_eq!(book.next_at(), None);
    }

    #[test]
    fn unwanted_peers_are_left_alone_until_wanted_or_newly_learnt() {
        let now = Instant::now();
        let mut book = Book::default();
        book.learn(NODE, [addr(1)], now);
        assert_eq!(book.next_at(), None);
        book.keep(&BTreeSet::from([NODE]), now);
        assert_eq!(book.next_at(), Some(now));
        book.keep(&BTreeSet::new(), now);
        assert_eq!(book.next_at(), None);
        book.keep(&BTreeSet::from([NODE]), now);
        book.take_due(now);
        book.on_dial_failed(NODE, Obstacle::Silent, now, 1.0);
        book.learn(NODE, [addr(1)], now);
        assert_ne!(book.next_at(), Some(now), "nothing new");
        book.learn(NODE, [addr(3)], now);
        assert_eq!(book.next_at(), Some(now));
    }

    #[test]
    fn foreign_nodes_on_the_lan_are_not_hammered() {
        let now = Instant::now();
        let mut book = Book::default();
        book.discover(NODE, [addr(1)], now);
        assert_eq!(book.take_due(now).len(), 1);
        book.on_dial_failed(NODE, Obstacle::WrongSecret, now, 1.0);
        assert_eq!(book.next_at(), Some(now + FOREIGN_PAUSE));
        book.discover(NODE, [addr(2)], now);
        assert_eq!(book.next_at(), Some(now + FOREIGN_PAUSE));
        for number in 0..=255 {
            book.discover(NodeId([number; 32]), [addr(1)], now);
        }
        let mut one_more = NODE;
        one_more.0[0] = 0;
        book.discover(one_more, [addr(1)], now);
        assert_eq!(book.peers.len(), DISCOVERED_MAX);
    }

    #[test]
    fn addresses_per_peer_are_bounded() {
        let now = Instant::now();
        let mut book = wanted(now);
        book.learn(NODE, (0..100).map(addr), now);
        assert_eq!(book.take_due(now)[0].1.len(), ADDRS_MAX);
    }
}
