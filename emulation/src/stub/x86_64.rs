//! x86-64: how a system call is made, their numbers, and what the kernel hands to a signal handler. Another architecture is
//! another file like this.

use core::arch::{asm, naked_asm};

/// What seccomp calls this architecture.
pub(crate) const AUDIT_ARCH: u32 = 0xc000_003e;
/// What an ELF file calls it.
pub(crate) const ELF_MACHINE: u16 = 62;
/// Calls from this number on belong to another interface (x32).
pub(crate) const FOREIGN_CALLS: u32 = 0x4000_0000;
/// `O_DIRECTORY`, `O_NOFOLLOW`: these differ between architectures.
pub(crate) const O_DIRECTORY: u64 = 0o200_000;
/// See there.
pub(crate) const O_NOFOLLOW: u64 = 0o400_000;

/// Where the addresses of programs end.
pub(crate) const ADDRESS_LIMIT: u64 = 1 << 47;

/// `SA_RESTORER`: the handler comes with its way back.
pub(crate) const RESTORER: u64 = 0x0400_0000;

/// Makes a system call. Every one of the stub comes from here, which the filter lets through.
#[inline(never)]
pub(crate) fn call(number: i64, [a, b, c, d, e, f]: [u64; 6]) -> i64 {
    let result;
    // SAFETY: the caller passes what the call expects; the kernel changes nothing but memory that it was handed, and these.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
             in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// Makes a system call without arguments from where a program would: for a trial of the filter.
pub(crate) fn call_from_outside(number: i64) -> i64 {
    const CODE: [u8; 3] = [0x0f, 0x05, 0xc3]; // syscall; ret
    const READ_AND_EXECUTE: u64 = 5;
    let page = super::kernel::map(4096);
    if super::kernel::is_error(page) {
        return page;
    }
    // SAFETY: the page that was just mapped to write.
    unsafe { core::ptr::copy_nonoverlapping(CODE.as_ptr(), page as *mut u8, CODE.len()) };
    let allowed = call(number::MPROTECT, [page as u64, 4096, READ_AND_EXECUTE, 0, 0, 0]);
    if allowed < 0 {
        return allowed;
    }
    let result;
    // SAFETY: the code above: a system call that changes nothing, and a return.
    unsafe {
        asm!("call {page}", page = in(reg) page, inlateout("rax") number => result, lateout("rcx") _, lateout("r11") _);
    }
    result
}

/// What the kernel puts on the stack for a handler: the start of `ucontext_t`.
#[repr(C)]
pub(crate) struct Context {
    flags: u64,
    link: u64,
    stack: [u64; 3],
    /// r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
    registers: [u64; 17],
    eflags: u64,
    segments: u64,
    fault: [u64; 4],
    floating: u64,
    reserved: [u64; 8],
    /// The mask that is in force again when the handler returns.
    pub(crate) signal_mask: u64,
}

impl Context {
    /// The arguments of the call that was trapped.
    pub(crate) fn arguments(&self) -> [u64; 6] {
        let r = &self.registers;
        [r[8], r[9], r[12], r[2], r[0], r[1]]
    }

    /// What the program finds as the result of its call.
    pub(crate) fn set_result(&mut self, value: i64) {
        self.registers[13] = value as u64;
    }

    /// Behind which instruction the program goes on.
    pub(crate) fn place(&self) -> u64 {
        self.registers[16]
    }

    /// The stack that the program has given its signals: lowest address, flags, length.
    pub(crate) fn signal_stack(&self) -> [u64; 3] {
        self.stack
    }

    /// Where the program's own stack can be gone on with, below what it may use without saying so.
    pub(crate) fn below_stack(&self) -> u64 {
        (self.registers[15] - 128) & !15
    }
}

/// Bytes of the instruction that puts a number where a call expects it, and of the jump that takes its place.
pub(crate) const JUMP_LENGTH: usize = 5;
/// Bytes of a call.
const CALL_LENGTH: usize = 2;
/// Most bytes that may stand between the two.
const BETWEEN: usize = 16;
/// Bytes of what the jump leads to.
pub(crate) const DETOUR_LENGTH: usize = 48;

/// A call that is named shortly before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// Where `mov eax, number` stands, and the jump would.
    pub(crate) start: u64,
    pub(crate) number: i64,
    /// The instructions from there to the call, in the last of these bytes.
    between: [u8; BETWEEN],
    between_length: usize,
}

/// The call `number` before `place`, if it is made as nearly every one is: `mov eax, number; syscall`, perhaps with some instructions
/// between the two that mean the same anywhere.
pub(crate) fn site(place: u64, number: i64) -> Option<Site> {
    const LENGTH: usize = 1 + JUMP_LENGTH + BETWEEN + CALL_LENGTH;
    // One byte more is looked at: with a prefix it is another instruction. They may be on a page before that of the call.
    let mut bytes = [0; LENGTH];
    let first = place.checked_sub(LENGTH as u64)?;
    if !super::memory::read(first, &mut bytes) || bytes[LENGTH - CALL_LENGTH..] != [0x0f, 0x05] {
        return None;
    }
    (0..=BETWEEN).find_map(|between_length| {
        let at = BETWEEN - between_length;
        let [prefix, 0xb8, a, b, c, d] = bytes[at..at + 1 + JUMP_LENGTH] else { return None };
        let between = &bytes[at + 1 + JUMP_LENGTH..LENGTH - CALL_LENGTH];
        if prefix & 0xf0 == 0x40 || i64::from(u32::from_le_bytes([a, b, c, d])) != number || !can_be_moved(between) {
            return None;
        }
        let mut kept = [0; BETWEEN];
        kept[at..].copy_from_slice(between);
        Some(Site { start: first + at as u64 + 1, number, between: kept, between_length })
    })
}

/// Whether these are whole instructions that move something between registers, or from the stack, and mean the same at another
/// place; none of them changes the number of the call.
fn can_be_moved(mut code: &[u8]) -> bool {
    const NUMBER: u8 = 0;
    const STACK: u8 = 4;
    while !code.is_empty() {
        let (prefix, rest) = match code {
            [prefix @ 0x40..=0x4f, rest @ ..] => (*prefix, rest),
            rest => (0, rest),
        };
        let register = |bits: u8, extension: u8| bits & 7 | extension << 3;
        let (in_place, in_register) = (prefix & 1, prefix >> 2 & 1);
        let (changed, length) = match *rest {
            // mov register, number of 32 bits
            [operation @ 0xb8..=0xbf, _, _, _, _, ..] if prefix & 8 == 0 => (register(operation, in_place), 5),
            // mov, xor: the register that the last bits name is changed
            [0x89 | 0x31, operands @ 0xc0..=0xff, ..] => (register(operands, in_place), 2),
            // mov, xor, movsxd: the other
            [0x8b | 0x33 | 0x63, operands @ 0xc0..=0xff, ..] => (register(operands >> 3, in_register), 2),
            // mov, lea from memory near a register
            [0x8b | 0x8d, operands @ 0x40..=0x7f, ..] => {
                (register(operands >> 3, in_register), if operands & 7 == STACK { 4 } else { 3 })
            }
            _ => return false,
        };
        if changed == NUMBER || changed == STACK {
            return false;
        }
        let Some(next) = rest.get(length..) else { return false };
        code = next;
    }
    true
}

/// The jump from `start` to `detour`; `None` if that is too far.
pub(crate) fn jump(start: u64, detour: u64) -> Option<[u8; JUMP_LENGTH]> {
    let distance = i32::try_from((detour as i64).checked_sub(start as i64 + JUMP_LENGTH as i64)?).ok()?;
    let [a, b, c, d] = distance.to_le_bytes();
    Some([0xe9, a, b, c, d])
}

/// Code that hands a call to the stub, which goes on at `place`: `mov eax, number`, what stood between, then `mov rcx, place;
/// mov r11, direct; jmp r11`. The kernel, too, leaves something else in the last two registers.
pub(crate) fn detour(site: &Site, place: u64) -> [u8; DETOUR_LENGTH] {
    let mut code = [0xcc; DETOUR_LENGTH];
    code[0] = 0xb8;
    code[1..5].copy_from_slice(&(site.number as u32).to_le_bytes());
    let (between, rest) = code[JUMP_LENGTH..].split_at_mut(site.between_length);
    between.copy_from_slice(&site.between[BETWEEN - site.between_length..]);
    rest[..2].copy_from_slice(&[0x48, 0xb9]);
    rest[2..10].copy_from_slice(&place.to_le_bytes());
    rest[10..12].copy_from_slice(&[0x49, 0xbb]);
    rest[12..20].copy_from_slice(&(direct as extern "C" fn() as usize as u64).to_le_bytes());
    rest[20..23].copy_from_slice(&[0x41, 0xff, 0xe3]);
    code
}

/// What [`direct`] has put on the stack.
#[repr(C)]
struct Saved {
    /// r9, r8, r10, rdx, rsi, rdi.
    arguments: [u64; 6],
}

/// A call that comes by a jump. As the kernel does, it changes no register but rax, rcx and r11, and nothing of the 128 bytes
/// below the stack that a program may use without saying so.
#[unsafe(naked)]
extern "C" fn direct() {
    naked_asm!(
        "lea rsp, [rsp - 128]", "pushfq", "cld", "push rcx", "push rbp",
        "push rdi", "push rsi", "push rdx", "push r10", "push r8", "push r9",
        "mov rbp, rsp", "sub rsp, 256", "and rsp, -16",
        "movaps [rsp], xmm0", "movaps [rsp + 16], xmm1", "movaps [rsp + 32], xmm2", "movaps [rsp + 48], xmm3",
        "movaps [rsp + 64], xmm4", "movaps [rsp + 80], xmm5", "movaps [rsp + 96], xmm6", "movaps [rsp + 112], xmm7",
        "movaps [rsp + 128], xmm8", "movaps [rsp + 144], xmm9", "movaps [rsp + 160], xmm10", "movaps [rsp + 176], xmm11",
        "movaps [rsp + 192], xmm12", "movaps [rsp + 208], xmm13", "movaps [rsp + 224], xmm14", "movaps [rsp + 240], xmm15",
        "mov rdi, rax", "mov rsi, rbp", "call {came}",
        "movaps xmm0, [rsp]", "movaps xmm1, [rsp + 16]", "movaps xmm2, [rsp + 32]", "movaps xmm3, [rsp + 48]",
        "movaps xmm4, [rsp + 64]", "movaps xmm5, [rsp + 80]", "movaps xmm6, [rsp + 96]", "movaps xmm7, [rsp + 112]",
        "movaps xmm8, [rsp + 128]", "movaps xmm9, [rsp + 144]", "movaps xmm10, [rsp + 160]", "movaps xmm11, [rsp + 176]",
        "movaps xmm12, [rsp + 192]", "movaps xmm13, [rsp + 208]", "movaps xmm14, [rsp + 224]", "movaps xmm15, [rsp + 240]",
        "mov rsp, rbp", "pop r9", "pop r8", "pop r10", "pop rdx", "pop rsi", "pop rdi",
        "pop rbp", "pop rcx", "popfq", "lea rsp, [rsp + 128]", "jmp rcx",
        came = sym came,
    )
}

extern "C" fn came(number: i64, saved: &Saved) -> i64 {
    let [f, e, d, c, b, a] = saved.arguments;
    super::by_shortcut(number, [a, b, c, d, e, f])
}

/// Calls `run` with its stack at `stack`, which is a multiple of 16.
#[unsafe(naked)]
pub(crate) extern "C" fn run_on(stack: u64, run: unsafe extern "C" fn(*mut Context, i64), context: *mut Context, number: i64) {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "mov rsp, rdi",
        "mov rax, rsi",
        "mov rdi, rdx",
        "mov rsi, rcx",
        "call rax",
        "mov rsp, rbp",
        "pop rbp",
        "ret",
    )
}

/// What a handler returns to.
#[unsafe(naked)]
pub(crate) extern "C" fn restore() {
    naked_asm!("mov eax, 15", "syscall")
}

/// Where the kernel starts the stub.
#[cfg(not(any(test, clippy)))]
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {main}", "ud2", main = sym super::main)
}

/// Leaves for a program whose stack is at `stack`.
///
/// # Safety
/// `entry` is code, and `stack` what that code expects from the kernel.
pub(crate) unsafe fn enter(stack: u64, entry: u64) -> ! {
    // SAFETY: as the caller says. Nothing of ours is needed any more.
    unsafe {
        asm!("mov rsp, {stack}", "xor edx, edx", "xor ebp, ebp", "xor ecx, ecx", "jmp {entry}", stack = in(reg) stack,
             entry = in(reg) entry, options(noreturn));
    }
}

/// `struct stat` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) links: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pad: u32,
    pub(crate) node: u64,
    pub(crate) size: i64,
    rest: [u64; 11],
}

impl Stat {
    pub(crate) const fn empty() -> Self {
        Self { device: 0, inode: 0, links: 0, mode: 0, uid: 0, gid: 0, pad: 0, node: 0, size: 0, rest: [0; 11] }
    }
}

/// What the compiler expects to exist.
#[cfg(not(any(test, clippy)))]
mod memory {
    use super::bytes;
    use core::arch::asm;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { bytes::copy(to, from, count) };
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { bytes::fill(to, byte as u8, count) };
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        if (to as usize) <= from as usize || to as usize >= from as usize + count {
            // SAFETY: forward copying is right here.
            return unsafe { memcpy(to, from, count) };
        }
        // SAFETY: backward, from the last byte on.
        unsafe {
            asm!("std", "rep movsb", "cld", inout("rdi") to.add(count).sub(1) => _, inout("rsi") from.add(count).sub(1) => _,
                 inout("rcx") count => _, options(nostack));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        // SAFETY: the caller's.
        unsafe { bytes::compare(left, right, count) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        // SAFETY: the caller's.
        unsafe { memcmp(left, right, count) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        // SAFETY: the caller's.
        unsafe { super::super::text::length(text) }
    }
}

/// Copying, filling and comparing, mostly of a few bytes: up to a certain length several at a time are quicker than the processor's
/// own loop.
#[cfg_attr(any(test, clippy), allow(dead_code, reason = "the library has such functions already"))]
mod bytes {
    use core::arch::asm;

    /// From so many bytes on the processor's own loop is quicker.
    const LONG: usize = 256;

    /// Copies, also to an overlapping place before.
    pub(super) unsafe fn copy(to: *mut u8, from: *const u8, count: usize) {
        // SAFETY: the caller's; each piece, and the last one, is read before anything is written where it stands.
        unsafe {
            match count {
                0 => {}
                1..4 => {
                    let (first, middle, last) = (*from, *from.add(count / 2), *from.add(count - 1));
                    *to = first;
                    *to.add(count / 2) = middle;
                    *to.add(count - 1) = last;
                }
                4..8 => copy_ends::<u32>(to, from, count),
                8..=16 => copy_ends::<u64>(to, from, count),
                17..LONG => {
                    let last = [read::<u64>(from.add(count - 16)), read(from.add(count - 8))];
                    let mut at = 0;
                    while at + 16 < count {
                        copy_ends::<u64>(to.add(at), from.add(at), 16);
                        at += 16;
                    }
                    to.add(count - 16).cast::<[u64; 2]>().write_unaligned(last);
                }
                _ => asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _, options(nostack)),
            }
        }
    }

    unsafe fn read<T>(from: *const u8) -> T {
        // SAFETY: the caller's.
        unsafe { from.cast::<T>().read_unaligned() }
    }

    /// The first and the last word of a text that is not longer than two.
    unsafe fn copy_ends<T>(to: *mut u8, from: *const u8, count: usize) {
        let last = count - size_of::<T>();
        // SAFETY: the caller's.
        unsafe {
            let ends = (read::<T>(from), read::<T>(from.add(last)));
            to.cast::<T>().write_unaligned(ends.0);
            to.add(last).cast::<T>().write_unaligned(ends.1);
        }
    }

    pub(super) unsafe fn fill(to: *mut u8, byte: u8, count: usize) {
        let word = u64::from(byte) * 0x0101_0101_0101_0101;
        // SAFETY: the caller's.
        unsafe {
            if (8..LONG).contains(&count) {
                let mut at = 0;
                while at + 8 < count {
                    to.add(at).cast::<u64>().write_unaligned(word);
                    at += 8;
                }
                to.add(count - 8).cast::<u64>().write_unaligned(word);
            } else {
                asm!("rep stosb", inout("rdi") to => _, in("al") byte, inout("rcx") count => _, options(nostack));
            }
        }
    }

    pub(super) unsafe fn compare(left: *const u8, right: *const u8, count: usize) -> i32 {
        let mut at = 0;
        // SAFETY: the caller's.
        unsafe {
            while at + 8 <= count && read::<u64>(left.add(at)) == read::<u64>(right.add(at)) {
                at += 8;
            }
            while at < count {
                let (a, b) = (left.add(at).read_volatile(), right.add(at).read_volatile());
                if a != b {
                    return i32::from(a) - i32::from(b);
                }
                at += 1;
            }
        }
        0
    }
}

/// Numbers of system calls.
pub(crate) mod number {
    #![allow(missing_docs, reason = "the kernel's names")]
    macro_rules! numbers { ($($name:ident $value:literal),* $(,)?) => { $(pub(crate) const $name: i64 = $value;)* } }
    numbers! {
        READ 0, WRITE 1, OPEN 2, CLOSE 3, STAT 4, FSTAT 5, LSTAT 6, MMAP 9, MPROTECT 10, MUNMAP 11, RT_SIGACTION 13, RT_SIGPROCMASK 14,
        PREAD64 17, PWRITE64 18, ACCESS 21, DUP2 33, GETPID 39, CONNECT 42, ACCEPT 43, SENDTO 44, BIND 49, GETSOCKNAME 51, GETPEERNAME 52,
        SIGALTSTACK 131, CLONE 56, EXECVE 59, EXIT_GROUP 231, WAIT4 61, KILL 62, FCNTL 72, FLOCK 73, TRUNCATE 76, FTRUNCATE 77, GETDENTS64 217, GETCWD 79, CHDIR 80, FCHDIR 81,
        RENAME 82, MKDIR 83, RMDIR 84, CREAT 85, LINK 86, UNLINK 87, SYMLINK 88, READLINK 89, CHMOD 90, FCHMOD 91, CHOWN 92,
        FCHOWN 93, LCHOWN 94, UMASK 95, GETUID 102, GETGID 104, SETUID 105, SETGID 106, GETEUID 107, GETEGID 108, SETSID 112,
        SETREUID 113, SETREGID 114, GETGROUPS 115, SETGROUPS 116, SETRESUID 117, GETRESUID 118, SETRESGID 119, GETRESGID 120,
        SETFSUID 122, SETFSGID 123, CAPGET 125, CAPSET 126, RT_SIGSUSPEND 130, UTIME 132, MKNOD 133,
        STATFS 137, PRCTL 157, CHROOT 161, SETXATTR 188, LSETXATTR 189, FSETXATTR 190, GETXATTR 191,
        LGETXATTR 192, FGETXATTR 193, LISTXATTR 194, LLISTXATTR 195, FLISTXATTR 196, REMOVEXATTR 197, LREMOVEXATTR 198,
        FREMOVEXATTR 199, UTIMES 235, INOTIFY_ADD_WATCH 254, OPENAT 257, MKDIRAT 258, MKNODAT 259, FCHOWNAT 260,
        FUTIMESAT 261, NEWFSTATAT 262, UNLINKAT 263, RENAMEAT 264, LINKAT 265, SYMLINKAT 266, READLINKAT 267, FCHMODAT 268,
        FACCESSAT 269, PSELECT6 270, PPOLL 271, UTIMENSAT 280, EPOLL_PWAIT 281, ACCEPT4 288, DUP3 292, NAME_TO_HANDLE_AT 303,
        RENAMEAT2 316, SECCOMP 317, EXECVEAT 322, COPY_FILE_RANGE 326, STATX 332, IO_URING_SETUP 425, CLOSE_RANGE 436, OPENAT2 437,
        FACCESSAT2 439, EPOLL_PWAIT2 441, FCHMODAT2 452, SETXATTRAT 463, GETXATTRAT 464, LISTXATTRAT 465, REMOVEXATTRAT 466,
        POLL 7, SIGNALFD4 289, RECVMSG 47, MOUNT 165, LANDLOCK_RESTRICT_SELF 446,
        SENDMSG 46, UNAME 63, SETHOSTNAME 170, SETDOMAINNAME 171, GETPPID 110, GETTID 186, MADVISE 28,
        PROCESS_VM_WRITEV 311, MEMFD_CREATE 319, LSEEK 8, FILE_GETATTR 468, FILE_SETATTR 469, OPEN_TREE 428, FSPICK 433,
        MOUNT_SETATTR 442, UNSHARE 272, LANDLOCK_CREATE_RULESET 444,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The call `number` at the end of `parts`, and where in them the jump would stand.
    fn site_at_end(parts: &[&[u8]], number: i64) -> Option<(usize, Site)> {
        let mut bytes = [0xcc; 64];
        let start = bytes.len() - parts.iter().map(|part| part.len()).sum::<usize>();
        let mut at = start;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        let site = site(bytes.as_ptr() as u64 + bytes.len() as u64, number)?;
        Some(((site.start - bytes.as_ptr() as u64) as usize - start, site))
    }

    #[test]
    fn a_jump_stands_where_the_call_is_named() {
        let start = |code: &[u8], number| site_at_end(&[code], number).map(|(at, _)| at);
        // ret; mov eax, 257; syscall
        assert_eq!(start(&[0xc3, 0xb8, 1, 1, 0, 0, 0x0f, 5], 257), Some(1));
        assert_eq!(start(&[0xc3, 0xb8, 1, 1, 0, 0, 0x0f, 5], 258), None);
        // mov r8d, 257; syscall
        assert_eq!(start(&[0x41, 0xb8, 1, 1, 0, 0, 0x0f, 5], 257), None);
        // mov eax, 257; mov r10d, ecx; syscall
        assert_eq!(start(&[0xc3, 0xb8, 1, 1, 0, 0, 0x41, 0x89, 0xca, 0x0f, 5], 257), Some(1));
        // mov eax, 257; mov rsi, rdi; mov edi, AT_FDCWD; syscall: `open` of the GNU library
        assert_eq!(start(&[0xb8, 1, 1, 0, 0, 0x48, 0x89, 0xfe, 0xbf, 0x9c, 255, 255, 255, 0x0f, 5], 257), Some(0));
        // mov eax, 262; mov rdx, [rsp + 8]; xor r10d, r10d; syscall
        assert_eq!(start(&[0xb8, 6, 1, 0, 0, 0x48, 0x8b, 0x54, 0x24, 8, 0x45, 0x31, 0xd2, 0x0f, 5], 262), Some(0));
        // mov eax, 89; mov edx, 0x1b8; mov rsi, rbp; syscall: what follows the second number's first byte is no other call
        assert_eq!(start(&[0xb8, 89, 0, 0, 0, 0xba, 0xb8, 1, 0, 0, 0x48, 0x89, 0xee, 0x0f, 5], 89), Some(0));
    }

    #[test]
    fn bytes_are_copied_filled_and_compared() {
        let pattern = |at: usize| (at * 7 + at / 256) as u8;
        for count in 0..300_usize {
            // To a place before, which may overlap: as one byte after the other would be.
            for distance in 0..40 {
                let (mut own, mut expected) = ([0_u8; 400], [0_u8; 400]);
                for (at, (own, expected)) in own.iter_mut().zip(&mut expected).enumerate() {
                    (*own, *expected) = (pattern(at), pattern(at));
                }
                for at in 0..count {
                    expected[20 + at] = expected[20 + distance + at];
                }
                // SAFETY: within the array.
                unsafe { bytes::copy(own.as_mut_ptr().add(20), own.as_ptr().add(20 + distance), count) };
                assert!(own == expected, "{count} bytes, {distance} back");
            }
            let mut own = [1_u8; 400];
            // SAFETY: as above.
            unsafe { bytes::fill(own.as_mut_ptr().add(3), 0xfe, count) };
            assert!(
                own.iter().enumerate().all(|(at, byte)| *byte == if (3..3 + count).contains(&at) { 0xfe } else { 1 }),
                "{count}"
            );
            let (left, mut right) = ([5_u8; 300], [5_u8; 300]);
            if count > 0 {
                right[count - 1] = 4;
            }
            // SAFETY: as above.
            let (same, other) = unsafe {
                (
                    bytes::compare(left.as_ptr(), right.as_ptr(), count.saturating_sub(1)),
                    bytes::compare(left.as_ptr(), right.as_ptr(), count),
                )
            };
            assert_eq!((same, other.signum()), (0, i32::from(count > 0)), "{count}");
        }
    }

    #[test]
    fn what_means_something_else_at_another_place_stays() {
        for between in [
            &[0x48, 0x8b, 0x05, 0, 0, 0, 0][..], // mov rax, [rip]
            &[0x48, 0x8b, 0x15, 0, 0, 0, 0],     // mov rdx, [rip]
            &[0x31, 0xc0],                       // xor eax, eax
            &[0x89, 0xf8],                       // mov eax, edi
            &[0x8b, 0x44, 0x24, 8],              // mov eax, [rsp + 8]
            &[0x74, 0x02],                       // je
            &[0xe8, 0, 0, 0, 0],                 // call
            &[0x48, 0x89, 0xfc],                 // mov rsp, rdi
            &[0x89, 0x7c, 0x24, 8],              // mov [rsp + 8], edi
            &[0xbf, 1],                          // the start of a mov
        ] {
            assert_eq!(site_at_end(&[&[0xb8, 1, 1, 0, 0], between, &[0x0f, 5]], 257), None, "{between:x?}");
        }
    }

    #[test]
    fn a_detour_does_what_stood_before_the_call() {
        let (_, site) = site_at_end(&[&[0xb8, 1, 1, 0, 0, 0x41, 0x89, 0xca, 0x0f, 5]], 257).unwrap();
        let detour = detour(&site, 0x1122_3344_5566_7788);
        let expected =
            [0xb8, 1, 1, 0, 0, 0x41, 0x89, 0xca, 0x48, 0xb9, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x49, 0xbb];
        assert_eq!(detour[..20], expected);
        assert_eq!(detour[28..32], [0x41, 0xff, 0xe3, 0xcc]);
    }

    #[test]
    fn a_jump_goes_as_far_as_32_bits_reach() {
        assert_eq!(jump(0x1000, 0x2000), Some([0xe9, 0xfb, 0x0f, 0, 0]));
        assert_eq!(jump(0x2000, 0x1000), Some([0xe9, 0xfb, 0xef, 0xff, 0xff]));
        assert_eq!(jump(0x1000, 0x1000 + 5 + (1 << 31)), None);
        assert_eq!(jump(0x7000_0000_0000, 0x1000), None);
    }
}
