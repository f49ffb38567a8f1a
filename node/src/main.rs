//! The `fnode` binary, which is `foundations` and `atlas-server` when it is started under these names. The runner's entry
//! is looked at first: it must find a process with nothing set up.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    match args.next() {
        Some(word) if word == "runner" => node::exec::runner::main(args),
        Some(word) if word == "attend" => node::node::attend::main(args),
        Some(word) if word == "gpu-probe" => node::cli::gpu_probe(args),
        _ => command(&name),
    }
}

/// The command that the program's name asks for.
fn command(name: &OsString) -> ExitCode {
    let args = std::env::args_os();
    match Path::new(name).file_name().and_then(|name| name.to_str()) {
        Some("foundations") => node::cli::foundations(args),
        Some("atlas-server") => node::cli::atlas_server(args),
        _ => node::cli::main(args),
    }
}
