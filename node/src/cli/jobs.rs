//! Jobs: lists, one, and what users change about them.

use std::collections::BTreeSet;

use comfy_table::Cell;
use hyper::Method;
use proto::ByteSize;

use super::args::{ExplainArgs, FilterArgs, JobCommand, ListArgs, MarkArgs, NoteArgs, StopArgs, TagArgs};
use super::client::{Client, query, segment};
use super::cluster::print_done;
use super::error::CliError;
use super::exit::Exit;
use super::output::{Output, fields, say, table};
use super::time::{ago, counted, date, length, now_unix_ms};
use super::{compare, follow, get, graph, record, track};
use crate::http::words::Done;
use crate::http::words::explain::ExplanationWord;
use crate::http::words::job::{
    ArchiveWord, AttemptWord, CheckpointWord, Counts, JobLine, JobPage, JobWord, MarkRequest, StateWord,
};
use crate::http::words::submit::SubmitAnswer;

/// Jobs asked for at a time.
const PAGE: u32 = 1_000;
/// Command lines are cut to this in lists; `job show` has all of it.
const COMMAND_MAX: usize = 40;
/// So much of an id tells jobs apart: its time to the millisecond, and twelve random bits.
const ID_SHOWN: usize = 18;

pub(crate) async fn job(client: Client, command: JobCommand, output: Output) -> Result<Exit, CliError> {
    match command {
        JobCommand::List(args) => list(client, &args, output).await,
        JobCommand::Show(args) => show(client, &args, output).await,
        JobCommand::Graph(args) => graph::graph(client, &args, output).await,
        JobCommand::Compare(args) => compare::compare(client, &args, output).await,
        JobCommand::Diff(args) => record::diff(client, &args.job, output).await,
        JobCommand::Explain(args) => explain(client, &args, output).await,
        JobCommand::Wait(args) => follow::wait_to_end(client, &args.jobs, args.timeout, args.propagate, output).await,
        JobCommand::Stop(args) => stop(client, &args, output).await,
        JobCommand::Rerun(args) => rerun(client, &args, output).await,
        JobCommand::Get(args) => get::get(client, &args, output).await,
        JobCommand::Archive(args) => {
            mark(client, &args, |on| MarkRequest { archived: Some(on), ..MarkRequest::default() }, output).await
        }
        JobCommand::Keep(args) => {
            mark(client, &args, |on| MarkRequest { kept: Some(on), ..MarkRequest::default() }, output).await
        }
        JobCommand::Delete(args) => delete(client, &args, output).await,
        JobCommand::Tag(args) => tag(client, args, output).await,
        JobCommand::Note(args) => note(client, args, output).await,
        JobCommand::Logs(args) => follow::logs(client, &args, output).await,
    }
}

pub(crate) async fn list(mut client: Client, args: &ListArgs, output: Output) -> Result<Exit, CliError> {
    let mut all = JobPage::default();
    let wanted = args.limit as usize;
    loop {
        let left = u32::try_from(wanted - all.jobs.len()).unwrap_or(PAGE).min(PAGE);
        let page: JobPage = client.get(&page_path(args, left, &all.next)).await?;
        all.jobs.extend(page.jobs);
        all.next = page.next;
        if all.next.is_empty() || all.jobs.len() >= wanted {
            break;
        }
    }
    output.print(&all, |all| match (args.params, args.metrics) {
        (false, false) => lines_table(&all.jobs, output),
        (params, metrics) => told_table(&all.jobs, params, metrics, output),
    })?;
    if !all.next.is_empty() && !output.is_json() {
        say(&format!("fnode: there are more; ask with --limit {}", wanted.saturating_mul(2)));
    }
    Ok(Exit::Done)
}

fn page_path(args: &ListArgs, limit: u32, after: &str) -> String {
    let sort = args.sort.clone().unwrap_or_default();
    let more = [("sort", sort), ("limit", limit.to_string()), ("after", after.to_owned())];
    match &args.array {
        Some(array) => {
            let state = ("state", args.filter.state.clone().unwrap_or_default());
            format!("/jobs/{}/members{}", segment(array), query(&[&[state], &more[..]].concat()))
        }
        None => {
            let parts = if args.parts { "true".to_owned() } else { String::new() };
            let parts = vec![("parts", parts), ("parent", args.parent.clone().unwrap_or_default())];
            format!("/jobs{}", query(&[filter_pairs(&args.filter), parts, more.to_vec()].concat()))
        }
    }
}

/// What is asked of the daemon.
pub(super) fn filter_pairs(filter: &FilterArgs) -> Vec<(&'static str, String)> {
    let text = |given: &Option<String>| given.clone().unwrap_or_default();
    vec![
        ("state", text(&filter.state)),
        ("project", text(&filter.project)),
        ("node", text(&filter.node)),
        ("name", text(&filter.name)),
        ("user", text(&filter.user)),
        ("within_s", filter.age.map_or_else(String::new, |age| age.as_secs().max(1).to_string())),
        ("all", if filter.all { "true".to_owned() } else { String::new() }),
    ]
}

/// Jobs as a table; an array is one line.
pub(crate) fn lines_table(jobs: &[JobLine], output: Output) -> String {
    let now = now_unix_ms();
    let short: Vec<String> = shown_ids(jobs);
    let rows = jobs.iter().zip(short).map(|(job, id)| {
        let state = output.state(job.state);
        let took = match (job.started_unix_ms, job.ended_unix_ms) {
            (Some(started), Some(ended)) => length(ended.saturating_sub(started)),
            (Some(started), None) => length(now.saturating_sub(started)),
            _ => String::new(),
        };
        vec![
            Cell::new(id),
            Cell::new(&job.project),
            Cell::new(&job.name),
            state,
            Cell::new(detail(job)),
            Cell::new(job.node.as_ref().map(|node| node.name.clone()).unwrap_or_default()),
            Cell::new(format!("{} ago", ago(job.submitted_unix_ms, now))),
            Cell::new(took),
            Cell::new(command(&job.command)),
        ]
    });
    table(&["job", "project", "name", "state", "detail", "node", "submitted", "took", "command"], rows)
}

/// Jobs with what they told of themselves.
fn told_table(jobs: &[JobLine], params: bool, metrics: bool, output: Output) -> String {
    let (names, cells) = track::columns(jobs, params, metrics);
    let rows = jobs.iter().zip(shown_ids(jobs)).zip(cells).map(|((job, id), told)| {
        let first = [Cell::new(id), Cell::new(&job.project), Cell::new(&job.name), output.state(job.state)];
        first.into_iter().chain(told).collect::<Vec<_>>()
    });
    let titles: Vec<&str> =
        ["job", "project", "name", "state"].into_iter().chain(names.iter().map(String::as_str)).collect();
    table(&titles, rows)
}

/// Ids cut to what tells them apart; whole where that is not enough among those shown.
pub(super) fn shown_ids(jobs: &[JobLine]) -> Vec<String> {
    let cut = |id: &str| {
        let (group, member) = id.split_once('/').map_or((id, ""), |(group, member)| (group, member));
        let group = group.get(..ID_SHOWN).unwrap_or(group);
        if member.is_empty() { group.to_owned() } else { format!("{group}/{member}") }
    };
    let groups: BTreeSet<&str> = jobs.iter().map(|job| job.id.split('/').next().unwrap_or_default()).collect();
    let cuts: BTreeSet<String> = groups.iter().map(|id| cut(id)).collect();
    if cuts.len() < groups.len() {
        return jobs.iter().map(|job| job.id.clone()).collect();
    }
    jobs.iter().map(|job| cut(&job.id)).collect()
}

fn detail(job: &JobLine) -> String {
    let detail = match (&job.array, &job.ending) {
        (Some(counts), _) => counts_text(counts),
        (None, Some(ending)) if job.state == StateWord::Failed => cut(&ending.text, COMMAND_MAX),
        _ => String::new(),
    };
    format!("{detail}{}", alone(job)).trim_start().to_owned()
}

/// An end that a second node does not have yet may still be overruled.
pub(crate) fn alone(job: &JobLine) -> &'static str {
    if job.provisional { " (on this node alone)" } else { "" }
}

/// `12/100 completed, 3 running`.
fn counts_text(counts: &Counts) -> String {
    let mut parts = vec![format!("{}/{} completed", counts.completed, counts.total)];
    let named = [
        (counts.queued, "queued"),
        (counts.preparing, "preparing"),
        (counts.running, "running"),
        (counts.failed, "failed"),
        (counts.stopped, "stopped"),
    ];
    parts.extend(named.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")));
    parts.join(", ")
}

fn command(words: &[String]) -> String {
    cut(&words.join(" ").replace(['\n', '\t'], " "), COMMAND_MAX)
}

fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max - 1).chain(['…']).collect()
}

async fn show(mut client: Client, args: &ExplainArgs, output: Output) -> Result<Exit, CliError> {
    let job: JobWord = client.get(&format!("/jobs/{}", segment(&args.job))).await?;
    output.print(&job, job_text)?;
    Ok(Exit::Done)
}

fn job_text(job: &JobWord) -> String {
    let line = &job.line;
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        let texts =
            map.iter().map(|(key, value)| if value.is_empty() { key.clone() } else { format!("{key}={value}") });
        texts.collect::<Vec<_>>().join("\n")
    };
    let size = |bytes: u64| if bytes == 0 { String::new() } else { ByteSize(bytes).to_string() };
    let bundle = |bundle: &crate::http::words::blob::BundleWord| {
        format!(
            "{}, {}, {}",
            counted(bundle.files, "file"),
            ByteSize(bundle.total_bytes),
            &bundle.manifest[..bundle.manifest.len().min(10)]
        )
    };
    let after: Vec<String> =
        job.after.iter().map(|after| format!("{}:{}", after.job, super::cluster::serde_text(&after.trigger))).collect();
    let count = |count: u32| if count == 0 { String::new() } else { count.to_string() };
    fields(&[
        ("job", line.id.clone()),
        ("project", line.project.clone()),
        ("name", line.name.clone()),
        ("user", line.user.clone()),
        ("part of", line.parent.clone().unwrap_or_default()),
        ("state", state_text(line)),
        ("node", line.node.as_ref().map(|node| node.name.clone()).unwrap_or_default()),
        ("command", line.command.join(" ")),
        ("indices", job.indices.clone()),
        ("submitted", date(line.submitted_unix_ms)),
        ("started", line.started_unix_ms.map(date).unwrap_or_default()),
        ("ended", line.ended_unix_ms.map(date).unwrap_or_default()),
        ("needs", needs(job)),
        ("labels", pairs(&job.labels)),
        ("nodes", job.nodes.iter().cloned().collect::<Vec<_>>().join("\n")),
        ("data", job.data.iter().cloned().collect::<Vec<_>>().join("\n")),
        ("after", after.join("\n")),
        ("env", pairs(&job.env)),
        ("secrets", job.secrets.iter().cloned().collect::<Vec<_>>().join(" ")),
        ("params given", job.params_json.clone()),
        ("params", track::params(job)),
        ("metrics", track::metrics(job)),
        ("left out", track::left_out(job)),
        ("used", track::system(job)),
        ("artifacts", track::artifacts(job)),
        ("error", line.told.error.as_ref().map(track::error).unwrap_or_default()),
        ("timeout", if job.timeout_s == 0 { String::new() } else { length(job.timeout_s * 1_000) }),
        ("retries", count(job.retries)),
        ("priority", if job.priority == 0 { String::new() } else { job.priority.to_string() }),
        ("code", job.checkout.as_ref().map(|checkout| record::checkout(&line.id, checkout)).unwrap_or_default()),
        ("bundle", job.bundle.as_ref().map(bundle).unwrap_or_default()),
        ("environment", job.environment.as_ref().map(|environment| environment.path.clone()).unwrap_or_default()),
        (
            "ran with",
            job.attempts.last().and_then(|last| last.ran_with.as_ref()).map(record::ran_with).unwrap_or_default(),
        ),
        ("outputs", job.outputs.as_ref().map(bundle).unwrap_or_default()),
        ("checkpoint", job.checkpoint.as_ref().map(checkpoint_text).unwrap_or_default()),
        ("held by", job.held_by.as_deref().map(held_by).unwrap_or_default()),
        ("archive", job.archive.as_ref().map(archive).unwrap_or_default()),
        ("coordinator", job.coordinator.as_ref().map(|node| node.name.clone()).unwrap_or_default()),
        ("tags", pairs(&line.tags)),
        ("note", job.note.clone()),
        ("marks", marks_text(job)),
        ("attempts", job.attempts.iter().map(|attempt| attempt_text(attempt, &size)).collect::<Vec<_>>().join("\n")),
    ])
}

/// Where it stands, and how it ended.
fn state_text(line: &JobLine) -> String {
    let state = line.state.as_str();
    let text = match (&line.ending, &line.array) {
        (_, Some(counts)) => format!("{state}: {}", counts_text(counts)),
        (Some(ending), _) if ending.text != state => format!("{state}: {}", ending.text),
        _ => state.to_owned(),
    };
    format!("{text}{}", alone(line))
}

/// From where it would go on.
fn checkpoint_text(checkpoint: &CheckpointWord) -> String {
    let CheckpointWord { attempt, node, saved_unix_ms, total_bytes, files } = checkpoint;
    let at = date(*saved_unix_ms);
    format!("{}, {} of attempt {attempt} on {}, {at}", counted(*files, "file"), ByteSize(*total_bytes), node.name)
}

/// Who has what it left.
fn held_by(names: &[String]) -> String {
    match names {
        [] => "no node that can be reached now; see fnode status".to_owned(),
        [one] => format!("1 node: {one}; what it left is lost if that one is"),
        several => format!("{} nodes: {}", several.len(), several.join(", ")),
    }
}

/// Where what it left is beside the cluster, or why it is not.
fn archive(archive: &ArchiveWord) -> String {
    let ArchiveWord { place, archived_unix_ms, owed, why } = archive;
    match (archived_unix_ms, owed, why.as_str()) {
        (Some(at), ..) => format!("{place}, {}", date(*at)),
        (None, true, "") => format!("{place}, on its way"),
        (None, true, why) => format!("not yet, tried again: {why}"),
        (None, false, why) => format!("not known now: {why}"),
    }
}

fn marks_text(job: &JobWord) -> String {
    let marks = [(job.line.archived, "archived"), (job.kept, "kept"), (job.stop_wished, "asked to stop")];
    marks.iter().filter(|(is_on, _)| *is_on).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

fn needs(job: &JobWord) -> String {
    let mut parts = vec![format!("{} CPUs", f64::from(job.cpu_milli) / 1_000.0)];
    if job.memory_bytes > 0 {
        parts.push(format!("{} memory", ByteSize(job.memory_bytes)));
    }
    if job.gpus > 0 {
        let memory =
            if job.gpu_memory_bytes > 0 { format!(" with {}", ByteSize(job.gpu_memory_bytes)) } else { String::new() };
        parts.push(format!("{} GPUs{memory}", job.gpus));
    }
    if !job.python.is_empty() {
        parts.push(format!("Python {}", job.python));
    }
    parts.join(", ")
}

fn attempt_text(attempt: &AttemptWord, size: &impl Fn(u64) -> String) -> String {
    let how = attempt.ending.as_ref().map_or_else(|| "running".to_owned(), |ending| ending.text.clone());
    let took = match (attempt.started_unix_ms, attempt.ended_unix_ms) {
        (Some(started), Some(ended)) => format!(", took {}", length(ended.saturating_sub(started))),
        _ => String::new(),
    };
    let used = if attempt.cpu_ms > 0 { format!(", CPU {}", length(attempt.cpu_ms)) } else { String::new() };
    let memory = match size(attempt.memory_max_bytes) {
        text if text.is_empty() => text,
        text => format!(", at most {text}"),
    };
    format!("{} on {}: {how}{took}{used}{memory}", attempt.id, attempt.node.name)
}

async fn explain(mut client: Client, args: &ExplainArgs, output: Output) -> Result<Exit, CliError> {
    let explanation: ExplanationWord = client.get(&format!("/jobs/{}/explanation", segment(&args.job))).await?;
    output.print(&explanation, explanation_text)?;
    Ok(Exit::Done)
}

fn explanation_text(explanation: &ExplanationWord) -> String {
    let mut text = fields(&[
        ("job", explanation.job.clone()),
        ("state", explanation.state.as_str().to_owned()),
        ("why", explanation.summary.clone()),
        ("help", explanation.help.clone()),
        ("coordinator", explanation.coordinator.as_ref().map(|node| node.name.clone()).unwrap_or_default()),
        ("waits for", explanation.waits_for.join("\n")),
    ]);
    if explanation.state == StateWord::Queued && !explanation.nodes.is_empty() {
        let rows = explanation.nodes.iter().map(|near| {
            let lacks = if near.lacks.is_empty() { "fits now".to_owned() } else { near.lacks.join(", ") };
            let cure = match (near.lacks.is_empty(), near.is_passing) {
                (true, _) => "",
                (false, true) => "yes",
                (false, false) => "no",
            };
            vec![Cell::new(&near.node.name), Cell::new(cure), Cell::new(lacks)]
        });
        text.push('\n');
        text.push_str(&table(&["node", "waiting helps", "lacks"], rows));
    }
    text
}

pub(crate) async fn stop(mut client: Client, args: &StopArgs, output: Output) -> Result<Exit, CliError> {
    let mut failed = None;
    for id in &args.jobs {
        match client.post::<Done>(&format!("/jobs/{}/stop", segment(id)), &()).await {
            Ok(done) => tell(&done, args.jobs.len(), output)?,
            // The others shall stop all the same.
            Err(error @ CliError::Refused(_)) if args.jobs.len() > 1 => {
                say(&format!("fnode: {error}"));
                failed = Some(Exit::Failed);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(failed.unwrap_or(Exit::Done))
}

/// One value, or one per line where several things are changed.
fn tell(done: &Done, of: usize, output: Output) -> Result<(), CliError> {
    if of == 1 || !output.is_json() { print_done(done, output).map(drop) } else { output.print_json_line(done) }
}

async fn rerun(mut client: Client, args: &ExplainArgs, output: Output) -> Result<Exit, CliError> {
    let answer: SubmitAnswer = client.post(&format!("/jobs/{}/rerun", segment(&args.job)), &()).await?;
    if !answer.warning.is_empty() {
        say(&format!("fnode: warning: {}", answer.warning));
    }
    output.print(&answer, |answer| {
        fields(&[("job", answer.id.clone()), ("next", format!("fnode logs -f {0}    fnode stop {0}", answer.id))])
    })?;
    Ok(Exit::Done)
}

async fn mark(
    mut client: Client,
    args: &MarkArgs,
    request: impl Fn(bool) -> MarkRequest,
    output: Output,
) -> Result<Exit, CliError> {
    for id in &args.jobs {
        let done = patch(&mut client, id, &request(!args.undo)).await?;
        tell(&done, args.jobs.len(), output)?;
    }
    Ok(Exit::Done)
}

async fn patch(client: &mut Client, id: &str, request: &MarkRequest) -> Result<Done, CliError> {
    client.json(Method::PATCH, &format!("/jobs/{}/marks", segment(id)), Some(request)).await
}

async fn delete(mut client: Client, args: &ExplainArgs, output: Output) -> Result<Exit, CliError> {
    let done: Done = client.json(Method::DELETE, &format!("/jobs/{}", segment(&args.job)), None::<&()>).await?;
    print_done(&done, output)
}

async fn tag(mut client: Client, args: TagArgs, output: Output) -> Result<Exit, CliError> {
    let request = MarkRequest {
        tags: args.tags.into_iter().collect(),
        untag: args.remove.into_iter().collect(),
        ..MarkRequest::default()
    };
    let done = patch(&mut client, &args.job, &request).await?;
    print_done(&done, output)
}

async fn note(mut client: Client, args: NoteArgs, output: Output) -> Result<Exit, CliError> {
    let request = MarkRequest { note: Some(args.text), ..MarkRequest::default() };
    let done = patch(&mut client, &args.job, &request).await?;
    print_done(&done, output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str) -> JobLine {
        JobLine { id: id.to_owned(), ..JobLine::default() }
    }

    #[test]
    fn ids_are_cut_only_where_that_tells_them_apart() {
        let (a, b) = ("01935f3a-0b1c-7aaa-8000-000000000001", "01935f3a-0b1c-7bbb-8000-000000000001");
        assert_eq!(shown_ids(&[line(a), line(b)]), ["01935f3a-0b1c-7aaa", "01935f3a-0b1c-7bbb"]);
        let twin = "01935f3a-0b1c-7aaa-8000-000000000002";
        assert_eq!(shown_ids(&[line(a), line(twin)]), [a, twin]);
        assert_eq!(shown_ids(&[line(&format!("{a}/7"))]), ["01935f3a-0b1c-7aaa/7"]);
    }

    #[test]
    fn an_array_is_one_line_with_counts() {
        let counts = Counts { total: 100, completed: 85, running: 3, queued: 12, ..Counts::default() };
        assert_eq!(counts_text(&counts), "85/100 completed, 12 queued, 3 running");
        let array = JobLine { array: Some(counts), state: StateWord::Running, ..line("x") };
        let text = lines_table(&[array], Output::new(false));
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn long_commands_are_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüx", 3), "äö…");
    }
}
