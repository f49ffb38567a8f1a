//! The bytes of every word, and that no word is without its golden file.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use proto::blob::FileKind;
use proto::codec::{self, Word};
use proto::event::{Event, Frame};
use proto::job::{EnvironmentRule, JobState, LostReason, OnLost, Trigger};
use proto::lease::{LeaseAnswer, Process};
use proto::membership::{Liveness, Membership, News};
use proto::message::Accepting;
use proto::record::{
    AttemptKey, AttemptRecord, Claim, ClusterRecord, GroupRecord, JobRecord, Marks, NodeRecord, Outcome, Record,
    RecordKey, Stamp, Submitted, Tally, rank,
};
use proto::time::Timestamp;
use proto::track::Scalar;
use proto::{Manifest, ManifestFile, Member, ProjectRecord, ValueRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::harness::golden::{Sample, check, files, sections, variant_of};
use super::harness::scan::{missing, names, serialized};
use super::samples;

/// Types that a golden file shows under no name of their own: why.
const EXCUSED: [(&str, &str); 9] = [
    ("NodeId", "prints as text"),
    ("ClusterId", "prints as text"),
    ("GroupId", "prints as text"),
    ("JobId", "prints as text"),
    ("AttemptId", "prints as text"),
    ("ContentId", "prints as text"),
    ("ValueKey", "prints as text"),
    ("Secret", "its key is never printed: Message.Secret and Ticket have it"),
    ("Life", "private to membership.rs: Membership has its packets"),
];

/// How a word's parts are encoded within it.
fn body<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).expect("words hold what bincode can carry")
}

fn unbody<T: DeserializeOwned>(bytes: &[u8]) -> T {
    let (value, used) = bincode::serde::decode_from_slice(bytes, bincode::config::standard()).expect("just encoded");
    assert_eq!(used, bytes.len());
    value
}

/// A part of words, not a word itself: one section for each of `values`.
fn check_part<T: Serialize + DeserializeOwned + Debug + PartialEq>(name: &str, values: &[T]) {
    assert!(values.iter().all(|value| unbody::<T>(&body(value)) == *value), "{name} is not read back");
    check(name, &sections(values, body));
}

fn word_sample<W: Word + Debug + PartialEq>(title: &str, value: &W) -> Sample {
    let bytes = codec::encode(value);
    assert_eq!(codec::decode::<W>(&bytes).as_ref(), Ok(value));
    Sample::new(title, value, bytes)
}

#[test]
fn golden_events() {
    for event in samples::events() {
        let frame = event.to_frame();
        assert_eq!(Event::from_frame(frame.clone()).as_ref(), Ok(&event));
        let name = variant_of(&event);
        let title = format!("kind {}, version {}", frame.kind, frame.version);
        check(&format!("Event.{name}"), &[Sample::new(&title, &event, body::<Frame>(&frame))]);
    }
}

#[test]
fn golden_messages() {
    for message in samples::messages() {
        let name = variant_of(&message);
        check(&format!("Message.{name}"), &[word_sample(&name, &message)]);
    }
}

#[test]
fn golden_entries() {
    check("Entry", &[word_sample("every event there is", &samples::entry())]);
    let [first, second] = samples::chain();
    let chained = |signed: &proto::entry::SignedEntry| signed.clone().verify().expect("signed by its author").prev();
    assert_eq!(chained(&second), proto::ContentId::of(&first.bytes));
    check("SignedEntry", &[word_sample("the first of a log", &first), word_sample("chained to it", &second)]);
}

#[test]
fn golden_ticket() {
    let ticket = samples::ticket();
    let text = ticket.to_text().expect("short");
    assert_eq!(text.parse().as_ref(), Ok(&ticket));
    check("Ticket", &[word_sample("word", &ticket), Sample::text("text", &ticket, &text)]);
}

#[test]
fn golden_track() {
    let number = proto::track::Float::from(0.5);
    check("Float", &[Sample::new("0.5", &number, body(&number))]);
    check_part("Scalar", &[Scalar::Number(number), Scalar::Bool(true), Scalar::Text(samples::text("warm"))]);
}

#[test]
fn golden_manifest() {
    let manifest = Manifest { files: manifest_files(), removed: removed_files() };
    assert_eq!(manifest.check(), Ok(()));
    let id = manifest.id();
    let named = Sample::text("content id of the first", &id, &id.to_string());
    check("Manifest", &[word_sample("a file, a link, a directory", &manifest), named]);
    check_part("FileKind", &file_kinds());
}

pub(super) fn manifest_files() -> Vec<ManifestFile> {
    let file = |(path, kind): (&str, FileKind)| ManifestFile { path: samples::text(path), kind };
    ["data", "link", "zoo"].into_iter().zip(file_kinds()).map(file).collect()
}

pub(super) fn removed_files() -> Vec<String> {
    vec![samples::text("gone"), samples::text("old/file")]
}

fn file_kinds() -> [FileKind; 3] {
    let file = FileKind::File { content: samples::content(0xaa), size: 70_000, executable: true };
    [file, FileKind::Link(samples::text("data")), FileKind::EmptyDirectory]
}

fn stamp(event: u32) -> Stamp {
    Stamp { hlc: samples::hlc(), position: samples::position(), event }
}

fn marks() -> Marks {
    let tags = [("best", Some(samples::text("yes"))), ("gone", None)];
    Marks {
        archived: Some((stamp(1), true)),
        deleted: true,
        tags: tags.into_iter().map(|(tag, value)| (samples::text(tag), (stamp(2), value))).collect(),
        note: Some((stamp(3), samples::text("use this one"))),
        kept: Some((stamp(4), false)),
    }
}

fn claim() -> Claim {
    Claim { epoch: 2, coordinator: samples::node(8) }
}

fn job_record() -> JobRecord {
    let key = |number| AttemptKey { epoch: 2, number, worker: samples::node(8) };
    let whole = AttemptRecord {
        started_unix_ms: Some(1_700_000_000_500),
        finished: Some(Box::new(samples::finished())),
        lost: Some(LostReason::NotFound),
        tracked: Some(Box::new(samples::tracked())),
    };
    JobRecord {
        checkpoints: samples::checkpoints(),
        attempts: BTreeMap::from([(key(1), AttemptRecord::default()), (key(3), whole)]),
        outcome: Some(Outcome {
            claim: claim(),
            position: samples::position(),
            hlc: samples::hlc(),
            attempt: Some((samples::attempt(), samples::node(8))),
            ending: proto::Ending::Exited { code: 0 },
        }),
        stop: Some(samples::hlc()),
        marks: marks(),
    }
}

fn value_record() -> ValueRecord {
    ValueRecord {
        values: BTreeMap::from([(stamp(8), samples::value_note())]),
        purged: Some(stamp(7)),
        kept: Some((stamp(9), true)),
    }
}

fn project_record() -> ProjectRecord {
    let notes = BTreeMap::from([(stamp(8), samples::project_note())]);
    ProjectRecord { description: Some((stamp(7), samples::text("eyes"))), notes }
}

pub(super) fn records() -> Vec<(&'static str, Record)> {
    let submitted =
        Submitted { position: samples::position(), hlc: samples::hlc(), spec: Arc::new(samples::bare_spec()) };
    let group = GroupRecord {
        submitted: Some(submitted),
        claim: Some(claim()),
        stop: Some(samples::hlc()),
        marks: marks(),
        tally: Tally { running: 1, completed: 300, failed: 2, stopped: 3 },
    };
    let labels = BTreeMap::from([(samples::text("rack"), samples::text("b"))]);
    let node = NodeRecord {
        joined: Some((stamp(0), samples::text("atlas"), samples::text("0.1.0"))),
        removed: true,
        labels: Some((stamp(5), labels)),
        drained: Some((stamp(6), true)),
    };
    vec![
        ("Group", Record::Group(group)),
        ("Job", Record::Job(job_record())),
        ("Node", Record::Node(node)),
        ("Project", Record::Project(project_record())),
        ("Cluster", Record::Cluster(ClusterRecord { secret_number: 3 })),
        ("Value", Record::Value(value_record())),
        ("Job that nothing happened to", Record::Job(JobRecord::default())),
    ]
}

#[test]
fn golden_records() {
    check("Record", &records().iter().map(|(title, record)| word_sample(title, record)).collect::<Vec<_>>());
    let keys = [
        RecordKey::Group(samples::group()),
        RecordKey::Job(samples::job()),
        RecordKey::Node(samples::node(8)),
        RecordKey::Project(samples::text("vision")),
        RecordKey::Cluster,
        RecordKey::Value(samples::value_key()),
    ];
    check_part("RecordKey", &keys);
}

#[test]
fn golden_parts() {
    check_part("Ending", &samples::endings());
    check_part("StartFailure", &samples::start_failures());
    check_part(
        "LostReason",
        &[LostReason::NodeDown, LostReason::RunnerDown, LostReason::NotFound, LostReason::CrashLimit],
    );
    check_part("OnLost", &[OnLost::Rerun, OnLost::Fail]);
    check_part("EnvironmentRule", &[EnvironmentRule::Exact, EnvironmentRule::Lenient]);
    let triggers = [
        Trigger::AllSucceeded,
        Trigger::AllFailed,
        Trigger::AllDone,
        Trigger::OneSucceeded,
        Trigger::OneFailed,
        Trigger::OneDone,
    ];
    check_part("Trigger", &triggers);
    let states = [
        JobState::Queued,
        JobState::Preparing,
        JobState::Running,
        JobState::Completed,
        JobState::Failed,
        JobState::Stopped,
    ];
    check_part("JobState", &states);
    check_part("Mark", &samples::marks());
    check_part("Lack", &samples::lacks());
    let answers = [
        LeaseAnswer::Compute,
        LeaseAnswer::Busy { node: samples::node(8), since_ms: 70_000 },
        LeaseAnswer::Alone,
        LeaseAnswer::Stored,
    ];
    check_part("LeaseAnswer", &answers);
    check_part("Process", &[Process { node: samples::node(8), number: 70_000 }]);
    check_part("Accepting", &[Accepting::Starting, Accepting::Yes, Accepting::Paused, Accepting::Draining]);
    check_part("Member", &[Member::Only, Member::Index(300)]);
    check_part("Liveness", &[Liveness::Alive, Liveness::Suspect, Liveness::Down]);
    let specs = [("everything set", samples::spec()), ("nothing set", samples::bare_spec())];
    check("GroupSpec", &specs.map(|(title, spec)| Sample::new(title, &spec, body(&spec))));
    let heads = proto::log::Head { seq: 70_000, hash: samples::content(0xee) };
    check_part("Head", &[heads]);
}

#[test]
fn golden_snapshots() {
    check("SnapshotHead", &[word_sample("the first word", &samples::snapshot_head())]);
    let parts = samples::snapshot_parts();
    check("SnapshotPart", &parts.iter().map(|part| word_sample(&variant_of(part), part)).collect::<Vec<_>>());
    check("SignedSnapshot", &[word_sample("signed by one node", &samples::signed_snapshot())]);
    check_part("SnapshotWord", &samples::snapshot_words());
}

/// Packets of the membership protocol: foca's words in our codec.
#[test]
fn golden_membership() {
    let mut one = Membership::new(samples::node(1), 1_700_000_000_000, 1);
    let mut two = Membership::new(samples::node(2), 1_700_000_000_001, 2);
    let mut told = Vec::new();
    let first = packets(one.announce(Timestamp(0), samples::node(2)));
    for packet in &first {
        told.push(Sample::new("announce", &"1 greets 2", packet.clone()));
        for answer in packets(two.on_packet(Timestamp(1), packet)) {
            told.push(Sample::new("feed", &"2 answers with whom it knows", answer.clone()));
            one.on_packet(Timestamp(2), &answer);
        }
    }
    told.extend(packets(one.leave(Timestamp(3))).into_iter().map(|packet| Sample::new("leave", &"1 leaves", packet)));
    check("Membership", &told);
}

pub(super) fn packets(news: Vec<News>) -> Vec<Vec<u8>> {
    news.into_iter().filter_map(|news| if let News::Packet(_, packet) = news { Some(packet) } else { None }).collect()
}

/// What nodes compute each for itself and must agree on, and names that lie on disk.
#[test]
fn golden_derived() {
    let rank = rank(samples::group(), samples::node(8));
    let lines = [
        ("rendezvous rank of a node for a group", proto::ContentId(rank).to_string()),
        ("digest of a version vector", samples::vector().digest().to_string()),
        ("content id of four bytes", proto::ContentId::of(b"abcd").to_string()),
        ("file name of an attempt", samples::attempt().file_name()),
        ("id of an attempt", samples::attempt().to_string()),
        ("id of a job", samples::job().to_string()),
        ("id of a node", identity_text()),
    ];
    check("Derived", &lines.map(|(title, line)| Sample::text(title, &title, &line)));
}

fn identity_text() -> String {
    samples::identity().node().to_string()
}

#[test]
fn no_word_is_without_its_golden_file() {
    let missing = missing(&serialized(), &files(), &EXCUSED);
    assert!(
        missing.is_empty(),
        "no golden file has these; give each a sample in proto/tests/words/samples.rs and a check in golden.rs, then \
         run FNODE_BLESS=1 cargo test -p proto golden:\n{}",
        missing.join("\n")
    );
}

#[test]
fn no_golden_file_is_left_of_a_word_that_is_gone() {
    let source = [include_str!("golden.rs"), include_str!("samples.rs")].concat();
    for (word, _) in files() {
        let named = word.split('.').all(|part| names(&source, part));
        assert!(named, "tests/golden/{word}.txt belongs to no test: delete it");
    }
}
