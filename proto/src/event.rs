//! Events: the only things that change the cluster's replicated state. A node appends those it alone
//! may write to its own log; ARCHITECTURE.md keeps the table of who writes what and how it merges.
//!
//! Each is framed `{kind u16, version u8, len u32}`, so a node stores and forwards kinds that it does not
//! know yet and folds them after an upgrade.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::blob::ContentId;
use crate::codec::{DecodeError, decode_body, encode_body};
use crate::id::{AttemptId, GroupId, JobId, Member, NodeId};
use crate::job::{BundleRef, Ending, GroupSpec, LostReason, Usage};
use crate::project::ProjectNote;
use crate::track::Tracked;
use crate::value::{ValueKey, ValueNote};

/// Largest event, in bytes: a specification with its inline bundle, with room to spare.
pub const EVENT_MAX: usize = 256 << 10;
/// Bundles, logs and cached values up to this many bytes ride in the journal itself (DESIGN §8).
pub const INLINE_MAX: usize = 16 << 10;

/// One change of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A group of jobs was accepted. Written by the accepting node, which coordinates it with epoch 1.
    GroupSubmitted {
        /// The new group.
        group: GroupId,
        /// What to run.
        spec: Box<GroupSpec>,
        /// Small blobs of the bundle, manifest first, when all of it fits in [`INLINE_MAX`].
        inline: Vec<Vec<u8>>,
    },
    /// The writer coordinates the group from now on, with this epoch.
    TookOver {
        /// The group.
        group: GroupId,
        /// Higher than any epoch that the writer knew of.
        epoch: u32,
    },
    /// The writer, a worker, started an attempt.
    AttemptStarted {
        /// Which.
        attempt: AttemptId,
        /// Milliseconds since 1970, by the worker's clock.
        started_unix_ms: u64,
    },
    /// The writer, a worker, saw an attempt end.
    AttemptFinished {
        /// How, and what it left.
        finished: Box<AttemptFinished>,
        /// Its log when that fits in [`INLINE_MAX`], and the log's times. The record keeps only the [`LogRef`]: memory
        /// does not grow with logs.
        inline: Vec<Vec<u8>>,
    },
    /// The writer, a coordinator, gave an attempt up.
    AttemptLost {
        /// Which.
        attempt: AttemptId,
        /// Where it was claimed or ran.
        worker: NodeId,
        /// Why.
        reason: LostReason,
    },
    /// The writer, a coordinator, says how jobs of a group ended.
    Outcomes {
        /// The group.
        group: GroupId,
        /// The coordinator's epoch.
        epoch: u32,
        /// Each job at most once.
        jobs: Vec<JobOutcome>,
    },
    /// A user wants a job, or with [`Member::Only`] a whole group, to stop. Written by any node.
    StopWished {
        /// What.
        job: JobId,
    },
    /// A user changed what people see of a job or of a whole group. Written by any node; last writer wins per mark.
    Marked {
        /// What.
        job: JobId,
        /// The change.
        mark: Mark,
    },
    /// A user described a project. Written by any node; last writer wins.
    ProjectDescribed {
        /// Its name.
        project: String,
        /// Free text.
        description: String,
    },
    /// The writer is a member of the cluster. Written at each start.
    MemberJoined {
        /// For people; host name by default.
        name: String,
        /// Version of its software.
        software: String,
    },
    /// A member is shut out for ever. Written by any node; a tombstone.
    MemberRemoved {
        /// Who.
        node: NodeId,
    },
    /// A member's labels. Written by any node; last writer wins.
    MemberLabelled {
        /// Who.
        node: NodeId,
        /// All labels that users gave; the owner's own come with its capacity.
        labels: BTreeMap<String, String>,
    },
    /// Whether a member finishes its work and takes no more. Written by any node; last writer wins.
    MemberDrained {
        /// Who.
        node: NodeId,
        /// True: takes no more.
        drained: bool,
    },
    /// The cluster's secret has a new number. The secret itself never enters the log.
    SecretRotated {
        /// Its number; the highest counts.
        number: u32,
    },
    /// The writer, a worker, has stored what is in the checkpoint directory of an attempt that it runs.
    CheckpointSaved {
        /// Which.
        attempt: AttemptId,
        /// Counts the checkpoints of the attempt from 1.
        number: u32,
        /// The directory.
        bundle: BundleRef,
        /// Milliseconds since 1970, by the worker's clock.
        saved_unix_ms: u64,
    },
    /// The writer, a worker, says what an attempt told of itself so far. The highest revision wins.
    AttemptTracked {
        /// Which.
        attempt: AttemptId,
        /// What it told.
        tracked: Box<Tracked>,
    },
    /// The writer has computed the value of a key, or was handed it by a program on its machine.
    ValueMade {
        /// Of which call.
        key: ValueKey,
        /// What it is.
        value: Box<ValueNote>,
        /// Its bytes when they fit in [`INLINE_MAX`]. The record keeps only their hash.
        inline: Vec<Vec<u8>>,
    },
    /// A user wants no value of this key that was made before. Written by any node; a tombstone up to its stamp.
    ValuePurged {
        /// Of which call.
        key: ValueKey,
    },
    /// A user wrote a note on a project. Written by any node; the latest are kept.
    ProjectNoted {
        /// Its name.
        project: String,
        /// Who wrote what.
        note: Box<ProjectNote>,
    },
    /// A user wants the value of this key never to be evicted, or does not mind any more. Written by any node.
    ValueKept {
        /// Of which call.
        key: ValueKey,
        /// Whether it is.
        kept: bool,
    },
    /// A kind or version that this software does not know: kept and forwarded, not folded.
    Unknown(Frame),
}

/// How and with what an attempt ended, as its worker saw it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptFinished {
    /// Which.
    pub attempt: AttemptId,
    /// How it ended.
    pub ending: Ending,
    /// What it used.
    pub usage: Usage,
    /// Milliseconds since 1970, by the worker's clock; 0 when it never started.
    pub started_unix_ms: u64,
    /// Milliseconds since 1970, by the worker's clock.
    pub ended_unix_ms: u64,
    /// Files that it made or changed; `None`: none or not kept.
    pub outputs: Option<BundleRef>,
    /// Its log, sealed.
    pub log: Option<LogRef>,
    /// What it ran with (machine, graphics processors, packages): JSON text in a small blob that rides in this event or
    /// in an earlier one of the same worker, for it is the same for most. `None`: not told.
    pub ran_with: Option<ContentId>,
}

/// A job's sealed log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogRef {
    /// The blob that holds it.
    pub content: ContentId,
    /// Its length in bytes.
    pub size: u64,
    /// When its lines were written, as a small blob that rides in the same event; `None`: within a second.
    pub times: Option<ContentId>,
}

/// How one job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOutcome {
    /// Which of its group.
    pub member: Member,
    /// The attempt that counts, and where it ran; `None`: none ever ran.
    pub attempt: Option<(AttemptId, NodeId)>,
    /// How it ended.
    pub ending: Ending,
}

/// What people see of a job beside how it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// Hidden from listings by default.
    Archived(bool),
    /// Gone for people; its record stays as a tombstone.
    Deleted,
    /// A tag is put on, or changes its value.
    Tagged {
        /// The tag.
        key: String,
        /// Its value, may be empty.
        value: String,
    },
    /// The tag is taken off.
    Untagged {
        /// The tag.
        key: String,
    },
    /// Free text.
    Noted(String),
    /// Its blobs are not collected.
    Kept(bool),
}

impl LogRef {
    /// Whether it rides in the journal: then every node that has the record of its attempt has it, too.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.size <= INLINE_MAX as u64
    }
}

/// An event as it is stored and sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Which word; append-only.
    pub kind: u16,
    /// Which layout of it.
    pub version: u8,
    /// The event in bincode's standard configuration, at most [`EVENT_MAX`] bytes.
    pub body: Vec<u8>,
}

impl Event {
    /// Whether it must be stamped above what its author has heard of: the last writer wins, a purge hides what was made
    /// before it, a value that is made after a purge is not hidden, and a note answers those that its writer saw.
    #[must_use]
    pub fn overwrites(&self) -> bool {
        matches!(
            self,
            Self::Marked { .. }
                | Self::ProjectDescribed { .. }
                | Self::ProjectNoted { .. }
                | Self::MemberLabelled { .. }
                | Self::MemberDrained { .. }
                | Self::ValueMade { .. }
                | Self::ValuePurged { .. }
                | Self::ValueKept { .. }
        )
    }

    /// Small blobs that ride in it. They are found again by their content, not by the event that brought them.
    #[must_use]
    pub fn inline(&self) -> &[Vec<u8>] {
        match self {
            Self::GroupSubmitted { inline, .. }
            | Self::AttemptFinished { inline, .. }
            | Self::ValueMade { inline, .. } => inline,
            _ => &[],
        }
    }
}

macro_rules! frames {
    ($($kind:literal => $variant:ident $({ $($field:ident),* })? $(($inner:ident))?),* $(,)?) => {
        impl Event {
            /// The highest kind that this software folds.
            pub const KINDS: u16 = { let kinds = [$($kind),*]; kinds[kinds.len() - 1] };

            /// The event as it is stored and sent.
            #[must_use]
            pub fn to_frame(&self) -> Frame {
                match self {
                    $(Self::$variant $({ $($field),* })? $(($inner))? => Frame {
                        kind: $kind,
                        version: 1,
                        body: encode_body(&($($($field,)*)? $($inner,)?)),
                    },)*
                    Self::Unknown(frame) => frame.clone(),
                }
            }

            /// The event in `frame`; [`Event::Unknown`] for kinds and versions of newer software.
            ///
            /// # Errors
            /// A known kind whose body is malformed or larger than [`EVENT_MAX`].
            pub fn from_frame(frame: Frame) -> Result<Self, DecodeError> {
                if frame.body.len() > EVENT_MAX {
                    return Err(DecodeError::TooLong { len: frame.body.len(), max: EVENT_MAX });
                }
                Ok(match (frame.kind, frame.version) {
                    $(($kind, 1) => {
                        let ($($($field,)*)? $($inner,)?) = decode_body(&frame.body)?;
                        Self::$variant $({ $($field),* })? $(($inner))?
                    })*
                    _ => Self::Unknown(frame),
                })
            }
        }
    };
}

frames! {
    1 => GroupSubmitted { group, spec, inline },
    2 => TookOver { group, epoch },
    3 => AttemptStarted { attempt, started_unix_ms },
    4 => AttemptFinished { finished, inline },
    5 => AttemptLost { attempt, worker, reason },
    6 => Outcomes { group, epoch, jobs },
    7 => StopWished { job },
    8 => Marked { job, mark },
    9 => ProjectDescribed { project, description },
    10 => MemberJoined { name, software },
    11 => MemberRemoved { node },
    12 => MemberLabelled { node, labels },
    13 => MemberDrained { node, drained },
    14 => SecretRotated { number },
    15 => CheckpointSaved { attempt, number, bundle, saved_unix_ms },
    16 => AttemptTracked { attempt, tracked },
    17 => ValueMade { key, value, inline },
    18 => ValuePurged { key },
    19 => ProjectNoted { project, note },
    20 => ValueKept { key, kept },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_newer_software_are_kept_as_they_are() {
        let frame = Frame { kind: 999, version: 3, body: vec![1, 2, 3] };
        let event = Event::from_frame(frame.clone()).expect("kept");
        assert_eq!(event.to_frame(), frame);
    }

    #[test]
    fn trailing_and_missing_bytes_are_refused() {
        let mut frame = Event::SecretRotated { number: 7 }.to_frame();
        frame.body.push(0);
        assert_eq!(Event::from_frame(frame.clone()), Err(DecodeError::Trailing(1)));
        frame.body.clear();
        assert_eq!(Event::from_frame(frame), Err(DecodeError::Body));
    }
}
