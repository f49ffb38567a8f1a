//! The words of the protocol [`PROTOCOL`], private to `fetch.rs` and `serve.rs`.
//!
//! On one stream the fetcher sends a [`Request`], the provider answers, and so on until the fetcher closes.
//! A frame is `len u32` (little-endian) and a bincode body. To [`Request::Whole`] come as many [`Answer`]s
//! as ids, in order, each `Data` followed by the blob's bytes; to [`Request::Range`] one, `Data` followed by
//! the bao encoding of the range. Both sides know exactly how many bytes follow; neither trusts the other's.
//! Words change only together with the number in the protocol's name.

use std::io;

use proto::ContentId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The protocol's name on the network.
pub const PROTOCOL: &str = "/fnode/blobs/1";
/// Blobs in one request: 10,000 small files are five round trips.
pub(super) const WHOLE_IDS_MAX: usize = 2_048;
/// Largest request body: that many ids and a few bytes for the rest.
pub(super) const REQUEST_MAX: usize = WHOLE_IDS_MAX * 32 + 64;
/// Largest answer body: a tag and a length, with room to spare.
pub(super) const ANSWER_MAX: usize = 32;
/// A blob of unknown size travels whole up to here: as much as the largest manifest.
pub(super) const UNSIZED_MAX: u64 = proto::codec::BODY_MAX as u64 + proto::codec::HEADER_LEN as u64;

/// What a fetcher asks for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// These blobs, each whole; at most [`WHOLE_IDS_MAX`].
    Whole(Vec<ContentId>),
    /// Bytes `start..end` of a blob of `size` bytes, with their proof.
    Range { id: ContentId, size: u64, start: u64, end: u64 },
}

/// What a provider says before it sends bytes, or instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The blob has so many bytes, and they (or the range's encoding) follow.
    Data { size: u64 },
    /// Not in this store; ask another.
    NotHere,
    /// Too many requests just now; ask again later or another.
    Busy,
    /// Here, but of another size than the request can have.
    OtherSize { size: u64 },
}

/// Length prefix and body of a word.
pub(super) fn frame<T: Serialize>(word: &T) -> Vec<u8> {
    let body = bincode::serde::encode_to_vec(word, bincode::config::standard())
        .expect("ids and numbers are all that bincode needs to carry here");
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend_from_slice(&u32::try_from(body.len()).expect("requests are bounded by their ids").to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// Reads one frame of at most `max` body bytes. `None` when the stream ended before its first byte.
pub(super) async fn read_frame<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> io::Result<Option<T>> {
    let mut len = [0; 4];
    if stream.read(&mut len[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut len[1..]).await?;
    let len = u32::from_le_bytes(len) as usize;
    if len > max {
        return Err(malformed("a frame longer than its word may be"));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    decode(&body).map(Some)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    // Limits what a length inside the body may claim, beyond the frame's own.
    let config = bincode::config::standard().with_limit::<{ 2 * REQUEST_MAX }>();
    match bincode::serde::decode_from_slice(body, config) {
        Ok((word, used)) if used == body.len() => Ok(word),
        Ok(_) => Err(malformed("bytes after the end of a word")),
        Err(_) => Err(malformed("not a word of this protocol")),
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack;
    use crate::harness::golden::{check, sections};

    #[test]
    fn limits_fit_what_is_sent() {
        let ids = vec![ContentId([0xff; 32]); WHOLE_IDS_MAX];
        assert!(frame(&Request::Whole(ids)).len() <= REQUEST_MAX + 4);
        assert!(frame(&Answer::Data { size: u64::MAX }).len() <= ANSWER_MAX + 4);
    }

    #[tokio::test]
    async fn hostile_frames_are_refused() {
        let good = frame(&Request::Whole(vec![ContentId([1; 32]); 3]));
        for cut in 1..good.len() {
            assert!(read_frame::<Request>(&mut &good[..cut], REQUEST_MAX).await.is_err(), "cut at {cut}");
        }
        assert!(read_frame::<Request>(&mut &[][..], REQUEST_MAX).await.unwrap().is_none());
        let long = u32::MAX.to_le_bytes();
        assert!(read_frame::<Request>(&mut &long[..], REQUEST_MAX).await.is_err());
        // A vector that claims 2^62 entries in a body of 12 bytes.
        let claim = [vec![10, 0, 0, 0, 0, 253], (1u64 << 62).to_le_bytes().to_vec()].concat();
        assert!(read_frame::<Request>(&mut &claim[..], REQUEST_MAX).await.is_err());
        let mut trailing = good.clone();
        trailing[0] += 1;
        trailing.push(0);
        assert!(read_frame::<Request>(&mut &trailing[..], REQUEST_MAX).await.is_err());
    }

    #[test]
    fn golden_blob_words() {
        let id = ContentId([0xab; 32]);
        let requests = [Request::Whole(vec![id; 2]), Request::Range { id, size: 70_000, start: 16_384, end: 32_768 }];
        check("blobs.Request", &sections(&requests, frame));
        let answers = [Answer::Data { size: 70_000 }, Answer::NotHere, Answer::Busy, Answer::OtherSize { size: 7 }];
        check("blobs.Answer", &sections(&answers, frame));
    }

    /// Whether `bytes` are one word and nothing else.
    fn is_word<T: DeserializeOwned>(mut bytes: &[u8], max: usize) -> bool {
        let word = futures::executor::block_on(read_frame::<T>(&mut bytes, max));
        word.is_ok_and(|word| word.is_some()) && bytes.is_empty()
    }

    #[test]
    fn hostile_bytes_in_the_place_of_every_word_do_no_harm() {
        let id = ContentId([0xab; 32]);
        for request in [Request::Whole(vec![id; 2]), Request::Range { id, size: 70_000, start: 16_384, end: 32_768 }] {
            attack("Request", &frame(&request), |bytes| is_word::<Request>(bytes, REQUEST_MAX));
        }
        for answer in [Answer::Data { size: 70_000 }, Answer::NotHere, Answer::OtherSize { size: u64::MAX }] {
            attack("Answer", &frame(&answer), |bytes| is_word::<Answer>(bytes, ANSWER_MAX));
        }
    }
}
