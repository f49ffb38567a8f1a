//! Parameters as text, digit by digit as the Python package writes them: a project whose `job.config.yaml` has `params`
//! gets the same `foundations_job_parameters.json` whichever of the two submits it.

use std::fmt::Write as _;

use super::yaml::{Map, Value};

/// Where a job finds its parameters, in its directory.
pub(crate) const FILE: &str = "foundations_job_parameters.json";

/// As `json.dumps(params, indent=4)`.
pub(crate) fn file_text(params: &Map) -> String {
    let mut text = String::new();
    write_map(&mut text, params, Some(1));
    text
}

/// In one line, for the record of the submission, as the package writes it there; `None`: there is a number that JSON does
/// not have.
pub(crate) fn record_text(params: &Map) -> Option<String> {
    if !is_finite(&Value::Map(params.clone())) {
        return None;
    }
    let mut text = String::new();
    write_map(&mut text, params, None);
    Some(text)
}

fn is_finite(value: &Value) -> bool {
    match value {
        Value::Float(number) => number.is_finite(),
        Value::List(items) => items.iter().all(is_finite),
        Value::Map(map) => map.entries.iter().all(|entry| is_finite(&entry.value)),
        _ => true,
    }
}

/// A value; `indent`: levels of what is inside, `None`: all in one line.
fn write_value(text: &mut String, value: &Value, indent: Option<usize>) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        // What no reader of the record can hold without losing digits is a floating point number there.
        Value::Int(number)
            if indent.is_none() && i64::try_from(*number).is_err() && u64::try_from(*number).is_err() =>
        {
            text.push_str(&float_text(*number as f64));
        }
        Value::Int(number) => text.push_str(&number.to_string()),
        Value::Float(number) if number.is_nan() => text.push_str("NaN"),
        Value::Float(number) if number.is_infinite() => {
            text.push_str(if *number > 0.0 { "Infinity" } else { "-Infinity" });
        }
        Value::Float(number) => text.push_str(&float_text(*number)),
        Value::Text(value) => write_quoted(text, value, indent.is_some()),
        Value::List(items) => write_items(text, ('[', ']'), items, indent, write_value),
        Value::Map(map) => write_map(text, map, indent),
    }
}

fn write_map(text: &mut String, map: &Map, indent: Option<usize>) {
    write_items(text, ('{', '}'), &map.entries, indent, |text, entry, indent| {
        write_quoted(text, &entry.key, indent.is_some());
        text.push_str(if indent.is_some() { ": " } else { ":" });
        write_value(text, &entry.value, indent);
    });
}

fn write_items<T>(
    text: &mut String,
    (open, close): (char, char),
    items: &[T],
    indent: Option<usize>,
    write: impl Fn(&mut String, &T, Option<usize>),
) {
    let line = |text: &mut String, levels: usize| {
        text.push('\n');
        (0..levels).for_each(|_| text.push_str("    "));
    };
    text.push(open);
    for (at, item) in items.iter().enumerate() {
        match (indent, at) {
            (Some(levels), 0) => line(text, levels),
            (Some(levels), _) => {
                text.push(',');
                line(text, levels);
            }
            (None, 0) => {}
            (None, _) => text.push(','),
        }
        write(text, item, indent.map(|levels| levels + 1));
    }
    if let (Some(levels), false) = (indent, items.is_empty()) {
        line(text, levels - 1);
    }
    text.push(close);
}

/// With everything escaped that JSON does not allow, or that is not printable ASCII.
fn write_quoted(text: &mut String, value: &str, ascii: bool) {
    text.push('"');
    for char in value.chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            ' '..='~' => text.push(char),
            '\u{7f}'.. if !ascii => text.push(char),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
        }
    }
    text.push('"');
}

/// As Python's `repr`: the fewest digits that give the number back, with an exponent below 1e-4 and from 1e16 on.
pub(crate) fn float_text(number: f64) -> String {
    if !number.is_finite() {
        let sign = if number < 0.0 { "-" } else { "" };
        return if number.is_nan() { "nan".to_owned() } else { format!("{sign}inf") };
    }
    let short = format!("{number:e}");
    let (mantissa, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..=15 => format!("{number:?}"),
        exponent => format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_python_does() {
        for (number, text) in [
            (0.1, "0.1"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (0.0001, "0.0001"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e300, "1.25e+300"),
            (0.0, "0.0"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float_text(number), text);
        }
    }
}
