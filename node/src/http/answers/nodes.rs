//! Nodes of the cluster: who they are, and what users change about them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use proto::event::Event;

use super::{Answered, To, done, node_id, view};
use crate::http::describe;
use crate::http::refusal::{Given, Path};
use crate::http::routes::Shared;
use crate::http::words::Done;
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::http::words::node::{DrainRequest, LabelRequest, NodeWord, Nodes};
use crate::http::words::submit::check_label;

/// Labels of one node; all of them travel in every capacity record.
const LABELS_MAX: usize = 64;

pub(crate) async fn list(State(Shared { api, .. }): State<Shared>) -> Answered<Nodes> {
    let (view, names) = view(&api.node).await?;
    Ok(Json(Nodes { nodes: describe::nodes(&view, &names) }))
}

pub(crate) async fn show(State(Shared { api, .. }): State<Shared>, Path(node): Path<String>) -> Answered<NodeWord> {
    let (view, names) = view(&api.node).await?;
    let id = node_id(&view, &names, &node)?;
    Ok(Json(describe::node(id, &view.nodes[&id], &view, &names)))
}

pub(crate) async fn remove(State(Shared { api, .. }): State<Shared>, Path(node): Path<String>) -> Answered<Done> {
    let (view, names) = view(&api.node).await?;
    let id = node_id(&view, &names, &node)?;
    if id == view.me {
        let hint = "ask another member to remove it, or end it here: fnode shutdown";
        return Err(ErrorWord::new(ErrorCode::Conflict, "a node does not remove itself", hint).into());
    }
    api.node.write(Event::MemberRemoved { node: id }).await?;
    Ok(done(
        "remove",
        To::Node(id),
        format!("{} is shut out for ever; its unfinished jobs run elsewhere", names.name(id)),
    ))
}

pub(crate) async fn drain(
    State(Shared { api, .. }): State<Shared>,
    Path(node): Path<String>,
    Given(request): Given<DrainRequest>,
) -> Answered<Done> {
    let (view, names) = view(&api.node).await?;
    let id = node_id(&view, &names, &node)?;
    api.node.write(Event::MemberDrained { node: id, drained: request.drained }).await?;
    let name = names.name(id);
    Ok(match request.drained {
        true => done("drain", To::Node(id), format!("{name} finishes what it has and takes no more jobs")),
        false => done("undrain", To::Node(id), format!("{name} takes jobs again")),
    })
}

pub(crate) async fn label(
    State(Shared { api, .. }): State<Shared>,
    Path(node): Path<String>,
    Given(request): Given<LabelRequest>,
) -> Answered<Done> {
    let (view, names) = view(&api.node).await?;
    let id = node_id(&view, &names, &node)?;
    let seen = &view.nodes[&id];
    let mut labels: BTreeMap<String, String> =
        seen.record.labels.as_ref().map(|(_, labels)| labels.clone()).unwrap_or_default();
    for key in &request.remove {
        if labels.remove(key).is_none() {
            let hint = if seen.capacity.labels.contains_key(key) {
                "its owner gave that label: start it without --label"
            } else {
                "see fnode node show"
            };
            let message = format!("{} has no label {key:?} that can be taken off", names.name(id));
            return Err(ErrorWord::not_found(message, hint).into());
        }
    }
    for (key, value) in &request.set {
        check_label(key, value)?;
        labels.insert(key.clone(), value.clone());
    }
    if labels.len() > LABELS_MAX {
        let message = format!("{} labels are more than the {LABELS_MAX} that one node may have", labels.len());
        return Err(ErrorWord::bad_input(message, "take some off").into());
    }
    let text = labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
    api.node.write(Event::MemberLabelled { node: id, labels }).await?;
    let name = names.name(id);
    Ok(done(
        "label",
        To::Node(id),
        if text.is_empty() { format!("{name} has no labels now") } else { format!("{name} is labelled {text}") },
    ))
}
