//! Where each value of the configuration comes from: flag, then `FNODE_*`, then `config.toml` in the data
//! directory, then default. [`Settings::read`] collects them with their origin; [`Settings::into_config`]
//! makes the daemon's configuration. Only the data directory's place is decided before.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::ByteSize;
use proto::snapshotting::SnapshotRules;
use proto::ticket::Ticket;
use serde::{Deserialize, Serialize};

use super::args::{StartArgs, address};
use super::error::CliError;
use super::values;
use crate::node::{API_PORT, Config, Home, P2P_PORT, Places, Retention};
use crate::objects::Place;

/// Longest name of a node, in bytes.
const NAME_MAX: usize = 63;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag(&'static str),
    Variable(&'static str),
    File(PathBuf),
    Default,
}

/// A value and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

/// Everything a daemon is started with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) home: Setting<PathBuf>,
    name: Setting<String>,
    listen: Setting<Vec<SocketAddr>>,
    api: Setting<SocketAddr>,
    mdns: Setting<bool>,
    cpus: Setting<Option<u32>>,
    memory: Setting<Option<ByteSize>>,
    gpus: Setting<Option<u32>>,
    labels: Setting<BTreeMap<String, String>>,
    retention: Setting<Option<Duration>>,
    blobs_max: Setting<Option<ByteSize>>,
    cache_max: Setting<Option<ByteSize>>,
    archive: Setting<Option<Place>>,
    cache_store: Setting<Option<Place>>,
    log_snapshot_every: Setting<u64>,
    log_horizon: Setting<Duration>,
}

/// One line of `fnode config show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Shown {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) origin: String,
}

/// `config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    name: Option<String>,
    listen: Option<OneOrMore>,
    api: Option<OneOrMore>,
    mdns: Option<bool>,
    cpus: Option<toml::Value>,
    memory: Option<toml::Value>,
    gpus: Option<toml::Value>,
    labels: Option<BTreeMap<String, String>>,
    retention: Option<toml::Value>,
    blobs_max: Option<toml::Value>,
    cache_max: Option<toml::Value>,
    archive: Option<String>,
    cache_store: Option<String>,
    log_snapshot_every: Option<u64>,
    log_horizon: Option<toml::Value>,
}

/// `4680`, `"0.0.0.0:4680"` or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    Port(u16),
    One(String),
    Many(Vec<OneOrMore>),
}

/// The process's environment; another one in tests.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "{name}"),
            Self::Variable(name) => write!(f, "{name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => write!(f, "default"),
        }
    }
}

/// The data directory: flag, `FNODE_HOME`, `/var/lib/fnode` for root's service user, else `~/.fnode`.
pub(crate) fn home(flag: Option<&Path>, variables: Variables<'_>) -> Result<Setting<PathBuf>, CliError> {
    let (value, origin) = match (flag, variables("FNODE_HOME"), variables("HOME")) {
        (Some(dir), _, _) => (dir.to_owned(), Origin::Flag("--home")),
        (None, Some(dir), _) if !dir.is_empty() => (PathBuf::from(dir), Origin::Variable("FNODE_HOME")),
        (None, _, Some(home)) if !home.is_empty() => (Path::new(&home).join(".fnode"), Origin::Default),
        _ => return Err(CliError::usage("there is no HOME to keep data in", "give a directory with --home DIR")),
    };
    if value.as_os_str().is_empty() {
        return Err(CliError::usage("--home is empty", "give a directory"));
    }
    let value = std::path::absolute(&value).unwrap_or(value);
    Ok(Setting { value, origin })
}

impl Settings {
    /// Collects everything. `args`: the flags of `fnode start`; none for `fnode config show`.
    pub(crate) fn read(home: Setting<PathBuf>, args: &StartArgs, variables: Variables<'_>) -> Result<Self, CliError> {
        let path = Home::new(&home.value).config();
        let file = read_file(&path)?;
        let source = Source { path, variables };
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let addresses =
            |texts: Vec<String>, any| texts.iter().map(|text| address(text, any)).collect::<Result<Vec<_>, _>>();
        let flag = |texts: &Vec<String>| if texts.is_empty() { None } else { Some(texts.clone()) };
        let (retention, blobs_max) = source.limits(args, file.retention, file.blobs_max)?;
        let [archive, cache_store] = source.places(args, [file.archive, file.cache_store])?;
        let split = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        Ok(Self {
            name: source.pick(
                "name",
                args.name.as_deref().map(check_name),
                ("--name", "FNODE_NAME"),
                check_name,
                file.name.map(|name| check_name(&name)),
                || last_name(&home.value).unwrap_or_else(host_name),
            )?,
            listen: source.pick(
                "listen",
                flag(&args.listen).map(|texts| addresses(texts, any)),
                ("--listen", "FNODE_LISTEN"),
                |text| addresses(split(text), any),
                file.listen.map(|listen| addresses(listen.texts(), any)),
                || vec![SocketAddr::new(any, P2P_PORT)],
            )?,
            api: source.pick(
                "api",
                args.api.as_ref().map(|text| address(text, loopback)),
                ("--api", "FNODE_API"),
                |text| address(text, loopback),
                file.api.map(|api| address(&api.texts().join(","), loopback)),
                || SocketAddr::new(loopback, API_PORT),
            )?,
            mdns: source.pick(
                "mdns",
                args.no_mdns.then_some(Ok(false)),
                ("--no-mdns", "FNODE_MDNS"),
                yes_or_no,
                file.mdns.map(Ok),
                || true,
            )?,
            cpus: source.cap("cpus", args.cpus, ("--cpus", "FNODE_CPUS"), values::cpus, file.cpus)?,
            memory: source.cap("memory", args.memory, ("--memory", "FNODE_MEMORY"), values::memory, file.memory)?,
            gpus: source.cap("gpus", args.gpus, ("--gpus", "FNODE_GPUS"), values::gpus, file.gpus)?,
            labels: source.pick(
                "labels",
                (!args.labels.is_empty()).then(|| Ok(args.labels.iter().cloned().collect())),
                ("--label", "FNODE_LABELS"),
                |text| split(text).iter().map(|pair| values::label(pair)).collect(),
                file.labels
                    .map(|labels| labels.iter().map(|(key, value)| values::label(&format!("{key}={value}"))).collect()),
                BTreeMap::new,
            )?,
            retention,
            blobs_max,
            cache_max: source.cache_max(args, file.cache_max)?,
            archive,
            cache_store,
            log_snapshot_every: source.log_snapshot_every(file.log_snapshot_every)?,
            log_horizon: source.log_horizon(file.log_horizon)?,
            home,
        })
    }

    /// The daemon's configuration. `respawn`: the arguments with which the runner starts it again.
    pub(crate) fn into_config(self, join: Option<Ticket>, exe: PathBuf, respawn: Vec<String>) -> Config {
        Config {
            home: Home::new(&self.home.value),
            name: self.name.value,
            join,
            listen: self.listen.value,
            api: self.api.value,
            mdns: self.mdns.value,
            labels: self.labels.value,
            cpu_milli_max: self.cpus.value,
            memory_max: self.memory.value,
            gpus_max: self.gpus.value,
            retention: Retention {
                older_than: self.retention.value,
                bytes_max: self.blobs_max.value,
                cache_max: self.cache_max.value,
            },
            places: Places { archive: self.archive.value, cache: self.cache_store.value },
            snapshot_rules: SnapshotRules { every: self.log_snapshot_every.value, horizon: self.log_horizon.value },
            exe,
            respawn_args: respawn,
        }
    }

    /// The first peer-to-peer port.
    pub(crate) fn port(&self) -> u16 {
        self.listen.value.first().map_or(P2P_PORT, SocketAddr::port)
    }

    /// Every value with its origin.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let all = || "all".to_owned();
        let never = || "no limit".to_owned();
        let joined = |addrs: &[SocketAddr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let labels: Vec<String> = self.labels.value.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            shown("home", self.home.value.display().to_string(), &self.home.origin),
            shown("name", self.name.value.clone(), &self.name.origin),
            shown("listen", joined(&self.listen.value), &self.listen.origin),
            shown("api", self.api.value.to_string(), &self.api.origin),
            shown("mdns", self.mdns.value.to_string(), &self.mdns.origin),
            shown(
                "cpus",
                self.cpus.value.map_or_else(all, |milli| (f64::from(milli) / 1_000.0).to_string()),
                &self.cpus.origin,
            ),
            shown("memory", self.memory.value.map_or_else(all, |memory| memory.to_string()), &self.memory.origin),
            shown("gpus", self.gpus.value.map_or_else(all, |gpus| gpus.to_string()), &self.gpus.origin),
            shown("labels", labels.join(","), &self.labels.origin),
            shown("retention", self.retention.value.map_or_else(never, super::time::exact), &self.retention.origin),
            shown("blobs_max", self.blobs_max.value.map_or_else(never, |max| max.to_string()), &self.blobs_max.origin),
            shown("cache_max", self.cache_max.value.map_or_else(never, |max| max.to_string()), &self.cache_max.origin),
            shown("archive", place(&self.archive.value), &self.archive.origin),
            shown("cache_store", place(&self.cache_store.value), &self.cache_store.origin),
            shown("log_snapshot_every", self.log_snapshot_every.value.to_string(), &self.log_snapshot_every.origin),
            shown("log_horizon", super::time::exact(self.log_horizon.value), &self.log_horizon.origin),
        ]
    }
}

fn place(place: &Option<Place>) -> String {
    place.as_ref().map_or_else(|| "this cluster".to_owned(), Place::to_string)
}

fn shown(name: &'static str, value: String, origin: &Origin) -> Shown {
    Shown { name, value, origin: origin.to_string() }
}

/// Where values are looked for after the flags.
struct Source<'a> {
    path: PathBuf,
    variables: Variables<'a>,
}

impl Source<'_> {
    /// A snapshot of the log after so many entries. For a file or a variable: nobody changes it from start to start.
    fn log_snapshot_every(&self, in_file: Option<u64>) -> Result<Setting<u64>, CliError> {
        let check = |every: u64| if every > 0 { Ok(every) } else { Err("write a number above 0".to_owned()) };
        let parse = |text: &str| check(text.parse().unwrap_or(0));
        let names = ("", "FNODE_LOG_SNAPSHOT_EVERY");
        let default = || SnapshotRules::default().every;
        self.pick("log_snapshot_every", None, names, parse, in_file.map(check), default)
    }

    /// How long entries are kept that a snapshot covers.
    fn log_horizon(&self, in_file: Option<toml::Value>) -> Result<Setting<Duration>, CliError> {
        let in_file = in_file.map(|value| values::duration(&plain(&value)));
        let default = || SnapshotRules::default().horizon;
        self.pick("log_horizon", None, ("", "FNODE_LOG_HORIZON"), values::duration, in_file, default)
    }

    /// A cap on what the node offers; without one it offers all.
    fn cap<T>(
        &self,
        key: &str,
        flag: Option<T>,
        names: (&'static str, &'static str),
        parse: impl Fn(&str) -> Result<T, String>,
        in_file: Option<toml::Value>,
    ) -> Result<Setting<Option<T>>, CliError> {
        let some = |text: &str| parse(text).map(Some);
        let in_file = in_file.map(|value| some(&plain(&value)));
        self.pick(key, flag.map(|flag| Ok(Some(flag))), names, some, in_file, || None)
    }

    /// How long files of ended jobs stay, and how much all of them may take.
    #[expect(clippy::type_complexity, reason = "two settings of one subject, taken apart at once")]
    fn limits(
        &self,
        args: &StartArgs,
        retention: Option<toml::Value>,
        blobs_max: Option<toml::Value>,
    ) -> Result<(Setting<Option<Duration>>, Setting<Option<ByteSize>>), CliError> {
        let names = ("--retention", "FNODE_RETENTION");
        let retention = self.cap("retention", args.retention, names, values::duration, retention)?;
        let names = ("--blobs-max", "FNODE_BLOBS_MAX");
        Ok((retention, self.cap("blobs_max", args.blobs_max, names, values::size, blobs_max)?))
    }

    fn cache_max(
        &self,
        args: &StartArgs,
        cache_max: Option<toml::Value>,
    ) -> Result<Setting<Option<ByteSize>>, CliError> {
        let names = ("--cache-max", "FNODE_CACHE_MAX");
        self.cap("cache_max", args.cache_max, names, values::size, cache_max)
    }

    /// Object stores that the node writes to.
    fn places(&self, args: &StartArgs, files: [Option<String>; 2]) -> Result<[Setting<Option<Place>>; 2], CliError> {
        let [archive, cache_store] = files;
        let some = |text: &str| Place::parse(text).map(Some);
        let pick = |key, flag: &Option<String>, names, in_file: Option<String>| {
            self.pick(key, flag.as_deref().map(some), names, some, in_file.map(|text| some(&text)), || None)
        };
        Ok([
            pick("archive", &args.archive, ("--archive", "FNODE_ARCHIVE"), archive)?,
            pick("cache_store", &args.cache_store, ("--cache-store", "FNODE_CACHE_STORE"), cache_store)?,
        ])
    }

    /// The first that is given, in the order of precedence.
    fn pick<T>(
        &self,
        key: &str,
        flag: Option<Result<T, String>>,
        (flag_name, variable): (&'static str, &'static str),
        parse: impl Fn(&str) -> Result<T, String>,
        in_file: Option<Result<T, String>>,
        default: impl FnOnce() -> T,
    ) -> Result<Setting<T>, CliError> {
        let refuse = |whose: String| move |why: String| CliError::usage(whose, why);
        if let Some(flag) = flag {
            let value = flag.map_err(refuse(format!("{flag_name} cannot be used")))?;
            return Ok(Setting { value, origin: Origin::Flag(flag_name) });
        }
        if let Some(text) = (self.variables)(variable).filter(|text| !text.is_empty()) {
            let value = parse(&text).map_err(refuse(format!("{variable}={text} cannot be used")))?;
            return Ok(Setting { value, origin: Origin::Variable(variable) });
        }
        if let Some(in_file) = in_file {
            let value = in_file.map_err(refuse(format!("{key} in {} cannot be used", self.path.display())))?;
            return Ok(Setting { value, origin: Origin::File(self.path.clone()) });
        }
        Ok(Setting { value: default(), origin: Origin::Default })
    }
}

fn read_file(path: &Path) -> Result<ConfigFile, CliError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(ConfigFile::default());
        }
        Err(source) => {
            let remedy = "change its permissions, or start with another --home";
            return Err(CliError::File { verb: "read", path: path.to_owned(), source, remedy });
        }
    };
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let what = format!("{} line {line}: {}", path.display(), error.message().replace('\n', " "));
        CliError::usage(what, "correct it; README.md lists what may stand there")
    })
}

impl OneOrMore {
    fn texts(&self) -> Vec<String> {
        match self {
            Self::Port(port) => vec![port.to_string()],
            Self::One(text) => vec![text.clone()],
            Self::Many(all) => all.iter().flat_map(Self::texts).collect(),
        }
    }
}

/// A number or a text of the file, as it would be typed.
fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "1" | "yes" | "true" | "on" => Ok(true),
        "0" | "no" | "false" | "off" => Ok(false),
        _ => Err("write yes or no".to_owned()),
    }
}

fn check_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(plain) {
        return Err(format!("a node's name has 1 to {NAME_MAX} letters, digits, -, _ and ."));
    }
    Ok(text.to_owned())
}

/// Colleagues know the node by the name that it was started with once.
fn last_name(home: &Path) -> Option<String> {
    let text = std::fs::read_to_string(Home::new(home).last_name()).ok()?;
    check_name(text.trim()).ok()
}

fn host_name() -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let short = host.split('.').next().unwrap_or_default();
    check_name(short).unwrap_or_else(|_| "node".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;

    fn none(_: &str) -> Option<String> {
        None
    }

    fn settings(dir: &Path, args: &StartArgs, variables: Variables<'_>) -> Result<Settings, CliError> {
        Settings::read(home(Some(dir), variables).unwrap(), args, variables)
    }

    #[test]
    fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let cpus = |args: &StartArgs, variables: Variables<'_>| settings(dir.path(), args, variables).unwrap().cpus;
        let variables = |name: &str| (name == "FNODE_CPUS").then(|| "3".to_owned());
        let flag = StartArgs { cpus: Some(4_000), ..StartArgs::default() };
        let plain = StartArgs::default();
        assert_eq!(cpus(&plain, &none), Setting { value: None, origin: Origin::Default });
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "cpus = 2.5\nlisten = [0, \"[::1]:7\"]\n[labels]\nrack = \"b\"\n").unwrap();
        assert_eq!(cpus(&plain, &none), Setting { value: Some(2_500), origin: Origin::File(file) });
        assert_eq!(cpus(&plain, &variables), Setting { value: Some(3_000), origin: Origin::Variable("FNODE_CPUS") });
        assert_eq!(cpus(&flag, &variables), Setting { value: Some(4_000), origin: Origin::Flag("--cpus") });
        let all = settings(dir.path(), &plain, &none).unwrap();
        assert_eq!(all.listen.value, ["0.0.0.0:0".parse().unwrap(), "[::1]:7".parse().unwrap()]);
        assert_eq!(all.labels.value["rack"], "b");
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let refuse = |args: &StartArgs, variables: Variables<'_>| {
            settings(dir.path(), args, variables).expect_err("refused").to_string()
        };
        let bad = |name: &str| (name == "FNODE_MEMORY").then(|| "lots".to_owned());
        assert!(refuse(&StartArgs::default(), &bad).starts_with("FNODE_MEMORY=lots cannot be used; not a size"));
        let args = StartArgs { api: Some("here".to_owned()), ..StartArgs::default() };
        assert!(refuse(&args, &none).starts_with("--api cannot be used; \"here\" is not an address"));
        std::fs::write(dir.path().join("config.toml"), "name = \"x\"\nspeed = 9\n").unwrap();
        let line = refuse(&StartArgs::default(), &none);
        assert!(line.contains("config.toml line 2: unknown field `speed`"), "{line}");
        std::fs::write(dir.path().join("config.toml"), "name = \"a b\"\n").unwrap();
        assert!(refuse(&StartArgs::default(), &none).contains("config.toml cannot be used; a node's name"));
    }

    #[test]
    fn the_data_directory_is_found() {
        let with = |name: &str| match name {
            "FNODE_HOME" => Some("/a".to_owned()),
            "HOME" => Some("/h".to_owned()),
            _ => None,
        };
        assert_eq!(home(None, &with).unwrap().value, Path::new("/a"));
        assert_eq!(home(Some(Path::new("/b")), &with).unwrap().value, Path::new("/b"));
        let only_home = |name: &str| (name == "HOME").then(|| "/h".to_owned());
        assert_eq!(home(None, &only_home).unwrap().value, Path::new("/h/.fnode"));
        assert!(home(None, &none).is_err());
    }

    #[test]
    fn a_hostile_file_is_refused_in_one_line() {
        let text = "name = \"atlas\"\nlisten = [4680, \"0.0.0.0:4681\"]\napi = 4682\nmdns = false\ncpus = 2.5\n\
                    memory = \"4GiB\"\ngpus = 1\n[labels]\nrack = \"b\"\n";
        let dir = tempfile::tempdir().unwrap();
        attack_loosely("config.toml", text.as_bytes(), 40, |bytes| {
            std::fs::write(dir.path().join("config.toml"), bytes).unwrap();
            match settings(dir.path(), &StartArgs::default(), &none) {
                Ok(_) => true,
                Err(error) => {
                    let line = error.to_string();
                    assert!(line.contains("config.toml") && !line.contains('\n'), "{line:?}");
                    false
                }
            }
        });
    }
}
