//! What a command of `fnode` printed, and how it ended.

use std::process::Output as Finished;

use serde_json::Value;

/// A command that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// The command line, for failures.
    pub(crate) command: String,
    /// Its exit code; 124: it was killed for taking too long.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Output {
    pub(crate) fn new(command: String, finished: &Finished) -> Self {
        Self {
            command,
            code: finished.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&finished.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&finished.stderr).into_owned(),
        }
    }

    /// Itself, if it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{} failed: {}{}", self.command, self.stderr, self.stdout);
        self
    }

    /// The one JSON value that it printed.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("{} printed no JSON ({error}): {}{}", self.command, self.stdout, self.stderr),
        }
    }

    /// Checks that it was refused as users are: exit code 1 or 2, nothing on standard output, and one line on
    /// standard error that holds each of `parts`.
    #[track_caller]
    pub(crate) fn refused(&self, parts: &[&str]) {
        assert!(matches!(self.code, 1 | 2), "{self:?} should have been refused");
        assert_eq!(self.stdout, "", "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?} should say one line");
        assert!(self.stderr.starts_with("fnode: "), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{:?} does not say {part:?}", self.stderr);
        }
    }
}

/// `value[key]` as text; empty when it is not there.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The name of the node in `value[key]`; empty when there is none.
pub(crate) fn node_name<'a>(value: &'a Value, key: &str) -> &'a str {
    text(&value[key], "name")
}

/// The elements of `value[key]`; none when it is not there.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}
