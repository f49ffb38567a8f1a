//! A large blob on its way here: bytes and the hashes that prove them, in `partial/`.
//!
//! There is no list of what has arrived. The hashes are kept as they come, so after a kill -9 the bytes
//! themselves tell: each piece that verifies up to the blob's id is kept, the rest is fetched again. That
//! also holds when the machine crashed and the disk kept some writes and lost others.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use bao_tree::TreeNode;
use bao_tree::io::outboard::PostOrderOutboard;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges_validated};
use bao_tree::io::{BaoContentItem, DecodeError};
use proto::ContentId;

use super::error::{BlobError, at};
use super::store::BlobStore;
use super::tree::{self, GROUP_BYTES, PAIR_BYTES};

/// Granularity of resumption. With the pairs held back, at most 1.25 MiB per transfer is sent twice.
const PIECE_BYTES: u64 = 16 * GROUP_BYTES;
/// Hash pairs held back so that neighbours are written together; a subtree of 1 MiB.
const PAIRS_MAX: usize = 64;

/// One blob that is being fetched. One fetch owns it at a time (`Flights` in `fetch.rs`); its transfers
/// write disjoint ranges.
pub(super) struct Partial {
    store: BlobStore,
    pub(super) id: ContentId,
    pub(super) size: u64,
    data: File,
    tree: File,
}

/// Why a transfer stopped before the end of its range.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The bytes ended; whoever fed them knows why.
    Short,
    /// The bytes are not the blob's.
    Lie,
    /// This disk failed.
    Disk(BlobError),
}

impl Partial {
    /// Opens or begins the blob. Returns the ranges still missing, in order; checking what a fetch before
    /// left here reads it once.
    pub(super) fn open(store: &BlobStore, id: ContentId, size: u64) -> Result<(Self, Vec<Range<u64>>), BlobError> {
        let open = |path: std::path::PathBuf| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            file.map_err(at("create", &path))
        };
        let data = open(store.partial_path(id))?;
        let tree = open(store.partial_tree_path(id))?;
        let path = store.partial_path(id);
        let before = data.metadata().map_err(at("read", &path))?.len();
        data.set_len(size).map_err(at("size", &path))?;
        tree.set_len(tree::shape(size).outboard_size()).map_err(at("size", &path))?;
        let partial = Self { store: store.clone(), id, size, data, tree };
        let missing = if before == 0 { vec![Range { start: 0, end: size }] } else { partial.missing()? };
        Ok((partial, missing))
    }

    /// The ranges that do not verify, as long as possible each.
    fn missing(&self) -> Result<Vec<Range<u64>>, BlobError> {
        let mut missing: Vec<Range<u64>> = Vec::new();
        for start in (0..self.size).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX)) {
            let piece = start..(start + PIECE_BYTES).min(self.size);
            let chunks = tree::chunks(&piece, self.size);
            if encode_ranges_validated(&self.data, self.outboard(), &chunks, io::sink()).is_ok() {
                continue;
            }
            match missing.last_mut() {
                Some(last) if last.end == piece.start => last.end = piece.end,
                _ => missing.push(piece),
            }
        }
        Ok(missing)
    }

    fn outboard(&self) -> PostOrderOutboard<&File> {
        PostOrderOutboard { root: self.id.0.into(), tree: tree::shape(self.size), data: &self.tree }
    }

    /// Writes the encoding of `range` as far as it verifies. Returns where the verified bytes end, and why
    /// if that is not the range's end. Blocks on `encoded`.
    pub(super) fn receive(&self, encoded: impl Read, range: &Range<u64>) -> (u64, Result<(), Stopped>) {
        let chunks = tree::chunks(range, self.size);
        let items = DecodeResponseIter::new(self.id.0.into(), tree::shape(self.size), encoded, &chunks);
        let mut pairs = Pairs { partial: self, held: Vec::with_capacity(PAIRS_MAX) };
        let mut end = range.start;
        for item in items {
            let step = match item {
                Ok(BaoContentItem::Parent(parent)) => pairs.hold(parent.node, parent.pair),
                Ok(BaoContentItem::Leaf(leaf)) => self.write(&self.data, leaf.offset, &leaf.data).map(|()| {
                    end = leaf.offset + leaf.data.len() as u64;
                }),
                Err(DecodeError::ParentHashMismatch(_) | DecodeError::LeafHashMismatch(_)) => Err(Stopped::Lie),
                Err(_) => Err(Stopped::Short),
            };
            if let Err(stopped) = step {
                // What was verified stays of use.
                return (end, pairs.write().and(Err(stopped)));
            }
        }
        (end, pairs.write())
    }

    fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> Result<(), Stopped> {
        file.write_all_at(bytes, offset).map_err(|error| {
            let error = at("write", &self.store.partial_path(self.id))(error);
            Stopped::Disk(self.store.full(error, self.size))
        })
    }

    /// All ranges have arrived: the blob gets its name.
    pub(super) fn finish(&self) -> Result<(), BlobError> {
        use std::os::unix::fs::PermissionsExt;
        let (data, tree) = (self.store.partial_path(self.id), self.store.partial_tree_path(self.id));
        for (file, path) in [(&self.tree, &tree), (&self.data, &data)] {
            file.set_permissions(fs::Permissions::from_mode(0o400)).map_err(at("mark", path))?;
        }
        let outboard = self.store.outboard_path(self.id);
        // The outboard first: a blob that is here can be served.
        fs::rename(&tree, &outboard).map_err(at("name", &outboard))?;
        self.store.commit(&data, self.id)
    }

    /// Gives the disk back what was fetched.
    pub(super) fn discard(&self) {
        // The bytes last: a sweep finds a blob's leftovers by them.
        let _ = fs::remove_file(self.store.partial_tree_path(self.id));
        let _ = fs::remove_file(self.store.partial_path(self.id));
    }
}

/// Verified hash pairs, written in runs: 64 bytes at a time would be a system call per 16 KiB of blob.
struct Pairs<'a> {
    partial: &'a Partial,
    held: Vec<(u64, [u8; PAIR_BYTES as usize])>,
}

impl Pairs<'_> {
    fn hold(&mut self, node: TreeNode, pair: (blake3::Hash, blake3::Hash)) -> Result<(), Stopped> {
        let Some(offset) = tree::shape(self.partial.size).post_order_offset(node) else { return Ok(()) };
        let mut bytes = [0; PAIR_BYTES as usize];
        bytes[..32].copy_from_slice(pair.0.as_bytes());
        bytes[32..].copy_from_slice(pair.1.as_bytes());
        self.held.push((offset.value() * PAIR_BYTES, bytes));
        if self.held.len() < PAIRS_MAX { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<(), Stopped> {
        self.held.sort_unstable_by_key(|&(offset, _)| offset);
        let mut run: Vec<u8> = Vec::with_capacity(self.held.len() * PAIR_BYTES as usize);
        let mut run_start = 0;
        for (offset, bytes) in self.held.drain(..) {
            if offset != run_start + run.len() as u64 && !run.is_empty() {
                self.partial.write(&self.partial.tree, run_start, &run)?;
                run.clear();
            }
            if run.is_empty() {
                run_start = offset;
            }
            run.extend_from_slice(&bytes);
        }
        if run.is_empty() { Ok(()) } else { self.partial.write(&self.partial.tree, run_start, &run) }
    }
}
