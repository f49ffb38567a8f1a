//! The store on its own disk: entering, durability, packing, unpacking, outputs, sweeping.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::blob::FileKind;
use proto::{ContentId, Manifest, ManifestFile};
use tempfile::TempDir;

use super::store::MODE_DURABLE;
use super::{BlobError, BlobStore, PackError, RESERVE_BYTES, SkipReason, Sweep, SweepUntil, UnpackError};

struct Bench {
    tmp: TempDir,
    store: BlobStore,
}

fn bench() -> Bench {
    let tmp = tempfile::tempdir().unwrap();
    let store = BlobStore::open(&tmp.path().join("store")).unwrap();
    Bench { tmp, store }
}

impl Bench {
    /// A directory with these files; a name that ends in `/` is a directory.
    fn dir(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = self.tmp.path().join(name);
        fs::create_dir_all(&root).unwrap();
        for (path, text) in files {
            let path = root.join(path);
            if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
                fs::create_dir_all(path).unwrap();
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        }
        root
    }

    fn pack(&self, dir: &Path) -> Result<super::Packed, PackError> {
        self.store.pack(dir, |_| ())
    }

    fn reopen(&self) -> BlobStore {
        BlobStore::open(&self.tmp.path().join("store")).unwrap()
    }

    fn files_in(&self, part: &str) -> usize {
        fs::read_dir(self.tmp.path().join("store").join(part)).unwrap().count()
    }
}

fn paths(manifest: &Manifest) -> Vec<&str> {
    manifest.files.iter().map(|file| file.path.as_str()).collect()
}

fn make_old(store: &BlobStore, id: ContentId, age: Duration) {
    let then = SystemTime::now() - age;
    let times = fs::FileTimes::new().set_accessed(then).set_modified(then);
    File::open(store.blob_path(id)).unwrap().set_times(times).unwrap();
}

/// What a crash of the machine may do to a blob that was not durable.
fn tear(store: &BlobStore, id: ContentId) {
    let path = store.blob_path(id);
    let mode = fs::metadata(&path).unwrap().permissions();
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, mode).unwrap();
}

#[test]
fn bytes_and_files_come_back_as_they_were() {
    let bench = bench();
    let large = vec![7u8; (3 << 20) + 5];
    for bytes in [&b""[..], b"hello", &large] {
        let id = bench.store.put_bytes(bytes).unwrap();
        assert_eq!(id, ContentId::of(bytes));
        assert_eq!(bench.store.has(id), Some(bytes.len() as u64));
        assert_eq!(bench.store.read_small(id, 4 << 20).unwrap(), bytes);
        let path = bench.tmp.path().join("file");
        fs::write(&path, bytes).unwrap();
        assert_eq!(bench.store.put_file(&path).unwrap(), (id, bytes.len() as u64));
        let other = BlobStore::open(&bench.tmp.path().join("other")).unwrap();
        assert_eq!(other.put_file(&path).unwrap().0, id);
        assert_eq!(other.read_small(id, 4 << 20).unwrap(), bytes);
    }
    assert_eq!((bench.files_in("tmp"), bench.files_in("outboard")), (0, 1));
    assert!(bench.store.has(ContentId::of(b"other")).is_none());
    assert!(matches!(bench.store.open_blob(ContentId::of(b"other")), Err(BlobError::Missing(_))));
    assert!(matches!(bench.store.read_small(ContentId::of(b"hello"), 4), Err(BlobError::TooLarge { size: 5, .. })));
}

#[test]
fn what_was_synced_is_marked_durable() {
    let bench = bench();
    let few: Vec<ContentId> = (0..3u32).map(|n| bench.store.put_bytes(&n.to_le_bytes()).unwrap()).collect();
    let many: Vec<ContentId> = (10..210u32).map(|n| bench.store.put_bytes(&n.to_le_bytes()).unwrap()).collect();
    bench.store.sync(&few).unwrap();
    let mode = |id| fs::metadata(bench.store.blob_path(id)).unwrap().mode() & 0o777;
    assert_eq!((mode(few[0]), mode(many[0])), (MODE_DURABLE, 0o400));
    bench.store.sync(&many).unwrap();
    assert!(many.iter().all(|&id| mode(id) == MODE_DURABLE));
    let absent = ContentId::of(b"absent");
    assert!(matches!(bench.store.sync(&[absent]), Err(BlobError::Missing(id)) if id == absent));
    // Entering again does not take the mark away.
    bench.store.put_bytes(&0u32.to_le_bytes()).unwrap();
    assert_eq!(mode(few[0]), MODE_DURABLE);
}

#[test]
fn a_crash_of_the_machine_leaves_no_torn_blob() {
    let bench = bench();
    let torn = bench.store.put_bytes(b"torn").unwrap();
    let sound = bench.store.put_bytes(b"sound").unwrap();
    tear(&bench.store, torn);
    // The same boot: nothing was lost, nothing is read.
    assert!(bench.reopen().has(torn).is_some());
    fs::write(bench.tmp.path().join("store/boot"), "an earlier boot").unwrap();
    fs::write(bench.tmp.path().join("store/tmp/left"), "half a file").unwrap();
    let store = bench.reopen();
    assert_eq!((store.has(torn), store.has(sound)), (None, Some(5)));
    assert_eq!(bench.files_in("tmp"), 0);
}

#[test]
fn a_full_disk_is_refused_before_anything_is_written() {
    let tmp = tempfile::tempdir().unwrap();
    let store = BlobStore::open_with(&tmp.path().join("store"), Arc::new(|_: &Path| Ok(RESERVE_BYTES + 100))).unwrap();
    let error = store.put_bytes(&[1; 101]).unwrap_err();
    assert!(error.is_disk_full() && error.to_string().contains("fnode gc"), "{error}");
    store.put_bytes(&[1; 100]).unwrap();
    let dir = tmp.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a"), [2; 60]).unwrap();
    fs::write(dir.join("b"), [3; 60]).unwrap();
    assert!(matches!(store.pack(&dir, |_| ()), Err(PackError::Store(BlobError::DiskFull { need: 120, .. }))));
    assert_eq!(store.usage().unwrap().blobs, 1, "not even the first file");
    fs::write(dir.join("c"), vec![4; 2 << 20]).unwrap();
    assert!(store.put_file(&dir.join("c")).unwrap_err().is_disk_full());
    assert_eq!(fs::read_dir(tmp.path().join("store/tmp")).unwrap().count(), 0);
}

#[test]
fn packing_leaves_out_what_it_should() {
    let bench = bench();
    let dir = bench.dir(
        "rules",
        &[
            ("train.py", "1"),
            ("data/a.csv", "2"),
            ("data/b.tmp", "3"),
            ("data/keep.tmp", "4"),
            (".hidden", "5"),
            (".gitignore", "train.py"),
            (".fnodeignore", "*.tmp\n!keep.tmp\n/only_root\n!node_modules/\n"),
            ("only_root", "6"),
            ("sub/only_root", "7"),
            ("sub/.fnodeignore", "secret\n"),
            ("sub/secret", "8"),
            ("secret", "9"),
            (".git/HEAD", "x"),
            ("a/.git/HEAD", "x"),
            ("__pycache__/a.pyc", "x"),
            ("lib/b.pyc", "x"),
            ("lib/.DS_Store", "x"),
            (".venv/bin/python", "x"),
            ("venv/pyvenv.cfg", "x"),
            ("myenv/pyvenv.cfg", "x"),
            (".mypy_cache/x", "x"),
            (".pytest_cache/x", "x"),
            (".ipynb_checkpoints/x", "x"),
            (".hg/x", "x"),
            (".svn/x", "x"),
            (".fnode/blobs/x", "x"),
            ("node_modules/x.js", "rescued"),
            ("empty/", ""),
        ],
    );
    // A rule file above the directory says nothing about it.
    fs::write(bench.tmp.path().join(".fnodeignore"), "train.py").unwrap();
    let packed = bench.pack(&dir).unwrap();
    assert_eq!(
        paths(&packed.manifest),
        [
            ".fnodeignore",
            ".gitignore",
            ".hidden",
            "a",
            "data/a.csv",
            "data/keep.tmp",
            "empty",
            "lib",
            "node_modules/x.js",
            "secret",
            "sub/.fnodeignore",
            "sub/only_root",
            "train.py"
        ]
    );
    assert_eq!(packed.manifest.check(), Ok(()));
    let encoded = bench.store.read_small(packed.id, 1 << 20).unwrap();
    assert_eq!(proto::codec::decode::<Manifest>(&encoded).unwrap(), packed.manifest);
    assert_eq!(packed.id, packed.manifest.id());
    assert_eq!(packed.manifest_bytes, encoded.len() as u64);
}

#[test]
fn what_cannot_travel_is_named_with_its_remedy() {
    let bench = bench();
    let message = |result: Result<super::Packed, PackError>| result.unwrap_err().to_string();
    let refuses = |error: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    refuses(message(bench.pack(Path::new("/nowhere/at/all"))), &["no such directory", "/nowhere/at/all"]);
    refuses(message(bench.pack(&bench.dir("f", &[("file", "x")]).join("file"))), &["is not a directory"]);
    refuses(message(bench.pack(&bench.dir("e", &[]))), &["holds no files"]);
    refuses(message(bench.pack(&bench.dir("i", &[(".git/HEAD", "x")]))), &["holds no files"]);

    for (name, target) in [("l1", "/etc/passwd"), ("l2", "../x"), ("l3", "sub/../../x")] {
        let dir = bench.dir(name, &[("sub/x", "x")]);
        symlink(target, dir.join("link")).unwrap();
        refuses(message(bench.pack(&dir)), &["link", target, "copy the target in"]);
        fs::write(dir.join(".fnodeignore"), "link").unwrap();
        bench.pack(&dir).unwrap();
    }

    let dir = bench.dir("fifo", &[("x", "x")]);
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    refuses(message(bench.pack(&dir)), &["pipe", "named pipe", ".fnodeignore"]);
    let dir = bench.dir("sock", &[("x", "x")]);
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("sock")).unwrap();
    refuses(message(bench.pack(&dir)), &["socket"]);

    use std::os::unix::ffi::OsStrExt;
    let dir = bench.dir("utf8", &[("x", "x")]);
    fs::write(dir.join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").unwrap();
    refuses(message(bench.pack(&dir)), &["bad\u{fffd}", "not UTF-8"]);
    let dir = bench.dir("case", &[("Data", "x"), ("data", "x")]);
    refuses(message(bench.pack(&dir)), &["differ only in case", "rename"]);
    let dir = bench.dir("glob", &[("x", "x"), (".fnodeignore", "ok\n[z-a]\n")]);
    refuses(message(bench.pack(&dir)), &[".fnodeignore", "[z-a]"]);

    let dir = bench.dir("unreadable", &[("x", "x")]);
    fs::set_permissions(dir.join("x"), Permissions::from_mode(0o000)).unwrap();
    // The superuser reads everything; then there is nothing to refuse.
    match bench.pack(&dir) {
        Err(error) => refuses(error.to_string(), &["cannot read", "/x", "permissions"]),
        Ok(_) => assert!(rustix::process::geteuid().is_root()),
    }
}

#[test]
fn an_unchanged_directory_is_not_read_again() {
    let bench = bench();
    let files: Vec<(String, String)> = (0..1_000).map(|n| (format!("d{}/f{n}", n % 10), format!("text {n}"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let dir = bench.dir("many", &files);
    let then = SystemTime::now() - Duration::from_secs(5);
    for (path, _) in &files {
        File::options().write(true).open(dir.join(path)).unwrap().set_modified(then).unwrap();
    }
    let first = bench.pack(&dir).unwrap();
    assert_eq!(first.new_bytes, first.total_bytes);
    // Change times cannot be set, so the files age until the cache may trust them.
    let deadline = SystemTime::now() + Duration::from_secs(10);
    loop {
        let mut read = None;
        let first_look = |p: super::PackProgress| read = read.or(Some(p.files_total - p.files_done));
        let again = bench.store.pack(&dir, first_look).unwrap();
        assert_eq!((again.id, again.new_bytes), (first.id, 0));
        if read == Some(0) {
            break;
        }
        assert!(SystemTime::now() < deadline, "{read:?} of 1,000 unchanged files are still read");
    }
    // A cached hash whose blob is gone is worth nothing.
    let FileKind::File { content, .. } = first.manifest.files[0].kind else { panic!("a file") };
    bench.store.remove(content).unwrap();
    assert_eq!(bench.pack(&dir).unwrap().id, first.id);
    assert!(bench.store.has(content).is_some());
}

#[test]
fn a_change_within_one_tick_is_seen() {
    let bench = bench();
    let dir = bench.dir("racy", &[("a", "0000")]);
    for round in 0..200 {
        let text = format!("{round:04}");
        fs::write(dir.join("a"), &text).unwrap();
        let packed = bench.pack(&dir).unwrap();
        let FileKind::File { content, .. } = packed.manifest.files[0].kind else { panic!("a file") };
        assert_eq!(content, ContentId::of(text.as_bytes()), "round {round}");
    }
}

#[test]
fn unpacking_gives_copies_with_plain_modes() {
    let bench = bench();
    let dir = bench.dir("tree", &[("run.sh", "#!"), ("sub/data", "x"), ("empty/", "")]);
    fs::write(dir.join("large"), vec![9; 2 << 20]).unwrap();
    fs::set_permissions(dir.join("run.sh"), Permissions::from_mode(0o4700)).unwrap();
    fs::set_permissions(dir.join("sub/data"), Permissions::from_mode(0o400)).unwrap();
    symlink("sub/data", dir.join("link")).unwrap();
    let packed = bench.pack(&dir).unwrap();
    let dest = bench.tmp.path().join("dest");
    bench.store.unpack(&packed.manifest, &dest).unwrap();
    for (path, mode) in [("run.sh", 0o100_755), ("sub/data", 0o100_644), ("large", 0o100_644)] {
        let meta = fs::metadata(dest.join(path)).unwrap();
        assert_eq!((meta.mode(), meta.nlink()), (mode, 1), "{path}");
        assert_eq!(fs::read(dest.join(path)).unwrap(), fs::read(dir.join(path)).unwrap());
    }
    assert_eq!(fs::read_link(dest.join("link")).unwrap(), Path::new("sub/data"));
    assert!(dest.join("empty").is_dir());
    assert_eq!(bench.pack(&dest).unwrap().id, packed.id);
    assert!(matches!(bench.store.unpack(&packed.manifest, &dest), Err(UnpackError::Exists(_))));
    let empty = bench.dir("waiting", &[]);
    bench.store.unpack(&packed.manifest, &empty).unwrap();
}

#[test]
fn a_bundle_that_cannot_be_trusted_leaves_nothing() {
    let bench = bench();
    let content = bench.store.put_bytes(b"x").unwrap();
    let file = |path: &str, content, size| ManifestFile {
        path: path.to_owned(),
        kind: FileKind::File { content, size, executable: false },
    };
    let link = |path: &str, target: &str| ManifestFile { path: path.to_owned(), kind: FileKind::Link(target.into()) };
    let hostile = [
        vec![file("/etc/x", content, 1)],
        vec![file("../x", content, 1)],
        vec![file("a/../../x", content, 1)],
        vec![link("a", "/etc")],
        vec![link("a", "../..")],
        vec![link("a", "b"), file("a/x", content, 1)],
        vec![file("A", content, 1), file("a", content, 1)],
        vec![file("b", content, 1), file("a", content, 1)],
        vec![file("a", content, 1), file("b", content, 2)],
        vec![file("a", content, 1), file("b", ContentId::of(b"absent"), 6)],
    ];
    let arena = bench.dir("arena", &[]);
    for files in hostile {
        let manifest = Manifest { files, ..Manifest::default() };
        let error = bench.store.unpack(&manifest, &arena.join("dest")).unwrap_err();
        assert_eq!(fs::read_dir(&arena).unwrap().count(), 0, "{error}");
    }
    let manifest = Manifest { files: vec![file("a", content, 1)], ..Manifest::default() };
    tear(&bench.store, content);
    let error = bench.store.unpack(&manifest, &arena.join("dest")).unwrap_err();
    assert!(matches!(error, UnpackError::Store(BlobError::Corrupt(id)) if id == content), "{error}");
    assert_eq!((fs::read_dir(&arena).unwrap().count(), bench.store.has(content)), (0, None));
}

#[test]
fn outputs_are_what_the_job_made_or_changed() {
    let bench = bench();
    let dir =
        bench.dir("job", &[("same", "s"), ("kept/data", "d"), ("edited", "12345"), ("touched", "t"), ("gone", "g")]);
    fs::write(dir.join(".fnodeignore"), "results/\n").unwrap();
    let packed = bench.pack(&dir).unwrap();
    let work = bench.tmp.path().join("work");
    bench.store.unpack(&packed.manifest, &work).unwrap();
    let collect = |limit| bench.store.collect_outputs(&work, Some(&packed.manifest), limit).unwrap();
    let untouched = collect(u64::MAX);
    assert_eq!((untouched.manifest, untouched.skipped), (Manifest::default(), Vec::new()));

    // The same length and, put back, the same time: only the change time tells.
    let then = fs::metadata(work.join("edited")).unwrap().modified().unwrap();
    fs::write(work.join("edited"), "54321").unwrap();
    File::options().write(true).open(work.join("edited")).unwrap().set_modified(then).unwrap();
    fs::write(work.join("touched"), "t").unwrap();
    fs::remove_file(work.join("gone")).unwrap();
    fs::create_dir_all(work.join("results")).unwrap();
    fs::write(work.join("results/model"), vec![1; 1000]).unwrap();
    fs::write(work.join("results/metrics"), "0.9").unwrap();
    fs::create_dir(work.join("__pycache__")).unwrap();
    fs::write(work.join("__pycache__/x.pyc"), "x").unwrap();
    symlink("/etc", work.join("out")).unwrap();
    symlink("results/model", work.join("best")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, work.join("pipe"), rustix::fs::Mode::RUSR).unwrap();

    let outputs = collect(u64::MAX);
    assert_eq!(paths(&outputs.manifest), ["best", "edited", "results/metrics", "results/model"]);
    assert_eq!(outputs.manifest.removed, ["gone"]);
    assert_eq!((outputs.total_bytes, outputs.new_bytes), (1008, 1008));
    let skipped: Vec<_> = outputs.skipped.iter().map(|s| (s.path.as_str(), s.reason)).collect();
    assert_eq!(skipped, [("pipe", SkipReason::CannotTravel), ("out", SkipReason::LinkLeaves)]);
    bench.store.unpack(&outputs.manifest, &bench.tmp.path().join("results")).unwrap();

    let limited = collect(10);
    assert_eq!(paths(&limited.manifest), ["best", "edited", "results/metrics"]);
    assert!(limited.skipped.iter().any(|s| s.path == "results/model" && s.size == 1000));

    let scratch = bench.dir("scratch", &[("new", "n")]);
    assert_eq!(paths(&bench.store.collect_outputs(&scratch, None, 10).unwrap().manifest), ["new"]);
}

#[test]
fn what_the_job_removed_is_told_and_what_is_merely_not_collected_is_not() {
    let bench = bench();
    let names =
        ["a", "d/x", "d/y/z", "node_modules/left", "node_modules/gone", "Old", "link/x", "now_dir", "now_link/x"];
    let files: Vec<_> = names.iter().map(|&name| (name, name)).collect();
    let dir = bench.dir("job", &files);
    fs::write(dir.join(".fnodeignore"), "!node_modules/\n").unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    let packed = bench.pack(&dir).unwrap();
    assert!(paths(&packed.manifest).contains(&"node_modules/left"), "{:?}", paths(&packed.manifest));
    let work = bench.tmp.path().join("work");
    bench.store.unpack(&packed.manifest, &work).unwrap();
    fs::remove_dir_all(work.join("d")).unwrap();
    fs::write(work.join("d"), "a file now").unwrap();
    fs::remove_file(work.join("node_modules/gone")).unwrap();
    fs::rename(work.join("Old"), work.join("OLD")).unwrap();
    fs::remove_dir(work.join("empty")).unwrap();
    // A directory of what cannot travel, and a link to where a file of that name is.
    fs::remove_file(work.join("now_dir")).unwrap();
    fs::create_dir(work.join("now_dir")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, work.join("now_dir/pipe"), rustix::fs::Mode::RUSR).unwrap();
    fs::remove_dir_all(work.join("now_link")).unwrap();
    symlink("link", work.join("now_link")).unwrap();

    let outputs = bench.store.collect_outputs(&work, Some(&packed.manifest), u64::MAX).unwrap().manifest;
    assert_eq!(outputs.check(), Ok(()));
    assert_eq!(paths(&outputs), ["OLD", "d", "now_link"]);
    assert_eq!(outputs.removed, ["Old", "d/x", "d/y/z", "empty", "node_modules/gone", "now_dir", "now_link/x"]);
    let whole = packed.manifest.overlaid(&outputs);
    assert_eq!(paths(&whole), [".fnodeignore", "OLD", "a", "d", "link/x", "node_modules/left", "now_link"]);
}

#[test]
fn a_sweep_takes_the_longest_unused_first() {
    const HOUR: Duration = Duration::from_secs(3600);
    let bench = bench();
    let ids: Vec<ContentId> = (0..4u8).map(|n| bench.store.put_bytes(&[n; 10]).unwrap()).collect();
    for (age, &id) in (1..).zip(&ids[..3]) {
        make_old(&bench.store, id, HOUR * age);
    }
    assert_eq!((bench.store.usage().unwrap().blobs, bench.store.usage().unwrap().bytes), (4, 40));
    let pinned = ids[2];
    let sweep = Sweep { unused_for: Duration::ZERO, until: SweepUntil::Freed(5), dry_run: false };
    let counted = bench.store.sweep(|id| id == pinned, Sweep { dry_run: true, ..sweep }).unwrap();
    let freed = bench.store.sweep(|id| id == pinned, sweep).unwrap();
    assert_eq!(counted, freed, "a dry run counts what the next one removes");
    assert_eq!((freed.blobs, freed.bytes), (1, 10));
    assert_eq!((bench.store.has(ids[1]), bench.store.has(ids[0])), (None, Some(10)));
    // Used just now, so it stays although nobody names it.
    drop(bench.store.open_blob(ids[0]).unwrap());
    assert_eq!(bench.store.sweep(|_| false, Sweep { until: SweepUntil::Done, ..sweep }).unwrap().blobs, 1);
    assert_eq!((bench.store.has(pinned), bench.store.has(ids[0]), bench.store.has(ids[3])), (None, Some(10), Some(10)));
}

#[test]
fn damage_is_found_and_removed() {
    let bench = bench();
    let sound = bench.store.put_bytes(b"sound").unwrap();
    let damaged = bench.store.put_bytes(b"damaged").unwrap();
    bench.store.sync(&[sound, damaged]).unwrap();
    tear(&bench.store, damaged);
    let mut seen = 0;
    assert_eq!(bench.store.verify(|usage| seen = usage.blobs).unwrap(), [damaged]);
    assert_eq!((seen, bench.store.has(damaged), bench.store.has(sound)), (2, None, Some(5)));
}

#[test]
fn using_a_blob_leaves_when_it_was_written_as_it_was() {
    let bench = bench();
    let id = bench.store.put_bytes(b"bytes").unwrap();
    make_old(&bench.store, id, Duration::from_secs(3_600));
    let written = || fs::metadata(bench.store.blob_path(id)).unwrap().modified().unwrap();
    let before = written();
    assert!(bench.store.renew(id, 5) && bench.store.check(id).unwrap());
    assert_eq!(written(), before);
    let all = Sweep { unused_for: Duration::ZERO, until: SweepUntil::Done, dry_run: false };
    assert_eq!(bench.store.sweep(|_| false, all).unwrap().blobs, 0, "it was used just now");
}

#[test]
fn a_file_that_comes_in_mends_a_damaged_blob_of_its_name() {
    let bench = bench();
    let id = bench.store.put_bytes(b"bytes").unwrap();
    let path = bench.store.blob_path(id);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, b"bytez").unwrap();
    let file = bench.dir("in", &[("file", "bytes")]).join("file");
    assert_eq!(bench.store.take_file(&file).unwrap(), (id, 5));
    assert_eq!(fs::read(&path).unwrap(), b"bytes");
}
