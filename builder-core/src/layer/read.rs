//! Reads layers: a blob as a registry stores it → what it changes, verified against its diff id.
//!
//! One pass serves several ends: [`read`] decompresses and hashes on its own thread, indexes, and shows each change with its
//! bytes to a [`Visitor`], which may unpack them. To keep the compressed bytes as well, or to verify their digest, hand in a
//! reader that does so: it is read to its end, trailing bytes included. The only I/O is through what the caller hands in.
//!
//! A layer is hostile until proven otherwise. Names that leave the root are errors, and so is whatever exceeds [`Limits`];
//! the index holds no path that is not below its root. What a visitor did before an error is the visitor's to undo: the diff
//! id is known only at the end.

use super::{
    archive::ArchiveCompression,
    stream,
    tar::{self, Kind, Member, TarError},
};
use crate::oci::{Compression, DiffId};
use crate::tree::{Change, Content, ContentDigest, ContentHasher, Entry, File, LayerIndex, Node, PathError, SourceId, TreePath};
use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Read},
};

/// The longest name that Linux takes. Also keeps the number of parents that one name implies in bounds.
const NAME_LIMIT_BYTES: usize = 4096;

/// What one layer may ask of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the tar, and bytes of all files with their holes. There is no limit on the ratio: deflate cannot exceed
    /// 1:1032, and an honest layer with a file of zeros reaches just that.
    pub uncompressed_bytes: u64,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of all names and link targets, and of the parents that they imply.
    pub name_bytes: u64,
}

impl Default for Limits {
    /// 64 GiB, two million entries, 512 MiB of names: beyond any image that is in use, and within what a host has.
    fn default() -> Self {
        Self { uncompressed_bytes: 64 << 30, entries: 2_000_000, name_bytes: 512 << 20 }
    }
}

/// Sees the changes of a layer as they arrive, in the order of the tar.
pub trait Visitor {
    /// `change` is what the index will hold, but for the digest of a file, which is known only behind its bytes; `data`
    /// yields exactly the bytes of the file, and nothing for anything else. What is left unread is skipped.
    ///
    /// A directory may come after what is in it, or never; one path may come several times (the last one counts); a path
    /// may lead through a link that an earlier change put there. An unpacker deals with that inside its root.
    ///
    /// # Errors
    /// Whatever stops the reading; it comes back as [`ReadError::Visit`]. An error that `data` gave is passed on as it is.
    fn visit(&mut self, change: &Change, data: &mut dyn Read) -> io::Result<()>;
}

/// Only the index is wanted.
impl Visitor for () {
    fn visit(&mut self, _change: &Change, _data: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
}

/// What a layer turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Its changes. Files are [`Content::Layer`] and have their digest.
    pub index: LayerIndex,
    /// How the blob is compressed, found by looking: media types are often wrong.
    pub compression: Compression,
    /// Size of the tar.
    pub uncompressed_bytes: u64,
}

/// Why a layer or archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes could not be had or not be decompressed.
    #[error("cannot read or decompress")]
    Blob(#[source] io::Error),
    /// A layer in a compression that layers do not have.
    #[error("the layer is compressed with {0:?}, which is none of gzip, zstd and plain tar")]
    Compression(ArchiveCompression),
    /// The bytes are no tar.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name or the target of a hard link leads out of the root.
    #[error("archive entry {entry:?}")]
    Path {
        /// The name as it stands in the archive.
        entry: String,
        /// Why.
        source: PathError,
    },
    /// An entry that no file system could hold.
    #[error("archive entry {entry:?}: {what}")]
    Entry {
        /// The name as it stands in the archive.
        entry: String,
        /// What is wrong.
        what: &'static str,
    },
    /// More than the limits allow.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The tar is another one than the image config lists.
    #[error("the layer has diff id {actual}, but {expected} was expected")]
    DiffId {
        /// From the image config.
        expected: DiffId,
        /// Of the bytes.
        actual: DiffId,
    },
    /// A file is another one than the index lists, or not there.
    #[error("the file at byte {offset_bytes} of the layer is not the one that its index lists")]
    Extract {
        /// Where it was expected.
        offset_bytes: u64,
    },
    /// The visitor stopped.
    #[error("cannot take in {path}")]
    Visit {
        /// What it was shown.
        path: TreePath,
        /// Why.
        source: io::Error,
    },
}

/// Which limit was exceeded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// [`Limits::uncompressed_bytes`]
    #[error("it unpacks to more than the {0} bytes that the limit allows")]
    Bytes(u64),
    /// [`Limits::entries`]
    #[error("it holds more than the {0} entries that the limit allows")]
    Entries(u64),
    /// [`Limits::name_bytes`]
    #[error("its names take more than the {0} bytes that the limit allows")]
    Names(u64),
}

/// Reads the layer `blob`, shows every change to `visitor`, and gives the index. `blob` is read to its end.
///
/// ```
/// use builder_core::layer::{read, tar};
/// use builder_core::oci::{Compression, DiffId, Digest};
///
/// let empty = tar::END;
/// let reading = read::read(&empty[..], DiffId(Digest::of(&empty)), &read::Limits::default(), &mut ())?;
/// assert!(reading.index.changes.is_empty());
/// assert_eq!(reading.compression, Compression::Uncompressed);
/// # Ok::<(), read::ReadError>(())
/// ```
///
/// # Errors
/// [`ReadError`]; an error of `blob` comes as [`ReadError::Blob`] with the error inside.
pub fn read(blob: impl Read + Send, expected: DiffId, limits: &Limits, visitor: &mut dyn Visitor) -> Result<Reading, ReadError> {
    let accepted = |compression| layer_compression(compression).map(drop);
    let (index, totals) = stream::decompress(blob, accepted, limits.uncompressed_bytes, |stream| {
        let index = walk(stream, Origin::Layer(expected), limits, visitor)?;
        stream.finish()?;
        Ok(index)
    })?;
    let totals = totals.expect("the stream was read to its end");
    if totals.diff_id != expected {
        return Err(ReadError::DiffId { expected, actual: totals.diff_id });
    }
    let compression = layer_compression(totals.compression)?;
    Ok(Reading { index, compression, uncompressed_bytes: totals.uncompressed_bytes })
}

/// Reads the layer `blob` for its index alone.
///
/// # Errors
/// As [`read`].
pub fn index(blob: impl Read + Send, expected: DiffId, limits: &Limits) -> Result<LayerIndex, ReadError> {
    read(blob, expected, limits, &mut ()).map(|reading| reading.index)
}

/// A file to take out of a layer, as its index lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its size.
    pub size_bytes: u64,
    /// Its digest.
    pub digest: ContentDigest,
}

/// Shows the files at the offsets in `wanted` to `sink`, in the order of the tar, and stops behind the last one.
///
/// Each file is verified by its digest, so the rest of the layer need not be read. What `sink` took before an error is
/// not to be used.
///
/// # Errors
/// [`ReadError::Extract`] if a file is not there or is another one.
pub fn extract(
    blob: impl Read + Send,
    wanted: &BTreeMap<u64, Wanted>,
    limits: &Limits,
    sink: &mut dyn FnMut(u64, &mut dyn Read) -> io::Result<()>,
) -> Result<(), ReadError> {
    let accepted = |compression| layer_compression(compression).map(drop);
    let take = |stream: &mut stream::Stream| {
        let mut tar = tar::Reader::new(stream);
        for (&offset_bytes, expected) in wanted {
            let member = loop {
                match tar.next_member()? {
                    Some(member) if member.offset_bytes < offset_bytes => {}
                    Some(member) if member.offset_bytes == offset_bytes => break member,
                    _ => return Err(ReadError::Extract { offset_bytes }),
                }
            };
            if member.record.kind != (Kind::File { size_bytes: expected.size_bytes }) {
                return Err(ReadError::Extract { offset_bytes });
            }
            let mut data = Hashing { source: &mut tar, hasher: ContentHasher::default() };
            let path = || TreePath::clamp(&member.record.name);
            sink(offset_bytes, &mut data).map_err(|source| ReadError::Visit { path: path(), source })?;
            if data.finish().map_err(|source| ReadError::Visit { path: path(), source })? != expected.digest {
                return Err(ReadError::Extract { offset_bytes });
            }
        }
        Ok(())
    };
    stream::decompress(blob, accepted, limits.uncompressed_bytes, take).map(|((), _)| ())
}

fn layer_compression(compression: ArchiveCompression) -> Result<Compression, ReadError> {
    match compression {
        ArchiveCompression::None => Ok(Compression::Uncompressed),
        ArchiveCompression::Gzip => Ok(Compression::Gzip),
        ArchiveCompression::Zstd => Ok(Compression::Zstd),
        other => Err(ReadError::Compression(other)),
    }
}

/// What the tar belongs to.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    /// Whiteouts mean something; contents are found again by their offset in the tar.
    Layer(DiffId),
    /// Whiteouts are files like any other; contents are where the visitor puts them, one behind the other.
    Archive(SourceId),
}

/// Goes through a tar up to its end marker.
pub(super) fn walk(
    stream: &mut stream::Stream,
    origin: Origin,
    limits: &Limits,
    visitor: &mut dyn Visitor,
) -> Result<LayerIndex, ReadError> {
    let mut tar = tar::Reader::new(stream);
    let mut changes = Vec::new();
    let mut tally = Tally { limits: *limits, entries: 0, name_bytes: 0, file_bytes: 0, parents: HashSet::new() };
    while let Some(member) = tar.next_member()? {
        tally.entry()?;
        let content = match origin {
            Origin::Layer(diff_id) => Content::Layer { diff_id, offset_bytes: member.offset_bytes },
            Origin::Archive(source) => Content::Range { source, offset_bytes: tally.file_bytes },
        };
        let Some(mut change) = change(member, content, matches!(origin, Origin::Layer(_)))? else { continue };
        tally.change(&change)?;
        let mut data = Hashing { source: &mut tar, hasher: ContentHasher::default() };
        let failed = |source| ReadError::Visit { path: change.path().clone(), source };
        visitor.visit(&change, &mut data).map_err(failed)?;
        let digest = data.finish().map_err(failed)?;
        if let Some(file) = change.file_mut() {
            file.digest = Some(digest);
        }
        changes.push(change);
    }
    Ok(LayerIndex { changes })
}

/// Hashes a file's bytes on their way to the visitor.
struct Hashing<R> {
    source: R,
    hasher: ContentHasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

impl<R: Read> Hashing<R> {
    /// The digest of all the bytes, those included that nobody read.
    fn finish(mut self) -> io::Result<ContentDigest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.finish())
    }
}

/// What was taken of the limits.
struct Tally {
    limits: Limits,
    entries: u64,
    name_bytes: u64,
    file_bytes: u64,
    /// The directories that were counted. A tree makes the parents that a layer does not mention, so a few long names
    /// could otherwise become millions of directories.
    parents: HashSet<TreePath>,
}

impl Tally {
    fn entry(&mut self) -> Result<(), TooLarge> {
        self.entries += 1;
        if self.entries > self.limits.entries { Err(TooLarge::Entries(self.limits.entries)) } else { Ok(()) }
    }

    fn change(&mut self, change: &Change) -> Result<(), TooLarge> {
        let mut bytes = change.path().as_bytes().len();
        match change {
            Change::Put { entry, .. } => match &entry.node {
                Node::Symlink(target) => bytes += target.len(),
                Node::File(file) => self.file_bytes = self.file_bytes.saturating_add(file.size_bytes),
                _ => {}
            },
            Change::Link { target, .. } => bytes += target.as_bytes().len(),
            Change::Remove { .. } | Change::Opaque { .. } => {}
        }
        let mut parent = change.path().parent();
        while let Some(directory) = parent.filter(|directory| !directory.is_root() && !self.parents.contains(directory)) {
            bytes += directory.as_bytes().len();
            parent = directory.parent();
            self.parents.insert(directory);
        }
        self.name_bytes += bytes as u64;
        if self.name_bytes > self.limits.name_bytes {
            return Err(TooLarge::Names(self.limits.name_bytes));
        }
        if self.file_bytes > self.limits.uncompressed_bytes {
            return Err(TooLarge::Bytes(self.limits.uncompressed_bytes));
        }
        Ok(())
    }
}

/// What a member does to the tree; `None` for the private notes of AUFS, which old Docker daemons left in layers.
fn change(member: Member, content: Content, whiteouts: bool) -> Result<Option<Change>, ReadError> {
    let record = member.record;
    let shown = || String::from_utf8_lossy(&record.name).into_owned();
    let refused = |what| ReadError::Entry { entry: shown(), what };
    let clean = |name: &[u8]| {
        if name.len() > NAME_LIMIT_BYTES {
            return Err(refused("a name of more than 4096 bytes"));
        }
        TreePath::parse(name).map_err(|source| ReadError::Path { entry: shown(), source })
    };
    let path = clean(&record.name)?;
    if whiteouts {
        if path.parts().any(|part| part.starts_with(b".wh..wh.") && part != b".wh..wh..opq") {
            return Ok(None);
        }
        if let Some(hidden) = path.name().and_then(|name| name.strip_prefix(b".wh.")) {
            let directory = path.parent().unwrap_or_default();
            return match hidden {
                b".wh..opq" => Ok(Some(Change::Opaque { path: directory })),
                b"" | b"." | b".." => Err(refused("a whiteout of nothing")),
                hidden => Ok(Some(Change::Remove { path: directory.child(hidden) })),
            };
        }
    }
    let node = match record.kind {
        Kind::HardLink(ref target) => {
            let target = clean(target)?;
            if path == target || path.is_root() || target.is_root() {
                return Err(refused("a hard link to itself, or to or from the root"));
            }
            return Ok(Some(Change::Link { path, target }));
        }
        Kind::Symlink(ref target) if target.is_empty() || target.len() >= NAME_LIMIT_BYTES => {
            return Err(refused("a symbolic link to nothing, or to more than 4095 bytes"));
        }
        Kind::Symlink(ref target) => Node::Symlink(target.clone()),
        Kind::File { size_bytes } => Node::File(File { size_bytes, digest: None, content }),
        Kind::CharDevice { major, minor } => Node::CharDevice { major, minor },
        Kind::BlockDevice { major, minor } => Node::BlockDevice { major, minor },
        Kind::Directory => Node::Directory,
        Kind::Fifo => Node::Fifo,
    };
    if path.is_root() && node != Node::Directory {
        return Err(refused("the root is no directory"));
    }
    let entry =
        Entry { node, mode: record.mode, uid: record.uid, gid: record.gid, mtime: record.mtime, capability: record.capability };
    Ok(Some(Change::put(path, entry)))
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
