//! A new node starts from a snapshot that two members made equally, not from every entry since the first; what a
//! snapshot covers is removed; nothing that was known is lost, nothing that was deleted returns. The bytes that the
//! new node receives are counted at its network interface where namespaces are allowed, else only what its log
//! takes on its disk.

mod lab;

use std::time::Instant;

use lab::network::Network;
use lab::output::text;
use lab::{LATE, Lab, Launch, SOON, wait_for};

/// A snapshot after so few entries, and what it covers is removed at once.
const EVERY: u64 = 20;
const CONFIG: &str = "log_snapshot_every = 20\nlog_horizon = \"1s\"\n";
/// Notes that overwrite each other: the log grows, the state does not.
const NOTES: usize = 120;
const NOTE_BYTES: usize = 4_000;
/// An entry with a note, and its way through gossip.
const ENTRY_BYTES_MAX: u64 = 5_000;
/// Connecting to two nodes, becoming a member, comparing version vectors, capacities.
const JOIN_BYTES_MAX: u64 = 80_000;
/// Heartbeats, comparisons of vectors and what commands fetch, each second.
const CHATTER_BYTES_PER_S: u64 = 16_000;

fn add(lab: &mut Lab) -> usize {
    let node = lab.add_apart(&Launch::default());
    std::fs::create_dir_all(lab.home(node)).expect("a directory can be made");
    std::fs::write(lab.home(node).join("config.toml"), CONFIG).expect("a file can be written");
    let ticket = (node > 0).then(|| lab.invite(0));
    lab.launch(node, ticket.as_deref());
    lab.wait_until_ready(node);
    node
}

fn note(at: usize) -> String {
    let seed = blake3::hash(&at.to_le_bytes()).to_string();
    seed.repeat(NOTE_BYTES / seed.len())
}

fn log_of(lab: &Lab, node: usize, what: &str) -> u64 {
    lab.json(node, &["status"])["log"][what].as_u64().expect("status tells of the log")
}

/// All that the test put in is there.
fn check(lab: &Lab, node: usize, (kept, last): (&str, &str), deleted: &str) {
    wait_for(&format!("n{node} has the last note"), SOON, || {
        let told = lab.fnode(node, &["job", "show", kept, "--json"]);
        (told.code == 0 && text(&told.json(), "note") == last).then_some(())
    });
    assert_eq!(text(&lab.wait_ended(node, kept, SOON), "state"), "completed");
    let listed = lab.json(node, &["jobs"]).to_string();
    assert!(listed.contains(kept) && !listed.contains(deleted), "n{node} lists {listed}");
}

#[test]
fn a_new_node_starts_from_a_snapshot_and_old_entries_go() {
    let network = Network::or_skip(3);
    let counts = network.is_some();
    let mut lab = network.map_or_else(Lab::empty, |network| Lab::start_on(network, 0));
    add(&mut lab);
    add(&mut lab);
    lab.wait_for_members(&[0, 1]);
    let kept = lab.submit_id(0, &[], "echo kept");
    let deleted = lab.submit_id(1, &[], "echo deleted");
    for job in [&kept, &deleted] {
        lab.wait_ended(0, job, SOON);
    }
    lab.fnode(0, &["job", "delete", &deleted]).ok();
    for at in 0..NOTES {
        lab.fnode(at % 2, &["job", "note", &kept, &note(at)]).ok();
    }
    let mut notes = NOTES;
    let whole = (NOTES * NOTE_BYTES) as u64;
    for node in 0..2 {
        wait_for(&format!("n{node} lets old entries go"), LATE, || {
            // What came while one snapshot was made goes with the next, which is due after more has come.
            notes += 1;
            lab.fnode(0, &["job", "note", &kept, &note(notes)]).ok();
            let (entries, bytes) = (log_of(&lab, node, "snapshot_entries"), log_of(&lab, node, "bytes"));
            // A segment is filled with zeros 256 KiB ahead of its end.
            (entries > (NOTES as u64) / 2 && bytes < whole * 3 / 4).then_some(())
        });
        assert_eq!(log_of(&lab, node, "snapshot_signers"), 2);
    }

    let last = note(notes);
    let start = Instant::now();
    let joiner = add(&mut lab);
    check(&lab, joiner, (&kept, &last), &deleted);
    assert!(log_of(&lab, joiner, "snapshot_entries") > 0, "it started from a snapshot");
    if counts {
        let (received, took) = (lab.network().received_bytes(joiner), start.elapsed());
        let snapshot = log_of(&lab, joiner, "snapshot_bytes");
        eprintln!("joining cost {received} bytes in {took:?}; the log had {whole}, the snapshot {snapshot}");
        let allowed = JOIN_BYTES_MAX + EVERY * ENTRY_BYTES_MAX + snapshot + CHATTER_BYTES_PER_S * took.as_secs();
        assert!(allowed < whole * 2 / 3, "otherwise this proves nothing: {allowed}");
        assert!(received <= allowed, "{received} bytes, {allowed} allowed");
    }

    // A node of each kind loses power: one that removed entries, one that never had them.
    for node in [1, joiner] {
        lab.kill_host(node);
        lab.restart(node);
        check(&lab, node, (&kept, &last), &deleted);
    }
    lab.wait_for_members(&[0, 1, joiner]);
    let after = lab.submit_id(joiner, &["--node", "n1"], "echo after");
    assert_eq!(text(&lab.wait_ended(0, &after, SOON), "state"), "completed");
}
