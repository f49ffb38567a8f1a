//! `fnode job get`: a job's files, in a directory of the user's. Written aside and renamed, so that a
//! directory with the wanted name is always whole.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use http_body_util::BodyExt as _;
use hyper::Method;
use indicatif::ProgressBar;
use proto::blob::FileKind;
use proto::{ByteSize, Manifest, ManifestFile};
use serde::Serialize;

use super::args::GetArgs;
use super::bundle::bar;
use super::client::{Client, query, segment};
use super::error::CliError;
use super::exit::Exit;
use super::output::Output;
use super::time::counted;
use crate::http::words::blob::{BlobCheck, FetchEvent, OutputFile, OutputKind, Outputs};

/// What was copied.
#[derive(Serialize)]
struct Got {
    job: String,
    dir: String,
    files: usize,
    total_bytes: u64,
    /// Files that it was given and removed.
    removed: Vec<String>,
}

pub(crate) async fn get(mut client: Client, args: &GetArgs, output: Output) -> Result<Exit, CliError> {
    let outputs = outputs(&mut client, &args.job, args.whole, output.is_json()).await?;
    let dest = args.to.clone().unwrap_or_else(|| PathBuf::from(outputs.job.replace('/', ".")));
    check_free(&dest)?;
    let aside = copy(&mut client, &outputs, args.whole, &dest, output.is_json()).await?;
    // Takes the place of an empty directory, and of nothing else.
    fs::rename(aside.files(), &dest).map_err(|source| file_error(&dest, source))?;
    let got = Got {
        job: outputs.job,
        dir: dest.display().to_string(),
        files: outputs.files.len(),
        total_bytes: outputs.total_bytes,
        removed: outputs.removed,
    };
    output.print(&got, |got| {
        format!("{}, {} of job {} are in {}", counted(got.files, "file"), ByteSize(got.total_bytes), got.job, got.dir)
    })?;
    Ok(Exit::Done)
}

/// Files beside the directory where they shall be; gone with this, unless they are moved away.
pub(crate) struct Aside(tempfile::TempDir);

impl Aside {
    /// The directory that holds them.
    pub(crate) fn files(&self) -> PathBuf {
        self.0.path().join("files")
    }
}

/// The files that a job made or changed, and with `whole` those that it was given; all on the daemon's disk then.
pub(crate) async fn outputs(client: &mut Client, job: &str, whole: bool, is_quiet: bool) -> Result<Outputs, CliError> {
    bring(client, job, whole, is_quiet).await?;
    let outputs: Outputs = client.get(&format!("/jobs/{}/outputs{}", segment(job), asked(whole))).await?;
    // A node is trusted, a path is not: nothing may land outside of the directory.
    check_paths(&outputs).map_err(|error| client.broken(format!("named files that cannot be ({error})")))?;
    Ok(outputs)
}

/// Copies files to a place beside `dest`, on the same file system; `whole` as it was asked for.
pub(crate) async fn copy(
    client: &mut Client,
    outputs: &Outputs,
    whole: bool,
    dest: &Path,
    is_quiet: bool,
) -> Result<Aside, CliError> {
    let parent = dest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unwritable = |source| file_error(dest, source);
    fs::create_dir_all(parent).map_err(unwritable)?;
    let aside = Aside(tempfile::Builder::new().prefix(".fnode-get-").tempdir_in(parent).map_err(unwritable)?);
    let root = aside.files();
    fs::create_dir(&root).map_err(unwritable)?;
    let bar = bar("fetching", is_quiet);
    bar.set_length(outputs.total_bytes);
    for file in &outputs.files {
        if !write(client, &root, file, &bar).await? {
            mend(client, (&outputs.job, whole), &root, file, is_quiet).await?;
        }
    }
    bar.finish_and_clear();
    Ok(aside)
}

fn asked(whole: bool) -> String {
    query(&[("whole", if whole { "1".to_owned() } else { String::new() })])
}

/// Has the files brought to the daemon, however long that takes; what is there already takes no time.
async fn bring(client: &mut Client, job: &str, whole: bool, is_quiet: bool) -> Result<(), CliError> {
    let route = format!("/jobs/{}/outputs/fetch{}", segment(job), asked(whole));
    let mut body = client.send_bytes(Method::GET, &route, "application/json", bytes::Bytes::new()).await?.into_body();
    let bar = bar("from other nodes", is_quiet);
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| client.broken("broke off while it fetched the files".to_owned()))?;
        text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let event = line.strip_prefix(b"data:").and_then(|json| serde_json::from_slice::<FetchEvent>(json).ok());
            match event {
                Some(FetchEvent { error: Some(error), .. }) => return Err(CliError::Refused(error)),
                Some(FetchEvent { done: true, .. }) => {
                    bar.finish_and_clear();
                    return Ok(());
                }
                Some(FetchEvent { bytes_done, bytes_total, .. }) => {
                    bar.set_length(bytes_total);
                    bar.set_position(bytes_done);
                }
                None => {}
            }
        }
    }
    Err(client.broken("broke off while it fetched the files".to_owned()))
}

/// A disk has changed a file since it was stored: the daemon lets go of it, and brings it from another node.
async fn mend(
    client: &mut Client,
    (job, whole): (&str, bool),
    root: &Path,
    file: &OutputFile,
    is_quiet: bool,
) -> Result<(), CliError> {
    let broken =
        || format!("has other bytes for {} than its record names, and no other node has the right ones", file.path);
    let check: BlobCheck = client.post(&format!("/blobs/{}/check", segment(&file.content)), &()).await?;
    let path = root.join(&file.path);
    fs::remove_file(&path).map_err(|source| file_error(&path, source))?;
    if check.is_whole || bring(client, job, whole, is_quiet).await.is_err() {
        return Err(client.broken(broken()));
    }
    if write(client, root, file, &ProgressBar::hidden()).await? { Ok(()) } else { Err(client.broken(broken())) }
}

fn check_free(dest: &Path) -> Result<(), CliError> {
    let is_free = match fs::read_dir(dest) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_free {
        return Ok(());
    }
    Err(CliError::usage(format!("{} is there already", dest.display()), "give another directory with --to DIR"))
}

fn check_paths(outputs: &Outputs) -> Result<(), proto::blob::ManifestError> {
    let kind = |file: &OutputFile| match file.kind {
        OutputKind::File => {
            FileKind::File { content: proto::ContentId([0; 32]), size: file.size_bytes, executable: file.executable }
        }
        OutputKind::Link => FileKind::Link(file.target.clone()),
        OutputKind::EmptyDirectory => FileKind::EmptyDirectory,
    };
    let files = outputs.files.iter().map(|file| ManifestFile { path: file.path.clone(), kind: kind(file) });
    Manifest { files: files.collect(), removed: outputs.removed.clone() }.check()
}

/// Whether its bytes are those that were asked for.
async fn write(client: &mut Client, root: &Path, file: &OutputFile, bar: &ProgressBar) -> Result<bool, CliError> {
    let path = root.join(&file.path);
    let unwritable = |source| file_error(&path, source);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(unwritable)?;
    }
    match file.kind {
        OutputKind::EmptyDirectory => fs::create_dir_all(&path).map(|()| true).map_err(unwritable),
        OutputKind::Link => symlink(&file.target, &path).map(|()| true).map_err(unwritable),
        OutputKind::File => {
            let mode = if file.executable { 0o777 } else { 0o666 };
            let mut open = fs::OpenOptions::new();
            let mut to = open.write(true).create_new(true).mode(mode).open(&path).map_err(unwritable)?;
            fetch(client, file, &mut to, &path, bar).await
        }
    }
}

/// Copies a blob; whether it is the one that was asked for.
async fn fetch(
    client: &mut Client,
    file: &OutputFile,
    to: &mut fs::File,
    path: &Path,
    bar: &ProgressBar,
) -> Result<bool, CliError> {
    let route = format!("/blobs/{}", segment(&file.content));
    let answer = client.send_bytes(Method::GET, &route, "application/json", bytes::Bytes::new()).await?;
    let mut body = answer.into_body();
    let mut hasher = blake3::Hasher::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| client.broken(format!("broke off in the middle of {}", file.path)))?;
        let Ok(data) = frame.into_data() else { continue };
        hasher.update(&data);
        to.write_all(&data).map_err(|source| file_error(path, source))?;
        bar.inc(data.len() as u64);
    }
    Ok(hasher.finalize().to_hex().as_str() == file.content)
}

pub(crate) fn file_error(path: &Path, source: std::io::Error) -> CliError {
    let remedy = "free some space or choose another directory with --to DIR";
    CliError::File { verb: "write", path: path.to_owned(), source, remedy }
}
