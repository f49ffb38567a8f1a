//! sled behind [`Table`]: one tree, a small cache, no timers.
//!
//! sled is a rebuildable index and is trusted as little: it may report corruption, and it may panic. Both
//! become a [`TableError::Corrupt`]; the store then sets the directory aside and rebuilds it from the
//! journal. `flush_async` is never called (it can deadlock, sled issues 1241 and 1357), no transaction is
//! used, and compression stays off.

use std::cell::Cell;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::error::TableError;
use super::table::{Batch, Opened, Order, Table, TableSource, Visit};

/// sled's page cache. sled keeps some 16,000 page visits before it looks at the limit, and 0.4 KiB for every
/// page on disk, so this bounds little; `examples/store_rate.rs` with 100,000 jobs: 1 MiB costs no
/// throughput against 4 MiB and saves 2.5 MiB.
const CACHE_BYTES: u64 = 1 << 20;
/// sled's background threads hold its file lock for a moment after the last handle is gone.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How often to look meanwhile; that moment is some milliseconds.
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// In the store's directory: sled's own, the marker of one that was flushed and closed, and that of one
/// that failed while open.
const NAME: &str = "sled";
const CLEAN: &str = "sled.clean";
const SUSPECT: &str = "sled.suspect";
const BROKEN_PREFIX: &str = "sled.broken-";

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread is caught by the store, which mends what failed: a panic hook that ends
/// the process must let it pass.
#[must_use]
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// The sled directory inside a store's directory.
#[derive(Debug)]
pub(crate) struct SledSource {
    dir: PathBuf,
}

struct SledTable(sled::Db);

impl SledSource {
    /// For the store in `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Removes a marker durably; returns whether it was there.
    fn unmark(&self, name: &str) -> io::Result<bool> {
        match fs::remove_file(self.dir.join(name)) {
            Ok(()) => fs::File::open(&self.dir)?.sync_all().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn try_open(&self) -> Result<sled::Db, TableError> {
        let config = sled::Config::new()
            .path(self.dir.join(NAME))
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .use_compression(false);
        guarded(|| config.open())
    }
}

impl TableSource for SledSource {
    fn open(&mut self) -> Result<Opened, TableError> {
        if self.dir.join(SUSPECT).exists() {
            return Err(TableError::Corrupt("it failed while it was last open".to_owned()));
        }
        // Gone for good before the first change of the index.
        let in_doubt = !self.unmark(CLEAN).map_err(|error| TableError::Io(Arc::new(error)))?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match self.try_open() {
                Ok(db) => return Ok(Opened { table: Arc::new(SledTable(db)), in_doubt }),
                Err(TableError::Io(error)) if is_lock(&error) && Instant::now() < deadline => {
                    std::thread::sleep(LOCK_RETRY);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn set_aside(&mut self) -> Result<String, TableError> {
        let from = self.dir.join(NAME);
        let unix_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let to = self.dir.join(format!("{BROKEN_PREFIX}{unix_s}"));
        let aside = || -> io::Result<()> {
            // Only the latest is kept: it is for a person to look at, and may be large.
            for file in fs::read_dir(&self.dir)? {
                let file = file?;
                if file.file_name().to_string_lossy().starts_with(BROKEN_PREFIX) {
                    fs::remove_dir_all(file.path())?;
                }
            }
            if from.exists() {
                fs::rename(&from, &to)?;
            }
            self.unmark(CLEAN)?;
            self.unmark(SUSPECT)?;
            fs::File::open(&self.dir)?.sync_all()
        };
        aside().map_err(|error| TableError::Io(Arc::new(error)))?;
        Ok(to.display().to_string())
    }

    fn suspect(&mut self) {
        // Best effort: without the marker, the next start looks at the index itself.
        let _ = fs::write(self.dir.join(SUSPECT), b"");
    }

    fn closed(&mut self) {
        // Best effort: without the marker, the next start looks at all of the index.
        let _ = fs::write(self.dir.join(CLEAN), b"");
    }
}

impl Table for SledTable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        guarded(|| Ok(self.0.get(key)?.map(|value| value.to_vec())))
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visit<'_>) -> Result<(), TableError> {
        guarded(|| {
            let mut range = self.0.range(from..to);
            loop {
                let next = if order == Order::Ascending { range.next() } else { range.next_back() };
                let Some(pair) = next else { return Ok(()) };
                let (key, value) = pair?;
                // An iterator visits a page once for all its keys, and sled looks at its cache only every 64
                // visits: without more of them a scan would leave everything it saw in memory.
                self.0.contains_key(&key)?;
                if let ControlFlow::Break(()) = visit(&key, &value) {
                    return Ok(());
                }
            }
        })
    }

    fn apply(&self, batch: Batch) -> Result<(), TableError> {
        let mut changes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        guarded(|| self.0.apply_batch(changes))
    }

    fn flush(&self) -> Result<(), TableError> {
        guarded(|| self.0.flush().map(|_| ()))
    }
}

/// Runs `work` on sled; a panic of it is a corruption.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, TableError> {
    let before = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(before);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(told(error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
            Err(TableError::Corrupt(format!("sled panicked: {text}")))
        }
    }
}

/// Tells a system that refuses, where a rebuild would not help, from content that cannot be trusted.
fn told(error: sled::Error) -> TableError {
    match error {
        sled::Error::Io(error) if is_refusal(&error) || is_lock(&error) => TableError::Io(Arc::new(error)),
        error => TableError::Corrupt(error.to_string()),
    }
}

fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    // sled clones an error by printing it, so the number of "too many open files" is only in the text.
    matches!(
        error.kind(),
        Kind::StorageFull
            | Kind::QuotaExceeded
            | Kind::FileTooLarge
            | Kind::PermissionDenied
            | Kind::ReadOnlyFilesystem
            | Kind::OutOfMemory
    ) || ["os error 23", "os error 24", "code: 23,", "code: 24,"].iter().any(|code| error.to_string().contains(code))
}

fn is_lock(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}
