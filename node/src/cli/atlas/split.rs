//! A command in one text, cut into words as a shell would: quotes and backslashes, nothing else.

/// The words of `text`; `None`: a quote is not closed, or a backslash ends it.
pub(crate) fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\'' => quoted(&mut chars, word.get_or_insert_default(), |_| false, '\'')?,
            '"' => quoted(&mut chars, word.get_or_insert_default(), |char| matches!(char, '"' | '\\'), '"')?,
            '\\' => word.get_or_insert_default().push(chars.next()?),
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            char => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    Some(words)
}

/// Up to the closing quote; a backslash hides what `hides` says, and is itself elsewhere.
fn quoted(chars: &mut std::str::Chars<'_>, word: &mut String, hides: fn(char) -> bool, end: char) -> Option<()> {
    loop {
        match chars.next()? {
            char if char == end => return Some(()),
            '\\' if end == '"' => match chars.next()? {
                char if hides(char) => word.push(char),
                char => word.extend(['\\', char]),
            },
            char => word.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_python_s_shlex_cuts_them() {
        for (text, words) in [
            ("main.py --epochs 3", vec!["main.py", "--epochs", "3"]),
            ("  a\tb\n", vec!["a", "b"]),
            ("a 'b c' \"d e\"", vec!["a", "b c", "d e"]),
            ("a\\ b \"c\\\"d\" \"e\\n\" 'f\\'", vec!["a b", "c\"d", "e\\n", "f\\"]),
            ("a''b '' c#d #e", vec!["ab", "", "c#d", "#e"]),
            ("", vec![]),
        ] {
            assert_eq!(split(text), Some(words.iter().map(ToString::to_string).collect()), "{text}");
        }
        assert_eq!((split("a 'b"), split("\"a"), split("a\\")), (None, None, None));
    }
}
