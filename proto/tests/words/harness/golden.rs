//! Golden files: one per word under `tests/golden` of its crate, with what was encoded and the bytes it became.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

/// Set to write the files anew instead of comparing them.
const BLESS: &str = "FNODE_BLESS";
/// Bytes in a line of a golden file.
const LINE: usize = 16;

/// One value of a word and what it becomes.
pub(crate) struct Sample {
    /// The variant, or what is special about the value.
    title: String,
    /// As `{:#?}` prints it.
    value: String,
    bytes: Vec<u8>,
    is_text: bool,
}

impl Sample {
    /// A value and its bytes, told by `title` among the samples of its word.
    pub(crate) fn new(title: &str, value: &impl Debug, bytes: Vec<u8>) -> Self {
        Self { title: title.to_owned(), value: format!("{value:#?}"), bytes, is_text: false }
    }

    /// A value that becomes a text.
    pub(crate) fn text(title: &str, value: &impl Debug, text: &str) -> Self {
        Self { is_text: true, ..Self::new(title, value, text.as_bytes().to_vec()) }
    }
}

/// A sample for each of `values`, told by the name of its variant.
pub(crate) fn sections<T: Debug>(values: &[T], encode: impl Fn(&T) -> Vec<u8>) -> Vec<Sample> {
    values.iter().map(|value| Sample::new(&variant_of(value), value, encode(value))).collect()
}

/// What a value's debug output calls its variant.
pub(crate) fn variant_of(value: &impl Debug) -> String {
    let shown = format!("{value:?}");
    shown.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// Compares `samples` with the golden file of `word`, or writes it where that is wished.
pub(crate) fn check(word: &str, samples: &[Sample]) {
    let titles: BTreeSet<&str> = samples.iter().map(|sample| sample.title.as_str()).collect();
    assert_eq!(titles.len(), samples.len(), "samples of {word} with one title");
    let path = directory().join(format!("{word}.txt"));
    let text = print(word, samples);
    if std::env::var_os(BLESS).is_some() {
        fs::create_dir_all(directory()).expect("the crate's own folder can be written");
        fs::write(&path, text).expect("the crate's own folder can be written");
        return;
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    if let Some(difference) = compare(&golden, &text) {
        panic!(
            "{word}: {difference}\nIf that is meant, write the file anew and commit it:\n    \
             {BLESS}=1 cargo test -p {} golden\nA changed layout that was released takes a new kind or version.",
            env!("CARGO_PKG_NAME")
        );
    }
}

/// Where this crate's golden files lie.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The words that have a golden file, each with its text.
pub(crate) fn files() -> Vec<(String, String)> {
    let entries = fs::read_dir(directory()).into_iter().flatten();
    let mut files: Vec<(String, String)> = entries
        .map(|entry| {
            let path = entry.expect("a folder that was just listed can be read").path();
            let word = path.file_stem().expect("files have names").to_string_lossy().into_owned();
            (word, fs::read_to_string(&path).expect("golden files are texts"))
        })
        .collect();
    files.sort();
    files
}

fn print(word: &str, samples: &[Sample]) -> String {
    let mut text = format!("# {word}\n");
    for sample in samples {
        write!(text, "\n== {}\n", sample.title).expect("a String takes any length");
        for line in sample.value.lines() {
            writeln!(text, "# {line}").expect("a String takes any length");
        }
        if sample.is_text {
            for line in String::from_utf8_lossy(&sample.bytes).lines() {
                writeln!(text, "| {line}").expect("a String takes any length");
            }
            continue;
        }
        for (at, line) in sample.bytes.chunks(LINE).enumerate() {
            let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            let shown: String =
                line.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' }).collect();
            let width = 3 * LINE - 1;
            writeln!(text, "{:04x}  {:width$}  {shown}", at * LINE, hex.join(" ")).expect("a String takes any length");
        }
    }
    text
}

/// What is different, in words; `None`: nothing.
fn compare(golden: &str, text: &str) -> Option<String> {
    if golden == text {
        return None;
    }
    if golden.is_empty() {
        return Some("there is no golden file".to_owned());
    }
    let bytes = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
    };
    let what = if bytes(golden) == bytes(text) { "its description changed" } else { "ITS BYTES CHANGED" };
    let (old, new): (Vec<&str>, Vec<&str>) = (golden.lines().collect(), text.lines().collect());
    let at = old.iter().zip(&new).position(|(old, new)| old != new).unwrap_or(old.len().min(new.len()));
    let section = new[..at.min(new.len())].iter().rfind(|line| line.starts_with("==")).copied().unwrap_or_default();
    let line = |lines: &[&str]| lines.get(at).map_or("(end of file)", |line| line).to_owned();
    Some(format!("{what}\n    {section}\n    line {}\n    was: {}\n    now: {}", at + 1, line(&old), line(&new)))
}

#[test]
fn a_difference_is_told_with_its_place() {
    let sample = |byte: u8| Sample::new("one", &byte, vec![1, byte]);
    let (before, after) = (print("word", &[sample(2)]), print("word", &[sample(3)]));
    assert_eq!(compare(&before, &before), None);
    let told = compare(&before, &after).expect("different");
    assert!(told.starts_with("ITS BYTES CHANGED") && told.contains("== one") && told.contains("now: # 3"), "{told}");
    let renamed = before.replace("# 2", "# two");
    assert!(compare(&renamed, &before).expect("different").starts_with("its description changed"));
    assert_eq!(compare("", &after).as_deref(), Some("there is no golden file"));
}
