//! Buffers for long paths. A handler may stand on a stack of a few kilobytes, so nothing large lives there.

use super::kernel;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// Bytes of one buffer: two paths.
pub(crate) const LENGTH: usize = 2 * kernel::PATH_MAX;
const COUNT: usize = 32;

struct Pool {
    taken: [AtomicBool; COUNT],
    buffers: UnsafeCell<[[u8; LENGTH]; COUNT]>,
}

// SAFETY: a buffer is used by whoever has set its flag, and by nobody else.
unsafe impl Sync for Pool {}

#[unsafe(link_section = ".bss.large")]
static POOL: Pool = Pool { taken: [const { AtomicBool::new(false) }; COUNT], buffers: UnsafeCell::new([[0; LENGTH]; COUNT]) };

/// A buffer, given back when dropped. One that a program jumps out of, by a handler of its own, is lost; then memory of its
/// own serves.
pub(crate) struct Scratch {
    address: *mut u8,
    slot: Option<usize>,
}

impl Scratch {
    /// A buffer; `None` if the process has no memory left.
    pub(crate) fn take() -> Option<Self> {
        for (slot, taken) in POOL.taken.iter().enumerate() {
            if !taken.load(Ordering::Relaxed) && !taken.swap(true, Ordering::Acquire) {
                let address = POOL.buffers.get().cast::<u8>().wrapping_add(slot * LENGTH);
                return Some(Self { address, slot: Some(slot) });
            }
        }
        let address = kernel::map(LENGTH);
        (!kernel::is_error(address)).then_some(Self { address: address as *mut u8, slot: None })
    }

    /// The two halves of the buffer, each large enough for a path.
    pub(crate) fn halves(&mut self) -> (&mut [u8], &mut [u8]) {
        // SAFETY: this value owns the buffer, which is that long.
        unsafe { core::slice::from_raw_parts_mut(self.address, LENGTH) }.split_at_mut(kernel::PATH_MAX)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match self.slot {
            Some(slot) => POOL.taken[slot].store(false, Ordering::Release),
            None => kernel::unmap(self.address as u64, LENGTH),
        }
    }
}
