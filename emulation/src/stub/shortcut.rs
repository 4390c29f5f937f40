//! Calls without a signal. A signal costs as much as ten calls. So a place of the program from which one call was trapped again
//! and again is changed: the instruction before the call becomes a jump to the stub, by way of a few instructions near by. The
//! change is in the memory of this process alone, and of its copies.
//!
//! Only what can be changed safely is: the instruction that names the call, shortly before it, into the middle of which nobody can
//! jump; the call itself, and what stands between the two, stays as it is. While the process has one thread, nobody else executes it
//! meanwhile (but for a child that was made to share its memory and not to stop it, which only the kernel's own tests do). Where the program has, at that moment, a stack for its
//! signals it may be that its own is small (as those of Go's routines are), and everything stays with the signal.

use super::arch::{self, Context, DETOUR_LENGTH, JUMP_LENGTH, number as n};
use super::kernel::{self, AT_FDCWD, EINVAL, O_CLOEXEC, O_RDWR, Stat, call};
use super::memory::{self, PAGE};
use super::state;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// As many traps cost about as much as a shortcut.
const WORTH: u64 = 3;
/// Bytes of a piece of memory for detours.
const PIECE: usize = 4096;
const PIECES: usize = 8;

/// Memory for detours: where it is, and how many bytes of it are used. Copies of the process have copies of it.
struct Piece {
    start: AtomicU64,
    used: AtomicUsize,
}
static DETOURS: [Piece; PIECES] = [const { Piece { start: AtomicU64::new(0), used: AtomicUsize::new(0) } }; PIECES];

/// After a trap: makes a shortcut if it is worth it.
pub(crate) fn consider(number: i64, context: &Context) {
    let place = context.place();
    let count = state::count_trap(place);
    // Later again, but seldom: what stood against it may be over.
    let is_due = count == WORTH || count > WORTH && count.is_power_of_two();
    let [_, _, signal_stack_bytes] = context.signal_stack();
    if is_due && signal_stack_bytes == 0 && is_alone() {
        make(number, place);
    }
}

/// Whether the process has one thread, and nobody else its memory.
fn is_alone() -> bool {
    const MEMORY: u64 = 0x100;
    // Where there is nobody to part from this changes nothing, and otherwise it is refused.
    match call(n::UNSHARE, [MEMORY, 0, 0, 0, 0, 0]) {
        0 => true,
        EINVAL => false,
        // The host lets nobody part anything.
        _ => state::owns_memory() && has_one_thread(),
    }
}

fn has_one_thread() -> bool {
    // Two links and one for each thread.
    let mut tasks = Stat::empty();
    kernel::fstatat(AT_FDCWD, c"/proc/self/task".as_ptr().cast(), &mut tasks, 0) == 0 && tasks.links == 3
}

fn make(number: i64, place: u64) -> Option<()> {
    // A jump over the end of a page could stand half in memory of another kind.
    let site = arch::site(place, number).filter(|site| site.start / PAGE == (site.start + JUMP_LENGTH as u64 - 1) / PAGE)?;
    let (detour, jump) = reserve_near(site.start)?;
    let is_made = write_to_code(&arch::detour(&site, place), detour);
    // What the program itself may write to stays so; otherwise the kernel refuses this.
    (is_made && (memory::write(site.start, &jump) || write_to_code(&jump, site.start))).then_some(())
}

/// Writes to memory that cannot be written to.
fn write_to_code(bytes: &[u8], to: u64) -> bool {
    if write_unprotected(bytes, to) {
        return true;
    }
    // Where no memory may be changed and executed.
    let file = kernel::openat(AT_FDCWD, c"/proc/self/mem".as_ptr().cast(), O_RDWR | O_CLOEXEC, 0);
    if file < 0 {
        return false;
    }
    let written = call(n::PWRITE64, [file as u64, bytes.as_ptr() as u64, bytes.len() as u64, to, 0, 0]);
    kernel::close(file as i32);
    written == bytes.len() as i64
}

/// The same by making it memory that can be written to for a moment.
fn write_unprotected(bytes: &[u8], to: u64) -> bool {
    const READ_AND_EXECUTE: u64 = 5;
    const WRITE: u64 = 2;
    let start = to & !(PAGE - 1);
    let length = (to + bytes.len() as u64).next_multiple_of(PAGE) - start;
    let protect = |protection| call(n::MPROTECT, [start, length, protection, 0, 0, 0]);
    if protect(READ_AND_EXECUTE | WRITE) != 0 {
        return false;
    }
    // SAFETY: code of this process, which has one thread, on pages that can be written to now.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
    protect(READ_AND_EXECUTE) == 0
}

/// Room for a detour, and the jump there. Nobody gets it again, for a handler of the program may run in the middle of all this, make
/// a shortcut itself, or never return.
fn reserve_near(start: u64) -> Option<(u64, [u8; JUMP_LENGTH])> {
    for piece in &DETOURS {
        if piece.start.load(Ordering::Relaxed) == 0 {
            map_near(piece, start)?;
        }
        let address = piece.start.load(Ordering::Relaxed);
        if arch::jump(start, address).is_none() || arch::jump(start, address + PIECE as u64).is_none() {
            continue;
        }
        let used = piece.used.fetch_add(DETOUR_LENGTH, Ordering::Relaxed);
        if used + DETOUR_LENGTH <= PIECE {
            let detour = address + used as u64;
            return arch::jump(start, detour).map(|jump| (detour, jump));
        }
    }
    None
}

/// Maps memory that a jump from `start` reaches: below libraries and programs there is mostly room, and where programs stand
/// lowest it is above.
fn map_near(piece: &Piece, start: u64) -> Option<()> {
    const BELOW: u64 = 64 << 20;
    const ABOVE: u64 = 1 << 30;
    const READ_AND_EXECUTE: u64 = 5;
    const PRIVATE_ANONYMOUS: u64 = 0x22;
    let wish = if start > 2 * BELOW { start - BELOW } else { start + ABOVE } & !(PIECE as u64 - 1);
    let address = call(n::MMAP, [wish, PIECE as u64, READ_AND_EXECUTE, PRIVATE_ANONYMOUS, u64::MAX, 0]);
    if kernel::is_error(address) {
        return None;
    }
    let is_near = arch::jump(start, address as u64).is_some();
    // A handler may have been quicker.
    if !is_near || piece.start.compare_exchange(0, address as u64, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        kernel::unmap(address as u64, PIECE);
    }
    is_near.then_some(())
}
