//! The program in each process of an emulated step. Started by the kernel in three ways: by the builder, to supervise a
//! step; by an exec inside the step, to load the program that was meant; and, from then on, by the signal with which the
//! filter answers a call, or by the shortcut that takes the place of a call that is made often.
#![allow(unsafe_code, reason = "system calls, the memory of another program, and a signal handler")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::borrow_as_ptr,
    clippy::cast_ptr_alignment,
    clippy::too_many_lines,
    clippy::many_single_char_names,
    clippy::match_same_arms,
    clippy::items_after_statements,
    reason = "arguments of system calls are words, whatever they mean"
)]
#![allow(unreachable_pub, missing_docs, reason = "nothing of this is offered to anybody")]

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;
mod calls;
mod exec;
mod files;
mod filter;
mod identity;
mod kernel;
mod known;
mod links;
mod load;
mod memory;
mod ownership;
mod path;
mod proc;
mod scratch;
mod shortcut;
mod signals;
mod sockets;
mod state;
mod supervise;
mod text;

use arch::{Context, number as n};
use kernel::call;
use state::VARIABLE;

/// Where the kernel starts us. `stack` holds arguments, variables and the auxiliary vector.
pub(crate) extern "C" fn main(stack: *mut u64) -> ! {
    // SAFETY: the layout that the kernel gives to a new program.
    unsafe {
        let arguments = *stack as usize;
        let list = stack.add(1 + arguments + 1).cast::<*const u8>();
        let mut variables = 0;
        while !(*list.add(variables)).is_null() {
            variables += 1;
        }
        let last = if variables > 0 { text::bytes(*list.add(variables - 1)) } else { b"" };
        match last.strip_prefix(VARIABLE) {
            Some(encoded) => run_program(stack, arguments, variables, encoded),
            None => supervise::supervise(),
        }
    }
}

/// Loads the program that an exec was about, and starts it.
unsafe fn run_program(stack: *mut u64, arguments: usize, variables: usize, encoded: &[u8]) -> ! {
    const PAGE_SIZE: u64 = 6;
    const USER: u64 = 11;
    const GROUP: u64 = 13;
    let (state, setting) = state::own_memory();
    memory::note_stack(stack as u64);
    // SAFETY: pairs of numbers behind the variables, the last one zero.
    unsafe {
        let mut pair = stack.add(1 + arguments + 1 + variables + 1);
        while *pair != 0 {
            let value = *pair.add(1);
            match *pair {
                PAGE_SIZE => load::set_page(value),
                USER => setting.real_uid = value as u32,
                GROUP => setting.real_gid = value as u32,
                _ => {}
            }
            pair = pair.add(2);
        }
    }
    // SAFETY: the variable that the kernel has put there, which the program does not know.
    let Some(begin) = (unsafe { state::decode(encoded, state, setting) }) else { die("the state is broken", 0) };
    let loaded = match load::load(begin.program, begin.interpreter) {
        Ok(loaded) => loaded,
        Err(errno) => die("the program cannot be loaded", errno),
    };
    let mut name = [0; 16];
    text::Text::new(&mut name).put(load::last_part(setting.program_shown.as_bytes()));
    call(n::PRCTL, [15, name.as_ptr() as u64, 0, 0, 0, 0]);
    claim_signal();
    // SAFETY: the stack is the one that the kernel made.
    unsafe { load::start(stack, arguments, variables, &loaded, begin.secure) }
}

/// Makes the stub the one who hears of trapped calls.
pub(crate) fn claim_signal() {
    signals::claim(trapped);
}

/// A call of the program was trapped, or somebody sent the signal.
extern "C" fn trapped(signal: i32, information: *const u8, context: *mut Context) {
    const BY_FILTER: i32 = 1;
    /// More than any answer takes.
    const ENOUGH_BYTES: u64 = 8 * 1024;
    // SAFETY: the kernel's structures: code at 8, number of the call at 24.
    unsafe {
        if information.add(8).cast::<i32>().read() != BY_FILTER {
            sent(signal, information, context);
            return;
        }
        state::see_owner();
        let number = i64::from(information.add(24).cast::<i32>().read());
        // Where the program has given its signals no stack, or was on that, there is no other.
        let [lowest, flags, length] = (*context).signal_stack();
        let left_bytes = (&raw const number as u64).wrapping_sub(lowest);
        if length != 0 && flags as u32 == 0 && left_bytes < ENOUGH_BYTES {
            arch::run_on((*context).below_stack(), answer_apart, context, number);
        } else {
            answer(context, number);
        }
    }
}

unsafe extern "C" fn answer(context: *mut Context, number: i64) {
    // SAFETY: the kernel's structure, which nobody else has.
    let context = unsafe { &mut *context };
    let result = calls::answer(number, context.arguments(), Some(&mut context.signal_mask));
    context.set_result(result);
    shortcut::consider(number, context);
}

/// The same on the stack that the program was on, where its stack for signals has no room: a few kilobytes, most of which the kernel
/// has filled. Programs with stacks as small as that for other things than signals, as Go, give their signals a large one.
unsafe extern "C" fn answer_apart(context: *mut Context, number: i64) {
    const DISABLED: u64 = 2;
    // A handler of the program's may come meanwhile. On the stack for signals the kernel's frame would be overwritten; it is in use
    // again when ours returns.
    let none = [0, DISABLED, 0];
    kernel::call(arch::number::SIGALTSTACK, [none.as_ptr() as u64, 0, 0, 0, 0, 0]);
    // SAFETY: as the caller says.
    unsafe { answer(context, number) }
}

/// A call of the program came by a shortcut: also one that the filter would have let through.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there are no shortcuts yet"))]
fn by_shortcut(number: i64, arguments: [u64; 6]) -> kernel::Answer {
    state::see_owner();
    if calls::is_trapped(number, arguments) { calls::answer(number, arguments, None) } else { call(number, arguments) }
}

/// The signal came from a process: the program's own handler hears of it.
unsafe fn sent(signal: i32, information: *const u8, context: *mut Context) {
    const DEFAULT: u64 = 0;
    const IGNORE: u64 = 1;
    match state::state().own_action.handler {
        DEFAULT => kernel::exit(128 + signal),
        IGNORE => {}
        handler => {
            // SAFETY: the program has registered this address as its handler.
            let handler: extern "C" fn(i32, *const u8, *mut Context) = unsafe { core::mem::transmute(handler as usize) };
            handler(signal, information, context);
        }
    }
}

/// Says why on standard error, and ends the process as one that cannot be executed.
fn die(what: &str, errno: kernel::Answer) -> ! {
    let mut buffer = [0; 200];
    let mut text = text::Text::new(&mut buffer);
    text.put(b"cofferdam: ").put(what.as_bytes()).put(b": ").put(state::setting().program_shown.as_bytes());
    text.put(b" (error ").number(errno.unsigned_abs()).put(b")\n");
    kernel::write(2, text.as_bytes());
    kernel::exit(126)
}

/// What main.rs does when an assumption turns out wrong.
pub(crate) fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    let line = info.location().map_or(0, core::panic::Location::line);
    let mut buffer = [0; 100];
    let mut text = text::Text::new(&mut buffer);
    text.put(b"cofferdam: the emulation failed at ");
    text.put(info.location().map_or("", core::panic::Location::file).as_bytes()).put(b":").number(u64::from(line)).put(b"\n");
    kernel::write(2, text.as_bytes());
    kernel::exit(125)
}
