//! Log entries: what an author signs, chains and sends.
//!
//! An entry is one commit of its author: every event that came while the last one was being synced.
//! It names the hash of the entry before it, so a log cannot be forked or cut without being noticed.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::blob::ContentId;
use crate::codec::{self, DecodeError, Word};
use crate::event::{EVENT_MAX, Event, Frame};
use crate::id::NodeId;
use crate::plant::{self, Plant};
use crate::time::Hlc;

/// Events are gathered into one entry up to this many bytes; one larger event has an entry of its own.
pub const ENTRY_TARGET: usize = 48 << 10;
/// Largest encoded entry.
pub const ENTRY_MAX: usize = EVENT_MAX + ENTRY_TARGET + 1024;

/// A node's key pair; signs entries. Its public half is the [`NodeId`].
#[derive(Clone)]
pub struct Identity(SigningKey);

/// One log: what an author wrote in one life. A life starts when the daemon starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// Who writes it.
    pub author: NodeId,
    /// Greater with every start of the daemon: max(stored + 1, start time in ms).
    pub incarnation: u64,
}

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Which log.
    pub log: LogId,
    /// Counts its entries from 1.
    pub seq: u64,
}

/// What an author signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it stands.
    pub position: Position,
    /// When it was written, by its author's hybrid clock.
    pub hlc: Hlc,
    /// Hash of the entry before it in this log; zeros for the first.
    pub prev: ContentId,
    /// What changed, in order.
    pub frames: Vec<Frame>,
}

/// An entry as it is stored and sent: the very bytes that were signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedEntry {
    /// The encoded [`Entry`].
    pub bytes: Vec<u8>,
    /// Ed25519 over the BLAKE3 hash of `bytes` (64 bytes).
    pub signature: Vec<u8>,
}

/// An entry whose signature was checked. Only these reach a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedEntry {
    signed: SignedEntry,
    entry: Entry,
    hash: ContentId,
    events: Vec<Event>,
}

/// Why an entry is refused before any rule sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The bytes are no entry, or hold a malformed event.
    #[error("malformed entry: {0}")]
    Decode(#[from] DecodeError),
    /// Its author's key does not confirm it.
    #[error("the signature of an entry of node {} is wrong", .0.short())]
    Signature(NodeId),
}

impl Word for Entry {
    const KIND: u16 = 10;
    const MAX: usize = ENTRY_MAX;
}

impl Word for SignedEntry {
    const KIND: u16 = 11;
    const MAX: usize = ENTRY_MAX + 128;
}

impl Identity {
    /// The key pair of a 32-byte Ed25519 seed.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Its public half.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Ed25519 over a digest that no entry can have: the caller hashed a context of its own in front.
    pub(crate) fn sign_digest(&self, digest: ContentId) -> Vec<u8> {
        self.0.sign(&digest.0).to_bytes().to_vec()
    }

    /// Signs `entry`.
    #[must_use]
    pub fn sign(&self, entry: Entry) -> VerifiedEntry {
        let bytes = codec::encode(&entry);
        let hash = ContentId::of(&bytes);
        let signature = self.0.sign(&hash.0).to_bytes().to_vec();
        let events = entry.frames.iter().cloned().map(Event::from_frame).collect::<Result<_, _>>();
        let events = events.expect("events that were just encoded decode again");
        VerifiedEntry { signed: SignedEntry { bytes, signature }, entry, hash, events }
    }
}

/// Whether `signature` is what [`Identity::sign_digest`] gives for `node`.
pub(crate) fn is_signed(digest: ContentId, node: NodeId, signature: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (VerifyingKey::from_bytes(&node.0), Signature::from_slice(signature)) else {
        return false;
    };
    key.verify_strict(&digest.0, &signature).is_ok()
}

impl std::fmt::Debug for Identity {
    /// Never prints the secret half.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.node().short())
    }
}

impl SignedEntry {
    /// Checks encoding and signature.
    ///
    /// # Errors
    /// [`EntryError`]; nothing of a refused entry may be used.
    pub fn verify(self) -> Result<VerifiedEntry, EntryError> {
        let entry: Entry = codec::decode(&self.bytes)?;
        let hash = ContentId::of(&self.bytes);
        let author = entry.position.log.author;
        let refuse = || EntryError::Signature(author);
        if !plant::is_planted(Plant::UnsignedEntries) {
            let key = VerifyingKey::from_bytes(&author.0).map_err(|_| refuse())?;
            let signature = Signature::from_slice(&self.signature).map_err(|_| refuse())?;
            key.verify_strict(&hash.0, &signature).map_err(|_| refuse())?;
        }
        self.into_verified(entry, hash)
    }

    /// For entries read back from this node's own checksummed journal, where they were put after [`Self::verify`].
    ///
    /// # Errors
    /// The bytes are no entry.
    pub fn trust(self) -> Result<VerifiedEntry, EntryError> {
        let entry: Entry = codec::decode(&self.bytes)?;
        let hash = ContentId::of(&self.bytes);
        self.into_verified(entry, hash)
    }

    fn into_verified(self, entry: Entry, hash: ContentId) -> Result<VerifiedEntry, EntryError> {
        let events = entry.frames.iter().cloned().map(Event::from_frame).collect::<Result<_, _>>()?;
        Ok(VerifiedEntry { signed: self, entry, hash, events })
    }
}

impl VerifiedEntry {
    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.entry.position
    }

    /// When it was written, by its author's hybrid clock.
    #[must_use]
    pub fn hlc(&self) -> Hlc {
        self.entry.hlc
    }

    /// Hash of the entry before it.
    #[must_use]
    pub fn prev(&self) -> ContentId {
        self.entry.prev
    }

    /// Its own hash, which the next entry names.
    #[must_use]
    pub fn hash(&self) -> ContentId {
        self.hash
    }

    /// What it changes, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The bytes to store and send.
    #[must_use]
    pub fn signed(&self) -> &SignedEntry {
        &self.signed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(identity: &Identity) -> Entry {
        Entry {
            position: Position { log: LogId { author: identity.node(), incarnation: 3 }, seq: 1 },
            hlc: Hlc { unix_ms: 5, counter: 0 },
            prev: ContentId([0; 32]),
            frames: vec![Event::SecretRotated { number: 1 }.to_frame()],
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let identity = Identity::from_seed([1; 32]);
        let signed = identity.sign(entry(&identity)).signed().clone();
        assert!(signed.clone().verify().is_ok());
        for at in 0..signed.bytes.len() {
            let mut torn = signed.clone();
            torn.bytes[at] ^= 1;
            assert!(torn.verify().is_err(), "byte {at}");
        }
    }

    #[test]
    fn nobody_signs_for_another() {
        let (one, other) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
        let forged = other.sign(entry(&one)).signed().clone();
        assert_eq!(forged.verify(), Err(EntryError::Signature(one.node())));
    }
}
