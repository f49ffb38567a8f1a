//! Orders that start when another attempt ends. The daemon gave that attempt's reservation to them in advance; the
//! runner only keeps the order of things.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::AttemptId;

use crate::exec::protocol::StartOrder;

/// Orders that wait, and those whose wait is over.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// By the attempt they wait for; never empty lists.
    orders: BTreeMap<AttemptId, Vec<StartOrder>>,
    ready: VecDeque<StartOrder>,
    ids: BTreeSet<AttemptId>,
}

impl Waiting {
    /// How many orders there are, ready ones included.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether this attempt's order is here.
    pub(super) fn contains(&self, id: AttemptId) -> bool {
        self.ids.contains(&id)
    }

    /// Every attempt whose order is here, sorted.
    pub(super) fn ids(&self) -> impl Iterator<Item = AttemptId> + '_ {
        self.ids.iter().copied()
    }

    /// Keeps `order` until `after` has ended.
    pub(super) fn add(&mut self, order: StartOrder, after: AttemptId) {
        self.ids.insert(order.attempt);
        self.orders.entry(after).or_default().push(order);
    }

    /// `id` has ended: who waited for it is ready. Returns whether someone did.
    pub(super) fn on_ended(&mut self, id: AttemptId) -> bool {
        let orders = self.orders.remove(&id).unwrap_or_default();
        let before = self.ready.len();
        self.ready.extend(orders);
        self.ready.len() > before
    }

    /// The next order whose wait is over.
    pub(super) fn next_ready(&mut self) -> Option<StartOrder> {
        let order = self.ready.pop_front()?;
        self.ids.remove(&order.attempt);
        Some(order)
    }

    /// Drops an order; returns whether it was here.
    pub(super) fn remove(&mut self, id: AttemptId) -> bool {
        if !self.ids.remove(&id) {
            return false;
        }
        self.ready.retain(|order| order.attempt != id);
        self.orders.retain(|_, orders| {
            orders.retain(|order| order.attempt != id);
            !orders.is_empty()
        });
        true
    }
}
