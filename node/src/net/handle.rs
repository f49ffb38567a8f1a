//! What the rest of the node holds of the network: a cloneable handle, and the words of its events.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use libp2p::Multiaddr;
use proto::{ClusterId, NodeId};
use tokio::sync::{mpsc, oneshot};

use super::bulk::{BULK_OPEN_TRIES, BulkCommand, BulkError, BulkProtocol, BulkStream, confirm};
use super::gate::GateRules;
use super::hello::Hello;
use super::outbox::{Outboxes, SendError};

/// Pause before a refused or lost bulk stream is tried again; jitter takes up to as much again.
const BULK_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The way to the network. Clones share one network; when the last is dropped, it ends.
#[derive(Clone)]
pub struct NetHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Sender<NetCommand>,
    pub(super) bulk: mpsc::Sender<BulkCommand>,
}

/// What the handle reads without asking the actor.
pub(super) struct Shared {
    pub(super) local: NodeId,
    pub(super) outboxes: Arc<Outboxes>,
    pub(super) listen_addrs: RwLock<Vec<Multiaddr>>,
    pub(super) bulk_addrs: RwLock<Vec<Multiaddr>>,
}

/// Orders to the control actor.
#[derive(Debug)]
pub(super) enum NetCommand {
    Learn { node: NodeId, addrs: Vec<Multiaddr> },
    Keep(BTreeSet<NodeId>),
    Dial { addr: Multiaddr, reply: oneshot::Sender<Result<NodeId, DialError>> },
    Forget(NodeId),
    SetGate { cluster: ClusterId, rules: GateRules },
    Shutdown { done: oneshot::Sender<()> },
}

/// News from the network, in the order in which they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// Frames can be exchanged with the node, which says this about itself.
    Connected(NodeId, Box<Hello>),
    /// The connection ended; frames under way may be lost. Says nothing about the machine (DESIGN §5).
    Disconnected(NodeId),
    /// A dial to a wanted node: its host refuses, so the machine is up and its daemon is not. Repeated while it lasts.
    Refused(NodeId),
    /// A dial to a wanted node: no answer, no way there, or someone else answers. Repeated while it lasts.
    Unreachable(NodeId),
    /// A frame, in the order in which that node sent them.
    Frame {
        /// Who sent it; the handshake proved it.
        from: NodeId,
        /// 1 to `FRAME_MAX` bytes.
        bytes: Bytes,
    },
    /// The node listens here too. Not every such address is worth telling; see [`NetHandle::listen_addrs`].
    Listening(Multiaddr),
    /// Someone on the LAN speaks mDNS and libp2p; if it is of this cluster, `Connected` follows.
    Discovered(NodeId, Vec<Multiaddr>),
}

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Another program listens there.
    #[error(
        "cannot listen on {addr}: the port is in use; stop the other program or choose another port (0 takes a free one)"
    )]
    PortInUse {
        /// Address as configured.
        addr: Multiaddr,
    },
    /// Anything else about a listening address.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// Address as configured.
        addr: Multiaddr,
        /// What the system said.
        source: io::Error,
    },
    /// Not an IP address with a TCP port.
    #[error("cannot listen on {0}: write it like /ip4/0.0.0.0/tcp/4747")]
    BadAddress(Multiaddr),
    /// The node's key does not work.
    #[error("the node's key cannot be used: {0}")]
    Identity(#[from] libp2p::noise::Error),
    /// No thread or no runtime.
    #[error("cannot start the network's thread: {0}")]
    Thread(io::Error),
    /// The network ended while it started.
    #[error("the network ended while it started")]
    Ended,
}

/// Why an address was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Not an IP address with a TCP port.
    #[error("\"{0}\" is not an address; write it like /ip4/192.0.2.7/tcp/4747")]
    BadAddress(Multiaddr),
    /// The node there belongs to another cluster, or the secret was rotated twice.
    #[error("the node at {0} does not accept this secret; ask a member of its cluster for a new ticket (fnode invite)")]
    WrongSecret(Multiaddr),
    /// The host is up; nobody listens.
    #[error("{0} refuses connections; is fnode running there, on that port?")]
    Refused(Multiaddr),
    /// No answer in time, or no route.
    #[error("{0} does not answer; check the address, the network and the firewall there")]
    TimedOut(Multiaddr),
    /// Something else listens there.
    #[error("what listens at {0} is not fnode, or is a version that this node does not understand")]
    NotFnode(Multiaddr),
    /// The address is this node's own.
    #[error("{0} is this node itself")]
    Myself(Multiaddr),
    /// Another node than the address names.
    #[error("at {addr} answers another node, {found}")]
    AnotherNode {
        /// Address as given.
        addr: Multiaddr,
        /// Who answers.
        found: NodeId,
    },
    /// One of the two does not let the other in by its identity.
    #[error("the node at {0} closed the door after the handshake; was this node removed from its cluster?")]
    NotAdmitted(Multiaddr),
    /// The peer's hello was not understood, or it is of another cluster.
    #[error("cannot work with the node at {addr}: {reason}")]
    Unusable {
        /// Address as given.
        addr: Multiaddr,
        /// For people.
        reason: String,
    },
    /// The node has too many connections or dials at the moment; a retry can help.
    #[error("too many connections; try again later")]
    Busy,
    /// The network ended.
    #[error("the network is shutting down")]
    Closed,
}

/// The network ended; nothing that needs it can be done any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the network is shutting down")]
pub struct NetClosed;

impl NetHandle {
    /// This node.
    #[must_use]
    pub fn local(&self) -> NodeId {
        self.shared.local
    }

    /// Queues a frame of 1 to `FRAME_MAX` bytes for `to`; never waits. `Ok` means queued, not delivered.
    ///
    /// # Errors
    /// [`SendError`]: the frame is dropped, and counted.
    pub fn send(&self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        self.shared.outboxes.send(to, frame)
    }

    /// Frames refused or thrown away since the start.
    #[must_use]
    pub fn frames_dropped(&self) -> u64 {
        self.shared.outboxes.dropped()
    }

    /// Where this node can be reached, best first: the addresses of the interfaces, loopback only when that is
    /// all there is, without `/p2p`.
    #[must_use]
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.shared.listen_addrs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where this node takes bulk connections.
    #[must_use]
    pub fn bulk_addrs(&self) -> Vec<Multiaddr> {
        self.shared.bulk_addrs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers where `node` may be reached. Addresses of other kinds, or that name another node, are ignored.
    ///
    /// # Errors
    /// [`NetClosed`].
    pub async fn learn_addrs(&self, node: NodeId, addrs: Vec<Multiaddr>) -> Result<(), NetClosed> {
        self.order(NetCommand::Learn { node, addrs }).await
    }

    /// From now on tries to be connected to exactly these nodes. Connections to others are kept while they last.
    ///
    /// # Errors
    /// [`NetClosed`].
    pub async fn keep_connected(&self, nodes: BTreeSet<NodeId>) -> Result<(), NetClosed> {
        self.order(NetCommand::Keep(nodes)).await
    }

    /// Connects to whoever is at `addr` (with or without `/p2p/…`); answers once frames can be exchanged, after
    /// at most about ten seconds. The future may be dropped; the dial then goes on.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(&self, addr: Multiaddr) -> Result<NodeId, DialError> {
        let (reply, answer) = oneshot::channel();
        self.order(NetCommand::Dial { addr, reply }).await.map_err(|NetClosed| DialError::Closed)?;
        answer.await.unwrap_or(Err(DialError::Closed))
    }

    /// Shuts out the identity of a removed node: its connections end, it is not dialled, it does not come in.
    /// It lasts until [`NetHandle::set_gate`] gives rules without it.
    ///
    /// # Errors
    /// [`NetClosed`].
    pub async fn forget(&self, node: NodeId) -> Result<(), NetClosed> {
        self.order(NetCommand::Forget(node)).await
    }

    /// Replaces cluster, secrets and who may come in. Connections of nodes that are shut out end; others stay.
    ///
    /// # Errors
    /// [`NetClosed`].
    pub async fn set_gate(&self, cluster: ClusterId, rules: GateRules) -> Result<(), NetClosed> {
        self.order(NetCommand::SetGate { cluster, rules }).await
    }

    /// Opens a bulk stream to `to`, over the bulk connection, which is made when there is none. The remote has
    /// confirmed the stream when this returns. Tries a few times. The future may be dropped at any time.
    ///
    /// # Errors
    /// [`BulkError`]; after `Busy` and `Lost` a later retry can help.
    pub async fn open_bulk(&self, to: NodeId, protocol: BulkProtocol) -> Result<BulkStream, BulkError> {
        let mut tries = 1;
        loop {
            match self.try_open_bulk(to, protocol).await {
                Err(error @ (BulkError::Busy | BulkError::Lost)) if tries < BULK_OPEN_TRIES => {
                    tracing::debug!(peer = %to, ?protocol, tries, %error, "bulk stream not opened, trying again");
                    tries += 1;
                    tokio::time::sleep(BULK_RETRY_PAUSE.mul_f64(1.0 + rand::random::<f64>())).await;
                }
                result => return result,
            }
        }
    }

    async fn try_open_bulk(&self, to: NodeId, protocol: BulkProtocol) -> Result<BulkStream, BulkError> {
        let (reply, answer) = oneshot::channel();
        let command = BulkCommand::Open { to, protocol, reply };
        self.bulk.send(command).await.map_err(|_| BulkError::Closed)?;
        // The bulk actor drops a request with its connection.
        let stream = answer.await.unwrap_or_else(|_| Err(self.lost_or_closed()))?;
        confirm(stream).await
    }

    fn lost_or_closed(&self) -> BulkError {
        if self.bulk.is_closed() { BulkError::Closed } else { BulkError::Lost }
    }

    /// Ends the network: what is queued is sent if the peers take it at once, every pending call is answered,
    /// and the ports are free when this returns.
    pub async fn shutdown(&self) {
        let (done, ended) = oneshot::channel();
        if self.order(NetCommand::Shutdown { done }).await.is_ok() {
            // An error means that another call was first.
            let _ = ended.await;
        }
        let (done, ended) = oneshot::channel();
        if self.bulk.send(BulkCommand::Shutdown { done }).await.is_ok() {
            let _ = ended.await;
        }
    }

    async fn order(&self, command: NetCommand) -> Result<(), NetClosed> {
        self.commands.send(command).await.map_err(|_| NetClosed)
    }
}
