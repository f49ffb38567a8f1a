//! Why a job waits, and what would help, in words.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::job::StateWord;
use super::node::NodeRef;

/// Where an unfinished job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplanationWord {
    /// The job.
    pub job: String,
    /// Where it stands.
    pub state: StateWord,
    /// One sentence: why it is not further.
    pub summary: String,
    /// What would help; empty: only patience.
    pub help: String,
    /// Who sees it through.
    pub coordinator: Option<NodeRef>,
    /// Whether that node can be reached from the answering one.
    pub coordinator_up: bool,
    /// Where it was claimed, or runs.
    pub worker: Option<NodeRef>,
    /// Jobs that must end first.
    pub waits_for: Vec<String>,
    /// Whether any node could run it once it is idle.
    pub fits_somewhere: bool,
    /// Every node with what it lacks, the nearest first.
    pub nodes: Vec<NodeLacks>,
}

/// What one node lacks for a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeLacks {
    /// The node.
    pub node: NodeRef,
    /// Whether waiting cures all of it.
    pub is_passing: bool,
    /// One sentence each; empty: it fits now.
    pub lacks: Vec<String>,
}
