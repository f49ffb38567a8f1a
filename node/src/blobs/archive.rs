//! A directory is copied as it would be submitted: what a script that was started by hand leaves behind.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::error::PackError;
use super::walk::{FoundKind, Rules, walk};

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Archived {
    /// Files and links.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Files that are not there: beyond the limit, or not to be read.
    pub left_out: u64,
}

/// Copies what a bundle of `from` would hold into the directory `to`, as far as `max` bytes go; shared blocks where
/// the file system can. Nothing outside `from` is followed.
///
/// # Errors
/// [`PackError`] when `from` cannot be listed at all.
pub fn archive(from: &Path, to: &Path, max: u64) -> Result<Archived, PackError> {
    let mut archived = Archived::default();
    let mut odd = 0;
    let max = max.min(free_bytes(to) / 2);
    let all = walk(from, Rules::Archive, |_| {
        odd += 1;
        Ok(())
    })?;
    for found in all {
        let (source, target) = (from.join(&found.path), to.join(&found.path));
        let copied = match (found.kind, target.parent().map(fs::create_dir_all)) {
            (_, Some(Err(error))) => Err(error),
            (FoundKind::EmptyDirectory, _) => fs::create_dir_all(&target).map(|()| 0),
            (FoundKind::Link(to), _) => symlink(to, &target).map(|()| 0),
            (FoundKind::File { .. }, _) => copy_within(&source, &target, max - archived.bytes),
        };
        match copied {
            Ok(bytes) => {
                archived.files += 1;
                archived.bytes += bytes;
            }
            Err(_) => archived.left_out += 1,
        }
    }
    archived.left_out += odd;
    Ok(archived)
}

/// What a user may still write there; all of it where nobody can tell.
fn free_bytes(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Copies a file of at most `left` bytes, and of it no more than it says to have: some have no end.
fn copy_within(source: &Path, target: &Path, left: u64) -> io::Result<u64> {
    let file = fs::File::open(source)?;
    let meta = file.metadata()?;
    if meta.len() > left {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    // The standard library copies inside the kernel, which shares blocks where it can.
    let copied = io::copy(&mut file.take(meta.len()), &mut fs::File::create(target)?)?;
    fs::set_permissions(target, meta.permissions())?;
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_copied_as_far_as_it_says_to_be() {
        let to = tempfile::tempdir().unwrap();
        let copied = copy_within(Path::new("/proc/self/maps"), &to.path().join("maps"), 100).unwrap();
        assert_eq!((copied, fs::read(to.path().join("maps")).unwrap().len()), (0, 0));
    }

    #[test]
    fn what_would_be_submitted_is_copied_within_the_limit() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("data")).unwrap();
        fs::create_dir_all(from.path().join(".git")).unwrap();
        for (name, len) in [("data/a", 10), ("b", 20), ("large", 1_000), (".git/head", 1), ("skipped.tmp", 1)] {
            fs::write(from.path().join(name), vec![b'x'; len]).unwrap();
        }
        fs::write(from.path().join(".fnodeignore"), "*.tmp\n").unwrap();
        symlink("b", from.path().join("link")).unwrap();
        let archived = archive(from.path(), to.path(), 100).unwrap();
        assert_eq!((archived.files, archived.left_out), (4, 1), "{archived:?}");
        assert_eq!(fs::read(to.path().join("data/a")).unwrap().len(), 10);
        assert_eq!(fs::read_link(to.path().join("link")).unwrap(), Path::new("b"));
        for name in ["large", ".git", "skipped.tmp"] {
            assert!(!to.path().join(name).exists(), "{name}");
        }
    }
}
