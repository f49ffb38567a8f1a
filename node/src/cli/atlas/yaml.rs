//! Configuration files as values that know their lines. Anchors, aliases, tags and several documents are refused with
//! file and line, as the Python package does: no configuration of Foundations has them, and they are what makes YAML
//! dangerous. Words are YAML 1.1's (`yes`, `off`), because that is what these files were written for.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use crate::cli::error::plain;

/// Configuration is written by hand; a larger file is something else. In bytes.
const SIZE_MAX: u64 = 1 << 20;
/// Deepest nesting; the package has the same.
const DEPTH_MAX: u32 = 64;

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
    let mut reader = Reader { parser: Parser::new_from_str(text), name };
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
    name: &'a dyn fmt::Display,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), ConfigError> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            // An alias to nothing is an alias all the same.
            Some(Err(error)) if error.info().contains("anchor") => Err(self.refuse_at(error.marker().line(), ALIAS)),
            Some(Err(error)) => Err(self.refuse_at(error.marker().line(), error.info())),
            None => Err(self.refuse_at(1, "the document ends early")),
        }
    }

    /// The value that begins with `event`.
    fn value(&mut self, event: Event<'a>, span: &Span, depth: u32) -> Result<Value, ConfigError> {
        if depth > DEPTH_MAX {
            return Err(self.refuse(span, &format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.check_plain(&event, span)?;
        match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) => {
                scalar(&text).ok_or_else(|| self.refuse(span, "this number is too large"))
            }
            Event::Scalar(text, ..) => Ok(Value::Text(text.into_owned())),
            Event::SequenceStart(..) => self.list(depth),
            Event::MappingStart(..) => self.map(depth),
            _ => Err(self.refuse(span, "a value is missing")),
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
        loop {
            let (event, span) = self.next()?;
            self.check_plain(&event, &span)?;
            let key = match event {
                Event::MappingEnd => return Ok(Value::Map(map)),
                Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<" => {
                    let what = "a merge key is not supported here; write the value out, or in quotes";
                    return Err(self.refuse(&span, what));
                }
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(self.refuse(&span, "a key is a list or has keys of its own; write a text")),
            };
            if map.get(&key).is_some() {
                return Err(self.refuse(&span, &format!("`{key}` stands here for the second time; keep one")));
            }
            let (event, at) = self.next()?;
            let value = self.value(event, &at, depth + 1)?;
            map.entries.push(Entry { key, line: span.start.line(), value });
        }
    }

    /// Refuses what would refer elsewhere or name a type.
    fn check_plain(&self, event: &Event<'a>, span: &Span) -> Result<(), ConfigError> {
        let (anchor, tag) = match event {
            Event::Alias(_) => return Err(self.refuse(span, ALIAS)),
            Event::Scalar(_, _, anchor, tag) | Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag.is_some())
            }
            _ => (0, false),
        };
        if anchor != 0 {
            return Err(self.refuse(span, "an anchor is not supported here; write the value out, or in quotes"));
        }
        if tag {
            return Err(self.refuse(span, "a tag is not supported here; write the value out, or in quotes"));
        }
        Ok(())
    }

    fn refuse(&self, span: &Span, what: &str) -> ConfigError {
        self.refuse_at(span.start.line(), what)
    }

    fn refuse_at(&self, line: usize, what: &str) -> ConfigError {
        ConfigError(format!("{}:{line}: {}", self.name, what.replace('\n', " ")))
    }
}

const ALIAS: &str = "an alias is not supported here; write the value out, or in quotes";

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
            ("a: &x 1", "f.yaml:1: an anchor is not supported here; write the value out, or in quotes"),
            ("a: 1\nb: *x", "f.yaml:2: an alias is not supported here"),
            ("a: !!python/object:os.system x", "f.yaml:1: a tag is not supported here"),
            ("<<: {a: 1}", "f.yaml:1: a merge key is not supported here"),
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
        let text = "a: [1, {b: 'x'}]\n\"c d\": |\n  text\ne:\n- 2\n- ~\n? g\n: -1.5e3\nh: 0x1f # i\n";
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
