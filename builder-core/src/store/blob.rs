//! Blobs by digest: written beside, hashed while they are written, renamed when they are what they should be.

use super::{Store, StoreError};
use crate::oci::{Descriptor, Digest, Hasher};
use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;

/// A blob that is being written. Dropped before [`finish`](Self::finish), it leaves nothing behind.
///
/// Every write goes to the disk as it is: hand in large buffers.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    file: tempfile::NamedTempFile,
    /// Of what was written, unless the writer knows what it is.
    hasher: Option<Hasher>,
    size_bytes: u64,
    /// Told to whoever reads it while it is written.
    progress: Option<watch::Sender<Progress>>,
}

/// A blob that is being written, for somebody who reads it meanwhile. Writing never waits for reading: the file is the buffer.
#[derive(Clone, Debug)]
pub struct GrowingBlob {
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
}

/// How far a blob is written.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Bytes that can be read.
    pub size_bytes: u64,
    /// What it is, once that is all.
    pub whole: Option<Descriptor>,
}

impl GrowingBlob {
    /// Waits until `size_bytes` can be read, or all there is. `None` if the writing was given up.
    pub async fn reach(&mut self, size_bytes: u64) -> Option<Progress> {
        let enough = |progress: &Progress| progress.size_bytes >= size_bytes || progress.whole.is_some();
        self.progress.wait_for(enough).await.ok().map(|progress| progress.clone())
    }

    /// Reads from `offset_bytes` on, as far as it is written.
    pub fn reader(&self, offset_bytes: u64) -> impl io::Read + Send + 'static {
        Following { file: self.file.clone(), offset_bytes }
    }
}

struct Following {
    file: Arc<File>,
    offset_bytes: u64,
}

impl io::Read for Following {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset_bytes)?;
        self.offset_bytes += count as u64;
        Ok(count)
    }
}

impl Store {
    /// Starts a new blob.
    ///
    /// # Errors
    /// [`StoreError`] if no file can be made.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        Ok(BlobWriter {
            store: self.clone(),
            file: self.staged_file()?,
            hasher: Some(Hasher::new()),
            size_bytes: 0,
            progress: None,
        })
    }

    /// Starts a new blob whose bytes are hashed elsewhere on their way: they are not hashed again, and
    /// [`BlobWriter::finish_as`] is told what they are.
    ///
    /// # Errors
    /// [`StoreError`] if no file can be made.
    pub fn hashed_blob_writer(&self) -> Result<BlobWriter, StoreError> {
        Ok(BlobWriter { store: self.clone(), file: self.staged_file()?, hasher: None, size_bytes: 0, progress: None })
    }

    /// Keeps `bytes` as a blob: manifests, configs, other documents.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn put_document(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        self.write_whole(&self.place(&digest), bytes)?;
        Ok(digest)
    }

    /// Reads a whole blob and checks its digest. A damaged one is `None`.
    ///
    /// # Errors
    /// [`StoreError`] if it is there and cannot be read.
    pub fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(Self::read(&self.blob_path(digest))?.filter(|bytes| Digest::of(bytes) == *digest))
    }

    /// Opens a blob to read. Its bytes were verified when they were written, not again now.
    ///
    /// # Errors
    /// If it is there and cannot be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>, StoreError> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", &path, error)),
        }
    }

    /// Whether the blob is here with the size that the descriptor says. A loss of power can leave a shorter file, which
    /// is a miss.
    pub fn has_blob(&self, blob: &Descriptor) -> bool {
        std::fs::metadata(self.blob_path(&blob.digest)).is_ok_and(|found| found.is_file() && found.len() == blob.size_bytes)
    }

    /// Removes a blob that turned out to be damaged.
    ///
    /// # Errors
    /// [`StoreError`] if it is there and stays.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.place(digest);
        self.forget_use(&path);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", &path, error)),
            _ => Ok(()),
        }
    }

    /// Where a blob is, or would be. Whoever asks is taken to use it.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.find(&Path::new("blobs/sha256").join(digest.hex()))
    }

    /// Where a blob of this store belongs.
    fn place(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }
}

impl BlobWriter {
    /// Number of bytes written so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The blob for somebody who reads it while it is written. The last one who asks is told of the progress.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be opened a second time.
    pub fn follow(&mut self) -> Result<GrowingBlob, StoreError> {
        let file = self.file.reopen().map_err(|error| StoreError::io("open", self.file.path(), error))?;
        let (sender, progress) = watch::channel(Progress { size_bytes: self.size_bytes, whole: None });
        self.progress = Some(sender);
        Ok(GrowingBlob { file: Arc::new(file), progress })
    }

    /// Checks the bytes against `expected` where it is known and puts the blob in its place.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] or [`StoreError::WrongDigest`] if the bytes are others than announced; nothing is kept then.
    ///
    /// # Panics
    /// For a [`Store::hashed_blob_writer`]: nobody knows the digest.
    pub fn finish(mut self, expected: Option<&Descriptor>) -> Result<Digest, StoreError> {
        let found = self.hasher.take().expect("the bytes were hashed").finish();
        if let Some(expected) = expected {
            self.check_size(expected)?;
            if expected.digest != found {
                return Err(StoreError::WrongDigest { expected: expected.digest, found });
            }
        }
        self.put_in_place(found)
    }

    /// Puts the blob in its place, whose bytes the caller has found to be those of `verified`.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] if it has another size.
    pub fn finish_as(mut self, verified: &Descriptor) -> Result<Digest, StoreError> {
        self.check_size(verified)?;
        let progress = self.progress.take();
        let digest = self.put_in_place(verified.digest)?;
        if let Some(progress) = progress {
            progress.send_modify(|progress| progress.whole = Some(verified.clone()));
        }
        Ok(digest)
    }

    fn check_size(&self, expected: &Descriptor) -> Result<(), StoreError> {
        if expected.size_bytes == self.size_bytes {
            return Ok(());
        }
        let (expected_bytes, found_bytes) = (expected.size_bytes, self.size_bytes);
        Err(StoreError::WrongSize { digest: expected.digest, expected_bytes, found_bytes })
    }

    fn put_in_place(self, digest: Digest) -> Result<Digest, StoreError> {
        let path = self.store.place(&digest);
        self.file.persist(&path).map_err(|error| StoreError::io("put in place", &path, error.error))?;
        Ok(digest)
    }
}

/// Errors name the file and say when the disk is full.
impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self.file.as_file_mut().write(bytes) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let kind = error.kind();
                return Err(io::Error::new(kind, StoreError::io("write a blob to", self.file.path(), error)));
            }
            written => written?,
        };
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..written]);
        }
        self.size_bytes += written as u64;
        if let Some(progress) = &self.progress {
            progress.send_modify(|progress| progress.size_bytes = self.size_bytes);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        (directory, store)
    }

    #[test]
    fn a_blob_is_read_as_it_was_written() {
        let (_directory, store) = store();
        let announced = Descriptor::of("x/y", b"hello");
        assert!(!store.has_blob(&announced));
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"hel").unwrap();
        writer.write_all(b"lo").unwrap();
        assert!(store.open_blob(&announced.digest).unwrap().is_none(), "nothing is visible before it is whole");
        assert_eq!(writer.finish(Some(&announced)).unwrap(), announced.digest);
        let mut text = String::new();
        store.open_blob(&announced.digest).unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(store.has_blob(&announced));
        store.remove_blob(&announced.digest).unwrap();
        store.remove_blob(&announced.digest).unwrap();
        assert!(!store.has_blob(&announced));
    }

    #[tokio::test]
    async fn a_blob_can_be_read_while_it_is_written() {
        let (_directory, store) = store();
        let mut writer = store.hashed_blob_writer().unwrap();
        let mut blob = writer.follow().unwrap();
        writer.write_all(b"hel").unwrap();
        let progress = blob.reach(3).await.unwrap();
        assert_eq!((progress.size_bytes, progress.whole), (3, None));
        let mut reader = blob.reader(1);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        writer.write_all(b"lo").unwrap();
        let whole = Descriptor::of("x/y", b"hello");
        writer.finish_as(&whole).unwrap();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"ello");
        let progress = blob.reach(100).await.unwrap();
        assert_eq!((progress.size_bytes, progress.whole), (5, Some(whole)));

        let mut writer = store.hashed_blob_writer().unwrap();
        let mut blob = writer.follow().unwrap();
        drop(writer);
        assert!(blob.reach(1).await.is_none(), "it was given up");
    }

    #[test]
    fn bytes_other_than_announced_are_not_kept() {
        let (_directory, store) = store();
        let announced = Descriptor::of("x/y", b"hello");
        for (bytes, size) in [(&b"hellO"[..], false), (b"hell", true), (b"hello!", true)] {
            let mut writer = store.blob_writer().unwrap();
            writer.write_all(bytes).unwrap();
            let error = writer.finish(Some(&announced)).unwrap_err();
            assert_eq!(matches!(error, StoreError::WrongSize { .. }), size, "{error}");
            assert_eq!(matches!(error, StoreError::WrongDigest { .. }), !size, "{error}");
        }
        assert_eq!(std::fs::read_dir(store.root().join("blobs/sha256")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(store.shared.staging.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_document_is_a_miss() {
        let (_directory, store) = store();
        let digest = store.put_document(b"{}").unwrap();
        assert_eq!(store.document(&digest).unwrap().as_deref(), Some(&b"{}"[..]));
        std::fs::write(store.blob_path(&digest), "{").unwrap();
        assert_eq!(store.document(&digest).unwrap(), None);
        assert_eq!(store.document(&Digest::of(b"other")).unwrap(), None);
    }

    #[test]
    fn a_full_disk_is_named() {
        // /dev/full refuses every write as a full disk does.
        let error = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().write(b"x").unwrap_err();
        let error = StoreError::io("write", std::path::Path::new("a"), error);
        assert_eq!(error.to_string(), "cannot write \"a\" in the store: no space is left on its file system");
    }
}
