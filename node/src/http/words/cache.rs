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
    /// The same by project and user.
    pub uses: Vec<CacheUse>,
    /// What the answering node handed to programs on its machine. What they read again by themselves is not counted.
    pub hits: Vec<CacheHits>,
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

/// Values that programs of one project were handed instead of computing them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheHits {
    /// The project.
    pub project: String,
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
