//! The points of a metric as they come, as server-sent events, from any node. Ends with the job.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::Stream;
use proto::JobId;
use tokio::sync::watch;

use super::events::KEEP_ALIVE;
use super::track::series_word;
use super::{has_ended, job_id, job_records};
use crate::http::refusal::{Asked, Path, Refusal};
use crate::http::routes::Shared;
use crate::http::words::error::{ErrorCode, ErrorWord};
use crate::http::words::track::FollowQuery;
use crate::node::{NodeHandle, told};
use crate::track::Cut;

/// New points are looked for this often, where the job runs or across the network.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// One reader of one series.
struct Following {
    node: NodeHandle,
    job: JobId,
    key: String,
    after: u64,
    closing: watch::Receiver<bool>,
    is_over: bool,
}

pub(crate) async fn follow(
    State(shared): State<Shared>,
    Path((id, key)): Path<(String, String)>,
    Asked(query): Asked<FollowQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let node = shared.api.node.clone();
    let job = job_id(&node, &id).await?;
    job_records(&node, job).await?;
    // Where a browser that lost its stream goes on: the id of the last event that it saw.
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let after = resumed.unwrap_or(query.after);
    let following = Following { node, job, key, after, closing: shared.closing, is_over: false };
    let stream = futures::stream::unfold(following, async |mut following| {
        let event = following.next().await?;
        Some((Ok(event), following))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Following {
    /// The next points; `None`: there will be no more.
    async fn next(&mut self) -> Option<Event> {
        while !self.is_over {
            // Asked first: what was told until an end is read after it.
            let (group, job) = job_records(&self.node, self.job).await.ok()?;
            let ended = has_ended(self.job, &group, job.as_ref());
            let cut = Cut { after: self.after, points: told::POINTS_MAX as u32, every: true };
            match self.node.series(self.job, &self.key, cut).await {
                Ok(Some(page)) if page.count < self.after => {
                    // A later attempt of the job begins anew.
                    self.after = 0;
                    return Some(Event::default().id("0").event("restart").data("{}"));
                }
                Ok(Some(page)) if !page.points.is_empty() => {
                    self.after += page.points.len() as u64;
                    let word = series_word(self.key.clone(), &page);
                    return Some(Event::default().id(self.after.to_string()).json_data(&word).unwrap_or_default());
                }
                Ok(_) => {}
                Err(error) => {
                    self.is_over = true;
                    let word = ErrorWord::new(ErrorCode::Unreachable, error.to_string(), "");
                    return Some(Event::default().event("error").json_data(&word).unwrap_or_default());
                }
            }
            if ended {
                return None;
            }
            tokio::select! {
                _ = self.closing.wait_for(|&closing| closing) => return None,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        None
    }
}
