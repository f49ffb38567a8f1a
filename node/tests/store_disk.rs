//! The store on a real directory: what was answered is there again after any kind of end, and sled tells
//! the same as its twin in memory.

#[path = "store_disk/model.rs"]
mod model;

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use model::{answers, any_entries, entries};
use node::store::{Recovered, Store, StoreError};
use proto::entry::VerifiedEntry;
use proto::event::Event;
use proto::record::RecordKey;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Seeds tried on every run; one that failed once is added for ever.
const TWIN_SEEDS: std::ops::Range<u64> = 0..12;
const CRASH_SEEDS: std::ops::Range<u64> = 0..24;

#[tokio::test]
async fn sled_and_its_twin_in_memory_tell_the_same() {
    for seed in TWIN_SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().expect("a directory");
        let (on_disk, _) = Store::open(dir.path()).expect("opens");
        let (in_memory, _) = Store::in_memory();
        let mut all = any_entries(&mut rng, 20);
        while !all.is_empty() {
            let rest = all.split_off(rng.random_range(1..=all.len().min(9)));
            let changed = on_disk.commit(all.clone()).await.expect("committed").changed;
            assert_eq!(in_memory.commit(all.clone()).await.expect("committed").changed, changed, "seed {seed}");
            for (key, record) in changed {
                assert_eq!(on_disk.record(&key).expect("sound"), Some(record), "seed {seed}");
            }
            // Entries that are there already change nothing.
            assert_eq!(on_disk.commit(all).await.expect("known").changed, []);
            all = rest;
        }
        let told = answers(&in_memory);
        assert!(answers(&on_disk) == told, "seed {seed}");
        on_disk.close().await;
        let (again, recovered) = Store::open(dir.path()).expect("opens");
        assert_eq!(recovered.notices, Vec::<String>::new(), "seed {seed}: a clean stop leaves nothing to tell");
        assert!(answers(&again) == told, "seed {seed}: after a clean stop");
        check_live(&again, &recovered);
        again.close().await;
    }
}

/// What the core gets at start is what the records say.
fn check_live(store: &Store, recovered: &Recovered) {
    for (key, record) in &recovered.live {
        assert_eq!(store.record(key).expect("sound").as_ref(), Some(record));
    }
    let unfinished =
        store.groups(&node::store::GroupFilter { unfinished: true, hidden: true, ..Default::default() }, 100);
    for (group, _) in unfinished.expect("sound") {
        assert!(recovered.live.iter().any(|(key, _)| *key == RecordKey::Group(group)));
    }
}

/// What is done to a copy of the directory before it is opened.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    None,
    TornTail,
    ZeroedBlock,
    NoIndex,
    OlderIndex,
    OlderJournal,
    GarbageInIndex,
    GarbageInJournal,
}

const HARMS: [Harm; 8] = [
    Harm::None,
    Harm::TornTail,
    Harm::ZeroedBlock,
    Harm::NoIndex,
    Harm::OlderIndex,
    Harm::OlderJournal,
    Harm::GarbageInIndex,
    Harm::GarbageInJournal,
];

/// The directory is copied while commits go on, as a kill would leave it or worse: the copy is not even of
/// one moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_kill_at_any_moment() {
    for seed in CRASH_SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let scratch = tempfile::tempdir().expect("a directory");
        let (live, older, copy) = ["live", "older", "copy"].map(|name| scratch.path().join(name)).into();
        let (store, _) = Store::open(&live).expect("opens");
        let all = any_entries(&mut rng, 30);
        let (first, rest) = all.split_at(all.len() / 2);
        commit_in_parts(&store, first, &mut rng).await;
        copy_dir(&live, &older);
        let answered = rng.random_range(0..=rest.len());
        commit_in_parts(&store, &rest[..answered], &mut rng).await;
        let going_on = tokio::spawn({
            let (store, rest, mut rng) = (store.clone(), rest[answered..].to_vec(), StdRng::seed_from_u64(seed));
            async move { commit_in_parts(&store, &rest, &mut rng).await }
        });
        copy_dir(&live, &copy);
        going_on.await.expect("commits");
        store.close().await;
        let harm = HARMS[usize::try_from(seed).expect("small") % HARMS.len()];
        eprintln!("seed {seed}: {harm:?}");
        do_harm(harm, &copy, &older, &mut rng);
        check_survivor(seed, harm, &copy, &all, first.len() + answered).await;
    }
}

async fn commit_in_parts(store: &Store, entries: &[VerifiedEntry], rng: &mut StdRng) {
    let mut rest = entries;
    while !rest.is_empty() {
        let (part, more) = rest.split_at(rng.random_range(1..=rest.len().min(5)));
        store.commit(part.to_vec()).await.expect("committed");
        rest = more;
    }
}

async fn check_survivor(seed: u64, harm: Harm, copy: &Path, all: &[VerifiedEntry], answered: usize) {
    let (store, recovered) = Store::open(copy).unwrap_or_else(|error| panic!("seed {seed} {harm:?}: {error}"));
    let journal_is_whole = matches!(harm, Harm::None | Harm::NoIndex | Harm::OlderIndex | Harm::GarbageInIndex);
    if journal_is_whole {
        for entry in &all[..answered] {
            let head = recovered.heads.get(&entry.position().log).map_or(0, |head| head.seq);
            assert!(head >= entry.position().seq, "seed {seed} {harm:?}: an answered entry is gone");
        }
        // Every head's entries are there, chained and signed, and fold to what the index says.
        let held = entries(&store, &recovered.heads);
        let (model, _) = Store::in_memory();
        model.commit(held).await.expect("contiguous");
        assert!(answers(&store) == answers(&model), "seed {seed} {harm:?}");
    }
    check_live(&store, &recovered);
    // Other nodes send everything again; what is missing is taken.
    store.commit(all.to_vec()).await.unwrap_or_else(|error| panic!("seed {seed} {harm:?}: {error}"));
    let (model, _) = Store::in_memory();
    model.commit(all.to_vec()).await.expect("contiguous");
    let want = answers(&model);
    assert!(answers(&store) == want, "seed {seed} {harm:?}: after repair");
    store.close().await;
    fs::remove_dir_all(copy.join("sled")).expect("there is one");
    let (again, recovered) = Store::open(copy).expect("opens");
    if harm == Harm::ZeroedBlock || harm == Harm::GarbageInJournal {
        // The index knew entries whose bytes are gone; now they are known to be gone, and sent again.
        again.commit(all.to_vec()).await.unwrap_or_else(|error| panic!("seed {seed} {harm:?}: {error}"));
    }
    assert!(answers(&again) == want, "seed {seed} {harm:?}: made again from the journal, {:?}", recovered.notices);
    again.close().await;
}

fn do_harm(harm: Harm, copy: &Path, older: &Path, rng: &mut StdRng) {
    let segment = copy.join("journal/0000000000000001.seg");
    match harm {
        Harm::None => {}
        Harm::TornTail => {
            let file = fs::OpenOptions::new().write(true).open(segment).expect("there");
            let len = file.metadata().expect("told").len();
            file.set_len(rng.random_range(0..len)).expect("cut");
        }
        Harm::ZeroedBlock => overwrite(&segment, &[0; 8192], rng),
        Harm::GarbageInJournal => {
            let garbage: Vec<u8> = (0..rng.random_range(1..9000)).map(|_| rng.random()).collect();
            overwrite(&segment, &garbage, rng);
        }
        Harm::NoIndex => fs::remove_dir_all(copy.join("sled")).expect("there"),
        Harm::OlderIndex => replace(&older.join("sled"), &copy.join("sled")),
        Harm::OlderJournal => replace(&older.join("journal"), &copy.join("journal")),
        Harm::GarbageInIndex => {
            let garbage: Vec<u8> = (0..rng.random_range(1..90_000)).map(|_| rng.random()).collect();
            overwrite(&copy.join("sled/db"), &garbage, rng);
        }
    }
}

fn overwrite(path: &Path, bytes: &[u8], rng: &mut StdRng) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("there");
    let len = file.metadata().expect("told").len();
    file.write_all_at(bytes, rng.random_range(0..=len)).expect("written");
}

fn replace(from: &Path, to: &Path) {
    fs::remove_dir_all(to).expect("there");
    copy_dir(from, to);
}

/// Files may grow meanwhile; those that vanish were temporary.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    let mut files: Vec<_> = fs::read_dir(from).expect("read").map(|file| file.expect("read")).collect();
    files.sort_by_key(fs::DirEntry::file_name);
    for file in files {
        let target = to.join(file.file_name());
        if file.file_type().expect("told").is_dir() {
            copy_dir(&file.path(), &target);
        } else if let Err(error) = fs::copy(file.path(), target) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

/// Signed by the authors of the logs in [`any_entries`].
fn signed(name: proto::snapshot::SnapshotName) -> proto::snapshot::SignedSnapshot {
    let by = [1, 2, 3].map(|seed| proto::entry::Identity::from_seed([seed; 32]));
    let signatures = by.iter().map(|identity| (identity.node(), name.sign(identity))).collect();
    proto::snapshot::SignedSnapshot { name, signatures }
}

#[tokio::test]
async fn a_store_starts_from_its_base_and_another_one_from_the_same() {
    let mut rng = StdRng::seed_from_u64(21);
    let (one, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (store, _) = Store::open(one.path()).expect("opens");
    let mut all: Vec<VerifiedEntry> = [1, 2, 3].map(join).into();
    all.extend(any_entries(&mut rng, 60));
    let (covered, tail) = all.split_at(all.len() * 3 / 4);
    store.commit(covered.to_vec()).await.expect("committed");
    let name = signed(store.make_snapshot().await.expect("made"));
    store.keep_snapshot(name.clone()).await.expect("kept");
    let before = store.log_bytes().expect("told");
    store.compact(u64::MAX).await.expect("compacted");
    assert!(store.log_bytes().expect("told") < before);
    assert!(!one.path().join("journal/0000000000000001.seg").exists());
    let (joiner, _) = Store::open(other.path()).expect("opens");
    let file = fs::File::open(&store.snapshots()[0].1).expect("there");
    joiner.install_snapshot(name.clone(), file).await.expect("installed");
    let (model, _) = Store::in_memory();
    model.commit(all.clone()).await.expect("contiguous");
    let want = answers(&model);
    for (dir, store) in [(one, store), (other, joiner)] {
        store.commit(tail.to_vec()).await.expect("the tails follow");
        assert!(answers(&store) == want);
        store.close().await;
        for remove_index in [false, true] {
            if remove_index {
                fs::remove_dir_all(dir.path().join("sled")).expect("there");
            }
            let (again, recovered) = Store::open(dir.path()).expect("opens");
            assert_eq!(recovered.notices.len(), usize::from(remove_index), "{:?}", recovered.notices);
            assert_eq!(recovered.snapshots.as_slice(), std::slice::from_ref(&name));
            assert!(answers(&again) == want, "without index: {remove_index}");
            again.close().await;
        }
    }
}

/// The first entry of a third life: its author becomes a member.
fn join(seed: u8) -> VerifiedEntry {
    let identity = proto::entry::Identity::from_seed([seed; 32]);
    let mut log = proto::log::Log::new(identity, 3, std::collections::BTreeMap::new(), proto::Hlc::default());
    let joined = Event::MemberJoined { name: "n".to_owned(), software: String::new() };
    log.append(10, &mut [joined].into()).expect("one event")
}

#[tokio::test]
async fn a_second_store_on_a_directory_is_refused_and_told_who_has_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(dir.path()).expect("opens");
    match Store::open(dir.path()) {
        Err(StoreError::InUse { dir: told, pid }) => {
            assert_eq!((told, pid), (dir.path().to_owned(), Some(std::process::id())));
        }
        other => panic!("{other:?}"),
    }
    store.close().await;
    assert!(matches!(store.commit(Vec::new()).await, Err(StoreError::Closed)));
    Store::open(dir.path()).expect("free again");
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, b"").expect("written");
    let error = Store::open(&file).expect_err("a file is no directory");
    assert!(matches!(error, StoreError::Unwritable { .. }), "{error}");
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}

#[tokio::test]
async fn what_the_store_holds_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().join("home");
    let (store, _) = Store::open(&home).expect("opens");
    assert_eq!(fs::metadata(&home).expect("there").permissions().mode() & 0o777, 0o700);
    store.close().await;
}

#[tokio::test]
async fn an_incarnation_is_never_used_twice() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, recovered) = Store::open(dir.path()).expect("opens");
    assert_eq!(recovered.incarnation_last, 0);
    assert_eq!(store.bump_incarnation(1000).expect("durable"), 1000);
    assert_eq!(store.bump_incarnation(400).expect("durable"), 1001);
    store.close().await;
    let (store, recovered) = Store::open(dir.path()).expect("opens");
    assert_eq!(recovered.incarnation_last, 1001);
    assert_eq!(store.bump_incarnation(500).expect("durable"), 1002);
    store.close().await;
    assert!(matches!(store.bump_incarnation(9999), Err(StoreError::Closed)));
    fs::write(dir.path().join("incarnation"), b"\xff\0x").expect("written");
    let (store, recovered) = Store::open(dir.path()).expect("opens");
    assert_eq!(recovered.notices.len(), 1, "{:?}", recovered.notices);
    store.close().await;
}

#[tokio::test]
async fn an_entry_that_does_not_follow_is_refused_and_its_commit_with_it() {
    let (store, _) = Store::in_memory();
    let mut log = log(1);
    let (one, two, three) = (write(&mut log, 1), write(&mut log, 2), write(&mut log, 3));
    store.commit(vec![one]).await.expect("the first");
    let error = store.commit(vec![three.clone()]).await.expect_err("a gap");
    assert!(matches!(error, StoreError::NotNext { head: 1, .. }), "{error}");
    store.commit(vec![two, three]).await.expect("in order");
}

#[tokio::test]
async fn commits_are_answered_in_order_and_queued_ones_before_closing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(dir.path()).expect("opens");
    let mut log = log(1);
    let (answered, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for number in 1..=100_u32 {
        let answered = answered.clone();
        let entry = write(&mut log, number);
        let done =
            move |result: Result<_, StoreError>| answered.send((number, result.is_ok())).expect("somebody listens");
        store.commit_with(vec![entry], done).await.expect("queued");
    }
    store.close().await;
    for number in 1..=100 {
        assert_eq!(answers.recv().await, Some((number, true)));
    }
    let (store, recovered) = Store::open(dir.path()).expect("opens");
    assert_eq!(recovered.heads[&log.own()].seq, 100);
    assert_eq!(store.cluster().expect("sound").secret_number, 100);
    assert_eq!(recovered.hlc(log.me()), log.heard());
    store.close().await;
}

#[tokio::test]
async fn groups_are_found_by_the_beginning_of_their_id() {
    let (store, _) = Store::in_memory();
    let mut rng = StdRng::seed_from_u64(3);
    store.commit(any_entries(&mut rng, 60)).await.expect("committed");
    let all = store.group_ids_with_prefix("", 100).expect("sound");
    assert!(all.len() > 2 && all.is_sorted());
    for group in &all {
        let text = group.to_string();
        for len in 0..=text.len() {
            let want: Vec<_> = all.iter().copied().filter(|id| id.to_string().starts_with(&text[..len])).collect();
            assert_eq!(store.group_ids_with_prefix(&text[..len], 100).expect("sound"), want, "{}", &text[..len]);
        }
    }
    assert_eq!(store.group_ids_with_prefix("xyz", 100).expect("sound"), []);
    assert_eq!(store.group_ids_with_prefix(&"0".repeat(33), 100).expect("sound"), []);
    assert_eq!(store.group_ids_with_prefix("", 1).expect("sound").len(), 1);
}

#[tokio::test]
async fn only_the_latest_broken_index_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = log(1);
    for number in 1..4_u32 {
        let (store, recovered) = Store::open(dir.path()).expect("opens");
        assert_eq!(recovered.notices.len(), usize::from(number > 1), "{:?}", recovered.notices);
        store.commit(vec![write(&mut log, number)]).await.expect("committed");
        assert_eq!(store.cluster().expect("sound").secret_number, number);
        store.close().await;
        // What the store leaves behind when sled fails while it is open.
        fs::write(dir.path().join("sled.suspect"), b"").expect("written");
    }
    Store::open(dir.path()).expect("opens").0.close().await;
    let names = fs::read_dir(dir.path()).expect("read").map(|file| file.expect("read").file_name());
    let broken: Vec<PathBuf> =
        names.filter(|name| name.to_string_lossy().starts_with("sled.broken-")).map(PathBuf::from).collect();
    assert_eq!(broken.len(), 1, "{broken:?}");
}

fn log(seed: u8) -> proto::log::Log {
    let identity = proto::entry::Identity::from_seed([seed; 32]);
    proto::log::Log::new(identity, 1, std::collections::BTreeMap::new(), proto::Hlc::default())
}

fn write(log: &mut proto::log::Log, number: u32) -> VerifiedEntry {
    log.append(10, &mut [Event::SecretRotated { number }].into()).expect("one event")
}
