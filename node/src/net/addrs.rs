//! Addresses: which ones are worth telling, in which order, and reading those that people type.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use libp2p::multiaddr::{Multiaddr, Protocol};
use libp2p::{PeerId, multiaddr};
use proto::NodeId;

use super::identity::node_id_of;

/// Docker's default bridge. It exists with the same address on every machine, so it leads a peer to itself.
const DOCKER_BRIDGE: [u8; 2] = [172, 17];

/// `/ip4|ip6/…/tcp/…` of an address, and who is said to be there. `None` for every other kind of address.
pub(super) fn split(addr: &Multiaddr) -> Option<(Multiaddr, Option<PeerId>)> {
    let socket = socket_addr(addr)?;
    match addr.iter().nth(2) {
        None => Some((of_socket(socket), None)),
        Some(Protocol::P2p(peer)) if addr.iter().count() == 3 => Some((of_socket(socket), Some(peer))),
        Some(_) => None,
    }
}

/// Like [`split`], for an address that is said to be `node`'s: `None` if it names another.
pub(super) fn split_for(addr: &Multiaddr, node: NodeId) -> Option<Multiaddr> {
    let (addr, peer) = split(addr)?;
    match peer {
        Some(peer) if node_id_of(&peer) != Some(node) => None,
        _ => Some(addr),
    }
}

/// IP address and TCP port at the head of `addr`.
pub(super) fn socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

pub(super) fn of_socket(socket: SocketAddr) -> Multiaddr {
    multiaddr::Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port()))
}

/// What to tell others, best first: loopback only if there is nothing else, Docker's bridge last.
pub(super) fn tellable<'a>(addrs: impl IntoIterator<Item = &'a Multiaddr>) -> Vec<Multiaddr> {
    let mut sockets: Vec<SocketAddr> =
        addrs.into_iter().filter_map(socket_addr).filter(|socket| !needs_zone(socket.ip())).collect();
    sockets.sort_unstable_by_key(|socket| (rank(socket.ip()), *socket));
    sockets.dedup();
    if sockets.iter().any(|socket| !socket.ip().is_loopback()) {
        sockets.retain(|socket| !socket.ip().is_loopback());
    }
    sockets.into_iter().map(of_socket).collect()
}

/// IPv4 of the LAN, then IPv6, then what is rarely reachable.
fn rank(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) if is_docker_bridge(ip) => 4,
        IpAddr::V4(ip) if ip.is_link_local() => 3,
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}

/// Link-local IPv6 addresses mean nothing without the name of an interface, which differs per machine.
fn needs_zone(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn is_docker_bridge(ip: Ipv4Addr) -> bool {
    ip.octets()[..2] == DOCKER_BRIDGE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::identity::{Identity, peer_id_of};

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn loopback_is_told_only_when_alone_and_docker_last() {
        let all = [
            addr("/ip4/127.0.0.1/tcp/4747"),
            addr("/ip4/172.17.0.1/tcp/4747"),
            addr("/ip6/2001:db8::1/tcp/4747"),
            addr("/ip4/192.0.2.7/tcp/4747"),
            addr("/ip4/192.0.2.7/tcp/4747"),
        ];
        let told: Vec<String> = tellable(&all).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["/ip4/192.0.2.7/tcp/4747", "/ip6/2001:db8::1/tcp/4747", "/ip4/172.17.0.1/tcp/4747"]);
        assert_eq!(tellable(&all[..1]), all[..1]);
    }

    #[test]
    fn an_address_is_split_into_place_and_peer() {
        let node = Identity::generate().node_id();
        let place = addr("/ip4/192.0.2.7/tcp/4747");
        let with_peer = place.clone().with(Protocol::P2p(peer_id_of(node)));
        assert_eq!(split(&with_peer), Some((place.clone(), Some(peer_id_of(node)))));
        assert_eq!(split_for(&with_peer, node), Some(place.clone()));
        assert_eq!(split_for(&place, node), Some(place));
        assert_eq!(split_for(&with_peer, Identity::generate().node_id()), None);
        for other in ["/dns4/host/tcp/1", "/ip4/1.2.3.4/udp/1", "/ip4/1.2.3.4", "/ip4/1.2.3.4/tcp/1/ws", ""] {
            assert_eq!(split(&addr(other)), None, "{other}");
        }
    }
}
