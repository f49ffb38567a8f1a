//! The commands `foundations` and `atlas-server`: this program under the names that users of Foundations and Atlas type,
//! with the words, the lines and the exit codes that they know. `args.rs` has the words of all generations, `error.rs` says
//! what is told where; the rest is a file per noun, each over the functions of `fnode`'s own commands.
//!
//! Deliberately absent: any request of its own kind to the daemon, and Dessa's scheduler, tracker and archive: every
//! configuration's name means this cluster.

mod args;
mod config;
mod console;
mod error;
mod job_config;
mod params;
mod queue;
mod retrieve;
mod scaffold;
mod server;
mod split;
mod submit;
mod yaml;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{AtlasServerCli, Command, DeleteCommand, FoundationsCli, InfoWords, ServerCommand};
use config::Places;
use console::Console;
use error::{AtlasError, Told, explain};

use crate::cli::client::Client;
use crate::cli::error::{CliError, explain_usage_of};
use crate::cli::exit::Exit;
use crate::cli::output::{say, write_out};
use crate::cli::small_runtime;

/// Runs `foundations` with `args`, the program's name included, and returns its exit status.
#[must_use]
pub fn foundations(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(args, "foundations", run_foundations)
}

/// Runs `atlas-server` with `args`, the program's name included, and returns its exit status.
#[must_use]
pub fn atlas_server(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(args, "atlas-server", run_server)
}

fn run<P: Parser + CommandFactory>(
    args: impl IntoIterator<Item = OsString>,
    program: &str,
    run: fn(P) -> Result<Exit, AtlasError>,
) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let result = match P::try_parse_from(&args) {
        Ok(words) => run(words),
        Err(error) => {
            let (text, exit) = explain_usage_of(P::command(), &error, &args);
            match exit {
                Exit::Done => drop(write_out(text.as_bytes())),
                _ => say(text.trim_end()),
            }
            return exit.into();
        }
    };
    let exit = result.unwrap_or_else(|error| {
        let (told, exit) = explain(&error);
        match told {
            Told::Result(line) => drop(write_out(format!("{line}\n").as_bytes())),
            Told::Trouble(line) => say(&format!("{program}: {line}")),
            Told::Nothing => {}
        }
        exit
    });
    exit.into()
}

fn run_foundations(words: FoundationsCli) -> Result<Exit, AtlasError> {
    let console = Console::new(words.debug);
    match words.command {
        _ if words.version => queue::print(&format!("Running Foundations version {}", env!("CARGO_PKG_VERSION"))),
        None => {
            write_out(FoundationsCli::command().render_help().to_string().as_bytes())?;
            Ok(Exit::Done)
        }
        Some(Command::Init(words)) => scaffold::init(&words.project_name),
        Some(Command::Info(words)) => info(&words),
        Some(Command::Setup(words)) => server::setup(server::home()?, words.what, console),
        Some(Command::Serve(_)) => Err(later("serve")),
        Some(Command::Serving(_)) => Err(later("serving")),
        Some(Command::Orbit(_)) => Err(later("orbit")),
        Some(Command::Monitor(_)) => Err(later("monitor")),
        Some(command) => {
            let client = Client::new(&server::home()?.value);
            small_runtime()?.block_on(ask(command, client, console))
        }
    }
}

/// Commands that ask a daemon.
async fn ask(command: Command, client: Client, console: Console) -> Result<Exit, AtlasError> {
    match command {
        Command::Submit(words) => submit::submit(client, &words, console).await,
        Command::Deploy(words) => match &words.driver {
            Some(driver) => submit::drive(client, driver, &words.env).await,
            None => submit::deploy(client, &words, console).await,
        },
        Command::Get(words) => retrieve::get(client, &words).await,
        Command::Stop(words) => {
            let (config, job) = stopped(&words.words)?;
            Places::of_process().check_submission(config)?;
            queue::stop(client, config, job).await
        }
        Command::ClearQueue(words) => {
            Places::of_process().check_submission(&words.config)?;
            queue::clear(client).await
        }
        Command::Delete(words) => {
            let DeleteCommand::Job(words) = words.command;
            Places::of_process().check_submission(&words.config)?;
            queue::delete(client, &words.config, &words.job).await
        }
        Command::Login(_) => server::login(client, console).await,
        // These need no daemon and were answered before.
        _ => Ok(Exit::Done),
    }
}

fn run_server(words: AtlasServerCli) -> Result<Exit, AtlasError> {
    let home = server::home()?;
    match words.command {
        ServerCommand::Start(words) => server::start(home, &words, Console::new(false)),
        ServerCommand::Stop => small_runtime()?.block_on(server::stop(Client::new(&home.value))),
        ServerCommand::Version => small_runtime()?.block_on(server::version(Client::new(&home.value))),
    }
}

/// Configuration and job of `stop CONFIG JOB`, which was documented as `stop job CONFIG JOB`, too.
fn stopped(words: &[String]) -> Result<(&str, &str), CliError> {
    match words {
        [config, job] => Ok((config, job)),
        [word, config, job] if word == "job" => Ok((config, job)),
        _ => Err(CliError::usage(
            "more than a configuration and a job",
            "write: foundations stop SCHEDULER-CONFIG JOB_ID",
        )),
    }
}

/// `foundations info --env`.
fn info(words: &InfoWords) -> Result<Exit, AtlasError> {
    if !words.env {
        return queue::print("usage: foundations info [--env ENV]");
    }
    let listings = Places::of_process().listings();
    if listings.is_empty() {
        say("foundations: scheduler and local need no file: submit with one of these names");
        return queue::print("No environments available");
    }
    let width = listings.iter().flat_map(|listing| listing.files.keys().map(String::len)).max().unwrap_or(0);
    let width = width.max("env_name".len());
    let sections = listings.iter().map(|listing| {
        let rows = listing.files.iter().map(|(name, path)| format!("{name:width$}  {}", path.display()));
        let table = std::iter::once(format!("{:width$}  env_path", "env_name")).chain(rows);
        format!("{}\n{}", listing.title, table.collect::<Vec<_>>().join("\n"))
    });
    queue::print(&sections.collect::<Vec<_>>().join("\n\n"))
}

/// A command of a generation that is not there yet.
fn later(command: &str) -> AtlasError {
    let remedy = match command {
        "monitor" => "submit the job from cron",
        _ => "run the script that predicts as a job: foundations submit",
    };
    CliError::Start(format!("`{command}` is not there yet; {remedy}")).into()
}
