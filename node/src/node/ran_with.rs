//! What attempts run with: this machine, the graphics processors leased, the environment and its packages. It becomes JSON
//! text in a small blob that rides in the entry with an attempt's end. Thousands of jobs run with the same, so an entry
//! carries it only when none before did; the record of each names it by its content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use proto::core_io::Run;
use proto::event::INLINE_MAX;
use proto::{AttemptId, ContentId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::handle::Shared;
use super::home::Home;
use super::prepare::attempt_dir;
use crate::exec::environment::{Environment, packages};
use crate::exec::inventory::machine::memory_total;

/// Contents that are remembered as told; with more the log is asked again.
const TOLD_MAX: usize = 1_024;
/// In an attempt's directory: what it runs with, where that is more than this machine.
const FILE: &str = "ran_with";

/// What an attempt ran with. Empty texts and lists: not known, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RanWith {
    /// The machine's own name.
    pub hostname: String,
    /// As `Debian GNU/Linux 12 (bookworm)`.
    pub os: String,
    /// The kernel's release.
    pub kernel: String,
    /// As `x86_64`.
    pub architecture: String,
    /// Model of the processor.
    pub cpu: String,
    /// How many threads all processors have.
    pub cpu_threads: u32,
    /// All memory.
    pub memory_bytes: u64,
    /// The node's software.
    pub fnode: String,
    /// Python's version: the environment's, else what `python3` is on the node.
    pub python: String,
    /// Graphics processors leased to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<LeasedGpu>,
    /// Key of the environment built for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub environment: String,
    /// `name==version` of the packages of that environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Packages that did not fit.
    #[serde(skip_serializing_if = "is_zero")]
    pub packages_left_out: usize,
}

/// One graphics processor that was leased.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LeasedGpu {
    /// As in `CUDA_VISIBLE_DEVICES`.
    pub uuid: String,
    /// As `NVIDIA H200`.
    pub name: String,
    /// All its memory.
    pub memory_bytes: u64,
    /// Driver and version.
    pub driver: String,
}

/// What was told already.
#[derive(Default)]
pub(super) struct RanWiths {
    /// For attempts that have nothing of their own.
    plain: OnceLock<Vec<u8>>,
    told: Mutex<BTreeSet<ContentId>>,
}

/// What the record names, and the bytes if its entry must carry them.
pub(super) type Told = (ContentId, Option<Vec<u8>>);

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl RanWith {
    /// A machine by the facts that it tells of itself.
    #[must_use]
    pub fn of_facts(facts: &BTreeMap<String, String>) -> Self {
        let fact = |name: &str| facts.get(name).cloned().unwrap_or_default();
        Self {
            hostname: fact("hostname"),
            os: fact("os"),
            kernel: fact("kernel"),
            architecture: fact("architecture"),
            cpu: fact("cpu"),
            cpu_threads: fact("cpu_threads").parse().unwrap_or(0),
            fnode: fact("fnode"),
            ..Self::default()
        }
    }

    /// As it is stored: within what may ride in an entry.
    fn encode(mut self) -> Vec<u8> {
        loop {
            let bytes = serde_json::to_vec(&self).unwrap_or_default();
            if bytes.len() <= INLINE_MAX || self.packages.is_empty() {
                return bytes;
            }
            let keep = self.packages.len() * INLINE_MAX / bytes.len();
            self.packages_left_out += self.packages.len() - keep.min(self.packages.len() - 1);
            self.packages.truncate(keep.min(self.packages.len() - 1));
        }
    }
}

/// This machine without anything of an attempt's. Blocks: an interpreter may be asked for its version.
fn this_machine(shared: &Shared) -> RanWith {
    RanWith {
        memory_bytes: memory_total(Path::new("/")),
        python: shared.machine.python(),
        ..RanWith::of_facts(&shared.machine.capacity().facts)
    }
}

fn path(home: &Home, attempt: AttemptId) -> PathBuf {
    attempt_dir(home, attempt).join(FILE)
}

/// Notes what an attempt is about to run with, where a later life of this daemon finds it. Blocks.
pub(super) fn note(shared: &Shared, run: &Run, environment: Option<&Environment>) {
    let asked = &run.spec.requirement.python;
    if environment.is_none() && run.reservation.gpus.is_empty() && asked.is_empty() {
        return;
    }
    let mut with = this_machine(shared);
    if !asked.is_empty() {
        with.python.clone_from(asked);
    }
    let known = shared.machine.capacity().gpus;
    let leased = known.into_iter().filter(|gpu| run.reservation.gpus.contains(&gpu.uuid));
    with.gpus = leased
        .map(|gpu| LeasedGpu { uuid: gpu.uuid, name: gpu.name, memory_bytes: gpu.memory.0, driver: gpu.driver })
        .collect();
    if let Some(environment) = environment {
        with.environment.clone_from(&environment.id);
        with.packages = packages::packages(&environment.root);
        with.python = packages::python_version(&environment.root);
    }
    if let Err(error) = std::fs::write(path(&shared.home, run.attempt), with.encode()) {
        tracing::warn!(attempt = %run.attempt, %error, "what an attempt runs with is not recorded");
    }
}

impl RanWiths {
    /// Finds out what most attempts run with. Blocks.
    pub(super) fn warm(&self, shared: &Shared) {
        let plain = self.plain.get_or_init(|| this_machine(shared).encode());
        self.is_told(shared, ContentId::of(plain));
    }

    /// What an attempt ran with that has nothing of its own; `None`: not known yet.
    pub(super) fn plain(&self, shared: &Shared) -> Option<Told> {
        self.plain.get().map(|bytes| self.tell(shared, bytes))
    }

    /// What an attempt that is over ran with. Blocks.
    pub(super) fn of(&self, shared: &Shared, attempt: AttemptId) -> Told {
        match std::fs::read(path(&shared.home, attempt)) {
            // Its directory is the job's neighbour: what is not as it was written is not passed on.
            Ok(own) if own.len() <= INLINE_MAX && serde_json::from_slice::<RanWith>(&own).is_ok() => {
                self.tell(shared, &own)
            }
            _ => self.tell(shared, self.plain.get_or_init(|| this_machine(shared).encode())),
        }
    }

    fn tell(&self, shared: &Shared, bytes: &[u8]) -> Told {
        let content = ContentId::of(bytes);
        (content, (!self.is_told(shared, content)).then(|| self.carry(content, bytes)))
    }

    fn carry(&self, content: ContentId, bytes: &[u8]) -> Vec<u8> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        told.insert(content);
        bytes.to_vec()
    }

    /// Whether an entry carries it: one that is on its way, or one in the log.
    fn is_told(&self, shared: &Shared, content: ContentId) -> bool {
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).contains(&content) {
            return true;
        }
        let is_there = matches!(shared.store.inline(content), Ok(Some(_)));
        if is_there {
            self.carry(content, &[]);
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::golden::{Sample, check};

    #[test]
    fn golden_ran_with() {
        let gpu = LeasedGpu {
            uuid: "GPU-1".to_owned(),
            name: "NVIDIA H200".to_owned(),
            memory_bytes: 1,
            driver: "550".to_owned(),
        };
        let facts = ["hostname", "os", "kernel", "architecture", "cpu", "fnode"].map(|key| (key.into(), key.into()));
        let with = RanWith {
            cpu_threads: 8,
            memory_bytes: 1 << 34,
            python: "3.11.7".to_owned(),
            gpus: vec![gpu],
            environment: "e1".to_owned(),
            packages: vec!["numpy==2.0.0".to_owned()],
            packages_left_out: 1,
            ..RanWith::of_facts(&BTreeMap::from(facts))
        };
        let bytes = with.clone().encode();
        assert_eq!(serde_json::from_slice::<RanWith>(&bytes).unwrap(), with);
        check("node.RanWith", &[Sample::text("everything", &with, &String::from_utf8(bytes).unwrap())]);
        assert_eq!(serde_json::from_str::<RanWith>("{}").unwrap(), RanWith::default());
    }

    #[test]
    fn packages_that_do_not_fit_are_counted() {
        let packages: Vec<String> = (0..2_000).map(|at| format!("package-{at}==1.0.{at}")).collect();
        let bytes = RanWith { packages: packages.clone(), ..RanWith::default() }.encode();
        assert!(bytes.len() <= INLINE_MAX && bytes.len() > INLINE_MAX / 2, "{}", bytes.len());
        let with: RanWith = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(with.packages.len() + with.packages_left_out, packages.len());
        assert_eq!(with.packages, packages[..with.packages.len()]);
    }
}
