//! What a job leaves outlives the node that ran it.

mod lab;

use lab::output::text;
use lab::{Lab, SOON, wait_for};
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
    wait_for("the log is back", SOON, || {
        let told = lab.fnode(reader, &["logs", &job]);
        (told.code == 0).then(|| assert_eq!(told.stdout.len(), 4_000 * 17))
    });
}

#[test]
fn an_end_is_final_once_two_nodes_have_it() {
    let mut lab = Lab::start(2);
    let ended = lab.json(0, &["submit", "--no-bundle", "--project", "lab", "--node", "n0", "--wait", "--", "true"]);
    assert_eq!((text(&ended, "state"), &ended["provisional"]), ("completed", &false.into()), "{ended}");

    // Nobody else is there to have it: it is told at once, as what it is.
    lab.silence_host(1);
    lab.wait_until_missed(0, 1);
    let job = lab.submit_id(0, &["--node", "n0"], "true");
    let told = lab.fnode(0, &["job", "wait", &job]).ok();
    assert!(told.stdout.contains("completed (on this node alone)"), "{told:?}");
    assert_eq!(lab.job(0, &job)["provisional"], true);
    let listed = lab.fnode(0, &["jobs"]).ok().stdout;
    assert_eq!(listed.matches("(on this node alone)").count(), 1, "the first one is final: {listed}");
    assert!(lab.fnode(0, &["job", "show", &job]).ok().stdout.contains("(on this node alone)"));

    lab.kill_host(1);
    lab.restart(1);
    let is_final = |reader: usize| (lab.job(reader, &job)["provisional"] == false).then_some(());
    lab.wait_ended(1, &job, SOON);
    wait_for("n0 hears that n1 has it", SOON, || is_final(0));
    is_final(1).expect("n1 has it from n0");

    // It stays final in the next life of the node that wrote it.
    lab.kill9(0);
    lab.restart(0);
    wait_for("n0 hears it again", SOON, || (lab.job(0, &job)["provisional"] == false).then_some(()));
}

#[test]
fn the_only_node_of_a_cluster_waits_for_nobody() {
    let lab = Lab::start(1);
    let began = std::time::Instant::now();
    let words = ["submit", "--no-bundle", "--project", "lab", "--follow", "--", "echo", "hello"];
    let told = lab.fnode(0, &words).ok();
    assert_eq!(told.stdout, "hello\n");
    assert!(told.stderr.contains("completed (on this node alone)"), "{told:?}");
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "it waited {:?}", began.elapsed());
}
