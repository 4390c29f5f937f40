//! Addresses of UNIX sockets are paths too.

use super::arch::number as n;
use super::kernel::{AT_FDCWD, Answer, EFAULT, ENAMETOOLONG, call};
use super::memory;
use super::ownership::{Object, created};
use super::path::{self, Place};
use super::state::state;
use super::text::{self, Text};

/// `struct sockaddr_un`.
#[repr(C)]
struct Address {
    family: u16,
    path: [u8; 110],
}

const UNIX: u16 = 1;
const PATH_LENGTH: usize = 108;

/// An address of a program, and what is to be said to the kernel instead.
struct Translated {
    address: Address,
    length: usize,
    place: Place,
}

/// Translates an address, if it is the path of a UNIX socket. `follows` a link to where the socket is.
fn translate(given: u64, length: usize, follows: bool) -> Result<Option<Translated>, Answer> {
    let mut bytes = [0; 110];
    if given == 0 || !(4..=110).contains(&length) {
        return Ok(None);
    }
    let bytes = &mut bytes[..length];
    if !memory::read(given, bytes) {
        return Err(EFAULT);
    }
    if bytes[..2] != UNIX.to_ne_bytes() || bytes[2] == 0 {
        return Ok(None);
    }
    let mut name = [0; 112];
    Text::new(&mut name).put(bytes[2..].split(|byte| *byte == 0).next().unwrap_or(&[]));
    let place = path::place(AT_FDCWD, name.as_ptr())?;
    let mut address = Address { family: UNIX, path: [0; 110] };
    let mut length = 0;
    let mut write = |found: *const u8| {
        // SAFETY: a path that ends with zero.
        let found = unsafe { text::bytes(found) };
        let mut text = Text::new(&mut address.path[..PATH_LENGTH]);
        if text.put(found).fits() {
            length = 2 + found.len() + 1;
            return 0;
        }
        ENAMETOOLONG
    };
    // SAFETY: ends with zero, it was made above.
    let wanted = unsafe { text::bytes(name.as_ptr()) };
    let mut written = path::with_walk(AT_FDCWD, wanted, follows, |found, _| write(found));
    if written == ENAMETOOLONG {
        written = Object::At(place.directory, place.name).with_path(|found, _| write(found));
    }
    if written < 0 { Err(written) } else { Ok(Some(Translated { address, length, place })) }
}

/// Calls with an address at `at`, its length behind it: `bind`, `connect`, `sendto`.
pub(crate) fn with_address(number: i64, mut arguments: [u64; 6], at: usize) -> Answer {
    let translated = match translate(arguments[at], arguments[at + 1] as usize, number != n::BIND) {
        Ok(Some(translated)) => translated,
        Ok(None) => return call(number, arguments),
        Err(errno) => return errno,
    };
    arguments[at] = &raw const translated.address as u64;
    arguments[at + 1] = translated.length as u64;
    let result = call(number, arguments);
    if result == 0 && number == n::BIND {
        let place = &translated.place;
        created(Object::At(place.directory, place.name), None, 0o140_000, 0o777 & !state().umask, 0);
    }
    result
}

/// `sendmsg`: the address and its length are the first words of the message.
pub(crate) fn send_message(mut arguments: [u64; 6]) -> Answer {
    let mut bytes = [0_u8; 56];
    if !memory::read(arguments[1], &mut bytes) {
        return EFAULT;
    }
    // SAFETY: numbers only.
    let mut message: [u64; 7] = unsafe { core::mem::transmute(bytes) };
    match translate(message[0], message[1] as u32 as usize, true) {
        Ok(Some(translated)) => {
            message[0] = &raw const translated.address as u64;
            message[1] = translated.length as u64;
            arguments[1] = message.as_ptr() as u64;
            call(n::SENDMSG, arguments)
        }
        Ok(None) => call(n::SENDMSG, arguments),
        Err(errno) => errno,
    }
}

/// `getsockname`, `getpeername`, `accept`: the kernel tells where a socket is on the host.
pub(crate) fn tell_address(number: i64, arguments: [u64; 6]) -> Answer {
    let result = call(number, arguments);
    let (given, length) = (arguments[1] as *mut u8, arguments[2] as *mut u32);
    if result < 0 || given.is_null() || length.is_null() {
        return result;
    }
    // SAFETY: the program's address, which the kernel has filled as far as it says.
    unsafe {
        let count = (*length as usize).min(110);
        if count < 4 || given.cast::<u16>().read_unaligned() != UNIX || *given.add(2) != b'/' {
            return result;
        }
        let bytes = core::slice::from_raw_parts(given.add(2), count - 2);
        let path = bytes.split(|byte| *byte == 0).next().unwrap_or(bytes);
        let shown = state().shown(path);
        if shown.len() < path.len() {
            core::ptr::copy(shown.as_ptr(), given.add(2), shown.len());
            *given.add(2 + shown.len()) = 0;
            *length = 2 + shown.len() as u32 + 1;
        }
    }
    result
}
