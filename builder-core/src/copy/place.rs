//! Where the selected files go: the changes that one COPY, ADD or WORKDIR makes to a tree. Pure.
//!
//! The rules are BuildKit's. Several of them read oddly and are kept because Dockerfiles rely on them: a directory that exists at
//! the destination keeps its mode and owner, but the directories below it take those of the source; a symbolic link there is followed
//! if the destination names it, and never replaced by a directory.

use super::{Chmod, Kind, Selected, Selection, select::Role};
use crate::tree::{Change, Entry, Last, Met, Node, ResolveError, Timestamp, Tree, TreePath, follow};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Where and how to place.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The destination as written, variables expanded. `/` or `/.` at its end, `.` and nothing at all mean a directory.
    pub destination: Vec<u8>,
    /// What a relative destination is relative to.
    pub workdir: TreePath,
    /// `--chown`: who owns everything. Otherwise owners are kept, and what is made belongs to root.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`
    pub chmod: Option<Chmod>,
    /// Onto what.
    pub ground: Ground,
    /// The time of directories that are made.
    pub now: Timestamp,
}

/// What the files are placed onto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The tree: links are followed, what exists is respected.
    Tree,
    /// Nothing (`--link`): the layer does not depend on what is below it, and replaces that.
    Empty,
}

/// What one source has become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Files to copy.
    Files(Selection),
    /// What was in an archive, to be extracted into the destination.
    Archive(Vec<Change>),
}

/// Why something cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Several sources, and a destination that is no directory.
    #[error("several sources need a destination directory, so {0:?} has to end with \"/\"")]
    SeveralSources(String),
    /// A file stands where a directory is needed.
    #[error("{0} is not a directory")]
    NotADirectory(TreePath),
    /// A directory is to go where something else is.
    #[error("cannot replace {0} with a directory: it is a file or a symbolic link")]
    DirectoryOverFile(TreePath),
    /// A file is to go where a directory is.
    #[error("cannot replace the directory {0} with a file")]
    FileOverDirectory(TreePath),
    /// The destination leads nowhere.
    #[error(transparent)]
    Resolve(ResolveError),
    /// A hard link of an archive to nothing, or to a directory.
    #[error("the archive links {path} to {target}, which is no file there")]
    ArchiveLink {
        /// The new name.
        path: TreePath,
        /// The file that it should be a name of.
        target: TreePath,
    },
    /// An archive that is a layer.
    #[error("the archive holds the whiteout of {0}, which only a layer can mean")]
    ArchiveWhiteout(TreePath),
}

impl From<ResolveError> for PlaceError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::NotADirectory(path) => Self::NotADirectory(path),
            error @ ResolveError::TooManyLinks(_) => Self::Resolve(error),
        }
    }
}

/// Checks that several sources, patterns counted once, have a directory to go to.
///
/// # Errors
/// [`PlaceError::SeveralSources`]
pub fn check_destination(source_count: usize, destination: &[u8]) -> Result<(), PlaceError> {
    if source_count > 1 && !names_directory(destination) {
        return Err(PlaceError::SeveralSources(String::from_utf8_lossy(destination).into_owned()));
    }
    Ok(())
}

/// Computes what placing `items` in turn changes in `tree`.
///
/// The result is sorted by path and fit for a layer: each path once, directories before what is in them, the first name of a
/// file before its links, no directory that stays as it is.
///
/// # Errors
/// [`PlaceError`] if something stands in the way.
pub fn place(tree: &Tree, items: &[Item], placement: &Placement) -> Result<Vec<Change>, PlaceError> {
    let nothing = Tree::new();
    let base = match placement.ground {
        Ground::Tree => tree,
        Ground::Empty => &nothing,
    };
    let mut stage = Stage { base, entries: BTreeMap::new(), replaced: BTreeSet::new(), link_count: 0 };
    let destination = placement.destination();
    for item in items {
        match item {
            Item::Files(selection) => stage.copy(selection, &destination, placement)?,
            Item::Archive(changes) => stage.extract(changes, &destination, placement)?,
        }
    }
    Ok(stage.changes())
}

/// Computes what WORKDIR changes: the missing directories of `path`, with mode 0755 and this owner.
///
/// # Errors
/// [`PlaceError`] if a file stands in the way.
pub fn workdir(tree: &Tree, path: &TreePath, owner: (u32, u32), now: Timestamp) -> Result<Vec<Change>, PlaceError> {
    let mut stage = Stage { base: tree, entries: BTreeMap::new(), replaced: BTreeSet::new(), link_count: 0 };
    let path = stage.follow(path, Last::Followed)?;
    let (uid, gid) = owner;
    stage.make_directories(&path, &Entry { uid, gid, ..Entry::directory(now) }.into())?;
    Ok(stage.changes())
}

impl Placement {
    fn destination(&self) -> TreePath {
        if self.destination.starts_with(b"/") {
            return TreePath::clamp(&self.destination);
        }
        TreePath::clamp([self.workdir.as_bytes(), &self.destination].join(&b'/'))
    }

    /// What a directory is like that is made for the destination.
    fn made_directory(&self) -> Entry {
        let (uid, gid) = self.owner.unwrap_or_default();
        let mode = self.chmod.as_ref().map_or(0o755, Chmod::of_made_directory);
        Entry { mode, uid, gid, ..Entry::directory(self.now) }
    }

    fn adapt(&self, entry: &Arc<Entry>) -> Arc<Entry> {
        let mut entry = self.own(entry);
        if let Some(chmod) = &self.chmod
            && !matches!(entry.node, Node::Symlink(_))
        {
            let mode = chmod.apply(entry.mode, entry.is_directory());
            Arc::make_mut(&mut entry).mode = mode;
        }
        entry
    }

    fn own(&self, entry: &Arc<Entry>) -> Arc<Entry> {
        let mut entry = entry.clone();
        if let Some((uid, gid)) = self.owner {
            let entry = Arc::make_mut(&mut entry);
            (entry.uid, entry.gid) = (uid, gid);
        }
        entry
    }
}

fn names_directory(destination: &[u8]) -> bool {
    matches!(destination, b"" | b"." | [.., b'/'] | [.., b'/', b'.'])
}

/// A tree with what has been placed on it so far.
struct Stage<'a> {
    base: &'a Tree,
    entries: BTreeMap<TreePath, Staged>,
    /// Directories of the base that something else has taken the place of: what they held is gone.
    replaced: BTreeSet<TreePath>,
    link_count: usize,
}

struct Staged {
    entry: Arc<Entry>,
    /// Equal for the names of one file.
    link: Option<usize>,
}

impl Stage<'_> {
    fn copy(&mut self, selection: &Selection, destination: &TreePath, placement: &Placement) -> Result<(), PlaceError> {
        let Some((top, below)) = selection.entries.split_first() else { return Ok(()) };
        let made = placement.made_directory().into();
        let directory =
            if names_directory(&placement.destination) { destination.clone() } else { destination.parent().unwrap_or_default() };
        let directory = self.follow(&directory, Last::Followed)?;
        self.make_directories(&directory, &made)?;
        let mut target = self.follow(destination, Last::Followed)?;
        if top.entry.is_directory() {
            match self.get(&target) {
                Some(entry) if !entry.is_directory() => return Err(PlaceError::DirectoryOverFile(target)),
                _ => self.make_directories(&target, &made)?,
            }
        } else {
            if self.get(&target).is_some_and(Entry::is_directory) {
                target = target.child(&selection.name);
            }
            self.make_directories(&target.parent().unwrap_or_default(), &made)?;
            self.put(target.clone(), top, selection.kind, None, placement)?;
        }
        let mut links = HashMap::new();
        for selected in below {
            let link = selected.link.map(|link| *links.entry(link).or_insert_with(|| self.new_link()));
            self.put(target.join(&selected.path), selected, selection.kind, link, placement)?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        path: TreePath,
        selected: &Selected,
        kind: Kind,
        link: Option<usize>,
        placement: &Placement,
    ) -> Result<(), PlaceError> {
        let mut entry = placement.adapt(&selected.entry);
        if let Some(there) = self.get(&path) {
            match (there.is_directory(), entry.is_directory()) {
                // Where paths are selected rather than a directory's contents, an existing directory only takes the mode.
                (true, true) if kind == Kind::Parents || selected.role == Role::Parent => {
                    entry = Entry { mode: selected.entry.mode, ..there.clone() }.into();
                }
                (true, true) | (false, false) => {}
                (false, true) => return Err(PlaceError::DirectoryOverFile(path)),
                (true, false) => return Err(PlaceError::FileOverDirectory(path)),
            }
        }
        self.entries.insert(path, Staged { entry, link });
        Ok(())
    }

    /// Extracts an archive as tar does with the destination as its root: links on the way are followed inside it, what
    /// stands in the place of an entry goes, and only a directory over a directory keeps what is in it.
    fn extract(&mut self, changes: &[Change], destination: &TreePath, placement: &Placement) -> Result<(), PlaceError> {
        let root = self.follow(destination, Last::Followed)?;
        let (uid, gid) = placement.owner.unwrap_or_default();
        self.make_directories(&root, &Entry { uid, gid, ..Entry::directory(placement.now) }.into())?;
        let implied = Entry::directory(placement.now).into();
        for change in changes {
            let path = self.follow_below(&root, change.path())?;
            match change {
                Change::Put { entry, .. } => {
                    if path == root {
                        continue;
                    }
                    self.make_directories(&path.parent().unwrap_or_default(), &implied)?;
                    self.clear_for(&path, entry);
                    self.entries.insert(path, Staged { entry: placement.own(entry), link: None });
                }
                Change::Link { target, .. } => {
                    let target = self.follow_below(&root, target)?;
                    let file = self.shared(&target).filter(|entry| !entry.is_directory());
                    let Some(entry) = file else { return Err(PlaceError::ArchiveLink { path, target }) };
                    if path == target {
                        continue;
                    }
                    self.make_directories(&path.parent().unwrap_or_default(), &implied)?;
                    let link = self.entries.get(&target).and_then(|staged| staged.link).unwrap_or_else(|| self.new_link());
                    // A file of a lower layer comes along: a link has its target in its own layer.
                    self.entries.insert(target, Staged { entry: entry.clone(), link: Some(link) });
                    self.clear_for(&path, &entry);
                    self.entries.insert(path, Staged { entry, link: Some(link) });
                }
                Change::Remove { .. } | Change::Opaque { .. } => return Err(PlaceError::ArchiveWhiteout(path)),
            }
        }
        Ok(())
    }

    /// Makes room for `entry`.
    fn clear_for(&mut self, path: &TreePath, entry: &Entry) {
        let stays = entry.is_directory() || !self.get(path).is_some_and(Entry::is_directory);
        if stays {
            return;
        }
        let gone: Vec<TreePath> = self.entries.keys().filter(|staged| staged.below(path).is_some()).cloned().collect();
        for path in gone {
            self.entries.remove(&path);
        }
        if self.base.get(path).is_some_and(Entry::is_directory) {
            self.replaced.insert(path.clone());
        }
    }

    fn get(&self, path: &TreePath) -> Option<&Entry> {
        match self.entries.get(path) {
            Some(staged) => Some(&staged.entry),
            None if self.is_gone(path) => None,
            None => self.base.get(path),
        }
    }

    fn shared(&self, path: &TreePath) -> Option<Arc<Entry>> {
        match self.entries.get(path) {
            Some(staged) => Some(staged.entry.clone()),
            None if self.is_gone(path) => None,
            None => self.base.shared(path),
        }
    }

    /// Whether a directory of the base above `path` was replaced.
    fn is_gone(&self, path: &TreePath) -> bool {
        !self.replaced.is_empty() && path.ancestors().any(|above| self.replaced.contains(&above))
    }

    fn follow(&self, path: &TreePath, last: Last) -> Result<TreePath, PlaceError> {
        follow(path, last, |path| Ok(self.get(path).map(|entry| Met::from(&entry.node))))
    }

    fn follow_below(&self, root: &TreePath, path: &TreePath) -> Result<TreePath, PlaceError> {
        let below: Result<_, ResolveError> =
            follow(path, Last::Kept, |path| Ok(self.get(&root.join(path)).map(|entry| Met::from(&entry.node))));
        match below {
            Ok(below) => Ok(root.join(&below)),
            Err(ResolveError::NotADirectory(path)) => Err(PlaceError::NotADirectory(root.join(&path))),
            Err(ResolveError::TooManyLinks(path)) => Err(PlaceError::Resolve(ResolveError::TooManyLinks(root.join(&path)))),
        }
    }

    /// Makes `path` and what is missing above it. No part of it is a link.
    fn make_directories(&mut self, path: &TreePath, made: &Arc<Entry>) -> Result<(), PlaceError> {
        if path.is_root() {
            return Ok(());
        }
        for directory in path.ancestors().chain([path.clone()]) {
            match self.get(&directory) {
                Some(entry) if entry.is_directory() => {}
                Some(_) => return Err(PlaceError::NotADirectory(directory)),
                None => drop(self.entries.insert(directory, Staged { entry: made.clone(), link: None })),
            }
        }
        Ok(())
    }

    fn new_link(&mut self) -> usize {
        self.link_count += 1;
        self.link_count
    }

    fn changes(self) -> Vec<Change> {
        let mut first_names: HashMap<usize, TreePath> = HashMap::new();
        let mut removed = BTreeSet::new();
        for path in &self.replaced {
            self.note_removed(path, &mut removed);
        }
        let mut changes: Vec<Change> = removed.into_iter().map(|path| Change::Remove { path }).collect();
        for (path, Staged { entry, link }) in self.entries {
            if self.base.get(&path).is_some_and(|before| is_same_directory(before, &entry)) {
                continue;
            }
            if let Some(target) = link.and_then(|link| first_names.get(&link)) {
                changes.push(Change::Link { path, target: target.clone() });
                continue;
            }
            first_names.extend(link.map(|link| (link, path.clone())));
            changes.push(Change::Put { path, entry });
        }
        changes.sort_by(|left, right| left.path().cmp(right.path()));
        changes
    }

    /// A directory of the base that was replaced, and in the end is a directory again, would show what it held before.
    fn note_removed(&self, directory: &TreePath, removed: &mut BTreeSet<TreePath>) {
        let is_directory = |path: &TreePath| self.entries.get(path).is_some_and(|staged| staged.entry.is_directory());
        if !is_directory(directory) {
            return;
        }
        for (path, entry) in self.base.children(directory) {
            if !self.entries.contains_key(path) {
                removed.insert(path.clone());
            } else if entry.is_directory() {
                self.note_removed(path, removed);
            }
        }
    }
}

/// Whether a layer need not mention the directory. Its time alone is no reason.
fn is_same_directory(before: &Entry, after: &Entry) -> bool {
    let attributes = |entry: &Entry| (entry.mode, entry.uid, entry.gid, entry.capability.clone());
    before.is_directory() && after.is_directory() && attributes(before) == attributes(after)
}
