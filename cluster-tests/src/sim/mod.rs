//! The simulator: many real [`proto::Core`]s, a simulated network, disks, runners and clocks, one seed.
//!
//! Phase one lets faults happen and checks the invariants after every step; phase two ends all faults,
//! and then everything must finish and agree within a bound. The same seed gives the same run, byte for
//! byte ([`Report::digest`]). Start reading in [`world`]; each invariant has a file in [`invariants`].
//!
//! What is never simulated here: sockets, files, processes. The shells have tests of their own.

pub mod coverage;
mod disk;
mod faults;
mod forgery;
mod host;
pub mod invariants;
pub mod load;
mod network;
mod plan;
mod runner;
mod shell;
mod snapshots;
mod trace;
mod workload;
mod world;

pub use invariants::Violation;
pub use plan::Plan;
pub use world::{Failure, Report, run};
