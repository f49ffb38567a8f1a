//! The hands of a node: network, disk, processes, HTTP and command line, around `proto`'s core.
//! No file here decides about a job, a member or an entry; `proto` does.

pub mod blobs;
pub mod cli;
pub mod doctor;
pub mod exec;
pub mod http;
pub mod net;
pub mod node;
pub mod store;
