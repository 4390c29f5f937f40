//! Where a path of the program is on the host.
//!
//! The kernel walks, with `openat2` and the root directory's descriptor, so that links and `..` stay inside. Only what it
//! cannot know is walked here: /proc, /sys and /dev are the host's, also when a link leads there. So a path is tried in the
//! root first, and walked part by part when nothing was found.
//!
//! Of /dev the usual names are the host's. All others are looked for in the root's own /dev first, where they are made. It is gone
//! after the step, as a container's is.

use super::arch::{O_DIRECTORY, O_NOFOLLOW};
use super::kernel::{
    self, AT_FDCWD, Answer, EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ERANGE, EXDEV, O_CLOEXEC, O_NOCTTY, O_NONBLOCK, O_PATH,
    PATH_MAX, RESOLVE_BENEATH, RESOLVE_IN_ROOT, Stat,
};
use super::known::{self, Parent, Way};
use super::ownership::{Object, permits, record_of};
use super::proc;
use super::scratch::Scratch;
use super::state::{Lent, ROOT_DESCRIPTOR, State, setting, state};
use super::text::{self, DescriptorPath, Text};
use crate::record::{DIRECTORY, LINK, TYPE};

const RESOLVE_NO_SYMLINKS: u64 = 4;
/// As many links as the kernel follows.
const MAX_LINKS: u32 = 40;
/// Names in /dev that are the host's and stay so: what every container has there, by default and in a pod.
const DEVICES: [&[u8]; 17] = [
    b"console",
    b"core",
    b"fd",
    b"full",
    b"mqueue",
    b"null",
    b"ptmx",
    b"pts",
    b"random",
    b"shm",
    b"stderr",
    b"stdin",
    b"stdout",
    b"termination-log",
    b"tty",
    b"urandom",
    b"zero",
];

/// The last part of a path, in its directory; or a path without links, from where that starts.
pub(crate) struct Place {
    pub(crate) directory: i32,
    pub(crate) name: *const u8,
    owned: bool,
    /// It is certainly in the root.
    pub(crate) is_inside: bool,
    /// The directory, if the name is a path from there.
    parent: Option<Parent>,
}

impl Place {
    /// The descriptor that was opened for it, if any: the caller closes it.
    pub(crate) fn give_up(&mut self) -> Option<i32> {
        core::mem::take(&mut self.owned).then_some(self.directory)
    }

    /// The directory.
    pub(crate) fn parent(&self) -> Object {
        if let Some(parent) = &self.parent {
            return Object::At(self.directory, parent.as_ptr());
        }
        if self.directory == AT_FDCWD { HERE } else { Object::Descriptor(self.directory) }
    }
}

/// The working directory.
pub(crate) const HERE: Object = Object::At(AT_FDCWD, c".".as_ptr().cast());

impl Drop for Place {
    fn drop(&mut self) {
        if self.owned {
            kernel::close(self.directory);
        }
    }
}

/// Opens what is there; nothing is created. Flags are the program's.
pub(crate) fn open(directory: i32, path: *const u8, flags: u64) -> Answer {
    // SAFETY: the program's path, which ends with zero.
    let bytes = unsafe { text::bytes(path) };
    if let Err(errno) = may_search(directory, bytes) {
        return errno;
    }
    open_judged(directory, path, bytes, flags)
}

fn open_judged(directory: i32, path: *const u8, bytes: &[u8], flags: u64) -> Answer {
    if bytes.is_empty() {
        return ENOENT;
    }
    if bytes[0] == b'/' && is_passed(bytes) && state().passes() && !has_dots(bytes) {
        return open_passed(path, bytes, flags, 0);
    }
    let start = Start::of(directory, path, bytes);
    // Without links first, where there are mostly none: then what is missing is known to be missing, with one call.
    let tried = if leads_through_links(bytes) { ELOOP } else { start.open_without_links(flags, 0) };
    open_as_tried(tried, &start, directory, bytes, flags)
}

/// Goes on after `tried`, which would have found it without links.
fn open_as_tried(tried: Answer, start: &Start, directory: i32, bytes: &[u8], flags: u64) -> Answer {
    let is_absolute = bytes.first() == Some(&b'/');
    let found = if tried == ELOOP { start.open(flags) } else { tried };
    match found {
        EXDEV => {}
        ENOENT if starts_in_devices(directory, bytes) => {}
        ENOENT if tried == ENOENT && !names_hosts(bytes) => return ENOENT,
        ENOENT if is_absolute || text::find(bytes, b'/').is_some() => {}
        // A link of /proc, which is no path.
        ELOOP if !is_absolute && flags & O_NOFOLLOW == 0 => {}
        _ => return found,
    }
    walk_and_open(directory, bytes, flags, 0)
}

/// Where the kernel starts on the way of a path, and what keeps it in the root.
struct Start {
    directory: i32,
    path: *const u8,
    confined: u64,
    has_dots: bool,
}

impl Start {
    fn of(directory: i32, path: *const u8, bytes: &[u8]) -> Self {
        let slashes = bytes.iter().take_while(|byte| **byte == b'/').count();
        let has_dots = has_dots(bytes);
        match slashes {
            0 => Self { directory, path, confined: RESOLVE_BENEATH, has_dots },
            _ if slashes == bytes.len() => Self { directory: ROOT_DESCRIPTOR, path: c".".as_ptr().cast(), confined: 0, has_dots },
            _ => Self { directory: ROOT_DESCRIPTOR, path: path.wrapping_add(slashes), confined: RESOLVE_IN_ROOT, has_dots },
        }
    }

    /// Opens what is there, or says `ELOOP` if a link leads to it, or it is one.
    fn open_without_links(&self, flags: u64, mode: u64) -> Answer {
        // By names alone nobody leaves a directory, and the kernel need not look whether somebody has.
        let confined = if self.has_dots { self.confined } else { 0 };
        kernel::openat2(self.directory, self.path, flags, mode, confined | RESOLVE_NO_SYMLINKS)
    }

    fn open(&self, flags: u64) -> Answer {
        kernel::openat2(self.directory, self.path, flags, 0, self.confined)
    }
}

/// Opens a name as [`open_name`] does, along a way that was made for it.
pub(crate) fn open_name_along(way: &Way<'_>, directory: i32, path: *const u8, bytes: &[u8], follow: bool) -> Answer {
    let flags = O_PATH | O_CLOEXEC | if follow { 0 } else { O_NOFOLLOW };
    let start = Start::of(directory, path, bytes);
    let tried = start.open_without_links(flags, 0);
    if tried >= 0 {
        way.remember();
    }
    open_as_tried(tried, &start, directory, bytes, flags)
}

/// Whether what a path names is certainly there and no link. Says no where that would take more than a call.
pub(crate) fn is_no_link(directory: i32, path: *const u8, bytes: &[u8]) -> bool {
    let is_absolute = bytes.first() == Some(&b'/');
    if is_absolute && is_passed(bytes) || leads_through_links(bytes) || !state().credentials.may_pass_everywhere() {
        return false;
    }
    let way = Way::of(directory, bytes);
    if let Some(way) = &way
        && way.is_known()
    {
        let mut real = Stat::empty();
        let looked = Object::At(way.directory, way.path).stat(&mut real);
        if way.still_holds() {
            return looked == 0 && real.mode & TYPE != LINK;
        }
    }
    let found = Start::of(directory, path, bytes).open_without_links(O_PATH | O_CLOEXEC, 0);
    if found >= 0 {
        kernel::close(found as i32);
        if let Some(way) = way {
            way.remember();
        }
    }
    found >= 0
}

/// Whether a path begins with what is a link in most images of today. Only a guess, which spares a call.
pub(crate) fn leads_through_links(path: &[u8]) -> bool {
    const LINKS: [&[u8]; 6] = [b"/lib/", b"/lib64/", b"/bin/", b"/sbin/", b"/var/run/", b"/var/lock/"];
    matches!(path, [b'/', b'l' | b'b' | b's' | b'v', ..]) && LINKS.iter().any(|link| path.starts_with(link))
}

/// Whether a path starts in the host's /dev, where names of the root's own are in sight too.
pub(crate) fn starts_in_devices(directory: i32, path: &[u8]) -> bool {
    directory == AT_FDCWD && path.first() != Some(&b'/') && state().passes() && known::is_in_devices()
}

/// Whether a path without links may lead to what is the host's: its first part is called so, or it leads upwards.
fn names_hosts(path: &[u8]) -> bool {
    let mut parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    parts.next().is_some_and(|part| matches!(part, b"dev" | b"proc" | b"sys" | b"..")) || parts.any(|part| part == b"..")
}

/// Whether a path without a slash at its start, and without `..`, begins with what is the host's.
pub(crate) fn begins_with_hosts(path: &[u8]) -> bool {
    let mut rest = path;
    while let [b'.', b'/', after @ ..] | [b'/', after @ ..] = rest {
        rest = after;
    }
    [&b"dev"[..], b"proc", b"sys"].iter().any(|name| rest.strip_prefix(*name).is_some_and(|rest| matches!(rest, [] | [b'/', ..])))
}

/// Whether a path goes from part to part: after `./` or `../` at its start none of them is empty, `.` or `..`.
fn is_straight(path: &[u8]) -> bool {
    let mut parts = path.strip_prefix(b"/").unwrap_or(path).split(|byte| *byte == b'/').peekable();
    while path.first() != Some(&b'/') && parts.next_if(|part| matches!(*part, b"." | b"..")).is_some() {}
    parts.peek().is_some() && parts.all(|part| !matches!(part, b"" | b"." | b".."))
}

/// Opens what a walk finds, or creates it there.
pub(crate) fn walk_and_open(directory: i32, path: &[u8], flags: u64, mode: u64) -> Answer {
    let opened = with_walk(directory, path, flags & O_NOFOLLOW == 0, |found, is_passed| {
        if is_passed {
            // SAFETY: the walk ends its path with zero.
            open_passed(found, unsafe { text::bytes(found) }, flags, mode)
        } else {
            kernel::openat(AT_FDCWD, found, flags | O_NOFOLLOW, mode)
        }
    });
    // A directory so deep that it has no path is not the root, so above it is nothing of the host's.
    if opened == ENAMETOOLONG && path == b".." { kernel::openat(directory, c"..".as_ptr().cast(), flags, mode) } else { opened }
}

/// Opens a program to read it, and writes where on the host it is. Of what is the host's it writes nothing and opens only the
/// name.
///
/// Mostly nothing of /proc is touched for it, as the kernel would make entries there for each process that does.
pub(crate) fn open_program(directory: i32, path: *const u8, real: &mut Text<'_>) -> Answer {
    // What is no program is told from one afterwards, and must not keep us waiting.
    const FLAGS: u64 = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    // SAFETY: the program's path.
    let bytes = unsafe { text::bytes(path) };
    if let Err(errno) = may_search(directory, bytes) {
        return errno;
    }
    // In a root of the program's own what is above the working directory may be outside, and only the kernel knows.
    if !state().passes() || !is_straight(bytes) {
        return open_judged(directory, path, bytes, O_PATH | O_CLOEXEC);
    }
    if bytes[0] == b'/' && !is_passed(bytes) && !leads_through_links(bytes) {
        let found = Start::of(directory, path, bytes).open_without_links(FLAGS, 0);
        if found >= 0 {
            real.put(state().root.as_bytes()).put(bytes);
            return found;
        }
        if found == ENOENT {
            return ENOENT;
        }
    }
    if leads_through_links(bytes)
        && let Some(found) = open_behind_first(bytes, FLAGS, real)
    {
        return found;
    }
    let opened = with_walk(directory, bytes, true, |found, is_passed| {
        // SAFETY: the walk ends its path with zero.
        let found_bytes = unsafe { text::bytes(found) };
        if is_passed {
            return open_passed(found, found_bytes, O_PATH | O_CLOEXEC, 0);
        }
        real.put(found_bytes);
        kernel::openat(AT_FDCWD, found, FLAGS | O_NOFOLLOW, 0)
    });
    // So deep that only the kernel can walk there.
    if opened == ENAMETOOLONG { open_judged(directory, path, bytes, O_PATH | O_CLOEXEC) } else { opened }
}

/// Opens what stands behind the first part of a path, which is a link to a directory in the root, as `/bin` is in most images, if there
/// is no other; and writes where on the host it is.
fn open_behind_first(path: &[u8], flags: u64, real: &mut Text<'_>) -> Option<Answer> {
    let end = 1 + text::find(path.get(1..)?, b'/')?;
    let (mut name, mut link, mut buffer) = ([0; 16], [0; 64], [0; 256]);
    let mut first = Text::new(&mut name);
    first.put(&path[1..end]);
    let length = usize::try_from(kernel::readlinkat(ROOT_DESCRIPTOR, first.as_ptr(), &mut link)).unwrap_or(0);
    let mut target = Text::new(&mut buffer);
    target.put(&link[..length]).put(&path[end..]);
    let bytes = target.as_bytes();
    if length == 0
        || length == link.len()
        || link[length - 1] == b'/'
        || !first.fits()
        || !target.fits()
        || matches!(bytes[0], b'/' | b'.')
        || has_dots(bytes)
        || begins_with_hosts(bytes)
    {
        return None;
    }
    let found = kernel::openat2(ROOT_DESCRIPTOR, target.as_ptr(), flags, 0, RESOLVE_NO_SYMLINKS);
    if found < 0 {
        return None;
    }
    real.put(state().root.as_bytes()).put(b"/").put(bytes);
    Some(found)
}

/// Opens what is there, as a name only: for a look, or for a change by its descriptor's name.
pub(crate) fn open_name(directory: i32, path: *const u8, follow: bool) -> Answer {
    open(directory, path, O_PATH | O_CLOEXEC | if follow { 0 } else { O_NOFOLLOW })
}

/// Finds the directory in which the last part of a path is or will be. A link there is not followed.
pub(crate) fn place(directory: i32, path: *const u8) -> Result<Place, Answer> {
    // SAFETY: the program's path.
    let bytes = unsafe { text::bytes(path) };
    if bytes.is_empty() {
        return Err(ENOENT);
    }
    let way = Way::of(directory, bytes);
    if let Some(way) = &way
        && way.is_known()
    {
        let is_inside = way.is_inside();
        return Ok(Place { directory: way.directory, name: way.path, owned: false, is_inside, parent: Some(way.parent()) });
    }
    may_search(directory, bytes)?;
    let of_host = |name| Place { directory: AT_FDCWD, name, owned: false, is_inside: false, parent: None };
    if bytes[0] == b'/' && is_passed(bytes) && state().passes() && !has_dots(bytes) {
        if let Some(inside) = bytes.strip_prefix(b"/proc/").and_then(proc::below_a_root)
            && !inside.is_empty()
        {
            return place(AT_FDCWD, inside.as_ptr());
        }
        return Ok(of_host(path));
    }
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
    let flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    let opened = |found, name, is_inside| Place { directory: found as i32, name, owned: true, is_inside, parent: None };
    let Some(slash) = bytes[..end].iter().rposition(|byte| *byte == b'/') else {
        if starts_in_devices(directory, bytes) && !DEVICES.contains(&&bytes[..end]) {
            let found = kernel::openat2(ROOT_DESCRIPTOR, c"dev".as_ptr().cast(), flags, 0, RESOLVE_NO_SYMLINKS);
            return if found < 0 { Err(found) } else { Ok(opened(found, path, true)) };
        }
        return Ok(Place { directory, name: path, owned: false, is_inside: false, parent: None });
    };
    let name = path.wrapping_add(slash + 1);
    let parent = &bytes[..slash];
    if parent.iter().all(|byte| *byte == b'/') {
        let root = |name| Place { directory: ROOT_DESCRIPTOR, name, owned: false, is_inside: true, parent: None };
        return match bytes[slash + 1..end] {
            // The root itself.
            [] | [b'.'] | [b'.', b'.'] => Ok(root(c".".as_ptr().cast())),
            _ => Ok(root(name)),
        };
    }
    let mut buffer = [0; 256];
    let mut scratch;
    let mut text = if parent.len() < 256 {
        Text::new(&mut buffer)
    } else {
        scratch = Scratch::take().ok_or(ENOMEM)?;
        Text::new(scratch.halves().0)
    };
    if !text.put(parent).fits() {
        return Err(ENAMETOOLONG);
    }
    if let Some(way) = way {
        let found = Start::of(directory, text.as_ptr(), parent).open_without_links(flags, 0);
        if found >= 0 {
            way.remember();
            return Ok(opened(found, name, way.is_inside()));
        }
    }
    // In /dev, where only some names are the host's, the name decides.
    if parent[0] == b'/' && !(is_passed(parent) && is_passed(&bytes[..end])) {
        let found = Start::of(directory, text.as_ptr(), parent).open(flags);
        if found >= 0 {
            return Ok(opened(found, name, true));
        }
    }
    let found = open_judged(directory, text.as_ptr(), parent, flags);
    if found < 0 { Err(found) } else { Ok(opened(found, name, false)) }
}

/// The place of `new`, if that is in the directory of `old`, whose paths begin with the same text.
pub(crate) fn beside(old: &Place, (from, path): (i32, *const u8), (to, new): (i32, *const u8)) -> Option<Place> {
    if new.is_null() {
        return None;
    }
    // SAFETY: the program's paths.
    let (path, new_bytes) = unsafe { (text::bytes(path), text::bytes(new)) };
    let slash = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'/').filter(|slash| slash + 1 < bytes.len());
    let (end, new_end) = (slash(path)?, slash(new_bytes)?);
    let is_same = (from == to || path[0] == b'/') && path[..end] == new_bytes[..new_end] && old.owned;
    is_same.then(|| Place {
        directory: old.directory,
        name: new.wrapping_add(new_end + 1),
        owned: false,
        is_inside: old.is_inside,
        parent: None,
    })
}

/// A way to a name in some directory that the kernel can go alone, if there are no links.
pub(crate) struct PlainWalk {
    start: Start,
    /// The directory, from where it starts.
    parent: PathBuffer,
}

/// A short path that ends with zero.
struct PathBuffer([u8; 256]);

/// Such a way, if this path looks like one. Where it starts is not looked at.
pub(crate) fn plain_walk(directory: i32, path: &[u8]) -> Option<PlainWalk> {
    let end = path.iter().rposition(|byte| *byte == b'/')?;
    let is_absolute = path[0] == b'/';
    let parent = if is_absolute { path.get(1..end)? } else { &path[..end] };
    // With a slash at its start it would be the host's directory.
    if parent.is_empty()
        || parent[0] == b'/'
        || end + 1 == path.len()
        || has_dots(path)
        || is_absolute && (is_passed(path) || leads_through_links(path))
    {
        return None;
    }
    let mut buffer = [0; 256];
    // What is left of it are zeros.
    buffer.get_mut(..parent.len() + 1)?[..parent.len()].copy_from_slice(parent);
    Some(PlainWalk { start: Start::of(directory, path.as_ptr(), path), parent: PathBuffer(buffer) })
}

impl PlainWalk {
    /// The directory.
    pub(crate) fn parent(&self) -> Object {
        Object::At(self.start.directory, self.parent.0.as_ptr())
    }

    /// Opens the name there, or says `ELOOP` if there is a link on the way.
    pub(crate) fn open(&self, flags: u64, mode: u64) -> Answer {
        self.start.open_without_links(flags, mode)
    }
}

/// Whether the program may pass the directories on the way to the last part of a path; `EACCES` if not. Only others than root
/// have to ask, and the directory that they asked about last is remembered. Where the last part is a link, the way behind it is
/// not looked at.
fn may_search(directory: i32, path: &[u8]) -> Result<(), Answer> {
    if state().credentials.may_pass_everywhere() {
        return Ok(());
    }
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let parent = &path[..path[..end].iter().rposition(|byte| *byte == b'/').unwrap_or(0)];
    if path.first() == Some(&b'/') {
        if is_passed(path) && state().passes() || LAST_PASSED.is(parent) {
            return Ok(());
        }
    } else {
        judge(if directory == AT_FDCWD { HERE } else { Object::Descriptor(directory) })?;
        if parent.is_empty() {
            return Ok(());
        }
    }
    let passed = with_judged_walk(directory, parent, |_, _| 0);
    // What is missing, or no directory, the call itself will find.
    if passed == EACCES {
        return Err(EACCES);
    }
    if passed == 0 && path.first() == Some(&b'/') {
        LAST_PASSED.remember(parent);
    }
    Ok(())
}

/// Whether the program may pass a directory.
fn judge(directory: Object) -> Result<(), Answer> {
    let mut real = Stat::empty();
    if directory.stat(&mut real) != 0 || real.uid != setting().real_uid || real.mode & TYPE != DIRECTORY {
        return Ok(());
    }
    if permits(&record_of(directory, &real), 1) { Ok(()) } else { Err(EACCES) }
}

/// The directory that was passed last, and by whom.
struct LastPassed(Lent<(u32, u32, usize, [u8; 240])>);

static LAST_PASSED: LastPassed = LastPassed(Lent::new((0, 0, 0, [0; 240])));

impl LastPassed {
    fn is(&self, path: &[u8]) -> bool {
        let who = &state().credentials;
        let own = (who.user.filesystem, who.group.filesystem);
        self.0.with(|(user, group, length, bytes)| (*user, *group) == own && *length > 0 && &bytes[..*length] == path)
            == Some(true)
    }

    fn remember(&self, path: &[u8]) {
        let who = &state().credentials;
        let (user, group) = (who.user.filesystem, who.group.filesystem);
        self.0.with(|content| {
            if let Some(place) = content.3.get_mut(..path.len()) {
                place.copy_from_slice(path);
                (content.0, content.1, content.2) = (user, group, path.len());
            }
        });
    }

    fn forget(&self) {
        self.0.with(|content| content.2 = 0);
    }
}

/// Says that directories may have changed.
pub(crate) fn forget_passed() {
    LAST_PASSED.forget();
}

/// Opens something of the host's.
fn open_passed(path: *const u8, bytes: &[u8], flags: u64, mode: u64) -> Answer {
    let below_proc = bytes.iter().take_while(|byte| **byte == b'/').count();
    if let Some(name) = bytes[below_proc..].strip_prefix(b"proc/") {
        if let Some(inside) = proc::below_a_root(name)
            && !(inside.is_empty() && flags & O_NOFOLLOW != 0)
        {
            return open(AT_FDCWD, if inside.is_empty() { c"/".as_ptr().cast() } else { inside.as_ptr() }, flags);
        }
        if let Some(answer) = proc::open(path, name, flags) {
            return answer;
        }
    }
    kernel::openat(AT_FDCWD, path, flags, mode)
}

/// Whether a path from the root is one of the host's by its name alone.
pub(crate) fn is_passed(path: &[u8]) -> bool {
    let skip = path.iter().take_while(|byte| **byte == b'/').count();
    let below = |name: &[u8]| path[skip..].strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    match path.get(skip) {
        Some(b'd') => below(b"dev") && is_device(&path[skip + 3..]),
        Some(b'p') => below(b"proc"),
        Some(b's') => below(b"sys"),
        _ => false,
    }
}

/// Whether a path below /dev is /dev itself, or one that stays the host's.
fn is_device(below: &[u8]) -> bool {
    first_part(below).is_none_or(|name| DEVICES.contains(&name))
}

fn first_part(path: &[u8]) -> Option<&[u8]> {
    path.split(|byte| *byte == b'/').find(|part| !part.is_empty())
}

/// Whether a path from the root without `.`, `..` and links leads to what is the host's.
fn leads_to_host(path: &[u8]) -> bool {
    is_passed(path) || path.strip_prefix(b"/dev/").and_then(first_part).is_some_and(is_hosts_alone)
}

/// Whether the host has this in /dev, and the step has made nothing of that name. In a frame of its own: that of a walk stays small.
#[cold]
#[inline(never)]
fn is_hosts_alone(name: &[u8]) -> bool {
    let mut buffer = [0; 300];
    let mut device = Text::new(&mut buffer);
    device.put(b"/dev/").put(name);
    let mut real = Stat::empty();
    // SAFETY: behind the first byte stands the same path, without the slash.
    let inside = unsafe { device.as_ptr().add(1) };
    device.fits()
        && Object::At(ROOT_DESCRIPTOR, inside).stat(&mut real) == ENOENT
        && Object::At(AT_FDCWD, device.as_ptr()).stat(&mut real) == 0
}

/// Whether a path has a part `..`.
pub(crate) fn has_dots(path: &[u8]) -> bool {
    text::has_pair(path, b'.') && path.split(|byte| *byte == b'/').any(|part| part == b"..")
}

/// Walks along a path and hands over where it leads on the host, and whether that is the host's.
pub(crate) fn with_walk(directory: i32, path: &[u8], follow: bool, then: impl FnOnce(*const u8, bool) -> Answer) -> Answer {
    let Some(mut scratch) = Scratch::take() else { return ENOMEM };
    let (found, rest) = scratch.halves();
    let rest_length = match absolute(state(), directory, path, found, rest) {
        Ok(length) => length,
        Err(errno) => return errno,
    };
    match walk(state(), found, rest, rest_length, follow, usize::MAX) {
        Ok((start, is_passed)) => then(found[start..].as_ptr(), is_passed),
        Err(errno) => errno,
    }
}

/// The same, which follows, and judges each directory on the way, the last one too.
fn with_judged_walk(directory: i32, path: &[u8], then: impl FnOnce(*const u8, bool) -> Answer) -> Answer {
    let Some(mut scratch) = Scratch::take() else { return ENOMEM };
    let (found, rest) = scratch.halves();
    let rest_length = match absolute(state(), directory, path, found, rest) {
        Ok(length) => length,
        Err(errno) => return errno,
    };
    if path.first() == Some(&b'/')
        && let Err(errno) = judge(Object::Descriptor(ROOT_DESCRIPTOR))
    {
        return errno;
    }
    // Above the directory where the path starts nothing is judged.
    match walk(state(), found, rest, rest_length, true, rest_length - path.len()) {
        Ok((start, is_passed)) => then(found[start..].as_ptr(), is_passed),
        Err(errno) => errno,
    }
}

/// Writes the path from the root of what the program names. `buffer` is used meanwhile.
fn absolute(state: &State, directory: i32, path: &[u8], buffer: &mut [u8], out: &mut [u8]) -> Result<usize, Answer> {
    let mut text = Text::new(out);
    if path.first() != Some(&b'/') {
        let length = if directory == AT_FDCWD {
            match kernel::getcwd(buffer) {
                ERANGE => ENAMETOOLONG,
                length if length < 0 => length,
                length => length - 1,
            }
        } else {
            kernel::readlinkat(AT_FDCWD, DescriptorPath::new(directory).as_ptr(), buffer)
        };
        if length < 0 {
            return Err(length);
        }
        text.put(state.shown(&buffer[..length as usize])).put(b"/");
    }
    text.put(path);
    let length = text.as_bytes().len();
    if text.fits() && length < PATH_MAX - 256 { Ok(length) } else { Err(ENAMETOOLONG) }
}

/// Follows the path in `rest` and writes what it finds to `found`. Gives where in `found` the path on the host starts, and
/// whether it is the host's. Directories behind `judged` bytes of the path, and behind any link, are judged.
fn walk(
    state: &State,
    found: &mut [u8],
    rest: &mut [u8],
    mut rest_length: usize,
    follow: bool,
    judged: usize,
) -> Result<(usize, bool), Answer> {
    let root = state.root.as_bytes().len();
    let mut out = Text::new(found);
    out.put(state.root.as_bytes());
    let (mut at, mut links, mut missing) = (0, 0, false);
    loop {
        while at < rest_length && rest[at] == b'/' {
            at += 1;
        }
        if at == rest_length {
            break;
        }
        let end = rest[at..rest_length].iter().position(|byte| *byte == b'/').map_or(rest_length, |length| at + length);
        let part = &rest[at..end];
        at = end;
        match part {
            b"." => continue,
            b".." => {
                let parent = out.as_bytes()[root..].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                out.cut(root + parent);
                continue;
            }
            _ => {}
        }
        // Something that is missing has nothing below it.
        if missing {
            return Err(ENOENT);
        }
        let before = out.as_bytes().len();
        out.put(b"/").put(part);
        if !out.fits() || out.as_bytes().len() + 256 > PATH_MAX {
            return Err(ENAMETOOLONG);
        }
        if state.passes() && leads_to_host(&out.as_bytes()[root..]) {
            continue;
        }
        let is_last = rest[at..rest_length].iter().all(|byte| *byte == b'/');
        if is_last && at == rest_length && !follow {
            break;
        }
        let length = out.as_bytes().len();
        let target_length = out.read_link_behind();
        if target_length == ENOENT {
            missing = true;
            continue;
        }
        if target_length <= 0 {
            if judged != usize::MAX && (links > 0 || at > judged) {
                judge(Object::At(AT_FDCWD, out.as_ptr()))?;
            }
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(ELOOP);
        }
        let target_length = target_length as usize;
        if target_length + 1 + rest_length - at > PATH_MAX - 256 {
            return Err(ENAMETOOLONG);
        }
        rest.copy_within(at..rest_length, target_length + 1);
        rest_length = target_length + 1 + rest_length - at;
        rest[target_length] = b'/';
        rest[..target_length].copy_from_slice(out.behind(length, target_length));
        at = 0;
        // What follows the link in the path makes it one to follow; nothing does not.
        if rest[target_length..rest_length].iter().all(|byte| *byte == b'/') {
            rest_length = if is_last { target_length } else { rest_length };
        }
        out.cut(if rest[0] == b'/' { root } else { before });
    }
    if state.passes() && leads_to_host(&out.as_bytes()[root..]) {
        return Ok((root, true));
    }
    Ok((0, false))
}

impl Text<'_> {
    /// Reads the link that this text names, into the room behind it.
    fn read_link_behind(&mut self) -> Answer {
        let path = self.as_ptr();
        kernel::readlinkat(AT_FDCWD, path, self.room())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_paths_are_known_by_their_first_part() {
        for (path, expected) in [
            (&b"/dev"[..], true),
            (b"/dev/null", true),
            (b"//proc/self", true),
            (b"/sys/", true),
            (b"//dev//", true),
            (b"/dev/pts/0", true),
            (b"/device", false),
            (b"/dev/pipes/x", false),
            (b"/dev/nul", false),
            (b"/dev/net/tun", false),
            (b"/dev/..", false),
            (b"/process", false),
            (b"/", false),
            (b"/etc/dev", false),
        ] {
            assert_eq!(is_passed(path), expected, "{path:?}");
        }
    }

    #[test]
    fn the_first_part_of_a_path_without_links_leads_to_the_host_or_none_does() {
        for (path, expected) in [
            (&b"/usr/include/sys/cdefs.h"[..], false),
            (b"dev/null", true),
            (b".//proc/self", true),
            (b"a/../dev", true),
            (b"/a/..", true),
            (b"/devices", false),
        ] {
            assert_eq!(names_hosts(path), expected, "{path:?}");
        }
    }

    #[test]
    fn the_kernel_goes_alone_only_below_where_a_path_starts() {
        for (path, expected) in
            [(&b"/var/mail/x"[..], true), (b"a/x", true), (b"//var/mail/x", false), (b"/x", false), (b"a/../b/x", false)]
        {
            assert_eq!(plain_walk(3, path).is_some(), expected, "{path:?}");
        }
    }

    #[test]
    fn a_straight_path_goes_from_part_to_part() {
        for (path, expected) in [
            (&b"/usr/bin/true"[..], true),
            (b"./configure", true),
            (b"../../bin/x", true),
            (b"x", true),
            (b"/usr/bin/true/", false),
            (b"/usr/bin/true/.", false),
            (b"/etc/passwd/../../bin/sh", false),
            (b"//bin/sh", false),
            (b"..", false),
            (b"", false),
        ] {
            assert_eq!(is_straight(path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_part_of_two_dots_is_found() {
        for (path, expected) in [(&b"/a/../b"[..], true), (b"..", true), (b"/a..", false), (b"/...", false)] {
            assert_eq!(has_dots(path), expected, "{path:?}");
        }
    }
}
