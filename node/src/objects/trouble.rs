//! What goes wrong with object stores, and what to do about it: one line for people, and whether a retry can help.

use std::error::Error as _;
use std::fmt;
use std::io;

use object_store::Error;

use super::client::Refused;
use super::place::{Kind, Place};

/// Longest part of a cloud's own words that is repeated.
const DETAIL_MAX: usize = 160;
/// Where a machine of a cloud asks who it is; no other machine reaches that.
const METADATA_HOSTS: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];

/// A file could not be put there, or had from there.
#[derive(Debug)]
pub struct Trouble {
    pub(crate) place: Place,
    pub(crate) why: Why,
}

/// Why.
#[derive(Debug)]
pub(crate) enum Why {
    /// There is no such object.
    Missing(String),
    /// There is, with other bytes than its name or its manifest promises.
    Altered(String),
    /// Nothing says who we are.
    NoCredentials,
    /// Who we are may not do this.
    Denied,
    /// There is no such bucket.
    NoBucket,
    /// The bucket is in another region.
    WrongRegion,
    /// Its address begins with `http:`, which must be allowed.
    PlainHttp,
    /// Nobody answers.
    Unreachable(String),
    /// The disk of a directory, or of this node.
    Disk(io::Error),
    /// What the cloud said.
    Told(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, why } = self;
        match why {
            Why::Missing(key) => write!(f, "{place} has no {key}"),
            Why::Altered(key) => {
                write!(f, "{key} in {place} has other bytes than were put there; it is not used, look who writes there")
            }
            Why::NoCredentials => write!(f, "no credentials for {place}; {}", credentials(place.kind)),
            Why::Denied => write!(f, "{place} refuses this node's credentials; {}", credentials(place.kind)),
            Why::NoBucket => write!(f, "there is no bucket for {place}; make it, or correct the end point"),
            Why::WrongRegion => {
                write!(
                    f,
                    "the bucket of {place} is in another region; set AWS_REGION for the daemon, or in storage.env"
                )
            }
            Why::PlainHttp => {
                write!(f, "{place} is at an http: address; set AWS_ALLOW_HTTP=true (GOOGLE_, AZURE_) if that is meant")
            }
            Why::Unreachable(detail) => write!(f, "{place} cannot be reached: {detail}; look at network and end point"),
            Why::Disk(error) if error.kind() == io::ErrorKind::StorageFull => {
                write!(f, "the disk is full that {place} goes through; free some space")
            }
            Why::Disk(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                write!(f, "{place} is no directory here: {error}; make it, or name another")
            }
            Why::Disk(error) => {
                write!(f, "{place} cannot be used: {error}; give this user the right to, or free space")
            }
            Why::Told(detail) => write!(f, "{place} answers: {detail}"),
        }
    }
}

impl std::error::Error for Trouble {}

fn credentials(kind: Kind) -> &'static str {
    match kind {
        Kind::S3 => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the daemon, or in storage.env of its data directory"
        }
        Kind::Gs => "set GOOGLE_SERVICE_ACCOUNT for the daemon, or in storage.env of its data directory",
        Kind::Az => {
            "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY for the daemon, or in storage.env of its data directory"
        }
        Kind::File => "let its user write there",
    }
}

impl Trouble {
    pub(super) fn new(place: &Place, why: Why) -> Self {
        Self { place: place.clone(), why }
    }

    /// Nobody answers for so long.
    pub(crate) fn silent(place: &Place, limit: std::time::Duration) -> Self {
        Self::new(place, Why::Unreachable(format!("no answer within {} s", limit.as_secs())))
    }

    /// What is there is not what was put there.
    pub(crate) fn altered(place: &Place, key: &str) -> Self {
        Self::new(place, Why::Altered(key.to_owned()))
    }

    /// What the crate said of `key`.
    pub(super) fn of(place: &Place, key: &str, error: &Error) -> Self {
        Self::new(place, why(place, key, error))
    }

    /// It is not there, which is an answer.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.why, Why::Missing(_))
    }
}

fn why(place: &Place, key: &str, error: &Error) -> Why {
    let text = words(error);
    let has = |any: &[&str]| any.iter().any(|word| text.contains(word));
    if let Some(plain) = cause::<Refused>(error) {
        return if matches!(plain, Refused::Plain) { Why::PlainHttp } else { Why::Unreachable(plain.to_string()) };
    }
    if has(&METADATA_HOSTS)
        || has(&[
            "MissingSecretAccessKey",
            "Missing SecretAccessKey",
            "Missing AccessKeyId",
            "Account must be specified",
        ])
    {
        return Why::NoCredentials;
    }
    match error {
        _ if has(&["NoSuchBucket", "ContainerNotFound", "bucket does not exist"]) => Why::NoBucket,
        _ if has(&["incorrectly configured region", "PermanentRedirect", "AuthorizationHeaderMalformed"]) => {
            Why::WrongRegion
        }
        Error::NotFound { .. } if place.kind == Kind::File || !has(&["NoSuchBucket"]) => Why::Missing(key.to_owned()),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Why::Denied,
        _ => match cause::<io::Error>(error) {
            Some(io) if place.kind == Kind::File => Why::Disk(copy(io)),
            Some(io) => Why::Unreachable(one_line(&io.to_string())),
            None if has(&["error sending request", "client error", "dns error"]) => Why::Unreachable(one_line(&text)),
            None => Why::Told(one_line(&text)),
        },
    }
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// Everything that an error and its causes say.
fn words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn cause<E: std::error::Error + 'static>(error: &Error) -> Option<&E> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn one_line(text: &str) -> String {
    let text: Vec<&str> = text.split_whitespace().collect();
    let text = text.join(" ");
    match text.char_indices().nth(DETAIL_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
