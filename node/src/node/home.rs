//! Where a node keeps things: the layout of its data directory. Paths only; nobody is asked, nothing is opened.

use std::path::{Path, PathBuf};

use crate::exec::protocol::JOBS_DIR;

/// A node's data directory (`$FNODE_HOME`, default `~/.fnode`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// The data directory at `dir`, made absolute so that a change of directory does not move it.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self(std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()))
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The node's Ed25519 key; 0600.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// Which cluster it belongs to, with the cluster's secrets; 0600.
    #[must_use]
    pub fn cluster(&self) -> PathBuf {
        self.0.join("cluster.json")
    }

    /// Addresses of peers that were met.
    #[must_use]
    pub fn peers(&self) -> PathBuf {
        self.0.join("peers.json")
    }

    /// What the user configured.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// Address and token of the HTTP API; 0600.
    #[must_use]
    pub fn api(&self) -> PathBuf {
        self.0.join("api.json")
    }

    /// Sockets, process ids and the runner's files.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The peer-to-peer port of the last start.
    #[must_use]
    pub fn last_port(&self) -> PathBuf {
        self.run().join("port")
    }

    /// The name that the node had last: without another word it keeps it.
    pub fn last_name(&self) -> PathBuf {
        self.run().join("name")
    }

    /// There when a member has removed this node from its cluster.
    #[must_use]
    pub fn removed(&self) -> PathBuf {
        self.0.join("removed")
    }

    /// The HTTP API's Unix socket; 0600.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        self.run().join("api.sock")
    }

    /// The replicated log and its index.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// Files by content.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    /// Environments by content.
    #[must_use]
    pub fn environments(&self) -> PathBuf {
        self.0.join("environments")
    }

    /// Attempts that run here, a directory each.
    #[must_use]
    pub fn jobs(&self) -> PathBuf {
        self.0.join(JOBS_DIR)
    }

    /// The Python package that jobs import, a directory per version.
    #[must_use]
    pub fn sdk(&self) -> PathBuf {
        self.0.join("sdk")
    }

    /// What jobs keep between their attempts, a directory each.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// Values of cached calls on this machine, which the Python package reads by itself.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// Where programs on this machine ask for cached values; 0600.
    #[must_use]
    pub fn cache_socket(&self) -> PathBuf {
        self.0.join("cache.sock")
    }

    /// What is owed to object stores, and what comes from there.
    #[must_use]
    pub fn elsewhere(&self) -> PathBuf {
        self.0.join("elsewhere")
    }

    /// Variables of the clouds for a daemon that was started without them; 0600.
    #[must_use]
    pub fn storage_env(&self) -> PathBuf {
        self.0.join("storage.env")
    }

    /// Secrets that users gave; 0600 each. They never leave this directory.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.0.join("secrets")
    }

    /// The daemon's own log when it runs detached.
    #[must_use]
    pub fn daemon_log(&self) -> PathBuf {
        self.0.join("daemon.log")
    }
}
