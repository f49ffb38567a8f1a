//! `fnode job compare`: what differs between jobs, a row each: parameters, metrics, tags, code, packages, files, machines.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::Cell;
use serde::Serialize;
use serde_json::Value;

use super::args::CompareArgs;
use super::client::{Client, segment};
use super::columns;
use super::error::CliError;
use super::exit::Exit;
use super::output::{Output, table_as_titled};
use crate::http::words::blob::Outputs;
use crate::http::words::job::JobWord;
use crate::http::words::record::RecordedWord;

/// Values are cut to this in tables; `--json` has all of them.
const VALUE_MAX: usize = 40;
/// Of contents and commits so much is enough for people.
const HASH_SHOWN: usize = 10;
/// Other in every job: who compares them knows.
const OWN: [&str; 4] = ["job", "submitted_unix_ms", "started_unix_ms", "ended_unix_ms"];

/// What is printed.
#[derive(Debug, Serialize)]
struct Comparison {
    /// Ids, in the order asked for.
    jobs: Vec<String>,
    rows: Vec<Row>,
}

/// One thing, as each of the jobs has it.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    name: String,
    /// Null: this one has none.
    values: Vec<Value>,
    differs: bool,
}

/// The values of one job by name.
type Values = BTreeMap<String, Value>;

pub(super) async fn compare(mut client: Client, args: &CompareArgs, output: Output) -> Result<Exit, CliError> {
    let mut jobs: Vec<JobWord> = Vec::new();
    for id in &args.jobs {
        jobs.push(client.get(&format!("/jobs/{}", segment(id))).await?);
    }
    let mut all: Vec<Values> = jobs.iter().map(values).collect();
    let manifests: BTreeSet<_> = jobs.iter().map(|job| job.bundle.as_ref().map(|bundle| &bundle.manifest)).collect();
    // Equal manifests are equal files.
    if manifests.len() > 1 {
        for (job, values) in jobs.iter().zip(&mut all) {
            if job.bundle.is_some() {
                let files: Outputs = client.get(&format!("/jobs/{}/bundle", segment(&job.line.id))).await?;
                values.extend(files.files.into_iter().map(|file| {
                    let what = if file.content.is_empty() { file.target } else { file.content };
                    (format!("file {}", file.path), Value::from(what))
                }));
            }
        }
    }
    let rows = rows(&all).into_iter().filter(|row| args.all || row.differs).collect();
    let comparison = Comparison { jobs: jobs.iter().map(|job| job.line.id.clone()).collect(), rows };
    output.print(&comparison, |comparison| text(comparison, &jobs))?;
    Ok(Exit::Done)
}

/// What is compared of one job.
fn values(job: &JobWord) -> Values {
    let attempt = job.attempts.iter().find(|attempt| attempt.counts).or(job.attempts.last());
    let recorded = RecordedWord {
        checkout: job.checkout.clone(),
        ran_with: attempt.and_then(|attempt| attempt.ran_with.clone()),
        cpu_ms: attempt.map_or(0, |attempt| attempt.cpu_ms),
        memory_max_bytes: attempt.map_or(0, |attempt| attempt.memory_max_bytes),
        params_json: job.params_json.clone(),
        bundle: job.bundle.as_ref().map(|bundle| bundle.manifest.clone()).unwrap_or_default(),
        note: job.note.clone(),
    };
    let row = columns::row(&job.line, &recorded);
    let mut values: Values = row.into_iter().filter(|(name, _)| !OWN.contains(&name.as_str())).collect();
    let told = job.line.told.record.as_ref().and_then(|record| record.get("packages")).and_then(Value::as_array);
    let told = told.into_iter().flatten().filter_map(Value::as_str);
    let built = recorded.ran_with.iter().flat_map(|with| &with.packages).map(String::as_str);
    values.extend(told.chain(built).filter_map(|package| {
        let (name, version) = package.split_once("==")?;
        Some((format!("package {name}"), Value::from(version)))
    }));
    values
}

/// A row for everything that any of the jobs has: the record in its own order, then the rest by name.
fn rows(all: &[Values]) -> Vec<Row> {
    let names: BTreeSet<&String> = all.iter().flat_map(Values::keys).collect();
    let place = |name: &str| columns::FIXED.iter().position(|fixed| *fixed == name).unwrap_or(usize::MAX);
    let mut names: Vec<&String> = names.into_iter().collect();
    names.sort_by_key(|name| place(name));
    let row = |name: &String| {
        let values: Vec<Value> = all.iter().map(|values| values.get(name).cloned().unwrap_or_default()).collect();
        Row { name: name.clone(), differs: values.windows(2).any(|pair| pair[0] != pair[1]), values }
    };
    names.into_iter().map(row).collect()
}

fn text(comparison: &Comparison, jobs: &[JobWord]) -> String {
    if comparison.rows.is_empty() {
        return "nothing that is recorded differs; see all of it with --all".to_owned();
    }
    let lines: Vec<_> = jobs.iter().map(|job| job.line.clone()).collect();
    let titles: Vec<String> = std::iter::once("WHAT".to_owned()).chain(super::jobs::shown_ids(&lines)).collect();
    let rows = comparison.rows.iter().map(|row| {
        let cells = row.values.iter().map(|value| Cell::new(shown(&row.name, value)));
        std::iter::once(Cell::new(&row.name)).chain(cells).collect()
    });
    table_as_titled(&titles, rows)
}

fn shown(name: &str, value: &Value) -> String {
    let is_hash = name.starts_with("file ") || ["git_commit", "git_diff", "bundle", "environment"].contains(&name);
    let max = if is_hash { HASH_SHOWN } else { VALUE_MAX };
    let text = match value {
        Value::Null => return "-".to_owned(),
        value => columns::text(value).replace(|c: char| c.is_control(), " "),
    };
    match text.char_indices().nth(max) {
        Some((end, _)) if is_hash => text[..end].to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_tell_what_differs_and_what_is_missing() {
        let one = Values::from([("params.lr".to_owned(), json!(1)), ("user".to_owned(), json!("ada"))]);
        let two = Values::from([("user".to_owned(), json!("ada")), ("file a".to_owned(), json!("00"))]);
        let row =
            |name: &str, values: [Value; 2], differs| Row { name: name.to_owned(), values: values.into(), differs };
        let wanted = [
            row("user", [json!("ada"), json!("ada")], false),
            row("file a", [Value::Null, json!("00")], true),
            row("params.lr", [json!(1), Value::Null], true),
        ];
        assert_eq!(rows(&[one, two]), wanted);
    }

    #[test]
    fn long_values_are_cut_and_hashes_more_so() {
        assert_eq!(shown("git_commit", &json!("0123456789abcdef")), "0123456789");
        assert_eq!(shown("command", &json!("x".repeat(50))).chars().count(), VALUE_MAX + 1);
        assert_eq!((shown("x", &Value::Null), shown("x", &json!({"f": "nan"}))), ("-".to_owned(), "NaN".to_owned()));
    }
}
