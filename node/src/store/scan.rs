//! Reads a segment from front to back whatever its bytes are: records, and the stretches that are none.
//!
//! Called when the store is opened or mended. After a damaged stretch it finds the next record by the
//! envelope inside it, so a bad block costs the entries that lay in it and no others.

use std::io;

use proto::codec::{self, Word};
use proto::entry::SignedEntry;

use super::journal::{FIRST, Location, RECORD_HEADER, header_of, payload_of};
use super::medium::Medium;

/// Read at once; larger than any record.
const WINDOW: usize = 1 << 20;

/// What a scan finds next.
#[derive(Debug)]
pub(crate) enum Found {
    /// A record with a right checksum.
    Record(Location, SignedEntry),
    /// Bytes that are no record, up to the next one or to the end.
    Damage {
        /// How many.
        len: u64,
    },
}

/// Goes through one segment.
pub(crate) struct Scan<'a> {
    medium: &'a dyn Medium,
    segment: u64,
    len: u64,
    at: u64,
    /// One past the last good record.
    good: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Scan<'a> {
    /// From `offset`, where a record starts, on.
    pub(crate) fn new(medium: &'a dyn Medium, segment: u64, offset: u64) -> io::Result<Self> {
        let len = medium.len(segment)?;
        let at = offset.max(FIRST).min(len);
        // A segment too short for its own header has nothing worth keeping.
        let good = if len < FIRST { 0 } else { at };
        Ok(Self { medium, segment, len, at, good, window: Vec::new(), window_at: 0 })
    }

    /// Behind the last good record so far: where to append once the scan is through.
    pub(crate) fn good(&self) -> u64 {
        self.good
    }

    /// The next record or damaged stretch; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Found>> {
        let start = self.at;
        if let Some((location, signed)) = self.record_at(start)? {
            self.at += u64::from(location.len);
            self.good = self.at;
            return Ok(Some(Found::Record(location, signed)));
        }
        if self.first_nonzero(start)?.is_none() {
            self.at = self.len;
            return Ok(None);
        }
        if let Some(next) = self.find_record(start + 1)? {
            self.at = next;
            return Ok(Some(Found::Damage { len: next - start }));
        }
        let mut end = start;
        while let Some(at) = self.first_nonzero(end)? {
            end = at + 1;
        }
        self.at = self.len;
        Ok(Some(Found::Damage { len: end - start }))
    }

    fn record_at(&mut self, at: u64) -> io::Result<Option<(Location, SignedEntry)>> {
        let Some((len, _)) = header_of(self.view(at, RECORD_HEADER)?) else { return Ok(None) };
        let total = RECORD_HEADER + len as usize;
        let Some(payload) = payload_of(self.view(at, total)?) else { return Ok(None) };
        let Ok(signed) = codec::decode(payload) else { return Ok(None) };
        let location = Location { segment: self.segment, offset: at, len: u32::try_from(total).expect("checked") };
        Ok(Some((location, signed)))
    }

    fn first_nonzero(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut at = from;
        while at < self.len {
            let bytes = self.view(at, WINDOW)?;
            if let Some(found) = bytes.iter().position(|&byte| byte != 0) {
                return Ok(Some(at + found as u64));
            }
            at += bytes.len().max(1) as u64;
        }
        Ok(None)
    }

    /// Start of the first good record at or after `from`.
    fn find_record(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mark = envelope();
        let mut at = from + RECORD_HEADER as u64;
        while at < self.len {
            let bytes = self.view(at, WINDOW)?;
            let found = bytes.windows(mark.len()).position(|here| here == mark);
            match found {
                Some(found) => {
                    let start = at + found as u64 - RECORD_HEADER as u64;
                    if self.record_at(start)?.is_some() {
                        return Ok(Some(start));
                    }
                    at += found as u64 + 1;
                }
                // A mark may lie across two windows.
                None => at += (bytes.len() + 1).saturating_sub(mark.len()).max(1) as u64,
            }
        }
        Ok(None)
    }

    /// Up to `len` bytes from `at` on, at most one window; fewer at the end.
    fn view(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let there = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = len.min(there).min(WINDOW);
        let window_end = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + len as u64 > window_end {
            self.window.resize(WINDOW.min(there), 0);
            self.window_at = at;
            let read = self.medium.read_at(self.segment, at, &mut self.window)?;
            self.window.truncate(read);
        }
        let from = usize::try_from(at - self.window_at).map_err(io::Error::other)?;
        Ok(&self.window[from..(from + len).min(self.window.len())])
    }
}

/// The first bytes of every encoded `SignedEntry`.
fn envelope() -> [u8; 7] {
    let mut mark = [0; 7];
    mark[..4].copy_from_slice(&codec::MAGIC);
    mark[4] = codec::MAJOR;
    mark[5..].copy_from_slice(&SignedEntry::KIND.to_le_bytes());
    mark
}
