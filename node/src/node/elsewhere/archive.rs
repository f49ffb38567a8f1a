//! What a job left, as readable files below `archive/JOB/` of an end point: the layout of Foundations. Its outputs are in
//! `artifacts/`, what it saved under names in `user_artifacts/`, its log is `log.txt`, its record `job.json`, which comes
//! last. `fnode/` has what is needed to check all of that: manifests, whose hashes are in the log of the cluster.

use std::collections::BTreeMap;
use std::fs::File;

use futures::{StreamExt as _, TryStreamExt as _};
use proto::blob::FileKind;
use proto::core_io::Run;
use proto::event::{AttemptFinished, LogRef};
use proto::job::BundleRef;
use proto::record::{AttemptKey, AttemptRecord, GroupRecord, JobRecord, Marks};
use proto::track::Scalar;
use proto::{AttemptId, ContentId, GroupSpec, JobId, Manifest, Member};
use serde::Serialize;

use super::owed::{Subject, Task};
use super::{Failure, Ran};
use crate::node::handle::{NodeHandle, Shared};
use crate::node::tracking::ARTIFACTS_DIR;
use crate::objects::{EndPoint, Place, Trouble, VARIABLES, key};

/// The last file of an archived job.
pub(super) const RECORD_FILE: &str = "job.json";
/// Its log.
pub(super) const LOG_FILE: &str = "log.txt";
/// Files of one job that are under way at a time.
const FILES_AT_ONCE: usize = 4;
/// Progress is kept after so many files.
const NOTED_EVERY: usize = 16;
/// Longer names than this, or longer parts of them, are too long for some store.
const NAME_MAX: usize = 700;
const PART_MAX: usize = 200;

/// One of the two bundles that a job can leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    Outputs,
    Tracked,
}

/// A file of a job: its name below the job's directory, and what it holds.
struct Item {
    name: String,
    content: Content,
}

enum Content {
    Blob(ContentId),
    Bytes(Vec<u8>),
}

/// The record of a job as people read it. Times are milliseconds since 1970.
#[derive(Debug, Serialize)]
struct RecordFile<'a> {
    v: u32,
    job: String,
    project: &'a str,
    user: &'a str,
    name: &'a str,
    command: &'a [String],
    state: String,
    exit_code: Option<u8>,
    attempt: String,
    node: String,
    cluster: &'a str,
    submitted_unix_ms: u64,
    started_unix_ms: u64,
    ended_unix_ms: u64,
    params_given: serde_json::Value,
    params: BTreeMap<&'a str, serde_json::Value>,
    metrics: BTreeMap<&'a str, serde_json::Value>,
    tags: BTreeMap<&'a str, &'a str>,
    note: &'a str,
    commit: &'a str,
    log: Option<String>,
    outputs: Option<String>,
    tracked: Option<String>,
    files: Vec<FileLine>,
}

/// A file that the job left: where it was, where it lies here.
#[derive(Debug, Serialize)]
struct FileLine {
    path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    object: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    blake3: String,
    size: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    executable: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    link: String,
}

impl Area {
    /// Where its manifest lies.
    pub(super) fn manifest_name(self) -> &'static str {
        match self {
            Self::Outputs => "fnode/outputs.manifest",
            Self::Tracked => "fnode/tracked.manifest",
        }
    }

    /// Where the file at `path` of its manifest lies. A pure function of both: who takes it back finds it.
    pub(super) fn name(self, path: &str, content: ContentId) -> String {
        let name = match (self, path.strip_prefix(ARTIFACTS_DIR).and_then(|rest| rest.strip_prefix('/'))) {
            (Self::Outputs, _) => format!("artifacts/{path}"),
            (Self::Tracked, Some(artifact)) => format!("user_artifacts/{artifact}"),
            (Self::Tracked, None) => format!("fnode/{path}"),
        };
        let key = key(&name);
        let is_short = key.as_ref().len() <= NAME_MAX && key.as_ref().split('/').all(|part| part.len() <= PART_MAX);
        if is_short { name } else { format!("fnode/long-names/{content}") }
    }
}

/// The directory of a job below an end point.
pub(super) fn job_dir(job: JobId) -> String {
    match job.member {
        Member::Only => format!("archive/{}", job.group),
        Member::Index(index) => format!("archive/{}/{index}", job.group),
    }
}

/// Where a job is archived: where it says, else where `ours` does.
pub(super) fn place_of(group: &GroupRecord, ours: Option<&Place>) -> Option<Place> {
    let spec = group.submitted.as_ref().map(|submitted| &*submitted.spec);
    spec.and_then(|spec| named(spec, ours))
}

fn named(spec: &GroupSpec, ours: Option<&Place>) -> Option<Place> {
    let Some(text) = spec.env.get(VARIABLES[0]) else { return ours.cloned() };
    // What is no end point was refused where it was submitted.
    match EndPoint::parse(text) {
        Ok(EndPoint::Elsewhere(place)) => Some(place),
        Ok(EndPoint::ThisCluster) | Err(_) => ours.cloned(),
    }
}

/// Owes what an attempt leaves to its archive. Called before its end is told, so that no crash comes in between.
pub(in crate::node) fn owe(shared: &Shared, run: &Run) {
    if let Some(place) = named(&run.spec, shared.elsewhere.archive.as_ref()) {
        shared.elsewhere.owe(Subject::Job(run.attempt), place);
    }
}

/// Puts what an attempt left into its archive.
pub(super) async fn deliver(node: &NodeHandle, attempt: AttemptId, task: &Task) -> Ran {
    match try_deliver(node, attempt, task).await {
        Ok(ran) => ran,
        Err(failure) => Ran::Failed(failure),
    }
}

async fn try_deliver(node: &NodeHandle, attempt: AttemptId, task: &Task) -> Result<Ran, Failure> {
    let here = |error: crate::node::NodeError| Failure::Here(error.to_string());
    let (Some(group), Some(record)) =
        (node.group(attempt.job.group).map_err(here)?, node.job(attempt.job).map_err(here)?)
    else {
        return Ok(Ran::Early);
    };
    if group.marks.deleted || record.marks.deleted {
        return Ok(Ran::Dropped);
    }
    let Some(outcome) = &record.outcome else { return Ok(Ran::Early) };
    if outcome.attempt != Some((attempt, node.me())) {
        return Ok(Ran::Dropped);
    }
    let key = AttemptKey::of(attempt, node.me());
    let Some((left, finished)) = record.attempts.get(&key).and_then(|left| Some((left, left.finished.as_deref()?)))
    else {
        return Ok(Ran::Early);
    };
    let tracked = left.tracked.as_ref().and_then(|tracked| tracked.files);
    let outputs = manifest(node, finished.outputs).await?;
    let tracked = manifest(node, tracked).await?;
    let mut items: Vec<Item> = log_item(node, finished.log.as_ref())?.into_iter().collect();
    items.extend(outputs.iter().flat_map(|(bundle, manifest)| items_of(Area::Outputs, *bundle, manifest)));
    items.extend(tracked.iter().flat_map(|(bundle, manifest)| items_of(Area::Tracked, *bundle, manifest)));
    put_all(node, task, attempt.job, items).await?;
    let files = [(Area::Outputs, &outputs), (Area::Tracked, &tracked)];
    let files = files.into_iter().flat_map(|(area, found)| found.iter().flat_map(move |(_, files)| lines(area, files)));
    let file = record_file(node, (attempt, &group, &record), (left, finished), files.collect());
    let bytes = serde_json::to_vec_pretty(&file).map_err(|error| Failure::Here(error.to_string()))?;
    let name = format!("{}/{RECORD_FILE}", job_dir(attempt.job));
    node.shared.elsewhere.objects.put(&task.place, &name, bytes).await.map_err(Failure::Store)?;
    Ok(Ran::Delivered)
}

/// A manifest with all its files on this disk, from other nodes where this one has lost them.
async fn manifest(node: &NodeHandle, bundle: Option<BundleRef>) -> Result<Option<(BundleRef, Manifest)>, Failure> {
    let Some(bundle) = bundle else { return Ok(None) };
    match node.fetch_bundle(bundle.manifest).await {
        Ok(manifest) => Ok(Some((bundle, manifest))),
        Err(error) => Err(Failure::Here(error.to_string())),
    }
}

fn log_item(node: &NodeHandle, log: Option<&LogRef>) -> Result<Option<Item>, Failure> {
    let Some(log) = log else { return Ok(None) };
    let content = if log.is_inline() {
        let bytes = node.inline(log.content).map_err(|error| Failure::Here(error.to_string()))?;
        Content::Bytes(bytes.unwrap_or_default())
    } else {
        Content::Blob(log.content)
    };
    Ok(Some(Item { name: LOG_FILE.to_owned(), content }))
}

fn items_of(area: Area, bundle: BundleRef, manifest: &Manifest) -> Vec<Item> {
    let files = manifest.files.iter().filter_map(|file| match file.kind {
        FileKind::File { content, .. } => {
            Some(Item { name: area.name(&file.path, content), content: Content::Blob(content) })
        }
        FileKind::Link(_) | FileKind::EmptyDirectory => None,
    });
    let itself = Item { name: area.manifest_name().to_owned(), content: Content::Blob(bundle.manifest) };
    std::iter::once(itself).chain(files).collect()
}

/// Puts the files in their order, from the first that is not there yet.
async fn put_all(node: &NodeHandle, task: &Task, job: JobId, items: Vec<Item>) -> Result<(), Failure> {
    let dir = job_dir(job);
    let puts = items
        .into_iter()
        .skip(task.done)
        .map(|item| put(node, &task.place, format!("{dir}/{}", item.name), item.content));
    let mut puts = futures::stream::iter(puts).buffered(FILES_AT_ONCE);
    let mut done = task.done;
    while let Some(()) = puts.try_next().await? {
        done += 1;
        if done.is_multiple_of(NOTED_EVERY) {
            node.shared.elsewhere.owed.note_done(task, done);
        }
    }
    Ok(())
}

async fn put(node: &NodeHandle, place: &Place, name: String, content: Content) -> Result<(), Failure> {
    let objects = &node.shared.elsewhere.objects;
    let put: Result<(), Trouble> = match content {
        Content::Bytes(bytes) => objects.put(place, &name, bytes).await,
        Content::Blob(content) => {
            let file: File = node.blobs().open_blob(content).map_err(|error| Failure::Here(error.to_string()))?;
            objects.put_file(place, &name, file).await
        }
    };
    put.map_err(Failure::Store)
}

fn lines(area: Area, manifest: &Manifest) -> impl Iterator<Item = FileLine> + '_ {
    manifest.files.iter().map(move |file| {
        let empty = FileLine {
            path: file.path.clone(),
            object: String::new(),
            blake3: String::new(),
            size: 0,
            executable: false,
            link: String::new(),
        };
        match &file.kind {
            FileKind::File { content, size, executable } => FileLine {
                object: key(&area.name(&file.path, *content)).to_string(),
                blake3: content.to_string(),
                size: *size,
                executable: *executable,
                ..empty
            },
            FileKind::Link(target) => FileLine { link: target.clone(), ..empty },
            FileKind::EmptyDirectory => FileLine { path: format!("{}/", empty.path), ..empty },
        }
    })
}

fn scalar(value: &Scalar) -> serde_json::Value {
    match value {
        // JSON has no NaN and no infinity.
        Scalar::Number(number) => serde_json::Number::from_f64(number.get()).into(),
        Scalar::Bool(value) => (*value).into(),
        Scalar::Text(text) => text.as_str().into(),
    }
}

fn record_file<'a>(
    node: &'a NodeHandle,
    (attempt, group, record): (AttemptId, &'a GroupRecord, &'a JobRecord),
    (left, finished): (&'a AttemptRecord, &'a AttemptFinished),
    files: Vec<FileLine>,
) -> RecordFile<'a> {
    let spec = group.submitted.as_ref().map(|submitted| &*submitted.spec);
    let summary = left.tracked.as_ref().map(|tracked| &tracked.summary);
    let json = |text: &str| serde_json::from_str(text).unwrap_or(serde_json::Value::Null);
    let params = summary.iter().flat_map(|summary| &summary.params).map(|(name, text)| (name.as_str(), json(text)));
    let metrics = summary.iter().flat_map(|summary| &summary.metrics);
    // Marks of a group's only job are the group's.
    let marks: [&Marks; 2] = [&group.marks, &record.marks];
    let tags = marks.into_iter().flat_map(|marks| &marks.tags);
    let note = marks.into_iter().filter_map(|marks| marks.note.as_ref()).next_back();
    let exit_code = match finished.ending {
        proto::job::Ending::Exited { code } => Some(code),
        _ => None,
    };
    RecordFile {
        v: 1,
        job: attempt.job.to_string(),
        project: spec.map_or("", |spec| &spec.project),
        user: spec.map_or("", |spec| &spec.user),
        name: spec.map_or("", |spec| &spec.name),
        command: spec.map_or(&[], |spec| &spec.command),
        // As everywhere else where people read it.
        state: format!("{:?}", record.state()).to_lowercase(),
        exit_code,
        attempt: format!("{}.{}", attempt.epoch, attempt.number),
        node: node.name().to_owned(),
        cluster: node.cluster().1,
        submitted_unix_ms: attempt.job.group.unix_ms(),
        started_unix_ms: finished.started_unix_ms,
        ended_unix_ms: finished.ended_unix_ms,
        params_given: spec.map_or(serde_json::Value::Null, |spec| json(&spec.params_json)),
        params: params.collect(),
        metrics: metrics.map(|(name, metric)| (name.as_str(), scalar(&metric.last))).collect(),
        tags: tags.filter_map(|(name, (_, value))| Some((name.as_str(), value.as_deref()?))).collect(),
        note: note.map_or("", |(_, text)| text),
        commit: spec.and_then(|spec| spec.checkout.as_ref()).map_or("", |checkout| &checkout.commit),
        log: finished.log.as_ref().map(|log| log.content.to_string()),
        outputs: finished.outputs.map(|bundle| bundle.manifest.to_string()),
        tracked: left.tracked.as_ref().and_then(|tracked| tracked.files).map(|bundle| bundle.manifest.to_string()),
        files,
    }
}

#[cfg(test)]
mod tests {
    use proto::ManifestFile;

    use super::*;
    use crate::harness::golden::{Sample, check};
    use crate::samples;

    fn file(path: &str, kind: FileKind) -> ManifestFile {
        ManifestFile { path: path.to_owned(), kind }
    }

    fn manifest() -> Manifest {
        let content = samples::content(0xce);
        Manifest {
            files: vec![
                file("empty", FileKind::EmptyDirectory),
                file("link", FileKind::Link("model".to_owned())),
                file("model #1", FileKind::File { content, size: 7, executable: true }),
            ],
            removed: Vec::new(),
        }
    }

    #[test]
    fn golden_record_in_an_archive() {
        let command = ["python".to_owned(), "main.py".to_owned()];
        let record = RecordFile {
            v: 1,
            job: samples::attempt().job.to_string(),
            project: "vision",
            user: "ada",
            name: "",
            command: &command,
            state: "completed".to_owned(),
            exit_code: Some(0),
            attempt: "1.1".to_owned(),
            node: "alpha".to_owned(),
            cluster: "lab",
            submitted_unix_ms: 1_700_000_000_000,
            started_unix_ms: 1_700_000_000_100,
            ended_unix_ms: 1_700_000_000_900,
            params_given: serde_json::json!({"rate": 0.1}),
            params: BTreeMap::from([("rate", 0.1.into())]),
            metrics: BTreeMap::from([("loss", scalar(&Scalar::Number(f64::NAN.into()))), ("best", true.into())]),
            tags: BTreeMap::from([("kind", "first")]),
            note: "",
            commit: "",
            log: None,
            outputs: Some(samples::content(0xaa).to_string()),
            tracked: None,
            files: lines(Area::Outputs, &manifest()).collect(),
        };
        let text = serde_json::to_string_pretty(&record).unwrap();
        check("node.ArchiveRecord", &[Sample::text("a job", &record, &text)]);
    }

    #[test]
    fn every_file_has_a_name_that_stores_take_and_its_own() {
        let content = samples::content(0xce);
        assert_eq!(Area::Outputs.name("a/model", content), "artifacts/a/model");
        assert_eq!(Area::Tracked.name("artifacts/report.txt", content), "user_artifacts/report.txt");
        assert_eq!(Area::Tracked.name("series", content), "fnode/series");
        for long in ["x".repeat(250), "dir/".repeat(200) + "x"] {
            assert_eq!(Area::Outputs.name(&long, content), format!("fnode/long-names/{content}"));
        }
        assert_eq!(
            items_of(Area::Outputs, BundleRef { manifest: content, total_bytes: 7, files: 3 }, &manifest()).len(),
            2
        );
    }
}
