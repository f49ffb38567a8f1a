//! What this node owes to object stores, and what it takes back from there. What jobs left is written by the node that
//! ran them (`archive.rs`) and taken back where no node has it (`recall.rs`), cached values go both ways (`cached.rs`); what is owed is kept on disk until it is
//! delivered (`owed.rs`). A store that cannot be reached delays nothing and fails no job.

pub(super) mod archive;
pub(super) mod cached;
mod owed;
pub(crate) mod recall;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::JobId;
use proto::entry::Identity;
use proto::record::{Record, RecordKey};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::owed::{Owed, Subject, Task};
use super::handle::{NodeHandle, Shared, unix_ms};
use crate::objects::{Objects, Place, Trouble, Why};

/// Deliveries under way at a time.
const AT_ONCE: usize = 4;
/// After a failure the next try comes after this, then after twice as long, …
const RETRY_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Whether a job has its outcome is looked at this often, beside when the log tells of it.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A store that works answers well within this.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// Object stores, as this node uses them.
pub(super) struct Elsewhere {
    pub(super) objects: Objects,
    /// Where what jobs leave goes, unless they name a place themselves.
    pub(super) archive: Option<Place>,
    /// Where cached values go, unless their program names a place itself.
    cache: Option<Place>,
    signer: Identity,
    owed: Owed,
    troubles: Mutex<BTreeMap<Place, Down>>,
    wake: Notify,
    scratch: PathBuf,
}

/// Where a node writes to, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// What jobs leave; `None`: nowhere but in the cluster.
    pub archive: Option<Place>,
    /// Cached values; `None`: nowhere but in the cluster.
    pub cache: Option<Place>,
}

/// A place that did not work the last time.
#[derive(Clone, Debug)]
struct Down {
    line: String,
    tries: u32,
    until: Instant,
    is_tried: bool,
}

/// What became of a task.
pub(super) enum Ran {
    Delivered,
    /// Another node delivers it, or nobody wants it any more.
    Dropped,
    /// Its job has no outcome yet.
    Early,
    Failed(Failure),
}

/// Why a task is tried again.
pub(super) enum Failure {
    /// The store.
    Store(Trouble),
    /// This node; one line.
    Here(String),
}

/// Whether what a job left is in an archive.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Archived {
    /// Nobody asked for that, or it left nothing.
    No,
    /// It is.
    Done { place: String, unix_ms: u64 },
    /// Not yet; why, where a try has failed.
    Owed { place: String, why: Option<String> },
    /// That cannot be told now.
    Unknown { place: String, why: String },
}

impl Elsewhere {
    /// Reads from `dir` what is owed since the last start.
    ///
    /// # Errors
    /// What the system says of `dir`.
    pub(super) fn open(dir: PathBuf, objects: Objects, places: Places, signer: Identity) -> io::Result<Self> {
        let scratch = dir.join("incoming");
        // What an earlier life was fetching has no name yet.
        let _ = std::fs::remove_dir_all(&scratch);
        std::fs::create_dir_all(&scratch)?;
        let owed = Owed::open(dir.join("owed"))?;
        let Places { archive, cache } = places;
        Ok(Self { objects, archive, cache, signer, owed, troubles: Mutex::default(), wake: Notify::new(), scratch })
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<Place, Down>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Owes something from now on, also after a restart.
    pub(super) fn owe(&self, subject: Subject, place: Place) {
        if let Err(error) = self.owed.add(Task::new(subject, place, unix_ms())) {
            tracing::warn!(%error, "what is to be put into an object store is forgotten with the next start");
        }
        self.wake.notify_one();
    }

    /// Jobs of which the log tells something are looked at again.
    pub(super) fn follow(&self, changed: &[(RecordKey, Record)]) {
        let ended = changed.iter().filter_map(|(key, record)| match (key, record) {
            (RecordKey::Job(job), Record::Job(record)) if record.outcome.is_some() => Some(*job),
            _ => None,
        });
        if self.owed.hurry(ended) {
            self.wake.notify_one();
        }
    }

    /// Jobs whose files must stay until they are delivered.
    pub(super) fn jobs_owed(&self) -> Vec<JobId> {
        self.owed.jobs()
    }

    /// Where and why not yet, of a job that is owed.
    fn owed_of(&self, job: JobId) -> Option<Archived> {
        let (place, why) = self.owed.of_job(job)?;
        let why = why.or_else(|| self.troubles().get(&place).map(|down| down.line.clone()));
        Some(Archived::Owed { place: place.to_string(), why })
    }

    /// Whether a question to `place` is worth its time: not while it is known to be down.
    fn may_ask(&self, place: &Place) -> bool {
        self.troubles().get(place).is_none_or(|down| down.until <= Instant::now())
    }

    /// The next task whose turn it is.
    fn next(&self) -> Option<Task> {
        let now = Instant::now();
        let mut troubles = self.troubles();
        let task =
            self.owed.take(now, |place| troubles.get(place).is_none_or(|down| !down.is_tried && down.until <= now))?;
        if let Some(down) = troubles.get_mut(&task.place) {
            // One try tells how the place is; the others wait for it.
            down.is_tried = true;
        }
        Some(task)
    }

    fn on_ran(&self, task: Task, ran: Ran) {
        let (now, place) = (Instant::now(), task.place.clone());
        let told = match &ran {
            Ran::Delivered => Some(Ok(())),
            Ran::Failed(Failure::Store(trouble)) if is_of_place(&trouble.why) => Some(Err(trouble.to_string())),
            _ => None,
        };
        match ran {
            Ran::Delivered | Ran::Dropped => self.owed.remove(&task),
            Ran::Early => self.owed.put_back(&task, now + LOOK_EVERY, None),
            Ran::Failed(failure) => {
                let line = match failure {
                    Failure::Store(trouble) => trouble.to_string(),
                    Failure::Here(line) => line,
                };
                // A place that is down has a backoff of its own.
                let wait = if matches!(told, Some(Err(_))) { Duration::ZERO } else { backoff(task.tries) };
                self.owed.put_back(&task, now + wait, Some(line));
            }
        }
        self.note_place(place, told);
    }

    /// A place worked (`Ok`), or did not; `None` tells nothing of it.
    fn note_place(&self, place: Place, told: Option<Result<(), String>>) {
        let mut troubles = self.troubles();
        match told {
            Some(Ok(())) => {
                if troubles.remove(&place).is_some() {
                    tracing::info!(target: super::CLUSTER_STORY, %place, "the object store works again");
                }
            }
            Some(Err(line)) => {
                let known = troubles.get(&place);
                let tries = known.map_or(0, |down| down.tries + 1);
                // One line for one trouble, however many files wait for it.
                if known.is_none_or(|down| down.line != line) {
                    tracing::warn!(place = %place, "{line}");
                }
                let until = Instant::now() + backoff(tries);
                troubles.insert(place, Down { line, tries, until, is_tried: false });
            }
            None => {
                if let Some(down) = troubles.get_mut(&place) {
                    down.is_tried = false;
                }
            }
        }
    }

    /// When something may be due next.
    fn due(&self) -> Option<Instant> {
        let troubles = self.troubles();
        self.owed.due(|place| match troubles.get(place) {
            Some(down) if down.is_tried => None,
            Some(down) => Some(down.until),
            None => Some(Instant::now()),
        })
    }
}

fn backoff(tries: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << tries.min(16)).min(RETRY_MAX)
}

/// Whether other files will fare no better there.
fn is_of_place(why: &Why) -> bool {
    !matches!(why, Why::Missing(_) | Why::Altered(_) | Why::Told(_))
}

/// Delivers what is owed, for as long as the node runs.
pub(super) async fn deliver(node: NodeHandle) {
    let shared = node.shared.clone();
    let mut running: JoinSet<(Task, Ran)> = JoinSet::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(task) = shared.elsewhere.next()
        {
            let node = node.clone();
            running.spawn(async move {
                let ran = run(&node, &task).await;
                (task, ran)
            });
        }
        let due = shared.elsewhere.due().filter(|_| running.len() < AT_ONCE);
        tokio::select! {
            Some(Ok((task, ran))) = running.join_next() => shared.elsewhere.on_ran(task, ran),
            () = shared.elsewhere.wake.notified() => {}
            () = sleep_until(due) => {}
        }
    }
}

async fn run(node: &NodeHandle, task: &Task) -> Ran {
    let ran = match &task.subject {
        Subject::Job(attempt) => archive::deliver(node, *attempt, task).await,
        Subject::Value(key) => cached::deliver(node, *key, &task.place).await,
        Subject::Purge(key) => cached::purge(node, *key, &task.place).await,
    };
    if let Ran::Failed(Failure::Here(line)) = &ran {
        tracing::debug!(place = %task.place, "{line}");
    }
    ran
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Whether every configured place can be written and read now, by name; one line where it cannot.
pub(crate) async fn probe(node: &NodeHandle) -> Vec<(&'static str, String, Result<(), String>)> {
    let shared: &Arc<Shared> = &node.shared;
    let mut told = Vec::new();
    for (name, place) in [("archive", &shared.elsewhere.archive), ("cache store", &shared.elsewhere.cache)] {
        if let Some(place) = place {
            let name_there = format!("{}-{:016x}", shared.me.short(), rand::random::<u64>());
            let tried = shared.elsewhere.objects.probe(place, &name_there);
            let tried = tokio::time::timeout(PROBE_MAX, tried).await;
            let slow = || {
                Err(format!("{place} does not answer within {} s; look at network and end point", PROBE_MAX.as_secs()))
            };
            let tried = tried.map_or_else(|_| slow(), |tried| tried.map_err(|trouble| trouble.to_string()));
            told.push((name, place.to_string(), tried));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::golden::{check, sections};
    use crate::node::tail::write_word;

    #[test]
    fn golden_archived() {
        let place = || "s3://lab/x".to_owned();
        let words = [
            Archived::No,
            Archived::Done { place: place(), unix_ms: 1_700_000_000_000 },
            Archived::Owed { place: place(), why: Some("it is down".to_owned()) },
            Archived::Unknown { place: place(), why: "it is down".to_owned() },
        ];
        let written = |word: &Archived| {
            let mut bytes = Vec::new();
            futures::executor::block_on(write_word(&mut bytes, word)).expect("a Vec takes all");
            bytes
        };
        check("node.Archived", &sections(&words, written));
    }

    #[test]
    fn a_place_that_is_down_is_tried_by_one_task_until_it_works() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::new(crate::objects::Credentials::default());
        let elsewhere =
            Elsewhere::open(dir.path().to_owned(), objects, Places::default(), Identity::from_seed([1; 32])).unwrap();
        let place = Place::parse("s3://lab/x").unwrap();
        for at in 0..3 {
            elsewhere.owe(Subject::Value(proto::ValueKey([at; 32])), place.clone());
        }
        let down = || Ran::Failed(Failure::Store(Trouble { place: place.clone(), why: Why::Denied }));
        let first = elsewhere.next().expect("all are due");
        elsewhere.on_ran(first, down());
        assert!(elsewhere.next().is_none(), "the place is known to be down, for a while");
        assert!(!elsewhere.may_ask(&place) && elsewhere.due().is_some());
        // Its time has come: one of them tries.
        elsewhere.troubles().get_mut(&place).unwrap().until = Instant::now();
        let second = elsewhere.next().expect("one tries");
        assert!(elsewhere.next().is_none() && elsewhere.due().is_none(), "the others wait for it");
        elsewhere.on_ran(second, Ran::Delivered);
        let (third, fourth) = (elsewhere.next().expect("it works"), elsewhere.next().expect("again"));
        elsewhere.on_ran(third, Ran::Dropped);
        elsewhere.on_ran(fourth, Ran::Delivered);
        assert!(elsewhere.next().is_none() && elsewhere.due().is_none(), "nothing is owed any more");
    }
}
