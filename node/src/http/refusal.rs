//! From errors of the node to answers: [`Refusal`] is what handlers return, and the extractors whose own
//! refusals are JSON like every other.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::words::error::{ErrorAnswer, ErrorCode, ErrorWord};
use crate::blobs::BlobError;
use crate::node::{NodeError, SecretError};
use crate::store::StoreError;

/// An answer that is not a success.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) ErrorWord);

/// A JSON body.
pub(crate) struct Given<T>(pub(crate) T);

/// What stands after the question mark.
pub(crate) struct Asked<T>(pub(crate) T);

/// What stands in the path, as the route names it.
pub(crate) struct Path<T>(pub(crate) T);

/// A body as it is, no larger than its route takes.
pub(crate) struct Raw(pub(crate) Bytes);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(ErrorAnswer { error: self.0 })).into_response()
    }
}

impl From<ErrorWord> for Refusal {
    fn from(word: ErrorWord) -> Self {
        Self(word)
    }
}

impl From<NodeError> for Refusal {
    fn from(error: NodeError) -> Self {
        let text = error.to_string();
        let (message, hint) = text.split_once("; ").unwrap_or((&text, ""));
        let code = match &error {
            NodeError::Closing => ErrorCode::ShuttingDown,
            NodeError::Timeout => ErrorCode::Timeout,
            NodeError::Removed(_) => ErrorCode::Conflict,
            NodeError::Unknown(_) => ErrorCode::NotFound,
            NodeError::Unreachable(_) | NodeError::OutOfReach { .. } | NodeError::Archive { .. } => {
                ErrorCode::Unreachable
            }
            NodeError::Store(StoreError::DiskFull { .. }) => ErrorCode::DiskFull,
            NodeError::Blob(BlobError::Missing(_)) => ErrorCode::NotFound,
            NodeError::Blob(blob) if blob.is_disk_full() => ErrorCode::DiskFull,
            NodeError::Store(_) | NodeError::Blob(_) | NodeError::Cache { .. } => ErrorCode::Internal,
        };
        Self(ErrorWord::new(code, message, hint))
    }
}

impl From<BlobError> for Refusal {
    fn from(error: BlobError) -> Self {
        NodeError::Blob(error).into()
    }
}

impl From<SecretError> for Refusal {
    fn from(error: SecretError) -> Self {
        let code = match &error {
            SecretError::Io { .. } => ErrorCode::Internal,
            _ => ErrorCode::BadInput,
        };
        Self(ErrorWord::new(code, error.to_string(), ""))
    }
}

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Refusal(ErrorWord::new(ErrorCode::TooLarge, "the body is larger than this route takes", "send less"))
            } else {
                Refusal(ErrorWord::bad_input("the body broke off", "send it again"))
            }
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Given<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let Raw(bytes) = Raw::from_request(request, state).await?;
        let refuse = |why: &str| {
            let hint = "the shape is described in /api/fnode/v1/openapi.json";
            Refusal(ErrorWord::bad_input(format!("the body is not what this route takes: {why}"), hint))
        };
        // serde reads a list as an object without names; every word here has names.
        match bytes.trim_ascii_start().first() {
            Some(b'{') => serde_json::from_slice(&bytes).map(Self).map_err(|error| refuse(&error.to_string())),
            _ => Err(refuse("it is not a JSON object")),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let axum::extract::Path(named) =
            axum::extract::Path::from_request_parts(parts, state).await.map_err(|rejection| {
                let message = format!("the path cannot be read: {}", rejection.body_text());
                Refusal(ErrorWord::bad_input(message, "names and ids are UTF-8 text, percent-encoded"))
            })?;
        Ok(Self(named))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Query::try_from_uri(&parts.uri).map(|Query(asked)| Self(asked)).map_err(|rejection| {
            let hint = "the parameters are described in /api/fnode/v1/openapi.json";
            Refusal(ErrorWord::bad_input(rejection.body_text(), hint))
        })
    }
}

/// Runs work that reads or writes the disk on a thread that may block.
pub(crate) async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Refusal>
where
    T: Send + 'static,
    E: Into<Refusal> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        // A panic there has been reported; a cancelled task means that the runtime ends.
        Err(_) => Err(NodeError::Closing.into()),
    }
}
