//! The memory of the program, where the kernel is not the one who touches it: a pointer that is no pointer is to give `EFAULT`,
//! and a program that is stopped by the kernel's signal would never know.
//!
//! The kernel is asked for each page, by a call that reads a word and does nothing else; docs/emulation.md says what it costs. It is
//! not asked twice for a page of the heap or of the first stack while a process names the same few. These stay where they are: only
//! what a program has given back there, and names again, is not refused but ends it, as its own next look would. Other memory comes
//! and goes (stacks of threads do), and is asked for each time.

use super::arch::{ADDRESS_LIMIT, number as n};
use super::kernel::{EFAULT, call};
use core::sync::atomic::{AtomicU64, Ordering};

pub(crate) const PAGE: u64 = 4096;
/// No program has memory below, or above the limit of the architecture.
const LOWEST: u64 = 4096;

/// Whether the page of an address can be read. The kernel reads a mask there, and then refuses the flags that come with it. Of the
/// calls that do nothing but that it is one that the filter lets through by its number alone, which makes it the cheapest.
fn is_readable(address: u64) -> bool {
    const UNKNOWN: u64 = 0xffff_ffff;
    if !(LOWEST..ADDRESS_LIMIT).contains(&address) {
        return false;
    }
    let page = address / PAGE;
    let row = &READABLE[page as usize % PAGES];
    if row.load(Ordering::Relaxed) == page {
        return true;
    }
    let arguments = [u64::MAX, address & !7, 8, UNKNOWN, 0, 0];
    let is_readable = call(n::SIGNALFD4, arguments) != EFAULT;
    if is_readable && stays(address) {
        row.store(page, Ordering::Relaxed);
    }
    is_readable
}

const PAGES: usize = 16;
/// Pages that could be read when the program named them last.
static READABLE: [AtomicU64; PAGES] = [const { AtomicU64::new(0) }; PAGES];

/// Where the first stack began.
static STACK: AtomicU64 = AtomicU64::new(0);

/// Takes note of where the first stack begins; it grows down from there.
pub(crate) fn note_stack(start: u64) {
    STACK.store(start, Ordering::Relaxed);
}

/// Whether an address is in the heap, which follows the stub, or in the last part of the first stack.
fn stays(address: u64) -> bool {
    const HEAP: u64 = 1 << 36;
    const STACK_LENGTH: u64 = 1 << 20;
    let (heap, stack) = (super::state::end_of_stub(), STACK.load(Ordering::Relaxed));
    (heap..heap + HEAP).contains(&address) || (stack.saturating_sub(STACK_LENGTH)..stack).contains(&address)
}

/// Reads from an address that the program gave.
pub(crate) fn read(address: u64, out: &mut [u8]) -> bool {
    let last = address.wrapping_add(out.len() as u64 - 1);
    if last < address || !is_readable(address) || address / PAGE != last / PAGE && !is_readable(last) {
        return false;
    }
    // SAFETY: both pages, for nothing that is read so is longer than one, can be read.
    unsafe { core::ptr::copy_nonoverlapping(address as *const u8, out.as_mut_ptr(), out.len()) };
    true
}

/// Writes to an address that the program gave; the kernel does it.
pub(crate) fn write(address: u64, bytes: &[u8]) -> bool {
    let (own, theirs) = ([bytes.as_ptr() as u64, bytes.len() as u64], [address, bytes.len() as u64]);
    if address < LOWEST {
        return false;
    }
    let process = super::kernel::getpid() as u64;
    call(n::PROCESS_VM_WRITEV, [process, own.as_ptr() as u64, 1, theirs.as_ptr() as u64, 1, 0]) == bytes.len() as i64
}

/// A text that can be read to its end, or as far as anybody reads; null otherwise.
pub(crate) fn text(address: u64) -> *const u8 {
    if is_text(address) { address as *const u8 } else { core::ptr::null() }
}

fn is_text(address: u64) -> bool {
    let mut at = address;
    while is_readable(at) {
        let end = (at | (PAGE - 1)).wrapping_add(1);
        // SAFETY: the rest of a page that can be read.
        let rest = unsafe { core::slice::from_raw_parts(at as *const u8, (end - at) as usize) };
        if super::text::find(rest, 0).is_some() || end.wrapping_sub(address) > super::kernel::PATH_MAX as u64 {
            return true;
        }
        at = end;
    }
    false
}
