//! Runs one command in a root file system, apart from everything else: takes a [`Step`], gives its [`ExitStatus`].
//!
//! Back ends go from strong to weak: *namespaces*, *emulated*. [`probe`] asks the kernel what it allows, [`choose`] (pure)
//! decides, [`open`] gives the one that acts. What a step changed is read afterwards by [`rootfs`](crate::rootfs),
//! which knows nothing of the back end.

mod capabilities;
mod child;
mod choice;
mod concealment;
mod emulated;
mod ending;
mod landlock;
mod mount_points;
mod mounts;
mod namespaces;
mod probe;
mod seccomp;
mod user_namespace;

pub use choice::{Attempt, Choice, HostFacts, Kind, Proc, Refusal, Refused, choose};
pub use concealment::conceal_process;
pub use emulated::Emulated;
pub use namespaces::Namespaces;
pub use probe::probe;
pub use user_namespace::{Entered, UserNamespaceError, enter_user_namespace};

use crate::confined::ConfinedError;
use crate::rootfs::RootMount;
use crate::tree::TreePath;
use rustix::event::{EventfdFlags, eventfd};
use std::{
    ffi::OsString,
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

/// A way to run a command so that it sees its root file system and little else.
pub trait Isolation: Send + Sync {
    /// Runs `step` to its end, hands its output over as it comes, and returns when every process of the step is dead.
    ///
    /// Blocks: call it from a thread that may wait. A cancelled step, or one that exceeds its time, is killed; one that is
    /// [interrupted](CancelToken::interrupt) first gets the signal and a little time. Whatever was made for the step outside of
    /// its root is gone afterwards, and of the mount points made in the root those that are still empty.
    ///
    /// # Errors
    /// [`RunError`] if the command could not be started or did not end by itself. A command that failed is no error.
    fn run(&self, step: &Step, output: &mut dyn FnMut(Stream, &[u8]), cancel: &CancelToken) -> Result<ExitStatus, RunError>;

    /// How it was chosen: for the log, and for what the root file system must be made of.
    fn choice(&self) -> &Choice;
}

/// The back end of a choice.
pub fn open(choice: Choice) -> Arc<dyn Isolation> {
    match choice.kind {
        Kind::Namespaces => Arc::new(Namespaces::new(choice)),
        Kind::Emulated => Arc::new(Emulated::new(choice)),
    }
}

/// One command and all that it may see. No `Debug`: the environment and the mounts may hold secrets.
#[derive(Clone)]
pub struct Step {
    /// The root file system.
    pub root: RootMount,
    /// The program and its arguments. A program without `/` is looked for along `PATH` of `environment`, inside the root.
    pub arguments: Vec<OsString>,
    /// The whole environment, in order; nothing of the builder's own is added.
    pub environment: Vec<(OsString, OsString)>,
    /// The working directory; made (0755, root) if it is missing, and then part of what the step changed.
    pub directory: TreePath,
    /// Who runs the command.
    pub identity: Identity,
    /// What `uname -n` says.
    pub host_name: String,
    /// Which network it sees.
    pub network: Network,
    /// What it may do.
    pub privileges: Privileges,
    /// What is mounted besides /proc, /dev and /sys, in this order.
    pub mounts: Vec<Mount>,
    /// Content of /etc/resolv.conf while the step runs.
    pub resolv_conf: Vec<u8>,
    /// Content of /etc/hosts while the step runs.
    pub hosts: Vec<u8>,
    /// The step is killed when it takes longer.
    pub time_limit: Option<Duration>,
}

/// User and groups of a process, as numbers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Which network a step sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The one of the builder.
    Host,
    /// A loopback device and nothing else.
    None,
}

/// What a step may do to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// What Docker lets a container do.
    Usual,
    /// All that the builder may do itself, with nothing hidden: `RUN --security=insecure`.
    All,
}

/// Something mounted into the root of a step. A mount point that is missing is made and, if still empty, removed afterwards.
#[derive(Clone, Debug)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// Where; links in it are followed inside the root.
    pub target: TreePath,
}

/// What is mounted.
#[derive(Clone, Debug)]
pub enum MountKind {
    /// A file, socket or directory of another root: a context or cache directory, or a stage.
    Bind {
        /// The other root. A [`RootMount::Overlay`] needs a mount point and an upper directory of its own; what is written
        /// goes there.
        root: RootMount,
        /// The path in it; links are followed inside that root.
        path: TreePath,
        /// Whether the step may write to it.
        access: Access,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// The most it may hold.
        size_bytes: Option<u64>,
        /// Mode of the directory.
        mode: u16,
        /// Whether the step may write to it.
        access: Access,
    },
    /// A read-only file in memory: a secret, a script.
    File {
        /// What is in it.
        content: FileContent,
        /// Mode.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Whether a mount may be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No.
    ReadOnly,
    /// Yes.
    ReadWrite,
}

/// Bytes of a mounted file. They may be a secret, so they are not shown.
#[derive(Clone)]
pub struct FileContent(pub Vec<u8>);

impl fmt::Debug for FileContent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

/// Which of its outputs a step wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl ExitStatus {
    /// The number a shell would show: the code, or 128 and the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// Whether the command succeeded.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

/// Why a command did not run to its own end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No such program in the root file system.
    #[error("{program:?} not found in the image")]
    NotFound {
        /// As it was asked for.
        program: OsString,
    },
    /// The program is there and cannot be executed: its mode, its format, or an interpreter that is missing.
    #[error("cannot execute {program:?}")]
    NotExecutable {
        /// As it was asked for.
        program: OsString,
        /// What the kernel said.
        source: io::Error,
    },
    /// The working directory cannot be entered.
    #[error("cannot enter the working directory {directory}")]
    Directory {
        /// The directory.
        directory: TreePath,
        /// What the kernel said.
        source: io::Error,
    },
    /// The user or group is not available here.
    #[error("cannot become user {uid}, group {gid}: this host grants the builder a single user id")]
    Identity {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// A mount failed.
    #[error("cannot mount {what} at {target}")]
    Mount {
        /// What was mounted.
        what: String,
        /// Where, in the root of the step.
        target: TreePath,
        /// What the kernel said.
        source: io::Error,
    },
    /// A mount point could not be made or removed, or a source is missing.
    #[error("cannot prepare {target} in the root file system")]
    Prepare {
        /// The path in the root of the step, or in the source.
        target: TreePath,
        /// Why.
        source: ConfinedError,
    },
    /// Something else between the builder and the command failed.
    #[error("cannot start the step: {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// An argument, variable or path holds a zero byte.
    #[error("{what} holds a zero byte")]
    ZeroByte {
        /// Which text.
        what: String,
    },
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
    /// The step took too long.
    #[error("stopped after {} s, its time limit (exit code 124)", time_limit.as_secs())]
    TimedOut {
        /// The limit.
        time_limit: Duration,
    },
}

impl RunError {
    /// The exit code that a shell gives to it (127 for a program that is not there, 126 for one that cannot be executed), or
    /// coreutils' `timeout` (124 for one that took too long). `None` where the step is not to blame.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::NotFound { .. } => Some(127),
            Self::NotExecutable { .. } => Some(126),
            Self::TimedOut { .. } => Some(124),
            _ => None,
        }
    }
}

/// Says that whatever runs should stop; clones speak of the same.
#[derive(Clone, Debug)]
pub struct CancelToken(Arc<Cancel>);

#[derive(Debug)]
struct Cancel {
    cancelled: Flag,
    /// No time is left for what was asked to end.
    hurried: Flag,
    /// The number of the signal that commands get first, or 0.
    signal: AtomicU8,
}

/// Goes up once.
#[derive(Debug)]
struct Flag {
    /// Whoever reads many small files asks for each of them, and a system call would cost as much as the reading.
    is_set: AtomicBool,
    /// Becomes readable.
    event: OwnedFd,
}

/// A signal by which the one who runs the build has it stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StopSignal {
    /// SIGHUP: the terminal is gone.
    HangUp = 1,
    /// SIGINT: Ctrl-C.
    Interrupt = 2,
    /// SIGTERM.
    Terminate = 15,
}

impl CancelToken {
    /// A token that nobody has cancelled.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Cancel { cancelled: Flag::new()?, hurried: Flag::new()?, signal: AtomicU8::new(0) })))
    }

    /// Stops what runs under this token, and what will.
    pub fn cancel(&self) {
        self.0.cancelled.set();
    }

    /// Stops it too, but commands that run get `signal` first and some time to end: two seconds at most. The first signal counts.
    pub fn interrupt(&self, signal: StopSignal) {
        let _ = self.0.signal.compare_exchange(0, signal as u8, Ordering::AcqRel, Ordering::Acquire);
        self.cancel();
    }

    /// Stops it, and takes the time from commands that have been given some.
    pub fn hurry(&self) {
        self.0.hurried.set();
        self.cancel();
    }

    /// Whether somebody has cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.is_set()
    }

    fn signal(&self) -> Option<StopSignal> {
        let signals = [StopSignal::HangUp, StopSignal::Interrupt, StopSignal::Terminate];
        let number = self.0.signal.load(Ordering::Acquire);
        signals.into_iter().find(|signal| *signal as u8 == number)
    }
}

impl Flag {
    fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { is_set: AtomicBool::new(false), event })
    }

    fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        // It fails only if it has been set 2^64 - 2 times already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }
}

/// Becomes readable when cancelled, for a poll.
impl AsFd for CancelToken {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.cancelled.event.as_fd()
    }
}

/// The path of `target` on the host when the root is at `root`. `target` must hold no link.
fn host_path(root: &std::path::Path, target: &TreePath) -> PathBuf {
    root.join(target.as_path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_does_not_come_to_its_end_has_the_exit_code_that_shells_know() {
        let refused = || io::Error::from_raw_os_error(libc::EPERM);
        for (error, expected) in [
            (RunError::NotFound { program: "a".into() }, Some(127)),
            (RunError::NotExecutable { program: "a".into(), source: refused() }, Some(126)),
            (RunError::TimedOut { time_limit: Duration::from_secs(1) }, Some(124)),
            (RunError::System { what: "make namespaces", source: refused() }, None),
            (RunError::Cancelled, None),
        ] {
            assert_eq!(error.exit_code(), expected, "{error}");
        }
    }
}
