//! What a job is made of and ran with, as the API names it: recorded for every job, without being asked.

use proto::ContentId;
use proto::job::{CHECKOUT_TEXT_MAX, Checkout, Diff};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::error::ErrorWord;
use crate::node::RanWith;

/// A commit has 40 or 64 hex digits.
const COMMIT_MAX: usize = 64;

/// The git checkout that a job was submitted from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckoutWord {
    /// The commit, in hex.
    pub commit: String,
    /// The branch; empty: none is checked out.
    #[serde(default)]
    pub branch: String,
    /// Address of the remote `origin`, without user and password; empty: there is none.
    #[serde(default)]
    pub remote: String,
    /// Who would commit, as `Ada <ada@example.org>`.
    #[serde(default)]
    pub author: String,
    /// Whether the directory has changes that the commit lacks, new files included.
    #[serde(default)]
    pub is_dirty: bool,
    /// Uncommitted changes; `GET /jobs/{id}/diff` gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<DiffWord>,
}

/// Uncommitted changes, as `git diff` prints them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiffWord {
    /// Content id of the file of the bundle that holds them; empty: they are in the job's own record.
    pub content: String,
    /// Length in bytes.
    pub size: u64,
    /// Whether there are more changes than it holds.
    #[serde(default)]
    pub is_cut: bool,
}

/// What is recorded of a job beside what it told; in lists when `record` asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RecordedWord {
    /// The git checkout that it was submitted from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkout: Option<CheckoutWord>,
    /// Machine, graphics processors and packages of the attempt that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ran_with: Option<RanWith>,
    /// CPU time used.
    pub cpu_ms: u64,
    /// Largest resident set.
    pub memory_max_bytes: u64,
    /// Parameters that it was submitted with, JSON text; empty: none.
    pub params_json: String,
    /// Content id of its bundle's manifest; empty: none.
    pub bundle: String,
    /// Free text.
    pub note: String,
}

impl CheckoutWord {
    /// As it goes into the log.
    ///
    /// # Errors
    /// Texts that git cannot have told.
    pub fn to_spec(&self) -> Result<Checkout, ErrorWord> {
        let refuse = |what: &str| Err(ErrorWord::bad_input(format!("the checkout's {what}"), "leave out the checkout"));
        let is_hex = self.commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || !(4..=COMMIT_MAX).contains(&self.commit.len()) {
            return refuse("commit is no hash");
        }
        for text in [&self.branch, &self.remote, &self.author] {
            if text.len() > CHECKOUT_TEXT_MAX || text.chars().any(char::is_control) {
                return refuse("texts are too long, or hold control characters");
            }
        }
        let diff = match &self.diff {
            None => None,
            Some(diff) => match diff.content.parse::<ContentId>() {
                Ok(content) => Some(Diff { content, size: diff.size, is_cut: diff.is_cut }),
                Err(_) => return refuse("diff is named by no content id"),
            },
        };
        Ok(Checkout {
            commit: self.commit.clone(),
            branch: self.branch.clone(),
            remote: self.remote.clone(),
            author: self.author.clone(),
            is_dirty: self.is_dirty,
            diff,
        })
    }

    /// What a script that was started by hand said of its checkout in its own record.
    #[must_use]
    pub fn of_record(record: &Value) -> Option<Self> {
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let commit = text("git_commit");
        let diff = record_diff(record);
        (!commit.is_empty()).then(|| Self {
            commit,
            branch: text("git_branch"),
            remote: text("git_remote"),
            author: String::new(),
            is_dirty: !diff.is_empty(),
            diff: (!diff.is_empty()).then(|| DiffWord {
                content: String::new(),
                size: diff.len() as u64,
                is_cut: record.get("git_diff_truncated") == Some(&Value::Bool(true)),
            }),
        })
    }
}

/// The uncommitted changes in a job's own record; empty: none.
#[must_use]
pub fn record_diff(record: &Value) -> &str {
    record.get("git_diff").and_then(Value::as_str).unwrap_or_default()
}

impl From<&Checkout> for CheckoutWord {
    fn from(checkout: &Checkout) -> Self {
        let diff = |diff: Diff| DiffWord { content: diff.content.to_string(), size: diff.size, is_cut: diff.is_cut };
        Self {
            commit: checkout.commit.clone(),
            branch: checkout.branch.clone(),
            remote: checkout.remote.clone(),
            author: checkout.author.clone(),
            is_dirty: checkout.is_dirty,
            diff: checkout.diff.map(diff),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_cannot_have_told_is_refused() {
        let good = CheckoutWord { commit: "8f3c1e".to_owned(), branch: "main".to_owned(), ..CheckoutWord::default() };
        assert_eq!(CheckoutWord::from(&good.to_spec().unwrap()), good);
        let diff = |content: &str| Some(DiffWord { content: content.to_owned(), ..DiffWord::default() });
        for bad in [
            CheckoutWord { commit: "main".to_owned(), ..good.clone() },
            CheckoutWord { commit: String::new(), ..good.clone() },
            CheckoutWord { branch: "a\nb".to_owned(), ..good.clone() },
            CheckoutWord { remote: "x".repeat(CHECKOUT_TEXT_MAX + 1), ..good.clone() },
            CheckoutWord { diff: diff("7"), ..good.clone() },
        ] {
            assert!(bad.to_spec().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_script_tells_of_its_own_checkout() {
        let record = serde_json::json!({"git_commit": "8f3c", "git_branch": "main", "git_diff": "+1", "argv": []});
        let word = CheckoutWord::of_record(&record).unwrap();
        assert_eq!((word.branch.as_str(), word.is_dirty, word.diff.unwrap().size), ("main", true, 2));
        assert_eq!(CheckoutWord::of_record(&serde_json::json!({"argv": []})), None);
    }
}
