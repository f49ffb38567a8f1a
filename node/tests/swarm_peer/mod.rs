//! A node's network for tests: loopback, free ports, and waits with a deadline that say what they saw.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use node::net::{GateRules, Hello, Identity, Multiaddr, Net, NetConfig, NetEvent, NetHandle, start};
use proto::ticket::Secret;
use proto::{ClusterId, NodeId};

/// Past any timeout of the network itself.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Peer {
    pub(crate) net: Net,
    /// Events that a wait passed over.
    pub(crate) seen: Vec<NetEvent>,
}

pub(crate) fn secret(number: u32, byte: u8) -> Secret {
    Secret { number, key: [byte; 32] }
}

pub(crate) fn config(identity: &Identity) -> NetConfig {
    NetConfig {
        identity: identity.clone(),
        cluster: ClusterId([7; 16]),
        gate: GateRules::new(secret(1, 1)),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        bulk_listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        mdns: false,
        version: "0.0.0-test".to_owned(),
        protocols: vec!["/fnode/log/1".to_owned()],
    }
}

pub(crate) async fn peer() -> Peer {
    started(config(&Identity::generate())).await
}

pub(crate) async fn started(config: NetConfig) -> Peer {
    Peer { net: start(config).await.unwrap(), seen: Vec::new() }
}

/// Two peers that are connected to each other, each wanting the other.
pub(crate) async fn pair() -> (Peer, Peer) {
    let (mut one, mut two) = (peer().await, peer().await);
    one.wants(&two).await;
    two.wants(&one).await;
    one.connected(two.id()).await;
    two.connected(one.id()).await;
    (one, two)
}

impl Peer {
    pub(crate) fn id(&self) -> NodeId {
        self.net.handle.local()
    }

    pub(crate) fn handle(&self) -> NetHandle {
        self.net.handle.clone()
    }

    pub(crate) fn addr(&self) -> Multiaddr {
        self.net.handle.listen_addrs()[0].clone()
    }

    pub(crate) async fn wants(&self, other: &Peer) {
        self.net.handle.learn_addrs(other.id(), vec![other.addr()]).await.unwrap();
        self.net.handle.keep_connected(BTreeSet::from([other.id()])).await.unwrap();
    }

    pub(crate) fn send(&self, to: NodeId, bytes: impl Into<Bytes>) {
        self.net.handle.send(to, bytes.into()).unwrap();
    }

    /// The next event that `pick` takes; others are put aside in `seen`.
    pub(crate) async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(&NetEvent) -> Option<T>) -> T {
        let waited = tokio::time::timeout(DEADLINE, async {
            loop {
                let event = self.net.events.recv().await.expect("the network runs");
                if let Some(found) = pick(&event) {
                    return found;
                }
                self.seen.push(event);
            }
        });
        match waited.await {
            Ok(found) => found,
            Err(_) => panic!("{what} did not happen; seen: {:?}", self.seen),
        }
    }

    pub(crate) async fn connected(&mut self, node: NodeId) -> Hello {
        self.until("connected", |event| match event {
            NetEvent::Connected(who, hello) if *who == node => Some(Hello::clone(hello)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn event(&mut self, wanted: NetEvent) {
        self.until(&format!("{wanted:?}"), |event| (*event == wanted).then_some(())).await;
    }

    pub(crate) async fn frame(&mut self) -> (NodeId, Bytes) {
        self.until("a frame", |event| match event {
            NetEvent::Frame { from, bytes } => Some((*from, bytes.clone())),
            _ => None,
        })
        .await
    }
}
