//! What a step changed: the disk compared with the tree that was put there.
//!
//! Both forms of a root give the same: [`in_upper`] looks only at what overlay wrote, [`in_directory`] at everything, but
//! opens no file whose inode was not touched.

use super::{Dating, Owners, RootfsError, recorded::Recorded, records::Records};
use crate::confined::{ConfinedDir, Stat, StatKind};
use crate::tree::{Change, Content, ContentDigest, ContentHasher, Entry, Node, SourceId, Timestamp, Tree, TreePath};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::Read as _,
};

/// Compares one directory of the disk with a tree.
struct Comparison<'a> {
    directory: &'a ConfinedDir,
    tree: &'a Tree,
    source: SourceId,
    owners: Owners,
    dating: Option<Dating>,
    /// Where what the disk says is not what the image says.
    recorded: Option<Recorded>,
    /// By path: what a layer lists.
    changes: BTreeMap<TreePath, Found>,
}

enum Found {
    /// Something new or different, with the inode if it has several names.
    Put(Entry, Option<u64>),
    Remove,
}

/// The changes in the upper directory of an overlay over `tree`. `opaque` is the attribute of directories that hide what
/// is below them.
pub(super) fn in_upper(
    directory: &ConfinedDir,
    opaque: &str,
    tree: &Tree,
    source: SourceId,
    owners: Owners,
    dating: Option<Dating>,
) -> Result<Vec<Change>, RootfsError> {
    let mut comparison = Comparison { directory, tree, source, owners, dating, recorded: None, changes: BTreeMap::new() };
    comparison.root()?;
    let mut open = vec![(TreePath::root(), false)];
    while let Some((path, hides)) = open.pop() {
        let children = directory.list_stats(&path)?;
        if hides {
            comparison.remove_others(&path, &children, |_| false);
        }
        for (name, stat) in &children {
            let child = path.child(name);
            match stat.kind {
                StatKind::CharDevice { major: 0, minor: 0 } => comparison.remove(child),
                StatKind::Directory => {
                    let was_directory = tree.get(&child).is_some_and(Entry::is_directory);
                    comparison.compare(&child, stat)?;
                    let hides =
                        was_directory && (hides || directory.attribute(&child, opaque)?.is_some_and(|value| value == b"y"));
                    open.push((child, hides));
                }
                _ => comparison.compare(&child, stat)?,
            }
        }
    }
    Ok(comparison.finish())
}

/// The changes in a directory that held `tree` before, but for `unmade`; and what stands there now.
pub(super) fn in_directory(
    directory: &ConfinedDir,
    before: &Records,
    unmade: &BTreeSet<TreePath>,
    tree: &Tree,
    source: SourceId,
    owners: Owners,
    dating: Option<Dating>,
) -> Result<(Vec<Change>, Records), RootfsError> {
    let recorded = if owners == Owners::RECORDED { Some(Recorded::open(directory.shown())?) } else { None };
    let mut comparison = Comparison { directory, tree, source, owners, dating, recorded, changes: BTreeMap::new() };
    let mut after = Records::default();
    comparison.root()?;
    let mut open = vec![TreePath::root()];
    while let Some(path) = open.pop() {
        let children = directory.list_stats(&path)?;
        comparison.remove_others(&path, &children, |child| unmade.contains(child));
        let mut noted = before.directory(&path);
        for (name, stat) in &children {
            if stat.kind == StatKind::Directory {
                let child = path.child(name);
                comparison.compare(&child, stat)?;
                open.push(child);
            } else if !noted.is_unchanged(name, stat) {
                comparison.compare(&path.child(name), stat)?;
            }
        }
        after.insert_all(path, children.into_iter().filter(|(_, stat)| stat.kind != StatKind::Directory));
    }
    Ok((comparison.finish(), after))
}

impl Comparison<'_> {
    fn root(&mut self) -> Result<(), RootfsError> {
        match self.directory.stat(&TreePath::root())? {
            Some(stat) => self.compare(&TreePath::root(), &stat),
            None => Ok(()),
        }
    }

    /// Notes what stands at `path` if the tree has something else there.
    fn compare(&mut self, path: &TreePath, stat: &Stat) -> Result<(), RootfsError> {
        let entry = match &self.recorded {
            Some(recorded) => {
                let seen = recorded.seen(self.directory, path, stat)?;
                Recorded::entry(self.directory, path, &seen, self.source)?
            }
            None => self.directory.entry_of(path, stat, self.source)?,
        };
        let Some(mut entry) = entry else {
            // A socket. No layer holds one, but it replaces what was there.
            self.remove(path.clone());
            return Ok(());
        };
        let mtime = entry.mtime;
        if let Some(dating) = self.dating {
            entry.mtime = dating.of(mtime);
        }
        let before = self.tree.get(path);
        if let Some(before) = before {
            if is_same_type(before, &entry) && self.recorded.is_none() {
                let remembered = |before, now| if before >= self.owners.storable_ids { before } else { now };
                (entry.uid, entry.gid) = (remembered(before.uid, entry.uid), remembered(before.gid, entry.gid));
            }
            if is_same(before, &entry, mtime) && self.has_same_content(before, path)? {
                return Ok(());
            }
        }
        let group = (stat.links > 1 && stat.kind != StatKind::Directory).then_some(stat.inode);
        self.changes.insert(path.clone(), Found::Put(entry, group));
        Ok(())
    }

    /// Notes that nothing stands at `path` any more, if something did.
    fn remove(&mut self, path: TreePath) {
        if self.tree.get(&path).is_some() {
            self.changes.insert(path, Found::Remove);
        }
    }

    /// Notes that the tree's children of `path` are gone, but for those that have one of `names`, sorted, and those that `stay`.
    fn remove_others(&mut self, path: &TreePath, names: &[(Vec<u8>, Stat)], stay: impl Fn(&TreePath) -> bool) {
        let mut names = names.iter().map(|(name, _)| &name[..]).peekable();
        for (child, _) in self.tree.children(path) {
            let Some(name) = child.name() else { continue };
            while names.next_if(|earlier| *earlier < name).is_some() {}
            if names.peek() != Some(&name) && !stay(child) {
                self.changes.insert(child.clone(), Found::Remove);
            }
        }
    }

    /// Reads a file whose attributes tell nothing: a layer keeps whole seconds, and times can be set.
    fn has_same_content(&self, before: &Entry, path: &TreePath) -> Result<bool, RootfsError> {
        let Some(file) = before.file() else { return Ok(true) };
        let expected = match (&file.digest, &file.content) {
            (Some(digest), _) => *digest,
            (None, Content::Inline(bytes)) => ContentDigest::of(bytes),
            // Nobody has read it; better a file too many than one too few.
            _ => return Ok(false),
        };
        let failed = |source| RootfsError::Copy { path: path.clone(), source };
        let mut source = self.directory.open_file(path)?;
        let mut hasher = ContentHasher::default();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match source.read(&mut buffer).map_err(failed)? {
                0 => return Ok(hasher.finish() == expected),
                length => hasher.update(&buffer[..length]),
            }
        }
    }

    /// In the order of paths. Of a file with several names the first is the file, the others are links to it.
    fn finish(self) -> Vec<Change> {
        let mut first_names: HashMap<u64, TreePath> = HashMap::new();
        let change = |(path, found)| match found {
            Found::Remove => Change::Remove { path },
            Found::Put(entry, None) => Change::put(path, entry),
            Found::Put(entry, Some(inode)) => {
                if let Some(target) = first_names.get(&inode) {
                    return Change::Link { path, target: target.clone() };
                }
                first_names.insert(inode, path.clone());
                Change::put(path, entry)
            }
        };
        self.changes.into_iter().map(change).collect()
    }
}

fn is_same_type(before: &Entry, now: &Entry) -> bool {
    std::mem::discriminant(&before.node) == std::mem::discriminant(&now.node)
}

/// Whether a layer would say the same of both, contents of files left out. The times of directories and links say nothing. `mtime` is
/// the time on disk of what is there now: the tree has that, or the one that a layer gave it instead.
fn is_same(before: &Entry, now: &Entry, mtime: Timestamp) -> bool {
    let is_node_same = match (&before.node, &now.node) {
        (Node::File(before), Node::File(now)) => before.size_bytes == now.size_bytes,
        (before, now) => before == now,
    };
    let has_time = !matches!(now.node, Node::Directory | Node::Symlink(_));
    let has_mode = !matches!(now.node, Node::Symlink(_));
    is_node_same
        && (before.uid, before.gid) == (now.uid, now.gid)
        && (!has_mode || before.mode == now.mode)
        && before.capability == now.capability
        && (!has_time || [mtime, now.mtime].map(Timestamp::truncated).contains(&before.mtime.truncated()))
}
