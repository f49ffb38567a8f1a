//! What a member says is the world: whatever decodes must not stop a core, however little it makes sense. Every
//! changed message and every changed event of a member that signs what it wants, step by step, to one core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::codec;
use proto::core::Boot;
use proto::core_io::RequestId;
use proto::entry::{Entry, Identity, LogId, Position};
use proto::event::{AttemptFinished, Event, Frame, JobOutcome};
use proto::job::{Dependency, LostReason, Trigger};
use proto::message::Message;
use proto::record::{Record, RecordKey, Records, apply};
use proto::time::Timestamp;
use proto::{
    AttemptId, ByteSize, ContentId, Core, Effect, Ending, GroupId, GroupSpec, Hlc, Input, JobId, Member, Now,
    Requirement, ValueNote,
};

use super::harness::attack::attack_loosely;
use super::samples;

/// Changed places per word: each gives some thirty changed words.
const PLACES: usize = 150;

/// Records in memory, and which of them a batch changed.
#[derive(Default)]
struct Memory {
    records: BTreeMap<RecordKey, Record>,
    changed: BTreeSet<RecordKey>,
}

impl Records for Memory {
    fn get(&mut self, key: &RecordKey) -> Option<Record> {
        self.records.get(key).cloned()
    }

    fn put(&mut self, key: RecordKey, record: Record) {
        self.changed.insert(key.clone());
        self.records.insert(key, record);
    }
}

/// A core with a disk that never fails.
struct Host {
    core: Core,
    memory: Memory,
    unix_ms: u64,
}

impl Host {
    fn new() -> Self {
        let boot = Boot {
            identity: samples::identity(),
            incarnation: 5,
            name: samples::text("atlas"),
            software: samples::text("0.1.0"),
            heads: BTreeMap::new(),
            hlc: Hlc::default(),
            records: Vec::new(),
            capacity: samples::capacity(),
            addrs: Vec::new(),
            seed: 1,
            snapshots: Vec::new(),
            floors: proto::log::VersionVector::default(),
            snapshot_rules: proto::snapshotting::SnapshotRules::default(),
        };
        let mut host = Self { core: Core::new(boot), memory: Memory::default(), unix_ms: 1_700_000_000_000 };
        host.take(Input::Tick);
        host.take(Input::Adopted { attempts: Vec::new() });
        for peer in [member().node(), samples::node(8)] {
            host.take(Input::Connected(peer));
        }
        host
    }

    /// Steps, and steps again with all that the disk says.
    fn take(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.unix_ms += 7;
            let now = Now { at: Timestamp(self.unix_ms - 1_600_000_000_000), unix_ms: self.unix_ms };
            for effect in self.core.step(now, input) {
                match effect {
                    Effect::Store { ticket, entries } => {
                        entries.iter().for_each(|entry| apply(entry, &mut self.memory));
                        let changed = std::mem::take(&mut self.memory.changed);
                        let changed = changed.into_iter().map(|key| (key.clone(), self.memory.records[&key].clone()));
                        inputs.push_back(Input::Stored { ticket, changed: changed.collect() });
                    }
                    Effect::Send { message, .. } => {
                        // What it sends must fit a frame: encoding asserts that.
                        let _ = codec::encode(&message);
                    }
                    _ => {}
                }
            }
            self.core.check_invariants();
        }
    }
}

/// A member that signs what it wants.
fn member() -> Identity {
    Identity::from_seed([9; 32])
}

#[test]
fn no_message_of_a_member_stops_a_core() {
    for message in samples::messages() {
        let host = std::cell::RefCell::new(Host::new());
        attack_loosely("Message", &codec::encode(&message), PLACES, |bytes| {
            let Ok(message) = codec::decode::<Message>(bytes) else { return false };
            host.borrow_mut().take(Input::Received { from: member().node(), message });
            true
        });
    }
}

/// What the member writes, entry by entry, and a core that hears it.
struct Writer {
    host: Host,
    log: LogId,
    seq: u64,
    prev: ContentId,
}

impl Writer {
    fn new() -> Self {
        let log = LogId { author: member().node(), incarnation: 1 };
        Self { host: Host::new(), log, seq: 0, prev: ContentId([0; 32]) }
    }

    /// Signs an entry with `frame` and has the core hear it; whether it was taken.
    fn write(&mut self, frame: Frame) -> bool {
        let hlc = Hlc { unix_ms: self.host.unix_ms, counter: 0 };
        self.write_at(hlc, frame)
    }

    fn write_at(&mut self, hlc: Hlc, frame: Frame) -> bool {
        if Event::from_frame(frame.clone()).is_err() {
            return false;
        }
        let position = Position { log: self.log, seq: self.seq + 1 };
        let entry = member().sign(Entry { position, hlc, prev: self.prev, frames: vec![frame] });
        (self.seq, self.prev) = (position.seq, entry.hash());
        let message = Message::Fresh(vec![entry.signed().clone()]);
        self.host.take(Input::Received { from: self.log.author, message });
        assert_eq!(self.host.core.durable().0.get(&self.log), Some(&self.seq), "the entry is taken");
        true
    }
}

#[test]
fn no_event_of_a_member_stops_a_core() {
    for event in samples::events() {
        let Frame { kind, version, body } = event.to_frame();
        let mut writer = Writer::new();
        for event in samples::events() {
            // The member stays one, else nothing of it is heard.
            if !matches!(event, Event::MemberRemoved { .. }) {
                assert!(writer.write(event.to_frame()));
            }
        }
        let writer = std::cell::RefCell::new(writer);
        attack_loosely(&format!("Event {kind}"), &body, PLACES, |body| {
            writer.borrow_mut().write(Frame { kind, version, body: body.to_vec() })
        });
    }
}

/// Numbers at the end of their range, and lists that no parser would have made.
#[test]
fn no_extreme_of_a_member_stops_a_core() {
    let (group, job) = (samples::group(), samples::job());
    let attempt = AttemptId { job, epoch: u32::MAX, number: u32::MAX };
    let spec = |edit: &dyn Fn(&mut GroupSpec)| {
        let mut spec = samples::bare_spec();
        edit(&mut spec);
        Event::GroupSubmitted { group, spec: Box::new(spec), inline: Vec::new() }
    };
    let huge =
        Requirement { cpu_milli: u32::MAX, memory: ByteSize(u64::MAX), gpus: u32::MAX, ..samples::requirement() };
    let ended = |attempt| Box::new(AttemptFinished { attempt, started_unix_ms: u64::MAX, ..samples::finished() });
    let outcome = JobOutcome { member: Member::Index(u32::MAX), attempt: None, ending: Ending::Stopped };
    let events = [
        spec(&|_| {}),
        spec(&|spec| spec.command = Vec::new()),
        spec(&|spec| spec.requirement.cpu_milli = 0),
        spec(&|spec| spec.requirement = huge.clone()),
        spec(&|spec| (spec.retries, spec.timeout_s, spec.priority) = (u32::MAX, u64::MAX, i32::MIN)),
        spec(&|spec| spec.after = vec![Dependency { on: JobId::only(group), trigger: Trigger::AllDone }]),
        Event::TookOver { group, epoch: u32::MAX },
        Event::TookOver { group: GroupId([0xff; 16]), epoch: u32::MAX },
        Event::AttemptStarted { attempt, started_unix_ms: u64::MAX },
        Event::AttemptFinished { finished: ended(attempt), inline: vec![Vec::new(); 3] },
        Event::AttemptLost { attempt, worker: samples::identity().node(), reason: LostReason::NotFound },
        Event::Outcomes { group, epoch: u32::MAX, jobs: vec![outcome.clone(), outcome] },
        Event::SecretRotated { number: u32::MAX },
        Event::StopWished { job: JobId::only(group) },
        Event::ValueMade {
            key: samples::value_key(),
            value: Box::new(ValueNote { bytes: u64::MAX, took_ms: u64::MAX, ..samples::value_note() }),
            inline: vec![Vec::new(); 3],
        },
        Event::ValuePurged { key: samples::value_key() },
        Event::ValueKept { key: samples::value_key(), kept: true },
        Event::MemberRemoved { node: samples::identity().node() },
    ];
    for first in &events {
        let mut writer = Writer::new();
        for event in std::iter::once(first).chain(&events) {
            writer.write(event.to_frame());
        }
        for unix_ms in [0, u64::MAX] {
            writer.write_at(Hlc { unix_ms, counter: u32::MAX }, spec(&|_| {}).to_frame());
        }
        // Its own word after all that is still one that others take.
        writer.host.take(Input::Write { request: RequestId(1), event: Event::SecretRotated { number: 7 } });
    }
}

#[test]
fn indices_that_no_parser_would_make_are_refused() {
    let good = samples::spec();
    let encoded = |array: &[(u32, u32)]| {
        let array = bincode::serde::encode_to_vec(array, bincode::config::standard()).expect("numbers");
        let body = Event::GroupSubmitted { group: samples::group(), spec: Box::new(good.clone()), inline: Vec::new() };
        let Frame { kind, version, body } = body.to_frame();
        let own = bincode::serde::encode_to_vec(&good.array, bincode::config::standard()).expect("numbers");
        let at = body.windows(own.len()).position(|part| part == own).expect("the specification has its array");
        let body = [&body[..at], &array, &body[at + own.len()..]].concat();
        Event::from_frame(Frame { kind, version, body }).is_ok()
    };
    assert!(encoded(&[(1, 3), (300, 300)]) && encoded(&[]) && encoded(&[(0, 999_999)]));
    for array in [&[(5, 1)][..], &[(1, 3), (2, 4)], &[(4, 5), (1, 2)], &[(1, 2), (3, 4)], &[(0, u32::MAX)]] {
        assert!(!encoded(array), "{array:?} is taken");
    }
}
