//! How much of a bare spawn loop's speed is left through two whole nodes, durable log on, capture off:
//! `cargo run --release -p node --example task_rate -- [JOBS]`. Prints medians of alternating rounds.

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use node::node::{Config, Home, Running, start};
use proto::job::IndexRanges;
use proto::{GroupSpec, JobId};

const JOBS: u32 = 10_000;
const ROUNDS: usize = 3;
/// Processes at a time in the bare loop: this machine's cores.
const SLOTS: u32 = 2;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == "runner").is_some() {
        return node::exec::runner::main(args);
    }
    let jobs = args.next().and_then(|jobs| jobs.to_str()?.parse().ok()).unwrap_or(JOBS);
    match measure(jobs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("task_rate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Each node on a thread and a runtime of its own, as two daemons would be.
fn measure(jobs: u32) -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir_in(std::env::var("FNODE_BENCH_DIR").unwrap_or_else(|_| "/dev/shm".to_owned()))?;
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (first, second) = (runtime()?, runtime()?);
    let a = first.block_on(start(config(home.path(), "a")?))?;
    let ticket = first.block_on(a.handle.invite(Duration::from_secs(600)))?;
    let joining = Config { join: Some(ticket), ..config(home.path(), "b")? };
    let b = second.block_on(async { tokio::spawn(start(joining)).await })??;
    first.block_on(met(&a, &b));
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bare.push(bare_loop(jobs)?);
        ours.push(first.block_on(through_nodes(&a, jobs))?);
        println!("round {round}: bare {:?}, nodes {:?}", bare[round], ours[round]);
    }
    let (bare, ours) = (median(bare), median(ours));
    println!("{jobs} x true: bare {bare:?}, two nodes {ours:?}, ratio {:.3}", bare.as_secs_f64() / ours.as_secs_f64());
    second.block_on(b.handle.shutdown(true))?;
    first.block_on(a.handle.shutdown(true))?;
    Ok(())
}

fn config(dir: &Path, name: &str) -> Result<Config, Box<dyn Error>> {
    Ok(Config {
        cpu_milli_max: Some(1_000),
        ..Config::on_loopback(Home::new(&dir.join(name)), name, std::env::current_exe()?)
    })
}

async fn met(a: &Running, b: &Running) {
    while !a
        .handle
        .view()
        .await
        .is_ok_and(|view| view.nodes.get(&b.handle.me()).is_some_and(|seen| seen.connected && seen.advert.is_some()))
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn through_nodes(node: &Running, jobs: u32) -> Result<Duration, Box<dyn Error>> {
    let spec = GroupSpec {
        array: IndexRanges::from_indices(1..=jobs),
        capture: false,
        keep_outputs: false,
        ..GroupSpec::new("bench", "bench", vec!["/bin/true".to_owned()])
    };
    let clock = Instant::now();
    let accepted = node.handle.submit(None, spec).await?;
    let group = JobId::only(accepted.group).group;
    loop {
        let record = node.handle.group(group)?.ok_or("the group is gone")?;
        if record.tally.ended() >= jobs {
            return if record.tally.completed == jobs { Ok(clock.elapsed()) } else { Err("a job failed".into()) };
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One thread per slot, each spawning and waiting: nothing on this machine starts processes faster.
fn bare_loop(jobs: u32) -> std::io::Result<Duration> {
    let clock = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SLOTS)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..jobs / SLOTS {
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

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
