//! Directories of `RUN --mount=type=cache`: what is in them outlives the build and belongs to whoever names them.

use super::{
    Store, StoreError, UnpackedWriter,
    uses::touch,
    workspace::{is_same_file, remove_tree},
};
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

/// What came of asking for a directory.
enum Attempt {
    Leased(CacheLease),
    /// Somebody holds it in a way that keeps others out.
    InUse,
    /// A step has taken the content along.
    Borrowed,
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
        for number in 0..u32::MAX {
            // Whoever gets another one beside that which is shared has it for itself.
            let sharing = if number > 0 { Sharing::Private } else { sharing };
            match self.try_lease(&format!("{}-{number}", name.hex()), sharing)? {
                Attempt::Leased(lease) => return Ok(Some(lease)),
                Attempt::InUse if sharing != Sharing::Private => return Ok(None),
                Attempt::InUse | Attempt::Borrowed => {}
            }
        }
        Ok(None)
    }

    /// Remembers what people call the cache `name`.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn note_cache_id(&self, name: &Digest, id: &str) -> Result<(), StoreError> {
        let path = self.root().join("caches").join(format!("{}.id", name.hex()));
        if path.exists() { Ok(()) } else { self.write_whole(&path, id.as_bytes()) }
    }

    fn try_lease(&self, file_name: &str, sharing: Sharing) -> Result<Attempt, StoreError> {
        let place = self.root().join("caches").join(file_name);
        let lock_path = place.with_extension("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|error| StoreError::io("make the lock file", &lock_path, error))?;
        let operation = match sharing {
            Sharing::Shared => FlockOperation::NonBlockingLockShared,
            Sharing::Private | Sharing::Locked => FlockOperation::NonBlockingLockExclusive,
        };
        match flock(&lock, operation) {
            // Somebody has removed it with its directory.
            Ok(()) if !is_same_file(&lock, &lock_path) => self.try_lease(file_name, sharing),
            Ok(()) if place.is_dir() && !CacheLease::root_in(&place).is_dir() => self.mend(place, lock, operation),
            Ok(()) => Ok(Attempt::Leased(CacheLease::new(self.clone(), lock, place))),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(Attempt::InUse),
            Err(errno) => Err(StoreError::io("lock", &lock_path, errno.into())),
        }
    }

    /// A place without its root: a step has taken that along, where nothing can be mounted, and brings it back; or its
    /// process was killed, and the content is lost.
    fn mend(&self, place: PathBuf, lock: File, operation: FlockOperation) -> Result<Attempt, StoreError> {
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(Attempt::Borrowed);
        }
        // It may have been brought back in this moment.
        if !CacheLease::root_in(&place).is_dir() {
            remove_tree(&place).map_err(|error| StoreError::io("remove", &place, error))?;
        }
        match flock(&lock, operation) {
            Ok(()) => Ok(Attempt::Leased(CacheLease::new(self.clone(), lock, place))),
            Err(_) => Ok(Attempt::InUse),
        }
    }
}

impl CacheLease {
    fn new(store: Store, lock: File, place: PathBuf) -> Self {
        // When it was last used; of a file of another user nobody knows.
        let _ = touch(&lock);
        Self { store, lock, place }
    }

    /// What was noted of the content when it was last exported or imported.
    ///
    /// # Errors
    /// [`StoreError`] if it is there and cannot be read.
    pub fn exported(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Store::read(&self.place.with_extension("exported"))
    }

    /// Notes what the content is that was exported or imported.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn note_exported(&self, note: &[u8]) -> Result<(), StoreError> {
        self.store.write_whole(&self.place.with_extension("exported"), note)
    }

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
    fn a_directory_whose_content_was_taken_along_is_in_use_or_lost() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (store(&directory), store(&directory));
        let name = Digest::of(b"name");
        let lease = |store: &Store, sharing| store.lease_cache(&name, sharing).unwrap().unwrap();
        let held = lease(&one, Sharing::Shared);
        let place = fill(&held, "1");
        let (root, away) = (CacheLease::root_in(&held.place), directory.path().join("away"));
        fs::rename(&root, &away).unwrap();
        let other = lease(&two, Sharing::Shared);
        assert_ne!(other.place, held.place, "another one beside it");
        assert!(two.lease_cache(&name, Sharing::Locked).unwrap().is_none());

        fs::rename(&away, &root).unwrap();
        assert_eq!(lease(&two, Sharing::Shared).directory(), Some(place.clone()), "it is back");
        fs::rename(&root, &away).unwrap();
        drop((held, other));
        for sharing in [Sharing::Shared, Sharing::Private, Sharing::Locked] {
            let after = lease(&two, sharing);
            assert_eq!(after.directory(), None, "whoever had it was killed");
            assert_eq!(fill(&after, "2"), place);
            fs::remove_dir_all(&root).unwrap();
        }
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
