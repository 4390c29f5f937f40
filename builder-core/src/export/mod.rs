//! Puts an image where it belongs: a registry, an OCI layout, an archive for `docker load`.
//!
//! Takes an [`Image`](crate::image::Image) with its documents, and opens only the blobs that a destination lacks.

pub mod docker;
pub mod layout;

use crate::image::Layer;
use crate::oci::Digest;
use std::{error::Error, io, io::Read, path::Path, path::PathBuf};

/// Where the bytes of layers come from.
pub trait Blobs: Send + Sync {
    /// Opens the blob of a layer. What comes out is verified: a wrong byte is an error of the reader at the latest at its end.
    ///
    /// # Errors
    /// [`ExportError::Blob`] if it cannot be had.
    fn open(&self, layer: &Layer) -> Result<Box<dyn Read + Send>, ExportError>;
}

/// Why an image could not be put somewhere.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A blob cannot be had.
    #[error("cannot get the layer {digest}")]
    Blob {
        /// Of the blob.
        digest: Digest,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A blob ended early.
    #[error("the layer {digest} has {found_bytes} bytes instead of {expected_bytes}")]
    Short {
        /// Of the blob.
        digest: Digest,
        /// What the manifest says.
        expected_bytes: u64,
        /// What came.
        found_bytes: u64,
    },
    /// The file system refused.
    #[error("cannot write {path:?}")]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ExportError {
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }
}
