//! What can be checked of the shape of the source: arrows between folders, lengths, headers, and that our documents
//! name only what exists. Prose that names symbols drifts even in the best projects.
//! (tigerbeetle `src/tidy.zig`, rust-analyzer `xtask/src/tidy.rs`.)

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, without the tests at its end.
const FILE_LINES_MAX: usize = 600;
/// Longest function: a screen.
const FUNCTION_LINES_MAX: usize = 70;

/// Files that may be longer, with the reason.
const LONG_FILES: &[(&str, &str)] =
    &[("node/src/node/actor.rs", "the one loop: an arm for everything that can happen")];

/// Functions that may be longer: file, name, reason.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[
    ("node/src/net/start.rs", "start", "wires the parts of the swarm together, one after the other"),
    ("node/src/node/start.rs", "begin", "starts the shells in the order in which they need each other"),
];

/// Arrows between folders that are there for a reason: from, to, why.
const ARROWS: &[(&str, &str, &str)] = &[
    ("doctor", "exec", "what a machine lacks is told from its inventory"),
    ("http", "blobs", "handlers pack and stream files without a detour through the loop"),
    ("http", "exec", "one answer runs a command of the inventory"),
    ("http", "objects", "an end point is checked where it is submitted"),
    ("http", "store", "the filters and summaries of listings are the store's words"),
];

/// Shells of `node`: they know `proto`, not each other.
const SHELLS: [&str; 6] = ["net", "store", "blobs", "exec", "http", "objects"];

/// One of our source files.
struct Source {
    /// Relative to the workspace, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The file without its tests: those begin with the first `#[cfg(test)]` in the first column.
    fn body(&self) -> &str {
        self.text.split("\n#[cfg(test)]").next().unwrap_or_default()
    }

    /// Lines that are neither comments nor attributes.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.body().lines().enumerate().map(|(at, line)| (at + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace has a root").to_owned()
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for folder in ["proto", "node", "cluster-tests"] {
        collect(&root().join(folder), &mut files);
    }
    files.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let relative = path.strip_prefix(root()).expect("found below the root").to_string_lossy().replace('\\', "/");
        Source { path: relative, text }
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a folder that was just listed can be read").path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// Words of `line` that are identifiers.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[test]
fn proto_depends_on_no_shell() {
    let manifest = fs::read_to_string(root().join("proto/Cargo.toml")).expect("proto has a manifest");
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
    let banned = ["tokio", "libp2p", "sled", "rustix", "tracing", "axum", "hyper", "async", "futures", "node"];
    let found: Vec<String> = dependencies
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter(|line| banned.iter().any(|name| line.trim_start().starts_with(name)))
        .map(str::to_owned)
        .collect();
    assert_none("proto must stay pure; it depends on", &found);
}

#[test]
fn proto_asks_no_clock_and_touches_nothing() {
    let banned = [
        "Instant",
        "SystemTime",
        "std::net",
        "std::fs",
        "std::process",
        "std::thread",
        "std::env",
        "HashMap",
        "HashSet",
        "println!",
        "eprintln!",
        "rand::rng(",
        "thread_rng",
    ];
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("proto/src/")) {
        for (at, line) in source.code() {
            for name in banned.iter().filter(|name| line.contains(**name)) {
                found.push(format!("{}:{at}: {name}", source.path));
            }
        }
    }
    assert_none(
        "proto has no clock, no chance of its own, no order that differs per process, no input or output",
        &found,
    );
}

#[test]
fn folders_of_node_know_only_what_they_may() {
    let mut found = Vec::new();
    for source in &sources() {
        let Some(inside) = source.path.strip_prefix("node/src/") else { continue };
        let home = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        for (at, line) in source.code() {
            for other in named_folders(line) {
                let shell_to_shell =
                    SHELLS.contains(&home) && other != home && (SHELLS.contains(&other) || other == "cli");
                let past_the_loop = !SHELLS.contains(&home)
                    && !["node", "cli", "main", "lib"].contains(&home)
                    && SHELLS.contains(&other);
                let listed = ARROWS.iter().any(|(from, to, _)| (*from, *to) == (home, other));
                if (shell_to_shell || past_the_loop) && !listed {
                    found.push(format!("{}:{at}: {home} imports {other}", source.path));
                }
            }
        }
    }
    assert_none("one direction only: cli → node → {net, store, blobs, exec, http} → proto", &found);
}

/// Folders of `node/src` that a line names with `crate::`.
fn named_folders(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).filter_map(|rest| words(rest).next())
}

#[test]
fn files_and_functions_fit() {
    let mut found = Vec::new();
    for source in &sources() {
        let lines = source.body().lines().count();
        let is_test = source.path.contains("/tests/") || source.path.ends_with("_tests.rs");
        if lines > FILE_LINES_MAX && !is_test && !LONG_FILES.iter().any(|(path, _)| *path == source.path) {
            found.push(format!("{}: {lines} lines, more than {FILE_LINES_MAX}", source.path));
        }
        for (name, at, lines) in functions(&source.text) {
            let excused = LONG_FUNCTIONS.iter().any(|(path, long, _)| *path == source.path && *long == name);
            if lines > FUNCTION_LINES_MAX && !excused {
                found
                    .push(format!("{}:{at}: fn {name} has {lines} lines, more than {FUNCTION_LINES_MAX}", source.path));
            }
        }
    }
    assert_none("too long (list an exception with its reason in tidy.rs)", &found);
}

/// Every function with its name, first line and number of lines. Relies on rustfmt: a body ends with a brace as
/// far indented as its `fn`.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(name) = code
            .find("fn ")
            .filter(|&fn_at| is_signature(&code[..fn_at]))
            .and_then(|fn_at| words(&code[fn_at + 3..]).next())
        else {
            continue;
        };
        // A method that a trait only asks for has no body.
        let end = lines[at..].iter().find(|line| line.ends_with('{') || line.ends_with(';') || line.ends_with('}'));
        if end.is_none_or(|end| end.ends_with(';')) {
            continue;
        }
        let indent = line.len() - code.len();
        let closing = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[at..].iter().position(|line| *line == closing) {
            found.push((name.to_owned(), at + 1, length + 1));
        }
    }
    found
}

/// Whether `before` is what may stand before `fn`.
fn is_signature(before: &str) -> bool {
    let allowed = ["pub", "crate", "super", "const", "async", "unsafe", "extern", "in"];
    !before.contains("//") && words(before).all(|word| allowed.contains(&word)) && !before.contains('"')
}

#[test]
fn nothing_unfinished_is_left() {
    let todo = concat!("todo", "!(");
    let dbg = concat!("dbg", "!(");
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut found = Vec::new();
    for source in &sources() {
        for (at, line) in source.text.lines().enumerate() {
            if line.contains(todo) || line.contains(dbg) || words(line).any(|word| notes.contains(&word)) {
                found.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    assert_none("unfinished", &found);
}

#[test]
fn every_file_says_what_it_is() {
    let missing: Vec<String> =
        sources().into_iter().filter(|source| !source.text.starts_with("//!")).map(|source| source.path).collect();
    assert_none("no `//!` header (what it owns, who calls it, what it never does)", &missing);
}

#[test]
fn architecture_names_only_what_exists() {
    let path = root().join("ARCHITECTURE.md");
    let Ok(text) = fs::read_to_string(&path) else {
        println!("skipped: {} is not there yet", path.display());
        return;
    };
    let sources = sources();
    let known: BTreeSet<&str> = sources.iter().flat_map(|source| words(&source.text)).collect();
    let missing: Vec<String> = quoted(&text).into_iter().filter(|name| !exists(name, &known)).collect();
    assert_none("ARCHITECTURE.md names what is not there", &missing);
}

/// What stands between backticks, outside of fenced blocks.
fn quoted(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// Paths must exist; names of types and functions must occur in the source. Commands, formats and values are prose.
fn exists(name: &str, known: &BTreeSet<&str>) -> bool {
    let is_path =
        ["proto/", "node/", "cluster-tests/", "scripts/", "docs/"].iter().any(|folder| name.starts_with(folder));
    if is_path && !name.contains(['*', '<', '{', ' ']) {
        return root().join(name).exists();
    }
    let symbol = name.trim_end_matches("()");
    let is_symbol = symbol.contains("::") && symbol.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':');
    let ours = !["std::", "tokio::", "libp2p::", "core::net"].iter().any(|foreign| symbol.starts_with(foreign));
    !(is_symbol && ours) || words(symbol).all(|word| known.contains(word))
}

#[test]
fn the_checks_themselves_see_what_they_should() {
    let text = "fn long() {\n    let x = 1;\n}\n\nimpl A {\n    pub(crate) async fn b(&self) {\n    }\n}\n";
    assert_eq!(functions(text), [("long".to_owned(), 1, 3), ("b".to_owned(), 6, 2)]);
    assert_eq!(
        named_folders("use crate::store::Journal; let x = crate::net::y();").collect::<Vec<_>>(),
        ["store", "net"]
    );
    assert_eq!(quoted("a `b::c` d\n```\n`no`\n```\n`proto/src`"), ["b::c", "proto/src"]);
    let known = BTreeSet::from(["Core", "step"]);
    assert!(exists("Core::step", &known) && exists("fnode start", &known) && exists("proto/src", &known));
    assert!(!exists("Core::leap", &known) && !exists("proto/src/nothing.rs", &known));
}
