//! Jobs, as the API names them: a line of a list, the whole record, and what is asked of them.

use std::collections::{BTreeMap, BTreeSet};

use proto::JobState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::blob::BundleWord;
use super::ending::EndingWord;
use super::node::NodeRef;
use super::record::{CheckoutWord, RecordedWord};
use super::submit::{AfterWord, EnvironmentWord, OnLostWord};
use super::track::{ArtifactWord, TrackedWord};
use crate::node::RanWith;

/// Where a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateWord {
    /// Not started.
    #[default]
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

/// How many jobs of a group stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// In all.
    pub total: u64,
    /// Not started.
    pub queued: u64,
    /// Fetching or building; only known for nodes that can be reached.
    pub preparing: u64,
    /// Running.
    pub running: u64,
    /// Completed.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
    /// Stopped.
    pub stopped: u64,
}

/// A job, or an array as one, in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobLine {
    /// Its id; of a member of an array `GROUP/INDEX`.
    pub id: String,
    /// Project.
    pub project: String,
    /// For people; may be empty.
    #[serde(default)]
    pub name: String,
    /// Who submitted it.
    pub user: String,
    /// Where it stands; an array is running while one of its jobs is, and failed when one has failed.
    pub state: StateWord,
    /// Jobs by state when this is an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<Counts>,
    /// The job that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where it runs or ran last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeRef>,
    /// When it was submitted, in milliseconds since 1970.
    pub submitted_unix_ms: u64,
    /// When its counted attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_unix_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_unix_ms: Option<u64>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<EndingWord>,
    /// Only the answering node is known to have its end: it is final once a second one has it.
    #[serde(default)]
    pub provisional: bool,
    /// Whether lists leave it out by default.
    #[serde(default)]
    pub archived: bool,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What is recorded of it, when `record` asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<RecordedWord>,
    /// What it told of itself.
    #[serde(flatten)]
    pub told: TrackedWord,
}

/// A page of jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobPage {
    /// Newest first; members of an array by index.
    pub jobs: Vec<JobLine>,
    /// What to give as `after` for the next page; empty: this was the last.
    #[serde(default)]
    pub next: String,
}

/// `GET /jobs`: which jobs. All that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JobQuery {
    /// Of this project.
    pub project: String,
    /// Standing so: `queued`, …; several with commas; `unfinished` and `ended` for groups of them.
    pub state: String,
    /// Running on, or run by, this node: name, id or id prefix.
    pub node: String,
    /// With this name.
    pub name: String,
    /// Submitted by this user.
    pub user: String,
    /// Submitted in the last so many seconds; 0: ever.
    pub within_s: u64,
    /// Archived ones too.
    pub all: bool,
    /// Those that are parts of other jobs, too, as stages are of a graph.
    pub parts: bool,
    /// Only parts of this job: its id or a unique prefix.
    pub parent: String,
    /// `1`: each with what is recorded of it.
    pub record: u8,
    /// In this order: columns with commas, `-` before one for the largest first. Columns are `submitted`, `started`,
    /// `ended`, `duration`, `state`, `user`, `project`, `name`, `node`, `tags`, `id`, `command`, `metric:NAME` (its last
    /// value), `param:NAME`, `tag:NAME`. What a job has not, and NaN, comes last; of equal jobs the newest first.
    pub sort: String,
    /// At most so many, 1 to 1000; 0: 100.
    pub limit: u32,
    /// The `next` of the page before, with the same `sort`.
    pub after: String,
}

/// `GET /jobs/{id}/members`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemberQuery {
    /// Standing so, as in `GET /jobs`.
    pub state: String,
    /// `1`: each with what is recorded of it.
    pub record: u8,
    /// In this order, as in `GET /jobs`; of equal jobs by index.
    pub sort: String,
    /// At most so many, 1 to 1000; 0: 100.
    pub limit: u32,
    /// The `next` of the page before.
    pub after: String,
}

/// A job with all that is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobWord {
    /// What lists show of it.
    #[serde(flatten)]
    pub line: JobLine,
    /// Thousandths of a CPU that it asks for.
    pub cpu_milli: u32,
    /// Memory that it asks for.
    pub memory_bytes: u64,
    /// Graphics processors that it asks for.
    pub gpus: u32,
    /// Free memory that it asks for on each of them.
    pub gpu_memory_bytes: u64,
    /// Python version that it asks for; empty: any.
    #[serde(default)]
    pub python: String,
    /// Labels that it asks for.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Nodes that may run it; empty: any.
    #[serde(default)]
    pub nodes: BTreeSet<String>,
    /// Paths that must be on the node.
    #[serde(default)]
    pub data: BTreeSet<String>,
    /// Its variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Names of its secrets.
    #[serde(default)]
    pub secrets: BTreeSet<String>,
    /// Indices of an array, as `1-1000`; empty: not one.
    #[serde(default)]
    pub indices: String,
    /// Seconds that an attempt may run; 0: no limit.
    pub timeout_s: u64,
    /// How often a failed attempt is repeated.
    pub retries: u32,
    /// What happens when its node is lost.
    pub on_lost: OnLostWord,
    /// Higher first.
    pub priority: i32,
    /// Jobs that must have ended first.
    #[serde(default)]
    pub after: Vec<AfterWord>,
    /// The parameters that it was submitted with, JSON text; empty: none.
    #[serde(default)]
    pub params_json: String,
    /// The directory that it runs in; none: an empty one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleWord>,
    /// The git checkout that it was submitted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkout: Option<CheckoutWord>,
    /// The environment that is built for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentWord>,
    /// Files that it made or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<BundleWord>,
    /// From where its next attempt goes on, should this one be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointWord>,
    /// Nodes that have its outputs and its log, or while it runs its last checkpoint, and answer now, by name; none: it
    /// left nothing but what every node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<Vec<String>>,
    /// Its archive in an object store; none: it has none, or left nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveWord>,
    /// Who sees it through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<NodeRef>,
    /// Whether a user asked it to stop.
    pub stop_wished: bool,
    /// Its blobs are not collected.
    pub kept: bool,
    /// Free text.
    #[serde(default)]
    pub note: String,
    /// Files that it gave names, as far as they are stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<ArtifactWord>,
    /// Every execution, the oldest first; empty for an array as a whole.
    #[serde(default)]
    pub attempts: Vec<AttemptWord>,
}

/// Where what a job left is, beside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArchiveWord {
    /// The end point.
    pub place: String,
    /// Since when it is there; none: it is not, or that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_unix_ms: Option<u64>,
    /// Whether it is still to be put there.
    pub owed: bool,
    /// Why it is not there yet, or cannot be seen; empty: nothing went wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// One execution of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptWord {
    /// `EPOCH.NUMBER`.
    pub id: String,
    /// Where.
    pub node: NodeRef,
    /// When it started, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_unix_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_unix_ms: Option<u64>,
    /// How it ended, or that it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<EndingWord>,
    /// Whether the job's outcome is this attempt's.
    pub counts: bool,
    /// CPU time used.
    pub cpu_ms: u64,
    /// Largest resident set.
    pub memory_max_bytes: u64,
    /// Length of its log once it is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<u64>,
    /// Machine, graphics processors and packages; while it runs, what its node tells of itself now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_with: Option<RanWith>,
}

/// What was in the checkpoint directory of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointWord {
    /// The attempt, `EPOCH.NUMBER`.
    pub attempt: String,
    /// Where it was made.
    pub node: NodeRef,
    /// When, in milliseconds since 1970.
    pub saved_unix_ms: u64,
    /// Sum of its files' sizes.
    pub total_bytes: u64,
    /// How many entries it has.
    pub files: u32,
}

/// `PATCH /jobs/{id}/marks`: what is given changes, the rest stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MarkRequest {
    /// Hidden from lists by default.
    pub archived: Option<bool>,
    /// Its blobs are not collected.
    pub kept: Option<bool>,
    /// Free text, at most 4096 bytes.
    pub note: Option<String>,
    /// Tags to put on or change.
    pub tags: BTreeMap<String, String>,
    /// Tags to take off.
    pub untag: BTreeSet<String>,
}

/// `GET /jobs/{id}/wait`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WaitQuery {
    /// Answer after so many seconds even if it has not ended, 1 to 60; 0: 30. Once it has ended, a second node is
    /// given 5 s to have that, too; the answer is provisional if none has it by then, or there is none.
    pub timeout_s: u64,
}

/// `GET /jobs/{id}/log`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogQuery {
    /// From this byte on.
    pub offset: u64,
    /// Only the last so many lines of what is there now; 0: all.
    pub tail: u64,
    /// Only what was written then or later, to the second, in milliseconds since 1970; 0: all.
    pub since_unix_ms: u64,
    /// `EPOCH.NUMBER` of an attempt; empty: the latest.
    pub attempt: String,
    /// The first attempt after this one, `EPOCH.NUMBER`: where a reader of that one goes on.
    pub after_attempt: String,
    /// `1`: waits for the attempt to start and goes on until it has ended.
    pub follow: u8,
}

/// One event of a log tail as server-sent events; its id is `next_offset`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEvent {
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// Where the next event begins, in bytes.
    pub next_offset: u64,
}

impl From<JobState> for StateWord {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Queued => Self::Queued,
            JobState::Preparing => Self::Preparing,
            JobState::Running => Self::Running,
            JobState::Completed => Self::Completed,
            JobState::Failed => Self::Failed,
            JobState::Stopped => Self::Stopped,
        }
    }
}

impl StateWord {
    /// Whether it can still change.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Stopped)
    }

    /// As people and JSON write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// The states that `text` names: with commas, with `unfinished`, `ended` and `any`.
    ///
    /// # Errors
    /// The part that names none.
    pub fn parse_set(text: &str) -> Result<BTreeSet<Self>, String> {
        const UNFINISHED: [StateWord; 3] = [StateWord::Queued, StateWord::Preparing, StateWord::Running];
        const ENDED: [StateWord; 3] = [StateWord::Completed, StateWord::Failed, StateWord::Stopped];
        let mut states = BTreeSet::new();
        for part in text.split(',') {
            match part.trim() {
                "any" => states.extend(UNFINISHED.into_iter().chain(ENDED)),
                "unfinished" => states.extend(UNFINISHED),
                "ended" => states.extend(ENDED),
                one => match UNFINISHED.into_iter().chain(ENDED).find(|state| state.as_str() == one) {
                    Some(state) => {
                        states.insert(state);
                    }
                    None => return Err(one.to_owned()),
                },
            }
        }
        Ok(states)
    }
}

impl Counts {
    /// Where the whole stands: unfinished work first, then the worst end.
    #[must_use]
    pub fn state(&self) -> StateWord {
        match self {
            Self { running: 1.., .. } => StateWord::Running,
            Self { preparing: 1.., .. } => StateWord::Preparing,
            // Between two of its jobs an array that has begun is under way, not waiting.
            Self { queued, total, .. } if *queued > 0 && queued == total => StateWord::Queued,
            Self { queued: 1.., .. } => StateWord::Running,
            Self { failed: 1.., .. } => StateWord::Failed,
            Self { stopped: 1.., .. } => StateWord::Stopped,
            _ => StateWord::Completed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_a_job_does_not_change_unnoticed() {
        let job = JobWord {
            line: JobLine {
                id: "0193".to_owned(),
                project: "mnist".to_owned(),
                user: "ada".to_owned(),
                state: StateWord::Failed,
                command: vec!["false".to_owned()],
                node: Some(NodeRef { id: "ab".to_owned(), name: "alpha".to_owned() }),
                submitted_unix_ms: 1,
                started_unix_ms: Some(2),
                ended_unix_ms: Some(3),
                ending: Some(EndingWord::from(&proto::Ending::Exited { code: 1 })),
                ..JobLine::default()
            },
            cpu_milli: 1_000,
            ..JobWord::default()
        };
        let golden = concat!(
            r#"{"id":"0193","project":"mnist","name":"","user":"ada","state":"failed","command":["false"],"#,
            r#""node":{"id":"ab","name":"alpha"},"submitted_unix_ms":1,"started_unix_ms":2,"ended_unix_ms":3,"#,
            r#""ending":{"reason":"exited","exit_code":1,"text":"exit code 1"},"provisional":false,"archived":false,"tags":{},"#,
            r#""cpu_milli":1000,"memory_bytes":0,"gpus":0,"gpu_memory_bytes":0,"python":"","labels":{},"nodes":[],"#,
            r#""data":[],"env":{},"secrets":[],"indices":"","timeout_s":0,"retries":0,"on_lost":"rerun","#,
            r#""priority":0,"after":[],"params_json":"","stop_wished":false,"kept":false,"note":"","attempts":[]}"#,
        );
        assert_eq!(serde_json::to_string(&job).unwrap(), golden);
        assert_eq!(serde_json::from_str::<JobWord>(golden).unwrap(), job);
    }

    #[test]
    fn states_are_named_alone_with_commas_and_in_groups() {
        use StateWord::{Completed, Failed, Queued, Running, Stopped};
        assert_eq!(StateWord::parse_set("queued, failed"), Ok(BTreeSet::from([Queued, Failed])));
        assert_eq!(StateWord::parse_set("ended"), Ok(BTreeSet::from([Completed, Failed, Stopped])));
        assert_eq!(StateWord::parse_set("any").map(|set| set.len()), Ok(6));
        assert_eq!(StateWord::parse_set("running,done"), Err("done".to_owned()));
        assert!(StateWord::parse_set("unfinished").unwrap().contains(&Running));
    }

    #[test]
    fn an_array_stands_where_its_unfinished_jobs_stand_then_at_the_worst_end() {
        let counts = |queued, running, completed, failed| Counts {
            total: queued + running + completed + failed,
            queued,
            running,
            completed,
            failed,
            ..Counts::default()
        };
        assert_eq!(counts(3, 0, 0, 0).state(), StateWord::Queued);
        assert_eq!(counts(2, 0, 1, 0).state(), StateWord::Running);
        assert_eq!(counts(0, 1, 1, 1).state(), StateWord::Running);
        assert_eq!(counts(0, 0, 2, 1).state(), StateWord::Failed);
        assert_eq!(counts(0, 0, 3, 0).state(), StateWord::Completed);
    }
}
