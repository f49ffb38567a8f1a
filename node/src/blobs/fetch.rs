//! The fetcher's side of the protocol: [`fetch()`] brings blobs here from any of several providers.
//!
//! Each provider gets one stream and works through the plan (`plan.rs`) at its own pace (`session.rs`); what
//! it does not deliver goes back and to the others. Nothing is used before it is verified: small blobs are hashed in
//! memory, large ones proven chunk group by chunk group (`partial.rs`). Blobs that another fetch is
//! bringing already are waited for, not fetched twice. Which providers to ask is the caller's decision.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::{ContentId, NodeId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::error::BlobError;
use super::plan::Plan;
use super::session::Session;
use super::store::BlobStore;
use super::tree::WHOLE_MAX;

/// Providers asked at the same time; the others stand by.
pub(super) const PROVIDERS_MAX: usize = 8;
/// Opens a stream of the protocol [`super::PROTOCOL`] to a node. The net shell implements it.
pub trait OpenStream: Sync {
    /// The stream; its other end is handed to [`super::serve()`].
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Opens one. May be dropped before it is ready.
    fn open(&self, to: NodeId) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// One blob to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its id.
    pub id: ContentId,
    /// Its length in bytes, from a manifest. `None` where it is not known, as for a manifest's own blob;
    /// such a blob may have 64 MiB at most.
    pub size: Option<u64>,
}

/// How long a provider may take before its work is given to others.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To open a stream.
    pub open: Duration,
    /// To answer a request; a provider may have to build a hash tree first.
    pub answer: Duration,
    /// For each 256 KiB of data.
    pub chunk: Duration,
    /// Before a busy provider is asked again.
    pub busy: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            open: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            chunk: Duration::from_secs(10),
            busy: Duration::from_millis(250),
        }
    }
}

/// How far a fetch is. Bytes count when they arrive, and are taken back when they prove wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchProgress {
    /// Bytes of the blobs that are to be fetched, as far as known.
    pub bytes_total: u64,
    /// Of these, bytes here.
    pub bytes_done: u64,
    /// Blobs that are to be fetched.
    pub blobs_total: u64,
    /// Of these, blobs here and complete.
    pub blobs_done: u64,
}

/// What a finished fetch brought. What was here before, or came by another fetch, is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Blobs completed.
    pub blobs: u64,
    /// Bytes received and verified.
    pub bytes: u64,
}

/// Why a provider was given up.
#[derive(Debug, thiserror::Error)]
pub enum ProviderFailure {
    /// No stream to it.
    #[error("no stream: {0}")]
    Open(io::Error),
    /// Its stream broke, more than once.
    #[error("its stream broke: {0}")]
    Stream(io::Error),
    /// It sent nothing, or too little, for too long.
    #[error("it stalled")]
    Stalled,
    /// It was busy each time.
    #[error("it is busy")]
    Busy,
    /// It sent bytes that are not the blob's.
    #[error("it sent wrong bytes for blob {0}")]
    WrongBytes(ContentId),
    /// It claims another size than the manifest.
    #[error("it says that blob {id} has {said} bytes, not {expected:?}")]
    WrongSize {
        /// The blob.
        id: ContentId,
        /// Bytes that it says.
        said: u64,
        /// Bytes that were expected, if known.
        expected: Option<u64>,
    },
}

/// Why a fetch did not bring everything. What it brought stays, ranges of large blobs included.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No provider had or delivered these.
    #[error("{} cannot be fetched: {}", list(missing), explain(failures))]
    Unavailable {
        /// The blobs not here.
        missing: Vec<ContentId>,
        /// Providers given up. One that is not listed does not have them.
        failures: Vec<(NodeId, ProviderFailure)>,
    },
    /// This node's disk.
    #[error(transparent)]
    Store(#[from] BlobError),
}

/// Fetches what of `wanted` is not here from `providers`, which are asked in this order as far as not all
/// are asked at once. On success all of it is in the store, verified but not yet durable
/// ([`BlobStore::sync`]). The future may be dropped: what was verified stays and is not fetched again.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch<O: OpenStream>(
    store: &BlobStore,
    wanted: &[Wanted],
    providers: &[NodeId],
    opener: &O,
    progress: impl Fn(FetchProgress) + Send + Sync,
) -> Result<Fetched, FetchError> {
    fetch_with(store, wanted, providers, opener, Patience::default(), progress).await
}

/// [`fetch()`] with other limits on how long a provider may take.
///
/// # Errors
/// As [`fetch()`].
pub async fn fetch_with<O: OpenStream>(
    store: &BlobStore,
    wanted: &[Wanted],
    providers: &[NodeId],
    opener: &O,
    patience: Patience,
    progress: impl Fn(FetchProgress) + Send + Sync,
) -> Result<Fetched, FetchError> {
    let mut rest: BTreeMap<ContentId, Wanted> = wanted.iter().map(|wanted| (wanted.id, *wanted)).collect();
    let mut order: Vec<NodeId> = Vec::new();
    providers.iter().for_each(|node| {
        if !order.contains(node) {
            order.push(*node)
        }
    });
    let tally = Tally::default();
    loop {
        let mut changes = store.inner.flights.changed.subscribe();
        // Claimed first and looked for then: what another fetch finishes in between is not fetched again.
        let claim = Claim::of(store, rest.keys().copied());
        let absent = blocking(store, rest.values().copied().collect(), absent).await;
        rest = absent.into_iter().map(|wanted| (wanted.id, wanted)).collect();
        if rest.is_empty() {
            return Ok(tally.fetched());
        }
        let mine: Vec<Wanted> = rest.values().filter(|wanted| claim.ids.contains(&wanted.id)).copied().collect();
        if mine.is_empty() {
            drop(claim);
            // The sender lives in the store that we borrow.
            let _ = changes.changed().await;
            continue;
        }
        let held = blocking(store, mine.clone(), held_bytes).await;
        let known: u64 = mine.iter().filter_map(|wanted| wanted.size).sum();
        tally.begin(mine.len() as u64, known);
        let reserved = store.inner.space.reserve(store.dir(), known.saturating_sub(held))?;
        let plan = Plan::new(&mine, order.len().min(PROVIDERS_MAX));
        Session::new(store, opener, patience, plan, reserved, &tally, &progress).run(&order).await?;
    }
}

/// Those of `wanted` that are not here; the others are safe from a sweep by age.
fn absent(store: &BlobStore, mut wanted: Vec<Wanted>) -> Vec<Wanted> {
    wanted.retain(|wanted| match wanted.size {
        Some(size) => !store.renew(wanted.id, size),
        None => !store.touch(wanted.id),
    });
    wanted
}

/// Bytes on the disk that earlier fetches of the same blobs left.
fn held_bytes(store: &BlobStore, wanted: Vec<Wanted>) -> u64 {
    let large = wanted.iter().filter(|wanted| wanted.size.is_some_and(|size| size > WHOLE_MAX));
    // `blocks` counts 512 bytes each, whatever the file system's own unit.
    large.filter_map(|wanted| std::fs::metadata(store.partial_path(wanted.id)).ok()).map(|m| m.blocks() * 512).sum()
}

async fn blocking<T, R: Send + 'static>(store: &BlobStore, input: T, work: fn(&BlobStore, T) -> R) -> R
where
    T: Send + 'static,
{
    let store = store.clone();
    joined(tokio::task::spawn_blocking(move || work(&store, input))).await
}

/// A blocking task's result; its panic is ours.
pub(super) async fn joined<R>(task: tokio::task::JoinHandle<R>) -> R {
    match task.await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The blobs that some fetch of this store is bringing.
#[derive(Default)]
pub(super) struct Flights {
    claimed: Mutex<HashSet<ContentId>>,
    changed: watch::Sender<u64>,
}

impl Flights {
    pub(super) fn contains(&self, id: ContentId) -> bool {
        lock(&self.claimed).contains(&id)
    }
}

/// One fetch's exclusive right to bring some blobs; given up when dropped.
struct Claim<'a> {
    flights: &'a Flights,
    ids: HashSet<ContentId>,
}

impl<'a> Claim<'a> {
    fn of(store: &'a BlobStore, ids: impl Iterator<Item = ContentId>) -> Self {
        let flights = &store.inner.flights;
        let mut claimed = lock(&flights.claimed);
        Self { flights, ids: ids.filter(|&id| claimed.insert(id)).collect() }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let mut claimed = lock(&self.flights.claimed);
        claimed.retain(|id| !self.ids.contains(id));
        drop(claimed);
        self.flights.changed.send_modify(|changes| *changes += 1);
    }
}

/// A lock that no panic of another holder may turn into ours: what it guards is whole between statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters of one fetch.
#[derive(Default)]
pub(super) struct Tally {
    bytes_total: AtomicU64,
    pub(super) bytes_done: AtomicU64,
    blobs_total: AtomicU64,
    pub(super) blobs_done: AtomicU64,
    /// Bytes that came over the network and were verified.
    pub(super) received: AtomicU64,
}

impl Tally {
    fn begin(&self, blobs: u64, bytes: u64) {
        self.blobs_total.fetch_add(blobs, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn progress(&self) -> FetchProgress {
        FetchProgress {
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            blobs_total: self.blobs_total.load(Ordering::Relaxed),
            blobs_done: self.blobs_done.load(Ordering::Relaxed),
        }
    }

    fn fetched(&self) -> Fetched {
        Fetched { blobs: self.blobs_done.load(Ordering::Relaxed), bytes: self.received.load(Ordering::Relaxed) }
    }
}

fn list(missing: &[ContentId]) -> String {
    match missing {
        [only] => format!("blob {}", only.short()),
        [first, ..] => format!("{} blobs ({} and others)", missing.len(), first.short()),
        [] => "nothing".to_owned(),
    }
}

fn explain(failures: &[(NodeId, ProviderFailure)]) -> String {
    let Some((node, failure)) = failures.first() else {
        return "none of the nodes asked has it; it may come back with the node that made it".to_owned();
    };
    let others = match failures.len() {
        1 => String::new(),
        count => format!(" (and {} more nodes failed)", count - 1),
    };
    format!("node {}: {failure}{others}", node.short())
}
