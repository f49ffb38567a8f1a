//! The journal: numbered segments of checksummed records, appended to in groups.
//!
//! A segment is `"fnodeseg" | layout u32 | zeros u32` and then records `len u32 | checksum [8] | payload`,
//! integers little-endian. The checksum is the first 8 bytes of BLAKE3 over length and payload; the payload
//! is an encoded `SignedEntry`, whose envelope carries its own version. A length of 0 is no record: the
//! segment is filled with zeros ahead of its end, so that a sync writes data alone and not also the file's
//! new length (measured on ext4: 0.09 ms against 0.14 ms per sync).
//!
//! Called by the store's writer alone; readers use [`read_record`]. Never decides what an entry means.

use std::io;
use std::sync::Arc;

use proto::codec::{self, HEADER_LEN, Word};
use proto::entry::SignedEntry;
use serde::{Deserialize, Serialize};

use super::medium::Medium;

/// A segment takes no more batches past this length: small enough to be deleted or sent one by one.
pub(crate) const SEGMENT_MAX: u64 = 32 << 20;
/// Zeros are written this far ahead; a power of two. One write in some hundred is larger by so much.
const ZERO_AHEAD: u64 = 256 << 10;
/// First bytes of a segment; the last eight are its layout and a reserve.
const SEGMENT_HEADER: [u8; 16] = *b"fnodeseg\x01\0\0\0\0\0\0\0";
/// Where the first record of a segment starts.
pub(crate) const FIRST: u64 = SEGMENT_HEADER.len() as u64;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER: usize = 12;
/// Longest payload.
const PAYLOAD_MAX: usize = HEADER_LEN + SignedEntry::MAX;

/// Longest record.
pub(crate) const RECORD_MAX: usize = RECORD_HEADER + PAYLOAD_MAX;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Location {
    /// Segment number.
    pub(crate) segment: u64,
    /// Of the record's first byte.
    pub(crate) offset: u64,
    /// Of the whole record.
    pub(crate) len: u32,
}

/// Where the journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct End {
    /// Segment number; 0 before the first.
    pub(crate) segment: u64,
    /// One past the last record.
    pub(crate) offset: u64,
}

/// The end of the journal, where it grows.
pub(crate) struct Journal {
    medium: Arc<dyn Medium>,
    end: End,
    /// Up to here the segment's file reaches; zeros from `end` on.
    zeroed: u64,
    /// Something that was not committed may lie past the end; it is cut off before the next append.
    dirty: bool,
}

impl Journal {
    /// Goes on after `end`, the last good record; cuts off what lies behind it.
    pub(crate) fn open(medium: Arc<dyn Medium>, end: End) -> io::Result<Self> {
        let mut journal = Self { medium, end, zeroed: 0, dirty: true };
        if end.segment > 0 {
            journal.cut()?;
        }
        Ok(journal)
    }

    /// Where it ends.
    pub(crate) fn end(&self) -> End {
        self.end
    }

    /// Writes `records` behind one another and returns, once they are durable, where they start. After an
    /// error the journal is as it was.
    pub(crate) fn append(&mut self, records: &[u8]) -> io::Result<End> {
        if self.end.segment == 0 || self.end.offset >= SEGMENT_MAX {
            self.roll()?;
        }
        if self.dirty {
            self.cut()?;
        }
        let start = self.end;
        let written = self.write(records);
        if written.is_err() {
            self.retract(start);
        }
        written.map(|()| start)
    }

    /// Ends the segment and begins the next one, which is durable and empty when this returns; its number.
    pub(crate) fn begin_segment(&mut self) -> io::Result<u64> {
        self.roll()?;
        self.cut()?;
        Ok(self.end.segment)
    }

    fn write(&mut self, records: &[u8]) -> io::Result<()> {
        self.dirty = true;
        let end = self.end.offset + records.len() as u64;
        if end <= self.zeroed {
            self.medium.write_at(self.end.segment, self.end.offset, records)?;
        } else {
            let zeroed = end.next_multiple_of(ZERO_AHEAD);
            let mut padded = records.to_vec();
            padded.resize(records.len() + usize::try_from(zeroed - end).expect("less than ZERO_AHEAD"), 0);
            self.medium.write_at(self.end.segment, self.end.offset, &padded)?;
            self.zeroed = zeroed;
        }
        self.medium.sync(self.end.segment)?;
        self.end.offset = end;
        self.dirty = false;
        Ok(())
    }

    /// Takes back everything from `start` on. What cannot be cut off now is cut off before the next append.
    pub(crate) fn retract(&mut self, start: End) {
        self.end = start;
        self.dirty = true;
        // The next append tries again and tells.
        let _ = self.cut();
    }

    fn cut(&mut self) -> io::Result<()> {
        let segment = self.end.segment;
        self.medium.truncate(segment, self.end.offset)?;
        if self.end.offset < FIRST {
            self.medium.truncate(segment, 0)?;
            self.medium.write_at(segment, 0, &SEGMENT_HEADER)?;
            self.end.offset = FIRST;
        }
        self.medium.sync(segment)?;
        self.zeroed = self.end.offset;
        self.dirty = false;
        Ok(())
    }

    /// Ends the segment at its last record and goes on in a new one.
    fn roll(&mut self) -> io::Result<()> {
        if self.end.segment > 0 {
            self.cut()?;
        }
        let last = self.medium.segments()?.last().copied().unwrap_or(0);
        let segment = last.max(self.end.segment) + 1;
        self.medium.create(segment)?;
        self.end = End { segment, offset: 0 };
        self.dirty = true;
        Ok(())
    }
}

/// Adds the record of `signed` to `bytes`; returns its length.
pub(crate) fn frame(signed: &SignedEntry, bytes: &mut Vec<u8>) -> u32 {
    let payload = codec::encode(signed);
    let len = u32::try_from(payload.len()).expect("an entry is far below 4 GiB");
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&checksum(len, &payload));
    bytes.extend_from_slice(&payload);
    len + u32::try_from(RECORD_HEADER).expect("12")
}

/// The entry at `location`; `None` when the bytes there are not what was written.
pub(crate) fn read_record(medium: &dyn Medium, location: Location) -> io::Result<Option<SignedEntry>> {
    let len = usize::try_from(location.len).map_err(io::Error::other)?;
    if !(RECORD_HEADER..=RECORD_MAX).contains(&len) {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    if medium.read_at(location.segment, location.offset, &mut bytes)? != len {
        return Ok(None);
    }
    let payload = payload_of(&bytes).filter(|payload| payload.len() + RECORD_HEADER == len);
    Ok(payload.and_then(|payload| codec::decode(payload).ok()))
}

/// The payload of the record that `bytes` starts with, when its checksum is right.
pub(crate) fn payload_of(bytes: &[u8]) -> Option<&[u8]> {
    let (len, sum) = header_of(bytes)?;
    let payload = bytes.get(RECORD_HEADER..RECORD_HEADER + len as usize)?;
    (checksum(len, payload) == sum).then_some(payload)
}

/// Length of the payload and its checksum; `None` for what cannot be a record.
pub(crate) fn header_of(bytes: &[u8]) -> Option<(u32, [u8; 8])> {
    let header = bytes.first_chunk::<RECORD_HEADER>()?;
    let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let sum = *header.last_chunk::<8>()?;
    (len > 0 && len as usize <= PAYLOAD_MAX).then_some((len, sum))
}

fn checksum(len: u32, payload: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&len.to_le_bytes());
    hasher.update(payload);
    *hasher.finalize().as_bytes().first_chunk().expect("32 bytes have 8")
}
