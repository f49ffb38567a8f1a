//! Which types of a crate are stored or sent, read from its source: what is missing among the golden files is
//! found without anybody having to remember it. Relies on rustfmt, as `cluster-tests/tests/tidy.rs` does.

use std::fs;
use std::path::Path;

/// A type with `Serialize` among its derives.
pub(crate) struct Serialized {
    /// Relative to the crate's `src`.
    pub(crate) file: String,
    pub(crate) name: String,
    /// Empty for a struct.
    pub(crate) variants: Vec<String>,
    /// Whether it has an envelope of its own.
    pub(crate) is_word: bool,
}

/// All of them, in this crate's source.
pub(crate) fn serialized() -> Vec<Serialized> {
    let mut found = Vec::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    visit(&source, &mut |path| {
        let text = fs::read_to_string(path).expect("source files are texts");
        let text = text.split("\n#[cfg(test)]").next().unwrap_or_default();
        let file = path.strip_prefix(&source).expect("found below it").to_string_lossy().into_owned();
        found.extend(types_of(&file, text));
    });
    assert!(!found.is_empty(), "no serialized type was found: the scan reads the source wrongly");
    found
}

/// Those of `types` that no golden file of `files` (name and text) shows: a struct by its name in some sample, an
/// enum by a section or a file for each variant, in files that have its name between dots.
pub(crate) fn missing(types: &[Serialized], files: &[(String, String)], excused: &[(&str, &str)]) -> Vec<String> {
    let all: String = files.iter().map(|(_, text)| text.as_str()).collect();
    let mut missing = Vec::new();
    for Serialized { file, name, variants, is_word } in types {
        if excused.iter().any(|(excused, _)| excused == name) {
            continue;
        }
        let own: Vec<_> = files.iter().filter(|(word, _)| word.split('.').any(|part| part == name)).collect();
        if (variants.is_empty() && !names(&all, name)) || (*is_word && own.is_empty()) {
            missing.push(format!("{name} of {file}"));
        }
        let has = |variant: &str| {
            let section = format!("\n== {variant}\n");
            own.iter().any(|(word, text)| word.ends_with(&format!(".{variant}")) || text.contains(&section))
        };
        missing.extend(variants.iter().filter(|variant| !has(variant)).map(|it| format!("{name}::{it} of {file}")));
    }
    missing
}

/// Whether `text` has `name` as a word of its own.
pub(crate) fn names(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}

fn visit(folder: &Path, each: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("a crate has a source folder") {
        let path = entry.expect("a folder that was just listed can be read").path();
        if path.is_dir() {
            visit(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&path);
        }
    }
}

fn types_of(file: &str, text: &str) -> Vec<Serialized> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if !line.starts_with("#[derive(") || !names(line, "Serialize") {
            continue;
        }
        let Some((head, begin)) = lines[at..].iter().enumerate().find_map(|(after, line)| {
            let is_type = !line.starts_with("//") && (names(line, "struct") || names(line, "enum"));
            is_type.then_some((*line, at + after))
        }) else {
            continue;
        };
        let mut words = head.split(|c: char| !c.is_alphanumeric() && c != '_');
        let Some(kind) = words.find(|word| ["struct", "enum"].contains(word)) else { continue };
        let Some(name) = words.find(|word| !word.is_empty()) else { continue };
        let body = lines[begin + 1..].iter().take_while(|line| !line.starts_with('}'));
        let variants = if kind == "enum" { body.filter_map(|line| variant(line)).collect() } else { Vec::new() };
        let is_word = text.contains(&format!("impl Word for {name} "));
        found.push(Serialized { file: file.to_owned(), name: name.to_owned(), variants, is_word });
    }
    found
}

/// The variant that a line of an enum begins.
fn variant(line: &str) -> Option<String> {
    let code = line.strip_prefix("    ").filter(|code| code.starts_with(|c: char| c.is_ascii_uppercase()))?;
    code.split(|c: char| !c.is_alphanumeric()).next().map(str::to_owned)
}

#[test]
fn the_scan_sees_types_and_variants() {
    let text = "#[derive(Clone, Serialize)]\n/// Doc of an enum.\npub enum A {\n    /// Doc.\n    B(u8),\n    C {\n        \
                /// Doc.\n        d: u8,\n    },\n}\n\n#[derive(Serialize, Debug)]\npub(crate) struct E(u8);\n\
                impl Word for E {\n}\n#[derive(Debug)]\nstruct F;\n";
    let found: Vec<(String, Vec<String>, bool)> =
        types_of("a.rs", text).into_iter().map(|found| (found.name, found.variants, found.is_word)).collect();
    assert_eq!(
        found,
        [("A".to_owned(), vec!["B".to_owned(), "C".to_owned()], false), ("E".to_owned(), Vec::new(), true)]
    );
}
