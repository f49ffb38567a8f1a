//! `fnode start`: from words to a running daemon, in front or detached.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use proto::ticket::Ticket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::args::StartArgs;
use super::client::Client;
use super::error::{CliError, plain};
use super::exit::Exit;
use super::output::{Output, fields, say, write_out};
use super::settings::Settings;
use crate::http::words::node::NodeInfo;
use crate::http::{Api, Door, Facts};
use crate::node::{self, CLUSTER_STORY, Config, Home, Running};

/// A detached daemon must answer by then: joining over a bad network takes its time.
const DETACH_MAX: Duration = Duration::from_secs(40);
/// A daemon of the same directory answers at once or is not asked any further.
const SECOND_MAX: Duration = Duration::from_secs(2);
/// How often the detached daemon is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// No ticket is longer.
const TICKET_MAX: u64 = 64 << 10;
/// Last part of a failed daemon's log that is looked at for its reason.
const REASON_MAX: usize = 4 << 10;

/// Runs the daemon until it is told to end; with `--detach` returns once it answers.
pub(crate) fn start(settings: Settings, args: &StartArgs, output: Output) -> Result<Exit, CliError> {
    let ticket = args.join.as_deref().map(read_ticket).transpose()?;
    refuse_second(&settings)?;
    if args.detach {
        return detach(&settings, args, ticket.as_ref(), output);
    }
    let exe = this_program()?;
    let home = Home::new(&settings.home.value).dir().display().to_string();
    let respawn = [respawn_arguments(args), vec!["--home".to_owned(), home]].concat();
    let config = settings.into_config(ticket, exe, respawn);
    start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Start(format!("cannot start threads: {}", plain(&error))))?;
    let result = runtime.block_on(run(config, output));
    // Blocking threads that still write are given up: the journal makes their work good at the next start.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// A daemon of this directory that answers: told by name, before ports and locks are tried.
fn refuse_second(settings: &Settings) -> Result<(), CliError> {
    let home = &settings.home.value;
    let client = Client::new(home).with_any_version();
    let asked = async { tokio::time::timeout(SECOND_MAX, { client }.get::<NodeInfo>("/node")).await };
    let Ok(Ok(info)) = super::small_runtime()?.block_on(asked) else { return Ok(()) };
    let text = format!(
        "{} is in use by a daemon that runs (process {}); see fnode status, or start with another --home",
        home.display(),
        info.pid
    );
    Err(CliError::Start(text))
}

async fn run(config: Config, output: Output) -> Result<Exit, CliError> {
    let home = config.home.clone();
    let failed = |error: &dyn std::fmt::Display| CliError::Start(error.to_string().replace('\n', " "));
    let mut door = Door::open(&home, config.api).await.map_err(|error| failed(&error))?;
    let Running { handle, notices, addrs, is_new_cluster, ended } =
        node::start(config).await.map_err(|error| failed(&error))?;
    if let Err(error) = door.publish() {
        let _ = handle.shutdown(false).await;
        let _ = ended.await;
        return Err(failed(&error));
    }
    let facts = Facts {
        addrs: addrs.iter().map(ToString::to_string).collect(),
        api: door.addr().to_string(),
        socket: door.socket().map(|path| path.display().to_string()).unwrap_or_default(),
    };
    let api = Api { node: handle.clone(), facts: Arc::new(facts) };
    let (close, closing) = watch::channel(false);
    let served = tokio::spawn(door.serve(api, closing));
    notices.iter().for_each(|notice| say(&format!("fnode: {notice}")));
    let info: NodeInfo = Client::new(home.dir()).get("/node").await?;
    output.print(&info, |info| greeting(info, is_new_cluster))?;
    let asked = tokio::spawn(async move {
        if asked_to_end().await {
            // The handle answers within its own bound; a second signal ends the process at once.
            let _ = handle.shutdown(false).await;
        }
    });
    let panicked = ended.await.is_err();
    asked.abort();
    let _ = close.send(true);
    let _ = served.await;
    if panicked {
        let what = "the node's loop ended by a bug; the lines above tell where, please report them with fnode version";
        return Err(CliError::Start(what.to_owned()));
    }
    Ok(Exit::Done)
}

/// Waits for SIGTERM or Ctrl-C; the next one of either ends the process as the system does.
async fn asked_to_end() -> bool {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => say("fnode: the daemon ends, its jobs go on; Ctrl-C again ends it at once"),
        _ = terminate.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    true
}

/// What a person who has just started a node wants to know.
fn greeting(info: &NodeInfo, is_new_cluster: bool) -> String {
    let id = info.id.get(..8).unwrap_or(&info.id);
    let kind = if is_new_cluster { "new cluster" } else { "cluster" };
    let api = if info.socket.is_empty() { String::new() } else { format!("{}, ", info.socket) };
    let head = format!("fnode {} is node {} ({id}) of {kind} {}\n", info.version, info.name, info.cluster_name);
    let known = fields(&[
        ("  data", info.home.clone()),
        (
            "  peers",
            info.addrs.iter().filter(|addr| !is_local_twin(addr, info)).cloned().collect::<Vec<_>>().join("\n"),
        ),
        ("  api", format!("{api}http://{}", info.api)),
        ("  invite", "fnode invite    prints a ticket; on the other machine: fnode start --join TICKET".to_owned()),
        ("  submit", "fnode submit -- COMMAND".to_owned()),
    ]);
    head + &known
}

/// Loopback addresses say nothing to others, unless there is no other.
fn is_local_twin(addr: &str, info: &NodeInfo) -> bool {
    let is_local = |addr: &str| addr.starts_with("/ip4/127.") || addr.starts_with("/ip6/::1/");
    is_local(addr) && info.addrs.iter().any(|addr| !is_local(addr))
}

/// A ticket from a file, standard input, or the text itself.
fn read_ticket(place: &str) -> Result<Ticket, CliError> {
    let text = if place == "-" {
        let mut text = String::new();
        let read = std::io::stdin().lock().take(TICKET_MAX).read_to_string(&mut text);
        let remedy = "give it on standard input as fnode invite prints it";
        read.map_err(|source| CliError::File { verb: "read", path: "standard input".into(), source, remedy })?;
        text
    } else if place.trim().to_ascii_lowercase().starts_with("fnode1") && !Path::new(place).exists() {
        place.to_owned()
    } else {
        let path = PathBuf::from(place);
        let remedy = "give a file with a ticket, - for standard input, or the ticket itself";
        let refuse = |source| CliError::File { verb: "read", path: path.clone(), source, remedy };
        let mut text = String::new();
        let file = std::fs::File::open(&path).map_err(refuse)?;
        file.take(TICKET_MAX).read_to_string(&mut text).map_err(refuse)?;
        text
    };
    let ticket: Ticket =
        text.parse().map_err(|error: proto::ticket::TicketError| CliError::Start(format!("cannot join: {error}")))?;
    let now = super::time::now_unix_ms();
    ticket.check_not_expired(now).map_err(|error| CliError::Start(format!("cannot join: {error}")))?;
    Ok(ticket)
}

fn this_program() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(|error| CliError::Start(format!("cannot find this program: {}", plain(&error))))
}

/// The flags with which the runner starts the daemon again after a crash: all but how to join and to detach.
/// The data directory comes from `FNODE_HOME`, which the runner hands on, or from here.
fn respawn_arguments(args: &StartArgs) -> Vec<String> {
    let mut words = vec!["start".to_owned()];
    let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    if let Some(name) = &args.name {
        add("--name", name.clone());
    }
    args.listen.iter().for_each(|addr| add("--listen", addr.clone()));
    if let Some(api) = &args.api {
        add("--api", api.clone());
    }
    if let Some(cpus) = args.cpus {
        add("--cpus", format!("{}.{:03}", cpus / 1_000, cpus % 1_000));
    }
    if let Some(memory) = args.memory {
        add("--memory", memory.0.to_string());
    }
    if let Some(gpus) = args.gpus {
        add("--gpus", gpus.to_string());
    }
    if let Some(age) = args.retention {
        add("--retention", age.as_secs().to_string());
    }
    if let Some(max) = args.blobs_max {
        add("--blobs-max", max.0.to_string());
    }
    if let Some(max) = args.cache_max {
        add("--cache-max", max.0.to_string());
    }
    if let Some(archive) = &args.archive {
        add("--archive", archive.clone());
    }
    if let Some(store) = &args.cache_store {
        add("--cache-store", store.clone());
    }
    args.labels.iter().for_each(|(key, value)| add("--label", format!("{key}={value}")));
    if args.no_mdns {
        words.push("--no-mdns".to_owned());
    }
    words
}

/// Logs of the daemon: what must be acted on, and more with `FNODE_LOG`.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FNODE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("warn,{CLUSTER_STORY}=info")));
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).try_init();
}

/// Starts this program again in the background and waits until it answers.
fn detach(settings: &Settings, args: &StartArgs, ticket: Option<&Ticket>, output: Output) -> Result<Exit, CliError> {
    let home = Home::new(&settings.home.value);
    let log = home.daemon_log();
    let unwritable = |source| {
        let remedy = "give this user the right to, or start with another --home";
        CliError::File { verb: "write", path: log.clone(), source, remedy }
    };
    std::fs::create_dir_all(home.dir()).map_err(unwritable)?;
    let file = OpenOptions::new().create(true).append(true).open(&log).map_err(unwritable)?;
    let written = file.metadata().map_err(unwritable)?.len();
    let mut command = Command::new(this_program()?);
    command.args(respawn_arguments(args)).arg("--home").arg(home.dir());
    if ticket.is_some() {
        command.args(["--join", "-"]);
    }
    let errors = file.try_clone().map_err(unwritable)?;
    command.stdin(if ticket.is_some() { Stdio::piped() } else { Stdio::null() });
    // A group of its own: Ctrl-C in this terminal is not meant for it.
    command.stdout(file).stderr(errors).process_group(0);
    let mut child =
        command.spawn().map_err(|error| CliError::Start(format!("cannot start the daemon: {}", plain(&error))))?;
    if let (Some(ticket), Some(mut stdin)) = (ticket, child.stdin.take()) {
        let text = ticket.to_text().map_err(|error| CliError::Start(error.to_string()))?;
        // A daemon that ended already has its reason in its log, which is looked at below.
        let _ = stdin.write_all(text.as_bytes());
    }
    let runtime = super::small_runtime()?;
    let info = runtime.block_on(wait_for(&mut child, &home, written))?;
    output.print(&info, |info| greeting(info, false))?;
    Ok(Exit::Done)
}

async fn wait_for(child: &mut Child, home: &Home, written: u64) -> Result<NodeInfo, CliError> {
    let deadline = Instant::now() + DETACH_MAX;
    loop {
        if let Ok(Some(_)) = child.try_wait() {
            return Err(CliError::Start(reason(&home.daemon_log(), written)));
        }
        // Another daemon of the directory may answer while this one is about to find that out.
        if let Ok(info) = Client::new(home.dir()).get::<NodeInfo>("/node").await
            && info.pid == child.id()
        {
            return Ok(info);
        }
        if Instant::now() >= deadline {
            let log = home.daemon_log();
            let seconds = DETACH_MAX.as_secs();
            let text = format!("the daemon does not answer after {seconds} s; look into {}", log.display());
            return Err(CliError::Start(text));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The last line of a daemon that ended at once.
fn reason(log: &Path, written: u64) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let fresh = bytes.get(usize::try_from(written).unwrap_or(usize::MAX)..).unwrap_or_default();
    let end = &fresh[fresh.len().saturating_sub(REASON_MAX)..];
    let text = String::from_utf8_lossy(end);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    match last {
        Some(line) => line.strip_prefix("fnode: ").unwrap_or(line).to_owned(),
        None => format!("the daemon ended at once without a word; look into {}", log.display()),
    }
}

/// `fnode config show`.
pub(crate) fn show_config(settings: &Settings, output: Output) -> Result<Exit, CliError> {
    let shown = settings.shown();
    if output.is_json() {
        output.print_json(&shown)?;
    } else {
        let cell = |text: &str| comfy_table::Cell::new(text);
        let rows = shown.iter().map(|line| vec![cell(line.name), cell(&line.value), cell(&line.origin)]);
        write_out((super::output::table(&["name", "value", "from"], rows) + "\n").as_bytes())?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command as Words};

    #[test]
    fn a_daemon_is_started_again_with_the_flags_it_was_given() {
        let given = [
            "fnode",
            "start",
            "--name",
            "a",
            "--listen",
            "0",
            "--cpus",
            "1.5",
            "--memory",
            "1GiB",
            "--label",
            "x=y",
            "--no-mdns",
        ];
        let words = |given: &[&str]| match Cli::try_parse_from(given).unwrap().command {
            Words::Start(args) => respawn_arguments(&args),
            other => panic!("{other:?}"),
        };
        let again = words(&given);
        let joined = again.join(" ");
        assert_eq!(joined, "start --name a --listen 0 --cpus 1.500 --memory 1073741824 --label x=y --no-mdns");
        let mut parsed = vec!["fnode"];
        parsed.extend(again.iter().map(String::as_str));
        assert_eq!(words(&parsed), again);
    }

    #[test]
    fn a_ticket_that_is_none_is_refused_in_one_line() {
        let refuse = |text: &str| read_ticket(text).expect_err("refused").to_string();
        assert!(refuse("fnode1torn").starts_with("cannot join: the ticket is torn"));
        assert!(
            refuse("/no/such/file").starts_with("cannot read /no/such/file: no such file or directory; give a file")
        );
    }
}
