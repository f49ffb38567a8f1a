//! A simulated runner: owns processes, outlives its daemon, dies with its host.

use std::collections::BTreeMap;

use proto::core_io::{Adopted, Run};
use proto::event::AttemptFinished;
use proto::{AttemptId, capacity::Reservation};

/// The processes of one host.
#[derive(Debug, Default)]
pub(crate) struct Runner {
    pub(crate) processes: BTreeMap<AttemptId, Process>,
    serial: u64,
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) run: Run,
    pub(crate) phase: Phase,
    pub(crate) halted: bool,
    /// Tells this process from an earlier one of the same attempt.
    pub(crate) serial: u64,
}

/// How far a process got.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The daemon fetches and prepares: lost with the daemon.
    Preparing,
    /// It runs.
    Running { started_unix_ms: u64 },
    /// It ended, and the daemon has not made that durable yet.
    Ended { finished: Box<AttemptFinished> },
}

impl Runner {
    /// Takes an attempt; returns its serial, or `None` when it is held already.
    pub(crate) fn take(&mut self, run: Run) -> Option<u64> {
        if self.processes.contains_key(&run.attempt) {
            return None;
        }
        self.serial += 1;
        let process = Process { phase: Phase::Preparing, halted: false, serial: self.serial, run };
        self.processes.insert(process.run.attempt, process);
        Some(self.serial)
    }

    pub(crate) fn get_mut(&mut self, attempt: AttemptId, serial: u64) -> Option<&mut Process> {
        self.processes.get_mut(&attempt).filter(|process| process.serial == serial)
    }

    /// What a new daemon is told; started attempts only.
    pub(crate) fn adopted(&self) -> (Vec<Adopted>, Vec<AttemptFinished>) {
        let mut adopted = Vec::new();
        let mut ended = Vec::new();
        for (&attempt, process) in &self.processes {
            let (started_unix_ms, reservation) = match &process.phase {
                Phase::Preparing => continue,
                Phase::Running { started_unix_ms } => (*started_unix_ms, process.run.reservation.clone()),
                Phase::Ended { finished } => {
                    ended.push((**finished).clone());
                    (finished.started_unix_ms, Reservation::default())
                }
            };
            let spec = Box::new(process.run.spec.clone());
            adopted.push(Adopted { attempt, spec, reservation, started_unix_ms });
        }
        (adopted, ended)
    }

    /// The daemon died: what it prepared is gone.
    pub(crate) fn forget_preparing(&mut self) {
        self.processes.retain(|_, process| !matches!(process.phase, Phase::Preparing));
    }

    /// What its processes hold together, and whether no GPU is held twice.
    pub(crate) fn held(&self) -> (Reservation, bool) {
        let mut sum = Reservation::default();
        let mut gpus = 0;
        for process in self.processes.values().filter(|process| !matches!(process.phase, Phase::Ended { .. })) {
            gpus += process.run.reservation.gpus.len();
            sum.add(&process.run.reservation);
        }
        let exclusive = gpus == sum.gpus.len();
        (sum, exclusive)
    }
}
