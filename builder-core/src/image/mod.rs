//! An image as a value: its config and its layers, each with the blob that holds it. Pure.
//!
//! A layer is a digest, a size and a place to get it from, so an unchanged layer of the base is never downloaded: whoever
//! exports the image opens a blob only if its destination lacks it.

use crate::oci::{BlobId, Compression, ContainerConfig, Descriptor, DiffId, ImageConfig, Manifest, MediaType, Reference};
use std::{path::PathBuf, sync::Arc};

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// The blob, as the manifest lists it.
    pub blob: Descriptor,
    /// Where the blob can be had.
    pub origin: Origin,
}

/// Where a blob can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the store of this machine: made here, or pulled before.
    Store,
    /// In a repository of a registry; also a hint for mounting it across repositories.
    Registry(Arc<Reference>),
    /// In an OCI layout on disk.
    Layout(Arc<PathBuf>),
}

/// An image, ready to be exported.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The config; its `rootfs` lists the layers' diff ids.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

/// The documents of an image: what goes to a destination last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// The manifest's descriptor: the digest of the image.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// Bytes of the manifest.
    pub manifest_bytes: Vec<u8>,
    /// Bytes of the config.
    pub config_bytes: Vec<u8>,
}

impl Layer {
    /// The blob's identity.
    pub fn blob_id(&self) -> BlobId {
        BlobId(self.blob.digest)
    }

    /// How the blob is compressed.
    pub fn compression(&self) -> Compression {
        self.blob.media_type.layer_compression().unwrap_or(Compression::Uncompressed)
    }
}

impl Image {
    /// The image without layers that `FROM scratch` starts with.
    pub fn scratch() -> Self {
        Self { config: ImageConfig { config: ContainerConfig::default(), ..ImageConfig::default() }, layers: Vec::new() }
    }

    /// Writes the documents. Media types are OCI's, also for layers of a base that has Docker's: the blobs are the same.
    pub fn assemble(&self) -> Assembled {
        let mut config = self.config.clone();
        config.rootfs.diff_ids = self.layers.iter().map(|layer| layer.diff_id).collect();
        let config_bytes = serde_json::to_vec(&config).expect("a config holds only strings, numbers and maps of strings");
        let layers = self.layers.iter().map(|layer| Descriptor {
            media_type: MediaType::oci_layer(layer.compression()),
            platform: None,
            annotations: std::collections::BTreeMap::new(),
            ..layer.blob
        });
        let manifest = Manifest::new(Descriptor::of(MediaType::OCI_CONFIG, &config_bytes), layers.collect());
        let manifest_bytes = manifest.to_bytes();
        let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &manifest_bytes);
        Assembled { descriptor, manifest, manifest_bytes, config_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assembled_image_names_its_layers_in_both_documents() {
        let layer = Layer {
            diff_id: "sha256:1111111111111111111111111111111111111111111111111111111111111111".parse().unwrap(),
            blob: Descriptor::of("application/vnd.docker.image.rootfs.diff.tar.gzip", b"blob"),
            origin: Origin::Store,
        };
        let assembled = Image { layers: vec![layer.clone()], ..Image::scratch() }.assemble();
        let config: ImageConfig = serde_json::from_slice(&assembled.config_bytes).unwrap();
        assert_eq!(config.rootfs.diff_ids, [layer.diff_id]);
        assert_eq!(assembled.manifest.layers[0].digest, layer.blob.digest);
        assert_eq!(assembled.manifest.layers[0].media_type, MediaType::oci_layer(Compression::Gzip));
        assert_eq!(assembled.manifest.config.digest, crate::oci::Digest::of(&assembled.config_bytes));
    }
}
