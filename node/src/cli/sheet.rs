//! Rows with named columns, written as CSV, JSON Lines or Parquet. What JSON has no number for (NaN, the infinities) is
//! a number in Parquet, and in text `NaN`, `inf` and `-inf`, as Python and R read them.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use serde_json::Value;

use super::args::ExportFormat;
use super::columns::{number, special, text};
use super::error::CliError;

/// Rows of a Parquet file that wait in memory; readers like large groups, and a job's row has a few KiB at most.
const GROUP_ROWS: usize = 10_000;

/// What the values of a column are; several kinds together are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Whole,
    Number,
    Text,
}

/// One column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// A table that is being written.
pub(super) struct Sheet {
    columns: Vec<Column>,
    to: To,
}

enum To {
    Csv(Box<dyn Write + Send>),
    Json(Box<dyn Write + Send>),
    Parquet { writer: Box<SerializedFileWriter<Box<dyn Write + Send>>>, rows: Vec<Vec<Value>> },
}

impl Kind {
    /// Of one value that is there. Whole numbers are numbers: the next job's may be a fraction.
    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Bool(_) => Self::Bool,
            value if number(value).is_some() => Self::Number,
            _ => Self::Text,
        }
    }

    /// Of both.
    pub(super) fn join(self, other: Self) -> Self {
        if self == other { self } else { Self::Text }
    }
}

impl Sheet {
    /// An empty one.
    pub(super) fn new(
        format: ExportFormat,
        columns: Vec<Column>,
        mut out: Box<dyn Write + Send>,
    ) -> Result<Self, CliError> {
        let to = match format {
            ExportFormat::Csv => {
                let names: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
                writeln!(out, "{}", names.join(",")).map_err(broken)?;
                To::Csv(out)
            }
            ExportFormat::Json => To::Json(out),
            ExportFormat::Parquet => {
                let properties = Arc::new(WriterProperties::builder().build());
                let writer = SerializedFileWriter::new(out, schema(&columns).map_err(refused)?, properties);
                To::Parquet { writer: Box::new(writer.map_err(refused)?), rows: Vec::new() }
            }
        };
        Ok(Self { columns, to })
    }

    /// One more row: a value for each column, null where there is none.
    pub(super) fn push(&mut self, row: Vec<Value>) -> Result<(), CliError> {
        match &mut self.to {
            To::Csv(out) => {
                let cells: Vec<String> = row.iter().map(|value| quoted(&text(value))).collect();
                writeln!(out, "{}", cells.join(",")).map_err(broken)
            }
            To::Json(out) => {
                let named = self.columns.iter().zip(row).filter(|(_, value)| !value.is_null());
                let plain = |value: Value| special(&value).map_or(value.clone(), Value::from);
                let row: serde_json::Map<String, Value> =
                    named.map(|(column, value)| (column.name.clone(), plain(value))).collect();
                writeln!(out, "{}", Value::Object(row)).map_err(broken)
            }
            To::Parquet { writer, rows } => {
                rows.push(row);
                if rows.len() < GROUP_ROWS {
                    return Ok(());
                }
                write_group(writer, &self.columns, &std::mem::take(rows)).map_err(refused)
            }
        }
    }

    /// Writes what waits, and the end.
    pub(super) fn finish(self) -> Result<(), CliError> {
        match self.to {
            To::Csv(mut out) | To::Json(mut out) => out.flush().map_err(broken),
            To::Parquet { mut writer, rows } => {
                if !rows.is_empty() {
                    write_group(&mut writer, &self.columns, &rows).map_err(refused)?;
                }
                let mut out = writer.into_inner().map_err(refused)?;
                out.flush().map_err(broken)
            }
        }
    }
}

fn schema(columns: &[Column]) -> Result<Arc<Type>, ParquetError> {
    let field = |column: &Column| {
        let (physical, logical) = match column.kind {
            Kind::Bool => (Physical::BOOLEAN, None),
            Kind::Whole => (Physical::INT64, None),
            Kind::Number => (Physical::DOUBLE, None),
            Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let field = Type::primitive_type_builder(&column.name, physical).with_logical_type(logical);
        field.with_repetition(Repetition::OPTIONAL).build().map(Arc::new)
    };
    let fields = columns.iter().map(field).collect::<Result<Vec<_>, _>>()?;
    Type::group_type_builder("rows").with_fields(fields).build().map(Arc::new)
}

fn write_group<W: Write + Send>(
    writer: &mut SerializedFileWriter<W>,
    columns: &[Column],
    rows: &[Vec<Value>],
) -> Result<(), ParquetError> {
    let mut group = writer.next_row_group()?;
    for at in 0..columns.len() {
        let Some(mut column) = group.next_column()? else { break };
        let values = || rows.iter().map(|row| row.get(at).unwrap_or(&Value::Null));
        match column.untyped() {
            ColumnWriter::BoolColumnWriter(column) => {
                let (values, levels) = present(values(), Value::as_bool);
                column.write_batch(&values, Some(&levels), None)?;
            }
            ColumnWriter::Int64ColumnWriter(column) => {
                // Memory and times stay far below what a signed number holds.
                let whole = |value: &Value| value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX));
                let (values, levels) = present(values(), whole);
                column.write_batch(&values, Some(&levels), None)?;
            }
            ColumnWriter::DoubleColumnWriter(column) => {
                let (values, levels) = present(values(), number);
                column.write_batch(&values, Some(&levels), None)?;
            }
            ColumnWriter::ByteArrayColumnWriter(column) => {
                let bytes = |value: &Value| (!value.is_null()).then(|| ByteArray::from(text(value).into_bytes()));
                let (values, levels) = present(values(), bytes);
                column.write_batch(&values, Some(&levels), None)?;
            }
            _ => return Err(ParquetError::General("a column of a kind that the schema has not".to_owned())),
        }
        column.close()?;
    }
    group.close().map(drop)
}

/// The values that are there, and for each row whether there is one.
fn present<'a, T>(values: impl Iterator<Item = &'a Value>, read: impl Fn(&Value) -> Option<T>) -> (Vec<T>, Vec<i16>) {
    let (mut there, mut levels) = (Vec::new(), Vec::new());
    for value in values {
        let value = read(value);
        levels.push(i16::from(value.is_some()));
        there.extend(value);
    }
    (there, levels)
}

/// A cell of CSV (RFC 4180).
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// Whoever read it has seen enough: that is no failure.
fn broken(error: io::Error) -> CliError {
    if error.kind() == io::ErrorKind::BrokenPipe { CliError::OutputClosed } else { CliError::Output(error) }
}

fn refused(error: ParquetError) -> CliError {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => broken(*error),
            Err(source) => CliError::Output(io::Error::other(source)),
        },
        error => CliError::Output(io::Error::other(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::RowAccessor as _;
    use serde_json::json;

    fn column(name: &str, kind: Kind) -> Column {
        Column { name: name.to_owned(), kind }
    }

    fn written(format: ExportFormat, columns: Vec<Column>, rows: &[Vec<Value>]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sheet = Sheet::new(format, columns, Box::new(file.reopen().unwrap())).unwrap();
        rows.iter().for_each(|row| sheet.push(row.clone()).unwrap());
        sheet.finish().unwrap();
        file
    }

    #[test]
    fn parquet_keeps_numbers_text_and_what_is_missing() {
        let columns = vec![
            column("loss", Kind::Number),
            column("name", Kind::Text),
            column("at", Kind::Whole),
            column("dirty", Kind::Bool),
        ];
        let mut rows = vec![
            vec![json!({"f": "nan"}), json!("ä"), json!(1_700_000_000_000u64), json!(true)],
            vec![Value::Null, Value::Null, Value::Null, Value::Null],
        ];
        rows.resize(GROUP_ROWS + 5, vec![json!(0.5), json!([1, 2]), json!(-1), json!(false)]);
        let file = written(ExportFormat::Parquet, columns, &rows);
        let reader = SerializedFileReader::new(file.reopen().unwrap()).unwrap();
        assert_eq!((reader.num_row_groups(), reader.metadata().file_metadata().num_rows()), (2, rows.len() as i64));
        let read: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert!(read[0].get_double(0).unwrap().is_nan() && read[1].get_double(0).is_err(), "missing is not NaN");
        assert_eq!((read[0].get_string(1).unwrap().as_str(), read[0].get_long(2).unwrap()), ("ä", 1_700_000_000_000));
        assert_eq!((read[2].get_string(1).unwrap().as_str(), read[2].get_bool(3).unwrap()), ("[1,2]", false));
    }

    #[test]
    fn json_lines_name_what_is_there() {
        let rows = [vec![json!({"f": "inf"}), Value::Null], vec![Value::Null, json!({"a": 1})]];
        let columns = vec![column("x", Kind::Number), column("y", Kind::Text)];
        let text = std::fs::read_to_string(written(ExportFormat::Json, columns, &rows).path()).unwrap();
        assert_eq!(text, "{\"x\":\"inf\"}\n{\"y\":{\"a\":1}}\n");
    }

    #[test]
    fn kinds_that_differ_are_text() {
        assert_eq!(Kind::of(&json!(1)).join(Kind::of(&json!({"f": "-inf"}))), Kind::Number);
        assert_eq!(Kind::of(&json!(1)).join(Kind::of(&json!(true))), Kind::Text);
        assert_eq!(Kind::of(&json!([1])), Kind::Text);
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        for format in [ExportFormat::Csv, ExportFormat::Json, ExportFormat::Parquet] {
            let told = Sheet::new(format, vec![column("x", Kind::Number)], Box::new(Gone)).and_then(|mut sheet| {
                sheet.push(vec![json!(1)])?;
                sheet.finish()
            });
            assert!(matches!(told, Err(CliError::OutputClosed)), "{format:?}: {told:?}");
        }
    }
}
