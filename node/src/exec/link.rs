//! One connection to a runner, from nothing to the first list: connects, starts a runner if there is none,
//! shakes hands. Used by the `RunnerEvents` in `client.rs`, which does the rest.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use proto::AttemptId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::protocol::{
    AttemptStatus, Event, FRAME_MAX, HANDSHAKE, HANDSHAKE_MAX, Hello, ProtocolError, ToDaemon, ToRunner, VERSION_MAX,
    VERSION_MIN, Welcome, decode_handshake, decode_to_daemon, put_frame, take_frame,
};
use super::runner::{EXIT_OTHER_RUNNER, READY, RunnerFiles};

/// A runner that does not answer for this long is no help; a healthy one takes a millisecond.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a runner that is just ending may keep its lock while the next one is started.
const HANDOVER_TIME: Duration = Duration::from_secs(10);
const HANDOVER_PAUSE: Duration = Duration::from_millis(20);
/// Read at once.
const CHUNK: usize = 64 << 10;

/// Where the runner is, and how to start one.
#[derive(Clone, Debug)]
pub struct RunnerLaunch {
    /// Its files.
    pub files: RunnerFiles,
    /// This program; it is run as `EXE runner …`.
    pub exe: PathBuf,
    /// What the runner starts when its daemon is gone without a goodbye: an absolute program and its
    /// arguments; empty: nothing.
    pub daemon_command: Vec<OsString>,
}

/// Why there is no connection to a runner, or an order cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The program cannot be run.
    #[error("cannot start the runner {exe}: {source}")]
    Spawn {
        /// The program.
        exe: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The runner ended before it was ready.
    #[error("the runner did not start: {0}")]
    NotReady(String),
    /// The socket does not work.
    #[error("cannot talk to the runner at {socket}: {source}")]
    Io {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The runner is too old or too new.
    #[error(
        "the runner is fnode {build} and speaks versions {min} to {max}, this daemon {VERSION_MIN} to {VERSION_MAX}; \
         run the daemon of that version until its jobs have ended"
    )]
    Version {
        /// The runner's build.
        build: String,
        /// Oldest version it speaks.
        min: u16,
        /// Newest version it speaks.
        max: u16,
    },
    /// The runner says what it should not.
    #[error("the runner's answer is not understood: {0}")]
    Protocol(#[from] ProtocolError),
    /// The order does not fit in a frame or holds a path that is not UTF-8.
    #[error("attempt {attempt} cannot be ordered: {source}")]
    Order {
        /// Which one.
        attempt: AttemptId,
        /// Why.
        source: ProtocolError,
    },
    /// There is no connection, and the call needs one.
    #[error("the runner is gone")]
    Gone,
    /// The runner has not read for so long that no more orders are kept for it.
    #[error("the runner does not take orders")]
    Full,
}

/// A connection after the handshake.
pub(super) struct Link {
    reader: OwnedReadHalf,
    pub(super) writer: Arc<OwnedWriteHalf>,
    /// What both sides speak.
    pub(super) version: u16,
    inbox: Vec<u8>,
    socket: PathBuf,
    welcome: Welcome,
    attempts: Vec<AttemptStatus>,
    /// Events that came before the first list.
    early: Vec<Event>,
}

impl RunnerLaunch {
    /// Connects, starting a runner if nobody listens. May be dropped at any time; a runner that was started
    /// then stays and is found the next time.
    pub(super) async fn open(&self) -> Result<Link, RunnerError> {
        let deadline = Instant::now() + HANDOVER_TIME;
        loop {
            match self.connect().await {
                Ok(stream) => return self.introduce(stream).await,
                Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                    return Err(RunnerError::Io { socket: self.files.socket(), source: error });
                }
                Err(_) => {}
            }
            if !self.spawn().await? {
                if Instant::now() >= deadline {
                    let directory = self.files.directory().display();
                    let reason = format!("another runner has {directory} and does not listen; end it by hand");
                    return Err(RunnerError::NotReady(reason));
                }
                sleep(HANDOVER_PAUSE).await;
            }
        }
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        let address = self.files.socket_path()?;
        UnixStream::connect(&address.path).await
    }

    /// Starts a runner and waits until it can be connected to; false: another one is starting or ending.
    async fn spawn(&self) -> Result<bool, RunnerError> {
        let failed = |source| RunnerError::Spawn { exe: self.exe.clone(), source };
        let mut command = Command::new(&self.exe);
        command.arg("runner").arg("--dir").arg(self.files.directory());
        if !self.daemon_command.is_empty() {
            command.arg("--daemon").args(&self.daemon_command);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        let mut output = String::new();
        let mut complaint = String::new();
        // The runner closes both when it is ready, or by ending.
        if let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) {
            stdout.read_to_string(&mut output).await.map_err(failed)?;
            stderr.read_to_string(&mut complaint).await.map_err(failed)?;
        }
        if output == READY {
            // Waited for so that it is no zombie when it ends before this daemon does.
            tokio::spawn(async move { child.wait().await });
            return Ok(true);
        }
        let status = child.wait().await.map_err(failed)?;
        if status.code() == Some(EXIT_OTHER_RUNNER.into()) {
            return Ok(false);
        }
        Err(RunnerError::NotReady(format!("{} ({status})", complaint.trim())))
    }

    async fn introduce(&self, stream: UnixStream) -> Result<Link, RunnerError> {
        let socket = self.files.socket();
        match timeout(HANDSHAKE_TIME, Link::shake_hands(stream, socket.clone())).await {
            Ok(link) => link,
            Err(_) => Err(RunnerError::Io { socket, source: io::ErrorKind::TimedOut.into() }),
        }
    }
}

impl Link {
    async fn shake_hands(stream: UnixStream, socket: PathBuf) -> Result<Self, RunnerError> {
        let (mut reader, mut writer) = stream.into_split();
        let failed = |source| RunnerError::Io { socket: socket.clone(), source };
        let mut bytes = Vec::new();
        put_frame(&mut bytes, HANDSHAKE, &Hello::ours())?;
        writer.write_all(&bytes).await.map_err(failed)?;
        let mut inbox = Vec::new();
        let welcome: Welcome = loop {
            if let Some(frame) = take_frame(&inbox, HANDSHAKE_MAX)? {
                let welcome = decode_handshake(frame)?;
                let used = frame.used;
                inbox.drain(..used);
                break welcome;
            }
            if reader.read_buf(&mut inbox).await.map_err(failed)? == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
        };
        let (min, max) = (welcome.version_min, welcome.version_max);
        if !(VERSION_MIN..=VERSION_MAX).contains(&welcome.version) {
            return Err(RunnerError::Version { build: welcome.build, min, max });
        }
        let version = welcome.version;
        let mut bytes = Vec::new();
        put_frame(&mut bytes, version, &ToRunner::List)?;
        writer.write_all(&bytes).await.map_err(failed)?;
        let (writer, attempts, early) = (Arc::new(writer), Vec::new(), Vec::new());
        let mut link = Self { reader, writer, version, inbox, socket, welcome, attempts, early };
        link.receive_list().await?;
        Ok(link)
    }

    async fn receive_list(&mut self) -> Result<(), RunnerError> {
        let mut complete = false;
        while !complete {
            for word in self.receive().await? {
                match word {
                    ToDaemon::Events(mut events) => self.early.append(&mut events),
                    ToDaemon::Listed { mut attempts, more } => {
                        self.attempts.append(&mut attempts);
                        complete = !more;
                    }
                }
            }
        }
        Ok(())
    }

    /// Who the runner is, the first list, and events that came in the same moment; the latter two once.
    pub(super) fn introduction(&mut self) -> (Welcome, Vec<AttemptStatus>, Vec<Event>) {
        (self.welcome.clone(), std::mem::take(&mut self.attempts), std::mem::take(&mut self.early))
    }

    /// The words that came; at least one. Nothing is lost if the future is dropped.
    pub(super) async fn receive(&mut self) -> Result<Vec<ToDaemon>, RunnerError> {
        loop {
            let words = self.take_words()?;
            if !words.is_empty() {
                return Ok(words);
            }
            self.inbox.reserve(CHUNK);
            let read = self.reader.read_buf(&mut self.inbox).await;
            if read.map_err(|source| self.broken(source))? == 0 {
                return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The socket failed with `source`.
    fn broken(&self, source: io::Error) -> RunnerError {
        RunnerError::Io { socket: self.socket.clone(), source }
    }

    fn take_words(&mut self) -> Result<Vec<ToDaemon>, RunnerError> {
        let (mut words, mut used) = (Vec::new(), 0);
        while let Some(frame) = take_frame(&self.inbox[used..], FRAME_MAX)? {
            words.push(decode_to_daemon(frame, self.version)?);
            used += frame.used;
        }
        self.inbox.drain(..used);
        Ok(words)
    }
}
