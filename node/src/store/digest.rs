//! Whether the table still holds all that was put into it, and nothing else.
//!
//! sled, stopped without a flush or with a damaged file, may open without a word and lack some pages. So
//! the sum of the hashes of all pairs is carried along with every batch, and compared with the content at
//! a start after anything but a clean stop. A sum (modulo 2^128) does not depend on order and can be
//! changed pair by pair; nobody forges what is on the own disk, so it need not withstand an attack.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::error::TableError;
use super::keys;
use super::table::{Batch, Order, Table};

/// Sum over pairs, without the one that says what the table stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digest(u128);

impl Digest {
    /// Of an empty table.
    pub(crate) const EMPTY: Self = Self(0);

    /// Of everything in `table`. Reads all of it.
    pub(crate) fn of(table: &dyn Table) -> Result<Self, TableError> {
        let mut digest = Self::EMPTY;
        table.scan(&[], &[u8::MAX], Order::Ascending, &mut |key, value| {
            if key != keys::STANDING {
                digest.0 = digest.0.wrapping_add(of_pair(key, value));
            }
            ControlFlow::Continue(())
        })?;
        Ok(digest)
    }

    /// After `batch` is applied to `table`.
    pub(crate) fn after(mut self, table: &dyn Table, batch: &Batch) -> Result<Self, TableError> {
        for (key, value) in batch {
            if let Some(old) = table.get(key)? {
                self.0 = self.0.wrapping_sub(of_pair(key, &old));
            }
            if let Some(new) = value {
                self.0 = self.0.wrapping_add(of_pair(key, new));
            }
        }
        Ok(self)
    }
}

fn of_pair(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    u128::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("32 bytes have 16"))
}

#[cfg(test)]
mod tests {
    use super::super::table::MemoryTable;
    use super::*;

    #[test]
    fn the_carried_sum_is_the_sum_of_the_content() {
        let table = MemoryTable::default();
        let mut digest = Digest::EMPTY;
        let pair = |key: &str, value: Option<&str>| (key.into(), value.map(Into::into));
        for batch in [
            vec![pair("a", Some("1")), pair("b", Some("2"))],
            vec![pair("a", Some("3")), pair("b", None), pair("c", Some(""))],
            vec![pair("a", None), pair("never there", None)],
        ] {
            let batch = Batch::from_iter(batch);
            digest = digest.after(&table, &batch).expect("sound");
            table.apply(batch).expect("applied");
            assert_eq!(Digest::of(&table).expect("sound"), digest);
            assert_ne!(digest, Digest::EMPTY);
        }
        table.apply(Batch::from([pair("c", None)])).expect("applied");
        assert_ne!(Digest::of(&table).expect("sound"), digest, "a pair that got lost is noticed");
    }
}
