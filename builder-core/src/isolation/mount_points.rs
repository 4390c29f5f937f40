//! Mount points that a root file system lacks: made for a step, removed after it, without a trace.

use super::RunError;
use crate::confined::{ConfinedDir, ConfinedError, StatKind};
use crate::tree::{Timestamp, TreePath};

/// What was made in one root, in order.
pub(super) struct MountPoints<'a> {
    root: &'a ConfinedDir,
    made: Vec<MadePoint>,
}

/// What a mount needs to stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A directory.
    Directory,
    /// A file.
    File,
}

struct MadePoint {
    path: TreePath,
    /// Time of the directory above, before and after.
    parent: Option<(Timestamp, Timestamp)>,
}

impl<'a> MountPoints<'a> {
    /// Nothing made yet in `root`.
    pub(super) fn new(root: &'a ConfinedDir) -> Self {
        Self { root, made: Vec::new() }
    }

    /// Finds where `target` leads inside the root, and makes what is missing on the way. The result holds no link.
    pub(super) fn require(&mut self, target: &TreePath, shape: Shape) -> Result<TreePath, RunError> {
        self.find(target, shape).map_err(|source| RunError::Prepare { target: target.clone(), source })
    }

    fn find(&mut self, target: &TreePath, shape: Shape) -> Result<TreePath, ConfinedError> {
        let path = self.root.resolve(target)?;
        for directory in path.ancestors() {
            self.make(&directory, Shape::Directory)?;
        }
        self.make(&path, shape)?;
        Ok(path)
    }

    fn make(&mut self, path: &TreePath, shape: Shape) -> Result<(), ConfinedError> {
        if self.root.stat(path)?.is_some() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or_default();
        let before = self.root.stat(&parent)?.map(|stat| stat.mtime);
        match shape {
            Shape::Directory => self.root.create_directory(path, 0o755)?,
            Shape::File => drop(self.root.create_file(path, 0o644)?),
        }
        let after = self.root.stat(&parent)?.map(|stat| stat.mtime);
        self.made.push(MadePoint { path: path.clone(), parent: before.zip(after) });
        Ok(())
    }

    /// How many were made so far.
    pub(super) fn count(&self) -> usize {
        self.made.len()
    }

    /// Removes those made after the first `count` that are still empty. The time of the directory above goes back to what
    /// it was, unless the step changed that directory too: then its own change counts.
    pub(super) fn remove_after(&mut self, count: usize) -> Result<(), RunError> {
        for point in self.made.split_off(count).iter().rev() {
            let failed = |source| RunError::Prepare { target: point.path.clone(), source };
            let Some(stat) = self.root.stat(&point.path).map_err(failed)? else { continue };
            let is_empty = match stat.kind {
                StatKind::Directory => self.root.list(&point.path).map_err(failed)?.is_empty(),
                StatKind::File => stat.size_bytes == 0,
                _ => false,
            };
            if !is_empty {
                continue;
            }
            let parent = point.path.parent().unwrap_or_default();
            let now = self.root.stat(&parent).map_err(failed)?.map(|stat| stat.mtime);
            self.root.remove(&point.path).map_err(failed)?;
            let time = match (point.parent, now) {
                (Some((before, after)), Some(now)) if after == now => Some(before),
                (_, now) => now,
            };
            if let Some(time) = time {
                self.root.set_mtime(&parent, time).map_err(failed)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::clamp(text)
    }

    #[test]
    fn made_mount_points_leave_no_trace() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/run/deep/real", directory.path().join("etc/resolv.conf")).unwrap();
        let root = ConfinedDir::open(directory.path()).unwrap();
        let times = [Timestamp::from_seconds(100), Timestamp::from_seconds(200)];
        root.set_mtime(&TreePath::root(), times[0]).unwrap();
        root.set_mtime(&path("etc"), times[1]).unwrap();

        let mut points = MountPoints::new(&root);
        assert_eq!(points.require(&path("etc/resolv.conf"), Shape::File).unwrap(), path("run/deep/real"));
        assert_eq!(points.require(&path("etc/hosts"), Shape::File).unwrap(), path("etc/hosts"));
        assert_eq!(points.require(&path("proc"), Shape::Directory).unwrap(), path("proc"));
        assert_eq!(points.require(&path("etc"), Shape::Directory).unwrap(), path("etc"));
        points.remove_after(0).unwrap();

        assert_eq!(root.list(&TreePath::root()).unwrap(), [b"etc"]);
        assert_eq!(root.list(&path("etc")).unwrap(), [b"resolv.conf"]);
        assert_eq!(root.stat(&TreePath::root()).unwrap().unwrap().mtime, times[0]);
        assert_eq!(root.stat(&path("etc")).unwrap().unwrap().mtime, times[1]);
    }

    #[test]
    fn what_the_step_used_stays() {
        let directory = tempfile::tempdir().unwrap();
        let root = ConfinedDir::open(directory.path()).unwrap();
        let mut points = MountPoints::new(&root);
        points.require(&path("a/b"), Shape::Directory).unwrap();
        points.require(&path("f"), Shape::File).unwrap();
        std::fs::write(directory.path().join("a/kept"), "").unwrap();
        std::fs::write(directory.path().join("f"), "x").unwrap();
        root.set_mtime(&path("a"), Timestamp::from_seconds(300)).unwrap();
        points.remove_after(0).unwrap();
        assert_eq!(root.list(&TreePath::root()).unwrap(), [&b"a"[..], b"f"]);
        assert_eq!(root.list(&path("a")).unwrap(), [b"kept"]);
        assert_eq!(root.stat(&path("a")).unwrap().unwrap().mtime, Timestamp::from_seconds(300));
    }
}
