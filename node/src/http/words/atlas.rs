//! The words of Atlas's tracker (`/api/v2beta`), as its own pages and scripts know them. Of a metric that was logged
//! several times the last value is told; the series has all of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Longest text of a metric.
const TEXT_MAX: usize = 100;

/// One project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasProject {
    /// Its name.
    pub name: String,
    /// When its first job that is listed was submitted, as UTC in ISO 8601.
    pub created_at: Option<String>,
    /// Who submitted that.
    pub owner: Option<String>,
}

/// `GET projects/{project}/job_listing`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasListing {
    /// The project.
    pub name: String,
    /// Newest first unless asked otherwise.
    pub jobs: Vec<AtlasJob>,
    /// Every metric that one of them has.
    pub output_metric_names: Vec<AtlasName>,
    /// Every parameter that one of them has.
    pub parameters: Vec<AtlasName>,
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasName {
    /// Its name.
    pub name: String,
    /// `string`, `number`, `bool`, `array number` or `unknown`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A parameter or metric of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasValue {
    /// Its name.
    pub name: String,
    /// Its value; what JSON has no number for is null.
    pub value: Value,
    /// As [`AtlasName::kind`].
    #[serde(rename = "type")]
    pub kind: String,
}

/// One job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasJob {
    /// Its id.
    pub job_id: String,
    /// Who submitted it.
    pub user: String,
    /// Its project.
    pub project: String,
    /// What it was given and logged.
    pub job_parameters: Vec<AtlasValue>,
    /// Its metrics.
    pub output_metrics: Vec<AtlasValue>,
    /// `queued`, `running`, `completed` or `failed`.
    pub status: String,
    /// UTC in ISO 8601; null: not started.
    pub start_time: Option<String>,
    /// UTC in ISO 8601; null: not ended.
    pub completed_time: Option<String>,
    /// UTC in ISO 8601.
    pub creation_time: String,
    /// `0d0h0m0s`, until now while it runs.
    pub duration: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Files that it gave names.
    pub artifacts: Vec<AtlasArtifact>,
    /// In milliseconds since 1970, for filters and sorting.
    #[serde(skip)]
    pub times_ms: AtlasTimes,
}

/// Times as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AtlasTimes {
    /// When it was submitted.
    pub created: u64,
    /// When it started.
    pub started: Option<u64>,
    /// When it ended.
    pub ended: Option<u64>,
    /// How long it ran, so far.
    pub lasted: Option<u64>,
}

/// One artifact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasArtifact {
    /// Its file.
    pub filename: String,
    /// Where this node's API has it.
    pub uri: String,
    /// `image`, `audio` or `unknown`.
    pub artifact_type: String,
    /// The job's name for it.
    pub archive_key: String,
}

/// `GET projects/{project}/job_listing`. Beside these, for every column: `COLUMN_starts` and `COLUMN_ends` (numbers;
/// duration as `d_h_m_s`, times as `mm_dd_YYYY_HH_MM`), `COLUMN_contains`, `COLUMN_isnull`, and `COLUMN` with its values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AtlasQuery {
    /// With commas: `completed,failed`.
    pub status: String,
    /// With commas.
    pub user: String,
    /// Columns with commas, those with `-` downwards.
    pub sort: String,
}

/// `POST …/tags`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasTagRequest {
    /// The tag.
    pub tag: AtlasTag,
}

/// A tag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasTag {
    /// Its key.
    pub key: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

/// A project's description.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasDescription {
    /// Free text.
    pub project_description: String,
}

/// A note on a project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasNote {
    /// UTC, ISO 8601.
    pub date: String,
    /// What.
    pub message: String,
    /// Who.
    pub author: String,
}

/// `POST …/note_listing`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasNoteRequest {
    /// What, at most 4096 bytes.
    pub message: String,
    /// Who writes, where the node cannot tell it.
    #[serde(default)]
    pub author: String,
}

/// What a job wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasLog {
    /// All of it, up to 16 MiB.
    pub log: String,
}

/// `GET …/overview_metrics`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AtlasOverviewQuery {
    /// Names with `|`; empty: all.
    pub metric_name: String,
}

/// Metrics over the jobs of a project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasOverview {
    /// Every metric.
    pub all_metric_names: Vec<String>,
    /// Those that were asked for.
    pub metric_query: Vec<AtlasMetric>,
}

/// One metric over the jobs of a project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AtlasMetric {
    /// Its name.
    pub metric_name: String,
    /// `[job id, value]`, the oldest job first.
    pub values: Vec<(String, Value)>,
}

impl AtlasValue {
    /// A value under its name.
    #[must_use]
    pub fn of(name: &str, value: &Value) -> Self {
        let kind = kind(value).to_owned();
        let value = match value {
            Value::String(text) => Value::from(text.chars().take(TEXT_MAX).collect::<String>()),
            Value::Object(told) if told.len() == 1 && told.contains_key("f") => Value::Null,
            other => other.clone(),
        };
        Self { name: name.to_owned(), value, kind }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Array(all) if all.iter().all(Value::is_number) => "array number",
        Value::Object(told) if told.len() == 1 && told.contains_key("f") => "number",
        _ => "unknown",
    }
}

/// `2026-11-21T18:21:15.123000`, UTC, as Python writes it.
#[must_use]
pub fn iso(unix_ms: u64) -> String {
    let (days, rest) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (seconds, ms) = (rest / 1_000, rest % 1_000);
    let time = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let fraction = if ms == 0 { String::new() } else { format!(".{ms:03}000") };
    format!("{year:04}-{month:02}-{day:02}T{time}{fraction}")
}

/// Year, month and day of the day `days` after 1970-01-01. (Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`.)
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

/// Milliseconds since 1970 of `mm_dd_YYYY_HH_MM`, UTC.
#[must_use]
pub fn parse_minute(text: &str) -> Option<u64> {
    let parts: Vec<u64> = text.split('_').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [month @ 1..=12, day @ 1..=31, year @ 1970..=9999, hour @ 0..=23, minute @ 0..=59] = parts[..] else {
        return None;
    };
    // `days_from_civil` of the same paper.
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let of_era = year % 400 * 365 + year % 400 / 4 - year % 400 / 100 + of_year;
    let days = (year / 400 * 146_097 + of_era).checked_sub(719_468)?;
    Some(((days * 24 + hour) * 60 + minute) * 60_000)
}

/// `1d2h3m4s`.
#[must_use]
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    format!("{}d{}h{}m{}s", seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

/// Milliseconds of `d_h_m_s`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<u64> {
    let parts: Vec<u64> = text.split('_').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [days, hours, minutes, seconds] = parts[..] else { return None };
    let minutes = days.checked_mul(24)?.checked_add(hours)?.checked_mul(60)?.checked_add(minutes)?;
    minutes.checked_mul(60)?.checked_add(seconds)?.checked_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_written_and_read_as_atlas_does() {
        assert_eq!(iso(0), "1970-01-01T00:00:00");
        assert_eq!(iso(951_782_400_123), "2000-02-29T00:00:00.123000");
        assert_eq!(iso(1_795_285_275_000), "2026-11-21T18:21:15");
        assert_eq!(parse_minute("02_29_2000_00_00"), Some(951_782_400_000));
        assert_eq!(parse_minute("11_21_2026_18_21"), Some(1_795_285_260_000));
        for wrong in ["", "13_01_2026_00_00", "1_1_1_1_1", "1_1_2026_24_0", "x", "1_1_2026_0"] {
            assert_eq!(parse_minute(wrong), None, "{wrong}");
        }
        for day in (0..60_000).step_by(17) {
            let (year, month, d) = civil(day);
            assert_eq!(parse_minute(&format!("{month}_{d}_{year}_0_0")), Some(day * 86_400_000));
        }
    }

    #[test]
    fn durations_are_written_and_read_as_atlas_does() {
        assert_eq!(duration(93_784_999), "1d2h3m4s");
        assert_eq!(parse_duration("1_2_3_4"), Some(93_784_000));
        assert_eq!((parse_duration("1_2_3"), parse_duration("18446744073709551615_0_0_0")), (None, None));
    }

    #[test]
    fn values_have_atlas_types() {
        for (value, kind) in [
            (json!("x"), "string"),
            (json!(1.5), "number"),
            (json!({"f": "nan"}), "number"),
            (json!(true), "bool"),
            (json!([1, 2.5]), "array number"),
            (json!(["a"]), "unknown"),
            (json!(null), "unknown"),
        ] {
            assert_eq!(AtlasValue::of("x", &value).kind, kind, "{value}");
        }
        assert_eq!(AtlasValue::of("x", &json!("y".repeat(200))).value.as_str().map(str::len), Some(100));
        assert_eq!(AtlasValue::of("x", &json!({"f": "inf"})).value, json!(null));
    }
}
