//! What the core orders about snapshots, done by store, blobs and network: a snapshot is a base of the store, and a
//! blob as long as it is one, so that peers fetch it verified, in ranges and from several nodes.
//!
//! Called by the loop, answers through its channel. Never decides what is made, taken or removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proto::snapshot::{Installed, SignedSnapshot, SnapshotInput, SnapshotOrder};
use proto::{ContentId, NodeId};
use tokio::sync::mpsc;

use super::actor::Inner;
use super::handle::Shared;
use crate::store::StoreError;

/// A snapshot that does not come from any provider in this time is given up; the core is asked again by peers.
const FETCH_MAX: Duration = Duration::from_secs(300);

type Answers = mpsc::UnboundedSender<Inner>;

/// Runs `order`; waits only for room in the store's queue.
pub(super) async fn run(shared: Arc<Shared>, answers: Answers, order: SnapshotOrder) {
    match order {
        SnapshotOrder::Make => drop(tokio::spawn(make(shared, answers))),
        SnapshotOrder::Keep(signed) => {
            let id = signed.name.id;
            let done = move |kept| on_base(&answers, id, kept);
            if shared.store.keep_snapshot_with(*signed, done).await.is_err() {
                tracing::error!("the store is closed");
            }
        }
        SnapshotOrder::Fetch { signed, providers } => drop(tokio::spawn(fetch(shared, answers, *signed, providers))),
        SnapshotOrder::Compact { before_unix_ms } => drop(tokio::spawn(compact(shared, answers, before_unix_ms))),
    }
}

async fn make(shared: Arc<Shared>, answers: Answers) {
    let made = shared.store.make_snapshot().await;
    if let Err(error) = &made {
        tracing::warn!(%error, "no snapshot of the log could be made; it is tried again");
    }
    let _ = answers.send(Inner::Snapshot(SnapshotInput::Made(made.ok())));
}

async fn compact(shared: Arc<Shared>, answers: Answers, before_unix_ms: u64) {
    match shared.store.compact(before_unix_ms).await {
        Ok(floors) => drop(answers.send(Inner::Snapshot(SnapshotInput::Compacted(floors)))),
        Err(error) => tracing::warn!(%error, "old segments of the log are not removed; it is tried again"),
    }
}

async fn fetch(shared: Arc<Shared>, answers: Answers, signed: SignedSnapshot, providers: Vec<NodeId>) {
    let (id, size) = (signed.name.id, signed.name.size);
    let wanted = [(id, size)];
    let fetched = tokio::time::timeout(FETCH_MAX, shared.blob_link.fetch(&wanted, &providers)).await;
    let file = match fetched {
        Ok(Ok(())) => shared.blobs.open_blob(id).map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it did not come within {}s", FETCH_MAX.as_secs())),
    };
    match file {
        Ok(file) => {
            let done = move |installed| on_base(&answers, id, installed);
            if shared.store.install_snapshot_with(signed, file, done).await.is_err() {
                tracing::error!("the store is closed");
            }
        }
        Err(why) => {
            tracing::warn!(%id, why, "the snapshot that was offered cannot be had");
            let _ = answers.send(Inner::Snapshot(SnapshotInput::Failed(id)));
        }
    }
}

/// On the writer's thread, in order with commits.
fn on_base(answers: &Answers, id: ContentId, base: Result<Installed, StoreError>) {
    let input = match base {
        Ok(installed) => SnapshotInput::Installed(Box::new(installed)),
        Err(error) => {
            tracing::warn!(%id, %error, "a snapshot of the log is not used");
            SnapshotInput::Failed(id)
        }
    };
    let _ = answers.send(Inner::Snapshot(input));
}

/// Makes sure that peers can fetch what this node starts from now; what it no longer starts from goes.
pub(super) fn offer(shared: &Arc<Shared>, offered: &mut BTreeSet<ContentId>) {
    let bases = shared.store.snapshots();
    let now: BTreeSet<ContentId> = bases.iter().map(|(signed, _)| signed.name.id).collect();
    let gone: Vec<ContentId> = offered.difference(&now).copied().collect();
    *offered = now;
    let blobs = shared.blobs.clone();
    tokio::task::spawn_blocking(move || {
        for (signed, path) in bases {
            if blobs.has(signed.name.id).is_none()
                && let Err(error) = blobs.put_file(&path)
            {
                tracing::warn!(%error, "peers cannot be sent a snapshot of the log");
            }
        }
        for id in gone {
            if let Err(error) = blobs.discard(id) {
                tracing::warn!(%error, "a snapshot of the log that nobody needs stays");
            }
        }
    });
}
