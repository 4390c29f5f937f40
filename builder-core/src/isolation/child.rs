//! The two processes of a step: a small init, and the command below it.
//!
//! Takes a [`Program`] in which every text, list and number is ready; gives [`Report`]s through a pipe. The builder has
//! several threads, so after `clone` its memory may be in any state: this code allocates nothing, takes no lock and calls
//! nothing but system calls until `execve`.
#![expect(unsafe_code, reason = "between clone and exec there is nothing but system calls")]

use super::capabilities;
use std::{ffi::CString, io, ops::Range, os::fd::RawFd, ptr};

/// Where the old /proc is bound from, if a new one is refused.
const PROC: &std::ffi::CStr = c"/proc";
/// What is mounted over files that must not be read.
const NULL: &std::ffi::CStr = c"/dev/null";

/// All that the two processes need, made before the clone.
pub(super) struct Program {
    /// Where the root is mounted, on the host.
    pub(super) root: CString,
    /// `proc` below it.
    pub(super) proc: CString,
    /// Whether /proc is a new one, or the builder's.
    pub(super) fresh_proc: bool,
    /// Files of /proc to hide, on the host.
    pub(super) hidden_files: Vec<CString>,
    /// Directories of /proc to hide.
    pub(super) hidden_directories: Vec<CString>,
    /// What of /proc must not be written.
    pub(super) read_only: Vec<CString>,
    /// Working directory, inside the root.
    pub(super) directory: CString,
    /// Programs to try, in order.
    pub(super) candidates: Vec<CString>,
    /// Arguments.
    pub(super) arguments: TextList,
    /// Environment.
    pub(super) environment: TextList,
    /// User.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    /// Capabilities that it may have, as bits.
    pub(super) capabilities: u64,
    /// /dev/null.
    pub(super) input: RawFd,
    /// Landlock's rules; -1 if there are none.
    pub(super) rules: RawFd,
    /// The calls that it may not make; empty if it may make all.
    pub(super) filter: Vec<libc::sock_filter>,
    /// Takes the standard output.
    pub(super) output: RawFd,
    /// Takes the standard error.
    pub(super) error: RawFd,
    /// Takes the reports.
    pub(super) report: RawFd,
    /// Gives one byte when all is well on the other side, later the numbers of signals for the command; or ends.
    pub(super) words: RawFd,
    /// The other end of `words`.
    pub(super) words_writer: RawFd,
    /// Where this process keeps the arguments that it was started with.
    pub(super) own_arguments: Range<usize>,
}

/// Texts as `execve` wants them. The texts do not move while the list lives.
pub(super) struct TextList {
    /// Owns what `pointers` points to.
    _texts: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

// SAFETY: the pointers lead into memory that the list owns and never changes.
unsafe impl Send for TextList {}

/// What the processes were doing when something happened. The numbers go through the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Stage {
    /// The command ended; the value is the wait status.
    Ended = 1,
    /// Preparing the process itself.
    Start,
    /// Mounting /proc.
    Proc,
    /// Hiding parts of /proc.
    Hide,
    /// Changing the root.
    Root,
    /// Making the process of the command.
    Fork,
    /// Closing what the builder has open.
    Descriptors,
    /// Becoming the user.
    Identity,
    /// Dropping capabilities.
    Capabilities,
    /// Refusing calls.
    Filter,
    /// Entering the working directory.
    Directory,
    /// Executing: no such program.
    NotFound,
    /// Executing: it is there.
    Execute,
}

/// One message: a stage and an error number or wait status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// What was being done.
    pub(super) stage: Stage,
    /// How it went.
    pub(super) value: i32,
}

impl TextList {
    pub(super) fn new(texts: Vec<CString>) -> Self {
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { _texts: texts, pointers }
    }
}

impl Report {
    /// Number of bytes of one report.
    pub(super) const LENGTH: usize = 8;

    /// Reads what the processes wrote.
    pub(super) fn parse(bytes: [u8; Self::LENGTH]) -> Option<Self> {
        let [s0, s1, s2, s3, v0, v1, v2, v3] = bytes;
        let stage = match u32::from_ne_bytes([s0, s1, s2, s3]) {
            1 => Stage::Ended,
            2 => Stage::Start,
            3 => Stage::Proc,
            4 => Stage::Hide,
            5 => Stage::Root,
            6 => Stage::Fork,
            7 => Stage::Descriptors,
            8 => Stage::Identity,
            9 => Stage::Capabilities,
            10 => Stage::Filter,
            11 => Stage::Directory,
            12 => Stage::NotFound,
            13 => Stage::Execute,
            _ => return None,
        };
        Some(Self { stage, value: i32::from_ne_bytes([v0, v1, v2, v3]) })
    }
}

/// Starts init in a process namespace and a mount namespace of its own, as a child of the calling thread: it dies with it.
pub(super) fn start(program: &Program) -> io::Result<i32> {
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork: the child has a copy of this stack, runs `init` on it and never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        0 => init(program),
        pid if pid < 0 => Err(io::Error::last_os_error()),
        pid => Ok(i32::try_from(pid).expect("a process id fits")),
    }
}

/// Tries whether the kernel gives a process namespace and, at `proc`, a new /proc in it; answers both.
pub(super) fn try_proc(proc: &CString) -> (io::Result<()>, io::Result<()>) {
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::SIGCHLD;
    // SAFETY: as in `start`; the child makes one system call and exits.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        0 => exit(mount_proc(proc).err().unwrap_or(0)),
        pid if pid < 0 => {
            let refused = io::Error::last_os_error();
            let errno = refused.raw_os_error().unwrap_or(0);
            (Err(refused), Err(io::Error::from_raw_os_error(errno)))
        }
        pid => {
            let status = wait(i32::try_from(pid).expect("a process id fits"));
            let tried = match status.map(|status| libc::WEXITSTATUS(status)) {
                Ok(0) => Ok(()),
                Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
                Err(failed) => Err(failed),
            };
            (Ok(()), tried)
        }
    }
}

/// Does something in a child, in a copy of this process: gives its wait status, whose exit code is the error number or 0.
///
/// The memory may be in any state (see above): `act` makes system calls and nothing else.
pub(super) fn attempt(act: impl FnOnce() -> Result<(), rustix::io::Errno>) -> io::Result<libc::c_int> {
    // SAFETY: as in `start`; the child makes system calls and exits.
    match unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } {
        0 => exit(act().err().map_or(0, rustix::io::Errno::raw_os_error)),
        pid if pid < 0 => Err(io::Error::last_os_error()),
        pid => wait(i32::try_from(pid).expect("a process id fits")),
    }
}

/// Kills a child with everything in its process namespace.
pub(super) fn kill(pid: i32) {
    // SAFETY: `pid` is a child that has not been waited for, so the number is still its own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Waits until a child, and with it everything in its process namespace, is gone.
pub(super) fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is ours to write to.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Ok(status);
        }
        let failed = io::Error::last_os_error();
        if failed.kind() != io::ErrorKind::Interrupted {
            return Err(failed);
        }
    }
}

/// An errno.
type Refusal = i32;

/// First process of the namespace. Ends when the command ends, and the kernel kills whatever is left.
fn init(program: &Program) -> ! {
    let fail = |stage, errno| -> ! {
        report(program.report, stage, errno);
        exit(1)
    };
    let stage = |stage, result: Result<(), Refusal>| {
        if let Err(errno) = result {
            fail(stage, errno);
        }
    };
    stage(Stage::Start, await_start(program));
    forget_arguments(program);
    enter_rules(program);
    stage(Stage::Descriptors, take_descriptors(program));
    stage(Stage::Proc, if program.fresh_proc { mount_proc(&program.proc) } else { bind_proc(&program.proc) });
    stage(Stage::Hide, hide(program));
    stage(Stage::Root, change_root(program));
    // The builder's handlers mean nothing here, and a terminal's signals are for the builder, which hands them on.
    stage(Stage::Start, calm_process());
    let ended = watch_children().unwrap_or_else(|errno| fail(Stage::Start, errno));
    // SAFETY: without CLONE_VM a copy of this process, which goes on below and never returns.
    match unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } {
        0 => command(program),
        pid if pid < 0 => fail(Stage::Fork, errno()),
        pid => look_after(program, pid, ended),
    }
}

/// A descriptor that tells when a child has ended; the signal is blocked for it.
fn watch_children() -> Result<RawFd, Refusal> {
    // SAFETY: a signal set of ours, and plain numbers.
    unsafe {
        let mut children = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut children);
        libc::sigaddset(&raw mut children, libc::SIGCHLD);
        check(libc::c_long::from(libc::sigprocmask(libc::SIG_SETMASK, &raw const children, ptr::null_mut())))?;
        let ended = libc::signalfd(-1, &raw const children, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(libc::c_long::from(ended)).map(|()| ended)
    }
}

/// Waits for all children, for orphans of the command become ours, and hands on to it the signals that the builder names.
fn look_after(program: &Program, command: i64, ended: RawFd) -> ! {
    loop {
        let mut waits = [program.words, ended].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        let mut drained = [0_u8; 128];
        // SAFETY: two entries, as many bytes as are said.
        unsafe {
            libc::poll(waits.as_mut_ptr(), 2, -1);
            libc::read(ended, drained.as_mut_ptr().cast(), drained.len());
        }
        loop {
            let mut status = 0;
            // SAFETY: `status` is ours to write to.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WNOHANG) };
            if i64::from(pid) == command {
                report(program.report, Stage::Ended, status);
                exit(0);
            }
            match pid {
                1.. => {}
                0 => break,
                _ if errno() == libc::EINTR => {}
                _ => exit(1),
            }
        }
        if waits[0].revents != 0 {
            let mut signal = 0_u8;
            // SAFETY: a byte of ours to write to.
            match unsafe { libc::read(program.words, (&raw mut signal).cast(), 1) } {
                1 => send(command, libc::c_int::from(signal)),
                // The builder is gone.
                0 => exit(1),
                _ => {}
            }
        }
    }
}

/// Signals the process group of the command, which has not been waited for: its number is still its own.
fn send(command: i64, signal: libc::c_int) {
    // SAFETY: plain numbers. It leads no group yet if it has just been made.
    unsafe {
        if libc::syscall(libc::SYS_kill, -command, signal) != 0 {
            libc::syscall(libc::SYS_kill, command, signal);
        }
    }
}

/// Becomes the command.
fn command(program: &Program) -> ! {
    let fail = |stage, errno| -> ! {
        report(program.report, stage, errno);
        exit(1)
    };
    let stage = |stage, result: Result<(), Refusal>| {
        if let Err(errno) = result {
            fail(stage, errno);
        }
    };
    stage(Stage::Start, calm_process());
    // As root, as runc does: a user may be put where they could not go themselves.
    stage(Stage::Directory, check(libc::c_long::from(change_directory(&program.directory))));
    stage(Stage::Capabilities, drop_bounding_set(program.capabilities));
    // While we have the right to: the command does not promise to gain no rights, because `sudo` must work.
    stage(Stage::Filter, refuse_calls(&program.filter));
    stage(Stage::Identity, become_user(program));
    stage(Stage::Capabilities, limit_capabilities(program.capabilities));
    let (mut stage, mut refusal) = (Stage::NotFound, libc::ENOENT);
    for candidate in &program.candidates {
        // SAFETY: a text and two lists that end with null, all owned by `program`.
        unsafe {
            libc::execve(candidate.as_ptr(), program.arguments.pointers.as_ptr(), program.environment.pointers.as_ptr());
        }
        let errno = errno();
        // A script without its interpreter is not found either, but it is there.
        // SAFETY: a text that ends with zero.
        let is_there = unsafe { libc::access(candidate.as_ptr(), libc::F_OK) } == 0;
        match errno {
            libc::ENOENT | libc::ENOTDIR if !is_there => {}
            // As a shell does: keep looking, and remember that there was one.
            _ => (stage, refusal) = (Stage::Execute, errno),
        }
        if stage == Stage::Execute && refusal != libc::EACCES {
            break;
        }
    }
    fail(stage, refusal)
}

/// Arranges to die with the builder, and waits until it has noted that we live.
fn await_start(program: &Program) -> Result<(), Refusal> {
    let mut byte = 0_u8;
    // SAFETY: plain numbers; a byte of ours to write to. Without the builder's end of the pipe, its death ends ours.
    unsafe {
        check(libc::c_long::from(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)))?;
        libc::close(program.words_writer);
        if libc::read(program.words, (&raw mut byte).cast(), 1) != 1 {
            exit(1);
        }
        // The builder's memory is still mapped here: nobody in the namespace may look into it.
        check(libc::c_long::from(libc::prctl(libc::PR_SET_DUMPABLE, 0)))
    }
}

/// Overwrites our copy of the builder's command line: `/proc/1/cmdline` shows it to everybody, whatever is in it.
fn forget_arguments(program: &Program) {
    let arguments = &program.own_arguments;
    // SAFETY: the kernel says that the arguments are there, on our own copy of the stack; nothing here reads them.
    unsafe { ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(arguments.start), 0, arguments.len()) };
}

/// Gives up signals to processes outside and abstract sockets of theirs, while this process may without promising to gain no rights.
/// Where the host refuses it, the namespaces stand alone.
fn enter_rules(program: &Program) {
    if program.rules >= 0 {
        // SAFETY: plain numbers.
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, program.rules, 0) };
    }
}

/// Standard streams in their places, everything else closed but the two pipes.
fn take_descriptors(program: &Program) -> Result<(), Refusal> {
    // SAFETY: plain numbers. The five descriptors are above 2, which the caller saw to.
    unsafe {
        check(libc::c_long::from(libc::dup2(program.input, 0)))?;
        check(libc::c_long::from(libc::dup2(program.output, 1)))?;
        check(libc::c_long::from(libc::dup2(program.error, 2)))?;
    }
    let (first, second) = (program.report.min(program.words), program.report.max(program.words));
    close_range(3, first - 1)?;
    close_range(first + 1, second - 1)?;
    close_range(second + 1, RawFd::MAX)
}

fn close_range(first: RawFd, last: RawFd) -> Result<(), Refusal> {
    if first > last {
        return Ok(());
    }
    // SAFETY: plain numbers; nothing in this process uses the descriptors any more.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return Ok(());
    }
    // Before Linux 5.9. More than these cannot be open by default.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours to write to.
    check(libc::c_long::from(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }))?;
    let last = last.min(RawFd::try_from(limit.rlim_cur).unwrap_or(1 << 20).min(1 << 20));
    for descriptor in first..=last {
        // SAFETY: as above.
        unsafe { libc::close(descriptor) };
    }
    Ok(())
}

fn mount_proc(target: &CString) -> Result<(), Refusal> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(Some(c"proc"), target, Some(c"proc"), flags)
}

/// Shows the processes of the builder as well; what is in them stays closed to a step, which has fewer capabilities.
fn bind_proc(target: &CString) -> Result<(), Refusal> {
    mount(Some(PROC), target, None, libc::MS_BIND | libc::MS_REC)
}

/// Makes the parts of /proc that speak to the kernel unreadable or unwritable, as Docker does.
fn hide(program: &Program) -> Result<(), Refusal> {
    let missing_is_fine = |result| match result {
        Err(libc::ENOENT | libc::ENOTDIR) => Ok(()),
        result => result,
    };
    for path in &program.hidden_files {
        missing_is_fine(mount(Some(NULL), path, None, libc::MS_BIND))?;
    }
    for path in &program.hidden_directories {
        missing_is_fine(mount(Some(c"tmpfs"), path, Some(c"tmpfs"), libc::MS_RDONLY))?;
    }
    for path in &program.read_only {
        match mount(Some(path), path, None, libc::MS_BIND | libc::MS_REC) {
            Err(libc::ENOENT | libc::ENOTDIR) => continue,
            result => result?,
        }
        let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        mount(None, path, None, flags)?;
    }
    Ok(())
}

/// Puts the new root in the place of the old one.
fn change_root(program: &Program) -> Result<(), Refusal> {
    check(libc::c_long::from(change_directory(&program.root)))?;
    // SAFETY: texts that end with zero.
    let pivoted = unsafe { check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr())) };
    match pivoted {
        // The old root is stacked under the new one and then taken off: no directory is needed for it.
        // SAFETY: as above.
        Ok(()) => check(libc::c_long::from(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }))?,
        // The runtimes' default filters let nobody pivot, even where they let them mount. Then the new root covers the old one
        // at its very top: `..` ends there for whoever leaves a chroot, and a step may not take mounts off.
        Err(libc::EPERM | libc::ENOSYS) => {
            mount(Some(c"."), c"/", None, libc::MS_MOVE)?;
            // SAFETY: as above.
            check(libc::c_long::from(unsafe { libc::chroot(c".".as_ptr()) }))?;
        }
        Err(errno) => return Err(errno),
    }
    check(libc::c_long::from(change_directory(c"/")))
}

/// A session of its own, no signal ignored or blocked, the usual umask.
fn calm_process() -> Result<(), Refusal> {
    // SAFETY: plain numbers, and a signal set of ours.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        check(libc::c_long::from(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut())))?;
        libc::umask(0o022);
        check(libc::c_long::from(libc::setsid()))
    }
}

/// What is not in the bounding set comes back by no program.
fn drop_bounding_set(kept: u64) -> Result<(), Refusal> {
    for capability in (0..=capabilities::MAX).filter(|number| kept & (1 << number) == 0) {
        // SAFETY: plain numbers.
        match check(libc::c_long::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })) {
            Ok(()) => {}
            // The kernel knows no more of them.
            Err(libc::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// For good, for this process and all that come from it.
fn refuse_calls(filter: &[libc::sock_filter]) -> Result<(), Refusal> {
    let Ok(len @ 1..) = u16::try_from(filter.len()) else { return Ok(()) };
    // The kernel reads it and no more.
    let reference = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the filter and its reference live across the call.
    let installed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const reference) };
    match check(libc::c_long::from(installed)) {
        // A kernel built without filters; Docker goes on there as well.
        Err(libc::EINVAL) => Ok(()),
        result => result,
    }
}

/// By system call: libc's functions would do it for all threads of a process that has none of them.
fn become_user(program: &Program) -> Result<(), Refusal> {
    // SAFETY: a list with its length, and plain numbers.
    unsafe {
        let groups = libc::syscall(libc::SYS_setgroups, program.groups.len(), program.groups.as_ptr());
        match check(groups) {
            // A user namespace with a single id forbids it; it has no groups to lose.
            Err(libc::EPERM) if program.groups.iter().all(|group| *group == program.gid) => {}
            result => result?,
        }
        check(libc::syscall(libc::SYS_setresgid, program.gid, program.gid, program.gid))?;
        check(libc::syscall(libc::SYS_setresuid, program.uid, program.uid, program.uid))
    }
}

/// What is permitted now, cut to the set; another user than root has none.
fn limit_capabilities(kept: u64) -> Result<(), Refusal> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let mut sets = [Sets { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: the structures have the layout of version 3, and are ours.
    unsafe {
        check(libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()))?;
        for (set, wanted) in sets.iter_mut().zip([kept, kept >> 32]) {
            #[expect(clippy::cast_possible_truncation, reason = "the lower half is what belongs in this word")]
            let wanted = wanted as u32;
            *set = Sets { effective: set.effective & wanted, permitted: set.permitted & wanted, inheritable: 0 };
        }
        check(libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()))
    }
}

fn mount(
    source: Option<&std::ffi::CStr>,
    target: &std::ffi::CStr,
    kind: Option<&std::ffi::CStr>,
    flags: libc::c_ulong,
) -> Result<(), Refusal> {
    let pointer = |text: Option<&std::ffi::CStr>| text.map_or(ptr::null(), std::ffi::CStr::as_ptr);
    // SAFETY: texts that end with zero, or null where the kernel takes none.
    check(libc::c_long::from(unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, ptr::null()) }))
}

fn change_directory(path: &std::ffi::CStr) -> libc::c_int {
    // SAFETY: a text that ends with zero.
    unsafe { libc::chdir(path.as_ptr()) }
}

/// Eight bytes go through a pipe whole or not at all.
fn report(pipe: RawFd, stage: Stage, value: i32) {
    let (stage, value) = ((stage as u32).to_ne_bytes(), value.to_ne_bytes());
    let bytes = [stage[0], stage[1], stage[2], stage[3], value[0], value[1], value[2], value[3]];
    // SAFETY: a buffer of ours with its length. If nobody reads any more, nobody is left to tell.
    unsafe { libc::write(pipe, bytes.as_ptr().cast(), bytes.len()) };
}

fn check(result: libc::c_long) -> Result<(), Refusal> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

fn errno() -> Refusal {
    // SAFETY: libc's own variable of this thread, which the forked process has a copy of.
    unsafe { *libc::__errno_location() }
}

/// At once, without running anything that the builder has registered.
fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        for stage in [Stage::Ended, Stage::Start, Stage::Proc, Stage::Hide, Stage::Root, Stage::Fork, Stage::Descriptors] {
            report(std::os::fd::AsRawFd::as_raw_fd(&writer), stage, -7);
            let mut bytes = [0; Report::LENGTH];
            rustix::io::read(&reader, &mut bytes).unwrap();
            assert_eq!(Report::parse(bytes), Some(Report { stage, value: -7 }));
        }
        for stage in [Stage::Identity, Stage::Capabilities, Stage::Filter, Stage::Directory, Stage::NotFound, Stage::Execute] {
            report(std::os::fd::AsRawFd::as_raw_fd(&writer), stage, 3);
            let mut bytes = [0; Report::LENGTH];
            rustix::io::read(&reader, &mut bytes).unwrap();
            assert_eq!(Report::parse(bytes), Some(Report { stage, value: 3 }));
        }
        assert_eq!(Report::parse([0; Report::LENGTH]), None);
    }
}
