//! Who may use the API. On the Unix socket: this node's user and root, by the kernel's word. On loopback,
//! which every local user and every web page reaches: the token, and only under this node's own name, so
//! that a page cannot come in by a DNS name of its own (DNS rebinding). Pure; `door.rs` asks.

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};

use super::words::error::{ErrorCode, ErrorWord};

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The Unix socket, from a process of this user.
    Unix {
        /// The user's number.
        uid: u32,
    },
    /// Loopback TCP, from anybody.
    Loopback,
}

/// What the guard compares with.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    /// What `Authorization: Bearer` must say on loopback.
    pub(crate) token: String,
    /// The port of the loopback listener.
    pub(crate) port: u16,
    /// The user that this node runs as.
    pub(crate) uid: u32,
}

impl Guard {
    /// Lets a request in, or says why not.
    pub(crate) fn check(&self, caller: Caller, uri: &Uri, headers: &HeaderMap) -> Result<(), ErrorWord> {
        match caller {
            Caller::Unix { uid } if uid == self.uid || uid == 0 => Ok(()),
            Caller::Unix { .. } => {
                let message = "this node belongs to another user";
                Err(ErrorWord::new(ErrorCode::Forbidden, message, "use that user, or a node of your own"))
            }
            Caller::Loopback => {
                self.check_names(uri, headers)?;
                self.check_token(headers)
            }
        }
    }

    fn check_names(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ErrorWord> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let host = text(HOST).or(uri.authority().map(|authority| authority.as_str())).unwrap_or("");
        let origin = text(ORIGIN);
        let own_origin = |origin: &str| origin.strip_prefix("http://").is_some_and(|host| self.is_own(host));
        if self.is_own(host) && origin.is_none_or(own_origin) {
            return Ok(());
        }
        let hint = format!("ask http://127.0.0.1:{}", self.port);
        Err(ErrorWord::new(ErrorCode::Forbidden, "the Host or Origin header is not this node's", hint))
    }

    fn is_own(&self, host: &str) -> bool {
        let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
        matches!(name, "127.0.0.1" | "localhost" | "[::1]") && port.parse() == Ok(self.port)
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), ErrorWord> {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or("");
        // Hashes of blake3 compare in constant time, and hide the length as well.
        if blake3::hash(given.as_bytes()) == blake3::hash(self.token.as_bytes()) {
            return Ok(());
        }
        let hint = "send Authorization: Bearer with the token from api.json in the node's data directory";
        Err(ErrorWord::new(ErrorCode::Unauthorized, "the token is missing or wrong", hint))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn check(caller: Caller, headers: &[(HeaderName, &str)]) -> Option<ErrorCode> {
        let guard = Guard { token: "secret".to_owned(), port: 4681, uid: 1_000 };
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        guard.check(caller, &Uri::from_static("/x"), &headers).err().map(|word| word.code)
    }

    #[test]
    fn the_socket_is_for_its_user_and_root() {
        assert_eq!(check(Caller::Unix { uid: 1_000 }, &[]), None);
        assert_eq!(check(Caller::Unix { uid: 0 }, &[]), None);
        assert_eq!(check(Caller::Unix { uid: 1_001 }, &[]), Some(ErrorCode::Forbidden));
    }

    #[test]
    fn loopback_needs_the_token() {
        let host = (HOST, "127.0.0.1:4681");
        let asks = |token: &str| check(Caller::Loopback, &[host.clone(), (AUTHORIZATION, token)]);
        assert_eq!(asks("Bearer secret"), None);
        for wrong in ["Bearer secret2", "Bearer ", "secret", "Basic secret"] {
            assert_eq!(asks(wrong), Some(ErrorCode::Unauthorized), "{wrong}");
        }
        assert_eq!(check(Caller::Loopback, &[host]), Some(ErrorCode::Unauthorized));
    }

    #[test]
    fn a_page_of_another_name_does_not_come_in_even_with_the_token() {
        let token = (AUTHORIZATION, "Bearer secret");
        let asks = |host: &str| check(Caller::Loopback, &[token.clone(), (HOST, host)]);
        for own in ["localhost:4681", "127.0.0.1:4681", "[::1]:4681"] {
            assert_eq!(asks(own), None, "{own}");
        }
        for foreign in ["evil.example:4681", "127.0.0.1:80", "127.0.0.1", "127.0.0.1.evil.example:4681", ""] {
            assert_eq!(asks(foreign), Some(ErrorCode::Forbidden), "{foreign}");
        }
        let from = |origin: &str| check(Caller::Loopback, &[token.clone(), (HOST, "localhost:4681"), (ORIGIN, origin)]);
        assert_eq!(from("http://localhost:4681"), None);
        assert_eq!(from("http://evil.example"), Some(ErrorCode::Forbidden));
        assert_eq!(from("null"), Some(ErrorCode::Forbidden));
    }
}
