//! A whole core on its own, and what it makes of entries that others send.

use std::collections::BTreeSet;

use super::*;
use crate::blob::ContentId;
use crate::core_io::{Answer, Run};
use crate::entry::{Entry, Position, SignedEntry};
use crate::event::JobOutcome;
use crate::fixture::{at, attempt, capacity, finished, group, spec};
use crate::id::Member;
use crate::job::{Ending, GroupSpec};
use crate::log::EntryRange;
use crate::record::{Records, apply};

/// A core with a disk: what it stores is durable when the test says so.
struct Host {
    core: Core,
    records: BTreeMap<RecordKey, Record>,
    changed: BTreeSet<RecordKey>,
    unstored: VecDeque<(StoreTicket, Vec<VerifiedEntry>)>,
}

/// An effect, with the events of what is stored in place of its signature. When it wants to be woken is left
/// out: that is the affair of the membership protocol as well.
#[derive(Debug, PartialEq)]
enum Done {
    Stores(Vec<Event>),
    Other(Effect),
}

impl Records for Host {
    fn get(&mut self, key: &RecordKey) -> Option<Record> {
        self.records.get(key).cloned()
    }

    fn put(&mut self, key: RecordKey, record: Record) {
        self.changed.insert(key.clone());
        self.records.insert(key, record);
    }
}

fn identity(number: u8) -> Identity {
    Identity::from_seed([number; 32])
}

fn other(effect: Effect) -> Done {
    Done::Other(effect)
}

impl Host {
    /// A core that has said that it is here, and whose runner holds nothing.
    fn new() -> Self {
        let boot = Boot {
            identity: identity(1),
            incarnation: 1,
            name: "atlas".to_owned(),
            software: "0.1.0".to_owned(),
            heads: BTreeMap::new(),
            hlc: Hlc::default(),
            records: Vec::new(),
            capacity: capacity(4_000),
            addrs: Vec::new(),
            seed: 1,
            snapshots: Vec::new(),
            floors: crate::log::VersionVector::default(),
            snapshot_rules: crate::snapshotting::SnapshotRules::default(),
        };
        let (core, unstored) = (Core::new(boot), VecDeque::new());
        let mut host = Self { core, records: BTreeMap::new(), changed: BTreeSet::new(), unstored };
        let joined = Event::MemberJoined { name: "atlas".to_owned(), software: "0.1.0".to_owned() };
        assert_eq!(host.step(0, Input::Tick), [Done::Stores(vec![joined])]);
        assert_eq!(host.sync(1), []);
        assert_eq!(host.step(2, Input::Adopted { attempts: Vec::new() }), []);
        host
    }

    fn step(&mut self, ms: u64, input: Input) -> Vec<Done> {
        let effects = self.core.step(at(ms), input);
        self.core.check_invariants();
        let mut done = Vec::new();
        for effect in effects {
            match effect {
                Effect::WakeAt(_) => {}
                Effect::Store { ticket, entries } => {
                    done.push(Done::Stores(entries.iter().flat_map(|entry| entry.events().to_vec()).collect()));
                    self.unstored.push_back((ticket, entries));
                }
                effect => done.push(other(effect)),
            }
        }
        done
    }

    /// The oldest batch is durable and folded.
    fn sync(&mut self, ms: u64) -> Vec<Done> {
        let (ticket, entries) = self.unstored.pop_front().expect("something was to be stored");
        entries.iter().for_each(|entry| apply(entry, self));
        let changed = std::mem::take(&mut self.changed);
        let changed = changed.into_iter().map(|key| (key.clone(), self.records[&key].clone())).collect();
        self.step(ms, Input::Stored { ticket, changed })
    }

    fn hears(&mut self, ms: u64, entries: Vec<SignedEntry>) -> Vec<Done> {
        let message = Message::Entries { entries, more: false };
        self.step(ms, Input::Received { from: identity(2).node(), message })
    }
}

fn submit(request: u64, number: u8) -> Input {
    let (request, group, spec) = (RequestId(request), group(number), Box::new(spec(1_000)));
    Input::Submit { request, group, spec, inline: Vec::new() }
}

fn submitted(number: u8) -> Event {
    Event::GroupSubmitted { group: group(number), spec: Box::new(spec(1_000)), inline: Vec::new() }
}

fn accepted(request: u64) -> Done {
    let answer = Answer::Accepted { held_by: vec![identity(1).node()] };
    other(Effect::Reply { request: RequestId(request), answer })
}

/// The entry `seq` of node 2, that follows `prev`.
fn foreign(seq: u64, prev: ContentId, number: u32) -> VerifiedEntry {
    let log = LogId { author: identity(2).node(), incarnation: 1 };
    let frames = vec![Event::SecretRotated { number }.to_frame()];
    identity(2).sign(Entry { position: Position { log, seq }, hlc: Hlc::default(), prev, frames })
}

#[test]
fn alone_a_job_goes_from_its_submission_to_its_outcome() {
    let mut host = Host::new();
    let me = identity(1).node();
    assert_eq!(host.step(10, submit(3, 7)), [Done::Stores(vec![submitted(7)])]);
    let stored = host.sync(11);
    let [answer, Done::Other(Effect::Run(run))] = stored.as_slice() else { panic!("{stored:?}") };
    assert_eq!(answer, &accepted(3));
    let expected = Run {
        attempt: attempt(7, 1, 1),
        spec: GroupSpec::clone(&spec(1_000)),
        reservation: Reservation { cpu_milli: 1_000, ..Reservation::default() },
        position: run.position,
        providers: Vec::new(),
        checkpoint: None,
    };
    assert_eq!(**run, expected);
    assert_eq!(run.position.log, host.core.own_log());
    assert_eq!(host.step(12, Input::Started { attempt: run.attempt, started_unix_ms: 555 }), []);
    let started = Event::AttemptStarted { attempt: attempt(7, 1, 1), started_unix_ms: 555 };
    assert_eq!(host.step(42, Input::Tick), [Done::Stores(vec![started])]);
    assert_eq!(host.sync(43), []);
    let end = Box::new(finished(attempt(7, 1, 1), Ending::Exited { code: 0 }));
    let told = host.step(50, Input::Ended { finished: end.clone(), inline: vec![vec![7; 3]] });
    assert_eq!(told, [Done::Stores(vec![Event::AttemptFinished { finished: end, inline: vec![vec![7; 3]] }])]);
    let ending = Ending::Exited { code: 0 };
    let outcome = vec![JobOutcome { member: Member::Only, attempt: Some((attempt(7, 1, 1), me)), ending }];
    let decided = other(Effect::News(News::Decided(group(7), outcome.clone())));
    let stores = Done::Stores(vec![Event::Outcomes { group: group(7), epoch: 1, jobs: outcome }]);
    assert_eq!(host.sync(51), [decided, stores]);
    assert_eq!(host.sync(52), []);
    assert!(host.core.view().groups.is_empty(), "memory grows with what is alive alone");
    assert_eq!(host.core.used(), &Reservation::default());
}

#[test]
fn what_comes_while_an_entry_is_synced_shares_the_next_one() {
    let mut host = Host::new();
    assert_eq!(host.step(10, submit(3, 7)), [Done::Stores(vec![submitted(7)])]);
    assert_eq!(host.step(10, submit(4, 8)), []);
    assert_eq!(host.step(10, submit(5, 9)), []);
    let stored = host.sync(11);
    assert_eq!(stored[0], accepted(3));
    assert!(stored.contains(&Done::Stores(vec![submitted(8), submitted(9)])), "{stored:?}");
    let stored = host.sync(12);
    assert_eq!(stored[..2], [accepted(4), accepted(5)]);
}

#[test]
fn a_change_is_answered_when_it_is_durable() {
    let mut host = Host::new();
    let event = Event::ProjectDescribed { project: "p".to_owned(), description: "d".to_owned() };
    let told = host.step(10, Input::Write { request: RequestId(3), event: event.clone() });
    assert_eq!(told, [Done::Stores(vec![event])]);
    assert_eq!(host.step(11, Input::Tick), []);
    assert_eq!(host.sync(12), [other(Effect::Reply { request: RequestId(3), answer: Answer::Written })]);
}

#[test]
fn an_entry_is_taken_once_in_order_and_only_from_its_author() {
    let mut host = Host::new();
    let two = identity(2).node();
    let first = foreign(1, ContentId([0; 32]), 5);
    let second = foreign(2, first.hash(), 6);
    let third = foreign(3, second.hash(), 7);
    // The third comes first: what is missing is asked for.
    let log = first.position().log;
    let want = Message::Want(vec![EntryRange { log, first: 1, last: 3 }]);
    let told = host.hears(10, vec![third.signed().clone()]);
    assert_eq!(told, [other(Effect::Send { to: two, message: want })]);
    let both = vec![first.signed().clone(), second.signed().clone()];
    let events = |number| Event::SecretRotated { number };
    assert_eq!(host.hears(11, both.clone()), [Done::Stores(vec![events(5), events(6)])]);
    assert_eq!(host.hears(12, both), [], "known already");
    let held = Message::Held(vec![second.position()]);
    assert_eq!(host.sync(13), [other(Effect::Send { to: two, message: held })]);
    // A flipped bit, and another author's signature.
    let mut torn = third.signed().clone();
    torn.signature[0] ^= 1;
    assert_eq!(host.hears(14, vec![torn]), [other(Effect::News(News::BadEntry(two)))]);
    assert_eq!(host.hears(15, vec![third.signed().clone()]), [Done::Stores(vec![events(7)])]);
}

#[test]
fn of_an_author_that_wrote_two_entries_for_one_place_nothing_is_taken_any_more() {
    let mut host = Host::new();
    let two = identity(2).node();
    let first = foreign(1, ContentId([0; 32]), 5);
    host.hears(10, vec![first.signed().clone()]);
    host.sync(11);
    let twin = foreign(1, ContentId([0; 32]), 6);
    let quarantined = || other(Effect::News(News::Quarantined(two)));
    assert_eq!(host.hears(12, vec![twin.signed().clone()]), [quarantined()]);
    let next = foreign(2, first.hash(), 7);
    assert_eq!(host.hears(13, vec![next.signed().clone()]), [quarantined()]);
}

#[test]
fn a_member_that_was_removed_is_not_heard() {
    let mut host = Host::new();
    let two = identity(2).node();
    host.step(10, Input::Write { request: RequestId(3), event: Event::MemberRemoved { node: two } });
    host.sync(11);
    let first = foreign(1, ContentId([0; 32]), 5);
    assert_eq!(host.hears(12, vec![first.signed().clone()]), []);
    assert_eq!(host.step(13, Input::Connected(two)), []);
}
