//! Nodes and the cluster, as the API names them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::job::JobLine;

/// The answering node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Id of its cluster.
    pub cluster: String,
    /// Name of its cluster.
    pub cluster_name: String,
    /// Version of its software.
    pub version: String,
    /// Process id of its daemon.
    pub pid: u32,
    /// Its data directory.
    pub home: String,
    /// Where other nodes reach it, as multiaddresses.
    pub addrs: Vec<String>,
    /// Its API on this machine: `127.0.0.1:PORT`.
    pub api: String,
    /// Its API as a Unix socket.
    pub socket: String,
}

/// A node by id and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct NodeRef {
    /// Its id.
    pub id: String,
    /// Its name; the short id where none is known.
    pub name: String,
}

/// How a node is seen from the answering one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PresenceWord {
    /// It answers.
    Alive,
    /// It did not answer a probe and has some seconds to do so.
    Suspect,
    /// Its machine answers, its daemon does not: it may be restarting, its jobs go on.
    DaemonDown,
    /// Declared dead.
    Down,
    /// Never heard.
    #[default]
    Unknown,
}

/// Whether a node takes work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AcceptingWord {
    /// It does.
    Yes,
    /// Not yet.
    #[default]
    Starting,
    /// Its owner comes first now.
    Paused,
    /// It finishes what it has and takes no more.
    Draining,
}

/// One node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeWord {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it is the answering node.
    pub is_me: bool,
    /// How it is seen from the answering node.
    pub presence: PresenceWord,
    /// Whether it takes work.
    pub accepting: AcceptingWord,
    /// Version of its software.
    pub version: String,
    /// Where it can be reached, as multiaddresses.
    pub addrs: Vec<String>,
    /// The owner's labels and those given with `fnode node label`.
    pub labels: BTreeMap<String, String>,
    /// Thousandths of a CPU that it offers.
    pub cpu_milli: u32,
    /// Of these, free.
    pub cpu_free_milli: u32,
    /// Memory that it offers.
    pub memory_bytes: u64,
    /// Of this, not reserved.
    pub memory_free_bytes: u64,
    /// Free disk where its data lies.
    pub disk_free_bytes: u64,
    /// Graphics processors that jobs can lease.
    pub gpus: Vec<GpuWord>,
    /// Python versions to be had without a download.
    pub pythons: BTreeSet<String>,
    /// Operating system, kernel, processor and the like.
    pub facts: BTreeMap<String, String>,
    /// Whether it has all of the answering node's log on its disk.
    pub holds_log: bool,
}

/// One graphics processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GpuWord {
    /// What jobs are given in `CUDA_VISIBLE_DEVICES`.
    pub uuid: String,
    /// For people.
    pub name: String,
    /// PCI address.
    pub pci: String,
    /// Driver and its version.
    pub driver: String,
    /// CUDA version that the driver supports; empty: none.
    pub cuda: String,
    /// All its memory.
    pub memory_bytes: u64,
    /// Memory that no process uses now.
    pub memory_free_bytes: u64,
    /// Measured, f32 GFLOP/s; 0: not measured.
    pub gflops: u32,
    /// Measured, GB/s; 0: not measured.
    pub gbytes_per_s: u32,
    /// Whether a job has it.
    pub is_leased: bool,
}

/// All nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Nodes {
    /// The answering node first, then by name.
    pub nodes: Vec<NodeWord>,
}

/// The log on the answering node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogWord {
    /// Bytes on its disk, without the index.
    pub bytes: u64,
    /// Entries that the snapshot covers from which it starts; 0: it has every entry since the first.
    pub snapshot_entries: u64,
    /// Bytes of that snapshot.
    pub snapshot_bytes: u64,
    /// Members that made that snapshot, each by itself.
    pub snapshot_signers: u32,
}

/// The cluster at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The answering node.
    pub node: NodeInfo,
    /// Every node, the answering one first, then by name.
    pub nodes: Vec<NodeWord>,
    /// Nodes, the answering one included, that have all of its log on disk.
    pub holders: u32,
    /// The log.
    pub log: LogWord,
    /// Jobs that wait.
    pub queued: u64,
    /// Jobs that fetch or build.
    pub preparing: u64,
    /// Jobs that run.
    pub running: u64,
    /// Unfinished submissions, the newest first, at most 100.
    pub unfinished: Vec<JobLine>,
}

/// `PUT /nodes/{node}/drained`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// True: finish what is there, take no more.
    pub drained: bool,
}

/// `PATCH /nodes/{node}/labels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelRequest {
    /// Labels to add or change.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Labels to take off; each must be there.
    #[serde(default)]
    pub remove: BTreeSet<String>,
}
