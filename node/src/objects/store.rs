//! Putting files into a [`Place`] and getting them from there, in bounded memory. What comes back is hashed on the way.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::{Path as Key, PathPart};
use object_store::{Error, ObjectStore, ObjectStoreExt as _, RetryConfig, WriteMultipart};
use proto::ContentId;
use tokio::sync::Semaphore;

use super::client::Hyper;
use super::credentials::Credentials;
use super::place::{Kind, Place};
use super::trouble::{Trouble, Why};

/// Files up to this go in one request, larger ones in parts of at least this.
const PART_BYTES: u64 = 8 << 20;
/// No cloud takes more parts of one file.
const PARTS_MAX: u64 = 9_000;
/// Parts of one file that are under way at a time.
const PARTS_AT_ONCE: usize = 2;
/// Files that are sent at a time: each holds up to three parts in memory.
const SENT_MAX: usize = 4;
/// A download that brings nothing for so long is given up.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Retries within the crate; the callers try again later on their own.
const RETRIES: usize = 2;
const RETRY_MAX: Duration = Duration::from_secs(20);
/// Characters that clouds advise against in names, beside control characters.
const ODD: [char; 15] = ['\\', '{', '^', '}', '%', '`', ']', '"', '>', '[', '~', '<', '#', '|', '*'];

/// Opens places and remembers them. Clones share it.
#[derive(Clone)]
pub(crate) struct Objects(Arc<Inner>);

struct Inner {
    credentials: Credentials,
    open: Mutex<BTreeMap<Place, Opened>>,
    /// Files that are read to be sent.
    sending: Semaphore,
}

type Opened = Arc<dyn ObjectStore>;

/// The name below a place of a path of ours. Names that clouds advise against are written with `%`, so that every path
/// has a name of its own.
pub(crate) fn key(path: &str) -> Key {
    path.split('/').filter(|text| !text.is_empty()).map(part).collect()
}

fn part(text: &str) -> PathPart<'_> {
    let is_plain = !text.contains(ODD) && !text.contains('?');
    PathPart::parse(text).ok().filter(|_| is_plain).unwrap_or_else(|| PathPart::from(text))
}

impl Objects {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self(Arc::new(Inner { credentials, open: Mutex::default(), sending: Semaphore::new(SENT_MAX) }))
    }

    /// With `store` as what is at `place`, for tests.
    #[cfg(test)]
    pub(crate) fn with(place: &Place, store: Opened) -> Self {
        let objects = Self::new(Credentials::default());
        objects.0.open.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone(), store);
        objects
    }

    fn open(&self, place: &Place) -> Result<Opened, Trouble> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(place) {
            return Ok(known.clone());
        }
        let opened = match place.kind {
            Kind::File => {
                let dir = place.directory().unwrap_or_default();
                std::fs::create_dir_all(&dir).map_err(|error| Trouble::new(place, Why::Disk(error)))?;
                LocalFileSystem::new_with_prefix(dir).map(|store| Arc::new(store) as Opened)
            }
            Kind::S3 => s3(&self.0.credentials, place),
            Kind::Gs => gs(&self.0.credentials, place),
            Kind::Az => az(&self.0.credentials, place),
        };
        let opened = opened.map_err(|error| Trouble::of(place, "", &error))?;
        open.insert(place.clone(), opened.clone());
        Ok(opened)
    }

    /// The store of a place, and the name of `path` in it.
    fn at(&self, place: &Place, path: &str) -> Result<(Opened, Key), Trouble> {
        let prefix = if place.kind == Kind::File { "" } else { place.prefix.as_str() };
        Ok((self.open(place)?, key(prefix).parts().chain(key(path).parts()).collect()))
    }

    /// Puts small content, replacing what is there.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn put(&self, place: &Place, path: &str, bytes: Vec<u8>) -> Result<(), Trouble> {
        let (store, key) = self.at(place, path)?;
        store.put(&key, bytes.into()).await.map(drop).map_err(|error| Trouble::of(place, path, &error))
    }

    /// Puts a file, in parts where it is large, replacing what is there. A part that breaks off leaves no object.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn put_file(&self, place: &Place, path: &str, mut file: std::fs::File) -> Result<(), Trouble> {
        let disk = |error| Trouble::new(place, Why::Disk(error));
        // Never closed: then nobody waits in vain.
        let _permit = self.0.sending.acquire().await.ok();
        let size = file.metadata().map_err(disk)?.len();
        if size <= PART_BYTES {
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map(|_| bytes)
            });
            let bytes = read.await.map_err(io::Error::other).and_then(|read| read).map_err(disk)?;
            return self.put(place, path, bytes).await;
        }
        let (store, key) = self.at(place, path)?;
        let told = |error: Error| Trouble::of(place, path, &error);
        let part_bytes = PART_BYTES.max(size.div_ceil(PARTS_MAX)) as usize;
        let mut upload =
            WriteMultipart::new_with_chunk_size(store.put_multipart(&key).await.map_err(told)?, part_bytes);
        loop {
            if let Err(error) = upload.wait_for_capacity(PARTS_AT_ONCE).await {
                let _ = upload.abort().await;
                return Err(told(error));
            }
            let read = tokio::task::spawn_blocking(move || read_part(&mut file, part_bytes).map(|bytes| (file, bytes)));
            let bytes;
            match read.await.map_err(io::Error::other).and_then(|read| read) {
                Ok(read) => (file, bytes) = read,
                Err(error) => {
                    let _ = upload.abort().await;
                    return Err(disk(error));
                }
            }
            if bytes.is_empty() {
                return upload.finish().await.map(drop).map_err(told);
            }
            upload.put(bytes.into());
        }
    }

    /// All of an object of at most `max` bytes.
    ///
    /// # Errors
    /// [`Trouble`]; an object that is larger is [`Why::Altered`].
    pub(crate) async fn get(&self, place: &Place, path: &str, max: u64) -> Result<Vec<u8>, Trouble> {
        let mut bytes = Vec::new();
        self.stream(place, path, |part| {
            bytes.extend_from_slice(part);
            if bytes.len() as u64 > max { Err(Why::Altered(path.to_owned())) } else { Ok(()) }
        })
        .await?;
        Ok(bytes)
    }

    /// Copies an object whose bytes have the hash `wanted` to `to`.
    ///
    /// # Errors
    /// [`Trouble`]; then `to` holds nothing that may be used.
    pub(crate) async fn get_file(
        &self,
        place: &Place,
        path: &str,
        (wanted, size): (ContentId, u64),
        to: &Path,
    ) -> Result<(), Trouble> {
        let disk = |error| Trouble::new(place, Why::Disk(error));
        let mut file = std::fs::File::create(to).map_err(disk)?;
        let (mut hasher, mut len) = (blake3::Hasher::new(), 0);
        self.stream(place, path, |part| {
            len += part.len() as u64;
            hasher.update(part);
            if len > size {
                return Err(Why::Altered(path.to_owned()));
            }
            file.write_all(part).map_err(Why::Disk)
        })
        .await?;
        if hasher.finalize().as_bytes() == &wanted.0 {
            return Ok(());
        }
        Err(Trouble::new(place, Why::Altered(path.to_owned())))
    }

    async fn stream(
        &self,
        place: &Place,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), Why>,
    ) -> Result<(), Trouble> {
        let (store, key) = self.at(place, path)?;
        let told = |error: Error| Trouble::of(place, path, &error);
        let mut parts = store.get(&key).await.map_err(told)?.into_stream();
        loop {
            let part = tokio::time::timeout(STALL_MAX, parts.next()).await;
            let silent = |_| Trouble::new(place, Why::Unreachable(format!("{path} stalls")));
            match part.map_err(silent)? {
                Some(part) => take(&part.map_err(told)?).map_err(|why| Trouble::new(place, why))?,
                None => return Ok(()),
            }
        }
    }

    /// When an object was put, in milliseconds since 1970, and how long it is; `None`: there is none.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn head(&self, place: &Place, path: &str) -> Result<Option<(u64, u64)>, Trouble> {
        let (store, key) = self.at(place, path)?;
        match store.head(&key).await.map_err(|error| Trouble::of(place, path, &error)) {
            Ok(meta) => Ok(Some((u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0), meta.size))),
            Err(trouble) if trouble.is_missing() => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(crate) async fn remove(&self, place: &Place, path: &str) -> Result<(), Trouble> {
        let (store, key) = self.at(place, path)?;
        match store.delete(&key).await.map_err(|error| Trouble::of(place, path, &error)) {
            Err(trouble) if !trouble.is_missing() => Err(trouble),
            _ => Ok(()),
        }
    }

    /// Writes, reads and removes a small object.
    ///
    /// # Errors
    /// [`Trouble`], of the first that does not work.
    pub(crate) async fn probe(&self, place: &Place, name: &str) -> Result<(), Trouble> {
        let (path, bytes) = (format!("fnode-probe/{name}"), b"written by fnode doctor".to_vec());
        self.put(place, &path, bytes.clone()).await?;
        let read = self.get(place, &path, bytes.len() as u64).await;
        self.remove(place, &path).await?;
        if read? == bytes { Ok(()) } else { Err(Trouble::new(place, Why::Altered(path))) }
    }
}

fn read_part(file: &mut std::fs::File, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(max);
    file.take(max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn retry() -> RetryConfig {
    RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_MAX, ..RetryConfig::default() }
}

fn s3(credentials: &Credentials, place: &Place) -> object_store::Result<Opened> {
    let mut builder = AmazonS3Builder::new().with_bucket_name(&place.bucket);
    for (name, value) in credentials.of("AWS_") {
        if let Ok(name) = name.parse() {
            builder = builder.with_config(name, value);
        }
    }
    Ok(Arc::new(builder.with_retry(retry()).with_http_connector(Hyper).build()?))
}

fn gs(credentials: &Credentials, place: &Place) -> object_store::Result<Opened> {
    let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(&place.bucket);
    for (name, value) in credentials.of("GOOGLE_") {
        if let Ok(name) = name.parse() {
            builder = builder.with_config(name, value);
        }
    }
    Ok(Arc::new(builder.with_retry(retry()).with_http_connector(Hyper).build()?))
}

fn az(credentials: &Credentials, place: &Place) -> object_store::Result<Opened> {
    let (container, account) = place.bucket.split_once('@').unwrap_or((&place.bucket, ""));
    let mut builder = MicrosoftAzureBuilder::new().with_container_name(container);
    for (name, value) in credentials.of("AZURE_") {
        if let Ok(name) = name.parse() {
            builder = builder.with_config(name, value);
        }
    }
    if !account.is_empty() {
        builder = builder.with_account(account.split('.').next().unwrap_or(account));
    }
    Ok(Arc::new(builder.with_retry(retry()).with_http_connector(Hyper).build()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use object_store::memory::InMemory;

    use super::*;

    fn place(text: &str) -> Place {
        Place::parse(text).unwrap()
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    fn file_of(dir: &Path, bytes: &[u8]) -> std::fs::File {
        let path = dir.join("file");
        std::fs::write(&path, bytes).unwrap();
        std::fs::File::open(path).unwrap()
    }

    #[test]
    fn every_path_has_a_name_of_its_own_and_is_found_by_it() {
        let paths =
            ["a/b", "a%2Fb", "a%2fb", "100 %", "é/ñ.csv", "#1", "x#1", "q?", "tab\there", "~", "[x]", "a*", "a\\b"];
        let names: BTreeSet<String> = paths.iter().map(|path| key(path).to_string()).collect();
        assert_eq!(names.len(), paths.len(), "{names:?}");
        assert!(names.contains("é/ñ.csv"), "names that clouds take stay readable: {names:?}");
        let dir = tempfile::tempdir().unwrap();
        let file = place(&format!("file://{}", dir.path().join("new").display()));
        let memory = place("s3://twin/x");
        let stores = [
            (file, Objects::new(Credentials::default())),
            (memory.clone(), Objects::with(&memory, Arc::new(InMemory::new()))),
        ];
        for (place, objects) in stores {
            run(async {
                for path in paths {
                    objects.put(&place, path, path.as_bytes().to_vec()).await.unwrap();
                }
                for path in paths {
                    assert_eq!(objects.get(&place, path, 64).await.unwrap(), path.as_bytes(), "{place} {path}");
                    assert_eq!(
                        objects.head(&place, path).await.unwrap().map(|(_, size)| size),
                        Some(path.len() as u64)
                    );
                    objects.remove(&place, path).await.unwrap();
                    assert!(objects.get(&place, path, 64).await.unwrap_err().is_missing());
                    assert_eq!(objects.head(&place, path).await.unwrap(), None);
                }
                objects.remove(&place, "never there").await.unwrap();
                objects.probe(&place, "me").await.unwrap();
            });
        }
    }

    #[test]
    fn large_files_go_in_parts_and_come_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let at = place("s3://twin");
        let (memory, to) = (Objects::with(&at, Arc::new(InMemory::new())), dir.path().join("back"));
        let bytes: Vec<u8> = (0..(2 * PART_BYTES + 7)).map(|at| (at % 251) as u8).collect();
        let wanted = (ContentId::of(&bytes), bytes.len() as u64);
        let on_disk = place(&format!("file://{}", dir.path().join("store").display()));
        for (place, objects) in [(at, memory), (on_disk, Objects::new(Credentials::default()))] {
            run(async {
                objects.put_file(&place, "large", file_of(dir.path(), &bytes)).await.unwrap();
                objects.get_file(&place, "large", wanted, &to).await.unwrap();
            });
            assert!(std::fs::read(&to).unwrap() == bytes);
        }
    }

    #[test]
    fn other_bytes_than_the_hash_promises_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = place("s3://twin");
        let objects = Objects::with(&at, Arc::new(InMemory::new()));
        let wanted = (ContentId::of(b"right"), 5);
        run(async {
            for wrong in [b"wrong".as_slice(), b"righ", b"right and more"] {
                objects.put(&at, "x", wrong.to_vec()).await.unwrap();
                let refused = objects.get_file(&at, "x", wanted, &dir.path().join("x")).await.unwrap_err();
                assert!(matches!(refused.why, Why::Altered(_)), "{refused}");
            }
            assert!(matches!(objects.get(&at, "x", 3).await.unwrap_err().why, Why::Altered(_)));
            objects.put(&at, "x", b"right".to_vec()).await.unwrap();
            objects.get_file(&at, "x", wanted, &dir.path().join("x")).await.unwrap();
        });
    }

    #[test]
    fn what_does_not_work_is_told_in_one_line_with_what_to_do() {
        // A port that was free a moment ago: nobody listens.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("http://127.0.0.1:{port}");
        let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_ENDPOINT_URL", &address)];
        let refuse = |text: &str, pairs: &[(&str, &str)]| {
            let objects = Objects::new(Credentials::from_pairs(pairs));
            let trouble = run(objects.put(&place(text), "x", Vec::new())).expect_err(text);
            let line = trouble.to_string();
            assert!(line.contains("; ") && !line.contains('\n') && !line.contains("hunter2"), "{line}");
            trouble
        };
        assert!(matches!(refuse("s3://lab", &keys).why, Why::PlainHttp));
        let allowed = [keys.as_slice(), &[("AWS_ALLOW_HTTP", "true")]].concat();
        assert!(matches!(refuse("s3://lab", &allowed).why, Why::Unreachable(_)));
        assert!(matches!(refuse("s3://lab", &allowed[..1]).why, Why::NoCredentials));
        assert!(matches!(refuse("az://box", &[]).why, Why::NoCredentials));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let under_a_file = format!("file://{}/file/x", dir.path().display());
        assert!(matches!(refuse(&under_a_file, &[]).why, Why::Disk(_)));
    }
}
