//! The packages of the node's own Python, which an environment may lie over: where they are, and which. Asked of
//! the interpreter itself, because only it knows its paths. Installs nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{EnvironmentError, recipe};
use crate::exec::inventory::command;

/// An interpreter that says nothing for so long hangs.
const ASK_LIMIT: Duration = Duration::from_secs(20);
/// Its directories of packages, one a line: of a virtual environment its own, else also the user's.
const ASK: &str = "import site\nprint('\\n'.join(site.getsitepackages() + \
                   ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])))";
/// Read at the start of each interpreter of the environment; what lies in the environment itself comes first.
const PATH_FILE: &str = "fnode_node.pth";

/// What an environment lies over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Below {
    directories: Vec<PathBuf>,
    /// Names of metadata directories: name and version of each package.
    packages: BTreeSet<String>,
}

/// What `interpreter` has installed. `None`: nothing. Blocks.
pub(super) fn look(interpreter: &Path) -> Result<Option<Below>, EnvironmentError> {
    let mut ask = Command::new(interpreter);
    ask.args(["-c", ASK]);
    let broken = || EnvironmentError::BrokenPython { path: interpreter.display().to_string() };
    let said = command::run(&mut ask, ASK_LIMIT).ok().and_then(|done| done.success()).ok_or_else(broken)?;
    let directories: Vec<PathBuf> = said.lines().map(PathBuf::from).filter(|path| path.is_dir()).collect();
    let mut packages = BTreeSet::new();
    for entry in directories.iter().flat_map(std::fs::read_dir).flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".dist-info") || name.ends_with(".egg-info") {
            packages.insert(name);
        }
    }
    Ok((!packages.is_empty()).then_some(Below { directories, packages }))
}

impl Below {
    /// Another package there may be another choice of the installer, so it is another environment.
    pub(super) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        recipe::frame(hasher, b"below");
        for directory in &self.directories {
            recipe::frame(hasher, directory.as_os_str().as_encoded_bytes());
        }
        for package in &self.packages {
            recipe::frame(hasher, package.as_bytes());
        }
    }

    /// Makes the virtual environment at `venv` see them.
    pub(super) fn put_under(&self, venv: &Path) -> std::io::Result<()> {
        let text: String = self.directories.iter().map(|path| format!("{}\n", path.display())).collect();
        for python in std::fs::read_dir(venv.join("lib"))? {
            let packages = python?.path().join("site-packages");
            if packages.is_dir() {
                std::fs::write(packages.join(PATH_FILE), &text)?;
            }
        }
        Ok(())
    }
}
