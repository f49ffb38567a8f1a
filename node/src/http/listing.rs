//! Filters and order of Atlas's job listing, over its own words. Pure; `answers/atlas.rs` reads the jobs.

use std::cmp::Ordering;

use serde_json::Value;

use super::words::atlas::{AtlasJob, AtlasValue, parse_duration, parse_minute};
use super::words::error::ErrorWord;

/// What a query asks for.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    filters: Vec<Filter>,
    /// Columns, with whether downwards.
    sort: Vec<(String, bool)>,
}

#[derive(Debug, PartialEq)]
struct Filter {
    column: String,
    test: Test,
}

#[derive(Debug, PartialEq)]
enum Test {
    From(f64),
    To(f64),
    Contains(String),
    IsNull(bool),
    Among(Vec<String>),
}

impl Wish {
    /// From the parts of a query.
    ///
    /// # Errors
    /// What cannot be read, with what to write.
    pub(crate) fn parse(pairs: &[(String, String)]) -> Result<Self, ErrorWord> {
        let mut wish = Self::default();
        for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
            if name == "sort" {
                wish.sort.extend(value.split(',').map(|column| match column.strip_prefix('-') {
                    Some(column) => (column.to_owned(), true),
                    None => (column.to_owned(), false),
                }));
                continue;
            }
            let (column, test) = match name.rsplit_once('_') {
                Some((column, "starts")) => (column, Test::From(bound(column, value)?)),
                Some((column, "ends")) => (column, Test::To(bound(column, value)?)),
                Some((column, "contains")) => (column, Test::Contains(value.clone())),
                Some((column, "isnull")) => (column, Test::IsNull(value == "true")),
                _ => (name.as_str(), Test::Among(value.split(',').map(str::to_owned).collect())),
            };
            wish.filters.push(Filter { column: column.to_owned(), test });
        }
        Ok(wish)
    }

    /// One column, as `job_listing/COLUMN/asc`.
    pub(crate) fn by(column: &str, is_down: bool) -> Self {
        Self { filters: Vec::new(), sort: vec![(column.to_owned(), is_down)] }
    }

    /// Leaves of `jobs` what is wanted, in the order wanted; without one they stay as they are.
    pub(crate) fn apply(&self, jobs: &mut Vec<AtlasJob>) {
        jobs.retain(|job| self.filters.iter().all(|filter| filter.fits(job)));
        for (column, is_down) in self.sort.iter().rev() {
            let mut keyed: Vec<(Option<Cell>, AtlasJob)> =
                std::mem::take(jobs).into_iter().map(|job| (cell(&job, column), job)).collect();
            keyed.sort_by(|(one, _), (other, _)| match (one, other) {
                // What a job has not comes last, in both directions.
                (Some(one), Some(other)) if *is_down => other.compare(one),
                (Some(one), Some(other)) => one.compare(other),
                (one, other) => other.is_some().cmp(&one.is_some()),
            });
            jobs.extend(keyed.into_iter().map(|(_, job)| job));
        }
    }
}

/// A limit in the unit of its column.
fn bound(column: &str, text: &str) -> Result<f64, ErrorWord> {
    let (value, form) = match column {
        "duration" => (parse_duration(text).map(|ms| ms as f64), "d_h_m_s"),
        "start_time" | "completed_time" | "creation_time" => {
            (parse_minute(text).map(|ms| ms as f64), "mm_dd_YYYY_HH_MM")
        }
        _ => (text.parse().ok(), "a number"),
    };
    value.ok_or_else(|| ErrorWord::bad_input(format!("{text:?} is no limit for {column}"), format!("write {form}")))
}

impl Filter {
    fn fits(&self, job: &AtlasJob) -> bool {
        let cell = cell(job, &self.column);
        match &self.test {
            Test::From(from) => cell.is_some_and(|cell| matches!(cell, Cell::Number(number) if number >= *from)),
            Test::To(to) => cell.is_some_and(|cell| matches!(cell, Cell::Number(number) if number <= *to)),
            Test::Contains(part) => cell.is_some_and(|cell| cell.text().contains(part)),
            Test::IsNull(is_null) => cell.is_none() == *is_null,
            Test::Among(all) => cell.is_some_and(|cell| all.contains(&cell.text())),
        }
    }
}

/// A value of a column, to compare.
#[derive(Debug, PartialEq)]
enum Cell {
    Number(f64),
    Text(String),
}

impl Cell {
    fn text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => one.total_cmp(other),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

/// What `job` has in `column`: of its own, else of the parameter or metric of that name. `None`: nothing.
fn cell(job: &AtlasJob, column: &str) -> Option<Cell> {
    let text = |text: &str| (!text.is_empty()).then(|| Cell::Text(text.to_owned()));
    let time = |time: Option<u64>| time.map(|time| Cell::Number(time as f64));
    match column {
        "job_id" => text(&job.job_id),
        "user" => text(&job.user),
        "project" => text(&job.project),
        "status" => text(&job.status),
        "creation_time" => time(Some(job.times_ms.created)),
        "start_time" => time(job.times_ms.started),
        "completed_time" => time(job.times_ms.ended),
        "duration" => time(job.times_ms.lasted),
        "tags" => text(&job.tags.keys().cloned().collect::<Vec<_>>().join(",")),
        _ => match column.split_once(':') {
            // Pages of Atlas ask for `parameters:x` where its server knew `input_params:x`: both are understood.
            Some(("input_params" | "parameters", name)) => value(&job.job_parameters, name),
            Some(("output_metrics", name)) => value(&job.output_metrics, name),
            _ => value(&job.job_parameters, column).or_else(|| value(&job.output_metrics, column)),
        },
    }
}

fn value(values: &[AtlasValue], name: &str) -> Option<Cell> {
    let found = values.iter().find(|value| value.name == name)?;
    match &found.value {
        Value::Null => None,
        Value::Number(number) => number.as_f64().map(Cell::Number),
        Value::String(text) => Some(Cell::Text(text.clone())),
        other => Some(Cell::Text(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::words::atlas::AtlasTimes;
    use serde_json::json;

    fn job(id: &str, lr: Value, lasted: u64, status: &str) -> AtlasJob {
        AtlasJob {
            job_id: id.to_owned(),
            status: status.to_owned(),
            job_parameters: vec![AtlasValue::of("lr", &lr)],
            times_ms: AtlasTimes { lasted: Some(lasted), ..AtlasTimes::default() },
            ..AtlasJob::default()
        }
    }

    fn listed(query: &[(&str, &str)]) -> String {
        let mut jobs = vec![
            job("a", json!(0.5), 9_000, "completed"),
            job("b", json!(null), 1_000, "failed"),
            job("c", json!("warm"), 5_000, "completed"),
            job("d", json!(0.1), 70_000, "running"),
        ];
        let pairs: Vec<(String, String)> =
            query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Wish::parse(&pairs).unwrap().apply(&mut jobs);
        jobs.iter().map(|job| job.job_id.as_str()).collect()
    }

    #[test]
    fn filters_are_those_of_atlas() {
        for (query, found) in [
            (&[][..], "abcd"),
            (&[("status", "completed,failed")][..], "abc"),
            (&[("lr_starts", "0.2")][..], "a"),
            (&[("lr_starts", "0.1"), ("lr_ends", "0.5")][..], "ad"),
            (&[("lr_contains", "ar")][..], "c"),
            (&[("lr_isnull", "true")][..], "b"),
            (&[("lr_isnull", "false"), ("status", "running")][..], "d"),
            (&[("duration_starts", "0_0_0_5"), ("duration_ends", "0_0_1_0")][..], "ac"),
            (&[("none_contains", "x")][..], ""),
        ] {
            assert_eq!(listed(query), found, "{query:?}");
        }
    }

    #[test]
    fn columns_sort_both_ways_with_what_is_missing_last() {
        assert_eq!(listed(&[("sort", "lr")]), "dacb");
        assert_eq!(listed(&[("sort", "-input_params:lr")]), "cadb");
        assert_eq!(listed(&[("sort", "status,-duration")]), "acbd");
        assert_eq!(listed(&[("sort", "nothing")]), "abcd");
    }

    #[test]
    fn a_limit_that_is_none_is_refused() {
        for (name, value) in [("lr_starts", "x"), ("duration_ends", "5"), ("start_time_starts", "2026-11-21")] {
            assert!(Wish::parse(&[(name.to_owned(), value.to_owned())]).is_err(), "{name}");
        }
    }
}
