//! `fnode export`: jobs as rows, or their points, for other tools. Jobs come page by page; rows wait in a file until all
//! columns are known, so memory does not grow with the number of jobs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Seek as _, Write};
use std::path::Path;

use serde_json::{Map, Value};

use super::args::{ExportArgs, ExportFormat, FilterArgs};
use super::client::{Client, query, segment};
use super::columns::{self, FIXED, FRACTION, WHOLE};
use super::error::CliError;
use super::exit::Exit;
use super::jobs::filter_pairs;
use super::output::{Output, say};
use super::sheet::{Column, Kind, Sheet};
use super::time::counted;
use crate::http::words::Done;
use crate::http::words::error::ErrorCode;
use crate::http::words::job::{JobLine, JobPage};
use crate::http::words::track::{SeriesNames, SeriesWord};

/// Jobs asked for at a time: with all that is recorded of them a page stays below a megabyte or so.
const PAGE: u32 = 200;
/// Points asked for at a time: the most that one answer has.
const POINTS: u32 = 5_000;

pub(super) async fn export(mut client: Client, args: &ExportArgs, output: Output) -> Result<Exit, CliError> {
    let mut target = Target::open(&args.out)?;
    let (rows, missed) = {
        let out: Box<dyn Write + Send> = Box::new(BufWriter::with_capacity(1 << 16, target.writer()?));
        if args.series { series(&mut client, args, out).await? } else { (jobs(&mut client, args, out).await?, 0) }
    };
    target.finish(&args.out)?;
    if args.out != Path::new("-") {
        let done = Done {
            action: "export".to_owned(),
            file: args.out.display().to_string(),
            rows: Some(rows),
            done: format!("{} of {} are in {}", counted(rows as usize, "row"), what(args.series), args.out.display()),
            ..Done::default()
        };
        super::cluster::print_done(&done, output)?;
    }
    if missed > 0 {
        say(&format!("fnode: the points of {missed} series could not be reached; try again when more nodes are up"));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Done)
}

fn what(series: bool) -> &'static str {
    if series { "points" } else { "jobs" }
}

/// Standard output, or a file that is whole when it has its name.
struct Target(Option<tempfile::NamedTempFile>);

impl Target {
    fn open(out: &Path) -> Result<Self, CliError> {
        if out == Path::new("-") {
            return Ok(Self(None));
        }
        let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        tempfile::NamedTempFile::new_in(dir).map(|file| Self(Some(file))).map_err(|error| unwritable(out, error))
    }

    fn writer(&mut self) -> Result<Box<dyn Write + Send>, CliError> {
        match &self.0 {
            None => Ok(Box::new(std::io::stdout())),
            Some(file) => Ok(Box::new(file.reopen().map_err(CliError::Output)?)),
        }
    }

    fn finish(&mut self, out: &Path) -> Result<(), CliError> {
        use std::os::unix::fs::PermissionsExt as _;
        let Some(file) = self.0.take() else { return Ok(()) };
        // As any file that a user makes; temporary ones are their owner's alone.
        let mode = std::fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(mode).map_err(|error| unwritable(out, error))?;
        file.persist(out).map(drop).map_err(|error| unwritable(out, error.error))
    }
}

fn unwritable(out: &Path, source: std::io::Error) -> CliError {
    CliError::File { verb: "write", path: out.to_owned(), source, remedy: "give another file with --out FILE" }
}

/// A page of jobs with what is recorded of them; an array stands for its jobs.
struct Pages<'a> {
    filter: &'a FilterArgs,
    next: Option<String>,
}

impl Pages<'_> {
    /// The next ones; empty: there are no more.
    async fn next(&mut self, client: &mut Client) -> Result<Vec<JobLine>, CliError> {
        let Some(after) = self.next.take() else { return Ok(Vec::new()) };
        let mut pairs = filter_pairs(self.filter);
        pairs.extend([("record", "1".to_owned()), ("limit", PAGE.to_string()), ("after", after)]);
        let page: JobPage = client.get(&format!("/jobs{}", query(&pairs))).await?;
        self.next = Some(page.next).filter(|next| !next.is_empty());
        let mut jobs = Vec::with_capacity(page.jobs.len());
        for job in page.jobs {
            if job.array.is_some() { jobs.extend(self.members(client, &job.id).await?) } else { jobs.push(job) }
        }
        // A page whose jobs were all filtered out is not the end.
        if jobs.is_empty() && self.next.is_some() { Box::pin(self.next(client)).await } else { Ok(jobs) }
    }

    async fn members(&self, client: &mut Client, id: &str) -> Result<Vec<JobLine>, CliError> {
        let (mut members, mut after) = (Vec::new(), String::new());
        loop {
            let state = self.filter.state.clone().unwrap_or_default();
            let pairs = [("state", state), ("record", "1".to_owned()), ("limit", "1000".to_owned()), ("after", after)];
            let page: JobPage = client.get(&format!("/jobs/{}/members{}", segment(id), query(&pairs))).await?;
            members.extend(page.jobs.into_iter().filter(|job| self.is_on_node(job)));
            if page.next.is_empty() {
                return Ok(members);
            }
            after = page.next;
        }
    }

    fn is_on_node(&self, job: &JobLine) -> bool {
        let named =
            |wanted: &String| job.node.as_ref().is_some_and(|node| node.name == *wanted || node.id.starts_with(wanted));
        self.filter.node.as_ref().is_none_or(named)
    }
}

/// One row per job. Returns how many.
async fn jobs(client: &mut Client, args: &ExportArgs, out: Box<dyn Write + Send>) -> Result<u64, CliError> {
    let mut spool = Spool::new()?;
    let mut pages = Pages { filter: &args.filter, next: Some(String::new()) };
    loop {
        let page = pages.next(client).await?;
        if page.is_empty() {
            break;
        }
        for job in page {
            spool.push(columns::row(&job, job.recorded.as_ref().unwrap_or(&Default::default())))?;
        }
    }
    spool.write(args.format, out)
}

/// Rows that wait, with the columns seen so far.
struct Spool {
    file: BufWriter<File>,
    /// Beside the fixed ones, by name.
    kinds: BTreeMap<String, Kind>,
    rows: u64,
}

impl Spool {
    fn new() -> Result<Self, CliError> {
        let file = tempfile::tempfile().map_err(CliError::Output)?;
        Ok(Self { file: BufWriter::new(file), kinds: BTreeMap::new(), rows: 0 })
    }

    fn push(&mut self, row: Vec<(String, Value)>) -> Result<(), CliError> {
        for (name, value) in row.iter().filter(|(name, value)| !FIXED.contains(&name.as_str()) && !value.is_null()) {
            let kind = Kind::of(value);
            let known = self.kinds.entry(name.clone()).or_insert(kind);
            *known = known.join(kind);
        }
        let row: Map<String, Value> = row.into_iter().collect();
        serde_json::to_writer(&mut self.file, &row).map_err(|error| CliError::Output(error.into()))?;
        self.file.write_all(b"\n").map_err(CliError::Output)?;
        self.rows += 1;
        Ok(())
    }

    fn write(self, format: ExportFormat, out: Box<dyn Write + Send>) -> Result<u64, CliError> {
        let mut file = self.file.into_inner().map_err(|error| CliError::Output(error.into_error()))?;
        file.rewind().map_err(CliError::Output)?;
        let fixed = FIXED.iter().map(|&name| Column { name: name.to_owned(), kind: fixed_kind(name) });
        let told = self.kinds.into_iter().map(|(name, kind)| Column { name, kind });
        let columns: Vec<Column> = fixed.chain(told).collect();
        let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
        let mut sheet = Sheet::new(format, columns, out)?;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(CliError::Output)?;
            let mut row: Map<String, Value> = serde_json::from_str(&line).unwrap_or_default();
            sheet.push(names.iter().map(|name| row.remove(name).unwrap_or_default()).collect())?;
        }
        sheet.finish()?;
        Ok(self.rows)
    }
}

fn fixed_kind(name: &str) -> Kind {
    match name {
        "git_dirty" => Kind::Bool,
        name if WHOLE.contains(&name) => Kind::Whole,
        name if FRACTION.contains(&name) => Kind::Number,
        _ => Kind::Text,
    }
}

/// One row per point. Returns how many, and of how many series they could not be had.
async fn series(client: &mut Client, args: &ExportArgs, out: Box<dyn Write + Send>) -> Result<(u64, u64), CliError> {
    let kinds = [
        ("job", Kind::Text),
        ("key", Kind::Text),
        ("step", Kind::Whole),
        ("time", Kind::Number),
        ("value", Kind::Number),
        ("text", Kind::Text),
    ];
    let columns = kinds.map(|(name, kind)| Column { name: name.to_owned(), kind });
    let mut sheet = Sheet::new(args.format, columns.into(), out)?;
    let mut pages = Pages { filter: &args.filter, next: Some(String::new()) };
    let (mut rows, mut missed) = (0, 0);
    loop {
        let page = pages.next(client).await?;
        if page.is_empty() {
            break;
        }
        for job in page {
            let keys = match series_names(client, &job).await {
                Ok(keys) => keys,
                Err(error) if error.is_refusal(ErrorCode::Unreachable) => {
                    missed += job.told.metrics.len() as u64 + u64::from(job.told.more_metrics);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for key in keys {
                match one_series(client, &job.id, &key, &mut sheet).await {
                    Ok(count) => rows += count,
                    Err(error) if error.is_refusal(ErrorCode::Unreachable) => missed += 1,
                    Err(error) => return Err(error),
                }
            }
        }
    }
    sheet.finish()?;
    Ok((rows, missed))
}

/// Names of a job's series: from its record, if that has all.
async fn series_names(client: &mut Client, job: &JobLine) -> Result<Vec<String>, CliError> {
    if job.told.more_metrics == 0 {
        return Ok(job.told.metrics.keys().chain(job.told.system.keys()).cloned().collect());
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page: SeriesNames =
            client.get(&format!("/jobs/{}/series{}", segment(&job.id), query(&[("after", after)]))).await?;
        names.extend(page.series.into_iter().map(|series| series.key));
        if page.next.is_empty() {
            return Ok(names);
        }
        after = page.next;
    }
}

/// The columns `value` and `text` of a point: true and false are numbers, too.
fn value_and_text(value: Value) -> (Value, Value) {
    match value {
        Value::Bool(told) => (u8::from(told).into(), told.to_string().into()),
        Value::String(_) => (Value::Null, value),
        number => (number, Value::Null),
    }
}

async fn one_series(client: &mut Client, job: &str, key: &str, sheet: &mut Sheet) -> Result<u64, CliError> {
    let mut after = 0;
    loop {
        let pairs = [("every", "1".to_owned()), ("points", POINTS.to_string()), ("after", after.to_string())];
        let path = format!("/jobs/{}/series/{}{}", segment(job), segment(key), query(&pairs));
        let page: SeriesWord = client.get(&path).await?;
        let count = page.points.len() as u64;
        for (step, time, value) in page.points {
            let (value, text) = value_and_text(value);
            sheet.push(vec![job.into(), key.into(), step.into(), time.into(), value, text])?;
        }
        after += count;
        if count == 0 || after >= page.count {
            return Ok(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_of_different_jobs_share_their_columns() {
        let mut spool = Spool::new().unwrap();
        let row =
            |pairs: &[(&str, Value)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        spool
            .push(row(&[("job", json!("a")), ("params.lr", json!(0.5)), ("metrics.loss", json!({"f": "nan"}))]))
            .unwrap();
        spool
            .push(row(&[("job", json!("b")), ("params.lr", json!("adaptive, \"yes\"")), ("tags.x", json!(true))]))
            .unwrap();
        let path = tempfile::NamedTempFile::new().unwrap();
        spool.write(ExportFormat::Csv, Box::new(path.reopen().unwrap())).unwrap();
        let text = std::fs::read_to_string(path.path()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("job,project,") && lines[0].ends_with(",note,metrics.loss,params.lr,tags.x"),
            "{text}"
        );
        assert!(lines[1].starts_with("a,,") && lines[1].ends_with(",NaN,0.5,"), "{text}");
        assert!(lines[2].ends_with(",,\"adaptive, \"\"yes\"\"\",true"), "{text}");
    }
}
