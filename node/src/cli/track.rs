//! What jobs told of themselves, as tables: `fnode jobs --params --metrics`, and lines of `fnode job show`.

use std::collections::BTreeSet;

use comfy_table::Cell;
use proto::track::SYSTEM_PREFIX;
use serde_json::Value;

use super::time::counted;
use crate::http::words::job::{JobLine, JobWord};
use crate::http::words::track::{ErrorWord, MetricWord};

/// Values are cut to this in tables; `--json` has all of them.
const VALUE_MAX: usize = 24;

/// Columns of `jobs` that show parameters and metrics: titles, and the cells of each job.
pub(super) fn columns(jobs: &[JobLine], params: bool, metrics: bool) -> (Vec<String>, Vec<Vec<Cell>>) {
    let mut names = BTreeSet::new();
    for job in jobs {
        names.extend(job.told.params.keys().filter(|_| params).map(|name| (0, name)));
        names.extend(job.told.metrics.keys().filter(|_| metrics).map(|name| (1, name)));
    }
    let cell = |job: &JobLine, (kind, name): &(i32, &String)| {
        let value = match kind {
            0 => job.told.params.get(*name),
            _ => job.told.metrics.get(*name).map(|metric| &metric.last),
        };
        Cell::new(value.map(shown).unwrap_or_default())
    };
    let cells = jobs.iter().map(|job| names.iter().map(|name| cell(job, name)).collect()).collect();
    (names.iter().map(|(_, name)| (*name).clone()).collect(), cells)
}

/// Parameters of one job, a line each.
pub(super) fn params(job: &JobWord) -> String {
    let told = &job.line.told.params;
    told.iter().map(|(name, value)| format!("{name} = {}", shown(value))).collect::<Vec<_>>().join("\n")
}

/// Metrics of one job, a line each.
pub(super) fn metrics(job: &JobWord) -> String {
    let line = |(name, metric): (&String, &MetricWord)| {
        let range = match (&metric.min, &metric.max) {
            (Some(min), Some(max)) if metric.count > 1 => format!(", {} to {}", shown(min), shown(max)),
            _ => String::new(),
        };
        let points = if metric.count == 1 { String::new() } else { format!("  ({} points{range})", metric.count) };
        format!("{name} = {}{points}", shown(&metric.last))
    };
    job.line.told.metrics.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The exception that a job ended with. Its own text begins with its name, as Python prints it.
pub(super) fn error(error: &ErrorWord) -> String {
    let first = error.exception.split(':').next().unwrap_or_default().trim();
    if error.kind.is_empty() || first == error.kind || first.ends_with(&format!(".{}", error.kind)) {
        return error.exception.clone();
    }
    format!("{}: {}", error.kind, error.exception)
}

/// That a job told more than its record holds, and where the rest is.
pub(super) fn left_out(job: &JobWord) -> String {
    let told = &job.line.told;
    let mut lines = Vec::new();
    if told.more_metrics > 0 {
        let count = counted(told.more_metrics, "more metric");
        lines.push(format!("{count}: beyond the 64 KiB of a record; fnode export --series has the points of all"));
    }
    if told.reserved > 0 {
        let count = counted(told.reserved, "point");
        lines.push(format!("{count} named {SYSTEM_PREFIX}…: reserved for what the node reads; use another name"));
    }
    if told.left_out > 0 {
        let count = told.left_out;
        lines.push(format!("{count} parameters, artifacts or lines: beyond what is kept, or not to be read"));
    }
    lines.join("\n")
}

/// What one job used of its machine, a line each.
pub(super) fn system(job: &JobWord) -> String {
    let text = |name: &str, value: &Option<Value>| match value {
        Some(value) if name.ends_with("_bytes") => proto::ByteSize(value.as_f64().unwrap_or(0.0) as u64).to_string(),
        Some(value) => shown(value),
        None => String::new(),
    };
    let line = |(name, metric): (&String, &MetricWord)| {
        let short = name.trim_start_matches(SYSTEM_PREFIX).trim_end_matches("_bytes").replace('_', " ");
        format!("{short}: mean {}, peak {}", text(name, &metric.mean), text(name, &metric.max))
    };
    job.line.told.system.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Artifacts of one job, a line each.
pub(super) fn artifacts(job: &JobWord) -> String {
    let line = |file: &crate::http::words::track::ArtifactWord| {
        let named = if file.key == file.filename { String::new() } else { format!(" ({})", file.filename) };
        format!("{}{named}, {}", file.key, proto::ByteSize(file.size))
    };
    job.artifacts.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A value in a table: five significant digits, and no more than fits.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => significant(float),
            _ => number.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Object(told) if told.len() == 1 && told.contains_key("f") => {
            told.get("f").and_then(Value::as_str).unwrap_or_default().to_owned()
        }
        other => other.to_string(),
    };
    let text = text.replace(|c: char| c.is_control(), " ");
    match text.char_indices().nth(VALUE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn significant(value: f64) -> String {
    let digits = value.abs().log10().floor();
    if (-5.0..6.0).contains(&digits) {
        let text = format!("{value:.*}", (4.0 - digits).max(0.0) as usize);
        let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        short.to_owned()
    } else {
        format!("{value:.4e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_has_its_name_once() {
        let shown = |kind: &str, exception: &str| {
            let (kind, exception) = (kind.to_owned(), exception.to_owned());
            error(&ErrorWord { kind, exception, traceback: Vec::new() })
        };
        for (kind, exception) in [
            ("AttributeError", "AttributeError"),
            ("ValueError", "ValueError: no rows"),
            ("JSONDecodeError", "json.decoder.JSONDecodeError: line 1"),
        ] {
            assert_eq!(shown(kind, exception), exception);
        }
        assert_eq!(shown("ValueError", "Other: x"), "ValueError: Other: x");
    }

    #[test]
    fn values_are_short_and_true() {
        for (value, text) in [
            (serde_json::json!(0.123_456_78), "0.12346"),
            (serde_json::json!(12_345.678), "12346"),
            (serde_json::json!(1.5), "1.5"),
            (serde_json::json!(3), "3"),
            (serde_json::json!(1e-9), "1.0000e-9"),
            (serde_json::json!(true), "true"),
            (serde_json::json!({"f": "nan"}), "nan"),
            (serde_json::json!("a\nb"), "a b"),
            (serde_json::json!("x".repeat(30)), "xxxxxxxxxxxxxxxxxxxxxxxx…"),
        ] {
            assert_eq!(shown(&value), text);
        }
    }
}
