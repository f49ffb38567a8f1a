//! What an attempt tells of itself while it runs: parameters, metrics, artifacts. Points stay where the job runs and
//! are sealed into a blob at its end; what stands here are summaries, small enough for the log.
//!
//! A summary is written by the worker alone, with a revision that counts up; the highest wins.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::job::BundleRef;

/// Largest summary in the log, in bytes of its parts; what does not fit is counted in [`Summary::left_out`].
pub const SUMMARY_MAX: usize = 64 << 10;
/// Of these, metrics may take so many before parameters and artifacts have their turn, which have no other place.
const METRICS_FIRST: usize = SUMMARY_MAX / 2;
/// Longest name of a parameter or metric, in bytes.
pub const NAME_MAX: usize = 256;
/// How names of metrics begin that the node takes of an attempt: what it uses of the machine. A job cannot tell these.
pub const SYSTEM_PREFIX: &str = "system/";
/// Longest text value of a metric in a summary, in bytes.
pub const TEXT_MAX: usize = 1_024;

/// A 64-bit float that can be compared and ordered: by its bits, so NaN equals itself. IEEE 754 total order (§5.10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Float(u64);

/// One value of a metric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scalar {
    /// A number, NaN and the infinities included.
    Number(Float),
    /// True or false.
    Bool(bool),
    /// Text, at most [`TEXT_MAX`] bytes.
    Text(String),
}

/// What is known of a metric without its points.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MetricSummary {
    /// The first value.
    pub first: Scalar,
    /// The last value.
    pub last: Scalar,
    /// Smallest and largest number; `None`: there was none but NaN.
    pub range: Option<(Float, Float)>,
    /// Sum of all numbers; NaN once one of them was.
    pub sum: Float,
    /// How many points there are.
    pub count: u64,
    /// Step of the last point.
    pub step: i64,
    /// When the last point was told, in milliseconds since 1970 by the job's clock.
    pub at_unix_ms: u64,
}

/// A file that the job gave a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ArtifactNote {
    /// The job's name for it.
    pub key: String,
    /// Its path below the artifacts of the attempt.
    pub file: String,
    /// Media type as the job said; empty: not said.
    pub mime: String,
    /// Whether `file` is a directory that the job synchronises.
    pub is_directory: bool,
}

/// The exception that ended a job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ErrorNote {
    /// Its type.
    pub kind: String,
    /// Its text.
    pub message: String,
    /// Its traceback, line by line.
    pub traceback: Vec<String>,
}

/// What an attempt told so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Summary {
    /// Parameters, each value as JSON text.
    pub params: BTreeMap<String, String>,
    /// The parameters file as the job loaded it, as JSON text; empty: not loaded.
    pub input_params: String,
    /// Metrics by name.
    pub metrics: BTreeMap<String, MetricSummary>,
    /// Artifacts by key.
    pub artifacts: BTreeMap<String, ArtifactNote>,
    /// The exception that it ended with.
    pub error: Option<ErrorNote>,
    /// What the job says of its interpreter and packages, as JSON text; empty: nothing.
    pub record: String,
    /// Metrics that did not fit: their points are among the others.
    pub more_metrics: u32,
    /// Points that the job told under [`SYSTEM_PREFIX`], which is the node's own: not kept.
    pub reserved: u32,
    /// Parameters and artifacts that did not fit, lines that could not be read, points of more series than are kept.
    pub left_out: u32,
}

/// A summary in the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tracked {
    /// Counts up within an attempt; the highest wins.
    pub revision: u32,
    /// What was told until then.
    pub summary: Summary,
    /// The points and the files of the artifacts, once the attempt has ended and told any.
    pub files: Option<BundleRef>,
}

impl Float {
    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl From<f64> for Float {
    fn from(value: f64) -> Self {
        Self(value.to_bits())
    }
}

impl std::fmt::Debug for Float {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

impl PartialOrd for Float {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Float {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.get().total_cmp(&other.get())
    }
}

impl MetricSummary {
    /// The summary of one point.
    #[must_use]
    pub fn of(value: Scalar, step: i64, at_unix_ms: u64) -> Self {
        let range = number(&value).map(|number| (number, number));
        let sum = summand(&value).into();
        Self { first: value.clone(), last: value, range, sum, count: 1, step, at_unix_ms }
    }

    /// One more point.
    pub fn push(&mut self, value: Scalar, step: i64, at_unix_ms: u64) {
        if let Some(number) = number(&value) {
            let (low, high) = self.range.unwrap_or((number, number));
            self.range = Some((low.min(number), high.max(number)));
        }
        self.sum = (self.sum.get() + summand(&value)).into();
        self.last = value;
        self.count += 1;
        self.step = step;
        self.at_unix_ms = at_unix_ms;
    }
}

impl MetricSummary {
    /// About its bytes in a record.
    fn size(&self, name: &str) -> usize {
        let text = |value: &Scalar| if let Scalar::Text(text) = value { text.len() } else { 10 };
        name.len() + text(&self.first) + text(&self.last) + 40
    }
}

impl ErrorNote {
    fn size(&self) -> usize {
        self.kind.len() + self.message.len() + self.traceback.iter().map(|line| line.len() + 2).sum::<usize>()
    }
}

fn summand(value: &Scalar) -> f64 {
    if let Scalar::Number(number) = value { number.get() } else { 0.0 }
}

/// The number in `value` unless it is NaN, which has no place in a range.
fn number(value: &Scalar) -> Option<Float> {
    match value {
        Scalar::Number(number) if !number.get().is_nan() => Some(*number),
        _ => None,
    }
}

impl Summary {
    /// The same within [`SUMMARY_MAX`]: what the node has read comes first, then metrics up to half of it, then all
    /// that has no other place, then further metrics. What does not fit is counted.
    #[must_use]
    pub fn bounded(&self) -> Self {
        let mut left = Room(SUMMARY_MAX);
        let counts = Self {
            more_metrics: self.more_metrics,
            reserved: self.reserved,
            left_out: self.left_out,
            ..Self::default()
        };
        let mut bounded = counts;
        if left.take(self.input_params.len()) {
            bounded.input_params.clone_from(&self.input_params);
        }
        bounded.error = self.error.clone().filter(|error| left.take(error.size()));
        // What the node has read, then what a job tells of itself as a whole: names of parts have more of these in them.
        let parts = |name: &str| name.matches(['/', '.']).count();
        let mut metrics: Vec<(&String, &MetricSummary)> = self.metrics.iter().collect();
        metrics.sort_by_key(|(name, _)| (!name.starts_with(SYSTEM_PREFIX), parts(name)));
        let mut first = Room(METRICS_FIRST.min(left.0));
        let mut waiting = Vec::new();
        for (name, metric) in metrics {
            if first.take(metric.size(name)) && left.take(metric.size(name)) {
                bounded.metrics.insert(name.clone(), metric.clone());
            } else {
                waiting.push((name, metric));
            }
        }
        bounded.left_out +=
            copy_fitting(&self.params, &mut bounded.params, &mut left, |name, value| name.len() + value.len() + 4);
        bounded.left_out += copy_fitting(&self.artifacts, &mut bounded.artifacts, &mut left, |key, note| {
            key.len() + note.key.len() + note.file.len() + note.mime.len() + 8
        });
        if left.take(self.record.len()) {
            bounded.record.clone_from(&self.record);
        }
        for (name, metric) in waiting {
            if left.take(metric.size(name)) {
                bounded.metrics.insert(name.clone(), metric.clone());
            } else {
                bounded.more_metrics += 1;
            }
        }
        bounded
    }
}

/// Bytes that are left.
struct Room(usize);

impl Room {
    /// Takes `size` bytes, if they are there.
    fn take(&mut self, size: usize) -> bool {
        let fits = size <= self.0;
        self.0 -= if fits { size } else { 0 };
        fits
    }
}

/// Copies what fits, in the order of names; returns how many did not.
fn copy_fitting<T: Clone>(
    all: &BTreeMap<String, T>,
    to: &mut BTreeMap<String, T>,
    left: &mut Room,
    size: impl Fn(&str, &T) -> usize,
) -> u32 {
    let mut left_out = 0;
    for (name, value) in all {
        if left.take(size(name, value)) {
            to.insert(name.clone(), value.clone());
        } else {
            left_out += 1;
        }
    }
    left_out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: f64) -> Scalar {
        Scalar::Number(value.into())
    }

    #[test]
    fn a_metric_keeps_first_last_range_and_count() {
        let mut metric = MetricSummary::of(number(2.0), 0, 10);
        for (step, value) in [(1, f64::NAN), (2, -1.0), (3, 5.0), (4, f64::NAN)] {
            metric.push(number(value), step, 10 + step.unsigned_abs());
        }
        assert_eq!((metric.first, metric.count, metric.step), (number(2.0), 5, 4));
        assert_eq!(metric.last, number(f64::NAN), "NaN is kept, and equals itself");
        assert_eq!(metric.range, Some(((-1.0).into(), 5.0.into())), "NaN has no place in a range");
        assert!(metric.sum.get().is_nan());
        let mut metric = MetricSummary::of(number(2.0), 0, 10);
        metric.push(number(-0.5), 1, 11);
        metric.push(Scalar::Text("x".to_owned()), 2, 12);
        assert_eq!(metric.sum, 1.5.into());
    }

    #[test]
    fn a_summary_that_is_too_large_says_how_much_it_leaves_out() {
        let mut summary = Summary::default();
        for index in 0..200 {
            summary.params.insert(format!("p{index:03}"), "x".repeat(1_000));
        }
        summary.metrics.insert("loss".to_owned(), MetricSummary::of(number(1.0), 0, 0));
        let bounded = summary.bounded();
        assert_eq!(bounded.params.len() + bounded.left_out as usize, 200);
        assert!(bounded.params.len() > 60 && bounded.metrics.len() == 1, "some metrics come before parameters");
        assert_eq!(bounded.bounded(), bounded, "what fits is not cut again");
    }

    #[test]
    fn many_metrics_take_no_room_from_what_has_no_other_place() {
        let mut summary = Summary::default();
        for index in 0..5_000 {
            summary.metrics.insert(format!("layer/{index:04}"), MetricSummary::of(number(1.0), 0, 0));
        }
        for name in ["system/cpu", "loss"] {
            summary.metrics.insert(name.to_owned(), MetricSummary::of(number(1.0), 0, 0));
        }
        summary.params = (0..20).map(|index| (format!("p{index}"), "x".repeat(1_000))).collect();
        summary.record = "r".repeat(8_000);
        let bounded = summary.bounded();
        assert_eq!((bounded.params.len(), bounded.record.len(), bounded.left_out), (20, 8_000, 0));
        assert!(bounded.metrics.contains_key("system/cpu") && bounded.metrics.contains_key("loss"), "these come first");
        assert_eq!(bounded.metrics.len() + bounded.more_metrics as usize, 5_002);
        assert!(bounded.metrics.len() > 450, "half of the room, and what others left: {}", bounded.metrics.len());
        assert!(crate::codec::encode_body(&(&bounded,)).len() <= SUMMARY_MAX);
    }
}
