//! The coordinator, step by step: who is offered what, who is asked, what is decided.

use super::*;
use crate::event::JobOutcome;
use crate::fixture::{
    Did, ME, THREE, TWO, advert, at, attempt, capacity, did, edit_group, ended, group, job, learned, position, record,
    reply, running, spec, submitted, tally, view, with_outcome,
};
use crate::job::{GroupSpec, IndexRanges, LostReason, Trigger};
use crate::membership::Liveness;
use crate::message::Accepting;
use crate::record::{AttemptRecord, Stamp};
use crate::time::Hlc;

/// A view in which [`ME`] takes no work itself.
fn paused(peers: &[NodeId]) -> View {
    let mut view = view(peers);
    assert!(view.on_advert(ME, advert(2, &capacity(4_000), Accepting::Paused)));
    view
}

/// [`ME`] accepted group 7 just now.
fn leading(view: &mut View, spec: GroupSpec) -> Coordinator {
    submitted(view, group(7), spec, 1, ME);
    let mut coordinator = Coordinator::default();
    assert_eq!(did(|out| coordinator.on_group(at(0), group(7), true, view, out)), Did::NOTHING);
    coordinator
}

fn work(coordinator: &mut Coordinator, now: Now, view: &View) -> Did {
    let told = did(|out| coordinator.work(now, false, Reservation::default, view, out));
    coordinator.check_invariants();
    told
}

fn tick(coordinator: &mut Coordinator, now: Now, view: &View) -> Did {
    let told = did(|out| coordinator.on_tick(now, 5, view, out));
    coordinator.check_invariants();
    told
}

fn offers(to: NodeId, epoch: u32, count: u32, spec: &GroupSpec) -> Did {
    let members = vec![(Member::Only, count)];
    let offer = Offer {
        group: group(7),
        epoch,
        members,
        spec: spec.clone(),
        position: position(ME),
        checkpoints: BTreeMap::new(),
    };
    Did::sent([(to, Message::Offer(Box::new(offer)))])
}

fn demand(waiting: u32) -> Demand {
    Demand {
        group: group(7),
        waiting,
        requirement: spec(1_000).requirement,
        user: "ada".to_owned(),
        project: "vision".to_owned(),
        priority: 0,
        submitted_unix_ms: group(7).unix_ms(),
    }
}

fn decides(member: Member, attempt: Option<(AttemptId, NodeId)>, ending: Ending) -> Did {
    let outcome = JobOutcome { member, attempt, ending };
    Did { outcomes: BTreeMap::from([((group(7), 1), vec![outcome])]), ..Did::NOTHING }
}

/// A coordinator whose job [`TWO`] has accepted, and of which it is told that it runs.
fn started(view: &mut View) -> Coordinator {
    let mut coordinator = leading(view, spec(1_000));
    assert_eq!(work(&mut coordinator, at(0), view), offers(TWO, 1, 1, &spec(1_000)));
    did(|out| coordinator.on_offer_reply(at(1), TWO, &reply(7, 1, &[1], &[]), view, out));
    learned(view, job(7), &record([(1, 1, TWO, running())]));
    assert_eq!(did(|out| coordinator.on_job(at(40), job(7), view, out)), Did::NOTHING);
    coordinator
}

#[test]
fn a_job_that_fits_somewhere_is_offered_there_and_an_answer_ends_it() {
    let mut view = paused(&[TWO]);
    let mut coordinator = leading(&mut view, spec(1_000));
    assert_eq!(work(&mut coordinator, at(0), &view), offers(TWO, 1, 1, &spec(1_000)));
    assert_eq!(coordinator.given(job(7)), Some((attempt(7, 1, 1), TWO)));
    let told = did(|out| coordinator.on_offer_reply(at(1), TWO, &reply(7, 1, &[1], &[]), &view, out));
    assert_eq!(told, Did::NOTHING);
    for now in [1_001, 5_000, 9_999] {
        assert_eq!(tick(&mut coordinator, at(now), &view), Did::NOTHING);
        assert_eq!(work(&mut coordinator, at(now), &view), Did::NOTHING);
    }
    // Any message may be lost, and so may what a worker claimed: it is asked now and then.
    let asks = Did::sent([(TWO, Message::TakeOver { group: group(7), epoch: 1 })]);
    assert_eq!(tick(&mut coordinator, at(11_001), &view), asks);
}

#[test]
fn an_offer_without_an_answer_is_repeated_and_then_made_elsewhere() {
    let mut view = paused(&[TWO]);
    let mut coordinator = leading(&mut view, spec(1_000));
    work(&mut coordinator, at(0), &view);
    for (now, expected) in [
        (999, Did::NOTHING),
        (1_000, offers(TWO, 1, 1, &spec(1_000))),
        (1_999, Did::NOTHING),
        (2_000, offers(TWO, 1, 1, &spec(1_000))),
        (3_000, offers(TWO, 1, 1, &spec(1_000))),
        (3_999, Did::NOTHING),
        (4_000, Did::sent([(TWO, Message::Cancel(vec![attempt(7, 1, 1)]))])),
    ] {
        assert_eq!(tick(&mut coordinator, at(now), &view), expected, "{now} ms");
    }
    // Another name: the first may have been heard after all.
    assert_eq!(work(&mut coordinator, at(4_000), &view), offers(TWO, 1, 2, &spec(1_000)));
    let late = did(|out| coordinator.on_offer_reply(at(4_001), TWO, &reply(7, 1, &[1], &[]), &view, out));
    assert_eq!(late, Did::sent([(TWO, Message::Cancel(vec![attempt(7, 1, 1)]))]));
    assert_eq!(coordinator.given(job(7)), Some((attempt(7, 1, 2), TWO)));
}

#[test]
fn who_refused_is_left_alone_for_half_a_second_and_others_are_told_what_waits() {
    let mut view = paused(&[TWO]);
    let mut coordinator = leading(&mut view, spec(1_000));
    work(&mut coordinator, at(0), &view);
    let refused = did(|out| coordinator.on_offer_reply(at(10), TWO, &reply(7, 1, &[], &[1]), &view, out));
    assert_eq!(refused, Did::NOTHING);
    assert_eq!(tick(&mut coordinator, at(11), &view), Did::NOTHING);
    let waits = |to| (to, Message::Demands(vec![demand(1)]));
    assert_eq!(work(&mut coordinator, at(11), &view), Did::sent([waits(TWO), waits(ME)]));
    coordinator.stir();
    tick(&mut coordinator, at(509), &view);
    assert_eq!(work(&mut coordinator, at(509), &view), Did::NOTHING);
    coordinator.stir();
    tick(&mut coordinator, at(510), &view);
    let mut again = offers(TWO, 1, 1, &spec(1_000));
    again.sends.extend([(TWO, Message::Demands(Vec::new())), (ME, Message::Demands(Vec::new()))]);
    assert_eq!(work(&mut coordinator, at(510), &view), again, "under its first name: who refused it does not hold it");
}

#[test]
fn an_answer_of_another_epoch_or_worker_changes_nothing() {
    let mut view = paused(&[TWO, THREE]);
    let mut coordinator = leading(&mut view, spec(1_000));
    work(&mut coordinator, at(0), &view);
    let (_, worker) = coordinator.given(job(7)).expect("offered");
    let other = if worker == TWO { THREE } else { TWO };
    let told = did(|out| coordinator.on_offer_reply(at(1), worker, &reply(7, 2, &[], &[1]), &view, out));
    assert_eq!(told, Did::NOTHING);
    let told = did(|out| coordinator.on_offer_reply(at(1), other, &reply(7, 1, &[], &[1]), &view, out));
    assert_eq!(told, Did::NOTHING);
    assert_eq!(coordinator.given(job(7)), Some((attempt(7, 1, 1), worker)));
    // Who accepts what was given to another is told to let go of it.
    let told = did(|out| coordinator.on_offer_reply(at(1), other, &reply(7, 1, &[1], &[]), &view, out));
    assert_eq!(told, Did::sent([(other, Message::Cancel(vec![attempt(7, 1, 1)]))]));
}

#[test]
fn nodes_that_take_no_work_are_not_offered_any() {
    type Edit = fn(&mut View);
    let unfit: [(&str, Edit); 6] = [
        ("paused", |view| assert!(view.on_advert(TWO, advert(2, &capacity(4_000), Accepting::Paused)))),
        ("draining", |view| assert!(view.on_advert(TWO, advert(2, &capacity(4_000), Accepting::Draining)))),
        ("starting", |view| assert!(view.on_advert(TWO, advert(2, &capacity(4_000), Accepting::Starting)))),
        ("too small", |view| assert!(view.on_advert(TWO, advert(2, &capacity(999), Accepting::Yes)))),
        ("not connected", |view| view.nodes.get_mut(&TWO).expect("a peer").connected = false),
        ("drained", |view| {
            let stamp = Stamp { hlc: Hlc::default(), position: position(TWO), event: 0 };
            view.nodes.get_mut(&TWO).expect("a peer").record.drained = Some((stamp, true));
        }),
    ];
    for (name, edit) in unfit {
        let mut view = paused(&[TWO]);
        edit(&mut view);
        let mut coordinator = leading(&mut view, spec(1_000));
        let waits = |to| (to, Message::Demands(vec![demand(1)]));
        assert_eq!(work(&mut coordinator, at(0), &view), Did::sent([waits(TWO), waits(ME)]), "{name}");
    }
}

#[test]
fn a_worker_that_asks_is_given_what_waits() {
    let mut view = paused(&[TWO]);
    view.on_advert(TWO, advert(2, &capacity(4_000), Accepting::Paused));
    let mut coordinator = leading(&mut view, spec(1_000));
    work(&mut coordinator, at(0), &view);
    let given = did(|out| coordinator.on_claim(at(5), TWO, group(7), 9, &view, out));
    assert_eq!(given, offers(TWO, 1, 1, &spec(1_000)));
    // Nothing is left: the next one is told so.
    let nothing = Did::sent([(TWO, Message::Demands(Vec::new()))]);
    assert_eq!(did(|out| coordinator.on_claim(at(6), TWO, group(7), 9, &view, out)), nothing);
    assert_eq!(did(|out| coordinator.on_claim(at(6), TWO, group(8), 9, &view, out)), nothing);
}

/// [`ME`] takes group 7 over from a coordinator that is gone.
fn taking_over(view: &mut View) -> Coordinator {
    submitted(view, group(7), spec(1_000), 2, ME);
    let mut coordinator = Coordinator::default();
    let told = did(|out| coordinator.on_group(at(0), group(7), false, view, out));
    let asks = |to| (to, Message::TakeOver { group: group(7), epoch: 2 });
    let effects = vec![Effect::News(News::TookOver(group(7)))];
    assert_eq!(told, Did { effects, ..Did::sent([asks(ME), asks(TWO), asks(THREE)]) });
    assert_eq!(work(&mut coordinator, at(0), view), Did::NOTHING);
    coordinator
}

fn answers(coordinator: &mut Coordinator, now: Now, from: NodeId, holding: &[AttemptId], view: &View) -> Did {
    did(|out| coordinator.on_take_over_reply(now, from, (group(7), 2), holding, view, out))
}

#[test]
fn a_take_over_offers_once_all_that_live_have_answered() {
    let mut view = paused(&[TWO, THREE]);
    let mut coordinator = taking_over(&mut view);
    for from in [ME, TWO] {
        assert_eq!(answers(&mut coordinator, at(5), from, &[], &view), Did::NOTHING);
        assert_eq!(tick(&mut coordinator, at(25), &view), Did::NOTHING);
        assert_eq!(work(&mut coordinator, at(25), &view), Did::NOTHING);
    }
    assert_eq!(answers(&mut coordinator, at(30), THREE, &[], &view), Did::NOTHING);
    assert_eq!(tick(&mut coordinator, at(50), &view), Did::NOTHING);
    let told = work(&mut coordinator, at(50), &view);
    assert!(matches!(told.sends.as_slice(), [(_, Message::Offer(offer))] if offer.epoch == 2), "{told:?}");
}

#[test]
fn a_take_over_waits_one_second_for_those_that_do_not_answer() {
    let mut view = paused(&[TWO, THREE]);
    let mut coordinator = taking_over(&mut view);
    answers(&mut coordinator, at(5), TWO, &[], &view);
    assert_eq!(tick(&mut coordinator, at(999), &view), Did::NOTHING);
    assert_eq!(work(&mut coordinator, at(999), &view), Did::NOTHING);
    assert_eq!(tick(&mut coordinator, at(1_000), &view), Did::NOTHING);
    let told = work(&mut coordinator, at(1_000), &view);
    assert!(matches!(told.sends.as_slice(), [(_, Message::Offer(_))]), "{told:?}");
}

#[test]
fn what_a_worker_holds_is_not_offered_again_after_a_take_over() {
    let mut view = paused(&[TWO, THREE]);
    let mut coordinator = taking_over(&mut view);
    assert_eq!(answers(&mut coordinator, at(5), TWO, &[attempt(7, 1, 1)], &view), Did::NOTHING);
    for from in [ME, THREE] {
        answers(&mut coordinator, at(5), from, &[], &view);
    }
    tick(&mut coordinator, at(25), &view);
    assert_eq!(work(&mut coordinator, at(25), &view), Did::NOTHING);
    assert_eq!(coordinator.given(job(7)), Some((attempt(7, 1, 1), TWO)));
    // A second holder of the same job is one too many.
    let told = answers(&mut coordinator, at(30), THREE, &[attempt(7, 1, 2)], &view);
    assert_eq!(told, Did::sent([(THREE, Message::Cancel(vec![attempt(7, 1, 2)]))]));
    // An answer to an older take-over says nothing.
    let old = did(|out| coordinator.on_take_over_reply(at(31), TWO, (group(7), 1), &[], &view, out));
    assert_eq!(old, Did::NOTHING);
    assert_eq!(coordinator.given(job(7)), Some((attempt(7, 1, 1), TWO)));
}

#[test]
fn a_group_that_another_coordinates_is_let_go() {
    let mut view = paused(&[TWO]);
    let mut coordinator = leading(&mut view, spec(1_000));
    edit_group(&mut view, group(7), |record| record.claim = Some(Claim { epoch: 2, coordinator: TWO }));
    assert_eq!(did(|out| coordinator.on_group(at(1), group(7), false, &view, out)), Did::NOTHING);
    assert!(coordinator.is_idle());
    assert_eq!(work(&mut coordinator, at(1), &view), Did::NOTHING);
}

#[test]
fn what_a_dead_node_had_not_started_is_offered_again_at_once() {
    let mut view = paused(&[TWO, THREE]);
    view.on_advert(THREE, advert(2, &capacity(999), Accepting::Yes));
    let mut coordinator = leading(&mut view, spec(1_000));
    work(&mut coordinator, at(0), &view);
    let two = view.nodes.get_mut(&TWO).expect("a peer");
    (two.liveness, two.connected) = (Some(Liveness::Down), false);
    view.on_advert(THREE, advert(3, &capacity(4_000), Accepting::Yes));
    assert_eq!(tick(&mut coordinator, at(25), &view), Did::NOTHING);
    assert_eq!(work(&mut coordinator, at(25), &view), offers(THREE, 1, 2, &spec(1_000)));
    // When it comes back, it must not run what it was offered.
    view.nodes.get_mut(&TWO).expect("a peer").connected = true;
    let told = did(|out| coordinator.on_connected(at(30), TWO, &view, out));
    assert_eq!(told, Did::sent([(TWO, Message::Cancel(vec![attempt(7, 1, 1)]))]));
}

#[test]
fn what_a_dead_node_had_started_is_given_up_and_tried_again_once_the_log_says_so() {
    let mut view = paused(&[TWO]);
    let mut coordinator = started(&mut view);
    let two = view.nodes.get_mut(&TWO).expect("a peer");
    (two.liveness, two.connected) = (Some(Liveness::Down), false);
    let lost = Event::AttemptLost { attempt: attempt(7, 1, 1), worker: TWO, reason: LostReason::NodeDown };
    assert_eq!(tick(&mut coordinator, at(50), &view), Did::wrote([lost]));
    assert_eq!(tick(&mut coordinator, at(75), &view), Did::NOTHING, "told once");
    let given_up = AttemptRecord { lost: Some(LostReason::NodeDown), ..running() };
    learned(&mut view, job(7), &record([(1, 1, TWO, given_up)]));
    assert_eq!(did(|out| coordinator.on_job(at(80), job(7), &view, out)), Did::NOTHING);
    let two = view.nodes.get_mut(&TWO).expect("a peer");
    (two.liveness, two.connected) = (Some(Liveness::Alive), true);
    tick(&mut coordinator, at(100), &view);
    assert_eq!(work(&mut coordinator, at(100), &view), offers(TWO, 1, 2, &spec(1_000)));
}

#[test]
fn what_runs_on_a_node_whose_daemon_is_down_waits_thirty_seconds() {
    let mut view = paused(&[TWO]);
    let mut coordinator = started(&mut view);
    view.nodes.get_mut(&TWO).expect("a peer").refused_at = Some(at(50).at);
    assert_eq!(tick(&mut coordinator, at(30_049), &view), Did::NOTHING);
    let lost = Event::AttemptLost { attempt: attempt(7, 1, 1), worker: TWO, reason: LostReason::NodeDown };
    let told = tick(&mut coordinator, at(30_050), &view);
    let expected = Did { sends: vec![(TWO, Message::Cancel(vec![attempt(7, 1, 1)]))], ..Did::wrote([lost]) };
    assert_eq!(told, expected);
}

#[test]
fn an_end_is_decided_once_and_the_outcome_stops_what_runs_beside_it() {
    let mut view = paused(&[TWO, THREE]);
    view.on_advert(THREE, advert(2, &capacity(999), Accepting::Yes));
    let mut coordinator = started(&mut view);
    let done = ended(attempt(7, 1, 1), Ending::Exited { code: 0 });
    let both = record([(1, 1, TWO, done), (1, 2, THREE, running())]);
    learned(&mut view, job(7), &both);
    let told = did(|out| coordinator.on_job(at(90), job(7), &view, out));
    assert_eq!(told, decides(Member::Only, Some((attempt(7, 1, 1), TWO)), Ending::Exited { code: 0 }));
    assert_eq!(did(|out| coordinator.on_job(at(91), job(7), &view, out)), Did::NOTHING, "it is on its way");
    learned(&mut view, job(7), &with_outcome(both, ME, Ending::Exited { code: 0 }));
    let told = did(|out| coordinator.on_job(at(92), job(7), &view, out));
    assert_eq!(told, Did::sent([(THREE, Message::Cancel(vec![attempt(7, 1, 2)]))]));
}

#[test]
fn a_queued_job_that_a_user_stops_is_decided_without_an_attempt() {
    let mut view = paused(&[TWO]);
    view.on_advert(TWO, advert(2, &capacity(999), Accepting::Yes));
    let mut coordinator = leading(&mut view, spec(1_000));
    edit_group(&mut view, group(7), |record| record.stop = Some(Hlc::default()));
    let told = did(|out| coordinator.on_group(at(5), group(7), true, &view, out));
    assert_eq!(told, decides(Member::Only, None, Ending::Stopped));
    assert_eq!(did(|out| coordinator.on_group(at(6), group(7), true, &view, out)), Did::NOTHING);
}

#[test]
fn a_job_that_a_worker_holds_is_stopped_by_the_workers_word() {
    let mut view = paused(&[TWO]);
    let mut coordinator = leading(&mut view, spec(1_000));
    work(&mut coordinator, at(0), &view);
    edit_group(&mut view, group(7), |record| record.stop = Some(Hlc::default()));
    assert_eq!(did(|out| coordinator.on_group(at(5), group(7), true, &view, out)), Did::NOTHING);
    let over = ended(attempt(7, 1, 1), Ending::Stopped);
    learned(&mut view, job(7), &record([(1, 1, TWO, over)]));
    let told = did(|out| coordinator.on_job(at(9), job(7), &view, out));
    assert_eq!(told, decides(Member::Only, Some((attempt(7, 1, 1), TWO)), Ending::Stopped));
}

#[test]
fn a_job_whose_fifth_attempt_is_lost_fails_with_the_crash_limit() {
    let mut view = paused(&[TWO]);
    let mut coordinator = started(&mut view);
    let lost = || AttemptRecord { lost: Some(LostReason::NodeDown), ..running() };
    for count in 1..=4 {
        learned(&mut view, job(7), &record((1..=count).map(|number| (1, number, TWO, lost()))));
        assert_eq!(did(|out| coordinator.on_job(at(90), job(7), &view, out)), Did::NOTHING, "{count} lost");
    }
    learned(&mut view, job(7), &record((1..=5).map(|number| (1, number, TWO, lost()))));
    let told = did(|out| coordinator.on_job(at(91), job(7), &view, out));
    let crash_limit = Ending::Lost(LostReason::CrashLimit);
    assert_eq!(told, decides(Member::Only, Some((attempt(7, 1, 5), TWO)), crash_limit));
}

#[test]
fn each_trigger_starts_waits_or_gives_up() {
    use Trigger::{AllDone, AllFailed, AllSucceeded, OneDone, OneFailed, OneSucceeded};
    let (starts, waits) = (offers(ME, 1, 1, &spec(1_000)), Did::NOTHING);
    let never = decides(Member::Only, None, Ending::NotStarted(StartFailure::Dependency(job(8))));
    // Of two jobs so many completed, failed and were stopped.
    for (trigger, standing, expected) in [
        (AllSucceeded, (2, 0, 0), &starts),
        (AllSucceeded, (1, 0, 0), &waits),
        (AllSucceeded, (1, 1, 0), &never),
        (AllSucceeded, (0, 0, 1), &never),
        (AllFailed, (0, 1, 1), &starts),
        (AllFailed, (0, 1, 0), &waits),
        (AllFailed, (1, 0, 0), &never),
        (AllDone, (1, 1, 0), &starts),
        (AllDone, (1, 0, 0), &waits),
        (OneSucceeded, (1, 0, 0), &starts),
        (OneSucceeded, (0, 1, 0), &waits),
        (OneSucceeded, (0, 1, 1), &never),
        (OneFailed, (0, 0, 1), &starts),
        (OneFailed, (1, 0, 0), &waits),
        (OneFailed, (2, 0, 0), &never),
        (OneDone, (0, 1, 0), &starts),
        (OneDone, (0, 0, 0), &waits),
    ] {
        let mut view = view(&[]);
        submitted(&mut view, group(8), GroupSpec { array: IndexRanges::from_indices(1..=2), ..spec(1) }, 1, TWO);
        let (completed, failed, stopped) = standing;
        edit_group(&mut view, group(8), |record| record.tally = tally(completed, failed, stopped));
        let after = vec![Dependency { on: job(8), trigger }];
        let mut coordinator = leading(&mut view, GroupSpec { after: after.clone(), ..spec(1_000) });
        assert_eq!(work(&mut coordinator, at(0), &view), Did::NOTHING, "not before it is weighed");
        let mut told = tick(&mut coordinator, at(25), &view);
        let mut worked = work(&mut coordinator, at(25), &view);
        if let [(_, Message::Offer(offer))] = worked.sends.as_mut_slice() {
            assert_eq!(std::mem::take(&mut offer.spec.after), after);
        }
        told.sends.append(&mut worked.sends);
        assert_eq!(worked, Did::NOTHING);
        assert_eq!(&told, expected, "{trigger:?} {standing:?}");
    }
}

#[test]
fn a_trigger_counts_once_two_nodes_hold_it() {
    let mut view = view(&[TWO]);
    view.on_advert(TWO, advert(2, &capacity(999), Accepting::Yes));
    submitted(&mut view, group(8), spec(1), 1, ME);
    edit_group(&mut view, group(8), |record| record.tally = tally(1, 0, 0));
    let after = vec![Dependency { on: job(8), trigger: Trigger::AllSucceeded }];
    let mut coordinator = leading(&mut view, GroupSpec { after, ..spec(1_000) });
    work(&mut coordinator, at(0), &view);
    for (acked_seq, opens) in [(0, false), (4, false), (5, true)] {
        view.nodes.get_mut(&TWO).expect("a peer").acked_seq = acked_seq;
        assert_eq!(tick(&mut coordinator, at(25), &view), Did::NOTHING);
        assert_eq!(!work(&mut coordinator, at(25), &view).sends.is_empty(), opens, "held up to {acked_seq} of 5");
    }
}

#[test]
fn a_dependency_that_is_not_alive_here_is_looked_up_every_two_seconds() {
    let mut view = view(&[]);
    let after = vec![Dependency { on: job(8), trigger: Trigger::AllDone }];
    let mut coordinator = leading(&mut view, GroupSpec { after: after.clone(), ..spec(1_000) });
    let asks = Did::ordered([Effect::LookUp(job(8))]);
    for (now, expected) in [(25, &asks), (2_024, &Did::NOTHING), (2_025, &asks)] {
        assert_eq!(&tick(&mut coordinator, at(now), &view), expected, "{now} ms");
    }
    assert_eq!(coordinator.waits_for(group(7)), [job(8)]);
    submitted(&mut view, group(8), spec(1), 1, TWO);
    edit_group(&mut view, group(8), |record| record.tally = tally(0, 1, 0));
    let over = view.groups.remove(&group(8)).expect("just put").record;
    coordinator.on_looked_up(job(8), Some(&over), None);
    assert_eq!(tick(&mut coordinator, at(2_050), &view), Did::NOTHING);
    let told = work(&mut coordinator, at(2_050), &view);
    assert!(matches!(told.sends.as_slice(), [(ME, Message::Offer(_))]), "{told:?}");
}

#[test]
fn a_part_of_a_job_is_stopped_once_that_has_ended() {
    let mut view = view(&[]);
    submitted(&mut view, group(8), spec(1), 1, TWO);
    let mut coordinator = leading(&mut view, GroupSpec { parent: Some(job(8)), ..spec(9_000) });
    assert_eq!(tick(&mut coordinator, at(25), &view), Did::NOTHING, "its parent runs");
    edit_group(&mut view, group(8), |record| record.tally = tally(0, 1, 0));
    let stops = Did::wrote([Event::StopWished { job: job(7) }]);
    assert_eq!(tick(&mut coordinator, at(50), &view), stops);
    assert_eq!(tick(&mut coordinator, at(75), &view), Did::NOTHING, "told once");
}

#[test]
fn a_parent_that_is_not_alive_here_is_looked_up() {
    let mut view = view(&[]);
    let mut coordinator = leading(&mut view, GroupSpec { parent: Some(job(8)), ..spec(9_000) });
    let asks = Did::ordered([Effect::LookUp(job(8))]);
    assert_eq!(tick(&mut coordinator, at(25), &view), asks);
    coordinator.on_looked_up(job(8), None, None);
    assert_eq!(tick(&mut coordinator, at(50), &view), Did::NOTHING, "nothing is known of it yet");
    assert_eq!(tick(&mut coordinator, at(2_025), &view), asks);
    submitted(&mut view, group(8), spec(1), 1, TWO);
    edit_group(&mut view, group(8), |record| record.tally = tally(1, 0, 0));
    let over = view.groups.remove(&group(8)).expect("just put").record;
    coordinator.on_looked_up(job(8), Some(&over), None);
    let stops = Did::wrote([Event::StopWished { job: job(7) }]);
    assert_eq!(tick(&mut coordinator, at(2_050), &view), stops);
}
