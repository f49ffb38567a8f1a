//! What a decoder must withstand: bytes cut anywhere, with a flipped bit, with a tail, made up by chance, or with a
//! length in them that nobody can have meant. It may refuse or, where a changed byte still makes sense, accept;
//! it must not panic, take a longer or shorter text for the word, or claim memory that the bytes do not call for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Seeds of made-up bytes.
const SEEDS: std::ops::Range<u64> = 0..300;
/// Words longer than this are cut and changed at that many places, spread evenly.
pub(crate) const PLACES_MAX: usize = 1_500;
/// One allocation may have so many bytes, whatever a length says: serde's own first step for a list is 1 MiB.
const CLAIM_MAX: usize = 3 << 19;
/// Lengths as bincode and our frames write them, each far beyond what follows.
const LENGTHS: [&[u8]; 8] = [
    &[251, 0xff, 0xff],
    &[252, 0xff, 0xff, 0xff, 0xff],
    &[252, 0xff, 0xff, 0xff, 0x03],
    &[252, 0x00, 0x00, 0x80, 0x00],
    &[253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[253, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0x0f, 0x00],
];

/// Remembers the largest block that this thread asked for.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static WATCHED: Watched = Watched;

impl Watched {
    fn note(size: usize) {
        // A thread that ends has no cell any more, and needs none.
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
    }
}

/// Bytes that are being decoded: a panic inside of a decoder does not tell them.
struct Suspect<'a>(&'a [u8]);

impl Drop for Suspect<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("while decoding {}", hex(self.0));
        }
    }
}

#[expect(unsafe_code, reason = "only the allocator knows what a decoder claims")]
// SAFETY: every call is handed on to the system's allocator as it came; the note allocates nothing.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note(size);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Attacks the decoder of `word`, which takes `good`; `takes` tells whether it accepts what it is given.
pub(crate) fn attack(word: &str, good: &[u8], takes: impl Fn(&[u8]) -> bool) {
    let told = |bytes: &[u8]| format!("{word}: {}", hex(bytes));
    let tried = |bytes: &[u8]| {
        LARGEST.set(0);
        let taken = takes(bytes);
        let claimed = LARGEST.get();
        assert!(claimed <= CLAIM_MAX + 4 * bytes.len(), "claims {claimed} bytes: {}", told(bytes));
        taken
    };
    assert!(tried(good), "refuses its own bytes: {}", told(good));
    for at in places(good.len(), PLACES_MAX) {
        assert!(!tried(&good[..at]), "takes bytes that are cut at {at}: {}", told(good));
    }
    for tail in [&[0][..], &[0xff], b"\n\n", &good[..good.len().min(64)]] {
        if !tail.is_empty() {
            assert!(!tried(&[good, tail].concat()), "takes a tail {tail:?}: {}", told(good));
        }
    }
    shake(good, PLACES_MAX, |bytes| {
        tried(bytes);
    });
}

/// The same where cut or longer bytes may still have a meaning: only panics and memory are watched. A decoder that
/// reads a file is given fewer places, because every one costs some twenty files.
pub(crate) fn attack_loosely(word: &str, good: &[u8], places_max: usize, takes: impl Fn(&[u8]) -> bool) {
    assert!(takes(good), "{word} refuses {}", hex(good));
    shake(good, places_max, |bytes| {
        LARGEST.set(0);
        takes(bytes);
        let claimed = LARGEST.get();
        assert!(claimed <= CLAIM_MAX + 64 * bytes.len(), "{word} claims {claimed} bytes: {}", hex(bytes));
    });
}

/// Hands out everything that is made of `good` by changing it, and bytes that have nothing to do with it.
fn shake(good: &[u8], places_max: usize, mut use_on: impl FnMut(&[u8])) {
    let mut hand_out = |bytes: &[u8]| {
        let _suspect = Suspect(bytes);
        use_on(bytes);
    };
    for at in places(good.len(), places_max) {
        let mut flipped = good.to_vec();
        flipped[at] ^= 1 << (at % 8);
        hand_out(&flipped);
        for length in LENGTHS {
            hand_out(&[&good[..at], length, &good[at..]].concat());
            hand_out(&[&good[..at], length].concat());
            hand_out(&[&good[..at], length, &good[at + 1..]].concat());
            let rest = good.get(at + length.len()..).unwrap_or_default();
            hand_out(&[&good[..at], length, rest].concat());
        }
    }
    for seed in SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let kept = rng.random_range(0..=good.len().min(64));
        let tail: Vec<u8> = (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
        hand_out(&tail);
        hand_out(&[&good[..kept], &tail].concat());
    }
}

fn places(len: usize, places_max: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(len.div_ceil(places_max).max(1))
}

fn hex(bytes: &[u8]) -> String {
    let shown: String = bytes.iter().take(120).map(|byte| format!("{byte:02x}")).collect();
    format!("{shown} ({} bytes)", bytes.len())
}

#[test]
fn a_decoder_without_manners_is_caught() {
    let caught = |takes: fn(&[u8]) -> bool| std::panic::catch_unwind(|| attack("word", &[3, 1, 2, 3], takes)).is_err();
    let whole = |bytes: &[u8]| bytes.first().is_some_and(|&len| bytes.len() == usize::from(len) + 1);
    assert!(!caught(whole));
    assert!(caught(|bytes| !bytes.is_empty()), "cut bytes");
    assert!(caught(|bytes| bytes.len() >= 4), "a tail");
    assert!(caught(|bytes| bytes[0] == 3), "a panic at no bytes");
    assert!(caught(|bytes| {
        let claims = bytes.first().is_some_and(|&len| len == 0xff);
        let claimed = vec![0_u8; if claims { 64 << 20 } else { 1 }];
        claimed.is_empty() || bytes == [3, 1, 2, 3]
    }));
}
