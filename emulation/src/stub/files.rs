//! Calls that name files: found below the root, done by the kernel, shown with the owners on record.

use super::arch::{O_DIRECTORY, O_NOFOLLOW, number as n};
use super::identity::Capability;
use super::kernel::{
    self, AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, Answer, E2BIG, EACCES, EEXIST, EFAULT, EINVAL, ELOOP,
    ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EOPNOTSUPP, EPERM, ERANGE, Held, O_CLOEXEC, O_CREAT, O_EXCL, O_PATH, O_RDWR,
    O_TMPFILE, O_TRUNC, O_WRONLY, RESOLVE_BENEATH, RESOLVE_IN_ROOT, Stat, Statx, call,
};
use super::known::{self, Way};
use super::ownership::{self, Attribute, Object, created, is_outside, permits, permits_real, record_of};
use super::path::{self, Place};
use super::scratch::Scratch;
use super::state::{ROOT_DESCRIPTOR, change, setting, state};
use super::text::{self, Text};
use super::{links, memory, proc};
use crate::record::{self, BLOCK, CHARACTER, DIRECTORY, LINK, REGULAR, Record, TYPE};

/// The flag by which `unlinkat` removes a directory.
pub(crate) const REMOVE_DIRECTORY: u64 = 0x200;
/// Where the capabilities of a program are kept.
pub(crate) const CAPABILITY: &core::ffi::CStr = c"user.cofferdam.security.capability";

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

/// A place whose directory was looked at.
struct Seen {
    place: Place,
    above: Stat,
}

impl core::ops::Deref for Seen {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Seen {
    /// The directory and what the disk says of it.
    fn parent(&self) -> (Object, &Stat) {
        (self.place.parent(), &self.above)
    }

    fn is_there(&self) -> bool {
        Object::At(self.directory, self.name).stat(&mut Stat::empty()) == 0
    }

    /// Whether it is the host's: in /proc, /sys or /dev, though not in /dev/shm.
    fn is_hosts(&self) -> bool {
        if self.is_inside {
            return false;
        }
        let name = unsafe_bytes(self.name);
        if self.directory == AT_FDCWD && name.first() == Some(&b'/') {
            return !name.starts_with(b"/dev/shm/");
        }
        is_outside(self.above.device)
            && (self.above.device != device_of(c"/dev/shm") || device_of(c"/dev/shm") == device_of(c"/dev"))
    }

    /// Whether the program may make or remove names here.
    fn allows_change(&self) -> bool {
        state().credentials.may(Capability::OverrideModes)
            || self.above.uid != setting().real_uid
            || permits(&record_of(self.place.parent(), &self.above), 3)
    }
}

/// As [`seen`], where nothing of the directory matters: root removes what is in the root.
fn seen_to_take(place: Place) -> Result<Seen, Answer> {
    let who = &state().credentials;
    if place.is_inside && who.may(Capability::OverrideModes) && who.may(Capability::OwnAll) {
        return Ok(Seen { place, above: Stat::empty() });
    }
    look_above(place)
}

fn look_above(place: Place) -> Result<Seen, Answer> {
    let mut above = Stat::empty();
    let looked = place.parent().stat(&mut above);
    if looked < 0 { Err(looked) } else { Ok(Seen { place, above }) }
}

fn seen(directory: i32, path: *const u8) -> Result<Seen, Answer> {
    look_above(place(directory, path)?)
}

/// A place where a name is made: what is the host's stays as it is, whoever the builder is.
fn place_to_make(directory: i32, path: *const u8) -> Result<Seen, Answer> {
    allowed_to_make(seen(directory, path)?)
}

fn allowed_to_make(seen: Seen) -> Result<Seen, Answer> {
    let refused = if seen.is_hosts() {
        EPERM
    } else if seen.allows_change() {
        return Ok(seen);
    } else {
        EACCES
    };
    Err(if seen.is_there() { EEXIST } else { refused })
}

/// A place where a name is taken away.
fn place_to_take(directory: i32, path: *const u8) -> Result<Seen, Answer> {
    allowed_to_take(seen_to_take(place(directory, path)?)?)
}

fn allowed_to_take(seen: Seen) -> Result<Seen, Answer> {
    if seen.is_hosts() {
        return Err(if seen.is_there() { EPERM } else { ENOENT });
    }
    if !seen.allows_change() {
        return Err(if seen.is_there() { EACCES } else { ENOENT });
    }
    if seen.above.mode & record::MARK != 0 && !state().credentials.may(Capability::OwnAll) {
        // Of a sticky directory only owners remove something.
        let above = record_of(seen.place.parent(), &seen.above);
        let object = Object::At(seen.directory, seen.name);
        let mut real = Stat::empty();
        let own = state().credentials.user.filesystem;
        if above.mode & 0o1000 != 0 && above.uid != own && object.stat(&mut real) == 0 && record_of(object, &real).uid != own {
            return Err(EPERM);
        }
    }
    Ok(seen)
}

/// Number of the file system at a path of the host.
fn device_of(path: &core::ffi::CStr) -> u64 {
    let mut real = Stat::empty();
    if Object::At(AT_FDCWD, path.as_ptr().cast()).stat(&mut real) == 0 { real.device } else { 0 }
}

/// Whether something is in the host's /dev, which is not the step's to change. In the root no device is one for the disk.
fn is_hosts_device(real: &Stat) -> bool {
    matches!(real.mode & TYPE, CHARACTER | BLOCK) || is_outside(real.device) && real.device == device_of(c"/dev")
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
    !bytes.is_empty() && text::find(bytes, b'/').is_none() && bytes != b"." && bytes != b".."
}

/// `open`, `openat`, `creat`.
pub(crate) fn open(directory: i32, path: *const u8, flags: u64, mode: u64) -> Answer {
    if path.is_null() {
        return EFAULT;
    }
    // With a name only, nothing is made or emptied.
    let flags = if flags & O_PATH != 0 { flags & !(O_CREAT | O_EXCL | O_TRUNC | O_TMPFILE) } else { flags };
    if flags & O_TMPFILE != 0 {
        return answer(|| make_nameless(directory, path, flags, mode));
    }
    if flags & O_CREAT != 0 {
        return answer(|| create(directory, path, flags, mode));
    }
    if flags & O_PATH == 0 && !state().credentials.may(Capability::OverrideModes) {
        let allowed = check(directory, path, wanted_by(flags), flags & O_NOFOLLOW == 0);
        if allowed == EACCES {
            return EACCES;
        }
    }
    open_existing(flags, |flags| path::open(directory, path, flags))
}

/// Opens what is there by `open`.
fn open_existing(flags: u64, open: impl Fn(u64) -> Answer) -> Answer {
    if flags & (O_WRONLY | O_RDWR | O_TRUNC) == 0 || flags & O_PATH != 0 {
        return open(flags);
    }
    let opened = if setting().has_links { links::open_separated(flags, open) } else { open(flags) };
    if opened >= 0 {
        // What is written to loses its capabilities.
        call(n::FREMOVEXATTR, [opened as u64, CAPABILITY.as_ptr() as u64, 0, 0, 0, 0]);
    }
    opened
}

/// `O_TMPFILE`: the path is a directory, and the file has no name yet.
fn make_nameless(directory: i32, path: *const u8, flags: u64, mode: u64) -> Result<Answer, Answer> {
    let mut held = name_of(directory, path, true)?;
    let above = Object::Descriptor(held.0);
    let (real, record) = looked_at(above)?;
    if real.uid == setting().real_uid && !permits(&record, 3) {
        return Err(EACCES);
    }
    let mode = (mode as u32) & 0o7777 & !state().umask;
    let made = kernel::openat(held.0, c".".as_ptr().cast(), flags, record::made_mode(mode).into());
    if made >= 0 {
        created(Object::Descriptor(made as i32), Some((above, &real)), REGULAR, mode, 0);
        return Ok(kernel::lowest(made, core::mem::replace(&mut held.0, -1), flags));
    }
    Ok(made)
}

fn create(directory: i32, path: *const u8, flags: u64, mode: u64) -> Result<Answer, Answer> {
    if let Some(made) = create_plainly(directory, path, flags, mode) {
        return Ok(made);
    }
    let mut seen = seen(directory, path)?;
    let opened = create_at(&seen, directory, path, flags, mode)?;
    Ok(match seen.place.give_up() {
        Some(held) if opened >= 0 => kernel::lowest(opened, held, flags),
        Some(held) => {
            kernel::close(held);
            opened
        }
        None => opened,
    })
}

/// Creates a file of root's in a directory of the root to which no link leads: with two calls, where the general way needs five.
/// `None` if it is not that simple, and nothing was made.
fn create_plainly(directory: i32, path: *const u8, flags: u64, mode: u64) -> Option<Answer> {
    if !state().credentials.may(Capability::OverrideModes) {
        return None;
    }
    let walk = path::plain_walk(directory, unsafe_bytes(path))?;
    let parent = walk.parent();
    let mut above = Stat::empty();
    // Should a link lead to this, then nothing is made either.
    if parent.stat(&mut above) != 0 || above.mode & TYPE != DIRECTORY || is_outside(above.device) {
        return None;
    }
    let recorded_mode = (mode as u32) & 0o7777 & !state().umask;
    let made = walk.open(flags | O_EXCL | O_NOFOLLOW, record::made_mode(recorded_mode).into());
    if made >= 0 {
        created(Object::Descriptor(made as i32), Some((parent, &above)), REGULAR, recorded_mode, 0);
        return Some(made);
    }
    match made {
        EEXIST if flags & O_EXCL != 0 => Some(made),
        // A link may be there that leads to nothing yet.
        EEXIST => Some(open(directory, path, flags & !O_CREAT, 0)).filter(|found| *found != ENOENT),
        _ => None,
    }
}

fn create_at(seen: &Seen, directory: i32, path: *const u8, flags: u64, mode: u64) -> Result<Answer, Answer> {
    let recorded_mode = (mode as u32) & 0o7777 & !state().umask;
    let real_mode = record::made_mode(recorded_mode).into();
    let refused = if seen.is_hosts() {
        Some(EPERM)
    } else if seen.allows_change() {
        None
    } else {
        Some(EACCES)
    };
    for _ in 0..8 {
        let made = match refused {
            None => kernel::openat(seen.directory, seen.name, flags | O_EXCL | O_NOFOLLOW, real_mode),
            Some(_) if seen.is_there() => EEXIST,
            Some(errno) => errno,
        };
        if made >= 0 {
            created(Object::Descriptor(made as i32), Some(seen.parent()), REGULAR, recorded_mode, 0);
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
            created(Object::Descriptor(made as i32), None, REGULAR, recorded_mode, 0);
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

/// `openat2`: what a program asks of the resolution is left to the kernel, which is told to stay in the root besides.
pub(crate) fn open_how(directory: i32, path: *const u8, how: *const u64, length: u64) -> Answer {
    const KNOWN_FLAGS: u64 = 0o37_777_703;
    const KNOWN_RESOLVE: u64 = 0x3f;
    if path.is_null() {
        return EFAULT;
    }
    if length < 24 {
        return EINVAL;
    }
    let mut bytes = [0; 24];
    if length > 24 || !memory::read(how as u64, &mut bytes) {
        return if length > 24 { E2BIG } else { EFAULT };
    }
    let [flags, mode, resolve] = [0, 8, 16].map(|at| bytes[at..].first_chunk().map_or(0, |word| u64::from_ne_bytes(*word)));
    let creates = flags & (O_CREAT | O_TMPFILE) != 0;
    let confines = RESOLVE_BENEATH | RESOLVE_IN_ROOT;
    if flags & !KNOWN_FLAGS != 0
        || flags & O_PATH != 0 && flags & (O_CREAT | O_EXCL | O_TRUNC | O_TMPFILE) != 0
        || resolve & !KNOWN_RESOLVE != 0
        || mode & !0o7777 != 0
        || mode != 0 && !creates
        || resolve & confines == confines
    {
        return EINVAL;
    }
    if resolve == 0 {
        return open(directory, path, flags, mode);
    }
    let absolute = unsafe_bytes(path).first() == Some(&b'/');
    let (mut directory, mut resolve) = (directory, resolve);
    if resolve & confines == 0 {
        if absolute && path::is_passed(unsafe_bytes(path)) && state().passes() {
            return if creates { EPERM } else { kernel::openat2(AT_FDCWD, path, flags, 0, resolve) };
        }
        if absolute {
            directory = ROOT_DESCRIPTOR;
        }
        resolve |= if absolute { RESOLVE_IN_ROOT } else { RESOLVE_BENEATH };
    }
    let wanted_mode = (mode as u32) & 0o7777 & !state().umask;
    let own_mode = record::made_mode(wanted_mode).into();
    let made = if flags & O_CREAT != 0 { kernel::openat2(directory, path, flags | O_EXCL, own_mode, resolve) } else { EEXIST };
    if made >= 0 {
        created(Object::Descriptor(made as i32), None, REGULAR, wanted_mode, 0);
        return made;
    }
    if made != EEXIST || flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL {
        return made;
    }
    let open = |flags| kernel::openat2(directory, path, flags, own_mode, resolve);
    if flags & O_PATH == 0 && !state().credentials.may(Capability::OverrideModes) {
        // Before anything is opened: it could be emptied by that.
        let found = open(O_PATH | O_CLOEXEC | flags & O_NOFOLLOW);
        if found < 0 {
            return found;
        }
        let held = Held(found as i32);
        if judged(Object::Descriptor(held.0), wanted_by(flags), false) == EACCES {
            return EACCES;
        }
    }
    open_existing(flags & !O_CREAT, open)
}

/// What a program must be permitted to do with a file that it opens with these flags.
fn wanted_by(flags: u64) -> u32 {
    let wanted = match flags & 3 {
        O_WRONLY => 2,
        O_RDWR => 6,
        _ => 4,
    };
    wanted | if flags & O_TRUNC != 0 { 2 } else { 0 }
}

/// `stat` and its family.
pub(crate) fn stat(directory: i32, path: *const u8, out: *mut Stat, flags: u64) -> Answer {
    const KNOWN: u64 = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | 0x800;
    if path.is_null() && flags & AT_EMPTY_PATH == 0 {
        return EFAULT;
    }
    if flags & !KNOWN != 0 {
        return EINVAL;
    }
    look(directory, path, flags, |object, refuses_links| {
        // The kernel writes to the program's memory, or says that it is none.
        let looked = object.stat_to(out);
        if looked == 0 {
            // SAFETY: the kernel has just written there.
            let real = unsafe { &mut *out };
            if refuses_links && real.mode & TYPE == LINK {
                return ELOOP;
            }
            let record = record_of(object, real);
            (real.mode, real.uid, real.gid) = (record.mode, record.uid, record.gid);
            if matches!(record.mode & TYPE, CHARACTER | BLOCK) {
                real.node = u64::from(record.device);
            }
        }
        looked
    })
}

/// Finds what a call that only looks speaks of, with as few calls as possible. `then` says `ELOOP` of a link if it is told to refuse
/// them: what stands there is to be followed.
fn look(directory: i32, path: *const u8, flags: u64, then: impl Fn(Object, bool) -> Answer) -> Answer {
    if is_empty(path) {
        return if flags & AT_EMPTY_PATH == 0 {
            ENOENT
        } else if directory == AT_FDCWD {
            then(Object::At(AT_FDCWD, c".".as_ptr().cast()), false)
        } else {
            then(Object::Descriptor(directory), false)
        };
    }
    let follow = flags & AT_SYMLINK_NOFOLLOW == 0;
    let bytes = unsafe_bytes(path);
    if !follow && is_single(path) {
        let looked = then(Object::At(directory, path), false);
        if looked != ENOENT || !path::starts_in_devices(directory, bytes) {
            return looked;
        }
    }
    let found = match Way::of(directory, bytes) {
        None => path::open_name(directory, path, follow),
        Some(way) => {
            if way.is_known() {
                let looked = then(Object::At(way.directory, way.path), follow);
                if way.still_holds() && !matches!(looked, ELOOP | EACCES | ENOTDIR) {
                    return looked;
                }
            }
            path::open_name_along(&way, directory, path, bytes, follow)
        }
    };
    if found < 0 {
        return found;
    }
    let held = Held(found as i32);
    then(Object::Descriptor(held.0), false)
}

/// `statx`.
pub(crate) fn stat_extended(directory: i32, path: *const u8, flags: u64, mask: u64, out: *mut Statx) -> Answer {
    const KNOWN: u64 = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | 0x800 | 0x6000;
    if path.is_null() && flags & AT_EMPTY_PATH == 0 {
        return EFAULT;
    }
    if flags & !KNOWN != 0 {
        return EINVAL;
    }
    let asked = flags & 0x6000;
    look(directory, path, flags, |object, refuses_links| {
        let mask = mask | kernel::STATX_OURS;
        let looked = match object {
            Object::Descriptor(descriptor) => kernel::statx(descriptor, c"".as_ptr().cast(), AT_EMPTY_PATH | asked, mask, out),
            Object::At(directory, name) => kernel::statx(directory, name, AT_SYMLINK_NOFOLLOW | asked, mask, out),
        };
        if looked == 0 {
            // SAFETY: the kernel has just written there.
            let found = unsafe { &mut *out };
            if refuses_links && u32::from(found.mode) & TYPE == LINK {
                return ELOOP;
            }
            let mut real = Stat::empty();
            (real.mode, real.uid, real.gid) = (u32::from(found.mode), found.uid, found.gid);
            real.device = device_number(found.device_major, found.device_minor);
            real.node = device_number(found.node_major, found.node_minor);
            let record = record_of(object, &real);
            (found.mode, found.uid, found.gid) = (record.mode as u16, record.uid, record.gid);
            if record.device != 0 {
                found.node_major = record.device >> 8 & 0xfff;
                found.node_minor = record.device & 0xff | record.device >> 12 & 0xf_ff00;
            }
        }
        looked
    })
}

/// As `stat` has it.
fn device_number(major: u32, minor: u32) -> u64 {
    u64::from(major) << 8 | u64::from(minor & 0xff) | u64::from(minor >> 8) << 20
}

/// Whether the program may do something with a file; `EACCES` if not.
fn check(directory: i32, path: *const u8, wanted: u32, follow: bool) -> Answer {
    look(directory, path, if follow { 0 } else { AT_SYMLINK_NOFOLLOW }, |object, refuses_links| {
        judged(object, wanted, refuses_links)
    })
}

/// The same of what was found.
fn judged(object: Object, wanted: u32, refuses_links: bool) -> Answer {
    let mut real = Stat::empty();
    let looked = object.stat(&mut real);
    if looked == 0 && refuses_links && real.mode & TYPE == LINK {
        return ELOOP;
    }
    if looked != 0 || real.uid != setting().real_uid {
        return looked;
    }
    if permits(&record_of(object, &real), wanted) { 0 } else { EACCES }
}

/// `access` and its family.
pub(crate) fn access(directory: i32, path: *const u8, wanted: u64, flags: u64) -> Answer {
    const EFFECTIVE: u64 = 0x200;
    if path.is_null() {
        return EFAULT;
    }
    if wanted & !7 != 0 || flags & !(EFFECTIVE | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return EINVAL;
    }
    look(directory, path, flags, |object, refuses_links| {
        let mut real = Stat::empty();
        let looked = object.stat(&mut real);
        if looked == 0 && refuses_links && real.mode & TYPE == LINK {
            return ELOOP;
        }
        if looked != 0 || wanted == 0 {
            return looked;
        }
        if real.uid == setting().real_uid && !matches!(real.mode & TYPE, CHARACTER | BLOCK) {
            let record = record_of(object, &real);
            let allowed =
                if flags & EFFECTIVE != 0 { permits(&record, wanted as u32) } else { permits_real(&record, wanted as u32) };
            return if allowed { 0 } else { EACCES };
        }
        object.with_path(|path, _| call(n::FACCESSAT, [AT_FDCWD as u64, path as u64, wanted, 0, 0, 0]))
    })
}

/// `readlink`.
pub(crate) fn read_link(directory: i32, path: *const u8, out: *mut u8, length: u64) -> Answer {
    if path.is_null() {
        return EFAULT;
    }
    if length as i32 <= 0 {
        return EINVAL;
    }
    let give = |target: &[u8]| {
        let target = &target[..target.len().min(length as usize)];
        if memory::write(out as u64, target) { target.len() as Answer } else { EFAULT }
    };
    if is_empty(path) {
        return call(n::READLINKAT, [directory as u64, path as u64, out as u64, length, 0, 0]);
    }
    // What each program of a static C library asks at its start.
    if unsafe_bytes(path) == b"/proc/self/exe" && state().passes() {
        return give(state().shown(setting().program_real.as_bytes()));
    }
    // Who resolves a path by himself asks this of each of its parts.
    if path::is_no_link(directory, path, unsafe_bytes(path)) {
        return EINVAL;
    }
    let place = match path::place(directory, path) {
        Ok(place) => place,
        Err(errno) => return errno,
    };
    if place.is_inside {
        // No link of an image speaks of the host.
        return call(n::READLINKAT, [place.directory as u64, place.name as u64, out as u64, length, 0, 0]);
    }
    let Some(mut scratch) = Scratch::take() else { return ENOMEM };
    let (buffer, name) = scratch.halves();
    let read = {
        let read = kernel::readlinkat(place.directory, place.name, buffer);
        // What the kernel takes for the program is the stub.
        let stub = setting().stub.as_bytes();
        if read == stub.len() as Answer && buffer[..stub.len()] == *stub {
            return give(state().shown(proc::program(&place, name)));
        }
        // A link of /proc that leads to the root leads to the step's.
        if read == 1 && buffer[0] == b'/' {
            return give(b"/");
        }
        read
    };
    if read < 0 {
        return read;
    }
    // A link that the kernel made up (`/proc/self/cwd`) speaks of the host; no link of an image does.
    give(state().shown(&buffer[..read as usize]))
}

/// `mkdir`.
pub(crate) fn make_directory(directory: i32, path: *const u8, mode: u64) -> Answer {
    answer(|| {
        let place = place_to_make(directory, path)?;
        let made = call(n::MKDIRAT, [place.directory as u64, place.name as u64, mode & 0o777 | 0o700, 0, 0, 0]);
        if made == 0 {
            let object = Object::At(place.directory, place.name);
            created(object, Some(place.parent()), DIRECTORY, (mode as u32) & 0o1777 & !state().umask, 0);
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
        if kind == DIRECTORY {
            return Err(EPERM);
        }
        if is_device && !state().credentials.may(Capability::MakeDevices) {
            return Err(EPERM);
        }
        let place = place_to_make(directory, path)?;
        let wanted_mode = mode & 0o7777 & !state().umask;
        let real_mode = match kind {
            REGULAR | CHARACTER | BLOCK => REGULAR | record::made_mode(wanted_mode),
            _ => kind | mode & 0o777 | 0o600,
        };
        let made = call(n::MKNODAT, [place.directory as u64, place.name as u64, real_mode.into(), 0, 0, 0]);
        if made == 0 {
            let object = Object::At(place.directory, place.name);
            let device = if is_device { device as u32 } else { 0 };
            created(object, Some(place.parent()), kind, wanted_mode, device);
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
            created(Object::At(place.directory, place.name), Some(place.parent()), LINK, 0o777, 0);
        }
        Ok(made)
    })
}

/// `link`.
pub(crate) fn link(from: i32, path: *const u8, to: i32, new: *const u8, flags: u64) -> Answer {
    answer(|| {
        if flags & !(AT_EMPTY_PATH | AT_SYMLINK_FOLLOW) != 0 {
            return Err(EINVAL);
        }
        if path.is_null() {
            return Err(EFAULT);
        }
        let is_descriptor = is_empty(path) && flags & AT_EMPTY_PATH != 0;
        if is_descriptor || flags & AT_SYMLINK_FOLLOW != 0 {
            let mut old = if is_descriptor { Subject::opened(from) } else { Subject::named(from, path, true)? };
            let new = place_to_make(to, new)?;
            old.separate_if(links::LINKED)?;
            let descriptor = text::DescriptorPath::new(old.descriptor);
            let arguments =
                [AT_FDCWD as u64, descriptor.as_ptr() as u64, new.directory as u64, new.name as u64, AT_SYMLINK_FOLLOW, 0];
            return Ok(call(n::LINKAT, arguments));
        }
        let old = place(from, path)?;
        let new = place_to_make(to, new)?;
        separate_at(&old, links::LINKED)?;
        Ok(call(n::LINKAT, [old.directory as u64, old.name as u64, new.directory as u64, new.name as u64, 0, 0]))
    })
}

/// `rename`.
pub(crate) fn rename(from: i32, path: *const u8, to: i32, new: *const u8, flags: u64) -> Answer {
    const EXCHANGE: u64 = 2;
    const WHITEOUT: u64 = 4;
    answer(|| {
        if flags & WHITEOUT != 0 {
            // It would leave a device for the kernel.
            return Err(EINVAL);
        }
        let old = place_to_take(from, path)?;
        // Most of what is renamed stays in its directory.
        let place_of_new = || match path::beside(&old, (from, path), (to, new)) {
            Some(place) => Ok(place),
            None => place(to, new),
        };
        let is_ours = |errno| if errno == EEXIST { EPERM } else { errno };
        // What stands there goes as if it were removed.
        let new = match allowed_to_take(seen_to_take(place_of_new()?)?) {
            Err(ENOENT) => allowed_to_make(look_above(place_of_new()?)?).map_err(is_ours)?,
            other => other?,
        };
        path::forget_passed();
        let mut moved = Stat::empty();
        let is_directory = Object::At(old.directory, old.name).stat(&mut moved) == 0 && moved.mode & TYPE == DIRECTORY;
        let _moving = if is_directory || flags & EXCHANGE != 0 { Some(known::moving()?) } else { None };
        if links::may_be_shared(&moved, links::SHARED) {
            separate_at(&old, links::SHARED)?;
        }
        if flags & EXCHANGE != 0 {
            separate_at(&new, links::SHARED)?;
        }
        let flags = flags & (EXCHANGE | 1);
        Ok(call(n::RENAMEAT2, [old.directory as u64, old.name as u64, new.directory as u64, new.name as u64, flags, 0]))
    })
}

/// `unlink`, `rmdir`.
pub(crate) fn remove(directory: i32, path: *const u8, flags: u64) -> Answer {
    answer(|| {
        let place = place_to_take(directory, path)?;
        let _moving = if flags & REMOVE_DIRECTORY != 0 { Some(known::moving()?) } else { None };
        Ok(call(n::UNLINKAT, [place.directory as u64, place.name as u64, flags, 0, 0, 0]))
    })
}

/// Gives a name that is to be moved, or to be joined by another, a file of its own, as [`links::separate`].
fn separate_at(place: &Place, least: u32) -> Result<(), Answer> {
    if !setting().has_links || !links::is_shared(Object::At(place.directory, place.name), least) {
        return Ok(());
    }
    for _ in 0..links::TRIES {
        let opened = kernel::openat(place.directory, place.name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
        if opened < 0 {
            return Err(opened);
        }
        if !matches!(links::separate(Held(opened as i32).0, least)?, links::Separated::Elsewhere) {
            break;
        }
    }
    Ok(())
}

/// What a change speaks of: an open descriptor of the program's, or one of ours.
struct Subject {
    descriptor: i32,
    held: Option<Held>,
    /// By what it was found, and whether a link there was followed.
    named: Option<(i32, *const u8, bool)>,
}

impl Subject {
    fn of(directory: i32, path: *const u8, flags: u64) -> Result<Self, Answer> {
        if !path.is_null() && is_empty(path) && flags & AT_EMPTY_PATH != 0 {
            return Ok(Self::opened(directory));
        }
        Self::named(directory, path, flags & AT_SYMLINK_NOFOLLOW == 0)
    }

    fn opened(descriptor: i32) -> Self {
        Self { descriptor, held: None, named: None }
    }

    fn named(directory: i32, path: *const u8, follow: bool) -> Result<Self, Answer> {
        let held = name_of(directory, path, follow)?;
        Ok(Self { descriptor: held.0, held: Some(held), named: Some((directory, path, follow)) })
    }

    fn object(&self) -> Object {
        Object::Descriptor(self.descriptor)
    }

    /// Before a change of what the disk has as `real`: under this name alone, if earlier steps gave it several.
    fn separate(&mut self, real: &mut Stat) -> Result<(), Answer> {
        self.separate_looked_at(real, links::SHARED)
    }

    /// The same where nobody has looked yet.
    fn separate_if(&mut self, least: u32) -> Result<(), Answer> {
        let mut real = Stat::empty();
        if setting().has_links && self.object().stat(&mut real) == 0 { self.separate_looked_at(&mut real, least) } else { Ok(()) }
    }

    fn separate_looked_at(&mut self, real: &mut Stat, least: u32) -> Result<(), Answer> {
        for _ in 0..links::TRIES {
            if !links::may_be_shared(real, least) {
                break;
            }
            match (links::separate(self.descriptor, least)?, self.named) {
                (links::Separated::Not, _) => break,
                (links::Separated::Now(made), named) => {
                    if named.is_none() {
                        links::take_over(self.descriptor, made.0);
                    }
                    (self.descriptor, self.held) = (made.0, Some(made));
                    break;
                }
                (links::Separated::Elsewhere, Some((directory, path, follow))) => {
                    *self = Self::named(directory, path, follow)?;
                    *real = looked_at(self.object())?.0;
                }
                // Whoever has a file open whose name is gone changes that.
                (links::Separated::Elsewhere, None) => break,
            }
        }
        Ok(())
    }
}

/// What the disk and what the record says of something that is to be changed.
fn looked_at(object: Object) -> Result<(Stat, Record), Answer> {
    let mut real = Stat::empty();
    let looked = object.stat(&mut real);
    if looked != 0 {
        return Err(looked);
    }
    Ok((real, record_of(object, &real)))
}

/// `chmod` and its family.
pub(crate) fn change_mode(directory: i32, path: *const u8, mode: u64, flags: u64) -> Answer {
    answer(|| {
        if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
            return Err(EINVAL);
        }
        let mut subject = Subject::of(directory, path, flags)?;
        let (mut real, before) = looked_at(subject.object())?;
        if real.mode & TYPE == LINK {
            return Err(EOPNOTSUPP);
        }
        let who = &state().credentials;
        if !who.may(Capability::OwnAll) && before.uid != who.user.filesystem {
            return Err(EPERM);
        }
        if is_hosts_device(&real) {
            return Ok(0);
        }
        let mut mode = (mode as u32) & 0o7777;
        if !who.may(Capability::KeepSetId) && !who.is_in_group(before.gid) {
            mode &= !0o2000;
        }
        path::forget_passed();
        subject.separate(&mut real)?;
        Ok(ownership::store(subject.object(), &real, Record { mode: before.mode & TYPE | mode, ..before }))
    })
}

/// `chown` and its family.
pub(crate) fn change_owner(directory: i32, path: *const u8, uid: u32, gid: u32, flags: u64) -> Answer {
    answer(|| {
        if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
            return Err(EINVAL);
        }
        let mut subject = Subject::of(directory, path, flags)?;
        let (mut real, before) = looked_at(subject.object())?;
        let mut after = before;
        if uid != u32::MAX {
            after.uid = uid;
        }
        if gid != u32::MAX {
            after.gid = gid;
        }
        let who = &state().credentials;
        if !who.may(Capability::Chown)
            && (after.uid != before.uid
                || before.uid != who.user.filesystem
                || after.gid != before.gid && !who.is_in_group(after.gid))
        {
            return Err(EPERM);
        }
        if is_hosts_device(&real) {
            return Ok(0);
        }
        if real.uid != setting().real_uid {
            return if after == before { Ok(0) } else { Err(EPERM) };
        }
        if real.mode & TYPE == REGULAR {
            after.mode &= !0o4000;
            if before.mode & 0o2010 == 0o2010 {
                after.mode &= !0o2000;
            }
        }
        if after == before {
            return Ok(0);
        }
        path::forget_passed();
        subject.separate(&mut real)?;
        let object = subject.object();
        object.attribute(Attribute::Remove, CAPABILITY.as_ptr().cast(), core::ptr::null_mut(), 0);
        Ok(ownership::store(object, &real, after))
    })
}

/// How a call gives two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "of a call of old"))]
    Seconds,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "of a call of old"))]
    Microseconds,
    Nanoseconds,
}

/// The two times as `utimensat` takes them.
fn times_of(kind: Times, given: u64) -> Result<Option<[[i64; 2]; 2]>, Answer> {
    if given == 0 {
        return Ok(None);
    }
    let mut bytes = [0; 32];
    let length = if kind == Times::Seconds { 16 } else { 32 };
    if !memory::read(given, &mut bytes[..length]) {
        return Err(EFAULT);
    }
    let word = |at: usize| bytes[at * 8..].first_chunk().map_or(0, |word| i64::from_ne_bytes(*word));
    match kind {
        Times::Seconds => Ok(Some([[word(0), 0], [word(1), 0]])),
        Times::Microseconds if ![1, 3].iter().all(|at| (0..1_000_000).contains(&word(*at))) => Err(EINVAL),
        Times::Microseconds => Ok(Some([[word(0), word(1) * 1000], [word(2), word(3) * 1000]])),
        Times::Nanoseconds => Ok(Some([[word(0), word(1)], [word(2), word(3)]])),
    }
}

/// `utimensat` and its ancestors; no path stands for the descriptor itself.
pub(crate) fn change_times(kind: Times, directory: i32, path: Option<*const u8>, given: u64, flags: u64) -> Answer {
    const NOW: i64 = (1 << 30) - 1;
    const OMIT: i64 = (1 << 30) - 2;
    answer(|| {
        let times = times_of(kind, given)?;
        let times_at = times.as_ref().map_or(0, |times| times.as_ptr() as u64);
        if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 || path.is_none() && flags & AT_SYMLINK_NOFOLLOW != 0 {
            return Err(EINVAL);
        }
        let who = &state().credentials;
        if let Some(path) = path
            && !path.is_null()
            && flags & AT_SYMLINK_NOFOLLOW != 0
            && who.may(Capability::OwnAll)
            && is_single(path)
        {
            let mut real = Stat::empty();
            if Object::At(directory, path).stat(&mut real) == 0 && is_hosts_device(&real) {
                return Ok(0);
            }
            if !links::may_be_shared(&real, links::SHARED) {
                return Ok(call(n::UTIMENSAT, [directory as u64, path as u64, times_at, flags, 0, 0]));
            }
        }
        let mut subject = match path {
            Some(path) => Subject::of(directory, path, flags)?,
            None => Subject::opened(directory),
        };
        let (mut real, record) = looked_at(subject.object())?;
        let is_now = times.is_none_or(|times| times.iter().all(|time| time[1] == NOW));
        let is_nothing = times.is_some_and(|times| times.iter().all(|time| time[1] == OMIT));
        if !is_nothing && !who.may(Capability::OwnAll) && record.uid != who.user.filesystem {
            if !is_now {
                return Err(EPERM);
            }
            if !permits(&record, 2) {
                return Err(EACCES);
            }
        }
        if is_hosts_device(&real) {
            return Ok(0);
        }
        if real.mode & TYPE == LINK
            && let Some(path) = path.filter(|path| !is_empty(*path))
        {
            let place = place(directory, path)?;
            let arguments = [place.directory as u64, place.name as u64, times_at, AT_SYMLINK_NOFOLLOW, 0, 0];
            return Ok(call(n::UTIMENSAT, arguments));
        }
        if !is_nothing {
            subject.separate(&mut real)?;
        }
        let object = subject.object();
        let nameless = [subject.descriptor as u64, c"".as_ptr() as u64, times_at, AT_EMPTY_PATH, 0, 0];
        Ok(match call(n::UTIMENSAT, nameless) {
            // A kernel before 5.8.
            EINVAL => object.with_path(|path, _| call(n::UTIMENSAT, [AT_FDCWD as u64, path as u64, times_at, 0, 0, 0])),
            changed => changed,
        })
    })
}

/// `truncate`.
pub(crate) fn truncate(path: *const u8, length: u64) -> Answer {
    answer(|| {
        let mut subject = Subject::named(AT_FDCWD, path, true)?;
        if !state().credentials.may(Capability::OverrideModes) && !permits(&looked_at(subject.object())?.1, 2) {
            return Err(EACCES);
        }
        subject.separate_if(links::SHARED)?;
        subject.object().attribute(Attribute::Remove, CAPABILITY.as_ptr().cast(), core::ptr::null_mut(), 0);
        Ok(subject.object().with_path(|path, _| call(n::TRUNCATE, [path as u64, length, 0, 0, 0, 0])))
    })
}

/// `statfs`.
pub(crate) fn file_system(path: *const u8, out: u64) -> Answer {
    answer(|| {
        let held = name_of(AT_FDCWD, path, true)?;
        Ok(Object::Descriptor(held.0).with_path(|path, _| call(n::STATFS, [path as u64, out, 0, 0, 0, 0])))
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
        if !state().credentials.may_pass_everywhere() {
            let object = Object::Descriptor(held.0);
            let (real, record) = looked_at(object)?;
            if real.uid == setting().real_uid && !permits(&record, 1) {
                return Err(EACCES);
            }
        }
        // Where the root has a directory for what is the host's, that is meant.
        let mut buffer = [0; 64];
        let length = kernel::readlinkat(AT_FDCWD, text::DescriptorPath::new(held.0).as_ptr(), &mut buffer);
        let root = state().root.as_bytes().len();
        if state().passes() && length > root as Answer && (length as usize) < buffer.len() {
            let shown = state().shown(&buffer[..length as usize]);
            if shown.len() == length as usize - root && path::is_passed(shown) {
                let mut own = [0; 64];
                let path = Text::new(&mut own).put(shown).as_ptr();
                return Ok(known::change_here(|| call(n::CHDIR, [path as u64, 0, 0, 0, 0, 0])));
            }
        }
        Ok(change_to_descriptor(held.0 as u64))
    })
}

/// `fchdir`.
pub(crate) fn change_to_descriptor(descriptor: u64) -> Answer {
    known::change_here(|| call(n::FCHDIR, [descriptor, 0, 0, 0, 0, 0]))
}

/// `unshare`: threads may have a working directory each from now on.
pub(crate) fn unshare(flags: u64) -> Answer {
    const WORKING_DIRECTORY: u64 = 0x200;
    if flags & WORKING_DIRECTORY != 0 {
        known::part_here();
    }
    call(n::UNSHARE, [flags, 0, 0, 0, 0, 0])
}

/// `chroot`: another directory takes the place of the root.
pub(crate) fn change_root(path: *const u8) -> Answer {
    answer(|| {
        let held = name_of(AT_FDCWD, path, true)?;
        let mut stat = Stat::empty();
        Object::Descriptor(held.0).stat(&mut stat);
        if stat.mode & TYPE != DIRECTORY {
            return Err(kernel::ENOTDIR);
        }
        if !state().credentials.may(Capability::ChangeRoot) {
            return Err(EPERM);
        }
        let mut scratch = Scratch::take().ok_or(ENOMEM)?;
        let (buffer, _) = scratch.halves();
        let length = kernel::readlinkat(AT_FDCWD, text::DescriptorPath::new(held.0).as_ptr(), buffer);
        if length < 0 {
            return Err(length);
        }
        let real = &buffer[..length as usize];
        // Only what lies in the root of the step.
        if !real.starts_with(setting().base.as_bytes()) {
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
    let end = found as usize;
    let shown = state().shown(&buffer[..end - 1]);
    if shown.len() as u64 >= length {
        return ERANGE;
    }
    // With the zero that the kernel has put behind it; the root itself has no name there.
    let written = if shown == b"/" {
        memory::write(out as u64, b"/\0")
    } else {
        memory::write(out as u64, &buffer[end - 1 - shown.len()..end])
    };
    if written { shown.len() as Answer + 1 } else { EFAULT }
}

/// The extended attributes: those that only root may set are kept under a name of ours. `number` is the call.
pub(crate) fn attribute(number: i64, arguments: [u64; 6]) -> Answer {
    answer(|| {
        let by_descriptor = matches!(number, n::FSETXATTR | n::FGETXATTR | n::FLISTXATTR | n::FREMOVEXATTR);
        let follow = !matches!(number, n::LSETXATTR | n::LGETXATTR | n::LLISTXATTR | n::LREMOVEXATTR);
        let mut subject = if by_descriptor {
            Subject::opened(arguments[0] as i32)
        } else {
            Subject::named(AT_FDCWD, arguments[0] as *const u8, follow)?
        };
        let [_, b, c, d, e, _] = arguments;
        let on = |subject: &Subject, number, rest: [u64; 4]| {
            let [name, value, length, flags] = rest;
            subject.object().with_path(|path, _| call(number, [path as u64, name, value, length, flags, 0]))
        };
        match number {
            n::LISTXATTR | n::LLISTXATTR | n::FLISTXATTR => {
                Ok(subject.object().with_path(|path, _| list_attributes(path, b as *mut u8, c)))
            }
            n::GETXATTR | n::LGETXATTR | n::FGETXATTR => {
                with_attribute_name(b as *const u8, |name, _| on(&subject, n::GETXATTR, [name as u64, c, d, 0]))
            }
            _ => with_attribute_name(b as *const u8, |name, is_ours| {
                let Some(mut real) = attribute_to_change(subject.object(), is_ours) else {
                    return if is_ours { EPERM } else { EACCES };
                };
                let sets = matches!(number, n::SETXATTR | n::LSETXATTR | n::FSETXATTR);
                // Capabilities of the kernel's three revisions.
                let is_capability = is_ours && unsafe_bytes(name) == CAPABILITY.to_bytes();
                if sets && is_capability && ![12, 20, 24].contains(&d) {
                    return EINVAL;
                }
                if let Err(errno) = subject.separate(&mut real) {
                    return errno;
                }
                if sets {
                    on(&subject, n::SETXATTR, [name as u64, c, d, e])
                } else {
                    on(&subject, n::REMOVEXATTR, [name as u64, 0, 0, 0])
                }
            }),
        }
    })
}

/// What the disk has of a file of which the program may change an attribute; of those that are kept for root, only root. A
/// device of the host keeps its own.
fn attribute_to_change(object: Object, is_roots: bool) -> Option<Stat> {
    if is_roots && !state().credentials.may(Capability::SetFileCapabilities) {
        return None;
    }
    let (real, record) = looked_at(object).ok()?;
    (!is_hosts_device(&real) && (is_roots || permits(&record, 2))).then_some(real)
}

fn with_attribute_name(name: *const u8, then: impl FnOnce(*const u8, bool) -> Answer) -> Result<Answer, Answer> {
    if name.is_null() {
        return Err(EFAULT);
    }
    if memory::text(name as u64).is_null() {
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
