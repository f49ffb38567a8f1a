//! The provider's side of the protocol: [`serve()`] answers the requests of one stream until it closes.
//! The net shell calls it for each incoming stream; it decides nothing and remembers nothing.

use std::io::{self, Write};
use std::ops::Range;
use std::time::Duration;

use bao_tree::io::outboard::PostOrderOutboard;
use bao_tree::io::sync::encode_ranges;
use bytes::Bytes;
use proto::ContentId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::error::BlobError;
use super::pipe::{ChunkWriter, outbound, pour_out};
use super::store::BlobStore;
use super::tree::{self, WHOLE_MAX};
use super::wire::{Answer, REQUEST_MAX, Request, UNSIZED_MAX, WHOLE_IDS_MAX, frame, read_frame};

/// A stream without a request for so long is given up; a fetcher opens another when it needs one.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A fetcher that does not take a chunk for so long is gone.
const WRITE_MAX: Duration = Duration::from_secs(30);
/// How long a request waits for its turn before the answer is `Busy`.
const TURN_MAX: Duration = Duration::from_secs(2);

/// Why a stream was given up. Each concerns that peer alone.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It ended in the middle, did not take its bytes, or broke.
    #[error("stream of a fetching peer: {0}")]
    Stream(#[from] io::Error),
    /// It asked for what no fetcher asks for.
    #[error("a fetching peer broke the protocol")]
    Protocol,
    /// A blob could not be read after its answer had begun.
    #[error(transparent)]
    Store(#[from] BlobError),
}

/// Answers requests until the peer closes the stream or says nothing for a minute. Holds one request in
/// memory at a time; over all streams of a store at most 32 requests read the disk, the others wait briefly
/// and are told `Busy`.
///
/// # Errors
/// [`ServeError`]; the stream is of no further use then. Dropping the future closes it.
pub async fn serve<S>(mut stream: S, store: &BlobStore) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    loop {
        let request = match timeout(IDLE_MAX, read_frame::<Request>(&mut stream, REQUEST_MAX)).await {
            Ok(request) => request?,
            Err(_) => return Ok(()),
        };
        let Some(request) = request else { return Ok(()) };
        check(&request)?;
        let Ok(Ok(_turn)) = timeout(TURN_MAX, store.inner.serving.acquire()).await else {
            refuse(&mut stream, &request).await?;
            continue;
        };
        let (writer, chunks) = outbound();
        let reading = store.clone();
        let disk = tokio::task::spawn_blocking(move || answer(&reading, &request, writer));
        send(&mut stream, chunks).await?;
        match disk.await {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

fn check(request: &Request) -> Result<(), ServeError> {
    let is_fine = match request {
        Request::Whole(ids) => !ids.is_empty() && ids.len() <= WHOLE_IDS_MAX,
        &Request::Range { size, start, end, .. } => tree::is_askable(&Range { start, end }, size) && size > WHOLE_MAX,
    };
    if is_fine { Ok(()) } else { Err(ServeError::Protocol) }
}

async fn refuse(stream: &mut (impl AsyncWrite + Unpin), request: &Request) -> io::Result<()> {
    let count = match request {
        Request::Whole(ids) => ids.len(),
        Request::Range { .. } => 1,
    };
    let answers = frame(&Answer::Busy).repeat(count);
    let written = timeout(WRITE_MAX, async {
        stream.write_all(&answers).await?;
        stream.flush().await
    });
    written.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), chunks: Receiver<Bytes>) -> io::Result<()> {
    pour_out(chunks, stream, WRITE_MAX).await
}

/// The blocking half: reads the disk into `writer`. Ends quietly when the stream went away.
fn answer(store: &BlobStore, request: &Request, mut writer: ChunkWriter) -> Result<(), ServeError> {
    match request {
        Request::Whole(ids) => ids.iter().try_for_each(|&id| answer_whole(store, id, &mut writer))?,
        &Request::Range { id, size, start, end } => answer_range(store, id, size, start..end, &mut writer)?,
    }
    writer.flush()?;
    Ok(())
}

fn answer_whole(store: &BlobStore, id: ContentId, writer: &mut ChunkWriter) -> Result<(), ServeError> {
    // Hashed once more while it passes: a blob torn on this disk is "not here" to the peer, not a lie.
    let bytes = match store.read_small(id, UNSIZED_MAX) {
        Ok(bytes) => bytes,
        Err(BlobError::TooLarge { size, .. }) => return Ok(writer.write_all(&frame(&Answer::OtherSize { size }))?),
        Err(error) => {
            if !matches!(error, BlobError::Missing(_)) {
                tracing::warn!(%error, "a blob that was asked for cannot be served");
            }
            return Ok(writer.write_all(&frame(&Answer::NotHere))?);
        }
    };
    writer.write_all(&frame(&Answer::Data { size: bytes.len() as u64 }))?;
    Ok(writer.write_all(&bytes)?)
}

fn answer_range(
    store: &BlobStore,
    id: ContentId,
    size: u64,
    range: Range<u64>,
    writer: &mut ChunkWriter,
) -> Result<(), ServeError> {
    match store.has(id) {
        Some(have) if have == size => {}
        Some(have) => return Ok(writer.write_all(&frame(&Answer::OtherSize { size: have }))?),
        None => return Ok(writer.write_all(&frame(&Answer::NotHere))?),
    }
    let opened = store.open_blob(id).and_then(|data| Ok((data, store.outboard(id, size)?)));
    let (data, outboard) = match opened {
        Ok(files) => files,
        Err(error) => {
            tracing::warn!(%error, "a blob that was asked for cannot be served");
            return Ok(writer.write_all(&frame(&Answer::NotHere))?);
        }
    };
    writer.write_all(&frame(&Answer::Data { size }))?;
    let outboard = PostOrderOutboard { root: id.0.into(), tree: tree::shape(size), data: outboard };
    // Not validated here: the receiver does, and hashing twice would halve the speed of a fast network.
    encode_ranges(data, outboard, &tree::chunks(&range, size), writer).map_err(io::Error::from)?;
    Ok(())
}
