//! An attempt goes on from where an earlier one was: its checkpoint directory is filled before it starts. `watch.rs`
//! stores what it makes of it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use proto::Manifest;
use proto::core_io::{Run, RunCheckpoint};
use proto::job::StartFailure;

use super::collect::note_in_log;
use super::handle::{NodeError, Shared};
use super::prepare::{checkpoint_dir, system, unpack_failure};
use crate::blobs::BlobStore;

/// Fills the checkpoint directory with the newest checkpoint that can be had; what was made on this node is there.
///
/// # Errors
/// The disk is full, or refused. That no node has a checkpoint any more is none: the attempt starts with what is
/// here, and its log says so.
pub(super) async fn restore(shared: &Arc<Shared>, run: &Run, checkpoint: &RunCheckpoint) -> Result<(), StartFailure> {
    let dir = checkpoint_dir(&shared.home, run);
    for (worker, bundle) in &checkpoint.bundles {
        if *worker == shared.me && !is_empty(&dir) {
            return Ok(());
        }
        let manifest = match shared.blob_link.fetch_bundle(bundle.manifest, &checkpoint.providers).await {
            Ok(manifest) => manifest,
            Err(NodeError::Blob(error)) if error.is_disk_full() => return Err(StartFailure::DiskFull),
            Err(error) => {
                tracing::info!(attempt = %run.attempt, %error, "a checkpoint cannot be had");
                continue;
            }
        };
        let blobs = shared.blobs.clone();
        let filled = tokio::task::spawn_blocking(move || fill(&blobs, &manifest, &dir)).await;
        return filled.map_err(|_| StartFailure::System("unpacking ended early".to_owned()))?;
    }
    note_in_log(shared, run, "the last checkpoint is on no node that can be reached; this attempt starts without it");
    Ok(())
}

/// Replaces whatever is in `dir`: a directory is there whole or not at all.
fn fill(blobs: &BlobStore, manifest: &Manifest, dir: &Path) -> Result<(), StartFailure> {
    let fresh = dir.with_extension("fresh");
    remove(&fresh)?;
    blobs.unpack(manifest, &fresh).map_err(unpack_failure)?;
    remove(dir)?;
    std::fs::rename(&fresh, dir).map_err(|error| system(&error))
}

fn remove(dir: &Path) -> Result<(), StartFailure> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(system(&error)),
        _ => Ok(()),
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}
