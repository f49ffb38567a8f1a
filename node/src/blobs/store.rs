//! [`BlobStore`]: where blobs lie and when they are durable. Callers are the node's loop, packing,
//! fetching and `gc.rs`; one process owns a store at a time (the daemon, by its data directory's lock).
//!
//! Layout: `blobs/ab/<hash>` complete blobs, `outboard/<hash>` their hash trees above 1 MiB,
//! `partial/<hash>` with `<hash>.tree` what is being fetched, `cache/` stat caches, `tmp/` files that
//! have no name yet.
//!
//! Durability: a blob enters by rename without an fsync and has mode 0400; [`BlobStore::sync`] makes it
//! durable and sets 0444. After a crash of the machine (another boot id) blobs still at 0400 may be torn,
//! so [`BlobStore::open`] hashes those again and drops the torn ones. Nothing here decides what is kept.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use proto::ContentId;
use tokio::sync::Semaphore;

use super::error::{BlobError, at};
use super::fetch::Flights;
use super::space::{FreeSpace, Space, statvfs_free};
use super::tree::{self, WHOLE_MAX};
use super::whole::WholeBundles;

/// Mode of a blob that a crash of the machine may still tear.
const MODE_FRESH: u32 = 0o400;
/// Mode of a blob whose bytes and name are on the disk for good.
pub(super) const MODE_DURABLE: u32 = 0o444;
/// Access times finer than this are not worth a metadata write.
const TOUCH_AFTER: Duration = Duration::from_secs(60);
/// Requests served at once: enough to fill a network, few enough to leave a disk usable.
pub(super) const SERVE_MAX: usize = 32;
/// More files than this are made durable by one `syncfs` instead of one `fdatasync` each.
const SYNC_EACH_MAX: usize = 64;
/// The kernel's name for this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A directory of blobs. Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct BlobStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    dir: PathBuf,
    pub(super) space: Space,
    /// Held for reading while a blob is renewed, for writing while one is removed: what was just
    /// found to be here is not swept away by an age read before.
    pub(super) gate: RwLock<()>,
    pub(super) flights: Flights,
    pub(super) whole: WholeBundles,
    pub(super) serving: Semaphore,
    names: AtomicU64,
}

/// A file in `tmp/`, removed unless it got its name.
pub(super) struct TempFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Already renamed in the good case; else the next `open` clears `tmp/` anyway.
        let _ = fs::remove_file(&self.path);
    }
}

impl BlobStore {
    /// Opens the store in `dir`, making it if need be. Clears `tmp/`; after a crash of the machine,
    /// checks what was not durable.
    ///
    /// # Errors
    /// [`BlobError::Io`] naming the path that cannot be made or read.
    pub fn open(dir: &Path) -> Result<Self, BlobError> {
        Self::open_with(dir, Arc::new(statvfs_free))
    }

    /// [`BlobStore::open`] with another idea of how much disk is free.
    ///
    /// # Errors
    /// As [`BlobStore::open`].
    pub fn open_with(dir: &Path, free_space: FreeSpace) -> Result<Self, BlobError> {
        let inner = Inner {
            dir: dir.to_owned(),
            space: Space::new(free_space),
            gate: RwLock::new(()),
            flights: Flights::default(),
            whole: WholeBundles::default(),
            serving: Semaphore::new(SERVE_MAX),
            names: AtomicU64::new(0),
        };
        let store = Self { inner: Arc::new(inner) };
        store.lay_out()?;
        store.recover()?;
        Ok(store)
    }

    /// Length in bytes of a complete blob, if it is here.
    #[must_use]
    pub fn has(&self, id: ContentId) -> Option<u64> {
        fs::symlink_metadata(self.blob_path(id)).ok().filter(fs::Metadata::is_file).map(|meta| meta.len())
    }

    /// Opens a blob for reading and notes the access.
    ///
    /// # Errors
    /// [`BlobError::Missing`], or [`BlobError::Io`].
    pub fn open_blob(&self, id: ContentId) -> Result<File, BlobError> {
        let path = self.blob_path(id);
        let file = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => BlobError::Missing(id),
            _ => at("open", &path)(source),
        })?;
        self.touch(id);
        Ok(file)
    }

    /// All bytes of a blob of at most `max` bytes, hashed again on the way.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::TooLarge`], [`BlobError::Corrupt`] or [`BlobError::Io`].
    pub fn read_small(&self, id: ContentId, max: u64) -> Result<Vec<u8>, BlobError> {
        let mut file = self.open_blob(id)?;
        let path = self.blob_path(id);
        let size = file.metadata().map_err(at("read", &path))?.len();
        if size > max {
            return Err(BlobError::TooLarge { id, size, max });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.read_to_end(&mut bytes).map_err(at("read", &path))?;
        if ContentId::of(&bytes) != id {
            self.remove(id)?;
            return Err(BlobError::Corrupt(id));
        }
        Ok(bytes)
    }

    /// Stores `bytes`; nothing is written when they are here already.
    ///
    /// # Errors
    /// [`BlobError::DiskFull`] or [`BlobError::Io`]; then nothing has been left behind.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<ContentId, BlobError> {
        let id = ContentId::of(bytes);
        self.put_hashed(id, bytes)?;
        Ok(id)
    }

    /// Moves the file at `path` into the store, whoever may read it. On another file system it is copied, and removed.
    /// Returns its id and its length in bytes. What goes on writing to the file afterwards damages the blob.
    ///
    /// # Errors
    /// [`BlobError::Io`], [`BlobError::DiskFull`] when it must be copied; then the file is where it was, or gone.
    pub fn take_file(&self, path: &Path) -> Result<(ContentId, u64), BlobError> {
        let temp = self.temp_file()?;
        if fs::rename(path, &temp.path).is_err() {
            let taken = self.put_file(path)?;
            fs::remove_file(path).map_err(at("remove", path))?;
            return Ok(taken);
        }
        let file = File::open(&temp.path).map_err(at("open", path))?;
        file.set_permissions(Permissions::from_mode(MODE_FRESH)).map_err(at("mark", path))?;
        let size = file.metadata().map_err(at("read", path))?.len();
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(at("read", path))?;
        let id = ContentId(*hasher.finalize().as_bytes());
        // Its tree is made when a peer first asks for it: most values are never fetched. One that is here already may be
        // damaged, and these bytes are sound.
        if !(self.renew(id, size) && self.check(id)?) {
            self.commit(&temp.path, id)?;
        }
        Ok((id, size))
    }

    /// Where a blob lies, for programs on this machine that map it. They must not write to it.
    #[must_use]
    pub(crate) fn path_of(&self, id: ContentId) -> PathBuf {
        self.blob_path(id)
    }

    /// Stores `bytes` whose hash the caller has just checked to be `id`. Whether they were new.
    pub(super) fn put_hashed(&self, id: ContentId, bytes: &[u8]) -> Result<bool, BlobError> {
        let size = bytes.len() as u64;
        if self.renew(id, size) {
            return Ok(false);
        }
        let reservation = self.inner.space.reserve(&self.inner.dir, size)?;
        let mut temp = self.temp_file()?;
        temp.file.write_all(bytes).map_err(at("write", &temp.path)).map_err(|error| self.full(error, size))?;
        if size > WHOLE_MAX {
            self.write_outboard(id, bytes, size)?;
        }
        self.commit(&temp.path, id)?;
        drop(reservation);
        Ok(true)
    }

    /// Makes `ids` durable: their bytes and their names survive a loss of power once this returns.
    /// Those that were durable before cost a `stat` each.
    ///
    /// # Errors
    /// [`BlobError::Missing`] when one is not here, or [`BlobError::Io`].
    pub fn sync(&self, ids: &[ContentId]) -> Result<(), BlobError> {
        let mut fresh = Vec::new();
        for &id in ids {
            let meta = fs::metadata(self.blob_path(id)).map_err(|_| BlobError::Missing(id))?;
            if meta.mode() & 0o777 != MODE_DURABLE {
                fresh.push(id);
            }
        }
        fresh.sort_unstable();
        fresh.dedup();
        if fresh.is_empty() {
            return Ok(());
        }
        if fresh.len() > SYNC_EACH_MAX {
            let dir = File::open(&self.inner.dir).map_err(at("open", &self.inner.dir))?;
            rustix::fs::syncfs(&dir).map_err(|errno| at("sync", &self.inner.dir)(errno.into()))?;
        } else {
            self.sync_each(&fresh)?;
        }
        for id in fresh {
            for path in [self.blob_path(id), self.outboard_path(id)] {
                // Not itself synced: a mark lost in a crash costs one needless check.
                match fs::set_permissions(&path, Permissions::from_mode(MODE_DURABLE)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("mark", &path)(error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// `fdatasync` of each blob and its outboard, then of the directories that name them. In threads,
    /// because the file system commits what waits together in one go.
    fn sync_each(&self, fresh: &[ContentId]) -> Result<(), BlobError> {
        let mut files: Vec<PathBuf> = Vec::new();
        let mut directories = vec![self.inner.dir.join("outboard"), self.inner.dir.join("blobs")];
        for &id in fresh {
            files.push(self.blob_path(id));
            files.push(self.outboard_path(id));
            directories.push(self.inner.dir.join("blobs").join(&id.to_string()[..2]));
        }
        directories.sort();
        directories.dedup();
        let sync = |path: &PathBuf| match File::open(path).and_then(|file| file.sync_all()) {
            // Most blobs have no outboard.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("sync", path)(error)),
            _ => Ok(()),
        };
        for paths in [files, directories] {
            in_parallel(&paths, 1, sync, |_, result| result)?;
        }
        Ok(())
    }

    /// Notes that a blob was used now; [`BlobStore::sweep`] removes the longest unused first. When it was written stays as
    /// it is: by that, programs that map a blob notice that its file was changed.
    pub(super) fn touch(&self, id: ContentId) -> bool {
        let _gate = self.inner.gate.read().unwrap_or_else(PoisonError::into_inner);
        let path = self.blob_path(id);
        let Ok(meta) = fs::symlink_metadata(&path) else { return false };
        let age = last_used(&meta).and_then(|at| SystemTime::now().duration_since(at).ok());
        if age.is_none_or(|age| age > TOUCH_AFTER) {
            use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let as_it_is = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            // An access that is not noted makes the blob leave earlier, nothing worse.
            let _ = rustix::fs::utimensat(
                CWD,
                &path,
                &Timestamps { last_access: now, last_modification: as_it_is },
                AtFlags::empty(),
            );
        }
        true
    }

    /// Whether the blob is here with `size` bytes, and now safe from a sweep by age. One of another size
    /// was torn by a crash that went unnoticed, and is removed.
    pub(crate) fn renew(&self, id: ContentId, size: u64) -> bool {
        match self.has(id) {
            Some(have) if have == size => self.touch(id),
            Some(_) => {
                let _ = self.remove(id);
                false
            }
            None => false,
        }
    }

    /// Whether the blob is here with the bytes that its name promises. One that a failing disk has changed is removed, so
    /// that the next fetch brings it from another node. Reads all of it.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub fn check(&self, id: ContentId) -> Result<bool, BlobError> {
        let file = match self.open_blob(id) {
            Ok(file) => file,
            Err(BlobError::Missing(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(at("read", &self.blob_path(id)))?;
        let is_whole = hasher.finalize().as_bytes() == &id.0;
        if !is_whole {
            self.discard(id)?;
        }
        Ok(is_whole)
    }

    /// Removes a blob that nobody needs any more; one that is not here is no error.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub fn discard(&self, id: ContentId) -> Result<(), BlobError> {
        let _gate = self.inner.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.remove(id)
    }

    /// Removes a blob and its outboard.
    pub(super) fn remove(&self, id: ContentId) -> Result<(), BlobError> {
        self.inner.whole.forget();
        for path in [self.blob_path(id), self.outboard_path(id)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("remove", &path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives a complete file its name. A blob that appeared meanwhile stays: it may be durable already.
    pub(super) fn commit(&self, from: &Path, id: ContentId) -> Result<(), BlobError> {
        let path = self.blob_path(id);
        let mut renamed = rename_new(from, &path);
        if let (Err(error), Some(prefix)) = (&renamed, path.parent())
            && error.kind() == io::ErrorKind::NotFound
        {
            // The first blob with this prefix. Made on demand, so that a new node starts at once.
            fs::create_dir_all(prefix).map_err(at("create", prefix))?;
            renamed = rename_new(from, &path);
        }
        match renamed {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let _ = fs::remove_file(from);
                self.touch(id);
                Ok(())
            }
            other => other.map_err(at("name", &path)),
        }
    }

    /// The outboard of a blob above [`WHOLE_MAX`], made now if it was lost. Reads the whole blob then.
    pub(super) fn outboard(&self, id: ContentId, size: u64) -> Result<File, BlobError> {
        let path = self.outboard_path(id);
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.write_outboard(id, self.open_blob(id)?, size)? != id {
                    self.remove(id)?;
                    return Err(BlobError::Corrupt(id));
                }
                File::open(&path).map_err(at("open", &path))
            }
            Err(error) => Err(at("open", &path)(error)),
        }
    }

    /// Hashes `data` and keeps the tree as `id`'s if that is what it is. Returns the hash.
    fn write_outboard(&self, id: ContentId, data: impl Read, size: u64) -> Result<ContentId, BlobError> {
        let temp = self.temp_file()?;
        let mut writer = BufWriter::new(&temp.file);
        let found = tree::hash_tree(data, size, &mut writer).map_err(at("hash", &temp.path))?;
        writer.flush().map_err(at("write", &temp.path))?;
        drop(writer);
        if found == id {
            let path = self.outboard_path(id);
            fs::rename(&temp.path, &path).map_err(at("name", &path))?;
        }
        Ok(found)
    }

    /// A new file in `tmp/`, readable for its owner alone.
    pub(super) fn temp_file(&self) -> Result<TempFile, BlobError> {
        let name = self.inner.names.fetch_add(1, Ordering::Relaxed);
        let path = self.inner.dir.join("tmp").join(format!("{}-{name}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(MODE_FRESH)
            .open(&path)
            .map_err(at("create", &path))?;
        Ok(TempFile { path, file })
    }

    /// A full disk in the middle is the same to the user as one that was full before.
    pub(super) fn full(&self, error: BlobError, need: u64) -> BlobError {
        let dir = &self.inner.dir;
        match statvfs_free(dir) {
            Ok(free) if error.is_disk_full() => BlobError::DiskFull { dir: dir.clone(), need, free },
            _ => error,
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.inner.dir
    }

    pub(super) fn blob_path(&self, id: ContentId) -> PathBuf {
        let name = id.to_string();
        self.inner.dir.join("blobs").join(&name[..2]).join(name)
    }

    pub(super) fn outboard_path(&self, id: ContentId) -> PathBuf {
        self.inner.dir.join("outboard").join(id.to_string())
    }

    pub(super) fn partial_path(&self, id: ContentId) -> PathBuf {
        self.inner.dir.join("partial").join(id.to_string())
    }

    pub(super) fn partial_tree_path(&self, id: ContentId) -> PathBuf {
        self.inner.dir.join("partial").join(format!("{id}.tree"))
    }

    /// Ids and metadata of all complete blobs, in order of their ids. Names that are no ids are left alone.
    pub(super) fn list(&self) -> Result<Vec<(ContentId, fs::Metadata)>, BlobError> {
        let mut found = Vec::new();
        let blobs = self.inner.dir.join("blobs");
        for prefix in fs::read_dir(&blobs).map_err(at("list", &blobs))? {
            let dir = prefix.map_err(at("list", &blobs))?.path();
            for entry in fs::read_dir(&dir).map_err(at("list", &dir))? {
                let entry = entry.map_err(at("list", &dir))?;
                let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
                // A blob that vanishes between listing and stat was swept meanwhile.
                if let (Some(id), Ok(meta)) = (id, entry.metadata()) {
                    found.push((id, meta));
                }
            }
        }
        found.sort_unstable_by_key(|&(id, _)| id);
        Ok(found)
    }

    fn lay_out(&self) -> Result<(), BlobError> {
        let dir = &self.inner.dir;
        for name in ["blobs", "outboard", "partial", "cache", "tmp"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(at("create", &path))?;
        }
        let tmp = dir.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(at("list", &tmp))? {
            let path = entry.map_err(at("list", &tmp))?.path();
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        Ok(())
    }

    /// After another boot, what was never synced is hashed again.
    fn recover(&self) -> Result<(), BlobError> {
        let path = self.inner.dir.join("boot");
        let boot = fs::read(BOOT_ID).unwrap_or_default();
        if !boot.is_empty() && fs::read(&path).is_ok_and(|last| last == boot) {
            return Ok(());
        }
        for (id, meta) in self.list()? {
            if meta.mode() & 0o777 != MODE_DURABLE && self.hash_blob(id)? != id {
                tracing::warn!(%id, "a blob was torn by a crash and is removed");
                self.remove(id)?;
            }
        }
        let outboards = self.inner.dir.join("outboard");
        for entry in fs::read_dir(&outboards).map_err(at("list", &outboards))? {
            let entry = entry.map_err(at("list", &outboards))?;
            if entry.metadata().is_ok_and(|meta| meta.mode() & 0o777 != MODE_DURABLE) {
                fs::remove_file(entry.path()).map_err(at("remove", &outboards))?;
            }
        }
        fs::write(&path, boot).map_err(at("write", &path))
    }

    /// The hash of a blob's bytes as they are on the disk. Read, not mapped: a bad sector is then an
    /// error, not a signal.
    pub(super) fn hash_blob(&self, id: ContentId) -> Result<ContentId, BlobError> {
        let path = self.blob_path(id);
        // To look whether it is sound is no use of it.
        let unnoted = rustix::fs::OFlags::NOATIME.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(unnoted).open(&path);
        let file = file.or_else(|_| File::open(&path)).map_err(at("open", &path))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(at("read", &path))?;
        Ok(ContentId(*hasher.finalize().as_bytes()))
    }
}

/// When a blob was used last: read, noted as used, or written. Systems note a reading at least once a day, or never.
pub(super) fn last_used(meta: &fs::Metadata) -> Option<SystemTime> {
    let written = meta.modified().ok()?;
    Some(meta.accessed().map_or(written, |read| read.max(written)))
}

/// Renames `from` to `to` unless `to` exists (`AlreadyExists`).
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can refuse to replace; there an equal blob replaces an equal blob.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(from, to),
        other => Ok(other?),
    }
}

/// Threads for disk work beside the caller's own; more only queue at the disk.
const THREADS_MAX: usize = 4;

/// Runs `work` on each item in a few threads, `each` at a time at least, and hands results to `done` on
/// the caller's thread in the order in which they come. The first error of `done` ends it.
pub(super) fn in_parallel<T: Sync, R: Send, E>(
    items: &[T],
    each: usize,
    work: impl Fn(&T) -> R + Sync,
    mut done: impl FnMut(usize, R) -> Result<(), E>,
) -> Result<(), E> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (items.len() / each.max(1)).min(cores.max(2)).min(THREADS_MAX);
    if threads < 2 {
        return items.iter().enumerate().try_for_each(|(at, item)| done(at, work(item)));
    }
    let next = AtomicU64::new(0);
    let (send, results) = std::sync::mpsc::sync_channel(2 * threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (send, next, work) = (send.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                    let Some(item) = items.get(at) else { return };
                    if send.send((at, work(item))).is_err() {
                        return; // The caller has seen an error and listens no more.
                    }
                }
            });
        }
        drop(send);
        // Consumed here, so that a return on error closes the channel before the scope joins.
        results.into_iter().try_for_each(|(at, result)| done(at, result))
    })
}
