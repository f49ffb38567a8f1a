//! Lists of jobs in an order that somebody asked for: all that fit are looked at, as many as a page has are told.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use proto::record::{GroupRecord, JobRecord};
use proto::track::Summary;
use proto::{GroupId, JobId, Member};

use super::jobs::{BATCH, Seeing, Seen, Wanted, fits, look, recorded};
use super::members::{MemberWish, each_member};
use super::record::RanWiths;
use crate::http::describe;
use crate::http::order::{self, Row};
use crate::http::refusal::Refusal;
use crate::http::words::error::ErrorWord;
use crate::http::words::job::{JobLine, JobPage};
use crate::node::{NodeHandle, unix_ms};

/// Jobs looked at for one page, an array as one: a second or so. An order of some of them would be none.
const SORTED_MAX: usize = 100_000;

/// Jobs, an array as one.
pub(super) fn page(node: &NodeHandle, wanted: &Wanted, seeing: &Seeing) -> Result<JobPage, Refusal> {
    let mut page = order::Page::new(&wanted.order, wanted.cursor.clone(), wanted.limit, unix_ms());
    let mut filter = wanted.filter.clone();
    let mut scanned = 0;
    'all: loop {
        let groups = node.groups(&filter, BATCH)?;
        let is_last = groups.len() < BATCH;
        for (group, record) in groups {
            if group.unix_ms() < wanted.oldest_unix_ms {
                break 'all;
            }
            scanned = counted(scanned)?;
            filter.before = Some(group);
            let Some(seen) = look(node, group, &record, seeing)? else { continue };
            if fits(&seen, group, &record, wanted, seeing) {
                // The newest first, as ids are made of time.
                let tie = u128::MAX - u128::from_be_bytes(group.0);
                page.push(&row(&seen.line, &record, seen.job.as_ref(), tie), group);
            }
        }
        if is_last {
            break;
        }
    }
    let (groups, next) = page.finish()?;
    let mut ran_withs = RanWiths::new(node);
    let mut jobs = Vec::with_capacity(groups.len());
    for group in groups {
        let Some(record) = node.group(group)? else { continue };
        let Some(Seen { mut line, job, .. }) = look(node, group, &record, seeing)? else { continue };
        line.told = describe::told(job.as_ref());
        let told = wanted.recorded.then(|| recorded(node, (group, &record), &line, &mut ran_withs));
        jobs.push(JobLine { recorded: told.transpose()?, ..line });
    }
    Ok(JobPage { jobs, next })
}

/// Jobs of an array.
pub(super) fn members(
    node: &NodeHandle,
    id: GroupId,
    group: &GroupRecord,
    preparing: &BTreeSet<Member>,
    wish: &MemberWish,
    seeing: &Seeing,
) -> Result<JobPage, Refusal> {
    let line = |member: Member, job: Option<&JobRecord>| {
        let known = u64::from(preparing.contains(&member));
        let mut line = describe::bare_line(JobId { group: id, member }, group, job, known, &seeing.names)?;
        line.provisional = job.is_some_and(|job| describe::is_provisional(job, &seeing.view));
        Some(line)
    };
    let mut page = order::Page::new(&wish.order, wish.cursor.clone(), wish.limit, unix_ms());
    let mut scanned = 0;
    each_member(node, id, group, None, |member, job| {
        scanned = counted(scanned)?;
        let is_deleted = job.as_ref().is_some_and(|job| job.marks.deleted);
        if let Some(line) = line(member, job.as_ref())
            && !is_deleted
            && (wish.states.is_empty() || wish.states.contains(&line.state))
        {
            let index = if let Member::Index(index) = member { index } else { 0 };
            page.push(&row(&line, group, job.as_ref(), index.into()), member);
        }
        Ok::<_, Refusal>(ControlFlow::Continue(()))
    })?;
    let (members, next) = page.finish()?;
    let mut ran_withs = RanWiths::new(node);
    let mut jobs = Vec::with_capacity(members.len());
    for member in members {
        let job = node.job(JobId { group: id, member })?;
        let Some(mut line) = line(member, job.as_ref()) else { continue };
        line.told = describe::told(job.as_ref());
        if wish.recorded {
            line.recorded = Some(describe::recorded(&line, group, job.as_ref(), |content| ran_withs.get(content)));
        }
        jobs.push(line);
    }
    Ok(JobPage { jobs, next })
}

fn counted(scanned: usize) -> Result<usize, Refusal> {
    if scanned < SORTED_MAX {
        return Ok(scanned + 1);
    }
    let message = format!("more than {SORTED_MAX} jobs would have to be sorted");
    Err(ErrorWord::bad_input(message, "ask for fewer: by project, state, user, node, name or age").into())
}

fn row<'a>(line: &'a JobLine, group: &'a GroupRecord, job: Option<&'a JobRecord>, tie: u128) -> Row<'a> {
    let told: Option<&Summary> =
        job.and_then(JobRecord::counted).and_then(|(_, attempt)| Some(&attempt.tracked.as_ref()?.summary));
    let params_json = group.submitted.as_ref().map_or("", |submitted| &submitted.spec.params_json);
    Row { line, told, params_json, tie }
}
