//! What people ask of the cache: which values there are, what they save, why one was not found. Answers come from the
//! log's records; only `why` looks into values, at what their keys were made of.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use proto::{NodeId, ValueKey, ValueNote};
use tokio::task::JoinSet;

use super::ask::{Answer, Question, ask};
use super::handle::{NodeError, NodeHandle, unix_ms};
use super::hits::HitRow;
use super::value_files::RecordLine;
use super::values::{self, Known, blocking, for_each};

/// A value begins with this, the length of its head, and the head.
const MAGIC: &[u8; 4] = b"FNV1";
/// A head has a line per function, argument and package; more is damage.
const HEAD_MAX: u32 = 16 << 20;
/// Earlier values of a function that are looked at for one that can be had.
const EARLIER_MAX: usize = 32;
/// A node that does not tell by then what the cache saved there is named as not counted.
const ASK_MAX: Duration = Duration::from_secs(2);

/// A value that counts.
#[derive(Clone, Debug)]
pub(crate) struct Cached {
    pub(crate) key: ValueKey,
    pub(crate) maker: NodeId,
    pub(crate) note: ValueNote,
    /// Programs on this machine find it without asking.
    pub(crate) is_here: bool,
    /// No node evicts it.
    pub(crate) is_kept: bool,
}

/// Which values a listing wants; empty texts want all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) function: String,
    pub(crate) project: String,
    pub(crate) user: String,
}

/// Parts of a key, by kind and name, with their digests.
pub(crate) type Parts = BTreeMap<(String, String), String>;

/// Why a value was computed although there was one before.
pub(crate) struct Why {
    pub(crate) value: Cached,
    /// The nearest earlier value of the same function, with what it was made of.
    pub(crate) earlier: Option<(Cached, Parts)>,
    pub(crate) parts: Parts,
}

impl NodeHandle {
    /// Every value that `wanted` matches, the newest first, and at most `limit` of them. Blocks.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub(crate) fn cached(&self, wanted: &Wanted, limit: usize) -> Result<Vec<Cached>, NodeError> {
        let mut found = Vec::new();
        let is = |wanted: &str, has: &str| wanted.is_empty() || wanted == has;
        for_each(&self.shared, |known| {
            let note = &known.note;
            if is(&wanted.function, &note.function)
                && is(&wanted.project, &note.project)
                && is(&wanted.user, &note.user)
            {
                found.push(known);
            }
        })?;
        found.sort_by_key(|known| (std::cmp::Reverse(known.note.made_unix_ms), known.key));
        found.truncate(limit);
        Ok(found.into_iter().map(|known| self.looked_at(known)).collect())
    }

    fn looked_at(&self, Known { key, maker, note, is_kept }: Known) -> Cached {
        let is_here = self.shared.values.files.names(key, note.content);
        Cached { key, maker, note, is_here, is_kept }
    }

    /// The values whose key begins with `prefix`, in lower-case hex digits; at most `limit`. Blocks.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub(crate) fn cached_with_prefix(&self, prefix: &str, limit: usize) -> Result<Vec<Cached>, NodeError> {
        if let Ok(key) = prefix.parse::<ValueKey>() {
            let record = self.shared.store.value(key)?.unwrap_or_default();
            let known = record.canonical(unix_ms()).map(|(maker, note)| {
                self.looked_at(Known { key, maker, note: note.clone(), is_kept: record.is_kept() })
            });
            return Ok(known.into_iter().collect());
        }
        let mut found = Vec::new();
        for_each(&self.shared, |known| {
            if found.len() < limit && known.key.to_string().starts_with(prefix) {
                found.push(known);
            }
        })?;
        Ok(found.into_iter().map(|known| self.looked_at(known)).collect())
    }

    /// What the cache saved, on all nodes that answer within two seconds, by project and user; and those that did not.
    ///
    /// # Errors
    /// [`NodeError`].
    pub(crate) async fn cache_hits(&self) -> Result<(Vec<HitRow>, Vec<NodeId>), NodeError> {
        let mut asking = JoinSet::new();
        for other in self.providers().await? {
            let shared = self.shared.clone();
            asking.spawn(async move {
                let answer = tokio::time::timeout(ASK_MAX, ask(&shared, other, &Question::CacheHits)).await;
                (other, answer)
            });
        }
        let shared = self.shared.clone();
        let mut rows = blocking(move || Ok(shared.values.hits.rows())).await?;
        let mut silent = Vec::new();
        for (other, answer) in asking.join_all().await {
            match answer {
                Ok(Some(Answer::CacheHits(theirs))) => rows.extend(theirs),
                _ => silent.push(other),
            }
        }
        Ok((rows, silent))
    }

    /// Has every node keep the value of a key whatever room it takes, or lets it go again.
    ///
    /// # Errors
    /// [`NodeError`].
    pub(crate) async fn keep_cached(&self, key: ValueKey, kept: bool) -> Result<(), NodeError> {
        values::pin(self, key, kept).await
    }

    /// Hides every value of a key, on every node.
    ///
    /// # Errors
    /// [`NodeError`].
    pub(crate) async fn purge_cached(&self, key: ValueKey) -> Result<(), NodeError> {
        values::purge(self, key).await
    }

    /// What a value was made of, and the nearest earlier one of its function: of the latest that can be had, the one that
    /// differs least. Large ones that are not here are not fetched for that, unless there is no other.
    ///
    /// # Errors
    /// [`NodeError::Unreachable`] when the value itself cannot be had.
    pub(crate) async fn why_cached(&self, value: Cached) -> Result<Why, NodeError> {
        let parts = self.parts_of(value.key).await?;
        let parts = parts.ok_or_else(|| NodeError::Unreachable(format!("the value of {}", value.key.short())))?;
        let (shared, note) = (self.shared.clone(), value.note.clone());
        let rows = blocking(move || Ok(shared.store.values_of(&note.function, note.made_unix_ms, EARLIER_MAX)?));
        let mut nearest: Option<(usize, (Cached, Parts))> = None;
        for row in rows.await?.into_iter().filter(|row| row.key != value.key) {
            let (node, key) = (self.clone(), row.key);
            let found = blocking(move || node.cached_with_prefix(&key.to_string(), 1)).await?.pop();
            let wanted = |earlier: &Cached| earlier.is_here || earlier.note.is_inline() || nearest.is_none();
            let Some(earlier) = found.filter(wanted) else { continue };
            // One that is out of reach tells nothing; one before it may.
            let Some(then) = self.parts_of(row.key).await? else { continue };
            let differences = differences(&parts, &then);
            // Of equally near ones the latest.
            if nearest.as_ref().is_none_or(|(least, _)| differences < *least) {
                nearest = Some((differences, (earlier, then)));
            }
        }
        Ok(Why { value, earlier: nearest.map(|(_, earlier)| earlier), parts })
    }

    async fn parts_of(&self, key: ValueKey) -> Result<Option<Parts>, NodeError> {
        if !values::bring(self, key).await? {
            return Ok(None);
        }
        let shared = self.shared.clone();
        blocking(move || Ok(shared.values.files.read(key).and_then(|(line, body)| head(&line, &body)))).await
    }
}

/// How many parts of two keys are not the same.
fn differences(one: &Parts, other: &Parts) -> usize {
    let not_in =
        |one: &Parts, other: &Parts| one.iter().filter(|(part, digest)| other.get(*part) != Some(digest)).count();
    let changed = one.iter().filter(|(part, digest)| other.get(*part).is_some_and(|then| then != *digest)).count();
    not_in(one, other) + not_in(other, one) - changed
}

/// The parts in a container's head; `None` when it has none that can be read.
fn head(line: &RecordLine, body: &[u8]) -> Option<Parts> {
    match &line.path {
        Some(path) if !line.inline => parts_in(std::fs::File::open(path).ok()?),
        _ => parts_in(body),
    }
}

fn parts_in(mut bytes: impl std::io::Read) -> Option<Parts> {
    let mut start = [0; 8];
    bytes.read_exact(&mut start).ok()?;
    let (magic, len) = start.split_at(4);
    let len = u32::from_le_bytes(len.try_into().ok()?);
    if magic != MAGIC || len > HEAD_MAX {
        return None;
    }
    let mut text = Vec::new();
    bytes.take(u64::from(len)).read_to_end(&mut text).ok()?;
    let head: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let part = |part: &serde_json::Value| {
        let word = |at: usize| part.get(at)?.as_str().map(str::to_owned);
        Some(((word(0)?, word(1)?), word(2)?))
    };
    head.get("parts")?.as_array()?.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(head: &str) -> Vec<u8> {
        let len = u32::try_from(head.len()).unwrap().to_le_bytes();
        [MAGIC.as_slice(), &len, head.as_bytes(), b"pickle"].concat()
    }

    #[test]
    fn parts_are_read_from_the_head_of_a_value() {
        let bytes = container(r#"{"kind":"pickle5","parts":[["function","lab.f","aa"],["argument","x","bb"]]}  "#);
        let parts = parts_in(bytes.as_slice()).unwrap();
        assert_eq!(parts[&("argument".to_owned(), "x".to_owned())], "bb");
        assert_eq!(parts.len(), 2);
        let wrong = [b"FNV2".to_vec(), Vec::new(), container("{}"), container(r#"{"parts":[[1]]}"#), container("[")];
        for bytes in wrong.iter().chain([&bytes[..20].to_vec(), &b"FNV1\xff\xff\xff\xff{}".to_vec()]) {
            assert_eq!(parts_in(bytes.as_slice()), None, "{bytes:?}");
        }
    }
}
