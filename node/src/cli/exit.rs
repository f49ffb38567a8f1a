//! How the program ends: one enum for its exit codes.

/// What the program's exit status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: it could not be done, or the job that was waited for failed.
    Failed,
    /// 2: used wrongly; nothing was tried.
    Usage,
    /// 130: ended by Ctrl-C.
    Interrupted,
    /// The job's own code (`--propagate`).
    Job(u8),
}

impl Exit {
    /// The status.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Interrupted => 130,
            Self::Job(code) => code,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
