//! What the builder must know of the program that runs in each process of an emulated step: its bytes, how it is told what
//! to run ([`launch`]), and how it records what the kernel refuses to store ([`record`]). Pure.
//!
//! The program itself is in `stub/`, built apart (`build.rs`) because it can use no library; docs/emulation.md describes it.
#![no_std]

pub mod launch;
pub mod record;
#[cfg(any(test, clippy))]
#[allow(dead_code, reason = "the program that uses it is built apart")]
mod stub;

/// The program, an ELF file; empty where no table of system calls exists for the architecture.
pub static STUB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stub"));
