//! Machines die: of the node that accepted jobs, and of the node that runs one. No job is lost, none has two
//! outcomes, and what happened can be read.

mod lab;

use lab::output::{list, node_name, text};
use lab::{LATE, Lab, Launch, SOON};
use serde_json::Value;

/// The attempts of a job whose ending is the job's.
fn counting(word: &Value) -> Vec<&Value> {
    list(word, "attempts").iter().filter(|attempt| attempt["counts"] == true).collect()
}

#[test]
fn queued_jobs_survive_the_death_of_the_node_that_accepted_them() {
    let mut lab = Lab::start(3);
    // All six processors are taken until the file is there, so what n0 accepts next stays in its queue.
    let go = lab.path("go");
    let blockers = lab.submit_id(1, &["--array", "1-6"], &format!("until [ -e {} ]; do sleep 0.1; done", go.display()));
    lab.wait_state(0, &blockers, SOON, &["running"]);
    lab::wait_for("six jobs run", SOON, || (lab.job(0, &blockers)["array"]["running"] == 6).then_some(()));
    let ran = lab.path("ran");
    std::fs::create_dir(&ran).unwrap();
    let script =
        format!("echo $FNODE_NODE $FNODE_ATTEMPT >> {}/$FNODE_ARRAY_INDEX; exit $FNODE_ARRAY_INDEX", ran.display());
    let answer = lab.submit(0, &["--array", "1-12"], &script);
    lab.kill_host(0);
    assert_eq!(list(&answer, "held_by").len(), 2, "{answer}");
    lab.touch("go");

    let array = text(&answer, "id");
    for reader in [1, 2] {
        lab.wait_ended(reader, array, SOON);
        let members = lab.members(reader, array);
        assert_eq!(members.len(), 12);
        for (at, member) in members.iter().enumerate() {
            assert_eq!(member["ending"]["exit_code"], at + 1, "{member}");
            let word = lab.job(reader, text(member, "id"));
            assert_eq!(counting(&word).len(), 1, "{word}");
        }
    }
    assert_eq!(std::fs::read_dir(&ran).unwrap().count(), 12, "each ran");
    // Those of the other submission that ran on n0 died with it, and run again.
    lab.wait_ended(1, &blockers, LATE);
    let states: Vec<Value> = lab.members(2, &blockers).into_iter().map(|line| line["state"].clone()).collect();
    assert_eq!(states, vec!["completed"; 6]);
}

/// One job runs somewhere else than on n0, which accepted it; the first attempt would never end.
fn start_on_another(lab: &Lab) -> (String, usize) {
    lab.fnode(0, &["pause"]).ok();
    let job = lab.submit_id(0, &[], "test $FNODE_ATTEMPT -gt 1 || sleep 600; echo attempt $FNODE_ATTEMPT; exit 5");
    let word = lab.wait_state(0, &job, SOON, &["running"]);
    let runs_on = lab.index(node_name(&word, "node"));
    assert_ne!(runs_on, 0, "n0 is paused: {word}");
    (job, runs_on)
}

fn check_second_attempt(lab: &Lab, job: &str, lost_on: usize) {
    let reader = (1..3).find(|&node| node != lost_on).expect("three nodes");
    let word = lab.wait_ended(reader, job, LATE);
    assert_eq!(word["ending"]["exit_code"], 5, "{word}");
    let attempts = list(&word, "attempts");
    assert_eq!(attempts.len(), 2, "{word}");
    assert_eq!(node_name(&attempts[0], "node"), lab.name(lost_on), "{word}");
    assert_eq!(text(&attempts[0]["ending"], "reason"), "node_down", "{word}");
    assert_ne!(node_name(&attempts[1], "node"), lab.name(lost_on), "{word}");
    assert_eq!((&attempts[0]["counts"], &attempts[1]["counts"]), (&false.into(), &true.into()), "{word}");
    assert_eq!(lab.logs(reader, job), "attempt 2\n");
    let shown = lab.fnode(reader, &["job", "show", job]).ok().stdout;
    assert!(shown.contains("its node went down"), "people are told, too: {shown}");
}

#[test]
fn a_job_of_a_machine_that_falls_silent_runs_again_elsewhere() {
    let lab = Lab::start(3);
    let (job, runs_on) = start_on_another(&lab);
    lab.silence_host(runs_on);
    check_second_attempt(&lab, &job, runs_on);
}

#[test]
fn a_job_of_a_machine_that_refuses_connections_runs_again_after_the_grace() {
    let mut lab = Lab::start(3);
    let (job, runs_on) = start_on_another(&lab);
    lab.kill_host(runs_on);
    check_second_attempt(&lab, &job, runs_on);
}

#[test]
fn a_machine_that_comes_back_without_its_jobs_says_so_at_once() {
    let mut lab = Lab::start_with(2, &Launch::default());
    lab.fnode(0, &["pause"]).ok();
    let job = lab.submit_id(0, &[], "test $FNODE_ATTEMPT -gt 1 || sleep 600; exit 3");
    lab.wait_state(0, &job, SOON, &["running"]);
    lab.kill_host(1);
    lab.restart(1);
    // Well below the grace that an unreachable daemon is given.
    let word = lab.wait_ended(0, &job, SOON);
    assert_eq!(word["ending"]["exit_code"], 3, "{word}");
    assert_eq!(list(&word, "attempts").len(), 2, "{word}");
}
