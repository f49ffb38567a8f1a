//! Small blobs that ride in entries, found again by their content: bundles of submissions, logs of attempts, cached
//! values.
//!
//! The index has a row per content, the place of an entry that carries it; a thousand equal logs are one row.
//! Filled by the writer and the recovery along with the fold. Never keeps the bytes themselves.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use proto::codec::{self, Word as _};
use proto::entry::VerifiedEntry;
use proto::record::{Record, RecordKey};
use proto::snapshot::SnapshotPart;
use proto::{ContentId, GroupId, Manifest};

use super::cell::{self, InlineAt};
use super::error::{StoreError, TableError};
use super::keys;
use super::medium::{self, Medium};
use super::query;
use super::recover::io_error;
use super::table::{Batch, Table};

/// Notes what rides in `entry`, which is of the log `number`. The latest place counts: it stays longest.
pub(crate) fn note(batch: &mut Batch, number: u32, entry: &VerifiedEntry) {
    for bytes in entry.events().iter().flat_map(proto::event::Event::inline) {
        let place = InlineAt::Entry { number, seq: entry.position().seq };
        batch.insert(keys::inline(ContentId::of(bytes)), Some(cell::encode(&place)));
    }
}

/// Notes that a base carries the blob `content`.
pub(crate) fn note_base(batch: &mut Batch, content: ContentId, place: InlineAt) {
    batch.insert(keys::inline(content), Some(cell::encode(&place)));
}

/// The blob `content`, when an entry that is here carries it, or a base.
pub(crate) fn find(table: &dyn Table, medium: &dyn Medium, content: ContentId) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(row) = table.get(&keys::inline(content))? else { return Ok(None) };
    let found = match cell::decode(&row)? {
        InlineAt::Entry { number, seq } => in_entry(table, medium, number, seq, content),
        InlineAt::Base { number, offset, len } => in_base(medium, number, offset, len),
    };
    match found {
        // What only deleted jobs left may have gone, with the entries that carried it.
        Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        // The key is only the beginning of the hash: the bytes themselves tell.
        found => Ok(found?.filter(|bytes| ContentId::of(bytes) == content)),
    }
}

fn in_entry(
    table: &dyn Table,
    medium: &dyn Medium,
    number: u32,
    seq: u64,
    content: ContentId,
) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(signed) = query::read_numbered(table, medium, number, (seq, seq), 1)?.pop() else { return Ok(None) };
    let entry = signed.trust().map_err(|error| TableError::Corrupt(format!("an entry does not decode: {error}")))?;
    let mut blobs = entry.events().iter().flat_map(proto::event::Event::inline);
    Ok(blobs.find(|bytes| ContentId::of(bytes) == content).cloned())
}

fn in_base(medium: &dyn Medium, number: u64, offset: u64, len: u32) -> Result<Option<Vec<u8>>, StoreError> {
    let file = medium::base(number);
    let mut bytes = vec![0; (len as usize).min(SnapshotPart::MAX)];
    let failed = |error| io_error("read", medium, file, error);
    let read = medium.read_at(file, offset, &mut bytes).map_err(failed)?;
    match codec::decode(&bytes[..read]) {
        Ok(SnapshotPart::Inline(blob)) => Ok(Some(blob)),
        _ => Err(StoreError::Damaged { path: medium.path(file), offset }),
    }
}

/// The small blobs that somebody may still ask for: logs, bundles with their files, cached values. A function of the records alone,
/// so that nodes with equal records name equal blobs.
#[derive(Default)]
pub(crate) struct Needed {
    deleted: BTreeSet<GroupId>,
    manifests: BTreeSet<ContentId>,
    contents: BTreeSet<ContentId>,
}

impl Needed {
    /// Groups come before their jobs.
    pub(crate) fn note(&mut self, key: &RecordKey, record: &Record) {
        match (key, record) {
            (RecordKey::Group(group), Record::Group(record)) if record.marks.deleted => {
                self.deleted.insert(*group);
            }
            (_, Record::Group(record)) => {
                let bundle = record.submitted.as_ref().and_then(|submitted| submitted.spec.bundle);
                self.manifests.extend(bundle.map(|bundle| bundle.manifest));
            }
            (RecordKey::Job(job), Record::Job(record))
                if !record.marks.deleted && !self.deleted.contains(&job.group) =>
            {
                let finished = record.attempts.values().filter_map(|attempt| attempt.finished.as_ref());
                let logs = finished.filter_map(|finished| finished.log.as_ref()).filter(|log| log.is_inline());
                self.contents.extend(logs.flat_map(|log| [Some(log.content), log.times]).flatten());
                let finished = record.attempts.values().filter_map(|attempt| attempt.finished.as_ref());
                self.contents.extend(finished.filter_map(|finished| finished.ran_with));
            }
            (_, Record::Value(record)) => {
                let small = record.values.values().filter(|value| value.is_inline());
                self.contents.extend(small.map(|value| value.content));
            }
            _ => {}
        }
    }

    /// Hands over each of them that rode in an entry, in the order of their contents.
    pub(crate) fn visit(
        mut self,
        table: &dyn Table,
        medium: &dyn Medium,
        mut visit: impl FnMut(Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for manifest in std::mem::take(&mut self.manifests) {
            // A bundle that did not ride in an entry is in blob stores.
            if let Some(bytes) = find(table, medium, manifest)?
                && let Ok(decoded) = codec::decode::<Manifest>(&bytes)
            {
                self.contents.extend(decoded.contents().map(|(content, _)| content));
                self.contents.insert(manifest);
            }
        }
        for content in self.contents {
            if let Some(bytes) = find(table, medium, content)? {
                visit(bytes)?;
            }
        }
        Ok(())
    }
}
