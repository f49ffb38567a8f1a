//! Cached values, as the API names them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::node::NodeRef;

/// The value of a cached call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheValue {
    /// Stands for the call: 64 hexadecimal digits.
    pub key: String,
    /// The function, as `package.module.name`.
    pub function: String,
    /// For which project it was called.
    pub project: String,
    /// For whom.
    pub user: String,
    /// Which node made it.
    pub node: NodeRef,
    /// Its length.
    pub bytes: u64,
    /// How long the call took, in milliseconds.
    pub took_ms: u64,
    /// When it was made, in milliseconds since 1970.
    pub made_unix_ms: u64,
    /// When it is no value any more; `null`: never.
    pub expires_unix_ms: Option<u64>,
    /// BLAKE3 of its bytes.
    pub content: String,
    /// Programs on the answering node find it without asking another node.
    pub is_here: bool,
    /// No node evicts it.
    pub is_kept: bool,
}

/// Some values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheValues {
    /// The newest first.
    pub values: Vec<CacheValue>,
}

/// Which values a listing wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheQuery {
    /// Only of this function; empty: of all.
    pub function: String,
    /// Only for this project; empty: for all.
    pub project: String,
    /// Only for this user; empty: for all.
    pub user: String,
    /// At most so many; 0: 100.
    pub limit: u32,
}

/// What the cache holds and saves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheStats {
    /// Values that all nodes know.
    pub values: u64,
    /// Their bytes, each counted once.
    pub bytes: u64,
    /// How long computing them took, in milliseconds.
    pub took_ms: u64,
    /// Values on the answering node.
    pub here_values: u64,
    /// Their bytes.
    pub here_bytes: u64,
    /// Values that no node evicts.
    pub kept_values: u64,
    /// The same by project and user.
    pub uses: Vec<CacheUse>,
    /// What finding values saved, on all nodes that answer, by project and user; who was saved most comes first.
    pub hits: Vec<CacheHits>,
    /// Nodes that did not answer: what was saved there is not in `hits`.
    pub silent: Vec<NodeRef>,
}

/// Values of one project and user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheUse {
    /// The project.
    pub project: String,
    /// The user.
    pub user: String,
    /// How many.
    pub values: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long computing them took, in milliseconds.
    pub took_ms: u64,
}

/// Values that programs of one project and user found instead of computing them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheHits {
    /// The project.
    pub project: String,
    /// Who ran them; empty: a program that did not say.
    pub user: String,
    /// How many.
    pub hits: u64,
    /// How long computing them took when they were made, in milliseconds.
    pub saved_ms: u64,
}

/// Why a value was computed although its function had been called before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheWhy {
    /// The value.
    pub value: CacheValue,
    /// The nearest earlier value of the same function; `null`: there is none that can be had.
    pub earlier: Option<CacheValue>,
    /// What differs between the two.
    pub differs: Vec<CacheDifference>,
}

/// A part of a key that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheDifference {
    /// `function`, `argument`, `package`, `global`, `python`, `file`, `env`, ….
    pub kind: String,
    /// Which of them.
    pub name: String,
    /// How.
    pub change: CacheChange,
}

/// How a part of a key differs from the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheChange {
    /// It is another.
    Changed,
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
}

/// `POST /cache/values/{key}/keep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheKeepRequest {
    /// Whether no node may evict it.
    pub kept: bool,
}

/// `POST /cache/purge`: every value of this function, project and user; empty texts are any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CachePurgeRequest {
    /// The function, as `package.module.name`.
    pub function: String,
    /// The project.
    pub project: String,
    /// The user.
    pub user: String,
    /// Only tells what would go.
    pub dry_run: bool,
}

/// What was purged, on every node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CachePurged {
    /// How many values.
    pub values: u64,
    /// Their bytes, each counted once.
    pub bytes: u64,
    /// Nothing was removed.
    pub dry_run: bool,
}

/// `POST /cache/check`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheCheckRequest {
    /// Go on after this key; `null`: from the beginning.
    pub after: Option<String>,
}

/// Values of the answering node that were hashed again: as many as a few seconds allow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheChecked {
    /// How many.
    pub values: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of all values of this node.
    pub held_bytes: u64,
    /// Those that the disk has changed.
    pub damaged: Vec<CacheDamage>,
    /// Ask again with this key; `null`: that was all.
    pub next: Option<String>,
}

/// A value that the disk has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheDamage {
    /// Its key.
    pub key: String,
    /// Of which function.
    pub function: String,
    /// It was fetched whole from another node; else it is gone from this one, and the next call computes it.
    pub mended: bool,
}

/// `POST /cache/gc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheCollectRequest {
    /// Values on this node shall take at most so many bytes.
    pub max_bytes: u64,
    /// Only tells what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// What went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheCollected {
    /// Values that left this node.
    pub values: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Nothing was removed.
    pub dry_run: bool,
}
