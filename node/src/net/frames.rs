//! Frames on a stream: `len u32 little-endian | bytes`, read and written without a task of their own.
//!
//! A frame of length zero carries nothing and is never sent for the application; the control plane uses it to
//! say "this connection is the one" (`links.rs`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use libp2p::futures::{AsyncRead, AsyncWrite};

/// Largest frame, in bytes. Anything larger is a blob and goes over the bulk plane.
pub const FRAME_MAX: usize = 1 << 20;

const LEN_BYTES: usize = 4;
/// Read and write buffers return to this size after a large frame: one of each is kept per peer.
const BUFFER_KEPT: usize = 16 << 10;

/// Cuts what arrives into frames.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// Holds what is to be written.
#[derive(Debug, Default)]
pub(super) struct FrameWriter {
    buffer: BytesMut,
    unflushed: bool,
}

impl FrameReader {
    /// The next frame; `None` at the end of the stream.
    pub(super) fn poll_next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            let wanted = match self.take()? {
                Ok(frame) => return Poll::Ready(Ok(Some(frame))),
                Err(wanted) => wanted,
            };
            self.make_room(wanted);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut self.buffer[self.end..]))?;
            if read == 0 {
                let torn = self.end > self.start;
                return Poll::Ready(if torn { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) });
            }
            self.end += read;
        }
    }

    /// A whole frame from the buffer, or how many bytes the next one needs in all.
    fn take(&mut self) -> io::Result<Result<Bytes, usize>> {
        let Some((head, rest)) = self.buffer[self.start..self.end].split_first_chunk::<LEN_BYTES>() else {
            return Ok(Err(LEN_BYTES));
        };
        let len = u32::from_le_bytes(*head) as usize;
        if len > FRAME_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
        }
        let Some(frame) = rest.get(..len) else {
            return Ok(Err(LEN_BYTES + len));
        };
        let frame = Bytes::copy_from_slice(frame);
        self.start += LEN_BYTES + len;
        Ok(Ok(frame))
    }

    fn make_room(&mut self, wanted: usize) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let size = wanted.max(BUFFER_KEPT);
        if self.buffer.len() > size {
            self.buffer.truncate(size.max(self.end));
            self.buffer.shrink_to_fit();
        } else {
            self.buffer.resize(size, 0);
        }
    }
}

impl FrameWriter {
    /// Bytes not yet handed to the stream.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Adds a frame, which must not be longer than [`FRAME_MAX`].
    pub(super) fn push(&mut self, frame: &[u8]) {
        assert!(frame.len() <= FRAME_MAX, "the length of a frame was checked where it came in");
        self.buffer.put_u32_le(u32::try_from(frame.len()).expect("FRAME_MAX fits in 32 bits"));
        self.buffer.put_slice(frame);
    }

    /// Hands everything to the stream and flushes; ready when nothing is left to do.
    pub(super) fn poll_write(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
            self.unflushed = true;
        }
        if self.buffer.capacity() > 4 * BUFFER_KEPT {
            self.buffer = BytesMut::with_capacity(BUFFER_KEPT);
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use libp2p::futures::io::Cursor;
    use std::task::Waker;

    use super::*;
    use crate::harness::attack::attack;
    use crate::harness::golden::{Sample, check};

    fn read_all(bytes: &[u8], chunk: usize) -> io::Result<Vec<Bytes>> {
        let mut reader = FrameReader::default();
        let mut frames = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        let mut stream = Chunked { bytes, chunk };
        loop {
            match reader.poll_next(&mut stream, &mut cx) {
                Poll::Ready(Ok(Some(frame))) => frames.push(frame),
                Poll::Ready(Ok(None)) => return Ok(frames),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => unreachable!("a slice is always ready"),
            }
        }
    }

    /// Gives at most `chunk` bytes a time.
    struct Chunked<'a> {
        bytes: &'a [u8],
        chunk: usize,
    }

    impl AsyncRead for Chunked<'_> {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
            let len = buf.len().min(self.chunk).min(self.bytes.len());
            let (now, later) = self.bytes.split_at(len);
            buf[..len].copy_from_slice(now);
            self.bytes = later;
            Poll::Ready(Ok(len))
        }
    }

    fn written(frames: &[&[u8]]) -> Vec<u8> {
        let mut writer = FrameWriter::default();
        frames.iter().for_each(|frame| writer.push(frame));
        let mut stream = Cursor::new(Vec::new());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(writer.poll_write(&mut stream, &mut cx), Poll::Ready(Ok(()))));
        stream.into_inner()
    }

    #[test]
    fn frames_arrive_whole_however_they_are_cut() {
        let large = vec![7; 100_000];
        let bytes = written(&[b"a", b"", &large, b"bc"]);
        for chunk in [1, 3, 4_096, 1 << 20] {
            let frames = read_all(&bytes, chunk).unwrap();
            assert_eq!(frames, [&b"a"[..], b"", &large, b"bc"]);
        }
    }

    #[test]
    fn a_torn_or_oversized_frame_is_an_error() {
        let bytes = written(&[b"abc"]);
        for cut in 1..bytes.len() {
            assert_eq!(read_all(&bytes[..cut], 2).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        let len = u32::try_from(FRAME_MAX + 1).unwrap().to_le_bytes();
        assert_eq!(read_all(&len, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(written(&[&vec![1; FRAME_MAX]]).len(), FRAME_MAX + 4);
    }

    #[test]
    fn buffers_shrink_after_a_large_frame() {
        let mut reader = FrameReader::default();
        let mut cx = Context::from_waker(Waker::noop());
        let bytes = written(&[&vec![1; FRAME_MAX], b"x"]);
        let mut stream = Chunked { bytes: &bytes, chunk: usize::MAX };
        while let Poll::Ready(Ok(Some(_))) = reader.poll_next(&mut stream, &mut cx) {}
        assert!(reader.buffer.capacity() <= 2 * BUFFER_KEPT, "{}", reader.buffer.capacity());
    }

    #[test]
    fn golden_frames() {
        let frame = Sample::new("a frame", &"abc", written(&[b"abc"]));
        let mark = Sample::new("the mark: this connection is the one", &"", written(&[b""]));
        check("net.Frame", &[frame, mark]);
    }

    #[test]
    fn hostile_bytes_in_the_place_of_a_frame_do_no_harm() {
        attack("Frame", &written(&[b"abc"]), |bytes| read_all(bytes, 7).is_ok_and(|frames| frames.len() == 1));
    }
}
