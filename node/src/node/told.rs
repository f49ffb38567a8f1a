//! Reading what a job told of itself, from any node: of an attempt that runs from the node where it does, of one that
//! ended from the bundle that it left, wherever that lies.

use proto::blob::FileKind;
use proto::record::JobRecord;
use proto::{ContentId, JobId, Manifest};

use super::ask::{Answer, Question, ask};
use super::handle::{NodeError, NodeHandle};
use super::tracking::{ARTIFACTS_DIR, SERIES_FILE};
use crate::track::{Cut, Page, Series};

/// Most points in one answer.
pub(crate) const POINTS_MAX: usize = 5_000;

/// Points of one metric, at most [`POINTS_MAX`]; `None`: the job told none of that name.
pub(super) async fn series(node: &NodeHandle, job: JobId, metric: &str, cut: Cut) -> Result<Option<Page>, NodeError> {
    let cut = bounded(cut);
    let Some(record) = node.job(job)? else { return Ok(None) };
    let Some((key, attempt)) = record.counted() else { return Ok(None) };
    if let Some(files) = attempt.tracked.as_ref().and_then(|tracked| tracked.files)
        && let Some((content, size)) = file(&node.fetch_manifest(files.manifest).await?, SERIES_FILE)
    {
        return sealed(node, (content, size), metric, cut).await;
    }
    if attempt.finished.is_some() {
        return Ok(None);
    }
    let attempt = key.id(job);
    if key.worker == node.me() {
        let (shared, metric) = (node.shared.clone(), metric.to_owned());
        let read = move || shared.tracks.page(attempt, &metric, cut);
        return tokio::task::spawn_blocking(read).await.map_err(|_| NodeError::Closing);
    }
    let question = Question::Series { attempt, metric: metric.to_owned(), cut };
    match ask(&node.shared, key.worker, &question).await {
        Some(Answer::Series(page)) => Ok(page),
        _ => Err(NodeError::Unreachable(format!("points of {job}, which runs on node {}", key.worker.short()))),
    }
}

/// What may be asked for at once.
pub(super) fn bounded(cut: Cut) -> Cut {
    Cut { points: cut.points.clamp(2, POINTS_MAX as u32), ..cut }
}

async fn sealed(
    node: &NodeHandle,
    (content, size): (ContentId, u64),
    metric: &str,
    cut: Cut,
) -> Result<Option<Page>, NodeError> {
    if node.blobs().has(content).is_none() {
        node.fetch_blob(content, size).await?;
    }
    let (blobs, metric) = (node.blobs().clone(), metric.to_owned());
    let read = move || {
        let series = Series::open(blobs.open_blob(content)?);
        let page = series.and_then(|series| series.cut(&metric, cut));
        page.map_err(|error| NodeError::Unknown(format!("points of {metric}: {error}")))
    };
    tokio::task::spawn_blocking(read).await.map_err(|_| NodeError::Closing)?
}

/// The files of the artifacts of a job, each with its path, content id and size; none: nothing is stored yet.
pub(super) async fn artifacts(
    node: &NodeHandle,
    record: &JobRecord,
) -> Result<Vec<(String, ContentId, u64)>, NodeError> {
    let Some((_, attempt)) = record.counted() else { return Ok(Vec::new()) };
    let Some(files) = attempt.tracked.as_ref().and_then(|tracked| tracked.files) else { return Ok(Vec::new()) };
    let manifest = node.fetch_manifest(files.manifest).await?;
    let artifact = |file: &proto::ManifestFile| match file.kind {
        FileKind::File { content, size, .. } => {
            let path = file.path.strip_prefix(ARTIFACTS_DIR)?.strip_prefix('/')?;
            Some((path.to_owned(), content, size))
        }
        _ => None,
    };
    Ok(manifest.files.iter().filter_map(artifact).collect())
}

fn file(manifest: &Manifest, path: &str) -> Option<(ContentId, u64)> {
    manifest.files.iter().find_map(|file| match file.kind {
        FileKind::File { content, size, .. } if file.path == path => Some((content, size)),
        _ => None,
    })
}
