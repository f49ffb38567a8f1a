//! The core: every decision of a node on a job, a member or an entry. One input and the time go in, a
//! list of effects comes out. The daemon and the simulator run this very code.
//!
//! State reaches the rules only as records that the store has made durable and folded, so nothing is
//! acted on that a crash could take back.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::advert::OwnAdvert;
use crate::capacity::{Capacity, Reservation};
use crate::checkpoint::Checkpoints;
use crate::coordinator::Coordinator;
use crate::core_io::{Effect, Input, News, Now, RequestId, StoreTicket};
use crate::entry::{Identity, LogId, Position, VerifiedEntry};
use crate::event::Event;
use crate::explain::{Explanation, explain};
use crate::id::{AttemptId, GroupId, JobId, NodeId};
use crate::job::BundleRef;
use crate::keeping::Keeping;
use crate::log::{Head, Log, VersionVector};
use crate::membership::{self, Liveness, Membership};
use crate::message::{Accepting, BUNDLES_MAX, Message};
use crate::outbox::Out;
use crate::pace::Pace;
use crate::record::{Record, RecordKey};
use crate::replication::Replication;
use crate::snapshot::SignedSnapshot;
use crate::snapshotting::{SnapshotRules, Snapshotting};
use crate::time::{Hlc, Timestamp};
use crate::view::{LiveGroup, View};
use crate::worker::Worker;

#[path = "core_log.rs"]
mod core_log;

/// While jobs or requests are in flight, timeouts are looked at this often.
const TICK_BUSY: Duration = Duration::from_millis(25);
/// Otherwise this often: an idle node costs next to nothing.
const TICK_IDLE: Duration = Duration::from_millis(500);
/// What a node says to itself is heard in the same step; a claim, its offer, its answer take a few rounds per group.
const ROUNDS_MAX: u32 = 100_000;
/// Members that a restarted daemon has not heard yet are believed alive this long.
const UNHEARD_GRACE: Duration = Duration::from_millis(6_000);

/// What a core starts from.
#[derive(Debug)]
pub struct Boot {
    /// The node's key pair.
    pub identity: Identity,
    /// Made durable before; greater than in every earlier life.
    pub incarnation: u64,
    /// Name for people.
    pub name: String,
    /// Version of this software.
    pub software: String,
    /// What the store has of every log.
    pub heads: BTreeMap<LogId, Head>,
    /// The latest reading of the hybrid clock in any entry that the store has.
    pub hlc: Hlc,
    /// The snapshots that it starts from.
    pub snapshots: Vec<SignedSnapshot>,
    /// Up to which entry each log may not be in the store: a snapshot covers it.
    pub floors: VersionVector,
    /// When snapshots are made, and what they let go.
    pub snapshot_rules: SnapshotRules,
    /// Every unfinished group with its jobs, and every member.
    pub records: Vec<(RecordKey, Record)>,
    /// What this node offers.
    pub capacity: Capacity,
    /// Where it can be dialled.
    pub addrs: Vec<String>,
    /// Seed of its dice.
    pub seed: u64,
}

/// Everything that one node decides with.
#[derive(Debug)]
pub struct Core {
    log: Log,
    membership: Membership,
    replication: Replication,
    snapshotting: Snapshotting,
    worker: Worker,
    coordinator: Coordinator,
    keeping: Keeping,
    checkpoints: Checkpoints,
    view: View,
    rng: StdRng,
    advert: OwnAdvert,
    outbox: VecDeque<(Event, Option<Waiting>)>,
    storing: VecDeque<Storing>,
    tickets: u64,
    own_in_flight: bool,
    pace: Pace,
    /// What is to be written waits for more until then.
    patient_until: Option<Timestamp>,
    /// Who has more entries than it sent, and the batch after which to ask for them.
    more_from: Option<(NodeId, StoreTicket)>,
    /// Groups that this node claims, and the highest epoch that it wrote for each.
    taking: BTreeMap<GroupId, u32>,
    /// Somebody went or came: orphans, and what the absent hold, are looked at in this very step.
    alarmed: bool,
    started_at: Option<Timestamp>,
    ticked_at: Timestamp,
    wake_asked: Option<Timestamp>,
}

/// A request that is answered when its event is durable.
#[derive(Debug)]
enum Waiting {
    Submission { request: RequestId, group: GroupId, bundle: Option<BundleRef> },
    Write(RequestId),
}

/// A batch on its way to the disk.
#[derive(Debug)]
struct Storing {
    ticket: StoreTicket,
    entries: Vec<VerifiedEntry>,
    forward: bool,
    writes: Vec<RequestId>,
}

impl Core {
    /// A core that goes on from `boot`. The first step should be [`Input::Tick`].
    #[must_use]
    pub fn new(boot: Boot) -> Self {
        let me = boot.identity.node();
        let durable = VersionVector(boot.heads.iter().map(|(&log, head)| (log, head.seq)).collect());
        let mut view = View::new(me);
        let mut records = boot.records;
        // Groups first: a job's record is kept only where its group is.
        records.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (key, record) in records {
            view.on_record(&key, record);
        }
        for (&node, seen) in view.nodes.iter_mut().filter(|(node, _)| **node != me) {
            debug_assert_ne!(node, me);
            seen.liveness = Some(Liveness::Suspect);
            seen.unheard = true;
        }
        let mut core = Self {
            log: Log::new(boot.identity, boot.incarnation, boot.heads, boot.hlc),
            membership: Membership::new(me, boot.incarnation, boot.seed),
            replication: Replication::new(durable),
            snapshotting: Snapshotting::new(boot.snapshot_rules, boot.snapshots, boot.floors),
            worker: Worker::new(boot.capacity),
            coordinator: Coordinator::default(),
            keeping: Keeping::default(),
            checkpoints: Checkpoints::default(),
            view,
            rng: StdRng::seed_from_u64(boot.seed ^ 0x5eed),
            advert: OwnAdvert::new(boot.incarnation, boot.name.clone(), boot.software.clone(), boot.addrs),
            outbox: VecDeque::new(),
            storing: VecDeque::new(),
            tickets: 0,
            own_in_flight: false,
            pace: Pace::default(),
            patient_until: None,
            more_from: None,
            taking: BTreeMap::new(),
            alarmed: false,
            started_at: None,
            ticked_at: Timestamp::default(),
            wake_asked: None,
        };
        core.worker.set_labels(core.view.own_labels());
        core.outbox.push_back((Event::MemberJoined { name: boot.name, software: boot.software }, None));
        core.reclaim();
        core
    }

    /// Groups that this node coordinated in an earlier life are taken over from itself: offers were only in memory.
    fn reclaim(&mut self) {
        for (&group, live) in &self.view.groups {
            if let Some(claim) = live.record.claim.filter(|claim| claim.coordinator == self.view.me)
                && live.record.submitted.is_some()
            {
                let epoch = claim.epoch.saturating_add(1);
                self.taking.insert(group, epoch);
                self.outbox.push_back((Event::TookOver { group, epoch }, None));
            }
        }
    }

    /// What this node sees.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// What of every log is on this node's disk.
    #[must_use]
    pub fn durable(&self) -> &VersionVector {
        self.replication.durable()
    }

    /// The log that this node writes in this life.
    #[must_use]
    pub fn own_log(&self) -> LogId {
        self.log.own()
    }

    /// The snapshots that this node starts from.
    #[must_use]
    pub fn snapshots(&self) -> &[SignedSnapshot] {
        self.snapshotting.held()
    }

    /// What jobs hold of this node.
    #[must_use]
    pub fn used(&self) -> &Reservation {
        self.worker.used()
    }

    /// Every attempt that this node claimed, with whether it was handed to the shell.
    pub fn holding(&self) -> impl Iterator<Item = (AttemptId, bool)> + '_ {
        self.worker.holding()
    }

    /// Where an unfinished job stands and why; `None` for one that is not alive.
    #[must_use]
    pub fn explain(&self, job: JobId) -> Option<Explanation> {
        explain(job, &self.view, &self.coordinator, self.worker.used())
    }

    /// Panics when a rule was broken: called after each step by tests and the simulator.
    ///
    /// # Panics
    /// See the messages.
    pub fn check_invariants(&self) {
        self.worker.check_invariants();
        self.coordinator.check_invariants();
    }

    /// Takes one input at `now`; returns what the shell must do, in order.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.started_at.get_or_insert(now.at);
        let mut out = Out::default();
        self.on_input(now, input, &mut out);
        let ticked = self.alarmed || self.ticked_at + TICK_BUSY <= now.at;
        if ticked {
            self.ticked_at = now.at;
            self.on_tick(now, &mut out);
        }
        let mut rounds = 0;
        let mut effects = Vec::new();
        loop {
            self.work(now, ticked && rounds == 0, &mut out);
            self.write(now, &mut out, &mut effects);
            if out.is_empty() {
                break;
            }
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "this node answers itself for ever");
            effects.append(&mut out.effects);
            for (to, message) in std::mem::take(&mut out.sends) {
                if to == self.view.me {
                    self.on_message(now, to, message, &mut out);
                } else {
                    effects.push(Effect::Send { to, message });
                }
            }
        }
        self.ask_wake(now, &mut effects);
        effects
    }

    fn on_input(&mut self, now: Now, input: Input, out: &mut Out) {
        match input {
            Input::Tick => {}
            Input::Received { from, message } => self.on_message(now, from, message, out),
            Input::Entries { from, entries, fresh, more } => self.on_entries(now, from, entries, fresh, more, out),
            Input::Connected(node) => self.on_connected(now, node, out),
            Input::Disconnected(node) => {
                if let Some(seen) = self.view.nodes.get_mut(&node) {
                    seen.connected = false;
                }
            }
            Input::Refused(node) => self.on_refused(now, node),
            Input::Submit { request, group, spec, inline } => {
                let bundle = spec.bundle.filter(|_| inline.is_empty());
                let waiting = Waiting::Submission { request, group, bundle };
                self.outbox.push_back((Event::GroupSubmitted { group, spec, inline }, Some(waiting)));
            }
            Input::Write { request, event } => self.outbox.push_back((event, Some(Waiting::Write(request)))),
            Input::Stored { ticket, changed } => self.on_stored(now, ticket, changed, out),
            Input::Fetched { position, bundle, complete } => {
                self.replication.on_fetched(position, bundle, complete, out);
            }
            Input::Kept { left, complete } => self.keeping.on_kept(now, &left, complete),
            Input::Reviewed(left) => self.keeping.on_reviewed(now, left, &self.view),
            Input::LookedUp { job, group, record } => {
                self.coordinator.on_looked_up(job, group.as_deref(), record.as_deref());
                self.worker.on_looked_up(now, job, group.as_deref(), record.as_deref(), out);
            }
            Input::Adopted { attempts } => self.worker.on_adopted(now, attempts, &self.view, out),
            Input::Started { attempt, started_unix_ms } => self.worker.on_started(now, attempt, started_unix_ms),
            Input::Checkpoint { attempt, bundle, saved_unix_ms } => {
                self.checkpoints.on_saved(attempt, bundle, saved_unix_ms, &self.view, out);
            }
            Input::Ended { finished, inline } => self.worker.on_ended(now, finished, inline, out),
            Input::Capacity(capacity) => {
                self.worker.set_capacity(*capacity);
                self.coordinator.stir();
            }
            Input::Accepting(accepting) => {
                if self.worker.accepting() != Accepting::Starting {
                    self.worker.set_accepting(accepting);
                    self.coordinator.stir();
                }
            }
            Input::Snapshot(input) => self.on_snapshot(now, input, out),
            Input::Addrs(addrs) => self.advert.set_addrs(addrs),
            Input::Bundles(mut bundles) => {
                bundles.truncate(BUNDLES_MAX);
                self.advert.set_bundles(bundles);
            }
            Input::Leave => {
                for node in self.view.peers() {
                    out.send(node, Message::Leaving);
                }
                let news = self.membership.leave(now.at);
                self.on_membership(news, out);
            }
        }
    }

    fn on_message(&mut self, now: Now, from: NodeId, message: Message, out: &mut Out) {
        if self.view.removed.contains(&from) {
            return;
        }
        match message {
            Message::Membership(packet) => {
                let news = self.membership.on_packet(now.at, &packet);
                self.on_membership(news, out);
            }
            Message::Fresh(entries) => self.on_signed(now, from, entries, true, false, out),
            Message::Entries { entries, more } => self.on_signed(now, from, entries, false, more, out),
            Message::Digest(digest) => {
                if self.replication.on_digest(from, digest, out) {
                    let all = self.own_durable();
                    self.on_held(from, &all);
                    if self.storing.is_empty() {
                        self.snapshotting.on_equal(now, from, self.replication.durable(), out);
                    }
                }
            }
            Message::Vector(theirs) => {
                let theirs_of_own: Vec<Position> = theirs.of(self.view.me).collect();
                self.on_held(from, &theirs_of_own);
                self.replication.on_vector(now, from, &theirs, &self.snapshotting, out);
            }
            Message::Want(ranges) => self.replication.on_want(from, ranges, &self.snapshotting, out),
            Message::Held(positions) => self.on_held(from, &positions),
            Message::Hold { position, bundle } => self.replication.on_hold(now, from, position, bundle, out),
            Message::HoldDone { position, bundle } => {
                self.replication.on_hold_done(from, position, bundle, &self.view, out);
            }
            Message::Advert(advert) => {
                if self.view.on_advert(from, *advert) {
                    self.coordinator.stir();
                }
            }
            Message::Offer(offer) => self.worker.on_offer(now, from, *offer, &self.view, out),
            Message::OfferReply(reply) => self.coordinator.on_offer_reply(now, from, &reply, &self.view, out),
            Message::Demands(demands) => self.worker.pull_mut().on_demands(now, from, demands),
            Message::Claim { group, count } => self.coordinator.on_claim(now, from, group, count, &self.view, out),
            Message::Cancel(attempts) => self.worker.on_cancel(now, from, &attempts, out),
            Message::TakeOver { group, epoch } => self.worker.on_take_over(from, group, epoch, &self.view, out),
            Message::TakeOverReply { group, epoch, holding } => {
                self.coordinator.on_take_over_reply(now, from, (group, epoch), &holding, &self.view, out);
            }
            // As if its host refused: what runs there may come back, and is not lost before its grace is over.
            Message::Leaving => {
                if let Some(seen) = self.view.nodes.get_mut(&from) {
                    seen.refused_at.get_or_insert(now.at);
                    self.alarmed = true;
                }
            }
            Message::Snapshot(word) => {
                let here = (self.replication.durable(), self.log.identity(), &self.view);
                self.snapshotting.on_word(now, from, word, here, out);
            }
            // Door and address book are the shell's; which of two secrets counts is told by `Secret::supersedes`.
            Message::Secret(_) | Message::Addrs(_) => {}
        }
    }

    fn on_connected(&mut self, now: Now, node: NodeId, out: &mut Out) {
        if self.view.removed.contains(&node) {
            return;
        }
        let seen = self.view.nodes.entry(node).or_default();
        seen.connected = true;
        seen.refused_at = None;
        let news = self.membership.announce(now.at, node);
        self.on_membership(news, out);
        if let Some(told) = self.advert.told() {
            out.send(node, Message::Advert(Box::new(told.clone())));
        }
        self.replication.on_connected(node, &self.view, out);
        self.coordinator.on_connected(now, node, &self.view, out);
    }

    fn on_refused(&mut self, now: Now, node: NodeId) {
        if let Some(seen) = self.view.nodes.get_mut(&node).filter(|seen| !seen.connected)
            && seen.refused_at.is_none()
        {
            seen.refused_at = Some(now.at);
            self.alarmed = true;
        }
    }

    /// What of this node's own logs, of all its lives, is on its disk.
    fn own_durable(&self) -> Vec<Position> {
        self.replication.durable().of(self.view.me).collect()
    }

    /// Another node says how much of some logs it has on disk.
    fn on_held(&mut self, from: NodeId, heads: &[Position]) {
        let own = self.log.own();
        self.view.on_held(heads.iter().copied());
        if let Some(seen) = self.view.nodes.get_mut(&from) {
            let current = heads.iter().filter(|position| position.log == own).map(|position| position.seq);
            seen.acked_seq = current.fold(seen.acked_seq, u64::max);
        }
        if self.coordinator.has_dependents() {
            self.coordinator.stir();
        }
    }

    fn on_membership(&mut self, news: Vec<membership::News>, out: &mut Out) {
        for item in news {
            match item {
                membership::News::Packet(to, packet) => out.send(to, Message::Membership(packet)),
                membership::News::Up(node) => {
                    self.set_liveness(node, Liveness::Alive);
                    out.effects.push(Effect::News(News::NodeUp(node)));
                }
                membership::News::Down(node) => {
                    self.set_liveness(node, Liveness::Down);
                    out.effects.push(Effect::News(News::NodeDown(node)));
                }
            }
        }
    }

    fn set_liveness(&mut self, node: NodeId, liveness: Liveness) {
        if node == self.view.me || self.view.removed.contains(&node) {
            return;
        }
        let seen = self.view.nodes.entry(node).or_default();
        seen.liveness = Some(liveness);
        seen.unheard = false;
        if liveness == Liveness::Alive {
            seen.refused_at = None;
        }
        self.alarmed = true;
    }

    fn on_tick(&mut self, now: Now, out: &mut Out) {
        let news = self.membership.on_tick(now.at);
        self.on_membership(news, out);
        self.refresh_liveness(now);
        self.replication.on_tick(now, &self.view, &mut self.rng, out);
        self.snapshotting.on_tick(now, self.replication.durable(), &self.view, out);
        self.worker.on_tick(now, &self.view, out);
        self.keeping.on_tick(now, &self.view, out);
        if std::mem::take(&mut self.alarmed) {
            self.keeping.on_alarm(now);
            self.coordinator.stir();
            self.take_over_orphans(out);
        }
        self.tell_advert(now, out);
        if !self.coordinator.is_idle() {
            let own_seq = self.log.heads().get(&self.log.own()).map_or(0, |head| head.seq);
            self.coordinator.on_tick(now, own_seq, &self.view, out);
        }
    }

    /// Suspicion is told by no event of the membership protocol; it is read off.
    fn refresh_liveness(&mut self, now: Now) {
        let grace_over = self.started_at.is_some_and(|started| started + UNHEARD_GRACE <= now.at);
        for seen in self.view.nodes.values_mut().filter(|seen| seen.unheard && grace_over) {
            seen.unheard = false;
            seen.liveness = Some(Liveness::Down);
            self.alarmed = true;
        }
        let seen_now: Vec<(NodeId, Liveness)> = self.membership.nodes().collect();
        for (node, liveness) in seen_now {
            if let Some(seen) = self
                .view
                .nodes
                .get_mut(&node)
                .filter(|seen| seen.liveness == Some(Liveness::Alive) || seen.liveness == Some(Liveness::Suspect))
                && !seen.unheard
                && liveness != Liveness::Down
            {
                seen.liveness = Some(liveness);
            }
        }
    }

    /// Groups whose coordinator is gone, and whose heir is this node.
    fn take_over_orphans(&mut self, out: &mut Out) {
        self.taking.retain(|group, _| self.view.groups.contains_key(group));
        for (&group, live) in &self.view.groups {
            take_over_orphan(group, live, &self.view, &mut self.taking, out);
        }
    }

    fn tell_advert(&mut self, now: Now, out: &mut Out) {
        if let Some(advert) = self.advert.tell(now, &self.worker, &self.view, out)
            && self.view.on_advert(self.view.me, advert)
        {
            self.coordinator.stir();
        }
    }

    /// What follows from what just happened: run, place, ask for more.
    fn work(&mut self, now: Now, ticked: bool, out: &mut Out) {
        // This node's own word must be current before it is weighed against others.
        if self.advert.misleads(&self.worker) {
            self.tell_advert(now, out);
        }
        self.worker.run_next(now, &self.view, out);
        if !self.coordinator.is_idle() {
            let worker = &self.worker;
            self.coordinator.work(now, ticked, || worker.planned(), &self.view, out);
        }
        self.worker.ask(now, &self.view, out);
    }

    fn ask_wake(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let busy = self.alarmed
            || self.worker.is_pressing()
            || self.coordinator.is_pressing(now)
            || self.replication.is_busy();
        let tick = self.ticked_at + if busy { TICK_BUSY } else { TICK_IDLE };
        let wake = self.membership.next_wake().map_or(tick, |membership| tick.min(membership));
        let wake = wake.max(now.at + Duration::from_millis(1)).max(self.ticked_at + TICK_BUSY);
        let wake = self.patient_until.map_or(wake, |until| wake.min(until));
        if self.wake_asked != Some(wake) {
            self.wake_asked = Some(wake);
            effects.push(Effect::WakeAt(wake));
        }
    }
}

/// Claims `group` if its coordinator is gone and this node is the one to follow.
fn take_over_orphan(group: GroupId, live: &LiveGroup, view: &View, taking: &mut BTreeMap<GroupId, u32>, out: &mut Out) {
    let Some(claim) = live.record.claim.filter(|_| live.record.submitted.is_some()) else { return };
    // A member may have written the last epoch that there is: then rank alone decides.
    let epoch = claim.epoch.saturating_add(1);
    // A claim that is on its way is not made again; one that lost to another is history.
    if claim.coordinator == view.me
        || view.is_up(claim.coordinator)
        || taking.get(&group).is_some_and(|&taken| taken >= epoch)
        || view.heir(group) != view.me
    {
        return;
    }
    taking.insert(group, epoch);
    out.events.push(Event::TookOver { group, epoch });
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
