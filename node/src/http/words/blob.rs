//! Bundles and blobs as the API names them. Their bytes travel as they are, not as JSON.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ErrorWord;

/// What a node lacks of a bundle whose manifest it has just been given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleAnswer {
    /// The bundle's id: the content id of its manifest.
    pub manifest: String,
    /// Sum of its files' sizes.
    pub total_bytes: u64,
    /// How many entries it has.
    pub files: u32,
    /// Content ids of files that must be sent with `PUT /blobs/{id}` before the bundle can be used.
    pub missing: Vec<String>,
}

/// A bundle in a job's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleWord {
    /// Content id of its manifest.
    pub manifest: String,
    /// Sum of its files' sizes.
    pub total_bytes: u64,
    /// How many entries it has.
    pub files: u32,
}

/// How far a job's files are on their way to the answering node; the last event of the stream has `done` or `error`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FetchEvent {
    /// Bytes that are here, of those that were not.
    pub bytes_done: u64,
    /// Bytes that had to come.
    pub bytes_total: u64,
    /// Everything is here.
    pub done: bool,
    /// Why it cannot be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorWord>,
}

/// A blob that has been stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlobAnswer {
    /// Its content id.
    pub content: String,
    /// Its length.
    pub size_bytes: u64,
}

/// What a look at a blob found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlobCheck {
    /// Whether it is here with the bytes that its name promises.
    pub is_whole: bool,
}

/// `GET /jobs/{id}/outputs` and `GET /jobs/{id}/outputs/fetch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutputsQuery {
    /// `1`: also the files that it was given, as far as it left them as they were.
    pub whole: u8,
}

/// Files that a job made or changed, now on the answering node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Outputs {
    /// The job.
    pub job: String,
    /// Content id of their manifest; of a whole directory empty, because it is put together here.
    pub manifest: String,
    /// Sum of their sizes.
    pub total_bytes: u64,
    /// In path order.
    pub files: Vec<OutputFile>,
    /// Files that it was given and removed, in path order; of a directory each file in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
}

/// One file, link or empty directory of [`Outputs`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputFile {
    /// Relative to the job's directory.
    pub path: String,
    /// What lies there.
    pub kind: OutputKind,
    /// Content id; empty unless it is a file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content: String,
    /// Where a link leads; empty unless it is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Length of a file.
    #[serde(default)]
    pub size_bytes: u64,
    /// Whether its owner may execute it.
    #[serde(default)]
    pub executable: bool,
}

/// What a path of [`Outputs`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A directory with nothing in it.
    EmptyDirectory,
}
