//! `job.config.yaml`, which lies in a job's directory: read, checked key by key, and nothing guessed. The package does
//! the same in `node/sdk/foundations/_job_config.py`; the files in `node/sdk/tests/configs` hold both to the same words.

use std::path::Path;

use super::params::float_text;
use super::yaml::{ConfigError, Entry, Map, Value, read_map};
use crate::http::near::nearest;
use crate::http::words::submit::GPUS_MAX;

/// Its name.
pub(crate) const FILE: &str = "job.config.yaml";
/// A number of gigabytes that no machine has is a number of bytes: earlier releases took those.
const GIGABYTES_MAX: f64 = (1 << 20) as f64;
/// Words of the standard loggers; Foundations knew the first three and was silent with every other.
const LOG_LEVELS: [&str; 7] = ["DEBUG", "INFO", "ERROR", "WARNING", "WARN", "CRITICAL", "FATAL"];
/// Longest name of a project, in bytes.
const PROJECT_MAX: usize = 256;
/// Keys of `worker` that Foundations and its users wrote there, and what they may be. Only the first has a meaning here.
const WORKER_KEYS: [(&str, Kind, &str); 11] = [
    ("environment", Kind::KeysOrList, "keys with values"),
    ("image", Kind::Text, "a text"),
    ("entrypoint", Kind::TextOrList, "a text or a list"),
    ("command", Kind::TextOrList, "a text or a list"),
    ("args", Kind::TextOrList, "a text or a list"),
    ("working_dir", Kind::Text, "a text"),
    ("volumes", Kind::KeysOrList, "keys with values"),
    ("resources", Kind::Keys, "keys with values"),
    ("mem_limit", Kind::Size, "a size"),
    ("shm_size", Kind::Size, "a size"),
    ("network_mode", Kind::Text, "a text"),
];
/// What else Docker's own library takes there (and two words of Kubernetes), whatever it is.
const WORKER_MORE: &str = "auto_remove blkio_weight cap_add cap_drop cpu_count cpu_percent cpu_period cpu_quota \
    cpu_shares cpuset_cpus cpuset_mems detach device_requests devices dns dns_opt dns_search domainname extra_hosts \
    group_add healthcheck hostname init ipc_mode isolation labels links log_config mem_reservation mem_swappiness \
    memswap_limit name nano_cpus network network_disabled oom_kill_disable oom_score_adj pid_mode pids_limit platform \
    ports privileged publish_all_ports read_only remove restart_policy runtime security_opt stdin_open stop_signal \
    storage_opt sysctls tmpfs tty ulimits user userns_mode volume_driver volumes_from imagePullPolicy workingDir";

/// What a key may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Name,
    Text,
    Number,
    Whole,
    Keys,
    Bool,
    Size,
    TextOrList,
    KeysOrList,
}

/// Keys at the top, what they may be, and that in words. Null is as if the key were not there.
const KEYS: [(&str, Kind, &str); 11] = [
    ("project_name", Kind::Name, "a text"),
    ("log_level", Kind::Text, "DEBUG, INFO, WARNING or ERROR"),
    ("entrypoint", Kind::Text, "a text"),
    ("ram", Kind::Number, "a number of gigabytes"),
    ("num_gpus", Kind::Whole, "a whole number"),
    ("params", Kind::Keys, "keys with values"),
    ("worker", Kind::Keys, "keys with values"),
    // Read by the package, where graphs of stages are made.
    ("parallel_stages", Kind::Bool, "true or false"),
    // Of monitors, which are not there yet.
    ("schedule", Kind::Keys, "keys with values"),
    ("monitor_name", Kind::Text, "a text"),
    ("mem_limit", Kind::Size, "a size"),
];

/// What the file says; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct JobConfig {
    pub(crate) project_name: Option<String>,
    pub(crate) log_level: Option<String>,
    pub(crate) entrypoint: Option<String>,
    pub(crate) ram_bytes: Option<u64>,
    pub(crate) num_gpus: Option<i128>,
    pub(crate) params: Option<Map>,
    /// Variables for the job, in the order of the file.
    pub(crate) environment: Vec<(String, String)>,
}

/// The configuration in a job's directory; without a file all is `None`. What is ignored is added to `warnings`.
pub(crate) fn read(directory: &Path, warnings: &mut Vec<String>) -> Result<JobConfig, ConfigError> {
    let mut config = JobConfig::default();
    let path = directory.join(FILE);
    if path.symlink_metadata().is_err() {
        return Ok(config);
    }
    let found = read_map(&path)?;
    for entry in &found.entries {
        let Entry { key, line, value } = entry;
        let place = format!("{}:{line}", path.display());
        let Some((_, kind, words)) = KEYS.iter().find(|(known, ..)| known == key) else {
            let known: Vec<&str> = KEYS.iter().map(|(known, ..)| *known).collect();
            warnings.push(format!("{place}: `{key}` is not known{}; it is ignored", meant(key, &known)));
            continue;
        };
        if *value == Value::Null {
            continue;
        }
        check(value, *kind, words, &place, &format!("`{key}`"))?;
        take(&mut config, entry, &path.display().to_string(), warnings)?;
    }
    Ok(config)
}

fn check(value: &Value, kind: Kind, words: &str, place: &str, name: &str) -> Result<(), ConfigError> {
    if fits(kind, value) {
        return Ok(());
    }
    Err(ConfigError(format!("{place}: {name} is {}; write {words}", shown(value))))
}

fn fits(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Name => matches!(value, Value::Text(_) | Value::Int(_) | Value::Float(_)),
        Kind::Text => matches!(value, Value::Text(_)),
        Kind::Number => matches!(value, Value::Int(_) | Value::Float(_)),
        Kind::Whole => matches!(value, Value::Int(_)),
        Kind::Keys => matches!(value, Value::Map(_)),
        Kind::Bool => matches!(value, Value::Bool(_)),
        Kind::Size => matches!(value, Value::Text(_) | Value::Int(_)),
        Kind::TextOrList => matches!(value, Value::Text(_) | Value::List(_)),
        Kind::KeysOrList => matches!(value, Value::Map(_) | Value::List(_)),
    }
}

fn take(config: &mut JobConfig, entry: &Entry, path: &str, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
    let place = format!("{path}:{}", entry.line);
    let text = || plain(&entry.value);
    match (entry.key.as_str(), &entry.value) {
        ("project_name", _) => config.project_name = Some(project(text(), &place)?),
        ("log_level", _) => config.log_level = Some(log_level(&entry.value, &place)?),
        ("entrypoint", _) => config.entrypoint = Some(text()),
        ("ram", _) => {
            let ram = ram_bytes(number(&entry.value), &shown(&entry.value));
            config.ram_bytes = Some(ram.map_err(|what| ConfigError(format!("{place}: {what}")))?);
        }
        ("num_gpus", Value::Int(count)) => {
            if !(0..=i128::from(GPUS_MAX)).contains(count) {
                let what = format!("{place}: Invalid GPU quantity {count}: give a whole number from 0 to {GPUS_MAX}");
                return Err(ConfigError(what));
            }
            config.num_gpus = Some(*count);
        }
        ("params", Value::Map(params)) => config.params = Some(params.clone()),
        ("parallel_stages", _) => {}
        ("worker", Value::Map(worker)) => config.environment = environment(worker, path, warnings)?,
        (key, _) => {
            warnings.push(format!("{place}: `{key}` belongs to monitors, which are not there yet; it is ignored"))
        }
    }
    Ok(())
}

fn log_level(value: &Value, place: &str) -> Result<String, ConfigError> {
    let word = plain(value).to_uppercase();
    if LOG_LEVELS.contains(&word.as_str()) {
        return Ok(word);
    }
    let what = format!("{place}: `log_level` is {}; write DEBUG, INFO, WARNING or ERROR", shown(value));
    Err(ConfigError(what))
}

/// A project's name, by the rule that the daemon has, told with file and line.
fn project(name: String, place: &str) -> Result<String, ConfigError> {
    let what = if name.is_empty() {
        "write a name, or leave the line out".to_owned()
    } else if name.contains('/') || name == "." || name == ".." {
        "leave out slashes and dots alone".to_owned()
    } else if name.len() > PROJECT_MAX {
        format!("it has more than {PROJECT_MAX} bytes")
    } else if name.chars().any(char::is_control) {
        "write one line of printable text".to_owned()
    } else {
        return Ok(name);
    };
    Err(ConfigError(format!("{place}: {} cannot name a project; {what}", shown(&Value::Text(name)))))
}

fn number(value: &Value) -> f64 {
    match value {
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        _ => f64::NAN,
    }
}

/// Bytes of a number of gigabytes; a number too large for gigabytes is bytes already.
pub(crate) fn ram_bytes(ram: f64, given: &str) -> Result<u64, String> {
    if !(ram > 0.0 && ram.is_finite()) {
        return Err(format!("Invalid RAM quantity {given}: give gigabytes above 0"));
    }
    let bytes = if ram > GIGABYTES_MAX { ram } else { ram * 1e9 };
    // Beyond what any machine has the number saturates, and is refused with its flag.
    Ok((bytes as u64).max(1))
}

/// The variables for the job; what was meant for a container is told to be ignored.
fn environment(worker: &Map, path: &str, warnings: &mut Vec<String>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    for Entry { key, line, value } in &worker.entries {
        let place = format!("{path}:{line}");
        let known = WORKER_KEYS.iter().find(|(known, ..)| known == key);
        if let (Some((_, kind, words)), false) = (known, *value == Value::Null) {
            check(value, *kind, words, &place, &format!("worker's `{key}`"))?;
        }
        match (key.as_str(), value) {
            ("environment", Value::Null) => {}
            // As Docker has it: a list of KEY=VALUE.
            ("environment", Value::List(items)) => {
                for item in items {
                    let Value::Text(pair) = item else {
                        let what = format!("{place}: a variable is {}; write NAME=VALUE", shown(item));
                        return Err(ConfigError(what));
                    };
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    check_name(name, &place)?;
                    variables.push((name.to_owned(), value.to_owned()));
                }
            }
            ("environment", Value::Map(map)) => {
                for Entry { key, line, value } in &map.entries {
                    let place = format!("{path}:{line}");
                    check_name(key, &place)?;
                    let value = variable(value, &place, key)?;
                    variables.push((key.clone(), value));
                }
            }
            _ if known.is_some() || WORKER_MORE.split_whitespace().any(|more| more == key) => warnings.push(format!(
                "{place}: worker's `{key}` is ignored: jobs run as processes of their node, without a container"
            )),
            _ => {
                let names = WORKER_KEYS.map(|(name, ..)| name);
                warnings.push(format!("{place}: worker's `{key}` is not known{}; it is ignored", meant(key, &names)));
            }
        }
    }
    Ok(variables)
}

/// A name that every shell and every system takes.
fn check_name(name: &str, place: &str) -> Result<(), ConfigError> {
    let fits = |(at, one): (usize, char)| one == '_' || one.is_ascii_alphabetic() || (at > 0 && one.is_ascii_digit());
    if !name.is_empty() && name.chars().enumerate().all(fits) {
        return Ok(());
    }
    let name = shown(&Value::Text(name.to_owned()));
    let what = "write letters, digits and _, not beginning with a digit";
    Err(ConfigError(format!("{place}: {name} cannot name a variable; {what}")))
}

/// A variable's value as text.
fn variable(value: &Value, place: &str, name: &str) -> Result<String, ConfigError> {
    match value {
        Value::List(_) | Value::Map(_) => {
            Err(ConfigError(format!("{place}: the variable `{name}` is {}; write a text", shown(value))))
        }
        Value::Bool(value) => Ok(value.to_string()),
        value => Ok(plain(value)),
    }
}

fn meant(key: &str, known: &[&str]) -> String {
    nearest(key, known).map(|near| format!(", did you mean `{near}`?")).unwrap_or_default()
}

/// A single value as text.
fn plain(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => float_text(*number),
        _ => String::new(),
    }
}

/// A value in an error, short.
pub(super) fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => return "empty".to_owned(),
        Value::Bool(_) => return "true or false".to_owned(),
        Value::List(_) => return "a list".to_owned(),
        Value::Map(_) => return "keys with values".to_owned(),
        Value::Text(text) => {
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let inside = text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
            let inside = if quote == '\'' { inside.replace('\'', "\\'") } else { inside };
            format!("{quote}{inside}{quote}")
        }
        single => plain(single),
    };
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value as Json, json};

    use super::*;
    use crate::cli::atlas::params;

    /// As `test_configs.py` writes down what the package reads.
    fn as_read(directory: &Path) -> Json {
        let mut warnings = Vec::new();
        let path = directory.join(FILE).display().to_string();
        let known = |text: &str| text.replace(&path, "PATH");
        let config = match read(directory, &mut warnings) {
            Ok(config) => config,
            Err(error) => return json!({"error": known(&error.to_string())}),
        };
        let variables: serde_json::Map<String, Json> =
            config.environment.into_iter().map(|(name, value)| (name, Json::String(value))).collect();
        json!({
            "project_name": config.project_name,
            "log_level": config.log_level,
            "entrypoint": config.entrypoint,
            "ram_bytes": config.ram_bytes,
            "num_gpus": config.num_gpus.map(|count| u64::try_from(count).unwrap()),
            "params": config.params.as_ref().map(params::file_text),
            "params_record": config.params.as_ref().and_then(params::record_text),
            "environment": variables,
            "warnings": warnings.iter().map(|line| known(line)).collect::<Vec<_>>(),
        })
    }

    #[test]
    fn every_shared_configuration_is_read_as_the_package_reads_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/tests/configs");
        let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        cases.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        cases.sort();
        assert!(cases.len() >= 10, "{cases:?}");
        let dir = tempfile::tempdir().unwrap();
        for case in cases {
            std::fs::copy(&case, dir.path().join(FILE)).unwrap();
            let wanted = std::fs::read_to_string(case.with_extension("json")).unwrap();
            let wanted: Json = serde_json::from_str(&wanted).unwrap();
            let read = as_read(dir.path());
            match wanted["error_line"].as_u64() {
                // Two readers of YAML word a slip of syntax in their own ways; the place is the same.
                Some(line) => {
                    let said = read["error"].as_str().unwrap_or_default();
                    assert!(said.starts_with(&format!("PATH:{line}: ")), "{}: {read}", case.display());
                }
                None => assert_eq!(read, wanted, "{}", case.display()),
            }
        }
    }

    #[test]
    fn without_a_file_nothing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut warnings = Vec::new();
        assert_eq!(read(dir.path(), &mut warnings), Ok(JobConfig::default()));
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[test]
    fn gigabytes_and_numbers_that_can_only_be_bytes() {
        assert_eq!(ram_bytes(1.0, "1"), Ok(1_000_000_000));
        assert_eq!(ram_bytes(0.5, "0.5"), Ok(500_000_000));
        assert_eq!(ram_bytes((16_u64 << 30) as f64, ""), Ok(16 << 30));
        for ram in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(ram_bytes(ram, "x").is_err(), "{ram}");
        }
    }
}
