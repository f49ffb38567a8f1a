//! Why the store refuses or fails. Every message names the path and what helps.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use proto::ByteSize;
use proto::entry::Position;
use proto::snapshot::SnapshotError;

/// A failure of the store. Cloneable, because one failed sync answers every commit that it carried.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another daemon has the directory.
    #[error(
        "{} is in use by another fnode{}; stop it (fnode shutdown) or start with another --home",
        dir.display(), pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who has it, when the lock file tells.
        pid: Option<u32>,
    },
    /// The directory cannot be made or written to.
    #[error("cannot write to {}: {source}; give this user the right to, or start with another --home", dir.display())]
    Unwritable {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Too little space; nothing of the commit was kept. A later commit can succeed.
    #[error("the disk of {} is full ({} free); free some space, for example with fnode gc", dir.display(), ByteSize(*free_bytes))]
    DiskFull {
        /// Where it was to be written.
        dir: PathBuf,
        /// What is free.
        free_bytes: u64,
    },
    /// The system refused a file operation; nothing of the commit was kept.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Verb, as `write`.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The index failed; it is opened again, or rebuilt from the journal, before the next commit.
    #[error("the index of the log failed: {0}; it is mended from the journal")]
    Index(#[from] TableError),
    /// The commit holds an entry that does not follow on what is here: a bug of the caller, or the
    /// entry before it was answered with a failure.
    #[error("entry {} of the log of node {} does not follow entry {head} that is stored", position.seq, position.log.author.short())]
    NotNext {
        /// The entry.
        position: Position,
        /// The last that is stored.
        head: u64,
    },
    /// A stored entry can no longer be read; other nodes have it.
    #[error("{} is damaged at byte {offset}; the entry there can be had from another node", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where the record starts.
        offset: u64,
    },
    /// A snapshot cannot be taken in; nothing was changed.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    /// The snapshot that was to be kept is not the one that was made last.
    #[error("the snapshot is gone; another one is made later")]
    NotMade,
    /// The store was closed.
    #[error("the store is closed; the node is shutting down")]
    Closed,
}

/// Why the index (sled, or its twin in memory) failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TableError {
    /// The system refused; the index itself may be sound.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// Its content cannot be trusted any more.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// It failed before and has not been mended yet.
    #[error("not open")]
    Down,
}
