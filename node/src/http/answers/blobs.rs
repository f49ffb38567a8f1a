//! Bundles go in, blobs and outputs come out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write as _;
use std::path::Path as FilePath;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures::{Stream, StreamExt as _};
use proto::blob::FileKind;
use proto::job::BundleRef;
use proto::record::JobRecord;
use proto::{ContentId, JobId, Manifest, Member};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;

use super::events::KEEP_ALIVE;
use super::{Answered, has_ended, job_id, job_records};
use crate::blobs::{BlobError, FetchProgress};
use crate::http::refusal::{Asked, Path, Raw, Refusal, blocking};
use crate::http::routes::Shared;
use crate::http::words::blob::{
    BlobAnswer, BlobCheck, BundleAnswer, FetchEvent, OutputFile, OutputKind, Outputs, OutputsQuery,
};
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::node::{Home, NodeHandle};

/// Up to here an uploaded blob is held in memory, above in a file.
const IN_MEMORY_MAX: usize = 1 << 20;
/// Bytes read from the disk at a time.
const CHUNK: usize = 256 << 10;
/// Events that a reader may be behind.
const TOLD_MAX: usize = 16;

pub(crate) async fn bundle(State(Shared { api, .. }): State<Shared>, Raw(bytes): Raw) -> Answered<BundleAnswer> {
    let blobs = api.node.blobs().clone();
    let dir = api.node.home().blobs();
    let answer = blocking(move || {
        let manifest: Manifest = proto::codec::decode(&bytes)
            .map_err(|error| ErrorWord::bad_input(format!("the body is not a manifest: {error}"), ""))?;
        manifest.check().map_err(|error| ErrorWord::bad_input(format!("the manifest is refused: {error}"), ""))?;
        // What is here counts as used now, so that no sweep takes it before the job names it.
        let missing: BTreeMap<ContentId, u64> = if blobs.is_whole(ContentId::of(&bytes)) {
            BTreeMap::new()
        } else {
            manifest.contents().filter(|&(content, size)| !blobs.renew(content, size)).collect()
        };
        check_room(&dir, missing.values().sum())?;
        let id = blobs.put_bytes(&bytes)?;
        Ok::<_, Refusal>(BundleAnswer {
            manifest: id.to_string(),
            total_bytes: manifest.total_bytes(),
            files: u32::try_from(manifest.files.len()).unwrap_or(u32::MAX),
            missing: missing.keys().map(ToString::to_string).collect(),
        })
    });
    Ok(Json(answer.await?))
}

/// Refuses a bundle that cannot fit before any of it is sent.
fn check_room(dir: &FilePath, need: u64) -> Result<(), Refusal> {
    let stat = rustix::fs::statvfs(dir).map_err(|errno| BlobError::Io {
        verb: "look at",
        path: dir.to_owned(),
        source: errno.into(),
    })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < need.saturating_add(crate::blobs::RESERVE_BYTES) {
        return Err(BlobError::DiskFull { dir: dir.to_owned(), need, free }.into());
    }
    Ok(())
}

pub(crate) async fn put(
    State(Shared { api, .. }): State<Shared>,
    Path(id): Path<String>,
    body: Body,
) -> Answered<BlobAnswer> {
    let id = content_id(&id)?;
    let blobs = api.node.blobs().clone();
    let home = api.node.home().clone();
    let mut stream = body.into_data_stream();
    let mut held = Vec::new();
    let mut spilled: Option<tempfile::NamedTempFile> = None;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| ErrorWord::bad_input("the blob broke off", "send it again"))?;
        if spilled.is_none() && held.len() + chunk.len() <= IN_MEMORY_MAX {
            held.extend_from_slice(&chunk);
            continue;
        }
        // Written where it waits for its turn: pages of the cache, rarely the disk.
        let file = match &mut spilled {
            Some(file) => file,
            None => spilled.insert(new_file(&home).and_then(|mut file| {
                file.write_all(&held).map_err(|source| upload_error(&home, source))?;
                held = Vec::new();
                Ok(file)
            })?),
        };
        file.write_all(&chunk).map_err(|source| upload_error(&home, source))?;
    }
    let stored = blocking(move || match spilled {
        None => {
            check_content(id, ContentId::of(&held))?;
            Ok::<_, Refusal>((blobs.put_bytes(&held)?, held.len() as u64))
        }
        Some(file) => {
            let (found, size) = blobs.put_file(file.path())?;
            check_content(id, found)?;
            Ok((found, size))
        }
    });
    let (content, size_bytes) = stored.await?;
    Ok(Json(BlobAnswer { content: content.to_string(), size_bytes }))
}

fn new_file(home: &Home) -> Result<tempfile::NamedTempFile, Refusal> {
    // In the data directory: the store shares its blocks then, where the file system can.
    tempfile::Builder::new().prefix("upload-").tempfile_in(home.run()).map_err(|source| upload_error(home, source))
}

fn upload_error(home: &Home, source: std::io::Error) -> Refusal {
    BlobError::Io { verb: "write to", path: home.run(), source }.into()
}

fn check_content(wanted: ContentId, found: ContentId) -> Result<(), Refusal> {
    if wanted == found {
        return Ok(());
    }
    let message = format!("the bytes sent are blob {}, not {}", found.short(), wanted.short());
    Err(ErrorWord::bad_input(message, "the file changed while it was sent; submit again").into())
}

fn content_id(text: &str) -> Result<ContentId, Refusal> {
    text.parse().map_err(|_| {
        ErrorWord::bad_input(format!("{text:?} is not a content id"), "give 64 lowercase hex digits").into()
    })
}

pub(crate) async fn get(State(Shared { api, .. }): State<Shared>, Path(id): Path<String>) -> Result<Response, Refusal> {
    respond(&api.node, content_id(&id)?, "application/octet-stream").await
}

pub(crate) async fn check(State(Shared { api, .. }): State<Shared>, Path(id): Path<String>) -> Answered<BlobCheck> {
    let (id, blobs) = (content_id(&id)?, api.node.blobs().clone());
    let is_whole = blocking(move || blobs.check(id)).await?;
    if !is_whole {
        tracing::warn!(blob = %id.short(), "was damaged or is gone; it is fetched again when it is needed");
    }
    Ok(Json(BlobCheck { is_whole }))
}

/// A blob that is here, as an answer of this media type.
pub(crate) async fn respond(node: &NodeHandle, id: ContentId, media_type: &str) -> Result<Response, Refusal> {
    let blobs = node.blobs().clone();
    let (file, size) = blocking(move || {
        let size = blobs.has(id).ok_or(BlobError::Missing(id))?;
        Ok::<_, BlobError>((blobs.open_blob(id)?, size))
    })
    .await?;
    let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK);
    // Files are shown as what they are said to be, and never run as something else.
    let headers = [
        (CONTENT_TYPE, media_type.to_owned()),
        (CONTENT_LENGTH, size.to_string()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

pub(crate) async fn outputs(
    State(Shared { api, .. }): State<Shared>,
    Path(id): Path<String>,
    Asked(query): Asked<OutputsQuery>,
) -> Answered<Outputs> {
    let Kept { job, bundles } = kept(&api.node, &id, query.whole > 0).await?;
    let mut manifest = Manifest::default();
    let mut removed = Vec::new();
    for bundle in &bundles {
        let over = api.node.fetch_left(job, *bundle, |_| {}).await?;
        manifest = manifest.overlaid(&over);
        removed = over.removed;
    }
    let one = if let [one] = bundles.as_slice() { one.manifest.to_string() } else { String::new() };
    Ok(Json(Outputs {
        job: job.to_string(),
        manifest: one,
        total_bytes: manifest.total_bytes(),
        files: manifest.files.iter().map(output_file).collect(),
        removed,
    }))
}

pub(crate) async fn bundle_files(
    State(Shared { api, .. }): State<Shared>,
    Path(id): Path<String>,
) -> Answered<Outputs> {
    let id = job_id(&api.node, &id).await?;
    let (group, _) = job_records(&api.node, id).await?;
    let Some(bundle) = group.submitted.as_ref().and_then(|submitted| submitted.spec.bundle) else {
        return Err(ErrorWord::not_found(format!("job {id} runs in an empty directory"), "it has no bundle").into());
    };
    let manifest = api.node.fetch_manifest(bundle.manifest).await?;
    Ok(Json(Outputs {
        job: id.to_string(),
        manifest: bundle.manifest.to_string(),
        total_bytes: manifest.total_bytes(),
        files: manifest.files.iter().map(output_file).collect(),
        removed: Vec::new(),
    }))
}

/// Brings the files here while a reader sees how far that is; they come also when nobody reads any more.
pub(crate) async fn fetch_outputs(
    State(Shared { api, .. }): State<Shared>,
    Path(id): Path<String>,
    Asked(query): Asked<OutputsQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let Kept { job, bundles } = kept(&api.node, &id, query.whole > 0).await?;
    let (tell, told) = mpsc::channel(TOLD_MAX);
    tokio::spawn(async move {
        let mut last = FetchEvent { done: true, ..FetchEvent::default() };
        for bundle in bundles {
            let progress = |progress: FetchProgress| {
                let FetchProgress { bytes_done, bytes_total, .. } = progress;
                // A reader that is behind sees the next one.
                let _ = tell.try_send(FetchEvent { bytes_done, bytes_total, ..FetchEvent::default() });
            };
            if let Err(error) = api.node.fetch_left(job, bundle, progress).await {
                last = FetchEvent { error: Some(Refusal::from(error).0), ..FetchEvent::default() };
                break;
            }
        }
        let _ = tell.send(last).await;
    });
    let event = |word: FetchEvent| Ok(Event::default().json_data(&word).unwrap_or_default());
    Ok(Sse::new(ReceiverStream::new(told).map(event)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// What a job kept.
struct Kept {
    job: JobId,
    /// Bundles of files, each laid over those before it; never none.
    bundles: Vec<BundleRef>,
}

/// The files that a job left; `whole`: over those that it was given.
async fn kept(node: &NodeHandle, id: &str, whole: bool) -> Result<Kept, Refusal> {
    let id = job_id(node, id).await?;
    let (group, job) = job_records(node, id).await?;
    let spec = group.submitted.as_ref().map(|submitted| &submitted.spec);
    if spec.is_some_and(|spec| !spec.array.is_empty()) && id.member == Member::Only {
        let hint = format!("name one of its jobs, as in: fnode job get {id}/1");
        return Err(ErrorWord::bad_input(format!("job {id} is an array, whose jobs have files each"), hint).into());
    }
    let left = job.as_ref().and_then(JobRecord::counted).and_then(|(_, attempt)| attempt.finished.as_ref()?.outputs);
    let has_ended = has_ended(id, &group, job.as_ref());
    let given = spec.and_then(|spec| spec.bundle).filter(|_| whole && has_ended);
    // A job that only removed files made none.
    let left = left.filter(|left| whole || left.files > 0);
    let bundles: Vec<BundleRef> = given.into_iter().chain(left).collect();
    if !bundles.is_empty() {
        return Ok(Kept { job: id, bundles });
    }
    let (code, message, hint) = if has_ended {
        (
            ErrorCode::NotFound,
            format!("job {id} kept no files"),
            "it made none, failed to start, or ran with --no-outputs",
        )
    } else {
        (ErrorCode::Conflict, format!("job {id} has not ended"), "wait for it: fnode job wait")
    };
    Err(ErrorWord::new(code, message, hint).into())
}

fn output_file(file: &proto::ManifestFile) -> OutputFile {
    let empty = OutputFile {
        path: file.path.clone(),
        kind: OutputKind::EmptyDirectory,
        content: String::new(),
        target: String::new(),
        size_bytes: 0,
        executable: false,
    };
    match &file.kind {
        FileKind::File { content, size, executable } => OutputFile {
            kind: OutputKind::File,
            content: content.to_string(),
            size_bytes: *size,
            executable: *executable,
            ..empty
        },
        FileKind::Link(target) => OutputFile { kind: OutputKind::Link, target: target.clone(), ..empty },
        FileKind::EmptyDirectory => empty,
    }
}
