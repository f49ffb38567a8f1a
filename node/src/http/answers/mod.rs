//! The handlers, a file per noun. Each asks the node, describes what it says, and decides nothing.

pub(crate) mod atlas;
pub(crate) mod blobs;
pub(crate) mod cache;
pub(crate) mod cluster;
pub(crate) mod events;
pub(crate) mod jobs;
pub(crate) mod logs;
pub(crate) mod members;
pub(crate) mod nodes;
pub(crate) mod points;
pub(crate) mod projects;
pub(crate) mod record;
pub(crate) mod runs;
pub(crate) mod secrets;
mod sorted;
pub(crate) mod submit;
pub(crate) mod track;

use proto::record::{GroupRecord, JobRecord};
use proto::{GroupId, JobId, Member, NodeId, ValueKey};

use super::describe::Names;
use super::refusal::{Refusal, blocking};
use super::words::Done;
use super::words::error::{ErrorCode, ErrorWord};
use super::words::submit::NAME_MAX;
use crate::node::{NodeError, NodeHandle, Resolved, ViewSnapshot};
use crate::store::GroupFilter;

/// Submissions looked at for a name, the newest first: names have no index, and an older one has its id.
const NAMED_MAX: usize = 20_000;
/// Read from the store at a time.
const NAMED_BATCH: usize = 200;

/// What a handler gives.
pub(crate) type Answered<T> = Result<axum::Json<T>, Refusal>;

/// What something was done to.
pub(crate) enum To<'a> {
    Job(JobId),
    Node(NodeId),
    Project(&'a str),
    /// On a node.
    Secret(&'a str, NodeId),
    Value(ValueKey),
}

/// What was done, and the same as a sentence.
pub(crate) fn done(action: &str, to: To<'_>, text: impl Into<String>) -> axum::Json<Done> {
    let done = Done { action: action.to_owned(), done: text.into(), ..Done::default() };
    axum::Json(match to {
        To::Job(id) => Done { job: id.to_string(), ..done },
        To::Node(id) => Done { node: id.to_string(), ..done },
        To::Project(name) => Done { project: name.to_owned(), ..done },
        To::Secret(name, on) => Done { secret: name.to_owned(), node: on.to_string(), ..done },
        To::Value(key) => Done { value: key.to_string(), ..done },
    })
}

/// What is seen now, and everybody's names.
pub(crate) async fn view(node: &NodeHandle) -> Result<(ViewSnapshot, Names), Refusal> {
    let view = node.view().await?;
    let handle = node.clone();
    let records = blocking(move || handle.nodes()).await?;
    let names = Names::new(&records, &view);
    Ok((view, names))
}

/// The job that `text`, an id, a unique prefix or a unique name, names.
pub(crate) async fn job_id(node: &NodeHandle, text: &str) -> Result<JobId, Refusal> {
    if text.is_empty() || text.len() > NAME_MAX {
        return Err(no_job(text));
    }
    let (handle, wanted) = (node.clone(), text.to_owned());
    let several = |groups: &[GroupId], what: &str| {
        let some: Vec<String> = groups.iter().map(ToString::to_string).collect();
        let message = format!("{text:?} {what}: {}", some.join(", "));
        Refusal(ErrorWord::new(ErrorCode::Ambiguous, message, "give more of the id"))
    };
    match blocking(move || handle.resolve(&wanted)).await? {
        Resolved::Job(id) => return Ok(id),
        Resolved::Ambiguous(groups) => return Err(several(&groups, "begins the ids of several jobs")),
        Resolved::Unknown => {}
    }
    let (handle, wanted) = (node.clone(), text.to_owned());
    match blocking(move || named(&handle, &wanted)).await?.as_slice() {
        [] => Err(no_job(text)),
        [group] => Ok(JobId::only(*group)),
        groups => Err(several(groups, "is the name of several jobs")),
    }
}

/// The latest job with this name, and the one before: what a user chose as `FOUNDATIONS_JOB_ID` is a job's name.
fn named(node: &NodeHandle, name: &str) -> Result<Vec<GroupId>, NodeError> {
    let mut filter = GroupFilter { hidden: true, ..GroupFilter::default() };
    let mut found = Vec::new();
    for _ in 0..NAMED_MAX / NAMED_BATCH {
        let groups = node.groups(&filter, NAMED_BATCH)?;
        let is_last = groups.len() < NAMED_BATCH;
        filter.before = groups.last().map(|(group, _)| *group);
        let is_it = |record: &GroupRecord| {
            !record.marks.deleted && record.submitted.as_ref().is_some_and(|submitted| submitted.spec.name == name)
        };
        found.extend(groups.iter().filter(|(_, record)| is_it(record)).map(|(group, _)| *group));
        if is_last || found.len() > 1 {
            break;
        }
    }
    Ok(found)
}

fn no_job(text: &str) -> Refusal {
    let message = format!("no job is known as {text:?}");
    Refusal(ErrorWord::not_found(message, "see fnode jobs --all; a job of an array is GROUP/INDEX"))
}

/// The records of a job; a deleted one is not known any more.
pub(crate) async fn job_records(node: &NodeHandle, id: JobId) -> Result<(GroupRecord, Option<JobRecord>), Refusal> {
    let handle = node.clone();
    let records = blocking(move || Ok::<_, crate::node::NodeError>((handle.group(id.group)?, handle.job(id)?)));
    let is_deleted = |job: &Option<JobRecord>| job.as_ref().is_some_and(|job| job.marks.deleted);
    match records.await? {
        (Some(group), job) if group.submitted.is_some() && !group.marks.deleted && !is_deleted(&job) => {
            Ok((group, job))
        }
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
