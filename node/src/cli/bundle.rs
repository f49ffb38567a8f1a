//! A directory goes to the daemon: hashed here, and only what the daemon lacks is sent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::blob::FileKind;
use proto::{ContentId, Manifest, ManifestFile, codec};

use super::checkout;
use super::client::Client;
use super::error::CliError;
use crate::blobs::{PackProgress, RESERVE_BYTES, Survey, survey};
use crate::http::words::blob::{BlobAnswer, BundleAnswer};
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::http::words::record::{CheckoutWord, DiffWord};
use crate::http::words::submit::{EnvironmentRuleWord, EnvironmentWord};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;
/// Files up to here are sent from memory, so that the request can be repeated.
const IN_MEMORY_MAX: u64 = 1 << 20;
/// What names an environment at the top of a directory: the first that is there, the most explicit first.
const ENVIRONMENT_FILES: [&str; 4] = ["requirements.txt", "pylock.toml", "uv.lock", "pyproject.toml"];
/// Where projects of Foundations may have it.
const CONFIG_REQUIREMENTS: &str = "config/requirements.txt";

/// A bundle that the daemon has.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) answer: BundleAnswer,
    /// Bytes of files that went over the socket.
    pub(crate) sent_bytes: u64,
    /// Bytes of the manifest, which always goes.
    pub(crate) manifest_bytes: u64,
    /// The environments that the directory asks for, by the most usual place first.
    environments: Vec<EnvironmentWord>,
    /// The git checkout that it lies in.
    pub(crate) checkout: Option<CheckoutWord>,
}

/// Makes the daemon have `dir` as a bundle.
pub(crate) async fn send(client: &mut Client, dir: &Path, is_quiet: bool) -> Result<Sent, CliError> {
    let looking = checkout::begin(dir);
    let cache = cache_file(dir);
    let bar = bar("packing", is_quiet);
    let mut surveyed =
        survey(dir, &cache, free_bytes(client.home()), |PackProgress { bytes_done, bytes_total, .. }| {
            bar.set_length(bytes_total);
            bar.set_position(bytes_done);
        })?;
    bar.finish_and_clear();
    let looked = looking.join().ok().flatten();
    let mut diff = None;
    let checkout = looked.map(|looked| {
        let has_new_files = looked.has_new_files(&surveyed.manifest);
        let told = looked.diff_of(&surveyed.manifest).map(|(text, is_cut)| {
            let word = add_diff(&mut surveyed, &text, is_cut);
            diff = Some(Bytes::from(text));
            word
        });
        // Of a directory, only what travels of it: what is changed beside it does not matter to the job.
        let is_dirty = looked.word.is_dirty || has_new_files || told.is_some();
        CheckoutWord { diff: told, is_dirty, ..looked.word }
    });
    let manifest = Bytes::from(surveyed.encoded.clone());
    let manifest_bytes = manifest.len() as u64;
    let answer = client.send_bytes(Method::POST, "/bundles", "application/octet-stream", manifest).await?;
    let mut answer: BundleAnswer = client.read_json(answer).await?;
    let mut sent_bytes = 0;
    if let (Some(diff), Some(DiffWord { content, size, .. })) =
        (diff, checkout.as_ref().and_then(|checkout| checkout.diff.as_ref()))
        && let Some(at) = answer.missing.iter().position(|missing| missing == content)
    {
        let route = format!("/blobs/{content}");
        let stored = client.send_bytes(Method::PUT, &route, "application/octet-stream", diff).await?;
        let _: BlobAnswer = client.read_json(stored).await?;
        answer.missing.remove(at);
        sent_bytes += size;
    }
    sent_bytes += upload(client, &surveyed, &answer, is_quiet).await?;
    Ok(Sent { answer, sent_bytes, manifest_bytes, environments: environments(&surveyed.manifest), checkout })
}

/// Makes the uncommitted changes a file of the bundle.
fn add_diff(surveyed: &mut Survey, text: &str, is_cut: bool) -> DiffWord {
    let (content, size) = (ContentId::of(text.as_bytes()), text.len() as u64);
    let kind = FileKind::File { content, size, executable: false };
    let file = ManifestFile { path: checkout::DIFF_FILE.to_owned(), kind };
    let files = &mut surveyed.manifest.files;
    match files.binary_search_by(|other| other.path.cmp(&file.path)) {
        // Left by an earlier job whose files were copied here.
        Ok(at) => files[at] = file,
        Err(at) => files.insert(at, file),
    }
    surveyed.encoded = codec::encode(&surveyed.manifest);
    DiffWord { content: content.to_string(), size, is_cut }
}

/// What the daemon, which runs on this machine, has room for; told before a large directory is read.
fn free_bytes(home: &Path) -> u64 {
    let stat = rustix::fs::statvfs(home.join("blobs"));
    stat.map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(RESERVE_BYTES))
}

/// Sends what is missing; returns how many bytes that was.
async fn upload(
    client: &mut Client,
    surveyed: &Survey,
    answer: &BundleAnswer,
    is_quiet: bool,
) -> Result<u64, CliError> {
    if answer.missing.is_empty() {
        return Ok(0);
    }
    let mut places: BTreeMap<String, (PathBuf, u64)> = BTreeMap::new();
    for file in &surveyed.manifest.files {
        if let FileKind::File { content, size, .. } = file.kind {
            places.insert(content.to_string(), (surveyed.dir.join(&file.path), size));
        }
    }
    let wanted = answer.missing.iter().filter_map(|id| places.get(id).map(|place| (id, place)));
    let total: u64 = wanted.clone().map(|(_, (_, size))| size).sum();
    let bar = bar("sending", is_quiet);
    bar.set_length(total);
    for (id, (path, size)) in wanted {
        let stored = put(client, id, path, *size, &bar).await.map_err(|error| changed(error, path))?;
        if stored.content != *id {
            return Err(client.broken(format!("stored {} as another blob", path.display())));
        }
    }
    bar.finish_and_clear();
    Ok(total)
}

/// What the daemon refuses, it cannot name: it was sent bytes. One reason is left for those to be others than before.
fn changed(error: CliError, path: &Path) -> CliError {
    match error {
        CliError::Refused(word) if word.code == ErrorCode::BadInput => CliError::Refused(ErrorWord {
            message: format!("{} changed while it was sent", path.display()),
            hint: "submit again once nothing writes to it, or leave it out with .fnodeignore".to_owned(),
            ..word
        }),
        error => error,
    }
}

async fn put(client: &mut Client, id: &str, path: &Path, size: u64, bar: &ProgressBar) -> Result<BlobAnswer, CliError> {
    let remedy = "change its permissions, or leave it out with .fnodeignore";
    let unreadable = |source| CliError::File { verb: "read", path: path.to_owned(), source, remedy };
    let mut file = File::open(path).map_err(unreadable)?;
    let route = format!("/blobs/{id}");
    let content_type = "application/octet-stream";
    let answer = if size <= IN_MEMORY_MAX {
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.take(IN_MEMORY_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        bar.inc(bytes.len() as u64);
        client.send_bytes(Method::PUT, &route, content_type, Bytes::from(bytes)).await?
    } else {
        let bar = bar.clone();
        let mut done = false;
        // Reads of the user's own disk block this one thread, which has nothing else to do.
        let chunks = std::iter::from_fn(move || {
            let mut chunk = vec![0; CHUNK];
            match file.read(&mut chunk) {
                _ if done => None,
                Ok(0) => None,
                Ok(count) => {
                    bar.inc(count as u64);
                    chunk.truncate(count);
                    Some(Ok(Frame::data(Bytes::from(chunk))))
                }
                Err(error) => {
                    done = true;
                    Some(Err(error))
                }
            }
        });
        let body = BodyExt::boxed(StreamBody::new(stream::iter(chunks)));
        client.send(Method::PUT, &route, content_type, body).await?
    };
    client.read_json(answer).await
}

impl Sent {
    /// The environment that the directory asks for, under this rule. Only projects of Foundations, whose
    /// environments lie over the node's packages, have it below `config`, too.
    pub(crate) fn environment(&self, rule: EnvironmentRuleWord) -> Option<EnvironmentWord> {
        let counts = |word: &&EnvironmentWord| rule != EnvironmentRuleWord::Exact || word.path != CONFIG_REQUIREMENTS;
        self.environments.iter().find(counts).map(|word| EnvironmentWord { rule, ..word.clone() })
    }
}

fn environments(manifest: &Manifest) -> Vec<EnvironmentWord> {
    let named = |name: &str| {
        manifest.files.iter().find_map(|file| match file.kind {
            FileKind::File { content, size: 1.., .. } if file.path == name => Some(EnvironmentWord {
                path: file.path.clone(),
                content: content.to_string(),
                python: String::new(),
                rule: EnvironmentRuleWord::Exact,
            }),
            _ => None,
        })
    };
    ENVIRONMENT_FILES.into_iter().chain([CONFIG_REQUIREMENTS]).filter_map(named).collect()
}

/// Which hashes the files of `dir` had: a hint in the user's cache, a file per directory.
fn cache_file(dir: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    let caches = base.join("fnode");
    // Without it every file is read each time, nothing worse.
    let _ = std::fs::create_dir_all(&caches);
    let full = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let name = ContentId::of(full.as_os_str().as_bytes()).to_string();
    caches.join(name.get(..32).unwrap_or(&name))
}

/// A progress bar on a terminal; elsewhere nothing.
pub(crate) fn bar(what: &'static str, is_quiet: bool) -> ProgressBar {
    if is_quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    // Drawn a few times a second: a fast command shows none.
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.with_message(what).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(files: &[(&str, u64)]) -> Manifest {
        let kind = |size| FileKind::File { content: ContentId([7; 32]), size, executable: false };
        let file = |&(path, size): &(&str, u64)| ManifestFile { path: path.to_owned(), kind: kind(size) };
        Manifest { files: files.iter().map(file).collect(), ..Manifest::default() }
    }

    #[test]
    fn a_file_that_changed_is_named() {
        let told =
            changed(CliError::Refused(ErrorWord::bad_input("the bytes sent are blob 1, not 2", "")), Path::new("a/b"));
        assert!(told.to_string().starts_with("a/b changed while it was sent; submit again once"), "{told}");
        let full = CliError::Refused(ErrorWord::new(ErrorCode::DiskFull, "full", ""));
        assert_eq!(changed(full, Path::new("a/b")).to_string(), "full");
    }

    #[test]
    fn the_most_explicit_file_names_the_environment() {
        let path = |files: &[(&str, u64)]| environments(&manifest(files)).into_iter().map(|word| word.path).next();
        assert_eq!(path(&[("pyproject.toml", 9), ("requirements.txt", 9)]).as_deref(), Some("requirements.txt"));
        assert_eq!(path(&[("pyproject.toml", 9), ("requirements.txt", 0)]).as_deref(), Some("pyproject.toml"));
        assert_eq!(path(&[("sub/requirements.txt", 9), ("train.py", 9)]), None);
    }

    #[test]
    fn requirements_below_config_count_for_projects_of_foundations() {
        let answer = BundleAnswer { manifest: String::new(), files: 0, total_bytes: 0, missing: Vec::new() };
        let sent = |files: &[(&str, u64)]| {
            let environments = environments(&manifest(files));
            Sent { answer: answer.clone(), sent_bytes: 0, manifest_bytes: 0, environments, checkout: None }
        };
        let path = |sent: &Sent, rule| sent.environment(rule).map(|word| (word.path, word.rule));
        let below = sent(&[("config/requirements.txt", 9)]);
        assert_eq!(path(&below, EnvironmentRuleWord::Exact), None);
        let lenient = EnvironmentRuleWord::Lenient;
        assert_eq!(path(&below, lenient), Some(("config/requirements.txt".to_owned(), lenient)));
        let both = sent(&[("config/requirements.txt", 9), ("requirements.txt", 9)]);
        assert_eq!(path(&both, lenient), Some(("requirements.txt".to_owned(), lenient)));
    }
}
