//! What can go wrong, and where it is told: what Foundations said itself goes to standard output, where its users'
//! tools look for it; everything else is one line on standard error, as `fnode` has it.

use super::yaml::ConfigError;
use crate::cli::error::{self, CliError};
use crate::cli::exit::Exit;

/// What Foundations said where nothing answered.
pub(crate) const NO_SERVER: &str = "Cannot currently find Atlas server. Start Atlas server with `atlas-server start`.";

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AtlasError {
    /// In Foundations' own words.
    #[error("{0}")]
    Said(String),
    /// A file of configuration that is none.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// As `fnode` has it.
    #[error(transparent)]
    Cli(#[from] CliError),
}

/// Where a line goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Standard output, as it is.
    Result(String),
    /// Standard error, behind the program's name.
    Trouble(String),
    /// Nowhere: whoever read has seen enough.
    Nothing,
}

/// The line for people, and how to exit.
pub(crate) fn explain(error: &AtlasError) -> (Told, Exit) {
    match error {
        AtlasError::Said(line) => (Told::Result(line.clone()), Exit::Failed),
        AtlasError::Config(error) => (Told::Trouble(error.to_string()), Exit::Failed),
        AtlasError::Cli(CliError::NoDaemon(_)) => (Told::Result(NO_SERVER.to_owned()), Exit::Failed),
        AtlasError::Cli(error) => match error::explain(error) {
            (Some(line), exit) => (Told::Trouble(line), exit),
            (None, exit) => (Told::Nothing, exit),
        },
    }
}
