//! Prints how fast the store commits, how large it gets, and how long it takes to open.
//!
//! `cargo run --release -p node --example store_rate -- DIR [JOBS]`; DIR must not exist yet and is left
//! behind. Give a directory on tmpfs to measure the program, one on disk to measure the disk as well.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use node::store::{GroupFilter, Store};
use proto::entry::{Identity, VerifiedEntry};
use proto::event::{AttemptFinished, Event, JobOutcome};
use proto::job::{GroupSpec, IndexRanges, Usage};
use proto::log::{EntryRange, Log};
use proto::{AttemptId, Ending, GroupId, Hlc, JobId, Member};

/// Jobs of one array; each makes three events. Small, so that the memory printed is the store's and not
/// that of the entries it is given.
const ARRAY: u32 = 100;
/// Commits under way at once in the measurement of throughput.
const IN_FLIGHT: usize = 64;
/// Commits timed one by one.
const LATENCY_COMMITS: usize = 1000;

type Failure = Box<dyn Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("give a directory that does not exist yet")?);
    let jobs: u32 = args.next().map_or(Ok(100_000), |jobs| jobs.parse())?;
    if dir.exists() {
        return Err(format!("{} exists; give a directory that does not", dir.display()).into());
    }
    let base = rss_kib()?;
    let (store, _) = Store::open(&dir)?;
    println!("empty store           {:>9} KiB over a bare process", rss_kib()?.saturating_sub(base));
    let mut log = Log::new(Identity::from_seed([1; 32]), 1, BTreeMap::new(), Hlc::default());
    latency(&store, &mut log).await?;
    throughput(&store, &mut log, jobs).await?;
    println!("after the jobs        {:>9} KiB over a bare process", rss_kib()?.saturating_sub(base));
    listings(&store, &log)?;
    println!("after the listings    {:>9} KiB over a bare process", rss_kib()?.saturating_sub(base));
    store.close().await;
    println!("journal               {:>9} KiB", size_kib(&dir.join("journal"))?);
    println!("index                 {:>9} KiB", size_kib(&dir.join("sled"))?);
    reopen(&dir, "after a clean stop").await?;
    std::fs::remove_file(dir.join("sled.clean"))?;
    reopen(&dir, "after a kill").await?;
    std::fs::remove_dir_all(dir.join("sled"))?;
    reopen(&dir, "no index").await
}

/// One small commit after the other: a sync each.
async fn latency(store: &Store, log: &mut Log) -> Result<(), Failure> {
    let mut times = Vec::with_capacity(LATENCY_COMMITS);
    for round in 0..LATENCY_COMMITS {
        let group = group(u64::try_from(round)?);
        let entries = append(log, vec![Event::GroupSubmitted { group, spec: spec(1), inline: Vec::new() }]);
        let start = Instant::now();
        store.commit(entries).await?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let (half, most) = (times[LATENCY_COMMITS / 2], times[LATENCY_COMMITS * 99 / 100]);
    println!("one commit            p50 {half:?}, p99 {most:?}");
    Ok(())
}

/// Arrays of jobs that start, finish and have their outcome, one entry per event: the worst case.
/// Signing is not timed.
async fn throughput(store: &Store, log: &mut Log, jobs: u32) -> Result<(), Failure> {
    for (name, per_entry) in [("of one event", 1), ("of 100 events", 100)] {
        let (mut took, mut events, mut commits) = (Duration::ZERO, 0, 0);
        for array in 0..(jobs / 2).div_ceil(ARRAY) {
            let entries = array_life(log, group(1_000_000 * per_entry + u64::from(array)), per_entry)?;
            events += entries.iter().map(|entry| entry.events().len()).sum::<usize>();
            commits += entries.len();
            let start = Instant::now();
            commit_all(store, entries).await?;
            took += start.elapsed();
        }
        #[expect(clippy::cast_precision_loss, reason = "printed without digits")]
        let rates = (commits as f64 / took.as_secs_f64(), events as f64 / took.as_secs_f64());
        println!("commits {name}, {IN_FLIGHT} in flight: {:.0} commits/s, {:.0} events/s", rates.0, rates.1);
    }
    Ok(())
}

fn array_life(log: &mut Log, group: GroupId, per_entry: u64) -> Result<Vec<VerifiedEntry>, Failure> {
    let mut entries = append(log, vec![Event::GroupSubmitted { group, spec: spec(ARRAY), inline: Vec::new() }]);
    let lives = (1..=ARRAY).flat_map(|index| life(log, JobId { group, member: Member::Index(index) }));
    let events: Vec<Event> = lives.collect();
    for events in events.chunks(usize::try_from(per_entry)?) {
        entries.extend(append(log, events.to_vec()));
    }
    Ok(entries)
}

async fn commit_all(store: &Store, entries: Vec<VerifiedEntry>) -> Result<(), Failure> {
    let (done, mut answers) = tokio::sync::mpsc::channel(IN_FLIGHT);
    let mut waiting = 0;
    for entry in entries {
        if waiting == IN_FLIGHT {
            answers.recv().await.ok_or("the store answers")??;
            waiting -= 1;
        }
        let done = done.clone();
        // There is room for every answer under way, so this never waits.
        store.commit_with(vec![entry], move |result| drop(done.try_send(result.map(|_| ())))).await?;
        waiting += 1;
    }
    for _ in 0..waiting {
        answers.recv().await.ok_or("the store answers")??;
    }
    Ok(())
}

fn listings(store: &Store, log: &Log) -> Result<(), Failure> {
    let start = Instant::now();
    let mut jobs = 0;
    for (group, _) in store.groups(&GroupFilter::default(), 100)? {
        jobs += store.jobs_of(group, None, usize::MAX)?.len();
    }
    println!("list {jobs} jobs of 100 groups: {:?}", start.elapsed());
    let start = Instant::now();
    let groups = store.groups(&GroupFilter::default(), 10_000)?.len();
    println!("list {groups} groups: {:?}", start.elapsed());
    let start = Instant::now();
    let (mut first, mut read) = (1, 0);
    loop {
        let entries = store.read(EntryRange { log: log.own(), first, last: u64::MAX }, 1 << 20)?;
        if entries.is_empty() {
            break;
        }
        read += entries.len();
        first += u64::try_from(entries.len())?;
    }
    println!("read {read} entries for a peer: {:?}", start.elapsed());
    Ok(())
}

async fn reopen(dir: &Path, what: &str) -> Result<(), Failure> {
    let start = Instant::now();
    let (store, recovered) = Store::open(dir)?;
    println!("open, {what}: {:?}, {} live records, {:?}", start.elapsed(), recovered.live.len(), recovered.notices);
    store.close().await;
    Ok(())
}

fn life(log: &Log, job: JobId) -> [Event; 3] {
    let attempt = AttemptId { job, epoch: 1, number: 1 };
    let ending = Ending::Exited { code: 0 };
    let finished = AttemptFinished {
        attempt,
        ending: ending.clone(),
        usage: Usage::default(),
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: 1_700_000_001_000,
        outputs: None,
        log: None,
        ran_with: None,
    };
    let outcome = JobOutcome { member: job.member, attempt: Some((attempt, log.me())), ending };
    [
        Event::AttemptStarted { attempt, started_unix_ms: 1_700_000_000_000 },
        Event::AttemptFinished { finished: Box::new(finished), inline: Vec::new() },
        Event::Outcomes { group: job.group, epoch: 1, jobs: vec![outcome] },
    ]
}

fn append(log: &mut Log, events: Vec<Event>) -> Vec<VerifiedEntry> {
    let mut events = VecDeque::from(events);
    std::iter::from_fn(|| log.append(1_700_000_000_000, &mut events)).collect()
}

fn group(number: u64) -> GroupId {
    GroupId::v7(1_700_000_000_000 + number, [7; 10])
}

fn spec(jobs: u32) -> Box<GroupSpec> {
    Box::new(GroupSpec {
        env: BTreeMap::from([("SEED".to_owned(), "1".to_owned())]),
        array: if jobs == 1 { IndexRanges::default() } else { IndexRanges::from_indices(1..=jobs) },
        ..GroupSpec::new("user", "project", vec!["python".to_owned(), "train.py".to_owned()])
    })
}

fn rss_kib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("Linux tells VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn size_kib(dir: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        bytes += if file.file_type()?.is_dir() { size_kib(&file.path())? * 1024 } else { file.metadata()?.len() };
    }
    Ok(bytes / 1024)
}
