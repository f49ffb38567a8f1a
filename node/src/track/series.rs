//! Points of metrics on disk: one file for all series of an attempt, written in chunks of one series each, so that a
//! series is read without the others. A chunk is three columns: steps, times, values.
//!
//! A value is a 64-bit float, because nearly all are. What was told as true, false or text is one of the NaNs that no
//! computation makes (`cell`): numbers cost nothing for it. Texts lie between the chunks, each with its length before it.
//!
//! While the attempt runs its index is in memory; sealing writes it behind the last chunk. The file is made again from
//! the track file after a crash: nothing here is the only copy before it is sealed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use proto::codec::{self, Word};
use proto::track::{Scalar, TEXT_MAX};
use serde::{Deserialize, Serialize};

/// Points of one series that wait in memory before they become a chunk.
const CHUNK_POINTS: usize = 4_096;
/// Points of all series that wait in memory: 24 bytes each.
const WAITING_MAX: usize = 256 << 10;
/// Bytes of one point in a chunk.
const POINT: usize = 24;
/// Series of one attempt; points of further ones are counted as left out.
const SERIES_MAX: usize = 10_000;
/// Bytes of texts and names in one answer: with its numbers it stays within what one node tells another at once.
const PAGE_TEXT_MAX: usize = 96 << 10;
/// What a text or a name takes there beside its own bytes.
const NAME_COST: usize = 16;
/// The length of the index, at the very end of a sealed file.
const TRAILER: u64 = 8;

/// One point of a series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its step, as told or counted from 0.
    pub step: i64,
    /// When, in milliseconds since 1970 by the job's clock.
    pub at_unix_ms: u64,
    /// A number; 1 and 0 for true and false; NaN also for text. What it really was is in [`Page::told`].
    pub value: f64,
}

/// A point as it lies in a chunk.
#[derive(Clone, Copy, Debug)]
struct Cell {
    step: i64,
    at_unix_ms: u64,
    /// See [`cell`].
    bits: u64,
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
    /// Of these, by index, what was told as true, false or text.
    pub told: BTreeMap<u32, Scalar>,
    /// How many points the series has in all.
    pub count: u64,
}

/// Some names of series, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Each with how many points it has.
    pub series: Vec<(String, u64)>,
    /// There are more after the last.
    pub has_more: bool,
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
    tail: Vec<Cell>,
    /// The text told last and its cell: most texts are told again and again.
    text: Option<(String, u64)>,
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
            index.insert(name, Stretch { chunks, count, ..Stretch::default() });
        }
        Ok(Self { file, end, index, waiting: 0 })
    }

    /// Names after `after`, as many as one answer has.
    #[must_use]
    pub fn names_after(&self, after: &str) -> Names {
        let mut names = Names::default();
        let mut bytes = 0;
        for (name, stretch) in self.index.range::<str, _>((Bound::Excluded(after), Bound::Unbounded)) {
            bytes += name.len() + NAME_COST;
            if bytes > PAGE_TEXT_MAX {
                names.has_more = true;
                break;
            }
            names.series.push((name.clone(), stretch.count));
        }
        names
    }

    /// One more point. Whether it was taken: there is a limit on the number of series.
    ///
    /// # Errors
    /// What the system said; a number is in memory all the same.
    pub fn push(&mut self, name: &str, step: i64, at_unix_ms: u64, value: &Scalar) -> io::Result<bool> {
        if !self.index.contains_key(name) {
            if self.index.len() >= SERIES_MAX {
                return Ok(false);
            }
            self.index.insert(name.to_owned(), Stretch::default());
        }
        let stretch = self.index.get_mut(name).expect("inserted above");
        let bits = match value {
            Scalar::Number(number) => cell::of_number(number.get()),
            Scalar::Bool(told) => cell::of_bool(*told),
            Scalar::Text(text) => stretch.write_text(text, &self.file, &mut self.end)?,
        };
        stretch.tail.push(Cell { step, at_unix_ms, bits });
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

    /// As [`Self::page`] or [`Self::first`].
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn cut(&self, name: &str, cut: Cut) -> Result<Option<Page>, SeriesError> {
        let points = cut.points as usize;
        if cut.every { self.first(name, cut.after, points) } else { self.page(name, cut.after, points) }
    }

    /// Points of `name` from number `after` on: all of them when they are at most `points`, else of each of about
    /// `points / 2` equal stretches the lowest and the highest, which keeps every peak; of long texts fewer. `None`: no
    /// such series.
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn page(&self, name: &str, after: u64, points: usize) -> Result<Option<Page>, SeriesError> {
        let Some(stretch) = self.index.get(name) else { return Ok(None) };
        let mut points = points.max(2);
        loop {
            let mut picked = Picker::new(stretch.count.saturating_sub(after), points);
            self.visit(stretch, after, |cell| {
                picked.push(cell);
                true
            })?;
            let page = self.told(stretch, &picked.finish())?;
            // A text or two are always within the limit.
            match page.1 {
                true => return Ok(Some(page.0)),
                false => points = (points / 2).max(2),
            }
        }
    }

    /// Every point of `name` from number `after` on, at most `points`; of long texts fewer, but one. `None`: no such
    /// series.
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn first(&self, name: &str, after: u64, points: usize) -> Result<Option<Page>, SeriesError> {
        let Some(stretch) = self.index.get(name) else { return Ok(None) };
        let mut cells = Vec::new();
        self.visit(stretch, after, |cell| {
            if cells.len() < points {
                cells.push(cell);
            }
            cells.len() < points
        })?;
        Ok(Some(self.told(stretch, &cells)?.0))
    }

    /// Tells `each` the points from number `after` on, until it has enough.
    fn visit(&self, stretch: &Stretch, after: u64, mut each: impl FnMut(Cell) -> bool) -> Result<(), SeriesError> {
        let mut seen = 0;
        let mut bytes = Vec::new();
        for chunk in &stretch.chunks {
            let count = u64::from(chunk.points);
            if seen + count > after {
                bytes.resize(chunk.points as usize * POINT, 0);
                self.file.read_exact_at(&mut bytes, chunk.offset)?;
                if !cells(&bytes).skip(after.saturating_sub(seen) as usize).all(&mut each) {
                    return Ok(());
                }
            }
            seen += count;
        }
        let _ = stretch.tail.iter().skip(after.saturating_sub(seen) as usize).all(|&cell| each(cell));
        Ok(())
    }

    /// What `cells` stand for, as far as their texts go into one answer, and whether that is all.
    fn told(&self, stretch: &Stretch, cells: &[Cell]) -> Result<(Page, bool), SeriesError> {
        let mut page = Page { points: Vec::with_capacity(cells.len()), count: stretch.count, ..Page::default() };
        let mut bytes = 0;
        for (at, cell) in (0..).zip(cells) {
            let told = match cell::told(cell.bits) {
                Told::Number(_) => None,
                Told::Bool(value) => Some(Scalar::Bool(value)),
                Told::Text(offset) => {
                    let text = self.text(offset)?;
                    bytes += text.len() + NAME_COST;
                    if bytes > PAGE_TEXT_MAX && at > 0 {
                        return Ok((page, false));
                    }
                    Some(Scalar::Text(text))
                }
            };
            page.told.extend(told.map(|told| (at, told)));
            let Cell { step, at_unix_ms, bits } = *cell;
            page.points.push(Point { step, at_unix_ms, value: cell::rank(bits) });
        }
        Ok((page, true))
    }

    fn text(&self, offset: u64) -> Result<String, SeriesError> {
        let read = |offset: u64, len: usize| {
            let is_inside = offset.checked_add(len as u64).is_some_and(|last| last <= self.end);
            if !is_inside || len > TEXT_MAX {
                return Err(SeriesError::Damaged);
            }
            let mut bytes = vec![0; len];
            self.file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        };
        let len = read(offset, 2)?.iter().rev().fold(0, |len, &byte| len << 8 | usize::from(byte));
        String::from_utf8(read(offset + 2, len)?).map_err(|_| SeriesError::Damaged)
    }
}

impl Stretch {
    /// Writes `text` down unless it was told just before; returns its cell.
    fn write_text(&mut self, text: &str, file: &File, end: &mut u64) -> io::Result<u64> {
        match &self.text {
            Some((known, bits)) if known == text => Ok(*bits),
            _ => {
                let bytes = [&(text.len() as u16).to_le_bytes(), text.as_bytes()].concat();
                file.write_all_at(&bytes, *end)?;
                let bits = cell::of_text(*end);
                *end += bytes.len() as u64;
                self.text = Some((text.to_owned(), bits));
                Ok(bits)
            }
        }
    }

    fn flush(&mut self, file: &File, end: &mut u64) -> io::Result<()> {
        if self.tail.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(self.tail.len() * POINT);
        self.tail.iter().for_each(|cell| bytes.extend(cell.step.to_le_bytes()));
        self.tail.iter().for_each(|cell| bytes.extend(cell.at_unix_ms.to_le_bytes()));
        self.tail.iter().for_each(|cell| bytes.extend(cell.bits.to_le_bytes()));
        file.write_all_at(&bytes, *end)?;
        self.chunks.push(Chunk { offset: *end, points: u32::try_from(self.tail.len()).unwrap_or(u32::MAX) });
        *end += bytes.len() as u64;
        self.tail = Vec::new();
        Ok(())
    }
}

/// The points of a chunk.
fn cells(bytes: &[u8]) -> impl Iterator<Item = Cell> {
    let (words, _) = bytes.as_chunks::<8>();
    let count = words.len() / 3;
    (0..count).map(move |at| Cell {
        step: i64::from_le_bytes(words[at]),
        at_unix_ms: u64::from_le_bytes(words[count + at]),
        bits: u64::from_le_bytes(words[2 * count + at]),
    })
}

/// What a cell stands for.
#[derive(Debug, PartialEq)]
enum Told {
    Number(f64),
    Bool(bool),
    /// Where the text lies.
    Text(u64),
}

/// Values in 64 bits: a float as it is, anything else as a quiet NaN whose two highest payload bits are set, which no
/// processor makes by itself (IEEE 754-2019, §6.2.1); the next two bits say what it is, the lower 48 where a text lies.
mod cell {
    use super::Told;

    const MARK: u64 = 0x7ffe_0000_0000_0000;
    const MARKED: u64 = 0xfffe_0000_0000_0000;
    const TEXT: u64 = 1 << 48;
    const OFFSET: u64 = TEXT - 1;

    pub(super) fn of_number(value: f64) -> u64 {
        // One NaN for all: whatever payload a program put into its own.
        if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
    }

    pub(super) fn of_bool(value: bool) -> u64 {
        MARK | u64::from(value)
    }

    pub(super) fn of_text(offset: u64) -> u64 {
        MARK | TEXT | offset & OFFSET
    }

    pub(super) fn told(bits: u64) -> Told {
        match (bits & MARKED == MARK, bits & TEXT != 0) {
            (false, _) => Told::Number(f64::from_bits(bits)),
            (true, false) => Told::Bool(bits & 1 == 1),
            (true, true) => Told::Text(bits & OFFSET),
        }
    }

    /// The number by which a point is low or high: 1 and 0 for true and false, NaN for text.
    pub(super) fn rank(bits: u64) -> f64 {
        let value = f64::from_bits(bits);
        if !value.is_nan() {
            return value;
        }
        match told(bits) {
            Told::Bool(value) => f64::from(u8::from(value)),
            _ => f64::NAN,
        }
    }
}

/// Picks the lowest and the highest point of each of some equal stretches.
struct Picker {
    total: u64,
    stretches: u64,
    all: bool,
    at: u64,
    current: u64,
    low: Option<(u64, f64, Cell)>,
    high: Option<(u64, f64, Cell)>,
    picked: Vec<Cell>,
}

impl Picker {
    fn new(total: u64, points: usize) -> Self {
        let all = total <= points as u64;
        let stretches = (points as u64 / 2).max(1);
        Self { total, stretches, all, at: 0, current: 0, low: None, high: None, picked: Vec::new() }
    }

    fn push(&mut self, cell: Cell) {
        if self.all {
            self.picked.push(cell);
            return;
        }
        let stretch = self.at * self.stretches / self.total.max(1);
        if stretch != self.current {
            self.close();
            self.current = stretch;
        }
        let value = cell::rank(cell.bits);
        // A stretch of nothing but NaN shows one: that the training went wrong is what one looks for.
        if self.low.is_none_or(|(_, low, _)| value < low || low.is_nan()) {
            self.low = Some((self.at, value, cell));
        }
        if self.high.is_none_or(|(_, high, _)| value > high || high.is_nan()) {
            self.high = Some((self.at, value, cell));
        }
        self.at += 1;
    }

    fn close(&mut self) {
        match (self.low.take(), self.high.take()) {
            (Some((one, _, low)), Some((other, _, high))) if one != other => {
                let (first, second) = if one < other { (low, high) } else { (high, low) };
                self.picked.extend([first, second]);
            }
            (Some((_, _, only)), _) => self.picked.push(only),
            _ => {}
        }
    }

    fn finish(mut self) -> Vec<Cell> {
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

    fn push(series: &mut Series, name: &str, point: Point) {
        assert!(series.push(name, point.step, point.at_unix_ms, &Scalar::Number(point.value.into())).unwrap());
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
            push(&mut series, "loss", point(at));
            if at % 1_000 == 0 {
                push(&mut series, "rare", point(at));
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
        let names = |after| sealed.names_after(after);
        assert_eq!(names("").series, [("loss".to_owned(), 10_000), ("rare".to_owned(), 10)]);
        assert_eq!((names("loss").series.len(), names("rare").series.len(), names("").has_more), (1, 0, false));
        assert!(sealed.page("none", 0, 10).unwrap().is_none());
    }

    #[test]
    fn a_resolution_keeps_every_peak() {
        let dir = tempfile::tempdir().unwrap();
        let mut series = Series::create(&dir.path().join("series")).unwrap();
        for at in 0..100_000u64 {
            let value = if at == 54_321 { 1e9 } else { at as f64 % 7.0 };
            push(&mut series, "spiky", Point { value, ..point(at) });
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
            push(&mut series, "loss", Point { value, ..point(at) });
        }
        let points = series.page("loss", 0, 10).unwrap().unwrap().points;
        assert!(points.len() <= 10 && points.iter().any(|point| point.value.is_nan()), "{points:?}");
    }

    /// One series of everything that can be told, as it comes back.
    #[test]
    fn text_and_truth_come_back_as_they_were_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("series");
        let mut series = Series::create(&path).unwrap();
        let text = |text: &str| Scalar::Text(text.to_owned());
        let odd = f64::from_bits(0x7fff_0000_0000_0007);
        let told = [
            text("warm"),
            text("warm"),
            Scalar::Bool(true),
            Scalar::Number(0.5.into()),
            Scalar::Number(odd.into()),
            text(""),
            Scalar::Bool(false),
            text(&"ä".repeat(TEXT_MAX / 2)),
            Scalar::Number(f64::NEG_INFINITY.into()),
        ];
        for (step, value) in (0..).zip(&told) {
            assert!(series.push("phase", step, 7, value).unwrap());
        }
        let read = |series: &Series| {
            let page = series.first("phase", 0, 100).unwrap().unwrap();
            let value =
                |(at, point): (u32, &Point)| page.told.get(&at).cloned().unwrap_or(Scalar::Number(point.value.into()));
            (0..).zip(&page.points).map(value).collect::<Vec<_>>()
        };
        let mut expected = told.to_vec();
        expected[4] = Scalar::Number(f64::NAN.into());
        assert_eq!(read(&series), expected, "a NaN with a payload of its own is NaN");
        series.seal().unwrap();
        let sealed = Series::open(File::open(&path).unwrap()).unwrap();
        assert_eq!(read(&sealed), expected);
        let later = sealed.page("phase", 6, 100).unwrap().unwrap();
        assert_eq!((later.told[&0].clone(), later.points[0].value), (Scalar::Bool(false), 0.0));
    }

    #[test]
    fn long_texts_come_in_pages_that_a_node_can_send() {
        let dir = tempfile::tempdir().unwrap();
        let mut series = Series::create(&dir.path().join("series")).unwrap();
        let text = |at: u64| Scalar::Text(format!("{at:0width$}", width = TEXT_MAX));
        (0..1_000).for_each(|at| assert!(series.push("text", at as i64, at, &text(at)).unwrap()));
        let mut seen = 0;
        while seen < 1_000 {
            let page = series.first("text", seen, 5_000).unwrap().unwrap();
            assert!(!page.points.is_empty() && page.points.len() * TEXT_MAX <= PAGE_TEXT_MAX);
            assert_eq!((page.told[&0].clone(), page.count), (text(seen), 1_000));
            seen += page.points.len() as u64;
        }
        let page = series.page("text", 0, 2_000).unwrap().unwrap();
        assert!(page.points.len() > 40 && page.told.len() == page.points.len(), "{}", page.points.len());
        assert!(page.points.is_sorted_by_key(|point| point.step) && page.points.last().unwrap().step > 950);
    }

    #[test]
    fn a_resolution_shows_when_a_truth_value_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut series = Series::create(&dir.path().join("series")).unwrap();
        (0..10_000).for_each(|at| assert!(series.push("ok", at, 0, &Scalar::Bool(at != 5_432)).unwrap()));
        let page = series.page("ok", 0, 100).unwrap().unwrap();
        let place = page.points.iter().position(|point| point.step == 5_432).unwrap();
        assert_eq!(page.told[&(place as u32)], Scalar::Bool(false));
    }

    #[test]
    fn names_come_in_pages() {
        let dir = tempfile::tempdir().unwrap();
        let mut series = Series::create(&dir.path().join("series")).unwrap();
        let name = |at: u64| format!("{at:0>250}");
        (0..1_000).for_each(|at| push(&mut series, &name(at), point(at)));
        let (mut all, mut has_more): (Vec<(String, u64)>, _) = (Vec::new(), true);
        while has_more {
            let page = series.names_after(all.last().map_or("", |(name, _)| name));
            assert!(page.series.len() * 250 < PAGE_TEXT_MAX);
            all.extend(page.series);
            has_more = page.has_more;
        }
        assert_eq!(all, (0..1_000).map(|at| (name(at), 1)).collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("series");
        let mut series = Series::create(&path).unwrap();
        (0..100).for_each(|at| push(&mut series, "loss", point(at)));
        series.seal().unwrap();
        let sound = std::fs::read(&path).unwrap();
        for len in 0..sound.len() {
            std::fs::write(&path, &sound[..len]).unwrap();
            assert!(Series::open(File::open(&path).unwrap()).is_err(), "cut at {len}");
        }
        // Texts are looked for where the points say: they may lie, too.
        for offset in [sound.len() as u64, u64::MAX >> 20] {
            let mut series = Series::create(&path).unwrap();
            push(&mut series, "loss", point(0));
            series.index.get_mut("loss").unwrap().tail[0].bits = cell::of_text(offset);
            series.seal().unwrap();
            let read = Series::open(File::open(&path).unwrap()).unwrap().page("loss", 0, 10);
            assert!(matches!(read, Err(SeriesError::Damaged)), "{read:?}");
        }
    }
}
