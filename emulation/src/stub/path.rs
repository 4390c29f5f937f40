//! Where a path of the program is on the host.
//!
//! The kernel walks, with `openat2` and the root directory's descriptor, so that links and `..` stay inside. Only what it
//! cannot know is walked here: /proc, /sys and /dev are the host's, also when a link leads there. So a path is tried in the
//! root first, and walked part by part when nothing was found.

use super::arch::{O_DIRECTORY, O_NOFOLLOW};
use super::kernel::{
    self, AT_FDCWD, Answer, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, EXDEV, O_CLOEXEC, O_PATH, PATH_MAX, RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
};
use super::scratch::Scratch;
use super::state::{ROOT_DESCRIPTOR, State, state};
use super::text::{self, DescriptorPath, Text};

const RESOLVE_NO_SYMLINKS: u64 = 4;
/// As many links as the kernel follows.
const MAX_LINKS: u32 = 40;

/// The last part of a path, in its directory.
pub(crate) struct Place {
    pub(crate) directory: i32,
    pub(crate) name: *const u8,
    owned: bool,
}

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
    match bytes.first() {
        None => return ENOENT,
        Some(b'/') => {
            if is_passed(bytes) && state().passes() && !has_dots(bytes) {
                return open_passed(path, bytes, flags, 0);
            }
            let found = kernel::openat2(ROOT_DESCRIPTOR, path, flags, 0, RESOLVE_IN_ROOT);
            if found != ENOENT && found != EXDEV || found == ENOENT && !has_links(path) {
                return found;
            }
        }
        Some(_) => {
            let found = kernel::openat2(directory, path, flags, 0, RESOLVE_BENEATH);
            match found {
                EXDEV => {}
                ENOENT if bytes.contains(&b'/') => {}
                // A link of /proc, which is no path.
                ELOOP if flags & O_NOFOLLOW == 0 => {}
                _ => return found,
            }
        }
    }
    walk_and_open(directory, bytes, flags, 0)
}

/// Opens what a walk finds, or creates it there.
pub(crate) fn walk_and_open(directory: i32, path: &[u8], flags: u64, mode: u64) -> Answer {
    with_walk(directory, path, flags & O_NOFOLLOW == 0, |found, is_passed| {
        if is_passed {
            // SAFETY: the walk ends its path with zero.
            open_passed(found, unsafe { text::bytes(found) }, flags, mode)
        } else {
            kernel::openat(AT_FDCWD, found, flags | O_NOFOLLOW, mode)
        }
    })
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
    if bytes[0] == b'/' && is_passed(bytes) && state().passes() && !has_dots(bytes) {
        return Ok(Place { directory: AT_FDCWD, name: path, owned: false });
    }
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
    let Some(slash) = bytes[..end].iter().rposition(|byte| *byte == b'/') else {
        return Ok(Place { directory, name: path, owned: false });
    };
    let name = path.wrapping_add(slash + 1);
    let parent = &bytes[..slash];
    if parent.iter().all(|byte| *byte == b'/') {
        return match bytes[slash + 1..end] {
            // The root itself.
            [] | [b'.'] | [b'.', b'.'] => Ok(Place { directory: ROOT_DESCRIPTOR, name: c".".as_ptr().cast(), owned: false }),
            _ => Ok(Place { directory: ROOT_DESCRIPTOR, name, owned: false }),
        };
    }
    let flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    let found = if parent.len() < 256 {
        let mut buffer = [0; 256];
        open(directory, Text::new(&mut buffer).put(parent).as_ptr(), flags)
    } else {
        let mut scratch = Scratch::take().ok_or(ENOMEM)?;
        let mut text = Text::new(scratch.halves().0);
        if !text.put(parent).fits() {
            return Err(ENAMETOOLONG);
        }
        open(directory, text.as_ptr(), flags)
    };
    if found < 0 { Err(found) } else { Ok(Place { directory: found as i32, name, owned: true }) }
}

/// Opens something of the host's.
fn open_passed(path: *const u8, bytes: &[u8], flags: u64, mode: u64) -> Answer {
    if let Some(inside) = below_own_root(bytes) {
        return open(AT_FDCWD, inside.as_ptr(), flags);
    }
    if is_own_program(bytes) {
        return kernel::openat(AT_FDCWD, state().program_real.as_ptr(), flags, 0);
    }
    kernel::openat(AT_FDCWD, path, flags, mode)
}

/// Whether a path from the root is one of the host's.
pub(crate) fn is_passed(path: &[u8]) -> bool {
    let skip = path.iter().take_while(|byte| **byte == b'/').count();
    let below = |name: &[u8]| path[skip..].strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    match path.get(skip) {
        Some(b'd') => below(b"dev") && !below(b"dev/pipes"),
        Some(b'p') => below(b"proc"),
        Some(b's') => below(b"sys"),
        _ => false,
    }
}

/// Whether a path names the program itself.
pub(crate) fn is_own_program(path: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(b"/proc/") else { return false };
    match rest.strip_suffix(b"/exe") {
        Some(b"self" | b"thread-self") => true,
        Some(process) => {
            let (number, rest) = text::number(process);
            rest.is_empty() && !process.is_empty() && number == kernel::getpid() as u64
        }
        None => false,
    }
}

/// What comes behind `/proc/self/root`; the bytes end with zero, for they end the path.
fn below_own_root(path: &[u8]) -> Option<&[u8]> {
    path.strip_prefix(b"/proc/self/root").filter(|rest| rest.first() == Some(&b'/'))
}

/// Whether a path has a part `..`.
fn has_dots(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part == b"..")
}

/// Whether there is a link on the way to what does not exist: it may lead to what is the host's.
fn has_links(path: *const u8) -> bool {
    let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS;
    let found = kernel::openat2(ROOT_DESCRIPTOR, path, O_PATH | O_CLOEXEC, 0, resolve);
    if found >= 0 {
        kernel::close(found as i32);
    }
    found != ENOENT
}

/// Walks along a path and hands over where it leads on the host, and whether that is the host's.
pub(crate) fn with_walk(directory: i32, path: &[u8], follow: bool, then: impl FnOnce(*const u8, bool) -> Answer) -> Answer {
    let Some(mut scratch) = Scratch::take() else { return ENOMEM };
    let (found, rest) = scratch.halves();
    let Ok(rest_length) = absolute(state(), directory, path, found, rest) else { return ENOENT };
    match walk(state(), found, rest, rest_length, follow) {
        Ok((start, is_passed)) => then(found[start..].as_ptr(), is_passed),
        Err(errno) => errno,
    }
}

/// Writes the path from the root of what the program names. `buffer` is used meanwhile.
fn absolute(state: &State, directory: i32, path: &[u8], buffer: &mut [u8], out: &mut [u8]) -> Result<usize, Answer> {
    let mut text = Text::new(out);
    if path.first() != Some(&b'/') {
        let length = if directory == AT_FDCWD {
            kernel::getcwd(buffer) - 1
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
/// whether it is the host's.
fn walk(state: &State, found: &mut [u8], rest: &mut [u8], mut rest_length: usize, follow: bool) -> Result<(usize, bool), Answer> {
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
        if state.passes() && is_passed(&out.as_bytes()[root..]) {
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
    if state.passes() && is_passed(&out.as_bytes()[root..]) {
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
            (b"/device", false),
            (b"/dev/pipes/x", false),
            (b"/process", false),
            (b"/", false),
            (b"/etc/dev", false),
        ] {
            assert_eq!(is_passed(path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_part_of_two_dots_is_found() {
        for (path, expected) in [(&b"/a/../b"[..], true), (b"..", true), (b"/a..", false), (b"/...", false)] {
            assert_eq!(has_dots(path), expected, "{path:?}");
        }
    }
}
