//! Addresses, the peer-to-peer port, mDNS on the LAN, and the firewall as far as its rules can be read.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::{Context, Verdict};
use crate::exec::inventory::command;
use crate::node::Home;

const MDNS_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const MDNS_PORT: u16 = 5353;
/// A packet comes back from the own machine within a millisecond; a busy LAN brings others first.
const ECHO_LIMIT: Duration = Duration::from_millis(800);
/// Two tools are asked one after the other, within the limit of a check.
const TOOL_LIMIT: Duration = Duration::from_millis(800);

pub(super) fn addresses(_: &Context) -> Verdict {
    let v4 = ipv4(&fs::read_to_string("/proc/net/fib_trie").unwrap_or_default());
    let v6 = ipv6(&fs::read_to_string("/proc/net/if_inet6").unwrap_or_default());
    let all: Vec<String> = v4.iter().map(ToString::to_string).chain(v6.iter().map(ToString::to_string)).collect();
    if all.is_empty() {
        let finding = "only loopback: nodes on other machines cannot reach this one";
        return Verdict::warn(finding, "connect this machine to the network of the lab");
    }
    Verdict::ok(all.join(" "))
}

pub(super) fn port(context: &Context) -> Verdict {
    if context.running {
        let port = fs::read_to_string(Home::new(&context.home).last_port()).unwrap_or_default();
        return Verdict::ok(format!("TCP {} is in use by this node", port.trim()));
    }
    if context.port == 0 {
        return Verdict::ok("any free port");
    }
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, context.port)) {
        Ok(_) => Verdict::ok(format!("TCP {} is free", context.port)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Verdict::fail(
            format!("TCP {} is in use by another program", context.port),
            format!("see which with `ss -ltnp sport = :{}`, or choose another with --port", context.port),
        ),
        Err(error) => Verdict::fail(
            format!("TCP {} cannot be used: {error}", context.port),
            "choose a port from 1024 on with --port",
        ),
    }
}

pub(super) fn mdns(_: &Context) -> Verdict {
    let remedy = "join by ticket instead (fnode invite), or allow UDP 5353 to 224.0.0.251 on this network";
    match echo() {
        Ok(true) => Verdict::ok("packets to 224.0.0.251:5353 are sent and received"),
        Ok(false) => Verdict::warn("packets to 224.0.0.251:5353 do not come back: a firewall drops them", remedy),
        Err(error) => Verdict::warn(format!("224.0.0.251:5353 cannot be used: {error}"), remedy),
    }
}

pub(super) fn firewall(context: &Context) -> Verdict {
    let allow = |with: &str| match with {
        "ufw" => format!("sudo ufw allow {}/tcp && sudo ufw allow 5353/udp", context.port),
        "firewalld" => format!(
            "sudo firewall-cmd --permanent --add-port={}/tcp --add-service=mdns && sudo firewall-cmd --reload",
            context.port
        ),
        _ => format!(
            "accept TCP {} and UDP 5353 in the input chain, or choose a port that is accepted with --port",
            context.port
        ),
    };
    let output = |program: &str, arguments: &[&str]| {
        command::run(Command::new(program).args(arguments), TOOL_LIMIT).ok().and_then(command::Finished::success)
    };
    if context.port == 0 {
        return Verdict::skipped("with any free port there is no rule to look for");
    }
    let nft = output("nft", &["list", "ruleset"]).map(|rules| nft_blocks(&rules, context.port));
    let iptables = output("iptables", &["-S", "INPUT"]).map(|rules| iptables_blocks(&rules, context.port));
    let ufw =
        fs::read_to_string("/etc/ufw/ufw.conf").is_ok_and(|text| text.lines().any(|line| line.trim() == "ENABLED=yes"));
    let firewalld = fs::metadata("/run/firewalld").is_ok();
    let owner = if ufw {
        "ufw"
    } else if firewalld {
        "firewalld"
    } else {
        ""
    };
    match (nft, iptables) {
        (nft, iptables) if nft == Some(true) || iptables == Some(true) => {
            let finding = format!("incoming connections are dropped, and no rule accepts TCP {}", context.port);
            Verdict::warn(finding, allow(owner))
        }
        (None, None) if !owner.is_empty() => {
            let finding = format!("{owner} is active, and its rules cannot be read without root");
            Verdict::warn(finding, allow(owner))
        }
        (None, None) => Verdict::skipped("no rules can be read (no nft or iptables, or not root)"),
        _ => Verdict::ok(format!("no rule was found that drops TCP {}", context.port)),
    }
}

/// Whether nftables drops new connections to `port`: an input chain that drops by policy or at its end, and no rule
/// with this port that accepts. Best effort: sets, ranges and jumps are not followed.
fn nft_blocks(rules: &str, port: u16) -> bool {
    let mut blocks = false;
    for chain in rules.split("chain ").filter(|chain| chain.contains("hook input")) {
        let chain = chain.split_once('}').map_or(chain, |(body, _)| body);
        let drops =
            chain.contains("policy drop") || chain.lines().any(|line| is_final(line.trim(), &["drop", "reject"]));
        blocks |= drops && !accepts(rules, port, "accept");
    }
    blocks
}

/// As [`nft_blocks`], for `iptables -S INPUT`.
fn iptables_blocks(rules: &str, port: u16) -> bool {
    let lines = || rules.lines().map(str::trim);
    let drops = lines().any(|line| ["-P INPUT DROP", "-P INPUT REJECT"].contains(&line))
        || lines().any(|line| line == "-A INPUT -j DROP" || line.starts_with("-A INPUT -j REJECT"));
    drops && !accepts(rules, port, "ACCEPT")
}

/// A rule without a condition.
fn is_final(line: &str, verdicts: &[&str]) -> bool {
    let mut words = line.split_whitespace().filter(|word| *word != "counter");
    words.next().is_some_and(|word| verdicts.contains(&word))
}

fn accepts(rules: &str, port: u16, verdict: &str) -> bool {
    let port = port.to_string();
    rules.lines().any(|line| {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
        line.contains(verdict) && words.any(|word| word == port)
    })
}

/// Joins the mDNS group as the daemon does, asks for nodes, and waits to hear the own question. Other responders on
/// this machine (avahi) share the port.
fn echo() -> io::Result<bool> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, MDNS_PORT))?;
    let socket = UdpSocket::from(socket);
    socket.join_multicast_v4(&MDNS_GROUP, &Ipv4Addr::UNSPECIFIED)?;
    socket.set_multicast_loop_v4(true)?;
    let question = question(std::process::id());
    socket.send_to(&question, (MDNS_GROUP, MDNS_PORT))?;
    let deadline = Instant::now() + ECHO_LIMIT;
    let mut packet = [0; 1500];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv_from(&mut packet) {
            Ok((length, _)) if packet[..length] == question => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
}

/// A DNS question for `_p2p._udp.local`, the name that libp2p's mDNS answers to.
fn question(number: u32) -> Vec<u8> {
    let [.., high, low] = number.to_be_bytes();
    // Id, no flags, one question, no records.
    let mut packet = vec![high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["_p2p", "_udp", "local"] {
        packet.push(u8::try_from(label.len()).unwrap_or(0));
        packet.extend(label.bytes());
    }
    // Root, type PTR, class IN.
    packet.extend([0, 0, 12, 0, 1]);
    packet
}

/// The machine's own IPv4 addresses without loopback: in `fib_trie` a leaf, then a line that says it is local.
fn ipv4(trie: &str) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    let mut leaf = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(leaf.filter(|address| !address.is_loopback()));
        }
    }
    found
}

/// The machine's own IPv6 addresses that others can use: neither loopback nor bound to one link.
fn ipv6(interfaces: &str) -> BTreeSet<Ipv6Addr> {
    let global = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok().map(Ipv6Addr::from_bits)?;
        // Number, length of the prefix, then the scope: 0 is global.
        (fields.nth(2)? == "00").then_some(address)
    };
    interfaces.lines().filter_map(global).filter(|address| !address.is_loopback()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn own_addresses_are_read_without_loopback_and_link_local_ones() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.1.2.3\n        \
                    /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(ipv4(trie), BTreeSet::from([Ipv4Addr::new(10, 1, 2, 3)]));
        let interfaces = "00000000000000000000000000000001 01 80 10 80       lo\n\
                          fe80000000000000021122fffe334455 02 40 20 80     eth0\n\
                          20010db8000000000000000000000042 02 40 00 80     eth0\nrubbish\n";
        assert_eq!(ipv6(interfaces), BTreeSet::from(["2001:db8::42".parse().unwrap()]));
    }

    #[test]
    fn a_port_in_use_is_told_unless_it_is_our_own() {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let number = listener.local_addr().unwrap().port();
        let context = |running| Context::new(std::path::Path::new("/"), number, running);
        assert_eq!(port(&context(false)).state, State::Fail);
        assert_eq!(port(&context(true)).state, State::Ok);
        drop(listener);
        assert_eq!(port(&context(false)).state, State::Ok);
    }

    #[test]
    fn rules_that_drop_everything_but_ssh_block_our_port() {
        let nft = "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\
                   \t\ttcp dport 22 accept\n\t}\n\tchain output {\n\t\ttype filter hook output priority filter; policy accept;\n\t}\n}";
        assert!(nft_blocks(nft, 4700));
        assert!(!nft_blocks(&nft.replace("dport 22", "dport { 22, 4700 }"), 4700));
        assert!(!nft_blocks(&nft.replace("policy drop", "policy accept"), 4700));
        assert!(nft_blocks(
            &nft.replace("policy drop", "policy accept").replace("22 accept", "22 accept\n\t\tcounter drop"),
            4700
        ));
        assert!(!nft_blocks("", 4700));
        let iptables = "-P INPUT ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n";
        assert!(iptables_blocks(iptables, 4700));
        assert!(!iptables_blocks(&iptables.replace("22", "4700"), 4700));
        assert!(!iptables_blocks("-P INPUT ACCEPT\n", 4700));
    }

    #[test]
    fn the_question_is_a_dns_question() {
        let packet = question(0x0001_0203);
        assert_eq!(packet[..6], [2, 3, 0, 0, 0, 1]);
        assert_eq!(packet[12..], *b"\x04_p2p\x04_udp\x05local\0\0\x0c\0\x01");
    }
}
