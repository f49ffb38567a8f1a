//! How an attempt or a job ended, as a reason for programs and a sentence for people.

use proto::Ending;
use proto::job::{LostReason, StartFailure};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How something ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndingWord {
    /// For programs.
    pub reason: EndReason,
    /// What `--propagate` exits with: the job's own code, 128 + signal, or 1.
    pub exit_code: u8,
    /// The signal's name, as `SIGKILL`; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signal: String,
    /// What the reason is about: a command, a path, a job, the end of a build log; empty: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// For people, one line.
    pub text: String,
}

/// Why something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The process exited by itself.
    Exited,
    /// A signal that nobody in the cluster sent.
    Signalled,
    /// The kernel killed it for memory.
    OutOfMemory,
    /// It ran longer than its timeout.
    TimedOut,
    /// A user stopped it.
    Stopped,
    /// No such program on the node or in the bundle.
    CommandNotFound,
    /// The program may not be executed.
    NotExecutable,
    /// A file of the bundle could not be had from any node.
    BundleMissing,
    /// The bundle did not fit on the disk.
    DiskFull,
    /// The environment could not be built.
    Environment,
    /// A path given with `--data` is not on the node.
    DataMissing,
    /// A secret is not on the node.
    SecretMissing,
    /// A job that it waited for ended the wrong way.
    Dependency,
    /// The operating system refused to start it.
    System,
    /// Its node was declared dead.
    NodeDown,
    /// The runner that owned the process is gone.
    RunnerDown,
    /// The node came back without it.
    AttemptGone,
    /// Lost, or its node crashed, five times.
    CrashLimit,
    /// A script that was started by hand ended without telling how.
    Untold,
}

impl From<&Ending> for EndingWord {
    fn from(ending: &Ending) -> Self {
        let (reason, detail) = reason(ending);
        let signal = match ending {
            Ending::Signalled { signal } => signal_name(*signal),
            _ => String::new(),
        };
        let text = text(ending, &signal);
        Self { reason, exit_code: ending.exit_code(), signal, detail, text }
    }
}

fn reason(ending: &Ending) -> (EndReason, String) {
    let plain = |reason| (reason, String::new());
    match ending {
        Ending::Exited { .. } => plain(EndReason::Exited),
        Ending::Signalled { .. } => plain(EndReason::Signalled),
        Ending::OutOfMemory => plain(EndReason::OutOfMemory),
        Ending::TimedOut => plain(EndReason::TimedOut),
        Ending::Stopped => plain(EndReason::Stopped),
        Ending::NotStarted(failure) => match failure {
            StartFailure::CommandNotFound(command) => (EndReason::CommandNotFound, command.clone()),
            StartFailure::NotExecutable(path) => (EndReason::NotExecutable, path.clone()),
            StartFailure::BundleMissing(content) => (EndReason::BundleMissing, content.to_string()),
            StartFailure::DiskFull => plain(EndReason::DiskFull),
            StartFailure::Environment(log) => (EndReason::Environment, log.clone()),
            StartFailure::DataMissing(path) => (EndReason::DataMissing, path.clone()),
            StartFailure::SecretMissing(name) => (EndReason::SecretMissing, name.clone()),
            StartFailure::Dependency(job) => (EndReason::Dependency, job.to_string()),
            StartFailure::System(error) => (EndReason::System, error.clone()),
        },
        Ending::Untold => plain(EndReason::Untold),
        Ending::Lost(lost) => plain(match lost {
            LostReason::NodeDown => EndReason::NodeDown,
            LostReason::RunnerDown => EndReason::RunnerDown,
            LostReason::NotFound => EndReason::AttemptGone,
            LostReason::CrashLimit => EndReason::CrashLimit,
        }),
    }
}

fn text(ending: &Ending, signal: &str) -> String {
    match ending {
        Ending::Exited { code: 0 } => "completed".to_owned(),
        Ending::Exited { code } => format!("exit code {code}"),
        Ending::Signalled { .. } => format!("killed by {signal}"),
        Ending::OutOfMemory => "out of memory: the kernel killed it; ask for more with --memory".to_owned(),
        Ending::TimedOut => "ran longer than its --timeout".to_owned(),
        Ending::Stopped => "stopped by a user".to_owned(),
        Ending::NotStarted(failure) => match failure {
            StartFailure::CommandNotFound(command) => {
                format!("command not found: {command:?} is neither in the bundle nor on the node's PATH")
            }
            StartFailure::NotExecutable(path) => {
                format!("not executable: {path:?}; chmod +x it, or name its interpreter")
            }
            StartFailure::BundleMissing(content) => {
                format!("file {} of its bundle is on no node that can be reached", content.short())
            }
            StartFailure::DiskFull => "the node's disk is too full for its bundle".to_owned(),
            StartFailure::Environment(log) => {
                let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no output");
                format!("the environment could not be built: {}", last.trim())
            }
            StartFailure::DataMissing(path) => format!("data path {path:?} does not exist on the node"),
            StartFailure::SecretMissing(name) => {
                format!("secret {name:?} is not on the node; set it there with: fnode secret set {name}")
            }
            StartFailure::Dependency(job) => format!("job {job}, which it waits for, ended the wrong way"),
            StartFailure::System(error) => format!("the node could not start it: {error}"),
        },
        Ending::Untold => "its process ended without telling how; it was killed, most likely".to_owned(),
        Ending::Lost(lost) => match lost {
            LostReason::NodeDown => "its node went down",
            LostReason::RunnerDown => "the runner that owned it went down",
            LostReason::NotFound => "its node came back without it",
            LostReason::CrashLimit => "crash limit: it was lost five times and is not tried again",
        }
        .to_owned(),
    }
}

/// The name that `kill -l` prints; `signal N` for real-time signals.
fn signal_name(number: u8) -> String {
    // Numbers of Linux on x86-64 and aarch64 (signal(7)).
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    match NAMES.get(usize::from(number).wrapping_sub(1)) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_codes() {
        let word = EndingWord::from(&Ending::Signalled { signal: 11 });
        assert_eq!((word.signal.as_str(), word.exit_code), ("SIGSEGV", 139));
        assert_eq!(signal_name(0), "signal 0");
        assert_eq!(signal_name(31), "SIGSYS");
        assert_eq!(signal_name(40), "signal 40");
    }

    #[test]
    fn a_failed_build_shows_the_last_line_of_its_log() {
        let log = "Collecting x\nERROR: No matching distribution found for x\n\n".to_owned();
        let word = EndingWord::from(&Ending::NotStarted(StartFailure::Environment(log)));
        assert_eq!(word.text, "the environment could not be built: ERROR: No matching distribution found for x");
    }
}
