//! The tree itself: look up, resolve links inside the root, fold layers. Pure.

use super::{
    Change, Entry, Timestamp, TreePath,
    follow::{Last, Met, ResolveError, follow},
};
use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
    sync::Arc,
};

/// A file system: path → entry. The root is always there and is a directory.
#[derive(Clone, Debug)]
pub struct Tree {
    entries: BTreeMap<TreePath, (Inode, Arc<Entry>)>,
    next_inode: u64,
}

/// Identifies a file within one tree: names with the same one are hard links of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode(u64);

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// An empty root, mode 0755, of root's.
    #[must_use]
    pub fn new() -> Self {
        let root = (Inode(0), Arc::new(Entry::directory(Timestamp::default())));
        Self { entries: BTreeMap::from([(TreePath::root(), root)]), next_inode: 1 }
    }

    /// The entry at exactly this path; no link is followed.
    #[must_use]
    pub fn get(&self, path: &TreePath) -> Option<&Entry> {
        self.entries.get(path).map(|(_, entry)| &**entry)
    }

    /// The same, to be kept elsewhere as well.
    #[must_use]
    pub fn shared(&self, path: &TreePath) -> Option<Arc<Entry>> {
        self.entries.get(path).map(|(_, entry)| entry.clone())
    }

    /// The file identity at exactly this path.
    #[must_use]
    pub fn inode(&self, path: &TreePath) -> Option<Inode> {
        self.entries.get(path).map(|(inode, _)| *inode)
    }

    /// All entries, by path; the root first.
    pub fn iter(&self) -> impl Iterator<Item = (&TreePath, Inode, &Entry)> {
        self.entries.iter().map(|(path, (inode, entry))| (path, *inode, &**entry))
    }

    /// Number of entries, the root included.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a tree has at least its root")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Everything below `directory`, by path, itself not included.
    pub fn below(&self, directory: &TreePath) -> impl Iterator<Item = (&TreePath, Inode, &Entry)> {
        self.entries.range::<TreePath, _>(range_below(directory)).map(|(path, (inode, entry))| (path, *inode, &**entry))
    }

    /// What is directly in `directory`, by path.
    pub fn children(&self, directory: &TreePath) -> impl Iterator<Item = (&TreePath, &Entry)> {
        self.shared_children(directory).map(|(path, _, entry)| (path, &**entry))
    }

    /// The same with identities, and the entries to be kept elsewhere as well.
    pub fn shared_children(&self, directory: &TreePath) -> impl Iterator<Item = (&TreePath, Inode, &Arc<Entry>)> {
        let (from, to) = range_below(directory);
        let prefix_bytes = if directory.is_root() { 0 } else { directory.as_bytes().len() + 1 };
        Children { tree: self, prefix_bytes, entries: self.entries.range((from, to.clone())), to }
    }

    /// Follows the links in `path` inside this root and says where it leads. Parts that do not exist are taken as they
    /// are, so the result names the place where something would be made.
    ///
    /// # Errors
    /// [`ResolveError`] if a part in the middle is a file, or for a circle of links.
    pub fn resolve(&self, path: &TreePath) -> Result<TreePath, ResolveError> {
        self.follow(path, Last::Followed)
    }

    /// As [`resolve`](Self::resolve), but a link in the last part is not followed.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn resolve_parent(&self, path: &TreePath) -> Result<TreePath, ResolveError> {
        self.follow(path, Last::Kept)
    }

    fn follow(&self, path: &TreePath, last: Last) -> Result<TreePath, ResolveError> {
        follow(path, last, |path| Ok(self.get(path).map(|entry| Met::from(&entry.node))))
    }

    /// Applies one layer. Removals speak of the tree below the layer, wherever they stand in it; then the rest happens in order.
    /// Parents that a layer does not mention are made (0755, root); a path through a link leads where the link leads.
    pub fn apply<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change> + Clone) {
        for change in changes.clone() {
            match change {
                Change::Remove { path } => {
                    if let Ok(path) = self.resolve_parent(path) {
                        self.remove(&path);
                    }
                }
                Change::Opaque { path } => {
                    if let Ok(path) = self.resolve(path) {
                        self.remove_below(&path);
                    }
                }
                Change::Put { .. } | Change::Link { .. } => {}
            }
        }
        for change in changes {
            match change {
                Change::Put { path, entry } => self.put(path, entry.clone()),
                Change::Link { path, target } => self.link(path, target),
                Change::Remove { .. } | Change::Opaque { .. } => {}
            }
        }
    }

    /// Puts `entry` at `path`, as [`Change::Put`] says.
    pub fn put(&mut self, path: &TreePath, entry: impl Into<Arc<Entry>>) {
        let entry = entry.into();
        let path = self.make_parents(path);
        if path.is_root() && !entry.is_directory() {
            return;
        }
        let stays = entry.is_directory() && self.get(&path).is_some_and(Entry::is_directory);
        if !stays {
            self.remove(&path);
        }
        let inode = self.new_inode();
        self.entries.insert(path, (inode, entry));
    }

    /// Makes `path` a further name of the file at `target`. A target that does not exist or is a directory changes nothing.
    pub fn link(&mut self, path: &TreePath, target: &TreePath) {
        let Ok(target) = self.resolve_parent(target) else { return };
        let Some((inode, entry)) = self.entries.get(&target).cloned() else { return };
        if entry.is_directory() {
            return;
        }
        let path = self.make_parents(path);
        // A target that had to make room for the directories above its new name is nothing any more; one in a directory that
        // would have to make room for the name stays.
        if target.below(&path).is_none() && self.inode(&target) == Some(inode) {
            self.remove(&path);
            self.entries.insert(path, (inode, entry));
        }
    }

    /// Removes what is at exactly this path, with all below it. The root stays.
    pub fn remove(&mut self, path: &TreePath) {
        self.remove_below(path);
        if !path.is_root() {
            self.entries.remove(path);
        }
    }

    fn remove_below(&mut self, directory: &TreePath) {
        let gone: Vec<TreePath> = self.below(directory).map(|(path, ..)| path.clone()).collect();
        for path in gone {
            self.entries.remove(&path);
        }
    }

    /// Resolves the directories above `path`, makes the missing ones, and returns where `path` really is. A file in the
    /// way is replaced, as an unpacker does.
    fn make_parents(&mut self, path: &TreePath) -> TreePath {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return TreePath::root() };
        // A file in the way or a circle of links: the layer's own words count, not what they lead to.
        let resolved = self.resolve(&parent).ok().filter(|resolved| *resolved != parent);
        let is_elsewhere = resolved.is_some();
        let parent = resolved.unwrap_or(parent);
        for directory in parent.ancestors().chain(std::iter::once(parent.clone())).filter(|directory| !directory.is_root()) {
            if !self.get(&directory).is_some_and(Entry::is_directory) {
                self.remove(&directory);
                let inode = self.new_inode();
                self.entries.insert(directory, (inode, Arc::new(Entry::directory(Timestamp::default()))));
            }
        }
        if is_elsewhere { parent.child(name) } else { path.clone() }
    }

    fn new_inode(&mut self) -> Inode {
        self.next_inode += 1;
        Inode(self.next_inode)
    }
}

/// The keys strictly below a directory: from `directory/` to before `directory0`, the byte after `/`.
fn range_below(directory: &TreePath) -> (Bound<TreePath>, Bound<TreePath>) {
    if directory.is_root() {
        return (Bound::Excluded(TreePath::root()), Bound::Unbounded);
    }
    (Bound::Excluded(directory.with_suffix(b'/')), Bound::Excluded(directory.with_suffix(b'0')))
}

/// Goes from child to child, and leaps over what is below each.
struct Children<'a> {
    tree: &'a Tree,
    /// Of the directory with its slash.
    prefix_bytes: usize,
    entries: btree_map::Range<'a, TreePath, (Inode, Arc<Entry>)>,
    to: Bound<TreePath>,
}

impl<'a> Iterator for Children<'a> {
    type Item = (&'a TreePath, Inode, &'a Arc<Entry>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, (inode, entry)) = self.entries.next()?;
            let slash = path.as_bytes()[self.prefix_bytes..].iter().position(|byte| *byte == b'/');
            let Some(at) = slash else { return Some((path, *inode, entry)) };
            // All that is below a child stands in one block from `child/` to before `child0`, with siblings such as `child-x` before it.
            let behind = path.behind_block(self.prefix_bytes + at);
            self.entries = self.tree.entries.range((Bound::Included(behind), self.to.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    fn tree(layers: &[&str]) -> Tree {
        let mut tree = Tree::new();
        for layer in layers {
            tree.apply(&text::parse(layer).unwrap());
        }
        tree
    }

    #[test]
    fn layers_fold_to_what_a_container_sees() {
        for (claim, layers, expected) in [
            ("a file replaces a file", &["a 0644 0:0 \"1\"", "a 0600 1:2 \"22\""][..], "a 0600 1:2 \"22\""),
            (
                "a directory keeps its children",
                &["d/ 0755 0:0\nd/f 0644 0:0 \"\"", "d/ 0700 1:1"],
                "d/ 0700 1:1\nd/f 0644 0:0 \"\"",
            ),
            (
                "a file over a directory takes it all away",
                &["d/ 0755 0:0\nd/f 0644 0:0 \"\"", "d 0644 0:0 \"x\""],
                "d 0644 0:0 \"x\"",
            ),
            (
                "a directory over a file",
                &["d 0644 0:0 \"x\"", "d/ 0755 0:0\nd/f 0644 0:0 \"\""],
                "d/ 0755 0:0\nd/f 0644 0:0 \"\"",
            ),
            ("a whiteout removes a directory", &["d/ 0755 0:0\nd/f 0644 0:0 \"\"\ne 0644 0:0 \"\"", "- d"], "e 0644 0:0 \"\""),
            (
                "an opaque directory hides what is below, not what came with it, in either order",
                &["d/ 0755 0:0\nd/old 0644 0:0 \"\"", "d/new 0644 0:0 \"\"\n! d\nd/ 0700 0:0"],
                "d/ 0700 0:0\nd/new 0644 0:0 \"\"",
            ),
            ("missing parents are made", &["a/b/c 0644 0:0 \"\""], "a/ 0755 0:0\na/b/ 0755 0:0\na/b/c 0644 0:0 \"\""),
            (
                "a path through a link leads where the link leads",
                &["run/ 0755 0:0\nvar/ 0755 0:0\nvar/run -> /run", "var/run/pid 0644 0:0 \"1\""],
                "run/ 0755 0:0\nrun/pid 0644 0:0 \"1\"\nvar/ 0755 0:0\nvar/run -> /run",
            ),
            (
                "a link out of the root stays in it",
                &["up -> ../../etc\netc/ 0755 0:0", "up/passwd 0644 0:0 \"\""],
                "etc/ 0755 0:0\netc/passwd 0644 0:0 \"\"\nup -> ../../etc",
            ),
            ("a hard link to a lower layer", &["a 0644 0:0 \"1\"", "b = a"], "a 0644 0:0 \"1\"\nb = a"),
            (
                "replacing one name leaves the other",
                &["a 0644 0:0 \"1\"\nb = a", "a 0644 0:0 \"2\""],
                "a 0644 0:0 \"2\"\nb 0644 0:0 \"1\"",
            ),
            ("a hard link to nothing is nothing", &["b = a"], ""),
            ("a hard link above its target", &["a/b 0644 0:0 \"1\"\na = a/b"], "a/ 0755 0:0\na/b 0644 0:0 \"1\""),
            ("a hard link below its target", &["a 0644 0:0 \"1\"\na/b = a"], "a/ 0755 0:0"),
        ] {
            assert_eq!(text::format(&tree(layers)), text::format(&tree(&[expected])), "{claim}");
        }
    }

    #[test]
    fn links_are_resolved_inside_the_root() {
        let tree = tree(&[
            "a/b/ 0755 0:0\nabs -> /a\nrel -> a/b\nup -> ../../a\nloop -> loop\nf 0644 0:0 \"\"\nfl -> f\ndang -> /no/where",
        ]);
        let resolve = |path: &str| tree.resolve(&TreePath::clamp(path)).map(|path| path.to_string());
        assert_eq!(resolve("abs/b").as_deref(), Ok("/a/b"));
        assert_eq!(resolve("rel/x/y").as_deref(), Ok("/a/b/x/y"));
        assert_eq!(resolve("up/b").as_deref(), Ok("/a/b"));
        assert_eq!(resolve("fl").as_deref(), Ok("/f"));
        assert_eq!(resolve("dang").as_deref(), Ok("/no/where"));
        assert!(matches!(resolve("loop"), Err(ResolveError::TooManyLinks(_))));
        assert!(matches!(resolve("fl/x"), Err(ResolveError::NotADirectory(_))));
        assert_eq!(tree.resolve_parent(&TreePath::clamp("fl")), Ok(TreePath::clamp("fl")));
    }

    #[test]
    fn children_are_direct_and_none_is_missed() {
        let tree =
            tree(&["a/b/c 0644 0:0 \"\"\na/b-c 0644 0:0 \"\"\na/b.d/e 0644 0:0 \"\"\na/bz 0644 0:0 \"\"\nab 0644 0:0 \"\""]);
        let children = |path: &str| tree.children(&TreePath::clamp(path)).map(|(path, _)| path.to_string()).collect::<Vec<_>>();
        assert_eq!(children("a"), ["/a/b", "/a/b-c", "/a/b.d", "/a/bz"]);
        assert_eq!(children(""), ["/a", "/ab"]);
        assert_eq!(children("ab"), [""; 0]);
    }
}
