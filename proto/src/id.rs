//! Names of things that nodes talk about. All are plain values, ordered, and printable as users type them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A node's identity: its Ed25519 public key. Text form: 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 32]);

/// One cluster: nodes that share a secret and each other's logs. Text form: 32 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

/// Jobs submitted together: one job, an array or a sweep. Text form: a UUID (version 7, so ids sort by age).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub [u8; 16]);

/// Which job of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Member {
    /// The only job of a group that is not an array.
    Only,
    /// The array member with this index, as the user numbered it.
    Index(u32),
}

/// What a user submits and what is placed. Text form: `GROUP`, or `GROUP/7` for a member of an array.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId {
    /// The group that the job was submitted in.
    pub group: GroupId,
    /// Which job of that group.
    pub member: Member,
}

/// One execution of a job, as the coordinator named it. Text form: `JOB#EPOCH.NUMBER`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The job that is executed.
    pub job: JobId,
    /// Epoch of the coordinator that ordered this attempt; a higher one fences lower ones.
    pub epoch: u32,
    /// Counts a job's attempts from 1, across epochs as far as the coordinator knew them.
    pub number: u32,
}

/// Why a text is not the id it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind} id")]
pub struct ParseIdError {
    /// The text as given.
    pub text: String,
    /// What it was taken for: `node`, `cluster`, `job`.
    pub kind: &'static str,
}

impl NodeId {
    /// The first eight hex digits, for tables and log lines.
    #[must_use]
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }
}

impl GroupId {
    /// A UUID version 7 from its parts, so that chance and time stay with the caller.
    /// `unix_ms` is milliseconds since 1970 (48 bits used), `random` fills the remaining bits.
    #[must_use]
    pub fn v7(unix_ms: u64, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid().into_bytes())
    }

    /// Milliseconds since 1970 at which the id was made, as its maker's clock told.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.0[..6].iter().fold(0, |ms, &byte| (ms << 8) | u64::from(byte))
    }
}

impl JobId {
    /// The job of a group of one.
    #[must_use]
    pub fn only(group: GroupId) -> Self {
        Self { group, member: Member::Only }
    }
}

impl AttemptId {
    /// Ids pack into file names: `GROUP.INDEX.EPOCH.NUMBER`, with `-` for the index of a group of one.
    #[must_use]
    pub fn file_name(&self) -> String {
        let member = match self.job.member {
            Member::Only => "-".to_owned(),
            Member::Index(index) => index.to_string(),
        };
        format!("{}.{member}.{}.{}", self.job.group, self.epoch, self.number)
    }

    /// The attempt of [`AttemptId::file_name`]; `None` for any other text.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let (group, member, epoch, number) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let member = if member == "-" { Member::Only } else { Member::Index(member.parse().ok()?) };
        let job = JobId { group: group.parse().ok()?, member };
        let attempt = Self { job, epoch: epoch.parse().ok()?, number: number.parse().ok()? };
        (parts.next().is_none() && attempt.file_name() == name).then_some(attempt)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Uuid::from_bytes(self.0))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.member {
            Member::Only => write!(f, "{}", self.group),
            Member::Index(index) => write!(f, "{}/{index}", self.group),
        }
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}.{}", self.job, self.epoch, self.number)
    }
}

macro_rules! debug_as_display {
    ($($id:ty),*) => {$(
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    )*};
}
debug_as_display!(NodeId, ClusterId, GroupId, JobId, AttemptId);

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        unhex(text).map(Self).ok_or_else(|| refuse(text, "node"))
    }
}

impl FromStr for ClusterId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        unhex(text).map(Self).ok_or_else(|| refuse(text, "cluster"))
    }
}

impl FromStr for GroupId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Uuid::try_parse(text).map(|id| Self(id.into_bytes())).map_err(|_| refuse(text, "job"))
    }
}

impl FromStr for JobId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let Some((group, index)) = text.split_once('/') else {
            return Ok(Self::only(text.parse()?));
        };
        let index = index.parse().map_err(|_| refuse(text, "job"))?;
        Ok(Self { group: group.parse().map_err(|_| refuse(text, "job"))?, member: Member::Index(index) })
    }
}

fn refuse(text: &str, kind: &'static str) -> ParseIdError {
    ParseIdError { text: text.to_owned(), kind }
}

/// Lowercase hex digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// Exactly `N` bytes from `2 * N` hex digits.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        // `from_str_radix` takes a sign, which an id never has.
        *byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_read_back_from_the_name_of_its_directory() {
        for member in [Member::Only, Member::Index(7)] {
            let attempt = AttemptId { job: JobId { group: GroupId([7; 16]), member }, epoch: 2, number: 3 };
            assert_eq!(AttemptId::from_file_name(&attempt.file_name()), Some(attempt));
        }
        for name in
            ["", "x", "07070707-0707-0707-0707-070707070707.-.1", "07070707-0707-0707-0707-070707070707.-.1.1.tmp"]
        {
            assert_eq!(AttemptId::from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn ids_print_as_they_are_typed() {
        let group = GroupId::v7(1_700_000_000_123, [7; 10]);
        let member = JobId { group, member: Member::Index(7) };
        assert_eq!(group.to_string().parse(), Ok(group));
        assert_eq!(member.to_string().parse(), Ok(member));
        assert_eq!(member.to_string(), format!("{group}/7"));
        assert_eq!(group.unix_ms(), 1_700_000_000_123);
        let node = NodeId([0xab; 32]);
        assert_eq!(node.to_string().parse(), Ok(node));
        assert_eq!(node.short(), "abababab");
    }

    #[test]
    fn a_text_that_is_no_id_is_refused() {
        for text in ["", "x", "0/0", "+1", "é", "0191a/", &"0".repeat(63), &"+f".repeat(32)] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
            assert!(text.parse::<JobId>().is_err(), "{text}");
        }
    }
}
