//! One layer of an overlay onto the disk by itself, while it is downloaded, before anything is known of the layers below it.
//!
//! Most layers mean the same on any others: they lead through no link, they replace nothing of their own and link to nothing
//! that is not theirs. Such a layer is unpacked while its bytes come by for the first time; what it hides and which owners the
//! directories have that it does not mention is settled when the tree below it is known. Any other layer, and any trouble
//! with the disk, ends the attempt: then an [`Unpacker`](super::Unpacker) does it, which looks at the tree at each turn.

use super::{
    Owners, RootfsError,
    content::{Bytes, COPY_BYTES, Filling, fill},
    unpack::Settlement,
};
use crate::confined::{AsMade, Attributes, ConfinedDir, ConfinedError};
use crate::layer::read::Visitor;
use crate::tree::{Change, Entry, LayerIndex, Node, Tree, TreePath};
use std::{
    collections::{BTreeSet, HashSet},
    io::{self, Read},
    path::Path,
};

/// Unpacks one layer; to be shown its changes in order. It takes every layer, and says at the end whether it was one that
/// can be unpacked alone.
#[derive(Debug)]
pub struct LoneUnpacker {
    layer: LoneLayer,
    /// What files have when they are made.
    as_made: AsMade,
    /// The directories from the root to the one that was written to last, open.
    open: Vec<(TreePath, ConfinedDir)>,
    buffer: Vec<u8>,
    /// Why it has been given up.
    given_up: bool,
}

/// A layer on disk of which the layers below have not been considered yet.
#[derive(Debug)]
pub struct LoneLayer {
    directory: ConfinedDir,
    attributes: Attributes,
    /// All directories of the layer.
    directories: HashSet<TreePath>,
    /// Those that were needed before the layer mentioned them: on a lower layer they must not be links.
    implied: Vec<TreePath>,
}

/// Why the layer cannot be unpacked alone.
struct Odd;

impl From<ConfinedError> for Odd {
    fn from(_: ConfinedError) -> Self {
        Self
    }
}

impl From<io::Error> for Odd {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl LoneUnpacker {
    /// Unpacks into the empty directory at `directory`.
    ///
    /// # Errors
    /// [`RootfsError`] if nothing can be made in it.
    pub fn new(directory: &Path, owners: Owners) -> Result<Self, RootfsError> {
        let directory = ConfinedDir::open(directory)?;
        let as_made = directory.as_made()?;
        let layer = LoneLayer { directory, attributes: owners.attributes(), directories: HashSet::new(), implied: Vec::new() };
        Ok(Self { layer, as_made, open: Vec::new(), buffer: vec![0; COPY_BYTES], given_up: false })
    }

    /// What was unpacked; `None` if the layer is one that cannot be unpacked alone.
    #[must_use]
    pub fn finish(self) -> Option<LoneLayer> {
        if self.given_up { None } else { Some(self.layer) }
    }

    fn put(&mut self, path: &TreePath, entry: &Entry, data: &mut dyn Read) -> Result<Result<(), Odd>, io::Error> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return Ok(Ok(())) };
        let name = TreePath::root().child(name);
        if entry.is_directory() && self.layer.directories.contains(path) {
            return Ok(Ok(()));
        }
        let attributes = self.layer.attributes;
        let Ok(directory) = enter(&mut self.layer, &mut self.open, &parent) else { return Ok(Err(Odd)) };
        match &entry.node {
            Node::Directory => {
                if directory.create_directory(&name, 0o700).is_err() {
                    return Ok(Err(Odd));
                }
                self.layer.directories.insert(path.clone());
                Ok(Ok(()))
            }
            Node::File(content) => {
                let Ok(mut file) = directory.create_file(&name, self.as_made.creation_mode(entry)) else { return Ok(Err(Odd)) };
                match fill(&mut file, content.size_bytes, Bytes::Stream(data), &mut self.buffer) {
                    Ok(()) => Ok(directory.finish_file(&name, &file, entry, attributes, self.as_made).map_err(Odd::from)),
                    Err(Filling::Disk(_)) => Ok(Err(Odd)),
                    // Of the bytes that come, an error is the layer's own and no reason to try again.
                    Err(Filling::Data(error)) => Err(error),
                }
            }
            Node::Symlink(target) => Ok(directory
                .create_symlink(&name, target)
                .and_then(|()| directory.finish_symlink(&name, entry, attributes, self.as_made))
                .map_err(Odd::from)),
            Node::CharDevice { .. } | Node::BlockDevice { .. } | Node::Fifo => {
                Ok(match directory.create_node(&name, &entry.node) {
                    // No user namespace may make devices, nor some pods: the layer is without it.
                    Err(error) if entry.node != Node::Fifo && error.source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                    made => made.and_then(|()| directory.set_attributes(&name, entry, attributes)).map_err(Odd::from),
                })
            }
        }
    }

    fn link(&mut self, path: &TreePath, target: &TreePath) -> Result<(), Odd> {
        let (Some(parent), Some(name)) = (target.parent(), target.name()) else { return Err(Odd) };
        // A directory that the layer does not have holds no file of the layer.
        if !parent.is_root() && !self.layer.directories.contains(&parent) {
            return Err(Odd);
        }
        let source = enter(&mut self.layer, &mut self.open, &parent)?.try_clone()?;
        let target = TreePath::root().child(name);
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return Err(Odd) };
        let directory = enter(&mut self.layer, &mut self.open, &parent)?;
        Ok(directory.create_link_from(&TreePath::root().child(name), &source, &target)?)
    }
}

/// Opens the directory at `path`, and makes those on the way that are missing. No link is followed.
fn enter<'a>(
    layer: &'a mut LoneLayer,
    open: &'a mut Vec<(TreePath, ConfinedDir)>,
    path: &TreePath,
) -> Result<&'a ConfinedDir, Odd> {
    while open.last().is_some_and(|(at, _)| path.below(at).is_none()) {
        open.pop();
    }
    let at = open.last().map(|(at, _)| at.clone()).unwrap_or_default();
    let Some(rest) = path.below(&at) else { return Err(Odd) };
    let mut at = at;
    for part in rest.parts() {
        let above = open.last().map_or(&layer.directory, |(_, directory)| directory);
        at = at.child(part);
        let name = TreePath::root().child(part);
        if !layer.directories.contains(&at) {
            above.create_directory(&name, 0o700)?;
            layer.directories.insert(at.clone());
            layer.implied.push(at.clone());
        }
        let directory = above.enter(part)?;
        open.push((at.clone(), directory));
    }
    Ok(open.last().map_or(&layer.directory, |(_, directory)| directory))
}

impl Visitor for LoneUnpacker {
    fn visit(&mut self, change: &Change, data: &mut dyn Read) -> io::Result<()> {
        if self.given_up {
            return Ok(());
        }
        let done = match change {
            Change::Put { path, entry } => self.put(path, entry, data)?,
            Change::Link { path, target } => self.link(path, target),
            // They speak of the layers below.
            Change::Remove { .. } | Change::Opaque { .. } => Ok(()),
        };
        self.given_up = done.is_err();
        Ok(())
    }
}

impl LoneLayer {
    /// Hides what the layer hides of those below it and gives its directories their attributes. `below` is the tree of the
    /// layers below, `index` what this one does, `tree` both together. `false` if it means something else on them than
    /// alone: then what is in the directory is of no use.
    ///
    /// # Errors
    /// [`RootfsError`] if the disk refuses.
    pub fn settle(self, below: &Tree, index: &LayerIndex, tree: &Tree) -> Result<bool, RootfsError> {
        let is_no_directory = |path: &TreePath| below.get(path).is_some_and(|entry| !entry.is_directory());
        if self.implied.iter().any(is_no_directory) {
            return Ok(false);
        }
        let mut gone = BTreeSet::new();
        for change in &index.changes {
            match change {
                Change::Remove { path } => {
                    if below.resolve_parent(path).as_ref() != Ok(path) {
                        return Ok(false);
                    }
                    gone.insert(path.clone());
                }
                Change::Opaque { path } => {
                    if below.resolve(path).as_ref() != Ok(path) {
                        return Ok(false);
                    }
                    gone.extend(below.children(path).map(|(child, _)| child.clone()));
                }
                Change::Put { .. } | Change::Link { .. } => {}
            }
        }
        gone.retain(|path| below.get(path).is_some());
        let Self { directory, attributes, directories, .. } = self;
        Settlement { directory, attributes, below, tree, gone, directories }.settle()?;
        Ok(true)
    }
}
