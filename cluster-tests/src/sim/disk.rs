//! A simulated disk: batches become durable in groups, in order; a crash tears off what was not synced.
//! It folds entries with [`proto::record::apply`], as the real store does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proto::core_io::StoreTicket;
use proto::entry::{LogId, VerifiedEntry};
use proto::log::{EntryRange, Head, VersionVector};
use proto::record::{Outcome, Record, RecordKey, Records, apply, merge};
use proto::snapshot::{
    Installed, Reading, SignedSnapshot, SnapshotError, SnapshotHead, SnapshotLog, SnapshotName, SnapshotPart, Writing,
};
use proto::{ContentId, Hlc, codec};

/// What one machine's disk holds.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    logs: BTreeMap<LogId, DiskLog>,
    /// Snapshots that it starts from, the newest last; none is covered by a later one.
    pub(crate) bases: Vec<Base>,
    draft: Option<(SnapshotName, Arc<Vec<u8>>)>,
    pub(crate) records: BTreeMap<RecordKey, Record>,
    /// Sum of the hashes of all records: equal for equal records, cheap to keep.
    state: u128,
    pub(crate) incarnation: u64,
    hlc: Hlc,
    pending: VecDeque<(StoreTicket, Vec<VerifiedEntry>)>,
    /// So many of the pending batches are part of the sync that runs.
    syncing: usize,
    /// Whole bundles, by manifest.
    pub(crate) bundles: BTreeSet<ContentId>,
}

/// A log: what a base covers, and the entries behind that.
#[derive(Debug)]
struct DiskLog {
    /// The last entry that is not here, though covered.
    before: SnapshotLog,
    entries: VecDeque<VerifiedEntry>,
}

/// A snapshot on this disk.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) signed: SignedSnapshot,
    bytes: Arc<Vec<u8>>,
}

/// What a sync made durable.
#[derive(Debug)]
pub(crate) struct Synced {
    pub(crate) ticket: StoreTicket,
    pub(crate) entries: Vec<VerifiedEntry>,
    pub(crate) changed: Vec<(RecordKey, Record)>,
    /// Whether a job's outcome gave way to one that ranks higher.
    pub(crate) overruled: bool,
}

/// Records while one batch is folded: notes which changed.
struct Batch<'a> {
    records: &'a mut BTreeMap<RecordKey, Record>,
    before: BTreeMap<RecordKey, Option<Record>>,
}

impl Records for Batch<'_> {
    fn get(&mut self, key: &RecordKey) -> Option<Record> {
        self.records.get(key).cloned()
    }

    fn put(&mut self, key: RecordKey, record: Record) {
        let old = self.records.insert(key.clone(), record);
        self.before.entry(key).or_insert(old);
    }
}

impl Disk {
    /// Queues a batch; returns whether a sync must be started.
    pub(crate) fn write(&mut self, ticket: StoreTicket, entries: Vec<VerifiedEntry>) -> bool {
        self.pending.push_back((ticket, entries));
        self.begin_sync()
    }

    /// Everything that waits goes into the next sync; false when one runs or nothing waits.
    fn begin_sync(&mut self) -> bool {
        if self.syncing > 0 || self.pending.is_empty() {
            return false;
        }
        self.syncing = self.pending.len();
        true
    }

    /// The running sync is done. Returns what it made durable, and whether the next one begins.
    pub(crate) fn end_sync(&mut self) -> (Synced, bool) {
        let batches: Vec<_> = self.pending.drain(..self.syncing).collect();
        self.syncing = 0;
        let ticket = batches.last().expect("a sync has a batch").0;
        let entries: Vec<VerifiedEntry> = batches.into_iter().flat_map(|(_, entries)| entries).collect();
        let entries = self.not_covered(entries);
        let (changed, overruled) = self.fold(&entries);
        (Synced { ticket, entries, changed, overruled }, self.begin_sync())
    }

    /// A crash: of what was on its way, `survive` entries reached the platter. Returns whether any was torn off.
    pub(crate) fn crash(&mut self, survive: usize) -> (Vec<VerifiedEntry>, bool) {
        let pending: Vec<VerifiedEntry> = self.pending.drain(..).flat_map(|(_, entries)| entries).collect();
        self.syncing = 0;
        self.draft = None;
        let torn = survive < pending.len();
        let kept = self.not_covered(pending.into_iter().take(survive).collect());
        self.fold(&kept);
        (kept, torn)
    }

    pub(crate) fn pending_entries(&self) -> usize {
        self.pending.iter().map(|(_, entries)| entries.len()).sum()
    }

    /// Entries that a snapshot covered while they were on their way are passed over.
    fn not_covered(&self, mut entries: Vec<VerifiedEntry>) -> Vec<VerifiedEntry> {
        entries.retain(|entry| {
            let position = entry.position();
            self.logs.get(&position.log).is_none_or(|log| log.before.head.seq < position.seq)
        });
        entries
    }

    fn fold(&mut self, entries: &[VerifiedEntry]) -> (Vec<(RecordKey, Record)>, bool) {
        let mut batch = Batch { records: &mut self.records, before: BTreeMap::new() };
        for entry in entries {
            apply(entry, &mut batch);
        }
        let before = batch.before;
        for entry in entries {
            self.hlc = self.hlc.max(entry.hlc());
            self.logs.entry(entry.position().log).or_default().entries.push_back(entry.clone());
        }
        self.note_changes(before)
    }

    fn note_changes(&mut self, before: BTreeMap<RecordKey, Option<Record>>) -> (Vec<(RecordKey, Record)>, bool) {
        let mut changed = Vec::new();
        let mut overruled = false;
        for (key, old) in before {
            let new = &self.records[&key];
            if old.as_ref() != Some(new) {
                overruled |= outcome(old.as_ref()).is_some_and(|old| Some(old) != outcome(Some(new)));
                self.state = self.state.wrapping_sub(old.map_or(0, |old| hash(&key, &old)));
                self.state = self.state.wrapping_add(hash(&key, new));
                changed.push((key, new.clone()));
            }
        }
        (changed, overruled)
    }

    /// Makes a snapshot of what is durable now, aside.
    pub(crate) fn make_snapshot(&mut self) -> SnapshotName {
        let logs = self.logs.iter().map(|(&id, log)| (id, log.last())).collect();
        let head = SnapshotHead::new(logs, self.records.iter());
        let (mut writing, mut bytes) = Writing::begin(head);
        for (key, record) in &self.records {
            bytes.extend(writing.part(&SnapshotPart::Record(key.clone(), Box::new(record.clone()))));
        }
        let (last, name) = writing.end();
        bytes.extend(last);
        self.draft = Some((name.clone(), Arc::new(bytes)));
        name
    }

    /// What was made last becomes a base; `None` when it is gone.
    pub(crate) fn keep_snapshot(&mut self, signed: SignedSnapshot) -> Option<Installed> {
        let (_, bytes) = self.draft.take_if(|(name, _)| *name == signed.name)?;
        self.install(signed, bytes).ok()
    }

    /// The bytes of a snapshot that lies here.
    pub(crate) fn snapshot(&self, id: ContentId) -> Option<Arc<Vec<u8>>> {
        self.bases.iter().find(|base| base.signed.name.id == id).map(|base| base.bytes.clone())
    }

    /// Folds a snapshot in and makes it a base, as the real store does.
    pub(crate) fn install(&mut self, signed: SignedSnapshot, bytes: Arc<Vec<u8>>) -> Result<Installed, SnapshotError> {
        let mut reading = Reading::default();
        reading.push(&bytes);
        let head = reading.head()?.cloned().ok_or(SnapshotError::NotAsNamed)?;
        signed.check(&head)?;
        let mut batch = Batch { records: &mut self.records, before: BTreeMap::new() };
        while let Some((part, ..)) = reading.part()? {
            if let SnapshotPart::Record(key, record) = part {
                merge(&key, *record, &mut batch);
            }
        }
        let before = batch.before;
        for (&id, state) in &head.logs {
            let log = self.logs.entry(id).or_default();
            self.hlc = self.hlc.max(state.hlc);
            if log.last().head.seq < state.head.seq {
                *log = DiskLog { before: *state, entries: VecDeque::new() };
            }
        }
        let (changed, _) = self.note_changes(before);
        self.bases.retain(|base| !base.signed.name.vector.beyond(&signed.name.vector).is_empty());
        self.bases.push(Base { signed: signed.clone(), bytes });
        Ok(Installed { signed, logs: head.logs, changed, floors: self.floors() })
    }

    /// Removes entries that the newest base covers and that were written before; returns how many.
    pub(crate) fn compact(&mut self, before_unix_ms: u64) -> usize {
        let Some(base) = self.bases.last() else { return 0 };
        let mut removed = 0;
        for log in self.logs.values_mut() {
            let is_old = |entry: &VerifiedEntry| {
                base.signed.name.vector.covers(entry.position()) && entry.hlc().unix_ms < before_unix_ms
            };
            while log.entries.front().is_some_and(is_old) {
                let entry = log.entries.pop_front().expect("just seen");
                let head = Head { seq: entry.position().seq, hash: entry.hash() };
                log.before = SnapshotLog { head, hlc: entry.hlc() };
                removed += 1;
            }
        }
        removed
    }

    /// Up to which entry each log may not be here.
    pub(crate) fn floors(&self) -> VersionVector {
        let floors = self.logs.iter().filter(|(_, log)| log.before.head.seq > 0);
        VersionVector(floors.map(|(&id, log)| (id, log.before.head.seq)).collect())
    }

    /// What a core starts from: unfinished groups with their jobs, and every member.
    pub(crate) fn boot_records(&self) -> Vec<(RecordKey, Record)> {
        let alive = |group| matches!(self.records.get(&RecordKey::Group(group)), Some(Record::Group(record)) if !record.is_finished());
        let wanted = self.records.iter().filter(|(key, _)| match key {
            RecordKey::Group(group) => alive(*group),
            RecordKey::Job(job) => alive(job.group),
            RecordKey::Node(_) => true,
            RecordKey::Project(_) | RecordKey::Cluster | RecordKey::Value(_) => false,
        });
        wanted.map(|(key, record)| (key.clone(), record.clone())).collect()
    }

    pub(crate) fn heads(&self) -> BTreeMap<LogId, Head> {
        self.logs.iter().map(|(&id, log)| (id, log.last().head)).collect()
    }

    pub(crate) fn vector(&self) -> VersionVector {
        VersionVector(self.logs.iter().map(|(&id, log)| (id, log.last().head.seq)).collect())
    }

    /// Equal for equal records.
    pub(crate) fn state(&self) -> u128 {
        self.state
    }

    pub(crate) fn hlc(&self) -> Hlc {
        self.hlc
    }

    /// Hash of an entry, zeros for the one before the first; `None` when it is not known here any more.
    pub(crate) fn hash_at(&self, log: LogId, seq: u64) -> Option<ContentId> {
        let log = self.logs.get(&log)?;
        match seq.checked_sub(log.before.head.seq)? {
            0 => Some(log.before.head.hash),
            at => Some(log.entries.get(usize::try_from(at - 1).ok()?)?.hash()),
        }
    }

    /// Entries of `ranges`, at most `max`; and whether there are more.
    pub(crate) fn read(&self, ranges: &[EntryRange], max: usize) -> (Vec<VerifiedEntry>, bool) {
        let entries = ranges.iter().flat_map(|range| {
            // What a base covers may have been removed since the core ordered it.
            let log = self.logs.get(&range.log).filter(|log| log.before.head.seq < range.first);
            let wanted = move |entry: &&VerifiedEntry| (range.first..=range.last).contains(&entry.position().seq);
            log.into_iter().flat_map(move |log| log.entries.iter().filter(wanted).cloned())
        });
        let mut read: Vec<VerifiedEntry> = entries.take(max + 1).collect();
        let more = read.len() > max;
        read.truncate(max);
        (read, more)
    }
}

impl DiskLog {
    /// Its last entry, here or covered.
    fn last(&self) -> SnapshotLog {
        let last = |entry: &VerifiedEntry| SnapshotLog {
            head: Head { seq: entry.position().seq, hash: entry.hash() },
            hlc: entry.hlc(),
        };
        self.entries.back().map_or(self.before, last)
    }
}

impl Default for DiskLog {
    fn default() -> Self {
        Self { before: SnapshotLog { head: Head::NONE, hlc: Hlc::default() }, entries: VecDeque::new() }
    }
}

fn outcome(record: Option<&Record>) -> Option<&Outcome> {
    match record {
        Some(Record::Job(record)) => record.outcome.as_ref(),
        _ => None,
    }
}

fn hash(key: &RecordKey, record: &Record) -> u128 {
    let mut bytes = format!("{key:?}").into_bytes();
    bytes.extend(codec::encode(record));
    u128::from_le_bytes(ContentId::of(&bytes).0[..16].try_into().expect("16 of 32 bytes"))
}
