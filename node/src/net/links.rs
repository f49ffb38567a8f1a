//! Which of several connections to one peer carries the frames.
//!
//! Two nodes that dial each other at once end up with two connections. Of the two, the one with the smaller
//! node id *leads*: it picks, marks its pick with an empty frame right after its hello, and closes the others.
//! The other node sends on the marked connection and on no other, so nothing is lost by the closing, and
//! nothing flaps because only one side decides. Pure: the behaviour tells what happened, and acts.

use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;

use super::hello::Hello;
use super::transport::DIAL_TIMEOUT;

/// Two dials that crossed end within this of each other. A node dials no peer that it is connected to, so a
/// second connection later than this means that the peer has lost the first.
const CROSSING_MAX: Duration = DIAL_TIMEOUT.saturating_mul(2);

/// All connections to one peer.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: Vec<Link>,
    chosen: Option<ConnectionId>,
}

#[derive(Debug)]
struct Link {
    id: ConnectionId,
    dialled_here: bool,
    since: Instant,
    /// The other end's address, as seen from here.
    remote: Multiaddr,
    hello: Option<Hello>,
}

/// What the behaviour must do, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Frames go over this connection from now on; with `mark`, after the empty frame.
    Use { id: ConnectionId, mark: bool },
    /// The connection is of no use.
    Close(ConnectionId),
    /// Tell the application: connected.
    Up { hello: Hello, remote: Multiaddr, dialled_here: bool },
    /// Tell the application: no longer connected, and what was under way may be lost.
    Down,
}

impl Links {
    pub(super) fn is_chosen(&self, id: ConnectionId) -> bool {
        self.chosen == Some(id)
    }

    pub(super) fn is_up(&self) -> bool {
        self.chosen.is_some()
    }

    pub(super) fn on_established(&mut self, id: ConnectionId, dialled_here: bool, remote: Multiaddr, now: Instant) {
        self.links.push(Link { id, dialled_here, since: now, remote, hello: None });
    }

    /// The peer's hello came in on `id`. `leads`: this node has the smaller id.
    pub(super) fn on_hello(&mut self, id: ConnectionId, hello: Hello, leads: bool, now: Instant) -> Vec<Step> {
        let Some(link) = self.links.iter_mut().find(|link| link.id == id) else {
            return Vec::new();
        };
        link.hello = Some(hello);
        if !leads {
            return Vec::new();
        }
        let Some(chosen) = self.chosen else {
            return self.choose(id, true);
        };
        if self.supersedes(id, chosen, now) {
            let mut steps = vec![Step::Close(chosen), Step::Down];
            steps.extend(self.choose(id, true));
            steps
        } else {
            vec![Step::Close(id)]
        }
    }

    /// The leading peer marked `id`.
    pub(super) fn on_mark(&mut self, id: ConnectionId, leads: bool) -> Vec<Step> {
        let greeted = self.links.iter().any(|link| link.id == id && link.hello.is_some());
        if leads || !greeted {
            // Only the leader marks, and only after its hello.
            return vec![Step::Close(id)];
        }
        let mut steps = Vec::new();
        match self.chosen {
            Some(chosen) if chosen == id => return steps,
            Some(chosen) => steps.extend([Step::Close(chosen), Step::Down]),
            None => {}
        }
        steps.extend(self.choose(id, false));
        steps
    }

    /// A leader's other connections are closed or still to be greeted, so there is none to fall back on here.
    pub(super) fn on_closed(&mut self, id: ConnectionId) -> Vec<Step> {
        self.links.retain(|link| link.id != id);
        if self.chosen != Some(id) {
            return Vec::new();
        }
        self.chosen = None;
        vec![Step::Down]
    }

    fn choose(&mut self, id: ConnectionId, mark: bool) -> Vec<Step> {
        self.chosen = Some(id);
        let Some(link) = self.links.iter().find(|link| link.id == id) else {
            return Vec::new();
        };
        let Some(hello) = link.hello.clone() else {
            return Vec::new();
        };
        let up = Step::Up { hello, remote: link.remote.clone(), dialled_here: link.dialled_here };
        vec![Step::Use { id, mark }, up]
    }

    /// Whether `new` shows that the peer no longer has `old`: it lives another life, dialled again itself, or
    /// dialled too late for two dials that crossed.
    fn supersedes(&self, new: ConnectionId, old: ConnectionId, now: Instant) -> bool {
        let find = |id| self.links.iter().find(|link| link.id == id);
        let (Some(new), Some(old)) = (find(new), find(old)) else {
            return true;
        };
        let session = |link: &Link| link.hello.as_ref().map(|hello| hello.session);
        session(new) != session(old)
            || new.dialled_here == old.dialled_here
            || now.duration_since(old.since) > CROSSING_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::hello::tests::sample;

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    fn up(session: u64, dialled_here: bool) -> Step {
        Step::Up { hello: sample(session), remote: Multiaddr::empty(), dialled_here }
    }

    fn mark(number: usize) -> Step {
        Step::Use { id: id(number), mark: true }
    }

    struct Fixture {
        links: Links,
        now: Instant,
    }

    impl Fixture {
        fn with(connections: &[(usize, bool)]) -> Self {
            let mut fixture = Self { links: Links::default(), now: Instant::now() };
            for &(number, dialled_here) in connections {
                fixture.links.on_established(id(number), dialled_here, Multiaddr::empty(), fixture.now);
            }
            fixture
        }

        fn hello(&mut self, number: usize, session: u64, leads: bool) -> Vec<Step> {
            self.links.on_hello(id(number), sample(session), leads, self.now)
        }
    }

    #[test]
    fn of_two_crossed_dials_the_leader_keeps_the_first_greeted() {
        let mut leader = Fixture::with(&[(1, true), (2, false)]);
        assert_eq!(leader.hello(2, 7, true), [mark(2), up(7, false)]);
        assert_eq!(leader.hello(1, 7, true), [Step::Close(id(1))]);
        assert_eq!(leader.links.on_closed(id(1)), []);
        assert!(leader.links.is_chosen(id(2)));
    }

    #[test]
    fn the_other_side_waits_for_the_mark() {
        let mut follower = Fixture::with(&[(1, true), (2, false)]);
        assert_eq!(follower.hello(1, 7, false), []);
        assert_eq!(follower.hello(2, 7, false), []);
        assert!(!follower.links.is_up());
        assert_eq!(follower.links.on_mark(id(2), false), [Step::Use { id: id(2), mark: false }, up(7, false)]);
        assert_eq!(follower.links.on_mark(id(2), false), []);
        assert_eq!(follower.links.on_closed(id(1)), []);
    }

    #[test]
    fn a_peer_that_lives_anew_replaces_its_former_self() {
        let mut leader = Fixture::with(&[(1, true), (2, false)]);
        leader.hello(1, 7, true);
        assert_eq!(leader.hello(2, 8, true), [Step::Close(id(1)), Step::Down, mark(2), up(8, false)]);
        assert_eq!(leader.links.on_closed(id(1)), []);
    }

    #[test]
    fn a_second_dial_by_the_same_side_shows_that_the_first_connection_is_lost() {
        let mut leader = Fixture::with(&[(1, false), (2, false)]);
        leader.hello(1, 7, true);
        assert_eq!(leader.hello(2, 7, true), [Step::Close(id(1)), Step::Down, mark(2), up(7, false)]);
    }

    #[test]
    fn a_dial_long_after_the_first_did_not_cross_it() {
        let mut leader = Fixture::with(&[(1, true)]);
        leader.hello(1, 7, true);
        leader.now += CROSSING_MAX + Duration::from_millis(1);
        leader.links.on_established(id(2), false, Multiaddr::empty(), leader.now);
        assert_eq!(leader.hello(2, 7, true), [Step::Close(id(1)), Step::Down, mark(2), up(7, false)]);
    }

    #[test]
    fn when_the_chosen_connection_closes_the_next_greeted_takes_its_place() {
        let mut leader = Fixture::with(&[(1, true), (2, false)]);
        leader.hello(1, 7, true);
        assert_eq!(leader.links.on_closed(id(1)), [Step::Down]);
        assert_eq!(leader.hello(2, 7, true), [mark(2), up(7, false)]);
        assert_eq!(leader.links.on_closed(id(2)), [Step::Down]);
        assert!(!leader.links.is_up());
    }

    #[test]
    fn a_mark_out_of_place_closes_the_connection() {
        let mut leader = Fixture::with(&[(1, true)]);
        assert_eq!(leader.links.on_mark(id(1), true), [Step::Close(id(1))]);
        assert_eq!(leader.links.on_mark(id(1), false), [Step::Close(id(1))]);
    }
}
