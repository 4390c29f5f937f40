//! What this machine keeps between builds: blobs, layer indexes and small facts, each under a digest.
//!
//! ```text
//! blobs/sha256/<hex>       blobs and documents, by the digest of their bytes
//! indexes/<diff id hex>    layer indexes
//! layers/<diff id hex>     JSON: the blobs that are known to hold a layer
//! steps/<key hex>          JSON: what a step led to
//! readings/<key hex>       JSON: what keys of steps need to know of layers
//! parts/<hex>              what the last build of a name depended on, for explanations
//! images/<hex>             JSON: what the last build of a name pushed to a repository
//! bases/<name hex>         JSON: an image that builds start from, and its blobs
//! unpacked/<chain id hex>/ directories that hold an unpacked chain of layers
//! caches/<name hex>-<n>/   directories of `RUN --mount=type=cache`; `<name hex>-<n>.lock` is locked while a step uses one
//! builds/<id>/             what builds in progress write; `<id>.lock` is locked as long as its process lives
//! lock                     locked while an entry is found, or removed (`uses.rs`)
//! settled                  JSON: until when all is known to be on the disk (`settle.rs`)
//! ```
//! Several processes may use one store at once: everything is written in `builds/` and renamed to its place when it is
//! whole, so nobody ever sees half a file, and equal names mean equal content. A process may die at any moment. Nothing is
//! synced: after a loss of power a damaged entry is a miss. Works on any file system that can rename; what removes entries
//! wants `flock` as well. Does I/O on its own directory only, but for the question which run of the kernel this is.
//!
//! A store may stand over others that are only read: what those have is found as if it were here.

mod blob;
mod caches;
mod prune;
mod record;
mod removal;
mod settle;
mod unpacked;
mod uses;
mod workspace;

pub use blob::{BlobWriter, GrowingBlob, Progress};
pub use caches::{CacheLease, Sharing};
pub use prune::{Entry, EntryKind, PrunePolicy, Pruned};
pub use record::BaseRecord;
pub use unpacked::UnpackedWriter;
pub use workspace::Workspace;

use crate::oci::Digest;
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

/// A store on disk. Clones are one store.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Stores that are only read.
    below: Vec<PathBuf>,
    /// Where this process writes before it renames.
    staging: Workspace,
    /// What this process has noted as used, and when.
    noted: Mutex<HashMap<PathBuf, Instant>>,
}

/// Why the store could not keep or give something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {path:?} in the store")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The disk or the quota is used up.
    #[error("cannot {action} {path:?} in the store: no space is left on its file system")]
    Full {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The bytes are not those that were announced.
    #[error("blob {expected} was announced, but the bytes have digest {found}")]
    WrongDigest {
        /// The digest of the descriptor.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// There are more or fewer bytes than announced.
    #[error("blob {digest} was announced with {expected_bytes} bytes, but has {found_bytes}")]
    WrongSize {
        /// The digest of the descriptor.
        digest: Digest,
        /// The size in the descriptor.
        expected_bytes: u64,
        /// The number of bytes that came, counted until there were too many.
        found_bytes: u64,
    },
}

impl StoreError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { action, path, source },
            _ => Self::Io { action, path, source },
        }
    }
}

impl Store {
    /// Opens the store in `directory`, makes it where it does not exist, and removes what dead processes left unfinished.
    ///
    /// # Errors
    /// [`StoreError`] if the directory cannot be made or written.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open_over(directory, Vec::new())
    }

    /// The same over the stores in the directories `below`, which are only read; one that does not exist is empty. Their
    /// blobs, documents and layer indexes are found here.
    ///
    /// # Errors
    /// [`StoreError`] if the directory cannot be made or written.
    pub fn open_over(directory: impl Into<PathBuf>, below: Vec<PathBuf>) -> Result<Self, StoreError> {
        let root = directory.into();
        for name in
            ["blobs/sha256", "indexes", "layers", "steps", "readings", "bases", "parts", "images", "unpacked", "caches", "builds"]
        {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(|error| StoreError::io("make the directory", &path, error))?;
        }
        let builds = root.join("builds");
        workspace::remove_stale(&builds);
        let staging = Workspace::create(&builds)?;
        let store = Self { shared: Arc::new(Shared { root, below, staging, noted: Mutex::default() }) };
        store.settle()?;
        Ok(store)
    }

    /// Whether there is a store in `directory`. An OCI layout, of an image or a cache, has blobs in the same place and is none.
    pub fn is_at(directory: &Path) -> bool {
        ["blobs/sha256", "steps"].iter().all(|name| directory.join(name).is_dir())
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// Makes an empty directory for one build. It is removed when the value is dropped, or by a later [`Store::open`] if
    /// this process dies first.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be made.
    pub fn workspace(&self) -> Result<Workspace, StoreError> {
        Workspace::create(&self.shared.root.join("builds"))
    }

    /// A new file that becomes visible only by a rename.
    fn staged_file(&self) -> Result<tempfile::NamedTempFile, StoreError> {
        use std::os::unix::fs::PermissionsExt as _;
        let staging = self.shared.staging.path();
        // The umask still applies: whoever shares a store with other users sets it.
        let permissions = fs::Permissions::from_mode(0o644);
        tempfile::Builder::new()
            .permissions(permissions)
            .tempfile_in(staging)
            .map_err(|error| StoreError::io("make a file in", staging, error))
    }

    /// Writes `bytes` to `path`, whole or not at all.
    fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.fill_whole(path, |file| io::Write::write_all(file, bytes))
    }

    /// Lets `fill` write what shall stand at `path`, whole or not at all.
    fn fill_whole(&self, path: &Path, fill: impl FnOnce(&mut fs::File) -> io::Result<()>) -> Result<(), StoreError> {
        let mut file = self.staged_file()?;
        fill(file.as_file_mut()).map_err(|error| StoreError::io("write", path, error))?;
        file.persist(path).map_err(|error| StoreError::io("put in place", path, error.error))?;
        Ok(())
    }

    /// Where the file `name` of the store is: here, or in a store below if only that has it. Notes that it is used.
    fn find(&self, name: &Path) -> PathBuf {
        let here = self.root().join(name);
        if !self.note_use(&here)
            && let Some(below) = self.shared.below.iter().map(|root| root.join(name)).find(|path| path.is_file())
        {
            return below;
        }
        here
    }

    fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", path, error)),
        }
    }
}
