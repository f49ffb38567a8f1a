//! How values are put into the table: bincode behind a mark, long ones in pieces.
//!
//! The table can be rebuilt at any time, so its layouts carry one version in all ([`LAYOUT`]); a table of
//! another layout is rebuilt. Called by the fold, the recovery and the queries.

use std::collections::BTreeMap;

use proto::codec::{self, Word};
use proto::entry::Position;
use proto::job::GroupSpec;
use proto::log::Head;
use proto::record::{Claim, GroupRecord, JobRecord, Marks, Record, RecordKey, Submitted, Tally};
use proto::{GroupId, Hlc, ProjectRecord};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::TableError;
use super::journal::{End, Location};
use super::keys::{self, Key};
use super::table::{Batch, Table};

/// Layout of keys and values here, and of the record words of `proto`. A change of either rebuilds.
pub(crate) const LAYOUT: (u32, u16) = (5, Record::KIND);
/// sled handles small values best; longer ones are cut into pieces of this size.
const PIECE: usize = 16 << 10;
/// First byte of a cell.
const WHOLE: u8 = 0;
const IN_PIECES: u8 = 1;

/// What the table stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// [`LAYOUT`] when it was written.
    pub(crate) layout: (u32, u16),
    /// Everything of the journal before this is folded in.
    pub(crate) applied: End,
    /// The last record before `applied`, and the checksum it has: tells a journal that went back.
    pub(crate) last: Option<(Location, [u8; 8])>,
    /// The newest base that is folded in; 0: none.
    pub(crate) base: u64,
    /// Of all other pairs.
    pub(crate) digest: Digest,
}

/// A log as it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogState {
    /// Stands for the log in keys.
    pub(crate) number: u32,
    /// Its last entry.
    pub(crate) head: Head,
    /// When that was written, by its author's clock; the latest of the log.
    pub(crate) hlc: Hlc,
    /// Entries up to this one may be here no more, or never were: a base covers them.
    pub(crate) floor: u64,
}

/// Where a small blob lies that rode in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InlineAt {
    /// In this entry of the log with this number.
    Entry { number: u32, seq: u64 },
    /// In a base.
    Base { number: u64, offset: u64, len: u32 },
}

/// What groups name a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProjectUse {
    pub(crate) name: String,
    pub(crate) groups: u64,
    pub(crate) jobs: u64,
}

/// A group record but for its specification, which is long and never changes.
type GroupCell = (Option<(Position, Hlc)>, Option<Claim>, Option<Hlc>, Marks, Tally);

/// The bytes of `value`.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).expect("values hold only what bincode carries")
}

/// The value in `bytes`, all of which it must be.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, TableError> {
    codec::decode_body(bytes).map_err(|error| TableError::Corrupt(format!("a value does not decode: {error}")))
}

/// Puts `bytes` under `key`; `old_pieces` is what [`load`] told of the value that is replaced.
pub(crate) fn store(batch: &mut Batch, key: Key, bytes: &[u8], old_pieces: u16) {
    let pieces = if bytes.len() <= PIECE { 0 } else { bytes.len().div_ceil(PIECE) };
    let pieces = u16::try_from(pieces).expect("no value is longer than an entry");
    for (number, piece) in (0..pieces).zip(bytes.chunks(PIECE)) {
        batch.insert(keys::piece(&key, number), Some(piece.to_vec()));
    }
    for number in pieces..old_pieces {
        batch.insert(keys::piece(&key, number), None);
    }
    let cell =
        if pieces == 0 { [&[WHOLE], bytes].concat() } else { [&[IN_PIECES][..], &pieces.to_be_bytes()].concat() };
    batch.insert(key, Some(cell));
}

/// The bytes under `key` and the number of pieces they are in, 0 for one that is whole.
pub(crate) fn load(table: &dyn Table, key: &[u8]) -> Result<Option<(Vec<u8>, u16)>, TableError> {
    table.get(key)?.map(|cell| open(table, key, &cell)).transpose()
}

/// The bytes that `cell`, found under `key`, stands for.
pub(crate) fn open(table: &dyn Table, key: &[u8], cell: &[u8]) -> Result<(Vec<u8>, u16), TableError> {
    match cell {
        [WHOLE, bytes @ ..] => Ok((bytes.to_vec(), 0)),
        [IN_PIECES, high, low] => {
            let pieces = u16::from_be_bytes([*high, *low]);
            let mut bytes = Vec::new();
            for number in 0..pieces {
                let piece = table.get(&keys::piece(key, number))?;
                bytes.extend(piece.ok_or_else(|| TableError::Corrupt("a piece of a value is missing".to_owned()))?);
            }
            Ok((bytes, pieces))
        }
        _ => Err(TableError::Corrupt("a cell has no known mark".to_owned())),
    }
}

/// A record from the cell under its key.
pub(crate) fn open_record(table: &dyn Table, key: &RecordKey, cell: &[u8]) -> Result<(Record, Pieces), TableError> {
    let (bytes, pieces) = open(table, &keys::record(key), cell)?;
    let mut found = Pieces { record: pieces, spec: 0 };
    let record = match key {
        RecordKey::Group(group) => {
            let (submitted, claim, stop, marks, tally): GroupCell = decode(&bytes)?;
            let submitted = match submitted {
                Some((position, hlc)) => {
                    let (spec, pieces) = load_spec(table, *group)?;
                    found.spec = pieces;
                    Some(Submitted { position, hlc, spec: spec.into() })
                }
                None => None,
            };
            Record::Group(GroupRecord { submitted, claim, stop, marks, tally })
        }
        RecordKey::Job(_) => Record::Job(decode(&bytes)?),
        RecordKey::Node(_) => Record::Node(decode(&bytes)?),
        RecordKey::Project(_) => Record::Project(decode::<(String, ProjectRecord)>(&bytes)?.1),
        RecordKey::Cluster => Record::Cluster(decode(&bytes)?),
        RecordKey::Value(_) => Record::Value(decode(&bytes)?),
    };
    Ok((record, found))
}

/// In how many pieces the parts of a record lie.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pieces {
    pub(crate) record: u16,
    pub(crate) spec: u16,
}

/// A record, or `None` when there is none.
pub(crate) fn load_record(table: &dyn Table, key: &RecordKey) -> Result<Option<(Record, Pieces)>, TableError> {
    table.get(&keys::record(key))?.map(|cell| open_record(table, key, &cell)).transpose()
}

/// The bytes of a record but for a group's specification.
pub(crate) fn encode_record(key: &RecordKey, record: &Record) -> Vec<u8> {
    match record {
        Record::Group(group) => {
            let submitted = group.submitted.as_ref().map(|submitted| (submitted.position, submitted.hlc));
            encode(&(submitted, &group.claim, &group.stop, &group.marks, &group.tally))
        }
        Record::Job(job) => encode(job),
        Record::Node(node) => encode(node),
        Record::Project(project) => match key {
            RecordKey::Project(name) => encode(&(name, project)),
            _ => unreachable!("a project record lies under a project key"),
        },
        Record::Cluster(cluster) => encode(cluster),
        Record::Value(value) => encode(value),
    }
}

/// A job record from its cell.
pub(crate) fn open_job(table: &dyn Table, key: &[u8], cell: &[u8]) -> Result<JobRecord, TableError> {
    decode(&open(table, key, cell)?.0)
}

fn load_spec(table: &dyn Table, group: GroupId) -> Result<(Box<GroupSpec>, u16), TableError> {
    let found = load(table, &keys::spec(group))?;
    let (bytes, pieces) =
        found.ok_or_else(|| TableError::Corrupt("the specification of a group is missing".to_owned()))?;
    Ok((decode(&bytes)?, pieces))
}

/// Every head in the table.
pub(crate) fn load_logs(table: &dyn Table) -> Result<BTreeMap<proto::entry::LogId, LogState>, TableError> {
    let mut logs = BTreeMap::new();
    for (key, value) in super::query::pairs(table, keys::LOGS)? {
        let log = keys::log_of(&key).ok_or_else(|| TableError::Corrupt("a key of a log is malformed".to_owned()))?;
        logs.insert(log, decode(&value)?);
    }
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use super::super::table::MemoryTable;
    use super::*;
    use crate::harness::attack::attack;
    use crate::harness::golden::{Sample, check};
    use crate::samples;

    #[test]
    fn a_long_value_lies_in_pieces_and_leaves_none_behind() {
        let table = MemoryTable::default();
        let mut pieces = 0;
        for len in [3 * PIECE + 1, 10, PIECE, PIECE + 1, 0] {
            let value = vec![len.to_le_bytes()[0]; len];
            let mut batch = Batch::new();
            store(&mut batch, b"k".to_vec(), &value, pieces);
            assert!(batch.values().flatten().all(|cell| cell.len() <= PIECE + 1));
            table.apply(batch).expect("applied");
            let found = load(&table, b"k").expect("sound").expect("there");
            assert_eq!(found.0, value);
            pieces = found.1;
            let all = super::super::query::pairs(&table, b"x").expect("sound");
            assert_eq!(all.len(), usize::from(pieces));
        }
    }

    #[test]
    fn values_that_do_not_decode_are_errors() {
        assert!(decode::<ProjectUse>(&[1, 2, 3, 4, 5, 6, 7]).is_err());
        assert!(decode::<u8>(&[1, 2]).is_err());
        assert!(open(&MemoryTable::default(), b"k", &[]).is_err());
        assert!(open(&MemoryTable::default(), b"k", &[IN_PIECES, 0, 1]).is_err());
    }

    fn standing() -> Standing {
        let end = End { segment: 3, offset: 70_000 };
        let last = Some((Location { segment: 3, offset: 60_000, len: 10_000 }, [7; 8]));
        Standing { layout: LAYOUT, applied: end, last, base: 2, digest: Digest::EMPTY }
    }

    fn log_state() -> LogState {
        let head = Head { seq: 70_000, hash: samples::content(0xee) };
        LogState { number: 3, head, hlc: samples::hlc(), floor: 300 }
    }

    fn project_use() -> ProjectUse {
        ProjectUse { name: "vision".to_owned(), groups: 12, jobs: 70_000 }
    }

    fn group_record() -> (RecordKey, Record) {
        let (position, hlc) = (samples::position(), samples::hlc());
        let submitted = Some(Submitted { position, hlc, spec: samples::bare_spec().into() });
        let claim = Some(Claim { epoch: 2, coordinator: samples::node(8) });
        let record = GroupRecord { submitted, claim, ..GroupRecord::default() };
        (RecordKey::Group(samples::group()), Record::Group(record))
    }

    #[test]
    fn golden_cells() {
        let (key, record) = group_record();
        let in_entry = InlineAt::Entry { number: 3, seq: 70_000 };
        let in_base = InlineAt::Base { number: 2, offset: 70_000, len: 300 };
        let mut batch = Batch::new();
        store(&mut batch, b"k".to_vec(), b"value", 0);
        let short = batch.remove(b"k".as_slice()).flatten().expect("put");
        store(&mut batch, b"k".to_vec(), &vec![7; 2 * PIECE], 0);
        let long = batch.remove(b"k".as_slice()).flatten().expect("put");
        let samples = [
            Sample::new("what the table stands for", &standing(), encode(&standing())),
            Sample::new("head of a log", &log_state(), encode(&log_state())),
            Sample::new("use of a project", &project_use(), encode(&project_use())),
            Sample::new("group record", &record, encode_record(&key, &record)),
            Sample::new("a short value", &"value", short),
            Sample::new("a value in two pieces", &"", long),
        ];
        check("store.Cell", &samples);
        let places = [("Entry", &in_entry), ("Base", &in_base)];
        check("store.InlineAt", &places.map(|(name, place)| Sample::new(name, place, encode(place))));
    }

    #[test]
    fn hostile_bytes_in_a_cell_do_no_harm() {
        attack("Standing", &encode(&standing()), |bytes| decode::<Standing>(bytes).is_ok());
        attack("LogState", &encode(&log_state()), |bytes| decode::<LogState>(bytes).is_ok());
        let place = encode(&InlineAt::Base { number: 2, offset: 70_000, len: 300 });
        attack("InlineAt", &place, |bytes| decode::<InlineAt>(bytes).is_ok());
        attack("ProjectUse", &encode(&project_use()), |bytes| decode::<ProjectUse>(bytes).is_ok());
        let (key, record) = group_record();
        let table = MemoryTable::default();
        let mut batch = Batch::new();
        store(&mut batch, keys::spec(samples::group()), &encode(&samples::bare_spec()), 0);
        table.apply(batch).expect("memory");
        let cell = [&[WHOLE], encode_record(&key, &record).as_slice()].concat();
        attack("group record", &cell, |cell| open_record(&table, &key, cell).is_ok());
    }
}
