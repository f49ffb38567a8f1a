//! Scripts that run already become jobs: what `import foundations` asks for in a script started by hand.

use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use proto::job::{Attended, OnLost};
use proto::{AttemptId, GroupId, GroupSpec, JobId, Requirement};
use tokio::time::Instant;

use super::{Answered, submit};
use crate::exec::process;
use crate::http::guard::Caller;
use crate::http::refusal::{Given, Refusal};
use crate::http::routes::Shared;
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::http::words::track::{RunAnswer, RunRequest};
use crate::node::{NodeHandle, tracking, unix_ms};

/// The script waits for this: a node that is busy must not hold it up.
const PLACED_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether the job was placed.
const LOOK_EVERY: Duration = Duration::from_millis(2);

pub(crate) async fn begin(
    State(Shared { api, .. }): State<Shared>,
    caller: Option<Extension<Caller>>,
    Given(request): Given<RunRequest>,
) -> Answered<RunAnswer> {
    request.check()?;
    let row = process::read_row(request.pid).ok().filter(|row| !row.zombie);
    let Some(row) = row else {
        let message = format!("there is no process {} on this node", request.pid);
        return Err(ErrorWord::bad_input(message, "give the number of a process that runs").into());
    };
    let user = submit::user(caller.map(|Extension(caller)| caller), &request.user);
    let attended = Attended { pid: row.id.pid, start_time: row.id.start_time, directory: request.directory.clone() };
    let group = GroupId::v7(unix_ms(), rand::random());
    let spec = spec(&api.node, &request, user.clone(), attended);
    // The second holder is found while the script goes on: it runs already, and only here.
    let node = api.node.clone();
    tokio::spawn(async move { node.submit(Some(group), spec).await });
    let attempt = placed(&api.node, JobId::only(group)).await?;
    Ok(Json(RunAnswer {
        job: group.to_string(),
        track: tracking::track_path(api.node.home(), attempt).display().to_string(),
        artifacts_dir: tracking::artifacts_dir(api.node.home(), attempt).display().to_string(),
        user,
        node: api.node.name().to_owned(),
    }))
}

fn spec(node: &NodeHandle, request: &RunRequest, user: String, attended: Attended) -> GroupSpec {
    let here = [node.me().to_string()];
    GroupSpec {
        name: request.job_id.clone().unwrap_or_default(),
        // It runs whether or not there is room: nothing is reserved for it.
        requirement: Requirement { nodes: here.into_iter().collect(), cpu_milli: 0, ..Requirement::default() },
        on_lost: OnLost::Fail,
        attends: Some(attended),
        env: request.env(),
        ..GroupSpec::new(user, request.project.clone(), request.command.clone())
    }
}

/// The attempt that attends the process, once there is one.
async fn placed(node: &NodeHandle, job: JobId) -> Result<AttemptId, Refusal> {
    let deadline = Instant::now() + PLACED_MAX;
    loop {
        let told = node.explain(job).await?;
        if let Some((attempt, worker)) = told.and_then(|told| told.attempt.zip(told.worker))
            && worker == node.me()
            && tracking::track_path(node.home(), attempt).parent().is_some_and(std::path::Path::is_dir)
        {
            return Ok(attempt);
        }
        if Instant::now() >= deadline {
            // It must not begin to be attended later: nobody tracks it by then.
            let _ = node.write(proto::event::Event::StopWished { job }).await;
            let message = "the node has not begun to attend the script in time";
            return Err(Refusal(ErrorWord::new(ErrorCode::Conflict, message, "see fnode status and fnode doctor")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
