//! `fnode job graph`: the stages of a job as they ran, as a table for people and as a graph for Graphviz. Reads the
//! artifact that the Python package writes (`node/sdk/foundations/_stages/record.py`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::Cell;
use serde::{Deserialize, Serialize};

use super::args::GraphArgs;
use super::client::{Client, segment};
use super::error::CliError;
use super::exit::Exit;
use super::output::{Output, table, write_out};
use super::time::length;
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::http::words::job::JobWord;

/// What the package calls it.
const ARTIFACT: &str = "foundations_stages.json";

/// The record of a job's stages. What a newer package adds is passed on in JSON, and not looked at.
#[derive(Debug, Serialize, Deserialize)]
struct Graph {
    runs: Vec<Run>,
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Run {
    /// In the order in which they ran.
    stages: Vec<Stage>,
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stage {
    uuid: String,
    name: String,
    state: String,
    /// Stages whose results it takes.
    needs: Vec<String>,
    node: Option<String>,
    /// `None`: no cache was asked.
    hit: Option<bool>,
    seconds: Option<f64>,
    /// What a hit took when it was computed.
    #[serde(default)]
    saved_seconds: f64,
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

/// A stage as it is shown: numbers are from 1 on, over all runs of the job.
struct Numbered<'a> {
    number: usize,
    stage: &'a Stage,
    needs: Vec<usize>,
}

pub(super) async fn graph(mut client: Client, args: &GraphArgs, output: Output) -> Result<Exit, CliError> {
    let job: JobWord = client.get(&format!("/jobs/{}", segment(&args.job))).await?;
    let none = || {
        let message = format!("job {} has told of no stages", job.line.id);
        CliError::Refused(ErrorWord::new(ErrorCode::NotFound, message, "see fnode job show"))
    };
    if !job.artifacts.iter().any(|artifact| artifact.key == ARTIFACT) {
        return Err(none());
    }
    let graph: Graph = client.get(&format!("/jobs/{}/artifacts/{ARTIFACT}", segment(&job.line.id))).await?;
    if output.is_json() {
        output.print_json(&graph)?;
        return Ok(Exit::Done);
    }
    let stages = numbered(&graph);
    let text = if args.dot { dot(&stages) } else { lines(&stages, output) + "\n" };
    write_out(text.as_bytes())?;
    Ok(Exit::Done)
}

fn numbered(graph: &Graph) -> Vec<Numbered<'_>> {
    let mut numbers = BTreeMap::new();
    let stages = graph.runs.iter().flat_map(|run| &run.stages);
    let stages: Vec<(usize, &Stage)> = (1..).zip(stages).collect();
    for (number, stage) in &stages {
        numbers.insert(stage.uuid.as_str(), *number);
    }
    let needs = |stage: &Stage| stage.needs.iter().filter_map(|uuid| numbers.get(uuid.as_str()).copied()).collect();
    stages.iter().map(|(number, stage)| Numbered { number: *number, stage, needs: needs(stage) }).collect()
}

fn lines(stages: &[Numbered<'_>], output: Output) -> String {
    let rows = stages.iter().map(|Numbered { number, stage, needs }| {
        let needs: Vec<String> = needs.iter().map(ToString::to_string).collect();
        vec![
            Cell::new(number),
            Cell::new(&stage.name),
            state_cell(&stage.state, output),
            Cell::new(cache_word(stage)),
            Cell::new(stage.node.as_deref().unwrap_or_default()),
            Cell::new(stage.seconds.map(took).unwrap_or_default()),
            Cell::new(if stage.saved_seconds > 0.0 { took(stage.saved_seconds) } else { String::new() }),
            Cell::new(needs.join(" ")),
        ]
    });
    table(&["#", "stage", "state", "cache", "node", "took", "saved", "needs"], rows)
}

fn state_cell(state: &str, output: Output) -> Cell {
    match serde_json::from_value(state.into()) {
        Ok(known) => output.state(known),
        // `waiting` is no state of a job.
        Err(_) => Cell::new(state),
    }
}

fn cache_word(stage: &Stage) -> &'static str {
    match stage.hit {
        None => "",
        Some(true) => "hit",
        Some(false) => "miss",
    }
}

fn took(seconds: f64) -> String {
    // Seconds of a job: far below what a number of milliseconds can hold; negative ones saturate at zero.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length in milliseconds")]
    let ms = (seconds * 1_000.0).round() as u64;
    length(ms)
}

/// Graphviz: hits are filled, failed stages are drawn in red.
fn dot(stages: &[Numbered<'_>]) -> String {
    let mut text = "digraph stages {\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n".to_owned();
    for Numbered { number, stage, .. } in stages {
        let mut label = vec![stage.name.clone()];
        label.extend(stage.node.as_ref().map(|node| format!("on {node}")));
        let length = stage.seconds.map(took).unwrap_or_else(|| stage.state.clone());
        label.push(format!("{length} {}", cache_word(stage)).trim_end().to_owned());
        let look = match (stage.hit, stage.state.as_str()) {
            (_, "failed") => ", color=red",
            (Some(true), _) => ", style=\"rounded,filled\", fillcolor=lightgrey",
            _ => "",
        };
        let _ = writeln!(text, "  s{number} [label={}{look}];", quoted(&label.join("\n")));
    }
    for Numbered { number, needs, .. } in stages {
        for need in needs {
            let _ = writeln!(text, "  s{need} -> s{number};");
        }
    }
    text + "}\n"
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"v": 1, "runs": [{"params": {}, "last": "b", "stages": [
        {"uuid": "a", "name": "load \"x\"", "state": "completed", "needs": [], "node": "n1", "hit": true, "seconds": 0.012,
         "saved_seconds": 3.5, "log": []},
        {"uuid": "b", "name": "train", "state": "failed", "needs": ["a", "gone"], "node": null, "hit": null, "seconds": 2.0}
    ]}]}"#;

    #[test]
    fn a_graph_is_a_table_and_a_drawing() {
        let graph: Graph = serde_json::from_str(RECORD).expect("as the package writes it");
        let stages = numbered(&graph);
        let text = lines(&stages, Output::new(false));
        assert!(text.contains("1  load \"x\"  completed  hit    n1    12ms  3.5s"), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.trim_end().ends_with('1')), "{text}");
        let drawn = dot(&stages);
        assert!(
            drawn.contains(r#"s1 [label="load \"x\"\non n1\n12ms hit", style="rounded,filled", fillcolor=lightgrey];"#),
            "{drawn}"
        );
        assert!(drawn.contains("s2 [label=\"train\\n2.0s\", color=red];\n  s1 -> s2;\n}"), "{drawn}");
        let again = serde_json::to_value(&graph).expect("JSON");
        assert_eq!(
            again,
            serde_json::from_str::<serde_json::Value>(RECORD)
                .map(|mut value| {
                    value["runs"][0]["stages"][1]["saved_seconds"] = 0.0.into();
                    value
                })
                .expect("JSON"),
            "nothing of the record is lost"
        );
    }
}
