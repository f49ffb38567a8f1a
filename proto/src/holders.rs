//! Where a bundle is likely to be had. Who keeps second copies of what jobs leave is told by [`crate::keeping`].

use crate::id::NodeId;
use crate::job::GroupSpec;
use crate::view::{NodeView, View};

/// Who is likely to have the bundle and the secrets: who accepted it, who coordinates, then whose advert says
/// that it has the bundle, then everybody else.
pub(crate) fn providers(coordinator: Option<NodeId>, author: NodeId, spec: &GroupSpec, view: &View) -> Vec<NodeId> {
    if spec.bundle.is_none() && spec.secrets.is_empty() {
        return Vec::new();
    }
    let has_bundle = |seen: &NodeView| {
        let advert = seen.advert.as_ref();
        spec.bundle.is_some_and(|bundle| advert.is_some_and(|advert| advert.has_bundle(bundle.manifest)))
    };
    let said = view.nodes.iter().filter(|(_, seen)| has_bundle(seen));
    let mut providers: Vec<NodeId> = Vec::new();
    for node in std::iter::once(author).chain(coordinator).chain(said.map(|(&node, _)| node)).chain(view.peers()) {
        if node != view.me && view.is_up(node) && !providers.contains(&node) {
            providers.push(node);
        }
    }
    providers
}
