//! The one loop of a node: inputs in, the core decides, shells act. It waits in one place only, and
//! nothing here is a decision about a job, a member or an entry.
//!
//! Inputs: commands of [`super::NodeHandle`]s, network events, the runner's events, finished work.
//! Outputs: effects of the core. Ends with `Command::Shutdown`, or when every handle is gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use proto::core_io::{Answer, News, Now, RequestId, StoreTicket};
use proto::entry::VerifiedEntry;
use proto::event::{Event, Mark};
use proto::job::BundleRef;
use proto::keeping::Left;
use proto::log::{EntryRange, VersionVector};
use proto::message::{Accepting, BUNDLES_MAX, MESSAGE_MAX, Message};
use proto::record::{NodeRecord, Record, RecordKey};
use proto::snapshot::SnapshotInput;
use proto::ticket::{Secret, Ticket};
use proto::{Core, Effect, Input, JobState, NodeId, Timestamp, codec};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

use super::ask::{Question, ask};
use super::attempts::{Attempts, Done, Told};
use super::cluster::Cluster;
use super::collect::Collected;
use super::handle::{Command, NodeNews, Shared, ViewSnapshot, unix_ms};
use super::machine::Machine;
use super::peers::Peers;
use super::start::{CommandInbox, dialable};
use super::tracking::Update;
use crate::exec::client::{RunnerEvent, RunnerEvents};
use crate::exec::protocol::ShutdownWhen;
use crate::net::{NetEvent, NetEvents};
use crate::store::{Committed, StoreError};
use crate::track::TagChange;

/// Inputs taken in one turn before effects are looked after: fairness between the sources.
const BATCH_MAX: usize = 256;
/// Entries sent for one request; the peer asks again for the rest.
const ENTRIES_MAX_BYTES: usize = 4 << 20;
/// A commit that failed (a full disk) is tried again after this.
const COMMIT_RETRY: Duration = Duration::from_secs(2);
/// A node that is being removed has so long to take note.
const REMOVED_MAX: Duration = Duration::from_secs(1);
/// What changes in capacity without our doing is looked at this often.
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// Streams served to peers at a time; more are closed at once.
pub(super) const SERVED_MAX: usize = 256;

/// What `daemon.log` tells of the cluster without being asked to tell more.
pub(crate) const CLUSTER_STORY: &str = "fnode::cluster";

/// Everything the loop owns.
pub(super) struct Actor {
    pub(super) core: Core,
    pub(super) shared: Arc<Shared>,
    pub(super) attempts: Attempts,
    pub(super) machine: Machine,
    pub(super) cluster: Cluster,
    pub(super) removed: BTreeSet<NodeId>,
    pub(super) commands: CommandInbox,
    pub(super) net: NetEvents,
    pub(super) runner: RunnerEvents,
    pub(super) done: mpsc::UnboundedReceiver<Done>,
    pub(super) inner: (mpsc::UnboundedSender<Inner>, mpsc::UnboundedReceiver<Inner>),
    pub(super) peers: Peers,
    pub(super) started: Instant,
    pub(super) state: State,
}

/// What the loop remembers between turns.
#[derive(Default)]
pub(super) struct State {
    requests: u64,
    waiting: BTreeMap<RequestId, Waiting>,
    wake: Option<Timestamp>,
    inputs: Vec<Input>,
    adopted: bool,
    job_states: BTreeMap<proto::JobId, JobState>,
    closing: Option<oneshot::Sender<()>>,
    kept: BTreeSet<NodeId>,
    secret_told: Option<Secret>,
    addrs_told: Vec<(NodeId, Vec<String>)>,
    snapshots_offered: BTreeSet<proto::ContentId>,
    /// Bundles used here, the latest first.
    bundles: VecDeque<[u8; 8]>,
    /// Paths that were looked for last, and whether jobs ask for others by now.
    data_wanted: BTreeSet<String>,
    data_is_new: bool,
}

enum Waiting {
    Submit(oneshot::Sender<Vec<NodeId>>),
    Write(oneshot::Sender<()>),
}

/// Results of the loop's own side work. Unbounded: each answers one effect of the core.
pub(super) enum Inner {
    Stored {
        ticket: StoreTicket,
        result: Result<Committed, StoreError>,
        entries: Vec<VerifiedEntry>,
    },
    Fetched {
        position: proto::entry::Position,
        bundle: BundleRef,
        complete: bool,
    },
    /// What a job told of itself.
    Told(Box<Update>),
    Kept {
        left: Box<Left>,
        complete: bool,
    },
    Reviewed(Vec<Left>),
    Capacity(Box<proto::Capacity>),
    Snapshot(SnapshotInput),
    Verified {
        from: NodeId,
        entries: Vec<VerifiedEntry>,
        fresh: bool,
        more: bool,
    },
}

impl Actor {
    /// Runs until the node is told to end.
    pub(super) async fn run(mut self) {
        let mut refresh = tokio::time::interval(REFRESH_EVERY);
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.state.inputs.push(Input::Tick);
        self.look_at_gpus();
        super::snapshots::offer(&self.shared, &mut self.state.snapshots_offered);
        self.find_peers().await;
        loop {
            self.turn().await;
            if std::mem::take(&mut self.state.data_is_new) {
                self.look_at_machine();
            }
            if self.state.closing.is_some() {
                break;
            }
            let wake = self.state.wake.map(|at| self.started + Duration::from_millis(at.0));
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command).await,
                    None => break,
                },
                Some(event) = self.net.recv() => self.on_net(event),
                Some(event) = self.runner.recv() => self.on_runner(event),
                Some(done) = self.done.recv() => self.on_done(done),
                Some(inner) = self.inner.1.recv() => self.on_inner(inner).await,
                () = sleep_until(wake) => self.state.inputs.push(Input::Tick),
                _ = refresh.tick() => {
                    self.refresh();
                    self.learn_addrs().await;
                }
            }
            self.drain().await;
            self.note_addrs().await;
            self.keep_connected().await;
            if let Some(secret) = self.state.secret_told.take() {
                self.adopt_secret(secret).await;
            }
        }
        self.close().await;
    }

    /// Takes what else has come already, so that one commit, one frame and one order carry much.
    async fn drain(&mut self) {
        for _ in 0..BATCH_MAX {
            if let Some(Some(event)) = self.runner.recv().now_or_never() {
                self.on_runner(event);
            } else if let Ok(inner) = self.inner.1.try_recv() {
                self.on_inner(inner).await;
            } else if let Some(event) = self.net.try_recv() {
                self.on_net(event);
            } else if let Ok(done) = self.done.try_recv() {
                self.on_done(done);
            } else {
                return;
            }
        }
    }

    fn now(&self) -> Now {
        let at = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { at: Timestamp(at), unix_ms: unix_ms() }
    }

    /// Feeds what came, runs what comes of it, until there is nothing more to do now.
    async fn turn(&mut self) {
        while !self.state.inputs.is_empty() {
            for input in std::mem::take(&mut self.state.inputs) {
                let effects = self.core.step(self.now(), input);
                for effect in effects {
                    self.run_effect(effect).await;
                }
            }
            self.attempts.flush();
        }
    }

    async fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => {
                // A full outbox drops it: every message is repeated or repaired.
                let _ = self.shared.net.send(to, codec::encode(&message).into());
            }
            Effect::Store { ticket, entries } => self.store(ticket, entries).await,
            Effect::SendEntries { to, ranges } => self.send_entries(to, ranges),
            Effect::Run(run) => {
                let mut told = Vec::new();
                self.note_bundle(run.spec.bundle);
                self.attempts.run(*run, &mut told);
                self.tell(told);
            }
            Effect::Halt(attempt) => {
                let mut told = Vec::new();
                self.attempts.halt(attempt, &mut told);
                self.tell(told);
            }
            Effect::Fetch { position, bundle, from } => self.fetch(position, bundle, from),
            Effect::Keep { left, providers, unless_held } => self.keep(left, providers, unless_held),
            Effect::Review { oldest_unix_ms } => self.review(oldest_unix_ms),
            Effect::Snapshot(order) => super::snapshots::run(self.shared.clone(), self.inner.0.clone(), order).await,
            Effect::LookUp(job) => self.look_up(job),
            Effect::Reply { request, answer } => self.reply(request, answer),
            Effect::WakeAt(at) => self.state.wake = Some(at),
            Effect::News(news) => self.on_news(&news),
        }
    }

    async fn store(&mut self, ticket: StoreTicket, entries: Vec<VerifiedEntry>) {
        let inner = self.inner.0.clone();
        let kept = entries.clone();
        let done = move |result| {
            let _ = inner.send(Inner::Stored { ticket, result, entries: kept });
        };
        if self.shared.store.commit_with(entries, done).await.is_err() {
            tracing::error!("the store is closed");
        }
    }

    fn send_entries(&self, to: NodeId, ranges: Vec<EntryRange>) {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || {
            for message in entries_for(&shared, &ranges) {
                let _ = shared.net.send(to, codec::encode(&message).into());
            }
        });
    }

    fn fetch(&self, position: proto::entry::Position, bundle: BundleRef, from: NodeId) {
        let (shared, inner) = (self.shared.clone(), self.inner.0.clone());
        tokio::spawn(async move {
            let fetched = shared.blob_link.fetch_bundle(bundle.manifest, &[from]).await;
            let complete = match fetched {
                Ok(files) => {
                    let (blobs, ids) = (shared.blobs.clone(), super::bundle::contents(bundle.manifest, &files));
                    let sync = move || {
                        if !blobs.is_whole(bundle.manifest) {
                            blobs.sync(&ids)?;
                            blobs.note_whole(bundle.manifest);
                        }
                        Ok::<_, crate::blobs::BlobError>(())
                    };
                    matches!(tokio::task::spawn_blocking(sync).await, Ok(Ok(())))
                }
                Err(_) => false,
            };
            let _ = inner.send(Inner::Fetched { position, bundle, complete });
        });
    }

    fn keep(&self, left: Box<Left>, providers: Vec<NodeId>, unless_held: bool) {
        let (shared, inner) = (self.shared.clone(), self.inner.0.clone());
        tokio::spawn(async move {
            let kept = super::copies::keep(&shared, &left, &providers, unless_held).await;
            if let Err(error) = &kept {
                tracing::debug!(job = %left.job, %error, "no second copy yet");
            }
            let _ = inner.send(Inner::Kept { left, complete: kept.is_ok() });
        });
    }

    fn review(&self, oldest_unix_ms: u64) {
        let (store, inner) = (self.shared.store.clone(), self.inner.0.clone());
        tokio::task::spawn_blocking(move || match super::copies::review(&store, oldest_unix_ms) {
            Ok(left) => drop(inner.send(Inner::Reviewed(left))),
            // The store has told what is wrong; the next review is not far.
            Err(error) => tracing::debug!(%error, "ended jobs are not looked at"),
        });
    }

    fn look_up(&mut self, job: proto::JobId) {
        let group = match self.shared.store.record(&RecordKey::Group(job.group)) {
            Ok(Some(Record::Group(record))) => Some(Box::new(record)),
            _ => None,
        };
        let record = match self.shared.store.record(&RecordKey::Job(job)) {
            Ok(Some(Record::Job(record))) => Some(Box::new(record)),
            _ => None,
        };
        self.state.inputs.push(Input::LookedUp { job, group, record });
    }

    fn reply(&mut self, request: RequestId, answer: Answer) {
        match (self.state.waiting.remove(&request), answer) {
            (Some(Waiting::Submit(asker)), Answer::Accepted { held_by }) => drop(asker.send(held_by)),
            (Some(Waiting::Write(asker)), Answer::Written) => drop(asker.send(())),
            _ => {}
        }
    }

    fn tell(&mut self, told: Vec<Told>) {
        for told in told {
            match told {
                Told::Started { attempt, started_unix_ms } => {
                    self.state.inputs.push(Input::Started { attempt, started_unix_ms });
                }
                Told::Saved { attempt, bundle, saved_unix_ms } => {
                    self.state.inputs.push(Input::Checkpoint { attempt, bundle, saved_unix_ms });
                }
                Told::Ended(Collected { finished, inline, told, .. }) => {
                    // Before its end: who sees that it ended sees all that it told.
                    told.into_iter().for_each(|update| self.write_told(*update));
                    self.state.inputs.push(Input::Ended { finished, inline });
                }
            }
        }
    }

    /// What a job told of itself goes into the log.
    fn write_told(&mut self, Update { attempt, tracked, tags }: Update) {
        let mark = |tag: TagChange| match tag.value {
            Some(value) => Mark::Tagged { key: tag.key, value },
            None => Mark::Untagged { key: tag.key },
        };
        let marks = tags.into_iter().map(|tag| Event::Marked { job: attempt.job, mark: mark(tag) });
        let tracked = tracked.map(|tracked| Event::AttemptTracked { attempt, tracked: Box::new(tracked) });
        for event in marks.chain(tracked) {
            self.state.requests += 1;
            let request = RequestId(self.state.requests);
            self.state.inputs.push(Input::Write { request, event });
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Submit { group, spec, inline, answer } => {
                self.note_bundle(spec.bundle);
                let request = self.expect(Waiting::Submit(answer));
                self.state.inputs.push(Input::Submit { request, group, spec, inline });
            }
            Command::Write { event, answer } => {
                self.before_write(&event).await;
                let request = self.expect(Waiting::Write(answer));
                self.state.inputs.push(Input::Write { request, event });
            }
            Command::View(answer) => drop(answer.send(self.snapshot())),
            Command::Explain { job, answer } => drop(answer.send(self.core.explain(job))),
            Command::Pause(paused, answer) => {
                let accepting = if paused { Accepting::Paused } else { Accepting::Yes };
                self.state.inputs.push(Input::Accepting(accepting));
                let _ = answer.send(());
            }
            Command::Invite { ttl, answer } => drop(answer.send(self.ticket(ttl))),
            Command::Shutdown { jobs, answer } => self.shutdown(jobs, answer).await,
        }
    }

    /// A removed member is shut out at once, not when the event has made its round; and what it knows
    /// opens no door any more: the secret is rotated, and told to the members that remain.
    async fn before_write(&mut self, event: &Event) {
        if let Event::MemberRemoved { node } = event {
            // The last word that reaches it; one that is away finds the door shut.
            if self.core.view().nodes.get(node).is_some_and(|seen| seen.connected) {
                let told = ask(&self.shared, *node, &Question::Removed);
                let _ = tokio::time::timeout(REMOVED_MAX, told).await;
            }
            self.shut_out(*node).await;
            let secret = self.cluster.next_secret();
            self.adopt_secret(secret).await;
            self.state.requests += 1;
            let request = RequestId(self.state.requests);
            let number = self.cluster.secret.number;
            self.state.inputs.push(Input::Write { request, event: Event::SecretRotated { number } });
        }
    }

    async fn shut_out(&mut self, node: NodeId) {
        if self.removed.insert(node) {
            self.peers.forget(node);
            let _ = self.shared.net.forget(node).await;
            self.set_gate().await;
        }
    }

    /// Takes a newer secret, and passes it on to every member that is connected.
    async fn adopt_secret(&mut self, secret: Secret) {
        if !self.cluster.adopt(secret) {
            return;
        }
        if let Err(error) = self.cluster.save(&self.shared.home.cluster()) {
            self.notice(format!("the cluster's new secret is not kept: {error}"));
        }
        self.set_gate().await;
        let members: Vec<NodeId> =
            self.core.view().nodes.iter().filter(|(_, seen)| seen.connected).map(|(&node, _)| node).collect();
        for node in members.into_iter().filter(|node| !self.removed.contains(node)) {
            self.tell_secret(node);
        }
    }

    fn tell_secret(&self, node: NodeId) {
        let message = Message::Secret(self.cluster.secret.clone());
        let _ = self.shared.net.send(node, codec::encode(&message).into());
    }

    async fn set_gate(&mut self) {
        let members = self.core.view().nodes.keys().copied().filter(|node| !self.removed.contains(node)).collect();
        let rules = super::start::gate(&self.cluster, members, self.removed.clone());
        let _ = self.shared.net.set_gate(self.cluster.id, rules).await;
    }

    fn expect(&mut self, waiting: Waiting) -> RequestId {
        self.state.requests += 1;
        let request = RequestId(self.state.requests);
        // Requests whose asker is gone are dropped when they are answered; the core answers each.
        self.state.waiting.insert(request, waiting);
        request
    }

    fn snapshot(&self) -> ViewSnapshot {
        let view = self.core.view();
        ViewSnapshot {
            me: view.me,
            nodes: view.nodes.clone(),
            groups_unfinished: view.groups.len(),
            own_seq: self.core.durable().0.get(&self.core.own_log()).copied().unwrap_or(0),
            holding: self.core.holding().collect(),
            own: VersionVector(self.core.durable().of(view.me).map(|head| (head.log, head.seq)).collect()),
            held: view.held.clone(),
            is_alone: view.peers().next().is_none(),
        }
    }

    fn ticket(&self, ttl: Duration) -> Ticket {
        let expires = unix_ms().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        Ticket {
            cluster: self.shared.cluster.0,
            cluster_name: self.shared.cluster.1.clone(),
            secret: self.cluster.secret.clone(),
            addrs: dialable(&self.shared).iter().map(ToString::to_string).collect(),
            expires_unix_ms: expires,
        }
    }

    async fn shutdown(&mut self, jobs: bool, answer: oneshot::Sender<()>) {
        if jobs {
            let _ = self.attempts.runner().shutdown(ShutdownWhen::Now).await;
        } else {
            let _ = self.attempts.runner().goodbye().await;
        }
        self.state.inputs.push(Input::Leave);
        self.turn().await;
        self.state.closing = Some(answer);
    }

    async fn close(&mut self) {
        self.shared.store.close().await;
        self.shared.net.shutdown().await;
        // A stale one is replaced by the next start as well.
        let _ = std::fs::remove_file(self.shared.home.cache_socket());
        if let Some(answer) = self.state.closing.take() {
            let _ = answer.send(());
        }
    }

    fn on_net(&mut self, event: NetEvent) {
        match event {
            NetEvent::Connected(node, hello) => {
                tracing::info!(peer = %node.short(), version = %hello.version, "connected");
                if self.peers.met(node, &hello.listen_addrs) {
                    self.tell_all(&Message::Addrs(vec![(node, hello.listen_addrs.clone())]));
                }
                let book = Message::Addrs(self.peers.told());
                let _ = self.shared.net.send(node, codec::encode(&book).into());
                // The first secret is the one that everybody came in with.
                if self.cluster.secret.number > 1 {
                    self.tell_secret(node);
                }
                self.state.inputs.push(Input::Connected(node));
            }
            NetEvent::Disconnected(node) => {
                tracing::info!(peer = %node.short(), "disconnected");
                self.state.inputs.push(Input::Disconnected(node));
            }
            NetEvent::Refused(node) => self.state.inputs.push(Input::Refused(node)),
            NetEvent::Frame { from, bytes } => self.on_frame(from, &bytes),
            other => tracing::debug!(event = ?other, "network"),
        }
    }

    fn on_frame(&mut self, from: NodeId, bytes: &[u8]) {
        match codec::decode::<Message>(bytes) {
            // Many signatures are checked aside: the loop has heartbeats to answer.
            Ok(Message::Entries { entries, more }) if entries.len() > 16 => {
                let inner = self.inner.0.clone();
                tokio::task::spawn_blocking(move || {
                    let entries = entries.into_iter().filter_map(|entry| entry.verify().ok()).collect();
                    let _ = inner.send(Inner::Verified { from, entries, fresh: false, more });
                });
            }
            Ok(Message::Secret(secret)) => self.state.secret_told = Some(secret),
            Ok(Message::Addrs(book)) => self.state.addrs_told.extend(book),
            Ok(message) => self.state.inputs.push(Input::Received { from, message }),
            Err(error) => tracing::warn!(peer = %from.short(), %error, "a message could not be read"),
        }
    }

    fn on_runner(&mut self, event: RunnerEvent) {
        let mut told = Vec::new();
        match event {
            RunnerEvent::Connected { attempts, .. } if !self.state.adopted => {
                self.state.adopted = true;
                let adopted = self.attempts.adopt(attempts, &mut told);
                let names: Vec<String> = adopted.iter().map(|adopted| adopted.attempt.file_name()).collect();
                super::attempts::sweep_dirs(&self.shared.home.jobs(), &names);
                self.state.inputs.push(Input::Adopted { attempts: adopted });
            }
            RunnerEvent::Connected { attempts, .. } | RunnerEvent::Listed(attempts) => {
                self.attempts.on_runner_changed(&attempts, &mut told)
            }
            RunnerEvent::Progress(events) => self.attempts.on_progress(events, &mut told),
            RunnerEvent::Gone => tracing::warn!("the runner is gone; looking for it"),
        }
        self.tell(told);
    }

    fn on_done(&mut self, done: Done) {
        let mut told = Vec::new();
        self.attempts.on_done(done, &mut told);
        self.tell(told);
    }

    async fn on_inner(&mut self, inner: Inner) {
        match inner {
            Inner::Stored { ticket, result: Ok(committed), entries } => {
                self.note_changes(&committed.changed).await;
                self.state.inputs.push(Input::Stored { ticket, changed: committed.changed });
                if self.attempts.remembers() && entries.iter().any(|entry| entry.position().log == self.core.own_log())
                {
                    self.attempts.on_stored();
                }
            }
            Inner::Stored { ticket, result: Err(error), entries } => {
                self.notice(format!("cannot write the log: {error}"));
                tracing::error!(%error, "cannot write the log; trying again");
                let (shared, inner) = (self.shared.clone(), self.inner.0.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(COMMIT_RETRY).await;
                    let result = shared.store.commit(entries.clone()).await;
                    let _ = inner.send(Inner::Stored { ticket, result, entries });
                });
            }
            Inner::Fetched { position, bundle, complete } => {
                self.note_bundle(Some(bundle).filter(|_| complete));
                self.state.inputs.push(Input::Fetched { position, bundle, complete })
            }
            Inner::Told(update) => self.write_told(*update),
            Inner::Kept { left, complete } => self.state.inputs.push(Input::Kept { left, complete }),
            Inner::Reviewed(left) => self.state.inputs.push(Input::Reviewed(left)),
            Inner::Capacity(capacity) => self.state.inputs.push(Input::Capacity(capacity)),
            Inner::Snapshot(input) => {
                if let SnapshotInput::Installed(installed) = &input {
                    self.note_changes(&installed.changed).await;
                    super::values::follow_base(&self.shared);
                }
                super::snapshots::offer(&self.shared, &mut self.state.snapshots_offered);
                self.state.inputs.push(Input::Snapshot(input));
            }
            Inner::Verified { from, entries, fresh, more } => {
                self.state.inputs.push(Input::Entries { from, entries, fresh, more });
            }
        }
    }

    /// Tells who listens which jobs changed their state.
    async fn note_changes(&mut self, changed: &[(RecordKey, Record)]) {
        super::values::follow(&self.shared, changed);
        self.shared.elsewhere.follow(changed);
        for (key, record) in changed {
            match (key, record) {
                (RecordKey::Node(node), Record::Node(record)) if record.removed => {
                    self.shut_out(*node).await;
                }
                (RecordKey::Node(node), Record::Node(NodeRecord { joined: Some((_, name, _)), .. })) => {
                    self.check_namesakes(*node, name);
                }
                (RecordKey::Group(_), Record::Group(record)) => {
                    let data = record.submitted.iter().flat_map(|submitted| &submitted.spec.requirement.data);
                    self.state.data_is_new |= data.into_iter().any(|path| !self.state.data_wanted.contains(path));
                }
                (RecordKey::Job(job), Record::Job(record)) if self.shared.news.receiver_count() > 0 => {
                    let state = record.state();
                    if self.state.job_states.insert(*job, state) != Some(state) {
                        let _ = self.shared.news.send(NodeNews::Job { job: job.to_string(), state });
                    }
                    if state.is_final() {
                        self.state.job_states.remove(job);
                    }
                }
                _ => {}
            }
        }
        if self.shared.news.receiver_count() == 0 {
            self.state.job_states.clear();
        }
    }

    fn on_news(&self, news: &News) {
        let told = match news {
            News::NodeUp(node) => {
                tracing::info!(target: CLUSTER_STORY, peer = %node.short(), name = self.name_of(*node), "is up");
                NodeNews::NodeUp { node: node.to_string() }
            }
            News::NodeDown(node) => {
                tracing::info!(target: CLUSTER_STORY, peer = %node.short(), name = self.name_of(*node), "is down");
                NodeNews::NodeDown { node: node.to_string() }
            }
            News::TookOver(group) => {
                tracing::info!(target: CLUSTER_STORY, %group, "this node sees it through now");
                NodeNews::TookOver { group: group.to_string() }
            }
            News::Quarantined(node) => NodeNews::Notice {
                text: format!(
                    "node {} writes two logs with one key (a cloned disk?): nothing of it is taken; give one of the two a new data directory",
                    node.short()
                ),
            },
            News::BadEntry(node) => {
                NodeNews::Notice { text: format!("node {} sent an entry with a wrong signature", node.short()) }
            }
            News::Snapshot { entries, signers } => {
                tracing::info!(entries, signers, "the node starts from a new snapshot of the log");
                return;
            }
            News::Diverged(node) => NodeNews::Notice {
                text: format!(
                    "node {} has the same log entries and another state: no snapshot is made with it; rebuild the index of both (stop the node, remove store/sled, start it again) and report this",
                    node.short()
                ),
            },
            News::Decided(..) => return,
        };
        if let NodeNews::Notice { text } = &told {
            tracing::warn!("{text}");
        }
        let _: Result<usize, broadcast::error::SendError<NodeNews>> = self.shared.news.send(told);
    }

    fn name_of(&self, node: NodeId) -> &str {
        let seen = self.core.view().nodes.get(&node);
        seen.and_then(|seen| seen.record.joined.as_ref()).map_or("", |(_, name, _)| name)
    }

    /// Two nodes of one name are told apart by their ids alone.
    fn check_namesakes(&self, node: NodeId, name: &str) {
        let me = (node != self.shared.me && self.shared.name == name).then_some(self.shared.me);
        let mut others = self.core.view().nodes.keys().copied();
        let namesake = me.or_else(|| others.find(|&other| other != node && self.name_of(other) == name));
        if let Some(other) = namesake {
            self.notice(format!(
                "nodes {} and {} are both called {name}: only their ids tell them apart; start one of them with another --name",
                node.short(),
                other.short()
            ));
        }
    }

    fn notice(&self, text: String) {
        tracing::warn!("{text}");
        let _ = self.shared.news.send(NodeNews::Notice { text });
    }

    /// Looks again at what changes without our doing.
    fn refresh(&mut self) {
        self.look_at_machine();
        self.peers.save();
    }

    fn look_at_machine(&mut self) {
        let (machine, inner) = (self.machine.clone(), self.inner.0.clone());
        let data_wanted = self.core.view().data_wanted();
        self.state.data_wanted.clone_from(&data_wanted);
        tokio::task::spawn_blocking(move || {
            if let Some(capacity) = machine.refresh(data_wanted) {
                let _ = inner.send(Inner::Capacity(Box::new(capacity)));
            }
        });
    }

    /// Drivers answer in seconds at best; the node is ready before.
    fn look_at_gpus(&self) {
        let (machine, inner) = (self.machine.clone(), self.inner.0.clone());
        tokio::task::spawn_blocking(move || {
            machine.probe_gpus(|capacity| {
                let _ = inner.send(Inner::Capacity(Box::new(capacity)));
            });
        });
    }

    /// Tells the network whom to stay connected to, and where they were met.
    async fn find_peers(&mut self) {
        for (&node, addrs) in self.peers.known() {
            let _ = self.shared.net.learn_addrs(node, addrs.iter().cloned().collect()).await;
        }
        self.keep_connected().await;
    }

    /// Every member stays connected; called again when somebody came or went.
    async fn keep_connected(&mut self) {
        let me = self.shared.me;
        let known = self.core.view().nodes.keys().chain(self.peers.known().keys()).copied();
        let wanted: BTreeSet<NodeId> = known.filter(|&node| node != me).collect();
        if self.state.kept != wanted {
            self.state.kept.clone_from(&wanted);
            let _ = self.shared.net.keep_connected(wanted).await;
        }
    }

    /// This node has the bundle, or will in a moment: jobs of it are well placed here.
    fn note_bundle(&mut self, bundle: Option<BundleRef>) {
        let Some(prefix) = bundle.and_then(|bundle| bundle.manifest.0.first_chunk().copied()) else { return };
        if self.state.bundles.front() == Some(&prefix) {
            return;
        }
        self.state.bundles.retain(|known| *known != prefix);
        self.state.bundles.push_front(prefix);
        self.state.bundles.truncate(BUNDLES_MAX);
        self.state.inputs.push(Input::Bundles(self.state.bundles.iter().copied().collect()));
    }

    fn tell_all(&self, message: &Message) {
        let bytes = bytes::Bytes::from(codec::encode(message));
        let connected = self.core.view().nodes.iter().filter(|(_, seen)| seen.connected);
        for (&node, _) in connected.filter(|&(&node, _)| node != self.shared.me) {
            let _ = self.shared.net.send(node, bytes.clone());
        }
    }

    /// Others told where members can be dialled. What a member said of itself in its hello counts more.
    async fn note_addrs(&mut self) {
        for (node, addrs) in std::mem::take(&mut self.state.addrs_told) {
            let known = self.peers.known().contains_key(&node);
            if node == self.shared.me || known || self.removed.contains(&node) {
                continue;
            }
            self.peers.met(node, &addrs);
            let addrs = addrs.iter().filter_map(|addr| addr.parse().ok()).collect();
            let _ = self.shared.net.learn_addrs(node, addrs).await;
        }
    }

    /// Where members say that they can be dialled: a node need not have met each by itself.
    async fn learn_addrs(&mut self) {
        let news: Vec<(NodeId, Vec<String>)> = self
            .core
            .view()
            .nodes
            .iter()
            .filter(|&(&node, seen)| node != self.shared.me && !seen.connected)
            .filter_map(|(&node, seen)| Some((node, seen.advert.as_ref()?.addrs.clone())))
            .collect();
        for (node, addrs) in news {
            let addrs = addrs.iter().filter_map(|addr| addr.parse().ok()).collect();
            let _ = self.shared.net.learn_addrs(node, addrs).await;
        }
    }
}

/// Messages that carry what of `ranges` is stored, up to a limit; the last says whether there is more.
fn entries_for(shared: &Shared, ranges: &[EntryRange]) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut left = ENTRIES_MAX_BYTES;
    let mut more = false;
    for range in ranges {
        let mut range = *range;
        while range.first <= range.last {
            if left == 0 {
                more = true;
                break;
            }
            let Ok(entries) = shared.store.read(range, MESSAGE_MAX / 2) else { break };
            let Some(last) = entries.last().cloned().and_then(|entry| entry.trust().ok()) else { break };
            let size: usize = entries.iter().map(|entry| entry.bytes.len() + 80).sum();
            left = left.saturating_sub(size);
            range.first = last.position().seq + 1;
            messages.push(Message::Entries { entries, more: false });
        }
    }
    if let Some(Message::Entries { more: last, .. }) = messages.last_mut() {
        *last = more;
    }
    messages
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
