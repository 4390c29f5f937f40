//! Results of steps, found again by what they depend on.
//!
//! [`Key`] is pure; [`LayerCache`] is a place that remembers. A cache may forget at any time and may not lie: what it
//! gives for a key is a layer that this very step made once.

mod directory;
mod key;

pub use directory::DirectoryCache;
pub use key::{Key, KeyBuilder};

use crate::oci::{Descriptor, DiffId};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::error::Error;

/// What a step led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The layer that it made.
    pub diff_id: DiffId,
    /// The blob of the layer.
    pub blob: Descriptor,
    /// When it was made, RFC 3339: a cached build says the same as the first one.
    pub created: String,
}

/// A cache that cannot be read or written. A build goes on without it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the cache")]
pub struct CacheError {
    /// `read` or `write`.
    pub action: &'static str,
    /// Why.
    pub source: Box<dyn Error + Send + Sync>,
}

/// A place that remembers what steps led to.
pub trait LayerCache: Send + Sync {
    /// What is known of each of `keys`, in their order. The index of each layer that is found is in the store afterwards.
    fn probe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Record>>, CacheError>>;

    /// Remembers that the step `key` made `record`. Its blob and index are in the store.
    fn record<'a>(&'a self, key: Key, record: &'a Record) -> BoxFuture<'a, Result<(), CacheError>>;
}
