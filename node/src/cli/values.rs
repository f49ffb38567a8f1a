//! Amounts as users write them on the command line and in `config.toml`. Each parser returns the value or
//! one line that names what is wrong and what to write; clap puts the flag in front.

use std::time::Duration;

use proto::ByteSize;

use super::time::{date, now_unix_ms};
use crate::http::words::error::ErrorWord;
use crate::http::words::submit::{
    CPU_MILLI_MAX, GPU_MEMORY_MAX, GPUS_MAX, MEMORY_MAX, TIMEOUT_MAX_S, TriggerWord, check_label, check_project,
    check_variable, parse_array,
};
use crate::objects::EndPoint;

/// A number without a unit below this is taken for a forgotten unit, not for bytes.
const MEMORY_MIN: ByteSize = ByteSize(1 << 16);

/// `KEY` and `VALUE` of `KEY=VALUE`.
pub(crate) type Pair = (String, String);

/// Thousandths of a CPU from `0.5` or `4`.
pub(crate) fn cpus(text: &str) -> Result<u32, String> {
    let refuse = || format!("not a number of CPUs; write for example 0.5 or 4, at most {}", CPU_MILLI_MAX / 1_000);
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(refuse());
    }
    if fraction.len() > 3 {
        return Err("CPUs are counted in thousandths; write at most three decimals".to_owned());
    }
    let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| refuse())? };
    let thousandths: u32 = format!("{fraction:0<3}").parse().map_err(|_| refuse())?;
    let milli = whole.checked_mul(1_000).and_then(|milli| milli.checked_add(thousandths)).ok_or_else(refuse)?;
    match milli {
        0 => Err("a job needs more than 0 CPUs; write for example 0.5 or 4".to_owned()),
        1..=CPU_MILLI_MAX => Ok(milli),
        _ => Err(refuse()),
    }
}

/// An amount of memory above zero.
pub(crate) fn memory(text: &str) -> Result<ByteSize, String> {
    memory_size(text, MEMORY_MAX)
}

/// An amount of a graphics processor's memory above zero.
pub(crate) fn gpu_memory(text: &str) -> Result<ByteSize, String> {
    memory_size(text, GPU_MEMORY_MAX)
}

/// `16` means bytes, and was surely not meant so.
fn memory_size(text: &str, max: ByteSize) -> Result<ByteSize, String> {
    let size = bounded_size(text, max)?;
    let unit_forgotten = text.trim().bytes().all(|byte| byte.is_ascii_digit()) && size < MEMORY_MIN;
    if unit_forgotten {
        return Err(format!("{} bytes are too little for any process; did you mean {0}GiB?", text.trim()));
    }
    Ok(size)
}

/// An amount of disk above zero.
pub(crate) fn size(text: &str) -> Result<ByteSize, String> {
    bounded_size(text, ByteSize(u64::MAX))
}

/// How much may stay; nothing at all is an answer, too.
pub(crate) fn size_left(text: &str) -> Result<ByteSize, String> {
    if text.trim() == "0" { Ok(ByteSize(0)) } else { size(text) }
}

fn bounded_size(text: &str, max: ByteSize) -> Result<ByteSize, String> {
    // The flag and the text stand before the message already.
    let size: ByteSize = text.parse().map_err(|_| "not a size; write for example 512MiB or 16GiB".to_owned())?;
    if size.0 == 0 {
        return Err("zero bytes; leave the flag out to ask for nothing".to_owned());
    }
    if size > max { Err(format!("more than any machine has; at most {max}")) } else { Ok(size) }
}

/// A number of graphics processors.
pub(crate) fn gpus(text: &str) -> Result<u32, String> {
    match text.trim().parse::<u32>() {
        Ok(count @ 0..=GPUS_MAX) => Ok(count),
        _ if !text.trim().is_empty() && text.trim().bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("more than any machine has; ask for at most {GPUS_MAX}"))
        }
        _ => Err(format!("not a number of GPUs; write 0 to {GPUS_MAX}")),
    }
}

/// A length of time above zero: `90s`, `15m`, `2h30m`, `3d`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || "not a duration; write for example 90s, 15m, 2h or 3d".to_owned();
    let text = text.trim();
    let length = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text).map_err(|_| refuse())?,
    };
    if length.is_zero() {
        return Err("zero is not a duration here; write for example 90s, 15m, 2h or 3d".to_owned());
    }
    if length.as_secs() > TIMEOUT_MAX_S {
        return Err("longer than 365 days".to_owned());
    }
    Ok(length)
}

/// A length of time until now, or a time in UTC: the day may be left out, and so may the time or its seconds. In milliseconds since
/// 1970.
pub(crate) fn since(text: &str) -> Result<u64, String> {
    let now = now_unix_ms();
    if let Ok(length) = duration(text) {
        return Ok(now.saturating_sub(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)));
    }
    let refuse = || {
        "neither a duration nor a time; write for example 15m, 15:04, 2026-11-21 or \"2026-11-21 15:04:05\"".to_owned()
    };
    let time = text.trim().trim_end_matches(" UTC");
    let time = match (time.contains('-'), time.contains(':')) {
        (true, true) => time.to_owned(),
        (true, false) => format!("{time} 00:00:00"),
        (false, _) => format!("{} {time}", &date(now)[..10]),
    };
    let time = if time.matches(':').count() == 1 { format!("{}:00", time.trim_end_matches('Z')) } else { time };
    let at = humantime::parse_rfc3339_weak(&time).map_err(|_| refuse())?;
    let at = at.duration_since(std::time::UNIX_EPOCH).map_err(|_| refuse())?;
    let at = u64::try_from(at.as_millis()).map_err(|_| refuse())?;
    if at > now { Err(format!("{} is still to come", date(at))) } else { Ok(at) }
}

/// `KEY=VALUE`, as a variable of the job's environment.
pub(crate) fn variable(text: &str) -> Result<Pair, String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "no = in it; write KEY=VALUE".to_owned())?;
    check_variable(key).map_err(line)?;
    if value.contains('\0') {
        return Err("the value holds a NUL byte".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// The beginning of a cached value's key.
pub(crate) fn cache_key(text: &str) -> Result<String, String> {
    let is_key = (4..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_key {
        Ok(text.to_lowercase())
    } else {
        Err("a key is 4 to 64 hexadecimal digits, as fnode cache list shows".to_owned())
    }
}

/// An end point of a job: an object store, or what old configurations call this cluster.
pub(crate) fn end_point(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("nothing; write for example s3://BUCKET/PREFIX, or leave the flag out".to_owned());
    }
    EndPoint::parse(text).map(|_| text.to_owned())
}

/// A part of something: above 0 and at most 1.
pub(crate) fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse::<f64>().ok().filter(|fraction| *fraction > 0.0 && *fraction <= 1.0);
    fraction.ok_or_else(|| "a number above 0 and at most 1, as 0.1".to_owned())
}

/// Name of a secret, which becomes a variable.
pub(crate) fn secret_name(text: &str) -> Result<String, String> {
    check_variable(text).map_err(line)?;
    Ok(text.to_owned())
}

/// `KEY=VALUE` that a node has.
pub(crate) fn label(text: &str) -> Result<Pair, String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "no = in it; write KEY=VALUE".to_owned())?;
    check_label(key, value).map_err(line)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `KEY=VALUE` or `KEY` that a job asks for.
pub(crate) fn label_wish(text: &str) -> Result<Pair, String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    check_label(key, value).map_err(line)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A project's name.
pub(crate) fn project(text: &str) -> Result<String, String> {
    check_project(text).map_err(line)?;
    Ok(text.to_owned())
}

/// Indices of an array.
pub(crate) fn array(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("no indices; write for example 1-1000 or 1,5,7-9".to_owned());
    }
    parse_array(text).map(|ranges| ranges.to_string()).map_err(line)
}

/// `JOB` or `JOB:TRIGGER`.
pub(crate) fn after(text: &str) -> Result<(String, TriggerWord), String> {
    let (job, trigger) = text.split_once(':').unwrap_or((text, "all_succeeded"));
    let trigger = match trigger.replace('-', "_").as_str() {
        "all_succeeded" => TriggerWord::AllSucceeded,
        "all_failed" => TriggerWord::AllFailed,
        "all_done" => TriggerWord::AllDone,
        "one_succeeded" => TriggerWord::OneSucceeded,
        "one_failed" => TriggerWord::OneFailed,
        "one_done" => TriggerWord::OneDone,
        _ => {
            return Err(format!(
                "{trigger:?} is not a trigger; write all_succeeded, all_failed, all_done, one_succeeded, \
                 one_failed or one_done"
            ));
        }
    };
    if job.is_empty() {
        return Err("no job before the colon; write JOB or JOB:TRIGGER".to_owned());
    }
    Ok((job.to_owned(), trigger))
}

/// A Python version, `3.11`.
pub(crate) fn python(text: &str) -> Result<String, String> {
    let digits = |part: &str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((major, minor)) if digits(major) && digits(minor) => Ok(text.to_owned()),
        _ => Err("not a Python version; write major and minor, as 3.11".to_owned()),
    }
}

/// The message and the remedy of a word, in one line.
fn line(word: ErrorWord) -> String {
    if word.hint.is_empty() { word.message } else { format!("{}; {}", word.message, word.hint) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;

    #[test]
    fn cpus_are_read_in_thousandths() {
        for (text, milli) in [("1", 1_000), ("0.5", 500), (".25", 250), ("12.125", 12_125), ("4.", 4_000)] {
            assert_eq!(cpus(text), Ok(milli), "{text}");
        }
        for text in ["", ".", "0", "0.000", "-1", "+1", "1e3", "x", "1.2345", "99999999999", "20000", "inf", "NaN"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_bounds() {
        assert_eq!(memory("16GiB"), Ok(ByteSize(16 << 30)));
        assert_eq!(memory("16").unwrap_err(), "16 bytes are too little for any process; did you mean 16GiB?");
        assert_eq!(memory("1073741824"), Ok(ByteSize(1 << 30)));
        for text in ["0", "-1GiB", "lots", "900000TiB", "", "1XB"] {
            assert!(memory(text).is_err(), "{text}");
        }
        assert!(gpu_memory("8TiB").is_err());
        assert_eq!((size_left("0"), size_left("1KiB")), (Ok(ByteSize(0)), Ok(ByteSize(1024))));
        assert!(size("0").is_err() && size_left("").is_err());
        assert_eq!(gpus("2"), Ok(2));
        assert!(end_point("s3://bucket/p").is_ok() && end_point("local:///x").is_ok());
        assert!(end_point("").is_err() && end_point("ftp://x").is_err());
        assert!(gpus("-1").is_err() && gpus("1.5").is_err() && gpus("100000").is_err());
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("15m", 900), ("2h30m", 9_000), ("3d", 259_200)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "0", "0s", "soon", "-5m", "400d", "5 parsecs", "99999999999999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_with_and_without_a_day() {
        let at = |text: &str| since(text).map(date);
        assert_eq!(at("2025-03-04T05:06:07Z").as_deref(), Ok("2025-03-04 05:06:07 UTC"));
        assert_eq!(at("2025-03-04 05:06").as_deref(), Ok("2025-03-04 05:06:00 UTC"));
        assert_eq!(at("2025-03-04 05:06:07 UTC").as_deref(), Ok("2025-03-04 05:06:07 UTC"), "as it is printed");
        assert_eq!(at("2025-03-04").as_deref(), Ok("2025-03-04 00:00:00 UTC"));
        let now = now_unix_ms();
        let midnight = since("00:00").expect("a time of today");
        let midnights = [now, now_unix_ms()].map(|now| now - now % 86_400_000);
        assert!(midnights.contains(&midnight), "{midnight}");
        let ago = now - since("15m").expect("a duration");
        assert!((899_000..=900_000).contains(&ago), "{ago}");
        for text in ["", "soon", "25:00", "2025-13-01 00:00", "15", "2025"] {
            let told = since(text);
            assert!(told.is_err() || text.parse::<u64>().is_ok(), "{text}: {told:?}");
        }
        assert!(since("2999-01-01 00:00").is_err_and(|told| told.ends_with("is still to come")));
    }

    #[test]
    fn pairs_need_a_key() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(variable("A").is_err() && variable("=b").is_err() && variable("FNODE_X=1").is_err());
        assert_eq!(label_wish("gpu"), Ok(("gpu".to_owned(), String::new())));
        assert!(label("gpu").is_err() && label_wish("=x").is_err());
    }

    #[test]
    fn a_dependency_names_a_job_and_perhaps_a_trigger() {
        assert_eq!(after("0193"), Ok(("0193".to_owned(), TriggerWord::AllSucceeded)));
        assert_eq!(after("0193/7:one_failed"), Ok(("0193/7".to_owned(), TriggerWord::OneFailed)));
        assert_eq!(after("0193:all-done"), Ok(("0193".to_owned(), TriggerWord::AllDone)));
        assert!(after("0193:sometimes").is_err() && after(":all_done").is_err());
    }

    #[test]
    fn arrays_and_versions_are_checked_before_anything_is_sent() {
        assert_eq!(array("3,1-2"), Ok("1-3".to_owned()));
        assert!(array("").is_err() && array("5-1").is_err() && array("0-2000000").is_err());
        assert!(python("3.11").is_ok() && python("3").is_err() && python("3.x").is_err());
    }

    #[test]
    fn hostile_words_are_refused_in_one_line_or_within_bounds() {
        fn try_all<T>(good: &str, parse: fn(&str) -> Result<T, String>, within: fn(&T) -> bool) {
            attack_loosely("a word", good.as_bytes(), 100, |bytes| match parse(&String::from_utf8_lossy(bytes)) {
                Ok(value) => {
                    assert!(within(&value), "beyond its bounds");
                    true
                }
                Err(line) => {
                    assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
                    false
                }
            });
        }
        try_all("12.125", cpus, |milli| (1..=CPU_MILLI_MAX).contains(milli));
        try_all("1.5GiB", memory, |size| size.0 > 0 && *size <= MEMORY_MAX);
        try_all("16 GB", gpu_memory, |size| size.0 > 0 && *size <= GPU_MEMORY_MAX);
        try_all("8", gpus, |count| *count <= GPUS_MAX);
        try_all("2h30m", duration, |length| !length.is_zero() && length.as_secs() <= TIMEOUT_MAX_S);
        try_all("1-10,20", array, |text| text.parse::<proto::job::IndexRanges>().is_ok());
        try_all("0193/7:one_failed", after, |(job, _)| !job.is_empty());
        try_all("LR=0.1", variable, |(key, value)| !key.is_empty() && !value.contains('\0'));
        try_all("rack=b", label, |(key, _)| !key.is_empty());
        try_all("vision", project, |name| !name.is_empty());
        try_all("3.11", python, |version| version.len() <= 7);
    }
}
