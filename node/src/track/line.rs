//! The words of a track file: one JSON array per line, its first element says which word it is.

use std::borrow::Cow;
use std::fmt;

use proto::track::{ErrorNote, NAME_MAX, SYSTEM_PREFIX, Scalar, TEXT_MAX};
use serde::Deserialize;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Longest line that is read, in bytes with its end; a longer one is passed over.
pub(super) const LINE_MAX: usize = 64 << 10;

/// One word of a job about itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// `["m", key, value, step | null, unix_s]`: one point of a metric.
    Metric {
        /// Its name.
        key: String,
        /// Its value.
        value: Scalar,
        /// `None`: the series counts by itself.
        step: Option<i64>,
        /// Milliseconds since 1970.
        at_unix_ms: u64,
    },
    /// `["u", name, value, unix_s]`: what the node has read of the attempt, [`SYSTEM_PREFIX`] added to its name.
    Reading {
        /// The name of its series.
        key: String,
        /// What was read.
        value: f64,
        /// Milliseconds since 1970.
        at_unix_ms: u64,
    },
    /// `["p", key, value]`: a parameter; its value as JSON text.
    Param(String, String),
    /// `["P", object]`: the parameters file as it was loaded, as JSON text.
    InputParams(String),
    /// `["t", key, value]`.
    Tag(String, String),
    /// `["T", key]`.
    Untag(String),
    /// `["a", key, file, mime | null]`: a file below the directory of artifacts.
    Artifact(String, String, String),
    /// `["s", key, directory]`: a directory there that the job synchronises.
    Directory(String, String),
    /// `["r", object]`: interpreter, packages, git; as JSON text.
    Record(String),
    /// `["e", object]`: the exception that ended it.
    Error(ErrorNote),
    /// `["x", code]`: a script that is no child of the runner ended with this code.
    Exit(i32),
}

/// The word of one line; `None`: it is none that is known here.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Line> {
    serde_json::from_slice::<Told>(line).ok()?.0
}

/// A line, if its word is known.
struct Told(Option<Line>);

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ToldVisitor)
    }
}

struct ToldVisitor;

impl<'de> Visitor<'de> for ToldVisitor {
    type Value = Told;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array that begins with a word's letter")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Told, A::Error> {
        let kind: Cow<'de, str> = need(&mut seq)?;
        let line = match kind.as_ref() {
            "m" => {
                let key = name(&mut seq)?;
                let value: MetricValue = need(&mut seq)?;
                let step: Option<i64> = need(&mut seq)?;
                Some(Line::Metric { key, value: value.0, step, at_unix_ms: time(&mut seq)? })
            }
            "u" => {
                let key = format!("{SYSTEM_PREFIX}{}", name(&mut seq)?);
                let value = need(&mut seq)?;
                Some(Line::Reading { key, value, at_unix_ms: time(&mut seq)? })
            }
            "p" => Some(Line::Param(name(&mut seq)?, need::<Value, _>(&mut seq)?.to_string())),
            "P" => Some(Line::InputParams(need::<Value, _>(&mut seq)?.to_string())),
            "t" => Some(Line::Tag(name(&mut seq)?, need(&mut seq)?)),
            "T" => Some(Line::Untag(name(&mut seq)?)),
            "a" => {
                let (key, file) = (name(&mut seq)?, need(&mut seq)?);
                Some(Line::Artifact(key, file, seq.next_element::<Option<String>>()?.flatten().unwrap_or_default()))
            }
            "s" => Some(Line::Directory(name(&mut seq)?, need(&mut seq)?)),
            "r" => Some(Line::Record(need::<Value, _>(&mut seq)?.to_string())),
            "e" => {
                let error: ErrorWord = need(&mut seq)?;
                Some(Line::Error(ErrorNote { kind: error.kind, message: error.exception, traceback: error.traceback }))
            }
            "x" => Some(Line::Exit(need(&mut seq)?)),
            _ => None,
        };
        // What a newer writer adds to a word does not take the word away.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Told(line))
    }
}

#[derive(Deserialize)]
struct ErrorWord {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    exception: String,
    #[serde(default)]
    traceback: Vec<String>,
}

fn need<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| de::Error::custom("the word is cut off"))
}

/// Seconds since 1970, in milliseconds; a clock before that is none.
fn time<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<u64, A::Error> {
    Ok((need::<f64, _>(seq)?.max(0.0) * 1_000.0) as u64)
}

fn name<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<String, A::Error> {
    let name: String = need(seq)?;
    if name.is_empty() || name.len() > NAME_MAX { Err(de::Error::custom("no usable name")) } else { Ok(name) }
}

/// A number, a truth value, a text, or `{"f": "nan" | "inf" | "-inf"}`, which JSON has no number for.
struct MetricValue(Scalar);

impl<'de> Deserialize<'de> for MetricValue {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MetricVisitor).map(MetricValue)
    }
}

struct MetricVisitor;

impl<'de> Visitor<'de> for MetricVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, true, false or text")
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number((value as f64).into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number((value as f64).into()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
        let end = (0..=TEXT_MAX.min(value.len())).rev().find(|&end| value.is_char_boundary(end)).unwrap_or(0);
        Ok(Scalar::Text(value[..end].to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        let told = map.next_entry::<Cow<'de, str>, Cow<'de, str>>()?;
        let number = match told.as_ref().map(|(key, value)| (key.as_ref(), value.as_ref())) {
            Some(("f", "nan")) => f64::NAN,
            Some(("f", "inf")) => f64::INFINITY,
            Some(("f", "-inf")) => f64::NEG_INFINITY,
            _ => return Err(de::Error::custom("no value of a metric")),
        };
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Number(number.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let metric = |value, step| Line::Metric { key: "loss".to_owned(), value, step, at_unix_ms: 1_500 };
        let text = str::to_owned;
        for (line, told) in [
            (r#"["m","loss",0.5,null,1.5]"#, metric(Scalar::Number(0.5.into()), None)),
            (r#"["m","loss",3,7,1.5]"#, metric(Scalar::Number(3.0.into()), Some(7))),
            (r#"["m","loss",{"f":"nan"},null,1.5]"#, metric(Scalar::Number(f64::NAN.into()), None)),
            (r#"["m","loss",{"f":"-inf"},null,1.5,"more"]"#, metric(Scalar::Number(f64::NEG_INFINITY.into()), None)),
            (r#"["m","loss",true,null,1.5]"#, metric(Scalar::Bool(true), None)),
            (r#"["m","loss","warm\u00e9",null,1.5]"#, metric(Scalar::Text(text("warmé")), None)),
            (r#"["u","cpu",0.5,1.5]"#, Line::Reading { key: text("system/cpu"), value: 0.5, at_unix_ms: 1_500 }),
            (r#"["p","lr",[1,{"a":null}]]"#, Line::Param(text("lr"), text("[1,{\"a\":null}]"))),
            (r#"["P",{"lr":0.1}]"#, Line::InputParams(text("{\"lr\":0.1}"))),
            (r#"["t","best","yes"]"#, Line::Tag(text("best"), text("yes"))),
            (r#"["T","best"]"#, Line::Untag(text("best"))),
            (r#"["a","w","w.bin",null]"#, Line::Artifact(text("w"), text("w.bin"), String::new())),
            (r#"["s","logs","synced-logs"]"#, Line::Directory(text("logs"), text("synced-logs"))),
            (r#"["r",{}]"#, Line::Record(text("{}"))),
            (r#"["x",3]"#, Line::Exit(3)),
        ] {
            assert_eq!(parse(line.as_bytes()), Some(told), "{line}");
        }
        let error = parse(br#"["e",{"type":"ValueError","exception":"no","traceback":["a","b"]}]"#);
        assert!(
            matches!(error, Some(Line::Error(ErrorNote { kind, traceback, .. })) if kind == "ValueError" && traceback.len() == 2)
        );
    }

    #[test]
    fn what_is_no_word_is_passed_over() {
        let deep = "[".repeat(100_000);
        for line in [
            "",
            "[]",
            "{}",
            "[\"m\"]",
            "[\"q\",1]",
            "[\"m\",\"\",1,null,1]",
            "[\"m\",\"a\",[],null,1]",
            "[1]",
            "\u{0}",
            &deep,
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line:.20}");
        }
    }
}
