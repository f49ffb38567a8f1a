//! Values of cached calls: bringing one to this machine, keeping one that a program computed, and following what the
//! log says of all of them. Who computes while others wait is `flight.rs`; programs come in by `value_socket.rs`.
//!
//! The log is the index of the cache. What lies in its directory (`value_files.rs`) follows: a record is written when a
//! program asks, and removed when the log does not name its value any more. Which value counts is `proto::value`'s.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::event::{Event, INLINE_MAX};
use proto::lease::Leases;
use proto::record::{Record, RecordKey};
use proto::{ByteSize, ContentId, NodeId, Timestamp, ValueKey, ValueNote, ValueRecord};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::copies;
use super::elsewhere;
use super::flight::Flights;
use super::handle::{NodeError, NodeHandle, Shared, unix_ms};
use super::hits::Hits;
use super::value_files::{Bytes, RECORD_INLINE_MAX, RecordLine, Seen, ValueFiles};
use crate::store::StoreError;

/// Keys that changed and that a waiter may not have looked at yet; one that misses some looks again.
const CHANGES_MAX: usize = 1024;
/// Names of functions, projects and users are no longer than this, in bytes.
pub(super) const NAME_MAX: usize = 1024;
/// Records read from the store at a time.
const BATCH: usize = 500;

/// What a node keeps of the cache in memory: who computes, and who waits.
pub(super) struct Values {
    pub(super) files: ValueFiles,
    pub(super) flights: Flights,
    leases: Mutex<Leases>,
    /// Keys of which something changed: a lease was let go, or the log told of a value.
    changed: broadcast::Sender<ValueKey>,
    started: Instant,
    pub(super) hits: Hits,
}

/// A value that counts, as all nodes know it.
pub(super) struct Known {
    pub(super) key: ValueKey,
    pub(super) maker: NodeId,
    pub(super) note: ValueNote,
    pub(super) is_kept: bool,
}

/// A value that a program hands over.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) key: ValueKey,
    pub(super) function: String,
    pub(super) project: String,
    pub(super) user: String,
    pub(super) took_ms: u64,
    pub(super) made_unix_ms: u64,
    pub(super) expires_unix_ms: Option<u64>,
    pub(super) parts: ContentId,
    pub(super) given: Given,
}

/// Its bytes.
#[derive(Clone, Debug)]
pub(super) enum Given {
    Here(Vec<u8>),
    /// A file that is moved into the blob store.
    File(PathBuf),
}

impl Values {
    /// The cache in the directory `dir`.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let files = ValueFiles::open(dir)?;
        Ok(Self {
            files,
            hits: Hits::open(dir),
            flights: Flights::default(),
            leases: Mutex::default(),
            changed: broadcast::channel(CHANGES_MAX).0,
            started: Instant::now(),
        })
    }

    /// The time that leases are told by.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The leases that this node keeps.
    pub(super) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that wait for this key look again.
    pub(super) fn tell_changed(&self, key: ValueKey) {
        // Nobody need be waiting.
        let _ = self.changed.send(key);
    }

    pub(super) fn changes(&self) -> broadcast::Receiver<ValueKey> {
        self.changed.subscribe()
    }
}

/// Waits until something changed of `key`, or everything may have, but not longer than `max`.
pub(super) async fn changed(changes: &mut broadcast::Receiver<ValueKey>, key: ValueKey, max: Duration) {
    let told = async { while changes.recv().await.is_ok_and(|changed| changed != key) {} };
    let _ = tokio::time::timeout(max, told).await;
}

/// Gets the value of `key` onto this machine, checked, with its record. False: there is none that can be had.
///
/// # Errors
/// [`NodeError`], of this machine.
pub(super) async fn bring(node: &NodeHandle, key: ValueKey) -> Result<bool, NodeError> {
    let shared = node.shared.clone();
    let elsewhere = match blocking(move || find_here(&shared, key)).await? {
        Here::Written => return Ok(true),
        Here::Missing(values) => values,
    };
    for (maker, note) in elsewhere {
        if !fetch(node, maker, &note).await {
            continue;
        }
        let shared = node.shared.clone();
        let write = move || write_record(&shared, key, maker, &note, seen(&shared, &note));
        if blocking(write).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl NodeHandle {
    /// How much of these values lies on which node: at their makers, and here. Small ones are everywhere.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn near(&self, keys: Vec<ValueKey>) -> Result<BTreeMap<NodeId, ByteSize>, NodeError> {
        let (shared, me) = (self.shared.clone(), self.me());
        blocking(move || {
            let mut near: BTreeMap<NodeId, ByteSize> = BTreeMap::new();
            for key in keys {
                let known = shared.store.value(key)?.unwrap_or_default();
                let Some((maker, note)) = known.canonical(unix_ms()).filter(|(_, note)| !note.is_inline()) else {
                    continue;
                };
                let here = shared.blobs.has(note.content).map(|_| me).filter(|&me| me != maker);
                for node in [Some(maker), here].into_iter().flatten() {
                    near.entry(node).or_default().0 += note.bytes;
                }
            }
            Ok(near)
        })
        .await
    }
}

/// What of a key this machine has.
enum Here {
    Written,
    /// Nothing; these are known, in the order in which they count.
    Missing(Vec<(NodeId, ValueNote)>),
}

fn find_here(shared: &Shared, key: ValueKey) -> Result<Here, NodeError> {
    let fresh = fresh(&shared.store.value(key)?.unwrap_or_default());
    for (maker, note) in &fresh {
        // A program asks when its own look found nothing, so what is here may be damaged. How the file looks is noted
        // first: what changes it while it is hashed is noticed by who reads it.
        let seen = seen(shared, note);
        let is_here = note.is_inline() || shared.blobs.check(note.content)?;
        if is_here && write_record(shared, key, *maker, note, seen)? {
            return Ok(Here::Written);
        }
    }
    Ok(Here::Missing(fresh))
}

fn fresh(record: &ValueRecord) -> Vec<(NodeId, ValueNote)> {
    let now = unix_ms();
    let fresh = record.values.iter().filter(|(_, value)| value.is_fresh(now));
    fresh.map(|(stamp, value)| (stamp.position.log.author, value.clone())).collect()
}

/// From its maker, else from whoever says that it has it.
async fn fetch(node: &NodeHandle, maker: NodeId, note: &ValueNote) -> bool {
    let (shared, wanted) = (&node.shared, [(note.content, note.bytes)]);
    let Ok(others) = node.providers().await else { return false };
    if others.contains(&maker) && shared.blob_link.fetch(&wanted, &[maker]).await.is_ok() {
        return true;
    }
    let others: Vec<NodeId> = others.into_iter().filter(|&other| other != maker).collect();
    let holders: Vec<NodeId> = copies::blob_holders(shared, note.content, &others).await.into_iter().collect();
    !holders.is_empty() && shared.blob_link.fetch(&wanted, &holders).await.is_ok()
}

/// How the file of a value's bytes looks now; `None`: it is not here.
fn seen(shared: &Shared, note: &ValueNote) -> Option<Seen> {
    Seen::of(&shared.blobs.path_of(note.content))
}

/// Writes the record of a value whose bytes are here, in a file that looked as `seen` before they were found to be right.
/// False: they are not, or the value was purged meanwhile.
fn write_record(
    shared: &Shared,
    key: ValueKey,
    maker: NodeId,
    note: &ValueNote,
    seen: Option<Seen>,
) -> Result<bool, NodeError> {
    let (files, line) = (&shared.values.files, RecordLine::new(key, maker, note));
    let small = if note.is_inline() { shared.store.inline(note.content)? } else { None };
    let written = match (small, seen) {
        (Some(bytes), _) => files.write(line, Bytes::Here(&bytes)),
        _ if shared.blobs.has(note.content) != Some(note.bytes) => return Ok(false),
        _ if note.bytes <= RECORD_INLINE_MAX => {
            files.write(line, Bytes::Here(&shared.blobs.read_small(note.content, RECORD_INLINE_MAX)?))
        }
        (None, None) => return Ok(false),
        (None, Some(seen)) => files.write(line, Bytes::Blob(&shared.blobs.path_of(note.content), seen)),
    };
    written.map_err(|source| NodeError::Cache { dir: shared.home.cache(), source })?;
    // A purge that came in between has found no record to remove.
    let known = shared.store.value(key)?.unwrap_or_default();
    let is_known = known.values.values().any(|value| value.content == note.content);
    if !is_known {
        files.remove(key);
    }
    Ok(is_known)
}

/// Keeps a value: durable here, told in the log, and found by programs on this machine when this returns. Its length.
///
/// # Errors
/// [`NodeError`]; then nobody finds it.
pub(super) async fn keep(node: &NodeHandle, offer: Offer) -> Result<u64, NodeError> {
    let (key, shared) = (offer.key, node.shared.clone());
    let (note, inline) = blocking(move || take_in(&shared, offer)).await?;
    let known = node.shared.store.value(key)?.unwrap_or_default();
    let now = unix_ms();
    if known.is_stale(now) {
        node.write(Event::ValuePurged { key }).await?;
    }
    // Told once: a value that was evicted here, and computed again, is the one that everybody knows.
    let is_known = known.canonical(now).is_some_and(|(_, value)| value.content == note.content);
    if !is_known {
        node.write(Event::ValueMade { key, value: Box::new(note.clone()), inline }).await?;
    }
    let (shared, bytes, me) = (node.shared.clone(), note.bytes, node.me());
    blocking(move || write_record(&shared, key, me, &note, seen(&shared, &note))).await?;
    Ok(bytes)
}

/// Makes the bytes durable: in the blob store, or in the event that will tell of them.
fn take_in(shared: &Shared, offer: Offer) -> Result<(ValueNote, Vec<Vec<u8>>), NodeError> {
    let (content, bytes, inline) = match offer.given {
        Given::Here(bytes) if bytes.len() <= INLINE_MAX => (ContentId::of(&bytes), bytes.len() as u64, vec![bytes]),
        Given::Here(bytes) => (shared.blobs.put_bytes(&bytes)?, bytes.len() as u64, Vec::new()),
        Given::File(path) => {
            let (content, bytes) = shared.blobs.take_file(&path)?;
            // Short values ride, however they came.
            let small = bytes <= INLINE_MAX as u64;
            let inline = if small { vec![shared.blobs.read_small(content, INLINE_MAX as u64)?] } else { Vec::new() };
            (content, bytes, inline)
        }
    };
    if inline.is_empty() {
        shared.blobs.sync(&[content])?;
    }
    let note = ValueNote {
        content,
        bytes,
        function: offer.function,
        project: offer.project,
        user: offer.user,
        took_ms: offer.took_ms,
        made_unix_ms: offer.made_unix_ms,
        expires_unix_ms: offer.expires_unix_ms,
        parts: offer.parts,
    };
    Ok((note, inline))
}

/// Hides every value of `key`, on every node; its bytes go with the next collection of what nothing names.
///
/// # Errors
/// [`NodeError`].
pub(super) async fn purge(node: &NodeHandle, key: ValueKey) -> Result<(), NodeError> {
    node.write(Event::ValuePurged { key }).await?;
    let shared = node.shared.clone();
    blocking(move || {
        elsewhere::cached::forget(&shared, key);
        shared.values.files.remove(key);
        Ok(())
    })
    .await
}

/// Tells every node that the value of `key` is not to be evicted, or may be again.
///
/// # Errors
/// [`NodeError`].
pub(super) async fn pin(node: &NodeHandle, key: ValueKey, kept: bool) -> Result<(), NodeError> {
    node.write(Event::ValueKept { key, kept }).await
}

/// Follows what the log tells: whoever waits looks again, and a record that names no value that counts is removed.
pub(super) fn follow(shared: &Arc<Shared>, changed: &[(RecordKey, Record)]) {
    let mut ours = Vec::new();
    for (key, record) in changed {
        if let (RecordKey::Value(key), Record::Value(record)) = (key, record) {
            if record.values.is_empty() {
                shared.values.leases().purge(*key);
            }
            ours.push((*key, record.canonical(unix_ms()).map(|(_, value)| value.content)));
        }
    }
    if ours.is_empty() {
        return;
    }
    let shared = shared.clone();
    tokio::task::spawn_blocking(move || {
        for (key, content) in ours {
            if content.is_none_or(|content| !shared.values.files.names(key, content)) {
                shared.values.files.remove(key);
            }
            shared.values.tell_changed(key);
        }
    });
}

/// Follows a snapshot of the log, which does not tell which values it changed: every record here is looked at.
pub(super) fn follow_base(shared: &Arc<Shared>) {
    let shared = shared.clone();
    tokio::task::spawn_blocking(move || {
        let files = &shared.values.files;
        for key in files.keys().unwrap_or_default() {
            // What a program kept by itself waits to be taken over.
            let is_ours = files.read(key).is_none_or(|(line, _)| line.node.is_some());
            let known = shared.store.value(key).ok().flatten().unwrap_or_default();
            let canonical = known.canonical(unix_ms()).map(|(_, value)| value.content);
            if is_ours && canonical.is_none_or(|content| !files.names(key, content)) {
                files.remove(key);
            }
            shared.values.tell_changed(key);
        }
    });
}

/// Takes over what programs kept while no daemon ran, and removes records of what was purged meanwhile.
pub(super) async fn adopt(node: NodeHandle) {
    let shared = node.shared.clone();
    let listed = blocking(move || {
        shared.values.files.tidy();
        shared.values.files.keys().map_err(|source| NodeError::Cache { dir: shared.home.cache(), source })
    });
    let keys = match listed.await {
        Ok(keys) => keys,
        Err(error) => return tracing::warn!(%error, "the cache's directory is not looked at"),
    };
    for key in keys {
        let shared = node.shared.clone();
        let looked = blocking(move || orphan(&shared, key)).await;
        let adopted = match looked {
            Ok(Some(offer)) => keep(&node, offer).await.map(drop),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = adopted {
            tracing::warn!(key = %key.short(), %error, "a cached value is not taken over");
        }
    }
}

/// What a program kept by itself; anything else that the log does not name is removed.
fn orphan(shared: &Shared, key: ValueKey) -> Result<Option<Offer>, NodeError> {
    let known = shared.store.value(key)?.unwrap_or_default();
    let canonical = known.canonical(unix_ms()).map(|(_, value)| value.content);
    let files = &shared.values.files;
    if canonical.is_some_and(|content| files.names(key, content)) {
        return Ok(None);
    }
    let found = files.read(key).filter(|(line, _)| line.node.is_none());
    let offer = found.and_then(|(line, body)| {
        let beside = files.beside(key);
        // What the disk changed since is nothing that a program has computed.
        if !line.inline && (line.seen.is_none() || line.seen != Seen::of(&beside)) {
            return None;
        }
        let given = if line.inline { Given::Here(body) } else { Given::File(beside) };
        let is_short = [&line.function, &line.project, &line.user].iter().all(|name| name.len() <= NAME_MAX);
        is_short.then(|| Offer {
            key,
            function: line.function,
            project: line.project,
            user: line.user,
            took_ms: millis(line.seconds),
            made_unix_ms: line.made_unix_ms,
            expires_unix_ms: line.expires_unix_ms,
            // Nobody noted it; the parts themselves lie in the value.
            parts: ContentId([0; 32]),
            given,
        })
    });
    if offer.is_none() || canonical.is_some() {
        files.remove(key);
        return Ok(None);
    }
    Ok(offer)
}

/// Seconds as milliseconds; nonsense counts as none.
pub(super) fn millis(seconds: f64) -> u64 {
    Duration::try_from_secs_f64(seconds).map_or(0, |length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}

/// The values that count, each key's in the order of the keys. Blocks.
///
/// # Errors
/// [`StoreError`], or what `visit` says.
pub(super) fn for_each(shared: &Shared, mut visit: impl FnMut(Known)) -> Result<(), StoreError> {
    let now = unix_ms();
    let mut after = None;
    loop {
        let page = shared.store.values(after, BATCH)?;
        for (key, record) in &page {
            if let Some((maker, note)) = record.canonical(now) {
                visit(Known { key: *key, maker, note: note.clone(), is_kept: record.is_kept() });
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == BATCH => after = Some(*last),
            _ => return Ok(()),
        }
    }
}

/// Disk work, where nobody waits for the thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| NodeError::Closing)?
}
