//! Secrets that users gave to this node (`fnode secret`): a file each, 0600. They are read when a job that
//! names them starts, here or on another member that asks; they never enter the log, a listing or an answer
//! of the API.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::cluster::write_private;

/// Longest value, in bytes: it becomes an environment variable.
pub const SECRET_MAX: usize = 64 << 10;

/// The secrets of one node.
#[derive(Clone, Debug)]
pub struct Secrets(PathBuf);

/// Why a secret cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Names are environment variables.
    #[error("\"{0}\" cannot name a secret; use letters, digits and _, not starting with a digit")]
    Name(String),
    /// Too long, or with a NUL byte.
    #[error("the value of {0} is longer than 64 KiB or contains a NUL byte")]
    Value(String),
    /// The system refused.
    #[error("cannot keep secret {name}: {source}")]
    Io {
        /// Which.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Secrets {
    /// The secrets in `dir`, which need not exist.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// Keeps `value` under `name`.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn set(&self, name: &str, value: &[u8]) -> Result<(), SecretError> {
        check_name(name)?;
        if value.len() > SECRET_MAX || value.contains(&0) {
            return Err(SecretError::Value(name.to_owned()));
        }
        let write = || {
            std::fs::create_dir_all(&self.0)?;
            write_private(&self.0.join(name), value)
        };
        write().map_err(|source| SecretError::Io { name: name.to_owned(), source })
    }

    /// Their names.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut names: Vec<String> = files.filter_map(|file| file.file_name().into_string().ok()).collect();
        names.retain(|name| check_name(name).is_ok());
        names.sort();
        names
    }

    /// Forgets one; whether it was there.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn remove(&self, name: &str) -> Result<bool, SecretError> {
        check_name(name)?;
        match std::fs::remove_file(self.0.join(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(SecretError::Io { name: name.to_owned(), source }),
        }
    }

    /// Those of `names` that are here, with their values.
    pub(crate) fn known<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> BTreeMap<String, String> {
        let value = |name: &String| {
            let bytes = check_name(name).ok().and_then(|()| std::fs::read(self.0.join(name)).ok())?;
            Some((name.clone(), String::from_utf8(bytes).ok()?))
        };
        names.into_iter().filter_map(value).collect()
    }
}

fn check_name(name: &str) -> Result<(), SecretError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let sound = !name.is_empty()
        && name.len() <= 128
        && name.chars().all(plain)
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if sound { Ok(()) } else { Err(SecretError::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_kept_listed_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(dir.path().join("secrets"));
        assert!(secrets.list().is_empty());
        secrets.set("TOKEN", b"abc").unwrap();
        assert_eq!(secrets.list(), ["TOKEN"]);
        let names = ["TOKEN".to_owned()];
        assert_eq!(secrets.known(&names)["TOKEN"], "abc");
        assert!(secrets.remove("TOKEN").unwrap() && !secrets.remove("TOKEN").unwrap());
        assert!(secrets.known(&names).is_empty());
        for name in ["", "../x", "1A", "a-b"] {
            assert!(secrets.set(name, b"").is_err(), "{name}");
        }
    }
}
