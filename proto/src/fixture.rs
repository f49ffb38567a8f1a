//! Nodes, groups and views for the unit tests of the rules, and what a rule wanted done, all of it comparable.

use std::collections::BTreeMap;

use crate::capacity::{Capacity, Requirement};
use crate::core_io::{Effect, Now};
use crate::entry::{LogId, Position};
use crate::event::{AttemptFinished, Event, JobOutcome};
use crate::id::{AttemptId, GroupId, JobId, Member, NodeId};
use crate::job::{Ending, GroupSpec, Usage};
use crate::membership::Liveness;
use crate::message::{Accepting, Advert, Message, OfferReply};
use crate::outbox::Out;
use crate::record::{
    AttemptKey, AttemptRecord, Claim, GroupRecord, JobRecord, Outcome, Record, RecordKey, Submitted, Tally,
};
use crate::size::ByteSize;
use crate::time::{Hlc, Timestamp};
use crate::view::View;

/// The node that looks.
pub(crate) const ME: NodeId = NodeId([1; 32]);
/// Another.
pub(crate) const TWO: NodeId = NodeId([2; 32]);
/// A third.
pub(crate) const THREE: NodeId = NodeId([3; 32]);

/// Everything that a rule wanted done.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Did {
    pub(crate) sends: Vec<(NodeId, Message)>,
    pub(crate) events: Vec<Event>,
    pub(crate) outcomes: BTreeMap<(GroupId, u32), Vec<JobOutcome>>,
    pub(crate) effects: Vec<Effect>,
}

impl Did {
    pub(crate) const NOTHING: Self =
        Self { sends: Vec::new(), events: Vec::new(), outcomes: BTreeMap::new(), effects: Vec::new() };

    pub(crate) fn sent(sends: impl IntoIterator<Item = (NodeId, Message)>) -> Self {
        Self { sends: sends.into_iter().collect(), ..Self::NOTHING }
    }

    pub(crate) fn wrote(events: impl IntoIterator<Item = Event>) -> Self {
        Self { events: events.into_iter().collect(), ..Self::NOTHING }
    }

    pub(crate) fn ordered(effects: impl IntoIterator<Item = Effect>) -> Self {
        Self { effects: effects.into_iter().collect(), ..Self::NOTHING }
    }
}

/// Runs a rule and returns all that it wanted.
pub(crate) fn did(rule: impl FnOnce(&mut Out)) -> Did {
    let mut out = Out::default();
    rule(&mut out);
    let Out { sends, events, outcomes, effects } = out;
    Did { sends, events, outcomes, effects }
}

pub(crate) fn at(ms: u64) -> Now {
    Now { at: Timestamp(ms), unix_ms: 1_000_000 + ms }
}

pub(crate) fn group(number: u8) -> GroupId {
    GroupId([number; 16])
}

/// The job of a group of one.
pub(crate) fn job(number: u8) -> JobId {
    JobId::only(group(number))
}

pub(crate) fn attempt(number: u8, epoch: u32, count: u32) -> AttemptId {
    AttemptId { job: job(number), epoch, number: count }
}

pub(crate) fn position(author: NodeId) -> Position {
    Position { log: LogId { author, incarnation: 1 }, seq: 1 }
}

/// A job that asks for so many thousandths of a CPU.
pub(crate) fn spec(cpu_milli: u32) -> GroupSpec {
    GroupSpec {
        requirement: Requirement { cpu_milli, ..Requirement::default() },
        ..GroupSpec::new("ada", "vision", vec!["true".to_owned()])
    }
}

pub(crate) fn capacity(cpu_milli: u32) -> Capacity {
    Capacity { cpu_milli, memory: ByteSize(8 << 30), ..Capacity::default() }
}

/// What a node with `capacity` says of itself.
pub(crate) fn advert(count: u64, capacity: &Capacity, accepting: Accepting) -> Advert {
    Advert { version: (1, count), capacity: capacity.clone(), accepting, ..Advert::default() }
}

/// A view of [`ME`] with `peers`, all alive, connected and with four CPUs.
pub(crate) fn view(peers: &[NodeId]) -> View {
    let mut view = View::new(ME);
    for &node in peers.iter().chain([&ME]) {
        assert!(view.on_advert(node, advert(1, &capacity(4_000), Accepting::Yes)));
        let seen = view.nodes.get_mut(&node).expect("just heard");
        (seen.liveness, seen.connected) = (Some(Liveness::Alive), true);
    }
    view
}

/// The view learns of a group that `coordinator` leads with `epoch`.
pub(crate) fn submitted(view: &mut View, group: GroupId, spec: GroupSpec, epoch: u32, coordinator: NodeId) {
    let submitted = Submitted { position: position(coordinator), hlc: Hlc::default(), spec: spec.into() };
    let claim = Some(Claim { epoch, coordinator });
    let record = GroupRecord { submitted: Some(submitted), claim, ..GroupRecord::default() };
    view.on_record(&RecordKey::Group(group), Record::Group(record));
}

/// Changes a group's record.
pub(crate) fn edit_group(view: &mut View, group: GroupId, edit: impl FnOnce(&mut GroupRecord)) {
    edit(&mut view.groups.get_mut(&group).expect("submitted before").record);
}

/// How a group's jobs stand, for those that wait for it.
pub(crate) fn tally(completed: u32, failed: u32, stopped: u32) -> Tally {
    Tally { running: 0, completed, failed, stopped }
}

/// The view learns what became of a job.
pub(crate) fn learned(view: &mut View, job: JobId, record: &JobRecord) {
    view.on_record(&RecordKey::Job(job), Record::Job(record.clone()));
}

/// A job of which `attempts` are known: who had it, and how it stands.
pub(crate) fn record(attempts: impl IntoIterator<Item = (u32, u32, NodeId, AttemptRecord)>) -> JobRecord {
    let keyed = |(epoch, number, worker, attempt)| (AttemptKey { epoch, number, worker }, attempt);
    JobRecord { attempts: attempts.into_iter().map(keyed).collect(), ..JobRecord::default() }
}

pub(crate) fn running() -> AttemptRecord {
    AttemptRecord { started_unix_ms: Some(5), ..AttemptRecord::default() }
}

pub(crate) fn ended(attempt: AttemptId, ending: Ending) -> AttemptRecord {
    AttemptRecord { finished: Some(Box::new(finished(attempt, ending))), ..running() }
}

/// With the outcome that `coordinator` wrote.
pub(crate) fn with_outcome(mut record: JobRecord, coordinator: NodeId, ending: Ending) -> JobRecord {
    let claim = Claim { epoch: 1, coordinator };
    let position = position(coordinator);
    record.outcome = Some(Outcome { claim, position, hlc: Hlc::default(), attempt: None, ending });
    record
}

/// How an attempt ended, without anything else known of it.
pub(crate) fn finished(attempt: AttemptId, ending: Ending) -> AttemptFinished {
    AttemptFinished {
        attempt,
        ending,
        usage: Usage::default(),
        started_unix_ms: 0,
        ended_unix_ms: 0,
        outputs: None,
        log: None,
        ran_with: None,
    }
}

/// A worker's answer about jobs of groups of one.
pub(crate) fn reply(number: u8, epoch: u32, accepted: &[u32], refused: &[u32]) -> OfferReply {
    let named = |counts: &[u32]| counts.iter().map(|&count| (Member::Only, count)).collect();
    OfferReply { group: group(number), epoch, accepted: named(accepted), refused: named(refused), lacks: Vec::new() }
}
