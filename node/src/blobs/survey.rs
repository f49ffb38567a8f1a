//! What a directory would be as a bundle, without storing any of it: [`survey`]. For the command line, which
//! has no store; it sends the daemon only what that does not have. Same rules, same manifest as packing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use proto::{ByteSize, ContentId, Manifest, codec};
use rustix::fs::OFlags;

use super::error::{BlobError, PackError, at};
use super::pack::{FILES_PER_THREAD, PackProgress, READS_MAX, check_names, existing_directory, set_content, skeleton};
use super::stat_cache::{Stamp, StatCache, now_ns};
use super::store::in_parallel;
use super::tree::WHOLE_MAX;
use super::walk::{Found, FoundKind, Rules, walk};

/// A directory, hashed.
#[derive(Debug)]
pub struct Survey {
    /// The directory's true path.
    pub dir: PathBuf,
    /// What lies where.
    pub manifest: Manifest,
    /// The manifest as it is stored and sent.
    pub encoded: Vec<u8>,
}

/// Hashes what a bundle of `dir` would hold. Files whose stat is as `cache` remembers are not read. The
/// cache is brought up to date; one that cannot be written only costs time.
///
/// What is not known from the last time is about to be stored: `free` bytes must do for it, or nothing is read at all.
///
/// # Errors
/// [`PackError`], one line each, as packing.
pub fn survey(
    dir: &Path,
    cache: &Path,
    free: u64,
    mut progress: impl FnMut(PackProgress),
) -> Result<Survey, PackError> {
    let dir = existing_directory(dir)?;
    let taken_ns = now_ns();
    let found = walk(&dir, Rules::Bundle, Err)?;
    if found.is_empty() {
        return Err(PackError::Empty(dir));
    }
    let mut manifest = skeleton(&found);
    check_names(&dir, &manifest)?;
    let known = StatCache::load_file(cache);
    let mut fresh = StatCache::default();
    let mut to_read = Vec::new();
    let mut so_far = PackProgress { files_total: found.len(), ..PackProgress::default() };
    for (index, entry) in found.iter().enumerate() {
        so_far.bytes_total += entry.size();
        let FoundKind::File { stamp, .. } = &entry.kind else { continue };
        match known.get(&entry.path, stamp) {
            Some(id) => {
                fresh.note(&entry.path, *stamp, id, taken_ns);
                set_content(&mut manifest.files[index], id, stamp.size);
                so_far.bytes_done += stamp.size;
            }
            None => to_read.push(index),
        }
    }
    so_far.files_done = found.len() - to_read.len();
    let need: u64 = to_read.iter().map(|&index| found[index].size()).sum();
    if need > free {
        return Err(PackError::NoRoom { dir, need: ByteSize(need), free: ByteSize(free) });
    }
    progress(so_far);
    let work = |&index: &usize| (index, hash(&dir.join(&found[index].path)));
    in_parallel(&to_read, FILES_PER_THREAD, work, |_, (index, hashed)| {
        let (stamp, id) = hashed.map_err(|error| about(error, &dir, &found[index]))?;
        fresh.note(&found[index].path, stamp, id, taken_ns);
        set_content(&mut manifest.files[index], id, stamp.size);
        so_far.files_done += 1;
        so_far.bytes_done += stamp.size;
        progress(so_far);
        Ok::<_, PackError>(())
    })?;
    if !to_read.is_empty() {
        // Without it the next survey reads everything again, nothing worse.
        let _ = fresh.save_file(cache);
    }
    let encoded = codec::encode(&manifest);
    Ok(Survey { dir, manifest, encoded })
}

/// The content of a file that may change meanwhile.
fn hash(path: &Path) -> Result<(Stamp, ContentId), BlobError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    for _ in 0..READS_MAX {
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(at("read", path))?;
        let meta = file.metadata().map_err(at("read", path))?;
        if !meta.is_file() {
            return Err(at("read", path)(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let stamp = Stamp::of(&meta);
        let id = hash_file(&mut file, stamp.size).map_err(at("read", path))?;
        if Stamp::of(&file.metadata().map_err(at("read", path))?) == stamp {
            return Ok((stamp, id));
        }
    }
    Err(BlobError::Changing(path.to_owned()))
}

fn hash_file(file: &mut File, size: u64) -> io::Result<ContentId> {
    if size > WHOLE_MAX {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(io::BufReader::with_capacity(1 << 20, file))?;
        return Ok(ContentId(*hasher.finalize().as_bytes()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(size + 1).read_to_end(&mut bytes)?;
    Ok(ContentId::of(&bytes))
}

/// A system error is about the user's own file.
fn about(error: BlobError, dir: &Path, found: &Found) -> PackError {
    match error {
        BlobError::Io { source, .. } => PackError::Unreadable { path: dir.join(&found.path), source },
        other => PackError::Store(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::BlobStore;

    #[test]
    fn a_survey_and_a_pack_make_the_same_bundle() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("project");
        std::fs::create_dir_all(dir.join("a/.git")).unwrap();
        std::fs::create_dir_all(dir.join("empty")).unwrap();
        std::fs::write(dir.join("a/x.py"), "print(1)").unwrap();
        std::fs::write(dir.join("a/.git/y"), "left out").unwrap();
        std::fs::write(dir.join("big"), vec![7; 3 << 20]).unwrap();
        let cache = tmp.path().join("cache");
        let store = BlobStore::open(&tmp.path().join("store")).unwrap();
        let surveyed = survey(&dir, &cache, u64::MAX, |_| {}).unwrap();
        assert_eq!(surveyed.manifest, store.pack(&dir, |_| {}).unwrap().manifest);
        assert_eq!(ContentId::of(&surveyed.encoded), surveyed.manifest.id());
        let again = survey(&dir, &cache, u64::MAX, |_| {}).unwrap();
        assert_eq!(again.encoded, surveyed.encoded);
    }
}
