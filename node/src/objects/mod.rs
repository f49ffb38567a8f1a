//! Files in object stores elsewhere: `s3://`, `gs://`, `az://`, `file://`. Called by `node/src/node/elsewhere`.
//!
//! Start reading at [`Place`] (what an end point is), then `store.rs` (putting and getting). Deliberately absent: what
//! is stored there and why, which the callers know; trust in what comes back, whose hash is checked before anybody sees it.

mod client;
mod credentials;
mod place;
mod store;
mod trouble;

pub(crate) use credentials::Credentials;
pub use credentials::CredentialsError;
pub use place::Place;
pub(crate) use place::{EndPoint, VARIABLES};
pub(crate) use store::{Objects, key};
pub use trouble::Trouble;
pub(crate) use trouble::Why;
