//! The simulator in CI: hundreds of seeds hold every invariant, rare paths are reached, a seed repeats, and each
//! planted bug is found.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cluster_tests::sim::coverage::Coverage;
use cluster_tests::sim::{Plan, run};

/// What CI runs; more by hand with `cargo run -p cluster-tests --bin sim -- --seeds A..B`.
const SEEDS: Range<u64> = 0..500;
/// Seeds that failed once, beyond those above: never again.
const COMMITTED: [u64; 3] = [2_176, 2_271, 5_853];
/// A planted bug is found within so many seeds.
const SEEDS_TO_FIND: &str = "0..600";

#[test]
fn every_invariant_holds_in_every_seed() {
    let began = Instant::now();
    let next = AtomicU64::new(SEEDS.start);
    let worker = || {
        let mut coverage = Coverage::default();
        let mut steps = 0;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let committed = usize::try_from(seed.saturating_sub(SEEDS.end)).ok().and_then(|at| COMMITTED.get(at));
            let seed = match committed {
                _ if seed < SEEDS.end => seed,
                Some(&committed) => committed,
                None => return (coverage, steps),
            };
            match run(&Plan::of(seed), 0) {
                Ok(report) => {
                    coverage.add(&report.coverage);
                    steps += report.steps;
                }
                Err(failure) => panic!(
                    "seed {seed} broke {}\nreproduce: cargo run -p cluster-tests --bin sim -- --seed {seed}",
                    failure.violation
                ),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let (mut coverage, mut steps) = (Coverage::default(), 0);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        for run in runs {
            let (reached, stepped) = run.join().expect("a seed failed: see above");
            coverage.add(&reached);
            steps += stepped;
        }
    });
    println!("{coverage}{} seeds, {steps} steps, {:.1} s", SEEDS.end, began.elapsed().as_secs_f64());
    assert_eq!(coverage.missing(), Vec::<&str>::new(), "rare paths that no seed reached");
}

#[test]
fn a_seed_repeats_byte_for_byte() {
    for seed in [3, 17, 50] {
        let once = run(&Plan::of(seed), 0).map_err(|failure| failure.violation);
        let again = run(&Plan::of(seed), 0).map_err(|failure| failure.violation);
        assert_eq!(once, again, "seed {seed}");
    }
    let digest = |seed| run(&Plan::of(seed), 0).expect("holds").digest;
    assert_ne!(digest(3), digest(17), "the digest tells runs apart");
}

#[test]
fn telling_the_story_changes_nothing() {
    let plan = Plan::of(5);
    let silent = run(&plan, 0).expect("holds");
    assert_eq!(silent, run(&plan, 10).expect("holds"));
}

#[test]
fn every_planted_bug_is_found_from_seeds_alone() {
    let sim = build_planted();
    for (_, name, invariant) in proto::plant::PLANTS {
        let output = Command::new(&sim)
            .args(["--seeds", SEEDS_TO_FIND, "--plant", name, "--expect-violation", invariant])
            .output()
            .expect("the simulator was just built");
        let told = String::from_utf8_lossy(&output.stdout);
        println!("{name}: {}", told.lines().last().unwrap_or_default());
        assert!(output.status.success(), "{name} was not found by {invariant}:\n{told}");
    }
}

/// Builds the simulator with the planted bugs, aside from everything else that is built.
fn build_planted() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace has a root");
    let target = root.join("target").join("plants");
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["build", "--quiet", "--offline", "-p", "cluster-tests", "--bin", "sim", "--features", "planted"])
        .arg("--target-dir")
        .arg(&target)
        .status()
        .expect("cargo runs this very test");
    assert!(status.success(), "the simulator does not build with --features planted");
    target.join("debug").join("sim")
}
