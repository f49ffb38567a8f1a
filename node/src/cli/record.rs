//! What is recorded of every job without being asked: the code it came from, the machine and packages it ran with.

use proto::ByteSize;
use serde_json::json;

use super::client::{Client, segment};
use super::error::CliError;
use super::exit::Exit;
use super::output::{Output, write_out};
use crate::http::words::record::CheckoutWord;
use crate::node::RanWith;

/// So much of a commit is enough for people; `--json` has all of it.
const COMMIT_SHOWN: usize = 12;

/// `fnode job diff`.
pub(super) async fn diff(mut client: Client, job: &str, output: Output) -> Result<Exit, CliError> {
    let bytes = client.get_bytes(&format!("/jobs/{}/diff", segment(job))).await?;
    if output.is_json() {
        output.print_json(&json!({ "diff": String::from_utf8_lossy(&bytes) }))?;
    } else {
        write_out(&bytes)?;
    }
    Ok(Exit::Done)
}

/// The code, a line each.
pub(super) fn checkout(job: &str, checkout: &CheckoutWord) -> String {
    let commit = checkout.commit.get(..COMMIT_SHOWN).unwrap_or(&checkout.commit);
    let branch = if checkout.branch.is_empty() { String::new() } else { format!(" on {}", checkout.branch) };
    let changes = match &checkout.diff {
        Some(diff) => {
            let more = if diff.is_cut { " and more" } else { "" };
            format!(", with uncommitted changes ({}{more}; fnode job diff {job})", ByteSize(diff.size))
        }
        None if checkout.is_dirty => ", with uncommitted changes".to_owned(),
        None => String::new(),
    };
    let mut lines = vec![format!("commit {commit}{branch}{changes}")];
    lines.extend([&checkout.remote, &checkout.author].into_iter().filter(|text| !text.is_empty()).cloned());
    lines.join("\n")
}

/// Machine, processors and packages, a line each.
pub(super) fn ran_with(with: &RanWith) -> String {
    let mut machine: Vec<String> =
        [&with.hostname, &with.os, &with.cpu].into_iter().filter(|text| !text.is_empty()).cloned().collect();
    if with.cpu_threads > 0 {
        machine.push(format!("{} CPU threads", with.cpu_threads));
    }
    if with.memory_bytes > 0 {
        machine.push(format!("{} memory", ByteSize(with.memory_bytes)));
    }
    let mut lines = vec![machine.join(", ")];
    lines.extend(with.gpus.iter().map(|gpu| format!("{}, {}, {}", gpu.name, ByteSize(gpu.memory_bytes), gpu.uuid)));
    let packages = match with.packages.len() + with.packages_left_out {
        0 => String::new(),
        count => format!(", {count} packages (see them with --json)"),
    };
    if !with.python.is_empty() {
        lines.push(format!("Python {}{packages}", with.python));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::words::record::DiffWord;

    #[test]
    fn code_is_told_in_a_few_lines() {
        let mut word = CheckoutWord {
            commit: "0123456789abcdef".to_owned(),
            branch: "main".to_owned(),
            ..CheckoutWord::default()
        };
        assert_eq!(checkout("7", &word), "commit 0123456789ab on main");
        word.is_dirty = true;
        assert_eq!(checkout("7", &word), "commit 0123456789ab on main, with uncommitted changes");
        word.diff = Some(DiffWord { content: String::new(), size: 10, is_cut: true });
        word.remote = "https://x/y".to_owned();
        let text =
            "commit 0123456789ab on main, with uncommitted changes (10 B and more; fnode job diff 7)\nhttps://x/y";
        assert_eq!(checkout("7", &word), text);
    }

    #[test]
    fn a_machine_is_told_in_a_few_lines() {
        let with = RanWith {
            hostname: "alpha".to_owned(),
            cpu_threads: 2,
            python: "3.11.7".to_owned(),
            packages: vec!["numpy==2".to_owned()],
            ..RanWith::default()
        };
        assert_eq!(ran_with(&with), "alpha, 2 CPU threads\nPython 3.11.7, 1 packages (see them with --json)");
        assert_eq!(ran_with(&RanWith::default()), "");
    }
}
