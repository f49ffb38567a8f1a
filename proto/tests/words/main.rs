//! Every word that nodes store or send: its bytes do not change unnoticed (`golden.rs`), and hostile bytes in
//! its place are refused (`hostile.rs`). `node` takes `harness/` for the words of its own.

mod golden;
mod harness;
mod hostile;
mod hostile_core;
mod samples;
