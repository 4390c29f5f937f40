//! System calls as functions. A result below zero is an error number.

use super::arch::number as n;
pub(crate) use super::arch::{Stat, call};

/// Result of a call: what it gives, or an error number below zero.
pub(crate) type Answer = i64;

pub(crate) const ENOENT: Answer = -2;
pub(crate) const EPERM: Answer = -1;
pub(crate) const EINTR: Answer = -4;
pub(crate) const ENXIO: Answer = -6;
pub(crate) const ENODATA: Answer = -61;
pub(crate) const E2BIG: Answer = -7;
pub(crate) const ENOEXEC: Answer = -8;
pub(crate) const EBADF: Answer = -9;
pub(crate) const EAGAIN: Answer = -11;
pub(crate) const ENOMEM: Answer = -12;
pub(crate) const EACCES: Answer = -13;
pub(crate) const EFAULT: Answer = -14;
pub(crate) const EEXIST: Answer = -17;
pub(crate) const EXDEV: Answer = -18;
pub(crate) const ENOTDIR: Answer = -20;
pub(crate) const EINVAL: Answer = -22;
pub(crate) const ERANGE: Answer = -34;
pub(crate) const ENAMETOOLONG: Answer = -36;
pub(crate) const ENOSYS: Answer = -38;
pub(crate) const ELOOP: Answer = -40;
pub(crate) const EOPNOTSUPP: Answer = -95;

pub(crate) const AT_FDCWD: i32 = -100;
pub(crate) const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
pub(crate) const AT_SYMLINK_FOLLOW: u64 = 0x400;
pub(crate) const AT_EMPTY_PATH: u64 = 0x1000;

pub(crate) const O_WRONLY: u64 = 1;
pub(crate) const O_RDWR: u64 = 2;
pub(crate) const O_CREAT: u64 = 0o100;
pub(crate) const O_EXCL: u64 = 0o200;
pub(crate) const O_NOCTTY: u64 = 0o400;
pub(crate) const O_TRUNC: u64 = 0o1000;
pub(crate) const O_NONBLOCK: u64 = 0o4000;
pub(crate) const O_CLOEXEC: u64 = 0o2_000_000;
pub(crate) const O_PATH: u64 = 0o10_000_000;
/// The bit of `O_TMPFILE` that is not `O_DIRECTORY`.
pub(crate) const O_TMPFILE: u64 = 0o20_000_000;

pub(crate) const RESOLVE_BENEATH: u64 = 8;
pub(crate) const RESOLVE_IN_ROOT: u64 = 16;

/// The longest path with its zero byte.
pub(crate) const PATH_MAX: usize = 4096;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

pub(crate) fn openat(directory: i32, path: *const u8, flags: u64, mode: u64) -> Answer {
    call(n::OPENAT, [directory as u64, path as u64, flags, mode, 0, 0])
}

/// `openat2`, asked again while a rename elsewhere disturbs it. Flags that it does not take are left out.
pub(crate) fn openat2(directory: i32, path: *const u8, flags: u64, mode: u64, resolve: u64) -> Answer {
    let kept = if flags & O_PATH != 0 {
        flags & (O_PATH | O_CLOEXEC | super::arch::O_DIRECTORY | super::arch::O_NOFOLLOW)
    } else {
        flags & 0o37_777_703
    };
    let creates = kept & (O_CREAT | O_TMPFILE) != 0;
    let how = OpenHow { flags: kept, mode: if creates { mode & 0o7777 } else { 0 }, resolve };
    let mut tries = 0;
    loop {
        let result = call(n::OPENAT2, [directory as u64, path as u64, &raw const how as u64, size_of::<OpenHow>() as u64, 0, 0]);
        tries += 1;
        if result != EAGAIN || tries > 100 {
            return result;
        }
    }
}

pub(crate) fn close(descriptor: i32) {
    call(n::CLOSE, [descriptor as u64, 0, 0, 0, 0, 0]);
}

/// A descriptor of ours, closed when dropped.
pub(crate) struct Held(pub(crate) i32);

impl Drop for Held {
    fn drop(&mut self) {
        if self.0 >= 0 {
            close(self.0);
        }
    }
}

/// Gives up `held`, a descriptor of ours, for `made`, one for the program, which expects the lowest that is free.
pub(crate) fn lowest(made: Answer, held: i32, flags: u64) -> Answer {
    if made < Answer::from(held) {
        close(held);
        return made;
    }
    let moved = call(n::DUP3, [made as u64, held as u64, flags & O_CLOEXEC, 0, 0, 0]);
    close(made as i32);
    moved
}

pub(crate) fn write(descriptor: i32, bytes: &[u8]) -> Answer {
    call(n::WRITE, [descriptor as u64, bytes.as_ptr() as u64, bytes.len() as u64, 0, 0, 0])
}

pub(crate) fn readlinkat(directory: i32, path: *const u8, buffer: &mut [u8]) -> Answer {
    call(n::READLINKAT, [directory as u64, path as u64, buffer.as_mut_ptr() as u64, buffer.len() as u64, 0, 0])
}

pub(crate) fn getcwd(buffer: &mut [u8]) -> Answer {
    call(n::GETCWD, [buffer.as_mut_ptr() as u64, buffer.len() as u64, 0, 0, 0, 0])
}

pub(crate) fn getpid() -> i32 {
    call(n::GETPID, [0; 6]) as i32
}

pub(crate) fn exit(code: i32) -> ! {
    loop {
        call(n::EXIT_GROUP, [code as u64, 0, 0, 0, 0, 0]);
    }
}

/// Anonymous memory of our own.
pub(crate) fn map(length: usize) -> Answer {
    call(n::MMAP, [0, length as u64, 3, 0x22, u64::MAX, 0])
}

pub(crate) fn unmap(address: u64, length: usize) {
    call(n::MUNMAP, [address, length as u64, 0, 0, 0, 0]);
}

/// Whether a result is one of the error numbers.
pub(crate) fn is_error(result: Answer) -> bool {
    (-4095..0).contains(&result)
}

pub(crate) fn fstatat(directory: i32, path: *const u8, stat: *mut Stat, flags: u64) -> Answer {
    call(n::NEWFSTATAT, [directory as u64, path as u64, stat as u64, flags, 0, 0])
}

/// `struct statx`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Statx {
    pub(crate) mask: u32,
    block_size: u32,
    attributes: u64,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u16,
    pad: u16,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    blocks: u64,
    attributes_mask: u64,
    pub(crate) access_time: [u64; 2],
    pub(crate) birth_seconds: u64,
    pub(crate) birth_nanoseconds: u32,
    pad2: u32,
    change_time: [u64; 2],
    pub(crate) modify_time: [u64; 2],
    pub(crate) node_major: u32,
    pub(crate) node_minor: u32,
    pub(crate) device_major: u32,
    pub(crate) device_minor: u32,
    rest: [u64; 14],
}

impl Statx {
    pub(crate) const fn empty() -> Self {
        // SAFETY: numbers only.
        unsafe { core::mem::zeroed() }
    }
}

/// Type, mode, owner, group, inode and size: what the stub looks at whatever the program asks for.
pub(crate) const STATX_OURS: u64 = 0x1 | 0x2 | 0x8 | 0x10 | 0x100 | 0x200;
pub(crate) const STATX_LINKS: u64 = 0x4;
/// Those of the last access and of the last change of content.
pub(crate) const STATX_TIMES: u64 = 0x20 | 0x40;
pub(crate) const STATX_BIRTH: u64 = 0x800;

pub(crate) fn statx(directory: i32, path: *const u8, flags: u64, mask: u64, statx: *mut Statx) -> Answer {
    call(n::STATX, [directory as u64, path as u64, flags, mask, statx as u64, 0])
}
