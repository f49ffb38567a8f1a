//! One track file, from its first line to its seal: read as it grows, from the beginning again after a restart.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use proto::track::{ArtifactNote, MetricSummary, SYSTEM_PREFIX, Scalar, Summary};

use super::line::{LINE_MAX, Line, parse};
use super::series::{Cut, Names, Page, Series, SeriesError};

/// Bytes read at a time.
const BLOCK: usize = 256 << 10;
/// Bytes taken in one [`Reader::read`]: others wait for the same threads.
const TURN_MAX: usize = 8 << 20;
/// Nothing is read beyond this: a job that writes more does not track, it floods.
const FILE_MAX: u64 = 8 << 30;

/// A tag that the job put on or took off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagChange {
    /// Which.
    pub key: String,
    /// `None`: taken off.
    pub value: Option<String>,
}

/// The code that a script which is no child of the runner said it ended with: among its last lines, whatever came
/// before. `None`: it did not say.
///
/// # Errors
/// What the system said.
pub fn last_exit(track: &Path) -> io::Result<Option<i32>> {
    let mut file = File::open(track)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(2 * LINE_MAX as u64)))?;
    let mut bytes = Vec::new();
    file.take(2 * LINE_MAX as u64).read_to_end(&mut bytes)?;
    Ok(bytes.rsplit(|&byte| byte == b'\n').find_map(|line| match parse(line) {
        Some(Line::Exit(code)) => Some(code),
        _ => None,
    }))
}

/// Reads one track file.
#[derive(Debug)]
pub struct Reader {
    track: PathBuf,
    series_path: PathBuf,
    series: Option<Series>,
    offset: u64,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
    /// That line is too long already; its end is looked for.
    is_skipping: bool,
    summary: Summary,
    tags: Vec<TagChange>,
    artifacts_changed: bool,
    has_news: bool,
}

/// What a track file held in the end.
#[derive(Debug)]
pub struct Sealed {
    /// For the log.
    pub summary: Summary,
    /// Since they were taken last.
    pub tags: Vec<TagChange>,
    /// The sealed file of points, if there are any.
    pub series: Option<PathBuf>,
}

impl Reader {
    /// Reads `track`, which need not exist yet, into a file of points at `series`.
    #[must_use]
    pub fn new(track: &Path, series: &Path) -> Self {
        Self {
            track: track.to_owned(),
            series_path: series.to_owned(),
            series: None,
            offset: 0,
            rest: Vec::new(),
            is_skipping: false,
            summary: Summary::default(),
            tags: Vec::new(),
            artifacts_changed: false,
            has_news: false,
        }
    }

    /// Takes what was written since the last time, up to a limit. Returns whether there was anything.
    ///
    /// # Errors
    /// What the system said; a later call goes on.
    pub fn read(&mut self) -> io::Result<bool> {
        let mut file = match File::open(&self.track) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let len = file.metadata()?.len().min(FILE_MAX);
        if len <= self.offset {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut left = usize::try_from(len - self.offset).unwrap_or(usize::MAX).min(TURN_MAX);
        let mut block = vec![0; BLOCK.min(left)];
        while left > 0 {
            let want = block.len().min(left);
            let count = file.read(&mut block[..want])?;
            if count == 0 {
                break;
            }
            self.offset += count as u64;
            left -= count;
            self.take(&block[..count])?;
        }
        Ok(true)
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, after) = bytes.split_at(end);
            bytes = &after[1..];
            if std::mem::take(&mut self.is_skipping) {
                self.rest.clear();
            } else if self.rest.is_empty() {
                self.on_line(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.on_line(&whole)?;
            }
        }
        if self.rest.len() + bytes.len() > LINE_MAX {
            self.is_skipping = true;
            self.rest.clear();
            self.summary.left_out = self.summary.left_out.saturating_add(1);
        } else if !self.is_skipping {
            self.rest.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn on_line(&mut self, line: &[u8]) -> io::Result<()> {
        // An empty line ends one that a full disk had cut off.
        if line.is_empty() {
            return Ok(());
        }
        let word = parse(line);
        // What the node itself has read is told in the end: it is seen in the points until then.
        self.has_news |= !matches!(&word, Some(Line::Reading { .. }));
        let summary = &mut self.summary;
        match word {
            // A job that could tell these could pass for the node.
            Some(Line::Metric { key, .. }) if key.starts_with(SYSTEM_PREFIX) => {
                summary.reserved = summary.reserved.saturating_add(1);
            }
            Some(Line::Reading { key, value, at_unix_ms }) => {
                return self.on_metric(key, Scalar::Number(value.into()), None, at_unix_ms);
            }
            Some(Line::Metric { key, value, step, at_unix_ms }) => return self.on_metric(key, value, step, at_unix_ms),
            Some(Line::Param(key, value)) => drop(summary.params.insert(key, value)),
            Some(Line::InputParams(value)) => summary.input_params = value,
            Some(Line::Tag(key, value)) => self.tags.push(TagChange { key, value: Some(value) }),
            Some(Line::Untag(key)) => self.tags.push(TagChange { key, value: None }),
            Some(Line::Artifact(key, file, mime)) => self.on_artifact(key, file, mime, false),
            Some(Line::Directory(key, directory)) => self.on_artifact(key, directory, String::new(), true),
            Some(Line::Record(record)) => summary.record = record,
            Some(Line::Error(error)) => summary.error = Some(error),
            // Whoever attends the process looks for it: `last_exit`.
            Some(Line::Exit(_)) => {}
            None => summary.left_out = summary.left_out.saturating_add(1),
        }
        Ok(())
    }

    fn on_metric(&mut self, key: String, value: Scalar, step: Option<i64>, at_unix_ms: u64) -> io::Result<()> {
        let known = self.summary.metrics.get_mut(&key);
        let step = step.unwrap_or_else(|| known.as_ref().map_or(0, |known| known.step.saturating_add(1)));
        let series = match &mut self.series {
            Some(series) => series,
            None => self.series.insert(Series::create(&self.series_path)?),
        };
        if !series.push(&key, step, at_unix_ms, &value)? {
            self.summary.left_out = self.summary.left_out.saturating_add(1);
            return Ok(());
        }
        match known {
            Some(known) => known.push(value, step, at_unix_ms),
            None => drop(self.summary.metrics.insert(key, MetricSummary::of(value, step, at_unix_ms))),
        }
        Ok(())
    }

    fn on_artifact(&mut self, key: String, file: String, mime: String, is_directory: bool) {
        // What a job names is looked for below its own artifacts and nowhere else.
        let is_inside = !file.is_empty() && !file.starts_with('/') && !file.split('/').any(|part| part == "..");
        if is_inside {
            self.artifacts_changed = true;
            self.summary.artifacts.insert(key.clone(), ArtifactNote { key, file, mime, is_directory });
        } else {
            self.summary.left_out = self.summary.left_out.saturating_add(1);
        }
    }

    /// What was told so far.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Tags that changed since they were taken last, in order.
    pub fn take_tags(&mut self) -> Vec<TagChange> {
        std::mem::take(&mut self.tags)
    }

    /// Whether the job told anything since this was asked last.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Whether artifacts were named since this was asked last.
    pub fn take_artifacts_changed(&mut self) -> bool {
        std::mem::take(&mut self.artifacts_changed)
    }

    /// Points of one series; see [`Series::cut`].
    ///
    /// # Errors
    /// [`SeriesError`].
    pub fn page(&self, name: &str, cut: Cut) -> Result<Option<Page>, SeriesError> {
        self.series.as_ref().map_or(Ok(None), |series| series.cut(name, cut))
    }

    /// Names of series after `after`; see [`Series::names_after`].
    #[must_use]
    pub fn names_after(&self, after: &str) -> Names {
        self.series.as_ref().map(|series| series.names_after(after)).unwrap_or_default()
    }

    /// Reads the rest and seals the points. The track file is not looked at any more.
    ///
    /// # Errors
    /// What the system said.
    pub fn seal(mut self) -> io::Result<Sealed> {
        while self.read()? {}
        // A last line without its end: the writer was killed between two bytes of it, or is none of ours.
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.on_line(&rest)?;
        }
        let series = match &mut self.series {
            Some(series) => {
                series.seal()?;
                Some(self.series_path)
            }
            None => None,
        };
        Ok(Sealed { summary: self.summary, tags: self.tags, series })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_read_as_it_grows_and_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let (track, points) = (dir.path().join("track"), dir.path().join("series"));
        let mut reader = Reader::new(&track, &points);
        assert!(!reader.read().unwrap(), "no file yet");
        let mut file = File::create(&track).unwrap();
        file.write_all(b"[\"p\",\"lr\",0.1]\n[\"m\",\"loss\",2,null,1]\n[\"m\",\"lo").unwrap();
        assert!(reader.read().unwrap());
        assert_eq!(reader.summary().metrics["loss"].count, 1);
        file.write_all(b"ss\",1,null,2]\n[\"t\",\"best\",\"yes\"]\nnot a word\n[\"a\",\"w\",\"../w\",null]\n").unwrap();
        file.write_all(b"[\"a\",\"v\",\"v.bin\",null]\n[\"x\",3]").unwrap();
        assert!(reader.read().unwrap());
        assert_eq!(reader.take_tags(), [TagChange { key: "best".to_owned(), value: Some("yes".to_owned()) }]);
        assert_eq!(reader.page("loss", Cut { after: 0, points: 10, every: false }).unwrap().unwrap().points.len(), 2);
        let sealed = reader.seal().unwrap();
        assert_eq!((sealed.summary.left_out, sealed.summary.artifacts.len()), (2, 1));
        assert_eq!(last_exit(&track).unwrap(), Some(3));
        assert_eq!((sealed.summary.metrics["loss"].step, sealed.summary.params["lr"].as_str()), (1, "0.1"));
        let series = Series::open(File::open(sealed.series.unwrap()).unwrap()).unwrap();
        assert_eq!(series.page("loss", 0, 10).unwrap().unwrap().points[1].value, 1.0);
    }

    #[test]
    fn names_of_the_node_are_not_taken_from_a_job() {
        let dir = tempfile::tempdir().unwrap();
        let track = dir.path().join("track");
        let lines = "[\"m\",\"system/cpu\",99,null,1]\n[\"m\",\"system/x\",1,null,1]\n[\"u\",\"cpu\",0.5,1]\n";
        std::fs::write(&track, lines).unwrap();
        let sealed = Reader::new(&track, &dir.path().join("series")).seal().unwrap();
        let summary = sealed.summary;
        assert_eq!((summary.reserved, summary.left_out, summary.metrics.len()), (2, 0, 1));
        assert_eq!(summary.metrics["system/cpu"].last, Scalar::Number(0.5.into()));
    }

    #[test]
    fn a_line_without_end_takes_no_memory_and_no_other_line() {
        let dir = tempfile::tempdir().unwrap();
        let track = dir.path().join("track");
        let mut bytes = vec![b'x'; 3 * BLOCK];
        bytes.extend(b"\n[\"p\",\"lr\",1]\n");
        std::fs::write(&track, bytes).unwrap();
        let sealed = Reader::new(&track, &dir.path().join("series")).seal().unwrap();
        assert_eq!((sealed.summary.params.len(), sealed.series), (1, None));
        assert!(sealed.summary.left_out >= 1);
    }
}
