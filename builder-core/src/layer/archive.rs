//! Archives that ADD unpacks: recognised by their content, decompressed, and read into changes.
//!
//! The contents of the files go to a spool, one behind the other, holes filled in, so that each one is a plain range of it
//! ([`Content::Range`](crate::tree::Content::Range)). Names are held to the same rules as in a layer; whiteouts are files like any other.
//! The only I/O is through the reader and the spool that the caller hands in.

use super::{
    read::{Limits, Origin, ReadError, Visitor, walk},
    stream, tar,
};
use crate::tree::{Change, LayerIndex, SourceId};
use std::io::{self, Read, Write};

const RECOGNISE_LIMIT_BYTES: u64 = 8 << 20;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveCompression {
    /// A plain tar.
    None,
    /// gzip
    Gzip,
    /// bzip2
    Bzip2,
    /// xz
    Xz,
    /// Zstandard
    Zstd,
}

/// What the first bytes of a file (512 are enough) say it is; `None` for anything that is neither compressed nor a tar.
/// Compressed does not mean that there is a tar inside: see [`recognise`].
pub fn sniff(first: &[u8]) -> Option<ArchiveCompression> {
    match first {
        [0x1f, 0x8b, 8, ..] => Some(ArchiveCompression::Gzip),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(ArchiveCompression::Bzip2),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(ArchiveCompression::Xz),
        // A frame, or a skippable frame before one.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(ArchiveCompression::Zstd),
        _ => tar::is_header(first).then_some(ArchiveCompression::None),
    }
}

/// Whether ADD unpacks this file: a tar with at least one entry, perhaps compressed. A compressed file of another kind and an
/// empty tar are copied as they are, as BuildKit does. Reads only as far as the first entry.
///
/// # Errors
/// Of `file`, at its first block; whatever goes wrong behind it means that this is no archive.
pub fn recognise(file: impl Read + Send) -> io::Result<Option<ArchiveCompression>> {
    let (source, compression) = stream::recognised(file)?;
    let Ok(decoder) = stream::decoder(source, compression) else { return Ok(None) };
    // Any number of long names may stand before the first entry: a bomb for whoever unpacks them all just to look.
    let first = tar::Reader::new(decoder.take(RECOGNISE_LIMIT_BYTES)).next_member();
    Ok(matches!(first, Ok(Some(_))).then_some(compression))
}

/// Unpacks `archive` into `spool` and gives its changes, whose contents are ranges of `source`: the spool, opened again.
///
/// # Errors
/// [`ReadError`]; [`ReadError::Visit`] if the spool cannot be written.
pub fn read(
    archive: impl Read + Send,
    source: SourceId,
    limits: &Limits,
    spool: &mut dyn Write,
) -> Result<LayerIndex, ReadError> {
    stream::decompress(
        archive,
        |_| Ok(()),
        limits.uncompressed_bytes,
        |stream| {
            let index = walk(stream, Origin::Archive(source), limits, &mut Spool(spool))?;
            stream.finish()?;
            Ok(index)
        },
    )
    .map(|(index, _)| index)
}

struct Spool<'a>(&'a mut dyn Write);

impl Visitor for Spool<'_> {
    fn visit(&mut self, _change: &Change, data: &mut dyn Read) -> io::Result<()> {
        io::copy(data, self.0).map(drop)
    }
}
