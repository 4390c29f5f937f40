//! Executing: the program is looked at here, and the stub executed in its place, told what to load.

use super::arch::number as n;
use super::identity::FileCapabilities;
use super::kernel::{
    self, AT_EMPTY_PATH, AT_FDCWD, Answer, E2BIG, EACCES, EBADF, EFAULT, ELOOP, ENAMETOOLONG, ENOENT, ENOEXEC, ENOMEM, Held,
    O_CLOEXEC, O_PATH, PATH_MAX, Stat, call,
};
use super::load::Head;
use super::memory;
use super::ownership::{Attribute, Object, permits, record_of};
use super::path;
use super::state::{self, Begin, ROOT_DESCRIPTOR, setting, state};
use super::text::{self, DescriptorPath, Text};
use crate::record::{REGULAR, TYPE};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

const LENGTH: usize = 24 * 1024;
const COUNT: usize = 32;
/// What a script may start with.
const HEAD_LENGTH: usize = 256;
/// The start of a program, with all its headers.
const HEADERS_LENGTH: usize = 2048;
/// As many scripts as the kernel lets interpret each other.
const MAX_SCRIPTS: usize = 5;

/// Memory for one exec after the other. Nobody gives it back: an exec that succeeds does not return, and the child of a
/// `vfork` would leave it taken in its parent. It comes round again after as many as there are.
struct Ring(UnsafeCell<[[u8; LENGTH]; COUNT]>);
// SAFETY: each exec has its own, unless more than `COUNT` threads are in the middle of one.
unsafe impl Sync for Ring {}
#[unsafe(link_section = ".bss.large")]
static RING: Ring = Ring(UnsafeCell::new([[0; LENGTH]; COUNT]));
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// `execve`, `execveat`.
pub(crate) fn execute(
    directory: i32,
    path: *const u8,
    arguments: *const *const u8,
    environment: *const *const u8,
    flags: u64,
) -> Answer {
    if path.is_null() {
        return EFAULT;
    }
    let slot = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
    let start = RING.0.get().cast::<u8>().wrapping_add(slot * LENGTH);
    // SAFETY: this exec's own part, see `Ring`.
    let memory = unsafe { core::slice::from_raw_parts_mut(start, LENGTH) };
    prepare(directory, path, arguments, environment, flags, memory).unwrap_or_else(|errno| errno)
}

#[inline(never)]
fn prepare(
    directory: i32,
    path: *const u8,
    arguments: *const *const u8,
    environment: *const *const u8,
    flags: u64,
    memory: &mut [u8],
) -> Result<Answer, Answer> {
    // What is mostly short stands close together: each page that is touched has to be made first.
    let (memory, scripts) = memory.split_at_mut(LENGTH - MAX_SCRIPTS * HEAD_LENGTH);
    let (head, memory) = memory.split_at_mut(HEADERS_LENGTH);
    let mut real = Text::new(&mut memory[..PATH_MAX]);
    let mut before: [*const u8; 2 * MAX_SCRIPTS + 1] = [core::ptr::null(); 2 * MAX_SCRIPTS + 1];
    // A script that is executed by its descriptor is told so.
    let mut script_name = [0; 24];
    // SAFETY: the program's path.
    let names_descriptor = flags & AT_EMPTY_PATH != 0 && unsafe { *path } == 0;
    if names_descriptor {
        Text::new(&mut script_name).put(b"/dev/fd/").number(u64::from(directory.unsigned_abs()));
    }
    let (mut shown, mut script_count) = (path, 0);
    let mut at = before.len();
    let mut file = open(directory, path, flags, &mut real)?;
    let mut stat = Stat::empty();
    let (record, length) = loop {
        let object = Object::Descriptor(file.0);
        let looked = object.stat(&mut stat);
        if looked != 0 {
            return Err(looked);
        }
        let record = record_of(object, &stat);
        if record.mode & TYPE != REGULAR || !permits(&record, 1) {
            return Err(EACCES);
        }
        let length = read_start(file.0, head)?;
        let Some(script) = head[..length].strip_prefix(b"#!") else { break (record, length) };
        if script_count == MAX_SCRIPTS {
            return Err(ELOOP);
        }
        let script = &script[..script.len().min(HEAD_LENGTH - 2)];
        let (interpreter, argument) = interpreter(script).ok_or(ENOEXEC)?;
        let kept = &mut scripts[script_count * HEAD_LENGTH..(script_count + 1) * HEAD_LENGTH];
        let mut text = Text::new(kept);
        text.put(interpreter);
        let name = text.as_ptr();
        if script_count == 0 {
            at -= 1;
            before[at] = if names_descriptor { script_name.as_ptr() } else { shown };
        }
        if let Some(argument) = argument {
            at -= 1;
            text.put(b"\0").put(argument);
            before[at] = name.wrapping_add(interpreter.len() + 1);
        }
        at -= 1;
        before[at] = name;
        shown = name;
        script_count += 1;
        real.cut(0);
        file = open(AT_FDCWD, name, 0, &mut real)?;
    };
    let interpreter = open_interpreter(&head[..length])?;
    if real.as_bytes().is_empty() {
        real.put_link(DescriptorPath::new(file.0).as_ptr())?;
    }
    if !real.fits() {
        return Err(ENAMETOOLONG);
    }
    let length = real.as_bytes().len();
    let (real, memory) = memory.split_at_mut(length);
    let real = &*real;
    let mut credentials = state().credentials;
    // Root's programs gain nothing by it.
    let capabilities = if credentials.user.real == 0 { None } else { capabilities_of(&file) };
    let secure = credentials.execute(record.uid, record.gid, record.mode, capabilities);
    let mut text = Text::new(&mut memory[..2 * PATH_MAX + 2048]);
    // SAFETY: the program's path, or one of ours.
    let shown = unsafe { text::bytes(shown) };
    let shown = if shown.is_empty() { state().shown(real) } else { shown };
    let begin = Begin { secure, program: file.0, interpreter: interpreter.as_ref().map(|interpreter| interpreter.0) };
    state::encode((state(), setting()), &credentials, begin, (real, shown), &mut text);
    if !text.fits() {
        return Err(ENAMETOOLONG);
    }
    let (variable, pointers) = (text.as_ptr(), text.as_bytes().len() + 1);
    // Both are loaded as they were found here.
    for descriptor in [Some(begin.program), begin.interpreter].into_iter().flatten() {
        survive_exec(descriptor);
    }
    start(arguments, environment, &before[at..], variable, &mut memory[pointers..])
}

/// Opens a program, and writes where it is if that is known without asking /proc.
fn open(directory: i32, path: *const u8, flags: u64, real: &mut Text<'_>) -> Result<Held, Answer> {
    // SAFETY: the program's path, or one of ours.
    let is_empty = unsafe { *path } == 0;
    let found = if is_empty && flags & AT_EMPTY_PATH != 0 {
        // A name of ours: the program's descriptor may be closed by the exec.
        let name = DescriptorPath::new(directory);
        kernel::openat(AT_FDCWD, name.as_ptr(), O_PATH | O_CLOEXEC, 0)
    } else {
        path::open_program(directory, path, real)
    };
    if found < 0 { Err(found) } else { Ok(Held(found as i32)) }
}

fn survive_exec(descriptor: i32) {
    const SET_DESCRIPTOR_FLAGS: u64 = 2;
    call(n::FCNTL, [descriptor as u64, SET_DESCRIPTOR_FLAGS, 0, 0, 0, 0]);
}

/// What is on record of the capabilities of a file.
fn capabilities_of(file: &Held) -> Option<FileCapabilities> {
    let mut bytes = [0_u8; 24];
    let name = super::files::CAPABILITY.as_ptr().cast();
    let length = Object::Descriptor(file.0).attribute(Attribute::Get, name, bytes.as_mut_ptr(), bytes.len());
    FileCapabilities::parse(bytes.get(..usize::try_from(length).ok()?)?)
}

/// Reads the start of a file, which may be open as a name only.
fn read_start(file: i32, buffer: &mut [u8]) -> Result<usize, Answer> {
    let read =
        |file: i32, buffer: &mut [u8]| call(n::PREAD64, [file as u64, buffer.as_mut_ptr() as u64, buffer.len() as u64, 0, 0, 0]);
    let mut length = read(file, buffer);
    if length == EBADF {
        let opened = kernel::openat(AT_FDCWD, DescriptorPath::new(file).as_ptr(), O_CLOEXEC, 0);
        if opened < 0 {
            return Err(opened);
        }
        length = read(opened as i32, buffer);
        kernel::close(opened as i32);
    }
    if length < 0 { Err(length) } else { Ok(length as usize) }
}

/// What the first line of a script says, behind its two marks.
fn interpreter(script: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let line = script.split(|byte| *byte == b'\n' || *byte == 0).next()?.trim_ascii();
    let end = line.iter().position(|byte| *byte == b' ' || *byte == b'\t').unwrap_or(line.len());
    let (name, argument) = (&line[..end], line[end..].trim_ascii());
    (!name.is_empty()).then_some((name, (!argument.is_empty()).then_some(argument)))
}

/// Opens the interpreter of a program, if there is one, and says before the exec what would go wrong after it.
fn open_interpreter(bytes: &[u8]) -> Result<Option<Held>, Answer> {
    let Some(head) = Head::parse(bytes) else {
        // The error alone makes a shell take the program for a script, and says nothing of the reason.
        if bytes.starts_with(b"\x7fELF\x01") {
            kernel::write(2, b"cofferdam: programs of 32 bits cannot run in an emulated step\n");
        }
        return Err(ENOEXEC);
    };
    let Some((offset, length)) = head.interpreter(bytes) else { return Ok(None) };
    // One that stands far behind in the file is opened when it is loaded.
    let Some(name) = bytes.get(offset..offset + length).filter(|name| name.last() == Some(&0)) else { return Ok(None) };
    let found = path::open(AT_FDCWD, name.as_ptr(), O_CLOEXEC);
    if found < 0 { Err(found) } else { Ok(Some(Held(found as i32))) }
}

/// How many texts a list has.
fn count(list: *const *const u8) -> Result<usize, Answer> {
    if list.is_null() {
        return Ok(0);
    }
    let mut count = 0;
    loop {
        let place = list.wrapping_add(count);
        if (count == 0 || (place as usize).is_multiple_of(4096)) && !memory::read(place as u64, &mut [0; 8]) {
            return Err(EFAULT);
        }
        // SAFETY: on a page that can be read.
        if unsafe { place.read_unaligned() }.is_null() {
            return Ok(count);
        }
        count += 1;
    }
}

/// Executes the stub with `before` in place of the first argument, and with one more variable.
fn start(
    arguments: *const *const u8,
    environment: *const *const u8,
    before: &[*const u8],
    variable: *const u8,
    memory: &mut [u8],
) -> Result<Answer, Answer> {
    let (argument_count, variable_count) = (count(arguments)?, count(environment)?);
    let needed = argument_count + before.len() + variable_count + 4;
    let aligned = memory.as_mut_ptr().align_offset(8);
    let mut mapped = 0;
    let list: *mut *const u8 = if needed * 8 + aligned <= memory.len() {
        memory.as_mut_ptr().wrapping_add(aligned).cast()
    } else {
        mapped = needed * 8;
        if needed > 1 << 22 {
            return Err(E2BIG);
        }
        let address = kernel::map(mapped);
        if kernel::is_error(address) {
            return Err(ENOMEM);
        }
        address as *mut *const u8
    };
    let mut at = 0;
    let mut put = |pointer: *const u8| {
        // SAFETY: there is room for as many as were counted.
        unsafe { *list.add(at) = pointer };
        at += 1;
    };
    for pointer in before {
        put(*pointer);
    }
    for index in usize::from(!before.is_empty())..argument_count {
        // SAFETY: counted above.
        put(unsafe { *arguments.add(index) });
    }
    if before.is_empty() && argument_count == 0 {
        put(c"".as_ptr().cast());
    }
    put(core::ptr::null());
    for index in 0..variable_count {
        // SAFETY: counted above.
        put(unsafe { *environment.add(index) });
    }
    put(variable);
    put(core::ptr::null());
    let first = before.len() + argument_count.saturating_sub(usize::from(!before.is_empty()));
    let first = if before.is_empty() && argument_count == 0 { 1 } else { first };
    let variables = list.wrapping_add(first + 1);
    // Programs mark all descriptors that they find to be closed by an exec.
    survive_exec(ROOT_DESCRIPTOR);
    let failed = state::leave(|| call(n::EXECVE, [setting().stub.as_ptr() as u64, list as u64, variables as u64, 0, 0, 0]));
    if mapped > 0 {
        kernel::unmap(list as u64, mapped);
    }
    if failed == ENOENT { Err(EACCES) } else { Err(failed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_script_names_a_program_and_at_most_one_argument() {
        for (line, expected) in [
            (&b" /bin/sh\n"[..], Some((&b"/bin/sh"[..], None))),
            (b"/usr/bin/env  python3 -u \nrest", Some((b"/usr/bin/env", Some(&b"python3 -u"[..])))),
            (b"/bin/sh", Some((b"/bin/sh", None))),
            (b" \n", None),
        ] {
            assert_eq!(interpreter(line), expected);
        }
    }
}
