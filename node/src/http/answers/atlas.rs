//! Atlas's tracker, for pages and scripts that were written for it: the same jobs under its words.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::{Extension, Json};
use proto::record::{GroupRecord, JobRecord};
use proto::{GroupId, JobId, Member};

use super::{Answered, job_id, job_records, jobs, projects};
use crate::http::API_PREFIX;
use crate::http::describe::{self, Names};
use crate::http::guard::Caller;
use crate::http::listing::Wish;
use crate::http::refusal::{Asked, Given, Path, Refusal, blocking};
use crate::http::routes::Shared;
use crate::http::words::Done;
use crate::http::words::atlas::{
    AtlasArtifact, AtlasDescription, AtlasJob, AtlasListing, AtlasLog, AtlasMetric, AtlasName, AtlasNote,
    AtlasNoteRequest, AtlasOverview, AtlasOverviewQuery, AtlasProject, AtlasTagRequest, AtlasTimes, AtlasValue,
    duration, iso,
};
use crate::http::words::error::ErrorWord;
use crate::http::words::job::{JobLine, MarkRequest, StateWord};
use crate::http::words::project::{ProjectNoteRequest, ProjectNoteWord, ProjectNotes, ProjectRequest};
use crate::node::{NodeError, NodeHandle, unix_ms};
use crate::store::{GroupFilter, ProjectSummary};

/// Groups read from the store at a time.
const BATCH: usize = 500;
/// Jobs of one listing, the newest: Atlas knew no pages, and no page of a browser shows more.
const JOBS_MAX: usize = 50_000;
/// Of a log so much is told, and read at a time.
const LOG_MAX: usize = 16 << 20;
const CHUNK: usize = 1 << 20;

pub(crate) async fn list(State(Shared { api, .. }): State<Shared>) -> Answered<Vec<AtlasProject>> {
    let handle = api.node.clone();
    let projects = blocking(move || {
        handle.projects()?.into_iter().map(|summary| project(&handle, &summary)).collect::<Result<Vec<_>, NodeError>>()
    });
    Ok(Json(projects.await?))
}

fn project(node: &NodeHandle, summary: &ProjectSummary) -> Result<AtlasProject, NodeError> {
    let filter = GroupFilter { project: Some(summary.name.clone()), hidden: true, ..GroupFilter::default() };
    let first = node.groups(&filter, JOBS_MAX)?.pop();
    let owner = first.as_ref().and_then(|(_, group)| Some(group.submitted.as_ref()?.spec.user.clone()));
    let created_at = first.map(|(group, _)| iso(group.unix_ms()));
    Ok(AtlasProject { name: summary.name.clone(), created_at, owner })
}

pub(crate) async fn listing(
    State(Shared { api, .. }): State<Shared>,
    Path(project): Path<String>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Answered<AtlasListing> {
    listed(&api.node, project, Wish::parse(&pairs)?).await
}

pub(crate) async fn sorted(
    State(Shared { api, .. }): State<Shared>,
    Path((project, column, order)): Path<(String, String, String)>,
) -> Answered<AtlasListing> {
    let wish = match order.as_str() {
        "asc" => Wish::by(&column, false),
        "desc" => Wish::by(&column, true),
        _ => return Err(ErrorWord::bad_input(format!("{order:?} is no order"), "write asc or desc").into()),
    };
    listed(&api.node, project, wish).await
}

async fn listed(node: &NodeHandle, project: String, wish: Wish) -> Answered<AtlasListing> {
    find(node, &project).await?;
    let handle = node.clone();
    let listing = blocking(move || {
        let mut jobs = all(&handle, &project)?;
        wish.apply(&mut jobs);
        let parameters = names(jobs.iter().flat_map(|job| &job.job_parameters));
        let output_metric_names = names(jobs.iter().flat_map(|job| &job.output_metrics));
        Ok::<_, NodeError>(AtlasListing { name: project, jobs, output_metric_names, parameters })
    });
    Ok(Json(listing.await?))
}

/// Each name once, by name.
fn names<'a>(values: impl Iterator<Item = &'a AtlasValue>) -> Vec<AtlasName> {
    let kinds: BTreeMap<&str, &str> = values.map(|value| (value.name.as_str(), value.kind.as_str())).collect();
    kinds.into_iter().map(|(name, kind)| AtlasName { name: name.to_owned(), kind: kind.to_owned() }).collect()
}

/// The project, or Atlas's own words that there is none.
async fn find(node: &NodeHandle, name: &str) -> Result<ProjectSummary, Refusal> {
    let refuse = |_| Refusal(ErrorWord::not_found("This project was not found", "see fnode project list"));
    projects::find(node, name).await.map_err(refuse)
}

/// The jobs of a project, the newest first; of an array each.
fn all(node: &NodeHandle, project: &str) -> Result<Vec<AtlasJob>, NodeError> {
    let now = unix_ms();
    let mut jobs = Vec::new();
    let mut filter = GroupFilter { project: Some(project.to_owned()), ..GroupFilter::default() };
    loop {
        let groups = node.groups(&filter, BATCH)?;
        for (id, group) in &groups {
            add(node, *id, group, now, &mut jobs)?;
        }
        match groups.last() {
            Some((last, _)) if groups.len() == BATCH && jobs.len() < JOBS_MAX => filter.before = Some(*last),
            _ => break,
        }
    }
    jobs.truncate(JOBS_MAX);
    Ok(jobs)
}

fn add(
    node: &NodeHandle,
    group: GroupId,
    record: &GroupRecord,
    now: u64,
    jobs: &mut Vec<AtlasJob>,
) -> Result<(), NodeError> {
    let Some(submitted) = &record.submitted else { return Ok(()) };
    let mut add = |member, job: Option<&JobRecord>| {
        let id = JobId { group, member };
        let line = describe::job_line(id, record, job, 0, &Names::default());
        jobs.extend(line.map(|line| atlas_job(&line, &submitted.spec.params_json, job, now)));
    };
    if submitted.spec.array.is_empty() {
        add(Member::Only, node.job(JobId::only(group))?.as_ref());
        return Ok(());
    }
    let known: BTreeMap<Member, JobRecord> = node.jobs_of(group, None, JOBS_MAX)?.into_iter().collect();
    for member in submitted.spec.members().take(JOBS_MAX) {
        let job = known.get(&member);
        if !job.is_some_and(|job| job.marks.is_hidden()) {
            add(member, job);
        }
    }
    Ok(())
}

fn atlas_job(line: &JobLine, params_json: &str, job: Option<&JobRecord>, now: u64) -> AtlasJob {
    let value = |(name, value): (&String, &serde_json::Value)| AtlasValue::of(name, value);
    let lasted = line.started_unix_ms.map(|started| line.ended_unix_ms.unwrap_or(now).saturating_sub(started));
    let ended = line.ended_unix_ms.filter(|_| line.state.is_final());
    AtlasJob {
        job_id: line.id.clone(),
        user: line.user.clone(),
        project: line.project.clone(),
        job_parameters: line.told.all_params(params_json).iter().map(value).collect(),
        output_metrics: line.told.metrics.iter().map(|(name, metric)| AtlasValue::of(name, &metric.last)).collect(),
        status: status(line.state).to_owned(),
        start_time: line.started_unix_ms.map(iso),
        completed_time: ended.map(iso),
        creation_time: iso(line.submitted_unix_ms),
        duration: duration(lasted.unwrap_or(0)),
        tags: line.tags.clone(),
        artifacts: job.map(|job| artifacts(&line.id, job)).unwrap_or_default(),
        times_ms: AtlasTimes { created: line.submitted_unix_ms, started: line.started_unix_ms, ended, lasted },
    }
}

/// Atlas knew no job that was stopped.
fn status(state: StateWord) -> &'static str {
    match state {
        StateWord::Queued | StateWord::Preparing => "queued",
        StateWord::Running => "running",
        StateWord::Completed => "completed",
        StateWord::Failed | StateWord::Stopped => "failed",
    }
}

fn artifacts(id: &str, job: &JobRecord) -> Vec<AtlasArtifact> {
    let tracked = job.counted().and_then(|(_, attempt)| attempt.tracked.as_ref());
    let notes = tracked.iter().flat_map(|tracked| tracked.summary.artifacts.values());
    let files = notes.filter(|note| !note.is_directory);
    let escaped = |text: &str| text.replace('%', "%25").replace('/', "%2F").replace('?', "%3F").replace('#', "%23");
    files
        .map(|note| AtlasArtifact {
            filename: note.file.clone(),
            uri: format!("{API_PREFIX}/jobs/{}/artifacts/{}", escaped(id), escaped(&note.file)),
            artifact_type: match super::track::kind_of(note) {
                kind @ ("image" | "audio") => kind,
                _ => "unknown",
            }
            .to_owned(),
            archive_key: note.key.clone(),
        })
        .collect()
}

/// The job, if it is of that project.
async fn find_job(node: &NodeHandle, project: &str, id: &str) -> Result<JobId, Refusal> {
    find(node, project).await?;
    let job = job_id(node, id).await?;
    let (group, _) = job_records(node, job).await?;
    if group.submitted.is_some_and(|submitted| submitted.spec.project == project) {
        return Ok(job);
    }
    Err(ErrorWord::not_found(format!("project {project:?} has no job {job}"), "see its job_listing").into())
}

pub(crate) async fn logs(
    State(Shared { api, .. }): State<Shared>,
    Path((project, id)): Path<(String, String)>,
) -> Answered<AtlasLog> {
    let job = find_job(&api.node, &project, &id).await?;
    let mut bytes = Vec::new();
    let mut offset = 0;
    while bytes.len() < LOG_MAX {
        let chunk = api.node.log_chunk(job, None, offset, CHUNK, Duration::ZERO).await?;
        offset = chunk.next_offset;
        if chunk.bytes.is_empty() {
            break;
        }
        bytes.extend(chunk.bytes);
        if chunk.eof {
            break;
        }
    }
    Ok(Json(AtlasLog { log: String::from_utf8_lossy(&bytes).into_owned() }))
}

pub(crate) async fn delete(
    State(shared): State<Shared>,
    Path((project, id)): Path<(String, String)>,
) -> Answered<Done> {
    let job = find_job(&shared.api.node, &project, &id).await?;
    jobs::delete(State(shared), Path(job.to_string())).await
}

pub(crate) async fn tag(
    State(shared): State<Shared>,
    Path((project, id)): Path<(String, String)>,
    Given(AtlasTagRequest { tag }): Given<AtlasTagRequest>,
) -> Answered<Done> {
    let job = find_job(&shared.api.node, &project, &id).await?;
    let request = MarkRequest { tags: BTreeMap::from([(tag.key, tag.value)]), ..MarkRequest::default() };
    jobs::mark(State(shared), Path(job.to_string()), Given(request)).await
}

pub(crate) async fn untag(
    State(shared): State<Shared>,
    Path((project, id, key)): Path<(String, String, String)>,
) -> Answered<Done> {
    let job = find_job(&shared.api.node, &project, &id).await?;
    let request = MarkRequest { untag: [key].into(), ..MarkRequest::default() };
    jobs::mark(State(shared), Path(job.to_string()), Given(request)).await
}

pub(crate) async fn description(
    State(Shared { api, .. }): State<Shared>,
    Path(project): Path<String>,
) -> Answered<AtlasDescription> {
    let summary = find(&api.node, &project).await?;
    let project_description = summary.record.description.map(|(_, text)| text).unwrap_or_default();
    Ok(Json(AtlasDescription { project_description }))
}

pub(crate) async fn describe(
    State(shared): State<Shared>,
    Path(project): Path<String>,
    Given(request): Given<AtlasDescription>,
) -> Answered<AtlasDescription> {
    find(&shared.api.node, &project).await?;
    let description = request.project_description.clone();
    let _ = projects::describe(State(shared), Path(project), Given(ProjectRequest { description })).await?;
    Ok(Json(request))
}

pub(crate) async fn notes(State(shared): State<Shared>, Path(project): Path<String>) -> Answered<Vec<AtlasNote>> {
    find(&shared.api.node, &project).await?;
    let Json(ProjectNotes { notes }) = projects::notes(State(shared), Path(project)).await?;
    let word =
        |note: ProjectNoteWord| AtlasNote { date: iso(note.written_unix_ms), message: note.text, author: note.user };
    Ok(Json(notes.into_iter().map(word).collect()))
}

pub(crate) async fn note(
    State(shared): State<Shared>,
    Path(project): Path<String>,
    caller: Option<Extension<Caller>>,
    Given(AtlasNoteRequest { message, author }): Given<AtlasNoteRequest>,
) -> Answered<Done> {
    find(&shared.api.node, &project).await?;
    let request = ProjectNoteRequest { text: message, user: author };
    projects::note(State(shared), Path(project), caller, Given(request)).await
}

pub(crate) async fn overview(
    State(Shared { api, .. }): State<Shared>,
    Path(project): Path<String>,
    Asked(query): Asked<AtlasOverviewQuery>,
) -> Answered<AtlasOverview> {
    find(&api.node, &project).await?;
    let handle = api.node.clone();
    let jobs = blocking(move || all(&handle, &project)).await?;
    let mut metrics: BTreeMap<String, AtlasMetric> = BTreeMap::new();
    for job in jobs.into_iter().rev() {
        for AtlasValue { name, value, .. } in job.output_metrics {
            let metric =
                metrics.entry(name.clone()).or_insert_with(|| AtlasMetric { metric_name: name, values: Vec::new() });
            metric.values.push((job.job_id.clone(), value));
        }
    }
    let all_metric_names = metrics.keys().cloned().collect();
    let wanted: Vec<&str> = query.metric_name.split('|').filter(|name| !name.is_empty()).collect();
    let metrics =
        metrics.into_values().filter(|metric| wanted.is_empty() || wanted.contains(&metric.metric_name.as_str()));
    Ok(Json(AtlasOverview { all_metric_names, metric_query: metrics.collect() }))
}
