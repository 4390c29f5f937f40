//! The strongest back end: mount, process, IPC, host name and, if asked for, network namespaces of the step's own.
//!
//! One fresh thread per step leaves the builder's namespaces, mounts everything in ordinary Rust, starts the step's init,
//! waits for its end and cleans up. The calling thread meanwhile hands the output over.
#![expect(unsafe_code, reason = "leaving the namespaces that a thread shares with others")]

use super::{
    CancelToken, Choice, ExitStatus, Identity, Isolation, Network, Privileges, Proc, RunError, Step, Stream, capabilities,
    child::{self, Program, Report, Stage, TextList},
    ending::Watch,
    landlock::Ruleset,
    mounts, seccomp,
};
use crate::tree::TreePath;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    thread::UnshareFlags,
};
use std::{
    ffi::{CString, OsString},
    io,
    ops::Range,
    os::{
        fd::{AsFd as _, AsRawFd, FromRawFd as _, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::Path,
};

/// `PATH` for a step whose environment has none: the one BuildKit adds.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What of /proc is hidden from a step, as Docker hides it.
const HIDDEN_FILES: [&str; 6] = ["kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug"];
const HIDDEN_DIRECTORIES: [&str; 3] = ["acpi", "asound", "scsi"];
/// What of /proc cannot be written by a step.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Runs steps in namespaces. The process must hold the privileges that the probe found, itself or by
/// [`enter_user_namespace`](super::enter_user_namespace).
///
/// A program that embeds this should make itself non-dumpable (`PR_SET_DUMPABLE`), after entering a user namespace: other
/// processes of its user could otherwise read its memory.
#[derive(Clone, Debug)]
pub struct Namespaces {
    choice: Choice,
}

impl Namespaces {
    /// Runs steps as `choice` says.
    pub fn new(choice: Choice) -> Self {
        Self { choice }
    }
}

impl Isolation for Namespaces {
    fn run(&self, step: &Step, output: &mut dyn FnMut(Stream, &[u8]), cancel: &CancelToken) -> Result<ExitStatus, RunError> {
        if cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        let (output_reader, output_writer) = system("make a pipe", pipe_with(PipeFlags::CLOEXEC))?;
        let (error_reader, error_writer) = system("make a pipe", pipe_with(PipeFlags::CLOEXEC))?;
        // Closed when the step's thread ends: what is in the other pipes then is all there will be.
        let (end_reader, end_writer) = system("make a pipe", pipe_with(PipeFlags::CLOEXEC))?;
        let writers = Writers { output: output_writer, error: error_writer };
        let fresh_proc = self.choice.proc == Proc::Fresh;
        std::thread::scope(|scope| {
            let start = move || {
                let _end = end_writer;
                run_apart(step, writers, fresh_proc, cancel)
            };
            let thread = std::thread::Builder::new().name("step".to_owned()).spawn_scoped(scope, start);
            let thread = thread.map_err(|source| RunError::System { what: "start a thread", source })?;
            let copied = copy_output(&output_reader, &error_reader, &end_reader, output);
            let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            system("read the output of the step", copied)?;
            result
        })
    }

    fn choice(&self) -> &Choice {
        &self.choice
    }
}

/// The ends that the step writes to.
struct Writers {
    output: OwnedFd,
    error: OwnedFd,
}

/// Runs on a thread of its own, which must end afterwards: it has left the builder's namespaces for good.
fn run_apart(step: &Step, writers: Writers, fresh_proc: bool, cancel: &CancelToken) -> Result<ExitStatus, RunError> {
    leave_namespaces(step.network).map_err(|errno| RunError::System { what: "make namespaces", source: errno.into() })?;
    system("make mounts private", mounts::make_private())?;
    // A name that is too long for the kernel is no reason to fail.
    let _ = rustix::system::sethostname(&step.host_name.as_bytes()[..step.host_name.len().min(64)]);
    mounts::with_mounts(step, |places| {
        let (words_reader, words_writer) = system("make a pipe", pipe_with(PipeFlags::CLOEXEC))?;
        let (report_reader, report_writer) = system("make a pipe", pipe_with(PipeFlags::CLOEXEC))?;
        let null = system("open /dev/null", rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))?;
        // The standard descriptors of the child must not be overwritten while they are moved into place.
        let above = |descriptor: &OwnedFd| system("copy a descriptor", rustix::io::fcntl_dupfd_cloexec(descriptor, 3));
        let kept = [&null, &writers.output, &writers.error, &report_writer, &words_reader].map(above);
        let [null, output, error, report, words] = kept;
        let (null, output, error, report, words) = (null?, output?, error?, report?, words?);
        drop((writers, report_writer, words_reader));
        let descriptors = [&null, &output, &error, &report, &words, &words_writer].map(AsRawFd::as_raw_fd);
        let rules = if step.privileges == Privileges::All { None } else { Ruleset::of_signals_and_sockets() };
        let entered = rules.as_ref().map_or(-1, |rules| rules.as_fd().as_raw_fd());
        let program = program(step, places, fresh_proc, descriptors, entered)?;
        let pid = child::start(&program)
            .map_err(|source| RunError::System { what: "start a process in a process namespace", source })?;
        drop((null, output, error, report, words));
        let running = Running { pid, reaped: false };
        // It has died if this fails, and its report says why.
        let _ = rustix::io::write(&words_writer, &[1]);
        supervise(running, step, &report_reader, &words_writer, cancel)
    })
}

/// A step's init; killed and waited for when dropped.
struct Running {
    pid: i32,
    reaped: bool,
}

impl Running {
    /// Returns when every process of the namespace is dead.
    fn wait(&mut self) -> io::Result<i32> {
        let status = child::wait(self.pid)?;
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            child::kill(self.pid);
            // Nothing to do about a child that is not ours any more.
            let _ = self.wait();
        }
    }
}

/// Waits for the end of the step, or ends it.
fn supervise(
    mut running: Running,
    step: &Step,
    reports: &OwnedFd,
    words: &OwnedFd,
    cancel: &CancelToken,
) -> Result<ExitStatus, RunError> {
    let mut watch = Watch::new(step.time_limit, cancel);
    loop {
        let event = watch.event();
        let mut ends = [PollFd::new(reports, PollFlags::IN), PollFd::new(&event, PollFlags::IN)];
        match poll(&mut ends, watch.timeout().as_ref()) {
            Err(Errno::INTR) => continue,
            result => system("wait for the step", result)?,
        };
        if !ends[0].revents().is_empty() {
            break;
        }
        // It has ended if it cannot be told.
        watch.check(|signal| {
            let _ = rustix::io::write(words, &[signal as u8]);
        })?;
    }
    // A report, or the end of init.
    let mut bytes = [0; Report::LENGTH];
    let length = retry(|| rustix::io::read(reports, &mut bytes));
    let length = system("read the report of the step", length)?;
    let status = running.wait().map_err(|source| RunError::System { what: "wait for the step", source })?;
    watch.ended()?;
    match Report::parse(bytes).filter(|_| length == Report::LENGTH) {
        Some(report) => outcome(report, step),
        // Somebody killed init: the kernel for lack of memory, most likely.
        None => Ok(exit_status(status)),
    }
}

fn outcome(report: Report, step: &Step) -> Result<ExitStatus, RunError> {
    let source = io::Error::from_raw_os_error(report.value);
    let program = || step.arguments.first().cloned().unwrap_or_default();
    let system = |what| RunError::System { what, source: io::Error::from_raw_os_error(report.value) };
    Err(match report.stage {
        Stage::Ended => return Ok(exit_status(report.value)),
        Stage::NotFound => RunError::NotFound { program: program() },
        Stage::Execute => RunError::NotExecutable { program: program(), source },
        Stage::Directory => RunError::Directory { directory: step.directory.clone(), source },
        Stage::Identity => {
            let Identity { uid, gid, .. } = step.identity;
            RunError::Identity { uid, gid, source }
        }
        Stage::Proc => RunError::Mount { what: "/proc".to_owned(), target: TreePath::clamp("proc"), source },
        Stage::Hide => RunError::Mount { what: "nothing over parts of it".to_owned(), target: TreePath::clamp("proc"), source },
        Stage::Start => system("prepare its first process"),
        Stage::Descriptors => system("close descriptors"),
        Stage::Root => system("change the root"),
        Stage::Fork => system("make its process"),
        Stage::Capabilities => system("drop capabilities"),
        Stage::Filter => system("refuse calls about the machine"),
    })
}

pub(super) fn exit_status(status: i32) -> ExitStatus {
    if libc::WIFSIGNALED(status) {
        ExitStatus::Signal(libc::WTERMSIG(status))
    } else {
        ExitStatus::Code(libc::WEXITSTATUS(status))
    }
}

/// Hands over what the step writes until it has ended and the pipes are empty.
fn copy_output(output: &OwnedFd, error: &OwnedFd, end: &OwnedFd, sink: &mut dyn FnMut(Stream, &[u8])) -> Result<(), Errno> {
    let mut buffer = vec![0; 64 * 1024];
    let mut open = [Some((output, Stream::Output)), Some((error, Stream::Error))];
    let mut ended = false;
    while open.iter().any(Option::is_some) {
        let mut ends: Vec<PollFd<'_>> = open.iter().flatten().map(|(pipe, _)| PollFd::new(*pipe, PollFlags::IN)).collect();
        if !ended {
            ends.push(PollFd::new(end, PollFlags::IN));
        }
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = match poll(&mut ends, ended.then_some(&at_once)) {
            Err(Errno::INTR) => continue,
            ready => ready?,
        };
        // Every process of the step is dead. If a pipe is still open, somebody outside was handed it.
        if ended && ready == 0 {
            break;
        }
        ended |= ends.len() > open.iter().flatten().count() && !ends[ends.len() - 1].revents().is_empty();
        let readable: Vec<bool> = ends.iter().map(|end| !end.revents().is_empty()).collect();
        let pipes = open.iter_mut().filter(|pipe| pipe.is_some());
        for (pipe, _) in pipes.zip(readable).filter(|(_, readable)| *readable) {
            let Some((descriptor, stream)) = *pipe else { continue };
            match retry(|| rustix::io::read(descriptor, &mut buffer[..]))? {
                0 => *pipe = None,
                length => sink(stream, &buffer[..length]),
            }
        }
    }
    Ok(())
}

/// Everything that the processes need, ready for use.
fn program(
    step: &Step,
    places: mounts::Places<'_>,
    fresh_proc: bool,
    descriptors: [i32; 6],
    rules: i32,
) -> Result<Program, RunError> {
    let text = |bytes: &[u8], what: &str| CString::new(bytes).map_err(|_| RunError::ZeroByte { what: what.to_owned() });
    let path = |path: &Path| text(path.as_os_str().as_bytes(), "a path");
    let below_proc = |names: &[&str]| {
        let names = if step.privileges == Privileges::All { &[] } else { names };
        names.iter().map(|name| path(&places.proc.join(name))).collect::<Result<Vec<_>, _>>()
    };
    let variable = |(name, value): &(OsString, OsString)| {
        let bytes = [name.as_bytes(), b"=", value.as_bytes()].concat();
        text(&bytes, &format!("variable {}", name.display()))
    };
    let arguments: Result<Vec<_>, _> = step.arguments.iter().map(|argument| text(argument.as_bytes(), "an argument")).collect();
    let candidates = candidates(step).into_iter().map(|candidate| text(candidate.as_bytes(), "the program"));
    let [input, output, error, report, words, words_writer] = descriptors;
    Ok(Program {
        root: path(places.root)?,
        proc: path(places.proc)?,
        fresh_proc,
        hidden_files: below_proc(&HIDDEN_FILES)?,
        hidden_directories: below_proc(&HIDDEN_DIRECTORIES)?,
        read_only: below_proc(&READ_ONLY)?,
        directory: path(&Path::new("/").join(step.directory.as_path()))?,
        candidates: candidates.collect::<Result<_, _>>()?,
        arguments: TextList::new(arguments?),
        environment: TextList::new(step.environment.iter().map(variable).collect::<Result<_, _>>()?),
        uid: step.identity.uid,
        gid: step.identity.gid,
        groups: step.identity.groups.clone(),
        capabilities: match step.privileges {
            Privileges::Usual => capabilities::DEFAULT,
            Privileges::All => capabilities::ALL,
        },
        rules,
        filter: match step.privileges {
            Privileges::Usual => seccomp::filter(),
            Privileges::All => Vec::new(),
        },
        input,
        output,
        error,
        report,
        words,
        words_writer,
        own_arguments: system("find out the place of its arguments", own_arguments())?,
    })
}

/// Where in the memory of this process its arguments are, as `/proc` shows them to others.
fn own_arguments() -> Result<Range<usize>, Errno> {
    let stat = std::fs::read_to_string("/proc/self/stat");
    let stat = stat.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // The second field is a name, with anything in it; the arguments begin at the 48th and end at the 49th.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let mut fields = fields.split_ascii_whitespace().skip(45).map(str::parse);
    let (Some(Ok(start)), Some(Ok(end))) = (fields.next(), fields.next()) else { return Err(Errno::INVAL) };
    Ok(start..end)
}

/// Where the program may be: itself, or its name in each directory of `PATH`.
pub(super) fn candidates(step: &Step) -> Vec<OsString> {
    let Some(program) = step.arguments.first().filter(|program| !program.is_empty()) else { return Vec::new() };
    if program.as_bytes().contains(&b'/') {
        return vec![program.clone()];
    }
    // As in a shell, the last word about a variable counts.
    let path = step.environment.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_bytes());
    let directories = path.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':');
    let below = |directory: &[u8]| {
        let directory = if directory.is_empty() { b"." } else { directory };
        OsString::from_vec([directory, b"/", program.as_bytes()].concat())
    };
    directories.map(below).collect()
}

/// Mount, IPC, host name and control group namespaces for the calling thread, and perhaps one of the network.
pub(super) fn leave_namespaces(network: Network) -> Result<(), Errno> {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if network == Network::None {
        flags |= UnshareFlags::NEWNET;
    }
    leave(flags)?;
    // Hides where in the host's control groups we are. Kernels may lack it.
    let _ = leave(UnshareFlags::NEWCGROUP);
    if network == Network::None {
        match raise_loopback() {
            // Root with SYS_ADMIN and without NET_ADMIN may make a network and not touch it. It is cut off all the same.
            Err(Errno::PERM) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Gives the calling thread namespaces of its own. It should end soon.
pub(super) fn leave(flags: UnshareFlags) -> Result<(), Errno> {
    assert!(!flags.contains(UnshareFlags::FILES), "the descriptors stay shared");
    // SAFETY: only leaving the descriptor table would be unsafe, and that is excluded above.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// `ip link set lo up`, so that programs that talk to themselves work.
fn raise_loopback() -> Result<(), Errno> {
    let failed = || Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO);
    // SAFETY: plain numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(failed());
    }
    // SAFETY: a descriptor that was just made and that nobody else knows.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: an all-zero request is a valid one; the name and the flags are filled in below.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = libc::c_char::try_from(*byte).expect("ASCII");
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("two low bits");
    // SAFETY: the request has the layout that this call reads, and lives across it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result < 0 { Err(failed()) } else { Ok(()) }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

fn system<T>(what: &'static str, result: Result<T, Errno>) -> Result<T, RunError> {
    result.map_err(|errno| RunError::System { what, source: errno.into() })
}

#[cfg(test)]
mod tests {
    use super::super::{choose, probe};
    use super::*;
    use crate::rootfs::{OverlayAttributes, RootMount};

    /// Lets the calling thread, and whatever it starts, not call `pivot_root`: as the filters of container runtimes do.
    fn forbid_pivot_root() {
        let number = u32::try_from(libc::SYS_pivot_root).unwrap();
        let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap();
        let statement = |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
        let mut filter = [
            statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
            statement(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
            statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
        // SAFETY: the program and its filter live across the call.
        let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    #[test]
    fn privileged_without_pivot_root_a_step_stays_in_its_root() {
        if !testkit::require_root() || !testkit::require(&["python3"]) {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let [upper, work, mount_point] = ["upper", "work", "merged"].map(|name| state.path().join(name));
        for path in [&upper, &work, &mount_point] {
            std::fs::create_dir(path).unwrap();
        }
        // The root is the machine's own, without what is mounted there: there the secret is.
        let secret = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let root =
            RootMount::Overlay { lower: vec!["/".into()], upper, work, attributes: OverlayAttributes::Trusted, mount_point };
        let script = "import os, sys\nos.mkdir('/tmp/inner')\nos.chroot('/tmp/inner')\n[os.chdir('..') for _ in range(64)]\n\
                      print(sorted(os.listdir('dev/shm')), os.path.exists(sys.argv[1][1:]))";
        let step = Step {
            root,
            arguments: vec!["/usr/bin/python3".into(), "-c".into(), script.into(), secret.path().into()],
            environment: Vec::new(),
            directory: TreePath::root(),
            identity: Identity::default(),
            host_name: "test".to_owned(),
            network: Network::Host,
            privileges: Privileges::Usual,
            mounts: Vec::new(),
            resolv_conf: Vec::new(),
            hosts: Vec::new(),
            time_limit: None,
        };
        let isolation = Namespaces::new(choose(&probe(state.path()).unwrap(), None).unwrap());
        let mut output = Vec::new();
        let sink = &mut |_: Stream, bytes: &[u8]| output.extend_from_slice(bytes);
        let run = || {
            forbid_pivot_root();
            isolation.run(&step, sink, &CancelToken::new().unwrap()).unwrap()
        };
        let status = std::thread::scope(|scope| scope.spawn(run).join().unwrap());
        let output = String::from_utf8_lossy(&output);
        assert_eq!((status, &*output), (ExitStatus::Code(0), "[] False\n"), "the step's own /dev is as far as one gets");
    }
}
