//! What a job told of itself, as the API names it.

use std::collections::BTreeMap;

use proto::track::{Float, MetricSummary, SYSTEM_PREFIX, Scalar, Summary};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::objects::VARIABLES;

/// A job's own word: parameters, metrics, artifacts. What it did not tell is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrackedWord {
    /// Parameters that it logged.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Value>,
    /// The parameters file as it loaded it; an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_params: Option<Value>,
    /// Metrics by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, MetricWord>,
    /// What it used of its machine, read every few seconds: `system/cpu` in processors, `system/memory_bytes`,
    /// `system/gpu_percent`, `system/gpu_memory_bytes`; once it has ended, and lasted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub system: BTreeMap<String, MetricWord>,
    /// The exception that it ended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorWord>,
    /// What it says of its interpreter, packages and code; an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Value>,
    /// Metrics that are not here, because the record has no room: `GET /jobs/{id}/series` names all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_metrics: u32,
    /// Points that it told under `system/`, which is the node's own: not kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserved: u32,
    /// Parameters and artifacts that did not fit, lines that could not be read, points of more than 10,000 metrics.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u32,
}

/// A metric without its points. Values are numbers, `true`, `false`, text, or `{"f": "nan" | "inf" | "-inf"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MetricWord {
    /// The last value.
    pub last: Value,
    /// The first value.
    pub first: Value,
    /// The smallest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Value>,
    /// The largest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Value>,
    /// The mean of its numbers; none for other values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Value>,
    /// How many points there are.
    pub count: u64,
    /// Step of the last point.
    pub step: i64,
    /// When the last point was told.
    pub at_unix_ms: u64,
}

/// The exception that a job ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorWord {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its text.
    pub exception: String,
    /// Its traceback.
    pub traceback: Vec<String>,
}

/// `GET /jobs/{id}/series/{key}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SeriesQuery {
    /// About so many at most, 2 to 5,000; 0: 2,000. Of a longer series each stretch shows its lowest and highest.
    pub points: u32,
    /// Only points after the first so many.
    pub after: u64,
    /// `1`: every point, the first so many of them.
    pub every: u8,
}

/// `GET /jobs/{id}/series/{key}/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FollowQuery {
    /// Only points after the first so many; a browser that comes back says the same with `Last-Event-ID`.
    pub after: u64,
}

/// Points of one metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeriesWord {
    /// The metric.
    pub key: String,
    /// How many points it has in all.
    pub count: u64,
    /// `[step, seconds since 1970, value]`, in order; values as they were told, as in [`MetricWord`].
    pub points: Vec<(i64, f64, Value)>,
}

/// `GET /jobs/{id}/series`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SeriesNamesQuery {
    /// The `next` of the page before.
    pub after: String,
}

/// Every metric of a job, also those that its record has no room for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeriesNames {
    /// By name.
    pub series: Vec<SeriesName>,
    /// What to give as `after` for the next page; empty: this was the last.
    #[serde(default)]
    pub next: String,
}

/// One metric of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeriesName {
    /// Its name.
    pub key: String,
    /// How many points it has.
    pub count: u64,
}

/// `POST /runs`: a script that runs already becomes a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RunRequest {
    /// Project.
    pub project: String,
    /// Who runs it; empty: whoever asks.
    pub user: String,
    /// How it was started, for people.
    pub command: Vec<String>,
    /// Its working directory: what is in it at its end is kept.
    pub directory: String,
    /// The process.
    pub pid: u32,
    /// A name that its user chose for it.
    pub job_id: Option<String>,
    /// Where what it leaves is archived, instead of where its node does; empty: there.
    #[serde(default)]
    pub archive: String,
    /// The object store for its cached values, instead of its node's; empty: that.
    #[serde(default)]
    pub cache_store: String,
}

/// Where a script that became a job tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunAnswer {
    /// The job.
    pub job: String,
    /// The file for its lines; each is one JSON array, written at once.
    pub track: String,
    /// The directory for its artifacts; it may not exist yet.
    pub artifacts_dir: String,
    /// Who it runs for.
    pub user: String,
    /// The answering node.
    pub node: String,
}

impl RunRequest {
    /// Whether it can become a job.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), super::error::ErrorWord> {
        let refuse = |message: &str, hint: &str| Err(super::error::ErrorWord::bad_input(message, hint));
        super::submit::check_project(&self.project)?;
        if self.command.is_empty() || self.command.iter().map(String::len).sum::<usize>() > 64 << 10 {
            return refuse("the command is empty, or longer than 64 KiB", "give program and arguments");
        }
        if !self.directory.starts_with('/') || self.directory.len() > 4_096 {
            return refuse("the directory is no absolute path", "give the script's working directory");
        }
        if self.job_id.as_ref().is_some_and(|id| id.len() > 128 || id.chars().any(char::is_control)) {
            return refuse("the job id is longer than 128 bytes, or not printable", "choose another");
        }
        super::submit::check_places(&self.env())
    }

    /// The variables that name its end points.
    #[must_use]
    pub fn env(&self) -> BTreeMap<String, String> {
        let places = VARIABLES.iter().zip([&self.archive, &self.cache_store]);
        let named = places.filter(|(_, place)| !place.is_empty());
        named.map(|(name, place)| ((*name).to_owned(), place.clone())).collect()
    }
}

/// Files that a job gave names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Artifacts {
    /// By path.
    pub artifacts: Vec<ArtifactWord>,
}

/// One file of a job's artifacts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactWord {
    /// The job's name for it, or for the directory that it is in.
    pub key: String,
    /// Its path below the artifacts.
    pub filename: String,
    /// Length in bytes.
    pub size: u64,
    /// Content id.
    pub content: String,
    /// `image`, `audio`, `text` or `unknown`, by its name.
    pub artifact_type: String,
    /// Media type.
    pub mime: String,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A number as JSON; what JSON has no number for is an object.
#[must_use]
pub fn number(value: f64) -> Value {
    match serde_json::Number::from_f64(value) {
        // Whole numbers are written as such.
        Some(_) if value.fract() == 0.0 && value.abs() < 9e15 => Value::from(value as i64),
        Some(number) => Value::Number(number),
        None => {
            let name = if value.is_nan() {
                "nan"
            } else if value > 0.0 {
                "inf"
            } else {
                "-inf"
            };
            serde_json::json!({ "f": name })
        }
    }
}

/// A value as it was told.
#[must_use]
pub fn scalar(value: &Scalar) -> Value {
    match value {
        Scalar::Number(value) => number(value.get()),
        Scalar::Bool(value) => Value::Bool(*value),
        Scalar::Text(text) => Value::String(text.clone()),
    }
}

/// Metrics that the job told, or those that its node has read of it.
fn metrics(summary: &Summary, is_system: bool) -> BTreeMap<String, MetricWord> {
    let wanted = summary.metrics.iter().filter(|(name, _)| name.starts_with(SYSTEM_PREFIX) == is_system);
    wanted.map(|(name, metric)| (name.clone(), metric.into())).collect()
}

/// JSON text that the job wrote; `None`: it is none, or empty.
fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

impl From<&MetricSummary> for MetricWord {
    fn from(metric: &MetricSummary) -> Self {
        let bound = |pick: fn((Float, Float)) -> Float| metric.range.map(|range| number(pick(range).get()));
        Self {
            last: scalar(&metric.last),
            first: scalar(&metric.first),
            min: bound(|(low, _)| low),
            max: bound(|(_, high)| high),
            mean: matches!((&metric.first, &metric.last), (Scalar::Number(_), Scalar::Number(_)))
                .then(|| number(metric.sum.get() / metric.count as f64)),
            count: metric.count,
            step: metric.step,
            at_unix_ms: metric.at_unix_ms,
        }
    }
}

impl TrackedWord {
    /// What the job was given (`given`, JSON text), loaded and logged; what it logged counts.
    #[must_use]
    pub fn all_params(&self, given: &str) -> BTreeMap<String, Value> {
        let object = |value: Value| if let Value::Object(object) = value { object } else { serde_json::Map::new() };
        let mut all = object(json(given).unwrap_or_default());
        all.extend(object(self.input_params.clone().unwrap_or_default()));
        all.into_iter().chain(self.params.clone()).collect()
    }
}

impl From<&Summary> for TrackedWord {
    fn from(summary: &Summary) -> Self {
        Self {
            params: summary.params.iter().filter_map(|(name, text)| Some((name.clone(), json(text)?))).collect(),
            input_params: json(&summary.input_params),
            metrics: metrics(summary, false),
            system: metrics(summary, true),
            error: summary.error.as_ref().map(|error| ErrorWord {
                kind: error.kind.clone(),
                exception: error.message.clone(),
                traceback: error.traceback.clone(),
            }),
            record: json(&summary.record),
            more_metrics: summary.more_metrics,
            reserved: summary.reserved,
            left_out: summary.left_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_has_no_number_for_is_told_all_the_same() {
        let told = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.5, 3.0, -0.0, 1e300].map(number);
        let texts = told.map(|value| value.to_string());
        assert_eq!(texts[..3], [r#"{"f":"nan"}"#, r#"{"f":"inf"}"#, r#"{"f":"-inf"}"#]);
        assert_eq!((texts[3].as_str(), texts[4].as_str(), texts[6].as_str()), ("0.5", "3", "1e+300"));
    }
}
