//! One attempt from its start until its whole tree is gone: what it is allowed, what was done to it, and
//! how that makes its ending. `attempts.rs` holds them all and does the signalling.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proto::job::{Ending, LostReason, Usage};
use rustix::process::Signal;

use super::cgroup::Cgroup;
use super::log::unix_ms;
use super::sys::Reaped;
use crate::exec::protocol::{Ended, StartOrder, Started};

/// First pause between two rounds of SIGKILL; doubles until [`ROUND_MAX`].
const ROUND_MIN: Duration = Duration::from_millis(20);
const ROUND_MAX: Duration = Duration::from_secs(1);
/// How long the rest of a tree may resist SIGKILL (a process in an uninterruptible wait) before the attempt
/// counts as over nevertheless.
const PATIENCE: Duration = Duration::from_secs(30);

/// An attempt whose tree is not known to be gone.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) started: Started,
    pub(super) phase: Phase,
    /// Why the runner ends it; `None`: it ends by itself.
    pub(super) cause: Option<Cause>,
    /// How the main process ended, once it has.
    pub(super) exit: Option<Reaped>,
    /// When `attempts.rs` must look at it again.
    pub(super) timer: Option<Instant>,
    pub(super) grace: Duration,
    /// 0: no limit.
    pub(super) memory_limit_bytes: u64,
    /// Largest tree that the watchdog measured, in bytes.
    pub(super) memory_seen_bytes: u64,
    pub(super) cgroup: Option<Cgroup>,
    /// The kernel's count of out-of-memory kills when it started.
    pub(super) oom_count: u64,
    pub(super) cleanup_dir: Option<PathBuf>,
}

/// How far an attempt's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody wants it to end.
    Running,
    /// SIGTERM was sent; the timer is the end of the grace.
    Stopping,
    /// SIGKILL is sent in rounds; the timer is the next one.
    Killing { since: Instant, pause: Duration },
}

/// Why the runner ends an attempt. The first cause stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Stopped,
    TimedOut,
    OutOfMemory,
    /// The runner itself ends.
    Shutdown,
}

impl Attempt {
    /// An attempt that was just started by `order`.
    pub(super) fn new(
        order: &StartOrder,
        started: Started,
        cgroup: Option<Cgroup>,
        oom_count: u64,
        now: Instant,
    ) -> Self {
        let timeout = Duration::from_secs(order.timeout_s);
        Self {
            started,
            phase: Phase::Running,
            cause: None,
            exit: None,
            // A deadline beyond what the clock can count never comes.
            timer: if timeout.is_zero() { None } else { now.checked_add(timeout) },
            grace: Duration::from_millis(order.grace_ms),
            memory_limit_bytes: order.memory_limit_bytes,
            memory_seen_bytes: 0,
            cgroup,
            oom_count,
            cleanup_dir: order.cleanup_dir.clone(),
        }
    }

    /// Number of its main process, and of the process group that it leads.
    pub(super) fn pid(&self) -> u32 {
        self.started.process.pid
    }

    /// Whether the watchdog must measure it.
    pub(super) fn is_watched(&self) -> bool {
        self.memory_limit_bytes > 0 && self.cgroup.is_none() && self.exit.is_none()
    }

    /// Begins to stop it for `cause`; returns whether SIGTERM is due. Another stop only shortens the grace.
    pub(super) fn stop(&mut self, cause: Cause, grace: Duration, now: Instant) -> bool {
        let end = now.checked_add(grace);
        match self.phase {
            Phase::Killing { .. } => false,
            Phase::Stopping => {
                self.timer = [self.timer, end].into_iter().flatten().min();
                false
            }
            Phase::Running => {
                self.cause = self.cause.or(Some(cause));
                self.phase = Phase::Stopping;
                self.timer = end;
                true
            }
        }
    }

    /// Begins to kill it, or goes on; sets the timer of the next round. `cause`: why, if nobody asked before.
    pub(super) fn kill(&mut self, cause: Option<Cause>, now: Instant) {
        self.phase = match self.phase {
            Phase::Killing { since, pause } => Phase::Killing { since, pause: (pause * 2).min(ROUND_MAX) },
            Phase::Running | Phase::Stopping => Phase::Killing { since: now, pause: ROUND_MIN },
        };
        if self.exit.is_none() {
            self.cause = self.cause.or(cause);
        }
        if let Phase::Killing { pause, .. } = self.phase {
            self.timer = now.checked_add(pause);
        }
    }

    /// Whether its main process is gone and the rest has resisted SIGKILL for too long.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Killing { since, .. } if now.duration_since(since) >= PATIENCE)
            && self.exit.is_some()
    }

    /// The report of its end. `oom_count`: reads the kernel's count of out-of-memory kills.
    pub(super) fn ended(&self, oom_count: impl FnOnce() -> u64) -> Ended {
        let mut usage = self.exit.map_or_else(Usage::default, |exit| exit.usage);
        let peak = self.cgroup.as_ref().map_or(0, Cgroup::memory_peak);
        usage.memory_max_bytes = usage.memory_max_bytes.max(self.memory_seen_bytes).max(peak);
        Ended {
            attempt: self.started.attempt,
            ending: self.ending(oom_count),
            usage,
            started_unix_ms: self.started.started_unix_ms,
            ended_unix_ms: unix_ms(),
        }
    }

    fn ending(&self, oom_count: impl FnOnce() -> u64) -> Ending {
        match self.cause {
            Some(Cause::Stopped) => return Ending::Stopped,
            Some(Cause::TimedOut) => return Ending::TimedOut,
            Some(Cause::OutOfMemory) => return Ending::OutOfMemory,
            Some(Cause::Shutdown) => return Ending::Lost(LostReason::RunnerDown),
            None => {}
        }
        // Only an attempt whose main process was reaped comes here without a cause.
        let Some(exit) = self.exit else { return Ending::Lost(LostReason::RunnerDown) };
        if !exit.status.success() && self.cgroup.as_ref().is_some_and(|group| group.oom_kills() > 0) {
            return Ending::OutOfMemory;
        }
        match (exit.status.code(), exit.status.signal()) {
            // The kernel does not tell whom it killed for memory, so a SIGKILL that nobody here sent counts
            // as that if its count grew meanwhile.
            (None, Some(signal)) if signal == Signal::KILL.as_raw() && oom_count() > self.oom_count => {
                Ending::OutOfMemory
            }
            (None, signal) => {
                Ending::Signalled { signal: signal.and_then(|signal| u8::try_from(signal).ok()).unwrap_or(0) }
            }
            // Exit codes are one byte on Linux.
            (Some(code), _) => Ending::Exited { code: u8::try_from(code & 0xff).unwrap_or(u8::MAX) },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use proto::{AttemptId, GroupId, JobId};

    use super::*;
    use crate::exec::protocol::ProcessId;

    fn attempt(now: Instant) -> Attempt {
        Attempt {
            started: Started {
                attempt: AttemptId { job: JobId::only(GroupId([1; 16])), epoch: 1, number: 1 },
                process: ProcessId { pid: 2, start_time: 3 },
                started_unix_ms: 4,
            },
            phase: Phase::Running,
            cause: None,
            exit: None,
            timer: Some(now + Duration::from_secs(60)),
            grace: Duration::from_secs(5),
            memory_limit_bytes: 0,
            memory_seen_bytes: 0,
            cgroup: None,
            oom_count: 7,
            cleanup_dir: None,
        }
    }

    fn exited(raw: i32) -> Option<Reaped> {
        Some(Reaped { status: ExitStatus::from_raw(raw), usage: Usage::default() })
    }

    #[test]
    fn endings_are_exact() {
        let mut attempt = attempt(Instant::now());
        let mut ending = |raw, oom_count: u64| {
            attempt.exit = exited(raw);
            attempt.ended(|| oom_count).ending
        };
        assert_eq!(ending(0, 7), Ending::Exited { code: 0 });
        assert_eq!(ending(255 << 8, 7), Ending::Exited { code: 255 });
        assert_eq!(ending(11, 9), Ending::Signalled { signal: 11 });
        assert_eq!(ending(9, 7), Ending::Signalled { signal: 9 });
        assert_eq!(ending(9, 8), Ending::OutOfMemory);
    }

    #[test]
    fn the_first_cause_stays_and_a_second_stop_only_shortens_the_grace() {
        let now = Instant::now();
        let mut attempt = attempt(now);
        assert!(attempt.stop(Cause::TimedOut, Duration::from_secs(5), now));
        assert!(!attempt.stop(Cause::Stopped, Duration::from_secs(9), now));
        assert_eq!(attempt.timer, Some(now + Duration::from_secs(5)));
        assert!(!attempt.stop(Cause::Stopped, Duration::from_secs(1), now));
        assert_eq!(attempt.timer, Some(now + Duration::from_secs(1)));
        attempt.kill(None, now);
        assert_eq!(attempt.timer, Some(now + ROUND_MIN));
        attempt.kill(Some(Cause::OutOfMemory), now);
        assert_eq!(attempt.timer, Some(now + 2 * ROUND_MIN));
        attempt.exit = exited(0);
        assert_eq!(attempt.ended(|| 0).ending, Ending::TimedOut);
        assert!(!attempt.is_stuck(now) && attempt.is_stuck(now + PATIENCE));
    }

    #[test]
    fn a_rest_that_is_killed_does_not_change_how_the_main_process_ended() {
        let now = Instant::now();
        let mut attempt = attempt(now);
        attempt.exit = exited(3 << 8);
        attempt.kill(Some(Cause::OutOfMemory), now);
        assert_eq!(attempt.ended(|| 0).ending, Ending::Exited { code: 3 });
    }
}
