//! How much may still be written. Asked before each write, so that a full disk refuses early and never
//! tears what is there.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{BlobError, at};

/// Left free for the journal, the users' own files and the system: 256 MiB.
pub const RESERVE_BYTES: u64 = 256 << 20;

/// Free bytes on the file system that holds a path; a parameter so that tests can fill a disk.
pub type FreeSpace = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// Free bytes and what writers under way have been promised.
pub(super) struct Space {
    probe: FreeSpace,
    promised: Mutex<u64>,
}

/// Bytes promised to one writer; given back as they are written, the rest when dropped.
pub(super) struct Reservation<'a> {
    space: &'a Space,
    left: Mutex<u64>,
}

/// What an unprivileged user may still write there, in bytes.
pub(super) fn statvfs_free(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

impl Space {
    pub(super) fn new(probe: FreeSpace) -> Self {
        Self { probe, promised: Mutex::new(0) }
    }

    /// Promises `need` bytes on `dir`'s file system, or says how much is missing.
    pub(super) fn reserve(&self, dir: &Path, need: u64) -> Result<Reservation<'_>, BlobError> {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (self.probe)(dir).map_err(at("ask for free space of", dir))?;
        let wanted = need.saturating_add(*promised).saturating_add(RESERVE_BYTES);
        // Nothing to write is never refused: an empty file must not fail on a full disk's check.
        if need > 0 && free < wanted {
            return Err(BlobError::DiskFull { dir: dir.to_owned(), need, free });
        }
        *promised += need;
        Ok(Reservation { space: self, left: Mutex::new(need) })
    }
}

impl Reservation<'_> {
    /// `bytes` are on the disk now and no longer count as promised.
    pub(super) fn written(&self, bytes: u64) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let given_back = bytes.min(*left);
        *left -= given_back;
        *self.space.promised.lock().unwrap_or_else(PoisonError::into_inner) -= given_back;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.written(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_count_until_they_are_written() {
        let space = Space::new(Arc::new(|_: &Path| Ok(RESERVE_BYTES + 100)));
        let dir = Path::new("/");
        let first = space.reserve(dir, 60).unwrap();
        assert!(matches!(space.reserve(dir, 60), Err(BlobError::DiskFull { need: 60, .. })));
        first.written(30);
        drop(space.reserve(dir, 60).unwrap());
        drop(first);
        assert!(space.reserve(dir, 100).is_ok());
        assert!(space.reserve(dir, 101).is_err());
    }
}
