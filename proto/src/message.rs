//! What nodes say to each other on the control stream: ordered per peer, at most once, lost at any time.
//! Whatever is lost is said again or repaired by comparing version vectors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::blob::ContentId;
use crate::capacity::{Capacity, Lack, Requirement, Reservation};
use crate::codec::Word;
use crate::entry::{Position, SignedEntry};
use crate::id::{AttemptId, GroupId, Member, NodeId};
use crate::job::{BundleRef, GroupSpec};
use crate::log::{EntryRange, VersionVector};
use crate::record::CheckpointMap;
use crate::snapshot::SnapshotWord;
use crate::ticket::Secret;

/// Largest message: one frame of the control stream.
pub const MESSAGE_MAX: usize = 1 << 20;

/// One message. Variants are append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A packet of the membership protocol, opaque here.
    Membership(Vec<u8>),
    /// Entries that the sender has just made durable; forwarded by who did not know them (gossip).
    Fresh(Vec<SignedEntry>),
    /// Entries that were asked for. `more`: the answer was cut, ask again.
    Entries {
        /// In order per log.
        entries: Vec<SignedEntry>,
        /// Whether there is more of what was asked for.
        more: bool,
    },
    /// Digest of the sender's version vector; a node with another one answers with [`Message::Vector`].
    Digest(ContentId),
    /// What the sender has on disk. The receiver sends what is missing there and asks for what is missing here.
    Vector(VersionVector),
    /// Please send these entries.
    Want(Vec<EntryRange>),
    /// The sender has these entries of the receiver on disk.
    Held(Vec<Position>),
    /// Please become a holder: answer once the entry, all before it and the whole bundle are on your disk.
    Hold {
        /// Where the submission stands in the sender's log.
        position: Position,
        /// What it needs; `None`: no bundle, or one that rides in the entry.
        bundle: Option<BundleRef>,
    },
    /// The sender holds what was asked with [`Message::Hold`].
    HoldDone {
        /// As asked.
        position: Position,
        /// As asked: one entry may carry several submissions, each with its bundle.
        bundle: Option<BundleRef>,
    },
    /// The sender's capacity.
    Advert(Box<Advert>),
    /// A coordinator offers jobs to a worker.
    Offer(Box<Offer>),
    /// The worker's last word.
    OfferReply(Box<OfferReply>),
    /// Jobs that wait at the sender, a coordinator; replaces what it said before.
    Demands(Vec<Demand>),
    /// A worker with room asks for jobs.
    Claim {
        /// Of which group.
        group: GroupId,
        /// At most so many.
        count: u32,
    },
    /// A coordinator no longer wants these attempts.
    Cancel(Vec<AttemptId>),
    /// The sender coordinates this group now.
    TakeOver {
        /// Which.
        group: GroupId,
        /// Its epoch.
        epoch: u32,
    },
    /// What a worker holds of a group that was taken over.
    TakeOverReply {
        /// Which.
        group: GroupId,
        /// As told.
        epoch: u32,
        /// Every attempt that it holds: waiting, running, or ended a moment ago.
        holding: Vec<AttemptId>,
    },
    /// The cluster's secret as the sender knows it, from member to member: it never enters the log.
    Secret(Secret),
    /// Where members can be dialled, as far as the sender knows: multiaddresses, at most
    /// [`ADDRESSED_MAX`] members. A node that joins through one member finds the others so.
    Addrs(Vec<(NodeId, Vec<String>)>),
    /// The sender's daemon ends on purpose; what its runner has started goes on and waits to be adopted.
    Leaving,
    /// About snapshots.
    Snapshot(SnapshotWord),
}

/// Most members in one [`Message::Addrs`]: with eight addresses each it stays below [`MESSAGE_MAX`].
pub const ADDRESSED_MAX: usize = 512;

/// A node's capacity record: owner-written, versioned, replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// The daemon's life, then a count: the greater record is the newer.
    pub version: (u64, u64),
    /// For people; host name by default.
    pub name: String,
    /// Version of its software.
    pub software: String,
    /// What it offers in all.
    pub capacity: Capacity,
    /// What is taken of it.
    pub used: Reservation,
    /// Whether it takes work.
    pub accepting: Accepting,
    /// Where it can be dialled, as multiaddresses.
    pub addrs: Vec<String>,
    /// First eight bytes of the manifests that it has whole, at most [`BUNDLES_MAX`].
    pub bundles: Vec<[u8; 8]>,
}

/// Most bundles named in an [`Advert`]: the latest used ones; 512 bytes.
pub const BUNDLES_MAX: usize = 64;

/// Whether a node takes work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Accepting {
    /// It does not know yet what its runner still holds.
    #[default]
    Starting,
    /// Yes.
    Yes,
    /// Its owner comes first now.
    Paused,
    /// It finishes what it has.
    Draining,
}

impl Accepting {
    /// Whether a job that asks for this is taken. One that asks for no processor at all runs there already, started by
    /// hand, and is only attended: the owner who paused the machine may well be its user.
    #[must_use]
    pub fn takes(self, requirement: &Requirement) -> bool {
        self == Self::Yes || (requirement.cpu_milli == 0 && self != Self::Starting)
    }
}

/// Jobs of one group for one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Which group.
    pub group: GroupId,
    /// Of the offering coordinator.
    pub epoch: u32,
    /// Which jobs, and the number of the attempt that is offered.
    pub members: Vec<(Member, u32)>,
    /// From where those go on that have a checkpoint: their records may not have come to the worker yet.
    pub checkpoints: BTreeMap<Member, CheckpointMap>,
    /// What to run.
    pub spec: GroupSpec,
    /// Where the submission stands: bundles that ride in the entry are read there.
    pub position: Position,
}

/// What a worker says to an [`Offer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferReply {
    /// Which group.
    pub group: GroupId,
    /// As offered.
    pub epoch: u32,
    /// Claimed: they will be run. With the attempt's number, as offered.
    pub accepted: Vec<(Member, u32)>,
    /// Not claimed.
    pub refused: Vec<(Member, u32)>,
    /// Why.
    pub lacks: Vec<Lack>,
}

/// Jobs that wait for a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Of which group.
    pub group: GroupId,
    /// How many.
    pub waiting: u32,
    /// What each asks for.
    pub requirement: Requirement,
    /// Who submitted them.
    pub user: String,
    /// For which project.
    pub project: String,
    /// Higher first.
    pub priority: i32,
    /// Milliseconds since 1970 at which the group was made.
    pub submitted_unix_ms: u64,
}

impl Word for Message {
    const KIND: u16 = 13;
    const MAX: usize = MESSAGE_MAX - 64;
}

impl Advert {
    /// Labels, the owner's and those that users gave.
    #[must_use]
    pub fn capacity_with(&self, labels: Option<&BTreeMap<String, String>>) -> Capacity {
        let mut capacity = self.capacity.clone();
        if let Some(labels) = labels {
            capacity.labels.extend(labels.clone());
        }
        capacity
    }

    /// Whether it has this bundle whole, as far as its list tells.
    #[must_use]
    pub fn has_bundle(&self, manifest: ContentId) -> bool {
        self.bundles.iter().any(|prefix| manifest.0.starts_with(prefix))
    }

    /// The node that `name` names: by id, id prefix of at least eight digits, or name.
    #[must_use]
    pub fn is_called(&self, node: NodeId, name: &str) -> bool {
        self.name == name || (name.len() >= 8 && node.to_string().starts_with(name))
    }
}
