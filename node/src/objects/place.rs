//! An end point as people write it: `s3://bucket/prefix`, `gs://…`, `az://container/prefix`, `file:///directory`, and
//! the spellings of Foundations' configurations. It never holds a secret: it is shown and replicated.

use std::fmt;
use std::path::PathBuf;

/// Longest end point, in bytes.
const TEXT_MAX: usize = 1024;

/// Variables of a job that name its end points instead of its node's: of its archive, and of its cached values.
pub(crate) const VARIABLES: [&str; 2] = ["FNODE_ARCHIVE", "FNODE_CACHE_STORE"];

/// A directory in an object store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub(super) kind: Kind,
    /// Bucket or container, with `@account` where that was written; empty for a directory of this machine.
    pub(super) bucket: String,
    /// Below the bucket, without slashes at its ends; the whole path of a directory.
    pub(super) prefix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    S3,
    Gs,
    Az,
    File,
}

/// What an end point of a configuration means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndPoint {
    /// `local://…` and plain paths, which old projects have by default: the cluster itself keeps everything.
    ThisCluster,
    /// An object store.
    Elsewhere(Place),
}

impl Kind {
    fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
            Self::File => "file",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.prefix.as_str()) {
            (Kind::File, path) => write!(f, "file://{path}"),
            (kind, "") => write!(f, "{}://{}", kind.scheme(), self.bucket),
            (kind, prefix) => write!(f, "{}://{}/{prefix}", kind.scheme(), self.bucket),
        }
    }
}

impl Place {
    /// The directory, where it is one of this machine.
    pub(super) fn directory(&self) -> Option<PathBuf> {
        (self.kind == Kind::File).then(|| PathBuf::from(&self.prefix))
    }

    /// An end point that must be an object store.
    ///
    /// # Errors
    /// One line: what is wrong, and what to write.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match EndPoint::parse(text)? {
            EndPoint::Elsewhere(place) => Ok(place),
            EndPoint::ThisCluster => Err(format!("{text:?} is no object store; {}", wanted())),
        }
    }
}

impl EndPoint {
    /// Reads an end point.
    ///
    /// # Errors
    /// One line: what is wrong, and what to write.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() > TEXT_MAX || text.chars().any(char::is_control) {
            return Err(format!("an end point has at most {TEXT_MAX} bytes and no control characters"));
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Self::ThisCluster) };
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "s3" | "s3a" => Kind::S3,
            "gs" | "gcp" => Kind::Gs,
            "az" | "azure" | "abfs" | "abfss" => Kind::Az,
            "file" => Kind::File,
            "local" => return Ok(Self::ThisCluster),
            "sftp" | "ssh" => return Err(format!("{scheme}:// is not supported; {}", wanted())),
            _ => return Err(format!("{scheme}:// is not known; {}", wanted())),
        };
        if kind == Kind::File { directory(rest) } else { bucket(kind, rest) }.map(Self::Elsewhere)
    }
}

fn wanted() -> &'static str {
    "write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY"
}

fn directory(path: &str) -> Result<Place, String> {
    let path = path.strip_prefix("localhost").unwrap_or(path);
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!("file://{path} is not an absolute directory; write file:///DIRECTORY"));
    }
    let prefix = match path.trim_end_matches('/') {
        "" => return Err("the root directory is no place for files; write file:///DIRECTORY".to_owned()),
        path => path.to_owned(),
    };
    Ok(Place { kind: Kind::File, bucket: String::new(), prefix })
}

fn bucket(kind: Kind, rest: &str) -> Result<Place, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let shown = format!("{}://{bucket}", kind.scheme());
    if bucket.contains(':') || (bucket.contains('@') && kind != Kind::Az) {
        // Not shown: what stands there may be a password.
        return Err("an end point holds no user, password or port; give those as the variables of the cloud".to_owned());
    }
    let (name, account) = bucket.split_once('@').unwrap_or((bucket, "a"));
    let fits = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if !(3..=63).contains(&name.len()) || account.is_empty() || !fits(name) || !fits(account) {
        return Err(format!("{shown:?} names no bucket: 3 to 63 letters, digits, ., - and _; {}", wanted()));
    }
    if prefix.contains(['?', '#']) || prefix.split('/').any(|part| part == "." || part == "..") {
        return Err(format!("the path after {shown} cannot be used: it has ?, #, . or .. in it; {}", wanted()));
    }
    let parts: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
    Ok(Place { kind, bucket: bucket.to_owned(), prefix: parts.join("/") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_points_are_read_as_they_are_written_anywhere() {
        let shown = |text: &str| match EndPoint::parse(text).unwrap() {
            EndPoint::ThisCluster => "this cluster".to_owned(),
            EndPoint::Elsewhere(place) => place.to_string(),
        };
        for (text, wanted) in [
            ("s3://lab-bucket", "s3://lab-bucket"),
            ("s3a://lab-bucket/a//b/", "s3://lab-bucket/a/b"),
            ("gcp://lab_bucket/x", "gs://lab_bucket/x"),
            ("az://box@account/x y", "az://box@account/x y"),
            ("file:///mnt/é b/", "file:///mnt/é b"),
            ("local:///home/ada/.foundations/job_data", "this cluster"),
            ("/home/ada/.foundations/job_data", "this cluster"),
            ("", "this cluster"),
        ] {
            assert_eq!(shown(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_names_no_place_is_refused_in_one_line() {
        let wrong =
            ["sftp://host/x", "ftp://host/x", "s3://", "s3://a", "s3://bad bucket", "s3://lab/../x", "file://x"];
        let wrong = [wrong.as_slice(), &["file:///", "file:///a/../b", "gs://lab/x?y", "s3://la\nb", "az://lab@"]];
        for text in wrong.concat() {
            let line = EndPoint::parse(text).expect_err(text);
            assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
        }
        assert!(EndPoint::parse("sftp://host/x").unwrap_err().starts_with("sftp:// is not supported; write s3://"));
        let secret = EndPoint::parse("s3://KEY:hunter2@lab/x").unwrap_err();
        assert!(!secret.contains("hunter2"), "{secret}");
        assert!(Place::parse("/plain/path").unwrap_err().contains("no object store"));
    }
}
