//! The file that carries endings from a runner that ends to the next one: what no daemon has on disk yet.
//! Written when a runner ends and removed when the last of it is forgotten; while a runner
//! lives, its endings are in its memory only.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::exec::protocol::{AttemptStatus, Ended, FRAME_MAX, ITEMS_MAX, ToDaemon};
use crate::exec::protocol::{VERSION_MAX, decode_to_daemon, put_frame, take_frame};

/// A file larger than this was not written by a runner: endings are limited to `attempts::ENDED_MAX`.
const FILE_MAX: u64 = 256 << 20;

/// Writes `endings` to `path`, on disk when it returns; removes the file if there are none.
pub(super) fn save<'a>(path: &Path, endings: impl Iterator<Item = &'a Ended>) -> io::Result<()> {
    let statuses: Vec<_> = endings.cloned().map(AttemptStatus::Ended).collect();
    if statuses.is_empty() {
        return remove(path);
    }
    let mut bytes = Vec::new();
    for chunk in statuses.chunks(ITEMS_MAX) {
        let word = ToDaemon::Listed { attempts: chunk.to_vec(), more: false };
        put_frame(&mut bytes, VERSION_MAX, &word).map_err(|error| io::Error::other(error.to_string()))?;
    }
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// The endings in `path`; none if there is no such file. What follows a damaged frame is not read.
pub(super) fn load(path: &Path) -> io::Result<Vec<Ended>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    let mut endings = Vec::new();
    let mut rest = bytes.as_slice();
    while let Ok(Some(frame)) = take_frame(rest, FRAME_MAX) {
        // A file of the version before is read like a word of the version before.
        let Ok(ToDaemon::Listed { attempts, .. }) = decode_to_daemon(frame, frame.version) else { break };
        endings.extend(attempts.into_iter().filter_map(|status| match status {
            AttemptStatus::Ended(ended) => Some(ended),
            AttemptStatus::Waiting(_) | AttemptStatus::Running(_) => None,
        }));
        rest = &rest[frame.used..];
    }
    Ok(endings)
}

/// Removes the file, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proto::job::{Ending, Usage};
    use proto::{AttemptId, GroupId, JobId};

    use super::*;
    use crate::harness::attack::attack_loosely;

    #[test]
    fn endings_survive_their_runner() {
        let home = tempfile::tempdir().expect("made");
        let path = home.path().join("endings");
        let ended = |number| Ended {
            attempt: AttemptId { job: JobId::only(GroupId([1; 16])), epoch: 1, number },
            ending: Ending::Exited { code: 3 },
            usage: Usage::default(),
            started_unix_ms: 5,
            ended_unix_ms: 6,
        };
        let endings: Vec<_> = (0..5000).map(ended).collect();
        assert_eq!(load(&path).expect("no file is no error"), []);
        save(&path, endings.iter()).expect("saved");
        assert_eq!(load(&path).expect("loads"), endings);

        let bytes = fs::read(&path).expect("there");
        fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
        assert_eq!(load(&path).expect("loads"), endings[..ITEMS_MAX], "a torn frame costs only itself");

        save(&path, [].iter()).expect("saved");
        assert!(!path.exists());
    }

    #[test]
    fn hostile_bytes_in_the_file_cost_at_most_its_endings() {
        let home = tempfile::tempdir().expect("made");
        let path = home.path().join("endings");
        let ended = Ended {
            attempt: AttemptId { job: JobId::only(GroupId([1; 16])), epoch: 1, number: 2 },
            ending: Ending::OutOfMemory,
            usage: Usage::default(),
            started_unix_ms: 5,
            ended_unix_ms: 6,
        };
        save(&path, [ended].iter()).expect("saved");
        let bytes = fs::read(&path).expect("just written");
        attack_loosely("endings", &bytes, 20, |bytes| {
            fs::write(&path, bytes).expect("written");
            load(&path).is_ok_and(|endings| !endings.is_empty())
        });
    }
}
