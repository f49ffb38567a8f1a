//! Bases: snapshots that this node keeps, from which it starts instead of from the entries that they cover.
//!
//! A base with number N is folded before segment N: `N.base` holds the snapshot's bytes, `N.name` its name with the
//! signatures. It counts once `N.base` has that name, which it gets last, and durably. Called by the writer, which
//! makes and installs them, and by the recovery, which folds them again. Who must have signed is `proto`'s rule.

use std::io::{self, Read};

use proto::codec;
use proto::record::{Record, RecordKey, Stamp};
use proto::snapshot::{
    Reading, SignedSnapshot, SnapshotError, SnapshotHead, SnapshotLog, SnapshotName, SnapshotPart, Writing,
};
use proto::{ContentId, JobId};

use super::cell::{self, InlineAt, Standing};
use super::error::{StoreError, TableError};
use super::fold::Fold;
use super::inline::{self, Needed};
use super::journal::End;
use super::keys;
use super::ledger::Ledger;
use super::medium::{self, DRAFT, Medium, NAME_DRAFT};
use super::query;
use super::recover::io_error;
use super::table::{Batch, Order, Table};
use super::values;

/// Read and written at once.
const PIECE_BYTES: usize = 1 << 20;
/// Parts folded and applied at once: bounds memory.
const BATCH_PARTS: usize = 1024;
/// No name is longer: a version vector of a thousand nodes' hundred lives.
const NAME_MAX: u64 = 8 << 20;

/// Every error of the medium, with its file.
fn failed<'a>(action: &'static str, medium: &'a dyn Medium, number: u64) -> impl Fn(io::Error) -> StoreError + 'a {
    move |error| io_error(action, medium, number, error)
}

/// Appends to the draft.
struct Draft<'a> {
    medium: &'a dyn Medium,
    buffer: Vec<u8>,
    at: u64,
    reserve_bytes: u64,
}

impl<'a> Draft<'a> {
    fn begin(medium: &'a dyn Medium, reserve_bytes: u64) -> Result<Self, StoreError> {
        let begin = || medium.remove(DRAFT).and_then(|()| medium.create(DRAFT));
        begin().map_err(failed("create", medium, DRAFT))?;
        Ok(Self { medium, buffer: Vec::new(), at: 0, reserve_bytes })
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let free_bytes = self.medium.free_bytes().map_err(failed("write", self.medium, DRAFT))?;
        if free_bytes < self.reserve_bytes.saturating_add(self.buffer.len() as u64) {
            return Err(StoreError::DiskFull { dir: self.medium.path(DRAFT), free_bytes });
        }
        self.medium.write_at(DRAFT, self.at, &self.buffer).map_err(failed("write", self.medium, DRAFT))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn end(mut self) -> Result<(), StoreError> {
        self.write()?;
        self.medium.sync(DRAFT).map_err(failed("sync", self.medium, DRAFT))
    }
}

/// Writes the state as it is in `table` to the draft.
pub(crate) fn make(
    medium: &dyn Medium,
    table: &dyn Table,
    ledger: &Ledger,
    reserve_bytes: u64,
) -> Result<SnapshotName, StoreError> {
    let logs = ledger.logs().iter().map(|(&log, state)| (log, SnapshotLog { head: state.head, hlc: state.hlc }));
    let nodes: Vec<(RecordKey, Record)> =
        query::nodes(table)?.into_iter().map(|(node, record)| (RecordKey::Node(node), Record::Node(record))).collect();
    let head = SnapshotHead::new(logs.collect(), nodes.iter().map(|(key, record)| (key, record)));
    let mut draft = Draft::begin(medium, reserve_bytes)?;
    let (mut writing, first) = Writing::begin(head);
    draft.push(&first)?;
    let mut put = |part: SnapshotPart| draft.push(&writing.part(&part));
    let mut needed = Needed::default();
    let mut put_record = |key, record| {
        needed.note(&key, &record);
        put(SnapshotPart::Record(key, Box::new(record)))
    };
    for_each(table, keys::GROUPS, |key, cell| {
        let group = RecordKey::Group(keys::group_of(key).ok_or_else(malformed)?);
        let (record, _) = cell::open_record(table, &group, cell)?;
        put_record(group, record)
    })?;
    for_each(table, keys::JOBS, |key, cell| {
        let (group, member) = keys::group_of_job(key).zip(keys::member_of(key)).ok_or_else(malformed)?;
        put_record(RecordKey::Job(JobId { group, member }), Record::Job(cell::open_job(table, key, cell)?))
    })?;
    for (key, record) in nodes {
        put_record(key, record)?;
    }
    for (key, record) in query::described_projects(table)? {
        put_record(key, record)?;
    }
    if let Some(record) = query::record(table, &RecordKey::Cluster)? {
        put_record(RecordKey::Cluster, record)?;
    }
    for_each(table, keys::VALUES, |key, cell| {
        let (key, record) = values::open(table, key, cell)?;
        put_record(RecordKey::Value(key), Record::Value(record))
    })?;
    for_each(table, keys::UNKNOWN, |key, cell| {
        let (stamp, frame): (Stamp, _) = cell::decode(&cell::open(table, key, cell)?.0)?;
        put(SnapshotPart::Unknown(stamp, frame))
    })?;
    needed.visit(table, medium, |blob| put(SnapshotPart::Inline(blob)))?;
    let (last, name) = writing.end();
    draft.push(&last)?;
    draft.end()?;
    Ok(name)
}

fn malformed() -> StoreError {
    TableError::Corrupt("a key is malformed".to_owned()).into()
}

/// Visits every pair under `prefix` until one fails.
fn for_each(
    table: &dyn Table,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut result = Ok(());
    table.scan(prefix, &keys::after(prefix), Order::Ascending, &mut |key, value| {
        result = visit(key, value);
        if result.is_ok() { std::ops::ControlFlow::Continue(()) } else { std::ops::ControlFlow::Break(()) }
    })?;
    result
}

/// Copies `bytes` to the draft, if they are the snapshot that `signed` names and enough of its members signed.
pub(crate) fn copy(
    medium: &dyn Medium,
    signed: &SignedSnapshot,
    bytes: &mut dyn Read,
    reserve_bytes: u64,
) -> Result<(), StoreError> {
    if !signed.is_genuine() {
        return Err(SnapshotError::Unsigned.into());
    }
    let mut draft = Draft::begin(medium, reserve_bytes)?;
    let mut checking = Checking::default();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let len = match bytes.read(&mut piece) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(io_error("read the snapshot for", medium, DRAFT, error)),
        };
        checking.push(&piece[..len])?;
        draft.push(&piece[..len])?;
    }
    signed.check(&checking.end(&signed.name)?)?;
    draft.end()
}

/// Reads a snapshot through without using it.
#[derive(Default)]
struct Checking {
    reading: Reading,
    hasher: blake3::Hasher,
    size: u64,
}

impl Checking {
    fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.reading.push(bytes);
        while self.reading.part()?.is_some() {}
        Ok(())
    }

    fn end(mut self, name: &SnapshotName) -> Result<SnapshotHead, SnapshotError> {
        let is_named = self.size == name.size && ContentId(*self.hasher.finalize().as_bytes()) == name.id;
        let head = self.reading.head()?.cloned();
        head.filter(|_| is_named && self.reading.is_whole()).ok_or(SnapshotError::NotAsNamed)
    }
}

/// Makes the draft the base before segment `number`, durably.
pub(crate) fn commit(medium: &dyn Medium, number: u64, signed: &SignedSnapshot) -> Result<(), StoreError> {
    let write = || {
        medium.remove(NAME_DRAFT)?;
        medium.create(NAME_DRAFT)?;
        medium.write_at(NAME_DRAFT, 0, &codec::encode(signed))?;
        medium.sync(NAME_DRAFT)?;
        medium.rename(NAME_DRAFT, medium::name(number))?;
        medium.rename(DRAFT, medium::base(number))
    };
    write().map_err(failed("write", medium, medium::base(number)))
}

/// The name of base `number`; `None` when it cannot be read.
pub(crate) fn name(medium: &dyn Medium, number: u64) -> Option<SignedSnapshot> {
    let file = medium::name(number);
    let len = medium.len(file).ok().filter(|&len| len <= NAME_MAX)?;
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    let read = medium.read_at(file, 0, &mut bytes).ok()?;
    codec::decode(bytes.get(..read)?).ok()
}

/// Every base whose name can be read, the newest last.
pub(crate) fn all(medium: &dyn Medium) -> Result<Vec<(u64, SignedSnapshot)>, StoreError> {
    let numbers = medium.bases().map_err(failed("list", medium, 0))?;
    Ok(numbers.into_iter().filter_map(|number| Some((number, name(medium, number)?))).collect())
}

/// The head of base `number`.
pub(crate) fn head(medium: &dyn Medium, number: u64) -> Result<SnapshotHead, StoreError> {
    let mut reading = Reading::default();
    let mut head = Ok(None);
    pieces(medium, number, |piece| {
        if matches!(head, Ok(None)) {
            reading.push(piece);
            head = reading.head().map(Option::<&SnapshotHead>::cloned);
        }
        Ok(())
    })?;
    Ok(head?.ok_or(SnapshotError::NotAsNamed)?)
}

/// Whether base `number` is what `name` says.
pub(crate) fn is_sound(medium: &dyn Medium, number: u64, name: &SnapshotName) -> Result<bool, StoreError> {
    let mut checking = Checking::default();
    let mut sound = true;
    pieces(medium, number, |piece| {
        sound = sound && checking.push(piece).is_ok();
        Ok(())
    })?;
    Ok(sound && checking.end(name).is_ok())
}

fn pieces(
    medium: &dyn Medium,
    number: u64,
    mut visit: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let file = medium::base(number);
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let len = medium.read_at(file, at, &mut piece).map_err(failed("read", medium, file))?;
        if len == 0 {
            return Ok(());
        }
        visit(&piece[..len])?;
        at += len as u64;
    }
}

/// Folds base `number`, which was checked, into `table`, in several steps: a start after a kill in between folds it
/// again, which changes nothing. Raises logs that are behind it.
pub(crate) fn fold(
    medium: &dyn Medium,
    table: &dyn Table,
    ledger: &mut Ledger,
    standing: &mut Standing,
    number: u64,
) -> Result<(), StoreError> {
    let mut reading = Reading::default();
    let mut folding = Folding { table, fold: Fold::new(table), parts: 0 };
    let mut is_new = None;
    let damaged = |error: SnapshotError| TableError::Corrupt(format!("a base cannot be read: {error}"));
    pieces(medium, number, |piece| {
        reading.push(piece);
        if is_new.is_none() {
            is_new = reading.head().map_err(damaged)?.map(|head| !ledger.covers(&head.vector()));
        }
        while let Some((part, offset, len)) = reading.part().map_err(damaged)? {
            folding.push(part, InlineAt::Base { number, offset, len }, is_new == Some(true), standing)?;
        }
        Ok(())
    })?;
    let head = reading.head().map_err(damaged)?.cloned();
    let head = head.filter(|_| reading.is_whole()).ok_or_else(|| damaged(SnapshotError::NotAsNamed))?;
    let jumps = ledger.jumps_at(&head.logs);
    ledger.raise(&head.logs);
    standing.base = number;
    standing.applied = standing.applied.max(End { segment: number, offset: 0 });
    // The journal begins anew after a base, so its last record before says nothing.
    standing.last = None;
    let mut batch = Batch::new();
    ledger.write(&mut batch);
    folding.apply(batch, standing)?;
    ledger.settle();
    if jumps { note_what_stays(medium, table, ledger, standing) } else { Ok(()) }
}

/// Where a log goes on after a gap, what lies before it is found no more, with the small blobs in it. The base carries
/// those that it needs; what an entry that stays carries, too, is found there.
fn note_what_stays(
    medium: &dyn Medium,
    table: &dyn Table,
    ledger: &Ledger,
    standing: &mut Standing,
) -> Result<(), StoreError> {
    for state in ledger.logs().values() {
        let mut seq = state.floor + 1;
        while seq <= state.head.seq {
            let entries = query::read_numbered(table, medium, state.number, (seq, state.head.seq), PIECE_BYTES)?;
            let mut batch = Batch::new();
            for signed in &entries {
                let entry = signed.clone().trust();
                let entry = entry.map_err(|error| TableError::Corrupt(format!("an entry does not decode: {error}")))?;
                inline::note(&mut batch, state.number, &entry);
            }
            standing.digest = standing.digest.after(table, &batch)?;
            batch.insert(keys::STANDING.to_vec(), Some(cell::encode(standing)));
            table.apply(batch)?;
            if entries.is_empty() {
                break;
            }
            seq += entries.len() as u64;
        }
    }
    Ok(())
}

/// Parts on their way into the table.
struct Folding<'a> {
    table: &'a dyn Table,
    fold: Fold<'a>,
    parts: usize,
}

impl Folding<'_> {
    fn push(
        &mut self,
        part: SnapshotPart,
        place: InlineAt,
        is_new: bool,
        standing: &mut Standing,
    ) -> Result<(), StoreError> {
        self.fold.apply_part(part, place, is_new)?;
        self.parts += 1;
        if self.parts.is_multiple_of(BATCH_PARTS) { self.apply(Batch::new(), standing) } else { Ok(()) }
    }

    fn apply(&mut self, mut batch: Batch, standing: &mut Standing) -> Result<(), StoreError> {
        std::mem::replace(&mut self.fold, Fold::new(self.table)).finish(&mut batch)?;
        standing.digest = standing.digest.after(self.table, &batch)?;
        batch.insert(keys::STANDING.to_vec(), Some(cell::encode(standing)));
        Ok(self.table.apply(batch)?)
    }
}
