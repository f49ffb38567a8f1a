//! The store on disks that fail, on bytes that are wrong, and the bytes that it writes.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proto::entry::{Identity, SignedEntry, VerifiedEntry};
use proto::event::Event;
use proto::log::{EntryRange, Log};
use proto::{ContentId, Hlc};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::error::{StoreError, TableError};
use super::journal::{End, Journal, Location, RECORD_HEADER, SEGMENT_MAX, frame, payload_of, read_record};
use super::medium::{Medium, Memory};
use super::scan::{Found, Scan};
use super::table::{Batch, MemorySource, MemoryTable, Opened, Order, Table, TableSource, Visit};
use super::{GroupFilter, ProjectSummary, Recovered, Store};
use crate::harness::attack::attack;
use crate::harness::golden::{Sample, check};
use crate::samples;

fn log(seed: u8) -> Log {
    Log::new(Identity::from_seed([seed; 32]), 1, BTreeMap::new(), Hlc::default())
}

fn write(log: &mut Log, number: u32) -> VerifiedEntry {
    log.append(10, &mut VecDeque::from([Event::SecretRotated { number }])).expect("one event")
}

#[test]
fn golden_journal() {
    let signed = samples::chain()[0].clone();
    let medium: Arc<dyn Medium> = Arc::new(Memory::default());
    let mut journal = Journal::open(medium.clone(), End { segment: 0, offset: 0 }).expect("empty");
    let mut record = Vec::new();
    let len = frame(&signed, &mut record);
    assert_eq!(len as usize, record.len());
    let end = journal.append(&record).expect("memory");
    let mut segment = vec![0; usize::try_from(end.offset).expect("small") + record.len()];
    medium.read_at(1, 0, &mut segment).expect("memory");
    check("store.Journal", &[Sample::new("a segment with one record", &(end, signed), segment)]);
}

#[test]
fn hostile_bytes_in_a_segment_do_no_harm() {
    let signed = samples::chain()[0].clone();
    let mut record = Vec::new();
    frame(&signed, &mut record);
    attack("record", &record, |bytes| {
        let payload = payload_of(bytes).filter(|payload| payload.len() + RECORD_HEADER == bytes.len());
        payload.is_some_and(|payload| proto::codec::decode::<SignedEntry>(payload).is_ok())
    });
    // The scan of a whole segment, whose window is 1 MiB: fewer places are enough.
    let header = b"fnodeseg\x01\0\0\0\0\0\0\0";
    let segment = [header, record.as_slice(), record.as_slice()].concat();
    let found = |bytes: &[u8]| {
        let medium = Memory::default();
        medium.create(1).expect("memory");
        medium.write_at(1, 0, bytes).expect("memory");
        let mut scan = Scan::new(&medium, 1, 0).expect("memory");
        let mut records = Vec::new();
        while let Some(next) = scan.next().expect("memory") {
            if let Found::Record(_, found) = next {
                records.push(found);
            }
        }
        records
    };
    assert_eq!(found(&segment).len(), 2);
    for at in 0..segment.len() {
        let mut flipped = segment.clone();
        flipped[at] ^= 1 << (at % 8);
        let records = found(&flipped);
        assert!(records.iter().all(|record| *record == signed), "a record with the flipped byte {at} is taken");
        assert_eq!(records.len(), if at < header.len() { 2 } else { 1 }, "byte {at} costs its own record alone");
        assert!(found(&segment[..at]).len() < 2, "cut at {at}");
    }
}

#[test]
fn a_journal_goes_on_in_a_new_segment_and_is_read_back() {
    let medium: Arc<dyn Medium> = Arc::new(Memory::default());
    let mut journal = Journal::open(medium.clone(), End { segment: 0, offset: 0 }).expect("empty");
    let signed = SignedEntry { bytes: vec![1; 200_000], signature: vec![2; 64] };
    let mut record = Vec::new();
    let len = frame(&signed, &mut record);
    let places: Vec<Location> = (0..SEGMENT_MAX / 200_000 + 4)
        .map(|_| {
            let start = journal.append(&record).expect("memory");
            Location { segment: start.segment, offset: start.offset, len }
        })
        .collect();
    assert_eq!(medium.segments().expect("memory"), [1, 2]);
    let last_of_first = places.iter().rfind(|place| place.segment == 1).expect("some");
    assert_eq!(medium.len(1).expect("memory"), last_of_first.offset + u64::from(len), "nothing behind its last record");
    for &place in places.iter().step_by(50) {
        assert_eq!(read_record(medium.as_ref(), place).expect("memory").as_ref(), Some(&signed));
    }
    let second: Vec<Location> = places.into_iter().filter(|place| place.segment == 2).collect();
    assert!(second.len() > 1);
    assert_eq!(records(&medium, 2), second);
}

fn records(medium: &Arc<dyn Medium>, segment: u64) -> Vec<Location> {
    let mut scan = Scan::new(medium.as_ref(), segment, 0).expect("there");
    let mut found = Vec::new();
    while let Some(next) = scan.next().expect("memory") {
        if let Found::Record(location, _) = next {
            found.push(location);
        }
    }
    found
}

/// Whatever a segment holds, the scan ends, and finds every record that was not touched.
#[test]
fn records_beside_damage_are_found() {
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let medium: Arc<dyn Medium> = Arc::new(Memory::default());
        let mut journal = Journal::open(medium.clone(), End { segment: 0, offset: 0 }).expect("empty");
        let mut places = Vec::new();
        for _ in 0..rng.random_range(1..60) {
            let bytes = (0..rng.random_range(0..9000)).map(|_| rng.random()).collect();
            let mut record = Vec::new();
            let len = frame(&SignedEntry { bytes, signature: vec![9; 64] }, &mut record);
            let start = journal.append(&record).expect("memory");
            places.push(Location { segment: 1, offset: start.offset, len });
        }
        let (from, len) = (rng.random_range(0..journal.end().offset), rng.random_range(1..9000_u64));
        let fill: Option<u8> = [Some(0), Some(0xff), None][rng.random_range(0..3)];
        let damage: Vec<u8> = (0..len).map(|_| fill.unwrap_or_else(|| rng.random())).collect();
        medium.write_at(1, from, &damage).expect("memory");
        let touched = |place: &Location| place.offset < from + len && from < place.offset + u64::from(place.len);
        let want: Vec<Location> = places.iter().filter(|place| !touched(place)).copied().collect();
        let found = records(&medium, 1);
        // Damage may happen to write what was there before.
        assert!(want.iter().all(|place| found.contains(place)), "seed {seed}");
        assert!(found.iter().all(|place| places.contains(place)), "seed {seed}");
    }
}

/// A record that somebody put inside an event is not taken for one when the record around it is damaged.
#[tokio::test]
async fn a_forged_record_inside_a_damaged_one_is_not_believed() {
    let medium: Arc<dyn Medium> = Arc::new(Memory::default());
    let (mut author, mut victim) = (log(1), log(2));
    let mut forged = write(&mut victim, 99).signed().clone();
    forged.signature = vec![0; 64];
    let mut record = Vec::new();
    frame(&forged, &mut record);
    let description = "x".repeat(3000);
    let frame_with_record = proto::event::Frame { kind: 999, version: 1, body: record };
    let mut events = VecDeque::from([
        Event::ProjectDescribed { project: "p".to_owned(), description },
        Event::Unknown(frame_with_record),
    ]);
    let entry = author.append(10, &mut events).expect("events");
    let (store, _) = start(&medium, Box::new(MemorySource));
    store.commit(vec![entry]).await.expect("stored");
    store.close().await;
    medium.write_at(1, 100, &[0; 64]).expect("memory");
    let (store, recovered) = start(&medium, Box::new(MemorySource));
    assert_eq!(recovered.heads, BTreeMap::new(), "{:?}", recovered.notices);
    assert_eq!(store.cluster().expect("sound").secret_number, 0);
}

fn start(medium: &Arc<dyn Medium>, source: Box<dyn TableSource>) -> (Store, Recovered) {
    Store::start(medium.clone(), source, None).expect("starts")
}

/// A disk with room for so many more bytes, that can also fail to sync.
struct Small {
    inner: Memory,
    room: AtomicU64,
    sync_fails: AtomicBool,
}

impl Small {
    fn new(room: u64) -> Arc<Self> {
        Arc::new(Self { inner: Memory::default(), room: AtomicU64::new(room), sync_fails: AtomicBool::new(false) })
    }
}

impl Medium for Small {
    fn segments(&self) -> io::Result<Vec<u64>> {
        self.inner.segments()
    }

    fn len(&self, segment: u64) -> io::Result<u64> {
        self.inner.len(segment)
    }

    fn create(&self, segment: u64) -> io::Result<()> {
        self.inner.create(segment)
    }

    fn write_at(&self, segment: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let room = self.room.load(Ordering::SeqCst);
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        self.inner.write_at(segment, offset, &bytes[..fits])?;
        self.room.fetch_sub(fits as u64, Ordering::SeqCst);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self, _: u64) -> io::Result<()> {
        if self.sync_fails.load(Ordering::SeqCst) { Err(io::Error::other("bad sector")) } else { Ok(()) }
    }

    fn truncate(&self, segment: u64, len: u64) -> io::Result<()> {
        self.inner.truncate(segment, len)
    }

    fn read_at(&self, segment: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(segment, offset, buffer)
    }

    fn bases(&self) -> io::Result<Vec<u64>> {
        self.inner.bases()
    }

    fn rename(&self, from: u64, to: u64) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.inner.remove(number)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.inner.path(segment)
    }
}

#[tokio::test]
async fn a_full_disk_keeps_what_was_answered_and_later_commits_succeed() {
    let disk = Small::new(600_000);
    let medium: Arc<dyn Medium> = disk.clone();
    let (store, _) = start(&medium, Box::new(MemorySource));
    let mut log = log(1);
    let mut number = 0;
    let failed = loop {
        number += 1;
        let text = "x".repeat(40_000);
        let mut events = [Event::ProjectDescribed { project: "p".to_owned(), description: text }].into();
        let entry = log.append(10, &mut events).expect("one event");
        if let Err(error) = store.commit(vec![entry.clone()]).await {
            assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
            break entry;
        }
    };
    assert!(number > 2, "some fit");
    // The next of the log is refused until this one is in.
    let next = write(&mut log, number);
    assert!(matches!(
        store.commit(vec![next.clone()]).await,
        Err(StoreError::NotNext { .. } | StoreError::DiskFull { .. })
    ));
    assert_eq!(records(&medium, 1).len() as u32, number - 1, "nothing of a failed commit is left");
    disk.room.store(1 << 30, Ordering::SeqCst);
    store.commit(vec![failed]).await.expect("there is room now");
    store.commit(vec![next]).await.expect("and for more");
    let range = EntryRange { log: log.own(), first: 1, last: u64::MAX };
    assert_eq!(store.read(range, usize::MAX).expect("readable").len() as u32, number + 1);
    let (again, recovered) = start(&medium, Box::new(MemorySource));
    assert_eq!(recovered.heads.get(&log.own()), log.heads().get(&log.own()));
    assert_eq!(again.cluster().expect("sound").secret_number, number);
}

#[tokio::test]
async fn a_failed_sync_answers_a_failure_and_leaves_nothing() {
    let disk = Small::new(u64::MAX);
    let medium: Arc<dyn Medium> = disk.clone();
    let (store, _) = start(&medium, Box::new(MemorySource));
    let mut log = log(1);
    store.commit(vec![write(&mut log, 1)]).await.expect("stored");
    disk.sync_fails.store(true, Ordering::SeqCst);
    let two = write(&mut log, 2);
    let error = store.commit(vec![two.clone()]).await.expect_err("not durable");
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(store.cluster().expect("sound").secret_number, 1);
    assert_eq!(records(&medium, 1).len(), 1);
    disk.sync_fails.store(false, Ordering::SeqCst);
    store.commit(vec![two]).await.expect("stored");
    assert_eq!(store.cluster().expect("sound").secret_number, 2);
}

/// Tables that fail on demand; like sled's directory, the source gives the same content again.
#[derive(Clone, Default)]
struct Fragile {
    table: Arc<MemoryTable>,
    apply_fails: Arc<AtomicBool>,
    read_fails: Arc<AtomicBool>,
    open_fails: Arc<AtomicBool>,
    set_aside: Arc<AtomicU64>,
}

impl Table for Fragile {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        if self.read_fails.swap(false, Ordering::SeqCst) {
            return Err(TableError::Corrupt("planted".to_owned()));
        }
        self.table.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visit<'_>) -> Result<(), TableError> {
        self.table.scan(from, to, order, visit)
    }

    fn apply(&self, batch: Batch) -> Result<(), TableError> {
        if self.apply_fails.swap(false, Ordering::SeqCst) {
            return Err(TableError::Io(Arc::new(io::ErrorKind::StorageFull.into())));
        }
        self.table.apply(batch)
    }

    fn flush(&self) -> Result<(), TableError> {
        Ok(())
    }
}

impl TableSource for Fragile {
    fn open(&mut self) -> Result<Opened, TableError> {
        if self.open_fails.load(Ordering::SeqCst) {
            return Err(TableError::Io(Arc::new(io::ErrorKind::StorageFull.into())));
        }
        if self.set_aside.load(Ordering::SeqCst) == 1 {
            return Err(TableError::Corrupt("it failed before".to_owned()));
        }
        Ok(Opened { table: Arc::new(self.clone()), in_doubt: true })
    }

    fn set_aside(&mut self) -> Result<String, TableError> {
        self.table = Arc::default();
        self.set_aside.store(2, Ordering::SeqCst);
        Ok("there".to_owned())
    }

    fn suspect(&mut self) {
        self.set_aside.store(1, Ordering::SeqCst);
    }

    fn closed(&mut self) {}
}

#[tokio::test]
async fn an_index_that_fails_once_is_mended_and_the_commit_succeeds() {
    for corrupt in [false, true] {
        let medium: Arc<dyn Medium> = Arc::new(Memory::default());
        let fragile = Fragile::default();
        let (store, _) = start(&medium, Box::new(fragile.clone()));
        let mut log = log(1);
        store.commit(vec![write(&mut log, 1)]).await.expect("stored");
        if corrupt { &fragile.read_fails } else { &fragile.apply_fails }.store(true, Ordering::SeqCst);
        let changed = store.commit(vec![write(&mut log, 2)]).await.expect("mended").changed;
        assert_eq!(changed.len(), 1);
        assert_eq!(fragile.set_aside.load(Ordering::SeqCst), if corrupt { 2 } else { 0 });
        assert_eq!(store.cluster().expect("sound").secret_number, 2);
        assert_eq!(records(&medium, 1).len(), 2, "no entry is there twice");
        store.commit(vec![write(&mut log, 3)]).await.expect("goes on");
    }
}

#[tokio::test]
async fn an_index_that_cannot_be_opened_fails_commits_until_it_can() {
    let medium: Arc<dyn Medium> = Arc::new(Memory::default());
    let fragile = Fragile::default();
    let (store, _) = start(&medium, Box::new(fragile.clone()));
    let mut log = log(1);
    store.commit(vec![write(&mut log, 1)]).await.expect("stored");
    fragile.open_fails.store(true, Ordering::SeqCst);
    fragile.apply_fails.store(true, Ordering::SeqCst);
    let two = write(&mut log, 2);
    let error = store.commit(vec![two.clone()]).await.expect_err("no index");
    assert!(matches!(error, StoreError::Index(_)), "{error}");
    assert_eq!(records(&medium, 1).len(), 1, "nothing of a failed commit is left");
    assert!(matches!(store.cluster(), Err(StoreError::Index(TableError::Down))));
    fragile.open_fails.store(false, Ordering::SeqCst);
    store.commit(vec![two]).await.expect("mended");
    assert_eq!(store.cluster().expect("sound").secret_number, 2);
}

#[tokio::test]
async fn a_reader_that_finds_the_index_bad_has_it_mended() {
    let medium: Arc<dyn Medium> = Arc::new(Memory::default());
    let fragile = Fragile::default();
    let (store, _) = start(&medium, Box::new(fragile.clone()));
    let mut log = log(1);
    store.commit(vec![write(&mut log, 7)]).await.expect("stored");
    fragile.read_fails.store(true, Ordering::SeqCst);
    assert!(store.cluster().is_err());
    // An empty commit waits for its turn behind the mending.
    store.commit(Vec::new()).await.expect("mended");
    assert_eq!(fragile.set_aside.load(Ordering::SeqCst), 2);
    assert_eq!(store.cluster().expect("sound").secret_number, 7);
}

fn finished(number: u32, log: &[u8]) -> Event {
    let job = proto::JobId::only(proto::GroupId([5; 16]));
    let finished = proto::event::AttemptFinished {
        attempt: proto::AttemptId { job, epoch: 1, number },
        ending: proto::Ending::Exited { code: 0 },
        usage: proto::job::Usage::default(),
        started_unix_ms: 1,
        ended_unix_ms: 2,
        outputs: None,
        log: Some(proto::event::LogRef { content: ContentId::of(log), size: log.len() as u64, times: None }),
        ran_with: None,
    };
    Event::AttemptFinished { finished: Box::new(finished), inline: vec![log.to_vec()] }
}

/// Equal logs are one row; the records keep none of the bytes; an index that was made again finds them all.
#[tokio::test]
async fn small_blobs_in_entries_are_found_by_their_content() {
    let medium: Arc<dyn Medium> = Arc::new(Memory::default());
    let mut author = log(1);
    let large = vec![b'x'; proto::event::INLINE_MAX];
    let logs: [&[u8]; 4] = [b"one\n", b"two\n", &large, b"one\n"];
    let mut events: VecDeque<Event> = (1..).zip(logs).map(|(number, log)| finished(number, log)).collect();
    let entries: Vec<VerifiedEntry> = std::iter::from_fn(|| author.append(10, &mut events)).collect();
    for made_again in [false, true] {
        // Each start has an index of its own; the second one is made from the journal.
        let (store, _) = start(&medium, Box::new(MemorySource));
        if !made_again {
            store.commit(entries.clone()).await.expect("stored");
        }
        for log in logs {
            assert_eq!(store.inline(ContentId::of(log)).expect("sound").as_deref(), Some(log));
        }
        assert_eq!(store.inline(ContentId::of(b"three\n")).expect("sound"), None);
        check_rows(&store);
        store.close().await;
    }
}

fn check_rows(store: &Store) {
    let slot = store.shared.table();
    let table = slot.as_deref().expect("open");
    assert_eq!(super::query::pairs(table, b"b").expect("sound").len(), 3);
    let records = super::query::pairs(table, b"j").expect("sound");
    assert!(records.iter().all(|(_, cell)| cell.len() < 1_000), "a record holds no log");
}

#[path = "snapshot_tests.rs"]
mod snapshots;
