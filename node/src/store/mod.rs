//! The store: what this node keeps of the log, and the records folded from it.
//!
//! `journal/*.seg` are the truth: append-only, checksummed segments, synced before a commit is answered; and
//! `journal/*.base`, snapshots that stand for the entries they cover.
//! `sled/` is an index of them, made again from the segments whenever it is missing, corrupt, of another
//! layout or ahead. Entries are folded into records by `proto::record::apply`; nothing here decides about a
//! job, a member or an entry.
//!
//! `node.rs` opens the store, commits what the core tells it to, and reads; other shells only read. Start
//! with [`Store`], then `writer.rs` (how a commit goes), `recover.rs` (how a start goes), `keys.rs` (what
//! the index looks like), `base.rs` and `tasks.rs` (snapshots, and what may go once there is one).
//!
//! Deliberately absent: blobs; secrets; the identity key; any rule.

mod base;
mod cell;
mod digest;
mod error;
mod fold;
mod home;
mod inline;
mod journal;
mod keys;
mod ledger;
mod medium;
mod places;
mod query;
mod recover;
mod scan;
mod sled_table;
mod table;
mod values;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use proto::entry::{LogId, SignedEntry, VerifiedEntry};
use proto::log::{EntryRange, Head, VersionVector};
use proto::record::{ClusterRecord, GroupRecord, JobRecord, NodeRecord, Record, RecordKey};
use proto::snapshot::{Installed, SignedSnapshot, SnapshotName};
use proto::{ContentId, GroupId, Hlc, Member, NodeId, ValueKey, ValueRecord};
use tokio::sync::{mpsc, oneshot};

pub use error::{StoreError, TableError};
pub use query::{GroupFilter, Parts, ProjectSummary};
pub use sled_table::panic_is_contained;
pub use values::ValueRow;

use home::Home;
use medium::{Directory, Medium};
use recover::Sound;
use sled_table::SledSource;
use table::{MemorySource, Table, TableSource};
use writer::{Answer, Command, Request, Task, Writer};

/// Commits that may wait for the writer; beyond it, callers wait for room. A batch rarely holds more.
const QUEUE_MAX: usize = 256;

/// A handle on the store; clones share it. Reads block on the local disk for a moment.
#[derive(Clone)]
pub struct Store {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    lives: Arc<Lives>,
}

/// What was on disk when the store was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// The last entry of every log; all before it are here.
    pub heads: BTreeMap<LogId, Head>,
    /// When each author last wrote, by its own clock.
    pub clocks: BTreeMap<NodeId, Hlc>,
    /// The snapshots that this node starts from.
    pub snapshots: Vec<SignedSnapshot>,
    /// Up to which entry each log may not be here: a snapshot covers it.
    pub floors: VersionVector,
    /// The incarnation that this node used last; 0: none.
    pub incarnation_last: u64,
    /// Every unfinished group, each followed by its job records; then all nodes, described projects and the cluster.
    pub live: Vec<(RecordKey, Record)>,
    /// What was found wrong and what was done about it, one line each. Empty after a clean stop.
    pub notices: Vec<String>,
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Committed {
    /// Records that it changed, by key, as they are right after it.
    pub changed: writer::Changed,
}

/// What the writer and the readers share.
struct Shared {
    dir: PathBuf,
    medium: Arc<dyn Medium>,
    /// `None` while the index is mended. Readers hold the lock for one query, the writer for one batch
    /// (shared as well): only mending excludes.
    table: RwLock<Option<Arc<dyn Table>>>,
    /// Bases with their numbers, the newest last.
    bases: Mutex<Vec<(u64, SignedSnapshot)>>,
    /// The index failed; the writer mends it before the next commit.
    failed: AtomicBool,
    /// It cannot be trusted either: opening it again is not enough.
    corrupt: AtomicBool,
}

/// The number of this node's current life.
struct Lives {
    home: Option<std::sync::Weak<Home>>,
    last: Mutex<u64>,
}

impl Store {
    /// Opens the store in `dir`, which is made if needed, and recovers what is there. Blocks: milliseconds
    /// on a sound directory, seconds when the index has to be made again.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Unwritable`], or what the system said. Never because of what
    /// the files hold: that becomes a notice.
    pub fn open(dir: &Path) -> Result<(Self, Recovered), StoreError> {
        let home = Arc::new(Home::open(dir)?);
        let medium = Arc::new(Directory::new(&home.journal()));
        Self::start(medium, Box::new(SledSource::new(home.dir())), Some(home))
    }

    /// A store that is gone with its last handle, for tests of other shells.
    ///
    /// # Panics
    /// When no thread can be started.
    #[must_use]
    pub fn in_memory() -> (Self, Recovered) {
        let medium = Arc::new(medium::Memory::default());
        Self::start(medium, Box::new(MemorySource), None).expect("memory does not fail")
    }

    fn start(
        medium: Arc<dyn Medium>,
        mut source: Box<dyn TableSource>,
        home: Option<Arc<Home>>,
    ) -> Result<(Self, Recovered), StoreError> {
        for draft in [medium::DRAFT, medium::NAME_DRAFT] {
            // One that stays is replaced by the next.
            let _ = medium.remove(draft);
        }
        let sound = recover::recover(&medium, source.as_mut())?;
        let Sound { table, journal, ledger, standing, bases, live, notices } = sound;
        let snapshots = bases.iter().map(|(_, signed)| signed.clone()).collect();
        let mut recovered = Recovered { live, notices, snapshots, floors: ledger.floors(), ..Recovered::default() };
        for (&log, state) in ledger.logs() {
            recovered.heads.insert(log, state.head);
            let clock = recovered.clocks.entry(log.author).or_default();
            *clock = state.hlc.max(*clock);
        }
        recovered.incarnation_last = home.as_ref().map_or(Some(0), |home| home.incarnation()).unwrap_or_else(|| {
            let told = "the file of this node's incarnation is damaged; the next one is past every known";
            recovered.notices.push(told.to_owned());
            recovered.heads.keys().map(|log| log.incarnation).max().unwrap_or(0)
        });
        let dir = home.as_ref().map_or_else(PathBuf::new, |home| home.dir().to_owned());
        let lives = Lives { home: home.as_ref().map(Arc::downgrade), last: Mutex::new(recovered.incarnation_last) };
        let shared = Shared {
            dir,
            medium,
            table: RwLock::new(Some(table)),
            bases: Mutex::new(bases),
            failed: AtomicBool::new(false),
            corrupt: AtomicBool::new(false),
        };
        let shared = Arc::new(shared);
        let (commands, inbox) = mpsc::channel(QUEUE_MAX);
        let spawn = || -> std::io::Result<()> {
            let writer = Writer::new(shared.clone(), source, (journal, ledger, standing), home)?;
            std::thread::Builder::new().name("store-write".to_owned()).spawn(move || writer.run(inbox))?;
            Ok(())
        };
        spawn().map_err(|error| StoreError::Io {
            action: "start a thread for",
            path: shared.dir.clone(),
            source: Arc::new(error),
        })?;
        Ok((Self { commands, shared, lives: Arc::new(lives) }, recovered))
    }

    /// Hands `entries` to the writer; waits only for room in its queue. `done` is called once, on the
    /// writer's thread, in the order of these calls, when all of them are durable and folded or none is;
    /// it must not wait. Entries that are stored already are passed over. After a failure the entries may
    /// be handed in again; later ones of the same log are refused until then. Dropping the future before
    /// it is ready commits nothing.
    ///
    /// # Errors
    /// [`StoreError::Closed`]; `done` is not called then.
    pub async fn commit_with(
        &self,
        entries: Vec<VerifiedEntry>,
        done: impl FnOnce(Result<Committed, StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let request = Request { entries, done: Box::new(done) };
        self.commands.send(Command::Commit(request)).await.map_err(|_| StoreError::Closed)
    }

    /// Commits `entries` and waits until they are durable and folded. Dropping the future does not take
    /// the commit back.
    ///
    /// # Errors
    /// Any [`StoreError`]; nothing of `entries` is kept then.
    pub async fn commit(&self, entries: Vec<VerifiedEntry>) -> Result<Committed, StoreError> {
        let (answer, result) = oneshot::channel();
        // A caller that went away needs no answer.
        self.commit_with(entries, |done| drop(answer.send(done))).await?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Makes a snapshot of exactly what is stored when its turn comes, aside: [`Self::keep_snapshot`] makes it the
    /// base once it is signed, the next one replaces it. Commits wait meanwhile: a second for some 100,000 records.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`], or any other; nothing was changed.
    pub async fn make_snapshot(&self) -> Result<SnapshotName, StoreError> {
        self.task(Task::Make).await
    }

    /// The snapshot that was made last becomes the base. `done` is called as by [`Self::commit_with`], in order with
    /// commits, with [`StoreError::NotMade`] or any other error. After one of the index it may have become the base
    /// all the same.
    ///
    /// # Errors
    /// [`StoreError::Closed`]; `done` is not called then.
    pub async fn keep_snapshot_with(
        &self,
        signed: SignedSnapshot,
        done: impl FnOnce(Result<Installed, StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let task = Task::Keep(Box::new(signed), Box::new(done));
        self.commands.send(Command::Task(task)).await.map_err(|_| StoreError::Closed)
    }

    /// [`Self::keep_snapshot_with`], waiting for the result.
    ///
    /// # Errors
    /// As there.
    pub async fn keep_snapshot(&self, signed: SignedSnapshot) -> Result<Installed, StoreError> {
        self.task(|answer| Task::Keep(Box::new(signed), answer)).await
    }

    /// `file`, whose bytes are the snapshot `signed`, is copied, becomes the base and is folded in: what is here and
    /// not in it stays. It is checked again on the way. `done` is called as by [`Self::keep_snapshot_with`], also
    /// with [`StoreError::Snapshot`].
    ///
    /// # Errors
    /// [`StoreError::Closed`]; `done` is not called then.
    pub async fn install_snapshot_with(
        &self,
        signed: SignedSnapshot,
        file: std::fs::File,
        done: impl FnOnce(Result<Installed, StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let task = Task::Install(Box::new(signed), file, Box::new(done));
        self.commands.send(Command::Task(task)).await.map_err(|_| StoreError::Closed)
    }

    /// [`Self::install_snapshot_with`], waiting for the result.
    ///
    /// # Errors
    /// As there.
    pub async fn install_snapshot(&self, signed: SignedSnapshot, file: std::fs::File) -> Result<Installed, StoreError> {
        self.task(|answer| Task::Install(Box::new(signed), file, answer)).await
    }

    /// Removes the oldest segments that the base covers and whose entries were all written before `before_unix_ms`,
    /// and older bases. Returns up to which entry each log may be here no more.
    ///
    /// # Errors
    /// As for all queries; what was removed stays removed.
    pub async fn compact(&self, before_unix_ms: u64) -> Result<VersionVector, StoreError> {
        self.task(|answer| Task::Compact(before_unix_ms, answer)).await
    }

    async fn task<T>(&self, task: impl FnOnce(Answer<T>) -> Task) -> Result<T, StoreError>
    where
        T: Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        // A caller that went away needs no answer.
        let answer = Box::new(move |done| drop(answer.send(done)));
        self.commands.send(Command::Task(task(answer))).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// The snapshots that this node starts from, the newest last, each with the file of its bytes, which goes once
    /// a newer one covers it.
    #[must_use]
    pub fn snapshots(&self) -> Vec<(SignedSnapshot, PathBuf)> {
        let bases = self.shared.bases.lock().unwrap_or_else(PoisonError::into_inner);
        let path = |number| self.shared.medium.path(medium::base(number));
        bases.iter().map(|(number, signed)| (signed.clone(), path(*number))).collect()
    }

    /// Bytes of all segments and bases.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn log_bytes(&self) -> Result<u64, StoreError> {
        let medium = self.shared.medium.as_ref();
        let count = || -> std::io::Result<u64> {
            let bases = medium.bases()?.into_iter().map(medium::base);
            let all: Vec<u64> = medium.segments()?.into_iter().chain(bases).collect();
            // One that was removed meanwhile has none.
            Ok(all.into_iter().map(|number| medium.len(number).unwrap_or(0)).sum())
        };
        count().map_err(|error| recover::io_error("measure", medium, 0, error))
    }

    /// Starts a new life of this node: max(last + 1, `unix_ms`), durable when this returns. Blocks.
    ///
    /// # Errors
    /// The number could not be made durable; it must not be used.
    pub fn bump_incarnation(&self, unix_ms: u64) -> Result<u64, StoreError> {
        let mut last = self.lives.last.lock().unwrap_or_else(PoisonError::into_inner);
        let next = last.saturating_add(1).max(unix_ms);
        if let Some(home) = &self.lives.home {
            home.upgrade().ok_or(StoreError::Closed)?.set_incarnation(next)?;
        }
        *last = next;
        Ok(next)
    }

    /// Answers what is queued, flushes, and lets go of the directory: another store can open it when this
    /// returns. Later calls on any handle fail with [`StoreError::Closed`] or [`TableError::Down`].
    pub async fn close(&self) {
        let (answer, closed) = oneshot::channel();
        if self.commands.send(Command::Close(answer)).await.is_ok() {
            // The writer dropped the answer when another handle closed first.
            let _ = closed.await;
        }
    }

    /// One record; `None` when nothing is known under `key`.
    ///
    /// # Errors
    /// [`StoreError::Index`], as for all queries; a later one can succeed.
    pub fn record(&self, key: &RecordKey) -> Result<Option<Record>, StoreError> {
        self.query(|table| query::record(table, key))
    }

    /// Up to `limit` groups that `filter` wants, newest first.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn groups(&self, filter: &GroupFilter, limit: usize) -> Result<Vec<(GroupId, GroupRecord)>, StoreError> {
        self.query(|table| query::groups(table, filter, limit))
    }

    /// Up to `limit` job records of `group` by index, those after `after`. A job that nothing happened to
    /// has none; the group's specification names them all.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn jobs_of(
        &self,
        group: GroupId,
        after: Option<Member>,
        limit: usize,
    ) -> Result<Vec<(Member, JobRecord)>, StoreError> {
        self.query(|table| query::jobs_of(table, group, after, limit))
    }

    /// Up to `limit` groups, oldest first, whose id as text starts with `prefix`; none when it is no hex.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn group_ids_with_prefix(&self, prefix: &str, limit: usize) -> Result<Vec<GroupId>, StoreError> {
        self.query(|table| query::groups_with_prefix(table, prefix, limit))
    }

    /// Every node that the log names.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn nodes(&self) -> Result<Vec<(NodeId, NodeRecord)>, StoreError> {
        self.query(query::nodes)
    }

    /// Every project, by name.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn projects(&self) -> Result<Vec<ProjectSummary>, StoreError> {
        self.query(query::projects)
    }

    /// What is known of a cached value.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn value(&self, key: ValueKey) -> Result<Option<ValueRecord>, StoreError> {
        self.query(|table| values::value(table, key))
    }

    /// Up to `limit` keys of cached values after `after`, in their order.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn values(&self, after: Option<ValueKey>, limit: usize) -> Result<Vec<(ValueKey, ValueRecord)>, StoreError> {
        self.query(|table| values::page(table, after, limit))
    }

    /// Up to `limit` values of `function` that were made before a time in milliseconds since 1970, the newest first.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn values_of(&self, function: &str, before_unix_ms: u64, limit: usize) -> Result<Vec<ValueRow>, StoreError> {
        self.query(|table| values::of_function(table, function, before_unix_ms, limit))
    }

    /// What concerns the cluster as a whole.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn cluster(&self) -> Result<ClusterRecord, StoreError> {
        self.query(query::cluster)
    }

    /// Entries of `range` that are stored, in order, as long as they fit in `max_bytes`; at least one when
    /// the first is stored.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the first can no longer be read, else as for all queries.
    pub fn read(&self, range: EntryRange, max_bytes: usize) -> Result<Vec<SignedEntry>, StoreError> {
        let slot = self.shared.table();
        let table = slot.as_deref().ok_or(TableError::Down)?;
        self.told(query::read(table, self.shared.medium.as_ref(), range, max_bytes))
    }

    /// A small blob that rides in an entry which is stored here: of a bundle, or a log. Its hash was checked.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the entry can no longer be read, else as for all queries.
    pub fn inline(&self, content: ContentId) -> Result<Option<Vec<u8>>, StoreError> {
        let slot = self.shared.table();
        let table = slot.as_deref().ok_or(TableError::Down)?;
        self.told(inline::find(table, self.shared.medium.as_ref(), content))
    }

    fn query<T>(&self, ask: impl FnOnce(&dyn Table) -> Result<T, TableError>) -> Result<T, StoreError> {
        let slot = self.shared.table();
        let table = slot.as_deref().ok_or(TableError::Down)?;
        self.told(ask(table).map_err(StoreError::from))
    }

    /// Has the index mended before the next commit when a query found it bad.
    fn told<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Index(error @ (TableError::Corrupt(_) | TableError::Io(_)))) = &result {
            self.shared.fail(error);
            // A full queue has a commit in it, before which the writer looks.
            let _ = self.commands.try_send(Command::Mend);
        }
        result
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.shared.dir.display())
    }
}

impl Recovered {
    /// When `node` last wrote: what its hybrid clock must not go behind.
    #[must_use]
    pub fn hlc(&self, node: NodeId) -> Hlc {
        self.clocks.get(&node).copied().unwrap_or_default()
    }
}

impl Shared {
    /// Notes that the index failed; the writer mends it before the next commit.
    fn fail(&self, error: &TableError) {
        if matches!(error, TableError::Corrupt(_)) {
            self.corrupt.store(true, Ordering::Release);
        }
        self.failed.store(true, Ordering::Release);
    }

    fn set_bases(&self, bases: Vec<(u64, SignedSnapshot)>) {
        *self.bases.lock().unwrap_or_else(PoisonError::into_inner) = bases;
    }

    fn table(&self) -> RwLockReadGuard<'_, Option<Arc<dyn Table>>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Option<Arc<dyn Table>>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
