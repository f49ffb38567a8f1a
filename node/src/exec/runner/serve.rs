//! The runner's loop: signals, the socket and time in; children, frames and the runner's own end out.
//! It waits in one place only, [`Server::turn`], and every handler returns at once.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::attempts::Attempts;
use super::connection::{Connection, ConnectionError};
use super::daemon::{Daemon, Verdict};
use super::files::RunnerRecord;
use super::log::note;
use super::respawn::DaemonCommand;
use super::sys::Signals;
use crate::exec::protocol::{
    Event, HANDSHAKE, Hello, ITEMS_MAX, ProtocolError, ShutdownWhen, ToDaemon, ToRunner, VERSION_MAX, VERSION_MIN,
    Welcome, decode_handshake, decode_to_runner,
};

/// Connections that have not said who they are; beyond that the oldest goes.
const STRANGERS_MAX: usize = 8;
/// News that frees no capacity (a start, an end whose successor runs) is reported this late at most: short jobs'
/// starts and ends then travel together, and the daemon is woken less often.
const NEWS_DELAY: Duration = Duration::from_millis(2);

/// Everything the loop owns.
pub(super) struct Server {
    pub(super) signals: Signals,
    pub(super) listener: UnixListener,
    pub(super) attempts: Attempts,
    pub(super) record: RunnerRecord,
    pub(super) command: DaemonCommand,
    pub(super) daemon: Daemon,
    connection: Option<Connection>,
    strangers: Vec<Connection>,
    /// Events that are not sent yet, and when the first of them must be.
    events: Vec<Event>,
    events_due: Option<Instant>,
    /// The endings file that was loaded at the start is on disk until its last ending is forgotten.
    stale_endings: bool,
    ends_when_idle: bool,
}

/// What `poll` found.
struct Ready {
    signals: bool,
    listener: bool,
    connection: bool,
    strangers: Vec<bool>,
}

impl Server {
    /// A server that has not begun to listen.
    pub(super) fn new(
        (signals, listener): (Signals, UnixListener),
        attempts: Attempts,
        record: RunnerRecord,
        command: DaemonCommand,
    ) -> Self {
        let stale_endings = attempts.unforgotten().len() > 0;
        Self {
            signals,
            listener,
            stale_endings,
            attempts,
            record,
            daemon: Daemon::awaited(Instant::now(), command.is_given()),
            command,
            connection: None,
            strangers: Vec::new(),
            events: Vec::new(),
            events_due: None,
            ends_when_idle: false,
        }
    }

    /// Serves until there is nothing left to do.
    pub(super) fn run(&mut self) -> io::Result<()> {
        while self.turn()? {}
        Ok(())
    }

    /// Waits once, and handles what came; returns whether to go on.
    fn turn(&mut self) -> io::Result<bool> {
        let ready = self.wait()?;
        let now = Instant::now();
        if ready.signals {
            self.on_signals(now);
        }
        // Endings first: the daemon can think about what is next while the runner starts what came last.
        self.send_events(now);
        if ready.connection {
            self.on_connection(now);
        }
        self.on_strangers(&ready.strangers, now);
        if ready.listener {
            self.on_listener();
        }
        self.attempts.on_time(now);
        self.attempts.settle(now);
        self.send_events(now);
        Ok(self.settle_daemon(now))
    }

    fn wait(&self) -> io::Result<Ready> {
        let wanted = |connection: &Connection| {
            if connection.has_unsent() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
        };
        let mut fds = Vec::with_capacity(3 + self.strangers.len());
        fds.push(PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN));
        fds.push(PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN));
        fds.extend(self.strangers.iter().map(|stranger| PollFd::from_borrowed_fd(stranger.as_fd(), wanted(stranger))));
        let connection = self.connection.as_ref();
        fds.extend(connection.map(|connection| PollFd::from_borrowed_fd(connection.as_fd(), wanted(connection))));
        let timeout = self.next_due().map(|due| timespec(due.saturating_duration_since(Instant::now())));
        let is_interrupted = match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => false,
            Err(rustix::io::Errno::INTR) => true,
            Err(error) => return Err(error.into()),
        };
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let strangers = self.strangers.len();
        Ok(Ready {
            signals: is_interrupted || is_ready(0),
            listener: is_ready(1),
            strangers: (2..2 + strangers).map(is_ready).collect(),
            connection: is_ready(2 + strangers),
        })
    }

    fn next_due(&self) -> Option<Instant> {
        let daemon = match self.daemon.next(Instant::now(), self.attempts.is_busy()) {
            Verdict::Wait(until) => until,
            Verdict::Respawn | Verdict::Exit => Some(Instant::now()),
        };
        [self.attempts.next_due(), self.events_due, daemon].into_iter().flatten().min()
    }

    fn on_signals(&mut self, now: Instant) {
        let arrived = self.signals.take();
        if arrived.child {
            let daemon = &mut self.daemon;
            self.attempts.reap(now, |pid| {
                daemon.on_child_ended(now, pid);
            });
        }
        if arrived.terminate {
            note(format_args!("told to end by a signal; every attempt is stopped"));
            self.attempts.shut_down(now);
            self.ends_when_idle = true;
        }
    }

    fn on_listener(&mut self) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return note(format_args!("cannot accept a connection: {error}")),
        };
        match rustix::net::sockopt::socket_peercred(&stream) {
            // The socket's mode says the same; this holds also where the directory was opened by hand.
            Ok(peer) if peer.uid.is_root() || peer.uid == rustix::process::geteuid() => {}
            _ => return note(format_args!("a connection of another user was refused")),
        }
        if self.strangers.len() >= STRANGERS_MAX {
            self.strangers.remove(0);
        }
        match Connection::new(stream) {
            Ok(stranger) => self.strangers.push(stranger),
            Err(error) => note(format_args!("cannot use a connection: {error}")),
        }
    }

    /// Reads from those that have not said hello. One that does becomes the daemon's connection.
    fn on_strangers(&mut self, ready: &[bool], now: Instant) {
        let mut welcomed = None;
        let mut at = 0;
        self.strangers.retain_mut(|stranger| {
            let is_ready = ready.get(at).copied().unwrap_or(false);
            at += 1;
            if !is_ready || stranger.version.is_some() {
                return true;
            }
            match shake_hands(stranger, &self.record) {
                Ok(None) => true,
                Ok(Some(build)) => {
                    welcomed = Some(build);
                    true
                }
                Err(ConnectionError::Closed) => false,
                Err(error) => {
                    note(format_args!("a connection was refused: {error}"));
                    false
                }
            }
        });
        let Some(at) = self.strangers.iter().rposition(|stranger| stranger.version.is_some()) else { return };
        let connection = self.strangers.remove(at);
        self.strangers.retain(|stranger| stranger.version.is_none());
        note(format_args!("daemon {} is connected", welcomed.unwrap_or_default()));
        // What the old connection still says is not read any more: the new daemon asks for the list.
        self.connection = Some(connection);
        self.events.clear();
        self.events_due = None;
        self.daemon.on_connected();
        self.on_connection(now);
    }

    /// Obeys what the daemon says.
    fn on_connection(&mut self, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        let result = connection.flush().and_then(|()| connection.receive());
        // Even if the connection is over: what was said before it ended counts.
        let words = connection.frames(|frame, version| match version {
            Some(version) => decode_to_runner(frame, version),
            None => Err(ProtocolError::Body),
        });
        let outcome = words.and_then(|words| words.into_iter().try_for_each(|word| self.obey(word, now))).and(result);
        if let Err(error) = outcome {
            self.disconnect(&error, now);
        }
    }

    fn obey(&mut self, word: ToRunner, now: Instant) -> Result<(), ConnectionError> {
        match word {
            ToRunner::Start(orders) => orders.into_iter().for_each(|order| self.attempts.start(order, now)),
            ToRunner::Stop { attempt, grace_ms } => self.attempts.stop(attempt, Duration::from_millis(grace_ms), now),
            ToRunner::List => return self.send_list(),
            ToRunner::Forget(attempts) => {
                self.attempts.forget(&attempts);
                if self.stale_endings && self.attempts.unforgotten().len() == 0 {
                    self.stale_endings = false;
                    self.command.remove_endings();
                }
            }
            ToRunner::Shutdown(ShutdownWhen::Idle) => self.ends_when_idle = true,
            ToRunner::Shutdown(ShutdownWhen::Now) => {
                self.attempts.shut_down(now);
                self.ends_when_idle = true;
            }
            ToRunner::Goodbye => self.daemon.on_goodbye(),
        }
        Ok(())
    }

    fn send_list(&mut self) -> Result<(), ConnectionError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let version = connection.version.unwrap_or(VERSION_MAX);
        let list = self.attempts.list();
        let mut chunks = list.chunks(ITEMS_MAX).peekable();
        if chunks.peek().is_none() {
            return connection.send(version, &ToDaemon::Listed { attempts: Vec::new(), more: false });
        }
        while let Some(chunk) = chunks.next() {
            let more = chunks.peek().is_some();
            connection.send(version, &ToDaemon::Listed { attempts: chunk.to_vec(), more })?;
        }
        Ok(())
    }

    /// Sends what happened: at once if it matters, else a little later. Without a daemon nothing is
    /// queued: whoever connects asks for the list.
    fn send_events(&mut self, now: Instant) {
        let (mut news, is_urgent) = self.attempts.take_events();
        self.events.append(&mut news);
        if is_urgent {
            self.events_due = Some(now);
        }
        let Some(connection) = &mut self.connection else {
            self.events.clear();
            self.events_due = None;
            return;
        };
        if self.events.is_empty() {
            return;
        }
        if *self.events_due.get_or_insert(now + NEWS_DELAY) > now {
            return;
        }
        self.events_due = None;
        let version = connection.version.unwrap_or(VERSION_MAX);
        let mut events = std::mem::take(&mut self.events);
        let mut result = Ok(());
        while !events.is_empty() && result.is_ok() {
            let rest = events.split_off(events.len().min(ITEMS_MAX));
            result = connection.send(version, &ToDaemon::Events(std::mem::replace(&mut events, rest)));
        }
        if let Err(error) = result {
            self.disconnect(&error, now);
        }
    }

    fn disconnect(&mut self, error: &ConnectionError, now: Instant) {
        note(format_args!("the daemon's connection is over: {error}"));
        self.connection = None;
        self.daemon.on_disconnected(now);
    }

    /// Starts the daemon again if that is due; returns whether the runner goes on.
    fn settle_daemon(&mut self, now: Instant) -> bool {
        let busy = self.attempts.is_busy();
        if self.ends_when_idle && !busy {
            return false;
        }
        match self.daemon.next(now, busy) {
            Verdict::Wait(_) => true,
            Verdict::Exit => false,
            Verdict::Respawn => {
                if !self.command.is_possible() {
                    note(format_args!("the daemon is not started again: its program or directory is gone"));
                    self.daemon.give_up();
                    return true;
                }
                let child = self.command.spawn();
                if let Some(pid) = child {
                    self.attempts.ignore_child(pid);
                }
                self.daemon.on_respawned(now, child);
                true
            }
        }
    }
}

/// Reads a hello and answers it; returns the daemon's build once both sides agree.
fn shake_hands(stranger: &mut Connection, record: &RunnerRecord) -> Result<Option<String>, ConnectionError> {
    stranger.receive()?;
    let hellos = stranger.frames(|frame, _| decode_handshake::<Hello>(frame))?;
    let Some(hello) = hellos.into_iter().next() else { return Ok(None) };
    let version = hello.agree();
    let welcome = Welcome {
        version: version.unwrap_or(0),
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: record.boot_id.clone(),
        runner: record.process,
    };
    stranger.send(HANDSHAKE, &welcome)?;
    match version {
        Some(version) => {
            stranger.version = Some(version);
            Ok(Some(hello.build))
        }
        None => Err(ProtocolError::Version { found: hello.version_max, wanted: VERSION_MAX }.into()),
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}
