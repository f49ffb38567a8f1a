//! `atlas-server`, and what of `foundations` concerns the server: this machine's node.

use super::args::{ServerStartWords, Setup};
use super::console::Console;
use super::error::AtlasError;
use super::queue::print;
use crate::cli::args::{ShutdownArgs, StartArgs};
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, say};
use crate::cli::settings::{Origin, Setting, Settings};
use crate::cli::time::counted;
use crate::cli::{cluster, small_runtime, start, values};
use crate::http::words::node::NodeInfo;
use crate::node::Home;

type HomeDir = Setting<std::path::PathBuf>;

/// `atlas-server start`: as `fnode start --detach`.
pub(crate) fn start(home: HomeDir, words: &ServerStartWords, console: Console) -> Result<Exit, AtlasError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let workers = variable("NUM_WORKERS");
    let args = start_args(words, workers.as_deref())?;
    if let Some(line) = ignored(words) {
        console.info(&line);
    }
    if let Some(workers) = workers {
        let cpus = counted(workers.parse().unwrap_or(0_u32), "CPU");
        console.info(&format!("NUM_WORKERS={workers}: {cpus} offered; a job takes one unless it asks for more"));
    }
    if !words.gpus {
        console.info("This machine's GPUs are not offered; start with -g to offer them");
    }
    let log = Home::new(&home.value).daemon_log();
    let exit = detach(home, &args)?;
    if words.log {
        console.info(&format!("The node's log is {}", log.display()));
    }
    Ok(exit)
}

/// `foundations setup`: the node, unless it runs already.
pub(crate) fn setup(home: HomeDir, what: Option<Setup>, console: Console) -> Result<Exit, AtlasError> {
    if what == Some(Setup::Orbit) {
        console.info("Monitors and data contracts of Orbit are not there yet; jobs are");
    }
    let asked = small_runtime()?.block_on(async { Client::new(&home.value).get::<NodeInfo>("/node").await });
    match asked {
        Ok(info) => print(&format!("Atlas server is running: fnode {} at http://{}", info.version, info.api)),
        Err(CliError::NoDaemon(_)) => detach(home, &StartArgs { detach: true, ..StartArgs::default() }),
        Err(error) => Err(error.into()),
    }
}

fn detach(home: HomeDir, args: &StartArgs) -> Result<Exit, AtlasError> {
    let variables = |name: &str| std::env::var(name).ok();
    Ok(start::start(Settings::read(home, args, &variables)?, args, Output::new(false))?)
}

fn start_args(words: &ServerStartWords, workers: Option<&str>) -> Result<StartArgs, CliError> {
    let refuse = |text: &str| {
        CliError::usage(format!("NUM_WORKERS={text} is not a number of workers"), "write a whole number above 0")
    };
    let cpus = match workers {
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(values::cpus(text).map_err(|_| refuse(text))?)
        }
        Some(text) => return Err(refuse(text)),
        None => None,
    };
    Ok(StartArgs {
        detach: true,
        api: words.page_port.map(|port| port.to_string()),
        gpus: if words.gpus { None } else { Some(0) },
        cpus,
        ..StartArgs::default()
    })
}

/// Flags that a node has no use for, in one line.
fn ignored(words: &ServerStartWords) -> Option<String> {
    let given = [
        (words.authentication, "-p (authentication)"),
        (words.archive_port.is_some(), "-a (archive)"),
        (words.tensorboard_port.is_some(), "-T (TensorBoard)"),
        (words.no_tensorboard, "-t (no TensorBoard)"),
        (words.authentication_port.is_some(), "-u (authentication)"),
        (words.host.is_some(), "-s (scheduler's host)"),
    ];
    let names: Vec<&str> = given.iter().filter(|(is_given, _)| *is_given).map(|(_, name)| *name).collect();
    if names.is_empty() { None } else { Some(format!("Ignored, because a node has none of it: {}", names.join(", "))) }
}

/// `atlas-server stop`: as `fnode shutdown`; jobs go on.
pub(crate) async fn stop(client: Client) -> Result<Exit, AtlasError> {
    Ok(cluster::shutdown(client, &ShutdownArgs { jobs: false }, Output::new(false)).await?)
}

/// `atlas-server version`.
pub(crate) async fn version(client: Client) -> Result<Exit, AtlasError> {
    let own = env!("CARGO_PKG_VERSION");
    let daemon = client.with_any_version().get::<NodeInfo>("/node").await.ok().map(|info| info.version);
    match daemon {
        Some(daemon) if daemon != own => print(&format!("atlas-server {own} (the node runs {daemon})")),
        _ => print(&format!("atlas-server {own}")),
    }
}

/// `foundations login`: who reaches the node has its token.
pub(crate) async fn login(mut client: Client, console: Console) -> Result<Exit, AtlasError> {
    match client.get::<NodeInfo>("/node").await {
        Ok(info) => {
            console.info(&format!(
                "No login is needed: node {} of cluster {} trusts who can read {}",
                info.name,
                info.cluster_name,
                Home::new(client.home()).dir().join("api.json").display()
            ));
            print("Login Succeeded!")
        }
        Err(error) => {
            say(&format!("foundations: {error}"));
            Err(AtlasError::Said("Login Failed!".to_owned()))
        }
    }
}

/// The data directory, as `fnode` finds it.
pub(crate) fn home() -> Result<HomeDir, CliError> {
    let home = crate::cli::settings::home(None, &|name| std::env::var(name).ok())?;
    debug_assert!(!matches!(home.origin, Origin::Flag(_)), "these commands have no flag for it");
    Ok(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_cpus_and_gpus_are_offered_when_asked_for() {
        let words = ServerStartWords { page_port: Some(5555), ..ServerStartWords::default() };
        let args = start_args(&words, Some("3")).unwrap();
        assert_eq!((args.cpus, args.gpus, args.api.as_deref()), (Some(3_000), Some(0), Some("5555")));
        let words = ServerStartWords { gpus: true, ..ServerStartWords::default() };
        let args = start_args(&words, None).unwrap();
        assert_eq!((args.cpus, args.gpus, args.detach), (None, None, true));
        for text in ["0", "-1", "1.5", "many", "99999999"] {
            let refused = start_args(&words, Some(text)).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("NUM_WORKERS={text} is not a number of workers")), "{refused}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_told_in_one_line() {
        assert_eq!(ignored(&ServerStartWords { gpus: true, log: true, ..ServerStartWords::default() }), None);
        let words =
            ServerStartWords { authentication: true, host: Some("h".to_owned()), ..ServerStartWords::default() };
        let line = ignored(&words).unwrap();
        assert_eq!(line, "Ignored, because a node has none of it: -p (authentication), -s (scheduler's host)");
    }
}
