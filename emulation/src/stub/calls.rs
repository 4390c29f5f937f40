//! The table: which calls come to the stub, when, and what is done with each. docs/emulation.md explains it by the same groups,
//! and a test compares the two.

use super::arch::number as n;
use super::files::Times;
use super::identity::{Capability, LAST_CAPABILITY};
use super::kernel::{
    self, AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, Answer, EACCES, EBADF, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, EPERM,
    O_CREAT, O_TRUNC, O_WRONLY, call,
};
use super::memory::{self, text};
use super::state::{ROOT_DESCRIPTOR, change, setting, state};
use super::{exec, files, signals, sockets};

/// When a call comes to the stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Always.
    Always,
    /// If this argument, a pointer, is not null.
    Given(u32),
    /// If this argument is the descriptor of the root.
    Root(u32),
    /// Never: the filter itself refuses it, as a kernel that lacks it would.
    Absent,
}
pub(crate) use When::{Absent, Always, Given, Root};

/// A row of the table.
pub(crate) struct Row {
    pub(crate) number: i64,
    pub(crate) when: When,
    /// The group and the name in the documentation.
    #[cfg(test)]
    pub(crate) described: (&'static str, &'static str),
}

/// Writes the table as data, and as the function that answers.
macro_rules! table {
    ([$number:ident, $arguments:ident, $mask:ident, $here:ident, $a:ident, $b:ident, $c:ident, $d:ident, $e:ident]
     $($group:literal { $($(#[$only:meta])* $name:ident $when:expr => $answer:expr,)* })*) => {
        /// All calls that do not simply go to the kernel.
        pub(crate) static TABLE: &[Row] = &[$($($(#[$only])* Row {
            number: n::$name,
            when: $when,
            #[cfg(test)]
            described: ($group, stringify!($name)),
        },)*)*];

        /// When this call comes to the stub; `None` for one that never does.
        #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there are no shortcuts yet"))]
        fn when(number: i64) -> Option<When> {
            match number {
                $($($(#[$only])* n::$name => Some($when),)*)*
                _ => None,
            }
        }

        /// Does what the program has asked for. `mask` is the signal mask that is in force afterwards, if a signal brought the
        /// call.
        pub(crate) fn answer($number: i64, $arguments: [u64; 6], $mask: Option<&mut u64>) -> Answer {
            let [$a, $b, $c, $d, $e, _] = $arguments;
            let $here = AT_FDCWD;
            match $number {
                $($($(#[$only])* n::$name => $answer,)*)*
                _ => ENOSYS,
            }
        }
    };
}

/// The path of a call that speaks of its descriptor.
const EMPTY: *const u8 = c"".as_ptr().cast();

/// A path, or none for the descriptor itself.
fn text_or_descriptor(pointer: u64) -> Option<*const u8> {
    (pointer != 0).then(|| text(pointer))
}

table! {
    [number, arguments, mask, here, a, b, c, d, e]
    "open" {
        #[cfg(target_arch = "x86_64")] OPEN Always => files::open(here, text(a), b, c),
        OPENAT Always => files::open(a as i32, text(b), c, d),
        OPENAT2 Always => files::open_how(a as i32, text(b), c as *const u64, d),
        #[cfg(target_arch = "x86_64")] CREAT Always => files::open(here, text(a), O_CREAT | O_WRONLY | O_TRUNC, b),
    }
    "look" {
        #[cfg(target_arch = "x86_64")] STAT Always => files::stat(here, text(a), b as *mut _, 0),
        #[cfg(target_arch = "x86_64")] LSTAT Always => files::stat(here, text(a), b as *mut _, AT_SYMLINK_NOFOLLOW),
        FSTAT Always => files::stat(a as i32, EMPTY, b as *mut _, AT_EMPTY_PATH),
        NEWFSTATAT Always => files::stat(a as i32, text(b), c as *mut _, d),
        STATX Always => files::stat_extended(a as i32, text(b), c, d, e as *mut _),
        #[cfg(target_arch = "x86_64")] ACCESS Always => files::access(here, text(a), b, 0),
        FACCESSAT Always => files::access(a as i32, text(b), c, 0),
        FACCESSAT2 Always => files::access(a as i32, text(b), c, d),
    }
    "names" {
        #[cfg(target_arch = "x86_64")] MKDIR Always => files::make_directory(here, text(a), b),
        MKDIRAT Always => files::make_directory(a as i32, text(b), c),
        #[cfg(target_arch = "x86_64")] MKNOD Always => files::make_node(here, text(a), b, c),
        MKNODAT Always => files::make_node(a as i32, text(b), c, d),
        #[cfg(target_arch = "x86_64")] SYMLINK Always => files::make_link(text(a), here, text(b)),
        SYMLINKAT Always => files::make_link(text(a), b as i32, text(c)),
        #[cfg(target_arch = "x86_64")] LINK Always => files::link(here, text(a), here, text(b), 0),
        LINKAT Always => files::link(a as i32, text(b), c as i32, text(d), e),
        #[cfg(target_arch = "x86_64")] RENAME Always => files::rename(here, text(a), here, text(b), 0),
        RENAMEAT Always => files::rename(a as i32, text(b), c as i32, text(d), 0),
        RENAMEAT2 Always => files::rename(a as i32, text(b), c as i32, text(d), e),
        #[cfg(target_arch = "x86_64")] UNLINK Always => files::remove(here, text(a), 0),
        UNLINKAT Always => files::remove(a as i32, text(b), c),
        #[cfg(target_arch = "x86_64")] RMDIR Always => files::remove(here, text(a), files::REMOVE_DIRECTORY),
        TRUNCATE Always => files::truncate(text(a), b),
        STATFS Always => files::file_system(text(a), b),
        INOTIFY_ADD_WATCH Always => files::watch(a, text(b), c),
    }
    "links" {
        #[cfg(target_arch = "x86_64")] READLINK Always => files::read_link(here, text(a), b as *mut u8, c),
        READLINKAT Always => files::read_link(a as i32, text(b), c as *mut u8, d),
        GETCWD Always => files::working_directory(a as *mut u8, b),
    }
    "directories" {
        CHDIR Always => files::change_directory(text(a)),
        FCHDIR Always => files::change_to_descriptor(a),
        CHROOT Always => files::change_root(text(a)),
        UNSHARE Always => files::unshare(a),
    }
    "change" {
        #[cfg(target_arch = "x86_64")] CHMOD Always => files::change_mode(here, text(a), b, 0),
        FCHMOD Always => files::change_mode(a as i32, EMPTY, b, AT_EMPTY_PATH),
        FCHMODAT Always => files::change_mode(a as i32, text(b), c, 0),
        FCHMODAT2 Always => files::change_mode(a as i32, text(b), c, d),
        #[cfg(target_arch = "x86_64")] CHOWN Always => files::change_owner(here, text(a), b as u32, c as u32, 0),
        #[cfg(target_arch = "x86_64")] LCHOWN Always => files::change_owner(here, text(a), b as u32, c as u32, AT_SYMLINK_NOFOLLOW),
        FCHOWN Always => files::change_owner(a as i32, EMPTY, b as u32, c as u32, AT_EMPTY_PATH),
        FCHOWNAT Always => files::change_owner(a as i32, text(b), c as u32, d as u32, e),
        #[cfg(target_arch = "x86_64")] UTIME Always => files::change_times(Times::Seconds, here, Some(text(a)), b, 0),
        #[cfg(target_arch = "x86_64")] UTIMES Always => files::change_times(Times::Microseconds, here, Some(text(a)), b, 0),
        #[cfg(target_arch = "x86_64")] FUTIMESAT Always => files::change_times(Times::Microseconds, a as i32, text_or_descriptor(b), c, 0),
        UTIMENSAT Always => files::change_times(Times::Nanoseconds, a as i32, text_or_descriptor(b), c, d),
    }
    "attributes" {
        SETXATTR Always => files::attribute(number, arguments),
        LSETXATTR Always => files::attribute(number, arguments),
        FSETXATTR Always => files::attribute(number, arguments),
        GETXATTR Always => files::attribute(number, arguments),
        LGETXATTR Always => files::attribute(number, arguments),
        FGETXATTR Always => files::attribute(number, arguments),
        LISTXATTR Always => files::attribute(number, arguments),
        LLISTXATTR Always => files::attribute(number, arguments),
        FLISTXATTR Always => files::attribute(number, arguments),
        REMOVEXATTR Always => files::attribute(number, arguments),
        LREMOVEXATTR Always => files::attribute(number, arguments),
        FREMOVEXATTR Always => files::attribute(number, arguments),
    }
    "identity" {
        GETUID Always => identity(number, arguments),
        GETEUID Always => identity(number, arguments),
        GETGID Always => identity(number, arguments),
        GETEGID Always => identity(number, arguments),
        GETRESUID Always => identity(number, arguments),
        GETRESGID Always => identity(number, arguments),
        GETGROUPS Always => identity(number, arguments),
        SETUID Always => identity(number, arguments),
        SETGID Always => identity(number, arguments),
        SETREUID Always => identity(number, arguments),
        SETREGID Always => identity(number, arguments),
        SETRESUID Always => identity(number, arguments),
        SETRESGID Always => identity(number, arguments),
        SETFSUID Always => identity(number, arguments),
        SETFSGID Always => identity(number, arguments),
        SETGROUPS Always => identity(number, arguments),
        UMASK Always => identity(number, arguments),
        CAPGET Always => capabilities(a as *mut u32, b as *mut u32),
        CAPSET Always => set_capabilities(a as *mut u32, b as *const u32),
        PRCTL Always => control(arguments),
    }
    "machine" {
        UNAME Always => name_machine(a as *mut u8),
        SETHOSTNAME Always => EPERM,
        SETDOMAINNAME Always => EPERM,
    }
    "programs" {
        EXECVE Always => exec::execute(here, text(a), b as *const _, c as *const _, 0),
        EXECVEAT Always => exec::execute(a as i32, text(b), c as *const _, d as *const _, e),
    }
    "sockets" {
        BIND Given(1) => sockets::with_address(number, arguments, 1),
        CONNECT Given(1) => sockets::with_address(number, arguments, 1),
        SENDTO Given(4) => sockets::with_address(number, arguments, 4),
        SENDMSG Given(1) => sockets::send_message(arguments),
        GETSOCKNAME Given(1) => sockets::tell_address(number, arguments),
        GETPEERNAME Given(1) => sockets::tell_address(number, arguments),
        ACCEPT Given(1) => sockets::tell_address(number, arguments),
        ACCEPT4 Given(1) => sockets::tell_address(number, arguments),
    }
    "signals" {
        RT_SIGACTION Given(1) => signals::action(a, b, c, d),
        RT_SIGPROCMASK Given(1) => signals::mask(a, b, c, d, mask),
        RT_SIGSUSPEND Given(0) => signals::wait(number, arguments, 0),
        PPOLL Given(3) => signals::wait(number, arguments, 3),
        PSELECT6 Given(5) => signals::wait(number, arguments, 5),
        EPOLL_PWAIT Given(4) => signals::wait(number, arguments, 4),
        EPOLL_PWAIT2 Given(4) => signals::wait(number, arguments, 4),
    }
    "descriptors" {
        CLOSE Root(0) => 0,
        #[cfg(target_arch = "x86_64")] DUP2 Root(1) => EBADF,
        DUP3 Root(1) => EBADF,
        CLOSE_RANGE Always => close_range(a, b, c),
    }
    "filters" {
        SECCOMP Always => filter_of_the_programs(a, b, c),
    }
    "absent" {
        IO_URING_SETUP Absent => ENOSYS,
        SETXATTRAT Absent => ENOSYS,
        GETXATTRAT Absent => ENOSYS,
        LISTXATTRAT Absent => ENOSYS,
        REMOVEXATTRAT Absent => ENOSYS,
        FILE_GETATTR Absent => ENOSYS,
        FILE_SETATTR Absent => ENOSYS,
        OPEN_TREE Absent => ENOSYS,
        FSPICK Absent => ENOSYS,
        MOUNT_SETATTR Absent => ENOSYS,
        LANDLOCK_CREATE_RULESET Absent => ENOSYS,
    }
    "handles" {
        NAME_TO_HANDLE_AT Always => EOPNOTSUPP,
    }
}

/// Whether the filter would bring this call, with these arguments.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there are no shortcuts yet"))]
pub(crate) fn is_trapped(number: i64, arguments: [u64; 6]) -> bool {
    match when(number) {
        Some(Always) => true,
        Some(Given(argument)) => arguments[argument as usize] != 0,
        Some(Root(argument)) => arguments[argument as usize] as i32 == ROOT_DESCRIPTOR,
        Some(Absent) | None => false,
    }
}

/// Calls about users and groups.
fn identity(number: i64, [a, b, c, ..]: [u64; 6]) -> Answer {
    let (ia, ib, ic) = (a as u32, b as u32, c as u32);
    let who = &state().credentials;
    let give = |ids: [u32; 3]| {
        for (pointer, id) in [a, b, c].into_iter().zip(ids) {
            if !memory::write(pointer, &id.to_ne_bytes()) {
                return EFAULT;
            }
        }
        0
    };
    match number {
        n::GETUID => i64::from(who.user.real),
        n::GETEUID => i64::from(who.user.effective),
        n::GETGID => i64::from(who.group.real),
        n::GETEGID => i64::from(who.group.effective),
        n::GETRESUID => give([who.user.real, who.user.effective, who.user.saved]),
        n::GETRESGID => give([who.group.real, who.group.effective, who.group.saved]),
        n::SETUID => change().credentials.change_user(|ids, privileged| ids.set(ia, privileged)),
        n::SETGID => change().credentials.change_group(|ids, privileged| ids.set(ia, privileged)),
        n::SETREUID => change().credentials.change_user(|ids, privileged| ids.set_two(ia, ib, privileged)),
        n::SETREGID => change().credentials.change_group(|ids, privileged| ids.set_two(ia, ib, privileged)),
        n::SETRESUID => change().credentials.change_user(|ids, privileged| ids.set_three(ia, ib, ic, privileged)),
        n::SETRESGID => change().credentials.change_group(|ids, privileged| ids.set_three(ia, ib, ic, privileged)),
        n::SETFSUID => change().credentials.change_user(|ids, privileged| ids.set_filesystem(ia, privileged)),
        n::SETFSGID => change().credentials.change_group(|ids, privileged| ids.set_filesystem(ia, privileged)),
        n::GETGROUPS => {
            let groups = who.groups();
            let room = ia as i32;
            if room == 0 {
                return groups.len() as Answer;
            }
            if usize::try_from(room).map_or(true, |room| room < groups.len()) {
                return EINVAL;
            }
            for (at, group) in groups.iter().enumerate() {
                if !memory::write(b + 4 * at as u64, &group.to_ne_bytes()) {
                    return EFAULT;
                }
            }
            groups.len() as Answer
        }
        n::SETGROUPS => {
            if !who.may(Capability::SetGroup) {
                return EPERM;
            }
            let count = ia as usize;
            if count > 65536 {
                return EINVAL;
            }
            let mut groups = [0_u32; 64];
            let count = count.min(groups.len());
            for (at, group) in groups[..count].iter_mut().enumerate() {
                let mut bytes = [0; 4];
                if !memory::read(b + 4 * at as u64, &mut bytes) {
                    return EFAULT;
                }
                *group = u32::from_ne_bytes(bytes);
            }
            change().credentials.set_groups(&groups[..count]);
            0
        }
        n::UMASK => {
            let before = state().umask;
            change().umask = ia & 0o777;
            // The owner, who is the builder, keeps everything.
            call(number, [u64::from(ia & 0o077), 0, 0, 0, 0, 0]);
            i64::from(before)
        }
        _ => ENOSYS,
    }
}

/// The two versions of the structures of `capget` and `capset`: how many words a set has.
fn words_of(header: *mut u32) -> Result<usize, Answer> {
    const VERSION: u32 = 0x2008_0522;
    let mut version = [0; 4];
    if !memory::read(header as u64, &mut version) {
        return Err(EFAULT);
    }
    match u32::from_ne_bytes(version) {
        0x1998_0330 => Ok(1),
        0x2007_1026 | VERSION => Ok(2),
        _ => Err(if memory::write(header as u64, &VERSION.to_ne_bytes()) { EINVAL } else { EFAULT }),
    }
}

/// `capget`: those of another process are taken to be the same.
fn capabilities(header: *mut u32, data: *mut u32) -> Answer {
    let words = match words_of(header) {
        Ok(words) => words,
        // The program asks for the version.
        Err(EINVAL) if data.is_null() => return 0,
        Err(errno) => return errno,
    };
    if data.is_null() {
        return 0;
    }
    let sets = &state().credentials.capabilities;
    for word in 0..words {
        for (at, set) in [sets.effective, sets.permitted, sets.inheritable].into_iter().enumerate() {
            let half = (set >> (32 * word)) as u32;
            if !memory::write(data as u64 + 4 * (3 * word + at) as u64, &half.to_ne_bytes()) {
                return EFAULT;
            }
        }
    }
    0
}

/// `capset`: of the process itself.
fn set_capabilities(header: *mut u32, data: *const u32) -> Answer {
    let words = match words_of(header) {
        Ok(words) => words,
        Err(errno) => return errno,
    };
    let mut process = [0; 4];
    if !memory::read(header as u64 + 4, &mut process) {
        return EFAULT;
    }
    let process = i32::from_ne_bytes(process);
    if process != 0 && process != kernel::getpid() && i64::from(process) != call(n::GETTID, [0; 6]) {
        return EPERM;
    }
    let mut sets = [0_u64; 3];
    for word in 0..words {
        for (at, set) in sets.iter_mut().enumerate() {
            let mut half = [0; 4];
            if !memory::read(data as u64 + 4 * (3 * word + at) as u64, &mut half) {
                return EFAULT;
            }
            *set |= u64::from(u32::from_ne_bytes(half)) << (32 * word);
        }
    }
    let [effective, permitted, inheritable] = sets.map(|set| set & ((2 << LAST_CAPABILITY) - 1));
    change().credentials.set_capabilities(effective, permitted, inheritable)
}

/// `prctl`: what concerns rights and filters is emulated.
fn control(arguments: [u64; 6]) -> Answer {
    const GET_KEEP_RIGHTS: u64 = 7;
    const KEEP_RIGHTS: u64 = 8;
    const SET_FILTER: u64 = 22;
    const HAS_RIGHT: u64 = 23;
    const DROP_RIGHT: u64 = 24;
    const GET_SECURE: u64 = 27;
    const SET_SECURE: u64 = 28;
    const GAIN_NOTHING: u64 = 38;
    const GAINS_NOTHING: u64 = 39;
    const AMBIENT: u64 = 47;
    const DISPATCH: u64 = 59;
    let [what, value, third, fourth, fifth, _] = arguments;
    match what {
        // One filter there is already, and beside it the strict mode is refused.
        SET_FILTER => filter_of_the_programs(u64::from(value == 2), 0, third),
        GET_KEEP_RIGHTS => i64::from(state().credentials.keeps()),
        KEEP_RIGHTS => change().credentials.keep(value),
        HAS_RIGHT if value > LAST_CAPABILITY => EINVAL,
        HAS_RIGHT => (state().credentials.capabilities.bounding >> value & 1) as Answer,
        DROP_RIGHT => change().credentials.drop_from_bounding(value),
        GET_SECURE => i64::from(state().credentials.secure_bits),
        SET_SECURE => change().credentials.set_secure_bits(value),
        GAIN_NOTHING if (value, third, fourth, fifth) == (1, 0, 0, 0) => {
            change().credentials.gains_nothing = true;
            0
        }
        GAIN_NOTHING => EINVAL,
        GAINS_NOTHING if (value, third, fourth, fifth) == (0, 0, 0, 0) => i64::from(state().credentials.gains_nothing),
        GAINS_NOTHING => EINVAL,
        AMBIENT => change().credentials.change_ambient(value, third),
        // It works with the signal that is ours.
        DISPATCH => EINVAL,
        _ => call(n::PRCTL, arguments),
    }
}

/// `seccomp`: a filter counts as installed, for it would judge our calls, which it cannot know.
fn filter_of_the_programs(operation: u64, flags: u64, program: u64) -> Answer {
    const STRICT: u64 = 0;
    const FILTER: u64 = 1;
    const LISTENER: u64 = 8;
    const KNOWN: u64 = 0x3f;
    match operation {
        STRICT => EINVAL,
        FILTER => {
            if flags & !KNOWN != 0 || flags & LISTENER != 0 {
                return EINVAL;
            }
            let mut length = [0; 2];
            if !memory::read(program, &mut length) {
                return EFAULT;
            }
            if !(1..=4096).contains(&u16::from_ne_bytes(length)) {
                return EINVAL;
            }
            if state().credentials.gains_nothing { 0 } else { EACCES }
        }
        _ => call(n::SECCOMP, [operation, flags, program, 0, 0, 0]),
    }
}

/// `uname`: everything but the name is the kernel's.
fn name_machine(out: *mut u8) -> Answer {
    const FIELD: usize = 65;
    let result = call(n::UNAME, [out as u64, 0, 0, 0, 0, 0]);
    if result == 0 {
        let name = setting().host_name.as_bytes();
        // SAFETY: the kernel has just written there: the name is the second of six fields.
        unsafe {
            let field = core::slice::from_raw_parts_mut(out.add(FIELD), FIELD);
            field.fill(0);
            field[..name.len()].copy_from_slice(name);
        }
    }
    result
}

/// All but the descriptor of the root.
fn close_range(first: u64, last: u64, flags: u64) -> Answer {
    let root = u64::from(ROOT_DESCRIPTOR.unsigned_abs());
    let (first, last) = (first & 0xffff_ffff, last & 0xffff_ffff);
    let close = |first: u64, last: u64| if first > last { 0 } else { call(n::CLOSE_RANGE, [first, last, flags, 0, 0, 0]) };
    if first > last || first > root || last < root {
        return call(n::CLOSE_RANGE, [first, last, flags, 0, 0, 0]);
    }
    match close(first, root - 1) {
        0 => close(root + 1, last),
        errno => errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the documentation: group and calls.
    fn documented() -> impl Iterator<Item = (&'static str, impl Iterator<Item = &'static str>)> {
        let text = include_str!("../../../docs/emulation.md");
        text.lines().skip_while(|line| !line.starts_with("| group |")).skip(2).map_while(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            Some((cells.next()?, cells.next()?.split_whitespace()))
        })
    }

    #[test]
    fn every_call_of_the_table_is_documented_and_every_documented_one_is_in_the_table() {
        for row in TABLE {
            let (group, name) = row.described;
            let is_there = documented().filter(|(found, _)| *found == group).flat_map(|(_, calls)| calls);
            let count = is_there.filter(|call| call.eq_ignore_ascii_case(name)).count();
            assert_eq!(count, 1, "{name} in {group}");
        }
        for (group, calls) in documented() {
            for call in calls {
                let known = |row: &&Row| row.described.0 == group && row.described.1.eq_ignore_ascii_case(call);
                assert_eq!(TABLE.iter().filter(known).count(), 1, "{call} in {group}");
            }
        }
    }

    #[test]
    fn no_call_has_two_rows() {
        for (at, row) in TABLE.iter().enumerate() {
            assert!(!TABLE[..at].iter().any(|other| other.number == row.number), "{}", row.described.1);
        }
    }
}
