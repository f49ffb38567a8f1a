//! A directory becomes a bundle: [`BlobStore::pack`]. Everything that would make the bundle useless
//! elsewhere is refused before the first file is hashed; unchanged files are not read at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use proto::blob::{FileKind, ManifestError};
use proto::{ContentId, Manifest, ManifestFile, codec};
use rustix::fs::OFlags;

use super::error::{BlobError, PackError, at};
use super::stat_cache::{Stamp, StatCache, now_ns};
use super::store::{BlobStore, in_parallel};
use super::tree::{self, WHOLE_MAX};
use super::walk::{Found, FoundKind, Rules, walk};

/// Entries of one bundle; `proto`'s words are sized for as many.
pub(super) const FILES_MAX: usize = 100_000;
/// An entry of an encoded manifest beside its path: hash, size, lengths and tags, rounded up.
const ENTRY_BYTES: usize = 64;
/// A file that changed during each of so many readings is being written to.
pub(super) const READS_MAX: usize = 3;
/// Files that make a second thread worth its start.
pub(super) const FILES_PER_THREAD: usize = 16;

/// A directory that is now in the store.
#[derive(Debug)]
pub struct Packed {
    /// What lies where.
    pub manifest: Manifest,
    /// The bundle's id; a blob with the encoded manifest is in the store under it.
    pub id: ContentId,
    /// Length in bytes of that blob.
    pub manifest_bytes: u64,
    /// Sum of all files' sizes in bytes.
    pub total_bytes: u64,
    /// Of these, bytes that were not in the store before.
    pub new_bytes: u64,
}

/// How far packing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackProgress {
    /// Files hashed or found unchanged.
    pub files_done: usize,
    /// Files in the directory.
    pub files_total: usize,
    /// Bytes of the files done.
    pub bytes_done: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
}

/// A user's file that has become a blob.
pub(super) struct Ingested {
    pub(super) id: ContentId,
    pub(super) stamp: Stamp,
    pub(super) is_new: bool,
}

impl BlobStore {
    /// Stores a file's bytes: shares its blocks where the file system can, else copies. The file itself is
    /// only read. Returns its content and length in bytes.
    ///
    /// # Errors
    /// [`BlobError::Io`] when it is no readable regular file, [`BlobError::Changing`], [`BlobError::DiskFull`].
    pub fn put_file(&self, path: &Path) -> Result<(ContentId, u64), BlobError> {
        self.ingest(path).map(|file| (file.id, file.stamp.size))
    }

    /// Stores the directory `dir` as a bundle, leaving out what `.fnodeignore` (gitignore syntax) and the
    /// defaults name. The bundle is complete in the store but not yet durable: [`BlobStore::sync`] does that.
    ///
    /// # Errors
    /// [`PackError`], one line each. Blobs stored before an error stay until a sweep.
    pub fn pack(&self, dir: &Path, mut progress: impl FnMut(PackProgress)) -> Result<Packed, PackError> {
        let dir = existing_directory(dir)?;
        let taken_ns = now_ns();
        let found = walk(&dir, Rules::Bundle, Err)?;
        if found.is_empty() {
            return Err(PackError::Empty(dir));
        }
        let mut manifest = skeleton(&found);
        check_names(&dir, &manifest)?;
        let cache = StatCache::load(self, &dir);
        let mut fresh = StatCache::default();
        let mut to_read = Vec::new();
        let mut so_far = PackProgress { files_total: found.len(), ..PackProgress::default() };
        for (index, entry) in found.iter().enumerate() {
            let FoundKind::File { stamp, .. } = &entry.kind else {
                so_far.files_done += 1;
                continue;
            };
            so_far.bytes_total += stamp.size;
            match cache.get(&entry.path, stamp).filter(|&id| self.renew(id, stamp.size)) {
                Some(id) => {
                    fresh.note(&entry.path, *stamp, id, taken_ns);
                    set_content(&mut manifest.files[index], id, stamp.size);
                    so_far.files_done += 1;
                    so_far.bytes_done += stamp.size;
                }
                None => to_read.push(index),
            }
        }
        progress(so_far);
        let new_bytes = self.read_in(&dir, &found, &to_read, &mut manifest, |index, file| {
            fresh.note(&found[index].path, file.stamp, file.id, taken_ns);
            so_far.files_done += 1;
            so_far.bytes_done += file.stamp.size;
            progress(so_far);
        })?;
        if !to_read.is_empty() {
            fresh.save(self, &dir)?;
        }
        let encoded = codec::encode(&manifest);
        let id = self.put_bytes(&encoded)?;
        let total_bytes = manifest.total_bytes();
        Ok(Packed { manifest, id, manifest_bytes: encoded.len() as u64, total_bytes, new_bytes })
    }

    /// Stores the files that the cache does not know. Returns how many of their bytes were new.
    fn read_in(
        &self,
        dir: &Path,
        found: &[Found],
        to_read: &[usize],
        manifest: &mut Manifest,
        mut done: impl FnMut(usize, &Ingested),
    ) -> Result<u64, PackError> {
        let need: u64 = to_read.iter().map(|&index| found[index].size()).sum();
        // Asked for all files at once, so that what cannot fit is refused before the first copy; each file
        // then reserves its own bytes.
        drop(self.inner.space.reserve(self.dir(), need)?);
        let mut new_bytes = 0;
        let ingest = |&index: &usize| (index, self.ingest(&dir.join(&found[index].path)));
        in_parallel(to_read, FILES_PER_THREAD, ingest, |_, (index, result)| {
            let file = result.map_err(|error| unreadable(error, &dir.join(&found[index].path)))?;
            new_bytes += if file.is_new { file.stamp.size } else { 0 };
            set_content(&mut manifest.files[index], file.id, file.stamp.size);
            done(index, &file);
            Ok::<_, PackError>(())
        })?;
        Ok(new_bytes)
    }

    /// Stores a file that belongs to someone else and may change meanwhile.
    pub(super) fn ingest(&self, path: &Path) -> Result<Ingested, BlobError> {
        // A link or pipe put in the file's place since the walk must neither be followed nor waited for.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        for _ in 0..READS_MAX {
            let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(at("read", path))?;
            let meta = file.metadata().map_err(at("read", path))?;
            if !meta.is_file() {
                return Err(at("read", path)(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
            }
            let stamp = Stamp::of(&meta);
            let stored = self.take_in(&mut file, stamp.size, path)?;
            let after = Stamp::of(&file.metadata().map_err(at("read", path))?);
            if let Some((id, is_new)) = stored.filter(|_| after == stamp) {
                return Ok(Ingested { id, stamp, is_new });
            }
        }
        Err(BlobError::Changing(path.to_owned()))
    }

    /// Stores `size` bytes of `file`; `None` when it turned out to have another length.
    fn take_in(&self, file: &mut File, size: u64, path: &Path) -> Result<Option<(ContentId, bool)>, BlobError> {
        if size > WHOLE_MAX {
            return self.take_in_large(file, size, path);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        Read::by_ref(file).take(size + 1).read_to_end(&mut bytes).map_err(at("read", path))?;
        if bytes.len() as u64 != size {
            return Ok(None);
        }
        let id = ContentId::of(&bytes);
        Ok(Some((id, self.put_hashed(id, &bytes)?)))
    }

    /// Copies while hashing, or shares the blocks and hashes those: one pass, and the tree with it.
    fn take_in_large(&self, file: &mut File, size: u64, path: &Path) -> Result<Option<(ContentId, bool)>, BlobError> {
        let temp = self.temp_file()?;
        let outboard = self.temp_file()?;
        let mut writer = BufWriter::with_capacity(1 << 16, &outboard.file);
        let hashed = if rustix::fs::ioctl_ficlone(&temp.file, &*file).is_ok() {
            tree::hash_tree(ahead(&temp.file), size, &mut writer)
        } else {
            let reservation = self.inner.space.reserve(self.dir(), size)?;
            let copying = Copying { from: file, to: &temp.file };
            let hashed = tree::hash_tree(ahead(copying), size, &mut writer);
            drop(reservation);
            hashed
        };
        let id = match hashed.and_then(|id| writer.flush().map(|()| id)) {
            Ok(id) => id,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(self.full(at("store", path)(error), size)),
        };
        drop(writer);
        // A file that grew is longer than what was hashed of it; the caller's second stamp tells.
        temp.file.set_len(size).map_err(at("store", path))?;
        if self.renew(id, size) {
            return Ok(Some((id, false)));
        }
        let outboard_path = self.outboard_path(id);
        fs::rename(&outboard.path, &outboard_path).map_err(at("name", &outboard_path))?;
        self.commit(&temp.path, id)?;
        Ok(Some((id, true)))
    }
}

/// Hash trees are read 16 KiB at a time; the disk is asked for more, within the cache of one core.
fn ahead<R: Read>(inner: R) -> BufReader<R> {
    BufReader::with_capacity(128 << 10, inner)
}

/// Writes to `to` whatever is read from `from`.
struct Copying<'a> {
    from: &'a mut File,
    to: &'a File,
}

impl Read for Copying<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        Ok(count)
    }
}

impl Found {
    pub(super) fn size(&self) -> u64 {
        match &self.kind {
            FoundKind::File { stamp, .. } => stamp.size,
            FoundKind::Link(_) | FoundKind::EmptyDirectory => 0,
        }
    }
}

/// The directory's true path, so that its cache is found however it was spelled.
pub(super) fn existing_directory(dir: &Path) -> Result<std::path::PathBuf, PackError> {
    let meta = fs::metadata(dir).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => PackError::NotFound(dir.to_owned()),
        _ => PackError::Unreadable { path: dir.to_owned(), source },
    })?;
    if !meta.is_dir() {
        return Err(PackError::NotADirectory(dir.to_owned()));
    }
    fs::canonicalize(dir).map_err(|source| PackError::Unreadable { path: dir.to_owned(), source })
}

/// The manifest with every content still to be filled in.
pub(super) fn skeleton(found: &[Found]) -> Manifest {
    let files = found.iter().map(|entry| ManifestFile {
        path: entry.path.clone(),
        kind: match &entry.kind {
            FoundKind::File { stamp, executable } => {
                FileKind::File { content: ContentId([0; 32]), size: stamp.size, executable: *executable }
            }
            FoundKind::Link(target) => FileKind::Link(target.clone()),
            FoundKind::EmptyDirectory => FileKind::EmptyDirectory,
        },
    });
    Manifest { files: files.collect(), ..Manifest::default() }
}

pub(super) fn set_content(file: &mut ManifestFile, id: ContentId, length: u64) {
    if let FileKind::File { content, size, .. } = &mut file.kind {
        *content = id;
        *size = length;
    }
}

/// Refuses what no node would unpack, while nothing has been read yet.
pub(super) fn check_names(dir: &Path, manifest: &Manifest) -> Result<(), PackError> {
    if manifest.files.len() > FILES_MAX || encoded_len_max(manifest) > codec::BODY_MAX {
        return Err(PackError::TooManyFiles { path: dir.to_owned(), max: FILES_MAX });
    }
    manifest.check().map_err(|error| match error {
        ManifestError::Link { path, target } => PackError::LinkLeaves { path: dir.join(path), target },
        source => PackError::Names { dir: dir.to_owned(), source },
    })
}

/// Upper bound of the encoded manifest's length in bytes.
pub(super) fn encoded_len_max(manifest: &Manifest) -> usize {
    let texts = manifest.files.iter().map(|file| match &file.kind {
        FileKind::Link(target) => file.path.len() + target.len(),
        _ => file.path.len(),
    });
    texts.chain(manifest.removed.iter().map(String::len)).map(|len| len + ENTRY_BYTES).sum()
}

/// A system error on the user's own file is about the file, not about the store.
fn unreadable(error: BlobError, file: &Path) -> PackError {
    match error {
        BlobError::Io { path, source, .. } if path == file => PackError::Unreadable { path, source },
        other => PackError::Store(other),
    }
}
