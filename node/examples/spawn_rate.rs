//! How much of a bare spawn loop's speed is left when the runner starts the processes:
//! `cargo run --release -p node --example spawn_rate -- [JOBS]`. Prints medians of alternating rounds, and the
//! runner's memory.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use node::exec::client::{RunnerEvent, RunnerEvents, RunnerHandle, RunnerLaunch};
use node::exec::protocol::{Event, Output, ShutdownWhen, StartOrder};
use node::exec::runner::RunnerFiles;
use proto::{AttemptId, GroupId, JobId, job::Ending};

const JOBS: u32 = 10_000;
const ROUNDS: usize = 5;
const SLOTS: usize = 2;
/// Orders per slot that are tried: only what runs; its successor too; a few more.
const AHEAD: [usize; 3] = [1, 2, 8];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == "runner").is_some() {
        return node::exec::runner::main(args);
    }
    match measure(args.next()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spawn_rate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(jobs: Option<OsString>) -> Result<(), Box<dyn Error>> {
    let jobs = jobs.and_then(|jobs| jobs.to_str()?.parse().ok()).unwrap_or(JOBS);
    let home = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(SLOTS).enable_all().build()?;
    let launch = RunnerLaunch {
        files: RunnerFiles::new(&home.path().join("run"))?,
        exe: std::env::current_exe()?,
        daemon_command: Vec::new(),
    };
    let (handle, mut events) = runtime.block_on(RunnerHandle::connect_or_spawn(launch))?;
    let Some(RunnerEvent::Connected { runner, .. }) = runtime.block_on(events.recv()) else {
        return Err("the runner did not say hello".into());
    };
    let mut bare = Vec::new();
    let mut ours: [Vec<Duration>; AHEAD.len()] = Default::default();
    for round in 0..ROUNDS {
        bare.push(bare_loop(jobs)?);
        for (at, times) in ours.iter_mut().enumerate() {
            let group = GroupId([u8::try_from(AHEAD.len() * round + at)?; 16]);
            let load = Load { group, jobs: usize::try_from(jobs)?, ahead: AHEAD[at], cwd: home.path() };
            times.push(runtime.block_on(load.run(&handle, &mut events))?);
        }
        let times: Vec<_> = ours.iter().map(|times| times[round]).collect();
        println!("round {round}: bare {:?}, runner {times:?}", bare[round]);
    }
    println!("runner: {}", memory(runner.runner.pid)?);
    let bare = median(bare).as_secs_f64();
    println!("{jobs} x true, {SLOTS} at a time, medians: bare {bare:.3} s");
    for (ahead, times) in AHEAD.into_iter().zip(ours) {
        let waiting = ahead - 1;
        println!("ratio {:.3} with {waiting} waiting orders per slot", bare / median(times).as_secs_f64());
    }
    runtime.block_on(handle.shutdown(ShutdownWhen::Now))?;
    Ok(())
}

/// One thread per slot, each spawning and waiting: nothing on this machine starts processes faster.
fn bare_loop(jobs: u32) -> std::io::Result<Duration> {
    let clock = Instant::now();
    let share = jobs / u32::try_from(SLOTS).unwrap_or(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SLOTS)
            .map(|_| {
                scope.spawn(move || {
                    for _ in 0..share {
                        let mut command = Command::new("/bin/true");
                        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                        command.spawn()?.wait()?;
                    }
                    Ok::<(), std::io::Error>(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    Ok(clock.elapsed())
}

/// `jobs` times `true` through the runner, `SLOTS` at a time.
struct Load<'a> {
    group: GroupId,
    jobs: usize,
    /// Orders per slot: 1: only what runs; 2: also its successor.
    ahead: usize,
    cwd: &'a Path,
}

impl Load<'_> {
    async fn run(&self, handle: &RunnerHandle, events: &mut RunnerEvents) -> Result<Duration, Box<dyn Error>> {
        let clock = Instant::now();
        let mut next = (SLOTS * self.ahead).min(self.jobs);
        handle.start((0..next).map(|number| self.order(number)).collect())?;
        let mut done = 0;
        while done < self.jobs {
            let Some(RunnerEvent::Progress(news)) = events.recv().await else {
                return Err("the runner left".into());
            };
            let mut ended = Vec::new();
            for event in news {
                if let Event::Ended(end) = event {
                    if end.ending != (Ending::Exited { code: 0 }) {
                        return Err(format!("{}: {:?}", end.attempt, end.ending).into());
                    }
                    ended.push(end.attempt);
                }
            }
            if ended.is_empty() {
                continue;
            }
            done += ended.len();
            let until = (next + ended.len()).min(self.jobs);
            handle.forget(&ended)?;
            handle.start((next..until).map(|number| self.order(number)).collect())?;
            next = until;
        }
        Ok(clock.elapsed())
    }

    fn order(&self, number: usize) -> StartOrder {
        StartOrder {
            attempt: self.attempt(number),
            command: vec!["/bin/true".to_owned()],
            cwd: PathBuf::from(self.cwd),
            env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            stdout: Output::Null,
            stderr: Output::Null,
            memory_limit_bytes: 0,
            cpu_milli: 1000,
            timeout_s: 0,
            grace_ms: 1000,
            cleanup_dir: None,
            after: number.checked_sub(SLOTS).map(|before| self.attempt(before)),
        }
    }

    fn attempt(&self, number: usize) -> AttemptId {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        AttemptId { job: JobId::only(self.group), epoch: 1, number }
    }
}

fn memory(pid: u32) -> std::io::Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let lines = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("Rss"));
    Ok(lines.collect::<Vec<_>>().join(", ").replace('\t', " "))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
