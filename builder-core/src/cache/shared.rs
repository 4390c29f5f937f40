//! A cache that builds of different machines share, in a registry or in a directory.
//!
//! It is read once: the names of the shards, the shards, and then the packs of what was found, however many steps there are.
//! Who has something to add writes one shard of a new name that holds everything it read and what it adds, and removes those
//! it read. So nobody ever overwrites what another one wrote, and whoever reads at any moment finds whole shards.

use super::depot::{Depot, Failure};
use super::layout::Layout;
use super::shard::{self, Blob, Dated, Known, KnownBuild, KnownRecord, PACK_TYPE, PARTS_TYPE, Pack};
use super::{CacheError, Found, Key, LayerCache, Made, PushedImage, Reading, Record, Remembered, repository_of};
use crate::image::Origin;
use crate::oci::{DiffId, Digest, Reference};
use crate::registry::{self, RegistryError};
use crate::store::Store;
use crate::tree::LayerIndex;
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::{self, BoxFuture, FutureExt as _},
    stream,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::OnceCell,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

/// The most shards that are read at once; more only if nobody has merged them.
const FIRST_SHARDS: usize = 4;
/// The most shards that are read at all.
const MOST_SHARDS: usize = 64;
/// How long a cache is waited for before a build goes on without it: what is read of it at first is small.
const PATIENCE: Duration = Duration::from_mins(1);
/// A cache that takes less is given up, once this and [`PATIENCE`] are over.
const SLOWEST_BYTES_PER_SECOND: u64 = 256 << 10;
/// How often the shards are listed at most, where some of those listed are gone before they are read.
const MOST_LISTINGS: u32 = 4;
/// The most bytes of a pack.
const PACK_BYTES: u64 = 64 << 20;
/// The most bytes of a document that is kept in a shard.
const DOCUMENT_BYTES: usize = 64 << 10;
/// Blobs that are taken in at a time.
const ADOPTIONS: usize = 4;
/// What the names of shards begin with where a reference has no tag of its own.
pub(super) const NAMESPACE: &str = "cofferdam";

/// What may be done with a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing is recorded.
    Read,
    /// Everything.
    ReadWrite,
}

/// A cache in a registry or in a directory.
pub struct SharedCache {
    inner: Arc<Inner>,
    /// Packs that are on their way before somebody waits for them.
    ahead: Mutex<Vec<Ahead>>,
}

struct Inner {
    depot: Depot,
    namespace: String,
    store: Store,
    access: Access,
    /// What is older is not kept when something is added.
    keep_seconds: i64,
    loaded: OnceCell<Loaded>,
    /// Why it could not be read, until somebody is told.
    failure: Mutex<Option<Failure>>,
    packs: Mutex<HashMap<Digest, Arc<OnceCell<Pack>>>>,
    asked: Mutex<Asked>,
}

/// A download, ended when it is dropped.
struct Ahead(JoinHandle<()>);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Default)]
struct Loaded {
    known: Known,
    /// The shards that were read.
    shards: Vec<(String, Digest)>,
    /// Whether there is but one name.
    single: bool,
    /// It could not be read.
    unread: bool,
}

#[derive(Default)]
struct Asked {
    keys: BTreeSet<Key>,
    bases: BTreeSet<DiffId>,
}

impl SharedCache {
    /// The cache in the repository of `place`. Its tag, unless it is `latest`, sets caches in one repository apart.
    pub fn registry(client: registry::Client, place: &Reference, store: Store, access: Access, keep_seconds: u64) -> Self {
        let namespace = place.tag().filter(|tag| *tag != "latest").unwrap_or(NAMESPACE).to_owned();
        Self::new(Depot::Registry { client, place: Arc::new(place.clone()) }, namespace, store, access, keep_seconds)
    }

    /// The cache in the OCI layout at `path`.
    pub fn layout(path: PathBuf, store: Store, access: Access, keep_seconds: u64) -> Self {
        Self::new(Depot::Layout(Layout::new(path)), NAMESPACE.to_owned(), store, access, keep_seconds)
    }

    fn new(depot: Depot, namespace: String, store: Store, access: Access, keep_seconds: u64) -> Self {
        let inner = Inner {
            depot,
            namespace,
            store,
            access,
            keep_seconds: i64::try_from(keep_seconds).unwrap_or(i64::MAX),
            loaded: OnceCell::new(),
            failure: Mutex::default(),
            packs: Mutex::default(),
            asked: Mutex::default(),
        };
        Self { inner: Arc::new(inner), ahead: Mutex::default() }
    }

    /// The parts of the keys of the last build of that name, as they were given to `record`, and when that was. Nothing, and
    /// nothing is fetched, if that was not after `than_seconds`.
    ///
    /// # Errors
    /// [`CacheError`] if the cache cannot be read.
    pub async fn newer_parts(&self, name: Digest, than_seconds: i64) -> Result<Option<(Vec<u8>, i64)>, CacheError> {
        let loaded = self.inner.loaded().await?;
        let build = loaded.known.builds.iter().find(|build| build.name == name && build.made_seconds > than_seconds);
        let Some((build, blob)) = build.and_then(|build| Some((build, build.parts.as_ref()?))) else { return Ok(None) };
        let bytes = self.inner.depot.blob(blob, PACK_BYTES).await.map_err(|error| self.inner.failed("read", error))?;
        let parts = bytes.and_then(|bytes| shard::decompress(&bytes, PACK_BYTES).ok());
        Ok(parts.map(|parts| (parts, build.made_seconds)))
    }
}

impl Inner {
    fn failed(&self, action: &'static str, source: Failure) -> CacheError {
        CacheError { action, place: self.depot.shown(), source }
    }

    /// What the cache knows. One caller is told if it cannot be read; otherwise it is empty then.
    async fn loaded(&self) -> Result<&Loaded, CacheError> {
        let loaded = self.loaded_quietly().await;
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(loaded), |failure| Err(self.failed("read", failure)))
    }

    /// The same for those who do not tell anybody.
    async fn loaded_quietly(&self) -> &Loaded {
        let load = Box::pin(async {
            let loaded = timeout(PATIENCE, self.load()).await;
            match loaded.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs()).into())) {
                Ok(loaded) => loaded,
                // Many registries say this of what does not exist yet. If it is more than that, the writing will tell.
                Err(error) if self.access == Access::ReadWrite && is_refusal(&error) => Loaded::default(),
                Err(error) => {
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Loaded { unread: true, ..Loaded::default() }
                }
            }
        });
        self.loaded.get_or_init(|| load).await
    }

    async fn load(&self) -> Result<Loaded, Failure> {
        // Who writes puts one shard in the place of others: what was listed may be gone, and then something newer is there.
        for _ in 1..MOST_LISTINGS {
            let (loaded, is_whole) = self.load_listed().await?;
            if is_whole {
                return Ok(loaded);
            }
        }
        Ok(self.load_listed().await?.0)
    }

    /// What is there now, and whether nothing of it went away meanwhile.
    async fn load_listed(&self) -> Result<(Loaded, bool), Failure> {
        let listing = self.depot.list(&self.namespace).await?;
        let mut names: BTreeSet<String> = listing.names.into_iter().filter(|name| is_shard(name, &self.namespace)).collect();
        if listing.single {
            names = BTreeSet::from([self.namespace.clone()]);
        }
        let mut loaded = Loaded { single: listing.single, ..Loaded::default() };
        let mut is_whole = true;
        let mut left: Vec<String> = names.into_iter().take(MOST_SHARDS).collect();
        while !left.is_empty() {
            // Newest first; what those have merged need not be read.
            let later = left.split_off(left.len().min(FIRST_SHARDS));
            for (name, found) in future::try_join_all(left.iter().map(|name| self.shard(name))).await? {
                match found {
                    Some(found) => {
                        loaded.known.merge(found.known);
                        loaded.shards.push((name, found.digest));
                    }
                    // The one name that a registry without lists has may have never been written.
                    None => is_whole &= listing.single,
                }
            }
            left = later.into_iter().filter(|name| !loaded.known.merged.contains(name)).collect();
        }
        Ok((loaded, is_whole))
    }

    async fn shard(&self, name: &str) -> Result<(String, Option<super::depot::Found>), Failure> {
        Ok((name.to_owned(), self.depot.shard(name).await?))
    }

    /// Fetches a pack once. One that is gone or damaged is empty.
    async fn fetch(&self, pack: &Blob) -> Result<Arc<OnceCell<Pack>>, Failure> {
        let cell = {
            let mut packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
            packs.entry(pack.descriptor().digest).or_default().clone()
        };
        let fetch = async {
            let Some(bytes) = self.depot.blob(pack, PACK_BYTES).await? else { return Ok(Pack::default()) };
            Ok::<_, Failure>(spawn_blocking(move || Pack::open(&bytes).unwrap_or_default()).await?)
        };
        cell.get_or_try_init(|| fetch).await?;
        Ok(cell)
    }

    fn has_all_of(&self, pack: &Blob, loaded: &Loaded) -> bool {
        let mut layers = loaded.known.layers.iter().filter(|(_, layer)| layer.pack.as_ref() == Some(pack));
        layers.all(|(layer, _)| self.store.has_layer_index(*layer))
    }
}

impl SharedCache {
    /// Somebody needs to know what a layer holds: begins to fetch all packs that this build may need, as far as can be told, so
    /// that nobody waits for a second one.
    fn fetch_ahead(&self, loaded: &Loaded, layer: DiffId) {
        let packs = {
            let mut asked = self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.bases.insert(layer);
            loaded.known.packs_with(&asked.keys, &asked.bases)
        };
        let begun = self.inner.packs.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect::<BTreeSet<_>>();
        for pack in packs {
            if begun.contains(&pack.descriptor().digest) || self.inner.has_all_of(&pack, loaded) {
                continue;
            }
            let inner = self.inner.clone();
            let task = tokio::spawn(async move {
                // Whoever needs it is told.
                let _ = inner.fetch(&pack).await;
            });
            self.ahead.lock().unwrap_or_else(PoisonError::into_inner).push(Ahead(task));
        }
    }

    async fn add(&self, remembered: &Remembered, loaded: &Loaded) -> Result<(), Failure> {
        let inner = &*self.inner;
        let mut known = loaded.known.clone();
        if loaded.single
            && let Some(found) = inner.depot.shard(&inner.namespace).await?
        {
            // Somebody may have written since we read.
            known.merge(found.known);
        }
        for layer in known.layers.values_mut() {
            layer.blob.take_if(|blob| remembered.lost.contains(&blob.descriptor().digest));
        }
        let now = seconds_now();
        // One that was made again is renewed, also where the same came out: otherwise it would be too old from some day on, for good.
        let is_known = |made: &&Made| {
            known.record(made.key).is_some_and(|record| {
                let is_as_good = record.diff_id == made.record.diff_id && record.made_seconds >= made.record.made_seconds;
                is_as_good && inner.depot.note_use(&record.blob)
            })
        };
        let (old, new): (Vec<&Made>, Vec<&Made>) = remembered.steps.iter().partition(is_known);
        let indexed: BTreeSet<DiffId> =
            remembered.steps.iter().map(|made| made.record.diff_id).chain(remembered.bases.iter().copied()).collect();
        let unpacked: Vec<DiffId> = indexed
            .iter()
            .copied()
            .filter(|layer| {
                known.layers.get(layer).is_none_or(|layer| layer.pack.is_none()) && inner.store.has_layer_index(*layer)
            })
            .collect();
        let bases: BTreeSet<DiffId> = remembered.bases.iter().copied().collect();
        let repositories: BTreeSet<String> = remembered.repositories.iter().map(repository_of).collect();
        let documents: BTreeMap<Digest, &Bytes> = remembered
            .documents
            .iter()
            .filter(|bytes| bytes.len() <= DOCUMENT_BYTES)
            .map(|bytes| (Digest::of(bytes), bytes))
            .collect();
        let is_read = remembered.readings.keys().all(|key| known.readings.contains_key(key))
            && documents.keys().all(|digest| known.documents.contains_key(digest));
        let same = remembered.name.is_none_or(|name| {
            known.builds.iter().any(|build| {
                let keys = build.keys.len() == remembered.steps.iter().map(|made| made.key).collect::<BTreeSet<_>>().len();
                build.name == name
                    && keys
                    && old.iter().all(|made| build.keys.contains(&made.key))
                    && build.bases.is_superset(&bases)
                    // The image of an earlier build serves as well, as long as it is there.
                    && build.repositories.is_superset(&repositories)
                    && !remembered.image_lost
            })
        });
        if new.is_empty() && unpacked.is_empty() && same && is_read && loaded.shards.len() <= FIRST_SHARDS {
            return Ok(());
        }

        let mut keys: BTreeSet<Key> = old.iter().map(|made| made.key).collect();
        let (adopted, packs, parts) =
            future::try_join3(self.adopt(&new, remembered), self.put_packs(unpacked), self.put_parts(remembered)).await?;
        for Made { key, record, .. } in new.into_iter().filter(|made| adopted.contains(&made.record.blob.digest)).cloned() {
            known.layers.entry(record.diff_id).or_default().blob = Some(Blob::from(&record.blob));
            let made_seconds = if record.made_seconds == 0 { now } else { record.made_seconds };
            known.records.insert(key, KnownRecord { layer: record.diff_id, created: record.created, made_seconds });
            keys.insert(key);
        }
        for (layers, pack) in packs {
            for layer in layers {
                known.layers.entry(layer).or_default().pack = Some(pack.clone());
            }
        }
        if let Some(name) = remembered.name {
            known.builds.retain(|build| build.name != name);
            let build = KnownBuild { name, made_seconds: now, keys, bases, image: remembered.image.clone(), repositories, parts };
            known.builds.insert(0, build);
        }
        for (key, reading) in &remembered.readings {
            known.readings.insert(*key, Dated { value: reading.clone(), used_seconds: now });
        }
        for (digest, bytes) in documents {
            known.documents.insert(digest, Dated { value: bytes.to_vec(), used_seconds: now });
        }
        known.merged.extend(loaded.shards.iter().map(|(name, _)| name.clone()));
        known.prune(now.saturating_sub(inner.keep_seconds));
        let name = if loaded.single { inner.namespace.clone() } else { shard_name(&inner.namespace, now, &known) };
        match inner.depot.put_shard(&name, &known).await {
            // Something that is known is gone, which nobody says: what this build used stays.
            Err(error) if is_unknown_blob(&error) && loaded.known != Known::default() => {
                let shards = loaded.shards.clone();
                let emptied = Loaded { shards, single: loaded.single, ..Loaded::default() };
                return Box::pin(self.add(remembered, &emptied)).await;
            }
            put => put?,
        };
        if !loaded.single {
            let replaced: Vec<_> = loaded.shards.iter().filter(|(other, _)| *other != name).cloned().collect();
            inner.depot.remove(&replaced).await;
        }
        Ok(())
    }

    /// Sees to it that the layers of these steps are in the cache; gives those that are. Two steps may have made the same.
    async fn adopt(&self, new: &[&Made], remembered: &Remembered) -> Result<BTreeSet<Digest>, Failure> {
        let inner = &*self.inner;
        let adopt = |made: Made| async move {
            let is_pushed = remembered.image.as_ref().is_some_and(|image| image.blobs.contains(&made.record.blob.digest));
            let mut elsewhere = if is_pushed { remembered.repositories.clone() } else { Vec::new() };
            if let Origin::Registry(place) = &made.origin {
                elsewhere.push((**place).clone());
            }
            let blob = &made.record.blob;
            Ok::<_, Failure>((blob.digest, inner.depot.adopt(blob, &elsewhere, &inner.store).await?))
        };
        let blobs: BTreeMap<Digest, Made> = new.iter().map(|made| (made.record.blob.digest, (*made).clone())).collect();
        let adopted = stream::iter(blobs.into_values()).map(adopt).buffer_unordered(ADOPTIONS);
        adopted.try_filter_map(|(digest, is_there)| future::ok(is_there.then_some(digest))).try_collect().await
    }

    /// Puts the indexes of these layers into packs of the cache.
    async fn put_packs(&self, layers: Vec<DiffId>) -> Result<Vec<(Vec<DiffId>, Blob)>, Failure> {
        let store = self.inner.store.clone();
        let packs = spawn_blocking(move || {
            let index = |layer: DiffId| Some((layer, store.layer_index(layer).ok()??));
            shard::pack(layers.into_iter().filter_map(index))
        });
        let put = async |(layers, bytes)| Ok::<_, Failure>((layers, self.inner.depot.put_bytes(PACK_TYPE, bytes).await?));
        future::try_join_all(packs.await?.into_iter().map(put)).await
    }

    async fn put_parts(&self, remembered: &Remembered) -> Result<Option<Blob>, Failure> {
        match &remembered.parts {
            Some(bytes) if remembered.name.is_some() => {
                self.inner.depot.put_bytes(PARTS_TYPE, shard::compress(bytes)).await.map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl LayerCache for SharedCache {
    fn probe<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Option<Found>>, CacheError>> {
        async move {
            let loaded = self.inner.loaded().await?;
            let origin = self.inner.depot.origin();
            let found = |key: &Key| {
                let record = loaded.known.record(*key).filter(Record::is_sound)?;
                let record = Some(record).filter(|record| self.inner.depot.note_use(&record.blob))?;
                Some(Found { record, origin: origin.clone() })
            };
            let found: Vec<Option<Found>> = keys.iter().map(found).collect();
            let hits = keys.iter().zip(&found).filter(|(_, found)| found.is_some()).map(|(key, _)| *key);
            self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner).keys.extend(hits);
            Ok(found)
        }
        .boxed()
    }

    fn index(&self, layer: DiffId) -> BoxFuture<'_, Result<Option<LayerIndex>, CacheError>> {
        async move {
            let loaded = self.inner.loaded().await?;
            let Some(pack) = loaded.known.layers.get(&layer).and_then(|layer| layer.pack.as_ref()) else { return Ok(None) };
            self.fetch_ahead(loaded, layer);
            let pack = self.inner.fetch(pack).await.map_err(|error| self.inner.failed("read", error))?;
            let unpack = spawn_blocking(move || pack.get().and_then(|pack| pack.index(layer)));
            unpack.await.map_err(|error| self.inner.failed("read", error.into()))
        }
        .boxed()
    }

    fn document(&self, digest: Digest) -> BoxFuture<'_, Option<Bytes>> {
        async move {
            let documents = &self.inner.loaded_quietly().await.known.documents;
            documents.get(&digest).map(|found| Bytes::copy_from_slice(&found.value))
        }
        .boxed()
    }

    fn reading(&self, key: Key) -> BoxFuture<'_, Option<Reading>> {
        async move { self.inner.loaded_quietly().await.known.readings.get(&key).map(|found| found.value.clone()) }.boxed()
    }

    fn pushed<'a>(&'a self, name: Digest, place: &'a Reference) -> BoxFuture<'a, Option<PushedImage>> {
        async move {
            let mut builds = self.inner.loaded_quietly().await.known.builds.iter();
            let is_it = |build: &&KnownBuild| build.name == name && build.repositories.contains(&repository_of(place));
            builds.find(is_it)?.image.clone()
        }
        .boxed()
    }

    fn record<'a>(&'a self, remembered: &'a Remembered) -> BoxFuture<'a, Result<(), CacheError>> {
        async move {
            if self.inner.access == Access::Read || remembered.steps.is_empty() && remembered.bases.is_empty() {
                return Ok(());
            }
            let loaded = self.inner.loaded().await?;
            // That was said, and writing to what cannot be read would take as long again to fail.
            if loaded.unread {
                return Ok(());
            }
            let sent_bytes: u64 = remembered.steps.iter().map(|made| made.record.blob.size_bytes).sum();
            let patience = PATIENCE + Duration::from_secs(sent_bytes / SLOWEST_BYTES_PER_SECOND);
            let added = timeout(patience, self.add(remembered, loaded)).await;
            let added = added.unwrap_or_else(|_| Err(format!("it takes longer than {} s", patience.as_secs()).into()));
            added.map_err(|error| self.inner.failed("write", error))
        }
        .boxed()
    }
}

fn is_unknown_blob(error: &Failure) -> bool {
    error.downcast_ref::<RegistryError>().is_some_and(RegistryError::is_unknown_blob)
}

fn is_refusal(error: &Failure) -> bool {
    let error = error.downcast_ref::<RegistryError>();
    matches!(error, Some(RegistryError::Unauthorized { .. } | RegistryError::Denied { .. }))
}

pub(super) fn seconds_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// A name that sorts newest first and that nobody else chooses.
pub(super) fn shard_name(namespace: &str, now: i64, known: &Known) -> String {
    let age = u32::MAX - u32::try_from(now).unwrap_or(u32::MAX);
    format!("{namespace}.{age:08x}.{}", &Digest::of(&known.encode()).hex()[..16])
}

/// Also the bare namespace: the only name where names could not be listed once.
pub(super) fn is_shard(name: &str, namespace: &str) -> bool {
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let Some(rest) = name.strip_prefix(namespace) else { return false };
    let parts = rest.strip_prefix('.').and_then(|rest| rest.split_once('.'));
    rest.is_empty() || parts.is_some_and(|(age, digest)| hex(age, 8) && hex(digest, 16))
}

#[cfg(test)]
mod tests {
    use super::super::{
        depot::{config_of, manifest},
        layout::Layout,
    };
    use super::*;
    use crate::build::{Backends, BuildRequest, CacheLayers, CachePlace, CacheRequest, CacheTarget, DockerfileSource, build};
    use crate::http;
    use crate::oci::Descriptor;
    use crate::tree::Content;
    use std::{fs, path::Path};

    async fn digest_on(machine: &Path, request: &BuildRequest) -> Digest {
        let client = http::Client::new(http::Options::default()).unwrap();
        let client = registry::Client::new(client, registry::Options::default(), Arc::new(registry::Anonymous)).unwrap();
        let (events, _) = tokio::sync::mpsc::channel(1);
        let backends = Backends::new(Store::open(machine).unwrap(), client);
        build(request.clone(), backends, events).await.unwrap().digest
    }

    /// Says in the cache at `path` that a file of a layer holds other bytes.
    fn lie(path: &Path, name: &str, bytes: &[u8]) {
        let layout = Layout::new(path.to_owned());
        let shard = layout.listed().unwrap().remove(0);
        let (document, _) = layout.manifest(&shard).unwrap().unwrap();
        let mut known = Known::decode(&config_of(&document).unwrap().1.unwrap()).unwrap();
        known.readings.clear();
        for (layer, found) in &mut known.layers {
            let pack = layout.read_blob(found.pack.as_ref().unwrap().descriptor().digest, PACK_BYTES).unwrap().unwrap();
            let mut index = Pack::open(&pack).unwrap().index(*layer).unwrap();
            for file in index.changes.iter_mut().filter(|change| change.path().to_string().ends_with(name)) {
                let file = file.file_mut().unwrap();
                (file.content, file.size_bytes) = (Content::Inline(bytes.into()), bytes.len() as u64);
            }
            let (_, pack) = shard::pack([(*layer, index)]).remove(0);
            layout.write_blob(&pack).unwrap();
            found.pack = Some(Blob::from(&Descriptor::of(PACK_TYPE, &pack)));
        }
        let config = known.encode();
        let document = manifest(&Descriptor::of(shard::SHARD_TYPE, &config), &config, &known.blobs());
        layout.write_blob(&config).unwrap();
        layout.write_blob(&document).unwrap();
        layout.put_name(&shard, Digest::of(&document), document.len()).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_shared_cache_says_of_a_layer_serves_no_build_that_does_not_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("context/etc")).unwrap();
        fs::write(at("context/etc/passwd"), "app:x:7:8::/:/bin/sh\n").unwrap();
        fs::write(at("context/a"), "A").unwrap();
        let dockerfile = "FROM scratch\nCOPY etc /etc\nCOPY --chown=app a /\n".to_owned();
        let alone = BuildRequest {
            dockerfile: DockerfileSource::Inline { name: "Dockerfile".to_owned(), text: dockerfile },
            source_date_epoch: Some(1_600_000_000),
            ..BuildRequest::new(at("context"))
        };
        let place = CachePlace::Layout(at("shared"));
        let reading = CacheRequest { from: vec![place.clone()], ..CacheRequest::default() };
        let writing = CacheRequest { to: vec![CacheTarget { place, layers: CacheLayers::Max }], ..reading.clone() };
        digest_on(&at("one"), &BuildRequest { cache: writing, ..alone.clone() }).await;
        lie(&at("shared"), "etc/passwd", b"app:x:0:0::/:/bin/sh\n");

        // Of another file, so that it has to be known who owns it.
        fs::write(at("context/a"), "changed").unwrap();
        let believed = digest_on(&at("two"), &BuildRequest { cache: reading, ..alone.clone() }).await;
        let (after, truth) = (digest_on(&at("two"), &alone).await, digest_on(&at("three"), &alone).await);
        assert_eq!(after, truth);
        assert_ne!(believed, truth, "nothing was believed, so nothing is shown");
    }
}
