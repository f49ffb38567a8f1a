//! How the runner starts its daemon again, and the files of its directory that outlive it.
//! When to do so is `daemon.rs`'s rule.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::endings;
use super::files::{RunnerFiles, open_log};
use super::log::note;

/// The daemon's command line, or none.
#[derive(Debug)]
pub(super) struct DaemonCommand {
    argv: Vec<OsString>,
    files: RunnerFiles,
}

impl DaemonCommand {
    /// `argv`: program (an absolute path) and arguments; empty: never started again.
    pub(super) fn new(argv: Vec<OsString>, files: RunnerFiles) -> Self {
        Self { argv, files }
    }

    /// Whether there is a command.
    pub(super) fn is_given(&self) -> bool {
        !self.argv.is_empty()
    }

    /// Whether the program and the runner's directory are still there: a node that was deleted stays so.
    pub(super) fn is_possible(&self) -> bool {
        self.argv.first().is_some_and(|program| Path::new(program).exists()) && self.files.pid().exists()
    }

    /// Starts the daemon; returns its number.
    pub(super) fn spawn(&self) -> Option<u32> {
        let (program, arguments) = self.argv.split_first()?;
        let log = open_log(&self.files.daemon_log()).map_or_else(|_| Stdio::null(), Stdio::from);
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        match command.spawn() {
            Ok(child) => {
                note(format_args!("started the daemon again as process {}", child.id()));
                Some(child.id())
            }
            Err(error) => {
                note(format_args!("cannot start the daemon again: {error}"));
                None
            }
        }
    }

    /// Removes the endings file: a daemon has everything in it.
    pub(super) fn remove_endings(&self) {
        if let Err(error) = endings::remove(&self.files.endings()) {
            note(format_args!("cannot remove {}: {error}", self.files.endings().display()));
        }
    }
}
