//! Small blobs that ride in entries, found again by their content: bundles of submissions, logs of attempts.
//!
//! The index has a row per content, the place of an entry that carries it; a thousand equal logs are one row.
//! Filled by the writer and the recovery along with the fold. Never keeps the bytes themselves.

use proto::ContentId;
use proto::entry::VerifiedEntry;

use super::cell;
use super::error::{StoreError, TableError};
use super::keys;
use super::medium::Medium;
use super::query;
use super::table::{Batch, Table};

/// Notes what rides in `entry`, which is of the log `number`. The latest place counts: it stays longest.
pub(crate) fn note(batch: &mut Batch, number: u32, entry: &VerifiedEntry) {
    for bytes in entry.events().iter().flat_map(proto::event::Event::inline) {
        let place = (number, entry.position().seq);
        batch.insert(keys::inline(ContentId::of(bytes)), Some(cell::encode(&place)));
    }
}

/// The blob `content`, when an entry that is here carries it.
pub(crate) fn find(table: &dyn Table, medium: &dyn Medium, content: ContentId) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(row) = table.get(&keys::inline(content))? else { return Ok(None) };
    let (number, seq): (u32, u64) = cell::decode(&row)?;
    let Some(signed) = query::read_numbered(table, medium, number, (seq, seq), 1)?.pop() else { return Ok(None) };
    let entry = signed.trust().map_err(|error| TableError::Corrupt(format!("an entry does not decode: {error}")))?;
    // The key is only the beginning of the hash: the bytes themselves tell.
    let mut blobs = entry.events().iter().flat_map(proto::event::Event::inline);
    Ok(blobs.find(|bytes| ContentId::of(bytes) == content).cloned())
}
