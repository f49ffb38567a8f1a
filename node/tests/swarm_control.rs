//! The control plane between real networks on loopback: order, reconnection, refusals, crossed dials.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod swarm_peer;

use std::time::Duration;

use bytes::Bytes;
use node::net::{DialError, FRAME_MAX, Identity, NetError, NetEvent, SendError, start};
use proto::NodeId;
use swarm_peer::{Peer, config, pair, peer, secret, started};
use tokio::io::AsyncWriteExt as _;

#[tokio::test]
async fn frames_arrive_in_order_both_ways() {
    let (mut one, mut two) = pair().await;
    let (a, b) = (one.id(), two.id());
    for number in 0..100_u32 {
        one.send(b, number.to_le_bytes().to_vec());
        two.send(a, number.to_be_bytes().to_vec());
    }
    for number in 0..100_u32 {
        assert_eq!(two.frame().await, (a, Bytes::copy_from_slice(&number.to_le_bytes())));
        assert_eq!(one.frame().await, (b, Bytes::copy_from_slice(&number.to_be_bytes())));
    }
}

#[tokio::test]
async fn the_hello_tells_who_is_there() {
    let (mut one, two) = (peer().await, peer().await);
    one.wants(&two).await;
    let hello = one.connected(two.id()).await;
    assert_eq!(hello.version, "0.0.0-test");
    assert_eq!(hello.protocols, ["/fnode/log/1"]);
    assert_eq!(hello.listen_addrs, [two.addr().to_string()]);
    assert_eq!(hello.bulk_addrs, [two.handle().bulk_addrs()[0].to_string()]);
}

#[tokio::test]
async fn a_burst_of_a_thousand_frames_is_not_lost() {
    let (one, mut two) = pair().await;
    for number in 0..1_000_u32 {
        one.send(two.id(), [&number.to_le_bytes()[..], &[0; 196]].concat());
    }
    for number in 0..1_000_u32 {
        let (_, bytes) = two.frame().await;
        assert_eq!(bytes[..4], number.to_le_bytes());
    }
    assert_eq!(one.handle().frames_dropped(), 0);
}

#[tokio::test]
async fn the_largest_frame_arrives_and_a_larger_one_is_refused() {
    let (one, mut two) = pair().await;
    let too_long = vec![1; FRAME_MAX + 1];
    assert_eq!(one.handle().send(two.id(), too_long.into()), Err(SendError::Length(FRAME_MAX + 1)));
    one.send(two.id(), vec![7; FRAME_MAX]);
    assert_eq!(two.frame().await.1.len(), FRAME_MAX);
    assert_eq!(one.handle().send(NodeId([3; 32]), Bytes::from_static(b"x")), Err(SendError::NotConnected));
}

#[tokio::test]
async fn a_peer_that_does_not_read_fills_the_outbox_and_loses_nothing_that_was_queued() {
    let (one, mut two) = pair().await;
    let mut look = tokio::time::interval(Duration::from_millis(1));
    let (mut sent, mut full) = (0_u32, 0);
    while full < 100 {
        let frame = [&sent.to_le_bytes()[..], &[0; 1 << 18]].concat();
        match one.handle().send(two.id(), frame.into()) {
            Ok(()) => (sent, full) = (sent + 1, 0),
            Err(SendError::Full) => full += 1,
            Err(error) => panic!("{error}"),
        }
        if full > 0 {
            look.tick().await;
        }
        assert!(sent < 400, "100 MiB wait for a peer that reads nothing");
    }
    assert!(one.handle().frames_dropped() >= 100);
    for number in 0..sent {
        assert_eq!(two.frame().await.1[..4], number.to_le_bytes());
    }
}

#[tokio::test]
async fn frames_queued_while_a_dial_is_in_progress_are_sent() {
    let (one, mut two) = (peer().await, peer().await);
    one.wants(&two).await;
    // The command is taken before the next one, and the dial starts at once.
    one.handle().learn_addrs(NodeId([9; 32]), Vec::new()).await.unwrap();
    let queued = tokio::time::timeout(swarm_peer::DEADLINE, async {
        while one.handle().send(two.id(), Bytes::from_static(b"early")).is_err() {
            tokio::task::yield_now().await;
        }
    });
    queued.await.unwrap();
    assert_eq!(two.frame().await, (one.id(), Bytes::from_static(b"early")));
}

#[tokio::test]
async fn a_peer_that_restarts_on_its_port_is_found_again() {
    let identity = Identity::generate();
    let (mut one, mut two) = (peer().await, started(config(&identity)).await);
    one.wants(&two).await;
    let first = one.connected(two.id()).await;
    let addr = two.addr();
    for _ in 0..3 {
        two.handle().shutdown().await;
        one.event(NetEvent::Disconnected(two.id())).await;
        let mut again = config(&identity);
        again.listen = vec![addr.clone()];
        two = started(again).await;
        let hello = one.connected(two.id()).await;
        assert_ne!(hello.session, first.session);
        one.send(two.id(), &b"again"[..]);
        assert_eq!(two.frame().await.1, &b"again"[..]);
    }
}

#[tokio::test]
async fn a_daemon_that_ended_is_told_from_a_silent_host() {
    let (mut one, two) = pair().await;
    let gone = two.id();
    two.handle().shutdown().await;
    one.event(NetEvent::Disconnected(gone)).await;
    let since = std::time::Instant::now();
    one.event(NetEvent::Refused(gone)).await;
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert!(one.seen.iter().all(|event| !matches!(event, NetEvent::Unreachable(_))), "{:?}", one.seen);
}

#[tokio::test]
async fn crossed_dials_end_in_one_connection_that_stays() {
    for _ in 0..15 {
        let (mut one, mut two) = (peer().await, peer().await);
        tokio::join!(one.wants(&two), two.wants(&one));
        one.connected(two.id()).await;
        two.connected(one.id()).await;
        for number in 0..20_u8 {
            one.send(two.id(), vec![number]);
            assert_eq!(two.frame().await.1, [number][..]);
            two.send(one.id(), vec![number]);
            assert_eq!(one.frame().await.1, [number][..]);
        }
        for (peer, other) in [(&one, &two), (&two, &one)] {
            let flaps = |event: &&NetEvent| matches!(event, NetEvent::Disconnected(_) | NetEvent::Connected(..));
            assert_eq!(peer.seen.iter().filter(flaps).count(), 0, "{:?} with {:?}", peer.seen, other.id());
        }
    }
}

#[tokio::test]
async fn a_dial_answers_with_the_node_or_the_reason() {
    let (one, two) = (peer().await, peer().await);
    let dial = |addr: String| {
        let handle = one.handle();
        async move { handle.dial(addr.parse().unwrap()).await }
    };
    assert_eq!(one.handle().dial(two.addr()).await, Ok(two.id()));
    let named = format!("{}/p2p/{}", two.addr(), node::net::peer_id_of(two.id()));
    assert_eq!(dial(named).await, Ok(two.id()));
    assert_eq!(one.handle().dial(one.addr()).await, Err(DialError::Myself(one.addr())));
    let other: node::net::Multiaddr =
        format!("{}/p2p/{}", two.addr(), node::net::peer_id_of(one.id())).parse().unwrap();
    assert_eq!(one.handle().dial(other.clone()).await, Err(DialError::Myself(other)));
    let wrong = Identity::generate().node_id();
    let named: node::net::Multiaddr = format!("{}/p2p/{}", two.addr(), node::net::peer_id_of(wrong)).parse().unwrap();
    assert_eq!(one.handle().dial(named.clone()).await, Err(DialError::AnotherNode { addr: named, found: two.id() }));
    assert!(matches!(dial("/dns4/example.org/tcp/1".to_owned()).await, Err(DialError::BadAddress(_))));
    let addr = two.addr();
    two.handle().shutdown().await;
    assert_eq!(one.handle().dial(addr.clone()).await, Err(DialError::Refused(addr)));
}

#[tokio::test]
async fn a_dial_to_another_program_or_cluster_says_so() {
    let one = peer().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        socket.shutdown().await.unwrap();
    });
    let addr: node::net::Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    assert_eq!(one.handle().dial(addr.clone()).await, Err(DialError::NotFnode(addr)));
    server.await.unwrap();
    let mut foreign = config(&Identity::generate());
    foreign.gate.current = secret(1, 9);
    let foreign = started(foreign).await;
    assert_eq!(one.handle().dial(foreign.addr()).await, Err(DialError::WrongSecret(foreign.addr())));
    let mut renamed = config(&Identity::generate());
    renamed.cluster = proto::ClusterId([8; 16]);
    let renamed = started(renamed).await;
    // Both sides find out; whoever closes first decides how much the other can say.
    let answer = one.handle().dial(renamed.addr()).await;
    assert!(matches!(answer, Err(DialError::Unusable { .. } | DialError::NotAdmitted(_))), "{answer:?}");
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_error() {
    let one = peer().await;
    let mut second = config(&Identity::generate());
    second.listen = vec![one.addr()];
    let error = start(second).await.err().expect("the port is taken");
    assert!(matches!(error, NetError::PortInUse { .. }), "{error}");
    let mut odd = config(&Identity::generate());
    odd.bulk_listen = vec!["/ip4/127.0.0.1/udp/0".parse().unwrap()];
    assert!(matches!(start(odd).await.err(), Some(NetError::BadAddress(_))));
}

#[tokio::test]
async fn after_a_shutdown_every_call_is_answered() {
    let Peer { net, .. } = peer().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port());
    let handle = net.handle.clone();
    let dial = tokio::spawn(async move { handle.dial(addr.parse().unwrap()).await });
    // The dial is under way once the other side sees it.
    silent.accept().await.unwrap();
    net.handle.shutdown().await;
    assert_eq!(dial.await.unwrap(), Err(DialError::Closed));
    assert!(net.handle.keep_connected(Default::default()).await.is_err());
    net.handle.shutdown().await;
}
