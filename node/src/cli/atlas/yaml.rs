//! Configuration files as values that know their lines. Aliases and merge keys are unfolded here, within bounds; tags
//! that are not of plain values, and several documents, are refused with file and line, as the Python package does.
//! Words are YAML 1.1's (`yes`, `off`), because that is what these files were written for.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use crate::cli::error::plain;

/// Configuration is written by hand; a larger file is something else. In bytes.
const SIZE_MAX: u64 = 1 << 20;
/// Deepest nesting; the package has the same.
const DEPTH_MAX: u32 = 64;
/// Values that aliases may repeat: a thousand runs that share a block of a hundred keys. Ten short lines can ask for
/// billions. The package has the same.
const UNFOLDED_MAX: usize = 100_000;
/// Their characters, since each repeated text is a copy. The package has the same.
const UNFOLDED_CHARS_MAX: usize = 8 << 20;

/// What a document holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Map(Map),
}

/// Keys in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Map {
    pub(crate) entries: Vec<Entry>,
}

/// A key with its line, from 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) value: Value,
}

/// Why a file is no configuration: one line that names it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

impl Map {
    /// The entry of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Keys from elsewhere, the weakest first, and then its own, which win. A key stays where it stood first, as in a
    /// dictionary of Python.
    fn with_merged(self, merged: Vec<Self>) -> Self {
        if merged.is_empty() {
            return self;
        }
        let mut places = BTreeMap::new();
        let mut all: Vec<Entry> = Vec::new();
        for entry in merged.into_iter().chain([self]).flat_map(|map| map.entries) {
            match places.get(&entry.key) {
                Some(&place) => all[place] = entry,
                None => {
                    places.insert(entry.key.clone(), all.len());
                    all.push(entry);
                }
            }
        }
        Self { entries: all }
    }
}

impl Value {
    /// Its kind, as the package names it.
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Int(_) => "a number",
            Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "keys with values",
        }
    }
}

/// The mapping in a file; an empty file is an empty one.
pub(crate) fn read_map(path: &Path) -> Result<Map, ConfigError> {
    let name = path.display();
    let refuse = |what: String| ConfigError(what);
    let unreadable = |error: std::io::Error| refuse(format!("cannot read {name}: {}", plain(&error)));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(SIZE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(refuse(format!("{name} is larger than a configuration may be, 1 MiB")));
    }
    let text = String::from_utf8(bytes).map_err(|_| refuse(format!("{name} is not UTF-8 text")))?;
    match parse(text.strip_prefix('\u{feff}').unwrap_or(&text), &name)? {
        Value::Null => Ok(Map::default()),
        Value::Map(map) => Ok(map),
        other => Err(refuse(format!("{name} holds {}; write keys with values", other.kind()))),
    }
}

/// What a document holds; `name` is what errors call it.
pub(crate) fn parse(text: &str, name: &dyn fmt::Display) -> Result<Value, ConfigError> {
    let mut reader =
        Reader { parser: Parser::new_from_str(text), text, name, anchors: BTreeMap::new(), unfolded: Size::default() };
    let mut root = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(root.unwrap_or(Value::Null)),
            Event::DocumentStart(_) if root.is_some() => {
                return Err(reader.refuse(&span, "several documents in one file; keep one"));
            }
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            event => root = Some(reader.value(event, &span, 0)?),
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    text: &'a str,
    name: &'a dyn fmt::Display,
    /// By the parser's number; `None`: its value is still being read.
    anchors: BTreeMap<usize, Option<Anchored>>,
    /// What aliases have repeated so far.
    unfolded: Size,
}

/// What stands behind an anchor.
struct Anchored {
    value: Value,
    /// What a key would be called by; a list and a mapping have none.
    text: Option<String>,
    size: Size,
}

#[derive(Clone, Copy, Default)]
struct Size {
    values: usize,
    chars: usize,
    /// Levels below the value itself.
    depth: u32,
}

enum Key {
    Text(String),
    /// `<<`: the keys of its value are taken over.
    Merge,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), ConfigError> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) if error.info().contains("unknown anchor") => {
                let name = self.name_at(error.marker().index());
                let what = format!("`*{name}` has no `&{name}` before it; write the value out, or in quotes");
                Err(self.refuse_at(error.marker().line(), &what))
            }
            Some(Err(error)) => Err(self.refuse_at(error.marker().line(), error.info())),
            None => Err(self.refuse_at(1, "the document ends early")),
        }
    }

    /// The value that begins with `event`.
    fn value(&mut self, event: Event<'a>, span: &Span, depth: u32) -> Result<Value, ConfigError> {
        if depth > DEPTH_MAX {
            return Err(self.too_deep(span));
        }
        let (value, anchor, text) = match event {
            Event::Alias(anchor) => return self.unfold(anchor, span, depth).map(|anchored| anchored.value.clone()),
            Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<" => {
                return Err(self.refuse(span, "`<<` is a key; as a value it stands in quotes"));
            }
            Event::Scalar(text, style, anchor, tag) => {
                (self.scalar(&text, style, tag.as_deref(), span)?, anchor, Some(text.into_owned()))
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(anchor, tag.as_deref(), "seq", span)?;
                (self.list(depth)?, anchor, None)
            }
            Event::MappingStart(anchor, tag) => {
                self.begin(anchor, tag.as_deref(), "map", span)?;
                (self.map(depth)?, anchor, None)
            }
            _ => return Err(self.refuse(span, "a value is missing")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, Some(Anchored::new(&value, text)));
        }
        Ok(value)
    }

    /// A list or a mapping begins.
    fn begin(&mut self, anchor: usize, tag: Option<&Tag>, wanted: &str, span: &Span) -> Result<(), ConfigError> {
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        match self.known(tag, span)? {
            Some(tag) if tag != wanted => Err(self.refuse(span, &format!("this is no !!{tag}"))),
            _ => Ok(()),
        }
    }

    fn list(&mut self, depth: u32) -> Result<Value, ConfigError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.value(event, &span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: u32) -> Result<Value, ConfigError> {
        let mut map = Map::default();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Map(map.with_merged(merged)));
            }
            let key = self.key(event, &span)?;
            if let Key::Text(key) = &key
                && map.get(key).is_some()
            {
                return Err(self.refuse(&span, &format!("`{key}` stands here for the second time; keep one")));
            }
            let (event, at) = self.next()?;
            let value = self.value(event, &at, depth + 1)?;
            match key {
                Key::Text(key) => map.entries.push(Entry { key, line: span.start.line(), value }),
                Key::Merge => merged.extend(self.mergeable(value, &span)?),
            }
        }
    }

    fn key(&mut self, event: Event<'a>, span: &Span) -> Result<Key, ConfigError> {
        let no_key = "a key is a list or has keys of its own; write a text";
        match event {
            Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<" => Ok(Key::Merge),
            Event::Scalar(text, style, anchor, tag) => {
                if anchor != 0 || tag.is_some() {
                    let value = self.scalar(&text, style, tag.as_deref(), span)?;
                    // Without an anchor it is number 0, which no alias has.
                    self.anchors.insert(anchor, Some(Anchored::new(&value, Some(text.clone().into_owned()))));
                }
                Ok(Key::Text(text.into_owned()))
            }
            // A text is no deeper than what it stands in.
            Event::Alias(anchor) => match self.unfold(anchor, span, 0)?.text.clone() {
                Some(text) => Ok(Key::Text(text)),
                None => Err(self.refuse(span, no_key)),
            },
            _ => Err(self.refuse(span, no_key)),
        }
    }

    /// The mappings that a merge key takes keys from, the weakest first.
    fn mergeable(&self, value: Value, span: &Span) -> Result<Vec<Map>, ConfigError> {
        let values = if let Value::List(values) = value { values } else { vec![value] };
        let map = |value| match value {
            Value::Map(map) => Ok(map),
            _ => Err(self.refuse(span, "`<<` takes keys with values, or a list of such")),
        };
        values.into_iter().rev().map(map).collect()
    }

    /// What an alias `depth` levels deep stands for.
    fn unfold(&mut self, anchor: usize, span: &Span, depth: u32) -> Result<&Anchored, ConfigError> {
        let Some(Some(Anchored { size, .. })) = self.anchors.get(&anchor) else {
            let name = self.name_at(span.start.index());
            return Err(self.refuse(span, &format!("`*{name}` stands inside of `&{name}`; write the value out")));
        };
        let size = *size;
        self.unfolded.values += size.values;
        self.unfolded.chars += size.chars;
        if self.unfolded.values > UNFOLDED_MAX {
            return Err(self.refuse(span, &format!("aliases unfold to more than {UNFOLDED_MAX} values")));
        }
        if self.unfolded.chars > UNFOLDED_CHARS_MAX {
            return Err(self.refuse(span, "aliases unfold to more than 8 MiB of text"));
        }
        if depth + size.depth > DEPTH_MAX {
            return Err(self.too_deep(span));
        }
        match self.anchors.get(&anchor) {
            Some(Some(anchored)) => Ok(anchored),
            _ => Err(self.refuse(span, "a value is missing")),
        }
    }

    /// What a text means by how it is written, or by its tag.
    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: &Span) -> Result<Value, ConfigError> {
        match self.known(tag, span)? {
            Some(tag) => as_tagged(text, tag).ok_or_else(|| self.refuse(span, &format!("this is no !!{tag}"))),
            None if style == ScalarStyle::Plain => {
                scalar(text).ok_or_else(|| self.refuse(span, "this number is too large"))
            }
            None => Ok(Value::Text(text.to_owned())),
        }
    }

    /// A tag's name, where it names no code.
    fn known(&self, tag: Option<&Tag>, span: &Span) -> Result<Option<&'static str>, ConfigError> {
        let Some(tag) = tag else { return Ok(None) };
        let known = TAGS.into_iter().find(|known| tag.is_yaml_core_schema() && tag.suffix == *known);
        if known.is_some() {
            return Ok(known);
        }
        let handle = if tag.is_yaml_core_schema() { "!!" } else { tag.handle.as_str() };
        let all = TAGS.map(|tag| format!("!!{tag}")).join(", ");
        Err(self.refuse(span, &format!("the tag {handle}{} is not supported; known are {all}", tag.suffix)))
    }

    /// The name of the alias that begins at a character of the file: the parser keeps numbers only.
    fn name_at(&self, index: usize) -> String {
        let is_of_name = |c: &char| !c.is_whitespace() && !",[]{}".contains(*c);
        self.text.chars().skip(index + 1).take_while(is_of_name).collect()
    }

    fn too_deep(&self, span: &Span) -> ConfigError {
        self.refuse(span, &format!("nested deeper than {DEPTH_MAX} levels"))
    }

    fn refuse(&self, span: &Span, what: &str) -> ConfigError {
        self.refuse_at(span.start.line(), what)
    }

    fn refuse_at(&self, line: usize, what: &str) -> ConfigError {
        ConfigError(format!("{}:{line}: {}", self.name, what.replace('\n', " ")))
    }
}

impl Anchored {
    fn new(value: &Value, text: Option<String>) -> Self {
        let size = Size::of(value);
        // An alias to more than aliases may unfold to is refused: no copy for it.
        let is_usable = size.values <= UNFOLDED_MAX && size.chars <= UNFOLDED_CHARS_MAX;
        Self { value: if is_usable { value.clone() } else { Value::Null }, text, size }
    }
}

impl Size {
    fn of(value: &Value) -> Self {
        let inner: Vec<Self> = match value {
            Value::List(items) => items.iter().map(Self::of).collect(),
            Value::Map(map) => map.entries.iter().map(|entry| Self::of(&entry.value)).collect(),
            _ => Vec::new(),
        };
        let own = match value {
            Value::Text(text) => text.chars().count(),
            Value::Map(map) => map.entries.iter().map(|entry| entry.key.chars().count()).sum(),
            _ => 0,
        };
        Self {
            values: 1 + inner.iter().map(|size| size.values).sum::<usize>(),
            chars: own + inner.iter().map(|size| size.chars).sum::<usize>(),
            depth: inner.iter().map(|size| size.depth + 1).max().unwrap_or(0),
        }
    }
}

/// Tags that name no code: what the safe loader of Python's YAML takes, as far as parameters can be it.
const TAGS: [&str; 7] = ["str", "int", "float", "bool", "null", "map", "seq"];

/// What a text means by its tag. `None`: nothing.
fn as_tagged(text: &str, tag: &str) -> Option<Value> {
    let value = if tag == "bool" { scalar(&text.to_lowercase()) } else { scalar(text) };
    match (tag, value) {
        ("str", _) => Some(Value::Text(text.to_owned())),
        // The standard loaders of Python take every text for null that says it is.
        ("null", _) => Some(Value::Null),
        ("float", Some(Value::Int(_)) | None) => text.replace('_', "").parse().ok().map(Value::Float),
        ("int", Some(value @ Value::Int(_)))
        | ("float", Some(value @ Value::Float(_)))
        | ("bool", Some(value @ Value::Bool(_))) => Some(value),
        _ => None,
    }
}

/// What a plain text means: null, true, false, a number, or itself. `None`: a number that nothing here can hold.
fn scalar(text: &str) -> Option<Value> {
    let is_spelt = |word: &str| {
        text == word || text == word.to_uppercase() || text.strip_prefix(&word[..1].to_uppercase()) == Some(&word[1..])
    };
    if text.is_empty() || text == "~" || is_spelt("null") {
        return Some(Value::Null);
    }
    if ["true", "yes", "on"].iter().any(|word| is_spelt(word)) {
        return Some(Value::Bool(true));
    }
    if ["false", "no", "off"].iter().any(|word| is_spelt(word)) {
        return Some(Value::Bool(false));
    }
    if let Some(number) = whole(text) {
        return number.map(Value::Int);
    }
    Some(float(text).map_or_else(|| Value::Text(text.to_owned()), Value::Float))
}

/// A whole number: outer `None`, it is none; inner `None`, it is too large.
#[allow(clippy::option_option, reason = "what is no number and what is no number of ours are two answers")]
fn whole(text: &str) -> Option<Option<i128>> {
    let digits = |text: &str, radix: u32| -> Option<Option<i128>> {
        let is_one = !text.is_empty() && text.chars().all(|c| c == '_' || c.is_digit(radix));
        let plain = text.replace('_', "");
        if is_one && !plain.is_empty() { Some(i128::from_str_radix(&plain, radix).ok()) } else { None }
    };
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = text.strip_prefix(prefix) {
            return digits(rest, radix);
        }
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    match unsigned.as_bytes() {
        b"0" => Some(Some(0)),
        [b'1'..=b'9', ..] => {
            let number = digits(unsigned, 10)?;
            Some(if text.starts_with('-') { number.map(|number| -number) } else { number })
        }
        _ => None,
    }
}

/// A number with a point or an exponent.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    match unsigned.to_ascii_lowercase().as_str() {
        ".inf" => return Some(sign * f64::INFINITY),
        ".nan" => return Some(f64::NAN),
        _ => {}
    }
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if digits.is_empty() || !is_digits(digits) {
            return None;
        }
    }
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let has_point = mantissa.contains('.');
    // `1_000.5` is a number, `_1.5` and `1.5_0` are not; without a point there must be an exponent.
    let is_whole = |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) && is_digits(&text.replace('_', ""));
    let is_one = match (before.is_empty(), has_point) {
        (true, true) => !after.is_empty() && is_digits(after),
        (false, true) => is_whole(before) && is_digits(after),
        (false, false) => exponent.is_some() && is_digits(before),
        (true, false) => false,
    };
    if !is_one {
        return None;
    }
    let plain = unsigned.replace('_', "");
    plain.parse::<f64>().ok().map(|number| sign * number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;

    fn of(text: &str) -> Value {
        let Value::Map(map) = parse(&format!("k: {text}"), &"f.yaml").unwrap() else { panic!("{text}") };
        map.entries[0].value.clone()
    }

    fn refused(text: &str) -> String {
        parse(text, &"f.yaml").expect_err(text).to_string()
    }

    #[test]
    fn scalars_mean_what_they_mean_in_the_package() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (given, wanted) in [
            ("1", Value::Int(1)),
            ("-7", Value::Int(-7)),
            ("0x10", Value::Int(16)),
            ("1_000", Value::Int(1_000)),
            ("1.5", Value::Float(1.5)),
            ("1e3", Value::Float(1_000.0)),
            ("-.5", Value::Float(-0.5)),
            (".inf", Value::Float(f64::INFINITY)),
            ("true", Value::Bool(true)),
            ("No", Value::Bool(false)),
            ("~", Value::Null),
            ("", Value::Null),
            ("text", text("text")),
            ("'1'", text("1")),
            ("\"a\\tb\"", text("a\tb")),
            ("'it''s'", text("it's")),
            ("http://h:1/x", text("http://h:1/x")),
            ("0123", text("0123")),
            ("1.2.3", text("1.2.3")),
            ("a#b", text("a#b")),
            ("a # b", text("a")),
            ("128G", text("128G")),
            ("nO", text("nO")),
            ("1e", text("1e")),
            ("_1", text("_1")),
        ] {
            assert_eq!(of(given), wanted, "{given}");
        }
    }

    #[test]
    fn keys_know_their_lines_and_their_order() {
        let Value::Map(map) = parse("# c\nz: 1\n\nb:\n  c: 2\n", &"f").unwrap() else { panic!() };
        let lines: Vec<_> = map.entries.iter().map(|entry| (entry.key.as_str(), entry.line)).collect();
        assert_eq!(lines, [("z", 2), ("b", 4)]);
        let Value::Map(inner) = &map.get("b").unwrap().value else { panic!() };
        assert_eq!(inner.get("c").unwrap().line, 5);
    }

    #[test]
    fn what_is_dangerous_is_refused_with_file_and_line() {
        for (text, line) in [
            ("ä: 1\nb: *x", "f.yaml:2: `*x` has no `&x` before it; write the value out, or in quotes"),
            ("a: &x [1, *x]", "f.yaml:1: `*x` stands inside of `&x`; write the value out"),
            ("a: !!python/object:os.system x", "f.yaml:1: the tag !!python/object:os.system is not supported"),
            ("a: !local x", "f.yaml:1: the tag !local is not supported"),
            ("a: !!int x", "f.yaml:1: this is no !!int"),
            ("a: !!map [1]", "f.yaml:1: this is no !!map"),
            ("a: <<", "f.yaml:1: `<<` is a key"),
            ("<<: 1", "f.yaml:1: `<<` takes keys with values, or a list of such"),
            ("a: &x [1]\n*x : 1", "f.yaml:2: a key is a list or has keys of its own"),
            ("a: 1\na: 2", "f.yaml:2: `a` stands here for the second time"),
            ("a: {b: 1, b: 2}", "f.yaml:1: `b` stands here for the second time"),
            ("a: 1\n---\nb: 2", "f.yaml:2: several documents in one file; keep one"),
            ("a: [1, 2", "f.yaml:"),
            ("a:\n\tb: 1", "f.yaml:2: "),
            ("a: b: c", "f.yaml:1: "),
        ] {
            assert!(refused(text).starts_with(line), "{text}: {}", refused(text));
        }
        let deep = refused(&format!("a: {}{}", "[".repeat(100), "]".repeat(100)));
        assert_eq!(deep, "f.yaml:1: nested deeper than 64 levels");
        assert!(refused(&format!("{}x", "- ".repeat(100))).ends_with("nested deeper than 64 levels"));
        assert!(refused(&"[".repeat(200_000)).starts_with("f.yaml:1: "));
    }

    #[test]
    fn what_aliases_repeat_is_bounded_in_number_in_text_and_in_depth() {
        let list = format!("a: &a [{}1]\n", "1, ".repeat(998));
        let of = |count: usize| format!("{list}b: [{}*a]", "*a, ".repeat(count - 1));
        assert!(parse(&of(100), &"f").is_ok());
        assert_eq!(refused(&of(101)), "f.yaml:2: aliases unfold to more than 100000 values");
        let text = format!("a: &a {}\n", "x".repeat(1 << 19));
        let of = |count: usize| format!("{text}b: [{}*a]", "*a, ".repeat(count - 1));
        assert!(parse(&of(16), &"f").is_ok());
        assert_eq!(refused(&of(17)), "f.yaml:2: aliases unfold to more than 8 MiB of text");
        let deep = format!("a: &a {}{}\n", "[".repeat(33), "]".repeat(33));
        let of = |count| format!("{deep}b: {}*a{}", "[".repeat(count), "]".repeat(count));
        assert!(parse(&of(31), &"f").is_ok());
        assert_eq!(refused(&of(32)), "f.yaml:2: nested deeper than 64 levels");
    }

    #[test]
    fn files_that_cannot_be_read_are_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.yaml");
        let read = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            read_map(&file).map_err(|error| error.to_string().replace(&file.display().to_string(), "F"))
        };
        assert_eq!(read(b"- 1"), Err("F holds a list; write keys with values".to_owned()));
        assert_eq!(read(b"a: \xfc"), Err("F is not UTF-8 text".to_owned()));
        assert_eq!(read(&[b'#'; 2 << 20]), Err("F is larger than a configuration may be, 1 MiB".to_owned()));
        assert_eq!(read("\u{feff}# nothing\n".as_bytes()), Ok(Map::default()));
        let missing = read_map(Path::new("/no/such")).unwrap_err().to_string();
        assert_eq!(missing, "cannot read /no/such: no such file or directory");
    }

    #[test]
    fn no_text_does_anything_but_give_a_value_or_refuse() {
        let text = "a: &b [1, {b: 'x'}]\nj: *b\nk: &k {l: !!str 1}\nm: {<<: *k}\n\"c d\": |\n  text\ne:\n- 2\n- ~\n? g\n: -1.5e3\nh: 0x1f # i\n";
        attack_loosely("YAML", text.as_bytes(), 2_000, |bytes| match parse(&String::from_utf8_lossy(bytes), &"f") {
            Ok(_) => true,
            Err(error) => {
                let line = error.to_string();
                assert!(line.starts_with("f:") && !line.contains('\n'), "{line:?}");
                false
            }
        });
    }
}
