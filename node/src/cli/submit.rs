//! `fnode submit`: words become a request, the directory goes to the daemon, and the answer is told.

use std::collections::BTreeMap;
use std::path::Path;

use proto::{ByteSize, GroupId};
use serde::Serialize;

use super::args::SubmitArgs;
use super::bundle::{self, Sent};
use super::client::{Client, segment};
use super::error::CliError;
use super::exit::Exit;
use super::follow::{self, Start};
use super::output::{Output, fields, say};
use super::time::{counted, now_unix_ms};
use crate::http::words::error::ErrorCode;
use crate::http::words::job::{JobWord, StateWord};
use crate::http::words::node::NodeInfo;
use crate::http::words::submit::{AfterWord, CACHE_MODE, SubmitAnswer, SubmitRequest, check_project};
use crate::objects::VARIABLES;

/// Parameters ride in the log with the submission.
const PARAMS_MAX: u64 = 128 << 10;
/// A submission whose answer was lost is asked for again so often; its id makes that harmless.
const REPEATS_MAX: u32 = 3;

/// What `fnode submit` tells.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Submitted {
    #[serde(flatten)]
    pub(crate) answer: SubmitAnswer,
    /// The bundle, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bundle: Option<BundleLine>,
    /// Bytes of its files that went to the daemon; what that has already is not sent again.
    sent_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct BundleLine {
    manifest: String,
    files: u32,
    pub(crate) total_bytes: u64,
    manifest_bytes: u64,
}

pub(crate) async fn submit(mut client: Client, args: &SubmitArgs, output: Output) -> Result<Exit, CliError> {
    let submitted = hand_in(&mut client, args, output.is_json()).await?;
    if !submitted.answer.warning.is_empty() {
        say(&format!("fnode: warning: {}", submitted.answer.warning));
    }
    let waits = args.follow || args.wait || args.propagate;
    tell(&submitted, args, output)?;
    if !waits {
        return Ok(Exit::Done);
    }
    finish(client, &submitted.answer, args, output).await
}

/// Sends the directory and submits the job; says nothing but how far that is, and with `is_quiet` not even this.
pub(crate) async fn hand_in(client: &mut Client, args: &SubmitArgs, is_quiet: bool) -> Result<Submitted, CliError> {
    let mut request = request(args)?;
    request.check().map_err(CliError::Refused)?;
    let mut sent = None;
    if !args.no_bundle {
        check_directory(&args.dir)?;
        // A daemon that is not there is told before a large directory is read.
        let _: NodeInfo = client.get("/node").await?;
        let bundle = bundle::send(client, &args.dir, is_quiet).await?;
        request.bundle.clone_from(&bundle.answer.manifest);
        request.checkout.clone_from(&bundle.checkout);
        if !args.no_env {
            request.environment = bundle.environment(args.environment).map(|mut environment| {
                environment.python.clone_from(&request.python);
                environment
            });
        }
        sent = Some(bundle);
    }
    let answer = post(client, &request).await?;
    Ok(submitted(answer, sent.as_ref()))
}

/// Asks until there is an answer: a lost one may have been a yes, and the id finds out.
async fn post(client: &mut Client, request: &SubmitRequest) -> Result<SubmitAnswer, CliError> {
    let mut repeats = 0;
    loop {
        match client.post("/jobs", request).await {
            Err(CliError::Broken { .. }) if repeats < REPEATS_MAX => repeats += 1,
            Err(error) if repeats > 0 && error.is_refusal(ErrorCode::Conflict) => {
                let job: JobWord = client.get(&format!("/jobs/{}", segment(&request.id))).await?;
                return Ok(SubmitAnswer {
                    id: request.id.clone(),
                    jobs: job.line.array.map_or(1, |counts| counts.total),
                    held_by: Vec::new(),
                    state: job.line.state,
                    node: job.line.node,
                    explanation: None,
                    warning: String::new(),
                });
            }
            answer => return answer,
        }
    }
}

fn submitted(answer: SubmitAnswer, sent: Option<&Sent>) -> Submitted {
    let bundle = sent.map(|sent| BundleLine {
        manifest: sent.answer.manifest.clone(),
        files: sent.answer.files,
        total_bytes: sent.answer.total_bytes,
        manifest_bytes: sent.manifest_bytes,
    });
    Submitted { answer, bundle, sent_bytes: sent.map_or(0, |sent| sent.sent_bytes) }
}

/// The result on standard output; while following, where that is the job's, on standard error.
fn tell(submitted: &Submitted, args: &SubmitArgs, output: Output) -> Result<(), CliError> {
    let waits = args.follow || args.wait || args.propagate;
    match (output.is_json(), waits) {
        // `--wait` prints exactly one value: the job as it ended.
        (true, true) if !args.follow => Ok(()),
        (true, true) => output.print_json_line(submitted),
        (true, false) => output.print_json(submitted),
        (false, true) => {
            say(text(submitted, false).trim_end());
            Ok(())
        }
        (false, false) => output.print(submitted, |submitted| text(submitted, true)),
    }
}

fn text(submitted: &Submitted, with_next: bool) -> String {
    let answer = &submitted.answer;
    let jobs = if answer.jobs > 1 { format!("{} ({} jobs)", answer.id, answer.jobs) } else { answer.id.clone() };
    let bundle = submitted.bundle.as_ref().map(|bundle| {
        let (all, sent) = (ByteSize(bundle.total_bytes), ByteSize(submitted.sent_bytes));
        format!(
            "{}, {all}; {sent} sent, and a manifest of {}",
            counted(bundle.files, "file"),
            ByteSize(bundle.manifest_bytes)
        )
    });
    let held: Vec<&str> = answer.held_by.iter().map(|node| node.name.as_str()).collect();
    let held = match held.as_slice() {
        [] => String::new(),
        [one] => format!("1 node: {one}"),
        several => format!("{} nodes: {}", several.len(), several.join(", ")),
    };
    let next = if with_next { format!("fnode logs -f {0}    fnode stop {0}", answer.id) } else { String::new() };
    fields(&[
        ("job", jobs),
        ("bundle", bundle.unwrap_or_default()),
        ("held by", held),
        ("state", standing(answer)),
        ("next", next),
    ])
}

fn standing(answer: &SubmitAnswer) -> String {
    let at = answer.node.as_ref().map(|node| format!(" on {}", node.name)).unwrap_or_default();
    match (&answer.explanation, answer.state) {
        (Some(explanation), StateWord::Queued) => format!("queued: {}", explanation.summary),
        (_, state) => format!("{}{at}", state.as_str()),
    }
}

/// Follows or waits, and exits as the job ended.
async fn finish(client: Client, answer: &SubmitAnswer, args: &SubmitArgs, output: Output) -> Result<Exit, CliError> {
    let is_array = answer.jobs > 1;
    if args.follow && !is_array {
        return follow::follow_to_end(client, &answer.id, &Start::default(), args.propagate, output).await;
    }
    if args.follow {
        say("fnode: an array has a log per job; waiting for all of them, see fnode logs JOB/INDEX");
    }
    let ids = vec![answer.id.clone()];
    follow::wait_to_end(client, &ids, None, args.propagate, output).await
}

fn request(args: &SubmitArgs) -> Result<SubmitRequest, CliError> {
    let gpu_memory = args.gpu_memory.unwrap_or_default();
    // Memory of a GPU without a GPU can only mean one.
    let gpus = args.gpus.unwrap_or(u32::from(gpu_memory.0 > 0));
    let id = GroupId::v7(now_unix_ms(), rand::random());
    Ok(SubmitRequest {
        id: id.to_string(),
        user: std::env::var("USER").unwrap_or_default(),
        project: project(args)?,
        name: args.name.clone(),
        command: args.command.clone(),
        bundle: String::new(),
        cpu_milli: args.cpus,
        memory_bytes: args.memory.unwrap_or_default().0,
        gpus,
        gpu_memory_bytes: gpu_memory.0,
        python: args.python.clone().unwrap_or_default(),
        labels: args.labels.iter().cloned().collect(),
        nodes: args.nodes.iter().cloned().collect(),
        data: args.data.iter().cloned().collect(),
        env: env(args, std::env::var(CACHE_MODE).ok()),
        secrets: args.secrets.iter().cloned().collect(),
        array: args.array.clone().unwrap_or_default(),
        timeout_s: args.timeout.map_or(0, |timeout| timeout.as_secs().max(1)),
        retries: args.retries,
        on_lost: args.on_lost,
        priority: args.priority,
        after: args.after.iter().map(|(job, trigger)| AfterWord { job: job.clone(), trigger: *trigger }).collect(),
        capture: !args.no_capture,
        keep_outputs: !args.no_outputs,
        params: args.params.as_deref().map(params).transpose()?.unwrap_or_default(),
        environment: None,
        checkout: None,
    })
}

/// Variables of the job; its end points are among them, so that whoever runs it knows them. How the cache is used where
/// the job is submitted is how the job uses it, unless it is told otherwise.
fn env(args: &SubmitArgs, cache_mode: Option<String>) -> BTreeMap<String, String> {
    let mode = cache_mode.filter(|mode| !mode.is_empty()).map(|mode| (CACHE_MODE.to_owned(), mode));
    let places = VARIABLES.iter().zip([&args.archive, &args.cache_store]);
    let places = places.filter_map(|(name, place)| Some(((*name).to_owned(), place.clone()?)));
    mode.into_iter().chain(args.env.iter().cloned()).chain(places).collect()
}

/// The given project, else the directory's name.
fn project(args: &SubmitArgs) -> Result<String, CliError> {
    if let Some(project) = &args.project {
        return Ok(project.clone());
    }
    let dir = if args.no_bundle { Path::new(".") } else { args.dir.as_path() };
    if !args.no_bundle {
        check_directory(dir)?;
    }
    let full = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let name = full.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    match check_project(&name) {
        Ok(()) => Ok(name),
        Err(_) => {
            let what = format!("{} has no name that a project could have", full.display());
            Err(CliError::usage(what, "give one with --project NAME"))
        }
    }
}

/// A directory that is not one is told first: everything else depends on it.
fn check_directory(dir: &Path) -> Result<(), CliError> {
    let error = match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => crate::blobs::PackError::NotADirectory(dir.to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => crate::blobs::PackError::NotFound(dir.to_owned()),
        Err(source) => crate::blobs::PackError::Unreadable { path: dir.to_owned(), source },
    };
    let line = CliError::Pack(error).to_string();
    if line.contains("; ") {
        return Err(CliError::Wrong(line));
    }
    Err(CliError::usage(line, "give the directory that holds the job's files, or --no-bundle"))
}

/// JSON text as it is, else a file with JSON.
fn params(given: &str) -> Result<String, CliError> {
    // An empty file means no parameters, as it does for who reads it.
    let is_json = |text: &str| {
        text.trim().is_empty() || serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
    };
    if given.trim_start().starts_with(['{', '[']) {
        if is_json(given) {
            return Ok(given.to_owned());
        }
        return Err(CliError::usage(
            "--params is not a JSON object",
            "correct it, or give the name of a file with JSON",
        ));
    }
    let path = Path::new(given);
    let remedy = "give a file with JSON, or JSON text";
    let refuse = |source| CliError::File { verb: "read", path: path.to_owned(), source, remedy };
    let size = std::fs::metadata(path).map_err(refuse)?.len();
    if size > PARAMS_MAX {
        let what = format!("{given} has {}, more than {}", ByteSize(size), ByteSize(PARAMS_MAX));
        return Err(CliError::usage(what, "put it into the directory instead"));
    }
    let text = std::fs::read_to_string(path).map_err(refuse)?;
    if is_json(&text) {
        Ok(text)
    } else {
        Err(CliError::usage(format!("{given} does not hold a JSON object"), "correct it"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn parse(words: &[&str]) -> SubmitArgs {
        let words = ["fnode", "submit"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Submit(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_become_a_request() {
        let args = parse(&[
            "--no-bundle",
            "--project",
            "p",
            "--cpus",
            "0.5",
            "--memory",
            "1GiB",
            "--gpu-memory",
            "8GiB",
            "--env",
            "A=b=c",
            "--array",
            "1-3,5",
            "--timeout",
            "2h",
            "--after",
            "0193:one_done",
            "--label",
            "fast",
            "--no-capture",
            "--params",
            "{\"lr\": 1}",
            "--priority",
            "-5",
            "--",
            "python",
            "-c",
            "print(1)",
        ]);
        let request = request(&args).unwrap();
        assert_eq!(request.command, ["python", "-c", "print(1)"]);
        assert_eq!((request.cpu_milli, request.memory_bytes, request.gpus), (500, 1 << 30, 1));
        assert_eq!((request.env["A"].as_str(), request.array.as_str(), request.timeout_s), ("b=c", "1-3,5", 7_200));
        assert_eq!((request.labels["fast"].as_str(), request.capture, request.priority), ("", false, -5));
        assert_eq!(request.check(), Ok(()));
    }

    #[test]
    fn a_job_uses_the_cache_as_its_submitter_does_unless_it_is_told_otherwise() {
        let env = |words: &[&str], mode: Option<&str>| {
            super::env(&parse(&[words, &["--", "true"]].concat()), mode.map(str::to_owned)).get(CACHE_MODE).cloned()
        };
        assert_eq!(env(&[], Some("off")).as_deref(), Some("off"));
        assert_eq!(env(&["--env", "FNODE_CACHE=verify:0.1"], Some("off")).as_deref(), Some("verify:0.1"));
        assert_eq!((env(&[], None), env(&[], Some(""))), (None, None));
    }

    #[test]
    fn a_project_is_named_after_its_directory() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("mnist");
        std::fs::create_dir(&dir).unwrap();
        let args = parse(&[dir.to_str().unwrap(), "--", "true"]);
        assert_eq!(project(&args).unwrap(), "mnist");
        let root = parse(&["/", "--", "true"]);
        assert!(project(&root).unwrap_err().to_string().ends_with("give one with --project NAME"));
    }

    #[test]
    fn parameters_are_a_json_object_or_a_file_with_one() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("params.json");
        std::fs::write(&file, "{\"lr\": 0.1}").unwrap();
        assert_eq!(params(file.to_str().unwrap()).unwrap(), "{\"lr\": 0.1}");
        assert!(params("[1]").is_err(), "whoever reads them wants an object");
        assert!(params("{").is_err() && params("/no/such/file").is_err());
        std::fs::write(&file, "lr: 1").unwrap();
        assert!(params(file.to_str().unwrap()).is_err());
    }
}
