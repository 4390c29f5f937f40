//! Directories that a path has led through without a link. Below them the kernel finds names by itself, with one call, where
//! otherwise it has to be told to stay in the root, and the directory to be opened for it.
//!
//! What is known holds as long as no directory of the step is removed or moved, for only in the place of one can a link come to
//! stand. So all processes of a step share a counter of such moves: a page of a file beside the root, which a process maps when it
//! has looked up some paths, or moves a directory. What was found out at another count is forgotten. Nothing depends on it where
//! the file cannot be mapped.

use super::kernel::{self, AT_FDCWD, Answer, O_CLOEXEC, O_RDWR, Stat, call};
use super::ownership::{Object, is_outside};
use super::state::{self, Lent, ROOT_DESCRIPTOR, setting, state};
use super::text::{self, Text};
use super::{arch::number as n, path};
use crate::record;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A process that looks up fewer paths gains nothing.
const WORTH: u32 = 24;
/// Bytes of the longest path of a directory that is remembered; with a name behind it and what stands before it for the kernel it
/// fits wherever the stub puts paths together.
const LONGEST: usize = 111;
/// Bytes of the longest path that is looked up so.
const LONGEST_PATH: usize = 255;
const ROWS: usize = 32;

/// The page of the counter: of the stub's own until the file is mapped in its place.
#[cfg_attr(target_arch = "x86_64", repr(align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(align(65536)))]
struct Moves {
    begun: AtomicU64,
    /// Less than those that have begun while one is going on, and for good if its process was killed meanwhile.
    ended: AtomicU64,
}
#[unsafe(link_section = ".bss.moves")]
static MOVES: Moves = Moves { begun: AtomicU64::new(0), ended: AtomicU64::new(0) };

/// How many moves there have been, if none is going on.
fn moves() -> Option<u64> {
    let ended = MOVES.ended.load(Ordering::Acquire);
    (MOVES.begun.load(Ordering::Acquire) == ended).then_some(ended)
}

/// How far the process is with it.
static STAGE: AtomicU32 = AtomicU32::new(0);
/// The file is mapped.
const MAPPED: u32 = u32::MAX;
/// It cannot be.
const REFUSED: u32 = u32::MAX - 1;

/// How often the working directory was changed; relative paths are known from there.
static HERE: AtomicU32 = AtomicU32::new(0);
/// Relative paths lead elsewhere for one process than for another that shares its memory.
const NOWHERE: u32 = u32::MAX;
/// In place of the count for paths from the root, which stays.
const FROM_ROOT: u32 = u32::MAX - 1;

/// A directory, where its path starts, and when it was found.
struct Known {
    moves: u64,
    start: u32,
    length: u32,
    path: [u8; LONGEST + 1],
}

#[unsafe(link_section = ".bss.large")]
static KNOWN: [Lent<Known>; ROWS] = [const { Lent::new(Known { moves: 0, start: 0, length: 0, path: [0; LONGEST + 1] }) }; ROWS];

/// A path whose directory may be known.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    /// From where the kernel goes.
    pub(crate) directory: i32,
    /// What it goes: the program's path, without a slash at its start.
    pub(crate) path: *const u8,
    /// Its directory; never empty.
    parent: &'a [u8],
    start: u32,
    /// The count of moves before anything was looked up.
    moves: u64,
}

impl<'a> Way<'a> {
    /// The way of `path`; `None` for one that is not followed so.
    pub(crate) fn of(directory: i32, path: &'a [u8]) -> Option<Self> {
        // From an open directory nothing is known.
        if path.len() > LONGEST_PATH || !counts() || !state().passes() || !state().credentials.may_pass_everywhere() {
            return None;
        }
        if directory != AT_FDCWD && path.first() != Some(&b'/') {
            return None;
        }
        let slashes = path.iter().take_while(|byte| **byte == b'/').count();
        let rest = &path[slashes..];
        let end = rest.iter().rposition(|byte| *byte == b'/')?;
        let here = HERE.load(Ordering::Relaxed);
        let (directory, start) = match slashes {
            0 if here != NOWHERE => (AT_FDCWD, here),
            0 => return None,
            _ => (ROOT_DESCRIPTOR, FROM_ROOT),
        };
        // What ends with a slash is meant behind a link, too.
        if end > LONGEST
            || end + 1 == rest.len()
            || path::has_dots(rest)
            || path::begins_with_hosts(rest)
            || path::leads_through_links(path)
        {
            return None;
        }
        let moves = moves()?;
        Some(Self { directory, path: rest.as_ptr(), parent: &rest[..end], start, moves })
    }

    /// Whether the kernel can go it by itself, the last part apart.
    pub(crate) fn is_known(&self) -> bool {
        self.row().with(|content| {
            content.moves == self.moves && content.start == self.start && content.path[..content.length as usize] == *self.parent
        }) == Some(true)
    }

    /// Whether nothing was moved since it was made: what the kernel found meanwhile is what is meant.
    pub(crate) fn still_holds(&self) -> bool {
        moves() == Some(self.moves)
    }

    /// The kernel has gone it, and there was no link but perhaps the last part.
    pub(crate) fn remember(&self) {
        self.row().with(|content| {
            content.path[..self.parent.len()].copy_from_slice(self.parent);
            (content.moves, content.start, content.length) = (self.moves, self.start, self.parent.len() as u32);
        });
    }

    /// The directory as a text that ends with zero.
    pub(crate) fn parent(&self) -> Parent {
        let mut parent = Parent([0; LONGEST + 1]);
        parent.0[..self.parent.len()].copy_from_slice(self.parent);
        parent
    }

    /// Whether what stands there is certainly in the root.
    pub(crate) fn is_inside(&self) -> bool {
        self.start == FROM_ROOT || here_is_inside(self.start)
    }

    fn row(&self) -> &'static Lent<Known> {
        &KNOWN[(text::hash(self.parent) ^ u64::from(self.start)) as usize % ROWS]
    }
}

/// The path of a directory, from where its way starts.
pub(crate) struct Parent([u8; LONGEST + 1]);

impl Parent {
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

/// Whether the working directory is in the root, and none of the host's.
fn here_is_inside(here: u32) -> bool {
    const IS_LOOKED_AT: u64 = 2;
    /// What was found out, of which directory.
    static FOUND: AtomicU64 = AtomicU64::new(0);
    let own = u64::from(here) << 2 | IS_LOOKED_AT;
    let found = FOUND.load(Ordering::Relaxed);
    if found & !1 == own {
        return found & 1 != 0;
    }
    let mut real = Stat::empty();
    let is_inside = path::HERE.stat(&mut real) == 0 && !is_outside(real.device);
    FOUND.store(own | u64::from(is_inside), Ordering::Relaxed);
    is_inside
}

/// Whether the working directory is the host's /dev.
pub(crate) fn is_in_devices() -> bool {
    let number = HERE.load(Ordering::Relaxed);
    if number != NOWHERE && here_is_inside(number) {
        return false;
    }
    let (mut here, mut devices) = (Stat::empty(), Stat::empty());
    path::HERE.stat(&mut here) == 0
        && is_outside(here.device)
        && Object::At(AT_FDCWD, c"/dev".as_ptr().cast()).stat(&mut devices) == 0
        && (here.device, here.inode) == (devices.device, devices.inode)
}

/// Whether moves are counted in this process.
fn counts() -> bool {
    match STAGE.load(Ordering::Relaxed) {
        MAPPED => true,
        REFUSED => false,
        count if count < WORTH => {
            STAGE.store(count + 1, Ordering::Relaxed);
            false
        }
        _ => map() == 0,
    }
}

/// Maps the file in the place of the page.
#[cold]
fn map() -> Answer {
    const READ_AND_WRITE: u64 = 3;
    const SHARED_FIXED: u64 = 0x11;
    let mut buffer = [0; 600];
    let file = kernel::openat(AT_FDCWD, path_of_moves(&mut buffer).as_ptr(), O_RDWR | O_CLOEXEC, 0);
    if file < 0 {
        return refused(file);
    }
    let (address, length) = (&raw const MOVES as u64, size_of::<Moves>() as u64);
    let mapped = call(n::MMAP, [address, length, READ_AND_WRITE, SHARED_FIXED, file as u64, 0]);
    kernel::close(file as i32);
    if kernel::is_error(mapped) {
        return refused(mapped);
    }
    STAGE.store(MAPPED, Ordering::Relaxed);
    0
}

/// Where the file is on the host. It fits: of a longer root no step starts.
fn path_of_moves(buffer: &mut [u8; 600]) -> Text<'_> {
    let mut text = Text::new(buffer);
    text.put(setting().base.as_bytes()).put(record::OWNERS.as_bytes()).put(b"/").put(record::MOVES.as_bytes());
    text
}

/// Where the builder has put no file nobody counts; of what this process lacks (descriptors, memory) others may have enough.
fn refused(errno: Answer) -> Answer {
    if errno == kernel::ENOENT {
        STAGE.store(REFUSED, Ordering::Relaxed);
    }
    errno
}

/// While a directory is moved or removed.
pub(crate) struct Moving(());

/// Says that a directory is about to be moved or removed. If other processes could not be told, it must not be.
pub(crate) fn moving() -> Result<Moving, Answer> {
    match STAGE.load(Ordering::Relaxed) {
        MAPPED | REFUSED => {}
        _ => match map() {
            0 | kernel::ENOENT => {}
            errno => return Err(errno),
        },
    }
    MOVES.begun.fetch_add(1, Ordering::AcqRel);
    Ok(Moving(()))
}

impl Drop for Moving {
    fn drop(&mut self) {
        MOVES.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// At the start of a step: where the file cannot be shared it goes, and no process knows anything.
pub(crate) fn settle() {
    const NO_FILE: Answer = kernel::ENOENT;
    if !matches!(map(), 0 | NO_FILE) {
        let mut buffer = [0; 600];
        call(n::UNLINKAT, [AT_FDCWD as u64, path_of_moves(&mut buffer).as_ptr() as u64, 0, 0, 0, 0]);
    }
}

/// Lets `change` make relative paths start elsewhere.
pub(crate) fn change_here(change: impl FnOnce() -> Answer) -> Answer {
    // Once more afterwards, for another thread that has looked meanwhile.
    forget_here();
    let changed = change();
    forget_here();
    changed
}

fn forget_here() {
    // A child that borrows this memory has a working directory of its own, and its parent keeps the old one.
    let owns = state::owns_memory();
    let next = |here: u32| (here != NOWHERE).then_some(if owns { (here + 1) % FROM_ROOT } else { NOWHERE });
    // Refused where there is none any more.
    let _ = HERE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
}

/// The threads of this process are about to have a working directory each.
pub(crate) fn part_here() {
    HERE.store(NOWHERE, Ordering::Relaxed);
}
