//! Folds entries into records through a cache that is written back once per batch, and keeps the
//! indexes beside them: unfinished groups, groups by project, use of projects.
//!
//! The merges themselves are `proto::record::apply`'s. Called by the writer for each batch and by the recovery.

use std::collections::{BTreeMap, BTreeSet};

use proto::entry::{Position, VerifiedEntry};
use proto::event::{Event, Frame};
use proto::record::{GroupRecord, Record, RecordKey, Records, Stamp, apply, apply_event, merge, stamped};
use proto::snapshot::SnapshotPart;
use proto::{ContentId, GroupId, JobId, ValueRecord};

use super::cell::{self, InlineAt, Pieces, ProjectUse};
use super::error::TableError;
use super::inline;
use super::keys;
use super::table::{Batch, Table};
use super::values;

/// Records as one batch of entries leaves them.
pub(crate) struct Fold<'a> {
    table: &'a dyn Table,
    cells: BTreeMap<RecordKey, Cell>,
    /// Changed since [`Fold::take_changed`].
    touched: BTreeSet<RecordKey>,
    /// Pairs beside the records.
    beside: Batch,
    /// [`Records`] cannot fail, so the first failure waits here; nothing of the batch is used then.
    failure: Option<TableError>,
}

#[derive(Default)]
struct Cell {
    record: Option<Record>,
    dirty: bool,
    pieces: Pieces,
    /// A group's acceptance as the table has it.
    stored: Option<Accepted>,
    /// A cached value's record as the table has it.
    stored_value: Option<ValueRecord>,
}

/// What the indexes of a group depend on.
#[derive(Clone, PartialEq)]
struct Accepted {
    position: Position,
    project: String,
    jobs: u64,
}

impl<'a> Fold<'a> {
    /// On top of `table`.
    pub(crate) fn new(table: &'a dyn Table) -> Self {
        Self { table, cells: BTreeMap::new(), touched: BTreeSet::new(), beside: Batch::new(), failure: None }
    }

    /// Folds one entry in.
    pub(crate) fn apply(&mut self, entry: &VerifiedEntry) -> Result<(), TableError> {
        apply(entry, self);
        for (stamp, event) in stamped(entry) {
            if let Event::Unknown(frame) = event {
                self.note_unknown(stamp, frame);
            }
        }
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Folds in what stands at `place` of a snapshot; `records` is false where all of its records are folded already.
    pub(crate) fn apply_part(&mut self, part: SnapshotPart, place: InlineAt, records: bool) -> Result<(), TableError> {
        match part {
            SnapshotPart::Record(key, record) if records => merge(&key, *record, self),
            // It may be known by now: this software is newer than who kept it.
            SnapshotPart::Unknown(stamp, frame) if records => match Event::from_frame(frame.clone()) {
                Ok(Event::Unknown(_)) | Err(_) => self.note_unknown(stamp, &frame),
                Ok(event) => apply_event(stamp, &event, self),
            },
            SnapshotPart::Inline(bytes) => inline::note_base(&mut self.beside, ContentId::of(&bytes), place),
            _ => {}
        }
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn note_unknown(&mut self, stamp: Stamp, frame: &Frame) {
        cell::store(&mut self.beside, keys::unknown(stamp), &cell::encode(&(stamp, frame)), 0);
    }

    /// Records changed since the last call, as they are now.
    pub(crate) fn take_changed(&mut self) -> Vec<(RecordKey, Record)> {
        let touched = std::mem::take(&mut self.touched);
        let changed = touched.into_iter().filter_map(|key| {
            let record = self.cells.get(&key)?.record.clone()?;
            Some((key, record))
        });
        changed.collect()
    }

    /// Adds everything that changed to `batch`.
    pub(crate) fn finish(self, batch: &mut Batch) -> Result<(), TableError> {
        let mut uses = Uses { table: self.table, known: BTreeMap::new() };
        for (key, cell) in &self.cells {
            let Some(record) = cell.record.as_ref().filter(|_| cell.dirty) else { continue };
            cell::store(batch, keys::record(key), &cell::encode_record(key, record), cell.pieces.record);
            match (key, record) {
                (RecordKey::Group(group), Record::Group(record)) => {
                    finish_group(batch, &mut uses, *group, record, cell)?;
                }
                (RecordKey::Job(job), _) => self.finish_job(batch, *job)?,
                (RecordKey::Value(key), Record::Value(now)) => {
                    values::index(batch, *key, cell.stored_value.as_ref(), now);
                }
                _ => {}
            }
        }
        uses.finish(batch);
        batch.extend(self.beside);
        Ok(())
    }

    /// A job whose group is not here yet is found again through its group's id.
    fn finish_job(&self, batch: &mut Batch, job: JobId) -> Result<(), TableError> {
        let key = RecordKey::Group(job.group);
        let known = match self.cells.get(&key) {
            Some(cell) => cell.record.is_some(),
            None => self.table.get(&keys::record(&key))?.is_some(),
        };
        if !known {
            batch.insert(keys::group_key(keys::UNFINISHED, job.group), Some(Vec::new()));
        }
        Ok(())
    }

    fn load(&mut self, key: &RecordKey) -> Cell {
        match cell::load_record(self.table, key) {
            Ok(None) => Cell::default(),
            Ok(Some((record, pieces))) => {
                let stored = if let Record::Group(group) = &record { accepted(group) } else { None };
                let stored_value = if let Record::Value(value) = &record { Some(value.clone()) } else { None };
                Cell { record: Some(record), dirty: false, pieces, stored, stored_value }
            }
            Err(error) => {
                self.failure.get_or_insert(error);
                Cell::default()
            }
        }
    }
}

impl Records for Fold<'_> {
    fn get(&mut self, key: &RecordKey) -> Option<Record> {
        if !self.cells.contains_key(key) {
            let cell = self.load(key);
            self.cells.insert(key.clone(), cell);
        }
        self.cells.get(key)?.record.clone()
    }

    fn put(&mut self, key: RecordKey, record: Record) {
        if !self.cells.contains_key(&key) {
            let cell = self.load(&key);
            self.cells.insert(key.clone(), cell);
        }
        if let Some(cell) = self.cells.get_mut(&key) {
            cell.record = Some(record);
            cell.dirty = true;
        }
        self.touched.insert(key);
    }
}

fn accepted(group: &GroupRecord) -> Option<Accepted> {
    group.submitted.as_ref().map(|submitted| Accepted {
        position: submitted.position,
        project: submitted.spec.project.clone(),
        jobs: submitted.spec.len(),
    })
}

fn finish_group(
    batch: &mut Batch,
    uses: &mut Uses<'_>,
    group: GroupId,
    record: &GroupRecord,
    cell: &Cell,
) -> Result<(), TableError> {
    let unfinished = (!record.is_finished()).then(Vec::new);
    batch.insert(keys::group_key(keys::UNFINISHED, group), unfinished);
    let now = accepted(record);
    if now == cell.stored {
        return Ok(());
    }
    if let Some(submitted) = &record.submitted {
        cell::store(batch, keys::spec(group), &cell::encode(&submitted.spec), cell.pieces.spec);
    }
    // A part of a job is counted with that.
    let count = u64::from(record.submitted.as_ref().is_some_and(|submitted| submitted.spec.parent.is_none()));
    if let Some(old) = &cell.stored {
        batch.insert(keys::project_group(&old.project, group), None);
        uses.edit(&old.project, |project| {
            project.groups = project.groups.saturating_sub(count);
            project.jobs = project.jobs.saturating_sub(old.jobs * count);
        })?;
    }
    if let Some(new) = &now {
        batch.insert(keys::project_group(&new.project, group), Some(Vec::new()));
        uses.edit(&new.project, |project| {
            project.groups += count;
            project.jobs += new.jobs * count;
        })?;
    }
    Ok(())
}

/// Uses of projects, counted over one batch.
struct Uses<'a> {
    table: &'a dyn Table,
    known: BTreeMap<String, ProjectUse>,
}

impl Uses<'_> {
    fn edit(&mut self, name: &str, edit: impl FnOnce(&mut ProjectUse)) -> Result<(), TableError> {
        if !self.known.contains_key(name) {
            let stored = cell::load(self.table, &keys::project_use(name))?;
            let stored = stored.map(|(bytes, _)| cell::decode(&bytes)).transpose()?;
            let fresh = || ProjectUse { name: name.to_owned(), groups: 0, jobs: 0 };
            self.known.insert(name.to_owned(), stored.unwrap_or_else(fresh));
        }
        if let Some(project) = self.known.get_mut(name) {
            edit(project);
        }
        Ok(())
    }

    fn finish(self, batch: &mut Batch) {
        for (name, project) in self.known {
            let key = keys::project_use(&name);
            if project.groups == 0 {
                batch.insert(key, None);
            } else {
                // Its name never changes, so neither does its number of pieces.
                cell::store(batch, key, &cell::encode(&project), 0);
            }
        }
    }
}
