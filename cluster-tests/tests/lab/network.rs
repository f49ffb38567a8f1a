//! A network of this machine's own: each node in a network namespace with one interface on one of two
//! switches, which a cable joins. Cables can be pulled and plugged. Everything lies in namespaces that are
//! named after this process and removed when this is dropped; the machine's own interfaces are not touched.

use std::path::Path;
use std::process::{Command, Stdio};

/// The namespaces of a test.
pub(crate) struct Network {
    /// Begins every namespace's name.
    prefix: String,
    /// Namespaces of nodes, by node.
    plugged: Vec<usize>,
    /// From this node on nodes hang on the second switch.
    second_from: usize,
}

/// The two switches and the cable between them, inside the switches' namespace.
const SWITCHES: [&str; 2] = ["left", "right"];
const CABLE: [&str; 2] = ["cable-l", "cable-r"];

impl Network {
    /// A network whose nodes from number `second_from` on hang on the second switch, or why there can be none.
    pub(crate) fn new(second_from: usize) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let prefix = format!("fnlab{}-{second_from}", std::process::id());
        let network = Self { prefix, plugged: Vec::new(), second_from };
        network.build()?;
        Ok(network)
    }

    /// As [`Network::new`]; prints the reason when there can be none.
    pub(crate) fn or_skip(second_from: usize) -> Option<Self> {
        Self::new(second_from).inspect_err(|reason| eprintln!("skipped: {reason}")).ok()
    }

    fn build(&self) -> Result<(), String> {
        let space = self.switch_space();
        ip(&["netns", "add", &space])?;
        for name in SWITCHES {
            ip(&["-n", &space, "link", "add", name, "type", "bridge"])?;
            ip(&["-n", &space, "link", "set", name, "up"])?;
        }
        let [left, right] = CABLE;
        ip(&["-n", &space, "link", "add", left, "type", "veth", "peer", "name", right])?;
        for (end, switch) in CABLE.into_iter().zip(SWITCHES) {
            ip(&["-n", &space, "link", "set", end, "master", switch, "up"])?;
        }
        Ok(())
    }

    /// Makes the namespace of `node` and returns its address.
    pub(crate) fn plug(&mut self, node: usize) -> String {
        let (space, switches) = (self.space(node), self.switch_space());
        let address = format!("10.77.0.{}", node + 1);
        let port = format!("port{node}");
        let switch = SWITCHES[usize::from(node >= self.second_from)];
        self.plugged.push(node);
        let steps: [&[&str]; 7] = [
            &["netns", "add", &space],
            &["-n", &space, "link", "set", "lo", "up"],
            &["-n", &switches, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space],
            &["-n", &switches, "link", "set", &port, "master", switch, "up"],
            &["-n", &space, "address", "add", &format!("{address}/24"), "dev", "eth0"],
            &["-n", &space, "link", "set", "eth0", "up"],
            &["-n", &space, "route", "add", "default", "dev", "eth0"],
        ];
        for step in steps {
            ip(step).unwrap_or_else(|error| panic!("{error}"));
        }
        address
    }

    /// A command that runs in the namespace of `node`.
    pub(crate) fn command_in(&self, node: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(node)]).arg(program);
        command
    }

    /// Pulls the cable between the switches: packets between the two sides vanish.
    pub(crate) fn part(&self) {
        self.switch_link(CABLE[0], "down");
    }

    /// Plugs it again.
    pub(crate) fn heal(&self) {
        self.switch_link(CABLE[0], "up");
    }

    /// Pulls the cable of `node`.
    pub(crate) fn cut_off(&self, node: usize) {
        self.switch_link(&format!("port{node}"), "down");
    }

    /// Plugs it again.
    pub(crate) fn reconnect(&self, node: usize) {
        self.switch_link(&format!("port{node}"), "up");
    }

    /// Bytes that `node` has received since it was plugged, headers and all.
    pub(crate) fn received_bytes(&self, node: usize) -> u64 {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.space(node), "cat", "/sys/class/net/eth0/statistics/rx_bytes"])
            .output()
            .expect("ip can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().unwrap_or_else(|_| panic!("no byte counter of node {node}: {text:?}"))
    }

    fn switch_link(&self, link: &str, state: &str) {
        ip(&["-n", &self.switch_space(), "link", "set", link, state]).unwrap_or_else(|error| panic!("{error}"));
    }

    fn switch_space(&self) -> String {
        format!("{}-sw", self.prefix)
    }

    fn space(&self, node: usize) -> String {
        format!("{}-n{node}", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // An interface ends with its namespace.
        for space in self.plugged.iter().map(|&node| self.space(node)).chain([self.switch_space()]) {
            if let Err(error) = ip(&["netns", "delete", &space]) {
                eprintln!("{error}");
            }
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("ip");
    let output = command.args(arguments).stdin(Stdio::null()).output().map_err(|error| format!("no ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
