//! What a job wrote: as bytes, or as server-sent events. One answer is one attempt's log, named in a header;
//! a reader that follows asks again with `after_attempt` when the job has not ended.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures::{Stream, StreamExt as _};
use proto::record::{AttemptKey, AttemptRecord, JobRecord};
use proto::{JobId, Member};
use tokio::sync::watch;
use tokio::time::Instant;

use super::events::KEEP_ALIVE;
use super::{has_ended, job_id, job_records};
use crate::http::ATTEMPT_HEADER;
use crate::http::describe;
use crate::http::refusal::{Asked, Path, Refusal};
use crate::http::routes::Shared;
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::http::words::job::{LogEvent, LogQuery};
use crate::node::{LogChunk, NodeError, NodeHandle};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;
/// A follower's request to the node waits so long for more; it is then repeated.
const WAIT: Duration = Duration::from_secs(10);
/// A follower of a job that has not started looks this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A follower waits so long for a job to start, then asks again: no request lives for days unseen.
const START_MAX: Duration = Duration::from_secs(60);
/// A tail is held in memory while it is looked for.
const TAIL_MAX: usize = 16 << 20;
/// Longest tail.
const TAIL_LINES_MAX: u64 = 1_000_000;

/// One attempt's log, being read.
struct Reading {
    node: NodeHandle,
    job: JobId,
    attempt: AttemptKey,
    offset: u64,
    follow: bool,
    closing: watch::Receiver<bool>,
}

pub(crate) async fn log(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Asked(query): Asked<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let node = shared.api.node.clone();
    let job = job_id(&node, &id).await?;
    if query.tail > TAIL_LINES_MAX {
        return Err(ErrorWord::bad_input(format!("a tail has at most {TAIL_LINES_MAX} lines"), "ask for less").into());
    }
    let Some(attempt) = find_attempt(&node, job, &query, shared.closing.clone()).await? else {
        return Ok(nothing());
    };
    let offset = resumed(&headers).unwrap_or(query.offset);
    let mut reading = Reading { node, job, attempt, offset, follow: query.follow != 0, closing: shared.closing };
    if query.since_unix_ms > 0 && !reading.skip_until(query.since_unix_ms).await? {
        return Ok(nothing());
    }
    let mut first = Vec::new();
    if query.tail > 0 {
        first = reading.tail(query.tail).await?;
    } else {
        reading.check_reach().await?;
    }
    let name = describe::attempt_id(&attempt);
    let wants_events = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let mut response = if wants_events.contains("text/event-stream") {
        Sse::new(as_events(reading.chunks(first))).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
    } else {
        let bytes = reading.chunks(first).map(|chunk| chunk.map(|chunk| Bytes::from(chunk.bytes)));
        let mut response = Body::from_stream(bytes).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        response
    };
    if let Ok(name) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(ATTEMPT_HEADER, name);
    }
    Ok(response)
}

/// Where a browser that lost its stream goes on: the id of the last event that it saw.
fn resumed(headers: &HeaderMap) -> Option<u64> {
    headers.get("last-event-id")?.to_str().ok()?.parse().ok()
}

/// An attempt that wrote nothing, or none.
fn nothing() -> Response {
    ([(CONTENT_TYPE, "application/octet-stream")], Body::empty()).into_response()
}

/// The attempt that is meant; with `follow` it is waited for. `None`: there is none (yet).
async fn find_attempt(
    node: &NodeHandle,
    job: JobId,
    query: &LogQuery,
    mut closing: watch::Receiver<bool>,
) -> Result<Option<AttemptKey>, Refusal> {
    let deadline = Instant::now() + START_MAX;
    let named = parse_attempt(&query.attempt)?;
    let read_before = parse_attempt(&query.after_attempt)?;
    loop {
        let (group, record) = job_records(node, job).await?;
        let is_array = group.submitted.as_ref().is_some_and(|submitted| !submitted.spec.array.is_empty());
        if is_array && job.member == Member::Only {
            let hint = format!("name one of its jobs, as in: fnode logs {job}/1");
            return Err(ErrorWord::bad_input(format!("job {job} is an array, whose jobs have a log each"), hint).into());
        }
        let found = match named {
            Some(wanted) => {
                let record = record.as_ref();
                return record.and_then(|record| by_name(record, wanted)).map(Some).ok_or_else(|| {
                    let message = format!("job {job} has no attempt {}", query.attempt);
                    ErrorWord::not_found(message, format!("see fnode job show {job}")).into()
                });
            }
            None => current(node, job, record.as_ref()).await?,
        };
        if let Some(key) = found.filter(|key| read_before.is_none_or(|read| (key.epoch, key.number) > read)) {
            return Ok(Some(key));
        }
        if query.follow == 0 || has_ended(job, &group, record.as_ref()) || Instant::now() >= deadline {
            return Ok(None);
        }
        tokio::select! {
            _ = closing.wait_for(|&closing| closing) => return Err(NodeError::Closing.into()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The attempt that counts or runs; one on its way once its node has it, so that a build can be watched.
async fn current(node: &NodeHandle, job: JobId, record: Option<&JobRecord>) -> Result<Option<AttemptKey>, Refusal> {
    if let Some(record) = record
        && (record.outcome.is_some() || record.running().next().is_some())
    {
        return Ok(record.counted().map(|(key, _)| key));
    }
    let told = node.explain(job).await?;
    let on_its_way = told.and_then(|told| told.attempt.zip(told.worker));
    Ok(on_its_way.map(|(attempt, worker)| AttemptKey::of(attempt, worker)))
}

fn by_name(record: &JobRecord, (epoch, number): (u32, u32)) -> Option<AttemptKey> {
    record.attempts.keys().copied().find(|key| key.epoch == epoch && key.number == number)
}

fn parse_attempt(text: &str) -> Result<Option<(u32, u32)>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.split_once('.').and_then(|(epoch, number)| Some((epoch.parse().ok()?, number.parse().ok()?)));
    parsed.map(Some).ok_or_else(|| {
        let hint = "write EPOCH.NUMBER as fnode job show does";
        ErrorWord::bad_input(format!("{text:?} is not an attempt"), hint).into()
    })
}

impl Reading {
    async fn next(&mut self) -> Result<LogChunk, NodeError> {
        let wait = if self.follow { WAIT } else { Duration::ZERO };
        let chunk = self.node.log_chunk(self.job, Some(self.attempt), self.offset, CHUNK, wait).await?;
        self.offset = chunk.next_offset;
        Ok(chunk)
    }

    /// Refuses before the answer begins what cannot be had: a body that breaks off tells nobody why. What runs is
    /// followed all the same: its node may come back, or be given up.
    async fn check_reach(&self) -> Result<(), NodeError> {
        let ended = self.record()?.is_some_and(|attempt| attempt.finished.is_some());
        if self.is_lost() || (self.follow && !ended) {
            return Ok(());
        }
        self.node.log_chunk(self.job, Some(self.attempt), self.offset, 1, Duration::ZERO).await.map(drop)
    }

    /// What is known of the attempt.
    fn record(&self) -> Result<Option<AttemptRecord>, NodeError> {
        Ok(self.node.job(self.job)?.and_then(|mut record| record.attempts.remove(&self.attempt)))
    }

    /// Begins with what was written at that time or later. False: it had ended by then.
    async fn skip_until(&mut self, since_unix_ms: u64) -> Result<bool, NodeError> {
        let finished = self.record()?.and_then(|attempt| attempt.finished);
        if finished.is_some_and(|finished| finished.ended_unix_ms < since_unix_ms) {
            return Ok(false);
        }
        let offset = self.node.log_offset_at(self.job, self.attempt, since_unix_ms).await?;
        self.offset = self.offset.max(offset);
        Ok(true)
    }

    /// The last `lines` of what is there now; reading goes on behind them.
    async fn tail(&mut self, lines: u64) -> Result<Vec<u8>, NodeError> {
        let follow = std::mem::replace(&mut self.follow, false);
        let sealed = self.record()?.and_then(|attempt| attempt.finished?.log);
        if let Some(log) = sealed {
            // Its length is known: begin near its end.
            self.offset = self.offset.max(log.size.saturating_sub(TAIL_MAX as u64));
        }
        let mut kept: VecDeque<u8> = VecDeque::new();
        loop {
            let chunk = self.next().await?;
            let is_all = chunk.eof || chunk.bytes.is_empty();
            kept.extend(chunk.bytes);
            let excess = kept.len().saturating_sub(TAIL_MAX);
            kept.drain(..excess);
            if is_all {
                break;
            }
        }
        self.follow = follow;
        let kept: Vec<u8> = kept.into();
        Ok(last_lines(&kept, lines).to_vec())
    }

    /// The log from here on, beginning with `first`.
    fn chunks(self, first: Vec<u8>) -> impl Stream<Item = Result<LogChunk, NodeError>> + Send + use<> {
        let offset = self.offset;
        let first = (!first.is_empty()).then_some(LogChunk { bytes: first, next_offset: offset, eof: false });
        let rest = futures::stream::unfold(Some(self), async |reading| {
            let mut reading = reading?;
            loop {
                let mut closing = reading.closing.clone();
                let read = tokio::select! {
                    _ = closing.wait_for(|&closing| closing) => return None,
                    read = reading.next() => read,
                };
                let chunk = match read {
                    Ok(chunk) => chunk,
                    Err(error) => return reading.gave_up().then_some((Err(error), None)),
                };
                let is_last = chunk.eof || (!reading.follow && chunk.bytes.is_empty());
                if !chunk.bytes.is_empty() {
                    return Some((Ok(chunk), if is_last { None } else { Some(reading) }));
                }
                // A lost attempt writes nothing any more that could be read from here.
                if is_last || reading.is_lost() {
                    return None;
                }
            }
        });
        futures::stream::iter(first.map(Ok)).chain(rest)
    }

    fn is_lost(&self) -> bool {
        self.record().is_ok_and(|attempt| attempt.is_some_and(|attempt| attempt.lost.is_some()))
    }

    /// Whether an error is worth telling: a lost attempt simply ends.
    fn gave_up(&self) -> bool {
        !self.is_lost()
    }
}

/// The last `lines` lines of `bytes`; an unfinished last line counts.
fn last_lines(bytes: &[u8], lines: u64) -> &[u8] {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut ends = body.iter().enumerate().rev().filter(|&(_, &byte)| byte == b'\n').map(|(at, _)| at);
    let skip = usize::try_from(lines.saturating_sub(1)).unwrap_or(usize::MAX);
    match ends.nth(skip) {
        Some(at) => &bytes[at + 1..],
        None => bytes,
    }
}

/// Chunks as events: text cut between characters, so that none is torn.
fn as_events(
    chunks: impl Stream<Item = Result<LogChunk, NodeError>> + Send,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    let mut carried: Vec<u8> = Vec::new();
    chunks.map(move |chunk| {
        let event = match chunk {
            Ok(chunk) => {
                let mut bytes = std::mem::take(&mut carried);
                bytes.extend_from_slice(&chunk.bytes);
                carried = bytes.split_off(whole_characters(&bytes));
                let next_offset = chunk.next_offset - carried.len() as u64;
                let word = LogEvent { text: String::from_utf8_lossy(&bytes).into_owned(), next_offset };
                Event::default().id(next_offset.to_string()).json_data(&word)
            }
            Err(error) => {
                let word = ErrorWord::new(ErrorCode::Unreachable, error.to_string(), "");
                Event::default().event("error").json_data(&word)
            }
        };
        Ok(event.unwrap_or_default())
    })
}

/// How many bytes of `bytes` do not end in the middle of a character.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        // Only an end that may still become a character is carried over; wrong bytes are shown replaced.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => {
            let last = bytes.len().saturating_sub(3);
            let tail = (last..bytes.len()).find(|&at| {
                std::str::from_utf8(&bytes[at..])
                    .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
            });
            tail.unwrap_or(bytes.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_count_lines_as_people_do() {
        let text = b"a\nb\nc\n";
        assert_eq!(last_lines(text, 1), b"c\n");
        assert_eq!(last_lines(text, 2), b"b\nc\n");
        assert_eq!(last_lines(text, 9), text);
        assert_eq!(last_lines(b"a\nb", 1), b"b");
        assert_eq!(last_lines(b"", 1), b"");
        assert_eq!(last_lines(b"\n\n", 1), b"\n");
    }

    #[test]
    fn events_are_cut_between_characters() {
        let text = "aä€".as_bytes();
        assert_eq!(whole_characters(text), 6);
        assert_eq!(whole_characters(&text[..5]), 3);
        assert_eq!(whole_characters(&text[..2]), 1);
        assert_eq!(whole_characters(b"\xff\xffab"), 4);
        assert_eq!(whole_characters(b"\xff\xe2\x82"), 1);
    }

    #[test]
    fn attempts_are_named_by_epoch_and_number() {
        assert_eq!(parse_attempt("2.3").unwrap(), Some((2, 3)));
        assert_eq!(parse_attempt("").unwrap(), None);
        assert!(parse_attempt("2").is_err() && parse_attempt("a.b").is_err());
    }
}
