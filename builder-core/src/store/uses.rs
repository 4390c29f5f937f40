//! Who uses what: entries note when they were last used, and a lock of the store keeps whoever removes one apart from
//! whoever begins to use it.
//!
//! The rule: a build notes that it uses an entry before it relies on it, and what was used since the oldest build in
//! progress began is not removed. So a build never loses what it has found.
//!
//! Files keep the time in their access time, which nothing else needs; `mtime` says when they were written. Directories
//! keep it in the modification time of a file: [`USED`] in an unpacked one, the lock of a cache.

use super::{Store, StoreError, workspace::is_same_file};
use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, flock, futimens, utimensat},
    io::Errno,
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

/// The file in an unpacked directory that says when it was last used.
pub(super) const USED: &str = "used";

/// The lock of the store.
const LOCK: &str = "lock";

/// How long a noted use stands for further ones.
const NOTED_FOR: Duration = Duration::from_hours(1);

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
const AS_IT_IS: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };

/// Held while an entry is found, or removed.
#[derive(Debug)]
pub(super) struct StoreLock(#[expect(dead_code, reason = "closing it unlocks")] File);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockFor {
    /// Many at a time.
    Use,
    /// Nobody else meanwhile.
    Change,
}

impl Store {
    /// Takes the lock of the store; waits for it.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be made, or the file system has no locks.
    pub(super) fn lock(&self, purpose: LockFor) -> Result<StoreLock, StoreError> {
        let path = self.root().join(LOCK);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| StoreError::io("make the lock file", &path, error))?;
        let operation = match purpose {
            LockFor::Use => FlockOperation::LockShared,
            LockFor::Change => FlockOperation::LockExclusive,
        };
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(StoreLock(file)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(StoreError::io("lock", &path, errno.into())),
            }
        }
    }

    /// Notes that the file at `path` is used from now on. Says whether it is there.
    pub(super) fn note_use(&self, path: &Path) -> bool {
        self.note(path, || {
            let times = Timestamps { last_access: NOW, last_modification: AS_IT_IS };
            match utimensat(CWD, path, &times, AtFlags::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR) => Noted::Absent,
                // Of another user, or on a medium that is only read: whoever removes it does not hear of us.
                Err(_) => Noted::Refused,
                Ok(()) => Noted::Done,
            }
        })
    }

    /// Notes that the unpacked directory at `path` is used from now on. Says whether it is there.
    pub(super) fn note_use_of_directory(&self, path: &Path) -> bool {
        self.note(path, || {
            let used = File::options().create(true).truncate(false).write(true).open(path.join(USED));
            match used {
                Ok(file) => touch(&file).map_or(Noted::Refused, |()| Noted::Done),
                Err(_) if path.is_dir() => Noted::Refused,
                Err(_) => Noted::Absent,
            }
        })
    }

    fn note(&self, path: &Path, note: impl FnOnce() -> Noted) -> bool {
        let lock_noted = || self.shared.noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if lock_noted().get(path).is_some_and(|at| at.elapsed() < NOTED_FOR) {
            return true;
        }
        // Without locks nobody removes anything either.
        let _lock = self.lock(LockFor::Use);
        let noted = note();
        if noted == Noted::Done {
            lock_noted().insert(path.to_owned(), Instant::now());
        }
        noted != Noted::Absent
    }

    /// Forgets that `path` was used: it is gone.
    pub(super) fn forget_use(&self, path: &Path) {
        self.shared.noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(path);
    }

    /// When the oldest of the builds in progress began, this process left out.
    pub(super) fn oldest_build(&self) -> Option<SystemTime> {
        let own = self.shared.staging.lock_path();
        live(&self.root().join("builds")).into_iter().filter(|(path, _)| *path != own).map(|(_, began)| began).min()
    }
}

#[derive(PartialEq, Eq)]
enum Noted {
    Done,
    Refused,
    Absent,
}

/// Sets the modification time of `file` to now.
pub(super) fn touch(file: &File) -> io::Result<()> {
    Ok(futimens(file, &Timestamps { last_access: AS_IT_IS, last_modification: NOW })?)
}

/// When a file was used or written last.
pub(super) fn last_use(file: &fs::Metadata) -> SystemTime {
    let written = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    file.accessed().map_or(written, |used| used.max(written))
}

/// The lock files in `builds` that a living process holds, and since when. On a file system without locks, all of them.
fn live(builds: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut live = Vec::new();
    for entry in fs::read_dir(builds).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|end| end != "lock") {
            continue;
        }
        let Ok(lock) = File::open(&path) else { continue };
        let is_stale = flock(&lock, FlockOperation::NonBlockingLockShared).is_ok();
        if !is_stale
            && is_same_file(&lock, &path)
            && let Some(began) = lock.metadata().ok().and_then(|lock| lock.modified().ok())
        {
            live.push((path, began));
        }
    }
    live
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_noted_in_the_access_time_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let digest = store.put_document(b"x").unwrap();
        let path = directory.path().join("blobs/sha256").join(digest.hex());
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let times = fs::FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
        File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        let before = SystemTime::now() - Duration::from_secs(1);
        assert_eq!(last_use(&fs::metadata(&path).unwrap()), long_ago);
        assert!(store.note_use(&path));
        let found = fs::metadata(&path).unwrap();
        assert!(last_use(&found) > before);
        assert_eq!(found.modified().unwrap(), long_ago);
        assert!(!store.note_use(&path.with_extension("absent")));
    }

    #[test]
    fn builds_in_progress_are_those_whose_process_holds_a_lock() {
        let directory = tempfile::tempdir().unwrap();
        let (store, other) = (Store::open(directory.path()).unwrap(), Store::open(directory.path()).unwrap());
        fs::write(directory.path().join("builds/dead.lock"), "").unwrap();
        let began = fs::metadata(other.shared.staging.lock_path()).unwrap().modified().unwrap();
        assert_eq!(store.oldest_build(), Some(began));
        drop(other);
        assert_eq!(store.oldest_build(), None);
    }
}
