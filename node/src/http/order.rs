//! The order of a list of jobs, by columns that a user names. Pure; `answers/sorted.rs` reads the jobs.
//!
//! A page ends at a place: the values of its last job in these columns, and which job it was. The next one begins after
//! that place, whatever came or went in between: no job that stayed as it was is shown twice or left out.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use proto::codec::decode_body;
use proto::track::{Scalar, Summary};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::near::nearest;
use super::words::error::ErrorWord;
use super::words::job::JobLine;

/// Columns of one order: beyond a few no two jobs are equal.
const COLUMNS_MAX: usize = 8;
/// Texts are compared by so many characters: a place must fit into a query.
const TEXT_MAX: usize = 64;
/// Names of metrics, parameters or tags that are looked through for one that was meant.
const NAMES_MAX: usize = 1_000;
/// Columns that are words of their own, as lists and tables name them.
const WORDS: [&str; 14] = [
    "id",
    "job",
    "submitted",
    "started",
    "ended",
    "duration",
    "took",
    "state",
    "project",
    "name",
    "user",
    "node",
    "tags",
    "command",
];
/// Columns that need a name behind a colon.
const KINDS: [&str; 3] = ["metric", "param", "tag"];

/// Which columns, each with whether downwards; empty: the newest first.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Order(Vec<(Column, bool)>);

#[derive(Debug, PartialEq)]
enum Column {
    Word(&'static str),
    Metric(String),
    Param(String),
    Tag(String),
}

/// A job as far as columns look at it.
pub(crate) struct Row<'a> {
    /// Without what it told of itself.
    pub(crate) line: &'a JobLine,
    /// What it told.
    pub(crate) told: Option<&'a Summary>,
    /// Parameters that it was given, as JSON text.
    pub(crate) params_json: &'a str,
    /// What comes first of equal jobs: the lower.
    pub(crate) tie: u128,
}

/// Where a job stands in an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Place {
    cells: Vec<Option<Cell>>,
    tie: u128,
}

/// A value of a column, to compare. NaN is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Cell {
    Number(f64),
    Text(String),
}

/// The end of a page: when the first page was made, since jobs that run grow older from page to page, and the place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    pub(crate) now_unix_ms: u64,
    pub(crate) place: Place,
}

impl Order {
    /// From `-metric:loss,submitted`.
    ///
    /// # Errors
    /// A column that is none, with the one that may be meant.
    pub(crate) fn parse(text: &str) -> Result<Self, ErrorWord> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let columns = text.split(',').map(|part| match part.trim().strip_prefix('-') {
            Some(column) => Ok((Column::parse(column)?, true)),
            None => Ok((Column::parse(part.trim())?, false)),
        });
        let columns = columns.collect::<Result<Vec<_>, ErrorWord>>()?;
        if columns.len() > COLUMNS_MAX {
            let message = format!("{} columns to sort by are more than {COLUMNS_MAX}", columns.len());
            return Err(ErrorWord::bad_input(message, "name fewer"));
        }
        Ok(Self(columns))
    }

    /// Whether jobs come as they always do.
    pub(crate) fn is_default(&self) -> bool {
        self.0.is_empty()
    }

    /// Where a job stands.
    pub(crate) fn place(&self, row: &Row<'_>, now_unix_ms: u64) -> Place {
        Place { cells: self.0.iter().map(|(column, _)| column.cell(row, now_unix_ms)).collect(), tie: row.tie }
    }

    /// Which of two places comes first. What a job has not comes last, in both directions.
    pub(crate) fn compare(&self, one: &Place, other: &Place) -> Ordering {
        let cells = one.cells.iter().zip(&other.cells).zip(&self.0);
        let mut orders = cells.map(|((one, other), (_, is_down))| match (one, other) {
            (Some(one), Some(other)) if *is_down => other.compare(one),
            (Some(one), Some(other)) => one.compare(other),
            (one, other) => other.is_some().cmp(&one.is_some()),
        });
        orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal).then(one.tie.cmp(&other.tie))
    }

    /// The end of a page of this order.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn cursor(&self, text: &str) -> Result<Option<Cursor>, ErrorWord> {
        if text.is_empty() {
            return Ok(None);
        }
        let pair = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(pair).collect();
        let cursor = bytes.and_then(|bytes| decode_body::<Cursor>(&bytes).ok());
        let fits = |cursor: &Cursor| cursor.place.cells.len() == self.0.len();
        let refuse = || {
            let message =
                format!("{:?} is not the end of a page of this order", text.chars().take(20).collect::<String>());
            ErrorWord::bad_input(message, "give the next of the page before, with the same sort")
        };
        cursor.filter(fits).map(Some).ok_or_else(refuse)
    }
}

impl Cursor {
    /// As clients hand it back.
    pub(crate) fn to_text(&self) -> String {
        let bytes = bincode::serde::encode_to_vec(self, bincode::config::standard());
        bytes.expect("a cursor holds only what bincode carries").iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Column {
    fn parse(text: &str) -> Result<Self, ErrorWord> {
        let known = WORDS.iter().find(|word| **word == text);
        match (known, text.split_once(':')) {
            (Some(word), _) => Ok(Self::Word(word)),
            (None, Some(("metric", name))) if !name.is_empty() => Ok(Self::Metric(name.to_owned())),
            (None, Some(("param", name))) if !name.is_empty() => Ok(Self::Param(name.to_owned())),
            (None, Some(("tag", name))) if !name.is_empty() => Ok(Self::Tag(name.to_owned())),
            (None, named) => Err(unknown(text, named)),
        }
    }

    fn cell(&self, row: &Row<'_>, now_unix_ms: u64) -> Option<Cell> {
        match self {
            Self::Word(word) => word_cell(word, row.line, now_unix_ms),
            Self::Metric(name) => of_scalar(&row.told?.metrics.get(name)?.last),
            Self::Param(name) => param(name, row),
            Self::Tag(name) => row.line.tags.get(name).and_then(|value| told_text(value)),
        }
    }

    /// The name of a metric, parameter or tag, where it is one.
    fn named(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Word(_) => None,
            Self::Metric(name) => Some(("metric", name)),
            Self::Param(name) => Some(("param", name)),
            Self::Tag(name) => Some(("tag", name)),
        }
    }
}

fn unknown(text: &str, named: Option<(&str, &str)>) -> ErrorWord {
    let message = format!("{text:?} is no column to sort by");
    let meant = match named {
        Some((kind, name)) if !name.is_empty() => nearest(kind, &KINDS).map(|kind| format!("{kind}:{name}")),
        Some(_) => None,
        None => nearest(text, &WORDS).map(str::to_owned),
    };
    match meant {
        Some(meant) => ErrorWord::bad_input(message, format!("did you mean {meant}?")),
        None => {
            let hint = "write submitted, started, ended, duration, state, user, project, name, node, tags, id, command, \
                 metric:NAME, param:NAME or tag:NAME, with - before it for the largest first";
            ErrorWord::bad_input(message, hint)
        }
    }
}

fn word_cell(word: &str, line: &JobLine, now_unix_ms: u64) -> Option<Cell> {
    let time = |time: Option<u64>| time.map(|time| Cell::Number(time as f64));
    match word {
        "submitted" => time(Some(line.submitted_unix_ms)),
        "started" => time(line.started_unix_ms),
        "ended" => time(line.ended_unix_ms.filter(|_| line.state.is_final())),
        "duration" | "took" => {
            let lasted = |started| line.ended_unix_ms.unwrap_or(now_unix_ms).saturating_sub(started);
            time(line.started_unix_ms.map(lasted))
        }
        // In the order of a job's life.
        "state" => Some(Cell::Number(f64::from(line.state as u8))),
        "project" => told_text(&line.project),
        "name" => told_text(&line.name),
        "user" => told_text(&line.user),
        "node" => told_text(&line.node.as_ref()?.name),
        "tags" => {
            let tags: Vec<String> = line.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            told_text(&tags.join(","))
        }
        "command" => told_text(&line.command.join(" ")),
        _ => told_text(&line.id),
    }
}

/// Of what the job logged, loaded and was given, what it logged counts (`TrackedWord::all_params`).
fn param(name: &str, row: &Row<'_>) -> Option<Cell> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    let of = |text: &str| if text.is_empty() { None } else { parse(text)?.get_mut(name).map(Value::take) };
    let logged = || parse(row.told?.params.get(name)?);
    let loaded = || of(&row.told?.input_params);
    let value = logged().or_else(loaded).or_else(|| of(row.params_json))?;
    match &value {
        Value::Null => None,
        Value::Number(number) => of_number(number.as_f64()?),
        Value::Bool(told) => of_number(f64::from(u8::from(*told))),
        Value::String(text) => told_text(text),
        Value::Object(told) if told.len() == 1 => match told.get("f").and_then(Value::as_str) {
            Some("inf") => of_number(f64::INFINITY),
            Some("-inf") => of_number(f64::NEG_INFINITY),
            Some("nan") => None,
            _ => told_text(&value.to_string()),
        },
        other => told_text(&other.to_string()),
    }
}

fn of_scalar(value: &Scalar) -> Option<Cell> {
    match value {
        Scalar::Number(number) => of_number(number.get()),
        Scalar::Bool(told) => of_number(f64::from(u8::from(*told))),
        Scalar::Text(text) => told_text(text),
    }
}

fn of_number(value: f64) -> Option<Cell> {
    // Zero is zero, whatever its sign.
    (!value.is_nan()).then_some(Cell::Number(value + 0.0))
}

fn told_text(text: &str) -> Option<Cell> {
    (!text.is_empty()).then(|| Cell::Text(text.chars().take(TEXT_MAX).collect()))
}

impl Cell {
    /// Numbers before texts.
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => one.total_cmp(other),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

/// Picks the first jobs after a place of many that come in any order; holds about twice as many as are wanted.
pub(crate) struct Page<'a, T> {
    order: &'a Order,
    now_unix_ms: u64,
    after: Option<Place>,
    limit: usize,
    found: Vec<(Place, T)>,
    /// What comes after it is not wanted.
    last: Option<Place>,
    has_more: bool,
    unseen: Vec<Unseen<'a>>,
}

/// A named column that no job had so far, and the names that jobs had instead.
struct Unseen<'a> {
    kind: &'static str,
    name: &'a str,
    names: BTreeSet<String>,
}

impl<'a, T> Page<'a, T> {
    /// The first `limit` jobs after `cursor`.
    pub(crate) fn new(order: &'a Order, cursor: Option<Cursor>, limit: usize, now_unix_ms: u64) -> Self {
        let (now_unix_ms, after) = match cursor {
            Some(cursor) => (cursor.now_unix_ms, Some(cursor.place)),
            None => (now_unix_ms, None),
        };
        let unseen = |(kind, name)| Unseen { kind, name, names: BTreeSet::new() };
        let unseen = order.0.iter().filter_map(|(column, _)| column.named()).map(unseen).collect();
        Self { order, now_unix_ms, after, limit, found: Vec::new(), last: None, has_more: false, unseen }
    }

    /// One more job.
    pub(crate) fn push(&mut self, row: &Row<'_>, job: T) {
        self.unseen.retain_mut(|unseen| !unseen.look(row));
        let place = self.order.place(row, self.now_unix_ms);
        let order = self.order;
        if self.after.as_ref().is_some_and(|after| order.compare(&place, after).is_le()) {
            return;
        }
        if self.last.as_ref().is_some_and(|last| order.compare(&place, last).is_ge()) {
            self.has_more = true;
            return;
        }
        self.found.push((place, job));
        if self.found.len() >= 2 * self.limit.max(1) {
            self.cut();
        }
    }

    /// Leaves the first ones.
    fn cut(&mut self) {
        let order = self.order;
        self.found.sort_by(|(one, _), (other, _)| order.compare(one, other));
        if self.found.len() > self.limit {
            self.found.truncate(self.limit);
            self.has_more = true;
            self.last = self.found.last().map(|(place, _)| place.clone());
        }
    }

    /// The jobs in order, and the end of the page; empty: there are no more.
    ///
    /// # Errors
    /// No job had a metric, parameter or tag that was named, but one whose name is like it.
    pub(crate) fn finish(mut self) -> Result<(Vec<T>, String), ErrorWord> {
        if let Some((unseen, meant)) = self.unseen.iter().find_map(|unseen| Some((unseen, unseen.meant()?))) {
            let message = format!("none of these jobs has a {} {:?}", unseen.kind, unseen.name);
            return Err(ErrorWord::bad_input(message, format!("did you mean {}:{meant}?", unseen.kind)));
        }
        self.cut();
        let end = self.found.last().filter(|_| self.has_more).map(|(place, _)| place.clone());
        let now_unix_ms = self.now_unix_ms;
        let next = end.map(|place| Cursor { now_unix_ms, place }.to_text()).unwrap_or_default();
        Ok((self.found.into_iter().map(|(_, job)| job).collect(), next))
    }
}

impl Unseen<'_> {
    /// Whether the job has it after all.
    fn look(&mut self, row: &Row<'_>) -> bool {
        let has_room = self.names.len() < NAMES_MAX;
        let names: Vec<&String> = match (self.kind, row.told) {
            ("tag", _) => row.line.tags.keys().collect(),
            ("metric", Some(told)) => told.metrics.keys().collect(),
            (_, Some(told)) => told.params.keys().collect(),
            _ => Vec::new(),
        };
        let has_it =
            names.iter().any(|name| *name == self.name) || (self.kind == "param" && param(self.name, row).is_some());
        if !has_it && has_room {
            self.names.extend(names.into_iter().cloned());
        }
        has_it
    }

    fn meant(&self) -> Option<&str> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        nearest(self.name, &names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::track::MetricSummary;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom as _;
    use rand::{RngExt as _, SeedableRng as _};

    /// A job with a loss, as text when it is no number.
    fn job(at: u64, loss: Option<f64>, user: &str) -> (JobLine, Summary) {
        let line =
            JobLine { id: format!("{at:03}"), submitted_unix_ms: at, user: user.to_owned(), ..JobLine::default() };
        let mut told = Summary::default();
        if let Some(loss) = loss {
            told.metrics.insert("loss".to_owned(), MetricSummary::of(Scalar::Number(loss.into()), 0, 0));
            told.params.insert("lr".to_owned(), format!("{at}"));
        }
        (line, told)
    }

    fn row<'a>((line, told): &'a (JobLine, Summary)) -> Row<'a> {
        Row { line, told: Some(told), params_json: "", tie: u128::MAX - u128::from(line.submitted_unix_ms) }
    }

    fn page(
        jobs: &[(JobLine, Summary)],
        sort: &str,
        after: &str,
        limit: usize,
    ) -> Result<(Vec<String>, String), ErrorWord> {
        let order = Order::parse(sort)?;
        let mut page = Page::new(&order, order.cursor(after)?, limit, 1_000);
        jobs.iter().for_each(|job| page.push(&row(job), job.0.id.clone()));
        page.finish()
    }

    fn sorted(sort: &str) -> String {
        let jobs = [
            job(1, Some(0.5), "ada"),
            job(2, None, "bob"),
            job(3, Some(f64::NAN), "ada"),
            job(4, Some(f64::NEG_INFINITY), "bob"),
            job(5, Some(0.5), "cyd"),
            job(6, Some(-0.0), "bob"),
        ];
        let ids = page(&jobs, sort, "", 10).unwrap().0;
        ids.iter().map(|id| id.trim_start_matches('0')).collect()
    }

    #[test]
    fn columns_sort_both_ways_with_nan_and_what_is_missing_last() {
        assert_eq!(sorted("metric:loss"), "465132", "of equal ones the newest first");
        assert_eq!(sorted("-metric:loss"), "516432");
        assert_eq!(sorted("user,metric:loss"), "134625");
        assert_eq!(sorted("user,-submitted"), "316425");
        assert_eq!(sorted("-param:lr"), "654312");
        assert_eq!(sorted("-id"), "654321");
    }

    #[test]
    fn pages_of_any_size_show_every_job_once_also_while_others_come_and_go() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let any = |rng: &mut StdRng| match rng.random_range(0..6) {
                0 => None,
                1 => Some(f64::NAN),
                _ => Some(f64::from(rng.random_range(0..5_i32))),
            };
            let stays: Vec<_> =
                (0..100).map(|at| job(2 * at, any(&mut rng), ["ada", "bob"][at as usize % 2])).collect();
            for sort in ["metric:loss", "-metric:loss,user", "user,-metric:loss", "-submitted"] {
                let whole = page(&stays, sort, "", 1_000).unwrap();
                assert_eq!((whole.0.len(), whole.1.as_str()), (100, ""));
                let (mut seen, mut after) = (Vec::new(), String::new());
                loop {
                    let mut now = stays.clone();
                    now.extend((0..20).map(|_| job(2 * rng.random_range(0..100) + 1, any(&mut rng), "eve")));
                    now.shuffle(&mut rng);
                    let (ids, next) = page(&now, sort, &after, rng.random_range(1..30)).unwrap();
                    seen.extend(ids.into_iter().filter(|id| id.parse::<u64>().unwrap() % 2 == 0));
                    if next.is_empty() {
                        break;
                    }
                    after = next;
                }
                assert_eq!(seen, whole.0, "seed {seed}: {sort}");
            }
        }
    }

    #[test]
    fn a_job_that_runs_keeps_its_place_while_it_is_paged() {
        let running = |at: u64| JobLine { started_unix_ms: Some(at), ..job(at, None, "").0 };
        let jobs: Vec<_> = (1..=4).map(|at| (running(at), Summary::default())).collect();
        let order = Order::parse("-duration").unwrap();
        let mut seen = Vec::new();
        let mut after = String::new();
        for now in [10, 1_000, 100_000, 10_000_000] {
            let mut page = Page::new(&order, order.cursor(&after).unwrap(), 1, now);
            jobs.iter().for_each(|job| page.push(&row(job), job.0.id.clone()));
            let (ids, next) = page.finish().unwrap();
            seen.extend(ids);
            after = next;
        }
        assert_eq!((seen, after.as_str()), (["001", "002", "003", "004"].map(str::to_owned).into(), ""));
    }

    #[test]
    fn a_column_that_is_none_names_the_one_that_may_be_meant() {
        let jobs = [job(1, Some(0.5), "ada")];
        for (sort, message, hint) in [
            ("submited", "\"submited\" is no column to sort by", "did you mean submitted?"),
            ("-metrc:loss", "\"metrc:loss\" is no column to sort by", "did you mean metric:loss?"),
            ("metric:", "\"metric:\" is no column to sort by", "write submitted, "),
            ("loss", "\"loss\" is no column to sort by", "write submitted, "),
            ("user,,id", "\"\" is no column to sort by", "write submitted, "),
            ("metric:los", "none of these jobs has a metric \"los\"", "did you mean metric:loss?"),
            ("param:lrr", "none of these jobs has a param \"lrr\"", "did you mean param:lr?"),
            ("id,id,id,id,id,id,id,id,id", "9 columns to sort by are more than 8", "name fewer"),
        ] {
            let error = page(&jobs, sort, "", 10).unwrap_err();
            assert_eq!(error.message, message);
            assert!(error.hint.starts_with(hint), "{sort}: {}", error.hint);
        }
        assert!(page(&jobs, "metric:accuracy", "", 10).is_ok(), "not told yet is no mistake");
        let next = page(&[jobs[0].clone(), job(2, None, "")], "id", "", 1).unwrap().1;
        for (sort, after) in [("id,user", next.as_str()), ("id", "zz"), ("id", "ä"), ("id", "00"), ("id", &next[1..])]
        {
            assert!(page(&jobs, sort, after, 10).unwrap_err().message.contains("is not the end of a page"), "{after}");
        }
    }
}
