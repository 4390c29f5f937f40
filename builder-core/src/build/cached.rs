//! Results of earlier builds: where a step is looked up, in which order, and where it is remembered.
//!
//! The store of this machine comes first; it is kept always and at once. The shared caches follow in the order of the request;
//! what they give is a descriptor of a layer, and neither the layer nor what is in it is fetched before somebody needs it.
//! They are written when the build has ended, well or not.

use super::request::{CacheLayers, CachePlace, CacheRequest};
use super::{Build, BuildError, BuildRequest, CacheUse, ContextSource, DockerfileSource, Event, Outcome, StepOutcome};
use super::{explain, seconds_of, seconds_since_epoch};
use super::{
    explain::StepParts,
    stage::{CurrentStep, StepLayer},
};
use crate::cache::{
    Access, CacheError, Found, InlineCache, Key, LayerCache, Made, PushedImage, Reading, Record, Remembered, SharedCache,
    StepKey, chain,
};
use crate::image::{Layer, Origin};
use crate::oci::{DiffId, Digest, ImageConfig, Reference};
use crate::registry;
use crate::store::Store;
use bytes::Bytes;
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::OnceCell;

/// How long results of shared caches count, as with Kaniko: two weeks.
const USUAL_TTL_SECONDS: u64 = 14 * 24 * 60 * 60;

/// What a step is for those who choose what is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepKind {
    /// COPY and ADD.
    Copy,
    /// RUN and WORKDIR.
    Run,
}

/// The caches of one build.
pub(super) struct Caches {
    /// The store of this machine.
    local: Arc<dyn LayerCache>,
    shared: Vec<Shared>,
    used: Mutex<Used>,
    lost: Mutex<Lost>,
    /// Of which caches was said already that they do not work.
    warned: Mutex<BTreeSet<(String, &'static str)>>,
    /// What the last build of the same did.
    pub(super) last: OnceCell<Vec<StepParts>>,
}

struct Shared {
    cache: Handle,
    is_read: bool,
    kept: Option<CacheLayers>,
}

enum Handle {
    Shared(Arc<SharedCache>),
    Inline(Arc<InlineCache>),
}

impl Handle {
    fn cache(&self) -> &dyn LayerCache {
        match self {
            Self::Shared(cache) => &**cache,
            Self::Inline(cache) => &**cache,
        }
    }
}

/// Layers that a cache tells of and does not give.
#[derive(Default)]
struct Lost {
    blobs: BTreeSet<Digest>,
    /// Whether one was found since the build began, or began anew.
    is_news: bool,
}

#[derive(Default)]
struct Used {
    steps: Vec<UsedStep>,
    bases: BTreeSet<DiffId>,
    documents: Vec<Bytes>,
    /// What was read of layers, and whether this build has read it itself.
    readings: BTreeMap<Key, (Reading, ReadBy)>,
}

/// Who says what is in layers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadBy {
    /// The layers themselves, or the store of this machine.
    Us,
    /// A shared cache.
    Others,
}

struct UsedStep {
    made: Made,
    kind: StepKind,
    in_result: bool,
    parts: StepParts,
}

impl Caches {
    pub(super) fn open(request: &BuildRequest, local: Arc<dyn LayerCache>, registry: &registry::Client, store: &Store) -> Self {
        let CacheRequest { from, to, ttl_seconds, .. } = &request.cache;
        let keep_seconds = ttl_seconds.unwrap_or(USUAL_TTL_SECONDS);
        let kept = |place: &CachePlace| to.iter().find(|target| target.place == *place).map(|target| target.layers);
        let mut places: Vec<&CachePlace> = Vec::new();
        for place in from.iter().chain(to.iter().map(|target| &target.place)) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let mut shared = Vec::new();
        for place in places {
            let is_read = from.contains(place);
            let kept = kept(place);
            let access = if kept.is_some() { Access::ReadWrite } else { Access::Read };
            let cache = match place {
                CachePlace::Registry(reference) => {
                    SharedCache::registry(registry.clone(), reference, store.clone(), access, keep_seconds)
                }
                CachePlace::Layout(path) => SharedCache::layout(path.clone(), store.clone(), access, keep_seconds),
                CachePlace::Inline(None) => continue,
                CachePlace::Inline(Some(reference)) => {
                    if is_read {
                        let cache = InlineCache::new(registry.clone(), reference.clone(), request.platform.clone());
                        shared.push(Shared { cache: Handle::Inline(Arc::new(cache)), is_read, kept: None });
                    }
                    continue;
                }
            };
            shared.push(Shared { cache: Handle::Shared(Arc::new(cache)), is_read, kept });
        }
        let (used, lost, warned, last) = (Mutex::default(), Mutex::default(), Mutex::default(), OnceCell::new());
        Self { local, shared, used, lost, warned, last }
    }

    /// Whether the build has to begin anew, because a layer that it counted on is lost. What it has used is forgotten then.
    pub(super) fn begin_anew(&mut self) -> bool {
        let lost = self.lost.get_mut().unwrap_or_else(PoisonError::into_inner);
        let is_news = std::mem::take(&mut lost.is_news);
        if is_news {
            self.used.get_mut().unwrap_or_else(PoisonError::into_inner).steps.clear();
        }
        is_news
    }

    fn is_lost(&self, blob: &Digest) -> bool {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).blobs.contains(blob)
    }

    /// The shared caches that are read, in their order.
    pub(super) fn readable(&self) -> impl Iterator<Item = &dyn LayerCache> {
        self.shared.iter().filter(|shared| shared.is_read).map(|shared| shared.cache.cache())
    }

    /// Notes the layers of an image that the build uses.
    pub(super) fn used_base(&self, layers: impl Iterator<Item = DiffId>) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).bases.extend(layers);
    }

    /// Notes the documents of an image that the build uses.
    pub(super) fn used_documents(&self, documents: impl IntoIterator<Item = Bytes>) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).documents.extend(documents);
    }
}

impl Build {
    /// Reads what the shared caches know, before the first step asks.
    pub(super) async fn read_caches(&self) {
        let caches = if self.request.use_cache == CacheUse::On { self.caches.readable().collect() } else { Vec::new() };
        for result in join_all(caches.into_iter().map(|cache| cache.probe(&[]))).await {
            if let Err(error) = result {
                self.warn_about_cache(&error).await;
            }
        }
    }

    /// The caches that tell of earlier builds: this machine's, and those that are read.
    fn telling(&self) -> impl Iterator<Item = &dyn LayerCache> {
        let shared = (self.request.use_cache == CacheUse::On).then(|| self.caches.readable());
        std::iter::once(&*self.caches.local).chain(shared.into_iter().flatten())
    }

    /// A document of an image that some cache has kept.
    pub(super) async fn known_document(&self, digest: Digest) -> Option<Bytes> {
        for cache in self.telling() {
            if let Some(bytes) = cache.document(digest).await {
                return Some(bytes);
            }
        }
        None
    }

    /// What an earlier build read of layers.
    pub(super) async fn recall(&self, key: Key) -> Option<Reading> {
        if self.request.use_cache == CacheUse::WriteOnly {
            return None;
        }
        let known = |used: &Used| used.readings.get(&key).map(|(reading, _)| reading.clone());
        if let Some(reading) = known(&self.caches.used.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Some(reading);
        }
        if let Some(reading) = self.caches.local.reading(key).await {
            self.note_reading(key, reading.clone(), ReadBy::Us);
            return Some(reading);
        }
        for cache in self.caches.readable() {
            if let Some(reading) = cache.reading(key).await {
                self.note_reading(key, reading.clone(), ReadBy::Others);
                return Some(reading);
            }
        }
        None
    }

    /// Notes what the build has read of layers.
    pub(super) fn have_read(&self, layers: &[Layer], key: Key, reading: Reading) {
        let by = if layers.iter().any(|layer| self.is_hearsay(layer.diff_id)) { ReadBy::Others } else { ReadBy::Us };
        self.note_reading(key, reading, by);
    }

    fn note_reading(&self, key: Key, reading: Reading, by: ReadBy) {
        let mut used = self.caches.used.lock().unwrap_or_else(PoisonError::into_inner);
        let known = used.readings.entry(key).or_insert_with(|| (reading.clone(), by));
        if by == ReadBy::Us {
            *known = (reading, by);
        }
    }

    /// What the last build of the same pushed to the repository of `place`, as the first cache says that knows one.
    pub(super) async fn pushed_before(&self, place: &Reference) -> Option<PushedImage> {
        let name = self.name_of_build();
        for cache in self.telling() {
            if let Some(image) = cache.pushed(name, place).await {
                return Some(image);
            }
        }
        None
    }

    /// What an earlier build made of the same step.
    pub(super) async fn known(&self, step: &CurrentStep<'_>, key: &StepKey, kind: StepKind) -> Option<StepLayer> {
        let known = self.look_up(step, key, kind).await;
        if known.is_none() && self.request.use_cache != CacheUse::WriteOnly {
            self.explain_miss(step, key).await;
        }
        known
    }

    /// The same where a miss says nothing yet.
    pub(super) async fn look_up(&self, step: &CurrentStep<'_>, key: &StepKey, kind: StepKind) -> Option<StepLayer> {
        if self.request.use_cache == CacheUse::WriteOnly {
            return None;
        }
        let ttl = self.request.cache.ttl_seconds;
        let mut found = self.probe(&*self.caches.local, key.key, ttl).await;
        if found.is_none() && self.is_shared(kind) {
            for cache in self.caches.readable() {
                found = self.probe(cache, key.key, Some(ttl.unwrap_or(USUAL_TTL_SECONDS))).await;
                if found.is_some() {
                    break;
                }
            }
        }
        let Found { record, origin } = found?;
        let layer = Layer { diff_id: record.diff_id, blob: record.blob.clone(), origin: origin.clone() };
        let created = record.created.clone();
        self.note_used(step, key, kind, record, origin);
        Some(StepLayer { layer, index: None, created, key: key.key, outcome: StepOutcome::Cached })
    }

    async fn probe(&self, cache: &dyn LayerCache, key: Key, ttl_seconds: Option<u64>) -> Option<Found> {
        match cache.probe(&[key]).await {
            Ok(found) => {
                let found = found.into_iter().next().flatten();
                found.filter(|found| is_young(&found.record, ttl_seconds) && !self.caches.is_lost(&found.record.blob.digest))
            }
            Err(error) => {
                self.warn_about_cache(&error).await;
                None
            }
        }
    }

    /// Notes that a layer cannot be read, if it is one that a shared cache told of: its step is a miss then.
    pub(super) async fn note_lost(&self, layer: &Layer, error: &BuildError) {
        let digest = layer.blob.digest;
        let is_result = {
            let used = self.caches.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.steps.iter().any(|step| step.made.record.blob.digest == digest && step.made.origin != Origin::Store)
        };
        let is_new = is_result && {
            let mut lost = self.caches.lost.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = lost.blobs.insert(digest);
            lost.is_news |= is_new;
            is_new
        };
        if is_new {
            let message = format!("{}; its step is done again", chain(error));
            self.tell(Event::Warning { message, place: None }).await;
        }
    }

    fn is_shared(&self, kind: StepKind) -> bool {
        match kind {
            StepKind::Copy => self.request.cache.copy_layers,
            StepKind::Run => self.request.cache.run_layers,
        }
    }

    /// Remembers what a step has just made: at once in the store of this machine, elsewhere when the build ends.
    pub(super) async fn remember_step(&self, step: &CurrentStep<'_>, key: &StepKey, kind: StepKind, record: Record) {
        let made = Made { key: key.key, record: record.clone(), origin: Origin::Store };
        if let Err(error) = self.caches.local.record(&Remembered { steps: vec![made], ..Remembered::default() }).await {
            self.warn_about_cache(&error).await;
        }
        self.note_used(step, key, kind, record, Origin::Store);
    }

    fn note_used(&self, step: &CurrentStep<'_>, key: &StepKey, kind: StepKind, record: Record, origin: Origin) {
        let parts = StepParts::new(step.id, step.text, key, step.before.base);
        let in_result = self.is_part_of_result(step.id.stage);
        let made = Made { key: key.key, record, origin };
        let used = UsedStep { made, kind, in_result, parts };
        self.caches.used.lock().unwrap_or_else(PoisonError::into_inner).steps.push(used);
    }

    /// Writes the shared caches. That they cannot be written is said, and no more. `built` is what came of the build, unless it
    /// has failed.
    pub(super) async fn remember_all(&self, built: Option<&Outcome>) {
        let succeeded = built.is_some();
        let used = std::mem::take(&mut *self.caches.used.lock().unwrap_or_else(PoisonError::into_inner));
        let name = self.name_of_build();
        let parts: Vec<&StepParts> = used.steps.iter().map(|step| &step.parts).collect();
        let parts = if succeeded { Some(explain::encode(&parts)) } else { None };
        if let Some(parts) = &parts {
            let (store, parts) = (self.store.clone(), parts.clone());
            // Without it a later miss is not explained.
            let _ = self.work.run(move || store.put_build_parts(&name, &parts).map_err(super::BuildError::store)).await;
        }
        let image = built.filter(|outcome| !outcome.pushed.is_empty()).map(|outcome| PushedImage {
            manifest: outcome.digest,
            blobs: outcome.layers.iter().map(|layer| layer.blob.digest).collect(),
        });
        let repositories = if image.is_some() { self.request.destinations.clone() } else { Vec::new() };
        let pushed = Remembered {
            name: Some(name),
            image: image.clone(),
            repositories: repositories.clone(),
            // What a shared cache says serves this build, and other caches, but no build here that does not read it.
            readings: readings(&used, |by| by == ReadBy::Us),
            ..Remembered::default()
        };
        if let Err(error) = self.caches.local.record(&pushed).await {
            self.warn_about_cache(&error).await;
        }
        let lost = self.caches.lost.lock().unwrap_or_else(PoisonError::into_inner).blobs.clone();
        let writes =
            self.caches.shared.iter().filter_map(|shared| Some((shared.cache.cache(), shared.kept?))).map(|(cache, layers)| {
                let chosen =
                    used.steps.iter().filter(|step| self.is_shared(step.kind) && (layers == CacheLayers::Max || step.in_result));
                let remembered = Remembered {
                    // What a failed build did is no whole.
                    name: succeeded.then_some(name),
                    steps: chosen.map(|step| step.made.clone()).collect(),
                    bases: used.bases.iter().copied().collect(),
                    lost: lost.clone(),
                    documents: used.documents.clone(),
                    readings: readings(&used, |_| true),
                    image: image.clone(),
                    repositories: repositories.clone(),
                    image_lost: self.publisher.has_lost_images(),
                    parts: parts.clone(),
                };
                async move { cache.record(&remembered).await }
            });
        for result in join_all(writes).await {
            if let Err(error) = result {
                self.warn_about_cache(&error).await;
            }
        }
    }

    /// Notes in the config how the layers of the image were made, where that is asked for.
    pub(super) fn write_inline_cache(&self, config: &mut ImageConfig, layers: &[Layer]) {
        if !self.request.cache.to.iter().any(|target| matches!(target.place, CachePlace::Inline(_))) {
            return;
        }
        let used = self.caches.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys: BTreeMap<usize, Key> = BTreeMap::new();
        let steps = used.steps.iter().filter(|step| step.in_result && self.is_shared(step.kind));
        for step in steps {
            let own = |(at, layer): &(usize, &Layer)| layer.diff_id == step.made.record.diff_id && !keys.contains_key(at);
            if let Some((at, _)) = layers.iter().enumerate().find(own) {
                keys.insert(at, step.made.key);
            }
        }
        InlineCache::write(config, &keys);
    }

    /// What tells builds of different things apart: two builds of one name replace each other in what is known of builds.
    pub(super) fn name_of_build(&self) -> Digest {
        let request = &self.request;
        let destination = request.destinations.first().map(|name| (name.registry(), name.repository()));
        let context = match &request.context {
            ContextSource::Git(source) => source.remote.clone(),
            ContextSource::Url(_) | ContextSource::Archive(_) | ContextSource::Input => "archive".to_owned(),
            _ => String::new(),
        };
        // Not the directory of the context: a CI job has another one each time.
        let file = match &request.dockerfile {
            DockerfileSource::Path(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            _ => String::new(),
        };
        let identity = serde_json::json!([destination, context, file, request.target, request.platform.to_string()]);
        Digest::of(identity.to_string().as_bytes())
    }

    /// What the last build of the same did, on this machine or as a shared cache knows it: the newest of them counts.
    pub(super) async fn last_build(&self) -> &[StepParts] {
        let name = self.name_of_build();
        let read = Box::pin(async {
            let store = self.store.clone();
            let local = self.work.run(move || store.build_parts(&name).map_err(super::BuildError::store)).await.ok().flatten();
            let local = local.and_then(|(bytes, kept)| Some((explain::decode(&bytes)?, seconds_of(kept))));
            let (mut newest, mut made_seconds) = local.unwrap_or((Vec::new(), i64::MIN));
            for shared in self.caches.shared.iter().filter(|shared| shared.is_read) {
                if let Handle::Shared(cache) = &shared.cache
                    && let Ok(Some((bytes, seconds))) = cache.newer_parts(name, made_seconds).await
                    && let Some(parts) = explain::decode(&bytes)
                {
                    (newest, made_seconds) = (parts, seconds);
                }
            }
            newest
        });
        self.caches.last.get_or_init(|| read).await
    }

    async fn explain_miss(&self, step: &CurrentStep<'_>, key: &StepKey) {
        if !self.request.cache.explain {
            return;
        }
        let reasons = explain::reasons(&StepParts::new(step.id, step.text, key, step.before.base), self.last_build().await);
        self.tell(Event::CacheMissed { step: step.id.clone(), reasons }).await;
    }

    /// Says once of each cache that it cannot be read, and once that it cannot be written.
    pub(super) async fn warn_about_cache(&self, error: &CacheError) {
        let is_new = {
            let mut warned = self.caches.warned.lock().unwrap_or_else(PoisonError::into_inner);
            warned.insert((error.place.clone(), error.action))
        };
        if is_new {
            let message = format!("{}; the build goes on without it", chain(error));
            self.tell(Event::Warning { message, place: None }).await;
        }
    }
}

fn readings(used: &Used, by: impl Fn(ReadBy) -> bool) -> BTreeMap<Key, Reading> {
    used.readings.iter().filter(|(_, (_, read_by))| by(*read_by)).map(|(key, (reading, _))| (*key, reading.clone())).collect()
}

fn is_young(record: &Record, ttl_seconds: Option<u64>) -> bool {
    let age = seconds_since_epoch().saturating_sub(record.made_seconds);
    // An image says of its layers when they were made, and that may be any time.
    record.made_seconds == 0 || ttl_seconds.is_none_or(|ttl| age <= i64::try_from(ttl).unwrap_or(i64::MAX))
}
