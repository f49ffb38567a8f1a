//! The limits that control groups put on this process: version 1, version 2 and the hybrid of both, along
//! the whole chain of ancestors. Read by the inventory and by `fnode doctor`; never writes to a group.

use std::fs;
use std::path::{Path, PathBuf};

/// A group's limit file holds one or two numbers; more than this is not one.
const LIMIT_FILE_MAX: usize = 4096;
/// Version 1 says "no limit" with a huge number (2^63 rounded down to a page); nothing real is above 2^60.
const UNLIMITED_FROM: u64 = 1 << 60;

/// Where this process stands in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Controllers as version 1 names them; empty for version 2.
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// This process's group, below or equal to `mount`.
    pub group: PathBuf,
}

/// Every hierarchy that this process can see itself in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

/// What the groups of this machine let an unprivileged runner do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delegation {
    /// Version 2, our group may be written to, with these controllers.
    Delegated {
        /// The group we may divide.
        group: PathBuf,
        /// As in `cgroup.controllers`.
        controllers: Vec<String>,
    },
    /// Version 2, but our group belongs to someone else.
    NotDelegated {
        /// The group we are in.
        group: PathBuf,
    },
    /// Only version 1 has the memory controller.
    Version1,
    /// No control groups at all.
    Absent,
}

impl Cgroups {
    /// Reads where this process stands. `root` is `/`, or a recorded tree in tests. What cannot be read is
    /// taken as absent: a machine without control groups has no limits from them.
    #[must_use]
    pub fn of_this_process(root: &Path) -> Self {
        let membership = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
        Self { hierarchies: hierarchies(root, &membership, &mounts) }
    }

    /// The smallest CPU quota on the way to the top, in thousandths of a CPU; at least 1.
    #[must_use]
    pub fn cpu_limit_milli(&self) -> Option<u32> {
        let v2 = self.chain("").filter_map(|group| quota_v2(&read(&group.join("cpu.max"))?));
        let v1 = self.chain("cpu").filter_map(|group| {
            quota_milli(&read(&group.join("cpu.cfs_quota_us"))?, &read(&group.join("cpu.cfs_period_us"))?)
        });
        v2.chain(v1).min()
    }

    /// The smallest memory limit on the way to the top, in bytes.
    #[must_use]
    pub fn memory_limit(&self) -> Option<u64> {
        let v2 = self.chain("").flat_map(|group| {
            // Past `memory.high` a group is slowed to a crawl, so to a job it is as hard as `memory.max`.
            ["memory.max", "memory.high"].into_iter().filter_map(move |file| limit(&read(&group.join(file))?))
        });
        let v1 = self.chain("memory").filter_map(|group| limit(&read(&group.join("memory.limit_in_bytes"))?));
        v2.chain(v1).min()
    }

    /// What the runner may do with groups here.
    #[must_use]
    pub fn delegation(&self) -> Delegation {
        let v2 = self.hierarchies.iter().find(|hierarchy| hierarchy.controllers.is_empty());
        let controllers: Vec<String> = v2
            .and_then(|hierarchy| read(&hierarchy.group.join("cgroup.controllers")))
            .map(|text| text.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default();
        match v2 {
            // On a hybrid machine version 2 is mounted, but its controllers belong to version 1.
            Some(hierarchy) if controllers.iter().any(|name| name == "memory") => {
                let procs = hierarchy.group.join("cgroup.procs");
                let may_write = rustix::fs::access(&procs, rustix::fs::Access::WRITE_OK).is_ok()
                    && rustix::fs::access(&hierarchy.group, rustix::fs::Access::WRITE_OK).is_ok();
                let group = hierarchy.group.clone();
                if may_write {
                    Delegation::Delegated { group, controllers }
                } else {
                    Delegation::NotDelegated { group }
                }
            }
            _ if self.hierarchies.iter().any(|hierarchy| !hierarchy.controllers.is_empty()) => Delegation::Version1,
            Some(hierarchy) => Delegation::NotDelegated { group: hierarchy.group.clone() },
            None => Delegation::Absent,
        }
    }

    /// Our group and its ancestors up to the mount, in the hierarchy of `controller` (empty: version 2).
    fn chain<'a>(&'a self, controller: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
        self.hierarchies
            .iter()
            .filter(move |hierarchy| {
                if controller.is_empty() {
                    hierarchy.controllers.is_empty()
                } else {
                    hierarchy.controllers.iter().any(|name| name == controller)
                }
            })
            .flat_map(|hierarchy| {
                hierarchy.group.ancestors().take_while(|path| path.starts_with(&hierarchy.mount)).map(Path::to_path_buf)
            })
    }
}

/// Joins `/proc/self/cgroup` with `/proc/self/mountinfo`.
fn hierarchies(root: &Path, membership: &str, mounts: &str) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let controllers: Vec<String> = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let Some((mount_root, mount_point)) = mounts.lines().find_map(|line| mount_of(line, &controllers)) else {
            continue;
        };
        let mount = root.join(mount_point.trim_start_matches('/'));
        // In a container the mount may start at our own group, or the path may leave the namespace: then
        // the mount point is all that we can see of ourselves.
        let below = Path::new(path).strip_prefix(&mount_root).unwrap_or(Path::new(""));
        let leaves = below.components().any(|part| matches!(part, std::path::Component::ParentDir));
        let group = if leaves { mount.clone() } else { mount.join(below) };
        let group = if group.is_dir() { group } else { mount.clone() };
        found.push(Hierarchy { controllers, mount, group });
    }
    found
}

/// The root and the mount point, when this line of mountinfo mounts the hierarchy of `controllers`.
fn mount_of(line: &str, controllers: &[String]) -> Option<(String, String)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (mount_root, mount_point) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1).unwrap_or(""));
    let matches = if controllers.is_empty() {
        kind == "cgroup2"
    } else {
        kind == "cgroup" && controllers.iter().all(|name| options.split(',').any(|option| option == name))
    };
    matches.then_some((mount_root, mount_point))
}

/// mountinfo writes spaces and backslashes in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().filter(|text| text.len() <= LIMIT_FILE_MAX)
}

fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < UNLIMITED_FROM)
}

/// `cpu.max`: `max 100000` or `150000 100000`.
fn quota_v2(text: &str) -> Option<u32> {
    let (quota, period) = text.trim().split_once(' ')?;
    quota_milli(quota, period)
}

fn quota_milli(quota: &str, period: &str) -> Option<u32> {
    // Version 1 says "no limit" with -1, version 2 with "max": neither is a u64.
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok().filter(|&period| period > 0)?;
    Some(u32::try_from(quota.saturating_mul(1000) / period).unwrap_or(u32::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn the_smallest_limit_of_the_whole_chain_counts_in_version_2() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/lab.slice/fnode.service\n"),
            ("proc/self/mountinfo", "31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"),
            ("sys/fs/cgroup/lab.slice/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/lab.slice/memory.max", "8589934592\n"),
            ("sys/fs/cgroup/lab.slice/fnode.service/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/lab.slice/fnode.service/memory.max", "max\n"),
            ("sys/fs/cgroup/lab.slice/fnode.service/memory.high", "17179869184\n"),
        ]);
        let cgroups = Cgroups::of_this_process(root.path());
        assert_eq!(cgroups.cpu_limit_milli(), Some(2_500));
        assert_eq!(cgroups.memory_limit(), Some(8 << 30));
    }

    #[test]
    fn a_container_that_is_mounted_at_its_own_group_sees_its_limits_in_version_1() {
        let root = tree(&[
            ("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n"),
            (
                "proc/self/mountinfo",
                "40 30 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n\
                 41 30 0:31 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            ),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
        ]);
        let cgroups = Cgroups::of_this_process(root.path());
        assert_eq!(cgroups.cpu_limit_milli(), Some(500));
        assert_eq!(cgroups.memory_limit(), Some(1 << 30));
        assert_eq!(cgroups.delegation(), Delegation::Version1);
    }

    #[test]
    fn no_limit_is_no_number() {
        let root = tree(&[
            ("proc/self/cgroup", "5:cpu:/\n4:memory:/deep/er\n"),
            (
                "proc/self/mountinfo",
                "40 30 0:30 / /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n41 30 0:31 / /m ro - cgroup cgroup rw,memory\n",
            ),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("m/deep/er/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let cgroups = Cgroups::of_this_process(root.path());
        assert_eq!((cgroups.cpu_limit_milli(), cgroups.memory_limit()), (None, None));
    }

    #[test]
    fn a_machine_without_groups_and_a_torn_file_give_no_limits() {
        let empty = tree(&[]);
        assert_eq!(Cgroups::of_this_process(empty.path()).delegation(), Delegation::Absent);
        let torn = tree(&[("proc/self/cgroup", "0:\nx\n::\n"), ("proc/self/mountinfo", "1 2 - \n - cgroup2")]);
        assert_eq!(Cgroups::of_this_process(torn.path()).memory_limit(), None);
    }

    #[test]
    fn a_group_that_we_may_write_to_is_delegated() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/fnode.service\n"),
            ("proc/self/mountinfo", "31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/fnode.service/cgroup.controllers", "cpu memory pids\n"),
            ("sys/fs/cgroup/fnode.service/cgroup.procs", ""),
        ]);
        let Delegation::Delegated { controllers, .. } = Cgroups::of_this_process(root.path()).delegation() else {
            panic!("the group is ours")
        };
        assert_eq!(controllers, ["cpu", "memory", "pids"]);
    }
}
