//! Snapshots, bases and the removal of what they cover: equal states make equal bytes, nothing is lost by a kill at
//! any point, nothing deleted returns.

use std::io::Write as _;

use proto::entry::LogId;
use proto::event::Frame;
use proto::id::{JobId, Member};
use proto::job::GroupSpec;
use proto::log::VersionVector;
use proto::record::{Record, RecordKey};
use proto::snapshot::{Installed, SignedSnapshot, SnapshotError, SnapshotName};
use proto::{GroupId, ProjectNote, ValueKey};

use super::*;
use crate::store::medium as names;

const SEEDS: std::ops::Range<u64> = 0..30;

fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

/// Signed by the authors of the logs that [`some_logs`] makes.
fn signed(name: &SnapshotName) -> SignedSnapshot {
    let by = [identity(1), identity(2)];
    let signatures = by.iter().map(|identity| (identity.node(), name.sign(identity))).collect();
    SignedSnapshot { name: name.clone(), signatures }
}

fn group(number: u8) -> GroupId {
    GroupId::v7(1_700_000_000_000 + u64::from(number), [number; 10])
}

/// A bundle for each project: its manifest and its one file ride in the submission.
fn bundle(project: &str) -> (proto::job::BundleRef, Vec<Vec<u8>>) {
    let file = project.repeat(100).into_bytes();
    let (content, size) = (ContentId::of(&file), file.len() as u64);
    let kind = proto::blob::FileKind::File { content, size, executable: false };
    let manifest =
        proto::Manifest { files: vec![proto::ManifestFile { path: "f".to_owned(), kind }], removed: Vec::new() };
    let bytes = proto::codec::encode(&manifest);
    let bundle = proto::job::BundleRef { manifest: ContentId::of(&bytes), total_bytes: size, files: 1 };
    (bundle, vec![bytes, file])
}

fn spec(project: &str) -> Box<GroupSpec> {
    Box::new(GroupSpec {
        bundle: Some(bundle(project).0),
        array: proto::job::IndexRanges::from_indices(1..=2),
        ..GroupSpec::new("u", project.to_owned(), vec!["true".to_owned()])
    })
}

fn any_event(rng: &mut StdRng) -> Event {
    let group = group(rng.random_range(0..6));
    let job = JobId { group, member: Member::Index(rng.random_range(1..3)) };
    match rng.random_range(0..13) {
        0 | 1 => {
            let project = rng.random_range(0..2).to_string();
            Event::GroupSubmitted { group, spec: spec(&project), inline: bundle(&project).1 }
        }
        7 | 8 => {
            let log = vec![b'l'; rng.random_range(1..9)];
            let finished = proto::event::AttemptFinished {
                attempt: proto::AttemptId { job, epoch: 1, number: 1 },
                ending: proto::job::Ending::Exited { code: 0 },
                usage: proto::job::Usage::default(),
                started_unix_ms: 1,
                ended_unix_ms: rng.random_range(2..9),
                outputs: None,
                log: Some(proto::event::LogRef { content: ContentId::of(&log), size: log.len() as u64, times: None }),
                ran_with: None,
            };
            Event::AttemptFinished { finished: Box::new(finished), inline: vec![log] }
        }
        2 => Event::Outcomes {
            group,
            epoch: 1,
            jobs: (1..3)
                .map(|index| proto::event::JobOutcome {
                    member: Member::Index(index),
                    attempt: None,
                    ending: proto::job::Ending::Stopped,
                })
                .collect(),
        },
        3 => Event::StopWished { job },
        4 => Event::Marked { job: JobId { group, member: Member::Only }, mark: proto::event::Mark::Deleted },
        5 => Event::Unknown(Frame { kind: 9999, version: 1, body: vec![rng.random()] }),
        9 | 10 => {
            let bytes = vec![b'v'; rng.random_range(1..9)];
            let value = proto::ValueNote {
                content: ContentId::of(&bytes),
                bytes: bytes.len() as u64,
                function: "lab.train".to_owned(),
                project: String::new(),
                user: String::new(),
                took_ms: 1,
                made_unix_ms: rng.random_range(0..9),
                expires_unix_ms: None,
                parts: ContentId([1; 32]),
            };
            Event::ValueMade { key: value_key(rng.random_range(0..3)), value: Box::new(value), inline: vec![bytes] }
        }
        11 if rng.random() => Event::ValueKept { key: value_key(rng.random_range(0..3)), kept: rng.random() },
        11 => Event::ValuePurged { key: value_key(rng.random_range(0..3)) },
        12 => Event::ProjectNoted {
            project: rng.random_range(0..3).to_string(),
            note: Box::new(ProjectNote { user: "u".to_owned(), text: rng.random_range(0..9).to_string() }),
        },
        _ => Event::ProjectDescribed { project: rng.random_range(0..3).to_string(), description: "d".to_owned() },
    }
}

fn value_key(number: u8) -> ValueKey {
    ValueKey([number; 32])
}

/// Logs of two members, entry by entry in one of the orders that keep each log's own.
fn some_logs(rng: &mut StdRng) -> Vec<VerifiedEntry> {
    let mut logs = [log(1), log(2)];
    let mut entries = Vec::new();
    for log in &mut logs {
        let mut joined = VecDeque::from([Event::MemberJoined { name: "n".to_owned(), software: String::new() }]);
        entries.extend(log.append(10, &mut joined));
    }
    for at in 0..rng.random_range(10..80_u64) {
        let log = &mut logs[rng.random_range(0..2)];
        let mut events = (0..rng.random_range(1..3)).map(|_| any_event(rng)).collect();
        entries.extend(log.append(11 + at, &mut events));
    }
    entries
}

/// All that a store tells.
#[derive(Debug, PartialEq)]
struct Told {
    records: BTreeMap<RecordKey, Record>,
    inline: BTreeMap<ContentId, Option<Vec<u8>>>,
    projects: Vec<ProjectSummary>,
    unfinished: usize,
}

fn told(store: &Store) -> Told {
    let mut records = BTreeMap::new();
    let mut inline = BTreeMap::new();
    for group in (0..6).map(group) {
        let key = RecordKey::Group(group);
        // Small blobs that only deleted jobs name may be gone.
        let mut named = Vec::new();
        if let Some(record) = store.record(&key).expect("sound") {
            if let Record::Group(group) = &record
                && let Some(submitted) = group.submitted.as_ref().filter(|_| !group.marks.deleted)
            {
                named.extend(bundle(&submitted.spec.project).1.iter().map(|bytes| ContentId::of(bytes)));
            }
            records.insert(key.clone(), record);
        }
        let is_deleted = matches!(records.get(&key), Some(Record::Group(group)) if group.marks.deleted);
        for (member, job) in store.jobs_of(group, None, 100).expect("sound") {
            let logs = job.attempts.values().filter_map(|attempt| attempt.finished.as_ref()?.log.as_ref());
            named.extend(logs.filter(|_| !is_deleted).map(|log| log.content));
            records.insert(RecordKey::Job(JobId { group, member }), Record::Job(job));
        }
        inline.extend(named.into_iter().map(|content| (content, store.inline(content).expect("readable"))));
    }
    for (key, record) in store.values(None, 100).expect("sound") {
        let named = record.values.values().map(|value| value.content);
        inline.extend(named.map(|content| (content, store.inline(content).expect("readable"))));
        records.insert(RecordKey::Value(key), Record::Value(record));
    }
    for (node, record) in store.nodes().expect("sound") {
        records.insert(RecordKey::Node(node), Record::Node(record));
    }
    let filter = GroupFilter { unfinished: true, hidden: true, ..GroupFilter::default() };
    let unfinished = store.groups(&filter, 100).expect("sound").len();
    Told { records, inline, projects: store.projects().expect("sound"), unfinished }
}

async fn all_of(entries: &[VerifiedEntry]) -> Store {
    let (store, _) = Store::in_memory();
    store.commit(entries.to_vec()).await.expect("committed");
    store
}

async fn keep(store: &Store) -> Installed {
    let name = store.make_snapshot().await.expect("made");
    store.keep_snapshot(signed(&name)).await.expect("kept")
}

/// The bytes of the draft that was made last, as a file.
fn file_of(medium: &dyn Medium, number: u64) -> std::fs::File {
    let mut bytes = vec![0; usize::try_from(medium.len(number).expect("there")).expect("short")];
    medium.read_at(number, 0, &mut bytes).expect("memory");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&bytes).expect("written");
    std::io::Seek::rewind(&mut file).expect("rewound");
    file
}

fn vector_of(entries: &[VerifiedEntry]) -> VersionVector {
    let mut vector = VersionVector::default();
    entries.iter().for_each(|entry| vector.raise(entry.position()));
    vector
}

#[tokio::test]
async fn equal_entries_make_equal_snapshots_whatever_order_they_came_in() {
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let entries = some_logs(&mut rng);
        let mut by_log = entries.clone();
        by_log.sort_by_key(VerifiedEntry::position);
        let one = all_of(&entries).await.make_snapshot().await.expect("made");
        let (store, _) = Store::in_memory();
        for entry in by_log {
            store.commit(vec![entry]).await.expect("committed");
        }
        let other = store.make_snapshot().await.expect("made");
        assert_eq!(one, other, "seed {seed}");
        assert_eq!(one.vector, vector_of(&entries));
        // A node that started from it makes the same one.
        let medium: Arc<dyn Medium> = Arc::new(Memory::default());
        let (maker, _) = start(&medium, Box::new(MemorySource));
        maker.commit(entries.clone()).await.expect("committed");
        maker.make_snapshot().await.expect("made");
        let (joiner, _) = Store::in_memory();
        let file = file_of(medium.as_ref(), names::DRAFT);
        joiner.install_snapshot(signed(&one), file).await.expect("installed");
        assert_eq!(joiner.make_snapshot().await.expect("made"), one, "seed {seed}: second hand");
        assert!(told(&joiner) == told(&maker), "seed {seed}");
    }
}

#[tokio::test]
async fn a_node_with_work_of_its_own_keeps_it_and_goes_on() {
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let entries = some_logs(&mut rng);
        let cut = rng.random_range(2..entries.len());
        let medium: Arc<dyn Medium> = Arc::new(Memory::default());
        let (maker, _) = start(&medium, Box::new(MemorySource));
        maker.commit(entries[..cut].to_vec()).await.expect("committed");
        let name = maker.make_snapshot().await.expect("made");
        // The joiner has a part of these logs, perhaps beyond the snapshot, and a log of its own.
        let mut own = log(3);
        let mut mine: Vec<VerifiedEntry> = Vec::new();
        for _ in 0..rng.random_range(0..9) {
            mine.extend(own.append(50, &mut [any_event(&mut rng)].into()));
        }
        let author = entries[0].position().log.author;
        let has = rng.random_range(0..entries.len());
        mine.extend(entries[..has].iter().filter(|entry| entry.position().log.author == author).cloned());
        let joiner_medium: Arc<dyn Medium> = Arc::new(Memory::default());
        let (joiner, _) = start(&joiner_medium, Box::new(MemorySource));
        joiner.commit(mine.clone()).await.expect("committed");
        let installed =
            joiner.install_snapshot(signed(&name), file_of(medium.as_ref(), names::DRAFT)).await.expect("installed");
        for (key, record) in &installed.changed {
            assert_eq!(joiner.record(key).expect("sound").as_ref(), Some(record), "seed {seed}");
        }
        joiner.commit(entries[cut..].to_vec()).await.expect("the tails follow");
        let mut union = entries.clone();
        union.extend(mine);
        let want = told(&all_of(&union).await);
        assert!(told(&joiner) == want, "seed {seed}");
        // Made again from base and segments, it is the same.
        joiner.close().await;
        let (again, recovered) = start(&joiner_medium, Box::new(MemorySource));
        assert!(told(&again) == want, "seed {seed}: {:?}", recovered.notices);
        assert_eq!(recovered.snapshots, [signed(&name)]);
        assert_eq!(
            VersionVector(recovered.heads.iter().map(|(&log, head)| (log, head.seq)).collect()),
            vector_of(&union)
        );
    }
}

#[tokio::test]
async fn what_a_base_covers_is_removed_and_nothing_else() {
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let entries = some_logs(&mut rng);
        let medium: Arc<dyn Medium> = Arc::new(Memory::default());
        let fragile = Fragile::default();
        let (store, _) = start(&medium, Box::new(fragile.clone()));
        let cuts = [entries.len() / 3, entries.len() * 2 / 3];
        store.commit(entries[..cuts[0]].to_vec()).await.expect("committed");
        keep(&store).await;
        store.commit(entries[cuts[0]..cuts[1]].to_vec()).await.expect("committed");
        assert_eq!(store.compact(0).await.expect("done"), VersionVector::default(), "nothing is that old");
        let floors = store.compact(u64::MAX).await.expect("done");
        assert_eq!(floors, vector_of(&entries[..cuts[0]]), "seed {seed}");
        assert_eq!(medium.segments().expect("memory"), [2]);
        keep(&store).await;
        store.commit(entries[cuts[1]..].to_vec()).await.expect("committed");
        let floors = store.compact(u64::MAX).await.expect("done");
        assert_eq!(floors, vector_of(&entries[..cuts[1]]), "seed {seed}");
        assert_eq!((medium.segments().expect("memory"), medium.bases().expect("memory")), (vec![3], vec![3]));
        let want = told(&all_of(&entries).await);
        assert!(told(&store) == want, "seed {seed}");
        check_reads(&store, &entries, &floors);
        store.close().await;
        for rebuilt in [false, true] {
            let source = if rebuilt { Fragile::default() } else { fragile.clone() };
            let (again, recovered) = start(&medium, Box::new(source));
            assert!(told(&again) == want, "seed {seed}: {:?}", recovered.notices);
            assert_eq!(recovered.floors, floors, "seed {seed}");
            check_reads(&again, &entries, &floors);
            again.close().await;
        }
    }
}

/// What is not covered is sent; of what is covered, nothing is.
fn check_reads(store: &Store, entries: &[VerifiedEntry], floors: &VersionVector) {
    for entry in entries {
        let position = entry.position();
        let range = EntryRange { log: position.log, first: position.seq, last: position.seq };
        let read = store.read(range, usize::MAX).expect("readable");
        let want: &[SignedEntry] = if floors.covers(position) { &[] } else { std::slice::from_ref(entry.signed()) };
        assert_eq!(read, want, "{position:?}");
    }
}

#[tokio::test]
async fn a_snapshot_that_is_not_as_named_or_not_signed_changes_nothing() {
    let mut rng = StdRng::seed_from_u64(5);
    let entries = some_logs(&mut rng);
    let medium: Arc<dyn Medium> = Arc::new(Memory::default());
    let (maker, _) = start(&medium, Box::new(MemorySource));
    maker.commit(entries.clone()).await.expect("committed");
    let name = maker.make_snapshot().await.expect("made");
    let file = || file_of(medium.as_ref(), names::DRAFT);
    let (store, _) = Store::in_memory();
    let cut = file();
    cut.set_len(name.size - 1).expect("cut");
    let alone =
        SignedSnapshot { signatures: signed(&name).signatures.into_iter().take(1).collect(), name: name.clone() };
    let mut forged = signed(&name);
    forged.name.size += 1;
    for (what, signed, file) in [
        ("cut short", signed(&name), cut),
        ("signed by one of two", alone, file()),
        ("signatures of another", forged, file()),
    ] {
        let refused = store.install_snapshot(signed, file).await;
        assert!(matches!(refused, Err(StoreError::Snapshot(_))), "{what}: {refused:?}");
    }
    let flipped = file();
    std::os::unix::fs::FileExt::write_all_at(&flipped, &[0xff], name.size / 2).expect("written");
    let refused = store.install_snapshot(signed(&name), flipped).await;
    assert!(
        matches!(refused, Err(StoreError::Snapshot(SnapshotError::NotAsNamed | SnapshotError::Decode(_)))),
        "{refused:?}"
    );
    assert!(told(&store) == told(&Store::in_memory().0));
    assert_eq!(store.snapshots(), []);
    assert!(matches!(store.keep_snapshot(signed(&name)).await, Err(StoreError::NotMade)), "nothing was made here");
    store.install_snapshot(signed(&name), file()).await.expect("the genuine one");
    assert!(told(&store) == told(&maker));
}

/// A disk that dies after so many changes: what was changed before stays.
struct Mortal {
    inner: Memory,
    left: AtomicU64,
}

impl Mortal {
    fn live(&self) -> io::Result<()> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(io::Error::other("killed"));
        }
        self.left.store(left - 1, Ordering::SeqCst);
        Ok(())
    }
}

impl Medium for Mortal {
    fn segments(&self) -> io::Result<Vec<u64>> {
        self.inner.segments()
    }
    fn bases(&self) -> io::Result<Vec<u64>> {
        self.inner.bases()
    }
    fn len(&self, segment: u64) -> io::Result<u64> {
        self.inner.len(segment)
    }
    fn create(&self, segment: u64) -> io::Result<()> {
        self.live()?;
        self.inner.create(segment)
    }
    fn write_at(&self, segment: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.live().is_err() {
            // The last write before the end is torn.
            self.inner.write_at(segment, offset, &bytes[..bytes.len() / 2])?;
            return Err(io::Error::other("killed"));
        }
        self.inner.write_at(segment, offset, bytes)
    }
    fn sync(&self, _: u64) -> io::Result<()> {
        self.live()
    }
    fn truncate(&self, segment: u64, len: u64) -> io::Result<()> {
        self.live()?;
        self.inner.truncate(segment, len)
    }
    fn rename(&self, from: u64, to: u64) -> io::Result<()> {
        self.live()?;
        self.inner.rename(from, to)
    }
    fn remove(&self, number: u64) -> io::Result<()> {
        self.live()?;
        self.inner.remove(number)
    }
    fn read_at(&self, segment: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(segment, offset, buffer)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
    fn path(&self, segment: u64) -> PathBuf {
        self.inner.path(segment)
    }
}

/// Commits, snapshots, an installation and compactions, the disk dying at each step in turn; with the index as it
/// was then, and without one.
#[tokio::test]
async fn a_kill_at_any_step_loses_nothing_that_was_answered() {
    let mut rng = StdRng::seed_from_u64(11);
    let entries = some_logs(&mut rng);
    let want = told(&all_of(&entries).await);
    let elsewhere: Arc<dyn Medium> = Arc::new(Memory::default());
    let (maker, _) = start(&elsewhere, Box::new(MemorySource));
    maker.commit(entries[..entries.len() * 2 / 3].to_vec()).await.expect("committed");
    let name = maker.make_snapshot().await.expect("made");
    let mut finished = false;
    let mut at = 0;
    while !finished {
        at += 1;
        for rebuilt in [false, true] {
            let disk = Arc::new(Mortal { inner: Memory::default(), left: AtomicU64::new(at) });
            let medium: Arc<dyn Medium> = disk.clone();
            let fragile = Fragile::default();
            let (store, _) = start(&medium, Box::new(fragile.clone()));
            let third = entries.len() / 3;
            let mut answered = VersionVector::default();
            finished = async {
                store.commit(entries[..third].to_vec()).await?;
                answered = vector_of(&entries[..third]);
                let made = store.make_snapshot().await?;
                store.keep_snapshot(signed(&made)).await?;
                store.compact(u64::MAX).await?;
                store.install_snapshot(signed(&name), file_of(elsewhere.as_ref(), names::DRAFT)).await?;
                answered = name.vector.clone();
                store.compact(u64::MAX).await?;
                store.commit(entries[entries.len() * 2 / 3..].to_vec()).await?;
                answered = vector_of(&entries);
                Ok::<(), StoreError>(())
            }
            .await
            .is_ok();
            drop(store);
            disk.left.store(u64::MAX, Ordering::SeqCst);
            let source = if rebuilt { Fragile::default() } else { fragile };
            let (again, recovered) = start(&medium, Box::new(source));
            let heads = VersionVector(recovered.heads.iter().map(|(&log, head)| (log, head.seq)).collect());
            assert_eq!(answered.beyond(&heads), [], "step {at}, rebuilt {rebuilt}: {:?}", recovered.notices);
            // Whoever was behind is told the rest, from a snapshot and entries, and then all is there.
            again
                .install_snapshot(signed(&name), file_of(elsewhere.as_ref(), names::DRAFT))
                .await
                .unwrap_or_else(|error| panic!("step {at}: {error}"));
            again.commit(entries.clone()).await.unwrap_or_else(|error| panic!("step {at}: {error}"));
            assert!(told(&again) == want, "step {at}, rebuilt {rebuilt}");
            again.close().await;
        }
        assert!(at < 1000, "it never gets through");
    }
    assert!(at > 20, "there are more steps than {at} to die at");
}

#[tokio::test]
async fn a_damaged_base_is_left_out_and_asked_for_again() {
    let mut rng = StdRng::seed_from_u64(3);
    let entries = some_logs(&mut rng);
    let medium: Arc<dyn Medium> = Arc::new(Memory::default());
    let (store, _) = start(&medium, Box::new(MemorySource));
    store.commit(entries.clone()).await.expect("committed");
    let name = store.make_snapshot().await.expect("made");
    let copy = file_of(medium.as_ref(), names::DRAFT);
    store.keep_snapshot(signed(&name)).await.expect("kept");
    store.compact(u64::MAX).await.expect("done");
    let want = told(&store);
    store.close().await;
    medium.write_at(names::base(2), name.size / 2, &[0; 16]).expect("memory");
    let (again, recovered) = start(&medium, Box::new(MemorySource));
    assert!(recovered.notices.iter().any(|notice| notice.contains("damaged")), "{:?}", recovered.notices);
    assert_eq!(recovered.heads, BTreeMap::<LogId, _>::new());
    again.install_snapshot(signed(&name), copy).await.expect("a peer had it");
    assert!(told(&again) == want);
}

/// A cluster of one that let its own work go, and then joined another cluster.
#[tokio::test]
async fn a_base_of_own_work_stays_until_another_covers_it() {
    let mut rng = StdRng::seed_from_u64(9);
    let theirs = some_logs(&mut rng);
    let mut own = log(3);
    let mut joined = VecDeque::from([Event::MemberJoined { name: "n".to_owned(), software: String::new() }]);
    let mut mine: Vec<VerifiedEntry> = own.append(10, &mut joined).into_iter().collect();
    mine.extend((0..20).filter_map(|_| own.append(11, &mut [any_event(&mut rng)].into())));
    let elsewhere: Arc<dyn Medium> = Arc::new(Memory::default());
    let (maker, _) = start(&elsewhere, Box::new(MemorySource));
    maker.commit(theirs.clone()).await.expect("committed");
    let name = maker.make_snapshot().await.expect("made");
    let medium: Arc<dyn Medium> = Arc::new(Memory::default());
    let (store, _) = start(&medium, Box::new(MemorySource));
    store.commit(mine.clone()).await.expect("committed");
    let alone = store.make_snapshot().await.expect("made");
    let by_itself = [(own.me(), alone.sign(&identity(3)))].into();
    let alone = SignedSnapshot { name: alone, signatures: by_itself };
    store.keep_snapshot(alone.clone()).await.expect("it is the only member");
    store.compact(u64::MAX).await.expect("done");
    store.install_snapshot(signed(&name), file_of(elsewhere.as_ref(), names::DRAFT)).await.expect("installed");
    store.compact(u64::MAX).await.expect("done");
    let all = [theirs, mine].concat();
    let want = told(&all_of(&all).await);
    assert!(told(&store) == want);
    store.close().await;
    let (again, recovered) = start(&medium, Box::new(MemorySource));
    assert_eq!(recovered.snapshots, [alone, signed(&name)]);
    assert!(told(&again) == want, "made again: {:?}", recovered.notices);
    let both = again.make_snapshot().await.expect("made");
    assert_eq!(both.vector, vector_of(&all));
    again.keep_snapshot(signed(&both)).await.expect("kept");
    again.compact(u64::MAX).await.expect("done");
    assert_eq!(medium.bases().expect("memory").len(), 1, "one covers all");
    assert!(told(&again) == want);
}
