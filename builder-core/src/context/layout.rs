//! Images in an OCI layout, a directory: from a tag or digest to verified documents, and blobs to read.

use crate::confined::{ConfinedDir, ConfinedError};
use crate::oci::{Descriptor, Digest, Document, DocumentError, ImageConfig, Index, Manifest, Platform};
use crate::tree::TreePath;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// An image for one platform, as a layout describes it.
#[derive(Clone, Debug)]
pub struct LayoutImage {
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
}

/// Why a layout does not give the image.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The file system refused.
    #[error(transparent)]
    Directory(#[from] ConfinedError),
    /// A file cannot be read.
    #[error("cannot read {name}")]
    Read {
        /// The file in the layout.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A document larger than documents of its kind are.
    #[error("{name} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The file in the layout.
        name: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// Bytes that are not those that their name promises.
    #[error("{name} has the digest {found}")]
    Damaged {
        /// The file in the layout.
        name: String,
        /// The digest of its bytes.
        found: Digest,
    },
    /// Not the document that it should be.
    #[error("cannot understand {name}")]
    Document {
        /// The file in the layout.
        name: String,
        /// Why.
        source: DocumentError,
    },
    /// A config that is none.
    #[error("cannot understand the config of the image")]
    Config(#[source] serde_json::Error),
    /// No image of that name.
    #[error("the layout has no image {wanted:?}; it has {}", if offered.is_empty() { "none with a tag".to_owned() } else { offered.join(", ") })]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// The tags.
        offered: Vec<String>,
    },
    /// None for that platform.
    #[error("the image in the layout is not there for {wanted}")]
    NoPlatform {
        /// What was asked for.
        wanted: Platform,
    },
    /// Manifest and config contradict each other.
    #[error("the image in the layout has {layers} layers, and its config speaks of {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
}

const INDEX: &str = "index.json";
const MOST_INDEX_BYTES: u64 = 16 << 20;
const MOST_DOCUMENT_BYTES: u64 = 8 << 20;
const MOST_NESTED_INDEXES: usize = 3;
const TAG: &str = "org.opencontainers.image.ref.name";

/// Finds an image in the layout at `directory`. `wanted` is a tag or a digest; without it the only image is meant, or `latest`.
///
/// # Errors
/// [`LayoutError`]
pub fn resolve(directory: &Path, wanted: Option<&str>, platform: &Platform) -> Result<LayoutImage, LayoutError> {
    let directory = ConfinedDir::open(directory)?;
    let bytes = read(&directory, INDEX, MOST_INDEX_BYTES)?;
    let index = match document(INDEX, &bytes, None)? {
        Document::Index(index) => index,
        Document::Manifest(_) => return Err(not_found(wanted, &[])),
    };
    let mut descriptor = named(&index, wanted)?;
    for _ in 0..=MOST_NESTED_INDEXES {
        let bytes = blob(&directory, &descriptor, MOST_DOCUMENT_BYTES)?;
        match document(&path_of(&descriptor), &bytes, Some(descriptor.media_type.as_str()))? {
            Document::Index(index) => {
                let selected = index.select(platform).cloned();
                descriptor = selected.ok_or_else(|| LayoutError::NoPlatform { wanted: platform.clone() })?;
            }
            Document::Manifest(manifest) => {
                let config = blob(&directory, &manifest.config, MOST_DOCUMENT_BYTES)?;
                let config: ImageConfig = serde_json::from_slice(&config).map_err(LayoutError::Config)?;
                let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
                if layers != diff_ids {
                    return Err(LayoutError::LayerCount { layers, diff_ids });
                }
                return Ok(LayoutImage { manifest, config });
            }
        }
    }
    Err(LayoutError::NoPlatform { wanted: platform.clone() })
}

/// Opens a blob. Whoever reads it checks its digest.
///
/// # Errors
/// [`LayoutError::Directory`]
pub fn open_blob(directory: &Path, blob: &Descriptor) -> Result<File, LayoutError> {
    Ok(ConfinedDir::open(directory)?.open_file(&TreePath::clamp(path_of(blob)))?)
}

fn named(index: &Index, wanted: Option<&str>) -> Result<Descriptor, LayoutError> {
    let tag = |offer: &Descriptor| offer.annotations.get(TAG).cloned();
    let offers = &index.manifests;
    let is_called = |offer: &&Descriptor, name: &str| {
        // Some tools write the whole name of the image there.
        tag(offer).is_some_and(|tag| tag == name || tag.rsplit_once(':').is_some_and(|(_, tag)| tag == name))
    };
    let found = match (wanted, &offers[..]) {
        (None, [only]) => Some(only),
        (None, _) => offers.iter().find(|offer| is_called(offer, "latest")),
        (Some(wanted), _) => match wanted.parse::<Digest>() {
            Ok(digest) => offers.iter().find(|offer| offer.digest == digest),
            Err(_) => offers.iter().find(|offer| is_called(offer, wanted)),
        },
    };
    found.cloned().ok_or_else(|| not_found(wanted, &offers.iter().filter_map(tag).collect::<Vec<_>>()))
}

fn not_found(wanted: Option<&str>, offered: &[String]) -> LayoutError {
    LayoutError::NotFound { wanted: wanted.unwrap_or("latest").to_owned(), offered: offered.to_vec() }
}

fn document(name: &str, bytes: &[u8], media_type: Option<&str>) -> Result<Document, LayoutError> {
    Document::parse(bytes, media_type).map_err(|source| LayoutError::Document { name: name.to_owned(), source })
}

fn blob(directory: &ConfinedDir, blob: &Descriptor, limit_bytes: u64) -> Result<Vec<u8>, LayoutError> {
    let name = path_of(blob);
    let bytes = read(directory, &name, limit_bytes)?;
    let found = Digest::of(&bytes);
    if found == blob.digest { Ok(bytes) } else { Err(LayoutError::Damaged { name, found }) }
}

fn path_of(blob: &Descriptor) -> String {
    format!("blobs/sha256/{}", blob.digest.hex())
}

fn read(directory: &ConfinedDir, name: &str, limit_bytes: u64) -> Result<Vec<u8>, LayoutError> {
    let file = directory.open_file(&TreePath::clamp(name))?;
    let mut bytes = Vec::new();
    let failed = |source| LayoutError::Read { name: name.to_owned(), source };
    file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(LayoutError::TooLarge { name: name.to_owned(), limit_bytes });
    }
    Ok(bytes)
}
