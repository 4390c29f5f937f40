//! Which inode each name had and when that was last changed: what makes a walk after a step cheap. Pure.

use crate::confined::Stat;
use crate::tree::{Timestamp, TreePath};
use std::collections::HashMap;

/// Inodes of all names that are no directories. By inode, because a further name changes the time of all.
#[derive(Debug, Default)]
pub(super) struct Records {
    inodes: HashMap<TreePath, u64>,
    changed: HashMap<u64, Timestamp>,
}

impl Records {
    /// Notes what stands at `path` now.
    pub(super) fn insert(&mut self, path: TreePath, stat: &Stat) {
        self.inodes.insert(path, stat.inode);
        self.changed.insert(stat.inode, stat.ctime);
    }

    /// Notes all that `other` has.
    pub(super) fn extend(&mut self, other: Self) {
        self.inodes.extend(other.inodes);
        self.changed.extend(other.changed);
    }

    /// Whether what stands at `path` is what was noted, untouched.
    pub(super) fn is_unchanged(&self, path: &TreePath, stat: &Stat) -> bool {
        self.inodes.get(path) == Some(&stat.inode) && self.changed.get(&stat.inode) == Some(&stat.ctime)
    }
}
