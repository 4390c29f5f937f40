//! The first process of a step: starts the command, adopts and reaps what it leaves behind, and ends only when every process
//! of the step is dead.
//!
//! Standard input is a socket to the builder. The launch comes through it, later the numbers of signals for the command, and
//! reports go back; when it closes, the step is over.

use super::arch::number as n;
use super::identity::Credentials;
use super::kernel::{self, AT_FDCWD, Answer, EACCES, ENOENT, ENOTDIR, O_CLOEXEC, O_PATH, call};
use super::state::{self, Kept, ROOT_DESCRIPTOR, change};
use super::text::{self, Text};
use super::{exec, filter, known, path};
use crate::launch::{self, GUARD_PROC, HAS_LINKS, NEW_PROC, NUMBERS, Stage};
use crate::record;
use core::ffi::CStr;

const SIGCHLD: u64 = 17;
const SIGKILL: u64 = 9;
const CONTROL: i32 = 0;
const MOST_BYTES: usize = 64 << 20;

/// A launch, as it lies in memory.
struct Launch {
    uid: u32,
    gid: u32,
    groups: &'static [u32],
    root: *const u8,
    stub: *const u8,
    directory: *const u8,
    host_name: *const u8,
    candidates: &'static [*const u8],
    arguments: &'static [*const u8],
    environment: &'static [*const u8],
    flags: u32,
    /// Calls that nobody may make, the stub included: instructions of 8 bytes.
    filter: (*const u8, usize),
    /// Rules to enter, or below zero.
    rules: i32,
}

/// Runs the step that comes through standard input.
pub(crate) fn supervise() -> ! {
    let fail = |stage: Stage, errno: Answer| -> ! {
        kernel::write(CONTROL, &launch::report(stage, (-errno) as i32));
        kernel::exit(1)
    };
    let Some(launch) = receive() else { fail(Stage::Prepare, kernel::EINVAL) };
    const SUBREAPER: u64 = 36;
    const DUMPABLE: u64 = 4;
    call(n::PRCTL, [SUBREAPER, 1, 0, 0, 0, 0]);
    call(n::PRCTL, [DUMPABLE, 0, 0, 0, 0, 0]);
    call(n::SETSID, [0; 6]);
    let guarded = guard_proc(launch.flags);
    if guarded < 0 {
        fail(Stage::Proc, guarded);
    }
    // Blocked: a descriptor tells that a child has ended.
    let children = 1_u64 << (SIGCHLD - 1);
    call(n::RT_SIGPROCMASK, [2, &raw const children as u64, 0, 8, 0, 0]);
    let ended = call(n::SIGNALFD4, [u64::MAX, &raw const children as u64, 8, O_CLOEXEC | 0o4000, 0, 0]);
    if ended < 0 {
        fail(Stage::Prepare, ended);
    }
    let command = call(n::CLONE, [SIGCHLD, 0, 0, 0, 0, 0]);
    if command == 0 {
        become_command(&launch);
    }
    if command < 0 {
        fail(Stage::Prepare, command);
    }
    let mut status = None;
    while status.is_none() {
        let mut waits = [u64::from(CONTROL as u32) | 1 << 32, ended as u64 | 1 << 32];
        call(n::PPOLL, [waits.as_mut_ptr() as u64, 2, 0, 0, 0, 0]);
        let mut signal = 0_u8;
        if waits[0] >> 48 != 0 {
            match call(n::READ, [CONTROL as u64, &raw mut signal as u64, 1, 0, 0, 0]) {
                1 => send(command, signal),
                kernel::EINTR => {}
                // The builder is gone, or tired.
                _ => break,
            }
        }
        let mut drained = [0_u8; 128];
        call(n::READ, [ended as u64, drained.as_mut_ptr() as u64, 128, 0, 0, 0]);
        while let Some((process, how)) = reap(1) {
            if process == command {
                status = Some(how);
            }
        }
    }
    end_all();
    if let Some(status) = status {
        kernel::write(CONTROL, &launch::report(Stage::Ended, status));
    }
    kernel::exit(0)
}

/// Signals the process group of the command, as a terminal does. It has not been waited for: its number is still its own.
fn send(command: Answer, signal: u8) {
    // It leads no group yet if it has just been made.
    if call(n::KILL, [-command as u64, signal.into(), 0, 0, 0, 0]) < 0 {
        call(n::KILL, [command as u64, signal.into(), 0, 0, 0, 0]);
    }
}

/// Mounts a new /proc, and keeps the parts of it that speak to the kernel from being read or written, as Docker does.
fn guard_proc(flags: u32) -> Answer {
    const HIDDEN_FILES: [&CStr; 6] =
        [c"/proc/kcore", c"/proc/keys", c"/proc/latency_stats", c"/proc/timer_list", c"/proc/timer_stats", c"/proc/sched_debug"];
    const HIDDEN_DIRECTORIES: [&CStr; 3] = [c"/proc/acpi", c"/proc/asound", c"/proc/scsi"];
    const READ_ONLY: [&CStr; 5] = [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];
    /// Read-only, and no setuid, device or program in it.
    const READ: u64 = 1;
    const SAFE: u64 = 2 | 4 | 8;
    const REMOUNT: u64 = 32;
    const BIND: u64 = 4096;
    const WITH_ALL_BELOW: u64 = 16384;
    let mount = |source: &CStr, target: &CStr, kind: &CStr, options: u64| {
        call(n::MOUNT, [source.as_ptr() as u64, target.as_ptr() as u64, kind.as_ptr() as u64, options, 0, 0])
    };
    if flags & NEW_PROC != 0 {
        let mounted = mount(c"proc", c"/proc", c"proc", SAFE);
        if mounted < 0 {
            return mounted;
        }
    }
    if flags & GUARD_PROC == 0 {
        return 0;
    }
    let hidden_files = HIDDEN_FILES.iter().map(|path| mount(c"/dev/null", path, c"", BIND));
    let hidden = HIDDEN_DIRECTORIES.iter().map(|path| mount(c"tmpfs", path, c"tmpfs", READ));
    let read_only = READ_ONLY.iter().map(|path| match mount(path, path, c"", BIND | WITH_ALL_BELOW) {
        0 => mount(c"", path, c"", BIND | REMOUNT | READ | SAFE),
        errno => errno,
    });
    // What this kernel does not have needs no guard.
    hidden_files.chain(hidden).chain(read_only).find(|errno| ![0, ENOENT, ENOTDIR].contains(errno)).unwrap_or(0)
}

/// One child that has ended.
fn reap(options: u64) -> Option<(Answer, i32)> {
    let mut status = 0_i32;
    const ALL: u64 = 0x4000_0000;
    let process = call(n::WAIT4, [u64::MAX, &raw mut status as u64, options | ALL, 0, 0, 0]);
    (process > 0).then_some((process, status))
}

/// Kills all children until there are none: what they leave becomes ours, and is killed in turn.
fn end_all() {
    loop {
        let mut found = false;
        each_child(|process| {
            found = true;
            call(n::KILL, [process, SIGKILL, 0, 0, 0, 0]);
        });
        // Waits for one at least, so that this does not turn in vain; gathers whatever else has ended.
        if found && reap(0).is_some() {
            while reap(1).is_some() {}
            continue;
        }
        if reap(0).is_none() {
            return;
        }
    }
}

/// Names the children: those that /proc says are ours.
fn each_child(mut act: impl FnMut(u64)) {
    let own = kernel::getpid() as u64;
    let directory = kernel::openat(AT_FDCWD, c"/proc".as_ptr().cast(), super::arch::O_DIRECTORY | O_CLOEXEC, 0);
    if directory < 0 {
        return;
    }
    let mut entries = [0_u8; 4096];
    loop {
        let length = call(n::GETDENTS64, [directory as u64, entries.as_mut_ptr() as u64, entries.len() as u64, 0, 0, 0]);
        if length <= 0 {
            break;
        }
        let mut at = 0;
        while at + 19 < length as usize {
            let entry_length = usize::from(u16::from_ne_bytes([entries[at + 16], entries[at + 17]]));
            let name = entries[at + 19..at + entry_length].split(|byte| *byte == 0).next().unwrap_or(&[]);
            let (process, rest) = text::number(name);
            if rest.is_empty() && !name.is_empty() && parent_of(name) == Some(own) {
                act(process);
            }
            at += entry_length;
        }
    }
    kernel::close(directory as i32);
}

fn parent_of(process: &[u8]) -> Option<u64> {
    let mut buffer = [0; 64];
    let mut name = Text::new(&mut buffer);
    name.put(b"/proc/").put(process).put(b"/stat");
    let file = kernel::openat(AT_FDCWD, name.as_ptr(), O_CLOEXEC, 0);
    if file < 0 {
        return None;
    }
    let mut content = [0_u8; 256];
    let length = call(n::READ, [file as u64, content.as_mut_ptr() as u64, content.len() as u64, 0, 0, 0]);
    kernel::close(file as i32);
    let content = content.get(..usize::try_from(length).ok()?)?;
    // `pid (any name) state parent …`
    let end = content.iter().rposition(|byte| *byte == b')')?;
    Some(text::number(content.get(end + 4..)?).0)
}

/// Reads the launch into memory that stays.
fn receive() -> Option<Launch> {
    let mut length = [0_u8; 4];
    let rules = receive_first(&mut length)?;
    let length = u32::from_ne_bytes(length) as usize;
    if !(NUMBERS * 4..MOST_BYTES).contains(&length) {
        return None;
    }
    // Behind the bytes there is room for the lists of pointers, at most one for each byte.
    let address = kernel::map(length.next_multiple_of(8) + (length + 8) * 8);
    if kernel::is_error(address) {
        return None;
    }
    let start = address as *mut u8;
    // SAFETY: the memory that was just mapped; nothing else uses it.
    let bytes = unsafe { core::slice::from_raw_parts_mut(start, length) };
    bytes[..4].copy_from_slice(&(length as u32).to_ne_bytes());
    read_all(&mut bytes[4..])?;
    let numbers = start.cast::<u32>();
    // SAFETY: the launch has so many numbers.
    let number = |at: usize| unsafe { *numbers.add(at) };
    let counts = [number(3), number(4), number(5), number(6)].map(|count| count as usize);
    let flags = number(7);
    let filter = (start.wrapping_add(NUMBERS * 4 + counts[0] * 4).cast_const(), number(8) as usize);
    let mut at = NUMBERS * 4 + counts[0] * 4 + filter.1 * 8;
    if at > length || counts[1..].iter().sum::<usize>() > length {
        return None;
    }
    // SAFETY: within the launch, as was checked.
    let groups = unsafe { core::slice::from_raw_parts(numbers.add(NUMBERS), counts[0]) };
    let mut next = || {
        let here = at;
        let text = bytes.get(here..)?;
        at += text.iter().position(|byte| *byte == 0)? + 1;
        Some(start.wrapping_add(here).cast_const())
    };
    let (root, stub, directory, host_name) = (next()?, next()?, next()?, next()?);
    let mut lists = start.wrapping_add(length.next_multiple_of(8)).cast::<*const u8>();
    let mut list = |count: usize| {
        let first = lists;
        for index in 0..count {
            // SAFETY: there is room for a pointer for each byte of the launch, and more.
            unsafe { *first.add(index) = next()? };
        }
        lists = lists.wrapping_add(count + 1);
        // SAFETY: just written; the memory behind is zero, which ends the list.
        Some(unsafe { core::slice::from_raw_parts(first, count) })
    };
    let (candidates, arguments, environment) = (list(counts[1])?, list(counts[2])?, list(counts[3])?);
    let (uid, gid) = (number(1), number(2));
    Some(Launch { uid, gid, groups, root, stub, directory, host_name, candidates, arguments, environment, flags, filter, rules })
}

/// Reads the first bytes, and the descriptor that comes with them: below zero if there is none.
fn receive_first(buffer: &mut [u8; 4]) -> Option<i32> {
    /// The kernel's structure of that name.
    #[repr(C)]
    struct MessageHeader {
        name: u64,
        name_length: u64,
        parts: *mut [u64; 2],
        part_count: u64,
        control: *mut Control,
        control_length: u64,
        flags: u64,
    }
    #[repr(C)]
    struct Control {
        length: u64,
        level: i32,
        kind: i32,
        descriptor: i32,
        padding: i32,
    }
    const WITH_DESCRIPTOR: u64 = 20;
    const CLOSE_ON_EXEC: u64 = 0x4000_0000;
    let mut control = Control { length: 0, level: 0, kind: 0, descriptor: -1, padding: 0 };
    let mut part = [buffer.as_mut_ptr() as u64, 4];
    let mut header = MessageHeader {
        name: 0,
        name_length: 0,
        parts: &raw mut part,
        part_count: 1,
        control: &raw mut control,
        control_length: size_of::<Control>() as u64,
        flags: 0,
    };
    loop {
        return match call(n::RECVMSG, [CONTROL as u64, &raw mut header as u64, CLOSE_ON_EXEC, 0, 0, 0]) {
            -4 => continue,
            // Four bytes do not come in parts.
            4 if header.control_length >= WITH_DESCRIPTOR => Some(control.descriptor),
            4 => Some(-1),
            _ => None,
        };
    }
}

fn read_all(buffer: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while at < buffer.len() {
        let rest = &mut buffer[at..];
        match call(n::READ, [CONTROL as u64, rest.as_mut_ptr() as u64, rest.len() as u64, 0, 0, 0]) {
            -4 => {}
            count if count > 0 => at += count as usize,
            _ => return None,
        }
    }
    Some(())
}

/// Gives up, for good, what the builder may do beyond an ordinary user: the rights that a program sees are emulated. Ports
/// below 1024 are not, and stay.
fn give_up_rights() {
    const KEPT: u64 = 1 << 10;
    const DROP_FROM_BOUNDING_SET: u64 = 24;
    for right in (0..64).filter(|right| KEPT >> right & 1 == 0) {
        // Refused where there is nothing to give up.
        call(n::PRCTL, [DROP_FROM_BOUNDING_SET, right, 0, 0, 0, 0]);
    }
    let header = [0x2008_0522_u32, 0];
    // Effective, permitted, inheritable, of the lower 32 and the upper.
    let mut sets = [0_u32; 6];
    call(n::CAPGET, [header.as_ptr() as u64, sets.as_mut_ptr() as u64, 0, 0, 0, 0]);
    let kept = KEPT as u32;
    let fewer = [sets[0] & kept, sets[1] & kept, 0, 0, 0, 0];
    call(n::CAPSET, [header.as_ptr() as u64, fewer.as_ptr() as u64, 0, 0, 0, 0]);
}

/// Becomes the command: root, filter, identity, directory, program.
fn become_command(launch: &Launch) -> ! {
    // Below that of the root, above which everything is closed.
    let control = call(n::FCNTL, [CONTROL as u64, 1030, ROOT_DESCRIPTOR as u64 - 1, 0, 0, 0]);
    let fail = |stage: Stage, errno: Answer| -> ! {
        kernel::write(control as i32, &launch::report(stage, (-errno) as i32));
        kernel::exit(1)
    };
    let check = |stage: Stage, result: Answer| if result < 0 { fail(stage, result) } else { result };
    check(Stage::Prepare, control);
    call(n::SETSID, [0; 6]);
    for signal in 1..=64 {
        let default = [0_u64; 4];
        call(n::RT_SIGACTION, [signal, default.as_ptr() as u64, 0, 8, 0, 0]);
    }
    let none = 0_u64;
    call(n::RT_SIGPROCMASK, [2, &raw const none as u64, 0, 8, 0, 0]);
    give_up_rights();
    if launch.rules >= 0 {
        const NO_NEW_PRIVILEGES: u64 = 38;
        check(Stage::Rules, call(n::PRCTL, [NO_NEW_PRIVILEGES, 1, 0, 0, 0, 0]));
        check(Stage::Rules, call(n::LANDLOCK_RESTRICT_SELF, [launch.rules as u64, 0, 0, 0, 0, 0]));
    }
    let null = check(Stage::Prepare, kernel::openat(AT_FDCWD, c"/dev/null".as_ptr().cast(), 0, 0));
    call(n::DUP3, [null as u64, 0, 0, 0, 0, 0]);
    // SAFETY: texts of the launch, which end with zero.
    let (root_path, stub_path) = unsafe { (text::bytes(launch.root), text::bytes(launch.stub)) };
    let root = kernel::openat(AT_FDCWD, launch.root, O_PATH | super::arch::O_DIRECTORY, 0);
    check(Stage::Prepare, root);
    check(Stage::Prepare, call(n::DUP3, [root as u64, ROOT_DESCRIPTOR as u64, 0, 0, 0, 0]));
    call(n::CLOSE_RANGE, [3, control as u64 - 1, 0, 0, 0, 0]);
    call(n::CLOSE_RANGE, [ROOT_DESCRIPTOR as u64 + 1, 0xffff_ffff, 0, 0, 0, 0]);
    let (own, setting) = state::own_memory();
    setting.real_uid = call(n::GETUID, [0; 6]) as u32;
    setting.real_gid = call(n::GETGID, [0; 6]) as u32;
    // SAFETY: as above.
    let host_name = unsafe { text::bytes(launch.host_name) };
    let fits = own.root.set(root_path);
    (setting.base, setting.stub) = (Kept::new(root_path), Kept::new(stub_path));
    if !fits || root_path.len() + record::OWNERS.len() + 80 > 600 {
        fail(Stage::Prepare, kernel::ENAMETOOLONG);
    }
    setting.host_name = Kept::new(&host_name[..host_name.len().min(64)]);
    setting.has_links = launch.flags & HAS_LINKS != 0;
    own.credentials = Credentials::ROOT;
    own.umask = 0o022;
    call(n::UMASK, [0o022, 0, 0, 0, 0, 0]);
    // SAFETY: the instructions of the launch.
    check(Stage::Filter, unsafe { filter::install(launch.filter.0, launch.filter.1) });
    super::claim_signal();
    known::settle();
    // As root: a user may be put where they could not go themselves.
    let directory = path::open(AT_FDCWD, launch.directory, O_PATH | super::arch::O_DIRECTORY | O_CLOEXEC);
    check(Stage::Directory, directory);
    check(Stage::Directory, call(n::FCHDIR, [directory as u64, 0, 0, 0, 0, 0]));
    kernel::close(directory as i32);
    let who = &mut change().credentials;
    who.set_groups(launch.groups);
    who.change_group(|ids, _| ids.set(launch.gid, true));
    who.change_user(|ids, _| ids.set(launch.uid, true));
    if launch.candidates.is_empty() {
        match super::arch::call_from_outside(n::GETUID) {
            uid if uid == i64::from(launch.uid) => kernel::exit(0),
            other => fail(Stage::Answer, other.min(kernel::EPERM)),
        }
    }
    let (mut stage, mut refusal) = (Stage::NotFound, ENOENT);
    for candidate in launch.candidates {
        let errno = exec::execute(AT_FDCWD, *candidate, launch.arguments.as_ptr(), launch.environment.as_ptr(), 0);
        // A script without its interpreter is not found either, but it is there.
        let there = path::open_name(AT_FDCWD, *candidate, true);
        if there >= 0 {
            kernel::close(there as i32);
        }
        match errno {
            ENOENT | ENOTDIR if there < 0 => {}
            // As a shell does: keep looking, and remember that there was one.
            _ => (stage, refusal) = (Stage::Execute, errno),
        }
        if stage == Stage::Execute && refusal != EACCES {
            break;
        }
    }
    fail(stage, refusal)
}
