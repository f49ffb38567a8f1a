//! Which cached values leave this node when they take more than they may: the least used first, and last copies after
//! all others. Values that a user wants kept stay whatever they take. Who else has a copy is asked of the other nodes;
//! who of them keeps it longest is `proto::value`'s to say.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::event::INLINE_MAX;
use proto::value::is_spare;
use proto::{ByteSize, ContentId, NodeId};
use tokio::task::JoinSet;

use super::ask::{Answer, Question, ask};
use super::gc;
use super::handle::{NodeError, NodeHandle, Shared};
use super::value_files::Held;
use super::values::blocking;
use crate::blobs::{BlobStore, Freed};

/// Blobs that another node is asked about at once.
const ASKED_MAX: usize = 1_000;
/// A node that does not say by then what it has counts as having nothing: too many copies are better than none.
const ASK_MAX: Duration = Duration::from_secs(2);

/// Removes the least used cached values from this node until the rest takes at most `max`; with `dry_run` only counts
/// them. Blobs that jobs name stay. Whoever wants one of these values later fetches it, or computes it again.
///
/// # Errors
/// [`NodeError`]; what was removed before stays removed.
pub(crate) async fn evict(node: &NodeHandle, max: ByteSize, dry_run: bool) -> Result<Freed, NodeError> {
    let shared = node.shared.clone();
    let (held_bytes, candidates) = blocking(move || candidates(&shared)).await?;
    let mut room = Room { left: held_bytes, max: max.0, going: Vec::new() };
    let mut last = Vec::new();
    for asked in candidates.chunks(ASKED_MAX) {
        if room.is_enough() {
            break;
        }
        let holders = holders(node, asked).await?;
        for held in asked {
            let others = held.content.and_then(|content| holders.get(&content)).into_iter().flatten();
            match is_inline(held) || is_spare(held.key, node.me(), others.copied()) {
                true => room.take(held.clone()),
                false => last.push(held.clone()),
            }
        }
    }
    last.into_iter().for_each(|held| room.take(held));
    let freed = Freed { blobs: room.going.len() as u64, bytes: room.going.iter().map(|held| held.bytes).sum() };
    if !dry_run && !room.going.is_empty() {
        let node = node.clone();
        blocking(move || remove(&node, &room.going)).await?;
    }
    Ok(freed)
}

/// What goes, until it is enough.
struct Room {
    left: u64,
    max: u64,
    going: Vec<Held>,
}

impl Room {
    fn is_enough(&self) -> bool {
        self.left <= self.max
    }

    fn take(&mut self, held: Held) {
        if !self.is_enough() {
            self.left -= held.bytes;
            self.going.push(held);
        }
    }
}

/// The bytes of all values that are here, and those that may go, the longest unused first.
fn candidates(shared: &Shared) -> Result<(u64, Vec<Held>), NodeError> {
    let cache = |source| NodeError::Cache { dir: shared.home.cache(), source };
    let mut held = shared.values.files.held().map_err(cache)?;
    let held_bytes = held.iter().map(|held| held.bytes).sum();
    let mut kept = Vec::new();
    for held in &held {
        kept.push(shared.store.value(held.key)?.is_some_and(|record| record.is_kept()));
    }
    let mut kept = kept.into_iter();
    held.retain(|_| !kept.next().unwrap_or_default());
    Ok((held_bytes, held))
}

/// Values that ride in the log are on every node, and stay there.
fn is_inline(held: &Held) -> bool {
    held.bytes <= INLINE_MAX as u64
}

/// Which other nodes have the bytes of which of these values, as far as they say so in time.
async fn holders(node: &NodeHandle, asked: &[Held]) -> Result<BTreeMap<ContentId, Vec<NodeId>>, NodeError> {
    let large = asked.iter().filter(|held| !is_inline(held));
    let contents: Vec<ContentId> = large.filter_map(|held| held.content).collect();
    let mut found: BTreeMap<ContentId, Vec<NodeId>> = BTreeMap::new();
    if contents.is_empty() {
        return Ok(found);
    }
    let mut asking = JoinSet::new();
    for other in node.providers().await? {
        let (shared, question) = (node.shared.clone(), Question::Having(contents.clone()));
        asking.spawn(async move {
            let answer = tokio::time::timeout(ASK_MAX, ask(&shared, other, &question)).await;
            (other, answer)
        });
    }
    for (other, answer) in asking.join_all().await {
        let Ok(Some(Answer::Having(has))) = answer else { continue };
        for (content, _) in contents.iter().zip(has).filter(|(_, has)| *has) {
            found.entry(*content).or_default().push(other);
        }
    }
    Ok(found)
}

/// Which of these blobs are on this disk, in their order.
pub(super) fn having(blobs: &BlobStore, contents: &[ContentId]) -> Vec<bool> {
    contents.iter().take(ASKED_MAX).map(|&content| blobs.has(content).is_some()).collect()
}

fn remove(node: &NodeHandle, going: &[Held]) -> Result<(), NodeError> {
    let needed = gc::needed(node, 0)?;
    for Held { key, content, .. } in going {
        node.shared.values.files.remove(*key);
        if let Some(content) = content.filter(|content| !needed.contains(content)) {
            node.shared.blobs.discard(content)?;
        }
    }
    Ok(())
}
