//! What jobs leave is archived in an object store, and had from there when no node has it any more: in a directory, and
//! in a real S3-compatible server.

mod lab;

use std::path::PathBuf;

use lab::bucket::Bucket;
use lab::output::{list, text};
use lab::{Lab, Launch, SOON, wait_for};
use serde_json::Value;

/// Where an archive lies, as a test looks into it.
enum Archive {
    Directory(PathBuf),
    Bucket(Bucket),
}

impl Archive {
    fn place(&self) -> String {
        match self {
            Self::Directory(dir) => format!("file://{}", dir.display()),
            Self::Bucket(bucket) => bucket.place("of lab"),
        }
    }

    fn variables(&self) -> Vec<(String, String)> {
        match self {
            Self::Directory(_) => Vec::new(),
            Self::Bucket(bucket) => bucket.variables(),
        }
    }

    fn get(&self, path: &str) -> Option<Vec<u8>> {
        match self {
            Self::Directory(dir) => std::fs::read(dir.join(path)).ok(),
            Self::Bucket(bucket) => bucket.get(&format!("of%20lab/{path}")),
        }
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        match self {
            Self::Directory(dir) => std::fs::write(dir.join(path), bytes).expect("the archive is ours"),
            Self::Bucket(bucket) => bucket.put(&format!("of%20lab/{path}"), bytes),
        }
    }
}

/// Two nodes that archive there.
fn archiving(archive: &Archive) -> Lab {
    let args = vec!["--archive".to_owned(), archive.place()];
    Lab::start_with(2, &Launch { args, env: archive.variables(), ..Launch::default() })
}

/// Waits until `reader` is told that a job is archived.
#[track_caller]
fn wait_archived(lab: &Lab, reader: usize, job: &str) -> Value {
    wait_for(&format!("{job} is archived"), SOON, || {
        let word = lab.job(reader, job);
        word["archive"]["archived_unix_ms"].is_u64().then_some(word)
    })
}

/// No node has any blob left; daemons run again.
fn lose_blobs(lab: &mut Lab) {
    for node in 0..2 {
        lab.shutdown(node);
        std::fs::remove_dir_all(lab.home(node).join("blobs")).expect("the blobs can be removed");
    }
    for node in 0..2 {
        lab.restart(node);
    }
}

const SCRIPT: &str = "yes 0123456789abcdef | head -n 4000; mkdir -p 'sub dir'; echo odd > 'sub dir/100% é#1?.txt'; \
     ln -s model link; mkdir empty; head -c 20000000 /dev/zero | tr '\\0' x > model; chmod +x model; \
     mkdir -p $FNODE_ARTIFACTS_DIR && echo kept > $FNODE_ARTIFACTS_DIR/report.txt";

fn archived_and_back(archive: &Archive) {
    let mut lab = archiving(archive);
    let job = lab.submit_id(0, &["--node", "n1"], SCRIPT);
    assert_eq!(text(&lab.wait_ended(0, &job, SOON), "state"), "completed");
    // Asked of a node that did not run it.
    let word = wait_archived(&lab, 0, &job);
    assert_eq!(text(&word["archive"], "place"), archive.place());
    let record: Value =
        serde_json::from_slice(&archive.get(&format!("archive/{job}/job.json")).expect("its record")).expect("JSON");
    assert_eq!(
        (text(&record, "job"), text(&record, "state"), text(&record, "node")),
        (job.as_str(), "completed", "n1")
    );
    assert_eq!(archive.get(&format!("archive/{job}/artifacts/model")).expect("an output").len(), 20_000_000);
    assert_eq!(archive.get(&format!("archive/{job}/log.txt")).expect("the log").len(), 4_000 * 17);
    let findings = lab.fnode(0, &["doctor", "--json"]).json();
    let finding = list(&findings, "findings").iter().find(|finding| text(finding, "subject") == "archive");
    assert_eq!(text(finding.expect("the archive is looked at"), "verdict"), "good");

    lose_blobs(&mut lab);
    let back = lab.path("back");
    let to = back.to_str().expect("UTF-8");
    lab.fnode(0, &["job", "get", &job, "--to", to]).ok();
    assert!(std::fs::read(back.join("model")).expect("an output").iter().all(|&byte| byte == b'x'));
    assert_eq!(std::fs::read(back.join("sub dir/100% é#1?.txt")).expect("an odd name"), b"odd\n");
    assert_eq!(std::fs::read_link(back.join("link")).expect("a link"), PathBuf::from("model"));
    assert!(back.join("empty").is_dir());
    assert_eq!(lab.logs(0, &job).len(), 4_000 * 17, "a large log comes from there, too");

    // Somebody with access to the store changes one byte of one file.
    lose_blobs(&mut lab);
    let mut model = vec![b'x'; 20_000_000];
    model[12_345_678] = b'y';
    archive.put(&format!("archive/{job}/artifacts/model"), &model);
    let told = lab.fnode(0, &["job", "get", &job, "--to", lab.path("no").to_str().expect("UTF-8")]);
    told.refused(&["artifacts/model", "has other bytes than were put there"]);
    assert!(!lab.path("no").exists());
}

#[test]
fn an_archive_in_a_directory_gives_back_what_no_node_has() {
    let dir = tempfile::tempdir().expect("a directory");
    archived_and_back(&Archive::Directory(dir.path().join("to be made")));
}

#[test]
fn an_archive_in_a_bucket_gives_back_what_no_node_has() {
    let Some(bucket) = Bucket::start() else { return };
    archived_and_back(&Archive::Bucket(bucket));
}

#[test]
fn a_bucket_that_is_down_harms_no_job_and_gets_what_it_missed() {
    let Some(mut bucket) = Bucket::start() else { return };
    bucket.stop();
    let args = vec!["--archive".to_owned(), bucket.place("x")];
    let mut lab = Lab::start_with(1, &Launch { args, env: bucket.variables(), ..Launch::default() });
    let jobs: Vec<String> = (0..3).map(|_| lab.submit_id(0, &[], "echo hello; echo left > file")).collect();
    for job in &jobs {
        assert_eq!(text(&lab.wait_ended(0, job, SOON), "state"), "completed");
    }
    let told = wait_for("the trouble is told", SOON, || {
        let word = lab.job(0, &jobs[0]);
        (word["archive"]["owed"] == true && word["archive"]["why"].is_string()).then_some(word)
    });
    assert!(text(&told["archive"], "why").contains("cannot be reached"), "{told}");
    // What is owed survives the daemon, and is told once, without the secret.
    lab.kill9(0);
    lab.restart(0);
    bucket.serve();
    for job in &jobs {
        wait_archived(&lab, 0, job);
    }
    assert!(bucket.list("x/archive/").contains("artifacts/file"));
    let log = std::fs::read_to_string(lab.path("n0.log")).expect("the daemon's log");
    assert!(!log.contains("hunter2"), "{log}");
    let shown = lab.fnode(0, &["config", "show"]).ok().stdout;
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn an_end_point_that_is_none_is_refused_in_one_line() {
    let mut lab = Lab::empty();
    for (place, words) in
        [("sftp://host/x", "sftp:// is not supported"), ("s3://x", "names no bucket"), ("/x", "no object store")]
    {
        let args = vec!["--archive".to_owned(), place.to_owned()];
        let node = lab.add_apart(&Launch { args, ..Launch::default() });
        lab.launch_refused(node, None).refused(&["--archive cannot be used", words]);
    }
}

const SLOW: &[u8] = b"import os, sys
import foundations

@foundations.cache
def slow(n):
    with open(os.environ['MARK'], 'a') as mark:
        mark.write('x')
    return [i * 7 for i in range(n)]

print(sum(slow(int(sys.argv[1]))))
";

/// A cluster of one whose cache is shared through the bucket.
fn caching(bucket: &Bucket) -> Lab {
    let args = vec!["--cache-store".to_owned(), bucket.place("x")];
    Lab::start_with(1, &Launch { args, env: bucket.variables(), ..Launch::default() })
}

/// Calls the function in a job; returns how often it was computed on this laboratory's machine so far.
#[track_caller]
fn call(lab: &Lab, n: u32) -> u64 {
    let (dir, mark) = (lab.bundle(&[("slow.py", SLOW)]), lab.path("mark"));
    let mark_is = format!("MARK={}", mark.display());
    let n_text = n.to_string();
    let words = ["submit", &dir, "--project", "lab", "--env", &mark_is, "--wait", "--", "python3", "slow.py", &n_text];
    let ended = lab.json(0, &words);
    let job = text(&ended, "id");
    let n = u64::from(n);
    assert_eq!(text(&ended, "state"), "completed", "{}", lab.logs(0, job));
    assert_eq!(lab.logs(0, job).trim(), (7 * n * (n - 1) / 2).to_string());
    std::fs::metadata(mark).map_or(0, |meta| meta.len())
}

/// Names below `prefix` in the bucket.
fn names(bucket: &Bucket, prefix: &str) -> Vec<String> {
    let list = bucket.list(prefix);
    list.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned())).collect()
}

#[test]
fn a_cached_value_is_found_by_a_cluster_that_shares_nothing_but_the_bucket() {
    let Some(mut bucket) = Bucket::start() else { return };
    let one = caching(&bucket);
    // A large value and one that rides in the log.
    assert_eq!((call(&one, 50_000), call(&one, 10)), (1, 2));
    wait_for("both are in the bucket", SOON, || (names(&bucket, "x/keys/").len() == 2).then_some(()));
    let two = caching(&bucket);
    assert_eq!((call(&two, 50_000), call(&two, 10)), (0, 0), "{}", bucket.list("x/"));
    assert_eq!(call(&two, 50_000), 0, "it is a value of this cluster now");
    let listed = two.json(0, &["cache", "list"]);
    assert_eq!(list(&listed, "values").len(), 2, "{listed}");

    // Whoever may write to the bucket changes a value, and what is said of the other one.
    let values = names(&bucket, "x/values/");
    for name in &values {
        let mut bytes = bucket.get(name).expect("a value");
        *bytes.last_mut().expect("not empty") ^= 1;
        bucket.put(name, &bytes);
    }
    let three = caching(&bucket);
    assert_eq!((call(&three, 50_000), call(&three, 10)), (1, 2), "nothing that was changed is used");

    // A purge is heard there, too.
    let keys: Vec<String> =
        list(&three.json(0, &["cache", "list"]), "values").iter().map(|value| text(value, "key").to_owned()).collect();
    for key in &keys {
        three.fnode(0, &["cache", "purge", key]).ok();
    }
    wait_for("the keys are gone", SOON, || names(&bucket, "x/keys/").is_empty().then_some(()));

    // A bucket that is down costs nothing but what it would have saved.
    bucket.stop();
    let four = caching(&bucket);
    assert_eq!((call(&four, 50_000), call(&four, 10)), (1, 2));
}
