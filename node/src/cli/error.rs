//! What can go wrong between a user and a daemon, and [`explain`], the one place that turns it into a line,
//! a remedy and an exit code.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::CommandFactory as _;

use super::exit::Exit;
use super::output::clean;
use crate::blobs::PackError;
use crate::http::words::error::{ErrorCode, ErrorWord};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line cannot be meant.
    #[error("{what}; {remedy}")]
    Usage { what: String, remedy: String },
    /// The same, with the remedy in the line already.
    #[error("{0}")]
    Wrong(String),
    /// Nobody listens.
    #[error("no daemon is running for {}; start one with: fnode start", .0.display())]
    NoDaemon(PathBuf),
    /// The socket is somebody else's.
    #[error("the daemon of {} belongs to another user; use that user, or your own node with --home", .0.display())]
    NotMine(PathBuf),
    /// Another version that cannot be talked to.
    #[error(
        "the daemon of {} runs fnode {daemon}, this command is fnode {}; restart it: fnode shutdown, then fnode start",
        home.display(), env!("CARGO_PKG_VERSION")
    )]
    OtherVersion { home: PathBuf, daemon: String },
    /// The daemon went away or did not answer in time.
    #[error("the daemon of {} {what}; look at fnode status, and at {}", home.display(), log.display())]
    Broken { home: PathBuf, what: String, log: PathBuf },
    /// The daemon refused.
    #[error("{}", one_line(.0))]
    Refused(ErrorWord),
    /// The directory cannot become a bundle.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A file of the user's.
    #[error("cannot {verb} {}: {}; {remedy}", path.display(), plain(source))]
    File { verb: &'static str, path: PathBuf, source: io::Error, remedy: &'static str },
    /// A daemon did not start.
    #[error("{0}")]
    Start(String),
    /// Standard output is closed: whoever read it has seen enough.
    #[error("standard output is closed")]
    OutputClosed,
    /// Standard output cannot be written.
    #[error("cannot write the result: {}; free some space or write elsewhere", plain(.0))]
    Output(io::Error),
}

impl CliError {
    /// The command line cannot be meant.
    pub(crate) fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), remedy: remedy.into() }
    }

    /// Whether a daemon refused for this reason.
    pub(crate) fn is_refusal(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Refused(word) if word.code == code)
    }
}

/// The line for standard error, without the program's name, and how to exit. `None`: nothing to say.
pub(crate) fn explain(error: &CliError) -> (Option<String>, Exit) {
    match error {
        // `fnode jobs | head` is not a failure.
        CliError::OutputClosed => (None, Exit::Done),
        CliError::Usage { .. } | CliError::Wrong(_) => (Some(error.to_string()), Exit::Usage),
        CliError::Refused(word) if word.code == ErrorCode::BadInput => (Some(error.to_string()), Exit::Usage),
        _ => (Some(error.to_string()), Exit::Failed),
    }
}

/// What clap says in several lines, in one; help and version pass as they are.
///
/// `args`: the command line that was refused, the program's name included.
pub(crate) fn explain_usage(error: &clap::Error, args: &[OsString]) -> (String, Exit) {
    explain_usage_of(super::args::Cli::command(), error, args)
}

/// The same for any program's words.
pub(crate) fn explain_usage_of(command: clap::Command, error: &clap::Error, args: &[OsString]) -> (String, Exit) {
    use clap::error::ErrorKind;
    let program = command.get_name().to_owned();
    let help = help_command(command, args);
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => (text, Exit::Done),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            (format!("{program}: a command is missing; see {help}\n"), Exit::Usage)
        }
        ErrorKind::InvalidUtf8 => {
            let odd = args.iter().find(|arg| arg.to_str().is_none()).cloned().unwrap_or_default();
            let text = clean(&odd.to_string_lossy(), &[]);
            (
                format!("{program}: the argument {text:?} is not UTF-8 text, as names and ids are; see {help}\n"),
                Exit::Usage,
            )
        }
        _ => {
            let said = text.split("\n\nUsage:").next().unwrap_or(&text);
            let said = said.strip_prefix("error: ").unwrap_or(said);
            let parts = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("For more"));
            let mut line = String::new();
            for part in parts {
                let part = part.strip_prefix("tip: ").unwrap_or(part);
                let glue = if line.is_empty() {
                    ""
                } else if line.ends_with(':') {
                    " "
                } else {
                    "; "
                };
                line.push_str(glue);
                line.push_str(part);
            }
            let is_command = error.kind() == ErrorKind::UnknownArgument && help.starts_with("fnode submit");
            let hint = if is_command && !args.iter().any(|arg| arg == "--") {
                "; put -- before the job's command, as in: fnode submit -- python3 train.py"
            } else {
                ""
            };
            (format!("{program}: {line}{hint}; see {help}\n"), Exit::Usage)
        }
    }
}

/// `fnode node drain --help`, as far as the words name commands.
fn help_command(mut command: clap::Command, args: &[OsString]) -> String {
    let mut path = vec![command.get_name().to_owned()];
    for word in args.iter().skip(1).take_while(|word| *word != "--").filter_map(|word| word.to_str()) {
        if let Some(below) = command.find_subcommand(word) {
            path.push(word.to_owned());
            command = below.clone();
        }
    }
    format!("{} --help", path.join(" "))
}

fn one_line(word: &ErrorWord) -> String {
    let text = if word.hint.is_empty() { word.message.clone() } else { format!("{}; {}", word.message, word.hint) };
    text.replace('\n', " ")
}

/// The system's text without `(os error 2)`, which helps nobody.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_with_its_remedy() {
        let word = ErrorWord::new(ErrorCode::NotFound, "no job begins with 99", "see fnode jobs --all");
        let (line, exit) = explain(&CliError::Refused(word));
        assert_eq!(line.as_deref(), Some("no job begins with 99; see fnode jobs --all"));
        assert_eq!(exit, Exit::Failed);
        let (_, exit) = explain(&CliError::Refused(ErrorWord::bad_input("x", "y")));
        assert_eq!(exit, Exit::Usage);
    }

    #[test]
    fn nobody_is_told_that_a_pipe_was_closed() {
        assert_eq!(explain(&CliError::OutputClosed), (None, Exit::Done));
    }
}
