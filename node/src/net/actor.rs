//! The control actor: owns the control swarm, on a thread of its own.
//!
//! Inputs: commands of `NetHandle`s, what the swarm tells, the clock. Outputs: `NetEvent`s over a bounded
//! channel, replies to dials, addresses for the bulk actor. It ends on `shutdown` or when the last handle is
//! gone; pending dials are then answered. It never waits anywhere but in its loop, and decides nothing about
//! members or jobs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::futures::StreamExt as _;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError as SwarmDialError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, connection_limits, mdns};
use proto::codec;
use proto::{ClusterId, NodeId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Sleep, sleep_until};

use super::addrs;
use super::book::Book;
use super::bulk::BulkCommand;
use super::control::{Control, ControlEvent};
use super::events::EventSender;
use super::gate::Gate;
use super::handle::{DialError, NetCommand, NetEvent, Shared};
use super::hello::{ADDRS_MAX, Hello};
use super::identity::{node_id_of, peer_id_of};
use super::transport::{Obstacle, obstacle};

/// Dials that await their answer; they are asked for by people.
const PENDING_DIALS_MAX: usize = 64;
/// Past the dial's and the hello's own timeouts: no reply waits longer.
const DIAL_ANSWER_MAX: Duration = Duration::from_secs(12);
/// How long a shutdown lets what is queued go out, and connections close in order.
const DRAIN_MAX: Duration = Duration::from_millis(250);
/// How often a draining actor looks whether everything is out.
const DRAIN_LOOK: Duration = Duration::from_millis(2);

/// Polled in this order: limits first, so that what they deny reaches no one else.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    control: Control,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// See the file's header.
pub(super) struct Actor {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) listeners: Vec<ListenerId>,
    pub(super) gate: Gate,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Receiver<NetCommand>,
    pub(super) events: EventSender,
    pub(super) bulk: mpsc::Sender<BulkCommand>,
    pub(super) hello: Hello,
    pub(super) book: Book,
    /// Events that the reader has no room for. While there are any, the network is not read, and the peers'
    /// TCP windows close: backpressure instead of memory. Only commands and timers add to it then, a few each.
    pub(super) outbox: VecDeque<NetEvent>,
    pub(super) dials: HashMap<ConnectionId, PendingDial>,
    /// When something is due next; computed anew when `stale`.
    pub(super) wake: Wake,
}

/// A dial that someone waits for.
pub(super) struct PendingDial {
    addr: Multiaddr,
    /// Known once the connection stands; the hello is awaited then.
    node: Option<NodeId>,
    deadline: Instant,
    reply: oneshot::Sender<Result<NodeId, DialError>>,
}

/// The actor's one timer.
pub(super) struct Wake {
    at: Option<Instant>,
    sleep: std::pin::Pin<Box<Sleep>>,
    stale: bool,
}

impl Behaviour {
    pub(super) fn new(
        control: Control,
        limits: connection_limits::Behaviour,
        mdns: Option<mdns::tokio::Behaviour>,
    ) -> Self {
        Self { limits, control, mdns: mdns.into() }
    }
}

impl Wake {
    pub(super) fn new() -> Self {
        Self { at: None, sleep: Box::pin(sleep_until(tokio::time::Instant::now())), stale: true }
    }

    fn set(&mut self, at: Option<Instant>) {
        self.stale = false;
        if let Some(at) = at.filter(|_| self.at != at) {
            self.sleep.as_mut().reset(at.into());
        }
        self.at = at;
    }
}

impl Actor {
    /// Runs until the end; returns who wants to know that everything is closed.
    pub(super) async fn run(mut self) -> Option<oneshot::Sender<()>> {
        let events = self.events.clone();
        loop {
            if self.wake.stale {
                let next_answer = self.dials.values().map(|dial| dial.deadline).min();
                self.wake.set(self.book.next_at().into_iter().chain(next_answer).min());
            }
            tokio::select! {
                biased; // our own commands first: no remote can starve them
                command = self.commands.recv() => match command {
                    Some(NetCommand::Shutdown { done }) => {
                        self.drain().await;
                        return Some(done);
                    }
                    Some(command) => self.on_command(command),
                    // Every handle is gone: the node is closing.
                    None => return None,
                },
                // The reader has room again; the loop itself never waits for a slow one.
                () = events.room(), if !self.outbox.is_empty() => self.deliver_queued(),
                () = self.wake.sleep.as_mut(), if self.wake.at.is_some() => self.on_time(),
                // A reader that lags stops the reading of the network.
                event = self.swarm.select_next_some(), if self.outbox.is_empty() => self.on_swarm_event(event),
            }
        }
    }

    fn on_command(&mut self, command: NetCommand) {
        self.wake.stale = true;
        let now = Instant::now();
        match command {
            NetCommand::Learn { node, addrs } => {
                let addrs: Vec<_> = addrs.iter().filter_map(|addr| addrs::split_for(addr, node)).collect();
                if node != self.shared.local {
                    self.book.learn(node, addrs, now);
                }
            }
            NetCommand::Keep(mut nodes) => {
                nodes.remove(&self.shared.local);
                nodes.retain(|&node| !self.gate.is_shut_out(node));
                self.book.keep(&nodes, now);
            }
            NetCommand::Dial { addr, reply } => self.on_dial_wish(addr, reply),
            NetCommand::Forget(node) => {
                self.gate.shut_out(node);
                self.drop_node(node);
            }
            NetCommand::SetGate { cluster, rules } => {
                let gone: Vec<NodeId> = rules.shut_out.iter().copied().collect();
                self.gate.set_rules(rules);
                self.hello.cluster = cluster;
                self.refresh_hello();
                gone.into_iter().for_each(|node| self.drop_node(node));
            }
            NetCommand::Shutdown { .. } => {}
        }
        self.dial_due();
    }

    /// Ends everything with a node that is shut out.
    fn drop_node(&mut self, node: NodeId) {
        self.book.forget(node);
        // An error means that there is no connection.
        let _ = self.swarm.disconnect_peer_id(peer_id_of(node));
        self.tell_bulk(BulkCommand::Forget(node));
        if !self.swarm.is_connected(&peer_id_of(node)) {
            self.shared.outboxes.close(node);
        }
    }

    fn on_dial_wish(&mut self, addr: Multiaddr, reply: oneshot::Sender<Result<NodeId, DialError>>) {
        let answer = |reply: oneshot::Sender<_>, result| {
            // The asker may have gone; its wish was still granted.
            let _ = reply.send(result);
        };
        let Some((place, peer)) = addrs::split(&addr) else {
            return answer(reply, Err(DialError::BadAddress(addr)));
        };
        if peer == Some(peer_id_of(self.shared.local)) {
            return answer(reply, Err(DialError::Myself(addr)));
        }
        if let Some(node) = peer.as_ref().and_then(node_id_of)
            && self.swarm.behaviour().control.is_up(node)
        {
            return answer(reply, Ok(node));
        }
        if self.dials.len() >= PENDING_DIALS_MAX {
            return answer(reply, Err(DialError::Busy));
        }
        let opts = match peer {
            Some(peer) => dial_opts(peer, vec![place]),
            None => DialOpts::unknown_peer_id().address(place).allocate_new_port().build(),
        };
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                let deadline = Instant::now() + DIAL_ANSWER_MAX;
                self.dials.insert(id, PendingDial { addr, node: None, deadline, reply });
            }
            Err(error) => answer(reply, Err(explain(addr, &error))),
        }
    }

    /// Starts the dials whose time has come.
    fn dial_due(&mut self) {
        for (node, addrs) in self.book.take_due(Instant::now()) {
            self.shared.outboxes.open(node);
            if let Err(error) = self.swarm.dial(dial_opts(peer_id_of(node), addrs)) {
                self.on_dial_failed(node, &error);
            }
        }
        self.wake.stale = true;
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        let late: Vec<ConnectionId> =
            self.dials.iter().filter(|(_, dial)| dial.deadline <= now).map(|(&id, _)| id).collect();
        for id in late {
            self.answer_dial(id, |addr| Err(DialError::TimedOut(addr)));
        }
        self.dial_due();
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Control(event)) => self.on_control(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => self.on_discovered(found),
            // A lapsed record is not a lost peer.
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Expired(_))) => {}
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                self.on_established(connection_id, &peer_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                tracing::debug!(peer = %peer_id, cause = cause.map(tracing::field::display), "control connection closed");
                self.on_closed(connection_id, &peer_id, num_established);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.answer_dial(connection_id, |addr| Err(explain(addr, &error)));
                if let Some(node) = peer_id.as_ref().and_then(node_id_of) {
                    self.on_dial_failed(node, &error);
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(remote = %send_back_addr, %error, "turned away at the gate");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.refresh_listen_addrs();
                self.deliver(NetEvent::Listening(address));
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.refresh_listen_addrs(),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                // The node goes on with its connections; new ones can only be made from here.
                tracing::error!(?addresses, ?reason, "no longer listening");
                self.refresh_listen_addrs();
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a connection could not be accepted"),
            other => tracing::trace!(?other, "swarm"),
        }
    }

    fn on_control(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Frame { node, bytes } => self.deliver(NetEvent::Frame { from: node, bytes }),
            ControlEvent::Up { node, hello, remote, dialled_here } => self.on_up(node, hello, &remote, dialled_here),
            ControlEvent::Down { node } => {
                tracing::info!(peer = %node.short(), "disconnected");
                self.book.on_down(node, Instant::now());
                self.deliver(NetEvent::Disconnected(node));
                self.dial_due();
                self.close_outbox_unless_needed(node);
            }
            ControlEvent::Unusable { node, reason } => {
                tracing::warn!(peer = %node.short(), %reason, "cannot work with this peer");
                let concerned: Vec<ConnectionId> =
                    self.dials.iter().filter(|(_, dial)| dial.node == Some(node)).map(|(&id, _)| id).collect();
                for id in concerned {
                    let reason = reason.to_string();
                    self.answer_dial(id, |addr| Err(DialError::Unusable { addr, reason }));
                }
            }
        }
    }

    fn on_up(&mut self, node: NodeId, hello: Hello, remote: &Multiaddr, dialled_here: bool) {
        let listens: Vec<Multiaddr> = readable(&hello.listen_addrs, node);
        let bulk: Vec<Multiaddr> = readable(&hello.bulk_addrs, node);
        let here = if dialled_here { addrs::split_for(remote, node) } else { at_ip_of(remote, &listens) };
        tracing::info!(peer = %node.short(), version = hello.version, addr = here.as_ref().map(tracing::field::display), "connected");
        self.book.learn(node, listens, Instant::now());
        self.book.on_up(node, here);
        self.wake.stale = true;
        // The way that the control connection took leads to the bulk port too, also where the peer does not
        // know its own address.
        let addrs = at_ip_of(remote, &bulk).into_iter().chain(bulk.clone()).collect();
        self.tell_bulk(BulkCommand::Learn { node, addrs });
        let waiting: Vec<ConnectionId> =
            self.dials.iter().filter(|(_, dial)| dial.node == Some(node)).map(|(&id, _)| id).collect();
        waiting.into_iter().for_each(|id| self.answer_dial(id, |_| Ok(node)));
        self.deliver(NetEvent::Connected(node, Box::new(hello)));
    }

    fn on_discovered(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let mut by_node: HashMap<NodeId, Vec<Multiaddr>> = HashMap::new();
        for (peer, addr) in found {
            let Some(node) = node_id_of(&peer).filter(|&node| node != self.shared.local) else {
                continue;
            };
            if let Some(addr) = addrs::split_for(&addr, node).filter(|_| !self.gate.is_shut_out(node)) {
                by_node.entry(node).or_default().push(addr);
            }
        }
        for (node, addrs) in by_node {
            let addrs = addrs::tellable(&addrs);
            self.book.discover(node, addrs.clone(), Instant::now());
            self.deliver(NetEvent::Discovered(node, addrs));
        }
        self.dial_due();
    }

    fn on_established(&mut self, id: ConnectionId, peer: &PeerId) {
        let Some(node) = node_id_of(peer) else {
            return;
        };
        if self.gate.is_shut_out(node) {
            // Shut out while the handshake ran.
            return self.drop_node(node);
        }
        self.book.on_connection(node);
        let is_up = self.swarm.behaviour().control.is_up(node);
        if let Some(dial) = self.dials.get_mut(&id) {
            dial.node = Some(node);
            if is_up {
                self.answer_dial(id, |_| Ok(node));
            }
        }
    }

    fn on_closed(&mut self, id: ConnectionId, peer: &PeerId, remaining: u32) {
        let Some(node) = node_id_of(peer) else {
            return;
        };
        self.book.on_connection_closed(node, remaining, Instant::now(), rand::random());
        if remaining == 0 {
            self.answer_dial(id, |addr| Err(DialError::NotAdmitted(addr)));
        }
        self.dial_due();
        self.close_outbox_unless_needed(node);
    }

    /// A dial to a known node failed. Only of wanted nodes the application is told.
    fn on_dial_failed(&mut self, node: NodeId, error: &SwarmDialError) {
        let last_good = self.book.last_good(node).cloned();
        let met = verdict(error, last_good.as_ref());
        tracing::debug!(peer = %node.short(), obstacle = ?met, %error, "dial failed");
        let is_connected = self.swarm.is_connected(&peer_id_of(node));
        if !is_connected && self.book.is_wanted(node) {
            self.deliver(match met {
                Obstacle::Refused => NetEvent::Refused(node),
                _ => NetEvent::Unreachable(node),
            });
        }
        self.book.on_dial_failed(node, met, Instant::now(), rand::random());
        self.wake.stale = true;
        self.close_outbox_unless_needed(node);
    }

    fn close_outbox_unless_needed(&mut self, node: NodeId) {
        if !self.book.is_reachable_soon(node) && !self.swarm.is_connected(&peer_id_of(node)) {
            self.shared.outboxes.close(node);
        }
    }

    fn answer_dial(&mut self, id: ConnectionId, result: impl FnOnce(Multiaddr) -> Result<NodeId, DialError>) {
        if let Some(dial) = self.dials.remove(&id) {
            self.wake.stale = true;
            // The asker may have gone.
            let _ = dial.reply.send(result(dial.addr));
        }
    }

    pub(super) fn refresh_listen_addrs(&mut self) {
        let addrs = addrs::tellable(self.swarm.listeners());
        *self.shared.listen_addrs.write().unwrap_or_else(PoisonError::into_inner) = addrs;
        self.refresh_hello();
    }

    fn refresh_hello(&mut self) {
        let text = |addrs: &[Multiaddr]| addrs.iter().take(ADDRS_MAX).map(ToString::to_string).collect();
        self.hello.listen_addrs = text(&self.shared.listen_addrs.read().unwrap_or_else(PoisonError::into_inner));
        self.hello.bulk_addrs = text(&self.shared.bulk_addrs.read().unwrap_or_else(PoisonError::into_inner));
        let cluster: ClusterId = self.hello.cluster;
        self.swarm.behaviour_mut().control.set_hello(cluster, codec::encode(&self.hello).into());
    }

    fn tell_bulk(&self, command: BulkCommand) {
        if let Err(error) = self.bulk.try_send(command) {
            // Its channel is drained before everything else; when full, the next hello tells again.
            tracing::warn!(%error, "the bulk actor was not told");
        }
    }

    /// Hands an event over at once when the reader keeps up, else queues it behind the others.
    fn deliver(&mut self, event: NetEvent) {
        if !self.outbox.is_empty() {
            self.outbox.push_back(event);
        } else if let Err(event) = self.events.try_send(event) {
            self.outbox.push_back(event);
        }
    }

    fn deliver_queued(&mut self) {
        while let Some(event) = self.outbox.pop_front() {
            if let Err(event) = self.events.try_send(event) {
                return self.outbox.push_front(event);
            }
        }
    }

    /// Lets what is queued go out, then closes the connections in order; both only as long as peers play along.
    async fn drain(&mut self) {
        self.dials.clear();
        self.book = Book::default();
        // First of all: a peer that loses its connection dials at once, and should learn that nobody is here.
        self.listeners.drain(..).for_each(|id| {
            self.swarm.remove_listener(id);
        });
        let deadline = tokio::time::sleep(DRAIN_MAX);
        tokio::pin!(deadline);
        let mut look = tokio::time::interval(DRAIN_LOOK);
        let mut closing = false;
        loop {
            tokio::select! {
                _ = self.swarm.select_next_some() => {}
                _ = look.tick() => {
                    if closing && self.swarm.network_info().num_peers() == 0 {
                        return;
                    }
                    if !closing && self.swarm.listeners().next().is_none() && self.shared.outboxes.is_drained() {
                        closing = true;
                        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
                        for peer in peers {
                            // An error means that it went by itself.
                            let _ = self.swarm.disconnect_peer_id(peer);
                        }
                    }
                }
                () = &mut deadline => return,
            }
        }
    }
}

/// Always from a new port: two nodes that dial each other from their listening ports would meet in one TCP
/// connection that both take for their own (simultaneous open), and neither would answer the handshake.
pub(super) fn dial_opts(peer: PeerId, addrs: Vec<Multiaddr>) -> DialOpts {
    DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addrs).allocate_new_port().build()
}

/// What a failed dial says of the whole node: the place where it was last speaks for it.
fn verdict(error: &SwarmDialError, last_good: Option<&Multiaddr>) -> Obstacle {
    let SwarmDialError::Transport(errors) = error else {
        return match error {
            SwarmDialError::WrongPeerId { .. } | SwarmDialError::LocalPeerId { .. } => Obstacle::NotFnode,
            _ => Obstacle::Silent,
        };
    };
    let is_last_good = |addr: &Multiaddr| addrs::socket_addr(addr) == last_good.and_then(addrs::socket_addr);
    if let Some((_, error)) = errors.iter().find(|(addr, _)| last_good.is_some() && is_last_good(addr)) {
        return obstacle(error);
    }
    let mut met = errors.iter().map(|(_, error)| obstacle(error));
    let first = met.next().unwrap_or(Obstacle::Silent);
    if met.all(|other| other == first) { first } else { Obstacle::Silent }
}

/// The answer to a person who asked for one address.
fn explain(addr: Multiaddr, error: &SwarmDialError) -> DialError {
    match error {
        SwarmDialError::LocalPeerId { .. } => DialError::Myself(addr),
        SwarmDialError::WrongPeerId { obtained, .. } => match node_id_of(obtained) {
            Some(found) => DialError::AnotherNode { addr, found },
            None => DialError::NotFnode(addr),
        },
        SwarmDialError::Denied { .. } | SwarmDialError::Aborted | SwarmDialError::DialPeerConditionFalse(_) => {
            DialError::Busy
        }
        // libp2p leaves out the addresses that it listens on itself.
        SwarmDialError::NoAddresses => DialError::Myself(addr),
        SwarmDialError::Transport(_) => match verdict(error, None) {
            Obstacle::Refused => DialError::Refused(addr),
            Obstacle::Silent => DialError::TimedOut(addr),
            Obstacle::NotFnode => DialError::NotFnode(addr),
            Obstacle::WrongSecret => DialError::WrongSecret(addr),
            Obstacle::NotAdmitted => DialError::NotAdmitted(addr),
            Obstacle::BadAddress => DialError::BadAddress(addr),
        },
    }
}

/// The addresses that a peer tells of itself, as far as they can be dialled.
fn readable(texts: &[String], node: NodeId) -> Vec<Multiaddr> {
    texts.iter().filter_map(|text| addrs::split_for(&text.parse().ok()?, node)).collect()
}

/// The IP address of `remote` with the port of one of `listens`, preferably one with that IP address.
fn at_ip_of(remote: &Multiaddr, listens: &[Multiaddr]) -> Option<Multiaddr> {
    let ip = addrs::socket_addr(remote)?.ip();
    let sockets = || listens.iter().filter_map(addrs::socket_addr);
    let port = sockets().find(|socket| socket.ip() == ip).or_else(|| sockets().next())?.port();
    Some(Multiaddr::from(ip).with(Protocol::Tcp(port)))
}
