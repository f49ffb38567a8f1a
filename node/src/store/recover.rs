//! Brings journal and table together: at start, and again when the table failed.
//!
//! The journal is the truth, the table an index of it. A table that is behind is brought up by replaying
//! what it lacks; one that is missing, corrupt, of another layout or ahead (the journal went back) is set
//! aside and made again from all segments. Nothing here trusts a byte that it has not checked, and nothing
//! here ends the process for what lies on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use proto::entry::{LogId, SignedEntry, VerifiedEntry};
use proto::record::{Record, RecordKey};
use proto::snapshot::SignedSnapshot;

use super::base;
use super::cell::{self, LAYOUT, LogState, Standing};
use super::digest::Digest;
use super::error::{StoreError, TableError};
use super::fold::Fold;
use super::inline;
use super::journal::{End, Journal, Location, RECORD_HEADER, RECORD_MAX, header_of, payload_of};
use super::keys;
use super::ledger::{Admitted, Ledger};
use super::medium::{self, Medium};
use super::places::Places;
use super::query;
use super::scan::{Found, Scan};
use super::table::{Batch, Opened, Order, Table, TableSource};

/// Entries folded and applied at once: bounds memory, and lets the cache of the fold work.
const REPLAY_ENTRIES: usize = 1024;
/// The same in bytes of journal.
const REPLAY_BYTES: u64 = 4 << 20;

/// Journal and table that agree.
pub(crate) struct Sound {
    pub(crate) table: Arc<dyn Table>,
    pub(crate) journal: Journal,
    pub(crate) ledger: Ledger,
    pub(crate) standing: Standing,
    /// Bases that are folded in, with their numbers, the newest last.
    pub(crate) bases: Vec<(u64, SignedSnapshot)>,
    /// What the core keeps in memory.
    pub(crate) live: Vec<(RecordKey, Record)>,
    /// What was found wrong and what was done, one line each.
    pub(crate) notices: Vec<String>,
}

/// Opens the table and makes it agree with the journal.
pub(crate) fn recover(medium: &Arc<dyn Medium>, source: &mut dyn TableSource) -> Result<Sound, StoreError> {
    let reason = match attempt(medium, source, false) {
        Err(StoreError::Index(TableError::Corrupt(reason))) => reason,
        result => return result,
    };
    let place = source.set_aside()?;
    let mut sound = attempt(medium, source, true)?;
    // Made again at this cost only once.
    sound.table.flush()?;
    let told = format!("the index was made again from the journal ({reason}); the old one is {place}");
    sound.notices.insert(0, told);
    Ok(sound)
}

/// One try; [`TableError::Corrupt`] tells why the table cannot be used.
fn attempt(medium: &Arc<dyn Medium>, source: &mut dyn TableSource, made_again: bool) -> Result<Sound, StoreError> {
    let Opened { table, in_doubt } = source.open()?;
    let mut notices = Vec::new();
    let standing = match read_standing(medium.as_ref(), table.as_ref())? {
        Some(standing) if in_doubt && Digest::of(table.as_ref())? != standing.digest => {
            return Err(TableError::Corrupt("a part of it was lost".to_owned()).into());
        }
        Some(standing) => standing,
        None => {
            if !made_again && !segments(medium.as_ref())?.is_empty() {
                notices.push("the index was missing and was made again from the journal".to_owned());
            }
            Standing::NONE
        }
    };
    let logs = cell::load_logs(table.as_ref())?;
    let (journal, ledger, standing) = replay(medium, table.as_ref(), standing, logs, &mut notices)?;
    let live = query::live(table.as_ref())?;
    let mut bases = base::all(medium.as_ref())?;
    bases.retain(|(number, _)| *number <= standing.base);
    Ok(Sound { table, journal, ledger, standing, bases, live, notices })
}

impl Standing {
    /// Of an empty table.
    pub(crate) const NONE: Self =
        Self { layout: LAYOUT, applied: End { segment: 0, offset: 0 }, last: None, base: 0, digest: Digest::EMPTY };
}

/// What the table stands for, when that can be built on; `None` for an empty one.
fn read_standing(medium: &dyn Medium, table: &dyn Table) -> Result<Option<Standing>, StoreError> {
    let unusable = |reason: &str| Err(TableError::Corrupt(reason.to_owned()).into());
    let Some(bytes) = table.get(keys::STANDING)? else {
        let mut empty = true;
        table.scan(&[], &[u8::MAX], Order::Ascending, &mut |_, _| {
            empty = false;
            ControlFlow::Break(())
        })?;
        return if empty { Ok(None) } else { unusable("it does not say how far it goes") };
    };
    let standing: Standing = cell::decode(&bytes)?;
    if standing.layout != LAYOUT {
        return unusable("it has the layout of another version");
    }
    if is_ahead(medium, &standing)? {
        return unusable("it knew more than the journal holds");
    }
    Ok(Some(standing))
}

/// Whether the record that the table folded last is not in the journal any more.
fn is_ahead(medium: &dyn Medium, standing: &Standing) -> Result<bool, StoreError> {
    if standing.base > 0 && bases(medium)?.last().is_none_or(|&newest| newest < standing.base) {
        return Ok(true);
    }
    let Some((location, sum)) = standing.last else { return Ok(false) };
    if !segments(medium)?.contains(&location.segment) {
        return Ok(true);
    }
    if location.len as usize > RECORD_MAX {
        return Ok(true);
    }
    let mut bytes = vec![0; location.len as usize];
    let read = medium
        .read_at(location.segment, location.offset, &mut bytes)
        .map_err(|error| io_error("read", medium, location.segment, error))?;
    let there = header_of(&bytes[..read]).is_some_and(|header| header.1 == sum) && payload_of(&bytes[..read]).is_some();
    Ok(!there)
}

fn segments(medium: &dyn Medium) -> Result<Vec<u64>, StoreError> {
    medium.segments().map_err(|error| io_error("list", medium, 0, error))
}

fn bases(medium: &dyn Medium) -> Result<Vec<u64>, StoreError> {
    medium.bases().map_err(|error| io_error("list", medium, 0, error))
}

pub(crate) fn io_error(action: &'static str, medium: &dyn Medium, segment: u64, error: std::io::Error) -> StoreError {
    StoreError::Io { action, path: medium.path(segment), source: Arc::new(error) }
}

/// Folds everything after `standing.applied` into `table`.
fn replay(
    medium: &Arc<dyn Medium>,
    table: &dyn Table,
    standing: Standing,
    logs: BTreeMap<LogId, LogState>,
    notices: &mut Vec<String>,
) -> Result<(Journal, Ledger, Standing), StoreError> {
    let applied = standing.applied;
    let mut replay =
        Replay { table, ledger: Ledger::new(logs), standing, pending: Vec::new(), bytes: 0, apart: BTreeMap::new() };
    let mut end = applied;
    let (segments, bases) = (segments(medium.as_ref())?, bases(medium.as_ref())?);
    let numbers: BTreeSet<u64> = segments.iter().chain(&bases).copied().collect();
    for number in numbers.into_iter().filter(|&number| number >= applied.segment) {
        if bases.contains(&number) && number > replay.standing.base {
            replay.apply(end)?;
            replay.fold_base(medium.as_ref(), number, notices)?;
            if !segments.contains(&number) {
                // What comes after a base must lie behind it.
                medium.create(number).map_err(|error| io_error("create", medium.as_ref(), number, error))?;
                end = End { segment: number, offset: 0 };
            }
        }
        if segments.contains(&number) {
            let from = if number == applied.segment { applied.offset } else { 0 };
            end = End { segment: number, offset: replay_segment(medium.as_ref(), number, from, &mut replay, notices)? };
        }
    }
    replay.apply(end)?;
    let apart: u64 = replay.apart.values().map(|(_, count)| count).sum();
    if apart > 0 {
        notices.push(format!("{apart} entries behind missing ones are not used; other nodes are asked for them again"));
    }
    let journal =
        Journal::open(medium.clone(), end).map_err(|error| io_error("write", medium.as_ref(), end.segment, error))?;
    Ok((journal, replay.ledger, replay.standing))
}

fn replay_segment(
    medium: &dyn Medium,
    segment: u64,
    from: u64,
    replay: &mut Replay<'_>,
    notices: &mut Vec<String>,
) -> Result<u64, StoreError> {
    let failed = |error| io_error("read", medium, segment, error);
    let mut scan = Scan::new(medium, segment, from).map_err(failed)?;
    let (mut damaged_bytes, mut foreign) = (0, 0_u64);
    while let Some(found) = scan.next().map_err(failed)? {
        match found {
            Found::Damage { len } => damaged_bytes += len,
            Found::Record(location, signed) => {
                // Behind damage a record may be bytes that somebody put inside an entry, so it must be signed.
                match if damaged_bytes > 0 { signed.verify() } else { SignedEntry::trust(signed) } {
                    Ok(entry) => replay.push(entry, location)?,
                    Err(_) => foreign += 1,
                }
            }
        }
    }
    let path = medium.path(segment);
    if damaged_bytes > 0 {
        notices.push(format!("{} has {damaged_bytes} damaged bytes, which were left out", path.display()));
    }
    if foreign > 0 {
        notices.push(format!("{} has {foreign} records that are no entries, which were left out", path.display()));
    }
    Ok(scan.good())
}

/// Entries on their way from the journal into the table.
struct Replay<'a> {
    table: &'a dyn Table,
    ledger: Ledger,
    standing: Standing,
    pending: Vec<(VerifiedEntry, Location, u32)>,
    bytes: u64,
    /// Entries that do not follow on what is here: the last of each log, and how many.
    apart: BTreeMap<LogId, (u64, u64)>,
}

impl Replay<'_> {
    fn push(&mut self, entry: VerifiedEntry, location: Location) -> Result<(), StoreError> {
        match self.ledger.admit(&entry) {
            Admitted::Known => {}
            Admitted::Apart(_) => {
                let (last, count) = self.apart.entry(entry.position().log).or_default();
                *last = entry.position().seq.max(*last);
                *count += 1;
            }
            Admitted::Next(number) => {
                self.pending.push((entry, location, number));
                self.bytes += u64::from(location.len);
                if self.pending.len() >= REPLAY_ENTRIES || self.bytes >= REPLAY_BYTES {
                    self.apply(End { segment: location.segment, offset: location.offset + u64::from(location.len) })?;
                }
            }
        }
        Ok(())
    }

    /// A base that is damaged is left out: what it covers is asked from other nodes.
    fn fold_base(&mut self, medium: &dyn Medium, number: u64, notices: &mut Vec<String>) -> Result<(), StoreError> {
        let name = base::name(medium, number);
        let is_sound = name.map_or(Ok(false), |signed| base::is_sound(medium, number, &signed.name))?;
        if !is_sound {
            let path = medium.path(medium::base(number));
            notices.push(format!("{} is damaged and was left out; other nodes are asked for it", path.display()));
            return Ok(());
        }
        base::fold(medium, self.table, &mut self.ledger, &mut self.standing, number)?;
        let ledger = &self.ledger;
        self.apart.retain(|log, (last, _)| ledger.logs().get(log).is_none_or(|state| state.head.seq < *last));
        Ok(())
    }

    fn apply(&mut self, end: End) -> Result<(), StoreError> {
        if self.pending.is_empty() && end == self.standing.applied {
            return Ok(());
        }
        let mut batch = Batch::new();
        let mut fold = Fold::new(self.table);
        let mut places = Places::new(self.table);
        for (entry, location, number) in &self.pending {
            fold.apply(entry)?;
            places.push(*number, entry.position().seq, *location)?;
            inline::note(&mut batch, *number, entry);
        }
        if let Some((entry, location, _)) = self.pending.last() {
            self.standing.last = Some((*location, checksum_of(entry.signed())));
        }
        fold.finish(&mut batch)?;
        places.finish(&mut batch);
        self.ledger.write(&mut batch);
        self.standing.applied = end;
        self.standing.digest = self.standing.digest.after(self.table, &batch)?;
        batch.insert(keys::STANDING.to_vec(), Some(cell::encode(&self.standing)));
        self.table.apply(batch)?;
        self.ledger.settle();
        self.pending.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// The checksum that the record of `signed` has in the journal.
pub(crate) fn checksum_of(signed: &SignedEntry) -> [u8; 8] {
    let mut bytes = Vec::new();
    super::journal::frame(signed, &mut bytes);
    header_of(&bytes[..RECORD_HEADER]).expect("a framed record has a header").1
}
