//! Jobs: lists, one, its end, and what users change about it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use proto::entry::Position;
use proto::event::{Event, Mark};
use proto::keeping::Left;
use proto::record::{GroupRecord, JobRecord};
use proto::{GroupId, JobId, Member, NodeId};
use tokio::time::Instant;

use super::record::RanWiths;
use super::{Answered, To, done, has_ended, job_id, job_records, node_id, projects, record, sorted, track, view};
use crate::http::describe::{self, Names};
use crate::http::order::{Cursor, Order};
use crate::http::refusal::{Asked, Given, Path, Refusal, blocking};
use crate::http::routes::Shared;
use crate::http::words::Done;
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::http::words::explain::ExplanationWord;
use crate::http::words::job::{ArchiveWord, JobLine, JobPage, JobQuery, JobWord, MarkRequest, StateWord, WaitQuery};
use crate::http::words::record::RecordedWord;
use crate::http::words::submit::check_label;
use crate::node::elsewhere::Archived;
use crate::node::{NodeError, NodeHandle, NodeNews, ViewSnapshot, unix_ms};
use crate::store::{GroupFilter, Parts};

/// A page when no limit is asked for, and the largest.
const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1_000;
/// Groups read from the store at a time.
pub(super) const BATCH: usize = 200;
/// Groups looked at for one page: a filter that nothing meets must not read the whole history in one go.
const SCANNED_MAX: usize = 20_000;
/// Notes and the values of tags, in bytes.
const NOTE_MAX: usize = 4_096;
/// Parts of a job that are deleted with it.
const PARTS_MAX: usize = 10_000;
/// Tags of one job.
const TAGS_MAX: usize = 64;
/// A wait without a limit of its own, and the longest.
const WAIT: u64 = 30;
const WAIT_MAX: u64 = 60;
/// While somebody waits, the record is looked at this often even if no news come.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A second node has an outcome within a few round trips; nobody sends news of that.
const HOLD_LOOK_EVERY: Duration = Duration::from_millis(5);
/// So long a wait goes on for it (DESIGN §8: as a submission does); then the answer says that it is provisional.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// A [`JobQuery`] with everything looked up.
pub(super) struct Wanted {
    pub(super) filter: GroupFilter,
    states: BTreeSet<StateWord>,
    node: Option<NodeId>,
    name: String,
    pub(super) oldest_unix_ms: u64,
    pub(super) limit: usize,
    pub(super) recorded: bool,
    pub(super) order: Order,
    /// Where the page before ended, in an order that was asked for.
    pub(super) cursor: Option<Cursor>,
}

/// What a node sees now.
pub(super) struct Seeing {
    pub(super) view: ViewSnapshot,
    pub(super) names: Names,
    pub(super) preparing: BTreeMap<GroupId, Vec<Member>>,
}

/// A group as a list looks at it.
pub(super) struct Seen {
    /// Without what it told of itself.
    pub(super) line: JobLine,
    /// The nodes that its jobs ran on.
    nodes: BTreeSet<NodeId>,
    /// The one job of what is no array.
    pub(super) job: Option<JobRecord>,
}

pub(crate) async fn list(State(Shared { api, .. }): State<Shared>, Asked(query): Asked<JobQuery>) -> Answered<JobPage> {
    let (view, names) = view(&api.node).await?;
    if !query.project.is_empty() {
        projects::find(&api.node, &query.project).await?;
    }
    let node = match query.node.as_str() {
        "" => None,
        text => Some(node_id(&view, &names, text)?),
    };
    let parts = match query.parent.as_str() {
        "" if query.parts => Parts::Shown,
        "" => Parts::Hidden,
        text => Parts::Of(job_id(&api.node, text).await?),
    };
    let wanted = wanted(query, node, parts)?;
    let handle = api.node.clone();
    let seeing = Seeing { preparing: describe::preparing(&view), view, names };
    let listed = move || match wanted.order.is_default() {
        true => page(&handle, &wanted, &seeing).map_err(Refusal::from),
        false => sorted::page(&handle, &wanted, &seeing),
    };
    Ok(Json(blocking(listed).await?))
}

fn wanted(query: JobQuery, node: Option<NodeId>, parts: Parts) -> Result<Wanted, Refusal> {
    let states = states(&query.state)?;
    let order = Order::parse(&query.sort)?;
    let (before, cursor) = match query.after.as_str() {
        "" => (None, None),
        text if order.is_default() => (Some(text.parse::<GroupId>().map_err(|_| bad_cursor(text))?), None),
        text => (None, order.cursor(text)?),
    };
    let some = |text: String| if text.is_empty() { None } else { Some(text) };
    // An index of unfinished groups exists; use it when nothing else is wanted.
    let unfinished = !states.is_empty() && states.iter().all(|state| !state.is_final());
    Ok(Wanted {
        filter: GroupFilter {
            project: some(query.project),
            user: some(query.user),
            unfinished,
            hidden: query.all,
            parts,
            before,
        },
        states,
        node,
        name: query.name,
        oldest_unix_ms: match (query.within_s, parts) {
            // Nothing is a part of a job that came later.
            (0, Parts::Of(parent)) => parent.group.unix_ms(),
            (0, _) => 0,
            (within_s, _) => unix_ms().saturating_sub(within_s.saturating_mul(1_000)),
        },
        limit: limit(query.limit)?,
        recorded: query.record != 0,
        order,
        cursor,
    })
}

pub(super) fn states(text: &str) -> Result<BTreeSet<StateWord>, Refusal> {
    if text.is_empty() {
        return Ok(BTreeSet::new());
    }
    StateWord::parse_set(text).map_err(|part| {
        let hint = "write queued, preparing, running, completed, failed, stopped, unfinished or ended";
        Refusal(ErrorWord::bad_input(format!("{part:?} is not a state"), hint))
    })
}

pub(super) fn bad_cursor(text: &str) -> Refusal {
    Refusal(ErrorWord::bad_input(format!("{text:?} is not the end of a page"), "give the next of the page before"))
}

pub(super) fn limit(asked: u32) -> Result<usize, Refusal> {
    match asked {
        0 => Ok(LIMIT as usize),
        1..=LIMIT_MAX => Ok(asked as usize),
        _ => Err(ErrorWord::bad_input(format!("a page has at most {LIMIT_MAX} jobs"), "ask for less").into()),
    }
}

fn page(node: &NodeHandle, wanted: &Wanted, seeing: &Seeing) -> Result<JobPage, NodeError> {
    let mut page = JobPage::default();
    let mut filter = wanted.filter.clone();
    let mut ran_withs = RanWiths::new(node);
    let mut scanned = 0;
    loop {
        let groups = node.groups(&filter, BATCH)?;
        let is_last = groups.len() < BATCH;
        for (group, record) in groups {
            if group.unix_ms() < wanted.oldest_unix_ms {
                return Ok(page);
            }
            scanned += 1;
            filter.before = Some(group);
            let Some(seen) = look(node, group, &record, seeing)? else { continue };
            if fits(&seen, group, &record, wanted, seeing) {
                let line = JobLine { told: describe::told(seen.job.as_ref()), ..seen.line };
                let recorded = wanted.recorded.then(|| recorded(node, (group, &record), &line, &mut ran_withs));
                page.jobs.push(JobLine { recorded: recorded.transpose()?, ..line });
            }
            if page.jobs.len() >= wanted.limit || scanned >= SCANNED_MAX {
                page.next = group.to_string();
                return Ok(page);
            }
        }
        if is_last {
            return Ok(page);
        }
    }
}

/// Whether it is wanted, beside what the store has filtered.
pub(super) fn fits(seen: &Seen, group: GroupId, record: &GroupRecord, wanted: &Wanted, seeing: &Seeing) -> bool {
    let is_here = |wanted| wanted == seeing.view.me && seeing.preparing.contains_key(&group);
    (wanted.states.is_empty() || matches(&seen.line, &wanted.states))
        && (wanted.name.is_empty() || seen.line.name == wanted.name)
        && !record.marks.deleted
        && wanted.node.is_none_or(|wanted| seen.nodes.contains(&wanted) || is_here(wanted))
}

/// What is recorded of a job that is no member of an array, or of an array as a whole.
pub(super) fn recorded(
    node: &NodeHandle,
    (group, record): (GroupId, &GroupRecord),
    line: &JobLine,
    ran_withs: &mut RanWiths<'_>,
) -> Result<RecordedWord, NodeError> {
    let job = if line.array.is_none() { node.job(JobId::only(group))? } else { None };
    Ok(describe::recorded(line, record, job.as_ref(), |content| ran_withs.get(content)))
}

/// A group's line, the nodes that its jobs ran on, and its job.
pub(super) fn look(
    node: &NodeHandle,
    group: GroupId,
    record: &GroupRecord,
    seeing: &Seeing,
) -> Result<Option<Seen>, NodeError> {
    let id = JobId::only(group);
    let workers = |job: &JobRecord| job.attempts.keys().map(|key| key.worker).collect::<Vec<_>>();
    let is_array = record.submitted.as_ref().is_some_and(|submitted| !submitted.spec.array.is_empty());
    let is_provisional = |job: &JobRecord| describe::is_provisional(job, &seeing.view);
    let (job, nodes, provisional) = if is_array {
        // The first thousand tell where an array runs; more would make a list slow.
        let jobs = node.jobs_of(group, None, LIMIT_MAX as usize)?;
        let provisional = record.is_finished() && jobs.iter().any(|(_, job)| is_provisional(job));
        (None, jobs.iter().flat_map(|(_, job)| workers(job)).collect(), provisional)
    } else {
        let job = node.job(id)?;
        let nodes = job.iter().flat_map(workers).collect();
        let provisional = job.as_ref().is_some_and(is_provisional);
        (job, nodes, provisional)
    };
    let preparing = seeing.preparing.get(&group).map_or(0, Vec::len) as u64;
    let line = describe::bare_line(id, record, job.as_ref(), preparing, &seeing.names);
    Ok(line.map(|line| Seen { line: JobLine { provisional, ..line }, nodes, job }))
}

/// An array is wanted when any of its jobs stands so.
fn matches(line: &JobLine, states: &BTreeSet<StateWord>) -> bool {
    let Some(counts) = &line.array else { return states.contains(&line.state) };
    states.iter().any(|state| {
        0 < match state {
            StateWord::Queued => counts.queued,
            StateWord::Preparing => counts.preparing,
            StateWord::Running => counts.running,
            StateWord::Completed => counts.completed,
            StateWord::Failed => counts.failed,
            StateWord::Stopped => counts.stopped,
        }
    })
}

pub(crate) async fn show(State(Shared { api, .. }): State<Shared>, Path(id): Path<String>) -> Answered<JobWord> {
    let id = job_id(&api.node, &id).await?;
    let (group, job) = job_records(&api.node, id).await?;
    let mut word = word(&api.node, id, &group, job.as_ref()).await?;
    // A node that is gone may have them: the rest of the record is no less true.
    word.artifacts = track::of(&api.node, job.as_ref()).await.unwrap_or_default();
    record::add_ran_with(&api.node, job.as_ref(), &mut word).await?;
    let left = job.as_ref().and_then(|job| Left::of(id, job).or_else(|| Left::checkpoint_of(id, job)));
    if let Some(left) = left {
        let holders = api.node.holders_of(&left).await?;
        let (_, names) = view(&api.node).await?;
        word.held_by = Some(holders.into_iter().map(|node| names.name(node)).collect());
    }
    if let Some(job) = &job {
        word.archive = archive(api.node.archived(id, job).await?);
    }
    Ok(Json(word))
}

fn archive(archived: Archived) -> Option<ArchiveWord> {
    match archived {
        Archived::No => None,
        Archived::Done { place, unix_ms } => {
            Some(ArchiveWord { place, archived_unix_ms: Some(unix_ms), ..ArchiveWord::default() })
        }
        Archived::Owed { place, why } => {
            Some(ArchiveWord { place, owed: true, why: why.unwrap_or_default(), ..ArchiveWord::default() })
        }
        Archived::Unknown { place, why } => Some(ArchiveWord { place, why, ..ArchiveWord::default() }),
    }
}

/// The whole record as a word; unfinished jobs as their coordinator sees them.
async fn word(node: &NodeHandle, id: JobId, group: &GroupRecord, job: Option<&JobRecord>) -> Result<JobWord, Refusal> {
    let (view, names) = view(node).await?;
    let known = describe::preparing(&view).remove(&id.group).unwrap_or_default();
    let preparing = match id.member {
        Member::Only => known.len(),
        member => known.iter().filter(|&&known| known == member).count(),
    };
    let line = describe::job_line(id, group, job, preparing as u64, &names);
    let mut word = describe::job(line.unwrap_or_default(), id, group, job, &names);
    word.line.provisional = match job {
        Some(job) => describe::is_provisional(job, &view),
        None if word.line.array.is_some() => {
            let (handle, record) = (node.clone(), group.clone());
            let seeing =
                Seeing { view: view.clone(), names: names.clone(), preparing: BTreeMap::from([(id.group, known)]) };
            let seen = blocking(move || look(&handle, id.group, &record, &seeing)).await?;
            seen.is_some_and(|seen| seen.line.provisional)
        }
        None => false,
    };
    if !word.line.state.is_final()
        && word.line.array.is_none()
        && let Some(told) = node.explain(id).await?
    {
        word.line.state = told.state.into();
        word.line.node = word.line.node.or(told.worker.map(|node| names.of(node)));
    }
    Ok(word)
}

pub(crate) async fn explain(
    State(Shared { api, .. }): State<Shared>,
    Path(id): Path<String>,
) -> Answered<ExplanationWord> {
    let id = job_id(&api.node, &id).await?;
    let (group, job) = job_records(&api.node, id).await?;
    let (_, names) = view(&api.node).await?;
    let member = first_waiting(&api.node, id, &group).await?;
    let job = if member == id { job } else { api.node.job(member)? };
    let id = member;
    match api.node.explain(id).await? {
        Some(told) if !has_ended(id, &group, job.as_ref()) => {
            Ok(Json(describe::explanation(id, &told, &group, &names)))
        }
        _ => Ok(Json(ended_explanation(id, &group, job.as_ref(), &names))),
    }
}

/// An array as a whole does not wait, its jobs do: the first that has not begun stands for it, else the first that has
/// not ended.
async fn first_waiting(node: &NodeHandle, id: JobId, group: &GroupRecord) -> Result<JobId, Refusal> {
    let Some(submitted) = &group.submitted else { return Ok(id) };
    if id.member != Member::Only || submitted.spec.array.is_empty() || group.is_finished() {
        return Ok(id);
    }
    let (handle, members) = (node.clone(), submitted.spec.array.clone());
    let first = blocking(move || {
        let begun = handle.jobs_of(id.group, None, LIMIT_MAX as usize)?;
        let runs = begun.iter().find(|(_, job)| job.outcome.is_none()).map(|(member, _)| *member);
        let begun: BTreeSet<Member> = begun.into_iter().map(|(member, _)| member).collect();
        let mut indices = members.iter().map(Member::Index);
        Ok::<_, NodeError>(indices.find(|member| !begun.contains(member)).or(runs))
    });
    Ok(JobId { group: id.group, member: first.await?.unwrap_or(id.member) })
}

fn ended_explanation(id: JobId, group: &GroupRecord, job: Option<&JobRecord>, names: &Names) -> ExplanationWord {
    let line = describe::job_line(id, group, job, 0, names).unwrap_or_default();
    let how = line.ending.as_ref().map(|ending| ending.text.clone());
    ExplanationWord {
        job: id.to_string(),
        state: line.state,
        summary: match how {
            Some(how) => format!("it has ended: {how}"),
            None => format!("it is {}", line.state.as_str()),
        },
        help: String::new(),
        coordinator: group.claim.map(|claim| names.of(claim.coordinator)),
        coordinator_up: true,
        worker: line.node,
        waits_for: Vec::new(),
        fits_somewhere: true,
        nodes: Vec::new(),
    }
}

pub(crate) async fn wait(
    State(Shared { api, mut closing }): State<Shared>,
    Path(id): Path<String>,
    Asked(query): Asked<WaitQuery>,
) -> Answered<JobWord> {
    let seconds = if query.timeout_s == 0 { WAIT } else { query.timeout_s.min(WAIT_MAX) };
    let id = job_id(&api.node, &id).await?;
    // Listened to before the record is read: what happens in between is heard.
    let mut news = api.node.news();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut ended: Option<Ended> = None;
    loop {
        let (group, job) = job_records(&api.node, id).await?;
        let mut every = LOOK_EVERY;
        if has_ended(id, &group, job.as_ref()) {
            let view = api.node.view().await?;
            let ended = ended.get_or_insert_with(|| Ended::new(job.as_ref(), &view));
            if ended.is_settled(&view) {
                return Ok(Json(word(&api.node, id, &group, job.as_ref()).await?));
            }
            every = HOLD_LOOK_EVERY;
        }
        if Instant::now() >= deadline {
            return Ok(Json(word(&api.node, id, &group, job.as_ref()).await?));
        }
        let look = (Instant::now() + every).min(deadline);
        tokio::select! {
            _ = closing.wait_for(|&closing| closing) => return Err(NodeError::Closing.into()),
            () = tokio::time::sleep_until(look) => {}
            () = concerns(&mut news, id.group) => {}
        }
    }
}

/// An end that a second node should have before it is told.
struct Ended {
    since: Instant,
    /// Where it was written; of an array, everything that this node wrote until it had ended.
    written: Vec<Position>,
}

impl Ended {
    fn new(job: Option<&JobRecord>, view: &ViewSnapshot) -> Self {
        let outcome = job.and_then(|job| job.outcome.as_ref()).map(|outcome| outcome.position);
        let written = outcome.map_or_else(|| view.written().collect(), |position| vec![position]);
        Self { since: Instant::now(), written }
    }

    /// Whether it is final, or nobody is there to make it so.
    fn is_settled(&self, view: &ViewSnapshot) -> bool {
        let is_final = self.written.iter().all(|&position| view.is_held(position));
        is_final || view.is_alone || self.since.elapsed() >= HOLD_MAX
    }
}

/// Returns once there is news of `group`, or so much news that some were missed.
async fn concerns(news: &mut tokio::sync::broadcast::Receiver<NodeNews>, group: GroupId) {
    let prefix = group.to_string();
    loop {
        match news.recv().await {
            Ok(NodeNews::Job { job, .. }) if job.starts_with(&prefix) => return,
            Ok(_) => {}
            Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => return,
            // The node ends; the deadline answers.
            Err(tokio::sync::broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

pub(crate) async fn stop(State(Shared { api, .. }): State<Shared>, Path(id): Path<String>) -> Answered<Done> {
    let id = job_id(&api.node, &id).await?;
    let (group, job) = job_records(&api.node, id).await?;
    if has_ended(id, &group, job.as_ref()) {
        let line = describe::job_line(id, &group, job.as_ref(), 0, &Names::default()).unwrap_or_default();
        let message = format!("job {id} has ended already: {}", line.state.as_str());
        return Err(ErrorWord::new(ErrorCode::Conflict, message, format!("see fnode job show {id}")).into());
    }
    api.node.write(Event::StopWished { job: id }).await?;
    Ok(done("stop", To::Job(id), format!("job {id} is asked to stop")))
}

pub(crate) async fn delete(State(Shared { api, .. }): State<Shared>, Path(id): Path<String>) -> Answered<Done> {
    let id = job_id(&api.node, &id).await?;
    let (group, job) = job_records(&api.node, id).await?;
    if !has_ended(id, &group, job.as_ref()) {
        let message = format!("job {id} has not ended");
        return Err(ErrorWord::new(ErrorCode::Conflict, message, format!("stop it first: fnode stop {id}")).into());
    }
    // What its parts left was for it alone.
    let filter = GroupFilter { hidden: true, parts: Parts::Of(id), ..GroupFilter::default() };
    let handle = api.node.clone();
    for (part, record) in blocking(move || handle.groups(&filter, PARTS_MAX)).await? {
        if record.is_finished() {
            api.node.write(Event::Marked { job: JobId::only(part), mark: Mark::Deleted }).await?;
        }
    }
    api.node.write(Event::Marked { job: id, mark: Mark::Deleted }).await?;
    Ok(done("delete", To::Job(id), format!("job {id} is deleted; fnode gc frees its files")))
}

pub(crate) async fn mark(
    State(Shared { api, .. }): State<Shared>,
    Path(id): Path<String>,
    Given(request): Given<MarkRequest>,
) -> Answered<Done> {
    let id = job_id(&api.node, &id).await?;
    let (group, job) = job_records(&api.node, id).await?;
    let line = describe::job_line(id, &group, job.as_ref(), 0, &Names::default()).unwrap_or_default();
    let marks = marks(request, &line)?;
    if marks.contains(&Mark::Archived(true)) && !has_ended(id, &group, job.as_ref()) {
        // Out of every list, it would go on unseen.
        let message = format!("job {id} has not ended, and archived jobs are in no list");
        return Err(ErrorWord::new(ErrorCode::Conflict, message, format!("stop it first: fnode stop {id}")).into());
    }
    let texts: Vec<String> = marks.iter().map(mark_text).collect();
    for mark in marks {
        api.node.write(Event::Marked { job: id, mark }).await?;
    }
    Ok(done("mark", To::Job(id), format!("job {id} is {}", texts.join(", "))))
}

fn marks(request: MarkRequest, line: &JobLine) -> Result<Vec<Mark>, ErrorWord> {
    let mut marks = Vec::new();
    marks.extend(request.archived.map(Mark::Archived));
    marks.extend(request.kept.map(Mark::Kept));
    if let Some(note) = request.note {
        if note.len() > NOTE_MAX {
            return Err(ErrorWord::bad_input(format!("the note is longer than {NOTE_MAX} bytes"), "shorten it"));
        }
        marks.push(Mark::Noted(note));
    }
    for key in request.untag {
        if !line.tags.contains_key(&key) {
            let hint = format!("see fnode job show {}", line.id);
            return Err(ErrorWord::not_found(format!("the job has no tag {key:?}"), hint));
        }
        marks.push(Mark::Untagged { key });
    }
    if line.tags.len() + request.tags.len() > TAGS_MAX {
        return Err(ErrorWord::bad_input(format!("a job has at most {TAGS_MAX} tags"), "take some off with --remove"));
    }
    for (key, value) in request.tags {
        check_label(&key, &value)?;
        marks.push(Mark::Tagged { key, value });
    }
    if marks.is_empty() {
        return Err(ErrorWord::bad_input("nothing is to be changed", "give archived, kept, note, tags or untag"));
    }
    Ok(marks)
}

fn mark_text(mark: &Mark) -> String {
    match mark {
        Mark::Archived(true) => "archived".to_owned(),
        Mark::Archived(false) => "back in lists".to_owned(),
        Mark::Deleted => "deleted".to_owned(),
        Mark::Tagged { key, value } if value.is_empty() => format!("tagged {key}"),
        Mark::Tagged { key, value } => format!("tagged {key}={value}"),
        Mark::Untagged { key } => format!("no longer tagged {key}"),
        Mark::Noted(note) if note.is_empty() => "without a note".to_owned(),
        Mark::Noted(_) => "noted".to_owned(),
        Mark::Kept(true) => "kept for good".to_owned(),
        Mark::Kept(false) => "no longer kept for good".to_owned(),
    }
}
