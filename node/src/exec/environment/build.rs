//! Builds one environment: runs `uv`, or `venv` and `pip`, each in a process group of its own whose output goes to
//! the build log. Called by [`super::Environments`] in a task; dropping the future kills the group. Decides nothing
//! about which environment is built or kept.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::EnvironmentError;
use super::below::Below;
use super::recipe::{Install, Recipe, tree_files};
use super::shelf::Shelf;
use crate::exec::inventory::command;

/// Large wheels over a slow line take minutes, building one from source half an hour; then something hangs.
const STEP_MAX: Duration = Duration::from_secs(60 * 60);
/// How much of the log's end an error carries.
const TAIL_BYTES: u64 = 8 * 1024;
const TAIL_LINES: usize = 20;

/// Settings of pip, uv and the net that decide where packages come from. They reach the build, and the key.
const INDEX_VARIABLES: [&str; 16] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
    "PIP_PRE",
    "PIP_CONSTRAINT",
    "UV_INDEX",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_PRERELEASE",
    "UV_CONSTRAINT",
    "UV_TORCH_BACKEND",
];
/// How the net is reached: passed on, but not part of the key, for the same packages come.
const NET_VARIABLES: [&str; 24] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NETRC",
    "PIP_CERT",
    "PIP_CLIENT_CERT",
    "PIP_TRUSTED_HOST",
    "PIP_PROXY",
    "PIP_CONFIG_FILE",
    "UV_CONFIG_FILE",
    "UV_INSECURE_HOST",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    "UV_HTTP_TIMEOUT",
    "UV_KEYRING_PROVIDER",
];
/// What any program needs; HOME because pip, uv and netrc keep private indexes and passwords there.
const BASIC_VARIABLES: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"];

/// The part of the daemon's environment that a build sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    variables: Vec<(String, OsString)>,
    /// Of pip's and uv's configuration files, in order.
    configs: Vec<Vec<u8>>,
}

impl Settings {
    pub(super) fn of_this_process() -> Self {
        let variables = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| is_passed_on(name))
            .collect();
        let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let config = env::var_os("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
        let named = ["PIP_CONFIG_FILE", "UV_CONFIG_FILE"].into_iter().filter_map(env::var_os).map(PathBuf::from);
        let usual = ["/etc/pip.conf", "/etc/xdg/pip/pip.conf", "/etc/uv/uv.toml"].map(PathBuf::from);
        let own = [config.join("pip/pip.conf"), home.join(".pip/pip.conf"), config.join("uv/uv.toml")];
        let configs = named.chain(usual).chain(own).filter_map(|path| fs::read(path).ok()).collect();
        Self { variables, configs }
    }

    /// Nothing but a `PATH`.
    #[cfg(test)]
    pub(super) fn with_path(path: &str) -> Self {
        Self { variables: vec![("PATH".to_owned(), path.into())], configs: Vec::new() }
    }

    /// What of the settings decides which packages come.
    pub(super) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        for (name, value) in &self.variables {
            if INDEX_VARIABLES.contains(&name.as_str()) {
                super::recipe::frame(hasher, name.as_bytes());
                super::recipe::frame(hasher, value.as_encoded_bytes());
            }
        }
        for config in &self.configs {
            super::recipe::frame(hasher, config);
        }
    }

    /// Where `uv` is, if it is on the path.
    pub(super) fn uv(&self) -> Option<PathBuf> {
        let path = self.variables.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value)?;
        command::on_path(path, "uv")
    }
}

fn is_passed_on(name: &str) -> bool {
    let listed = |list: &[&str]| list.contains(&name);
    // uv takes the passwords of named indexes as UV_INDEX_<NAME>_USERNAME and _PASSWORD.
    let password = name.starts_with("UV_INDEX_") && (name.ends_with("_USERNAME") || name.ends_with("_PASSWORD"));
    listed(&INDEX_VARIABLES) || listed(&NET_VARIABLES) || listed(&BASIC_VARIABLES) || password
}

/// Everything one build needs.
#[derive(Clone, Debug)]
pub(super) struct Build {
    pub(super) shelf: Shelf,
    pub(super) key: String,
    pub(super) recipe: Recipe,
    pub(super) interpreter: PathBuf,
    /// What it lies over.
    pub(super) below: Option<Below>,
    pub(super) python: String,
    pub(super) settings: Settings,
    pub(super) uv: Option<PathBuf>,
}

impl Build {
    /// The log of this build; each job that waits for it copies it into its own.
    pub(super) fn log_file(shelf: &Shelf, key: &str) -> PathBuf {
        shelf.dir.join("logs").join(format!("{key}.log"))
    }

    /// Name of the tool, for people.
    pub(super) fn tool(&self) -> &'static str {
        if self.uv.is_some() { "uv" } else { "pip" }
    }

    /// Copies what the build reads to its place. Blocks.
    pub(super) fn lay_out(&self) -> Result<(), EnvironmentError> {
        let place = self.shelf.place(&self.key);
        self.shelf.clear(&self.key).map_err(|error| EnvironmentError::io(&place, &error))?;
        let project = place.join("project");
        let write = |path: &Path, bytes: &[u8]| -> std::io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(&project))?;
            fs::write(path, bytes)
        };
        if let Some(tree) = &self.recipe.tree {
            for path in tree_files(&tree.root)? {
                let (from, to) = (tree.root.join(&path), project.join(&path));
                copy(&from, &to).map_err(|error| EnvironmentError::io(&from, &error))?;
            }
        }
        for (path, bytes) in &self.recipe.files {
            let to = project.join(path);
            write(&to, bytes).map_err(|error| EnvironmentError::io(&to, &error))?;
        }
        let scratch = place.join("tmp");
        fs::create_dir_all(&scratch).map_err(|error| EnvironmentError::io(&scratch, &error))
    }

    /// Runs the tools. What they say goes to the log as they say it.
    pub(super) async fn run(&self) -> Result<(), EnvironmentError> {
        let venv = self.shelf.venv(&self.key);
        let file = &self.recipe.file;
        let python = venv.join("bin/python");
        let Some(uv) = &self.uv else {
            if self.recipe.install != Install::Requirements {
                return Err(EnvironmentError::NeedsUv { file: file.display().to_string() });
            }
            let mut create = self.command(&self.interpreter);
            create.args(["-m", "venv"]).arg(&venv);
            self.step("python -m venv", create).await?;
            self.put_below(&venv)?;
            let mut install = self.command(&python);
            install.args([
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--no-input",
                "--progress-bar",
                "off",
            ]);
            install.arg("-r").arg(file);
            return self.step("pip install", install).await;
        };
        let mut create = self.command(uv);
        create.args(["venv", "--no-project", "--python"]).arg(&self.interpreter).arg(&venv);
        self.step("uv venv", create).await?;
        self.put_below(&venv)?;
        let mut install = self.command(uv);
        match self.recipe.install {
            Install::Requirements | Install::PyLock => {
                install.args(["pip", "install", "--compile-bytecode", "--python"]).arg(&python).arg("-r").arg(file);
            }
            Install::UvSync => {
                install.args([
                    "sync",
                    "--frozen",
                    "--no-install-project",
                    "--no-dev",
                    "--compile-bytecode",
                    "--project",
                ]);
                install.arg(file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")));
                install.env("UV_PROJECT_ENVIRONMENT", &venv);
            }
        }
        self.step(if self.recipe.install == Install::UvSync { "uv sync" } else { "uv pip install" }, install).await
    }

    fn put_below(&self, venv: &Path) -> Result<(), EnvironmentError> {
        let put = self.below.as_ref().map_or(Ok(()), |below| below.put_under(venv));
        put.map_err(|error| EnvironmentError::io(venv, &error))
    }

    fn command(&self, program: &Path) -> Command {
        let place = self.shelf.place(&self.key);
        let cache = self.shelf.dir.join("cache");
        let mut command = Command::new(program);
        command.current_dir(place.join("project")).env_clear().envs(self.settings.variables.iter().cloned());
        command.env("TMPDIR", place.join("tmp"));
        // On the same file system as the environments, so that uv links instead of copying.
        command.env("UV_CACHE_DIR", cache.join("uv")).env("PIP_CACHE_DIR", cache.join("pip"));
        command.env("UV_PYTHON_DOWNLOADS", "never").env("UV_NO_PROGRESS", "1").env("NO_COLOR", "1");
        command.env("PYTHONUNBUFFERED", "1").env("PYTHONNOUSERSITE", "1");
        command
    }

    async fn step(&self, tool: &'static str, mut command: Command) -> Result<(), EnvironmentError> {
        let path = Self::log_file(&self.shelf, &self.key);
        let fail = |error: std::io::Error| EnvironmentError::io(&path, &error);
        let mut log = OpenOptions::new().create(true).append(true).open(&path).map_err(fail)?;
        writeln!(log, "fnode: {tool} (Python {})", self.python).map_err(fail)?;
        let start = log.seek(SeekFrom::End(0)).map_err(fail)?;
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(fail)?).stderr(log.try_clone().map_err(fail)?);
        let mut child = command.process_group(0).kill_on_drop(true).spawn().map_err(|error| {
            EnvironmentError::Build { tool, exit: "not started".to_owned(), tail: error.to_string() }
        })?;
        let group = KillGroup::of(child.id());
        if let Some(group) = &group {
            self.shelf.note_building(&self.key, group.0.as_raw_nonzero().get()).map_err(fail)?;
        }
        let status = match tokio::time::timeout(STEP_MAX, child.wait()).await {
            Ok(status) => status.map_err(fail)?,
            Err(_) => return Err(EnvironmentError::TooLong { tool, minutes: STEP_MAX.as_secs() / 60 }),
        };
        // It was waited for: its number may belong to someone else from now on.
        std::mem::forget(group);
        if status.success() {
            return Ok(());
        }
        let exit = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or(0)),
        };
        Err(EnvironmentError::Build { tool, exit, tail: tail(&path, start) })
    }
}

/// Kills a process group when dropped: a build whose jobs were all stopped must not go on downloading.
struct KillGroup(Pid);

impl KillGroup {
    fn of(pid: Option<u32>) -> Option<Self> {
        Some(Self(Pid::from_raw(i32::try_from(pid?).ok()?)?))
    }
}

impl Drop for KillGroup {
    fn drop(&mut self) {
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    if from.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(from)?, to);
    }
    fs::copy(from, to).map(drop)
}

/// The last lines of the log after `start`.
fn tail(path: &Path, start: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_and_proxies_pass_and_secrets_do_not() {
        for name in ["PIP_INDEX_URL", "https_proxy", "UV_INDEX_LAB_PASSWORD", "PATH", "HOME"] {
            assert!(is_passed_on(name), "{name}");
        }
        for name in ["AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "VIRTUAL_ENV", "LD_PRELOAD", "PIP_TARGET", "UV_PYTHON"] {
            assert!(!is_passed_on(name), "{name}");
        }
    }

    #[test]
    fn another_index_is_another_environment_and_another_proxy_is_not() {
        let hash = |name: &str, value: &str| {
            let variables = vec![(name.to_owned(), value.into())];
            let mut hasher = blake3::Hasher::new();
            Settings { variables, configs: Vec::new() }.hash_into(&mut hasher);
            hasher.finalize()
        };
        assert_ne!(hash("PIP_INDEX_URL", "https://a"), hash("PIP_INDEX_URL", "https://b"));
        assert_eq!(hash("HTTPS_PROXY", "https://a"), hash("HTTPS_PROXY", "https://b"));
    }

    #[test]
    fn the_tail_is_the_end_of_this_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let long: String = (0..1_000).map(|n| format!("line {n}\n\n")).collect();
        fs::write(&path, format!("earlier\n{long}")).unwrap();
        let end = tail(&path, 8);
        assert_eq!(end.lines().count(), TAIL_LINES);
        assert!(end.starts_with("line 980") && end.ends_with("line 999"));
        assert_eq!(tail(&dir.path().join("gone"), 0), "");
    }
}
