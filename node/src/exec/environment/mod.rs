//! Python environments of jobs (DESIGN §10): one for each distinct list of requirements, built once per node and
//! shared. Called by the runner's side of the node before an attempt starts. Owns `<data>/environments`; one
//! daemon owns that directory. Never runs a job, and never touches the job's own copy of the bundle.
//!
//! **Key.** BLAKE3 of: how it is installed; the requirements without comments and blank lines, and every file of the
//! project that they include (`-r`, `-c`); if a requirement is a path in the project (`-e .`, `./pkg`,
//! `-f wheels`), every file of the project; Python's full version; platform; pip's and uv's settings that
//! choose packages (index variables and configuration files). Of a `pyproject.toml` the dependencies count. Of an
//! environment that lies over the node's packages, these, too, by name and version (`below.rs`).
//!
//! **Builds** run in a copy of what they need, with `uv` where there is one, else `venv` and `pip`. All who need the
//! same one wait for one build; when the last of them is dropped, its process group is killed. A failure is
//! remembered for [`FAILURE_KEPT`] and told to whoever asks meanwhile, so that an array of a thousand
//! jobs does not fail a thousand times; then the next job tries again.

mod below;
mod build;
mod error;
pub mod packages;
mod recipe;
mod shelf;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use proto::ByteSize;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use self::build::{Build, Settings};
use self::recipe::Recipe;
use self::shelf::Shelf;
use super::inventory::machine::disk_free;
use super::inventory::python::{Interpreter, Pythons, Search, full_version};

pub use self::error::EnvironmentError;
pub use self::shelf::Listed;

/// How long a failed build is not tried again.
pub const FAILURE_KEPT: Duration = Duration::from_secs(30);
/// Builds at once: they share one line and one disk, and jobs are running beside them.
const BUILDS_MAX: usize = 2;
/// How often a waiting job's log follows the build's.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
/// What a job's log takes of the build's; pip says far less, a compiler may not.
const LOG_COPIED_MAX: u64 = 4 << 20;
/// A small environment with its download; below this a build would only fill the disk.
const DISK_MIN: ByteSize = ByteSize(256 << 20);

/// What a requirements file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As pip reads it.
    Requirements,
    /// `uv.lock`, `pylock.toml`, or a fully pinned requirements file.
    Lock,
    /// `pyproject.toml`: its `[project] dependencies`.
    PyProject,
}

/// What a job asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How `bytes` is to be read.
    pub kind: Kind,
    /// Contents of the file.
    pub bytes: Vec<u8>,
    /// Its path within the project, as `requirements.txt`.
    pub file_name: String,
    /// The unpacked bundle, for files and packages that the requirements name by path. Read before
    /// [`Environments::ensure`] first waits for a build, never written.
    pub project_files: Option<PathBuf>,
    /// As `3.11`; empty: the node's own.
    pub python: String,
    /// Its packages lie over those of that Python, which are seen where it has none of its own.
    pub is_layered: bool,
}

/// A complete virtual environment. While someone holds it, it is not removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Its key.
    pub id: String,
    /// The virtual environment, as in `VIRTUAL_ENV`.
    pub root: PathBuf,
    /// Its programs.
    pub bin: PathBuf,
    /// Its interpreter.
    pub python: PathBuf,
    /// Variables that a job gets, beside `PATH`.
    pub env: BTreeMap<String, OsString>,
}

impl Environment {
    fn at(id: &str, root: &Path) -> Self {
        let bin = root.join("bin");
        Self {
            id: id.to_owned(),
            python: bin.join("python"),
            env: BTreeMap::from([("VIRTUAL_ENV".to_owned(), root.into())]),
            root: root.to_path_buf(),
            bin,
        }
    }

    /// `PATH` for a job: the environment's programs before those of `path`.
    #[must_use]
    pub fn path(&self, path: &OsStr) -> OsString {
        let mut joined = self.bin.clone().into_os_string();
        if !path.is_empty() {
            joined.push(":");
            joined.push(path);
        }
        joined
    }
}

type Outcome = Result<Arc<Environment>, EnvironmentError>;

/// All environments of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Environments {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shelf: Shelf,
    search: Search,
    settings: Settings,
    desk: Mutex<Desk>,
    builds: Semaphore,
}

/// What is going on, behind one short lock.
#[derive(Debug, Default)]
struct Desk {
    flights: BTreeMap<String, Flight>,
    /// Environments that someone holds.
    handed: BTreeMap<String, Weak<Environment>>,
    next_number: u64,
}

#[derive(Debug)]
struct Flight {
    number: u64,
    state: FlightState,
    /// Held by the build of this key, also by an aborted one whose last blocking step still runs: the next
    /// build of the same place waits for it.
    place: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
enum FlightState {
    Building { outcome: watch::Receiver<Option<Outcome>>, interest: Weak<Interest> },
    Failed { at: Instant, error: EnvironmentError },
}

/// Held by everyone who waits for a build; the last one to go ends it.
#[derive(Debug)]
struct Interest {
    build: AbortHandle,
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.build.abort();
    }
}

impl Environments {
    /// Opens the environments below `dir`, creating it; removes what an earlier daemon left half built. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be created or read.
    pub fn open(dir: &Path) -> Result<Self, EnvironmentError> {
        let python_cache = dir.join("pythons.json");
        Self::open_with(dir, Search::of_this_process(Some(python_cache)), Settings::of_this_process())
    }

    fn open_with(dir: &Path, search: Search, settings: Settings) -> Result<Self, EnvironmentError> {
        let shelf = Shelf { dir: dir.to_path_buf() };
        fs::create_dir_all(dir.join("logs"))
            .and_then(|()| shelf.sweep())
            .map_err(|error| EnvironmentError::io(dir, &error))?;
        let desk = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { shelf, search, settings, desk, builds: Semaphore::new(BUILDS_MAX) }) })
    }

    /// The environment for `wanted`, built if there is none yet; `None` when nothing is to be installed, so that
    /// the node's own Python serves. While it is built, its output is appended to `log`.
    ///
    /// May be dropped at any time: when nobody else waits for the same build, it is killed.
    ///
    /// # Errors
    /// See [`EnvironmentError`]; those of a build are the same for all who waited for it, and for whoever asks
    /// within [`FAILURE_KEPT`] after it.
    pub async fn ensure(&self, wanted: &Wanted, log: &Path) -> Result<Option<Arc<Environment>>, EnvironmentError> {
        let (inner, wanted) = (Arc::clone(&self.inner), wanted.clone());
        let Some(build) = blocking(move || inner.plan(&wanted)).await?? else { return Ok(None) };
        let (inner, key) = (Arc::clone(&self.inner), build.key.clone());
        if let Some(ready) = blocking(move || inner.ready(&key)).await? {
            return Ok(Some(ready));
        }
        let log_file = Build::log_file(&self.inner.shelf, &build.key);
        let (interest, outcome) = self.board(build)?;
        let result = follow(outcome, &log_file, log).await;
        drop(interest);
        result.map(Some)
    }

    /// The interpreter of this version, as `3.11`; for an empty one what `python3` means here. Blocks.
    ///
    /// # Errors
    /// [`EnvironmentError::NoPython`].
    pub fn interpreter(&self, version: &str) -> Result<PathBuf, EnvironmentError> {
        self.inner.interpreter(version).map(|interpreter| interpreter.path)
    }

    /// The complete environments, least recently used first. Blocks.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        self.inner.shelf.list()
    }

    /// Removes the least recently used until the others fit in `keep_bytes`; then the download caches, if they
    /// are larger than that by themselves. Spares those that someone holds and those in `in_use`: ids of
    /// environments of attempts that were adopted. Returns what was removed. Blocks.
    ///
    /// # Errors
    /// When a directory cannot be put aside.
    pub fn gc(&self, keep_bytes: u64, in_use: &BTreeSet<String>) -> Result<Vec<Listed>, EnvironmentError> {
        let inner = &self.inner;
        inner.remove_abandoned();
        let listed = inner.shelf.list();
        let mut total: u64 = listed.iter().map(|one| one.bytes).sum();
        let mut removed = Vec::new();
        for one in listed {
            if total <= keep_bytes {
                break;
            }
            let aside = {
                let mut desk = inner.desk();
                let held = desk.is_held(&one.id) || in_use.contains(&one.id);
                let discard = if held { Ok(None) } else { inner.shelf.discard(&one.id) };
                discard.map_err(|error| EnvironmentError::io(&inner.shelf.place(&one.id), &error))?
            };
            if let Some(aside) = aside {
                // What resists goes at the next start.
                let _ = shelf::remove_tree(&aside);
                let _ = fs::remove_file(Build::log_file(&inner.shelf, &one.id));
                total -= one.bytes;
                removed.push(one);
            }
        }
        inner.trim_caches(keep_bytes);
        Ok(removed)
    }

    /// Joins the build of this key, or starts it.
    fn board(&self, build: Build) -> Result<(Arc<Interest>, watch::Receiver<Option<Outcome>>), EnvironmentError> {
        let key = build.key.clone();
        let mut desk = self.inner.desk();
        desk.forget(Instant::now());
        let mut place = Arc::default();
        if let Some(flight) = desk.flights.get(&key) {
            match &flight.state {
                FlightState::Failed { error, .. } => return Err(error.clone()),
                FlightState::Building { outcome, interest } => {
                    if let Some(interest) = interest.upgrade() {
                        return Ok((interest, outcome.clone()));
                    }
                }
            }
            place = Arc::clone(&flight.place);
        }
        desk.next_number += 1;
        let number = desk.next_number;
        let (sender, outcome) = watch::channel(None);
        let task = tokio::spawn(Arc::clone(&self.inner).fly(build, number, Arc::clone(&place), sender));
        let interest = Arc::new(Interest { build: task.abort_handle() });
        let state = FlightState::Building { outcome: outcome.clone(), interest: Arc::downgrade(&interest) };
        desk.flights.insert(key, Flight { number, state, place });
        Ok((interest, outcome))
    }
}

impl Inner {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Nothing that can panic happens under the lock.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interpreter(&self, version: &str) -> Result<Interpreter, EnvironmentError> {
        let pythons = Pythons::find(&self.search);
        pythons.get(version).cloned().ok_or_else(|| EnvironmentError::NoPython {
            wanted: if version.is_empty() { "3".to_owned() } else { version.to_owned() },
            have: Some(pythons.versions().into_iter().collect::<Vec<_>>().join(", "))
                .filter(|versions| !versions.is_empty())
                .unwrap_or_else(|| "none".to_owned()),
        })
    }

    /// Reads the requirements and computes the key. `None`: nothing to install.
    fn plan(&self, wanted: &Wanted) -> Result<Option<Build>, EnvironmentError> {
        let Some(recipe) = Recipe::read(wanted)? else { return Ok(None) };
        let interpreter = self.interpreter(&wanted.python)?;
        let python = full_version(&interpreter.path, self.search.cache.as_deref())
            .ok_or_else(|| EnvironmentError::BrokenPython { path: interpreter.path.display().to_string() })?;
        let mut hasher = blake3::Hasher::new();
        recipe::frame(&mut hasher, b"fnode environment 1");
        recipe::frame(&mut hasher, python.as_bytes());
        recipe::frame(&mut hasher, format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH).as_bytes());
        recipe.hash_into(&mut hasher);
        let below = if wanted.is_layered { below::look(&interpreter.path)? } else { None };
        if let Some(below) = &below {
            below.hash_into(&mut hasher);
        }
        self.settings.hash_into(&mut hasher);
        let key = hasher.finalize().to_hex()[..shelf::KEY_CHARS].to_owned();
        Ok(Some(Build {
            shelf: self.shelf.clone(),
            key,
            recipe,
            interpreter: interpreter.path.clone(),
            below,
            python,
            settings: self.settings.clone(),
            uv: self.settings.uv(),
        }))
    }

    /// The complete environment of this key, noted as held. Under the lock, so that it is not removed between.
    fn ready(&self, key: &str) -> Option<Arc<Environment>> {
        let mut desk = self.desk();
        let environment = Arc::new(self.shelf.get(key)?);
        // The one that others hold already, if it is the same: one count of holders.
        let held = desk.handed.get(key).and_then(Weak::upgrade).unwrap_or(environment);
        desk.handed.retain(|_, held| held.strong_count() > 0);
        desk.handed.insert(key.to_owned(), Arc::downgrade(&held));
        Some(held)
    }

    /// One build, from start to end, as a task.
    async fn fly(
        self: Arc<Self>,
        build: Build,
        number: u64,
        place: Arc<tokio::sync::Mutex<()>>,
        outcome: watch::Sender<Option<Outcome>>,
    ) {
        let key = build.key.clone();
        let result = self.build(build, place).await;
        {
            let mut desk = self.desk();
            if let Some(flight) = desk.flights.get_mut(&key).filter(|flight| flight.number == number) {
                match &result {
                    Ok(_) => drop(desk.flights.remove(&key)),
                    Err(error) => {
                        flight.state = FlightState::Failed { at: Instant::now(), error: error.clone() };
                    }
                }
            }
        }
        // Nobody may be waiting any more.
        let _ = outcome.send(Some(result));
    }

    async fn build(self: &Arc<Self>, build: Build, place: Arc<tokio::sync::Mutex<()>>) -> Outcome {
        let build = Arc::new(build);
        let place = Arc::new(place.lock_owned().await);
        let _turn = self.builds.acquire().await.map_err(|_| EnvironmentError::Interrupted)?;
        // Another build of this key may have ended while this one waited for its place.
        let (inner, key) = (Arc::clone(self), build.key.clone());
        if let Some(ready) = blocking(move || inner.ready(&key)).await? {
            return Ok(ready);
        }
        // Blocking steps go on when this task is aborted, so each holds the place until it ends.
        let (started, held) = (Arc::clone(&build), Arc::clone(&place));
        blocking(move || {
            let _held = held;
            check_disk(&started.shelf.dir)?;
            let log = Build::log_file(&started.shelf, &started.key);
            File::create(&log).map_err(|error| EnvironmentError::io(&log, &error))?;
            started.lay_out()
        })
        .await??;
        if let Err(error) = build.run().await {
            // The log stays; what was installed so far would only fill the disk.
            blocking(move || {
                let _held = place;
                build.shelf.remove(&build.key)
            })
            .await?
            .map_err(|error| EnvironmentError::io(&self.shelf.dir, &error))?;
            return Err(error);
        }
        let inner = Arc::clone(self);
        blocking(move || {
            let _held = place;
            let failed = |error: std::io::Error| EnvironmentError::io(&build.shelf.place(&build.key), &error);
            let _ = shelf::remove_tree(&build.shelf.place(&build.key).join("tmp"));
            build.shelf.finish(&build.key, &build.python, build.tool()).map_err(failed)?;
            inner.ready(&build.key).ok_or(EnvironmentError::Interrupted)
        })
        .await?
    }

    /// Removes what builds that failed or were given up have left.
    fn remove_abandoned(&self) {
        for key in self.shelf.incomplete() {
            let mut desk = self.desk();
            desk.forget(Instant::now());
            let aside = if desk.is_held(&key) { None } else { self.shelf.discard(&key).ok().flatten() };
            drop(desk);
            if let Some(aside) = aside {
                // What resists goes at the next start.
                let _ = shelf::remove_tree(&aside);
            }
        }
    }

    /// Download caches only save time, but of wheels they hold a second copy.
    fn trim_caches(&self, keep_bytes: u64) {
        let building = |flight: &Flight| matches!(flight.state, FlightState::Building { .. });
        if self.desk().flights.values().any(building) {
            return;
        }
        for tool in ["uv", "pip"] {
            let cache = self.shelf.dir.join("cache").join(tool);
            if size_of(&cache) > keep_bytes {
                let _ = shelf::remove_tree(&cache);
            }
        }
    }
}

impl Desk {
    fn is_held(&mut self, key: &str) -> bool {
        let building = self.flights.get(key).is_some_and(|flight| matches!(flight.state, FlightState::Building { .. }));
        building || self.handed.get(key).is_some_and(|held| held.strong_count() > 0)
    }

    /// Forgets old failures, and builds that were given up once nothing of them runs any more.
    fn forget(&mut self, now: Instant) {
        self.flights.retain(|_, flight| match &flight.state {
            FlightState::Failed { at, .. } => now.duration_since(*at) < FAILURE_KEPT,
            FlightState::Building { interest, .. } => {
                interest.strong_count() > 0 || Arc::strong_count(&flight.place) > 1
            }
        });
    }
}

/// Waits for the outcome, copying what the build says into `to` as it comes.
async fn follow(mut outcome: watch::Receiver<Option<Outcome>>, from: &Path, to: &Path) -> Outcome {
    let mut copied = 0;
    let mut tick = tokio::time::interval(FOLLOW_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let result = tokio::select! {
            biased;
            result = outcome.wait_for(Option::is_some) => {
                Some(result.map_or(Err(EnvironmentError::Interrupted), |found| {
                    found.clone().unwrap_or(Err(EnvironmentError::Interrupted))
                }))
            }
            _ = tick.tick() => None,
        };
        let (source, target) = (from.to_path_buf(), to.to_path_buf());
        copied = blocking(move || copy_new(&source, &target, copied)).await?;
        if let Some(result) = result {
            return result;
        }
    }
}

/// Appends what is new in `from` to `to`; returns how much of it is there now. A log that cannot be written
/// does not stop a build.
fn copy_new(from: &Path, to: &Path, copied: u64) -> u64 {
    let copy = || -> std::io::Result<u64> {
        let mut source = File::open(from)?;
        let end = source.seek(SeekFrom::End(0))?.min(LOG_COPIED_MAX);
        if end <= copied {
            return Ok(0);
        }
        source.seek(SeekFrom::Start(copied))?;
        let mut target = OpenOptions::new().create(true).append(true).open(to)?;
        let new = std::io::copy(&mut source.take(end - copied), &mut target)?;
        if copied + new >= LOG_COPIED_MAX {
            writeln!(target, "\nfnode: the rest of this log is in {}", from.display())?;
        }
        Ok(new)
    };
    copied + copy().unwrap_or(0)
}

fn check_disk(dir: &Path) -> Result<(), EnvironmentError> {
    let free = disk_free(dir);
    if free < DISK_MIN {
        return Err(EnvironmentError::DiskFull { dir: dir.display().to_string(), free });
    }
    Ok(())
}

fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, EnvironmentError> {
    // Only a runtime that shuts down does not run it.
    tokio::task::spawn_blocking(work).await.map_err(|_| EnvironmentError::Interrupted)
}

#[cfg(test)]
#[path = "environment_tests.rs"]
mod tests;
