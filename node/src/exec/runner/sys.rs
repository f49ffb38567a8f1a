//! The system calls that neither `std` nor `rustix` has: waiting for any child with what it used, and
//! handling signals. All of the runner's `unsafe` is here.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use proto::job::Usage;
use rustix::event::{EventfdFlags, eventfd};

/// A child that was waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaped {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// What it and the children that it waited for used.
    pub(super) usage: Usage,
}

/// The signals that wake the runner's loop. They are handled, neither blocked nor ignored: jobs would inherit
/// a mask or an ignored signal, but never a handler.
pub(super) struct Signals(OwnedFd);

/// What [`Signals`] brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrived {
    /// A child ended.
    pub(super) child: bool,
    /// Someone wants the runner to end.
    pub(super) terminate: bool,
}

/// Descriptor of the eventfd that the handler writes to.
static WAKE: AtomicI32 = AtomicI32::new(-1);
static CHILD: AtomicBool = AtomicBool::new(false);
static TERMINATE: AtomicBool = AtomicBool::new(false);

/// Does only what is allowed at any moment: atomics and write(2). The write cannot block and its failure means
/// that the loop is awake already.
extern "C" fn on_signal(signal: libc::c_int) {
    match signal {
        libc::SIGCHLD => CHILD.store(true, Ordering::Release),
        libc::SIGTERM | libc::SIGINT => TERMINATE.store(true, Ordering::Release),
        // SIGHUP: a runner has no terminal whose end could concern it.
        _ => return,
    }
    let one = 1_u64.to_ne_bytes();
    // SAFETY: errno's location is this thread's own; write gets a valid buffer of the length given.
    #[expect(unsafe_code, reason = "a signal handler may call nothing else")]
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(WAKE.load(Ordering::Acquire), one.as_ptr().cast(), one.len());
        *errno = before;
    }
}

impl Signals {
    /// Handles SIGCHLD, SIGTERM, SIGINT and SIGHUP from now on. Once per process.
    pub(super) fn handle() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        WAKE.store(wake.as_raw_fd(), Ordering::Release);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            // SAFETY: sigaction is plain data for which zeros are valid (an empty mask, no flags); the handler has the
            // type that goes without SA_SIGINFO and is safe in a signal's context.
            #[expect(unsafe_code, reason = "neither std nor rustix installs signal handlers")]
            let result = unsafe {
                let mut action = std::mem::zeroed::<libc::sigaction>();
                action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
                action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut())
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self(wake))
    }

    /// What came since the last call; waits for nothing.
    pub(super) fn take(&self) -> Arrived {
        // First the descriptor, then the flags: a signal in between wakes the loop once more.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
        Arrived { child: CHILD.swap(false, Ordering::AcqRel), terminate: TERMINATE.swap(false, Ordering::AcqRel) }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A child that is dead and not waited for. It keeps its number until [`reap`], so its process group can
/// be signalled safely until then.
pub(super) fn dead_child() -> Option<u32> {
    // SAFETY: siginfo_t is plain data for which zeros are valid, and waitid gets a valid pointer to it. With
    // WNOHANG and no dead child the kernel leaves or writes a zero pid. si_pid reads the field waitid fills.
    #[expect(unsafe_code, reason = "rustix's waitid does not tell which child it found")]
    let pid = unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_ALL, 0, &raw mut info, options) != 0 {
            return None;
        }
        info.si_pid()
    };
    u32::try_from(pid).ok().filter(|&pid| pid > 0)
}

/// Waits for the dead child `pid`; `None` if it is not a child or not dead.
pub(super) fn reap(pid: u32) -> Option<Reaped> {
    let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0)?;
    let mut status = 0;
    // SAFETY: rusage is plain data for which zeros are valid; wait4 gets valid pointers to both.
    #[expect(unsafe_code, reason = "std and rustix wait without telling what the child used")]
    let (found, usage) = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        (libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage), usage)
    };
    if found != pid {
        return None;
    }
    let millis = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_usec).unwrap_or(0) / 1000
    };
    let usage = Usage {
        cpu_ms: millis(usage.ru_utime) + millis(usage.ru_stime),
        // Linux counts it in KiB.
        memory_max_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    };
    Some(Reaped { status: ExitStatus::from_raw(status), usage })
}
