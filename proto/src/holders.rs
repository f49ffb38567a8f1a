//! Who has what: where a bundle is likely to be had, and who keeps a second copy of what a job leaves, so that its
//! log and its outputs outlive its node.

use crate::core_io::Effect;
use crate::id::{GroupId, JobId, NodeId};
use crate::job::GroupSpec;
use crate::record::{AttemptKey, JobRecord, rank};
use crate::view::{NodeView, View};

/// The node that keeps the copy: of those that are up, beside the worker, the one that ranks first. Every
/// node computes the same one from the same view.
fn second_holder(group: GroupId, worker: NodeId, view: &View) -> Option<NodeId> {
    let others = view.nodes.keys().copied().filter(|&node| node != worker && view.is_up(node));
    others.max_by_key(|&node| rank(group, node))
}

/// What this node must fetch now that `job` has ended; `None`: nothing, or another node does.
pub(crate) fn keep(job: JobId, record: &JobRecord, view: &View) -> Option<Effect> {
    let (attempt, worker) = record.outcome.as_ref()?.attempt?;
    if second_holder(job.group, worker, view) != Some(view.me) {
        return None;
    }
    let key = AttemptKey { epoch: attempt.epoch, number: attempt.number, worker };
    let finished = record.attempts.get(&key)?.finished.as_ref()?;
    // A small log came with the record.
    let log = finished.log.clone().filter(|log| !log.is_inline());
    let something = log.is_some() || finished.outputs.is_some();
    something.then_some(Effect::Keep { from: worker, log, outputs: finished.outputs })
}

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ContentId;
    use crate::entry::{LogId, Position};
    use crate::event::{AttemptFinished, INLINE_MAX, LogRef};
    use crate::id::AttemptId;
    use crate::job::{Ending, Usage};
    use crate::membership::Liveness;
    use crate::record::{AttemptRecord, Claim, Outcome};
    use crate::time::Hlc;
    use crate::view::NodeView;

    fn view(me: NodeId, others: &[NodeId]) -> View {
        let mut view = View::new(me);
        for &node in others {
            view.nodes.insert(node, NodeView { liveness: Some(Liveness::Alive), ..NodeView::default() });
        }
        view
    }

    fn ended_at(worker: NodeId, job: JobId) -> JobRecord {
        let attempt = AttemptId { job, epoch: 1, number: 1 };
        let finished = AttemptFinished {
            attempt,
            ending: Ending::Exited { code: 0 },
            usage: Usage::default(),
            started_unix_ms: 1,
            ended_unix_ms: 2,
            outputs: None,
            log: Some(LogRef { content: ContentId([1; 32]), size: INLINE_MAX as u64 + 1 }),
        };
        let log = LogId { author: worker, incarnation: 1 };
        JobRecord {
            attempts: BTreeMap::from([(
                AttemptKey { epoch: 1, number: 1, worker },
                AttemptRecord { finished: Some(Box::new(finished)), ..AttemptRecord::default() },
            )]),
            outcome: Some(Outcome {
                claim: Claim { epoch: 1, coordinator: worker },
                position: Position { log, seq: 1 },
                hlc: Hlc::default(),
                attempt: Some((attempt, worker)),
                ending: Ending::Exited { code: 0 },
            }),
            ..JobRecord::default()
        }
    }

    #[test]
    fn exactly_one_other_node_keeps_a_copy() {
        let nodes: Vec<NodeId> = (1..6).map(|n| NodeId([n; 32])).collect();
        let job = JobId::only(GroupId([9; 16]));
        for &worker in &nodes {
            let record = ended_at(worker, job);
            let keepers = nodes.iter().filter(|&&me| {
                let others: Vec<NodeId> = nodes.iter().copied().filter(|&node| node != me).collect();
                keep(job, &record, &view(me, &others)).is_some()
            });
            let keepers: Vec<&NodeId> = keepers.collect();
            assert_eq!(keepers.len(), 1);
            assert_ne!(*keepers[0], worker);
        }
    }

    #[test]
    fn alone_there_is_nobody_to_keep_it() {
        let (me, job) = (NodeId([1; 32]), JobId::only(GroupId([9; 16])));
        assert_eq!(keep(job, &ended_at(me, job), &view(me, &[])), None);
    }
}
