//! What a job leaves outlives the node that ran it.

mod lab;

use lab::{Lab, SOON};
use proto::GroupId;
use proto::record::rank;

/// The other node than `worker` that keeps copies of what the job left: the one that ranks first.
fn keeper(lab: &Lab, job: &str, worker: usize, nodes: usize) -> usize {
    let group: GroupId = job.parse().expect("a job's id");
    let id = |node: usize| lab.json(node, &["status"])["node"]["id"].as_str().expect("an id").parse().expect("an id");
    (0..nodes).filter(|&node| node != worker).max_by_key(|&node| rank(group, id(node))).expect("others")
}

#[test]
fn a_small_log_is_on_every_node_that_knows_of_the_end() {
    let mut lab = Lab::start(3);
    let job = lab.submit_id(0, &["--node", "n1"], "for i in 1 2 3; do echo line $i; done; exit 4");
    for reader in [0, 2] {
        lab.wait_ended(reader, &job, SOON);
    }
    lab.kill_host(1);
    for reader in [0, 2] {
        assert_eq!(lab.logs(reader, &job), "line 1\nline 2\nline 3\n");
        assert_eq!(lab.fnode(reader, &["logs", "--tail", "1", &job]).ok().stdout, "line 3\n");
    }
}

#[test]
fn a_log_that_cannot_be_reached_is_said_to_be_on_its_node() {
    let mut lab = Lab::start(3);
    // Too large to travel inside the log of the cluster.
    let job = lab.submit_id(0, &["--node", "n1"], "yes 0123456789abcdef | head -n 4000");
    let keeper = keeper(&lab, &job, 1, 3);
    let reader = 2 - keeper;
    lab.wait_ended(reader, &job, SOON);
    lab.kill_host(1);
    lab.kill_host(keeper);
    lab.wait_until_missed(reader, 1);
    let told = lab.fnode(reader, &["logs", &job]);
    told.refused(&["is on node n1, which cannot be reached", "fnode status"]);
    lab.restart(1);
    lab::wait_for("the log is back", SOON, || {
        let told = lab.fnode(reader, &["logs", &job]);
        (told.code == 0).then(|| assert_eq!(told.stdout.len(), 4_000 * 17))
    });
}
