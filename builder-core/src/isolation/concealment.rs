//! Keeps the memory of a process that holds secrets from the other processes of its user.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use std::io;

/// Makes this process one that no other process of the same user can look into: not its memory, environment, open files or
/// working directory. It leaves no core dump, and neither do the programs that it starts unless they ask for one.
///
/// For the whole process, so the program decides: call it at the start of `main`, after
/// [`enter_user_namespace`](super::enter_user_namespace), which needs files of `/proc` that then belong to root.
///
/// # Errors
/// If the kernel refuses, which it does not.
pub fn conceal_process() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let limit = getrlimit(Resource::Core);
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: limit.maximum })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concealed_process_dumps_nothing_and_roots_still_sees_itself() {
        conceal_process().unwrap();
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        // Its files in /proc are root's now.
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(std::fs::read_link("/proc/self/fd/0").is_ok(), is_root);
        assert_eq!(std::fs::read("/proc/self/environ").is_ok(), is_root);
    }
}
