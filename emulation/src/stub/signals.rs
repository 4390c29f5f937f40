//! SIGSYS stays ours and unblocked; what the program says of it is remembered.

use super::arch::{Context, number as n, restore};
use super::kernel::{Answer, EINVAL, call};
use super::state::change;

pub(crate) const SIGSYS: u64 = 31;
const BIT: u64 = 1 << (SIGSYS - 1);

/// Registers `handler` for SIGSYS, on the stack that the program has set for signals, and unblocks it.
pub(crate) fn claim(handler: extern "C" fn(i32, *const u8, *mut Context)) {
    const INFO: u64 = 4;
    const RESTORER: u64 = 0x0400_0000;
    const ON_STACK: u64 = 0x0800_0000;
    const NOT_BLOCKED: u64 = 0x4000_0000;
    let restorer: extern "C" fn() = restore;
    let action = [handler as usize as u64, INFO | RESTORER | ON_STACK | NOT_BLOCKED, restorer as usize as u64, 0];
    call(n::RT_SIGACTION, [SIGSYS, action.as_ptr() as u64, 0, 8, 0, 0]);
    let own = BIT;
    call(n::RT_SIGPROCMASK, [1, &raw const own as u64, 0, 8, 0, 0]);
}

/// `rt_sigaction` with a new action.
pub(crate) fn action(signal: u64, new: *const [u64; 4], old: *mut [u64; 4], size: u64) -> Answer {
    // SAFETY: the program's structures; `new` is not null, for the filter.
    let mut wanted = unsafe { *new };
    if signal == SIGSYS {
        let before = core::mem::replace(&mut change().own_action, wanted);
        if !old.is_null() {
            // SAFETY: as above.
            unsafe { *old = before };
        }
        return 0;
    }
    wanted[3] &= !BIT;
    call(n::RT_SIGACTION, [signal, wanted.as_ptr() as u64, old as u64, size, 0, 0])
}

/// `rt_sigprocmask` with a new set: the mask that comes into force when the handler returns.
pub(crate) fn mask(how: u64, new: *const u64, old: *mut u64, context: &mut Context) -> Answer {
    // SAFETY: the program's; `new` is not null, for the filter.
    let wanted = unsafe { *new };
    let before = context.signal_mask;
    let after = match how {
        0 => before | wanted,
        1 => before & !wanted,
        2 => wanted,
        _ => return EINVAL,
    };
    if !old.is_null() {
        // SAFETY: as above.
        unsafe { *old = before };
    }
    context.signal_mask = after & !BIT;
    0
}

/// A call that waits with a mask; it is the argument `at`, and a pointer to one with `pselect6`.
pub(crate) fn wait(number: i64, mut arguments: [u64; 6], at: usize) -> Answer {
    let mut pair = [0_u64; 2];
    let mut mask = 0;
    let mut place = arguments[at];
    if number == n::PSELECT6 {
        // SAFETY: the program's pair of a pointer and a size.
        pair = unsafe { *(place as *const [u64; 2]) };
        place = pair[0];
    }
    if place != 0 {
        // SAFETY: the program's mask.
        mask = unsafe { *(place as *const u64) } & !BIT;
    }
    if number != n::PSELECT6 {
        arguments[at] = &raw const mask as u64;
    } else if place != 0 {
        pair[0] = &raw const mask as u64;
        arguments[at] = pair.as_ptr() as u64;
    }
    call(number, arguments)
}
