//! Nodes of one cluster on one LAN find each other; those of another cluster are seen and left alone.
#![allow(clippy::unwrap_used, reason = "a failed test says where")]

mod swarm_peer;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use node::net::{Identity, NetEvent};
use swarm_peer::{Peer, config, secret, started};

/// Whether this machine hands multicast datagrams back to itself, as mDNS needs.
fn has_multicast() -> std::io::Result<()> {
    const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
    let receiver = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    receiver.join_multicast_v4(&GROUP, &Ipv4Addr::UNSPECIFIED)?;
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    sender.send_to(b"x", (GROUP, receiver.local_addr()?.port()))?;
    receiver.recv(&mut [0; 1]).map(drop)
}

async fn on_the_lan(number: u32, byte: u8) -> Peer {
    let mut config = config(&Identity::generate());
    config.gate.current = secret(number, byte);
    config.listen = vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()];
    config.bulk_listen = config.listen.clone();
    config.mdns = true;
    started(config).await
}

#[tokio::test]
async fn members_meet_on_the_lan_and_foreigners_do_not() {
    if let Err(error) = has_multicast() {
        println!("skipped: no multicast on this machine ({error})");
        return;
    }
    let foreign = on_the_lan(1, 9).await;
    let mut one = on_the_lan(1, 1).await;
    let mut two = on_the_lan(1, 1).await;
    one.connected(two.id()).await;
    two.connected(one.id()).await;
    for peer in [&one, &two] {
        let foreigner = |event: &&NetEvent| matches!(event, NetEvent::Connected(who, _) if *who == foreign.id());
        assert_eq!(peer.seen.iter().find(foreigner), None);
    }
}
