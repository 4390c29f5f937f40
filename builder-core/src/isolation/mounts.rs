//! Everything that is mounted for a step but /proc: done by the step's own thread in a mount namespace that nobody else
//! sees, and gone with it on every way out.

use super::{
    Access, Mount, MountKind, Privileges, RunError, Step, host_path,
    mount_points::{MountPoints, Shape},
};
use crate::confined::ConfinedDir;
use crate::rootfs::{OverlayAttributes, RootMount};
use crate::tree::TreePath;
use rustix::{
    fs::{self, FileType, Gid, Mode, OFlags, Uid},
    io::Errno,
    mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags},
};
use std::{
    ffi::CString,
    io::Write as _,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

/// Devices of /dev and their numbers.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// Links of /dev.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];
/// What of /sys is hidden, as Docker does: firmware tables, and power meters that leak what others compute.
const HIDDEN_IN_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What stands mounted, and what has to be undone in the root itself.
pub(super) struct Mounted {
    /// Where the root is, on the host.
    pub(super) root: PathBuf,
    directory: ConfinedDir,
    /// What has to be undone, last first.
    undo: Vec<Undo>,
}

enum Undo {
    /// A mount.
    Detach(PathBuf),
    /// The mount points made after so many.
    RemovePoints(usize),
}

/// Where the rest has to be done, on the host.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    /// The root.
    pub(super) root: &'a Path,
    /// The directory for /proc.
    pub(super) proc: &'a Path,
}

/// Mounts all of `step` but /proc for `inside`; then takes it down again and removes
/// the mount points that were missing. The calling thread must have a mount namespace of its own.
pub(super) fn with_mounts<T>(step: &Step, inside: impl FnOnce(Places<'_>) -> Result<T, RunError>) -> Result<T, RunError> {
    let mut mounted = Mounted::root(&step.root)?;
    // A second handle: the mount points remember it while mounts are added.
    let directory = ConfinedDir::open(&mounted.root).map_err(|source| RunError::Prepare { target: TreePath::root(), source })?;
    let mut points = MountPoints::new(&directory);
    let result = mounted.attach_all(step, &mut points).and_then(|proc| inside(Places { root: &mounted.root, proc: &proc }));
    let removed = mounted.detach_all(&mut points);
    drop((directory, mounted.directory));
    if matches!(step.root, RootMount::Overlay { .. }) {
        // Now, so that nobody finds the upper directory in use; with the namespace at the latest.
        if mount::unmount(&mounted.root, UnmountFlags::NOFOLLOW).is_err() {
            let _ = mount::unmount(&mounted.root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
    let result = result?;
    removed.map(|()| result)
}

/// Makes the calling thread's mounts invisible to others, and theirs to it.
pub(super) fn make_private() -> Result<(), Errno> {
    mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

/// Makes a new root for the calling thread, which must have a mount namespace of its own. In it are `shown`, in their places,
/// /proc as it is, /sys and a new /dev, and nothing else. It is made in memory, at the directory `base`.
pub(super) fn enter_view(base: &Path, shown: &[&Path]) -> Result<(), RunError> {
    let prepare = |source| RunError::Prepare { target: TreePath::root(), source };
    // Opened now, for the new root covers some of them.
    let open = |path: &&Path| fs::open(*path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let opened = shown.iter().map(|path| open(path).map_err(|errno| failed("what the step needs", "", errno)));
    let opened = opened.collect::<Result<Vec<_>, _>>()?;
    let mounted = mount::mount("tmpfs", base, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755"));
    mounted.map_err(|errno| failed("a directory in memory", "", errno))?;
    let points_in = ConfinedDir::open(base).map_err(prepare)?;
    let mut points = MountPoints::new(&points_in);
    let directory = ConfinedDir::open(base).map_err(prepare)?;
    let mut view = Mounted { root: base.to_owned(), directory, undo: Vec::new() };
    for (path, descriptor) in shown.iter().zip(&opened) {
        let source = format!("/proc/thread-self/fd/{}", descriptor.as_raw_fd());
        let target = TreePath::clamp(path.as_os_str().as_bytes());
        let stat = fs::fstat(descriptor).map_err(|errno| failed("what the step needs", target.as_bytes(), errno))?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let target = points.require(&target, if is_directory { Shape::Directory } else { Shape::File })?;
        let place = host_path(base, &target);
        let bind = || {
            mount::mount_bind(&source, &place)?;
            restrict(&place, MountFlags::NOSUID | MountFlags::NODEV)
        };
        bind().map_err(|errno: Errno| failed("what the step needs", target.as_bytes(), errno))?;
    }
    let proc = points.require(&TreePath::clamp("proc"), Shape::Directory)?;
    mount::mount_bind_recursive("/proc", host_path(base, &proc)).map_err(|errno| failed("/proc", "proc", errno))?;
    view.mount_sys(Privileges::Usual, &mut points)?;
    view.mount_dev(&mut points)?;
    // They stay as long as the namespace.
    drop((view, points_in));
    change_root(base).map_err(|errno| RunError::System { what: "change the root", source: errno.into() })
}

/// Makes `base`, which is a mount, the root of the calling thread.
fn change_root(base: &Path) -> Result<(), Errno> {
    rustix::process::chdir(base)?;
    match rustix::process::pivot_root(".", ".") {
        // The old root is stacked under the new one and then taken off.
        Ok(()) => mount::unmount(".", UnmountFlags::DETACH)?,
        // As the runtimes' default filters answer: then the new root covers the old one.
        Err(Errno::PERM | Errno::NOSYS) => {
            mount::mount_move(".", "/")?;
            rustix::process::chroot(".")?;
        }
        Err(errno) => return Err(errno),
    }
    rustix::process::chdir("/")
}

/// Mounts an overlay as a root of a step is made of.
pub(super) fn mount_overlay(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    attributes: OverlayAttributes,
    target: &Path,
) -> Result<(), Errno> {
    let open = |path: &Path| fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    // Through descriptors no name needs escaping, and any number of them is short.
    let lower = lower.iter().rev().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open(upper)?, open(work)?);
    let options = Overlay { lower: &lower, upper: &upper, work: &work, attributes };
    match options.mount_each(target) {
        // No such calls, or not this option: kernels before 6.8, strict filters.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => options.mount_at_once(target),
        result => result,
    }
}

struct Overlay<'a> {
    /// Topmost first.
    lower: &'a [OwnedFd],
    upper: &'a OwnedFd,
    work: &'a OwnedFd,
    attributes: OverlayAttributes,
}

impl Overlay<'_> {
    /// What no kernel default may change: a lower directory must stay readable without this overlay. And no sync to the disk at
    /// the end of each step: the result is packed, not kept.
    const OPTIONS: [(&'static str, &'static str); 4] =
        [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off"), ("xino", "off")];

    /// One option per call: no limit on their length.
    fn mount_each(&self, target: &Path) -> Result<(), Errno> {
        let path = |descriptor: &OwnedFd| format!("/proc/thread-self/fd/{}", descriptor.as_raw_fd());
        let overlay = mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for lower in self.lower {
            mount::fsconfig_set_string(&overlay, "lowerdir+", path(lower))?;
        }
        mount::fsconfig_set_string(&overlay, "upperdir", path(self.upper))?;
        mount::fsconfig_set_string(&overlay, "workdir", path(self.work))?;
        for (key, value) in Self::OPTIONS {
            mount::fsconfig_set_string(&overlay, key, value)?;
        }
        mount::fsconfig_set_flag(&overlay, "volatile")?;
        if self.attributes == OverlayAttributes::User {
            mount::fsconfig_set_flag(&overlay, "userxattr")?;
        }
        mount::fsconfig_create(&overlay)?;
        let mounted = mount::fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        mount::move_mount(&mounted, "", fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }

    /// All options in one page: a descriptor is named by its number, relative to the directory of descriptors.
    fn mount_at_once(&self, target: &Path) -> Result<(), Errno> {
        let lower: Vec<String> = self.lower.iter().map(|lower| lower.as_raw_fd().to_string()).collect();
        let (upper, work) = (self.upper.as_raw_fd(), self.work.as_raw_fd());
        let more = Self::OPTIONS.iter().fold(String::new(), |text, (key, value)| format!("{text},{key}={value}"));
        let attributes = if self.attributes == OverlayAttributes::User { ",userxattr" } else { "" };
        // The thread's own working directory: with its mount namespace it got one.
        rustix::process::chdir("/proc/thread-self/fd")?;
        let mut result = Err(Errno::INVAL);
        // Options that an old kernel does not know; it refuses them all at once.
        for optional in [&format!("{more},volatile"), &more, ""] {
            let data = format!("lowerdir={},upperdir={upper},workdir={work}{attributes}{optional}", lower.join(":"));
            let data = CString::new(data).expect("numbers and words");
            result = mount::mount("overlay", target, "overlay", MountFlags::empty(), Some(data.as_c_str()));
            if result != Err(Errno::INVAL) {
                break;
            }
        }
        rustix::process::chdir("/")?;
        result
    }
}

impl Mounted {
    fn root(root: &RootMount) -> Result<Self, RunError> {
        let path = attach_root(root)?;
        let directory = ConfinedDir::open(&path).map_err(|source| RunError::Prepare { target: TreePath::root(), source })?;
        Ok(Self { root: path, directory, undo: Vec::new() })
    }

    /// Gives the place for /proc.
    fn attach_all(&mut self, step: &Step, points: &mut MountPoints<'_>) -> Result<PathBuf, RunError> {
        let proc = points.require(&TreePath::clamp("proc"), Shape::Directory)?;
        // Files in memory are made here and bound to their places; /proc covers it later. A script among them is executed.
        let files = host_path(&self.root, &proc);
        self.mount("tmpfs", &proc, MountFlags::NOSUID | MountFlags::NODEV, "mode=0700")?;
        self.mount_sys(step.privileges, points)?;
        let guarded = self.mount_dev(points)?;
        let plain = if guarded || step.privileges == Privileges::All { MountFlags::empty() } else { MountFlags::NODEV };
        restrict(&self.root, plain).map_err(|errno| failed("the root without devices", "", errno))?;
        let mut files = Files { directory: files, count: 0 };
        for (name, bytes) in [("etc/resolv.conf", &step.resolv_conf), ("etc/hosts", &step.hosts)] {
            let file = files.make(bytes, 0o644, 0, 0).map_err(|source| failed("a file", name, source))?;
            // Programs write to them (resolvconf, apt's scripts); it does not outlive the step.
            self.bind(&file, &TreePath::clamp(name), Access::ReadWrite, MountFlags::empty(), points)?;
        }
        for mount in &step.mounts {
            self.undo.push(Undo::RemovePoints(points.count()));
            self.attach(mount, &mut files, plain, points)?;
        }
        let directory = self.directory.resolve(&step.directory);
        let directory = directory.map_err(|source| RunError::Prepare { target: step.directory.clone(), source })?;
        for part in directory.ancestors().chain([directory.clone()]).filter(|part| !part.is_root()) {
            let failed = |source| RunError::Prepare { target: part.clone(), source };
            if self.directory.stat(&part).map_err(failed)?.is_none() {
                self.directory.create_directory(&part, 0o755).map_err(failed)?;
                // Whatever the builder's umask is.
                let _ = fs::chmod(host_path(&self.root, &part), Mode::from_raw_mode(0o755));
            }
        }
        mount::unmount(&files.directory, UnmountFlags::DETACH).map_err(|errno| failed("nothing", "proc", errno))?;
        self.undo.retain(|undo| !matches!(undo, Undo::Detach(path) if *path == files.directory));
        Ok(files.directory)
    }

    /// `plain` holds `NODEV` where nothing else keeps a step from opening the devices that it makes.
    fn attach(
        &mut self,
        mount: &Mount,
        files: &mut Files,
        plain: MountFlags,
        points: &mut MountPoints<'_>,
    ) -> Result<(), RunError> {
        match &mount.kind {
            MountKind::Bind { root, path, access } => {
                let source = match root {
                    RootMount::Directory { path } => path.clone(),
                    RootMount::Overlay { .. } => {
                        let path = attach_root(root)?;
                        self.undo.push(Undo::Detach(path.clone()));
                        path
                    }
                };
                let failed = |source| RunError::Prepare { target: path.clone(), source };
                let confined = ConfinedDir::open(&source).map_err(failed)?;
                let source = host_path(&source, &confined.resolve(path).map_err(failed)?);
                self.bind(&source, &mount.target, *access, plain, points)
            }
            MountKind::Tmpfs { size_bytes, mode, access } => {
                let target = points.require(&mount.target, Shape::Directory)?;
                let size = size_bytes.map_or_else(String::new, |size| format!(",size={size}"));
                let read_only = if *access == Access::ReadOnly { MountFlags::RDONLY } else { MountFlags::empty() };
                self.mount("tmpfs", &target, MountFlags::NOSUID | plain | read_only, &format!("mode={mode:o}{size}"))
            }
            MountKind::File { content, mode, uid, gid } => {
                let target = mount.target.to_string();
                let file = files.make(&content.0, *mode, *uid, *gid).map_err(|source| failed("a file", &target, source))?;
                self.bind(&file, &mount.target, Access::ReadOnly, MountFlags::NOSUID | MountFlags::NODEV, points)
            }
        }
    }

    /// Binds `source`, a path without links on the host.
    fn bind(
        &mut self,
        source: &Path,
        target: &TreePath,
        access: Access,
        flags: MountFlags,
        points: &mut MountPoints<'_>,
    ) -> Result<(), RunError> {
        let what = || source.display().to_string();
        let stat = fs::lstat(source).map_err(|errno| failed(&what(), target.as_bytes(), errno))?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let target = points.require(target, if is_directory { Shape::Directory } else { Shape::File })?;
        let place = host_path(&self.root, &target);
        let bind = || {
            mount::mount_bind(source, &place)?;
            let read_only = if access == Access::ReadOnly { MountFlags::RDONLY } else { MountFlags::empty() };
            restrict(&place, flags | read_only)
        };
        bind().map_err(|errno: Errno| failed(&what(), target.as_bytes(), errno))?;
        self.undo.push(Undo::Detach(place));
        Ok(())
    }

    fn mount(&mut self, kind: &'static str, target: &TreePath, flags: MountFlags, data: &str) -> Result<(), RunError> {
        let place = host_path(&self.root, target);
        let options = CString::new(data).expect("our own words and numbers");
        let result = mount::mount(kind, &place, kind, flags, Some(options.as_c_str()));
        result.map_err(|errno| failed(kind, target.as_bytes(), errno))?;
        self.undo.push(Undo::Detach(place));
        Ok(())
    }

    /// /sys, read-only for the usual step. It shows the network devices of the network namespace that it is mounted in.
    fn mount_sys(&mut self, privileges: Privileges, points: &mut MountPoints<'_>) -> Result<(), RunError> {
        let sys = points.require(&TreePath::clamp("sys"), Shape::Directory)?;
        let place = host_path(&self.root, &sys);
        let (flags, hidden_in_sys) = match privileges {
            Privileges::Usual => (SAFE | MountFlags::RDONLY, &HIDDEN_IN_SYS[..]),
            Privileges::All => (SAFE, &[][..]),
        };
        if self.mount("sysfs", &sys, flags, "").is_err() {
            // A user namespace owns no network namespace of the host, nor its /sys.
            let bind = || {
                mount::mount_bind_recursive("/sys", &place)?;
                restrict(&place, flags)
            };
            bind().map_err(|errno: Errno| failed("/sys", "sys", errno))?;
            self.undo.push(Undo::Detach(place.clone()));
        }
        for name in hidden_in_sys {
            let hidden = place.join(name);
            if hidden.is_dir() {
                let result = mount::mount("tmpfs", &hidden, "tmpfs", flags, None);
                result.map_err(|errno| failed("nothing", format!("sys/{name}"), errno))?;
                self.undo.push(Undo::Detach(hidden));
            }
        }
        // Language runtimes look here for their memory limit. Where it cannot be had they look at the machine.
        let control_groups = place.join("fs/cgroup");
        if mount::mount("cgroup2", &control_groups, "cgroup2", flags, None).is_ok() {
            self.undo.push(Undo::Detach(control_groups));
        }
        Ok(())
    }

    /// Says whether the host's control groups keep processes from devices that are none of theirs; where they do not, a
    /// device that a step makes in /dev cannot be opened.
    fn mount_dev(&mut self, points: &mut MountPoints<'_>) -> Result<bool, RunError> {
        let dev = points.require(&TreePath::clamp("dev"), Shape::Directory)?;
        let place = host_path(&self.root, &dev);
        self.mount("tmpfs", &dev, MountFlags::NOSUID | MountFlags::NOEXEC, "mode=0755,size=65536k")?;
        let guarded = devices_are_guarded(&place.join("unknown"));
        for (name, major, minor) in DEVICES {
            let path = place.join(name);
            self.device(name, &path, fs::makedev(major, minor), guarded)
                .map_err(|errno| failed("a device", format!("dev/{name}"), errno))?;
        }
        for (name, target) in LINKS {
            let made = fs::symlink(target, place.join(name));
            made.map_err(|errno| failed("a link", format!("dev/{name}"), errno))?;
        }
        for name in ["pts", "shm", "mqueue"] {
            let made = fs::mkdir(place.join(name), Mode::from_raw_mode(0o755));
            made.map_err(|errno| failed("a directory", format!("dev/{name}"), errno))?;
        }
        let pts = dev.child(b"pts");
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        // Group 5 is `tty`; a single user id has no such group.
        if self.mount("devpts", &pts, flags, "newinstance,ptmxmode=0666,mode=0620,gid=5").is_err() {
            self.mount("devpts", &pts, flags, "newinstance,ptmxmode=0666,mode=0620")?;
        }
        self.mount("tmpfs", &dev.child(b"shm"), SAFE, "mode=1777,size=65536k")?;
        // Kernels may lack it, and hardly any program uses it.
        let _ = self.mount("mqueue", &dev.child(b"mqueue"), SAFE, "");
        if !guarded {
            let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
            restrict(&place, flags).map_err(|errno| failed("devices of its own", "dev", errno))?;
        }
        Ok(guarded)
    }

    /// Makes a device, or binds the host's where the kernel lets nobody make one. It becomes a mount of its own where /dev
    /// itself will hold no devices.
    fn device(&mut self, name: &str, path: &Path, number: u64, guarded: bool) -> Result<(), Errno> {
        let made = fs::mknodat(fs::CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), number);
        if made.is_ok() {
            // The umask took bits away.
            fs::chmod(path, Mode::from_raw_mode(0o666))?;
            if !guarded {
                mount::mount_bind(path, path)?;
                self.undo.push(Undo::Detach(path.to_owned()));
            }
            return Ok(());
        }
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        fs::open(path, flags, Mode::from_raw_mode(0o666))?;
        mount::mount_bind(Path::new("/dev").join(name), path)?;
        self.undo.push(Undo::Detach(path.to_owned()));
        Ok(())
    }

    /// Takes down everything but the root, last first. A mount point inside of another mount is found only while that stands.
    fn detach_all(&mut self, points: &mut MountPoints<'_>) -> Result<(), RunError> {
        let mut removed = Ok(());
        for undo in self.undo.drain(..).rev() {
            match undo {
                // What stays goes with the namespace.
                Undo::Detach(path) => drop(mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)),
                Undo::RemovePoints(count) => removed = removed.and(points.remove_after(count)),
            }
        }
        removed.and(points.remove_after(0))
    }
}

/// Whether a device that nobody has is refused before it is looked for: then control groups, or the lack of a right, do it
/// for all that this container is not meant to have. Otherwise a step in a privileged container could read the host's disks.
fn devices_are_guarded(path: &Path) -> bool {
    let nobodys = fs::makedev(511, 0xf_ffff);
    if fs::mknodat(fs::CWD, path, FileType::CharacterDevice, Mode::RUSR, nobodys).is_err() {
        return true;
    }
    let opened = fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let _ = fs::unlink(path);
    matches!(opened, Err(Errno::PERM | Errno::ACCESS))
}

fn failed(what: &str, target: impl AsRef<[u8]>, source: impl Into<std::io::Error>) -> RunError {
    RunError::Mount { what: what.to_owned(), target: TreePath::clamp(target), source: source.into() }
}

/// Makes a root a mount, where `pivot_root` or a bind can take it from.
fn attach_root(root: &RootMount) -> Result<PathBuf, RunError> {
    match root {
        RootMount::Overlay { lower, upper, work, attributes, mount_point } => {
            mount_overlay(lower, upper, work, *attributes, mount_point).map_err(|errno| failed("an overlay", "", errno))?;
            Ok(mount_point.clone())
        }
        RootMount::Directory { path } => {
            mount::mount_bind_recursive(path, path).map_err(|errno| failed("the root directory", "", errno))?;
            Ok(path.clone())
        }
    }
}

/// Adds flags to a bound mount, and keeps those that it came with: a user namespace may not take them off.
fn restrict(place: &Path, flags: MountFlags) -> Result<(), Errno> {
    if flags.is_empty() {
        return Ok(());
    }
    let kept = fs::statvfs(place)?.f_flag;
    let keep = [
        (fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (fs::StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
    ];
    let kept = keep.iter().filter(|(flag, _)| kept.contains(*flag)).fold(flags, |flags, (_, flag)| flags | *flag);
    mount::mount_remount(place, MountFlags::BIND | kept, "")
}

/// Files in memory; bound elsewhere they outlive the directory that they were made in.
struct Files {
    directory: PathBuf,
    count: u32,
}

impl Files {
    fn make(&mut self, content: &[u8], mode: u16, uid: u32, gid: u32) -> std::io::Result<PathBuf> {
        let path = self.directory.join(self.count.to_string());
        self.count += 1;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
        file.write_all(content)?;
        if (uid, gid) != (0, 0) {
            fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(mode.into()))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::UnshareFlags;

    #[derive(Clone, Copy)]
    enum Way {
        OptionEach,
        AllAtOnce,
    }

    fn mounted(way: Way) {
        if !testkit::require_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| scope.spawn(|| mounted_in(place.path(), way)).join().unwrap());
        assert!(place.path().join("upper/new").exists());
    }

    /// In a thread, which gets mounts of its own. What an overlay is made of must be opened among these.
    fn mounted_in(place: &Path, way: Way) {
        super::super::namespaces::leave(UnshareFlags::NEWNS).unwrap();
        make_private().unwrap();
        let make = |name: &str| {
            let path = place.join(name);
            std::fs::create_dir(&path).unwrap();
            fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let lower: Vec<OwnedFd> = (0..200).map(|number| make(&format!("a long, odd: name \\ of a layer {number}"))).collect();
        let (upper, work, merged) = (make("upper"), make("work"), place.join("merged"));
        std::fs::create_dir(&merged).unwrap();
        for (number, lower) in lower.iter().enumerate() {
            fs::mkdirat(lower, format!("{number}"), Mode::RWXU).unwrap();
        }
        let options = Overlay { lower: &lower, upper: &upper, work: &work, attributes: OverlayAttributes::Trusted };
        let mounted = match way {
            Way::OptionEach => options.mount_each(&merged),
            Way::AllAtOnce => options.mount_at_once(&merged),
        };
        mounted.unwrap();
        assert_eq!(std::fs::read_dir(&merged).unwrap().count(), 200);
        std::fs::write(merged.join("new"), "").unwrap();
        mount::unmount(&merged, UnmountFlags::empty()).unwrap();
    }

    #[test]
    fn privileged_an_overlay_is_mounted_with_an_option_for_each_layer() {
        mounted(Way::OptionEach);
    }

    #[test]
    fn privileged_an_overlay_is_mounted_with_all_layers_in_one_page() {
        mounted(Way::AllAtOnce);
    }
}
