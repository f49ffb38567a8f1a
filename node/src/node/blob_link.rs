//! Blobs that are not here: out of the journal where small ones ride, else over the network, through the bulk streams
//! of the net shell as the blob shell wants them.

use std::io;

use proto::event::INLINE_MAX;
use proto::{ContentId, Manifest, NodeId};

use super::bundle::read_manifest;
use super::handle::NodeError;
use crate::blobs::{BlobStore, FetchProgress, OpenStream, Wanted, fetch};
use crate::net::{BulkProtocol, BulkStream, NetHandle};
use crate::store::Store;

/// Gets blobs.
#[derive(Clone)]
pub(super) struct BlobLink {
    pub(super) blobs: BlobStore,
    pub(super) store: Store,
    pub(super) net: NetHandle,
}

/// Opens a stream to a node's blobs.
struct Opener(NetHandle);

impl OpenStream for Opener {
    type Stream = BulkStream;

    async fn open(&self, to: NodeId) -> io::Result<BulkStream> {
        self.0.open_bulk(to, BulkProtocol::Blobs).await.map_err(io::Error::other)
    }
}

impl BlobLink {
    /// Gets what of `wanted` (content and size in bytes) is not here.
    pub(super) async fn fetch(&self, wanted: &[(ContentId, u64)], providers: &[NodeId]) -> Result<(), NodeError> {
        let wanted: Vec<Wanted> = wanted.iter().map(|&(id, size)| Wanted { id, size: Some(size) }).collect();
        self.fetch_wanted(wanted, providers).await
    }

    async fn fetch_wanted(&self, wanted: Vec<Wanted>, providers: &[NodeId]) -> Result<(), NodeError> {
        self.fetch_telling(wanted, providers, |_| {}).await
    }

    async fn fetch_telling(
        &self,
        wanted: Vec<Wanted>,
        providers: &[NodeId],
        progress: impl Fn(FetchProgress) + Send + Sync,
    ) -> Result<(), NodeError> {
        let (blobs, store) = (self.blobs.clone(), self.store.clone());
        let here = move |wanted: &Wanted| blobs.has(wanted.id).is_some() || from_journal(&blobs, &store, wanted);
        let look = move || wanted.into_iter().filter(|wanted| !here(wanted)).collect::<Vec<Wanted>>();
        let missing = tokio::task::spawn_blocking(look).await.map_err(|_| NodeError::Closing)?;
        let Some(first) = missing.first().map(|wanted| wanted.id) else { return Ok(()) };
        let opener = Opener(self.net.clone());
        fetch(&self.blobs, &missing, providers, &opener, progress)
            .await
            .map(drop)
            .map_err(|_| NodeError::Unreachable(format!("blob {}", first.short())))
    }

    /// Gets a manifest alone.
    pub(super) async fn fetch_manifest(&self, id: ContentId, providers: &[NodeId]) -> Result<Manifest, NodeError> {
        self.fetch_wanted(vec![Wanted { id, size: None }], providers).await?;
        let blobs = self.blobs.clone();
        let read = tokio::task::spawn_blocking(move || read_manifest(&blobs, id)).await;
        read.map_err(|_| NodeError::Closing)?
    }

    /// Gets a manifest and all its files.
    pub(super) async fn fetch_bundle(&self, manifest: ContentId, providers: &[NodeId]) -> Result<Manifest, NodeError> {
        self.fetch_bundle_telling(manifest, providers, |_| {}).await
    }

    /// The same, saying how far it is.
    pub(super) async fn fetch_bundle_telling(
        &self,
        manifest: ContentId,
        providers: &[NodeId],
        progress: impl Fn(FetchProgress) + Send + Sync,
    ) -> Result<Manifest, NodeError> {
        let files = self.fetch_manifest(manifest, providers).await?;
        if !self.blobs.is_whole(manifest) {
            let wanted = files.contents().map(|(id, size)| Wanted { id, size: Some(size) }).collect();
            self.fetch_telling(wanted, providers, progress).await?;
        }
        Ok(files)
    }
}

/// Puts a small blob that rides in an entry into the blob store; whether there was one.
fn from_journal(blobs: &BlobStore, store: &Store, wanted: &Wanted) -> bool {
    if wanted.size.is_some_and(|size| size > INLINE_MAX as u64) {
        return false;
    }
    let found = store.inline(wanted.id).ok().flatten();
    found.is_some_and(|bytes| blobs.put_bytes(&bytes).is_ok())
}
