//! From a configuration to a running node: data directory, store, identity, cluster, network, runner, core.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::core::Boot;
use proto::entry::Identity as Signer;
use proto::record::{Record, RecordKey};
use proto::ticket::{Ticket, TicketError};
use proto::{Core, NodeId};
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::time::Instant;

use super::actor::{Actor, SERVED_MAX, State};
use super::attempts::{Attempts, Context};
use super::blob_link::BlobLink;
use super::cluster::{Cluster, ClusterError};
use super::config::Config;
use super::elsewhere::Elsewhere;
use super::handle::{Command, NodeHandle, Shared, removed_text, unix_ms};
use super::home::Home;
use super::machine::Machine;
use super::peers::Peers;
use super::ran_with::RanWiths;
use super::secrets::Secrets;
use super::tracking::{self, Tracks};
use super::values::{self, Values};
use super::{elsewhere, flight, value_socket};
use crate::blobs::{BlobError, BlobStore};
use crate::exec::client::{RunnerError, RunnerHandle, RunnerLaunch};
use crate::exec::environment::{EnvironmentError, Environments};
use crate::exec::inventory::Caps;
use crate::exec::runner::RunnerFiles;
use crate::net::{self, DialError, GateRules, IdentityError, Multiaddr, Net, NetConfig, NetError, NetHandle};
use crate::objects::{Credentials, CredentialsError, Objects};
use crate::store::{Recovered, Store, StoreError};

/// Commands that may wait for the loop; beyond it, callers wait.
const COMMANDS_MAX: usize = 1024;
/// News that a slow listener may fall behind.
const NEWS_MAX: usize = 4096;
/// How long joining waits for any of a ticket's addresses.
const JOIN_MAX: Duration = Duration::from_secs(15);

/// A node that runs until its handle's `shutdown`.
pub struct Running {
    /// To ask it things.
    pub handle: NodeHandle,
    /// What was found wrong and mended while it started, one line each.
    pub notices: Vec<String>,
    /// Where peers can reach it.
    pub addrs: Vec<Multiaddr>,
    /// Whether this start founded a new cluster.
    pub is_new_cluster: bool,
    /// Ends when the node has.
    pub ended: tokio::task::JoinHandle<()>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {dir}: {source}; choose another with --home")]
    Home {
        /// Which.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store cannot be used; most often another daemon has it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob store cannot be used.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The node's key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cluster file cannot be used.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The ticket cannot be used.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The network does not start.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The runner does not start.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// The environments' directory cannot be used.
    #[error(transparent)]
    Environments(#[from] EnvironmentError),
    /// The file with credentials for object stores cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The node belongs to a cluster with others already.
    #[error(
        "cannot join: the ticket is for cluster \"{theirs}\", this node belongs to \"{ours}\" with {others} other nodes; start with another --home, or ask a member of \"{ours}\" for a ticket (fnode invite)"
    )]
    OtherCluster {
        /// The ticket's.
        theirs: String,
        /// This node's.
        ours: String,
        /// Its other members.
        others: usize,
    },
    /// No address of the ticket let this node in.
    #[error("cannot join cluster \"{cluster}\": {reason}")]
    Join {
        /// The ticket's.
        cluster: String,
        /// What the last address said.
        reason: DialError,
    },
    /// No address of the ticket answered.
    #[error(
        "cannot join cluster \"{cluster}\": none of its {addrs} addresses answered within {}s; is a member running, and is its port open?",
        JOIN_MAX.as_secs()
    )]
    JoinTimeout {
        /// The ticket's.
        cluster: String,
        /// How many were tried.
        addrs: usize,
    },
}

/// Starts a node. When this returns it takes submissions.
///
/// # Errors
/// [`StartError`]: one line, and nothing is left half done.
pub async fn start(config: Config) -> Result<Running, StartError> {
    make_home(&config.home)?;
    let (store, recovered) = Store::open(&config.home.store())?;
    // With the store's lock nobody else makes this directory's identity.
    let is_fresh = recovered.heads.is_empty() && !config.home.identity().exists();
    let home = config.home.clone();
    let started = begin(config, store.clone(), recovered).await;
    if is_fresh && started.is_err() {
        forget(&home);
    }
    started
}

/// Takes back what a first start wrote that came to nothing: the next one, with a ticket perhaps, is a first one again.
fn forget(home: &Home) {
    for file in [home.identity(), home.cluster()] {
        let _ = std::fs::remove_file(file);
    }
    let _ = std::fs::remove_dir_all(home.store());
    // Those that are empty.
    for dir in [home.jobs(), home.checkpoints(), home.sdk()] {
        let _ = std::fs::remove_dir(dir);
    }
}

async fn begin(config: Config, store: Store, recovered: Recovered) -> Result<Running, StartError> {
    let keys = net::load_or_create_identity(&config.home.identity())?;
    let me = keys.node_id();
    let (cluster, is_new) = choose_cluster(&config, me, &recovered)?;
    let seed = keys.secret_key();
    let Net { handle: net, events, bulk } = net::start(net_config(&config, &cluster, keys, &recovered)).await?;
    if let Some(ticket) = &config.join {
        join(&net, ticket).await?;
    }
    cluster.save(&config.home.cluster())?;
    // A damaged incarnation file must not bring an earlier life back: the log knows the last one, too.
    let lived = recovered.heads.keys().filter(|log| log.author == me).map(|log| log.incarnation + 1).max();
    let incarnation = store.bump_incarnation(unix_ms().max(lived.unwrap_or(0)))?;
    let labels = config.labels.clone();
    let caps = Caps { cpu_milli: config.cpu_milli_max, memory: config.memory_max, gpus: config.gpus_max };
    let machine = Machine::probe(caps, config.home.dir(), labels);
    let blobs = BlobStore::open(&config.home.blobs())?;
    let (news, _) = broadcast::channel(NEWS_MAX);
    let mut notices = recovered.notices.clone();
    let is_removed = config.home.removed().exists();
    if is_removed {
        notices.push(removed_text(&cluster.name));
    }
    // Jobs that do not import it run all the same.
    let sdk = crate::sdk::unpack(&config.home.sdk());
    let sdk = sdk.map_err(|error| notices.push(format!("jobs cannot import foundations: {error}"))).ok();
    let cache = config.home.cache();
    let values = Values::open(&cache).map_err(|source| StartError::Home { dir: cache, source })?;
    let credentials = Credentials::read(&config.home.storage_env())?;
    let dir = config.home.elsewhere();
    let (objects, places) = (Objects::new(credentials), config.places.clone());
    let elsewhere = Elsewhere::open(dir.clone(), objects, places, Signer::from_seed(seed));
    let elsewhere = elsewhere.map_err(|source| StartError::Home { dir, source })?;
    let shared = Arc::new(Shared {
        home: config.home.clone(),
        me,
        name: config.name.clone(),
        cluster: (cluster.id, cluster.name.clone()),
        blob_link: BlobLink { blobs: blobs.clone(), store: store.clone(), net: net.clone() },
        blobs,
        store,
        net,
        secrets: Secrets::new(config.home.secrets()),
        tracks: Tracks::default(),
        machine: machine.clone(),
        ran_withs: RanWiths::default(),
        values,
        elsewhere,
        sdk,
        exe: config.exe.clone(),
        is_removed: is_removed.into(),
        news,
    });
    tokio::spawn(serve_bulk(shared.clone(), bulk));
    let environments = Environments::open(&config.home.environments())?;
    let (runner, runner_events) = RunnerHandle::connect_or_spawn(runner_launch(&config)?).await?;
    let (commands, command_inbox) = mpsc::channel(COMMANDS_MAX);
    let (done, done_inbox) = mpsc::unbounded_channel();
    let removed = removed_members(&recovered);
    let addrs = dialable(&shared);
    note_place(&config.home, &config.name, &addrs);
    let core = Core::new(Boot {
        identity: Signer::from_seed(seed),
        incarnation,
        name: config.name.clone(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        hlc: recovered.hlc(me),
        heads: recovered.heads,
        snapshots: recovered.snapshots,
        floors: recovered.floors,
        snapshot_rules: config.snapshot_rules,
        records: recovered.live,
        capacity: machine.capacity(),
        addrs: addrs.iter().map(ToString::to_string).collect(),
        seed: rand::random(),
    });
    let actor = Actor {
        core,
        attempts: Attempts::new(Context { shared: shared.clone(), environments }, runner, done),
        machine,
        cluster,
        removed,
        commands: command_inbox,
        net: events,
        runner: runner_events,
        done: done_inbox,
        inner: mpsc::unbounded_channel(),
        peers: Peers::load(config.home.peers()),
        started: Instant::now(),
        state: State::default(),
        shared: shared.clone(),
    };
    tokio::spawn(tracking::watch(shared.clone(), actor.inner.0.clone()));
    let looking = shared.clone();
    tokio::task::spawn_blocking(move || looking.ran_withs.warm(&looking));
    let ended = tokio::spawn(actor.run());
    let handle = NodeHandle { commands, shared };
    tokio::spawn(super::gc::keep_house(handle.clone(), config.retention));
    tokio::spawn(super::gc::keep_small());
    match value_socket::open(&config.home.cache_socket()) {
        Ok(listener) => drop(tokio::spawn(value_socket::serve(handle.clone(), listener))),
        Err(error) => notices.push(format!("programs keep cached values on this machine only: {error}")),
    }
    tokio::spawn(elsewhere::deliver(handle.clone()));
    tokio::spawn(flight::keep_renewing(handle.clone()));
    tokio::spawn(values::adopt(handle.clone()));
    Ok(Running { handle, notices, addrs, is_new_cluster: is_new, ended })
}

fn make_home(home: &Home) -> Result<(), StartError> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let make = |dir: PathBuf| {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| StartError::Home { dir, source })
    };
    make(home.dir().to_owned())?;
    // Whoever made it: names of secrets and files are nobody else's business.
    let private = std::fs::Permissions::from_mode(0o700);
    let closed = std::fs::set_permissions(home.dir(), private);
    closed.map_err(|source| StartError::Home { dir: home.dir().to_owned(), source })?;
    make(home.run())?;
    make(home.jobs())?;
    make(home.sdk())?;
    make(home.checkpoints())
}

/// The cluster of the ticket, else the one it was in, else a new one.
fn choose_cluster(config: &Config, me: NodeId, recovered: &Recovered) -> Result<(Cluster, bool), StartError> {
    let known = Cluster::load(&config.home.cluster())?;
    let Some(ticket) = &config.join else {
        let is_new = known.is_none();
        return Ok((known.unwrap_or_else(|| Cluster::found(&config.name)), is_new));
    };
    ticket.check_not_expired(unix_ms())?;
    let joined = |previous| Cluster {
        id: ticket.cluster,
        name: ticket.cluster_name.clone(),
        secret: ticket.secret.clone(),
        previous,
    };
    match known {
        Some(known) if known.id == ticket.cluster => {
            // An old ticket of its own cluster does not take a newer secret away.
            if known.secret.number >= ticket.secret.number {
                Ok((known, false))
            } else {
                Ok((joined(Some(known.secret)), false))
            }
        }
        Some(known) => {
            let others = members(recovered).filter(|&node| node != me).count();
            if others > 0 {
                return Err(StartError::OtherCluster { theirs: ticket.cluster_name.clone(), ours: known.name, others });
            }
            // A cluster of one brings its log along: entries are its own, whatever cluster they are told in.
            Ok((joined(None), false))
        }
        None => Ok((joined(None), false)),
    }
}

fn members(recovered: &Recovered) -> impl Iterator<Item = NodeId> + '_ {
    recovered.live.iter().filter_map(|(key, record)| match (key, record) {
        (RecordKey::Node(node), Record::Node(record)) if !record.removed => Some(*node),
        _ => None,
    })
}

fn removed_members(recovered: &Recovered) -> BTreeSet<NodeId> {
    let removed = recovered.live.iter().filter_map(|(key, record)| match (key, record) {
        (RecordKey::Node(node), Record::Node(record)) if record.removed => Some(*node),
        _ => None,
    });
    removed.collect()
}

/// Who gets in: whoever has the secret and was not removed; with the one before it, members alone.
pub(super) fn gate(cluster: &Cluster, members: BTreeSet<NodeId>, removed: BTreeSet<NodeId>) -> GateRules {
    GateRules {
        current: cluster.secret.clone(),
        previous: cluster.previous.clone(),
        may_enter_by_previous: members,
        shut_out: removed,
    }
}

fn net_config(config: &Config, cluster: &Cluster, identity: net::Identity, recovered: &Recovered) -> NetConfig {
    let multiaddr = |addr: &std::net::SocketAddr, port: u16| {
        Multiaddr::from(addr.ip()).with(libp2p::multiaddr::Protocol::Tcp(port))
    };
    NetConfig {
        identity,
        cluster: cluster.id,
        gate: gate(cluster, members(recovered).collect(), removed_members(recovered)),
        listen: config.listen.iter().map(|addr| multiaddr(addr, port(&config.home, addr))).collect(),
        // Told to peers in the first word of every connection; any port will do.
        bulk_listen: config.listen.iter().map(|addr| multiaddr(addr, 0)).collect(),
        mdns: config.mdns,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocols: Vec::new(),
    }
}

/// The port to listen on. Any port will do when it is 0: then the last one, if it is free, because that is where the
/// others look for this node when all of them were away.
fn port(home: &Home, addr: &std::net::SocketAddr) -> u16 {
    let last = || std::fs::read_to_string(home.last_port()).ok()?.trim().parse::<u16>().ok();
    let is_free = |port: &u16| *port > 0 && std::net::TcpListener::bind((addr.ip(), *port)).is_ok();
    match addr.port() {
        0 => last().filter(is_free).unwrap_or(0),
        port => port,
    }
}

/// Notes name and port for the next start; a node that they are not noted of is only harder to find.
fn note_place(home: &Home, name: &str, addrs: &[Multiaddr]) {
    let _ = std::fs::write(home.last_name(), name);
    let port = addrs.iter().flat_map(Multiaddr::iter).find_map(|part| match part {
        libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    if let Some(port) = port {
        let _ = std::fs::write(home.last_port(), port.to_string());
    }
}

/// Dials every address of the ticket at once; the first that lets this node in is enough.
async fn join(net: &NetHandle, ticket: &Ticket) -> Result<(), StartError> {
    let addrs: Vec<Multiaddr> = ticket.addrs.iter().filter_map(|addr| addr.parse().ok()).collect();
    let cluster = ticket.cluster_name.clone();
    let count = addrs.len();
    let mut dials = tokio::task::JoinSet::new();
    for addr in addrs {
        let net = net.clone();
        dials.spawn(async move { net.dial(addr).await });
    }
    let first = async {
        let mut last = None;
        while let Some(dialled) = dials.join_next().await {
            match dialled {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => last = Some(error),
                Err(_) => {}
            }
        }
        Err(last)
    };
    match tokio::time::timeout(JOIN_MAX, first).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Some(reason))) => Err(StartError::Join { cluster, reason }),
        Ok(Err(None)) | Err(_) => Err(StartError::JoinTimeout { cluster, addrs: count }),
    }
}

fn runner_launch(config: &Config) -> Result<RunnerLaunch, StartError> {
    let exe = config.exe.clone();
    let daemon: Vec<OsString> = match std::env::var("FNODE_RESPAWN") {
        Ok(off) if off == "0" => Vec::new(),
        _ => std::iter::once(exe.clone().into_os_string())
            .chain(config.respawn_args.iter().map(OsString::from))
            .collect(),
    };
    let files =
        RunnerFiles::new(&config.home.run()).map_err(|source| StartError::Home { dir: config.home.run(), source })?;
    Ok(RunnerLaunch { files, exe, daemon_command: daemon })
}

/// Where peers can reach this node, with its identity.
pub(super) fn dialable(shared: &Shared) -> Vec<Multiaddr> {
    let peer = net::peer_id_of(shared.me);
    let addrs = shared.net.listen_addrs();
    addrs.into_iter().map(|addr| addr.with_p2p(peer).unwrap_or_else(|addr| addr)).collect()
}

/// Hands streams that peers open to the shell that serves them.
async fn serve_bulk(shared: Arc<Shared>, mut inbound: mpsc::Receiver<net::InboundBulk>) {
    let served = Arc::new(Semaphore::new(SERVED_MAX));
    while let Some(net::InboundBulk { from, protocol, stream }) = inbound.recv().await {
        let Ok(permit) = served.clone().try_acquire_owned() else {
            tracing::debug!(peer = %from.short(), max = SERVED_MAX, "too many streams");
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            match protocol {
                net::BulkProtocol::Blobs => {
                    if let Err(error) = crate::blobs::serve(stream, &shared.blobs).await {
                        tracing::debug!(peer = %from.short(), %error, "serving blobs ended");
                    }
                }
                net::BulkProtocol::Tail => super::tail::serve(shared.clone(), stream).await,
                net::BulkProtocol::Ask => super::ask::serve(shared.clone(), from, stream).await,
                net::BulkProtocol::Tunnel => tracing::debug!("tunnels are not served yet"),
            }
            drop(permit);
        });
    }
}

/// Commands reach the loop through a channel of this kind.
pub(super) type CommandInbox = mpsc::Receiver<Command>;
