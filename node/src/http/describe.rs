//! Records and views become words: the one place that decides how a thing looks from outside. Pure.

use std::collections::BTreeMap;

use proto::capacity::{Lack, Requirement};
use proto::event::AttemptFinished;
use proto::explain::Explanation;
use proto::job::{BundleRef, Ending, GroupSpec};
use proto::membership::Liveness;
use proto::message::Accepting;
use proto::record::{AttemptKey, AttemptRecord, GroupRecord, JobRecord, Marks, NodeRecord, Tally};
use proto::view::NodeView;
use proto::{ByteSize, ContentId, GroupId, JobId, Member, NodeId};

use super::words::blob::BundleWord;
use super::words::ending::EndingWord;
use super::words::explain::{ExplanationWord, NodeLacks};
use super::words::job::{AttemptWord, CheckpointWord, Counts, JobLine, JobWord, StateWord};
use super::words::node::{AcceptingWord, GpuWord, NodeRef, NodeWord, PresenceWord};
use super::words::record::{CheckoutWord, RecordedWord};
use super::words::submit::{AfterWord, EnvironmentWord};
use super::words::track::TrackedWord;
use crate::node::{RanWith, ViewSnapshot};

/// Names of nodes, also of those that are gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(BTreeMap<NodeId, String>);

impl Names {
    /// From the log's records and, newer, from what nodes say of themselves.
    pub(crate) fn new(records: &[(NodeId, NodeRecord)], view: &ViewSnapshot) -> Self {
        let recorded = records
            .iter()
            .filter_map(|(node, record)| record.joined.as_ref().map(|(_, name, _)| (*node, name.clone())));
        let told = view.nodes.iter().filter_map(|(node, seen)| {
            seen.advert.as_ref().filter(|advert| !advert.name.is_empty()).map(|advert| (*node, advert.name.clone()))
        });
        Self(recorded.chain(told).collect())
    }

    /// The node by id and name.
    pub(crate) fn of(&self, node: NodeId) -> NodeRef {
        NodeRef { id: node.to_string(), name: self.name(node) }
    }

    /// Its name; the short id where none is known.
    pub(crate) fn name(&self, node: NodeId) -> String {
        self.0.get(&node).cloned().unwrap_or_else(|| node.short())
    }
}

/// A node of the view.
pub(crate) fn node(id: NodeId, seen: &NodeView, view: &ViewSnapshot, names: &Names) -> NodeWord {
    let is_me = id == view.me;
    let presence = match (seen.refused_at, seen.liveness) {
        _ if is_me => PresenceWord::Alive,
        (Some(_), _) => PresenceWord::DaemonDown,
        (None, Some(Liveness::Alive)) => PresenceWord::Alive,
        (None, Some(Liveness::Suspect)) => PresenceWord::Suspect,
        (None, Some(Liveness::Down)) => PresenceWord::Down,
        (None, None) => PresenceWord::Unknown,
    };
    let (capacity, used) = (&seen.capacity, seen.used());
    let advert = seen.advert.as_ref();
    let recorded = seen.record.joined.as_ref().map(|(_, _, software)| software.clone());
    NodeWord {
        id: id.to_string(),
        name: names.name(id),
        is_me,
        presence,
        accepting: match seen.accepting() {
            Accepting::Yes => AcceptingWord::Yes,
            Accepting::Starting => AcceptingWord::Starting,
            Accepting::Paused => AcceptingWord::Paused,
            Accepting::Draining => AcceptingWord::Draining,
        },
        version: advert.map(|advert| advert.software.clone()).or(recorded).unwrap_or_default(),
        addrs: advert.map(|advert| advert.addrs.clone()).unwrap_or_default(),
        labels: capacity.labels.clone(),
        cpu_milli: capacity.cpu_milli,
        cpu_free_milli: capacity.cpu_milli.saturating_sub(used.cpu_milli),
        memory_bytes: capacity.memory.0,
        memory_free_bytes: capacity.memory.0.saturating_sub(used.memory.0),
        disk_free_bytes: capacity.disk_free.0,
        gpus: capacity.gpus.iter().map(|gpu| gpu_word(gpu, used.gpus.contains(&gpu.uuid))).collect(),
        pythons: capacity.pythons.clone(),
        facts: capacity.facts.clone(),
        holds_log: is_me || (view.own_seq > 0 && seen.acked_seq >= view.own_seq),
    }
}

fn gpu_word(gpu: &proto::Gpu, is_leased: bool) -> GpuWord {
    GpuWord {
        uuid: gpu.uuid.clone(),
        name: gpu.name.clone(),
        pci: gpu.pci.clone(),
        driver: gpu.driver.clone(),
        cuda: gpu.cuda.clone(),
        memory_bytes: gpu.memory.0,
        memory_free_bytes: gpu.memory_free.0,
        gflops: gpu.gflops,
        gbytes_per_s: gpu.gbytes_per_s,
        is_leased,
    }
}

/// Every node, the answering one first, then by name.
pub(crate) fn nodes(view: &ViewSnapshot, names: &Names) -> Vec<NodeWord> {
    let mut nodes: Vec<NodeWord> = view.nodes.iter().map(|(&id, seen)| node(id, seen, view, names)).collect();
    nodes.sort_by(|a, b| (!a.is_me, &a.name, &a.id).cmp(&(!b.is_me, &b.name, &b.id)));
    nodes
}

/// Jobs by state, from a group's tally.
pub(crate) fn counts(total: u64, tally: Tally, preparing: u64) -> Counts {
    let begun = u64::from(tally.running) + u64::from(tally.ended());
    let waiting = total.saturating_sub(begun);
    let preparing = preparing.min(waiting);
    Counts {
        total,
        queued: waiting - preparing,
        preparing,
        running: tally.running.into(),
        completed: tally.completed.into(),
        failed: tally.failed.into(),
        stopped: tally.stopped.into(),
    }
}

/// A job in a list, or an array as one when `id` names all of it. `preparing`: how many of its jobs are
/// known to be on their way. `None` while its submission has not come.
pub(crate) fn job_line(
    id: JobId,
    group: &GroupRecord,
    job: Option<&JobRecord>,
    preparing: u64,
    names: &Names,
) -> Option<JobLine> {
    bare_line(id, group, job, preparing, names).map(|line| JobLine { told: told(job), ..line })
}

/// What a job told of itself.
pub(crate) fn told(job: Option<&JobRecord>) -> TrackedWord {
    let tracked = job.and_then(JobRecord::counted).and_then(|(_, attempt)| attempt.tracked.as_ref());
    tracked.map(|tracked| TrackedWord::from(&tracked.summary)).unwrap_or_default()
}

/// As [`job_line`], without what it told of itself, which takes most of the time.
pub(crate) fn bare_line(
    id: JobId,
    group: &GroupRecord,
    job: Option<&JobRecord>,
    preparing: u64,
    names: &Names,
) -> Option<JobLine> {
    let spec = &*group.submitted.as_ref()?.spec;
    let is_whole_array = id.member == Member::Only && !spec.array.is_empty();
    let mut line = JobLine {
        id: id.to_string(),
        project: spec.project.clone(),
        name: spec.name.clone(),
        user: spec.user.clone(),
        command: spec.command.clone(),
        parent: spec.parent.map(|parent| parent.to_string()),
        submitted_unix_ms: id.group.unix_ms(),
        archived: is_archived(&group.marks),
        tags: tags(&group.marks),
        ..JobLine::default()
    };
    if is_whole_array {
        let counts = counts(spec.len(), group.tally, preparing);
        line.state = counts.state();
        line.array = Some(counts);
        return Some(line);
    }
    let Some(job) = job else {
        line.state = if preparing > 0 { StateWord::Preparing } else { StateWord::Queued };
        return Some(line);
    };
    line.state = match job.state().into() {
        StateWord::Queued if preparing > 0 => StateWord::Preparing,
        state => state,
    };
    if matches!(id.member, Member::Index(_)) {
        line.archived |= is_archived(&job.marks);
        line.tags.extend(tags(&job.marks));
    }
    if let Some((key, attempt)) = job.counted() {
        line.node = Some(names.of(key.worker));
        let finished = attempt.finished.as_deref();
        line.started_unix_ms = started(attempt);
        line.ended_unix_ms = finished.map(|finished| finished.ended_unix_ms);
    }
    if let Some(outcome) = &job.outcome {
        line.ending = Some(EndingWord::from(&outcome.ending));
        line.ended_unix_ms = line.ended_unix_ms.or(Some(outcome.hlc.unix_ms));
    }
    Some(line)
}

/// Whether only this node is known to have how it ended.
pub(crate) fn is_provisional(job: &JobRecord, view: &ViewSnapshot) -> bool {
    job.outcome.as_ref().is_some_and(|outcome| !view.is_held(outcome.position))
}

fn started(attempt: &AttemptRecord) -> Option<u64> {
    let finished = attempt.finished.as_ref().map(|finished| finished.started_unix_ms);
    attempt.started_unix_ms.or(finished).filter(|&started| started > 0)
}

fn is_archived(marks: &Marks) -> bool {
    marks.archived.is_some_and(|(_, archived)| archived)
}

fn tags(marks: &Marks) -> BTreeMap<String, String> {
    let put_on = |(key, (_, value)): (&String, &(_, Option<String>))| Some((key.clone(), value.clone()?));
    marks.tags.iter().filter_map(put_on).collect()
}

/// A job with all that is known of it.
pub(crate) fn job(line: JobLine, id: JobId, group: &GroupRecord, job: Option<&JobRecord>, names: &Names) -> JobWord {
    let Some(submitted) = &group.submitted else { return JobWord { line, ..JobWord::default() } };
    let spec = &*submitted.spec;
    let asked = &spec.requirement;
    // Marks of a single job are its group's.
    let own = job.filter(|_| matches!(id.member, Member::Index(_))).map(|job| &job.marks);
    let kept = |marks: &Marks| marks.kept.is_some_and(|(_, kept)| kept);
    let note = |marks: &Marks| marks.note.as_ref().map(|(_, note)| note.clone()).filter(|note| !note.is_empty());
    let outputs = job.and_then(JobRecord::counted).and_then(|(_, attempt)| attempt.finished.as_ref()?.outputs);
    JobWord {
        cpu_milli: asked.cpu_milli,
        memory_bytes: asked.memory.0,
        gpus: asked.gpus,
        gpu_memory_bytes: asked.gpu_memory.0,
        python: asked.python.clone(),
        labels: asked.labels.clone(),
        nodes: asked.nodes.clone(),
        data: asked.data.clone(),
        env: spec.env.clone(),
        secrets: spec.secrets.clone(),
        indices: spec.array.to_string(),
        timeout_s: spec.timeout_s,
        retries: spec.retries,
        on_lost: spec.on_lost.into(),
        priority: spec.priority,
        after: after(spec),
        params_json: spec.params_json.clone(),
        artifacts: Vec::new(),
        bundle: spec.bundle.map(bundle),
        checkout: checkout(spec, &line),
        environment: spec.environment.as_ref().map(|environment| EnvironmentWord {
            path: environment.path.clone(),
            content: environment.content.to_string(),
            python: environment.python.clone(),
            rule: environment.rule.into(),
        }),
        // One that only names what was removed has no files.
        outputs: outputs.filter(|outputs| outputs.files > 0).map(bundle),
        checkpoint: job.and_then(|job| checkpoint(job, names)),
        held_by: None,
        archive: None,
        coordinator: group.claim.map(|claim| names.of(claim.coordinator)),
        stop_wished: group.stop.is_some() || job.is_some_and(|job| job.stop.is_some()),
        kept: kept(&group.marks) || own.is_some_and(kept),
        note: own.and_then(note).or_else(|| note(&group.marks)).unwrap_or_default(),
        attempts: job.map(|job| attempts(job, names)).unwrap_or_default(),
        line,
    }
}

/// The checkout that it was submitted from; a script that was started by hand tells of its own.
fn checkout(spec: &GroupSpec, line: &JobLine) -> Option<CheckoutWord> {
    let told = || line.told.record.as_ref().and_then(CheckoutWord::of_record);
    spec.checkout.as_ref().map(CheckoutWord::from).or_else(told)
}

/// What is recorded of a job; `ran_with` reads what its attempt names.
pub(crate) fn recorded(
    line: &JobLine,
    group: &GroupRecord,
    job: Option<&JobRecord>,
    ran_with: impl FnOnce(ContentId) -> Option<RanWith>,
) -> RecordedWord {
    let Some(submitted) = &group.submitted else { return RecordedWord::default() };
    let finished = job.and_then(JobRecord::counted).and_then(|(_, attempt)| attempt.finished.as_deref());
    let note = |marks: &Marks| marks.note.as_ref().map(|(_, note)| note.clone()).filter(|note| !note.is_empty());
    RecordedWord {
        checkout: checkout(&submitted.spec, line),
        ran_with: finished.and_then(|finished| finished.ran_with).and_then(ran_with),
        cpu_ms: finished.map_or(0, |finished| finished.usage.cpu_ms),
        memory_max_bytes: finished.map_or(0, |finished| finished.usage.memory_max_bytes),
        params_json: submitted.spec.params_json.clone(),
        bundle: submitted.spec.bundle.map(|bundle| bundle.manifest.to_string()).unwrap_or_default(),
        note: job.and_then(|job| note(&job.marks)).or_else(|| note(&group.marks)).unwrap_or_default(),
    }
}

fn checkpoint(job: &JobRecord, names: &Names) -> Option<CheckpointWord> {
    let (&(key, _), checkpoint) = job.checkpoints.last_key_value().filter(|_| job.outcome.is_none())?;
    Some(CheckpointWord {
        attempt: attempt_id(&key),
        node: names.of(key.worker),
        saved_unix_ms: checkpoint.saved_unix_ms,
        total_bytes: checkpoint.bundle.total_bytes,
        files: checkpoint.bundle.files,
    })
}

fn after(spec: &GroupSpec) -> Vec<AfterWord> {
    let word = |on: &proto::job::Dependency| AfterWord { job: on.on.to_string(), trigger: on.trigger.into() };
    spec.after.iter().map(word).collect()
}

pub(crate) fn bundle(bundle: BundleRef) -> BundleWord {
    BundleWord { manifest: bundle.manifest.to_string(), total_bytes: bundle.total_bytes, files: bundle.files }
}

fn attempts(job: &JobRecord, names: &Names) -> Vec<AttemptWord> {
    let counts = job.outcome.is_some().then(|| job.counted().map(|(key, _)| key)).flatten();
    let word = |(key, attempt): (&AttemptKey, &AttemptRecord)| {
        let finished: Option<&AttemptFinished> = attempt.finished.as_deref();
        let lost = attempt.lost.map(Ending::Lost);
        let ending = finished.map(|finished| &finished.ending).or(lost.as_ref());
        AttemptWord {
            id: attempt_id(key),
            node: names.of(key.worker),
            started_unix_ms: started(attempt),
            ended_unix_ms: finished.map(|finished| finished.ended_unix_ms),
            ending: ending.map(EndingWord::from),
            counts: counts == Some(*key),
            cpu_ms: finished.map_or(0, |finished| finished.usage.cpu_ms),
            memory_max_bytes: finished.map_or(0, |finished| finished.usage.memory_max_bytes),
            ran_with: None,
            log_bytes: finished.and_then(|finished| finished.log.as_ref()).map(|log| log.size),
        }
    };
    job.attempts.iter().map(word).collect()
}

/// `EPOCH.NUMBER`.
pub(crate) fn attempt_id(key: &AttemptKey) -> String {
    format!("{}.{}", key.epoch, key.number)
}

/// Whether any node could run it once it is idle.
pub(crate) fn fits_somewhere(told: &Explanation) -> bool {
    told.nodes.iter().any(|(_, lacks)| lacks.iter().all(Lack::is_passing))
}

/// Why a job waits, in sentences. `group`: for what it asks and depends on.
pub(crate) fn explanation(id: JobId, told: &Explanation, group: &GroupRecord, names: &Names) -> ExplanationWord {
    let spec = group.submitted.as_ref().map(|submitted| &*submitted.spec);
    let asked = spec.map(|spec| spec.requirement.clone()).unwrap_or_default();
    let nodes: Vec<NodeLacks> = told
        .nodes
        .iter()
        .map(|(node, lacks)| NodeLacks {
            node: names.of(*node),
            is_passing: lacks.iter().all(Lack::is_passing),
            lacks: lacks.iter().map(|lack| lack_text(lack, &asked)).collect(),
        })
        .collect();
    let (summary, help) = sentences(told, &nodes, names);
    ExplanationWord {
        job: id.to_string(),
        state: told.state.into(),
        summary,
        help,
        coordinator: told.coordinator.map(|node| names.of(node)),
        coordinator_up: told.coordinator_up,
        worker: told.worker.map(|node| names.of(node)),
        waits_for: told.waits_for.iter().map(JobId::to_string).collect(),
        fits_somewhere: fits_somewhere(told),
        nodes,
    }
}

fn sentences(told: &Explanation, nodes: &[NodeLacks], names: &Names) -> (String, String) {
    let at = told.worker.map(|node| names.name(node)).unwrap_or_else(|| "a node".to_owned());
    let state: StateWord = told.state.into();
    match state {
        StateWord::Running => return (format!("it runs on {at}"), String::new()),
        StateWord::Preparing => {
            let summary = format!("{at} has it and fetches its files or builds its environment");
            return (summary, String::new());
        }
        _ => {}
    }
    if !told.coordinator_up {
        let who = told.coordinator.map_or_else(|| "nobody".to_owned(), |node| names.name(node));
        let help = "another node takes it over once that one is declared dead; nothing is to be done";
        return (format!("{who} sees it through and cannot be reached from here"), help.to_owned());
    }
    if !told.waits_for.is_empty() {
        let jobs: Vec<String> = told.waits_for.iter().take(3).map(JobId::to_string).collect();
        let more =
            if told.waits_for.len() > 3 { format!(" and {} more", told.waits_for.len() - 3) } else { String::new() };
        return (format!("it waits for {}{more} to end", jobs.join(", ")), String::new());
    }
    let Some(nearest) = nodes.first() else {
        return ("no node is known that could run it".to_owned(), "start a node: fnode start".to_owned());
    };
    if nearest.lacks.is_empty() {
        return (format!("it fits on {} and is about to be placed", nearest.node.name), String::new());
    }
    let lacks = nearest.lacks.join(", ");
    if nodes.iter().any(|node| node.is_passing) {
        let passing = nodes.iter().find(|node| node.is_passing).unwrap_or(nearest);
        let lacks = passing.lacks.join(", ");
        return (format!("it waits for room; nearest is {}: {lacks}", passing.node.name), String::new());
    }
    let help = format!("add a node that has it, or submit again asking for less; {} comes closest", nearest.node.name);
    (format!("no node can run it; nearest is {}: {lacks}", nearest.node.name), help)
}

/// One thing that a node lacks, as a sentence.
pub(crate) fn lack_text(lack: &Lack, asked: &Requirement) -> String {
    match lack {
        Lack::CpuBusy { free } => format!("{} CPUs free of {} asked", cpus(*free), cpus(asked.cpu_milli)),
        Lack::MemoryBusy { free } => format!("{free} memory free of {} asked", asked.memory),
        Lack::GpuBusy { free } => format!("{free} GPUs free of {} asked{}", asked.gpus, with_memory(asked)),
        Lack::NotAccepting => "takes no jobs now (draining, paused or starting)".to_owned(),
        Lack::NotAlive => "cannot be reached".to_owned(),
        Lack::Cpu { total } => format!("has {} CPUs, {} asked", cpus(*total), cpus(asked.cpu_milli)),
        Lack::Memory { total } => format!("has {total} memory, {} asked", asked.memory),
        Lack::Gpu { total } => format!("has {total} GPUs{}, {} asked", with_memory(asked), asked.gpus),
        Lack::Python => format!("has no Python {}", asked.python),
        Lack::Label(key) => match asked.labels.get(key).filter(|value| !value.is_empty()) {
            Some(value) => format!("lacks label {key}={value}"),
            None => format!("lacks label {key}"),
        },
        Lack::Data(path) => format!("has no {path}"),
        Lack::Node => "is not among the nodes named".to_owned(),
        Lack::Refused => "refused it before".to_owned(),
    }
}

fn with_memory(asked: &Requirement) -> String {
    if asked.gpu_memory == ByteSize(0) { String::new() } else { format!(" with {}", asked.gpu_memory) }
}

/// `0.5` or `4`.
pub(crate) fn cpus(milli: u32) -> String {
    let text = format!("{}.{:03}", milli / 1_000, milli % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How many attempts of each group a node holds that do not run yet.
pub(crate) fn preparing(view: &ViewSnapshot) -> BTreeMap<GroupId, Vec<Member>> {
    let mut by_group: BTreeMap<GroupId, Vec<Member>> = BTreeMap::new();
    for (attempt, started) in &view.holding {
        if !started {
            by_group.entry(attempt.job.group).or_default().push(attempt.job.member);
        }
    }
    by_group
}

#[cfg(test)]
mod tests {
    use proto::JobState;

    use super::*;

    #[test]
    fn cpus_are_told_without_needless_digits() {
        assert_eq!([cpus(500), cpus(4_000), cpus(1), cpus(12_250)], ["0.5", "4", "0.001", "12.25"]);
    }

    fn told(nodes: Vec<(NodeId, Vec<Lack>)>) -> Explanation {
        Explanation {
            state: JobState::Queued,
            coordinator: Some(NodeId([1; 32])),
            coordinator_up: true,
            worker: None,
            attempt: None,
            waits_for: Vec::new(),
            nodes,
        }
    }

    fn summary(told: &Explanation) -> String {
        let id = JobId::only(GroupId([7; 16]));
        explanation(id, told, &GroupRecord::default(), &Names::default()).summary
    }

    #[test]
    fn a_waiting_job_says_what_it_waits_for() {
        let (a, b) = (NodeId([0xaa; 32]), NodeId([0xbb; 32]));
        let busy = told(vec![(a, vec![Lack::CpuBusy { free: 500 }]), (b, vec![Lack::Cpu { total: 500 }])]);
        assert_eq!(summary(&busy), "it waits for room; nearest is aaaaaaaa: 0.5 CPUs free of 1 asked");
        let never = told(vec![(b, vec![Lack::Cpu { total: 500 }])]);
        assert_eq!(summary(&never), "no node can run it; nearest is bbbbbbbb: has 0.5 CPUs, 1 asked");
        assert!(!fits_somewhere(&never) && fits_somewhere(&busy));
        assert_eq!(summary(&told(Vec::new())), "no node is known that could run it");
        let mut waits = told(vec![(a, Vec::new())]);
        assert_eq!(summary(&waits), "it fits on aaaaaaaa and is about to be placed");
        waits.waits_for = vec![JobId::only(GroupId([9; 16]))];
        assert_eq!(summary(&waits), "it waits for 09090909-0909-0909-0909-090909090909 to end");
        waits.coordinator_up = false;
        assert_eq!(summary(&waits), "01010101 sees it through and cannot be reached from here");
    }

    #[test]
    fn the_counts_of_an_array_add_up() {
        let tally = Tally { running: 2, completed: 3, failed: 1, stopped: 0 };
        let counts = counts(10, tally, 9);
        assert_eq!((counts.queued, counts.preparing, counts.running), (0, 4, 2));
        assert_eq!(counts.state(), StateWord::Running);
    }
}
