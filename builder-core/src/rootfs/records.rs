//! Which inode each name had and when that was last changed: what makes a walk after a step cheap. Pure.

use crate::confined::Stat;
use crate::tree::{Timestamp, TreePath};
use std::{
    collections::{BTreeMap, HashMap, btree_map},
    iter::Peekable,
};

/// Inodes of all names that are no directories, by directory and name.
#[derive(Debug, Default)]
pub(super) struct Records {
    directories: HashMap<TreePath, Names>,
    /// Inodes with several names: a further name changes the time of all.
    linked: HashMap<u64, Linked>,
}

/// The names in one directory.
type Names = BTreeMap<Box<[u8]>, Noted>;

#[derive(Clone, Copy, Debug)]
struct Noted {
    inode: u64,
    changed: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Linked {
    changed: Timestamp,
    birth: Timestamp,
}

impl Records {
    /// Notes what stands at `path` now.
    pub(super) fn insert(&mut self, path: &TreePath, stat: &Stat) {
        if let (Some(directory), Some(name)) = (path.parent(), path.name()) {
            let noted = self.noted(stat);
            self.directories.entry(directory).or_default().insert(name.into(), noted);
        }
    }

    /// Notes all that stands in a directory of which nothing was noted before.
    pub(super) fn insert_all(&mut self, directory: TreePath, stats: impl Iterator<Item = (Vec<u8>, Stat)>) {
        let names = stats.map(|(name, stat)| (name.into_boxed_slice(), self.noted(&stat))).collect();
        self.directories.insert(directory, names);
    }

    /// Notes all that `other` has.
    pub(super) fn extend(&mut self, other: Self) {
        for (directory, names) in other.directories {
            self.directories.entry(directory).or_default().extend(names);
        }
        self.linked.extend(other.linked);
    }

    /// What was noted of a directory.
    pub(super) fn directory(&self, path: &TreePath) -> Directory<'_> {
        let names = self.directories.get(path).map(BTreeMap::iter).unwrap_or_default();
        Directory { names: names.peekable(), linked: &self.linked }
    }

    /// Number and time of birth of each inode that had several names. Some may be gone.
    pub(super) fn linked(&self) -> impl Iterator<Item = (u64, Timestamp)> {
        self.linked.iter().map(|(inode, linked)| (*inode, linked.birth))
    }

    fn noted(&mut self, stat: &Stat) -> Noted {
        if stat.links > 1 {
            self.linked.insert(stat.inode, Linked { changed: stat.ctime, birth: stat.birth });
        }
        Noted { inode: stat.inode, changed: stat.ctime }
    }
}

/// What was noted of one directory.
pub(super) struct Directory<'a> {
    names: Peekable<btree_map::Iter<'a, Box<[u8]>, Noted>>,
    linked: &'a HashMap<u64, Linked>,
}

impl Directory<'_> {
    /// Whether what is called `name` is what was noted, untouched. To be asked in the order of names.
    pub(super) fn is_unchanged(&mut self, name: &[u8], stat: &Stat) -> bool {
        while self.names.next_if(|(earlier, _)| ***earlier < *name).is_some() {}
        let Some((_, noted)) = self.names.next_if(|(noted, _)| ***noted == *name) else { return false };
        let is_linked = || self.linked.get(&stat.inode).is_some_and(|linked| linked.changed == stat.ctime);
        let is_untouched = || noted.changed == stat.ctime || is_linked();
        noted.inode == stat.inode && is_untouched()
    }
}
