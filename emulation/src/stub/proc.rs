//! Files of /proc that would tell a program about the host or the stub: it reads a copy, put right, in memory. What they say of
//! other processes than its own is the kernel's, but for their program and where they are.

use super::arch::{O_DIRECTORY, O_NOFOLLOW, number as n};
use super::kernel::{self, AT_FDCWD, Answer, EACCES, O_CLOEXEC, O_PATH, call};
use super::path::{Place, is_passed};
use super::scratch::Scratch;
use super::state::{VARIABLE, end_of_stub, program_of, setting, state};
use super::text::{self, Text};

/// Half of it is read into, the other half written from. A variable may have 128 KiB.
const LENGTH: usize = 512 * 1024;

/// What is done with each line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Mappings: paths are the step's, and the stub is not there.
    Maps,
    /// Mounts, with the number of the field that says where: only the root and what is the host's.
    Mounts(usize),
    /// Whom this process is for the kernel.
    Status,
    /// Whom another one is: of its users only that the builder's stands for root is known.
    StatusOfOther,
    /// Variables: without the stub's.
    Variables,
    /// What the machine is called.
    HostName,
}

/// What follows the name of a process in a path below /proc, and whether it is this process.
fn of_process(name: &[u8]) -> Option<(&[u8], bool)> {
    let slash = name.iter().position(|byte| *byte == b'/')?;
    let (process, rest) = (&name[..slash], &name[slash + 1..]);
    if process == b"self" || process == b"thread-self" {
        return Some((rest, true));
    }
    let (number, behind) = text::number(process);
    (behind.is_empty() && !process.is_empty()).then(|| (rest, number == kernel::getpid() as u64))
}

/// What comes behind the root of a process: every process of a step has the step's. The bytes end with zero, for they end the
/// path.
pub(crate) fn below_a_root(name: &[u8]) -> Option<&[u8]> {
    let (rest, _) = of_process(name)?;
    rest.strip_prefix(b"root").filter(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Opens a file of /proc, of which `name` is the path below it, if the program is not to have the kernel's own.
pub(crate) fn open(path: *const u8, name: &[u8], flags: u64) -> Option<Answer> {
    let kind = match name {
        b"mounts" => Kind::Mounts(1),
        b"sys/kernel/hostname" => Kind::HostName,
        _ => {
            let (rest, is_own) = of_process(name)?;
            match rest {
                b"exe" if flags & O_NOFOLLOW == 0 => return open_program(path, is_own, flags),
                b"maps" | b"smaps" => Kind::Maps,
                b"mountinfo" | b"mountstats" => Kind::Mounts(4),
                b"mounts" => Kind::Mounts(1),
                b"status" => {
                    if is_own {
                        Kind::Status
                    } else {
                        Kind::StatusOfOther
                    }
                }
                b"environ" => Kind::Variables,
                _ => return None,
            }
        }
    };
    if flags & (O_PATH | O_DIRECTORY) != 0 {
        return None;
    }
    if flags & 3 != 0 {
        return (kind == Kind::HostName).then_some(EACCES);
    }
    Some(copy(path, kind, flags))
}

fn open_program(path: *const u8, is_own: bool, flags: u64) -> Option<Answer> {
    if is_own {
        return Some(kernel::openat(AT_FDCWD, setting().program_real.as_ptr(), flags, 0));
    }
    let mut scratch = Scratch::take()?;
    let (buffer, _) = scratch.halves();
    let length = kernel::readlinkat(AT_FDCWD, path, buffer);
    if buffer.get(..usize::try_from(length).ok()?) != Some(setting().stub.as_bytes()) {
        return None;
    }
    with_program(AT_FDCWD, path, |program| {
        let mut text = Text::new(buffer);
        text.put(program).fits().then(|| kernel::openat(AT_FDCWD, text.as_ptr(), flags, 0))
    })
}

/// The program of the process whose `exe` is at `place`, on the host.
pub(crate) fn program<'a>(place: &Place, buffer: &'a mut [u8]) -> &'a [u8] {
    let found = with_program(place.directory, place.name, |program| {
        buffer.get_mut(..program.len())?.copy_from_slice(program);
        Some(program.len())
    });
    match found {
        Some(length) => &buffer[..length],
        None => setting().program_real.as_bytes(),
    }
}

/// Finds the program of a process by the variable with which it was started; `exe` is the path of the link.
fn with_program<T>(directory: i32, exe: *const u8, then: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
    // SAFETY: a path of the program, or a part of one.
    let exe = unsafe { text::bytes(exe) };
    let before = exe.strip_suffix(b"exe")?;
    let mut name = [0; 300];
    let mut text = Text::new(&mut name);
    if !text.put(before).put(b"environ").fits() {
        return None;
    }
    let memory = Memory::map()?;
    let bytes = memory.bytes();
    let mut length = 0;
    // In the middle of an exec a process has a program already, but no variables yet.
    for _ in 0..50 {
        let file = kernel::openat(directory, text.as_ptr(), O_CLOEXEC, 0);
        if file < 0 {
            return None;
        }
        loop {
            let rest = &mut bytes[length..];
            match call(n::READ, [file as u64, rest.as_mut_ptr() as u64, rest.len() as u64, 0, 0, 0]) {
                count if count > 0 => length += count as usize,
                _ => break,
            }
        }
        kernel::close(file as i32);
        if length > 0 {
            break;
        }
        let wait = [0_u64, 200_000];
        call(n::PPOLL, [0, 0, wait.as_ptr() as u64, 0, 0, 0]);
    }
    let variable = bytes[..length].split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(VARIABLE))?;
    then(program_of(variable)?)
}

/// Memory for one file.
struct Memory(Answer);

impl Memory {
    fn map() -> Option<Self> {
        let address = kernel::map(LENGTH);
        (!kernel::is_error(address)).then_some(Self(address))
    }

    #[allow(clippy::mut_from_ref, reason = "asked for once in each use")]
    fn bytes(&self) -> &mut [u8] {
        // SAFETY: just mapped, and this value's alone.
        unsafe { core::slice::from_raw_parts_mut(self.0 as *mut u8, LENGTH) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        kernel::unmap(self.0 as u64, LENGTH);
    }
}

/// Copies a file into memory of its own, each line put right.
fn copy(path: *const u8, kind: Kind, flags: u64) -> Answer {
    const CLOSE_ON_EXEC: u64 = 1;
    let file = kernel::openat(AT_FDCWD, path, O_CLOEXEC, 0);
    if file < 0 {
        return file;
    }
    let close_on_exec = if flags & O_CLOEXEC != 0 { CLOSE_ON_EXEC } else { 0 };
    let made = call(n::MEMFD_CREATE, [c"proc".as_ptr() as u64, close_on_exec, 0, 0, 0, 0]);
    let memory = Memory::map();
    let Some(memory) = memory.filter(|_| made >= 0) else {
        // As the kernel has it, rather than not at all.
        if made >= 0 {
            kernel::close(made as i32);
        }
        return file;
    };
    let (buffer, out) = memory.bytes().split_at_mut(LENGTH / 2);
    let mut out = Text::new(out);
    let end = if kind == Kind::Variables { 0 } else { b'\n' };
    let mut length = 0;
    loop {
        let rest = &mut buffer[length..];
        let count = call(n::READ, [file as u64, rest.as_mut_ptr() as u64, rest.len() as u64, 0, 0, 0]);
        length += usize::try_from(count).unwrap_or(0);
        let is_end = count <= 0;
        let mut from = 0;
        while let Some(found) = buffer[from..length].iter().position(|byte| *byte == end) {
            put_right(kind, &buffer[from..=from + found], &mut out);
            from += found + 1;
            if out.as_bytes().len() > LENGTH / 4 {
                kernel::write(made as i32, out.as_bytes());
                out.cut(0);
            }
        }
        if is_end || from == 0 && length == buffer.len() {
            put_right(kind, &buffer[from..length], &mut out);
            from = length;
        }
        buffer.copy_within(from..length, 0);
        length -= from;
        if is_end {
            break;
        }
    }
    kernel::write(made as i32, out.as_bytes());
    call(n::LSEEK, [made as u64, 0, 0, 0, 0, 0]);
    kernel::lowest(made, file as i32, flags)
}

/// Writes a line, with its end, as the program is to read it.
fn put_right(kind: Kind, line: &[u8], out: &mut Text<'_>) {
    match kind {
        Kind::Maps => put_mapping(line, out),
        Kind::Mounts(at) => {
            let place = line.split(|byte| *byte == b' ').nth(at).unwrap_or(b"");
            if place == b"/" || is_passed(place) {
                out.put(line);
            }
        }
        Kind::Variables => {
            if !line.starts_with(VARIABLE) {
                out.put(line);
            }
        }
        Kind::HostName => {
            if !line.is_empty() {
                out.put(setting().host_name.as_bytes()).put(b"\n");
            }
        }
        Kind::Status => put_status(line, out),
        Kind::StatusOfOther => put_status_of_other(line, (setting().real_uid, setting().real_gid), out),
    }
}

fn put_mapping(line: &[u8], out: &mut Text<'_>) {
    /// Where the stub begins, with as many digits as its addresses have; stub.ld has the address. The heap of a program is behind.
    const START: u64 = 0x5508_0000_0000;
    const DIGITS: usize = 12;
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(u64::from);
    let start = line.iter().map_while(digit).fold(0_u64, |start, digit| start.wrapping_mul(16).wrapping_add(digit));
    if line.get(DIGITS) == Some(&b'-') && (START..end_of_stub()).contains(&start) {
        return;
    }
    match line.iter().position(|byte| *byte == b'/') {
        Some(at) => out.put(&line[..at]).put(state().shown(&line[at..])),
        None => out.put(line),
    };
}

fn put_status(line: &[u8], out: &mut Text<'_>) {
    let who = &state().credentials;
    let sets = &who.capabilities;
    let name = line.split(|byte| *byte == b':').next().unwrap_or(line);
    let ids = match name {
        b"Uid" => Some(&who.user),
        b"Gid" => Some(&who.group),
        _ => None,
    };
    let set = match name {
        b"CapInh" => Some(sets.inheritable),
        b"CapPrm" => Some(sets.permitted),
        b"CapEff" => Some(sets.effective),
        b"CapBnd" => Some(sets.bounding),
        b"CapAmb" => Some(sets.ambient),
        _ => None,
    };
    if let Some(ids) = ids {
        out.put(name).put(b":");
        for id in [ids.real, ids.effective, ids.saved, ids.filesystem] {
            out.put(b"\t").number(u64::from(id));
        }
    } else if let Some(set) = set {
        out.put(name).put(b":\t");
        for digit in (0..16).rev() {
            out.put(&[b"0123456789abcdef"[(set >> (4 * digit) & 15) as usize]]);
        }
    } else if name == b"Groups" {
        out.put(b"Groups:\t");
        for group in who.groups() {
            out.number(u64::from(*group)).put(b" ");
        }
    } else if name == b"NoNewPrivs" {
        out.put(b"NoNewPrivs:\t").number(u64::from(who.gains_nothing));
    } else if name == b"Umask" {
        out.put(b"Umask:\t0");
        for digit in [6, 3, 0] {
            out.number(u64::from(state().umask >> digit & 7));
        }
    } else {
        out.put(line);
        return;
    }
    out.put(b"\n");
}

/// `real` is the builder's user and group.
fn put_status_of_other(line: &[u8], real: (u32, u32), out: &mut Text<'_>) {
    let real = match line.get(..4) {
        Some(b"Uid:") => real.0,
        Some(b"Gid:") => real.1,
        _ => {
            out.put(line);
            return;
        }
    };
    let (name, ids) = line.split_at(4);
    out.put(name);
    for id in ids.trim_ascii().split(|byte| *byte == b'\t') {
        let (id, _) = text::number(id);
        out.put(b"\t").number(if id == u64::from(real) { 0 } else { id });
    }
    out.put(b"\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right<'a>(kind: Kind, lines: &[&[u8]], buffer: &'a mut [u8]) -> &'a str {
        let mut text = Text::new(buffer);
        for line in lines {
            put_right(kind, line, &mut text);
        }
        let length = text.as_bytes().len();
        core::str::from_utf8(&buffer[..length]).unwrap_or("")
    }

    #[test]
    fn a_process_sees_itself_as_root_with_its_groups() {
        let own = super::super::state::change();
        (own.credentials, own.umask) = (super::super::identity::Credentials::ROOT, 0o022);
        let mut buffer = [0; 512];
        let lines: [&[u8]; 5] =
            [b"Name:\tx\n", b"Uid:\t1000\t1000\t1000\t1000\n", b"CapEff:\t0\n", b"Groups:\t7 \n", b"Umask:\t0000\n"];
        let expected = "Name:\tx\nUid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\nGroups:\t\nUmask:\t0022\n";
        assert_eq!(right(Kind::Status, &lines, &mut buffer), expected);
    }

    #[test]
    fn other_processes_of_the_builders_user_are_roots() {
        let mut buffer = [0; 512];
        let mut text = Text::new(&mut buffer);
        let lines: [&[u8]; 3] = [b"Name:\tx\n", b"Uid:\t1000\t1000\t7\t1000\n", b"Gid:\t100\t1000\t100\t100\n"];
        let expected = "Name:\tx\nUid:\t0\t0\t7\t0\nGid:\t0\t1000\t0\t0\n";
        for line in lines {
            put_status_of_other(line, (1000, 100), &mut text);
        }
        assert_eq!(text.as_bytes(), expected.as_bytes());
    }

    #[test]
    fn of_the_mounts_only_the_root_and_the_hosts_are_there() {
        let mut buffer = [0; 512];
        let lines: [&[u8]; 3] =
            [b"1 0 0:1 / / rw - overlay x rw\n", b"2 1 0:2 / /workspace rw - ext4 x rw\n", b"3 1 0:3 / /proc rw - proc x rw\n"];
        let expected = "1 0 0:1 / / rw - overlay x rw\n3 1 0:3 / /proc rw - proc x rw\n";
        assert_eq!(right(Kind::Mounts(4), &lines, &mut buffer), expected);
    }

    #[test]
    fn the_stub_and_its_variable_are_not_there() {
        let mut buffer = [0; 512];
        let lines: [&[u8]; 3] = [
            b"550800000000-55080001f000 r-xp 0 0:0 1 /s\n",
            b"55080001f000-550800128000 rw-p 0 0:0 1 /s\n",
            b"7f0000000000-7f0000001000 rw-p 0 0:0 0\n",
        ];
        assert_eq!(right(Kind::Maps, &lines, &mut buffer), "7f0000000000-7f0000001000 rw-p 0 0:0 0\n");
        let lines: [&[u8]; 2] = [b"A=1\0", b"COFFERDAM_EMULATION=1\0"];
        assert_eq!(right(Kind::Variables, &lines, &mut buffer), "A=1\0");
    }

    #[test]
    fn every_root_of_a_process_is_the_steps() {
        assert_eq!(below_a_root(b"self/root/etc"), Some(&b"/etc"[..]));
        assert_eq!(below_a_root(b"1/root"), Some(&b""[..]));
        assert_eq!(below_a_root(b"1/rooted"), None);
        assert_eq!(below_a_root(b"sys/root"), None);
    }
}
