//! Reading logs: of an attempt that runs here from its file, elsewhere over a stream, of one that ended
//! from the journal when it is small, else from its sealed blob, wherever that lies.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::event::LogRef;
use proto::record::{AttemptKey, JobRecord};
use proto::{AttemptId, JobId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::handle::{NodeError, NodeHandle, Shared};
use super::home::Home;
use super::{prepare, times};
use crate::net::BulkProtocol;

/// Most bytes in one answer.
pub(super) const CHUNK_MAX: usize = 256 << 10;
/// Longest wait for more in one request; a reader asks again.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// So far back the beginning of a line is looked for.
const LINE_MAX: usize = 64 << 10;
/// A log that does not grow is looked at this often, slower and slower.
const LOOK_MIN: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(100);
/// Largest request or answer header on the stream.
const WORD_MAX: usize = CHUNK_MAX + 64;

/// Part of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// From the offset that was asked for.
    pub bytes: Vec<u8>,
    /// Where to go on.
    pub next_offset: u64,
    /// The attempt ended, and this is all.
    pub eof: bool,
}

/// Asks a worker about the log of an attempt that it holds.
#[derive(Debug, Serialize, Deserialize)]
enum TailRequest {
    /// Part of it: a [`LogChunk`], or none.
    Part { attempt: AttemptId, offset: u64, max: u32, wait_ms: u32 },
    /// How long it was then, in milliseconds since 1970: a number of bytes.
    LengthAt { attempt: AttemptId, unix_ms: u64 },
}

/// The file that an attempt's output goes to while it is here.
pub(super) fn log_path(home: &Home, attempt: AttemptId) -> PathBuf {
    home.jobs().join(attempt.file_name()).join("log")
}

/// Which attempt's log, and where it may be.
enum Source {
    Sealed { log: LogRef, worker: NodeId },
    Live { attempt: AttemptId, worker: NodeId },
    Nothing,
}

pub(super) async fn log_chunk(
    node: &NodeHandle,
    job: JobId,
    attempt: Option<AttemptKey>,
    offset: u64,
    max: usize,
    wait: Duration,
) -> Result<LogChunk, NodeError> {
    let max = max.clamp(1, CHUNK_MAX);
    let deadline = Instant::now() + wait.min(WAIT_MAX);
    loop {
        match find(node, job, attempt).await? {
            Some(Source::Nothing) => return Ok(LogChunk { bytes: Vec::new(), next_offset: offset, eof: true }),
            Some(Source::Sealed { log, worker }) => return sealed(node, job, worker, &log, (offset, max)).await,
            Some(Source::Live { attempt, worker }) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let chunk = live(node, attempt, worker, offset, max, left).await?;
                // `None`: it has just ended there; its record is on its way.
                if let Some(chunk) = chunk {
                    return Ok(chunk);
                }
            }
            None => {}
        }
        if deadline <= Instant::now() {
            return Ok(LogChunk { bytes: Vec::new(), next_offset: offset, eof: false });
        }
        tokio::time::sleep(LOOK_MIN * 5).await;
    }
}

/// `None`: nothing of it ran yet.
async fn find(node: &NodeHandle, job: JobId, wanted: Option<AttemptKey>) -> Result<Option<Source>, NodeError> {
    let record = node.job(job)?;
    if let Some(record) = &record
        && let Some(source) = source_of(job, record, wanted)
    {
        return Ok(Some(source));
    }
    let explanation = node.explain(job).await?;
    if explanation.is_none() && record.is_none_or(|record| record.outcome.is_none()) && node.group(job.group)?.is_none()
    {
        return Err(NodeError::Unknown(format!("job {job} is not known here")));
    }
    Ok(explanation
        .and_then(|told| told.attempt.zip(told.worker))
        .map(|(attempt, worker)| Source::Live { attempt, worker }))
}

/// The attempt that counts: the wanted one, else the outcome's, else the last that did anything.
fn source_of(job: JobId, record: &JobRecord, wanted: Option<AttemptKey>) -> Option<Source> {
    let counted = record
        .outcome
        .as_ref()
        .and_then(|outcome| outcome.attempt)
        .map(|(attempt, worker)| AttemptKey::of(attempt, worker));
    let running = record.running().next_back().copied();
    let last = record.attempts.keys().next_back().copied();
    let key = match wanted.or(counted) {
        Some(key) => key,
        None if record.outcome.is_some() => match last {
            Some(key) => key,
            None => return Some(Source::Nothing),
        },
        // Not ended yet: one that runs, else wait for the next.
        None => running?,
    };
    let attempt = record.attempts.get(&key)?;
    Some(match &attempt.finished {
        Some(finished) => {
            finished.log.clone().map_or(Source::Nothing, |log| Source::Sealed { log, worker: key.worker })
        }
        None if attempt.lost.is_some() && record.outcome.is_some() => Source::Nothing,
        None => Source::Live { attempt: key.id(job), worker: key.worker },
    })
}

async fn sealed(
    node: &NodeHandle,
    job: JobId,
    worker: NodeId,
    log: &LogRef,
    (offset, max): (u64, usize),
) -> Result<LogChunk, NodeError> {
    let is_here = log.is_inline() || node.blobs().has(log.content).is_some();
    if !is_here && node.fetch_blob(log.content, log.size).await.is_err() {
        match node.recall_log(job, log.content, log.size).await {
            Ok(()) => {}
            Err(NodeError::Unreachable(_)) => return Err(out_of_reach(node, job, worker).await),
            Err(error) => return Err(error),
        }
    }
    let (shared, log, size) = (node.shared.clone(), log.clone(), log.size);
    let read = move || -> Result<Vec<u8>, NodeError> {
        if log.is_inline()
            && let Some(bytes) = shared.store.inline(log.content)?
        {
            let rest = bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
            return Ok(rest[..rest.len().min(max)].to_vec());
        }
        let mut file = shared.blobs.open_blob(log.content)?;
        read_from(&mut file, offset, max).map_err(|error| NodeError::Unknown(format!("log {}: {error}", log.content)))
    };
    let bytes = tokio::task::spawn_blocking(read).await.map_err(|_| NodeError::Closing)??;
    let next_offset = offset + bytes.len() as u64;
    Ok(LogChunk { bytes, next_offset, eof: next_offset >= size })
}

/// Why the log of an attempt of `worker` cannot be had.
async fn out_of_reach(node: &NodeHandle, job: JobId, worker: NodeId) -> NodeError {
    let what = format!("the log of job {job}");
    match node.name_of(worker).await {
        Ok((_, true)) => NodeError::Unreachable(what),
        Ok((name, false)) => NodeError::OutOfReach { what, node: name },
        Err(error) => error,
    }
}

async fn live(
    node: &NodeHandle,
    attempt: AttemptId,
    worker: NodeId,
    offset: u64,
    max: usize,
    wait: Duration,
) -> Result<Option<LogChunk>, NodeError> {
    if worker == node.me() {
        return Ok(local(&node.shared, attempt, offset, max, wait).await);
    }
    match ask(node, attempt, worker, offset, max, wait).await {
        Ok(chunk) => Ok(chunk),
        Err(_) => Err(out_of_reach(node, attempt.job, worker).await),
    }
}

/// Asks the worker that runs it.
async fn ask(
    node: &NodeHandle,
    attempt: AttemptId,
    worker: NodeId,
    offset: u64,
    max: usize,
    wait: Duration,
) -> std::io::Result<Option<LogChunk>> {
    let stream = node.shared.net.open_bulk(worker, BulkProtocol::Tail).await;
    let mut stream = stream.map_err(std::io::Error::other)?;
    let request = TailRequest::Part {
        attempt,
        offset,
        max: u32::try_from(max).unwrap_or(u32::MAX),
        wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
    };
    write_word(&mut stream, &request).await?;
    tokio::time::timeout(wait + Duration::from_secs(5), read_word::<Option<LogChunk>>(&mut stream)).await?
}

/// Where what was written at `unix_ms` or later begins, at the start of a line; to the second, and too early rather than
/// too late. 0 where nothing is known of its times.
pub(super) async fn offset_at(
    node: &NodeHandle,
    job: JobId,
    attempt: AttemptKey,
    unix_ms: u64,
) -> Result<u64, NodeError> {
    let source = node.job(job)?.and_then(|record| source_of(job, &record, Some(attempt)));
    let len = match source {
        Some(Source::Sealed { log: LogRef { times: Some(times), .. }, .. }) => {
            let shared = node.shared.clone();
            let read = tokio::task::spawn_blocking(move || shared.store.inline(times));
            let bytes = read.await.map_err(|_| NodeError::Closing)??;
            bytes.map_or(0, |bytes| times::offset_in_sealed(&bytes, unix_ms))
        }
        Some(Source::Live { attempt, worker }) => length_at(node, attempt, worker, unix_ms).await,
        _ => 0,
    };
    if len == 0 {
        return Ok(0);
    }
    let from = len.saturating_sub(LINE_MAX as u64);
    let max = usize::try_from(len - from).unwrap_or(LINE_MAX);
    let before = log_chunk(node, job, Some(attempt), from, max, Duration::ZERO).await?.bytes;
    let line = before.iter().rposition(|&byte| byte == b'\n').map(|at| from + at as u64 + 1);
    Ok(line.unwrap_or(if from == 0 { 0 } else { len }))
}

/// How long the log of an attempt that runs was then; 0 where that cannot be asked: reading it will tell.
async fn length_at(node: &NodeHandle, attempt: AttemptId, worker: NodeId, unix_ms: u64) -> u64 {
    if worker == node.me() {
        return times::offset_in_file(&log_path(node.home(), attempt), unix_ms);
    }
    let asking = async {
        let stream = node.shared.net.open_bulk(worker, BulkProtocol::Tail).await;
        let mut stream = stream.map_err(std::io::Error::other)?;
        write_word(&mut stream, &TailRequest::LengthAt { attempt, unix_ms }).await?;
        read_word::<u64>(&mut stream).await
    };
    tokio::time::timeout(Duration::from_secs(5), asking).await.ok().and_then(Result::ok).unwrap_or(0)
}

/// Part of the log of an attempt that is here; `None`: it is not, or there is no more of it than its record tells of.
async fn local(shared: &Shared, attempt: AttemptId, offset: u64, max: usize, wait: Duration) -> Option<LogChunk> {
    let path = log_path(&shared.home, attempt);
    let deadline = Instant::now() + wait;
    let mut look = LOOK_MIN;
    loop {
        // Asked before the file is read: what was written before the end is not missed.
        let ended = prepare::is_recorded(shared, attempt);
        let bytes = read_file(&path, offset, max)?;
        if ended && bytes.is_empty() {
            return None;
        }
        if !bytes.is_empty() || deadline <= Instant::now() {
            let next_offset = offset + bytes.len() as u64;
            return Some(LogChunk { bytes, next_offset, eof: false });
        }
        tokio::time::sleep(look).await;
        look = (look * 2).min(LOOK_MAX);
    }
}

fn read_file(path: &Path, offset: u64, max: usize) -> Option<Vec<u8>> {
    let mut file = std::fs::File::open(path).ok()?;
    read_from(&mut file, offset, max).ok()
}

fn read_from(file: &mut std::fs::File, offset: u64, max: usize) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Answers requests of one peer until it closes the stream.
pub(super) async fn serve<S>(shared: Arc<Shared>, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Ok(request) = read_word::<TailRequest>(&mut stream).await {
        let written = match request {
            TailRequest::Part { attempt, offset, max, wait_ms } => {
                let wait = Duration::from_millis(wait_ms.into()).min(WAIT_MAX);
                let chunk = local(&shared, attempt, offset, (max as usize).clamp(1, CHUNK_MAX), wait).await;
                write_word(&mut stream, &chunk).await
            }
            TailRequest::LengthAt { attempt, unix_ms } => {
                let len = times::offset_in_file(&log_path(&shared.home, attempt), unix_ms);
                write_word(&mut stream, &len).await
            }
        };
        if written.is_err() {
            return;
        }
    }
}

pub(super) async fn write_word(stream: &mut (impl AsyncWrite + Unpin), word: &impl Serialize) -> std::io::Result<()> {
    let body = bincode::serde::encode_to_vec(word, bincode::config::standard()).map_err(std::io::Error::other)?;
    let len = u32::try_from(body.len()).map_err(std::io::Error::other)?;
    stream.write_all(&len.to_le_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await
}

pub(super) async fn read_word<T: serde::de::DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<T> {
    let len = stream.read_u32_le().await? as usize;
    if len > WORD_MAX {
        return Err(std::io::Error::other("a word longer than its limit"));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    let config = bincode::config::standard().with_limit::<WORD_MAX>();
    let (word, used) = bincode::serde::decode_from_slice(&body, config).map_err(std::io::Error::other)?;
    if used == len { Ok(word) } else { Err(std::io::Error::other("bytes after the end of a word")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack;
    use crate::harness::golden::{Sample, check};
    use crate::samples;

    fn written(word: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        futures::executor::block_on(write_word(&mut bytes, word)).expect("a Vec takes all");
        bytes
    }

    /// Whether `bytes` are one word and nothing else.
    fn is_word<T: serde::de::DeserializeOwned>(mut bytes: &[u8]) -> bool {
        futures::executor::block_on(read_word::<T>(&mut bytes)).is_ok() && bytes.is_empty()
    }

    fn request() -> TailRequest {
        TailRequest::Part { attempt: samples::attempt(), offset: 70_000, max: 65_536, wait_ms: 500 }
    }

    fn length_at() -> TailRequest {
        TailRequest::LengthAt { attempt: samples::attempt(), unix_ms: 1_700_000_030_000 }
    }

    fn answer() -> Option<LogChunk> {
        Some(LogChunk { bytes: b"epoch 1\n".to_vec(), next_offset: 70_008, eof: true })
    }

    #[test]
    fn golden_tail() {
        let nothing: Option<LogChunk> = None;
        let answers = [
            Sample::new("answer", &answer(), written(&answer())),
            Sample::new("answer: the attempt is not here", &nothing, written(&nothing)),
        ];
        check("node.Tail", &answers);
        let requests = [
            Sample::new("Part", &request(), written(&request())),
            Sample::new("LengthAt", &length_at(), written(&length_at())),
        ];
        check("node.TailRequest", &requests);
    }

    #[test]
    fn hostile_bytes_in_the_place_of_a_request_or_answer_do_no_harm() {
        attack("TailRequest", &written(&request()), is_word::<TailRequest>);
        attack("LogChunk", &written(&answer()), is_word::<Option<LogChunk>>);
    }
}
