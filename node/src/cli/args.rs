//! The words of the command line. Parsing only validates; `start.rs`, `submit.rs` and the others turn words
//! into requests. Every command has `--json` and `--home`; the same flag means the same everywhere.

mod cache;
mod job;
mod node;
mod submit;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use cache::{CacheArgs, CacheCommand, CacheGcArgs, CacheListArgs, CachePurgeArgs, CacheVerifyArgs};
pub(crate) use job::{
    CompareArgs, ExplainArgs, ExportArgs, ExportFormat, FilterArgs, GetArgs, GraphArgs, JobArgs, JobCommand, ListArgs,
    LogsArgs, MarkArgs, NoteArgs, StopArgs, TagArgs,
};
pub(crate) use node::{LabelArgs, NodeArgs, NodeCommand, RemoveNodeArgs, StartArgs, address};
pub(crate) use submit::SubmitArgs;

use super::values;

/// One lab, one computer: run jobs on whichever machine fits best.
#[derive(Debug, Parser)]
#[command(
    name = "fnode",
    version,
    propagate_version = false,
    subcommand_required = true,
    max_term_width = 110,
    after_help = "EXAMPLES:\n  fnode start                          start a node; prints how to invite the next one\n  \
                  fnode submit -- python train.py      run this directory's train.py somewhere in the lab\n  \
                  fnode status                         see nodes, what is free and what runs"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// The node's data directory [default: $FNODE_HOME, else ~/.fnode]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub(crate) home: Option<PathBuf>,
    /// Print the result as JSON: one value, or one per line while following
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start this machine's node, alone or joining a cluster
    #[command(after_help = node::START_EXAMPLES)]
    Start(Box<StartArgs>),
    /// End this machine's daemon; its jobs go on
    #[command(after_help = "EXAMPLES:\n  fnode shutdown          jobs go on and are adopted at the next start\n  \
                            fnode shutdown --jobs   stop the jobs that run here, too")]
    Shutdown(ShutdownArgs),
    /// Print a ticket with which another machine joins this cluster
    #[command(after_help = "EXAMPLES:\n  fnode invite                        a ticket for one day\n  \
                            fnode invite --ttl 15m > lab.ticket   then there: fnode start --join lab.ticket\n  \
                            fnode invite | ssh other fnode start --detach --join -")]
    Invite(InviteArgs),
    /// Show nodes, what is free, and unfinished jobs
    #[command(after_help = "EXAMPLES:\n  fnode status\n  fnode status --watch\n  fnode status --json | jq .running")]
    Status(StatusArgs),
    /// Look at the cluster's nodes and change them
    #[command(subcommand_required = true)]
    Node(NodeArgs),
    /// This machine's owner comes first: take no more jobs here
    #[command(
        after_help = "EXAMPLES:\n  fnode pause     running jobs go on, no new ones start here\n  fnode resume    take jobs again"
    )]
    Pause,
    /// Take jobs on this machine again
    #[command(after_help = "EXAMPLES:\n  fnode resume\n  fnode status    shows whether the node takes jobs")]
    Resume,
    /// Check this machine: network, clock, disk, GPU driver, cgroup, Python
    #[command(
        after_help = "EXAMPLES:\n  fnode doctor           every finding with its remedy; exits 1 when something is bad\n  fnode doctor --json"
    )]
    Doctor,
    /// Submit a directory and a command as a job
    #[command(after_help = submit::EXAMPLES)]
    Submit(Box<SubmitArgs>),
    /// List jobs, the newest first (same as: fnode job list)
    #[command(after_help = job::LIST_EXAMPLES)]
    Jobs(ListArgs),
    /// Write jobs, or the points of their metrics, as a table for other tools
    #[command(after_help = job::EXPORT_EXAMPLES)]
    Export(Box<ExportArgs>),
    /// Look at jobs and change them
    #[command(subcommand_required = true)]
    Job(JobArgs),
    /// Stop a job or all jobs of an array (same as: fnode job stop)
    #[command(after_help = job::STOP_EXAMPLES)]
    Stop(StopArgs),
    /// Print what a job wrote to standard output and error
    #[command(after_help = job::LOGS_EXAMPLES)]
    Logs(LogsArgs),
    /// Remove blobs that nothing needs any more from this node's disk
    #[command(
        after_help = "EXAMPLES:\n  fnode gc                    files of deleted jobs, and what nothing names\n  \
                            fnode gc --older-than 30d   also of jobs that are older and not kept (fnode job keep)"
    )]
    Gc(GcArgs),
    /// Look at values of cached calls, and remove them
    #[command(subcommand_required = true)]
    Cache(CacheArgs),
    /// Keep values that jobs need and nobody else may see
    #[command(subcommand_required = true)]
    Secret(SecretArgs),
    /// Look at projects
    #[command(subcommand_required = true)]
    Project(ProjectArgs),
    /// The Python package that tracks jobs
    #[command(subcommand_required = true)]
    Sdk(SdkArgs),
    /// Print a completion script for a shell
    #[command(after_help = "EXAMPLES:\n  fnode completion bash > ~/.local/share/bash-completion/completions/fnode\n  \
                            fnode completion fish > ~/.config/fish/completions/fnode.fish\n  \
                            fnode completion zsh > ~/.zfunc/_fnode")]
    Completion(CompletionArgs),
    /// Show the configuration
    #[command(subcommand_required = true)]
    Config(ConfigArgs),
    /// Print this program's version, and the daemon's when one runs
    #[command(after_help = "EXAMPLES:\n  fnode version\n  fnode version --json")]
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct ShutdownArgs {
    /// Also stop the jobs that run on this node
    #[arg(long)]
    pub(crate) jobs: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// How long the ticket may be used
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = values::duration, allow_hyphen_values = true)]
    pub(crate) ttl: std::time::Duration,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Also files of jobs that were submitted longer ago, unless they are kept
    #[arg(long, value_name = "DURATION", value_parser = values::duration, allow_hyphen_values = true)]
    pub(crate) older_than: Option<std::time::Duration>,
    /// Also the least used files of ended jobs that are not kept, until all together take at most this
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(crate) max_size: Option<proto::ByteSize>,
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Show it again whenever something changes, until Ctrl-C
    #[arg(long, short)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SdkArgs {
    #[command(subcommand)]
    pub(crate) command: SdkCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SdkCommand {
    /// Put the package `foundations` where a Python finds it, and the commands foundations and atlas-server beside it: for
    /// scripts that you start by hand; jobs have it
    #[command(after_help = "EXAMPLES:\n  fnode sdk install                       for the python3 on the path\n  \
                            fnode sdk install --python .venv/bin/python\n  fnode sdk install --dir vendor")]
    Install(SdkInstallArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SdkInstallArgs {
    /// The Python to install it for
    #[arg(long, value_name = "PROGRAM", default_value = "python3", conflicts_with = "dir")]
    pub(crate) python: std::path::PathBuf,
    /// A directory to put it into instead
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<std::path::PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SecretArgs {
    #[command(subcommand)]
    pub(crate) command: SecretCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Keep a value under a name on this node; it is read from standard input or a file
    #[command(
        after_help = "A secret is kept on the node where it is set, never in the log or a listing. Set it on every\n\
                            node that shall run jobs with --secret NAME.\n\nEXAMPLES:\n  fnode secret set HF_TOKEN < token.txt\n  \
                            fnode secret set HF_TOKEN --file token.txt"
    )]
    Set(SecretSetArgs),
    /// List the names of this node's secrets
    #[command(after_help = "EXAMPLES:\n  fnode secret list\n  fnode secret list --json")]
    List,
    /// Forget a secret
    #[command(after_help = "EXAMPLES:\n  fnode secret remove HF_TOKEN\n  fnode secret list")]
    Remove(SecretNameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SecretSetArgs {
    /// The variable under which jobs find it
    #[arg(value_name = "NAME", value_parser = values::secret_name)]
    pub(crate) name: String,
    /// Read the value from this file instead of standard input
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SecretNameArgs {
    /// The secret's name
    #[arg(value_name = "NAME", value_parser = values::secret_name)]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ProjectArgs {
    #[command(subcommand)]
    pub(crate) command: ProjectCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// List projects with their jobs
    #[command(after_help = "EXAMPLES:\n  fnode project list\n  fnode project list --json")]
    List,
    /// Show a project, the notes on it and its latest jobs
    #[command(after_help = "EXAMPLES:\n  fnode project show mnist\n  fnode jobs --project mnist")]
    Show(ProjectNameArgs),
    /// Say what a project is about
    #[command(
        after_help = "EXAMPLES:\n  fnode project describe mnist \"digits, baseline for the course\"\n  fnode project show mnist"
    )]
    Describe(DescribeArgs),
    /// Write a note on a project, for everybody
    #[command(
        after_help = "EXAMPLES:\n  fnode project note mnist \"dropout 0.5 was too much\"\n  fnode project show mnist"
    )]
    Note(ProjectNoteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ProjectNameArgs {
    /// The project
    #[arg(value_name = "PROJECT", value_parser = values::project)]
    pub(crate) project: String,
}

#[derive(Debug, Args)]
pub(crate) struct ProjectNoteArgs {
    /// The project
    #[arg(value_name = "PROJECT", value_parser = values::project)]
    pub(crate) project: String,
    /// Free text, at most 4096 bytes; the latest 200 notes are kept
    #[arg(value_name = "TEXT")]
    pub(crate) text: String,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// The project
    #[arg(value_name = "PROJECT", value_parser = values::project)]
    pub(crate) project: String,
    /// Free text; replaces what was there
    #[arg(value_name = "TEXT")]
    pub(crate) text: String,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print each value and where it comes from: flag, FNODE_* variable, config.toml or default
    #[command(after_help = "EXAMPLES:\n  fnode config show\n  FNODE_CPUS=4 fnode config show")]
    Show,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        fn visit(command: &clap::Command, path: &str, lacking: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            if command.get_subcommands().next().is_none() && help.matches("\n  fnode").count() < 2 {
                lacking.push(path.clone());
            }
            command.get_subcommands().for_each(|below| visit(below, &path, lacking));
        }
        let mut lacking = Vec::new();
        visit(&Cli::command(), "", &mut lacking);
        // `FNODE_CPUS=4 fnode` begins with the variable.
        lacking.retain(|path| path != " fnode config show");
        assert_eq!(lacking, Vec::<String>::new());
    }
}
