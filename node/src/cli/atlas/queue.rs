//! Jobs that were submitted: found, stopped, taken out of the queue, deleted.

use std::time::Duration;

use hyper::Method;
use tokio::time::Instant;

use super::error::AtlasError;
use crate::cli::client::{Client, query, segment};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::follow;
use crate::cli::output::write_out;
use crate::http::words::Done;
use crate::http::words::error::ErrorCode;
use crate::http::words::job::{JobLine, JobPage, JobWord, StateWord};

/// A job that is asked to stop has some seconds to do so before it is killed; its end then reaches the log.
const STOPPED_MAX: Duration = Duration::from_secs(60);
/// Jobs asked for at a time.
const PAGE: &str = "1000";

/// The job that a user named, in Foundations' words where there is none.
pub(crate) async fn find(client: &mut Client, job: &str, env: &str) -> Result<JobWord, AtlasError> {
    match client.get(&format!("/jobs/{}", segment(job))).await {
        Err(error) if error.is_refusal(ErrorCode::NotFound) => {
            Err(AtlasError::Said(format!("Error: Job `{job}` does not exist for environment `{env}`")))
        }
        answer => Ok(answer?),
    }
}

/// `foundations stop`.
pub(crate) async fn stop(mut client: Client, config: &str, job: &str) -> Result<Exit, AtlasError> {
    let word = find(&mut client, job, config).await?;
    let cannot = |word: &str| AtlasError::Said(format!("Error: Job `{job}` is {word} and cannot be stopped"));
    match word.line.state {
        StateWord::Queued => return Err(cannot("queued")),
        // A failed job was shown as completed there.
        state if state.is_final() => return Err(cannot("completed")),
        _ => {}
    }
    let id = &word.line.id;
    match client.post::<Done>(&format!("/jobs/{}/stop", segment(id)), &()).await {
        // It has ended since.
        Err(error) if error.is_refusal(ErrorCode::Conflict) => return Err(cannot("completed")),
        asked => drop(asked?),
    }
    match follow::wait(&mut client, id, Some(Instant::now() + STOPPED_MAX)).await? {
        Some(ended) if ended.line.state == StateWord::Completed => Err(cannot("completed")),
        Some(_) => print(&format!("Stopped running job {job}")),
        None => Err(AtlasError::Said(format!("Error stopping job {job}"))),
    }
}

/// `foundations clear-queue`: every job of every project that waits.
pub(crate) async fn clear(mut client: Client) -> Result<Exit, AtlasError> {
    let mut removed = 0;
    for line in all(&mut client, "/jobs", &[("state", "queued".to_owned()), ("all", "true".to_owned())]).await? {
        match &line.array {
            None if line.state == StateWord::Queued => removed += stop_queued(&mut client, &line.id).await?,
            // Jobs of an array that wait, where others of it run.
            Some(counts) if counts.queued > 0 && counts.queued < counts.total => {
                let members = format!("/jobs/{}/members", segment(&line.id));
                for member in all(&mut client, &members, &[("state", "queued".to_owned())]).await? {
                    removed += stop_queued(&mut client, &member.id).await?;
                }
            }
            Some(counts) if counts.queued > 0 => {
                let jobs = counts.total;
                removed += stop_queued(&mut client, &line.id).await? * jobs;
            }
            _ => {}
        }
    }
    print(&format!("Removed {removed} job(s) from queue"))
}

/// How many were stopped: one, or none that had ended already.
async fn stop_queued(client: &mut Client, id: &str) -> Result<u64, CliError> {
    match client.post::<Done>(&format!("/jobs/{}/stop", segment(id)), &()).await {
        Ok(_) => Ok(1),
        Err(error) if error.is_refusal(ErrorCode::Conflict) => Ok(0),
        Err(error) => Err(error),
    }
}

/// All pages of a list: what is changed meanwhile must not shift it.
async fn all(client: &mut Client, path: &str, wanted: &[(&str, String)]) -> Result<Vec<JobLine>, CliError> {
    let mut lines = Vec::new();
    let mut after = String::new();
    loop {
        let mut pairs = vec![("limit", PAGE.to_owned()), ("after", after)];
        pairs.extend(wanted.iter().cloned());
        let page: JobPage = client.get(&format!("{path}{}", query(&pairs))).await?;
        lines.extend(page.jobs);
        after = page.next;
        if after.is_empty() {
            return Ok(lines);
        }
    }
}

/// `foundations delete job`.
pub(crate) async fn delete(mut client: Client, config: &str, job: &str) -> Result<Exit, AtlasError> {
    let word = find(&mut client, job, config).await?;
    let state = match word.line.state {
        StateWord::Queued => Some("queued"),
        StateWord::Preparing => Some("pending"),
        StateWord::Running => Some("running"),
        _ => None,
    };
    if let Some(state) = state {
        return Err(AtlasError::Said(format!("Error: Job `{job}` has status `{state}` and cannot be deleted")));
    }
    let _: Done = client.json(Method::DELETE, &format!("/jobs/{}", segment(&word.line.id)), None::<&()>).await?;
    print(&format!("Job {job} successfully deleted"))
}

/// One line of the result.
pub(crate) fn print(line: &str) -> Result<Exit, AtlasError> {
    write_out(format!("{line}\n").as_bytes())?;
    Ok(Exit::Done)
}
