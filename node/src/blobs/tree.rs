//! The hash tree inside BLAKE3 (bao): what makes a range of a blob verifiable by itself.
//!
//! Chunk groups are 16 KiB, so the inner hashes of a blob (its outboard, kept in post-order) take 0.4 %
//! of its size. Blobs up to [`WHOLE_MAX`] have none: they travel whole and are hashed at once.

use std::io::{self, Read, Write};
use std::ops::Range;

use bao_tree::iter::BaoChunk;
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};
use proto::ContentId;

/// Leaf size of the tree: 2^4 chunks of 1 KiB, as iroh uses; one wide SIMD pass each.
const GROUP: BlockSize = BlockSize::from_chunk_log(4);
/// The same in bytes. Ranges that travel start at its multiples.
pub(super) const GROUP_BYTES: u64 = 16 << 10;
/// Up to this size a blob travels whole: a hash over 1 MiB costs less than the tree's bookkeeping.
pub(super) const WHOLE_MAX: u64 = 1 << 20;
/// Bytes of one pair of hashes.
pub(super) const PAIR_BYTES: u64 = 64;

/// The tree's shape for a blob of `size` bytes.
pub(super) fn shape(size: u64) -> BaoTree {
    BaoTree::new(size, GROUP)
}

/// The chunks of `bytes`, which must start at a group; a range that reaches `size` is left open, as the
/// tree wants it.
pub(super) fn chunks(bytes: &Range<u64>, size: u64) -> ChunkRanges {
    let start = ChunkNum(bytes.start / 1024);
    if bytes.end >= size { ChunkRanges::from(start..) } else { ChunkRanges::from(start..ChunkNum(bytes.end / 1024)) }
}

/// Whether `bytes` is a range that one may ask of a blob of `size` bytes.
pub(super) fn is_askable(bytes: &Range<u64>, size: u64) -> bool {
    let ends_well = bytes.end == size || bytes.end.is_multiple_of(GROUP_BYTES);
    bytes.start.is_multiple_of(GROUP_BYTES) && ends_well && bytes.start < bytes.end && bytes.end <= size
}

/// Exact bytes on the wire for a range: its data and the hash pairs that prove it.
pub(super) fn encoded_len(bytes: &Range<u64>, size: u64) -> u64 {
    let ranges = chunks(bytes, size);
    let ranges = bao_tree::io::sync::truncate_ranges(&ranges, size);
    shape(size)
        .ranges_pre_order_chunks_iter_ref(ranges, 0)
        .map(|item| match item {
            BaoChunk::Parent { .. } => PAIR_BYTES,
            BaoChunk::Leaf { size, .. } => size as u64,
        })
        .sum()
}

/// Hashes exactly `size` bytes of `data` and writes their outboard, in one pass and constant memory.
///
/// # Errors
/// `UnexpectedEof` when there are fewer bytes; any error of reader or writer.
pub(super) fn hash_tree(data: impl Read, size: u64, outboard: impl Write) -> io::Result<ContentId> {
    let root = bao_tree::io::sync::outboard_post_order(data, shape(size), outboard)?;
    Ok(ContentId(*root.as_bytes()))
}

#[cfg(test)]
mod tests {
    use bao_tree::io::outboard::PostOrderMemOutboard;

    use super::*;

    #[test]
    fn the_root_is_the_plain_hash_and_lengths_are_exact() {
        for size in [WHOLE_MAX + 1, 3 * GROUP_BYTES, GROUP_BYTES, 777, 5 << 20] {
            let data: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let mut outboard = Vec::new();
            assert_eq!(hash_tree(&data[..], size, &mut outboard).unwrap(), ContentId::of(&data));
            assert_eq!(outboard.len() as u64, shape(size).outboard_size());
            let outboard = PostOrderMemOutboard { root: blake3::hash(&data), tree: shape(size), data: outboard };
            for range in [0..size, 0..GROUP_BYTES.min(size), (size - 1) / GROUP_BYTES * GROUP_BYTES..size] {
                assert!(is_askable(&range, size));
                let mut encoded = Vec::new();
                bao_tree::io::sync::encode_ranges(&data[..], &outboard, &chunks(&range, size), &mut encoded).unwrap();
                assert_eq!(encoded.len() as u64, encoded_len(&range, size), "{range:?} of {size}");
            }
        }
    }

    #[test]
    fn crooked_ranges_are_not_askable() {
        let size = 10 * GROUP_BYTES + 5;
        for range in [1..GROUP_BYTES, 0..5, 0..size + 1, GROUP_BYTES..GROUP_BYTES, 0..11 * GROUP_BYTES] {
            assert!(!is_askable(&range, size), "{range:?}");
        }
    }
}
