//! The command line's end of the HTTP API: over the Unix socket in the data directory, else over loopback
//! with the token from `api.json`. One connection, used again for as long as the daemon keeps it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};

use super::error::CliError;
use crate::http::words::error::{ErrorAnswer, ErrorCode, ErrorWord};
use crate::http::{API_PREFIX, ApiFile, VERSION_HEADER};

/// Longest wait for the head of an answer; past the daemon's own longest, so that its reason is heard.
const ANSWER_MAX: Duration = Duration::from_secs(90);
/// Largest answer read into memory: 1000 jobs with long commands fit.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A request's body.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// A daemon's API, as one data directory tells where it is.
pub(crate) struct Client {
    home: PathBuf,
    sender: Option<SendRequest<Body>>,
    host: HeaderValue,
    token: Option<HeaderValue>,
    any_version: bool,
}

impl Client {
    /// The API of the daemon with the data directory `home`. Nothing is opened yet.
    pub(crate) fn new(home: &Path) -> Self {
        Self {
            home: home.to_owned(),
            sender: None,
            host: HeaderValue::from_static("localhost"),
            token: None,
            any_version: false,
        }
    }

    /// Talks to a daemon of any version: for what must always work, such as ending it.
    pub(crate) fn with_any_version(mut self) -> Self {
        self.any_version = true;
        self
    }

    /// The daemon's data directory.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// `GET`, and the answer's JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, CliError> {
        self.json(Method::GET, path, None::<&()>).await
    }

    /// `POST` of a JSON body, and the answer's JSON.
    pub(crate) async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T, CliError> {
        self.json(Method::POST, path, Some(body)).await
    }

    /// Any method with or without a JSON body, and the answer's JSON.
    pub(crate) async fn json<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, CliError> {
        let bytes = match body {
            None => Bytes::new(),
            Some(body) => {
                let bytes = serde_json::to_vec(body).map_err(|error| self.broken(format!("was sent {error}")))?;
                Bytes::from(bytes)
            }
        };
        let answer = self.send_bytes(method, path, "application/json", bytes).await?;
        self.read_json(answer).await
    }

    /// Any method with a body that is repeated when the daemon has closed an idle connection.
    pub(crate) async fn send_bytes(
        &mut self,
        method: Method,
        path: &str,
        content_type: &'static str,
        bytes: Bytes,
    ) -> Result<Response<Incoming>, CliError> {
        let body = || Full::new(bytes.clone()).map_err(|never| match never {}).boxed();
        let was_open = self.sender.is_some();
        match self.send(method.clone(), path, content_type, body()).await {
            // A connection that was kept may have been closed by a restart; a fresh one tells the truth.
            Err(CliError::Broken { .. }) if was_open => self.send(method, path, content_type, body()).await,
            answer => answer,
        }
    }

    /// Any method with any body. An answer that is not a success is an error.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Body,
    ) -> Result<Response<Incoming>, CliError> {
        // An empty argument would name another thing than the user meant, or nothing.
        if path.split('?').next().is_some_and(|path| path.ends_with('/') || path.contains("//")) {
            return Err(CliError::usage("an id or a name is empty", "give one"));
        }
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = format!("{API_PREFIX}{path}")
            .parse()
            .map_err(|_| CliError::usage(format!("{path:?} cannot be asked for"), "leave out special characters"))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let sent = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let answer = match tokio::time::timeout(ANSWER_MAX, sent).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => return Err(self.broken("closed the connection".to_owned())),
            Err(_) => return Err(self.broken(format!("did not answer in {} s", ANSWER_MAX.as_secs()))),
        };
        self.sender = Some(sender);
        self.check_version(&answer)?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refused(answer).await) }
    }

    /// The JSON in an answer.
    pub(crate) async fn read_json<T: DeserializeOwned>(&self, answer: Response<Incoming>) -> Result<T, CliError> {
        let bytes = self.read_all(answer).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| self.broken(format!("gave an answer that is not understood ({error})")))
    }

    /// An answer that is not JSON, as it is.
    pub(crate) async fn get_bytes(&mut self, path: &str) -> Result<Bytes, CliError> {
        let answer = self.send_bytes(Method::GET, path, "application/json", Bytes::new()).await?;
        self.read_all(answer).await
    }

    async fn read_all(&self, answer: Response<Incoming>) -> Result<Bytes, CliError> {
        let read = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
        match tokio::time::timeout(ANSWER_MAX, read).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            _ => Err(self.broken("broke off in the middle of an answer".to_owned())),
        }
    }

    async fn connect(&mut self) -> Result<SendRequest<Body>, CliError> {
        let socket = self.home.join("run").join("api.sock");
        let denied = match UnixStream::connect(&socket).await {
            Ok(stream) => return self.shake_hands(stream).await,
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        };
        // A data directory with a path too long for a socket, or one seen through a container: loopback.
        if let Some(file) = ApiFile::read(&self.home).filter(|file| is_ours(file.pid))
            && let Ok(token) = HeaderValue::from_str(&format!("Bearer {}", file.token))
            && let Ok(host) = HeaderValue::from_str(&file.addr)
            && let Ok(stream) = TcpStream::connect(&file.addr).await
        {
            let _ = stream.set_nodelay(true);
            (self.host, self.token) = (host, Some(token));
            return self.shake_hands(stream).await;
        }
        Err(if denied { CliError::NotMine(self.home.clone()) } else { CliError::NoDaemon(self.home.clone()) })
    }

    async fn shake_hands<S>(&self, stream: S) -> Result<SendRequest<Body>, CliError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|_| self.broken("closed the connection".to_owned()))?;
        // What fails here fails the request as well, which tells it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn check_version(&self, answer: &Response<Incoming>) -> Result<(), CliError> {
        let daemon = answer.headers().get(VERSION_HEADER).and_then(|version| version.to_str().ok());
        let Some(daemon) = daemon else {
            return Err(self.broken("does not answer as fnode does; another program may have its port".to_owned()));
        };
        if self.any_version || is_compatible(daemon, env!("CARGO_PKG_VERSION")) {
            return Ok(());
        }
        Err(CliError::OtherVersion { home: self.home.clone(), daemon: daemon.to_owned() })
    }

    async fn refused(&self, answer: Response<Incoming>) -> CliError {
        let status = answer.status();
        let word = match self.read_json::<ErrorAnswer>(answer).await {
            Ok(answer) => answer.error,
            Err(_) => ErrorWord::new(code_of(status), format!("the daemon answered {status}"), "see its log"),
        };
        CliError::Refused(word)
    }

    /// An error of this connection.
    pub(crate) fn broken(&self, what: String) -> CliError {
        CliError::Broken { home: self.home.clone(), what, log: self.home.join("daemon.log") }
    }
}

/// A port that a dead daemon left may be anybody's by now, and is not told the token.
fn is_ours(pid: u32) -> bool {
    let own = rustix::process::getuid().as_raw();
    std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == own || own == 0)
}

fn code_of(status: StatusCode) -> ErrorCode {
    match status.as_u16() {
        404 => ErrorCode::NotFound,
        413 => ErrorCode::TooLarge,
        503 => ErrorCode::ShuttingDown,
        _ => ErrorCode::Unknown,
    }
}

/// Semantic versioning: the same major number, and before 1.0 the same minor one.
fn is_compatible(daemon: &str, own: &str) -> bool {
    let parts = |version: &str| {
        let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().ok());
        (parts.next().flatten(), parts.next().flatten())
    };
    match (parts(daemon), parts(own)) {
        ((Some(0), daemon), (Some(0), own)) => daemon == own,
        ((Some(daemon), _), (Some(own), _)) => daemon == own,
        _ => false,
    }
}

/// A path segment with everything escaped that would end it: job ids hold a slash, names hold anything.
pub(crate) fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// `?a=1&b=2` of what is not empty.
pub(crate) fn query(pairs: &[(&str, String)]) -> String {
    let given: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", segment(value)))
        .collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compatible_within_a_major_number() {
        assert!(is_compatible("0.1.0", "0.1.9"));
        assert!(!is_compatible("0.2.0", "0.1.0"));
        assert!(is_compatible("1.9.0", "1.0.0"));
        assert!(!is_compatible("2.0.0", "1.0.0"));
        assert!(!is_compatible("new", "1.0.0"));
    }

    #[test]
    fn paths_and_queries_are_escaped() {
        assert_eq!(segment("0193-a/7 ä"), "0193-a%2F7%20%C3%A4");
        assert_eq!(query(&[("a", "x y".to_owned()), ("b", String::new())]), "?a=x%20y");
        assert_eq!(query(&[]), "");
    }
}
