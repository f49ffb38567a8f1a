//! What a job leaves outlives the node that ran it.

mod lab;

use lab::output::{list, node_name, text};
use lab::{LATE, Lab, SOON, wait_for};
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

/// A job on `node` that leaves outputs and a log too large for the journal.
fn leave_something(lab: &Lab, from: usize, node: &str) -> String {
    let script = "yes 0123456789abcdef | head -n 4000; head -c 300000 /dev/zero > model; echo $FNODE_JOB_ID > who";
    lab.submit_id(from, &["--node", node], script)
}

/// Names of the nodes that have what a job left, once there are as many.
#[track_caller]
fn wait_for_holders(lab: &Lab, reader: usize, job: &str, wanted: &[&str]) {
    wait_for(&format!("{wanted:?} have what {job} left"), SOON, || {
        let word = lab.job(reader, job);
        let mut names: Vec<&str> = list(&word, "held_by").iter().filter_map(|name| name.as_str()).collect();
        names.sort_unstable();
        (names == wanted).then_some(())
    });
}

#[test]
fn a_keeper_that_dies_is_replaced_and_so_is_the_worker() {
    let mut lab = Lab::start(4);
    let job = leave_something(&lab, 0, "n1");
    lab.wait_ended(0, &job, SOON);
    let first = keeper(&lab, &job, 1, 4);
    let mut both = [lab.name(1).to_owned(), lab.name(first).to_owned()];
    both.sort_unstable();
    let reader = (0..4).find(|&node| node != 1 && node != first).expect("four nodes");
    wait_for_holders(&lab, reader, &job, &both.each_ref().map(String::as_str));

    // Nobody reads from the worker any more: the next keeper has it from the first.
    lab.kill_host(1);
    let rest: Vec<usize> = (0..4).filter(|&node| node != 1 && node != first).collect();
    wait_for("the worker is replaced", SOON, || {
        let holders = list(&lab.job(reader, &job), "held_by").len();
        (holders == 2).then_some(())
    });
    lab.kill_host(first);
    let last = rest[0];
    wait_for("the log can be read without those two", SOON, || {
        let told = lab.fnode(last, &["logs", &job]);
        (told.code == 0).then(|| assert_eq!(told.stdout.len(), 4_000 * 17))
    });
    let to = lab.path("results");
    lab.fnode(last, &["job", "get", &job, "--to", to.to_str().expect("UTF-8")]).ok();
    assert_eq!(std::fs::read_to_string(to.join("who")).expect("kept").trim(), job);
    assert_eq!(std::fs::read(to.join("model")).expect("kept").len(), 300_000);
}

#[test]
fn a_log_that_was_lost_with_its_node_is_said_to_be() {
    let mut lab = Lab::start(2);
    let job = lab.submit_id(0, &["--node", "n1", "--on-lost", "fail"], "echo begun; while :; do sleep 1; done");
    wait_for("it has begun", SOON, || lab.logs(0, &job).contains("begun").then_some(()));
    // Before its start is told, the job could as well be with nobody.
    lab.wait_state(0, &job, SOON, &["running"]);
    lab.kill_host(1);
    lab.wait_ended(0, &job, LATE);
    let told = lab.fnode(0, &["logs", &job]).ok();
    assert_eq!(told.stdout, "");
    assert!(told.stderr.contains("was lost with its node n1, and what it had written there with it"), "{told:?}");
}

#[test]
fn a_file_that_a_disk_has_damaged_is_fetched_again() {
    let lab = Lab::start(2);
    let job = leave_something(&lab, 0, "n0");
    lab.wait_ended(0, &job, SOON);
    wait_for_holders(&lab, 0, &job, &["n0", "n1"]);
    let model = proto::ContentId::of(&[0; 300_000]).to_string();
    let blob = lab.home(0).join("blobs/blobs").join(&model[..2]).join(&model);
    let damage = || {
        let mut bytes = std::fs::read(&blob).expect("the model is here");
        bytes[200_000] = 1;
        std::fs::remove_file(&blob).expect("ours");
        std::fs::write(&blob, bytes).expect("ours");
    };
    damage();
    let to = lab.path("mended");
    lab.fnode(0, &["job", "get", &job, "--to", to.to_str().expect("UTF-8")]).ok();
    assert_eq!(std::fs::read(to.join("model")).expect("kept"), [0; 300_000]);
    assert_eq!(std::fs::read(&blob).expect("whole again"), [0; 300_000]);

    damage();
    let there = lab.home(1).join("blobs/blobs").join(&model[..2]).join(&model);
    std::fs::remove_file(&there).expect("ours");
    let to = lab.path("lost");
    let told = lab.fnode(0, &["job", "get", &job, "--to", to.to_str().expect("UTF-8")]);
    told.refused(&["other bytes for model than its record names", "no other node has the right ones"]);
    assert!(!to.exists(), "nothing is left half done");
}

#[test]
fn what_ended_while_a_node_was_away_is_copied_when_it_is_back() {
    let mut lab = Lab::start(2);
    lab.kill_host(1);
    lab.wait_until_missed(0, 1);
    let job = leave_something(&lab, 0, "n0");
    lab.wait_ended(0, &job, SOON);
    assert_eq!(lab.job(0, &job)["held_by"], serde_json::json!(["n0"]));
    let shown = lab.fnode(0, &["job", "show", &job]).ok().stdout;
    assert!(shown.contains("1 node: n0; what it left is lost if that one is"), "{shown}");
    lab.restart(1);
    wait_for_holders(&lab, 0, &job, &["n0", "n1"]);
    assert!(lab.fnode(1, &["job", "show", &job]).ok().stdout.contains("2 nodes: n1, n0"));
}

#[test]
fn a_job_whose_machine_is_lost_goes_on_from_its_last_checkpoint() {
    let mut lab = Lab::start(3);
    for node in [0, 2] {
        lab.fnode(node, &["pause"]).ok();
    }
    // Counts to five in its checkpoint directory, then would sleep; the second attempt counts one more.
    let script = "count=$FNODE_CHECKPOINT_DIR/deep/count; mkdir -p $FNODE_CHECKPOINT_DIR/deep; \
        n=$(cat $count 2>/dev/null || echo 0); echo attempt $FNODE_ATTEMPT goes on from $n; \
        while [ $n -lt 5 ]; do n=$((n+1)); echo $n > $count; done; \
        test $FNODE_ATTEMPT -gt 1 || sleep 600; echo $((n+1)) | tee $count; exit 3";
    let job = lab.submit_id(0, &[], script);
    let word = lab.wait_state(0, &job, SOON, &["running"]);
    assert_eq!(node_name(&word, "node"), "n1", "{word}");
    wait_for("a second node has the checkpoint", SOON, || {
        let word = lab.job(0, &job);
        (list(&word, "held_by").len() == 2).then(|| assert_eq!(word["checkpoint"]["files"], 1, "{word}"))
    });
    lab.kill_host(1);
    for node in [0, 2] {
        lab.fnode(node, &["resume"]).ok();
    }
    let word = lab.wait_ended(0, &job, LATE);
    assert_eq!(word["ending"]["exit_code"], 3, "{word}");
    assert_eq!(lab.logs(0, &job), "attempt 2 goes on from 5\n6\n");
}

#[test]
fn a_failed_attempt_hands_its_checkpoint_to_the_next_one_elsewhere() {
    let lab = Lab::start(2);
    // Each attempt fails at once and leaves its name; the pauses see to it that the second runs on the other node.
    let gate = lab.path("gate");
    let script = format!(
        "cat $FNODE_CHECKPOINT_DIR/trail 2>/dev/null; echo attempt $FNODE_ATTEMPT on $FNODE_NODE >> \
         $FNODE_CHECKPOINT_DIR/trail; until [ -e {} ]; do sleep 0.1; done; exit 9",
        gate.display()
    );
    lab.fnode(1, &["pause"]).ok();
    let job = lab.submit_id(0, &["--retries", "1"], &script);
    lab.wait_state(0, &job, SOON, &["running"]);
    lab.fnode(0, &["pause"]).ok();
    lab.fnode(1, &["resume"]).ok();
    lab.touch("gate");
    let word = lab.wait_ended(1, &job, SOON);
    assert_eq!(list(&word, "attempts").len(), 2, "{word}");
    assert_eq!(lab.logs(1, &job), "attempt 1 on n0\n");
}

#[test]
fn lines_are_told_by_their_time_from_any_node() {
    let mut lab = Lab::start(2);
    let (mark, go) = (lab.path("mark"), lab.path("go"));
    let script = format!(
        "echo early; sleep 3; date -u +%FT%TZ > {0}.new; mv {0}.new {0}; sleep 2; echo late; \
         until [ -e {1} ]; do sleep 0.1; done; echo last",
        mark.display(),
        go.display()
    );
    let job = lab.submit_id(0, &["--node", "n1"], &script);
    wait_for("it has written twice", SOON, || lab.logs(0, &job).contains("late").then_some(()));
    let since = std::fs::read_to_string(&mark).expect("written before").trim().to_owned();
    let told = |lab: &Lab, since: &str| lab.fnode(0, &["logs", "--since", since, &job]).ok().stdout;
    assert_eq!(told(&lab, &since), "late\n", "while it runs");
    assert_eq!(told(&lab, "1h"), "early\nlate\n");
    lab.touch("go");
    lab.wait_ended(0, &job, SOON);
    lab.kill_host(1);
    assert_eq!(told(&lab, &since), "late\nlast\n", "from the journal");
    assert_eq!(told(&lab, "1h"), "early\nlate\nlast\n");
    lab.fnode(0, &["logs", "--since", "tomorrow", &job]).refused(&["neither a duration nor a time", "15:04"]);
}
