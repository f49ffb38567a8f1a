//! The way of events to the application: bounded by number and by the bytes of the frames in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};

use super::frames::FRAME_MAX;
use super::handle::NetEvent;

/// Events that wait for the application: a burst of small frames fits.
const EVENTS_MAX: usize = 1_024;
/// Bytes of frames that wait for it; the frame that passes this is still taken.
const EVENT_BYTES_MAX: usize = 8 * FRAME_MAX;

/// The application's end: what happens in the network, in order. While nobody takes events from it and it is
/// full, the network does not read its peers.
pub struct NetEvents {
    events: mpsc::Receiver<NetEvent>,
    backlog: Arc<Backlog>,
}

/// The actor's end.
#[derive(Clone)]
pub(super) struct EventSender {
    events: mpsc::Sender<NetEvent>,
    backlog: Arc<Backlog>,
}

#[derive(Default)]
struct Backlog {
    bytes: AtomicUsize,
    taken: Notify,
}

pub(super) fn channel() -> (EventSender, NetEvents) {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    let backlog = Arc::new(Backlog::default());
    (EventSender { events: sender, backlog: backlog.clone() }, NetEvents { events: receiver, backlog })
}

impl NetEvents {
    /// The next event; `None` once the network has ended. The future may be dropped; no event is lost.
    pub async fn recv(&mut self) -> Option<NetEvent> {
        let event = self.events.recv().await?;
        self.backlog.take(&event);
        Some(event)
    }

    /// The next event if there is one already.
    pub fn try_recv(&mut self) -> Option<NetEvent> {
        let event = self.events.try_recv().ok()?;
        self.backlog.take(&event);
        Some(event)
    }
}

impl EventSender {
    /// Gives the event back when there is no room. An event for which there is no reader any more is dropped:
    /// whoever stopped reading will stop the network too.
    pub(super) fn try_send(&self, event: NetEvent) -> Result<(), NetEvent> {
        let bytes = bytes_of(&event);
        if bytes > 0 && !self.backlog.has_room() && !self.events.is_closed() {
            return Err(event);
        }
        self.backlog.bytes.fetch_add(bytes, Ordering::AcqRel);
        match self.events.try_send(event) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.backlog.bytes.fetch_sub(bytes, Ordering::AcqRel);
                match error {
                    mpsc::error::TrySendError::Full(event) => Err(event),
                    mpsc::error::TrySendError::Closed(_) => Ok(()),
                }
            }
        }
    }

    /// Waits until [`EventSender::try_send`] is worth another try.
    pub(super) async fn room(&self) {
        loop {
            let taken = self.backlog.taken.notified();
            if self.events.is_closed() || (self.backlog.has_room() && self.events.capacity() > 0) {
                return;
            }
            tokio::select! {
                () = taken => {}
                () = self.events.closed() => {}
            }
        }
    }
}

impl Backlog {
    fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Acquire) < EVENT_BYTES_MAX
    }

    fn take(&self, event: &NetEvent) {
        self.bytes.fetch_sub(bytes_of(event), Ordering::AcqRel);
        // Costs one load while nobody waits.
        self.taken.notify_waiters();
    }
}

fn bytes_of(event: &NetEvent) -> usize {
    if let NetEvent::Frame { bytes, .. } = event { bytes.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::NodeId;

    use super::*;

    fn frame(len: usize) -> NetEvent {
        NetEvent::Frame { from: NodeId([1; 32]), bytes: Bytes::from(vec![0; len]) }
    }

    #[tokio::test]
    async fn the_backlog_is_bounded_by_number_and_bytes() {
        let (sender, mut events) = channel();
        for _ in 0..8 {
            assert!(sender.try_send(frame(FRAME_MAX)).is_ok());
        }
        assert!(sender.try_send(frame(1)).is_err());
        let waiting = tokio::spawn({
            let sender = sender.clone();
            async move { sender.room().await }
        });
        assert!(events.recv().await.is_some());
        waiting.await.unwrap();
        assert!(sender.try_send(frame(1)).is_ok());
        while events.try_recv().is_some() {}
        for _ in 0..8 {
            assert!(sender.try_send(frame(FRAME_MAX)).is_ok());
        }
        assert!(sender.try_send(frame(1)).is_err());
        for _ in 8..EVENTS_MAX {
            assert!(sender.try_send(NetEvent::Refused(NodeId([1; 32]))).is_ok());
        }
        assert!(sender.try_send(NetEvent::Refused(NodeId([1; 32]))).is_err());
        drop(events);
        sender.room().await;
        assert!(sender.try_send(frame(1)).is_ok(), "without a reader events are dropped");
    }
}
