//! One bulk connection: opens the streams asked for, confirms or refuses those that the peer opens.
//!
//! libp2p's connection task drives it. A stream that the application has no room for is answered `busy`, so
//! that the peer knows to come back; none is dropped in silence.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use libp2p::StreamProtocol;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::futures::future::BoxFuture;
use libp2p::futures::stream::FuturesUnordered;
use libp2p::futures::{AsyncWriteExt as _, FutureExt as _, StreamExt as _};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol};
use proto::NodeId;
use tokio::sync::mpsc;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::bulk::{BulkError, BulkProtocol, BulkStream, InboundBulk, OpenReply};

/// The remote's answer to a new stream: use it.
pub(super) const ACCEPTED: u8 = 1;
/// The remote's answer to a new stream: come back later.
pub(super) const BUSY: u8 = 2;
/// Answers being written; further streams are dropped, which the peer sees as lost and asks for again.
const ANSWERS_MAX: usize = 512;

/// One connection's end of the bulk plane.
pub(super) struct BulkHandler {
    peer: NodeId,
    inbound: mpsc::Sender<InboundBulk>,
    wanted: VecDeque<OpenStream>,
    answers: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// A request for a stream and who waits for it.
pub(super) struct OpenStream {
    pub(super) protocol: BulkProtocol,
    pub(super) reply: OpenReply,
}

/// The bulk protocols on offer for one stream.
pub(super) struct Offer(&'static [BulkProtocol]);

/// A protocol's name on the wire.
#[derive(Clone)]
pub(super) struct BulkName {
    name: StreamProtocol,
    protocol: BulkProtocol,
}

impl BulkProtocol {
    const ALL: [Self; 4] = [Self::Blobs, Self::Tail, Self::Tunnel, Self::Ask];

    /// Its name and version on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blobs => "/fnode/blobs/1",
            Self::Tail => "/fnode/tail/1",
            Self::Tunnel => "/fnode/tunnel/1",
            Self::Ask => "/fnode/ask/1",
        }
    }

    const fn alone(self) -> &'static [Self] {
        match self {
            Self::Blobs => &[Self::Blobs],
            Self::Tail => &[Self::Tail],
            Self::Tunnel => &[Self::Tunnel],
            Self::Ask => &[Self::Ask],
        }
    }
}

impl OpenStream {
    pub(super) fn fail(self, error: BulkError) {
        // The asker may have gone.
        let _ = self.reply.send(Err(error));
    }
}

impl BulkHandler {
    pub(super) fn new(peer: NodeId, inbound: mpsc::Sender<InboundBulk>) -> Self {
        Self { peer, inbound, wanted: VecDeque::new(), answers: FuturesUnordered::new() }
    }

    fn on_inbound(&mut self, mut stream: Stream, protocol: BulkProtocol) {
        if self.answers.len() >= ANSWERS_MAX {
            tracing::warn!(peer = %self.peer.short(), "too many bulk streams at once, one is dropped");
            return;
        }
        let from = self.peer;
        let place = self.inbound.clone().try_reserve_owned();
        let answer = async move {
            let byte = if place.is_ok() { ACCEPTED } else { BUSY };
            let written = async { stream.write_all(&[byte]).await.and(stream.flush().await) }.await;
            match (place, written) {
                (Ok(place), Ok(())) => {
                    place.send(InboundBulk { from, protocol, stream: BulkStream::new(stream.compat()) });
                }
                (Err(_), _) => {
                    tracing::debug!(peer = %from.short(), ?protocol, "busy: a bulk stream was refused");
                    // The byte is out, or the peer is gone.
                    let _ = stream.close().await;
                }
                (Ok(_), Err(error)) => tracing::debug!(peer = %from.short(), %error, "a bulk stream broke"),
            }
        };
        self.answers.push(answer.boxed());
    }
}

impl ConnectionHandler for BulkHandler {
    type FromBehaviour = OpenStream;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer(&BulkProtocol::ALL), ())
    }

    /// Streams keep their connection alive by themselves; without any, the swarm's idle timeout runs.
    fn connection_keep_alive(&self) -> bool {
        !self.wanted.is_empty()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offer, OpenReply, Infallible>> {
        if let Some(open) = self.wanted.pop_front() {
            let protocol = SubstreamProtocol::new(Offer(open.protocol.alone()), open.reply);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        while let Poll::Ready(Some(())) = self.answers.poll_next_unpin(cx) {}
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, open: OpenStream) {
        self.wanted.push_back(open);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), OpenReply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol), ..
            }) => self.on_inbound(stream, protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (stream, _), info }) => {
                // The asker may have gone; dropping the stream resets it.
                let _ = info.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(failed) => {
                let error = match failed.error {
                    StreamUpgradeError::NegotiationFailed => BulkError::NotSpoken,
                    StreamUpgradeError::Timeout | StreamUpgradeError::Io(_) => BulkError::Lost,
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = failed.info.send(Err(error));
            }
            _ => {}
        }
    }
}

impl UpgradeInfo for Offer {
    type Info = BulkName;
    type InfoIter = std::vec::IntoIter<BulkName>;

    fn protocol_info(&self) -> Self::InfoIter {
        let name = |&protocol: &BulkProtocol| BulkName { name: StreamProtocol::new(protocol.name()), protocol };
        self.0.iter().map(name).collect::<Vec<_>>().into_iter()
    }
}

impl AsRef<str> for BulkName {
    fn as_ref(&self) -> &str {
        self.name.as_ref()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, BulkProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: BulkName) -> Self::Future {
        ready(Ok((stream, name.protocol)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, BulkProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: BulkName) -> Self::Future {
        ready(Ok((stream, name.protocol)))
    }
}

impl fmt::Debug for OpenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenStream({:?})", self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::golden::{Sample, check};

    #[test]
    fn golden_bulk() {
        let mut samples: Vec<Sample> = BulkProtocol::ALL
            .into_iter()
            .map(|protocol| Sample::text(&format!("name of {protocol:?}"), &protocol, protocol.name()))
            .collect();
        samples.push(Sample::new("the answer to a new stream: use it", &"", vec![ACCEPTED]));
        samples.push(Sample::new("the answer to a new stream: come back later", &"", vec![BUSY]));
        check("net.Bulk", &samples);
    }
}
