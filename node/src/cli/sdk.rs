//! `fnode sdk install`: the Python package out of this binary, into an interpreter's site-packages or a directory.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Serialize;

use super::args::SdkInstallArgs;
use super::error::CliError;
use super::exit::Exit;
use super::output::Output;
use crate::sdk;

/// Prints where an interpreter looks for packages: its virtual environment's place, else the user's.
const PLACE: &str = "import sys, sysconfig, site, os
venv = sys.prefix != sys.base_prefix
place = sysconfig.get_paths()['purelib']
print(place if venv or os.access(place, os.W_OK) else site.getusersitepackages())";

#[derive(Serialize)]
struct Installed {
    directory: PathBuf,
    files: usize,
}

/// Writes the package; works without a daemon and without a network.
pub(crate) fn install(args: &SdkInstallArgs, output: Output) -> Result<Exit, CliError> {
    let directory = match &args.dir {
        Some(dir) => dir.clone(),
        None => place(args)?,
    };
    let remedy = "give this user the right to, or another place with --dir DIR";
    let written = sdk::write_to(&directory);
    let written =
        written.map_err(|source| CliError::File { verb: "write", path: directory.clone(), source, remedy })?;
    let installed = Installed { directory, files: written.len() };
    output.print(&installed, |installed| {
        format!(
            "foundations is in {} ({}); try: python3 -c 'import foundations'",
            installed.directory.display(),
            super::time::counted(installed.files, "file")
        )
    })?;
    Ok(Exit::Done)
}

fn place(args: &SdkInstallArgs) -> Result<PathBuf, CliError> {
    let program = args.python.display();
    let mut command = Command::new(&args.python);
    command.arg("-c").arg(PLACE).env("FOUNDATIONS_COMMAND_LINE", "True").stdin(Stdio::null());
    let refuse =
        |what: String| CliError::usage(what, "name another with --python PROGRAM, or a directory with --dir DIR");
    let ran =
        command.output().map_err(|error| refuse(format!("cannot run {program}: {}", super::error::plain(&error))))?;
    let text = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
    if !ran.status.success() || text.is_empty() {
        return Err(refuse(format!("{program} does not say where its packages are")));
    }
    Ok(PathBuf::from(text))
}
