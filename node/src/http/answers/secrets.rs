//! Secrets of this node: set, named and forgotten, never told.

use axum::Json;
use axum::extract::State;

use super::{Answered, To, done};
use crate::http::refusal::{Path, Raw, blocking};
use crate::http::routes::Shared;
use crate::http::words::error::ErrorWord;
use crate::http::words::submit::check_variable;
use crate::http::words::{Done, SecretNames};
use crate::node::NodeError;

pub(crate) async fn list(State(Shared { api, .. }): State<Shared>) -> Answered<SecretNames> {
    let handle = api.node.clone();
    let names = blocking(move || Ok::<_, NodeError>(handle.secrets().list())).await?;
    Ok(Json(SecretNames { names }))
}

pub(crate) async fn set(
    State(Shared { api, .. }): State<Shared>,
    Path(name): Path<String>,
    Raw(value): Raw,
) -> Answered<Done> {
    check_variable(&name)?;
    if value.is_empty() {
        return Err(ErrorWord::bad_input(format!("the value of {name} is empty"), "give one on standard input").into());
    }
    if std::str::from_utf8(&value).is_err() {
        let hint = "encode it, for example with base64";
        return Err(ErrorWord::bad_input(format!("the value of {name} is not UTF-8 text"), hint).into());
    }
    let (handle, kept) = (api.node.clone(), name.clone());
    blocking(move || handle.secrets().set(&kept, &value)).await?;
    Ok(done(
        "set",
        To::Secret(&name, api.node.me()),
        format!("secret {name} is kept on {}; jobs get it with --secret {name}", api.node.name()),
    ))
}

pub(crate) async fn remove(State(Shared { api, .. }): State<Shared>, Path(name): Path<String>) -> Answered<Done> {
    let (handle, gone) = (api.node.clone(), name.clone());
    if !blocking(move || handle.secrets().remove(&gone)).await? {
        let message = format!("{} has no secret {name:?}", api.node.name());
        return Err(ErrorWord::not_found(message, "see fnode secret list").into());
    }
    Ok(done("forget", To::Secret(&name, api.node.me()), format!("secret {name} is forgotten on {}", api.node.name())))
}
