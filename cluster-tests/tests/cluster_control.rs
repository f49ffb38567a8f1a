//! What users and owners steer: which nodes take work, which job waits for which, what is stopped, what stays secret.

mod lab;

use std::path::Path;
use std::time::Duration;

use lab::output::{list, node_name, text};
use lab::{Lab, SOON, wait_for};

/// Where the jobs of an array ran.
fn places(lab: &Lab, array: &str) -> Vec<String> {
    lab.wait_ended(0, array, SOON);
    let mut names: Vec<String> =
        lab.members(0, array).iter().map(|member| node_name(member, "node").to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn a_drained_node_and_a_paused_one_finish_what_they_have_and_take_no_more() {
    let lab = Lab::start(2);
    let running =
        lab.submit_id(0, &["--node", "n1"], &format!("until [ -e {} ]; do sleep 0.1; done", lab.path("go").display()));
    lab.wait_state(0, &running, SOON, &["running"]);
    lab.fnode(0, &["node", "drain", "n1"]).ok();
    wait_for("both see the drain", SOON, || (0..2).all(|node| lab.alive(node) == ["n0"]).then_some(()));
    let array = lab.submit_id(1, &["--array", "1-6"], "true");
    assert_eq!(places(&lab, &array), ["n0"]);
    lab.touch("go");
    assert_eq!(text(&lab.wait_ended(0, &running, SOON), "state"), "completed");
    let waiting = lab.submit_id(0, &["--node", "n1"], "true");
    let why = lab.json(0, &["job", "explain", &waiting]);
    assert_eq!(text(&why, "state"), "queued", "{why}");
    assert!(why.to_string().contains("drain"), "{why}");
    lab.fnode(0, &["node", "undrain", "n1"]).ok();
    assert_eq!(node_name(&lab.wait_ended(1, &waiting, SOON), "node"), "n1");

    lab.fnode(1, &["pause"]).ok();
    wait_for("n0 sees the pause", SOON, || (lab.alive(0) == ["n0"]).then_some(()));
    let array = lab.submit_id(1, &["--array", "1-6"], "true");
    assert_eq!(places(&lab, &array), ["n0"]);
    let waiting = lab.submit_id(0, &["--node", "n1"], "true");
    lab.fnode(1, &["resume"]).ok();
    assert_eq!(node_name(&lab.wait_ended(0, &waiting, SOON), "node"), "n1");
}

#[test]
fn labels_and_amounts_decide_where_a_job_may_run_and_are_explained() {
    let lab = Lab::start(3);
    lab.fnode(0, &["node", "label", "n2", "rack=b", "fast=yes"]).ok();
    for node in 0..3 {
        wait_for("the label is seen", SOON, || {
            (lab.json(node, &["node", "show", "n2"])["labels"]["rack"] == "b").then_some(())
        });
    }
    let array = lab.submit_id(1, &["--array", "1-4", "--label", "rack=b"], "true");
    assert_eq!(places(&lab, &array), ["n2"]);
    let never = lab.submit(0, &["--label", "rack=c"], "true");
    assert_ne!(text(&never, "warning"), "", "{never}");
    let why = lab.json(2, &["job", "explain", text(&never, "id")]);
    assert_eq!(why["fits_somewhere"], false, "{why}");
    assert_eq!(list(&why, "nodes").len(), 3, "{why}");
    let large = lab.submit(0, &["--cpus", "64"], "true");
    assert_ne!(text(&large, "warning"), "", "{large}");
    // As soon as a node has what was missing, the job that waited runs.
    lab.fnode(1, &["node", "label", "n1", "rack=c"]).ok();
    assert_eq!(node_name(&lab.wait_ended(0, text(&never, "id"), SOON), "node"), "n1");
    lab.fnode(1, &["node", "label", "n2", "--remove", "fast"]).ok();
    wait_for("the label is gone", SOON, || {
        lab.json(0, &["node", "show", "n2"])["labels"].get("fast").is_none().then_some(())
    });
}

#[test]
fn a_job_waits_for_others_as_its_triggers_say() {
    let lab = Lab::start(2);
    let go = lab.path("go");
    let first = lab.submit_id(0, &["--cpus", "0.1"], &format!("until [ -e {} ]; do sleep 0.05; done", go.display()));
    let fails = lab.submit_id(0, &["--cpus", "0.1", "--after", &first], "exit 3");
    let script = format!("test -e {}", go.display());
    let then = lab.submit_id(1, &["--after", &first], &script);
    let never = lab.submit_id(0, &["--after", &fails], "true");
    let cleans_up = lab.submit_id(1, &["--after", &format!("{fails}:all_failed")], "true");
    let last = lab.submit_id(0, &["--after", &format!("{never}:all_done"), "--after", &then], "true");
    let why = lab.json(1, &["job", "explain", &then]);
    assert_eq!(list(&why, "waits_for"), std::slice::from_ref(&first), "{why}");
    lab.touch("go");
    for node in 0..2 {
        assert_eq!(text(&lab.wait_ended(node, &last, SOON), "state"), "completed");
        assert_eq!(text(&lab.wait_ended(node, &then, SOON), "state"), "completed");
        assert_eq!(text(&lab.wait_ended(node, &cleans_up, SOON), "state"), "completed");
        let word = lab.wait_ended(node, &never, SOON);
        assert_eq!(text(&word["ending"], "reason"), "dependency", "{word}");
    }
    let unknown = ["submit", "--no-bundle", "--project", "lab", "--after", "0193aaaaaaaa", "--", "true"];
    lab.fnode(0, &unknown).refused(&["0193aaaaaaaa"]);
}

#[test]
fn a_running_and_a_queued_job_are_stopped_from_another_node() {
    let lab = Lab::start(2);
    let script = "echo $$ > pid; trap '' TERM; sleep 600 & wait; sleep 600";
    let pid = lab.path("pid");
    let running = lab.submit_id(
        0,
        &["--node", "n0", "--cpus", "2"],
        &format!("cd {}; {script}", pid.parent().unwrap().display()),
    );
    lab.wait_state(1, &running, SOON, &["running"]);
    let queued = lab.submit_id(0, &["--node", "n0", "--cpus", "2"], "true");
    lab.fnode(1, &["stop", &queued]).ok();
    let word = lab.wait_ended(1, &queued, SOON);
    assert_eq!((text(&word, "state"), list(&word, "attempts").len()), ("stopped", 0), "{word}");
    let number = wait_for("the job told its number", SOON, || std::fs::read_to_string(&pid).ok()?.trim().parse().ok());
    lab.fnode(1, &["job", "stop", &running]).ok();
    let word = lab.wait_ended(0, &running, Duration::from_secs(60));
    assert_eq!((text(&word, "state"), text(&word["ending"], "reason")), ("stopped", "stopped"), "{word}");
    assert!(!lab::processes::is_alive(number), "it ignored SIGTERM and is gone all the same");
    let array = lab.submit_id(1, &["--array", "1-8"], "sleep 600");
    lab.wait_state(0, &array, SOON, &["running"]);
    lab.fnode(0, &["stop", &array]).ok();
    lab.wait_ended(1, &array, Duration::from_secs(60));
    assert!(lab.members(1, &array).iter().all(|member| text(member, "state") == "stopped"));
    assert_eq!(lab.json(0, &["status"])["running"], 0);
}

/// Files below `dir` that hold `needle`.
fn files_with(dir: &Path, needle: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        match std::fs::read_dir(&path) {
            Ok(entries) => waiting.extend(entries.flatten().map(|entry| entry.path())),
            Err(_) => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                if bytes.windows(needle.len()).any(|window| window == needle) {
                    found.push(path);
                }
            }
        }
    }
    found
}

#[test]
fn a_secret_of_the_submitting_node_reaches_the_job_on_another_and_nothing_else() {
    let lab = Lab::start(3);
    let value = "kR7-quite-secret-0451";
    lab.fnode_fed(0, &["secret", "set", "LAB_TOKEN"], value.as_bytes()).ok();
    assert_eq!(lab.json(0, &["secret", "list"])["names"], serde_json::json!(["LAB_TOKEN"]));
    let script =
        "printf %s \"$LAB_TOKEN\" | wc -c; test \"$LAB_TOKEN\" = \"$(printf %s-%s-%s-%s kR7 quite secret 0451)\"";
    let job = lab.submit_id(0, &["--node", "n1", "--secret", "LAB_TOKEN"], script);
    let word = lab.wait_ended(2, &job, SOON);
    assert_eq!(text(&word, "state"), "completed", "{word}");
    assert_eq!(lab.logs(2, &job).trim(), value.len().to_string());
    // A node that does not have it takes no job that names it, for itself or for others.
    let refused = lab.fnode(1, &["submit", "--no-bundle", "--secret", "LAB_TOKEN", "--", "true"]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    let line = "fnode: n1 has no secret \"LAB_TOKEN\"; give it one first: fnode secret set LAB_TOKEN\n";
    assert_eq!(refused.stderr, line);
    let kept = files_with(lab.path("").as_path(), value.as_bytes());
    assert_eq!(kept, [lab.home(0).join("secrets/LAB_TOKEN")], "no other disk, no log and no answer holds it");
}
