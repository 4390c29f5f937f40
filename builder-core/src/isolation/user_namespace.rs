//! Becomes root of a user namespace: for a program that is not root, before it does anything else.
//!
//! A range of ids makes every owner in an image a real one; a single id leaves them to the tree in memory.
#![expect(unsafe_code, reason = "fork, for a helper that stays outside of the new user namespace")]

use rustix::thread::UnshareFlags;
use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

/// What the process is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// What it was: it can have a mount namespace without.
    NotNeeded,
    /// Root of a user namespace with many ids.
    Range,
    /// Root of a user namespace with no other id.
    SingleId,
}

/// Why the process is what it was.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// A user namespace is entered by the whole process, and by none that has several threads.
    #[error("the process has several threads already")]
    Threads,
    /// The kernel does not grant one, or grants one in which nothing can be mounted.
    #[error("this host refuses user namespaces")]
    Refused(#[source] io::Error),
    /// Half way something failed that had worked in a trial.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Enters a user namespace and a mount namespace, if the process cannot have a mount namespace without.
///
/// To be called at the very start of `main`, while there is one thread. It is tried in a child first; if it is refused,
/// nothing has changed. The identity of files made before is kept: they belong to root inside.
///
/// # Errors
/// [`UserNamespaceError`]; the program can go on, and build whatever needs no RUN.
pub fn enter_user_namespace() -> Result<Entered, UserNamespaceError> {
    let system = |what| move |source| UserNamespaceError::System { what, source };
    // Where there is no /proc nothing will work, and the kernel refuses a process with threads by itself.
    if fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(UserNamespaceError::Threads);
    }
    if attempt(UnshareFlags::NEWNS).is_ok() {
        return Ok(Entered::NotNeeded);
    }
    attempt(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).map_err(UserNamespaceError::Refused)?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (reader, writer) = rustix::pipe::pipe().map_err(|errno| system("make a pipe")(errno.into()))?;
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: this process has one thread, so the child may do anything; it leaves by `exit_now`.
    let helper = match unsafe { libc::fork() } {
        0 => {
            drop(writer);
            // Ends when the parent has its namespace, or is dead.
            let _ = rustix::io::read(&reader, &mut [0_u8; 1]);
            exit_now(map_from_outside(process, uid).code());
        }
        pid if pid < 0 => return Err(system("start a helper")(io::Error::last_os_error())),
        pid => pid,
    };
    drop(reader);
    let unshared = super::namespaces::leave(UnshareFlags::NEWUSER | UnshareFlags::NEWNS);
    drop(writer);
    let status = super::child::wait(helper).map_err(system("wait for the helper"))?;
    unshared.map_err(|errno| UserNamespaceError::Refused(errno.into()))?;
    let mapped = Mapped::from_code(libc::WEXITSTATUS(status));
    if !mapped.users {
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(system("map the user"))?;
    }
    if !mapped.groups {
        // The kernel wants this promise from whoever maps their own group.
        fs::write("/proc/self/setgroups", "deny").map_err(system("give up supplementary groups"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(system("map the group"))?;
    }
    super::mounts::make_private().map_err(|errno| system("make mounts private")(errno.into()))?;
    Ok(if mapped == (Mapped { users: true, groups: true }) { Entered::Range } else { Entered::SingleId })
}

/// Which ids the helper has mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mapped {
    users: bool,
    groups: bool,
}

impl Mapped {
    fn code(self) -> i32 {
        i32::from(self.users) | i32::from(self.groups) << 1
    }

    fn from_code(code: i32) -> Self {
        Self { users: code & 1 != 0, groups: code & 2 != 0 }
    }
}

/// Whether namespaces are granted and mounts can be changed in them: tried in a child, which some hosts kill for it.
fn attempt(flags: UnshareFlags) -> io::Result<()> {
    let tried = super::child::attempt(|| super::namespaces::leave(flags).and_then(|()| super::mounts::make_private()))?;
    match (libc::WIFSIGNALED(tried), libc::WEXITSTATUS(tried)) {
        (true, _) => Err(io::Error::other(format!("killed by signal {}", libc::WTERMSIG(tried)))),
        (false, 0) => Ok(()),
        (false, errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Maps a range of ids for `process`, which is in a user namespace below ours.
fn map_from_outside(process: i32, uid: u32) -> Mapped {
    let map = |map: &str, helper: &str, subordinate: &str, own: u32| {
        // With the right to change to any user, every id that we have ourselves.
        let target = format!("/proc/{process}/{map}");
        let ours = fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
        if uid == 0 && fs::write(target, identity_map(&ours)).is_ok() {
            return true;
        }
        // Otherwise what the administrator has set aside for this user, by a program that may.
        let user = fs::read_to_string("/etc/passwd").ok().and_then(|passwd| user_name(&passwd, uid));
        let granted = fs::read_to_string(subordinate).unwrap_or_default();
        let Some((first, count)) = subordinate_range(&granted, user.as_deref(), uid) else { return false };
        let directories = ["/usr/bin", "/bin", "/usr/local/bin"].map(|directory| Path::new(directory).join(helper));
        let numbers = [process.unsigned_abs(), 0, own, 1, 1, first, count].map(|number| number.to_string());
        let run = |program: &std::path::PathBuf| {
            let mut command = Command::new(program);
            let command = command.args(&numbers).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        directories.iter().any(run)
    };
    let gid = rustix::process::getegid().as_raw();
    Mapped { users: map("uid_map", "newuidmap", "/etc/subuid", uid), groups: map("gid_map", "newgidmap", "/etc/subgid", gid) }
}

/// Each id of ours to itself. `ours` is our own map: first id inside, first id outside, count.
fn identity_map(ours: &str) -> String {
    let extents = ours.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (first, count) = (words.next()?, words.nth(1)?);
        Some(format!("{first} {first} {count}\n"))
    });
    extents.collect()
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut found = fields.filter(|fields| fields.get(2).is_some_and(|field| field.parse() == Ok(uid)));
    found.next().map(|fields| fields[0].to_owned())
}

/// The first range that a user may map: first id and count. `granted` has lines `user:first:count`.
fn subordinate_range(granted: &str, user: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    let mut ranges = granted.lines().filter_map(|line| {
        let [name, first, count] = line.trim().split(':').collect::<Vec<_>>()[..] else { return None };
        let is_ours = Some(name) == user || name.parse() == Ok(uid);
        let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
        (is_ours && count > 0).then_some((first, count))
    });
    ranges.next()
}

/// At once, without running what the program has registered for its own end.
fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_or_number() {
        let granted = "# people\nanna:100000:65536\n1000:200000:1000\nbad:x:1\nempty:1:0\n";
        for (user, uid, expected) in [
            (Some("anna"), 7, Some((100_000, 65536))),
            (Some("otto"), 1000, Some((200_000, 1000))),
            (None, 1000, Some((200_000, 1000))),
            (Some("bad"), 1, None),
            (Some("empty"), 1, None),
            (None, 5, None),
        ] {
            assert_eq!(subordinate_range(granted, user, uid), expected, "{user:?} {uid}");
        }
    }

    #[test]
    fn names_and_maps_are_read() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\nshort\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("anna"));
        assert_eq!(user_name(passwd, 5), None);
        assert_eq!(identity_map("         0     100000      65536\n 70000 5 10\n"), "0 0 65536\n70000 70000 10\n");
    }
}
