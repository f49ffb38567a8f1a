//! The core and the log: entries that come in, batches that became durable, records that changed, events
//! that are to be written.

use std::collections::{BTreeMap, VecDeque};

use super::{Core, Storing, Waiting, take_over_orphan};
use crate::core_io::{Answer, Effect, News, Now, RequestId, StoreTicket};
use crate::entry::{SignedEntry, VerifiedEntry};
use crate::event::Event;
use crate::id::{GroupId, JobId, NodeId};
use crate::keeping::Left;
use crate::log::{EntryRange, Offered};
use crate::outbox::Out;
use crate::record::{JobRecord, Record, RecordKey};
use crate::snapshot::{Installed, SnapshotInput};

impl Core {
    pub(super) fn on_signed(
        &mut self,
        now: Now,
        from: NodeId,
        entries: Vec<SignedEntry>,
        fresh: bool,
        more: bool,
        out: &mut Out,
    ) {
        let mut verified = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry.verify() {
                Ok(entry) => verified.push(entry),
                Err(_) => out.effects.push(Effect::News(News::BadEntry(from))),
            }
        }
        self.on_entries(now, from, verified, fresh, more, out);
    }

    pub(super) fn on_entries(
        &mut self,
        now: Now,
        from: NodeId,
        entries: Vec<VerifiedEntry>,
        fresh: bool,
        more: bool,
        out: &mut Out,
    ) {
        let mut taken = Vec::new();
        let mut gaps = BTreeMap::new();
        for entry in entries {
            let log = entry.position().log;
            if fresh && self.view.removed.contains(&log.author) {
                continue;
            }
            match self.log.offer(&entry) {
                Offered::Taken => taken.push(entry),
                Offered::Known => {}
                Offered::Gap(range) => {
                    gaps.entry(log).or_insert(EntryRange { last: entry.position().seq, ..range });
                }
                Offered::Forked => out.effects.push(Effect::News(News::Quarantined(log.author))),
            }
        }
        if !taken.is_empty() {
            self.store(taken, fresh, Vec::new(), out);
        }
        if !gaps.is_empty() {
            self.replication.want(now, from, gaps.into_values().collect(), out);
        }
        if more {
            self.more_from = Some((from, StoreTicket(self.tickets)));
            self.ask_for_more(out);
        }
    }

    /// Asks again once what came is durable, else the same entries would be sent again.
    fn ask_for_more(&mut self, out: &mut Out) {
        let stored = |ticket| self.storing.front().is_none_or(|storing| storing.ticket > ticket);
        if let Some((from, _)) = self.more_from.take_if(|(_, ticket)| stored(*ticket)) {
            self.replication.on_more(from, out);
        }
    }

    fn store(&mut self, entries: Vec<VerifiedEntry>, forward: bool, writes: Vec<RequestId>, out: &mut Out) {
        self.tickets += 1;
        let ticket = StoreTicket(self.tickets);
        out.effects.push(Effect::Store { ticket, entries: entries.clone() });
        self.storing.push_back(Storing { ticket, entries, forward, writes });
    }

    pub(super) fn on_stored(
        &mut self,
        now: Now,
        ticket: StoreTicket,
        changed: Vec<(RecordKey, Record)>,
        out: &mut Out,
    ) {
        let mut reported = Vec::new();
        while self.storing.front().is_some_and(|storing| storing.ticket <= ticket) {
            let storing = self.storing.pop_front().expect("just seen");
            for entry in storing.entries.iter().filter(|entry| entry.position().log == self.log.own()) {
                self.own_in_flight = false;
                for event in entry.events() {
                    match event {
                        Event::AttemptFinished { finished, .. } => reported.push(finished.attempt),
                        Event::AttemptStarted { attempt, .. } => {
                            self.worker.on_announced(*attempt, entry.position().seq);
                        }
                        _ => {}
                    }
                }
            }
            for request in storing.writes {
                out.effects.push(Effect::Reply { request, answer: Answer::Written });
            }
            let Storing { entries, forward, .. } = storing;
            self.replication.on_stored(now, &entries, forward, &self.view, &mut self.rng, out);
        }
        self.on_changed(now, changed, out);
        self.worker.on_reported(&reported);
        self.checkpoints.forget(&reported);
        self.ask_for_more(out);
    }

    pub(super) fn on_snapshot(&mut self, now: Now, input: SnapshotInput, out: &mut Out) {
        match input {
            SnapshotInput::Made(made) => self.snapshotting.on_made(now, made, self.log.identity(), out),
            SnapshotInput::Installed(installed) => {
                let Installed { signed, logs, changed, floors } = *installed;
                for author in self.log.raise(&logs) {
                    out.effects.push(Effect::News(News::Quarantined(author)));
                }
                self.replication.on_installed(&logs, &self.view, out);
                self.on_changed(now, changed, out);
                if let Some(from) = self.snapshotting.on_installed(now, signed, floors, out) {
                    self.replication.on_more(from, out);
                }
            }
            SnapshotInput::Failed(id) => self.snapshotting.on_failed(now, id, out),
            SnapshotInput::Compacted(floors) => self.snapshotting.on_compacted(floors),
        }
    }

    /// Records changed: the view first, groups before their jobs; then everybody who cares.
    fn on_changed(&mut self, now: Now, changed: Vec<(RecordKey, Record)>, out: &mut Out) {
        let mut jobs = Vec::new();
        let mut groups = Vec::new();
        let mut finished = Vec::new();
        for (key, record) in changed {
            match (&key, &record) {
                (RecordKey::Job(job), _) => jobs.push((*job, record)),
                (RecordKey::Group(group), Record::Group(new)) => {
                    groups.push(*group);
                    // Its jobs must still find it; it leaves last.
                    if new.is_finished() { finished.push((key, record)) } else { self.view.on_record(&key, record) }
                }
                _ => {
                    // A member that was shut out may have coordinated, or run jobs.
                    self.alarmed |= matches!(&record, Record::Node(node) if node.removed);
                    self.view.on_record(&key, record);
                    if key == RecordKey::Node(self.view.me) {
                        self.worker.set_labels(self.view.own_labels());
                        self.coordinator.stir();
                    }
                }
            }
        }
        let mut ids = Vec::new();
        for (job, record) in jobs {
            if let Record::Job(record) = &record {
                self.worker.on_record(now, job, record, &self.view, out);
                self.note_left(now, job, record, out);
            }
            self.view.on_record(&RecordKey::Job(job), record);
            ids.push(job);
        }
        for job in ids {
            self.coordinator.on_job(now, job, &self.view, out);
        }
        for (key, record) in finished {
            self.view.on_record(&key, record);
        }
        for group in groups {
            self.on_group_changed(now, group, out);
        }
        if self.coordinator.has_dependents() {
            self.coordinator.stir();
        }
    }

    /// What a job left, and a checkpoint of one that runs, is kept by a second node. `record` is not in the view yet.
    fn note_left(&mut self, now: Now, job: JobId, record: &JobRecord, out: &mut Out) {
        if self.view.has_outcome(job) {
            return;
        }
        let known = self.view.groups.get(&job.group).and_then(|live| live.jobs.get(&job.member));
        let known = known.and_then(|known| Left::checkpoint_of(job, known));
        let checkpoint = || Left::checkpoint_of(job, record).filter(|left| Some(left) != known.as_ref());
        let left = Left::of(job, record).or_else(checkpoint);
        if let Some(left) = left {
            self.keeping.on_left(now, left, &self.view);
            self.keeping.begin(now, &self.view, out);
        }
    }

    fn on_group_changed(&mut self, now: Now, group: GroupId, out: &mut Out) {
        let own = self.log.own();
        if let Some(live) = self.view.groups.get(&group) {
            if let Some(claim) = live.record.claim {
                self.worker.on_claim_logged(group, claim, &self.view);
            }
            if live.record.stop.is_some() {
                self.worker.on_stop_wished(now, group, &self.view, out);
            }
            take_over_orphan(group, live, &self.view, &mut self.taking, out);
        }
        let live = self.view.groups.get(&group);
        let fresh = live.is_some_and(|live| {
            let here = live.record.submitted.as_ref().is_some_and(|submitted| submitted.position.log == own);
            here && live.record.claim.is_some_and(|claim| claim.epoch == 1)
        });
        self.coordinator.on_group(now, group, fresh, &self.view, out);
    }

    /// Appends what the rules want written: one entry while the last one is not durable yet.
    pub(super) fn write(&mut self, now: Now, out: &mut Out, effects: &mut Vec<Effect>) {
        for ((group, epoch), jobs) in std::mem::take(&mut out.outcomes) {
            effects.push(Effect::News(News::Decided(group, jobs.clone())));
            out.events.push(Event::Outcomes { group, epoch, jobs });
        }
        self.outbox.extend(out.events.drain(..).map(|event| (event, None)));
        self.patient_until = None;
        if self.own_in_flight || self.outbox.is_empty() || self.is_patient(now) {
            return;
        }
        self.own_in_flight = true;
        self.pace.on_written(now.at);
        let (mut events, waiting): (VecDeque<Event>, VecDeque<Option<Waiting>>) = self.outbox.drain(..).unzip();
        self.append(now, &mut events, waiting, out);
    }

    /// Whether what is to be written can wait for more; a user's request cannot.
    fn is_patient(&mut self, now: Now) -> bool {
        let is_asked = self.outbox.iter().any(|(_, waiting)| waiting.is_some());
        self.patient_until = self.pace.waits_until(now.at).filter(|_| !is_asked);
        self.patient_until.is_some()
    }

    fn append(
        &mut self,
        now: Now,
        events: &mut VecDeque<Event>,
        mut waiting: VecDeque<Option<Waiting>>,
        out: &mut Out,
    ) {
        let mut entries = Vec::new();
        let mut writes = Vec::new();
        while let Some(entry) = self.log.append(now.unix_ms, events) {
            for waits in waiting.drain(..entry.events().len()).flatten() {
                match waits {
                    Waiting::Submission { request, group, bundle } => {
                        self.replication.on_submitted(now, request, group, entry.position(), bundle);
                    }
                    Waiting::Write(request) => writes.push(request),
                }
            }
            entries.push(entry);
        }
        self.store(entries, false, writes, out);
    }
}
