//! The rule by which a runner starts its daemon again, waits for it, or ends. Pure: time and news go in.

use std::time::{Duration, Instant};

/// First pause before the daemon is started again.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest pause: a daemon that cannot start must not keep a machine busy.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a runner with nothing to do waits for a daemon that will not be started again by it: enough for
/// a person or systemd to restart one.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// What the runner knows of its daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    /// Whether it may be started again at all.
    respawn: bool,
    state: State,
    backoff: Duration,
    /// The daemon that this runner started, while it lives.
    child: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// None has connected yet.
    Awaited {
        since: Instant,
    },
    Connected,
    /// Its connection ended without a goodbye.
    Lost {
        since: Instant,
        next_try: Instant,
    },
    /// It left on purpose.
    SaidGoodbye,
}

/// What the runner does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing before this time, or before news.
    Wait(Option<Instant>),
    /// Start the daemon now.
    Respawn,
    /// End.
    Exit,
}

impl Daemon {
    /// A daemon that started this runner and will connect. `respawn`: it may be started again.
    pub(super) fn awaited(now: Instant, respawn: bool) -> Self {
        Self { respawn, state: State::Awaited { since: now }, backoff: BACKOFF_MIN, child: None }
    }

    /// A daemon connected.
    pub(super) fn on_connected(&mut self) {
        self.state = State::Connected;
        self.backoff = BACKOFF_MIN;
    }

    /// It said that it leaves on purpose.
    pub(super) fn on_goodbye(&mut self) {
        self.state = State::SaidGoodbye;
    }

    /// Its connection ended.
    pub(super) fn on_disconnected(&mut self, now: Instant) {
        if self.state == State::Connected {
            self.state = State::Lost { since: now, next_try: now + self.backoff };
        }
    }

    /// The runner started it as `child`, or could not (`None`).
    pub(super) fn on_respawned(&mut self, now: Instant, child: Option<u32>) {
        self.child = child;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        if let State::Lost { since, .. } = self.state {
            self.state = State::Lost { since, next_try: now + self.backoff };
        }
    }

    /// A child of the runner ended; returns whether it was the daemon.
    pub(super) fn on_child_ended(&mut self, now: Instant, pid: u32) -> bool {
        if self.child != Some(pid) {
            return false;
        }
        self.child = None;
        if let State::Lost { since, .. } = self.state {
            self.state = State::Lost { since, next_try: now + self.backoff };
        }
        true
    }

    /// From now on it is not started again: there is nothing to start.
    pub(super) fn give_up(&mut self) {
        self.respawn = false;
    }

    /// What to do at `now`; `busy`: attempts run.
    pub(super) fn next(&self, now: Instant, busy: bool) -> Verdict {
        let linger = |since: Instant| match since + LINGER {
            _ if busy => Verdict::Wait(None),
            end if now >= end => Verdict::Exit,
            end => Verdict::Wait(Some(end)),
        };
        match self.state {
            State::Connected => Verdict::Wait(None),
            State::SaidGoodbye if busy => Verdict::Wait(None),
            State::SaidGoodbye => Verdict::Exit,
            State::Awaited { since } => linger(since),
            State::Lost { since, .. } if !self.respawn => linger(since),
            State::Lost { .. } if self.child.is_some() => Verdict::Wait(None),
            State::Lost { next_try, .. } if now >= next_try => Verdict::Respawn,
            State::Lost { next_try, .. } => Verdict::Wait(Some(next_try)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_daemon_is_started_again_with_growing_pauses() {
        let now = Instant::now();
        let mut daemon = Daemon::awaited(now, true);
        daemon.on_connected();
        assert_eq!(daemon.next(now, false), Verdict::Wait(None));
        daemon.on_disconnected(now);
        let mut at = now + BACKOFF_MIN;
        assert_eq!(daemon.next(now, false), Verdict::Wait(Some(at)));
        for pause in [400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            assert_eq!(daemon.next(at, false), Verdict::Respawn);
            daemon.on_respawned(at, Some(7));
            assert_eq!(daemon.next(at, false), Verdict::Wait(None), "it may still connect");
            assert!(!daemon.on_child_ended(at, 8) && daemon.on_child_ended(at, 7));
            at += Duration::from_millis(pause);
            assert_eq!(daemon.next(now, false), Verdict::Wait(Some(at)));
        }
        daemon.on_connected();
        daemon.on_disconnected(at);
        assert_eq!(daemon.next(at, false), Verdict::Wait(Some(at + BACKOFF_MIN)), "a connection resets the pause");
    }

    #[test]
    fn after_a_goodbye_the_runner_ends_with_its_last_job() {
        let now = Instant::now();
        let mut daemon = Daemon::awaited(now, true);
        daemon.on_connected();
        daemon.on_goodbye();
        daemon.on_disconnected(now);
        assert_eq!(daemon.next(now, true), Verdict::Wait(None));
        assert_eq!(daemon.next(now, false), Verdict::Exit);
        daemon.on_connected();
        assert_eq!(daemon.next(now, false), Verdict::Wait(None), "a new daemon is welcome meanwhile");
    }

    #[test]
    fn a_runner_that_starts_no_daemon_lingers_and_ends() {
        let now = Instant::now();
        let mut daemon = Daemon::awaited(now, false);
        assert_eq!(daemon.next(now, false), Verdict::Wait(Some(now + LINGER)));
        assert_eq!(daemon.next(now + LINGER, false), Verdict::Exit, "none ever came");
        daemon.on_connected();
        daemon.on_disconnected(now);
        assert_eq!(daemon.next(now + LINGER, true), Verdict::Wait(None));
        assert_eq!(daemon.next(now + LINGER, false), Verdict::Exit);
    }
}
