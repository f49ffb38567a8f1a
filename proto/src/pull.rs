//! Pull when busy: which waiting jobs a worker with room asks for, and how many ahead.
//!
//! Fair share among users and projects, then priority, then age (DESIGN §9.2). Owned by [`crate::worker`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::capacity::{Capacity, Lack, Requirement, Reservation};
use crate::core_io::Now;
use crate::id::{GroupId, NodeId};
use crate::job::GroupSpec;
use crate::message::{Demand, Message};
use crate::outbox::Out;
use crate::time::Timestamp;
use crate::view::View;
use crate::worker::Worker;

/// Jobs are claimed ahead for this much work: it hides a round trip and a commit of the coordinator.
const CLAIM_AHEAD: Duration = Duration::from_millis(200);
/// Most jobs of one group claimed ahead: what a lost worker gives back.
const CLAIM_AHEAD_MAX: u64 = 512;
/// A claim that was not answered is repeated after this.
const CLAIM_RETRY: Duration = Duration::from_millis(500);
/// A demand that was not repeated is forgotten; coordinators repeat theirs five times as often.
const DEMAND_TTL: Duration = Duration::from_secs(10);
/// A demand of which something had to be refused is left alone this long: what was offered and what has room
/// here are two opinions, and asking at once would go in circles.
const REFUSED_FOR: Duration = Duration::from_millis(100);
/// A job that fits this node when idle and has waited this long is given room: nothing else is claimed.
const HOLD_BACK_AFTER: Duration = Duration::from_secs(30);

/// What a user's jobs took counts half as much after this: long enough that a flood of short jobs does not look
/// idle between two of them, short enough that yesterday does not count.
const SPENT_HALF_LIFE: Duration = Duration::from_secs(60);
/// What a user's jobs hold now counts like this much time spent.
const HELD_COUNTS_MS: u64 = 30_000;

/// What waits elsewhere, and what was asked for.
#[derive(Debug, Default)]
pub(crate) struct Pull {
    demands: BTreeMap<(NodeId, GroupId), Heard>,
    asked: Option<(NodeId, GroupId, Timestamp)>,
    /// How long a job of each group took lately.
    paces: BTreeMap<GroupId, Duration>,
    /// A job that waited long enough: until it has run, nothing else is taken.
    held_back_for: Option<GroupId>,
    /// CPU time that each user's projects took here lately, in thousandths of a CPU times milliseconds.
    spent: BTreeMap<String, BTreeMap<String, u64>>,
    halved_at: Timestamp,
}

#[derive(Debug)]
struct Heard {
    demand: Demand,
    at: Timestamp,
    not_before: Timestamp,
}

impl Pull {
    /// What waits at `from`; replaces what it said before.
    pub(crate) fn on_demands(&mut self, now: Now, from: NodeId, demands: Vec<Demand>) {
        let before = self.demands.extract_if((from, GroupId([0; 16]))..=(from, GroupId([255; 16])), |_, _| true);
        let before: BTreeMap<_, _> = before.map(|((_, group), heard)| (group, heard.not_before)).collect();
        for demand in demands.into_iter().filter(|demand| demand.waiting > 0) {
            let not_before = before.get(&demand.group).copied().unwrap_or_default();
            self.demands.insert((from, demand.group), Heard { demand, at: now.at, not_before });
        }
        if let Some((coordinator, group, _)) = self.asked
            && coordinator == from
            && !self.demands.contains_key(&(from, group))
        {
            self.asked = None;
        }
        self.release_room();
    }

    /// An offer came: perhaps the answer to what was asked.
    pub(crate) fn on_answered(&mut self, from: NodeId, group: GroupId) {
        self.asked = self.asked.filter(|&(coordinator, asked, _)| (coordinator, asked) != (from, group));
    }

    /// Something of an offer had to be refused.
    pub(crate) fn on_refused(&mut self, now: Now, from: NodeId, group: GroupId) {
        if let Some(heard) = self.demands.get_mut(&(from, group)) {
            heard.not_before = now.at + REFUSED_FOR;
        }
    }

    /// A job of `group` took so long.
    pub(crate) fn on_took(&mut self, group: GroupId, spec: &GroupSpec, took: Duration) {
        let spent_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let spent = spent_ms.saturating_mul(u64::from(spec.requirement.cpu_milli));
        let projects = match self.spent.get_mut(&spec.user) {
            Some(projects) => projects,
            None => self.spent.entry(spec.user.clone()).or_default(),
        };
        match projects.get_mut(&spec.project) {
            Some(before) => *before = before.saturating_add(spent),
            None => drop(projects.insert(spec.project.clone(), spent)),
        }
        let pace = self.paces.get(&group).map_or(took, |&pace| (pace * 7 + took) / 8);
        self.paces.insert(group, pace);
    }

    pub(crate) fn on_tick(&mut self, now: Now, alive: impl Fn(&GroupId) -> bool) {
        self.paces.retain(|group, _| alive(group));
        if self.halved_at + SPENT_HALF_LIFE <= now.at {
            self.halved_at = now.at;
            for projects in self.spent.values_mut() {
                projects.values_mut().for_each(|spent| *spent /= 2);
                projects.retain(|_, spent| *spent > 0);
            }
            self.spent.retain(|_, projects| !projects.is_empty());
        }
        self.demands.retain(|_, heard| now.at < heard.at + DEMAND_TTL);
        self.release_room();
    }

    /// How many jobs of `group` may wait here, by how fast they went so far. 0 while that is not known.
    pub(crate) fn ahead(&self, group: GroupId, requirement: &Requirement, capacity: &Capacity) -> u64 {
        let Some(pace) = self.paces.get(&group) else { return 0 };
        let abreast = u64::from(capacity.cpu_milli / requirement.cpu_milli.max(1)).max(1);
        let pace_ms = u64::try_from(pace.as_millis()).unwrap_or(u64::MAX).max(1);
        let ahead_ms = u64::try_from(CLAIM_AHEAD.as_millis()).expect("a constant that fits");
        (abreast * ahead_ms / pace_ms).min(CLAIM_AHEAD_MAX)
    }

    pub(crate) fn holds_back_for_another(&self, group: GroupId) -> bool {
        self.held_back_for.is_some_and(|held| held != group)
    }

    pub(crate) fn may_ask(&self, now: Now) -> bool {
        !self.demands.is_empty() && self.asked.is_none_or(|(.., until)| until <= now.at)
    }

    /// Whether an answer is due, or something may be asked for again shortly.
    pub(crate) fn is_waiting(&self) -> bool {
        self.asked.is_some()
    }

    /// Asks for waiting jobs when there is room: who holds least of this node comes first.
    pub(crate) fn ask(&mut self, now: Now, worker: &Worker, view: &View, out: &mut Out) {
        self.asked = None;
        self.held_back_for = None;
        let planned = worker.planned();
        let mut order: Vec<&(NodeId, GroupId)> = self.demands.keys().collect();
        order.sort_by_cached_key(|key| turn(&self.demands[*key].demand, self, worker));
        for &(coordinator, group) in order {
            let Heard { demand, not_before, .. } = &self.demands[&(coordinator, group)];
            if now.at < *not_before || !view.is_up(coordinator) {
                continue;
            }
            let requirement = &demand.requirement;
            let lacks = view.lacks(view.me, requirement, &planned);
            let ahead = self.ahead(group, requirement, worker.offered());
            let waiting = worker.waiting_of(group);
            let low = waiting < ahead.div_ceil(2);
            let only_busy = lacks.iter().all(is_busy);
            if lacks.is_empty() || (low && only_busy) {
                let abreast = abreast(requirement, &planned, worker.offered());
                let count = (abreast + ahead.saturating_sub(waiting)).clamp(1, u64::from(demand.waiting));
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                self.asked = Some((coordinator, group, now.at + CLAIM_RETRY));
                out.send(coordinator, Message::Claim { group, count });
                return;
            }
            let waited = Duration::from_millis(now.unix_ms.saturating_sub(demand.submitted_unix_ms));
            if only_busy && ahead == 0 && waited > HOLD_BACK_AFTER && view.heir(group) == view.me {
                // One node, the one that ranks first, keeps its room for it.
                self.held_back_for = Some(group);
                return;
            }
        }
    }

    /// Room is held back only for what still waits.
    fn release_room(&mut self) {
        let waits = |group| self.demands.keys().any(|(_, waiting)| *waiting == group);
        self.held_back_for = self.held_back_for.filter(|&group| waits(group));
    }
}

fn is_busy(lack: &Lack) -> bool {
    matches!(lack, Lack::CpuBusy { .. } | Lack::MemoryBusy { .. } | Lack::GpuBusy { .. })
}

/// How many more of `requirement` fit now beside `planned`; GPU jobs are claimed one by one.
fn abreast(requirement: &Requirement, planned: &Reservation, capacity: &Capacity) -> u64 {
    if requirement.gpus > 0 {
        return 1;
    }
    let cpus = capacity.cpu_milli.saturating_sub(planned.cpu_milli) / requirement.cpu_milli.max(1);
    let memory = capacity.memory.0.saturating_sub(planned.memory.0).checked_div(requirement.memory.0);
    u64::from(cpus).min(memory.unwrap_or(u64::MAX))
}

/// Sorts demands: whose jobs had least of this node lately, and hold least of it now, comes first.
fn turn(demand: &Demand, pull: &Pull, worker: &Worker) -> (u64, u64, i64, u64, GroupId) {
    let (held_by_user, held_by_project) = worker.held_by(&demand.user, &demand.project);
    let spent = pull.spent.get(&demand.user);
    let spent_by_user: u64 = spent.map_or(0, |projects| projects.values().sum());
    let spent_by_project = spent.and_then(|projects| projects.get(&demand.project)).copied().unwrap_or(0);
    let weight = |held: u64, spent: u64| spent.saturating_add(held.saturating_mul(HELD_COUNTS_MS));
    (
        weight(held_by_user, spent_by_user),
        weight(held_by_project, spent_by_project),
        -i64::from(demand.priority),
        demand.submitted_unix_ms,
        demand.group,
    )
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
