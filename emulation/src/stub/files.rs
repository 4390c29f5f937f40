//! Calls that name files: found below the root, done by the kernel, shown with the owners on record.

use super::arch::{O_DIRECTORY, O_NOFOLLOW, number as n};
use super::kernel::{
    self, AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, Answer, EACCES, EEXIST, EFAULT, EINVAL, ELOOP,
    ENAMETOOLONG, ENOENT, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM, ERANGE, O_CREAT, O_EXCL, O_PATH, O_RDWR, O_TMPFILE, O_TRUNC,
    O_WRONLY, Stat, Statx, call,
};
use super::ownership::{self, Object, created, permits, record_of};
use super::path::{self, Place};
use super::scratch::Scratch;
use super::state::{ROOT_DESCRIPTOR, change, state};
use super::text::{self, Text};
use crate::record::{self, BLOCK, CHARACTER, DIRECTORY, REGULAR, Record, TYPE};

/// Where the capabilities of a program are kept.
const CAPABILITY: &core::ffi::CStr = c"user.cofferdam.security.capability";

/// A descriptor of ours, closed when dropped.
struct Held(i32);

impl Drop for Held {
    fn drop(&mut self) {
        kernel::close(self.0);
    }
}

fn name_of(directory: i32, path: *const u8, follow: bool) -> Result<Held, Answer> {
    if path.is_null() {
        return Err(EFAULT);
    }
    let found = path::open_name(directory, path, follow);
    if found < 0 { Err(found) } else { Ok(Held(found as i32)) }
}

fn place(directory: i32, path: *const u8) -> Result<Place, Answer> {
    if path.is_null() { Err(EFAULT) } else { path::place(directory, path) }
}

/// As [`place`], for a name that is made: what is the host's stays as it is, whoever the builder is.
fn place_to_make(directory: i32, path: *const u8) -> Result<Place, Answer> {
    let place = place(directory, path)?;
    if !is_hosts(&place) {
        return Ok(place);
    }
    Err(if is_there(&place) { EEXIST } else { EPERM })
}

/// As [`place_to_make`], for a name that is taken away.
fn place_to_take(directory: i32, path: *const u8) -> Result<Place, Answer> {
    let place = place(directory, path)?;
    if !is_hosts(&place) {
        return Ok(place);
    }
    Err(if is_there(&place) { EPERM } else { ENOENT })
}

fn is_there(place: &Place) -> bool {
    Object::At(place.directory, place.name).stat(&mut Stat::empty()) == 0
}

/// Whether a place is on another file system than the root of the step: in /proc, /sys or /dev, though not in /dev/shm.
fn is_hosts(place: &Place) -> bool {
    // SAFETY: a place has a name.
    let name = unsafe { text::bytes(place.name) };
    if name.first() == Some(&b'/') {
        return !name.starts_with(b"/dev/shm/");
    }
    let device = |object: Object| {
        let mut real = Stat::empty();
        (object.stat(&mut real) == 0).then_some(real.device)
    };
    let here = if place.directory == AT_FDCWD {
        Object::At(AT_FDCWD, c".".as_ptr().cast())
    } else {
        Object::Descriptor(place.directory)
    };
    let here = device(here);
    let shared_memory = || device(Object::At(AT_FDCWD, c"/dev/shm".as_ptr().cast()));
    let devices = || device(Object::At(AT_FDCWD, c"/dev".as_ptr().cast()));
    here != device(Object::Descriptor(ROOT_DESCRIPTOR)) && (here != shared_memory() || here == devices())
}

/// Runs what gives an answer or fails with one.
fn answer(run: impl FnOnce() -> Result<Answer, Answer>) -> Answer {
    run().unwrap_or_else(|errno| errno)
}

fn is_empty(path: *const u8) -> bool {
    // SAFETY: the program's path; null is asked for by callers that know what it means.
    path.is_null() || unsafe { *path } == 0
}

/// Only the last part of a path: relative, without `/`, and not `.` or `..`.
fn is_single(path: *const u8) -> bool {
    // SAFETY: the program's path.
    let bytes = unsafe { text::bytes(path) };
    !bytes.is_empty() && !bytes.contains(&b'/') && bytes != b"." && bytes != b".."
}

/// `open`, `openat`, `creat`.
pub(crate) fn open(directory: i32, path: *const u8, flags: u64, mode: u64) -> Answer {
    if path.is_null() {
        return EFAULT;
    }
    if flags & O_TMPFILE != 0 {
        let made = open_existing_directory_for_temporary(directory, path, flags, mode);
        if made >= 0 {
            let mode = (mode as u32) & 0o7777 & !state().umask;
            created(Object::Descriptor(made as i32), None, REGULAR, mode, 0);
        }
        return made;
    }
    let known = state().credentials.user.filesystem == 0;
    if flags & O_CREAT == 0 {
        if !known && flags & O_PATH == 0 {
            let wanted = match flags & 3 {
                O_WRONLY => 2,
                O_RDWR => 6,
                _ => 4,
            };
            let allowed = check(directory, path, wanted | if flags & O_TRUNC != 0 { 2 } else { 0 }, flags & O_NOFOLLOW == 0);
            if allowed == EACCES {
                return EACCES;
            }
        }
        let opened = path::open(directory, path, flags);
        if opened >= 0 && flags & (O_WRONLY | O_RDWR) != 0 {
            // What is written to loses its capabilities.
            let name = CAPABILITY.as_ptr() as u64;
            call(n::FREMOVEXATTR, [opened as u64, name, 0, 0, 0, 0]);
        }
        return opened;
    }
    answer(|| create(directory, path, flags, mode))
}

/// `O_TMPFILE`: the path is a directory, and the file has no name yet.
fn open_existing_directory_for_temporary(directory: i32, path: *const u8, flags: u64, mode: u64) -> Answer {
    match name_of(directory, path, true) {
        Ok(place) => kernel::openat(place.0, c".".as_ptr().cast(), flags, mode & 0o777 | 0o600),
        Err(errno) => errno,
    }
}

fn create(directory: i32, path: *const u8, flags: u64, mode: u64) -> Result<Answer, Answer> {
    let place = place(directory, path)?;
    let real_mode = mode & 0o777 | 0o600;
    for _ in 0..8 {
        let made = kernel::openat(place.directory, place.name, flags | O_EXCL | O_NOFOLLOW, real_mode);
        if made >= 0 {
            if place.directory == AT_FDCWD && path::is_passed(unsafe_bytes(place.name)) {
                return Ok(made);
            }
            if state().credentials.user.filesystem != 0 && check(place.directory, c".".as_ptr().cast(), 2, true) == EACCES {
                call(n::UNLINKAT, [place.directory as u64, place.name as u64, 0, 0, 0, 0]);
                kernel::close(made as i32);
                return Err(EACCES);
            }
            let mode = (mode as u32) & 0o7777 & !state().umask;
            created(Object::Descriptor(made as i32), Some(parent(&place)), REGULAR, mode, 0);
            return Ok(made);
        }
        if made != EEXIST || flags & O_EXCL != 0 {
            return Err(made);
        }
        let found = open(directory, path, flags & !O_CREAT, 0);
        if found != ENOENT {
            return Ok(found);
        }
        // A link to what is not there yet.
        let made = path::walk_and_open(directory, unsafe_bytes(path), flags | O_EXCL, real_mode);
        if made >= 0 {
            let mode = (mode as u32) & 0o7777 & !state().umask;
            created(Object::Descriptor(made as i32), None, REGULAR, mode, 0);
        }
        if made != EEXIST {
            return Ok(made);
        }
    }
    Err(ELOOP)
}

fn unsafe_bytes<'a>(path: *const u8) -> &'a [u8] {
    // SAFETY: the program's path, which stays for the call.
    unsafe { text::bytes(path) }
}

fn parent(place: &Place) -> Object {
    if place.directory == AT_FDCWD { Object::At(AT_FDCWD, c".".as_ptr().cast()) } else { Object::Descriptor(place.directory) }
}

/// `openat2`: what a program asks of the resolution is left to the kernel where the directory is already inside.
pub(crate) fn open_how(directory: i32, path: *const u8, how: *const u64, length: u64) -> Answer {
    if how.is_null() || path.is_null() {
        return EFAULT;
    }
    if length < 24 {
        return EINVAL;
    }
    // SAFETY: the program's structure, of three numbers at least.
    let (flags, mode, resolve) = unsafe { (*how, *how.add(1), *how.add(2)) };
    if resolve == 0 {
        return open(directory, path, flags, mode);
    }
    if flags & O_CREAT != 0 || unsafe_bytes(path).first() == Some(&b'/') && resolve & 16 == 0 {
        return ENOSYS;
    }
    kernel::openat2(directory, path, flags, mode, resolve)
}

/// `stat` and its family.
pub(crate) fn stat(directory: i32, path: *const u8, out: *mut Stat, flags: u64) -> Answer {
    if out.is_null() || path.is_null() && flags & AT_EMPTY_PATH == 0 {
        return EFAULT;
    }
    let mut real = Stat::empty();
    let result = look(directory, path, flags, |object| {
        let looked = object.stat(&mut real);
        if looked == 0 {
            let record = record_of(object, &real);
            (real.mode, real.uid, real.gid) = (record.mode, record.uid, record.gid);
            if matches!(record.mode & TYPE, CHARACTER | BLOCK) {
                real.node = u64::from(record.device);
            }
        }
        looked
    });
    if result == 0 {
        // SAFETY: the program's structure.
        unsafe { *out = real };
    }
    result
}

/// Finds what a call that only looks speaks of, with as few calls as possible.
fn look(directory: i32, path: *const u8, flags: u64, then: impl FnOnce(Object) -> Answer) -> Answer {
    if is_empty(path) {
        return if flags & AT_EMPTY_PATH == 0 {
            ENOENT
        } else if directory == AT_FDCWD {
            then(Object::At(AT_FDCWD, c".".as_ptr().cast()))
        } else {
            then(Object::Descriptor(directory))
        };
    }
    if flags & AT_SYMLINK_NOFOLLOW != 0 && is_single(path) {
        return then(Object::At(directory, path));
    }
    match name_of(directory, path, flags & AT_SYMLINK_NOFOLLOW == 0) {
        Ok(held) => then(Object::Descriptor(held.0)),
        Err(errno) => errno,
    }
}

/// `statx`.
pub(crate) fn stat_extended(directory: i32, path: *const u8, flags: u64, mask: u64, out: *mut Statx) -> Answer {
    if out.is_null() {
        return EFAULT;
    }
    let mut found = Statx::empty();
    let asked = flags & 0x6000;
    let result = look(directory, path, flags, |object| {
        let mask = mask | kernel::STATX_OURS;
        let looked = match object {
            Object::Descriptor(descriptor) => {
                kernel::statx(descriptor, c"".as_ptr().cast(), AT_EMPTY_PATH | asked, mask, &mut found)
            }
            Object::At(directory, name) => kernel::statx(directory, name, AT_SYMLINK_NOFOLLOW | asked, mask, &mut found),
        };
        if looked == 0 {
            let mut real = Stat::empty();
            (real.mode, real.uid, real.gid) = (u32::from(found.mode), found.uid, found.gid);
            let record = record_of(object, &real);
            (found.mode, found.uid, found.gid) = (record.mode as u16, record.uid, record.gid);
            if record.device != 0 {
                found.node_major = record.device >> 8 & 0xfff;
                found.node_minor = record.device & 0xff | record.device >> 12 & 0xf_ff00;
            }
        }
        looked
    });
    if result == 0 {
        // SAFETY: the program's structure.
        unsafe { *out = found };
    }
    result
}

/// Whether the program may do something with a file; `EACCES` if not.
fn check(directory: i32, path: *const u8, wanted: u32, follow: bool) -> Answer {
    let mut real = Stat::empty();
    look(directory, path, if follow { 0 } else { AT_SYMLINK_NOFOLLOW }, |object| {
        let looked = object.stat(&mut real);
        if looked != 0 || real.uid != state().real_uid {
            return looked;
        }
        if permits(&record_of(object, &real), wanted) { 0 } else { EACCES }
    })
}

/// `access` and its family.
pub(crate) fn access(directory: i32, path: *const u8, wanted: u64, flags: u64) -> Answer {
    if path.is_null() {
        return EFAULT;
    }
    if wanted & !7 != 0 {
        return EINVAL;
    }
    let mut real = Stat::empty();
    look(directory, path, flags, |object| {
        let looked = object.stat(&mut real);
        if looked != 0 || wanted == 0 {
            return looked;
        }
        if real.uid == state().real_uid && state().passes() {
            return if permits(&record_of(object, &real), wanted as u32) { 0 } else { EACCES };
        }
        object.with_path(|path, _| call(n::FACCESSAT, [AT_FDCWD as u64, path as u64, wanted, 0, 0, 0]))
    })
}

/// `readlink`.
pub(crate) fn read_link(directory: i32, path: *const u8, out: *mut u8, length: u64) -> Answer {
    if path.is_null() || out.is_null() {
        return EFAULT;
    }
    if length as i64 <= 0 {
        return EINVAL;
    }
    let give = |target: &[u8]| {
        let count = target.len().min(length as usize);
        // SAFETY: the program's buffer, of that length.
        unsafe { core::ptr::copy_nonoverlapping(target.as_ptr(), out, count) };
        count as Answer
    };
    if path::is_own_program(unsafe_bytes(path)) {
        return give(state().shown(state().program_real.as_bytes()));
    }
    let Some(mut scratch) = Scratch::take() else { return ENOMEM };
    let (buffer, _) = scratch.halves();
    let read = if is_empty(path) {
        kernel::readlinkat(directory, path, buffer)
    } else {
        match path::place(directory, path) {
            Ok(place) => {
                let read = kernel::readlinkat(place.directory, place.name, buffer);
                // `self/exe` from /proc is the stub for the kernel.
                if read == state().stub.as_bytes().len() as Answer && &buffer[..read as usize] == state().stub.as_bytes() {
                    return give(state().shown(state().program_real.as_bytes()));
                }
                read
            }
            Err(errno) => errno,
        }
    };
    if read < 0 {
        return read;
    }
    let target = &buffer[..read as usize];
    // A link that the kernel made up (`/proc/self/cwd`) speaks of the host; no link of an image does.
    give(state().shown(target))
}

/// `mkdir`.
pub(crate) fn make_directory(directory: i32, path: *const u8, mode: u64) -> Answer {
    answer(|| {
        let place = place_to_make(directory, path)?;
        let made = call(n::MKDIRAT, [place.directory as u64, place.name as u64, mode & 0o777 | 0o700, 0, 0, 0]);
        if made == 0 {
            let object = Object::At(place.directory, place.name);
            created(object, Some(parent(&place)), DIRECTORY, (mode as u32) & 0o1777 & !state().umask, 0);
        }
        Ok(made)
    })
}

/// `mknod`: a device is an empty file with a record.
pub(crate) fn make_node(directory: i32, path: *const u8, mode: u64, device: u64) -> Answer {
    answer(|| {
        let mode = mode as u32;
        let kind = if mode & TYPE == 0 { REGULAR } else { mode & TYPE };
        let is_device = matches!(kind, CHARACTER | BLOCK);
        if is_device && !state().credentials.is_privileged() {
            return Err(EPERM);
        }
        let place = place_to_make(directory, path)?;
        let real = if is_device { REGULAR } else { kind };
        let real_mode = u64::from(real | mode & 0o777 | 0o600);
        let made = call(n::MKNODAT, [place.directory as u64, place.name as u64, real_mode, 0, 0, 0]);
        if made == 0 {
            let object = Object::At(place.directory, place.name);
            let device = if is_device { device as u32 } else { 0 };
            created(object, Some(parent(&place)), kind, mode & 0o7777 & !state().umask, device);
        }
        Ok(made)
    })
}

/// `symlink`.
pub(crate) fn make_link(target: *const u8, directory: i32, path: *const u8) -> Answer {
    answer(|| {
        let place = place_to_make(directory, path)?;
        let made = call(n::SYMLINKAT, [target as u64, place.directory as u64, place.name as u64, 0, 0, 0]);
        if made == 0 {
            created(Object::At(place.directory, place.name), Some(parent(&place)), 0o120_000, 0o777, 0);
        }
        Ok(made)
    })
}

/// `link`.
pub(crate) fn link(from: i32, path: *const u8, to: i32, new: *const u8, flags: u64) -> Answer {
    answer(|| {
        let new = place_to_make(to, new)?;
        if flags & AT_EMPTY_PATH != 0 && is_empty(path) || flags & AT_SYMLINK_FOLLOW != 0 {
            let held = if is_empty(path) { None } else { Some(name_of(from, path, true)?) };
            let descriptor = super::text::DescriptorPath::new(held.as_ref().map_or(from, |held| held.0));
            let arguments =
                [AT_FDCWD as u64, descriptor.as_ptr() as u64, new.directory as u64, new.name as u64, AT_SYMLINK_FOLLOW, 0];
            return Ok(call(n::LINKAT, arguments));
        }
        let old = place(from, path)?;
        Ok(call(n::LINKAT, [old.directory as u64, old.name as u64, new.directory as u64, new.name as u64, 0, 0]))
    })
}

/// `rename`.
pub(crate) fn rename(from: i32, path: *const u8, to: i32, new: *const u8, flags: u64) -> Answer {
    answer(|| {
        let (old, new) =
            (place_to_take(from, path)?, place_to_make(to, new).map_err(|errno| if errno == EEXIST { EPERM } else { errno })?);
        Ok(call(n::RENAMEAT2, [old.directory as u64, old.name as u64, new.directory as u64, new.name as u64, flags, 0]))
    })
}

/// `unlink`, `rmdir`.
pub(crate) fn remove(directory: i32, path: *const u8, flags: u64) -> Answer {
    answer(|| {
        let place = place_to_take(directory, path)?;
        if state().credentials.user.filesystem != 0 {
            forbids_removal(&place)?;
        }
        Ok(call(n::UNLINKAT, [place.directory as u64, place.name as u64, flags, 0, 0, 0]))
    })
}

/// What a directory forbids others than root.
fn forbids_removal(place: &Place) -> Result<(), Answer> {
    if place.directory == AT_FDCWD {
        return Ok(());
    }
    let mut real = Stat::empty();
    let object = Object::Descriptor(place.directory);
    if object.stat(&mut real) == 0 && real.uid == state().real_uid && !permits(&record_of(object, &real), 3) {
        return Err(EACCES);
    }
    Ok(())
}

/// What a change of attributes speaks of: an open descriptor of the program's, or a name of ours.
fn subject(directory: i32, path: *const u8, flags: u64) -> Result<(i32, Option<Held>), Answer> {
    if path.is_null() || is_empty(path) && flags & AT_EMPTY_PATH != 0 {
        return Ok((directory, None));
    }
    let held = name_of(directory, path, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    Ok((held.0, Some(held)))
}

/// `chmod` and its family; no path stands for the descriptor itself.
pub(crate) fn change_mode(directory: i32, path: *const u8, mode: u64, flags: u64) -> Answer {
    answer(|| {
        let (descriptor, _held) = subject(directory, path, flags)?;
        let object = Object::Descriptor(descriptor);
        let mut real = Stat::empty();
        let looked = object.stat(&mut real);
        if looked != 0 {
            return Err(looked);
        }
        if real.mode & TYPE == 0o120_000 {
            return Err(EOPNOTSUPP);
        }
        let before = record_of(object, &real);
        let who = &state().credentials;
        if !who.is_privileged() && before.uid != who.user.filesystem {
            return Err(EPERM);
        }
        let mut mode = (mode as u32) & 0o7777;
        if !who.is_privileged() && !who.is_in_group(before.gid) {
            mode &= !0o2000;
        }
        Ok(ownership::store(object, &real, Record { mode: before.mode & TYPE | mode, ..before }))
    })
}

/// `chown` and its family.
pub(crate) fn change_owner(directory: i32, path: *const u8, uid: u32, gid: u32, flags: u64) -> Answer {
    answer(|| {
        let (descriptor, _held) = subject(directory, path, flags)?;
        let object = Object::Descriptor(descriptor);
        let mut real = Stat::empty();
        let looked = object.stat(&mut real);
        if looked != 0 {
            return Err(looked);
        }
        let before = record_of(object, &real);
        let mut after = before;
        if uid != u32::MAX {
            after.uid = uid;
        }
        if gid != u32::MAX {
            after.gid = gid;
        }
        let who = &state().credentials;
        if !who.is_privileged()
            && (after.uid != before.uid
                || before.uid != who.user.filesystem
                || after.gid != before.gid && !who.is_in_group(after.gid))
        {
            return Err(EPERM);
        }
        if real.uid != state().real_uid {
            return if after == before { Ok(0) } else { Err(EPERM) };
        }
        if real.mode & TYPE == REGULAR {
            if before.mode & 0o111 != 0 || !who.is_privileged() {
                after.mode &= !0o4000;
            }
            if before.mode & 0o2010 == 0o2010 {
                after.mode &= !0o2000;
            }
        }
        if after == before {
            return Ok(0);
        }
        object.with_path(|path, _| call(n::REMOVEXATTR, [path as u64, CAPABILITY.as_ptr() as u64, 0, 0, 0, 0]));
        Ok(ownership::store(object, &real, after))
    })
}

/// `utimensat` and its ancestors: `number` is the call, which takes a path as its `at`-th argument.
pub(crate) fn change_times(number: i64, directory: i32, path: *const u8, times: u64, flags: u64) -> Answer {
    answer(|| {
        if path.is_null() {
            return Ok(call(number, [directory as u64, 0, times, flags, 0, 0]));
        }
        if number == n::UTIMENSAT && flags & AT_SYMLINK_NOFOLLOW != 0 && is_single(path) {
            return Ok(call(number, [directory as u64, path as u64, times, flags, 0, 0]));
        }
        let (descriptor, _held) = subject(directory, path, flags)?;
        let object = Object::Descriptor(descriptor);
        let mut real = Stat::empty();
        if flags & AT_SYMLINK_NOFOLLOW != 0 && object.stat(&mut real) == 0 && real.mode & TYPE == 0o120_000 {
            let place = place(directory, path)?;
            let arguments = [place.directory as u64, place.name as u64, times, AT_SYMLINK_NOFOLLOW, 0, 0];
            return Ok(call(n::UTIMENSAT, arguments));
        }
        Ok(object.with_path(|path, _| match number {
            n::UTIME | n::UTIMES => call(number, [path as u64, times, 0, 0, 0, 0]),
            _ => call(number, [AT_FDCWD as u64, path as u64, times, 0, 0, 0]),
        }))
    })
}

/// Calls of one path that is followed, and whose other arguments the kernel understands: `truncate`, `statfs`.
pub(crate) fn by_name(number: i64, path: *const u8, argument: u64) -> Answer {
    answer(|| {
        let held = name_of(AT_FDCWD, path, true)?;
        Ok(Object::Descriptor(held.0).with_path(|path, _| call(number, [path as u64, argument, 0, 0, 0, 0])))
    })
}

/// `inotify_add_watch`.
pub(crate) fn watch(descriptor: u64, path: *const u8, mask: u64) -> Answer {
    answer(|| {
        let held = name_of(AT_FDCWD, path, mask & 0x0200_0000 == 0)?;
        let mask = mask & !0x0200_0000;
        Ok(Object::Descriptor(held.0).with_path(|path, _| call(n::INOTIFY_ADD_WATCH, [descriptor, path as u64, mask, 0, 0, 0])))
    })
}

/// `chdir`.
pub(crate) fn change_directory(path: *const u8) -> Answer {
    answer(|| {
        if path.is_null() {
            return Err(EFAULT);
        }
        let found = path::open(AT_FDCWD, path, O_PATH | O_DIRECTORY | kernel::O_CLOEXEC);
        if found < 0 {
            return Err(found);
        }
        let held = Held(found as i32);
        // Where the root has a directory for what is the host's, that is meant.
        let mut buffer = [0; 64];
        let length = kernel::readlinkat(AT_FDCWD, text::DescriptorPath::new(held.0).as_ptr(), &mut buffer);
        let root = state().root.as_bytes().len();
        if state().passes() && length > root as Answer && (length as usize) < buffer.len() {
            let shown = state().shown(&buffer[..length as usize]);
            if shown.len() == length as usize - root && path::is_passed(shown) {
                let mut own = [0; 64];
                return Ok(call(n::CHDIR, [Text::new(&mut own).put(shown).as_ptr() as u64, 0, 0, 0, 0, 0]));
            }
        }
        Ok(call(n::FCHDIR, [held.0 as u64, 0, 0, 0, 0, 0]))
    })
}

/// `chroot`: another directory takes the place of the root.
pub(crate) fn change_root(path: *const u8) -> Answer {
    answer(|| {
        if !state().credentials.is_privileged() {
            return Err(EPERM);
        }
        let held = name_of(AT_FDCWD, path, true)?;
        let mut stat = Stat::empty();
        Object::Descriptor(held.0).stat(&mut stat);
        if stat.mode & TYPE != DIRECTORY {
            return Err(kernel::ENOTDIR);
        }
        let mut scratch = Scratch::take().ok_or(ENOMEM)?;
        let (buffer, _) = scratch.halves();
        let length = kernel::readlinkat(AT_FDCWD, text::DescriptorPath::new(held.0).as_ptr(), buffer);
        if length < 0 {
            return Err(length);
        }
        let real = &buffer[..length as usize];
        // Only what lies in the root of the step.
        if !real.starts_with(state().base.as_bytes()) {
            return Err(EPERM);
        }
        if !change().root.set(real) {
            return Err(ENAMETOOLONG);
        }
        Ok(call(n::DUP3, [held.0 as u64, ROOT_DESCRIPTOR as u64, 0, 0, 0, 0]).min(0))
    })
}

/// `getcwd`.
pub(crate) fn working_directory(out: *mut u8, length: u64) -> Answer {
    let Some(mut scratch) = Scratch::take() else { return ENOMEM };
    let (buffer, _) = scratch.halves();
    let found = kernel::getcwd(buffer);
    if found <= 0 {
        return found;
    }
    let shown = state().shown(&buffer[..found as usize - 1]);
    if shown.len() as u64 >= length {
        return ERANGE;
    }
    // SAFETY: the program's buffer, of that length.
    unsafe {
        core::ptr::copy_nonoverlapping(shown.as_ptr(), out, shown.len());
        *out.add(shown.len()) = 0;
    }
    shown.len() as Answer + 1
}

/// The extended attributes: those that only root may set are kept under a name of ours. `number` is the call.
pub(crate) fn attribute(number: i64, arguments: [u64; 6]) -> Answer {
    answer(|| {
        let by_descriptor = matches!(number, n::FSETXATTR | n::FGETXATTR | n::FLISTXATTR | n::FREMOVEXATTR);
        let follow = !matches!(number, n::LSETXATTR | n::LGETXATTR | n::LLISTXATTR | n::LREMOVEXATTR);
        let held;
        let descriptor = if by_descriptor {
            arguments[0] as i32
        } else {
            held = name_of(AT_FDCWD, arguments[0] as *const u8, follow)?;
            held.0
        };
        Object::Descriptor(descriptor).with_path(|path, _| {
            let [_, b, c, d, e, _] = arguments;
            match number {
                n::LISTXATTR | n::LLISTXATTR | n::FLISTXATTR => Ok(list_attributes(path, b as *mut u8, c)),
                _ => with_attribute_name(b as *const u8, |name, is_ours| match number {
                    n::SETXATTR | n::LSETXATTR | n::FSETXATTR => {
                        if is_ours && !state().credentials.is_privileged() {
                            return EPERM;
                        }
                        call(n::SETXATTR, [path as u64, name as u64, c, d, e, 0])
                    }
                    n::GETXATTR | n::LGETXATTR | n::FGETXATTR => call(n::GETXATTR, [path as u64, name as u64, c, d, 0, 0]),
                    _ => call(n::REMOVEXATTR, [path as u64, name as u64, 0, 0, 0, 0]),
                }),
            }
        })
    })
}

fn with_attribute_name(name: *const u8, then: impl FnOnce(*const u8, bool) -> Answer) -> Result<Answer, Answer> {
    if name.is_null() {
        return Err(EFAULT);
    }
    let bytes = unsafe_bytes(name);
    if bytes.starts_with(b"user.cofferdam") {
        return Err(EPERM);
    }
    if !bytes.starts_with(b"security.") && !bytes.starts_with(b"trusted.") {
        return Ok(then(name, false));
    }
    let mut buffer = [0; 272];
    let mut text = Text::new(&mut buffer);
    text.put(record::ATTRIBUTE_PREFIX).put(bytes);
    if text.fits() { Ok(then(text.as_ptr(), true)) } else { Err(ERANGE) }
}

fn list_attributes(path: *const u8, out: *mut u8, length: u64) -> Answer {
    let found = call(n::LISTXATTR, [path as u64, out as u64, length, 0, 0, 0]);
    if found <= 0 || length == 0 {
        return found;
    }
    // SAFETY: the program's buffer, which the kernel has filled so far.
    let list = unsafe { core::slice::from_raw_parts_mut(out, found as usize) };
    let (mut from, mut to) = (0, 0);
    while from < list.len() {
        let end = list[from..].iter().position(|byte| *byte == 0).map_or(list.len(), |zero| from + zero + 1);
        let name = &list[from..end];
        if name != record::ATTRIBUTE.to_bytes_with_nul() {
            let skip = if name.starts_with(record::ATTRIBUTE_PREFIX) { record::ATTRIBUTE_PREFIX.len() } else { 0 };
            list.copy_within(from + skip..end, to);
            to += end - from - skip;
        }
        from = end;
    }
    to as Answer
}
