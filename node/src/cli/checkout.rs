//! The git checkout that a submitted directory lies in, as `git` itself tells it: commit, branch, remote, uncommitted
//! changes. Called by `submit.rs` beside the packing. A git that is absent, slow or refuses costs the record of it and
//! nothing else: all of its answers together have [`GIT_MAX`].

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use proto::Manifest;
use proto::job::CHECKOUT_TEXT_MAX;

use crate::exec::inventory::command::{self, OUTPUT_MAX};
use crate::http::words::record::CheckoutWord;

/// A submission waits no longer for git.
const GIT_MAX: Duration = Duration::from_secs(1);
/// Where the uncommitted changes lie in the bundle: they are held, kept and collected with the code.
pub(super) const DIFF_FILE: &str = ".fnode.diff";

/// What git said.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) word: CheckoutWord,
    /// Changes of files that the commit has, at most [`OUTPUT_MAX`] bytes.
    diff: String,
    is_cut: bool,
    /// Files that the commit has not.
    untracked: Vec<String>,
    /// Files of the commit that `.fnodeignore` keeps at home; `None`: not told.
    stays: Option<BTreeSet<String>>,
}

/// Asks git about `dir`, in threads of their own; the answer is `None` outside of a checkout.
pub(super) fn begin(dir: &Path) -> JoinHandle<Option<Looked>> {
    let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    std::thread::spawn(move || look(&dir))
}

fn look(dir: &Path) -> Option<Looked> {
    // Most directories are none: those cost no process.
    if !dir.ancestors().any(|dir| dir.join(".git").exists()) {
        return None;
    }
    std::thread::scope(|scope| {
        let aside = |words: &'static [&'static str]| scope.spawn(move || git(dir, words));
        let untracked = aside(&["ls-files", "-z", "--others", "--exclude-standard"]);
        // In the syntax of git: of what stays at home, not even a deletion tells the contents.
        let stays = aside(&["ls-files", "-z", "--cached", "--ignored", "--exclude-per-directory=.fnodeignore"]);
        let config = aside(&["config", "--get-regexp", r"^(remote\.origin\.url|user\.name|user\.email)$"]);
        let diff = aside(&[
            "diff",
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "--no-renames",
            // Whole, so that it can be applied.
            "--binary",
            "--src-prefix=a/",
            "--dst-prefix=b/",
            "--relative",
            "HEAD",
            "--",
            ".",
        ]);
        let head = git(dir, &["rev-parse", "HEAD", "--abbrev-ref", "HEAD"])?;
        let mut lines = head.lines();
        let (commit, branch) = (lines.next()?, lines.next().unwrap_or_default());
        let untracked = untracked.join().ok().flatten();
        let stays = stays.join().ok().flatten();
        let config = config.join().ok().flatten().unwrap_or_default();
        let diff = diff.join().ok().flatten();
        let is_unknown = diff.is_none() || untracked.is_none();
        let diff = diff.unwrap_or_default();
        let word = CheckoutWord {
            commit: bounded(commit),
            branch: if branch == "HEAD" { String::new() } else { bounded(branch) },
            remote: bounded(&without_password(setting(&config, "remote.origin.url"))),
            author: bounded(&author(setting(&config, "user.name"), setting(&config, "user.email"))),
            // What could not be told in time is not called clean; the rest is known with what travels.
            is_dirty: is_unknown,
            diff: None,
        };
        let untracked = names(&untracked.unwrap_or_default()).collect();
        let stays = stays.map(|stays| names(&stays).collect());
        Some(Looked { word, is_cut: diff.len() as u64 >= OUTPUT_MAX, diff, untracked, stays })
    })
}

/// Names as `-z` has them.
fn names(text: &str) -> impl Iterator<Item = String> {
    text.split('\0').filter(|name| !name.is_empty()).map(str::to_owned)
}

/// What git prints; `None`: it failed, or took too long.
fn git(dir: &Path, words: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // Nothing is written, nobody is asked, and no helper of the repository is run.
    command.args(["-c", "core.fsmonitor=false", "-c", "core.quotepath=off"]).args(words).current_dir(dir);
    command.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
    command::run(&mut command, GIT_MAX).ok()?.success()
}

fn setting<'a>(config: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(' ');
    config.lines().filter_map(value).next_back().unwrap_or_default()
}

fn author(name: &str, email: &str) -> String {
    match (name, email) {
        (name, "") => name.to_owned(),
        (name, email) => format!("{name} <{email}>").trim_start().to_owned(),
    }
}

/// An address without the user and token that some put into it: the record is seen by the whole lab.
fn without_password(remote: &str) -> String {
    let Some((scheme, rest)) = remote.split_once("://") else { return remote.to_owned() };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// One line that fits.
fn bounded(text: &str) -> String {
    let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
    let end = (0..=CHECKOUT_TEXT_MAX.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text[..end].to_owned()
}

impl Looked {
    /// The changes of files that travel in the bundle, with whether there are more. What `.fnodeignore` keeps at home
    /// is not told either.
    pub(super) fn diff_of(&self, manifest: &Manifest) -> Option<(String, bool)> {
        let stays = |path: &str| self.stays.as_ref().is_none_or(|stays| stays.contains(path));
        let diff =
            only(&self.diff, |path, is_deletion| if is_deletion { !stays(path) } else { travels(manifest, path) });
        (!diff.is_empty()).then_some((diff, self.is_cut))
    }

    /// Whether a file of the bundle is in no commit.
    pub(super) fn has_new_files(&self, manifest: &Manifest) -> bool {
        self.untracked.iter().any(|path| travels(manifest, path))
    }
}

fn travels(manifest: &Manifest, path: &str) -> bool {
    manifest.files.binary_search_by(|file| file.path.as_str().cmp(path)).is_ok()
}

/// The sections of `diff` that are wanted, by their file and whether it is gone.
fn only(diff: &str, is_wanted: impl Fn(&str, bool) -> bool) -> String {
    let mut kept = String::new();
    let starts = diff.match_indices("diff --git ").map(|(at, _)| at);
    let starts: Vec<usize> = starts.filter(|&at| at == 0 || diff.as_bytes()[at - 1] == b'\n').collect();
    for (index, &start) in starts.iter().enumerate() {
        let section = &diff[start..starts.get(index + 1).copied().unwrap_or(diff.len())];
        let is_deletion = section.lines().nth(1).is_some_and(|line| line.starts_with("deleted file mode"));
        if path_of(section).is_some_and(|path| is_wanted(path, is_deletion)) {
            kept.push_str(section);
        }
    }
    kept
}

/// The file that a section is about; `None` for names that git has to quote.
fn path_of(section: &str) -> Option<&str> {
    // `a/PATH b/PATH`: without renames both are the same.
    let names = section.lines().next()?.strip_prefix("diff --git a/")?;
    let path = names.get(..names.len().checked_sub(3)? / 2)?;
    (names.get(path.len()..)?.strip_prefix(" b/")? == path).then_some(path)
}

#[cfg(test)]
mod tests {
    use proto::ManifestFile;
    use proto::blob::FileKind;

    use super::*;

    #[test]
    fn an_address_loses_user_and_token_and_nothing_else() {
        for (remote, shown) in [
            ("https://ada:s3cret@git.example.org:8443/a/b.git", "https://git.example.org:8443/a/b.git"),
            ("https://token@host/a@b", "https://host/a@b"),
            ("https://host/a.git?private_token=x", "https://host/a.git"),
            ("git@host:a/b.git", "git@host:a/b.git"),
            ("/srv/git/a", "/srv/git/a"),
        ] {
            assert_eq!(without_password(remote), shown);
        }
    }

    #[test]
    fn only_changes_of_files_that_travel_are_told() {
        let section = |path: &str, rest: &str| format!("diff --git a/{path} b/{path}\n{rest}\n+diff --git a/x b/x\n");
        let (code, secret) = (section("a b/train.py", "index 1..2"), section("secret.env", "index 1..2"));
        let gone = section("old.py", "deleted file mode 100644");
        let diff = format!("{code}{secret}{gone}{}", section("token.txt", "deleted file mode 100644"));
        let file = ManifestFile { path: "a b/train.py".to_owned(), kind: FileKind::EmptyDirectory };
        let stays = BTreeSet::from(["token.txt".to_owned()]);
        let looked = Looked { diff, stays: Some(stays), untracked: vec!["a b/new.py".to_owned()], ..Looked::default() };
        let manifest = Manifest { files: vec![file], ..Manifest::default() };
        assert_eq!(looked.diff_of(&manifest), Some((format!("{code}{gone}"), false)));
        assert!(!looked.has_new_files(&manifest), "a new file that stays at home is none");
        let untold = Looked { diff: format!("{secret}{gone}"), ..Looked::default() };
        assert_eq!(untold.diff_of(&manifest), None, "what stays is not known: no contents of what is gone");
        let none = Looked { diff: secret, ..Looked::default() };
        assert_eq!(none.diff_of(&manifest), None);
        assert_eq!(only("diff --git \"a/\\\"\" \"b/\\\"\"\nindex", |_, _| true), "");
    }

    #[test]
    fn what_git_says_fits_one_line() {
        let config = "remote.origin.url https://x/y\nuser.name Ada L\nuser.email ada@x\n";
        let (name, email) = (setting(config, "user.name"), setting(config, "user.email"));
        assert_eq!(author(name, email), "Ada L <ada@x>");
        assert_eq!((author("", "ada@x"), author("Ada", "")), ("<ada@x>".to_owned(), "Ada".to_owned()));
        assert_eq!(bounded(" a\nb "), "ab");
        assert_eq!(bounded(&"ä".repeat(CHECKOUT_TEXT_MAX)).len(), CHECKOUT_TEXT_MAX);
    }
}
