//! Where a shared cache lies: a repository of a registry, or an OCI layout in a directory.
//!
//! Both hold the same: a shard is a manifest under a name of its own, whose config is the shard and whose layers are all blobs
//! that the shard speaks of, so that whoever collects garbage leaves them. The bytes of the config stand in the manifest as
//! well (`data`), which saves a round trip. No name is ever written twice, unless a registry does not list its tags.

use super::layout::{DOCUMENT_BYTES, Layout};
use super::shard::{Blob, Known, SHARD_TYPE};
use super::{chain, repository_of};
use crate::http::HttpError;
use crate::image::Origin;
use crate::oci::{Descriptor, Digest, MediaType, Reference};
use crate::registry::{self, RegistryError, file_opener};
use crate::store::Store;
use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};
use std::{collections::BTreeSet, error::Error, io, sync::Arc};

/// What registries answer that cannot list tags.
const NO_LIST: [u16; 4] = [400, 404, 405, 501];
/// A shard with more bytes does not stand in its manifest a second time.
const MOST_EMBEDDED_BYTES: usize = 1 << 20;

pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// A place for shards, packs and layers.
#[derive(Clone, Debug)]
pub(super) enum Depot {
    Registry { client: registry::Client, place: Arc<Reference> },
    Layout(Layout),
}

/// The shards of a depot.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Names, as they come.
    pub(super) names: Vec<String>,
    /// Whether names cannot be listed, so that there is only one, which is written again and again.
    pub(super) single: bool,
}

/// A shard that was read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) known: Known,
    /// Of its manifest.
    pub(super) digest: Digest,
}

impl Depot {
    /// For messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Registry { place, .. } => repository_of(place),
            Self::Layout(layout) => layout.path.display().to_string(),
        }
    }

    /// Where its layers can be had.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Registry { place, .. } => Origin::Registry(place.clone()),
            Self::Layout(layout) => Origin::Layout(layout.path.clone()),
        }
    }

    /// The names that begin with `prefix`, which is part of a tag. What does not exist yet is empty.
    pub(super) async fn list(&self, prefix: &str) -> Result<Listing, Failure> {
        let (names, single) = match self {
            // From the name before the first of ours.
            Self::Registry { client, place } => match client.tags(place, &prefix[..prefix.len() - 1]).await {
                Ok(tags) => (tags.unwrap_or_default(), false),
                // It has no such list. One that fails has: what is in the cache would be taken for nothing, and a tag be overwritten.
                Err(RegistryError::Refused { answer, .. }) if NO_LIST.contains(&answer.status) => (Vec::new(), true),
                Err(error) => return Err(error.into()),
            },
            Self::Layout(layout) => {
                let layout = layout.clone();
                (on_disk(move || layout.names()).await?, false)
            }
        };
        let names = names.into_iter().filter(|name| name.starts_with(prefix)).collect();
        Ok(Listing { names, single })
    }

    /// Reads a shard; `None` if it is gone or is none.
    pub(super) async fn shard(&self, name: &str) -> Result<Option<Found>, Failure> {
        let (bytes, digest) = match self {
            Self::Registry { client, place } => {
                let Some(place) = tagged(place, name) else { return Ok(None) };
                match client.fetch(&place).await {
                    Ok(fetched) => (fetched.bytes, fetched.descriptor.digest),
                    Err(RegistryError::NotFound { .. } | RegistryError::Document { .. }) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
            Self::Layout(layout) => {
                let (layout, name) = (layout.clone(), name.to_owned());
                match on_disk(move || layout.manifest(&name)).await? {
                    Some((bytes, digest)) => (Bytes::from(bytes), digest),
                    None => return Ok(None),
                }
            }
        };
        let Some((config, embedded)) = config_of(&bytes) else { return Ok(None) };
        let bytes = match embedded {
            Some(bytes) => Some(bytes),
            None => self.blob(&Blob::from(&config), DOCUMENT_BYTES).await?,
        };
        Ok(bytes.and_then(|bytes| Known::decode(&bytes)).map(|known| Found { known, digest }))
    }

    /// Reads a small blob whole, verified; `None` if it is not there or larger than it may be.
    pub(super) async fn blob(&self, blob: &Blob, limit_bytes: u64) -> Result<Option<Bytes>, Failure> {
        let blob = blob.descriptor();
        match self {
            Self::Registry { client, place } => match client.document(place, &blob, limit_bytes).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(RegistryError::NotFound { .. } | RegistryError::TooLarge { .. } | RegistryError::Digest { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Self::Layout(layout) => {
                let layout = layout.clone();
                on_disk(move || Ok(layout.read_blob(blob.digest, limit_bytes)?.map(Bytes::from))).await
            }
        }
    }

    /// Puts bytes there.
    pub(super) async fn put_bytes(&self, media_type: &str, bytes: Vec<u8>) -> Result<Blob, Failure> {
        let blob = Descriptor::of(media_type, &bytes);
        match self {
            Self::Registry { client, place } => {
                client.push_bytes(place, &blob, bytes).await.map_err(|error| refused(place, error))?;
            }
            Self::Layout(layout) => {
                let layout = layout.clone();
                on_disk(move || layout.write_blob(&bytes)).await?;
            }
        }
        Ok(Blob::from(&blob))
    }

    /// Notes that the blob of a layer is used. Says whether it is there as far as that can be told at once: no registry is asked.
    pub(super) fn note_use(&self, blob: &Descriptor) -> bool {
        match self {
            Self::Registry { .. } => true,
            Self::Layout(layout) => layout.note_use(blob),
        }
    }

    /// Sees to it that the blob of a layer is there: by a mount from one of `elsewhere`, from the store, or not at all, which
    /// is `false`. The bytes are those of the image, whoever has them.
    pub(super) async fn adopt(&self, blob: &Descriptor, elsewhere: &[Reference], store: &Store) -> Result<bool, Failure> {
        match self {
            Self::Registry { client, place } => {
                for from in elsewhere {
                    if client.mount_blob(place, from, blob.digest).await.map_err(|error| refused(place, error))? {
                        return Ok(true);
                    }
                }
                if client.has_blob(place, blob.digest).await.map_err(|error| refused(place, error))? {
                    return Ok(true);
                }
                if !store.has_blob(blob) {
                    return Ok(false);
                }
                let opener = file_opener(store.blob_path(&blob.digest));
                client.push_blob(place, blob, opener).await.map_err(|error| refused(place, error))?;
                Ok(true)
            }
            Self::Layout(layout) => {
                let (layout, store, blob) = (layout.clone(), store.clone(), blob.clone());
                on_disk(move || layout.adopt(&blob, &store)).await
            }
        }
    }

    /// Puts a shard there under `name`. All that it speaks of is there already.
    pub(super) async fn put_shard(&self, name: &str, known: &Known) -> Result<Digest, Failure> {
        let config = known.encode();
        let descriptor = Descriptor::of(SHARD_TYPE, &config);
        let manifest = manifest(&descriptor, &config, &known.blobs());
        self.put_bytes(SHARD_TYPE, config).await?;
        let digest = Digest::of(&manifest);
        match self {
            Self::Registry { client, place } => {
                let tagged = tagged(place, name).ok_or("a name that is no tag")?;
                let media_type = MediaType::new(MediaType::OCI_MANIFEST);
                client.push_manifest(&tagged, &media_type, manifest).await.map_err(|error| refused(place, error))?;
            }
            Self::Layout(layout) => {
                let (layout, name) = (layout.clone(), name.to_owned());
                let put = move || {
                    layout.write_blob(&manifest)?;
                    layout.put_name(&name, digest, manifest.len())
                };
                on_disk(put).await?;
            }
        }
        Ok(digest)
    }

    /// Removes shards of which another one holds everything, where the medium lets us: many registries do not.
    pub(super) async fn remove(&self, shards: &[(String, Digest)]) {
        match self {
            Self::Registry { client, place } => {
                for (_, digest) in shards {
                    // Who does not delete once never does.
                    if client.delete_manifest(place, *digest).await.is_err() {
                        return;
                    }
                }
            }
            Self::Layout(layout) => {
                let (layout, names) = (layout.clone(), shards.iter().map(|(name, _)| name.clone()).collect());
                // What stays is read once more.
                let _ = on_disk(move || layout.remove(&names)).await;
            }
        }
    }
}

/// The repository of `place` with another tag.
fn tagged(place: &Reference, tag: &str) -> Option<Reference> {
    format!("{}/{}:{tag}", place.registry(), place.repository()).parse().ok()
}

/// With what to do about it where a registry wants repositories to be made first.
fn refused(place: &Reference, error: RegistryError) -> Failure {
    let missing = matches!(&error, RegistryError::Refused { answer, .. } if answer.status == 404) && !error.is_unknown_blob();
    if !missing {
        return with_causes(error);
    }
    let repository = place.repository();
    format!("{}: if this registry wants repositories to be created first, create {repository}", chain(&error)).into()
}

fn with_causes(error: RegistryError) -> Failure {
    match &error {
        RegistryError::Http {
            source:
                HttpError::Untrusted { .. } | HttpError::Connect { .. } | HttpError::ProxyRefused { .. } | HttpError::Tls { .. },
            ..
        } => chain(&error).into(),
        _ => error.into(),
    }
}

/// The manifest of a shard.
pub(super) fn manifest(descriptor: &Descriptor, config: &[u8], blobs: &BTreeSet<Blob>) -> Vec<u8> {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": descriptor,
        "layers": blobs.iter().map(Blob::descriptor).collect::<Vec<_>>(),
    });
    if config.len() <= MOST_EMBEDDED_BYTES {
        manifest["config"]["data"] = base64::engine::general_purpose::STANDARD.encode(config).into();
    }
    manifest.to_string().into_bytes()
}

/// The config of a manifest of ours, with its bytes if they stand there too.
pub(super) fn config_of(manifest: &[u8]) -> Option<(Descriptor, Option<Bytes>)> {
    let manifest: Value = serde_json::from_slice(manifest).ok()?;
    let config: Descriptor = serde_json::from_value(manifest.get("config")?.clone()).ok()?;
    if config.media_type.as_str() != SHARD_TYPE {
        return None;
    }
    let data = manifest["config"]["data"].as_str().and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    let data = data.filter(|bytes| Digest::of(bytes) == config.digest).map(Bytes::from);
    Some((config, data))
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_stands_in_its_manifest_and_a_wrong_one_does_not_count() {
        let config = Known::default().encode();
        let descriptor = Descriptor::of(SHARD_TYPE, &config);
        let whole = manifest(&descriptor, &config, &BTreeSet::new());
        assert_eq!(config_of(&whole), Some((descriptor.clone(), Some(Bytes::from(config.clone())))));
        let wrong = manifest(&descriptor, b"other", &BTreeSet::new());
        assert_eq!(config_of(&wrong), Some((descriptor, None)));
        let image = manifest(&Descriptor::of(MediaType::OCI_CONFIG, &config), &config, &BTreeSet::new());
        assert_eq!(config_of(&image), None);
        assert_eq!(config_of(b"{"), None);
    }
}
