//! The first frame on every control stream: who speaks, in which version, and where else it can be reached.

use proto::ClusterId;
use proto::codec::{self, DecodeError, Word};
use serde::{Deserialize, Serialize};

/// Most addresses of one kind in a hello, and protocols: more are no help, and a peer's word is bounded.
pub(super) const ADDRS_MAX: usize = 16;
const PROTOCOLS_MAX: usize = 64;

/// What a node says about itself when a connection begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Version of its software, for people.
    pub version: String,
    /// Protocols that it speaks, such as `/fnode/log/1`.
    pub protocols: Vec<String>,
    /// Drawn at each start of its network: another number is another life of the same node.
    pub session: u64,
    /// Where it listens for control connections: multiaddr text without `/p2p`.
    pub listen_addrs: Vec<String>,
    /// Where it listens for bulk connections.
    pub bulk_addrs: Vec<String>,
}

/// Why a hello ends the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HelloError {
    #[error("the peer speaks a newer version than this node knows; upgrade this node")]
    Newer,
    #[error("the peer's hello is malformed: {0}")]
    Malformed(DecodeError),
    #[error("the peer's hello has too many entries")]
    TooMany,
    #[error("the peer belongs to cluster {theirs}, this node to {ours}")]
    OtherCluster { ours: ClusterId, theirs: ClusterId },
}

impl Word for Hello {
    const KIND: u16 = 3;
    const MAX: usize = 16 << 10;
}

impl Hello {
    /// The hello in a peer's first frame, for a node of cluster `ours`.
    pub(super) fn read(bytes: &[u8], ours: ClusterId) -> Result<Self, HelloError> {
        let hello: Self = codec::decode(bytes).map_err(|error| match error {
            DecodeError::Kind { .. } | DecodeError::Major(_) => HelloError::Newer,
            error => HelloError::Malformed(error),
        })?;
        let fits = hello.listen_addrs.len() <= ADDRS_MAX
            && hello.bulk_addrs.len() <= ADDRS_MAX
            && hello.protocols.len() <= PROTOCOLS_MAX;
        if !fits {
            return Err(HelloError::TooMany);
        }
        if hello.cluster != ours {
            return Err(HelloError::OtherCluster { ours, theirs: hello.cluster });
        }
        Ok(hello)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::harness::attack::attack;
    use crate::harness::golden::{Sample, check};

    const OURS: ClusterId = ClusterId([1; 16]);

    pub(in crate::net) fn sample(session: u64) -> Hello {
        Hello {
            cluster: OURS,
            version: "0.1.0".to_owned(),
            protocols: vec!["/fnode/log/1".to_owned()],
            session,
            listen_addrs: vec!["/ip4/192.0.2.7/tcp/4747".to_owned()],
            bulk_addrs: Vec::new(),
        }
    }

    #[test]
    fn golden_hello() {
        let bytes = codec::encode(&sample(7));
        assert_eq!(Hello::read(&bytes, OURS), Ok(sample(7)));
        check("net.Hello", &[Sample::new("the first frame of a control stream", &sample(7), bytes)]);
    }

    #[test]
    fn hostile_bytes_in_the_place_of_a_hello_do_no_harm() {
        attack("Hello", &codec::encode(&sample(7)), |bytes| Hello::read(bytes, OURS).is_ok());
    }

    #[test]
    fn a_hello_that_does_not_fit_is_refused_with_its_reason() {
        let mut bytes = codec::encode(&sample(7));
        assert!(matches!(Hello::read(&bytes, ClusterId([9; 16])), Err(HelloError::OtherCluster { .. })));
        assert!(matches!(Hello::read(&bytes[..20], OURS), Err(HelloError::Malformed(_))));
        bytes[5] = 99;
        assert_eq!(Hello::read(&bytes, OURS), Err(HelloError::Newer));
        let many = Hello { bulk_addrs: vec![String::new(); 17], ..sample(7) };
        assert_eq!(Hello::read(&codec::encode(&many), OURS), Err(HelloError::TooMany));
    }
}
