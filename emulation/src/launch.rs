//! How the stub is told what to run, and how it tells the end: bytes through a socket. Pure.
//!
//! A launch is numbers, the groups, a filter of system calls, then texts that end with zero, so that the stub can use them where
//! they are: root, stub, working directory and host name, programs to try, arguments, variables. Without a program to try it is a
//! trial of the filter, which ends with 0 if a call was answered with the user of the launch. The first bytes may come with a
//! descriptor: rules that the command and its children enter, but not the first process.
//!
//! What follows is, each as one byte, the numbers of signals that the process group of the command gets.

/// How many numbers a launch starts with: its length in all, user, group, the numbers of groups, programs to try, arguments
/// and variables, flags, and the number of instructions of the filter.
pub const NUMBERS: usize = 9;
/// Flag: the first process of a process namespace, which mounts a new /proc.
pub const NEW_PROC: u32 = 1;
/// Flag: a mount namespace of the step's own, in which parts of /proc are hidden or made read-only.
pub const GUARD_PROC: u32 = 2;
/// Flag: earlier steps gave several names to some files ([`LINKS`](crate::record::LINKS)).
pub const HAS_LINKS: u32 = 4;
/// Number of bytes of a report.
pub const REPORT_LENGTH: usize = 8;

/// What the processes were doing when something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// The command ended; the value is the wait status.
    Ended = 1,
    /// Preparing the process.
    Prepare = 2,
    /// Installing the filter.
    Filter = 3,
    /// Entering the working directory.
    Directory = 4,
    /// Executing: no such program.
    NotFound = 5,
    /// Executing: it is there.
    Execute = 6,
    /// Mounting /proc, or hiding parts of it.
    Proc = 7,
    /// Entering the rules of what may be reached.
    Rules = 8,
    /// A trial: a call was not trapped and answered.
    Answer = 9,
}

/// The bytes of a report: a stage and an error number or wait status.
pub fn report(stage: Stage, value: i32) -> [u8; REPORT_LENGTH] {
    let (stage, value) = ((stage as u32).to_ne_bytes(), value.to_ne_bytes());
    [stage[0], stage[1], stage[2], stage[3], value[0], value[1], value[2], value[3]]
}

/// Reads a report.
pub fn parse_report(bytes: [u8; REPORT_LENGTH]) -> Option<(Stage, i32)> {
    let [s0, s1, s2, s3, v0, v1, v2, v3] = bytes;
    let stage = match u32::from_ne_bytes([s0, s1, s2, s3]) {
        1 => Stage::Ended,
        2 => Stage::Prepare,
        3 => Stage::Filter,
        4 => Stage::Directory,
        5 => Stage::NotFound,
        6 => Stage::Execute,
        7 => Stage::Proc,
        8 => Stage::Rules,
        9 => Stage::Answer,
        _ => return None,
    };
    Some((stage, i32::from_ne_bytes([v0, v1, v2, v3])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        use Stage::{Answer, Directory, Ended, Execute, Filter, NotFound, Prepare, Proc, Rules};
        for stage in [Ended, Prepare, Filter, Directory, NotFound, Execute, Proc, Rules, Answer] {
            assert_eq!(parse_report(report(stage, -7)), Some((stage, -7)));
        }
        assert_eq!(parse_report([0; REPORT_LENGTH]), None);
    }
}
