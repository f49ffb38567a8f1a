//! `foundations get` and `foundations retrieve`: a job's directory as it left it, files that it made, its log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proto::ByteSize;

use super::args::{GetWords, What};
use super::config::Places;
use super::error::AtlasError;
use super::queue::{find, print};
use super::yaml::{Value, read_map};
use crate::cli::args::LogsArgs;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::follow;
use crate::cli::get::{copy, file_error, outputs};
use crate::cli::output::{Output, say};
use crate::cli::time::counted;
use crate::http::words::blob::Outputs;
use crate::http::words::error::ErrorCode;
use crate::http::words::job::StateWord;

/// `foundations get` and `foundations retrieve`.
pub(crate) async fn get(client: Client, words: &GetWords) -> Result<Exit, AtlasError> {
    let (env, job) = named(words)?;
    let places = Places::of_process();
    let mut source = words.source_dir.clone();
    match &words.config {
        Some(config) => places.check_submission(config)?,
        None => {
            let file = places.environment(&env)?;
            if let (What::Artifacts, None, Some(file)) = (words.what, &source, file) {
                source = artifact_path(&file)?;
            }
        }
    }
    match words.what {
        What::Logs => logs(client, &env, &job).await,
        What::Job | What::Artifacts => files(client, words, &env, &job, source.as_deref()).await,
    }
}

/// Configuration and job, from words or from options.
fn named(words: &GetWords) -> Result<(String, String), AtlasError> {
    let job = words.job.clone().or(words.job_option.clone());
    match (&words.config, &words.env_option, job) {
        (Some(env), None, Some(job)) if words.job_option.is_none() => Ok((env.clone(), job)),
        (None, Some(env), Some(job)) => Ok((env.clone(), job)),
        (None, None, Some(job)) => Ok(("scheduler".to_owned(), job)),
        (_, _, None) => Err(CliError::usage("the job is missing", REMEDY).into()),
        _ => Err(CliError::usage("the job is given as a word and as an option", REMEDY).into()),
    }
}

const REMEDY: &str = "write: foundations get job SCHEDULER-CONFIG JOB_ID, or give --job_id and --env";

/// Where an environment says that its jobs put what shall be kept.
fn artifact_path(file: &Path) -> Result<Option<String>, AtlasError> {
    let config = read_map(file)?;
    let path = match config.get("results_config").map(|entry| &entry.value) {
        Some(Value::Map(results)) => results.get("artifact_path").map(|entry| entry.value.clone()),
        _ => None,
    };
    Ok(match path {
        Some(Value::Text(path)) => Some(path),
        _ => None,
    })
}

async fn logs(mut client: Client, env: &str, job: &str) -> Result<Exit, AtlasError> {
    let word = find(&mut client, job, env).await?;
    if matches!(word.line.state, StateWord::Queued | StateWord::Preparing) {
        return Err(AtlasError::Said(format!("Error: Job `{job}` is queued and has not produced any logs")));
    }
    let args = LogsArgs { job: word.line.id, follow: false, since: None, tail: None, attempt: None };
    Ok(follow::logs(client, &args, Output::new(false)).await?)
}

async fn files(
    mut client: Client,
    words: &GetWords,
    env: &str,
    job: &str,
    source: Option<&str>,
) -> Result<Exit, AtlasError> {
    let id = find(&mut client, job, env).await?.line.id;
    let could_not = |why: &str| {
        say(&format!("foundations: {why}"));
        AtlasError::Said(format!("Error: Could not download Job {job}"))
    };
    let whole = words.what == What::Job;
    let mut found = match outputs(&mut client, &id, whole, false).await {
        Err(error @ CliError::Refused(_)) if !error.is_refusal(ErrorCode::ShuttingDown) => {
            return Err(could_not(&error.to_string()));
        }
        found => found?,
    };
    keep_below(&mut found, source.unwrap_or_default());
    if found.files.is_empty() {
        return Err(could_not(&format!("the job kept no files below {}", source.unwrap_or("."))));
    }
    // A prefix of an id stands for the whole; a name that the user chose is the user's.
    let own = if id.starts_with(job) { &id } else { job };
    let dest = words.save_dir.clone().unwrap_or_else(|| PathBuf::from(own.replace('/', ".")));
    let aside = copy(&mut client, &found, whole, &dest, false).await.map_err(in_our_words)?;
    merge(&aside.files(), &dest).map_err(|source| in_our_words(file_error(&dest, source)))?;
    print(&format!("Successfully retrieved Job {job} from archive store"))?;
    let size = ByteSize(found.total_bytes);
    let files = counted(found.files.len(), "file");
    say(&format!("foundations: {files}, {size}, in {}", dest.display()));
    Ok(Exit::Done)
}

/// `fnode job get` says `--to DIR` where this command has another word.
fn in_our_words(error: CliError) -> CliError {
    match error {
        CliError::File { verb, path, source, .. } => CliError::File { verb, path, source, remedy: NO_ROOM },
        error => error,
    }
}

const NO_ROOM: &str = "free some space or choose another directory with --save_dir DIR";

/// Leaves what lies below a directory of the job, with its path from the job's root.
fn keep_below(outputs: &mut Outputs, source: &str) {
    let parts: Vec<&str> = source.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let below = parts.join("/");
    if below.is_empty() {
        return;
    }
    let inside = |path: &str| path.strip_prefix(&below).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    outputs.files.retain(|file| inside(&file.path));
    outputs.total_bytes = outputs.files.iter().map(|file| file.size_bytes).sum();
}

/// Moves what is in `from` to `to`, which may have files already; those of the same name are replaced.
fn merge(from: &Path, to: &Path) -> io::Result<()> {
    if !to.exists() {
        return fs::rename(from, to);
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() && place.is_dir() {
            merge(&entry.path(), &place)?;
        } else {
            fs::rename(entry.path(), &place)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::words::blob::{OutputFile, OutputKind};

    #[test]
    fn a_directory_of_the_job_is_no_prefix_of_a_name() {
        let file = |path: &str| OutputFile {
            path: path.to_owned(),
            kind: OutputKind::File,
            content: String::new(),
            target: String::new(),
            size_bytes: 1,
            executable: false,
        };
        let kept = |source: &str| {
            let files = ["models/a", "models/b/c", "models2/d", "e"].map(file).to_vec();
            let mut outputs =
                Outputs { job: String::new(), manifest: String::new(), total_bytes: 4, files, removed: Vec::new() };
            keep_below(&mut outputs, source);
            (outputs.files.into_iter().map(|file| file.path).collect::<Vec<_>>(), outputs.total_bytes)
        };
        assert_eq!(kept("models").0, ["models/a", "models/b/c"]);
        assert_eq!(kept("./models/"), kept("models"));
        assert_eq!(kept("models/b/c"), (vec!["models/b/c".to_owned()], 1));
        assert_eq!(kept("").1, 4);
        assert_eq!(kept(".").1, 4);
        assert_eq!(kept("../models").0, Vec::<String>::new());
    }

    #[test]
    fn files_join_those_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let write = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(&from.join("a/new"), "1");
        write(&from.join("a/same"), "new");
        write(&to.join("a/same"), "old");
        write(&to.join("a/other"), "stays");
        merge(&from, &to).unwrap();
        let read = |name: &str| fs::read_to_string(to.join("a").join(name)).unwrap();
        assert_eq!((read("new"), read("same"), read("other")), ("1".into(), "new".into(), "stays".into()));
    }
}
