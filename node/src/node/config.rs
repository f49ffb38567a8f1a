//! What a daemon is started with: values, already validated. Where each came from is the command line's business.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use proto::ByteSize;
use proto::snapshotting::SnapshotRules;

use super::elsewhere::Places;
use super::gc::Retention;
use super::home::Home;

/// The peer-to-peer port when none is given.
pub const P2P_PORT: u16 = 4680;
/// The HTTP API's loopback port when none is given.
pub const API_PORT: u16 = 4681;

/// Everything that a daemon needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its data directory.
    pub home: Home,
    /// Its name for people; host name by default.
    pub name: String,
    /// A ticket to join another cluster with.
    pub join: Option<proto::ticket::Ticket>,
    /// Where peers may connect, port 0 for any.
    pub listen: Vec<SocketAddr>,
    /// Where the HTTP API listens, port 0 for any; a loopback address.
    pub api: SocketAddr,
    /// Whether peers are looked for on the LAN.
    pub mdns: bool,
    /// The owner's labels.
    pub labels: BTreeMap<String, String>,
    /// At most so many thousandths of a CPU are offered.
    pub cpu_milli_max: Option<u32>,
    /// At most so much memory is offered.
    pub memory_max: Option<ByteSize>,
    /// At most so many GPUs are offered.
    pub gpus_max: Option<u32>,
    /// What happens to files of ended jobs by itself.
    pub retention: Retention,
    /// Object stores that it writes to.
    pub places: Places,
    /// When snapshots of the log are made, and how long entries that one covers are kept.
    pub snapshot_rules: SnapshotRules,
    /// The program that runs the runner: this one.
    pub exe: PathBuf,
    /// Arguments with which the runner starts this daemon again after a crash.
    pub respawn_args: Vec<String>,
}

impl Config {
    /// A node of its own in `home`: any port of loopback, no peers looked for on the LAN, no GPU, defaults for the rest.
    /// What embeds a node starts from here.
    #[must_use]
    pub fn on_loopback(home: Home, name: &str, exe: PathBuf) -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            home,
            name: name.to_owned(),
            join: None,
            listen: vec![any_port],
            api: any_port,
            mdns: false,
            labels: BTreeMap::new(),
            cpu_milli_max: None,
            memory_max: None,
            gpus_max: Some(0),
            retention: Retention::default(),
            places: Places::default(),
            snapshot_rules: SnapshotRules::default(),
            exe,
            respawn_args: Vec::new(),
        }
    }
}
