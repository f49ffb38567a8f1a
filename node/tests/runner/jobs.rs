//! Jobs through a real runner process: how they end, what becomes of what they leave behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use node::exec::process::read_row;
use node::exec::protocol::{AttemptStatus, Event, MARKER, Output};
use proto::job::{Ending, StartFailure};

use crate::stage::{Stage, lines_of, until};

#[tokio::test]
async fn endings_are_exact() {
    let mut stage = Stage::new();
    fs::write(stage.path("text"), "no program").expect("written");
    fs::set_permissions(stage.path("text"), fs::Permissions::from_mode(0o644)).expect("set");
    let mut daemon = stage.connect().await;
    let cases = [
        (stage.sh(1, "exit 0"), Ending::Exited { code: 0 }),
        (stage.sh(2, "exit 255"), Ending::Exited { code: 255 }),
        (stage.sh(3, "kill -SEGV $$"), Ending::Signalled { signal: 11 }),
        (stage.sh(4, "kill -KILL $$"), Ending::Signalled { signal: 9 }),
        (
            stage.order(5, &["no-such-program"]),
            Ending::NotStarted(StartFailure::CommandNotFound("no-such-program".to_owned())),
        ),
        (stage.order(6, &["./text"]), Ending::NotStarted(StartFailure::NotExecutable("./text".to_owned()))),
    ];
    daemon.start(cases.iter().map(|(order, _)| order.clone()));
    for (order, ending) in cases {
        let ended = daemon.ended(order.attempt).await;
        assert_eq!(ended.ending, ending);
        assert_eq!(ended.started_unix_ms == 0, matches!(ending, Ending::NotStarted(_)));
        assert!(ended.ended_unix_ms >= ended.started_unix_ms);
    }
    let mut lost = stage.sh(7, "exit 0");
    lost.cwd = stage.path("none");
    daemon.start([lost]);
    let ending = daemon.ended(stage.attempt(7)).await.ending;
    assert!(matches!(&ending, Ending::NotStarted(StartFailure::System(text)) if text.contains("none")), "{ending:?}");
}

#[tokio::test]
async fn a_job_finds_the_world_it_was_promised() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let mut order = stage.sh(1, "pwd; env; cat; ulimit -c; echo error >&2");
    order.env.insert("GREETING".to_owned(), "hello".to_owned());
    (order.stdout, order.stderr) = (Output::File(stage.path("log")), Output::File(stage.path("log")));
    daemon.start([order.clone()]);
    assert_eq!(daemon.ended(order.attempt).await.ending, Ending::Exited { code: 0 });
    let log = fs::read_to_string(stage.path("log")).expect("there");
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines[0], stage.home.path().canonicalize().expect("there").to_str().expect("UTF-8"));
    assert!(lines.contains(&"GREETING=hello") && lines.contains(&format!("{MARKER}={}", order.attempt).as_str()));
    assert!(!log.contains("CARGO"), "the environment is the order's alone");
    assert_eq!(lines[lines.len() - 2..], ["0", "error"]);
}

#[tokio::test]
async fn a_job_starts_with_no_signal_blocked_or_ignored() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let mut order = stage.order(1, &["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"]);
    order.stdout = Output::File(stage.path("log"));
    daemon.start([order]);
    daemon.ended(stage.attempt(1)).await;
    let log = fs::read_to_string(stage.path("log")).expect("there");
    let masks: Vec<_> = log.lines().filter_map(|line| u64::from_str_radix(line.split_once('\t')?.1, 16).ok()).collect();
    // glibc leaves its two internal real-time signals (32 and 33) ignored in whatever it spawns.
    assert_eq!(masks.iter().map(|mask| mask & 0x7fff_ffff).collect::<Vec<_>>(), [0, 0], "{log}");
}

#[tokio::test]
async fn jobs_are_killed_for_memory_before_the_runner() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let mut order = stage.order(1, &["cat", "/proc/self/oom_score_adj"]);
    order.stdout = Output::File(stage.path("log"));
    daemon.start([order]);
    daemon.ended(stage.attempt(1)).await;
    let score = |path| fs::read_to_string(path).expect("there").trim().parse::<i32>().expect("a number");
    let runner = score(format!("/proc/{}/oom_score_adj", daemon.runner.runner.pid).into());
    assert_eq!(runner, score("/proc/self/oom_score_adj".into()));
    assert_eq!(score(stage.path("log")), runner.max(300));
}

#[tokio::test]
async fn usage_is_measured() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    daemon.start([stage.sh(1, "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")]);
    let usage = daemon.ended(stage.attempt(1)).await.usage;
    assert!(usage.cpu_ms > 0 && usage.memory_max_bytes > 100_000, "{usage:?}");
}

#[tokio::test]
async fn a_timeout_ends_the_whole_tree() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let mut order = stage.sh(1, "sleep 600 & sleep 600");
    order.timeout_s = 1;
    let clock = Instant::now();
    daemon.start([order]);
    assert_eq!(daemon.ended(stage.attempt(1)).await.ending, Ending::TimedOut);
    assert!(clock.elapsed() >= Duration::from_secs(1));
    assert_eq!(stage.jobs_left(), [0_u32; 0]);
}

/// Prints the number of a process that left its parent, its group and its session.
const DETACHED: &str = "(setsid sh -c 'echo $$ >> pids; sleep 600; true' & ) & ";

#[tokio::test]
async fn a_stop_reaches_grandchildren_that_tried_to_leave() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let script = format!("{DETACHED} sh -c 'sleep 600; true' & echo $! >> pids; wait; sleep 600");
    daemon.start([stage.sh(1, &script)]);
    for pid in lines_of(&stage.path("pids"), 2).await {
        assert!(read_row(pid.parse().expect("a number")).is_ok());
    }
    assert!(stage.jobs_left().len() >= 4);
    let clock = Instant::now();
    daemon.handle.stop(stage.attempt(1), Duration::from_secs(30)).expect("sent");
    assert_eq!(daemon.ended(stage.attempt(1)).await.ending, Ending::Stopped);
    assert!(clock.elapsed() < Duration::from_secs(25), "SIGTERM was enough");
    assert_eq!(stage.jobs_left(), [0_u32; 0]);
}

#[tokio::test]
async fn nothing_outlives_its_job() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let script = format!("{DETACHED} sleep 600 & while [ ! -s pids ]; do :; done; exit 7");
    daemon.start([stage.sh(1, &script)]);
    assert_eq!(daemon.ended(stage.attempt(1)).await.ending, Ending::Exited { code: 7 });
    assert_eq!(stage.jobs_left(), [0_u32; 0]);
}

#[tokio::test]
async fn a_detached_process_is_left_alone_while_its_job_runs_and_others_end() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    daemon.start([stage.sh(1, &format!("{DETACHED} exec sleep 600"))]);
    let pid = lines_of(&stage.path("pids"), 1).await[0].parse().expect("a number");
    until("it is the runner's", || read_row(pid).is_ok_and(|row| row.parent == daemon.runner.runner.pid)).await;
    daemon.start((2..20).map(|number| stage.order(number, &["true"])));
    for number in 2..20 {
        assert_eq!(daemon.ended(stage.attempt(number)).await.ending, Ending::Exited { code: 0 });
    }
    assert!(read_row(pid).is_ok_and(|row| !row.zombie));
    daemon.handle.stop(stage.attempt(1), Duration::from_secs(30)).expect("sent");
    daemon.ended(stage.attempt(1)).await;
    assert_eq!(stage.jobs_left(), [0_u32; 0]);
}

#[tokio::test]
async fn a_job_that_ignores_sigterm_is_killed_after_its_grace() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    daemon.start([stage.sh(1, "trap '' TERM; echo x > ready; while :; do sleep 1; done")]);
    lines_of(&stage.path("ready"), 1).await;
    let clock = Instant::now();
    daemon.handle.stop(stage.attempt(1), Duration::from_millis(300)).expect("sent");
    assert_eq!(daemon.ended(stage.attempt(1)).await.ending, Ending::Stopped);
    assert!(clock.elapsed() >= Duration::from_millis(300));
    assert_eq!(stage.jobs_left(), [0_u32; 0]);
}

#[tokio::test]
async fn the_rest_of_a_stopped_tree_has_its_grace_too() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    // The main process dies of SIGTERM at once; its child needs a moment to write its checkpoint.
    let child = "trap 'sleep 0.3; echo saved > checkpoint; exit' TERM; echo x > ready; while :; do sleep 0.05; done";
    daemon.start([stage.sh(1, &format!("sh -c \"{child}\" & sleep 600"))]);
    lines_of(&stage.path("ready"), 1).await;
    daemon.handle.stop(stage.attempt(1), Duration::from_secs(30)).expect("sent");
    assert_eq!(daemon.ended(stage.attempt(1)).await.ending, Ending::Stopped);
    assert_eq!(fs::read_to_string(stage.path("checkpoint")).expect("saved"), "saved\n");
}

#[tokio::test]
async fn a_tree_beyond_its_memory_limit_is_killed_and_said_so() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    // The shell's child holds the memory: `tail` keeps an endless line until it ends.
    let mut order = stage.sh(1, "tail -n 1 /dev/zero; true");
    order.memory_limit_bytes = 64 << 20;
    let mut modest = stage.sh(2, "sleep 1");
    modest.memory_limit_bytes = 64 << 20;
    daemon.start([order, modest]);
    let ended = daemon.ended(stage.attempt(1)).await;
    assert_eq!(ended.ending, Ending::OutOfMemory);
    assert!(ended.usage.memory_max_bytes > 64 << 20);
    assert_eq!(daemon.ended(stage.attempt(2)).await.ending, Ending::Exited { code: 0 });
    assert_eq!(stage.jobs_left(), [0_u32; 0]);
}

#[tokio::test]
async fn orders_and_stops_can_be_repeated() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let order = stage.sh(1, "echo x >> runs; sleep 600");
    daemon.start([order.clone()]);
    let started = daemon.started(order.attempt).await;
    daemon.start([order.clone()]);
    assert_eq!(daemon.started(order.attempt).await, started);
    daemon.handle.stop(order.attempt, Duration::from_secs(30)).expect("sent");
    let ended = daemon.ended(order.attempt).await;
    daemon.handle.stop(order.attempt, Duration::ZERO).expect("sent");
    assert_eq!(daemon.ended(order.attempt).await, ended);
    daemon.start([order.clone()]);
    assert_eq!(daemon.ended(order.attempt).await, ended);
    daemon.handle.stop(stage.attempt(9), Duration::ZERO).expect("sent");
    let unknown = daemon.find(|event| if let Event::Unknown(id) = event { Some(*id) } else { None }).await;
    assert_eq!(unknown, stage.attempt(9));
}

#[tokio::test]
async fn what_a_job_leaves_on_disk_is_removed_when_asked() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let mut order = stage.sh(1, "mkdir -p work/a/b && echo x > work/a/b/c");
    order.cleanup_dir = Some(stage.path("work"));
    daemon.start([order]);
    assert_eq!(daemon.ended(stage.attempt(1)).await.ending, Ending::Exited { code: 0 });
    until("the directory is removed", || !stage.path("work").exists()).await;
}

#[tokio::test]
async fn a_thousand_jobs_end_once_each() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    daemon.start((0..1000).map(|number| stage.order(number, &["true"])));
    for number in 0..1000 {
        assert_eq!(daemon.ended(stage.attempt(number)).await.ending, Ending::Exited { code: 0 });
    }
    assert_eq!(daemon.list().await.len(), 1000);
    let all: Vec<_> = (0..1000).map(|number| stage.attempt(number)).collect();
    daemon.handle.forget(&all).expect("sent");
    assert_eq!(daemon.list().await, []);
}

#[tokio::test]
async fn a_successor_starts_when_its_predecessor_has_ended() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let after = |number, before, script: &str| {
        let mut order = stage.sh(number, script);
        order.after = Some(stage.attempt(before));
        order
    };
    let first = stage.sh(1, "while [ ! -e go ]; do sleep 0.01; done; echo 1 >> order; exit 9");
    let mut missing = after(2, 1, "");
    missing.command = vec!["no-such-program".to_owned()];
    let orders =
        [first, missing, after(3, 2, "echo 3 >> order"), after(4, 3, "echo 4 >> order"), after(5, 99, "exit 0")];
    daemon.start(orders);
    assert_eq!(daemon.ended(stage.attempt(5)).await.ending, Ending::Exited { code: 0 }, "99 is unknown");
    daemon.handle.stop(stage.attempt(4), Duration::ZERO).expect("sent");
    let stopped = daemon.ended(stage.attempt(4)).await;
    assert_eq!((stopped.ending, stopped.started_unix_ms), (Ending::Stopped, 0));
    let waiting = daemon.list().await.into_iter().filter(|status| matches!(status, AttemptStatus::Waiting(_)));
    assert_eq!(waiting.map(|status| status.attempt()).collect::<Vec<_>>(), [stage.attempt(2), stage.attempt(3)]);
    fs::write(stage.path("go"), "").expect("written");
    let first = daemon.ended(stage.attempt(1)).await;
    assert!(matches!(daemon.ended(stage.attempt(2)).await.ending, Ending::NotStarted(_)));
    let third = daemon.ended(stage.attempt(3)).await;
    assert!(third.started_unix_ms >= first.ended_unix_ms);
    assert_eq!(fs::read_to_string(stage.path("order")).expect("there"), "1\n3\n");
}
