//! What a job left behind: [`BlobStore::collect_outputs`] stores every file of its directory that it made
//! or changed, as a manifest of their own that also names what it removed.
//!
//! A file whose stat is what unpacking recorded (size, mtime, ctime, inode; see `stat_cache.rs`) is not
//! read again. That is safe because unpacking dates files back: any later write changes the mtime, and a
//! program that restores the mtime still changes the ctime. Without such a record files are hashed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use proto::blob::FileKind;
use proto::{Manifest, ManifestFile, codec};

use super::error::{BlobError, PackError};
use super::pack::{FILES_MAX, encoded_len_max, skeleton};
use super::stat_cache::StatCache;
use super::store::BlobStore;
use super::walk::{Found, FoundKind, Rules, walk};

/// Files listed one by one as left behind; the rest is a number.
const SKIPPED_MAX: usize = 1_000;

/// A job's outputs, in the store.
#[derive(Debug, Default)]
pub struct Outputs {
    /// What the job made, changed or removed, by path in its directory. Passes [`Manifest::check`].
    pub manifest: Manifest,
    /// Sum of the sizes of its files in bytes.
    pub total_bytes: u64,
    /// Of these, bytes that were not in the store before.
    pub new_bytes: u64,
    /// What was left behind, by path; at most 1,000 entries.
    pub skipped: Vec<Skipped>,
    /// How many more were left behind beyond those in `skipped`.
    pub skipped_more: u64,
}

/// One file that is not among the outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Path in the job's directory, or all of it when it has no UTF-8 spelling.
    pub path: String,
    /// Length in bytes, where it has one.
    pub size: u64,
    /// Why.
    pub reason: SkipReason,
}

/// Why a file is not among the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// The job's output limit was reached.
    #[error("beyond the output limit")]
    Limit,
    /// A name or kind that no manifest can hold.
    #[error("cannot travel: its name or kind")]
    CannotTravel,
    /// A symbolic link out of the directory.
    #[error("a link out of the job's directory")]
    LinkLeaves,
    /// Not readable, or gone before it was read.
    #[error("could not be read")]
    Unreadable,
    /// Something that outlived the job still writes to it.
    #[error("still being written to")]
    Changing,
}

impl BlobStore {
    /// Stores what the job in `dir` made or changed since `original` was unpacked there (`None`: all of
    /// it is new), in path order as far as `limit_bytes` goes; a file beyond the limit is passed over and
    /// smaller ones after it still count. Caches that the default rules leave out of bundles are left out;
    /// `.fnodeignore` does not apply, for it says what is not submitted, not what is not wanted back.
    ///
    /// # Errors
    /// [`PackError::NotFound`] or [`PackError::Unreadable`] for `dir` itself, and [`PackError::Store`] when
    /// the disk is full: the outputs stay in `dir`.
    pub fn collect_outputs(
        &self,
        dir: &Path,
        original: Option<&Manifest>,
        limit_bytes: u64,
    ) -> Result<Outputs, PackError> {
        let dir = fs::canonicalize(dir).map_err(|source| match source.kind() {
            ErrorKind::NotFound => PackError::NotFound(dir.to_owned()),
            _ => PackError::Unreadable { path: dir.to_owned(), source },
        })?;
        let mut outputs = Outputs::default();
        let found = walk(&dir, Rules::Outputs, |odd| {
            let (path, reason) = oddity(odd)?;
            outputs.skip(path.strip_prefix(&dir).unwrap_or(&path).to_string_lossy().into_owned(), 0, reason);
            Ok(())
        })?;
        let original: BTreeMap<&str, &FileKind> =
            original.iter().flat_map(|manifest| &manifest.files).map(|file| (file.path.as_str(), &file.kind)).collect();
        let cache = if original.is_empty() { StatCache::default() } else { StatCache::load(self, &dir) };
        outputs.manifest.removed = removed(&dir, &found, &original);
        let mut encoded_len = encoded_len_max(&outputs.manifest);
        for entry in &found {
            if is_unchanged(entry, original.get(entry.path.as_str()).copied(), &cache) {
                continue;
            }
            let mut one = skeleton(std::slice::from_ref(entry));
            encoded_len += encoded_len_max(&one);
            if let Err(reason) = outputs.admits(&mut one, encoded_len) {
                outputs.skip(entry.path.clone(), entry.size(), reason);
                continue;
            }
            let Some(file) = one.files.pop() else { continue };
            self.collect(&dir, file, original.get(entry.path.as_str()).copied(), limit_bytes, &mut outputs)?;
        }
        outputs.drop_clashes();
        outputs.total_bytes = outputs.manifest.total_bytes();
        Ok(outputs)
    }

    /// Stores one entry, unless it is over the limit or turns out to be what it was.
    fn collect(
        &self,
        dir: &Path,
        mut file: ManifestFile,
        was: Option<&FileKind>,
        limit_bytes: u64,
        outputs: &mut Outputs,
    ) -> Result<(), BlobError> {
        if let FileKind::File { content, size, .. } = &mut file.kind {
            if outputs.total_bytes.saturating_add(*size) > limit_bytes {
                outputs.skip(file.path, *size, SkipReason::Limit);
                return Ok(());
            }
            match self.ingest(&dir.join(&file.path)) {
                Ok(stored) => {
                    (*content, *size) = (stored.id, stored.stamp.size);
                    outputs.new_bytes += if stored.is_new { *size } else { 0 };
                }
                Err(error) if error.is_disk_full() => return Err(error),
                Err(error) => {
                    let changing = matches!(error, BlobError::Changing(_));
                    let reason = if changing { SkipReason::Changing } else { SkipReason::Unreadable };
                    outputs.skip(file.path, *size, reason);
                    return Ok(());
                }
            }
            if was == Some(&file.kind) {
                return Ok(());
            }
        }
        outputs.total_bytes += size_of(&file);
        outputs.manifest.files.push(file);
        Ok(())
    }
}

impl Outputs {
    fn skip(&mut self, path: String, size: u64, reason: SkipReason) {
        if self.skipped.len() < SKIPPED_MAX {
            self.skipped.push(Skipped { path, size, reason });
        } else {
            self.skipped_more += 1;
        }
    }

    /// Whether one more entry, alone in `one`, may join: its own name, and room in the manifest.
    fn admits(&self, one: &mut Manifest, encoded_len: usize) -> Result<(), SkipReason> {
        use proto::blob::ManifestError;
        match one.check() {
            Ok(()) => {}
            Err(ManifestError::Link { .. }) => return Err(SkipReason::LinkLeaves),
            Err(_) => return Err(SkipReason::CannotTravel),
        }
        let full = self.manifest.files.len() >= FILES_MAX || encoded_len > codec::BODY_MAX;
        if full { Err(SkipReason::Limit) } else { Ok(()) }
    }

    /// Names that differ only in case cannot unpack everywhere; of these the first stays.
    fn drop_clashes(&mut self) {
        if self.manifest.check().is_ok() {
            return;
        }
        let mut kept = BTreeMap::new();
        let files = std::mem::take(&mut self.manifest.files);
        for file in files {
            let lower = file.path.to_lowercase();
            let parents = file.path.match_indices('/').map(|(at, _)| &file.path[..at]);
            let clashes = |path: &str| kept.get(&path.to_lowercase()).is_some_and(|seen: &String| seen != path);
            if kept.contains_key(&lower) || parents.clone().any(clashes) {
                self.skip(file.path.clone(), size_of(&file), SkipReason::CannotTravel);
                continue;
            }
            let spelled: Vec<String> = parents.map(str::to_owned).collect();
            kept.extend(spelled.into_iter().map(|path| (path.to_lowercase(), path)));
            kept.insert(lower, file.path.clone());
            self.manifest.files.push(file);
        }
    }
}

fn size_of(file: &ManifestFile) -> u64 {
    match file.kind {
        FileKind::File { size, .. } => size,
        FileKind::Link(_) | FileKind::EmptyDirectory => 0,
    }
}

/// What was there and is not. What was merely not walked (a directory that may not be read, one of caches) is there.
fn removed(dir: &Path, found: &[Found], original: &BTreeMap<&str, &FileKind>) -> Vec<String> {
    let is_found = |path: &str| found.binary_search_by(|entry| entry.path.as_str().cmp(path)).is_ok();
    let gone = original.iter().filter(|&(path, was)| !is_found(path) && is_gone(&dir.join(path), was));
    gone.map(|(path, _)| (*path).to_owned()).collect()
}

fn is_gone(path: &Path, was: &FileKind) -> bool {
    let is_missing = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    let Some(parent) = path.parent() else { return false };
    match fs::canonicalize(parent) {
        // Through a link one would see a file that lies elsewhere.
        Ok(real) if real != parent => return true,
        Ok(_) => {}
        Err(error) => return is_missing(&error),
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.is_dir() && !matches!(was, FileKind::EmptyDirectory),
        Err(error) => is_missing(&error),
    }
}

/// Whether an entry is what it was, as far as can be told without reading it.
fn is_unchanged(entry: &Found, was: Option<&FileKind>, cache: &StatCache) -> bool {
    match (&entry.kind, was) {
        (FoundKind::EmptyDirectory, Some(FileKind::EmptyDirectory)) => true,
        (FoundKind::Link(now), Some(FileKind::Link(then))) => now == then,
        (FoundKind::File { stamp, executable: now }, Some(FileKind::File { content, size, executable: then })) => {
            now == then && stamp.size == *size && cache.get(&entry.path, stamp) == Some(*content)
        }
        _ => false,
    }
}

/// The path of what cannot be collected, and why; errors that concern the whole walk go on.
fn oddity(odd: PackError) -> Result<(std::path::PathBuf, SkipReason), PackError> {
    match odd {
        PackError::NotUtf8(path) | PackError::Special { path, .. } => Ok((path, SkipReason::CannotTravel)),
        PackError::Unreadable { path, .. } => Ok((path, SkipReason::Unreadable)),
        other => Err(other),
    }
}
