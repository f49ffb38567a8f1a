//! When a node's own entries wait for company.
//!
//! Each entry costs a signature, a commit here and one on every other node. While the last entry is being
//! made durable the next one gathers events, but a fast disk takes a tenth of a millisecond for that, and a
//! busy node would write entries of one event. So entries that follow each other quickly wait a little; the
//! first ones after a quiet time, and what a user waits for, never do.

use std::time::Duration;

use crate::time::Timestamp;

/// So long an entry of a busy node waits for more events. Nothing waits for more than a few of its kind in a
/// row, so it is lost in the time that processes take to start.
const PATIENCE: Duration = Duration::from_millis(3);
/// A node is busy that wrote two entries within this.
const BUSY: Duration = Duration::from_millis(8);

/// When the last two own entries were written.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Timestamp>,
    before: Option<Timestamp>,
}

impl Pace {
    /// Until when the next entry waits; `None`: it is written now.
    pub(crate) fn waits_until(&self, now: Timestamp) -> Option<Timestamp> {
        let is_busy = self.before.is_some_and(|before| now < before + BUSY);
        self.last.filter(|_| is_busy).map(|last| last + PATIENCE).filter(|&until| now < until)
    }

    pub(crate) fn on_written(&mut self, now: Timestamp) {
        self.before = self.last.replace(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_wait_for_more_only_where_they_follow_each_other_quickly() {
        let mut pace = Pace::default();
        let at = Timestamp;
        assert_eq!(pace.waits_until(at(0)), None);
        pace.on_written(at(0));
        assert_eq!(pace.waits_until(at(1)), None, "one before it is no crowd");
        pace.on_written(at(1));
        assert_eq!(pace.waits_until(at(2)), Some(at(4)));
        assert_eq!(pace.waits_until(at(4)), None, "it has waited");
        pace.on_written(at(4));
        assert_eq!(pace.waits_until(at(5)), Some(at(7)), "and so does the next");
        assert_eq!(pace.waits_until(at(100)), None, "after a quiet time nothing waits");
    }
}
