//! Cached values in an object store: below `values/` by their BLAKE3 hash, below `keys/` who made which for which key,
//! signed. A value goes there after it was kept here. Whoever holds the lease of a key that no node has a value of looks
//! there before it computes: so one process of the cluster asks, and what it finds becomes a value of this cluster.
//!
//! The signature says that nothing was changed since its maker wrote it, not that the maker may be trusted: a value is
//! code, and whoever may write to the store decides what it is.

use std::time::Duration;

use proto::entry::Identity;
use proto::{ContentId, NodeId, ValueKey, ValueNote, ValueRecord};
use serde::{Deserialize, Serialize};

use super::owed::Subject;
use super::recall::download;
use super::{Failure, Ran, is_of_place};
use crate::node::handle::{NodeError, NodeHandle, Shared, unix_ms};
use crate::node::values::{self, Given, NAME_MAX, Offer, blocking};
use crate::objects::{Place, Trouble, Why};

/// A store that does not answer a question for a key by then is passed over: computing goes on.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// A value is worth waiting for as long as computing it took, and this at least.
const FETCH_MIN: Duration = Duration::from_secs(10);
/// Longest record of a key, in bytes.
const RECORD_MAX: u64 = 16 << 10;

/// What a store says of a key.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeyFile {
    v: u32,
    key: String,
    value: String,
    bytes: u64,
    function: String,
    project: String,
    user: String,
    took_ms: u64,
    made_unix_ms: u64,
    expires_unix_ms: Option<u64>,
    parts: String,
    maker: String,
    /// Of the maker's node, in hexadecimal digits.
    signature: String,
}

impl KeyFile {
    fn new(signer: &Identity, key: ValueKey, note: &ValueNote) -> Self {
        let signature = note.sign(key, signer);
        Self {
            v: 1,
            key: key.to_string(),
            value: note.content.to_string(),
            bytes: note.bytes,
            function: note.function.clone(),
            project: note.project.clone(),
            user: note.user.clone(),
            took_ms: note.took_ms,
            made_unix_ms: note.made_unix_ms,
            expires_unix_ms: note.expires_unix_ms,
            parts: note.parts.to_string(),
            maker: signer.node().to_string(),
            signature: signature.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// What it says, if it is of `key` and as its maker signed it.
    fn note(self, key: ValueKey) -> Option<ValueNote> {
        let maker: NodeId = self.maker.parse().ok()?;
        let signature = unhex(&self.signature)?;
        let is_short = [&self.function, &self.project, &self.user].iter().all(|name| name.len() <= NAME_MAX);
        let note = ValueNote {
            content: self.value.parse().ok()?,
            bytes: self.bytes,
            function: self.function,
            project: self.project,
            user: self.user,
            took_ms: self.took_ms,
            made_unix_ms: self.made_unix_ms,
            expires_unix_ms: self.expires_unix_ms,
            parts: self.parts.parse().ok()?,
        };
        let is_sound = self.v == 1 && self.key == key.to_string() && is_short;
        (is_sound && note.is_signed_by(key, maker, &signature)).then_some(note)
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let is_hex = text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| (0..text.len()).step_by(2).filter_map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect())
}

fn key_name(key: ValueKey) -> String {
    let key = key.to_string();
    format!("keys/{}/{key}.json", &key[..2])
}

fn value_name(content: ContentId) -> String {
    let content = content.to_string();
    format!("values/{}/{content}", &content[..2])
}

/// Owes a value that was just kept here, if a store is to have it; `named`: the store that its program names.
pub(in crate::node) fn owe(shared: &Shared, key: ValueKey, named: Option<&Place>) {
    if let Some(place) = named.or(shared.elsewhere.cache.as_ref()) {
        shared.elsewhere.owe(Subject::Value(key), place.clone());
    }
}

/// A purged key is forgotten in the store, too.
pub(in crate::node) fn forget(shared: &Shared, key: ValueKey) {
    if let Some(place) = &shared.elsewhere.cache {
        shared.elsewhere.owe(Subject::Purge(key), place.clone());
    }
}

/// Puts a value into the store, its bytes before its name.
pub(super) async fn deliver(node: &NodeHandle, key: ValueKey, place: &Place) -> Ran {
    let here = |error: NodeError| Ran::Failed(Failure::Here(error.to_string()));
    let shared = node.shared.clone();
    let known = match blocking(move || Ok(shared.store.value(key)?.unwrap_or_default())).await {
        Ok(known) => known,
        Err(error) => return here(error),
    };
    let Some((_, note)) = known.canonical(unix_ms()) else { return Ran::Dropped };
    match put_value(node, place, key, note).await {
        // Purged while it was on its way: this may have put there again what the purge had removed.
        Ok(true) if is_purged(node, key) => purge(node, key, place).await,
        Ok(true) => Ran::Delivered,
        // It was evicted before it could be put there.
        Ok(false) => Ran::Dropped,
        Err(trouble) => Ran::Failed(Failure::Store(trouble)),
    }
}

fn is_purged(node: &NodeHandle, key: ValueKey) -> bool {
    let known = node.shared.store.value(key).ok().flatten();
    known.is_some_and(|known| known.values.is_empty())
}

async fn put_value(node: &NodeHandle, place: &Place, key: ValueKey, note: &ValueNote) -> Result<bool, Trouble> {
    let (objects, name) = (&node.shared.elsewhere.objects, value_name(note.content));
    let there = objects.head(place, &name).await?.is_some_and(|(_, size)| size == note.bytes);
    if !there {
        let inline = if note.is_inline() { node.inline(note.content).ok().flatten() } else { None };
        match (inline, node.blobs().open_blob(note.content)) {
            (Some(bytes), _) => objects.put(place, &name, bytes).await?,
            (None, Ok(file)) => objects.put_file(place, &name, file).await?,
            (None, Err(_)) => return Ok(false),
        }
    }
    let text = serde_json::to_vec(&KeyFile::new(&node.shared.elsewhere.signer, key, note)).unwrap_or_default();
    objects.put(place, &key_name(key), text).await?;
    Ok(true)
}

/// Removes what the store says of a key; the bytes stay, since another key may name them.
pub(super) async fn purge(node: &NodeHandle, key: ValueKey, place: &Place) -> Ran {
    match node.shared.elsewhere.objects.remove(place, &key_name(key)).await {
        Ok(()) => Ran::Delivered,
        Err(trouble) => Ran::Failed(Failure::Store(trouble)),
    }
}

/// Looks for a value of `key` in the store that its program names, else in this node's. Whether programs here find it
/// now. A store that is known to be down is not asked, one that does not answer in time is passed over.
pub(in crate::node) async fn bring(node: &NodeHandle, key: ValueKey, named: Option<&Place>) -> bool {
    let Some(place) = named.or(node.shared.elsewhere.cache.as_ref()) else { return false };
    if !node.shared.elsewhere.may_ask(place) {
        return false;
    }
    match try_bring(node, key, place).await {
        Ok(is_here) => is_here,
        Err(NodeError::Archive { trouble, .. }) => {
            let line = trouble.to_string();
            if is_of_place(&trouble.why) {
                node.shared.elsewhere.note_place(place.clone(), Some(Err(line)));
            } else {
                tracing::warn!(key = %key.short(), "{line}");
            }
            false
        }
        Err(error) => {
            tracing::debug!(key = %key.short(), %error, "a value in an object store is not taken");
            false
        }
    }
}

async fn try_bring(node: &NodeHandle, key: ValueKey, place: &Place) -> Result<bool, NodeError> {
    let shared = &node.shared;
    let known = shared.store.value(key)?.unwrap_or_default();
    let canonical = known.canonical(unix_ms()).map(|(_, note)| note.clone());
    let is_known = canonical.is_some();
    let note = match canonical {
        // Its record is in the log; only the bytes are nowhere in the cluster.
        Some(note) => note,
        None => match look(shared, key, place, &known).await? {
            Some(note) => note,
            None => return Ok(false),
        },
    };
    let patience = FETCH_MIN.max(Duration::from_millis(note.took_ms));
    let name = value_name(note.content);
    let fetched = download(shared, place, &name, (note.content, note.bytes));
    let file = match tokio::time::timeout(patience, fetched).await {
        Ok(Err(NodeError::Archive { trouble, .. })) if trouble.is_missing() => return Ok(false),
        Ok(Err(NodeError::Archive { trouble, what })) if matches!(trouble.why, Why::Altered(_)) => {
            // Whoever computes it now puts it there anew.
            let _ = shared.elsewhere.objects.remove(place, &name).await;
            return Err(NodeError::Archive { trouble, what });
        }
        Ok(fetched) => fetched?,
        Err(_) => return Ok(false),
    };
    if is_known {
        let blobs = shared.blobs.clone();
        blocking(move || Ok(blobs.take_file(&file)?)).await?;
        return values::bring(node, key).await;
    }
    // From now on a value of this cluster like any other.
    values::keep(node, offer(key, note, file.to_path_buf())).await.map(|_| true)
}

fn offer(key: ValueKey, note: ValueNote, file: std::path::PathBuf) -> Offer {
    Offer {
        key,
        function: note.function,
        project: note.project,
        user: note.user,
        took_ms: note.took_ms,
        made_unix_ms: note.made_unix_ms,
        expires_unix_ms: note.expires_unix_ms,
        parts: note.parts,
        given: Given::File(file),
    }
}

/// What the store says of a key, unless that is damaged, too old, or was purged here.
async fn look(
    shared: &Shared,
    key: ValueKey,
    place: &Place,
    known: &ValueRecord,
) -> Result<Option<ValueNote>, NodeError> {
    let name = key_name(key);
    let asked = tokio::time::timeout(LOOK_MAX, shared.elsewhere.objects.get(place, &name, RECORD_MAX)).await;
    let bytes = match asked {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(trouble)) if trouble.is_missing() => return Ok(None),
        Ok(Err(trouble)) => return Err(NodeError::Archive { what: name, trouble: Box::new(trouble) }),
        Err(_) => {
            let trouble = Trouble::silent(place, LOOK_MAX);
            return Err(NodeError::Archive { what: name, trouble: Box::new(trouble) });
        }
    };
    let note = serde_json::from_slice::<KeyFile>(&bytes).ok().and_then(|file| file.note(key));
    let Some(note) = note else {
        let trouble = Trouble::altered(place, &name);
        return Err(NodeError::Archive { what: name, trouble: Box::new(trouble) });
    };
    // A purge that a store has not heard of yet.
    let is_purged = known.purged.is_some_and(|stamp| note.made_unix_ms <= stamp.hlc.unix_ms);
    Ok(Some(note).filter(|note| note.is_fresh(unix_ms()) && !is_purged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::golden::{Sample, check};
    use crate::samples;

    const KEY: ValueKey = ValueKey([0xab; 32]);

    fn note() -> ValueNote {
        ValueNote {
            content: samples::content(0xce),
            bytes: 70_000,
            function: "lab.train".to_owned(),
            project: "vision".to_owned(),
            user: "ada".to_owned(),
            took_ms: 1_500,
            made_unix_ms: 1_700_000_000_000,
            expires_unix_ms: Some(1_800_000_000_000),
            parts: samples::content(0xcf),
        }
    }

    #[test]
    fn golden_key_in_a_store() {
        let file = KeyFile::new(&Identity::from_seed([3; 32]), KEY, &note());
        check("node.KeyFile", &[Sample::text("a value", &file, &serde_json::to_string(&file).unwrap())]);
    }

    #[test]
    fn only_what_its_maker_signed_for_this_key_is_taken() {
        let written = serde_json::to_string(&KeyFile::new(&Identity::from_seed([3; 32]), KEY, &note())).unwrap();
        let read = |text: &str, key| serde_json::from_str::<KeyFile>(text).ok().and_then(|file| file.note(key));
        assert_eq!(read(&written, KEY), Some(note()));
        assert_eq!(read(&written, ValueKey([0xac; 32])), None);
        for (from, to) in
            [("1500", "1501"), ("ada", "eve"), ("cece", "cecf"), ("lab.train", "lab.trojan"), ("70000", "7")]
        {
            assert!(written.contains(from));
            assert_eq!(read(&written.replace(from, to), KEY), None, "{from} is {to} now");
        }
        let other = serde_json::to_string(&KeyFile::new(&Identity::from_seed([4; 32]), KEY, &note())).unwrap();
        let maker = |text: &str| text.split("\"maker\":\"").nth(1).unwrap()[..64].to_owned();
        assert_eq!(read(&written.replace(&maker(&written), &maker(&other)), KEY), None);
        assert_eq!(unhex("0aF"), None);
        assert_eq!(unhex("é"), None);
    }
}
