//! What the HTTP API says and hears, as JSON: one record per thing. The server fills them, the command line
//! prints them, as a table or, with `--json`, as they are. Nothing here opens, asks or decides.
//!
//! Units stand last in names of plain numbers (`memory_bytes`, `started_unix_ms`). Requests refuse unknown
//! fields, so that a typing error is told; answers may gain fields.

pub mod atlas;
pub mod blob;
pub mod cache;
pub mod ending;
pub mod error;
pub mod explain;
pub mod job;
pub mod node;
pub mod part;
pub mod project;
pub mod record;
pub mod submit;
pub mod track;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::doctor::{Check, State};

/// A command that changed something and has nothing else to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// What was done: `stop`, `delete`, `mark`, `drain`, `undrain`, `label`, `remove`, `pause`, `resume`, `shutdown`,
    /// `describe`, `note`, `purge`, `set`, `forget`, `export`.
    pub action: String,
    /// The job that it was done to; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub job: String,
    /// The id of the node that it was done to, or on; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The project that it was done to; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// The secret that it was done to; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// The key of the cached value that it was done to; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// The file that it was written to; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// Rows that were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// The same in one sentence, for people.
    pub done: String,
}

/// `POST /invite`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// Seconds for which the ticket may be used.
    pub ttl_s: u64,
}

/// What a new node needs to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// The ticket's text, `fnode1…`.
    pub ticket: String,
    /// Name of the cluster that it opens.
    pub cluster_name: String,
    /// From this instant on it is not accepted, in milliseconds since 1970.
    pub expires_unix_ms: u64,
}

/// `POST /shutdown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShutdownRequest {
    /// Also stop the jobs that run on this node; without it they go on.
    #[serde(default)]
    pub stop_jobs: bool,
}

/// Names of secrets; their values are never told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretNames {
    /// Sorted.
    pub names: Vec<String>,
}

/// `POST /gc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CollectRequest {
    /// Files of jobs that were submitted longer ago and have ended go too, unless the job is kept; 0: only of
    /// deleted jobs.
    pub older_than_s: u64,
    /// Then the least used files of ended jobs that are not kept, until all together take at most so many
    /// bytes; `null`: none.
    pub max_bytes: Option<u64>,
    /// Only tells what would go.
    pub dry_run: bool,
}

/// What `fnode gc` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Collected {
    /// Blobs removed.
    pub blobs: u64,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Bytes that this node's blobs still have.
    pub left_bytes: u64,
    /// How many of the blobs an ended job still named: they went for `max_bytes`.
    pub named_blobs: u64,
    /// Nothing was removed.
    pub dry_run: bool,
}

/// One thing that `fnode doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What was looked at: `disk`, `clock`, `firewall`, ….
    pub subject: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
    /// What to do; empty when nothing is to be done.
    pub remedy: String,
}

/// How a [`Finding`] is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Does not apply here, or cannot be told.
    Skipped,
    /// Something works less well than it could.
    Warning,
    /// Something does not work.
    Bad,
}

impl From<Check> for Finding {
    fn from(check: Check) -> Self {
        let verdict = match check.state {
            State::Ok => Verdict::Good,
            State::Skipped => Verdict::Skipped,
            State::Warn => Verdict::Warning,
            State::Fail => Verdict::Bad,
        };
        Self { subject: check.name, verdict, text: check.finding, remedy: check.remedy }
    }
}

/// Everything that `fnode doctor` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Findings {
    /// In the order of looking.
    pub findings: Vec<Finding>,
}

/// One event of `GET /events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventWord {
    /// Which kind: `job`, `node`, `take_over`, `notice`, `missed`.
    pub kind: String,
    /// The job concerned; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub job: String,
    /// The node concerned; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// What happened.
    pub text: String,
}

/// `GET /events`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Only events of this job.
    #[serde(default)]
    pub job: String,
}
