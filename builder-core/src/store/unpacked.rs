//! Directories that hold an unpacked chain of layers, shared by all builds on this machine.

use super::{Store, StoreError, uses::USED, workspace::remove_tree};
use crate::oci::Digest;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A directory that is being filled. Dropped before [`finish`](Self::finish), it is removed.
#[derive(Debug)]
pub struct UnpackedWriter {
    /// Emptied by `finish`.
    staged: Option<PathBuf>,
    place: PathBuf,
}

impl Store {
    /// The directory with the unpacked layers of `chain`, if somebody has made it. Whoever uses it only reads it. It stays
    /// as long as this process has the store open.
    pub fn unpacked(&self, chain: &Digest) -> Option<PathBuf> {
        Some(self.unpacked_path(chain)).filter(|path| self.note_use_of_directory(path))
    }

    /// Starts the directory for `chain`. What is put into it becomes visible as a whole.
    ///
    /// # Errors
    /// [`StoreError`] if no directory can be made.
    pub fn unpacked_writer(&self, chain: &Digest) -> Result<UnpackedWriter, StoreError> {
        self.directory_writer(self.unpacked_path(chain))
    }

    /// Starts a directory that will be at `place`.
    pub(super) fn directory_writer(&self, place: PathBuf) -> Result<UnpackedWriter, StoreError> {
        let staging = self.shared.staging.path();
        let staged = tempfile::Builder::new()
            .prefix("unpacked-")
            .tempdir_in(staging)
            .map_err(|error| StoreError::io("make a directory in", staging, error))?;
        Ok(UnpackedWriter { staged: Some(staged.keep()), place })
    }

    fn unpacked_path(&self, chain: &Digest) -> PathBuf {
        self.root().join("unpacked").join(chain.hex())
    }
}

impl UnpackedWriter {
    /// The directory to fill: empty, ours, mode 0700. A root of a file system goes into a directory below it, so that a
    /// foreign owner or mode does not keep this one from being renamed.
    pub fn path(&self) -> &Path {
        self.staged.as_deref().expect("only finish takes it, and consumes the writer")
    }

    /// The same directory for the layers of another chain.
    #[must_use]
    pub fn renamed(mut self, store: &Store, chain: &Digest) -> Self {
        self.place = store.unpacked_path(chain);
        self
    }

    /// Puts the directory in its place and returns that. If another process was first, its directory stays and ours goes.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be renamed.
    pub fn finish(mut self) -> Result<PathBuf, StoreError> {
        let used = self.path().join(USED);
        File::create(&used).map_err(|error| StoreError::io("make", &used, error))?;
        match fs::rename(self.path(), &self.place) {
            Ok(()) => self.staged = None,
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {}
            Err(error) => return Err(StoreError::io("put in place", &self.place, error)),
        }
        Ok(self.place.clone())
    }
}

impl Drop for UnpackedWriter {
    fn drop(&mut self) {
        if let Some(staged) = &self.staged {
            // What stays is removed with the workspace that it is in.
            let _ = remove_tree(staged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_directory_appears_as_a_whole_and_the_first_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let chain = Digest::of(b"chain");
        let (first, second, dropped) =
            (store.unpacked_writer(&chain), store.unpacked_writer(&chain), store.unpacked_writer(&chain));
        let (first, second) = (first.unwrap(), second.unwrap());
        fs::write(first.path().join("a"), "1").unwrap();
        fs::write(second.path().join("a"), "2").unwrap();
        assert_eq!(store.unpacked(&chain), None);
        let place = first.finish().unwrap();
        assert_eq!(second.finish().unwrap(), place);
        drop(dropped);
        assert_eq!(store.unpacked(&chain), Some(place.clone()));
        assert_eq!(fs::read_to_string(place.join("a")).unwrap(), "1");
        assert_eq!(fs::read_dir(store.shared.staging.path()).unwrap().count(), 0);
    }
}
