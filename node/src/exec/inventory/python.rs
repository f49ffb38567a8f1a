//! Which Python interpreters this machine has. Called by the inventory (which versions to offer) and by the
//! environments (which one to build with). Looks at names and links first and runs an interpreter only where
//! these do not tell: through a pyenv shim even `--version` costs 94 ms. Installs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::command;

/// Directories of `PATH`, versions of pyenv and of uv that are looked at; a real machine has a few dozen.
const PLACES_MAX: usize = 256;
/// An interpreter that does not tell its version within this time is of no use to a job.
const VERSION_LIMIT: Duration = Duration::from_secs(5);
/// Interpreters whose version is remembered; the oldest are forgotten.
const REMEMBERED_MAX: usize = 64;
/// The cache file holds a line for each of them; a larger one is not ours.
const CACHE_FILE_MAX: u64 = 64 * 1024;

/// One interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// As `3.11`.
    pub version: String,
    /// What to run. Not resolved: a virtual environment's `python3` is a link whose place matters.
    pub path: PathBuf,
}

/// The interpreters of this machine, one for each minor version of Python 3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pythons {
    by_version: BTreeMap<String, Interpreter>,
    default: Option<Interpreter>,
}

/// Where to look. [`Search::of_this_process`] reads the environment once; tests make their own.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// As in `PATH`.
    pub path: OsString,
    /// pyenv's root: its `shims` are skipped, its `versions` are looked at.
    pub pyenv_root: Option<PathBuf>,
    /// As in `PYENV_VERSION`: what pyenv's plain `python3` means, before its `version` file.
    pub pyenv_version: Option<String>,
    /// Where uv keeps the interpreters that it has downloaded.
    pub uv_root: Option<PathBuf>,
    /// File that remembers the versions of interpreters that had to be run.
    pub cache: Option<PathBuf>,
}

impl Search {
    /// Looks where this process's environment points. `cache` is a file in the data directory.
    #[must_use]
    pub fn of_this_process(cache: Option<PathBuf>) -> Self {
        let home = env::var_os("HOME").map(PathBuf::from);
        let below_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
        let data_home = env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(|| below_home(".local/share"));
        let path = env::var_os("PATH").unwrap_or_default();
        let shims_root = root_of_shims(&path);
        Self {
            path,
            pyenv_root: env::var_os("PYENV_ROOT").map(PathBuf::from).or(shims_root).or_else(|| below_home(".pyenv")),
            pyenv_version: env::var("PYENV_VERSION").ok(),
            uv_root: env::var_os("UV_PYTHON_INSTALL_DIR")
                .map(PathBuf::from)
                .or_else(|| data_home.map(|data| data.join("uv/python"))),
            cache,
        }
    }
}

/// pyenv's root, told by its shims in `PATH`: a daemon may be started without pyenv's own variables.
fn root_of_shims(path: &OsStr) -> Option<PathBuf> {
    let root = |dir: PathBuf| dir.ends_with("shims").then(|| dir.parent().map(Path::to_owned)).flatten();
    env::split_paths(path).filter_map(root).find(|root| root.join("versions").is_dir())
}

impl Pythons {
    /// Looks for interpreters: `PATH` first, then pyenv's versions, then uv's. Runs at most one of them, and
    /// only a plain `python3` whose links do not tell its version. May be called again at any time.
    #[must_use]
    pub fn find(search: &Search) -> Self {
        let mut found = Self::default();
        let shims = search.pyenv_root.as_ref().map(|root| root.join("shims"));
        for dir in env::split_paths(&search.path).take(PLACES_MAX) {
            if shims.as_ref() == Some(&dir) {
                found.default = found.default.or_else(|| pyenv_default(search));
                continue;
            }
            found.add_dir(&dir);
            if found.default.is_none() {
                found.default = plain_python(&dir.join("python3"), search);
            }
        }
        // In a version's own directory the newest patch release comes first.
        for root in [search.pyenv_root.as_ref().map(|root| root.join("versions")), search.uv_root.clone()] {
            for version in root.into_iter().flat_map(|root| newest_first(&root)) {
                found.add_dir(&version.join("bin"));
            }
        }
        if let Some(default) = &found.default {
            found.by_version.entry(default.version.clone()).or_insert_with(|| default.clone());
        }
        found
    }

    /// The versions that can be had without a download, as `3.11`.
    #[must_use]
    pub fn versions(&self) -> BTreeSet<String> {
        self.by_version.keys().cloned().collect()
    }

    /// The interpreter for `version`, as `3.11`; for an empty one what `python3` means here, else the newest.
    #[must_use]
    pub fn get(&self, version: &str) -> Option<&Interpreter> {
        if !version.is_empty() {
            return self.by_version.get(version);
        }
        self.default
            .as_ref()
            .or_else(|| self.by_version.values().max_by_key(|python| minor(&format!("python{}", python.version))))
    }

    fn add_dir(&mut self, dir: &Path) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(minor) = name.to_str().and_then(minor) else { continue };
            let path = entry.path();
            if is_executable(&path) {
                let version = format!("3.{minor}");
                self.by_version.entry(version.clone()).or_insert(Interpreter { version, path });
            }
        }
    }
}

/// The full version of `interpreter`, as `3.11.7`: from the cache file when the interpreter has not changed
/// since, else by running it for at most five seconds. `None`: it does not run.
#[must_use]
pub fn full_version(interpreter: &Path, cache: Option<&Path>) -> Option<String> {
    let real = fs::canonicalize(interpreter).ok()?;
    let meta = fs::metadata(&real).ok()?;
    let stamp = (meta.mtime(), meta.mtime_nsec(), meta.size());
    let mut remembered = cache.map(Remembered::read).unwrap_or_default();
    if let Some(known) = remembered.versions.iter().find(|known| known.path == real && known.stamp == stamp) {
        return Some(known.version.clone());
    }
    let mut ask = Command::new(interpreter);
    ask.args(["-I", "-S", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"]);
    let version = command::run(&mut ask, VERSION_LIMIT).ok()?.success()?.trim().to_owned();
    if version.is_empty() || version.len() > 20 || version.chars().any(|c| !c.is_ascii_digit() && c != '.') {
        return None;
    }
    if let Some(cache) = cache {
        remembered.versions.retain(|known| known.path != real);
        remembered.versions.push(Known { path: real, stamp, version: version.clone() });
        remembered.write(cache);
    }
    Some(version)
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Remembered {
    versions: Vec<Known>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Known {
    path: PathBuf,
    /// Seconds and nanoseconds of its last change, and its size.
    stamp: (i64, i64, u64),
    version: String,
}

impl Remembered {
    /// A file that is missing, torn or too large remembers nothing: it only saves time.
    fn read(path: &Path) -> Self {
        let small = fs::metadata(path).is_ok_and(|meta| meta.len() <= CACHE_FILE_MAX);
        let bytes = if small { fs::read(path).unwrap_or_default() } else { Vec::new() };
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn write(&mut self, path: &Path) {
        let excess = self.versions.len().saturating_sub(REMEMBERED_MAX);
        self.versions.drain(..excess);
        super::replace_file(path, self);
    }
}

/// The minor version in the name of a versioned interpreter: `python3.11`, but not `python3.11-config`.
fn minor(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("python3.")?;
    let plain = !digits.is_empty() && digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A plain `python3`: its links usually end at a name that tells the version.
fn plain_python(path: &Path, search: &Search) -> Option<Interpreter> {
    if !is_executable(path) {
        return None;
    }
    let real = fs::canonicalize(path).ok()?;
    let by_name = real.file_name().and_then(|name| name.to_str()).and_then(minor).map(|minor| format!("3.{minor}"));
    let version = match by_name {
        Some(version) => version,
        None => minor_of(&full_version(path, search.cache.as_deref())?)?,
    };
    Some(Interpreter { version, path: path.to_path_buf() })
}

fn minor_of(full: &str) -> Option<String> {
    let mut parts = full.split('.');
    match (parts.next()?, parts.next()?) {
        ("3", minor) => Some(format!("3.{minor}")),
        _ => None,
    }
}

/// What `python3` means through pyenv's shims, without running them.
fn pyenv_default(search: &Search) -> Option<Interpreter> {
    let root = search.pyenv_root.as_ref()?;
    let names = match &search.pyenv_version {
        Some(version) => version.replace(':', "\n"),
        None => fs::read_to_string(root.join("version")).ok()?,
    };
    // "system" means: the next one on PATH.
    let name = names.lines().map(str::trim).find(|name| !name.is_empty() && *name != "system")?;
    if name.contains('/') {
        return None;
    }
    plain_python(&root.join("versions").join(name).join("bin/python3"), search)
}

/// The directories below `root`, by version number, newest first. uv's are named
/// `cpython-3.12.1-linux-x86_64-gnu`, pyenv's `3.12.1`; other names (pyenv's environments) are left out.
fn newest_first(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .flatten()
        .take(PLACES_MAX)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("cpython-").unwrap_or(&name).split('-').next()?;
            let numbers: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
            // Links are uv's shorthand (`cpython-3.12-…`) for a directory that is listed as well.
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            numbers.filter(|_| is_dir).map(|numbers| (numbers, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check};

    fn program(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn machine(dir: &Path) -> Search {
        program(&dir.join("usr/bin/python3.11"), "");
        program(&dir.join("usr/bin/python3.11-config"), "");
        fs::write(dir.join("usr/bin/python3.5"), "not executable").unwrap();
        symlink("python3.11", dir.join("usr/bin/python3")).unwrap();
        for version in ["2.7.18", "3.9.2", "3.9.18", "3.12.1"] {
            let name = if version.starts_with('2') { "python2.7" } else { &version[..version.rfind('.').unwrap()] };
            let name = if name.starts_with('p') { name.to_owned() } else { format!("python{name}") };
            program(&dir.join("pyenv/versions").join(version).join("bin").join(&name), "");
        }
        symlink("python3.12", dir.join("pyenv/versions/3.12.1/bin/python3")).unwrap();
        program(&dir.join("pyenv/shims/python3"), "#!/bin/sh\nexit 1\n");
        program(&dir.join("pyenv/shims/python3.7"), "#!/bin/sh\nexit 1\n");
        program(&dir.join("uv/cpython-3.13.0-linux-x86_64-gnu/bin/python3.13"), "");
        let path = env::join_paths([dir.join("pyenv/shims"), dir.join("usr/bin")]).unwrap();
        Search { path, pyenv_root: Some(dir.join("pyenv")), uv_root: Some(dir.join("uv")), ..Search::default() }
    }

    #[test]
    fn versions_come_from_names_and_shims_are_never_run() {
        let dir = tempfile::tempdir().unwrap();
        let search = machine(dir.path());
        let pythons = Pythons::find(&search);
        let versions: Vec<String> = pythons.versions().into_iter().collect();
        assert_eq!(versions, ["3.11", "3.12", "3.13", "3.9"]);
        assert_eq!(pythons.get("").unwrap().path, dir.path().join("usr/bin/python3"));
        assert!(pythons.get("3.9").unwrap().path.ends_with("3.9.18/bin/python3.9"), "newest patch release");
        assert!(pythons.get("3.7").is_none());
    }

    #[test]
    fn the_default_follows_pyenv_when_its_shims_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut search = machine(dir.path());
        fs::write(dir.path().join("pyenv/version"), "3.12.1\n").unwrap();
        assert_eq!(Pythons::find(&search).get("").unwrap().version, "3.12");
        search.pyenv_version = Some("system".to_owned());
        assert_eq!(Pythons::find(&search).get("").unwrap().version, "3.11");
    }

    #[test]
    fn pyenv_is_known_by_its_shims() {
        let dir = tempfile::tempdir().unwrap();
        let path = env::join_paths([Path::new("/usr/bin"), &dir.path().join("shims")]).unwrap();
        assert_eq!(root_of_shims(&path), None, "any directory may be called so");
        fs::create_dir_all(dir.path().join("versions")).unwrap();
        assert_eq!(root_of_shims(&path).as_deref(), Some(dir.path()));
    }

    #[test]
    fn a_version_is_asked_once_and_again_after_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let (python, cache) = (dir.path().join("bin/python3"), dir.path().join("pythons.json"));
        let count = dir.path().join("count");
        let script = |version: &str| format!("#!/bin/sh\necho x >> {}\necho {version}\n", count.display());
        program(&python, &script("3.14.1"));
        assert_eq!(full_version(&python, Some(&cache)).as_deref(), Some("3.14.1"));
        assert_eq!(full_version(&python, Some(&cache)).as_deref(), Some("3.14.1"));
        assert_eq!(fs::read_to_string(&count).unwrap().lines().count(), 1);
        program(&python, &script("3.14.10"));
        assert_eq!(full_version(&python, Some(&cache)).as_deref(), Some("3.14.10"));
        fs::write(&cache, "{torn").unwrap();
        assert_eq!(full_version(&python, Some(&cache)).as_deref(), Some("3.14.10"));
        let search = Search { path: dir.path().join("bin").into(), cache: Some(cache), ..Search::default() };
        assert_eq!(Pythons::find(&search).get("").unwrap().version, "3.14");
    }

    #[test]
    fn a_program_that_only_calls_itself_python_is_not_offered() {
        let dir = tempfile::tempdir().unwrap();
        program(&dir.path().join("python3"), "#!/bin/sh\necho hello\n");
        let search = Search { path: dir.path().into(), ..Search::default() };
        assert_eq!(Pythons::find(&search), Pythons::default());
    }

    #[test]
    fn golden_remembered_pythons() {
        let known =
            Known { path: "/usr/bin/python3".into(), stamp: (1_700_000_000, 5, 70_000), version: "3.11.7".to_owned() };
        let remembered = Remembered { versions: vec![known] };
        let text = serde_json::to_string(&remembered).unwrap();
        check("exec.Pythons", &[Sample::text("what is remembered", &remembered, &text)]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pythons.json");
        attack_loosely("pythons.json", text.as_bytes(), 20, |bytes| {
            fs::write(&path, bytes).unwrap();
            !Remembered::read(&path).versions.is_empty()
        });
    }
}
