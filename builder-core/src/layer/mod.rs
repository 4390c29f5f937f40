//! Layers as bytes: tar archives in and out, in one streaming pass each way.
//!
//! - [`tar`]: the format alone.
//! - [`read`] and [`extract`](read::extract): a compressed blob → what it changes ([`LayerIndex`](crate::tree::LayerIndex)),
//!   verified, with a [`Visitor`](read::Visitor) that sees every file's bytes on the way. Nothing here writes to a disk.
//! - [`archive`]: the same reading for archives that ADD unpacks.
//! - [`write`](mod@write): changes → tar → compressed on several threads → hashed, to any `Write`.
//!
//! Memory use depends on the number of entries (their index), never on the size of a file or of a layer.

pub mod archive;
mod compress;
pub mod read;
mod stream;
pub mod tar;
pub mod write;
