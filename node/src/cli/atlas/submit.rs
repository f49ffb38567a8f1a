//! `foundations submit` and `foundations deploy`: a directory and a command become a job. The lines that they print, and
//! the parameters that they write beside the code, are those of the package's `submit` and `deploy`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};

use clap::Parser as _;

use super::args::{DeployWords, Needs, SubmitWords};
use super::config::{Places, absolute};
use super::console::Console;
use super::error::AtlasError;
use super::job_config::{self, JobConfig};
use super::params;
use super::split::split;
use super::yaml::{ConfigError, Map};
use crate::cli::args::{Cli, Command, SubmitArgs};
use crate::cli::client::Client;
use crate::cli::error::{CliError, explain_usage, plain};
use crate::cli::exit::Exit;
use crate::cli::follow::{self, Start};
use crate::cli::output::{Output, say, write_out};
use crate::cli::submit::{Submitted, hand_in};
use crate::http::words::job::{JobWord, StateWord};
use crate::http::words::node::NodeInfo;
use crate::node::Home;

/// Parameters ride in the log with the submission up to so many bytes; larger ones only lie in the directory.
const PARAMS_MAX: usize = 100 << 10;
/// Megabytes of a bundle that are worth a word, and a stronger one.
const LARGE_MB: [(f64, &str); 3] = [(500.0, "very large"), (100.0, "large"), (50.0, "rather large")];

/// A job, each value by its precedence: what was given, then `job.config.yaml`, then its default.
#[derive(Debug, PartialEq)]
struct Wish {
    directory: PathBuf,
    project: String,
    params: Option<Map>,
    memory_bytes: u64,
    gpus: i128,
    environment: Vec<(String, String)>,
    /// Flags that name object stores.
    places: Vec<(&'static str, String)>,
    command: Vec<String>,
}

/// `foundations submit`.
pub(crate) async fn submit(mut client: Client, words: &SubmitWords, console: Console) -> Result<Exit, AtlasError> {
    let (config, directory, command) = submitted_words(words)?;
    Places::of_process().check_submission(&config)?;
    let directory = check_directory(&directory)?;
    let job_config = read_config(&directory, console)?;
    let program = match (&words.entrypoint, &job_config.entrypoint) {
        (Some(entrypoint), _) => shell_words(entrypoint)?,
        (None, Some(entrypoint)) => unless_asked(shell_words(entrypoint)?, &command),
        (None, None) => Vec::new(),
    };
    let command = match (command.is_empty(), program.is_empty()) {
        (true, true) => vec!["main.py".to_owned()],
        _ => command,
    };
    let command = runnable([program, command].concat(), &directory, console);
    let places = Places::of_process().end_points(&config, console)?;
    let wish = Wish { places, ..wish(directory, job_config, &words.needs, command) };
    let job = launch(&mut client, &wish, console).await?.answer.id;
    console.info(&format!("Job submitted with ID '{job}' in project '{}'.", wish.project));
    match (words.stream_job_logs.0, words.needs.strict) {
        (true, strict) => stream(&mut client, &job, strict, console).await,
        (false, true) => end(&mut client, &job, true).await,
        (false, false) => Ok(Exit::Done),
    }
}

/// `foundations deploy`, of a directory.
pub(crate) async fn deploy(mut client: Client, words: &DeployWords, console: Console) -> Result<Exit, AtlasError> {
    Places::of_process().environment(&words.env)?;
    let directory = check_directory(&words.directory)?;
    let job_config = read_config(&directory, console)?;
    let script = if words.entrypoint.ends_with(".py") {
        words.entrypoint.clone()
    } else {
        format!("{}.py", words.entrypoint.replace('.', "/"))
    };
    let command = as_module(runnable(vec![script], &directory, console), &directory);
    let places = Places::of_process().end_points(&words.env, console)?;
    let wish = Wish { places, ..wish(directory, job_config, &words.needs, command) };
    let job = launch(&mut client, &wish, console).await?.answer.id;
    console.info(&format!("Job '{job}' deployed."));
    let is_quiet = std::env::var("DISABLE_LOG_STREAMING").is_ok_and(|word| word != "False" && !word.is_empty());
    match (is_quiet, words.env == "local" || words.needs.strict) {
        (false, _) => stream(&mut client, &job, words.needs.strict, console).await,
        // The job of a local environment is over when this returns, as it was.
        (true, true) => end(&mut client, &job, words.needs.strict).await,
        (true, false) => Ok(Exit::Done),
    }
}

/// `foundations deploy DRIVER`: the driver runs here, and what it makes runs in the cluster.
pub(crate) async fn drive(mut client: Client, driver: &Path, env: &str) -> Result<Exit, AtlasError> {
    Places::of_process().environment(env)?;
    let name = driver.display();
    if driver.extension().is_none_or(|extension| extension != "py") {
        return Err(AtlasError::Said(format!(
            "Driver file `{name}` needs to be a python file with an extension `.py`"
        )));
    }
    if !driver.is_file() {
        return Err(AtlasError::Said(format!("Driver file `{name}` does not exist")));
    }
    let _: NodeInfo = client.get("/node").await?;
    let failed = |error: std::io::Error| CliError::Start(format!("cannot run {name}: {}", plain(&error)));
    let sdk = crate::sdk::unpack(&Home::new(client.home()).sdk()).map_err(failed)?;
    // Drivers were imported from the project's root, and their own imports count on that.
    let here = std::env::current_dir().map_err(failed)?;
    let mut path = vec![here, sdk];
    path.extend(std::env::var_os("PYTHONPATH").iter().flat_map(std::env::split_paths));
    let path = std::env::join_paths(path).map_err(|error| failed(std::io::Error::other(error)))?;
    let binary = std::env::current_exe().map_err(failed)?;
    let run = |python: &str| {
        let mut program = Program::new(python);
        program.arg(driver).env("PYTHONPATH", &path).env("FNODE_BIN", &binary).stdin(Stdio::inherit());
        // The driver is no experiment: what it runs is.
        program.env("FOUNDATIONS_COMMAND_LINE", "True").env("FNODE_HOME", client.home()).status()
    };
    let ended = match run("python") {
        Err(error) if error.kind() == ErrorKind::NotFound => run("python3"),
        ended => ended,
    };
    let status = ended.map_err(failed)?;
    Ok(match status.code() {
        Some(0) => Exit::Done,
        Some(code) => Exit::Job(u8::try_from(code).unwrap_or(1)),
        None => Exit::Failed,
    })
}

/// Configuration, directory and command, from words or from options.
fn submitted_words(words: &SubmitWords) -> Result<(String, PathBuf, Vec<String>), AtlasError> {
    let usage = |what: &str| {
        let remedy = "write: foundations submit SCHEDULER-CONFIG JOB-DIRECTORY COMMAND...";
        AtlasError::Cli(CliError::usage(what, remedy))
    };
    let has_options =
        words.config_option.is_some() || words.directory_option.is_some() || !words.command_option.is_empty();
    match (&words.config, &words.directory) {
        (Some(_), _) if has_options => {
            Err(usage("configuration, directory and command are given as words and as options"))
        }
        (Some(config), Some(directory)) => Ok((config.clone(), directory.clone(), words.command.clone())),
        (Some(_), None) => Err(usage("the job's directory is missing")),
        (None, _) if has_options => {
            let command = match words.command_option.as_slice() {
                [text] => shell_words(text)?,
                several => several.to_vec(),
            };
            let config = words.config_option.clone().unwrap_or_else(|| "scheduler".to_owned());
            Ok((config, words.directory_option.clone().unwrap_or_else(|| PathBuf::from(".")), command))
        }
        (None, _) => Err(usage("configuration and directory are missing")),
    }
}

/// The entrypoint of job.config.yaml: a program that is given the command. Where both are scripts, the one that was
/// asked for now is meant.
fn unless_asked(program: Vec<String>, command: &[String]) -> Vec<String> {
    let is_script = |words: &[String]| words.first().is_some_and(|word| word.ends_with(".py"));
    if is_script(&program) && is_script(command) { Vec::new() } else { program }
}

fn shell_words(text: &str) -> Result<Vec<String>, AtlasError> {
    split(text).ok_or_else(|| CliError::usage(format!("{text:?} has an open quote"), "close it").into())
}

fn check_directory(given: &Path) -> Result<PathBuf, AtlasError> {
    let directory = absolute(given);
    if directory.is_dir() {
        return Ok(directory);
    }
    let what = format!("{} is not a directory; give the one that holds the job's files", directory.display());
    Err(ConfigError(what).into())
}

fn read_config(directory: &Path, console: Console) -> Result<JobConfig, ConfigError> {
    let mut warnings = Vec::new();
    let config = job_config::read(directory, &mut warnings);
    warnings.iter().for_each(|warning| console.warning(warning));
    config
}

fn wish(directory: PathBuf, config: JobConfig, needs: &Needs, command: Vec<String>) -> Wish {
    let named = || directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut environment = config.environment;
    look_in_root(&mut environment);
    environment.extend(config.log_level.map(|level| ("FOUNDATIONS_LOG_LEVEL".to_owned(), level)));
    Wish {
        project: needs.project_name.clone().or(config.project_name).unwrap_or_else(named),
        params: config.params,
        memory_bytes: needs.ram_bytes.or(config.ram_bytes).unwrap_or(0),
        gpus: needs.num_gpus.map(i128::from).or(config.num_gpus).unwrap_or(0),
        environment,
        places: Vec::new(),
        command,
        directory,
    }
}

/// The job's directory on Python's path: a script below it imports what lies at the root, as it did where `/job` was.
fn look_in_root(environment: &mut Vec<(String, String)>) {
    match environment.iter_mut().rfind(|(name, _)| name == "PYTHONPATH") {
        Some((_, path)) if path.is_empty() => ".".clone_into(path),
        Some((_, path)) => path.push_str(":."),
        None => environment.push(("PYTHONPATH".to_owned(), ".".to_owned())),
    }
}

/// The command as a node runs it. A script that is not there may be made by the job itself: only a warning.
fn runnable(words: Vec<String>, directory: &Path, console: Console) -> Vec<String> {
    let Some(script) = words.first().filter(|word| word.ends_with(".py")) else { return words };
    if !directory.join(script).is_file() {
        let directory = directory.display();
        console.warning(&format!("{script} is not in {directory}; the job will fail unless it is made there"));
    }
    [vec!["python".to_owned()], words].concat()
}

/// A script below the root that imports from its own package (`from .model import f`) as a module, which alone can do
/// so. Every other runs by its path, and finds what lies beside it.
fn as_module(command: Vec<String>, directory: &Path) -> Vec<String> {
    let script = command.get(1).map(|script| script.trim_start_matches("./").to_owned()).unwrap_or_default();
    let is_below = script.contains('/') && !script.starts_with('/') && !script.split('/').any(|part| part == "..");
    match script.strip_suffix(".py") {
        Some(module) if is_below && imports_from_package(&directory.join(&script)) => {
            let module =
                module.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join(".");
            [&["python".to_owned(), "-m".to_owned(), module], command.get(2..).unwrap_or_default()].concat()
        }
        _ => command,
    }
}

fn imports_from_package(script: &Path) -> bool {
    let text = std::fs::read(script).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .any(|line| line.trim_start().strip_prefix("from ").is_some_and(|rest| rest.trim_start().starts_with('.')))
}

/// Writes the parameters beside the code and submits.
async fn launch(client: &mut Client, wish: &Wish, console: Console) -> Result<Submitted, AtlasError> {
    console.info("Job submission started. Ctrl-C to cancel.");
    // Told before anything is written or read.
    let _: NodeInfo = client.get("/node").await?;
    let args = arguments(wish)?;
    if let Some(params) = &wish.params {
        write_parameters(&wish.directory, params)?;
    }
    let directory = wish.directory.display();
    console.info(&format!("Preparing to bundle contents of {directory} for execution. Estimating bundle size."));
    console.info("Bundling job contents.");
    console.debug(&format!(
        "The job's command is {:?}, its data directory's daemon {}",
        wish.command,
        client.home().display()
    ));
    let submitted = hand_in(client, &args, false).await?;
    if !submitted.answer.warning.is_empty() {
        console.warning(&submitted.answer.warning);
    }
    let megabytes = submitted.bundle.as_ref().map_or(0.0, |bundle| bundle.total_bytes as f64 / 1e6);
    if let Some((_, words)) = LARGE_MB.iter().find(|(limit, _)| megabytes > *limit) {
        console.warning(&format!(
            "The job's directory is {words}: {megabytes:.0} MB; name what the job does not need in .fnodeignore"
        ));
    }
    Ok(submitted)
}

/// The same words that the package gives to `fnode submit`, with the same checks.
fn arguments(wish: &Wish) -> Result<SubmitArgs, CliError> {
    let mut words: Vec<String> = ["fnode", "submit", "--project", &wish.project].map(str::to_owned).to_vec();
    if wish.gpus > 0 {
        words.extend(["--gpus".to_owned(), wish.gpus.to_string()]);
    }
    if wish.memory_bytes > 0 {
        words.extend(["--memory".to_owned(), format!("{}B", wish.memory_bytes)]);
    }
    for (name, value) in &wish.environment {
        words.extend(["--env".to_owned(), format!("{name}={value}")]);
    }
    // Jobs counted on what the machine had, and old requirements that nobody can install any more stop none.
    words.extend(["--environment", "lenient"].map(str::to_owned));
    for (flag, place) in &wish.places {
        words.extend([(*flag).to_owned(), place.clone()]);
    }
    // What is no plain JSON (NaN) lies in the directory alone; so does what is too large.
    let text = wish.params.as_ref().and_then(params::record_text).filter(|text| text.len() <= PARAMS_MAX);
    if let Some(text) = text {
        words.extend(["--params".to_owned(), text]);
    }
    let mut words: Vec<std::ffi::OsString> = words.into_iter().map(Into::into).collect();
    words.extend([wish.directory.clone().into_os_string(), "--".into()]);
    words.extend(wish.command.iter().map(Into::into));
    match Cli::try_parse_from(&words).map(|cli| cli.command) {
        Ok(Command::Submit(args)) => Ok(*args),
        Ok(_) => Err(CliError::Wrong("the words do not make a submission".to_owned())),
        Err(error) => {
            let (text, _) = explain_usage(&error, &words);
            let line = text.trim_end().trim_start_matches("fnode: ");
            Err(CliError::Wrong(line.trim_end_matches("; see fnode submit --help").to_owned()))
        }
    }
}

fn write_parameters(directory: &Path, params: &Map) -> Result<(), ConfigError> {
    let path = directory.join(params::FILE);
    let write = || {
        let mut aside = tempfile::NamedTempFile::new_in(directory)?;
        std::io::Write::write_all(&mut aside, params::file_text(params).as_bytes())?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        aside.as_file().set_permissions(mode)?;
        aside.persist(&path).map_err(|error| error.error)
    };
    write().map(drop).map_err(|error| ConfigError(format!("cannot write {}: {}", path.display(), plain(&error))))
}

/// Prints a job's output until it ends; Ctrl-C leaves it running.
async fn stream(client: &mut Client, id: &str, strict: bool, console: Console) -> Result<Exit, AtlasError> {
    console.info("Job queued. Ctrl-C to stop streaming - job will not be interrupted or cancelled.");
    let mut begun = || {
        console.info("Job running, streaming logs.");
        Ok(())
    };
    let followed = follow::follow_to_record(client, id, &Start::default(), Output::new(false), &mut begun).await?;
    let Some(followed) = followed else { return Ok(Exit::Interrupted) };
    if followed.is_line_open {
        write_out(b"\n")?;
    }
    let is_completed = followed.job.line.state == StateWord::Completed;
    console.info(&format!("Job '{id}' has {}.", if is_completed { "completed" } else { "failed" }));
    Ok(exit(&followed.job, strict))
}

/// Waits for a job's end without a word.
async fn end(client: &mut Client, id: &str, strict: bool) -> Result<Exit, AtlasError> {
    let Some(waited) = follow::interruptible(follow::wait(client, id, None)).await else {
        return Ok(follow::detached(id));
    };
    Ok(waited?.map_or(Exit::Failed, |job| exit(&job, strict)))
}

/// A job's failure was no failure of the command; with `--strict` it is.
fn exit(job: &JobWord, strict: bool) -> Exit {
    if job.line.state == StateWord::Completed {
        return Exit::Done;
    }
    say(&format!("foundations: job {} {}", job.line.id, follow::how(job)));
    if strict { Exit::Failed } else { Exit::Done }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn scripts_that_import_from_their_package_become_modules() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("project_code")).unwrap();
        std::fs::create_dir_all(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("project_code/driver.py"), "import os\nfrom . import model\n").unwrap();
        std::fs::write(dir.path().join("a/b.py"), "try:\n    from .model import f\nexcept ImportError: pass").unwrap();
        std::fs::write(dir.path().join("a/beside.py"), "from model import *\n").unwrap();
        let module = |script: &str| as_module(words(&["python", script]), dir.path());
        assert_eq!(module("project_code/driver.py"), words(&["python", "-m", "project_code.driver"]));
        assert_eq!(module("./a/./b.py"), words(&["python", "-m", "a.b"]));
        for kept in ["main.py", "./main.py", "/a/b.py", "../a/b.py", "a/beside.py", "a/none.py"] {
            assert_eq!(module(kept), words(&["python", kept]));
        }
    }

    #[test]
    fn the_root_is_on_the_path_of_python_after_what_the_file_says() {
        let looked = |given: &[(&str, &str)]| {
            let mut given: Vec<_> =
                given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            look_in_root(&mut given);
            given.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(looked(&[]), ["PYTHONPATH=."]);
        assert_eq!(looked(&[("PYTHONPATH", "")]), ["PYTHONPATH=."]);
        assert_eq!(looked(&[("PYTHONPATH", "lib"), ("A", "1")]), ["PYTHONPATH=lib:.", "A=1"]);
    }

    #[test]
    fn a_script_in_the_file_gives_way_to_one_that_is_asked_for() {
        let program = |entrypoint: &[&str], command: &[&str]| unless_asked(words(entrypoint), &words(command));
        assert_eq!(program(&["main.py"], &["train.py", "--fast"]), words(&[]));
        for (entrypoint, command) in [("main.py", &["--fast"][..]), ("main.py", &[]), ("bash", &["train.py"])] {
            assert_eq!(program(&[entrypoint], command), words(&[entrypoint]));
        }
    }

    #[test]
    fn what_was_given_comes_before_the_file() {
        let config = || JobConfig {
            project_name: Some("from-file".to_owned()),
            ram_bytes: Some(1),
            num_gpus: Some(2),
            log_level: Some("DEBUG".to_owned()),
            environment: vec![("A".to_owned(), "1".to_owned())],
            ..JobConfig::default()
        };
        let none = Needs { project_name: None, num_gpus: None, ram_bytes: None, strict: false };
        let filed = wish(PathBuf::from("/x/mnist"), config(), &none, Vec::new());
        assert_eq!((filed.project.as_str(), filed.memory_bytes, filed.gpus), ("from-file", 1, 2));
        assert_eq!(filed.environment.last().unwrap(), &("FOUNDATIONS_LOG_LEVEL".to_owned(), "DEBUG".to_owned()));
        let some =
            Needs { project_name: Some("given".to_owned()), num_gpus: Some(0), ram_bytes: Some(7), strict: false };
        let given = wish(PathBuf::from("/x/mnist"), config(), &some, Vec::new());
        assert_eq!((given.project.as_str(), given.memory_bytes, given.gpus), ("given", 7, 0));
        let plain = wish(PathBuf::from("/x/mnist"), JobConfig::default(), &none, Vec::new());
        assert_eq!((plain.project.as_str(), plain.memory_bytes, plain.gpus), ("mnist", 0, 0));
    }

    #[test]
    fn what_no_submission_may_say_is_one_line_without_our_flags() {
        let wish = |project: &str, gpus| Wish {
            places: vec![("--archive", "s3://lab/x".to_owned())],
            directory: PathBuf::from("/x"),
            project: project.to_owned(),
            params: None,
            memory_bytes: 5,
            gpus,
            environment: vec![("A".to_owned(), "b=c".to_owned())],
            command: words(&["python", "main.py", "--json"]),
        };
        let args = arguments(&wish("p", 1)).unwrap();
        assert_eq!(args.archive.as_deref(), Some("s3://lab/x"));
        assert_eq!(
            (args.command, args.gpus, args.memory.unwrap().0),
            (words(&["python", "main.py", "--json"]), Some(1), 5)
        );
        let refused = arguments(&wish("a/b", 0)).unwrap_err().to_string();
        assert!(refused.contains("\"a/b\" cannot name a project") && !refused.contains('\n'), "{refused}");
        assert!(arguments(&wish("p", 1 << 80)).is_err());
    }
}
