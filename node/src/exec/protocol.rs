//! The words between a node's daemon and its runner, and how they travel on the Unix socket.
//!
//! A frame is `len u32 | version u16 | body`, integers little-endian, body in bincode's standard
//! configuration; `len` counts what follows it. The first frame of each side has version 0: its layout
//! ([`Hello`], [`Welcome`]) never changes, so any two builds can find out what they share. A changed
//! layout of the other words takes a new version; the previous one stays here as `mod v1` and in
//! the `match version` of the two `decode_…` functions, because the runner is replaced only when idle
//! and a new daemon therefore meets an old runner. Used by `exec::client` and `exec::runner`; no I/O.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proto::AttemptId;
use proto::job::{Ending, Usage};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the frames that carry [`Hello`] and [`Welcome`].
pub const HANDSHAKE: u16 = 0;
/// Oldest version of the other words that this build speaks.
pub const VERSION_MIN: u16 = 1;
/// Newest version of the other words that this build speaks.
pub const VERSION_MAX: u16 = 1;
/// Largest frame, without its length field: three commands with the largest environment Linux can start.
pub const FRAME_MAX: usize = 8 << 20;
/// Largest frame before the handshake is done: a stranger's bytes cost no more memory than this.
pub const HANDSHAKE_MAX: usize = 4 << 10;
/// Orders are put together in one frame up to this estimate, far enough below [`FRAME_MAX`].
pub const BATCH_MAX: usize = 1 << 20;
/// Most statuses, events or ids in one frame: with texts cut to [`TEXT_MAX`] they stay below [`FRAME_MAX`].
pub const ITEMS_MAX: usize = 4096;
/// Longest text of a failure that the runner reports, in bytes.
pub const TEXT_MAX: usize = 1 << 10;
/// Set in every job's environment; how the runner knows processes that left their parent and their group.
pub const MARKER: &str = "FNODE_ATTEMPT_ID";
/// Beside the runner's directory: a directory per attempt, named by [`AttemptId::file_name`].
pub const JOBS_DIR: &str = "jobs";

const LEN_BYTES: usize = 4;
const VERSION_BYTES: usize = 2;

/// The daemon's first word. Its layout is frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version it speaks.
    pub version_min: u16,
    /// Newest version it speaks.
    pub version_max: u16,
    /// For people: the daemon's version.
    pub build: String,
}

/// The runner's answer to [`Hello`]. Its layout is frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// What both sides speak from here on; 0: nothing, and the runner closes the connection.
    pub version: u16,
    /// Oldest version the runner speaks.
    pub version_min: u16,
    /// Newest version the runner speaks.
    pub version_max: u16,
    /// For people: the runner's version.
    pub build: String,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// The runner itself.
    pub runner: ProcessId,
}

/// A process that cannot be mistaken for a later one with the same number, within one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The kernel's number for it.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
}

/// What a daemon tells its runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRunner {
    /// Start these, in this order. An attempt that the runner knows already is not started again: its
    /// [`Event`] is repeated.
    Start(Vec<StartOrder>),
    /// End an attempt: SIGTERM to its whole tree, SIGKILL after the grace.
    Stop {
        /// Which one.
        attempt: AttemptId,
        /// Milliseconds between the two signals.
        grace_ms: u64,
    },
    /// Say what runs and what ended.
    List,
    /// The daemon has these endings on disk.
    Forget(Vec<AttemptId>),
    /// End the runner.
    Shutdown(ShutdownWhen),
    /// The daemon leaves on purpose: do not start it again.
    Goodbye,
}

/// When a runner that was told to end does so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownWhen {
    /// As soon as no attempt runs; orders are still taken until then.
    Idle,
    /// At once: attempts are stopped with their own grace and end as lost with their runner.
    Now,
}

/// Everything the runner needs to start an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartOrder {
    /// Its name.
    pub attempt: AttemptId,
    /// Program and arguments; the program is looked up in the `PATH` of `env`, or from `cwd` if it has a `/`.
    pub command: Vec<String>,
    /// Absolute directory to run in.
    pub cwd: PathBuf,
    /// The complete environment; the runner adds only [`MARKER`].
    pub env: BTreeMap<String, String>,
    /// Standard output.
    pub stdout: Output,
    /// Standard error; may be the same file.
    pub stderr: Output,
    /// Most memory of the whole tree, in bytes; 0: no limit.
    pub memory_limit_bytes: u64,
    /// Thousandths of a CPU, its share when CPUs are short; 0: the default share.
    pub cpu_milli: u32,
    /// Seconds after which it is stopped as timed out; 0: never.
    pub timeout_s: u64,
    /// Milliseconds between SIGTERM and SIGKILL at a timeout or shutdown.
    pub grace_ms: u64,
    /// Directory that is removed with all its contents once the attempt's tree is gone.
    pub cleanup_dir: Option<PathBuf>,
    /// Start only when this attempt has ended, however it ends, and in the same moment: its reservation passes
    /// on without a round trip to the daemon. `None`, ended or unknown: at once.
    pub after: Option<AttemptId>,
}

/// Where a job's output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Nowhere.
    Null,
    /// To the end of this file, made if it is not there. Absolute.
    File(PathBuf),
}

/// What a runner tells its daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDaemon {
    /// What happened since the last frame, oldest first.
    Events(Vec<Event>),
    /// Answer to [`ToRunner::List`], in one or more frames.
    Listed {
        /// Every attempt that waits or runs, or ended and is not forgotten; sorted.
        attempts: Vec<AttemptStatus>,
        /// Whether more frames follow.
        more: bool,
    },
}

/// Something that happened to one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Its process runs.
    Started(Started),
    /// Its whole tree is gone.
    Ended(Ended),
    /// A stop named an attempt that neither runs nor ended here.
    Unknown(AttemptId),
}

/// An attempt whose process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Which one.
    pub attempt: AttemptId,
    /// Its main process, which also leads its process group.
    pub process: ProcessId,
    /// Milliseconds since 1970.
    pub started_unix_ms: u64,
}

/// An attempt that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which one.
    pub attempt: AttemptId,
    /// How.
    pub ending: Ending,
    /// What its main process and the children that it waited for used.
    pub usage: Usage,
    /// Milliseconds since 1970; 0: it was never started.
    pub started_unix_ms: u64,
    /// Milliseconds since 1970.
    pub ended_unix_ms: u64,
}

/// Where an attempt stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptStatus {
    /// It waits for [`StartOrder::after`].
    Waiting(AttemptId),
    /// It runs, or is being stopped.
    Running(Started),
    /// It ended, and the daemon has not said [`ToRunner::Forget`].
    Ended(Ended),
}

/// Why bytes on the socket are not a frame, or a word does not fit in one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The announced length is beyond the limit.
    #[error("a frame of {len} bytes is more than the {max} allowed")]
    TooLong {
        /// Announced or needed length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The announced length does not even hold the version.
    #[error("a frame of {0} bytes is too short")]
    TooShort(usize),
    /// A version that was not agreed on.
    #[error("a frame of version {found} where version {wanted} was agreed on")]
    Version {
        /// Version in the frame.
        found: u16,
        /// Version agreed on.
        wanted: u16,
    },
    /// The body does not decode, or has bytes after its end.
    #[error("malformed frame")]
    Body,
    /// The word cannot be encoded: it holds a path that is not UTF-8.
    #[error("a path or text is not UTF-8")]
    Encode,
}

/// A frame inside a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Version of the body's layout.
    pub version: u16,
    /// The encoded word.
    pub body: &'a [u8],
    /// Bytes of the buffer up to the end of this frame.
    pub used: usize,
}

impl Hello {
    /// What this build says.
    #[must_use]
    pub fn ours() -> Self {
        Self { version_min: VERSION_MIN, version_max: VERSION_MAX, build: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// The newest version that this build and the other side speak.
    #[must_use]
    pub fn agree(&self) -> Option<u16> {
        let version = self.version_max.min(VERSION_MAX);
        (version >= self.version_min.max(VERSION_MIN)).then_some(version)
    }
}

impl StartOrder {
    /// Not less than the bytes it takes in a frame.
    #[must_use]
    pub fn size_max(&self) -> usize {
        // Nine bytes are bincode's longest length or integer; the ids and numbers stay below 256.
        let text = |len: usize| len + 9;
        let path = |path: &PathBuf| text(path.as_os_str().len());
        let output = |output: &Output| match output {
            Output::Null => 9,
            Output::File(file) => 9 + path(file),
        };
        256 + self.command.iter().map(|argument| text(argument.len())).sum::<usize>()
            + self.env.iter().map(|(name, value)| text(name.len()) + text(value.len())).sum::<usize>()
            + path(&self.cwd)
            + output(&self.stdout)
            + output(&self.stderr)
            + self.cleanup_dir.as_ref().map_or(9, path)
    }
}

impl StartOrder {
    /// Whether it can be sent: small enough for a frame, with paths that are UTF-8.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] and [`ProtocolError::Encode`].
    pub fn check(&self) -> Result<(), ProtocolError> {
        let size = self.size_max();
        if size + BATCH_MAX > FRAME_MAX {
            return Err(ProtocolError::TooLong { len: size, max: FRAME_MAX - BATCH_MAX });
        }
        let is_text = |path: &Path| path.to_str().is_some();
        let output = |output: &Output| match output {
            Output::Null => true,
            Output::File(path) => is_text(path),
        };
        let all = is_text(&self.cwd) && output(&self.stdout) && output(&self.stderr);
        if all && self.cleanup_dir.as_deref().is_none_or(is_text) { Ok(()) } else { Err(ProtocolError::Encode) }
    }
}

impl AttemptStatus {
    /// Which attempt.
    #[must_use]
    pub fn attempt(&self) -> AttemptId {
        match self {
            Self::Waiting(attempt) => *attempt,
            Self::Running(started) => started.attempt,
            Self::Ended(ended) => ended.attempt,
        }
    }
}

/// Appends a frame with `word` to `out`; `out` is unchanged after an error.
///
/// # Errors
/// [`ProtocolError::Encode`] and [`ProtocolError::TooLong`].
pub fn put_frame<T: Serialize>(out: &mut Vec<u8>, version: u16, word: &T) -> Result<(), ProtocolError> {
    let start = out.len();
    out.extend_from_slice(&[0; LEN_BYTES]);
    out.extend_from_slice(&version.to_le_bytes());
    let encoded = bincode::serde::encode_into_std_write(word, &mut *out, bincode::config::standard());
    let len = out.len() - start - LEN_BYTES;
    let result = match encoded {
        Err(_) => Err(ProtocolError::Encode),
        Ok(_) if len > FRAME_MAX => Err(ProtocolError::TooLong { len, max: FRAME_MAX }),
        Ok(_) => Ok(()),
    };
    match result {
        Ok(()) => {
            let len = u32::try_from(len).expect("FRAME_MAX fits in 32 bits");
            out[start..start + LEN_BYTES].copy_from_slice(&len.to_le_bytes());
        }
        Err(_) => out.truncate(start),
    }
    result
}

/// The first frame of `buffer`; `None`: more bytes are needed.
///
/// # Errors
/// [`ProtocolError::TooLong`] with `max`, [`ProtocolError::TooShort`]: the stream is not worth reading on.
pub fn take_frame(buffer: &[u8], max: usize) -> Result<Option<Frame<'_>>, ProtocolError> {
    let Some((header, rest)) = buffer.split_first_chunk::<LEN_BYTES>() else { return Ok(None) };
    let len = u32::from_le_bytes(*header) as usize;
    if len > max {
        return Err(ProtocolError::TooLong { len, max });
    }
    if len < VERSION_BYTES {
        return Err(ProtocolError::TooShort(len));
    }
    let Some(frame) = rest.get(..len) else { return Ok(None) };
    let (version, body) = frame.split_at(VERSION_BYTES);
    Ok(Some(Frame { version: u16::from_le_bytes([version[0], version[1]]), body, used: LEN_BYTES + len }))
}

/// A handshake word of type `T`.
///
/// # Errors
/// [`ProtocolError::Version`] and [`ProtocolError::Body`].
pub fn decode_handshake<T: DeserializeOwned>(frame: Frame<'_>) -> Result<T, ProtocolError> {
    check_version(frame, HANDSHAKE)?;
    decode(frame.body)
}

/// What a daemon said, in the layout that was agreed on.
///
/// # Errors
/// [`ProtocolError::Version`] and [`ProtocolError::Body`].
pub fn decode_to_runner(frame: Frame<'_>, agreed: u16) -> Result<ToRunner, ProtocolError> {
    check_version(frame, agreed)?;
    match frame.version {
        1 => decode(frame.body),
        found => Err(ProtocolError::Version { found, wanted: VERSION_MAX }),
    }
}

/// What a runner said, in the layout that was agreed on.
///
/// # Errors
/// [`ProtocolError::Version`] and [`ProtocolError::Body`].
pub fn decode_to_daemon(frame: Frame<'_>, agreed: u16) -> Result<ToDaemon, ProtocolError> {
    check_version(frame, agreed)?;
    match frame.version {
        1 => decode(frame.body),
        found => Err(ProtocolError::Version { found, wanted: VERSION_MAX }),
    }
}

fn check_version(frame: Frame<'_>, wanted: u16) -> Result<(), ProtocolError> {
    if frame.version == wanted { Ok(()) } else { Err(ProtocolError::Version { found: frame.version, wanted }) }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ProtocolError> {
    proto::codec::decode_body(body).map_err(|_| ProtocolError::Body)
}

#[cfg(test)]
mod tests {
    use proto::{GroupId, JobId};

    use super::*;
    use crate::harness::attack::attack;
    use crate::harness::golden::{Sample, check, sections};

    fn attempt() -> AttemptId {
        AttemptId { job: JobId::only(GroupId([1; 16])), epoch: 1, number: 2 }
    }

    fn order() -> StartOrder {
        StartOrder {
            attempt: attempt(),
            command: vec!["sh".to_owned(), "-c".to_owned(), "x".repeat(300)],
            cwd: PathBuf::from("/tmp"),
            env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
            stdout: Output::File(PathBuf::from("/tmp/log")),
            stderr: Output::Null,
            memory_limit_bytes: u64::MAX,
            cpu_milli: u32::MAX,
            timeout_s: u64::MAX,
            grace_ms: u64::MAX,
            cleanup_dir: Some(PathBuf::from("/tmp/x")),
            after: Some(attempt()),
        }
    }

    #[test]
    fn words_come_back_from_their_frames() {
        let words = [
            ToRunner::Start(vec![order()]),
            ToRunner::Stop { attempt: attempt(), grace_ms: 5 },
            ToRunner::List,
            ToRunner::Forget(vec![attempt()]),
            ToRunner::Shutdown(ShutdownWhen::Idle),
            ToRunner::Goodbye,
        ];
        let mut buffer = Vec::new();
        for word in &words {
            put_frame(&mut buffer, 1, word).expect("fits");
        }
        let mut rest = buffer.as_slice();
        for word in &words {
            let frame = take_frame(rest, FRAME_MAX).expect("valid").expect("complete");
            assert_eq!(&decode_to_runner(frame, 1).expect("valid"), word);
            rest = &rest[frame.used..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn the_handshake_keeps_its_bytes() {
        let mut buffer = Vec::new();
        let hello = Hello { version_min: 1, version_max: 2, build: "b".to_owned() };
        put_frame(&mut buffer, HANDSHAKE, &hello).expect("fits");
        assert_eq!(buffer, [6, 0, 0, 0, 0, 0, 1, 2, 1, b'b']);
        let welcome = Welcome {
            version: 1,
            version_min: 1,
            version_max: 3,
            build: "b".to_owned(),
            boot_id: "i".to_owned(),
            runner: ProcessId { pid: 4, start_time: 5 },
        };
        buffer.clear();
        put_frame(&mut buffer, HANDSHAKE, &welcome).expect("fits");
        assert_eq!(buffer, [11, 0, 0, 0, 0, 0, 1, 1, 3, 1, b'b', 1, b'i', 4, 5]);
    }

    #[test]
    fn two_builds_agree_on_the_newest_shared_version() {
        let hello = |version_min, version_max| Hello { version_min, version_max, build: String::new() };
        assert_eq!(Hello::ours().agree(), Some(VERSION_MAX));
        assert_eq!(hello(VERSION_MIN, 99).agree(), Some(VERSION_MAX));
        assert_eq!(hello(VERSION_MAX + 1, 99).agree(), None);
        assert_eq!(hello(0, VERSION_MIN - 1).agree(), None);
    }

    #[test]
    fn hostile_bytes_are_refused() {
        assert_eq!(take_frame(&[1, 0], FRAME_MAX), Ok(None));
        assert_eq!(take_frame(&[9, 0, 0, 0, 1, 0], FRAME_MAX), Ok(None));
        assert_eq!(take_frame(&[1, 0, 0, 0, 1], FRAME_MAX), Err(ProtocolError::TooShort(1)));
        assert_eq!(
            take_frame(b"GET / HTTP/1.1", HANDSHAKE_MAX),
            Err(ProtocolError::TooLong { len: 0x2054_4547, max: HANDSHAKE_MAX })
        );
        let body = |body| Frame { version: 1, body, used: 0 };
        // A vector that claims 2^32 orders, an unknown word, and a byte too many.
        for bytes in [&[0, 253, 0, 0, 0, 0, 1, 0, 0, 0][..], &[77], &[2, 0]] {
            assert_eq!(decode_to_runner(body(bytes), 1), Err(ProtocolError::Body));
        }
        assert_eq!(decode_to_runner(body(&[2]), 2), Err(ProtocolError::Version { found: 1, wanted: 2 }));
    }

    #[test]
    fn the_size_of_an_order_is_not_underestimated() {
        let mut buffer = Vec::new();
        put_frame(&mut buffer, 1, &ToRunner::Start(vec![order()])).expect("fits");
        assert!(order().size_max() >= buffer.len());
    }

    #[test]
    fn a_word_too_large_leaves_the_buffer_as_it_was() {
        let mut buffer = vec![7];
        let big = Hello { version_min: 1, version_max: 1, build: "x".repeat(FRAME_MAX) };
        assert!(matches!(put_frame(&mut buffer, 0, &big), Err(ProtocolError::TooLong { .. })));
        assert_eq!(buffer, [7]);
    }

    fn framed<T: Serialize>(word: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, 1, word).expect("fits");
        bytes
    }

    fn ended() -> Ended {
        let usage = Usage { cpu_ms: 61_000, memory_max_bytes: 300_000_000 };
        let ending = Ending::Signalled { signal: 9 };
        Ended { attempt: attempt(), ending, usage, started_unix_ms: 5, ended_unix_ms: 70_000 }
    }

    fn started() -> Started {
        let process = ProcessId { pid: 70_000, start_time: 5 };
        Started { attempt: attempt(), process, started_unix_ms: 1_700_000_000_500 }
    }

    fn to_runner() -> [ToRunner; 6] {
        [
            ToRunner::Start(vec![order()]),
            ToRunner::Stop { attempt: attempt(), grace_ms: 10_000 },
            ToRunner::List,
            ToRunner::Forget(vec![attempt()]),
            ToRunner::Shutdown(ShutdownWhen::Now),
            ToRunner::Goodbye,
        ]
    }

    fn to_daemon() -> [ToDaemon; 2] {
        let events = vec![Event::Started(started()), Event::Ended(ended()), Event::Unknown(attempt())];
        let waiting = AttemptStatus::Waiting(attempt());
        let attempts = vec![waiting, AttemptStatus::Running(started()), AttemptStatus::Ended(ended())];
        [ToDaemon::Events(events), ToDaemon::Listed { attempts, more: true }]
    }

    fn handshake() -> (Hello, Welcome) {
        let hello = Hello { version_min: 1, version_max: 2, build: "0.1.0".to_owned() };
        let welcome = Welcome {
            version: 1,
            version_min: 1,
            version_max: 3,
            build: "0.1.0".to_owned(),
            boot_id: "9a1c".to_owned(),
            runner: ProcessId { pid: 70_000, start_time: 5 },
        };
        (hello, welcome)
    }

    #[test]
    fn golden_runner_words() {
        check("runner.ToRunner", &sections(&to_runner(), framed));
        check("runner.ToDaemon", &sections(&to_daemon(), framed));
        check("runner.ShutdownWhen", &sections(&[ShutdownWhen::Idle, ShutdownWhen::Now], framed));
        check("runner.Output", &sections(&[Output::Null, Output::File("/tmp/log".into())], framed));
        let [ToDaemon::Events(events), ToDaemon::Listed { attempts, .. }] = to_daemon() else {
            unreachable!("made so above")
        };
        check("runner.Event", &sections(&events, framed));
        check("runner.AttemptStatus", &sections(&attempts, framed));
        let (hello, welcome) = handshake();
        let mut bytes = Vec::new();
        put_frame(&mut bytes, HANDSHAKE, &hello).expect("fits");
        let first = Sample::new("Hello", &hello, std::mem::take(&mut bytes));
        put_frame(&mut bytes, HANDSHAKE, &welcome).expect("fits");
        check("runner.Handshake", &[first, Sample::new("Welcome", &welcome, bytes)]);
    }

    /// The frame that `bytes` are, all of them.
    fn whole(bytes: &[u8]) -> Option<Frame<'_>> {
        take_frame(bytes, FRAME_MAX).ok().flatten().filter(|frame| frame.used == bytes.len())
    }

    #[test]
    fn hostile_bytes_in_the_place_of_every_frame_do_no_harm() {
        for word in to_runner() {
            let takes = |bytes: &[u8]| whole(bytes).is_some_and(|frame| decode_to_runner(frame, 1).is_ok());
            attack("ToRunner", &framed(&word), takes);
        }
        for word in to_daemon() {
            let takes = |bytes: &[u8]| whole(bytes).is_some_and(|frame| decode_to_daemon(frame, 1).is_ok());
            attack("ToDaemon", &framed(&word), takes);
        }
        let (hello, welcome) = handshake();
        let (mut first, mut answer) = (Vec::new(), Vec::new());
        put_frame(&mut first, HANDSHAKE, &hello).expect("fits");
        put_frame(&mut answer, HANDSHAKE, &welcome).expect("fits");
        attack("Hello", &first, |bytes| whole(bytes).is_some_and(|frame| decode_handshake::<Hello>(frame).is_ok()));
        attack("Welcome", &answer, |bytes| {
            whole(bytes).is_some_and(|frame| decode_handshake::<Welcome>(frame).is_ok())
        });
    }
}
