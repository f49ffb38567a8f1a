//! What an attempt leaves: its outputs and its log become blobs. Its directory stays until the log says so
//! durably (`attempts.rs`): after a crash before that, all is collected again.

use std::path::Path;

use proto::codec;
use proto::core_io::Run;
use proto::event::{AttemptFinished, INLINE_MAX, LogRef};
use proto::job::{BundleRef, Usage};
use proto::{ContentId, JobState, Manifest};

use super::attempts::{Context, finished};
use super::handle::Shared;
use super::tracking::{self, Update};
use super::{bundle, elsewhere, prepare, ran_with, tail, times, watch};
use crate::blobs::BlobStore;
use crate::exec::protocol::Ended;

/// Outputs beyond this are left out, with a line in the log: artifacts of that size belong elsewhere.
const OUTPUTS_MAX_BYTES: u64 = 8 << 30;

/// How an attempt ended, with what of it rides in the entry that says so.
pub(super) struct Collected {
    pub(super) finished: Box<AttemptFinished>,
    pub(super) inline: Vec<Vec<u8>>,
    /// What it told of itself in the end.
    pub(super) told: Option<Box<Update>>,
    /// For the attempt that may follow.
    pub(super) checkpoint: Option<BundleRef>,
}

impl From<AttemptFinished> for Collected {
    /// Of one that left nothing.
    fn from(finished: AttemptFinished) -> Self {
        Self { finished: Box::new(finished), inline: Vec::new(), told: None, checkpoint: None }
    }
}

impl Collected {
    /// Names what it ran with, and carries that if no entry has it.
    pub(super) fn ran_with(&mut self, told: Option<ran_with::Told>) {
        if let Some((content, bytes)) = told {
            self.finished.ran_with = Some(content);
            self.inline.extend(bytes);
        }
    }
}

/// Stores what the attempt left.
pub(super) async fn collect(context: &Context, run: &Run, ended: Ended) -> Collected {
    let (shared, run) = (context.shared.clone(), run.clone());
    let mut collected = Collected::from(finished(ended));
    if run.spec.attends.is_some() {
        // What waited for the script used next to nothing; what the script itself used is in its series.
        collected.finished.usage = Usage::default();
    }
    let goes_on = collected.finished.ending.state() == JobState::Failed && !prepare::is_bare(&run.spec);
    let has_started = collected.finished.started_unix_ms > 0;
    let work = move || {
        let checkpoint = if goes_on { watch::store(&shared, &run) } else { None };
        let outputs = outputs(&shared, &run, has_started);
        let told = tracking::seal(&shared, run.attempt);
        elsewhere::archive::owe(&shared, &run);
        let ran_with = has_started.then(|| shared.ran_withs.of(&shared, run.attempt));
        (checkpoint, outputs, log(&shared, &run), told, ran_with)
    };
    if let Ok((checkpoint, outputs, log, told, ran_with)) = tokio::task::spawn_blocking(work).await {
        collected.checkpoint = checkpoint;
        collected.finished.outputs = outputs;
        collected.told = told.map(Box::new);
        if let Some((log, inline)) = log {
            collected.finished.log = Some(log);
            collected.inline = inline;
        }
        collected.ran_with(ran_with);
    }
    collected
}

fn outputs(shared: &Shared, run: &Run, has_started: bool) -> Option<BundleRef> {
    if !run.spec.keep_outputs {
        return None;
    }
    let original = run.spec.bundle.and_then(|bundle| bundle::read_manifest(&shared.blobs, bundle.manifest).ok());
    let work = prepare::work_dir(&shared.home, run);
    let mut outputs = match shared.blobs.collect_outputs(&work, original.as_ref(), OUTPUTS_MAX_BYTES) {
        Ok(outputs) => outputs,
        Err(error) => {
            note_in_log(shared, run, &format!("outputs are not kept: {error}"));
            return None;
        }
    };
    // The parameters were put there by us.
    outputs.manifest.files.retain(|file| file.path != prepare::PARAMS_FILE);
    // Its directory may never have been filled; that of a script started by hand is not the bundle's.
    if !has_started || run.spec.attends.is_some() {
        outputs.manifest.removed.clear();
    }
    for skipped in &outputs.skipped {
        note_in_log(shared, run, &format!("not kept: {} ({})", skipped.path, skipped.reason));
    }
    if outputs.manifest.files.is_empty() && outputs.manifest.removed.is_empty() {
        return None;
    }
    store_manifest(&shared.blobs, &outputs.manifest)
}

/// Makes a manifest, whose files are stored, and them durable.
pub(super) fn store_manifest(blobs: &BlobStore, manifest: &Manifest) -> Option<BundleRef> {
    let id = blobs.put_bytes(&codec::encode(manifest)).ok()?;
    blobs.sync(&bundle::contents(id, manifest)).ok()?;
    let files = u32::try_from(manifest.files.len()).unwrap_or(u32::MAX);
    Some(BundleRef { manifest: id, total_bytes: manifest.total_bytes(), files })
}

/// A small log rides in the entry that says how the attempt ended: it is where that is. A larger one becomes a blob.
fn log(shared: &Shared, run: &Run) -> Option<(LogRef, Vec<Vec<u8>>)> {
    let path = tail::log_path(&shared.home, run.attempt);
    let len = std::fs::metadata(&path).ok()?.len();
    if len == 0 {
        return None;
    }
    if len <= INLINE_MAX as u64 {
        let bytes = std::fs::read(&path).ok()?;
        if bytes.len() <= INLINE_MAX {
            let log = LogRef { content: ContentId::of(&bytes), size: bytes.len() as u64, times: None };
            return Some(with_times(log, vec![bytes], &path));
        }
    }
    let (content, size) = shared.blobs.put_file(&path).ok()?;
    let log = LogRef { content, size, times: None };
    if log.is_inline() {
        // A job may cut its own log.
        let bytes = shared.blobs.read_small(content, INLINE_MAX as u64).ok()?;
        return Some(with_times(log, vec![bytes], &path));
    }
    shared.blobs.sync(&[content]).ok()?;
    Some(with_times(log, Vec::new(), &path))
}

/// When its lines were written rides along.
fn with_times(log: LogRef, mut inline: Vec<Vec<u8>>, path: &Path) -> (LogRef, Vec<Vec<u8>>) {
    let Some(times) = times::seal(path) else { return (log, inline) };
    let log = LogRef { times: Some(ContentId::of(&times)), ..log };
    inline.push(times);
    (log, inline)
}

/// People look for what happened in the job's log.
pub(super) fn note_in_log(shared: &Shared, run: &Run, text: &str) {
    use std::io::Write as _;
    let path = tail::log_path(&shared.home, run.attempt);
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path) {
        let _ = writeln!(file, "fnode: {text}");
    }
}
