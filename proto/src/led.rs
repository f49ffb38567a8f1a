//! One group in the hands of its coordinator: which of its jobs wait, which a worker has, which are decided.
//!
//! Owned by [`crate::coordinator`], which talks to the others; nothing here sends anything but outcomes
//! and cancellations that follow from a record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::core_io::Now;
use crate::dependency::Standing;
use crate::event::JobOutcome;
use crate::id::{AttemptId, GroupId, JobId, Member, NodeId};
use crate::job::{Dependency, Ending, GroupSpec, LostReason};
use crate::message::Message;
use crate::outbox::Out;
use crate::plant::{self, Plant};
use crate::record::{Claim, JobRecord};
use crate::time::Timestamp;
use crate::verdict::is_node_specific;
use crate::view::{ADOPTION_GRACE, Presence, View};

/// An offer that was not answered is repeated after this: offers are idempotent.
const OFFER_RETRY: Duration = Duration::from_millis(1_000);
/// So many unanswered offers, and the jobs are offered elsewhere.
const OFFER_TRIES: u32 = 4;
/// A node that could not prepare a job, for reasons of its own, is given others of its group after this: disks
/// are emptied, bundles found. Five such failures end a job ([`crate::verdict::UNPREPARED_MAX`]).
const UNFIT_FOR: Duration = Duration::from_millis(3_000);

/// A group that this node coordinates.
#[derive(Debug)]
pub(crate) struct Led {
    pub(crate) claim: Claim,
    pub(crate) queue: BTreeSet<Member>,
    pub(crate) given: BTreeMap<Member, Given>,
    /// Outcomes on their way into the log.
    pub(crate) decided: BTreeSet<Member>,
    /// Given up, and the record does not say so yet.
    pub(crate) losing: BTreeSet<(NodeId, AttemptId)>,
    /// Attempts taken back from workers that could not be told: cancelled when they can.
    pub(crate) revoked: BTreeSet<(NodeId, AttemptId)>,
    /// Highest number of an attempt that left no record: the next one has another name.
    pub(crate) numbers: BTreeMap<Member, u32>,
    /// Nodes that could not prepare a job of it, for reasons of their own, and until when they are left alone.
    pub(crate) unfit: BTreeMap<NodeId, Timestamp>,
    /// Nodes that refused lately.
    pub(crate) busy: BTreeMap<NodeId, Timestamp>,
    /// When each worker was asked last what it holds.
    pub(crate) asked: BTreeMap<NodeId, Timestamp>,
    pub(crate) recount: Option<Recount>,
    pub(crate) waits_for: Vec<WaitsFor>,
    pub(crate) parent: Option<Parent>,
}

/// The job that a group is a part of, as far as it is known.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) job: JobId,
    pub(crate) asked: Option<Timestamp>,
    pub(crate) has_ended: bool,
    /// Whether the stop that follows is on its way into the log.
    pub(crate) is_followed: bool,
}

/// A job in the hands of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) attempt: AttemptId,
    pub(crate) worker: NodeId,
    pub(crate) since: Timestamp,
    pub(crate) tries: u32,
    pub(crate) confirmed: bool,
    pub(crate) started: bool,
    /// The worker's advert that did not count it yet.
    pub(crate) version: (u64, u64),
    /// When it is given up unless its end comes.
    pub(crate) missing_until: Option<Timestamp>,
}

/// Workers that have not yet told what they hold.
#[derive(Debug)]
pub(crate) struct Recount {
    pub(crate) missing: BTreeSet<NodeId>,
    pub(crate) until: Timestamp,
}

/// A dependency of a group, as far as it is known.
#[derive(Debug)]
pub(crate) struct WaitsFor {
    pub(crate) dependency: Dependency,
    pub(crate) standing: Standing,
    pub(crate) asked: Option<Timestamp>,
    /// This node's own log up to here must be held elsewhere before the trigger counts (DESIGN §9.4).
    pub(crate) held_seq: Option<u64>,
}

/// What to do about a job in a worker's hands.
pub(crate) enum Check {
    Fine,
    OfferAgain,
    TakeBack,
    Lost(LostReason),
}

impl Led {
    pub(crate) fn new(claim: Claim, spec: &GroupSpec) -> Self {
        let waits_for =
            |&dependency| WaitsFor { dependency, standing: Standing::default(), asked: None, held_seq: None };
        Self {
            claim,
            queue: spec.members().collect(),
            given: BTreeMap::new(),
            decided: BTreeSet::new(),
            losing: BTreeSet::new(),
            revoked: BTreeSet::new(),
            numbers: BTreeMap::new(),
            unfit: BTreeMap::new(),
            busy: BTreeMap::new(),
            asked: BTreeMap::new(),
            recount: None,
            waits_for: spec.after.iter().map(waits_for).collect(),
            parent: spec.parent.map(|job| Parent { job, asked: None, has_ended: false, is_followed: false }),
        }
    }

    /// Whether its jobs may be offered.
    pub(crate) fn is_open(&self) -> bool {
        self.recount.is_none() && self.waits_for.is_empty()
    }

    /// Whether it has jobs for whoever has room.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_open() && !self.queue.is_empty()
    }

    /// Whether `node` should not be offered anything now.
    pub(crate) fn avoids(&self, node: NodeId, now: Now) -> bool {
        let until = |nodes: &BTreeMap<NodeId, Timestamp>| nodes.get(&node).is_some_and(|&until| now.at < until);
        until(&self.unfit) || until(&self.busy)
    }

    /// The name of a job's next attempt.
    pub(crate) fn next_attempt(&self, job: JobId, record: Option<&JobRecord>) -> AttemptId {
        let logged = record.map_or(0, JobRecord::last_number);
        let unlogged = self.numbers.get(&job.member).copied().unwrap_or(0);
        AttemptId { job, epoch: self.claim.epoch, number: logged.max(unlogged).saturating_add(1) }
    }

    /// A worker no longer has the job, as far as this node is concerned; the caller queues or judges it.
    pub(crate) fn forget_given(&mut self, member: Member) -> Option<Given> {
        let given = self.given.remove(&member)?;
        let number = self.numbers.entry(member).or_default();
        *number = (*number).max(given.attempt.number);
        Some(given)
    }

    /// Tells a worker to let go of an attempt, now or when it can be reached.
    pub(crate) fn revoke(&mut self, worker: NodeId, attempt: AttemptId, view: &View, out: &mut Out) {
        if view.nodes.get(&worker).is_some_and(|seen| seen.connected) {
            out.send(worker, Message::Cancel(vec![attempt]));
        } else {
            self.revoked.insert((worker, attempt));
        }
    }

    /// Brings what is known of a job in line with its record: what is over first, then what runs.
    pub(crate) fn follow(&mut self, now: Now, job: JobId, record: &JobRecord, view: &View, out: &mut Out) {
        for (key, attempt) in record.attempts.iter().filter(|(_, attempt)| !attempt.is_running()) {
            let id = key.id(job);
            self.losing.remove(&(key.worker, id));
            if self.given.get(&job.member).is_some_and(|given| given.attempt == id && given.worker == key.worker) {
                self.given.remove(&job.member);
                if attempt.finished.as_ref().is_some_and(|finished| is_node_specific(&finished.ending)) {
                    self.unfit.insert(key.worker, now.at + UNFIT_FOR);
                }
            }
        }
        for key in record.running() {
            let id = key.id(job);
            if self.losing.contains(&(key.worker, id)) {
                continue;
            }
            let (worker, current) = match self.given.get_mut(&job.member) {
                Some(given) if given.attempt == id && given.worker == key.worker => {
                    given.started = true;
                    given.confirmed = true;
                    return;
                }
                Some(given) if given.started => return,
                Some(given) => (given.worker, Some(given.attempt)),
                None => (key.worker, None),
            };
            // One runs already: what was offered in its place is not needed.
            if let Some(attempt) = current {
                self.forget_given(job.member);
                self.revoke(worker, attempt, view, out);
            }
            self.queue.remove(&job.member);
            self.given.insert(job.member, Given::running(now, id, key.worker));
            return;
        }
    }

    pub(crate) fn decide(&mut self, job: JobId, attempt: Option<(AttemptId, NodeId)>, ending: Ending, out: &mut Out) {
        self.queue.remove(&job.member);
        if !self.decided.insert(job.member) && !plant::is_planted(Plant::DecideTwice) {
            return;
        }
        let outcome = JobOutcome { member: job.member, attempt, ending };
        out.outcomes.entry((job.group, self.claim.epoch)).or_default().push(outcome);
    }

    /// The outcome is in the log: nothing else of the job matters; attempts beside it are stopped.
    pub(crate) fn settle(&mut self, job: JobId, record: &JobRecord, out: &mut Out) {
        let member = job.member;
        self.queue.remove(&member);
        self.decided.remove(&member);
        self.numbers.remove(&member);
        let given = self.given.remove(&member).map(|given| (given.attempt, given.worker));
        let running = record.running().map(|key| (key.id(job), key.worker));
        for (attempt, worker) in running.chain(given).collect::<BTreeSet<_>>() {
            self.losing.remove(&(worker, attempt));
            out.send(worker, Message::Cancel(vec![attempt]));
        }
    }

    /// Each unfinished member is in exactly one place.
    pub(crate) fn check_invariants(&self, group: GroupId) {
        for member in self.given.keys() {
            assert!(!self.queue.contains(member), "{group}/{member:?} is both queued and given");
        }
        for member in &self.decided {
            assert!(!self.queue.contains(member), "{group}/{member:?} is both queued and decided");
        }
    }
}

impl Given {
    pub(crate) fn new(now: Now, attempt: AttemptId, worker: NodeId, view: &View) -> Self {
        let version = view.nodes.get(&worker).map_or((0, 0), crate::view::NodeView::version);
        Self {
            attempt,
            worker,
            since: now.at,
            tries: 1,
            confirmed: false,
            started: false,
            version,
            missing_until: None,
        }
    }

    /// One that the log says runs.
    fn running(now: Now, attempt: AttemptId, worker: NodeId) -> Self {
        Self {
            attempt,
            worker,
            since: now.at,
            tries: 0,
            confirmed: true,
            started: true,
            version: (0, 0),
            missing_until: None,
        }
    }

    pub(crate) fn check(&self, now: Now, presence: Presence) -> Check {
        match presence {
            Presence::Up => {}
            _ if !self.started => return Check::TakeBack,
            Presence::DaemonDown(since) if now.at < since + ADOPTION_GRACE => return Check::Fine,
            Presence::DaemonDown(_) | Presence::Down => return Check::Lost(LostReason::NodeDown),
        }
        if self.missing_until.is_some_and(|until| until <= now.at) {
            return if self.started { Check::Lost(LostReason::NotFound) } else { Check::TakeBack };
        }
        if self.confirmed || now.at < self.since + OFFER_RETRY {
            Check::Fine
        } else if self.tries < OFFER_TRIES {
            Check::OfferAgain
        } else {
            Check::TakeBack
        }
    }
}

#[cfg(test)]
#[path = "led_tests.rs"]
mod tests;
