//! Whether cached values on this machine still are what their makers stored: every byte is hashed again. What is not is
//! removed and brought from another node. Whether a function would compute the same today is another question, which
//! only a program that calls it can answer.

use proto::{ContentId, ValueKey};

use super::handle::{NodeError, NodeHandle, Shared, unix_ms};
use super::values::{blocking, bring};

/// What one call looks at, at most: answers come every few seconds, and whoever asks shows how far it is.
const VALUES_MAX: usize = 1_000;
const BYTES_MAX: u64 = 1 << 30;

/// What was looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checked {
    /// How many values.
    pub(crate) values: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Those that were not what they should be.
    pub(crate) damaged: Vec<Damage>,
    /// Go on after this one; `None`: that was all.
    pub(crate) next: Option<ValueKey>,
}

/// A value that a disk has changed.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    /// Which.
    pub(crate) key: ValueKey,
    /// Of which function.
    pub(crate) function: String,
    /// It was brought whole from another node; else it is gone from this one, and the next call computes it.
    pub(crate) is_mended: bool,
}

impl NodeHandle {
    /// Looks at values of this machine whose keys come after `after`, in the order of the keys.
    ///
    /// # Errors
    /// [`NodeError`].
    pub(crate) async fn check_cached(&self, after: Option<ValueKey>) -> Result<Checked, NodeError> {
        let shared = self.shared.clone();
        let mut checked = blocking(move || look(&shared, after)).await?;
        for damage in &mut checked.damaged {
            damage.is_mended = bring(self, damage.key).await?;
        }
        Ok(checked)
    }

    /// Bytes of all values on this machine.
    ///
    /// # Errors
    /// [`NodeError`].
    pub(crate) async fn cache_held_bytes(&self) -> Result<u64, NodeError> {
        let shared = self.shared.clone();
        let held =
            move || shared.values.files.held().map_err(|source| NodeError::Cache { dir: shared.home.cache(), source });
        Ok(blocking(held).await?.iter().map(|held| held.bytes).sum())
    }
}

fn look(shared: &Shared, after: Option<ValueKey>) -> Result<Checked, NodeError> {
    let files = &shared.values.files;
    let cache = |source| NodeError::Cache { dir: shared.home.cache(), source };
    let mut keys = files.keys().map_err(cache)?;
    keys.retain(|key| after.is_none_or(|after| *key > after));
    keys.sort_unstable();
    let mut checked = Checked::default();
    for key in keys {
        if checked.values >= VALUES_MAX as u64 || checked.bytes >= BYTES_MAX {
            return Ok(checked);
        }
        let known = shared.store.value(key)?.unwrap_or_default();
        // One that is not in the log yet was written by a program a moment ago.
        let Some((_, note)) = known.canonical(unix_ms()) else { continue };
        checked.values += 1;
        checked.bytes += note.bytes;
        if !is_sound(shared, key, note.content)? {
            files.remove(key);
            checked.damaged.push(Damage { key, function: note.function.clone(), is_mended: false });
        }
        checked.next = Some(key);
    }
    checked.next = None;
    Ok(checked)
}

/// Whether programs would read what the log names. A damaged blob is removed.
fn is_sound(shared: &Shared, key: ValueKey, content: ContentId) -> Result<bool, NodeError> {
    match shared.values.files.read(key) {
        Some((line, body)) if line.inline => Ok(ContentId::of(&body) == content),
        Some((line, _)) => Ok(line.blob == Some(content.to_string()) && shared.blobs.check(content)?),
        None => Ok(false),
    }
}
