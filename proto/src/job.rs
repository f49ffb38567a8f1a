//! What a user submits, and how an execution ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::blob::ContentId;
use crate::capacity::Requirement;
use crate::id::{JobId, Member, NodeId};
use crate::size::ByteSize;

/// Everything that must be known to run the jobs of a group, on any node, at any later time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Who submitted it: the operating system's user name on the submitting node.
    pub user: String,
    /// Project name.
    pub project: String,
    /// For people; empty: none.
    pub name: String,
    /// Program and arguments, run in the job's own copy of the bundle. Never empty.
    pub command: Vec<String>,
    /// The directory to run in; `None`: an empty one.
    pub bundle: Option<BundleRef>,
    /// What each job asks for.
    pub requirement: Requirement,
    /// Variables for the job's environment. No secrets: this word is replicated.
    pub env: BTreeMap<String, String>,
    /// Names of secrets (`fnode secret`) that the running node adds to the environment.
    pub secrets: BTreeSet<String>,
    /// Members of an array, as closed ranges; empty: one job, [`Member::Only`].
    pub array: IndexRanges,
    /// Seconds that one attempt may run; 0: no limit.
    pub timeout_s: u64,
    /// How often a failed attempt (not a lost one) is repeated.
    pub retries: u32,
    /// What happens when the node that runs it is lost.
    pub on_lost: OnLost,
    /// Higher first, among jobs of one user and project.
    pub priority: i32,
    /// Jobs that must have ended first.
    pub after: Vec<Dependency>,
    /// Whether standard output and error are kept.
    pub capture: bool,
    /// Whether files that the job made or changed are kept.
    pub keep_outputs: bool,
    /// Contents of the parameters file (JSON text) that the job finds beside its code; empty: none.
    pub params_json: String,
    /// The environment to build; `None`: the node's own Python.
    pub environment: Option<EnvironmentSpec>,
    /// A process that runs already on the submitting node, whose job this is: `command` tells how it was started and
    /// is not started again. `None`: an ordinary job.
    pub attends: Option<Attended>,
    /// The state of the git checkout that it was submitted from; `None`: none, or git did not say in time.
    pub checkout: Option<Checkout>,
    /// The job that this one is a part of, as a stage is of its graph: it is stopped when that ends. `None`: none.
    pub parent: Option<JobId>,
    /// How much of what it will read lies on which node: a hint for placement, never a requirement.
    pub near: BTreeMap<NodeId, ByteSize>,
}

/// A git checkout as it was at a submission. Texts are as git told them, each at most [`CHECKOUT_TEXT_MAX`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Checkout {
    /// The commit that is checked out, in hex.
    pub commit: String,
    /// The branch; empty: none is checked out.
    pub branch: String,
    /// Address of the remote `origin`, without user and password; empty: there is none.
    pub remote: String,
    /// Who would commit, as `Ada <ada@example.org>`; empty: not configured.
    pub author: String,
    /// Whether the directory has changes that the commit lacks, new files included.
    pub is_dirty: bool,
    /// The changes of files that the commit has; `None`: none, or no bundle to carry them.
    pub diff: Option<Diff>,
}

/// Uncommitted changes, as `git diff` prints them. They ride in the bundle, so they are where the code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Diff {
    /// The blob that holds them.
    pub content: ContentId,
    /// Its length in bytes.
    pub size: u64,
    /// Whether there are more changes than it holds.
    pub is_cut: bool,
}

/// A process that became a job while it ran.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attended {
    /// Its number on its node.
    pub pid: u32,
    /// When it started, in clock ticks since that node's boot: no later process is taken for it.
    pub start_time: u64,
    /// Its working directory, which is kept as the job's outputs.
    pub directory: String,
}

/// A bundle, by its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BundleRef {
    /// Content id of the encoded manifest.
    pub manifest: ContentId,
    /// Sum of the sizes of its files, in bytes.
    pub total_bytes: u64,
    /// How many entries it has.
    pub files: u32,
}

/// An environment is keyed by the content of what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EnvironmentSpec {
    /// Path inside the bundle: `requirements.txt`, a lock or `pyproject.toml`.
    pub path: String,
    /// Its bytes.
    pub content: ContentId,
    /// Python version as `3.11`; empty: the node's default.
    pub python: String,
    /// How it stands to the node's own packages.
    pub rule: EnvironmentRule,
}

/// How an environment stands to the node's own packages, and to what cannot be installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EnvironmentRule {
    /// Nothing but what it asks for; without it the job does not start.
    #[default]
    Exact,
    /// What it asks for, over the packages that the node has. A job whose environment cannot be built runs with these
    /// alone, and says so.
    Lenient,
}

/// What happens to a job whose node is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OnLost {
    /// Run it again elsewhere, from its last checkpoint where there is one.
    #[default]
    Rerun,
    /// The job fails.
    Fail,
}

/// One job, or all jobs of a group, that must have ended first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dependency {
    /// What is waited for: a job, or with [`Member::Only`] of an array's group, the whole group.
    pub on: JobId,
    /// When the wait is over.
    pub trigger: Trigger,
}

/// Polyaxon's six triggers. *All* and *one* range over the jobs of the same submission that name the
/// same trigger, and over the members of an array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Trigger {
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

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JobState {
    /// Not started; `fnode job explain` says why.
    Queued,
    /// On a node that fetches its bundle or builds its environment.
    Preparing,
    /// Its process runs.
    Running,
    /// Exit code 0.
    Completed,
    /// Anything else that was not asked for.
    Failed,
    /// Ended because a user asked.
    Stopped,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ending {
    /// The process exited by itself.
    Exited {
        /// 0 to 255.
        code: u8,
    },
    /// A signal that nobody here sent.
    Signalled {
        /// Its number on Linux.
        signal: u8,
    },
    /// Killed by the kernel for memory.
    OutOfMemory,
    /// Ran longer than its timeout allows.
    TimedOut,
    /// A user asked for it.
    Stopped,
    /// The command could not be started.
    NotStarted(StartFailure),
    /// Nobody knows how it ended: its node or its runner was lost.
    Lost(LostReason),
    /// A process that is not the runner's child ended without telling how: killed, most often.
    Untold,
}

/// Why a command could not be started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StartFailure {
    /// No such program on the node or in the bundle.
    CommandNotFound(String),
    /// The program may not be executed.
    NotExecutable(String),
    /// A blob of the bundle could not be had from any node.
    BundleMissing(ContentId),
    /// The bundle is larger than the free disk.
    DiskFull,
    /// The environment could not be built; last lines of its log.
    Environment(String),
    /// A path given with `--data` does not exist on the node.
    DataMissing(String),
    /// A secret that the job names is not on the node.
    SecretMissing(String),
    /// A job it waits for ended so that its trigger can never come true.
    Dependency(JobId),
    /// The operating system refused; its error text.
    System(String),
}

/// Why an attempt's end is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LostReason {
    /// The node was declared dead.
    NodeDown,
    /// The runner that owned the process is gone.
    RunnerDown,
    /// The node came back without it, for example after a reboot.
    NotFound,
    /// Lost or crashed its node five times: it is not tried again.
    CrashLimit,
}

/// What an attempt used, as far as it could be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time, user and system, in milliseconds.
    pub cpu_ms: u64,
    /// Largest resident set of the process, in bytes.
    pub memory_max_bytes: u64,
}

/// Indices of an array: closed ranges, sorted, that do not touch. Text form: `1-10,20,30-40`.
/// Decoded only when they are normal and not more than [`ARRAY_MAX`]: every rule relies on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u32, u32)>")]
pub struct IndexRanges(Vec<(u32, u32)>);

/// Why a text is not a list of indices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRangesError {
    /// Not numbers and ranges.
    #[error("{0:?} is not a list of indices; write for example 1-1000 or 1,5,7-9")]
    Text(String),
    /// An index that no array has.
    #[error("index {0} is larger than any array has; an index is at most {max}, and one array has at most {ARRAY_MAX} jobs", max = u32::MAX)]
    Large(String),
    /// More members than one group may have.
    #[error("{0} jobs are more than the {ARRAY_MAX} that one array may have")]
    TooMany(u64),
}

/// Longest text of a [`Checkout`], in bytes.
pub const CHECKOUT_TEXT_MAX: usize = 1_024;

/// Most jobs in one group: a group's unfinished members are held in memory on every node.
pub const ARRAY_MAX: u64 = 1_000_000;

impl GroupSpec {
    /// One job with the answers that a submission has without further words: one CPU, no bundle, no retries, its output
    /// and its files kept.
    #[must_use]
    pub fn new(user: impl Into<String>, project: impl Into<String>, command: Vec<String>) -> Self {
        Self {
            user: user.into(),
            project: project.into(),
            name: String::new(),
            command,
            bundle: None,
            requirement: Requirement::default(),
            env: BTreeMap::new(),
            secrets: BTreeSet::new(),
            array: IndexRanges::default(),
            timeout_s: 0,
            retries: 0,
            on_lost: OnLost::default(),
            priority: 0,
            after: Vec::new(),
            capture: true,
            keep_outputs: true,
            params_json: String::new(),
            environment: None,
            attends: None,
            checkout: None,
            parent: None,
            near: BTreeMap::new(),
        }
    }

    /// Every member of the group, in order.
    pub fn members(&self) -> Box<dyn Iterator<Item = Member> + '_> {
        if self.array.is_empty() {
            Box::new(std::iter::once(Member::Only))
        } else {
            Box::new(self.array.iter().map(Member::Index))
        }
    }

    /// How many jobs the group has; at least 1.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.array.len().max(1)
    }

    /// Always false: a group has a job.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether `member` is one of this group's.
    #[must_use]
    pub fn contains(&self, member: Member) -> bool {
        match member {
            Member::Only => self.array.is_empty(),
            Member::Index(index) => self.array.contains(index),
        }
    }
}

impl Ending {
    /// Where a job stands whose last attempt ended so.
    #[must_use]
    pub fn state(&self) -> JobState {
        match self {
            Self::Exited { code: 0 } => JobState::Completed,
            Self::Stopped => JobState::Stopped,
            _ => JobState::Failed,
        }
    }

    /// The exit code that `--propagate` passes on: the job's own, 128 + signal, or 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exited { code } => *code,
            Self::Signalled { signal } => 128_u8.saturating_add(*signal),
            Self::OutOfMemory => 137,
            Self::TimedOut => 124,
            Self::NotStarted(StartFailure::CommandNotFound(_)) => 127,
            Self::NotStarted(StartFailure::NotExecutable(_)) => 126,
            Self::Stopped | Self::NotStarted(_) | Self::Lost(_) | Self::Untold => 1,
        }
    }
}

impl JobState {
    /// Whether it can still change.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Stopped)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        })
    }
}

impl IndexRanges {
    /// The set of all given indices.
    #[must_use]
    pub fn from_indices(indices: impl IntoIterator<Item = u32>) -> Self {
        let mut ranges = Self::default();
        for index in indices {
            ranges.insert(index);
        }
        ranges
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many indices there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|&(first, last)| u64::from(last - first) + 1).sum()
    }

    /// Whether `index` is among them.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        let at = self.0.partition_point(|&(_, last)| last < index);
        self.0.get(at).is_some_and(|&(first, _)| first <= index)
    }

    /// Every index, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|&(first, last)| first..=last)
    }

    /// Adds `index`; joins the ranges that it touches.
    pub fn insert(&mut self, index: u32) {
        let at = self.0.partition_point(|&(_, last)| last < index);
        if self.0.get(at).is_some_and(|&(first, _)| first <= index) {
            return;
        }
        let joins_left = at > 0 && self.0[at - 1].1.checked_add(1) == Some(index);
        let joins_right = self.0.get(at).is_some_and(|&(first, _)| index.checked_add(1) == Some(first));
        match (joins_left, joins_right) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = index,
            (false, true) => self.0[at].0 = index,
            (false, false) => self.0.insert(at, (index, index)),
        }
    }

    /// Removes and returns the smallest index.
    pub fn pop_first(&mut self) -> Option<u32> {
        let &(first, last) = self.0.first()?;
        if first == last {
            self.0.remove(0);
        } else {
            self.0[0].0 = first + 1;
        }
        Some(first)
    }

    /// Removes `index`; returns whether it was there.
    pub fn remove(&mut self, index: u32) -> bool {
        let at = self.0.partition_point(|&(_, last)| last < index);
        let Some(&(first, last)) = self.0.get(at).filter(|&&(first, _)| first <= index) else {
            return false;
        };
        match (first == index, last == index) {
            (true, true) => {
                self.0.remove(at);
            }
            (true, false) => self.0[at].0 = index + 1,
            (false, true) => self.0[at].1 = index - 1,
            (false, false) => {
                self.0[at].1 = index - 1;
                self.0.insert(at + 1, (index + 1, last));
            }
        }
        true
    }

    /// Whether the ranges are sorted, not empty and do not touch: what a decoded value must satisfy.
    #[must_use]
    pub fn is_normal(&self) -> bool {
        self.0.iter().all(|&(first, last)| first <= last)
            && self.0.windows(2).all(|pair| pair[0].1.checked_add(1).is_some_and(|next| next < pair[1].0))
    }
}

impl TryFrom<Vec<(u32, u32)>> for IndexRanges {
    type Error = ParseRangesError;

    fn try_from(ranges: Vec<(u32, u32)>) -> Result<Self, ParseRangesError> {
        let ranges = Self(ranges);
        if !ranges.is_normal() {
            return Err(ParseRangesError::Text(format!("{:?}", ranges.0)));
        }
        if ranges.len() > ARRAY_MAX { Err(ParseRangesError::TooMany(ranges.len())) } else { Ok(ranges) }
    }
}

impl FromStr for IndexRanges {
    type Err = ParseRangesError;

    fn from_str(text: &str) -> Result<Self, ParseRangesError> {
        let refuse = || ParseRangesError::Text(text.to_owned());
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let index = |text: &str| match text.trim() {
                digits if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                    digits.parse::<u32>().map_err(|_| ParseRangesError::Large(digits.chars().take(30).collect()))
                }
                _ => Err(refuse()),
            };
            let (first, last) = (index(first)?, index(last)?);
            if first > last {
                return Err(refuse());
            }
            ranges.push((first, last));
        }
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(previous) if u64::from(first) <= u64::from(previous.1) + 1 => previous.1 = previous.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        let ranges = Self(joined);
        if ranges.len() > ARRAY_MAX { Err(ParseRangesError::TooMany(ranges.len())) } else { Ok(ranges) }
    }
}

impl fmt::Display for IndexRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

impl FromStr for Trigger {
    type Err = ();

    /// Polyaxon's names: `all_succeeded`, …, `one_done`.
    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "all_succeeded" => Self::AllSucceeded,
            "all_failed" => Self::AllFailed,
            "all_done" => Self::AllDone,
            "one_succeeded" => Self::OneSucceeded,
            "one_failed" => Self::OneFailed,
            "one_done" => Self::OneDone,
            _ => return Err(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_joined_and_printed() {
        let ranges: IndexRanges = "5,1-3,4,10-12".parse().expect("valid");
        assert_eq!(ranges.to_string(), "1-5,10-12");
        assert_eq!(ranges.len(), 8);
        assert!(ranges.contains(4) && !ranges.contains(6));
        for text in ["", "3-1", "x", "1-", "-1", "1,,2"] {
            assert!(text.parse::<IndexRanges>().is_err(), "{text}");
        }
        assert_eq!("0-1000000".parse::<IndexRanges>(), Err(ParseRangesError::TooMany(1_000_001)));
    }

    #[test]
    fn inserting_and_removing_keeps_ranges_normal() {
        let mut ranges = IndexRanges::from_indices([1, 3, 2, 7, 5, 6, u32::MAX]);
        assert_eq!(ranges.to_string(), format!("1-3,5-7,{}", u32::MAX));
        assert!(ranges.remove(6) && !ranges.remove(6));
        assert_eq!(ranges.to_string(), format!("1-3,5,7,{}", u32::MAX));
        assert_eq!(ranges.pop_first(), Some(1));
        assert!(ranges.is_normal());
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [2, 3, 5, 7, u32::MAX]);
    }

    #[test]
    fn endings_map_to_states_and_exit_codes() {
        assert_eq!(Ending::Exited { code: 0 }.state(), JobState::Completed);
        assert_eq!(Ending::Exited { code: 3 }.exit_code(), 3);
        assert_eq!(Ending::Signalled { signal: 9 }.exit_code(), 137);
        assert_eq!(Ending::Stopped.state(), JobState::Stopped);
    }
}
