//! One connection to the runner's socket: bytes in, frames out, and back. Never waits.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde::Serialize;

use crate::exec::protocol::{FRAME_MAX, Frame, HANDSHAKE_MAX, ProtocolError, put_frame, take_frame};

/// Read at once; also the largest buffer that is kept while idle.
const CHUNK: usize = 64 << 10;
/// A daemon that does not read this much is not listening; it may come back and ask for the list.
const OUTBOX_MAX: usize = 128 << 20;

/// A connection with its buffers.
pub(super) struct Connection {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Bytes of `outbox` that are written already.
    sent: usize,
    /// What was agreed on; `None`: no handshake yet.
    pub(super) version: Option<u16>,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("the other side left")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    #[error("the other side does not read")]
    Full,
}

impl Connection {
    /// A connection that was just accepted.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, inbox: Vec::new(), outbox: Vec::new(), sent: 0, version: None })
    }

    /// Whether bytes wait to be written.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.outbox.len()
    }

    /// Reads what is there, up to one chunk: other connections and children have their turn.
    pub(super) fn receive(&mut self) -> Result<(), ConnectionError> {
        let old = self.inbox.len();
        self.inbox.resize(old + CHUNK, 0);
        let result = self.stream.read(&mut self.inbox[old..]);
        self.inbox.truncate(old + result.as_ref().map_or(0, |&len| len));
        match result {
            Ok(0) => Err(ConnectionError::Closed),
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes every complete frame to `take`, oldest first, until one is refused.
    pub(super) fn frames<T>(
        &mut self,
        mut take: impl FnMut(Frame<'_>, Option<u16>) -> Result<T, ProtocolError>,
    ) -> Result<Vec<T>, ConnectionError> {
        let max = if self.version.is_some() { FRAME_MAX } else { HANDSHAKE_MAX };
        let (mut words, mut used) = (Vec::new(), 0);
        while let Some(frame) = take_frame(&self.inbox[used..], max)? {
            words.push(take(frame, self.version)?);
            used += frame.used;
            if self.version.is_none() {
                // What follows the handshake is in another layout, and is read as that in the next turn.
                break;
            }
        }
        self.inbox.drain(..used);
        if self.inbox.is_empty() && self.inbox.capacity() > CHUNK {
            self.inbox = Vec::new();
        }
        Ok(words)
    }

    /// Queues a word and writes what can be written now.
    pub(super) fn send<T: Serialize>(&mut self, version: u16, word: &T) -> Result<(), ConnectionError> {
        put_frame(&mut self.outbox, version, word)?;
        self.flush()
    }

    /// Writes what can be written now.
    pub(super) fn flush(&mut self) -> Result<(), ConnectionError> {
        while self.has_unsent() {
            match self.stream.write(&self.outbox[self.sent..]) {
                Ok(0) => return Err(ConnectionError::Closed),
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let waiting = self.outbox.len() - self.sent;
                    return if waiting > OUTBOX_MAX { Err(ConnectionError::Full) } else { Ok(()) };
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.sent = 0;
        self.outbox.clear();
        if self.outbox.capacity() > CHUNK {
            self.outbox = Vec::new();
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
