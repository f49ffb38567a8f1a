//! Snapshots: the state after a set of entries, as bytes that every node makes equally. A new node starts from
//! one instead of the whole log, and entries that one covers need not be kept for ever (DESIGN §7).
//!
//! The bytes are words behind one another: a [`SnapshotHead`], then [`SnapshotPart`]s in a fixed order (records by
//! kind and key, events of unknown kinds by stamp, payloads by content), the last of which is [`SnapshotPart::End`].
//! State does not depend on the order in which entries came, so nodes with equal version vectors make equal
//! bytes: the content id of these bytes is the digest of the state, and a snapshot travels as any blob does.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::blob::ContentId;
use crate::codec::{self, DecodeError, Word, encode_body};
use crate::entry::{Identity, LogId, is_signed};
use crate::event::{Event, Frame};
use crate::id::NodeId;
use crate::log::{Head, VersionVector};
use crate::record::{Record, RecordKey, Stamp};
use crate::time::Hlc;

/// What the bytes depend on beside the entries: layout of the words here, layout of records, kinds of events that
/// are folded. Nodes of different formats make different bytes of the same state, and do not compare them.
pub const FORMAT: [u16; 3] = [1, Record::KIND, Event::KINDS];
/// Signers that a snapshot needs, in a cluster that has so many members.
pub const SIGNERS: usize = 2;
/// Signed in front of the name, so that no other signature of a node can be taken for this one.
const CONTEXT: &[u8] = b"fnode snapshot 1\0";

/// The first word of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHead {
    /// [`FORMAT`] of who made it.
    pub format: [u16; 3],
    /// Where every log stands: the last entry that is folded in.
    pub logs: BTreeMap<LogId, SnapshotLog>,
    /// Members that joined and were not removed.
    pub members: BTreeSet<NodeId>,
}

/// The last entry of a log that a snapshot covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotLog {
    /// Its number and hash: the next entry names it.
    pub head: Head,
    /// When it was written, by its author's clock.
    pub hlc: Hlc,
}

/// Every further word of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotPart {
    /// A record; groups come before their jobs.
    Record(RecordKey, Box<Record>),
    /// An event of a kind that its maker does not know, to be folded after an upgrade.
    Unknown(Stamp, Frame),
    /// A small blob that rode in an entry and that a job which is not deleted names: a log, a bundle or a file of one.
    Inline(Vec<u8>),
    /// The last word.
    End {
        /// How many came before.
        parts: u64,
    },
}

/// What names a snapshot, and what is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotName {
    /// As in its head.
    pub format: [u16; 3],
    /// Which entries it covers.
    pub vector: VersionVector,
    /// BLAKE3 of its bytes.
    pub id: ContentId,
    /// How many there are.
    pub size: u64,
}

/// A snapshot's name, with members who made the same one themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedSnapshot {
    /// What they made.
    pub name: SnapshotName,
    /// Ed25519 of each (64 bytes).
    pub signatures: BTreeMap<NodeId, Vec<u8>>,
}

/// What nodes say to each other about snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotWord {
    /// The sender makes one now. Please make one, too, if your version vector has this digest.
    Proposal {
        /// Digest of the sender's version vector.
        vector: ContentId,
        /// The sender's [`FORMAT`].
        format: [u16; 3],
    },
    /// What the sender made, after a proposal of either side.
    Vote {
        /// Its name.
        name: SnapshotName,
        /// The sender's signature of it.
        signature: Vec<u8>,
    },
    /// Instead of entries that were asked for: fetch this from the sender, then ask for what comes after.
    Signed(Box<SignedSnapshot>),
    /// The sender cannot use the snapshot that it was sent; entries, please, as far as there are any.
    Declined(ContentId),
}

/// What a shell must do about snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotOrder {
    /// Make one of what is stored now, aside; then [`SnapshotInput::Made`].
    Make,
    /// What was made last becomes the base; then [`SnapshotInput::Installed`] or [`SnapshotInput::Failed`]. Peers
    /// are sent its name and come for its bytes: they are kept as a blob as long as it is a base.
    Keep(Box<SignedSnapshot>),
    /// Get this one, make it the base; then [`SnapshotInput::Installed`] or [`SnapshotInput::Failed`].
    Fetch {
        /// What.
        signed: Box<SignedSnapshot>,
        /// Nodes that are likely to have it, likeliest first.
        providers: Vec<NodeId>,
    },
    /// Remove the oldest entries, as far as the newest base covers them and they were written before; then
    /// [`SnapshotInput::Compacted`].
    Compact {
        /// Milliseconds since 1970.
        before_unix_ms: u64,
    },
}

/// What came of a [`SnapshotOrder`].
#[derive(Clone, Debug)]
pub enum SnapshotInput {
    /// One was made; `None`: it could not be.
    Made(Option<SnapshotName>),
    /// One is the base now. In order with [`crate::Input::Stored`], as the store did both.
    Installed(Box<Installed>),
    /// This one is not.
    Failed(ContentId),
    /// Up to which entry each log may be here no more.
    Compacted(VersionVector),
}

/// What a base changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Installed {
    /// Which.
    pub signed: SignedSnapshot,
    /// Where its logs stand; those that were behind go on from there.
    pub logs: BTreeMap<LogId, SnapshotLog>,
    /// Records as they are now: at least everything that is unfinished or was before, all nodes, the cluster.
    pub changed: Vec<(RecordKey, Record)>,
    /// Up to which entry each log may not be here.
    pub floors: VersionVector,
}

/// Why bytes are not the snapshot that they were taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// A word of it cannot be read.
    #[error("malformed snapshot: {0}")]
    Decode(#[from] DecodeError),
    /// It ends early, goes on after its end, or is of another size or hash than its name says.
    #[error("the snapshot is not the one that was named")]
    NotAsNamed,
    /// It was made by software with other words.
    #[error("the snapshot has the format of another version")]
    Format,
    /// Fewer of its members signed it than are needed.
    #[error("the snapshot is not signed by {SIGNERS} of its members")]
    Unsigned,
}

impl Word for SnapshotHead {
    const KIND: u16 = 14;
}

impl Word for SnapshotPart {
    const KIND: u16 = 15;
}

impl Word for SignedSnapshot {
    const KIND: u16 = 16;
}

/// Makes the bytes of a snapshot, word by word, and hashes them on the way.
#[derive(Debug)]
pub struct Writing {
    head: SnapshotHead,
    hasher: blake3::Hasher,
    size: u64,
    parts: u64,
}

impl Writing {
    /// Returns the first bytes.
    #[must_use]
    pub fn begin(head: SnapshotHead) -> (Self, Vec<u8>) {
        let bytes = codec::encode(&head);
        let mut writing = Self { head, hasher: blake3::Hasher::new(), size: 0, parts: 0 };
        writing.note(&bytes);
        (writing, bytes)
    }

    /// Returns the bytes of the next part.
    pub fn part(&mut self, part: &SnapshotPart) -> Vec<u8> {
        let bytes = codec::encode(part);
        self.parts += 1;
        self.note(&bytes);
        bytes
    }

    /// Returns the last bytes, and the name of it all.
    #[must_use]
    pub fn end(mut self) -> (Vec<u8>, SnapshotName) {
        let bytes = codec::encode(&SnapshotPart::End { parts: self.parts });
        self.note(&bytes);
        let id = ContentId(*self.hasher.finalize().as_bytes());
        (bytes, SnapshotName { format: self.head.format, vector: self.head.vector(), id, size: self.size })
    }

    fn note(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }
}

/// Reads a snapshot from pieces of any length, holding one word at a time.
#[derive(Debug, Default)]
pub struct Reading {
    buffer: Vec<u8>,
    /// Where the next word starts in the buffer.
    at: usize,
    /// And in the snapshot.
    offset: u64,
    head: Option<SnapshotHead>,
    parts: u64,
    ended: bool,
}

impl Reading {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The head, once its bytes have been pushed.
    ///
    /// # Errors
    /// [`SnapshotError::Decode`].
    pub fn head(&mut self) -> Result<Option<&SnapshotHead>, SnapshotError> {
        if self.head.is_none()
            && let Some((head, _)) = self.word::<SnapshotHead>()?
        {
            self.head = Some(head);
        }
        Ok(self.head.as_ref())
    }

    /// The next part and the place of its bytes (offset, length), as far as bytes have been pushed; nothing
    /// after the end.
    ///
    /// # Errors
    /// [`SnapshotError::Decode`], [`SnapshotError::NotAsNamed`].
    pub fn part(&mut self) -> Result<Option<(SnapshotPart, u64, u32)>, SnapshotError> {
        if self.head()?.is_none() || self.ended {
            return Ok(None);
        }
        let offset = self.offset;
        let Some((part, len)) = self.word::<SnapshotPart>()? else { return Ok(None) };
        if let SnapshotPart::End { parts } = part {
            self.ended = true;
            return if parts == self.parts { Ok(None) } else { Err(SnapshotError::NotAsNamed) };
        }
        self.parts += 1;
        Ok(Some((part, offset, len)))
    }

    /// Whether the end was read, and nothing lies behind it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.ended && self.at == self.buffer.len()
    }

    fn word<W: Word>(&mut self) -> Result<Option<(W, u32)>, SnapshotError> {
        let rest = &self.buffer[self.at..];
        let Some(len) = codec::word_len::<W>(rest)?.filter(|&len| len <= rest.len()) else { return Ok(None) };
        let word = codec::decode(&rest[..len])?;
        self.at += len;
        self.offset += len as u64;
        Ok(Some((word, u32::try_from(len).expect("BODY_MAX fits in 32 bits"))))
    }
}

impl SnapshotHead {
    /// Of the state after `logs`, of which `nodes` are the node records.
    pub fn new<'a>(
        logs: BTreeMap<LogId, SnapshotLog>,
        records: impl Iterator<Item = (&'a RecordKey, &'a Record)>,
    ) -> Self {
        let members = records.filter_map(|(key, record)| match (key, record) {
            (RecordKey::Node(node), Record::Node(record)) if record.joined.is_some() && !record.removed => Some(*node),
            _ => None,
        });
        Self { format: FORMAT, logs, members: members.collect() }
    }

    /// Which entries are folded in.
    #[must_use]
    pub fn vector(&self) -> VersionVector {
        VersionVector(self.logs.iter().map(|(&log, state)| (log, state.head.seq)).collect())
    }
}

impl SnapshotName {
    fn digest(&self) -> ContentId {
        ContentId::of(&[CONTEXT, &encode_body(self)].concat())
    }

    /// Says with a signature that the owner of `identity` made this very snapshot.
    #[must_use]
    pub fn sign(&self, identity: &Identity) -> Vec<u8> {
        identity.sign_digest(self.digest())
    }

    /// Whether `signature` is what [`Self::sign`] gives for `node`.
    #[must_use]
    pub fn is_signed_by(&self, node: NodeId, signature: &[u8]) -> bool {
        is_signed(self.digest(), node, signature)
    }
}

impl SignedSnapshot {
    /// Whether every signature is right; who must have signed is told by the head, [`Self::check`].
    #[must_use]
    pub fn is_genuine(&self) -> bool {
        let right = |(&node, signature): (&NodeId, &Vec<u8>)| self.name.is_signed_by(node, signature);
        !self.signatures.is_empty() && self.signatures.iter().all(right)
    }

    /// Whether `head` begins what is named here, and enough of its members signed: two, or the only one.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn check(&self, head: &SnapshotHead) -> Result<(), SnapshotError> {
        if head.format != FORMAT || self.name.format != FORMAT {
            return Err(SnapshotError::Format);
        }
        if head.vector() != self.name.vector {
            return Err(SnapshotError::NotAsNamed);
        }
        let members = self.signatures.keys().filter(|node| head.members.contains(node)).count();
        if members >= SIGNERS || (members == 1 && head.members.len() == 1) {
            return Ok(());
        }
        Err(SnapshotError::Unsigned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ClusterRecord, NodeRecord};

    fn node_record(text: &str) -> Record {
        let log = LogId { author: NodeId([1; 32]), incarnation: 1 };
        let stamp = Stamp { hlc: Hlc::default(), position: crate::entry::Position { log, seq: 1 }, event: 0 };
        Record::Node(NodeRecord { joined: Some((stamp, text.to_owned(), String::new())), ..NodeRecord::default() })
    }

    fn identities() -> [Identity; 3] {
        [1, 2, 3].map(|seed| Identity::from_seed([seed; 32]))
    }

    fn any_snapshot(members: &[Identity]) -> (Vec<u8>, SnapshotHead, SnapshotName) {
        let records: Vec<(RecordKey, Record)> =
            members.iter().map(|member| (RecordKey::Node(member.node()), node_record("n"))).collect();
        let log = LogId { author: members[0].node(), incarnation: 3 };
        let state = SnapshotLog { head: Head { seq: 7, hash: ContentId([7; 32]) }, hlc: Hlc::default() };
        let head = SnapshotHead::new([(log, state)].into(), records.iter().map(|(key, record)| (key, record)));
        let (mut writing, mut bytes) = Writing::begin(head.clone());
        for (key, record) in records {
            bytes.extend(writing.part(&SnapshotPart::Record(key, Box::new(record))));
        }
        let cluster = Record::Cluster(ClusterRecord { secret_number: 4 });
        bytes.extend(writing.part(&SnapshotPart::Record(RecordKey::Cluster, Box::new(cluster))));
        bytes.extend(writing.part(&SnapshotPart::Inline(vec![1; 300])));
        let (last, name) = writing.end();
        bytes.extend(last);
        (bytes, head, name)
    }

    #[test]
    fn what_was_written_is_read_from_pieces_of_any_length() {
        let (bytes, head, name) = any_snapshot(&identities());
        assert_eq!((name.id, name.size), (ContentId::of(&bytes), bytes.len() as u64));
        for len in [1, 7, 100, bytes.len()] {
            let mut reading = Reading::default();
            let mut parts = Vec::new();
            for piece in bytes.chunks(len) {
                assert!(!reading.is_whole());
                reading.push(piece);
                while let Some((part, offset, len)) = reading.part().expect("sound") {
                    let from = usize::try_from(offset).expect("short");
                    assert_eq!(codec::decode(&bytes[from..from + len as usize]).as_ref(), Ok(&part));
                    parts.push(part);
                }
            }
            assert_eq!(reading.head().expect("sound"), Some(&head));
            assert_eq!(parts.len(), 5);
            assert!(reading.is_whole(), "pieces of {len}");
            reading.push(&[0]);
            assert!(!reading.is_whole(), "bytes after the end are noticed");
        }
    }

    #[test]
    fn a_snapshot_needs_two_of_its_members_or_its_only_one() {
        let [one, two, stranger] = identities();
        let signed = |name: &SnapshotName, by: &[&Identity]| SignedSnapshot {
            name: name.clone(),
            signatures: by.iter().map(|identity| (identity.node(), name.sign(identity))).collect(),
        };
        let (_, head, name) = any_snapshot(&[one.clone(), two.clone()]);
        assert_eq!(signed(&name, &[&one, &two]).check(&head), Ok(()));
        assert_eq!(signed(&name, &[&one]).check(&head), Err(SnapshotError::Unsigned));
        assert_eq!(signed(&name, &[&one, &stranger]).check(&head), Err(SnapshotError::Unsigned));
        let (_, alone, its_name) = any_snapshot(std::slice::from_ref(&one));
        assert_eq!(signed(&its_name, &[&one]).check(&alone), Ok(()));
        assert_eq!(signed(&its_name, &[&two]).check(&alone), Err(SnapshotError::Unsigned));
        let mut other = name.clone();
        other.vector.0.clear();
        assert_eq!(signed(&other, &[&one, &two]).check(&head), Err(SnapshotError::NotAsNamed));
    }

    #[test]
    fn a_signature_is_of_one_node_for_one_name() {
        let [one, two, _] = identities();
        let (.., name) = any_snapshot(&[one.clone(), two.clone()]);
        let mut signed = SignedSnapshot { signatures: [(one.node(), name.sign(&one))].into(), name };
        assert!(signed.is_genuine());
        signed.name.size += 1;
        assert!(!signed.is_genuine(), "another name");
        signed.name.size -= 1;
        let signature = signed.signatures[&one.node()].clone();
        signed.signatures.insert(two.node(), signature);
        assert!(!signed.is_genuine(), "another node");
        signed.signatures.clear();
        assert!(!signed.is_genuine(), "nobody");
    }
}
