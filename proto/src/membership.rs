//! Who is alive: SWIM (Das et al. 2002) by the `foca` crate, given its time, its dice and its packets.
//!
//! Constant load per node, suspicion before death, refutation by incarnation. Nothing here opens a
//! socket: packets are messages of the control stream. What a death means is decided elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{AccumulatingRuntime, Config, Foca, NoCustomBroadcast, OwnedNotification, PeriodicParams, State, Timer};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::codec::{decode_body, encode_body};
use crate::id::NodeId;
use crate::time::Timestamp;

/// One random member is probed this often, by every node.
pub const PROBE_EVERY: Duration = Duration::from_millis(1_000);
/// A direct probe waits this long before others are asked to probe as well.
pub const PROBE_RTT: Duration = Duration::from_millis(500);
/// A suspect has this long to refute. A silent host is declared dead within one round of probes, one
/// probe and this: p99 ≤ 6 s (DESIGN §13) leaves one second for the news to spread.
pub const SUSPECT_FOR: Duration = Duration::from_millis(3_000);
/// Dead members are called this often, to bring the sides of a healed partition together. foca's own
/// timer for it stops once everybody else is dead, which is just when it is needed.
const CALL_DOWN_EVERY: Duration = Duration::from_millis(2_000);
/// So many of them at a time, in turn.
const CALL_DOWN_MAX: usize = 4;
/// A dead identity is forgotten after this; it renews itself when it comes back, so this only bounds memory.
const FORGET_DOWN_AFTER: Duration = Duration::from_secs(3_600);

/// How a node is seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It did not answer a probe; it has some seconds to refute.
    Suspect,
    /// It did not.
    Down,
}

/// What changed, or what must be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Send this packet.
    Packet(NodeId, Vec<u8>),
    /// The node is alive.
    Up(NodeId),
    /// The node is dead.
    Down(NodeId),
}

/// A node in one of its lives: one that was declared dead comes back as a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Life {
    node: NodeId,
    life: u64,
}

/// The membership protocol of one node.
pub struct Membership {
    foca: Foca<Life, Bincode, StdRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Life>,
    timers: BTreeMap<(Timestamp, u64), Timer<Life>>,
    timers_made: u64,
    call_down_at: Timestamp,
    called_last: Option<NodeId>,
}

impl Membership {
    /// A node that knows nobody. `life` must be greater than in its earlier lives.
    #[must_use]
    pub fn new(me: NodeId, life: u64, seed: u64) -> Self {
        let identity = Life { node: me, life };
        let foca = Foca::new(identity, config(), StdRng::seed_from_u64(seed), Bincode);
        Self {
            foca,
            runtime: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            timers_made: 0,
            call_down_at: Timestamp::default(),
            called_last: None,
        }
    }

    /// A connection to `node` opened: say hello, whatever was believed of it before.
    pub fn announce(&mut self, now: Timestamp, node: NodeId) -> Vec<News> {
        // Announcing is addressed to a node, not to a life of it: foca compares `addr` alone.
        let _ = self.foca.announce(Life { node, life: 0 }, &mut self.runtime);
        self.drain(now)
    }

    /// A packet came in. Malformed ones are ignored: a peer's message is the world.
    pub fn on_packet(&mut self, now: Timestamp, packet: &[u8]) -> Vec<News> {
        let _ = self.foca.handle_data(packet, &mut self.runtime);
        self.drain(now)
    }

    /// Runs every timer that is due.
    pub fn on_tick(&mut self, now: Timestamp) -> Vec<News> {
        let mut news = Vec::new();
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let timer = entry.remove();
            let _ = self.foca.handle_timer(timer, &mut self.runtime);
            news.extend(self.drain(now));
        }
        if self.call_down_at <= now {
            self.call_down_at = now + CALL_DOWN_EVERY;
            for node in self.next_down() {
                news.extend(self.announce(now, node));
            }
        }
        news
    }

    /// The dead nodes whose turn it is to be called.
    fn next_down(&mut self) -> Vec<NodeId> {
        let mut down: Vec<NodeId> =
            self.nodes().filter(|&(_, liveness)| liveness == Liveness::Down).map(|(node, _)| node).collect();
        down.sort_unstable();
        let start = self.called_last.map_or(0, |last| down.partition_point(|&node| node <= last));
        let turn: Vec<NodeId> = down.iter().cycle().skip(start).take(down.len().min(CALL_DOWN_MAX)).copied().collect();
        self.called_last = turn.last().copied();
        turn
    }

    /// When [`Self::on_tick`] wants to be called next.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        let timer = self.timers.first_key_value().map(|(&(at, _), _)| at);
        let any_down = self.nodes().any(|(_, liveness)| liveness == Liveness::Down);
        timer.into_iter().chain(any_down.then_some(self.call_down_at)).min()
    }

    /// Says goodbye: others need not suspect first.
    pub fn leave(&mut self, now: Timestamp) -> Vec<News> {
        let _ = self.foca.leave_cluster(&mut self.runtime);
        self.drain(now)
    }

    /// Every other node that was ever heard of and not forgotten.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, Liveness)> + '_ {
        self.foca.iter_membership_state().map(|member| {
            let liveness = match member.state() {
                State::Alive => Liveness::Alive,
                State::Suspect => Liveness::Suspect,
                State::Down => Liveness::Down,
            };
            (member.id().node, liveness)
        })
    }

    fn drain(&mut self, now: Timestamp) -> Vec<News> {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers_made += 1;
            self.timers.insert((now + after, self.timers_made), timer);
        }
        let mut news = VecDeque::new();
        while let Some((to, packet)) = self.runtime.to_send() {
            news.push_back(News::Packet(to.node, packet.to_vec()));
        }
        while let Some(notification) = self.runtime.to_notify() {
            match notification {
                OwnedNotification::MemberUp(life) => news.push_back(News::Up(life.node)),
                // A newer life of the same node: it restarted before anyone noticed.
                OwnedNotification::Rename(_, life) => news.push_back(News::Up(life.node)),
                OwnedNotification::MemberDown(life) => news.push_back(News::Down(life.node)),
                _ => {}
            }
        }
        news.into()
    }
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership").field("nodes", &self.nodes().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

fn config() -> Config {
    let some = |count: usize| NonZeroUsize::new(count).expect("not zero");
    Config {
        probe_period: PROBE_EVERY,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: some(3),
        max_transmissions: NonZeroU8::new(10).expect("not zero"),
        suspect_to_down_after: SUSPECT_FOR,
        remove_down_after: Some(FORGET_DOWN_AFTER),
        max_packet_size: some(1_400),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams { frequency: Duration::from_secs(30), num_members: some(1) }),
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams { frequency: Duration::from_millis(500), num_members: some(3) }),
    }
}

impl foca::Identity for Life {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { life: self.life + 1, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life > adversary.life
    }
}

/// bincode over foca's buffers.
struct Bincode;

/// Nothing of the inside of bincode's errors is of use to anybody.
#[derive(Debug, thiserror::Error)]
#[error("malformed packet")]
struct Malformed;

impl Bincode {
    fn put(value: &impl Serialize, mut buffer: impl bytes::BufMut) -> Result<(), Malformed> {
        let bytes = encode_body(value);
        // foca fills a packet until an update no longer fits; that is how it learns.
        if buffer.remaining_mut() < bytes.len() + 1 {
            return Err(Malformed);
        }
        buffer.put_u8(u8::try_from(bytes.len()).map_err(|_| Malformed)?);
        buffer.put_slice(&bytes);
        Ok(())
    }

    fn take<T: serde::de::DeserializeOwned>(mut buffer: impl bytes::Buf) -> Result<T, Malformed> {
        if !buffer.has_remaining() {
            return Err(Malformed);
        }
        let len = usize::from(buffer.get_u8());
        if buffer.remaining() < len {
            return Err(Malformed);
        }
        decode_body(&buffer.copy_to_bytes(len)).map_err(|_| Malformed)
    }
}

impl foca::Codec<Life> for Bincode {
    type Error = Malformed;

    fn encode_header(&mut self, header: &foca::Header<Life>, buffer: impl bytes::BufMut) -> Result<(), Malformed> {
        Self::put(header, buffer)
    }

    fn decode_header(&mut self, buffer: impl bytes::Buf) -> Result<foca::Header<Life>, Malformed> {
        Self::take(buffer)
    }

    fn encode_member(&mut self, member: &foca::Member<Life>, buffer: impl bytes::BufMut) -> Result<(), Malformed> {
        Self::put(member, buffer)
    }

    fn decode_member(&mut self, buffer: impl bytes::Buf) -> Result<foca::Member<Life>, Malformed> {
        Self::take(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes, packets delivered at once, time in steps of 100 ms; `cut` drops everything.
    struct Pair {
        nodes: [(NodeId, Membership); 2],
        now: Timestamp,
        heard: Vec<(usize, News)>,
    }

    impl Pair {
        fn new() -> Self {
            let node = |n: u8| (NodeId([n; 32]), Membership::new(NodeId([n; 32]), 1, u64::from(n)));
            Self { nodes: [node(1), node(2)], now: Timestamp(0), heard: Vec::new() }
        }

        fn deliver(&mut self, at: usize, news: Vec<News>, cut: bool) {
            for item in news {
                match item {
                    News::Packet(_, packet) if !cut => {
                        let answer = self.nodes[1 - at].1.on_packet(self.now, &packet);
                        self.deliver(1 - at, answer, cut);
                    }
                    News::Packet(..) => {}
                    other => self.heard.push((at, other)),
                }
            }
        }

        fn run(&mut self, length: Duration, cut: bool) {
            let end = self.now + length;
            while self.now < end {
                self.now = self.now + Duration::from_millis(100);
                for at in 0..2 {
                    let news = self.nodes[at].1.on_tick(self.now);
                    self.deliver(at, news, cut);
                }
            }
        }
    }

    #[test]
    fn a_silent_node_is_declared_dead_in_time_and_comes_back() {
        let mut pair = Pair::new();
        let (one, two) = (pair.nodes[0].0, pair.nodes[1].0);
        let news = pair.nodes[0].1.announce(Timestamp(0), two);
        pair.deliver(0, news, false);
        pair.run(Duration::from_secs(5), false);
        assert!(pair.heard.contains(&(0, News::Up(two))) && pair.heard.contains(&(1, News::Up(one))));
        assert!(!pair.heard.contains(&(0, News::Down(two))));

        pair.heard.clear();
        pair.run(Duration::from_secs(6), true);
        assert!(pair.heard.contains(&(0, News::Down(two))), "{:?}", pair.heard);

        pair.heard.clear();
        pair.run(Duration::from_secs(8), false);
        assert!(pair.heard.contains(&(0, News::Up(two))), "{:?}", pair.heard);
        assert_eq!(pair.nodes[0].1.nodes().find(|(node, _)| *node == two), Some((two, Liveness::Alive)));
    }
}
