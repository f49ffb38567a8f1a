//! What lies in a directory, as far as a manifest can say it. Packing and collecting outputs walk with
//! different rules and treat what cannot travel differently, so oddities are handed to the caller.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::{DirEntry, WalkBuilder};

use super::error::PackError;
use super::stat_cache::Stamp;

/// The file that says what stays behind; it travels itself, so that a job can be submitted from its copy.
const IGNORE_FILE: &str = ".fnodeignore";
/// Left out unless the root's `.fnodeignore` brings them back with `!`: what other tools rebuild.
const DEFAULTS: [&str; 10] = [
    ".git",
    ".hg",
    ".svn",
    "__pycache__",
    ".venv",
    ".mypy_cache",
    ".pytest_cache",
    ".ipynb_checkpoints",
    "node_modules",
    // Our own data directory: packing it would pack what packing writes.
    ".fnode",
];
/// Also left out, as files.
const DEFAULT_FILE: &str = ".DS_Store";
/// And every directory with this file in it: a virtual environment under any name (PEP 405).
const VENV_MARK: &str = "pyvenv.cfg";

/// Which files are left out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// The defaults and `.fnodeignore`: what a user submits.
    Bundle,
    /// The same, without what is mounted below: nobody chose this directory, a script was started in it.
    Archive,
    /// The defaults alone: a result is not lost because its directory is not submitted.
    Outputs,
}

/// One entry that can travel.
pub(super) struct Found {
    /// Relative to the root, parts separated by `/`.
    pub(super) path: String,
    pub(super) kind: FoundKind,
}

pub(super) enum FoundKind {
    File { stamp: Stamp, executable: bool },
    Link(String),
    EmptyDirectory,
}

/// Walks `root` in no particular order and returns its entries sorted by path. What cannot travel goes to
/// `odd`, which passes it over by returning `Ok`.
pub(super) fn walk(
    root: &Path,
    rules: Rules,
    mut odd: impl FnMut(PackError) -> Result<(), PackError>,
) -> Result<Vec<Found>, PackError> {
    let mut found = Vec::new();
    let mut directories = BTreeSet::new();
    let mut inhabited = BTreeSet::new();
    for entry in walker(root, rules).build() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                odd(unreadable(root, error))?;
                continue;
            }
        };
        if let Some(error) = entry.error() {
            return Err(PackError::IgnoreFile { reason: error.to_string() });
        }
        if entry.depth() == 0 {
            continue;
        }
        // Paths come from the walk of `root`, so the prefix is there; an odd one is passed on whole.
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let Some(path) = relative.to_str().map(str::to_owned) else {
            odd(PackError::NotUtf8(entry.path().to_owned()))?;
            continue;
        };
        if let Some((parent, _)) = path.rsplit_once('/') {
            inhabited.insert(parent.to_owned());
        }
        if entry.file_type().is_some_and(|kind| kind.is_dir()) {
            directories.insert(path);
            continue;
        }
        match look_at(&entry) {
            Ok(kind) => found.push(Found { path, kind }),
            Err(error) => odd(error)?,
        }
    }
    let empty = directories.into_iter().filter(|path| !inhabited.contains(path));
    found.extend(empty.map(|path| Found { path, kind: FoundKind::EmptyDirectory }));
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walker(root: &Path, rules: Rules) -> WalkBuilder {
    let mut builder = WalkBuilder::new(root);
    builder.standard_filters(false).follow_links(false);
    let mut rescued = Gitignore::empty();
    if rules == Rules::Archive {
        builder.same_file_system(true);
    }
    if matches!(rules, Rules::Bundle | Rules::Archive) {
        builder.add_custom_ignore_filename(IGNORE_FILE);
        let mut patterns = GitignoreBuilder::new(root);
        // A bad pattern is reported by the walk itself, with its line.
        let _ = patterns.add(root.join(IGNORE_FILE));
        rescued = patterns.build().unwrap_or_else(|_| Gitignore::empty());
    }
    builder.filter_entry(move |entry| entry.depth() == 0 || !is_left_out(entry, &rescued));
    builder
}

/// The defaults, unless the user's `!pattern` brings an entry back.
fn is_left_out(entry: &DirEntry, rescued: &Gitignore) -> bool {
    let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
    let name = entry.file_name();
    let by_default = if is_dir {
        DEFAULTS.iter().any(|&default| name == default) || entry.path().join(VENV_MARK).is_file()
    } else {
        name == DEFAULT_FILE || name.as_encoded_bytes().ends_with(b".pyc")
    };
    by_default && !rescued.matched(entry.path(), is_dir).is_whitelist()
}

/// The entry's kind; or why it cannot travel.
fn look_at(entry: &DirEntry) -> Result<FoundKind, PackError> {
    let path = entry.path();
    let unreadable = |source| PackError::Unreadable { path: path.to_owned(), source };
    let meta = fs::symlink_metadata(path).map_err(unreadable)?;
    let kind = meta.file_type();
    if kind.is_file() {
        let executable = meta.permissions().mode() & 0o100 != 0;
        return Ok(FoundKind::File { stamp: Stamp::of(&meta), executable });
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(unreadable)?.into_os_string().into_string();
        return target.map(FoundKind::Link).map_err(|_| PackError::NotUtf8(path.to_owned()));
    }
    let kind = if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "named pipe"
    } else {
        "device"
    };
    Err(PackError::Special { path: path.to_owned(), kind })
}

/// The walk's own error with the path that it concerns.
fn unreadable(root: &Path, error: ignore::Error) -> PackError {
    fn path_of(error: &ignore::Error) -> Option<PathBuf> {
        match error {
            ignore::Error::WithPath { path, .. } => Some(path.clone()),
            ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
            _ => None,
        }
    }
    let path = path_of(&error).unwrap_or_else(|| root.to_owned());
    let text = error.to_string();
    match error.into_io_error() {
        Some(source) => PackError::Unreadable { path, source },
        None => PackError::IgnoreFile { reason: text },
    }
}
