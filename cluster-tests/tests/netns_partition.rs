//! Four nodes in network namespaces, two on each of two switches: the cable between the switches is pulled, both
//! sides go on alone, and once it is plugged again all tell the same.

mod lab;

use lab::network::Network;
use lab::output::{list, text};
use lab::{LATE, Lab, SOON, wait_for};
use serde_json::Value;

/// What must be the same on every node: of each job its state, its ending, and which attempt counts.
fn outcomes(lab: &Lab, node: usize, jobs: &[String]) -> Vec<Value> {
    jobs.iter()
        .map(|job| {
            let word = lab.job(node, job);
            let counting: Vec<&Value> =
                list(&word, "attempts").iter().filter(|attempt| attempt["counts"] == true).collect();
            serde_json::json!({"job": job, "state": word["state"], "ending": word["ending"], "counting": counting})
        })
        .collect()
}

#[test]
fn both_sides_of_a_partition_work_and_agree_once_it_heals() {
    let Some(network) = Network::or_skip(2) else { return };
    let lab = Lab::start_on(network, 4);
    // Runs on through the partition, on whichever side.
    let go = lab.path("go");
    let script = format!("until [ -e {} ]; do sleep 0.1; done; exit 8", go.display());
    let long = lab.submit_id(0, &["--cpus", "0.5"], &script);
    lab.wait_state(3, &long, SOON, &["running"]);

    lab.network().part();
    lab.wait_until_missed(0, 2);
    lab.wait_until_missed(0, 3);
    lab.wait_until_missed(3, 0);
    lab.wait_until_missed(3, 1);
    let mut jobs = vec![long.clone()];
    for (node, code) in [(0, 0), (1, 1), (2, 2), (3, 3)] {
        let answer = lab.submit(node, &[], &format!("echo from {node}; exit {code}"));
        assert_eq!(list(&answer, "held_by").len(), 2, "each side has two nodes: {answer}");
        jobs.push(text(&answer, "id").to_owned());
    }
    for (node, job) in [(1, &jobs[1]), (0, &jobs[2]), (3, &jobs[3]), (2, &jobs[4])] {
        lab.wait_ended(node, job, SOON);
    }
    assert_eq!(lab.fnode(0, &["job", "show", &jobs[4]]).code, 1, "the other side's job is not known yet");
    lab.touch("go");

    lab.network().heal();
    lab.wait_for_members(&[0, 1, 2, 3]);
    for node in 0..4 {
        for (at, job) in jobs.iter().enumerate().skip(1) {
            let word = lab.wait_ended(node, job, SOON);
            assert_eq!(word["ending"]["exit_code"], at - 1, "{word}");
            assert_eq!(lab.logs(node, job), format!("from {}\n", at - 1));
        }
        assert_eq!(lab.wait_ended(node, &long, LATE)["ending"]["exit_code"], 8);
    }
    wait_for("all four tell the same", SOON, || {
        let told: Vec<_> = (0..4).map(|node| outcomes(&lab, node, &jobs)).collect();
        told.iter().all(|one| *one == told[0]).then_some(())
    });
    let again = outcomes(&lab, 2, &jobs);
    for outcome in again {
        assert_eq!(list(&outcome, "counting").len(), 1, "one outcome: {outcome}");
    }
}
