//! Where programs on this machine ask for cached values: a Unix socket with a line of JSON per request and answer.
//! Answers carry the id of their request and come in any order. A connection is a program; what it holds ends with it.
//!
//! Everything is bounded: connections, the length of a line, requests under way. Whatever cannot be answered is told
//! in one line, and the program computes. Ends with the node's runtime.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use proto::{ContentId, ValueKey};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::elsewhere::cached;
use super::flight::{self, Found};
use super::handle::{NodeError, NodeHandle, unix_ms};
use super::value_files::RECORD_INLINE_MAX;
use super::values::{self, Given, NAME_MAX, Offer};
use crate::objects::Place;

/// Programs at once: every worker of some busy pools.
const CONNECTIONS_MAX: usize = 1024;
/// Longest line that either side sends: a small value in base64 with its names, and room to spare.
const LINE_MAX: usize = 1 << 20;
/// Questions of one program that wait at once; a further one is refused, and its thread computes.
const ASKS_MAX: usize = 256;
/// Values of one program that are being stored at once; its further lines wait.
const STORES_MAX: usize = 8;
/// Answers on their way to one program.
const ANSWERS_MAX: usize = 64;
/// No question waits longer, whatever its program says.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// After a failure to accept (too many open files), so long is waited.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A line of a program.
#[derive(Debug, Deserialize)]
struct Request {
    id: u64,
    #[serde(flatten)]
    word: Word,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Ask(Ask),
    Store(Box<Store>),
    Drop(Lease),
    Purge(Key),
}

#[derive(Debug, Deserialize)]
struct Ask {
    key: String,
    #[serde(default)]
    function: String,
    #[serde(default)]
    project: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    wait_ms: u64,
    /// A value that is handed on, not found: it saved nobody anything.
    #[serde(default)]
    quiet: bool,
    /// The object store that the project has for its values.
    place: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Store {
    key: String,
    function: String,
    project: String,
    user: String,
    seconds: f64,
    expires_unix_ms: Option<u64>,
    inline: Option<String>,
    file: Option<String>,
    parts_digest: String,
    place: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Lease {
    key: String,
}

#[derive(Debug, Deserialize)]
struct Key {
    key: String,
}

/// A line of the daemon; `id` is missing where the request had none that could be read.
#[derive(Debug, Serialize)]
struct Answer {
    id: Option<u64>,
    #[serde(flatten)]
    said: Said,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Hit {},
    Compute { lease: String },
    Busy { node: String, seconds: f64 },
    Alone {},
    Stored { bytes: u64 },
    Dropped {},
    Purged {},
    Error { code: &'static str, message: String },
}

/// Why a request is refused.
struct Refused(&'static str, String);

impl From<NodeError> for Refused {
    fn from(error: NodeError) -> Self {
        Self("node", error.to_string())
    }
}

/// Listens at `path`, in place of a socket that a killed daemon left. The caller holds the data directory.
///
/// # Errors
/// What the system says; most often that the path is too long for a socket.
pub(super) fn open(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Its directory is 0700, so nobody else connected in between.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves every program that connects.
pub(super) async fn serve(node: NodeHandle, listener: UnixListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let uid = rustix::process::getuid().as_raw();
    while let Ok(permit) = room.clone().acquire_owned().await {
        let accepted = listener.accept().await.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream)));
        match accepted {
            Ok((peer, stream)) if peer == uid || peer == 0 => {
                tokio::spawn(program(node.clone(), stream, permit));
            }
            Ok((peer, _)) => tracing::debug!(uid = peer, "another user's program may not use the cache"),
            Err(error) => {
                tracing::debug!(%error, "a program was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One program, until it closes its end.
async fn program(node: NodeHandle, stream: UnixStream, permit: OwnedSemaphorePermit) {
    let number = rand::random();
    node.shared.values.flights.begin(number);
    let (read, mut write) = stream.into_split();
    let (answers, mut queue) = mpsc::channel::<Answer>(ANSWERS_MAX);
    let writing = tokio::spawn(async move {
        while let Some(answer) = queue.recv().await {
            let mut line = serde_json::to_vec(&answer).unwrap_or_default();
            line.push(b'\n');
            if write.write_all(&line).await.is_err() {
                return;
            }
        }
    });
    let program = Program {
        node: node.clone(),
        number,
        answers,
        asks: Arc::new(Semaphore::new(ASKS_MAX)),
        stores: Arc::new(Semaphore::new(STORES_MAX)),
    };
    read_lines(&program, BufReader::new(read)).await;
    flight::end(&node, number).await;
    drop(program);
    // What it handed over before it went is kept all the same; the answers find nobody.
    let _ = writing.await;
    drop(permit);
}

async fn read_lines(program: &Program, mut read: BufReader<tokio::net::unix::OwnedReadHalf>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let max = LINE_MAX as u64 + 1;
        match (&mut read).take(max).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) if line.len() > LINE_MAX => {
                let message = format!("a line is longer than {LINE_MAX} bytes; hand large values over as files");
                return program.refuse(None, Refused("too_long", message)).await;
            }
            Ok(_) => program.take(&line).await,
        }
    }
}

#[derive(Clone)]
struct Program {
    node: NodeHandle,
    number: u64,
    answers: mpsc::Sender<Answer>,
    asks: Arc<Semaphore>,
    stores: Arc<Semaphore>,
}

impl Program {
    async fn say(&self, id: u64, said: Result<Said, Refused>) {
        match said {
            // A program that is gone needs no answer.
            Ok(said) => drop(self.answers.send(Answer { id: Some(id), said }).await),
            Err(refused) => self.refuse(Some(id), refused).await,
        }
    }

    async fn refuse(&self, id: Option<u64>, Refused(code, message): Refused) {
        let _ = self.answers.send(Answer { id, said: Said::Error { code, message } }).await;
    }

    async fn take(&self, line: &[u8]) {
        let Request { id, word } = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => return self.refuse(id_in(line), Refused("wrong_line", error.to_string())).await,
        };
        let this = self.clone();
        match word {
            Word::Ask(ask) => match self.asks.clone().try_acquire_owned() {
                Ok(permit) => drop(tokio::spawn(async move {
                    this.say(id, this.ask(ask).await).await;
                    drop(permit);
                })),
                Err(_) => {
                    let message = format!("more than {ASKS_MAX} questions of one program wait");
                    self.refuse(Some(id), Refused("too_many", message)).await;
                }
            },
            word => {
                // Bounds what is in memory; these wait for no other program, so they end.
                let Ok(permit) = self.stores.clone().acquire_owned().await else { return };
                tokio::spawn(async move {
                    this.say(id, this.change(word).await).await;
                    drop(permit);
                });
            }
        }
    }

    async fn change(&self, word: Word) -> Result<Said, Refused> {
        match word {
            Word::Ask(ask) => self.ask(ask).await,
            Word::Store(store) => self.store(*store).await,
            Word::Drop(Lease { key }) => self.drop_lease(&key).await,
            Word::Purge(Key { key }) => self.purge(&key).await,
        }
    }

    async fn ask(&self, ask: Ask) -> Result<Said, Refused> {
        let key = key_of(&ask.key)?;
        check_name("function", &ask.function)?;
        check_name("project", &ask.project)?;
        check_name("user", &ask.user)?;
        let place = place_of(ask.place.as_deref());
        let wait = Duration::from_millis(ask.wait_ms).min(WAIT_MAX);
        let wanted = flight::want(&self.node, self.number, key, &ask.function, wait);
        let found = match wanted.await? {
            // One process in the cluster looks elsewhere, while the others wait for it.
            Found::Compute | Found::Alone if cached::bring(&self.node, key, place.as_ref()).await => {
                flight::let_go(&self.node, self.number, key, true).await;
                Found::Hit
            }
            found => found,
        };
        Ok(match found {
            Found::Hit => {
                if !ask.quiet {
                    self.count_hit(key, ask.project, ask.user).await?;
                }
                Said::Hit {}
            }
            Found::Compute => Said::Compute { lease: lease_of(self.number) },
            Found::Alone => Said::Alone {},
            Found::Busy { node, since_ms } => {
                let (name, _) = self.node.name_of(node).await?;
                Said::Busy { node: name, seconds: Duration::from_millis(since_ms).as_secs_f64() }
            }
        })
    }

    async fn count_hit(&self, key: ValueKey, project: String, user: String) -> Result<(), NodeError> {
        let shared = self.node.shared.clone();
        values::blocking(move || {
            let known = shared.store.value(key)?.unwrap_or_default();
            let took_ms = known.canonical(unix_ms()).map_or(0, |(_, value)| value.took_ms);
            shared.values.hits.note(&project, &user, took_ms);
            Ok(())
        })
        .await
    }

    async fn store(&self, store: Store) -> Result<Said, Refused> {
        let key = key_of(&store.key)?;
        let place = place_of(store.place.as_deref());
        let stored = match self.offer(key, store) {
            Ok(offer) => {
                let kept = values::keep(&self.node, offer).await.map_err(Refused::from);
                kept.inspect(|_| cached::owe(&self.node.shared, key, place.as_ref()))
            }
            Err(refused) => Err(refused),
        };
        flight::let_go(&self.node, self.number, key, stored.is_ok()).await;
        Ok(Said::Stored { bytes: stored? })
    }

    fn offer(&self, key: ValueKey, store: Store) -> Result<Offer, Refused> {
        for (what, name) in [("function", &store.function), ("project", &store.project), ("user", &store.user)] {
            check_name(what, name)?;
        }
        let parts: Option<ContentId> = store.parts_digest.parse().ok();
        let parts = parts.ok_or_else(|| wrong("parts_digest is not 64 hexadecimal digits"))?;
        if !(store.seconds >= 0.0 && store.seconds.is_finite()) {
            return Err(wrong("seconds is not a length of time"));
        }
        let given = match (store.inline, store.file) {
            (Some(text), None) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                let bytes = bytes.map_err(|error| wrong(&format!("inline is not base64: {error}")))?;
                if bytes.len() as u64 > RECORD_INLINE_MAX {
                    return Err(wrong(&format!("inline has more than {RECORD_INLINE_MAX} bytes; hand a file over")));
                }
                Given::Here(bytes)
            }
            (None, Some(name)) => {
                let path = self.node.shared.values.files.incoming(&name);
                Given::File(path.ok_or_else(|| wrong(&format!("there is no file {name:?} in incoming/")))?)
            }
            _ => return Err(wrong("a value is given either inline or as a file")),
        };
        Ok(Offer {
            key,
            function: store.function,
            project: store.project,
            user: store.user,
            took_ms: values::millis(store.seconds),
            made_unix_ms: unix_ms(),
            expires_unix_ms: store.expires_unix_ms,
            parts,
            given,
        })
    }

    async fn drop_lease(&self, key: &str) -> Result<Said, Refused> {
        flight::let_go(&self.node, self.number, key_of(key)?, false).await;
        Ok(Said::Dropped {})
    }

    async fn purge(&self, key: &str) -> Result<Said, Refused> {
        values::purge(&self.node, key_of(key)?).await?;
        Ok(Said::Purged {})
    }
}

/// Leases are told apart by their program; the text is for people who read along.
fn lease_of(number: u64) -> String {
    format!("{number:016x}")
}

fn wrong(message: &str) -> Refused {
    Refused("wrong_line", message.to_owned())
}

/// The object store that a program names; `None`: the node's own. What is no end point was refused where it was submitted.
fn place_of(named: Option<&str>) -> Option<Place> {
    named.and_then(|text| Place::parse(text).ok())
}

fn key_of(text: &str) -> Result<ValueKey, Refused> {
    text.parse().map_err(|_| wrong("a key is 64 lower-case hexadecimal digits"))
}

fn check_name(what: &str, name: &str) -> Result<(), Refused> {
    if name.len() <= NAME_MAX {
        return Ok(());
    }
    Err(wrong(&format!("{what} has more than {NAME_MAX} bytes")))
}

/// The id of a line that is wrong otherwise, so that whoever sent it is told.
fn id_in(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Id {
        id: u64,
    }
    serde_json::from_slice::<Id>(line).ok().map(|found| found.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check};

    #[test]
    fn golden_answers_are_what_the_python_package_reads() {
        let said = [
            ("Hit", Said::Hit {}),
            ("Compute", Said::Compute { lease: lease_of(7) }),
            ("Busy", Said::Busy { node: "n2".to_owned(), seconds: 12.5 }),
            ("Alone", Said::Alone {}),
            ("Stored", Said::Stored { bytes: 70_000 }),
            ("Dropped", Said::Dropped {}),
            ("Purged", Said::Purged {}),
            ("Error", Said::Error { code: "wrong_line", message: "inline is not base64".to_owned() }),
        ];
        let line = |(name, said)| {
            let answer = Answer { id: Some(1), said };
            Sample::text(name, &answer, &serde_json::to_string(&answer).unwrap())
        };
        check("node.Said", &said.map(line));
    }

    #[test]
    fn hostile_lines_are_refused_or_read() {
        let key = "ab".repeat(32);
        let ask = format!(r#"{{"id":1,"ask":{{"key":"{key}","function":"f","project":"p","wait_ms":30000}}}}"#);
        let store = format!(
            r#"{{"id":2,"store":{{"key":"{key}","lease":null,"function":"f","project":"p","user":"u","seconds":1.5,"expires_unix_ms":null,"inline":"AAAA","file":null,"parts_digest":"{key}"}}}}"#
        );
        for line in [ask, store] {
            assert!(serde_json::from_str::<Request>(&line).is_ok(), "{line}");
            attack_loosely("line of a program", line.as_bytes(), 500, |line| {
                let _ = id_in(line);
                serde_json::from_slice::<Request>(line).is_ok()
            });
        }
    }
}
