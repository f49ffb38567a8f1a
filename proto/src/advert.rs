//! What a node says of itself, and when: on change, with a little patience, else every minute.

use std::time::Duration;

use crate::core_io::Now;
use crate::message::{Advert, Message};
use crate::outbox::Out;
use crate::time::Timestamp;
use crate::view::View;
use crate::worker::Worker;

/// An advert follows a change of what is taken after this, so that a burst of jobs is told once.
const ADVERT_AFTER: Duration = Duration::from_millis(100);
/// Without a change it is told anew this often (DESIGN §6).
const ADVERT_EVERY: Duration = Duration::from_secs(60);

/// What this node says of itself, and when it said it last.
#[derive(Debug)]
pub(crate) struct OwnAdvert {
    /// What does not come from the worker; its version is that of the last one told.
    base: Advert,
    told: Option<Advert>,
    told_at: Timestamp,
}

impl OwnAdvert {
    /// Nothing was told yet in this `life`.
    pub(crate) fn new(life: u64, name: String, software: String, addrs: Vec<String>) -> Self {
        let base = Advert { version: (life, 0), name, software, addrs, ..Advert::default() };
        Self { base, told: None, told_at: Timestamp::default() }
    }

    pub(crate) fn set_addrs(&mut self, addrs: Vec<String>) {
        self.base.addrs = addrs;
    }

    pub(crate) fn set_bundles(&mut self, bundles: Vec<[u8; 8]>) {
        self.base.bundles = bundles;
    }

    /// For a peer that has just come into reach.
    pub(crate) fn told(&self) -> Option<&Advert> {
        self.told.as_ref()
    }

    /// Whether what others, and the own view, believe would lead to offers that are refused.
    pub(crate) fn misleads(&self, worker: &Worker) -> bool {
        let says = |told: &Advert| told.accepting == worker.accepting() && told.capacity == *worker.offered();
        self.told.as_ref().is_none_or(|told| !says(told))
    }

    /// Tells every peer, when it is time. Returns what was told.
    pub(crate) fn tell(&mut self, now: Now, worker: &Worker, view: &View, out: &mut Out) -> Option<Advert> {
        let changed = self.misleads(worker) || self.told.as_ref().is_none_or(|told| self.differs(told, worker));
        let after = if changed { ADVERT_AFTER } else { ADVERT_EVERY };
        if !self.misleads(worker) && now.at < self.told_at + after {
            return None;
        }
        self.base.version.1 += 1;
        let mut advert = self.base.clone();
        advert.capacity = worker.offered().clone();
        advert.used = worker.used().clone();
        advert.accepting = worker.accepting();
        self.told = Some(advert.clone());
        self.told_at = now.at;
        for node in view.peers().filter(|node| view.nodes[node].connected) {
            out.send(node, Message::Advert(Box::new(advert.clone())));
        }
        Some(advert)
    }

    fn differs(&self, told: &Advert, worker: &Worker) -> bool {
        told.used != *worker.used() || told.addrs != self.base.addrs || told.bundles != self.base.bundles
    }
}
