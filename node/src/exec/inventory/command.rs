//! Runs a small foreign program and waits for it no longer than told: interpreters that are asked for their
//! version, the GPU probe, the tools that `fnode doctor` asks. Blocks its caller; never used for jobs.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, kill_process_group};

/// What is kept of each output; what these programs have to say is far shorter.
pub const OUTPUT_MAX: u64 = 256 * 1024;

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    /// `None`: it ran past its limit, and its process group was killed.
    pub status: Option<ExitStatus>,
    /// At most [`OUTPUT_MAX`] bytes, whatever is not UTF-8 replaced.
    pub stdout: String,
    /// As `stdout`.
    pub stderr: String,
}

impl Finished {
    /// The standard output, when the program ended by itself and with 0.
    #[must_use]
    pub fn success(self) -> Option<String> {
        self.status.filter(ExitStatus::success).map(|_| self.stdout)
    }
}

/// Runs `command` in a process group of its own, for at most `limit`; afterwards nothing of the group is
/// left. Reads no input.
///
/// # Errors
/// When the program cannot be started.
pub fn run(command: &mut Command, limit: Duration) -> io::Result<Finished> {
    let deadline = Instant::now() + limit;
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn()?;
    let stdout = read_aside(child.stdout.take());
    let stderr = read_aside(child.stderr.take());
    let stdout = receive(&stdout, deadline);
    let stderr = receive(&stderr, deadline);
    // Both ends of file are seen: the program has ended or is about to. Without them it is killed, with
    // whatever it started, before it is waited for: a wait must not outlast the limit either.
    let ended = stdout.is_some() && stderr.is_some();
    let status = if ended { wait_until(&mut child, deadline)? } else { None };
    if status.is_none() {
        kill_group(&child);
        reap(child);
    }
    Ok(Finished { status, stdout: stdout.unwrap_or_default(), stderr: stderr.unwrap_or_default() })
}

/// The first program called `name` in the directories of `path`, that this user may run.
#[must_use]
pub fn on_path(path: &OsStr, name: &str) -> Option<PathBuf> {
    let may_run = |program: &PathBuf| program.is_file() && access(program, Access::EXEC_OK).is_ok();
    env::split_paths(path).map(|dir| dir.join(name)).find(may_run)
}

/// Reads to the end in a thread, so that a silent program cannot hold its caller.
fn read_aside(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let Some(pipe) = pipe else { return };
        let mut pipe = pipe;
        let mut bytes = Vec::new();
        // An error is an end of file too: what was read until then is what there is.
        let _ = pipe.by_ref().take(OUTPUT_MAX).read_to_end(&mut bytes);
        // The rest is thrown away, or the program would stop at a full pipe.
        let _ = io::copy(&mut pipe, &mut io::sink());
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

fn receive(text: &mpsc::Receiver<String>, deadline: Instant) -> Option<String> {
    text.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
}

/// The exit status, if it comes before `deadline`: a program may close its outputs and go on.
fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn kill_group(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended in between; then there is nothing to kill.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// Waits in a thread of its own: a process that hangs in a driver does not die even of SIGKILL.
fn reap(mut child: Child) {
    thread::spawn(move || {
        let _ = child.wait();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_program_says_and_how_it_ends_is_told() {
        let finished = run(&mut shell("echo out; echo err >&2; exit 3"), Duration::from_secs(10)).unwrap();
        assert_eq!(finished.status.and_then(|status| status.code()), Some(3));
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"));
        assert!(finished.success().is_none());
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let start = Instant::now();
        let finished = run(&mut shell("sleep 60 & sleep 60; echo never"), Duration::from_millis(200)).unwrap();
        assert!(finished.status.is_none());
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_flood_is_cut_and_does_not_block() {
        let finished = run(&mut shell("head -c 5000000 /dev/zero"), Duration::from_secs(20)).unwrap();
        assert_eq!(finished.stdout.len() as u64, OUTPUT_MAX);
        assert!(finished.status.is_some_and(|status| status.success()));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert!(run(&mut Command::new("/no/such/program"), Duration::from_secs(1)).is_err());
    }
}
