//! Fetching between stores over in-memory streams: honest, broken and hostile providers.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use proto::{ContentId, NodeId};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::wire::{Answer, REQUEST_MAX, Request, frame, read_frame};
use super::{
    BlobStore, FetchError, FetchProgress, Fetched, OpenStream, Patience, ProviderFailure, RESERVE_BYTES, Wanted,
    fetch_with, serve,
};

const A: NodeId = NodeId([1; 32]);
const B: NodeId = NodeId([2; 32]);
const C: NodeId = NodeId([3; 32]);
const MIB: usize = 1 << 20;

/// A provider's part, played after the first request was read.
type Script = fn(DuplexStream, Request) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a provider behaves on each stream.
#[derive(Clone)]
enum Provider {
    Honest(BlobStore),
    /// Honest, but each stream ends after so many bytes.
    Breaks(BlobStore, u64),
    /// Whatever the test wants.
    Script(Script),
    Refuses,
}

/// A network of providers that counts what each sends.
#[derive(Default)]
struct Net {
    providers: BTreeMap<NodeId, Provider>,
    sent: BTreeMap<NodeId, Arc<AtomicU64>>,
    opened: Mutex<Vec<NodeId>>,
}

impl Net {
    fn with(providers: &[(NodeId, Provider)]) -> Self {
        let mut net = Self::default();
        for (node, provider) in providers {
            net.providers.insert(*node, provider.clone());
            net.sent.insert(*node, Arc::default());
        }
        net
    }

    fn sent(&self, node: NodeId) -> u64 {
        self.sent[&node].load(Ordering::SeqCst)
    }

    async fn fetch(&self, store: &BlobStore, wanted: &[Wanted]) -> Result<Fetched, FetchError> {
        self.fetch_showing(store, wanted, |_| ()).await
    }

    async fn fetch_showing(
        &self,
        store: &BlobStore,
        wanted: &[Wanted],
        progress: impl Fn(FetchProgress) + Send + Sync,
    ) -> Result<Fetched, FetchError> {
        let patience = Patience { busy: Duration::from_millis(1), ..Patience::default() };
        let providers: Vec<NodeId> = self.providers.keys().copied().collect();
        let fetching = fetch_with(store, wanted, &providers, self, patience, progress);
        tokio::time::timeout(Duration::from_secs(60), fetching).await.expect("a fetch ends within its patience")
    }
}

/// Counts what is read, and ends after `left` bytes.
struct Metered {
    inner: DuplexStream,
    count: Arc<AtomicU64>,
    left: u64,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.remaining());
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut part = buf.take(room);
        std::task::ready!(pin!(&mut self.inner).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        // `buf` does not notice what its part was given; it has to be copied in.
        let bytes = part.filled().to_vec();
        buf.put_slice(&bytes);
        self.left -= count as u64;
        self.count.fetch_add(count as u64, Ordering::SeqCst);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        pin!(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.inner).poll_shutdown(cx)
    }
}

impl OpenStream for Net {
    type Stream = Metered;

    async fn open(&self, to: NodeId) -> io::Result<Metered> {
        self.opened.lock().unwrap().push(to);
        let (near, mut far) = duplex(64 << 10);
        let mut left = u64::MAX;
        match self.providers[&to].clone() {
            Provider::Refuses => return Err(io::ErrorKind::ConnectionRefused.into()),
            Provider::Honest(store) => drop(tokio::spawn(async move { serve(far, &store).await })),
            Provider::Breaks(store, after) => {
                left = after;
                drop(tokio::spawn(async move { serve(far, &store).await }));
            }
            Provider::Script(script) => drop(tokio::spawn(async move {
                if let Ok(Some(request)) = read_frame(&mut far, REQUEST_MAX).await {
                    script(far, request).await;
                }
            })),
        }
        Ok(Metered { inner: near, count: self.sent[&to].clone(), left })
    }
}

struct Bench {
    tmp: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { tmp: tempfile::tempdir().unwrap() }
    }

    fn store(&self, name: &str) -> BlobStore {
        BlobStore::open(&self.tmp.path().join(name)).unwrap()
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

fn put(store: &BlobStore, bytes: &[u8]) -> Wanted {
    Wanted { id: store.put_bytes(bytes).unwrap(), size: Some(bytes.len() as u64) }
}

fn whole(store: &BlobStore, wanted: Wanted) -> Vec<u8> {
    store.read_small(wanted.id, u64::MAX).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_wanted_arrives_once() {
    let bench = Bench::new();
    let (from, to) = (bench.store("from"), bench.store("to"));
    let blobs: Vec<Vec<u8>> =
        [0, 1, 1000, 16 << 10, MIB, MIB + 1, 5 * MIB, 40 * MIB + 77].map(|len| noise(len as u64, len)).into();
    let mut wanted: Vec<Wanted> = blobs.iter().map(|bytes| put(&from, bytes)).collect();
    let manifest = put(&from, &noise(9, 3 * MIB));
    wanted.push(Wanted { size: None, ..manifest });
    wanted.push(wanted[2]);
    let net = Net::with(&[(A, Provider::Honest(from))]);
    let last = Mutex::new(FetchProgress::default());
    let fetched = net.fetch_showing(&to, &wanted, |progress| *last.lock().unwrap() = progress).await.unwrap();
    let bytes: u64 = blobs.iter().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(fetched, Fetched { blobs: 9, bytes: bytes + 3 * MIB as u64 });
    for (wanted, bytes) in wanted.iter().zip(&blobs) {
        assert_eq!(&whole(&to, *wanted), bytes);
    }
    assert_eq!(last.lock().unwrap().blobs_done, 9);
    assert_eq!(net.opened.lock().unwrap().len(), 1);
    assert_eq!(net.fetch(&to, &wanted).await.unwrap(), Fetched::default());
    assert_eq!(net.opened.lock().unwrap().len(), 1, "what is here is not asked for");
    // What was fetched can be served in turn, its hash tree included.
    let third = bench.store("third");
    Net::with(&[(B, Provider::Honest(to))]).fetch(&third, &wanted).await.unwrap();
    assert_eq!(whole(&third, wanted[7]), blobs[7]);
    assert_eq!(third.verify(|_| ()).unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_small_files_take_few_requests() {
    let bench = Bench::new();
    let (from, to) = (bench.store("from"), bench.store("to"));
    let wanted: Vec<Wanted> = (0..10_000u32).map(|n| put(&from, format!("file {n}").as_bytes())).collect();
    let net = Net::with(&[(A, Provider::Honest(from))]);
    assert_eq!(net.fetch(&to, &wanted).await.unwrap().blobs, 10_000);
    assert_eq!(to.usage().unwrap().blobs, 10_000);
    // Answers are 6 bytes each; nothing else is sent.
    let bytes: u64 = wanted.iter().filter_map(|wanted| wanted.size).sum();
    assert_eq!(net.sent(A), bytes + 6 * 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_goes_on_where_it_was_cut() {
    let bench = Bench::new();
    let from = bench.store("from");
    let bytes = noise(1, 50 * MIB);
    let wanted = put(&from, &bytes);
    let cut = Net::with(&[(A, Provider::Breaks(from.clone(), 7 * MIB as u64))]);
    let error = cut.fetch(&bench.store("to"), &[wanted]).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Unavailable { failures, .. } if matches!(failures[..], [(A, ProviderFailure::Stream(_))])),
        "{error}"
    );
    // Four streams of 7 MiB were cut. A new handle on the same directory is what a restart sees.
    let to = bench.store("to");
    assert_eq!(to.has(wanted.id), None);
    let net = Net::with(&[(A, Provider::Honest(from))]);
    net.fetch(&to, &[wanted]).await.unwrap();
    assert_eq!(whole(&to, wanted), bytes);
    let needless = (cut.sent(A) + net.sent(A)) as f64 / bytes.len() as f64 - 1.0;
    assert!(needless <= 0.01 + 0.005, "sent {:.2} % too much, of which the hash tree is 0.4 %", needless * 100.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_writes_of_a_crash_are_fetched_again() {
    let bench = Bench::new();
    let (from, to) = (bench.store("from"), bench.store("to"));
    let bytes = noise(2, 20 * MIB);
    let wanted = put(&from, &bytes);
    let cut = Net::with(&[(A, Provider::Breaks(from.clone(), 4 * MIB as u64))]);
    cut.fetch(&to, &[wanted]).await.unwrap_err();
    // A page that never reached the disk, in the middle of what had been verified.
    let partial = fs::OpenOptions::new().write(true).open(to.partial_path(wanted.id)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&partial, &[0; 4096], 2 * MIB as u64).unwrap();
    Net::with(&[(A, Provider::Honest(from))]).fetch(&to, &[wanted]).await.unwrap();
    assert_eq!(whole(&to, wanted), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_providers_share_a_large_blob() {
    let bench = Bench::new();
    let (a, b, to) = (bench.store("a"), bench.store("b"), bench.store("to"));
    let bytes = noise(3, 80 * MIB);
    let wanted = put(&a, &bytes);
    put(&b, &bytes);
    let net = Net::with(&[(A, Provider::Honest(a)), (B, Provider::Honest(b))]);
    net.fetch(&to, &[wanted]).await.unwrap();
    assert_eq!(whole(&to, wanted), bytes);
    assert!(net.sent(A) >= 8 * MIB as u64 && net.sent(B) >= 8 * MIB as u64, "{} {}", net.sent(A), net.sent(B));
    assert!(net.sent(A) + net.sent(B) < 81 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_lacks_another_gives() {
    let bench = Bench::new();
    let (a, b, to) = (bench.store("a"), bench.store("b"), bench.store("to"));
    let mut wanted: Vec<Wanted> = (0..50u32).map(|n| put(if n % 2 == 0 { &a } else { &b }, &n.to_le_bytes())).collect();
    wanted.push(put(&b, &noise(4, 3 * MIB)));
    let net = Net::with(&[(A, Provider::Honest(a)), (B, Provider::Honest(b)), (C, Provider::Refuses)]);
    net.fetch(&to, &wanted).await.unwrap();
    assert!(wanted.iter().all(|wanted| to.has(wanted.id) == wanted.size));
    let nowhere = Wanted { id: ContentId::of(b"nowhere"), size: Some(7) };
    let error = net.fetch(&to, &[nowhere]).await.unwrap_err();
    assert!(matches!(&error, FetchError::Unavailable { missing, .. } if missing[..] == [nowhere.id]), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_provider_is_noticed_and_left() {
    let bench = Bench::new();
    let (bad, good, to) = (bench.store("bad"), bench.store("good"), bench.store("to"));
    let bytes = noise(5, 30 * MIB);
    let wanted = put(&good, &bytes);
    put(&bad, &bytes);
    let path = bad.blob_path(wanted.id);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut lie = bytes.clone();
    lie[3 * MIB] ^= 1;
    fs::write(&path, lie).unwrap();
    let alone = Net::with(&[(A, Provider::Honest(bad.clone()))]);
    let error = alone.fetch(&to, &[wanted]).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Unavailable { failures, .. }
            if matches!(failures[..], [(A, ProviderFailure::WrongBytes(id))] if id == wanted.id)),
        "{error}"
    );
    assert_eq!(to.has(wanted.id), None);
    Net::with(&[(A, Provider::Honest(bad)), (B, Provider::Honest(good))]).fetch(&to, &[wanted]).await.unwrap();
    assert_eq!(whole(&to, wanted), bytes);
}

async fn say(stream: &mut DuplexStream, answer: Answer) {
    let _ = stream.write_all(&frame(&answer)).await;
}

async fn flood(mut stream: DuplexStream) {
    while stream.write_all(&[0x55; 4096]).await.is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_providers_are_left_for_honest_ones() {
    let scripts: [(&str, Script); 7] = [
        ("wrong bytes", |mut stream, request| {
            Box::pin(async move {
                let size = if let Request::Range { size, .. } = request { size } else { 100 };
                say(&mut stream, Answer::Data { size }).await;
                flood(stream).await;
            })
        }),
        ("a size too large", |mut stream, _| {
            Box::pin(async move {
                say(&mut stream, Answer::Data { size: u64::MAX }).await;
                flood(stream).await;
            })
        }),
        ("another size", |mut stream, _| {
            Box::pin(async move { say(&mut stream, Answer::OtherSize { size: 1 }).await })
        }),
        ("noise", |stream, _| Box::pin(flood(stream))),
        ("a frame without end", |mut stream, _| {
            Box::pin(async move {
                let _ = stream.write_all(&u32::MAX.to_le_bytes()).await;
                flood(stream).await;
            })
        }),
        ("nothing", |_, _| Box::pin(async {})),
        ("less than said", |mut stream, request| {
            Box::pin(async move {
                let size = if let Request::Range { size, .. } = request { size } else { 100 };
                say(&mut stream, Answer::Data { size }).await;
                let _ = stream.write_all(&[0x55; 50]).await;
            })
        }),
    ];
    let bench = Bench::new();
    let good = bench.store("good");
    let small = put(&good, &noise(6, 100));
    let large = put(&good, &noise(7, 2 * MIB));
    for (index, (name, script)) in scripts.into_iter().enumerate() {
        for wanted in [small, large] {
            let to = bench.store(&format!("to-{index}-{}", wanted.id.short()));
            let alone = Net::with(&[(A, Provider::Script(script))]);
            let error = alone.fetch(&to, &[wanted]).await.unwrap_err();
            assert!(
                matches!(&error, FetchError::Unavailable { failures, .. } if failures.len() == 1),
                "{name}: {error}"
            );
            assert_eq!(to.usage().unwrap().blobs, 0, "{name}");
            let both = Net::with(&[(A, Provider::Script(script)), (B, Provider::Honest(good.clone()))]);
            both.fetch(&to, &[wanted]).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(to.has(wanted.id), wanted.size, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_and_trickles_do_not_hold_a_fetch_up() {
    let scripts: [Script; 2] = [
        |stream, _| {
            Box::pin(async move {
                let _open = stream;
                std::future::pending::<()>().await;
            })
        },
        |mut stream, request| {
            Box::pin(async move {
                let size = if let Request::Range { size, .. } = request { size } else { 100 };
                say(&mut stream, Answer::Data { size }).await;
                while stream.write_all(&[1]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        },
    ];
    let bench = Bench::new();
    let good = bench.store("good");
    let wanted = [put(&good, &noise(6, 100)), put(&good, &noise(7, 2 * MIB))];
    let short = Duration::from_millis(200);
    let patience = Patience { open: short, answer: short, chunk: short, busy: short };
    for (index, script) in scripts.into_iter().enumerate() {
        let to = bench.store(&format!("to-{index}"));
        let net = Net::with(&[(A, Provider::Script(script)), (B, Provider::Honest(good.clone()))]);
        // The honest one alone would be quick; the silent one is asked first.
        fetch_with(&to, &wanted, &[A, B], &net, patience, |_| ()).await.unwrap();
        assert!(wanted.iter().all(|wanted| to.has(wanted.id) == wanted.size));
        let alone = fetch_with(&bench.store(&format!("alone-{index}")), &wanted, &[A], &net, patience, |_| ()).await;
        assert!(
            matches!(&alone, Err(FetchError::Unavailable { failures, .. }) if matches!(failures[..], [(A, ProviderFailure::Stalled)])),
            "{alone:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_provider_is_asked_again() {
    let bench = Bench::new();
    let (from, to) = (bench.store("from"), bench.store("to"));
    let wanted = [put(&from, b"small"), put(&from, &noise(8, 2 * MIB))];
    let turns = from.inner.serving.acquire_many(super::store::SERVE_MAX as u32).await.unwrap();
    let net = Net::with(&[(A, Provider::Honest(from.clone()))]);
    let patience = Patience { busy: Duration::from_millis(1), ..Patience::default() };
    let mut fetching = pin!(fetch_with(&to, &wanted, &[A], &net, patience, |_| ()));
    let said_busy = async {
        while net.sent(A) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        result = &mut fetching => panic!("all turns are taken: {result:?}"),
        () = said_busy => {}
    }
    drop(turns);
    fetching.await.unwrap();
    assert!(wanted.iter().all(|wanted| to.has(wanted.id) == wanted.size));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_blob_is_fetched_once_by_many() {
    let bench = Bench::new();
    let (from, to) = (bench.store("from"), bench.store("to"));
    let wanted = [put(&from, &noise(10, 20 * MIB)), put(&from, b"small")];
    let net = Net::with(&[(A, Provider::Honest(from))]);
    let (one, two, three) =
        tokio::join!(net.fetch(&to, &wanted), net.fetch(&to, &wanted[..1]), net.fetch(&to, &wanted[1..]));
    assert_eq!(one.unwrap().blobs + two.unwrap().blobs + three.unwrap().blobs, 2);
    assert!(net.sent(A) < 21 * MIB as u64);
    // A fetch that is dropped leaves its blobs to who waits for them.
    let (to, slow) = (
        bench.store("again"),
        Net::with(&[(
            A,
            Provider::Script(|stream, _| {
                Box::pin(async move {
                    let _open = stream;
                    std::future::pending::<()>().await;
                })
            }),
        )]),
    );
    let mut stuck = Box::pin(slow.fetch(&to, &wanted));
    let mut waiting = pin!(net.fetch(&to, &wanted));
    tokio::select! {
        biased;
        result = &mut stuck => panic!("{result:?}"),
        () = async { while slow.opened.lock().unwrap().is_empty() { tokio::task::yield_now().await } } => {}
    }
    tokio::select! {
        biased;
        result = &mut waiting => panic!("{result:?}"),
        () = async { for _ in 0..100 { tokio::task::yield_now().await } } => {}
    }
    drop(stuck);
    assert_eq!(waiting.await.unwrap().blobs, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_cannot_fit_is_refused_unasked() {
    let bench = Bench::new();
    let from = bench.store("from");
    let wanted = [put(&from, &noise(11, 2 * MIB))];
    let free = Arc::new(|_: &Path| Ok(RESERVE_BYTES + MIB as u64));
    let to = BlobStore::open_with(&bench.tmp.path().join("full"), free).unwrap();
    let net = Net::with(&[(A, Provider::Honest(from))]);
    let error = net.fetch(&to, &wanted).await.unwrap_err();
    assert!(matches!(&error, FetchError::Store(error) if error.is_disk_full()), "{error}");
    assert!(net.opened.lock().unwrap().is_empty());
    assert_eq!(fs::read_dir(bench.tmp.path().join("full/partial")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_hostile_fetcher_gets_nothing_but_an_end() {
    let bench = Bench::new();
    let store = bench.store("store");
    let wanted = put(&store, &noise(12, 2 * MIB));
    let range = |size, start, end| frame(&Request::Range { id: wanted.id, size, start, end });
    let hostile = [
        frame(&Request::Whole(vec![])),
        range(2 << 20, 5, 2 << 20),
        range(2 << 20, 0, 3 << 20),
        range(u64::MAX, 0, u64::MAX - 1),
        range(100, 0, 100),
        u32::MAX.to_le_bytes().to_vec(),
        vec![1, 0, 0, 0, 9],
        vec![200, 0, 0, 0, 1],
    ];
    for bytes in hostile {
        let (mut near, far) = duplex(1 << 16);
        near.write_all(&bytes).await.unwrap();
        near.shutdown().await.unwrap();
        assert!(serve(far, &store).await.is_err(), "{bytes:?}");
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"", "{bytes:?}");
    }
    // A size that is not the blob's is an answer, not an error: manifests can be wrong.
    let (mut near, far) = duplex(1 << 16);
    near.write_all(&range(u64::MAX, 0, 16 << 10)).await.unwrap();
    near.shutdown().await.unwrap();
    serve(far, &store).await.unwrap();
    assert_eq!(read_frame(&mut near, 32).await.unwrap(), Some(Answer::OtherSize { size: 2 << 20 }));
}

/// A random tree: depth, names, sizes, modes and links from `seed`.
fn plant(root: &Path, rng: &mut SmallRng) {
    let mut directories = vec![PathBuf::new()];
    fs::create_dir_all(root).unwrap();
    for number in 0..rng.random_range(1..40u32) {
        let parent = directories[rng.random_range(0..directories.len())].clone();
        let path = parent.join(format!("{}{number}", ["a", "b.c", "é", "-", " "][rng.random_range(0..5)]));
        match rng.random_range(0..10) {
            0 | 1 => {
                fs::create_dir(root.join(&path)).unwrap();
                directories.push(path);
            }
            2 => symlink(format!("x{number}/nowhere"), root.join(&path)).unwrap(),
            kind => {
                let len = [0, 1, 500, 16_384, 70_000, MIB, MIB + 1, 3 * MIB][rng.random_range(0..8)];
                let mut bytes = vec![0; len];
                rng.fill(&mut bytes[..]);
                fs::write(root.join(&path), bytes).unwrap();
                let mode = if kind == 3 { 0o755 } else { 0o644 };
                fs::set_permissions(root.join(&path), fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

/// Everything in a directory: kind and mode or text, and bytes.
fn picture(root: &Path, at: &Path, into: &mut BTreeMap<PathBuf, (String, Vec<u8>)>) {
    for entry in fs::read_dir(root.join(at)).unwrap() {
        let path = at.join(entry.unwrap().file_name());
        let meta = fs::symlink_metadata(root.join(&path)).unwrap();
        if meta.is_dir() {
            into.insert(path.clone(), ("directory".to_owned(), Vec::new()));
            picture(root, &path, into);
        } else if meta.is_symlink() {
            let target = fs::read_link(root.join(&path)).unwrap();
            into.insert(path, (target.to_str().unwrap().to_owned(), Vec::new()));
        } else {
            let bytes = fs::read(root.join(&path)).unwrap();
            into.insert(path, (format!("{:o}", meta.permissions().mode()), bytes));
        }
    }
}

/// Seeds that once failed come first.
const SEEDS: [u64; 0] = [];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_fetched_and_unpacked_trees_are_identical() {
    for seed in SEEDS.into_iter().chain(0..12) {
        let bench = Bench::new();
        let (from, to) = (bench.store("from"), bench.store("to"));
        let source = bench.tmp.path().join("source");
        plant(&source, &mut SmallRng::seed_from_u64(seed));
        let packed = from.pack(&source, |_| ()).unwrap();
        let net = Net::with(&[(A, Provider::Honest(from.clone())), (B, Provider::Honest(from))]);
        net.fetch(&to, &[Wanted { id: packed.id, size: None }]).await.unwrap();
        let manifest: proto::Manifest = proto::codec::decode(&to.read_small(packed.id, 1 << 20).unwrap()).unwrap();
        let wanted: Vec<Wanted> = manifest.contents().map(|(id, size)| Wanted { id, size: Some(size) }).collect();
        net.fetch(&to, &wanted).await.unwrap();
        to.sync(&wanted.iter().map(|wanted| wanted.id).collect::<Vec<_>>()).unwrap();
        let dest = bench.tmp.path().join("dest");
        to.unpack(&manifest, &dest).unwrap();
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        picture(&source, Path::new(""), &mut before);
        picture(&dest, Path::new(""), &mut after);
        assert!(before == after, "seed {seed}: {:?} became {:?}", before.keys(), after.keys());
    }
}
