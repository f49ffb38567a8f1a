//! What goes into the core and what comes out: data, in the order in which it must be done.

use crate::capacity::{Capacity, Reservation};
use crate::entry::{Position, VerifiedEntry};
use crate::event::{AttemptFinished, Event, JobOutcome};
use crate::id::{AttemptId, GroupId, JobId, NodeId};
use crate::job::{BundleRef, GroupSpec};
use crate::keeping::Left;
use crate::log::EntryRange;
use crate::message::{Accepting, Message};
use crate::record::{GroupRecord, JobRecord, Record, RecordKey};
use crate::snapshot::{SnapshotInput, SnapshotOrder};
use crate::time::Timestamp;

/// Names a request of this node's own users until it is answered; unique per daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a batch of entries on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreTicket(pub u64);

/// The time, as the shell read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For leases, graces and timeouts.
    pub at: Timestamp,
    /// For people and for the hybrid clock: milliseconds since 1970.
    pub unix_ms: u64,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed; asked for with [`Effect::WakeAt`], harmless at any time.
    Tick,
    /// A message came.
    Received {
        /// From whom; the transport vouches for it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Entries came whose signatures were checked outside, where that can be done on many cores.
    Entries {
        /// From whom.
        from: NodeId,
        /// In order per log.
        entries: Vec<VerifiedEntry>,
        /// Whether they are news to forward (gossip), not an answer.
        fresh: bool,
        /// Whether the sender has more.
        more: bool,
    },
    /// A control stream to a node opened.
    Connected(NodeId),
    /// The last control stream to a node closed: never by itself the death of a machine.
    Disconnected(NodeId),
    /// The host of a node refused the connection: the daemon is down, its runner presumed alive.
    Refused(NodeId),
    /// A user submits a group. The bundle is on this node's disk.
    Submit {
        /// Answered with [`Answer::Accepted`].
        request: RequestId,
        /// Made by the shell from its clock and its dice.
        group: GroupId,
        /// What to run.
        spec: Box<GroupSpec>,
        /// Small blobs of the bundle that ride in the entry.
        inline: Vec<Vec<u8>>,
    },
    /// A user changes something that any node may write: answered with [`Answer::Written`].
    Write {
        /// Which request.
        request: RequestId,
        /// What to append.
        event: Event,
    },
    /// Entries of [`Effect::Store`] are durable and folded.
    Stored {
        /// Which batch, and with it all before.
        ticket: StoreTicket,
        /// Every record that the batch changed, as it is now.
        changed: Vec<(RecordKey, Record)>,
    },
    /// The bundle of [`Effect::Fetch`] is durable here, or cannot be had.
    Fetched {
        /// As asked.
        position: Position,
        /// As asked.
        bundle: BundleRef,
        /// Whether all of it is here.
        complete: bool,
    },
    /// The copy of [`Effect::Keep`] is durable here or not needed, or cannot be had now.
    Kept {
        /// As asked.
        left: Box<Left>,
        /// Whether nothing is left to be done.
        complete: bool,
    },
    /// An answer to [`Effect::Review`].
    Reviewed(Vec<Left>),
    /// An answer to [`Effect::LookUp`].
    LookedUp {
        /// As asked.
        job: JobId,
        /// The group; `None`: not known here.
        group: Option<Box<GroupRecord>>,
        /// The member's record, for a member of an array.
        record: Option<Box<JobRecord>>,
    },
    /// The runner was asked what it holds; comes once, before any offer is accepted.
    Adopted {
        /// Every attempt whose process runs, or whose end nobody has heard yet.
        attempts: Vec<Adopted>,
    },
    /// The process of an attempt started.
    Started {
        /// Which.
        attempt: AttemptId,
        /// Milliseconds since 1970.
        started_unix_ms: u64,
    },
    /// The checkpoint directory of an attempt is stored here, durably.
    Checkpoint {
        /// Which attempt.
        attempt: AttemptId,
        /// The directory.
        bundle: BundleRef,
        /// When, in milliseconds since 1970.
        saved_unix_ms: u64,
    },
    /// An attempt ended and everything that it leaves is stored here.
    Ended {
        /// How.
        finished: Box<AttemptFinished>,
        /// What of it rides in the entry: its log when that is small.
        inline: Vec<Vec<u8>>,
    },
    /// This node's capacity changed.
    Capacity(Box<Capacity>),
    /// This node's own word on whether it takes work changed (`fnode pause`).
    Accepting(Accepting),
    /// What came of a [`SnapshotOrder`].
    Snapshot(SnapshotInput),
    /// Where this node can be dialled changed.
    Addrs(Vec<String>),
    /// Which bundles are here whole changed: prefixes of their manifests.
    Bundles(Vec<[u8; 8]>),
    /// The daemon is about to end: tell the others.
    Leave,
}

/// An attempt that the runner held while no daemon ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Which.
    pub attempt: AttemptId,
    /// What it runs, as the daemon that started it noted.
    pub spec: Box<GroupSpec>,
    /// What it holds: nothing once it has ended.
    pub reservation: Reservation,
    /// When its process started.
    pub started_unix_ms: u64,
}

/// What the shell must do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send a message. May be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Make entries durable, fold them, then say [`Input::Stored`]. Batches keep their order.
    Store {
        /// To be named in the answer.
        ticket: StoreTicket,
        /// In order.
        entries: Vec<VerifiedEntry>,
    },
    /// Read entries and send them as [`Message::Entries`], as many as the shell's limit allows.
    SendEntries {
        /// To whom.
        to: NodeId,
        /// Which.
        ranges: Vec<EntryRange>,
    },
    /// Run an attempt: fetch what it needs, prepare, start; then [`Input::Started`], [`Input::Ended`].
    Run(Box<Run>),
    /// Stop an attempt that was run, however far it got; [`Input::Ended`] still comes.
    Halt(AttemptId),
    /// Get a bundle onto this disk from this node, then say [`Input::Fetched`].
    Fetch {
        /// To be named in the answer.
        position: Position,
        /// What.
        bundle: BundleRef,
        /// From whom.
        from: NodeId,
    },
    /// Get what a job left onto this disk, durably, then say [`Input::Kept`].
    Keep {
        /// What.
        left: Box<Left>,
        /// Nodes that may have it, likeliest first.
        providers: Vec<NodeId>,
        /// Whether two of these nodes having all of it is as good.
        unless_held: bool,
    },
    /// Find what the newest ended jobs left, a bounded number of them, then say [`Input::Reviewed`].
    Review {
        /// Of jobs that ended then or later: milliseconds since 1970.
        oldest_unix_ms: u64,
    },
    /// About snapshots.
    Snapshot(SnapshotOrder),
    /// Read records of a job that is not alive, then say [`Input::LookedUp`].
    LookUp(JobId),
    /// Answer a user's request.
    Reply {
        /// Which.
        request: RequestId,
        /// With what.
        answer: Answer,
    },
    /// Say [`Input::Tick`] at this time at the latest.
    WakeAt(Timestamp),
    /// Something that people or logs may want to know; nothing depends on it.
    News(News),
}

/// An attempt to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Which.
    pub attempt: AttemptId,
    /// What.
    pub spec: GroupSpec,
    /// What it may use.
    pub reservation: Reservation,
    /// Where the submission stands: bundles that ride in the entry are read there.
    pub position: Position,
    /// Nodes that are likely to have the bundle, likeliest first.
    pub providers: Vec<NodeId>,
    /// From where it goes on; `None`: from the beginning.
    pub checkpoint: Option<RunCheckpoint>,
}

/// What an earlier attempt left to go on from.
#[derive(Clone, Debug, PartialEq)]
pub struct RunCheckpoint {
    /// What its directory held, the newest first, and where it was made.
    pub bundles: Vec<(NodeId, BundleRef)>,
    /// Nodes that may have it, likeliest first.
    pub providers: Vec<NodeId>,
}

/// An answer to a user's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The group is accepted: it is on the disks of these nodes.
    Accepted {
        /// This node first. One alone: no other could be had in time, or there is none.
        held_by: Vec<NodeId>,
    },
    /// The change is on this node's disk and on its way to the others.
    Written,
}

/// What people or logs may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A node is up.
    NodeUp(NodeId),
    /// A node was declared dead.
    NodeDown(NodeId),
    /// This node coordinates a group from now on.
    TookOver(GroupId),
    /// A node forked its log: a cloned disk or a stolen key. Nothing of it is taken any more.
    Quarantined(NodeId),
    /// This node appended these outcomes.
    Decided(GroupId, Vec<JobOutcome>),
    /// This node starts from a new snapshot.
    Snapshot {
        /// How many entries it covers.
        entries: u64,
        /// How many members made it by themselves; one only where there is no other.
        signers: usize,
    },
    /// This node has the same entries as this one and another state: a bug, or a damaged disk.
    Diverged(NodeId),
    /// An entry of this node was refused for its signature.
    BadEntry(NodeId),
}
