//! Second copies of what jobs left: making them, finding what ended lately, and asking who has what. Who should have
//! it is `proto::keeping`'s decision.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proto::keeping::Left;
use proto::record::JobRecord;
use proto::{ContentId, JobId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::ask::{Answer, Question, ask};
use super::bundle::{contents, read_manifest};
use super::handle::{NodeError, NodeHandle, Shared};
use crate::blobs::BlobStore;
use crate::store::{GroupFilter, Parts, Store, StoreError};

/// A node that does not say by then what it has counts as not having it.
const ASK_MAX: Duration = Duration::from_secs(1);
/// What one review finds at most; the newest.
const REVIEWED_MAX: usize = 2_000;
/// Jobs that it looks at for that.
const LOOKED_AT_MAX: usize = 20_000;
/// Records read from the store at a time.
const BATCH: usize = 500;

/// Asks a node whether it has all of this.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HeldRequest {
    log: Option<ContentId>,
    bundles: Vec<ContentId>,
}

impl HeldRequest {
    /// Of a log and a bundle, for tests of the words.
    #[cfg(test)]
    pub(super) fn sample() -> Self {
        Self { log: Some(crate::samples::content(0xcc)), bundles: vec![crate::samples::content(0xaa)] }
    }

    fn about(left: &Left) -> Self {
        let bundles = left.outputs.iter().chain(&left.tracked).map(|bundle| bundle.manifest).collect();
        Self { log: left.log.as_ref().map(|log| log.content), bundles }
    }

    /// Everything that was asked for, when all of it is here.
    fn found(&self, blobs: &BlobStore) -> Option<Vec<ContentId>> {
        let mut found: Vec<ContentId> = self.log.into_iter().collect();
        for &bundle in &self.bundles {
            found.extend(contents(bundle, &read_manifest(blobs, bundle).ok()?));
        }
        found.iter().all(|&content| blobs.has(content).is_some()).then_some(found)
    }
}

impl NodeHandle {
    /// Nodes that have all that a job left, as far as they answer within a second, this one first.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn holders_of(&self, left: &Left) -> Result<Vec<NodeId>, NodeError> {
        let others = self.providers().await?;
        let (here, there) = tokio::join!(is_here(&self.shared, left), holders(&self.shared, left, &others));
        let mut holders: Vec<NodeId> = here.then_some(self.shared.me).into_iter().collect();
        holders.extend(there);
        Ok(holders)
    }
}

/// Makes a copy of what a job left, durable when this returns.
///
/// # Errors
/// It could not be had now, or the disk is full; a later try can succeed.
pub(super) async fn keep(
    shared: &Arc<Shared>,
    left: &Left,
    providers: &[NodeId],
    unless_held: bool,
) -> Result<(), NodeError> {
    if unless_held && !is_here(shared, left).await && holders(shared, left, providers).await.len() >= 2 {
        return Ok(());
    }
    if let Some(log) = &left.log {
        shared.blob_link.fetch(&[(log.content, log.size)], providers).await?;
    }
    for bundle in left.outputs.iter().chain(&left.tracked) {
        shared.blob_link.fetch_bundle(bundle.manifest, providers).await?;
    }
    let (blobs, request) = (shared.blobs.clone(), HeldRequest::about(left));
    let sync = move || match request.found(&blobs) {
        Some(found) => blobs.sync(&found).map_err(NodeError::from),
        None => Err(NodeError::Unreachable("what the job left".to_owned())),
    };
    tokio::task::spawn_blocking(sync).await.map_err(|_| NodeError::Closing)?
}

/// Whether all that a job left is on this disk.
pub(super) async fn is_here(shared: &Arc<Shared>, left: &Left) -> bool {
    let (blobs, request) = (shared.blobs.clone(), HeldRequest::about(left));
    tokio::task::spawn_blocking(move || request.found(&blobs).is_some()).await.unwrap_or(false)
}

/// Which of `nodes` say within [`ASK_MAX`] that they have all that a job left; asked all at once.
pub(super) async fn holders(shared: &Arc<Shared>, left: &Left, nodes: &[NodeId]) -> BTreeSet<NodeId> {
    ask_all(shared, nodes, || HeldRequest::about(left)).await
}

async fn ask_all(shared: &Arc<Shared>, nodes: &[NodeId], request: impl Fn() -> HeldRequest) -> BTreeSet<NodeId> {
    let mut asked = JoinSet::new();
    for &node in nodes {
        let (shared, question) = (shared.clone(), Question::Held(request()));
        asked.spawn(async move {
            let asking = tokio::time::timeout(ASK_MAX, ask(&shared, node, &question));
            matches!(asking.await, Ok(Some(Answer::Held(true)))).then_some(node)
        });
    }
    asked.join_all().await.into_iter().flatten().collect()
}

/// Which of `nodes` say within [`ASK_MAX`] that they have this blob.
pub(super) async fn blob_holders(shared: &Arc<Shared>, content: ContentId, nodes: &[NodeId]) -> BTreeSet<NodeId> {
    let request = || HeldRequest { log: Some(content), bundles: Vec::new() };
    ask_all(shared, nodes, request).await
}

/// Whether all of it is on this disk.
pub(super) async fn answer(shared: &Arc<Shared>, request: HeldRequest) -> bool {
    let blobs = shared.blobs.clone();
    tokio::task::spawn_blocking(move || request.found(&blobs).is_some()).await.unwrap_or(false)
}

/// What the newest jobs left that ended at `oldest_unix_ms` or later; deleted ones left out. Blocks.
pub(super) fn review(store: &Store, oldest_unix_ms: u64) -> Result<Vec<Left>, StoreError> {
    let mut found = Vec::new();
    let mut looked_at = 0;
    let mut filter = GroupFilter { hidden: true, parts: Parts::Shown, ..GroupFilter::default() };
    loop {
        let groups = store.groups(&filter, BATCH)?;
        for (group, _) in groups.iter().filter(|(_, record)| !record.marks.deleted) {
            let mut after = None;
            loop {
                let jobs = store.jobs_of(*group, after, BATCH)?;
                looked_at += jobs.len();
                let lately = jobs.iter().filter(|(_, record)| ended_unix_ms(record) >= Some(oldest_unix_ms));
                found.extend(
                    lately.filter_map(|&(member, ref record)| Left::of(JobId { group: *group, member }, record)),
                );
                if found.len() >= REVIEWED_MAX || looked_at >= LOOKED_AT_MAX {
                    found.truncate(REVIEWED_MAX);
                    return Ok(found);
                }
                match jobs.last() {
                    Some((last, _)) if jobs.len() == BATCH => after = Some(*last),
                    _ => break,
                }
            }
        }
        match groups.last() {
            Some((last, _)) if groups.len() == BATCH => filter.before = Some(*last),
            _ => return Ok(found),
        }
    }
}

/// When it ended, by its coordinator's clock.
fn ended_unix_ms(record: &JobRecord) -> Option<u64> {
    record.outcome.as_ref().map(|outcome| outcome.hlc.unix_ms)
}
