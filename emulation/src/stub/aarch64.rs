//! 64-bit ARM: see `x86_64.rs`. The calls of old that take no directory do not exist here, and neither do their rows of the table.

use core::arch::{asm, naked_asm};

/// What seccomp calls this architecture.
pub(crate) const AUDIT_ARCH: u32 = 0xc000_00b7;
/// What an ELF file calls it.
pub(crate) const ELF_MACHINE: u16 = 183;
/// There is no other interface whose calls pass as this one's.
pub(crate) const FOREIGN_CALLS: u32 = 0x4000_0000;
/// `O_DIRECTORY`, `O_NOFOLLOW`: these differ between architectures.
pub(crate) const O_DIRECTORY: u64 = 0o40_000;
/// See there.
pub(crate) const O_NOFOLLOW: u64 = 0o100_000;
/// Where the addresses of programs end.
pub(crate) const ADDRESS_LIMIT: u64 = 1 << 48;

/// `SA_RESTORER`: the handler comes with its way back.
pub(crate) const RESTORER: u64 = 0x0400_0000;

/// Makes a system call. Every one of the stub comes from here, which the filter lets through.
#[inline(never)]
pub(crate) fn call(number: i64, [a, b, c, d, e, f]: [u64; 6]) -> i64 {
    let result;
    // SAFETY: the caller passes what the call expects; the kernel changes nothing but memory that it was handed, and this.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
             options(nostack));
    }
    result
}

/// Makes a system call without arguments from where a program would: for a trial of the filter.
pub(crate) fn call_from_outside(number: i64) -> i64 {
    const CODE: [u32; 2] = [0xd400_0001, 0xd65f_03c0]; // svc #0; ret
    const READ_AND_EXECUTE: u64 = 5;
    let page = super::kernel::map(65536);
    if super::kernel::is_error(page) {
        return page;
    }
    // SAFETY: the page that was just mapped to write; then the instruction cache hears of it.
    unsafe {
        core::ptr::copy_nonoverlapping(CODE.as_ptr(), page as *mut u32, CODE.len());
        asm!("dc cvau, {page}", "dsb ish", "ic ivau, {page}", "dsb ish", "isb", page = in(reg) page);
    }
    let allowed = call(number::MPROTECT, [page as u64, 65536, READ_AND_EXECUTE, 0, 0, 0]);
    if allowed < 0 {
        return allowed;
    }
    let result;
    // SAFETY: the code above: a system call that changes nothing, and a return.
    unsafe {
        asm!("blr {page}", page = in(reg) page, in("x8") number, lateout("x0") result, lateout("x30") _);
    }
    result
}

/// What the kernel puts on the stack for a handler: the start of `ucontext_t`.
#[repr(C)]
pub(crate) struct Context {
    flags: u64,
    link: u64,
    stack: [u64; 3],
    /// The mask that is in force again when the handler returns.
    pub(crate) signal_mask: u64,
    /// Room for a larger mask, and up to the next 16 bytes.
    reserved: [u64; 16],
    fault_address: u64,
    registers: [u64; 31],
    stack_pointer: u64,
    instruction: u64,
    processor_state: u64,
}

const _: () = assert!(core::mem::offset_of!(Context, fault_address) == 176);

impl Context {
    /// The arguments of the call that was trapped: the kernel has put the first one back.
    pub(crate) fn arguments(&self) -> [u64; 6] {
        let r = &self.registers;
        [r[0], r[1], r[2], r[3], r[4], r[5]]
    }

    /// What the program finds as the result of its call.
    pub(crate) fn set_result(&mut self, value: i64) {
        self.registers[0] = value as u64;
    }

    /// Behind which instruction the program goes on.
    pub(crate) fn place(&self) -> u64 {
        self.instruction
    }

    /// See `x86_64.rs`.
    pub(crate) fn signal_stack(&self) -> [u64; 3] {
        self.stack
    }

    /// See `x86_64.rs`.
    pub(crate) fn below_stack(&self) -> u64 {
        self.stack_pointer & !15
    }
}

/// See `x86_64.rs`. Here no call has a shortcut yet.
pub(crate) const JUMP_LENGTH: usize = 4;
/// See there.
pub(crate) const DETOUR_LENGTH: usize = 32;

/// See there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    pub(crate) start: u64,
}

/// Where a jump would stand: nowhere yet.
pub(crate) fn site(_place: u64, _number: i64) -> Option<Site> {
    None
}

/// See `x86_64.rs`.
pub(crate) fn jump(_start: u64, _detour: u64) -> Option<[u8; JUMP_LENGTH]> {
    None
}

/// See `x86_64.rs`.
pub(crate) fn detour(_site: &Site, _place: u64) -> [u8; DETOUR_LENGTH] {
    [0; DETOUR_LENGTH]
}

/// See `x86_64.rs`.
#[unsafe(naked)]
pub(crate) extern "C" fn run_on(stack: u64, run: unsafe extern "C" fn(*mut Context, i64), context: *mut Context, number: i64) {
    naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "mov x29, sp",
        "mov sp, x0",
        "mov x9, x1",
        "mov x0, x2",
        "mov x1, x3",
        "blr x9",
        "mov sp, x29",
        "ldp x29, x30, [sp], #16",
        "ret",
    )
}

/// What a handler returns to.
#[unsafe(naked)]
pub(crate) extern "C" fn restore() {
    naked_asm!("mov x8, #139", "svc #0")
}

/// Where the kernel starts the stub.
#[cfg(not(any(test, clippy)))]
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("mov x29, #0", "mov x30, #0", "mov x0, sp", "bl {main}", "brk #1", main = sym super::main)
}

/// Leaves for a program whose stack is at `stack`.
///
/// # Safety
/// `entry` is code, and `stack` what that code expects from the kernel.
pub(crate) unsafe fn enter(stack: u64, entry: u64) -> ! {
    // SAFETY: as the caller says. Nothing of ours is needed any more. A function in x0 would be called at the end.
    unsafe {
        asm!("mov sp, {stack}", "mov x29, #0", "mov x30, #0", "br {entry}", stack = in(reg) stack, entry = in(reg) entry,
             in("x0") 0_u64, options(noreturn));
    }
}

/// `struct stat` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) node: u64,
    pad: u64,
    pub(crate) size: i64,
    rest: [u64; 9],
}

const _: () = assert!(size_of::<Stat>() == 128);

impl Stat {
    pub(crate) const fn empty() -> Self {
        Self { device: 0, inode: 0, mode: 0, links: 0, uid: 0, gid: 0, node: 0, pad: 0, size: 0, rest: [0; 9] }
    }
}

#[cfg(not(any(test, clippy)))]
mod memory {
    //! What the compiler expects to exist.

    use core::arch::asm;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller's. Eight bytes at a time, then one.
        unsafe {
            asm!("2:", "subs {n}, {n}, #8", "b.lo 3f", "ldr {w}, [{f}], #8", "str {w}, [{t}], #8", "b 2b",
                 "3:", "adds {n}, {n}, #8", "b.eq 5f",
                 "4:", "ldrb {w:w}, [{f}], #1", "strb {w:w}, [{t}], #1", "subs {n}, {n}, #1", "b.ne 4b", "5:",
                 n = inout(reg) count => _, f = inout(reg) from => _, t = inout(reg) to => _, w = out(reg) _, options(nostack));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            asm!("subs {n}, {n}, #8", "b.lo 3f", "2:", "str {w}, [{t}], #8", "subs {n}, {n}, #8", "b.hs 2b",
                 "3:", "adds {n}, {n}, #8", "b.eq 5f", "4:", "strb {w:w}, [{t}], #1", "subs {n}, {n}, #1", "b.ne 4b", "5:",
                 n = inout(reg) count => _, t = inout(reg) to => _,
                 w = in(reg) u64::from(byte as u8).wrapping_mul(0x0101_0101_0101_0101), options(nostack));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        if (to as usize) <= from as usize || to as usize >= from as usize + count {
            // SAFETY: forward copying is right here.
            return unsafe { memcpy(to, from, count) };
        }
        // SAFETY: backward, from the last byte on; `count` is not zero here.
        unsafe {
            asm!("2:", "sub {n}, {n}, #1", "ldrb {w:w}, [{f}, {n}]", "strb {w:w}, [{t}, {n}]", "cbnz {n}, 2b",
                 n = inout(reg) count => _, f = in(reg) from, t = in(reg) to, w = out(reg) _, options(nostack));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        for at in 0..count {
            // SAFETY: the caller's.
            let (a, b) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        // SAFETY: the caller's.
        unsafe { memcmp(left, right, count) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        let mut length = 0;
        // SAFETY: the caller's.
        while unsafe { text.add(length).read_volatile() } != 0 {
            length += 1;
        }
        length
    }
}

/// Numbers of system calls.
pub(crate) mod number {
    #![allow(missing_docs, reason = "the kernel's names")]
    macro_rules! numbers { ($($name:ident $value:literal),* $(,)?) => { $(pub(crate) const $name: i64 = $value;)* } }
    numbers! {
        SETXATTR 5, LSETXATTR 6, FSETXATTR 7, GETXATTR 8, LGETXATTR 9, FGETXATTR 10, LISTXATTR 11, LLISTXATTR 12, FLISTXATTR 13,
        REMOVEXATTR 14, LREMOVEXATTR 15, FREMOVEXATTR 16, GETCWD 17, EPOLL_PWAIT 22, DUP3 24, FCNTL 25, INOTIFY_ADD_WATCH 27,
        FLOCK 32, MKNODAT 33, MKDIRAT 34, UNLINKAT 35, SYMLINKAT 36, LINKAT 37, RENAMEAT 38, STATFS 43, TRUNCATE 45, FTRUNCATE 46, FACCESSAT 48, CHDIR 49,
        FCHDIR 50, UNSHARE 97, CHROOT 51, FCHMOD 52, FCHMODAT 53, FCHOWNAT 54, FCHOWN 55, OPENAT 56, CLOSE 57, GETDENTS64 61, LSEEK 62,
        READ 63, WRITE 64, PREAD64 67, PWRITE64 68, PSELECT6 72, PPOLL 73, SIGNALFD4 74, READLINKAT 78, NEWFSTATAT 79, FSTAT 80, UTIMENSAT 88,
        CAPGET 90, CAPSET 91, EXIT_GROUP 94, KILL 129, RT_SIGSUSPEND 133, RT_SIGACTION 134, RT_SIGPROCMASK 135, SIGALTSTACK 132,
        SETREGID 143, SETGID 144, SETREUID 145, SETUID 146, SETRESUID 147, GETRESUID 148, SETRESGID 149, GETRESGID 150,
        SETFSUID 151, SETFSGID 152, SETSID 157, GETGROUPS 158, SETGROUPS 159, UNAME 160, SETHOSTNAME 161, SETDOMAINNAME 162,
        UMASK 166, PRCTL 167, GETPID 172, GETPPID 173, GETUID 174, GETEUID 175, GETGID 176, GETEGID 177, GETTID 178,
        BIND 200, ACCEPT 202, CONNECT 203, GETSOCKNAME 204, GETPEERNAME 205, SENDTO 206, SENDMSG 211, RECVMSG 212, MOUNT 40, MUNMAP 215, CLONE 220,
        EXECVE 221, MMAP 222, MPROTECT 226, MADVISE 233, ACCEPT4 242, WAIT4 260, NAME_TO_HANDLE_AT 264, PROCESS_VM_WRITEV 271,
        RENAMEAT2 276, SECCOMP 277, MEMFD_CREATE 279, EXECVEAT 281, COPY_FILE_RANGE 285, STATX 291, IO_URING_SETUP 425, OPEN_TREE 428, FSPICK 433,
        CLOSE_RANGE 436, OPENAT2 437, FACCESSAT2 439, EPOLL_PWAIT2 441, MOUNT_SETATTR 442, LANDLOCK_CREATE_RULESET 444, LANDLOCK_RESTRICT_SELF 446,
        FCHMODAT2 452, SETXATTRAT 463, GETXATTRAT 464, LISTXATTRAT 465, REMOVEXATTRAT 466, FILE_GETATTR 468, FILE_SETATTR 469,
    }
}
