//! HTTP for object stores, by the hyper that is here already. Certificates are checked against the system's.
//! Redirects are not followed: a cloud redirects who asks in the wrong region, and that is told.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt as _;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::{ClientOptions, Error};
use rustls::{ClientConfig, RootCertStore};

/// A host that does not answer by then cannot be reached.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// From the first byte of a request to the first of its answer: a part of 8 MiB over a slow line.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Connections that nobody used for so long are closed.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Makes clients for `object_store`.
#[derive(Debug)]
pub(super) struct Hyper;

struct Service {
    client: Client<HttpsConnector<TcpConnector>, HttpRequestBody>,
    may_be_plain: bool,
}

/// Why a request was not sent, or not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("plain HTTP is not allowed")]
    Plain,
    #[error("no answer within {} s", ANSWER_MAX.as_secs())]
    Silent,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("may_be_plain", &self.may_be_plain).finish_non_exhaustive()
    }
}

impl HttpConnector for Hyper {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        tcp.set_nodelay(true);
        let may_be_plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        let generic = |source: std::io::Error| Error::Generic { store: "HTTP", source: Box::new(source) };
        let tls = match ClientConfig::builder().with_native_roots() {
            Ok(tls) => tls.with_no_client_auth(),
            // A small container without certificates can still reach a store of its own lab.
            Err(_) if may_be_plain => {
                ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
            }
            Err(error) => return Err(generic(error)),
        };
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(HttpClient::new(Service { client, may_be_plain }))
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if !self.may_be_plain && request.uri().scheme_str() != Some("https") {
            return Err(HttpError::new(HttpErrorKind::Unknown, Refused::Plain));
        }
        let answered = tokio::time::timeout(ANSWER_MAX, self.client.request(request)).await;
        let answer = answered.map_err(|_| HttpError::new(HttpErrorKind::Timeout, Refused::Silent))?;
        let answer = answer.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
            HttpError::new(kind, error)
        })?;
        let (parts, body) = answer.into_parts();
        let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}
