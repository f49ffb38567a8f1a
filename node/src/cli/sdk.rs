//! `fnode sdk install`: the Python package out of this binary, into an interpreter's site-packages or a directory; and the
//! commands `foundations` and `atlas-server` where that interpreter's commands are, as links to this binary.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use super::args::SdkInstallArgs;
use super::error::{CliError, plain};
use super::exit::Exit;
use super::output::{Output, say};
use crate::sdk;

/// Prints where an interpreter looks for packages and puts commands: its virtual environment's places, else the user's.
const PLACES: &str = "import sys, sysconfig, site, os
venv = sys.prefix != sys.base_prefix
paths = sysconfig.get_paths()
own = venv or os.access(paths['purelib'], os.W_OK)
print(paths['purelib'] if own else site.getusersitepackages())
print(paths['scripts'] if own else os.path.join(site.getuserbase(), 'bin'))";
/// What this program is called beside its own name.
const COMMANDS: [&str; 2] = ["foundations", "atlas-server"];

#[derive(Serialize)]
struct Installed {
    directory: PathBuf,
    files: usize,
    /// The links to this program.
    commands: Vec<PathBuf>,
}

/// Writes the package and the commands; works without a daemon and without a network.
pub(crate) fn install(args: &SdkInstallArgs, output: Output) -> Result<Exit, CliError> {
    let (directory, bin) = match &args.dir {
        Some(dir) => (dir.clone(), dir.join("bin")),
        None => places(args)?,
    };
    let remedy = "give this user the right to, or another place with --dir DIR";
    let unwritable = |path: &Path, source| CliError::File { verb: "write", path: path.to_owned(), source, remedy };
    let written = sdk::write_to(&directory).map_err(|source| unwritable(&directory, source))?;
    let program = std::env::current_exe();
    let program = program.map_err(|error| CliError::Start(format!("cannot find this program: {}", plain(&error))))?;
    let mut commands = Vec::new();
    for name in COMMANDS {
        let link = bin.join(name);
        if place_link(&program, &link).map_err(|source| unwritable(&link, source))? {
            commands.push(link);
        } else {
            let link = link.display();
            say(&format!("fnode: warning: {link} is there and not ours; remove it to have that command here"));
        }
    }
    let is_found = std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir == bin));
    if !is_found && args.dir.is_none() {
        say(&format!("fnode: warning: {} is not on the PATH, where commands are looked for", bin.display()));
    }
    let installed = Installed { directory, files: written.len(), commands };
    output.print(&installed, |installed| {
        let directory = installed.directory.display();
        let files = super::time::counted(installed.files, "file");
        let commands: Vec<String> = installed.commands.iter().map(|path| path.display().to_string()).collect();
        let commands = if commands.is_empty() { String::new() } else { format!("; commands: {}", commands.join(", ")) };
        format!("foundations is in {directory} ({files}){commands}; try: python3 -c 'import foundations'")
    })?;
    Ok(Exit::Done)
}

/// Makes `link` lead to this program. False: something else is there, which is left alone.
fn place_link(program: &Path, link: &Path) -> io::Result<bool> {
    if let Some(parent) = link.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::symlink_metadata(link) {
        // A link of an earlier install, perhaps of a binary that has moved since.
        Ok(there) if there.is_symlink() => std::fs::remove_file(link)?,
        Ok(_) => return Ok(false),
        Err(_) => {}
    }
    std::os::unix::fs::symlink(program, link).map(|()| true)
}

/// Where the interpreter's packages and commands are.
fn places(args: &SdkInstallArgs) -> Result<(PathBuf, PathBuf), CliError> {
    let program = args.python.display();
    let mut command = Command::new(&args.python);
    command.arg("-c").arg(PLACES).env("FOUNDATIONS_COMMAND_LINE", "True").stdin(Stdio::null());
    let refuse =
        |what: String| CliError::usage(what, "name another with --python PROGRAM, or a directory with --dir DIR");
    let ran = command.output().map_err(|error| refuse(format!("cannot run {program}: {}", plain(&error))))?;
    let text = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
    match (ran.status.success(), text.split_once('\n')) {
        (true, Some((packages, commands))) => Ok((PathBuf::from(packages.trim()), PathBuf::from(commands.trim()))),
        _ => Err(refuse(format!("{program} does not say where its packages are"))),
    }
}
