//! What jobs told of themselves: points of metrics, files of artifacts.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use proto::JobId;
use proto::record::{AttemptRecord, JobRecord};
use proto::track::{ArtifactNote, Summary};

use super::{Answered, blobs, job_id, job_records};
use crate::http::refusal::{Asked, Path, Refusal};
use crate::http::routes::Shared;
use crate::http::words::error::ErrorWord;
use crate::http::words::track::{
    ArtifactWord, Artifacts, SeriesName, SeriesNames, SeriesNamesQuery, SeriesQuery, SeriesWord, number, scalar,
};
use crate::node::{NodeHandle, told};
use crate::track::{Cut, Page, Point};

/// Points when no number is asked for.
const POINTS: u32 = 2_000;
/// Kinds of files that pages show.
const SHOWN: [&str; 4] = ["image", "audio", "text", "video"];

pub(crate) async fn series(
    State(Shared { api, .. }): State<Shared>,
    Path((id, key)): Path<(String, String)>,
    Asked(query): Asked<SeriesQuery>,
) -> Answered<SeriesWord> {
    let id = job_id(&api.node, &id).await?;
    job_records(&api.node, id).await?;
    let points = match query.points {
        0 => POINTS,
        some if (2..=told::POINTS_MAX as u32).contains(&some) => some,
        _ => {
            let message = format!("a series is given with 2 to {} points", told::POINTS_MAX);
            return Err(ErrorWord::bad_input(message, "ask for less, or page with after").into());
        }
    };
    let cut = Cut { after: query.after, points, every: query.every != 0 };
    let page = api.node.series(id, &key, cut).await?;
    let Some(page) = page else {
        let message = format!("job {id} told no metric {key:?}");
        return Err(ErrorWord::not_found(message, "see its metrics with: fnode job show").into());
    };
    Ok(Json(series_word(key, &page)))
}

/// Points as they are told.
pub(super) fn series_word(key: String, page: &Page) -> SeriesWord {
    let point = |(at, point): (u32, &Point)| {
        let value = page.told.get(&at).map_or_else(|| number(point.value), scalar);
        (point.step, point.at_unix_ms as f64 / 1_000.0, value)
    };
    SeriesWord { key, count: page.count, points: (0..).zip(&page.points).map(point).collect() }
}

pub(crate) async fn names(
    State(Shared { api, .. }): State<Shared>,
    Path(id): Path<String>,
    Asked(query): Asked<SeriesNamesQuery>,
) -> Answered<SeriesNames> {
    let id = job_id(&api.node, &id).await?;
    job_records(&api.node, id).await?;
    let names = told::names(&api.node, id, &query.after).await?;
    let next = names.series.last().filter(|_| names.has_more).map(|(key, _)| key.clone()).unwrap_or_default();
    let series = names.series.into_iter().map(|(key, count)| SeriesName { key, count }).collect();
    Ok(Json(SeriesNames { series, next }))
}

/// `image`, `audio`, `text`, `video` or `unknown`: what a file is said to be, else by its name.
pub(super) fn kind_of(note: &ArtifactNote) -> &str {
    let mime = if note.mime.is_empty() { media_type(&note.file) } else { &note.mime };
    mime.split('/').next().filter(|kind| SHOWN.contains(kind)).unwrap_or("unknown")
}

pub(crate) async fn artifacts(State(Shared { api, .. }): State<Shared>, Path(id): Path<String>) -> Answered<Artifacts> {
    let id = job_id(&api.node, &id).await?;
    let (_, job) = job_records(&api.node, id).await?;
    Ok(Json(Artifacts { artifacts: of(&api.node, job.as_ref()).await? }))
}

pub(crate) async fn artifact(
    State(Shared { api, .. }): State<Shared>,
    Path((id, file)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let id: JobId = job_id(&api.node, &id).await?;
    let (_, job) = job_records(&api.node, id).await?;
    let all = match &job {
        Some(job) => api.node.artifacts(job).await?,
        None => Vec::new(),
    };
    let Some((path, content, size)) = all.into_iter().find(|(path, ..)| *path == file) else {
        let message = format!("job {id} has no artifact {file:?}");
        return Err(ErrorWord::not_found(message, "see its artifacts with: fnode job show").into());
    };
    if api.node.blobs().has(content).is_none() {
        api.node.fetch_blob(content, size).await?;
    }
    blobs::respond(&api.node, content, media_type(&path)).await
}

/// The files of a job's artifacts under the names that the job gave them.
pub(crate) async fn of(node: &NodeHandle, job: Option<&JobRecord>) -> Result<Vec<ArtifactWord>, Refusal> {
    let Some(job) = job else { return Ok(Vec::new()) };
    let Some((_, AttemptRecord { tracked: Some(tracked), .. })) = job.counted() else { return Ok(Vec::new()) };
    let files = node.artifacts(job).await?;
    let word = |(filename, content, size): (String, proto::ContentId, u64)| {
        let note = note_of(&tracked.summary, &filename);
        let said = note.map(|note| note.mime.clone()).filter(|mime| !mime.is_empty());
        let mime = said.unwrap_or_else(|| media_type(&filename).to_owned());
        let kind = mime.split('/').next().filter(|kind| SHOWN.contains(kind));
        ArtifactWord {
            key: note.map_or_else(|| filename.clone(), |note| note.key.clone()),
            artifact_type: kind.unwrap_or("unknown").to_owned(),
            content: content.to_string(),
            filename,
            size,
            mime,
        }
    };
    Ok(files.into_iter().map(word).collect())
}

fn note_of<'a>(summary: &'a Summary, path: &str) -> Option<&'a ArtifactNote> {
    summary.artifacts.values().find(|note| match path.strip_prefix(note.file.as_str()) {
        Some(rest) => rest.is_empty() || (note.is_directory && rest.starts_with('/')),
        None => false,
    })
}

/// The media type of a file by its name: the few that pages show.
fn media_type(path: &str) -> &'static str {
    let extension = path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "bmp" => "image/bmp",
        "wav" => "audio/wav",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "flac" => "audio/flac",
        "mp4" => "video/mp4",
        "txt" | "log" | "md" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "json" => "application/json",
        _ => "application/octet-stream",
    }
}
