//! When the lines of a log were written: how long it was at some times, one a second while it grows. Written beside
//! the log by `watch.rs`, sealed with it by `collect.rs`, asked by `tail.rs`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Largest sealed index, in bytes: it rides in the journal. About 1,600 pairs; of longer logs every second pair is
/// left out, as often as is needed, so that the resolution is a thousandth of what the job took.
const SEALED_MAX: usize = 8 << 10;
/// A pair in the file: two little-endian numbers.
const PAIR: usize = 16;

/// At this time, in milliseconds since 1970, the log had so many bytes.
type Pair = (u64, u64);

/// The index of the log at `log`.
fn path(log: &Path) -> PathBuf {
    log.with_extension("times")
}

/// Notes that the log has `len` bytes now. A pair that cannot be written is one less.
pub(super) fn note(log: &Path, unix_ms: u64, len: u64) {
    let bytes = [unix_ms.to_le_bytes(), len.to_le_bytes()].concat();
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path(log));
    let _ = file.and_then(|mut file| file.write_all(&bytes));
}

/// Up to where the log that is still in a file was written before `unix_ms`: all that came later is behind.
pub(super) fn offset_in_file(log: &Path, unix_ms: u64) -> u64 {
    offset(&read(log), unix_ms)
}

/// The index of a log that has ended, to be sealed; `None`: it never grew for a second.
pub(super) fn seal(log: &Path) -> Option<Vec<u8>> {
    let mut pairs = read(log);
    loop {
        let mut before = (0, 0);
        let steps: Vec<Pair> = pairs
            .iter()
            .map(|&(unix_ms, len)| {
                let step = (unix_ms.saturating_sub(before.0), len.saturating_sub(before.1));
                before = (unix_ms, len);
                step
            })
            .collect();
        let bytes = bincode::serde::encode_to_vec(&steps, bincode::config::standard()).ok()?;
        if bytes.len() <= SEALED_MAX {
            return (!pairs.is_empty()).then_some(bytes);
        }
        pairs = pairs.into_iter().step_by(2).collect();
    }
}

/// As [`offset_in_file`], of a sealed index. One that does not decode tells nothing: the log is shown from its start.
pub(super) fn offset_in_sealed(bytes: &[u8], unix_ms: u64) -> u64 {
    let config = bincode::config::standard().with_limit::<{ 16 * SEALED_MAX }>();
    let Ok((steps, _)) = bincode::serde::decode_from_slice::<Vec<Pair>, _>(bytes, config) else { return 0 };
    let mut at = (0_u64, 0_u64);
    let pairs: Vec<Pair> = steps
        .into_iter()
        .map(|(ms, len)| {
            at = (at.0.saturating_add(ms), at.1.saturating_add(len));
            at
        })
        .collect();
    offset(&pairs, unix_ms)
}

fn offset(pairs: &[Pair], unix_ms: u64) -> u64 {
    pairs.iter().take_while(|(at, _)| *at <= unix_ms).map(|&(_, len)| len).last().unwrap_or(0)
}

/// Ascending pairs: a clock that went back, or a job that cut its log, loses those before.
fn read(log: &Path) -> Vec<Pair> {
    let bytes = std::fs::read(path(log)).unwrap_or_default();
    let mut pairs: Vec<Pair> = Vec::new();
    for pair in bytes.chunks_exact(PAIR) {
        let number = |at: usize| pair[at..].first_chunk().copied().map_or(0, u64::from_le_bytes);
        let next = (number(0), number(8));
        while pairs.last().is_some_and(|last| last.0 >= next.0 || last.1 > next.1) {
            pairs.pop();
        }
        pairs.push(next);
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(pairs: &[Pair]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        pairs.iter().for_each(|&(unix_ms, len)| note(&log, unix_ms, len));
        (dir, log)
    }

    #[test]
    fn what_was_written_since_a_time_begins_at_the_last_pair_before_it() {
        let (_dir, log) = noted(&[(1_000, 10), (2_000, 30), (9_000, 31)]);
        let sealed = seal(&log).expect("there are pairs");
        for (since, offset) in [(0, 0), (999, 0), (1_000, 10), (1_999, 10), (8_000, 30), (9_000, 31), (u64::MAX, 31)] {
            assert_eq!(offset_in_file(&log, since), offset, "since {since}");
            assert_eq!(offset_in_sealed(&sealed, since), offset, "since {since}");
        }
        assert!(sealed.len() < 20, "{} bytes for three pairs", sealed.len());
        assert_eq!(seal(&log.with_file_name("other")), None);
    }

    #[test]
    fn a_clock_that_goes_back_hides_nothing() {
        let (_dir, log) = noted(&[(5_000, 10), (6_000, 20), (3_000, 30), (4_000, 40)]);
        assert_eq!(offset_in_file(&log, 3_500), 30);
        assert_eq!(offset_in_file(&log, 2_999), 0);
    }

    #[test]
    fn the_index_of_a_long_log_loses_pairs_but_not_its_span() {
        let pairs: Vec<Pair> = (1..100_000_u64).map(|s| (1_700_000_000_000 + s * 1_000, s * 300)).collect();
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let bytes: Vec<u8> =
            pairs.iter().flat_map(|(ms, len)| [ms.to_le_bytes(), len.to_le_bytes()].concat()).collect();
        std::fs::write(path(&log), bytes).unwrap();
        let sealed = seal(&log).unwrap();
        assert!(sealed.len() <= SEALED_MAX);
        for s in [1_000_u64, 50_000, 99_999] {
            let offset = offset_in_sealed(&sealed, 1_700_000_000_000 + s * 1_000);
            assert!(offset <= s * 300 && offset + 200 * 300 >= s * 300, "{offset} for second {s}");
        }
    }

    #[test]
    fn bytes_that_are_no_index_show_all_of_the_log() {
        assert_eq!(offset_in_sealed(&[0xff; 40], 5), 0);
        assert_eq!(offset_in_sealed(&[], 5), 0);
    }
}
