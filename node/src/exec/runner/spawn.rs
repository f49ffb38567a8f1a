//! Turns an order into a process: finds the program, opens the outputs, starts it in a process group of its
//! own. Says in `proto`'s words why that did not work.
//!
//! Speed matters here (10,000 small jobs are a normal day), so nothing forces `std` away from
//! `posix_spawn`: no `pre_exec`, and a program that is given by its full path.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proto::job::StartFailure;
use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::exec::process::{now_ticks, read_row};
use crate::exec::protocol::{MARKER, Output, ProcessId, StartOrder, TEXT_MAX};

/// Logs may hold what others must not read: only the node's user may.
const LOG_MODE: u32 = 0o600;
/// Where programs are looked for when the order's environment has no `PATH`, as `execvp` does.
const PATH_DEFAULT: &str = "/bin:/usr/bin";
/// Jobs are killed for memory before daemon and runner are. Not 1000: a far larger process of someone else goes first.
const OOM_SCORE_ADJ: i32 = 300;

/// Starts processes.
pub(super) struct Spawner {
    /// `/dev/null`, opened once.
    null: File,
    oom_score: OomScore,
}

/// The runner's own `oom_score_adj`, raised while a job is started so that the job inherits it. Writing the
/// job's own afterwards costs a tenth of a start, and what the job forked meanwhile would not have it. A
/// runner that is raised for a moment still has far less memory than any job the kernel would rather kill.
struct OomScore {
    file: File,
    own: i32,
}

impl Spawner {
    /// Opens what every start needs.
    pub(super) fn new() -> io::Result<Self> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        Ok(Self { null, oom_score: OomScore::open()? })
    }

    /// Starts `order`; returns its main process, which leads a process group of the same number.
    pub(super) fn spawn(&self, order: &StartOrder) -> Result<ProcessId, StartFailure> {
        check(order)?;
        let program = find_program(order)?;
        let (stdout, stderr) = self.outputs(order)?;
        let mut command = Command::new(&program);
        command
            .arg0(&order.command[0])
            .args(&order.command[1..])
            .env_clear()
            .envs(&order.env)
            .env(MARKER, order.attempt.to_string())
            .current_dir(&order.cwd)
            // The runner's own standard input is /dev/null.
            .stdin(Stdio::inherit())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
        let before = now_ticks();
        self.oom_score.raise();
        let child = command.spawn();
        self.oom_score.restore();
        let pid = child.map_err(|error| explain(&error, order))?.id();
        let after = now_ticks();
        // The kernel stamps the start between the two readings; only across a tick it must be asked.
        let start_time = if before == after { before } else { read_row(pid).map_or(after, |row| row.id.start_time) };
        Ok(ProcessId { pid, start_time })
    }

    fn outputs(&self, order: &StartOrder) -> Result<(Stdio, Stdio), StartFailure> {
        match (&order.stdout, &order.stderr) {
            (Output::File(stdout), Output::File(stderr)) if stdout == stderr => {
                let file = open_log(stdout)?;
                let copy = file.try_clone().map_err(|error| system(&format!("cannot copy a descriptor: {error}")))?;
                Ok((file.into(), copy.into()))
            }
            (stdout, stderr) => Ok((self.output(stdout)?, self.output(stderr)?)),
        }
    }

    fn output(&self, output: &Output) -> Result<Stdio, StartFailure> {
        match output {
            Output::Null => {
                let null = self.null.try_clone();
                Ok(null.map_err(|error| system(&format!("cannot copy a descriptor: {error}")))?.into())
            }
            Output::File(path) => Ok(open_log(path)?.into()),
        }
    }
}

impl OomScore {
    fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/proc/self/oom_score_adj")?;
        let own = io::read_to_string(&file)?.trim().parse().unwrap_or(OOM_SCORE_ADJ);
        Ok(Self { file, own })
    }

    fn raise(&self) {
        self.write(OOM_SCORE_ADJ);
    }

    fn restore(&self) {
        self.write(self.own);
    }

    /// Only if jobs would have less: whoever gave the node more knows why.
    fn write(&self, score: i32) {
        if self.own < OOM_SCORE_ADJ {
            // Back to where one came from is always allowed; a job without it is only a little less preferred.
            let _ = self.file.write_at(score.to_string().as_bytes(), 0);
        }
    }
}

/// A failure of the operating system, cut to what a report may hold.
pub(super) fn system(text: &str) -> StartFailure {
    StartFailure::System(cut(text))
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_MAX)].to_owned()
}

fn check(order: &StartOrder) -> Result<(), StartFailure> {
    if order.command.first().is_none_or(String::is_empty) {
        return Err(StartFailure::CommandNotFound(String::new()));
    }
    if !order.cwd.is_absolute() {
        return Err(system(&format!("working directory {} is not absolute", order.cwd.display())));
    }
    match order.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        Some(name) => Err(system(&format!("{name:?} cannot be the name of an environment variable"))),
        None => Ok(()),
    }
}

/// The full path of the order's program: from its `cwd` if it has a `/`, else from the first directory of its
/// `PATH` that has an executable file of that name.
fn find_program(order: &StartOrder) -> Result<PathBuf, StartFailure> {
    let name = &order.command[0];
    if name.contains('/') {
        let program = order.cwd.join(name);
        return match judge(&program) {
            Candidate::Executable => Ok(program),
            Candidate::NotExecutable => Err(StartFailure::NotExecutable(cut(name))),
            Candidate::Absent => Err(StartFailure::CommandNotFound(cut(name))),
        };
    }
    let path = order.env.get("PATH").map_or(PATH_DEFAULT, String::as_str);
    let mut not_executable = false;
    for directory in path.split(':') {
        // An empty or relative entry counts from the job's directory, as it would in the job itself.
        let program = order.cwd.join(directory).join(name);
        match judge(&program) {
            Candidate::Executable => return Ok(program),
            Candidate::NotExecutable => not_executable = true,
            Candidate::Absent => {}
        }
    }
    let failure = if not_executable { StartFailure::NotExecutable } else { StartFailure::CommandNotFound };
    Err(failure(cut(name)))
}

enum Candidate {
    Executable,
    NotExecutable,
    Absent,
}

fn judge(program: &Path) -> Candidate {
    match access(program, Access::EXEC_OK) {
        Ok(()) if program.is_file() => Candidate::Executable,
        // A directory on the way that may not be searched hides the answer; the shells say "not executable" too.
        Ok(()) | Err(Errno::ACCESS) => Candidate::NotExecutable,
        Err(_) => Candidate::Absent,
    }
}

fn open_log(path: &Path) -> Result<File, StartFailure> {
    if !path.is_absolute() {
        return Err(system(&format!("log file {} is not absolute", path.display())));
    }
    let file = OpenOptions::new().append(true).create(true).mode(LOG_MODE).open(path);
    file.map_err(|error| system(&format!("cannot open log file {}: {error}", path.display())))
}

/// Why the system call failed although the program was found.
fn explain(error: &io::Error, order: &StartOrder) -> StartFailure {
    let name = cut(&order.command[0]);
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        _ if !order.cwd.is_dir() => system(&format!("working directory {} does not exist", order.cwd.display())),
        // The file is there, so it is the program named in its first line that is not.
        Some(Errno::NOENT) => StartFailure::CommandNotFound(format!("{name} (the interpreter in its first line)")),
        Some(Errno::ACCESS | Errno::PERM) => StartFailure::NotExecutable(name),
        Some(Errno::NOEXEC) => StartFailure::NotExecutable(format!("{name} (neither a program nor a script with #!)")),
        _ if order.command.iter().any(|argument| argument.as_bytes().contains(&0)) => {
            system("an argument of the command contains a zero byte")
        }
        _ => system(&format!("cannot start {name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use proto::{AttemptId, GroupId, JobId};

    use super::*;

    fn order(cwd: &Path, program: &str, path: &str) -> StartOrder {
        StartOrder {
            attempt: AttemptId { job: JobId::only(GroupId([3; 16])), epoch: 1, number: 1 },
            command: vec![program.to_owned()],
            cwd: cwd.to_owned(),
            env: BTreeMap::from([("PATH".to_owned(), path.to_owned())]),
            stdout: Output::Null,
            stderr: Output::Null,
            memory_limit_bytes: 0,
            cpu_milli: 0,
            timeout_s: 0,
            grace_ms: 0,
            cleanup_dir: None,
            after: None,
        }
    }

    fn file(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().expect("has one")).expect("made");
        fs::write(path, "text").expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    #[test]
    fn programs_are_found_as_the_job_would_find_them() {
        let home = tempfile::tempdir().expect("made");
        let cwd = home.path();
        file(&cwd.join("a/tool"), 0o644);
        file(&cwd.join("b/tool"), 0o755);
        file(&cwd.join("here"), 0o755);
        fs::create_dir(cwd.join("b/folder")).expect("made");
        let find = |program: &str, path: &str| find_program(&order(cwd, program, path));
        assert_eq!(find("tool", "none:a:b"), Ok(cwd.join("b/tool")));
        assert_eq!(find("tool", "a"), Err(StartFailure::NotExecutable("tool".to_owned())));
        assert_eq!(find("tool", "none"), Err(StartFailure::CommandNotFound("tool".to_owned())));
        assert_eq!(find("folder", "b"), Err(StartFailure::NotExecutable("folder".to_owned())));
        assert_eq!(find("here", "a::b"), Ok(cwd.join("here")));
        assert_eq!(find("./here", ""), Ok(cwd.join("./here")));
        assert_eq!(find("a/tool", ""), Err(StartFailure::NotExecutable("a/tool".to_owned())));
        assert_eq!(find("/no/such", ""), Err(StartFailure::CommandNotFound("/no/such".to_owned())));
    }

    #[test]
    fn what_cannot_be_started_says_why() {
        let home = tempfile::tempdir().expect("made");
        let cwd = home.path();
        file(&cwd.join("text"), 0o755);
        file(&cwd.join("script"), 0o755);
        fs::write(cwd.join("script"), "#!/no/such/python\n").expect("written");
        let spawner = Spawner::new().expect("opens");
        let failure = |order: &StartOrder| spawner.spawn(order).expect_err("cannot start");
        assert!(matches!(failure(&order(cwd, "./text", "")), StartFailure::NotExecutable(text) if text.contains("#!")));
        let script = failure(&order(cwd, "./script", ""));
        assert!(matches!(script, StartFailure::CommandNotFound(text) if text.contains("interpreter")));
        assert_eq!(failure(&order(cwd, "", "")), StartFailure::CommandNotFound(String::new()));
        let gone = failure(&order(&cwd.join("gone"), "/bin/true", ""));
        assert!(matches!(gone, StartFailure::System(text) if text.contains("gone does not exist")));
        let mut bad = order(cwd, "/bin/true", "");
        bad.stdout = Output::File(cwd.join("none/log"));
        assert!(matches!(failure(&bad), StartFailure::System(text) if text.contains("none/log")));
        let mut bad = order(cwd, "/bin/true", "");
        bad.command.push("a\0b".to_owned());
        assert!(matches!(failure(&bad), StartFailure::System(text) if text.contains("zero byte")));
    }
}
