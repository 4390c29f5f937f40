//! Directories of `RUN --mount=type=cache`: what is in them outlives the build and belongs to whoever names them.

use super::{Store, StoreError, UnpackedWriter};
use crate::oci::Digest;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
};

/// How a step shares a directory with others that use it at the same time, in whatever process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// Any number of them may.
    Shared,
    /// One that is in use is left alone: there is another one beside it.
    Private,
    /// One at a time.
    Locked,
}

/// The right to use a directory; ends when it is dropped.
#[derive(Debug)]
pub struct CacheLease {
    store: Store,
    lock: File,
    place: PathBuf,
}

impl Store {
    /// Takes the directory of that name for a step. `None` if somebody holds it in a way that keeps this step out: try
    /// again later.
    ///
    /// # Errors
    /// [`StoreError`] if its file system has no locks.
    pub fn lease_cache(&self, name: &Digest, sharing: Sharing) -> Result<Option<CacheLease>, StoreError> {
        let try_number = |number: u32| self.try_lease(&format!("{}-{number}", name.hex()), sharing);
        match sharing {
            Sharing::Shared | Sharing::Locked => try_number(0),
            Sharing::Private => {
                for number in 0..u32::MAX {
                    if let Some(lease) = try_number(number)? {
                        return Ok(Some(lease));
                    }
                }
                Ok(None)
            }
        }
    }

    fn try_lease(&self, file_name: &str, sharing: Sharing) -> Result<Option<CacheLease>, StoreError> {
        let place = self.root().join("caches").join(file_name);
        let lock_path = place.with_extension("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|error| StoreError::io("make the lock file", &lock_path, error))?;
        let operation = match sharing {
            Sharing::Shared => FlockOperation::NonBlockingLockShared,
            Sharing::Private | Sharing::Locked => FlockOperation::NonBlockingLockExclusive,
        };
        match flock(&lock, operation) {
            Ok(()) => Ok(Some(CacheLease { store: self.clone(), lock, place })),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(errno) => Err(StoreError::io("lock", &lock_path, errno.into())),
        }
    }
}

impl CacheLease {
    /// The directory, if anybody has filled it yet.
    pub fn directory(&self) -> Option<PathBuf> {
        Some(Self::root_in(&self.place)).filter(|path| path.is_dir())
    }

    /// Starts the directory: its root goes to [`root_in`](Self::root_in) of what the writer gives. If somebody else is
    /// first, theirs counts.
    ///
    /// # Errors
    /// [`StoreError`] if no directory can be made.
    pub fn writer(&self) -> Result<UnpackedWriter, StoreError> {
        self.store.directory_writer(self.place.clone())
    }

    /// Where the root of a cache is: apart from the directory that is renamed, which is thereby never empty, so that no
    /// other takes its place.
    pub fn root_in(directory: &Path) -> PathBuf {
        directory.join("root")
    }
}

impl Drop for CacheLease {
    fn drop(&mut self) {
        // Said aloud, because a step that began meanwhile may have inherited the descriptor for a moment.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, process::Command};

    fn store(directory: &tempfile::TempDir) -> Store {
        Store::open(directory.path()).unwrap()
    }

    fn fill(lease: &CacheLease, text: &str) -> PathBuf {
        let writer = lease.writer().unwrap();
        fs::create_dir(CacheLease::root_in(writer.path())).unwrap();
        fs::write(CacheLease::root_in(writer.path()).join("f"), text).unwrap();
        writer.finish().unwrap();
        lease.directory().unwrap()
    }

    #[test]
    fn who_may_use_a_directory_at_the_same_time() {
        use Sharing::{Locked, Private, Shared};
        for (first, second, expected) in [
            (Shared, Shared, Some("the same")),
            (Shared, Private, Some("another")),
            (Shared, Locked, None),
            (Private, Shared, None),
            (Private, Private, Some("another")),
            (Private, Locked, None),
            (Locked, Shared, None),
            (Locked, Private, Some("another")),
            (Locked, Locked, None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let (one, two) = (store(&directory), store(&directory));
            let name = Digest::of(b"name");
            let held = one.lease_cache(&name, first).unwrap().unwrap();
            let got = two.lease_cache(&name, second).unwrap();
            let got = got.map(|lease| if lease.place == held.place { "the same" } else { "another" });
            assert_eq!(got, expected, "{first:?}, then {second:?}");
            drop(held);
            let after = two.lease_cache(&name, second).unwrap().unwrap();
            assert!(after.place.ends_with(format!("{}-0", name.hex())));
        }
    }

    #[test]
    fn a_lock_holds_against_other_processes() {
        if !testkit::require(&["flock"]) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        let lease = store.lease_cache(&Digest::of(b"name"), Sharing::Locked).unwrap().unwrap();
        let lock = lease.place.with_extension("lock");
        let is_free = || Command::new("flock").args(["--nonblock"]).arg(&lock).arg("true").status().unwrap().success();
        assert!(!is_free());
        drop(lease);
        assert!(is_free());
    }

    #[test]
    fn the_first_to_fill_a_directory_wins_and_it_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        let name = Digest::of(b"name");
        let lease = |name: &Digest| store.lease_cache(name, Sharing::Shared).unwrap().unwrap();
        let (one, two) = (lease(&name), lease(&name));
        assert_eq!(one.directory(), None);
        let place = fill(&one, "1");
        assert_eq!(fill(&two, "2"), place);
        assert_eq!(fs::read_to_string(place.join("f")).unwrap(), "1");
        drop((one, two));
        assert_eq!(lease(&name).directory(), Some(place));
        assert_eq!(lease(&Digest::of(b"other")).directory(), None);
    }
}
