//! Projects: jobs under one name.

use axum::extract::State;
use axum::{Extension, Json};
use proto::event::Event;
use proto::record::Stamp;
use proto::{NOTE_MAX, NOTES_MAX, ProjectNote};

use super::{Answered, To, done, submit};
use crate::http::guard::Caller;
use crate::http::refusal::{Given, Path, Refusal, blocking};
use crate::http::routes::Shared;
use crate::http::words::Done;
use crate::http::words::error::ErrorWord;
use crate::http::words::project::{
    ProjectNoteRequest, ProjectNoteWord, ProjectNotes, ProjectRequest, ProjectWord, Projects,
};
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
    Ok(done("describe", To::Project(&name), format!("project {name} is described")))
}

pub(crate) async fn notes(
    State(Shared { api, .. }): State<Shared>,
    Path(name): Path<String>,
) -> Answered<ProjectNotes> {
    let summary = find(&api.node, &name).await?;
    let word = |(stamp, note): (Stamp, ProjectNote)| ProjectNoteWord {
        written_unix_ms: stamp.hlc.unix_ms,
        user: note.user,
        text: note.text,
    };
    Ok(Json(ProjectNotes { notes: summary.record.notes.into_iter().map(word).collect() }))
}

pub(crate) async fn note(
    State(Shared { api, .. }): State<Shared>,
    Path(name): Path<String>,
    caller: Option<Extension<Caller>>,
    Given(request): Given<ProjectNoteRequest>,
) -> Answered<Done> {
    let summary = find(&api.node, &name).await?;
    if request.text.trim().is_empty() {
        return Err(ErrorWord::bad_input("the note is empty", "write what is to be remembered").into());
    }
    if request.text.len() > NOTE_MAX {
        let message = format!("the note has {} bytes, more than {NOTE_MAX}", request.text.len());
        return Err(ErrorWord::bad_input(message, "shorten it, or write several").into());
    }
    let user = submit::user(caller.map(|Extension(caller)| caller), &request.user);
    let note = Box::new(ProjectNote { user, text: request.text });
    api.node.write(Event::ProjectNoted { project: name.clone(), note }).await?;
    let full = summary.record.notes.len() >= NOTES_MAX;
    let room = if full { format!("; its oldest note went, as it keeps {NOTES_MAX}") } else { String::new() };
    Ok(done("note", To::Project(&name), format!("project {name} has one more note{room}")))
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
