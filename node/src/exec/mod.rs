//! The shell around processes: the runner that owns jobs' processes, the daemon's end of its socket, the
//! environments they run in, and what the machine has for them. Decides nothing about jobs: it starts
//! what it is told to start and says how that ended.

pub mod client;
pub mod environment;
pub mod inventory;
mod link;
pub mod process;
pub mod protocol;
pub mod runner;
