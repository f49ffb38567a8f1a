//! Room for new blobs: what is there, what goes first, and whether the rest is still sound. What must stay
//! is the caller's knowledge; age only protects what nobody has had time to name yet.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use proto::ContentId;

use super::error::{BlobError, at};
use super::space::statvfs_free;
use super::store::{BlobStore, last_used};

/// A blob used within this time never goes: it may belong to a bundle whose job is just being submitted.
const YOUNG: Duration = Duration::from_secs(600);

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Complete blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of blobs that are only partly here.
    pub partial_bytes: u64,
}

/// How far a sweep goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepUntil {
    /// Everything old enough.
    Done,
    /// Until so many bytes are free again, the longest unused first.
    Freed(u64),
}

/// What a sweep may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Only what was not used for so long; at least ten minutes.
    pub unused_for: Duration,
    /// How far it goes.
    pub until: SweepUntil,
    /// Only counts what it would remove.
    pub dry_run: bool,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Blobs, complete or partial.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl BlobStore {
    /// What is here now. Reads all directory entries, no blob.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub fn usage(&self) -> Result<Usage, BlobError> {
        let blobs = self.list()?;
        let bytes = blobs.iter().map(|(_, meta)| meta.len()).sum();
        let partial_bytes = self.partials()?.iter().map(|(_, meta)| meta.blocks() * 512).sum();
        Ok(Usage { blobs: blobs.len() as u64, bytes, partial_bytes })
    }

    /// Bytes that the disk has left for this user.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub fn free_bytes(&self) -> Result<u64, BlobError> {
        statvfs_free(self.dir()).map_err(at("look at", self.dir()))
    }

    /// Removes blobs that `keep` does not want and that were not used for a while, the longest unused first;
    /// and partial blobs that nobody has fetched for as long.
    ///
    /// # Errors
    /// [`BlobError::Io`]; what was removed before stays removed.
    pub fn sweep(
        &self,
        keep: impl Fn(ContentId) -> bool,
        Sweep { unused_for, until, dry_run }: Sweep,
    ) -> Result<Freed, BlobError> {
        let limit = SystemTime::now().checked_sub(unused_for.max(YOUNG)).unwrap_or(SystemTime::UNIX_EPOCH);
        let is_old = |meta: &fs::Metadata| meta.modified().is_ok_and(|written| written <= limit);
        let is_unused = |meta: &fs::Metadata| last_used(meta).is_some_and(|used| used <= limit);
        let mut freed = Freed::default();
        let partials = self.partials()?;
        for (id, meta) in partials.iter().filter(|(_, meta)| is_old(meta)) {
            if self.inner.flights.contains(*id) {
                continue;
            }
            if !dry_run {
                let _ = fs::remove_file(self.partial_tree_path(*id));
                let path = self.partial_path(*id);
                fs::remove_file(&path).map_err(at("remove", &path))?;
            }
            freed.blobs += 1;
            freed.bytes += meta.blocks() * 512;
        }
        let mut blobs = self.list()?;
        blobs.retain(|(id, meta)| is_unused(meta) && !keep(*id));
        blobs.sort_by_cached_key(|(_, meta)| last_used(meta));
        for (id, meta) in blobs {
            if matches!(until, SweepUntil::Freed(enough) if freed.bytes >= enough) {
                break;
            }
            let _gate = self.inner.gate.write().unwrap_or_else(PoisonError::into_inner);
            // Read again under the gate: someone may have found a use for it since the list was made.
            let is_still_unused = fs::symlink_metadata(self.blob_path(id)).is_ok_and(|meta| is_unused(&meta));
            if is_still_unused {
                if !dry_run {
                    self.remove(id)?;
                }
                freed.blobs += 1;
                freed.bytes += meta.len();
            }
        }
        if !dry_run {
            self.sweep_caches(is_old)?;
        }
        Ok(freed)
    }

    /// Hashes every blob and removes those that are not what their names say. Returns these.
    ///
    /// # Errors
    /// [`BlobError::Io`] when one cannot be read at all: a failing disk is for a person to look at.
    pub fn verify(&self, mut progress: impl FnMut(Usage)) -> Result<Vec<ContentId>, BlobError> {
        let mut damaged = Vec::new();
        let mut seen = Usage::default();
        for (id, meta) in self.list()? {
            if self.hash_blob(id)? != id {
                self.remove(id)?;
                damaged.push(id);
            }
            seen.blobs += 1;
            seen.bytes += meta.len();
            progress(seen);
        }
        Ok(damaged)
    }

    /// Stat caches of directories that are no longer packed, and outboards without their blob.
    fn sweep_caches(&self, is_old: impl Fn(&fs::Metadata) -> bool) -> Result<(), BlobError> {
        let here: BTreeSet<ContentId> = self.list()?.into_iter().map(|(id, _)| id).collect();
        for (name, holds_outboards) in [("cache", false), ("outboard", true)] {
            let dir = self.dir().join(name);
            for entry in fs::read_dir(&dir).map_err(at("list", &dir))? {
                let entry = entry.map_err(at("list", &dir))?;
                let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
                let is_orphan = !holds_outboards || id.is_none_or(|id| !here.contains(&id));
                if is_orphan && entry.metadata().is_ok_and(|meta| is_old(&meta)) {
                    fs::remove_file(entry.path()).map_err(at("remove", &dir))?;
                }
            }
        }
        Ok(())
    }

    /// Ids and metadata of the blobs that are only partly here.
    fn partials(&self) -> Result<Vec<(ContentId, fs::Metadata)>, BlobError> {
        let dir = self.dir().join("partial");
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(at("list", &dir))? {
            let entry = entry.map_err(at("list", &dir))?;
            // `<hash>.tree` is no id and goes with its blob.
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let (Some(id), Ok(meta)) = (id, entry.metadata()) {
                found.push((id, meta));
            }
        }
        Ok(found)
    }
}
