//! Writes layers: changes → tar → compressed → hashed, in one streaming pass to any `Write`.
//!
//! Equal changes with equal contents give equal bytes, on any machine and with any number of threads. The tar has what BuildKit's
//! layers have: PAX where ustar does not do, seconds, no user names, `security.capability` and no other attribute,
//! `.wh.` whiteouts and never an opaque marker. The only I/O is through what the caller hands in.
//!
//! Memory: the index, and a few MiB per thread, whatever the sizes of the files.

use super::{
    compress::{self, Failure, Input, Settings, Written},
    tar::{self, Kind, Record, TarError},
};
use crate::oci::{Compression, Descriptor, DiffId, MediaType};
use crate::tree::{Change, Content, ContentDigest, ContentHasher, Entry, File, LayerIndex, Node, Timestamp, TreePath};
use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read, Write},
    num::NonZeroUsize,
};

/// Opens the contents of files, from whichever medium they are on.
pub trait OpenContent {
    /// The bytes of `content` from its first one. Contents that are [`Content::Inline`] are never asked for. For
    /// [`Content::Range`] and [`Content::Layer`] the reader may go on behind the file, whose size only the caller knows; for
    /// [`Content::Host`] a byte too many is taken for a file that grew.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn open(&self, content: &Content) -> io::Result<Box<dyn Read + Send + '_>>;
}

/// How a layer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// The compression of the blob.
    pub compression: Compression,
    /// The compressor's level (gzip 0 to 12, zstd 1 to 22; what is out of range counts as the nearest); `None` is the one
    /// that pays best: 4 and 3.
    pub level: Option<i32>,
    /// Later times are written as this one (`SOURCE_DATE_EPOCH`).
    pub mtime_limit: Option<Timestamp>,
    /// Threads that compress. They have no influence on the bytes.
    pub threads: NonZeroUsize,
}

/// A layer that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// What was written to the output.
    pub blob: Descriptor,
    /// What a reader of the blob would find; the files are in this layer now, and their digests are known.
    pub index: LayerIndex,
    /// Size of the tar.
    pub uncompressed_bytes: u64,
}

/// Why a layer cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Changes that no layer can hold, or that readers would understand differently.
    #[error("cannot put {path} into a layer: {what}")]
    Invalid {
        /// The change.
        path: TreePath,
        /// What is wrong.
        what: &'static str,
    },
    /// A number or name that does not fit a tar header.
    #[error(transparent)]
    Header(TarError),
    /// A file cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// Where it would go in the image.
        path: TreePath,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Where it would go in the image.
        path: TreePath,
        /// Why.
        source: io::Error,
    },
    /// A file has another size than it had when it was looked at.
    #[error("{path} changed while it was read: it had {expected_bytes} bytes and has {} now", if *is_longer { "more" } else { "fewer" })]
    Size {
        /// Where it would go in the image.
        path: TreePath,
        /// The promise.
        expected_bytes: u64,
        /// Whether it grew.
        is_longer: bool,
    },
    /// A file has other bytes than those that the cache key was made of.
    #[error("{path} changed while it was read: it has other bytes than before")]
    Digest {
        /// Where it would go in the image.
        path: TreePath,
    },
    /// The output failed.
    #[error("cannot write the layer")]
    Write(#[from] io::Error),
}

/// Writes `changes` as one layer to `out`, on this thread, one that writes and up to `options.threads` that compress.
///
/// `changes` are sorted by path, each path once. The target of a hard link stands earlier among them: whoever unpacks a layer
/// sets owner and mode of the file by each of its names, so a link without its file would need what we do not have.
///
/// ```
/// use builder_core::{layer::write, oci::Compression, tree::{Content, text}};
/// use std::{io, num::NonZeroUsize};
///
/// struct Nothing;
/// impl write::OpenContent for Nothing {
///     fn open(&self, _: &Content) -> io::Result<Box<dyn io::Read + Send + '_>> {
///         Err(io::ErrorKind::NotFound.into())
///     }
/// }
///
/// let changes = text::parse("etc/ 0755 0:0\netc/hosts 0644 0:0 \"127.0.0.1 localhost\"\n- tmp").unwrap();
/// let options =
///     write::PackOptions { compression: Compression::Gzip, level: None, mtime_limit: None, threads: NonZeroUsize::MIN };
/// let mut blob = Vec::new();
/// let packed = write::pack(&changes, &Nothing, &options, &mut blob)?;
/// assert_eq!(packed.blob.size_bytes, blob.len() as u64);
/// # Ok::<(), write::PackError>(())
/// ```
///
/// # Errors
/// [`PackError`]. What is in `out` by then is no layer.
pub fn pack(
    changes: &[Change],
    open: &dyn OpenContent,
    options: &PackOptions,
    out: impl Write + Send,
) -> Result<Packed, PackError> {
    let present = check(changes)?;
    let expected_bytes = changes.iter().filter_map(Change::file).map(|file| file.size_bytes).fold(0, u64::saturating_add);
    let settings = Settings::new(options.compression, options.level, options.threads);
    let write_all = |input: &mut Input| -> Result<Vec<Stored>, Failure<PackError>> {
        let mut files = Vec::new();
        for change in changes {
            input.put(
                &tar::header(&member(change, &present, options.mtime_limit))
                    .map_err(|error| Failure::Own(PackError::Header(error)))?,
            )?;
            if let Some(file) = change.file() {
                let offset_bytes = input.position();
                files.push(Stored { offset_bytes, digest: put_file(input, change.path(), file, open)? });
                input.put(&tar::END[..tar::padding(file.size_bytes)])?;
            }
        }
        input.put(&tar::END)?;
        Ok(files)
    };
    let (files, tar, blob) = compress::compress(settings, expected_bytes, out, write_all)?;
    let diff_id = DiffId(tar.digest);
    Ok(Packed {
        diff_id,
        blob: descriptor(options.compression, blob),
        index: index(changes, options.mtime_limit, files, diff_id),
        uncompressed_bytes: tar.size_bytes,
    })
}

fn descriptor(compression: Compression, blob: Written) -> Descriptor {
    Descriptor {
        media_type: MediaType::oci_layer(compression),
        digest: blob.digest,
        size_bytes: blob.size_bytes,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

/// Copies exactly the promised bytes of a file.
fn put_file(
    input: &mut Input,
    path: &TreePath,
    file: &File,
    open: &dyn OpenContent,
) -> Result<ContentDigest, Failure<PackError>> {
    let failed = |source| Failure::Own(PackError::Read { path: path.clone(), source });
    let wrong_size = |is_longer| Failure::Own(PackError::Size { path: path.clone(), expected_bytes: file.size_bytes, is_longer });
    let mut source: Box<dyn Read + '_> = match &file.content {
        Content::Inline(bytes) => Box::new(&bytes[..]),
        content => open.open(content).map_err(|source| Failure::Own(PackError::Open { path: path.clone(), source }))?,
    };
    let mut hasher = ContentHasher::default();
    let mut left = file.size_bytes;
    while left > 0 {
        let space = input.space()?;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(space.len());
        let count = read_some(&mut source, &mut space[..most]).map_err(failed)?;
        if count == 0 {
            return Err(wrong_size(false));
        }
        hasher.update(&space[..count]);
        input.advance(count);
        left -= count as u64;
    }
    let ends_with_the_file = matches!(file.content, Content::Host { .. } | Content::Inline(_));
    if ends_with_the_file && read_some(&mut source, &mut [0]).map_err(failed)? > 0 {
        return Err(wrong_size(true));
    }
    let digest = hasher.finish();
    if file.digest.is_some_and(|expected| expected != digest) {
        return Err(Failure::Own(PackError::Digest { path: path.clone() }));
    }
    Ok(digest)
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A file that is in the layer now.
struct Stored {
    offset_bytes: u64,
    digest: ContentDigest,
}

/// What a reader would find; `files` are those of `changes`, in their order.
fn index(changes: &[Change], mtime_limit: Option<Timestamp>, files: Vec<Stored>, diff_id: DiffId) -> LayerIndex {
    let mut changes = changes.to_vec();
    let mut files = files.into_iter();
    for change in &mut changes {
        let Some(entry) = change.entry_mut() else { continue };
        (entry.mode, entry.mtime) = (mode(entry), mtime(entry, mtime_limit));
        if let Some(file) = entry.file_mut()
            && let Some(Stored { offset_bytes, digest }) = files.next()
        {
            file.content = Content::Layer { diff_id, offset_bytes };
            file.digest = Some(digest);
        }
    }
    LayerIndex { changes }
}

/// What a layer puts at its paths.
type Present<'a> = HashMap<&'a TreePath, Option<&'a Entry>>;

/// Makes sure that `changes` are a layer that every reader understands alike. Gives what is at the paths; `None` is a whiteout.
fn check(changes: &[Change]) -> Result<Present<'_>, PackError> {
    let mut seen: Present<'_> = HashMap::with_capacity(changes.len());
    for (at, change) in changes.iter().enumerate() {
        let path = change.path();
        let invalid = |what| PackError::Invalid { path: path.clone(), what };
        if at > 0 && changes[at - 1].path() >= path {
            return Err(invalid("the changes are not sorted, or name it twice"));
        }
        if path.ancestors().any(|parent| seen.get(&parent).is_some_and(|above| !above.is_some_and(Entry::is_directory))) {
            return Err(invalid("what is above it is removed, or no directory"));
        }
        if path.name().is_some_and(|name| name.starts_with(b".wh.")) {
            return Err(invalid("layers keep names that begin with .wh. for whiteouts"));
        }
        let entry = match change {
            Change::Put { entry, .. } if path.is_root() && !entry.is_directory() => {
                return Err(invalid("the root is a directory"));
            }
            Change::Put { entry, .. } => Some(&**entry),
            Change::Link { target, .. } => {
                let file = seen.get(target).copied().flatten().filter(|entry| !entry.is_directory());
                Some(file.ok_or_else(|| invalid("it is a hard link to what is no file earlier in the layer"))?)
            }
            Change::Remove { .. } if path.is_root() => return Err(invalid("the root cannot be removed")),
            Change::Remove { .. } => None,
            Change::Opaque { .. } => return Err(invalid("an opaque directory has to be written as whiteouts")),
        };
        seen.insert(path, entry);
    }
    Ok(seen)
}

/// The tar member of a change of a layer that was checked.
fn member(change: &Change, present: &Present<'_>, mtime_limit: Option<Timestamp>) -> Record {
    let path = change.path();
    match (change, present.get(path).copied().flatten()) {
        (Change::Put { entry, .. }, _) => {
            let name = if path.is_root() { b"./".to_vec() } else { path.as_bytes().to_vec() };
            record(name, kind(&entry.node), entry, mtime_limit)
        }
        (Change::Link { target, .. }, Some(entry)) => {
            record(path.as_bytes().to_vec(), Kind::HardLink(target.as_bytes().to_vec()), entry, mtime_limit)
        }
        _ => {
            let name = path.name().expect("the root is not removed");
            whiteout(&path.parent().unwrap_or_default().child(&[b".wh.", name].concat()))
        }
    }
}

fn record(name: Vec<u8>, kind: Kind, entry: &Entry, mtime_limit: Option<Timestamp>) -> Record {
    let (mode, mtime) = (mode(entry), mtime(entry, mtime_limit));
    Record { name, kind, mode, uid: entry.uid, gid: entry.gid, mtime, capability: entry.capability.clone() }
}

fn mode(entry: &Entry) -> u16 {
    entry.mode & 0o7777
}

fn mtime(entry: &Entry, limit: Option<Timestamp>) -> Timestamp {
    limit.map_or(entry.mtime, |limit| limit.min(entry.mtime)).truncated()
}

fn whiteout(path: &TreePath) -> Record {
    Record {
        name: path.as_bytes().to_vec(),
        kind: Kind::File { size_bytes: 0 },
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        capability: None,
    }
}

fn kind(node: &Node) -> Kind {
    match node {
        Node::Directory => Kind::Directory,
        Node::File(file) => Kind::File { size_bytes: file.size_bytes },
        Node::Symlink(target) => Kind::Symlink(target.clone()),
        Node::CharDevice { major, minor } => Kind::CharDevice { major: *major, minor: *minor },
        Node::BlockDevice { major, minor } => Kind::BlockDevice { major: *major, minor: *minor },
        Node::Fifo => Kind::Fifo,
    }
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
