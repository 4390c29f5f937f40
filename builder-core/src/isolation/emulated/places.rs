//! What a step sees besides its root, where nothing can be mounted: files are put in their places for the time of the step,
//! and what stood there is put aside. /proc and /sys need an empty directory, behind which the stub shows the host's; so does
//! /dev, in which nothing is kept.

use crate::confined::{ConfinedDir, ConfinedError, StatKind};
use crate::isolation::{Access, MountKind, RunError, Step};
use crate::rootfs::{self, RootMount};
use crate::tree::{Content, Entry, File, Node, Timestamp, TreePath};
use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// What was put into a root, and what it replaces. Undone when dropped, or by [`restore`](Self::restore), which says whether
/// that worked.
pub(super) struct Places {
    root: PathBuf,
    directory: ConfinedDir,
    /// In order: where, and where on the host its former content is.
    placed: Vec<(TreePath, Option<PathBuf>)>,
    /// What was moved here from elsewhere, and where it belongs.
    borrowed: Vec<(TreePath, PathBuf)>,
    /// Directories that were missing, outermost first.
    made: Vec<TreePath>,
    done: bool,
}

impl Places {
    /// Puts everything that `step` sees into the root at `root`.
    pub(super) fn prepare(root: &Path, step: &Step) -> Result<Self, RunError> {
        let directory = ConfinedDir::open(root).map_err(|source| RunError::Prepare { target: TreePath::root(), source })?;
        let mut places =
            Self { root: root.to_owned(), directory, placed: Vec::new(), borrowed: Vec::new(), made: Vec::new(), done: false };
        for name in ["proc", "sys", "dev"] {
            places.put_directory(&TreePath::clamp(name), 0o755)?;
        }
        for (name, content) in [("etc/resolv.conf", &step.resolv_conf), ("etc/hosts", &step.hosts)] {
            places.put_file(&TreePath::clamp(name), content, 0o644, 0, 0)?;
        }
        for mount in &step.mounts {
            match &mount.kind {
                MountKind::File { content, mode, uid, gid } => {
                    places.put_file(&mount.target, &content.0, *mode, *uid, *gid)?;
                }
                MountKind::Tmpfs { mode, .. } => places.put_directory(&mount.target, *mode)?,
                MountKind::Bind { root: RootMount::Directory { path: source }, path, access } => {
                    places.put_other(&mount.target, source, path, *access)?;
                }
                MountKind::Bind { root: RootMount::Overlay { .. }, .. } => {
                    let refused = io::Error::from(rustix::io::Errno::NOSYS);
                    return Err(RunError::Mount { what: "an overlay".to_owned(), target: mount.target.clone(), source: refused });
                }
            }
        }
        places.make_working_directory(&step.directory)?;
        Ok(places)
    }

    /// Puts everything back.
    pub(super) fn restore(mut self) -> Result<(), RunError> {
        self.done = true;
        self.undo()
    }

    fn put_file(&mut self, target: &TreePath, content: &[u8], mode: u16, uid: u32, gid: u32) -> Result<(), RunError> {
        let path = self.make_room(target)?;
        let node = Node::File(File { size_bytes: 0, digest: None, content: Content::Inline([].into()) });
        let entry = Entry { node, mode, uid, gid, mtime: Timestamp::default(), capability: None };
        let written = self.directory.create_file(&path, 0o600).and_then(|mut file| {
            file.write_all(content).map_err(|source| ConfinedError { action: "write", path: path.as_path().to_owned(), source })
        });
        written.map_err(|source| failed(&path, source))?;
        rootfs::record(&self.root, &self.directory, &path, &entry).map_err(|error| recording(&path, error))
    }

    fn put_directory(&mut self, target: &TreePath, mode: u16) -> Result<(), RunError> {
        let path = self.make_room(target)?;
        self.directory.create_directory(&path, 0o700).map_err(|source| failed(&path, source))?;
        let entry = Entry { mode, ..Entry::directory(Timestamp::default()) };
        rootfs::record(&self.root, &self.directory, &path, &entry).map_err(|error| recording(&path, error))
    }

    /// What is only read is copied, for nothing else would keep the step from writing to it. What is written to is moved here
    /// for the time of the step; where another step has it, this one gets an empty directory, as of a new cache.
    fn put_other(&mut self, target: &TreePath, root: &Path, path: &TreePath, access: Access) -> Result<(), RunError> {
        let other = ConfinedDir::open(root).map_err(|source| failed(path, source))?;
        let source = other.resolve(path).map_err(|source| failed(path, source))?;
        if access == Access::ReadOnly {
            let place = self.make_room(target)?;
            let copied = rootfs::copy_recorded(root, &source, &self.root, &place);
            return copied.map_err(|error| recording(&place, error));
        }
        let host = root.join(source.as_path());
        let place = self.make_room(target)?;
        match fs::rename(&host, self.root.join(place.as_path())) {
            Ok(()) => {
                self.borrowed.push((place, host));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.directory.create_directory(&place, 0o755).map_err(|source| failed(&place, source))
            }
            Err(error) => Err(moving(&place, error)),
        }
    }

    /// Finds where `target` leads, makes what is missing on the way, and puts aside what stands there.
    fn make_room(&mut self, target: &TreePath) -> Result<TreePath, RunError> {
        let path = self.directory.resolve(target).map_err(|source| failed(target, source))?;
        for parent in path.ancestors().filter(|parent| !parent.is_root()) {
            if self.directory.stat(&parent).map_err(|source| failed(&parent, source))?.is_none() {
                self.directory.create_directory(&parent, 0o755).map_err(|source| failed(&parent, source))?;
                self.made.push(parent);
            }
        }
        let mut aside = None;
        if self.directory.stat(&path).map_err(|source| failed(&path, source))?.is_some() {
            let place = self.root.with_extension(format!("aside-{}", self.placed.len()));
            fs::rename(self.root.join(path.as_path()), &place).map_err(|source| moving(&path, source))?;
            aside = Some(place);
        }
        self.placed.push((path.clone(), aside));
        Ok(path)
    }

    /// As mounts do: a working directory that is missing is made, and is part of what the step changed.
    fn make_working_directory(&self, directory: &TreePath) -> Result<(), RunError> {
        let path = self.directory.resolve(directory).map_err(|source| failed(directory, source))?;
        for part in path.ancestors().chain([path.clone()]).filter(|part| !part.is_root()) {
            if self.directory.stat(&part).map_err(|source| failed(&part, source))?.is_none() {
                self.directory.create_directory(&part, 0o755).map_err(|source| failed(&part, source))?;
            }
        }
        Ok(())
    }

    /// Goes on after a failure: what can be put back is.
    fn undo(&mut self) -> Result<(), RunError> {
        let mut result = Ok(());
        for (path, home) in std::mem::take(&mut self.borrowed).into_iter().rev() {
            let back = fs::rename(self.root.join(path.as_path()), home).map_err(|source| moving(&path, source));
            result = result.and(back);
        }
        for (path, aside) in std::mem::take(&mut self.placed).into_iter().rev() {
            let removed = self.directory.remove_all(&path).map_err(|source| failed(&path, source));
            let back = aside.map_or(Ok(()), |aside| {
                fs::rename(aside, self.root.join(path.as_path())).map_err(|source| moving(&path, source))
            });
            result = result.and(removed).and(back);
        }
        for path in std::mem::take(&mut self.made).into_iter().rev() {
            let is_empty = self.directory.stat(&path).is_ok_and(|stat| stat.is_some_and(|stat| stat.kind == StatKind::Directory))
                && self.directory.list(&path).is_ok_and(|names| names.is_empty());
            if is_empty {
                result = result.and(self.directory.remove(&path).map_err(|source| failed(&path, source)));
            }
        }
        result
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if !self.done {
            // The step has failed already, and its root is not used again.
            let _ = self.undo();
        }
    }
}

fn failed(target: &TreePath, source: ConfinedError) -> RunError {
    RunError::Prepare { target: target.clone(), source }
}

fn moving(target: &TreePath, source: io::Error) -> RunError {
    failed(target, ConfinedError { action: "move", path: target.as_path().to_owned(), source })
}

fn recording(target: &TreePath, error: rootfs::RootfsError) -> RunError {
    moving(target, io::Error::other(error))
}
