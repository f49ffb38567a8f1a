//! The hands of a node: network, disk, processes, HTTP and command line, around `proto`'s core.
//! No file here decides about a job, a member or an entry; `proto` does.

pub mod blobs;
pub mod cli;
pub mod doctor;
pub mod exec;
pub mod footprint;
pub mod http;
pub mod net;
pub mod node;
pub mod objects;
pub mod sdk;
pub mod store;
pub mod track;

#[cfg(test)]
#[path = "../../proto/tests/words/harness/mod.rs"]
mod harness;
#[cfg(test)]
#[path = "../../proto/tests/words/samples.rs"]
#[allow(dead_code, reason = "the samples of proto's own words are used by proto")]
mod samples;
#[cfg(test)]
mod words_tests;
