//! A runner and its daemons: connections that end, daemons that die or leave, runners that die or leave.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use node::exec::client::{RunnerError, RunnerHandle};
use node::exec::process::{exists, kill_orphans, signal};
use node::exec::protocol::{AttemptStatus, HANDSHAKE, Hello, Output, ShutdownWhen, VERSION_MAX, put_frame};
use proto::job::{Ending, LostReason};
use rustix::process::Signal;

use crate::stage::{DEADLINE, Stage, lines_of, until, until_gone};

#[tokio::test]
async fn jobs_live_through_the_daemon_and_their_logs_have_no_gap() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let mut order = stage.sh(1, "i=0; while [ ! -e enough ]; do i=$((i+1)); echo $i; done; echo $i > count; exit 42");
    order.stdout = Output::File(stage.path("log"));
    daemon.start([order.clone()]);
    let started = daemon.started(order.attempt).await;
    let runner = daemon.runner.runner;
    drop(daemon);
    let before = lines_of(&stage.path("log"), 1).await.len();
    lines_of(&stage.path("log"), before + 100).await;

    let mut daemon = stage.connect().await;
    assert_eq!(daemon.runner.runner, runner, "the same runner");
    assert_eq!(daemon.listed, [AttemptStatus::Running(started)]);
    fs::write(stage.path("enough"), "").expect("written");
    assert_eq!(daemon.ended(order.attempt).await.ending, Ending::Exited { code: 42 });
    let count: u64 = fs::read_to_string(stage.path("count")).expect("there").trim().parse().expect("a number");
    let expected: String = (1..=count).map(|line| format!("{line}\n")).collect();
    assert!(fs::read_to_string(stage.path("log")).expect("there") == expected, "a gap in {count} lines");
}

#[tokio::test]
async fn what_ended_without_a_daemon_is_listed_until_it_is_forgotten() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let order = stage.sh(1, "while [ ! -e go ]; do sleep 0.01; done; exit 5");
    daemon.start([order.clone()]);
    let process = daemon.started(order.attempt).await.process;
    drop(daemon);
    fs::write(stage.path("go"), "").expect("written");
    until_gone(process).await;

    for _ in 0..2 {
        let daemon = stage.connect().await;
        let [AttemptStatus::Ended(ended)] = &daemon.listed[..] else { panic!("{:?}", daemon.listed) };
        assert_eq!((ended.attempt, &ended.ending), (order.attempt, &Ending::Exited { code: 5 }));
    }
    let mut daemon = stage.connect().await;
    daemon.handle.forget(&[order.attempt]).expect("sent");
    assert_eq!(daemon.list().await, []);
}

#[tokio::test]
async fn a_newer_daemon_replaces_the_older() {
    let mut stage = Stage::new();
    let mut first = stage.connect().await;
    let mut second = stage.connect().await;
    first.gone().await;
    second.start([stage.sh(1, "exit 3")]);
    assert_eq!(second.ended(stage.attempt(1)).await.ending, Ending::Exited { code: 3 });
    // It comes back if it wants to, and then it is the newer one.
    let list = first.connected().await;
    assert!(matches!(&list[..], [AttemptStatus::Ended(_)]), "{list:?}");
    second.gone().await;
}

#[tokio::test]
async fn garbage_on_the_socket_hurts_nobody() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let socket = stage.files().socket();
    let mut unfriendly = Vec::new();
    put_frame(&mut unfriendly, HANDSHAKE, &Hello { version_min: 900, version_max: 901, build: "x".to_owned() })
        .expect("fits");
    let mut wild = Vec::new();
    put_frame(&mut wild, 77, &"what").expect("fits");
    let garbage: [&[u8]; 6] =
        [b"GET / HTTP/1.1\r\n\r\n", &[0xff; 100_000], &[1, 0, 0, 0, 7], &[0; 64], &unfriendly, &wild];
    for bytes in garbage {
        let mut stream = UnixStream::connect(&socket).expect("connects");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        // The runner may close before it has read everything.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    let idle: Vec<_> = (0..50).map(|_| UnixStream::connect(&socket).expect("connects")).collect();
    daemon.start([stage.sh(1, "exit 9")]);
    assert_eq!(daemon.ended(stage.attempt(1)).await.ending, Ending::Exited { code: 9 });
    drop(idle);
    assert!(exists(daemon.runner.runner));
}

#[tokio::test]
async fn a_daemon_that_talks_nonsense_after_hello_loses_its_connection_only() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    daemon.start([stage.sh(1, "sleep 600")]);
    let started = daemon.started(stage.attempt(1)).await;
    drop(daemon);
    let mut bytes = Vec::new();
    put_frame(&mut bytes, HANDSHAKE, &Hello::ours()).expect("fits");
    put_frame(&mut bytes, VERSION_MAX, &"nonsense").expect("fits");
    let mut stream = UnixStream::connect(stage.files().socket()).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    stream.write_all(&bytes).expect("written");
    stream.read_to_end(&mut Vec::new()).expect("closed in time");
    assert_eq!(stage.connect().await.listed, [AttemptStatus::Running(started)]);
}

#[tokio::test]
async fn after_a_goodbye_the_runner_ends_with_its_last_job_and_leaves_the_endings() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let order = stage.sh(1, "while [ ! -e go ]; do sleep 0.01; done; exit 6");
    daemon.start([order.clone()]);
    daemon.started(order.attempt).await;
    let first = daemon.runner.runner;
    daemon.handle.goodbye().await.expect("told");
    drop(daemon);
    assert!(exists(first) && stage.files().live_runner().is_some());
    fs::write(stage.path("go"), "").expect("written");
    until_gone(first).await;
    assert!(stage.files().live_runner().is_none() && !stage.files().socket().exists());

    let mut daemon = stage.connect().await;
    assert_ne!(daemon.runner.runner, first);
    let [AttemptStatus::Ended(ended)] = &daemon.listed[..] else { panic!("{:?}", daemon.listed) };
    assert_eq!((ended.attempt, &ended.ending), (order.attempt, &Ending::Exited { code: 6 }));
    assert!(stage.files().endings().exists(), "on disk until it is forgotten");
    daemon.handle.forget(&[order.attempt]).expect("sent");
    assert_eq!(daemon.list().await, []);
    assert!(!stage.files().endings().exists());
}

#[tokio::test]
async fn a_runner_that_was_shut_down_stops_its_jobs_and_says_so_later() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    daemon.start([stage.sh(1, "sleep 600")]);
    daemon.started(stage.attempt(1)).await;
    daemon.shutdown(ShutdownWhen::Now).await;
    daemon.gone().await;
    until_gone(daemon.runner.runner).await;
    assert_eq!(stage.jobs_left(), [0_u32; 0]);
    let daemon = stage.connect().await;
    let [AttemptStatus::Ended(ended)] = &daemon.listed[..] else { panic!("{:?}", daemon.listed) };
    assert_eq!(ended.ending, Ending::Lost(LostReason::RunnerDown));
}

#[tokio::test]
async fn a_runner_is_replaced_only_when_idle() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let order = stage.sh(1, "while [ ! -e go ]; do sleep 0.01; done");
    daemon.start([order.clone()]);
    daemon.started(order.attempt).await;
    daemon.shutdown(ShutdownWhen::Idle).await;
    assert!(exists(daemon.runner.runner));
    fs::write(stage.path("go"), "").expect("written");
    assert_eq!(daemon.ended(order.attempt).await.ending, Ending::Exited { code: 0 });
    until_gone(daemon.runner.runner).await;
}

#[tokio::test]
async fn what_a_killed_runner_left_is_killed_and_another_runner_starts() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    let script = "(setsid sh -c 'echo $$ >> pids; sleep 600; true' & ) & sh -c 'echo $$ >> pids; sleep 600; true'";
    daemon.start([stage.sh(1, script)]);
    let started = daemon.started(stage.attempt(1)).await;
    lines_of(&stage.path("pids"), 2).await;
    let runner = daemon.runner.clone();
    assert!(signal(runner.runner, Signal::KILL));
    daemon.gone().await;
    assert!(kill_orphans(&[stage.attempt(9)].into()) && exists(started.process), "another attempt's are spared");
    let attempts = [started.attempt].into();
    assert!(tokio::task::spawn_blocking(move || kill_orphans(&attempts)).await.expect("ran"));
    assert_eq!(stage.jobs_left(), [0_u32; 0]);
    assert!(matches!(daemon.handle.list(), Err(RunnerError::Gone)));
    assert_eq!(daemon.connected().await, [], "another runner was started");
    daemon.start([stage.sh(2, "exit 4")]);
    assert_eq!(daemon.ended(stage.attempt(2)).await.ending, Ending::Exited { code: 4 });
    stage.runner = stage.files().live_runner().map(|record| {
        assert_ne!(record.process, runner.runner);
        node::exec::protocol::Welcome { runner: record.process, ..runner }
    });
}

#[tokio::test]
async fn a_daemon_that_vanishes_is_started_again_and_one_that_says_goodbye_is_not() {
    let mut stage = Stage::new();
    let mut launch = stage.launch();
    let script = format!("echo started >> {}", stage.path("daemons").display());
    launch.daemon_command = ["/bin/sh", "-c", &script].map(OsString::from).to_vec();
    let daemon = stage.connect_with(launch.clone()).await;
    let runner = daemon.runner.runner;
    drop(daemon);
    lines_of(&stage.path("daemons"), 2).await;

    let daemon = stage.connect_with(launch).await;
    assert_eq!(daemon.runner.runner, runner);
    let before = fs::read_to_string(stage.path("daemons")).expect("there");
    daemon.handle.goodbye().await.expect("told");
    drop(daemon);
    until_gone(runner).await;
    assert_eq!(fs::read_to_string(stage.path("daemons")).expect("there"), before);
}

#[tokio::test]
async fn a_runner_without_daemon_and_job_ends_by_itself() {
    let mut stage = Stage::new();
    let daemon = stage.connect().await;
    let runner = daemon.runner.runner;
    drop(daemon);
    until_gone(runner).await;
}

#[tokio::test]
async fn two_daemons_that_start_at_once_share_one_runner() {
    let mut stage = Stage::new();
    let (first, second) =
        tokio::join!(RunnerHandle::connect_or_spawn(stage.launch()), RunnerHandle::connect_or_spawn(stage.launch()));
    assert!(first.is_ok() && second.is_ok());
    let daemon = stage.connect().await;
    assert_eq!(stage.files().live_runner().map(|record| record.process), Some(daemon.runner.runner));
}

#[tokio::test]
async fn what_prevents_a_runner_is_said() {
    let stage = Stage::new();
    let mut launch = stage.launch();
    launch.exe = stage.path("none");
    assert!(matches!(RunnerHandle::connect_or_spawn(launch).await, Err(RunnerError::Spawn { .. })));
    fs::write(stage.path("run"), "a file where the directory should be").expect("written");
    let error = RunnerHandle::connect_or_spawn(stage.launch()).await.map(drop).expect_err("no runner").to_string();
    assert!(error.contains("/run"), "{error}");
}

#[tokio::test]
async fn sigterm_stops_the_jobs_and_ends_the_runner() {
    let mut stage = Stage::new();
    let mut daemon = stage.connect().await;
    daemon.start([stage.sh(1, "sleep 600")]);
    daemon.started(stage.attempt(1)).await;
    let runner = daemon.runner.runner;
    let forget = daemon.handle.clone();
    assert!(signal(runner, Signal::TERM));
    assert_eq!(daemon.ended(stage.attempt(1)).await.ending, Ending::Lost(LostReason::RunnerDown));
    drop((daemon, forget));
    until_gone(runner).await;
    until("no job is left", || stage.jobs_left().is_empty()).await;
}
