//! The data directory, its disk, and how long that takes to make a write durable.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::ByteSize;

use super::{Context, Verdict};
use crate::exec::inventory::machine::disk_free;

/// Below this nothing of size can be accepted.
const SPACE_FAIL: ByteSize = ByteSize(1 << 30);
/// One environment with a deep-learning framework takes some 6 GB.
const SPACE_WARN: ByteSize = ByteSize(10 << 30);
/// A submission waits for one of these; people notice from about here.
const SYNC_WARN: Duration = Duration::from_millis(30);
const SYNCS: usize = 15;
const SYNC_BUDGET: Duration = Duration::from_secs(1);

/// Numbers of file systems, from the kernel's `magic.h`.
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;
const NETWORK: [(i64, &str); 4] = [(0x6969, "NFS"), (0xff53_4d42, "CIFS"), (0xfe53_4d42, "SMB"), (0x0102_1997, "9P")];

pub(super) fn directory(context: &Context) -> Verdict {
    let shown = context.home.display();
    let place = match existing(&context.home) {
        Some(place) if place.is_dir() => place,
        _ => return Verdict::fail(format!("{shown} is not a directory"), "choose another with --home"),
    };
    if let Err(error) = tempfile::NamedTempFile::new_in(&place) {
        let remedy = format!("make {} writable for this user, or choose another with --home", place.display());
        return Verdict::fail(format!("{shown} cannot be written: {error}"), remedy);
    }
    match file_system(&place) {
        Some(TMPFS | RAMFS) => Verdict::warn(
            format!("{shown} is in memory: a restart of this machine loses its jobs, its files use up memory"),
            "choose a directory on a disk with --home",
        ),
        Some(kind) if NETWORK.iter().any(|(number, _)| *number == kind) => {
            let name = NETWORK.iter().find(|(number, _)| *number == kind).map_or("", |(_, name)| name);
            let finding =
                format!("{shown} is on {name}, a network file system: slow to sync, and a hang of its server");
            Verdict::warn(finding + " stops this node", "choose a directory on a local disk with --home")
        }
        _ => Verdict::ok(format!("{shown} is writable")),
    }
}

pub(super) fn space(context: &Context) -> Verdict {
    let free = disk_free(&context.home);
    let finding = format!("{free} free for {}", context.home.display());
    let remedy = "make room (fnode gc), or choose another disk with --home";
    if free < SPACE_FAIL {
        Verdict::fail(finding, remedy)
    } else if free < SPACE_WARN {
        Verdict::warn(finding + "; one Python environment can take 6 GB", remedy)
    } else {
        Verdict::ok(finding)
    }
}

pub(super) fn sync(context: &Context) -> Verdict {
    let Some(place) = existing(&context.home) else { return Verdict::skipped("there is no directory to try it in") };
    match median_sync(&place) {
        Err(error) => Verdict::skipped(format!("{} cannot be written: {error}", place.display())),
        Ok(median) => {
            let finding = format!("a write is durable after {:.1} ms (fdatasync, median)", median.as_secs_f64() * 1e3);
            if median > SYNC_WARN {
                let remedy =
                    "each submission waits for one: choose a faster disk with --home, or look what keeps this busy";
                Verdict::warn(finding, remedy)
            } else {
                Verdict::ok(finding)
            }
        }
    }
}

/// `path`, or its nearest ancestor that exists.
fn existing(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|path| path.exists()).map(Path::to_path_buf)
}

fn file_system(path: &Path) -> Option<i64> {
    rustix::fs::statfs(path).ok().map(|stat| stat.f_type)
}

fn median_sync(dir: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    let start = Instant::now();
    let mut times = Vec::with_capacity(SYNCS);
    while times.len() < SYNCS && start.elapsed() < SYNC_BUDGET {
        let before = Instant::now();
        // Appended, as the journal is: the file's length has to become durable too.
        file.write_all(&[0; 4096])?;
        rustix::fs::fdatasync(file.as_file())?;
        times.push(before.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_home_that_is_a_file_or_below_one_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for home in [file.path().to_path_buf(), file.path().join("below")] {
            assert_eq!(directory(&Context::new(&home, 0, false)).state, State::Fail);
        }
    }

    #[test]
    fn a_home_that_does_not_exist_yet_is_judged_by_where_it_would_be() {
        let dir = tempfile::tempdir().unwrap();
        let context = Context::new(&dir.path().join("not/yet"), 0, false);
        assert!(matches!(directory(&context).state, State::Ok | State::Warn));
        assert!(sync(&context).finding.contains("ms"));
        assert!(!dir.path().join("not").exists());
    }

    #[test]
    fn a_home_in_memory_is_told() {
        if file_system(Path::new("/dev/shm")) != Some(TMPFS) {
            eprintln!("skipped: /dev/shm is no tmpfs here");
            return;
        }
        let verdict = directory(&Context::new(Path::new("/dev/shm/fnode"), 0, false));
        assert!(verdict.state == State::Warn && verdict.finding.contains("in memory"), "{verdict:?}");
    }
}
