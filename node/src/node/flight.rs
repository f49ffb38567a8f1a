//! Single flight between programs of all nodes: one computes, the others wait. The rules are `proto::lease`'s; here
//! are the questions to the node that keeps a key's lease, and the programs of this machine with what they hold.
//!
//! A keeper that does not answer is no reason to wait: then the program computes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::lease::{LeaseAnswer, Process, RENEW_EVERY, keeper, patience};
use proto::view::{NodeView, Presence};
use proto::{NodeId, ValueKey};
use tokio::time::Instant;

use super::ask::{Answer, Question, ask};
use super::handle::{NodeError, NodeHandle, Shared};
use super::values::{blocking, bring, changed};

/// A keeper lets a question wait so long before it says that somebody still computes.
pub(super) const HOLD_MAX: Duration = Duration::from_secs(1);
/// Past calls that tell how long a function takes.
const PACE_CALLS: usize = 33;

/// Programs of this machine that ask for values, by number.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<BTreeMap<u64, Program>>);

#[derive(Debug, Default)]
struct Program {
    leases: BTreeSet<ValueKey>,
    /// Questions of it that wait for somebody else.
    waits: u32,
}

/// A renewal as it is sent to the keeper of its key: the number of the process, and whether it waits.
pub(super) type Renewal = (ValueKey, u64, bool);

/// What a program that asked is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The record is there.
    Hit,
    /// It holds the lease.
    Compute,
    /// Compute without one.
    Alone,
    /// Somebody else still computes, for so many milliseconds by now.
    Busy { node: NodeId, since_ms: u64 },
}

impl Flights {
    fn programs(&self) -> MutexGuard<'_, BTreeMap<u64, Program>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A program connected.
    pub(super) fn begin(&self, number: u64) {
        self.programs().insert(number, Program::default());
    }

    fn add(&self, number: u64, key: ValueKey) -> bool {
        self.programs().get_mut(&number).is_some_and(|program| program.leases.insert(key))
    }

    fn remove(&self, number: u64, key: ValueKey) -> bool {
        self.programs().get_mut(&number).is_some_and(|program| program.leases.remove(&key))
    }

    /// One more question of a program waits. Whether others must hear of it at once.
    fn wait(&self, number: u64) -> bool {
        let mut programs = self.programs();
        let Some(program) = programs.get_mut(&number) else { return false };
        program.waits += 1;
        program.waits == 1 && !program.leases.is_empty()
    }

    fn wait_no_more(&self, number: u64) {
        if let Some(program) = self.programs().get_mut(&number) {
            program.waits = program.waits.saturating_sub(1);
        }
    }

    fn renewals(&self) -> Vec<Renewal> {
        let programs = self.programs();
        let held = programs
            .iter()
            .flat_map(|(&number, program)| program.leases.iter().map(move |&key| (key, number, program.waits > 0)));
        held.collect()
    }
}

/// The program `number` wants the value of `key`, a call of `function`, and waits at most `wait` for it.
///
/// # Errors
/// [`NodeError`], of this machine.
pub(super) async fn want(
    node: &NodeHandle,
    number: u64,
    key: ValueKey,
    function: &str,
    wait: Duration,
) -> Result<Found, NodeError> {
    let until = Instant::now() + wait;
    let mut waiting = Waiting { node, number, is_told: false };
    let mut pace = None;
    // Keepers that did not answer. Whoever ranks next is asked, by everybody who waits: one of them computes, not all.
    let mut silent = BTreeSet::new();
    loop {
        let mut changes = node.shared.values.changes();
        if bring(node, key).await? {
            return Ok(Found::Hit);
        }
        let patience = match pace {
            Some(patience) => patience,
            None => *pace.insert(patience_with(node, function).await?),
        };
        let left = until.saturating_duration_since(Instant::now());
        let keeper = keepers(node, &[key], &silent).await?.pop().unwrap_or(node.me());
        let Some(answer) = lease(node, keeper, number, key, patience, left.min(HOLD_MAX)).await else {
            silent.insert(keeper);
            continue;
        };
        match answer {
            LeaseAnswer::Compute if node.shared.values.flights.add(number, key) => return Ok(Found::Compute),
            LeaseAnswer::Compute => {
                // It went away meanwhile.
                let_go(node, number, key, false).await;
                return Ok(Found::Alone);
            }
            LeaseAnswer::Alone => return Ok(Found::Alone),
            LeaseAnswer::Busy { node, since_ms } if left.is_zero() => return Ok(Found::Busy { node, since_ms }),
            LeaseAnswer::Busy { .. } => waiting.tell(),
            // Its entry is on its way.
            LeaseAnswer::Stored => changed(&mut changes, key, HOLD_MAX / 4).await,
        }
    }
}

/// A question of a program that waits, as long as this lives.
struct Waiting<'a> {
    node: &'a NodeHandle,
    number: u64,
    is_told: bool,
}

impl Waiting<'_> {
    fn tell(&mut self) {
        if !std::mem::replace(&mut self.is_told, true) && self.node.shared.values.flights.wait(self.number) {
            let node = self.node.clone();
            tokio::spawn(async move { renew(&node).await });
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_told {
            self.node.shared.values.flights.wait_no_more(self.number);
        }
    }
}

async fn patience_with(node: &NodeHandle, function: &str) -> Result<Option<Duration>, NodeError> {
    let (shared, function) = (node.shared.clone(), function.to_owned());
    let calls = blocking(move || Ok(shared.store.values_of(&function, u64::MAX, PACE_CALLS)?)).await?;
    Ok(patience(calls.into_iter().map(|call| call.took_ms).collect()))
}

/// Asks the keeper of `key` for its lease; `None`: it does not answer.
async fn lease(
    node: &NodeHandle,
    keeper: NodeId,
    number: u64,
    key: ValueKey,
    patience: Option<Duration>,
    wait: Duration,
) -> Option<LeaseAnswer> {
    if keeper == node.me() {
        return Some(ask_here(&node.shared, Process { node: keeper, number }, key, patience, wait).await);
    }
    let millis = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let question = Question::Lease { key, number, patience_ms: patience.map(millis), wait_ms: millis(wait) };
    match ask(&node.shared, keeper, &question).await {
        Some(Answer::Lease(answer)) => Some(answer),
        _ => None,
    }
}

/// The keeper of each key, as seen from here: of those that are up and not `silent`.
async fn keepers(node: &NodeHandle, keys: &[ValueKey], silent: &BTreeSet<NodeId>) -> Result<Vec<NodeId>, NodeError> {
    let view = node.view().await?;
    let is_up = |(id, seen): &(&NodeId, &NodeView)| {
        **id == view.me || (seen.presence() == Presence::Up && !silent.contains(id))
    };
    let up: Vec<NodeId> = view.nodes.iter().filter(is_up).map(|(&id, _)| id).collect();
    Ok(keys.iter().map(|&key| keeper(key, up.iter().copied()).unwrap_or(view.me)).collect())
}

/// A question to this node as the keeper of `key`; waits up to `wait` for the lease of one that computes.
pub(super) async fn ask_here(
    shared: &Shared,
    who: Process,
    key: ValueKey,
    patience: Option<Duration>,
    wait: Duration,
) -> LeaseAnswer {
    let values = &shared.values;
    let until = Instant::now() + wait.min(HOLD_MAX);
    loop {
        let mut changes = values.changes();
        let answer = values.leases().ask(values.now(), key, who, patience);
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || !matches!(answer, LeaseAnswer::Busy { .. }) {
            return answer;
        }
        changed(&mut changes, key, left).await;
    }
}

/// Renewals that reached this node as the keeper of their keys.
pub(super) fn renew_here(shared: &Shared, node: NodeId, renewals: &[Renewal]) {
    let values = &shared.values;
    for &(key, number, waits) in renewals {
        let is_held = values.leases().renew(values.now(), key, Process { node, number }, waits);
        if is_held && waits {
            values.tell_changed(key);
        }
    }
}

/// Word that reached this node as the keeper of `key`: its holder has stored the value, or gives up.
pub(super) fn release_here(shared: &Shared, who: Process, key: ValueKey, stored: bool) {
    let values = &shared.values;
    if values.leases().release(values.now(), key, who, stored) {
        values.tell_changed(key);
    }
}

/// A program has stored the value of `key`, or gives up: whoever waits goes on.
pub(super) async fn let_go(node: &NodeHandle, number: u64, key: ValueKey, stored: bool) {
    node.shared.values.flights.remove(number, key);
    let Ok(keepers) = keepers(node, &[key], &BTreeSet::new()).await else { return };
    for keeper in keepers {
        if keeper == node.me() {
            release_here(&node.shared, Process { node: keeper, number }, key, stored);
        } else {
            // A word that is lost is a lease that nobody renews.
            let _ = ask(&node.shared, keeper, &Question::Release { key, number, stored }).await;
        }
    }
}

/// A program is gone, and its leases with it.
pub(super) async fn end(node: &NodeHandle, number: u64) {
    let gone = node.shared.values.flights.programs().remove(&number);
    for key in gone.into_iter().flat_map(|program| program.leases) {
        let_go(node, number, key, false).await;
    }
}

/// Renews what the programs of this machine hold, as long as the node lives.
pub(super) async fn keep_renewing(node: NodeHandle) {
    let mut beat = tokio::time::interval(RENEW_EVERY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let values = &node.shared.values;
        values.leases().sweep(values.now());
        // Most seconds there is nothing new, and an idle node wakes no thread for that.
        if values.hits.has_new() {
            let shared = node.shared.clone();
            let saved = blocking(move || {
                shared.values.hits.save();
                Ok(())
            });
            // Closing is told by what follows.
            let _ = saved.await;
        }
        if matches!(renew(&node).await, Err(NodeError::Closing)) {
            return;
        }
    }
}

async fn renew(node: &NodeHandle) -> Result<(), NodeError> {
    let renewals = node.shared.values.flights.renewals();
    if renewals.is_empty() {
        return Ok(());
    }
    let keys: Vec<ValueKey> = renewals.iter().map(|(key, ..)| *key).collect();
    let mut by_keeper: BTreeMap<NodeId, Vec<Renewal>> = BTreeMap::new();
    for (keeper, renewal) in keepers(node, &keys, &BTreeSet::new()).await?.into_iter().zip(renewals) {
        by_keeper.entry(keeper).or_default().push(renewal);
    }
    for (keeper, renewals) in by_keeper {
        if keeper == node.me() {
            renew_here(&node.shared, keeper, &renewals);
            continue;
        }
        let node = node.clone();
        // Each by itself: one that does not answer holds none of the others up.
        tokio::spawn(async move { ask(&node.shared, keeper, &Question::Renew(renewals)).await });
    }
    Ok(())
}
