//! What a node sees now: the other nodes, and every group that is not finished. Read by the rules,
//! written by the core alone; memory here grows with what is alive, never with history.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::capacity::{Capacity, Lack, Requirement, Reservation};
use crate::entry::Position;
use crate::id::{GroupId, JobId, Member, NodeId};
use crate::job::{GroupSpec, JobState};
use crate::log::VersionVector;
use crate::membership::Liveness;
use crate::message::{Accepting, Advert};
use crate::record::{GroupRecord, JobRecord, NodeRecord, Record, RecordKey, rank};
use crate::time::Timestamp;

/// A daemon that refuses connections may be restarting: its started attempts wait this long for it.
pub const ADOPTION_GRACE: Duration = Duration::from_secs(30);

/// What a node sees of the cluster.
#[derive(Debug)]
pub struct View {
    /// The node that looks.
    pub me: NodeId,
    /// Every node that it ever heard of and that was not removed, itself included.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// Members that were shut out: nothing of them is heard any more.
    pub removed: BTreeSet<NodeId>,
    /// Every group without all outcomes.
    pub groups: BTreeMap<GroupId, LiveGroup>,
    /// How much of the looking node's own logs, of all its lives, some other node said to have on disk.
    pub held: VersionVector,
}

/// What is known of a node.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// Its own words; `None` until they came.
    pub advert: Option<Advert>,
    /// The capacity in its advert, with the labels that users gave.
    pub capacity: Capacity,
    /// What the log says of it.
    pub record: NodeRecord,
    /// By the membership protocol; `None` for one that was never heard.
    pub liveness: Option<Liveness>,
    /// Whether a control stream to it is open.
    pub connected: bool,
    /// Since when its host answers but its daemon does not.
    pub refused_at: Option<Timestamp>,
    /// How much of the looking node's own log it has on disk.
    pub acked_seq: u64,
    /// A member that this daemon has not heard since it started: believed alive for a short while.
    pub unheard: bool,
}

/// A group without all outcomes.
#[derive(Clone, Debug, Default)]
pub struct LiveGroup {
    /// As all nodes know it.
    pub record: GroupRecord,
    /// The jobs to which something happened.
    pub jobs: BTreeMap<Member, JobRecord>,
}

/// How far a node's absence goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It works.
    Up,
    /// Its daemon is down since then, its host is not: started attempts may be adopted.
    DaemonDown(Timestamp),
    /// Declared dead.
    Down,
}

impl View {
    /// The view of a node that knows nobody else.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        let own = NodeView { liveness: Some(Liveness::Alive), connected: true, ..NodeView::default() };
        let held = VersionVector::default();
        Self { me, nodes: BTreeMap::from([(me, own)]), removed: BTreeSet::new(), groups: BTreeMap::new(), held }
    }

    /// How far `node` is absent.
    #[must_use]
    pub fn presence(&self, node: NodeId) -> Presence {
        match self.nodes.get(&node) {
            Some(_) if node == self.me => Presence::Up,
            Some(seen) => seen.presence(),
            None => Presence::Down,
        }
    }

    /// Whether `node` works, as far as is known.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.presence(node) == Presence::Up
    }

    /// Every other node that is up.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.keys().copied().filter(|&node| node != self.me && self.is_up(node))
    }

    /// The node that takes `group` over when its coordinator is gone: of those that are up, the one that ranks first.
    #[must_use]
    pub fn heir(&self, group: GroupId) -> NodeId {
        let up = self.nodes.keys().copied().filter(|&node| self.is_up(node));
        up.max_by_key(|&node| rank(group, node)).unwrap_or(self.me)
    }

    /// Takes a folded record in; finished groups leave.
    pub fn on_record(&mut self, key: &RecordKey, record: Record) {
        match (key, record) {
            (RecordKey::Group(group), Record::Group(record)) => {
                if record.is_finished() {
                    self.groups.remove(group);
                } else {
                    self.groups.entry(*group).or_default().record = record;
                }
            }
            (RecordKey::Job(job), Record::Job(record)) => {
                // Late news of a finished group changes nothing here.
                if let Some(group) = self.groups.get_mut(&job.group) {
                    group.jobs.insert(job.member, record);
                }
            }
            (RecordKey::Node(node), Record::Node(record)) => {
                if record.removed && *node != self.me {
                    self.nodes.remove(node);
                    self.removed.insert(*node);
                } else {
                    let view = self.nodes.entry(*node).or_default();
                    view.record = record;
                    view.merge_labels();
                }
            }
            _ => {}
        }
    }

    /// Takes a node's own words in; older ones than are here are ignored. Returns whether they were new.
    pub fn on_advert(&mut self, node: NodeId, advert: Advert) -> bool {
        if self.removed.contains(&node) {
            return false;
        }
        let view = self.nodes.entry(node).or_default();
        if view.advert.as_ref().is_some_and(|old| old.version >= advert.version) {
            return false;
        }
        view.advert = Some(advert);
        view.merge_labels();
        true
    }

    /// Whether what was written at `position`, and is here, is on another node's disk, too. An outcome is shown as
    /// final only then (DESIGN §9.4); one that another node wrote is on that one's disk.
    #[must_use]
    pub fn is_held(&self, position: Position) -> bool {
        position.log.author != self.me || self.held.covers(position)
    }

    /// Notes that another node has this much of some logs on its disk; those of other authors do not matter.
    pub fn on_held(&mut self, heads: impl IntoIterator<Item = Position>) {
        let me = self.me;
        for position in heads.into_iter().filter(|position| position.log.author == me) {
            self.held.raise(position);
        }
    }

    /// The group's specification, once its submission is known.
    #[must_use]
    pub fn spec(&self, group: GroupId) -> Option<&GroupSpec> {
        self.groups.get(&group)?.record.submitted.as_ref().map(|submitted| &*submitted.spec)
    }

    /// Labels that users gave the looking node.
    #[must_use]
    pub fn own_labels(&self) -> BTreeMap<String, String> {
        let labels = self.nodes.get(&self.me).and_then(|own| own.record.labels.as_ref());
        labels.map(|(_, labels)| labels.clone()).unwrap_or_default()
    }

    /// Whether how `job` ended is known; also when its group has left, as all of it ended.
    #[must_use]
    pub fn has_outcome(&self, job: JobId) -> bool {
        let live = self.groups.get(&job.group);
        live.is_none_or(|live| live.jobs.get(&job.member).is_some_and(|record| record.outcome.is_some()))
    }

    /// Whether a user wants `job` to stop.
    #[must_use]
    pub fn is_stop_wished(&self, job: JobId) -> bool {
        self.groups.get(&job.group).is_some_and(|group| {
            group.record.stop.is_some() || group.jobs.get(&job.member).is_some_and(|record| record.stop.is_some())
        })
    }

    /// Paths that unfinished jobs ask for; each node says which of them it has ([`crate::Capacity::data`]).
    #[must_use]
    pub fn data_wanted(&self) -> BTreeSet<String> {
        let specs = self.groups.values().filter_map(|live| live.record.submitted.as_ref());
        specs.flat_map(|submitted| submitted.spec.requirement.data.iter().cloned()).collect()
    }

    /// What `node` lacks for `requirement` beside `used`, reasons of the node itself included.
    #[must_use]
    pub fn lacks(&self, node: NodeId, requirement: &Requirement, used: &Reservation) -> Vec<Lack> {
        let Some(view) = self.nodes.get(&node) else { return vec![Lack::NotAlive] };
        let Some(advert) = &view.advert else { return vec![Lack::NotAlive] };
        let mut lacks = view.capacity.lacks(requirement, used);
        if !self.is_up(node) {
            lacks.push(Lack::NotAlive);
        } else if !view.accepting().takes(requirement) {
            lacks.push(Lack::NotAccepting);
        }
        let named = requirement.nodes.is_empty() || requirement.nodes.iter().any(|name| advert.is_called(node, name));
        if !named {
            lacks.push(Lack::Node);
        }
        lacks.sort();
        lacks
    }
}

impl NodeView {
    /// How far this node, another than the one that looks, is absent.
    #[must_use]
    pub fn presence(&self) -> Presence {
        match (self.refused_at, self.liveness) {
            (Some(at), _) => Presence::DaemonDown(at),
            (None, Some(Liveness::Alive | Liveness::Suspect)) => Presence::Up,
            (None, _) => Presence::Down,
        }
    }

    /// Whether it takes work: its own word, and `fnode node drain`.
    #[must_use]
    pub fn accepting(&self) -> Accepting {
        let own = self.advert.as_ref().map_or(Accepting::Starting, |advert| advert.accepting);
        let drained = self.record.drained.is_some_and(|(_, drained)| drained);
        if drained && own == Accepting::Yes { Accepting::Draining } else { own }
    }

    /// What is taken of it, by its own last word.
    #[must_use]
    pub fn used(&self) -> Reservation {
        self.advert.as_ref().map(|advert| advert.used.clone()).unwrap_or_default()
    }

    /// Version of its last word.
    #[must_use]
    pub fn version(&self) -> (u64, u64) {
        self.advert.as_ref().map_or((0, 0), |advert| advert.version)
    }

    fn merge_labels(&mut self) {
        if let Some(advert) = &self.advert {
            self.capacity = advert.capacity_with(self.record.labels.as_ref().map(|(_, labels)| labels));
        }
    }
}

impl LiveGroup {
    /// Where a member stands by its record.
    #[must_use]
    pub fn state(&self, member: Member) -> JobState {
        self.jobs.get(&member).map_or(JobState::Queued, JobRecord::state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::LogId;

    #[test]
    fn what_this_node_wrote_is_held_once_another_says_so_in_each_of_its_lives() {
        let (me, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let at = |author, incarnation, seq| Position { log: LogId { author, incarnation }, seq };
        let mut view = View::new(me);
        assert!(view.is_held(at(other, 1, 9)), "it is on its author's disk and here");
        assert!(!view.is_held(at(me, 1, 1)));
        view.on_held([at(me, 1, 5), at(other, 1, 1)]);
        assert!(view.is_held(at(me, 1, 5)) && !view.is_held(at(me, 1, 6)));
        assert!(!view.is_held(at(me, 2, 1)), "a later life has a log of its own");
        view.on_held([at(me, 2, 3), at(me, 1, 2)]);
        assert!(view.is_held(at(me, 2, 3)) && view.is_held(at(me, 1, 5)), "it only grows");
    }
}
