//! Reading what a job told of itself, from any node: of an attempt that runs from the node where it does, of one that
//! ended from the bundle that it left, wherever that lies.

use proto::blob::FileKind;
use proto::record::JobRecord;
use proto::{AttemptId, ContentId, JobId, Manifest, NodeId};

use super::ask::{Answer, Question, ask};
use super::handle::{NodeError, NodeHandle};
use super::tracking::{ARTIFACTS_DIR, SERIES_FILE};
use crate::track::{Cut, Names, Page, Series, SeriesError};

/// Most points in one answer.
pub(crate) const POINTS_MAX: usize = 5_000;

/// Where the points of a job are.
enum Source {
    /// In a sealed file.
    Sealed(ContentId, u64),
    /// At the node where it runs.
    Live(AttemptId, NodeId),
}

/// Points of one metric, at most [`POINTS_MAX`]; `None`: the job told none of that name.
pub(super) async fn series(node: &NodeHandle, job: JobId, metric: &str, cut: Cut) -> Result<Option<Page>, NodeError> {
    let cut = bounded(cut);
    let (attempt, worker) = match source(node, job).await? {
        None => return Ok(None),
        Some(Source::Sealed(content, size)) => {
            let metric = metric.to_owned();
            return sealed(node, (content, size), move |series| series.cut(&metric, cut)).await;
        }
        Some(Source::Live(attempt, worker)) => (attempt, worker),
    };
    if worker == node.me() {
        let (shared, metric) = (node.shared.clone(), metric.to_owned());
        let read = move || shared.tracks.page(attempt, &metric, cut);
        return tokio::task::spawn_blocking(read).await.map_err(|_| NodeError::Closing);
    }
    let question = Question::Series { attempt, metric: metric.to_owned(), cut };
    match ask(&node.shared, worker, &question).await {
        Some(Answer::Series(page)) => Ok(page),
        _ => Err(silent(job, worker)),
    }
}

/// Names of a job's series after `after`, as many as one answer has.
pub(crate) async fn names(node: &NodeHandle, job: JobId, after: &str) -> Result<Names, NodeError> {
    let after = after.to_owned();
    let (attempt, worker) = match source(node, job).await? {
        None => return Ok(Names::default()),
        Some(Source::Sealed(content, size)) => {
            return sealed(node, (content, size), move |series| Ok(series.names_after(&after))).await;
        }
        Some(Source::Live(attempt, worker)) => (attempt, worker),
    };
    if worker == node.me() {
        let shared = node.shared.clone();
        let read = move || shared.tracks.names(attempt, &after);
        return tokio::task::spawn_blocking(read).await.map_err(|_| NodeError::Closing);
    }
    match ask(&node.shared, worker, &Question::SeriesNames { attempt, after }).await {
        Some(Answer::SeriesNames(names)) => Ok(names),
        _ => Err(silent(job, worker)),
    }
}

fn silent(job: JobId, worker: NodeId) -> NodeError {
    NodeError::Unreachable(format!("points of {job}, which runs on node {}", worker.short()))
}

/// `None`: it told none.
async fn source(node: &NodeHandle, job: JobId) -> Result<Option<Source>, NodeError> {
    let Some(record) = node.job(job)? else { return Ok(None) };
    let Some((key, attempt)) = record.counted() else { return Ok(None) };
    if let Some(files) = attempt.tracked.as_ref().and_then(|tracked| tracked.files)
        && let Some((content, size)) = file(&node.fetch_manifest(files.manifest).await?, SERIES_FILE)
    {
        return Ok(Some(Source::Sealed(content, size)));
    }
    Ok(attempt.finished.is_none().then(|| Source::Live(key.id(job), key.worker)))
}

/// What may be asked for at once.
pub(super) fn bounded(cut: Cut) -> Cut {
    Cut { points: cut.points.clamp(2, POINTS_MAX as u32), ..cut }
}

async fn sealed<T: Send + 'static>(
    node: &NodeHandle,
    (content, size): (ContentId, u64),
    read: impl FnOnce(&Series) -> Result<T, SeriesError> + Send + 'static,
) -> Result<T, NodeError> {
    if node.blobs().has(content).is_none() {
        node.fetch_blob(content, size).await?;
    }
    let blobs = node.blobs().clone();
    let read = move || {
        let told = Series::open(blobs.open_blob(content)?).and_then(|series| read(&series));
        told.map_err(|error| NodeError::Unknown(error.to_string()))
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
