//! The worker, step by step: what it is told, and all that it wants done.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::fixture::{
    Did, ME, THREE, TWO, advert, at, attempt, capacity, did, ended as ended_record, finished, group, job, learned,
    position, record, reply, running, spec, submitted, view,
};
use crate::record::{Record, RecordKey, Stamp};
use crate::size::ByteSize;
use crate::time::Hlc;

/// A worker with four CPUs whose runner has answered.
fn open(view: &View) -> Worker {
    let mut worker = Worker::new(capacity(4_000));
    assert_eq!(did(|out| worker.on_adopted(at(0), Vec::new(), view, out)), Did::NOTHING);
    worker
}

fn offer(number: u8, epoch: u32, counts: &[u32], spec: &GroupSpec) -> Offer {
    let members = counts.iter().map(|&count| (Member::Only, count)).collect();
    Offer {
        group: group(number),
        epoch,
        members,
        spec: spec.clone(),
        position: position(TWO),
        checkpoints: BTreeMap::new(),
    }
}

fn run(number: u8, epoch: u32, count: u32, spec: &GroupSpec) -> Effect {
    let reservation = Reservation { cpu_milli: spec.requirement.cpu_milli, ..Reservation::default() };
    Effect::Run(Box::new(Run {
        attempt: attempt(number, epoch, count),
        spec: spec.clone(),
        reservation,
        position: position(TWO),
        providers: Vec::new(),
        checkpoint: None,
    }))
}

fn says(to: NodeId, reply: OfferReply) -> Did {
    Did::sent([(to, Message::OfferReply(Box::new(reply)))])
}

/// An end without a log.
fn tells(finished: AttemptFinished) -> Event {
    Event::AttemptFinished { finished: Box::new(finished), inline: Vec::new() }
}

fn stopped(attempt: AttemptId, now: Now) -> Event {
    tells(ended(attempt, Ending::Stopped, now))
}

/// A worker that runs one job of `spec`, offered by [`TWO`].
fn busy(view: &View, spec: &GroupSpec) -> Worker {
    let mut worker = open(view);
    let answered = did(|out| worker.on_offer(at(0), TWO, offer(7, 1, &[1], spec), view, out));
    assert_eq!(answered, says(TWO, reply(7, 1, &[1], &[])));
    assert_eq!(did(|out| worker.run_next(at(0), view, out)), Did::ordered([run(7, 1, 1, spec)]));
    worker
}

#[test]
fn an_offer_that_fits_is_claimed_and_handed_to_the_shell_once() {
    let view = view(&[TWO]);
    let mut worker = busy(&view, &spec(1_000));
    assert_eq!(worker.used().cpu_milli, 1_000);
    assert_eq!(did(|out| worker.run_next(at(1), &view, out)), Did::NOTHING);
    worker.check_invariants();
}

#[test]
fn an_offer_that_is_repeated_is_answered_and_changes_nothing() {
    let view = view(&[TWO]);
    let mut worker = busy(&view, &spec(1_000));
    for now in [at(5), at(1_000)] {
        let again = did(|out| worker.on_offer(now, TWO, offer(7, 1, &[1], &spec(1_000)), &view, out));
        assert_eq!(again, says(TWO, reply(7, 1, &[1], &[])));
        assert_eq!(did(|out| worker.run_next(now, &view, out)), Did::NOTHING);
    }
    // Also when it has ended, and its end is still on the way into the log.
    let end = finished(attempt(7, 1, 1), Ending::Exited { code: 0 });
    let told = did(|out| worker.on_ended(at(2_000), Box::new(end.clone()), Vec::new(), out));
    assert_eq!(told, Did::wrote([tells(end)]));
    let again = did(|out| worker.on_offer(at(2_001), TWO, offer(7, 1, &[1], &spec(1_000)), &view, out));
    assert_eq!(again, says(TWO, reply(7, 1, &[1], &[])));
    assert_eq!(did(|out| worker.run_next(at(2_001), &view, out)), Did::NOTHING);
    assert_eq!(worker.used(), &Reservation::default());
}

#[test]
fn an_end_that_the_log_has_is_not_run_again() {
    let mut view = view(&[TWO]);
    let mut worker = open(&view);
    submitted(&mut view, group(7), spec(1_000), 1, TWO);
    let over = ended_record(attempt(7, 1, 1), Ending::Exited { code: 3 });
    learned(&mut view, job(7), &record([(1, 1, ME, over)]));
    let again = did(|out| worker.on_offer(at(0), TWO, offer(7, 1, &[1], &spec(1_000)), &view, out));
    assert_eq!(again, says(TWO, reply(7, 1, &[1], &[])));
    assert_eq!(did(|out| worker.run_next(at(0), &view, out)), Did::NOTHING);
}

#[test]
fn a_coordinator_of_a_lower_epoch_is_fenced() {
    let view = view(&[TWO, THREE]);
    let mut worker = open(&view);
    let told = did(|out| worker.on_take_over(THREE, group(7), 2, &view, out));
    let nothing = Message::TakeOverReply { group: group(7), epoch: 2, holding: Vec::new() };
    assert_eq!(told, Did::sent([(THREE, nothing)]));
    let late = did(|out| worker.on_offer(at(1), TWO, offer(7, 1, &[1], &spec(1_000)), &view, out));
    assert_eq!(late, says(TWO, reply(7, 1, &[], &[1])));
    assert_eq!(did(|out| worker.on_take_over(TWO, group(7), 1, &view, out)), Did::NOTHING);
    let newer = did(|out| worker.on_offer(at(2), THREE, offer(7, 2, &[1], &spec(1_000)), &view, out));
    assert_eq!(newer, says(THREE, reply(7, 2, &[1], &[])));
    // The old one cannot take back what is the new one's.
    assert_eq!(did(|out| worker.on_cancel(at(3), TWO, &[attempt(7, 2, 1)], out)), Did::NOTHING);
}

#[test]
fn a_claim_in_the_log_fences_as_well() {
    let mut view = view(&[TWO, THREE]);
    let mut worker = open(&view);
    submitted(&mut view, group(7), spec(1_000), 4, THREE);
    let late = did(|out| worker.on_offer(at(1), TWO, offer(7, 3, &[1], &spec(1_000)), &view, out));
    assert_eq!(late, says(TWO, reply(7, 3, &[], &[1])));
}

#[test]
fn what_does_not_fit_beside_the_rest_is_refused_with_what_is_free() {
    let view = view(&[TWO]);
    let mut worker = open(&view);
    for (number, fits) in [(1, true), (2, true), (3, false)] {
        let answered = did(|out| worker.on_offer(at(0), TWO, offer(number, 1, &[1], &spec(2_000)), &view, out));
        let expected = if fits {
            reply(number, 1, &[1], &[])
        } else {
            OfferReply { lacks: vec![Lack::CpuBusy { free: 0 }], ..reply(number, 1, &[], &[1]) }
        };
        assert_eq!(answered, says(TWO, expected));
    }
    let handed = did(|out| worker.run_next(at(0), &view, out));
    assert_eq!(handed, Did::ordered([run(1, 1, 1, &spec(2_000)), run(2, 1, 1, &spec(2_000))]));
    assert_eq!(worker.used().cpu_milli, 4_000);
}

#[test]
fn reservations_never_exceed_the_capacity() {
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let view = view(&[TWO]);
        let mut worker = open(&view);
        for step in 0..60 {
            let now = at(step * 10);
            let number = rng.random_range(1..12);
            let held: Vec<AttemptId> = worker.holding().map(|(attempt, _)| attempt).collect();
            match rng.random_range(0..4) {
                0 | 1 => {
                    let mut spec = spec(rng.random_range(1..3_000));
                    spec.requirement.memory = ByteSize(rng.random_range(0..5 << 30));
                    let count = rng.random_range(1..3);
                    did(|out| worker.on_offer(now, TWO, offer(number, 1, &[count], &spec), &view, out));
                }
                2 => drop(did(|out| worker.on_cancel(now, TWO, &held, out))),
                _ => {
                    if let Some(&attempt) = held.first() {
                        let end = Box::new(finished(attempt, Ending::Exited { code: 0 }));
                        did(|out| worker.on_ended(now, end, Vec::new(), out));
                    }
                }
            }
            did(|out| worker.run_next(now, &view, out));
            worker.check_invariants();
            let used = worker.used();
            assert!(used.cpu_milli <= 4_000 && used.memory <= ByteSize(8 << 30), "seed {seed}: {used:?}");
        }
    }
}

#[test]
fn each_refusal_names_its_reason() {
    let (one_cpu, nine_cpus) = (spec(1_000), spec(9_000));
    let asking = |edit: &dyn Fn(&mut Requirement)| {
        let mut spec = spec(1_000);
        edit(&mut spec.requirement);
        spec
    };
    let rack = asking(&|requirement| drop(requirement.labels.insert("rack".to_owned(), "b".to_owned())));
    let python = asking(&|requirement| requirement.python = "3.11".to_owned());
    let named = asking(&|requirement| requirement.nodes = ["another".to_owned()].into());
    let large = asking(&|requirement| requirement.memory = ByteSize(9 << 30));
    let gpu = asking(&|requirement| requirement.gpus = 1);
    for (accepting, drained, spec, lack) in [
        (Accepting::Yes, false, nine_cpus, Lack::Cpu { total: 4_000 }),
        (Accepting::Yes, false, large, Lack::Memory { total: ByteSize(8 << 30) }),
        (Accepting::Yes, false, gpu, Lack::Gpu { total: 0 }),
        (Accepting::Yes, false, rack, Lack::Label("rack".to_owned())),
        (Accepting::Yes, false, python, Lack::Python),
        (Accepting::Yes, false, named, Lack::Node),
        (Accepting::Paused, false, one_cpu.clone(), Lack::NotAccepting),
        (Accepting::Draining, false, one_cpu.clone(), Lack::NotAccepting),
        (Accepting::Yes, true, one_cpu, Lack::NotAccepting),
    ] {
        let mut view = view(&[TWO]);
        let mut worker = open(&view);
        worker.set_accepting(accepting);
        view.on_advert(ME, advert(2, &capacity(4_000), accepting));
        let stamp = Stamp { hlc: Hlc::default(), position: position(TWO), event: 0 };
        view.nodes.get_mut(&ME).expect("this node").record.drained = Some((stamp, drained));
        let answered = did(|out| worker.on_offer(at(0), TWO, offer(7, 1, &[1], &spec), &view, out));
        let expected = OfferReply { lacks: vec![lack], ..reply(7, 1, &[], &[1]) };
        assert_eq!(answered, says(TWO, expected));
        assert_eq!(did(|out| worker.run_next(at(0), &view, out)), Did::NOTHING);
    }
}

#[test]
fn what_runs_already_is_attended_also_where_no_jobs_are_taken() {
    for accepting in [Accepting::Paused, Accepting::Draining] {
        let mut view = view(&[TWO]);
        view.on_advert(ME, advert(2, &capacity(4_000), accepting));
        let mut worker = open(&view);
        worker.set_accepting(accepting);
        let answered = did(|out| worker.on_offer(at(0), TWO, offer(7, 1, &[1], &spec(0)), &view, out));
        assert_eq!(answered, says(TWO, reply(7, 1, &[1], &[])));
    }
}

#[test]
fn nothing_is_claimed_before_the_runner_has_answered() {
    let mut view = view(&[TWO]);
    view.on_advert(ME, advert(2, &capacity(4_000), Accepting::Starting));
    let mut worker = Worker::new(capacity(4_000));
    let answered = did(|out| worker.on_offer(at(0), TWO, offer(7, 1, &[1], &spec(1_000)), &view, out));
    let expected = OfferReply { lacks: vec![Lack::NotAccepting], ..reply(7, 1, &[], &[1]) };
    assert_eq!(answered, says(TWO, expected));
    // Who takes the group over is told later what is held.
    assert_eq!(did(|out| worker.on_take_over(TWO, group(7), 2, &view, out)), Did::NOTHING);
    let told = did(|out| worker.on_adopted(at(5), Vec::new(), &view, out));
    let nothing = Message::TakeOverReply { group: group(7), epoch: 2, holding: Vec::new() };
    assert_eq!(told, Did::sent([(TWO, nothing)]));
}

#[test]
fn a_running_attempt_is_halted_once_and_ends_by_its_process() {
    let view = view(&[TWO]);
    let mut worker = busy(&view, &spec(1_000));
    let named = [attempt(7, 1, 1)];
    assert_eq!(did(|out| worker.on_cancel(at(5), THREE, &named, out)), Did::NOTHING, "not its coordinator");
    assert_eq!(did(|out| worker.on_cancel(at(5), TWO, &named, out)), Did::ordered([Effect::Halt(named[0])]));
    assert_eq!(did(|out| worker.on_cancel(at(6), TWO, &named, out)), Did::NOTHING);
    assert_eq!(worker.used().cpu_milli, 1_000, "its process runs still");
    let end = finished(named[0], Ending::Stopped);
    let told = did(|out| worker.on_ended(at(9), Box::new(end.clone()), Vec::new(), out));
    assert_eq!(told, Did::wrote([tells(end)]));
    assert_eq!(worker.used(), &Reservation::default());
}

#[test]
fn an_attempt_that_is_stopped_before_its_start_never_runs() {
    let mut view = view(&[TWO]);
    let mut worker = open(&view);
    submitted(&mut view, group(7), spec(1_000), 1, TWO);
    did(|out| worker.on_offer(at(0), TWO, offer(7, 1, &[1], &spec(1_000)), &view, out));
    let wished = JobRecord { stop: Some(Hlc::default()), ..JobRecord::default() };
    let told = did(|out| worker.on_record(at(3), job(7), &wished, &view, out));
    assert_eq!(told, Did::wrote([stopped(attempt(7, 1, 1), at(3))]));
    assert_eq!(did(|out| worker.run_next(at(3), &view, out)), Did::NOTHING);
    // Nor is it claimed again.
    learned(&mut view, job(7), &wished);
    let answered = did(|out| worker.on_offer(at(4), TWO, offer(7, 1, &[2], &spec(1_000)), &view, out));
    assert_eq!(answered, says(TWO, reply(7, 1, &[], &[2])));
    worker.check_invariants();
}

#[test]
fn what_runs_beside_an_outcome_is_halted() {
    let mut view = view(&[TWO]);
    let mut worker = busy(&view, &spec(1_000));
    submitted(&mut view, group(7), spec(1_000), 1, TWO);
    let decided = crate::fixture::with_outcome(JobRecord::default(), TWO, Ending::Exited { code: 0 });
    let told = did(|out| worker.on_record(at(3), job(7), &decided, &view, out));
    assert_eq!(told, Did::ordered([Effect::Halt(attempt(7, 1, 1))]));
}

#[test]
fn a_start_is_told_after_thirty_milliseconds_and_not_at_all_when_it_ended_before() {
    let view = view(&[TWO]);
    let mut worker = busy(&view, &spec(1_000));
    assert_eq!(did(|_| worker.on_started(at(10), attempt(7, 1, 1), 555)), Did::NOTHING);
    assert_eq!(did(|out| worker.on_tick(at(39), &view, out)), Did::NOTHING);
    let started = Event::AttemptStarted { attempt: attempt(7, 1, 1), started_unix_ms: 555 };
    assert_eq!(did(|out| worker.on_tick(at(40), &view, out)), Did::wrote([started]));
    assert_eq!(did(|out| worker.on_tick(at(80), &view, out)), Did::NOTHING);

    let mut short = busy(&view, &spec(1_000));
    short.on_started(at(10), attempt(7, 1, 1), 555);
    did(|out| {
        short.on_ended(at(20), Box::new(finished(attempt(7, 1, 1), Ending::Exited { code: 0 })), Vec::new(), out)
    });
    assert_eq!(did(|out| short.on_tick(at(100), &view, out)), Did::NOTHING);
}

#[test]
fn who_takes_over_hears_what_runs_and_what_has_just_ended() {
    let view = view(&[TWO, THREE]);
    let mut worker = busy(&view, &spec(1_000));
    let holds = |holding: &[AttemptId], epoch| {
        Did::sent([(THREE, Message::TakeOverReply { group: group(7), epoch, holding: holding.to_vec() })])
    };
    assert_eq!(did(|out| worker.on_take_over(THREE, group(7), 2, &view, out)), holds(&[attempt(7, 1, 1)], 2));
    did(|out| {
        worker.on_ended(at(5), Box::new(finished(attempt(7, 1, 1), Ending::Exited { code: 0 })), Vec::new(), out)
    });
    assert_eq!(did(|out| worker.on_take_over(THREE, group(7), 3, &view, out)), holds(&[attempt(7, 1, 1)], 3));
    worker.on_reported(&[attempt(7, 1, 1)]);
    assert_eq!(did(|out| worker.on_take_over(THREE, group(7), 4, &view, out)), holds(&[], 4));
}

#[test]
fn what_the_log_says_runs_here_and_the_runner_does_not_know_is_lost() {
    let mut view = view(&[TWO]);
    submitted(&mut view, group(7), spec(1_000), 1, TWO);
    learned(&mut view, job(7), &record([(1, 1, ME, running()), (1, 2, TWO, running())]));
    let mut worker = Worker::new(capacity(4_000));
    let told = did(|out| worker.on_adopted(at(5), Vec::new(), &view, out));
    let lost = ended(attempt(7, 1, 1), Ending::Lost(LostReason::NotFound), at(5));
    assert_eq!(told, Did::wrote([tells(lost)]));
}

#[test]
fn what_the_runner_held_is_taken_back_and_what_is_over_meanwhile_is_halted() {
    let mut view = view(&[TWO]);
    submitted(&mut view, group(7), spec(1_000), 1, TWO);
    let adopted = |number| Adopted {
        attempt: attempt(number, 1, 1),
        spec: Box::new(spec(1_000)),
        reservation: Reservation { cpu_milli: 1_000, ..Reservation::default() },
        started_unix_ms: 777,
    };
    let mut worker = Worker::new(capacity(4_000));
    let told = did(|out| worker.on_adopted(at(5), vec![adopted(7), adopted(8)], &view, out));
    assert_eq!(told, Did::ordered([Effect::LookUp(job(8))]), "group 8 is not alive here");
    assert_eq!(worker.used().cpu_milli, 2_000);
    let over = crate::fixture::with_outcome(JobRecord::default(), TWO, Ending::Stopped);
    let told = did(|out| worker.on_looked_up(at(6), job(8), None, Some(&over), out));
    assert_eq!(told, Did::ordered([Effect::Halt(attempt(8, 1, 1))]));
    assert_eq!(did(|out| worker.on_looked_up(at(7), job(7), None, None, out)), Did::NOTHING);
    worker.check_invariants();
}

#[test]
fn the_start_of_a_suspicious_attempt_is_known_elsewhere_before_it_happens() {
    let mut view = view(&[TWO]);
    let mut worker = open(&view);
    did(|out| worker.on_offer(at(0), TWO, offer(7, SUSPICIOUS_EPOCH, &[1], &spec(1_000)), &view, out));
    let announced = did(|out| worker.run_next(at(0), &view, out));
    let id = attempt(7, SUSPICIOUS_EPOCH, 1);
    let told = Event::AttemptStarted { attempt: id, started_unix_ms: at(0).unix_ms };
    assert_eq!(announced, Did::wrote([told]));
    assert_eq!(worker.used().cpu_milli, 1_000, "its room is reserved already");
    worker.on_announced(id, 9);
    assert_eq!(did(|out| worker.run_next(at(10), &view, out)), Did::NOTHING);
    view.nodes.get_mut(&TWO).expect("a peer").acked_seq = 9;
    let handed = did(|out| worker.run_next(at(20), &view, out));
    assert_eq!(handed, Did::ordered([run(7, SUSPICIOUS_EPOCH, 1, &spec(1_000))]));
}

#[test]
fn a_suspicious_attempt_waits_two_seconds_for_a_confirmation_and_no_longer() {
    let view = view(&[TWO]);
    let mut worker = open(&view);
    did(|out| worker.on_offer(at(0), TWO, offer(7, SUSPICIOUS_EPOCH, &[1], &spec(1_000)), &view, out));
    did(|out| worker.run_next(at(0), &view, out));
    worker.on_announced(attempt(7, SUSPICIOUS_EPOCH, 1), 9);
    assert_eq!(did(|out| worker.run_next(at(1_999), &view, out)), Did::NOTHING);
    let handed = did(|out| worker.run_next(at(2_000), &view, out));
    assert_eq!(handed, Did::ordered([run(7, SUSPICIOUS_EPOCH, 1, &spec(1_000))]));
}

#[test]
fn labels_that_users_gave_count_when_an_offer_is_judged() {
    let mut view = view(&[TWO]);
    let mut worker = open(&view);
    let mut wants = spec(1_000);
    wants.requirement.labels.insert("rack".to_owned(), "b".to_owned());
    let stamp = Stamp { hlc: Hlc::default(), position: position(TWO), event: 0 };
    let labels = BTreeMap::from([("rack".to_owned(), "b".to_owned())]);
    let record = crate::record::NodeRecord { labels: Some((stamp, labels.clone())), ..Default::default() };
    view.on_record(&RecordKey::Node(ME), Record::Node(record));
    worker.set_labels(labels);
    let answered = did(|out| worker.on_offer(at(0), TWO, offer(7, 1, &[1], &wants), &view, out));
    assert_eq!(answered, says(TWO, reply(7, 1, &[1], &[])));
    assert_eq!(did(|out| worker.run_next(at(0), &view, out)), Did::ordered([run(7, 1, 1, &wants)]));
    assert!(worker.offered().labels.is_empty(), "they are in the log already");
}
