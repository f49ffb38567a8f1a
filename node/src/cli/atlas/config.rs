//! Where configuration lies, as Foundations had it: in the working directory, then in `$FOUNDATIONS_HOME`. A name is
//! all that counts of such a file here, because every name means this cluster; `scheduler` and `local` need no file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::console::Console;
use super::error::AtlasError;
use super::job_config::shown;
use super::yaml::{ConfigError, Value, read_map};

/// Names that need no file.
const BUILT_IN: [&str; 2] = ["local", "scheduler"];
/// How a file of configuration ends.
const SUFFIX: &str = ".config.yaml";
/// V3: one file per scheduler.
const SUBMISSION: &str = "config/submission";
/// V3: what a plain script is tracked with.
const EXECUTION: &str = "config/execution";
/// V1 and V2: one file per environment.
const ENVIRONMENTS: &str = "config";

/// Where configurations name object stores: our flag, the section, its key.
const END_POINTS: [(&str, &str, &str); 2] =
    [("--archive", "results_config", "archive_end_point"), ("--cache-store", "cache_config", "end_point")];

/// Where files are looked for.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    here: PathBuf,
    home: PathBuf,
}

/// Files of one kind by name, under the title of their list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) title: &'static str,
    pub(crate) files: BTreeMap<String, PathBuf>,
}

impl Places {
    /// The working directory, and `FOUNDATIONS_HOME` or `~/.foundations`.
    pub(crate) fn of_process() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = set("HOME").unwrap_or_default();
        let home = match set("FOUNDATIONS_HOME") {
            Some(home) => home.strip_prefix("~").map(|below| user.join(below)).unwrap_or(home),
            None => user.join(".foundations"),
        };
        Self { here: PathBuf::from("."), home }
    }

    /// Refuses a scheduler's configuration that is not there.
    pub(crate) fn check_submission(&self, name: &str) -> Result<(), AtlasError> {
        let found = self.find(name, &[SUBMISSION]);
        if BUILT_IN.contains(&name) || found.is_some() {
            return Ok(self.check_readable(found.as_deref())?);
        }
        Err(AtlasError::Said(format!("Could not find submission configuration with name: `{name}`")))
    }

    /// Object stores that a configuration names: flags of `fnode submit` with what they are given. Plain paths and
    /// `local://`, which old projects have, mean this cluster.
    pub(crate) fn end_points(&self, name: &str, console: Console) -> Result<Vec<(&'static str, String)>, AtlasError> {
        let mut found = Vec::new();
        let Some(file) = self.find(name, &[ENVIRONMENTS, SUBMISSION]) else { return Ok(found) };
        for (flag, text) in places_in(&file)? {
            match text.split_once("://").map(|(scheme, _)| scheme) {
                None | Some("local") => {}
                Some(scheme @ ("sftp" | "ssh")) => {
                    console.warning(&format!("{scheme}:// is not supported; what jobs leave stays in this cluster"));
                }
                Some(_) => found.push((flag, text)),
            }
        }
        Ok(found)
    }

    /// The file of an environment. `None`: it is one that needs none.
    pub(crate) fn environment(&self, name: &str) -> Result<Option<PathBuf>, AtlasError> {
        let found = self.find(name, &[ENVIRONMENTS, SUBMISSION]);
        if found.is_none() && !BUILT_IN.contains(&name) {
            return Err(AtlasError::Said(format!(
                "Could not find environment `{name}`; see those that exist with `foundations info --env`"
            )));
        }
        self.check_readable(found.as_deref())?;
        Ok(found)
    }

    /// Reads the configuration that is asked for, and that of plain scripts beside it: nothing in them changes where a
    /// job runs, but a slip in one is something that its author wants to know of.
    fn check_readable(&self, found: Option<&Path>) -> Result<(), ConfigError> {
        let execution = self.find("default", &[EXECUTION]);
        for path in found.into_iter().chain(execution.as_deref()) {
            places_in(path)?;
        }
        Ok(())
    }

    fn find(&self, name: &str, folders: &[&str]) -> Option<PathBuf> {
        if name.contains('/') {
            return None;
        }
        let paths = [&self.here, &self.home]
            .into_iter()
            .flat_map(|base| folders.iter().map(move |folder| base.join(folder).join(format!("{name}{SUFFIX}"))));
        paths.into_iter().find(|path| path.is_file())
    }

    /// Everything that is there, for `foundations info --env`.
    pub(crate) fn listings(&self) -> Vec<Listing> {
        let both = |folder: &str| {
            let mut files = files_in(&self.home.join(folder));
            files.extend(files_in(&self.here.join(folder)));
            files
        };
        let all = [
            Listing { title: "submission configs:", files: both(SUBMISSION) },
            Listing { title: "execution configs:", files: both(EXECUTION) },
            Listing { title: "global configs:", files: files_in(&self.home.join(ENVIRONMENTS)) },
            Listing { title: "project configs:", files: files_in(&self.here.join(ENVIRONMENTS)) },
        ];
        all.into_iter().filter(|listing| !listing.files.is_empty()).collect()
    }
}

/// What stands where a configuration names object stores, each with its flag.
fn places_in(path: &Path) -> Result<Vec<(&'static str, String)>, ConfigError> {
    let mut found = Vec::new();
    let settings = read_map(path)?;
    let wrong = |line: usize, name: &str, value: &Value, words: &str| {
        ConfigError(format!("{}:{line}: {name} is {}; write {words}", path.display(), shown(value)))
    };
    for (flag, name, key) in END_POINTS {
        let Some(entry) = settings.get(name).filter(|entry| entry.value != Value::Null) else { continue };
        let Value::Map(section) = &entry.value else {
            return Err(wrong(entry.line, &format!("`{name}`"), &entry.value, "keys with values"));
        };
        match section.get(key).map(|entry| (entry.line, &entry.value)) {
            None | Some((_, Value::Null)) => {}
            Some((_, Value::Text(text))) => found.push((flag, text.clone())),
            Some((line, value)) => return Err(wrong(line, &format!("{name}'s `{key}`"), value, "a text")),
        }
    }
    Ok(found)
}

fn files_in(folder: &Path) -> BTreeMap<String, PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeMap::new() };
    let named = |entry: std::fs::DirEntry| {
        let name = entry.file_name().to_str()?.strip_suffix(SUFFIX)?.to_owned();
        let path = entry.path();
        if path.is_file() { Some((name, std::path::absolute(&path).unwrap_or(path))) } else { None }
    };
    entries.flatten().filter_map(named).collect()
}

/// `path` as a whole one, with `.` and `..` taken out by name alone, as Python does it.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match part {
            std::path::Component::ParentDir => drop(whole.pop()),
            part => whole.push(part),
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        Places { here: dir.join("here"), home: dir.join("home") }
    }

    fn write(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    #[test]
    fn only_object_stores_of_a_configuration_go_with_a_job() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let file = dir.path().join("here/config/submission/lab.config.yaml");
        let ends = |archive: &str, cache: &str| {
            write(&file);
            let text =
                format!("results_config:\n  archive_end_point: {archive}\ncache_config:\n  end_point: {cache}\n");
            std::fs::write(&file, text).unwrap();
            let found = places.end_points("lab", Console::new(false)).unwrap();
            found.into_iter().map(|(flag, place)| format!("{flag} {place}")).collect::<Vec<_>>()
        };
        assert_eq!(ends("s3://lab/x", "gcp://lab/y"), ["--archive s3://lab/x", "--cache-store gcp://lab/y"]);
        assert_eq!(ends("local://job_data", "/root/cache"), [""; 0]);
        assert_eq!(ends("sftp://host/x", "file:///mnt/cache"), ["--cache-store file:///mnt/cache"]);
        std::fs::write(&file, "results_config:\ncache_config: {}\n").unwrap();
        assert_eq!(places.end_points("lab", Console::new(false)).unwrap(), []);
        assert_eq!(places.end_points("scheduler", Console::new(false)).unwrap(), []);
    }

    #[test]
    fn this_directory_comes_before_the_user_s() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let refused = places.check_submission("far").unwrap_err().to_string();
        assert_eq!(refused, "Could not find submission configuration with name: `far`");
        assert!(places.check_submission("scheduler").is_ok() && places.check_submission("local").is_ok());
        let home = dir.path().join("home/config/submission/far.config.yaml");
        write(&home);
        assert!(places.check_submission("far").is_ok());
        assert_eq!(places.environment("far").unwrap(), Some(home));
        let here = dir.path().join("here/config/far.config.yaml");
        write(&here);
        assert_eq!(places.environment("far").unwrap(), Some(here));
        assert!(places.environment("../far").is_err(), "a name is no path");
        assert_eq!(places.environment("local").unwrap(), None);
    }

    #[test]
    fn a_configuration_that_is_no_yaml_is_told_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let broken = dir.path().join("here/config/submission/scheduler.config.yaml");
        write(&broken);
        assert!(places.check_submission("scheduler").is_ok(), "an empty one is none");
        std::fs::write(&broken, "scheduler_url: http://here\nredis_url: {a: 1\n").unwrap();
        let said = places.check_submission("scheduler").unwrap_err().to_string();
        assert!(said.starts_with(&format!("{}:", broken.display())), "{said}");
        std::fs::write(&broken, "").unwrap();
        let execution = dir.path().join("home/config/execution/default.config.yaml");
        write(&execution);
        std::fs::write(&execution, "- a list\n").unwrap();
        for said in [places.check_submission("scheduler"), places.environment("local").map(drop)] {
            let said = said.unwrap_err().to_string();
            assert_eq!(said, format!("{} holds a list; write keys with values", execution.display()));
        }
    }

    #[test]
    fn end_points_of_a_wrong_type_are_told_with_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        for (folder, name) in [("submission", "scheduler"), ("execution", "default")] {
            let file = dir.path().join(format!("here/config/{folder}/{name}.config.yaml"));
            write(&file);
            for (text, what) in [
                ("a: 1\nresults_config: [1]\n", "2: `results_config` is a list; write keys with values"),
                ("cache_config: x\n", "1: `cache_config` is 'x'; write keys with values"),
                (
                    "results_config:\n  archive_end_point: 5\n",
                    "2: results_config's `archive_end_point` is 5; write a text",
                ),
                ("cache_config:\n  end_point: [s3]\n", "2: cache_config's `end_point` is a list; write a text"),
            ] {
                std::fs::write(&file, text).unwrap();
                for said in [places.check_submission("scheduler"), places.environment("scheduler").map(drop)] {
                    assert_eq!(said.unwrap_err().to_string(), format!("{}:{what}", file.display()));
                }
            }
            std::fs::write(&file, "results_config: {archive_end_point: }\n").unwrap();
            assert!(places.check_submission("scheduler").is_ok());
        }
    }

    #[test]
    fn files_are_listed_by_kind() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        assert_eq!(places.listings(), []);
        write(&dir.path().join("home/config/submission/a.config.yaml"));
        write(&dir.path().join("here/config/submission/a.config.yaml"));
        write(&dir.path().join("here/config/local.config.yaml"));
        write(&dir.path().join("here/config/notes.txt"));
        let listings = places.listings();
        let titles: Vec<_> = listings.iter().map(|listing| (listing.title, listing.files.len())).collect();
        assert_eq!(titles, [("submission configs:", 1), ("project configs:", 1)]);
        assert_eq!(listings[0].files["a"], dir.path().join("here/config/submission/a.config.yaml"));
    }

    #[test]
    fn parents_are_taken_out_by_name() {
        assert_eq!(absolute(Path::new("/a/b/../c/.")), Path::new("/a/c"));
        assert_eq!(absolute(Path::new("/..")), Path::new("/"));
    }
}
