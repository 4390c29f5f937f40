//! SIGSYS stays ours and unblocked; what the program says of it is remembered.

use super::arch::{Context, number as n};
use super::kernel::{Answer, EFAULT, EINVAL, call};
use super::memory;
use super::state::{change, state};

pub(crate) const SIGSYS: u64 = 31;
const BIT: u64 = 1 << (SIGSYS - 1);

/// `struct sigaction` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

impl Action {
    /// What the kernel does by itself.
    pub(crate) const DEFAULT: Self = Self { handler: 0, flags: 0, restorer: 0, mask: 0 };
}

/// Registers `handler` for SIGSYS, on the stack that the program has set for signals. Nobody in a step has it blocked.
pub(crate) fn claim(handler: extern "C" fn(i32, *const u8, *mut Context)) {
    const INFO: u64 = 4;
    const ON_STACK: u64 = 0x0800_0000;
    const NOT_BLOCKED: u64 = 0x4000_0000;
    let action = Action {
        handler: handler as usize as u64,
        flags: INFO | ON_STACK | NOT_BLOCKED | super::arch::RESTORER,
        restorer: super::arch::restore as extern "C" fn() as usize as u64,
        mask: 0,
    };
    call(n::RT_SIGACTION, [SIGSYS, &raw const action as u64, 0, 8, 0, 0]);
}

/// `rt_sigaction` with a new action.
pub(crate) fn action(signal: u64, new: u64, old: u64, size: u64) -> Answer {
    let mut bytes = [0_u8; size_of::<Action>()];
    if size != 8 {
        return EINVAL;
    }
    if !memory::read(new, &mut bytes) {
        return EFAULT;
    }
    // SAFETY: numbers only.
    let mut wanted: Action = unsafe { core::mem::transmute(bytes) };
    if signal == SIGSYS {
        let before = state().own_action;
        // SAFETY: as above.
        let bytes: [u8; size_of::<Action>()] = unsafe { core::mem::transmute(before) };
        if old != 0 && !memory::write(old, &bytes) {
            return EFAULT;
        }
        // What a child says again by `vfork` is no change.
        if wanted != before {
            change().own_action = wanted;
        }
        return 0;
    }
    wanted.mask &= !BIT;
    call(n::RT_SIGACTION, [signal, &raw const wanted as u64, old, size, 0, 0])
}

/// `rt_sigprocmask` with a new set. A handler runs under the mask of the program; `returned`, if there is one, is the mask that
/// comes into force when it returns.
pub(crate) fn mask(how: u64, new: u64, old: u64, size: u64, returned: Option<&mut u64>) -> Answer {
    let mut bytes = [0; 8];
    if size != 8 {
        return EINVAL;
    }
    if !memory::read(new, &mut bytes) {
        return EFAULT;
    }
    let wanted = u64::from_ne_bytes(bytes) & !BIT;
    let Some(returned) = returned else {
        return call(n::RT_SIGPROCMASK, [how, &raw const wanted as u64, old, 8, 0, 0]);
    };
    let after = match how as u32 {
        0 => *returned | wanted,
        1 => *returned & !wanted,
        2 => wanted,
        _ => return EINVAL,
    };
    if old != 0 {
        let written = call(n::RT_SIGPROCMASK, [0, 0, old, 8, 0, 0]);
        if written < 0 {
            return written;
        }
    }
    *returned = after;
    0
}

/// A call that waits with a mask; it is the argument `at`, and a pointer to one with `pselect6`.
pub(crate) fn wait(number: i64, mut arguments: [u64; 6], at: usize) -> Answer {
    let mut pair = [0_u64; 2];
    let mut mask = 0_u64;
    let mut place = arguments[at];
    let mut bytes = [0; 16];
    if number == n::PSELECT6 {
        if !memory::read(place, &mut bytes) {
            return EFAULT;
        }
        // SAFETY: numbers only.
        pair = unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(bytes) };
        place = pair[0];
    }
    if place != 0 {
        let Some(bytes) = bytes.first_chunk_mut::<8>() else { return EFAULT };
        if !memory::read(place, bytes) {
            return EFAULT;
        }
        mask = u64::from_ne_bytes(*bytes) & !BIT;
    }
    if number != n::PSELECT6 {
        arguments[at] = &raw const mask as u64;
    } else if place != 0 {
        pair[0] = &raw const mask as u64;
        arguments[at] = pair.as_ptr() as u64;
    }
    call(number, arguments)
}
