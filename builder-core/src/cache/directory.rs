//! The store of this machine as a cache: builds on one machine, or on one volume, share their results.

use super::{CacheError, Found, Key, LayerCache, PushedImage, Reading, Record, Remembered, repository_of};
use crate::image::Origin;
use crate::oci::{DiffId, Digest, Reference};
use crate::store::{Store, StoreError};
use crate::tree::LayerIndex;
use bytes::Bytes;
use futures_util::future::{self, BoxFuture, FutureExt as _};

/// Remembers in a [`Store`].
#[derive(Clone, Debug)]
pub struct DirectoryCache {
    store: Store,
}

impl DirectoryCache {
    /// The cache in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// A record counts only if all that belongs to it is still there: somebody may have removed blobs.
    fn find(&self, key: Key) -> Result<Option<Found>, StoreError> {
        let Some(record) = self.store.step::<Record>(key.as_bytes())? else { return Ok(None) };
        if !self.store.has_blob(&record.blob) || !self.store.has_layer_index(record.diff_id) {
            return Ok(None);
        }
        // That the blob holds the layer may have been forgotten.
        self.store.add_layer_blob(record.diff_id, &record.blob)?;
        Ok(Some(Found { record, origin: Origin::Store }))
    }
}

impl LayerCache for DirectoryCache {
    fn probe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Found>>, CacheError>> {
        let found: Result<_, StoreError> = keys.iter().map(|key| self.find(*key)).collect();
        future::ready(found.map_err(|error| failed("read", error))).boxed()
    }

    fn index(&self, layer: DiffId) -> BoxFuture<'_, Result<Option<LayerIndex>, CacheError>> {
        future::ready(self.store.layer_index(layer).map_err(|error| failed("read", error))).boxed()
    }

    fn document(&self, digest: Digest) -> BoxFuture<'_, Option<Bytes>> {
        future::ready(self.store.document(&digest).ok().flatten().map(Bytes::from)).boxed()
    }

    fn reading(&self, key: Key) -> BoxFuture<'_, Option<Reading>> {
        future::ready(self.store.reading(key.as_bytes()).ok().flatten()).boxed()
    }

    fn pushed<'a>(&'a self, name: Digest, place: &'a Reference) -> BoxFuture<'a, Option<PushedImage>> {
        future::ready(self.store.pushed(&name, &repository_of(place)).ok().flatten()).boxed()
    }

    /// Documents are in the store already.
    fn record<'a>(&'a self, remembered: &'a Remembered) -> BoxFuture<'a, Result<(), CacheError>> {
        let steps = || {
            let mut steps = remembered.steps.iter();
            steps.try_for_each(|step| self.store.put_step(step.key.as_bytes(), &step.record))
        };
        let readings = || {
            let mut readings = remembered.readings.iter();
            readings.try_for_each(|(key, reading)| self.store.put_reading(key.as_bytes(), reading))
        };
        let images = || {
            let (Some(name), Some(image)) = (&remembered.name, &remembered.image) else { return Ok(()) };
            let mut places = remembered.repositories.iter();
            places.try_for_each(|place| self.store.put_pushed(name, &repository_of(place), image))
        };
        let written = steps().and_then(|()| readings()).and_then(|()| images());
        future::ready(written.map_err(|error| failed("write", error))).boxed()
    }
}

fn failed(action: &'static str, error: StoreError) -> CacheError {
    CacheError { action, place: String::new(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{KeyBuilder, Made};
    use crate::oci::Descriptor;
    use std::io::Write as _;

    #[tokio::test]
    async fn a_record_counts_as_long_as_its_blob_and_index_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let cache = DirectoryCache::new(store.clone());
        let key = KeyBuilder::new("RUN", None).finish();
        let record = Record {
            diff_id: DiffId(Digest::of(b"tar")),
            blob: Descriptor::of("x", b"blob"),
            created: "2020-01-01T00:00:00Z".to_owned(),
            made_seconds: 7,
        };
        assert_eq!(cache.probe(&[key]).await.unwrap(), [None]);

        let made = Made { key, record: record.clone(), origin: Origin::Store };
        cache.record(&Remembered { steps: vec![made], ..Remembered::default() }).await.unwrap();
        assert_eq!(cache.probe(&[key]).await.unwrap(), [None]);

        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"blob").unwrap();
        writer.finish(Some(&record.blob)).unwrap();
        store.put_layer_index(record.diff_id, &LayerIndex::default()).unwrap();
        let found = Found { record: record.clone(), origin: Origin::Store };
        assert_eq!(cache.probe(&[key]).await.unwrap(), [Some(found)]);

        store.remove_blob(&record.blob.digest).unwrap();
        assert_eq!(cache.probe(&[key]).await.unwrap(), [None]);
    }
}
