//! Projects, as the API names them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A project: jobs under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectWord {
    /// Its name.
    pub name: String,
    /// What somebody wrote about it; empty: nothing.
    #[serde(default)]
    pub description: String,
    /// Submissions, an array counted once, as far as they are remembered.
    pub submissions: u64,
    /// Jobs in all.
    pub jobs: u64,
    /// Of these, not started.
    pub queued: u64,
    /// Of these, running.
    pub running: u64,
    /// Of these, completed.
    pub completed: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Of these, stopped.
    pub stopped: u64,
    /// When its newest job was submitted, in milliseconds since 1970; 0: never.
    pub last_submitted_unix_ms: u64,
}

/// All projects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Projects {
    /// Sorted by name.
    pub projects: Vec<ProjectWord>,
}

/// `PUT /projects/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectRequest {
    /// Free text, at most 4096 bytes.
    pub description: String,
}

/// What people wrote about a project as it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectNotes {
    /// The latest 200, oldest first.
    pub notes: Vec<ProjectNoteWord>,
}

/// A note on a project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectNoteWord {
    /// When it was written, in milliseconds since 1970 by the clock of the node that took it.
    pub written_unix_ms: u64,
    /// Who wrote it.
    pub user: String,
    /// What.
    pub text: String,
}

/// `POST /projects/{name}/notes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectNoteRequest {
    /// Not blank, at most 4096 bytes.
    pub text: String,
    /// Who writes, for people; the peer's user name where the node can tell it.
    #[serde(default)]
    pub user: String,
}
