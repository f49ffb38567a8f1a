//! A node in a network namespace whose cable is pulled: to the others it is a machine that has gone silent for good.
//! What it ran runs elsewhere; it goes on by itself, and what it did meanwhile is told when it is back.

mod lab;

use std::time::{Duration, Instant};

use lab::network::Network;
use lab::output::{list, node_name, text};
use lab::{LATE, Lab, SOON};

/// A silent machine is declared dead within this in 99 of 100 cases (DESIGN §6); twice as long on a busy machine.
const DECLARED_DEAD_MAX: Duration = Duration::from_secs(12);

#[test]
fn jobs_of_a_node_that_is_cut_off_run_elsewhere_and_it_goes_on_alone() {
    let Some(network) = Network::or_skip(4) else { return };
    let lab = Lab::start_on(network, 4);
    lab.fnode(0, &["pause"]).ok();
    let script = "test $FNODE_ATTEMPT -gt 1 || sleep 600; echo attempt $FNODE_ATTEMPT";
    let job = lab.submit_id(0, &[], script);
    let word = lab.wait_state(0, &job, SOON, &["running"]);
    let lost = lab.index(node_name(&word, "node"));
    assert_ne!(lost, 0, "n0 is paused");
    let queued = lab.submit_id(lost, &["--array", "1-30"], "exit 0");

    let cut = Instant::now();
    lab.network().cut_off(lost);
    lab.wait_until_missed(0, lost);
    assert!(cut.elapsed() < DECLARED_DEAD_MAX, "it took {:?} to miss a silent machine", cut.elapsed());
    for reader in (0..4).filter(|&node| node != lost) {
        let word = lab.wait_ended(reader, &job, LATE);
        assert_eq!(text(&word, "state"), "completed", "{word}");
        let attempts = list(&word, "attempts");
        assert_eq!(attempts.len(), 2, "{word}");
        assert_eq!(text(&attempts[0]["ending"], "reason"), "node_down", "{word}");
        assert_eq!(lab.logs(reader, &job), "attempt 2\n");
        lab.wait_ended(reader, &queued, SOON);
    }
    // It is still a node: it accepts and runs, and says that nobody else holds the job.
    let alone = lab.submit(lost, &["--cpus", "0.5"], "exit 5");
    assert_eq!(list(&alone, "held_by").len(), 1, "{alone}");
    let alone = text(&alone, "id");
    assert_eq!(lab.wait_ended(lost, alone, SOON)["ending"]["exit_code"], 5);

    lab.network().reconnect(lost);
    let back = lab.wait_ended(0, alone, SOON);
    assert_eq!(back["ending"]["exit_code"], 5, "{back}");
    let word = lab.wait_ended(lost, &job, SOON);
    assert_eq!(text(&word, "state"), "completed", "{word}");
    // The attempt that was believed lost is stopped, not left to run for ten minutes.
    lab::wait_for("no attempt runs", SOON, || (lab.json(lost, &["status"])["running"] == 0).then_some(()));
    for member in lab.members(lost, &queued) {
        assert_eq!(text(&member, "state"), "completed", "{member}");
    }
}
