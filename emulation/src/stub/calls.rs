//! The table: which calls come to the stub, and what is done with each. docs/emulation.md explains it by groups.

use super::arch::{Context, number as n};
use super::kernel::{
    AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, Answer, EBADF, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, O_CREAT, O_TRUNC,
    O_WRONLY, call,
};
use super::state::{ROOT_DESCRIPTOR, change, state};
use super::{exec, files, signals, sockets};

/// Calls that always come.
pub(crate) const TRAPPED: &[i64] = &[
    n::OPENAT,
    n::OPEN,
    n::NEWFSTATAT,
    n::STAT,
    n::LSTAT,
    n::FSTAT,
    n::STATX,
    n::ACCESS,
    n::FACCESSAT,
    n::FACCESSAT2,
    n::READLINK,
    n::READLINKAT,
    n::GETCWD,
    n::CHDIR,
    n::UNLINK,
    n::UNLINKAT,
    n::RMDIR,
    n::RENAME,
    n::RENAMEAT,
    n::RENAMEAT2,
    n::MKDIR,
    n::MKDIRAT,
    n::MKNOD,
    n::MKNODAT,
    n::LINK,
    n::LINKAT,
    n::SYMLINK,
    n::SYMLINKAT,
    n::CREAT,
    n::OPENAT2,
    n::CHMOD,
    n::FCHMOD,
    n::FCHMODAT,
    n::FCHMODAT2,
    n::CHOWN,
    n::LCHOWN,
    n::FCHOWN,
    n::FCHOWNAT,
    n::UTIME,
    n::UTIMES,
    n::FUTIMESAT,
    n::UTIMENSAT,
    n::TRUNCATE,
    n::CHROOT,
    n::STATFS,
    n::EXECVE,
    n::EXECVEAT,
    n::INOTIFY_ADD_WATCH,
    n::NAME_TO_HANDLE_AT,
    n::SETXATTR,
    n::LSETXATTR,
    n::FSETXATTR,
    n::GETXATTR,
    n::LGETXATTR,
    n::FGETXATTR,
    n::LISTXATTR,
    n::LLISTXATTR,
    n::FLISTXATTR,
    n::REMOVEXATTR,
    n::LREMOVEXATTR,
    n::FREMOVEXATTR,
    n::BIND,
    n::CONNECT,
    n::GETUID,
    n::GETEUID,
    n::GETGID,
    n::GETEGID,
    n::GETRESUID,
    n::GETRESGID,
    n::GETGROUPS,
    n::SETGROUPS,
    n::SETUID,
    n::SETGID,
    n::SETREUID,
    n::SETREGID,
    n::SETRESUID,
    n::SETRESGID,
    n::SETFSUID,
    n::SETFSGID,
    n::CAPGET,
    n::CAPSET,
    n::UMASK,
    n::PRCTL,
    n::SECCOMP,
    n::CLOSE_RANGE,
    n::RT_SIGSUSPEND,
];

/// Calls that come if this argument, a pointer, is not null.
pub(crate) const CONDITIONAL: [(i64, u32); 11] = [
    (n::SENDTO, 4),
    (n::GETSOCKNAME, 1),
    (n::GETPEERNAME, 1),
    (n::ACCEPT, 1),
    (n::ACCEPT4, 1),
    (n::RT_SIGACTION, 1),
    (n::RT_SIGPROCMASK, 1),
    (n::PPOLL, 3),
    (n::EPOLL_PWAIT, 4),
    (n::EPOLL_PWAIT2, 4),
    (n::PSELECT6, 5),
];

/// Docker's default set: what root of a step has.
const CAPABILITIES: u32 = 0xa804_25fb;

/// Does what the program has asked for.
pub(crate) fn answer(number: i64, context: &mut Context) -> Answer {
    let arguments = context.arguments();
    let [a, b, c, d, e, _] = arguments;
    let here = AT_FDCWD;
    let text = |pointer: u64| pointer as *const u8;
    match number {
        n::OPEN => files::open(here, text(a), b, c),
        n::OPENAT => files::open(a as i32, text(b), c, d),
        n::CREAT => files::open(here, text(a), O_CREAT | O_WRONLY | O_TRUNC, b),
        n::OPENAT2 => files::open_how(a as i32, text(b), c as *const u64, d),
        n::STAT => files::stat(here, text(a), b as *mut _, 0),
        n::LSTAT => files::stat(here, text(a), b as *mut _, AT_SYMLINK_NOFOLLOW),
        n::NEWFSTATAT => files::stat(a as i32, text(b), c as *mut _, d),
        n::FSTAT => files::stat(a as i32, text(0), b as *mut _, AT_EMPTY_PATH),
        n::STATX => files::stat_extended(a as i32, text(b), c, d, e as *mut _),
        n::ACCESS => files::access(here, text(a), b, 0),
        n::FACCESSAT => files::access(a as i32, text(b), c, 0),
        n::FACCESSAT2 => files::access(a as i32, text(b), c, d),
        n::READLINK => files::read_link(here, text(a), b as *mut u8, c),
        n::READLINKAT => files::read_link(a as i32, text(b), c as *mut u8, d),
        n::GETCWD => files::working_directory(a as *mut u8, b),
        n::CHDIR => files::change_directory(text(a)),
        n::CHROOT => files::change_root(text(a)),
        n::MKDIR => files::make_directory(here, text(a), b),
        n::MKDIRAT => files::make_directory(a as i32, text(b), c),
        n::MKNOD => files::make_node(here, text(a), b, c),
        n::MKNODAT => files::make_node(a as i32, text(b), c, d),
        n::SYMLINK => files::make_link(text(a), here, text(b)),
        n::SYMLINKAT => files::make_link(text(a), b as i32, text(c)),
        n::LINK => files::link(here, text(a), here, text(b), 0),
        n::LINKAT => files::link(a as i32, text(b), c as i32, text(d), e),
        n::RENAME => files::rename(here, text(a), here, text(b), 0),
        n::RENAMEAT => files::rename(a as i32, text(b), c as i32, text(d), 0),
        n::RENAMEAT2 => files::rename(a as i32, text(b), c as i32, text(d), e),
        n::UNLINK => files::remove(here, text(a), 0),
        n::RMDIR => files::remove(here, text(a), 0x200),
        n::UNLINKAT => files::remove(a as i32, text(b), c),
        n::CHMOD => files::change_mode(here, text(a), b, 0),
        n::FCHMOD => files::change_mode(a as i32, text(0), b, 0),
        n::FCHMODAT => files::change_mode(a as i32, text(b), c, 0),
        n::FCHMODAT2 => files::change_mode(a as i32, text(b), c, d),
        n::CHOWN => files::change_owner(here, text(a), b as u32, c as u32, 0),
        n::LCHOWN => files::change_owner(here, text(a), b as u32, c as u32, AT_SYMLINK_NOFOLLOW),
        n::FCHOWN => files::change_owner(a as i32, text(0), b as u32, c as u32, 0),
        n::FCHOWNAT => files::change_owner(a as i32, text(b), c as u32, d as u32, e),
        n::UTIME | n::UTIMES => files::change_times(number, here, text(a), b, 0),
        n::FUTIMESAT => files::change_times(number, a as i32, text(b), c, 0),
        n::UTIMENSAT => files::change_times(number, a as i32, text(b), c, d),
        n::TRUNCATE | n::STATFS => files::by_name(number, text(a), b),
        n::INOTIFY_ADD_WATCH => files::watch(a, text(b), c),
        n::NAME_TO_HANDLE_AT => EOPNOTSUPP,
        n::SETXATTR
        | n::LSETXATTR
        | n::FSETXATTR
        | n::GETXATTR
        | n::LGETXATTR
        | n::FGETXATTR
        | n::LISTXATTR
        | n::LLISTXATTR
        | n::FLISTXATTR
        | n::REMOVEXATTR
        | n::LREMOVEXATTR
        | n::FREMOVEXATTR => files::attribute(number, arguments),
        n::EXECVE => exec::execute(here, text(a), b as *const _, c as *const _, 0),
        n::EXECVEAT => exec::execute(a as i32, text(b), c as *const _, d as *const _, e),
        n::BIND | n::CONNECT => sockets::with_address(number, arguments, 1),
        n::SENDTO => sockets::with_address(number, arguments, 4),
        n::GETSOCKNAME | n::GETPEERNAME | n::ACCEPT | n::ACCEPT4 => sockets::tell_address(number, arguments),
        n::RT_SIGACTION => signals::action(a, b as *const _, c as *mut _, d),
        n::RT_SIGPROCMASK => signals::mask(a, b as *const u64, c as *mut u64, context),
        n::RT_SIGSUSPEND => signals::wait(number, arguments, 0),
        n::PPOLL => signals::wait(number, arguments, 3),
        n::EPOLL_PWAIT | n::EPOLL_PWAIT2 => signals::wait(number, arguments, 4),
        n::PSELECT6 => signals::wait(number, arguments, 5),
        n::CLOSE => 0,
        n::DUP2 | n::DUP3 => EBADF,
        n::CLOSE_RANGE => close_range(a, b, c),
        n::PRCTL => control(arguments),
        // A filter of the program's own counts as installed: it would judge our calls, which it cannot know.
        n::SECCOMP => {
            if a == 1 && b & 8 == 0 || a == 0 {
                0
            } else if a == 1 {
                EINVAL
            } else {
                call(number, arguments)
            }
        }
        _ => identity(number, arguments),
    }
}

/// Calls about users, groups and rights.
fn identity(number: i64, [a, b, c, ..]: [u64; 6]) -> Answer {
    let who = &mut change().credentials;
    let (ia, ib, ic) = (a as u32, b as u32, c as u32);
    let give = |ids: [u32; 3]| {
        for (pointer, id) in [a, b, c].into_iter().zip(ids) {
            // SAFETY: the program's three numbers.
            unsafe { *(pointer as *mut u32) = id };
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
        n::SETUID => who.change_user(|ids, privileged| ids.set(ia, privileged)),
        n::SETGID => who.change_group(|ids, privileged| ids.set(ia, privileged)),
        n::SETREUID => who.change_user(|ids, privileged| ids.set_two(ia, ib, privileged)),
        n::SETREGID => who.change_group(|ids, privileged| ids.set_two(ia, ib, privileged)),
        n::SETRESUID => who.change_user(|ids, privileged| ids.set_three(ia, ib, ic, privileged)),
        n::SETRESGID => who.change_group(|ids, privileged| ids.set_three(ia, ib, ic, privileged)),
        n::SETFSUID => who.change_user(|ids, privileged| ids.set_filesystem(ia, privileged)),
        n::SETFSGID => who.change_group(|ids, privileged| ids.set_filesystem(ia, privileged)),
        n::GETGROUPS => {
            let groups = who.groups();
            if a == 0 {
                return groups.len() as Answer;
            }
            if (a as usize) < groups.len() {
                return EINVAL;
            }
            // SAFETY: the program's list, of that length.
            unsafe { core::ptr::copy_nonoverlapping(groups.as_ptr(), b as *mut u32, groups.len()) };
            groups.len() as Answer
        }
        n::SETGROUPS => {
            if !who.is_privileged() {
                return EPERM;
            }
            let count = (a as usize).min(65536);
            // SAFETY: the program's list, of that length.
            let groups = if count == 0 { &[] } else { unsafe { core::slice::from_raw_parts(b as *const u32, count) } };
            who.set_groups(groups);
            0
        }
        n::CAPGET => capabilities(a as *mut u32, b as *mut u32, who.is_privileged()),
        n::CAPSET => 0,
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

fn capabilities(header: *mut u32, data: *mut u32, privileged: bool) -> Answer {
    const VERSION: u32 = 0x2008_0522;
    if header.is_null() {
        return EFAULT;
    }
    // SAFETY: the program's structures, of the size that their version says.
    unsafe {
        let version = *header;
        if data.is_null() || ![0x1998_0330, 0x2007_1026, VERSION].contains(&version) {
            *header = VERSION;
            return if data.is_null() { 0 } else { EINVAL };
        }
        let set = if privileged { CAPABILITIES } else { 0 };
        for (index, value) in [set, set, 0].into_iter().enumerate() {
            *data.add(index) = value;
        }
        if version != 0x1998_0330 {
            for index in 3..6 {
                *data.add(index) = 0;
            }
        }
    }
    0
}

/// `prctl`: what concerns rights and filters is emulated.
fn control(arguments: [u64; 6]) -> Answer {
    const KEEP_RIGHTS: u64 = 8;
    const GET_KEEP_RIGHTS: u64 = 7;
    const SET_FILTER: u64 = 22;
    const HAS_RIGHT: u64 = 23;
    const DROP_RIGHT: u64 = 24;
    const SET_SECURE: u64 = 28;
    const AMBIENT: u64 = 47;
    const LAST_RIGHT: u64 = 40;
    let [what, value, third, ..] = arguments;
    match what {
        SET_FILTER | SET_SECURE => 0,
        KEEP_RIGHTS => {
            change().credentials.keeps = value != 0;
            0
        }
        GET_KEEP_RIGHTS => i64::from(state().credentials.keeps),
        HAS_RIGHT if value > LAST_RIGHT => EINVAL,
        HAS_RIGHT => i64::from(value < 32 && CAPABILITIES >> value & 1 == 1),
        DROP_RIGHT if value > LAST_RIGHT => EINVAL,
        DROP_RIGHT => 0,
        AMBIENT if third > LAST_RIGHT => EINVAL,
        AMBIENT => 0,
        _ => call(n::PRCTL, arguments),
    }
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
