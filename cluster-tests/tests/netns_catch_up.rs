//! Repairing k missing entries costs O(k) bytes: counted at a node's own network interface, with headers,
//! heartbeats and all.

mod lab;

use std::time::{Duration, Instant};

use lab::network::Network;
use lab::output::text;
use lab::{Lab, READY_MAX, SOON, wait_for};

/// Texts that make the log long: this many jobs with this many random characters each (an argument of a program
/// has at most 128 KiB).
const LONG_JOBS: usize = 16;
const LONG_BYTES: usize = 120_000;
/// Jobs that the node misses.
const MISSED_JOBS: usize = 10;
/// Their entries, each with its signature, in every log that tells of them, several times over: a job has a
/// submission, an attempt that starts and ends, an outcome and what a second node holds of it.
const MISSED_BYTES_MAX: u64 = MISSED_JOBS as u64 * 8_000;
/// Connecting to three nodes, becoming a member, comparing version vectors, capacities.
const RETURN_BYTES_MAX: u64 = 80_000;
/// Heartbeats, comparisons of vectors and what commands fetch, each second.
const CHATTER_BYTES_PER_S: u64 = 16_000;

/// Characters that no compression makes fewer (xorshift64*, Vigna 2016).
fn noise(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let digit = (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 58) as u32;
        char::from_digit(digit % 36, 36).expect("a digit of base 36")
    };
    (0..LONG_BYTES).map(next).collect()
}

#[test]
fn a_node_that_was_away_fetches_what_it_missed_and_no_more() {
    let Some(network) = Network::or_skip(4) else { return };
    let mut lab = Lab::start_on(network, 4);
    let jobs: Vec<String> = (0..LONG_JOBS)
        .map(|at| {
            let variable = format!("NOISE={}", noise(at as u64 + 1));
            lab.submit_id(at % 3, &["--env", &variable], "true")
        })
        .collect();
    for job in &jobs {
        lab.wait_ended(3, job, SOON);
    }
    let whole = lab.network().received_bytes(3);
    let log_bytes = (LONG_JOBS * LONG_BYTES) as u64;
    assert!(whole > log_bytes, "the counter counts: {whole} bytes for a log of {log_bytes}");

    lab.kill_host(3);
    lab.wait_until_missed(0, 3);
    let missed: Vec<String> = (0..MISSED_JOBS).map(|at| lab.submit_id(at % 3, &[], &format!("exit {at}"))).collect();
    for job in &missed {
        lab.wait_ended(0, job, SOON);
    }
    let before = lab.network().received_bytes(3);
    let start = Instant::now();
    lab.restart(3);
    for (at, job) in missed.iter().enumerate() {
        assert_eq!(lab.wait_ended(3, job, SOON)["ending"]["exit_code"], at);
    }
    wait_for("the others count it as a holder", READY_MAX, || {
        let nodes = lab.json(0, &["node", "list"]);
        let word = nodes["nodes"].as_array()?.iter().find(|word| text(word, "name") == "n3")?.clone();
        (word["holds_log"] == true).then_some(())
    });
    let took = start.elapsed() + Duration::from_secs(1);
    let received = lab.network().received_bytes(3) - before;
    eprintln!("{MISSED_JOBS} missed jobs cost {received} bytes in {took:?}; the whole log has {log_bytes}");
    let allowed = RETURN_BYTES_MAX + MISSED_BYTES_MAX + CHATTER_BYTES_PER_S * took.as_secs();
    assert!(allowed < log_bytes / 2, "otherwise this proves nothing");
    assert!(received <= allowed, "{received} bytes, {allowed} allowed");
}
