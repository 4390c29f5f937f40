//! A directory that no path and no link leads out of: the one door to a context or a root file system on disk.
//!
//! Paths are [`TreePath`]s. Links in the directories above an entry are followed as if this directory were `/`; a link
//! in the last part is the entry itself.

use crate::tree::{Content, Entry, File as TreeFile, Last, Met, Node, ResolveError, SourceId, Timestamp, TreePath, follow};
use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Uid, XattrFlags},
    io::Errno,
};
use std::{
    fs::File,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The extended attribute with the capabilities of a program.
const CAPABILITY: &str = "security.capability";
/// Number of symbolic links that one path may lead through, as in Linux.
const MAX_LINKS: u32 = 40;
/// A rename elsewhere can make the kernel give up a look-up; it says so and we ask again.
const MAX_RETRIES: u32 = 128;
/// As much of a path as the kernel is asked for at once, where it is too long: less than `PATH_MAX`, more than a name has.
const PIECE_LENGTH: usize = 2048;

/// An open directory that nothing leads out of.
#[derive(Debug)]
pub struct ConfinedDir {
    directory: OwnedFd,
    shown: PathBuf,
    lookup: Lookup,
}

/// Who walks along a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lookup {
    /// The kernel, by `openat2`.
    Kernel,
    /// We, part by part: old kernels and strict filters have no `openat2`.
    Ourselves,
}

/// Why something in a directory could not be done.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct ConfinedError {
    /// What was being done.
    pub action: &'static str,
    /// To what.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

/// What stands at a path on disk, and which inode it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Type.
    pub kind: StatKind,
    /// The lower 12 bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of bytes.
    pub size_bytes: u64,
    /// Time of modification.
    pub mtime: Timestamp,
    /// Time of the last change of content or attributes.
    pub ctime: Timestamp,
    /// Number of the inode on its device.
    pub inode: u64,
    /// Major and minor number of the device that holds it.
    pub device: (u32, u32),
    /// Number of names.
    pub links: u32,
    /// When it was made; none of the file systems that keep it has two inodes with one number and one time. 0 elsewhere.
    pub birth: Timestamp,
}

/// The type of an inode on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket: no image holds one.
    Socket,
}

/// Whether attributes that the kernel refuses to store are an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attributes {
    /// They are.
    Real,
    /// They are left out: somebody else remembers them.
    WherePossible,
}

/// What a new file gets from the kernel, so that it need not be set: the owner, and the permissions that the umask or the
/// directory's access list leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsMade {
    uid: u32,
    gid: u32,
    permitted: u16,
}

impl AsMade {
    /// The mode to make the file of `entry` with, for [`ConfinedDir::finish_file`].
    pub fn creation_mode(self, entry: &Entry) -> u16 {
        entry.mode & 0o777 & self.permitted
    }

    fn is_owner(self, entry: &Entry) -> bool {
        (self.uid, self.gid) == (entry.uid, entry.gid)
    }
}

/// Why a path could not be resolved.
enum Unresolved {
    Confined(ConfinedError),
    Path(ResolveError),
}

impl From<ConfinedError> for Unresolved {
    fn from(error: ConfinedError) -> Self {
        Self::Confined(error)
    }
}

impl From<ResolveError> for Unresolved {
    fn from(error: ResolveError) -> Self {
        Self::Path(error)
    }
}

impl ConfinedDir {
    /// Opens the directory at `path` on the host; links in `path` itself are followed.
    ///
    /// # Errors
    /// [`ConfinedError`] if it is missing or no directory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ConfinedError> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = fs::open(path, flags, Mode::empty()).map_err(|errno| error("open", path.to_owned(), errno))?;
        // Whether the kernel answers at all; what it says about one path is no reason to walk ourselves.
        let probe = fs::openat2(&directory, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), RESOLVE);
        let lookup = if probe.is_ok() { Lookup::Kernel } else { Lookup::Ourselves };
        Ok(Self { directory, shown: path.to_owned(), lookup })
    }

    /// The path it was opened by: for messages.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// A directory below this one; out of it nothing leads either, so its absolute links start at it.
    ///
    /// # Errors
    /// [`ConfinedError`] if it is missing or no directory.
    pub fn open_directory(&self, path: &TreePath) -> Result<Self, ConfinedError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = self.look_up(path, flags).map_err(|errno| self.error("open", path, errno))?;
        Ok(Self { directory, shown: self.shown_path(path), lookup: self.lookup })
    }

    /// Opens a regular file to read.
    ///
    /// # Errors
    /// [`ConfinedError`] if it is missing or something else than a regular file.
    pub fn open_file(&self, path: &TreePath) -> Result<File, ConfinedError> {
        let failed = |errno| self.error("open", path, errno);
        // Without NONBLOCK, opening a named pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.look_up(path, flags).map_err(failed)?;
        match FileType::from_raw_mode(fs::fstat(&file).map_err(failed)?.st_mode) {
            FileType::RegularFile => Ok(File::from(file)),
            FileType::Directory => Err(failed(Errno::ISDIR)),
            _ => Err(failed(Errno::INVAL)),
        }
    }

    /// What stands at `path`; `None` if nothing does.
    ///
    /// # Errors
    /// [`ConfinedError`] if the kernel does not say.
    pub fn stat(&self, path: &TreePath) -> Result<Option<Stat>, ConfinedError> {
        match self.at_parent(path, stat_at) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.error("examine", path, errno)),
        }
    }

    /// What stands at `path`, as a tree describes it; `None` if nothing or a socket does. The bytes of a file are
    /// [`Content::Host`] of `source`, its digest is unknown.
    ///
    /// # Errors
    /// [`ConfinedError`] if the kernel does not say.
    pub fn entry(&self, path: &TreePath, source: SourceId) -> Result<Option<Entry>, ConfinedError> {
        match self.stat(path)? {
            Some(stat) => self.entry_of(path, &stat, source),
            None => Ok(None),
        }
    }

    /// The entry at `path`, of which `stat` is known already; `None` for a socket.
    ///
    /// # Errors
    /// [`ConfinedError`] if a link or an attribute cannot be read.
    pub fn entry_of(&self, path: &TreePath, stat: &Stat, source: SourceId) -> Result<Option<Entry>, ConfinedError> {
        let node = match stat.kind {
            StatKind::Directory => Node::Directory,
            StatKind::File => Node::File(TreeFile {
                size_bytes: stat.size_bytes,
                digest: None,
                content: Content::Host { source, path: path.clone() },
            }),
            StatKind::Symlink => Node::Symlink(self.read_link(path)?),
            StatKind::CharDevice { major, minor } => Node::CharDevice { major, minor },
            StatKind::BlockDevice { major, minor } => Node::BlockDevice { major, minor },
            StatKind::Fifo => Node::Fifo,
            StatKind::Socket => return Ok(None),
        };
        let capability = if stat.kind == StatKind::File { self.attribute(path, CAPABILITY)? } else { None };
        Ok(Some(Entry { node, mode: stat.mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime, capability }))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`ConfinedError`] if it is none.
    pub fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, ConfinedError> {
        let read = |parent: BorrowedFd<'_>, name: &Path| fs::readlinkat(parent, name, Vec::new());
        self.at_parent(path, read).map(std::ffi::CString::into_bytes).map_err(|errno| self.error("read the link", path, errno))
    }

    /// An extended attribute of a file or directory; `None` if it has none, or its file system knows no attributes.
    ///
    /// # Errors
    /// [`ConfinedError`] if the kernel does not say.
    pub fn attribute(&self, path: &TreePath, name: &str) -> Result<Option<Vec<u8>>, ConfinedError> {
        let failed = |errno| self.error("read an attribute of", path, errno);
        let anchor = self.look_up(path, OFlags::PATH | OFlags::NOFOLLOW).map_err(failed)?;
        let mut value = vec![0_u8; 256];
        loop {
            match fs::getxattr(descriptor_path(&anchor), name, &mut value[..]) {
                Ok(length) => {
                    value.truncate(length);
                    return Ok(Some(value));
                }
                Err(Errno::RANGE) if value.len() < 1 << 16 => value.resize(1 << 16, 0),
                Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => return Ok(None),
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Sets an extended attribute of a file or directory.
    ///
    /// # Errors
    /// [`ConfinedError`] if the kernel refuses.
    pub fn set_attribute(&self, path: &TreePath, name: &str, value: &[u8]) -> Result<(), ConfinedError> {
        let anchor = self.look_up(path, OFlags::PATH | OFlags::NOFOLLOW);
        let set = anchor.and_then(|anchor| fs::setxattr(descriptor_path(&anchor), name, value, XattrFlags::empty()));
        set.map_err(|errno| self.error("set an attribute of", path, errno))
    }

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// [`ConfinedError`] if it is none, or cannot be read.
    pub fn list(&self, path: &TreePath) -> Result<Vec<Vec<u8>>, ConfinedError> {
        let failed = |errno| self.error("list", path, errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let mut names = Vec::new();
        names_in(&self.look_up(path, flags).map_err(failed)?, &mut names).map_err(failed)?;
        names.sort_unstable();
        Ok(names)
    }

    /// The names in a directory with what each is, sorted; one open for all of them.
    ///
    /// # Errors
    /// [`ConfinedError`] if it is no directory, or cannot be read. What vanishes meanwhile is left out.
    pub fn list_stats(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Stat)>, ConfinedError> {
        let failed = |errno| self.error("list", path, errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = self.look_up(path, flags).map_err(failed)?;
        let mut names = Vec::new();
        names_in(&directory, &mut names).map_err(failed)?;
        names.sort_unstable();
        let mut stats = Vec::with_capacity(names.len());
        for name in names {
            match stat_at(directory.as_fd(), name_path(&name)) {
                Ok(stat) => stats.push((name, stat)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(stats)
    }

    /// Makes a file that was not there and opens it to write.
    ///
    /// # Errors
    /// [`ConfinedError`] if anything stands there.
    pub fn create_file(&self, path: &TreePath, mode: u16) -> Result<File, ConfinedError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = |parent: BorrowedFd<'_>, name: &Path| fs::openat(parent, name, flags, Mode::from_raw_mode(mode.into()));
        self.at_parent(path, create).map(File::from).map_err(|errno| self.error("create", path, errno))
    }

    /// The directory `name` in this one, which is no link.
    ///
    /// # Errors
    /// [`ConfinedError`] if it is missing or no directory.
    pub fn enter(&self, name: &[u8]) -> Result<Self, ConfinedError> {
        let shown = self.shown.join(name_path(name));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&self.directory, name_path(name), flags, Mode::empty()) {
            Ok(directory) => Ok(Self { directory, shown, lookup: self.lookup }),
            Err(errno) => Err(error("open", shown, errno)),
        }
    }

    /// A second descriptor of the same directory.
    ///
    /// # Errors
    /// [`ConfinedError`] if there are too many.
    pub fn try_clone(&self) -> Result<Self, ConfinedError> {
        let directory = self.directory.try_clone();
        let failed = |source| ConfinedError { action: "open", path: self.shown.clone(), source };
        Ok(Self { directory: directory.map_err(failed)?, shown: self.shown.clone(), lookup: self.lookup })
    }

    /// What files have that are made in this directory, found out by making one.
    ///
    /// # Errors
    /// [`ConfinedError`] if none can be made.
    pub fn as_made(&self) -> Result<AsMade, ConfinedError> {
        let path = TreePath::root().child(b".cofferdam-probe");
        let made = self.create_file(&path, 0o777)?;
        let stat = fs::fstat(&made).map_err(|errno| self.error("examine", &path, errno))?;
        self.remove(&path)?;
        let permitted = u16::try_from(stat.st_mode & 0o777).expect("nine bits");
        Ok(AsMade { uid: stat.st_uid, gid: stat.st_gid, permitted })
    }

    /// Makes a directory that was not there.
    ///
    /// # Errors
    /// [`ConfinedError`] if anything stands there.
    pub fn create_directory(&self, path: &TreePath, mode: u16) -> Result<(), ConfinedError> {
        let create = |parent: BorrowedFd<'_>, name: &Path| fs::mkdirat(parent, name, Mode::from_raw_mode(mode.into()));
        self.at_parent(path, create).map_err(|errno| self.error("create", path, errno))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// [`ConfinedError`] if anything stands there.
    pub fn create_symlink(&self, path: &TreePath, target: &[u8]) -> Result<(), ConfinedError> {
        let create = |parent: BorrowedFd<'_>, name: &Path| fs::symlinkat(target, parent, name);
        self.at_parent(path, create).map_err(|errno| self.error("create", path, errno))
    }

    /// Makes `path` a further name of `target`.
    ///
    /// # Errors
    /// [`ConfinedError`] if anything stands at `path`, or `target` is missing or a directory.
    pub fn create_link(&self, path: &TreePath, target: &TreePath) -> Result<(), ConfinedError> {
        let create = |from: BorrowedFd<'_>, from_name: &Path| {
            self.at_parent(path, |to, to_name| fs::linkat(from, from_name, to, to_name, AtFlags::empty()))
        };
        self.at_parent(target, create).map_err(|errno| self.error("link", path, errno))
    }

    /// Makes `path` a further name of `target` in another directory of the same file system.
    ///
    /// # Errors
    /// [`ConfinedError`] if anything stands at `path`, or `target` is missing or a directory.
    pub fn create_link_from(&self, path: &TreePath, directory: &Self, target: &TreePath) -> Result<(), ConfinedError> {
        let create = |from: BorrowedFd<'_>, from_name: &Path| {
            self.at_parent(path, |to, to_name| fs::linkat(from, from_name, to, to_name, AtFlags::empty()))
        };
        directory.at_parent(target, create).map_err(|errno| self.error("link", path, errno))
    }

    /// Makes a device or a named pipe. Nothing else is made by this.
    ///
    /// # Errors
    /// [`ConfinedError`] if anything stands there, or the kernel refuses the device.
    pub fn create_node(&self, path: &TreePath, node: &Node) -> Result<(), ConfinedError> {
        let (kind, device) = match *node {
            Node::CharDevice { major, minor } => (FileType::CharacterDevice, fs::makedev(major, minor)),
            Node::BlockDevice { major, minor } => (FileType::BlockDevice, fs::makedev(major, minor)),
            Node::Fifo => (FileType::Fifo, 0),
            _ => return Err(self.error("create as a device", path, Errno::INVAL)),
        };
        let create = |parent: BorrowedFd<'_>, name: &Path| fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device);
        self.at_parent(path, create).map_err(|errno| self.error("create", path, errno))
    }

    /// Sets owner, mode, capability and time of what stands at `path` to those of `entry`; both must be of one type.
    ///
    /// # Errors
    /// [`ConfinedError`] if the kernel refuses, unless `attributes` says that this is well.
    pub fn set_attributes(&self, path: &TreePath, entry: &Entry, attributes: Attributes) -> Result<(), ConfinedError> {
        let failed = |errno| self.error("set the attributes of", path, errno);
        let is_symlink = matches!(entry.node, Node::Symlink(_));
        let set = |parent: BorrowedFd<'_>, name: &Path| {
            give_away(entry, attributes, |uid, gid| fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
            if !is_symlink {
                // By descriptor: chmod by name would follow a link that took the entry's place.
                let anchor = fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                let anchor = descriptor_path(&anchor);
                fs::chmod(&anchor, Mode::from_raw_mode(entry.mode.into()))?;
                if let Some(capability) = &entry.capability {
                    tolerate(attributes, fs::setxattr(&anchor, CAPABILITY, capability, XattrFlags::empty()))?;
                }
            }
            fs::utimensat(parent, name, &both_times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        };
        self.at_parent(path, set).map_err(failed)
    }

    /// As [`set_attributes`](Self::set_attributes), for a regular file that is open to write.
    ///
    /// # Errors
    /// As there. `path` is only shown.
    pub fn set_file_attributes(
        &self,
        path: &TreePath,
        file: &File,
        entry: &Entry,
        attributes: Attributes,
    ) -> Result<(), ConfinedError> {
        let give = |uid, gid| fs::fchown(file, uid, gid);
        let set = || {
            give_away(entry, attributes, give)?;
            fs::fchmod(file, Mode::from_raw_mode(entry.mode.into()))?;
            if let Some(capability) = &entry.capability {
                tolerate(attributes, fs::fsetxattr(file, CAPABILITY, capability, XattrFlags::empty()))?;
            }
            fs::futimens(file, &both_times(entry.mtime))
        };
        set().map_err(|errno| self.error("set the attributes of", path, errno))
    }

    /// As [`set_file_attributes`](Self::set_file_attributes), for a file that was just made: what is right from the start is not
    /// set again. Gives what the file is in the end.
    ///
    /// # Errors
    /// As there.
    pub fn settle_file(
        &self,
        path: &TreePath,
        file: &File,
        entry: &Entry,
        attributes: Attributes,
    ) -> Result<Stat, ConfinedError> {
        let failed = |errno| self.error("set the attributes of", path, errno);
        fs::futimens(file, &both_times(entry.mtime)).map_err(failed)?;
        let stat = stat_of(file).map_err(failed)?;
        if (stat.uid, stat.gid, stat.mode) == (entry.uid, entry.gid, entry.mode) && entry.capability.is_none() {
            return Ok(stat);
        }
        self.set_file_attributes(path, file, entry, attributes)?;
        stat_of(file).map_err(failed)
    }

    /// Sets what the kernel has not set by itself when the file was made with [`AsMade::creation_mode`].
    ///
    /// # Errors
    /// As [`set_attributes`](Self::set_attributes). `path` is only shown.
    pub fn finish_file(
        &self,
        path: &TreePath,
        file: &File,
        entry: &Entry,
        attributes: Attributes,
        as_made: AsMade,
    ) -> Result<(), ConfinedError> {
        let is_plain = as_made.is_owner(entry) && entry.capability.is_none() && as_made.creation_mode(entry) == entry.mode;
        if !is_plain {
            return self.set_file_attributes(path, file, entry, attributes);
        }
        fs::futimens(file, &both_times(entry.mtime)).map_err(|errno| self.error("set the time of", path, errno))
    }

    /// Sets what the kernel has not set by itself when the link was made.
    ///
    /// # Errors
    /// As [`set_attributes`](Self::set_attributes).
    pub fn finish_symlink(
        &self,
        path: &TreePath,
        entry: &Entry,
        attributes: Attributes,
        as_made: AsMade,
    ) -> Result<(), ConfinedError> {
        if !as_made.is_owner(entry) {
            return self.set_attributes(path, entry, attributes);
        }
        let set = |parent: BorrowedFd<'_>, name: &Path| {
            fs::utimensat(parent, name, &both_times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        };
        self.at_parent(path, set).map_err(|errno| self.error("set the time of", path, errno))
    }

    /// Sets the time of modification alone.
    ///
    /// # Errors
    /// [`ConfinedError`] if the kernel refuses.
    pub fn set_mtime(&self, path: &TreePath, mtime: Timestamp) -> Result<(), ConfinedError> {
        let set = |parent: BorrowedFd<'_>, name: &Path| {
            let omit = fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
            let mtime = fs::Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
            let times = fs::Timestamps { last_access: omit, last_modification: mtime };
            fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        };
        self.at_parent(path, set).map_err(|errno| self.error("set the time of", path, errno))
    }

    /// Removes an empty directory, or anything that is no directory.
    ///
    /// # Errors
    /// [`ConfinedError`] if it is missing or not empty.
    pub fn remove(&self, path: &TreePath) -> Result<(), ConfinedError> {
        let remove = |parent: BorrowedFd<'_>, name: &Path| match fs::unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => fs::unlinkat(parent, name, AtFlags::REMOVEDIR),
            result => result,
        };
        self.at_parent(path, remove).map_err(|errno| self.error("remove", path, errno))
    }

    /// Removes what stands at `path` with all below it; nothing there is fine. The directory itself, `/`, is emptied.
    ///
    /// # Errors
    /// [`ConfinedError`] if something stays.
    pub fn remove_all(&self, path: &TreePath) -> Result<(), ConfinedError> {
        let failed = |errno| self.error("remove", path, errno);
        if path.is_root() {
            return remove_below(self.directory.as_fd()).map_err(failed);
        }
        match self.at_parent(path, remove_tree) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Where `path` leads when all links in it are followed inside this directory. Parts that do not exist are taken as
    /// they are.
    ///
    /// # Errors
    /// [`ConfinedError`] for a circle of links, or a file in the middle.
    pub fn resolve(&self, path: &TreePath) -> Result<TreePath, ConfinedError> {
        let met = |path: &TreePath| {
            Ok(match self.stat(path)?.map(|stat| stat.kind) {
                Some(StatKind::Symlink) => Some(Met::Link(self.read_link(path)?.into())),
                Some(StatKind::Directory) => Some(Met::Directory),
                Some(_) => Some(Met::Other),
                None => None,
            })
        };
        follow(path, Last::Followed, met).map_err(|error: Unresolved| match error {
            Unresolved::Confined(error) => error,
            Unresolved::Path(ResolveError::NotADirectory(_)) => self.error("follow the links of", path, Errno::NOTDIR),
            Unresolved::Path(ResolveError::TooManyLinks(_)) => self.error("follow the links of", path, Errno::LOOP),
        })
    }

    /// Acts on the last part of `path` in the directory that holds it.
    fn at_parent<T>(&self, path: &TreePath, act: impl FnOnce(BorrowedFd<'_>, &Path) -> Result<T, Errno>) -> Result<T, Errno> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return act(self.directory.as_fd(), Path::new("."));
        };
        if parent.is_root() {
            return act(self.directory.as_fd(), name_path(name));
        }
        let parent = self.look_up(&parent, OFlags::PATH | OFlags::DIRECTORY)?;
        act(parent.as_fd(), name_path(name))
    }

    /// Opens `path`, links followed inside this directory.
    fn look_up(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        if path.is_root() {
            return fs::openat(&self.directory, ".", flags, Mode::empty());
        }
        if self.lookup == Lookup::Ourselves {
            return self.walk(path, flags);
        }
        match ask(self.directory.as_fd(), path.as_path(), flags, RESOLVE) {
            Err(Errno::NAMETOOLONG) => self.look_up_piecewise(path, flags),
            result => result,
        }
    }

    /// Opens a path that is longer than the kernel takes at once, as a step can make it. Links are followed only in its first piece:
    /// what leads through one further below is not found.
    fn look_up_piecewise(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut left = path.as_bytes();
        let mut at: Option<OwnedFd> = None;
        loop {
            let here = at.as_ref().map_or(self.directory.as_fd(), AsFd::as_fd);
            let resolve = if at.is_none() { RESOLVE } else { RESOLVE.union(ResolveFlags::NO_SYMLINKS) };
            if left.len() <= PIECE_LENGTH {
                return ask(here, name_path(left), flags, resolve);
            }
            let cut = left[..PIECE_LENGTH].iter().rposition(|byte| *byte == b'/').ok_or(Errno::NAMETOOLONG)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            at = Some(ask(here, name_path(&left[..cut]), flags, resolve)?);
            left = &left[cut + 1..];
        }
    }

    /// What `openat2` does, part by part. Every part is opened without following it, so no exchange of a directory for a
    /// link between two calls leads out.
    fn walk(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut left: Vec<Vec<u8>> = path.parts().rev().map(<[u8]>::to_vec).collect();
        let mut above: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    above.pop();
                    continue;
                }
                _ => {}
            }
            let here = above.last().map_or(self.directory.as_fd(), AsFd::as_fd);
            let is_last = left.iter().all(|part| part.is_empty() || part == b".");
            let anchor = fs::openat(here, name_path(&part), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            let kind = FileType::from_raw_mode(fs::fstat(&anchor)?.st_mode);
            match kind {
                FileType::Symlink if !is_last || !flags.contains(OFlags::NOFOLLOW) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = fs::readlinkat(&anchor, "", Vec::new())?.into_bytes();
                    if target.first() == Some(&b'/') {
                        above.clear();
                    }
                    left.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                }
                _ if is_last => return fs::openat(here, name_path(&part), flags | OFlags::NOFOLLOW, Mode::empty()),
                FileType::Directory => above.push(anchor),
                _ => return Err(Errno::NOTDIR),
            }
        }
        let here = above.last().map_or(self.directory.as_fd(), AsFd::as_fd);
        fs::openat(here, ".", flags, Mode::empty())
    }

    fn shown_path(&self, path: &TreePath) -> PathBuf {
        self.shown.join(path.as_path())
    }

    fn error(&self, action: &'static str, path: &TreePath, errno: Errno) -> ConfinedError {
        error(action, self.shown_path(path), errno)
    }
}

/// A single user id cannot give files away; an id that is not mapped does not exist.
fn tolerate(attributes: Attributes, result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::PERM | Errno::INVAL | Errno::NOTSUP) if attributes == Attributes::WherePossible => Ok(()),
        result => result,
    }
}

/// Sets the owner. Of user and group, one may be possible.
fn give_away(
    entry: &Entry,
    attributes: Attributes,
    give: impl Fn(Option<Uid>, Option<Gid>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    if let Err(errno) = give(uid, gid) {
        tolerate(attributes, Err(errno))?;
        tolerate(attributes, give(uid, None))?;
        tolerate(attributes, give(None, gid))?;
    }
    Ok(())
}

fn both_times(time: Timestamp) -> fs::Timestamps {
    let time = fs::Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    fs::Timestamps { last_access: time, last_modification: time }
}

/// Opens a path below a directory by `openat2`.
fn ask(directory: BorrowedFd<'_>, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        match fs::openat2(directory, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < MAX_RETRIES => tries += 1,
            result => return result,
        }
    }
}

const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

fn error(action: &'static str, path: PathBuf, errno: Errno) -> ConfinedError {
    ConfinedError { action, path, source: errno.into() }
}

fn name_path(name: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(name))
}

/// The path by which an open descriptor is reached, also one opened only as a path.
fn descriptor_path(descriptor: &OwnedFd) -> String {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

fn stat_at(parent: BorrowedFd<'_>, name: &Path) -> Result<Stat, Errno> {
    stat_from(&fs::statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, WANTED)?)
}

fn stat_of(file: &File) -> Result<Stat, Errno> {
    stat_from(&fs::statx(file, "", AtFlags::EMPTY_PATH, WANTED)?)
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

fn stat_from(found: &fs::Statx) -> Result<Stat, Errno> {
    let has_birth = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    let birth = Timestamp { seconds: found.stx_btime.tv_sec, nanoseconds: found.stx_btime.tv_nsec };
    let (major, minor) = (found.stx_rdev_major, found.stx_rdev_minor);
    let kind = match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::Directory => StatKind::Directory,
        FileType::RegularFile => StatKind::File,
        FileType::Symlink => StatKind::Symlink,
        FileType::CharacterDevice => StatKind::CharDevice { major, minor },
        FileType::BlockDevice => StatKind::BlockDevice { major, minor },
        FileType::Fifo => StatKind::Fifo,
        FileType::Socket => StatKind::Socket,
        FileType::Unknown => return Err(Errno::INVAL),
    };
    Ok(Stat {
        kind,
        mode: found.stx_mode & 0o7777,
        uid: found.stx_uid,
        gid: found.stx_gid,
        size_bytes: found.stx_size,
        mtime: Timestamp { seconds: found.stx_mtime.tv_sec, nanoseconds: found.stx_mtime.tv_nsec },
        ctime: Timestamp { seconds: found.stx_ctime.tv_sec, nanoseconds: found.stx_ctime.tv_nsec },
        inode: found.stx_ino,
        device: (found.stx_dev_major, found.stx_dev_minor),
        links: found.stx_nlink,
        birth: if has_birth { birth } else { Timestamp::default() },
    })
}

/// Appends the names in an open directory, `.` and `..` left out.
fn names_in(directory: &OwnedFd, names: &mut Vec<Vec<u8>>) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut entries = fs::RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(())
}

fn remove_tree(parent: BorrowedFd<'_>, name: &Path) -> Result<(), Errno> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        // A directory that we may not write in: ours to change.
        Err(Errno::ACCESS) => {
            let _ = fs::chmodat(parent, ".", Mode::RWXU, AtFlags::empty());
            match fs::unlinkat(parent, name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => {}
                result => return result,
            }
        }
        result => return result,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = fs::openat(parent, name, flags, Mode::empty()).or_else(|errno| match errno {
        Errno::ACCESS => {
            fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            fs::openat(parent, name, flags, Mode::empty())
        }
        errno => Err(errno),
    })?;
    remove_below(directory.as_fd())?;
    fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn remove_below(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let reopened = fs::openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    names_in(&reopened, &mut names)?;
    // One descriptor for each level is enough.
    drop(reopened);
    names.iter().try_for_each(|name| remove_tree(directory, name_path(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read as _, os::unix::fs::symlink};

    fn path(text: &str) -> TreePath {
        TreePath::clamp(text)
    }

    /// `root/` with links of all kinds, beside it a file that must stay out of reach.
    fn fixture() -> (tempfile::TempDir, [ConfinedDir; 2]) {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let root = outside.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "inside").unwrap();
        std::fs::write(root.join("secret"), "mine").unwrap();
        for (name, target) in [
            ("absolute", "/a"),
            ("relative", "a/b"),
            ("up", "../.."),
            ("a/b/up", "../../../../a"),
            ("out", outside.path().to_str().unwrap()),
            ("loop", "loop"),
            ("a/link", "b/file"),
            ("magic", "/proc/self/root"),
        ] {
            symlink(target, root.join(name)).unwrap();
        }
        let kernel = ConfinedDir::open(&root).unwrap();
        let ourselves = ConfinedDir { lookup: Lookup::Ourselves, ..ConfinedDir::open(&root).unwrap() };
        (outside, [kernel, ourselves])
    }

    fn read(directory: &ConfinedDir, at: &str) -> Result<String, i32> {
        let mut text = String::new();
        let file = directory.open_file(&path(at));
        file.map_err(|error| error.source.raw_os_error().unwrap())?.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[test]
    fn no_link_leads_out() {
        let (_outside, both) = fixture();
        for directory in &both {
            for (at, expected) in [
                ("a/b/file", Ok("inside")),
                ("absolute/b/file", Ok("inside")),
                ("relative/file", Ok("inside")),
                ("up/secret", Ok("mine")),
                ("a/b/up/b/file", Ok("inside")),
                ("out/secret", Err(libc::ENOENT)),
                ("magic/secret", Err(libc::ENOENT)),
                ("loop/x", Err(libc::ELOOP)),
                ("a/link", Err(libc::ELOOP)),
                ("secret/x", Err(libc::ENOTDIR)),
                ("a", Err(libc::EISDIR)),
            ] {
                assert_eq!(read(directory, at), expected.map(str::to_owned), "{at} by {:?}", directory.lookup);
            }
        }
    }

    #[test]
    fn a_path_is_resolved_as_in_a_container() {
        let (outside, both) = fixture();
        for directory in &both {
            for (at, expected) in [
                ("absolute/b", "/a/b"),
                ("a/link", "/a/b/file"),
                ("up/new/name", "/new/name"),
                ("relative/file", "/a/b/file"),
                ("out/x", &format!("{}/x", outside.path().display())),
            ] {
                assert_eq!(directory.resolve(&path(at)).unwrap().to_string(), expected, "{at}");
            }
            assert!(directory.resolve(&path("loop")).is_err());
            assert!(directory.resolve(&path("secret/x")).is_err());
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let (_outside, both) = fixture();
        for (number, directory) in both.iter().enumerate() {
            let base = path(&format!("absolute/new{number}"));
            directory.create_directory(&base, 0o700).unwrap();
            let (file, link, pipe) = (base.child(b"file"), base.child(b"link"), base.child(b"pipe"));
            io::Write::write_all(&mut directory.create_file(&file, 0o600).unwrap(), b"text").unwrap();
            directory.create_symlink(&link, b"/nowhere").unwrap();
            directory.create_node(&pipe, &Node::Fifo).unwrap();
            directory.create_link(&base.child(b"other"), &file).unwrap();
            let source = SourceId(7);
            let mut wanted = directory.entry(&file, source).unwrap().unwrap();
            (wanted.mode, wanted.mtime) = (0o4755, Timestamp { seconds: -5, nanoseconds: 17 });
            directory.set_attributes(&file, &wanted, Attributes::Real).unwrap();
            assert_eq!(directory.entry(&file, source).unwrap().unwrap(), wanted);
            assert_eq!(directory.stat(&file).unwrap().unwrap().links, 2);
            assert_eq!(directory.entry(&link, source).unwrap().unwrap().node, Node::Symlink(b"/nowhere".to_vec()));
            assert_eq!(directory.list(&base).unwrap(), [&b"file"[..], b"link", b"other", b"pipe"]);
            assert_eq!(read(directory, &format!("a/new{number}/pipe")), Err(libc::EINVAL));
            assert!(directory.create_file(&link, 0o600).is_err(), "a link is not written through");
            assert!(directory.remove(&base).is_err());
            directory.remove_all(&base).unwrap();
            directory.remove_all(&base).unwrap();
            assert_eq!(directory.stat(&base).unwrap(), None);
        }
    }

    #[test]
    fn a_path_may_be_longer_than_the_kernel_takes() {
        let (_outside, both) = fixture();
        for (number, directory) in both.iter().enumerate() {
            let mut at = path(&format!("absolute/deep{number}"));
            directory.create_directory(&at, 0o700).unwrap();
            for _ in 0..50 {
                at = at.child(&[b'd'; 100]);
                directory.create_directory(&at, 0o700).unwrap();
            }
            let file = at.child(b"file");
            io::Write::write_all(&mut directory.create_file(&file, 0o600).unwrap(), b"far below").unwrap();
            directory.create_symlink(&at.child(b"link"), b"/").unwrap();
            assert_eq!(read(directory, &file.to_string()).as_deref(), Ok("far below"));
            assert_eq!(directory.list(&at).unwrap(), [&b"file"[..], b"link"]);
            assert_eq!(directory.stat(&file).unwrap().unwrap().size_bytes, 9);
            assert_eq!(directory.read_link(&at.child(b"link")).unwrap(), b"/");
            directory.remove_all(&path(&format!("a/deep{number}"))).unwrap();
            assert_eq!(directory.list(&path("a")).unwrap(), [&b"b"[..], b"link"]);
        }
    }

    #[test]
    fn removing_does_not_follow_links_and_needs_no_permissions() {
        let (outside, [directory, _]) = fixture();
        std::fs::create_dir_all(outside.path().join("root/locked/deep/er")).unwrap();
        directory.create_symlink(&path("locked/deep/er/out"), b"../../../../secret").unwrap();
        for name in ["locked/deep/er", "locked/deep", "locked"] {
            let closed = std::os::unix::fs::PermissionsExt::from_mode(0o000);
            std::fs::set_permissions(outside.path().join("root").join(name), closed).unwrap();
        }
        directory.remove_all(&TreePath::root()).unwrap();
        assert_eq!(directory.list(&TreePath::root()).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
    }
}
