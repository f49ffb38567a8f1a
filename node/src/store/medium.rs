//! Where journal segments and bases lie: files in a directory, or memory.
//!
//! Journal and bases call it; it knows nothing of what the bytes mean. Beside segments, which are numbered from 1,
//! a few files have numbers of their own: [`base`], [`name`] and the drafts of both.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Open segments kept at hand: the one written to, and those that peers catch up from.
const OPEN_MAX: usize = 4;

/// No segment has such a number: one segment a second would take 30,000 years to get there.
const SEGMENT_END: u64 = 1 << 40;
const BASE: u64 = 1 << 48;
const NAME: u64 = 1 << 49;
/// A base that is being written.
pub(crate) const DRAFT: u64 = 1 << 50;
/// A base's name that is being written.
pub(crate) const NAME_DRAFT: u64 = 1 << 51;

/// The file of the base that is folded before segment `number`.
pub(crate) fn base(number: u64) -> u64 {
    BASE | number
}

/// The file of its name and signatures.
pub(crate) fn name(number: u64) -> u64 {
    NAME | number
}

/// A numbered set of growing byte strings.
pub(crate) trait Medium: Send + Sync + 'static {
    /// Numbers of all segments, ascending.
    fn segments(&self) -> io::Result<Vec<u64>>;
    /// Length in bytes.
    fn len(&self, segment: u64) -> io::Result<u64>;
    /// Makes an empty segment whose name survives a crash.
    fn create(&self, segment: u64) -> io::Result<()>;
    /// Writes all of `bytes`; the segment grows as needed.
    fn write_at(&self, segment: u64, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything written survives a crash.
    fn sync(&self, segment: u64) -> io::Result<()>;
    /// Cuts the segment to `len` bytes.
    fn truncate(&self, segment: u64, len: u64) -> io::Result<()>;
    /// Fills as much of `buffer` as there is; returns how much.
    fn read_at(&self, segment: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Numbers of all bases, ascending.
    fn bases(&self) -> io::Result<Vec<u64>>;
    /// Gives a file another number, durably; replaces one that is there.
    fn rename(&self, from: u64, to: u64) -> io::Result<()>;
    /// Removes a file; none is no error.
    fn remove(&self, number: u64) -> io::Result<()>;
    /// What can still be written.
    fn free_bytes(&self) -> io::Result<u64>;
    /// For messages.
    fn path(&self, segment: u64) -> PathBuf;
}

/// Segments as files `0000000000000001.seg`, bases beside them as `.base` and `.name`.
#[derive(Debug)]
pub(crate) struct Directory {
    dir: PathBuf,
    open: Mutex<Vec<(u64, Arc<File>)>>,
}

impl Directory {
    /// Segments in `dir`, which must exist.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: Mutex::new(Vec::new()) }
    }

    fn file(&self, segment: u64) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(number, _)| *number == segment) {
            let found = open.remove(at);
            open.push(found);
        } else {
            let file = OpenOptions::new().read(true).write(true).open(self.path(segment))?;
            if open.len() == OPEN_MAX {
                open.remove(0);
            }
            open.push((segment, Arc::new(file)));
        }
        Ok(Arc::clone(&open.last().expect("one was just pushed").1))
    }

    fn forget(&self, number: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(open, _)| *open != number);
    }

    fn numbered(&self, suffix: &str) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for file in std::fs::read_dir(&self.dir)? {
            let name = file?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(suffix)).filter(|stem| stem.len() == 16);
            numbers.extend(number.and_then(|stem| stem.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

impl Medium for Directory {
    fn segments(&self) -> io::Result<Vec<u64>> {
        self.numbered(".seg")
    }

    fn len(&self, segment: u64) -> io::Result<u64> {
        Ok(self.file(segment)?.metadata()?.len())
    }

    fn create(&self, segment: u64) -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).open(self.path(segment))?;
        File::open(&self.dir)?.sync_all()
    }

    fn write_at(&self, segment: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(segment)?.write_all_at(bytes, offset)
    }

    fn sync(&self, segment: u64) -> io::Result<()> {
        self.file(segment)?.sync_data()
    }

    fn truncate(&self, segment: u64, len: u64) -> io::Result<()> {
        self.file(segment)?.set_len(len)
    }

    fn read_at(&self, segment: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.file(segment)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn bases(&self) -> io::Result<Vec<u64>> {
        self.numbered(".base")
    }

    fn rename(&self, from: u64, to: u64) -> io::Result<()> {
        self.forget(from);
        self.forget(to);
        std::fs::rename(self.path(from), self.path(to))?;
        File::open(&self.dir)?.sync_all()
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.forget(number);
        match std::fs::remove_file(self.path(number)) {
            Ok(()) => File::open(&self.dir)?.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        let low = number & (SEGMENT_END - 1);
        self.dir.join(match number - low {
            0 => format!("{low:016}.seg"),
            BASE => format!("{low:016}.base"),
            NAME => format!("{low:016}.name"),
            DRAFT => "base.draft".to_owned(),
            _ => "name.draft".to_owned(),
        })
    }
}

/// Segments in memory, for tests of other shells.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<BTreeMap<u64, Vec<u8>>>);

impl Memory {
    fn edit<T>(&self, segment: u64, edit: impl FnOnce(&mut Vec<u8>) -> T) -> io::Result<T> {
        let mut segments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        segments.get_mut(&segment).map(edit).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Medium for Memory {
    fn segments(&self) -> io::Result<Vec<u64>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(all.keys().copied().filter(|&number| number < SEGMENT_END).collect())
    }

    fn bases(&self) -> io::Result<Vec<u64>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(all.range(BASE..NAME).map(|(number, _)| number - BASE).collect())
    }

    fn rename(&self, from: u64, to: u64) -> io::Result<()> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = all.remove(&from).ok_or(io::ErrorKind::NotFound)?;
        all.insert(to, bytes);
        Ok(())
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        Ok(())
    }

    fn len(&self, segment: u64) -> io::Result<u64> {
        self.edit(segment, |bytes| bytes.len() as u64)
    }

    fn create(&self, segment: u64) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(segment, Vec::new());
        Ok(())
    }

    fn write_at(&self, segment: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        self.edit(segment, |held| {
            held.resize(held.len().max(start + bytes.len()), 0);
            held[start..start + bytes.len()].copy_from_slice(bytes);
        })
    }

    fn sync(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, segment: u64, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.edit(segment, |held| held.truncate(len))
    }

    fn read_at(&self, segment: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        self.edit(segment, |held| {
            let there = held.get(start..).unwrap_or_default();
            let len = there.len().min(buffer.len());
            buffer[..len].copy_from_slice(&there[..len]);
            len
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn path(&self, segment: u64) -> PathBuf {
        PathBuf::from(format!("memory:{segment}"))
    }
}
