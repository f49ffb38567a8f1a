//! Nodes leave and come back: by themselves, to the same cluster, with everything that happened meanwhile. What a
//! node that is gone for good has run can still be read.

mod lab;

use lab::output::{node_name, text};
use lab::{LATE, Lab, READY_MAX, SOON, wait_for};

#[test]
fn a_node_that_was_away_finds_its_cluster_and_what_it_missed() {
    let mut lab = Lab::start(3);
    let before = lab.submit_id(2, &[], "echo before");
    lab.wait_ended(2, &before, SOON);
    lab.shutdown(2);
    let missed: Vec<String> = (0..4).map(|at| lab.submit_id(at % 2, &[], &format!("echo missed {at}"))).collect();
    for job in &missed {
        lab.wait_ended(0, job, SOON);
    }
    lab.restart(2);
    lab.wait_for_members(&[0, 1, 2]);
    for (at, job) in missed.iter().enumerate() {
        assert_eq!(text(&lab.wait_ended(2, job, SOON), "state"), "completed");
        assert_eq!(lab.logs(2, job), format!("missed {at}\n"));
    }
    assert_eq!(lab.logs(2, &before), "before\n");
    let after = lab.submit_id(0, &["--node", "n2"], "echo after");
    assert_eq!(text(&lab.wait_ended(1, &after, SOON), "state"), "completed");
}

#[test]
fn a_cluster_finds_itself_again_after_all_its_machines_lost_power() {
    let mut lab = Lab::start(3);
    let done = lab.submit_id(0, &[], "echo done");
    lab.wait_ended(1, &done, SOON);
    let interrupted = lab.submit_id(1, &[], "test $FNODE_ATTEMPT -gt 1 || sleep 600; echo again");
    lab.wait_state(0, &interrupted, SOON, &["running"]);
    for node in 0..3 {
        lab.kill_host(node);
    }
    for node in 0..3 {
        lab.restart(node);
    }
    lab.wait_for_members(&[0, 1, 2]);
    for node in 0..3 {
        assert_eq!(text(&lab.wait_ended(node, &interrupted, LATE), "state"), "completed");
        assert_eq!(lab.logs(node, &interrupted), "again\n");
        assert_eq!(lab.logs(node, &done), "done\n");
    }
}

/// Lengths of the complete blobs on the disk of `node`.
fn blob_lengths(lab: &Lab, node: usize) -> Vec<usize> {
    let shelves = std::fs::read_dir(lab.home(node).join("blobs/blobs")).into_iter().flatten().flatten();
    let blobs = shelves.flat_map(|shelf| std::fs::read_dir(shelf.path()).into_iter().flatten().flatten());
    blobs.filter_map(|blob| usize::try_from(blob.metadata().ok()?.len()).ok()).collect()
}

#[test]
fn logs_and_outputs_outlive_the_node_that_ran_the_job() {
    let mut lab = Lab::start(3);
    let bundle = lab.bundle(&[("readme", b"here")]);
    let script = "seq 1 40000; seq 1 50000 > made.txt";
    let answer = lab.json(0, &["submit", "--project", "lab", "--node", "n1", &bundle, "--", "sh", "-c", script]);
    let job = text(&answer, "id");
    let short = lab.submit_id(0, &["--node", "n1"], "echo short");
    let word = lab.wait_ended(2, job, SOON);
    assert_eq!((text(&word, "state"), node_name(&word, "node")), ("completed", "n1"), "{word}");
    lab.wait_ended(2, &short, SOON);
    let lines = |last: u32| (1..=last).map(|line| format!("{line}\n")).collect::<String>();
    // A small log is in the record; what is larger is looked for by its length.
    let lengths = [lines(40_000).len(), lines(50_000).len()];
    wait_for("a second node has logs and output", SOON, || {
        let held = [0, 2].map(|node| blob_lengths(&lab, node)).concat();
        lengths.iter().all(|length| held.contains(length)).then_some(())
    });
    lab.kill_host(1);
    lab.delete_home(1);
    for reader in [0, 2] {
        assert_eq!(lab.logs(reader, &short), "short\n");
        assert!(lab.logs(reader, job) == lines(40_000), "n{reader} has the whole log");
        let to = lab.path(&format!("fetched{reader}"));
        lab.fnode(reader, &["job", "get", job, "--to", to.to_str().unwrap()]).ok();
        assert!(std::fs::read_to_string(to.join("made.txt")).unwrap() == lines(50_000), "n{reader} has the output");
    }
}

#[test]
fn a_restarted_node_is_ready_for_jobs_again() {
    let mut lab = Lab::start(1);
    for round in 0..3 {
        lab.kill_host(0);
        lab.restart(0);
        let job = lab.submit_id(0, &[], &format!("exit {round}"));
        assert_eq!(lab.wait_ended(0, &job, SOON)["ending"]["exit_code"], round);
    }
    let jobs = wait_for("all jobs are listed", READY_MAX, || {
        let page = lab.json(0, &["jobs"]);
        let count = page["jobs"].as_array()?.len();
        (count == 3).then_some(count)
    });
    assert_eq!(jobs, 3);
}
