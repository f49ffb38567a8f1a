//! What the rest of the program may ask of a running node. Clones share it; every call is answered
//! within a bounded time, also while the node closes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::entry::Position;
use proto::event::Event;
use proto::explain::Explanation;
use proto::log::VersionVector;
use proto::record::{AttemptKey, GroupRecord, JobRecord, NodeRecord, Record, RecordKey};
use proto::snapshot::SignedSnapshot;
use proto::ticket::Ticket;
use proto::view::NodeView;
use proto::{ClusterId, ContentId, GroupId, GroupSpec, JobId, Member, NodeId};
use serde::Serialize;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::blob_link::BlobLink;
use super::elsewhere::Elsewhere;
use super::home::Home;
use super::machine::Machine;
use super::ran_with::RanWiths;
use super::secrets::Secrets;
use super::tail::{self, LogChunk};
use super::told;
use super::tracking::Tracks;
use super::values::Values;
use crate::blobs::{BlobStore, FetchProgress};
use crate::net::NetHandle;
use crate::objects::Trouble;
use crate::store::{GroupFilter, ProjectSummary, Store, StoreError};
use crate::track::{Cut, Page};

/// A request that is not answered by then is given up: well past every grace of the core.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A running node.
#[derive(Clone)]
pub struct NodeHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) shared: Arc<Shared>,
}

/// What the node's parts share and nobody changes.
pub(super) struct Shared {
    pub(super) home: Home,
    pub(super) me: NodeId,
    pub(super) name: String,
    pub(super) cluster: (ClusterId, String),
    pub(super) store: Store,
    pub(super) blobs: BlobStore,
    pub(super) blob_link: BlobLink,
    pub(super) net: NetHandle,
    pub(super) secrets: Secrets,
    pub(super) tracks: Tracks,
    pub(super) machine: Machine,
    pub(super) ran_withs: RanWiths,
    pub(super) values: Values,
    pub(super) elsewhere: Elsewhere,
    /// What goes on the path of every job's Python; `None`: it could not be written.
    pub(super) sdk: Option<PathBuf>,
    /// This program, for jobs that submit jobs.
    pub(super) exe: PathBuf,
    /// A member has removed this node from its cluster.
    pub(super) is_removed: AtomicBool,
    pub(super) news: broadcast::Sender<NodeNews>,
}

/// What the loop is asked.
pub(super) enum Command {
    Submit { group: GroupId, spec: Box<GroupSpec>, inline: Vec<Vec<u8>>, answer: oneshot::Sender<Vec<NodeId>> },
    Write { event: Event, answer: oneshot::Sender<()> },
    View(oneshot::Sender<ViewSnapshot>),
    Explain { job: JobId, answer: oneshot::Sender<Option<Explanation>> },
    Pause(bool, oneshot::Sender<()>),
    Invite { ttl: Duration, answer: oneshot::Sender<Ticket> },
    Shutdown { jobs: bool, answer: oneshot::Sender<()> },
}

/// A submission that was accepted.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The new group.
    pub group: GroupId,
    /// Nodes that have it on disk, this one first.
    pub held_by: Vec<NodeId>,
}

/// What a node sees now.
#[derive(Clone, Debug)]
pub struct ViewSnapshot {
    /// The node that looks.
    pub me: NodeId,
    /// Every node, itself included.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// Unfinished groups.
    pub groups_unfinished: usize,
    /// Last entry of its own log that is on its disk; compare with `NodeView::acked_seq`. 0: none.
    pub own_seq: u64,
    /// Attempts that this node holds, with whether they were handed to its runner.
    pub holding: Vec<(proto::AttemptId, bool)>,
    /// What of its own logs, of all its lives, is on its disk.
    pub own: VersionVector,
    /// What of them is on another one's, too.
    pub held: VersionVector,
    /// Whether no other node is up.
    pub is_alone: bool,
}

impl ViewSnapshot {
    /// Whether what was written at `position`, and is here, is on two disks: then it is final.
    #[must_use]
    pub fn is_held(&self, position: Position) -> bool {
        position.log.author != self.me || self.held.covers(position)
    }

    /// Everything that this node wrote up to now, as [`Self::is_held`] wants it.
    pub fn written(&self) -> impl Iterator<Item = Position> + '_ {
        self.own.of(self.me)
    }
}

/// What happened, for people and for event streams.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NodeNews {
    /// A job's state changed.
    Job {
        /// Its id.
        job: String,
        /// Its new state.
        state: proto::JobState,
    },
    /// A node is up.
    NodeUp {
        /// Its id.
        node: String,
    },
    /// A node was declared dead.
    NodeDown {
        /// Its id.
        node: String,
    },
    /// This node coordinates a group from now on.
    TookOver {
        /// Its id.
        group: String,
    },
    /// Something that a person should know.
    Notice {
        /// One line.
        text: String,
    },
}

/// Why a node could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A member has removed it from its cluster.
    #[error("{0}")]
    Removed(String),
    /// It ends.
    #[error("the node is shutting down; start it again with: fnode start")]
    Closing,
    /// No answer in time.
    #[error("the node did not answer in {}s; see its log, and fnode doctor", ANSWER_MAX.as_secs())]
    Timeout,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob store failed.
    #[error(transparent)]
    Blob(#[from] crate::blobs::BlobError),
    /// The cache's directory cannot be written.
    #[error("cannot use the cache in {}: {source}; is the disk full, or not writable?", dir.display())]
    Cache {
        /// Which.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something that was named is not known here.
    #[error("{0}")]
    Unknown(String),
    /// No node that can be reached has it.
    #[error("no node that can be reached has {0}; try again when more nodes are up (fnode status)")]
    Unreachable(String),
    /// No node has it, and it cannot be had from its archive either.
    #[error("no node that can be reached has {what}; {trouble}")]
    Archive {
        /// What was asked for.
        what: String,
        /// What is wrong with the archive, and what to do.
        trouble: Box<Trouble>,
    },
    /// It is known where something is, and that node does not answer.
    #[error("{what} is on node {node}, which cannot be reached; try again when it is back (fnode status)")]
    OutOfReach {
        /// What was asked for.
        what: String,
        /// The node's name.
        node: String,
    },
}

/// What a prefix of an id names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// One job, or a whole array.
    Job(JobId),
    /// Nothing.
    Unknown,
    /// Several; some of them.
    Ambiguous(Vec<GroupId>),
}

impl Shared {
    /// A member has removed this node: told to who listens, and kept for the next start.
    pub(super) fn note_removed(&self) {
        let text = removed_text(&self.cluster.1);
        tracing::warn!("{text}");
        let _ = self.news.send(NodeNews::Notice { text });
        self.is_removed.store(true, Ordering::Release);
        if let Err(error) = std::fs::write(self.home.removed(), &self.cluster.1) {
            tracing::warn!(%error, "that this node was removed is not kept");
        }
    }
}

/// What a user of a removed node is told.
pub(super) fn removed_text(cluster: &str) -> String {
    format!(
        "this node was removed from cluster {cluster:?}; start with another --home, or remove its data directory and join again"
    )
}

impl NodeHandle {
    /// Whether a member has removed this node from its cluster: nothing that is submitted here runs anywhere else.
    ///
    /// # Errors
    /// [`NodeError::Removed`] when one has.
    pub fn check_member(&self) -> Result<(), NodeError> {
        if self.shared.is_removed.load(Ordering::Acquire) {
            return Err(NodeError::Removed(removed_text(&self.shared.cluster.1)));
        }
        Ok(())
    }

    /// The node's id.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.shared.me
    }

    /// Its name for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its cluster.
    #[must_use]
    pub fn cluster(&self) -> (ClusterId, &str) {
        (self.shared.cluster.0, &self.shared.cluster.1)
    }

    /// Its data directory.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.shared.home
    }

    /// Files by content.
    #[must_use]
    pub fn blobs(&self) -> &BlobStore {
        &self.shared.blobs
    }

    /// The snapshots of the log that this node starts from, the newest last.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SignedSnapshot> {
        self.shared.store.snapshots().into_iter().map(|(signed, _)| signed).collect()
    }

    /// Bytes that the log takes on this node's disk, without its index.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub fn log_bytes(&self) -> Result<u64, NodeError> {
        Ok(self.shared.store.log_bytes()?)
    }

    /// Secrets that users gave to this node.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.shared.secrets
    }

    /// News from now on; a reader that is too slow misses the oldest.
    #[must_use]
    pub fn news(&self) -> broadcast::Receiver<NodeNews> {
        self.shared.news.subscribe()
    }

    /// Accepts a group: returns once it is durable on two nodes, or on this one after five seconds or
    /// when there is no other. The bundle must be in [`Self::blobs`].
    ///
    /// # Errors
    /// [`NodeError`]; after [`NodeError::Timeout`] it may have been accepted all the same.
    pub async fn submit(&self, group: Option<GroupId>, spec: GroupSpec) -> Result<Accepted, NodeError> {
        let group = group.unwrap_or_else(|| GroupId::v7(unix_ms(), rand::random()));
        let inline = self.make_bundle_durable(&spec).await?;
        let spec = Box::new(spec);
        let held_by = self.ask(|answer| Command::Submit { group, spec, inline, answer }).await?;
        Ok(Accepted { group, held_by })
    }

    /// Small bundles ride in the journal; the others are synced before the submission is written.
    async fn make_bundle_durable(&self, spec: &GroupSpec) -> Result<Vec<Vec<u8>>, NodeError> {
        let Some(bundle) = spec.bundle else { return Ok(Vec::new()) };
        let blobs = self.shared.blobs.clone();
        let work = move || super::bundle::make_durable(&blobs, bundle);
        tokio::task::spawn_blocking(work).await.map_err(|_| NodeError::Closing)?
    }

    /// Appends an event that any node may write: a stop wish, a mark, a label, a drain.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn write(&self, event: Event) -> Result<(), NodeError> {
        self.ask(|answer| Command::Write { event, answer }).await
    }

    /// What this node sees now.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn view(&self) -> Result<ViewSnapshot, NodeError> {
        self.ask(Command::View).await
    }

    /// Why an unfinished job waits; `None` for one that is not alive.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn explain(&self, job: JobId) -> Result<Option<Explanation>, NodeError> {
        self.ask(|answer| Command::Explain { job, answer }).await
    }

    /// This machine's owner comes first: no more jobs are taken.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn pause(&self) -> Result<(), NodeError> {
        self.ask(|answer| Command::Pause(true, answer)).await
    }

    /// Jobs are taken again.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn resume(&self) -> Result<(), NodeError> {
        self.ask(|answer| Command::Pause(false, answer)).await
    }

    /// A ticket for the next node.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn invite(&self, ttl: Duration) -> Result<Ticket, NodeError> {
        self.ask(|answer| Command::Invite { ttl, answer }).await
    }

    /// Ends the daemon; its jobs go on unless `jobs`.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn shutdown(&self, jobs: bool) -> Result<(), NodeError> {
        self.ask(|answer| Command::Shutdown { jobs, answer }).await
    }

    /// A group's record.
    ///
    /// # Errors
    /// [`NodeError::Store`], as for all that follow.
    pub fn group(&self, group: GroupId) -> Result<Option<GroupRecord>, NodeError> {
        Ok(match self.shared.store.record(&RecordKey::Group(group))? {
            Some(Record::Group(record)) => Some(record),
            _ => None,
        })
    }

    /// A job's record; `None` while nothing has happened to it.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub fn job(&self, job: JobId) -> Result<Option<JobRecord>, NodeError> {
        Ok(match self.shared.store.record(&RecordKey::Job(job))? {
            Some(Record::Job(record)) => Some(record),
            _ => None,
        })
    }

    /// Up to `limit` job records of a group after `after`, by index.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub fn jobs_of(
        &self,
        group: GroupId,
        after: Option<Member>,
        limit: usize,
    ) -> Result<Vec<(Member, JobRecord)>, NodeError> {
        Ok(self.shared.store.jobs_of(group, after, limit)?)
    }

    /// Up to `limit` groups that `filter` wants, newest first.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub fn groups(&self, filter: &GroupFilter, limit: usize) -> Result<Vec<(GroupId, GroupRecord)>, NodeError> {
        Ok(self.shared.store.groups(filter, limit)?)
    }

    /// Every project.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub fn projects(&self) -> Result<Vec<ProjectSummary>, NodeError> {
        Ok(self.shared.store.projects()?)
    }

    /// Every node that the log names.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub fn nodes(&self) -> Result<Vec<(NodeId, NodeRecord)>, NodeError> {
        Ok(self.shared.store.nodes()?)
    }

    /// What `text`, an id or a prefix of one, with or without `/INDEX`, names.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub fn resolve(&self, text: &str) -> Result<Resolved, NodeError> {
        let (prefix, index) = match text.split_once('/') {
            Some((prefix, index)) => (prefix, Some(index)),
            None => (text, None),
        };
        let member = match index.map(str::parse) {
            None => Member::Only,
            Some(Ok(index)) => Member::Index(index),
            Some(Err(_)) => return Ok(Resolved::Unknown),
        };
        // Enough to name a few in the message; more would not be read.
        let groups = self.shared.store.group_ids_with_prefix(prefix, 5)?;
        Ok(match groups.as_slice() {
            [] => Resolved::Unknown,
            [group] => {
                let known = self.group(*group)?.and_then(|record| record.submitted);
                let sound = known.is_some_and(|submitted| member == Member::Only || submitted.spec.contains(member));
                if sound { Resolved::Job(JobId { group: *group, member }) } else { Resolved::Unknown }
            }
            _ => Resolved::Ambiguous(groups),
        })
    }

    /// Part of an attempt's log from `offset`; waits up to `wait` for more while the attempt runs. The
    /// last attempt that started unless one is named. Works from any node that can reach the log.
    ///
    /// # Errors
    /// [`NodeError::Unknown`] when nothing of the job ran yet, [`NodeError::Unreachable`].
    pub async fn log_chunk(
        &self,
        job: JobId,
        attempt: Option<AttemptKey>,
        offset: u64,
        max: usize,
        wait: Duration,
    ) -> Result<LogChunk, NodeError> {
        tail::log_chunk(self, job, attempt, offset, max, wait).await
    }

    /// Where what an attempt wrote at `unix_ms` (milliseconds since 1970) or later begins in its log: the start of a
    /// line, to the second and too early rather than too late.
    ///
    /// # Errors
    /// As [`Self::log_chunk`].
    pub async fn log_offset_at(&self, job: JobId, attempt: AttemptKey, unix_ms: u64) -> Result<u64, NodeError> {
        tail::offset_at(self, job, attempt, unix_ms).await
    }

    /// Gets a manifest and all its files onto this node, from whichever node has them.
    ///
    /// # Errors
    /// [`NodeError::Unreachable`].
    pub async fn fetch_bundle(&self, manifest: ContentId) -> Result<proto::Manifest, NodeError> {
        let providers = self.providers().await?;
        self.shared.blob_link.fetch_bundle(manifest, &providers).await
    }

    /// [`Self::fetch_bundle`] that says how far it is, while anything has to be fetched.
    ///
    /// # Errors
    /// [`NodeError::Unreachable`].
    pub async fn fetch_bundle_telling(
        &self,
        manifest: ContentId,
        progress: impl Fn(FetchProgress) + Send + Sync,
    ) -> Result<proto::Manifest, NodeError> {
        let providers = self.providers().await?;
        self.shared.blob_link.fetch_bundle_telling(manifest, &providers, progress).await
    }

    /// Gets a manifest alone onto this node.
    ///
    /// # Errors
    /// [`NodeError::Unreachable`].
    pub async fn fetch_manifest(&self, manifest: ContentId) -> Result<proto::Manifest, NodeError> {
        let providers = self.providers().await?;
        self.shared.blob_link.fetch_manifest(manifest, &providers).await
    }

    /// Points of one metric of a job from number `after` on, at most about `points`; where there are more, of each
    /// stretch the lowest and the highest. `None`: the job told none of that name. Works from any node.
    ///
    /// # Errors
    /// [`NodeError::Unreachable`].
    pub async fn series(&self, job: JobId, metric: &str, cut: Cut) -> Result<Option<Page>, NodeError> {
        told::series(self, job, metric, cut).await
    }

    /// Path, content id and size of each file of a job's artifacts, as far as they are stored.
    ///
    /// # Errors
    /// [`NodeError::Unreachable`].
    pub async fn artifacts(&self, record: &JobRecord) -> Result<Vec<(String, ContentId, u64)>, NodeError> {
        told::artifacts(self, record).await
    }

    /// A small blob that rides in an entry of the log; `None`: no entry here carries it.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub fn inline(&self, content: ContentId) -> Result<Option<Vec<u8>>, NodeError> {
        Ok(self.shared.store.inline(content)?)
    }

    /// Gets one blob onto this node.
    ///
    /// # Errors
    /// [`NodeError::Unreachable`].
    pub async fn fetch_blob(&self, content: ContentId, size: u64) -> Result<(), NodeError> {
        let providers = self.providers().await?;
        self.shared.blob_link.fetch(&[(content, size)], &providers).await
    }

    /// Every node that can be asked for a blob.
    pub(super) async fn providers(&self) -> Result<Vec<NodeId>, NodeError> {
        let view = self.view().await?;
        let connected = view.nodes.iter().filter(|(_, seen)| seen.connected).map(|(&node, _)| node);
        Ok(connected.filter(|&node| node != view.me).collect())
    }

    /// The name of `node` for people, and whether a stream to it is open.
    pub(super) async fn name_of(&self, node: NodeId) -> Result<(String, bool), NodeError> {
        let view = self.view().await?;
        let seen = view.nodes.get(&node);
        let told = seen.and_then(|seen| seen.advert.as_ref()).map(|advert| advert.name.clone());
        let recorded = || seen.and_then(|seen| Some(seen.record.joined.as_ref()?.1.clone()));
        let name = told.filter(|name| !name.is_empty()).or_else(recorded).unwrap_or_else(|| node.short());
        Ok((name, node == view.me || seen.is_some_and(|seen| seen.connected)))
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, NodeError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| NodeError::Closing)?;
        let answered = tokio::time::timeout(ANSWER_MAX, answered).await.map_err(|_| NodeError::Timeout)?;
        answered.map_err(|_| NodeError::Closing)
    }
}

/// Milliseconds since 1970 by this machine's clock.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
