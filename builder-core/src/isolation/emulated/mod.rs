//! For hosts that grant nothing: no namespace, no mount, perhaps no other user. Each process of the step runs under a filter
//! that hands the calls about files, identity and programs to a stub in the same process ([`emulation`]); it translates paths
//! below the root and shows what is recorded there.
//!
//! The stub is also the first process of a step and ends when all others are dead. This module starts it, hands its output
//! over and tells it to stop. The emulation is no wall, for a program that means to can make any call that the host lets it
//! make: [`walls`] are raised around it.

mod places;
mod walls;

use super::landlock::Ruleset;
use super::{
    Attempt, CancelToken, Choice, ExitStatus, Isolation, Network, Privileges, Proc, RunError, Step, Stream, ending::Watch,
    namespaces, seccomp,
};
use crate::rootfs::{RootMount, beside};
use emulation::launch::{self, HAS_LINKS, REPORT_LENGTH, Stage};
use emulation::record::{LINKS, MOVES, MOVES_LENGTH, OWNERS};
use places::Places;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use std::{
    fs, io,
    io::{Read as _, Write as _},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use walls::{Needed, Walls};

/// The name of the stub beside a root.
const STUB_NAME: &str = "emulation";

/// Runs steps in plain directories without any privilege.
#[derive(Clone, Debug)]
pub struct Emulated {
    choice: Choice,
}

impl Emulated {
    /// Runs steps as `choice` says.
    pub fn new(choice: Choice) -> Self {
        Self { choice }
    }
}

impl Isolation for Emulated {
    fn run(&self, step: &Step, output: &mut dyn FnMut(Stream, &[u8]), cancel: &CancelToken) -> Result<ExitStatus, RunError> {
        if cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        let RootMount::Directory { path } = &step.root else {
            return Err(RunError::System { what: "emulate it on an overlay", source: Errno::INVAL.into() });
        };
        if step.network == Network::None && !self.choice.network_namespace {
            return Err(RunError::System { what: "cut it off from the network: this host refuses", source: Errno::PERM.into() });
        }
        if step.privileges == Privileges::All {
            return Err(RunError::System { what: "grant it all rights: this host refuses", source: Errno::PERM.into() });
        }
        let root = system("find its root", fs::canonicalize(path))?;
        let stub = write_stub(root.parent().unwrap_or(&root), STUB_NAME)?;
        let places = Places::prepare(&root, step)?;
        let walls = Walls::of(&self.choice);
        let (owners, links) = (beside(&root, OWNERS), beside(&root, LINKS));
        system("write the count of moved directories", fs::write(owners.join(MOVES), [0; MOVES_LENGTH]))?;
        let links = Some(&*links).filter(|links| links.exists());
        let flags = walls.flags() | if links.is_some() { HAS_LINKS } else { 0 };
        let launch = encode(step, &root, &stub, flags)?;
        let (host_name, network) = (&*step.host_name, step.network);
        let needed = Needed { root: &root, owners: &owners, links, stub: &stub, host_name, network };
        let ended = launch_and_wait(walls, needed, &launch, step.time_limit, output, cancel);
        let restored = places.restore();
        let (stage, value) = ended?;
        restored?;
        outcome(stage, value, step)
    }

    fn choice(&self) -> &Choice {
        &self.choice
    }
}

/// Tries whether the owners of files in `directory` can be recorded beside them.
pub(super) fn attempt_record(directory: &Path) -> io::Result<()> {
    let file = directory.join("recorded");
    fs::write(&file, "")?;
    Ok(rustix::fs::setxattr(&file, "user.cofferdam", b"", rustix::fs::XattrFlags::empty())?)
}

/// Asks whether programs in `directory` may be executed: there are volumes mounted `noexec`.
pub(super) fn attempt_execution(directory: &Path) -> io::Result<()> {
    let program = directory.join("program");
    fs::write(&program, "")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(rustix::fs::access(&program, rustix::fs::Access::EXEC_OK)?)
}

/// How far a trial of emulation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Making the first process, and whatever it needs before there is a filter.
    Process,
    /// Installing the filter.
    Filter,
    /// Finding the root below itself, with `openat2`.
    Paths,
    /// Trapping a call and answering it.
    Answers,
}

/// A trial of emulation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// At what.
    pub(super) part: Part,
    /// How.
    pub(super) attempt: Attempt,
}

/// Tries whether calls can be trapped and answered, with a stub below `directory`.
pub(super) fn attempt(directory: &Path) -> Result<(), Failed> {
    attempt_behind(Walls { apart: None, landlock_version: None }, directory)
}

/// Tries the same behind Landlock rules. Gives their version as well.
pub(super) fn attempt_landlock(directory: &Path) -> (Result<(), Failed>, u32) {
    match walls::landlock_version() {
        Ok(version) => (attempt_behind(Walls { apart: None, landlock_version: Some(version) }, directory), version),
        Err(error) => (Err(failed(&error)), 0),
    }
}

/// Tries the same in namespaces of its own, behind rules if they work.
pub(super) fn attempt_apart(directory: &Path, proc: Proc, landlock_version: Option<u32>) -> Result<(), Failed> {
    attempt_behind(Walls { apart: Some(proc), landlock_version }, directory)
}

fn attempt_behind(walls: Walls, directory: &Path) -> Result<(), Failed> {
    match trial(walls, directory) {
        Ok((stage, value)) => judge(stage, value),
        Err(RunError::System { source, .. } | RunError::Mount { source, .. }) => Err(failed(&source)),
        Err(_) => Err(Failed { part: Part::Process, attempt: Attempt::Refused { errno: libc::EIO } }),
    }
}

/// Runs a step without a program. Gives the report of its first process.
fn trial(walls: Walls, directory: &Path) -> Result<(Stage, i32), RunError> {
    /// Whom the trial takes itself for: nobody that a host would make us.
    const TRIAL_USER: u32 = 54_321;
    let root = directory.join("root");
    let owners = beside(&root, OWNERS);
    for directory in [&root, &owners] {
        system("make directories", fs::create_dir_all(directory))?;
    }
    let stub = write_stub(directory, STUB_NAME)?;
    let texts = [bytes(&root), bytes(&stub), b"/", b"trial"];
    let launch = frame(&[TRIAL_USER, TRIAL_USER, 0, 0, 0, 0, walls.flags(), 0], &[], &seccomp::filter(), &texts);
    let cancel = system("make an event", CancelToken::new())?;
    let needed = Needed { root: &root, owners: &owners, links: None, stub: &stub, host_name: "trial", network: Network::Host };
    launch_and_wait(walls, needed, &launch, Some(Duration::from_secs(10)), &mut |_, _| {}, &cancel)
}

/// What the report of a trial means.
fn judge(stage: Stage, value: i32) -> Result<(), Failed> {
    let refused = Attempt::Refused { errno: value };
    Err(match stage {
        Stage::Ended if value == 0 => return Ok(()),
        Stage::Ended if libc::WIFSIGNALED(value) => {
            Failed { part: Part::Answers, attempt: Attempt::Killed { signal: libc::WTERMSIG(value) } }
        }
        Stage::Ended => Failed { part: Part::Answers, attempt: Attempt::Refused { errno: libc::ENOSYS } },
        Stage::Filter => Failed { part: Part::Filter, attempt: refused },
        Stage::Directory => Failed { part: Part::Paths, attempt: refused },
        Stage::Answer => Failed { part: Part::Answers, attempt: refused },
        Stage::Prepare | Stage::Proc | Stage::Rules | Stage::NotFound | Stage::Execute => {
            Failed { part: Part::Process, attempt: refused }
        }
    })
}

/// Before there was a filter.
fn failed(error: &io::Error) -> Failed {
    Failed { part: Part::Process, attempt: Attempt::Refused { errno: error.raw_os_error().unwrap_or(libc::EIO) } }
}

/// The stub as a file: the processes of the step execute it. Written once for all steps in a directory.
fn write_stub(directory: &Path, name: &str) -> Result<PathBuf, RunError> {
    /// Of the steps of one process that begin at once, each writes its own.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = directory.join(name);
    if path.exists() {
        return Ok(path);
    }
    if emulation::STUB.is_empty() {
        return Err(RunError::System { what: "emulate: not on this architecture", source: Errno::NOSYS.into() });
    }
    let own = directory.join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let write = || {
        fs::write(&own, emulation::STUB)?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
        fs::rename(&own, &path)
    };
    system("write the program that emulates", write())?;
    Ok(path)
}

/// The first process of a step; told to end the step, and waited for, when dropped.
struct Running {
    supervisor: Child,
    control: UnixStream,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It sees the end of what it reads, and ends when all processes of the step are dead.
        let _ = self.control.shutdown(Shutdown::Write);
        let _ = self.supervisor.wait();
    }
}

/// Starts the stub behind `walls` and hands the output over until every process of the step is dead. Gives its first report.
fn launch_and_wait(
    walls: Walls,
    needed: Needed<'_>,
    launch: &[u8],
    time_limit: Option<Duration>,
    output: &mut dyn FnMut(Stream, &[u8]),
    cancel: &CancelToken,
) -> Result<(Stage, i32), RunError> {
    let mut running = walls.raise(needed, |rules| start(needed.stub, &launch[..4], rules))?;
    let pipes = running.supervisor.stdout.take().zip(running.supervisor.stderr.take());
    let (out, error) = pipes.expect("both were asked for");
    system("tell its first process what to do", running.control.write_all(&launch[4..]))?;
    let mut open = [Some((OwnedFd::from(out), Stream::Output)), Some((OwnedFd::from(error), Stream::Error))];
    let mut reports = Vec::new();
    let mut watch = Watch::new(time_limit, cancel);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let event = watch.event();
        let mut ends = vec![PollFd::new(&event, PollFlags::IN), PollFd::new(&running.control, PollFlags::IN)];
        ends.extend(open.iter().flatten().map(|(pipe, _)| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut ends, watch.timeout().as_ref()) {
            Err(Errno::INTR) => continue,
            result => system("wait for the step", result.map_err(io::Error::from))?,
        };
        let ready: Vec<bool> = ends.iter().map(|end| !end.revents().is_empty()).collect();
        drop(ends);
        copy_ready(&mut open, &ready[2..], &mut buffer, output)?;
        if ready[1] {
            let mut bytes = [0; 64];
            match running.control.read(&mut bytes) {
                Ok(0) => break,
                Ok(length) => reports.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It ended with something unread.
                Err(_) => break,
            }
        }
        // It has ended if it cannot be told.
        watch.check(|signal| {
            let _ = running.control.write_all(&[signal as u8]);
        })?;
    }
    // Every process is dead; what is in the pipes is all there will be.
    while open.iter().any(Option::is_some) {
        let mut ends: Vec<PollFd<'_>> = open.iter().flatten().map(|(pipe, _)| PollFd::new(pipe, PollFlags::IN)).collect();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut ends, Some(&at_once)) {
            Err(Errno::INTR) => continue,
            Ok(0) => break,
            result => system("wait for the output", result.map_err(io::Error::from))?,
        };
        let ready: Vec<bool> = ends.iter().map(|end| !end.revents().is_empty()).collect();
        drop(ends);
        copy_ready(&mut open, &ready, &mut buffer, output)?;
    }
    watch.ended()?;
    let first = reports.first_chunk::<REPORT_LENGTH>().and_then(|bytes| launch::parse_report(*bytes));
    first.ok_or_else(|| RunError::System { what: "hear from its first process", source: Errno::PIPE.into() })
}

/// Starts the stub and sends it the first bytes of its launch, with the rules for its command.
fn start(stub: &Path, first: &[u8], rules: Option<&Ruleset>) -> Result<Running, RunError> {
    let (control, theirs) = system("make a socket", UnixStream::pair())?;
    let mut command = Command::new(stub);
    command.env_clear().current_dir("/").stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A file that was just written may still be open in a process that another thread is starting.
    let mut started = command.spawn();
    for _ in 0..50 {
        match &started {
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => {
                std::thread::sleep(Duration::from_millis(2));
                started = command.spawn();
            }
            _ => break,
        }
    }
    // Its copy of the other end of the socket goes.
    drop(command);
    let running = Running { supervisor: system("start its first process", started)?, control };
    let descriptors: Vec<_> = rules.iter().map(|rules| rules.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(attached.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room for one");
    }
    let sent = sendmsg(&running.control, &[io::IoSlice::new(first)], &mut attached, SendFlags::NOSIGNAL);
    system("tell its first process what to do", sent.map_err(io::Error::from))?;
    Ok(running)
}

/// Reads once from each pipe that is ready; one that has ended is closed.
fn copy_ready(
    open: &mut [Option<(OwnedFd, Stream)>; 2],
    ready: &[bool],
    buffer: &mut [u8],
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<(), RunError> {
    let pipes = open.iter_mut().filter(|pipe| pipe.is_some());
    for (pipe, _) in pipes.zip(ready).filter(|(_, ready)| **ready) {
        let Some((descriptor, stream)) = &*pipe else { continue };
        match rustix::io::read(descriptor.as_fd(), &mut *buffer) {
            Ok(0) => *pipe = None,
            Ok(length) => output(*stream, &buffer[..length]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(RunError::System { what: "read the output of the step", source: errno.into() }),
        }
    }
    Ok(())
}

/// The bytes that tell the stub what to run.
fn encode(step: &Step, root: &Path, stub: &Path, flags: u32) -> Result<Vec<u8>, RunError> {
    let candidates = namespaces::candidates(step);
    let variables: Vec<Vec<u8>> =
        step.environment.iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    let directory = Path::new("/").join(step.directory.as_path());
    let mut texts: Vec<&[u8]> = vec![bytes(root), bytes(stub), bytes(&directory), step.host_name.as_bytes()];
    texts.extend(candidates.iter().map(|candidate| candidate.as_bytes()));
    texts.extend(step.arguments.iter().map(|argument| argument.as_bytes()));
    texts.extend(variables.iter().map(|variable| &variable[..]));
    if texts.iter().any(|text| text.contains(&0)) {
        // Which one is not said: it may be a secret.
        return Err(RunError::ZeroByte { what: "an argument, a variable or a path".to_owned() });
    }
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let identity = &step.identity;
    let counts = [identity.groups.len(), candidates.len(), step.arguments.len(), step.environment.len()].map(count);
    let numbers = [identity.uid, identity.gid, counts[0], counts[1], counts[2], counts[3], flags, 0];
    Ok(frame(&numbers, &identity.groups, &seccomp::filter(), &texts))
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// All but the length; the last of the numbers, that of instructions, is filled in.
fn frame(numbers: &[u32; launch::NUMBERS - 1], groups: &[u32], filter: &[libc::sock_filter], texts: &[&[u8]]) -> Vec<u8> {
    let mut numbers = *numbers;
    numbers[launch::NUMBERS - 2] = u32::try_from(filter.len()).unwrap_or(u32::MAX);
    let mut launch = vec![0; 4];
    launch.extend(numbers.iter().chain(groups).flat_map(|number| number.to_ne_bytes()));
    for instruction in filter {
        launch.extend_from_slice(&instruction.code.to_ne_bytes());
        launch.extend_from_slice(&[instruction.jt, instruction.jf]);
        launch.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    for text in texts {
        launch.extend_from_slice(text);
        launch.push(0);
    }
    // One that is too long is refused by the stub.
    let length = u32::try_from(launch.len()).unwrap_or(u32::MAX);
    launch[..4].copy_from_slice(&length.to_ne_bytes());
    launch
}

fn outcome(stage: Stage, value: i32, step: &Step) -> Result<ExitStatus, RunError> {
    let source = io::Error::from_raw_os_error(value);
    let program = || step.arguments.first().cloned().unwrap_or_default();
    Err(match stage {
        Stage::Ended => return Ok(namespaces::exit_status(value)),
        Stage::NotFound => RunError::NotFound { program: program() },
        Stage::Execute => RunError::NotExecutable { program: program(), source },
        Stage::Directory => RunError::Directory { directory: step.directory.clone(), source },
        Stage::Filter => RunError::System { what: "install the filter", source },
        Stage::Answer => RunError::System { what: "answer a call", source },
        Stage::Prepare => RunError::System { what: "prepare its first process", source },
        Stage::Proc => RunError::System { what: "guard /proc", source },
        Stage::Rules => RunError::System { what: "enter the rules of what it may reach", source },
    })
}

fn system<T>(what: &'static str, result: io::Result<T>) -> Result<T, RunError> {
    result.map_err(|source| RunError::System { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_numbers_groups_and_texts() {
        let filter = [libc::sock_filter { code: 6, jt: 1, jf: 2, k: 3 }];
        let launch = frame(&[1, 2, 1, 0, 0, 0, 0, 0], &[7], &filter, &[b"/r", b"/s", b"/"]);
        assert_eq!(launch.len(), 4 * 10 + 8 + 3 + 3 + 2);
        assert_eq!(launch[..4], 56_u32.to_ne_bytes());
        assert_eq!(launch[32..36], 1_u32.to_ne_bytes());
        assert_eq!(launch[40..44], [6, 0, 1, 2]);
        assert_eq!(&launch[48..], b"/r\0/s\0/\0");
    }

    #[test]
    fn what_a_trial_fails_at_is_told_apart() {
        let refused = Attempt::Refused { errno: libc::EPERM };
        for (stage, value, expected) in [
            (Stage::Ended, 0, None),
            (Stage::Prepare, libc::EPERM, Some((Part::Process, refused))),
            (Stage::Filter, libc::EPERM, Some((Part::Filter, refused))),
            (Stage::Directory, libc::ENOSYS, Some((Part::Paths, Attempt::Refused { errno: libc::ENOSYS }))),
            (Stage::Answer, libc::EPERM, Some((Part::Answers, refused))),
            (Stage::Ended, libc::SIGSYS, Some((Part::Answers, Attempt::Killed { signal: libc::SIGSYS }))),
        ] {
            let told = judge(stage, value).err().map(|failed| (failed.part, failed.attempt));
            assert_eq!(told, expected, "{stage:?} {value}");
        }
    }

    #[test]
    fn this_host_lets_calls_be_trapped_and_answered() {
        let directory = tempfile::tempdir().unwrap();
        attempt(directory.path()).unwrap();
    }
}
