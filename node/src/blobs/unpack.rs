//! A bundle becomes a directory: [`BlobStore::unpack`]. Nothing of a manifest touches the disk before it
//! is checked; files are written aside and the directory appears whole or not at all.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use proto::blob::FileKind;
use proto::{ContentId, Manifest, ManifestFile};

use super::error::{UnpackError, at};
use super::stat_cache::{Stamp, StatCache};
use super::store::{BlobStore, in_parallel};
use super::tree::WHOLE_MAX;

/// Files that make a second thread worth its start.
const FILES_PER_THREAD: usize = 64;
/// How far files are dated back. The first write to one then shows in its time, however soon it comes,
/// and [`BlobStore::collect_outputs`] need not hash what the job left alone.
const DATED_BACK: Duration = Duration::from_secs(1);

impl BlobStore {
    /// Makes `dest` a directory with the bundle's files: shared blocks where the file system can, copies
    /// elsewhere, never hard links, so a job cannot change a blob. Modes are 0755 and 0644. `dest` must not
    /// exist, or be an empty directory; its parent must exist.
    ///
    /// # Errors
    /// [`UnpackError`]; then `dest` is as it was.
    pub fn unpack(&self, manifest: &Manifest, dest: &Path) -> Result<(), UnpackError> {
        manifest.check()?;
        self.check_contents(manifest)?;
        let name = dest.file_name().ok_or_else(|| UnpackError::Exists(dest.to_owned()))?;
        let parent = match dest.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let reservation = self.inner.space.reserve(parent, manifest.total_bytes())?;
        let mut aside = name.to_owned();
        aside.push(format!(".partial-{}-{}", std::process::id(), rand::random::<u32>()));
        let aside = Aside(parent.join(aside));
        fs::create_dir(&aside.0).map_err(at("create", &aside.0))?;
        let cache = self.write_tree(manifest, &aside.0)?;
        drop(reservation);
        // Replaces an empty directory and nothing else, by the system's own rule.
        fs::rename(&aside.0, dest).map_err(|source| match source.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                UnpackError::Exists(dest.to_owned())
            }
            _ => at("create", dest)(source).into(),
        })?;
        // A job starts without its cache too; collecting its outputs then hashes more.
        if let Err(error) = fs::canonicalize(dest).map_err(at("find", dest)).and_then(|dest| cache.save(self, &dest)) {
            tracing::warn!(%error, "no stat cache for an unpacked bundle");
        }
        Ok(())
    }

    /// Every content is here with the length that the manifest says, and stays at least as long as it takes.
    fn check_contents(&self, manifest: &Manifest) -> Result<(), UnpackError> {
        for file in &manifest.files {
            let FileKind::File { content: id, size: said, .. } = file.kind else { continue };
            match self.has(id) {
                Some(have) if have == said => self.touch(id),
                Some(have) => return Err(UnpackError::Size { path: file.path.clone(), id, have, said }),
                None => return Err(UnpackError::Missing { path: file.path.clone(), id }),
            };
        }
        Ok(())
    }

    fn write_tree(&self, manifest: &Manifest, root: &Path) -> Result<StatCache, UnpackError> {
        let mut made = BTreeSet::new();
        for file in &manifest.files {
            let directory = match &file.kind {
                FileKind::EmptyDirectory => Some(file.path.as_str()),
                _ => file.path.rsplit_once('/').map(|(directory, _)| directory),
            };
            if let Some(directory) = directory.filter(|&directory| made.insert(directory)) {
                let path = root.join(directory);
                fs::create_dir_all(&path).map_err(at("create", &path))?;
            }
        }
        let writer = Writer {
            store: self,
            root,
            dated: SystemTime::now().checked_sub(DATED_BACK).unwrap_or(SystemTime::UNIX_EPOCH),
            can_share: AtomicBool::new(true),
        };
        let mut cache = StatCache::default();
        in_parallel(
            &manifest.files,
            FILES_PER_THREAD,
            |file| writer.write(file),
            |index, result| {
                if let Some((stamp, id)) = result? {
                    cache.note_settled(&manifest.files[index].path, stamp, id);
                }
                Ok::<_, UnpackError>(())
            },
        )?;
        Ok(cache)
    }
}

/// One unpacking under way.
struct Writer<'a> {
    store: &'a BlobStore,
    root: &'a Path,
    dated: SystemTime,
    /// Whether the file system has not yet refused to share blocks.
    can_share: AtomicBool,
}

impl Writer<'_> {
    /// Makes one entry; for a file returns what its stat is now.
    fn write(&self, entry: &ManifestFile) -> Result<Option<(Stamp, ContentId)>, UnpackError> {
        let path = self.root.join(&entry.path);
        match &entry.kind {
            FileKind::EmptyDirectory => Ok(None),
            FileKind::Link(target) => {
                symlink(target, &path).map_err(at("create", &path))?;
                Ok(None)
            }
            &FileKind::File { content, size, executable } => {
                let mode = if executable { 0o755 } else { 0o644 };
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(mode)
                    .open(&path)
                    .map_err(at("create", &path))?;
                self.fill(&file, &path, content, size)?;
                // The umask may have taken bits away that the bundle's users count on.
                file.set_permissions(Permissions::from_mode(mode)).map_err(at("set mode of", &path))?;
                file.set_modified(self.dated).map_err(at("date", &path))?;
                let meta = file.metadata().map_err(at("read", &path))?;
                Ok(Some((Stamp::of(&meta), content)))
            }
        }
    }

    fn fill(&self, mut file: &File, path: &Path, id: ContentId, size: u64) -> Result<(), UnpackError> {
        if size <= WHOLE_MAX {
            // Passes through memory anyway, so it is hashed once more on the way.
            let bytes = self.store.read_small(id, WHOLE_MAX)?;
            return Ok(file
                .write_all(&bytes)
                .map_err(at("write", path))
                .map_err(|error| self.store.full(error, size))?);
        }
        let mut blob = self.store.open_blob(id)?;
        if self.can_share.load(Ordering::Relaxed) {
            if rustix::fs::ioctl_ficlone(file, &blob).is_ok() {
                return Ok(());
            }
            self.can_share.store(false, Ordering::Relaxed);
        }
        // The standard library copies inside the kernel.
        io::copy(&mut blob, &mut file).map_err(at("write", path)).map_err(|error| self.store.full(error, size))?;
        Ok(())
    }
}

/// The directory being written, removed unless it got its name.
struct Aside(PathBuf);

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
