//! Accepted is never lost: both nodes of a cluster are killed right after `submit` returned and one data directory
//! is gone for good. The other one's node, started again, sees the job through.

mod lab;

use lab::output::{list, node_name, text};
use lab::{LATE, Lab};

fn job_survives_the_loss_of(lost: usize) {
    let mut lab = Lab::start(2);
    // Too large to travel inside the log.
    let bundle = lab.bundle(&[("input.bin", &[7; 200_000])]);
    let command = ["--", "sh", "-c", "wc -c < input.bin; exit 9"];
    let answer = lab.json(0, &[&["submit", "--project", "lab", &bundle], &command[..]].concat());
    lab.kill9(0);
    lab.kill9(1);
    assert_eq!(list(&answer, "held_by").len(), 2, "{answer}");
    lab.kill_host(lost);
    lab.delete_home(lost);

    let kept = 1 - lost;
    lab.restart(kept);
    let job = text(&answer, "id");
    let word = lab.wait_ended(kept, job, LATE);
    assert_eq!((text(&word, "state"), &word["ending"]["exit_code"]), ("failed", &9.into()), "{word}");
    // What an attempt on the lost node wrote may be lost with it; what ran here is whole.
    let counts = list(&word, "attempts").iter().find(|attempt| attempt["counts"] == true).expect("one counts");
    if node_name(counts, "node") == lab.name(kept) {
        assert_eq!(lab.logs(kept, job).trim(), "200000");
    }
}

#[test]
fn a_job_survives_the_loss_of_the_node_that_accepted_it() {
    job_survives_the_loss_of(0);
}

#[test]
fn a_job_survives_the_loss_of_the_node_that_held_it() {
    job_survives_the_loss_of(1);
}
