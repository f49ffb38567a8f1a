//! A submission as it is asked for and answered, and the one place that turns it into a [`GroupSpec`]:
//! whatever reaches the log has passed [`SubmitRequest::to_spec`], from the command line or from any client.

use std::collections::{BTreeMap, BTreeSet};

use proto::job::{BundleRef, Dependency, EnvironmentRule, EnvironmentSpec, GroupSpec, IndexRanges, OnLost, Trigger};
use proto::{ByteSize, ContentId, JobId, Requirement};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ErrorWord;
use super::explain::ExplanationWord;
use super::job::StateWord;
use super::node::NodeRef;
use super::record::CheckoutWord;
use crate::objects::{EndPoint, VARIABLES};

/// No machine has more CPUs; a larger number is a slip of the hand. In thousandths.
pub const CPU_MILLI_MAX: u32 = 16_384 * 1_000;
/// No machine has more memory.
pub const MEMORY_MAX: ByteSize = ByteSize(256 << 40);
/// No machine has more graphics processors.
pub const GPUS_MAX: u32 = 256;
/// No graphics processor has more memory.
pub const GPU_MEMORY_MAX: ByteSize = ByteSize(4 << 40);
/// A year: a longer timeout is none.
pub const TIMEOUT_MAX_S: u64 = 365 * 24 * 3_600;
/// A job that fails so often does not work.
pub const RETRIES_MAX: u32 = 1_000;
/// Priorities are compared, not computed with.
pub const PRIORITY_MAX: i32 = 1_000_000;
/// Names of jobs, projects, labels, tags, variables and secrets, in bytes.
pub const NAME_MAX: usize = 256;
/// Jobs that one submission may wait for.
pub const AFTER_MAX: usize = 1_000;
/// All texts of a specification together, in bytes: it is one event of the log (256 KiB), beside an
/// inline bundle of 16 KiB.
pub const SPEC_BYTES_MAX: usize = 192 << 10;

/// `POST /jobs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SubmitRequest {
    /// The id that it shall have, a UUID of version 7: repeating the request is then harmless. Empty: the node
    /// makes one.
    pub id: String,
    /// Who submits, for people; the peer's user name where the node can tell it.
    pub user: String,
    /// Project.
    pub project: String,
    /// For people; empty: none.
    pub name: String,
    /// Program and arguments; at least the program.
    pub command: Vec<String>,
    /// Content id of a bundle's manifest that the node has been given; empty: run in an empty directory.
    pub bundle: String,
    /// Thousandths of a CPU.
    pub cpu_milli: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Graphics processors.
    pub gpus: u32,
    /// Free memory on each of them.
    pub gpu_memory_bytes: u64,
    /// Python version as `3.11`; empty: any.
    pub python: String,
    /// Labels that the node must have; an empty value asks only for the key.
    pub labels: BTreeMap<String, String>,
    /// Names, ids or id prefixes of nodes that may run it; empty: any.
    pub nodes: BTreeSet<String>,
    /// Absolute paths that must be on the node.
    pub data: BTreeSet<String>,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// Names of secrets that the running node adds to the variables.
    pub secrets: BTreeSet<String>,
    /// Indices of an array, as `1-1000` or `1,5,7-9`; empty: one job.
    pub array: String,
    /// Seconds that an attempt may run; 0: no limit.
    pub timeout_s: u64,
    /// How often a failed attempt is repeated.
    pub retries: u32,
    /// What happens when its node is lost.
    pub on_lost: OnLostWord,
    /// Higher first.
    pub priority: i32,
    /// Jobs that must have ended first.
    pub after: Vec<AfterWord>,
    /// Whether standard output and error are kept.
    pub capture: bool,
    /// Whether files that it makes or changes are kept.
    pub keep_outputs: bool,
    /// Parameters, JSON text; empty: none.
    pub params: String,
    /// Environment to build; none: the node's Python.
    pub environment: Option<EnvironmentWord>,
    /// The git checkout that the bundle was taken from; its diff is a file of the bundle.
    pub checkout: Option<CheckoutWord>,
}

/// What happens to a job whose node is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLostWord {
    /// Run it again elsewhere.
    #[default]
    Rerun,
    /// It fails.
    Fail,
}

/// A job that must have ended first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AfterWord {
    /// Its id or a unique prefix.
    pub job: String,
    /// When the wait is over; `all_succeeded` when left out.
    #[serde(default)]
    pub trigger: TriggerWord,
}

/// Polyaxon's six triggers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TriggerWord {
    /// Every one completed.
    #[default]
    AllSucceeded,
    /// Every one failed or was stopped.
    AllFailed,
    /// Every one ended.
    AllDone,
    /// At least one completed.
    OneSucceeded,
    /// At least one failed or was stopped.
    OneFailed,
    /// At least one ended.
    OneDone,
}

/// An environment that is built from a file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentWord {
    /// The file's path inside the bundle.
    pub path: String,
    /// Its content id.
    pub content: String,
    /// Python version as `3.11`; empty: the node's default.
    #[serde(default)]
    pub python: String,
    /// How it stands to the node's own packages.
    #[serde(default)]
    pub rule: EnvironmentRuleWord,
}

/// How an environment stands to the node's own packages, and to what cannot be installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentRuleWord {
    /// Only what it asks for; without it the job fails.
    #[default]
    Exact,
    /// What it asks for, over the packages that the node has; without it the job runs with these alone, and says so.
    Lenient,
}

impl From<EnvironmentRuleWord> for EnvironmentRule {
    fn from(word: EnvironmentRuleWord) -> Self {
        match word {
            EnvironmentRuleWord::Exact => Self::Exact,
            EnvironmentRuleWord::Lenient => Self::Lenient,
        }
    }
}

impl From<EnvironmentRule> for EnvironmentRuleWord {
    fn from(rule: EnvironmentRule) -> Self {
        match rule {
            EnvironmentRule::Exact => Self::Exact,
            EnvironmentRule::Lenient => Self::Lenient,
        }
    }
}

/// `POST /jobs` was accepted: the job will end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubmitAnswer {
    /// Its id, also of an array as a whole.
    pub id: String,
    /// How many jobs it is.
    pub jobs: u64,
    /// Nodes that have it, with all that it needs, on disk.
    pub held_by: Vec<NodeRef>,
    /// Where it stands now.
    pub state: StateWord,
    /// Where it runs already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeRef>,
    /// Why it is not further; none once it has been placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<ExplanationWord>,
    /// What the submitter should know, for example that no node could ever run it; empty: nothing.
    #[serde(default)]
    pub warning: String,
}

/// The parts of a specification that only the node can find out.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// The bundle, looked up.
    pub bundle: Option<BundleRef>,
    /// [`SubmitRequest::after`], ids resolved, in the same order.
    pub after: Vec<JobId>,
    /// Who submits.
    pub user: String,
}

impl Default for SubmitRequest {
    fn default() -> Self {
        Self {
            id: String::new(),
            user: String::new(),
            project: String::new(),
            name: String::new(),
            command: Vec::new(),
            bundle: String::new(),
            cpu_milli: Requirement::default().cpu_milli,
            memory_bytes: 0,
            gpus: 0,
            gpu_memory_bytes: 0,
            python: String::new(),
            labels: BTreeMap::new(),
            nodes: BTreeSet::new(),
            data: BTreeSet::new(),
            env: BTreeMap::new(),
            secrets: BTreeSet::new(),
            array: String::new(),
            timeout_s: 0,
            retries: 0,
            on_lost: OnLostWord::Rerun,
            priority: 0,
            after: Vec::new(),
            capture: true,
            keep_outputs: true,
            params: String::new(),
            environment: None,
            checkout: None,
        }
    }
}

impl SubmitRequest {
    /// Refuses everything that can be seen to be wrong without asking the cluster.
    ///
    /// # Errors
    /// The first thing found, with what to do.
    pub fn check(&self) -> Result<(), ErrorWord> {
        check_command(&self.command)?;
        check_project(&self.project)?;
        check_text("the job's name", &self.name)?;
        self.check_amounts()?;
        for (key, value) in &self.labels {
            check_label(key, value)?;
        }
        check_places(&self.env)?;
        let variables = self.env.keys().filter(|name| !VARIABLES.contains(&name.as_str()));
        for key in variables.chain(&self.secrets) {
            check_variable(key)?;
        }
        if let Some(both) = self.secrets.iter().find(|name| self.env.contains_key(*name)) {
            let message = format!("{both} is given both as a variable and as a secret");
            return Err(ErrorWord::bad_input(message, "leave out one of --env and --secret"));
        }
        if let Some(path) = self.data.iter().find(|path| !path.starts_with('/')) {
            let hint = "give the absolute path of data that lies on the nodes";
            return Err(ErrorWord::bad_input(format!("data path {path:?} is not absolute"), hint));
        }
        check_python(&self.python)?;
        if !self.params.is_empty() && serde_json::from_str::<serde::de::IgnoredAny>(&self.params).is_err() {
            return Err(ErrorWord::bad_input("the parameters are not JSON", "give a file with JSON, or JSON text"));
        }
        self.check_size()
    }

    fn check_amounts(&self) -> Result<(), ErrorWord> {
        let refuse = |flag: &str, given: String, bounds: String| {
            Err(ErrorWord::bad_input(format!("{flag} {given} cannot be had"), format!("give {bounds}")))
        };
        if !(1..=CPU_MILLI_MAX).contains(&self.cpu_milli) {
            let bounds = format!("0.001 to {}", CPU_MILLI_MAX / 1_000);
            return refuse("cpus", format!("{}", f64::from(self.cpu_milli) / 1_000.0), bounds);
        }
        if self.memory_bytes > MEMORY_MAX.0 {
            return refuse("memory", ByteSize(self.memory_bytes).to_string(), format!("at most {MEMORY_MAX}"));
        }
        if self.gpus > GPUS_MAX {
            let message = format!("{} GPUs are more than any machine has", self.gpus);
            return Err(ErrorWord::bad_input(message, format!("ask for at most {GPUS_MAX}")));
        }
        if self.gpu_memory_bytes > GPU_MEMORY_MAX.0 {
            let given = ByteSize(self.gpu_memory_bytes).to_string();
            return refuse("gpu memory", given, format!("at most {GPU_MEMORY_MAX}"));
        }
        if self.gpu_memory_bytes > 0 && self.gpus == 0 {
            let hint = "add --gpus N";
            return Err(ErrorWord::bad_input("GPU memory is asked for, but no GPU", hint));
        }
        if self.timeout_s > TIMEOUT_MAX_S {
            return refuse("timeout", format!("{} s", self.timeout_s), "at most 365d".to_owned());
        }
        if self.retries > RETRIES_MAX {
            return refuse("retries", self.retries.to_string(), format!("at most {RETRIES_MAX}"));
        }
        if self.priority.unsigned_abs() > PRIORITY_MAX.unsigned_abs() {
            return refuse("priority", self.priority.to_string(), format!("-{PRIORITY_MAX} to {PRIORITY_MAX}"));
        }
        if self.after.len() > AFTER_MAX {
            return refuse("after", format!("{} jobs", self.after.len()), format!("at most {AFTER_MAX} jobs"));
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), ErrorWord> {
        let pairs = |map: &BTreeMap<String, String>| map.iter().map(|(key, value)| key.len() + value.len()).sum();
        let texts = |set: &BTreeSet<String>| set.iter().map(String::len).sum();
        let parts: [usize; 7] = [
            self.command.iter().map(String::len).sum(),
            pairs(&self.env),
            pairs(&self.labels),
            texts(&self.nodes),
            texts(&self.data),
            texts(&self.secrets),
            self.params.len(),
        ];
        let bytes: usize = parts.iter().sum();
        if bytes <= SPEC_BYTES_MAX {
            return Ok(());
        }
        let message = format!(
            "command, variables and parameters have {}, more than the {} of one submission",
            ByteSize(bytes as u64),
            ByteSize(SPEC_BYTES_MAX as u64)
        );
        Err(ErrorWord::bad_input(message, "put large values into a file of the bundle"))
    }

    /// The specification that goes into the log.
    ///
    /// # Errors
    /// As [`SubmitRequest::check`], and what only shows in parsing.
    pub fn to_spec(&self, resolved: Resolved) -> Result<GroupSpec, ErrorWord> {
        self.check()?;
        let after = self.after.iter().zip(resolved.after);
        Ok(GroupSpec {
            user: resolved.user,
            project: self.project.clone(),
            name: self.name.clone(),
            command: self.command.clone(),
            bundle: resolved.bundle,
            requirement: self.requirement(),
            env: self.env.clone(),
            secrets: self.secrets.clone(),
            array: parse_array(&self.array)?,
            timeout_s: self.timeout_s,
            retries: self.retries,
            on_lost: match self.on_lost {
                OnLostWord::Rerun => OnLost::Rerun,
                OnLostWord::Fail => OnLost::Fail,
            },
            priority: self.priority,
            after: after.map(|(word, on)| Dependency { on, trigger: word.trigger.into() }).collect(),
            capture: self.capture,
            keep_outputs: self.keep_outputs,
            params_json: self.params.clone(),
            environment: self.environment.as_ref().map(EnvironmentWord::to_spec).transpose()?,
            attends: None,
            checkout: self.checkout.as_ref().map(CheckoutWord::to_spec).transpose()?,
            parent: None,
            near: BTreeMap::new(),
        })
    }

    /// What each job asks for.
    #[must_use]
    pub fn requirement(&self) -> Requirement {
        Requirement {
            cpu_milli: self.cpu_milli,
            memory: ByteSize(self.memory_bytes),
            gpus: self.gpus,
            gpu_memory: ByteSize(self.gpu_memory_bytes),
            python: self.python.clone(),
            labels: self.labels.clone(),
            nodes: self.nodes.clone(),
            data: self.data.clone(),
        }
    }
}

impl EnvironmentWord {
    fn to_spec(&self) -> Result<EnvironmentSpec, ErrorWord> {
        let content: ContentId = self.content.parse().map_err(|_| {
            ErrorWord::bad_input(format!("{:?} is not a content id", self.content), "give 64 hex digits")
        })?;
        check_python(&self.python)?;
        Ok(EnvironmentSpec { path: self.path.clone(), content, python: self.python.clone(), rule: self.rule.into() })
    }
}

/// The indices in `text`; empty for an empty text.
///
/// # Errors
/// What is not a list of indices, or too long a one.
pub fn parse_array(text: &str) -> Result<IndexRanges, ErrorWord> {
    if text.is_empty() {
        return Ok(IndexRanges::default());
    }
    text.parse::<IndexRanges>().map_err(|error| ErrorWord::bad_input(error.to_string(), ""))
}

/// Refuses an empty command, empty program names and NUL bytes, which no system can start.
pub(super) fn check_command(command: &[String]) -> Result<(), ErrorWord> {
    if command.first().is_none_or(String::is_empty) {
        return Err(ErrorWord::bad_input(
            "no command is given",
            "write it after --, as in: fnode submit -- python train.py",
        ));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(ErrorWord::bad_input("the command holds a NUL byte", "remove it"));
    }
    Ok(())
}

/// Refuses what cannot name a project.
///
/// # Errors
/// Empty, too long, or with characters that break paths and tables.
pub fn check_project(name: &str) -> Result<(), ErrorWord> {
    if name.trim().is_empty() {
        return Err(ErrorWord::bad_input("the project has no name", "give one with --project NAME"));
    }
    check_text("the project's name", name)?;
    if name.contains('/') || name == "." || name == ".." {
        return Err(ErrorWord::bad_input(
            format!("{name:?} cannot name a project"),
            "leave out slashes and dots alone",
        ));
    }
    Ok(())
}

/// Refuses texts that are too long for a name or hold control characters.
pub(super) fn check_text(what: &str, text: &str) -> Result<(), ErrorWord> {
    if text.len() > NAME_MAX {
        let message = format!("{what} has {} bytes, more than {NAME_MAX}", text.len());
        return Err(ErrorWord::bad_input(message, "give a shorter one"));
    }
    if text.chars().any(char::is_control) {
        return Err(ErrorWord::bad_input(format!("{what} holds a control character"), "give printable text"));
    }
    Ok(())
}

/// Refuses what cannot be a label or a tag.
///
/// # Errors
/// An empty or too long key or value, control characters, `=` in a key.
pub fn check_label(key: &str, value: &str) -> Result<(), ErrorWord> {
    if key.is_empty() || key.contains('=') {
        return Err(ErrorWord::bad_input(format!("{key:?} is not a label's key"), "write KEY=VALUE"));
    }
    check_text("a label's key", key)?;
    check_text("a label's value", value)
}

/// Refuses end points of a job that are none.
///
/// # Errors
/// Which, and what to write.
pub fn check_places(env: &BTreeMap<String, String>) -> Result<(), ErrorWord> {
    for (name, text) in VARIABLES.iter().filter_map(|&name| Some((name, env.get(name)?))) {
        EndPoint::parse(text).map_err(|why| ErrorWord::bad_input(format!("{name} cannot be used"), why))?;
    }
    Ok(())
}

/// How a job's calls use the cache: handed on by who submits under it.
pub const CACHE_MODE: &str = "FNODE_CACHE";
/// Variables of the Python package that whoever submits may set, though they begin as the node's own do.
const OF_THE_PACKAGE: [&str; 2] = [CACHE_MODE, "FNODE_PARALLEL_STAGES"];

/// Refuses what cannot name a variable of an environment, and those that the node sets itself.
///
/// # Errors
/// Names that a shell could not use, and those beginning with `FNODE_`, but for two of the Python package.
pub fn check_variable(name: &str) -> Result<(), ErrorWord> {
    let mut chars = name.chars();
    let fits = chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.len() <= NAME_MAX;
    if !fits {
        let hint = "use letters, digits and _, not beginning with a digit";
        return Err(ErrorWord::bad_input(format!("{name:?} cannot name a variable"), hint));
    }
    if name.starts_with("FNODE_") && !OF_THE_PACKAGE.contains(&name) {
        return Err(ErrorWord::bad_input(format!("{name} is set by the node"), "choose a name without FNODE_"));
    }
    Ok(())
}

/// Refuses what is not `3` or `3.11`; nodes tell versions so.
fn check_python(version: &str) -> Result<(), ErrorWord> {
    let fits = |part: &str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    let good = version.is_empty() || version.split_once('.').is_some_and(|(major, minor)| fits(major) && fits(minor));
    if good {
        return Ok(());
    }
    Err(ErrorWord::bad_input(format!("{version:?} is not a Python version"), "write major and minor, as 3.11"))
}

impl From<TriggerWord> for Trigger {
    fn from(word: TriggerWord) -> Self {
        match word {
            TriggerWord::AllSucceeded => Self::AllSucceeded,
            TriggerWord::AllFailed => Self::AllFailed,
            TriggerWord::AllDone => Self::AllDone,
            TriggerWord::OneSucceeded => Self::OneSucceeded,
            TriggerWord::OneFailed => Self::OneFailed,
            TriggerWord::OneDone => Self::OneDone,
        }
    }
}

impl From<Trigger> for TriggerWord {
    fn from(trigger: Trigger) -> Self {
        match trigger {
            Trigger::AllSucceeded => Self::AllSucceeded,
            Trigger::AllFailed => Self::AllFailed,
            Trigger::AllDone => Self::AllDone,
            Trigger::OneSucceeded => Self::OneSucceeded,
            Trigger::OneFailed => Self::OneFailed,
            Trigger::OneDone => Self::OneDone,
        }
    }
}

impl From<OnLost> for OnLostWord {
    fn from(on_lost: OnLost) -> Self {
        match on_lost {
            OnLost::Rerun => Self::Rerun,
            OnLost::Fail => Self::Fail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::harness::attack::attack_loosely;
    use proto::GroupId;

    fn request() -> SubmitRequest {
        SubmitRequest {
            project: "mnist".to_owned(),
            command: vec!["python".to_owned(), "train.py".to_owned()],
            ..SubmitRequest::default()
        }
    }

    #[test]
    fn end_points_of_a_job_are_checked_when_it_is_submitted() {
        let check = |name: &str, place: &str| {
            let env = BTreeMap::from([(name.to_owned(), place.to_owned())]);
            SubmitRequest { env, ..request() }.check()
        };
        for place in ["s3://lab/x", "gs://lab", "az://box/x", "file:///mnt/x", "local://job_data", "/plain/path"] {
            assert!(check("FNODE_ARCHIVE", place).is_ok() && check("FNODE_CACHE_STORE", place).is_ok(), "{place}");
        }
        let refused = check("FNODE_ARCHIVE", "sftp://host/x").unwrap_err();
        assert!(refused.message.contains("FNODE_ARCHIVE") && refused.hint.contains("sftp:// is not supported"));
        assert!(check("FNODE_HOME", "s3://lab/x").is_err());
    }

    fn message(change: impl FnOnce(&mut SubmitRequest)) -> String {
        let mut request = request();
        change(&mut request);
        request.check().expect_err("refused").message
    }

    #[test]
    fn the_json_that_clients_write_does_not_change_unnoticed() {
        let text = r#"{"project":"p","command":["true"],"cpu_milli":500,"after":[{"job":"0193"}],"array":"1-3"}"#;
        let request: SubmitRequest = serde_json::from_str(text).unwrap();
        let on = JobId::only(GroupId([7; 16]));
        let spec = request.to_spec(Resolved { after: vec![on], user: "ada".to_owned(), bundle: None }).unwrap();
        assert_eq!(spec.after, [Dependency { on, trigger: Trigger::AllSucceeded }]);
        assert_eq!((spec.len(), spec.requirement.cpu_milli, spec.user.as_str()), (3, 500, "ada"));
        assert!(spec.capture && spec.keep_outputs);
    }

    #[test]
    fn a_field_that_nobody_knows_is_refused() {
        assert!(serde_json::from_str::<SubmitRequest>(r#"{"cpu":1}"#).is_err());
    }

    #[test]
    fn zero_and_absurd_amounts_are_refused() {
        assert_eq!(message(|r| r.cpu_milli = 0), "cpus 0 cannot be had");
        assert_eq!(message(|r| r.cpu_milli = u32::MAX), "cpus 4294967.295 cannot be had");
        assert_eq!(message(|r| r.memory_bytes = u64::MAX), "memory 16777216.0 TiB cannot be had");
        assert_eq!(message(|r| r.gpus = 9_999), "9999 GPUs are more than any machine has");
        assert_eq!(message(|r| r.gpu_memory_bytes = 1), "GPU memory is asked for, but no GPU");
        assert_eq!(message(|r| r.timeout_s = u64::MAX), "timeout 18446744073709551615 s cannot be had");
        assert_eq!(message(|r| r.priority = i32::MIN), "priority -2147483648 cannot be had");
    }

    #[test]
    fn names_that_break_something_are_refused() {
        assert_eq!(message(|r| r.project = String::new()), "the project has no name");
        assert_eq!(message(|r| r.project = "a/b".to_owned()), "\"a/b\" cannot name a project");
        assert_eq!(message(|r| r.name = "a\nb".to_owned()), "the job's name holds a control character");
        assert_eq!(message(|r| r.command.clear()), "no command is given");
        assert_eq!(message(|r| r.command.push("\0".to_owned())), "the command holds a NUL byte");
        assert_eq!(message(|r| drop(r.env.insert("1X".to_owned(), String::new()))), "\"1X\" cannot name a variable");
        assert_eq!(message(|r| drop(r.env.insert("FNODE_X".to_owned(), String::new()))), "FNODE_X is set by the node");
        for name in ["FNODE_CACHE", "FNODE_PARALLEL_STAGES"] {
            assert_eq!(check_variable(name), Ok(()));
        }
        assert_eq!(message(|r| assert!(r.data.insert("data".to_owned()))), "data path \"data\" is not absolute");
        assert_eq!(message(|r| r.python = "three".to_owned()), "\"three\" is not a Python version");
        assert_eq!(message(|r| r.params = "{".to_owned()), "the parameters are not JSON");
    }

    #[test]
    fn what_does_not_fit_one_log_entry_is_refused() {
        let message = message(|r| drop(r.env.insert("X".to_owned(), "y".repeat(SPEC_BYTES_MAX))));
        assert!(message.contains("more than the 192.0 KiB"), "{message}");
    }

    #[test]
    fn hostile_bodies_are_refused_or_make_a_specification_within_bounds() {
        let text = concat!(
            r#"{"project":"p","command":["python","train.py"],"cpu_milli":500,"memory_bytes":1024,"gpus":1,"#,
            r#""gpu_memory_bytes":7,"python":"3.11","labels":{"rack":"b"},"nodes":["atlas"],"data":["/data"],"#,
            r#""env":{"A":"1"},"secrets":["TOKEN"],"array":"1-3","timeout_s":60,"retries":2,"on_lost":"fail","#,
            r#""priority":-5,"params":"{}","after":[{"job":"0193","trigger":"one_done"}]}"#
        );
        attack_loosely("submission", text.as_bytes(), 500, |bytes| {
            let Ok(request) = serde_json::from_slice::<SubmitRequest>(bytes) else { return false };
            if request.check().is_err() {
                return false;
            }
            let resolved = Resolved { after: Vec::new(), user: "ada".to_owned(), bundle: None };
            let Ok(spec) = request.to_spec(resolved) else { return false };
            assert!(!spec.command.is_empty() && (1..=CPU_MILLI_MAX).contains(&spec.requirement.cpu_milli));
            assert!(spec.len() <= proto::job::ARRAY_MAX && spec.timeout_s <= TIMEOUT_MAX_S);
            true
        });
        // As deep as a stack would not bear.
        let deep = format!(r#"{{"project":"p","params":{}"#, "[".repeat(200_000));
        assert!(serde_json::from_str::<SubmitRequest>(&deep).is_err());
    }
}
