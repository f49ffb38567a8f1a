//! What can go wrong with blobs on this disk. Errors of the transfer are in `fetch.rs` and `serve.rs`.

use std::io;
use std::path::{Path, PathBuf};

use proto::blob::ManifestError;
use proto::{ByteSize, ContentId};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Not in this store.
    #[error("blob {0} is not on this node")]
    Missing(ContentId),
    /// Its bytes are not those that its name stands for; it has been removed and may be fetched again.
    #[error("blob {0} was damaged on disk and has been removed; fetch it again")]
    Corrupt(ContentId),
    /// More bytes than the caller takes.
    #[error("blob {id} has {size} bytes, more than the {max} allowed here")]
    TooLarge {
        /// The blob.
        id: ContentId,
        /// Its length in bytes.
        size: u64,
        /// The caller's limit in bytes.
        max: u64,
    },
    /// Refused before anything was written, or undone when the disk filled up meanwhile.
    #[error(
        "the disk of {} is too full: {} needed beside a reserve of {}, {} free; free some space or run `fnode gc`",
        dir.display(), ByteSize(*need), ByteSize(super::RESERVE_BYTES), ByteSize(*free)
    )]
    DiskFull {
        /// Where it was to be written.
        dir: PathBuf,
        /// Bytes that were to be written.
        need: u64,
        /// Bytes free, the reserve not subtracted.
        free: u64,
    },
    /// The file did not hold still long enough to be hashed.
    #[error("{} changes while it is read; stop what writes to it, or leave it out with .fnodeignore", .0.display())]
    Changing(PathBuf),
    /// The operating system refused.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a directory did not become a bundle. Nothing of it has been sent anywhere.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// There is nothing at that path.
    #[error("no such directory: {}", .0.display())]
    NotFound(PathBuf),
    /// There is something else at that path.
    #[error("{} is not a directory; give the directory that holds the job's files", .0.display())]
    NotADirectory(PathBuf),
    /// Nothing in it, or nothing that is not left out.
    #[error("{} holds no files to pack (empty, or all left out by .fnodeignore and the defaults)", .0.display())]
    Empty(PathBuf),
    /// It cannot be stored.
    #[error("{} has {need} that the node does not have yet, and its disk has {free} left; leave files out with .fnodeignore, or free some space (fnode gc)", dir.display())]
    NoRoom {
        /// The directory.
        dir: PathBuf,
        /// What would have to be stored.
        need: ByteSize,
        /// What there is room for.
        free: ByteSize,
    },
    /// A name that has no spelling in a manifest.
    #[error("{} has a name that is not UTF-8; rename it, or leave it out with .fnodeignore", .0.display())]
    NotUtf8(PathBuf),
    /// A socket, a pipe or a device.
    #[error("{} is a {kind}, which cannot travel; remove it, or leave it out with .fnodeignore", path.display())]
    Special {
        /// Where it lies.
        path: PathBuf,
        /// What it is: `socket`, `named pipe`, `device`.
        kind: &'static str,
    },
    /// A symbolic link whose target would not exist on another node.
    #[error(
        "{} links to {target:?}, outside the directory; copy the target in, make the link relative and inside, \
         or leave it out with .fnodeignore", path.display()
    )]
    LinkLeaves {
        /// The link.
        path: PathBuf,
        /// What it says.
        target: String,
    },
    /// A file or directory that this user may not read.
    #[error("cannot read {}: {source}; change its permissions, or leave it out with .fnodeignore", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of `.fnodeignore` that is no pattern.
    #[error("{reason}; patterns in .fnodeignore are written as in .gitignore")]
    IgnoreFile {
        /// File, line and pattern.
        reason: String,
    },
    /// More entries, or longer names in total, than one manifest may hold.
    #[error(
        "{} holds more than {max} files, or too long names; leave some out with .fnodeignore, or pack them as one archive",
        path.display()
    )]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
        /// Entries that one bundle may have.
        max: usize,
    },
    /// Names that would not unpack alike everywhere.
    #[error("{}: {source}; rename it, or leave it out with .fnodeignore", dir.display())]
    Names {
        /// The directory.
        dir: PathBuf,
        /// Which names.
        source: ManifestError,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] BlobError),
}

/// Why a bundle did not become a directory. Nothing is left at the destination.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The manifest is not one that may touch a disk.
    #[error("refusing to unpack: {0}")]
    Manifest(#[from] ManifestError),
    /// A file of the bundle is not in the store.
    #[error("cannot unpack {path:?}: blob {id} is not on this node")]
    Missing {
        /// Path inside the bundle.
        path: String,
        /// Its content.
        id: ContentId,
    },
    /// The blob is there, with another length than the manifest says.
    #[error("cannot unpack {path:?}: blob {id} has {have} bytes where the manifest says {said}")]
    Size {
        /// Path inside the bundle.
        path: String,
        /// Its content.
        id: ContentId,
        /// Bytes in the store.
        have: u64,
        /// Bytes in the manifest.
        said: u64,
    },
    /// The destination is taken.
    #[error("{} exists already and is not an empty directory", .0.display())]
    Exists(PathBuf),
    /// The store or the disk refused.
    #[error(transparent)]
    Store(#[from] BlobError),
}

impl BlobError {
    /// Whether the disk was too full, whoever noticed.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// Adds what was tried, and on which path, to a system error.
pub(super) fn at<'a>(verb: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BlobError + 'a {
    move |source| BlobError::Io { verb, path: path.to_owned(), source }
}
