//! What becomes of a job, by its record alone.

use super::*;
use crate::fixture::{TWO, attempt, ended, job, record, running, spec};
use crate::id::NodeId;

/// A job of group 7 whose attempts ended so, one after the other.
fn after(endings: &[Ending]) -> JobRecord {
    let ended = |(number, ending): (u32, &Ending)| (1, number, TWO, ended(attempt(7, 1, number), ending.clone()));
    record((1..).zip(endings).map(ended))
}

fn done(number: u32, ending: Ending) -> Verdict {
    Verdict::Done { attempt: Some((attempt(7, 1, number), TWO)), ending }
}

const FAILED: Ending = Ending::Exited { code: 3 };
const COMPLETED: Ending = Ending::Exited { code: 0 };
const LOST: Ending = Ending::Lost(LostReason::NodeDown);
const FULL: Ending = Ending::NotStarted(StartFailure::DiskFull);

#[test]
fn a_job_is_tried_as_often_as_it_may_be() {
    for (retries, endings, expected) in [
        (0, vec![], Verdict::Needed),
        (0, vec![FAILED], done(1, FAILED)),
        (2, vec![FAILED, FAILED], Verdict::Needed),
        (2, vec![FAILED, FAILED, Ending::TimedOut], done(3, Ending::TimedOut)),
        (9, vec![FAILED, COMPLETED], done(2, COMPLETED)),
        // What is lost, or could not be prepared there, uses up no retry.
        (0, vec![LOST, LOST, LOST, LOST], Verdict::Needed),
        (1, vec![LOST, FAILED, FULL], Verdict::Needed),
        (1, vec![LOST, FAILED, FAILED], done(3, FAILED)),
        // An environment that cannot be built cannot be built elsewhere.
        (0, vec![Ending::NotStarted(StartFailure::Environment("no".to_owned()))], {
            done(1, Ending::NotStarted(StartFailure::Environment("no".to_owned())))
        }),
    ] {
        let spec = GroupSpec { retries, ..spec(1) };
        assert_eq!(judge(&spec, job(7), &after(&endings), false), expected, "{retries} retries, {endings:?}");
    }
}

#[test]
fn five_lost_attempts_are_the_crash_limit_and_five_unprepared_the_end() {
    let lost = |count| after(&vec![LOST; count]);
    assert_eq!(judge(&spec(1), job(7), &lost(LOST_MAX - 1), false), Verdict::Needed);
    let limit = done(5, Ending::Lost(LostReason::CrashLimit));
    assert_eq!(judge(&spec(1), job(7), &lost(LOST_MAX), false), limit);
    let full = |count| after(&vec![FULL; count]);
    assert_eq!(judge(&spec(1), job(7), &full(UNPREPARED_MAX - 1), false), Verdict::Needed);
    assert_eq!(judge(&spec(1), job(7), &full(UNPREPARED_MAX), false), done(5, FULL));
    let fail = GroupSpec { on_lost: OnLost::Fail, ..spec(1) };
    assert_eq!(judge(&fail, job(7), &lost(1), false), done(1, LOST));
}

#[test]
fn an_attempt_that_was_given_up_and_completed_all_the_same_counts() {
    let mut job_record = after(&[COMPLETED, FAILED]);
    let given_up = job_record.attempts.values_mut().next().expect("the first");
    given_up.lost = Some(LostReason::NodeDown);
    assert_eq!(judge(&spec(1), job(7), &job_record, false), done(1, COMPLETED));
}

#[test]
fn a_wish_to_stop_waits_for_what_runs() {
    let run = |more: Option<(u32, u32, NodeId, AttemptRecord)>| record(more);
    let one_runs = run(Some((1, 1, TWO, running())));
    assert_eq!(judge(&spec(1), job(7), &one_runs, true), Verdict::Running);
    let stopped = |attempt| Verdict::Done { attempt, ending: Ending::Stopped };
    assert_eq!(judge(&spec(1), job(7), &run(None), true), stopped(None));
    let failed = after(&[FAILED]);
    let retried = GroupSpec { retries: 5, ..spec(1) };
    assert_eq!(judge(&retried, job(7), &failed, true), stopped(Some((attempt(7, 1, 1), TWO))));
    // What completed has completed.
    assert_eq!(judge(&spec(1), job(7), &after(&[COMPLETED]), true), done(1, COMPLETED));
}
