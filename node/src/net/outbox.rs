//! What waits to be sent to each peer over the control plane.
//!
//! Whoever holds a `NetHandle` puts frames in, without waiting and without a hop over the actor; the handler
//! of the connection in use takes them out and is woken directly. Both ends of every queue are bounded. A lost
//! frame is counted, never repaired here: gossip and anti-entropy repair.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Waker};

use bytes::Bytes;
use libp2p::swarm::ConnectionId;
use proto::NodeId;

use super::frames::{FRAME_MAX, FrameWriter};

/// Frames and bytes that wait for one peer. Four of the largest frames, or a burst of thousands of small ones;
/// a peer that takes less than that within a TCP timeout is better off with anti-entropy.
pub const OUTBOX_FRAMES_MAX: usize = 4_096;
/// See [`OUTBOX_FRAMES_MAX`].
pub const OUTBOX_BYTES_MAX: usize = 4 * FRAME_MAX;
/// Frames go to the stream in batches of about this size: one flush, few syscalls.
const BATCH_BYTES: usize = 64 << 10;

/// Why a frame was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Neither connected nor being dialled.
    #[error("not connected to the peer")]
    NotConnected,
    /// [`OUTBOX_FRAMES_MAX`] or [`OUTBOX_BYTES_MAX`] is reached; the peer takes nothing at the moment.
    #[error("the peer's outbox is full")]
    Full,
    /// The frame is empty or longer than [`FRAME_MAX`].
    #[error("a frame has 1 to {FRAME_MAX} bytes, not {0}")]
    Length(usize),
}

/// All peers' outboxes.
#[derive(Default)]
pub(super) struct Outboxes {
    peers: RwLock<HashMap<NodeId, Arc<Outbox>>>,
    dropped: AtomicU64,
}

/// One peer's.
#[derive(Default)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Connected, or a dial is in progress.
    open: bool,
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// The one connection whose handler may take frames, and how to wake it.
    owner: Option<ConnectionId>,
    waker: Option<Waker>,
}

impl Outboxes {
    /// Queues `frame` for `to`; never waits.
    pub(super) fn send(&self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        if frame.is_empty() || frame.len() > FRAME_MAX {
            return Err(SendError::Length(frame.len()));
        }
        let outbox = self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&to).cloned();
        let result = outbox.map_or(Err(SendError::NotConnected), |outbox| outbox.push(frame));
        if result.is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Lets frames for `node` be queued.
    pub(super) fn open(&self, node: NodeId) -> Arc<Outbox> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let outbox = peers.entry(node).or_default();
        outbox.lock().open = true;
        outbox.clone()
    }

    /// Forgets what waits for `node` and refuses more.
    pub(super) fn close(&self, node: NodeId) {
        let outbox = self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
        if let Some(outbox) = outbox {
            let lost = outbox.clear();
            self.dropped.fetch_add(lost, Ordering::Relaxed);
            if lost > 0 {
                tracing::debug!(peer = %node, lost, "frames dropped with the connection");
            }
        }
    }

    /// Whether nothing waits for anyone who is connected.
    pub(super) fn is_drained(&self) -> bool {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().all(|outbox| {
            let inner = outbox.lock();
            inner.frames.is_empty() || inner.owner.is_none()
        })
    }

    /// Frames refused or thrown away since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Outbox {
    fn push(&self, frame: Bytes) -> Result<(), SendError> {
        let mut inner = self.lock();
        if !inner.open {
            return Err(SendError::NotConnected);
        }
        if inner.frames.len() >= OUTBOX_FRAMES_MAX || inner.bytes + frame.len() > OUTBOX_BYTES_MAX {
            return Err(SendError::Full);
        }
        inner.bytes += frame.len();
        inner.frames.push_back(frame);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// From now on only the handler of `connection` takes frames; `None`: they wait.
    pub(super) fn set_owner(&self, connection: Option<ConnectionId>) {
        let mut inner = self.lock();
        inner.owner = connection;
        inner.waker = None;
    }

    /// Moves a batch of frames into `writer` for the handler of `connection`, and remembers to wake it.
    pub(super) fn take_batch(&self, connection: ConnectionId, writer: &mut FrameWriter, cx: &mut Context<'_>) {
        let mut inner = self.lock();
        if inner.owner != Some(connection) {
            return;
        }
        while writer.len() < BATCH_BYTES {
            let Some(frame) = inner.frames.pop_front() else {
                if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    inner.waker = Some(cx.waker().clone());
                }
                return;
            };
            inner.bytes -= frame.len();
            writer.push(&frame);
        }
    }

    fn clear(&self) -> u64 {
        let mut inner = self.lock();
        inner.open = false;
        inner.owner = None;
        inner.waker = None;
        inner.bytes = 0;
        let lost = inner.frames.len() as u64;
        inner.frames = VecDeque::new();
        lost
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([1; 32]);

    fn frame(len: usize) -> Bytes {
        vec![1; len].into()
    }

    #[test]
    fn frames_are_queued_only_while_open_and_only_up_to_the_bounds() {
        let outboxes = Outboxes::default();
        assert_eq!(outboxes.send(NODE, frame(1)), Err(SendError::NotConnected));
        outboxes.open(NODE);
        assert_eq!(outboxes.send(NODE, frame(0)), Err(SendError::Length(0)));
        assert_eq!(outboxes.send(NODE, frame(FRAME_MAX + 1)), Err(SendError::Length(FRAME_MAX + 1)));
        for _ in 0..4 {
            assert_eq!(outboxes.send(NODE, frame(FRAME_MAX)), Ok(()));
        }
        assert_eq!(outboxes.send(NODE, frame(1)), Err(SendError::Full));
        outboxes.close(NODE);
        assert_eq!(outboxes.send(NODE, frame(1)), Err(SendError::NotConnected));
        outboxes.open(NODE);
        for _ in 0..OUTBOX_FRAMES_MAX {
            assert_eq!(outboxes.send(NODE, frame(1)), Ok(()));
        }
        assert_eq!(outboxes.send(NODE, frame(1)), Err(SendError::Full));
        // Four refused for state or space, four thrown away by the close; a wrong length is the caller's bug.
        assert_eq!(outboxes.dropped(), 8);
    }

    #[test]
    fn only_the_connection_in_use_takes_frames() {
        let outboxes = Outboxes::default();
        let outbox = outboxes.open(NODE);
        outboxes.send(NODE, frame(5)).unwrap();
        let [first, second] = [ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2)];
        let mut cx = Context::from_waker(Waker::noop());
        let mut writer = FrameWriter::default();
        outbox.take_batch(first, &mut writer, &mut cx);
        assert_eq!(writer.len(), 0);
        assert!(outboxes.is_drained(), "without a connection nothing can be drained");
        outbox.set_owner(Some(second));
        assert!(!outboxes.is_drained());
        outbox.take_batch(first, &mut writer, &mut cx);
        assert_eq!(writer.len(), 0);
        outbox.take_batch(second, &mut writer, &mut cx);
        assert_eq!(writer.len(), 9);
        assert!(outboxes.is_drained());
    }
}
