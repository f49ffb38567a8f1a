//! The control plane as a libp2p behaviour: hellos, the choice among connections, frames in order.
//!
//! The control actor polls it inside its swarm. It dials nobody and keeps no addresses (`book.rs` does).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, FromSwarm};
use libp2p::swarm::{CloseConnection, ConnectionDenied, ConnectionId, NetworkBehaviour, NotifyHandler, ToSwarm};
use libp2p::{Multiaddr, PeerId};
use proto::{ClusterId, NodeId};

use super::control_handler::{ControlHandler, FromHandler, LinkError, ToHandler};
use super::hello::{Hello, HelloError};
use super::identity::{node_id_of, peer_id_of};
use super::links::{Links, Step};
use super::outbox::{Outbox, Outboxes};

/// The behaviour of the control swarm.
pub(super) struct Control {
    local: NodeId,
    cluster: ClusterId,
    hello: Arc<[u8]>,
    outboxes: Arc<Outboxes>,
    peers: HashMap<NodeId, Peer>,
    orders: VecDeque<ToSwarm<ControlEvent, ToHandler>>,
}

struct Peer {
    links: Links,
    outbox: Arc<Outbox>,
}

/// What the actor is told.
#[derive(Debug)]
pub(super) enum ControlEvent {
    /// Frames can be exchanged.
    Up {
        node: NodeId,
        hello: Hello,
        remote: Multiaddr,
        dialled_here: bool,
    },
    /// They no longer can; frames under way may be lost.
    Down {
        node: NodeId,
    },
    Frame {
        node: NodeId,
        bytes: Bytes,
    },
    /// A connection was closed for what the peer said, or did not say.
    Unusable {
        node: NodeId,
        reason: UnusableReason,
    },
}

/// Why a connection that passed the gate is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnusableReason {
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The peer's key is no Ed25519 key. The gate turns it away before this can happen.
#[derive(Debug, thiserror::Error)]
#[error("peer {0} is no node")]
pub(super) struct NotANode(pub(super) PeerId);

impl Control {
    pub(super) fn new(local: NodeId, cluster: ClusterId, outboxes: Arc<Outboxes>) -> Self {
        let orders = VecDeque::new();
        Self { local, cluster, hello: Arc::new([]), outboxes, peers: HashMap::new(), orders }
    }

    /// What later connections begin with.
    pub(super) fn set_hello(&mut self, cluster: ClusterId, encoded: Arc<[u8]>) {
        self.cluster = cluster;
        self.hello = encoded;
    }

    pub(super) fn is_up(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.links.is_up())
    }

    fn handler(&self, id: ConnectionId, peer: PeerId) -> Result<ControlHandler, ConnectionDenied> {
        let node = node_id_of(&peer).ok_or_else(|| ConnectionDenied::new(NotANode(peer)))?;
        Ok(ControlHandler::new(id, &self.hello, self.outboxes.open(node)))
    }

    fn leads(&self, node: NodeId) -> bool {
        self.local < node
    }

    fn on_established(&mut self, event: &ConnectionEstablished<'_>) {
        let Some(node) = node_id_of(&event.peer_id) else {
            return;
        };
        let outboxes = &self.outboxes;
        let peer =
            self.peers.entry(node).or_insert_with(|| Peer { links: Links::default(), outbox: outboxes.open(node) });
        let remote = event.endpoint.get_remote_address().clone();
        peer.links.on_established(event.connection_id, event.endpoint.is_dialer(), remote, Instant::now());
    }

    fn on_closed(&mut self, event: &ConnectionClosed<'_>) {
        let Some(node) = node_id_of(&event.peer_id) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let steps = peer.links.on_closed(event.connection_id);
        self.run(node, steps);
        if event.remaining_established == 0 {
            self.peers.remove(&node);
        }
    }

    fn on_hello(&mut self, node: NodeId, id: ConnectionId, bytes: &[u8]) {
        let leads = self.leads(node);
        match Hello::read(bytes, self.cluster) {
            Ok(hello) => {
                let Some(peer) = self.peers.get_mut(&node) else {
                    return;
                };
                let steps = peer.links.on_hello(id, hello, leads, Instant::now());
                self.run(node, steps);
            }
            Err(error) => self.give_up(node, id, error.into()),
        }
    }

    fn on_mark(&mut self, node: NodeId, id: ConnectionId) {
        let leads = self.leads(node);
        if let Some(peer) = self.peers.get_mut(&node) {
            let steps = peer.links.on_mark(id, leads);
            self.run(node, steps);
        }
    }

    fn give_up(&mut self, node: NodeId, id: ConnectionId, reason: UnusableReason) {
        self.run(node, vec![Step::Close(id)]);
        self.tell(ControlEvent::Unusable { node, reason });
    }

    fn run(&mut self, node: NodeId, steps: Vec<Step>) {
        let Some(outbox) = self.peers.get(&node).map(|peer| peer.outbox.clone()) else {
            return;
        };
        for step in steps {
            match step {
                Step::Use { id, mark } => {
                    outbox.set_owner(Some(id));
                    self.orders.push_back(ToSwarm::NotifyHandler {
                        peer_id: peer_id_of(node),
                        handler: NotifyHandler::One(id),
                        event: ToHandler::Use { mark },
                    });
                }
                Step::Close(id) => self.orders.push_back(ToSwarm::CloseConnection {
                    peer_id: peer_id_of(node),
                    connection: CloseConnection::One(id),
                }),
                Step::Up { hello, remote, dialled_here } => {
                    self.tell(ControlEvent::Up { node, hello, remote, dialled_here });
                }
                Step::Down => {
                    outbox.set_owner(None);
                    self.tell(ControlEvent::Down { node });
                }
            }
        }
    }

    fn tell(&mut self, event: ControlEvent) {
        self.orders.push_back(ToSwarm::GenerateEvent(event));
    }
}

impl NetworkBehaviour for Control {
    type ConnectionHandler = ControlHandler;
    type ToSwarm = ControlEvent;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<ControlHandler, ConnectionDenied> {
        self.handler(id, peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<ControlHandler, ConnectionDenied> {
        self.handler(id, peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => self.on_established(&event),
            FromSwarm::ConnectionClosed(event) => self.on_closed(&event),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, news: FromHandler) {
        let Some(node) = node_id_of(&peer) else {
            return;
        };
        match news {
            FromHandler::Hello(bytes) => self.on_hello(node, id, &bytes),
            FromHandler::Mark => self.on_mark(node, id),
            // What still comes in on a connection that lost its place is not in order with the rest.
            FromHandler::Frame(bytes) => {
                if self.peers.get(&node).is_some_and(|peer| peer.links.is_chosen(id)) {
                    self.tell(ControlEvent::Frame { node, bytes });
                }
            }
            FromHandler::Failed(error) => self.give_up(node, id, error.into()),
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<ControlEvent, ToHandler>> {
        // Orders arise only from calls that the swarm itself makes, after which it polls again.
        match self.orders.pop_front() {
            Some(order) => Poll::Ready(order),
            None => Poll::Pending,
        }
    }
}
