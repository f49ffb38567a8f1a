//! The HTTP API of a node (DESIGN §12): JSON under [`API_PREFIX`], on a Unix socket in the data directory and
//! on loopback TCP. The command line uses this API alone.
//!
//! Read in this order: `routes.rs` (the one table that the router and the OpenAPI page are both made from),
//! `answers/` (a handler per route), `describe.rs` (records become words), `words/` (the JSON). `door.rs`
//! listens, `guard.rs` decides who may come in.
//!
//! Deliberately absent: any decision on a job, a member or an entry; the store, the network and the runner,
//! which only the node handle reaches.

pub(crate) mod answers;
mod describe;
mod door;
mod guard;
mod listing;
pub(crate) mod near;
mod openapi;
mod order;
mod refusal;
mod routes;
pub mod words;

use std::sync::Arc;

use crate::node::NodeHandle;

pub use door::{ApiFile, Door, DoorError};
pub use openapi::document;
pub use routes::{described_routes, router};

/// What every path of the API begins with.
pub const API_PREFIX: &str = "/api/fnode/v1";
/// What the paths of Atlas's tracker begin with.
pub const ATLAS_PREFIX: &str = "/api/v2beta";
/// The header of every answer that tells the version of the daemon's software.
pub const VERSION_HEADER: &str = "fnode-version";
/// The header of a log that tells which attempt wrote it, as `EPOCH.NUMBER`.
pub const ATTEMPT_HEADER: &str = "fnode-attempt";

/// What every handler may use. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The node.
    pub node: NodeHandle,
    /// Facts of this daemon that the node itself does not know.
    pub facts: Arc<Facts>,
}

/// Facts of a daemon, fixed when it starts.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Where other nodes reach it, as multiaddresses.
    pub addrs: Vec<String>,
    /// Its API on loopback, `127.0.0.1:PORT`.
    pub api: String,
    /// Its API as a Unix socket; empty: there is none.
    pub socket: String,
}
