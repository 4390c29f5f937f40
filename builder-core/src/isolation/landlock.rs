//! Landlock: a process gives up files, signals and sockets for good, and so do its children. Takes what a step may reach,
//! gives a ruleset for its processes to enter.
//!
//! It needs no privilege. What a kernel's version of it does not know is not given up; docs/security.md says what remains.
#![expect(unsafe_code, reason = "these calls have no functions in libc")]

use rustix::fs::{FileType, Mode, OFlags};
use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::Path,
};

/// The first version with which files can be moved between directories; with an older one package managers fail.
pub(super) const FIRST_USEFUL: u32 = 2;

/// Rights to a file.
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEVICE: u64 = 1 << 15;
const FILE: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE;
/// Rights to a directory.
const READ_DIRECTORY: u64 = 1 << 3;
/// The last of the first version: make a link.
const FIRST: u64 = (1 << 13) - 1;
/// Make a block device, which an emulated step never does.
const MAKE_BLOCK_DEVICE: u64 = 1 << 11;
/// Move between directories.
const REFER: u64 = 1 << 13;

/// The first version that shuts signals and abstract sockets off.
const FIRST_WITH_SCOPES: u32 = 6;
/// Signals to processes outside, and abstract sockets of processes outside.
const SCOPES: u64 = 0b11;

/// What a step may do with something and all below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// See which names there are.
    List,
    /// Look.
    Read,
    /// Look and execute.
    Execute,
    /// Read and write what is there, devices included.
    Write,
    /// Everything.
    All,
}

/// What may be reached; entered by `landlock_restrict_self`.
#[derive(Debug)]
pub(super) struct Ruleset(OwnedFd);

/// The version that this kernel has.
pub(super) fn version() -> io::Result<u32> {
    const VERSION: libc::c_uint = 1;
    // SAFETY: asked for the version, the kernel takes no structure.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u64>(), 0_usize, VERSION) };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

impl Ruleset {
    /// Rules about other processes alone, for a step that has no other files in sight than its own: those about files would go up from
    /// each file that is opened to the root, and find there that all is allowed.
    pub(super) fn of_processes(version: u32) -> io::Result<Self> {
        // There must be something that is forbidden, and before signals and sockets could be that was only files.
        let files = if version < FIRST_WITH_SCOPES { MAKE_BLOCK_DEVICE } else { 0 };
        Self::make([files, 0, scopes(version)])
    }

    /// The same where the kernel has rules about signals and sockets, and nothing otherwise: namespaces forbid all else.
    pub(super) fn of_signals_and_sockets() -> Option<Self> {
        let version = version().ok().filter(|version| *version >= FIRST_WITH_SCOPES)?;
        Self::of_processes(version).ok()
    }

    /// Rules for what this version of Landlock knows. What is not there needs no rule.
    pub(super) fn new(version: u32, reachable: &[(&Path, Reach)]) -> io::Result<Self> {
        let attributes = attributes(version);
        let ruleset = Self::make(attributes)?;
        for (path, reach) in reachable {
            let opened = match rustix::fs::open(*path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => continue,
                opened => opened?,
            };
            let stat = rustix::fs::fstat(&opened)?;
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            ruleset.allow(opened.as_fd(), rights(*reach, is_directory) & attributes[0])?;
        }
        Ok(ruleset)
    }

    fn make(attributes: [u64; 3]) -> io::Result<Self> {
        // SAFETY: the structure has the kernel's layout, and its length is told; what an old kernel does not know is zero.
        let made = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), size_of_val(&attributes), 0) };
        let descriptor = i32::try_from(made).ok().filter(|descriptor| *descriptor >= 0);
        let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: just made, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    fn allow(&self, place: BorrowedFd<'_>, rights: u64) -> io::Result<()> {
        #[repr(C, packed)]
        struct Beneath {
            rights: u64,
            place: i32,
        }
        const BENEATH: libc::c_uint = 1;
        let rule = Beneath { rights, place: place.as_raw_fd() };
        // SAFETY: the structure has the kernel's layout.
        let added = unsafe { libc::syscall(libc::SYS_landlock_add_rule, self.0.as_raw_fd(), BENEATH, &raw const rule, 0) };
        if added < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Ruleset {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is forbidden unless a rule allows it: rights to files, to the network (none), and what is shut off altogether.
fn attributes(version: u32) -> [u64; 3] {
    let since = |first: u32, rights: u64| if version >= first { rights } else { 0 };
    [FIRST | since(2, REFER) | since(3, TRUNCATE) | since(5, IOCTL_DEVICE), 0, scopes(version)]
}

fn scopes(version: u32) -> u64 {
    if version >= FIRST_WITH_SCOPES { SCOPES } else { 0 }
}

fn rights(reach: Reach, is_directory: bool) -> u64 {
    let rights = match reach {
        Reach::List => READ_DIRECTORY,
        Reach::Read => READ_FILE | READ_DIRECTORY,
        Reach::Execute => READ_FILE | READ_DIRECTORY | EXECUTE,
        Reach::Write => READ_FILE | READ_DIRECTORY | WRITE_FILE | TRUNCATE | IOCTL_DEVICE,
        Reach::All => FIRST | REFER | TRUNCATE | IOCTL_DEVICE,
    };
    if is_directory { rights } else { rights & FILE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_forbids_what_it_knows() {
        for (version, expected) in [
            (1, [0x1fff, 0, 0]),
            (2, [0x3fff, 0, 0]),
            (3, [0x7fff, 0, 0]),
            (4, [0x7fff, 0, 0]),
            (5, [0xffff, 0, 0]),
            (6, [0xffff, 0, 3]),
            (99, [0xffff, 0, 3]),
        ] {
            assert_eq!(attributes(version), expected, "{version}");
        }
    }

    #[test]
    fn a_file_has_no_rights_of_a_directory() {
        assert_eq!(rights(Reach::All, false), FILE);
        assert_eq!(rights(Reach::Read, false), READ_FILE);
        assert_eq!(rights(Reach::List, true), READ_DIRECTORY);
        assert_eq!(rights(Reach::All, true), 0xffff);
    }

    #[test]
    fn rules_of_any_known_version_are_taken_by_this_kernel() {
        for version in 1..=version().unwrap_or(0) {
            Ruleset::new(version, &[(Path::new("/"), Reach::Read), (Path::new("/dev/null"), Reach::All)]).unwrap();
            Ruleset::new(version, &[(Path::new("/absent"), Reach::Read)]).unwrap();
        }
    }
}
