//! Asks the kernel what it allows, by doing it. Nothing else in this module decides by trying.

use super::emulated::{Failed, Part};
use super::{Attempt, HostFacts, Proc, child, mounts};
use crate::confined::ConfinedDir;
use crate::rootfs::OverlayAttributes;
use crate::tree::TreePath;
use rustix::{io::Errno, mount::UnmountFlags, thread::UnshareFlags};
use std::{ffi::CString, fs, io, os::unix::ffi::OsStrExt as _, path::Path};

/// Tries everything once, weaker things only if the stronger one was refused.
///
/// Works in a directory below `state_directory`, where the root file systems will be: whether an overlay works there
/// depends on its file system. Takes a few milliseconds, up to a hundred if an overlay works.
///
/// # Errors
/// If nothing can be made in `state_directory`.
pub fn probe(state_directory: &Path) -> io::Result<HostFacts> {
    let place = tempfile::Builder::new().prefix("probe-").tempdir_in(state_directory)?;
    // In a thread that ends: it leaves the namespaces of the others.
    let facts = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("probe".to_owned()).spawn_scoped(scope, || attempts(place.path()))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    // The kernel's working directory of an overlay has no permissions.
    let _ = ConfinedDir::open(place.path()).and_then(|directory| directory.remove_all(&TreePath::root()));
    facts
}

fn attempts(place: &Path) -> io::Result<HostFacts> {
    let mut facts = HostFacts::default();
    (facts.any_owner, facts.storable_ids) = owners(place)?;
    facts.devices = attempt(device(place));
    facts.records = attempt_io(&super::emulated::attempt_record(place));
    facts.execution = attempt_io(&super::emulated::attempt_execution(place));
    if emulation::STUB.is_empty() {
        facts.emulation = Attempt::Missing;
    } else if (facts.records, facts.execution) == (Attempt::Works, Attempt::Works) {
        (facts.filter, facts.confined_paths, facts.emulation) = emulation_facts(super::emulated::attempt(place));
    }
    if facts.emulation == Attempt::Works {
        let (landlock, version) = super::emulated::attempt_landlock(place);
        (facts.landlock, facts.landlock_version) = (attempt_of(landlock), version);
    }
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    let leave = || super::namespaces::leave(flags).and_then(|()| mounts::make_private());
    // Some hosts kill whoever asks: a child is asked first.
    facts.mount_namespace = attempt_status(child::attempt(leave));
    if facts.mount_namespace != Attempt::Works {
        let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS;
        let leave = || super::namespaces::leave(flags).and_then(|()| mounts::make_private());
        facts.user_namespace = attempt_status(child::attempt(leave));
        return Ok(facts);
    }
    facts.mount_namespace = attempt(leave());
    if facts.mount_namespace != Attempt::Works {
        return Ok(facts);
    }
    let proc = place.join("proc");
    fs::create_dir(&proc)?;
    let proc = CString::new(proc.as_os_str().as_bytes())?;
    let (namespace, fresh) = child::try_proc(&proc);
    facts.process_namespace = attempt_io(&namespace);
    if facts.process_namespace == Attempt::Works {
        facts.fresh_proc = attempt_io(&fresh);
    }
    for (attributes, fact) in
        [(OverlayAttributes::Trusted, &mut facts.overlay), (OverlayAttributes::User, &mut facts.overlay_user_attributes)]
    {
        *fact = attempt_io(&overlay(&place.join(format!("{attributes:?}")), attributes));
        if *fact == Attempt::Works {
            break;
        }
    }
    if facts.emulation == Attempt::Works {
        let landlock = Some(facts.landlock_version).filter(|_| facts.landlock == Attempt::Works);
        let proc = if facts.fresh_proc == Attempt::Works { Proc::Fresh } else { Proc::Bound };
        facts.emulation_apart = attempt_of(super::emulated::attempt_apart(place, proc, landlock));
    }
    facts.network_namespace = attempt_status(child::attempt(|| super::namespaces::leave(UnshareFlags::NEWNET)));
    Ok(facts)
}

/// What a trial of emulation says of the filter, of paths, and of the whole.
fn emulation_facts(trial: Result<(), Failed>) -> (Attempt, Attempt, Attempt) {
    use Attempt::{NotTried, Works};
    match trial {
        Ok(()) => (Works, Works, Works),
        Err(Failed { part: Part::Filter, attempt }) => (attempt, NotTried, NotTried),
        Err(Failed { part: Part::Paths, attempt }) => (Works, attempt, NotTried),
        Err(Failed { part: Part::Answers, attempt }) => (Works, Works, attempt),
        Err(Failed { part: Part::Process, attempt }) => (NotTried, NotTried, attempt),
    }
}

/// Finds the highest owner that a file can have, by halves.
fn owners(place: &Path) -> io::Result<(Attempt, u32)> {
    let file = place.join("owned");
    fs::write(&file, "")?;
    let give = |id: u32| rustix::fs::chown(&file, Some(rustix::fs::Uid::from_raw(id)), Some(rustix::fs::Gid::from_raw(id)));
    // The very last id means "unchanged" to the kernel.
    let any = attempt(give(u32::MAX - 1));
    if any == Attempt::Works {
        return Ok((any, u32::MAX));
    }
    let (mut storable, mut refused) = (0, u32::MAX - 1);
    while storable + 1 < refused {
        let middle = storable + (refused - storable) / 2;
        if give(middle).is_ok() { storable = middle } else { refused = middle }
    }
    Ok((any, refused))
}

/// Makes what `/dev/null` is.
fn device(place: &Path) -> Result<(), Errno> {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    mknodat(CWD, place.join("device"), FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(1, 3))
}

/// Mounts an overlay and does what a RUN does: a file is deleted, a directory replaced.
fn overlay(place: &Path, attributes: OverlayAttributes) -> io::Result<()> {
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| place.join(name));
    for directory in [place, &lower, &lower.join("directory"), &upper, &work, &merged] {
        fs::create_dir(directory)?;
    }
    fs::write(lower.join("file"), "")?;
    fs::write(lower.join("directory/file"), "")?;
    mounts::mount_overlay(&[lower], &upper, &work, attributes, &merged)?;
    let used = use_overlay(&merged, &upper, attributes);
    rustix::mount::unmount(&merged, UnmountFlags::DETACH)?;
    used
}

fn use_overlay(merged: &Path, upper: &Path, attributes: OverlayAttributes) -> io::Result<()> {
    fs::remove_file(merged.join("file"))?;
    fs::remove_dir_all(merged.join("directory"))?;
    fs::create_dir(merged.join("directory"))?;
    if fs::read_dir(merged.join("directory"))?.next().is_some() {
        return Err(Errno::NOTSUP.into());
    }
    // It must also be noted where we will look for it.
    let mut value = [0; 1];
    rustix::fs::getxattr(upper.join("directory"), attributes.opaque(), &mut value[..])?;
    Ok(())
}

fn attempt(result: Result<(), Errno>) -> Attempt {
    result.map_or_else(|errno| Attempt::Refused { errno: errno.raw_os_error() }, |()| Attempt::Works)
}

/// What became of a child that exits with an error number.
fn attempt_status(status: io::Result<libc::c_int>) -> Attempt {
    match status {
        Ok(status) if libc::WIFSIGNALED(status) => Attempt::Killed { signal: libc::WTERMSIG(status) },
        Ok(status) => match libc::WEXITSTATUS(status) {
            0 => Attempt::Works,
            errno => Attempt::Refused { errno },
        },
        Err(error) => attempt_io(&Err(error)),
    }
}

fn attempt_of(trial: Result<(), Failed>) -> Attempt {
    trial.map_or_else(|failed| failed.attempt, |()| Attempt::Works)
}

fn attempt_io(result: &io::Result<()>) -> Attempt {
    result
        .as_ref()
        .map_or_else(|error| Attempt::Refused { errno: error.raw_os_error().unwrap_or(libc::EIO) }, |()| Attempt::Works)
}
