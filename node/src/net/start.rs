//! Brings the network up: binds both ports, starts both actors on threads of their own, ties them together.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::futures::StreamExt as _;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm, connection_limits, mdns, swarm};
use proto::{ClusterId, NodeId};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::actor::{Actor, Behaviour, Wake};
use super::addrs;
use super::book::Book;
use super::bulk::{BulkActor, BulkBehaviour, BulkStreams, IDLE_MAX, InboundBulk};
use super::control::Control;
use super::events::{self, NetEvents};
use super::gate::{Gate, GateRules};
use super::handle::{NetError, NetEvent, NetHandle, Shared};
use super::hello::Hello;
use super::identity::{Identity, peer_id_of};
use super::outbox::Outboxes;
use super::transport;

/// Commands that wait for an actor; both drain them before anything else.
const COMMANDS_MAX: usize = 1_024;
/// Streams opened by peers that wait for the application; the next ones are told `busy`.
const INBOUND_BULK_MAX: usize = 256;
/// Connections of one swarm, ten times the full mesh that is promised (DESIGN §5).
const CONNECTIONS_MAX: u32 = 1_024;
/// Two crossed dials, and one that replaces a connection which its peer has lost; one to spare.
const CONNECTIONS_PER_PEER_MAX: u32 = 4;
/// Handshakes under way from outside: what a stranger can occupy.
const HANDSHAKES_MAX: u32 = 128;
/// Dials under way: a whole lab that comes back at once.
const DIALS_MAX: u32 = 256;
/// Streams of one connection whose protocol is being agreed on; libp2p resets what exceeds it.
const NEGOTIATING_MAX: usize = 512;
/// Of no effect while a control handler keeps its connection alive; libp2p's own default is shorter.
const CONTROL_IDLE_MAX: Duration = Duration::from_secs(30);

/// What the network needs to start.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Who this node is.
    pub identity: Identity,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Secrets, and who may come in.
    pub gate: GateRules,
    /// Where control connections are taken: `/ip4/…/tcp/…` or `/ip6/…`; port 0 takes a free one.
    pub listen: Vec<Multiaddr>,
    /// The same for bulk connections.
    pub bulk_listen: Vec<Multiaddr>,
    /// Whether to look for peers on the LAN, and to be found.
    pub mdns: bool,
    /// Version of the software, told to peers.
    pub version: String,
    /// Protocols that the node speaks, told to peers.
    pub protocols: Vec<String>,
}

/// A running network.
pub struct Net {
    /// The way to it.
    pub handle: NetHandle,
    /// What happens. If it is not read, the network stops reading its peers.
    pub events: NetEvents,
    /// Bulk streams that peers open, apart from `events`: they go to whoever serves them, not through the node's loop.
    pub bulk: mpsc::Receiver<InboundBulk>,
}

/// Starts the network; both ports are bound when this returns.
///
/// # Errors
/// [`NetError`]; nothing is left running.
pub async fn start(config: NetConfig) -> Result<Net, NetError> {
    for addr in config.listen.iter().chain(&config.bulk_listen) {
        check_free(addr)?;
    }
    let keys = config.identity.libp2p();
    let gate = Gate::new(&keys, config.gate.clone())?;
    let shared = Arc::new(Shared {
        local: config.identity.node_id(),
        outboxes: Arc::new(Outboxes::default()),
        listen_addrs: Vec::new().into(),
        bulk_addrs: Vec::new().into(),
    });
    let (bulk_commands, bulk_orders) = mpsc::channel(COMMANDS_MAX);
    let (inbound, bulk) = mpsc::channel(INBOUND_BULK_MAX);
    let bulk_parts = (gate.clone(), shared.clone(), config.bulk_listen.clone());
    spawn("fnode-bulk", move |ready| async move {
        let (gate, shared, listen) = bulk_parts;
        let streams = BulkBehaviour { limits: limits(), streams: BulkStreams::new(inbound) };
        let mut swarm = build_swarm(&gate, shared.local, streams, IDLE_MAX);
        let heard = listen_on(&mut swarm, &listen).await;
        *shared.bulk_addrs.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
            addrs::tellable(swarm.listeners());
        let go_on = heard.is_ok();
        // Nobody waits any more only if the caller was dropped; then the channels close too.
        let _ = ready.send(heard.map(drop));
        let actor =
            BulkActor { swarm, gate, shared, commands: bulk_orders, addrs: HashMap::new(), waiting: HashMap::new() };
        if go_on { actor.run().await } else { None }
    })
    .await?;
    let (commands, orders) = mpsc::channel(COMMANDS_MAX);
    let (events_in, events) = events::channel();
    let parts = (gate, shared.clone(), bulk_commands.clone());
    spawn("fnode-net", move |ready| async move {
        let (gate, shared, bulk) = parts;
        let mdns = config.mdns.then(|| start_mdns(shared.local)).flatten();
        let control = Control::new(shared.local, config.cluster, shared.outboxes.clone());
        let behaviour = Behaviour::new(control, limits(), mdns);
        let mut swarm = build_swarm(&gate, shared.local, behaviour, CONTROL_IDLE_MAX);
        let heard = listen_on(&mut swarm, &config.listen).await;
        let hello = Hello {
            cluster: config.cluster,
            version: config.version,
            protocols: config.protocols,
            session: rand::random(),
            listen_addrs: Vec::new(),
            bulk_addrs: Vec::new(),
        };
        let mut actor = Actor {
            swarm,
            listeners: Vec::new(),
            gate,
            shared,
            commands: orders,
            events: events_in,
            bulk,
            hello,
            book: Book::default(),
            outbox: VecDeque::new(),
            dials: HashMap::new(),
            wake: Wake::new(),
        };
        match heard {
            Ok(heard) => {
                actor.refresh_listen_addrs();
                actor.listeners = heard.iter().map(|(id, _)| *id).collect();
                actor.outbox.extend(heard.into_iter().map(|(_, addr)| NetEvent::Listening(addr)));
                let _ = ready.send(Ok(()));
                actor.run().await
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                None
            }
        }
    })
    .await?;
    Ok(Net { handle: NetHandle { shared, commands, bulk: bulk_commands }, events, bulk })
}

/// Runs an actor on a thread and a current-thread runtime of its own; returns once the actor says that it is
/// ready. One thread per swarm keeps a connection's tasks and its actor on one core.
async fn spawn<F>(
    name: &'static str,
    actor: impl FnOnce(oneshot::Sender<Result<(), NetError>>) -> F + Send + 'static,
) -> Result<(), NetError>
where
    F: Future<Output = Option<oneshot::Sender<()>>>,
{
    let (ready, is_ready) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NetError::Thread)?;
    let body = move || {
        let done = runtime.block_on(actor(ready));
        close(runtime);
        if let Some(done) = done {
            // The asker may have gone.
            let _ = done.send(());
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(body).map_err(NetError::Thread)?;
    is_ready.await.unwrap_or(Err(NetError::Ended))
}

/// Ends the connections' tasks, which hold the sockets.
fn close(runtime: Runtime) {
    drop(runtime);
}

fn build_swarm<B: swarm::NetworkBehaviour>(gate: &Gate, local: NodeId, behaviour: B, idle: Duration) -> Swarm<B> {
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(idle)
        .with_max_negotiating_inbound_streams(NEGOTIATING_MAX);
    Swarm::new(transport::build(gate.clone()), behaviour, peer_id_of(local), config)
}

fn limits() -> connection_limits::Behaviour {
    connection_limits::Behaviour::new(
        connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(HANDSHAKES_MAX))
            .with_max_pending_outgoing(Some(DIALS_MAX))
            .with_max_established(Some(CONNECTIONS_MAX))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX)),
    )
}

/// libp2p lets two processes share a port and split its connections; we want the second to fail.
fn check_free(addr: &Multiaddr) -> Result<(), NetError> {
    let Some((_, None)) = addrs::split(addr) else {
        return Err(NetError::BadAddress(addr.clone()));
    };
    let socket = addrs::socket_addr(addr).ok_or_else(|| NetError::BadAddress(addr.clone()))?;
    TcpListener::bind(socket).map(drop).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => NetError::PortInUse { addr: addr.clone() },
        _ => NetError::Listen { addr: addr.clone(), source },
    })
}

/// Listens, and waits until each listener has told its first address; the others follow as events.
async fn listen_on<B: swarm::NetworkBehaviour>(
    swarm: &mut Swarm<B>,
    wanted: &[Multiaddr],
) -> Result<Vec<(ListenerId, Multiaddr)>, NetError> {
    let mut silent = HashMap::new();
    for addr in wanted {
        let id = swarm
            .listen_on(addr.clone())
            .map_err(|error| NetError::Listen { addr: addr.clone(), source: io::Error::other(error.to_string()) })?;
        silent.insert(id, addr.clone());
    }
    let mut heard = Vec::new();
    while !silent.is_empty() {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                silent.remove(&listener_id);
                heard.push((listener_id, address));
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some(addr) = silent.remove(&listener_id) {
                    let source = reason.err().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into());
                    return Err(NetError::Listen { addr, source });
                }
            }
            _ => {}
        }
    }
    Ok(heard)
}

/// mDNS is a convenience: containers and clouds have no multicast, and the node runs without.
fn start_mdns(local: NodeId) -> Option<mdns::tokio::Behaviour> {
    let peer: PeerId = peer_id_of(local);
    mdns::tokio::Behaviour::new(mdns::Config::default(), peer)
        .inspect_err(|error| tracing::warn!(%error, "no mDNS: nodes on the LAN do not find each other by themselves"))
        .ok()
}
