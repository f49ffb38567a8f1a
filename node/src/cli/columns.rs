//! A job as named values, one row: what `fnode export` writes and `fnode job compare` compares.

use serde_json::Value;

use crate::http::words::job::JobLine;
use crate::http::words::record::RecordedWord;

/// Columns that every row has, in this order; what else a job told comes behind, by name.
pub(super) const FIXED: [&str; 31] = [
    "job",
    "project",
    "name",
    "user",
    "state",
    "exit_code",
    "ending",
    "node",
    "command",
    "submitted_unix_ms",
    "started_unix_ms",
    "ended_unix_ms",
    "duration_s",
    "cpu_s",
    "memory_max_bytes",
    "git_commit",
    "git_branch",
    "git_remote",
    "git_author",
    "git_dirty",
    "git_diff",
    "bundle",
    "hostname",
    "os",
    "cpu",
    "cpu_threads",
    "memory_bytes",
    "gpus",
    "python",
    "environment",
    "note",
];
/// Columns of which numbers are whole.
pub(super) const WHOLE: [&str; 7] = [
    "exit_code",
    "submitted_unix_ms",
    "started_unix_ms",
    "ended_unix_ms",
    "memory_max_bytes",
    "cpu_threads",
    "memory_bytes",
];
/// Columns of which numbers may be fractions.
pub(super) const FRACTION: [&str; 2] = ["duration_s", "cpu_s"];

/// The values of one job, nothing for what is not known.
pub(super) fn row(job: &JobLine, recorded: &RecordedWord) -> Vec<(String, Value)> {
    let mut row = fixed(job, recorded);
    for (name, value) in job.told.all_params(&recorded.params_json) {
        row.push((format!("params.{name}"), value));
    }
    row.extend(job.told.metrics.iter().map(|(name, metric)| (format!("metrics.{name}"), metric.last.clone())));
    for (name, metric) in &job.told.system {
        row.extend(metric.mean.iter().map(|mean| (format!("{name}.mean"), mean.clone())));
        row.extend(metric.max.iter().map(|max| (format!("{name}.max"), max.clone())));
    }
    row.extend(job.tags.iter().map(|(key, value)| (format!("tags.{key}"), Value::from(value.as_str()))));
    row
}

fn fixed(job: &JobLine, recorded: &RecordedWord) -> Vec<(String, Value)> {
    let text = |text: &str| if text.is_empty() { Value::Null } else { Value::from(text) };
    let count = |count: u64| if count == 0 { Value::Null } else { Value::from(count) };
    let ending = job.ending.as_ref();
    let duration = job.started_unix_ms.zip(job.ended_unix_ms);
    let checkout = recorded.checkout.clone().unwrap_or_default();
    let with = recorded.ran_with.clone().unwrap_or_default();
    let gpus: Vec<&str> = with.gpus.iter().map(|gpu| gpu.name.as_str()).collect();
    let diff = checkout.diff.as_ref().map(|diff| diff.content.as_str()).unwrap_or_default();
    let values = [
        text(&job.id),
        text(&job.project),
        text(&job.name),
        text(&job.user),
        text(job.state.as_str()),
        ending.map_or(Value::Null, |ending| ending.exit_code.into()),
        ending.map_or(Value::Null, |ending| text(&ending.text)),
        job.node.as_ref().map_or(Value::Null, |node| text(&node.name)),
        text(&job.command.join(" ")),
        count(job.submitted_unix_ms),
        job.started_unix_ms.into(),
        job.ended_unix_ms.into(),
        duration.map(|(from, to)| to.saturating_sub(from) as f64 / 1_000.0).into(),
        if recorded.cpu_ms == 0 { Value::Null } else { Value::from(recorded.cpu_ms as f64 / 1_000.0) },
        count(recorded.memory_max_bytes),
        text(&checkout.commit),
        text(&checkout.branch),
        text(&checkout.remote),
        text(&checkout.author),
        recorded.checkout.as_ref().map_or(Value::Null, |checkout| checkout.is_dirty.into()),
        text(diff),
        text(&recorded.bundle),
        text(&with.hostname),
        text(&with.os),
        text(&with.cpu),
        count(with.cpu_threads.into()),
        count(with.memory_bytes),
        text(&gpus.join(", ")),
        text(&with.python),
        text(&with.environment),
        text(&recorded.note),
    ];
    let named = FIXED.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value));
    named.filter(|(_, value)| !value.is_null()).collect()
}

/// A value as text, whole: what JSON has no number for by its name.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => special(other).map_or_else(|| other.to_string(), |special| special.to_owned()),
    }
}

/// `nan`, `inf` and `-inf`, which are objects in JSON, as Python and R read them.
pub(super) fn special(value: &Value) -> Option<&'static str> {
    let told = value.as_object().filter(|told| told.len() == 1)?;
    match told.get("f")?.as_str()? {
        "nan" => Some("NaN"),
        "inf" => Some("inf"),
        "-inf" => Some("-inf"),
        _ => None,
    }
}

/// A value as a number, if it is one.
pub(super) fn number(value: &Value) -> Option<f64> {
    match special(value) {
        Some("NaN") => Some(f64::NAN),
        Some("inf") => Some(f64::INFINITY),
        Some(_) => Some(f64::NEG_INFINITY),
        None => value.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::words::record::CheckoutWord;
    use crate::http::words::track::MetricWord;
    use serde_json::json;

    #[test]
    fn a_job_is_a_row_of_what_is_known() {
        let mut job = JobLine { id: "7".to_owned(), started_unix_ms: Some(1_000), ..JobLine::default() };
        job.ended_unix_ms = Some(3_500);
        job.told.params.insert("lr".to_owned(), json!(0.5));
        job.told.metrics.insert("loss".to_owned(), MetricWord { last: json!({"f": "nan"}), ..MetricWord::default() });
        job.tags.insert("best".to_owned(), String::new());
        let checkout = CheckoutWord { commit: "8f3c".to_owned(), ..CheckoutWord::default() };
        let params_json = "{\"lr\": 1, \"depth\": [2, 3]}".to_owned();
        let recorded = RecordedWord { checkout: Some(checkout), params_json, ..RecordedWord::default() };
        let row = row(&job, &recorded);
        let value = |name: &str| row.iter().find(|(known, _)| known == name).map(|(_, value)| text(value));
        for (name, wanted) in [
            ("job", Some("7")),
            ("duration_s", Some("2.5")),
            ("git_commit", Some("8f3c")),
            ("git_dirty", Some("false")),
            ("params.lr", Some("0.5")),
            ("params.depth", Some("[2,3]")),
            ("metrics.loss", Some("NaN")),
            ("tags.best", Some("")),
            ("hostname", None),
        ] {
            assert_eq!(value(name).as_deref(), wanted, "{name}");
        }
        assert!(WHOLE.iter().chain(&FRACTION).all(|name| FIXED.contains(name)));
        assert_eq!(
            [number(&json!({"f": "-inf"})), number(&json!(2)), number(&json!("2"))],
            [Some(f64::NEG_INFINITY), Some(2.0), None]
        );
    }
}
