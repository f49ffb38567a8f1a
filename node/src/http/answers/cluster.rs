//! The answering node, the cluster at a glance, and what its owner may do.

use std::process::Command;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use proto::{ByteSize, JobId};

use super::{Answered, To, done, view};
use crate::exec::inventory::command::run;
use crate::http::describe;
use crate::http::refusal::{Given, Refusal, blocking};
use crate::http::routes::Shared;
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::http::words::job::JobLine;
use crate::http::words::node::{LogWord, NodeInfo, Status};
use crate::http::words::{
    CollectRequest, Collected, Done, Finding, Findings, Invitation, InviteRequest, ShutdownRequest, Verdict,
};
use crate::http::{Api, document};
use crate::node::elsewhere;
use crate::node::gc::{self, Collection, Retention};
use crate::node::{NodeError, NodeHandle};
use crate::store::GroupFilter;

/// A ticket is a key: it should not lie about for long.
const INVITE_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// The checks have their own limits, of at most eight seconds.
const DOCTOR_MAX: Duration = Duration::from_secs(20);
/// Unfinished submissions that a status shows; `GET /jobs` has all.
const UNFINISHED_MAX: usize = 100;
/// Unfinished submissions that are counted; beyond it counts are lower bounds.
const COUNTED_MAX: usize = 100_000;

pub(crate) async fn openapi() -> Json<serde_json::Value> {
    Json(document())
}

pub(crate) async fn node(State(shared): State<Shared>) -> Json<NodeInfo> {
    Json(info(&shared.api))
}

fn info(api: &Api) -> NodeInfo {
    let (cluster, cluster_name) = api.node.cluster();
    NodeInfo {
        name: api.node.name().to_owned(),
        id: api.node.me().to_string(),
        cluster: cluster.to_string(),
        cluster_name: cluster_name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        home: api.node.home().dir().display().to_string(),
        addrs: api.facts.addrs.clone(),
        api: api.facts.api.clone(),
        socket: api.facts.socket.clone(),
    }
}

pub(crate) async fn status(State(Shared { api, .. }): State<Shared>) -> Answered<Status> {
    let (view, names) = view(&api.node).await?;
    let handle = api.node.clone();
    let nodes = describe::nodes(&view, &names);
    let filter = GroupFilter { unfinished: true, hidden: true, ..GroupFilter::default() };
    let (counts, unfinished, log) = blocking(move || {
        let groups = handle.groups(&filter, COUNTED_MAX)?;
        let preparing = describe::preparing(&view);
        let mut sum = (0, 0, 0);
        let mut lines: Vec<JobLine> = Vec::new();
        for (group, record) in groups {
            let Some(submitted) = &record.submitted else { continue };
            let known = preparing.get(&group).map_or(0, Vec::len) as u64;
            let counts = describe::counts(submitted.spec.len(), record.tally, known);
            sum = (sum.0 + counts.queued, sum.1 + counts.preparing, sum.2 + counts.running);
            if lines.len() < UNFINISHED_MAX {
                let id = JobId::only(group);
                let job = if submitted.spec.array.is_empty() { handle.job(id)? } else { None };
                lines.extend(describe::job_line(id, &record, job.as_ref(), known, &names));
            }
        }
        Ok::<_, NodeError>((sum, lines, log(&handle)?))
    })
    .await?;
    let holders = nodes.iter().filter(|node| node.holds_log).count();
    Ok(Json(Status {
        node: info(&api),
        holders: u32::try_from(holders).unwrap_or(u32::MAX),
        nodes,
        log,
        queued: counts.0,
        preparing: counts.1,
        running: counts.2,
        unfinished,
    }))
}

fn log(node: &NodeHandle) -> Result<LogWord, NodeError> {
    let snapshot = node.snapshots().pop();
    Ok(LogWord {
        bytes: node.log_bytes()?,
        snapshot_entries: snapshot.as_ref().map_or(0, |signed| signed.name.vector.len()),
        snapshot_bytes: snapshot.as_ref().map_or(0, |signed| signed.name.size),
        snapshot_signers: snapshot.map_or(0, |signed| u32::try_from(signed.signatures.len()).unwrap_or(u32::MAX)),
    })
}

pub(crate) async fn doctor(State(Shared { api, .. }): State<Shared>) -> Answered<Findings> {
    let home = api.node.home().dir().to_owned();
    let said = blocking(move || {
        // A process of its own: a driver that hangs or crashes there does no harm here.
        let mut doctor = Command::new("/proc/self/exe");
        doctor.arg("doctor").arg("--json").arg("--home").arg(home);
        run(&mut doctor, DOCTOR_MAX).map_err(|error| no_doctor(&error.to_string()))
    });
    let said = said.await?.stdout;
    serde_json::from_str(said.trim()).map(Json).map_err(|error| no_doctor(&error.to_string()))
}

/// Writes, reads and removes a small file in each.
pub(crate) async fn storage(State(Shared { api, .. }): State<Shared>) -> Answered<Findings> {
    let findings = elsewhere::probe(&api.node).await.into_iter().map(|(subject, place, tried)| {
        let subject = subject.to_owned();
        match tried {
            Ok(()) => {
                let text = format!("{place} can be written and read");
                Finding { subject, verdict: Verdict::Good, text, remedy: String::new() }
            }
            Err(line) => {
                let (text, remedy) = line.split_once("; ").unwrap_or((&line, "see the daemon's log"));
                Finding { subject, verdict: Verdict::Bad, text: text.to_owned(), remedy: remedy.to_owned() }
            }
        }
    });
    Ok(Json(Findings { findings: findings.collect() }))
}

fn no_doctor(why: &str) -> Refusal {
    Refusal(ErrorWord::new(ErrorCode::Internal, format!("the checks could not run: {why}"), "run fnode doctor here"))
}

pub(crate) async fn invite(
    State(Shared { api, .. }): State<Shared>,
    Given(request): Given<InviteRequest>,
) -> Answered<Invitation> {
    let ttl = Duration::from_secs(request.ttl_s);
    if ttl.is_zero() || ttl > INVITE_MAX {
        return Err(ErrorWord::bad_input("a ticket may be used for 1 s to 30 days", "give another --ttl").into());
    }
    let ticket = api.node.invite(ttl).await?;
    let text = ticket.to_text().map_err(|error| ErrorWord::bad_input(error.to_string(), ""))?;
    Ok(Json(Invitation { ticket: text, cluster_name: ticket.cluster_name, expires_unix_ms: ticket.expires_unix_ms }))
}

pub(crate) async fn pause(State(Shared { api, .. }): State<Shared>) -> Answered<Done> {
    api.node.pause().await?;
    Ok(done("pause", To::Node(api.node.me()), format!("{} takes no more jobs; those that run go on", api.node.name())))
}

pub(crate) async fn resume(State(Shared { api, .. }): State<Shared>) -> Answered<Done> {
    api.node.resume().await?;
    Ok(done("resume", To::Node(api.node.me()), format!("{} takes jobs again", api.node.name())))
}

pub(crate) async fn shutdown(
    State(Shared { api, .. }): State<Shared>,
    Given(request): Given<ShutdownRequest>,
) -> Answered<Done> {
    api.node.shutdown(request.stop_jobs).await?;
    let jobs = if request.stop_jobs { "its jobs are stopped" } else { "its jobs go on" };
    Ok(done("shutdown", To::Node(api.node.me()), format!("{} ends; {jobs}", api.node.name())))
}

pub(crate) async fn gc(
    State(Shared { api, .. }): State<Shared>,
    Given(request): Given<CollectRequest>,
) -> Answered<Collected> {
    let handle = api.node.clone();
    let CollectRequest { older_than_s, max_bytes, dry_run } = request;
    let retention = Retention {
        older_than: (older_than_s > 0).then(|| Duration::from_secs(older_than_s)),
        bytes_max: max_bytes.map(ByteSize),
        cache_max: None,
    };
    let Collection { freed, left_bytes, named } =
        blocking(move || Ok::<_, Refusal>(gc::collect(&handle, retention, dry_run)?)).await?;
    Ok(Json(Collected { blobs: freed.blobs, freed_bytes: freed.bytes, left_bytes, named_blobs: named.blobs, dry_run }))
}
