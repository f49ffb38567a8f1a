//! What the writer does between two commits: makes a snapshot of exactly what is stored, installs one as a base,
//! removes segments that a base covers. Commits wait meanwhile, so that a snapshot is of one moment.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use proto::GroupId;
use proto::entry::SignedEntry;
use proto::log::VersionVector;
use proto::snapshot::{Installed, SignedSnapshot, SnapshotName};

use super::super::base;
use super::super::error::{StoreError, TableError};
use super::super::journal::FIRST;
use super::super::medium::{self, Medium};
use super::super::places;
use super::super::query;
use super::super::scan::{Found, Scan};
use super::super::table::{Batch, Table};
use super::super::{cell, keys};
use super::{Changed, RESERVE_BYTES, Writer, io_error};

/// Receives a task's result, on the writer's thread and in order with the results of commits: it must not wait.
pub(crate) type Answer<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// Work between two commits.
pub(crate) enum Task {
    /// Make a snapshot of what is stored now.
    Make(Answer<SnapshotName>),
    /// The snapshot that was made last is signed: it becomes the base.
    Keep(Box<SignedSnapshot>, Answer<Installed>),
    /// A snapshot from elsewhere becomes the base.
    Install(Box<SignedSnapshot>, File, Answer<Installed>),
    /// Remove the oldest segments, as far as the base covers them and all in them was written before this time
    /// (milliseconds since 1970); answers up to which entry each log may be here no more.
    Compact(u64, Answer<VersionVector>),
}

/// What a segment holds.
#[derive(Debug)]
pub(super) struct Extent {
    /// The latest time of its entries, by their authors' clocks.
    latest_unix_ms: u64,
    /// The last entry of each log.
    last: VersionVector,
}

impl Writer {
    pub(super) fn run_task(&mut self, task: Task) {
        match task {
            Task::Make(answer) => answer(self.attempt(Self::make)),
            Task::Keep(signed, answer) => answer(self.attempt(|writer| writer.keep(&signed))),
            Task::Install(signed, file, answer) => answer(self.attempt(|writer| writer.install(&signed, &file))),
            Task::Compact(before, answer) => answer(self.attempt(|writer| writer.compact(before))),
        }
    }

    /// An index that fails is mended before the next commit or task.
    fn attempt<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let result = self.mended().and_then(|()| work(self));
        if let Err(StoreError::Index(error)) = &result {
            self.shared.fail(error);
        }
        result
    }

    fn open_table(&self) -> Result<Arc<dyn Table>, StoreError> {
        Ok(self.shared.table().clone().ok_or(TableError::Down)?)
    }

    fn make(&mut self) -> Result<SnapshotName, StoreError> {
        self.draft = None;
        let table = self.open_table()?;
        let name = base::make(self.shared.medium.as_ref(), table.as_ref(), &self.ledger, RESERVE_BYTES)?;
        self.draft = Some(name.clone());
        Ok(name)
    }

    fn keep(&mut self, signed: &SignedSnapshot) -> Result<Installed, StoreError> {
        if self.draft.as_ref() != Some(&signed.name) {
            return Err(StoreError::NotMade);
        }
        self.use_draft(signed)
    }

    fn install(&mut self, signed: &SignedSnapshot, mut file: &File) -> Result<Installed, StoreError> {
        self.draft = None;
        base::copy(self.shared.medium.as_ref(), signed, &mut file, RESERVE_BYTES)?;
        self.use_draft(signed)
    }

    /// The draft becomes the base: durable first, then folded in. From a kill in between, the next start goes on.
    fn use_draft(&mut self, signed: &SignedSnapshot) -> Result<Installed, StoreError> {
        let medium = self.shared.medium.clone();
        let table = self.open_table()?;
        let before: BTreeSet<GroupId> = unfinished(table.as_ref())?;
        let number = match self.journal.end() {
            // Nothing came since the last base.
            end if end.segment > self.standing.base && end.offset == FIRST => end.segment,
            end => {
                self.journal.begin_segment().map_err(|error| io_error("create", medium.as_ref(), end.segment, error))?
            }
        };
        base::commit(medium.as_ref(), number, signed)?;
        self.draft = None;
        let folded = base::fold(medium.as_ref(), table.as_ref(), &mut self.ledger, &mut self.standing, number);
        drop(table);
        if let Err(StoreError::Index(error)) = &folded {
            // The base is there for good: mending the index folds it.
            self.shared.fail(error);
            self.mended()?;
        } else {
            folded?;
            self.shared.set_bases(base::all(medium.as_ref())?);
        }
        let changed = changed(self.open_table()?.as_ref(), &before)?;
        let logs = base::head(medium.as_ref(), number)?.logs;
        Ok(Installed { signed: signed.clone(), logs, changed, floors: self.ledger.floors() })
    }

    fn compact(&mut self, before_unix_ms: u64) -> Result<VersionVector, StoreError> {
        let medium = self.shared.medium.clone();
        let Some(signed) = base::name(medium.as_ref(), self.standing.base) else { return Ok(self.ledger.floors()) };
        let listed = |error| io_error("list", medium.as_ref(), 0, error);
        let mut gone: Vec<u64> = Vec::new();
        let mut floors = VersionVector::default();
        let newest = self.standing.base;
        for segment in medium.segments().map_err(listed)?.into_iter().filter(|&at| at < newest) {
            let extent = self.extent(segment)?;
            let is_covered = extent.last.beyond(&signed.name.vector).is_empty();
            if !is_covered || extent.latest_unix_ms >= before_unix_ms {
                break;
            }
            for (&log, &seq) in &extent.last.0 {
                floors.raise(proto::entry::Position { log, seq });
            }
            gone.push(segment);
        }
        self.raise_floors(&floors)?;
        for &segment in &gone {
            medium.remove(segment).map_err(|error| io_error("remove", medium.as_ref(), segment, error))?;
            self.extents.remove(&segment);
        }
        for (number, older) in base::all(medium.as_ref())? {
            // A base of this node's own work, from before it joined this cluster, may cover what no other does yet.
            if number < newest && older.name.vector.beyond(&signed.name.vector).is_empty() {
                let removed = medium.remove(medium::base(number)).and_then(|()| medium.remove(medium::name(number)));
                removed.map_err(|error| io_error("remove", medium.as_ref(), number, error))?;
            }
        }
        self.shared.set_bases(base::all(medium.as_ref())?);
        Ok(self.ledger.floors())
    }

    /// Nobody is sent entries up to `floors` any more; durable in the index before they go.
    fn raise_floors(&mut self, floors: &VersionVector) -> Result<(), StoreError> {
        let table = self.open_table()?;
        if !floors.0.is_empty() {
            let mut batch = Batch::new();
            for (&log, &floor) in &floors.0 {
                if let Some((number, before)) = self.ledger.set_floor(log, floor) {
                    places::forget(number, before, floor, &mut batch);
                }
            }
            self.ledger.write(&mut batch);
            let mut standing = self.standing;
            standing.digest = standing.digest.after(table.as_ref(), &batch)?;
            batch.insert(keys::STANDING.to_vec(), Some(cell::encode(&standing)));
            table.apply(batch)?;
            self.standing = standing;
            self.ledger.settle();
        }
        // The places of what the base carries must not be lost with the bases before it, either.
        Ok(table.flush()?)
    }

    fn extent(&mut self, segment: u64) -> Result<&Extent, StoreError> {
        if !self.extents.contains_key(&segment) {
            let extent = read_extent(self.shared.medium.as_ref(), segment)?;
            self.extents.insert(segment, extent);
        }
        Ok(&self.extents[&segment])
    }
}

fn read_extent(medium: &dyn Medium, segment: u64) -> Result<Extent, StoreError> {
    let failed = |error| io_error("read", medium, segment, error);
    let mut extent = Extent { latest_unix_ms: 0, last: VersionVector::default() };
    let mut scan = Scan::new(medium, segment, 0).map_err(failed)?;
    while let Some(found) = scan.next().map_err(failed)? {
        // What is damaged is lost here whether the segment stays or not.
        if let Found::Record(_, signed) = found
            && let Ok(entry) = SignedEntry::trust(signed)
        {
            extent.latest_unix_ms = extent.latest_unix_ms.max(entry.hlc().unix_ms);
            extent.last.raise(entry.position());
        }
    }
    Ok(extent)
}

fn unfinished(table: &dyn Table) -> Result<BTreeSet<GroupId>, StoreError> {
    Ok(query::pairs(table, keys::UNFINISHED)?.iter().filter_map(|(key, _)| keys::group_of(key)).collect())
}

/// What a core may have to know: all that is alive, and what was alive `before`.
fn changed(table: &dyn Table, before: &BTreeSet<GroupId>) -> Result<Changed, StoreError> {
    let mut changed = query::live(table)?;
    let after = unfinished(table)?;
    for group in before.difference(&after).copied() {
        changed.extend(query::group_with_jobs(table, group)?);
    }
    Ok(changed)
}
