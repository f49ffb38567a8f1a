//! The command line. It knows the node's HTTP API and nothing else of a running node: no store, no network,
//! no runner. Only `start.rs` reaches further: it is the daemon's own beginning.
//!
//! Read `args.rs` (the words), then [`main`]; each command is a function of its noun's file. `error.rs` turns
//! every failure into one line and an exit code. Deliberately absent: prompts where there is no terminal,
//! and anything that a program could not get with `--json`.

mod args;
mod atlas;
mod bundle;
mod cache;
mod checkout;
mod client;
mod cluster;
mod columns;
mod compare;
mod error;
pub mod exit;
mod export;
mod follow;
mod get;
mod graph;
mod jobs;
mod output;
mod record;
mod sdk;
mod settings;
mod sheet;
mod start;
mod submit;
mod time;
mod track;
mod values;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

pub use atlas::{atlas_server, foundations};

use args::{Cli, Command, ConfigCommand, SdkCommand, StartArgs};
use client::Client;
use error::{CliError, explain, explain_usage, plain};
use exit::Exit;
use output::{Output, say, write_out};
use settings::{Settings, home};

use crate::exec::inventory::gpu::{ProbeArgs, probe_main};

/// Runs the command line `args`, the program's name included, and returns its exit status.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &args).into(),
    };
    let exit = match run(cli) {
        Ok(exit) => exit,
        Err(error) => {
            let (line, exit) = explain(&error);
            if let Some(line) = line {
                say(&format!("fnode: {line}"));
            }
            exit
        }
    };
    exit.into()
}

/// `fnode gpu-probe`: the child process in which drivers may crash. Not for people.
#[must_use]
pub fn gpu_probe(args: impl Iterator<Item = OsString>) -> ExitCode {
    #[derive(clap::Parser)]
    struct Probe {
        #[command(flatten)]
        args: ProbeArgs,
    }
    match Probe::try_parse_from(std::iter::once("gpu-probe".into()).chain(args)) {
        Ok(probe) => probe_main(&probe.args),
        Err(error) => refuse(&error, &[]).into(),
    }
}

/// Help and version go to standard output, everything else is a slip of the user's.
fn refuse(error: &clap::Error, args: &[OsString]) -> Exit {
    let (text, exit) = explain_usage(error, args);
    match exit {
        Exit::Done => drop(write_out(text.as_bytes())),
        _ => say(text.trim_end()),
    }
    exit
}

fn run(cli: Cli) -> Result<Exit, CliError> {
    let output = Output::new(cli.common.json);
    let variables = |name: &str| std::env::var(name).ok();
    if let Command::Completion(args) = &cli.command {
        let mut script = Vec::new();
        clap_complete::generate(args.shell, &mut Cli::command(), "fnode", &mut script);
        write_out(&script)?;
        return Ok(Exit::Done);
    }
    let home = home(cli.common.home.as_deref(), &variables)?;
    match cli.command {
        Command::Start(args) => start::start(Settings::read(home, &args, &variables)?, &args, output),
        Command::Config(args) => {
            let ConfigCommand::Show = args.command;
            start::show_config(&Settings::read(home, &StartArgs::default(), &variables)?, output)
        }
        Command::Sdk(args) => {
            let SdkCommand::Install(args) = args.command;
            sdk::install(&args, output)
        }
        Command::Doctor => {
            let port = Settings::read(home.clone(), &StartArgs::default(), &variables)?.port();
            small_runtime()?.block_on(cluster::doctor(Client::new(&home.value), port, output))
        }
        command => small_runtime()?.block_on(ask(command, Client::new(&home.value), output)),
    }
}

/// Commands that ask a daemon.
async fn ask(command: Command, client: Client, output: Output) -> Result<Exit, CliError> {
    match command {
        Command::Submit(args) => submit::submit(client, &args, output).await,
        Command::Jobs(args) => jobs::list(client, &args, output).await,
        Command::Export(args) => export::export(client, &args, output).await,
        Command::Job(args) => jobs::job(client, args.command, output).await,
        Command::Stop(args) => jobs::stop(client, &args, output).await,
        Command::Logs(args) => follow::logs(client, &args, output).await,
        Command::Status(args) => cluster::status(client, &args, output).await,
        Command::Node(args) => cluster::node(client, args.command, output).await,
        Command::Cache(args) => cache::cache(client, args.command, output).await,
        Command::Project(args) => cluster::project(client, args.command, output).await,
        Command::Secret(args) => cluster::secret(client, args.command, output).await,
        Command::Shutdown(args) => cluster::shutdown(client, &args, output).await,
        Command::Invite(args) => cluster::invite(client, args.ttl, output).await,
        Command::Pause => cluster::pause(client, "/pause", output).await,
        Command::Resume => cluster::pause(client, "/resume", output).await,
        Command::Gc(args) => cluster::gc(client, &args, output).await,
        Command::Version => cluster::version(client, output).await,
        // These need no daemon and were answered before.
        Command::Start(_) | Command::Config(_) | Command::Completion(_) | Command::Doctor | Command::Sdk(_) => {
            Ok(Exit::Done)
        }
    }
}

/// One thread is enough to ask, and is there at once: a submission costs a few milliseconds in all.
fn small_runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Start(format!("cannot start: {}", plain(&error))))
}
