//! From an attempt to the runner's order: data, secrets, bundle, parameters, environment, variables.
//! ARCHITECTURE.md and README.md describe the job's world as it is made here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::capacity::{Requirement, Reservation};
use proto::codec::Word;
use proto::core_io::Run;
use proto::entry::Position;
use proto::job::{Attended, EnvironmentRule, EnvironmentSpec, StartFailure};
use proto::record::{AttemptKey, Record, RecordKey, Submitted};
use proto::{AttemptId, GroupId, GroupSpec, Manifest, Member, NodeId, codec};
use serde::{Deserialize, Serialize};

use super::ask::{Answer, Question, ask};
use super::attempts::{Context, STOP_GRACE};
use super::checkpoints;
use super::handle::{NodeError, Shared};
use super::home::Home;
use super::ran_with;
use super::tracking;
use crate::blobs::{BlobStore, UnpackError};
use crate::exec::environment::{Environment, EnvironmentError, Kind, Wanted};
use crate::exec::protocol::{Output, StartOrder};

/// The parameters file that existing projects read (Foundations).
pub(super) const PARAMS_FILE: &str = "foundations_job_parameters.json";
/// Variables of the daemon that jobs see; everything else is scrubbed.
const PASSED_ON: [&str; 18] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
];
/// The note's file in an attempt's directory.
const NOTE_FILE: &str = "note";
/// When the daemon has no PATH of its own.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// What the daemon notes beside an attempt, so that its next life knows what runs. A file is enough: it is
/// lost only with the machine, and then so is the attempt.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    spec: GroupSpec,
    reservation: Reservation,
    position: Position,
}

impl Word for Note {
    const KIND: u16 = 40;
}

/// An attempt's own directory.
pub(super) fn attempt_dir(home: &Home, attempt: AttemptId) -> PathBuf {
    home.jobs().join(attempt.file_name())
}

/// Where its command runs.
pub(super) fn work_dir(home: &Home, run: &Run) -> PathBuf {
    let dir = attempt_dir(home, run.attempt);
    if is_bare(&run.spec) { dir } else { dir.join("work") }
}

/// Whether nothing has to be fetched, built or looked up.
pub(super) fn is_simple(spec: &GroupSpec) -> bool {
    spec.bundle.is_none()
        && spec.environment.is_none()
        && spec.secrets.is_empty()
        && spec.requirement.data.is_empty()
        && spec.requirement.python.is_empty()
        && spec.params_json.is_empty()
        && spec.requirement.gpus == 0
}

/// Whether it also leaves nothing: then one directory is all it gets, made and removed in no time.
pub(super) fn is_bare(spec: &GroupSpec) -> bool {
    is_simple(spec) && !spec.capture && !spec.keep_outputs
}

/// The order for a simple attempt, made at once.
pub(super) fn simple_order(shared: &Shared, run: &Run) -> Result<StartOrder, StartFailure> {
    make_dirs(&shared.home, run)?;
    Ok(order(shared, run, BTreeMap::new()))
}

/// Fetches, unpacks and builds what the attempt needs.
pub(super) async fn prepare(context: &Context, run: &Run) -> Result<StartOrder, StartFailure> {
    let spec = &run.spec;
    if let Some(missing) = spec.requirement.data.iter().find(|path| !Path::new(path).exists()) {
        return Err(StartFailure::DataMissing(missing.clone()));
    }
    let mut env = secrets(&context.shared, run).await?;
    make_dirs(&context.shared.home, run)?;
    if let Some(checkpoint) = &run.checkpoint {
        checkpoints::restore(&context.shared, run, checkpoint).await?;
    }
    let work = work_dir(&context.shared.home, run);
    if let Some(bundle) = spec.bundle {
        let manifest = get_bundle(context, run, bundle.manifest).await?;
        unpack(&context.shared.blobs, manifest, work.clone()).await?;
    }
    if !spec.params_json.is_empty() {
        std::fs::write(work.join(PARAMS_FILE), &spec.params_json).map_err(|error| system(&error))?;
    }
    let environment = match &spec.environment {
        Some(wanted) => build(context, run, wanted, &work).await?,
        None => None,
    };
    match &environment {
        Some(built) => env.extend(variables_of(built)),
        None if !spec.requirement.python.is_empty() => env.extend(python_alone(context, run).await?),
        None => {}
    }
    let (shared, noted) = (context.shared.clone(), run.clone());
    let note = move || ran_with::note(&shared, &noted, environment.as_deref());
    // Without it only the record lacks something.
    let _ = tokio::task::spawn_blocking(note).await;
    Ok(order(&context.shared, run, env))
}

/// Their values: kept here, else by the node that took the submission, else by whoever has them.
async fn secrets(shared: &Shared, run: &Run) -> Result<BTreeMap<String, String>, StartFailure> {
    let wanted = &run.spec.secrets;
    let mut values = shared.secrets.known(wanted);
    let submitter = run.position.log.author;
    // A part is submitted where its job runs; who has the secrets is who submitted that.
    let above = run.spec.parent.and_then(|parent| submitter_of(shared, parent.group));
    let first: BTreeSet<NodeId> = [Some(submitter), above].into_iter().flatten().collect();
    let others = run.providers.iter().copied().filter(|node| !first.contains(node));
    for node in first.iter().copied().chain(others).filter(|&node| node != shared.me) {
        let missing: Vec<String> = wanted.iter().filter(|name| !values.contains_key(*name)).cloned().collect();
        if missing.is_empty() {
            break;
        }
        if let Some(Answer::Secrets(told)) = ask(shared, node, &Question::Secrets(missing)).await {
            // Only what was asked for: nothing else becomes a variable of the job.
            values.extend(told.into_iter().filter(|(name, _)| wanted.contains(name)));
        }
    }
    match wanted.iter().find(|name| !values.contains_key(*name)) {
        Some(missing) => Err(StartFailure::SecretMissing(missing.clone())),
        None => Ok(values),
    }
}

fn submitter_of(shared: &Shared, group: GroupId) -> Option<NodeId> {
    match shared.store.record(&RecordKey::Group(group)) {
        Ok(Some(Record::Group(record))) => record.submitted.map(|submitted| submitted.position.log.author),
        _ => None,
    }
}

/// From this disk, from an entry that carries it, or from the nodes that have it.
async fn get_bundle(context: &Context, run: &Run, id: proto::ContentId) -> Result<Manifest, StartFailure> {
    let shared = &context.shared;
    match shared.blob_link.fetch_bundle(id, &run.providers).await {
        Ok(manifest) => Ok(manifest),
        Err(NodeError::Blob(error)) if error.is_disk_full() => Err(StartFailure::DiskFull),
        Err(_) => Err(StartFailure::BundleMissing(id)),
    }
}

async fn unpack(blobs: &BlobStore, manifest: Manifest, work: PathBuf) -> Result<(), StartFailure> {
    let blobs = blobs.clone();
    let unpacked = tokio::task::spawn_blocking(move || blobs.unpack(&manifest, &work)).await;
    unpacked.map_err(|_| StartFailure::System("unpacking ended early".to_owned()))?.map_err(unpack_failure)
}

/// Why an attempt does not start when its files cannot be laid out.
pub(super) fn unpack_failure(error: UnpackError) -> StartFailure {
    match error {
        UnpackError::Store(error) if error.is_disk_full() => StartFailure::DiskFull,
        error => StartFailure::System(error.to_string()),
    }
}

/// The variables of the environment that the job runs in.
fn variables_of(built: &Environment) -> BTreeMap<String, String> {
    let mut env = utf8(&built.env);
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into());
    env.insert("PATH".to_owned(), built.path(&path).to_string_lossy().into_owned());
    env
}

/// The environment that the job runs in; `None`: the node's own Python.
async fn build(
    context: &Context,
    run: &Run,
    wanted: &EnvironmentSpec,
    work: &Path,
) -> Result<Option<Arc<Environment>>, StartFailure> {
    let bytes = std::fs::read(work.join(&wanted.path)).map_err(|error| system(&error))?;
    let file_name = Path::new(&wanted.path).file_name().and_then(|name| name.to_str()).unwrap_or("requirements.txt");
    let kind = match file_name {
        "pyproject.toml" => Kind::PyProject,
        name if name.ends_with(".lock") || name.starts_with("pylock.") => Kind::Lock,
        _ => Kind::Requirements,
    };
    let rule = wanted.rule;
    let wanted = Wanted {
        kind,
        bytes,
        file_name: wanted.path.clone(),
        project_files: Some(work.to_owned()),
        python: wanted.python.clone(),
        is_layered: rule != EnvironmentRule::Exact,
    };
    let log = super::tail::log_path(&context.shared.home, run.attempt);
    match context.environments.ensure(&wanted, &log).await {
        Ok(built) => Ok(built),
        Err(error) if rule == EnvironmentRule::Lenient => {
            let why = match &error {
                EnvironmentError::Build { tail, .. } => {
                    let says_error = |line: &&str| line.trim_start().to_lowercase().starts_with("error:");
                    let line = tail.lines().rfind(says_error).or(tail.lines().last());
                    line.unwrap_or_default().trim().to_owned()
                }
                error => error.to_string(),
            };
            tell_without(&log, &wanted.file_name, &why);
            Ok(None)
        }
        Err(EnvironmentError::Build { tail, .. }) => Err(StartFailure::Environment(tail)),
        Err(error) => Err(StartFailure::Environment(error.to_string())),
    }
}

/// In the job's log: whoever reads why a package is missing there reads this first.
fn tell_without(log: &Path, file: &str, why: &str) {
    let line = format!("fnode: {file} could not be installed ({why}); the job goes on with the node's own packages\n");
    let open = std::fs::OpenOptions::new().create(true).append(true).open(log);
    // The job does not fail for it.
    let _ = open.and_then(|mut file| file.write_all(line.as_bytes()));
}

/// The Python that the job asks for comes first on its `PATH`, by scripts rather than links: the interpreter of a virtual
/// environment finds its packages by the path that it is called by.
async fn python_alone(context: &Context, run: &Run) -> Result<BTreeMap<String, String>, StartFailure> {
    let version = &run.spec.requirement.python;
    let (environments, asked) = (context.environments.clone(), version.clone());
    let found = tokio::task::spawn_blocking(move || environments.interpreter(&asked)).await;
    let found = found.map_err(|_| StartFailure::System("looking for Python ended early".to_owned()))?;
    let found = found.map_err(|error| StartFailure::Environment(error.to_string()))?;
    let bin = attempt_dir(&context.shared.home, run.attempt).join("bin");
    let quoted = found.display().to_string().replace('\'', r"'\''");
    let script = format!("#!/bin/sh\nexec '{quoted}' \"$@\"\n");
    let write = || {
        std::fs::create_dir_all(&bin)?;
        for name in ["python".to_owned(), "python3".to_owned(), format!("python{version}")] {
            let mut open = std::fs::OpenOptions::new();
            let mut file = open.write(true).create(true).truncate(true).mode(0o755).open(bin.join(name))?;
            file.write_all(script.as_bytes())?;
        }
        Ok(())
    };
    write().map_err(|error| system(&error))?;
    let path = std::env::var("PATH").unwrap_or_else(|_| PATH_DEFAULT.to_owned());
    Ok(BTreeMap::from([("PATH".to_owned(), format!("{}:{path}", bin.display()))]))
}

/// Our own paths are UTF-8: the data directory's is checked when it is made.
fn utf8(env: &BTreeMap<String, std::ffi::OsString>) -> BTreeMap<String, String> {
    env.iter().map(|(name, value)| (name.clone(), value.to_string_lossy().into_owned())).collect()
}

fn make_dirs(home: &Home, run: &Run) -> Result<(), StartFailure> {
    let dir = attempt_dir(home, run.attempt);
    let make = || {
        std::fs::create_dir_all(&dir)?;
        if is_bare(&run.spec) {
            return Ok(());
        }
        std::fs::create_dir_all(dir.join("tmp"))?;
        // Unpacking renames its result here: an empty one must not be in the way.
        if run.spec.bundle.is_none() {
            std::fs::create_dir_all(dir.join("work"))?;
        }
        std::fs::create_dir_all(checkpoint_dir(home, run))?;
        let note = Note { spec: run.spec.clone(), reservation: run.reservation.clone(), position: run.position };
        std::fs::write(dir.join(NOTE_FILE), codec::encode(&note))
    };
    make().map_err(|error| system(&error))
}

/// Outlives the attempt: the next one of the same job on this node finds it again.
pub(super) fn checkpoint_dir(home: &Home, run: &Run) -> PathBuf {
    let job = run.attempt.job;
    let dir = home.checkpoints().join(job.group.to_string());
    match job.member {
        Member::Only => dir,
        Member::Index(index) => dir.join(index.to_string()),
    }
}

fn order(shared: &Shared, run: &Run, extra: BTreeMap<String, String>) -> StartOrder {
    let spec = &run.spec;
    let dir = attempt_dir(&shared.home, run.attempt);
    let bare = is_bare(spec);
    let output = if spec.capture { Output::File(dir.join("log")) } else { Output::Null };
    StartOrder {
        attempt: run.attempt,
        command: command(shared, spec),
        cwd: work_dir(&shared.home, run),
        env: variables(shared, run, extra),
        stdout: output.clone(),
        stderr: output,
        memory_limit_bytes: spec.requirement.memory.0,
        cpu_milli: spec.requirement.cpu_milli,
        timeout_s: spec.timeout_s,
        grace_ms: u64::try_from(STOP_GRACE.as_millis()).unwrap_or(u64::MAX),
        cleanup_dir: bare.then_some(dir),
        after: None,
    }
}

/// What the runner starts: the job's command; for a process that runs already, what waits for that.
fn command(shared: &Shared, spec: &GroupSpec) -> Vec<String> {
    match &spec.attends {
        None => spec.command.clone(),
        Some(Attended { pid, start_time, directory }) => {
            let exe = shared.exe.display().to_string();
            vec![exe, "attend".to_owned(), pid.to_string(), start_time.to_string(), directory.clone()]
        }
    }
}

/// The complete environment; what comes later wins.
fn variables(shared: &Shared, run: &Run, extra: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let spec = &run.spec;
    let dir = attempt_dir(&shared.home, run.attempt);
    let mut env: BTreeMap<String, String> =
        PASSED_ON.iter().filter_map(|&name| Some((name.to_owned(), std::env::var(name).ok()?))).collect();
    env.entry("PATH".to_owned()).or_insert_with(|| PATH_DEFAULT.to_owned());
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    let tmp = if is_bare(spec) { dir.clone() } else { dir.join("tmp") };
    set("TMPDIR", tmp.display().to_string());
    set("PYTHONUNBUFFERED", "1".to_owned());
    set("FNODE_HOME", shared.home.dir().display().to_string());
    set("FNODE_JOB_ID", run.attempt.job.to_string());
    set("FNODE_GROUP_ID", run.attempt.job.group.to_string());
    set("FNODE_ATTEMPT", run.attempt.number.to_string());
    set("FNODE_EPOCH", run.attempt.epoch.to_string());
    set("FNODE_PROJECT", spec.project.clone());
    set("FNODE_USER", spec.user.clone());
    set("FNODE_BIN", shared.exe.display().to_string());
    set("FOUNDATIONS_JOB_ID", run.attempt.job.to_string());
    set("FOUNDATIONS_PROJECT_NAME", spec.project.clone());
    set("FOUNDATIONS_USER", spec.user.clone());
    set("FNODE_NODE", shared.name.clone());
    set("FNODE_JOB_CPUS", (spec.requirement.cpu_milli.div_ceil(1_000)).to_string());
    if let Member::Index(index) = run.attempt.job.member {
        set("FNODE_ARRAY_INDEX", index.to_string());
    }
    if !is_bare(spec) {
        set("FNODE_CHECKPOINT_DIR", checkpoint_dir(&shared.home, run).display().to_string());
        set("FNODE_TRACK", tracking::track_path(&shared.home, run.attempt).display().to_string());
        set("FNODE_ARTIFACTS_DIR", tracking::artifacts_dir(&shared.home, run.attempt).display().to_string());
    }
    // Also when none is leased: a job sees only what it was given.
    let gpus: Vec<&str> = run.reservation.gpus.iter().map(String::as_str).collect();
    set("CUDA_VISIBLE_DEVICES", gpus.join(","));
    set("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned());
    env.extend(extra);
    env.extend(spec.env.clone());
    let given = env.remove("PYTHONPATH").unwrap_or_default();
    let path = python_path(&given, &work_dir(&shared.home, run), shared.sdk.as_deref());
    if !path.is_empty() {
        env.insert("PYTHONPATH".to_owned(), path);
    }
    env
}

/// Where a job's Python looks: where the job says, `.` being its own directory wherever a program of it starts another,
/// and behind that the package, because a copy of it that the job brings wins.
fn python_path(given: &str, work: &Path, sdk: Option<&Path>) -> String {
    let own = given.split(':').filter(|part| !part.is_empty());
    let own = own.map(|part| if part == "." { work.display().to_string() } else { part.to_owned() });
    own.chain(sdk.map(|sdk| sdk.display().to_string())).collect::<Vec<_>>().join(":")
}

/// Whether the log has how this attempt ended here.
pub(super) fn is_recorded(shared: &Shared, attempt: AttemptId) -> bool {
    let key = AttemptKey::of(attempt, shared.me);
    match shared.store.record(&RecordKey::Job(attempt.job)) {
        Ok(Some(Record::Job(record))) => record.attempts.get(&key).is_some_and(|known| known.finished.is_some()),
        _ => false,
    }
}

/// What an attempt of this or an earlier daemon runs: by its note, else (bare attempts have none) by what
/// was submitted. `None`: nothing is known of it.
pub(super) fn recall(shared: &Shared, attempt: AttemptId) -> Option<Run> {
    let path = attempt_dir(&shared.home, attempt).join(NOTE_FILE);
    if let Some(Note { spec, reservation, position }) =
        std::fs::read(path).ok().and_then(|note| codec::decode(&note).ok())
    {
        return Some(Run { attempt, spec, reservation, position, providers: Vec::new(), checkpoint: None });
    }
    let Ok(Some(Record::Group(record))) = shared.store.record(&RecordKey::Group(attempt.job.group)) else {
        return None;
    };
    let Submitted { spec, position, .. } = record.submitted?;
    let Requirement { cpu_milli, memory, .. } = spec.requirement;
    let reservation = Reservation { cpu_milli, memory, ..Reservation::default() };
    Some(Run { attempt, spec: (*spec).clone(), reservation, position, providers: Vec::new(), checkpoint: None })
}

pub(super) fn system(error: &std::io::Error) -> StartFailure {
    if error.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()) {
        StartFailure::DiskFull
    } else {
        StartFailure::System(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack;
    use crate::harness::golden::{Sample, check};
    use crate::samples;

    #[test]
    fn a_job_s_directory_is_a_dot_on_python_s_path() {
        let (work, sdk) = (Path::new("/jobs/1/work"), Path::new("/sdk"));
        assert_eq!(python_path("", work, Some(sdk)), "/sdk");
        assert_eq!(python_path("lib:.", work, Some(sdk)), "lib:/jobs/1/work:/sdk");
        assert_eq!(python_path(".:./lib", work, None), "/jobs/1/work:./lib");
        assert_eq!(python_path("", work, None), "");
    }

    #[test]
    fn golden_note() {
        let (spec, reservation, position) = (samples::spec(), samples::reservation(), samples::position());
        let note = Note { spec, reservation, position };
        let bytes = codec::encode(&note);
        check("node.Note", &[Sample::new("beside an attempt", &note, bytes.clone())]);
        attack("Note", &bytes, |bytes| codec::decode::<Note>(bytes).is_ok());
    }
}
