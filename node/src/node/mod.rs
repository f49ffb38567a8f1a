//! A running node: it owns the start, the one loop, and the handle that everybody else holds.
//!
//! Start reading at [`start()`], then `actor.rs` (the loop), `attempts.rs` (a job from order to end),
//! `handle.rs` (what may be asked). Deliberately absent: any decision about a job, a member or an entry
//! (they are `proto`'s), and any word of HTTP or of the command line.

mod actor;
mod ask;
mod attempts;
pub mod attend;
mod blob_link;
pub(crate) mod bundle;
pub(crate) mod cached;
pub(crate) mod check;
mod checkpoints;
mod cluster;
mod collect;
mod config;
mod copies;
pub(crate) mod elsewhere;
pub(crate) mod evict;
mod flight;
pub(crate) mod gc;
mod handle;
pub(crate) mod hits;
mod home;
mod machine;
mod peers;
mod prepare;
mod ran_with;
mod secrets;
mod snapshots;
mod start;
mod tail;
mod times;
pub(crate) mod told;
pub(crate) mod tracking;
mod usage;
mod value_files;
mod value_socket;
mod values;
mod watch;

pub(crate) use actor::CLUSTER_STORY;
pub use cluster::{Cluster, ClusterError};
pub use config::{API_PORT, Config, P2P_PORT};
pub use elsewhere::Places;
pub use gc::Retention;
pub use handle::{Accepted, NodeError, NodeHandle, NodeNews, Resolved, ViewSnapshot, unix_ms};
pub use home::Home;
pub use ran_with::{LeasedGpu, RanWith};
pub use secrets::{SECRET_MAX, SecretError, Secrets};
pub use start::{Running, StartError, start};
pub use tail::LogChunk;
