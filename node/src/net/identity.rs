//! A node's identity: its Ed25519 key on disk, and the two spellings of its public half.
//!
//! The daemon loads it once at start and gives it to the network and to whoever signs log entries. The key
//! never leaves this process, and its file is readable by its owner alone.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use libp2p::PeerId;
use libp2p::identity::{Keypair, ed25519};
use proto::NodeId;

/// First word of the key file; another layout takes another number.
const MARKER: &str = "fnode-identity-1";
/// A peer id of an Ed25519 key is this and the key: an identity multihash (0x00) of 36 bytes (0x24), which are
/// the protobuf fields key type (0x08) = Ed25519 (0x01) and data (0x12) of 32 bytes (0x20).
const PEER_ID_HEAD: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// An Ed25519 key pair. Its debug form shows the public half only.
#[derive(Clone)]
pub struct Identity {
    keys: ed25519::Keypair,
}

/// Why there is no identity to start with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file or its directory cannot be used.
    #[error("cannot use the key file {}: {source}", path.display())]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there and holds something else.
    #[error("{} is not a key file of this version; restore it from a backup, or move it away and join again as a new node", .0.display())]
    Malformed(PathBuf),
}

/// The identity stored at `path`; if there is no such file, a new one, durable before this returns.
/// A file that others can read is narrowed to its owner.
///
/// # Errors
/// [`IdentityError`]; nothing is left half written.
pub fn load_or_create_identity(path: &Path) -> Result<Identity, IdentityError> {
    let io = |source| IdentityError::Io { path: path.to_owned(), source };
    match fs::read_to_string(path) {
        Ok(text) => {
            narrow(path).map_err(io)?;
            parse(&text).ok_or_else(|| IdentityError::Malformed(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let identity = Identity::generate();
            store(path, &identity).map_err(io)?;
            Ok(identity)
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(IdentityError::Malformed(path.to_owned())),
        Err(error) => Err(io(error)),
    }
}

/// The peer id of the node with this id.
#[must_use]
pub fn peer_id_of(node: NodeId) -> PeerId {
    let mut bytes = [0; 38];
    bytes[..6].copy_from_slice(&PEER_ID_HEAD);
    bytes[6..].copy_from_slice(&node.0);
    PeerId::from_bytes(&bytes).expect("an identity multihash of 36 bytes is a peer id")
}

/// The node with this peer id; `None` if its key is not an Ed25519 key, as every node's is.
#[must_use]
pub fn node_id_of(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PEER_ID_HEAD)?;
    key.try_into().ok().map(NodeId)
}

impl Identity {
    /// A fresh identity that is stored nowhere.
    #[must_use]
    pub fn generate() -> Self {
        Self { keys: ed25519::Keypair::generate() }
    }

    /// The public half: this node's name.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId(self.keys.public().to_bytes())
    }

    /// The secret half, for signing log entries.
    #[must_use]
    pub fn secret_key(&self) -> [u8; 32] {
        self.keys.secret().as_ref().try_into().expect("an Ed25519 secret key has 32 bytes")
    }

    /// The pair as libp2p wants it.
    pub(super) fn libp2p(&self) -> Keypair {
        self.keys.clone().into()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.node_id().short())
    }
}

fn parse(text: &str) -> Option<Identity> {
    let digits = text.strip_prefix(MARKER)?.trim();
    // The secret has the text form of a node id: 64 hex digits.
    let NodeId(secret) = digits.parse().ok()?;
    let secret = ed25519::SecretKey::try_from_bytes(secret).ok()?;
    Some(Identity { keys: ed25519::Keypair::from(secret) })
}

/// Writes aside, syncs, then links into place: a crash leaves the whole file or none, and of two processes
/// that start at once the second fails instead of taking the first one's name.
fn store(path: &Path, identity: &Identity) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    writeln!(file, "{MARKER} {}", NodeId(identity.secret_key()))?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

fn narrow(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the key file was readable by others; now it is not");
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check};

    #[test]
    fn an_identity_is_made_once_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        let made = load_or_create_identity(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let found = load_or_create_identity(&path).unwrap();
        assert_eq!(made.node_id(), found.node_id());
        assert_eq!(made.secret_key(), found.secret_key());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        for text in ["", "fnode-identity-1 12", "fnode-identity-2 00", "\u{fffd}"] {
            fs::write(&path, text).unwrap();
            assert!(matches!(load_or_create_identity(&path), Err(IdentityError::Malformed(_))), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let missing = directory.path().join("no/identity");
        let error = load_or_create_identity(&missing).unwrap_err();
        assert!(error.to_string().contains("no/identity"), "{error}");
    }

    #[test]
    fn node_id_and_peer_id_are_two_spellings() {
        let identity = Identity::generate();
        let peer = identity.libp2p().public().to_peer_id();
        assert_eq!(peer_id_of(identity.node_id()), peer);
        assert_eq!(node_id_of(&peer), Some(identity.node_id()));
        assert!(!format!("{identity:?}").contains(&NodeId(identity.secret_key()).short()));
    }

    #[test]
    fn a_peer_id_of_another_kind_of_key_is_no_node() {
        let hashed = PeerId::from_bytes(&[&[0x12, 0x20][..], &[7; 32]].concat()).unwrap();
        assert_eq!(node_id_of(&hashed), None);
    }

    #[test]
    fn golden_identity() {
        let identity = parse(&format!("{MARKER} {}", "5a".repeat(32))).expect("a key");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        store(&path, &identity).unwrap();
        let text = fs::read_to_string(path).unwrap();
        let peer = peer_id_of(identity.node_id()).to_string();
        let samples = [Sample::text("the key's file", &identity, &text), Sample::text("peer id", &identity, &peer)];
        check("net.Identity", &samples);
        attack_loosely("the key's file", text.as_bytes(), 500, |bytes| {
            String::from_utf8(bytes.to_vec()).is_ok_and(|text| parse(&text).is_some())
        });
    }
}
