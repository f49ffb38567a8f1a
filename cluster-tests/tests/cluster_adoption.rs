//! The daemon dies, its jobs do not: they are adopted, with their exact exit code and their whole log.

mod lab;

use std::time::Duration;

use lab::output::{list, text};
use lab::{Lab, Launch, READY_MAX, SOON, processes, wait_for};

/// Prints 1, 2, 3, … with the time until the file `stop` is there, tells the latest number in the file `count`, and
/// exits with 7. A grandchild in a session of its own tells its process id in `grandchild`.
fn counter(lab: &Lab) -> String {
    let dir = lab.path("");
    format!(
        "cd {}; setsid sh -c 'echo $$ > grandchild; exec sleep 600' & \
         i=0; until [ -e stop ]; do i=$((i+1)); echo $i $(date +%s%N); echo $i > count.new; mv count.new count; sleep 0.02; \
         done; kill $(cat grandchild); exit 7",
        dir.display()
    )
}

fn count(lab: &Lab) -> u64 {
    let text = std::fs::read_to_string(lab.path("count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn wait_for_count(lab: &Lab, more: u64) {
    let start = count(lab);
    wait_for("the job counts on", SOON, || (count(lab) >= start + more).then_some(()));
}

/// The log is 1, 2, … up to the last number, and the time never stands still for long.
fn check_log(lab: &Lab, job: &str) {
    let log = lab.logs(0, job);
    let mut before_ns = None;
    for (at, line) in log.lines().enumerate() {
        let (number, at_ns) = line.split_once(' ').expect("a number and a time");
        assert_eq!(number.parse(), Ok(at + 1), "the log has a gap: {log}");
        let at_ns: u64 = at_ns.parse().expect("a time in nanoseconds");
        let pause = Duration::from_nanos(at_ns - before_ns.unwrap_or(at_ns));
        assert!(pause < Duration::from_secs(10), "the job stood still for {pause:?}");
        before_ns = Some(at_ns);
    }
    assert_eq!(log.lines().count() as u64, count(lab), "the log has all that the job wrote");
}

fn grandchild(lab: &Lab) -> u32 {
    wait_for("the grandchild has told its number", SOON, || {
        std::fs::read_to_string(lab.path("grandchild")).ok()?.trim().parse().ok()
    })
}

#[test]
fn a_running_job_is_adopted_with_its_exit_code_and_a_log_without_a_gap() {
    let mut lab = Lab::start(1);
    let job = lab.submit_id(0, &[], &counter(&lab));
    wait_for_count(&lab, 5);
    lab.kill9(0);
    wait_for_count(&lab, 10);
    lab.restart(0);
    let word = lab.wait_state(0, &job, SOON, &["running"]);
    assert_eq!(list(&word, "attempts").len(), 1, "{word}");
    wait_for_count(&lab, 5);
    lab.touch("stop");
    let word = lab.wait_ended(0, &job, SOON);
    assert_eq!((text(&word, "state"), &word["ending"]["exit_code"]), ("failed", &7.into()), "{word}");
    assert_eq!(list(&word, "attempts").len(), 1, "{word}");
    check_log(&lab, &job);
}

#[test]
fn stopping_an_adopted_job_reaches_its_grandchildren() {
    let mut lab = Lab::start(1);
    let job = lab.submit_id(0, &[], &counter(&lab));
    wait_for_count(&lab, 1);
    let grandchild = grandchild(&lab);
    lab.kill9(0);
    lab.restart(0);
    assert!(processes::is_alive(grandchild), "the job went on");
    lab.fnode(0, &["stop", &job]).ok();
    let word = lab.wait_ended(0, &job, SOON);
    assert_eq!((text(&word, "state"), text(&word["ending"], "reason")), ("stopped", "stopped"), "{word}");
    wait_for("the grandchild is gone", SOON, || (!processes::is_alive(grandchild)).then_some(()));
    let left = processes::of(lab.home(0)).into_iter().filter(|&(_, kind)| kind == processes::Kind::Job).count();
    assert_eq!(left, 0, "{:?}", processes::of(lab.home(0)));
}

#[test]
fn a_job_that_ends_while_no_daemon_runs_keeps_its_exit_code_and_log() {
    let mut lab = Lab::start(1);
    let job = lab.submit_id(0, &[], &counter(&lab));
    wait_for_count(&lab, 5);
    lab.kill9(0);
    lab.touch("stop");
    wait_for("the job has ended", SOON, || {
        let jobs = processes::of(lab.home(0)).into_iter().filter(|&(_, kind)| kind == processes::Kind::Job).count();
        (jobs == 0).then_some(())
    });
    lab.restart(0);
    let word = lab.wait_ended(0, &job, SOON);
    assert_eq!((text(&word, "state"), &word["ending"]["exit_code"]), ("failed", &7.into()), "{word}");
    check_log(&lab, &job);
}

#[test]
fn a_job_ends_as_it_should_though_runner_and_daemon_left_meanwhile() {
    let mut lab = Lab::start(2);
    let job = lab.submit_id(0, &["--node", "n1"], &counter(&lab));
    wait_for_count(&lab, 5);
    // Leaving jobs running is what a shutdown does; the runner ends once the last has.
    lab.shutdown(1);
    lab.touch("stop");
    wait_for("the runner has ended", SOON, || processes::of(lab.home(1)).is_empty().then_some(()));
    lab.restart(1);
    let word = lab.wait_ended(0, &job, SOON);
    assert_eq!((text(&word, "state"), &word["ending"]["exit_code"]), ("failed", &7.into()), "{word}");
    assert_eq!(list(&word, "attempts").len(), 1, "{word}");
    check_log(&lab, &job);
}

#[test]
fn a_job_does_not_run_twice_when_its_runner_is_killed() {
    let lab = Lab::start_with(1, &Launch { respawn: true, ..Launch::default() });
    let pids = lab.path("pids");
    let script = format!("echo $$ >> {}; exec sleep 600", pids.display());
    let job = lab.submit_id(0, &[], &script);
    let lines =
        || std::fs::read_to_string(&pids).map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default();
    let started = |count: usize| move |lines: Vec<String>| (lines.len() == count).then_some(lines);
    wait_for("the first attempt runs", SOON, || started(1)(lines()));
    lab.wait_state(0, &job, SOON, &["running"]);
    let killed = processes::signal(lab.home(0), rustix::process::Signal::KILL, |kind| kind == processes::Kind::Runner);
    assert_eq!(killed, 1);
    let pids: Vec<String> = wait_for("the second attempt runs", SOON, || started(2)(lines()));
    wait_for("the first one is gone", SOON, || (!std::path::Path::new("/proc").join(&pids[0]).exists()).then_some(()));
    assert!(std::path::Path::new("/proc").join(&pids[1]).exists());
    lab.fnode(0, &["stop", &job]).ok();
    lab.wait_ended(0, &job, SOON);
}

#[test]
fn a_killed_daemon_is_started_again_by_its_runner() {
    let mut lab = Lab::start_with(1, &Launch { respawn: true, ..Launch::default() });
    let job = lab.submit_id(0, &[], &counter(&lab));
    wait_for_count(&lab, 3);
    for round in 0..2 {
        let before = lab.json(0, &["status"])["node"]["pid"].clone();
        lab.kill9(0);
        wait_for(&format!("a new daemon answers in round {round}"), READY_MAX, || {
            let told = lab.fnode(0, &["status", "--json"]);
            (told.code == 0 && told.json()["node"]["pid"] != before).then_some(())
        });
        wait_for_count(&lab, 3);
    }
    lab.touch("stop");
    let word = lab.wait_ended(0, &job, SOON);
    assert_eq!(word["ending"]["exit_code"], 7, "{word}");
    assert_eq!(list(&word, "attempts").len(), 1, "{word}");
    check_log(&lab, &job);
}
