//! `fnode cache verify`: whether cached values are what they should be. Their bytes are the daemon's to look at; whether a
//! function still computes the same is found out by running a program that calls it, which then computes what it finds, too.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, ExitStatus};

use comfy_table::Cell;
use proto::ByteSize;
use serde::{Deserialize, Serialize};

use super::args::CacheVerifyArgs;
use super::bundle::bar;
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::output::{Output, say, table};
use super::time::counted;
use crate::http::words::cache::{CacheCheckRequest, CacheChecked};
use crate::http::words::submit::CACHE_MODE;

/// Where the package writes a line per call that it computed although it had found its value.
const REPORT: &str = "FNODE_CACHE_REPORT";

/// A line of the report.
#[derive(Debug, Deserialize)]
struct Line {
    function: String,
    key: String,
    same: bool,
}

/// What was computed again.
#[derive(Debug, Default, Serialize)]
struct Verified {
    /// Calls whose values were computed again.
    calls: u64,
    /// Functions of which at least one was.
    functions: u64,
    /// Those that came out otherwise.
    differ: Vec<Differing>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Differing {
    function: String,
    key: String,
}

pub(crate) async fn verify(mut client: Client, args: CacheVerifyArgs, output: Output) -> Result<Exit, CliError> {
    if args.command.is_empty() {
        return check(&mut client, output).await;
    }
    recompute(&args, output)
}

/// Hashes what is on this node.
async fn check(client: &mut Client, output: Output) -> Result<Exit, CliError> {
    let mut all = CacheChecked::default();
    let bar = bar("hashing", output.is_json());
    loop {
        let request = CacheCheckRequest { after: all.next.take() };
        let part: CacheChecked = client.post("/cache/check", &request).await?;
        all.values += part.values;
        all.bytes += part.bytes;
        all.damaged.extend(part.damaged);
        all.next = part.next;
        bar.set_length(part.held_bytes.max(all.bytes));
        bar.set_position(all.bytes);
        all.held_bytes = part.held_bytes;
        if all.next.is_none() {
            break;
        }
    }
    bar.finish_and_clear();
    output.print(&all, checked_text)?;
    Ok(if all.damaged.iter().all(|damage| damage.mended) { Exit::Done } else { Exit::Failed })
}

fn checked_text(all: &CacheChecked) -> String {
    let values = format!("{} of {} on this node", counted(all.values, "value"), ByteSize(all.bytes));
    if all.damaged.is_empty() {
        return format!("{values}: every byte is as its maker stored it");
    }
    let rows = all.damaged.iter().map(|damage| {
        let now = if damage.mended { "fetched again" } else { "removed; the next call computes it" };
        vec![Cell::new(&damage.key), Cell::new(&damage.function), Cell::new(now)]
    });
    format!("{values}: the disk has changed {}\n", all.damaged.len()) + &table(&["key", "function", "now"], rows)
}

/// Runs a program that computes what it finds, and says what came out otherwise.
fn recompute(args: &CacheVerifyArgs, output: Output) -> Result<Exit, CliError> {
    let report = tempfile::NamedTempFile::new().map_err(|source| CliError::File {
        verb: "make",
        path: std::env::temp_dir(),
        source,
        remedy: "free some space there",
    })?;
    let mode = args.sample.map_or_else(|| "verify".to_owned(), |sample| format!("verify:{sample}"));
    let status = run(args, &mode, report.path(), output)?;
    let text = fs::read_to_string(report.path()).unwrap_or_default();
    let verified = sum(&text);
    output.print(&verified, verified_text)?;
    if verified.calls == 0 {
        say("jobs that the command submits verify by themselves, and tell in their logs what came out otherwise");
    }
    if !status.success() {
        say(&format!("the command itself did not succeed: {status}"));
    }
    Ok(if status.success() && verified.differ.is_empty() { Exit::Done } else { Exit::Failed })
}

fn run(args: &CacheVerifyArgs, mode: &str, report: &Path, output: Output) -> Result<ExitStatus, CliError> {
    let Some((program, words)) = args.command.split_first() else {
        return Err(CliError::usage("no command was given", "fnode cache verify -- python3 train.py"));
    };
    let mut command = Command::new(program);
    // The package reads it: `node/sdk/foundations/_cache/verify.py`.
    command.args(words).env(CACHE_MODE, mode).env(REPORT, report);
    if output.is_json() {
        // JSON has standard output to itself.
        let conversation = io::stderr().as_fd().try_clone_to_owned().map_err(CliError::Output)?;
        command.stdout(conversation);
    }
    command.status().map_err(|source: io::Error| CliError::File {
        verb: "run",
        path: program.into(),
        source,
        remedy: "name a program that is there",
    })
}

fn sum(report: &str) -> Verified {
    let mut verified = Verified::default();
    let mut functions: BTreeMap<String, u64> = BTreeMap::new();
    for line in report.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
        verified.calls += 1;
        *functions.entry(line.function.clone()).or_default() += 1;
        if !line.same {
            verified.differ.push(Differing { function: line.function, key: line.key });
        }
    }
    verified.differ.sort();
    verified.differ.dedup();
    verified.functions = functions.len() as u64;
    verified
}

fn verified_text(verified: &Verified) -> String {
    if verified.calls == 0 {
        return "nothing was compared: no cached call of the command found its value".to_owned();
    }
    let calls = format!("{} of {}", counted(verified.calls, "call"), counted(verified.functions, "function"));
    if verified.differ.is_empty() {
        return format!("{calls} computed again: the same came out");
    }
    let rows = verified.differ.iter().map(|differing| vec![Cell::new(&differing.key), Cell::new(&differing.function)]);
    format!("{calls} computed again; these came out otherwise:\n")
        + &table(&["key", "function"], rows)
        + "\nName what they depend on (depends_on=, files=), then: fnode cache purge KEY"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_summed_and_broken_lines_are_left_out() {
        let line = |function, key, same| format!("{{\"function\":\"{function}\",\"key\":\"{key}\",\"same\":{same}}}\n");
        let report = [line("f", "1a", true), line("f", "1b", false), line("f", "1b", false), line("g", "2", true)];
        let verified = sum(&(report.concat() + "{\"fun"));
        assert_eq!((verified.calls, verified.functions), (4, 2));
        assert_eq!(verified.differ, [Differing { function: "f".to_owned(), key: "1b".to_owned() }]);
        assert!(
            verified_text(&verified).starts_with("4 calls of 2 functions computed again; these came out otherwise:")
        );
        assert_eq!(verified_text(&sum("")), "nothing was compared: no cached call of the command found its value");
    }
}
