//! Taking back from an archive what no node has any more. Nothing that comes from there is used before its hash is the
//! one that the log of the cluster names: of a manifest that in the job's record, of a file that in its manifest.

use std::time::Duration;

use proto::job::BundleRef;
use proto::record::JobRecord;
use proto::{ContentId, JobId, Manifest, codec};

use super::Archived;
use super::archive::{Area, LOG_FILE, job_dir, place_of};
use crate::blobs::FetchProgress;
use crate::node::ask::{Answer, Question, ask};
use crate::node::handle::{NodeError, NodeHandle, Shared};
use crate::node::values::blocking;
use crate::objects::{Place, Trouble, Why};

/// Largest manifest that is read: what one word may hold.
const MANIFEST_MAX: u64 = codec::BODY_MAX as u64 + 64;
/// A node or a store that does not say by then whether a job is archived is not waited for.
const TOLD_MAX: Duration = Duration::from_secs(2);

impl NodeHandle {
    /// [`NodeHandle::fetch_bundle_telling`] of what `job` left; from its archive where no node has it.
    ///
    /// # Errors
    /// [`NodeError::Unreachable`], [`NodeError::Archive`].
    pub(crate) async fn fetch_left(
        &self,
        job: JobId,
        bundle: BundleRef,
        progress: impl Fn(FetchProgress) + Send + Sync,
    ) -> Result<Manifest, NodeError> {
        match self.fetch_bundle_telling(bundle.manifest, &progress).await {
            Err(NodeError::Unreachable(what)) => {
                let area = self.area_of(job, bundle)?;
                let (Some(area), Some(place)) = (area, self.archive_of(job)?) else {
                    return Err(NodeError::Unreachable(what));
                };
                recall(&self.shared, &place, job, (area, bundle), progress).await
            }
            fetched => fetched,
        }
    }

    /// Where what `job` leaves is archived, as far as this node knows.
    fn archive_of(&self, job: JobId) -> Result<Option<Place>, NodeError> {
        let group = self.group(job.group)?;
        Ok(group.and_then(|group| place_of(&group, self.shared.elsewhere.archive.as_ref())))
    }

    /// As which of the bundles of `job` this one is archived.
    fn area_of(&self, job: JobId, bundle: BundleRef) -> Result<Option<Area>, NodeError> {
        let Some(record) = self.job(job)? else { return Ok(None) };
        let Some((_, attempt)) = record.counted() else { return Ok(None) };
        let outputs = attempt.finished.as_ref().and_then(|finished| finished.outputs);
        let tracked = attempt.tracked.as_ref().and_then(|tracked| tracked.files);
        let areas = [(outputs, Area::Outputs), (tracked, Area::Tracked)];
        Ok(areas.into_iter().find(|(known, _)| *known == Some(bundle)).map(|(_, area)| area))
    }

    /// Gets the large log of a job onto this node, from its archive where no node has it.
    ///
    /// # Errors
    /// [`NodeError::Unreachable`], [`NodeError::Archive`].
    pub(crate) async fn recall_log(&self, job: JobId, content: ContentId, size: u64) -> Result<(), NodeError> {
        let Some(place) = self.archive_of(job)? else {
            return Err(NodeError::Unreachable(format!("the log of job {job}")));
        };
        let name = format!("{}/{LOG_FILE}", job_dir(job));
        recall_file(&self.shared, &place, &name, (content, size)).await
    }

    /// Whether what a job left is in an archive; asked of the node that ran it, else of the archive itself.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub(crate) async fn archived(&self, job: JobId, record: &JobRecord) -> Result<Archived, NodeError> {
        let Some((_, worker)) = record.outcome.as_ref().and_then(|outcome| outcome.attempt) else {
            return Ok(Archived::No);
        };
        if worker != self.me() && self.providers().await?.contains(&worker) {
            let question = Question::Archived(job);
            let asked = ask(&self.shared, worker, &question);
            if let Ok(Some(Answer::Archived(told))) = tokio::time::timeout(TOLD_MAX * 2, asked).await {
                return Ok(told);
            }
        }
        Ok(archived_here(&self.shared, self.archive_of(job)?, job).await)
    }
}

/// What this node knows of a job's archive, or can see there.
pub(in crate::node) async fn archived_here(shared: &Shared, place: Option<Place>, job: JobId) -> Archived {
    if let Some(owed) = shared.elsewhere.owed_of(job) {
        return owed;
    }
    let Some(place) = place else { return Archived::No };
    let name = format!("{}/{}", job_dir(job), super::archive::RECORD_FILE);
    let head = tokio::time::timeout(TOLD_MAX, shared.elsewhere.objects.head(&place, &name)).await;
    let place = place.to_string();
    match head {
        Ok(Ok(Some((unix_ms, _)))) => Archived::Done { place, unix_ms },
        Ok(Ok(None)) => Archived::No,
        Ok(Err(trouble)) => Archived::Unknown { why: trouble.to_string(), place },
        Err(_) => Archived::Unknown { why: format!("{place} does not answer within {} s", TOLD_MAX.as_secs()), place },
    }
}

/// A peer asks what is known here.
pub(in crate::node) async fn answer(shared: &Shared, job: JobId) -> Archived {
    let place = match shared.store.record(&proto::record::RecordKey::Group(job.group)) {
        Ok(Some(proto::record::Record::Group(group))) => place_of(&group, shared.elsewhere.archive.as_ref()),
        _ => None,
    };
    archived_here(shared, place, job).await
}

async fn recall(
    shared: &Shared,
    place: &Place,
    job: JobId,
    (area, bundle): (Area, BundleRef),
    progress: impl Fn(FetchProgress) + Send + Sync,
) -> Result<Manifest, NodeError> {
    let dir = job_dir(job);
    let name = format!("{dir}/{}", area.manifest_name());
    let objects = &shared.elsewhere.objects;
    let bytes = objects.get(place, &name, MANIFEST_MAX).await.map_err(|trouble| refused(job, trouble))?;
    let altered = |name: &str| refused(job, Trouble { place: place.clone(), why: Why::Altered(name.to_owned()) });
    if ContentId::of(&bytes) != bundle.manifest {
        return Err(altered(&name));
    }
    let manifest: Manifest = codec::decode(&bytes).map_err(|_| altered(&name))?;
    manifest.check().map_err(|_| altered(&name))?;
    let blobs = shared.blobs.clone();
    blocking(move || Ok(blobs.put_bytes(&bytes)?)).await?;
    let mut told = FetchProgress { bytes_total: manifest.total_bytes(), ..FetchProgress::default() };
    for file in &manifest.files {
        let proto::blob::FileKind::File { content, size, .. } = file.kind else { continue };
        if shared.blobs.has(content) != Some(size) {
            let name = format!("{dir}/{}", area.name(&file.path, content));
            recall_file(shared, place, &name, (content, size)).await.map_err(|error| of_job(job, error))?;
        }
        told.bytes_done += size;
        progress(told);
    }
    Ok(manifest)
}

fn refused(job: JobId, trouble: Trouble) -> NodeError {
    NodeError::Archive { what: format!("what job {job} left"), trouble: Box::new(trouble) }
}

fn of_job(job: JobId, error: NodeError) -> NodeError {
    match error {
        NodeError::Archive { trouble, .. } => refused(job, *trouble),
        error => error,
    }
}

/// Gets one object, whose bytes have the hash that is wanted, into the blob store.
pub(super) async fn recall_file(
    shared: &Shared,
    place: &Place,
    name: &str,
    (content, size): (ContentId, u64),
) -> Result<(), NodeError> {
    let (file, blobs) = (download(shared, place, name, (content, size)).await?, shared.blobs.clone());
    if blocking(move || Ok(blobs.take_file(&file)?.0)).await? == content {
        return Ok(());
    }
    // A disk that changes what was just written.
    Err(refused_file(name, Trouble { place: place.clone(), why: Why::Altered(name.to_owned()) }))
}

/// Gets one object, whose bytes have the hash that is wanted, into a file that is removed with what this returns.
pub(super) async fn download(
    shared: &Shared,
    place: &Place,
    name: &str,
    wanted: (ContentId, u64),
) -> Result<tempfile::TempPath, NodeError> {
    let elsewhere = &shared.elsewhere;
    let file = tempfile::Builder::new().tempfile_in(&elsewhere.scratch);
    let file = file.map_err(|source| refused_file(name, Trouble { place: place.clone(), why: Why::Disk(source) }))?;
    let path = file.into_temp_path();
    let got = elsewhere.objects.get_file(place, name, wanted, &path).await;
    got.map(|()| path).map_err(|trouble| refused_file(name, trouble))
}

fn refused_file(name: &str, trouble: Trouble) -> NodeError {
    NodeError::Archive { what: name.to_owned(), trouble: Box::new(trouble) }
}
