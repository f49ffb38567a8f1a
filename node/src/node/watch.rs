//! What an attempt makes while it runs: how its log grows is noted, and when its checkpoint directory has changed and is
//! at rest, it is stored, and the core tells the others. One task per attempt, from its start to its end.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::core_io::Run;
use proto::job::BundleRef;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::attempts::Done;
use super::collect::store_manifest;
use super::handle::{Shared, unix_ms};
use super::prepare::checkpoint_dir;
use super::tail::log_path;
use super::times;

/// The directory is looked at this often; one that looks the same twice is at rest.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Checkpoints are stored no more often than this …
const EVERY_MIN: Duration = Duration::from_secs(30);
/// … nor than so many times as long as the last one took: storing must not become the machine's work.
const EVERY_TIMES: u32 = 20;
/// A directory that is never at rest is stored after this if it did not change while that was done.
const RESTLESS_MAX: Duration = Duration::from_secs(60);
/// Larger ones stay on their node.
const CHECKPOINT_MAX_BYTES: u64 = 8 << 30;
/// More entries than this are not watched: looking at them every second would be work.
const ENTRIES_MAX: usize = 20_000;

/// Names, sizes and times of everything in a directory.
type Print = blake3::Hash;

/// When the next checkpoint is due.
#[derive(Debug, Default)]
struct Pace {
    seen: Option<Print>,
    /// What is stored already, when that was, and the shortest time until the next.
    stored: Option<(Print, Instant, Duration)>,
    /// Since when it could have been stored.
    due_since: Option<Instant>,
}

impl Pace {
    /// The directory looks like this now; whether it should be stored.
    fn is_due(&mut self, now: Instant, print: Option<Print>) -> bool {
        let at_rest = print.is_some() && self.seen == print;
        self.seen = print;
        let is_new = print.is_some() && self.stored.is_none_or(|(stored, ..)| Some(stored) != print);
        let may = self.stored.is_none_or(|(_, at, wait)| at + wait <= now);
        if !is_new || !may {
            self.due_since = None;
            return false;
        }
        let since = *self.due_since.get_or_insert(now);
        at_rest || since + RESTLESS_MAX <= now
    }

    fn on_stored(&mut self, now: Instant, print: Print, took: Duration) {
        self.stored = Some((print, now, EVERY_MIN.max(took * EVERY_TIMES)));
        self.due_since = None;
    }
}

/// Stores the attempt's checkpoints until it is aborted.
pub(super) async fn watch(shared: Arc<Shared>, run: Arc<Run>, done: mpsc::UnboundedSender<Done>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks.tick().await;
    let mut pace = Pace::default();
    let mut log_len = 0;
    loop {
        looks.tick().await;
        let (shared, run) = (shared.clone(), run.clone());
        let attempt = run.attempt;
        let work = move || {
            let log_len = note_log(&shared, &run, log_len);
            let stored = look(&shared, &run, &mut pace);
            (pace, log_len, stored)
        };
        let Ok((next, len, stored)) = tokio::task::spawn_blocking(work).await else { return };
        (pace, log_len) = (next, len);
        if let Some(bundle) = stored
            && done.send(Done::Saved(attempt, bundle, unix_ms())).is_err()
        {
            return;
        }
    }
}

/// Notes when the log has grown beyond `known`; returns its length.
fn note_log(shared: &Shared, run: &Run, known: u64) -> u64 {
    let path = log_path(&shared.home, run.attempt);
    let len = std::fs::metadata(&path).map_or(0, |meta| meta.len());
    if len != known {
        times::note(&path, unix_ms(), len);
    }
    len
}

fn look(shared: &Shared, run: &Run, pace: &mut Pace) -> Option<BundleRef> {
    let dir = checkpoint_dir(&shared.home, run);
    let began = Instant::now();
    let print = print_of(&dir);
    if !pace.is_due(began, print) {
        return None;
    }
    let bundle = store(shared, run)?;
    // Written to meanwhile: half of it may be older than the other half.
    let print = print.filter(|&print| print_of(&dir) == Some(print))?;
    pace.on_stored(Instant::now(), print, began.elapsed());
    Some(bundle)
}

/// Stores what is in the checkpoint directory, durably; `None`: nothing, not all of it could be, or it is too large.
pub(super) fn store(shared: &Shared, run: &Run) -> Option<BundleRef> {
    let dir = checkpoint_dir(&shared.home, run);
    let outputs = shared.blobs.collect_outputs(&dir, None, CHECKPOINT_MAX_BYTES).ok()?;
    if let Some(skipped) = outputs.skipped.first() {
        tracing::warn!(attempt = %run.attempt, path = %skipped.path, reason = %skipped.reason, "a checkpoint stays here");
        return None;
    }
    (!outputs.manifest.files.is_empty()).then(|| store_manifest(&shared.blobs, &outputs.manifest))?
}

/// `None`: there is nothing in it, or too much.
fn print_of(dir: &Path) -> Option<Print> {
    let mut hasher = blake3::Hasher::new();
    let mut entries = 0;
    add(dir, &mut hasher, &mut entries).ok()?;
    (1..=ENTRIES_MAX).contains(&entries).then(|| hasher.finalize())
}

fn add(dir: &Path, hasher: &mut blake3::Hasher, entries: &mut usize) -> std::io::Result<()> {
    let mut children = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    children.sort_by_key(std::fs::DirEntry::file_name);
    for child in children {
        *entries += 1;
        if *entries > ENTRIES_MAX {
            return Ok(());
        }
        let meta = child.metadata()?;
        hasher.update(child.file_name().as_encoded_bytes());
        for number in [meta.len(), meta.ino(), meta.mtime().cast_unsigned(), meta.mtime_nsec().cast_unsigned()] {
            hasher.update(&number.to_le_bytes());
        }
        if meta.is_dir() {
            add(&child.path(), hasher, entries)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(number: u8) -> Option<Print> {
        (number > 0).then(|| blake3::hash(&[number]))
    }

    #[test]
    fn a_checkpoint_is_stored_at_rest_and_not_too_often() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut pace = Pace::default();
        assert!(!pace.is_due(at(1), print(0)), "nothing is there");
        assert!(!pace.is_due(at(2), print(1)), "it has just changed");
        assert!(pace.is_due(at(3), print(1)));
        pace.on_stored(at(3), print(1).unwrap(), Duration::from_millis(1));
        assert!(!pace.is_due(at(40), print(1)), "it is stored");
        assert!(!pace.is_due(at(41), print(2)));
        assert!(pace.is_due(at(42), print(2)));
        pace.on_stored(at(42), print(2).unwrap(), Duration::from_secs(3));
        assert!(!pace.is_due(at(43), print(3)) && !pace.is_due(at(101), print(3)), "the last one took long");
        assert!(pace.is_due(at(102), print(3)), "20 times as long as it took");
    }

    #[test]
    fn a_directory_that_never_rests_is_stored_all_the_same() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut pace = Pace::default();
        let due: Vec<u64> = (0..70_u8).filter(|&s| pace.is_due(at(s.into()), print(s + 1))).map(u64::from).collect();
        assert_eq!(due, (60..70).collect::<Vec<_>>());
    }

    #[test]
    fn a_directory_is_told_by_names_sizes_and_times() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(print_of(dir.path()), None);
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a"), "1").unwrap();
        let one = print_of(dir.path());
        assert!(one.is_some());
        assert_eq!(print_of(dir.path()), one);
        std::fs::write(dir.path().join("sub/a"), "12").unwrap();
        let two = print_of(dir.path());
        assert_ne!(two, one);
        std::fs::rename(dir.path().join("sub/a"), dir.path().join("sub/b")).unwrap();
        assert_ne!(print_of(dir.path()), two);
        assert_eq!(print_of(&dir.path().join("none")), None);
    }
}
