//! Which cluster this node belongs to: a small file with the cluster's name, id and secrets, 0600.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use proto::ClusterId;
use proto::ticket::Secret;
use serde::{Deserialize, Serialize};

/// A cluster, as a member knows it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Its name for people.
    pub name: String,
    /// What opens its door now.
    pub secret: Secret,
    /// What opened it before: for members that were away.
    pub previous: Option<Secret>,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(Debug))]
struct Stored {
    version: u32,
    id: String,
    name: String,
    secrets: Vec<StoredSecret>,
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(Debug))]
struct StoredSecret {
    number: u32,
    key: String,
}

/// Why a cluster file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not written by this program.
    #[error("{0} is damaged; restore it from a backup, or move the data directory away and join again with a ticket")]
    Damaged(PathBuf),
}

impl Cluster {
    /// A new cluster of one.
    #[must_use]
    pub fn found(name: &str) -> Self {
        let secret = Secret { number: 1, key: rand::random() };
        Self { id: ClusterId(rand::random()), name: name.to_owned(), secret, previous: None }
    }

    /// Takes a newer secret; the one before it still opens the door to members that were away. Whether it was newer.
    pub fn adopt(&mut self, secret: Secret) -> bool {
        let newer = secret.supersedes(&self.secret);
        if newer {
            self.previous = Some(std::mem::replace(&mut self.secret, secret));
        }
        newer
    }

    /// A secret that supersedes the current one.
    #[must_use]
    pub fn next_secret(&self) -> Secret {
        Secret { number: self.secret.number.saturating_add(1), key: rand::random() }
    }

    /// The cluster in the file at `path`; `None` when there is none yet.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn load(path: &Path) -> Result<Option<Self>, ClusterError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ClusterError::Io { action: "read", path: path.to_owned(), source }),
        };
        let damaged = || ClusterError::Damaged(path.to_owned());
        let stored: Stored = serde_json::from_str(&text).map_err(|_| damaged())?;
        let mut secrets = stored.secrets.iter().map(|stored| {
            let key: proto::ContentId = stored.key.parse().map_err(|_| damaged())?;
            Ok(Secret { number: stored.number, key: key.0 })
        });
        Ok(Some(Self {
            id: stored.id.parse().map_err(|_| damaged())?,
            name: stored.name,
            secret: secrets.next().ok_or_else(damaged)??,
            previous: secrets.next().transpose()?,
        }))
    }

    /// Writes the file anew, durably and in one piece.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), ClusterError> {
        let secrets = std::iter::once(&self.secret).chain(&self.previous);
        let stored = Stored {
            version: 1,
            id: self.id.to_string(),
            name: self.name.clone(),
            secrets: secrets
                .map(|secret| StoredSecret { number: secret.number, key: proto::ContentId(secret.key).to_string() })
                .collect(),
        };
        let text = serde_json::to_vec_pretty(&stored).expect("plain strings and numbers serialize");
        write_private(path, &text).map_err(|source| ClusterError::Io { action: "write", path: path.to_owned(), source })
    }
}

/// Writes a file that only its owner may read: aside, synced, renamed.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    match path.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check};

    #[test]
    fn a_cluster_is_read_back_as_it_was_written_and_only_by_its_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        assert!(Cluster::load(&path).unwrap().is_none());
        let mut cluster = Cluster::found("lab");
        cluster.previous = Some(Secret { number: 0, key: [7; 32] });
        cluster.save(&path).unwrap();
        let read = Cluster::load(&path).unwrap().unwrap();
        assert_eq!((read.id, read.name), (cluster.id, cluster.name));
        assert_eq!(read.secret.key, cluster.secret.key);
        assert_eq!(read.previous.map(|secret| secret.key), Some([7; 32]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(Cluster::load(&path), Err(ClusterError::Damaged(_))));
    }

    #[test]
    fn golden_cluster_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        let secret = |number| Secret { number, key: [0x5a; 32] };
        let (id, name) = (ClusterId([2; 16]), "lab-a".to_owned());
        let cluster = Cluster { id, name, secret: secret(3), previous: Some(secret(2)) };
        cluster.save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let stored: Stored = serde_json::from_str(&text).unwrap();
        check("node.Cluster", &[Sample::text("cluster.json", &stored, &text)]);
        attack_loosely("cluster.json", text.as_bytes(), 20, |bytes| {
            std::fs::write(&path, bytes).unwrap();
            Cluster::load(&path).is_ok()
        });
    }
}
