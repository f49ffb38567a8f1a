//! Following: a job's output as it is written, its end, and what happens in the cluster. Ctrl-C leaves at
//! once and leaves the job running. A daemon that restarts meanwhile is waited for, without a gap in the log.

use std::future::pending;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::Incoming;
use serde::Serialize;
use tokio::time::Instant;

use super::args::LogsArgs;
use super::client::{Client, query, segment};
use super::error::CliError;
use super::exit::Exit;
use super::jobs::alone;
use super::output::{Output, say, write_out};
use crate::http::ATTEMPT_HEADER;
use crate::http::words::ending::EndReason;
use crate::http::words::error::ErrorCode;
use crate::http::words::job::{AttemptWord, JobWord, StateWord};

/// A daemon that is killed is started again by its runner within seconds.
const RECONNECT_MAX: Duration = Duration::from_secs(30);
/// How often it is tried.
const RECONNECT_EVERY: Duration = Duration::from_millis(200);
/// One request for a job's end lasts so long; it is then repeated.
const WAIT_S: u64 = 30;

/// Where a log is read from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    pub(crate) tail: u64,
    pub(crate) since_unix_ms: u64,
    pub(crate) attempt: String,
}

/// A part of a log in JSON.
#[derive(Serialize)]
struct LogLine<'a> {
    log: &'a str,
}

/// Called once, before the first output of a job that is followed.
pub(crate) type Begun<'a> = &'a mut dyn FnMut() -> Result<(), CliError>;

/// A job that was followed to its end.
pub(crate) struct Followed {
    pub(crate) job: JobWord,
    /// Whether its output ended in the middle of a line.
    pub(crate) is_line_open: bool,
}

/// How far a log has been read.
#[derive(Default)]
struct Place {
    /// The attempt that is being read; empty: none yet.
    attempt: String,
    offset: u64,
    /// Attempts up to this one have been read to their end.
    read: String,
    /// Bytes of a character that is not whole yet; only JSON needs them.
    carried: Vec<u8>,
    /// Whether the last byte was not the end of a line.
    is_line_open: bool,
}

/// Server-sent events of the cluster, as a reason to look again.
pub(crate) struct EventLines(Incoming);

impl EventLines {
    pub(crate) async fn open(mut client: Client) -> Result<Self, CliError> {
        let answer = client.send_bytes(Method::GET, "/events", "application/json", bytes::Bytes::new()).await?;
        Ok(Self(answer.into_body()))
    }

    /// Returns when something has happened; never once the stream has broken.
    pub(crate) async fn next(&mut self) {
        loop {
            match self.0.frame().await {
                Some(Ok(frame)) if frame.data_ref().is_some_and(|data| data.starts_with(b":")) => {}
                Some(Ok(_)) => return,
                _ => pending().await,
            }
        }
    }
}

/// `fnode logs`.
pub(crate) async fn logs(mut client: Client, args: &LogsArgs, output: Output) -> Result<Exit, CliError> {
    let start = Start {
        tail: args.tail.unwrap_or(0),
        since_unix_ms: args.since.unwrap_or(0),
        attempt: args.attempt.clone().unwrap_or_default(),
    };
    let job: JobWord = client.get(&format!("/jobs/{}", segment(&args.job))).await?;
    if args.follow {
        return match interruptible(follow(&mut client, &job.line.id, &start, output, &mut || Ok(()))).await {
            Some(followed) => followed.map(|_| Exit::Done),
            None => Ok(detached(&job.line.id)),
        };
    }
    let mut place = Place::default();
    let is_there = print_log(&mut client, &job.line.id, &start, &mut place, None, output).await?;
    let lost_at = lost_at(&job, &start.attempt).filter(|_| place.offset == 0);
    let why = match (job.line.state, lost_at, start.since_unix_ms) {
        (_, Some(node), _) => format!("was lost with its node {node}, and what it had written there with it"),
        _ if is_there => return Ok(Exit::Done),
        (StateWord::Queued, ..) => "has not started; fnode job explain tells why".to_owned(),
        (_, _, 1..) => "has written nothing in that time".to_owned(),
        _ => "has written nothing".to_owned(),
    };
    if !output.is_json() {
        say(&format!("fnode: job {} {why}", job.line.id));
    }
    Ok(Exit::Done)
}

/// The node with which the attempt was lost whose log was asked for: the one that counts, where none was named.
fn lost_at<'a>(job: &'a JobWord, attempt: &str) -> Option<&'a str> {
    let is_asked = |word: &&AttemptWord| if attempt.is_empty() { word.counts } else { word.id == attempt };
    let asked = job.attempts.iter().find(is_asked)?;
    let lost = [EndReason::NodeDown, EndReason::RunnerDown, EndReason::AttemptGone, EndReason::CrashLimit];
    let is_lost = asked.ending.as_ref().is_some_and(|ending| lost.contains(&ending.reason));
    (is_lost && asked.log_bytes.is_none()).then_some(asked.node.name.as_str())
}

/// Follows a job that was just submitted, and exits as it ended.
pub(crate) async fn follow_to_end(
    mut client: Client,
    id: &str,
    start: &Start,
    propagate: bool,
    output: Output,
) -> Result<Exit, CliError> {
    let Some(followed) = follow_to_record(&mut client, id, start, output, &mut || Ok(())).await? else {
        return Ok(Exit::Interrupted);
    };
    let job = followed.job;
    if output.is_json() {
        output.print_json_line(&job)?;
    } else {
        say(&format!("fnode: job {id} {}", how(&job)));
    }
    Ok(exit_of(&job, propagate))
}

/// Prints a job's output until it ends, and calls `begun` before the first of it. `None`: Ctrl-C came first, and it is
/// said that the job goes on.
pub(crate) async fn follow_to_record(
    client: &mut Client,
    id: &str,
    start: &Start,
    output: Output,
    begun: Begun<'_>,
) -> Result<Option<Followed>, CliError> {
    match interruptible(follow(client, id, start, output, begun)).await {
        None => {
            detached(id);
            Ok(None)
        }
        // How the job ended is known also where its log cannot be had.
        Some(Err(error)) if error.is_refusal(ErrorCode::Unreachable) => {
            let job: JobWord = client.get(&format!("/jobs/{}", segment(id))).await?;
            if !job.line.state.is_final() {
                return Err(error);
            }
            say(&format!("fnode: {error}"));
            Ok(Some(Followed { job, is_line_open: false }))
        }
        Some(followed) => followed.map(Some),
    }
}

/// Waits for jobs, prints each as it ended, and exits as they did.
pub(crate) async fn wait_to_end(
    mut client: Client,
    ids: &[String],
    limit: Option<Duration>,
    propagate: bool,
    output: Output,
) -> Result<Exit, CliError> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut exit = Exit::Done;
    for id in ids {
        let Some(waited) = interruptible(wait(&mut client, id, deadline)).await else { return Ok(detached(id)) };
        let Some(job) = waited? else {
            say(&format!("fnode: job {id} has not ended in time; it goes on: fnode job wait {id}"));
            return Ok(Exit::Failed);
        };
        if output.is_json() {
            if ids.len() == 1 { output.print_json(&job)? } else { output.print_json_line(&job)? }
        } else {
            write_out(format!("job {} {}\n", job.line.id, how(&job)).as_bytes())?;
        }
        if exit == Exit::Done {
            exit = exit_of(&job, propagate);
        }
    }
    Ok(exit)
}

/// The job once it has ended; `None` when the deadline comes first.
pub(crate) async fn wait(
    client: &mut Client,
    id: &str,
    deadline: Option<Instant>,
) -> Result<Option<JobWord>, CliError> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let seconds = left.map_or(WAIT_S, |left| left.as_secs().clamp(1, WAIT_S));
        let asked = client.get::<JobWord>(&format!("/jobs/{}/wait?timeout_s={seconds}", segment(id))).await;
        match asked {
            Ok(job) if job.line.state.is_final() => return Ok(Some(job)),
            Ok(_) if left.is_some_and(|left| left.is_zero()) => return Ok(None),
            Ok(_) => {}
            Err(error) if is_passing(&error) => reconnect(client, error).await?,
            Err(error) => return Err(error),
        }
    }
}

/// Prints a job's output until it ends, attempt after attempt. Returns how it ended.
async fn follow(
    client: &mut Client,
    id: &str,
    start: &Start,
    output: Output,
    begun: Begun<'_>,
) -> Result<Followed, CliError> {
    let mut place = Place::default();
    let mut start = start.clone();
    let mut is_begun = false;
    let mut begin = || if std::mem::replace(&mut is_begun, true) { Ok(()) } else { begun() };
    loop {
        match print_log(client, id, &start, &mut place, Some(&mut begin), output).await {
            // Read to its end: the next attempt, if there is one.
            Ok(true) => {
                place.read = std::mem::take(&mut place.attempt);
                place.offset = 0;
                start = Start::default();
            }
            Ok(false) => {
                let job: JobWord = client.get(&format!("/jobs/{}", segment(id))).await?;
                if job.line.state.is_final() {
                    // A second node shall have its end, too.
                    let job = client.get(&format!("/jobs/{}/wait", segment(id))).await?;
                    return Ok(Followed { job, is_line_open: place.is_line_open });
                }
            }
            Err(error) if is_passing(&error) => {
                reconnect(client, error).await?;
                // What was printed is not printed again.
                start = Start::default();
            }
            // An attempt on its way has no record yet: a restarted daemon finds it by itself.
            Err(error) if error.is_refusal(ErrorCode::NotFound) && !place.attempt.is_empty() => {
                place.attempt.clear();
            }
            Err(error) => return Err(error),
        }
    }
}

/// Prints one attempt's log from `place` on: what is there, or until the attempt ends, where somebody is to be told
/// that it has begun. False: there was none to read.
async fn print_log(
    client: &mut Client,
    id: &str,
    start: &Start,
    place: &mut Place,
    begun: Option<Begun<'_>>,
    output: Output,
) -> Result<bool, CliError> {
    let number = |value: u64| if value == 0 { String::new() } else { value.to_string() };
    let attempt = if place.attempt.is_empty() { start.attempt.clone() } else { place.attempt.clone() };
    let asked = query(&[
        ("tail", number(start.tail)),
        ("since_unix_ms", number(start.since_unix_ms)),
        ("attempt", attempt),
        ("after_attempt", place.read.clone()),
        ("offset", number(place.offset)),
        ("follow", number(u64::from(begun.is_some()))),
    ]);
    let path = format!("/jobs/{}/log{asked}", segment(id));
    let answer = client.send_bytes(Method::GET, &path, "application/json", bytes::Bytes::new()).await?;
    let Some(attempt) = answer.headers().get(ATTEMPT_HEADER).and_then(|name| name.to_str().ok()) else {
        return Ok(false);
    };
    attempt.clone_into(&mut place.attempt);
    if let Some(begun) = begun {
        begun()?;
    }
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| client.broken("broke off in the middle of a log".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        if output.is_json() {
            print_part(place, &data, output)?
        } else {
            write_out(&data)?
        }
        // A tail begins somewhere; only what is read from a known place can be resumed.
        place.offset += data.len() as u64;
        place.is_line_open = data.last().map_or(place.is_line_open, |last| *last != b'\n');
    }
    if output.is_json() && !place.carried.is_empty() {
        let rest = std::mem::take(&mut place.carried);
        output.print_json_line(&LogLine { log: &String::from_utf8_lossy(&rest) })?;
    }
    Ok(true)
}

/// Text whose last character may come with the next part.
fn print_part(place: &mut Place, data: &[u8], output: Output) -> Result<(), CliError> {
    place.carried.extend_from_slice(data);
    let whole = match std::str::from_utf8(&place.carried) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => place.carried.len(),
    };
    let rest = place.carried.split_off(whole);
    let text = std::mem::replace(&mut place.carried, rest);
    if text.is_empty() {
        return Ok(());
    }
    output.print_json_line(&LogLine { log: &String::from_utf8_lossy(&text) })
}

/// Whether a daemon that is back can go on where this one stopped.
fn is_passing(error: &CliError) -> bool {
    matches!(error, CliError::Broken { .. } | CliError::NoDaemon(_)) || error.is_refusal(ErrorCode::ShuttingDown)
}

/// Waits until a daemon answers again; gives up with the first error.
async fn reconnect(client: &mut Client, error: CliError) -> Result<(), CliError> {
    let deadline = Instant::now() + RECONNECT_MAX;
    loop {
        tokio::time::sleep(RECONNECT_EVERY).await;
        match client.get::<crate::http::words::node::NodeInfo>("/node").await {
            Ok(_) => return Ok(()),
            Err(_) if Instant::now() >= deadline => return Err(error),
            Err(_) => {}
        }
    }
}

/// The result, or `None` when Ctrl-C comes first.
pub(crate) async fn interruptible<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        _ = tokio::signal::ctrl_c() => None,
    }
}

pub(crate) fn detached(id: &str) -> Exit {
    say(&format!("\nfnode: job {id} goes on; follow it with: fnode logs -f {id}, stop it with: fnode stop {id}"));
    Exit::Interrupted
}

/// How a job ended, as the end of a sentence.
pub(crate) fn how(job: &JobWord) -> String {
    let state = job.line.state.as_str();
    let how = match (&job.line.ending, &job.line.array) {
        (Some(ending), _) if ending.text != state => format!("{state}: {}", ending.text),
        (None, Some(counts)) => format!(
            "{state}: {} completed, {} failed, {} stopped of {}",
            counts.completed, counts.failed, counts.stopped, counts.total
        ),
        _ => state.to_owned(),
    };
    format!("{how}{}", alone(&job.line))
}

fn exit_of(job: &JobWord, propagate: bool) -> Exit {
    let code = job.line.ending.as_ref().map_or(1, |ending| ending.exit_code);
    match job.line.state {
        StateWord::Completed => Exit::Done,
        _ if propagate && code != 0 => Exit::Job(code),
        _ => Exit::Failed,
    }
}
