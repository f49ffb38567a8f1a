//! The `fnode` binary. The runner's entry is looked at first: it must find a process with nothing set up.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(word) if word == "runner" => node::exec::runner::main(args),
        Some(word) if word == "attend" => node::node::attend::main(args),
        Some(word) if word == "gpu-probe" => node::cli::gpu_probe(args),
        _ => node::cli::main(std::env::args_os()),
    }
}
