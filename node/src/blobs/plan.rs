//! Who fetches what next: the rules of one fetch, without any I/O. `fetch.rs` takes work from here for
//! each provider and puts back what that provider did not deliver.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use proto::{ContentId, NodeId};

use super::fetch::Wanted;
use super::tree::WHOLE_MAX;
use super::wire::WHOLE_IDS_MAX;

/// Bytes of one batch of small blobs: a batch lost with its provider is sent again.
const BATCH_BYTES: u64 = 8 << 20;
/// A blob is split among providers into pieces of at least this size, so that requests stay few…
const PIECE_MIN: u64 = 8 << 20;
/// …and at most this, so that a slow provider holds up the end by one such piece only.
const PIECE_MAX: u64 = 64 << 20;
/// Pieces per provider, so that the faster one can take more of them.
const PIECES_EACH: u64 = 4;

/// One request's worth of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Small blobs, whole.
    Batch(Vec<Wanted>),
    /// A large blob whose missing ranges are not known yet.
    Blob { id: ContentId, size: u64 },
    /// A range of a large blob.
    Piece { id: ContentId, size: u64, range: Range<u64> },
}

/// What a provider may do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This.
    Work(Work),
    /// Nothing yet, but another provider may fail and leave something.
    Wait,
    /// Nothing, now and later.
    Nothing,
}

/// What is still to be fetched. Work that was taken must be settled, or the plan never ends.
#[derive(Debug)]
pub(super) struct Plan {
    queue: VecDeque<Work>,
    taken: usize,
    /// Who has said that it does not have a blob.
    lacking: BTreeSet<(NodeId, ContentId)>,
    providers: u64,
}

impl Plan {
    /// A plan for `wanted`, each id once, from `providers` nodes.
    pub(super) fn new(wanted: &[Wanted], providers: usize) -> Self {
        let mut queue = VecDeque::new();
        let (mut batch, mut batch_bytes) = (Vec::new(), 0);
        for wanted in wanted {
            match wanted.size {
                Some(size) if size > WHOLE_MAX => queue.push_back(Work::Blob { id: wanted.id, size }),
                // May be as large as a manifest, so it does not wait in memory beside others.
                None => queue.push_back(Work::Batch(vec![*wanted])),
                Some(size) => {
                    if batch.len() == WHOLE_IDS_MAX || batch_bytes + size > BATCH_BYTES {
                        queue.push_front(Work::Batch(std::mem::take(&mut batch)));
                        batch_bytes = 0;
                    }
                    batch.push(*wanted);
                    batch_bytes += size;
                }
            }
        }
        if !batch.is_empty() {
            queue.push_front(Work::Batch(batch));
        }
        Self { queue, taken: 0, lacking: BTreeSet::new(), providers: (providers as u64).max(1) }
    }

    /// The next work that `node` is not known to lack.
    pub(super) fn take(&mut self, node: NodeId) -> Next {
        for at in 0..self.queue.len() {
            let Some((mine, others)) = self.split(node, &self.queue[at]) else { continue };
            match others {
                Some(others) => self.queue[at] = others,
                None => drop(self.queue.remove(at)),
            }
            self.taken += 1;
            return Next::Work(mine);
        }
        if self.taken > 0 { Next::Wait } else { Next::Nothing }
    }

    /// What of `work` the node may have, and the rest. `None`: nothing.
    fn split(&self, node: NodeId, work: &Work) -> Option<(Work, Option<Work>)> {
        match work {
            Work::Blob { id, .. } | Work::Piece { id, .. } => {
                (!self.lacking.contains(&(node, *id))).then(|| (work.clone(), None))
            }
            Work::Batch(batch) => {
                let lacks = |wanted: &Wanted| self.lacking.contains(&(node, wanted.id));
                let (others, mine): (Vec<_>, Vec<_>) = batch.iter().copied().partition(lacks);
                let others = (!others.is_empty()).then_some(Work::Batch(others));
                (!mine.is_empty()).then_some((Work::Batch(mine), others))
            }
        }
    }

    /// `node` said that it does not have `id`.
    pub(super) fn lacks(&mut self, node: NodeId, id: ContentId) {
        self.lacking.insert((node, id));
    }

    /// Work that was taken is over; what is left of it goes to the front, so that large blobs are finished
    /// one after the other and not all begun at once.
    pub(super) fn settle(&mut self, left: Vec<Work>) {
        assert!(self.taken > 0, "work is settled once, by the one who took it");
        self.taken -= 1;
        for work in left.into_iter().rev() {
            self.queue.push_front(work);
        }
    }

    /// Pieces for the missing ranges of a blob.
    pub(super) fn pieces(&self, id: ContentId, size: u64, missing: &[Range<u64>]) -> Vec<Work> {
        let share = size / (self.providers * PIECES_EACH);
        let step = share.next_multiple_of(1 << 20).clamp(PIECE_MIN, PIECE_MAX);
        let mut pieces = Vec::new();
        for range in missing {
            let mut start = range.start;
            while start < range.end {
                let end = (start + step).min(range.end);
                pieces.push(Work::Piece { id, size, range: start..end });
                start = end;
            }
        }
        pieces
    }

    /// Whether everything has been fetched.
    pub(super) fn is_finished(&self) -> bool {
        self.queue.is_empty() && self.taken == 0
    }

    /// What nobody delivered, each id once.
    pub(super) fn missing(&self) -> BTreeSet<ContentId> {
        let mut missing = BTreeSet::new();
        for work in &self.queue {
            match work {
                Work::Batch(batch) => missing.extend(batch.iter().map(|wanted| wanted.id)),
                Work::Blob { id, .. } | Work::Piece { id, .. } => drop(missing.insert(*id)),
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn wanted(number: u32, size: u64) -> Wanted {
        Wanted { id: ContentId::of(&number.to_le_bytes()), size: Some(size) }
    }

    #[test]
    fn small_blobs_travel_in_batches() {
        let all: Vec<Wanted> = (0..10_000).map(|number| wanted(number, 100)).collect();
        let mut plan = Plan::new(&all, 2);
        let mut seen = 0;
        while let Next::Work(Work::Batch(batch)) = plan.take(A) {
            assert!(batch.len() <= WHOLE_IDS_MAX);
            seen += batch.len();
            plan.settle(vec![]);
        }
        assert_eq!(seen, 10_000);
        assert!(plan.is_finished());
    }

    #[test]
    fn who_lacks_a_blob_is_not_asked_again() {
        let (one, two) = (wanted(1, 5), wanted(2, 5));
        let mut plan = Plan::new(&[one, two], 2);
        assert_eq!(plan.take(A), Next::Work(Work::Batch(vec![one, two])));
        assert_eq!(plan.take(B), Next::Wait);
        plan.lacks(A, one.id);
        plan.settle(vec![Work::Batch(vec![one])]);
        assert_eq!(plan.take(A), Next::Nothing);
        assert_eq!(plan.take(B), Next::Work(Work::Batch(vec![one])));
        assert_eq!(plan.take(A), Next::Wait);
        plan.lacks(B, one.id);
        plan.settle(vec![Work::Batch(vec![one])]);
        assert_eq!((plan.take(A), plan.take(B)), (Next::Nothing, Next::Nothing));
        assert_eq!(plan.missing(), BTreeSet::from([one.id]));
        assert!(!plan.is_finished());
    }

    #[test]
    fn a_large_blob_is_split_without_gaps() {
        let size = (1 << 30) + 12_345;
        let id = wanted(1, size).id;
        for providers in [1, 2, 4, 100] {
            let plan = Plan::new(&[], providers);
            let missing = [0..5 << 20, 100 << 20..size];
            let pieces = plan.pieces(id, size, &missing);
            let mut joined: Vec<Range<u64>> = Vec::new();
            for piece in pieces {
                let Work::Piece { range, .. } = piece else { panic!("only pieces") };
                assert!(super::super::tree::is_askable(&range, size));
                match joined.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => joined.push(range),
                }
            }
            assert_eq!(joined, missing);
        }
    }
}
