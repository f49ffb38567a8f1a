//! A job that is a process which runs already: a script with `import foundations` that somebody started by hand.
//! The runner starts this in its place. It waits for the process, passes a wish to stop on to it, keeps its directory,
//! and ends as the process did, by what that wrote into its track file: only a parent is told the real exit code.
//!
//! Called as `fnode attend PID START_TIME DIRECTORY`; its working directory is the job's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open};
use tokio::signal::unix::{SignalKind, signal};

use crate::blobs::archive;
use crate::exec::process;
use crate::exec::protocol::ProcessId;
use crate::track::last_exit;

/// What of the directory is kept: a data set beside a script is no result.
const ARCHIVE_MAX_BYTES: u64 = 1 << 30;
/// Never kept as a whole.
const OF_THE_MACHINE: [&str; 17] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin", "/sys",
    "/tmp", "/usr", "/var",
];
/// When the process did not say how it ended: it was killed. The node knows it by the missing line, too.
const UNKNOWN: u8 = 1;

/// The entry of the process.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.filter_map(|arg| arg.into_string().ok()).collect();
    let [pid, start_time, directory] = args.as_slice() else { return usage() };
    let (Ok(pid), Ok(start_time)) = (pid.parse(), start_time.parse()) else { return usage() };
    let process = ProcessId { pid, start_time };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(wait(process)),
        Err(error) => eprintln!("fnode: cannot wait for process {pid}: {error}"),
    }
    keep(Path::new(directory));
    ending()
}

fn usage() -> ExitCode {
    eprintln!("fnode: attend is called by the node itself; see fnode help");
    ExitCode::from(2)
}

/// Returns when `process` is over. A stop of the job stops it.
async fn wait(process: ProcessId) {
    let Some(handle) = process::raw_pid(process.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    // Compared after the descriptor was taken: a later process of that number is none of ours.
    if !process::exists(process) {
        return;
    }
    let Ok(mut stop) = signal(SignalKind::terminate()) else { return };
    // A descriptor of a process is readable once that is over.
    let mut ended = tokio::task::spawn_blocking(move || {
        while poll(&mut [PollFd::new(&handle, PollFlags::IN)], None) == Err(Errno::INTR) {}
    });
    loop {
        tokio::select! {
            _ = &mut ended => return,
            _ = stop.recv() => {
                process::signal(process, Signal::TERM);
            }
        }
    }
}

/// The directory as it is now becomes what the job leaves.
fn keep(directory: &Path) {
    let Ok(here) = std::env::current_dir() else { return };
    if is_no_project(directory) {
        println!("fnode: the files of {} are not kept: it is no project's directory", directory.display());
        return;
    }
    match archive(directory, &here, ARCHIVE_MAX_BYTES) {
        Ok(archived) if archived.left_out > 0 => {
            println!(
                "fnode: {} files of {} are not kept: too large, or not to be read",
                archived.left_out,
                directory.display()
            );
        }
        Ok(_) => {}
        Err(error) => println!("fnode: the files of {} are not kept: {error}", directory.display()),
    }
}

/// Directories of the machine, and a user's home, hold more than a script's files, and what is nobody else's business.
fn is_no_project(directory: &Path) -> bool {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    OF_THE_MACHINE.iter().any(|&place| directory == Path::new(place))
        || home.is_some_and(|home| directory == home || home.starts_with(directory))
}

/// As the process said in its track file.
fn ending() -> ExitCode {
    let Some(track) = std::env::var_os("FNODE_TRACK").map(PathBuf::from) else { return ExitCode::from(UNKNOWN) };
    match last_exit(&track).ok().flatten() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(UNKNOWN)),
        None => {
            println!("fnode: the process ended without saying how; it was killed");
            ExitCode::from(UNKNOWN)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_and_a_home_are_no_projects() {
        let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
        for directory in ["/", "/etc", "/tmp", "/home", &home] {
            assert!(is_no_project(Path::new(directory)), "{directory}");
        }
        for directory in ["/tmp/mnist", "/data", "/srv/lab/mnist"] {
            assert!(!is_no_project(Path::new(directory)), "{directory}");
        }
    }
}
