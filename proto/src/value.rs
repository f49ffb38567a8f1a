//! Cached values: what a function returned for arguments that a key stands for, as all nodes know it (DESIGN §11).
//!
//! The key is made by who calls the function; nobody here looks into it. A value is a blob, and its record says
//! who made it, and what that took. Records merge by a law of their own, [`ValueRecord`]; the store applies it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::blob::ContentId;
use crate::codec::encode_body;
use crate::entry::{Identity, is_signed};
use crate::event::INLINE_MAX;
use crate::id::{NodeId, ParseIdError, hex, unhex};
use crate::lease::keeper;
use crate::record::{Record, RecordKey, Records, Stamp};

/// Stands for a call: a function with all that it reaches, and its arguments. Text form: 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ValueKey(pub [u8; 32]);

/// What is told of a value. Its maker is the author of the entry that tells it, and so signs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueNote {
    /// The blob that is the value: a container as the Python package writes it.
    pub content: ContentId,
    /// Its length in bytes.
    pub bytes: u64,
    /// The function, as people write it: `package.module.name`.
    pub function: String,
    /// For which project it was called.
    pub project: String,
    /// For whom.
    pub user: String,
    /// How long the call took, in milliseconds.
    pub took_ms: u64,
    /// Milliseconds since 1970, by its maker's clock.
    pub made_unix_ms: u64,
    /// From then on it is no value any more; `None`: it stays one.
    pub expires_unix_ms: Option<u64>,
    /// Stands for what the key was made of; two keys of equal parts are never made.
    pub parts: ContentId,
}

/// A key as all nodes know it: a map from stamps of values, cut off below the greatest stamp of a purge, and the last
/// word on whether it is kept. The first two are unions, a value that a purge hides is hidden whichever of the two
/// comes first, and the greatest stamp has the last word, so merging is commutative, associative and idempotent.
///
/// Not bounded by the merge, which a bound would make depend on the order; those who write bound it: nobody tells a
/// value anew that is there already, and who tells one after others have expired purges these first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueRecord {
    /// Every value that no purge hides.
    pub values: BTreeMap<Stamp, ValueNote>,
    /// The latest purge: it hides all values with a smaller stamp.
    pub purged: Option<Stamp>,
    /// Whether no node may evict it, by who said so last. Not a word of its own validity: what has expired, or was
    /// purged later, is no value all the same.
    pub kept: Option<(Stamp, bool)>,
}

/// Hashed in front of what is signed, so that no other signature can stand in its place.
const CONTEXT: &[u8] = b"fnode cached value 1\n";

impl ValueNote {
    fn digest(&self, key: ValueKey) -> ContentId {
        ContentId::of(&[CONTEXT, &key.0, &encode_body(self)].concat())
    }

    /// Says with a signature that the owner of `identity` keeps this very value for `key`, for readers that do not have
    /// the log.
    #[must_use]
    pub fn sign(&self, key: ValueKey, identity: &Identity) -> Vec<u8> {
        identity.sign_digest(self.digest(key))
    }

    /// Whether `signature` is what [`Self::sign`] gives for `node`.
    #[must_use]
    pub fn is_signed_by(&self, key: ValueKey, node: NodeId, signature: &[u8]) -> bool {
        is_signed(self.digest(key), node, signature)
    }

    /// Whether it rides in the journal: then every node that has its record has it, too.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.bytes <= INLINE_MAX as u64
    }

    /// Whether it is still a value at this time, in milliseconds since 1970.
    #[must_use]
    pub fn is_fresh(&self, unix_ms: u64) -> bool {
        self.expires_unix_ms.is_none_or(|expires| unix_ms < expires)
    }
}

impl ValueRecord {
    /// The value that counts at this time, in milliseconds since 1970, with its maker: two nodes that were cut off from
    /// each other may both have made one, and then the earliest does, for everybody.
    #[must_use]
    pub fn canonical(&self, unix_ms: u64) -> Option<(NodeId, &ValueNote)> {
        let mut fresh = self.values.iter().filter(|(_, value)| value.is_fresh(unix_ms));
        fresh.next().map(|(stamp, value)| (stamp.position.log.author, value))
    }

    /// Whether values that count no more are in the way of a new one: who tells it writes a purge first.
    #[must_use]
    pub fn is_stale(&self, unix_ms: u64) -> bool {
        !self.values.is_empty() && self.canonical(unix_ms).is_none()
    }

    /// Whether no node may evict it: a user has said so since it was last purged.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.is_some_and(|(stamp, kept)| kept && self.purged.is_none_or(|purged| stamp > purged))
    }

    fn add(&mut self, stamp: Stamp, value: ValueNote) {
        if self.purged.is_none_or(|purged| stamp > purged) {
            self.values.insert(stamp, value);
        }
    }

    fn purge(&mut self, stamp: Stamp) {
        self.purged = self.purged.max(Some(stamp));
        self.values.retain(|&made, _| made > stamp);
    }

    fn keep(&mut self, stamp: Stamp, kept: bool) {
        if self.kept.is_none_or(|(old, _)| old < stamp) {
            self.kept = Some((stamp, kept));
        }
    }

    fn merge(&mut self, theirs: Self) {
        if let Some((stamp, kept)) = theirs.kept {
            self.keep(stamp, kept);
        }
        if let Some(purged) = theirs.purged {
            self.purge(purged);
        }
        for (stamp, value) in theirs.values {
            self.add(stamp, value);
        }
    }
}

/// Whether `me`, which has a copy of the value of `key`, may drop it before copies that are the last: of those that
/// have one, the node that ranks first (rendezvous hashing) keeps it longest. Two nodes that make room at the same time,
/// and see the same `others`, never both drop it.
#[must_use]
pub fn is_spare(key: ValueKey, me: NodeId, others: impl Iterator<Item = NodeId>) -> bool {
    keeper(key, others.chain([me])) != Some(me)
}

/// Folds a value in.
pub(crate) fn made(records: &mut impl Records, key: ValueKey, stamp: Stamp, value: &ValueNote) {
    edit(records, key, |record| record.add(stamp, value.clone()));
}

/// Folds a purge in.
pub(crate) fn purged(records: &mut impl Records, key: ValueKey, stamp: Stamp) {
    edit(records, key, |record| record.purge(stamp));
}

/// Folds in that it shall be kept, or need not be.
pub(crate) fn kept(records: &mut impl Records, key: ValueKey, stamp: Stamp, kept: bool) {
    edit(records, key, |record| record.keep(stamp, kept));
}

/// Folds a record in.
pub(crate) fn merge(records: &mut impl Records, key: ValueKey, theirs: ValueRecord) {
    edit(records, key, |record| record.merge(theirs));
}

fn edit(records: &mut impl Records, key: ValueKey, edit: impl FnOnce(&mut ValueRecord)) {
    let name = RecordKey::Value(key);
    let mut record = match records.get(&name) {
        Some(Record::Value(record)) => record,
        _ => ValueRecord::default(),
    };
    edit(&mut record);
    records.put(name, Record::Value(record));
}

impl ValueKey {
    /// The first eight hex digits, for tables and log lines.
    #[must_use]
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }
}

impl fmt::Display for ValueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ValueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for ValueKey {
    type Err = ParseIdError;

    /// Upper-case digits are refused: the key is a file's name, which must be one and the same.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let key = unhex(text).filter(|_| is_lower).map(Self);
        key.ok_or_else(|| ParseIdError { text: text.to_owned(), kind: "cache" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{LogId, Position};
    use crate::time::Hlc;

    fn stamp(unix_ms: u64, author: u8) -> Stamp {
        let log = LogId { author: NodeId([author; 32]), incarnation: 1 };
        Stamp { hlc: Hlc { unix_ms, counter: 0 }, position: Position { log, seq: 1 }, event: 0 }
    }

    fn note(content: u8, expires_unix_ms: Option<u64>) -> ValueNote {
        ValueNote {
            content: ContentId([content; 32]),
            bytes: 5,
            function: "lab.train".to_owned(),
            project: "vision".to_owned(),
            user: "ada".to_owned(),
            took_ms: 1_500,
            made_unix_ms: 7,
            expires_unix_ms,
            parts: ContentId([9; 32]),
        }
    }

    #[test]
    fn of_two_values_of_one_key_the_earliest_counts() {
        let mut record = ValueRecord::default();
        record.add(stamp(20, 1), note(1, None));
        record.add(stamp(10, 2), note(2, None));
        assert_eq!(record.canonical(0), Some((NodeId([2; 32]), &note(2, None))));
        record.add(stamp(10, 1), note(3, None));
        assert_eq!(record.canonical(0), Some((NodeId([1; 32]), &note(3, None))), "of one time, by author");
    }

    #[test]
    fn a_value_counts_until_it_expires() {
        let mut record = ValueRecord::default();
        record.add(stamp(10, 1), note(1, Some(100)));
        record.add(stamp(20, 1), note(2, Some(200)));
        let content = |unix_ms| record.canonical(unix_ms).map(|(_, value)| value.content.0[0]);
        assert_eq!([99, 100, 199, 200].map(content), [Some(1), Some(2), Some(2), None]);
        assert!(!record.is_stale(199) && record.is_stale(200));
        assert!(!ValueRecord::default().is_stale(0));
    }

    #[test]
    fn a_purge_hides_what_was_made_before_it_whenever_that_is_heard() {
        let mut record = ValueRecord::default();
        record.add(stamp(10, 1), note(1, None));
        record.purge(stamp(20, 2));
        record.add(stamp(15, 3), note(3, None));
        record.purge(stamp(12, 2));
        assert_eq!(record, ValueRecord { purged: Some(stamp(20, 2)), ..ValueRecord::default() });
        record.add(stamp(21, 1), note(4, None));
        assert_eq!(record.values.len(), 1);
    }

    #[test]
    fn who_said_last_whether_a_value_is_kept_is_believed_until_it_is_purged() {
        let mut record = ValueRecord::default();
        record.add(stamp(10, 1), note(1, None));
        assert!(!record.is_kept());
        record.keep(stamp(30, 1), true);
        record.keep(stamp(20, 2), false);
        assert!(record.is_kept(), "heard late, said earlier");
        record.purge(stamp(40, 1));
        assert!(!record.is_kept());
        record.keep(stamp(50, 1), true);
        record.keep(stamp(60, 1), false);
        assert!(!record.is_kept());
    }

    #[test]
    fn of_all_that_have_a_value_one_keeps_it_longest() {
        let nodes = [1, 2, 3, 4].map(|number| NodeId([number; 32]));
        for key in (0..50).map(|number| ValueKey([number; 32])) {
            let others = |me: NodeId| nodes.into_iter().filter(move |&node| node != me);
            let longest = nodes.into_iter().filter(|&me| !is_spare(key, me, others(me))).count();
            assert_eq!(longest, 1, "{key}");
            assert!(!is_spare(key, nodes[0], std::iter::empty()), "the last copy is nobody's spare");
        }
    }

    #[test]
    fn a_signature_is_of_one_value_for_one_key() {
        let (ada, eve) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
        let (key, value) = (ValueKey([7; 32]), note(1, None));
        let signature = value.sign(key, &ada);
        assert!(value.is_signed_by(key, ada.node(), &signature));
        assert!(!value.is_signed_by(ValueKey([8; 32]), ada.node(), &signature), "for another key");
        assert!(!note(2, None).is_signed_by(key, ada.node(), &signature), "another value");
        assert!(!value.is_signed_by(key, eve.node(), &signature), "by another maker");
        assert!(!value.is_signed_by(key, ada.node(), &signature[1..]));
    }

    #[test]
    fn keys_print_as_they_are_typed_and_nothing_else_is_one() {
        let key = ValueKey([0xab; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.short(), "abababab");
        for text in ["", "ab", &"AB".repeat(32), &"/.".repeat(32), &"ab".repeat(33)] {
            assert!(text.parse::<ValueKey>().is_err(), "{text}");
        }
    }
}
