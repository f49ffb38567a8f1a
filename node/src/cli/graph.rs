//! `fnode job graph`: the stages of a job as they ran, as a table for people and as a graph for Graphviz. Reads the
//! artifact that the Python package writes (`node/sdk/foundations/_stages/record.py`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use comfy_table::Cell;
use serde::{Deserialize, Serialize};

use super::args::GraphArgs;
use super::client::{Client, query, segment};
use super::error::CliError;
use super::exit::Exit;
use super::output::{Output, table, write_out};
use super::time::length;
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::http::words::job::{JobLine, JobPage, JobWord, StateWord};

/// What the package calls it.
const ARTIFACT: &str = "foundations_stages.json";
/// A stage of a job that has ended, which never ran.
const NOT_RUN: &str = "not run";
/// Parts that are asked for at once.
const PAGE: &str = "500";

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
    /// The part of the job that runs it.
    #[serde(default)]
    job: Option<String>,
    #[serde(default)]
    started_unix_ms: Option<u64>,
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
    let mut graph: Graph = client.get(&format!("/jobs/{}/artifacts/{ARTIFACT}", segment(&job.line.id))).await?;
    let parts = parts_of(&mut client, &job.line.id).await?;
    overrule(&mut graph, &job.line, &parts);
    if output.is_json() {
        output.print_json(&graph)?;
        return Ok(Exit::Done);
    }
    let stages = numbered(&graph);
    let text = if args.dot { dot(&stages) } else { lines(&stages, output) + "\n" };
    write_out(text.as_bytes())?;
    Ok(Exit::Done)
}

/// The newest part of a job for each stage, by the stage's uuid; a part is named `FUNCTION UUID/RUN`.
async fn parts_of(client: &mut Client, job: &str) -> Result<BTreeMap<String, JobLine>, CliError> {
    let mut parts = BTreeMap::new();
    let mut after = String::new();
    loop {
        let asked = [("parent", job), ("all", "true"), ("limit", PAGE), ("after", &after)];
        let asked = asked.map(|(name, value)| (name, value.to_owned()));
        let page: JobPage = client.get(&format!("/jobs{}", query(&asked))).await?;
        for part in page.jobs {
            let uuid = part.name.rsplit_once(' ').and_then(|(_, stage)| stage.split('/').next()).unwrap_or_default();
            parts.entry(uuid.to_owned()).or_insert(part);
        }
        if page.next.is_empty() {
            return Ok(parts);
        }
        after = page.next;
    }
}

/// The record is as old as its last storing, and a job that was stopped wrote no more: what the cluster knows of the
/// job and of its parts goes before it.
fn overrule(graph: &mut Graph, job: &JobLine, parts: &BTreeMap<String, JobLine>) {
    let stages = graph.runs.iter().flat_map(|run| &run.stages);
    let told = stages.filter(|stage| matches!(stage.state.as_str(), "completed" | "failed"));
    // The same stage may run once more.
    let told: BTreeSet<String> = told.filter_map(|stage| stage.job.clone()).collect();
    for stage in graph.runs.iter_mut().flat_map(|run| &mut run.stages) {
        let part = parts.get(&stage.uuid).filter(|part| !told.contains(&part.id));
        match (stage.state.as_str(), part) {
            ("completed" | "failed", _) => continue,
            // Its part had no place, and was taken back by the graph's job.
            ("running" | "stopped", _) if stage.job.is_none() => {}
            (_, None) => {}
            (_, Some(part)) => take_part(stage, part),
        }
        match (stage.state.as_str(), job.state) {
            ("completed" | "failed" | "stopped", _) => {}
            // What the node of a job ran is lost when the job waits for another one.
            ("running", StateWord::Queued) if stage.job.is_none() => stage.state = "waiting".to_owned(),
            ("running", state) if state.is_final() => {
                stage.state = "stopped".to_owned();
                stage.seconds = stage.seconds.or_else(|| seconds(stage.started_unix_ms, job.ended_unix_ms));
            }
            (_, state) if state.is_final() => stage.state = NOT_RUN.to_owned(),
            _ => {}
        }
    }
}

fn take_part(stage: &mut Stage, part: &JobLine) {
    stage.job = Some(part.id.clone());
    let state = match (part.state, part.started_unix_ms) {
        (StateWord::Queued, _) => "submitted",
        // Stopped before it had a place.
        (StateWord::Stopped, None) => "waiting",
        (state, _) => state.as_str(),
    };
    stage.state = state.to_owned();
    // Before that the node is a guess of the placement.
    if part.started_unix_ms.is_some() {
        stage.node = part.node.as_ref().map(|node| node.name.clone());
        stage.started_unix_ms = part.started_unix_ms;
        stage.seconds = seconds(part.started_unix_ms, part.ended_unix_ms);
    }
}

fn seconds(started: Option<u64>, ended: Option<u64>) -> Option<f64> {
    // Below 2^53 for the next 280,000 years.
    #[expect(clippy::cast_precision_loss, reason = "a length in milliseconds")]
    Some(ended?.saturating_sub(started?) as f64 / 1_000.0)
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
        // `waiting` and `not run` are no states of a job.
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
        let length = match (stage.seconds, stage.state.as_str()) {
            (Some(seconds), "completed" | "failed") => took(seconds),
            (Some(seconds), state) => format!("{state} after {}", took(seconds)),
            (None, state) => state.to_owned(),
        };
        label.push(format!("{length} {}", cache_word(stage)).trim_end().to_owned());
        let look = match (stage.hit, stage.state.as_str()) {
            (_, "failed") => ", color=red",
            (_, "stopped" | NOT_RUN) => ", style=\"rounded,dashed\"",
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
    use crate::http::words::node::NodeRef;

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
                    for at in 0..2 {
                        value["runs"][0]["stages"][at]["job"] = serde_json::Value::Null;
                        value["runs"][0]["stages"][at]["started_unix_ms"] = serde_json::Value::Null;
                    }
                    value
                })
                .expect("JSON"),
            "nothing of the record is lost"
        );
    }

    /// A graph of stages in these states, with their names for uuids.
    fn graph_of(states: &[(&str, &str)]) -> Graph {
        let stages = states.iter().map(|(name, state)| {
            serde_json::json!({"uuid": name, "name": name, "state": state, "needs": [], "node": null, "hit": null,
                "seconds": null, "job": null, "started_unix_ms": if *state == "running" { Some(500) } else { None }})
        });
        let stages: Vec<_> = stages.collect();
        serde_json::from_value(serde_json::json!({"runs": [{"stages": stages}]})).expect("as the package writes it")
    }

    fn line(state: StateWord, started: Option<u64>, ended: Option<u64>) -> JobLine {
        let node = NodeRef { id: "id".to_owned(), name: "two".to_owned() };
        JobLine { state, started_unix_ms: started, ended_unix_ms: ended, node: Some(node), ..JobLine::default() }
    }

    fn overruled(
        graph: &[(&str, &str)],
        job: &JobLine,
        parts: &[(&str, JobLine)],
    ) -> Vec<(String, String, Option<f64>)> {
        let mut graph = graph_of(graph);
        let parts = parts.iter().map(|(name, part)| ((*name).to_owned(), part.clone())).collect();
        overrule(&mut graph, job, &parts);
        let stages = graph.runs.remove(0).stages;
        stages.into_iter().map(|stage| (stage.state, stage.node.unwrap_or_default(), stage.seconds)).collect()
    }

    #[test]
    fn what_is_known_of_a_job_and_its_parts_goes_before_the_record() {
        use StateWord::{Completed, Failed, Preparing, Queued, Running, Stopped};
        let seen = |state: &str, node: &str, seconds| (state.to_owned(), node.to_owned(), seconds);
        let open = [("here", "running"), ("part", "submitted"), ("queued", "submitted"), ("later", "waiting")];
        let parts = [("part", line(Running, Some(1_000), None)), ("queued", line(Queued, None, None))];
        let now = overruled(&open, &line(Running, Some(0), None), &parts);
        let later = seen("waiting", "", None);
        let queued = seen("submitted", "", None);
        assert_eq!(now, [seen("running", "", None), seen("running", "two", None), queued.clone(), later.clone()]);
        let lost = overruled(&open, &line(Queued, Some(0), None), &parts);
        assert_eq!(lost, [later.clone(), seen("running", "two", None), queued, later]);
        let preparing = overruled(&open[1..2], &line(Running, Some(0), None), &[("part", line(Preparing, None, None))]);
        assert_eq!(preparing, [seen("preparing", "", None)]);
        let not_run = seen("not run", "", None);
        for end in [Stopped, Failed, Completed] {
            let stopped = [("part", line(Stopped, Some(1_000), Some(3_500))), ("queued", line(Stopped, None, Some(9)))];
            let told = overruled(&open, &line(end, Some(0), Some(2_500)), &stopped);
            let here = seen("stopped", "", Some(2.0));
            assert_eq!(told, [here, seen("stopped", "two", Some(2.5)), not_run.clone(), not_run.clone()], "{end:?}");
        }
        // Its own record says more of a stage that has ended, and a part that completed was not stopped.
        let ended = [("here", "completed"), ("part", "submitted"), ("fails", "failed")];
        let part = [("part", line(Completed, Some(0), Some(1_000))), ("fails", line(Running, Some(0), None))];
        let told = overruled(&ended, &line(Failed, Some(0), Some(9_000)), &part);
        assert_eq!(told, [seen("completed", "", None), seen("completed", "two", Some(1.0)), seen("failed", "", None)]);
    }

    #[test]
    fn what_was_stopped_is_drawn_with_dashes() {
        let mut graph = graph_of(&[("a", "running"), ("b", "waiting")]);
        overrule(&mut graph, &line(StateWord::Stopped, Some(0), Some(2_500)), &BTreeMap::new());
        let drawn = dot(&numbered(&graph));
        assert!(drawn.contains("s1 [label=\"a\\nstopped after 2.0s\", style=\"rounded,dashed\"];"), "{drawn}");
        assert!(drawn.contains("s2 [label=\"b\\nnot run\", style=\"rounded,dashed\"];"), "{drawn}");
    }
}
