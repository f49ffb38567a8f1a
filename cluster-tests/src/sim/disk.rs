//! A simulated disk: batches become durable in groups, in order; a crash tears off what was not synced.
//! It folds entries with [`proto::record::apply`], as the real store does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::core_io::StoreTicket;
use proto::entry::{LogId, VerifiedEntry};
use proto::log::{EntryRange, Head, VersionVector};
use proto::record::{Outcome, Record, RecordKey, Records, apply};
use proto::{ContentId, Hlc, codec};

/// What one machine's disk holds.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    logs: BTreeMap<LogId, Vec<VerifiedEntry>>,
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
        let (changed, overruled) = self.fold(&entries);
        (Synced { ticket, entries, changed, overruled }, self.begin_sync())
    }

    /// A crash: of what was on its way, `survive` entries reached the platter. Returns whether any was torn off.
    pub(crate) fn crash(&mut self, survive: usize) -> (Vec<VerifiedEntry>, bool) {
        let pending: Vec<VerifiedEntry> = self.pending.drain(..).flat_map(|(_, entries)| entries).collect();
        self.syncing = 0;
        let torn = survive < pending.len();
        let kept: Vec<VerifiedEntry> = pending.into_iter().take(survive).collect();
        self.fold(&kept);
        (kept, torn)
    }

    pub(crate) fn pending_entries(&self) -> usize {
        self.pending.iter().map(|(_, entries)| entries.len()).sum()
    }

    fn fold(&mut self, entries: &[VerifiedEntry]) -> (Vec<(RecordKey, Record)>, bool) {
        let mut batch = Batch { records: &mut self.records, before: BTreeMap::new() };
        for entry in entries {
            apply(entry, &mut batch);
        }
        let before = batch.before;
        for entry in entries {
            self.hlc = self.hlc.max(entry.hlc());
            self.logs.entry(entry.position().log).or_default().push(entry.clone());
        }
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

    /// What a core starts from: unfinished groups with their jobs, and every member.
    pub(crate) fn boot_records(&self) -> Vec<(RecordKey, Record)> {
        let alive = |group| matches!(self.records.get(&RecordKey::Group(group)), Some(Record::Group(record)) if !record.is_finished());
        let wanted = self.records.iter().filter(|(key, _)| match key {
            RecordKey::Group(group) => alive(*group),
            RecordKey::Job(job) => alive(job.group),
            RecordKey::Node(_) => true,
            RecordKey::Project(_) | RecordKey::Cluster => false,
        });
        wanted.map(|(key, record)| (key.clone(), record.clone())).collect()
    }

    pub(crate) fn heads(&self) -> BTreeMap<LogId, Head> {
        let head = |entries: &Vec<VerifiedEntry>| {
            let last = entries.last().expect("a log on disk has an entry");
            Head { seq: last.position().seq, hash: last.hash() }
        };
        self.logs.iter().map(|(&log, entries)| (log, head(entries))).collect()
    }

    pub(crate) fn vector(&self) -> VersionVector {
        VersionVector(self.logs.iter().map(|(&log, entries)| (log, entries.len() as u64)).collect())
    }

    /// Equal for equal records.
    pub(crate) fn state(&self) -> u128 {
        self.state
    }

    pub(crate) fn hlc(&self) -> Hlc {
        self.hlc
    }

    pub(crate) fn logs(&self) -> &BTreeMap<LogId, Vec<VerifiedEntry>> {
        &self.logs
    }

    /// Entries of `ranges`, at most `max`; and whether there are more.
    pub(crate) fn read(&self, ranges: &[EntryRange], max: usize) -> (Vec<VerifiedEntry>, bool) {
        let entries = ranges.iter().flat_map(|range| {
            let log = self.logs.get(&range.log).map_or(&[][..], Vec::as_slice);
            let index = |seq: u64| usize::try_from(seq).unwrap_or(usize::MAX).min(log.len());
            log[index(range.first - 1)..index(range.last)].iter().cloned()
        });
        let mut read: Vec<VerifiedEntry> = entries.take(max + 1).collect();
        let more = read.len() > max;
        read.truncate(max);
        (read, more)
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
