//! The words of the OCI specifications: digests, descriptors, platforms, references, configs, manifests.
//!
//! Pure values. Documents that come from outside are read with the `oci-spec` crate where it keeps what we need
//! and with our own types where it would drop fields (the image config); documents that go out are written with
//! ordered maps, so that equal values give equal bytes.

mod config;
mod descriptor;
mod digest;
mod manifest;
mod platform;
mod reference;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use descriptor::{Compression, Descriptor, MediaType};
pub use digest::{BlobId, DiffId, Digest, DigestError, Hasher};
pub use manifest::{Document, DocumentError, Index, Manifest};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
