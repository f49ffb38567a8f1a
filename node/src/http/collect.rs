//! `fnode gc`: which blobs somebody may still ask for. What the log names stays; jobs that a user deleted, or
//! that ended longer ago than the user says and are not kept for good, name nothing any more.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::record::{GroupRecord, JobRecord, Marks};
use proto::{ContentId, GroupId, Manifest};

use super::refusal::Refusal;
use super::words::Collected;
use crate::blobs::{BlobStore, SweepUntil};
use crate::node::{NodeError, NodeHandle, unix_ms};
use crate::store::GroupFilter;

/// Records read from the store at a time.
const BATCH: usize = 500;
/// Blobs used within this time stay: they may belong to a bundle whose job is just being submitted.
const UNUSED_FOR: Duration = Duration::from_secs(600);

/// Removes blobs that nothing names. Blocks; never called on a thread that others wait for.
pub(super) fn collect(node: &NodeHandle, older_than: Option<Duration>) -> Result<Collected, Refusal> {
    let needed = needed(node, older_than)?;
    let freed = node.blobs().sweep(|id| needed.contains(&id), UNUSED_FOR, SweepUntil::Done)?;
    let left = node.blobs().usage()?;
    Ok(Collected { blobs: freed.blobs, freed_bytes: freed.bytes, left_bytes: left.bytes + left.partial_bytes })
}

fn needed(node: &NodeHandle, older_than: Option<Duration>) -> Result<BTreeSet<ContentId>, NodeError> {
    let older_ms = older_than.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let oldest_unix_ms = older_ms.map_or(0, |age| unix_ms().saturating_sub(age));
    let mut needed = BTreeSet::new();
    let mut filter = GroupFilter { hidden: true, ..GroupFilter::default() };
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
