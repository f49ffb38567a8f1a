//! The runner's files, all in one directory (`<home>/run`): what each is called, and the few of them that
//! both processes read. The directory belongs to one runner at a time, by the lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::exec::process::{boot_id, exists, this_process};
use crate::exec::protocol::ProcessId;

/// Longest path that fits into a socket's address, with its terminating zero.
const SOCKET_PATH_MAX: usize = 107;
/// A log larger than this is started anew with the next runner or daemon.
const LOG_MAX: u64 = 1 << 20;

/// Names of the runner's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerFiles {
    directory: PathBuf,
}

/// What the pid file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerRecord {
    /// The runner.
    pub process: ProcessId,
    /// Boot in which it was started.
    pub boot_id: String,
}

/// A path that a socket can be bound or connected to while this is held.
#[derive(Debug)]
pub(crate) struct SocketPath {
    pub(crate) path: PathBuf,
    _directory: Option<File>,
}

impl RunnerFiles {
    /// Files in `directory`, made absolute.
    ///
    /// # Errors
    /// The current directory is gone.
    pub fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self { directory: std::path::absolute(directory)? })
    }

    /// Where they all are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The socket that the daemon connects to.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("runner.sock")
    }

    /// One line: pid, start time, boot id.
    #[must_use]
    pub fn pid(&self) -> PathBuf {
        self.directory.join("runner.pid")
    }

    /// Held by the runner as long as it lives.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.directory.join("runner.lock")
    }

    /// The runner's own notes.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("runner.log")
    }

    /// What a daemon that the runner started prints.
    #[must_use]
    pub fn daemon_log(&self) -> PathBuf {
        self.directory.join("daemon.log")
    }

    /// Endings that a runner left for the next one.
    #[must_use]
    pub fn endings(&self) -> PathBuf {
        self.directory.join("endings")
    }

    /// The runner that wrote the pid file, if it is alive.
    #[must_use]
    pub fn live_runner(&self) -> Option<RunnerRecord> {
        let record = parse_record(&fs::read_to_string(self.pid()).ok()?)?;
        (boot_id().ok()? == record.boot_id && exists(record.process)).then_some(record)
    }

    /// Makes the directory, for its owner alone.
    pub(crate) fn make_directory(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))
    }

    /// Takes the lock; `None`: another runner has it. Closed on exec, so no job ever holds it.
    pub(super) fn take_lock(&self) -> io::Result<Option<File>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.lock())?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the pid file for this process, all at once.
    pub(super) fn write_record(&self) -> io::Result<RunnerRecord> {
        let record = RunnerRecord { process: this_process()?, boot_id: boot_id()? };
        let aside = self.pid().with_extension("new");
        let mut file = File::create(&aside)?;
        writeln!(file, "{} {} {}", record.process.pid, record.process.start_time, record.boot_id)?;
        fs::rename(&aside, self.pid())?;
        Ok(record)
    }

    /// The socket's address, also where the path is too long for one.
    pub(crate) fn socket_path(&self) -> io::Result<SocketPath> {
        let path = self.socket();
        if path.as_os_str().as_bytes().len() <= SOCKET_PATH_MAX {
            return Ok(SocketPath { path, _directory: None });
        }
        let directory = File::open(&self.directory)?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
        let path = PathBuf::from(format!("/proc/self/fd/{number}/runner.sock"));
        Ok(SocketPath { path, _directory: Some(directory) })
    }
}

/// Opens a log for appending; one that grew too large starts anew.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    let large = fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_MAX);
    if large {
        fs::remove_file(path)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn parse_record(text: &str) -> Option<RunnerRecord> {
    let mut words = text.split_ascii_whitespace();
    let process = ProcessId { pid: words.next()?.parse().ok()?, start_time: words.next()?.parse().ok()? };
    Some(RunnerRecord { process, boot_id: words.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check};

    #[test]
    fn the_pid_file_tells_a_live_runner_from_a_stale_one() {
        let home = tempfile::tempdir().expect("made");
        let files = RunnerFiles::new(home.path()).expect("absolute");
        assert_eq!(files.live_runner(), None);
        let record = files.write_record().expect("written");
        assert_eq!(files.live_runner(), Some(record.clone()));
        let ProcessId { pid, start_time } = record.process;
        for text in
            [format!("{pid} {} {}", start_time + 1, record.boot_id), format!("{pid} {start_time} x"), String::new()]
        {
            fs::write(files.pid(), text).expect("written");
            assert_eq!(files.live_runner(), None);
        }
    }

    #[test]
    fn one_runner_holds_the_lock() {
        let home = tempfile::tempdir().expect("made");
        let files = RunnerFiles::new(home.path()).expect("absolute");
        let lock = files.take_lock().expect("opens").expect("free");
        assert!(files.take_lock().expect("opens").is_none());
        drop(lock);
        assert!(files.take_lock().expect("opens").is_some());
    }

    #[test]
    fn a_path_too_long_for_a_socket_works_nevertheless() {
        let home = tempfile::tempdir().expect("made");
        let files = RunnerFiles::new(&home.path().join("x".repeat(200))).expect("absolute");
        files.make_directory().expect("made");
        let address = files.socket_path().expect("opens");
        let _listener = UnixListener::bind(&address.path).expect("binds");
        UnixStream::connect(files.socket_path().expect("opens").path).expect("connects");
        assert!(files.socket().exists());
    }

    #[test]
    fn golden_pid_file() {
        let home = tempfile::tempdir().expect("made");
        let files = RunnerFiles::new(home.path()).expect("absolute");
        let RunnerRecord { process, boot_id } = files.write_record().expect("written");
        let text = fs::read_to_string(files.pid()).expect("just written");
        // The process and the boot are other ones with every run.
        let told = text.replacen(&process.pid.to_string(), "PID", 1).replace(&process.start_time.to_string(), "START");
        let told = told.replace(&boot_id, "BOOT");
        check("runner.Pid", &[Sample::text("runner.pid", &"", &told)]);
        attack_loosely("runner.pid", text.as_bytes(), 500, |bytes| {
            String::from_utf8(bytes.to_vec()).is_ok_and(|text| parse_record(&text).is_some())
        });
    }
}
