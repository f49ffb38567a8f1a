//! What proves to a cloud who is asking: the variables of the daemon that the clouds' own tools read, else a file in
//! the data directory that only its owner may read. Never shown, never logged, never sent to a peer.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Only these are looked at.
const PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// Variables of the clouds, by name.
#[derive(Clone, Default)]
pub(crate) struct Credentials(BTreeMap<String, String>);

/// Why the file with credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Others may read it.
    #[error("{} may be read by others; run: chmod 600 {0}", path.display())]
    Open { path: PathBuf },
    /// A line that says nothing.
    #[error("{} line {line} is not NAME=VALUE with a name that begins with AWS_, GOOGLE_ or AZURE_", path.display())]
    Line { path: PathBuf, line: usize },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Credentials {
    /// The variables of this process over those in `file`, which need not be there.
    ///
    /// # Errors
    /// [`CredentialsError`], of the file.
    pub(crate) fn read(file: &Path) -> Result<Self, CredentialsError> {
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let ours = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let mut known = in_file(file)?;
        known.extend(variables.filter(|(name, value)| ours(name) && !value.is_empty()));
        Ok(Self(known))
    }

    /// Those whose name begins with `prefix`, by their names in lower case.
    pub(super) fn of<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (String, &'a str)> + 'a {
        let of = self.0.iter().filter(move |(name, _)| name.starts_with(prefix));
        of.map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    }

    /// From pairs, for tests.
    #[cfg(test)]
    pub(crate) fn from_pairs(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

fn in_file(path: &Path) -> Result<BTreeMap<String, String>, CredentialsError> {
    let io = |source| CredentialsError::Io { path: path.to_owned(), source };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(io(error)),
    };
    if std::fs::metadata(path).map_err(io)?.permissions().mode() & 0o077 != 0 {
        return Err(CredentialsError::Open { path: path.to_owned() });
    }
    let mut known = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.strip_prefix("export ").unwrap_or(line).split_once('=');
        let pair = pair.filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
        // The line itself is not shown: it may be a secret that lost its name.
        let (name, value) = pair.ok_or_else(|| CredentialsError::Line { path: path.to_owned(), line: at + 1 })?;
        let value = value.trim().trim_matches(['"', '\'']);
        known.insert(name.trim().to_owned(), value.to_owned());
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("storage.env");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_private_file_gives_what_variables_do_not() {
        let (_dir, path) = file("# lab\nexport AZURE_TEST_NAME='lab'\nGOOGLE_TEST=\"a=b\"\n\n", 0o600);
        let known = Credentials::read(&path).unwrap();
        assert_eq!(known.of("AZURE_TEST_").collect::<Vec<_>>(), [("azure_test_name".to_owned(), "lab")]);
        assert_eq!(known.of("GOOGLE_TEST").next().unwrap().1, "a=b");
        assert!(!format!("{known:?}").contains("a=b"), "values are never printed");
        assert_eq!(in_file(&path.with_file_name("none")).unwrap(), BTreeMap::new());
    }

    #[test]
    fn a_file_that_others_may_read_or_that_says_nothing_is_refused_without_its_text() {
        let (_dir, path) = file("AWS_ACCESS_KEY_ID=x", 0o644);
        assert!(in_file(&path).unwrap_err().to_string().contains("chmod 600"));
        let (_dir, path) = file("AWS_ACCESS_KEY_ID=x\nhunter2\n", 0o600);
        let line = in_file(&path).unwrap_err().to_string();
        assert!(line.contains("line 2") && !line.contains("hunter2"), "{line}");
    }
}
