//! That no word which this crate stores or sends is without its golden file. The bytes themselves are compared
//! where the words are: every `golden_…` test.

use crate::harness::golden::{directory, files};
use crate::harness::scan::{missing, serialized};

/// Folders whose words are the JSON of the API: described by its OpenAPI page, not stored.
const API: [&str; 3] = ["http", "cli", "doctor"];
/// Types that a golden file shows under no name of their own: why.
const EXCUSED: [(&str, &str); 2] =
    [("Listed", "an answer of the API, made from `Complete`"), ("NodeNews", "an event of the API, never stored")];

#[test]
fn golden_files_have_every_word() {
    let mut types = serialized();
    types.retain(|found| !API.iter().any(|folder| found.file.starts_with(folder)));
    let missing = missing(&types, &files(), &EXCUSED);
    assert!(
        missing.is_empty(),
        "no golden file has these; give each a `golden_…` test beside it, with crate::harness::golden::check, then \
         run FNODE_BLESS=1 cargo test -p node golden:\n{}",
        missing.join("\n")
    );
}

#[test]
fn golden_files_all_belong_to_a_test() {
    let source = env!("CARGO_MANIFEST_DIR").to_owned() + "/src";
    let mut texts = String::new();
    collect(std::path::Path::new(&source), &mut texts);
    for (word, _) in files() {
        assert!(
            texts.contains(&format!("\"{word}\"")),
            "{}/{word}.txt belongs to no test: delete it",
            directory().display()
        );
    }
}

fn collect(folder: &std::path::Path, texts: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a crate has a source folder") {
        let path = entry.expect("a folder that was just listed can be read").path();
        if path.is_dir() {
            collect(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push_str(&std::fs::read_to_string(&path).expect("source files are texts"));
        }
    }
}
