//! The handlers, a file per noun. Each asks the node, describes what it says, and decides nothing.

pub(crate) mod blobs;
pub(crate) mod cluster;
pub(crate) mod events;
pub(crate) mod jobs;
pub(crate) mod logs;
pub(crate) mod nodes;
pub(crate) mod projects;
pub(crate) mod runs;
pub(crate) mod secrets;
pub(crate) mod submit;
pub(crate) mod track;

use proto::record::{GroupRecord, JobRecord};
use proto::{JobId, Member, NodeId};

use super::describe::Names;
use super::refusal::{Refusal, blocking};
use super::words::Done;
use super::words::error::{ErrorCode, ErrorWord};
use crate::node::{NodeHandle, Resolved, ViewSnapshot};

/// What a handler gives.
pub(crate) type Answered<T> = Result<axum::Json<T>, Refusal>;

/// A sentence as an answer.
pub(crate) fn done(text: impl Into<String>) -> axum::Json<Done> {
    axum::Json(Done { done: text.into() })
}

/// What is seen now, and everybody's names.
pub(crate) async fn view(node: &NodeHandle) -> Result<(ViewSnapshot, Names), Refusal> {
    let view = node.view().await?;
    let handle = node.clone();
    let records = blocking(move || handle.nodes()).await?;
    let names = Names::new(&records, &view);
    Ok((view, names))
}

/// The job that `text`, an id or a unique prefix, names.
pub(crate) async fn job_id(node: &NodeHandle, text: &str) -> Result<JobId, Refusal> {
    let (handle, wanted) = (node.clone(), text.to_owned());
    let is_sensible = !text.is_empty() && text.len() <= 64;
    let resolved = if is_sensible { blocking(move || handle.resolve(&wanted)).await? } else { Resolved::Unknown };
    match resolved {
        Resolved::Job(id) => Ok(id),
        Resolved::Unknown => Err(no_job(text)),
        Resolved::Ambiguous(groups) => {
            let some: Vec<String> = groups.iter().map(ToString::to_string).collect();
            let message = format!("{text:?} begins the ids of several jobs: {}", some.join(", "));
            Err(Refusal(ErrorWord::new(ErrorCode::Ambiguous, message, "give more of the id")))
        }
    }
}

fn no_job(text: &str) -> Refusal {
    let message = format!("no job is known as {text:?}");
    Refusal(ErrorWord::not_found(message, "see fnode jobs --all; a job of an array is GROUP/INDEX"))
}

/// The records of a job.
pub(crate) async fn job_records(node: &NodeHandle, id: JobId) -> Result<(GroupRecord, Option<JobRecord>), Refusal> {
    let handle = node.clone();
    let records = blocking(move || Ok::<_, crate::node::NodeError>((handle.group(id.group)?, handle.job(id)?)));
    match records.await? {
        (Some(group), job) if group.submitted.is_some() => Ok((group, job)),
        _ => Err(no_job(&id.to_string())),
    }
}

/// Whether it has ended: the job, or all jobs of an array.
pub(crate) fn has_ended(id: JobId, group: &GroupRecord, job: Option<&JobRecord>) -> bool {
    match id.member {
        Member::Only if group.submitted.as_ref().is_some_and(|submitted| !submitted.spec.array.is_empty()) => {
            group.is_finished()
        }
        _ => job.is_some_and(|job| job.outcome.is_some()),
    }
}

/// The node that `text`, its name, id or a prefix of it, names.
pub(crate) fn node_id(view: &ViewSnapshot, names: &Names, text: &str) -> Result<NodeId, Refusal> {
    // Shorter prefixes are names that are not known.
    const PREFIX_MIN: usize = 4;
    let ids: Vec<NodeId> = view.nodes.keys().copied().collect();
    let mut found: Vec<NodeId> = ids.iter().copied().filter(|&id| names.name(id) == text).collect();
    if found.is_empty() && text.len() >= PREFIX_MIN {
        found = ids.into_iter().filter(|id| id.to_string().starts_with(&text.to_lowercase())).collect();
    }
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Refusal(ErrorWord::not_found(format!("no node is known as {text:?}"), "see fnode node list"))),
        several => {
            let ids: Vec<String> = several.iter().map(NodeId::short).collect();
            let message = format!("{text:?} names several nodes: {}", ids.join(", "));
            Err(Refusal(ErrorWord::new(ErrorCode::Ambiguous, message, "give one of these ids")))
        }
    }
}
