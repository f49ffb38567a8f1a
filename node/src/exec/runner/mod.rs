//! The second process of a node: starts jobs, owns their process groups, log files and exit statuses, and
//! tells the daemon over a Unix socket (`exec::protocol`). It outlives the daemon, so that stopping,
//! upgrading or killing the daemon leaves jobs running, and starts the daemon again.
//!
//! It never touches the network, decides nothing about jobs, and stays small: one thread, `poll`, no runtime.
//! [`main`] must therefore be called before anything else of the binary is set up. It ends when no
//! daemon and no job needs it (`daemon.rs` has the rule); endings that no daemon has on disk stay in a file.

mod attempt;
mod attempts;
mod cgroup;
mod cleaner;
mod connection;
mod daemon;
mod endings;
mod files;
mod log;
mod memory;
mod orphans;
mod respawn;
mod serve;
mod spawn;
mod sys;
mod waiting;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use proto::AttemptId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::attempts::Attempts;
use self::cgroup::Cgroups;
pub use self::files::{RunnerFiles, RunnerRecord};
use self::log::note;
use self::respawn::DaemonCommand;
use self::serve::Server;
use self::spawn::Spawner;
use self::sys::Signals;
use super::process::kill_orphans;
use super::protocol::JOBS_DIR;

/// What a runner writes to its standard output once it can be connected to.
pub const READY: &str = "ready\n";
/// Exit code of a runner whose directory another runner has.
pub const EXIT_OTHER_RUNNER: u8 = 3;
/// `FNODE_RESPAWN=0`: the runner does not start its daemon again.
pub const RESPAWN_VARIABLE: &str = "FNODE_RESPAWN";

const USAGE: &str = "usage: fnode runner --dir PATH [--daemon PROGRAM [ARGUMENT…]]";

/// Why a runner did not start, or ended early.
#[derive(Debug, thiserror::Error)]
enum RunnerFailure {
    #[error("{USAGE}")]
    Usage,
    #[error("another runner serves {0}")]
    OtherRunner(PathBuf),
    #[error("cannot {what} {path}: {source}")]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: io::Error },
}

/// What the command line says.
struct Args {
    directory: PathBuf,
    daemon: Vec<OsString>,
}

/// Runs a runner until it has nothing to do any more. `args`: what follows `fnode runner`. Must be called on
/// the process's main thread while that is its only one.
#[must_use]
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let result = parse(args).and_then(run);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Before the runner is ready this is its parent's pipe, afterwards its log.
            let _ = writeln!(io::stderr(), "fnode runner: {failure}");
            ExitCode::from(match failure {
                RunnerFailure::Usage => 2,
                RunnerFailure::OtherRunner(_) => EXIT_OTHER_RUNNER,
                RunnerFailure::File { .. } | RunnerFailure::System { .. } => 1,
            })
        }
    }
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Args, RunnerFailure> {
    let mut directory = None;
    while let Some(arg) = args.next() {
        if arg == "--dir" {
            directory = Some(PathBuf::from(args.next().ok_or(RunnerFailure::Usage)?));
        } else if arg == "--daemon" {
            let daemon: Vec<_> = args.by_ref().collect();
            let directory = directory.filter(|_| !daemon.is_empty()).ok_or(RunnerFailure::Usage)?;
            return Ok(Args { directory, daemon });
        } else {
            return Err(RunnerFailure::Usage);
        }
    }
    Ok(Args { directory: directory.ok_or(RunnerFailure::Usage)?, daemon: Vec::new() })
}

/// What an earlier runner of this node started and nobody owns any more: its attempts are lost, and run again elsewhere.
/// Their directories lie beside the runner's own.
fn kill_strays(run: &Path) {
    let jobs = run.parent().map(|home| home.join(JOBS_DIR)).and_then(|jobs| std::fs::read_dir(jobs).ok());
    let names = jobs.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let attempts: BTreeSet<AttemptId> = names.filter_map(|name| AttemptId::from_file_name(&name)).collect();
    if !kill_orphans(&attempts) {
        let _ = writeln!(io::stderr(), "fnode runner: processes of an earlier runner do not end");
    }
}

fn run(args: Args) -> Result<(), RunnerFailure> {
    let files = RunnerFiles::new(&args.directory).map_err(file("find", &args.directory))?;
    files.make_directory().map_err(file("make", files.directory()))?;
    let lock = files.take_lock().map_err(file("lock", &files.lock()))?;
    // Held to the end: whoever has it may replace socket and pid file.
    let _lock: File = lock.ok_or_else(|| RunnerFailure::OtherRunner(files.directory().to_owned()))?;
    kill_strays(files.directory());
    detach()?;
    let signals = Signals::handle().map_err(system("handle signals"))?;
    let listener = listen(&files).map_err(file("listen on", &files.socket()))?;
    let record = files.write_record().map_err(file("write", &files.pid()))?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(system("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(|errno| system("close standard input")(errno.into()))?;
    let log = files::open_log(&files.log()).map_err(file("open", &files.log()))?;
    let ended = endings::load(&files.endings()).map_err(file("read", &files.endings()))?;
    let spawner = Spawner::new().map_err(system("open /dev/null"))?;

    // From here on nobody listens to what this process prints.
    let _ = io::stdout().write_all(READY.as_bytes()).and_then(|()| io::stdout().flush());
    rustix::stdio::dup2_stdout(&null).map_err(|errno| system("close standard output")(errno.into()))?;
    rustix::stdio::dup2_stderr(&log).map_err(|errno| system("redirect standard error")(errno.into()))?;
    drop(null);
    drop(log);

    let cgroups = Cgroups::detect().inspect_err(|reason| note(format_args!("memory is watched, {reason}"))).ok();
    note(format_args!("runner {} of fnode {}", record.process.pid, env!("CARGO_PKG_VERSION")));
    let respawns = std::env::var_os(RESPAWN_VARIABLE).is_none_or(|value| value != "0");
    let daemon = DaemonCommand::new(if respawns { args.daemon } else { Vec::new() }, files.clone());
    let attempts = Attempts::new(spawner, cgroups, ended);
    let mut server = Server::new((signals, listener), attempts, record, daemon);
    // The parser of the command line and what else the start needed; a refusal changes nothing.
    let _ = crate::footprint::give_back_program_pages();
    crate::footprint::forget_peak();
    let result = server.run().map_err(system("wait for events"));
    finish(&files, &server);
    result
}

/// Leaves the session, the core dumps and the orphans' fate of whoever started this process behind.
fn detach() -> Result<(), RunnerFailure> {
    // Refused only to the leader of a process group, which a shell that starts the runner by hand makes it.
    let _ = rustix::process::setsid();
    // The value only has to be a process number, not zero.
    let yes = Some(rustix::process::getpid());
    rustix::process::set_child_subreaper(yes).map_err(|errno| system("become a child subreaper")(errno.into()))?;
    // Jobs inherit it and may raise it again: a core dump of a training job can fill a disk.
    let cores = Rlimit { current: Some(0), ..getrlimit(Resource::Core) };
    setrlimit(Resource::Core, cores).map_err(|errno| system("turn core dumps off")(errno.into()))
}

fn listen(files: &RunnerFiles) -> io::Result<UnixListener> {
    // A socket that is there belongs to a runner that is gone: this one has the lock.
    match std::fs::remove_file(files.socket()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(files.socket_path()?.path)?;
    std::fs::set_permissions(files.socket(), Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Leaves what the next runner needs, and nothing else.
fn finish(files: &RunnerFiles, server: &Server) {
    let left = server.attempts.unforgotten();
    note(format_args!("ends; {} endings are left for the next runner", left.len()));
    if let Err(error) = endings::save(&files.endings(), left) {
        note(format_args!("cannot write {}: {error}", files.endings().display()));
    }
    for path in [files.socket(), files.pid()] {
        // Gone with its directory, perhaps.
        let _ = std::fs::remove_file(path);
    }
}

fn file<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> RunnerFailure + 'a {
    move |source| RunnerFailure::File { what, path: path.to_owned(), source }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> RunnerFailure {
    move |source| RunnerFailure::System { what, source }
}
