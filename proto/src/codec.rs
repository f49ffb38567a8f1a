//! The envelope around every stored and sent word.
//!
//! bincode does not describe itself, so each word travels as
//! `magic "fnod" | major u8 | kind u16 | len u32 | body`, integers little-endian. The body is bincode's
//! standard configuration. Lengths are checked before anything is decoded, trailing bytes are refused.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// First bytes of every word.
pub const MAGIC: [u8; 4] = *b"fnod";
/// Envelope layout; another number is another layout.
pub const MAJOR: u8 = 1;
/// Bytes before the body.
pub const HEADER_LEN: usize = 11;
/// No word is larger: manifests of 100,000 files stay below, and a hostile length costs one page at most.
pub const BODY_MAX: usize = 64 << 20;

/// A type that is stored or sent. `KIND` names the word and its version; both are append-only, and a
/// golden file under `proto/tests/golden` holds the bytes of a sample of each.
pub trait Word: Serialize + DeserializeOwned {
    /// Unique among words. A changed layout takes a new kind; the old one stays as `mod v1`.
    const KIND: u16;
    /// Largest body accepted, in bytes; at most [`BODY_MAX`].
    const MAX: usize = BODY_MAX;
}

/// Why bytes are not the word they were taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the header or the announced body.
    #[error("cut short: {have} of {need} bytes")]
    Truncated {
        /// Bytes there are.
        have: usize,
        /// Bytes there should be.
        need: usize,
    },
    /// Not this project's envelope.
    #[error("not a word of fnode")]
    Magic,
    /// Another envelope layout, most likely of a newer version.
    #[error("envelope version {0} is not known here")]
    Major(u8),
    /// Another word than was asked for.
    #[error("word kind {found} where {wanted} was expected")]
    Kind {
        /// Kind in the envelope.
        found: u16,
        /// Kind that was asked for.
        wanted: u16,
    },
    /// The body is larger than this word may be.
    #[error("{len} bytes are more than the {max} this word may have")]
    TooLong {
        /// Announced length.
        len: usize,
        /// The word's limit.
        max: usize,
    },
    /// Bytes after the end of the word.
    #[error("{0} bytes after the end")]
    Trailing(usize),
    /// The body does not decode.
    #[error("malformed body")]
    Body,
}

/// The word with its envelope.
#[must_use]
pub fn encode<W: Word>(word: &W) -> Vec<u8> {
    let body = encode_body(word);
    assert!(
        body.len() <= W::MAX,
        "a word of kind {} has {} bytes, more than its limit {}",
        W::KIND,
        body.len(),
        W::MAX
    );
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.push(MAJOR);
    bytes.extend_from_slice(&W::KIND.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).expect("BODY_MAX fits in 32 bits").to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// The word in `bytes`, all of which must be its envelope and body.
///
/// # Errors
/// Any [`DecodeError`]; nothing larger than the input is allocated on the way.
pub fn decode<W: Word>(bytes: &[u8]) -> Result<W, DecodeError> {
    let truncated = |need| DecodeError::Truncated { have: bytes.len(), need };
    let header = bytes.get(..HEADER_LEN).ok_or_else(|| truncated(HEADER_LEN))?;
    let len = body_len::<W>(header)?;
    let body = bytes.get(HEADER_LEN..HEADER_LEN + len).ok_or_else(|| truncated(HEADER_LEN + len))?;
    let trailing = bytes.len() - HEADER_LEN - len;
    if trailing > 0 {
        return Err(DecodeError::Trailing(trailing));
    }
    decode_body(body)
}

/// What a header of [`HEADER_LEN`] bytes says of the length of the body.
fn body_len<W: Word>(header: &[u8]) -> Result<usize, DecodeError> {
    if header[..4] != MAGIC {
        return Err(DecodeError::Magic);
    }
    if header[4] != MAJOR {
        return Err(DecodeError::Major(header[4]));
    }
    let found = u16::from_le_bytes([header[5], header[6]]);
    if found != W::KIND {
        return Err(DecodeError::Kind { found, wanted: W::KIND });
    }
    let len = u32::from_le_bytes([header[7], header[8], header[9], header[10]]) as usize;
    if len > W::MAX {
        return Err(DecodeError::TooLong { len, max: W::MAX });
    }
    Ok(len)
}

/// Length, envelope included, of the word of kind `W` that `bytes` starts with; `None` while its header is cut short.
///
/// # Errors
/// Any [`DecodeError`] that the header alone tells.
pub fn word_len<W: Word>(bytes: &[u8]) -> Result<Option<usize>, DecodeError> {
    let Some(header) = bytes.get(..HEADER_LEN) else { return Ok(None) };
    Ok(Some(HEADER_LEN + body_len::<W>(header)?))
}

/// bincode's standard configuration: little-endian, variable-length integers.
pub(crate) fn encode_body<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("words hold only what bincode can carry, and a Vec takes any length")
}

/// Decodes all of `body`, which has no envelope. A length inside of it claims no more than some 16 times the memory
/// that there are bytes (bincode counts eight for an integer that may take one), and never 64 KiB for nothing.
///
/// # Errors
/// [`DecodeError::Body`] and [`DecodeError::Trailing`].
pub fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    match body.len() {
        0..=0x1000 => decode_within::<T, 0x1_0000>(body),
        0x1001..=0x1_0000 => decode_within::<T, 0x10_0000>(body),
        0x1_0001..=0x10_0000 => decode_within::<T, 0x100_0000>(body),
        0x10_0001..=0x80_0000 => decode_within::<T, 0x800_0000>(body),
        _ => decode_within::<T, { 16 * BODY_MAX }>(body),
    }
}

fn decode_within<T: DeserializeOwned, const CLAIM_MAX: usize>(body: &[u8]) -> Result<T, DecodeError> {
    let config = bincode::config::standard().with_limit::<CLAIM_MAX>();
    let (value, used) = bincode::serde::decode_from_slice(body, config).map_err(|_| DecodeError::Body)?;
    if used == body.len() { Ok(value) } else { Err(DecodeError::Trailing(body.len() - used)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_few_bytes_for_many_is_read_back_at_every_size() {
        for len in [0_usize, 500, 4_000, 5_000, 60_000, 70_000, 1_100_000, 9_000_000] {
            let smallest = vec![0_u64; len];
            assert!(decode_body::<Vec<u64>>(&encode_body(&smallest)).is_ok_and(|read| read == smallest), "{len}");
        }
    }
}
