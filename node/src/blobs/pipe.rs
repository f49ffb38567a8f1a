//! Between a stream, which is polled, and the disk, which blocks: bounded channels of byte chunks, so that
//! network, hashing and writing overlap and neither side runs ahead by more than a few chunks.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;

/// Bytes per chunk: larger ones leave the cache before they are hashed.
const CHUNK: usize = 256 << 10;
/// Chunks on their way: 1 MiB per transfer.
const CHUNKS_MAX: usize = 4;

/// The blocking end of an incoming transfer; ends when the other end is dropped.
pub(super) struct ChunkReader {
    chunks: Receiver<Bytes>,
    current: Bytes,
}

/// The blocking end of an outgoing transfer; fails when the other end is dropped.
pub(super) struct ChunkWriter {
    chunks: Sender<Bytes>,
    current: BytesMut,
}

/// A channel from a stream to the disk.
pub(super) fn inbound() -> (Sender<Bytes>, ChunkReader) {
    let (send, chunks) = channel(CHUNKS_MAX);
    (send, ChunkReader { chunks, current: Bytes::new() })
}

/// A channel from the disk to a stream.
pub(super) fn outbound() -> (ChunkWriter, Receiver<Bytes>) {
    let (chunks, receive) = channel(CHUNKS_MAX);
    (ChunkWriter { chunks, current: BytesMut::new() }, receive)
}

/// Moves exactly `len` bytes from `stream` into `chunks`, calling `arrived` per chunk. Ends early, without
/// an error, when the other end has hung up: it knows why. A chunk that takes longer than `patience` is
/// `TimedOut`, be it silence or a trickle.
pub(super) async fn pour_in(
    stream: &mut (impl AsyncRead + Unpin),
    mut len: u64,
    chunks: Sender<Bytes>,
    patience: Duration,
    mut arrived: impl FnMut(u64),
) -> io::Result<()> {
    while len > 0 {
        let size = usize::try_from(len).map_or(CHUNK, |len| len.min(CHUNK));
        let mut chunk = BytesMut::with_capacity(size);
        let mut limited = stream.take(size as u64);
        let filled = timeout(patience, async {
            while chunk.len() < size {
                if limited.read_buf(&mut chunk).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
            }
            Ok(())
        })
        .await;
        len -= chunk.len() as u64;
        arrived(chunk.len() as u64);
        // What came before a failure is used too: it is verified piece by piece.
        if !chunk.is_empty() && chunks.send(chunk.freeze()).await.is_err() {
            return Ok(());
        }
        filled.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    Ok(())
}

/// Moves everything from `chunks` to `stream`, each chunk within `patience`.
pub(super) async fn pour_out(
    mut chunks: Receiver<Bytes>,
    stream: &mut (impl AsyncWrite + Unpin),
    patience: Duration,
) -> io::Result<()> {
    while let Some(chunk) = chunks.recv().await {
        timeout(patience, stream.write_all(&chunk)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    timeout(patience, stream.flush()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.current.extend_from_slice(bytes);
        if self.current.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.current.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.current, BytesMut::with_capacity(CHUNK + (16 << 10))).freeze();
        self.chunks.blocking_send(full).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
