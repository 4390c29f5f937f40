//! What stands at a path: type, mode, owner, time, and where the bytes of a file are. Pure.

use super::TreePath;
use crate::oci::DiffId;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// An inode as a layer describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The type, with what belongs to it.
    pub node: Node,
    /// The lower 12 bits: permissions, setuid, setgid, sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification.
    pub mtime: Timestamp,
    /// The extended attribute `security.capability`, the only one that an image keeps.
    pub capability: Option<Vec<u8>>,
}

/// The type of an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file.
    File(File),
    /// A symbolic link and the bytes of its target.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Number of its bytes.
    pub size_bytes: u64,
    /// Digest of its bytes, where somebody has read them already; always known in a layer's index.
    pub digest: Option<ContentDigest>,
    /// Where the bytes are.
    pub content: Content,
}

/// Where the bytes of a file are. Whoever opens it knows the medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Here.
    Inline(Arc<[u8]>),
    /// In a layer, at an offset of its uncompressed tar.
    Layer {
        /// The layer.
        diff_id: DiffId,
        /// First byte of the file's data in the tar.
        offset_bytes: u64,
    },
    /// A file below an opened directory: a context, a root file system.
    Host {
        /// The directory.
        source: SourceId,
        /// The file in it.
        path: TreePath,
    },
    /// A range of an opened file: an archive that was unpacked to one plain tar, a download.
    Range {
        /// The file.
        source: SourceId,
        /// First byte.
        offset_bytes: u64,
    },
}

/// A directory or file that a build has opened to read from; unique within the build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceId(pub u32);

/// A time with nanoseconds. A layer stores whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC, negative before.
    pub seconds: i64,
    /// 0 to 999,999,999, counted forward from `seconds`.
    pub nanoseconds: u32,
}

/// BLAKE3 digest of a file's bytes: internal to keys and indexes, never seen by a registry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentDigest([u8; 32]);

/// Computes a [`ContentDigest`] over bytes as they pass by.
#[derive(Clone, Debug, Default)]
pub struct ContentHasher(blake3::Hasher);

impl Entry {
    /// A directory of root's with mode 0755, as made for missing parents.
    #[must_use]
    pub fn directory(mtime: Timestamp) -> Self {
        Self { node: Node::Directory, mode: 0o755, uid: 0, gid: 0, mtime, capability: None }
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.node, Node::Directory)
    }

    /// The regular file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        if let Node::File(file) = &self.node { Some(file) } else { None }
    }

    /// The same, to be changed.
    pub fn file_mut(&mut self) -> Option<&mut File> {
        if let Node::File(file) = &mut self.node { Some(file) } else { None }
    }
}

impl Timestamp {
    /// Whole seconds.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }

    /// The time without its nanoseconds, as a layer keeps it.
    #[must_use]
    pub const fn truncated(self) -> Self {
        Self::from_seconds(self.seconds)
    }
}

impl ContentDigest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The raw bytes, for keys.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ContentHasher {
    /// Takes in `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken in.
    #[must_use]
    pub fn finish(&self) -> ContentDigest {
        ContentDigest(*self.0.finalize().as_bytes())
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "blake3:{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}
