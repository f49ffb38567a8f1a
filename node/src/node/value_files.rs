//! Values of cached calls as files on this machine: a record per key that the Python package reads by itself, without
//! asking anybody. Small values lie in their record, large ones are blobs that it names.
//!
//! A record is written aside and renamed. One that cannot be read counts as none, and is replaced. Everything here
//! blocks on the disk. What is in the cache is the log's to say; these files only follow.

use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use proto::{ContentId, NodeId, ValueKey, ValueNote};
use serde::{Deserialize, Serialize};

/// The layout of records.
const VERSION: u32 = 1;
/// Values up to this many bytes lie in their record; the Python package has the same number.
pub(super) const RECORD_INLINE_MAX: u64 = 64 << 10;
/// No line of a record is longer: names are bounded where values are taken in.
const LINE_MAX: u64 = 64 << 10;
/// What a program wrote to hand it over and never did is removed after this.
const INCOMING_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The first line of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RecordLine {
    pub(super) v: u32,
    pub(super) key: String,
    pub(super) function: String,
    pub(super) made_unix_ms: u64,
    pub(super) seconds: f64,
    pub(super) user: String,
    pub(super) project: String,
    /// Who made it; absent: a program on this machine, while no daemon ran.
    pub(super) node: Option<String>,
    pub(super) expires_unix_ms: Option<u64>,
    pub(super) bytes: u64,
    pub(super) inline: bool,
    /// Of the bytes behind the line: a disk that changed one of them is noticed without the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) crc32: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) blob: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<PathBuf>,
    /// Of the file at `path` when its bytes were known to be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seen: Option<Seen>,
}

/// Which file it was, and when it was written last: whatever writes to it, or puts another in its place, changes these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    inode: u64,
    mtime_ns: i64,
}

/// Where the bytes of a value are.
pub(super) enum Bytes<'a> {
    /// To be put into the record.
    Here(&'a [u8]),
    /// In the blob store, at this path; how its file was seen before its bytes were found to be right.
    Blob(&'a Path, Seen),
}

/// A record that is here.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) key: ValueKey,
    /// What it takes: the value, wherever its bytes are.
    pub(super) bytes: u64,
    /// The blob that holds them, or may hold them beside the record.
    pub(super) content: Option<ContentId>,
}

/// The directory of the cache.
#[derive(Debug)]
pub(super) struct ValueFiles {
    dir: PathBuf,
    names: AtomicU64,
}

impl RecordLine {
    /// Of a value that `maker` made.
    pub(super) fn new(key: ValueKey, maker: NodeId, note: &ValueNote) -> Self {
        Self {
            v: VERSION,
            key: key.to_string(),
            function: note.function.clone(),
            made_unix_ms: note.made_unix_ms,
            seconds: Duration::from_millis(note.took_ms).as_secs_f64(),
            user: note.user.clone(),
            project: note.project.clone(),
            node: Some(maker.to_string()),
            expires_unix_ms: note.expires_unix_ms,
            bytes: note.bytes,
            inline: true,
            crc32: None,
            blob: Some(note.content.to_string()),
            path: None,
            seen: None,
        }
    }
}

impl Seen {
    /// As the file at `path` is now; `None`: there is none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let mtime_ns = meta.mtime().checked_mul(1_000_000_000)?.checked_add(meta.mtime_nsec())?;
        Some(Self { inode: meta.ino(), mtime_ns })
    }
}

impl ValueFiles {
    /// Makes the directories where they are missing, for their owner alone.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        for sub in ["values", "incoming"] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join(sub))?;
        }
        Ok(Self { dir: dir.to_owned(), names: AtomicU64::new(0) })
    }

    /// Writes a value's record; replaces one that was there.
    ///
    /// # Errors
    /// What the system says; nothing is left behind then.
    pub(super) fn write(&self, mut line: RecordLine, bytes: Bytes<'_>) -> io::Result<()> {
        let body = match bytes {
            Bytes::Here(body) => {
                (line.inline, line.path, line.seen) = (true, None, None);
                line.crc32 = Some(crc32fast::hash(body));
                body
            }
            Bytes::Blob(path, seen) => {
                (line.inline, line.path, line.seen) = (false, Some(path.to_owned()), Some(seen));
                line.crc32 = None;
                &[]
            }
        };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        let path = self.path(&line.key);
        let parent = path.parent().unwrap_or(&self.dir);
        let aside = parent.join(format!(".new-{}-{}", std::process::id(), self.names.fetch_add(1, Ordering::Relaxed)));
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
            file.write_all(&text)?;
            file.write_all(body)?;
            drop(file);
            fs::rename(&aside, &path)
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        write().inspect_err(|_| drop(fs::remove_file(&aside)))
    }

    /// The record of a key and the bytes behind its line; `None`: there is none that can be read.
    pub(super) fn read(&self, key: ValueKey) -> Option<(RecordLine, Vec<u8>)> {
        let (line, mut file) = self.line(key)?;
        let mut body = Vec::new();
        if line.inline {
            let max = line.bytes.min(RECORD_INLINE_MAX) + 1;
            io::Read::read_to_end(&mut io::Read::take(&mut file, max), &mut body).ok()?;
        }
        let is_whole = !line.inline || body.len() as u64 == line.bytes;
        let is_sound = line.crc32.is_none_or(|sum| sum == crc32fast::hash(&body));
        (is_whole && is_sound).then_some((line, body))
    }

    fn line(&self, key: ValueKey) -> Option<(RecordLine, io::BufReader<fs::File>)> {
        let key = key.to_string();
        let mut file = io::BufReader::new(fs::File::open(self.path(&key)).ok()?);
        let mut text = Vec::new();
        io::Read::take(&mut file, LINE_MAX).read_until(b'\n', &mut text).ok()?;
        let line: RecordLine = serde_json::from_slice(&text).ok()?;
        (line.v == VERSION && line.key == key).then_some((line, file))
    }

    /// Whether the record of `key` names `content`; false when there is none.
    pub(super) fn names(&self, key: ValueKey, content: ContentId) -> bool {
        self.line(key).is_some_and(|(line, _)| line.blob == Some(content.to_string()))
    }

    /// Removes the record of `key`, and the value that a program without a daemon put beside it.
    pub(super) fn remove(&self, key: ValueKey) {
        for path in [self.path(&key.to_string()), self.beside(key)] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a record of the cache stays");
            }
        }
    }

    /// Where a program without a daemon puts a large value.
    pub(super) fn beside(&self, key: ValueKey) -> PathBuf {
        self.path(&key.to_string()).with_extension("value")
    }

    /// Where a program put what it hands over; `None` for anything but the name of a plain file in `incoming/`.
    pub(super) fn incoming(&self, name: &str) -> Option<PathBuf> {
        let file = name.strip_prefix("incoming/")?;
        let is_plain = !file.is_empty() && file.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let path = self.dir.join("incoming").join(file);
        (is_plain && fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file())).then_some(path)
    }

    /// Every key of which there is a record here.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn keys(&self) -> io::Result<Vec<ValueKey>> {
        let mut keys = Vec::new();
        for prefix in fs::read_dir(self.dir.join("values"))? {
            let Ok(names) = fs::read_dir(prefix?.path()) else { continue };
            keys.extend(names.flatten().filter_map(|name| name.file_name().to_str()?.parse::<ValueKey>().ok()));
        }
        Ok(keys)
    }

    /// What is here, the longest unused first.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn held(&self) -> io::Result<Vec<Held>> {
        let mut held = Vec::new();
        for key in self.keys()? {
            let used = fs::metadata(self.path(&key.to_string())).and_then(|meta| meta.modified());
            if let (Some((line, _)), Ok(used)) = (self.line(key), used) {
                let content = line.blob.and_then(|blob| blob.parse().ok());
                held.push((used, Held { key, bytes: line.bytes, content }));
            }
        }
        held.sort_by_key(|(used, _)| *used);
        Ok(held.into_iter().map(|(_, held)| held).collect())
    }

    /// Removes what was written to be handed over long ago, and records that were never finished.
    pub(super) fn tidy(&self) {
        let prefixes = fs::read_dir(self.dir.join("values")).into_iter().flatten().flatten().map(|dir| dir.path());
        for dir in prefixes.chain([self.dir.join("incoming")]) {
            for file in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let is_left = file.file_name().to_str().is_some_and(|name| name.starts_with(".new-"));
                let is_old =
                    file.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| is_older(at, INCOMING_MAX));
                if is_old && (is_left || dir.ends_with("incoming")) {
                    // The next start tries again.
                    let _ = fs::remove_file(file.path());
                }
            }
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join("values").join(&key[..2]).join(key)
    }
}

fn is_older(at: SystemTime, age: Duration) -> bool {
    SystemTime::now().duration_since(at).is_ok_and(|passed| passed > age)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check};
    use crate::samples;

    const KEY: ValueKey = ValueKey([0xab; 32]);
    const SEEN: Seen = Seen { inode: 42, mtime_ns: 1_700_000_000_123_456_789 };

    fn note(bytes: u64) -> ValueNote {
        ValueNote {
            content: samples::content(0xce),
            bytes,
            function: "lab.train".to_owned(),
            project: "vision".to_owned(),
            user: "ada".to_owned(),
            took_ms: 1_500,
            made_unix_ms: 1_700_000_000_000,
            expires_unix_ms: None,
            parts: samples::content(0xcf),
        }
    }

    fn files() -> (tempfile::TempDir, ValueFiles) {
        let dir = tempfile::tempdir().unwrap();
        let files = ValueFiles::open(&dir.path().join("cache")).unwrap();
        (dir, files)
    }

    fn line(bytes: u64) -> RecordLine {
        RecordLine::new(KEY, samples::node(8), &note(bytes))
    }

    #[test]
    fn golden_records_are_what_the_python_package_reads() {
        let (_dir, files) = files();
        files.write(line(5), Bytes::Here(b"bytes")).unwrap();
        let small = fs::read_to_string(files.path(&KEY.to_string())).unwrap();
        files.write(line(70_000), Bytes::Blob(Path::new("/blobs/ce"), SEEN)).unwrap();
        let large = fs::read_to_string(files.path(&KEY.to_string())).unwrap();
        let seen = RecordLine { seen: Some(SEEN), ..line(70_000) };
        let samples = [Sample::text("a small value", &line(5), &small), Sample::text("a large one", &seen, &large)];
        check("node.ValueRecord", &samples);
    }

    #[test]
    fn a_record_that_a_disk_has_changed_or_cut_is_none() {
        let (_dir, files) = files();
        files.write(line(5), Bytes::Here(b"bytes")).unwrap();
        assert_eq!(files.read(KEY).map(|(_, body)| body), Some(b"bytes".to_vec()));
        assert!(files.names(KEY, samples::content(0xce)) && !files.names(KEY, samples::content(1)));
        let path = files.path(&KEY.to_string());
        let bytes = fs::read(&path).unwrap();
        attack_loosely("record of the cache", &bytes, 300, |bytes| {
            fs::write(&path, bytes).unwrap();
            files.read(KEY).is_some()
        });
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(files.read(KEY).is_none());
        fs::write(&path, [&bytes[..bytes.len() - 1], b"S"].concat()).unwrap();
        assert!(files.read(KEY).is_none());
        assert_eq!(files.keys().unwrap(), [KEY]);
        files.remove(KEY);
        assert_eq!(files.keys().unwrap(), []);
    }

    #[test]
    fn only_plain_files_of_the_incoming_directory_are_taken() {
        let (dir, files) = files();
        let incoming = dir.path().join("cache/incoming");
        fs::write(incoming.join("ab12"), "x").unwrap();
        fs::create_dir(incoming.join("dir")).unwrap();
        fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), incoming.join("link")).unwrap();
        assert_eq!(files.incoming("incoming/ab12"), Some(incoming.join("ab12")));
        let wrong = ["ab12", "incoming/", "incoming/..", "incoming/../../secret", "/etc/passwd", "incoming/dir"];
        for name in wrong.into_iter().chain(["incoming/link", "incoming/gone", "incoming/a/b", "values/ab12"]) {
            assert_eq!(files.incoming(name), None, "{name}");
        }
    }
}
