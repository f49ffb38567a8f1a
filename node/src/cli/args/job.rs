//! Words of `fnode job …`, `fnode jobs`, `fnode stop` and `fnode logs`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::values;

pub(crate) const LIST_EXAMPLES: &str = "\
EXAMPLES:
  fnode jobs
  fnode jobs --project mnist --state failed --age 2d
  fnode jobs --state unfinished --node alpha --json
  fnode jobs --metrics --sort metric:loss   the best first
  fnode jobs --sort -duration,user -n 10

  fnode jobs --parent 0193c2         what its parallel stages ran as";
pub(crate) const EXPORT_EXAMPLES: &str = "\
A row per job: its record, and a column for each parameter, the last value of each metric, each tag.

EXAMPLES:
  fnode export --project mnist --out jobs.csv
  fnode export --state completed --age 30d --format parquet --out jobs.parquet
  fnode export --format json | jq .params
  fnode export --series --project mnist --format parquet --out points.parquet";
pub(crate) const STOP_EXAMPLES: &str = "\
EXAMPLES:
  fnode stop 0193c2        a unique prefix of an id is enough
  fnode stop 0193c2/7      one job of an array
  fnode stop 0193c2 0193c4";
pub(crate) const LOGS_EXAMPLES: &str = "\
EXAMPLES:
  fnode logs 0193c2                all of it, also when the node that ran it is gone
  fnode logs 0193c2 --tail 20 -f   the last lines, then what comes
  fnode logs 0193c2 --since 10m
  fnode logs 0193c2 --since '2026-11-21 15:04'";

#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    #[command(subcommand)]
    pub(crate) command: JobCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List jobs, the newest first
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show everything that is known of a job
    #[command(
        after_help = "EXAMPLES:\n  fnode job show 0193c2\n  fnode job show 0193c2/7\n  fnode job show 0193c2 --json | jq .attempts"
    )]
    Show(ExplainArgs),
    /// Show what differs between jobs: parameters, metrics, tags, code, packages, files, machines
    #[command(
        after_help = "EXAMPLES:\n  fnode job compare 0193c2 0193c4\n  fnode job compare 0193c2/1 0193c2/2 0193c2/3\n  fnode job compare 0193c2 0193c4 --all --json"
    )]
    Compare(CompareArgs),
    /// Print the uncommitted changes of the git checkout that a job was submitted from
    #[command(
        after_help = "EXAMPLES:\n  fnode job diff 0193c2\n  fnode job diff 0193c2 | git apply   onto its commit: the code as it was\n  fnode job diff 0193c2 | git apply --directory=sub   of a job submitted from sub/"
    )]
    Diff(ExplainArgs),
    /// Show the stages of a job: what needed what, where each ran, whether its result was found, and how long it took
    #[command(
        after_help = "EXAMPLES:\n  fnode job graph 0193c2\n  fnode job graph 0193c2 --dot | dot -Tsvg > stages.svg\n  fnode job graph 0193c2 --json"
    )]
    Graph(GraphArgs),
    /// Say why a job waits, which node comes closest and what would help
    #[command(after_help = "EXAMPLES:\n  fnode job explain 0193c2\n  fnode job explain 0193c2/7 --json")]
    Explain(ExplainArgs),
    /// Wait until jobs have ended; exits 1 if one failed
    #[command(
        after_help = "EXAMPLES:\n  fnode job wait 0193c2\n  fnode job wait 0193c2 --propagate\n  fnode job wait 0193c2 0193c4 --timeout 1h"
    )]
    Wait(WaitArgs),
    /// Stop a job or all jobs of an array
    #[command(after_help = STOP_EXAMPLES)]
    Stop(StopArgs),
    /// Submit a job again as it was
    #[command(
        after_help = "EXAMPLES:\n  fnode job rerun 0193c2\n  fnode job rerun 0193c2/7   only that member of the array"
    )]
    Rerun(ExplainArgs),
    /// Copy the files that a job made or changed into a directory
    #[command(
        after_help = "EXAMPLES:\n  fnode job get 0193c2                 into ./0193c2…/\n  fnode job get 0193c2 --to results\n  fnode job get 0193c2 --whole\n  fnode job get 0193c2/7 --to seven --json"
    )]
    Get(GetArgs),
    /// Hide a job from lists
    #[command(
        after_help = "EXAMPLES:\n  fnode job archive 0193c2\n  fnode job archive 0193c2 --undo\n  fnode jobs --all       shows archived ones"
    )]
    Archive(MarkArgs),
    /// Delete a job's record and, in time, its files; there is no undo
    #[command(after_help = "EXAMPLES:\n  fnode job delete 0193c2\n  fnode job archive 0193c2   hides it instead")]
    Delete(ExplainArgs),
    /// Put tags on a job, or take them off
    #[command(after_help = "EXAMPLES:\n  fnode job tag 0193c2 best paper=v2\n  fnode job tag 0193c2 --remove best")]
    Tag(TagArgs),
    /// Write a note on a job
    #[command(
        after_help = "EXAMPLES:\n  fnode job note 0193c2 \"diverged at step 3000\"\n  fnode job note 0193c2 \"\"   takes it off"
    )]
    Note(NoteArgs),
    /// Keep a job's files for good, whatever retention says
    #[command(after_help = "EXAMPLES:\n  fnode job keep 0193c2\n  fnode job keep 0193c2 --undo")]
    Keep(MarkArgs),
    /// Print what a job wrote (same as: fnode logs)
    #[command(after_help = LOGS_EXAMPLES)]
    Logs(LogsArgs),
}

/// `fnode job graph`.
#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// The job
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
    /// For Graphviz
    #[arg(long, conflicts_with = "json")]
    pub(crate) dot: bool,
}

/// `fnode export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// csv, json (an object per line) or parquet
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ExportFormat::Csv)]
    pub(crate) format: ExportFormat,
    /// Where to write; - is standard output
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub(crate) out: PathBuf,
    /// Every point of every metric, a row each: job, key, step, time, value, and text for what is none
    #[arg(long)]
    pub(crate) series: bool,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// What `fnode export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ExportFormat {
    Csv,
    Json,
    Parquet,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Two jobs or more
    #[arg(value_name = "JOB", required = true, num_args = 2..=20)]
    pub(crate) jobs: Vec<String>,
    /// What is the same in all of them, too
    #[arg(long, short)]
    pub(crate) all: bool,
}

/// Which jobs.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Jobs of this project
    #[arg(long, value_name = "NAME")]
    pub(crate) project: Option<String>,
    /// Jobs in this state: queued, preparing, running, completed, failed, stopped, unfinished, ended
    #[arg(long, value_name = "STATE", value_parser = parse_states)]
    pub(crate) state: Option<String>,
    /// Jobs that run, or ran, on this node
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Jobs submitted within this time
    #[arg(long, value_name = "DURATION", value_parser = values::duration, allow_hyphen_values = true)]
    pub(crate) age: Option<Duration>,
    /// Jobs with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Jobs that this user submitted
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Archived ones too
    #[arg(long, short)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Show the parameters that they logged, a column each
    #[arg(long)]
    pub(crate) params: bool,
    /// Show the last value of each metric that they logged, a column each
    #[arg(long)]
    pub(crate) metrics: bool,
    /// Also jobs that are parts of others, as parallel stages are of their graph
    #[arg(long)]
    pub(crate) parts: bool,
    /// Only the parts of this job
    #[arg(long, value_name = "JOB", conflicts_with_all = ["array", "parts"])]
    pub(crate) parent: Option<String>,
    /// In this order, with commas, - for the largest first: submitted, started, ended, duration, state, user, project,
    /// name, node, tags, id, command, metric:NAME, param:NAME, tag:NAME
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub(crate) sort: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000),
          allow_negative_numbers = true)]
    pub(crate) limit: u32,
    /// Jobs of this array, one by one
    #[arg(value_name = "ARRAY")]
    pub(crate) array: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The job: its id, a unique prefix or its name; with /INDEX for a member of an array
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// The jobs: ids, unique prefixes or names; with /INDEX for a member of an array
    #[arg(value_name = "JOB", required = true, num_args = 1..)]
    pub(crate) jobs: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The jobs: ids, unique prefixes or names
    #[arg(value_name = "JOB", required = true, num_args = 1..)]
    pub(crate) jobs: Vec<String>,
    /// Give up after this time, with exit code 1; the jobs go on
    #[arg(long, value_name = "DURATION", value_parser = values::duration, allow_hyphen_values = true)]
    pub(crate) timeout: Option<Duration>,
    /// Exit with the job's own exit code; of several, the first that is not 0
    #[arg(long)]
    pub(crate) propagate: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The job: its id, a unique prefix or its name; with /INDEX for a member of an array
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
    /// Where to; must not exist or be empty [default: the job's id]
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Also the files that it was given: its whole directory, as it left it
    #[arg(long)]
    pub(crate) whole: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MarkArgs {
    /// The jobs: ids, unique prefixes or names
    #[arg(value_name = "JOB", required = true, num_args = 1..)]
    pub(crate) jobs: Vec<String>,
    /// Take it back
    #[arg(long)]
    pub(crate) undo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// The job
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
    /// Tags to put on
    #[arg(value_name = "KEY[=VALUE]", value_parser = values::label_wish, required_unless_present = "remove")]
    pub(crate) tags: Vec<values::Pair>,
    /// A tag to take off; repeatable
    #[arg(long, value_name = "KEY")]
    pub(crate) remove: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NoteArgs {
    /// The job
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
    /// Free text; replaces what was there
    #[arg(value_name = "TEXT")]
    pub(crate) text: String,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The job: its id, a unique prefix or its name; with /INDEX for a member of an array
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
    /// Go on until the job ends; Ctrl-C leaves it running
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only what was written in this time, or since then (UTC, as times are printed)
    #[arg(long, value_name = "DURATION|TIME", value_parser = values::since, allow_hyphen_values = true)]
    pub(crate) since: Option<u64>,
    /// Only the last lines
    #[arg(long, short = 'n', value_name = "LINES", value_parser = clap::value_parser!(u64).range(1..=1_000_000),
          allow_negative_numbers = true)]
    pub(crate) tail: Option<u64>,
    /// An earlier attempt, as EPOCH.NUMBER from fnode job show
    #[arg(long, value_name = "ATTEMPT")]
    pub(crate) attempt: Option<String>,
}

fn parse_states(text: &str) -> Result<String, String> {
    use crate::http::words::job::StateWord;
    StateWord::parse_set(text).map(|_| text.to_owned()).map_err(|part| {
        format!(
            "{part:?} is not a state; write queued, preparing, running, completed, failed, stopped, unfinished or ended"
        )
    })
}
