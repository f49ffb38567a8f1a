//! The one small trait behind which sled lies, and its twin in memory.
//!
//! A table is a sorted map of bytes whose batches are applied whole or not at all. Called by the store's
//! writer and by readers of any thread; it knows nothing of what keys and values mean.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock};

use super::error::TableError;

/// Changes to apply together: `None` removes.
pub(crate) type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Sees one key and value; breaks to end the scan.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// In which order a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
}

/// A sorted map of bytes.
pub(crate) trait Table: Send + Sync {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError>;
    /// Visits every key with `from <= key < to`.
    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visit<'_>) -> Result<(), TableError>;
    /// Applies all of `batch` or nothing, also when the process is killed meanwhile.
    fn apply(&self, batch: Batch) -> Result<(), TableError>;
    /// Returns when everything applied survives a power cut.
    fn flush(&self) -> Result<(), TableError>;
}

/// Where a table comes from, and where one goes that cannot be trusted.
pub(crate) trait TableSource: Send + 'static {
    /// The table, empty when there was none. Every earlier one of this source was dropped before.
    fn open(&mut self) -> Result<Opened, TableError>;
    /// Puts the closed table out of the way and says where it lies now; the next [`Self::open`] is empty.
    fn set_aside(&mut self) -> Result<String, TableError>;
    /// Makes the next start rebuild the table, because this one failed while it was open.
    fn suspect(&mut self);
    /// The table was flushed and is dropped: the next start can trust it.
    fn closed(&mut self);
}

/// A table that was opened.
pub(crate) struct Opened {
    pub(crate) table: Arc<dyn Table>,
    /// It was not flushed when it was last let go, so a part of it may be missing.
    pub(crate) in_doubt: bool,
}

/// A table in memory, for tests of other shells and as the model that sled is compared with.
#[derive(Debug, Default)]
pub(crate) struct MemoryTable(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Table for MemoryTable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: Visit<'_>) -> Result<(), TableError> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut range = map.range(from.to_vec()..to.to_vec());
        loop {
            let next = if order == Order::Ascending { range.next() } else { range.next_back() };
            match next {
                Some((key, value)) if visit(key, value).is_continue() => {}
                _ => return Ok(()),
            }
        }
    }

    fn apply(&self, batch: Batch) -> Result<(), TableError> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in batch {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), TableError> {
        Ok(())
    }
}

/// Gives tables in memory.
#[derive(Debug, Default)]
pub(crate) struct MemorySource;

impl TableSource for MemorySource {
    fn open(&mut self) -> Result<Opened, TableError> {
        Ok(Opened { table: Arc::new(MemoryTable::default()), in_doubt: false })
    }

    fn set_aside(&mut self) -> Result<String, TableError> {
        Ok("nowhere".to_owned())
    }

    fn suspect(&mut self) {}

    fn closed(&mut self) {}
}
