//! Owners, modes, devices and capabilities recorded beside the files: where the kernel refuses to store them, and an emulated
//! step sees and writes the same records. The format is [`emulation::record`]'s.

use super::RootfsError;
use crate::confined::{Attributes, ConfinedDir, ConfinedError, Stat, StatKind};
use crate::tree::{Entry, Node, SourceId, Timestamp, TreePath};
use emulation::record::{self, BLOCK, CHARACTER, DIRECTORY, LINKS, OWNERS, REGULAR, Record, TYPE};
use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// The attribute with the record.
const ATTRIBUTE: &str = "user.cofferdam";
/// The attribute in which an emulated step keeps the capabilities of a program.
const CAPABILITY: &str = "user.cofferdam.security.capability";

/// The records of one root.
#[derive(Debug)]
pub(super) struct Recorded {
    /// Owners of what can hold no attribute, by inode; `None` where nothing was ever recorded, in a directory that is only read.
    owners: Option<ConfinedDir>,
    uid: u32,
    gid: u32,
}

impl Recorded {
    /// The records of the root at `root`, a path on the host.
    pub(super) fn open(root: &Path) -> Result<Self, RootfsError> {
        let path = beside(root, OWNERS);
        match fs::create_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(RootfsError::State { action: "make", path, source });
            }
            _ => {}
        }
        Ok(Self::with(Some(ConfinedDir::open(path)?)))
    }

    /// The same of a directory that is only read, which may be the user's: nothing is made beside it.
    fn open_to_read(root: &Path) -> Result<Self, RootfsError> {
        let path = beside(root, OWNERS);
        let is_there =
            path.try_exists().map_err(|source| RootfsError::State { action: "look at", path: path.clone(), source })?;
        Ok(Self::with(if is_there { Some(ConfinedDir::open(path)?) } else { None }))
    }

    fn with(owners: Option<ConfinedDir>) -> Self {
        Self { owners, uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    /// What the image has where the disk has `stat`.
    pub(super) fn seen(&self, directory: &ConfinedDir, path: &TreePath, stat: &Stat) -> Result<Stat, ConfinedError> {
        let mut seen = *stat;
        match stat.kind {
            StatKind::Directory | StatKind::File => {
                let is_marked = u32::from(stat.mode) & record::MARK != 0;
                let bytes = if is_marked { directory.attribute(path, ATTRIBUTE)? } else { None };
                let Some(record) = bytes.as_deref().and_then(Record::parse).filter(|record| fits(record, stat.kind)) else {
                    let kind = if stat.kind == StatKind::File { REGULAR } else { DIRECTORY };
                    (seen.uid, seen.gid) = (0, 0);
                    seen.mode = permissions(record::plain_mode(kind | u32::from(stat.mode)));
                    return Ok(seen);
                };
                (seen.uid, seen.gid, seen.mode) = (record.uid, record.gid, permissions(record.mode));
                let (major, minor) = numbers(record.device);
                match record.mode & TYPE {
                    CHARACTER => seen.kind = StatKind::CharDevice { major, minor },
                    BLOCK => seen.kind = StatKind::BlockDevice { major, minor },
                    _ => {}
                }
            }
            _ => {
                let known = self.owners.as_ref().and_then(|owners| owners.read_link(&name(stat.inode, stat.birth)).ok());
                let value = known.unwrap_or_default();
                (seen.uid, seen.gid) = record::parse_side_value(&value).unwrap_or((0, 0));
            }
        }
        Ok(seen)
    }

    /// The entry of the image at `path`, of which `seen` is known; `None` for a socket.
    pub(super) fn entry(
        directory: &ConfinedDir,
        path: &TreePath,
        seen: &Stat,
        source: SourceId,
    ) -> Result<Option<Entry>, ConfinedError> {
        let Some(mut entry) = directory.entry_of(path, seen, source)? else { return Ok(None) };
        if seen.kind == StatKind::File {
            entry.capability = directory.attribute(path, CAPABILITY)?;
        }
        Ok(Some(entry))
    }

    /// Makes what stands at `name` in `directory` what `entry` says. A device stands there as an empty file.
    pub(super) fn set(&self, directory: &ConfinedDir, name: &TreePath, entry: &Entry) -> Result<(), ConfinedError> {
        self.note(directory, name, entry)?;
        directory.set_attributes(name, &self.real(entry), Attributes::WherePossible)
    }

    /// Records what the kernel does not store of what stands at `name` in `directory`; it must still let itself be written.
    pub(super) fn note(&self, directory: &ConfinedDir, name: &TreePath, entry: &Entry) -> Result<(), ConfinedError> {
        let Some(record) = record_of(entry) else { return self.set_owner(directory, name, entry) };
        if !record.is_plain() {
            directory.set_attribute(name, ATTRIBUTE, &record.to_bytes())?;
        }
        match &entry.capability {
            Some(capability) => directory.set_attribute(name, CAPABILITY, capability),
            None => Ok(()),
        }
    }

    /// The file that stands on disk for that of `entry`.
    pub(super) fn real_file(&self, entry: &Entry) -> RealFile<'static> {
        let real = self.real(entry);
        let is_noted = entry.capability.is_some() || !record_of(entry).is_some_and(Record::is_plain);
        // Attributes are refused for a file that its owner may not write.
        RealFile { creation_mode: if is_noted { 0o600 } else { real.mode & 0o777 }, entry: Cow::Owned(real) }
    }

    /// What stands on disk for `entry`.
    fn real(&self, entry: &Entry) -> Entry {
        let mode = record_of(entry).map_or(entry.mode, |record| permissions(record.real_mode()));
        Entry { uid: self.uid, gid: self.gid, mode, capability: None, ..entry.clone() }
    }

    fn set_owner(&self, directory: &ConfinedDir, path: &TreePath, entry: &Entry) -> Result<(), ConfinedError> {
        if (entry.uid, entry.gid) == (0, 0) {
            return Ok(());
        }
        let Some(stat) = directory.stat(path)? else { return Ok(()) };
        let mut value = [0; 24];
        let length = record::side_value(&mut value, entry.uid, entry.gid);
        let name = name(stat.inode, stat.birth);
        let owners = self.owners.as_ref().expect("records that are written were opened so");
        owners.remove_all(&name)?;
        owners.create_symlink(&name, &value[..length])
    }
}

/// A file on disk.
pub(super) struct RealFile<'a> {
    /// What it is in the end.
    pub(super) entry: Cow<'a, Entry>,
    /// The mode to make it with.
    pub(super) creation_mode: u16,
}

impl<'a> RealFile<'a> {
    /// Where nothing is recorded: what the image has.
    pub(super) fn same(entry: &'a Entry) -> Self {
        Self { entry: Cow::Borrowed(entry), creation_mode: entry.mode & 0o777 }
    }
}

/// The record of what can hold one.
fn record_of(entry: &Entry) -> Option<Record> {
    let (kind, device) = match entry.node {
        Node::Directory => (DIRECTORY, 0),
        Node::File(_) => (REGULAR, 0),
        Node::CharDevice { major, minor } => (CHARACTER, device(major, minor)),
        Node::BlockDevice { major, minor } => (BLOCK, device(major, minor)),
        Node::Symlink(_) | Node::Fifo => return None,
    };
    Some(Record { uid: entry.uid, gid: entry.gid, mode: kind | u32::from(entry.mode), device })
}

/// Copies from a path in one root to a path in another. Times are copied too, those of directories when all is in them.
pub(super) fn copy((from, source): (&Path, &TreePath), (to, target): (&Path, &TreePath)) -> Result<(), RootfsError> {
    let (records, new_records) = (Recorded::open_to_read(from)?, Recorded::open(to)?);
    let (from, to) = (ConfinedDir::open(from)?, ConfinedDir::open(to)?);
    let mut directories = Vec::new();
    let mut open = vec![(source.clone(), target.clone())];
    while let Some((source, target)) = open.pop() {
        let Some(stat) = from.stat(&source)? else { continue };
        let seen = records.seen(&from, &source, &stat)?;
        let Some(entry) = Recorded::entry(&from, &source, &seen, SourceId(0))? else {
            // A socket, of an agent: another name of it, not a copy.
            let place = to.shown().join(target.as_path());
            let linked = fs::hard_link(from.shown().join(source.as_path()), &place);
            linked.map_err(|source| RootfsError::State { action: "link", path: place, source })?;
            continue;
        };
        match &entry.node {
            Node::Directory => {
                to.create_directory(&target, 0o700)?;
                open.extend(from.list(&source)?.iter().map(|name| (source.child(name), target.child(name))));
                directories.push((target, entry));
                continue;
            }
            Node::File(_) => {
                let copied = io::copy(&mut from.open_file(&source)?, &mut to.create_file(&target, 0o600)?);
                copied.map_err(|source| RootfsError::Copy { path: target.clone(), source })?;
            }
            Node::Symlink(link) => to.create_symlink(&target, link)?,
            Node::Fifo => to.create_node(&target, &entry.node)?,
            Node::CharDevice { .. } | Node::BlockDevice { .. } => drop(to.create_file(&target, 0o600)?),
        }
        new_records.set(&to, &target, &entry)?;
    }
    directories.iter().rev().try_for_each(|(target, entry)| Ok(new_records.set(&to, target, entry)?))
}

/// Says beside the root at `root` which files have several names before a step: by number and time of birth of their inodes.
pub(super) fn note_links(root: &Path, inodes: impl Iterator<Item = (u64, Timestamp)>) -> Result<(), RootfsError> {
    let path = beside(root, LINKS);
    let mut wanted: BTreeSet<TreePath> = inodes.map(|(inode, birth)| name(inode, birth)).collect();
    let prepared = if wanted.is_empty() { fs::remove_dir_all(&path) } else { fs::create_dir(&path) };
    match prepared {
        Err(source) if !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {
            return Err(RootfsError::State { action: "note links in", path, source });
        }
        _ if wanted.is_empty() => return Ok(()),
        _ => {}
    }
    let links = ConfinedDir::open(path)?;
    for name in links.list(&TreePath::root())? {
        let name = TreePath::root().child(&name);
        if !wanted.remove(&name) {
            links.remove(&name)?;
        }
    }
    for name in &wanted {
        links.create_file(name, 0o600)?;
    }
    Ok(())
}

/// A directory beside a root, by what is appended to its path.
pub(crate) fn beside(root: &Path, suffix: &str) -> PathBuf {
    let mut path = root.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// What an inode is called there.
fn name(inode: u64, birth: Timestamp) -> TreePath {
    let mut buffer = [0; 72];
    let seconds = u64::from_ne_bytes(birth.seconds.to_ne_bytes());
    let length = record::side_name(&mut buffer, inode, seconds, u64::from(birth.nanoseconds));
    TreePath::root().child(&buffer[..length])
}

/// A step may write records itself; what stands there must be able to be that.
fn fits(record: &Record, kind: StatKind) -> bool {
    (record.mode & TYPE == DIRECTORY) == (kind == StatKind::Directory)
}

fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).expect("twelve bits")
}

/// As the kernel packs them into 32 bits.
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

fn numbers(device: u32) -> (u32, u32) {
    (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        let (recorded, root) = (Recorded::open(&root).unwrap(), ConfinedDir::open(&root).unwrap());
        let mtime = Timestamp::from_seconds(7);
        let entry = |node, mode| Entry { node, mode, uid: 33, gid: 44, mtime, capability: None };
        for (name, node, mode) in [
            ("directory", Node::Directory, 0o3555),
            ("null", Node::CharDevice { major: 1, minor: 3 }, 0o666),
            ("disk", Node::BlockDevice { major: 259, minor: 70_000 }, 0o660),
            ("pipe", Node::Fifo, 0o640),
            ("link", Node::Symlink(b"/a".to_vec()), 0o777),
        ] {
            let (path, wanted) = (TreePath::clamp(name), entry(node, mode));
            match &wanted.node {
                Node::Directory => root.create_directory(&path, 0o700).unwrap(),
                Node::Fifo => root.create_node(&path, &wanted.node).unwrap(),
                Node::Symlink(target) => root.create_symlink(&path, target).unwrap(),
                _ => drop(root.create_file(&path, 0o600).unwrap()),
            }
            recorded.set(&root, &path, &wanted).unwrap();
            let seen = recorded.seen(&root, &path, &root.stat(&path).unwrap().unwrap()).unwrap();
            assert_eq!(Recorded::entry(&root, &path, &seen, SourceId(0)).unwrap(), Some(wanted), "{name}");
        }
    }

    #[test]
    fn nothing_is_made_beside_what_is_only_read() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir_all(from.join("d")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("d/file"), "text").unwrap();
        std::os::unix::fs::symlink("d/file", from.join("link")).unwrap();
        copy((&from, &TreePath::root()), (&to, &TreePath::clamp("copy"))).unwrap();
        assert_eq!(fs::read(to.join("copy/link")).unwrap(), b"text");
        assert!(!beside(&from, OWNERS).exists());
    }

    #[test]
    fn a_file_that_nobody_may_write_to_or_execute_needs_no_record() {
        let directory = tempfile::tempdir().unwrap();
        let (recorded, root) =
            (Recorded::open(&directory.path().join("r")).unwrap(), ConfinedDir::open(directory.path()).unwrap());
        let modes = [
            (0, false),
            (0o444, false),
            (0o440, false),
            (0o044, true),
            (0o001, true),
            (0o400, true),
            (0o555, true),
            (0o755, false),
        ];
        for (mode, has_record) in modes {
            let path = TreePath::clamp(format!("file{mode:o}"));
            drop(root.create_file(&path, 0o600).unwrap());
            let content = crate::tree::Content::Inline(Vec::new().into());
            let file = crate::tree::File { size_bytes: 0, digest: None, content };
            let entry =
                Entry { node: Node::File(file), mode, uid: 0, gid: 0, mtime: Timestamp::from_seconds(7), capability: None };
            recorded.set(&root, &path, &entry).unwrap();
            let stat = root.stat(&path).unwrap().unwrap();
            assert_eq!(stat.mode & 0o600, 0o600, "the builder can use it");
            assert_eq!(recorded.seen(&root, &path, &stat).unwrap().mode, mode, "{mode:o}");
            assert_eq!(root.attribute(&path, ATTRIBUTE).unwrap().is_some(), has_record, "{mode:o}");
        }
    }

    #[test]
    fn the_links_that_are_noted_are_those_of_this_step() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let noted = |inodes: &[u64]| {
            note_links(&root, inodes.iter().map(|inode| (*inode, Timestamp::from_seconds(3)))).unwrap();
            let names = fs::read_dir(beside(&root, LINKS)).ok()?;
            let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            Some(names.join(" "))
        };
        assert_eq!(noted(&[]), None);
        assert_eq!(noted(&[1, 2]).as_deref(), Some("1.3.0 2.3.0"));
        assert_eq!(noted(&[2, 30]).as_deref(), Some("2.3.0 30.3.0"));
        assert_eq!(noted(&[]), None);
    }

    #[test]
    fn without_a_record_a_file_is_roots() {
        let directory = tempfile::tempdir().unwrap();
        let (recorded, root) =
            (Recorded::open(&directory.path().join("r")).unwrap(), ConfinedDir::open(directory.path()).unwrap());
        let path = TreePath::clamp("file");
        drop(root.create_file(&path, 0o640).unwrap());
        let seen = recorded.seen(&root, &path, &root.stat(&path).unwrap().unwrap()).unwrap();
        assert_eq!((seen.uid, seen.gid, seen.mode), (0, 0, 0o640));
    }
}
