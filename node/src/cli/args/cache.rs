//! `fnode cache …`: the words.

use clap::{Args, Subcommand};

use crate::cli::values;

#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Say what the cache holds, for whom, and how much time it saved whom
    #[command(
        after_help = "Values are those that all nodes know. Time saved is what computing them took when they were made, for each time\n\
                      that one was found, on all nodes that answer.\n\n\
                      EXAMPLES:\n  fnode cache stats\n  fnode cache stats --json | jq .hits"
    )]
    Stats,
    /// List values, the newest first
    #[command(after_help = "EXAMPLES:\n  fnode cache list\n  fnode cache list --function lab.train --user ada\n  \
                      fnode cache list --project vision --json")]
    List(CacheListArgs),
    /// Show one value
    #[command(after_help = "EXAMPLES:\n  fnode cache show 3fa9\n  fnode cache show 3fa9 --json")]
    Show(CacheKeyArgs),
    /// Say what differed from the nearest earlier call of the same function
    #[command(
        after_help = "EXAMPLES:\n  fnode cache why 3fa9\n  fnode cache list --function lab.train   to find the key"
    )]
    Why(CacheKeyArgs),
    /// Look whether values are what they should be: their bytes, or, with a command, what their functions compute
    #[command(
        after_help = "Without a command every value on this node is hashed again; what the disk has changed is fetched from another node.\n\
                      With one, it runs, and computes what its cached calls find, too. Exits with 1 if something differs.\n\
                      Jobs that it submits verify by themselves: what differs there stands in their logs, and is not counted here.\n\n\
                      EXAMPLES:\n  fnode cache verify\n  fnode cache verify -- python3 train.py\n  \
                      fnode cache verify --sample 0.1 -- python3 train.py"
    )]
    Verify(CacheVerifyArgs),
    /// Have no node evict a value, however much room it takes
    #[command(after_help = "EXAMPLES:\n  fnode cache keep 3fa9\n  fnode cache keep 3fa9 --undo")]
    Keep(CacheKeepArgs),
    /// Remove values from every node: the next call computes them again
    #[command(
        after_help = "EXAMPLES:\n  fnode cache purge 3fa9\n  fnode cache purge --function lab.train --dry-run\n  \
                      fnode gc    also frees the bytes of what was purged"
    )]
    Purge(CachePurgeArgs),
    /// Remove the least used values from this node's disk; other nodes keep theirs
    #[command(
        after_help = "Values that another node has, too, go before last copies. What `fnode cache keep` names stays.\n\n\
                      EXAMPLES:\n  fnode cache gc --max-size 20GiB\n  fnode cache gc --max-size 20GiB --dry-run\n  \
                      fnode start --cache-max 20GiB   does so every hour"
    )]
    Gc(CacheGcArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CacheListArgs {
    /// Only values of this function, as package.module.name
    #[arg(long, value_name = "NAME")]
    pub(crate) function: Option<String>,
    /// Only values that were computed for this project
    #[arg(long, value_name = "PROJECT", value_parser = values::project)]
    pub(crate) project: Option<String>,
    /// Only values that were computed for this user
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct CacheKeyArgs {
    /// The value's key, or as much of its beginning as is unique
    #[arg(value_name = "KEY", value_parser = values::cache_key)]
    pub(crate) key: String,
}

#[derive(Debug, Args)]
pub(crate) struct CacheVerifyArgs {
    /// Compute only this part of what is found, above 0 and at most 1
    #[arg(long, value_name = "FRACTION", value_parser = values::fraction, requires = "command")]
    pub(crate) sample: Option<f64>,
    /// What calls the functions
    #[arg(value_name = "COMMAND", last = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct CacheKeepArgs {
    /// The value's key, or as much of its beginning as is unique
    #[arg(value_name = "KEY", value_parser = values::cache_key)]
    pub(crate) key: String,
    /// Let it go again when room is needed
    #[arg(long)]
    pub(crate) undo: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
pub(crate) struct CachePurgeArgs {
    /// The value's key, or as much of its beginning as is unique
    #[arg(value_name = "KEY", value_parser = values::cache_key, group = "which", conflicts_with_all = ["function", "project", "user", "dry_run"])]
    pub(crate) key: Option<String>,
    /// All values of this function, as package.module.name
    #[arg(long, value_name = "NAME", group = "which")]
    pub(crate) function: Option<String>,
    /// All values that were computed for this project
    #[arg(long, value_name = "PROJECT", value_parser = values::project, group = "which")]
    pub(crate) project: Option<String>,
    /// All values that were computed for this user
    #[arg(long, value_name = "USER", group = "which")]
    pub(crate) user: Option<String>,
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CacheGcArgs {
    /// What values may take on this node; 0: all go that may
    #[arg(long, value_name = "SIZE", value_parser = values::size_left)]
    pub(crate) max_size: proto::ByteSize,
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
}
