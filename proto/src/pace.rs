//! When a node's own entries wait for company.
//!
//! Each entry costs a signature, a commit here and one on every other node. While the last entry is being
//! made durable the next one gathers events, but a fast disk takes a tenth of a millisecond for that, and a
//! busy node would write entries of one event. So entries that follow each other quickly wait a little; the
//! first ones after a quiet time, and what a user waits for, never do.

use std::time::Duration;

use crate::time::Timestamp;

/// So long an entry of a busy node waits for more events. `examples/task_rate.rs` with 5,000 jobs: against no wait at all
/// 3 ms saves an eighth of the processors' time that is not the jobs' own, 10 ms three of eight.
const PATIENCE: Duration = Duration::from_millis(10);
/// A node is busy that wrote [`CROWD`] entries within this; more than they take when each of them waits.
const BUSY: Duration = Duration::from_millis(60);
/// One more than a short job alone makes: its submission, its start, its end and its outcome wait for nothing.
const CROWD: usize = 5;

/// When the last own entries were written, the latest first.
#[derive(Debug, Default)]
pub(crate) struct Pace([Option<Timestamp>; CROWD]);

impl Pace {
    /// Until when the next entry waits; `None`: it is written now.
    pub(crate) fn waits_until(&self, now: Timestamp) -> Option<Timestamp> {
        let is_busy = self.0[CROWD - 1].is_some_and(|first| now < first + BUSY);
        self.0[0].filter(|_| is_busy).map(|last| last + PATIENCE).filter(|&until| now < until)
    }

    pub(crate) fn on_written(&mut self, now: Timestamp) {
        self.0.rotate_right(1);
        self.0[0] = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_wait_for_more_only_where_they_follow_each_other_quickly() {
        let (mut pace, at) = (Pace::default(), Timestamp);
        for ms in 0..5 {
            assert_eq!(pace.waits_until(at(ms)), None, "so few are no crowd");
            pace.on_written(at(ms));
        }
        assert_eq!(pace.waits_until(at(5)), Some(at(14)));
        assert_eq!(pace.waits_until(at(14)), None, "it has waited");
        pace.on_written(at(14));
        assert_eq!(pace.waits_until(at(15)), Some(at(24)), "and so does the next");
        assert_eq!(pace.waits_until(at(100)), None, "after a quiet time nothing waits");
    }
}
