//! What an attempt leaves: its outputs and its log become blobs. Its directory stays until the log says so
//! durably (`attempts.rs`): after a crash before that, all is collected again.

use proto::codec;
use proto::core_io::Run;
use proto::event::{AttemptFinished, LogRef};
use proto::job::BundleRef;

use super::attempts::{Context, finished};
use super::handle::Shared;
use super::{bundle, prepare, tail};
use crate::exec::protocol::Ended;

/// Outputs beyond this are left out, with a line in the log: artifacts of that size belong elsewhere.
const OUTPUTS_MAX_BYTES: u64 = 8 << 30;

/// Stores what the attempt left.
pub(super) async fn collect(context: &Context, run: &Run, ended: Ended) -> AttemptFinished {
    let (shared, run) = (context.shared.clone(), run.clone());
    let mut finished = finished(ended);
    let work = move || {
        let outputs = outputs(&shared, &run);
        (outputs, log(&shared, &run))
    };
    if let Ok((outputs, log)) = tokio::task::spawn_blocking(work).await {
        finished.outputs = outputs;
        finished.log = log;
    }
    finished
}

fn outputs(shared: &Shared, run: &Run) -> Option<BundleRef> {
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
    for skipped in &outputs.skipped {
        note_in_log(shared, run, &format!("not kept: {} ({})", skipped.path, skipped.reason));
    }
    if outputs.manifest.files.is_empty() {
        return None;
    }
    let manifest = shared.blobs.put_bytes(&codec::encode(&outputs.manifest)).ok()?;
    shared.blobs.sync(&bundle::contents(manifest, &outputs.manifest)).ok()?;
    Some(BundleRef {
        manifest,
        total_bytes: outputs.manifest.total_bytes(),
        files: u32::try_from(outputs.manifest.files.len()).unwrap_or(u32::MAX),
    })
}

fn log(shared: &Shared, run: &Run) -> Option<LogRef> {
    let path = tail::log_path(&shared.home, run.attempt);
    if std::fs::metadata(&path).ok()?.len() == 0 {
        return None;
    }
    let (content, size) = shared.blobs.put_file(&path).ok()?;
    shared.blobs.sync(&[content]).ok()?;
    Some(LogRef { content, size })
}

/// People look for what happened in the job's log.
fn note_in_log(shared: &Shared, run: &Run, text: &str) {
    use std::io::Write as _;
    let path = tail::log_path(&shared.home, run.attempt);
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path) {
        let _ = writeln!(file, "fnode: {text}");
    }
}
