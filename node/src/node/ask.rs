//! What one node asks another outside the log: a question and its answer over a stream of their own. Members
//! alone get this far (`net`'s gate); nothing asked here changes anything but leases, which are kept in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::lease::{LeaseAnswer, Process};
use proto::{AttemptId, ContentId, JobId, NodeId, ValueKey};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::copies::{self, HeldRequest};
use super::elsewhere::{Archived, recall};
use super::evict;
use super::flight::{self, Renewal};
use super::handle::Shared;
use super::hits::HitRow;
use super::tail::{read_word, write_word};
use super::told;
use crate::net::BulkProtocol;
use crate::track::{Cut, Names, Page};

/// A node that does not answer by then is passed over.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// The values of these secrets: a job that names them starts at the asker.
    Secrets(Vec<String>),
    /// Points of a metric of an attempt that runs there.
    Series { attempt: AttemptId, metric: String, cut: Cut },
    /// Names of the series of an attempt that runs there, after this one.
    SeriesNames { attempt: AttemptId, after: String },
    /// Whether all that a job left is there.
    Held(HeldRequest),
    /// The lease of a key that is kept there, for a process of the asker.
    Lease { key: ValueKey, number: u64, patience_ms: Option<u64>, wait_ms: u64 },
    /// No question: these processes of the asker still compute.
    Renew(Vec<Renewal>),
    /// No question: a process of the asker has stored the value, or gives up.
    Release { key: ValueKey, number: u64, stored: bool },
    /// Which of these blobs are there.
    Having(Vec<ContentId>),
    /// What the cache saved there.
    CacheHits,
    /// Whether what a job left, that ran there, is in an archive.
    Archived(JobId),
    /// No question: the asker has just removed the one who is told, and shuts the door next.
    Removed,
}

/// Its answer. Never printed: it may hold secrets.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(Debug))]
pub(super) enum Answer {
    /// Those that are kept there.
    Secrets(BTreeMap<String, String>),
    /// `None`: it does not run there, or told nothing of it.
    Series(Option<Page>),
    /// Some of them.
    SeriesNames(Names),
    /// Whether it is.
    Held(bool),
    /// What the process shall do.
    Lease(LeaseAnswer),
    /// For each in turn, whether it is.
    Having(Vec<bool>),
    /// By project and user.
    CacheHits(Vec<HitRow>),
    /// It is noted.
    Noted,
    /// Whether it is.
    Archived(Archived),
    /// It is known now.
    Removed,
}

/// Asks `node`; `None`: it did not answer in time.
pub(super) async fn ask(shared: &Shared, node: NodeId, question: &Question) -> Option<Answer> {
    let asked = async {
        let mut stream = shared.net.open_bulk(node, BulkProtocol::Ask).await.ok()?;
        write_word(&mut stream, question).await.ok()?;
        read_word(&mut stream).await.ok()
    };
    tokio::time::timeout(ANSWER_MAX, asked).await.ok().flatten()
}

/// Answers the peer `from` until it closes the stream.
pub(super) async fn serve<S>(shared: Arc<Shared>, from: NodeId, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Ok(question) = read_word::<Question>(&mut stream).await {
        let answer = match question {
            Question::Secrets(names) => Answer::Secrets(shared.secrets.known(&names)),
            Question::Series { attempt, metric, cut } => {
                let shared = shared.clone();
                let read = move || shared.tracks.page(attempt, &metric, told::bounded(cut));
                Answer::Series(tokio::task::spawn_blocking(read).await.unwrap_or_default())
            }
            Question::SeriesNames { attempt, after } => {
                let shared = shared.clone();
                let read = move || shared.tracks.names(attempt, &after);
                Answer::SeriesNames(tokio::task::spawn_blocking(read).await.unwrap_or_default())
            }
            Question::Held(request) => Answer::Held(copies::answer(&shared, request).await),
            Question::Lease { key, number, patience_ms, wait_ms } => {
                let (patience, wait) = (patience_ms.map(Duration::from_millis), Duration::from_millis(wait_ms));
                Answer::Lease(flight::ask_here(&shared, Process { node: from, number }, key, patience, wait).await)
            }
            Question::Renew(renewals) => {
                flight::renew_here(&shared, from, &renewals);
                Answer::Noted
            }
            Question::Release { key, number, stored } => {
                flight::release_here(&shared, Process { node: from, number }, key, stored);
                Answer::Noted
            }
            Question::Having(contents) => {
                let shared = shared.clone();
                let look = move || evict::having(&shared.blobs, &contents);
                Answer::Having(tokio::task::spawn_blocking(look).await.unwrap_or_default())
            }
            Question::CacheHits => {
                let shared = shared.clone();
                Answer::CacheHits(
                    tokio::task::spawn_blocking(move || shared.values.hits.rows()).await.unwrap_or_default(),
                )
            }
            Question::Archived(job) => Answer::Archived(recall::answer(&shared, job).await),
            Question::Removed => {
                shared.note_removed();
                Answer::Removed
            }
        };
        if write_word(&mut stream, &answer).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack;
    use crate::harness::golden::{Sample, check};

    fn written(word: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        futures::executor::block_on(write_word(&mut bytes, word)).expect("a Vec takes all");
        bytes
    }

    #[test]
    fn golden_ask() {
        let question = Question::Secrets(vec!["TOKEN".to_owned()]);
        let answer = Answer::Secrets(BTreeMap::from([("TOKEN".to_owned(), "s3cret".to_owned())]));
        let attempt = crate::samples::attempt();
        let points =
            Question::Series { attempt, metric: "loss".to_owned(), cut: Cut { after: 3, points: 500, every: true } };
        let text = proto::track::Scalar::Text("warm".to_owned());
        let point = crate::track::Point { step: 3, at_unix_ms: 1_700_000_000_500, value: 0.25 };
        let page = Answer::Series(Some(Page { points: vec![point], told: BTreeMap::from([(0, text)]), count: 4 }));
        let asked = Question::SeriesNames { attempt, after: "loss".to_owned() };
        let names = Answer::SeriesNames(Names { series: vec![("phase".to_owned(), 7)], has_more: true });
        let held = Question::Held(HeldRequest::sample());
        let key = ValueKey([0xab; 32]);
        let lease = Question::Lease { key, number: 7, patience_ms: Some(70_000), wait_ms: 1_000 };
        let renew = Question::Renew(vec![(key, 7, true)]);
        let release = Question::Release { key, number: 7, stored: true };
        let samples = [("Secrets", &question), ("Series", &points), ("Held", &held), ("Removed", &Question::Removed)];
        let having = Question::Having(vec![crate::samples::content(0xcc)]);
        let archived = Question::Archived(attempt.job);
        let more = [
            ("Archived", &archived),
            ("Having", &having),
            ("CacheHits", &Question::CacheHits),
            ("SeriesNames", &asked),
        ];
        let samples =
            [samples.as_slice(), &[("Lease", &lease), ("Renew", &renew), ("Release", &release)], &more].concat();
        let samples: Vec<Sample> = samples.iter().map(|(name, word)| Sample::new(name, word, written(word))).collect();
        check("node.Question", &samples);
        let here = Answer::Held(true);
        let lease = Answer::Lease(LeaseAnswer::Compute);
        let owed =
            Answer::Archived(Archived::Owed { place: "s3://lab/x".to_owned(), why: Some("it is down".to_owned()) });
        let samples = [("Secrets", &answer), ("Series", &page), ("Held", &here), ("Removed", &Answer::Removed)];
        let having = Answer::Having(vec![true, false]);
        let row = HitRow { project: "vision".to_owned(), user: "ada".to_owned(), hits: 2, saved_ms: 180_000 };
        let hits = Answer::CacheHits(vec![row]);
        let more = [("Archived", &owed), ("Having", &having), ("CacheHits", &hits), ("SeriesNames", &names)];
        let samples = [samples.as_slice(), &[("Lease", &lease), ("Noted", &Answer::Noted)], &more].concat();
        let samples: Vec<Sample> = samples.iter().map(|(name, word)| Sample::new(name, word, written(word))).collect();
        check("node.Answer", &samples);
    }

    #[test]
    fn hostile_bytes_in_the_place_of_a_question_or_an_answer_do_no_harm() {
        let secrets = Question::Secrets(vec!["TOKEN".to_owned()]);
        for question in [secrets, Question::Held(HeldRequest::sample()), Question::Removed] {
            attack("Question", &written(&question), |mut bytes: &[u8]| {
                futures::executor::block_on(read_word::<Question>(&mut bytes)).is_ok() && bytes.is_empty()
            });
        }
        attack("Answer", &written(&Answer::Held(true)), |mut bytes: &[u8]| {
            futures::executor::block_on(read_word::<Answer>(&mut bytes)).is_ok() && bytes.is_empty()
        });
    }
}
