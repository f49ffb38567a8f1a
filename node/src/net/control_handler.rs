//! One connection of the control plane: a stream of frames in each direction for as long as it lives.
//!
//! Each side opens its own stream as soon as the connection stands and sends its hello. Frames are taken from
//! the peer's outbox once the behaviour says that this connection is the one in use. libp2p's connection task
//! drives it; it decides nothing.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use libp2p::StreamProtocol;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, ConnectionId, Stream, StreamUpgradeError, SubstreamProtocol,
};
use tokio::time::Sleep;

use super::frames::{FrameReader, FrameWriter};
use super::outbox::Outbox;

/// The control plane's protocol; a changed framing or hello exchange takes the next number.
pub const CONTROL_PROTOCOL: &str = "/fnode/control/1";
/// From the connection to the peer's hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection's end of the control plane.
pub(super) struct ControlHandler {
    id: ConnectionId,
    outbox: Arc<Outbox>,
    output: Output,
    writer: FrameWriter,
    input: Option<Stream>,
    reader: FrameReader,
    /// Runs until the hello is there.
    hello_deadline: Option<Pin<Box<Sleep>>>,
    state: State,
}

enum Output {
    Wanted,
    Requested,
    Open(Stream),
}

enum State {
    Running,
    /// To be told to the behaviour, which closes the connection.
    Failing(LinkError),
    Failed,
}

/// Why a connection is of no use to the control plane.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the peer does not speak {CONTROL_PROTOCOL}")]
    NotSpoken,
    #[error("no hello within {HELLO_TIMEOUT:?}")]
    NoHello,
    #[error("the peer closed its control stream")]
    Ended,
    #[error("the control stream broke: {0}")]
    Broken(io::Error),
}

/// Orders from the behaviour.
#[derive(Debug)]
pub(super) enum ToHandler {
    /// This connection carries the frames; with `mark`, tell the peer so first.
    Use { mark: bool },
}

/// News for the behaviour.
pub(super) enum FromHandler {
    Hello(Bytes),
    /// The peer says that this connection is the one.
    Mark,
    Frame(Bytes),
    Failed(LinkError),
}

impl ControlHandler {
    pub(super) fn new(id: ConnectionId, hello: &[u8], outbox: Arc<Outbox>) -> Self {
        let mut writer = FrameWriter::default();
        writer.push(hello);
        Self {
            id,
            outbox,
            output: Output::Wanted,
            writer,
            input: None,
            reader: FrameReader::default(),
            hello_deadline: Some(Box::pin(tokio::time::sleep(HELLO_TIMEOUT))),
            state: State::Running,
        }
    }

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Result<(), LinkError> {
        let Output::Open(stream) = &mut self.output else {
            return Ok(());
        };
        loop {
            match self.writer.poll_write(stream, cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(LinkError::Broken(error)),
                Poll::Ready(Ok(())) => {}
            }
            self.outbox.take_batch(self.id, &mut self.writer, cx);
            if self.writer.len() == 0 {
                return Ok(());
            }
        }
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<FromHandler, LinkError>> {
        if let Some(stream) = &mut self.input {
            match self.reader.poll_next(stream, cx) {
                Poll::Pending => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(LinkError::Broken(error))),
                Poll::Ready(Ok(None)) => return Poll::Ready(Err(LinkError::Ended)),
                Poll::Ready(Ok(Some(frame))) => {
                    let news = if self.hello_deadline.take().is_some() {
                        FromHandler::Hello(frame)
                    } else if frame.is_empty() {
                        FromHandler::Mark
                    } else {
                        FromHandler::Frame(frame)
                    };
                    return Poll::Ready(Ok(news));
                }
            }
        }
        let deadline = self.hello_deadline.as_mut();
        if deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(LinkError::NoHello));
        }
        Poll::Pending
    }
}

impl ConnectionHandler for ControlHandler {
    type FromBehaviour = ToHandler;
    type ToBehaviour = FromHandler;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        protocol()
    }

    /// The behaviour closes what is of no use.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), FromHandler>> {
        if matches!(self.output, Output::Wanted) {
            self.output = Output::Requested;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol: protocol() });
        }
        if matches!(self.state, State::Running) {
            let input = match self.poll_output(cx) {
                Ok(()) => self.poll_input(cx),
                Err(error) => Poll::Ready(Err(error)),
            };
            match input {
                Poll::Pending => {}
                Poll::Ready(Ok(news)) => return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(news)),
                Poll::Ready(Err(error)) => self.state = State::Failing(error),
            }
        }
        if matches!(self.state, State::Failing(_))
            && let State::Failing(error) = std::mem::replace(&mut self.state, State::Failed)
        {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(FromHandler::Failed(error)));
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, order: ToHandler) {
        match order {
            ToHandler::Use { mark: true } => self.writer.push(&[]),
            // Being polled is all it takes: the outbox knows its owner.
            ToHandler::Use { mark: false } => {}
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            // A peer opens one stream; a second would be its mistake, and is dropped.
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.input.get_or_insert(protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.output = Output::Open(protocol);
            }
            ConnectionEvent::DialUpgradeError(failed) => {
                self.state = State::Failing(match failed.error {
                    StreamUpgradeError::Io(error) => LinkError::Broken(error),
                    StreamUpgradeError::Timeout => LinkError::NoHello,
                    StreamUpgradeError::NegotiationFailed | StreamUpgradeError::Apply(_) => LinkError::NotSpoken,
                });
            }
            _ => {}
        }
    }
}

impl fmt::Debug for FromHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(_) => f.write_str("Hello"),
            Self::Mark => f.write_str("Mark"),
            Self::Frame(frame) => write!(f, "Frame({} bytes)", frame.len()),
            Self::Failed(error) => write!(f, "Failed({error})"),
        }
    }
}

fn protocol() -> SubstreamProtocol<ReadyUpgrade<StreamProtocol>> {
    SubstreamProtocol::new(ReadyUpgrade::new(StreamProtocol::new(CONTROL_PROTOCOL)), ())
}
