//! What the store answers to readers of any thread, from the table and the segments.
//!
//! No query waits for the writer's disk or keeps it from writing; each is bounded by a limit of its caller.
//! They block on the local disk, so asynchronous callers run long ones on a blocking thread.

use std::ops::ControlFlow;

use proto::entry::SignedEntry;
use proto::log::EntryRange;
use proto::record::{ClusterRecord, GroupRecord, JobRecord, NodeRecord, Record, RecordKey};
use proto::{GroupId, JobId, Member, NodeId, ProjectRecord};

use super::cell::{self, LogState, ProjectUse};
use super::error::{StoreError, TableError};
use super::journal::{Location, read_record};
use super::keys::{self, Key};
use super::medium::Medium;
use super::places;
use super::recover::io_error;
use super::table::{Order, Table};

/// Which groups a listing wants. Groups whose submission has not come yet are never in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFilter {
    /// Only of this project.
    pub project: Option<String>,
    /// Only of this user.
    pub user: Option<String>,
    /// Only groups with a job that has not ended.
    pub unfinished: bool,
    /// Also those that were archived or deleted.
    pub hidden: bool,
    /// Whether those are wanted that are parts of other jobs.
    pub parts: Parts,
    /// Only groups older than this one: the last of the page before.
    pub before: Option<GroupId>,
}

/// Which jobs that are parts of others a listing has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parts {
    /// None.
    #[default]
    Hidden,
    /// All, beside the others.
    Shown,
    /// Those of this job, and no others.
    Of(JobId),
}

/// A project as listings show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectSummary {
    /// Its name.
    pub name: String,
    /// Groups submitted to it, archived and deleted ones included.
    pub groups: u64,
    /// Jobs in them.
    pub jobs: u64,
    /// Its newest group.
    pub last_used: Option<GroupId>,
    /// What users wrote about it.
    pub record: ProjectRecord,
}

/// All pairs whose key starts with `prefix`.
pub(crate) fn pairs(table: &dyn Table, prefix: &[u8]) -> Result<Vec<(Key, Vec<u8>)>, TableError> {
    collect(table, prefix, &keys::after(prefix), usize::MAX)
}

fn collect(table: &dyn Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Key, Vec<u8>)>, TableError> {
    let mut found = Vec::new();
    table.scan(from, to, Order::Ascending, &mut |key, value| {
        if found.len() < limit {
            found.push((key.to_vec(), value.to_vec()));
        }
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(found)
}

/// Every unfinished group with its job records, then all nodes, projects and the cluster.
pub(crate) fn live(table: &dyn Table) -> Result<Vec<(RecordKey, Record)>, TableError> {
    let mut live = Vec::new();
    for (key, _) in pairs(table, keys::UNFINISHED)? {
        if let Some(group) = keys::group_of(&key) {
            live.extend(group_with_jobs(table, group)?);
        }
    }
    live.extend(nodes(table)?.into_iter().map(|(node, record)| (RecordKey::Node(node), Record::Node(record))));
    live.extend(described_projects(table)?);
    live.extend(record(table, &RecordKey::Cluster)?.map(|record| (RecordKey::Cluster, record)));
    Ok(live)
}

/// A group's record and those of its jobs.
pub(crate) fn group_with_jobs(table: &dyn Table, group: GroupId) -> Result<Vec<(RecordKey, Record)>, TableError> {
    let key = RecordKey::Group(group);
    let mut records: Vec<(RecordKey, Record)> = record(table, &key)?.map(|record| (key, record)).into_iter().collect();
    for (member, job) in jobs_of(table, group, None, usize::MAX)? {
        records.push((RecordKey::Job(JobId { group, member }), Record::Job(job)));
    }
    Ok(records)
}

/// Every project that somebody described, by name.
pub(crate) fn described_projects(table: &dyn Table) -> Result<Vec<(RecordKey, Record)>, TableError> {
    let mut projects = Vec::new();
    for (key, cell) in pairs(table, keys::PROJECTS)? {
        let (name, record) = open_project(table, &key, &cell)?;
        projects.push((RecordKey::Project(name), Record::Project(record)));
    }
    projects.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(projects)
}

/// One record.
pub(crate) fn record(table: &dyn Table, key: &RecordKey) -> Result<Option<Record>, TableError> {
    Ok(cell::load_record(table, key)?.map(|(record, _)| record))
}

/// Up to `limit` groups, newest first.
pub(crate) fn groups(
    table: &dyn Table,
    filter: &GroupFilter,
    limit: usize,
) -> Result<Vec<(GroupId, GroupRecord)>, TableError> {
    let prefix = match &filter.project {
        Some(project) => keys::project_groups(project),
        None if filter.unfinished => keys::UNFINISHED.to_vec(),
        None => keys::GROUPS.to_vec(),
    };
    let to = filter.before.map_or_else(|| keys::after(&prefix), |group| [&prefix[..], &group.0].concat());
    let mut found = Vec::new();
    let mut failure = None;
    table.scan(&prefix, &to, Order::Descending, &mut |key, cell| {
        let opened = keys::group_of(key).map_or(Ok(None), |group| {
            let key = RecordKey::Group(group);
            let record = if prefix == keys::GROUPS {
                cell::open_record(table, &key, cell).map(|(record, _)| Some(record))
            } else {
                record(table, &key)
            };
            record.map(|record| record.map(|record| (group, record)))
        });
        match opened {
            Ok(Some((group, Record::Group(record)))) if wanted(filter, &record) => found.push((group, record)),
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
        if failure.is_some() || found.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    found.truncate(limit);
    failure.map_or(Ok(found), Err)
}

fn wanted(filter: &GroupFilter, record: &GroupRecord) -> bool {
    record.submitted.as_ref().is_some_and(|submitted| {
        filter.user.as_ref().is_none_or(|user| *user == submitted.spec.user)
            && (filter.hidden || !record.marks.is_hidden())
            && (!filter.unfinished || !record.is_finished())
            && match filter.parts {
                Parts::Hidden => submitted.spec.parent.is_none(),
                Parts::Shown => true,
                Parts::Of(parent) => submitted.spec.parent == Some(parent),
            }
    })
}

/// Up to `limit` job records of a group by index, after `after`. Jobs to which nothing happened have none.
pub(crate) fn jobs_of(
    table: &dyn Table,
    group: GroupId,
    after: Option<Member>,
    limit: usize,
) -> Result<Vec<(Member, JobRecord)>, TableError> {
    let prefix = keys::jobs(group);
    let from = match after {
        Some(member) => [&keys::job_key(JobId { group, member })[..], &[0]].concat(),
        None => prefix.clone(),
    };
    let mut found = Vec::new();
    let mut failure = None;
    table.scan(&from, &keys::after(&prefix), Order::Ascending, &mut |key, cell| {
        if found.len() >= limit {
            return ControlFlow::Break(());
        }
        match (keys::member_of(key), cell::open_job(table, key, cell)) {
            (Some(member), Ok(job)) => found.push((member, job)),
            (None, _) => failure = Some(TableError::Corrupt("a key of a job is malformed".to_owned())),
            (_, Err(error)) => failure = Some(error),
        }
        if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failure.map_or(Ok(found), Err)
}

/// Up to `limit` groups, oldest first, whose id in text starts with `prefix`. Dashes and case do not matter.
pub(crate) fn groups_with_prefix(table: &dyn Table, prefix: &str, limit: usize) -> Result<Vec<GroupId>, TableError> {
    let Some((first, last)) = id_range(prefix) else { return Ok(Vec::new()) };
    let from = keys::group_key(keys::GROUPS, GroupId(first));
    let to = [&keys::group_key(keys::GROUPS, GroupId(last))[..], &[0]].concat();
    Ok(collect(table, &from, &to, limit)?.iter().filter_map(|(key, _)| keys::group_of(key)).collect())
}

/// The first and the last id whose hex digits start with `prefix`.
fn id_range(prefix: &str) -> Option<([u8; 16], [u8; 16])> {
    let (mut first, mut last) = ([0; 16], [u8::MAX; 16]);
    for (at, digit) in prefix.chars().filter(|&digit| digit != '-').enumerate() {
        let digit = u8::try_from(digit.to_digit(16)?).ok()?;
        let (shift, keep) = if at % 2 == 0 { (4, 0x0f) } else { (0, 0xf0) };
        for bound in [&mut first, &mut last] {
            let byte = bound.get_mut(at / 2)?;
            *byte = (*byte & keep) | (digit << shift);
        }
    }
    Some((first, last))
}

/// Every node.
pub(crate) fn nodes(table: &dyn Table) -> Result<Vec<(NodeId, NodeRecord)>, TableError> {
    let mut nodes = Vec::new();
    for (key, cell) in pairs(table, keys::NODES)? {
        let id = key.last_chunk().copied().map(NodeId);
        let id = id.ok_or_else(|| TableError::Corrupt("a key of a node is malformed".to_owned()))?;
        nodes.push((id, cell::decode(&cell::open(table, &key, &cell)?.0)?));
    }
    Ok(nodes)
}

/// Every project that a group names or that somebody described, by name.
pub(crate) fn projects(table: &dyn Table) -> Result<Vec<ProjectSummary>, TableError> {
    let mut projects = std::collections::BTreeMap::new();
    for (key, cell) in pairs(table, keys::USES)? {
        let used: ProjectUse = cell::decode(&cell::open(table, &key, &cell)?.0)?;
        let ProjectUse { name, groups, jobs } = used;
        let last_used = last_group(table, &name)?;
        let summary = ProjectSummary { name: name.clone(), groups, jobs, last_used, ..ProjectSummary::default() };
        projects.insert(name, summary);
    }
    for (key, cell) in pairs(table, keys::PROJECTS)? {
        let (name, record) = open_project(table, &key, &cell)?;
        let fresh = || ProjectSummary { name: name.clone(), ..ProjectSummary::default() };
        projects.entry(name.clone()).or_insert_with(fresh).record = record;
    }
    Ok(projects.into_values().collect())
}

fn open_project(table: &dyn Table, key: &[u8], cell: &[u8]) -> Result<(String, ProjectRecord), TableError> {
    cell::decode(&cell::open(table, key, cell)?.0)
}

fn last_group(table: &dyn Table, project: &str) -> Result<Option<GroupId>, TableError> {
    let prefix = keys::project_groups(project);
    let mut last = None;
    table.scan(&prefix, &keys::after(&prefix), Order::Descending, &mut |key, _| {
        last = keys::group_of(key);
        ControlFlow::Break(())
    })?;
    Ok(last)
}

/// What concerns the cluster as a whole.
pub(crate) fn cluster(table: &dyn Table) -> Result<ClusterRecord, TableError> {
    match record(table, &RecordKey::Cluster)? {
        Some(Record::Cluster(record)) => Ok(record),
        _ => Ok(ClusterRecord::default()),
    }
}

/// Entries of `range` that are here, in order, until `max_bytes` are reached; at least one when its first is here.
/// None when a base covers its first.
pub(crate) fn read(
    table: &dyn Table,
    medium: &dyn Medium,
    range: EntryRange,
    max_bytes: usize,
) -> Result<Vec<SignedEntry>, StoreError> {
    let Some(state) = table.get(&keys::log(range.log))? else { return Ok(Vec::new()) };
    let LogState { number, floor, .. } = cell::decode(&state)?;
    if range.first <= floor {
        return Ok(Vec::new());
    }
    read_numbered(table, medium, number, (range.first.max(1), range.last), max_bytes)
}

/// As [`read`], by the number of the log.
pub(crate) fn read_numbered(
    table: &dyn Table,
    medium: &dyn Medium,
    number: u32,
    range: (u64, u64),
    max_bytes: usize,
) -> Result<Vec<SignedEntry>, StoreError> {
    let mut found: Vec<Location> = Vec::new();
    let mut bytes = 0;
    places::find(table, number, range, |place| {
        bytes += place.len as usize;
        let fits = found.is_empty() || bytes <= max_bytes;
        if fits {
            found.push(place);
        }
        fits
    })?;
    let mut entries = Vec::with_capacity(found.len());
    for place in found {
        match read_record(medium, place).map_err(|error| io_error("read", medium, place.segment, error))? {
            Some(signed) => entries.push(signed),
            // What lies before the damage is of use; the next call starts at it and tells.
            None if !entries.is_empty() => break,
            None => return Err(StoreError::Damaged { path: medium.path(place.segment), offset: place.offset }),
        }
    }
    Ok(entries)
}
