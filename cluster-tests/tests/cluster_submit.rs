//! Three nodes, none of them special: a job submitted on any is seen, read and fetched from each.

mod lab;

use lab::output::{list, node_name, text};
use lab::{Lab, SOON};

#[test]
fn a_job_of_any_node_has_its_exact_exit_code_and_log_on_each() {
    let lab = Lab::start(3);
    let codes = [0_u8, 7, 255];
    let jobs: Vec<String> = (0..3)
        .map(|node| {
            let script = format!("echo said by {node}; echo complained by {node} >&2; exit {}", codes[node]);
            lab.submit_id(node, &[], &script)
        })
        .collect();
    for (from, job) in jobs.iter().enumerate() {
        for reader in 0..3 {
            let word = lab.wait_ended(reader, job, SOON);
            let state = if codes[from] == 0 { "completed" } else { "failed" };
            assert_eq!(text(&word, "state"), state, "{word}");
            assert_eq!(text(&word["ending"], "reason"), "exited", "{word}");
            assert_eq!(word["ending"]["exit_code"], codes[from], "{word}");
            assert_eq!(list(&word, "attempts").len(), 1, "{word}");
            let log = lab.logs(reader, job);
            assert_eq!(log, format!("said by {from}\ncomplained by {from}\n"), "n{reader} reads {job}");
        }
        let other = (from + 1) % 3;
        let exits = [i32::from(codes[from] != 0), i32::from(codes[from])];
        assert_eq!(lab.fnode(other, &["job", "wait", job]).code, exits[0]);
        assert_eq!(lab.fnode(other, &["job", "wait", "--propagate", job]).code, exits[1]);
    }
}

#[test]
fn a_signal_a_missing_command_and_a_timeout_are_told_apart() {
    let lab = Lab::start(2);
    let killed = lab.submit_id(0, &[], "kill -SEGV $$");
    let slow = lab.submit_id(1, &["--timeout", "1s"], "sleep 600");
    let missing = lab.json(0, &["submit", "--no-bundle", "--project", "lab", "--", "no-such-program"]);
    let missing = text(&missing, "id");
    let word = lab.wait_ended(1, &killed, SOON);
    assert_eq!((text(&word["ending"], "signal"), &word["ending"]["exit_code"]), ("SIGSEGV", &139.into()), "{word}");
    let word = lab.wait_ended(0, &slow, SOON);
    assert_eq!((text(&word, "state"), text(&word["ending"], "reason")), ("failed", "timed_out"), "{word}");
    let word = lab.wait_ended(1, missing, SOON);
    assert_eq!((text(&word, "state"), text(&word["ending"], "reason")), ("failed", "command_not_found"), "{word}");
}

#[test]
fn an_array_is_one_submission_with_an_outcome_for_each_index() {
    let lab = Lab::start(3);
    let script = "echo index $FNODE_ARRAY_INDEX; test $((FNODE_ARRAY_INDEX % 3)) -ne 0";
    let answer = lab.submit(1, &["--array", "1-20"], script);
    assert_eq!(answer["jobs"], 20, "{answer}");
    let array = text(&answer, "id");
    assert_eq!(lab.fnode(2, &["job", "wait", array]).code, 1, "six of twenty fail");
    for reader in 0..3 {
        lab.wait_ended(reader, array, SOON);
        let members = lab.members(reader, array);
        assert_eq!(members.len(), 20, "{members:?}");
        for (at, member) in members.iter().enumerate() {
            let index = at + 1;
            let (state, code) = if index % 3 == 0 { ("failed", 1) } else { ("completed", 0) };
            assert_eq!(text(member, "id"), format!("{array}/{index}"));
            assert_eq!((text(member, "state"), &member["ending"]["exit_code"]), (state, &code.into()), "{member}");
        }
        assert_eq!(lab.logs(reader, &format!("{array}/7")), "index 7\n");
    }
}

#[test]
fn outputs_are_fetched_from_a_node_that_neither_accepted_nor_ran_the_job() {
    let lab = Lab::start(3);
    let large = vec![b'x'; 300_000];
    let bundle = lab.bundle(&[("data/words.txt", b"one\ntwo\n"), ("large.bin", &large)]);
    let script = "tr a-z A-Z < data/words.txt > loud.txt; mkdir made; cat large.bin large.bin > made/twice.bin";
    let answer = lab.json(0, &["submit", "--project", "lab", "--node", "n1", &bundle, "--", "sh", "-c", script]);
    let job = text(&answer, "id");
    let word = lab.wait_ended(2, job, SOON);
    assert_eq!((text(&word, "state"), node_name(&word, "node")), ("completed", "n1"), "{word}");
    let to = lab.path("fetched");
    lab.fnode(2, &["job", "get", job, "--to", to.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(to.join("loud.txt")).unwrap(), "ONE\nTWO\n");
    assert_eq!(std::fs::read(to.join("made/twice.bin")).unwrap(), [&large[..], &large[..]].concat());
    assert!(!to.join("data").exists() && !to.join("large.bin").exists(), "what the job did not change is no output");
}
