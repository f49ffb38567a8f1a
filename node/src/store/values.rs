//! Cached values in the index: their records by key, and beside them a row per value by its function and time, from
//! which a function's pace and the nearest earlier call are told without reading every record.
//!
//! The rows follow the records of each batch (`fold.rs`). Values themselves are blobs, or ride in entries (`inline.rs`).

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use proto::record::{Record, RecordKey};
use proto::{ValueKey, ValueRecord};

use super::cell;
use super::error::TableError;
use super::keys::{self, Key};
use super::query;
use super::table::{Batch, Order, Table};

/// A value as its function's row tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueRow {
    /// Of which call.
    pub key: ValueKey,
    /// Milliseconds since 1970, by its maker's clock.
    pub made_unix_ms: u64,
    /// How long the call took.
    pub took_ms: u64,
}

/// Makes the rows what `now` says, where they were what `before` said.
pub(crate) fn index(batch: &mut Batch, key: ValueKey, before: Option<&ValueRecord>, now: &ValueRecord) {
    let rows = |record: &ValueRecord| -> BTreeSet<(Key, u64)> {
        let row = |value: &proto::ValueNote| {
            (keys::value_of_function(&value.function, value.made_unix_ms, key), value.took_ms)
        };
        record.values.values().map(row).collect()
    };
    let (before, now) = (before.map(rows).unwrap_or_default(), rows(now));
    for (row, _) in before.difference(&now) {
        batch.insert(row.clone(), None);
    }
    for (row, took_ms) in now.difference(&before) {
        batch.insert(row.clone(), Some(cell::encode(took_ms)));
    }
}

/// What is known of a key; nothing hidden by a purge is in it.
pub(crate) fn value(table: &dyn Table, key: ValueKey) -> Result<Option<ValueRecord>, TableError> {
    match query::record(table, &RecordKey::Value(key))? {
        Some(Record::Value(record)) => Ok(Some(record)),
        _ => Ok(None),
    }
}

/// Up to `limit` keys with what is known of them, in their order, after `after`.
pub(crate) fn page(
    table: &dyn Table,
    after: Option<ValueKey>,
    limit: usize,
) -> Result<Vec<(ValueKey, ValueRecord)>, TableError> {
    let from = after.map_or(keys::VALUES.to_vec(), |key| [&keys::value(key)[..], &[0]].concat());
    let mut found = Vec::new();
    let mut failure = None;
    table.scan(&from, &keys::after(keys::VALUES), Order::Ascending, &mut |key, cell| {
        if found.len() >= limit {
            return ControlFlow::Break(());
        }
        let read = open(table, key, cell);
        match read {
            Ok(pair) => found.push(pair),
            Err(error) => failure = Some(error),
        }
        if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failure.map_or(Ok(found), Err)
}

/// A record and its key, from its cell.
pub(crate) fn open(table: &dyn Table, key: &[u8], cell: &[u8]) -> Result<(ValueKey, ValueRecord), TableError> {
    let name = keys::value_in(key).ok_or_else(|| TableError::Corrupt("a key of a value is malformed".to_owned()))?;
    Ok((name, cell::decode(&cell::open(table, key, cell)?.0)?))
}

/// The latest values of `function` that were made before `before_unix_ms`, the newest first, at most `limit`.
pub(crate) fn of_function(
    table: &dyn Table,
    function: &str,
    before_unix_ms: u64,
    limit: usize,
) -> Result<Vec<ValueRow>, TableError> {
    let prefix = keys::values_of_function(function);
    let to = [&prefix[..], &before_unix_ms.to_be_bytes()].concat();
    let mut found = Vec::new();
    let mut failure = None;
    table.scan(&prefix, &to, Order::Descending, &mut |key, cell| {
        match (keys::value_row_in(key), cell::decode(cell)) {
            _ if found.len() >= limit => {}
            (Some((made_unix_ms, key)), Ok(took_ms)) => found.push(ValueRow { key, made_unix_ms, took_ms }),
            (None, _) => failure = Some(TableError::Corrupt("a row of a value is malformed".to_owned())),
            (_, Err(error)) => failure = Some(error),
        }
        if failure.is_some() || found.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failure.map_or(Ok(found), Err)
}
