//! What is recorded of every job: what it ran with, and the changes that its checkout had.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use proto::ContentId;
use proto::record::JobRecord;

use super::{blobs, job_id, job_records, view};
use crate::http::refusal::{Path, Refusal, blocking};
use crate::http::routes::Shared;
use crate::http::words::error::ErrorWord;
use crate::http::words::job::JobWord;
use crate::http::words::record::record_diff;
use crate::http::words::track::TrackedWord;
use crate::node::{NodeError, NodeHandle, RanWith};

/// As git's own tools take it.
const DIFF_TYPE: &str = "text/x-diff; charset=utf-8";

/// Adds to each attempt of `word` what it ran with.
pub(super) async fn add_ran_with(
    node: &NodeHandle,
    job: Option<&JobRecord>,
    word: &mut JobWord,
) -> Result<(), Refusal> {
    let Some(job) = job else { return Ok(()) };
    let named: Vec<_> =
        job.attempts.values().map(|attempt| attempt.finished.as_ref().and_then(|finished| finished.ran_with)).collect();
    let handle = node.clone();
    let told = blocking(move || {
        let read =
            |content| Ok::<_, NodeError>(handle.inline(content)?.and_then(|text| serde_json::from_slice(&text).ok()));
        named.into_iter().map(|named| named.map_or(Ok(None), read)).collect::<Result<Vec<Option<RanWith>>, _>>()
    });
    let told = told.await?;
    let (view, _) = view(node).await?;
    for ((attempt, (key, record)), told) in word.attempts.iter_mut().zip(&job.attempts).zip(told) {
        let runs = record.finished.is_none() && record.lost.is_none();
        let now = || view.nodes.get(&key.worker).filter(|_| runs).map(|seen| RanWith::of_facts(&seen.capacity.facts));
        attempt.ran_with = told.or_else(now);
    }
    Ok(())
}

/// What attempts ran with, read once for each of the few that there are. Blocks.
pub(super) struct RanWiths<'a> {
    node: &'a NodeHandle,
    known: BTreeMap<ContentId, Option<RanWith>>,
}

impl<'a> RanWiths<'a> {
    pub(super) fn new(node: &'a NodeHandle) -> Self {
        Self { node, known: BTreeMap::new() }
    }

    pub(super) fn get(&mut self, content: ContentId) -> Option<RanWith> {
        let read = || self.node.inline(content).ok().flatten().and_then(|text| serde_json::from_slice(&text).ok());
        self.known.entry(content).or_insert_with(read).clone()
    }
}

pub(crate) async fn diff(
    State(Shared { api, .. }): State<Shared>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let id = job_id(&api.node, &id).await?;
    let (group, job) = job_records(&api.node, id).await?;
    let checkout = group.submitted.as_ref().and_then(|submitted| submitted.spec.checkout.as_ref());
    if let Some(diff) = checkout.and_then(|checkout| checkout.diff) {
        if api.node.blobs().has(diff.content).is_none() {
            api.node.fetch_blob(diff.content, diff.size).await?;
        }
        return blobs::respond(&api.node, diff.content, DIFF_TYPE).await;
    }
    let tracked = job.as_ref().and_then(JobRecord::counted).and_then(|(_, attempt)| attempt.tracked.as_ref());
    let record = tracked.and_then(|tracked| TrackedWord::from(&tracked.summary).record).unwrap_or_default();
    match record_diff(&record) {
        "" => {
            let has_new = checkout.is_some_and(|checkout| checkout.is_dirty);
            let (message, hint) = if has_new {
                let message = format!("the only changes of job {id} are new files, which no commit has");
                (message, format!("they are in its bundle: GET /jobs/{id}/bundle"))
            } else {
                let message = format!("job {id} was submitted without uncommitted changes");
                (message, "see its commit with: fnode job show".to_owned())
            };
            Err(ErrorWord::not_found(message, hint).into())
        }
        text => Ok(([(header::CONTENT_TYPE, DIFF_TYPE)], text.to_owned()).into_response()),
    }
}
