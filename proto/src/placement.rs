//! Where a job goes: of the nodes where it fits now, the one that scores best.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::capacity::{Requirement, Reservation};
use crate::id::{GroupId, NodeId};
use crate::job::GroupSpec;
use crate::record::rank;
use crate::view::{NodeView, View};

/// What is left of every node while one round of jobs is placed.
#[derive(Debug)]
pub(crate) struct Rooms<'a> {
    used: BTreeMap<NodeId, Reservation>,
    view: &'a View,
}

/// What a job reads counts in steps of this many bytes: a gigabit link brings one in an eighth of a second, so less
/// than that is no reason to prefer a node.
const NEAR_STEP: u64 = 16 << 20;

/// Smaller is better: faster cards, no card wasted, more of what it reads already there, little load, the bundle
/// already there, less load, this node, then rank.
type Score = (Reverse<u64>, bool, Reverse<u64>, u64, bool, u64, bool, Reverse<[u8; 32]>);

/// The nodes where one more job of a group fits, best first.
pub(crate) struct Candidates<'a> {
    group: GroupId,
    spec: &'a GroupSpec,
    heap: BinaryHeap<Reverse<(Score, NodeId)>>,
}

impl<'a> Rooms<'a> {
    /// What the adverts say is taken; of this node itself, what is planned right now.
    pub(crate) fn new(view: &'a View, own_planned: Reservation) -> Self {
        let mut used: BTreeMap<NodeId, Reservation> =
            view.nodes.iter().map(|(&node, seen)| (node, seen.used())).collect();
        used.insert(view.me, own_planned);
        Self { used, view }
    }

    /// Counts what a worker was given and had not counted itself when it told `version`.
    pub(crate) fn promise(&mut self, node: NodeId, version: (u64, u64), requirement: &Requirement) {
        if node != self.view.me && self.view.nodes.get(&node).is_some_and(|seen| seen.version() <= version) {
            self.take(node, requirement);
        }
    }

    /// Where jobs of `spec` may go.
    pub(crate) fn candidates(
        &self,
        group: GroupId,
        spec: &'a GroupSpec,
        avoid: &dyn Fn(NodeId) -> bool,
    ) -> Candidates<'a> {
        let mut candidates = Candidates { group, spec, heap: BinaryHeap::new() };
        for (&node, seen) in self.view.nodes.iter().filter(|(_, seen)| seen.connected) {
            let used = &self.used[&node];
            // First what is cheap to ask: most nodes of a busy cluster are full.
            if seen.capacity.fits(&spec.requirement, used)
                && !avoid(node)
                && self.view.lacks(node, &spec.requirement, used).is_empty()
            {
                candidates.push(node, seen, used, self.view.me);
            }
        }
        candidates
    }

    /// The best of `candidates` for one more job, which is then counted as taken; `None`: it fits nowhere now.
    pub(crate) fn choose(&mut self, candidates: &mut Candidates<'a>) -> Option<NodeId> {
        let Reverse((_, best)) = candidates.heap.pop()?;
        self.take(best, &candidates.spec.requirement);
        let (seen, used) = (&self.view.nodes[&best], &self.used[&best]);
        if seen.capacity.fits(&candidates.spec.requirement, used) {
            candidates.push(best, seen, used, self.view.me);
        }
        Some(best)
    }

    fn take(&mut self, node: NodeId, requirement: &Requirement) {
        let used = self.used.entry(node).or_default();
        match self.view.nodes.get(&node).and_then(|seen| seen.capacity.reserve(requirement, used)) {
            Some(reservation) => used.add(&reservation),
            // It was promised all the same: count it, so that nothing more is.
            None => used.cpu_milli = used.cpu_milli.saturating_add(requirement.cpu_milli),
        }
    }
}

impl Candidates<'_> {
    fn push(&mut self, node: NodeId, seen: &NodeView, used: &Reservation, me: NodeId) {
        let score = score(self.group, self.spec, node, seen, used, me);
        self.heap.push(Reverse((score, node)));
    }
}

fn score(group: GroupId, spec: &GroupSpec, node: NodeId, seen: &NodeView, used: &Reservation, me: NodeId) -> Score {
    let gflops = if spec.requirement.gpus == 0 {
        0
    } else {
        let free = seen.capacity.free_gpus(&spec.requirement, used);
        free.take(spec.requirement.gpus as usize).map(|gpu| u64::from(gpu.gflops)).sum()
    };
    let has_bundle = spec.bundle.is_none_or(|bundle| {
        node == me || seen.advert.as_ref().is_some_and(|advert| advert.has_bundle(bundle.manifest))
    });
    let near = spec.near.get(&node).map_or(0, |bytes| bytes.0 / NEAR_STEP);
    let load_milli = u64::from(used.cpu_milli) * 1_000 / u64::from(seen.capacity.cpu_milli.max(1));
    // A job that needs no GPU should not stand in the way of one that does.
    let wastes_gpu = spec.requirement.gpus == 0 && !seen.capacity.gpus.is_empty();
    let rank = Reverse(rank(group, node));
    (Reverse(gflops), wastes_gpu, Reverse(near), load_milli / 250, !has_bundle, load_milli, node != me, rank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{ME, THREE, TWO, capacity, group, spec, view};
    use crate::size::ByteSize;

    /// Where jobs of `spec` go, one after the other, when nothing else runs.
    fn places(spec: &GroupSpec, view: &View, jobs: usize) -> Vec<NodeId> {
        let mut rooms = Rooms::new(view, Reservation::default());
        let mut candidates = rooms.candidates(group(7), spec, &|_| false);
        std::iter::from_fn(|| rooms.choose(&mut candidates)).take(jobs).collect()
    }

    fn reading(near: &[(NodeId, u64)]) -> GroupSpec {
        let near = near.iter().map(|&(node, bytes)| (node, ByteSize(bytes))).collect();
        GroupSpec { near, ..spec(1_000) }
    }

    #[test]
    fn a_job_goes_where_most_of_what_it_reads_is_until_that_is_full() {
        let view = view(&[TWO, THREE]);
        assert_eq!(places(&reading(&[]), &view, 1), [ME], "nothing is read: this node first");
        let spec = reading(&[(TWO, 64 << 20), (THREE, 1 << 30)]);
        assert_eq!(places(&spec, &view, 10), [[THREE; 4].as_slice(), &[TWO; 4], &[ME; 2]].concat());
    }

    #[test]
    fn little_is_no_reason_and_what_does_not_fit_is_no_place() {
        let mut view = view(&[TWO]);
        let nothing = places(&reading(&[]), &view, 8);
        assert_eq!(places(&reading(&[(TWO, NEAR_STEP - 1)]), &view, 8), nothing);
        assert_eq!(places(&reading(&[(TWO, NEAR_STEP)]), &view, 4), [TWO; 4]);
        view.nodes.get_mut(&TWO).expect("a peer").capacity = capacity(500);
        assert_eq!(places(&reading(&[(TWO, 1 << 30)]), &view, 1), [ME]);
    }
}
