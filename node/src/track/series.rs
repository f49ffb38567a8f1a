//! Points of metrics on disk: one file for all series of an attempt, written in chunks of one series each, so that a
//! series is read without the others. A chunk is three columns: steps, times, values.
//!
//! While the attempt runs its index is in memory; sealing writes it behind the last chunk. The file is made again from
//! the track file after a crash: nothing here is the only copy before it is sealed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use proto::codec::{self, Word};
use serde::{Deserialize, Serialize};

/// Points of one series that wait in memory before they become a chunk.
const CHUNK_POINTS: usize = 4_096;
/// Points of all series that wait in memory: 24 bytes each.
const WAITING_MAX: usize = 256 << 10;
/// Bytes of one point in a chunk.
const POINT: usize = 24;
/// Series of one attempt; points of further ones are counted as left out.
const SERIES_MAX: usize = 10_000;
/// The length of the index, at the very end of a sealed file.
const TRAILER: u64 = 8;

/// One point of a series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its step, as told or counted from 0.
    pub step: i64,
    /// When, in milliseconds since 1970 by the job's clock.
    pub at_unix_ms: u64,
    /// A number; 1 and 0 for true and false; NaN also for text.
    pub value: f64,
}

/// Which points of a series are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Those after the first so many.
    pub after: u64,
    /// At most so many.
    pub points: u32,
    /// Every point, the first so many; else so many that show the whole.
    pub every: bool,
}

/// Part of a series.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// In order of telling: all that were asked for, or of each stretch the lowest and the highest.
    pub points: Vec<Point>,
    /// How many points the series has in all.
    pub count: u64,
}

/// Why a series cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// The system refused.
    #[error("cannot read points: {0}")]
    Io(#[from] io::Error),
    /// The file is not what it should be.
    #[error("the file of points is damaged")]
    Damaged,
}

/// All series of one attempt.
#[derive(Debug)]
pub struct Series {
    file: File,
    end: u64,
    index: BTreeMap<String, Stretch>,
    waiting: usize,
}

/// One series.
#[derive(Debug, Default)]
struct Stretch {
    chunks: Vec<Chunk>,
    count: u64,
    tail: Vec<Point>,
}

/// Where some points of a series lie.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Chunk {
    offset: u64,
    points: u32,
}

/// The index at the end of a sealed file.
#[derive(Debug, Serialize, Deserialize)]
struct Index(BTreeMap<String, Vec<Chunk>>);

impl Word for Index {
    const KIND: u16 = 45;
}

impl Series {
    /// An empty file at `path`; what was there is gone.
    ///
    /// # Errors
    /// What the system said.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Self { file, end: 0, index: BTreeMap::new(), waiting: 0 })
    }

    /// A sealed file.
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn open(file: File) -> Result<Self, SeriesError> {
        let len = file.metadata()?.len();
        let mut trailer = [0; TRAILER as usize];
        let at = len.checked_sub(TRAILER).ok_or(SeriesError::Damaged)?;
        file.read_exact_at(&mut trailer, at)?;
        let end = at.checked_sub(u64::from_le_bytes(trailer)).ok_or(SeriesError::Damaged)?;
        let mut bytes = vec![0; usize::try_from(at - end).map_err(|_| SeriesError::Damaged)?];
        file.read_exact_at(&mut bytes, end)?;
        let Index(chunks) = codec::decode(&bytes).map_err(|_| SeriesError::Damaged)?;
        let mut index = BTreeMap::new();
        for (name, chunks) in chunks {
            let fits = |chunk: &Chunk| {
                chunk.offset.checked_add(u64::from(chunk.points) * POINT as u64).is_some_and(|last| last <= end)
            };
            if !chunks.iter().all(fits) {
                return Err(SeriesError::Damaged);
            }
            let count = chunks.iter().map(|chunk| u64::from(chunk.points)).sum();
            index.insert(name, Stretch { chunks, count, tail: Vec::new() });
        }
        Ok(Self { file, end, index, waiting: 0 })
    }

    /// Names of all series, with how many points each has.
    pub fn names(&self) -> impl Iterator<Item = (&str, u64)> {
        self.index.iter().map(|(name, stretch)| (name.as_str(), stretch.count))
    }

    /// One more point. Whether it was taken: there is a limit on the number of series.
    ///
    /// # Errors
    /// What the system said; the point is in memory all the same.
    pub fn push(&mut self, name: &str, point: Point) -> io::Result<bool> {
        if !self.index.contains_key(name) {
            if self.index.len() >= SERIES_MAX {
                return Ok(false);
            }
            self.index.insert(name.to_owned(), Stretch::default());
        }
        let stretch = self.index.get_mut(name).expect("inserted above");
        stretch.tail.push(point);
        stretch.count += 1;
        self.waiting += 1;
        if stretch.tail.len() >= CHUNK_POINTS {
            self.waiting -= stretch.tail.len();
            stretch.flush(&self.file, &mut self.end)?;
        }
        if self.waiting >= WAITING_MAX {
            self.flush()?;
        }
        Ok(true)
    }

    fn flush(&mut self) -> io::Result<()> {
        for stretch in self.index.values_mut() {
            stretch.flush(&self.file, &mut self.end)?;
        }
        self.waiting = 0;
        Ok(())
    }

    /// Writes what waits, and the index: the file can be opened by [`Self::open`] then.
    ///
    /// # Errors
    /// What the system said.
    pub fn seal(&mut self) -> io::Result<()> {
        self.flush()?;
        let chunks = self.index.iter().map(|(name, stretch)| (name.clone(), stretch.chunks.clone())).collect();
        let mut bytes = codec::encode(&Index(chunks));
        bytes.extend((bytes.len() as u64).to_le_bytes());
        self.file.write_all_at(&bytes, self.end)
    }

    /// Points of `name` from number `after` on: all of them when they are at most `points`, else of each of about
    /// `points / 2` equal stretches the lowest and the highest, which keeps every peak. `None`: no such series.
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn page(&self, name: &str, after: u64, points: usize) -> Result<Option<Page>, SeriesError> {
        let Some(stretch) = self.index.get(name) else { return Ok(None) };
        let mut picked = Picker::new(stretch.count.saturating_sub(after), points.max(2));
        let mut seen = 0;
        let mut bytes = Vec::new();
        for chunk in &stretch.chunks {
            let count = u64::from(chunk.points);
            if seen + count > after {
                bytes.resize(chunk.points as usize * POINT, 0);
                self.file.read_exact_at(&mut bytes, chunk.offset)?;
                let skip = after.saturating_sub(seen) as usize;
                columns(&bytes).skip(skip).for_each(|point| picked.push(point));
            }
            seen += count;
        }
        let skip = after.saturating_sub(seen) as usize;
        stretch.tail.iter().skip(skip).for_each(|&point| picked.push(point));
        Ok(Some(Page { points: picked.finish(), count: stretch.count }))
    }
}

impl Series {
    /// As [`Self::page`] or [`Self::first`].
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn cut(&self, name: &str, cut: Cut) -> Result<Option<Page>, SeriesError> {
        let points = cut.points as usize;
        if cut.every { self.first(name, cut.after, points) } else { self.page(name, cut.after, points) }
    }

    /// Every point of `name` from number `after` on, at most `points`. `None`: no such series.
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn first(&self, name: &str, after: u64, points: usize) -> Result<Option<Page>, SeriesError> {
        let Some(stretch) = self.index.get(name) else { return Ok(None) };
        let mut page = Page { points: Vec::new(), count: stretch.count };
        let mut seen = 0;
        let mut bytes = Vec::new();
        for chunk in &stretch.chunks {
            let count = u64::from(chunk.points);
            if seen + count > after && page.points.len() < points {
                bytes.resize(chunk.points as usize * POINT, 0);
                self.file.read_exact_at(&mut bytes, chunk.offset)?;
                let skip = after.saturating_sub(seen) as usize;
                page.points.extend(columns(&bytes).skip(skip).take(points - page.points.len()));
            }
            seen += count;
        }
        let skip = after.saturating_sub(seen) as usize;
        page.points.extend(stretch.tail.iter().skip(skip).take(points - page.points.len()));
        Ok(Some(page))
    }
}

impl Stretch {
    fn flush(&mut self, file: &File, end: &mut u64) -> io::Result<()> {
        if self.tail.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(self.tail.len() * POINT);
        self.tail.iter().for_each(|point| bytes.extend(point.step.to_le_bytes()));
        self.tail.iter().for_each(|point| bytes.extend(point.at_unix_ms.to_le_bytes()));
        self.tail.iter().for_each(|point| bytes.extend(point.value.to_le_bytes()));
        file.write_all_at(&bytes, *end)?;
        self.chunks.push(Chunk { offset: *end, points: u32::try_from(self.tail.len()).unwrap_or(u32::MAX) });
        *end += bytes.len() as u64;
        self.tail = Vec::new();
        Ok(())
    }
}

/// The points of a chunk.
fn columns(bytes: &[u8]) -> impl Iterator<Item = Point> {
    let (words, _) = bytes.as_chunks::<8>();
    let count = words.len() / 3;
    (0..count).map(move |at| Point {
        step: i64::from_le_bytes(words[at]),
        at_unix_ms: u64::from_le_bytes(words[count + at]),
        value: f64::from_le_bytes(words[2 * count + at]),
    })
}

/// Picks the lowest and the highest point of each of some equal stretches.
struct Picker {
    total: u64,
    stretches: u64,
    all: bool,
    at: u64,
    current: u64,
    low: Option<(u64, Point)>,
    high: Option<(u64, Point)>,
    picked: Vec<Point>,
}

impl Picker {
    fn new(total: u64, points: usize) -> Self {
        let all = total <= points as u64;
        let stretches = (points as u64 / 2).max(1);
        Self { total, stretches, all, at: 0, current: 0, low: None, high: None, picked: Vec::new() }
    }

    fn push(&mut self, point: Point) {
        if self.all {
            self.picked.push(point);
            return;
        }
        let stretch = self.at * self.stretches / self.total.max(1);
        if stretch != self.current {
            self.close();
            self.current = stretch;
        }
        // A stretch of nothing but NaN shows one: that the training went wrong is what one looks for.
        if self.low.is_none_or(|(_, low)| point.value < low.value || low.value.is_nan()) {
            self.low = Some((self.at, point));
        }
        if self.high.is_none_or(|(_, high)| point.value > high.value || high.value.is_nan()) {
            self.high = Some((self.at, point));
        }
        self.at += 1;
    }

    fn close(&mut self) {
        match (self.low.take(), self.high.take()) {
            (Some((one, low)), Some((other, high))) if one != other => {
                let (first, second) = if one < other { (low, high) } else { (high, low) };
                self.picked.extend([first, second]);
            }
            (Some((_, only)), _) => self.picked.push(only),
            _ => {}
        }
    }

    fn finish(mut self) -> Vec<Point> {
        self.close();
        self.picked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::golden::{Sample, check};

    #[test]
    fn golden_index() {
        let index = Index(BTreeMap::from([("loss".to_owned(), vec![Chunk { offset: 98_304, points: 4_096 }])]));
        check("track.Index", &[Sample::new("one chunk of one series", &index, codec::encode(&index))]);
    }

    fn point(at: u64) -> Point {
        Point { step: at as i64, at_unix_ms: at * 10, value: (at as f64 / 100.0).sin() }
    }

    #[test]
    fn points_come_back_before_and_after_the_seal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("series");
        let mut series = Series::create(&path).unwrap();
        for at in 0..10_000 {
            series.push("loss", point(at)).unwrap();
            if at % 1_000 == 0 {
                series.push("rare", point(at)).unwrap();
            }
        }
        let live = series.page("loss", 0, usize::MAX).unwrap().unwrap();
        assert_eq!((live.count, live.points.len(), live.points[9_999]), (10_000, 10_000, point(9_999)));
        assert_eq!(series.page("loss", 9_998, 100).unwrap().unwrap().points, [point(9_998), point(9_999)]);
        let all = |series: &Series| {
            let (mut all, mut pages) = (Vec::new(), 0);
            while all.len() < 10_000 {
                let page = series.first("loss", all.len() as u64, 3_333).unwrap().unwrap();
                assert_eq!(page.count, 10_000);
                all.extend(page.points);
                pages += 1;
            }
            (all, pages)
        };
        assert_eq!(all(&series), (live.points.clone(), 4), "page by page, every point");
        series.seal().unwrap();
        let sealed = Series::open(File::open(&path).unwrap()).unwrap();
        assert_eq!(all(&sealed).0, live.points);
        assert!(sealed.first("loss", 10_000, 5).unwrap().unwrap().points.is_empty());
        assert_eq!(sealed.page("loss", 0, usize::MAX).unwrap().unwrap(), live);
        assert_eq!(sealed.names().collect::<Vec<_>>(), [("loss", 10_000), ("rare", 10)]);
        assert!(sealed.page("none", 0, 10).unwrap().is_none());
    }

    #[test]
    fn a_resolution_keeps_every_peak() {
        let dir = tempfile::tempdir().unwrap();
        let mut series = Series::create(&dir.path().join("series")).unwrap();
        for at in 0..100_000u64 {
            let value = if at == 54_321 { 1e9 } else { at as f64 % 7.0 };
            series.push("spiky", Point { value, ..point(at) }).unwrap();
        }
        let page = series.page("spiky", 0, 2_000).unwrap().unwrap();
        assert_eq!((page.count, page.points.len()), (100_000, 2_000));
        assert!(page.points.iter().any(|point| point.step == 54_321));
        assert!(page.points.is_sorted_by_key(|point| point.step));
    }

    #[test]
    fn a_stretch_of_nan_shows_itself() {
        let dir = tempfile::tempdir().unwrap();
        let mut series = Series::create(&dir.path().join("series")).unwrap();
        for at in 0..1_000u64 {
            let value = if at < 500 { 1.0 } else { f64::NAN };
            series.push("loss", Point { value, ..point(at) }).unwrap();
        }
        let points = series.page("loss", 0, 10).unwrap().unwrap().points;
        assert!(points.len() <= 10 && points.iter().any(|point| point.value.is_nan()), "{points:?}");
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("series");
        let mut series = Series::create(&path).unwrap();
        (0..100).for_each(|at| assert!(series.push("loss", point(at)).unwrap()));
        series.seal().unwrap();
        let sound = std::fs::read(&path).unwrap();
        for len in 0..sound.len() {
            std::fs::write(&path, &sound[..len]).unwrap();
            assert!(Series::open(File::open(&path).unwrap()).is_err(), "cut at {len}");
        }
    }
}
