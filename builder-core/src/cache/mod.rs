//! Results of steps, found again by what they depend on.
//!
//! [`Key`] is pure; [`LayerCache`] is a place that remembers: the store of this machine, a repository of a registry or a
//! directory that builds share, an image that says how its own layers were made. A cache may forget at any time and may not
//! lie: what it gives for a key is a layer that this very step made once. docs/decisions/cache.md says how they are laid out.

mod depot;
mod directory;
mod files;
mod inline;
mod key;
mod layout;
mod shard;
mod shared;
mod upkeep;

pub use directory::DirectoryCache;
pub use files::FileParts;
pub use inline::InlineCache;
pub use key::{Key, KeyBuilder, Part, StepKey};
pub use shared::{Access, SharedCache};
pub use upkeep::{LayoutCache, LayoutCacheError, LayoutEntry, LayoutEntryKind, LayoutPruned};

use crate::image::Origin;
use crate::oci::{Descriptor, DiffId, Digest, Reference};
use crate::tree::LayerIndex;
use bytes::Bytes;
use futures_util::future::{self, BoxFuture, FutureExt as _};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
};

/// What a step led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The layer that it made.
    pub diff_id: DiffId,
    /// The blob of the layer.
    pub blob: Descriptor,
    /// When it was made, RFC 3339, as the image says it: a cached build says the same as the first one.
    pub created: String,
    /// When it was made, by the clock; 0 if nobody knows.
    #[serde(default)]
    pub made_seconds: i64,
}

/// What a cache knows of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it led to.
    pub record: Record,
    /// Where the blob of its layer can be had.
    pub origin: Origin,
}

/// A step that a build did or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// What it depends on.
    pub key: Key,
    /// What it led to.
    pub record: Record,
    /// Where the blob of its layer is.
    pub origin: Origin,
}

/// What the key of a step needed to know of layers, so that a later build need not know them: it depends on the layers and on the
/// question alone, both of which are in its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reading {
    /// The digest of files.
    Content {
        /// Of all of them.
        digest: [u8; 32],
        /// The files themselves, for explanations, if they are few.
        files: FileParts,
    },
    /// Whom a name means.
    Owner {
        /// The user's id.
        uid: u32,
        /// The group's id.
        gid: u32,
    },
}

/// An image that a build pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedImage {
    /// Its manifest.
    pub manifest: Digest,
    /// The blobs of its layers: a repository that has the manifest has them.
    pub blobs: BTreeSet<Digest>,
}

/// What a build, or a part of it, has to be remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Equal for builds of the same thing: they replace each other in what is known of builds.
    pub name: Option<Digest>,
    /// The steps.
    pub steps: Vec<Made>,
    /// The layers of the images that the build used.
    pub bases: Vec<DiffId>,
    /// Blobs of layers that a cache told of and did not give.
    pub lost: BTreeSet<Digest>,
    /// The documents of these images: what is needed to know their configs and layers.
    pub documents: Vec<Bytes>,
    /// What its keys needed to know of layers.
    pub readings: BTreeMap<Key, Reading>,
    /// What the build pushed.
    pub image: Option<PushedImage>,
    /// The repositories that have it.
    pub repositories: Vec<Reference>,
    /// Whether the image that was remembered of the last build is gone.
    pub image_lost: bool,
    /// What explains the keys, as a later build will want to read it.
    pub parts: Option<Vec<u8>>,
}

impl Record {
    /// Whether an image can be made of it: it may come from anybody.
    fn is_sound(&self) -> bool {
        self.blob.media_type.layer_compression().is_some()
            && i64::try_from(self.blob.size_bytes).is_ok()
            && self.created.len() <= 64
            && self.created.parse::<jiff::Timestamp>().is_ok()
    }
}

/// A cache that cannot be read or written. A build goes on without it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the cache{}", if place.is_empty() { String::new() } else { format!(" {place}") })]
pub struct CacheError {
    /// `read` or `write`.
    pub action: &'static str,
    /// Where it is; empty for the store of this machine.
    pub place: String,
    /// Why.
    pub source: Box<dyn Error + Send + Sync>,
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// The repository of `place`, as it is noted.
fn repository_of(place: &Reference) -> String {
    format!("{}/{}", place.registry(), place.repository())
}

/// A place that remembers what steps led to.
pub trait LayerCache: Send + Sync {
    /// What is known of each of `keys`, in their order.
    fn probe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Found>>, CacheError>>;

    /// What a layer does, if it is known here. From a cache that others write to this is as good as they are: it serves the
    /// build that asks, and is not kept for others.
    fn index(&self, layer: DiffId) -> BoxFuture<'_, Result<Option<LayerIndex>, CacheError>>;

    /// A document of an image that an earlier build started from, by its digest. Others may have written it: it has to be
    /// checked.
    fn document(&self, _digest: Digest) -> BoxFuture<'_, Option<Bytes>> {
        future::ready(None).boxed()
    }

    /// What an earlier build read of layers, by a key of the layers and the question.
    fn reading(&self, _key: Key) -> BoxFuture<'_, Option<Reading>> {
        future::ready(None).boxed()
    }

    /// What the last build of that name pushed to the repository of `place`. It may be gone.
    fn pushed<'a>(&'a self, _name: Digest, _place: &'a Reference) -> BoxFuture<'a, Option<PushedImage>> {
        future::ready(None).boxed()
    }

    /// Remembers. Blobs that are nowhere but in the store are taken from there, and so are the indexes of all layers.
    fn record<'a>(&'a self, remembered: &'a Remembered) -> BoxFuture<'a, Result<(), CacheError>>;
}
