//! One group in the hands of its coordinator.

use super::*;
use crate::fixture::{Did, ME, THREE, TWO, at, attempt, did, ended, group, job, record, running, spec, view};
use crate::job::StartFailure;

fn led() -> Led {
    Led::new(Claim { epoch: 2, coordinator: ME }, &spec(1))
}

fn names(check: &Check) -> String {
    match check {
        Check::Fine => "fine".to_owned(),
        Check::OfferAgain => "offer again".to_owned(),
        Check::TakeBack => "take back".to_owned(),
        Check::Lost(reason) => format!("lost: {reason:?}"),
    }
}

#[test]
fn each_attempt_has_a_name_of_its_own() {
    let mut led = led();
    assert_eq!(led.next_attempt(job(7), None), attempt(7, 2, 1));
    let logged = record([(1, 1, TWO, running()), (1, 4, THREE, running())]);
    assert_eq!(led.next_attempt(job(7), Some(&logged)), attempt(7, 2, 5));
    // One that left no trace in the log has used its name all the same.
    led.given.insert(Member::Only, Given::new(at(0), attempt(7, 2, 6), TWO, &view(&[TWO])));
    led.forget_given(Member::Only);
    assert_eq!(led.next_attempt(job(7), Some(&logged)), attempt(7, 2, 7));
    let last = record([(1, u32::MAX, TWO, running())]);
    assert_eq!(led.next_attempt(job(7), Some(&last)), attempt(7, 2, u32::MAX), "the last name there is");
}

#[test]
fn what_a_worker_has_is_checked_by_its_presence_and_its_answers() {
    let offered = Given::new(at(0), attempt(7, 2, 1), TWO, &view(&[TWO]));
    let (confirmed, tired) = (Given { confirmed: true, ..offered.clone() }, Given { tries: 4, ..offered.clone() });
    let started = Given { started: true, ..confirmed.clone() };
    let missing = |given: &Given| Given { missing_until: Some(at(500).at), ..given.clone() };
    let down = |ms| Presence::DaemonDown(at(ms).at);
    for (given, now, presence, expected) in [
        (&offered, 999, Presence::Up, "fine"),
        (&offered, 1_000, Presence::Up, "offer again"),
        (&tired, 1_000, Presence::Up, "take back"),
        (&confirmed, 60_000, Presence::Up, "fine"),
        (&missing(&confirmed), 499, Presence::Up, "fine"),
        (&missing(&confirmed), 500, Presence::Up, "take back"),
        (&missing(&started), 500, Presence::Up, "lost: NotFound"),
        (&confirmed, 1, Presence::Down, "take back"),
        (&confirmed, 1, down(0), "take back"),
        (&started, 1, Presence::Down, "lost: NodeDown"),
        (&started, 29_999, down(0), "fine"),
        (&started, 30_000, down(0), "lost: NodeDown"),
    ] {
        assert_eq!(names(&given.check(at(now), presence)), expected, "{given:?} at {now} ms, {presence:?}");
    }
}

#[test]
fn an_attempt_that_runs_by_the_log_takes_the_place_of_an_offer() {
    let view = view(&[TWO, THREE]);
    let mut led = led();
    led.queue.clear();
    led.given.insert(Member::Only, Given::new(at(0), attempt(7, 2, 2), TWO, &view));
    let told = did(|out| led.follow(at(5), job(7), &record([(1, 1, THREE, running())]), &view, out));
    assert_eq!(told, Did::sent([(TWO, Message::Cancel(vec![attempt(7, 2, 2)]))]));
    let given = &led.given[&Member::Only];
    assert_eq!((given.attempt, given.worker, given.started), (attempt(7, 1, 1), THREE, true));
    led.check_invariants(group(7));
}

#[test]
fn a_node_that_could_not_prepare_a_job_is_left_alone_for_three_seconds() {
    let view = view(&[TWO]);
    let mut led = led();
    led.queue.clear();
    led.given.insert(Member::Only, Given::new(at(0), attempt(7, 2, 1), TWO, &view));
    let full = ended(attempt(7, 2, 1), Ending::NotStarted(StartFailure::DiskFull));
    let told = did(|out| led.follow(at(5), job(7), &record([(2, 1, TWO, full)]), &view, out));
    assert_eq!(told, Did::NOTHING);
    assert!(led.given.is_empty());
    assert!(led.avoids(TWO, at(3_004)) && !led.avoids(TWO, at(3_005)) && !led.avoids(THREE, at(5)));
}

#[test]
fn an_outcome_is_written_once_and_settles_everything() {
    let view = view(&[TWO, THREE]);
    let mut led = led();
    let told = did(|out| led.decide(job(7), None, Ending::Stopped, out));
    let outcome = JobOutcome { member: Member::Only, attempt: None, ending: Ending::Stopped };
    assert_eq!(told, Did { outcomes: BTreeMap::from([((group(7), 2), vec![outcome])]), ..Did::NOTHING });
    assert_eq!(did(|out| led.decide(job(7), None, Ending::Stopped, out)), Did::NOTHING);
    led.given.insert(Member::Only, Given::new(at(0), attempt(7, 2, 2), TWO, &view));
    led.numbers.insert(Member::Only, 9);
    let told = did(|out| led.settle(job(7), &record([(1, 1, THREE, running())]), out));
    let cancel = |to, attempt| (to, Message::Cancel(vec![attempt]));
    assert_eq!(told, Did::sent([cancel(THREE, attempt(7, 1, 1)), cancel(TWO, attempt(7, 2, 2))]));
    assert!(led.queue.is_empty() && led.given.is_empty() && led.decided.is_empty() && led.numbers.is_empty());
}
