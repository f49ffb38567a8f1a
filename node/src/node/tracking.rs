//! Track files of the attempts on this node: read while these run, told to the log in summaries, sealed at their end.
//! Points stay here until then; who wants to see them asks this node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::blob::FileKind;
use proto::codec;
use proto::job::BundleRef;
use proto::record::{AttemptKey, Record, RecordKey};
use proto::track::Tracked;
use proto::{AttemptId, Manifest, ManifestFile};
use tokio::sync::mpsc;

use super::actor::Inner;
use super::bundle::contents;
use super::handle::{Shared, unix_ms};
use super::home::Home;
use super::prepare::attempt_dir;
use super::usage::{self, Meter};
use crate::exec::process::ProcessTable;
use crate::track::{Cut, Names, Page, Reader, Sealed, SeriesError, TagChange};

/// Track files are looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A change is told to the log after this at the earliest …
const TELL_MIN: Duration = Duration::from_secs(1);
/// … and, of an attempt that has run long, after this: nobody watches the second day second by second.
const TELL_MAX: Duration = Duration::from_secs(30);
/// Artifacts of an attempt that runs are stored at most this often.
const STORE_EVERY: Duration = Duration::from_secs(5);
/// Artifacts beyond this are left out.
const ARTIFACTS_MAX_BYTES: u64 = 64 << 30;
/// The file of points in the bundle of what an attempt told.
pub(crate) const SERIES_FILE: &str = "series";
/// Where in it the artifacts are.
pub(crate) const ARTIFACTS_DIR: &str = "artifacts";

/// The track files that are being read.
#[derive(Default)]
pub(super) struct Tracks(Mutex<BTreeMap<AttemptId, Arc<Mutex<Live>>>>);

/// One of them.
struct Live {
    reader: Reader,
    revision: u32,
    began: Instant,
    told: Option<Instant>,
    stored: Option<Instant>,
    is_dirty: bool,
    artifacts_dirty: bool,
    /// It has ended; its last word is another's.
    is_over: bool,
    files: Option<BundleRef>,
    /// While its process runs.
    meter: Option<Meter>,
}

/// What an attempt told since the last time.
pub(super) struct Update {
    pub(super) attempt: AttemptId,
    pub(super) tracked: Option<Tracked>,
    pub(super) tags: Vec<TagChange>,
}

/// The file that a job writes its lines to.
pub(crate) fn track_path(home: &Home, attempt: AttemptId) -> PathBuf {
    attempt_dir(home, attempt).join("track")
}

/// Where a job puts its artifacts.
pub(crate) fn artifacts_dir(home: &Home, attempt: AttemptId) -> PathBuf {
    attempt_dir(home, attempt).join(ARTIFACTS_DIR)
}

/// Points go to a file of their own, `sealed` or not: a live reader may still write to its own.
fn reader(home: &Home, attempt: AttemptId, points: &str) -> Reader {
    Reader::new(&track_path(home, attempt), &attempt_dir(home, attempt).join(points))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tracks {
    /// Reads the track file of `attempt` from now on, once it is there.
    pub(super) fn begin(&self, home: &Home, attempt: AttemptId) {
        let live = || Live {
            reader: reader(home, attempt, "points"),
            revision: 0,
            began: Instant::now(),
            told: None,
            stored: None,
            is_dirty: false,
            artifacts_dirty: false,
            is_over: false,
            files: None,
            meter: None,
        };
        lock(&self.0).entry(attempt).or_insert_with(|| Arc::new(Mutex::new(live())));
    }

    /// The process of `attempt` runs: what it uses is read from now on.
    pub(super) fn measure(&self, attempt: AttemptId, meter: Meter) {
        if let Some(live) = lock(&self.0).get(&attempt).cloned() {
            lock(&live).meter.get_or_insert(meter);
        }
    }

    /// Nothing of `attempt` is read any more. Returns the last revision that was told here: 0 for none.
    pub(super) fn end(&self, attempt: AttemptId) -> u32 {
        let live = lock(&self.0).remove(&attempt);
        // A look that is under way is waited for, and is the last.
        live.map_or(0, |live| {
            let mut live = lock(&live);
            live.is_over = true;
            live.revision
        })
    }

    /// Points of a series of an attempt that runs here; `None`: it does not, or told nothing of it. Blocks.
    pub(super) fn page(&self, attempt: AttemptId, key: &str, cut: Cut) -> Option<Page> {
        let live = lock(&self.0).get(&attempt).cloned()?;
        let mut live = lock(&live);
        // What was written a moment ago is wanted, too.
        let _ = live.reader.read();
        let page: Result<Option<Page>, SeriesError> = live.reader.page(key, cut);
        page.ok().flatten()
    }

    /// Names of series of an attempt that runs here, after `after`. Blocks.
    pub(super) fn names(&self, attempt: AttemptId, after: &str) -> Names {
        let Some(live) = lock(&self.0).get(&attempt).cloned() else { return Names::default() };
        let mut live = lock(&live);
        let _ = live.reader.read();
        live.reader.names_after(after)
    }

    fn all(&self) -> Vec<(AttemptId, Arc<Mutex<Live>>)> {
        lock(&self.0).iter().map(|(&attempt, live)| (attempt, live.clone())).collect()
    }
}

/// Reads what jobs write and tells the loop, until the node ends.
pub(super) async fn watch(shared: Arc<Shared>, told: mpsc::UnboundedSender<Inner>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let all = shared.tracks.all();
        if all.is_empty() {
            continue;
        }
        let shared = shared.clone();
        let look = move || {
            measure(&shared, &all);
            let updates = all.iter().filter_map(|(attempt, live)| look(&shared, *attempt, &mut lock(live)));
            updates.collect::<Vec<_>>()
        };
        let Ok(updates) = tokio::task::spawn_blocking(look).await else { continue };
        for update in updates {
            if told.send(Inner::Told(Box::new(update))).is_err() {
                return;
            }
        }
    }
}

/// Reads what the attempts use whose time has come.
fn measure(shared: &Shared, all: &[(AttemptId, Arc<Mutex<Live>>)]) {
    let now = Instant::now();
    let is_due = |live: &Live| !live.is_over && live.meter.as_ref().is_some_and(|meter| meter.is_due(now));
    let due: Vec<_> = all.iter().filter(|(_, live)| is_due(&lock(live))).collect();
    if due.is_empty() {
        return;
    }
    let Ok(table) = ProcessTable::read() else { return };
    let wants_gpus = due.iter().any(|(_, live)| lock(live).meter.as_ref().is_some_and(Meter::has_gpus));
    let gpus = if wants_gpus { shared.machine.gpu_usage() } else { Vec::new() };
    for (attempt, live) in due {
        let mut live = lock(live);
        let values = live.meter.as_mut().map(|meter| meter.read(now, &table, &gpus)).unwrap_or_default();
        // Under the lock: an attempt that is over has its last word.
        if !live.is_over
            && !values.is_empty()
            && let Err(error) = usage::note(&track_path(&shared.home, *attempt), &values, unix_ms())
        {
            tracing::debug!(%attempt, %error, "what an attempt uses is not kept");
        }
    }
}

fn look(shared: &Shared, attempt: AttemptId, live: &mut Live) -> Option<Update> {
    if live.is_over {
        return None;
    }
    if let Err(error) = live.reader.read() {
        tracing::warn!(%attempt, %error, "a track file cannot be read");
    }
    live.is_dirty |= live.reader.take_news();
    live.artifacts_dirty |= live.reader.take_artifacts_changed();
    if live.artifacts_dirty && live.stored.is_none_or(|stored| stored.elapsed() >= STORE_EVERY) {
        live.artifacts_dirty = false;
        live.files = store_files(shared, attempt, None);
        live.stored = Some(Instant::now());
    }
    let tags = live.reader.take_tags();
    let patience = (live.began.elapsed() / 20).clamp(TELL_MIN, TELL_MAX);
    let is_due = live.is_dirty && live.told.is_none_or(|told| told.elapsed() >= patience);
    let tracked = is_due.then(|| {
        live.is_dirty = false;
        live.told = Some(Instant::now());
        live.revision = live.revision.max(last_revision(shared, attempt)) + 1;
        Tracked { revision: live.revision, summary: live.reader.summary().bounded(), files: live.files }
    });
    (tracked.is_some() || !tags.is_empty()).then_some(Update { attempt, tracked, tags })
}

/// The revision that the log has: an earlier life of this daemon may have told some.
fn last_revision(shared: &Shared, attempt: AttemptId) -> u32 {
    let key = AttemptKey::of(attempt, shared.me);
    match shared.store.record(&RecordKey::Job(attempt.job)) {
        Ok(Some(Record::Job(record))) => {
            let tracked = record.attempts.get(&key).and_then(|known| known.tracked.as_ref());
            tracked.map_or(0, |tracked| tracked.revision)
        }
        _ => 0,
    }
}

/// What an attempt that has ended told in the end; `None`: nothing. Blocks.
pub(super) fn seal(shared: &Shared, attempt: AttemptId) -> Option<Update> {
    let told = shared.tracks.end(attempt);
    if !track_path(&shared.home, attempt).exists() {
        return None;
    }
    // From the first line once more: whoever still looks at the live one is not disturbed.
    let Sealed { summary, tags, series, .. } = match reader(&shared.home, attempt, SERIES_FILE).seal() {
        Ok(sealed) => sealed,
        Err(error) => {
            tracing::warn!(%attempt, %error, "a track file cannot be read to its end");
            return None;
        }
    };
    let files = store_files(shared, attempt, series.as_deref());
    let revision = told.max(last_revision(shared, attempt)).saturating_add(1);
    let tracked = Some(Tracked { revision, summary: summary.bounded(), files });
    Some(Update { attempt, tracked, tags })
}

/// The points and the artifacts as one bundle, durable when this returns; `None`: there is nothing, or no room.
fn store_files(shared: &Shared, attempt: AttemptId, series: Option<&Path>) -> Option<BundleRef> {
    let mut manifest = Manifest::default();
    let dir = artifacts_dir(&shared.home, attempt);
    if dir.is_dir() {
        match shared.blobs.collect_outputs(&dir, None, ARTIFACTS_MAX_BYTES) {
            Ok(outputs) => {
                // Half copied ones have a name of their own until they are whole.
                let whole = outputs.manifest.files.into_iter().filter(|file| !is_part(&file.path));
                manifest.files = whole
                    .map(|file| ManifestFile { path: format!("{ARTIFACTS_DIR}/{}", file.path), kind: file.kind })
                    .collect();
            }
            Err(error) => tracing::warn!(%attempt, %error, "artifacts are not kept"),
        }
    }
    if let Some((content, size)) = series.and_then(|path| shared.blobs.put_file(path).ok()) {
        let kind = FileKind::File { content, size, executable: false };
        manifest.files.push(ManifestFile { path: SERIES_FILE.to_owned(), kind });
    }
    if manifest.files.is_empty() {
        return None;
    }
    manifest.files.sort_by(|one, other| one.path.cmp(&other.path));
    let id = shared.blobs.put_bytes(&codec::encode(&manifest)).ok()?;
    shared.blobs.sync(&contents(id, &manifest)).ok()?;
    let files = u32::try_from(manifest.files.len()).unwrap_or(u32::MAX);
    Some(BundleRef { manifest: id, total_bytes: manifest.total_bytes(), files })
}

fn is_part(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.starts_with('.') && name.ends_with(".part")
}
