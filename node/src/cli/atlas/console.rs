//! Lines as Foundations wrote them to standard output, where its users' tools look for them.

use crate::cli::output::write_out;

/// What is printed, by `FOUNDATIONS_LOG_LEVEL` and `--debug`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    least: Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Debug,
    Info,
    Warning,
    Error,
    /// Words that are no level silence, as they did.
    Silent,
}

impl Console {
    /// As the process was started.
    pub(crate) fn new(debug: bool) -> Self {
        let word = std::env::var("FOUNDATIONS_LOG_LEVEL").unwrap_or_default();
        let least = match word.to_ascii_uppercase().as_str() {
            _ if debug => Level::Debug,
            "" | "INFO" => Level::Info,
            "DEBUG" => Level::Debug,
            "WARNING" => Level::Warning,
            "ERROR" => Level::Error,
            _ => Level::Silent,
        };
        Self { least }
    }

    /// One line of the story.
    pub(crate) fn info(self, text: &str) {
        self.say(Level::Info, "INFO", text);
    }

    /// Something that the user may have wanted otherwise.
    pub(crate) fn warning(self, text: &str) {
        self.say(Level::Warning, "WARNING", text);
    }

    /// More than most want to know.
    pub(crate) fn debug(self, text: &str) {
        self.say(Level::Debug, "DEBUG", text);
    }

    fn say(self, level: Level, word: &str, text: &str) {
        if level >= self.least {
            // A reader that has gone is no reason to give up a submission.
            let _ = write_out(format!("Foundations {word}: {text}\n").as_bytes());
        }
    }
}
