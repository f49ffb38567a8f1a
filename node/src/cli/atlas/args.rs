//! The words of `foundations` and `atlas-server`: those of all generations, in one tree. Parsing only validates.
//! Options are written with hyphens or with underscores, because both were documented.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::job_config::ram_bytes;
use crate::cli::values;

/// Submit machine-learning jobs to this lab's machines: the command of Foundations, run by fnode.
#[derive(Debug, Parser)]
#[command(name = "foundations", disable_help_subcommand = true, disable_version_flag = true, max_term_width = 110)]
pub(crate) struct FoundationsCli {
    /// Print the version
    #[arg(long)]
    pub(crate) version: bool,
    /// Tell more of what is done
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the directory of a new project
    Init(InitWords),
    /// Start this machine's node
    Setup(SetupWords),
    /// List the configurations that there are
    Info(InfoWords),
    /// Submit a directory as a job: SCHEDULER-CONFIG JOB-DIRECTORY COMMAND...
    #[command(after_help = "EXAMPLES:\n  foundations submit scheduler . main.py --epochs 10\n  \
                            foundations submit --strict --num-gpus 1 scheduler ./mnist main.py\n  \
                            foundations submit --scheduler-config scheduler --job-dir . --command main.py")]
    Submit(Box<SubmitWords>),
    /// Deploy a directory as a job, or run a driver that makes stages
    #[command(
        after_help = "EXAMPLES:\n  foundations deploy --env scheduler --entrypoint main.py --job-directory .\n  \
                            foundations deploy project_code/driver.py --env local"
    )]
    Deploy(Box<DeployWords>),
    /// Copy a job's files here, or print its log
    #[command(alias = "retrieve")]
    #[command(after_help = "EXAMPLES:\n  foundations get job scheduler JOB --save_dir results\n  \
                            foundations get logs scheduler JOB\n  \
                            foundations retrieve artifacts --job_id JOB --env local --source_dir models")]
    Get(GetWords),
    /// Stop a running job: SCHEDULER-CONFIG JOB
    Stop(StopWords),
    /// Take every waiting job out of the queue
    ClearQueue(ClearQueueWords),
    /// Delete the record of a job that has ended, and in time its files
    Delete(DeleteWords),
    /// Not needed here; says whether the node answers
    Login(LoginWords),
    /// Serve a model (not there yet)
    #[command(disable_help_flag = true)]
    Serve(LaterWords),
    /// Serve a model package (not there yet)
    #[command(disable_help_flag = true)]
    Serving(LaterWords),
    /// Serve a model by name (not there yet)
    #[command(disable_help_flag = true)]
    Orbit(LaterWords),
    /// Run a job by the calendar (not there yet)
    #[command(disable_help_flag = true)]
    Monitor(LaterWords),
}

#[derive(Debug, Args)]
pub(crate) struct InitWords {
    /// The project, and the directory that is made
    #[arg(value_name = "PROJECT_NAME")]
    pub(crate) project_name: String,
}

#[derive(Debug, Args)]
pub(crate) struct SetupWords {
    /// What to set up
    #[arg(value_enum)]
    pub(crate) what: Option<Setup>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Setup {
    /// This machine's node
    Atlas,
    /// The same; monitors and data contracts are not there yet
    Orbit,
}

#[derive(Debug, Args)]
pub(crate) struct InfoWords {
    /// List submission, execution and environment configurations with their paths
    #[arg(long)]
    pub(crate) env: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SubmitWords {
    /// The program that is given the command, instead of Python
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    #[command(flatten)]
    pub(crate) needs: Needs,
    /// Whether to print the job's output until it ends: True or False
    #[arg(long, alias = "stream_job_logs", value_name = "BOOL", default_value = "True", value_parser = truth)]
    pub(crate) stream_job_logs: Truth,
    /// The name of a scheduler's configuration, as an option
    #[arg(long = "scheduler-config", alias = "scheduler_config", value_name = "NAME")]
    pub(crate) config_option: Option<String>,
    /// The directory, as an option
    #[arg(long = "job-dir", aliases = ["job_dir", "job-directory", "job_directory"], value_name = "DIR")]
    pub(crate) directory_option: Option<PathBuf>,
    /// The command as an option: the rest of the line, or one text
    #[arg(long = "command", value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    pub(crate) command_option: Vec<String>,
    /// scheduler, or the name of a file in config/submission
    #[arg(value_name = "SCHEDULER-CONFIG")]
    pub(crate) config: Option<String>,
    /// The directory that holds the job's files
    #[arg(value_name = "JOB-DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
    /// The script and its arguments: the rest of the line
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// What a job asks for, and how its failure is told.
#[derive(Debug, Args)]
pub(crate) struct Needs {
    /// Project [default: job.config.yaml, else the directory's name]
    #[arg(long, alias = "project_name", value_name = "NAME")]
    pub(crate) project_name: Option<String>,
    /// GPUs, each leased whole [default: job.config.yaml, else 0]
    #[arg(long, alias = "num_gpus", value_name = "N", value_parser = values::gpus, allow_hyphen_values = true)]
    pub(crate) num_gpus: Option<u32>,
    /// Memory in GB [default: job.config.yaml, else no wish]
    #[arg(long = "ram", value_name = "GB", value_parser = ram, allow_hyphen_values = true)]
    pub(crate) ram_bytes: Option<u64>,
    /// Wait for the job's end and exit with 1 if it did not complete; without it a job's failure is exit code 0
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeployWords {
    /// A script that makes stages and runs them; it runs here
    #[arg(value_name = "DRIVER_FILE", conflicts_with_all = ["entrypoint", "directory", "project_name", "num_gpus",
          "ram_bytes", "strict"])]
    pub(crate) driver: Option<PathBuf>,
    /// local, scheduler, or the name of a file in config
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub(crate) env: String,
    /// The script of the directory, also as package.module
    #[arg(long, alias = "entry-point", value_name = "SCRIPT", default_value = "main.py")]
    pub(crate) entrypoint: String,
    /// The directory that holds the job's files
    #[arg(long = "job-directory", aliases = ["job_directory", "job-dir", "job_dir"], value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
    #[command(flatten)]
    pub(crate) needs: Needs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Its directory, as it left it
    Job,
    /// What it wrote to standard output and error
    Logs,
    /// The files that it made or changed; of an environment with an artifact_path those below that
    Artifacts,
}

#[derive(Debug, Args)]
pub(crate) struct GetWords {
    /// What to get
    #[arg(value_enum)]
    pub(crate) what: What,
    /// scheduler, or the name of a configuration
    #[arg(value_name = "SCHEDULER-CONFIG")]
    pub(crate) config: Option<String>,
    /// The job
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: Option<String>,
    /// The job, as an option
    #[arg(long = "job_id", alias = "job-id", value_name = "JOB_ID")]
    pub(crate) job_option: Option<String>,
    /// The environment, as an option
    #[arg(long = "env", value_name = "NAME")]
    pub(crate) env_option: Option<String>,
    /// Where to put the files [default: a directory named after the job]
    #[arg(long = "save_dir", alias = "save-dir", value_name = "DIR")]
    pub(crate) save_dir: Option<PathBuf>,
    /// Only what is below this directory of the job
    #[arg(long = "source_dir", alias = "source-dir", value_name = "DIR")]
    pub(crate) source_dir: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StopWords {
    /// scheduler, or the name of a configuration, and the job; `job` may stand before them
    #[arg(value_name = "SCHEDULER-CONFIG JOB_ID", num_args = 2..=3, required = true)]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ClearQueueWords {
    /// scheduler, or the name of a configuration
    #[arg(value_name = "SCHEDULER-CONFIG")]
    pub(crate) config: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteWords {
    #[command(subcommand)]
    pub(crate) command: DeleteCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeleteCommand {
    /// Delete a job that has ended
    Job(DeleteJobWords),
}

#[derive(Debug, Args)]
pub(crate) struct DeleteJobWords {
    /// scheduler, or the name of a configuration
    #[arg(value_name = "SCHEDULER-CONFIG")]
    pub(crate) config: String,
    /// The job
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: String,
}

#[derive(Debug, Args)]
pub(crate) struct LoginWords {
    /// Taken and not used: this machine's node is asked
    #[arg(value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Taken and not used
    #[arg(short = 'u', value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Taken and not used
    #[arg(short = 'p', value_name = "PASSWORD")]
    pub(crate) password: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LaterWords {
    #[arg(value_name = "WORDS", trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) words: Vec<String>,
}

/// Start and stop this machine's node: the command of Atlas, run by fnode.
#[derive(Debug, Parser)]
#[command(name = "atlas-server", disable_help_subcommand = true, disable_version_flag = true, max_term_width = 110)]
pub(crate) struct AtlasServerCli {
    #[command(subcommand)]
    pub(crate) command: ServerCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// Start the node in the background
    #[command(after_help = "NUM_WORKERS=N offers N CPUs, so that N jobs that ask for nothing run at once.\n\
                            CUDA_VISIBLE_DEVICES names the GPUs that -g offers.")]
    Start(ServerStartWords),
    /// End the node's daemon; its jobs go on
    Stop,
    /// Print the version
    Version,
}

/// Flags without a meaning here are taken, and told.
#[derive(Debug, Default, Args)]
pub(crate) struct ServerStartWords {
    /// Offer this machine's GPUs
    #[arg(short = 'g', long = "gpu")]
    pub(crate) gpus: bool,
    /// The port on this machine of API and page
    #[arg(short = 'd', value_name = "PORT", value_parser = clap::value_parser!(u16))]
    pub(crate) page_port: Option<u16>,
    /// No meaning here: who may use the node is decided by its token
    #[arg(short = 'p')]
    pub(crate) authentication: bool,
    /// No meaning here: jobs' files are kept by the nodes
    #[arg(short = 'a', value_name = "PORT")]
    pub(crate) archive_port: Option<String>,
    /// No meaning here: there is no TensorBoard server
    #[arg(short = 'T', value_name = "PORT")]
    pub(crate) tensorboard_port: Option<String>,
    /// No meaning here: there is no TensorBoard server
    #[arg(short = 't')]
    pub(crate) no_tensorboard: bool,
    /// No meaning here: there is no authentication server
    #[arg(short = 'u', value_name = "PORT")]
    pub(crate) authentication_port: Option<String>,
    /// No meaning here: every node is reached at its own address
    #[arg(short = 's', value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Say where the node's log is
    #[arg(short = 'l')]
    pub(crate) log: bool,
}

/// A flag that is given its value in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truth(pub(crate) bool);

fn truth(text: &str) -> Result<Truth, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Ok(Truth(true)),
        "false" | "no" | "0" => Ok(Truth(false)),
        _ => Err("write True or False".to_owned()),
    }
}

fn ram(text: &str) -> Result<u64, String> {
    let ram = text.trim().parse::<f64>().map_err(|_| "not a number of gigabytes; write for example 0.5 or 16")?;
    ram_bytes(ram, text.trim())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn submit(words: &[&str]) -> SubmitWords {
        let words = ["foundations", "submit"].iter().chain(words);
        match FoundationsCli::try_parse_from(words).unwrap().command {
            Some(Command::Submit(words)) => *words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_trees_are_sound() {
        FoundationsCli::command().debug_assert();
        AtlasServerCli::command().debug_assert();
    }

    #[test]
    fn the_rest_of_the_line_is_the_command() {
        let words = submit(&["--num-gpus", "1", "scheduler", ".", "main.py", "--epochs", "3", "--ram", "x", "-h"]);
        assert_eq!((words.config.as_deref(), words.needs.num_gpus), (Some("scheduler"), Some(1)));
        assert_eq!(words.command, ["main.py", "--epochs", "3", "--ram", "x", "-h"]);
        assert_eq!((words.needs.ram_bytes, words.stream_job_logs), (None, Truth(true)));
        let words = submit(&["scheduler", "--ram", "0.5", ".", "--stream-job-logs", "False", "main.py"]);
        assert_eq!((words.needs.ram_bytes, words.stream_job_logs.0), (Some(500_000_000), false));
        assert_eq!(words.command, ["main.py"]);
    }

    #[test]
    fn options_take_the_rest_of_the_line_too() {
        let words = submit(&["--scheduler-config", "a", "--job_dir", "d", "--command", "main.py", "--epochs", "3"]);
        assert_eq!(words.command_option, ["main.py", "--epochs", "3"]);
        assert_eq!((words.config_option.as_deref(), words.config), (Some("a"), None));
    }

    #[test]
    fn amounts_that_cannot_be_are_refused() {
        for words in [["--ram", "0"], ["--ram", "much"], ["--ram", "-1"], ["--num-gpus", "-1"], ["--num-gpus", "1.5"]] {
            let words = ["foundations", "submit"].iter().chain(&words).chain(&["scheduler", ".", "main.py"]);
            assert!(FoundationsCli::try_parse_from(words).is_err());
        }
    }
}
