//! The daemon's end of the runner's socket: a [`RunnerHandle`] gives orders, one [`RunnerEvents`] brings news. The
//! latter also starts a runner where none is and connects again when the connection ends. Decides nothing
//! about attempts.
//!
//! There is no task in between: an order is written by whoever gives it and news are read by whoever waits
//! for them, because each hop between tasks costs a short job more than its start does. So
//! [`RunnerEvents::recv`] must be awaited for anything to happen that takes longer than one write.
//!
//! **Reconciling.** After each [`RunnerEvent::Connected`] its list is the truth: an attempt that was ordered before
//! and is not in it does not run and never will by that order, so it is ordered again or is lost. Orders that are
//! given while there is no connection are refused, for the same reason.

use std::collections::VecDeque;
use std::future::Future;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::AttemptId;
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::sleep;

use super::link::Link;
pub use super::link::{RunnerError, RunnerLaunch};
use super::protocol::{
    AttemptStatus, BATCH_MAX, Event, ITEMS_MAX, ShutdownWhen, StartOrder, ToDaemon, ToRunner, Welcome, put_frame,
};

/// Bytes that wait for the socket. The runner always reads, so this is only reached if it is stopped.
const UNSENT_MAX: usize = 64 << 20;
/// Pauses between attempts to have a runner again.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Gives orders to the runner. Cheap to clone; no call waits for the runner.
#[derive(Clone, Debug)]
pub struct RunnerHandle {
    outgoing: Arc<Mutex<Outgoing>>,
}

/// Brings news from the runner, and keeps the connection. Dropping it closes the connection.
pub struct RunnerEvents {
    launch: RunnerLaunch,
    outgoing: Arc<Mutex<Outgoing>>,
    state: State,
    ready: VecDeque<RunnerEvent>,
    /// A list whose last frame has not come.
    listed: Vec<AttemptStatus>,
}

/// News from the runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunnerEvent {
    /// There is a connection; always the first event, and the next one after [`RunnerEvent::Gone`].
    Connected {
        /// Who the runner is.
        runner: Welcome,
        /// Every attempt that waits or runs, or ended and is not forgotten.
        attempts: Vec<AttemptStatus>,
    },
    /// What happened to attempts, oldest first. May repeat what [`RunnerEvent::Connected`] said.
    Progress(Vec<Event>),
    /// Answer to [`RunnerHandle::list`]: as in [`RunnerEvent::Connected`].
    Listed(Vec<AttemptStatus>),
    /// The connection ended. The runner may still live; a [`RunnerEvent::Connected`] tells.
    Gone,
}

enum State {
    Linked(Link),
    Connecting(Pin<Box<dyn Future<Output = Link> + Send>>),
    Over,
}

#[derive(Debug)]
struct Outgoing {
    /// `None`: no connection.
    writer: Option<Arc<OwnedWriteHalf>>,
    version: u16,
    unsent: Vec<u8>,
    /// The connection ends on purpose: do not come back.
    is_last: bool,
}

impl RunnerHandle {
    /// Connects to the runner in `launch`'s directory, or starts one.
    ///
    /// # Errors
    /// Any [`RunnerError`] but [`RunnerError::Gone`]; see there what helps. Must be called in a tokio runtime.
    pub async fn connect_or_spawn(launch: RunnerLaunch) -> Result<(Self, RunnerEvents), RunnerError> {
        let link = launch.open().await?;
        let outgoing = Outgoing { writer: None, version: link.version, unsent: Vec::new(), is_last: false };
        let outgoing = Arc::new(Mutex::new(outgoing));
        let mut events = RunnerEvents {
            launch,
            outgoing: Arc::clone(&outgoing),
            state: State::Over,
            ready: VecDeque::new(),
            listed: Vec::new(),
        };
        events.adopt(link);
        Ok((Self { outgoing }, events))
    }

    /// Orders these starts, in this order. That they are under way is told by events.
    ///
    /// # Errors
    /// [`RunnerError::Order`] if one cannot be sent, and then none is; [`RunnerError::Gone`], [`RunnerError::Full`].
    pub fn start(&self, orders: Vec<StartOrder>) -> Result<(), RunnerError> {
        for order in &orders {
            order.check().map_err(|source| RunnerError::Order { attempt: order.attempt, source })?;
        }
        let mut outgoing = lock(&self.outgoing);
        let mut batch = Vec::new();
        let mut size = 0;
        for order in orders {
            let order_size = order.size_max();
            if !batch.is_empty() && size + order_size > BATCH_MAX {
                outgoing.say(&ToRunner::Start(std::mem::take(&mut batch)))?;
                size = 0;
            }
            size += order_size;
            batch.push(order);
        }
        if !batch.is_empty() {
            outgoing.say(&ToRunner::Start(batch))?;
        }
        outgoing.flush()
    }

    /// Stops an attempt: SIGTERM to its tree, SIGKILL after `grace`. An ended or unknown attempt is reported again.
    ///
    /// # Errors
    /// [`RunnerError::Gone`], [`RunnerError::Full`].
    pub fn stop(&self, attempt: AttemptId, grace: Duration) -> Result<(), RunnerError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let mut outgoing = lock(&self.outgoing);
        outgoing.say(&ToRunner::Stop { attempt, grace_ms })?;
        outgoing.flush()
    }

    /// Tells the runner that the endings of `attempts` are on disk here; sent with the next order or
    /// [`RunnerEvents::recv`].
    ///
    /// # Errors
    /// [`RunnerError::Gone`], [`RunnerError::Full`].
    pub fn forget(&self, attempts: &[AttemptId]) -> Result<(), RunnerError> {
        let mut outgoing = lock(&self.outgoing);
        attempts.chunks(ITEMS_MAX).try_for_each(|chunk| outgoing.say(&ToRunner::Forget(chunk.to_vec())))
    }

    /// Asks for every attempt that the runner knows; the answer is a [`RunnerEvent::Listed`].
    ///
    /// # Errors
    /// [`RunnerError::Gone`], [`RunnerError::Full`].
    pub fn list(&self) -> Result<(), RunnerError> {
        let mut outgoing = lock(&self.outgoing);
        outgoing.say(&ToRunner::List)?;
        outgoing.flush()
    }

    /// Ends the runner. The last event is [`RunnerEvent::Gone`]; connect anew for another runner.
    /// Returns once it is told; dropped earlier, it may or may not be.
    ///
    /// # Errors
    /// [`RunnerError::Gone`]: it could not be told.
    pub async fn shutdown(&self, when: ShutdownWhen) -> Result<(), RunnerError> {
        self.say_last(&ToRunner::Shutdown(when)).await
    }

    /// The daemon ends on purpose: the runner does not start it again, and ends with its last job.
    /// Returns once it is told; dropped earlier, it may or may not be.
    ///
    /// # Errors
    /// [`RunnerError::Gone`]: it could not be told.
    pub async fn goodbye(&self) -> Result<(), RunnerError> {
        self.say_last(&ToRunner::Goodbye).await
    }

    async fn say_last(&self, word: &ToRunner) -> Result<(), RunnerError> {
        {
            let mut outgoing = lock(&self.outgoing);
            outgoing.say(word)?;
            outgoing.is_last = true;
        }
        flush(&self.outgoing).await
    }
}

impl RunnerEvents {
    /// The next event; `None` after the last one ([`RunnerHandle::shutdown`], [`RunnerHandle::goodbye`]). May be
    /// dropped at any time: nothing is lost.
    pub async fn recv(&mut self) -> Option<RunnerEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match &mut self.state {
                State::Over => return None,
                State::Connecting(connecting) => {
                    let link = connecting.await;
                    self.adopt(link);
                }
                State::Linked(link) => {
                    let outgoing = &self.outgoing;
                    let result = tokio::select! {
                        biased;
                        Err(error) = flush(outgoing) => Err(error),
                        words = link.receive() => words,
                    };
                    match result {
                        Ok(words) => words.into_iter().for_each(|word| self.on_word(word)),
                        Err(error) => self.on_broken(&error),
                    }
                }
            }
        }
    }

    fn adopt(&mut self, mut link: Link) {
        {
            let mut outgoing = lock(&self.outgoing);
            outgoing.writer = Some(Arc::clone(&link.writer));
            outgoing.version = link.version;
            outgoing.unsent.clear();
        }
        let (runner, attempts, early) = link.introduction();
        self.ready.push_back(RunnerEvent::Connected { runner, attempts });
        if !early.is_empty() {
            self.ready.push_back(RunnerEvent::Progress(early));
        }
        self.state = State::Linked(link);
    }

    fn on_word(&mut self, word: ToDaemon) {
        match word {
            ToDaemon::Events(events) => self.ready.push_back(RunnerEvent::Progress(events)),
            ToDaemon::Listed { mut attempts, more } => {
                self.listed.append(&mut attempts);
                if !more {
                    self.ready.push_back(RunnerEvent::Listed(std::mem::take(&mut self.listed)));
                }
            }
        }
    }

    fn on_broken(&mut self, error: &RunnerError) {
        tracing::debug!(%error, "the runner's connection ended");
        let is_last = {
            let mut outgoing = lock(&self.outgoing);
            outgoing.writer = None;
            outgoing.unsent = Vec::new();
            outgoing.is_last
        };
        self.listed.clear();
        self.ready.push_back(RunnerEvent::Gone);
        self.state = if is_last { State::Over } else { State::Connecting(Box::pin(reconnect(self.launch.clone()))) };
    }
}

impl Drop for RunnerEvents {
    fn drop(&mut self) {
        // Handles may live on; the socket closes with its last half.
        lock(&self.outgoing).writer = None;
    }
}

impl Outgoing {
    /// Queues a word.
    fn say(&mut self, word: &ToRunner) -> Result<(), RunnerError> {
        if self.writer.is_none() {
            return Err(RunnerError::Gone);
        }
        if self.unsent.len() > UNSENT_MAX {
            return Err(RunnerError::Full);
        }
        Ok(put_frame(&mut self.unsent, self.version, word)?)
    }

    /// Writes what can be written now; the rest is [`flush`]'s.
    fn flush(&mut self) -> Result<(), RunnerError> {
        let Some(writer) = &self.writer else { return Err(RunnerError::Gone) };
        let mut sent = 0;
        while sent < self.unsent.len() {
            match writer.try_write(&self.unsent[sent..]) {
                Ok(len) => sent += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Reading tells the same, and there it is handled.
                Err(_) => return Err(RunnerError::Gone),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }
}

/// Writes all that is queued. May be dropped at any time.
async fn flush(outgoing: &Mutex<Outgoing>) -> Result<(), RunnerError> {
    loop {
        let writer = {
            let mut outgoing = lock(outgoing);
            outgoing.flush()?;
            if outgoing.unsent.is_empty() {
                return Ok(());
            }
            outgoing.writer.clone().ok_or(RunnerError::Gone)?
        };
        writer.writable().await.map_err(|_| RunnerError::Gone)?;
    }
}

/// Until there is a connection again.
async fn reconnect(launch: RunnerLaunch) -> Link {
    let mut pause = RETRY_MIN;
    loop {
        match launch.open().await {
            Ok(link) => return link,
            Err(error) => tracing::warn!(%error, "no runner"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

fn lock(outgoing: &Mutex<Outgoing>) -> MutexGuard<'_, Outgoing> {
    outgoing.lock().unwrap_or_else(PoisonError::into_inner)
}
