//! What people write about a project: what it is, and notes on how it goes. Called by the fold of records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::record::{Record, RecordKey, Records, Stamp, latest, latest_of};

/// Notes that a project keeps: the latest. A record is written anew for each, and every answer about a project reads it.
pub const NOTES_MAX: usize = 200;
/// Longest text of a note, in bytes.
pub const NOTE_MAX: usize = 4_096;
/// Longest name of who wrote one, in bytes.
pub const NOTE_USER_MAX: usize = 256;

/// A project that somebody wrote about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRecord {
    /// Last writer wins.
    pub description: Option<(Stamp, String)>,
    /// The [`NOTES_MAX`] latest of a union; a stamp is when a note was written, and by its place which one it is.
    pub notes: BTreeMap<Stamp, ProjectNote>,
}

/// Something that somebody wrote about a project; never changed afterwards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProjectNote {
    /// Who.
    pub user: String,
    /// What, at most [`NOTE_MAX`] bytes.
    pub text: String,
}

/// Folds a description.
pub(crate) fn described(records: &mut impl Records, project: &str, stamp: Stamp, description: &str) {
    edit(records, project, |record| latest(&mut record.description, stamp, description.to_owned()));
}

/// Folds a note. One beyond the bounds, which no node of ours writes, is left out: by every node, so all agree.
pub(crate) fn noted(records: &mut impl Records, project: &str, stamp: Stamp, note: &ProjectNote) {
    if note.text.len() <= NOTE_MAX && note.user.len() <= NOTE_USER_MAX {
        edit(records, project, |record| record.add_note(stamp, note.clone()));
    }
}

/// Folds a record that was folded elsewhere: the law of each field.
pub(crate) fn merge(records: &mut impl Records, project: &str, theirs: ProjectRecord) {
    edit(records, project, |mine| {
        latest_of(&mut mine.description, theirs.description);
        theirs.notes.into_iter().for_each(|(stamp, note)| mine.add_note(stamp, note));
    });
}

fn edit(records: &mut impl Records, project: &str, edit: impl FnOnce(&mut ProjectRecord)) {
    let key = RecordKey::Project(project.to_owned());
    let mut record = match records.get(&key) {
        Some(Record::Project(record)) => record,
        _ => ProjectRecord::default(),
    };
    edit(&mut record);
    records.put(key, Record::Project(record));
}

impl ProjectRecord {
    /// The greatest stamps stay: the greatest of a union do not depend on the order in which its parts are told.
    fn add_note(&mut self, stamp: Stamp, note: ProjectNote) {
        self.notes.insert(stamp, note);
        while self.notes.len() > NOTES_MAX {
            self.notes.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom as _;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;
    use crate::entry::{LogId, Position};
    use crate::id::NodeId;
    use crate::time::Hlc;

    #[derive(Clone, Default, PartialEq, Debug)]
    struct One(Option<Record>);

    impl Records for One {
        fn get(&mut self, _: &RecordKey) -> Option<Record> {
            self.0.clone()
        }
        fn put(&mut self, _: RecordKey, record: Record) {
            self.0 = Some(record);
        }
    }

    impl One {
        fn record(self) -> ProjectRecord {
            match self.0 {
                Some(Record::Project(record)) => record,
                _ => ProjectRecord::default(),
            }
        }
    }

    fn stamp(at: u64, author: u8) -> Stamp {
        let log = LogId { author: NodeId([author; 32]), incarnation: 1 };
        Stamp { hlc: Hlc { unix_ms: at, counter: 0 }, position: Position { log, seq: at }, event: 0 }
    }

    fn fold(notes: &[(Stamp, ProjectNote)]) -> One {
        let mut records = One::default();
        notes.iter().for_each(|(stamp, note)| noted(&mut records, "p", *stamp, note));
        records
    }

    /// More notes than are kept, by three authors whose clocks are equal now and then.
    fn many() -> Vec<(Stamp, ProjectNote)> {
        let note = |at: u64, user: u8| ProjectNote { user: user.to_string(), text: format!("at {at}") };
        (0..NOTES_MAX as u64).flat_map(|at| (0..3).map(move |user| (stamp(at, user), note(at, user)))).collect()
    }

    #[test]
    fn at_the_bound_the_latest_notes_stay_whatever_the_order_of_arrival() {
        let mut all = many();
        let whole = fold(&all);
        let kept: Vec<Stamp> = whole.clone().record().notes.into_keys().collect();
        assert!(kept.iter().eq(all[all.len() - NOTES_MAX..].iter().map(|(stamp, _)| stamp)), "the latest, each once");
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            all.shuffle(&mut rng);
            assert!(fold(&all) == whole, "seed {seed}: order");
            let cut = rng.random_range(0..all.len());
            let overlap = rng.random_range(0..=cut);
            let (mut one, other) = (fold(&all[..cut]), fold(&all[overlap..]));
            merge(&mut one, "p", other.clone().record());
            merge(&mut one, "p", other.record());
            assert!(one == whole, "seed {seed}: the merge of two folds is the fold of both");
        }
    }

    #[test]
    fn a_note_beyond_the_bounds_is_left_out() {
        let note = |user: usize, text: usize| ProjectNote { user: "u".repeat(user), text: "t".repeat(text) };
        let fits = note(NOTE_USER_MAX, NOTE_MAX);
        let notes = [
            (stamp(1, 1), fits.clone()),
            (stamp(2, 1), note(1, NOTE_MAX + 1)),
            (stamp(3, 1), note(NOTE_USER_MAX + 1, 1)),
        ];
        assert_eq!(fold(&notes).record().notes, BTreeMap::from([(stamp(1, 1), fits)]));
    }
}
