//! Which bundles are known to be here whole and durable, so that the next submission of the same thousand
//! files costs no look at each of them: packing, accepting, holding and preparing would each look.
//!
//! A memory of minutes, nothing on disk. Any removal forgets all of it, and it is shorter than the time
//! after which a sweep may take a blob that nobody used.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use proto::ContentId;

use super::fetch::lock;
use super::store::BlobStore;

/// How long it is believed: well below the ten minutes that protect a young blob from a sweep.
const BELIEVED: Duration = Duration::from_secs(240);
/// Bundles remembered; beyond it the oldest knowledge goes.
const BUNDLES_MAX: usize = 1_024;

/// Manifests whose files are all here and durable, with when that was seen.
#[derive(Default)]
pub(super) struct WholeBundles(Mutex<BTreeMap<ContentId, Instant>>);

impl WholeBundles {
    /// Something was removed.
    pub(super) fn forget(&self) {
        lock(&self.0).clear();
    }
}

impl BlobStore {
    /// Whether `manifest` and all its files were seen to be here and durable a moment ago.
    #[must_use]
    pub fn is_whole(&self, manifest: ContentId) -> bool {
        lock(&self.inner.whole.0).get(&manifest).is_some_and(|seen| seen.elapsed() < BELIEVED)
    }

    /// The caller has just seen all files of `manifest` here and made them durable, itself included.
    pub(crate) fn note_whole(&self, manifest: ContentId) {
        let mut whole = lock(&self.inner.whole.0);
        whole.retain(|_, seen| seen.elapsed() < BELIEVED);
        if whole.len() >= BUNDLES_MAX
            && let Some(oldest) = whole.iter().min_by_key(|(_, seen)| **seen).map(|(&id, _)| id)
        {
            whole.remove(&oldest);
        }
        whole.insert(manifest, Instant::now());
    }
}
