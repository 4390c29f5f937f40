//! One layer onto the disk: beside the layers below it, for an overlay, or over them, into a plain directory.
//!
//! The tree says where everything goes; the disk is never asked. So a layer's path through a link, or a whiteout behind
//! what it speaks of, ends where [`Tree::apply`] says, and nowhere outside of the root.

use super::{
    Owners, RootfsError,
    content::{Bytes, COPY_BYTES, Filling, fill},
    recorded::{RealFile, Recorded},
    records::Records,
};
use crate::confined::{Attributes, ConfinedDir, ConfinedError, StatKind};
use crate::layer::read::Visitor;
use crate::tree::{Change, Entry, Inode, LayerIndex, Node, Tree, TreePath};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Unpacks one layer; to be shown its changes in order, and finished.
pub struct Unpacker {
    directory: ConfinedDir,
    below: Below,
    attributes: Attributes,
    /// Where attributes are recorded beside the files.
    recorded: Option<Recorded>,
    /// The tree below this layer.
    lower: Tree,
    /// The tree so far.
    tree: Tree,
    /// What was there below and is not any more, or is something else.
    gone: BTreeSet<TreePath>,
    /// The directory that was written to last, open: most entries stand beside the one before.
    parent: Option<(TreePath, ConfinedDir)>,
    /// Directories that are on disk.
    known: HashSet<TreePath>,
    /// Directories whose attributes are set at the end: writing into them changes their time.
    touched: BTreeSet<TreePath>,
    unpacked: Unpacked,
    buffer: Vec<u8>,
}

/// Where the lower layers are.
enum Below {
    /// In directories of their own, lowest first; what is gone must be hidden.
    Apart(Vec<PathBuf>),
    /// In the same directory; what is gone is removed.
    Here,
}

/// What was put on disk.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// Which inodes the names have.
    pub(super) records: Records,
    /// Devices that the kernel refused to make: the tree has them, the disk does not.
    pub(super) unmade: BTreeSet<TreePath>,
}

/// What becomes of the bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copying {
    /// They are written again.
    Apart,
    /// Both files have them until one is written to, where the disk can do that. XFS first writes back what it has not yet:
    /// this is for files that are not new.
    Shared,
}

/// Puts what stands in the plain root at `from`, which is `tree`, into the empty directory at `to`.
///
/// # Errors
/// [`RootfsError`] if the disk refuses, or `from` is not what `tree` says.
pub fn copy(from: &Path, to: &Path, tree: &Tree, owners: Owners, copying: Copying) -> Result<Unpacked, RootfsError> {
    let unpacker = Unpacker::over(to, &Tree::new(), &LayerIndex::default(), owners)?;
    unpacker.copy(tree, &ConfinedDir::open(from)?, copying)
}

impl Unpacker {
    /// For a layer of an overlay: unpacks into the empty directory at `directory`. `lower_directories` hold the layers
    /// below, lowest first, and `lower` is the tree of them all.
    ///
    /// # Errors
    /// [`RootfsError`] if the directory cannot be opened.
    pub fn beside(
        directory: &Path,
        lower_directories: &[PathBuf],
        lower: &Tree,
        index: &LayerIndex,
        owners: Owners,
    ) -> Result<Self, RootfsError> {
        Self::new(directory, Below::Apart(lower_directories.to_vec()), lower, index, owners)
    }

    /// Unpacks over the layers below, which are in `directory`; `lower` is the tree of them all.
    ///
    /// # Errors
    /// [`RootfsError`] if something cannot be removed.
    pub fn over(directory: &Path, lower: &Tree, index: &LayerIndex, owners: Owners) -> Result<Self, RootfsError> {
        Self::new(directory, Below::Here, lower, index, owners)
    }

    fn new(directory: &Path, below: Below, lower: &Tree, index: &LayerIndex, owners: Owners) -> Result<Self, RootfsError> {
        let mut unpacker = Self {
            directory: ConfinedDir::open(directory)?,
            below,
            attributes: owners.attributes(),
            recorded: if owners == Owners::RECORDED { Some(Recorded::open(directory)?) } else { None },
            lower: lower.clone(),
            tree: lower.clone(),
            gone: BTreeSet::new(),
            parent: None,
            known: HashSet::from([TreePath::root()]),
            touched: BTreeSet::from([TreePath::root()]),
            unpacked: Unpacked::default(),
            buffer: vec![0; COPY_BYTES],
        };
        // First of all, wherever in the layer they stand: removals speak of the layers below.
        for change in &index.changes {
            match change {
                Change::Remove { path } => {
                    if let Ok(path) = unpacker.tree.resolve_parent(path) {
                        unpacker.take_away(&path)?;
                    }
                }
                Change::Opaque { path } => {
                    let children: Vec<TreePath> = match unpacker.tree.resolve(path) {
                        Ok(path) => unpacker.tree.children(&path).map(|(child, _)| child.clone()).collect(),
                        Err(_) => Vec::new(),
                    };
                    children.iter().try_for_each(|child| unpacker.take_away(child))?;
                }
                Change::Put { .. } | Change::Link { .. } => {}
            }
        }
        Ok(unpacker)
    }

    /// Hides what is gone, and gives all directories their attributes.
    ///
    /// # Errors
    /// [`RootfsError`] if the disk refuses.
    pub fn finish(mut self) -> Result<Unpacked, RootfsError> {
        if matches!(self.below, Below::Apart(_)) {
            for path in std::mem::take(&mut self.gone) {
                self.hide(&path)?;
            }
        }
        // Of an overlay, this layer has the directories that it needed; in a plain directory there are all.
        let is_here = |path: &&TreePath| matches!(self.below, Below::Here) || self.known.contains(*path);
        for path in self.touched.iter().rev().filter(is_here) {
            if let Some(entry) = self.tree.get(path).filter(|entry| entry.is_directory()) {
                match &self.recorded {
                    Some(recorded) => recorded.set(&self.directory, path, entry)?,
                    None => self.directory.set_attributes(path, entry, self.attributes)?,
                }
            }
        }
        Ok(self.unpacked)
    }

    /// Puts all of `tree` here; the bytes of its files are in `source`, at the same paths.
    fn copy(mut self, tree: &Tree, source: &ConfinedDir, copying: Copying) -> Result<Unpacked, RootfsError> {
        let mut first_names: HashMap<Inode, &TreePath> = HashMap::new();
        let mut open = None;
        for (path, inode, entry) in tree.iter() {
            if let Some(target) = first_names.get(&inode) {
                self.link(path, target)?;
                continue;
            }
            first_names.insert(inode, path);
            let entry = Arc::new(entry.clone());
            let put = if let Some(wanted) = entry.file() {
                let (directory, name) = open_parent(source, &mut open, path)?;
                let mut file = directory.open_file(&name)?;
                let length_bytes = file.metadata().map_err(|source| RootfsError::Copy { path: path.clone(), source })?.len();
                if length_bytes != wanted.size_bytes {
                    return Err(RootfsError::Vanished { path: path.clone() });
                }
                match copying {
                    Copying::Apart => self.put(path, &entry, Bytes::Stream(&mut file)),
                    Copying::Shared => self.put(path, &entry, Bytes::Shared(&file)),
                }
            } else {
                self.put(path, &entry, Bytes::Stream(&mut io::empty()))
            };
            put.map_err(|error| error.of(path))?;
        }
        self.finish()
    }

    fn take(&mut self, change: &Change, data: &mut dyn Read) -> Result<(), Taking> {
        match change {
            Change::Put { path, entry } => self.put(path, entry, Bytes::Stream(data)),
            Change::Link { path, target } => self.link(path, target).map_err(Taking::from),
            Change::Remove { .. } | Change::Opaque { .. } => Ok(()),
        }
    }

    fn put(&mut self, path: &TreePath, entry: &Arc<Entry>, bytes: Bytes<'_>) -> Result<(), Taking> {
        let Some(path) = self.make_parents(path)? else {
            // The root itself: it is there.
            if entry.is_directory() {
                self.tree.put(path, entry.clone());
            }
            return Ok(());
        };
        if entry.is_directory() {
            if self.tree.get(&path).is_some_and(|entry| !entry.is_directory()) {
                self.take_away(&path)?;
            }
            self.make_directory(&path)?;
        } else {
            self.clear(&path)?;
            self.create(&path, entry, bytes)?;
        }
        self.tree.put(&path, entry.clone());
        Ok(())
    }

    fn link(&mut self, path: &TreePath, target: &TreePath) -> Result<(), RootfsError> {
        let Ok(target) = self.tree.resolve_parent(target) else { return Ok(()) };
        let Some(entry) = self.tree.shared(&target).filter(|entry| !entry.is_directory()) else { return Ok(()) };
        let Some(path) = self.make_parents(path)? else { return Ok(()) };
        // As `Tree::link` does: neither may the target make room for its new name.
        if target.below(&path).is_some() || self.tree.get(&target).is_none_or(Entry::is_directory) {
            return Ok(());
        }
        if self.unpacked.unmade.contains(&target) {
            self.clear(&path)?;
            self.unpacked.unmade.insert(path.clone());
            self.tree.link(&path, &target);
            return Ok(());
        }
        if self.directory.stat(&target)?.is_none() {
            self.bring_up(&target, &entry)?;
        }
        self.clear(&path)?;
        self.directory.create_link(&path, &target)?;
        self.record(&path)?;
        self.tree.link(&path, &target);
        Ok(())
    }

    /// Copies a file of a lower layer into this one, so that a further name can be given to it.
    fn bring_up(&mut self, path: &TreePath, entry: &Entry) -> Result<(), RootfsError> {
        let Below::Apart(directories) = &self.below else {
            return Err(RootfsError::Vanished { path: path.clone() });
        };
        let mut source = None;
        for directory in directories.iter().rev() {
            let directory = ConfinedDir::open(directory)?;
            if directory.stat(path)?.is_some() {
                source = Some(directory);
                break;
            }
        }
        let source = source.ok_or_else(|| RootfsError::Vanished { path: path.clone() })?;
        self.make_parents(path)?;
        let created = match &entry.node {
            Node::File(_) => self.create(path, entry, Bytes::Stream(&mut source.open_file(path)?)),
            _ => self.create(path, entry, Bytes::Stream(&mut io::empty())),
        };
        created.map_err(|error| error.of(path))
    }

    /// Makes what is no directory. Nothing stands there.
    fn create(&mut self, path: &TreePath, entry: &Entry, bytes: Bytes<'_>) -> Result<(), Taking> {
        let (directory, name) = open_parent(&self.directory, &mut self.parent, path)?;
        match &entry.node {
            Node::Directory => unreachable!("the caller makes directories"),
            Node::File(content) => {
                let real = self.recorded.as_ref().map_or_else(|| RealFile::same(entry), |recorded| recorded.real_file(entry));
                let mut file = directory.create_file(&name, real.creation_mode)?;
                fill(&mut file, content.size_bytes, bytes, &mut self.buffer).map_err(|error| match error {
                    Filling::Disk(source) => Taking::Disk(RootfsError::Copy { path: path.clone(), source }),
                    Filling::Data(error) => Taking::Data(error),
                })?;
                if let Some(recorded) = &self.recorded {
                    recorded.note(directory, &name, entry)?;
                }
                let stat = directory.settle_file(&name, &file, &real.entry, self.attributes)?;
                if matches!(self.below, Below::Here) {
                    self.unpacked.records.insert(path, &stat);
                }
                return Ok(());
            }
            Node::Symlink(target) => directory.create_symlink(&name, target)?,
            Node::CharDevice { .. } | Node::BlockDevice { .. } if self.recorded.is_some() => {
                drop(directory.create_file(&name, 0o600)?);
            }
            Node::CharDevice { .. } | Node::BlockDevice { .. } | Node::Fifo => match directory.create_node(&name, &entry.node) {
                // No user namespace may make devices, nor some pods.
                Err(error) if entry.node != Node::Fifo && is_refusal(&error) => {
                    self.unpacked.unmade.insert(path.clone());
                    return Ok(());
                }
                result => result?,
            },
        }
        match &self.recorded {
            Some(recorded) => recorded.set(directory, &name, entry)?,
            None => directory.set_attributes(&name, entry, self.attributes)?,
        }
        Ok(self.record(path)?)
    }

    fn record(&mut self, path: &TreePath) -> Result<(), RootfsError> {
        if matches!(self.below, Below::Here) {
            let (directory, name) = open_parent(&self.directory, &mut self.parent, path)?;
            if let Some(stat) = directory.stat(&name)? {
                self.unpacked.records.insert(path, &stat);
            }
        }
        Ok(())
    }

    /// Says where `path` really is, its directories made; `None` for the root. As [`Tree::put`] does it.
    fn make_parents(&mut self, path: &TreePath) -> Result<Option<TreePath>, RootfsError> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return Ok(None) };
        let parent = self.tree.resolve(&parent).unwrap_or(parent);
        if !self.known.contains(&parent) {
            for directory in parent.ancestors().chain([parent.clone()]) {
                if self.tree.get(&directory).is_some_and(|entry| !entry.is_directory()) {
                    self.take_away(&directory)?;
                }
                self.make_directory(&directory)?;
                if self.tree.get(&directory).is_none() {
                    self.tree.put(&directory, Entry::directory(crate::tree::Timestamp::default()));
                }
            }
        }
        self.touched.insert(parent.clone());
        Ok(Some(parent.child(name)))
    }

    /// Makes a directory on disk unless it is there. Its attributes come at the end.
    fn make_directory(&mut self, path: &TreePath) -> Result<(), RootfsError> {
        if self.known.contains(path) {
            return Ok(());
        }
        match self.directory.stat(path)?.map(|stat| stat.kind) {
            Some(StatKind::Directory) => {}
            None => self.directory.create_directory(path, 0o700)?,
            Some(_) => {
                self.directory.remove_all(path)?;
                self.directory.create_directory(path, 0o700)?;
            }
        }
        self.known.insert(path.clone());
        self.touched.insert(path.clone());
        if let Some(parent) = path.parent() {
            self.touched.insert(parent);
        }
        Ok(())
    }

    /// Makes room for something that is no directory.
    fn clear(&mut self, path: &TreePath) -> Result<(), RootfsError> {
        if self.tree.get(path).is_some() {
            self.take_away(path)?;
        }
        Ok(())
    }

    /// Removes `path` from the tree and the disk, and remembers that it is gone.
    fn take_away(&mut self, path: &TreePath) -> Result<(), RootfsError> {
        if path.is_root() {
            let children: Vec<TreePath> = self.tree.children(path).map(|(child, _)| child.clone()).collect();
            return children.iter().try_for_each(|child| self.take_away(child));
        }
        if self.tree.get(path).is_some_and(Entry::is_directory) {
            self.known.retain(|known| known.below(path).is_none());
            self.parent.take_if(|(parent, _)| parent.below(path).is_some());
        }
        self.directory.remove_all(path)?;
        self.unpacked.unmade.retain(|unmade| unmade.below(path).is_none());
        if self.lower.get(path).is_some() {
            self.gone.insert(path.clone());
        }
        if let Some(parent) = path.parent() {
            self.touched.insert(parent);
        }
        self.tree.remove(path);
        Ok(())
    }

    /// Hides what the lower layers have at `path` and the tree has not.
    fn hide(&mut self, path: &TreePath) -> Result<(), RootfsError> {
        match self.tree.get(path) {
            None => {
                let parent = path.parent().unwrap_or_default();
                let is_visible = self.tree.get(&parent).is_some_and(Entry::is_directory);
                if is_visible && self.lower.get(path).is_some() && self.directory.stat(path)?.is_none() {
                    self.make_parents(path)?;
                    self.directory.create_node(path, &Node::CharDevice { major: 0, minor: 0 })?;
                }
                Ok(())
            }
            // A file hides whatever is below it. So does a directory a file.
            Some(entry) if !entry.is_directory() => Ok(()),
            Some(_) => {
                let children: Vec<TreePath> = self.lower.children(path).map(|(child, _)| child.clone()).collect();
                children.iter().try_for_each(|child| self.hide(child))
            }
        }
    }
}

/// A layer that was unpacked without regard to the layers below it, and what they have to do with it.
pub(super) struct Settlement<'a> {
    pub(super) directory: ConfinedDir,
    pub(super) attributes: Attributes,
    /// The tree of the layers below.
    pub(super) below: &'a Tree,
    /// The same with this layer.
    pub(super) tree: &'a Tree,
    /// What was there below and was removed by the layer.
    pub(super) gone: BTreeSet<TreePath>,
    /// All directories of the layer.
    pub(super) directories: HashSet<TreePath>,
}

impl Settlement<'_> {
    /// Does what [`Unpacker::finish`] does.
    pub(super) fn settle(self) -> Result<(), RootfsError> {
        let mut touched: BTreeSet<TreePath> = self.directories.iter().cloned().collect();
        touched.insert(TreePath::root());
        let mut known = self.directories;
        known.insert(TreePath::root());
        let unpacker = Unpacker {
            directory: self.directory,
            below: Below::Apart(Vec::new()),
            attributes: self.attributes,
            recorded: None,
            lower: self.below.clone(),
            tree: self.tree.clone(),
            gone: self.gone,
            parent: None,
            known,
            touched,
            unpacked: Unpacked::default(),
            buffer: Vec::new(),
        };
        unpacker.finish().map(drop)
    }
}

/// An error of the disk stops the unpacking, one of the layer is passed on as it came.
impl Visitor for Unpacker {
    fn visit(&mut self, change: &Change, data: &mut dyn Read) -> io::Result<()> {
        self.take(change, data).map_err(|error| match error {
            Taking::Disk(error) => io::Error::other(error),
            Taking::Data(error) => error,
        })
    }
}

/// What failed.
enum Taking {
    Disk(RootfsError),
    Data(io::Error),
}

impl Taking {
    /// The same where the bytes came from a disk too.
    fn of(self, path: &TreePath) -> RootfsError {
        match self {
            Self::Disk(error) => error,
            Self::Data(source) => RootfsError::Copy { path: path.clone(), source },
        }
    }
}

impl From<RootfsError> for Taking {
    fn from(error: RootfsError) -> Self {
        Self::Disk(error)
    }
}

impl From<ConfinedError> for Taking {
    fn from(error: ConfinedError) -> Self {
        Self::Disk(error.into())
    }
}

/// The directory that holds `path`, and its name in there.
fn open_parent<'a>(
    root: &'a ConfinedDir,
    open: &'a mut Option<(TreePath, ConfinedDir)>,
    path: &TreePath,
) -> Result<(&'a ConfinedDir, TreePath), ConfinedError> {
    let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return Ok((root, path.clone())) };
    let name = TreePath::root().child(name);
    if parent.is_root() {
        return Ok((root, name));
    }
    let kept = open.take().filter(|(kept, _)| *kept == parent);
    let (_, directory) = match kept {
        Some(kept) => open.insert(kept),
        None => {
            let directory = root.open_directory(&parent)?;
            open.insert((parent, directory))
        }
    };
    Ok((directory, name))
}

fn is_refusal(error: &ConfinedError) -> bool {
    error.source.kind() == io::ErrorKind::PermissionDenied
}
