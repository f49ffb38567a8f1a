//! The command line against a real daemon with a real runner.

mod harness;

use std::os::unix::fs::PermissionsExt as _;

use harness::{Background, Node, START, signal, write};
use serde_json::json;

#[test]
fn a_fresh_machine_runs_a_job() {
    let node = Node::new();
    let greeting = node.ok(&[&START[..], &["--name", "alpha"]].concat());
    for part in ["is node alpha", "cluster alpha", "data", "peers", "api", "fnode invite"] {
        assert!(greeting.contains(part), "{part}: {greeting}");
    }
    let ran =
        node.run(&["submit", "--no-bundle", "--project", "p", "--follow", "--", "sh", "-c", "echo one; echo two >&2"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "one\ntwo\n"), "{}", ran.err);
    assert!(ran.err.contains("held by  1 node: alpha") && ran.err.contains("completed"), "{}", ran.err);
    let jobs = node.json(&["jobs"]);
    let id = jobs["jobs"][0]["id"].as_str().unwrap();
    assert_eq!(node.ok(&["logs", &id[..13]]), "one\ntwo\n", "a prefix is enough");
    assert_eq!(node.ok(&["logs", id, "--tail", "1"]), "two\n");
    assert_eq!(node.ok(&["logs", id, "-f", "--since", "1h"]), "one\ntwo\n");
    let job = node.json(&["job", "show", id]);
    assert_eq!(
        (&job["state"], &job["user"], &job["node"]["name"]),
        (&json!("completed"), &json!("tester"), &json!("alpha"))
    );
    assert_eq!(job["attempts"][0]["counts"], true);
    let status = node.json(&["status"]);
    assert_eq!((&status["nodes"][0]["presence"], &status["holders"]), (&json!("alive"), &json!(1)));
    assert_eq!(node.json(&["node", "show"])["name"], "alpha");
    let mode = |path: &str| std::fs::metadata(node.home().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("api.json"), mode("run/api.sock")), (0o600, 0o600));
    assert_eq!(node.ok(&["shutdown"]), "alpha ends; its jobs go on\n");
    node.refused(&["status"], 1, "no daemon is running for ");
}

#[test]
fn exit_codes_tell_how_the_job_ended() {
    let node = Node::started("alpha");
    let submit = |flag: &str, command: &[&str]| {
        node.run(&[&["submit", "--no-bundle", "--project", "p", flag, "--"], command].concat())
    };
    assert_eq!(submit("--wait", &["true"]).code, Some(0));
    let failed = submit("--wait", &["sh", "-c", "exit 7"]);
    assert_eq!(failed.code, Some(1));
    assert!(failed.out.ends_with("failed: exit code 7 (on this node alone)\n"), "{}", failed.out);
    assert_eq!(submit("--propagate", &["sh", "-c", "exit 7"]).code, Some(7));
    assert_eq!(submit("--propagate", &["sh", "-c", "kill -9 $$"]).code, Some(137));
    let missing = submit("--propagate", &["no-such-program"]);
    assert_eq!(missing.code, Some(127));
    assert!(missing.out.contains("command not found: \"no-such-program\""), "{}", missing.out);
    let id = node.submit(&["--timeout", "1s"], &["sleep", "60"]);
    let waited = node.ended(&id);
    assert_eq!(waited.code, Some(1));
    assert!(waited.out.contains("ran longer than its --timeout"), "{}", waited.out);
    let id = node.submit(&[], &["sleep", "60"]);
    assert_eq!(node.run(&["job", "wait", &id, "--timeout", "1s"]).code, Some(1));
    assert_eq!(node.ok(&["stop", &id]), format!("job {id} is asked to stop\n"));
    node.until(&["job", "show", &id], "/state", &json!("stopped"));
    node.refused(&["stop", &id], 1, &format!("job {id} has ended already: stopped"));
}

#[test]
fn a_directory_travels_once_and_outputs_come_back() {
    let node = Node::started("alpha");
    let dir = node.file("mnist");
    write(&dir.join("train.sh"), "echo trained > model.bin; cat data/x");
    write(&dir.join("data/x"), "input\n");
    write(&dir.join("big"), &"0123456789abcdef".repeat(200_000));
    write(&dir.join(".git/config"), "stays behind");
    let submit = || node.json(&["submit", dir.to_str().unwrap(), "--wait", "--", "sh", "train.sh"]);
    let first = submit();
    assert_eq!((&first["state"], &first["project"]), (&json!("completed"), &json!("mnist")));
    assert_eq!(first["bundle"]["files"], 3);
    let again = node.json(&["submit", dir.to_str().unwrap(), "--", "sh", "train.sh"]);
    assert_eq!((&again["sent_bytes"], &again["bundle"]["files"]), (&json!(0), &json!(3)));
    let id = first["id"].as_str().unwrap();
    let to = node.file("results");
    let got = node.json(&["job", "get", id, "--to", to.to_str().unwrap()]);
    assert_eq!(got["files"], 1);
    assert_eq!(std::fs::read_to_string(to.join("model.bin")).unwrap(), "trained\n");
    let line = format!("{} is there already; give another directory with --to DIR", to.display());
    node.refused(&["job", "get", id, "--to", to.to_str().unwrap()], 2, &line);
    let none = node.submit(&["--no-outputs"], &["sh", "-c", "echo > made"]);
    node.completed(&none);
    node.refused(&["job", "get", &none], 1, &format!("job {none} kept no files"));
    let rerun = node.json(&["job", "rerun", id]);
    let rerun = rerun["id"].as_str().unwrap();
    node.completed(rerun);
    assert_eq!(node.ok(&["logs", rerun]), "input\n");
}

#[test]
fn directories_that_cannot_travel_are_refused() {
    let node = Node::started("alpha");
    let dir = node.file("odd");
    let path = dir.to_str().unwrap().to_owned();
    std::fs::create_dir(&dir).unwrap();
    let submit = |line: &str| node.refused(&["submit", &path, "--", "true"], 1, line);
    submit(&format!("{path} holds no files to pack"));
    use std::os::unix::ffi::OsStringExt as _;
    let odd = dir.join(std::ffi::OsString::from_vec(vec![b'a', 0xff]));
    std::fs::write(&odd, "x").unwrap();
    submit(&format!("{path}/a\u{fffd} has a name that is not UTF-8; rename it"));
    std::fs::remove_file(&odd).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).unwrap();
    submit(&format!("{path}/link links to \"/etc/passwd\", outside the directory"));
    std::fs::remove_file(dir.join("link")).unwrap();
    assert_eq!(node.json(&["jobs"])["jobs"], json!([]), "nothing was left half done");
}

#[test]
fn an_array_is_one_line_and_its_jobs_are_known_by_index() {
    let node = Node::started("alpha");
    let id = node.submit(&["--array", "1-3,7"], &["sh", "-c", "test $FNODE_ARRAY_INDEX != 7"]);
    let waited = node.ended(&id);
    assert_eq!(waited.code, Some(1));
    assert!(
        waited.out.ends_with("failed: 3 completed, 1 failed, 0 stopped of 4 (on this node alone)\n"),
        "{}",
        waited.out
    );
    let lines = node.json(&["jobs"]);
    assert_eq!((lines["jobs"].as_array().unwrap().len(), &lines["jobs"][0]["array"]["total"]), (1, &json!(4)));
    let members = node.json(&["jobs", &id]);
    let ids: Vec<&str> = members["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3, 7].map(|index| format!("{id}/{index}")));
    let failed = node.json(&["jobs", &id, "--state", "failed"]);
    assert_eq!(failed["jobs"][0]["id"], json!(format!("{id}/7")));
    assert_eq!(node.json(&["job", "show", &format!("{id}/2")])["state"], "completed");
    node.refused(&["job", "show", &format!("{id}/4")], 1, &format!("no job is known as \"{id}/4\""));
    node.refused(&["logs", &id], 2, &format!("job {id} is an array, whose jobs have a log each"));
    let again = node.json(&["job", "rerun", &format!("{id}/2")]);
    assert_eq!(again["jobs"], 1);
}

#[test]
fn a_job_that_fits_nowhere_waits_and_says_why() {
    let node = Node::new();
    node.start(&["--name", "alpha", "--cpus", "2", "--label", "rack=b"]);
    let ran = node.run(&["submit", "--no-bundle", "--project", "p", "--json", "--cpus", "64", "--", "true"]);
    assert_eq!(ran.code, Some(0));
    let warning = "fnode: warning: this job does not fit on the only node; nearest is alpha: has 2 CPUs, 64 asked";
    assert!(ran.err.starts_with(warning), "{}", ran.err);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let id = answer["id"].as_str().unwrap();
    let told = node.json(&["job", "explain", id]);
    assert_eq!(told["summary"], "no node can run it; nearest is alpha: has 2 CPUs, 64 asked");
    assert_eq!((&told["fits_somewhere"], &told["nodes"][0]["is_passing"]), (&json!(false), &json!(false)));
    let other = node.submit(&["--label", "rack=c"], &["true"]);
    assert_eq!(node.json(&["job", "explain", &other])["nodes"][0]["lacks"], json!(["lacks label rack=c"]));
    node.ok(&["node", "label", "alpha", "rack=c"]);
    node.completed(&other);
    node.refused(
        &["submit", "--no-bundle", "--label", "gpu", "--", "true"],
        1,
        "no node has a label \"gpu\"; labels there are: rack",
    );
    node.refused(&["submit", "--no-bundle", "--node", "zeta", "--", "true"], 1, "no node is known as \"zeta\"");
}

#[test]
fn an_array_that_has_ended_is_explained_as_a_whole() {
    let node = Node::started("alpha");
    let id = node.submit(&["--array", "1-3"], &["true"]);
    node.completed(&id);
    let told = node.json(&["job", "explain", &id]);
    assert_eq!((&told["state"], &told["summary"]), (&json!("completed"), &json!("it is completed")), "{told}");
    assert_eq!(node.json(&["job", "explain", &format!("{id}/2")])["summary"], "it has ended: completed");
    node.refused(&["job", "show", ""], 2, "an id or a name is empty");
}

#[test]
fn a_job_waits_for_the_node_that_has_its_data() {
    let node = Node::started("alpha");
    let data = node.file("imagenet");
    let data = data.to_str().unwrap();
    let ran = node.run(&["submit", "--no-bundle", "--project", "p", "--json", "--data", data, "--", "true"]);
    let warning = format!("this job does not fit on the only node; nearest is alpha: has no {data}; it waits");
    assert!(ran.code == Some(0) && ran.err.contains(&warning), "{}", ran.err);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    write(std::path::Path::new(data), "digits");
    node.completed(answer["id"].as_str().unwrap());
    let again = node.run(&["submit", "--no-bundle", "--project", "p", "--data", data, "--wait", "--", "true"]);
    assert_eq!((again.code, again.err.contains("does not fit")), (Some(0), false), "{}", again.err);
}

#[test]
fn a_job_gets_the_python_that_it_asks_for() {
    let node = Node::started("alpha");
    let have = node.json(&["node", "show", "alpha"])["pythons"].as_array().unwrap().clone();
    let Some(version) = have.first().and_then(|version| version.as_str()) else {
        println!("skipped: there is no Python on this machine");
        return;
    };
    let print = "import sys; print('%d.%d' % sys.version_info[:2])";
    for program in ["python", "python3"] {
        let words = ["submit", "--no-bundle", "--follow", "--python", version, "--", program, "-c", print];
        assert_eq!(node.ok(&words), format!("{version}\n"));
    }
}

#[test]
fn a_node_keeps_the_name_that_it_was_started_with_once() {
    let node = Node::started("alpha");
    node.ok(&["shutdown"]);
    node.start(&[]);
    assert_eq!(node.json(&["status"])["nodes"][0]["name"], "alpha");
    let log = std::fs::read_to_string(node.home().join("daemon.log")).unwrap();
    assert!(!log.contains("both called"), "it is no namesake of itself: {log}");
}

#[test]
fn jobs_wait_for_jobs() {
    let node = Node::started("alpha");
    let gate = node.file("gate");
    let script = format!("while ! test -e {}; do sleep 0.02; done", gate.display());
    let first = node.submit(&[], &["sh", "-c", &script]);
    let then = node.submit(&["--after", &first], &["true"]);
    let never = node.submit(&["--after", &format!("{first}:all_failed")], &["true"]);
    let told = node.json(&["job", "explain", &then]);
    assert_eq!((&told["state"], &told["waits_for"]), (&json!("queued"), &json!([first])));
    write(&gate, "");
    node.completed(&then);
    node.until(&["job", "show", &never], "/state", &json!("failed"));
    let again = node.run(&["job", "rerun", &never]);
    let warning = "fnode: warning: it does not wait again for the jobs that it came after (--after)\n";
    assert_eq!((again.code, again.err.as_str()), (Some(0), warning));
    node.refused(&["submit", "--no-bundle", "--after", "ffff", "--", "true"], 1, "no job is known as \"ffff\"");
}

#[test]
fn marks_change_what_lists_show() {
    let node = Node::started("alpha");
    let id = node.submit(&["--name", "first"], &["true"]);
    let other = node.submit(&[], &["sleep", "60"]);
    node.completed(&id);
    assert_eq!(
        node.ok(&["job", "tag", &id, "best", "paper=v2"]),
        format!("job {id} is tagged best, tagged paper=v2\n")
    );
    node.ok(&["job", "note", &id, "worth a look"]);
    let job = node.json(&["job", "show", &id]);
    assert_eq!((&job["tags"], &job["note"]), (&json!({"best": "", "paper": "v2"}), &json!("worth a look")));
    node.refused(&["job", "tag", &id, "--remove", "worst"], 1, "the job has no tag \"worst\"");
    let count = |words: &[&str]| node.json(words)["jobs"].as_array().unwrap().len();
    assert_eq!(count(&["jobs"]), 2);
    assert_eq!(count(&["jobs", "--name", "first", "--state", "completed", "--node", "alpha", "--age", "1h"]), 1);
    assert_eq!(count(&["jobs", "--state", "unfinished", "--project", "test", "--user", "tester"]), 1);
    node.refused(&["jobs", "--project", "nosuch"], 1, "no project is named \"nosuch\"; see fnode project list");
    node.refused(
        &["job", "archive", &other],
        1,
        &format!("job {other} has not ended, and archived jobs are in no list;"),
    );
    node.ok(&["job", "archive", &id]);
    assert_eq!((count(&["jobs"]), count(&["jobs", "--all"])), (1, 2));
    node.ok(&["job", "archive", &id, "--undo"]);
    assert_eq!(count(&["jobs"]), 2);
    node.refused(
        &["job", "delete", &other],
        1,
        &format!("job {other} has not ended; stop it first: fnode stop {other}"),
    );
    node.ok(&["job", "delete", &id]);
    assert_eq!(count(&["jobs", "--all"]), 1);
    node.ok(&["project", "describe", "test", "digits"]);
    let project = node.json(&["project", "show", "test"]);
    assert_eq!((&project["description"], &project["running"]), (&json!("digits"), &json!(1)));
    node.refused(&["project", "show", "nosuch"], 1, "no project is named \"nosuch\"");
    node.ok(&["gc"]);
}

#[test]
fn ids_that_name_nothing_or_too_much_are_refused() {
    let node = Node::started("alpha");
    let (a, b) = (node.submit(&[], &["true"]), node.submit(&[], &["true"]));
    let shared: String = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    node.refused(
        &["job", "show", &shared],
        1,
        &format!("{shared:?} begins the ids of several jobs: {a}, {b}; give more"),
    );
    for words in
        [&["job", "show", "zz"][..], &["stop", "zz"], &["logs", "zz"], &["job", "wait", "zz"], &["job", "get", "zz"]]
    {
        node.refused(words, 1, "no job is known as \"zz\"; see fnode jobs --all");
    }
    node.refused(&["node", "show", "zeta"], 1, "no node is known as \"zeta\"; see fnode node list");
    node.refused(&["node", "label", "alpha", "--remove", "rack"], 1, "alpha has no label \"rack\"");
    node.refused(&["node", "remove", "alpha", "--yes"], 1, "a node does not remove itself");
    node.refused(&["secret", "remove", "TOKEN"], 1, "alpha has no secret \"TOKEN\"; see fnode secret list");
}

#[test]
fn secrets_reach_jobs_and_nothing_else() {
    let node = Node::started("alpha");
    let set = node.run_with(&["secret", "set", "TOKEN"], "abc\n");
    assert_eq!(set.code, Some(0), "{}", set.err);
    assert_eq!(node.ok(&["secret", "list"]), "TOKEN\n");
    let ran = node.run(&["submit", "--no-bundle", "--secret", "TOKEN", "--follow", "--", "sh", "-c", "echo ${#TOKEN}"]);
    assert_eq!(ran.out, "3\n", "{}", ran.err);
    let id = node.json(&["jobs"])["jobs"][0]["id"].as_str().unwrap().to_owned();
    let missing = ["submit", "--no-bundle", "--secret", "OTHER", "--", "true"];
    node.refused(&missing, 1, "alpha has no secret \"OTHER\"; give it one first: fnode secret set OTHER");
    assert_eq!(
        node.run_with(&["secret", "set", "EMPTY"], "\n").err,
        "fnode: the value is empty; give one on standard input or with --file\n"
    );
    node.ok(&["secret", "remove", "TOKEN"]);
    node.refused(&["job", "rerun", &id], 1, "alpha has no secret \"TOKEN\"; give it one first");
    assert_eq!(node.json(&["secret", "list"])["names"], json!([]));
}

#[test]
fn ctrl_c_leaves_the_job_running() {
    let node = Node::started("alpha");
    let script = "echo begun; while :; do sleep 0.05; done";
    let words = ["submit", "--no-bundle", "--project", "p", "--follow", "--", "sh", "-c", script];
    let mut follower = Background::of(node.command(&words));
    follower.read_until("begun\n");
    follower.signal("INT");
    let ran = follower.finish();
    assert_eq!(ran.code, Some(130));
    assert!(ran.err.contains("goes on; follow it with: fnode logs -f"), "{}", ran.err);
    node.until(&["status"], "/running", &json!(1));
}

#[test]
fn a_follower_outlives_a_killed_daemon_without_a_gap() {
    let node = Node::started("alpha");
    let gate = node.file("gate");
    let script = format!("echo before; while ! test -e {}; do sleep 0.02; done; echo after", gate.display());
    let words = ["submit", "--no-bundle", "--project", "p", "--follow", "--propagate", "--", "sh", "-c", &script, "x"];
    let mut follower = Background::of(node.command(&words));
    follower.read_until("before\n");
    let pid = node.pid();
    signal(pid, "KILL");
    write(&gate, "");
    let ran = follower.finish();
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "after\n"), "{}", ran.err);
    assert_ne!(node.pid(), pid, "the runner started its daemon again");
}

#[test]
fn a_second_daemon_of_a_directory_is_refused() {
    let node = Node::started("alpha");
    let line = format!("{} is in use by a daemon that runs (process {});", node.home().display(), node.pid());
    node.refused(&START, 1, &line);
    let taken = node.api()["addr"].as_str().unwrap().to_owned();
    let other = Node::new();
    other.refused(&["start", "--listen", "127.0.0.1:0", "--api", &taken], 1, "port ");
    assert!(!other.home().join("cluster.json").exists(), "nothing was left half done");
}

#[test]
fn a_ticket_brings_a_second_node() {
    let alpha = Node::started("alpha");
    let first = alpha.submit(&[], &["echo", "from alpha"]);
    alpha.completed(&first);
    let ticket = alpha.ok(&["invite", "--ttl", "1h"]);
    let beta = Node::new();
    let joined = beta.run_with(&[&START[..], &["--name", "beta", "--join", "-"]].concat(), &ticket);
    assert_eq!(joined.code, Some(0), "{}", joined.err);
    alpha.until(&["status"], "/nodes/1/presence", &json!("alive"));
    beta.until(&["job", "show", "--home", beta.home().to_str().unwrap(), "0"], "/state", &json!("completed"));
    assert_eq!(beta.ok(&["logs", &first]), "from alpha\n");
    let there = beta.submit(&["--node", "alpha"], &["sh", "-c", "echo $FNODE_NODE"]);
    beta.completed(&there);
    assert_eq!(alpha.json(&["job", "show", &there])["node"]["name"], "alpha");
    beta.ok(&["node", "drain", "alpha"]);
    alpha.until(&["node", "show", "alpha"], "/accepting", &json!("draining"));
    let third = alpha.submit(&[], &["true"]);
    alpha.completed(&third);
    assert_eq!(alpha.json(&["job", "show", &third])["node"]["name"], "beta");
    beta.ok(&["node", "undrain", "alpha"]);
    let text = alpha.ok(&["node", "list"]);
    assert!(text.contains("alpha*") && text.contains("beta"), "{text}");
}

#[test]
fn a_watched_status_is_shown_again_when_something_happens() {
    let node = Node::started("alpha");
    let mut watcher = Background::of(node.command(&["status", "--watch", "--json"]));
    watcher.read_until("\"running\":0");
    let job = node.submit(&[], &["sleep", "60"]);
    watcher.read_until("\"running\":1");
    watcher.signal("INT");
    assert_eq!(watcher.finish().code, Some(130));
    node.ok(&["stop", &job]);
}

#[test]
fn the_command_line_falls_back_to_loopback() {
    let node = Node::started("alpha");
    let socket = node.home().join("run/api.sock");
    std::fs::remove_file(&socket).unwrap();
    assert_eq!(node.json(&["status"])["node"]["name"], "alpha");
    let id = node.submit(&[], &["true"]);
    node.completed(&id);
}

#[test]
fn the_owner_comes_first() {
    let node = Node::started("alpha");
    assert_eq!(node.ok(&["pause"]), "alpha takes no more jobs; those that run go on\n");
    let id = node.submit(&[], &["true"]);
    let told = node.until(&["job", "explain", &id], "/state", &json!("queued"));
    assert_eq!(told["nodes"][0]["lacks"], json!(["takes no jobs now (draining, paused or starting)"]));
    node.ok(&["resume"]);
    node.completed(&id);
}

#[test]
fn the_doctor_has_a_remedy_for_everything_that_is_wrong() {
    let node = Node::new();
    let ran = node.run(&["doctor", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let findings = found["findings"].as_array().unwrap();
    assert!(findings.len() > 10);
    for finding in findings {
        let is_wrong = matches!(finding["verdict"].as_str(), Some("warning" | "bad"));
        assert!(!is_wrong || finding["remedy"] != "", "{finding}");
    }
}
