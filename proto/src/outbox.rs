//! What the rules of one step want done, gathered before the core puts it in order.

use std::collections::BTreeMap;

use crate::core_io::Effect;
use crate::event::{Event, JobOutcome};
use crate::id::{GroupId, NodeId};
use crate::message::Message;

/// Orders of one step.
#[derive(Debug, Default)]
pub(crate) struct Out {
    /// Messages in order; those to this node itself come back as inputs of the same step.
    pub(crate) sends: Vec<(NodeId, Message)>,
    /// Events to append.
    pub(crate) events: Vec<Event>,
    /// Outcomes to append, gathered so that one event carries all of a group's.
    pub(crate) outcomes: BTreeMap<(GroupId, u32), Vec<JobOutcome>>,
    /// Everything else.
    pub(crate) effects: Vec<Effect>,
}

impl Out {
    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        self.sends.push((to, message));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.events.is_empty() && self.outcomes.is_empty() && self.effects.is_empty()
    }
}
