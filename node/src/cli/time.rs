//! Times and lengths of time as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 by this machine's clock.
pub(crate) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `2026-11-21 05:56:01 UTC`.
pub(crate) fn date(unix_ms: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)).unwrap_or(UNIX_EPOCH);
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

/// How long ago, in one unit: `3m`.
pub(crate) fn ago(unix_ms: u64, now_unix_ms: u64) -> String {
    short(now_unix_ms.saturating_sub(unix_ms))
}

/// A length in the unit that suits it: `340ms`, `12.3s`, `4m05s`, `3h12m`, `2d04h`.
pub(crate) fn length(ms: u64) -> String {
    let (s, m, h) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{}.{}s", s, ms % 1_000 / 100),
        60..3_600 => format!("{m}m{:02}s", s % 60),
        3_600..86_400 => format!("{h}h{:02}m", m % 60),
        _ => format!("{}d{:02}h", h / 24, h % 24),
    }
}

/// A length that somebody chose, so that it can be given again: `90d`, `2h30m`.
pub(crate) fn exact(length: Duration) -> String {
    let s = length.as_secs();
    let parts = [(s / 86_400, "d"), (s / 3_600 % 24, "h"), (s / 60 % 60, "m"), (s % 60, "s")];
    let text: String =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { format!("{}ms", length.as_millis()) } else { text }
}

/// `1 file`, `3 files`.
pub(crate) fn counted<N: std::fmt::Display + PartialEq + From<u8>>(count: N, one: &str) -> String {
    if count == N::from(1) { format!("1 {one}") } else { format!("{count} {one}s") }
}

fn short(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..120 => format!("{s}s"),
        120..7_200 => format!("{}m", s / 60),
        7_200..172_800 => format!("{}h", s / 3_600),
        _ => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_in_a_unit_that_suits_them() {
        for (ms, text) in
            [(7, "7ms"), (12_340, "12.3s"), (245_000, "4m05s"), (11_520_000, "3h12m"), (187_200_000, "2d04h")]
        {
            assert_eq!(length(ms), text);
        }
        let chosen = [(90 * 86_400, "90d"), (9_000, "2h30m"), (61, "1m1s"), (0, "0ms")];
        assert!(chosen.iter().all(|&(s, text)| exact(Duration::from_secs(s)) == text));
        assert_eq!([counted(1_u64, "file"), counted(0_u32, "file")], ["1 file", "0 files"]);
        assert_eq!(ago(1_000, 181_000), "3m");
        assert_eq!(ago(5_000, 1_000), "0s");
        assert_eq!(date(1_700_000_000_000), "2023-11-14 22:13:20 UTC");
    }
}
