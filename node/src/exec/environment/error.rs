//! Why a job gets no environment, in words that say what to do. Shown to the job's owner as the reason of a failed
//! attempt, and cloned for everyone who waited for the same build.

use std::path::Path;

use proto::ByteSize;

use super::DISK_MIN;

/// Why a job gets no environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// This node does not have the Python that the job asks for.
    #[error("no Python {wanted} on this node (it has: {have}); install it, or choose another with --python")]
    NoPython {
        /// As `3.11`.
        wanted: String,
        /// What there is.
        have: String,
    },
    /// The interpreter does not run.
    #[error("{path} does not tell its version; reinstall this Python")]
    BrokenPython {
        /// The interpreter.
        path: String,
    },
    /// Not UTF-8.
    #[error("{file} is not a text in UTF-8; save it as UTF-8")]
    NotText {
        /// The file, within the project.
        file: String,
    },
    /// A file, a list of includes, or a project past the bounds.
    #[error("{file} is too large to make an environment from; is it really a requirements file?")]
    TooLarge {
        /// The file or directory.
        file: String,
    },
    /// A path leads out of the bundle.
    #[error("{file}: \"{line}\" leads out of the project; a job brings only its own directory")]
    OutsideProject {
        /// The file, within the project.
        file: String,
        /// The line in it.
        line: String,
    },
    /// The requirements name files, and the caller gave no project.
    #[error("{file} names other files of the project, which are not here; submit the directory that holds them")]
    NoProjectFiles {
        /// The file.
        file: String,
    },
    /// A `pyproject.toml` whose dependencies cannot be read.
    #[error("{file}: {reason}; list the dependencies under [project], or write a requirements.txt")]
    PyProject {
        /// The file.
        file: String,
        /// In words.
        reason: String,
    },
    /// A lock of a tool that fnode does not run.
    #[error("{file} cannot be installed here; export it as requirements.txt, for example with `poetry export`")]
    Unsupported {
        /// The file.
        file: String,
    },
    /// A lock that only uv can read.
    #[error("{file} needs uv, which is not on the PATH of this node's daemon; install it (pip install uv)")]
    NeedsUv {
        /// The file.
        file: String,
    },
    /// Refused early.
    #[error("only {free} free in {dir}, an environment needs at least {DISK_MIN}; make room with fnode gc")]
    DiskFull {
        /// The directory of the environments.
        dir: String,
        /// What is left.
        free: ByteSize,
    },
    /// A tool said no.
    #[error("{tool} ended with {exit}:\n{tail}")]
    Build {
        /// As `pip install`.
        tool: &'static str,
        /// Exit code or signal.
        exit: String,
        /// The last lines of its output.
        tail: String,
    },
    /// A tool was given up.
    #[error("{tool} did not end within {minutes} minutes and was stopped; is an index out of reach?")]
    TooLong {
        /// As `pip install`.
        tool: &'static str,
        /// The limit.
        minutes: u64,
    },
    /// The disk.
    #[error("{path}: {reason}")]
    Io {
        /// File or directory.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// The build ended without a result: this node is shutting down.
    #[error("the build was interrupted; it begins again with the next attempt")]
    Interrupted,
}

impl EnvironmentError {
    pub(super) fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Io { path: path.display().to_string(), reason: error.to_string() }
    }

    /// Whether the same job may succeed later or on another node, with nothing changed by its user.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NoPython { .. }
                | Self::BrokenPython { .. }
                | Self::NeedsUv { .. }
                | Self::DiskFull { .. }
                | Self::TooLong { .. }
                | Self::Io { .. }
                | Self::Interrupted
        )
    }
}
