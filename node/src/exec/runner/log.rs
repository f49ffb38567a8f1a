//! The runner's own notes: one line each, time first, to standard error, which is a file in its directory.
//! No `tracing`: a runner lives for months, writes a line a day and must stay small.

use std::fmt::Arguments;
use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

/// A runner that has more to say than this repeats itself, and its log must not fill the disk.
const LINES_MAX: u32 = 10_000;

static LINES: AtomicU32 = AtomicU32::new(0);

/// Writes one line.
pub(super) fn note(text: Arguments<'_>) {
    if LINES.fetch_add(1, Ordering::Relaxed).min(LINES_MAX) == LINES_MAX {
        LINES.store(LINES_MAX, Ordering::Relaxed);
        return;
    }
    // A full disk must not end the runner, so a line that cannot be written is dropped.
    let _ = writeln!(std::io::stderr(), "{} {text}", unix_ms());
}

/// Milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
