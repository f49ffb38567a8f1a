//! The daemon and the cluster: end, invite, status, nodes, pause, doctor, gc, secrets, projects, version.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use bytes::Bytes;
use comfy_table::{Cell, Color};
use hyper::Method;
use serde::Serialize;

use super::args::{
    DescribeArgs, GcArgs, LabelArgs, NodeCommand, ProjectCommand, ProjectNoteArgs, RemoveNodeArgs, SecretCommand,
    SecretSetArgs, ShutdownArgs, StatusArgs,
};
use super::client::{Client, segment};
use super::error::CliError;
use super::exit::Exit;
use super::jobs;
use super::output::{Output, fields, say, table, write_out};
use super::time::{ago, date, now_unix_ms};
use crate::http::words::job::JobPage;
use crate::http::words::node::{
    AcceptingWord, DrainRequest, LabelRequest, NodeInfo, NodeWord, Nodes, PresenceWord, Status,
};
use crate::http::words::project::{
    ProjectNoteRequest, ProjectNoteWord, ProjectNotes, ProjectRequest, ProjectWord, Projects,
};
use crate::http::words::{
    CollectRequest, Collected, Done, Finding, Findings, Invitation, InviteRequest, SecretNames, ShutdownRequest,
    Verdict,
};
use proto::ByteSize;

/// A status that is watched is shown again when something happens, and at least this often.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// However much happens, it is not shown more often than this.
const WATCH_PAUSE: Duration = Duration::from_millis(250);
/// After `shutdown` has answered, the daemon is gone within this.
const GONE_MAX: Duration = Duration::from_secs(15);
/// Jobs that `project show` lists.
const PROJECT_JOBS: u32 = 10;

/// Prints a sentence about what changed.
pub(crate) fn print_done(done: &Done, output: Output) -> Result<Exit, CliError> {
    output.print(done, |done| done.done.clone())?;
    Ok(Exit::Done)
}

pub(crate) async fn shutdown(client: Client, args: &ShutdownArgs, output: Output) -> Result<Exit, CliError> {
    let mut client = client.with_any_version();
    let info: NodeInfo = client.get("/node").await?;
    let done: Done = client.post("/shutdown", &ShutdownRequest { stop_jobs: args.jobs }).await?;
    let gone = async {
        while std::path::Path::new(&format!("/proc/{}", info.pid)).exists() && is_that_process(info.pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(GONE_MAX, gone).await.is_err() {
        return Err(client.broken(format!("has not ended after {} s (process {})", GONE_MAX.as_secs(), info.pid)));
    }
    print_done(&done, output)
}

/// Process numbers are used again; a zombie is gone as far as anybody cares.
fn is_that_process(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    stat.contains("(fnode") && state.is_some_and(|state| state != 'Z' && state != 'X')
}

pub(crate) async fn invite(mut client: Client, ttl: Duration, output: Output) -> Result<Exit, CliError> {
    let invitation: Invitation = client.post("/invite", &InviteRequest { ttl_s: ttl.as_secs().max(1) }).await?;
    if std::io::stdout().is_terminal() && !output.is_json() {
        let until = date(invitation.expires_unix_ms);
        say(&format!(
            "A ticket for cluster {}, good until {until}. On the other machine: fnode start --join TICKET",
            invitation.cluster_name
        ));
    }
    output.print(&invitation, |invitation| invitation.ticket.clone())?;
    Ok(Exit::Done)
}

pub(crate) async fn pause(mut client: Client, path: &str, output: Output) -> Result<Exit, CliError> {
    let done: Done = client.post(path, &()).await?;
    print_done(&done, output)
}

pub(crate) async fn gc(mut client: Client, args: &GcArgs, output: Output) -> Result<Exit, CliError> {
    let request = CollectRequest {
        older_than_s: args.older_than.map_or(0, |age| age.as_secs().max(1)),
        max_bytes: args.max_size.map(|size| size.0),
        dry_run: args.dry_run,
    };
    let collected: Collected = client.post("/gc", &request).await?;
    output.print(&collected, |collected| {
        let (freed, left) = (ByteSize(collected.freed_bytes), ByteSize(collected.left_bytes));
        let verb = if collected.dry_run { "would free" } else { "freed" };
        let named = match collected.named_blobs {
            0 => String::new(),
            count => format!(", {count} of them of ended jobs"),
        };
        format!(
            "{verb} {freed} in {} blobs{named}; {left} are left (what was used in the last ten minutes stays)",
            collected.blobs
        )
    })?;
    Ok(Exit::Done)
}

/// `fnode doctor`: looks at this machine itself, with or without a daemon.
pub(crate) async fn doctor(client: Client, port: u16, output: Output) -> Result<Exit, CliError> {
    let home = client.home().to_owned();
    let mut client = client.with_any_version();
    let running = client.get::<NodeInfo>("/node").await.is_ok();
    let checks = crate::doctor::checks(&crate::doctor::Context::new(&home, port, running));
    let mut findings = Findings { findings: checks.into_iter().map(Finding::from).collect() };
    if running {
        // The daemon's own credentials count, not those of who asks.
        let storage: Findings = client.get("/storage").await?;
        findings.findings.extend(storage.findings);
    }
    let is_bad = findings.findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    output.print(&findings, |findings| {
        let rows = findings.findings.iter().map(|finding| {
            let verdict = match finding.verdict {
                Verdict::Good => output.cell("good", Color::Green),
                Verdict::Skipped => output.cell("skipped", Color::DarkGrey),
                Verdict::Warning => output.cell("warning", Color::Yellow),
                Verdict::Bad => output.cell("bad", Color::Red),
            };
            let text = if finding.remedy.is_empty() {
                finding.text.clone()
            } else {
                format!("{}; {}", finding.text, finding.remedy)
            };
            vec![Cell::new(&finding.subject), verdict, Cell::new(text)]
        });
        table(&["what", "verdict", "finding"], rows)
    })?;
    Ok(if is_bad { Exit::Failed } else { Exit::Done })
}

pub(crate) async fn status(mut client: Client, args: &StatusArgs, output: Output) -> Result<Exit, CliError> {
    if !args.watch {
        let status: Status = client.get("/status").await?;
        output.print(&status, |status| status_text(status, output))?;
        return Ok(Exit::Done);
    }
    let home = client.home().to_owned();
    let mut events = super::follow::EventLines::open(Client::new(&home)).await?;
    loop {
        let status: Status = client.get("/status").await?;
        if output.is_json() {
            output.print_json_line(&status)?;
        } else {
            let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            write_out(format!("{clear}{}\n", status_text(&status, output)).as_bytes())?;
        }
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => {
                drop(interrupted);
                return Ok(Exit::Interrupted);
            }
            () = tokio::time::sleep(WATCH_EVERY) => {}
            () = events.next() => tokio::time::sleep(WATCH_PAUSE).await,
        }
    }
}

fn status_text(status: &Status, output: Output) -> String {
    let nodes = status.nodes.len();
    let alive = status.nodes.iter().filter(|node| node.presence == PresenceWord::Alive).count();
    let mut text = format!(
        "cluster {}: {alive} of {nodes} nodes alive; jobs: {} running, {} preparing, {} queued; log of {} held by {}\n\n",
        status.node.cluster_name, status.running, status.preparing, status.queued, status.node.name, status.holders
    );
    text.push_str(&nodes_table(&status.nodes, output));
    if !status.unfinished.is_empty() {
        text.push_str("\n\n");
        text.push_str(&jobs::lines_table(&status.unfinished, output));
    }
    text
}

fn nodes_table(nodes: &[NodeWord], output: Output) -> String {
    let rows = nodes.iter().map(|node| {
        let free = node.gpus.iter().filter(|gpu| !gpu.is_leased).count();
        let me = if node.is_me { "*" } else { "" };
        vec![
            Cell::new(format!("{}{me}", node.name)),
            Cell::new(short_id(&node.id)),
            state(node, output),
            Cell::new(format!("{}/{}", cpus(node.cpu_free_milli), cpus(node.cpu_milli))),
            Cell::new(format!("{}/{}", ByteSize(node.memory_free_bytes), ByteSize(node.memory_bytes))),
            Cell::new(format!("{free}/{}", node.gpus.len())),
            Cell::new(ByteSize(node.disk_free_bytes)),
            Cell::new(labels(node)),
        ]
    });
    table(&["node", "id", "state", "cpus free", "memory free", "gpus free", "disk free", "labels"], rows)
}

/// Being away says more than not taking jobs.
fn state(node: &NodeWord, output: Output) -> Cell {
    match (node.presence, node.accepting) {
        (PresenceWord::Suspect, _) => output.cell("suspect", Color::Yellow),
        (PresenceWord::DaemonDown, _) => output.cell("daemon down", Color::Yellow),
        (PresenceWord::Down, _) => output.cell("down", Color::Red),
        (PresenceWord::Unknown, _) => output.cell("unknown", Color::Yellow),
        (PresenceWord::Alive, AcceptingWord::Yes) => output.cell("alive", Color::Green),
        (PresenceWord::Alive, AcceptingWord::Starting) => output.cell("starting", Color::Yellow),
        (PresenceWord::Alive, AcceptingWord::Paused) => output.cell("paused", Color::Yellow),
        (PresenceWord::Alive, AcceptingWord::Draining) => output.cell("draining", Color::Yellow),
    }
}

fn short_id(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn labels(node: &NodeWord) -> String {
    node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn cpus(milli: u32) -> String {
    format!("{}", f64::from(milli) / 1_000.0)
}

pub(crate) async fn node(mut client: Client, command: NodeCommand, output: Output) -> Result<Exit, CliError> {
    match command {
        NodeCommand::List => {
            let nodes: Nodes = client.get("/nodes").await?;
            output.print(&nodes, |nodes| nodes_table(&nodes.nodes, output))?;
            Ok(Exit::Done)
        }
        NodeCommand::Show(args) => {
            let node = match args.node {
                Some(node) => node,
                None => client.get::<NodeInfo>("/node").await?.id,
            };
            let node: NodeWord = client.get(&format!("/nodes/{}", segment(&node))).await?;
            output.print(&node, node_text)?;
            Ok(Exit::Done)
        }
        NodeCommand::Drain(args) => drain(client, &args.node, true, output).await,
        NodeCommand::Undrain(args) => drain(client, &args.node, false, output).await,
        NodeCommand::Label(args) => label(client, args, output).await,
        NodeCommand::Remove(args) => remove_node(client, &args, output).await,
    }
}

async fn drain(mut client: Client, node: &str, drained: bool, output: Output) -> Result<Exit, CliError> {
    let path = format!("/nodes/{}/drained", segment(node));
    let done: Done = client.json(Method::PUT, &path, Some(&DrainRequest { drained })).await?;
    print_done(&done, output)
}

async fn label(mut client: Client, args: LabelArgs, output: Output) -> Result<Exit, CliError> {
    let path = format!("/nodes/{}/labels", segment(&args.node));
    let request = LabelRequest { set: args.labels.into_iter().collect(), remove: args.remove.into_iter().collect() };
    let done: Done = client.json(Method::PATCH, &path, Some(&request)).await?;
    print_done(&done, output)
}

async fn remove_node(mut client: Client, args: &RemoveNodeArgs, output: Output) -> Result<Exit, CliError> {
    let path = format!("/nodes/{}", segment(&args.node));
    let node: NodeWord = client.get(&path).await?;
    if !args.yes && !confirmed(&format!("Shut {} ({}) out of the cluster for ever?", node.name, short_id(&node.id)))? {
        return Err(CliError::usage("nothing was removed", "answer y, or give --yes"));
    }
    let path = format!("/nodes/{}", segment(&node.id));
    let done: Done = client.json(Method::DELETE, &path, None::<&()>).await?;
    print_done(&done, output)
}

/// Asks on a terminal; where there is none, only `--yes` is a yes.
fn confirmed(question: &str) -> Result<bool, CliError> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(|source| CliError::File { verb: "read", path: "the answer".into(), source, remedy: "give --yes" })?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn node_text(node: &NodeWord) -> String {
    let gpus: Vec<String> = node
        .gpus
        .iter()
        .map(|gpu| {
            let leased = if gpu.is_leased { ", leased" } else { "" };
            let score = if gpu.gflops > 0 {
                format!(", {} GFLOP/s, {} GB/s", gpu.gflops, gpu.gbytes_per_s)
            } else {
                String::new()
            };
            let (free, all) = (ByteSize(gpu.memory_free_bytes), ByteSize(gpu.memory_bytes));
            format!("{} {} ({free} of {all} free{score}{leased}) {} {}", gpu.name, gpu.pci, gpu.driver, gpu.uuid)
        })
        .collect();
    let presence = serde_text(&node.presence);
    let mut pairs = vec![
        ("name", node.name.clone()),
        ("id", node.id.clone()),
        ("state", format!("{presence}, takes jobs: {}", serde_text(&node.accepting))),
        ("version", node.version.clone()),
        ("cpus", format!("{} of {} free", cpus(node.cpu_free_milli), cpus(node.cpu_milli))),
        ("memory", format!("{} of {} free", ByteSize(node.memory_free_bytes), ByteSize(node.memory_bytes))),
        ("disk", format!("{} free", ByteSize(node.disk_free_bytes))),
        ("gpus", if gpus.is_empty() { "none".to_owned() } else { gpus.join("\n") }),
        ("python", node.pythons.iter().cloned().collect::<Vec<_>>().join(", ")),
        ("labels", labels(node)),
        ("addresses", node.addrs.join("\n")),
    ];
    let facts: Vec<(&str, String)> = node.facts.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    pairs.extend(facts);
    fields(&pairs)
}

/// An enum's name in JSON.
pub(crate) fn serde_text(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(crate) async fn secret(mut client: Client, command: SecretCommand, output: Output) -> Result<Exit, CliError> {
    match command {
        SecretCommand::Set(args) => {
            let value = read_secret(&args)?;
            let path = format!("/secrets/{}", segment(&args.name));
            let answer = client.send_bytes(Method::PUT, &path, "application/octet-stream", value).await?;
            let done: Done = client.read_json(answer).await?;
            print_done(&done, output)
        }
        SecretCommand::List => {
            let names: SecretNames = client.get("/secrets").await?;
            output.print(&names, |names| names.names.join("\n"))?;
            Ok(Exit::Done)
        }
        SecretCommand::Remove(args) => {
            let path = format!("/secrets/{}", segment(&args.name));
            let done: Done = client.json(Method::DELETE, &path, None::<&()>).await?;
            print_done(&done, output)
        }
    }
}

/// The value without the line end that editors and `echo` add.
fn read_secret(args: &SecretSetArgs) -> Result<Bytes, CliError> {
    let max = crate::node::SECRET_MAX as u64 + 2;
    let mut value = Vec::new();
    let (path, read) = match &args.file {
        Some(path) => {
            let read = std::fs::File::open(path).and_then(|file| file.take(max).read_to_end(&mut value));
            (path.clone(), read)
        }
        None => {
            if std::io::stdin().is_terminal() {
                say("Type the value, then Ctrl-D:");
            }
            ("standard input".into(), std::io::stdin().lock().take(max).read_to_end(&mut value))
        }
    };
    let remedy = "give the value on standard input, or a file with --file";
    read.map_err(|source| CliError::File { verb: "read", path, source, remedy })?;
    if value.ends_with(b"\n") {
        value.pop();
    }
    if value.len() > crate::node::SECRET_MAX {
        return Err(CliError::usage(
            "the value is longer than 64 KiB",
            "keep a file on the nodes and name it with --data",
        ));
    }
    if value.is_empty() {
        return Err(CliError::usage("the value is empty", "give one on standard input or with --file"));
    }
    Ok(Bytes::from(value))
}

pub(crate) async fn project(mut client: Client, command: ProjectCommand, output: Output) -> Result<Exit, CliError> {
    match command {
        ProjectCommand::List => {
            let projects: Projects = client.get("/projects").await?;
            output.print(&projects, |projects| {
                let now = now_unix_ms();
                let rows = projects.projects.iter().map(|project| project_row(project, now));
                table(
                    &["project", "jobs", "queued", "running", "completed", "failed", "stopped", "last", "about"],
                    rows,
                )
            })?;
            Ok(Exit::Done)
        }
        ProjectCommand::Show(args) => show_project(client, &args.project, output).await,
        ProjectCommand::Note(ProjectNoteArgs { project, text }) => {
            let user = std::env::var("USER").unwrap_or_default();
            let path = format!("/projects/{}/notes", segment(&project));
            let done: Done = client.post(&path, &ProjectNoteRequest { text, user }).await?;
            print_done(&done, output)
        }
        ProjectCommand::Describe(DescribeArgs { project, text }) => {
            let path = format!("/projects/{}", segment(&project));
            let done: Done = client.json(Method::PUT, &path, Some(&ProjectRequest { description: text })).await?;
            print_done(&done, output)
        }
    }
}

/// A project as `fnode project show --json` prints it.
#[derive(Serialize)]
struct ShownProject {
    #[serde(flatten)]
    project: ProjectWord,
    #[serde(flatten)]
    notes: ProjectNotes,
}

async fn show_project(mut client: Client, name: &str, output: Output) -> Result<Exit, CliError> {
    let path = format!("/projects/{}", segment(name));
    let project: ProjectWord = client.get(&path).await?;
    let notes: ProjectNotes = client.get(&format!("{path}/notes")).await?;
    if output.is_json() {
        output.print_json(&ShownProject { project, notes })?;
        return Ok(Exit::Done);
    }
    let latest: JobPage = client.get(&format!("/jobs?project={}&limit={PROJECT_JOBS}", segment(name))).await?;
    let mut text = project_text(&project);
    if !notes.notes.is_empty() {
        let now = now_unix_ms();
        let note = |note: &ProjectNoteWord| {
            fields(&[(&*format!("{} ago, {}", ago(note.written_unix_ms, now), note.user), note.text.clone())])
        };
        text += "\n";
        text.extend(notes.notes.iter().map(note));
    }
    text = text + "\n" + &jobs::lines_table(&latest.jobs, output);
    write_out((text + "\n").as_bytes())?;
    Ok(Exit::Done)
}

fn project_row(project: &ProjectWord, now: u64) -> Vec<Cell> {
    let last = if project.last_submitted_unix_ms == 0 {
        String::new()
    } else {
        format!("{} ago", ago(project.last_submitted_unix_ms, now))
    };
    vec![
        Cell::new(&project.name),
        Cell::new(project.jobs),
        Cell::new(project.queued),
        Cell::new(project.running),
        Cell::new(project.completed),
        Cell::new(project.failed),
        Cell::new(project.stopped),
        Cell::new(last),
        Cell::new(project.description.lines().next().unwrap_or_default()),
    ]
}

fn project_text(project: &ProjectWord) -> String {
    fields(&[
        ("project", project.name.clone()),
        ("about", project.description.clone()),
        (
            "jobs",
            format!(
                "{}: {} queued, {} running, {} completed, {} failed, {} stopped",
                project.jobs, project.queued, project.running, project.completed, project.failed, project.stopped
            ),
        ),
    ])
}

/// `fnode version`: works without a daemon.
pub(crate) async fn version(client: Client, output: Output) -> Result<Exit, CliError> {
    #[derive(Serialize)]
    struct Versions {
        version: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        daemon: Option<String>,
    }
    let mut client = client.with_any_version();
    let daemon = client.get::<NodeInfo>("/node").await.ok().map(|info| info.version);
    let versions = Versions { version: env!("CARGO_PKG_VERSION"), daemon };
    output.print(&versions, |versions| match &versions.daemon {
        Some(daemon) if daemon != versions.version => format!("fnode {} (the daemon runs {daemon})", versions.version),
        _ => format!("fnode {}", versions.version),
    })?;
    Ok(Exit::Done)
}
