//! Bundles, results and logs as files named by the BLAKE3 hash of their bytes.
//!
//! Read in this order: [`BlobStore`] (`store.rs`: layout and what is durable when), `pack.rs` and
//! `unpack.rs` (a directory becomes a manifest and back), `fetch.rs` with `serve.rs` (verified transfer
//! over any byte stream), `gc.rs`. The node's loop calls all of it; the net shell implements
//! [`OpenStream`] and hands incoming streams to [`serve()`].
//!
//! Deliberately absent: libp2p, the log, and any decision on what is kept or who holds what.
//! Methods of [`BlobStore`] block on the disk and belong on blocking threads; [`fetch()`] and [`serve()`]
//! are futures that move their disk work there themselves.

mod archive;
mod error;
mod fetch;
mod gc;
mod outputs;
mod pack;
mod partial;
mod pipe;
mod plan;
mod serve;
mod session;
mod space;
mod stat_cache;
mod store;
mod survey;
mod tree;
mod unpack;
mod walk;
mod whole;
mod wire;

#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod transfer_tests;

pub use archive::{Archived, archive};
pub use error::{BlobError, PackError, UnpackError};
pub use fetch::{FetchError, FetchProgress, Fetched, OpenStream, Patience, ProviderFailure, Wanted, fetch, fetch_with};
pub use gc::{Freed, Sweep, SweepUntil, Usage};
pub use outputs::{Outputs, SkipReason, Skipped};
pub use pack::{PackProgress, Packed};
pub use serve::{ServeError, serve};
pub use space::{FreeSpace, RESERVE_BYTES};
pub use store::BlobStore;
pub use survey::{Survey, survey};
pub use wire::PROTOCOL;
