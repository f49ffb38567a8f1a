//! The gate: who gets past the handshake (DESIGN §5).
//!
//! The cluster's secret is noise's prologue, so a peer without it fails the handshake before it is a
//! connection. This wrapper around libp2p's noise adds what a rotation needs: each known secret has a protocol
//! name of its own, both sides agree on one they share, and a peer that came in by the previous secret, or
//! whose identity was shut out, is turned away before the handshake ends. Both swarms use it, in both
//! directions. It keeps no connection and starts nothing.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::futures::{AsyncRead, AsyncWrite};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise};
use proto::NodeId;
use proto::ticket::Secret;

use super::identity::node_id_of;

/// What every node offers last. Agreeing on it always fails; it only tells "a node of another cluster" from
/// "no node at all", which a person who joins wants to know.
const NO_COMMON_SECRET: &str = "/fnode/noise/none";

/// Who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateRules {
    /// The secret that opens the door to everyone who holds it.
    pub current: Secret,
    /// The one before; it opens the door only to `may_enter_by_previous`.
    pub previous: Option<Secret>,
    /// Members not removed, which may still have to be told the current secret.
    pub may_enter_by_previous: BTreeSet<NodeId>,
    /// Removed members: their identity does not come in, whatever secret they hold.
    pub shut_out: BTreeSet<NodeId>,
}

/// Why a handshake did not end in a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum GateError {
    #[error("no secret in common")]
    NoCommonSecret,
    #[error("the secrets have one name and differ")]
    WrongSecret,
    #[error("{0} was removed from the cluster")]
    ShutOut(PeerId),
    #[error("{0} came by the previous secret and is not a member")]
    PreviousSecret(PeerId),
    #[error("handshake failed")]
    Handshake(#[source] noise::Error),
}

/// The security upgrade of both swarms. Clones share their rules.
#[derive(Clone)]
pub(super) struct Gate {
    noise: noise::Config,
    rules: Arc<RwLock<GateRules>>,
}

/// One of the names on offer, and what stands behind it.
#[derive(Clone)]
pub(super) struct Way {
    name: String,
    kind: WayKind,
}

#[derive(Clone)]
enum WayKind {
    Current { prologue: [u8; 32] },
    Previous { prologue: [u8; 32] },
    Nowhere,
}

impl GateRules {
    /// One secret, nobody shut out.
    #[must_use]
    pub fn new(current: Secret) -> Self {
        Self { current, previous: None, may_enter_by_previous: BTreeSet::new(), shut_out: BTreeSet::new() }
    }

    fn ways(&self) -> Vec<Way> {
        let current = way_name(&self.current);
        let mut ways = Vec::with_capacity(3);
        if let Some(previous) = &self.previous {
            let name = way_name(previous);
            if name != current {
                ways.push(Way { name, kind: WayKind::Previous { prologue: prologue(previous) } });
            }
        }
        ways.insert(0, Way { name: current, kind: WayKind::Current { prologue: prologue(&self.current) } });
        ways.push(Way { name: NO_COMMON_SECRET.to_owned(), kind: WayKind::Nowhere });
        ways
    }

    fn check(&self, peer: PeerId, kind: &WayKind) -> Result<(), GateError> {
        // A node's key is Ed25519; another kind can be no member, so no set could hold it.
        let node = node_id_of(&peer).ok_or(GateError::ShutOut(peer))?;
        if self.shut_out.contains(&node) {
            return Err(GateError::ShutOut(peer));
        }
        match kind {
            WayKind::Previous { .. } if !self.may_enter_by_previous.contains(&node) => {
                Err(GateError::PreviousSecret(peer))
            }
            _ => Ok(()),
        }
    }
}

impl Gate {
    pub(super) fn new(keys: &Keypair, rules: GateRules) -> Result<Self, noise::Error> {
        Ok(Self { noise: noise::Config::new(keys)?, rules: Arc::new(RwLock::new(rules)) })
    }

    /// Replaces the rules; connections that exist are not touched.
    pub(super) fn set_rules(&self, rules: GateRules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Shuts one identity out, or lets it in again.
    pub(super) fn shut_out(&self, node: NodeId) {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        rules.shut_out.insert(node);
        rules.may_enter_by_previous.remove(&node);
    }

    pub(super) fn is_shut_out(&self, node: NodeId) -> bool {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).shut_out.contains(&node)
    }

    fn check(&self, peer: PeerId, kind: &WayKind) -> Result<(), GateError> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).check(peer, kind)
    }

    fn noise_for(&self, kind: &WayKind) -> Result<noise::Config, GateError> {
        match kind {
            WayKind::Current { prologue } | WayKind::Previous { prologue } => {
                Ok(self.noise.clone().with_prologue(prologue.to_vec()))
            }
            WayKind::Nowhere => Err(GateError::NoCommonSecret),
        }
    }
}

/// `/fnode/noise/<number>-<print>`. The print, 32 bits of a hash of the 256-bit key, gives nothing away; it lets
/// two nodes see before the handshake that they hold different secrets of one number, as after a rotation on
/// both sides of a partition, and fall back on the previous one.
fn way_name(secret: &Secret) -> String {
    let print = blake3::derive_key("fnode 2026 cluster secret name v1", &secret.key);
    format!("/fnode/noise/{}-{}", secret.number, blake3::Hash::from_bytes(print).to_hex().split_at(8).0)
}

/// What both sides mix into the handshake.
fn prologue(secret: &Secret) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("fnode 2026 cluster gate v1");
    hasher.update(&secret.key);
    hasher.update(&secret.number.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// Another prologue makes the tag of the first encrypted message wrong.
fn explain(error: noise::Error) -> GateError {
    match &error {
        noise::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => GateError::WrongSecret,
        _ => GateError::Handshake(error),
    }
}

impl AsRef<str> for Way {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

impl UpgradeInfo for Gate {
    type Info = Way;
    type InfoIter = std::vec::IntoIter<Way>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).ways().into_iter()
    }
}

impl<T> InboundConnectionUpgrade<T> for Gate
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = GateError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Output, GateError>> + Send>>;

    fn upgrade_inbound(self, socket: T, way: Way) -> Self::Future {
        Box::pin(async move {
            let noise = self.noise_for(&way.kind)?;
            let (peer, io) = noise.upgrade_inbound(socket, "").await.map_err(explain)?;
            self.check(peer, &way.kind)?;
            Ok((peer, io))
        })
    }
}

impl<T> OutboundConnectionUpgrade<T> for Gate
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = GateError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Output, GateError>> + Send>>;

    fn upgrade_outbound(self, socket: T, way: Way) -> Self::Future {
        Box::pin(async move {
            let noise = self.noise_for(&way.kind)?;
            let (peer, io) = noise.upgrade_outbound(socket, "").await.map_err(explain)?;
            self.check(peer, &way.kind)?;
            Ok((peer, io))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::golden::{Sample, check};
    use crate::net::identity::Identity;

    fn secret(number: u32, byte: u8) -> Secret {
        Secret { number, key: [byte; 32] }
    }

    fn names(rules: &GateRules) -> Vec<String> {
        rules.ways().into_iter().map(|way| way.name).collect()
    }

    #[test]
    fn names_are_offered_current_first_and_do_not_change_unnoticed() {
        let mut rules = GateRules::new(secret(2, 2));
        rules.previous = Some(secret(1, 1));
        assert_eq!(names(&rules), ["/fnode/noise/2-58f7507f", "/fnode/noise/1-69d3cc4a", "/fnode/noise/none"]);
        rules.previous = Some(secret(2, 2));
        assert_eq!(names(&rules).len(), 2);
    }

    #[test]
    fn secrets_of_one_number_have_different_names_and_prologues() {
        assert_ne!(way_name(&secret(1, 1)), way_name(&secret(1, 2)));
        assert_ne!(prologue(&secret(1, 1)), prologue(&secret(1, 2)));
        assert_ne!(prologue(&secret(1, 1)), prologue(&secret(2, 1)));
    }

    #[test]
    fn the_previous_secret_opens_only_to_those_named() {
        let [member, other] = [Identity::generate(), Identity::generate()];
        let peer = |identity: &Identity| identity.libp2p().public().to_peer_id();
        let mut rules = GateRules::new(secret(2, 2));
        rules.may_enter_by_previous.insert(member.node_id());
        let previous = WayKind::Previous { prologue: [0; 32] };
        let current = WayKind::Current { prologue: [0; 32] };
        assert!(rules.check(peer(&member), &previous).is_ok());
        assert!(matches!(rules.check(peer(&other), &previous), Err(GateError::PreviousSecret(_))));
        assert!(rules.check(peer(&other), &current).is_ok());
        rules.shut_out.insert(member.node_id());
        assert!(matches!(rules.check(peer(&member), &current), Err(GateError::ShutOut(_))));
        assert!(matches!(rules.check(peer(&member), &previous), Err(GateError::ShutOut(_))));
    }

    #[test]
    fn golden_gate() {
        let secret = secret(3, 0x5a);
        let name = Sample::text("name of the way, from the secret", &secret, &way_name(&secret));
        let sample = Sample::new("prologue of the handshake, from the secret", &secret, prologue(&secret).to_vec());
        check("net.Gate", &[name, sample]);
    }
}
