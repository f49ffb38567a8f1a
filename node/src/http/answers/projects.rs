//! Projects: jobs under one name.

use axum::Json;
use axum::extract::{Path, State};
use proto::event::Event;

use super::{Answered, done};
use crate::http::refusal::{Given, Refusal, blocking};
use crate::http::routes::Shared;
use crate::http::words::Done;
use crate::http::words::error::ErrorWord;
use crate::http::words::project::{ProjectRequest, ProjectWord, Projects};
use crate::http::words::submit::check_project;
use crate::node::{NodeError, NodeHandle};
use crate::store::{GroupFilter, ProjectSummary};

/// A description is a paragraph, not a report.
const DESCRIPTION_MAX: usize = 4_096;
/// Groups whose jobs are counted by state for one project: a bound on the time of an answer.
const COUNTED_MAX: usize = 10_000;

pub(crate) async fn list(State(Shared { api, .. }): State<Shared>) -> Answered<Projects> {
    let handle = api.node.clone();
    let projects = blocking(move || {
        let summaries = handle.projects()?;
        summaries.into_iter().map(|summary| count(&handle, summary)).collect::<Result<Vec<_>, NodeError>>()
    });
    Ok(Json(Projects { projects: projects.await? }))
}

pub(crate) async fn show(State(Shared { api, .. }): State<Shared>, Path(name): Path<String>) -> Answered<ProjectWord> {
    let summary = find(&api.node, &name).await?;
    let handle = api.node.clone();
    Ok(Json(blocking(move || count(&handle, summary)).await?))
}

/// The project, or that nobody knows it.
pub(crate) async fn find(node: &NodeHandle, name: &str) -> Result<ProjectSummary, Refusal> {
    let handle = node.clone();
    let projects = blocking(move || handle.projects()).await?;
    projects
        .into_iter()
        .find(|project| project.name == name)
        .ok_or_else(|| Refusal(ErrorWord::not_found(format!("no project is named {name:?}"), "see fnode project list")))
}

pub(crate) async fn describe(
    State(Shared { api, .. }): State<Shared>,
    Path(name): Path<String>,
    Given(request): Given<ProjectRequest>,
) -> Answered<Done> {
    check_project(&name)?;
    if request.description.len() > DESCRIPTION_MAX {
        return Err(ErrorWord::bad_input("the description is longer than 4096 bytes", "shorten it").into());
    }
    find(&api.node, &name).await?;
    api.node.write(Event::ProjectDescribed { project: name.clone(), description: request.description }).await?;
    Ok(done(format!("project {name} is described")))
}

fn count(node: &NodeHandle, summary: ProjectSummary) -> Result<ProjectWord, NodeError> {
    let mut word = ProjectWord {
        description: summary.record.description.map(|(_, text)| text).unwrap_or_default(),
        submissions: summary.groups,
        jobs: summary.jobs,
        last_submitted_unix_ms: summary.last_used.map_or(0, |group| group.unix_ms()),
        name: summary.name.clone(),
        ..ProjectWord::default()
    };
    let filter = GroupFilter { project: Some(summary.name), hidden: true, ..GroupFilter::default() };
    for (_, group) in node.groups(&filter, COUNTED_MAX)? {
        let Some(submitted) = &group.submitted else { continue };
        let tally = group.tally;
        word.running += u64::from(tally.running);
        word.completed += u64::from(tally.completed);
        word.failed += u64::from(tally.failed);
        word.stopped += u64::from(tally.stopped);
        word.queued += submitted.spec.len().saturating_sub(u64::from(tally.running) + u64::from(tally.ended()));
    }
    Ok(word)
}
