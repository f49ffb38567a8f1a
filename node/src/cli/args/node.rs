//! Words of `fnode start` and `fnode node …`.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use proto::ByteSize;

use crate::cli::values::{self, Pair};

pub(crate) const START_EXAMPLES: &str = "\
Each flag can also be given as FNODE_NAME, FNODE_LISTEN, … or in config.toml in the data directory;
fnode config show tells which counts.

EXAMPLES:
  fnode start                        a new cluster of one, or back to the old one
  fnode start --detach --join -      join with a ticket from standard input
  fnode start --name alpha --label rack=b --cpus 8 --memory 32GiB --gpus 0";

#[derive(Debug, Default, Args)]
pub(crate) struct StartArgs {
    /// Join a cluster: a file with a ticket, - for standard input, or the ticket itself
    #[arg(long, value_name = "FILE|-|TICKET")]
    pub(crate) join: Option<String>,
    /// Go on in the background; its log is in the data directory
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// This node's name [default: the host's]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where other nodes connect: ADDRESS:PORT or a port, 0 for any; repeatable
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<String>,
    /// Where the HTTP API listens on this machine: 127.0.0.1:PORT or a port, 0 for any
    #[arg(long, value_name = "ADDR")]
    pub(crate) api: Option<String>,
    /// Offer at most so many CPUs
    #[arg(long, value_name = "N", value_parser = values::cpus, allow_hyphen_values = true)]
    pub(crate) cpus: Option<u32>,
    /// Offer at most so much memory
    #[arg(long, value_name = "SIZE", value_parser = values::memory, allow_hyphen_values = true)]
    pub(crate) memory: Option<ByteSize>,
    /// Offer at most so many GPUs
    #[arg(long, value_name = "N", value_parser = values::gpus, allow_hyphen_values = true)]
    pub(crate) gpus: Option<u32>,
    /// Remove files of jobs that were submitted longer ago and have ended, unless they are kept
    #[arg(long, value_name = "DURATION", value_parser = values::duration, allow_hyphen_values = true)]
    pub(crate) retention: Option<std::time::Duration>,
    /// Keep at most so much: the least used files of ended jobs go first
    #[arg(long, value_name = "SIZE", value_parser = values::size, allow_hyphen_values = true)]
    pub(crate) blobs_max: Option<proto::ByteSize>,
    /// Keep at most so much of cached values: the least used go first
    #[arg(long, value_name = "SIZE", value_parser = values::size, allow_hyphen_values = true)]
    pub(crate) cache_max: Option<proto::ByteSize>,
    /// Archive what jobs leave there: s3://BUCKET/PREFIX, gs://…, az://… or file:///DIRECTORY
    #[arg(long, value_name = "PLACE")]
    pub(crate) archive: Option<String>,
    /// Share cached values through an object store: s3://BUCKET/PREFIX, gs://…, az://… or file:///DIRECTORY
    #[arg(long, value_name = "PLACE")]
    pub(crate) cache_store: Option<String>,
    /// A label of this node; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    pub(crate) labels: Vec<Pair>,
    /// Do not look for nodes of this cluster on the LAN
    #[arg(long)]
    pub(crate) no_mdns: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    pub(crate) command: NodeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the cluster's nodes
    #[command(after_help = "EXAMPLES:\n  fnode node list\n  fnode node list --json | jq '.nodes[].name'")]
    List,
    /// Show a node's processors, memory, GPUs, labels and addresses
    #[command(after_help = "EXAMPLES:\n  fnode node show          this one\n  fnode node show alpha")]
    Show(NodeNameArgs),
    /// Let a node finish its jobs and take no more
    #[command(after_help = "EXAMPLES:\n  fnode node drain alpha\n  fnode node undrain alpha   takes jobs again")]
    Drain(OneNodeArgs),
    /// Let a drained node take jobs again
    #[command(after_help = "EXAMPLES:\n  fnode node undrain alpha\n  fnode node list")]
    Undrain(OneNodeArgs),
    /// Put labels on a node, or take them off
    #[command(
        after_help = "EXAMPLES:\n  fnode node label alpha rack=b fast=yes\n  fnode node label alpha --remove fast"
    )]
    Label(LabelArgs),
    /// Shut a node out of the cluster for ever; the cluster's secret changes
    #[command(
        after_help = "EXAMPLES:\n  fnode node drain alpha    first let it finish\n  fnode node remove alpha --yes"
    )]
    Remove(RemoveNodeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NodeNameArgs {
    /// The node's name, id or id prefix [default: this one]
    #[arg(value_name = "NODE")]
    pub(crate) node: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct OneNodeArgs {
    /// The node's name, id or id prefix
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
}

#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// The node's name, id or id prefix
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// Labels to put on
    #[arg(value_name = "KEY=VALUE", value_parser = values::label, required_unless_present = "remove")]
    pub(crate) labels: Vec<Pair>,
    /// A label to take off; repeatable
    #[arg(long, value_name = "KEY")]
    pub(crate) remove: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveNodeArgs {
    /// The node's name, id or id prefix
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// An address with a port from `ADDRESS:PORT` or a bare port, which stands for `any`.
pub(crate) fn address(text: &str, any: std::net::IpAddr) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::new(any, port));
    }
    text.parse().map_err(|_| format!("{text:?} is not an address; write ADDRESS:PORT, [IPv6]:PORT, or a port"))
}
