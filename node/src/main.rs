//! The `fnode` binary. The runner's entry is looked at first: it must find a process with nothing set up.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == "runner") {
        return node::exec::runner::main(args);
    }
    ExitCode::SUCCESS
}
