//! What stands between an emulated step and the machine, as far as the host grants it: a view of its own (mount, IPC, host
//! name, process and network namespaces), and Landlock rules, which need no privilege at all.
//!
//! The emulation keeps programs in their root that mean no harm. These walls are for those that do.

use crate::isolation::landlock::{self, Reach, Ruleset};
use crate::isolation::{Choice, Network, Proc, RunError, mounts, namespaces};
use emulation::launch::{GUARD_PROC, NEW_PROC};
use rustix::{fs::Access, io::Errno, thread::UnshareFlags};
use std::{io, path::Path};

/// Devices that a step has, where /dev is the host's.
const DEVICES: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts"];
/// What of /proc speaks to the kernel; a mount or a missing right keeps a step from writing there, or Landlock must.
const CONTROLS: [&str; 4] = ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/fs"];

/// Which of them stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walls {
    /// A view of its own; where /proc in it comes from.
    pub(super) apart: Option<Proc>,
    /// Landlock of this version.
    pub(super) landlock_version: Option<u32>,
}

/// What a step needs of the host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needed<'a> {
    /// The root of the step.
    pub(super) root: &'a Path,
    /// Owners recorded beside it.
    pub(super) owners: &'a Path,
    /// Which files have names of earlier steps; to be looked at. `None` if there are none.
    pub(super) links: Option<&'a Path>,
    /// The stub.
    pub(super) stub: &'a Path,
    /// What `uname -n` says, and which network it sees.
    pub(super) host_name: &'a str,
    pub(super) network: Network,
}

impl Walls {
    /// As was chosen.
    pub(super) fn of(choice: &Choice) -> Self {
        Self { apart: choice.apart.then_some(choice.proc), landlock_version: choice.landlock_version }
    }

    /// What the first process of the step has to do.
    pub(super) fn flags(self) -> u32 {
        match self.apart {
            Some(Proc::Fresh) => NEW_PROC | GUARD_PROC,
            Some(Proc::Bound) => GUARD_PROC,
            None => 0,
        }
    }

    /// Raises them and starts the first process of the step with `start`, which gets the rules for its command.
    pub(super) fn raise<T: Send>(
        self,
        needed: Needed<'_>,
        start: impl FnOnce(Option<&Ruleset>) -> Result<T, RunError> + Send,
    ) -> Result<T, RunError> {
        let Some(proc) = self.apart else { return start(self.rules(needed)?.as_ref()) };
        // On a thread that ends: it leaves the builder's namespaces for good, and what it starts stays in the new ones.
        std::thread::scope(|scope| {
            let start = move || {
                leave(needed, proc)?;
                start(self.rules(needed)?.as_ref())
            };
            let thread = std::thread::Builder::new().name("step".to_owned()).spawn_scoped(scope, start);
            let thread = thread.map_err(|source| RunError::System { what: "start a thread", source })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn rules(self, needed: Needed<'_>) -> Result<Option<Ruleset>, RunError> {
        let Some(version) = self.landlock_version else { return Ok(None) };
        let made = if self.apart.is_some() {
            // Nothing else is there; what the rules add is that no process outside can be looked into or sent a signal.
            Ruleset::of_processes(version)
        } else {
            let devices = DEVICES.map(|name| Path::new("/dev").join(name));
            let mut reachable = vec![
                (needed.root, Reach::All),
                (needed.owners, Reach::All),
                (needed.stub, Reach::Execute),
                (Path::new("/proc"), proc_reach()),
                (Path::new("/sys"), Reach::Read),
                // Programs that search the whole root fail where they may not even list.
                (Path::new("/dev"), Reach::List),
                (Path::new("/dev/shm"), Reach::All),
            ];
            reachable.extend(devices.iter().map(|device| (device.as_path(), Reach::Write)));
            Ruleset::new(version, &reachable)
        };
        made.map(Some).map_err(|source| RunError::System { what: "make the rules of what it may reach", source })
    }
}

/// The version of Landlock, if it is of use.
pub(super) fn landlock_version() -> io::Result<u32> {
    match landlock::version()? {
        version if version >= landlock::FIRST_USEFUL => Ok(version),
        _ => Err(Errno::OPNOTSUPP.into()),
    }
}

/// Programs write to files of their own in /proc (names of threads, `oom_score_adj`). They may, unless this user could also
/// write to the kernel there.
fn proc_reach() -> Reach {
    let is_open = |path: &&str| rustix::fs::access(*path, Access::WRITE_OK).is_ok();
    if CONTROLS.iter().any(is_open) { Reach::Read } else { Reach::Write }
}

/// Leaves the builder's namespaces and its root, for a view in which there is nothing but what the step needs.
fn leave(needed: Needed<'_>, proc: Proc) -> Result<(), RunError> {
    let failed = |what| move |errno: Errno| RunError::System { what, source: io::Error::from(errno) };
    namespaces::leave_namespaces(needed.network).map_err(failed("make namespaces"))?;
    mounts::make_private().map_err(failed("make mounts private"))?;
    // A name that is too long for the kernel is no reason to fail.
    let _ = rustix::system::sethostname(&needed.host_name.as_bytes()[..needed.host_name.len().min(64)]);
    let base = needed.root.parent().unwrap_or(needed.root);
    let shown: Vec<&Path> = [needed.root, needed.owners, needed.stub].into_iter().chain(needed.links).collect();
    mounts::enter_view(base, &shown)?;
    if proc == Proc::Fresh {
        namespaces::leave(UnshareFlags::NEWPID).map_err(failed("make a process namespace"))?;
    }
    Ok(())
}
