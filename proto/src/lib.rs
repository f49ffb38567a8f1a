//! What two nodes must agree on: the words and the rules.
//!
//! The words are ids, capacities, job specifications, log entries and messages, each with a versioned
//! encoding. The rules are state machines: one input and the time go in, a list of effects comes out
//! ([`core::Core::step`]). Nothing here waits, opens, sends, prints, asks the clock or rolls its own dice;
//! the daemon and the simulator run the very same code.
#![warn(missing_docs)]

mod advert;
pub mod blob;
pub mod capacity;
mod checkpoint;
pub mod codec;
mod coordinator;
pub mod core;
pub mod core_io;
pub mod dependency;
pub mod entry;
pub mod event;
pub mod explain;
#[cfg(test)]
mod fixture;
mod holders;
pub mod id;
pub mod job;
pub mod keeping;
pub mod lease;
mod led;
pub mod log;
pub mod membership;
pub mod message;
mod outbox;
mod pace;
mod placement;
pub mod plant;
pub mod project;
mod pull;
pub mod record;
mod replication;
pub mod size;
pub mod snapshot;
pub mod snapshotting;
pub mod ticket;
pub mod time;
pub mod track;
pub mod value;
pub mod verdict;
pub mod view;
mod waiting;
mod worker;

pub use blob::{ContentId, Manifest, ManifestFile};
pub use capacity::{Capacity, Gpu, Requirement};
pub use core::Core;
pub use core_io::{Effect, Input, Now};
pub use id::{AttemptId, ClusterId, GroupId, JobId, Member, NodeId};
pub use job::{Ending, GroupSpec, JobState};
pub use project::{NOTE_MAX, NOTE_USER_MAX, NOTES_MAX, ProjectNote, ProjectRecord};
pub use size::ByteSize;
pub use time::{Hlc, Timestamp};
pub use value::{ValueKey, ValueNote, ValueRecord};
