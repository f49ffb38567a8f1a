//! Memory that only the start needed is given back: a node is idle most of its life, and a good guest then.
//!
//! Most of what a process has resident is its own program, mapped from the file: pages that the start ran
//! through once. They are dropped from the process's map; what is needed again comes from the page cache, at
//! the price of a minor fault.

use std::fs;
use std::io;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// Gives back the pages of mapped files that the process has not changed. Returns how many bytes were resident.
///
/// # Errors
/// When `/proc/self/smaps` cannot be read, or an advice is refused.
pub fn give_back_program_pages() -> io::Result<u64> {
    let mut bytes = 0;
    for mapping in untouched(&fs::read_to_string("/proc/self/smaps")?) {
        bytes += mapping.resident_bytes;
        let pages = mapping.place;
        // SAFETY: nobody can write to these pages, and none of them differs from its file, so what is read there
        // afterwards is the same bytes, whatever thread runs or reads them meanwhile.
        #[expect(unsafe_code, reason = "an advice names memory by its address")]
        unsafe {
            madvise(std::ptr::with_exposed_provenance_mut(pages.start), pages.len(), Advice::LinuxDontNeed)?;
        }
    }
    Ok(bytes)
}

/// Makes what is resident now the peak of this process. Linux begins the peak of a child with that of the process that
/// started it: without this no job would seem to have used less than the runner once did.
pub fn forget_peak() {
    // Not there in some containers; then small jobs are told larger than they are.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

struct Mapping {
    place: Range<usize>,
    resident_bytes: u64,
}

/// Mappings of files that are not writable and hold no page of the process's own. Relocated data is read-only as well,
/// but its pages are the process's own: they would come back without their relocations.
fn untouched(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current: Option<Mapping> = None;
    for line in smaps.lines() {
        if let Some(place) = head(line) {
            current = place.map(|place| Mapping { place, resident_bytes: 0 });
        } else if let (Some(mapping), Some(kib)) = (&mut current, field(line, "Rss:")) {
            mapping.resident_bytes = kib * 1_024;
        } else if let Some(kib) = field(line, "Anonymous:") {
            found.extend(current.take().filter(|mapping| kib == 0 && mapping.resident_bytes > 0));
        }
    }
    found
}

/// `None`: no first line of a mapping; `Some(None)`: of one that is written to, or has no file.
fn head(line: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let place = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let rights = words.next()?;
    let path = words.nth(3).unwrap_or_default();
    Some(Some(place).filter(|_| matches!(rights, "r-xp" | "r--p") && path.starts_with('/')))
}

fn field(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0-55d8 r--p 00000000 00:1b 1 /usr/bin/fnode\nRss:                  16 kB\nAnonymous:             0 kB\nVmFlags: rd\n\
55d8-55f0 r-xp 00008000 00:1b 1 /usr/bin/fnode\nRss:                   8 kB\nAnonymous:             0 kB\n\
55f0-55f8 r--p 00020000 00:1b 1 /usr/bin/fnode\nRss:                   8 kB\nAnonymous:             8 kB\n\
55f8-5600 rw-p 00028000 00:1b 1 /usr/bin/fnode\nRss:                   8 kB\nAnonymous:             0 kB\n\
5600-5608 r-xp 00000000 00:00 0 [vdso]\nRss:                   4 kB\nAnonymous:             0 kB\n\
5608-5610 r--p 00000000 00:1b 2 /usr/lib/cold.so\nRss:                   0 kB\nAnonymous:             0 kB\n";

    #[test]
    fn only_pages_that_equal_their_file_are_given_back() {
        let places: Vec<(Range<usize>, u64)> =
            untouched(SMAPS).into_iter().map(|mapping| (mapping.place, mapping.resident_bytes)).collect();
        assert_eq!(places, [(0x55d0..0x55d8, 16_384), (0x55d8..0x55f0, 8_192)]);
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        let bytes = give_back_program_pages().expect("Linux lets a process do so");
        assert!(bytes > 0, "this test was resident");
        // Code and constants are read again, relocated ones among them.
        assert_eq!(format!("{:?} {}", ["a", "b"], std::env::args().count() > 0), "[\"a\", \"b\"] true");
    }
}
