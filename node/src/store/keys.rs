//! How the table is laid out: one sorted map, first byte of the key tells the kind, integers big-endian.
//!
//! | key | value |
//! | --- | --- |
//! | `m` name | what the table stands for: layout, position in the journal |
//! | `l` author incarnation | head of a log, and the number that stands for it below |
//! | `e` number slot | where some entries lie in the journal |
//! | `g` group, `s` group | group record without its specification, and that |
//! | `j` group member | job record |
//! | `b` content | which entry carries this small blob, or where it lies in a base |
//! | `n` node, `p` hash(name), `c` | node, project, cluster records |
//! | `u` group | the group is unfinished, or known only by its jobs |
//! | `q` hash(name), `i` hash(name) group | use of a project, and its groups by age |
//! | `w` author incarnation seq event | an event of a kind that is not known here |
//! | `v` key | what is known of a cached value
//! | `f` hash(function) time key | a value, by its function and the time it was made at
//! | `x` hash(key) piece | values too long for one cell |

use proto::entry::LogId;
use proto::record::{RecordKey, Stamp};
use proto::{ContentId, GroupId, JobId, Member, ValueKey};

/// A key.
pub(crate) type Key = Vec<u8>;

/// What the table stands for.
pub(crate) const STANDING: &[u8] = b"m";
/// Groups, ascending by age.
pub(crate) const GROUPS: &[u8] = b"g";
/// Unfinished groups.
pub(crate) const UNFINISHED: &[u8] = b"u";
/// Heads of logs.
pub(crate) const LOGS: &[u8] = b"l";
/// Nodes.
pub(crate) const NODES: &[u8] = b"n";
/// Described projects.
pub(crate) const PROJECTS: &[u8] = b"p";
/// Jobs of all groups.
pub(crate) const JOBS: &[u8] = b"j";
/// Events that are not folded.
pub(crate) const UNKNOWN: &[u8] = b"w";
/// Cached values.
pub(crate) const VALUES: &[u8] = b"v";
/// Projects that groups name.
pub(crate) const USES: &[u8] = b"q";

/// Of a record.
pub(crate) fn record(key: &RecordKey) -> Key {
    match key {
        RecordKey::Group(group) => group_key(GROUPS, *group),
        RecordKey::Job(job) => job_key(*job),
        RecordKey::Node(node) => [NODES, &node.0].concat(),
        RecordKey::Project(name) => [PROJECTS, &project_hash(name)].concat(),
        RecordKey::Cluster => b"c".to_vec(),
        RecordKey::Value(key) => value(*key),
    }
}

/// Of what is kept under `kind` for a group.
pub(crate) fn group_key(kind: &[u8], group: GroupId) -> Key {
    [kind, &group.0].concat()
}

/// Of a group's specification.
pub(crate) fn spec(group: GroupId) -> Key {
    group_key(b"s", group)
}

/// Of a job.
pub(crate) fn job_key(job: JobId) -> Key {
    let mut key = jobs(job.group);
    match job.member {
        Member::Only => key.push(0),
        Member::Index(index) => {
            key.push(1);
            key.extend_from_slice(&index.to_be_bytes());
        }
    }
    key
}

/// Before the jobs of a group.
pub(crate) fn jobs(group: GroupId) -> Key {
    group_key(JOBS, group)
}

/// The member in a job's key.
pub(crate) fn member_of(key: &[u8]) -> Option<Member> {
    match key.get(17..)? {
        [0] => Some(Member::Only),
        [1, index @ ..] => Some(Member::Index(u32::from_be_bytes(index.try_into().ok()?))),
        _ => None,
    }
}

/// The group in a job's key.
pub(crate) fn group_of_job(key: &[u8]) -> Option<GroupId> {
    key.get(1..)?.first_chunk().copied().map(GroupId)
}

/// Of an event that is not folded.
pub(crate) fn unknown(stamp: Stamp) -> Key {
    let mut key = log(stamp.position.log);
    key[0] = UNKNOWN[0];
    key.extend_from_slice(&stamp.position.seq.to_be_bytes());
    key.extend_from_slice(&stamp.event.to_be_bytes());
    key
}

/// The group at the end of a key.
pub(crate) fn group_of(key: &[u8]) -> Option<GroupId> {
    key.last_chunk().copied().map(GroupId)
}

/// Of a log's head.
pub(crate) fn log(log: LogId) -> Key {
    [LOGS, &log.author.0, &log.incarnation.to_be_bytes()].concat()
}

/// The log in a key made by [`log`].
pub(crate) fn log_of(key: &[u8]) -> Option<LogId> {
    let author = proto::NodeId(*key.get(1..)?.first_chunk()?);
    let incarnation = u64::from_be_bytes(key.get(33..)?.try_into().ok()?);
    Some(LogId { author, incarnation })
}

/// Of the places of some entries, by the number of their log.
pub(crate) fn places(number: u32, slot: u64) -> Key {
    [b"e".as_slice(), &number.to_be_bytes(), &slot.to_be_bytes()].concat()
}

/// Of a small blob that rides in an entry: half of its hash keeps the key short, and is compared with the whole.
pub(crate) fn inline(content: ContentId) -> Key {
    [b"b".as_slice(), &content.0[..16]].concat()
}

/// Of what is known of a cached value.
pub(crate) fn value(key: ValueKey) -> Key {
    [VALUES, &key.0].concat()
}

/// The cached value in a key made by [`value`].
pub(crate) fn value_in(key: &[u8]) -> Option<ValueKey> {
    key.get(1..)?.try_into().ok().map(ValueKey)
}

/// Before the values of a function.
pub(crate) fn values_of_function(function: &str) -> Key {
    [b"f".as_slice(), &project_hash(function)].concat()
}

/// Of one value of a function.
pub(crate) fn value_of_function(function: &str, made_unix_ms: u64, key: ValueKey) -> Key {
    [&values_of_function(function)[..], &made_unix_ms.to_be_bytes(), &key.0].concat()
}

/// Time and value in a key made by [`value_of_function`].
pub(crate) fn value_row_in(key: &[u8]) -> Option<(u64, ValueKey)> {
    let (made_unix_ms, key) = key.get(17..)?.split_first_chunk()?;
    Some((u64::from_be_bytes(*made_unix_ms), ValueKey(key.try_into().ok()?)))
}

/// Stands for a name in keys, which stay short whatever users type.
pub(crate) fn project_hash(name: &str) -> [u8; 16] {
    *blake3::hash(name.as_bytes()).as_bytes().first_chunk().expect("32 bytes have 16")
}

/// Of a project's use.
pub(crate) fn project_use(name: &str) -> Key {
    [USES, &project_hash(name)].concat()
}

/// Before the groups of a project.
pub(crate) fn project_groups(name: &str) -> Key {
    [b"i".as_slice(), &project_hash(name)].concat()
}

/// Of one group of a project.
pub(crate) fn project_group(name: &str, group: GroupId) -> Key {
    let mut key = project_groups(name);
    key.extend_from_slice(&group.0);
    key
}

/// Of a piece of the value under `key`.
pub(crate) fn piece(key: &[u8], number: u16) -> Key {
    let hash: [u8; 16] = *blake3::hash(key).as_bytes().first_chunk().expect("32 bytes have 16");
    [b"x".as_slice(), &hash, &number.to_be_bytes()].concat()
}

/// The first key after all that start with `prefix`.
pub(crate) fn after(prefix: &[u8]) -> Key {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Kinds are ASCII letters, so a prefix of nothing but 0xff cannot be asked for.
    vec![u8::MAX; 64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check};
    use crate::samples;

    #[test]
    fn jobs_of_a_group_sort_by_index_and_are_read_back() {
        let group = GroupId([7; 16]);
        let members = [Member::Only, Member::Index(0), Member::Index(255), Member::Index(256), Member::Index(u32::MAX)];
        let keys: Vec<Key> = members.iter().map(|&member| job_key(JobId { group, member })).collect();
        assert!(keys.is_sorted());
        let read: Vec<Member> = keys.iter().filter_map(|key| member_of(key)).collect();
        assert_eq!(read, members);
    }

    #[test]
    fn the_end_of_a_prefix_is_past_all_its_keys() {
        assert_eq!(after(b"ab"), b"ac");
        assert_eq!(after(&[b'j', 0xff, 0xff]), b"k");
    }

    #[test]
    fn golden_keys() {
        let log = LogId { author: samples::node(8), incarnation: 1_700_000_000_000 };
        let (group, job) = (samples::group(), samples::job());
        let keys = [
            ("group record", record(&RecordKey::Group(group))),
            ("specification of a group", spec(group)),
            ("job record", record(&RecordKey::Job(job))),
            ("job record of a group of one", job_key(JobId::only(group))),
            ("node record", record(&RecordKey::Node(samples::node(8)))),
            ("project record", record(&RecordKey::Project("vision".to_owned()))),
            ("cluster record", record(&RecordKey::Cluster)),
            ("unfinished group", group_key(UNFINISHED, group)),
            ("head of a log", super::log(log)),
            ("places of entries", places(3, 70_000)),
            ("use of a project", project_use("vision")),
            ("group of a project", project_group("vision", group)),
            ("cached value", record(&RecordKey::Value(ValueKey([0xab; 32])))),
            ("value of a function", value_of_function("lab.train", 1_700_000_000_000, ValueKey([0xab; 32]))),
            ("piece of a value", piece(b"k", 300)),
            ("what the table stands for", STANDING.to_vec()),
        ];
        check("store.Keys", &keys.map(|(title, key)| Sample::new(title, &title, key)));
        attack_loosely("key of a log", &super::log(log), 500, |key| log_of(key).is_some());
        let row = value_of_function("lab.train", 1_700_000_000_000, ValueKey([0xab; 32]));
        attack_loosely("key of a function's value", &row, 500, |key| value_row_in(key).is_some());
        attack_loosely("key of a job", &job_key(job), 500, |key| member_of(key).is_some() && group_of(key).is_some());
    }
}
