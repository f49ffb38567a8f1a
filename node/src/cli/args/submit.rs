//! Words of `fnode submit`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use proto::ByteSize;

use crate::cli::values::{self, Pair};
use crate::http::words::submit::{EnvironmentRuleWord, OnLostWord, TriggerWord};

pub(crate) const EXAMPLES: &str = "\
The job runs in its own copy of DIR, on whichever node fits best. What .fnodeignore names (gitignore
syntax), .git, virtual environments and caches stay behind. A requirements.txt in DIR becomes an
environment, built once per node; so do uv.lock and pyproject.toml.

EXAMPLES:
  fnode submit -- python train.py --epochs 10
  fnode submit --gpus 1 --memory 16GiB --follow ~/mnist -- python train.py
  fnode submit --array 1-100 --name sweep -- sh -c 'python train.py --seed $FNODE_ARRAY_INDEX'
  fnode submit --no-bundle --wait --propagate -- nvidia-smi";

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// The directory to run in; the job gets its own copy
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Program and arguments
    #[arg(value_name = "COMMAND", last = true, required = true, num_args = 1.., allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,

    /// Project [default: the directory's name]
    #[arg(long, value_name = "NAME", value_parser = values::project)]
    pub(crate) project: Option<String>,
    /// A name for people
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) name: String,

    /// CPUs, for example 0.5 or 4
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::cpus, allow_hyphen_values = true,
          help_heading = "What it needs")]
    pub(crate) cpus: u32,
    /// Memory, for example 16GiB
    #[arg(long, value_name = "SIZE", value_parser = values::memory, allow_hyphen_values = true,
          help_heading = "What it needs")]
    pub(crate) memory: Option<ByteSize>,
    /// GPUs, each leased whole
    #[arg(long, value_name = "N", value_parser = values::gpus, allow_hyphen_values = true,
          help_heading = "What it needs")]
    pub(crate) gpus: Option<u32>,
    /// Free memory on each GPU; alone it asks for one GPU
    #[arg(long, value_name = "SIZE", value_parser = values::gpu_memory, allow_hyphen_values = true,
          help_heading = "What it needs")]
    pub(crate) gpu_memory: Option<ByteSize>,
    /// Python version, as 3.11
    #[arg(long, value_name = "VERSION", value_parser = values::python, help_heading = "What it needs")]
    pub(crate) python: Option<String>,
    /// A label that the node must have; repeatable
    #[arg(long = "label", value_name = "KEY[=VALUE]", value_parser = values::label_wish,
          help_heading = "What it needs")]
    pub(crate) labels: Vec<Pair>,
    /// A node that may run it, by name or id; repeatable
    #[arg(long = "node", value_name = "NODE", help_heading = "What it needs")]
    pub(crate) nodes: Vec<String>,
    /// A path with data that must already be on the node; repeatable
    #[arg(long = "data", value_name = "PATH", help_heading = "What it needs")]
    pub(crate) data: Vec<String>,

    /// A variable for the job; repeatable
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = values::variable, help_heading = "What it gets")]
    pub(crate) env: Vec<Pair>,
    /// A secret kept here or on the running node (fnode secret set) that becomes a variable; repeatable
    #[arg(long = "secret", value_name = "NAME", value_parser = values::secret_name, help_heading = "What it gets")]
    pub(crate) secrets: Vec<String>,
    /// Parameters that the job finds in a file: a JSON file, or JSON text
    #[arg(long, value_name = "FILE|JSON", help_heading = "What it gets")]
    pub(crate) params: Option<String>,
    /// Run in an empty directory; nothing is sent
    #[arg(long, conflicts_with = "dir", help_heading = "What it gets")]
    pub(crate) no_bundle: bool,
    /// Use the node's own Python, whatever DIR's requirements.txt, lock or pyproject.toml says
    #[arg(long, help_heading = "What it gets")]
    pub(crate) no_env: bool,
    /// exact: only its own packages; lenient: over those of the node, and what cannot be installed does not stop the job
    #[arg(
        long,
        value_name = "RULE",
        value_enum,
        hide_possible_values = true,
        default_value = "exact",
        help_heading = "What it gets"
    )]
    pub(crate) environment: EnvironmentRuleWord,
    /// Do not keep standard output and error
    #[arg(long, help_heading = "What it gets")]
    pub(crate) no_capture: bool,
    /// Do not keep files that it makes or changes
    #[arg(long, help_heading = "What it gets")]
    pub(crate) no_outputs: bool,
    /// Archive what it leaves there instead of where its node does: s3://BUCKET/PREFIX, gs://…, az://…, file:///DIRECTORY
    #[arg(long, value_name = "PLACE", value_parser = values::end_point, help_heading = "What it gets")]
    pub(crate) archive: Option<String>,
    /// Share its cached values through that object store instead of its node's
    #[arg(long, value_name = "PLACE", value_parser = values::end_point, help_heading = "What it gets")]
    pub(crate) cache_store: Option<String>,

    /// Many jobs as one group: 1-1000 or 1,5,7-9; each finds its index in FNODE_ARRAY_INDEX
    #[arg(long, value_name = "INDICES", value_parser = values::array, allow_hyphen_values = true,
          help_heading = "How it runs")]
    pub(crate) array: Option<String>,
    /// End an attempt that runs longer
    #[arg(long, value_name = "DURATION", value_parser = values::duration, allow_hyphen_values = true,
          help_heading = "How it runs")]
    pub(crate) timeout: Option<Duration>,
    /// Repeat a failed attempt so often
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000),
          allow_negative_numbers = true, help_heading = "How it runs")]
    pub(crate) retries: u32,
    /// When its node is lost: run it again elsewhere, or fail
    #[arg(long, value_name = "WHAT", default_value = "rerun", value_parser = parse_on_lost, help_heading = "How it runs")]
    pub(crate) on_lost: OnLostWord,
    /// Higher runs first among your jobs of a project
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i32).range(-1_000_000..=1_000_000),
          allow_negative_numbers = true, help_heading = "How it runs")]
    pub(crate) priority: i32,
    /// Start after another job; triggers: all_succeeded (default), all_failed, all_done, one_…; repeatable
    #[arg(long = "after", value_name = "JOB[:TRIGGER]", value_parser = values::after, help_heading = "How it runs")]
    pub(crate) after: Vec<(String, TriggerWord)>,

    /// Print its output until it ends; Ctrl-C leaves it running
    #[arg(long, short, help_heading = "What this command does then")]
    pub(crate) follow: bool,
    /// Wait until it ends; exit 1 if it failed
    #[arg(long, short, help_heading = "What this command does then")]
    pub(crate) wait: bool,
    /// Wait, and exit with the job's own exit code
    #[arg(long, help_heading = "What this command does then")]
    pub(crate) propagate: bool,
}

fn parse_on_lost(text: &str) -> Result<OnLostWord, String> {
    match text {
        "rerun" => Ok(OnLostWord::Rerun),
        "fail" => Ok(OnLostWord::Fail),
        _ => Err("write rerun or fail".to_owned()),
    }
}
