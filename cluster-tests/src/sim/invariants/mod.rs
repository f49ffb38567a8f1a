//! What must hold after every step (DESIGN §14), one file each, and what must hold at the end.

mod i1_accepted;
mod i2_outcome;
mod i3_capacity;
mod i4_merge;
mod i5_progress;
mod i6_stop;
mod i7_log;
mod once;

use std::fmt;

pub(crate) use i5_progress::settled;

use super::coverage::Coverage;
use super::host::Host;
use super::plan::Plan;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `I1` to `I7`, `once`, or `core` for a panic of the core's own checks.
    pub invariant: &'static str,
    /// How.
    pub what: String,
}

/// Everything that is checked, with what each check remembers.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) accepted: i1_accepted::Accepted,
    pub(crate) outcome: i2_outcome::Outcomes,
    pub(crate) capacity: i3_capacity::Capacities,
    pub(crate) merge: i4_merge::Merge,
    pub(crate) stop: i6_stop::Stops,
    pub(crate) log: i7_log::Logs,
    pub(crate) once: once::Once,
}

impl Checks {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            accepted: i1_accepted::Accepted::default(),
            outcome: i2_outcome::Outcomes::default(),
            capacity: i3_capacity::Capacities,
            merge: i4_merge::Merge::default(),
            stop: i6_stop::Stops::default(),
            log: i7_log::Logs::default(),
            once: once::Once::new(plan.calm),
        }
    }

    /// What one step can have broken on its own host.
    pub(crate) fn after_step(&mut self, host: usize, hosts: &[Host], now_us: u64) -> Result<(), Violation> {
        self.capacity.check(host, &hosts[host])?;
        self.outcome.check_held(host, hosts)?;
        self.stop.check(host, &hosts[host], now_us)
    }

    /// What must hold when all is done.
    pub(crate) fn at_end(&self, hosts: &[Host]) -> Result<(), Violation> {
        self.accepted.check(hosts)?;
        self.merge.check_agreement(hosts)?;
        self.outcome.check_final(hosts)
    }

    pub(crate) fn coverage(&self) -> Coverage {
        let mut coverage = self.outcome.coverage.clone();
        coverage.add(&self.once.coverage);
        coverage
    }
}

impl Violation {
    pub(crate) fn new(invariant: &'static str, what: String) -> Self {
        Self { invariant, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}
