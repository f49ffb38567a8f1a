//! Where the API listens: a Unix socket in the data directory and loopback TCP. Opens both before the node
//! starts, so that a taken port is told before anything else happens; then serves until the node ends.
//!
//! Connections are bounded; one that does not send its request's head in time is closed. Nothing runs
//! while nobody asks.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Request};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::guard::{Caller, Guard};
use super::refusal::Refusal;
use super::{Api, VERSION_HEADER, router};
use crate::node::Home;

/// Connections at once: every terminal of a busy user, and a page in each of some browsers.
const CONNECTIONS_MAX: usize = 512;
/// A request's head is small; who needs longer is not asking.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// After a failure to accept (too many open files), so long is waited.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// When the node ends, answers under way have so long.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// `api.json` in the data directory, 0600: where the API listens on loopback and what opens it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiFile {
    /// `127.0.0.1:PORT`.
    pub addr: String,
    /// What `Authorization: Bearer` must say.
    pub token: String,
    /// Version of the daemon's software.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// The API's Unix socket; absent: its path would be too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// This program, for programs that call it.
    #[serde(default)]
    pub binary: PathBuf,
}

/// The API's listeners, open.
pub struct Door {
    tcp: TcpListener,
    unix: Option<UnixListener>,
    addr: SocketAddr,
    home: Home,
    token: String,
}

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Every machine of the network would reach it.
    #[error(
        "the API would listen on {0}, which other machines reach; give a loopback address with --api, as 127.0.0.1:4681"
    )]
    NotLoopback(SocketAddr),
    /// Another program listens there.
    #[error(
        "port {} on {} is in use, perhaps by another node of this machine; give another with --api PORT, 0 for any",
        .0.port(), .0.ip()
    )]
    PortInUse(SocketAddr),
    /// The system refused.
    #[error("cannot listen on {addr}: {source}; give another address with --api")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the data directory cannot be written.
    #[error("cannot {verb} {}: {source}; give this user the right to, or start with another --home", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ApiFile {
    /// The file in the data directory `home`; `None` when there is none that can be read.
    #[must_use]
    pub fn read(home: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Home::new(home).api()).ok()?).ok()
    }

    /// Replaces the file, readable for its owner only.
    fn write(&self, path: &Path) -> Result<(), DoorError> {
        let aside = path.with_extension("new");
        let write = || {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
            serde_json::to_writer(&mut file, self)?;
            file.write_all(b"\n")?;
            std::fs::rename(&aside, path)
        };
        write().map_err(|source| DoorError::File { verb: "write", path: path.to_owned(), source })
    }
}

impl Door {
    /// Binds loopback TCP at `addr`, whose port may be 0. Nothing in the data directory is touched yet:
    /// until the node has it, it may belong to another daemon.
    ///
    /// # Errors
    /// [`DoorError`], one line.
    pub async fn open(home: &Home, addr: SocketAddr) -> Result<Self, DoorError> {
        if !addr.ip().is_loopback() {
            return Err(DoorError::NotLoopback(addr));
        }
        let tcp = TcpListener::bind(addr).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => DoorError::PortInUse(addr),
            _ => DoorError::Listen { addr, source },
        })?;
        let addr = tcp.local_addr().map_err(|source| DoorError::Listen { addr, source })?;
        // A token that is known to open pages and scripts stays good across restarts.
        let token = ApiFile::read(home.dir()).map(|file| file.token).filter(|token| token.len() >= 32);
        let token = token.unwrap_or_else(|| proto::ContentId(rand::random()).to_string());
        Ok(Self { tcp, unix: None, addr, home: home.clone(), token })
    }

    /// Opens the Unix socket and writes `api.json`: from now on the command line finds the node. Call it
    /// once the node holds its data directory.
    ///
    /// # Errors
    /// [`DoorError::File`].
    pub fn publish(&mut self) -> Result<(), DoorError> {
        self.unix = self.open_socket()?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let file = ApiFile {
            addr: self.addr.to_string(),
            token: self.token.clone(),
            version,
            pid: std::process::id(),
            socket: self.socket(),
            binary: std::env::current_exe().unwrap_or_default(),
        };
        file.write(&self.home.api())
    }

    /// `None` when the data directory's path is too long for a socket; the command line then uses loopback.
    fn open_socket(&self) -> Result<Option<UnixListener>, DoorError> {
        let path = self.home.api_socket();
        let failed = |source| DoorError::File { verb: "listen on", path: path.clone(), source };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = match UnixListener::bind(&path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            bound => bound.map_err(failed)?,
        };
        // Its directory is 0700, so nobody else connected in between.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Some(listener))
    }

    /// The loopback address, with its true port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The Unix socket, once there is one.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        self.unix.as_ref().map(|_| self.home.api_socket())
    }

    /// Serves until `closing` turns true, then gives answers under way two seconds.
    pub async fn serve(self, api: Api, closing: watch::Receiver<bool>) {
        let uid = rustix::process::getuid().as_raw();
        let guard = Guard { token: self.token, port: self.addr.port(), uid };
        let limit = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let server = Arc::new(Server { guard: Arc::new(guard), router: router(api, closing.clone()), limit, closing });
        let has_socket = self.unix.is_some();
        let unix = async {
            match self.unix {
                Some(listener) => server.accept_unix(&listener).await,
                None => server.closed().await,
            }
        };
        tokio::join!(unix, server.accept_tcp(&self.tcp));
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(CLOSING_MAX, server.limit.acquire_many(all)).await;
        if has_socket {
            // A stale socket is removed by the next start as well.
            let _ = std::fs::remove_file(self.home.api_socket());
        }
    }
}

struct Server {
    guard: Arc<Guard>,
    router: Router,
    limit: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
}

impl Server {
    async fn closed(&self) {
        let _ = self.closing.clone().wait_for(|&closing| closing).await;
    }

    async fn accept_unix(&self, listener: &UnixListener) {
        while let Some(permit) = self.room().await {
            let accepted = tokio::select! {
                () = self.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let known = accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream)));
            match known {
                Ok((uid, stream)) => self.spawn(stream, Caller::Unix { uid }, permit),
                Err(error) => not_accepted(&error).await,
            }
        }
    }

    async fn accept_tcp(&self, listener: &TcpListener) {
        while let Some(permit) = self.room().await {
            let accepted = tokio::select! {
                () = self.closed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Small answers must not wait for a full segment.
                    let _ = stream.set_nodelay(true);
                    self.spawn(stream, Caller::Loopback, permit);
                }
                Err(error) => not_accepted(&error).await,
            }
        }
    }

    /// Room for one more connection; `None` once the node closes.
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            () = self.closed() => None,
            permit = self.limit.clone().acquire_owned() => permit.ok(),
        }
    }

    fn spawn<S>(&self, stream: S, caller: Caller, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let connection = self.connection(stream, caller);
        tokio::spawn(async move {
            connection.await;
            drop(permit);
        });
    }

    fn connection<S>(&self, stream: S, caller: Caller) -> impl Future<Output = ()> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (guard, router) = (self.guard.clone(), self.router.clone());
        let mut closing = self.closing.clone();
        let service = service_fn(move |request| answer(guard.clone(), router.clone(), caller, request));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).keep_alive(true);
        let mut connection = Box::pin(http.serve_connection(TokioIo::new(stream), service));
        async move {
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = async { drop(closing.wait_for(|&closing| closing).await) } => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::trace!(%error, "a connection to the API broke");
            }
        }
    }
}

async fn not_accepted(error: &io::Error) {
    tracing::debug!(%error, "a connection to the API was not accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// One request: the guard, the route, and what every answer says.
async fn answer(
    guard: Arc<Guard>,
    router: Router,
    caller: Caller,
    mut request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let mut response = match guard.check(caller, request.uri(), request.headers()) {
        Err(word) => Refusal(word).into_response(),
        Ok(()) => {
            request.extensions_mut().insert(caller);
            TowerToHyperService::new(router).call(request).await?
        }
    };
    let headers = response.headers_mut();
    headers.insert(VERSION_HEADER, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.entry("cache-control").or_insert(HeaderValue::from_static("no-store"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::attack::attack_loosely;
    use crate::harness::golden::{Sample, check};

    #[test]
    fn golden_api_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = Home::new(dir.path()).api();
        let (addr, token) = ("127.0.0.1:4681".to_owned(), "0f".repeat(32));
        let file =
            ApiFile { addr, token, version: "0.1.0".to_owned(), pid: 4_711, socket: None, binary: "/bin/fnode".into() };
        file.write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        check("http.ApiFile", &[Sample::text("api.json", &file, &text)]);
        attack_loosely("api.json", text.as_bytes(), 20, |bytes| {
            std::fs::write(&path, bytes).unwrap();
            ApiFile::read(dir.path()).is_some()
        });
    }
}
