//! What happens, as server-sent events. A reader that is too slow is told how much it missed.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::Stream;
use tokio::sync::broadcast::error::RecvError;

use crate::http::refusal::Asked;
use crate::http::routes::Shared;
use crate::http::words::job::StateWord;
use crate::http::words::{EventQuery, EventWord};
use crate::node::NodeNews;

/// A comment this often tells proxies and readers that the stream lives.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) async fn events(
    State(shared): State<Shared>,
    Asked(query): Asked<EventQuery>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let news = shared.api.node.news();
    let stream = futures::stream::unfold((news, shared.closing, query), async |(mut news, mut closing, query)| {
        loop {
            let heard = tokio::select! {
                _ = closing.wait_for(|&closing| closing) => return None,
                heard = news.recv() => heard,
            };
            let word = match heard {
                Ok(news) => word(news),
                Err(RecvError::Lagged(missed)) => EventWord {
                    kind: "missed".to_owned(),
                    text: format!("{missed} events came faster than they were read"),
                    ..EventWord::default()
                },
                Err(RecvError::Closed) => return None,
            };
            if !query.job.is_empty() && !word.job.starts_with(&query.job) {
                continue;
            }
            let event = Event::default().event(word.kind.clone()).json_data(&word).unwrap_or_default();
            return Some((Ok(event), (news, closing, query)));
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn word(news: NodeNews) -> EventWord {
    let empty = EventWord::default();
    match news {
        NodeNews::Job { job, state } => {
            let text = StateWord::from(state).as_str().to_owned();
            EventWord { kind: "job".to_owned(), job, text, ..empty }
        }
        NodeNews::NodeUp { node } => EventWord { kind: "node".to_owned(), node, text: "up".to_owned(), ..empty },
        NodeNews::NodeDown { node } => EventWord { kind: "node".to_owned(), node, text: "down".to_owned(), ..empty },
        NodeNews::TookOver { group } => {
            let text = "this node sees it through from now on".to_owned();
            EventWord { kind: "take_over".to_owned(), job: group, text, ..empty }
        }
        NodeNews::Notice { text } => EventWord { kind: "notice".to_owned(), text, ..empty },
    }
}
