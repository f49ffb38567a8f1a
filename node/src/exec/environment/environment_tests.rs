//! Single flight, giving up, failures and room, with a `uv` that is a shell script: no registry, no Python build.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::*;

/// Longer than anything here takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

struct Lab {
    dir: tempfile::TempDir,
    environments: Environments,
}

impl Lab {
    /// `install` is what `uv pip install` does: a piece of shell in which `$LAB` is the test's directory.
    fn new(install: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lab = dir.path().display().to_string();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        program(&bin.join("python3.11"), "echo 3.11.7");
        let uv = format!(
            "LAB={lab}\ncase $1 in\nvenv) for last; do :; done; mkdir -p $last/bin; ln -s {}/python3.11 $last/bin/python;;\n\
             pip) echo x >> $LAB/installs; {install};;\nesac",
            bin.display()
        );
        program(&bin.join("uv"), &uv);
        let search = Search { path: bin.clone().into(), ..Search::default() };
        let path = format!("{}:/usr/bin:/bin", bin.display());
        let settings = Settings::with_path(&path);
        let environments = Environments::open_with(&dir.path().join("environments"), search, settings).unwrap();
        Self { dir, environments }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn installs(&self) -> usize {
        fs::read_to_string(self.path("installs")).unwrap_or_default().lines().count()
    }

    async fn ensure(&self, text: &str) -> Result<Arc<Environment>, EnvironmentError> {
        let log = self.path("job.log");
        self.environments.ensure(&wanted(text), &log).await.map(|found| found.expect("something to install"))
    }
}

fn program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn wanted(text: &str) -> Wanted {
    Wanted {
        kind: Kind::Requirements,
        bytes: text.as_bytes().to_vec(),
        file_name: "requirements.txt".to_owned(),
        project_files: None,
        python: String::new(),
        is_layered: false,
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_alive(pid: &str) -> bool {
    // A killed process that nobody has waited for yet is dead enough.
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_need_the_same_one_wait_for_one_build() {
    let lab = Lab::new("while [ ! -e $LAB/go ]; do sleep 0.01; done; echo installed");
    let go = async {
        until("the build has begun", || lab.installs() == 1).await;
        fs::write(lab.path("go"), "").unwrap();
    };
    let (first, second, third, ()) = tokio::join!(lab.ensure("a"), lab.ensure("# same\na\n"), lab.ensure("a"), go);
    let (first, second, third) = (first.unwrap(), second.unwrap(), third.unwrap());
    assert!(Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&first, &third));
    let later = lab.ensure("a").await.unwrap();
    assert_eq!((later.id.as_str(), lab.installs()), (first.id.as_str(), 1));
    assert!(first.python.exists());
    assert_eq!(first.path(OsStr::new("/bin")), format!("{}:/bin", first.bin.display()).as_str());
    let log = fs::read_to_string(lab.path("job.log")).unwrap();
    assert_eq!(log.matches("installed").count(), 3, "each of those who waited has the log: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_can_be_followed_while_the_build_runs() {
    let lab = Lab::new("echo downloading; while [ ! -e $LAB/go ]; do sleep 0.01; done");
    let watch = async {
        let says = || fs::read_to_string(lab.path("job.log")).unwrap_or_default();
        until("the job's log shows the download", || says().contains("downloading")).await;
        fs::write(lab.path("go"), "").unwrap();
    };
    let (built, ()) = tokio::join!(lab.ensure("a"), watch);
    built.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_goes_on_while_one_waits_and_is_killed_with_the_last() {
    let lab = Arc::new(Lab::new("sleep 600 & echo $! > $LAB/pid; wait"));
    let job = |lab: &Arc<Lab>| {
        let lab = Arc::clone(lab);
        tokio::spawn(async move { lab.ensure("a").await })
    };
    let first = job(&lab);
    let written = || fs::read_to_string(lab.path("pid")).is_ok_and(|pid| pid.ends_with('\n'));
    until("the build has begun", written).await;
    let second = job(&lab);
    let interested = || match lab.environments.inner.desk().flights.values().next().map(|flight| &flight.state) {
        Some(FlightState::Building { interest, .. }) => interest.strong_count(),
        _ => 0,
    };
    until("both wait", || interested() == 2).await;
    let pid = fs::read_to_string(lab.path("pid")).unwrap();
    first.abort();
    until("one waits", || interested() == 1).await;
    assert!(is_alive(&pid), "the other one still waits");
    second.abort();
    until("the whole group is dead", || !is_alive(&pid)).await;
    // The place is free for a new build, which starts from nothing.
    let retry = job(&lab);
    until("a new build has begun", || lab.installs() == 2).await;
    retry.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_to_whoever_asks_soon_and_then_tried_again() {
    let lab = Lab::new("[ -e $LAB/index ] || { echo 'no such package: a' >&2; exit 2; }");
    let failed = lab.ensure("a").await.unwrap_err();
    let EnvironmentError::Build { tool, exit, tail } = &failed else { panic!("{failed}") };
    assert_eq!((*tool, exit.as_str()), ("uv pip install", "exit code 2"));
    assert!(tail.ends_with("no such package: a"), "{tail}");
    assert!(!failed.may_pass());
    fs::write(lab.path("index"), "").unwrap();
    assert_eq!(lab.ensure("a").await, Err(failed));
    assert_eq!(lab.installs(), 1, "a thousand jobs of an array do not fail a thousand times");
    lab.environments.inner.desk().forget(Instant::now() + FAILURE_KEPT);
    assert!(lab.ensure("a").await.is_ok());
    assert_eq!(lab.environments.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_least_recently_used_goes_first_and_what_is_held_stays() {
    let lab = Lab::new("head -c 100000 /dev/zero > ${5%python}data");
    let mut ids = Vec::new();
    for (age, text) in [(30, "a"), (20, "b"), (10, "c")] {
        let id = lab.ensure(text).await.unwrap().id.clone();
        let used = fs::File::options().write(true).open(lab.environments.inner.shelf.place(&id).join("used")).unwrap();
        used.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
        ids.push(id);
    }
    let held = lab.ensure("a").await.unwrap();
    let none = BTreeSet::new();
    let all: u64 = lab.environments.list().iter().map(|one| one.bytes).sum();
    assert_eq!(lab.environments.gc(all, &none).unwrap(), []);
    let removed = lab.environments.gc(all - 1, &none).unwrap();
    assert_eq!(removed.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), [ids[1].as_str()]);
    let adopted = BTreeSet::from([ids[2].clone()]);
    assert_eq!(lab.environments.gc(0, &adopted).unwrap(), [], "one is held, one belongs to an adopted attempt");
    drop(held);
    assert_eq!(lab.environments.gc(0, &none).unwrap().len(), 2);
    assert_eq!(lab.environments.list(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_a_killed_daemon_has_left_is_ended_by_the_next() {
    let lab = Lab::new("sleep 600 & echo $! > $LAB/pid; wait");
    let environments = lab.environments.clone();
    let log = lab.path("job.log");
    let job = tokio::spawn(async move { environments.ensure(&wanted("a"), &log).await });
    // The file is there a moment before the number is.
    let written = || fs::read_to_string(lab.path("pid")).is_ok_and(|pid| pid.ends_with('\n'));
    until("the build has begun", written).await;
    let pid = fs::read_to_string(lab.path("pid")).unwrap();
    // What a new daemon finds: a place that is not complete, with the note of who builds there.
    lab.environments.inner.shelf.sweep().unwrap();
    until("the old build is dead", || !is_alive(&pid)).await;
    assert_eq!(lab.environments.inner.shelf.incomplete(), Vec::<String>::new());
    job.abort();
}

#[tokio::test]
async fn a_python_that_is_not_here_is_named_with_those_that_are() {
    let lab = Lab::new("true");
    let wanted = Wanted { python: "3.9".to_owned(), ..wanted("a") };
    let error = lab.environments.ensure(&wanted, &lab.path("job.log")).await.unwrap_err();
    assert_eq!(error, EnvironmentError::NoPython { wanted: "3.9".to_owned(), have: "3.11".to_owned() });
    assert!(error.may_pass(), "another node may have it");
    let nothing = lab.environments.ensure(&self::wanted("# none\n"), &lab.path("job.log")).await;
    assert_eq!((nothing, lab.installs()), (Ok(None), 0));
}

#[tokio::test]
async fn a_layered_environment_sees_the_node_s_packages_and_is_another_when_they_change() {
    let lab = Lab::new("exit 0");
    let site = lab.path("site");
    fs::create_dir_all(site.join("torch-2.0.dist-info")).unwrap();
    let python = format!("case \"$*\" in *getsitepackages*) echo {};; *) echo 3.11.7;; esac", site.display());
    program(&lab.path("bin/python3.11"), &python);
    program(
        &lab.path("bin/uv"),
        &format!(
            "case $1 in venv) for last; do :; done; mkdir -p $last/bin $last/lib/python3.11/site-packages; \
             ln -s {}/bin/python3.11 $last/bin/python;; esac",
            lab.dir.path().display()
        ),
    );
    let log = lab.path("job.log");
    let layered = Wanted { is_layered: true, ..wanted("a") };
    let built = lab.environments.ensure(&layered, &log).await.unwrap().unwrap();
    let seen = fs::read_to_string(built.root.join("lib/python3.11/site-packages/fnode_node.pth")).unwrap();
    assert_eq!(seen.trim(), site.display().to_string());
    let exact = lab.environments.ensure(&wanted("a"), &log).await.unwrap().unwrap();
    assert!(!exact.root.join("lib/python3.11/site-packages/fnode_node.pth").exists());
    assert_eq!(lab.environments.ensure(&layered, &log).await.unwrap().unwrap().id, built.id);
    fs::rename(site.join("torch-2.0.dist-info"), site.join("torch-2.1.dist-info")).unwrap();
    assert_ne!(lab.environments.ensure(&layered, &log).await.unwrap().unwrap().id, built.id);
}
