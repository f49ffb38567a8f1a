//! The one thread that writes: journal, then index, then answer.
//!
//! Inputs: commits and wishes on a bounded channel. Outputs: one answer per commit, in order. It takes
//! everything that came while the last sync ran as one batch (group commit), and ends when every handle is
//! gone or one asked to close. It never decides what an entry means.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use proto::entry::VerifiedEntry;
use proto::record::{Record, RecordKey};
use proto::snapshot::SnapshotName;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::cell::{self, Standing};
use super::error::{StoreError, TableError};
use super::fold::Fold;
use super::home::Home;
use super::inline;
use super::journal::{End, Journal, Location, frame};
use super::ledger::{Admitted, Ledger};
use super::places::Places;
use super::recover::{Sound, io_error, recover};
use super::table::{Batch, TableSource};
use super::{Committed, Shared, keys};

#[path = "tasks.rs"]
mod tasks;

pub(crate) use tasks::{Answer, Task};

/// One batch takes no more requests past this size: it bounds the memory of a batch and how long the
/// first of it waits.
const BATCH_BYTES: usize = 4 << 20;
/// Room that is kept on the disk: the index writes several times what the journal does, and fails for
/// good where the journal only refuses.
pub(crate) const RESERVE_BYTES: u64 = 16 << 20;
/// The index is flushed after so much journal, which bounds what a start after a power cut replays.
const FLUSH_BYTES: u64 = 4 << 20;

/// Receives the result of a commit, on the writer's thread: it must not wait.
pub(crate) type Done = Box<dyn FnOnce(Result<Committed, StoreError>) + Send>;

/// Entries that are committed together, all or none.
pub(crate) struct Request {
    pub(crate) entries: Vec<VerifiedEntry>,
    pub(crate) done: Done,
}

/// What the writer is asked.
pub(crate) enum Command {
    /// Store entries.
    Commit(Request),
    /// Work on snapshots and old segments, between two commits.
    Task(Task),
    /// A reader met a failure of the index.
    Mend,
    /// Flush, let go of the directory, answer, end.
    Close(oneshot::Sender<()>),
}

/// Everything the thread owns.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    source: Box<dyn TableSource>,
    journal: Journal,
    ledger: Ledger,
    standing: Standing,
    flusher: SyncSender<()>,
    unflushed: u64,
    /// The snapshot in the draft.
    draft: Option<SnapshotName>,
    /// What segments hold that get no more entries: read once each.
    extents: BTreeMap<u64, tasks::Extent>,
    /// Kept until the thread ends; `None` in memory.
    home: Option<Arc<Home>>,
}

/// A batch of requests on its way.
struct Plan {
    records: Vec<u8>,
    /// Per request: its new entries with their places, or why it is refused.
    parts: Vec<Result<Vec<Placed>, StoreError>>,
}

struct Placed {
    request: usize,
    entry: usize,
    number: u32,
    /// From the start of the batch.
    offset: u64,
    len: u32,
}

type Outcome = Result<Committed, StoreError>;

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        source: Box<dyn TableSource>,
        (journal, ledger, standing): (Journal, Ledger, Standing),
        home: Option<Arc<Home>>,
    ) -> std::io::Result<Self> {
        let (flusher, wishes) = sync_channel(1);
        let of_flusher = shared.clone();
        std::thread::Builder::new().name("store-flush".to_owned()).spawn(move || flush(&of_flusher, &wishes))?;
        Ok(Self {
            shared,
            source,
            journal,
            ledger,
            standing,
            flusher,
            unflushed: 0,
            draft: None,
            extents: BTreeMap::new(),
            home,
        })
    }

    /// Serves until the end.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut closing = None;
        while let Some(command) = commands.blocking_recv() {
            let mut next = Some(command);
            let mut task = None;
            let mut batch = Vec::new();
            let mut bytes = 0;
            while let Some(command) = next {
                match command {
                    Command::Commit(request) => {
                        bytes += request.entries.iter().map(|entry| entry.signed().bytes.len()).sum::<usize>();
                        batch.push(request);
                    }
                    // The reader noted what is wrong; this only wakes.
                    Command::Mend => {}
                    Command::Task(wanted) => task = Some(wanted),
                    Command::Close(done) => closing = Some(done),
                }
                let more = closing.is_none() && task.is_none() && bytes < BATCH_BYTES;
                next = if more { commands.try_recv().ok() } else { None };
            }
            self.serve(batch);
            if let Some(task) = task {
                self.run_task(task);
            }
            if closing.is_some() {
                break;
            }
        }
        self.close();
        if let Some(done) = closing {
            // Nobody may wait for it any more.
            let _ = done.send(());
        }
    }

    fn close(self) {
        let Self { shared, mut source, home, .. } = self;
        let table = shared.table_mut().take();
        // The journal is durable; what the index loses here it gets from there.
        if table.is_some_and(|table| table.flush().is_ok()) && !shared.failed.load(Ordering::Acquire) {
            source.closed();
        }
        drop(home);
    }

    fn serve(&mut self, batch: Vec<Request>) {
        let mut result = self.try_serve(&batch);
        if let Err(StoreError::Index(_)) = &result {
            // Once more on a mended index: the journal was put back to where the batch began.
            result = self.try_serve(&batch);
        }
        match result {
            Ok(answers) => batch.into_iter().zip(answers).for_each(|(request, answer)| (request.done)(answer)),
            Err(error) => batch.into_iter().for_each(|request| (request.done)(Err(error.clone()))),
        }
    }

    fn try_serve(&mut self, batch: &[Request]) -> Result<Vec<Outcome>, StoreError> {
        let result = self.mended().and_then(|()| self.commit(batch));
        if let Err(StoreError::Index(error)) = &result {
            self.shared.fail(error);
        }
        result
    }

    /// Opens the index again after a failure, or makes it again.
    fn mended(&mut self) -> Result<(), StoreError> {
        if !self.shared.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        // The old one must be gone first: sled locks its directory. Readers fail meanwhile, they do not wait.
        *self.shared.table_mut() = None;
        if self.shared.corrupt.load(Ordering::Acquire) {
            self.source.suspect();
        }
        let sound = recover(&self.shared.medium, self.source.as_mut())?;
        let Sound { table, journal, ledger, standing, bases, notices, .. } = sound;
        for notice in notices {
            tracing::warn!(target: "store", "{notice}");
        }
        (self.journal, self.ledger, self.standing) = (journal, ledger, standing);
        *self.shared.table_mut() = Some(table);
        self.shared.set_bases(bases);
        self.shared.corrupt.store(false, Ordering::Release);
        self.shared.failed.store(false, Ordering::Release);
        Ok(())
    }

    /// Stores the batch whole and answers each request, or nothing of it.
    fn commit(&mut self, batch: &[Request]) -> Result<Vec<Outcome>, StoreError> {
        let plan = self.plan(batch);
        if plan.records.is_empty() {
            self.ledger.forget();
            return Ok(plan.parts.into_iter().map(|part| part.map(|_| Committed::default())).collect());
        }
        let before = self.journal.end();
        let result = self.write(&plan.records).and_then(|start| self.index(batch, &plan, start));
        match result {
            Ok(answers) => {
                self.ledger.settle();
                self.note_unflushed(plan.records.len() as u64);
                Ok(answers)
            }
            Err(error) => {
                self.ledger.forget();
                self.take_back(before);
                Err(error)
            }
        }
    }

    /// Frames the entries that are new, in order.
    fn plan(&mut self, batch: &[Request]) -> Plan {
        let mut plan = Plan { records: Vec::new(), parts: Vec::with_capacity(batch.len()) };
        for (request, Request { entries, .. }) in batch.iter().enumerate() {
            let mark = self.ledger.mark();
            let start = plan.records.len();
            let mut part = Ok(Vec::new());
            for (at, entry) in entries.iter().enumerate() {
                match (self.ledger.admit(entry), &mut part) {
                    (Admitted::Next(number), Ok(placed)) => {
                        let offset = plan.records.len() as u64;
                        let len = frame(entry.signed(), &mut plan.records);
                        placed.push(Placed { request, entry: at, number, offset, len });
                    }
                    (Admitted::Apart(head), _) => {
                        part = Err(StoreError::NotNext { position: entry.position(), head });
                        break;
                    }
                    _ => {}
                }
            }
            if part.is_err() {
                self.ledger.restore(mark);
                plan.records.truncate(start);
            }
            plan.parts.push(part);
        }
        plan
    }

    /// Returns where the batch starts, once it is durable.
    fn write(&mut self, records: &[u8]) -> Result<End, StoreError> {
        let medium = self.shared.medium.as_ref();
        let segment = self.journal.end().segment.max(1);
        let full = |free_bytes| StoreError::DiskFull { dir: self.shared.dir.clone(), free_bytes };
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => full(0),
            _ => io_error("write", medium, segment, error),
        };
        let free_bytes = medium.free_bytes().map_err(failed)?;
        if free_bytes < RESERVE_BYTES.saturating_add(records.len() as u64) {
            return Err(full(free_bytes));
        }
        self.journal.append(records).map_err(failed)
    }

    /// Folds the durable batch and applies it together with the position.
    fn index(&mut self, batch: &[Request], plan: &Plan, start: End) -> Result<Vec<Outcome>, StoreError> {
        let slot = self.shared.table();
        let table = slot.as_deref().ok_or(TableError::Down)?;
        let mut fold = Fold::new(table);
        let mut places = Places::new(table);
        let mut changes = Batch::new();
        let mut answers: Vec<Outcome> = Vec::with_capacity(batch.len());
        let mut standing = self.standing;
        for part in &plan.parts {
            let placed = match part {
                Ok(placed) => placed,
                Err(error) => {
                    answers.push(Err(error.clone()));
                    continue;
                }
            };
            for place in placed {
                let entry = &batch[place.request].entries[place.entry];
                fold.apply(entry)?;
                let location = Location { segment: start.segment, offset: start.offset + place.offset, len: place.len };
                places.push(place.number, entry.position().seq, location)?;
                inline::note(&mut changes, place.number, entry);
                standing.last = Some((location, plan.checksum(place)));
            }
            answers.push(Ok(Committed { changed: fold.take_changed() }));
        }
        fold.finish(&mut changes)?;
        places.finish(&mut changes);
        self.ledger.write(&mut changes);
        standing.applied = self.journal.end();
        standing.digest = standing.digest.after(table, &changes)?;
        changes.insert(keys::STANDING.to_vec(), Some(cell::encode(&standing)));
        table.apply(changes)?;
        self.standing = standing;
        Ok(answers)
    }

    /// After a failure: the journal is as it was before the batch.
    fn take_back(&mut self, before: End) {
        let now = self.journal.end();
        if now.segment == before.segment && now != before {
            self.journal.retract(before);
        } else if now.segment > before.segment {
            self.journal.retract(End { segment: now.segment, offset: 0 });
        }
    }

    fn note_unflushed(&mut self, bytes: u64) {
        self.unflushed += bytes;
        if self.unflushed >= FLUSH_BYTES {
            self.unflushed = 0;
            // A flush that still runs covers this one, too, or the next does.
            let _ = self.flusher.try_send(());
        }
    }
}

impl Plan {
    fn checksum(&self, place: &Placed) -> [u8; 8] {
        let from = usize::try_from(place.offset).expect("a batch fits in memory") + 4;
        *self.records[from..].first_chunk().expect("a record has a header")
    }
}

/// Flushes the index whenever asked, beside the writer: a sync of it must not delay a commit.
fn flush(shared: &Shared, wishes: &Receiver<()>) {
    while wishes.recv().is_ok() {
        let result = shared.table().as_deref().map_or(Ok(()), super::table::Table::flush);
        if let Err(error) = result {
            shared.fail(&error);
        }
    }
}

/// Of the records that a commit changed, as they are after it.
pub(crate) type Changed = Vec<(RecordKey, Record)>;
