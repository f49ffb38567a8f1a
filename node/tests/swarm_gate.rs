//! The gate: who does not get past the handshake, and what a rotation of the secret keeps working.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod swarm_peer;

use std::collections::BTreeSet;

use libp2p::futures::StreamExt as _;
use libp2p::identity::{Keypair, ed25519};
use libp2p::swarm::{SwarmEvent, dummy};
use libp2p::{Swarm, SwarmBuilder, noise, tcp, yamux};
use node::net::{BulkError, BulkProtocol, DialError, GateRules, Identity, Multiaddr, NetEvent, peer_id_of};
use swarm_peer::{DEADLINE, Peer, config, pair, peer, secret, started};

/// A libp2p node that is none of ours; with `prologue`, one that guessed how the gate works.
fn stranger(keys: Keypair, prologue: Option<Vec<u8>>) -> Swarm<dummy::Behaviour> {
    let secure = move |keys: &Keypair| {
        let noise = noise::Config::new(keys)?;
        Ok::<_, noise::Error>(match prologue.clone() {
            Some(prologue) => noise.with_prologue(prologue),
            None => noise,
        })
    };
    SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_tcp(tcp::Config::default(), secure, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| dummy::Behaviour)
        .unwrap()
        .build()
}

fn keys_of(identity: &Identity) -> Keypair {
    ed25519::Keypair::from(ed25519::SecretKey::try_from_bytes(identity.secret_key()).unwrap()).into()
}

/// Dials and returns whether a connection came about on the stranger's side.
async fn gets_in(mut swarm: Swarm<dummy::Behaviour>, addr: Multiaddr) -> bool {
    swarm.dial(addr).unwrap();
    tokio::time::timeout(DEADLINE, async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => return true,
                SwarmEvent::OutgoingConnectionError { .. } => return false,
                _ => {}
            }
        }
    })
    .await
    .unwrap()
}

/// `node` saw nobody: it still works, and nothing came before the one we sent to see that.
async fn saw_nobody(node: &mut Peer) {
    let friend = peer().await;
    friend.handle().dial(node.addr()).await.unwrap();
    node.connected(friend.id()).await;
    assert!(node.seen.iter().all(|event| matches!(event, NetEvent::Listening(_))), "{:?}", node.seen);
}

#[tokio::test]
async fn a_strangers_node_does_not_get_past_the_handshake() {
    let mut node = peer().await;
    let member = Identity::generate();
    let bulk = node.handle().bulk_addrs()[0].clone();
    for addr in [node.addr(), bulk] {
        assert!(!gets_in(stranger(Keypair::generate_ed25519(), None), addr.clone()).await, "stock noise");
        assert!(!gets_in(stranger(keys_of(&member), None), addr.clone()).await, "a member's identity");
        let guess = blake3::derive_key("fnode 2026 cluster gate v1", &[2; 32]).to_vec();
        assert!(!gets_in(stranger(keys_of(&member), Some(guess)), addr).await, "a wrong prologue");
    }
    saw_nobody(&mut node).await;
}

#[tokio::test]
async fn a_node_does_not_let_itself_be_led_to_a_stranger() {
    let mut swarm = stranger(Keypair::generate_ed25519(), None);
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let node = peer().await;
    let handle = node.handle();
    let dial = tokio::spawn(async move { handle.dial(addr).await });
    let answered = loop {
        tokio::select! {
            event = swarm.select_next_some() => {
                assert!(!matches!(event, SwarmEvent::ConnectionEstablished { .. }));
                if dial.is_finished() { break dial.await.unwrap(); }
            }
            () = async { while !dial.is_finished() { tokio::task::yield_now().await } } => break dial.await.unwrap(),
        }
    };
    assert!(matches!(answered, Err(DialError::NotFnode(_))), "{answered:?}");
}

#[tokio::test]
async fn a_members_identity_with_another_secret_stays_outside() {
    let (mut one, two) = (peer().await, Identity::generate());
    let mut wrong = config(&two);
    wrong.gate.current = secret(1, 2);
    let wrong = started(wrong).await;
    assert_eq!(wrong.handle().dial(one.addr()).await, Err(DialError::WrongSecret(one.addr())));
    saw_nobody(&mut one).await;
}

#[tokio::test]
async fn the_previous_secret_opens_the_door_to_members_only() {
    let (member, removed) = (Identity::generate(), Identity::generate());
    let mut rotated = config(&Identity::generate());
    rotated.gate.current = secret(2, 2);
    rotated.gate.previous = Some(secret(1, 1));
    rotated.gate.may_enter_by_previous = BTreeSet::from([member.node_id()]);
    let mut rotated = started(rotated).await;
    let late = started(config(&member)).await;
    let out = started(config(&removed)).await;
    assert_eq!(late.handle().dial(rotated.addr()).await, Ok(rotated.id()));
    assert_eq!(out.handle().dial(rotated.addr()).await, Err(DialError::NotAdmitted(rotated.addr())));
    // Nor does the rotated node go to the removed one by itself.
    assert_eq!(rotated.handle().dial(out.addr()).await, Err(DialError::NotAdmitted(out.addr())));
    rotated.connected(late.id()).await;
    assert!(rotated.seen.iter().all(|event| matches!(event, NetEvent::Listening(_))), "{:?}", rotated.seen);
}

#[tokio::test]
async fn rotations_on_both_sides_of_a_partition_meet_by_the_previous_secret() {
    let identities = [Identity::generate(), Identity::generate()];
    let mut peers = Vec::new();
    for (byte, identity) in [2, 3].into_iter().zip(&identities) {
        let mut rotated = config(identity);
        rotated.gate.current = secret(2, byte);
        rotated.gate.previous = Some(secret(1, 1));
        rotated.gate.may_enter_by_previous = identities.iter().map(Identity::node_id).collect();
        peers.push(started(rotated).await);
    }
    assert_eq!(peers[0].handle().dial(peers[1].addr()).await, Ok(peers[1].id()));
}

#[tokio::test]
async fn a_rotation_keeps_connections_and_opens_the_new_door() {
    let (mut one, mut two) = pair().await;
    let rules = |peer: &Peer| GateRules {
        previous: Some(secret(1, 1)),
        may_enter_by_previous: BTreeSet::from([peer.id()]),
        ..GateRules::new(secret(2, 2))
    };
    let cluster = proto::ClusterId([7; 16]);
    one.handle().set_gate(cluster, rules(&two)).await.unwrap();
    one.send(two.id(), &b"the new secret"[..]);
    assert_eq!(two.frame().await.1, &b"the new secret"[..]);
    two.handle().set_gate(cluster, rules(&one)).await.unwrap();
    let mut third = config(&Identity::generate());
    third.gate.current = secret(2, 2);
    let third = started(third).await;
    assert_eq!(third.handle().dial(two.addr()).await, Ok(two.id()));
    assert!(one.net.events.try_recv().is_none(), "nothing happened to the connection");
}

#[tokio::test]
async fn a_removed_node_is_disconnected_and_stays_outside() {
    let (mut one, mut two) = pair().await;
    let removed = two.id();
    one.handle().forget(removed).await.unwrap();
    one.event(NetEvent::Disconnected(removed)).await;
    two.event(NetEvent::Disconnected(one.id())).await;
    // It tries at once, with the right secret, and is turned away.
    two.event(NetEvent::Unreachable(one.id())).await;
    assert_eq!(two.handle().dial(one.addr()).await, Err(DialError::NotAdmitted(one.addr())));
    assert_eq!(one.handle().open_bulk(removed, BulkProtocol::Blobs).await.err(), Some(BulkError::Unknown));
    assert_eq!(two.handle().open_bulk(one.id(), BulkProtocol::Blobs).await.err(), Some(BulkError::Unreachable));
    assert_eq!(one.handle().dial(two.addr()).await, Err(DialError::NotAdmitted(two.addr())));
    saw_nobody_but(&mut one, removed).await;
}

async fn saw_nobody_but(node: &mut Peer, gone: proto::NodeId) {
    let friend = peer().await;
    friend.handle().dial(node.addr()).await.unwrap();
    node.connected(friend.id()).await;
    let back = |event: &NetEvent| matches!(event, NetEvent::Connected(who, _) if *who == gone);
    assert!(!node.seen.iter().any(back), "{} came back: {:?}", peer_id_of(gone), node.seen);
}
