//! What the cache saved on this machine: values that its programs were handed, or read by themselves, instead of
//! computing them, by project and user.
//!
//! A program counts what it reads by itself and appends it to `hits.log` in the cache's directory, now and then and at its end
//! (`node/sdk/foundations/_cache/saved.py`). The counts decide nothing, so what goes with a killed process is not missed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Pairs of project and user that are told apart: a program may name any. More are not counted.
const PAIRS_MAX: usize = 1_000;
/// What is read of the programs' file at once; whoever writes more than this between two looks is not honest.
const TOLD_MAX: u64 = 16 << 20;

/// What was found for one user in one project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HitRow {
    /// The project that asked.
    pub(crate) project: String,
    /// The user that asked.
    pub(crate) user: String,
    /// How often.
    pub(crate) hits: u64,
    /// How long computing took when the values were made, in milliseconds.
    pub(crate) saved_ms: u64,
}

/// The counts of this node, and the files that keep them.
#[derive(Debug)]
pub(super) struct Hits {
    counted: Mutex<Counted>,
    kept: PathBuf,
    told: PathBuf,
}

#[derive(Debug, Default)]
struct Counted {
    by_pair: BTreeMap<(String, String), [u64; 2]>,
    is_new: bool,
}

impl Hits {
    /// Those of the cache in the directory `dir`.
    pub(super) fn open(dir: &Path) -> Self {
        let kept = dir.join("hits.json");
        let mut counted = Counted::default();
        // Counts that cannot be read begin anew.
        let rows = fs::read(&kept).ok().and_then(|bytes| serde_json::from_slice::<Vec<HitRow>>(&bytes).ok());
        for row in rows.unwrap_or_default() {
            counted.add(row);
        }
        counted.is_new = false;
        Self { counted: Mutex::new(counted), kept, told: dir.join("hits.log") }
    }

    /// A program was handed a value that had taken `saved_ms` to compute.
    pub(super) fn note(&self, project: &str, user: &str, saved_ms: u64) {
        let (project, user) = (project.to_owned(), user.to_owned());
        self.counted().add(HitRow { project, user, hits: 1, saved_ms });
    }

    pub(super) fn has_new(&self) -> bool {
        self.counted().is_new
    }

    /// Every count, with what programs have told since the last look. Blocks.
    pub(super) fn rows(&self) -> Vec<HitRow> {
        let told = self.take_told().unwrap_or_else(|error| {
            tracing::debug!(%error, "what programs found by themselves is not counted");
            Vec::new()
        });
        let mut counted = self.counted();
        for row in told {
            counted.add(row);
        }
        let row = |((project, user), [hits, saved_ms]): (&(String, String), &[u64; 2])| HitRow {
            project: project.clone(),
            user: user.clone(),
            hits: *hits,
            saved_ms: *saved_ms,
        };
        counted.by_pair.iter().map(row).collect()
    }

    /// Keeps the counts for the next start; those of the last moment are lost with a killed daemon. Blocks.
    pub(super) fn save(&self) {
        let rows = self.rows();
        if std::mem::take(&mut self.counted().is_new) {
            let text = serde_json::to_vec(&rows).unwrap_or_default();
            if let Err(error) = fs::write(&self.kept, text) {
                tracing::debug!(%error, "how often values were found is not kept");
            }
        }
    }

    /// What programs have appended; the file is gone then. A line that is none was cut off, or is nobody's.
    fn take_told(&self) -> io::Result<Vec<HitRow>> {
        let aside = self.told.with_extension("taken");
        match fs::rename(&self.told, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            renamed => renamed?,
        }
        let mut text = Vec::new();
        fs::File::open(&aside)?.take(TOLD_MAX).read_to_end(&mut text)?;
        fs::remove_file(&aside)?;
        let row = |line: &[u8]| {
            let (project, user, hits, saved_ms) = serde_json::from_slice(line).ok()?;
            Some(HitRow { project, user, hits, saved_ms })
        };
        Ok(text.split(|&byte| byte == b'\n').filter_map(row).collect())
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn add(&mut self, HitRow { project, user, hits, saved_ms }: HitRow) {
        let pair = (project, user);
        if self.by_pair.len() < PAIRS_MAX || self.by_pair.contains_key(&pair) {
            let counted = self.by_pair.entry(pair).or_default();
            *counted = [counted[0].saturating_add(hits), counted[1].saturating_add(saved_ms)];
            self.is_new = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(user: &str, hits: u64, saved_ms: u64) -> HitRow {
        HitRow { project: "vision".to_owned(), user: user.to_owned(), hits, saved_ms }
    }

    #[test]
    fn what_programs_tell_is_counted_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let hits = Hits::open(dir.path());
        hits.note("vision", "ada", 500);
        let told = "[\"vision\",\"ada\",2,30]\n[\"vision\",\"bob\",1,7]\nnonsense\n[\"vision\",\"bob\",-1,7]\n[\"vis";
        fs::write(dir.path().join("hits.log"), told).unwrap();
        let all = [row("ada", 3, 530), row("bob", 1, 7)];
        assert_eq!(hits.rows(), all);
        assert_eq!(hits.rows(), all, "told once, counted once");
        assert!(hits.has_new());
        hits.save();
        assert!(!hits.has_new());
        assert_eq!(Hits::open(dir.path()).rows(), all);
        fs::write(dir.path().join("hits.json"), "{").unwrap();
        assert_eq!(Hits::open(dir.path()).rows(), []);
    }
}
