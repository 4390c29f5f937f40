//! The program that runs in each process of an emulated step. Built by build.rs, not by cargo.
#![no_std]
#![no_main]

#[allow(dead_code, reason = "the builder's half")]
mod launch;
#[allow(dead_code, reason = "the builder's half")]
mod record;
mod stub;

/// Says where, and ends the process: nothing here may unwind.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    stub::panicked(info)
}

/// `core` was compiled by somebody who unwinds, and mentions this.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
