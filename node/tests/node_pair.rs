//! Two whole nodes in one process, over loopback, with real runners: submitted on one, run on the other,
//! read on both.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop with a line number")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use node::node::{Config, Home, NodeHandle, Running, start};
use proto::event::Event;
use proto::{GroupSpec, JobId, JobState, ProjectNote};

/// Everything here happens within this, or the test fails with what was seen last.
const DEADLINE: Duration = Duration::from_secs(30);

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn config(&self, name: &str) -> Config {
        let home = Home::new(&self.dir.path().join(name));
        Config {
            cpu_milli_max: Some(2_000),
            ..Config::on_loopback(home, name, PathBuf::from(env!("CARGO_BIN_EXE_fnode")))
        }
    }
}

fn shell(script: &str) -> GroupSpec {
    GroupSpec::new("tester", "pair", vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()])
}

/// Waits until `node` can talk to `other` and knows what it offers.
async fn sees(node: &NodeHandle, other: &NodeHandle) {
    let wait = async {
        loop {
            let view = node.view().await.unwrap();
            if view.nodes.get(&other.me()).is_some_and(|seen| seen.connected && seen.advert.is_some()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the nodes see each other");
}

/// Waits until `node` shows the whole job, or group, as ended.
async fn ended(node: &NodeHandle, job: JobId) -> JobState {
    let wait = async {
        loop {
            if let Some(outcome) = node.job(job).unwrap().and_then(|record| record.outcome) {
                return outcome.ending.state();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(state) => state,
        Err(_) => panic!("{job} did not end: {:?} {:?}", node.job(job), node.explain(job).await),
    }
}

/// Waits until `node` has these notes, by text, on the project.
async fn noted(node: &NodeHandle, texts: &[&str]) {
    let wait = async {
        loop {
            let projects = node.projects().unwrap();
            let notes = projects.iter().flat_map(|project| project.record.notes.values());
            let mut seen: Vec<&str> = notes.map(|note| note.text.as_str()).collect();
            seen.sort_unstable();
            if seen == texts {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the notes of both nodes are on both");
}

async fn log(node: &NodeHandle, job: JobId) -> String {
    let read = async {
        let mut text = Vec::new();
        loop {
            let chunk = node.log_chunk(job, None, text.len() as u64, 1 << 16, Duration::from_secs(1)).await.unwrap();
            text.extend(chunk.bytes);
            if chunk.eof {
                return String::from_utf8(text).unwrap();
            }
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("the log ends")
}

async fn stop(running: Running) {
    running.handle.shutdown(true).await.unwrap();
    running.ended.await.unwrap();
}

#[tokio::test]
async fn a_job_submitted_on_one_node_runs_on_another_and_is_read_on_both() {
    let lab = Lab { dir: tempfile::tempdir().unwrap() };
    let a = start(lab.config("a")).await.unwrap();
    let ticket = a.handle.invite(Duration::from_secs(60)).await.unwrap();
    let b = start(Config { join: Some(ticket), ..lab.config("b") }).await.unwrap();
    assert_eq!(a.handle.cluster(), b.handle.cluster());
    sees(&a.handle, &b.handle).await;

    let mut spec = shell("echo on $FNODE_NODE; echo made > result.txt; exit 3");
    spec.requirement.nodes = BTreeSet::from(["b".to_owned()]);
    let accepted = a.handle.submit(None, spec).await.unwrap();
    let job = JobId::only(accepted.group);
    assert_eq!(accepted.held_by, [a.handle.me(), b.handle.me()]);
    for node in [&a.handle, &b.handle] {
        assert_eq!(ended(node, job).await, JobState::Failed);
        assert_eq!(log(node, job).await, "on b\n");
    }
    let record = a.handle.job(job).unwrap().unwrap();
    let outputs = record.attempts.values().next().unwrap().finished.clone().unwrap().outputs.unwrap();
    let manifest = a.handle.fetch_bundle(outputs.manifest).await.unwrap();
    assert_eq!(manifest.files[0].path, "result.txt");
    for (node, text) in [(&b.handle, "from b"), (&a.handle, "from a")] {
        let note = Box::new(ProjectNote { user: "tester".to_owned(), text: text.to_owned() });
        node.write(Event::ProjectNoted { project: "pair".to_owned(), note }).await.unwrap();
    }
    for node in [&a.handle, &b.handle] {
        noted(node, &["from a", "from b"]).await;
    }
    stop(b).await;
    stop(a).await;
}
