//! Measured scores of adapters, kept in one small file by (adapter, driver, version of this program). Read and
//! written by the survey alone; a damaged file means that scores are measured again.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Adapter, Joined};

/// A lab machine has had a handful of cards and drivers; the oldest entries are forgotten.
const ENTRIES_MAX: usize = 64;
/// That many entries with names of bounded length stay far below this.
const FILE_MAX: u64 = 256 * 1024;
/// A benchmark that failed is tried again after this time: the driver may just have been busy.
const RETRY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the benchmark measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// f32 fused multiply-adds, each counted as two operations.
    pub gflops: f64,
    /// Memory copied, read plus written.
    pub gbytes_per_s: f64,
}

impl Score {
    /// Whether both numbers are ones that a machine of this or the next decade could reach.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        (0.001..1e7).contains(&self.gflops) && (0.001..1e6).contains(&self.gbytes_per_s)
    }
}

/// All scores that are known.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Scores {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    adapter: String,
    driver: String,
    fnode: String,
    measured_unix_s: u64,
    result: Result<Score, String>,
}

impl Scores {
    /// What the file holds; nothing when it is missing, too large or not ours.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let small = fs::metadata(path).is_ok_and(|meta| meta.len() <= FILE_MAX);
        let bytes = if small { fs::read(path).unwrap_or_default() } else { Vec::new() };
        let mut scores: Self = serde_json::from_slice(&bytes).unwrap_or_default();
        scores.entries.retain(|entry| entry.result.as_ref().map_or(true, Score::is_plausible));
        scores
    }

    /// Replaces the file.
    pub fn write(&self, path: &Path) {
        crate::exec::inventory::replace_file(path, self);
    }

    /// Whether `adapter` needs no measurement now: it has a score, or failed less than a day ago.
    #[must_use]
    pub fn settled(&self, adapter: &Adapter) -> bool {
        self.entry(adapter).is_some_and(|entry| {
            entry.result.is_ok() || unix_s().saturating_sub(entry.measured_unix_s) < RETRY.as_secs()
        })
    }

    /// Remembers what a benchmark gave.
    pub fn note(&mut self, adapter: &Adapter, result: Result<Score, String>) {
        let fresh = Entry {
            adapter: adapter.name.clone(),
            driver: adapter.driver(),
            fnode: env!("CARGO_PKG_VERSION").to_owned(),
            measured_unix_s: unix_s(),
            result,
        };
        self.entries.retain(|entry| {
            (&entry.adapter, &entry.driver, &entry.fnode) != (&fresh.adapter, &fresh.driver, &fresh.fnode)
        });
        self.entries.push(fresh);
        let excess = self.entries.len().saturating_sub(ENTRIES_MAX);
        self.entries.drain(..excess);
    }

    /// The score of `adapter`, if it was measured.
    #[must_use]
    pub fn of(&self, adapter: &Adapter) -> Option<Score> {
        self.entry(adapter)?.result.as_ref().ok().copied()
    }

    /// Fills in the scores. An undivided card whose own adapter is unknown takes none from a namesake.
    pub fn rate(&self, joined: &mut Joined) {
        for found in &mut joined.gpus {
            if let Some(score) = found.adapter.as_ref().and_then(|adapter| self.of(adapter)) {
                found.gpu.gflops = whole(score.gflops);
                found.gpu.gbytes_per_s = whole(score.gbytes_per_s);
            }
        }
    }

    fn entry(&self, adapter: &Adapter) -> Option<&Entry> {
        self.entries.iter().find(|entry| {
            entry.adapter == adapter.name
                && entry.driver == adapter.driver()
                && entry.fnode == env!("CARGO_PKG_VERSION")
        })
    }
}

/// At least 1: 0 would say "not measured".
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be plausible before")]
fn whole(value: f64) -> u32 {
    value.round().max(1.0) as u32
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::join::Found;
    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check};

    fn adapter(driver_info: &str) -> Adapter {
        Adapter { name: "RTX".to_owned(), driver_info: driver_info.to_owned(), ..Adapter::default() }
    }

    #[test]
    fn a_score_holds_until_the_driver_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores.json");
        let mut scores = Scores::read(&path);
        scores.note(&adapter("550"), Ok(Score { gflops: 12_345.6, gbytes_per_s: 0.2 }));
        scores.write(&path);
        let scores = Scores::read(&path);
        assert!(scores.settled(&adapter("550")) && !scores.settled(&adapter("560")));
        let mut joined = Joined::default();
        for driver in ["550", "560"] {
            joined.gpus.push(Found { adapter: Some(adapter(driver)), ..Found::default() });
        }
        scores.rate(&mut joined);
        let rated: Vec<_> = joined.gpus.iter().map(|found| (found.gpu.gflops, found.gpu.gbytes_per_s)).collect();
        assert_eq!(rated, [(12_346, 1), (0, 0)]);
    }

    #[test]
    fn a_failure_is_not_tried_again_at_once_and_not_for_ever() {
        let mut scores = Scores::default();
        scores.note(&adapter("550"), Err("the driver crashed".to_owned()));
        assert!(scores.settled(&adapter("550")));
        assert_eq!(scores.of(&adapter("550")), None);
        scores.entries[0].measured_unix_s -= RETRY.as_secs();
        assert!(!scores.settled(&adapter("550")));
    }

    #[test]
    fn an_absurd_or_torn_file_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores.json");
        let mut scores = Scores::default();
        scores.note(&adapter("550"), Ok(Score { gflops: 1e300, gbytes_per_s: 1.0 }));
        scores.write(&path);
        assert_eq!(Scores::read(&path).entries.len(), 0);
        fs::write(&path, b"{\"entries\": [").unwrap();
        assert_eq!(Scores::read(&path).entries.len(), 0);
    }

    #[test]
    fn golden_scores() {
        let entry = |result| Entry {
            adapter: "NVIDIA H200".to_owned(),
            driver: "NVIDIA 550.54".to_owned(),
            fnode: "0.1.0".to_owned(),
            measured_unix_s: 1_700_000_000,
            result,
        };
        let score = Score { gflops: 60_000.5, gbytes_per_s: 4_000.0 };
        let scores = Scores { entries: vec![entry(Ok(score)), entry(Err("the driver crashed".to_owned()))] };
        let text = serde_json::to_string(&scores).unwrap();
        check("exec.Scores", &[Sample::text("scores.json", &scores, &text)]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores.json");
        attack_loosely("scores.json", text.as_bytes(), 20, |bytes| {
            fs::write(&path, bytes).unwrap();
            let scores = Scores::read(&path);
            assert!(
                scores
                    .entries
                    .iter()
                    .all(|entry| entry.result.as_ref().is_ok_and(Score::is_plausible) || entry.result.is_err())
            );
            !scores.entries.is_empty()
        });
    }
}
