//! The network shell (DESIGN §5): everything between this node and the others, behind one handle.
//!
//! Two planes. The *control plane* (`actor`, `control`) keeps a connection to every wanted node and carries
//! small opaque frames in order; the *bulk plane* (`bulk`) opens streams over connections of its own. Both go
//! through the *gate*, which lets in members of the cluster only. The node's loop reads [`Net::events`], the
//! shells that serve blobs and tails read [`Net::bulk`]. Deliberately absent: any decision about members, jobs
//! or the log, and any meaning of a frame.

mod actor;
mod addrs;
mod book;
mod bulk;
mod bulk_handler;
mod control;
mod control_handler;
mod events;
mod frames;
mod gate;
mod handle;
mod hello;
mod identity;
mod links;
mod outbox;
mod start;
mod transport;

pub use bulk::{BulkError, BulkProtocol, BulkStream, InboundBulk};
pub use control_handler::CONTROL_PROTOCOL;
pub use events::NetEvents;
pub use frames::FRAME_MAX;
pub use gate::GateRules;
pub use handle::{DialError, NetClosed, NetError, NetEvent, NetHandle};
pub use hello::Hello;
pub use identity::{Identity, IdentityError, load_or_create_identity, node_id_of, peer_id_of};
pub use libp2p::Multiaddr;
pub use outbox::{OUTBOX_BYTES_MAX, OUTBOX_FRAMES_MAX, SendError};
pub use start::{Net, NetConfig, start};
