//! How bytes travel: TCP, the gate's noise, yamux. Built here alone, for both swarms, so that a faster
//! variant can replace it in one place (`reference` measurements: noise with a prologue costs nothing over
//! stock noise). Noise is the only security upgrade: any other beside it would be a door without the gate.

use std::error::Error;
use std::io;
use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::{TransportTimeout, TransportTimeoutError};
use libp2p::core::transport::{Boxed, Transport as _, TransportError};
use libp2p::core::upgrade::Version;
use libp2p::{PeerId, tcp, yamux};
use rustix::net::sockopt;

use super::gate::{Gate, GateError};

/// From the first SYN to a usable connection, per address. A LAN needs milliseconds; a loaded machine's
/// handshake stays below a second.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes unacknowledged for this long end the connection. The kernel's own patience is 15 minutes, with
/// pauses of two minutes between tries: a healed partition would stay unused that long.
const UNACKED_MAX_MS: u32 = 15_000;
/// A silent connection is probed after this, then again at the interval, so that both ends forget it alike.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// yamux resets what exceeds it; bulk opens at most this many streams at once to one peer.
const STREAMS_MAX: usize = 1_024;

/// Why an address was not reached, and how far it came.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
struct ReachError {
    obstacle: Obstacle,
    source: Box<dyn Error + Send + Sync>,
}

/// What kept one address from being reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The host is up, nobody listens.
    Refused,
    /// No answer, or no way there.
    Silent,
    /// Something listens that is no fnode.
    NotFnode,
    /// A node that holds another secret.
    WrongSecret,
    /// Either side's gate turned the other away by its identity.
    NotAdmitted,
    /// Not an address that can be dialled.
    BadAddress,
}

pub(super) fn build(gate: Gate) -> Boxed<(PeerId, StreamMuxerBox)> {
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(STREAMS_MAX);
    let reached = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(|stream, _| watched(stream))
        .upgrade(Version::V1)
        .authenticate(gate)
        .multiplex(muxer)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .map_err(|error| error.either(|early| early.either(at_tcp, at_gate), after_gate));
    TransportTimeout::new(reached, DIAL_TIMEOUT).boxed()
}

/// What an error of the transport built here says.
pub(super) fn obstacle(error: &TransportError<io::Error>) -> Obstacle {
    let TransportError::Other(error) = error else {
        return Obstacle::BadAddress;
    };
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TransportTimeoutError<ReachError>>());
    match inner {
        Some(TransportTimeoutError::Other(reach)) => reach.obstacle,
        _ => Obstacle::Silent,
    }
}

fn at_tcp(error: io::Error) -> ReachError {
    let refused = error.kind() == io::ErrorKind::ConnectionRefused;
    let obstacle = if refused { Obstacle::Refused } else { Obstacle::Silent };
    ReachError { obstacle, source: error.into() }
}

/// The error wraps either the gate's, or what went wrong while a protocol was agreed on: every node of every
/// cluster agrees on one, if only to say that it shares no secret.
fn at_gate(error: impl Error + Send + Sync + 'static) -> ReachError {
    let obstacle = match error.source().and_then(|source| source.downcast_ref::<GateError>()) {
        Some(GateError::NoCommonSecret | GateError::WrongSecret) => Obstacle::WrongSecret,
        Some(GateError::ShutOut(_) | GateError::PreviousSecret(_)) => Obstacle::NotAdmitted,
        Some(GateError::Handshake(_)) | None => Obstacle::NotFnode,
    };
    ReachError { obstacle, source: error.into() }
}

/// The handshake succeeded as seen from here; the other side, which sees it last, closed the connection.
fn after_gate(error: impl Error + Send + Sync + 'static) -> ReachError {
    ReachError { obstacle: Obstacle::NotAdmitted, source: error.into() }
}

/// Lets the kernel notice a peer that vanished. A kernel without an option serves as well, only later.
fn watched(stream: tcp::tokio::TcpStream) -> tcp::tokio::TcpStream {
    let socket = &stream.0;
    let result = sockopt::set_socket_keepalive(socket, true)
        .and_then(|()| sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE))
        .and_then(|()| sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL))
        .and_then(|()| sockopt::set_tcp_user_timeout(socket, UNACKED_MAX_MS));
    if let Err(error) = result {
        tracing::debug!(%error, "a TCP option was not taken");
    }
    stream
}
