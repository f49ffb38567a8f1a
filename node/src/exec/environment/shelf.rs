//! The environments on disk: one directory each, named by its key. Knows which are complete, how large they are and
//! when they were last used, and removes them. Builds nothing. A virtual environment cannot be moved, so it is
//! built where it stays, and counts only once its `complete.json` is on disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::Environment;

/// The directory of the virtual environment within its shelf place.
const VENV: &str = "venv";
/// Written last, and synced: without it the place is half built.
const COMPLETE_FILE: &str = "complete.json";
/// Who builds here now.
const BUILDING_FILE: &str = "building.json";
/// Touched at each use, for the least recently used.
const USED_FILE: &str = "used";
/// What is being removed; renamed first, so that nobody finds half of it under its key.
const TRASH_PREFIX: &str = "trash-";
/// Keys are 16 bytes of BLAKE3 in hexadecimal.
pub(super) const KEY_CHARS: usize = 32;

/// A directory of environments.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    pub(super) dir: PathBuf,
}

/// What `complete.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Complete {
    /// As `3.11.7`.
    pub(super) python: String,
    /// As `uv` or `pip`.
    pub(super) tool: String,
    pub(super) bytes: u64,
    pub(super) built_unix_s: u64,
}

/// One complete environment, as `fnode gc` and `fnode node show` list it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its key.
    pub id: String,
    /// As `3.11.7`.
    pub python: String,
    /// What built it: `uv` or `pip`.
    pub tool: String,
    /// Its size on disk; files that uv shares between environments are counted in each.
    pub bytes: u64,
    /// Seconds since 1970.
    pub built_unix_s: u64,
    /// Seconds since 1970.
    pub used_unix_s: u64,
}

/// A process group that builds, so that the next daemon can end it if this one is killed.
#[derive(Debug, Serialize, Deserialize)]
struct Building {
    group: i32,
    /// In ticks since boot, from `/proc/PID/stat`: a process id alone may be someone else's by now.
    started: u64,
    boot: String,
}

impl Shelf {
    pub(super) fn place(&self, key: &str) -> PathBuf {
        self.dir.join(key)
    }

    pub(super) fn venv(&self, key: &str) -> PathBuf {
        self.place(key).join(VENV)
    }

    /// The complete environment of this key, marked as used now. One whose interpreter was uninstalled since is
    /// not complete any more.
    pub(super) fn get(&self, key: &str) -> Option<Environment> {
        self.complete(key)?;
        let environment = Environment::at(key, &self.venv(key));
        if !environment.python.exists() {
            return None;
        }
        // Only the order of removal hangs on it.
        let _ = fs::write(self.place(key).join(USED_FILE), b"");
        Some(environment)
    }

    fn complete(&self, key: &str) -> Option<Complete> {
        serde_json::from_slice(&fs::read(self.place(key).join(COMPLETE_FILE)).ok()?).ok()
    }

    /// An empty place for a build; what is there of an earlier one goes.
    pub(super) fn clear(&self, key: &str) -> io::Result<PathBuf> {
        let place = self.place(key);
        self.remove(key)?;
        fs::create_dir_all(&place)?;
        Ok(place)
    }

    /// Notes which process group builds at `key`.
    pub(super) fn note_building(&self, key: &str, group: i32) -> io::Result<()> {
        let building = Building { group, started: started(group).unwrap_or(0), boot: boot_id() };
        fs::write(self.place(key).join(BUILDING_FILE), serde_json::to_vec(&building)?)
    }

    /// Makes the environment at `key` complete: everything of it on disk, its directories read-only, then the
    /// marker.
    pub(super) fn finish(&self, key: &str, python: &str, tool: &str) -> io::Result<()> {
        let place = self.place(key);
        let bytes = seal(&place.join(VENV))?;
        let built_unix_s = unix_s(SystemTime::now());
        let complete = Complete { python: python.to_owned(), tool: tool.to_owned(), bytes, built_unix_s };
        let _ = fs::remove_file(place.join(BUILDING_FILE));
        let directory = File::open(&place)?;
        // Tens of thousands of files: one sync of the file system is cheaper than one for each.
        rustix::fs::syncfs(&directory)?;
        let mut file = tempfile::NamedTempFile::new_in(&place)?;
        file.write_all(&serde_json::to_vec(&complete)?)?;
        file.as_file().sync_all()?;
        file.persist(place.join(COMPLETE_FILE))?;
        directory.sync_all()
    }

    /// All complete environments, least recently used first.
    pub(super) fn list(&self) -> Vec<Listed> {
        let mut listed: Vec<Listed> = self
            .keys()
            .into_iter()
            .filter_map(|id| {
                let complete = self.complete(&id)?;
                let used = fs::metadata(self.place(&id).join(USED_FILE)).and_then(|meta| meta.modified());
                let Complete { python, tool, bytes, built_unix_s } = complete;
                let used_unix_s = used.map_or(built_unix_s, unix_s);
                Some(Listed { id, python, tool, bytes, built_unix_s, used_unix_s })
            })
            .collect();
        listed.sort_by(|a, b| (a.used_unix_s, &a.id).cmp(&(b.used_unix_s, &b.id)));
        listed
    }

    /// Puts the environment at `key` aside; [`Shelf::sweep`] deletes it. Renaming is one step, so nobody can find
    /// half of it.
    pub(super) fn discard(&self, key: &str) -> io::Result<Option<PathBuf>> {
        let aside = tempfile::Builder::new().prefix(TRASH_PREFIX).tempdir_in(&self.dir)?.keep();
        match fs::rename(self.place(key), aside.join(key)) {
            Ok(()) => Ok(Some(aside)),
            Err(error) => {
                let _ = fs::remove_dir(&aside);
                if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) }
            }
        }
    }

    /// Removes what is at `key`, and ends a build of an earlier daemon that still runs there.
    pub(super) fn remove(&self, key: &str) -> io::Result<()> {
        if let Ok(bytes) = fs::read(self.place(key).join(BUILDING_FILE)) {
            end_build(&bytes);
        }
        if let Some(aside) = self.discard(key)? {
            // What cannot be deleted now goes at the next start: it is out of the way.
            let _ = remove_tree(&aside);
        }
        Ok(())
    }

    /// Removes what an earlier daemon left: half-built environments, with the builds that may still run, and
    /// what it had put aside. Only at start, before any build of our own.
    pub(super) fn sweep(&self) -> io::Result<()> {
        for key in self.incomplete() {
            self.remove(&key)?;
        }
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TRASH_PREFIX) {
                let _ = remove_tree(&entry.path());
            }
        }
        Ok(())
    }

    /// Keys of what is half built, or was given up.
    pub(super) fn incomplete(&self) -> Vec<String> {
        self.keys().into_iter().filter(|key| self.complete(key).is_none()).collect()
    }

    fn keys(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.len() == KEY_CHARS && name.bytes().all(|byte| byte.is_ascii_hexdigit())).collect()
    }
}

/// Kills the group that a killed daemon has left building, if it is still that one.
fn end_build(bytes: &[u8]) {
    let Ok(building) = serde_json::from_slice::<Building>(bytes) else { return };
    let same = building.boot == boot_id() && started(building.group) == Some(building.started);
    if let (true, Some(group)) = (same && building.group > 1, Pid::from_raw(building.group)) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// When the process started, in ticks since boot: field 22, counted after the name, which may hold anything.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Takes the write permission from every directory, so that no job installs into what others share, and
/// returns the size of all files. Files stay as they are: uv may share them with its cache.
fn seal(root: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                pending.push(entry.path());
            } else {
                bytes += meta.len();
            }
        }
        let mode = fs::metadata(&dir)?.permissions().mode();
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode & !0o222))?;
    }
    Ok(bytes)
}

/// Deletes a tree with directories that were sealed.
pub(super) fn remove_tree(root: &Path) -> io::Result<()> {
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        if fs::symlink_metadata(&dir)?.is_dir() {
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
            for entry in fs::read_dir(&dir)?.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    pending.push(entry.path());
                }
            }
        }
    }
    fs::remove_dir_all(root)
}

pub(super) fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check};

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn built(shelf: &Shelf, key: &str) {
        let place = shelf.clear(key).unwrap();
        fs::create_dir_all(place.join("venv/bin")).unwrap();
        fs::write(place.join("venv/bin/python"), "x".repeat(100)).unwrap();
    }

    #[test]
    fn only_what_was_finished_is_found_and_the_rest_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf { dir: dir.path().to_path_buf() };
        built(&shelf, KEY);
        assert_eq!(shelf.get(KEY), None);
        shelf.finish(KEY, "3.11.7", "uv").unwrap();
        assert!(shelf.get(KEY).is_some());
        let half = KEY.replace('0', "f");
        built(&shelf, &half);
        fs::create_dir(dir.path().join("trash-x")).unwrap();
        fs::create_dir(dir.path().join("cache")).unwrap();
        shelf.sweep().unwrap();
        assert!(!shelf.place(&half).exists() && !dir.path().join("trash-x").exists());
        assert!(dir.path().join("cache").exists() && shelf.get(KEY).is_some());
        let listed = shelf.list();
        assert_eq!((listed.len(), listed[0].bytes, listed[0].tool.as_str()), (1, 100, "uv"));
    }

    #[test]
    fn a_finished_environment_is_sealed_and_can_still_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf { dir: dir.path().to_path_buf() };
        built(&shelf, KEY);
        shelf.finish(KEY, "3.11.7", "pip").unwrap();
        let mode = fs::metadata(shelf.venv(KEY).join("bin")).unwrap().permissions().mode();
        assert_eq!(mode & 0o222, 0);
        let aside = shelf.discard(KEY).unwrap().expect("it was there");
        assert_eq!((shelf.get(KEY), shelf.discard(KEY).unwrap()), (None, None));
        remove_tree(&aside).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_environment_whose_interpreter_is_gone_is_not_complete() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf { dir: dir.path().to_path_buf() };
        let place = shelf.clear(KEY).unwrap();
        fs::create_dir_all(place.join("venv/bin")).unwrap();
        std::os::unix::fs::symlink("/no/such/python", place.join("venv/bin/python")).unwrap();
        shelf.finish(KEY, "3.11.7", "uv").unwrap();
        assert_eq!(shelf.get(KEY), None);
        fs::write(place.join(COMPLETE_FILE), "{torn").unwrap();
        assert_eq!(shelf.list(), []);
    }

    #[test]
    fn golden_shelf() {
        let complete =
            Complete { python: "3.11.7".to_owned(), tool: "uv".to_owned(), bytes: 70_000, built_unix_s: 1_700_000_000 };
        let building = Building { group: 4_711, started: 123, boot: "9a1c".to_owned() };
        let json = |title: &str, value: &dyn std::fmt::Debug, text: String| Sample::text(title, &value, &text);
        let samples = [
            json("complete", &complete, serde_json::to_string(&complete).unwrap()),
            json("building", &building, serde_json::to_string(&building).unwrap()),
        ];
        check("exec.Shelf", &samples);
        for text in [serde_json::to_string(&complete).unwrap(), serde_json::to_string(&building).unwrap()] {
            let read = |bytes: &[u8]| {
                // A changed note must not make the daemon kill a group that is not its own: it is only read here.
                serde_json::from_slice::<Building>(bytes).is_ok() || serde_json::from_slice::<Complete>(bytes).is_ok()
            };
            attack_loosely("shelf", text.as_bytes(), 500, read);
        }
    }
}
