//! I3: no worker's reservations exceed its capacity.
//!
//! Source: DESIGN §9.2 and §14. Judged by what the simulated runner really runs, not by the core's books;
//! the books are compared with it.
//! Planted bug: `overcommit`.

use proto::capacity::Reservation;

use super::super::host::Host;
use super::Violation;

/// Nothing to remember.
#[derive(Debug)]
pub(crate) struct Capacities;

impl Capacities {
    /// A process was just handed over.
    pub(crate) fn on_run(&self, at: usize, host: &Host) -> Result<(), Violation> {
        let (held, exclusive) = host.runner.held();
        if !exclusive {
            return Err(Violation::new("I3", format!("host {at} leases a GPU twice")));
        }
        self.fits(at, host, &held)
    }

    /// The core's books after a step.
    pub(crate) fn check(&self, at: usize, host: &Host) -> Result<(), Violation> {
        match &host.daemon {
            Some(daemon) => self.fits(at, host, daemon.core.used()),
            None => Ok(()),
        }
    }

    fn fits(&self, at: usize, host: &Host, held: &Reservation) -> Result<(), Violation> {
        let known = held.gpus.iter().all(|uuid| host.capacity.gpus.iter().any(|gpu| gpu.uuid == *uuid));
        if held.cpu_milli <= host.capacity.cpu_milli && held.memory <= host.capacity.memory && known {
            return Ok(());
        }
        Err(Violation::new("I3", format!("host {at} reserves {held:?} of {} CPUs", host.capacity.cpu_milli / 1_000)))
    }
}
