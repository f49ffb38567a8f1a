//! I5: once faults stop, every job that fits somewhere ends; and nothing is left behind.
//!
//! Source: DESIGN §14. "Fits somewhere": on a machine that is back, which is not what its dependency makes of it.
//! Planted bug: `forget-refused`.

use std::collections::{BTreeMap, BTreeSet};

use proto::record::{GroupRecord, Record, RecordKey};
use proto::{GroupId, GroupSpec, Member};

use super::super::host::Host;
use super::super::runner::Phase;
use super::super::workload::Submission;

/// `Ok` when all is done; else what is not.
pub(crate) fn settled(hosts: &[Host], submissions: &BTreeMap<GroupId, Submission>) -> Result<(), String> {
    let alive: Vec<(usize, &Host)> = hosts.iter().enumerate().filter(|(_, host)| !host.gone).collect();
    for (at, host) in &alive {
        let Some(daemon) = host.daemon.as_ref().filter(|daemon| daemon.adopted) else {
            return Err(format!("host {at} is not up"));
        };
        if host.disk.vector() != alive[0].1.disk.vector() {
            return Err(format!("host {at} has other entries than host {}", alive[0].0));
        }
        if let Some(what) = unfinished(host, &alive, submissions) {
            return Err(format!("seen from host {at}: {what}"));
        }
        if let Some((attempt, _)) = daemon.core.holding().next() {
            return Err(format!("host {at} still holds {attempt}"));
        }
        let runs = |phase: &Phase| !matches!(phase, Phase::Ended { .. });
        if let Some(attempt) = host.runner.processes.iter().find(|(_, process)| runs(&process.phase)) {
            return Err(format!("host {at} still runs {}", attempt.0));
        }
    }
    Ok(())
}

fn unfinished(host: &Host, alive: &[(usize, &Host)], submissions: &BTreeMap<GroupId, Submission>) -> Option<String> {
    let mut open: BTreeMap<GroupId, &GroupRecord> = BTreeMap::new();
    for (key, record) in &host.disk.records {
        // Without a submission, only what others did to it is known: it was lost with the only disk that had it.
        if let (RecordKey::Group(group), Record::Group(record)) = (key, record)
            && record.submitted.is_some()
            && !record.is_finished()
        {
            open.insert(*group, record);
        }
    }
    let mut stuck: BTreeSet<GroupId> = BTreeSet::new();
    loop {
        let is_stuck = |(group, record): (&GroupId, &&GroupRecord)| {
            let hopeless = record.submitted.as_ref().is_some_and(|submitted| !fits(&submitted.spec, alive));
            let for_ever = hopeless || waits_for_ever(*group, host, submissions, &stuck);
            (record.stop.is_none() && for_ever && !stuck.contains(group)).then_some(*group)
        };
        let more: Vec<GroupId> = open.iter().filter_map(is_stuck).collect();
        if more.is_empty() {
            break;
        }
        stuck.extend(more);
    }
    let (group, record) = open.iter().find(|(group, _)| !stuck.contains(*group))?;
    Some(describe(*group, record, host, alive))
}

fn fits(spec: &GroupSpec, alive: &[(usize, &Host)]) -> bool {
    alive.iter().any(|(_, host)| host.capacity.lacks(&spec.requirement, &Default::default()).is_empty())
        && spec.bundle.is_none_or(|bundle| alive.iter().any(|(_, host)| host.disk.bundles.contains(&bundle.manifest)))
}

/// Its dependency was lost with a disk, or waits for ever itself.
fn waits_for_ever(
    group: GroupId,
    host: &Host,
    submissions: &BTreeMap<GroupId, Submission>,
    stuck: &BTreeSet<GroupId>,
) -> bool {
    let known = |group: GroupId| {
        let record = host.disk.records.get(&RecordKey::Group(group));
        matches!(record, Some(Record::Group(record)) if record.submitted.is_some())
    };
    let after = submissions.get(&group).map_or(&[][..], |submission| &submission.after);
    after.iter().any(|on| !known(on.group) || stuck.contains(&on.group))
}

fn describe(group: GroupId, record: &GroupRecord, host: &Host, alive: &[(usize, &Host)]) -> String {
    let spec = &record.submitted.as_ref().expect("only submitted groups are described").spec;
    let state = |member: Member| match host.disk.records.get(&RecordKey::Job(proto::JobId { group, member })) {
        Some(Record::Job(record)) => Some(record.clone()),
        _ => None,
    };
    let open: Vec<_> = spec
        .members()
        .map(|member| (member, state(member)))
        .filter(|(_, record)| record.as_ref().is_none_or(|record| record.outcome.is_none()))
        .take(3)
        .collect();
    let coordinator = record.claim.and_then(|claim| alive.iter().find(|(_, host)| host.id == claim.coordinator));
    let asked = coordinator.map_or(host, |(_, host)| host);
    let job = open.first().map(|(member, _)| proto::JobId { group, member: *member });
    let explain = asked.daemon.as_ref().and_then(|daemon| daemon.core.explain(job?));
    format!(
        "group {group} does not end: claim {:?}, tally {:?}, open {open:?}; {explain:?}",
        record.claim, record.tally
    )
}
