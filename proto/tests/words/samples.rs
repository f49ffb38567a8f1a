//! A value of everything that is stored or sent: each variant, each option with and without its content.

use std::collections::{BTreeMap, BTreeSet};

use proto::capacity::{Lack, Reservation};
use proto::entry::{Entry, Identity, LogId, Position};
use proto::event::{AttemptFinished, Event, Frame, JobOutcome, LogRef, Mark};
use proto::job::Attended;
use proto::job::{
    BundleRef, Checkout, Dependency, Diff, EnvironmentRule, EnvironmentSpec, IndexRanges, LostReason, OnLost,
    StartFailure, Trigger, Usage,
};
use proto::log::{EntryRange, Head, VersionVector};
use proto::message::{Accepting, Advert, Demand, Message, Offer, OfferReply};
use proto::record::{AttemptKey, Checkpoint, CheckpointMap, ClusterRecord, Record, RecordKey, Stamp};
use proto::snapshot::{FORMAT, SignedSnapshot, SnapshotHead, SnapshotLog, SnapshotName, SnapshotPart, SnapshotWord};
use proto::ticket::{Secret, Ticket};
use proto::track::{ArtifactNote, ErrorNote, MetricSummary, Scalar, Summary, Tracked};
use proto::{
    AttemptId, ByteSize, Capacity, ClusterId, ContentId, Ending, Gpu, GroupId, GroupSpec, Hlc, JobId, Member, NodeId,
    ProjectNote, Requirement, ValueKey, ValueNote,
};

pub(crate) fn text(text: &str) -> String {
    text.to_owned()
}

pub(crate) fn identity() -> Identity {
    Identity::from_seed([7; 32])
}

pub(crate) fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

pub(crate) fn content(number: u8) -> ContentId {
    ContentId([number; 32])
}

pub(crate) fn group() -> GroupId {
    GroupId::v7(1_700_000_000_123, [5; 10])
}

pub(crate) fn job() -> JobId {
    JobId { group: group(), member: Member::Index(300) }
}

pub(crate) fn attempt() -> AttemptId {
    AttemptId { job: job(), epoch: 2, number: 3 }
}

pub(crate) fn position() -> Position {
    Position { log: LogId { author: identity().node(), incarnation: 1_700_000_000_000 }, seq: 70_000 }
}

pub(crate) fn hlc() -> Hlc {
    Hlc { unix_ms: 1_700_000_000_456, counter: 9 }
}

pub(crate) fn bundle() -> BundleRef {
    BundleRef { manifest: content(0xaa), total_bytes: 123_456_789, files: 42 }
}

pub(crate) fn requirement() -> Requirement {
    Requirement {
        cpu_milli: 2_500,
        memory: ByteSize(4 << 30),
        gpus: 2,
        gpu_memory: ByteSize(40 << 30),
        python: text("3.11"),
        labels: BTreeMap::from([(text("rack"), text("b")), (text("ssd"), String::new())]),
        nodes: BTreeSet::from([text("atlas")]),
        data: BTreeSet::from([text("/data/imagenet")]),
    }
}

/// Everything set.
pub(crate) fn spec() -> GroupSpec {
    GroupSpec {
        user: text("ada"),
        project: text("vision"),
        name: text("baseline"),
        command: vec![text("python"), text("train.py"), text("--lr=0.1")],
        bundle: Some(bundle()),
        requirement: requirement(),
        env: BTreeMap::from([(text("SEED"), text("7"))]),
        secrets: BTreeSet::from([text("TOKEN")]),
        array: IndexRanges::from_indices([1, 2, 3, 300]),
        timeout_s: 3_600,
        retries: 2,
        on_lost: OnLost::Fail,
        priority: -5,
        after: vec![Dependency { on: JobId::only(group()), trigger: Trigger::OneFailed }],
        capture: true,
        keep_outputs: true,
        params_json: text("{\"lr\":0.1}"),
        environment: Some(EnvironmentSpec {
            path: text("requirements.txt"),
            content: content(0xbb),
            python: text("3.11"),
            rule: EnvironmentRule::Lenient,
        }),
        attends: Some(Attended { pid: 4_711, start_time: 70_000, directory: text("/home/ada/vision") }),
        checkout: Some(checkout()),
        parent: Some(JobId { group: group(), member: Member::Index(4) }),
        near: BTreeMap::from([(node(3), ByteSize(1 << 30))]),
    }
}

pub(crate) fn checkout() -> Checkout {
    Checkout {
        commit: text("8f3c1e"),
        branch: text("main"),
        remote: text("https://git.example.org/ada/vision"),
        author: text("Ada <ada@example.org>"),
        is_dirty: true,
        diff: Some(Diff { content: content(0xde), size: 300, is_cut: true }),
    }
}

/// Nothing set that can be left out.
pub(crate) fn bare_spec() -> GroupSpec {
    GroupSpec { capture: false, keep_outputs: false, ..GroupSpec::new("ada", "vision", vec![text("true")]) }
}

pub(crate) fn endings() -> Vec<Ending> {
    let mut endings = vec![
        Ending::Exited { code: 3 },
        Ending::Signalled { signal: 9 },
        Ending::OutOfMemory,
        Ending::TimedOut,
        Ending::Stopped,
    ];
    endings.extend(start_failures().into_iter().map(Ending::NotStarted).take(1));
    endings.push(Ending::Lost(LostReason::CrashLimit));
    endings.push(Ending::Untold);
    endings
}

pub(crate) fn start_failures() -> Vec<StartFailure> {
    vec![
        StartFailure::CommandNotFound(text("pyhton")),
        StartFailure::NotExecutable(text("./run.sh")),
        StartFailure::BundleMissing(content(0xaa)),
        StartFailure::DiskFull,
        StartFailure::Environment(text("no matching distribution")),
        StartFailure::DataMissing(text("/data/imagenet")),
        StartFailure::SecretMissing(text("TOKEN")),
        StartFailure::Dependency(job()),
        StartFailure::System(text("Too many open files")),
    ]
}

pub(crate) fn finished() -> AttemptFinished {
    AttemptFinished {
        attempt: attempt(),
        ending: Ending::Exited { code: 0 },
        usage: Usage { cpu_ms: 61_000, memory_max_bytes: 300_000_000 },
        started_unix_ms: 1_700_000_000_500,
        ended_unix_ms: 1_700_000_060_500,
        outputs: Some(bundle()),
        log: Some(LogRef { content: content(0xcc), size: 70_000, times: Some(content(0xcd)) }),
        ran_with: Some(content(0xce)),
    }
}

pub(crate) fn tracked() -> Tracked {
    let mut loss = MetricSummary::of(Scalar::Number(2.5.into()), 0, 1_700_000_001_000);
    loss.push(Scalar::Number(f64::NAN.into()), 1, 1_700_000_002_000);
    let phase = MetricSummary::of(Scalar::Text(text("warm")), 0, 1_700_000_003_000);
    let done = MetricSummary::of(Scalar::Bool(true), 7, 1_700_000_004_000);
    let weights =
        ArtifactNote { key: text("weights"), file: text("w.bin"), mime: text("application/x"), is_directory: false };
    let error = ErrorNote { kind: text("ValueError"), message: text("no"), traceback: vec![text("line 1")] };
    let summary = Summary {
        params: BTreeMap::from([(text("lr"), text("0.1"))]),
        input_params: text("{\"lr\":0.1}"),
        metrics: BTreeMap::from([(text("loss"), loss), (text("phase"), phase), (text("done"), done)]),
        artifacts: BTreeMap::from([(text("weights"), weights)]),
        error: Some(error),
        record: text("{}"),
        more_metrics: 3,
        reserved: 2,
        left_out: 1,
    };
    Tracked { revision: 3, summary, files: Some(bundle()) }
}

pub(crate) fn value_key() -> ValueKey {
    ValueKey([0xab; 32])
}

pub(crate) fn value_note() -> ValueNote {
    ValueNote {
        content: content(0xce),
        bytes: 70_000,
        function: text("lab.train"),
        project: text("vision"),
        user: text("ada"),
        took_ms: 61_000,
        made_unix_ms: 1_700_000_060_500,
        expires_unix_ms: Some(1_800_000_000_000),
        parts: content(0xcf),
    }
}

pub(crate) fn checkpoints() -> CheckpointMap {
    let key = AttemptKey { epoch: 2, number: 3, worker: node(8) };
    BTreeMap::from([((key, 3), Checkpoint { bundle: bundle(), saved_unix_ms: 1_700_000_040_500 })])
}

pub(crate) fn project_note() -> ProjectNote {
    ProjectNote { user: text("ada"), text: text("the third run sees") }
}

/// Every kind of event.
pub(crate) fn events() -> Vec<Event> {
    let outcome = |member, attempt| JobOutcome { member, attempt, ending: Ending::Exited { code: 0 } };
    vec![
        Event::GroupSubmitted { group: group(), spec: Box::new(spec()), inline: vec![vec![1, 2], vec![]] },
        Event::TookOver { group: group(), epoch: 2 },
        Event::AttemptStarted { attempt: attempt(), started_unix_ms: 1_700_000_000_500 },
        Event::AttemptFinished { finished: Box::new(finished()), inline: vec![b"epoch 1\n".to_vec()] },
        Event::AttemptLost { attempt: attempt(), worker: node(8), reason: LostReason::RunnerDown },
        Event::Outcomes {
            group: group(),
            epoch: 2,
            jobs: vec![outcome(Member::Index(300), Some((attempt(), node(8)))), outcome(Member::Only, None)],
        },
        Event::StopWished { job: job() },
        Event::Marked { job: job(), mark: Mark::Tagged { key: text("best"), value: text("yes") } },
        Event::ProjectDescribed { project: text("vision"), description: text("eyes for robots") },
        Event::MemberJoined { name: text("atlas"), software: text("0.1.0") },
        Event::MemberRemoved { node: node(8) },
        Event::MemberLabelled { node: node(8), labels: BTreeMap::from([(text("rack"), text("b"))]) },
        Event::MemberDrained { node: node(8), drained: true },
        Event::SecretRotated { number: 2 },
        Event::CheckpointSaved { attempt: attempt(), number: 3, bundle: bundle(), saved_unix_ms: 1_700_000_040_500 },
        Event::AttemptTracked { attempt: attempt(), tracked: Box::new(tracked()) },
        Event::ValueMade { key: value_key(), value: Box::new(value_note()), inline: vec![b"FNV1".to_vec()] },
        Event::ValuePurged { key: value_key() },
        Event::ProjectNoted { project: text("vision"), note: Box::new(project_note()) },
        Event::ValueKept { key: value_key(), kept: true },
        Event::Unknown(Frame { kind: 999, version: 3, body: vec![1, 2, 3] }),
    ]
}

pub(crate) fn marks() -> Vec<Mark> {
    vec![
        Mark::Archived(true),
        Mark::Deleted,
        Mark::Tagged { key: text("best"), value: text("yes") },
        Mark::Untagged { key: text("best") },
        Mark::Noted(text("use this one")),
        Mark::Kept(false),
    ]
}

pub(crate) fn lacks() -> Vec<Lack> {
    vec![
        Lack::CpuBusy { free: 500 },
        Lack::MemoryBusy { free: ByteSize(1 << 30) },
        Lack::GpuBusy { free: 1 },
        Lack::NotAccepting,
        Lack::NotAlive,
        Lack::Cpu { total: 4_000 },
        Lack::Memory { total: ByteSize(8 << 30) },
        Lack::Gpu { total: 0 },
        Lack::Python,
        Lack::Label(text("rack")),
        Lack::Data(text("/data/imagenet")),
        Lack::Node,
        Lack::Refused,
    ]
}

pub(crate) fn entry() -> Entry {
    let frames = events().iter().map(Event::to_frame).collect();
    Entry { position: position(), hlc: hlc(), prev: content(0xdd), frames }
}

/// Two entries of one log, the second chained to the first.
pub(crate) fn chain() -> [proto::entry::SignedEntry; 2] {
    let log = LogId { author: identity().node(), incarnation: 3 };
    let entry = |seq, prev, event: &Event| {
        let entry = Entry { position: Position { log, seq }, hlc: hlc(), prev, frames: vec![event.to_frame()] };
        identity().sign(entry)
    };
    let first = entry(1, content(0), &Event::MemberJoined { name: text("atlas"), software: text("0.1.0") });
    let second = entry(2, first.hash(), &Event::SecretRotated { number: 1 });
    [first.signed().clone(), second.signed().clone()]
}

pub(crate) fn capacity() -> Capacity {
    Capacity {
        cpu_milli: 64_000,
        memory: ByteSize(256 << 30),
        disk_free: ByteSize(1 << 40),
        gpus: vec![Gpu {
            uuid: text("GPU-1234"),
            name: text("NVIDIA H200"),
            pci: text("0000:17:00.0"),
            driver: text("550.54"),
            memory: ByteSize(141 << 30),
            memory_free: ByteSize(140 << 30),
            gflops: 60_000,
            gbytes_per_s: 4_000,
            cuda: text("12.4"),
        }],
        labels: BTreeMap::from([(text("rack"), text("b"))]),
        pythons: BTreeSet::from([text("3.10"), text("3.11")]),
        data: BTreeSet::from([text("/data/imagenet")]),
        facts: BTreeMap::from([(text("kernel"), text("6.8"))]),
    }
}

pub(crate) fn reservation() -> Reservation {
    Reservation { cpu_milli: 2_500, memory: ByteSize(4 << 30), gpus: BTreeSet::from([text("GPU-1234")]) }
}

pub(crate) fn secret() -> Secret {
    Secret { number: 3, key: [0x5a; 32] }
}

pub(crate) fn ticket() -> Ticket {
    Ticket {
        cluster: ClusterId([2; 16]),
        cluster_name: text("lab-a"),
        secret: secret(),
        addrs: vec![text("/ip4/192.0.2.7/tcp/4747"), text("/ip6/2001:db8::7/tcp/4747")],
        expires_unix_ms: 1_800_000_000_000,
    }
}

pub(crate) fn vector() -> VersionVector {
    let log = |number, incarnation| LogId { author: node(number), incarnation };
    VersionVector(BTreeMap::from([(log(1, 5), 70_000), (log(1, 6), 1), (log(2, 5), 0)]))
}

/// Every message.
pub(crate) fn messages() -> Vec<Message> {
    let [first, second] = chain();
    vec![
        Message::Membership(vec![1, 2, 3]),
        Message::Fresh(vec![first.clone()]),
        Message::Entries { entries: vec![first, second], more: true },
        Message::Digest(content(0xee)),
        Message::Vector(vector()),
        Message::Want(vec![EntryRange { log: position().log, first: 3, last: 70_000 }]),
        Message::Held(vec![position()]),
        Message::Hold { position: position(), bundle: Some(bundle()) },
        Message::HoldDone { position: position(), bundle: None },
        Message::Advert(Box::new(Advert {
            version: (1_700_000_000_000, 12),
            name: text("atlas"),
            software: text("0.1.0"),
            capacity: capacity(),
            used: reservation(),
            accepting: Accepting::Yes,
            addrs: vec![text("/ip4/192.0.2.7/tcp/4747")],
            bundles: vec![[0xaa; 8]],
        })),
        Message::Offer(Box::new(Offer {
            group: group(),
            epoch: 2,
            members: vec![(Member::Index(300), 3), (Member::Only, 1)],
            checkpoints: BTreeMap::from([(Member::Index(300), checkpoints())]),
            spec: spec(),
            position: position(),
        })),
        Message::OfferReply(Box::new(OfferReply {
            group: group(),
            epoch: 2,
            accepted: vec![(Member::Index(300), 3)],
            refused: vec![(Member::Only, 1)],
            lacks: lacks(),
        })),
        Message::Demands(vec![Demand {
            group: group(),
            waiting: 70_000,
            requirement: requirement(),
            user: text("ada"),
            project: text("vision"),
            priority: -5,
            submitted_unix_ms: 1_700_000_000_123,
        }]),
        Message::Claim { group: group(), count: 512 },
        Message::Cancel(vec![attempt()]),
        Message::TakeOver { group: group(), epoch: 2 },
        Message::TakeOverReply { group: group(), epoch: 2, holding: vec![attempt()] },
        Message::Secret(secret()),
        Message::Addrs(vec![(node(8), vec![text("/ip4/192.0.2.7/tcp/4747")])]),
        Message::Leaving,
        Message::Snapshot(SnapshotWord::Signed(Box::new(signed_snapshot()))),
    ]
}

fn snapshot_name() -> SnapshotName {
    SnapshotName { format: FORMAT, vector: vector(), id: content(0xee), size: 70_000 }
}

/// A snapshot that one node signed.
pub(crate) fn signed_snapshot() -> SignedSnapshot {
    let name = snapshot_name();
    SignedSnapshot { signatures: [(identity().node(), name.sign(&identity()))].into(), name }
}

/// The first word of a snapshot.
pub(crate) fn snapshot_head() -> SnapshotHead {
    let head = Head { seq: 70_000, hash: content(0xee) };
    let logs = [(position().log, SnapshotLog { head, hlc: hlc() })].into();
    SnapshotHead { format: FORMAT, logs, members: [node(8), node(9)].into() }
}

/// Every further word of a snapshot.
pub(crate) fn snapshot_parts() -> Vec<SnapshotPart> {
    let cluster = Record::Cluster(ClusterRecord { secret_number: 3 });
    let stamp = Stamp { hlc: hlc(), position: position(), event: 2 };
    vec![
        SnapshotPart::Record(RecordKey::Cluster, Box::new(cluster)),
        SnapshotPart::Unknown(stamp, Frame { kind: 999, version: 3, body: vec![1, 2, 3] }),
        SnapshotPart::Inline(vec![1, 2, 3]),
        SnapshotPart::End { parts: 3 },
    ]
}

/// All that nodes say to each other about snapshots.
pub(crate) fn snapshot_words() -> Vec<SnapshotWord> {
    let name = snapshot_name();
    vec![
        SnapshotWord::Proposal { vector: vector().digest(), format: FORMAT },
        SnapshotWord::Vote { signature: name.sign(&identity()), name },
        SnapshotWord::Signed(Box::new(signed_snapshot())),
        SnapshotWord::Declined(content(0xee)),
    ]
}
