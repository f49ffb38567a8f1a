//! Where entries lie in the journal, some of a log together under one key: sled keeps about 50 bytes in
//! memory for every key it has, so a key per entry would grow with history.
//!
//! Filled by the writer and the recovery along with the fold, read by the queries.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cell;
use super::error::TableError;
use super::journal::Location;
use super::keys;
use super::table::{Batch, Table};

/// Entries under one key: few enough that rewriting them with every commit costs no more than the rest of it.
const TOGETHER: u64 = 32;

/// Places of consecutive entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stretch {
    /// Number of the first entry here.
    first: u64,
    /// Each relative to the one before, which keeps the numbers small: segments on, bytes after that
    /// one's end (from the start in another segment), length.
    steps: Vec<(u64, u64, u32)>,
}

/// Places that one batch adds.
pub(crate) struct Places<'a> {
    table: &'a dyn Table,
    open: BTreeMap<(u32, u64), (Stretch, Location)>,
}

const START: Location = Location { segment: 0, offset: 0, len: 0 };

impl<'a> Places<'a> {
    /// On top of `table`.
    pub(crate) fn new(table: &'a dyn Table) -> Self {
        Self { table, open: BTreeMap::new() }
    }

    /// Notes where entry `seq` of the log `number` lies; those of a log come in order.
    pub(crate) fn push(&mut self, number: u32, seq: u64, location: Location) -> Result<(), TableError> {
        let slot = (number, slot_of(seq));
        if !self.open.contains_key(&slot) {
            let stretch = load(self.table, number, slot.1)?.unwrap_or(Stretch { first: seq, steps: Vec::new() });
            let last = stretch.locations().last().unwrap_or(START);
            self.open.insert(slot, (stretch, last));
        }
        if let Some((stretch, last)) = self.open.get_mut(&slot) {
            let next = stretch.first + stretch.steps.len() as u64;
            if seq < next {
                return Err(TableError::Corrupt("the places of a log go back".to_owned()));
            }
            if seq > next {
                // A base covers what is missing; nobody is sent what lies before it.
                (*stretch, *last) = (Stretch { first: seq, steps: Vec::new() }, START);
            }
            stretch.steps.push(step(*last, location));
            *last = location;
        }
        Ok(())
    }

    /// Adds what was noted to `batch`.
    pub(crate) fn finish(self, batch: &mut Batch) {
        for ((number, slot), (stretch, _)) in self.open {
            batch.insert(keys::places(number, slot), Some(cell::encode(&stretch)));
        }
    }
}

/// Forgets the places of entries `1..=floor` of the log `number`, as far as whole keys hold no others; those up to
/// `before` were forgotten earlier.
pub(crate) fn forget(number: u32, before: u64, floor: u64, batch: &mut Batch) {
    for slot in slot_of(before)..slot_of(floor + 1) {
        batch.insert(keys::places(number, slot), None);
    }
}

/// Places of the entries `first..=last` of a log, from `first` on as far as they are known, until `wanted` says no.
pub(crate) fn find(
    table: &dyn Table,
    number: u32,
    (first, last): (u64, u64),
    mut wanted: impl FnMut(Location) -> bool,
) -> Result<(), TableError> {
    let mut seq = first;
    while let Some(stretch) = load(table, number, slot_of(seq))? {
        let before = usize::try_from(seq.saturating_sub(stretch.first)).unwrap_or(usize::MAX);
        if seq < stretch.first {
            break;
        }
        for location in stretch.locations().skip(before) {
            if seq > last || !wanted(location) {
                return Ok(());
            }
            seq += 1;
        }
        // A stretch that is not full is the end of its log.
        if slot_of(seq) == slot_of(stretch.first) {
            break;
        }
    }
    Ok(())
}

impl Stretch {
    fn locations(&self) -> impl Iterator<Item = Location> + '_ {
        self.steps.iter().scan(START, |last, &(segments, bytes, len)| {
            let segment = last.segment.saturating_add(segments);
            let base = if segments == 0 { last.offset.saturating_add(u64::from(last.len)) } else { 0 };
            *last = Location { segment, offset: base.saturating_add(bytes), len };
            Some(*last)
        })
    }
}

fn step(last: Location, next: Location) -> (u64, u64, u32) {
    let segments = next.segment.saturating_sub(last.segment);
    let base = if segments == 0 { last.offset + u64::from(last.len) } else { 0 };
    (segments, next.offset.saturating_sub(base), next.len)
}

fn slot_of(seq: u64) -> u64 {
    seq.saturating_sub(1) / TOGETHER
}

fn load(table: &dyn Table, number: u32, slot: u64) -> Result<Option<Stretch>, TableError> {
    table.get(&keys::places(number, slot))?.map(|value| cell::decode(&value)).transpose()
}

#[cfg(test)]
mod tests {
    use super::super::table::MemoryTable;
    use super::*;
    use crate::harness::attack::attack;
    use crate::harness::golden::{Sample, check};

    #[test]
    fn places_are_found_again_across_batches_and_segments() {
        let table = MemoryTable::default();
        let all: Vec<Location> = (0..100_u64)
            .map(|at| Location { segment: 1 + at / 40, offset: 16 + (at % 40) * 1000, len: 900 + (at as u32 % 3) })
            .collect();
        let mut seq = 0;
        for batch_len in [1, 1, 30, 1, 40, 27] {
            let mut places = Places::new(&table);
            for _ in 0..batch_len {
                seq += 1;
                places.push(7, seq, all[usize::try_from(seq).unwrap() - 1]).expect("in order");
            }
            let mut batch = Batch::new();
            places.finish(&mut batch);
            table.apply(batch).expect("applied");
        }
        for (first, last) in [(1, 100), (1, 1), (32, 33), (33, 64), (100, u64::MAX), (101, 200), (50, 20)] {
            let mut found = Vec::new();
            find(&table, 7, (first, last), |location| {
                found.push(location);
                true
            })
            .expect("sound");
            let want: Vec<_> = (first..=last.min(100)).map(|seq| all[usize::try_from(seq).unwrap() - 1]).collect();
            assert_eq!(found, want, "{first}..={last}");
        }
        assert!(Places::new(&table).push(7, 99, START).is_err(), "a step back is noticed");
        let (behind_a_gap, mut batch) = (Location { segment: 9, offset: 16, len: 5 }, Batch::new());
        let mut places = Places::new(&table);
        places.push(7, 103, behind_a_gap).expect("a base covers the gap");
        places.finish(&mut batch);
        forget(7, 0, 64, &mut batch);
        table.apply(batch).expect("applied");
        for (seq, want) in [(1, vec![]), (64, vec![]), (65, vec![all[64]]), (100, vec![]), (103, vec![behind_a_gap])] {
            let mut found = Vec::new();
            find(&table, 7, (seq, seq), |location| {
                found.push(location);
                true
            })
            .expect("sound");
            assert_eq!(found, want, "{seq}");
        }
    }

    #[test]
    fn golden_places() {
        let stretch = Stretch { first: 33, steps: vec![(1, 16, 900), (0, 0, 70_000), (2, 16, 5)] };
        let bytes = cell::encode(&stretch);
        check("store.Places", &[Sample::new("where three entries lie", &stretch, bytes.clone())]);
        let is_stretch = |bytes: &[u8]| cell::decode::<Stretch>(bytes).is_ok_and(|it| it.locations().count() < 1 << 20);
        attack("Stretch", &bytes, is_stretch);
    }
}
