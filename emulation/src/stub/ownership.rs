//! Owners, modes and devices as the program sees them: those on record where there is a record, root's otherwise.

use super::arch::number as n;
use super::identity::Capability;
use super::kernel::{
    self, AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, Answer, EBADF, EPERM, STATX_BIRTH, STATX_OURS, Stat, Statx, call,
};
use super::state::{ROOT_DESCRIPTOR, setting, state};
use super::text::{DescriptorPath, Text};
use crate::record::{self, ATTRIBUTE, DIRECTORY, MARK, Record, TYPE};
use core::sync::atomic::{AtomicU64, Ordering};

/// An inode, reached by a descriptor (perhaps one that is only a name) or by its name in a directory.
#[derive(Clone, Copy)]
pub(crate) enum Object {
    Descriptor(i32),
    At(i32, *const u8),
}

/// What is done with an attribute.
#[derive(Clone, Copy)]
pub(crate) enum Attribute {
    Get,
    Set,
    Remove,
}

impl Object {
    /// Hands over a path by which the kernel finds it, and whether a link there is to be followed.
    pub(crate) fn with_path<T>(self, then: impl FnOnce(*const u8, bool) -> T) -> T {
        match self {
            Self::Descriptor(descriptor) => then(DescriptorPath::new(descriptor).as_ptr(), true),
            Self::At(AT_FDCWD, name) => then(name, false),
            Self::At(directory, name) => {
                let mut buffer = [0; 300];
                let mut text = Text::new(&mut buffer);
                text.put(b"/proc/self/fd/").number(u64::from(directory.unsigned_abs())).put(b"/");
                // SAFETY: the program's path. A name that is too long is found by nobody.
                text.put(unsafe { super::text::bytes(name) });
                then(text.as_ptr(), false)
            }
        }
    }

    pub(crate) fn stat(self, stat: &mut Stat) -> Answer {
        match self {
            Self::Descriptor(descriptor) => kernel::fstatat(descriptor, c"".as_ptr().cast(), stat, AT_EMPTY_PATH),
            Self::At(directory, name) => kernel::fstatat(directory, name, stat, AT_SYMLINK_NOFOLLOW),
        }
    }

    /// The same into memory of the program.
    pub(crate) fn stat_to(self, out: *mut Stat) -> Answer {
        match self {
            Self::Descriptor(descriptor) => kernel::fstatat(descriptor, c"".as_ptr().cast(), out, AT_EMPTY_PATH),
            Self::At(directory, name) => kernel::fstatat(directory, name, out, AT_SYMLINK_NOFOLLOW),
        }
    }

    /// Reads, sets or removes an attribute.
    pub(crate) fn attribute(self, what: Attribute, name: *const u8, value: *mut u8, length: usize) -> Answer {
        let (by_descriptor, by_path, by_link) = match what {
            Attribute::Get => (n::FGETXATTR, n::GETXATTR, n::LGETXATTR),
            Attribute::Set => (n::FSETXATTR, n::SETXATTR, n::LSETXATTR),
            Attribute::Remove => (n::FREMOVEXATTR, n::REMOVEXATTR, n::LREMOVEXATTR),
        };
        let rest = [name as u64, value as u64, length as u64];
        let with = |first: u64| [first, rest[0], rest[1], rest[2], 0, 0];
        if let Self::Descriptor(descriptor) = self {
            let answer = call(by_descriptor, with(descriptor as u64));
            // One that is only a name.
            if answer != EBADF {
                return answer;
            }
        }
        self.with_path(|path, follow| call(if follow { by_path } else { by_link }, with(path as u64)))
    }

    /// Changes the mode that the disk has; not of a link.
    fn change_mode(self, mode: u32) -> Answer {
        if let Self::Descriptor(descriptor) = self {
            let arguments = [descriptor as u64, c"".as_ptr() as u64, u64::from(mode), AT_EMPTY_PATH, 0, 0];
            let answer = call(n::FCHMODAT2, arguments);
            // Kernels before 6.6, and filters that do not know it.
            if answer == 0 {
                return answer;
            }
        }
        self.with_path(|path, _| call(n::FCHMODAT, [AT_FDCWD as u64, path as u64, u64::from(mode), 0, 0, 0]))
    }

    fn record(self) -> Option<Record> {
        let mut bytes = [0_u8; Record::LENGTH + 1];
        let length = self.attribute(Attribute::Get, ATTRIBUTE.as_ptr().cast(), bytes.as_mut_ptr(), bytes.len());
        Record::parse(bytes.get(..usize::try_from(length).ok()?)?)
    }

    pub(crate) fn statx(self, mask: u64, found: &mut Statx) -> Answer {
        match self {
            Self::Descriptor(descriptor) => kernel::statx(descriptor, c"".as_ptr().cast(), AT_EMPTY_PATH, mask, found),
            Self::At(directory, name) => kernel::statx(directory, name, AT_SYMLINK_NOFOLLOW, mask, found),
        }
    }

    /// The name of its record beside the root.
    fn side_path(self, text: &mut Text<'_>) -> bool {
        let mut found = Statx::empty();
        let looked = self.statx(STATX_OURS | STATX_BIRTH, &mut found);
        put_side_path(text, record::OWNERS, &found);
        looked == 0 && text.fits()
    }

    fn side_owner(self) -> (u32, u32) {
        let mut buffer = [0; 600];
        let mut text = Text::new(&mut buffer);
        let mut value = [0; 24];
        if !self.side_path(&mut text) {
            return (0, 0);
        }
        let length = kernel::readlinkat(AT_FDCWD, text.as_ptr(), &mut value);
        usize::try_from(length).ok().and_then(|length| record::parse_side_value(&value[..length])).unwrap_or((0, 0))
    }

    fn set_side_owner(self, uid: u32, gid: u32) -> Answer {
        let mut buffer = [0; 600];
        let mut text = Text::new(&mut buffer);
        if !self.side_path(&mut text) {
            return EPERM;
        }
        call(n::UNLINKAT, [AT_FDCWD as u64, text.as_ptr() as u64, 0, 0, 0, 0]);
        if (uid, gid) != (0, 0) {
            let mut value = [0; 24];
            record::side_value(&mut value, uid, gid);
            let made = call(n::SYMLINKAT, [value.as_ptr() as u64, AT_FDCWD as u64, text.as_ptr() as u64, 0, 0, 0]);
            if made < 0 {
                return made;
            }
        }
        // So that its time of change tells the builder that something changed.
        let (uid, gid) = (u64::from(setting().real_uid), u64::from(setting().real_gid));
        self.with_path(|path, follow| {
            let flags = if follow { 0 } else { AT_SYMLINK_NOFOLLOW };
            call(n::FCHOWNAT, [AT_FDCWD as u64, path as u64, uid, gid, flags, 0]);
        });
        0
    }
}

/// Whether a file system is another one than that of the root.
pub(crate) fn is_outside(device: u64) -> bool {
    /// Asked for once in each process: no root moves to another disk.
    static OF_ROOT: AtomicU64 = AtomicU64::new(0);
    let mut of_root = OF_ROOT.load(Ordering::Relaxed);
    if of_root == 0 {
        let mut real = Stat::empty();
        if Object::Descriptor(ROOT_DESCRIPTOR).stat(&mut real) == 0 {
            of_root = real.device;
            OF_ROOT.store(of_root, Ordering::Relaxed);
        }
    }
    device != of_root
}

/// Writes what an inode is called in a directory beside the root.
pub(crate) fn put_side_path(text: &mut Text<'_>, directory: &str, found: &Statx) {
    let has_birth = found.mask & STATX_BIRTH as u32 != 0;
    let (seconds, nanoseconds) = if has_birth { (found.birth_seconds, u64::from(found.birth_nanoseconds)) } else { (0, 0) };
    let mut name = [0; 72];
    let length = record::side_name(&mut name, found.inode, seconds, nanoseconds);
    text.put(setting().base.as_bytes()).put(directory.as_bytes()).put(b"/").put(&name[..length]);
}

/// Whether the kernel lets a file of this type carry attributes of ours.
fn holds_attributes(mode: u32) -> bool {
    matches!(mode & TYPE, DIRECTORY | record::REGULAR)
}

/// What the image says of a file, given what the disk says.
pub(crate) fn record_of(object: Object, real: &Stat) -> Record {
    let ours = real.uid == setting().real_uid;
    let gid = if real.gid == setting().real_gid { 0 } else { real.gid };
    let mode = real.mode & (TYPE | 0o7777);
    let device = ((real.node >> 12 & 0xfff_0000_0000) | (real.node & 0xffff_ffff)) as u32;
    if !ours {
        return Record { uid: real.uid, gid, mode, device };
    }
    if holds_attributes(mode) {
        if mode & MARK != 0
            && let Some(record) = object.record()
        {
            return record;
        }
        return Record { uid: 0, gid: 0, mode: mode & TYPE | record::plain_mode(mode), device: 0 };
    }
    // What never had a name, as the pipes of a shell, has no record.
    let (uid, gid) = if is_outside(real.device) { (0, 0) } else { object.side_owner() };
    Record { uid, gid, mode, device }
}

/// Makes a file what the image is to say of it. The caller has checked whether the program may.
pub(crate) fn store(object: Object, real: &Stat, wanted: Record) -> Answer {
    if real.uid != setting().real_uid {
        return EPERM;
    }
    if !holds_attributes(real.mode) {
        let changed = object.set_side_owner(wanted.uid, wanted.gid);
        if changed == 0 && real.mode & TYPE != record::LINK {
            return object.change_mode(wanted.mode & 0o777);
        }
        return changed;
    }
    let mode = wanted.real_mode();
    if mode != real.mode & 0o7777 {
        let changed = object.change_mode(mode);
        if changed < 0 {
            return changed;
        }
    }
    let name = ATTRIBUTE.as_ptr().cast();
    if !wanted.is_plain() {
        let mut bytes = wanted.to_bytes();
        return object.attribute(Attribute::Set, name, bytes.as_mut_ptr(), bytes.len());
    }
    if real.mode & MARK != 0 {
        object.attribute(Attribute::Remove, name, core::ptr::null_mut(), 0);
    }
    0
}

/// Records the owner of what was just made in `parent`: the one who made it, or the group that the directory hands on.
pub(crate) fn created(object: Object, parent: Option<(Object, &Stat)>, kind: u32, mode: u32, device: u32) -> Answer {
    let who = &state().credentials;
    let mut wanted = Record { uid: who.user.filesystem, gid: who.group.filesystem, mode: kind | mode, device };
    if let Some((parent, above)) = parent
        && above.mode & MARK != 0
    {
        let above = record_of(parent, above);
        if above.mode & 0o2000 != 0 {
            wanted.gid = above.gid;
            if kind == DIRECTORY {
                wanted.mode |= 0o2000;
            }
        }
    }
    // The calls that make something leave the owner's bits, and the kernel's umask is the program's: nothing to do.
    if wanted.is_plain() {
        return 0;
    }
    // A device is a file for the kernel.
    if !holds_attributes(kind) && !matches!(kind, record::CHARACTER | record::BLOCK) {
        return if (wanted.uid, wanted.gid) == (0, 0) { 0 } else { object.set_side_owner(wanted.uid, wanted.gid) };
    }
    let mut real = Stat::empty();
    match object.stat(&mut real) {
        0 => store(object, &real, wanted),
        errno => errno,
    }
}

/// Whether whom the program takes itself for may read (4), write (2) or execute (1) a file.
pub(crate) fn permits(record: &Record, wanted: u32) -> bool {
    let who = &state().credentials;
    let is_directory = record.mode & TYPE == DIRECTORY;
    if who.may(Capability::OverrideModes) {
        return wanted & 1 == 0 || is_directory || record.mode & 0o111 != 0;
    }
    if who.may(Capability::ReadAndSearch) && (wanted == 4 || is_directory && wanted & 2 == 0) {
        return true;
    }
    permits_user(record, wanted, who.user.filesystem, |group| who.is_in_group(group))
}

/// The same for whom the program really is, as `access` asks.
pub(crate) fn permits_real(record: &Record, wanted: u32) -> bool {
    let who = &state().credentials;
    if who.user.real == 0 {
        return wanted & 1 == 0 || record.mode & TYPE == DIRECTORY || record.mode & 0o111 != 0;
    }
    permits_user(record, wanted, who.user.real, |group| who.group.real == group || who.groups().contains(&group))
}

fn permits_user(record: &Record, wanted: u32, user: u32, is_member: impl FnOnce(u32) -> bool) -> bool {
    let shift = if record.uid == user {
        6
    } else if is_member(record.gid) {
        3
    } else {
        0
    };
    record.mode >> shift & wanted == wanted
}
