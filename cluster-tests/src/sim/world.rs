//! The simulated world: one queue of happenings, in the order of time, and every machine they happen to.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proto::core_io::{Input, RequestId};
use proto::entry::{Position, VerifiedEntry};
use proto::job::{BundleRef, Ending};
use proto::message::Message;
use proto::snapshot::SnapshotOrder;
use proto::{AttemptId, ContentId, GroupId, NodeId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::coverage::Coverage;
use super::faults::Fault;
use super::host::Host;
use super::invariants::{Checks, Violation, settled};
use super::network::Network;
use super::plan::Plan;
use super::trace::Trace;
use super::workload::{Behaviour, Submission};

/// Phase two ends after this and all work, one job after the other, at the latest: time to find each other, to
/// declare the dead, to adopt.
const PHASE_TWO_US: u64 = 150_000_000;
/// So often phase two looks whether all is done.
const LOOK_EVERY_US: u64 = 250_000;
/// More steps than this in one run mean that something goes in circles.
const STEPS_MAX: u64 = 3_000_000;

/// How a run went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Equal for equal runs.
    pub digest: ContentId,
    /// Rare paths.
    pub coverage: Coverage,
    /// Steps of all cores.
    pub steps: u64,
    /// Simulated microseconds until all was done.
    pub length_us: u64,
}

/// A run that broke an invariant.
#[derive(Debug)]
pub struct Failure {
    /// Which, and how.
    pub violation: Violation,
    /// The last lines of the trace.
    pub story: String,
}

/// What can happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Wake { host: usize, life: u64 },
    Feed { host: usize, life: u64, input: Box<Input> },
    Deliver { from: usize, to: usize, epoch: u64, parcel: Parcel },
    Dial { one: usize, other: usize },
    Notice { host: usize, peer: usize, epoch: u64 },
    Synced { host: usize, life: u64 },
    Fetched { host: usize, life: u64, position: Position, bundle: BundleRef, from: usize },
    Snapshot { host: usize, life: u64, order: SnapshotOrder },
    Starts { host: usize, attempt: AttemptId, serial: u64 },
    Ends { host: usize, attempt: AttemptId, serial: u64, ending: Ending },
    Adopt { host: usize, life: u64 },
    Submit,
    UserWrites,
    Fault(Fault),
    PhaseTwo,
    Look,
}

/// A message on its way.
#[derive(Debug)]
pub(crate) enum Parcel {
    Message(Box<Message>),
    Bytes(Vec<u8>),
}

/// Everything.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: StdRng,
    pub(crate) now_us: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    scheduled: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) index: BTreeMap<NodeId, usize>,
    pub(crate) network: Network,
    pub(crate) faults_over: bool,
    /// The last moment at which a fault was felt.
    pub(crate) trouble_us: u64,
    pub(crate) submissions: BTreeMap<GroupId, Submission>,
    pub(crate) requests: BTreeMap<RequestId, GroupId>,
    pub(crate) requests_made: u64,
    /// Entries whose signature was checked once; checking is pure.
    pub(crate) verified: BTreeMap<ContentId, VerifiedEntry>,
    pub(crate) checks: Checks,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
    pub(crate) steps: u64,
    over: bool,
}

/// Runs `plan` to its end; a failure tells its last `lines_max` lines, which make the run
/// much slower; 0 for none.
///
/// # Errors
/// The first violation.
pub fn run(plan: &Plan, lines_max: usize) -> Result<Report, Box<Failure>> {
    let mut world = World::new(plan.clone(), lines_max);
    match world.run() {
        Ok(()) => {
            world.coverage.add(&world.checks.coverage());
            Ok(Report {
                digest: world.trace.digest(),
                coverage: world.coverage,
                steps: world.steps,
                length_us: world.now_us,
            })
        }
        Err(violation) => Err(Box::new(Failure { violation, story: world.trace.to_string() })),
    }
}

impl World {
    fn new(plan: Plan, lines_max: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let hosts: Vec<Host> = (0..plan.hosts).map(|index| Host::new(index, &plan, &mut rng)).collect();
        let index = hosts.iter().enumerate().map(|(at, host)| (host.id, at)).collect();
        Self {
            rng,
            now_us: 0,
            queue: BTreeMap::new(),
            scheduled: 0,
            hosts,
            index,
            network: Network::default(),
            faults_over: false,
            trouble_us: 0,
            submissions: BTreeMap::new(),
            requests: BTreeMap::new(),
            requests_made: 0,
            verified: BTreeMap::new(),
            checks: Checks::new(&plan),
            coverage: Coverage::default(),
            trace: Trace::new(lines_max),
            steps: 0,
            over: false,
            plan,
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        self.tell_plan();
        for host in 0..self.hosts.len() {
            let after = self.rng.random_range(0..300_000);
            let late_us = self.plan.late.filter(|(late, _)| *late == host).map_or(0, |(_, late_us)| late_us);
            self.schedule(after + late_us, Happening::Fault(Fault::DaemonStarts { host }));
        }
        self.plan_workload();
        self.plan_faults();
        self.schedule(self.plan.phase_one_us, Happening::PhaseTwo);
        while !self.over {
            let Some(((at, _), happening)) = self.queue.pop_first() else { break };
            self.now_us = at;
            self.happen(happening)?;
            if self.steps > STEPS_MAX {
                return Err(Violation::new("I5", format!("more than {STEPS_MAX} steps: something goes in circles")));
            }
        }
        Ok(())
    }

    fn tell_plan(&mut self) {
        let plan = format!("{:?}", self.plan);
        self.tell(|| plan);
        for host in 0..self.hosts.len() {
            let Host { id, capacity, .. } = &self.hosts[host];
            let line = format!(
                "host {host} is {}: {} CPUs, {} GPUs, {:?}",
                id.short(),
                capacity.cpu_milli / 1_000,
                capacity.gpus.len(),
                capacity.labels
            );
            self.tell(|| line);
        }
    }

    pub(crate) fn schedule(&mut self, at_us: u64, happening: Happening) {
        self.scheduled += 1;
        self.queue.insert((at_us.max(self.now_us), self.scheduled), happening);
    }

    pub(crate) fn after(&mut self, length_us: u64, happening: Happening) {
        self.schedule(self.now_us + length_us, happening);
    }

    pub(crate) fn tell(&mut self, what: impl FnOnce() -> String) {
        self.trace.tell(self.now_us, what);
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Wake { host, life } => self.on_wake(host, life),
            Happening::Feed { host, life, input } => {
                if self.hosts[host].life == life {
                    self.step(host, *input)
                } else {
                    Ok(())
                }
            }
            Happening::Deliver { from, to, epoch, parcel } => self.on_deliver(from, to, epoch, parcel),
            Happening::Dial { one, other } => self.on_dial(one, other),
            Happening::Notice { host, peer, epoch } => self.on_notice(host, peer, epoch),
            Happening::Synced { host, life } => self.on_synced(host, life),
            Happening::Fetched { host, life, position, bundle, from } => {
                self.on_fetched(host, life, position, bundle, from)
            }
            Happening::Snapshot { host, life, order } => self.on_snapshot_order(host, life, order),
            Happening::Starts { host, attempt, serial } => self.on_starts(host, attempt, serial),
            Happening::Ends { host, attempt, serial, ending } => self.on_ends(host, attempt, serial, ending),
            Happening::Adopt { host, life } => self.on_adopt(host, life),
            Happening::Submit => self.submit(),
            Happening::UserWrites => self.user_writes(),
            Happening::Fault(fault) => self.on_fault(fault),
            Happening::PhaseTwo => self.on_phase_two(),
            Happening::Look => self.on_look(),
        }
    }

    fn on_wake(&mut self, host: usize, life: u64) -> Result<(), Violation> {
        let now_us = self.now_us;
        let machine = &self.hosts[host];
        // Only the latest wish counts; an earlier one was replaced.
        if machine.life != life || machine.daemon.as_ref().is_none_or(|daemon| daemon.wake_us != now_us) {
            return Ok(());
        }
        self.step(host, Input::Tick)
    }

    /// One step of one core, its effects, and the checks that follow.
    pub(crate) fn step(&mut self, host: usize, input: Input) -> Result<(), Violation> {
        let now = self.hosts[host].now(self.now_us);
        let Some(daemon) = &mut self.hosts[host].daemon else { return Ok(()) };
        self.steps += 1;
        if self.trace.is_told() && !matches!(input, Input::Tick) {
            let line = format!("{host} <- {}", super::shell::brief(&input));
            self.trace.tell(self.now_us, || line);
        }
        let core = &mut daemon.core;
        let stepped = catch_unwind(AssertUnwindSafe(|| {
            let effects = core.step(now, input);
            core.check_invariants();
            effects
        }));
        let effects = stepped.map_err(|panic| {
            let what = panic.downcast_ref::<String>().cloned();
            let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let what = what.unwrap_or_else(|| "no message".to_owned());
            let invariant = if what.contains("I3") { "I3" } else { "core" };
            Violation::new(invariant, format!("the core of host {host} panicked: {what}"))
        })?;
        self.trace.mix(&[self.now_us, host as u64, effects.len() as u64]);
        for effect in effects {
            self.run_effect(host, effect)?;
        }
        self.checks.after_step(host, &self.hosts, self.now_us)
    }

    fn on_phase_two(&mut self) -> Result<(), Violation> {
        self.tell(|| "phase two: all faults end".to_owned());
        self.faults_over = true;
        self.end_faults();
        self.after(LOOK_EVERY_US, Happening::Look);
        Ok(())
    }

    fn on_look(&mut self) -> Result<(), Violation> {
        match settled(&self.hosts, &self.submissions) {
            Ok(()) => {
                self.over = true;
                self.checks.at_end(&self.hosts)
            }
            Err(what) if self.now_us > self.phase_two_ends_us() => Err(Violation::new("I5", what)),
            Err(_) => {
                self.after(LOOK_EVERY_US, Happening::Look);
                Ok(())
            }
        }
    }

    fn phase_two_ends_us(&self) -> u64 {
        let work_us: u64 = self.submissions.values().map(|submission| Behaviour::work_us(&submission.spec)).sum();
        self.plan.phase_one_us + PHASE_TWO_US + work_us
    }
}
