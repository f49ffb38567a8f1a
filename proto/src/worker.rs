//! The part of a node that runs jobs: claims, reservations, and which waiting jobs to ask for.
//!
//! The worker has the last word: it reserves or refuses. What it holds never exceeds its capacity.
//! Called by [`crate::core`] alone. What it asks others for is in [`crate::pull`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::capacity::{Capacity, Lack, Requirement, Reservation};
use crate::checkpoint::for_run;
use crate::core_io::{Adopted, Effect, Now, Run};
use crate::entry::Position;
use crate::event::{AttemptFinished, Event};
use crate::holders::providers;
use crate::id::{AttemptId, GroupId, JobId, Member, NodeId};
use crate::job::{Ending, GroupSpec, LostReason, Usage};
use crate::message::{Accepting, Message, Offer, OfferReply};
use crate::outbox::Out;
use crate::plant::{self, Plant};
use crate::pull::Pull;
use crate::record::{AttemptKey, CheckpointMap, Claim, GroupRecord, JobRecord};
use crate::time::Timestamp;
use crate::view::View;
use crate::waiting::Waiting;

/// A start is told this late, so that a job that ends sooner needs one event, not two.
pub(crate) const TELL_START_AFTER: Duration = Duration::from_millis(30);
/// A suspicious attempt starts after this even if nobody else confirmed to have heard of it.
const ANNOUNCE_FOR: Duration = Duration::from_millis(2_000);
/// From this epoch on a group is suspicious: two coordinators are gone.
const SUSPICIOUS_EPOCH: u32 = 3;
/// So far down the queue a job may overtake one that does not fit yet.
const OVERTAKE_MAX: usize = 16;

/// The worker of one node.
#[derive(Debug)]
pub(crate) struct Worker {
    /// With the labels that users gave; what offers are judged by.
    capacity: Capacity,
    own_capacity: Capacity,
    user_labels: BTreeMap<String, String>,
    accepting: Accepting,
    used: Reservation,
    slots: BTreeMap<AttemptId, Slot>,
    waiting: Waiting,
    announced: BTreeSet<AttemptId>,
    /// Thousandths of a CPU that each user's projects hold here, claimed ones included.
    shares: BTreeMap<String, BTreeMap<String, u64>>,
    fences: BTreeMap<GroupId, Claim>,
    pull: Pull,
    /// Starts that are not told yet, and when they are due, in order.
    untold: BTreeMap<AttemptId, u64>,
    due: VecDeque<(Timestamp, AttemptId)>,
    /// Attempts whose end is on its way into the log: neither held nor known to have ended by their records.
    ending: BTreeSet<AttemptId>,
    /// Coordinators that asked what is held here before the runner had answered.
    questions: BTreeMap<GroupId, (NodeId, u32)>,
}

/// An attempt that this worker claimed.
#[derive(Debug)]
struct Slot {
    spec: Arc<GroupSpec>,
    /// `None` for one that was adopted: it was fetched in an earlier life.
    position: Option<Position>,
    /// As the coordinator knew them.
    checkpoints: CheckpointMap,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Claimed ahead; nothing is reserved.
    Waiting,
    /// Its start is being made known before it happens; see [`is_suspicious`].
    Announced { reservation: Reservation, until: Timestamp, seq: Option<u64> },
    /// Handed to the shell.
    Running { reservation: Reservation, since: Timestamp, halted: bool },
}

impl Worker {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            own_capacity: capacity.clone(),
            capacity,
            user_labels: BTreeMap::new(),
            accepting: Accepting::Starting,
            used: Reservation::default(),
            slots: BTreeMap::new(),
            waiting: Waiting::default(),
            announced: BTreeSet::new(),
            shares: BTreeMap::new(),
            fences: BTreeMap::new(),
            pull: Pull::default(),
            untold: BTreeMap::new(),
            due: VecDeque::new(),
            ending: BTreeSet::new(),
            questions: BTreeMap::new(),
        }
    }

    /// What the node offers, without the labels that users gave: those are in the log already.
    pub(crate) fn offered(&self) -> &Capacity {
        &self.own_capacity
    }

    pub(crate) fn set_capacity(&mut self, capacity: Capacity) {
        self.own_capacity = capacity;
        self.merge_labels();
    }

    /// The labels that users gave this node count as its own when an offer is judged.
    pub(crate) fn set_labels(&mut self, labels: BTreeMap<String, String>) {
        self.user_labels = labels;
        self.merge_labels();
    }

    fn merge_labels(&mut self) {
        self.capacity = self.own_capacity.clone();
        self.capacity.labels.extend(self.user_labels.clone());
    }

    pub(crate) fn accepting(&self) -> Accepting {
        self.accepting
    }

    /// The runner's answer opens the worker; until then its owner's word waits.
    pub(crate) fn set_accepting(&mut self, accepting: Accepting) {
        self.accepting = accepting;
    }

    pub(crate) fn used(&self) -> &Reservation {
        &self.used
    }

    pub(crate) fn pull_mut(&mut self) -> &mut Pull {
        &mut self.pull
    }

    /// Every attempt held, with whether the shell has it.
    pub(crate) fn holding(&self) -> impl Iterator<Item = (AttemptId, bool)> + '_ {
        self.slots.iter().map(|(&attempt, slot)| (attempt, matches!(slot.phase, Phase::Running { .. })))
    }

    /// Takes back what the runner held while no daemon ran; what the log says runs here and the runner
    /// does not know is lost.
    pub(crate) fn on_adopted(&mut self, now: Now, adopted: Vec<Adopted>, view: &View, out: &mut Out) {
        for Adopted { attempt, spec, reservation, started_unix_ms } in adopted {
            self.used.add(&reservation);
            self.share(&spec, i64::from(spec.requirement.cpu_milli));
            let phase = Phase::Running { reservation, since: now.at, halted: false };
            let checkpoints = CheckpointMap::new();
            self.slots.insert(attempt, Slot { spec: Arc::from(spec), position: None, checkpoints, phase });
            self.untold.insert(attempt, started_unix_ms);
            self.due.push_front((now.at, attempt));
            match view.groups.get(&attempt.job.group) {
                Some(live) => {
                    if let Some(claim) = live.record.claim {
                        self.fence(attempt.job.group, claim, view);
                    }
                    let outcome = live.jobs.get(&attempt.job.member).is_some_and(|record| record.outcome.is_some());
                    if outcome || view.is_stop_wished(attempt.job) {
                        self.halt(now, attempt, out);
                    }
                }
                // Not alive: perhaps it ended without this attempt.
                None => out.effects.push(Effect::LookUp(attempt.job)),
            }
        }
        if self.accepting == Accepting::Starting {
            self.accepting = Accepting::Yes;
        }
        for (&group, live) in &view.groups {
            for (&member, record) in &live.jobs {
                self.on_record(now, JobId { group, member }, record, view, out);
            }
        }
        for (group, (coordinator, epoch)) in std::mem::take(&mut self.questions) {
            self.on_take_over(coordinator, group, epoch, view, out);
        }
    }

    /// What the store has of a job that this node held when it started.
    pub(crate) fn on_looked_up(
        &mut self,
        now: Now,
        job: JobId,
        group: Option<&GroupRecord>,
        record: Option<&JobRecord>,
        out: &mut Out,
    ) {
        let over = group.is_some_and(GroupRecord::is_finished) || record.is_some_and(|record| record.outcome.is_some());
        if over {
            self.halt_all(now, out, |_| true, of_job(job));
        }
    }

    pub(crate) fn on_offer(&mut self, now: Now, from: NodeId, offer: Offer, view: &View, out: &mut Out) {
        let Offer { group, epoch, members, mut checkpoints, spec, position } = offer;
        let mut reply = OfferReply { group, epoch, accepted: Vec::new(), refused: Vec::new(), lacks: Vec::new() };
        let welcome = self.fence(group, Claim { epoch, coordinator: from }, view);
        self.pull.on_answered(from, group);
        let never = view.lacks(view.me, &spec.requirement, &Reservation::default());
        let open = welcome
            && self.accepting_with(view).takes(&spec.requirement)
            && never.iter().all(Lack::is_passing)
            && !self.pull.holds_back_for_another(group);
        let spec = Arc::new(spec);
        for (member, number) in members {
            let job = JobId { group, member };
            let attempt = AttemptId { job, epoch, number };
            if welcome && self.knows(attempt, view) {
                reply.accepted.push((member, number));
            } else if open && !view.is_stop_wished(job) && self.room(group, &spec.requirement) {
                self.claim(attempt, &spec, position, checkpoints.remove(&member).unwrap_or_default());
                // Which graphics processors are left is only known once this one has its own.
                if spec.requirement.gpus > 0 {
                    self.run_next(now, view, out);
                }
                reply.accepted.push((member, number));
            } else {
                reply.refused.push((member, number));
            }
        }
        if !reply.refused.is_empty() {
            self.pull.on_refused(now, from, group);
            reply.lacks = view.lacks(view.me, &spec.requirement, &self.planned());
        }
        out.send(from, Message::OfferReply(Box::new(reply)));
    }

    fn claim(&mut self, attempt: AttemptId, spec: &Arc<GroupSpec>, position: Position, checkpoints: CheckpointMap) {
        self.waiting.add(attempt, &spec.requirement);
        self.share(spec, i64::from(spec.requirement.cpu_milli));
        let slot = Slot { spec: spec.clone(), position: Some(position), checkpoints, phase: Phase::Waiting };
        self.slots.insert(attempt, slot);
    }

    /// Held, or ended here before: then its end is in the log, or on its way there.
    fn knows(&self, attempt: AttemptId, view: &View) -> bool {
        let key = AttemptKey::of(attempt, view.me);
        let record = view.groups.get(&attempt.job.group).and_then(|group| group.jobs.get(&attempt.job.member));
        self.slots.contains_key(&attempt)
            || self.ending.contains(&attempt)
            || record.is_some_and(|record| record.attempts.contains_key(&key))
    }

    /// Notes who coordinates `group`; false when a higher claim is known.
    fn fence(&mut self, group: GroupId, claim: Claim, view: &View) -> bool {
        let logged = view.groups.get(&group).and_then(|live| live.record.claim);
        let known = self.fences.get(&group).copied().into_iter().chain(logged);
        let fenced = known.into_iter().any(|known| known.outranks(&claim, group));
        if fenced && !plant::is_planted(Plant::NoFence) {
            return false;
        }
        self.fences.insert(group, claim);
        true
    }

    /// What is reserved, and what the waiting ones will.
    pub(crate) fn planned(&self) -> Reservation {
        let mut planned = self.used.clone();
        let waiting_cpus = u32::try_from(self.waiting.cpu_milli).unwrap_or(u32::MAX);
        planned.cpu_milli = planned.cpu_milli.saturating_add(waiting_cpus);
        planned.memory.0 = planned.memory.0.saturating_add(self.waiting.memory_bytes);
        planned
    }

    /// Whether one more may be claimed: it fits beside all that is planned, or may wait a short while.
    fn room(&self, group: GroupId, requirement: &Requirement) -> bool {
        let gpus_free = requirement.gpus == 0 || self.waiting.gpu_jobs == 0;
        (gpus_free && self.fits_beside_planned(requirement))
            || self.waiting_of(group) < self.pull.ahead(group, requirement, &self.capacity)
    }

    fn fits_beside_planned(&self, requirement: &Requirement) -> bool {
        let cpu = u64::from(self.used.cpu_milli) + self.waiting.cpu_milli + u64::from(requirement.cpu_milli);
        let memory = self.used.memory.0.saturating_add(self.waiting.memory_bytes).saturating_add(requirement.memory.0);
        cpu <= u64::from(self.capacity.cpu_milli)
            && memory <= self.capacity.memory.0
            && self.capacity.fits(requirement, &self.used)
    }

    pub(crate) fn waiting_of(&self, group: GroupId) -> u64 {
        self.waiting.by_group.get(&group).copied().unwrap_or(0)
    }

    /// Hands waiting attempts to the shell while they fit.
    pub(crate) fn run_next(&mut self, now: Now, view: &View, out: &mut Out) {
        let mut at = 0;
        let mut stuck: Option<GroupId> = None;
        while at < self.waiting.order.len().min(OVERTAKE_MAX) {
            let attempt = self.waiting.order[at];
            let slot = self.slots.get_mut(&attempt).expect("a waiting attempt has a slot");
            let used = if plant::is_planted(Plant::Overcommit) { &Reservation::default() } else { &self.used };
            // Jobs of one group ask for the same.
            let same = stuck == Some(attempt.job.group);
            let reserved = if same { None } else { self.capacity.reserve(&slot.spec.requirement, used) };
            let Some(reservation) = reserved else {
                stuck = Some(attempt.job.group);
                at += 1;
                continue;
            };
            self.waiting.order.remove(at);
            self.waiting.subtract(attempt, &slot.spec.requirement);
            self.used.add(&reservation);
            if is_suspicious(attempt, view) {
                slot.phase = Phase::Announced { reservation, until: now.at + ANNOUNCE_FOR, seq: None };
                self.announced.insert(attempt);
                out.events.push(Event::AttemptStarted { attempt, started_unix_ms: now.unix_ms });
            } else {
                self.start(now, attempt, reservation, view, out);
            }
        }
        self.run_announced(now, view, out);
    }

    fn start(&mut self, now: Now, attempt: AttemptId, reservation: Reservation, view: &View, out: &mut Out) {
        let slot = self.slots.get_mut(&attempt).expect("only claimed attempts are started");
        slot.phase = Phase::Running { reservation: reservation.clone(), since: now.at, halted: false };
        let position = slot.position.expect("an offered attempt has a position");
        let coordinator = self.fences.get(&attempt.job.group).map(|claim| claim.coordinator);
        let providers = providers(coordinator, position.log.author, &slot.spec, view);
        let spec = GroupSpec::clone(&slot.spec);
        let checkpoint = for_run(attempt.job, &slot.checkpoints, view);
        let run = Run { attempt, spec, reservation, position, providers, checkpoint };
        out.effects.push(Effect::Run(Box::new(run)));
    }

    /// An announced start is durable here, at `seq` of this node's own log.
    pub(crate) fn on_announced(&mut self, attempt: AttemptId, at: u64) {
        if let Some(Slot { phase: Phase::Announced { seq, .. }, .. }) = self.slots.get_mut(&attempt) {
            *seq = Some(at);
        }
    }

    /// Starts what another node knows of.
    fn run_announced(&mut self, now: Now, view: &View, out: &mut Out) {
        if self.announced.is_empty() {
            return;
        }
        let alone = view.peers().next().is_none();
        let known = |at: u64| alone || view.nodes.iter().any(|(&node, seen)| node != view.me && seen.acked_seq >= at);
        for attempt in self.announced.clone() {
            let Some(Phase::Announced { reservation, until, seq }) = self.slots.get(&attempt).map(|slot| &slot.phase)
            else {
                self.announced.remove(&attempt);
                continue;
            };
            if seq.is_some_and(|at| known(at) || *until <= now.at) {
                let reservation = reservation.clone();
                self.announced.remove(&attempt);
                self.start(now, attempt, reservation, view, out);
            }
        }
    }

    pub(crate) fn on_started(&mut self, now: Now, attempt: AttemptId, started_unix_ms: u64) {
        if self.slots.contains_key(&attempt) {
            self.untold.insert(attempt, started_unix_ms);
            self.due.push_back((now.at + TELL_START_AFTER, attempt));
        }
    }

    pub(crate) fn on_ended(&mut self, now: Now, finished: Box<AttemptFinished>, inline: Vec<Vec<u8>>, out: &mut Out) {
        let group = finished.attempt.job.group;
        match self.release(finished.attempt) {
            Some(Slot { phase: Phase::Running { since, .. }, spec, .. }) => {
                self.pull.on_took(group, &spec, now.at - since);
            }
            Some(_) => self.waiting.order.retain(|waiting| *waiting != finished.attempt),
            None => {}
        }
        self.report(finished, inline, out);
    }

    fn report(&mut self, finished: Box<AttemptFinished>, inline: Vec<Vec<u8>>, out: &mut Out) {
        self.ending.insert(finished.attempt);
        out.events.push(Event::AttemptFinished { finished, inline });
    }

    /// These ends are durable: the records tell from now on.
    pub(crate) fn on_reported(&mut self, attempts: &[AttemptId]) {
        for attempt in attempts {
            self.ending.remove(attempt);
        }
    }

    /// Gives back whatever an attempt holds. The caller sees to `waiting.order`.
    fn release(&mut self, attempt: AttemptId) -> Option<Slot> {
        self.untold.remove(&attempt);
        let slot = self.slots.remove(&attempt)?;
        self.share(&slot.spec, -i64::from(slot.spec.requirement.cpu_milli));
        match &slot.phase {
            Phase::Running { reservation, .. } | Phase::Announced { reservation, .. } => {
                self.used.remove(reservation);
            }
            Phase::Waiting => self.waiting.subtract(attempt, &slot.spec.requirement),
        }
        Some(slot)
    }

    fn share(&mut self, spec: &GroupSpec, change: i64) {
        let projects = self.shares.entry(spec.user.clone()).or_default();
        let held = projects.entry(spec.project.clone()).or_default();
        *held = held.saturating_add_signed(change);
        if *held == 0 {
            projects.remove(&spec.project);
        }
        if projects.is_empty() {
            self.shares.remove(&spec.user);
        }
    }

    /// What a user holds here, and of it what this project does: thousandths of a CPU.
    pub(crate) fn held_by(&self, user: &str, project: &str) -> (u64, u64) {
        let Some(projects) = self.shares.get(user) else { return (0, 0) };
        (projects.values().sum(), projects.get(project).copied().unwrap_or(0))
    }

    /// A user no longer wants some of `group`.
    pub(crate) fn on_stop_wished(&mut self, now: Now, group: GroupId, view: &View, out: &mut Out) {
        self.halt_all(now, out, |attempt| view.is_stop_wished(attempt.job), of_group(group));
    }

    /// A job's record changed: what runs beside an outcome, or a wish, is stopped; what it says runs here and does not is lost.
    pub(crate) fn on_record(&mut self, now: Now, job: JobId, record: &JobRecord, view: &View, out: &mut Out) {
        for (key, attempt) in record.attempts.iter().filter(|(key, _)| key.worker == view.me) {
            let id = key.id(job);
            if attempt.is_running()
                && self.accepting != Accepting::Starting
                && !self.slots.contains_key(&id)
                && !self.ending.contains(&id)
            {
                self.report(Box::new(ended(id, Ending::Lost(LostReason::NotFound), now)), Vec::new(), out);
            }
        }
        if record.outcome.is_some() || record.stop.is_some() {
            self.halt_all(now, out, |_| true, of_job(job));
        }
    }

    /// The coordinator no longer wants these.
    pub(crate) fn on_cancel(&mut self, now: Now, from: NodeId, attempts: &[AttemptId], out: &mut Out) {
        for attempt in attempts {
            if self.fences.get(&attempt.job.group).is_none_or(|claim| claim.coordinator == from) {
                self.halt_all(now, out, |_| true, *attempt..=*attempt);
            }
        }
    }

    fn halt_all(
        &mut self,
        now: Now,
        out: &mut Out,
        unwanted: impl Fn(AttemptId) -> bool,
        among: RangeInclusive<AttemptId>,
    ) {
        let held = self.slots.range(among).map(|(&attempt, _)| attempt);
        let unwanted: Vec<AttemptId> = held.filter(|&attempt| unwanted(attempt)).collect();
        let mut left = false;
        for attempt in unwanted {
            left |= self.halt(now, attempt, out);
        }
        if left {
            self.waiting.order.retain(|attempt| self.slots.contains_key(attempt));
        }
    }

    /// Stops one attempt; true when it was only waiting and left its slot.
    fn halt(&mut self, now: Now, attempt: AttemptId, out: &mut Out) -> bool {
        match &mut self.slots.get_mut(&attempt).expect("only held attempts are halted").phase {
            Phase::Running { halted, .. } => {
                if !std::mem::replace(halted, true) && !plant::is_planted(Plant::IgnoreStop) {
                    out.effects.push(Effect::Halt(attempt));
                }
                false
            }
            Phase::Waiting | Phase::Announced { .. } => {
                self.release(attempt);
                self.report(Box::new(ended(attempt, Ending::Stopped, now)), Vec::new(), out);
                true
            }
        }
    }

    /// Says what it holds of a group to whom coordinates it; waits with the answer until the runner gave its own.
    pub(crate) fn on_take_over(&mut self, from: NodeId, group: GroupId, epoch: u32, view: &View, out: &mut Out) {
        if !self.fence(group, Claim { epoch, coordinator: from }, view) {
            return;
        }
        if self.accepting == Accepting::Starting {
            self.questions.insert(group, (from, epoch));
            return;
        }
        let held = self.slots.range(of_group(group)).map(|(&attempt, _)| attempt);
        // What ended a moment ago is not lost: its end is on its way.
        let holding = held.chain(self.ending.range(of_group(group)).copied()).collect();
        out.send(from, Message::TakeOverReply { group, epoch, holding });
    }

    /// The log says who coordinates `group`.
    pub(crate) fn on_claim_logged(&mut self, group: GroupId, claim: Claim, view: &View) {
        if self.slots.range(of_group(group)).next().is_some() {
            self.fence(group, claim, view);
        }
    }

    /// Tells starts that are due, forgets what is over.
    pub(crate) fn on_tick(&mut self, now: Now, view: &View, out: &mut Out) {
        while let Some((_, attempt)) = self.due.pop_front_if(|(due, _)| *due <= now.at) {
            if let Some(started_unix_ms) = self.untold.remove(&attempt) {
                out.events.push(Event::AttemptStarted { attempt, started_unix_ms });
            }
        }
        let slots = &self.slots;
        let alive = |group: &GroupId| view.groups.contains_key(group) || slots.range(of_group(*group)).next().is_some();
        self.fences.retain(|group, _| alive(group));
        self.pull.on_tick(now, alive);
    }

    /// Asks for waiting jobs when there is room.
    pub(crate) fn ask(&mut self, now: Now, view: &View, out: &mut Out) {
        if self.pull.may_ask(now) && self.accepting_with(view) == Accepting::Yes {
            let mut pull = std::mem::take(&mut self.pull);
            pull.ask(now, self, view, out);
            self.pull = pull;
        }
    }

    /// Whether it must be asked again soon, not just now and then.
    pub(crate) fn is_pressing(&self) -> bool {
        !self.due.is_empty() || !self.announced.is_empty() || self.pull.is_waiting()
    }

    fn accepting_with(&self, view: &View) -> Accepting {
        let drained =
            view.nodes.get(&view.me).is_some_and(|own| own.record.drained.is_some_and(|(_, drained)| drained));
        if drained && self.accepting == Accepting::Yes { Accepting::Draining } else { self.accepting }
    }

    /// I3: what is reserved is the sum over the slots, and no GPU is leased twice.
    pub(crate) fn check_invariants(&self) {
        let mut sum = Reservation::default();
        let mut waiting = Waiting::default();
        let mut gpus = 0;
        for (&attempt, slot) in &self.slots {
            match &slot.phase {
                Phase::Running { reservation, .. } | Phase::Announced { reservation, .. } => {
                    gpus += reservation.gpus.len();
                    sum.add(reservation);
                }
                Phase::Waiting => waiting.add(attempt, &slot.spec.requirement),
            }
        }
        assert_eq!(sum, self.used, "reservations are accounted for");
        assert_eq!(gpus, sum.gpus.len(), "I3: a GPU is leased twice");
        assert_eq!(waiting.by_group, self.waiting.by_group, "what waits is accounted for");
        assert_eq!(waiting.order.len(), self.waiting.order.len(), "what waits is queued once");
        assert_eq!(waiting.cpu_milli, self.waiting.cpu_milli, "what waits is summed up");
    }
}

/// Whether something took down who had this job before, and left no trace of it: then its start is made known to
/// another node first. A job that crashes its host within milliseconds would walk through the lab otherwise, for
/// nobody could count the attempts (DESIGN §9.5). Starts of all others are not delayed by any disk.
fn is_suspicious(attempt: AttemptId, view: &View) -> bool {
    let record = view.groups.get(&attempt.job.group).and_then(|live| live.jobs.get(&attempt.job.member));
    let traces = record.map_or(0, |record| record.attempts.len());
    attempt.epoch >= SUSPICIOUS_EPOCH || attempt.number as usize > traces + 1
}

/// All attempts of a group that can be.
fn of_group(group: GroupId) -> RangeInclusive<AttemptId> {
    let attempt = |member, count| AttemptId { job: JobId { group, member }, epoch: count, number: count };
    attempt(Member::Only, 0)..=attempt(Member::Index(u32::MAX), u32::MAX)
}

/// All attempts of a job that can be.
fn of_job(job: JobId) -> RangeInclusive<AttemptId> {
    let attempt = |count| AttemptId { job, epoch: count, number: count };
    attempt(0)..=attempt(u32::MAX)
}

/// An end without a process.
fn ended(attempt: AttemptId, ending: Ending, now: Now) -> AttemptFinished {
    AttemptFinished {
        attempt,
        ending,
        usage: Usage::default(),
        started_unix_ms: 0,
        ended_unix_ms: now.unix_ms,
        outputs: None,
        log: None,
        ran_with: None,
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
