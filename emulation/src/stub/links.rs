//! Hard links of earlier steps. What changes such a file by one of its names changes it under that name alone, as on an overlay:
//! the name gets a file of its own first, a copy. The builder says which files these are ([`record::LINKS`]).

use super::arch::{O_DIRECTORY, O_NOFOLLOW, Stat, number as n};
use super::kernel::{
    self, AT_FDCWD, Answer, EEXIST, EINTR, EINVAL, ENODATA, ENOENT, ENOMEM, ENXIO, EOPNOTSUPP, Held, O_CLOEXEC, O_CREAT, O_EXCL,
    O_RDWR, O_TRUNC, O_WRONLY, STATX_BIRTH, STATX_LINKS, STATX_OURS, STATX_TIMES, Statx, call,
};
use super::ownership::{Object, put_side_path};
use super::scratch::Scratch;
use super::state::setting;
use super::text::{DescriptorPath, Text};
use crate::record::{self, REGULAR, TYPE};
use core::sync::atomic::{AtomicU64, Ordering};

/// How often a name is looked up again because another process was faster.
pub(crate) const TRIES: u32 = 8;
/// How many names a file has that others than the one which is meant could have: what is changed.
pub(crate) const SHARED: u32 = 2;
/// The same of a file that gets one more name: an overlay copies it then, so that the two names are one file.
pub(crate) const LINKED: u32 = 1;

/// What a copy has of the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Kept,
    /// Nothing, for it is to be emptied.
    Dropped,
}

/// What became of a name.
pub(crate) enum Separated {
    /// It has a file of its own now, which is open.
    Now(Held),
    /// Nothing had to be done.
    Not,
    /// Another process has just done it, or the name is gone.
    Elsewhere,
}

/// Whether a file may have names of earlier steps, and at least so many now.
pub(crate) fn may_be_shared(real: &Stat, least: u32) -> bool {
    setting().has_links && real.links >= least.into() && real.mode & TYPE == REGULAR
}

/// Whether a file has names of earlier steps, and at least so many now.
pub(crate) fn is_shared(object: Object, least: u32) -> bool {
    look(object, least, &mut Statx::empty())
}

/// The same; tells what is there.
fn look(object: Object, least: u32, found: &mut Statx) -> bool {
    let looked = object.statx(STATX_OURS | STATX_LINKS | STATX_TIMES | STATX_BIRTH, found);
    if looked != 0 || found.links < least || u32::from(found.mode) & TYPE != REGULAR {
        return false;
    }
    let mut buffer = [0; 600];
    let mut text = Text::new(&mut buffer);
    put_side_path(&mut text, record::LINKS, found);
    // A file to which this step gave its names has no entry.
    text.fits() && call(n::FACCESSAT, [AT_FDCWD as u64, text.as_ptr() as u64, 0, 0, 0, 0]) == 0
}

/// Gives the name by which `descriptor` was opened a file of its own, if earlier steps gave the file several, and it has at least so
/// many now.
pub(crate) fn separate(descriptor: i32, least: u32) -> Result<Separated, Answer> {
    separate_with(descriptor, Content::Kept, least)
}

/// Lets `open` open a file with these flags, by which it is changed: under this name alone.
pub(crate) fn open_separated(flags: u64, open: impl Fn(u64) -> Answer) -> Answer {
    let content = if flags & O_TRUNC == 0 { Content::Kept } else { Content::Dropped };
    let mut tries = 0;
    loop {
        // Not emptied yet: it may be what other names have as well.
        let opened = open(flags & !O_TRUNC);
        if opened < 0 {
            return opened;
        }
        let held = Held(opened as i32);
        tries += 1;
        match separate_with(held.0, content, SHARED) {
            Err(errno) => return errno,
            Ok(Separated::Elsewhere) if tries < TRIES => continue,
            Ok(Separated::Now(made)) => {
                let own = DescriptorPath::new(made.0);
                let again = kernel::openat(AT_FDCWD, own.as_ptr(), flags & !(O_TRUNC | O_NOFOLLOW), 0);
                return if again < 0 { again } else { kernel::lowest(again, release(held), flags) };
            }
            Ok(_) => {}
        }
        let emptied = if content == Content::Dropped { empty(held.0, flags) } else { 0 };
        return if emptied < 0 { emptied } else { Answer::from(release(held)) };
    }
}

fn release(mut held: Held) -> i32 {
    core::mem::replace(&mut held.0, -1)
}

/// What `O_TRUNC` does.
fn empty(descriptor: i32, flags: u64) -> Answer {
    let emptied = if flags & (O_WRONLY | O_RDWR) != 0 {
        call(n::FTRUNCATE, [descriptor as u64, 0, 0, 0, 0, 0])
    } else {
        call(n::TRUNCATE, [DescriptorPath::new(descriptor).as_ptr() as u64, 0, 0, 0, 0, 0])
    };
    // What is no file has no length: the kernel then ignores `O_TRUNC`.
    if emptied == EINVAL { 0 } else { emptied }
}

/// Makes a descriptor of the program's one of `made`, opened in the same way and at the same place. Where that is refused it stays
/// what it is.
pub(crate) fn take_over(descriptor: i32, made: i32) {
    const GET_DESCRIPTOR_FLAGS: u64 = 1;
    const GET_FLAGS: u64 = 3;
    let ask = |what| call(n::FCNTL, [descriptor as u64, what, 0, 0, 0, 0]);
    let opened = kernel::openat(AT_FDCWD, DescriptorPath::new(made).as_ptr(), ask(GET_FLAGS) as u64 & !O_NOFOLLOW, 0);
    if opened < 0 {
        return;
    }
    let at = call(n::LSEEK, [descriptor as u64, 0, 1, 0, 0, 0]);
    call(n::LSEEK, [opened as u64, at as u64, 0, 0, 0, 0]);
    let close_on_exec = if ask(GET_DESCRIPTOR_FLAGS) & 1 == 0 { 0 } else { O_CLOEXEC };
    call(n::DUP3, [opened as u64, descriptor as u64, close_on_exec, 0, 0, 0]);
    kernel::close(opened as i32);
}

/// The copy is made where the program does not see it, and takes the place of the name at once.
fn separate_with(descriptor: i32, content: Content, least: u32) -> Result<Separated, Answer> {
    let mut found = Statx::empty();
    if !look(Object::Descriptor(descriptor), least, &mut found) {
        return Ok(Separated::Not);
    }
    let mut scratch = Scratch::take().ok_or(ENOMEM)?;
    let (path, other) = scratch.halves();
    let mut path = Text::new(path);
    // A path so deep that it cannot be told is left alone.
    if path.put_link(DescriptorPath::new(descriptor).as_ptr()).is_err() || !path.fits() {
        return Ok(Separated::Not);
    }
    let slash = path.as_bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    path.cut(slash);
    let directory = match kernel::openat(AT_FDCWD, path.as_ptr(), O_DIRECTORY | O_CLOEXEC, 0) {
        ENOENT => return Ok(Separated::Elsewhere),
        directory => Held(checked(directory)? as i32),
    };
    let name = path.room().as_ptr();
    let mut place = Text::new(other);
    let made = make(&mut place)?;
    let moved = copy(descriptor, &found, content, made.0).and_then(|()| take_place(&place, directory.0, name, &found));
    match moved {
        Ok(true) => Ok(Separated::Now(made)),
        other => {
            call(n::UNLINKAT, [AT_FDCWD as u64, place.as_ptr() as u64, 0, 0, 0, 0]);
            other.map(|_| Separated::Elsewhere)
        }
    }
}

/// Renames the copy to the name, if that is still one of the file; says whether it was.
fn take_place(copy: &Text<'_>, directory: i32, name: *const u8, found: &Statx) -> Result<bool, Answer> {
    let _alone = Alone::begin();
    let mut above = Statx::empty();
    if !is_at(directory, name, found) || Object::Descriptor(directory).statx(STATX_TIMES, &mut above) != 0 {
        return Ok(false);
    }
    checked(call(n::RENAMEAT2, [AT_FDCWD as u64, copy.as_ptr() as u64, directory as u64, name as u64, 0, 0]))?;
    // The program has changed nothing in there. Should this be refused, it is no reason to fail.
    let _ = set_times(directory, &above);
    Ok(true)
}

/// While this lives nobody else of the step puts a copy in its place. No handler of the program runs meanwhile, which could jump out
/// of it; who is killed gives the lock back.
struct Alone {
    lock: Held,
    mask: u64,
}

impl Alone {
    const LOCK: u64 = 2;
    const UNLOCK: u64 = 8;
    const SET_MASK: u64 = 2;

    fn begin() -> Self {
        let mut alone = Self { lock: Held(-1), mask: 0 };
        let all = u64::MAX;
        call(n::RT_SIGPROCMASK, [Self::SET_MASK, &raw const all as u64, &raw mut alone.mask as u64, 8, 0, 0]);
        let mut buffer = [0; 300];
        let mut path = Text::new(&mut buffer);
        put_unseen(&mut path);
        // A file system without locks, or too long a path: then two at the same moment are not told apart.
        alone.lock.0 = kernel::openat(AT_FDCWD, path.as_ptr(), O_DIRECTORY | O_CLOEXEC, 0) as i32;
        call(n::FLOCK, [alone.lock.0 as u64, Self::LOCK, 0, 0, 0, 0]);
        alone
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // A child that another thread has made meanwhile has the descriptor as well.
        call(n::FLOCK, [self.lock.0 as u64, Self::UNLOCK, 0, 0, 0, 0]);
        call(n::RT_SIGPROCMASK, [Self::SET_MASK, &raw const self.mask as u64, 0, 8, 0, 0]);
    }
}

/// Makes an empty file where the program does not see it, and writes where.
fn make(place: &mut Text<'_>) -> Result<Held, Answer> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    put_unseen(place);
    place.number(kernel::getpid() as u64).put(b".");
    let end = place.as_bytes().len();
    let mut is_directory_made = false;
    loop {
        place.cut(end);
        place.number(MADE.fetch_add(1, Ordering::Relaxed));
        match kernel::openat(AT_FDCWD, place.as_ptr(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0o600) {
            // Of one that was killed.
            EEXIST => {}
            // The program has removed it, by a relative path.
            ENOENT if !is_directory_made => {
                let mut buffer = [0; 300];
                let mut path = Text::new(&mut buffer);
                put_unseen(&mut path);
                call(n::MKDIRAT, [AT_FDCWD as u64, path.as_ptr() as u64, 0o700, 0, 0, 0]);
                is_directory_made = true;
            }
            made => return Ok(Held(checked(made)? as i32)),
        }
    }
}

/// Writes where copies are made.
fn put_unseen(path: &mut Text<'_>) {
    path.put(setting().base.as_bytes()).put(record::UNSEEN.as_bytes());
}

fn is_at(directory: i32, name: *const u8, found: &Statx) -> bool {
    let mut there = Stat::empty();
    Object::At(directory, name).stat(&mut there) == 0 && there.inode == found.inode
}

fn checked(answer: Answer) -> Result<Answer, Answer> {
    if answer < 0 { Err(answer) } else { Ok(answer) }
}

/// Makes the empty file `to` what `from` is.
fn copy(from: i32, found: &Statx, content: Content, to: i32) -> Result<(), Answer> {
    const LENGTH: usize = 128 * 1024;
    // It may be open to write only, or as a name.
    let source = Held(checked(kernel::openat(AT_FDCWD, DescriptorPath::new(from).as_ptr(), O_CLOEXEC, 0))? as i32);
    let address = kernel::map(LENGTH);
    if kernel::is_error(address) {
        return Err(address);
    }
    // SAFETY: memory of that length, and nobody else's.
    let buffer = unsafe { core::slice::from_raw_parts_mut(address as *mut u8, LENGTH) };
    let copied = match content {
        Content::Kept => copy_content(source.0, to, found.size, buffer),
        Content::Dropped => Ok(()),
    };
    let copied = copied.and_then(|()| copy_attributes(source.0, to, buffer));
    kernel::unmap(address as u64, LENGTH);
    copied?;
    checked(call(n::FCHMOD, [to as u64, u64::from(found.mode) & 0o7777, 0, 0, 0, 0]))?;
    // What was emptied was emptied now.
    if content == Content::Kept { set_times(to, found) } else { Ok(()) }
}

/// Copies what is written; holes stay holes.
fn copy_content(from: i32, to: i32, size: u64, buffer: &mut [u8]) -> Result<(), Answer> {
    const SET: u64 = 0;
    const DATA: u64 = 3;
    const HOLE: u64 = 4;
    let seek = |descriptor: i32, at: u64, how| call(n::LSEEK, [descriptor as u64, at, how, 0, 0, 0]);
    let mut at = 0;
    while at < size {
        let start = match seek(from, at, DATA) {
            ENXIO => break,
            // A file system that knows nothing of holes.
            start if start < 0 => at,
            start => start as u64,
        };
        let end = match seek(from, start, HOLE) {
            end if end as u64 > start && end > 0 => end as u64,
            _ => size,
        };
        checked(seek(from, start, SET))?;
        checked(seek(to, start, SET))?;
        copy_range(from, to, end - start, buffer)?;
        at = end;
    }
    checked(call(n::FTRUNCATE, [to as u64, size, 0, 0, 0, 0])).map(drop)
}

fn copy_range(from: i32, to: i32, mut left: u64, buffer: &mut [u8]) -> Result<(), Answer> {
    while left > 0 {
        match call(n::COPY_FILE_RANGE, [from as u64, 0, to as u64, 0, left.min(1 << 30), 0]) {
            0 => return Ok(()),
            EINTR => {}
            // Not here, or no room: writing will say so again.
            errno if errno < 0 => break,
            count => left -= count as u64,
        }
    }
    while left > 0 {
        let wanted = left.min(buffer.len() as u64);
        let length = match call(n::READ, [from as u64, buffer.as_mut_ptr() as u64, wanted, 0, 0, 0]) {
            0 => return Ok(()),
            EINTR => continue,
            length => checked(length)? as usize,
        };
        let mut written = 0;
        while written < length {
            match kernel::write(to, &buffer[written..length]) {
                EINTR => {}
                count => written += checked(count)? as usize,
            }
        }
        left -= length as u64;
    }
    Ok(())
}

fn copy_attributes(from: i32, to: i32, buffer: &mut [u8]) -> Result<(), Answer> {
    let (names, value) = buffer.split_at_mut(buffer.len() / 2);
    let names = match call(n::FLISTXATTR, [from as u64, names.as_mut_ptr() as u64, names.len() as u64, 0, 0, 0]) {
        EOPNOTSUPP => return Ok(()),
        length => &names[..checked(length)? as usize],
    };
    for name in names.split_inclusive(|byte| *byte == 0) {
        let place = value.as_mut_ptr() as u64;
        let arguments = |descriptor: i32, length| [descriptor as u64, name.as_ptr() as u64, place, length, 0, 0];
        let length = match call(n::FGETXATTR, arguments(from, value.len() as u64)) {
            // Another process has just removed it.
            ENODATA => continue,
            length => checked(length)?,
        };
        let set = call(n::FSETXATTR, arguments(to, length as u64));
        // Others may be the host's, as labels of SELinux are.
        if name.starts_with(b"user.") {
            checked(set)?;
        }
    }
    Ok(())
}

fn set_times(descriptor: i32, of: &Statx) -> Result<(), Answer> {
    let times = [of.access_time, of.modify_time];
    checked(call(n::UTIMENSAT, [descriptor as u64, 0, times.as_ptr() as u64, 0, 0, 0])).map(drop)
}
