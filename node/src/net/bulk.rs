//! The bulk plane: blobs, tails and tunnels over connections of their own, apart from control traffic.
//!
//! An actor of its own on a thread of its own, with a second swarm of the same identity on another port: a
//! gigabyte under way delays no heartbeat. Inputs: commands of `NetHandle`s and the control actor, the swarm.
//! Outputs: streams, both those asked for and those that peers open. Every stream is confirmed by the remote
//! with one byte before it is used. Connections are made when needed and close when idle. The actor ends on
//! `shutdown` or when nobody can command it any more; streams that are in use then break.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::futures::StreamExt as _;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, Stream, SwarmEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Swarm, connection_limits};
use proto::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};

use super::actor::dial_opts;
use super::addrs;
use super::bulk_handler::{ACCEPTED, BUSY, BulkHandler, OpenStream};
use super::control::NotANode;
use super::gate::Gate;
use super::handle::Shared;
use super::identity::{node_id_of, peer_id_of};

/// A bulk connection without a stream closes after this. A stage's next blob is mostly asked for sooner.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(30);
/// How often a stream that was refused or lost is asked for.
pub(super) const BULK_OPEN_TRIES: u32 = 4;
/// From the request to the remote's byte.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that wait for a connection, over all peers.
const WAITING_MAX: usize = 1_024;

/// What a bulk stream is for. Each is a protocol of its own on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BulkProtocol {
    /// Verified pieces of blobs.
    Blobs,
    /// Live logs and metrics.
    Tail,
    /// Services and workspaces.
    Tunnel,
    /// Questions between nodes.
    Ask,
}

/// Why there is no bulk stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BulkError {
    /// Never connected to that node, so that its bulk address is unknown.
    #[error("the node's bulk address is not known")]
    Unknown,
    /// No connection could be made.
    #[error("no bulk connection to the node")]
    Unreachable,
    /// The remote, or this node, has more to do than it takes; a retry can help.
    #[error("too many bulk streams at the moment")]
    Busy,
    /// The remote does not speak this protocol.
    #[error("the node does not speak this bulk protocol")]
    NotSpoken,
    /// The connection ended, or no answer came; a retry can help.
    #[error("the bulk stream was lost while it was opened")]
    Lost,
    /// The network ended.
    #[error("the network is shutting down")]
    Closed,
}

/// A confirmed stream to another node. Half-duplex use (request, then one-way data) is safest: two ends that
/// both write and do not read stall each other.
pub struct BulkStream {
    inner: Compat<Stream>,
}

/// A stream that a peer opened.
#[derive(Debug)]
pub struct InboundBulk {
    /// Who opened it; the handshake proved it.
    pub from: NodeId,
    /// What for.
    pub protocol: BulkProtocol,
    /// The stream, already confirmed to the peer.
    pub stream: BulkStream,
}

/// Orders to the bulk actor.
#[derive(Debug)]
pub(super) enum BulkCommand {
    Open {
        to: NodeId,
        protocol: BulkProtocol,
        reply: OpenReply,
    },
    /// Where `node` takes bulk connections, the likeliest first; replaces what was known.
    Learn {
        node: NodeId,
        addrs: Vec<Multiaddr>,
    },
    /// Ends everything with a node that was shut out.
    Forget(NodeId),
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

pub(super) type OpenReply = oneshot::Sender<Result<Stream, BulkError>>;

/// See the file's header.
pub(super) struct BulkActor {
    pub(super) swarm: Swarm<BulkBehaviour>,
    pub(super) gate: Gate,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Receiver<BulkCommand>,
    pub(super) addrs: HashMap<NodeId, Vec<Multiaddr>>,
    /// What waits for a dial.
    pub(super) waiting: HashMap<NodeId, Vec<OpenStream>>,
}

/// The bulk swarm's behaviour: limits first, as in the control swarm.
#[derive(NetworkBehaviour)]
pub(super) struct BulkBehaviour {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) streams: BulkStreams,
}

/// Hands requests to connections and gives each connection its handler.
pub(super) struct BulkStreams {
    inbound: mpsc::Sender<InboundBulk>,
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    orders: VecDeque<ToSwarm<std::convert::Infallible, OpenStream>>,
}

impl BulkActor {
    /// Runs until the end; returns who wants to know that everything is closed.
    pub(super) async fn run(mut self) -> Option<oneshot::Sender<()>> {
        loop {
            tokio::select! {
                biased; // our own commands first: no remote can starve them
                command = self.commands.recv() => match command {
                    Some(BulkCommand::Open { to, protocol, reply }) => self.on_open(to, OpenStream { protocol, reply }),
                    Some(BulkCommand::Learn { node, addrs }) => {
                        self.addrs.insert(node, addrs);
                    }
                    Some(BulkCommand::Forget(node)) => self.on_forget(node),
                    Some(BulkCommand::Shutdown { done }) => return Some(done),
                    None => return None,
                },
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
            }
        }
    }

    fn on_open(&mut self, to: NodeId, open: OpenStream) {
        let Some(open) = self.swarm.behaviour_mut().streams.open(&peer_id_of(to), open) else {
            return;
        };
        if self.waiting.values().map(Vec::len).sum::<usize>() >= WAITING_MAX {
            return open.fail(BulkError::Busy);
        }
        if let Some(waiting) = self.waiting.get_mut(&to) {
            return waiting.push(open);
        }
        let Some(addrs) = self.addrs.get(&to).filter(|addrs| !addrs.is_empty()).cloned() else {
            return open.fail(BulkError::Unknown);
        };
        match self.swarm.dial(dial_opts(peer_id_of(to), addrs)) {
            Ok(()) => {
                self.waiting.insert(to, vec![open]);
            }
            Err(error) => {
                tracing::debug!(peer = %to.short(), %error, "bulk dial failed");
                open.fail(BulkError::Unreachable);
            }
        }
    }

    fn on_forget(&mut self, node: NodeId) {
        self.addrs.remove(&node);
        // An error means that there is no connection.
        let _ = self.swarm.disconnect_peer_id(peer_id_of(node));
        for open in self.waiting.remove(&node).unwrap_or_default() {
            open.fail(BulkError::Unknown);
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BulkBehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => self.on_established(&peer_id),
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                tracing::debug!(%peer, %error, "bulk dial failed");
                // A connection that came in meanwhile serves as well.
                if let Some(node) = node_id_of(&peer).filter(|_| !self.swarm.is_connected(&peer)) {
                    for open in self.waiting.remove(&node).unwrap_or_default() {
                        open.fail(BulkError::Unreachable);
                    }
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, cause, .. } => {
                tracing::debug!(peer = %peer_id, cause = cause.map(tracing::field::display), "bulk connection closed");
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(remote = %send_back_addr, %error, "turned away at the bulk gate");
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => {
                let addrs = addrs::tellable(self.swarm.listeners());
                *self.shared.bulk_addrs.write().unwrap_or_else(PoisonError::into_inner) = addrs;
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(?addresses, ?reason, "no longer listening for bulk connections");
            }
            other => tracing::trace!(?other, "bulk swarm"),
        }
    }

    fn on_established(&mut self, peer: &PeerId) {
        let Some(node) = node_id_of(peer) else {
            return;
        };
        if self.gate.is_shut_out(node) {
            // Shut out while the handshake ran.
            return self.on_forget(node);
        }
        for open in self.waiting.remove(&node).unwrap_or_default() {
            if let Some(open) = self.swarm.behaviour_mut().streams.open(peer, open) {
                open.fail(BulkError::Lost);
            }
        }
    }
}

impl BulkStreams {
    /// Streams that peers open go to `inbound`.
    pub(super) fn new(inbound: mpsc::Sender<InboundBulk>) -> Self {
        Self { inbound, connections: HashMap::new(), orders: VecDeque::new() }
    }

    /// Passes the request to a connection, or gives it back when there is none.
    fn open(&mut self, peer: &PeerId, open: OpenStream) -> Option<OpenStream> {
        let Some(&id) = self.connections.get(peer).and_then(|ids| ids.first()) else {
            return Some(open);
        };
        let handler = NotifyHandler::One(id);
        self.orders.push_back(ToSwarm::NotifyHandler { peer_id: *peer, handler, event: open });
        None
    }

    fn handler(&self, peer: PeerId) -> Result<BulkHandler, ConnectionDenied> {
        let node = node_id_of(&peer).ok_or_else(|| ConnectionDenied::new(NotANode(peer)))?;
        Ok(BulkHandler::new(node, self.inbound.clone()))
    }
}

impl NetworkBehaviour for BulkStreams {
    type ConnectionHandler = BulkHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<BulkHandler, ConnectionDenied> {
        self.handler(peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<BulkHandler, ConnectionDenied> {
        self.handler(peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                self.connections.entry(event.peer_id).or_default().push(event.connection_id);
            }
            FromSwarm::ConnectionClosed(event) => {
                if let Some(ids) = self.connections.get_mut(&event.peer_id) {
                    ids.retain(|&id| id != event.connection_id);
                }
                if event.remaining_established == 0 {
                    self.connections.remove(&event.peer_id);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: std::convert::Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<std::convert::Infallible, OpenStream>> {
        // The actor adds orders only between two polls of the swarm.
        match self.orders.pop_front() {
            Some(order) => Poll::Ready(order),
            None => Poll::Pending,
        }
    }
}

/// Waits for the remote's byte: libp2p may report a stream as open that the remote never sees.
pub(super) async fn confirm(stream: Stream) -> Result<BulkStream, BulkError> {
    let mut inner = stream.compat();
    match tokio::time::timeout(CONFIRM_TIMEOUT, inner.read_u8()).await {
        Ok(Ok(ACCEPTED)) => Ok(BulkStream { inner }),
        Ok(Ok(BUSY)) => Err(BulkError::Busy),
        // A later version may refuse for reasons that this one does not know.
        Ok(Ok(_)) => Err(BulkError::NotSpoken),
        // Reset, ended, or no answer in time.
        Ok(Err(_)) | Err(_) => Err(BulkError::Lost),
    }
}

impl BulkStream {
    pub(super) fn new(inner: Compat<Stream>) -> Self {
        Self { inner }
    }
}

impl AsyncRead for BulkStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for BulkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl fmt::Debug for BulkStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BulkStream")
    }
}
