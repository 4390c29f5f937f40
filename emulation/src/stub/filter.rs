//! The seccomp filter: which calls come to the stub. A process of the step has it for good, and so have its children.

use super::arch::{AUDIT_ARCH, FOREIGN_CALLS, number as n};
use super::calls::{Absent, Always, Given, Root, Row, TABLE};
use super::kernel::{Answer, E2BIG, ENOSYS, call};
use super::state::ROOT_DESCRIPTOR;

/// The upper half of the addresses of the stub; stub.ld has the address.
const REGION: u32 = 0x5508;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL: u32 = 0x8000_0000;

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ADDRESS_HIGH: u32 = 12;
const ARGUMENTS: u32 = 16;

/// One instruction of the filter's machine.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// Room for the rows of the table and for what the builder refuses.
const LENGTH: usize = 2048;

struct Program {
    instructions: [Instruction; LENGTH],
    length: usize,
}

impl Program {
    fn put(&mut self, code: u16, if_true: u8, if_false: u8, value: u32) {
        self.instructions[self.length] = Instruction { code, if_true, if_false, value };
        self.length += 1;
    }
}

/// Stand for distances that are not known yet: to where a call is trapped, and to what the builder refuses.
const TO_TRAP: u32 = u32::MAX;
const TO_REFUSED: u32 = u32::MAX - 1;
/// So many rows are looked at one after the other.
const TOGETHER: usize = 3;

/// The filter. It runs for each call of the step, the stub's own too, so rows are found by halving. A call that is in none of
/// them goes on without a look at its arguments, and the kernel remembers that by its number alone. What is not trapped goes on to
/// `refused`, the filter that the builder has made: of calls that a container may not make, wherever they come from. One filter is
/// cheaper than two.
fn program(refused: &[Instruction]) -> Option<Program> {
    let mut program = Program { instructions: [Instruction { code: 0, if_true: 0, if_false: 0, value: 0 }; LENGTH], length: 0 };
    program.put(LOAD, 0, 0, ARCHITECTURE);
    program.put(EQUAL, 1, 0, AUDIT_ARCH);
    // A program of another kind (32 bits) cannot be emulated, and must not run half.
    program.put(RETURN, 0, 0, KILL);
    program.put(LOAD, 0, 0, NUMBER);
    program.put(AT_LEAST, 0, 1, FOREIGN_CALLS);
    program.put(RETURN, 0, 0, ERRNO | ENOSYS.unsigned_abs() as u32);
    let mut rows = [&TABLE[0]; TABLE.len()];
    for (at, row) in TABLE.iter().enumerate() {
        let place = rows[..at].iter().rposition(|other| other.number < row.number).map_or(0, |before| before + 1);
        rows.copy_within(place..at, place + 1);
        rows[place] = row;
    }
    program.put_rows(&rows);
    let end = program.length;
    program.put(LOAD, 0, 0, ADDRESS_HIGH);
    program.put(EQUAL, 1, 0, REGION);
    program.put(RETURN, 0, 0, TRAP);
    let behind = program.length;
    for (at, instruction) in program.instructions[..end].iter_mut().enumerate() {
        match (instruction.code, instruction.value) {
            (JUMP, TO_TRAP) => instruction.value = (end - at - 1) as u32,
            (JUMP, TO_REFUSED) => instruction.value = (behind - at - 1) as u32,
            _ => {}
        }
    }
    if refused.is_empty() {
        program.put(RETURN, 0, 0, ALLOW);
    }
    program.instructions.get_mut(behind..behind + refused.len())?.copy_from_slice(refused);
    program.length += refused.len();
    Some(program)
}

impl Program {
    /// What is done with the calls of these rows, in the order of their numbers, and with those that are in none.
    fn put_rows(&mut self, rows: &[&Row]) {
        if rows.len() > TOGETHER {
            let (lower, upper) = rows.split_at(rows.len() / 2);
            self.put(AT_LEAST, 0, 1, upper[0].number as u32);
            // A condition reaches only 255 instructions.
            let jump = self.length;
            self.put(JUMP, 0, 0, 0);
            self.put_rows(lower);
            self.instructions[jump].value = (self.length - jump - 1) as u32;
            self.put_rows(upper);
            return;
        }
        for row in rows {
            self.put_row(row);
        }
        self.put(JUMP, 0, 0, TO_REFUSED);
    }

    fn put_row(&mut self, row: &Row) {
        let number = row.number as u32;
        match row.when {
            Always => {
                self.put(EQUAL, 0, 1, number);
                self.put(JUMP, 0, 0, TO_TRAP);
            }
            Given(argument) => {
                let at = ARGUMENTS + 8 * argument;
                self.put(EQUAL, 0, 6, number);
                self.put(LOAD, 0, 0, at);
                self.put(EQUAL, 0, 2, 0);
                self.put(LOAD, 0, 0, at + 4);
                self.put(EQUAL, 1, 0, 0);
                self.put(JUMP, 0, 0, TO_TRAP);
                self.put(JUMP, 0, 0, TO_REFUSED);
            }
            Root(argument) => {
                self.put(EQUAL, 0, 4, number);
                self.put(LOAD, 0, 0, ARGUMENTS + 8 * argument);
                self.put(EQUAL, 0, 1, ROOT_DESCRIPTOR.unsigned_abs());
                self.put(JUMP, 0, 0, TO_TRAP);
                self.put(JUMP, 0, 0, TO_REFUSED);
            }
            Absent => {
                self.put(EQUAL, 0, 1, number);
                self.put(RETURN, 0, 0, ERRNO | ENOSYS.unsigned_abs() as u32);
            }
        }
    }
}

/// Installs the filter, for good, and gives up every way to more rights. `refused` are instructions of the builder's.
///
/// # Safety
/// There are so many.
pub(crate) unsafe fn install(refused: *const u8, refused_length: usize) -> Answer {
    const NO_NEW_PRIVILEGES: u64 = 38;
    let promised = call(n::PRCTL, [NO_NEW_PRIVILEGES, 1, 0, 0, 0, 0]);
    if promised < 0 {
        return promised;
    }
    // SAFETY: the caller's; of numbers only, and aligned as those of a launch are.
    let refused = unsafe { core::slice::from_raw_parts(refused.cast(), refused_length) };
    let Some(program) = program(refused) else { return E2BIG };
    #[repr(C)]
    struct Reference {
        length: u16,
        instructions: *const Instruction,
    }
    let reference = Reference { length: program.length as u16, instructions: program.instructions.as_ptr() };
    call(n::SECCOMP, [1, 0, &raw const reference as u64, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with the filter.
    fn run(number: i64, arguments: [u64; 6], address: u64) -> u32 {
        let program = program(&REFUSED).unwrap();
        let field = |offset: u32| match offset {
            NUMBER => number as u32,
            ARCHITECTURE => AUDIT_ARCH,
            8 => address as u32,
            ADDRESS_HIGH => (address >> 32) as u32,
            offset => {
                let argument = arguments[(offset - ARGUMENTS) as usize / 8];
                if (offset - ARGUMENTS).is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, if_true, if_false, value } = program.instructions[at];
            at += 1;
            match code {
                LOAD => accumulator = field(value),
                JUMP => at += value as usize,
                EQUAL => at += usize::from(if accumulator == value { if_true } else { if_false }),
                AT_LEAST => at += usize::from(if accumulator >= value { if_true } else { if_false }),
                _ => return value,
            }
        }
    }

    /// Refuses one call, as the builder's does.
    const REFUSED: [Instruction; 4] = [
        Instruction { code: LOAD, if_true: 0, if_false: 0, value: NUMBER },
        Instruction { code: EQUAL, if_true: 0, if_false: 1, value: n::MOUNT as u32 },
        Instruction { code: RETURN, if_true: 0, if_false: 0, value: ERRNO | 1 },
        Instruction { code: RETURN, if_true: 0, if_false: 0, value: ALLOW },
    ];

    #[test]
    fn what_the_builder_refuses_is_refused_to_the_stub_too() {
        for address in [0x7fff_1234_5678, 0x5508_0000_1234] {
            assert_eq!(run(n::MOUNT, [0; 6], address), ERRNO | 1);
        }
    }

    #[test]
    fn a_call_comes_to_the_stub_unless_it_is_the_stubs() {
        const PROGRAM: u64 = 0x7fff_1234_5678;
        const STUB: u64 = 0x5508_0000_1234;
        const NONE: [u64; 6] = [0; 6];
        for number in [n::READ, n::WRITE, n::MMAP, n::CLONE] {
            assert_eq!(run(number, NONE, PROGRAM), ALLOW, "{number}");
        }
        for row in TABLE {
            let name = row.described.1;
            let with = |argument: u32, value: u64| {
                let mut arguments = NONE;
                arguments[argument as usize] = value;
                run(row.number, arguments, PROGRAM)
            };
            match row.when {
                Always => assert_eq!(run(row.number, NONE, PROGRAM), TRAP, "{name}"),
                Given(argument) => {
                    assert_eq!((with(argument, 0), with(argument, 1), with(argument, 1 << 32)), (ALLOW, TRAP, TRAP), "{name}");
                }
                Root(argument) => {
                    assert_eq!((with(argument, 3), with(argument, ROOT_DESCRIPTOR as u64)), (ALLOW, TRAP), "{name}");
                }
                Absent => assert_eq!(run(row.number, NONE, PROGRAM) & 0xffff_0000, ERRNO, "{name}"),
            }
            if row.when != Absent {
                assert_eq!(run(row.number, [u64::from(ROOT_DESCRIPTOR as u32); 6], STUB), ALLOW, "{name}");
            }
        }
        assert_eq!(run(i64::from(FOREIGN_CALLS), NONE, PROGRAM) & 0xffff_0000, ERRNO);
    }
}
