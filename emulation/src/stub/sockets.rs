//! Addresses of UNIX sockets are paths too.

use super::arch::number as n;
use super::kernel::{Answer, ENAMETOOLONG, call};
use super::ownership::{Object, created};
use super::path;
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

/// Calls with an address at `at`, its length behind it: `bind`, `connect`, `sendto`.
pub(crate) fn with_address(number: i64, mut arguments: [u64; 6], at: usize) -> Answer {
    let (given, length) = (arguments[at] as *const u8, arguments[at + 1] as usize);
    // SAFETY: the program's address, of that length.
    if given.is_null() || !(4..=110).contains(&length) || unsafe { given.cast::<u16>().read_unaligned() } != UNIX {
        return call(number, arguments);
    }
    let mut name = [0; 112];
    // SAFETY: as above.
    let bytes = unsafe { core::slice::from_raw_parts(given.add(2), length - 2) };
    if bytes[0] == 0 {
        return call(number, arguments);
    }
    Text::new(&mut name).put(bytes.split(|byte| *byte == 0).next().unwrap_or(bytes));
    let place = match path::place(super::kernel::AT_FDCWD, name.as_ptr()) {
        Ok(place) => place,
        Err(errno) => return errno,
    };
    // A link to a socket leads to where it is.
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
    let mut written = path::with_walk(super::kernel::AT_FDCWD, wanted, number != n::BIND, |found, _| write(found));
    if written == ENAMETOOLONG {
        written = Object::At(place.directory, place.name).with_path(|found, _| write(found));
    }
    if written < 0 {
        return written;
    }
    arguments[at] = &raw const address as u64;
    arguments[at + 1] = length as u64;
    let result = call(number, arguments);
    if result == 0 && number == n::BIND {
        created(Object::At(place.directory, place.name), None, 0o140_000, 0o777 & !state().umask, 0);
    }
    result
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
