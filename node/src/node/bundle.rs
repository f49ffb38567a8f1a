//! Bundles between the blob store and the journal: small ones ride in the entry that submits them.

use proto::event::INLINE_MAX;
use proto::job::BundleRef;
use proto::{ContentId, Manifest, codec};

use super::handle::NodeError;
use crate::blobs::BlobStore;

/// Largest manifest that is read: what one word may hold.
const MANIFEST_MAX: u64 = codec::BODY_MAX as u64 + 64;

/// The manifest `id`, which must be here.
pub(crate) fn read_manifest(blobs: &BlobStore, id: ContentId) -> Result<Manifest, NodeError> {
    let bytes = blobs.read_small(id, MANIFEST_MAX)?;
    codec::decode(&bytes).map_err(|_| NodeError::Unknown(format!("{id} is not a bundle")))
}

/// Everything a manifest needs, itself included.
pub(crate) fn contents(id: ContentId, manifest: &Manifest) -> Vec<ContentId> {
    let mut contents: Vec<ContentId> = manifest.contents().map(|(content, _)| content).chain([id]).collect();
    contents.sort_unstable();
    contents.dedup();
    contents
}

/// Makes a bundle durable: the blobs to carry in the entry when they are small, else nothing, and the
/// files are synced.
pub(crate) fn make_durable(blobs: &BlobStore, bundle: BundleRef) -> Result<Vec<Vec<u8>>, NodeError> {
    if bundle.total_bytes > INLINE_MAX as u64 && blobs.is_whole(bundle.manifest) {
        return Ok(Vec::new());
    }
    let manifest = read_manifest(blobs, bundle.manifest)?;
    let needed = contents(bundle.manifest, &manifest);
    let mut total = 0;
    for &content in &needed {
        let size = blobs
            .has(content)
            .ok_or_else(|| NodeError::Unknown(format!("file {content} of the bundle is missing here")))?;
        total += size;
    }
    if total > INLINE_MAX as u64 {
        blobs.sync(&needed)?;
        blobs.note_whole(bundle.manifest);
        return Ok(Vec::new());
    }
    // The manifest first: who reads the entry starts with it.
    let order = std::iter::once(bundle.manifest).chain(needed.into_iter().filter(|&id| id != bundle.manifest));
    order.map(|content| Ok(blobs.read_small(content, INLINE_MAX as u64)?)).collect()
}
