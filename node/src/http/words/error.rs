//! What an answer that is not a success says: a reason that programs can act on, a line and a remedy for people.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorAnswer {
    /// Why.
    pub error: ErrorWord,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorWord {
    /// For programs.
    pub code: ErrorCode,
    /// What failed and why, one line.
    pub message: String,
    /// What to do; empty when the message says it.
    #[serde(default)]
    pub hint: String,
}

/// Reasons that programs can act on. Only `timeout`, `unreachable`,
/// `shutting_down` and `busy` are worth a retry as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request cannot be done as it is written.
    BadInput,
    /// No token, or a wrong one.
    Unauthorized,
    /// Not from this machine's user, or a `Host` or `Origin` that is not this node's.
    Forbidden,
    /// No such thing.
    NotFound,
    /// The path is there, not with this method.
    MethodNotAllowed,
    /// A prefix that several ids share.
    Ambiguous,
    /// It is not in a state in which that can be done.
    Conflict,
    /// A body larger than the route takes.
    TooLarge,
    /// Too many requests at once.
    Busy,
    /// No node that can be reached has what it takes.
    Unreachable,
    /// The node is closing.
    ShuttingDown,
    /// The disk has no room.
    DiskFull,
    /// No answer in time; whether it was done is not known.
    Timeout,
    /// A bug or a failure of this machine.
    Internal,
    /// A reason that this software does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The HTTP status that carries it.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadInput => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Ambiguous | Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Busy => 429,
            Self::Internal | Self::Unknown => 500,
            Self::ShuttingDown | Self::Unreachable => 503,
            Self::Timeout => 504,
            Self::DiskFull => 507,
        }
    }
}

impl ErrorWord {
    /// A word of its parts.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }

    /// The request is wrong as it is written.
    #[must_use]
    pub fn bad_input(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadInput, message, hint)
    }

    /// There is no such thing.
    #[must_use]
    pub fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message, hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_of_newer_software_is_read_as_unknown() {
        let word: ErrorWord = serde_json::from_str(r#"{"code":"quota","message":"m"}"#).unwrap();
        assert_eq!(word, ErrorWord::new(ErrorCode::Unknown, "m", ""));
    }
}
