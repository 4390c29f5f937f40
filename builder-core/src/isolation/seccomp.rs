//! Which system calls a step may not make: what Docker's default profile refuses to a container without further
//! capabilities, as far as the kernel does not refuse it by itself. Pure: gives the program of a filter.
//!
//! A list of what is refused, not of what is allowed: programs that use calls younger than this list go on working.

use libc::sock_filter;

/// Flags with which `clone` and `unshare` make namespaces; the lowest is only known to `unshare`.
const NAMESPACES: u32 = 0x7e02_0000;
const TIME_NAMESPACE: u32 = 0x80;

/// Numbers that are the same everywhere: `io_uring` goes round every filter; the others mount.
const REFUSED_EVERYWHERE: [u32; 12] = [425, 426, 427, 428, 429, 430, 431, 432, 433, 442, 443, 467];
/// `clone3` keeps its flags where a filter cannot look; programs do with `clone`.
const CLONE3: u32 = 435;

/// One way to make system calls.
struct Interface {
    /// What the kernel calls it.
    architecture: u32,
    /// Calls from this number on are refused as unknown.
    end: u32,
    clone: u32,
    unshare: u32,
    /// Refused besides those that are refused everywhere.
    refused: &'static [u32],
}

/// The interfaces of this machine: its own first, then that of its 32-bit programs.
#[cfg(target_arch = "x86_64")]
const INTERFACES: [Interface; 2] = [
    Interface {
        architecture: 0xc000_003e,
        // x32.
        end: 0x4000_0000,
        clone: 56,
        unshare: 272,
        // syslog uselib ustat sysfs vhangup pivot_root _sysctl acct settimeofday mount umount2 swapon swapoff reboot iopl ioperm
        // init_module delete_module quotactl nfsservctl lookup_dcookie clock_settime kexec_load add_key request_key keyctl
        // perf_event_open fanotify_init open_by_handle_at setns finit_module kexec_file_load bpf userfaultfd
        refused: &[
            103, 134, 136, 139, 153, 155, 156, 163, 164, 165, 166, 167, 168, 169, 172, 173, 175, 176, 179, 180, 212, 227, 246,
            248, 249, 250, 298, 300, 304, 308, 313, 320, 321, 323,
        ],
    },
    Interface {
        architecture: 0x4000_0003,
        end: u32::MAX,
        clone: 120,
        unshare: 310,
        // mount umount stime acct umount2 ustat settimeofday uselib swapon reboot ioperm syslog iopl vhangup vm86old swapoff
        // init_module delete_module quotactl sysfs _sysctl vm86 nfsservctl pivot_root lookup_dcookie clock_settime kexec_load
        // add_key request_key keyctl perf_event_open fanotify_init open_by_handle_at setns finit_module bpf userfaultfd
        // clock_settime64
        refused: &[
            21, 22, 25, 51, 52, 62, 79, 86, 87, 88, 101, 103, 110, 111, 113, 115, 128, 129, 131, 135, 149, 166, 169, 217, 253,
            264, 283, 286, 287, 288, 336, 338, 342, 346, 350, 357, 374, 404,
        ],
    },
];
/// The interfaces of this machine: its own first, then that of its 32-bit programs.
#[cfg(target_arch = "aarch64")]
const INTERFACES: [Interface; 2] = [
    Interface {
        architecture: 0xc000_00b7,
        end: u32::MAX,
        clone: 220,
        unshare: 97,
        // lookup_dcookie umount2 mount pivot_root nfsservctl vhangup quotactl acct kexec_load init_module delete_module
        // clock_settime syslog reboot settimeofday add_key request_key keyctl swapon swapoff perf_event_open fanotify_init
        // open_by_handle_at setns finit_module bpf userfaultfd kexec_file_load
        refused: &[
            18, 39, 40, 41, 42, 58, 60, 89, 104, 105, 106, 112, 116, 142, 170, 217, 218, 219, 224, 225, 241, 262, 265, 268, 273,
            280, 282, 294,
        ],
    },
    Interface {
        architecture: 0x4000_0028,
        end: u32::MAX,
        clone: 120,
        unshare: 337,
        // mount acct umount2 ustat settimeofday uselib swapon reboot syslog vhangup swapoff init_module delete_module quotactl
        // sysfs _sysctl nfsservctl pivot_root lookup_dcookie clock_settime add_key request_key keyctl kexec_load perf_event_open
        // fanotify_init open_by_handle_at setns finit_module bpf userfaultfd clock_settime64
        refused: &[
            21, 51, 52, 62, 79, 86, 87, 88, 103, 111, 115, 128, 129, 131, 135, 149, 169, 218, 249, 262, 309, 310, 311, 347, 364,
            367, 371, 375, 379, 386, 388, 404,
        ],
    },
];
/// No table: calls are refused by the kernel alone.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const INTERFACES: [Interface; 0] = [];

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOT_PERMITTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();

/// The filter of a usual step. Empty on a machine without a table.
pub(super) fn filter() -> Vec<sock_filter> {
    if INTERFACES.is_empty() {
        return Vec::new();
    }
    let mut program = vec![put(LOAD, 0, 0, ARCHITECTURE)];
    for interface in &INTERFACES {
        let body = body(interface);
        // Jumps over the body are unconditional ones, for the others reach only 255 instructions.
        program.push(put(EQUAL, 1, 0, interface.architecture));
        program.push(put(JUMP, 0, 0, u32::try_from(body.len()).expect("a few hundred")));
        program.extend(body);
    }
    // Calls of another kind of machine.
    program.push(put(RETURN, 0, 0, UNKNOWN));
    program
}

fn body(interface: &Interface) -> Vec<sock_filter> {
    let answer = |number: u32, answer: u32| (number, vec![put(EQUAL, 0, 1, number), put(RETURN, 0, 0, answer)]);
    let mut rows: Vec<(u32, Vec<sock_filter>)> =
        interface.refused.iter().chain(&REFUSED_EVERYWHERE).map(|number| answer(*number, NOT_PERMITTED)).collect();
    rows.push(answer(CLONE3, UNKNOWN));
    for (number, flags) in [(interface.clone, NAMESPACES), (interface.unshare, NAMESPACES | TIME_NAMESPACE)] {
        // The kernel looks at the lower half of the argument.
        let argument = FIRST_ARGUMENT + if cfg!(target_endian = "big") { 4 } else { 0 };
        let mut row = vec![put(EQUAL, 0, 4, number), put(LOAD, 0, 0, argument)];
        row.extend([put(ANY_BIT, 0, 1, flags), put(RETURN, 0, 0, NOT_PERMITTED), put(RETURN, 0, 0, ALLOW)]);
        rows.push((number, row));
    }
    rows.sort_by_key(|(number, _)| *number);
    let mut body = vec![put(LOAD, 0, 0, NUMBER)];
    body.extend([put(AT_LEAST, 0, 1, interface.end), put(RETURN, 0, 0, UNKNOWN)]);
    body.extend(halved(&rows));
    body
}

/// The rows, found by halving: where another filter looks at arguments, this one runs for each call too.
fn halved(rows: &[(u32, Vec<sock_filter>)]) -> Vec<sock_filter> {
    const TOGETHER: usize = 4;
    if rows.len() <= TOGETHER {
        return rows.iter().flat_map(|(_, row)| row.iter().copied()).chain([put(RETURN, 0, 0, ALLOW)]).collect();
    }
    let (lower, upper) = rows.split_at(rows.len() / 2);
    let (first, lower) = (upper[0].0, halved(lower));
    let over = u32::try_from(lower.len()).expect("a few hundred");
    [put(AT_LEAST, 0, 1, first), put(JUMP, 0, 0, over)].into_iter().chain(lower).chain(halved(upper)).collect()
}

fn put(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do.
    fn run(architecture: u32, number: u32, argument: u32) -> u32 {
        let program = filter();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |met: bool| usize::from(if met { jt } else { jf });
            match code {
                LOAD if k == NUMBER => accumulator = number,
                LOAD if k == ARCHITECTURE => accumulator = architecture,
                LOAD => accumulator = argument,
                JUMP => at += usize::try_from(k).unwrap(),
                EQUAL => at += jump(accumulator == k),
                AT_LEAST => at += jump(accumulator >= k),
                ANY_BIT => at += jump(accumulator & k != 0),
                _ => return k,
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_about_the_machine_are_refused_and_all_others_are_not() {
        let own = INTERFACES[0].architecture;
        let number = |call: libc::c_long| u32::try_from(call).unwrap();
        for refused in [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_setns,
            libc::SYS_open_tree,
            libc::SYS_mount_setattr,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_kexec_load,
            libc::SYS_kexec_file_load,
            libc::SYS_open_by_handle_at,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_iopl,
            libc::SYS_ioperm,
            libc::SYS_acct,
            libc::SYS_swapon,
            libc::SYS_swapoff,
            libc::SYS_reboot,
            libc::SYS_syslog,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_fanotify_init,
            libc::SYS_quotactl,
            libc::SYS_lookup_dcookie,
            libc::SYS_vhangup,
        ] {
            assert_eq!(run(own, number(refused), 0), NOT_PERMITTED, "{refused}");
        }
        for allowed in [libc::SYS_ptrace, libc::SYS_read, libc::SYS_chroot, libc::SYS_seccomp, libc::SYS_personality, 600] {
            assert_eq!(run(own, number(allowed), 0), ALLOW, "{allowed}");
        }
        assert_eq!(run(own, number(libc::SYS_clone3), 0), UNKNOWN);
        assert_eq!(run(own, 0x4000_0000, 0), UNKNOWN, "x32");
        assert_eq!(run(0xc000_00b7, 0, 0), UNKNOWN, "another machine");
        let flags = |flags: libc::c_int| flags.unsigned_abs();
        for namespace in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWNET, libc::CLONE_NEWCGROUP] {
            for call in [libc::SYS_clone, libc::SYS_unshare] {
                assert_eq!(run(own, number(call), flags(namespace | libc::SIGCHLD)), NOT_PERMITTED);
            }
        }
        assert_eq!(run(own, number(libc::SYS_clone), flags(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD)), ALLOW);
        assert_eq!(run(own, number(libc::SYS_unshare), flags(libc::CLONE_FILES)), ALLOW);
        // The same for programs of 32 bits: mount, keyctl, clone, read.
        let foreign = INTERFACES[1].architecture;
        let numbers = [(21, 0), (288, 0), (120, flags(libc::CLONE_NEWUSER)), (120, 0), (3, 0)];
        let answers = numbers.map(|(number, argument)| run(foreign, number, argument));
        assert_eq!(answers, [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, ALLOW, ALLOW]);
    }
}
