//! An image as a cache of its own layers: its config says under which keys they were made.
//!
//! Costs nothing to write and names only what is in the image. The indexes of its layers are not there: who needs to know
//! what a layer holds has to read it.

use super::{CacheError, Found, Key, LayerCache, Record, Remembered};
use crate::image::Origin;
use crate::oci::{DiffId, ImageConfig, Platform, Reference};
use crate::registry::{Client, RegistryError};
use crate::tree::LayerIndex;
use futures_util::future::{self, BoxFuture, FutureExt as _};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use tokio::sync::OnceCell;

/// Where the keys stand in a config, beside its own fields.
const FIELD: &str = "io.cofferdam.cache.v1";

/// Finds steps in the image that `reference` names.
pub struct InlineCache {
    client: Client,
    reference: Reference,
    platform: Platform,
    known: OnceCell<HashMap<Key, Found>>,
}

impl InlineCache {
    /// The cache in the image of that name, which is read when it is first asked.
    pub fn new(client: Client, reference: Reference, platform: Platform) -> Self {
        Self { client, reference, platform, known: OnceCell::new() }
    }

    /// Notes in a config which step made which layer, by the layer's number.
    pub fn write(config: &mut ImageConfig, keys: &BTreeMap<usize, Key>) {
        let keys: Vec<Value> = keys.iter().map(|(layer, key)| json!([layer, key.hex()])).collect();
        config.extra.insert(FIELD.to_owned(), keys.into());
    }

    /// Takes the note out of the config of a base: it speaks of the base alone.
    pub fn erase(config: &mut ImageConfig) {
        config.extra.remove(FIELD);
    }

    async fn read(&self) -> Result<HashMap<Key, Found>, CacheError> {
        let resolved = match self.client.resolve(&self.reference, &self.platform).await {
            Ok(resolved) => resolved,
            // Not built yet, or something else than an image: a cache of another kind, say.
            Err(
                RegistryError::NotFound { .. }
                | RegistryError::WrongType { .. }
                | RegistryError::NoPlatform { .. }
                | RegistryError::Config { .. }
                | RegistryError::Document { .. }
                | RegistryError::LayerCount { .. },
            ) => return Ok(HashMap::new()),
            Err(error) => {
                return Err(CacheError { action: "read", place: self.reference.to_string(), source: error.into() });
            }
        };
        let origin = Origin::Registry(resolved.origin.clone());
        let config = &resolved.config;
        let created = |layer: usize| {
            config.history.iter().filter(|step| !step.empty_layer).nth(layer).and_then(|step| step.created.clone())
        };
        let keys = config.extra.get(FIELD).and_then(Value::as_array).into_iter().flatten();
        let found = keys.filter_map(|entry| {
            let layer = usize::try_from(entry.get(0)?.as_u64()?).ok()?;
            let key = Key::from_hex(entry.get(1)?.as_str()?)?;
            let record = Record {
                diff_id: *config.rootfs.diff_ids.get(layer)?,
                blob: resolved.manifest.layers.get(layer)?.clone(),
                created: created(layer)?,
                made_seconds: 0,
            };
            record.is_sound().then(|| (key, Found { record, origin: origin.clone() }))
        });
        Ok(found.collect())
    }
}

impl LayerCache for InlineCache {
    fn probe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Found>>, CacheError>> {
        async move {
            let mut failed = None;
            let read = Box::pin(async {
                self.read().await.unwrap_or_else(|error| {
                    failed = Some(error);
                    HashMap::new()
                })
            });
            let known = self.known.get_or_init(|| read).await;
            // Said by whoever asked first; afterwards it is empty.
            match failed {
                Some(error) => Err(error),
                None => Ok(keys.iter().map(|key| known.get(key).cloned()).collect()),
            }
        }
        .boxed()
    }

    fn index(&self, _: DiffId) -> BoxFuture<'_, Result<Option<LayerIndex>, CacheError>> {
        future::ready(Ok(None)).boxed()
    }

    /// Nothing: the image is written by the build.
    fn record<'a>(&'a self, _: &'a Remembered) -> BoxFuture<'a, Result<(), CacheError>> {
        future::ready(Ok(())).boxed()
    }
}
