//! What users do: they submit jobs of many kinds, stop some, write notes, and are told little.

use proto::core_io::{Input, RequestId};
use proto::event::{Event, Mark};
use proto::job::{BundleRef, Dependency, IndexRanges, OnLost, Trigger};
use proto::{ByteSize, ContentId, GroupId, GroupSpec, JobId, Member, Requirement, job};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::invariants::Violation;
use super::world::{Happening, World};

/// What a client knows of a submission of its own.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) spec: GroupSpec,
    /// Machines that hold it, by the answer; `None`: not answered, so its fate is unknown.
    pub(crate) held_by: Option<Vec<usize>>,
    /// Its dependencies.
    pub(crate) after: Vec<JobId>,
}

/// How the commands of one group behave; the simulated runner reads it back from the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behaviour {
    pub(crate) length_ms: u64,
    /// Attempts out of 100 that exit with 1; [`POISON`]: each takes its host down.
    pub(crate) fails_percent: u32,
}

/// A job that crashes whatever runs it.
const POISON: u32 = 1_000;

impl Behaviour {
    fn any(rng: &mut StdRng) -> Self {
        let length_ms = match rng.random_range(0..20) {
            0..8 => rng.random_range(1..30),
            8..16 => rng.random_range(30..1_500),
            16..19 => rng.random_range(1_000..8_000),
            _ => rng.random_range(20_000..60_000),
        };
        let fails_percent = *[0, 0, 0, 5, 50, 100].choose(rng).expect("not empty");
        Self { length_ms, fails_percent }
    }

    pub(crate) fn is_poison(self) -> bool {
        self.fails_percent == POISON
    }

    fn command(self) -> Vec<String> {
        vec!["behave".to_owned(), self.length_ms.to_string(), self.fails_percent.to_string()]
    }

    /// All attempts of a group one after the other, in microseconds. A job that kills its host does so until it has
    /// been lost too often.
    pub(crate) fn work_us(spec: &GroupSpec) -> u64 {
        let behaviour = Self::of(spec);
        let deaths = if behaviour.is_poison() { proto::verdict::LOST_MAX as u64 } else { 0 };
        behaviour.length_ms * 1_500 * spec.len() * (u64::from(spec.retries) + 1 + deaths)
    }

    pub(crate) fn of(spec: &GroupSpec) -> Self {
        let number = |at: usize| spec.command[at].parse().expect("made by `command`");
        Self { length_ms: number(1), fails_percent: u32::try_from(number(2)).expect("a percentage") }
    }
}

impl World {
    /// Plans all submissions of phase one.
    pub(crate) fn plan_workload(&mut self) {
        for _ in 0..self.plan.groups {
            let at = self.rng.random_range(0..self.plan.phase_one_us * 3 / 4);
            self.schedule(at, Happening::Submit);
            if self.rng.random_range(0..4) == 0 {
                let at = self.rng.random_range(0..self.plan.phase_one_us);
                self.schedule(at, Happening::UserWrites);
            }
        }
    }

    pub(crate) fn submit(&mut self) -> Result<(), Violation> {
        let up: Vec<usize> = (0..self.hosts.len()).filter(|&host| self.hosts[host].daemon.is_some()).collect();
        let Some(&host) = up.choose(&mut self.rng) else { return Ok(()) };
        let now = self.hosts[host].now(self.now_us);
        let group = GroupId::v7(now.unix_ms, self.rng.random());
        let spec = self.any_spec(host);
        if let Some(bundle) = spec.bundle {
            self.hosts[host].disk.bundles.insert(bundle.manifest);
        }
        let request = self.next_request();
        self.requests.insert(request, group);
        let after = spec.after.iter().map(|dependency| dependency.on).collect();
        self.submissions.insert(group, Submission { spec: spec.clone(), held_by: None, after });
        self.tell(|| {
            format!(
                "user submits {group} to {host}: {} jobs, {:?}, {:?}",
                spec.len(),
                spec.command,
                spec.requirement.labels
            )
        });
        self.step(host, Input::Submit { request, group, spec: Box::new(spec), inline: Vec::new() })
    }

    pub(crate) fn next_request(&mut self) -> RequestId {
        self.requests_made += 1;
        RequestId(self.requests_made)
    }

    fn any_spec(&mut self, host: usize) -> GroupSpec {
        let after = self.any_dependencies();
        let calm = self.plan.calm;
        let big = if self.plan.hosts > 16 { 40 } else { 200 };
        let most_ms = if big == 40 { 2_000 } else { 60_000 };
        let rng = &mut self.rng;
        let mut behaviour = Behaviour::any(rng);
        behaviour.length_ms = behaviour.length_ms.min(most_ms);
        let size = match rng.random_range(0..6) {
            0..3 => 0,
            3..5 => rng.random_range(1..20),
            _ => rng.random_range(20..=big),
        };
        // The work of one group is bounded, so that phase two has an end in sight.
        let size = if size == 0 { 0 } else { size.min(40_000 / behaviour.length_ms.max(1)).max(1) };
        let poison = !calm && rng.random_range(0..60) == 0;
        let size = if poison { 0 } else { size };
        behaviour.fails_percent = if poison { POISON } else { behaviour.fails_percent };
        let first = rng.random_range(0..3);
        let size = u32::try_from(size).expect("a small array");
        let bundle = (rng.random_range(0..3) == 0).then(|| BundleRef {
            manifest: ContentId::of(&rng.random::<[u8; 8]>()),
            total_bytes: rng.random_range(1..10_000_000),
            files: 3,
        });
        GroupSpec {
            bundle,
            requirement: any_requirement(rng, &self.hosts[host].capacity),
            array: if size == 0 { IndexRanges::default() } else { IndexRanges::from_indices(first..first + size) },
            retries: if rng.random_bool(0.3) { rng.random_range(1..4) } else { 0 },
            on_lost: if !calm && rng.random_range(0..8) == 0 { OnLost::Fail } else { OnLost::Rerun },
            priority: rng.random_range(-1..3),
            after,
            capture: false,
            keep_outputs: false,
            ..GroupSpec::new(
                ["ada", "ben", "eve"].choose(rng).expect("not empty").to_string(),
                ["p", "q"].choose(rng).expect("not empty").to_string(),
                behaviour.command(),
            )
        }
    }

    fn any_dependencies(&mut self) -> Vec<Dependency> {
        let known: Vec<GroupId> =
            self.submissions.iter().filter(|(_, submission)| submission.held_by.is_some()).map(|(&id, _)| id).collect();
        if known.is_empty() || self.rng.random_range(0..5) > 0 {
            return Vec::new();
        }
        let count = self.rng.random_range(1..3);
        let mut dependencies = Vec::new();
        for _ in 0..count {
            let group = *known.choose(&mut self.rng).expect("not empty");
            let members: Vec<Member> = self.submissions[&group].spec.members().collect();
            let whole = self.rng.random_bool(0.5);
            let member = if whole { Member::Only } else { *members.choose(&mut self.rng).expect("a group has a job") };
            let triggers = [
                Trigger::AllSucceeded,
                Trigger::AllFailed,
                Trigger::AllDone,
                Trigger::OneSucceeded,
                Trigger::OneFailed,
                Trigger::OneDone,
            ];
            let trigger = *triggers.choose(&mut self.rng).expect("not empty");
            dependencies.push(Dependency { on: JobId { group, member }, trigger });
        }
        dependencies
    }

    /// A user stops something, or writes about it.
    pub(crate) fn user_writes(&mut self) -> Result<(), Violation> {
        let up: Vec<usize> = (0..self.hosts.len()).filter(|&host| self.hosts[host].daemon.is_some()).collect();
        let known: Vec<GroupId> = self.submissions.keys().copied().collect();
        let (Some(&host), Some(&group)) = (up.choose(&mut self.rng), known.choose(&mut self.rng)) else {
            return Ok(());
        };
        let members: Vec<Member> = self.submissions[&group].spec.members().collect();
        let member = *members.choose(&mut self.rng).expect("a group has a job");
        let whole = self.rng.random_bool(0.6);
        let job = JobId { group, member: if whole { Member::Only } else { member } };
        let event = match self.rng.random_range(0..7) {
            0..4 => Event::StopWished { job },
            6 => Event::Marked { job, mark: Mark::Deleted },
            4 => Event::Marked { job, mark: Mark::Noted(format!("note {}", self.now_us)) },
            _ => Event::Marked { job, mark: Mark::Tagged { key: "k".to_owned(), value: self.now_us.to_string() } },
        };
        self.tell(|| format!("user writes at {host}: {event:?}"));
        let request = self.next_request();
        self.step(host, Input::Write { request, event })
    }
}

fn any_requirement(rng: &mut StdRng, here: &proto::Capacity) -> Requirement {
    let mut requirement = Requirement { cpu_milli: 1_000, ..Requirement::default() };
    match rng.random_range(0..10) {
        0 => requirement.cpu_milli = 500,
        1 => requirement.cpu_milli = 2_000,
        2 => requirement.cpu_milli = here.cpu_milli,
        3 => requirement.memory = ByteSize(2 << 30),
        4 => {
            requirement.gpus = u32::try_from(here.gpus.len()).expect("few GPUs").min(rng.random_range(1..3));
            requirement.gpu_memory = ByteSize(8 << 30);
        }
        5 => {
            requirement.labels = here.labels.clone();
            requirement.data = here.data.clone();
        }
        _ => {}
    }
    requirement
}

/// The runner's dice: how one attempt goes.
pub(crate) fn length_us(spec: &GroupSpec, rng: &mut StdRng) -> u64 {
    let length_us = Behaviour::of(spec).length_ms * 1_000;
    rng.random_range(length_us / 2..=length_us * 3 / 2)
}

pub(crate) fn ending(spec: &GroupSpec, rng: &mut StdRng) -> job::Ending {
    let fails = rng.random_range(0..100) < Behaviour::of(spec).fails_percent;
    job::Ending::Exited { code: u8::from(fails) }
}
