//! The tar format: records in and out over `std::io`, nothing about layers or file systems.
//!
//! [`Reader`] understands what tar writers of forty years left behind: v7, ustar, PAX, GNU long names, base-256 numbers,
//! sparse files. [`header`] writes one deterministic form: ustar, and PAX records only for what does not fit.
//! Reading does I/O through the caller's reader only; writing is pure.
//!
//! Where writers and the standard disagree we read as Go's `archive/tar` does, because that is what the registries' other
//! readers (containerd, Docker, BuildKit) make of the same bytes: two readings of one archive are a way to smuggle files.
//! So a PAX `size` counts for skipping too, links and directories never have data, and global PAX headers are checked but
//! apply to nothing.

mod reader;
mod writer;

pub use reader::{Member, Reader, is_header};
pub use writer::{END, header, padding};

use crate::tree::Timestamp;
use std::io;

/// Everything is in blocks of this size.
const BLOCK: usize = 512;

/// The PAX keyword of the only extended attribute that an image keeps.
const CAPABILITY: &[u8] = b"SCHILY.xattr.security.capability";

/// One archive member without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The name as it stands in the archive: any bytes, nothing cleaned or checked.
    pub name: Vec<u8>,
    /// Its type.
    pub kind: Kind,
    /// The lower 12 bits of the mode.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification.
    pub mtime: Timestamp,
    /// The extended attribute `security.capability`.
    pub capability: Option<Vec<u8>>,
}

/// The type of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file and the number of its bytes, holes included.
    File {
        /// Number of bytes that [`Reader::read`](io::Read::read) yields.
        size_bytes: u64,
    },
    /// A further name of the member with this name.
    HardLink(Vec<u8>),
    /// A symbolic link to this target.
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
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// Why bytes are no archive that we can read, or a record none that we can write.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes could not be had.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The archive ends inside of a header or of the data of a member.
    #[error("the archive is truncated: it ends at byte {offset_bytes} in the middle of a record")]
    Truncated {
        /// Where it ends.
        offset_bytes: u64,
    },
    /// The bytes contradict the format.
    #[error("the archive is malformed near byte {offset_bytes}: {what}")]
    Malformed {
        /// End of the block at fault.
        offset_bytes: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A member that contradicts the format, or that no file system could hold.
    #[error("archive entry {name:?} is malformed: {what}")]
    Entry {
        /// The member.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Long names or PAX records beyond any sense.
    #[error("the metadata of an archive entry near byte {offset_bytes} is larger than {limit_bytes} bytes")]
    MetadataTooLarge {
        /// Where.
        offset_bytes: u64,
        /// What we read at most.
        limit_bytes: u64,
    },
}

#[cfg(test)]
pub(in crate::layer) mod tests;
