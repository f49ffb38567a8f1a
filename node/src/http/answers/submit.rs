//! A submission: what it names is looked up, the node accepts it, and the answer says where it stands.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::{Extension, Json};
use proto::blob::FileKind;
use proto::capacity::Lack;
use proto::explain::Explanation;
use proto::job::{BundleRef, GroupSpec, IndexRanges};
use proto::{ContentId, GroupId, JobId, Manifest, Member};

use super::{Answered, has_ended, job_id, job_records, node_id, view};
use crate::blobs::BlobStore;
use crate::http::describe::{self, Names};
use crate::http::guard::Caller;
use crate::http::refusal::{Given, Path, Refusal, blocking};
use crate::http::routes::Shared;
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::http::words::explain::ExplanationWord;
use crate::http::words::job::StateWord;
use crate::http::words::part::PartRequest;
use crate::http::words::submit::{Resolved, SubmitAnswer, SubmitRequest};
use crate::node::{NodeError, NodeHandle, ViewSnapshot};

/// So long a submission waits for nodes to say whether they have its data.
const DATA_LOOKED_FOR: Duration = Duration::from_millis(700);
const DATA_LOOK_EVERY: Duration = Duration::from_millis(25);

pub(crate) async fn submit(
    State(Shared { api, .. }): State<Shared>,
    caller: Option<Extension<Caller>>,
    Given(request): Given<SubmitRequest>,
) -> Answered<SubmitAnswer> {
    request.check()?;
    let node = &api.node;
    node.check_member()?;
    let (view, names) = view(node).await?;
    check_places(&request, &view, &names)?;
    let group = wished_id(&request, node).await?;
    let mut after = Vec::with_capacity(request.after.len());
    for word in &request.after {
        // A job that is being made can only be named by its own id: the one cycle that can be spelled.
        if group.is_some_and(|group| word.job.starts_with(&group.to_string())) {
            let message = "the job would wait for itself";
            return Err(ErrorWord::bad_input(message, "name another job with --after").into());
        }
        after.push(job_id(node, &word.job).await?);
    }
    let bundle = match request.bundle.as_str() {
        "" => None,
        text => Some(bundle_of(node, text).await?),
    };
    check_environment(&request, bundle.as_ref())?;
    check_diff(&request, bundle.as_ref())?;
    check_secrets(&request.secrets, node)?;
    let user = user(caller.map(|Extension(caller)| caller), &request.user);
    let spec = request.to_spec(Resolved { bundle: bundle.map(|(bundle, _)| bundle), after, user })?;
    accept(node, group, spec, &view, &names).await
}

pub(crate) async fn rerun(
    State(Shared { api, .. }): State<Shared>,
    caller: Option<Extension<Caller>>,
    Path(id): Path<String>,
) -> Answered<SubmitAnswer> {
    api.node.check_member()?;
    let id = job_id(&api.node, &id).await?;
    let (group, _) = job_records(&api.node, id).await?;
    let (view, names) = view(&api.node).await?;
    let Some(submitted) = group.submitted else {
        return Err(ErrorWord::not_found(format!("job {id} is not known here yet"), "try again in a moment").into());
    };
    let mut spec = (*submitted.spec).clone();
    if spec.attends.is_some() {
        let message = format!("job {id} was a script started by hand, which the cluster cannot start again");
        let hint = "start the script again, or submit its directory: fnode submit";
        return Err(ErrorWord::new(ErrorCode::Conflict, message, hint).into());
    }
    if let Member::Index(index) = id.member {
        spec.array = IndexRanges::from_indices([index]);
    }
    check_secrets(&spec.secrets, &api.node)?;
    // What it waited for has ended, or may never end well.
    let waited = !std::mem::take(&mut spec.after).is_empty();
    spec.user = user(caller.map(|Extension(caller)| caller), &spec.user);
    if let Some(bundle) = spec.bundle {
        bundle_of(&api.node, &bundle.manifest.to_string()).await?;
    }
    let mut answer = accept(&api.node, None, spec, &view, &names).await?;
    if waited && answer.warning.is_empty() {
        "it does not wait again for the jobs that it came after (--after)".clone_into(&mut answer.0.warning);
    }
    Ok(answer)
}

/// A job that runs submits a part of itself: nothing is packed or sent again.
pub(crate) async fn part(
    State(Shared { api, .. }): State<Shared>,
    Path(id): Path<String>,
    Given(request): Given<PartRequest>,
) -> Answered<SubmitAnswer> {
    let node = &api.node;
    node.check_member()?;
    let id = job_id(node, &id).await?;
    let (group, job) = job_records(node, id).await?;
    let Some(submitted) = &group.submitted else {
        return Err(ErrorWord::not_found(format!("job {id} is not known here yet"), "try again in a moment").into());
    };
    if has_ended(id, &group, job.as_ref()) {
        let message = format!("job {id} has ended, and takes no further parts");
        return Err(ErrorWord::new(ErrorCode::Conflict, message, "submit a job of its own: fnode submit").into());
    }
    if submitted.spec.attends.is_some() {
        let message = format!("job {id} is a script started by hand, which has no directory that others could run in");
        return Err(ErrorWord::new(ErrorCode::Conflict, message, "submit its directory: fnode submit").into());
    }
    let near = node.near(request.reads()?).await?;
    let spec = request.to_spec(id, &submitted.spec, near)?;
    if let Some(bundle) = spec.bundle {
        bundle_of(node, &bundle.manifest.to_string()).await?;
    }
    let (view, names) = view(node).await?;
    accept(node, None, spec, &view, &names).await
}

async fn accept(
    node: &NodeHandle,
    group: Option<GroupId>,
    spec: GroupSpec,
    view: &ViewSnapshot,
    names: &Names,
) -> Answered<SubmitAnswer> {
    let jobs = spec.len();
    let first = spec.members().next().unwrap_or(Member::Only);
    let asks_for_data = !spec.requirement.data.is_empty();
    let accepted = node.submit(group, spec).await?;
    let id = JobId { group: accepted.group, member: first };
    let mut told = node.explain(id).await?;
    let looked_for_until = Instant::now() + DATA_LOOKED_FOR;
    while asks_for_data && told.as_ref().is_some_and(lacks_data) && Instant::now() < looked_for_until {
        tokio::time::sleep(DATA_LOOK_EVERY).await;
        told = node.explain(id).await?;
    }
    let record = node.group(accepted.group)?.unwrap_or_default();
    let explanation = told.as_ref().map(|told| describe::explanation(id, told, &record, names));
    let state = explanation.as_ref().map_or_else(|| ended_state(node, id), |explanation| explanation.state);
    Ok(Json(SubmitAnswer {
        id: accepted.group.to_string(),
        jobs,
        held_by: accepted.held_by.iter().map(|&node| names.of(node)).collect(),
        state,
        node: explanation.as_ref().and_then(|explanation| explanation.worker.clone()),
        warning: match warning(explanation.as_ref(), view) {
            text if text.is_empty() => held_warning(accepted.held_by.len(), view),
            text => text,
        },
        explanation: explanation.filter(|explanation| explanation.state == StateWord::Queued),
    }))
}

/// Nodes look for paths once they hear that a job asks for them; until then nobody has any.
fn lacks_data(told: &Explanation) -> bool {
    told.nodes.iter().all(|(_, lacks)| lacks.iter().any(|lack| matches!(lack, Lack::Data(_))))
}

/// A job so short that it has ended before it could be asked after.
fn ended_state(node: &NodeHandle, id: JobId) -> StateWord {
    node.job(id).ok().flatten().map_or(StateWord::Queued, |job| job.state().into())
}

/// What only one of several nodes has is not safe yet.
fn held_warning(holders: usize, view: &ViewSnapshot) -> String {
    let others = view.nodes.iter().filter(|(node, seen)| **node != view.me && seen.connected).count();
    if holders > 1 || others == 0 {
        return String::new();
    }
    "no other node had all of it within 5 s, so it is on this node alone as yet".to_owned()
}

fn warning(explanation: Option<&ExplanationWord>, view: &ViewSnapshot) -> String {
    let Some(explanation) = explanation.filter(|explanation| !explanation.fits_somewhere) else {
        return String::new();
    };
    let nearest =
        explanation.nodes.first().map(|near| format!("; nearest is {}: {}", near.node.name, near.lacks.join(", ")));
    let count = view.nodes.len();
    let nodes = if count == 1 { "the only node".to_owned() } else { format!("any of the {count} nodes") };
    format!("this job does not fit on {nodes}{}; it waits for one that it fits on", nearest.unwrap_or_default())
}

/// Nodes and label keys that nobody has are slips of the pen; other things that nobody has may come.
fn check_places(request: &SubmitRequest, view: &ViewSnapshot, names: &Names) -> Result<(), Refusal> {
    for wanted in &request.nodes {
        node_id(view, names, wanted)?;
    }
    let keys: BTreeSet<&String> = view.nodes.values().flat_map(|seen| seen.capacity.labels.keys()).collect();
    if let Some(unknown) = request.labels.keys().find(|key| !keys.contains(key)) {
        let there: Vec<&str> = keys.into_iter().take(10).map(String::as_str).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        let message = format!("no node has a label {unknown:?}; labels there are: {there}");
        let hint = format!("put it on a node first: fnode node label NODE {unknown}=VALUE");
        return Err(ErrorWord::not_found(message, hint).into());
    }
    Ok(())
}

/// The running node asks this one for them: what is not here now would fail the job later.
fn check_secrets(secrets: &BTreeSet<String>, node: &NodeHandle) -> Result<(), Refusal> {
    let known = node.secrets().list();
    match secrets.iter().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(missing) => {
            let message = format!("{} has no secret {missing:?}", node.name());
            Err(ErrorWord::not_found(message, format!("give it one first: fnode secret set {missing}")).into())
        }
    }
}

/// An id that the client chose, which makes a repeated request harmless.
async fn wished_id(request: &SubmitRequest, node: &NodeHandle) -> Result<Option<GroupId>, Refusal> {
    if request.id.is_empty() {
        return Ok(None);
    }
    let group: GroupId = request.id.parse().map_err(|_| {
        ErrorWord::bad_input(format!("{:?} is not a job id", request.id), "give a UUID of version 7, or none")
    })?;
    let handle = node.clone();
    if blocking(move || handle.group(group)).await?.is_some() {
        let message = format!("job {group} is there already");
        return Err(ErrorWord::new(ErrorCode::Conflict, message, "it was accepted before").into());
    }
    Ok(Some(group))
}

/// The bundle, complete on this node: fetched from others when parts of it are missing here.
async fn bundle_of(node: &NodeHandle, text: &str) -> Result<(BundleRef, Manifest), Refusal> {
    let id: ContentId = text.parse().map_err(|_| {
        ErrorWord::bad_input(format!("{text:?} is not a content id"), "give the answer of POST /bundles")
    })?;
    let blobs = node.blobs().clone();
    let local = blocking(move || Ok::<_, Refusal>(local_manifest(&blobs, id))).await?;
    let manifest = match local {
        Some(manifest) => manifest,
        None => node.fetch_bundle(id).await.map_err(|error| match error {
            NodeError::Unreachable(_) => Refusal(ErrorWord::new(
                ErrorCode::Conflict,
                format!("bundle {} is not complete on this node", id.short()),
                "send its manifest with POST /bundles and what is missing with PUT /blobs/{id}",
            )),
            other => other.into(),
        })?,
    };
    let files = u32::try_from(manifest.files.len()).unwrap_or(u32::MAX);
    Ok((BundleRef { manifest: id, total_bytes: manifest.total_bytes(), files }, manifest))
}

/// The manifest, if it and all its files are here.
fn local_manifest(blobs: &BlobStore, id: ContentId) -> Option<Manifest> {
    let bytes = blobs.read_small(id, proto::codec::BODY_MAX as u64 + 64).ok()?;
    let manifest: Manifest = proto::codec::decode(&bytes).ok()?;
    manifest.check().ok()?;
    let is_whole = blobs.is_whole(id) || manifest.contents().all(|(content, size)| blobs.has(content) == Some(size));
    is_whole.then_some(manifest)
}

/// The environment's file must be in the bundle as it is named.
fn check_environment(request: &SubmitRequest, bundle: Option<&(BundleRef, Manifest)>) -> Result<(), ErrorWord> {
    let Some(environment) = &request.environment else { return Ok(()) };
    let is_there = bundle.is_some_and(|(_, manifest)| {
        manifest.files.iter().any(|file| {
            let FileKind::File { content, .. } = file.kind else { return false };
            file.path == environment.path && content.to_string() == environment.content
        })
    });
    if is_there {
        return Ok(());
    }
    let message = format!("the bundle has no {} as it is named for the environment", environment.path);
    Err(ErrorWord::bad_input(message, "submit the directory that holds it, or leave the environment out"))
}

/// Uncommitted changes ride in the bundle: that is what holds and keeps them.
fn check_diff(request: &SubmitRequest, bundle: Option<&(BundleRef, Manifest)>) -> Result<(), ErrorWord> {
    let Some(diff) = request.checkout.as_ref().and_then(|checkout| checkout.diff.as_ref()) else { return Ok(()) };
    let is_there = bundle.is_some_and(|(_, manifest)| {
        manifest.contents().any(|(content, size)| size == diff.size && content.to_string() == diff.content)
    });
    if is_there {
        return Ok(());
    }
    Err(ErrorWord::bad_input("the bundle has no file with the checkout's diff", "put it in, or leave the diff out"))
}

/// The system's name of the user where the kernel tells it, else what the client says.
pub(crate) fn user(caller: Option<Caller>, said: &str) -> String {
    let own = rustix::process::getuid().as_raw();
    match caller {
        // Root and the node's own user may submit for others; a gateway does.
        Some(Caller::Unix { uid }) if uid != 0 && uid != own => name_of(uid),
        _ if !said.is_empty() => said.chars().filter(|c| !c.is_control()).take(64).collect(),
        Some(Caller::Unix { uid }) => name_of(uid),
        _ => name_of(own),
    }
}

/// The name that `/etc/passwd` has for a user; its number elsewhere (directory services).
fn name_of(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_believed_more_than_the_client() {
        assert_eq!(name_of(0), "root");
        let other = rustix::process::getuid().as_raw().wrapping_add(54_321).max(1);
        assert_eq!(user(Some(Caller::Unix { uid: other }), "ada"), name_of(other));
        assert_eq!(user(Some(Caller::Loopback), "a\nda"), "ada");
        assert_eq!(user(Some(Caller::Unix { uid: 0 }), ""), "root");
    }
}
