//! What happened: a digest of all of it, which proves that a seed repeats, and the last lines for people.

use std::collections::VecDeque;
use std::fmt;

use proto::ContentId;

/// The story of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    digest: ContentId,
    lines: VecDeque<String>,
    lines_max: usize,
}

impl Trace {
    /// Keeps the last `lines_max` lines. With 0 none is made: they cost more than the run itself.
    pub(crate) fn new(lines_max: usize) -> Self {
        Self { digest: ContentId([0; 32]), lines: VecDeque::new(), lines_max }
    }

    /// Takes numbers into the digest.
    pub(crate) fn mix(&mut self, numbers: &[u64]) {
        let mut bytes = Vec::with_capacity(32 + numbers.len() * 8);
        bytes.extend_from_slice(&self.digest.0);
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        self.digest = ContentId::of(&bytes);
    }

    /// Takes bytes into the digest.
    pub(crate) fn mix_bytes(&mut self, bytes: &[u8]) {
        self.digest = ContentId::of(&[&self.digest.0, bytes].concat());
    }

    pub(crate) fn digest(&self) -> ContentId {
        self.digest
    }

    /// A line for people.
    pub(crate) fn tell(&mut self, now_us: u64, what: impl FnOnce() -> String) {
        if self.lines_max == 0 {
            return;
        }
        if self.lines.len() >= self.lines_max {
            self.lines.pop_front();
        }
        let line = format!("{:>6}.{:06} s  {}", now_us / 1_000_000, now_us % 1_000_000, what());
        self.lines.push_back(line);
    }

    pub(crate) fn is_told(&self) -> bool {
        self.lines_max > 0
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
