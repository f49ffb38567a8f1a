//! Standard output and error: tables, JSON and plain lines. The result goes to standard output, the
//! conversation to standard error; colour only on a terminal that wants it.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::error::CliError;
use crate::http::words::job::StateWord;

/// Where a command's result goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    /// Output as the user asked for it.
    pub(crate) fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { json, colour: wanted && !json && io::stdout().is_terminal() }
    }

    /// Whether the user asked for JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints `record` as JSON, or what `text` makes of it.
    pub(crate) fn print<T: Serialize>(self, record: &T, text: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        if self.json { self.print_json(record) } else { write_out(ended(text(record)).as_bytes()) }
    }

    /// One value, indented on a terminal, in one line elsewhere.
    pub(crate) fn print_json<T: Serialize>(self, record: &T) -> Result<(), CliError> {
        let text = if io::stdout().is_terminal() {
            serde_json::to_string_pretty(record)
        } else {
            serde_json::to_string(record)
        };
        let text = text.map_err(|error| CliError::Output(io::Error::other(error)))?;
        write_out(ended(text).as_bytes())
    }

    /// One value in one line: for commands that print several, one after the other.
    pub(crate) fn print_json_line<T: Serialize>(self, record: &T) -> Result<(), CliError> {
        let text = serde_json::to_string(record).map_err(|error| CliError::Output(io::Error::other(error)))?;
        write_out(ended(text).as_bytes())
    }

    /// A state in its colour.
    pub(crate) fn state(self, state: StateWord) -> Cell {
        let colour = match state {
            StateWord::Queued | StateWord::Preparing => Color::Yellow,
            StateWord::Running => Color::Cyan,
            StateWord::Completed => Color::Green,
            StateWord::Failed => Color::Red,
            StateWord::Stopped => Color::Magenta,
        };
        self.cell(state.as_str(), colour)
    }

    /// A cell in a colour, where colours are wanted.
    pub(crate) fn cell(self, text: &str, colour: Color) -> Cell {
        if self.colour { Cell::new(text).fg(colour) } else { Cell::new(text) }
    }
}

/// Writes to standard output at once; a closed pipe ends the command quietly.
pub(crate) fn write_out(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::Output(error),
    })
}

/// One line of conversation; a closed standard error changes nothing.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Text of jobs and users as it may be shown: control characters could change the terminal, or the table.
pub(super) fn clean(text: &str, keeps: &[char]) -> String {
    let is_odd = |c: char| c.is_control() && !keeps.contains(&c);
    text.chars().flat_map(|c| if is_odd(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

fn clean_cell(cell: Cell, output: &str) -> Cell {
    if output.chars().any(char::is_control) { Cell::new(clean(output, &[])) } else { cell }
}

/// A table without frames.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let header: Vec<String> = header.iter().map(|name| clean(name, &[]).to_uppercase()).collect();
    table_as_titled(&header, rows)
}

/// [`table`], with titles that stay as they are: ids, which somebody may copy.
pub(crate) fn table_as_titled(header: &[String], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| clean(name, &[])));
    for row in rows {
        table.add_row(row.into_iter().map(|cell| {
            let content = cell.content();
            clean_cell(cell, &content)
        }));
    }
    // Frames are gone, but each cell keeps the space that stood beside one.
    let text = table.to_string();
    text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect::<Vec<_>>().join("\n")
}

/// Lines of `name   value`, aligned; empty values are left out.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        for (at, line) in value.lines().enumerate() {
            let name = if at == 0 { name } else { "" };
            text.push_str(&format!("{name:width$}  {}\n", clean(line, &['\t'])));
        }
    }
    text
}

fn ended(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain_columns() {
        let rows = vec![vec![Cell::new("a"), Cell::new(1)], vec![Cell::new("bbb"), Cell::new("")]];
        assert_eq!(table(&["id", "n"], rows), "ID   N\na    1\nbbb");
    }

    #[test]
    fn fields_are_aligned_and_empty_ones_left_out() {
        let text = fields(&[("id", "7".to_owned()), ("note", String::new()), ("command", "a\nb".to_owned())]);
        assert_eq!(text, "id       7\ncommand  a\n         b\n");
    }

    #[test]
    fn a_job_cannot_speak_to_the_terminal() {
        let rows = vec![vec![Cell::new("\u{1b}[31mred\nx"), Cell::new("ä")]];
        assert_eq!(table(&["a\u{7}", "b"], rows), "A\\U{7}            B\n\\u{1b}[31mred\\nx  ä");
        assert_eq!(fields(&[("tags", "k=\u{1b}[2J\tv".to_owned())]), "tags  k=\\u{1b}[2J\tv\n");
    }
}
