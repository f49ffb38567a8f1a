//! Why a job waits, and what would help: as data; the command line finds the sentences.

use crate::capacity::{Lack, Reservation};
use crate::coordinator::Coordinator;
use crate::id::{AttemptId, JobId, NodeId};
use crate::job::JobState;
use crate::view::View;

/// Where an unfinished job stands, as seen from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Where it stands.
    pub state: JobState,
    /// Who sees it through; `None` while its submission has not come here.
    pub coordinator: Option<NodeId>,
    /// Whether that node can be reached from here.
    pub coordinator_up: bool,
    /// Where it was claimed, or runs; told by its coordinator alone.
    pub worker: Option<NodeId>,
    /// The attempt that is claimed or runs there.
    pub attempt: Option<AttemptId>,
    /// Jobs that it waits for; told by its coordinator alone.
    pub waits_for: Vec<JobId>,
    /// Every node with what it lacks now, the nearest first; empty lacks: it fits there.
    pub nodes: Vec<(NodeId, Vec<Lack>)>,
}

pub(crate) fn explain(
    job: JobId,
    view: &View,
    coordinator: &Coordinator,
    own_used: &Reservation,
) -> Option<Explanation> {
    let live = view.groups.get(&job.group)?;
    let claim = live.record.claim;
    let given = coordinator.given(job);
    let state = match live.state(job.member) {
        JobState::Queued if given.is_some() => JobState::Preparing,
        state => state,
    };
    let running = live.jobs.get(&job.member).and_then(|record| record.running().next());
    let unfit = coordinator.unfit(job.group);
    let requirement = live.record.submitted.as_ref().map(|submitted| &submitted.spec.requirement);
    let mut nodes: Vec<(NodeId, Vec<Lack>)> = view
        .nodes
        .iter()
        .filter(|(_, seen)| seen.advert.is_some())
        .map(|(&node, seen)| {
            let used = if node == view.me { own_used.clone() } else { seen.used() };
            let mut lacks = requirement.map(|requirement| view.lacks(node, requirement, &used)).unwrap_or_default();
            if unfit.contains(&node) {
                lacks.push(Lack::Refused);
            }
            (node, lacks)
        })
        .collect();
    nodes.sort_by_key(|(node, lacks)| (lacks.iter().max().cloned(), lacks.len(), *node));
    Some(Explanation {
        state,
        coordinator: claim.map(|claim| claim.coordinator),
        coordinator_up: claim.is_some_and(|claim| view.is_up(claim.coordinator)),
        worker: running.map(|key| key.worker).or(given.map(|(_, worker)| worker)),
        attempt: running.map(|key| key.id(job)).or(given.map(|(attempt, _)| attempt)),
        waits_for: coordinator.waits_for(job.group),
        nodes,
    })
}
