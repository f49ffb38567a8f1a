//! Which hash a file had when its stat was last seen: why an unchanged directory packs without reading
//! a byte of it. Used by packing, and by unpacking and collecting outputs for a job's own directory.
//!
//! A cache is a hint that must never lie. An entry counts only while size, mtime, ctime and inode are
//! the same, and files too young to tell a second write by their times are not recorded at all (git's
//! "racy" rule). A cache that does not decode or whose checksum differs is as good as none.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use proto::ContentId;
use serde::{Deserialize, Serialize};

use super::error::{BlobError, at};
use super::store::BlobStore;

/// First byte of a cache file; another layout takes another number, and old ones are simply forgotten.
const VERSION: u8 = 1;
/// Largest cache read back, in bytes: 100,000 files with long names fit.
const CACHE_MAX: usize = 64 << 20;
/// File times advance with the kernel's tick, at worst every 10 ms (HZ=100): twice that is safe.
const TICK_NS: i64 = 20_000_000;
/// Some file systems keep whole seconds (FAT: two); a file with such times needs that distance.
const COARSE_NS: i64 = 2_000_000_000;

/// What a file's stat says about whether its bytes may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    inode: u64,
}

/// Files of one directory, by their path inside it.
#[derive(Default)]
pub(super) struct StatCache {
    entries: BTreeMap<String, (Stamp, ContentId)>,
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        let ns = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            size: meta.len(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }

    /// Whether a write right after `taken_ns` could leave these very times.
    fn is_racy(&self, taken_ns: i64) -> bool {
        let coarse = self.mtime_ns % 1_000_000_000 == 0 && self.ctime_ns % 1_000_000_000 == 0;
        let distance = if coarse { COARSE_NS } else { TICK_NS };
        self.mtime_ns.max(self.ctime_ns).saturating_add(distance) >= taken_ns
    }
}

/// Nanoseconds since 1970, as file times count them.
pub(super) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl StatCache {
    /// The cache kept for `dir`, empty when there is none that can be trusted.
    pub(super) fn load(store: &BlobStore, dir: &Path) -> Self {
        let entries = fs::read(cache_path(store, dir)).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { entries }
    }

    /// The cache in a file of its own, for a process without a store.
    pub(super) fn load_file(file: &Path) -> Self {
        Self { entries: fs::read(file).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default() }
    }

    /// Writes the cache to a file of its own, in one piece.
    pub(super) fn save_file(&self, file: &Path) -> Result<(), BlobError> {
        let dir = file.parent().unwrap_or(Path::new("."));
        let mut aside = tempfile::NamedTempFile::new_in(dir).map_err(at("write", dir))?;
        aside.write_all(&self.encode()).map_err(at("write", file))?;
        aside.persist(file).map(drop).map_err(|error| at("name", file)(error.error))
    }

    /// The content of `path`, if its stat is still `stamp`.
    pub(super) fn get(&self, path: &str, stamp: &Stamp) -> Option<ContentId> {
        self.entries.get(path).filter(|(seen, _)| seen == stamp).map(|&(_, id)| id)
    }

    /// Records a file whose stat was taken at `taken_ns` or later, unless it is too young to be sure.
    pub(super) fn note(&mut self, path: &str, stamp: Stamp, id: ContentId, taken_ns: i64) {
        if !stamp.is_racy(taken_ns) {
            self.note_settled(path, stamp, id);
        }
    }

    /// Records a file that nobody can have written to since: see `unpack.rs` for how it makes sure.
    pub(super) fn note_settled(&mut self, path: &str, stamp: Stamp, id: ContentId) {
        self.entries.insert(path.to_owned(), (stamp, id));
    }

    /// Keeps this cache for `dir`, in place of an earlier one.
    pub(super) fn save(&self, store: &BlobStore, dir: &Path) -> Result<(), BlobError> {
        let mut temp = store.temp_file()?;
        temp.file.write_all(&self.encode()).map_err(at("write", &temp.path))?;
        let path = cache_path(store, dir);
        fs::rename(&temp.path, &path).map_err(at("name", &path))
    }

    fn encode(&self) -> Vec<u8> {
        let body = bincode::serde::encode_to_vec(&self.entries, bincode::config::standard())
            .expect("paths, numbers and hashes are all that bincode needs to carry here");
        let mut bytes = Vec::with_capacity(body.len() + 33);
        bytes.push(VERSION);
        bytes.extend_from_slice(blake3::hash(&body).as_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }
}

fn cache_path(store: &BlobStore, dir: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let name = ContentId::of(dir.as_os_str().as_bytes()).to_string();
    store.dir().join("cache").join(&name[..32])
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<String, (Stamp, ContentId)>> {
    let (&version, rest) = bytes.split_first()?;
    let (checksum, body) = rest.split_at_checked(32)?;
    if version != VERSION || body.len() > CACHE_MAX || blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let config = bincode::config::standard().with_limit::<CACHE_MAX>();
    let (entries, used) = bincode::serde::decode_from_slice(body, config).ok()?;
    (used == body.len()).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack;
    use crate::harness::golden::{Sample, check};

    const SECOND: i64 = 1_000_000_000;

    fn stamp(mtime_ns: i64, ctime_ns: i64) -> Stamp {
        Stamp { size: 1, mtime_ns, ctime_ns, inode: 7 }
    }

    #[test]
    fn young_files_are_not_trusted() {
        let now = 1_000 * SECOND + 5;
        assert!(!stamp(now - SECOND, now - SECOND).is_racy(now));
        assert!(stamp(now - 5_000_000, now - SECOND).is_racy(now));
        assert!(stamp(now - SECOND, now - 5_000_000).is_racy(now));
        assert!(stamp(now + SECOND, now - SECOND).is_racy(now), "a time in the future");
        assert!(stamp(999 * SECOND, 999 * SECOND).is_racy(now), "whole seconds need two of them");
        assert!(!stamp(997 * SECOND, 997 * SECOND).is_racy(now));
    }

    #[test]
    fn a_damaged_cache_is_no_cache() {
        let tmp = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&tmp.path().join("store")).unwrap();
        let mut cache = StatCache::default();
        let id = ContentId::of(b"x");
        cache.note("a", stamp(5, 5), id, now_ns());
        cache.save(&store, tmp.path()).unwrap();
        let path = cache_path(&store, tmp.path());
        assert_eq!(StatCache::load(&store, tmp.path()).get("a", &stamp(5, 5)), Some(id));
        assert_eq!(StatCache::load(&store, tmp.path()).get("a", &stamp(5, 6)), None);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decode(&bad).is_none(), "byte {at}");
            assert!(decode(&good[..at]).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn golden_stat_cache() {
        let mut cache = StatCache::default();
        cache.note_settled("src/train.py", stamp(1_700_000_000 * SECOND, 5), ContentId([0xab; 32]));
        let bytes = cache.encode();
        check("blobs.StatCache", &[Sample::new("one file", &cache.entries, bytes.clone())]);
        attack("stat cache", &bytes, |bytes| decode(bytes).is_some());
    }
}
