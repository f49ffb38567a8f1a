//! The part of a node that sees its groups through: offers, take-overs, lost workers, outcomes.
//!
//! What is said here is only ever a matter of who asks whom: whether a job ended is judged from its
//! record ([`crate::verdict`]), so a coordinator can be lost at any moment. Called by [`crate::core`] alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::capacity::{Requirement, Reservation};
use crate::core_io::{Effect, News, Now};
use crate::dependency::{Gate, Standing, gate};
use crate::event::Event;
use crate::id::{AttemptId, GroupId, JobId, Member, NodeId};
use crate::job::{Dependency, Ending, StartFailure};
use crate::led::{Check, Given, Led, Recount};
use crate::message::{Demand, Message, Offer, OfferReply};
use crate::outbox::Out;
use crate::placement::Rooms;
use crate::plant::{self, Plant};
use crate::record::{AttemptKey, Claim, GroupRecord, JobRecord};
use crate::time::Timestamp;
use crate::verdict::{Verdict, judge};
use crate::view::{LiveGroup, Presence, View};

/// A worker that refused is not pushed to for this long; it may still ask by itself.
const REFUSED_FOR: Duration = Duration::from_millis(500);
/// A new coordinator waits so long for workers to say what they hold (DESIGN §9).
pub(crate) const RECOUNT_FOR: Duration = Duration::from_millis(1_000);
/// An attempt that runs by the log, but not by its worker: its end is surely on the way. Then it is lost.
const UNKNOWN_GRACE: Duration = Duration::from_millis(5_000);
/// Workers are asked again so often what they hold: any message may be lost, and so may what a worker claimed.
const ASK_EVERY: Duration = Duration::from_millis(10_000);
/// Waiting jobs are made known anew so often.
const DEMAND_EVERY: Duration = Duration::from_millis(2_000);
/// A dependency that is not alive here is looked up again so often.
const LOOK_UP_EVERY: Duration = Duration::from_millis(2_000);
/// Whatever was asked or offered is answered, repeated or given up within this.
const UNSURE_FOR: Duration = Duration::from_millis(6_000);
/// Most jobs in one offer: keeps the message far below its limit.
const OFFER_MAX: usize = 512;

/// The groups that one node coordinates.
#[derive(Debug, Default)]
pub(crate) struct Coordinator {
    led: BTreeMap<GroupId, Led>,
    /// Something changed that may let a queued job be placed: looked at with the next tick.
    stirred: bool,
    /// Jobs came that may be placed: looked at in this very step.
    urgent: bool,
    /// Until then answers or deadlines are due.
    unsure_until: Timestamp,
    demands_told: (Timestamp, Vec<GroupId>),
}

impl Coordinator {
    /// Something about groups or nodes changed: queued jobs may fit now.
    pub(crate) fn stir(&mut self) {
        self.stirred = !self.led.is_empty();
    }

    /// How many groups it coordinates.
    pub(crate) fn is_idle(&self) -> bool {
        self.led.is_empty()
    }

    /// Whether it must be asked again soon, not just now and then.
    pub(crate) fn is_pressing(&self, now: Now) -> bool {
        self.stirred || self.urgent || now.at < self.unsure_until
    }

    /// Whether a group waits for others: then what happens to those matters at once.
    pub(crate) fn has_dependents(&self) -> bool {
        self.led.values().any(|led| !led.waits_for.is_empty())
    }

    /// Which attempt of an unfinished job is on its way, and where; `None` while it is queued.
    pub(crate) fn given(&self, job: JobId) -> Option<(AttemptId, NodeId)> {
        let given = self.led.get(&job.group)?.given.get(&job.member)?;
        Some((given.attempt, given.worker))
    }

    /// Jobs that wait for others, and for which.
    pub(crate) fn waits_for(&self, group: GroupId) -> Vec<JobId> {
        let led = self.led.get(&group);
        led.map(|led| led.waits_for.iter().map(|wait| wait.dependency.on).collect()).unwrap_or_default()
    }

    /// Nodes that could not prepare it.
    pub(crate) fn unfit(&self, group: GroupId) -> BTreeSet<NodeId> {
        self.led.get(&group).map(|led| led.unfit.keys().copied().collect()).unwrap_or_default()
    }

    /// A group's record changed, or it left the view.
    pub(crate) fn on_group(&mut self, now: Now, group: GroupId, fresh: bool, view: &View, out: &mut Out) {
        let live = view.groups.get(&group);
        let claim = live.and_then(|live| live.record.claim);
        let mine = claim.filter(|claim| claim.coordinator == view.me);
        let (Some(live), Some(claim)) = (live, mine) else {
            if !plant::is_planted(Plant::NoFence) || live.is_none() {
                self.led.remove(&group);
            }
            return;
        };
        if live.record.submitted.is_none() {
            return;
        }
        if self.led.get(&group).is_none_or(|led| led.claim != claim) {
            self.lead(now, group, claim, fresh, view, out);
        }
        if live.record.stop.is_some() {
            self.judge_all(now, group, view, out);
        }
    }

    fn lead(&mut self, now: Now, group: GroupId, claim: Claim, fresh: bool, view: &View, out: &mut Out) {
        let spec = view.spec(group).expect("a group is led once its submission is known");
        let mut led = Led::new(claim, spec);
        if !fresh {
            let missing: BTreeSet<NodeId> = view.peers().chain([view.me]).collect();
            for &node in &missing {
                led.asked.insert(node, now.at);
                out.send(node, Message::TakeOver { group, epoch: claim.epoch });
            }
            out.effects.push(Effect::News(News::TookOver(group)));
            self.unsure_until = now.at + UNSURE_FOR;
            led.recount = Some(Recount { missing, until: now.at + RECOUNT_FOR });
        }
        self.led.insert(group, led);
        self.urgent = true;
        if !fresh {
            self.judge_all(now, group, view, out);
        }
    }

    /// A job's record changed.
    pub(crate) fn on_job(&mut self, now: Now, job: JobId, view: &View, out: &mut Out) {
        let Some(led) = self.led.get_mut(&job.group) else { return };
        let Some(live) = view.groups.get(&job.group) else { return };
        let Some(submitted) = &live.record.submitted else { return };
        // The batch that tells of this job may tell as well that another coordinates now.
        if live.record.claim != Some(led.claim) && !plant::is_planted(Plant::NoFence) {
            return;
        }
        let none = JobRecord::default();
        let record = live.jobs.get(&job.member).unwrap_or(&none);
        if record.outcome.is_some() {
            led.settle(job, record, out);
            return;
        }
        if led.decided.contains(&job.member) && !plant::is_planted(Plant::DecideTwice) {
            return;
        }
        led.follow(now, job, record, view, out);
        let held = led.given.contains_key(&job.member);
        match judge(&submitted.spec, job, record, live.stop_wished(job.member)) {
            // What a worker still holds ends by the worker's word.
            Verdict::Done { ending: Ending::Stopped, .. } if held => {}
            Verdict::Done { attempt, ending } => led.decide(job, attempt, ending, out),
            Verdict::Running => {}
            Verdict::Needed => {
                if !held && submitted.spec.contains(job.member) && led.queue.insert(job.member) {
                    self.stirred = true;
                }
            }
        }
    }

    fn judge_all(&mut self, now: Now, group: GroupId, view: &View, out: &mut Out) {
        let Some(led) = self.led.get(&group) else { return };
        let mut members: BTreeSet<Member> = led.queue.clone();
        members.extend(led.given.keys());
        for member in members {
            self.on_job(now, JobId { group, member }, view, out);
        }
    }

    pub(crate) fn on_offer_reply(&mut self, now: Now, from: NodeId, reply: &OfferReply, view: &View, out: &mut Out) {
        let group = reply.group;
        let Some(led) = self.led.get_mut(&group).filter(|led| led.claim.epoch == reply.epoch) else { return };
        let attempt = |(member, number)| AttemptId { job: JobId { group, member }, epoch: reply.epoch, number };
        for &named in &reply.accepted {
            match led.given.get_mut(&named.0) {
                Some(given) if given.worker == from && given.attempt == attempt(named) => {
                    given.confirmed = true;
                    given.missing_until = None;
                }
                // It was given elsewhere meanwhile, or is decided.
                _ => led.revoke(from, attempt(named), view, out),
            }
        }
        let mut refused = Vec::new();
        for &named in &reply.refused {
            let current = |given: &Given| given.worker == from && given.attempt == attempt(named) && !given.started;
            if led.given.get(&named.0).is_some_and(current) {
                // The name may be used again: who refused it does not hold it.
                led.given.remove(&named.0);
                refused.push(named.0);
            }
        }
        if !reply.refused.is_empty() {
            led.busy.insert(from, now.at + REFUSED_FOR);
        }
        if plant::is_planted(Plant::ForgetRefused) {
            return;
        }
        for member in refused {
            self.on_job(now, JobId { group, member }, view, out);
        }
    }

    /// A worker with room asks.
    pub(crate) fn on_claim(&mut self, now: Now, from: NodeId, group: GroupId, count: u32, view: &View, out: &mut Out) {
        let unfit = |led: &Led| led.unfit.get(&from).is_some_and(|&until| now.at < until);
        let take: Vec<Member> = match self.led.get(&group) {
            Some(led) if led.is_open() && !unfit(led) => {
                led.queue.iter().copied().take((count as usize).min(OFFER_MAX)).collect()
            }
            _ => Vec::new(),
        };
        if take.is_empty() {
            // The worker believes a demand that is over; say what is true.
            out.send(from, Message::Demands(self.demands(now, from, view)));
            return;
        }
        self.give(now, group, from, &take, view, out);
    }

    /// A worker says all that it holds of a group.
    pub(crate) fn on_take_over_reply(
        &mut self,
        now: Now,
        from: NodeId,
        (group, epoch): (GroupId, u32),
        holding: &[AttemptId],
        view: &View,
        out: &mut Out,
    ) {
        let Some(led) = self.led.get_mut(&group).filter(|led| led.claim.epoch == epoch) else { return };
        for &attempt in holding {
            let member = attempt.job.member;
            let record = view.groups.get(&group).and_then(|live| live.jobs.get(&member));
            let key = AttemptKey::of(attempt, from);
            let logged = record.and_then(|record| record.attempts.get(&key));
            let over = logged.is_some_and(|logged| logged.finished.is_some());
            if over || led.decided.contains(&member) || record.is_some_and(|record| record.outcome.is_some()) {
                continue;
            }
            match led.given.get_mut(&member) {
                Some(given) if given.worker == from && given.attempt == attempt => {
                    given.confirmed = true;
                    given.missing_until = None;
                }
                // It was given elsewhere meanwhile. One that runs goes on: its log tells, or its outcome ends it.
                Some(_) if logged.is_none() => led.revoke(from, attempt, view, out),
                Some(_) => {}
                None => {
                    led.queue.remove(&member);
                    let given = Given { confirmed: true, ..Given::new(now, attempt, from, view) };
                    led.given.insert(member, given);
                }
            }
        }
        let again = led.note_missing(now, from, holding);
        self.unsure_until = now.at + UNSURE_FOR;
        if let Some(recount) = &mut led.recount {
            recount.missing.remove(&from);
        }
        self.stirred = true;
        self.offer_again(now, group, from, &again, view, out);
    }

    /// A stream to `node` opened: ask what it holds, take back what it should not run.
    pub(crate) fn on_connected(&mut self, now: Now, node: NodeId, view: &View, out: &mut Out) {
        for (&group, led) in &mut self.led {
            let revoked: Vec<AttemptId> =
                led.revoked.extract_if(.., |(worker, _)| *worker == node).map(|(_, attempt)| attempt).collect();
            if !revoked.is_empty() {
                out.send(node, Message::Cancel(revoked));
            }
            let given = led.given.values().any(|given| given.worker == node);
            if given || led.recount.is_some() {
                led.asked.insert(node, now.at);
                if let Some(recount) = &mut led.recount {
                    recount.missing.insert(node);
                }
                out.send(node, Message::TakeOver { group, epoch: led.claim.epoch });
            }
        }
        let demands = self.demands(now, node, view);
        if !demands.is_empty() {
            out.send(node, Message::Demands(demands));
        }
        self.stir();
    }

    pub(crate) fn on_looked_up(&mut self, job: JobId, group: Option<&GroupRecord>, record: Option<&JobRecord>) {
        for wait in self.led.values_mut().flat_map(|led| &mut led.waits_for) {
            if wait.dependency.on == job
                && let Some(group) = group
            {
                wait.standing = Standing::of(job, group, record);
            }
        }
        for parent in self.led.values_mut().filter_map(|led| led.parent.as_mut()).filter(|parent| parent.job == job) {
            parent.has_ended |= group.is_some_and(|group| Standing::of(job, group, record).has_ended());
        }
        self.stir();
    }

    /// Watches over what was given, weighs dependencies.
    pub(crate) fn on_tick(&mut self, now: Now, own_seq: u64, view: &View, out: &mut Out) {
        let groups: Vec<GroupId> = self.led.keys().copied().collect();
        for group in groups {
            self.check_recount(now, group);
            self.check_given(now, group, view, out);
            self.weigh_dependencies(now, group, own_seq, view, out);
            self.follow_parent(now, group, view, out);
        }
        self.urgent |= std::mem::take(&mut self.stirred);
    }

    /// Places what can be placed, tells what waits. Nothing to do for most steps.
    pub(crate) fn work(
        &mut self,
        now: Now,
        ticked: bool,
        planned: impl Fn() -> Reservation,
        view: &View,
        out: &mut Out,
    ) {
        let placing = std::mem::take(&mut self.urgent);
        if placing {
            self.place(now, planned, view, out);
        }
        if placing || ticked {
            self.tell_demands(now, view, out);
        }
    }

    fn check_recount(&mut self, now: Now, group: GroupId) {
        let led = self.led.get_mut(&group).expect("listed by the caller");
        if led.recount.as_ref().is_some_and(|recount| recount.missing.is_empty() || recount.until <= now.at) {
            led.recount = None;
            self.stirred = true;
        }
    }

    /// Takes back what absent workers hold, repeats what was not answered.
    fn check_given(&mut self, now: Now, group: GroupId, view: &View, out: &mut Out) {
        let led = self.led.get_mut(&group).expect("listed by the caller");
        let mut presences: BTreeMap<NodeId, Presence> = BTreeMap::new();
        let mut again: BTreeMap<NodeId, Vec<Member>> = BTreeMap::new();
        let mut taken_back = Vec::new();
        for (&member, given) in &led.given {
            let presence = *presences.entry(given.worker).or_insert_with(|| view.presence(given.worker));
            match given.check(now, presence) {
                Check::Fine => {}
                Check::OfferAgain => again.entry(given.worker).or_default().push(member),
                Check::TakeBack => taken_back.push((member, None)),
                Check::Lost(reason) => taken_back.push((member, Some(reason))),
            }
        }
        for (worker, _) in presences.into_iter().filter(|(_, presence)| *presence == Presence::Up) {
            let asked = led.asked.entry(worker).or_insert(now.at);
            if *asked + ASK_EVERY <= now.at {
                *asked = now.at;
                out.send(worker, Message::TakeOver { group, epoch: led.claim.epoch });
            }
        }
        let mut unstarted = Vec::new();
        for (member, lost) in taken_back {
            let Given { attempt, worker, .. } = led.forget_given(member).expect("just seen");
            led.revoke(worker, attempt, view, out);
            match lost {
                // It is judged when this has come back as a record.
                Some(reason) => {
                    led.losing.insert((worker, attempt));
                    out.events.push(Event::AttemptLost { attempt, worker, reason });
                }
                None => unstarted.push(member),
            }
        }
        for member in unstarted {
            self.on_job(now, JobId { group, member }, view, out);
        }
        for (worker, members) in again {
            self.offer_again(now, group, worker, &members, view, out);
        }
    }

    fn weigh_dependencies(&mut self, now: Now, group: GroupId, own_seq: u64, view: &View, out: &mut Out) {
        let led = self.led.get_mut(&group).expect("listed by the caller");
        if led.waits_for.is_empty() {
            return;
        }
        for wait in &mut led.waits_for {
            let on = wait.dependency.on;
            if let Some(live) = view.groups.get(&on.group) {
                wait.standing = Standing::of(on, &live.record, live.jobs.get(&on.member));
            } else if wait.asked.is_none_or(|asked| asked + LOOK_UP_EVERY <= now.at) {
                wait.asked = Some(now.at);
                out.effects.push(Effect::LookUp(on));
            }
        }
        let weighed: Vec<(Dependency, Standing)> =
            led.waits_for.iter().map(|wait| (wait.dependency, wait.standing)).collect();
        match gate(&weighed) {
            Gate::Waiting => {}
            Gate::Open => {
                // An outcome triggers others only once two nodes hold it; alone, one is all there is.
                let needed = *led.waits_for[0].held_seq.get_or_insert(own_seq);
                let held = view.peers().any(|peer| view.nodes[&peer].acked_seq >= needed);
                if held || view.peers().next().is_none() {
                    led.waits_for.clear();
                    self.stirred = true;
                }
            }
            Gate::Never(on) => {
                let ending = Ending::NotStarted(StartFailure::Dependency(on));
                for member in led.queue.clone() {
                    led.decide(JobId { group, member }, None, ending.clone(), out);
                }
            }
        }
    }

    /// A part of a job is stopped once that job has ended, however it did.
    fn follow_parent(&mut self, now: Now, group: GroupId, view: &View, out: &mut Out) {
        let led = self.led.get_mut(&group).expect("listed by the caller");
        let Some(parent) = led.parent.as_mut().filter(|parent| !parent.is_followed) else { return };
        if let Some(live) = view.groups.get(&parent.job.group) {
            let record = live.jobs.get(&parent.job.member);
            parent.has_ended = Standing::of(parent.job, &live.record, record).has_ended();
        } else if !parent.has_ended && parent.asked.is_none_or(|asked| asked + LOOK_UP_EVERY <= now.at) {
            parent.asked = Some(now.at);
            out.effects.push(Effect::LookUp(parent.job));
        }
        if parent.has_ended {
            parent.is_followed = true;
            let job = JobId { group, member: Member::Only };
            if view.groups.get(&group).is_some_and(|live| live.record.stop.is_none()) {
                out.events.push(Event::StopWished { job });
            }
        }
    }

    /// Pushes queued jobs to nodes where they fit now.
    fn place(&mut self, now: Now, planned: impl Fn() -> Reservation, view: &View, out: &mut Out) {
        let mut order: Vec<GroupId> =
            self.led.iter().filter(|(_, led)| led.is_waiting()).map(|(&group, _)| group).collect();
        if order.is_empty() {
            return;
        }
        order.sort_by_key(|group| (view.spec(*group).map_or(0, |spec| -i64::from(spec.priority)), *group));
        let mut rooms = Rooms::new(view, planned());
        for (&group, led) in &self.led {
            let Some(spec) = view.spec(group) else { continue };
            for given in led.given.values() {
                rooms.promise(given.worker, given.version, &spec.requirement);
            }
        }
        for group in order {
            let Some(spec) = view.spec(group) else { continue };
            let led = &self.led[&group];
            let mut candidates = rooms.candidates(group, spec, &|node| led.avoids(node, now));
            let mut chosen: BTreeMap<NodeId, Vec<Member>> = BTreeMap::new();
            for &member in &led.queue {
                let Some(node) = rooms.choose(&mut candidates) else { break };
                chosen.entry(node).or_default().push(member);
            }
            for (node, members) in chosen {
                for batch in members.chunks(OFFER_MAX) {
                    self.give(now, group, node, batch, view, out);
                }
            }
        }
    }

    fn give(&mut self, now: Now, group: GroupId, worker: NodeId, members: &[Member], view: &View, out: &mut Out) {
        let led = self.led.get_mut(&group).expect("only groups that are led are given");
        for &member in members {
            led.queue.remove(&member);
            let record = view.groups.get(&group).and_then(|live| live.jobs.get(&member));
            let attempt = led.next_attempt(JobId { group, member }, record);
            led.given.insert(member, Given::new(now, attempt, worker, view));
        }
        self.unsure_until = now.at + UNSURE_FOR;
        self.send_offer(group, worker, members, view, out);
    }

    fn offer_again(
        &mut self,
        now: Now,
        group: GroupId,
        worker: NodeId,
        members: &[Member],
        view: &View,
        out: &mut Out,
    ) {
        let led = self.led.get_mut(&group).expect("listed by the caller");
        for member in members {
            let given = led.given.get_mut(member).expect("listed by the caller");
            given.since = now.at;
            given.tries += 1;
        }
        for batch in members.chunks(OFFER_MAX) {
            self.send_offer(group, worker, batch, view, out);
        }
    }

    fn send_offer(&self, group: GroupId, worker: NodeId, members: &[Member], view: &View, out: &mut Out) {
        let led = &self.led[&group];
        let Some(live) = view.groups.get(&group) else { return };
        let Some(submitted) = &live.record.submitted else { return };
        let checkpoints = members.iter().filter_map(|member| {
            let checkpoints = &live.jobs.get(member)?.checkpoints;
            (!checkpoints.is_empty()).then(|| (*member, checkpoints.clone()))
        });
        let checkpoints = checkpoints.collect();
        let members = members.iter().map(|member| (*member, led.given[member].attempt.number)).collect();
        let spec = (*submitted.spec).clone();
        let offer = Offer { group, epoch: led.claim.epoch, members, checkpoints, spec, position: submitted.position };
        out.send(worker, Message::Offer(Box::new(offer)));
    }

    /// Makes waiting jobs known: at once when a group starts or stops to wait, else now and then.
    fn tell_demands(&mut self, now: Now, view: &View, out: &mut Out) {
        let waits: Vec<GroupId> =
            self.led.iter().filter(|(_, led)| led.is_waiting()).map(|(&group, _)| group).collect();
        let (told_at, told) = &self.demands_told;
        if *told == waits && (waits.is_empty() || now.at < *told_at + DEMAND_EVERY) {
            return;
        }
        self.demands_told = (now.at, waits);
        for node in view.peers().chain([view.me]) {
            out.send(node, Message::Demands(self.demands(now, node, view)));
        }
    }

    /// What waits here and may be had by `node`.
    fn demands(&self, now: Now, node: NodeId, view: &View) -> Vec<Demand> {
        let unfit = |led: &Led| led.unfit.get(&node).is_some_and(|&until| now.at < until);
        let open = self.led.iter().filter(|(_, led)| led.is_waiting() && !unfit(led));
        open.filter_map(|(&group, led)| {
            let spec = view.spec(group)?;
            Some(Demand {
                group,
                waiting: u32::try_from(led.queue.len()).unwrap_or(u32::MAX),
                requirement: Requirement::clone(&spec.requirement),
                user: spec.user.clone(),
                project: spec.project.clone(),
                priority: spec.priority,
                submitted_unix_ms: group.unix_ms(),
            })
        })
        .collect()
    }

    /// Each unfinished member is in exactly one place.
    pub(crate) fn check_invariants(&self) {
        for (&group, led) in &self.led {
            led.check_invariants(group);
        }
    }
}

impl Led {
    /// What `from` was given and does not hold: offers that it has not seen are returned, to be made again; the end
    /// of the others is surely on its way.
    fn note_missing(&mut self, now: Now, from: NodeId, holding: &[AttemptId]) -> Vec<Member> {
        let asked = self.asked.get(&from).copied().unwrap_or_default();
        let epoch = self.claim.epoch;
        let holding: BTreeSet<AttemptId> = holding.iter().copied().collect();
        let mut again = Vec::new();
        for (&member, given) in &mut self.given {
            // What was offered after the question is not part of the answer.
            if given.worker != from || holding.contains(&given.attempt) || asked <= given.since && !given.started {
                continue;
            }
            if !given.started && given.attempt.epoch == epoch {
                again.push(member);
            } else {
                given.missing_until.get_or_insert(now.at + UNKNOWN_GRACE);
            }
        }
        again
    }
}

impl LiveGroup {
    fn stop_wished(&self, member: Member) -> bool {
        self.record.stop.is_some() || self.jobs.get(&member).is_some_and(|record| record.stop.is_some())
    }
}

#[cfg(test)]
#[path = "coordinator_tests.rs"]
mod tests;
