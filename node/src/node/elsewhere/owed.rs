//! What is owed to object stores: in memory, and a small file each, so that a restart forgets nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::{AttemptId, ContentId, JobId, ValueKey};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::objects::Place;

/// Everything that is owed.
pub(super) struct Owed {
    dir: PathBuf,
    tasks: Mutex<BTreeMap<String, Entry>>,
}

struct Entry {
    task: Task,
    next: Instant,
    line: Option<String>,
    is_taken: bool,
}

/// One thing that is owed.
#[derive(Clone, Debug)]
pub(in crate::node) struct Task {
    pub(super) subject: Subject,
    pub(super) place: Place,
    since_unix_ms: u64,
    /// Files of it that are there already, in their order.
    pub(super) done: usize,
    pub(super) tries: u32,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) enum Subject {
    /// What an attempt on this node left, if it is the one that counts.
    Job(AttemptId),
    /// A cached value.
    Value(ValueKey),
    /// No value of this key, any more.
    Purge(ValueKey),
}

/// A task as it lies on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    v: u32,
    what: String,
    id: String,
    place: String,
    since_unix_ms: u64,
    done: usize,
}

impl Task {
    pub(super) fn new(subject: Subject, place: Place, since_unix_ms: u64) -> Self {
        Self { subject, place, since_unix_ms, done: 0, tries: 0 }
    }

    /// One file for one thing at one place.
    fn file_name(&self) -> String {
        let (what, id) = self.subject.words();
        let place = ContentId::of(self.place.to_string().as_bytes()).short();
        format!("{what}-{id}-{place}")
    }

    fn line(&self) -> Line {
        let (what, id) = self.subject.words();
        let (what, place) = (what.to_owned(), self.place.to_string());
        Line { v: 1, what, id, place, since_unix_ms: self.since_unix_ms, done: self.done }
    }

    fn of(line: &Line) -> Option<Self> {
        let subject = match line.what.as_str() {
            "job" => Subject::Job(AttemptId::from_file_name(&line.id)?),
            "value" => Subject::Value(line.id.parse().ok()?),
            "purge" => Subject::Purge(line.id.parse().ok()?),
            _ => return None,
        };
        let task = Self::new(subject, Place::parse(&line.place).ok()?, line.since_unix_ms);
        (line.v == 1).then_some(Self { done: line.done, ..task })
    }
}

impl Subject {
    fn words(&self) -> (&'static str, String) {
        match self {
            Self::Job(attempt) => ("job", attempt.file_name()),
            Self::Value(key) => ("value", key.to_string()),
            Self::Purge(key) => ("purge", key.to_string()),
        }
    }

    fn job(&self) -> Option<JobId> {
        match self {
            Self::Job(attempt) => Some(attempt.job),
            Self::Value(_) | Self::Purge(_) => None,
        }
    }
}

impl Owed {
    /// Reads what is owed; files that cannot be read are left alone.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut tasks = BTreeMap::new();
        for file in fs::read_dir(&dir)? {
            let read = fs::read(file?.path()).ok();
            let line = read.and_then(|bytes| serde_json::from_slice::<Line>(&bytes).ok());
            if let Some(task) = line.as_ref().and_then(Task::of) {
                tasks.insert(task.file_name(), Entry { task, next: Instant::now(), line: None, is_taken: false });
            }
        }
        Ok(Self { dir, tasks: Mutex::new(tasks) })
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a task: what a job left durably, for a value a crash of the machine may come in between.
    pub(super) fn add(&self, task: Task) -> io::Result<()> {
        let name = task.file_name();
        let written = self.write(&task, matches!(task.subject, Subject::Job(_)));
        self.tasks().insert(name, Entry { task, next: Instant::now(), line: None, is_taken: false });
        written
    }

    fn write(&self, task: &Task, is_durable: bool) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.dir)?;
        serde_json::to_writer(&mut file, &task.line())?;
        if is_durable {
            file.as_file().sync_all()?;
        }
        file.persist(self.dir.join(task.file_name())).map(drop).map_err(|error| error.error)
    }

    /// How far a task came: where a restart goes on.
    pub(super) fn note_done(&self, task: &Task, done: usize) {
        let task = Task { done, ..task.clone() };
        // Lost: files are put once more.
        let _ = self.write(&task, false);
        if let Some(entry) = self.tasks().get_mut(&task.file_name()) {
            entry.task.done = done;
        }
    }

    /// The longest waiting task that is due and whose place `may_try`.
    pub(super) fn take(&self, now: Instant, may_try: impl Fn(&Place) -> bool) -> Option<Task> {
        let mut tasks = self.tasks();
        let due = tasks.values_mut().filter(|entry| !entry.is_taken && entry.next <= now && may_try(&entry.task.place));
        let entry = due.min_by_key(|entry| (entry.next, entry.task.since_unix_ms))?;
        entry.is_taken = true;
        Some(entry.task.clone())
    }

    /// A task that was taken is tried again at `next`.
    pub(super) fn put_back(&self, task: &Task, next: Instant, line: Option<String>) {
        if let Some(entry) = self.tasks().get_mut(&task.file_name()) {
            entry.is_taken = false;
            entry.next = next;
            if line.is_some() {
                entry.task.tries += 1;
                entry.line = line;
            }
        }
    }

    /// It is owed no more.
    pub(super) fn remove(&self, task: &Task) {
        self.tasks().remove(&task.file_name());
        if let Err(error) = fs::remove_file(self.dir.join(task.file_name()))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "what was put into an object store is put there again after a restart");
        }
    }

    /// These jobs have ended: now is the time. Whether any of them is owed.
    pub(super) fn hurry(&self, ended: impl Iterator<Item = JobId>) -> bool {
        let mut tasks = self.tasks();
        if tasks.is_empty() {
            return false;
        }
        let ended: BTreeSet<JobId> = ended.collect();
        let mut is_any = false;
        // The failures that a task had so far keep their backoff.
        for entry in tasks.values_mut().filter(|entry| entry.line.is_none() && !ended.is_empty()) {
            if entry.task.subject.job().is_some_and(|job| ended.contains(&job)) {
                entry.next = Instant::now();
                is_any = true;
            }
        }
        is_any
    }

    /// When the next one is due, were its place to be tried at the time that `place_due` says.
    pub(super) fn due(&self, place_due: impl Fn(&Place) -> Option<Instant>) -> Option<Instant> {
        let tasks = self.tasks();
        let waiting = tasks.values().filter(|entry| !entry.is_taken);
        waiting.filter_map(|entry| Some(entry.next.max(place_due(&entry.task.place)?))).min()
    }

    pub(super) fn jobs(&self) -> Vec<JobId> {
        self.tasks().values().filter_map(|entry| entry.task.subject.job()).collect()
    }

    /// Where a job is to go, and what its last try came to.
    pub(super) fn of_job(&self, job: JobId) -> Option<(Place, Option<String>)> {
        let tasks = self.tasks();
        let entry = tasks.values().find(|entry| entry.task.subject.job() == Some(job))?;
        Some((entry.task.place.clone(), entry.line.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::harness::golden::{Sample, check};
    use crate::samples;

    fn task(at: u64) -> Task {
        Task::new(Subject::Value(ValueKey([7; 32])), Place::parse("s3://lab/x").unwrap(), at)
    }

    #[test]
    fn golden_owed() {
        let place = || Place::parse("s3://lab/x").unwrap();
        let subjects = [
            ("a job", Subject::Job(samples::attempt())),
            ("a value", Subject::Value(ValueKey([7; 32]))),
            ("a purge", Subject::Purge(ValueKey([7; 32]))),
        ];
        let samples = subjects.map(|(title, subject)| {
            let line = Task::new(subject, place(), 1_700_000_000_000).line();
            Sample::text(title, &line, &serde_json::to_string(&line).unwrap())
        });
        check("node.Owed", &samples);
    }

    #[test]
    fn what_is_owed_survives_a_restart_with_how_far_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Owed::open(dir.path().join("owed")).unwrap();
        let job = Task::new(Subject::Job(samples::attempt()), Place::parse("file:///a b").unwrap(), 5);
        let owed = open();
        owed.add(job.clone()).unwrap();
        owed.add(task(9)).unwrap();
        owed.note_done(&job, 32);
        let again = open();
        std::fs::write(dir.path().join("owed/torn"), "{\"v\":1,").unwrap();
        assert_eq!(again.jobs(), [samples::attempt().job]);
        assert_eq!(again.of_job(samples::attempt().job), Some((job.place.clone(), None)));
        let first = again.take(Instant::now(), |place| *place == job.place).expect("the job is owed");
        assert_eq!((first.subject.clone(), first.done, first.since_unix_ms), (job.subject.clone(), 32, 5));
        again.remove(&first);
        assert_eq!(open().jobs(), []);
        assert_eq!(open().tasks().len(), 1, "the value is owed still, and the torn file harms nobody");
    }

    #[test]
    fn a_task_is_taken_once_and_comes_back_when_it_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let owed = Owed::open(dir.path().to_owned()).unwrap();
        owed.add(task(1)).unwrap();
        let now = Instant::now();
        assert!(owed.take(now, |_| false).is_none(), "its place is down");
        let taken = owed.take(now, |_| true).expect("it is due");
        assert!(owed.take(now, |_| true).is_none() && owed.due(|_| Some(now)).is_none());
        let later = now + Duration::from_secs(8);
        owed.put_back(&taken, later, Some("no".to_owned()));
        assert!(owed.take(now, |_| true).is_none());
        assert_eq!(owed.due(|_| Some(now)), Some(later));
        assert_eq!(owed.take(later, |_| true).expect("now").tries, 1);
    }
}
