//! The jobs of an array, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use axum::Json;
use axum::extract::State;
use proto::record::{GroupRecord, JobRecord};
use proto::{GroupId, JobId, Member};

use super::jobs::{BATCH, Seeing, bad_cursor, limit, states};
use super::record::RanWiths;
use super::{Answered, job_id, job_records, sorted, view};
use crate::http::describe;
use crate::http::order::{Cursor, Order};
use crate::http::refusal::{Asked, Path, Refusal, blocking};
use crate::http::routes::Shared;
use crate::http::words::job::{JobPage, MemberQuery, StateWord};
use crate::node::{NodeError, NodeHandle};

/// Members of an array looked at for one page.
const MEMBERS_SCANNED_MAX: usize = 50_000;

pub(crate) async fn list(
    State(Shared { api, .. }): State<Shared>,
    Path(id): Path<String>,
    Asked(query): Asked<MemberQuery>,
) -> Answered<JobPage> {
    let id = job_id(&api.node, &id).await?;
    let (group, _) = job_records(&api.node, id).await?;
    let (view, names) = view(&api.node).await?;
    let order = Order::parse(&query.sort)?;
    let (after, cursor) = match query.after.as_str() {
        "" => (None, None),
        text if order.is_default() => (Some(text.parse::<u32>().map_err(|_| bad_cursor(text))?), None),
        text => (None, order.cursor(text)?),
    };
    let (states, limit, recorded) = (states(&query.state)?, limit(query.limit)?, query.record != 0);
    let preparing: BTreeSet<Member> =
        describe::preparing(&view).remove(&id.group).unwrap_or_default().into_iter().collect();
    let handle = api.node.clone();
    let wish = MemberWish { states, after, limit, recorded, order, cursor };
    let seeing = Seeing { preparing: BTreeMap::new(), view, names };
    let listed = move || match wish.order.is_default() {
        true => member_page(&handle, id.group, &group, &preparing, &wish, &seeing).map_err(Refusal::from),
        false => sorted::members(&handle, id.group, &group, &preparing, &wish, &seeing),
    };
    Ok(Json(blocking(listed).await?))
}

/// A [`MemberQuery`] with everything looked up.
pub(super) struct MemberWish {
    pub(super) states: BTreeSet<StateWord>,
    after: Option<u32>,
    pub(super) limit: usize,
    pub(super) recorded: bool,
    pub(super) order: Order,
    /// Where the page before ended, in an order that was asked for.
    pub(super) cursor: Option<Cursor>,
}

fn member_page(
    node: &NodeHandle,
    id: GroupId,
    group: &GroupRecord,
    preparing: &BTreeSet<Member>,
    wish: &MemberWish,
    Seeing { view, names, .. }: &Seeing,
) -> Result<JobPage, NodeError> {
    let mut page = JobPage::default();
    let mut ran_withs = RanWiths::new(node);
    let mut scanned = 0;
    each_member(node, id, group, wish.after, |member, job| {
        scanned += 1;
        let known = u64::from(preparing.contains(&member));
        let line = describe::job_line(JobId { group: id, member }, group, job.as_ref(), known, names);
        let Some(mut line) = line else { return Ok(ControlFlow::Continue(())) };
        line.provisional = job.as_ref().is_some_and(|job| describe::is_provisional(job, view));
        if wish.recorded {
            line.recorded = Some(describe::recorded(&line, group, job.as_ref(), |content| ran_withs.get(content)));
        }
        let is_deleted = job.is_some_and(|job| job.marks.deleted);
        if !is_deleted && (wish.states.is_empty() || wish.states.contains(&line.state)) {
            page.jobs.push(line);
        }
        if page.jobs.len() < wish.limit && scanned < MEMBERS_SCANNED_MAX {
            return Ok::<_, NodeError>(ControlFlow::Continue(()));
        }
        if let Member::Index(index) = member {
            page.next = index.to_string();
        }
        Ok(ControlFlow::Break(()))
    })?;
    Ok(page)
}

/// Tells `each` the members of an array after `after`, with their records, until it has enough.
pub(super) fn each_member<E: From<NodeError>>(
    node: &NodeHandle,
    id: GroupId,
    group: &GroupRecord,
    after: Option<u32>,
    mut each: impl FnMut(Member, Option<JobRecord>) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let Some(submitted) = &group.submitted else { return Ok(()) };
    let mut records: BTreeMap<Member, JobRecord> = BTreeMap::new();
    let mut read_to = after.map(Member::Index);
    let mut all_read = false;
    for member in submitted.spec.members().filter(|member| after.is_none_or(|after| *member > Member::Index(after))) {
        // Records come in the order of members; those without one are queued.
        while !all_read && read_to.is_none_or(|read_to| read_to < member) {
            let batch = node.jobs_of(id, read_to, BATCH)?;
            all_read = batch.len() < BATCH;
            read_to = batch.last().map(|(member, _)| *member).or(read_to);
            records.extend(batch);
        }
        if each(member, records.remove(&member))?.is_break() {
            break;
        }
    }
    Ok(())
}
