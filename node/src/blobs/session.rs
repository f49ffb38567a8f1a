//! One fetch under way: a worker per provider, each with one stream, all in one task. `fetch.rs` starts it
//! with a plan and what this fetch alone may bring; hashing and writing happen on blocking threads.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::{ContentId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::error::BlobError;
use super::fetch::{
    FetchError, FetchProgress, OpenStream, PROVIDERS_MAX, Patience, ProviderFailure, Tally, Wanted, joined, lock,
};
use super::partial::{Partial, Stopped};
use super::pipe::{inbound, pour_in};
use super::plan::{Next, Plan, Work};
use super::space::Reservation;
use super::store::BlobStore;
use super::tree;
use super::wire::{ANSWER_MAX, Answer, Request, UNSIZED_MAX, frame, read_frame};

/// A stream that breaks is opened anew so often before its provider is given up.
const REOPEN_MAX: u32 = 3;
/// `Busy` answers in a row before a provider is given up.
const BUSY_MAX: u32 = 20;
/// Small blobs received but not yet on the disk, per provider: at most 16 MiB.
const SMALL_MAX: usize = 16;
/// Bytes asked for at a time while a small blob arrives, so that a false length costs no memory.
const STEP: u64 = 256 << 10;
/// Read buffer of a stream: many small blobs per system call.
const BUFFER: usize = 64 << 10;

/// A large blob under way.
struct Large {
    partial: Partial,
    left: AtomicU64,
}

/// Why a worker ended before the work did.
enum Ended {
    Provider(ProviderFailure),
    Here(BlobError),
}

/// What came of one request.
enum Outcome {
    Served,
    Busy,
}

/// The stream to one provider.
type Stream<O> = BufReader<<O as OpenStream>::Stream>;

/// One fetch under way.
pub(super) struct Session<'a, O, P> {
    store: &'a BlobStore,
    opener: &'a O,
    patience: Patience,
    plan: Mutex<Plan>,
    /// Work came back, or the last of it is done.
    changed: Notify,
    large: Mutex<BTreeMap<ContentId, Arc<Large>>>,
    reserved: Reservation<'a>,
    tally: &'a Tally,
    progress: &'a P,
}

impl<'a, O: OpenStream, P: Fn(FetchProgress) + Send + Sync> Session<'a, O, P> {
    pub(super) fn new(
        store: &'a BlobStore,
        opener: &'a O,
        patience: Patience,
        plan: Plan,
        reserved: Reservation<'a>,
        tally: &'a Tally,
        progress: &'a P,
    ) -> Self {
        let (plan, large) = (Mutex::new(plan), Mutex::default());
        Self { store, opener, patience, plan, changed: Notify::new(), large, reserved, tally, progress }
    }

    /// Asks `providers` until everything planned is here or nobody is left to ask.
    pub(super) async fn run(&self, providers: &[NodeId]) -> Result<(), FetchError> {
        let mut standby = providers.iter().copied();
        let mut failures = Vec::new();
        let mut workers = FuturesUnordered::new();
        let start = |node| async move { (node, self.work(node).await) };
        workers.extend(standby.by_ref().take(PROVIDERS_MAX).map(start));
        while let Some((node, end)) = workers.next().await {
            match end {
                Ok(()) => {}
                Err(Ended::Provider(failure)) => {
                    tracing::debug!(%node, %failure, "provider given up");
                    failures.push((node, failure));
                }
                Err(Ended::Here(error)) => return Err(self.give_up(error)),
            }
            if !lock(&self.plan).is_finished() {
                workers.extend(standby.next().map(start));
            }
        }
        let missing = lock(&self.plan).missing();
        if missing.is_empty() {
            return Ok(());
        }
        Err(FetchError::Unavailable { missing: missing.into_iter().collect(), failures })
    }

    /// On a full disk what is half here goes; otherwise it stays for the next try.
    fn give_up(&self, error: BlobError) -> FetchError {
        if error.is_disk_full() {
            lock(&self.large).values().for_each(|large| large.partial.discard());
        }
        FetchError::Store(error)
    }

    /// Works for one provider until nothing is left for it.
    async fn work(&self, node: NodeId) -> Result<(), Ended> {
        let (mut stream, mut opened, mut busy) = (None, 0, 0);
        while let Some(work) = self.next(node).await {
            let (left, outcome) = self.perform(node, &mut stream, &mut opened, work).await;
            lock(&self.plan).settle(left);
            self.changed.notify_waiters();
            (self.progress)(self.tally.progress());
            match outcome {
                Ok(Outcome::Served) => busy = 0,
                Ok(Outcome::Busy) if busy < BUSY_MAX => {
                    busy += 1;
                    sleep(self.patience.busy).await;
                }
                Ok(Outcome::Busy) => return Err(Ended::Provider(ProviderFailure::Busy)),
                Err(Ended::Provider(ProviderFailure::Stream(_))) if opened <= REOPEN_MAX => stream = None,
                Err(ended) => return Err(ended),
            }
        }
        Ok(())
    }

    async fn next(&self, node: NodeId) -> Option<Work> {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registered before the look, so that what changes in between is not missed.
            changed.as_mut().enable();
            match lock(&self.plan).take(node) {
                Next::Work(work) => return Some(work),
                Next::Nothing => return None,
                Next::Wait => {}
            }
            changed.await;
        }
    }

    /// Does one piece of work. Returns what is left of it, whatever happened.
    async fn perform(
        &self,
        node: NodeId,
        stream: &mut Option<Stream<O>>,
        opened: &mut u32,
        work: Work,
    ) -> (Vec<Work>, Result<Outcome, Ended>) {
        if let Work::Blob { id, size } = work {
            return match self.begin_large(id, size).await {
                Ok(pieces) => (pieces, Ok(Outcome::Served)),
                Err(error) => (vec![work], Err(Ended::Here(error))),
            };
        }
        let stream = match stream {
            Some(stream) => stream,
            None => match self.open(node, opened).await {
                Ok(fresh) => stream.insert(fresh),
                Err(failure) => return (vec![work], Err(Ended::Provider(failure))),
            },
        };
        match work {
            Work::Batch(batch) => self.fetch_batch(node, stream, batch).await,
            Work::Piece { id, size, range } => self.fetch_piece(node, stream, id, size, range).await,
            Work::Blob { .. } => (Vec::new(), Ok(Outcome::Served)),
        }
    }

    async fn open(&self, node: NodeId, opened: &mut u32) -> Result<Stream<O>, ProviderFailure> {
        *opened += 1;
        match timeout(self.patience.open, self.opener.open(node)).await {
            Ok(Ok(stream)) => Ok(BufReader::with_capacity(BUFFER, stream)),
            Ok(Err(error)) => Err(ProviderFailure::Open(error)),
            Err(_) => Err(ProviderFailure::Stalled),
        }
    }

    /// Opens the blob's partial file and tells which pieces of it are to be fetched.
    async fn begin_large(&self, id: ContentId, size: u64) -> Result<Vec<Work>, BlobError> {
        let store = self.store.clone();
        let opening = tokio::task::spawn_blocking(move || Partial::open(&store, id, size));
        let (partial, missing) = joined(opening).await?;
        let left: u64 = missing.iter().map(|range| range.end - range.start).sum();
        self.tally.bytes_done.fetch_add(size - left, Ordering::Relaxed);
        let large = Arc::new(Large { partial, left: AtomicU64::new(left) });
        if left == 0 {
            self.finish_large(large).await?;
            return Ok(Vec::new());
        }
        lock(&self.large).insert(id, large);
        Ok(lock(&self.plan).pieces(id, size, &missing))
    }

    async fn finish_large(&self, large: Arc<Large>) -> Result<(), BlobError> {
        lock(&self.large).remove(&large.partial.id);
        joined(tokio::task::spawn_blocking(move || large.partial.finish())).await?;
        self.tally.blobs_done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn ask(&self, stream: &mut Stream<O>, request: &Request) -> Result<(), ProviderFailure> {
        let request = frame(request);
        let asked = async {
            stream.write_all(&request).await?;
            stream.flush().await
        };
        timeout(self.patience.answer, asked)
            .await
            .map_err(|_| ProviderFailure::Stalled)?
            .map_err(ProviderFailure::Stream)
    }

    async fn answer(&self, stream: &mut Stream<O>) -> Result<Answer, ProviderFailure> {
        match timeout(self.patience.answer, read_frame(stream, ANSWER_MAX)).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(ProviderFailure::Stream(io::ErrorKind::UnexpectedEof.into())),
            Ok(Err(error)) => Err(ProviderFailure::Stream(error)),
            Err(_) => Err(ProviderFailure::Stalled),
        }
    }

    /// Asks for one range of a large blob and proves it while it arrives.
    async fn fetch_piece(
        &self,
        node: NodeId,
        stream: &mut Stream<O>,
        id: ContentId,
        size: u64,
        range: Range<u64>,
    ) -> (Vec<Work>, Result<Outcome, Ended>) {
        let all = || vec![Work::Piece { id, size, range: range.clone() }];
        let large = lock(&self.large).get(&id).cloned().expect("pieces exist only of blobs that were begun");
        let request = Request::Range { id, size, start: range.start, end: range.end };
        let answer = match self.ask(stream, &request).await {
            Ok(()) => self.answer(stream).await,
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(Answer::Data { size: said }) if said == size => {}
            Ok(Answer::Data { size: said } | Answer::OtherSize { size: said }) => {
                let failure = ProviderFailure::WrongSize { id, said, expected: Some(size) };
                return (all(), Err(Ended::Provider(failure)));
            }
            Ok(Answer::NotHere) => {
                lock(&self.plan).lacks(node, id);
                return (all(), Ok(Outcome::Served));
            }
            Ok(Answer::Busy) => return (all(), Ok(Outcome::Busy)),
            Err(failure) => return (all(), Err(Ended::Provider(failure))),
        }
        let (end, result) = self.receive(stream, &large, &range).await;
        let verified = end - range.start;
        self.reserved.written(verified);
        let left = large.left.fetch_sub(verified, Ordering::Relaxed) - verified;
        if left == 0
            && let Err(error) = self.finish_large(large).await
        {
            return (Vec::new(), Err(Ended::Here(error)));
        }
        let rest = if end < range.end { vec![Work::Piece { id, size, range: end..range.end }] } else { Vec::new() };
        (rest, result.map(|()| Outcome::Served))
    }

    /// Network on this task, hashing and writing on a thread. Returns where the verified bytes end.
    async fn receive(
        &self,
        stream: &mut Stream<O>,
        large: &Arc<Large>,
        range: &Range<u64>,
    ) -> (u64, Result<(), Ended>) {
        let id = large.partial.id;
        let (chunks, reader) = inbound();
        let (writing, wanted) = (large.clone(), range.clone());
        let disk = tokio::task::spawn_blocking(move || writing.partial.receive(reader, &wanted));
        let mut arrived = 0;
        let encoded = tree::encoded_len(range, large.partial.size);
        let poured = pour_in(stream, encoded, chunks, self.patience.chunk, |bytes| {
            arrived += bytes;
            self.tally.bytes_done.fetch_add(bytes, Ordering::Relaxed);
            (self.progress)(self.tally.progress());
        })
        .await;
        let (end, stopped) = joined(disk).await;
        // Arrived counts hashes and what proved wrong; verified is what there is now.
        self.tally.bytes_done.fetch_sub(arrived, Ordering::Relaxed);
        self.tally.bytes_done.fetch_add(end - range.start, Ordering::Relaxed);
        self.tally.received.fetch_add(end - range.start, Ordering::Relaxed);
        let result = match (stopped, poured) {
            (Ok(()), _) => Ok(()),
            (Err(Stopped::Disk(error)), _) => Err(Ended::Here(error)),
            (Err(Stopped::Lie), _) => Err(Ended::Provider(ProviderFailure::WrongBytes(id))),
            (Err(Stopped::Short), Err(error)) => Err(Ended::Provider(broken(error))),
            (Err(Stopped::Short), Ok(())) => Err(Ended::Provider(ProviderFailure::WrongBytes(id))),
        };
        (end, result)
    }

    /// Asks for many small blobs at once; each is hashed and written on a thread while the next arrives.
    async fn fetch_batch(
        &self,
        node: NodeId,
        stream: &mut Stream<O>,
        batch: Vec<Wanted>,
    ) -> (Vec<Work>, Result<Outcome, Ended>) {
        let (send, receive) = mpsc::channel(SMALL_MAX);
        let store = self.store.clone();
        let disk = tokio::task::spawn_blocking(move || store_small(&store, receive));
        let asked = self.ask(stream, &Request::Whole(batch.iter().map(|wanted| wanted.id).collect())).await;
        let heard = match asked {
            Ok(()) => self.hear_batch(node, stream, &batch, send).await,
            Err(failure) => {
                drop(send);
                Err(failure)
            }
        };
        let (stored, stopped) = joined(disk).await;
        let bytes: u64 = stored.values().sum();
        self.reserved.written(bytes);
        self.tally.bytes_done.fetch_add(bytes, Ordering::Relaxed);
        self.tally.received.fetch_add(bytes, Ordering::Relaxed);
        self.tally.blobs_done.fetch_add(stored.len() as u64, Ordering::Relaxed);
        let left: Vec<Wanted> = batch.into_iter().filter(|wanted| !stored.contains_key(&wanted.id)).collect();
        let left = if left.is_empty() { Vec::new() } else { vec![Work::Batch(left)] };
        match (stopped, heard) {
            (Err(ended), _) => (left, Err(ended)),
            (Ok(()), Err(failure)) => (left, Err(Ended::Provider(failure))),
            (Ok(()), Ok(outcome)) => (left, Ok(outcome)),
        }
    }

    /// Reads the answers to a batch and hands the blobs on.
    async fn hear_batch(
        &self,
        node: NodeId,
        stream: &mut Stream<O>,
        batch: &[Wanted],
        send: mpsc::Sender<(ContentId, Vec<u8>)>,
    ) -> Result<Outcome, ProviderFailure> {
        let mut outcome = Outcome::Served;
        for &Wanted { id, size: expected } in batch {
            match self.answer(stream).await? {
                Answer::Data { size } if expected.map_or(size <= UNSIZED_MAX, |expected| expected == size) => {
                    let bytes = self.read_whole(stream, size).await?;
                    if send.send((id, bytes)).await.is_err() {
                        return Ok(outcome); // The disk side has stopped, and says why itself.
                    }
                }
                Answer::Data { size: said } | Answer::OtherSize { size: said } => {
                    return Err(ProviderFailure::WrongSize { id, said, expected });
                }
                Answer::NotHere => lock(&self.plan).lacks(node, id),
                Answer::Busy => outcome = Outcome::Busy,
            }
        }
        Ok(outcome)
    }

    async fn read_whole(&self, stream: &mut Stream<O>, size: u64) -> Result<Vec<u8>, ProviderFailure> {
        let mut bytes = Vec::new();
        let mut left = size;
        while left > 0 {
            let step = left.min(STEP);
            bytes.reserve(usize::try_from(step).unwrap_or(0));
            let mut limited = stream.take(step);
            match timeout(self.patience.chunk, limited.read_to_end(&mut bytes)).await {
                Ok(Ok(count)) if count as u64 == step => left -= step,
                Ok(Ok(_)) => return Err(ProviderFailure::Stream(io::ErrorKind::UnexpectedEof.into())),
                Ok(Err(error)) => return Err(ProviderFailure::Stream(error)),
                Err(_) => return Err(ProviderFailure::Stalled),
            }
        }
        Ok(bytes)
    }
}

/// The disk side of a batch: which blobs it stored with how many bytes, and why it stopped if it did.
fn store_small(
    store: &BlobStore,
    mut blobs: mpsc::Receiver<(ContentId, Vec<u8>)>,
) -> (BTreeMap<ContentId, u64>, Result<(), Ended>) {
    let mut stored = BTreeMap::new();
    while let Some((id, bytes)) = blobs.blocking_recv() {
        if ContentId::of(&bytes) != id {
            return (stored, Err(Ended::Provider(ProviderFailure::WrongBytes(id))));
        }
        if let Err(error) = store.put_hashed(id, &bytes) {
            return (stored, Err(Ended::Here(error)));
        }
        stored.insert(id, bytes.len() as u64);
    }
    (stored, Ok(()))
}

fn broken(error: io::Error) -> ProviderFailure {
    if error.kind() == io::ErrorKind::TimedOut { ProviderFailure::Stalled } else { ProviderFailure::Stream(error) }
}
