//! Which blobs somebody may still ask for, and what goes when there is too much: `fnode gc`, and by itself
//! every hour by what the owner configured. What the log names stays; jobs that a user deleted, or that
//! ended longer ago than the retention says and are not kept for good, name nothing any more.
//!
//! A quota goes further: the least used files of ended jobs go until the rest fits, never those of
//! unfinished or kept jobs. Without a quota nothing that is named is ever removed. Cached values that count are named,
//! too, and have a quota of their own: beyond it the least used go from this node, wherever else they are.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::record::{GroupRecord, JobRecord, Marks};
use proto::{ByteSize, ContentId, GroupId, Manifest};

use super::evict::evict;
use super::handle::{NodeError, NodeHandle, unix_ms};
use super::values;
use crate::blobs::{BlobStore, Freed, Sweep, SweepUntil};
use crate::store::{GroupFilter, Parts};

/// Records read from the store at a time.
const BATCH: usize = 500;
/// Blobs used within this time stay: they may belong to a bundle whose job is just being submitted.
const UNUSED_FOR: Duration = Duration::from_secs(600);
/// The configured limits are looked at this often; the first time when the start is over.
const EVERY: Duration = Duration::from_secs(3_600);
const FIRST: Duration = Duration::from_secs(60);
/// The start is over, and what it ran through is not needed again soon.
const SETTLED: Duration = Duration::from_secs(4);
/// Below this much free disk, what nothing names goes without being asked.
const DISK_FREE_MIN: u64 = 2 << 30;

/// How long files of ended jobs stay, and how much all of them may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Files of jobs that were submitted longer ago and have ended go; `None`: they stay.
    pub older_than: Option<Duration>,
    /// All blobs together take at most so much, as far as unfinished and kept jobs allow; `None`: no limit.
    pub bytes_max: Option<ByteSize>,
    /// Cached values take at most so much on this node; `None`: no limit. Seen to by the hourly look alone.
    pub cache_max: Option<ByteSize>,
}

/// What a collection did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collection {
    /// What went.
    pub freed: Freed,
    /// Bytes that this node's blobs still have.
    pub left_bytes: u64,
    /// What of it was still named by an ended job and went for the quota.
    pub named: Freed,
}

/// Removes blobs that nothing names, then what the quota does not allow; with `dry_run` only counts them.
/// Blocks; never called on a thread that others wait for.
///
/// # Errors
/// [`NodeError`]; what was removed before stays removed.
pub(crate) fn collect(node: &NodeHandle, retention: Retention, dry_run: bool) -> Result<Collection, NodeError> {
    let oldest_unix_ms = retention.older_than.map_or(0, |age| unix_ms().saturating_sub(millis(age)));
    let sweep = Sweep { unused_for: UNUSED_FOR, until: SweepUntil::Done, dry_run };
    let mut needed = needed(node, oldest_unix_ms)?;
    values::for_each(&node.shared, |known| needed.extend([known.note.content]))?;
    let mut collection =
        Collection { freed: node.blobs().sweep(|id| needed.contains(&id), sweep)?, ..Collection::default() };
    let used = node.blobs().usage()?;
    let mut left = used.bytes + used.partial_bytes;
    if dry_run {
        left = left.saturating_sub(collection.freed.bytes);
    }
    let excess = retention.bytes_max.map_or(0, |max| left.saturating_sub(max.0));
    if excess > 0 {
        let pinned = self::needed(node, u64::MAX)?;
        let goes_first = |id: ContentId| pinned.contains(&id) || (dry_run && !needed.contains(&id));
        collection.named = node.blobs().sweep(goes_first, Sweep { until: SweepUntil::Freed(excess), ..sweep })?;
        collection.freed.blobs += collection.named.blobs;
        collection.freed.bytes += collection.named.bytes;
        left = left.saturating_sub(collection.named.bytes);
    }
    collection.left_bytes = left;
    if !dry_run {
        forget_checkpoints(node)?;
    }
    Ok(collection)
}

/// Removes the checkpoint directories of jobs that have ended: nobody goes on from there. What cannot be removed now
/// can be the next time.
fn forget_checkpoints(node: &NodeHandle) -> Result<(), NodeError> {
    let Ok(dirs) = std::fs::read_dir(node.home().checkpoints()) else { return Ok(()) };
    for dir in dirs.flatten() {
        let Some(group) = dir.file_name().to_str().and_then(|name| name.parse::<GroupId>().ok()) else { continue };
        if node.group(group)?.is_some_and(|record| record.is_finished()) {
            let _ = std::fs::remove_dir_all(dir.path());
        }
    }
    Ok(())
}

/// Gives back the memory that only the start, or an hour's work, needed. Ends with the node's runtime.
pub(super) async fn keep_small() {
    let mut wait = SETTLED;
    loop {
        tokio::time::sleep(wait).await;
        wait = EVERY;
        match tokio::task::spawn_blocking(crate::footprint::give_back_program_pages).await {
            Ok(Ok(bytes)) => tracing::debug!(bytes, "pages of the program are given back"),
            Ok(Err(error)) => tracing::debug!(%error, "pages of the program stay"),
            Err(_) => return,
        }
    }
}

/// Looks every hour at what the owner configured, and at the disk. Ends with the node's runtime.
pub(super) async fn keep_house(node: NodeHandle, retention: Retention) {
    let mut wait = FIRST;
    loop {
        tokio::time::sleep(wait).await;
        wait = EVERY;
        if let Some(max) = retention.cache_max
            && let Err(error) = evict(&node, max, false).await
        {
            tracing::warn!(%error, "cached values are not evicted");
        }
        let node = node.clone();
        let look = move || {
            node.shared.values.hits.save();
            let is_low = node.blobs().free_bytes().is_ok_and(|free| free < DISK_FREE_MIN);
            if is_low || retention != Retention::default() {
                collect(&node, retention, false)
            } else {
                forget_checkpoints(&node).map(|()| Collection::default())
            }
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(collection)) if collection.freed.blobs > 0 => {
                let Collection { freed, left_bytes, named } = collection;
                tracing::info!(blobs = freed.blobs, bytes = freed.bytes, named = named.blobs, left_bytes, "collected");
            }
            Ok(Err(error)) => tracing::warn!(%error, "files are not collected"),
            _ => {}
        }
    }
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// What jobs submitted at `oldest_unix_ms` or later, unfinished and kept ones name.
pub(super) fn needed(node: &NodeHandle, oldest_unix_ms: u64) -> Result<BTreeSet<ContentId>, NodeError> {
    // Peers come for snapshots of the log as for any blob.
    let mut needed: BTreeSet<ContentId> = node.snapshots().into_iter().map(|signed| signed.name.id).collect();
    // What is still to be put into an archive stays until it is there.
    for job in node.shared.elsewhere.jobs_owed() {
        if let Some(record) = node.job(job)? {
            add_job(node.blobs(), &record, &mut needed);
        }
    }
    let mut filter = GroupFilter { hidden: true, parts: Parts::Shown, ..GroupFilter::default() };
    loop {
        let groups = node.groups(&filter, BATCH)?;
        for (id, group) in &groups {
            if is_wanted(&group.marks, group.is_finished(), id.unix_ms(), oldest_unix_ms) {
                add_group(node, *id, group, oldest_unix_ms, &mut needed)?;
            }
        }
        match groups.last() {
            Some((last, _)) if groups.len() == BATCH => filter.before = Some(*last),
            _ => return Ok(needed),
        }
    }
}

/// Whether what a job or group names must stay.
fn is_wanted(marks: &Marks, is_finished: bool, submitted_unix_ms: u64, oldest_unix_ms: u64) -> bool {
    let is_kept = marks.kept.is_some_and(|(_, kept)| kept);
    !is_finished || (!marks.deleted && (is_kept || submitted_unix_ms >= oldest_unix_ms))
}

fn add_group(
    node: &NodeHandle,
    id: GroupId,
    group: &GroupRecord,
    oldest_unix_ms: u64,
    needed: &mut BTreeSet<ContentId>,
) -> Result<(), NodeError> {
    let Some(submitted) = &group.submitted else { return Ok(()) };
    if let Some(bundle) = submitted.spec.bundle {
        add_bundle(node.blobs(), bundle.manifest, needed);
    }
    needed.extend(submitted.spec.environment.iter().map(|environment| environment.content));
    let mut after = None;
    loop {
        let jobs = node.jobs_of(id, after, BATCH)?;
        for (_, job) in &jobs {
            if is_wanted(&job.marks, job.outcome.is_some(), id.unix_ms(), oldest_unix_ms) || kept(group) {
                add_job(node.blobs(), job, needed);
            }
        }
        match jobs.last() {
            Some((last, _)) if jobs.len() == BATCH => after = Some(*last),
            _ => return Ok(()),
        }
    }
}

fn kept(group: &GroupRecord) -> bool {
    group.marks.kept.is_some_and(|(_, kept)| kept)
}

fn add_job(blobs: &BlobStore, job: &JobRecord, needed: &mut BTreeSet<ContentId>) {
    for tracked in job.attempts.values().filter_map(|attempt| attempt.tracked.as_ref()?.files) {
        add_bundle(blobs, tracked.manifest, needed);
    }
    // Once it has ended nobody goes on from there.
    for checkpoint in job.checkpoints.values().filter(|_| job.outcome.is_none()) {
        add_bundle(blobs, checkpoint.bundle.manifest, needed);
    }
    for finished in job.attempts.values().filter_map(|attempt| attempt.finished.as_ref()) {
        needed.extend(finished.log.iter().map(|log| log.content));
        if let Some(outputs) = finished.outputs {
            add_bundle(blobs, outputs.manifest, needed);
        }
    }
}

/// A manifest and its files. One that is not here names nothing that this node must keep.
fn add_bundle(blobs: &BlobStore, manifest: ContentId, needed: &mut BTreeSet<ContentId>) {
    if !needed.insert(manifest) {
        return;
    }
    let read = blobs.read_small(manifest, proto::codec::BODY_MAX as u64 + 64).ok();
    let files = read.and_then(|bytes| proto::codec::decode::<Manifest>(&bytes).ok());
    needed.extend(files.iter().flat_map(Manifest::contents).map(|(content, _)| content));
}

#[cfg(test)]
mod tests {
    use proto::entry::{LogId, Position};
    use proto::record::Stamp;
    use proto::{Hlc, NodeId};

    use super::*;

    #[test]
    fn unfinished_and_kept_jobs_keep_their_files() {
        let log = LogId { author: NodeId([1; 32]), incarnation: 1 };
        let stamp = Stamp { hlc: Hlc::default(), position: Position { log, seq: 1 }, event: 0 };
        let plain = Marks::default();
        let deleted = Marks { deleted: true, ..Marks::default() };
        let kept = Marks { kept: Some((stamp, true)), ..Marks::default() };
        assert!(is_wanted(&plain, true, 100, 0), "nothing is too old without a limit");
        assert!(!is_wanted(&plain, true, 100, 200));
        assert!(is_wanted(&plain, false, 100, 200), "it has not ended");
        assert!(is_wanted(&kept, true, 100, 200));
        assert!(!is_wanted(&deleted, true, 300, 200));
    }
}
