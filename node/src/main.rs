//! The `fnode` binary, still without a command line.

fn main() {}
