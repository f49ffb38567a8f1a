//! What an environment is made from: reads a requirements file, a lock or a `pyproject.toml`, with the files that
//! it names, into one form that is hashed for the key and handed to the build. Installs nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::{EnvironmentError, Kind, Wanted};

/// A requirements file lists packages by name; a lock of a large project has some 5 MB.
const FILE_MAX: u64 = 16 << 20;
/// Requirements that include each other; beyond this it is a mistake.
const INCLUDED_MAX: usize = 64;
/// A local package in a bundle; more files than this are data.
const TREE_FILES_MAX: usize = 100_000;

/// How the packages are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Install {
    /// `pip install -r FILE`, with either tool.
    Requirements,
    /// `uv pip install -r pylock.toml`: pip cannot read it yet.
    PyLock,
    /// `uv sync --frozen`.
    UvSync,
}

/// One environment's ingredients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    pub(super) install: Install,
    /// The file that the tool is given, within the project.
    pub(super) file: PathBuf,
    /// Files that the build needs, by their place in the project.
    pub(super) files: BTreeMap<PathBuf, Vec<u8>>,
    /// What of those files decides: without comments and blank lines.
    normal: BTreeMap<PathBuf, Vec<u8>>,
    /// A requirement is a path in the project, so all of it is copied, and is part of the key.
    pub(super) tree: Option<Tree>,
}

/// A whole project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    digest: blake3::Hash,
}

impl Recipe {
    /// Reads what `wanted` asks for. `None`: nothing is to be installed. Blocks.
    pub(super) fn read(wanted: &Wanted) -> Result<Option<Self>, EnvironmentError> {
        let file = inside(Path::new(&wanted.file_name)).ok_or_else(|| EnvironmentError::OutsideProject {
            file: wanted.file_name.clone(),
            line: wanted.file_name.clone(),
        })?;
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match wanted.kind {
            Kind::PyProject => from_pyproject(wanted),
            Kind::Lock if name == "uv.lock" => from_uv_lock(wanted, file).map(Some),
            Kind::Lock if name.starts_with("pylock.") => {
                Ok(Some(Self::of_one_file(Install::PyLock, file, &wanted.bytes)))
            }
            Kind::Lock if ["poetry.lock", "Pipfile.lock", "pdm.lock"].contains(&name) => {
                Err(EnvironmentError::Unsupported { file: wanted.file_name.clone() })
            }
            Kind::Lock | Kind::Requirements => from_requirements(wanted, file),
        }
    }

    /// Everything of the recipe that makes one environment differ from another.
    pub(super) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        frame(hasher, format!("{:?}", self.install).as_bytes());
        for (path, bytes) in &self.normal {
            frame(hasher, path.as_os_str().as_encoded_bytes());
            frame(hasher, bytes);
        }
        match &self.tree {
            Some(tree) => frame(hasher, tree.digest.as_bytes()),
            None => frame(hasher, b""),
        }
    }

    fn of_one_file(install: Install, file: PathBuf, bytes: &[u8]) -> Self {
        let files = BTreeMap::from([(file.clone(), bytes.to_vec())]);
        Self { install, file, normal: files.clone(), files, tree: None }
    }
}

/// Adds one field, so that no two lists of fields give the same bytes.
pub(super) fn frame(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

fn from_requirements(wanted: &Wanted, file: PathBuf) -> Result<Option<Recipe>, EnvironmentError> {
    let mut recipe = Recipe {
        install: Install::Requirements,
        file: file.clone(),
        files: BTreeMap::new(),
        normal: BTreeMap::new(),
        tree: None,
    };
    let mut needs_tree = false;
    let mut installs = false;
    let mut pending = vec![(file, wanted.bytes.clone())];
    while let Some((path, bytes)) = pending.pop() {
        if recipe.files.len() >= INCLUDED_MAX {
            return Err(EnvironmentError::TooLarge { file: wanted.file_name.clone() });
        }
        let mut lines = logical_lines(&text_of(&path, &bytes)?);
        let count = lines.len();
        if wanted.is_layered {
            lines.retain(|line| !names_foundations(line));
        }
        let normal = lines.join("\n").into_bytes();
        recipe.files.insert(path.clone(), if lines.len() < count { normal.clone() } else { bytes });
        recipe.normal.insert(path.clone(), normal);
        for line in &lines {
            match classify(line) {
                Line::Include(target) => {
                    let target = inside(&path.parent().unwrap_or(Path::new("")).join(&target))
                        .ok_or_else(|| outside(&path, line))?;
                    if !recipe.files.contains_key(&target) && pending.iter().all(|(waiting, _)| *waiting != target) {
                        let bytes = read_project_file(wanted, &target)?;
                        pending.push((target, bytes));
                    }
                }
                Line::Local => (installs, needs_tree) = (true, true),
                Line::LocalOption => needs_tree = true,
                Line::Package => installs = true,
                Line::Option => {}
            }
        }
    }
    if !installs {
        return Ok(None);
    }
    if needs_tree {
        let root = project_root(wanted)?;
        let digest = digest_tree(&root)?;
        recipe.tree = Some(Tree { root, digest });
    }
    Ok(Some(recipe))
}

/// The dependencies alone: the project itself runs from the job's own copy of the bundle, so a change of its
/// code needs no new environment. Whoever wants it installed writes `-e .` in a requirements file.
fn from_pyproject(wanted: &Wanted) -> Result<Option<Recipe>, EnvironmentError> {
    let bad = |reason: &str| EnvironmentError::PyProject { file: wanted.file_name.clone(), reason: reason.to_owned() };
    let text = text_of(Path::new(&wanted.file_name), &wanted.bytes)?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| bad(error.message()))?;
    let Some(project) = table.get("project").and_then(toml::Value::as_table) else {
        return Err(bad("it has no [project] table"));
    };
    let lists = |key: &str| project.get(key).and_then(toml::Value::as_array);
    if lists("dynamic").is_some_and(|names| names.iter().any(|name| name.as_str() == Some("dependencies"))) {
        return Err(bad("its dependencies are dynamic"));
    }
    let mut lines = Vec::new();
    for dependency in lists("dependencies").map_or(&[][..], Vec::as_slice) {
        let line = dependency.as_str().ok_or_else(|| bad("a dependency is not a text"))?.trim();
        // A line break, or a dash in front, would be read as another line or as an option.
        if line.is_empty() || line.starts_with('-') || line.chars().any(char::is_control) {
            return Err(bad("a dependency is not one requirement"));
        }
        lines.push(line.to_owned());
    }
    if lines.is_empty() {
        return Ok(None);
    }
    let bytes = (lines.join("\n") + "\n").into_bytes();
    Ok(Some(Recipe::of_one_file(Install::Requirements, PathBuf::from("pyproject-dependencies.txt"), &bytes)))
}

fn from_uv_lock(wanted: &Wanted, file: PathBuf) -> Result<Recipe, EnvironmentError> {
    let beside = file.parent().unwrap_or(Path::new("")).join("pyproject.toml");
    let bytes = read_project_file(wanted, &beside)?;
    let mut recipe = Recipe::of_one_file(Install::UvSync, file, &wanted.bytes);
    recipe.files.insert(beside.clone(), bytes.clone());
    recipe.normal.insert(beside, bytes);
    Ok(recipe)
}

enum Line {
    /// `-r` or `-c` with a file of the project.
    Include(PathBuf),
    /// A package that lies in the project.
    Local,
    /// An option that names a place in the project.
    LocalOption,
    /// Another option.
    Option,
    /// A package from an index or an address.
    Package,
}

/// Sorts one logical line. Absolute paths and addresses belong to the machine and the net: only their text counts.
fn classify(line: &str) -> Line {
    if let Some(target) = option_value(line, &["-r", "-c"], &["--requirement", "--constraint"]) {
        return if is_elsewhere(target) { Line::Package } else { Line::Include(target.into()) };
    }
    if let Some(target) = option_value(line, &["-e"], &["--editable"]) {
        return if is_elsewhere(target) { Line::Package } else { Line::Local };
    }
    if let Some(target) = option_value(line, &["-f"], &["--find-links"]) {
        return if is_elsewhere(target) { Line::Option } else { Line::LocalOption };
    }
    if line.starts_with('-') {
        return Line::Option;
    }
    // `name @ address ; marker`, or a path with a slash, or an archive beside the file.
    let target = line.split_once(" @ ").map_or(line, |(_, target)| target).trim();
    let target = target.split([';', ' ', '[']).next().unwrap_or_default();
    let archive = [".whl", ".zip", ".tar.gz", ".tar.bz2", ".tgz"].iter().any(|end| target.ends_with(end));
    let path = target.contains('/') || archive || target.starts_with('.') || target.starts_with("file:");
    if path && !is_elsewhere(target) { Line::Local } else { Line::Package }
}

/// The package that nodes bring themselves, in one of the names and parts that it was installed as. An index that has
/// none of these, or something else of that name, must not keep a project from its other requirements.
fn names_foundations(line: &str) -> bool {
    const PARTS: [&str; 8] = ["contrib", "core", "events", "internal", "orbit", "sdk", "atlas-cli", "spec"];
    let line = line.to_lowercase().replace('_', "-");
    let ends = |c: char| !(c.is_alphanumeric() || c == '-' || c == '.');
    let name = line.split(ends).next().unwrap_or_default();
    let part = name.strip_prefix("foundations-").is_some_and(|part| PARTS.contains(&part));
    name == "foundations" || part || line.contains("dessa-foundations")
}

/// An absolute path or an address; `file:x` without a slash in front is relative to the project.
fn is_elsewhere(target: &str) -> bool {
    if let Some(path) = target.strip_prefix("file:") {
        return path.starts_with('/');
    }
    let is_scheme = |scheme: &str| scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    target.starts_with('/') || target.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme))
}

/// The value of an option in any of its spellings: `-r x`, `-rx`, `--long x`, `--long=x`.
fn option_value<'a>(line: &'a str, short: &[&str], long: &[&str]) -> Option<&'a str> {
    let long = long.iter().find_map(|name| line.strip_prefix(name).filter(|rest| rest.starts_with(['=', ' ', '\t'])));
    let short = short.iter().find_map(|name| line.strip_prefix(name).filter(|_| !line.starts_with("--")));
    let value = long.or(short)?.trim_start_matches('=').trim();
    Some(value.trim_matches(['"', '\'']))
}

/// The lines as pip reads them: continued lines joined, comments and blank lines gone, ends trimmed.
pub(super) fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut joined = String::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        // A comment ends a continued line, as in pip.
        let is_comment = line.trim_start().starts_with('#');
        if let (Some(continued), false) = (line.strip_suffix('\\'), is_comment) {
            joined.push_str(continued);
            continue;
        }
        if !is_comment {
            joined.push_str(line);
        }
        lines.push(std::mem::take(&mut joined));
    }
    lines.push(joined);
    lines.iter().map(|line| without_comment(line).trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// A `#` begins a comment at the start or after a space; in an address (`…#egg=name`) it does not.
fn without_comment(line: &str) -> &str {
    let start = line.match_indices('#').find(|(at, _)| line[..*at].chars().next_back().is_none_or(char::is_whitespace));
    start.map_or(line, |(at, _)| &line[..at])
}

/// `path` without `.` and `..`; `None` when it is absolute or leaves the project.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut kept = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => kept.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !kept.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!kept.as_os_str().is_empty()).then_some(kept)
}

fn outside(file: &Path, line: &str) -> EnvironmentError {
    EnvironmentError::OutsideProject { file: file.display().to_string(), line: line.to_owned() }
}

fn project_root(wanted: &Wanted) -> Result<PathBuf, EnvironmentError> {
    wanted.project_files.clone().ok_or_else(|| EnvironmentError::NoProjectFiles { file: wanted.file_name.clone() })
}

fn read_project_file(wanted: &Wanted, path: &Path) -> Result<Vec<u8>, EnvironmentError> {
    let root = project_root(wanted)?;
    let whole = root.join(path);
    let fail = |error: std::io::Error| EnvironmentError::io(&whole, &error);
    // A link of the bundle may lead anywhere on this machine.
    let real = fs::canonicalize(&whole).map_err(fail)?;
    if !real.starts_with(fs::canonicalize(&root).map_err(fail)?) {
        return Err(outside(Path::new(&wanted.file_name), &path.display().to_string()));
    }
    let mut bytes = Vec::new();
    fs::File::open(&real).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes)).map_err(fail)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(EnvironmentError::TooLarge { file: path.display().to_string() });
    }
    Ok(bytes)
}

fn text_of(path: &Path, bytes: &[u8]) -> Result<String, EnvironmentError> {
    let file = path.display().to_string();
    if bytes.len() as u64 > FILE_MAX {
        return Err(EnvironmentError::TooLarge { file });
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(EnvironmentError::NotText { file }),
    }
}

/// One hash over names, kinds and contents, in the order of names.
fn digest_tree(root: &Path) -> Result<blake3::Hash, EnvironmentError> {
    let mut hasher = blake3::Hasher::new();
    for path in tree_files(root)? {
        let whole = root.join(&path);
        frame(&mut hasher, path.as_os_str().as_encoded_bytes());
        let fail = |error: std::io::Error| EnvironmentError::io(&whole, &error);
        if whole.is_symlink() {
            frame(&mut hasher, fs::read_link(&whole).map_err(fail)?.as_os_str().as_encoded_bytes());
        } else {
            let mut contents = blake3::Hasher::new();
            contents.update_reader(fs::File::open(&whole).map_err(fail)?).map_err(fail)?;
            frame(&mut hasher, contents.finalize().as_bytes());
        }
    }
    Ok(hasher.finalize())
}

/// Every file and link below `root`, relative and in order; directories only as parts of paths.
pub(super) fn tree_files(root: &Path) -> Result<Vec<PathBuf>, EnvironmentError> {
    let mut files = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        let whole = root.join(&dir);
        let fail = |error: std::io::Error| EnvironmentError::io(&whole, &error);
        for entry in fs::read_dir(&whole).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let kind = entry.file_type().map_err(fail)?;
            let path = dir.join(entry.file_name());
            if kind.is_dir() {
                pending.push(path);
            } else if kind.is_file() || kind.is_symlink() {
                files.push(path);
            }
            if files.len() > TREE_FILES_MAX {
                return Err(EnvironmentError::TooLarge { file: root.display().to_string() });
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
#[path = "recipe_tests.rs"]
mod tests;
