//! Every word that nodes store or send: its bytes do not change unnoticed (`golden.rs`).
//! `node` takes `harness/` for the words of its own.

mod golden;
mod harness;
mod samples;
