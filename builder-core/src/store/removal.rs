//! Removes the files of a large tree side by side. A removal mostly waits: for the journal, and on a disk that is told of each freed
//! block at once (`discard`) for a millisecond and more with each file.

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags, openat, openat2, unlinkat};
use std::{
    collections::VecDeque,
    ffi::OsStr,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

/// Threads at most: they wait more than they compute.
const THREADS: usize = 8;
/// A tree with fewer directories is not worth threads.
const WORTH: usize = 32;

/// The directories that were found and not yet looked into, relative to the root, and how many are being looked into.
#[derive(Default)]
struct Work {
    found: VecDeque<PathBuf>,
    in_hand: usize,
}

struct Tree {
    root: OwnedFd,
    work: Mutex<Work>,
    changed: Condvar,
}

/// Removes what is no directory below `root`, as far as that is simple: what resists is left to the caller, who removes the
/// directories anyway. Links are not followed, also if somebody makes one meanwhile.
pub(super) fn remove_files(root: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(root) = openat(rustix::fs::CWD, root, flags, Mode::empty()) else { return };
    let work = Work { found: VecDeque::from([PathBuf::from(".")]), in_hand: 0 };
    let tree = Tree { root, work: Mutex::new(work), changed: Condvar::new() };
    thread::scope(|scope| {
        let mut helpers = 1..THREADS;
        while let Some(directory) = tree.take() {
            // What a small tree has is gone before that. Where no more threads can be had, those that are there do.
            while tree.count() >= WORTH && helpers.next().is_some() {
                let help = || {
                    while let Some(directory) = tree.take() {
                        tree.clear(&directory);
                    }
                };
                if thread::Builder::new().spawn_scoped(scope, help).is_err() {
                    helpers = 0..0;
                }
            }
            tree.clear(&directory);
        }
    });
}

impl Tree {
    fn work(&self) -> std::sync::MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> usize {
        self.work().found.len()
    }

    /// The next directory; waits for one as long as somebody may find more.
    fn take(&self) -> Option<PathBuf> {
        let mut work = self.work();
        loop {
            if let Some(directory) = work.found.pop_front() {
                work.in_hand += 1;
                return Some(directory);
            }
            if work.in_hand == 0 {
                return None;
            }
            work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Removes the files of a directory and takes note of the directories in it.
    fn clear(&self, directory: &Path) {
        let found = self.remove_files_of(directory).unwrap_or_default();
        let mut work = self.work();
        work.in_hand -= 1;
        work.found.extend(found);
        self.changed.notify_all();
    }

    fn remove_files_of(&self, path: &Path) -> rustix::io::Result<Vec<PathBuf>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let directory = openat2(&self.root, path, flags, Mode::empty(), resolve)?;
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
        let mut directories = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type().is_dir() {
                if !matches!(name.to_bytes(), b"." | b"..") {
                    directories.push(path.join(OsStr::from_bytes(name.to_bytes())));
                }
            } else {
                // A directory, where the file system does not tell the types: the caller finds it.
                let _ = unlinkat(&directory, name, AtFlags::empty());
            }
        }
        Ok(directories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn the_files_of_a_large_and_of_a_small_tree_go_and_what_links_lead_to_stays() {
        for count in [2, 100] {
            let outside = tempfile::tempdir().unwrap();
            fs::write(outside.path().join("kept"), "").unwrap();
            let root = outside.path().join("root");
            for number in 0..count {
                let directory = root.join(format!("{number}/a/b"));
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join("file"), "").unwrap();
                fs::write(root.join(format!("{number}/file")), "").unwrap();
                symlink(outside.path(), directory.join("link")).unwrap();
            }
            remove_files(&root);
            let mut directories = 0;
            let mut left = vec![root.clone()];
            while let Some(directory) = left.pop() {
                for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                    assert!(entry.file_type().unwrap().is_dir(), "{}", entry.path().display());
                    directories += 1;
                    left.push(entry.path());
                }
            }
            assert_eq!(directories, 3 * count);
            assert!(outside.path().join("kept").exists());
        }
    }

    #[test]
    fn what_is_missing_or_no_directory_is_left_alone() {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("directory")).unwrap();
        fs::write(outside.path().join("directory/kept"), "").unwrap();
        symlink("directory", outside.path().join("link")).unwrap();
        remove_files(&outside.path().join("missing"));
        remove_files(&outside.path().join("link"));
        assert!(outside.path().join("directory/kept").exists());
    }
}
