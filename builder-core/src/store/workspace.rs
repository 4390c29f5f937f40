//! Directories of builds in progress. A lock file beside each says whether its process still lives.

use super::{StoreError, removal};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// A directory of one build, removed when it is dropped.
#[derive(Debug)]
pub struct Workspace {
    directory: PathBuf,
    /// Locked while this value lives; `None` only while it is dropped.
    lock: Option<tempfile::NamedTempFile>,
}

impl Workspace {
    /// Makes a directory in `builds`.
    pub(super) fn create(builds: &Path) -> Result<Self, StoreError> {
        loop {
            let lock = tempfile::Builder::new()
                .suffix(".lock")
                .tempfile_in(builds)
                .map_err(|error| StoreError::io("make a lock file in", builds, error))?;
            // A file system without locks: then nobody can tell that this one is stale, and nobody removes it.
            let _ = flock(lock.as_file(), FlockOperation::LockExclusive);
            // Between its creation and its locking somebody may have taken it for a stale one.
            if !is_same_file(lock.as_file(), lock.path()) {
                continue;
            }
            let directory = lock.path().with_extension("");
            fs::create_dir(&directory).map_err(|error| StoreError::io("make the directory", &directory, error))?;
            return Ok(Self { directory, lock: Some(lock) });
        }
    }

    /// The file that is locked while this process lives.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.directory.with_extension("lock")
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if remove_tree(&self.directory).is_err()
            && let Some(lock) = self.lock.take()
        {
            // The lock file stays with the directory, so that a later build tries again.
            let _ = lock.keep();
        }
    }
}

/// Removes the directories in `builds` whose process is dead. What cannot be removed stays: it harms nobody.
pub(super) fn remove_stale(builds: &Path) {
    let Ok(entries) = fs::read_dir(builds) else { return };
    for lock_path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "lock"))
    {
        let Ok(lock) = File::options().read(true).write(true).open(&lock_path) else { continue };
        let is_ours = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && is_same_file(&lock, &lock_path);
        if is_ours && remove_tree(&lock_path.with_extension("")).is_ok() {
            let _ = fs::remove_file(&lock_path);
        }
    }
}

pub(super) fn is_same_file(file: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (opened.dev(), opened.ino()) == (named.dev(), named.ino())
}

/// Removes a directory with all in it, also where a mode such as 0555 stands in the way. Links are not followed.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    removal::remove_files(path);
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path);
            fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn open_up(directory: &Path) {
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        // Fails for a foreign owner, and then so does the removal, which reports it.
        let _ = fs::set_permissions(&directory, fs::Permissions::from_mode(0o700));
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        left.extend(directories.map(|entry| entry.path()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    #[test]
    fn a_workspace_is_removed_when_dropped_whatever_modes_are_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let workspace = store.workspace().unwrap();
        let path = workspace.path().to_owned();
        fs::create_dir_all(path.join("a/b/c")).unwrap();
        fs::write(path.join("a/b/f"), "").unwrap();
        fs::set_permissions(path.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        drop(workspace);
        assert!(!path.exists() && !path.with_extension("lock").exists());
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_what_a_living_one_uses_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let living = store.workspace().unwrap();
        let builds = directory.path().join("builds");
        fs::create_dir(builds.join("dead")).unwrap();
        fs::write(builds.join("dead/file"), "").unwrap();
        fs::write(builds.join("dead.lock"), "").unwrap();
        let _second = Store::open(directory.path()).unwrap();
        assert!(!builds.join("dead").exists() && !builds.join("dead.lock").exists());
        assert!(living.path().is_dir() && store.shared.staging.path().is_dir());
    }

    #[test]
    fn many_may_open_one_store_at_once() {
        let directory = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let store = Store::open(directory.path()).unwrap();
                        let workspace = store.workspace().unwrap();
                        fs::write(workspace.path().join("mine"), "").unwrap();
                        store.put_document(b"same").unwrap();
                        assert!(workspace.path().join("mine").exists());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(directory.path().join("builds")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(directory.path().join("blobs/sha256")).unwrap().count(), 1);
    }
}
