//! The store's directory: who has it, and the number of this node's life.
//!
//! Called by the store when it is opened and when the daemon starts a new life.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::error::StoreError;

const LOCK: &str = "lock";
const INCARNATION: &str = "incarnation";

/// A locked directory. The lock goes with the value, also when the process is killed.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    _lock: File,
}

impl Home {
    /// Makes `dir` if needed, only for this user, and locks it.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let unwritable = |error: io::Error| StoreError::Unwritable { dir: dir.to_owned(), source: Arc::new(error) };
        DirBuilder::new().recursive(true).mode(0o700).create(dir.join("journal")).map_err(unwritable)?;
        let path = dir.join(LOCK);
        let mut file = OpenOptions::new();
        let file = file.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = file.open(path).map_err(unwritable)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The number is a courtesy; without it the message says the rest.
                let _ = lock.read_to_string(&mut text);
                return Err(StoreError::InUse { dir: dir.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(error) => return Err(unwritable(error.into())),
        }
        lock.set_len(0).map_err(unwritable)?;
        writeln!(lock, "{}", std::process::id()).map_err(unwritable)?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Where the segments lie.
    pub(crate) fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// The directory itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The incarnation used last: 0 when there was none, `None` when the file cannot be read.
    pub(crate) fn incarnation(&self) -> Option<u64> {
        match fs::read_to_string(self.dir.join(INCARNATION)) {
            Ok(text) => text.trim().parse().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(0),
            Err(_) => None,
        }
    }

    /// Makes `incarnation` durable: returns only when no crash can bring the old one back.
    pub(crate) fn set_incarnation(&self, incarnation: u64) -> Result<(), StoreError> {
        let path = self.dir.join(INCARNATION);
        let aside = path.with_extension("new");
        let write = || {
            let mut file = File::create(&aside)?;
            writeln!(file, "{incarnation}")?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| StoreError::Io { action: "write", path: path.clone(), source: Arc::new(error) })
    }
}
