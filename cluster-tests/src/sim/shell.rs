//! The simulated shells of one node: they run what its core orders, and feed back what came of it.

use proto::core_io::{Answer, Effect, Input, News, Run};
use proto::entry::{Position, SignedEntry, VerifiedEntry};
use proto::event::{AttemptFinished, Event};
use proto::job::{BundleRef, Ending, StartFailure, Usage};
use proto::message::Message;
use proto::record::{Record, RecordKey};
use proto::snapshot::SnapshotWord;
use proto::{AttemptId, ContentId, JobId, JobState, codec};
use rand::RngExt as _;

use super::host::Host;
use super::invariants::Violation;
use super::runner::Phase;
use super::workload::{Behaviour, ending, length_us};
use super::world::{Happening, Parcel, World};

/// Entries in one answer: small, so that answers are cut often.
const ENTRIES_MAX: usize = 24;
/// A process that runs longer has made a checkpoint by then, in microseconds.
const CHECKPOINT_US: u64 = 200_000;

impl World {
    pub(crate) fn run_effect(&mut self, host: usize, effect: Effect) -> Result<(), Violation> {
        let life = self.hosts[host].life;
        match effect {
            Effect::Send { to, message } => self.send(host, to, message),
            Effect::Store { ticket, entries } => {
                self.note_stored(host, &entries)?;
                if self.hosts[host].disk.write(ticket, entries) {
                    self.begin_sync(host);
                }
            }
            Effect::SendEntries { to, ranges } => {
                let (entries, more) = self.hosts[host].disk.read(&ranges, ENTRIES_MAX);
                let entries = entries.iter().map(|entry| entry.signed().clone()).collect();
                self.coverage.count(if more { "entries asked for in parts" } else { "entries asked for" });
                self.send(host, to, Message::Entries { entries, more });
            }
            Effect::Run(run) => self.start_process(host, *run)?,
            Effect::Halt(attempt) => self.halt(host, attempt),
            Effect::Fetch { position, bundle, from } => self.fetch(host, position, bundle, self.index[&from]),
            // Simulated jobs leave checkpoints and nothing else; who keeps what is proven beside the rule.
            Effect::Keep { left, unless_held, .. } => {
                self.coverage.count("second copy ordered");
                // The first try fails now and then, told by what is copied.
                let complete = left.outputs.is_none_or(|outputs| outputs.manifest.0[0] % 4 > 0) || !unless_held;
                let input = Box::new(Input::Kept { left, complete });
                self.after(1_000, Happening::Feed { host, life, input });
            }
            Effect::Review { .. } => {
                self.coverage.count("ended jobs reviewed");
                let input = Box::new(Input::Reviewed(Vec::new()));
                self.after(1_000, Happening::Feed { host, life, input });
            }
            Effect::Snapshot(order) => self.begin_snapshot_order(host, order),
            Effect::LookUp(job) => {
                let input = Box::new(look_up(&self.hosts[host], job));
                let after = self.rng.random_range(50..2_000);
                self.after(after, Happening::Feed { host, life, input });
            }
            Effect::Reply { request, answer } => self.on_reply(host, request, answer)?,
            Effect::WakeAt(at) => {
                let wake_us = self.hosts[host].clock.global_us(at).max(self.now_us + 1);
                self.hosts[host].daemon.as_mut().expect("it has just stepped").wake_us = wake_us;
                self.schedule(wake_us, Happening::Wake { host, life });
            }
            Effect::News(news) => self.on_news(host, news)?,
        }
        Ok(())
    }

    fn on_reply(&mut self, host: usize, request: proto::core_io::RequestId, answer: Answer) -> Result<(), Violation> {
        self.trace.mix(&[request.0]);
        let Answer::Accepted { held_by } = answer else { return Ok(()) };
        let group = self.requests[&request];
        let holders: Vec<usize> = held_by.iter().map(|node| self.index[node]).collect();
        self.tell(|| format!("{host} answers: {group} is held by {holders:?}"));
        self.coverage.count(if holders.len() > 1 { "accepted, held by two" } else { "accepted, held by one" });
        let submission = self.submissions.get_mut(&group).expect("only submissions are accepted");
        submission.held_by = Some(holders.clone());
        let manifest = submission.spec.bundle.map(|bundle| bundle.manifest);
        self.checks.accepted.on_accepted(group, holders, manifest, &self.hosts)
    }

    fn on_news(&mut self, host: usize, news: News) -> Result<(), Violation> {
        if self.trace.is_told() && !matches!(news, News::Decided(..)) {
            self.tell(|| format!("{host} -> {news:?}"));
        }
        match news {
            News::NodeUp(_) => {}
            News::NodeDown(_) => self.coverage.count("node down"),
            News::TookOver(_) => self.coverage.count("take-over"),
            News::Quarantined(node) => {
                self.coverage.count("fork quarantined");
                if self.index.contains_key(&node) {
                    return Err(Violation::new("I7", format!("host {host} quarantined an honest member")));
                }
            }
            News::Snapshot { signers, .. } => {
                self.coverage.count(if signers > 1 { "snapshot made by two" } else { "snapshot made alone" });
            }
            News::Diverged(node) => {
                return Err(Violation::new("I4", format!("host {host} and {} made other snapshots", node.short())));
            }
            News::Decided(group, jobs) => {
                self.tell(|| format!("{host} -> decides {group} {jobs:?}"));
                let calm_for_us = self.now_us - self.trouble_us;
                return self.checks.outcome.on_decided(host, &self.hosts, group, &jobs, self.now_us, calm_for_us);
            }
            News::BadEntry(_) => self.coverage.count("bad entry refused"),
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, from: usize, to: proto::NodeId, message: Message) {
        // A member that was forged into the roster has no machine.
        let Some(&to) = self.index.get(&to) else { return };
        self.note_sent(from, to, &message);
        if !self.network.is_open(from, to) {
            return;
        }
        if self.plan.loss_permille > 0 && !self.faults_over && self.rng.random_range(0..1_000) < self.plan.loss_permille
        {
            return;
        }
        let latency_us = self.rng.random_range(self.plan.latency_us.clone());
        let (at, epoch) = self.network.schedule(from, to, self.now_us, latency_us);
        let parcel = if self.plan.encode {
            let bytes = codec::encode(&message);
            self.trace.mix_bytes(&bytes);
            Parcel::Bytes(bytes)
        } else {
            Parcel::Message(Box::new(message))
        };
        self.schedule(at, Happening::Deliver { from, to, epoch, parcel });
    }

    pub(crate) fn on_deliver(&mut self, from: usize, to: usize, epoch: u64, parcel: Parcel) -> Result<(), Violation> {
        if !self.network.is_open(from, to) || self.network.epoch(from, to) != epoch {
            return Ok(());
        }
        let message = match parcel {
            Parcel::Message(message) => *message,
            Parcel::Bytes(bytes) => codec::decode(&bytes).expect("what was encoded decodes"),
        };
        let from = self.hosts[from].id;
        let input = match message {
            Message::Fresh(entries) if !self.plan.raw => match self.verify(&entries) {
                Some(entries) => Input::Entries { from, entries, fresh: true, more: false },
                None => Input::Received { from, message: Message::Fresh(entries) },
            },
            Message::Entries { entries, more } if !self.plan.raw => match self.verify(&entries) {
                Some(entries) => Input::Entries { from, entries, fresh: false, more },
                None => Input::Received { from, message: Message::Entries { entries, more } },
            },
            message => Input::Received { from, message },
        };
        self.step(to, input)
    }

    /// All of `signed` verified, each once per run; `None` when one is bad.
    fn verify(&mut self, signed: &[SignedEntry]) -> Option<Vec<VerifiedEntry>> {
        let mut verified = Vec::with_capacity(signed.len());
        for entry in signed {
            let hash = ContentId::of(&entry.bytes);
            let known = self.verified.get(&hash).filter(|known| known.signed().signature == entry.signature);
            let entry = match known {
                Some(known) => known.clone(),
                None => entry.clone().verify().ok()?,
            };
            self.verified.entry(hash).or_insert_with(|| entry.clone());
            verified.push(entry);
        }
        Some(verified)
    }

    fn begin_sync(&mut self, host: usize) {
        let slow = !self.faults_over && self.plan.slow_disk == Some(host);
        let length_us = self.rng.random_range(self.plan.sync_us.clone()) * if slow { 50 } else { 1 };
        let life = self.hosts[host].life;
        self.after(length_us, Happening::Synced { host, life });
    }

    pub(crate) fn on_synced(&mut self, host: usize, life: u64) -> Result<(), Violation> {
        if self.hosts[host].life != life || self.hosts[host].daemon.is_none() {
            return Ok(());
        }
        let (synced, again) = self.hosts[host].disk.end_sync();
        if again {
            self.begin_sync(host);
        }
        if synced.overruled {
            self.coverage.count("outcome overruled");
        }
        self.on_durable(host, &synced.entries)?;
        self.step(host, Input::Stored { ticket: synced.ticket, changed: synced.changed })
    }

    /// Entries reached a platter, perhaps in the moment of a crash.
    pub(crate) fn on_durable(&mut self, host: usize, entries: &[VerifiedEntry]) -> Result<(), Violation> {
        let own = self.hosts[host].id;
        for entry in entries {
            self.checks.log.on_durable(host, entry, &self.hosts[host].disk)?;
            for event in entry.events() {
                if let Event::AttemptFinished { finished, .. } = event
                    && entry.position().log.author == own
                    && let Some(process) = self.hosts[host].runner.processes.get(&finished.attempt)
                    && matches!(process.phase, Phase::Ended { .. })
                {
                    self.hosts[host].runner.processes.remove(&finished.attempt);
                }
            }
        }
        self.checks.merge.on_durable(host, &self.hosts[host].disk)
    }

    fn fetch(&mut self, host: usize, position: Position, bundle: BundleRef, from: usize) {
        let length_us = self.rng.random_range(1_000..20_000) + bundle.total_bytes / 100;
        let life = self.hosts[host].life;
        self.after(length_us, Happening::Fetched { host, life, position, bundle, from });
    }

    pub(crate) fn on_fetched(
        &mut self,
        host: usize,
        life: u64,
        position: Position,
        bundle: BundleRef,
        from: usize,
    ) -> Result<(), Violation> {
        if self.hosts[host].life != life || self.hosts[host].daemon.is_none() {
            return Ok(());
        }
        let complete = self.get_bundle(host, bundle.manifest, &[from]);
        self.step(host, Input::Fetched { position, bundle, complete })
    }

    /// Copies a bundle from a machine that has it and can be reached.
    fn get_bundle(&mut self, host: usize, manifest: ContentId, providers: &[usize]) -> bool {
        let has = |at: usize| self.hosts[at].disk.bundles.contains(&manifest);
        let reach = |at: usize| at == host || (self.network.is_open(host, at) && self.hosts[at].daemon.is_some());
        let found = has(host) || providers.iter().any(|&at| has(at) && reach(at));
        if found {
            self.hosts[host].disk.bundles.insert(manifest);
        }
        found
    }

    fn start_process(&mut self, host: usize, run: Run) -> Result<(), Violation> {
        self.tell(|| format!("{host} -> runs {}", run.attempt));
        self.checks.once.on_run(host, &self.hosts, run.attempt)?;
        if !run.spec.after.is_empty() {
            self.coverage.count("dependency opened");
        }
        if run.checkpoint.is_some() {
            self.coverage.count("attempt from a checkpoint");
        }
        let attempt = run.attempt;
        let Some(serial) = self.hosts[host].runner.take(run) else {
            return Err(Violation::new("core", format!("host {host} was told to run {attempt}, which it runs")));
        };
        self.checks.capacity.on_run(host, &self.hosts[host])?;
        let prepare_us = if self.rng.random_range(0..20) == 0 { 3_000_000 } else { 20_000 };
        let after = self.rng.random_range(200..prepare_us);
        self.after(after, Happening::Starts { host, attempt, serial });
        Ok(())
    }

    pub(crate) fn on_starts(&mut self, host: usize, attempt: AttemptId, serial: u64) -> Result<(), Violation> {
        let started_unix_ms = self.hosts[host].now(self.now_us).unix_ms;
        let Some(process) = self.hosts[host].runner.get_mut(attempt, serial) else { return Ok(()) };
        if !matches!(process.phase, Phase::Preparing) || process.halted {
            return Ok(());
        }
        let spec = process.run.spec.clone();
        let providers = process.run.providers.clone();
        if let Some(bundle) = spec.bundle {
            let providers: Vec<usize> = providers.iter().map(|node| self.index[node]).collect();
            if !self.get_bundle(host, bundle.manifest, &providers) {
                let ending = Ending::NotStarted(StartFailure::BundleMissing(bundle.manifest));
                return self.on_ends(host, attempt, serial, ending);
            }
        }
        let process = self.hosts[host].runner.get_mut(attempt, serial).expect("it has just been there");
        process.phase = Phase::Running { started_unix_ms };
        let length_us = length_us(&spec, &mut self.rng);
        let ending = ending(&spec, &mut self.rng);
        self.after(length_us, Happening::Ends { host, attempt, serial, ending });
        if length_us > CHECKPOINT_US {
            let manifest = ContentId::of(attempt.file_name().as_bytes());
            let bundle = BundleRef { manifest, total_bytes: 1, files: 1 };
            let input = Box::new(Input::Checkpoint { attempt, bundle, saved_unix_ms: started_unix_ms });
            let life = self.hosts[host].life;
            self.after(CHECKPOINT_US, Happening::Feed { host, life, input });
        }
        self.step(host, Input::Started { attempt, started_unix_ms })
    }

    fn halt(&mut self, host: usize, attempt: AttemptId) {
        self.tell(|| format!("{host} -> halts {attempt}"));
        self.coverage.count("halt");
        let after = self.rng.random_range(100..400_000);
        if let Some(process) = self.hosts[host].runner.processes.get_mut(&attempt) {
            if matches!(process.phase, Phase::Running { .. }) {
                self.coverage.count("stop of a running attempt");
            }
            process.halted = true;
            let serial = process.serial;
            self.after(after, Happening::Ends { host, attempt, serial, ending: Ending::Stopped });
        }
    }

    pub(crate) fn on_ends(
        &mut self,
        host: usize,
        attempt: AttemptId,
        serial: u64,
        ending: Ending,
    ) -> Result<(), Violation> {
        let ended_unix_ms = self.hosts[host].now(self.now_us).unix_ms;
        let Some(process) = self.hosts[host].runner.get_mut(attempt, serial) else { return Ok(()) };
        let started_unix_ms = match &process.phase {
            Phase::Preparing => 0,
            Phase::Running { started_unix_ms } => *started_unix_ms,
            Phase::Ended { .. } => return Ok(()),
        };
        if Behaviour::of(&process.run.spec).is_poison() && ending != Ending::Stopped {
            return self.kill(host, true);
        }
        let finished = Box::new(AttemptFinished {
            attempt,
            ending,
            usage: Usage::default(),
            started_unix_ms,
            ended_unix_ms,
            outputs: None,
            log: None,
            ran_with: None,
        });
        process.phase = Phase::Ended { finished: finished.clone() };
        self.tell(|| format!("{host}: {attempt} ends: {:?}", finished.ending));
        self.checks.outcome.on_process_ended(host, &finished);
        self.checks.once.on_ended(&finished);
        if self.hosts[host].daemon.as_ref().is_some_and(|daemon| daemon.adopted) {
            return self.step(host, Input::Ended { finished, inline: Vec::new() });
        }
        Ok(())
    }

    /// The runner answers a new daemon.
    pub(crate) fn on_adopt(&mut self, host: usize, life: u64) -> Result<(), Violation> {
        if self.hosts[host].life != life || self.hosts[host].daemon.is_none() {
            return Ok(());
        }
        let (attempts, ended) = self.hosts[host].runner.adopted();
        self.tell(|| format!("{host}: its runner holds {} attempts, {} of them ended", attempts.len(), ended.len()));
        if !ended.is_empty() {
            self.coverage.count("adoption of an ended attempt");
        }
        if attempts.len() > ended.len() {
            self.coverage.count("adoption of a running attempt");
        }
        self.hosts[host].daemon.as_mut().expect("just seen").adopted = true;
        self.step(host, Input::Adopted { attempts })?;
        ended
            .into_iter()
            .try_for_each(|finished| self.step(host, Input::Ended { finished: Box::new(finished), inline: Vec::new() }))
    }

    /// Entries that a core orders to be stored; its own are news.
    fn note_stored(&mut self, host: usize, entries: &[VerifiedEntry]) -> Result<(), Violation> {
        let own = self.hosts[host].daemon.as_ref().expect("it has just stepped").core.own_log();
        for entry in entries.iter().filter(|entry| entry.position().log == own) {
            self.trace.mix_bytes(&entry.hash().0);
            self.checks.log.on_written(entry);
            self.verified.insert(entry.hash(), entry.clone());
            for event in entry.events() {
                if self.trace.is_told() && !matches!(event, Event::Outcomes { .. } | Event::GroupSubmitted { .. }) {
                    self.tell(|| format!("{host} -> writes {event:?}"));
                }
                self.count_event(event);
            }
        }
        Ok(())
    }

    fn count_event(&mut self, event: &Event) {
        let path = match event {
            Event::AttemptLost { reason: proto::job::LostReason::NodeDown, .. } => "attempt lost: node down",
            Event::AttemptLost { .. } => "attempt lost: not found",
            Event::AttemptFinished { finished, .. } if matches!(finished.ending, Ending::Lost(_)) => {
                "attempt lost: not found"
            }
            Event::AttemptFinished { finished, .. } if finished.attempt.number > 1 => "attempt after the first",
            Event::Outcomes { jobs, .. } => {
                for job in jobs {
                    self.coverage.count(match (&job.ending, job.ending.state()) {
                        (Ending::Lost(proto::job::LostReason::CrashLimit), _) => "attempt lost: crash limit",
                        (Ending::NotStarted(StartFailure::Dependency(_)), _) => "dependency never",
                        (_, JobState::Completed) => "job completed",
                        (_, JobState::Stopped) => "job stopped",
                        _ => "job failed",
                    });
                }
                return;
            }
            _ => return,
        };
        self.coverage.count(path);
    }

    fn note_sent(&mut self, from: usize, to: usize, message: &Message) {
        if self.trace.is_told() && !matches!(message, Message::Membership(_) | Message::Advert(_) | Message::Digest(_))
        {
            self.tell(|| format!("{from} -> {to}: {}", brief_message(message)));
        }
        let path = match message {
            Message::Offer(offer) => return self.checks.once.on_offer(from, to, offer, &mut self.coverage),
            Message::OfferReply(reply) if !reply.refused.is_empty() => "offer refused",
            Message::Claim { .. } => "claim",
            Message::Cancel(_) => "cancel",
            Message::TakeOverReply { holding, .. } if !holding.is_empty() => "take-over answered with attempts",
            Message::Want(_) => "entries wanted",
            Message::Snapshot(SnapshotWord::Signed(_)) => "snapshot instead of entries",
            _ => return,
        };
        self.coverage.count(path);
    }
}

fn look_up(host: &Host, job: JobId) -> Input {
    let group = match host.disk.records.get(&RecordKey::Group(job.group)) {
        Some(Record::Group(record)) => Some(Box::new(record.clone())),
        _ => None,
    };
    let record = match host.disk.records.get(&RecordKey::Job(job)) {
        Some(Record::Job(record)) => Some(Box::new(record.clone())),
        _ => None,
    };
    Input::LookedUp { job, group, record }
}

/// One line about an input.
pub(crate) fn brief(input: &Input) -> String {
    match input {
        Input::Received { message, from } => format!("{}: {}", from.short(), brief_message(message)),
        Input::Entries { from, entries, .. } => format!("{}: {} entries", from.short(), entries.len()),
        Input::Stored { ticket, changed } => format!("stored {ticket:?}, {} records changed", changed.len()),
        Input::Submit { group, .. } => format!("submit {group}"),
        Input::LookedUp { job, group, .. } => format!("looked up {job}: {}", group.is_some()),
        Input::Adopted { attempts } => {
            format!("adopted {:?}", attempts.iter().map(|adopted| adopted.attempt).collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    }
}

fn brief_message(message: &Message) -> String {
    match message {
        Message::Membership(packet) => format!("membership, {} bytes", packet.len()),
        Message::Fresh(entries) => format!("{} fresh entries", entries.len()),
        Message::Entries { entries, more } => format!("{} entries, more: {more}", entries.len()),
        Message::Vector(vector) => format!("vector of {} logs", vector.0.len()),
        Message::Offer(offer) => format!("offer {}@{} {:?}", offer.group, offer.epoch, offer.members),
        Message::Advert(advert) => format!("advert {:?} {:?}", advert.version, advert.accepting),
        Message::Demands(demands) => {
            format!("demands {:?}", demands.iter().map(|demand| (demand.group, demand.waiting)).collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    }
}
