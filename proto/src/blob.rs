//! Content by its BLAKE3 hash, and the manifest that makes a directory out of blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::codec::{self, Word};
use crate::id::{ParseIdError, hex, unhex};

/// A blob's name: the plain BLAKE3 hash of its bytes. Text form: 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentId(pub [u8; 32]);

/// A directory as a list of blobs: no times, no owners, so equal trees have equal ids.
/// The bundle's id is the content id of the manifest's encoded word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Sorted by path, each path once.
    pub files: Vec<ManifestFile>,
    /// Of a job's outputs: files of its bundle that it removed, of a directory each file in it. Sorted, each once. Empty
    /// for a bundle.
    pub removed: Vec<String>,
}

/// One entry of a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Relative to the bundle's root, parts separated by `/`, never `.`, `..` or empty.
    pub path: String,
    /// What lies there.
    pub kind: FileKind,
}

/// What a path of a manifest is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File {
        /// Its bytes.
        content: ContentId,
        /// Length in bytes.
        size: u64,
        /// Whether its owner may execute it; the only mode bit that travels.
        executable: bool,
    },
    /// A symbolic link that stays inside the bundle; the text of the link.
    Link(String),
    /// A directory that holds nothing else.
    EmptyDirectory,
}

/// Why a manifest is refused before anything of it touches the disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Absolute, empty, or with an empty, `.` or `..` part, a NUL byte or a backslash.
    #[error("path {0:?} leaves the bundle or is not plain")]
    Path(String),
    /// Out of order or twice, or removed and there.
    #[error("path {0:?} is not in sorted order or appears twice")]
    Order(String),
    /// Two paths that a case-insensitive file system would take for one.
    #[error("paths that differ only in case: {0:?}")]
    CaseTwins(String),
    /// A file or link where another path needs a directory.
    #[error("path {0:?} is both a file and a directory")]
    FileAndDirectory(String),
    /// A link whose target is absolute or outside the bundle.
    #[error("link {path:?} leads out of the bundle to {target:?}")]
    Link {
        /// Where the link lies.
        path: String,
        /// What it says.
        target: String,
    },
}

impl Word for Manifest {
    const KIND: u16 = 1;
}

impl ContentId {
    /// The content id of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first ten hex digits, for tables.
    #[must_use]
    pub fn short(&self) -> String {
        hex(&self.0[..5])
    }
}

impl Manifest {
    /// The bundle's id: the content id of the encoded manifest.
    #[must_use]
    pub fn id(&self) -> ContentId {
        ContentId::of(&codec::encode(self))
    }

    /// Sum of the sizes of all files, in bytes; a content that appears twice counts twice.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.contents().map(|(_, size)| size).sum()
    }

    /// Content id and size of every file, in path order; one content may come more than once.
    pub fn contents(&self) -> impl Iterator<Item = (ContentId, u64)> + '_ {
        self.files.iter().filter_map(|file| match file.kind {
            FileKind::File { content, size, .. } => Some((content, size)),
            FileKind::Link(_) | FileKind::EmptyDirectory => None,
        })
    }

    /// This directory after what `over` says was removed from it, and the files of `over` made or changed in it. A path of
    /// `over` takes the place of whatever lay there, below it, or in its way.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        let mut files: BTreeMap<&str, &ManifestFile> =
            self.files.iter().map(|file| (file.path.as_str(), file)).collect();
        for path in &over.removed {
            files.remove(path.as_str());
        }
        for file in &over.files {
            let path = file.path.as_str();
            let below = format!("{path}/");
            files.retain(|other, _| !other.starts_with(&below));
            for (at, _) in path.match_indices('/') {
                files.remove(&path[..at]);
            }
            files.insert(path, file);
        }
        Self { files: files.into_values().cloned().collect(), removed: Vec::new() }
    }

    /// Checks everything that unpacking relies on: order, plain paths, no case twins, links inside.
    ///
    /// # Errors
    /// The first [`ManifestError`] found.
    pub fn check(&self) -> Result<(), ManifestError> {
        let mut folded = BTreeSet::new();
        let mut previous: Option<&str> = None;
        for file in &self.files {
            if !is_plain(&file.path) {
                return Err(ManifestError::Path(file.path.clone()));
            }
            if previous.is_some_and(|previous| previous >= file.path.as_str()) {
                return Err(ManifestError::Order(file.path.clone()));
            }
            previous = Some(&file.path);
            if !folded.insert(file.path.to_lowercase()) {
                return Err(ManifestError::CaseTwins(file.path.clone()));
            }
            if let FileKind::Link(target) = &file.kind {
                check_link(&file.path, target)?;
            }
        }
        self.check_removed()?;
        self.check_directories(&folded)
    }

    /// What is removed may differ in case from what is there: a file may have been renamed to that.
    fn check_removed(&self) -> Result<(), ManifestError> {
        for (at, path) in self.removed.iter().enumerate() {
            if !is_plain(path) {
                return Err(ManifestError::Path(path.clone()));
            }
            let is_sorted = at == 0 || self.removed[at - 1] < *path;
            if !is_sorted || self.files.binary_search_by(|file| file.path.cmp(path)).is_ok() {
                return Err(ManifestError::Order(path.clone()));
            }
        }
        Ok(())
    }

    /// No proper prefix of a path is itself a file: also not through a name that differs in case.
    fn check_directories(&self, folded: &BTreeSet<String>) -> Result<(), ManifestError> {
        for file in &self.files {
            let lower = file.path.to_lowercase();
            for (at, _) in lower.match_indices('/') {
                if folded.contains(&lower[..at]) {
                    return Err(ManifestError::FileAndDirectory(lower[..at].to_owned()));
                }
            }
        }
        self.check_directory_cases()
    }

    /// `Data/a` beside `data/b` would be one directory on a case-insensitive file system.
    fn check_directory_cases(&self) -> Result<(), ManifestError> {
        let mut seen = std::collections::BTreeMap::new();
        for file in &self.files {
            for (at, _) in file.path.match_indices('/') {
                let directory = &file.path[..at];
                if *seen.entry(directory.to_lowercase()).or_insert(directory) != directory {
                    return Err(ManifestError::CaseTwins(directory.to_owned()));
                }
            }
        }
        Ok(())
    }
}

/// Whether every part of `path` is an ordinary name.
fn is_plain(path: &str) -> bool {
    !path.contains(['\0', '\\']) && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// A link may climb before it descends, but not above the bundle's root. `..` after a name is refused:
/// that name could be a link itself, and then nobody can tell from the text where `..` leads.
fn check_link(path: &str, target: &str) -> Result<(), ManifestError> {
    let refuse = || ManifestError::Link { path: path.to_owned(), target: target.to_owned() };
    if target.is_empty() || target.starts_with('/') || target.contains('\0') {
        return Err(refuse());
    }
    let mut climbable = path.matches('/').count();
    for part in target.split('/') {
        climbable = match part {
            "" | "." => climbable,
            ".." => climbable.checked_sub(1).ok_or_else(refuse)?,
            _ => 0,
        };
    }
    Ok(())
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.short())
    }
}

impl FromStr for ContentId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        unhex(text).map(Self).ok_or_else(|| ParseIdError { text: text.to_owned(), kind: "content" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> ManifestFile {
        ManifestFile {
            path: path.to_owned(),
            kind: FileKind::File { content: ContentId::of(b""), size: 0, executable: false },
        }
    }

    fn of(files: Vec<ManifestFile>) -> Manifest {
        Manifest { files, removed: Vec::new() }
    }

    fn link(path: &str, target: &str) -> ManifestFile {
        ManifestFile { path: path.to_owned(), kind: FileKind::Link(target.to_owned()) }
    }

    #[test]
    fn an_honest_manifest_passes() {
        let files = vec![file("a/b.py"), link("a/c", "../d"), file("d")];
        assert_eq!(of(files).check(), Ok(()));
    }

    #[test]
    fn what_was_made_takes_the_place_of_what_lay_there() {
        let changed = ManifestFile {
            kind: FileKind::File { content: ContentId::of(b"x"), size: 1, executable: false },
            ..file("b")
        };
        let empty = |path: &str| ManifestFile { path: path.to_owned(), kind: FileKind::EmptyDirectory };
        let given = of(vec![file("a"), file("b"), file("c/d"), file("c/e"), empty("f"), file("g")]);
        let made = of(vec![file("a/new"), changed.clone(), file("c"), file("f/x")]);
        let both = given.overlaid(&made);
        assert_eq!(both.files, vec![file("a/new"), changed, file("c"), file("f/x"), file("g")]);
        assert_eq!(both.check(), Ok(()));
        assert_eq!(given.overlaid(&of(Vec::new())), given);
    }

    #[test]
    fn what_was_removed_is_gone_unless_it_was_made_again() {
        let given = of(vec![file("a"), file("b"), file("d/x"), file("d/y"), file("e/z")]);
        let removed = ["A", "b", "d", "d/x", "e/z"].map(str::to_owned).to_vec();
        let made = Manifest { files: vec![file("a"), file("b/new"), file("e")], removed };
        assert_eq!(made.check(), Ok(()), "a path that differs in case from one that is there");
        assert_eq!(given.overlaid(&made), of(vec![file("a"), file("b/new"), file("d/y"), file("e")]));
    }

    #[test]
    fn what_was_removed_is_named_plainly_in_order_and_is_not_there() {
        let check = |removed: &[&str]| {
            let removed = removed.iter().map(|&path| path.to_owned()).collect();
            Manifest { files: vec![file("a")], removed }.check()
        };
        assert_eq!(check(&["b", "c/d"]), Ok(()));
        assert_eq!(check(&["../x"]), Err(ManifestError::Path("../x".to_owned())));
        assert_eq!(check(&["/x"]), Err(ManifestError::Path("/x".to_owned())));
        for (removed, path) in [(["c", "b"], "b"), (["b", "b"], "b"), (["a", "b"], "a")] {
            assert_eq!(check(&removed), Err(ManifestError::Order(path.to_owned())));
        }
    }

    #[test]
    fn paths_that_leave_the_bundle_are_refused() {
        for path in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0", "a\\b"] {
            assert_eq!(of(vec![file(path)]).check(), Err(ManifestError::Path(path.to_owned())));
        }
    }

    #[test]
    fn twins_disorder_and_overlaps_are_refused() {
        let check = |files| of(files).check();
        assert_eq!(check(vec![file("b"), file("a")]), Err(ManifestError::Order("a".to_owned())));
        assert_eq!(check(vec![file("a"), file("a")]), Err(ManifestError::Order("a".to_owned())));
        assert_eq!(check(vec![file("A"), file("a")]), Err(ManifestError::CaseTwins("a".to_owned())));
        assert_eq!(check(vec![file("D/a"), file("d/b")]), Err(ManifestError::CaseTwins("d".to_owned())));
        assert_eq!(check(vec![file("a"), file("a/b")]), Err(ManifestError::FileAndDirectory("a".to_owned())));
        assert_eq!(check(vec![link("a", "b"), file("a/b")]), Err(ManifestError::FileAndDirectory("a".to_owned())));
    }

    #[test]
    fn links_that_leave_the_bundle_are_refused() {
        for (path, target) in
            [("a", "/etc"), ("a", ".."), ("a/b", "../../x"), ("a", ""), ("a", "b/../../c"), ("x/a", "b/..")]
        {
            assert!(of(vec![link(path, target)]).check().is_err(), "{path} -> {target}");
        }
    }
}
