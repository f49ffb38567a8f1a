//! One cgroup (version 2) for each attempt with a memory limit, below the subtree that was delegated to the
//! node (`Delegate=yes` in its systemd unit). Where nothing is delegated, `memory.rs` watches instead.
//!
//! Layout: processes of the node itself move to `fnode-node`, because a cgroup that hands controllers
//! down may hold no process of its own; attempts are `fnode-job-RUNNER_PID-ATTEMPT` beside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proto::AttemptId;

/// Where the node's own processes live.
const NODE_GROUP: &str = "fnode-node";
const JOB_PREFIX: &str = "fnode-job-";
/// cgroup's default weight; stands for one CPU here, so shares follow what jobs asked for.
const WEIGHT_OF_ONE_CPU: u64 = 100;
const WEIGHT_MAX: u64 = 10_000;

/// The subtree that the runner may use.
#[derive(Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    runner_pid: u32,
}

/// The cgroup of one attempt.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

/// Why attempts cannot have cgroups here. Not a fault: the watchdog takes over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unavailable {
    #[error("no cgroup version 2 hierarchy is mounted")]
    NotMounted,
    #[error("the memory controller is not in {0}")]
    NoMemoryController(PathBuf),
    #[error("{0} holds processes that are not this node's; start fnode from a unit with Delegate=yes")]
    Shared(PathBuf),
    #[error("{path} is not delegated to this user: {source}")]
    NotDelegated { path: PathBuf, source: io::Error },
}

impl Cgroups {
    /// Finds the delegated subtree, moves the node's own processes into a leaf and turns the memory and CPU
    /// controllers on for the others.
    pub(super) fn detect() -> Result<Self, Unavailable> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let root = own_group(&mounts, &own).ok_or(Unavailable::NotMounted)?;
        let cgroups = Self { root, runner_pid: std::process::id() };
        cgroups.prepare()?;
        cgroups.sweep();
        Ok(cgroups)
    }

    /// Makes the cgroup of `attempt`.
    pub(super) fn create(&self, attempt: AttemptId, memory_bytes: u64, cpu_milli: u32) -> io::Result<Cgroup> {
        let name = format!("{JOB_PREFIX}{}-{}", self.runner_pid, attempt.file_name());
        let group = Cgroup { path: self.root.join(name) };
        fs::create_dir(&group.path)?;
        group.limit(memory_bytes, cpu_milli).inspect_err(|_| group.remove())?;
        Ok(group)
    }

    fn prepare(&self) -> Result<(), Unavailable> {
        let root = &self.root;
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if !controllers.split_whitespace().any(|name| name == "memory") {
            return Err(Unavailable::NoMemoryController(root.clone()));
        }
        let refused = |source| Unavailable::NotDelegated { path: root.clone(), source };
        let members = fs::read_to_string(root.join("cgroup.procs")).map_err(refused)?;
        let members: Vec<u32> = members.lines().filter_map(|line| line.parse().ok()).collect();
        if !members.iter().all(|&pid| is_of_this_node(pid)) {
            return Err(Unavailable::Shared(root.clone()));
        }
        let leaf = root.join(NODE_GROUP);
        match fs::create_dir(&leaf) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refused(error)),
            _ => {}
        }
        for pid in members {
            fs::write(leaf.join("cgroup.procs"), pid.to_string()).map_err(refused)?;
        }
        fs::write(root.join("cgroup.subtree_control"), "+memory").map_err(refused)?;
        // Shares are a courtesy: without the CPU controller jobs still run.
        let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
        Ok(())
    }

    /// Kills and removes what runners left here that are gone.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let runner = name.to_str().and_then(|name| name.strip_prefix(JOB_PREFIX)?.split('-').next()?.parse().ok());
            if runner.is_some_and(|pid: u32| pid == self.runner_pid || !Path::new(&format!("/proc/{pid}")).exists()) {
                let group = Cgroup { path: entry.path() };
                group.kill();
                group.remove();
            }
        }
    }
}

impl Cgroup {
    /// Moves a process, and with it what it forks from now on, into the cgroup.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// Kills all that is inside (Linux 5.14 and later; earlier kernels leave it to the caller's rounds).
    pub(super) fn kill(&self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Whether a process is inside.
    pub(super) fn is_populated(&self) -> bool {
        self.number("cgroup.events", "populated").is_some_and(|count| count > 0)
    }

    /// How many processes the kernel killed here for memory.
    pub(super) fn oom_kills(&self) -> u64 {
        self.number("memory.events", "oom_kill").unwrap_or(0)
    }

    /// Most memory that was charged at once, in bytes; 0 where the kernel does not say (before 5.19).
    pub(super) fn memory_peak(&self) -> u64 {
        let text = fs::read_to_string(self.path.join("memory.peak")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Removes the cgroup; it must be empty, else it stays for the next runner's sweep.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir(&self.path);
    }

    fn limit(&self, memory_bytes: u64, cpu_milli: u32) -> io::Result<()> {
        fs::write(self.path.join("memory.max"), memory_bytes.to_string())?;
        // The tree dies as one: half a job that lost a worker would only hang.
        fs::write(self.path.join("memory.oom.group"), "1")?;
        // Swapping instead of ending would take the machine from its owner. Absent without swap.
        let _ = fs::write(self.path.join("memory.swap.max"), "0");
        if cpu_milli > 0 {
            let weight = (u64::from(cpu_milli) * WEIGHT_OF_ONE_CPU / 1000).clamp(1, WEIGHT_MAX);
            let _ = fs::write(self.path.join("cpu.weight"), weight.to_string());
        }
        Ok(())
    }

    fn number(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.path.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
    }
}

/// The directory of this process's cgroup, or of its parent if this is the node's leaf already.
fn own_group(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (mounted, mount_point) = mountinfo.lines().find_map(|line| {
        // `id parent device ROOT MOUNT_POINT options … - TYPE source options`
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        after.starts_with("cgroup2 ").then_some((root, point))
    })?;
    let inside = Path::new(own).strip_prefix(mounted).ok()?;
    let path = Path::new(mount_point).join(inside);
    if path.ends_with(NODE_GROUP) { path.parent().map(Path::to_owned) } else { Some(path) }
}

/// Whether `pid` runs the same program as this process: the daemon, the runner or the command line.
fn is_of_this_node(pid: u32) -> bool {
    let program = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    program(&pid.to_string()).is_some_and(|theirs| Some(theirs) == program("self"))
}

#[cfg(test)]
mod tests {
    use proto::{GroupId, JobId};

    use super::*;

    const MOUNTS: &str = "25 1 0:5 / /proc rw - proc proc rw\n\
        30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_own_group_is_found_through_its_mount() {
        let own = |mounts: &str, cgroup: &str| own_group(mounts, cgroup);
        let unit = PathBuf::from("/sys/fs/cgroup/system.slice/fnode.service");
        assert_eq!(own(MOUNTS, "0::/system.slice/fnode.service\n"), Some(unit.clone()));
        assert_eq!(own(MOUNTS, "0::/system.slice/fnode.service/fnode-node\n"), Some(unit));
        assert_eq!(own(MOUNTS, "4:memory:/x\n"), None);
        assert_eq!(own("25 1 0:5 / /proc rw - proc proc rw\n", "0::/\n"), None);
        let container = MOUNTS.replace(" / /sys", " /docker/1 /sys");
        assert_eq!(own(&container, "0::/docker/1/a\n"), Some(PathBuf::from("/sys/fs/cgroup/a")));
        assert_eq!(own(&container, "0::/other\n"), None);
    }

    #[test]
    fn limits_are_written_and_counters_read() {
        let home = tempfile::tempdir().expect("made");
        let cgroups = Cgroups { root: home.path().to_owned(), runner_pid: 7 };
        let attempt = AttemptId { job: JobId::only(GroupId([1; 16])), epoch: 1, number: 2 };
        let group = cgroups.create(attempt, 1 << 20, 2500).expect("made");
        let read = |name: &str| fs::read_to_string(group.path.join(name)).expect("there");
        assert_eq!((read("memory.max"), read("memory.oom.group")), ("1048576".to_owned(), "1".to_owned()));
        assert_eq!(read("cpu.weight"), "250");
        assert_eq!((group.oom_kills(), group.is_populated(), group.memory_peak()), (0, false, 0));
        fs::write(group.path.join("memory.events"), "low 0\noom 3\noom_kill 2\noom_group_kill 1\n").expect("written");
        fs::write(group.path.join("cgroup.events"), "populated 1\nfrozen 0\n").expect("written");
        assert_eq!((group.oom_kills(), group.is_populated()), (2, true));
        assert!(cgroups.create(attempt, 1, 0).is_err(), "an attempt is started once");
    }

    #[test]
    fn a_group_that_is_not_delegated_is_refused() {
        let home = tempfile::tempdir().expect("made");
        let cgroups = Cgroups { root: home.path().to_owned(), runner_pid: 7 };
        assert!(matches!(cgroups.prepare(), Err(Unavailable::NoMemoryController(_))));
        fs::write(home.path().join("cgroup.controllers"), "cpu memory\n").expect("written");
        fs::write(home.path().join("cgroup.procs"), "1\n").expect("written");
        assert!(matches!(cgroups.prepare(), Err(Unavailable::Shared(_) | Unavailable::NotDelegated { .. })));
    }
}
