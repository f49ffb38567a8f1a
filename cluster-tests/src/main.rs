//! `sim`: runs seeds of the simulator by hand, and reproduces the ones that failed.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use cluster_tests::sim::coverage::Coverage;
use cluster_tests::sim::{Plan, run};

/// Runs the real cores of a simulated cluster, one world per seed.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Args {
    /// Run this seed.
    #[arg(long, default_value_t = 0, conflicts_with = "seeds")]
    seed: u64,
    /// Run these seeds: `A..B`, the last not included.
    #[arg(long, value_parser = parse_seeds)]
    seeds: Option<std::ops::Range<u64>>,
    /// Leave all faults out.
    #[arg(long)]
    without_faults: bool,
    /// Succeed only if a seed breaks this invariant (`I1` … `I7`): for planted bugs.
    #[arg(long, value_name = "INVARIANT")]
    expect_violation: Option<String>,
    /// Plant this known bug first; needs a build with `--features planted`.
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
    /// Instead: measure the cores alone with one array, as `NODES,CPUS,JOBS,MILLISECONDS`.
    #[arg(long, value_name = "N,C,J,MS")]
    load: Option<String>,
    /// Tell so many lines of a failure.
    #[arg(long, default_value_t = 120)]
    lines: usize,
    /// Print one line per seed.
    #[arg(long)]
    verbose: bool,
}

fn parse_seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("write a range as 0..500")?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("\"{text}\" is not a number"));
    Ok(number(first)?..number(end)?)
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(name) = &args.plant
        && let Err(why) = plant(name)
    {
        eprintln!("sim: {why}");
        return ExitCode::from(2);
    }
    if let Some(load) = &args.load {
        return measure(load);
    }
    // A panic of a core is a finding like any other: told with its seed, below.
    std::panic::set_hook(Box::new(|_| {}));
    let seeds = args.seeds.clone().unwrap_or(args.seed..args.seed + 1);
    let began = Instant::now();
    let mut coverage = Coverage::default();
    let mut steps = 0;
    for seed in seeds.clone() {
        let plan = Plan::of(seed);
        let plan = if args.without_faults { plan.without_faults() } else { plan };
        match run(&plan, 0) {
            Ok(report) => {
                coverage.add(&report.coverage);
                steps += report.steps;
                if args.verbose {
                    let simulated_s = report.length_us / 1_000_000;
                    println!("seed {seed}: {} steps, {simulated_s} simulated seconds, {}", report.steps, report.digest);
                }
            }
            Err(failure) if args.expect_violation.as_deref() == Some(failure.violation.invariant) => {
                println!("seed {seed} found it: {}", failure.violation);
                return ExitCode::SUCCESS;
            }
            Err(failure) if args.expect_violation.is_some() => println!("seed {seed}: {}", failure.violation),
            Err(_) => return tell_failure(&plan, &args),
        }
    }
    if let Some(invariant) = args.expect_violation {
        println!("no seed of {seeds:?} breaks {invariant}");
        return ExitCode::FAILURE;
    }
    print!("{coverage}");
    println!("{} seeds, {steps} steps, {:.1} s", seeds.end - seeds.start, began.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn measure(load: &str) -> ExitCode {
    let numbers: Result<Vec<u32>, _> = load.split(',').map(str::parse).collect();
    let Ok(&[nodes, cpus, jobs, length_ms]) = numbers.as_deref() else {
        eprintln!("sim: --load {load}: write four numbers, for example 2,8,10000,5");
        return ExitCode::from(2);
    };
    let load = cluster_tests::sim::load::array(nodes as usize, cpus, jobs, length_ms.into());
    let per_second = |time: std::time::Duration| f64::from(jobs) / time.as_secs_f64();
    println!("{load:?}");
    println!(
        "{:.0} jobs/s of all cores' time, {:.0} of the busiest",
        per_second(load.core_time),
        per_second(load.busiest)
    );
    ExitCode::SUCCESS
}

#[cfg(feature = "planted")]
fn plant(name: &str) -> Result<(), String> {
    let known = proto::plant::PLANTS.iter().find(|(_, known, _)| *known == name);
    let (plant, ..) = known.ok_or_else(|| format!("no planted bug is called \"{name}\""))?;
    proto::plant::plant(*plant);
    Ok(())
}

#[cfg(not(feature = "planted"))]
fn plant(name: &str) -> Result<(), String> {
    Err(format!("--plant {name} needs a build with --features planted"))
}

/// Runs the plan once more, which gives the same run, and keeps its story this time.
fn tell_failure(plan: &Plan, args: &Args) -> ExitCode {
    let failure = run(plan, args.lines).expect_err("a seed that failed fails again");
    println!("{}\nseed {} broke {}", failure.story, plan.seed, failure.violation);
    let faults = if args.without_faults { " --without-faults" } else { "" };
    println!("reproduce: cargo run -p cluster-tests --bin sim -- --seed {}{faults}", plan.seed);
    ExitCode::FAILURE
}
