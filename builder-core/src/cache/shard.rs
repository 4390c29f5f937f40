//! What a shared cache holds, as bytes: shards, which are the small index, and packs, which hold the indexes of layers. Pure.
//!
//! Everything here may come from somebody else: sizes are bounded before anything is unpacked, and an index counts only if it
//! speaks of nothing but its own layer.

use super::{Key, PushedImage, Reading, Record};
use crate::oci::{Descriptor, DiffId, Digest, MediaType};
use crate::tree::{Change, Content, LayerIndex, TreePath};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _},
    ops::Range,
};

/// The type of a shard: of the config of its manifest.
pub(super) const SHARD_TYPE: &str = "application/vnd.cofferdam.cache.shard.v2+zstd";
/// The type of a pack.
pub(super) const PACK_TYPE: &str = "application/vnd.cofferdam.cache.pack.v1+zstd";
/// The type of the parts of the keys of one build.
pub(super) const PARTS_TYPE: &str = "application/vnd.cofferdam.cache.parts.v1+zstd";

/// The most steps that a cache remembers: registries look at each layer that a manifest names.
const MOST_RECORDS: usize = 1000;
/// The most readings and documents.
const MOST_READINGS: usize = 1000;
const MOST_DOCUMENTS: usize = 100;
/// The most builds whose steps are known to belong together.
const MOST_BUILDS: usize = 64;
/// The most shards whose names are kept to know that they need not be read.
const MOST_MERGED: usize = 256;
/// What a shard has at most when it is written: its readers take documents of 4 MiB.
const MOST_SHARD_BYTES: usize = 3 << 20;
/// What a shard may unpack to.
const SHARD_BYTES: u64 = 16 << 20;
/// What a pack may unpack to. It bounds what one index may have as well.
const PACK_BYTES: usize = 64 << 20;
/// A pack that has more takes no further index.
const FULL_PACK_BYTES: usize = 8 << 20;
const LEVEL: i32 = 3;

/// What a cache knows, merged from its shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) records: BTreeMap<Key, KnownRecord>,
    pub(super) layers: BTreeMap<DiffId, KnownLayer>,
    pub(super) builds: Vec<KnownBuild>,
    /// What keys needed to know of layers.
    pub(super) readings: BTreeMap<Key, Dated<Reading>>,
    /// Manifests and configs of the images that builds started from.
    pub(super) documents: BTreeMap<Digest, Dated<Vec<u8>>>,
    /// Names of shards that this one holds all of.
    pub(super) merged: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownRecord {
    pub(super) layer: DiffId,
    pub(super) created: String,
    pub(super) made_seconds: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownLayer {
    /// The blob, if it is here; those of bases are not.
    pub(super) blob: Option<Blob>,
    /// The pack that holds its index.
    pub(super) pack: Option<Blob>,
}

/// A blob in the repository of the cache.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Blob {
    media_type: String,
    digest: [u8; 32],
    size_bytes: u64,
}

/// Something that is the same whoever says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dated<T> {
    pub(super) value: T,
    /// When it was last written.
    pub(super) used_seconds: i64,
}

fn merge_dated<K: Ord, T>(known: &mut BTreeMap<K, Dated<T>>, other: BTreeMap<K, Dated<T>>) {
    for (key, found) in other {
        if known.get(&key).is_none_or(|known| known.used_seconds < found.used_seconds) {
            known.insert(key, found);
        }
    }
}

fn prune_dated<K: Ord + Copy, T>(known: &mut BTreeMap<K, Dated<T>>, oldest_seconds: i64, most: usize) {
    known.retain(|_, found| found.used_seconds >= oldest_seconds);
    let mut newest: Vec<(i64, K)> = known.iter().map(|(key, found)| (found.used_seconds, *key)).collect();
    newest.sort_unstable_by(|one, other| other.cmp(one));
    for (_, key) in newest.into_iter().skip(most) {
        known.remove(&key);
    }
}

/// What one build used, so that the next of the same finds all of it at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownBuild {
    /// Equal for builds of the same thing.
    pub(super) name: Digest,
    pub(super) made_seconds: i64,
    pub(super) keys: BTreeSet<Key>,
    pub(super) bases: BTreeSet<DiffId>,
    /// What it pushed.
    pub(super) image: Option<PushedImage>,
    /// Where to.
    pub(super) repositories: BTreeSet<String>,
    /// The parts of its keys.
    pub(super) parts: Option<Blob>,
}

impl From<&Descriptor> for Blob {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type.to_string(),
            digest: *descriptor.digest.as_bytes(),
            size_bytes: descriptor.size_bytes,
        }
    }
}

impl Blob {
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: MediaType::new(self.media_type.as_str()),
            digest: Digest::from_bytes(self.digest),
            size_bytes: self.size_bytes,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }
}

impl Known {
    /// What is known of a step; nothing if its layer is not here.
    pub(super) fn record(&self, key: Key) -> Option<Record> {
        let KnownRecord { layer, created, made_seconds } = self.records.get(&key)?;
        let blob = self.layers.get(layer)?.blob.as_ref()?.descriptor();
        Some(Record { diff_id: *layer, blob, created: created.clone(), made_seconds: *made_seconds })
    }

    /// Adds what another shard knows. Of what both know the newer counts.
    pub(super) fn merge(&mut self, other: Self) {
        for (key, record) in other.records {
            let known = self.records.entry(key).or_insert_with(|| record.clone());
            if (known.made_seconds, known.layer) < (record.made_seconds, record.layer) {
                *known = record;
            }
        }
        for (layer, found) in other.layers {
            let known = self.layers.entry(layer).or_default();
            known.blob = known.blob.take().or(found.blob);
            known.pack = known.pack.take().or(found.pack);
        }
        self.builds.extend(other.builds);
        merge_dated(&mut self.readings, other.readings);
        merge_dated(&mut self.documents, other.documents);
        self.merged.extend(other.merged);
        self.builds.sort_by_key(|build| std::cmp::Reverse(build.made_seconds));
        let mut seen = BTreeSet::new();
        self.builds.retain(|build| seen.insert(build.name));
    }

    /// Forgets what was made before `oldest_seconds`, and of what is too much that which no build has used for longest.
    pub(super) fn prune(&mut self, oldest_seconds: i64) {
        self.builds.truncate(MOST_BUILDS);
        self.records.retain(|_, record| record.made_seconds >= oldest_seconds);
        if self.records.len() > MOST_RECORDS {
            let mut last_use: BTreeMap<Key, i64> = self.records.iter().map(|(key, record)| (*key, record.made_seconds)).collect();
            for build in &self.builds {
                for key in &build.keys {
                    last_use.entry(*key).and_modify(|seconds| *seconds = build.made_seconds.max(*seconds));
                }
            }
            let mut newest: Vec<(i64, Key)> = last_use.into_iter().map(|(key, seconds)| (seconds, key)).collect();
            newest.sort_unstable_by(|one, other| other.cmp(one));
            for (_, key) in newest.drain(MOST_RECORDS..) {
                self.records.remove(&key);
            }
        }
        let records = &self.records;
        for build in &mut self.builds {
            build.keys.retain(|key| records.contains_key(key));
        }
        self.builds.retain(|build| !build.keys.is_empty() || !build.bases.is_empty());
        let used: BTreeSet<DiffId> = records
            .values()
            .map(|record| record.layer)
            .chain(self.builds.iter().flat_map(|build| build.bases.iter().copied()))
            .collect();
        self.layers.retain(|layer, _| used.contains(layer));
        prune_dated(&mut self.readings, oldest_seconds, MOST_READINGS);
        prune_dated(&mut self.documents, oldest_seconds, MOST_DOCUMENTS);
        while self.merged.len() > MOST_MERGED {
            // Names sort newest first.
            self.merged.pop_last();
        }
        self.fit();
    }

    /// Forgets what others can find out again, until no reader finds the rest too large.
    fn fit(&mut self) {
        let is_too_large = |known: &Self| known.encode().len() > MOST_SHARD_BYTES;
        if is_too_large(self) {
            self.documents.clear();
        }
        if is_too_large(self) {
            self.readings.clear();
        }
        while is_too_large(self) && !self.builds.is_empty() {
            self.builds.truncate(self.builds.len() / 2);
        }
    }

    /// The packs that builds of the same kind as this one needed: those of the newest build that knows the most of what is
    /// asked for.
    pub(super) fn packs_with(&self, keys: &BTreeSet<Key>, bases: &BTreeSet<DiffId>) -> BTreeSet<Blob> {
        let shared = |build: &&KnownBuild| build.keys.intersection(keys).count() + build.bases.intersection(bases).count();
        // The first of the best: they are sorted by time, newest first.
        let best = self.builds.iter().rev().max_by_key(shared).filter(|build| shared(build) > 0);
        let of_build = best.into_iter().flat_map(|build| {
            let steps = build.keys.iter().filter_map(|key| self.records.get(key)).map(|record| record.layer);
            steps.chain(build.bases.iter().copied())
        });
        let asked = keys.iter().filter_map(|key| self.records.get(key)).map(|record| record.layer).chain(bases.iter().copied());
        of_build.chain(asked).filter_map(|layer| self.layers.get(&layer)?.pack.clone()).collect()
    }

    /// All blobs that have to stay as long as this does.
    pub(super) fn blobs(&self) -> BTreeSet<Blob> {
        let layers = self.layers.values().flat_map(|layer| [layer.blob.clone(), layer.pack.clone()]);
        layers.chain(self.builds.iter().map(|build| build.parts.clone())).flatten().collect()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let plain = postcard::to_stdvec(self).expect("a shard holds only texts, numbers and lists");
        compress(&plain)
    }

    /// `None` for what is no shard.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let known: Self = postcard::from_bytes(&decompress(bytes, SHARD_BYTES).ok()?).ok()?;
        let sane = |blob: &Option<Blob>| blob.as_ref().is_none_or(|blob| i64::try_from(blob.size_bytes).is_ok());
        known.layers.values().all(|layer| sane(&layer.blob) && sane(&layer.pack)).then_some(known)
    }
}

/// Puts indexes into as few packs as their sizes allow. One that is too large for any pack is left out.
pub(super) fn pack(indexes: impl IntoIterator<Item = (DiffId, LayerIndex)>) -> Vec<(Vec<DiffId>, Vec<u8>)> {
    let mut packs = Vec::new();
    let mut open: (Vec<DiffId>, Vec<u8>) = Default::default();
    let mut close = |open: &mut (Vec<DiffId>, Vec<u8>)| {
        let (layers, plain) = std::mem::take(open);
        if !layers.is_empty() {
            packs.push((layers, compress(&plain)));
        }
    };
    for (layer, index) in indexes {
        let bytes = postcard::to_stdvec(&(layer, index)).expect("an index holds only bytes, numbers and lists");
        if bytes.len() > PACK_BYTES - FULL_PACK_BYTES - 16 {
            continue;
        }
        open.1.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        open.1.extend_from_slice(&bytes);
        open.0.push(layer);
        if open.1.len() >= FULL_PACK_BYTES {
            close(&mut open);
        }
    }
    close(&mut open);
    packs
}

/// A pack, unpacked: indexes as bytes, until somebody asks.
#[derive(Debug, Default)]
pub(super) struct Pack {
    plain: Vec<u8>,
    indexes: BTreeMap<DiffId, Range<usize>>,
}

impl Pack {
    /// Finds the indexes in a pack.
    pub(super) fn open(bytes: &[u8]) -> io::Result<Self> {
        let plain = decompress(bytes, PACK_BYTES as u64)?;
        let mut indexes = BTreeMap::new();
        let mut at = 0;
        while let Some((length, rest)) = plain[at..].split_first_chunk::<8>() {
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
            let entry = rest.get(..length).ok_or_else(|| io::Error::other("a pack ends too early"))?;
            at += 8;
            if let Ok((layer, after)) = postcard::take_from_bytes::<DiffId>(entry) {
                indexes.insert(layer, at + length - after.len()..at + length);
            }
            at += length;
        }
        Ok(Self { plain, indexes })
    }

    /// What a layer does; `None` if the pack does not say it in a way that can be believed.
    pub(super) fn index(&self, layer: DiffId) -> Option<LayerIndex> {
        let index = postcard::from_bytes(&self.plain[self.indexes.get(&layer)?.clone()]).ok()?;
        is_sound(layer, &index).then_some(index)
    }
}

/// Whether an index names clean paths, and no bytes but those of its layer: not files of this machine.
fn is_sound(layer: DiffId, index: &LayerIndex) -> bool {
    let clean = |path: &TreePath| TreePath::parse(path.as_bytes()).is_ok_and(|parsed| parsed == *path);
    index.changes.iter().all(|change| {
        let sound = match change {
            Change::Put { entry, .. } => {
                let own = entry.file().is_none_or(|file| match &file.content {
                    Content::Layer { diff_id, .. } => *diff_id == layer,
                    Content::Inline(bytes) => bytes.len() as u64 == file.size_bytes,
                    Content::Host { .. } | Content::Range { .. } => false,
                });
                own && entry.mode <= 0o7777
            }
            Change::Link { target, .. } => clean(target) && !target.is_root(),
            Change::Remove { path } => !path.is_root(),
            Change::Opaque { .. } => true,
        };
        sound && clean(change.path())
    })
}

pub(super) fn compress(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, LEVEL).expect("bytes in memory can be compressed")
}

pub(super) fn decompress(bytes: &[u8], limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    zstd::stream::read::Decoder::new(bytes)?.take(limit_bytes + 1).read_to_end(&mut plain)?;
    if plain.len() as u64 > limit_bytes {
        return Err(io::Error::other("it unpacks to more than it may"));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KeyBuilder;
    use crate::tree::{Entry, Node, SourceId, text};

    fn key(name: &str) -> Key {
        KeyBuilder::new(name, None).finish()
    }

    fn blob(name: &str) -> Blob {
        Blob::from(&Descriptor::of("x", name.as_bytes()))
    }

    fn layer(name: &str) -> DiffId {
        DiffId(Digest::of(name.as_bytes()))
    }

    fn known(name: &str, made_seconds: i64) -> Known {
        let record = KnownRecord { layer: layer(name), created: "2020-01-01T00:00:00Z".to_owned(), made_seconds };
        let found = KnownLayer { blob: Some(blob(name)), pack: Some(blob(&format!("pack of {name}"))) };
        Known {
            records: BTreeMap::from([(key(name), record)]),
            layers: BTreeMap::from([(layer(name), found)]),
            readings: BTreeMap::new(),
            documents: BTreeMap::new(),
            builds: vec![KnownBuild {
                name: Digest::of(name.as_bytes()),
                made_seconds,
                keys: BTreeSet::from([key(name)]),
                bases: BTreeSet::new(),
                image: None,
                repositories: BTreeSet::new(),
                parts: None,
            }],
            merged: BTreeSet::new(),
        }
    }

    #[test]
    fn a_shard_is_read_as_it_was_written_and_a_damaged_one_panics_nobody() {
        let whole = known("a", 1);
        let bytes = whole.encode();
        assert_eq!(Known::decode(&bytes), Some(whole));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            let _ = Known::decode(&damaged);
            assert_eq!(Known::decode(&bytes[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn merged_shards_know_what_each_knew_in_any_order() {
        let mut one = known("a", 1);
        one.merge(known("b", 2));
        let mut other = known("b", 2);
        other.merge(known("a", 1));
        assert_eq!(one, other);
        assert_eq!(one.records.len(), 2);
        assert_eq!(one.record(key("a")).unwrap().diff_id, layer("a"));
    }

    #[test]
    fn what_is_old_is_forgotten_with_everything_that_only_it_needs() {
        let mut cache = known("old", 10);
        cache.merge(known("new", 20));
        cache.prune(11);
        assert_eq!(cache, known("new", 20));
    }

    #[test]
    fn a_cache_does_not_grow_without_end() {
        let mut cache = Known::default();
        for at in 0..MOST_RECORDS + 10 {
            cache.merge(known(&at.to_string(), i64::try_from(at / 4).unwrap()));
        }
        cache.merged = (0..1000).map(|at| format!("{at:04}")).collect();
        // Made long ago, and the newest build uses it.
        cache.builds[0].keys.insert(key("2"));
        cache.prune(0);
        assert!(cache.records.contains_key(&key("2")));
        assert_eq!((cache.records.len(), cache.builds.len()), (MOST_RECORDS, MOST_BUILDS));
        assert_eq!((cache.merged.len(), cache.merged.first().map(String::as_str)), (MOST_MERGED, Some("0000")));
        assert!(cache.records.contains_key(&key("1009")) && !cache.records.contains_key(&key("0")));
    }

    #[test]
    fn the_packs_of_a_whole_build_are_known_from_one_of_its_steps() {
        let mut cache = known("a", 1);
        cache.merge(known("b", 1));
        cache.merge(known("c", 1));
        cache.builds.truncate(1);
        cache.builds[0].keys = BTreeSet::from([key("a"), key("b")]);
        assert_eq!(
            cache.packs_with(&BTreeSet::from([key("b")]), &BTreeSet::new()),
            BTreeSet::from([blob("pack of a"), blob("pack of b")])
        );
        assert_eq!(cache.packs_with(&BTreeSet::from([key("c")]), &BTreeSet::new()), BTreeSet::from([blob("pack of c")]));
    }

    #[test]
    fn indexes_come_out_of_a_pack_as_they_went_in() {
        let own = |name: &str| {
            let mut changes = text::parse("a 0644 0:0 @7 \"x\"\nb = a\n- c\nd -> e").unwrap();
            for change in &mut changes {
                if let Some(file) = change.file_mut() {
                    file.content = Content::Layer { diff_id: layer(name), offset_bytes: 512 };
                }
            }
            (layer(name), LayerIndex { changes })
        };
        let indexes = vec![own("a"), own("b")];
        let packs = pack(indexes.clone());
        assert_eq!(packs.len(), 1);
        assert_eq!(packs[0].0, [layer("a"), layer("b")]);
        let pack = Pack::open(&packs[0].1).unwrap();
        for (layer, index) in indexes {
            assert_eq!(pack.index(layer), Some(index));
        }
        assert_eq!(pack.index(layer("c")), None);
        assert!(Pack::open(&packs[0].1[..packs[0].1.len() / 2]).is_err());
    }

    #[test]
    fn an_index_that_speaks_of_other_files_than_those_of_its_layer_does_not_count() {
        let file = |content| Entry {
            node: Node::File(crate::tree::File { size_bytes: 1, digest: None, content }),
            ..Entry::directory(crate::tree::Timestamp::default())
        };
        let host = Content::Host { source: SourceId(0), path: TreePath::clamp("etc/shadow") };
        let range = Content::Range { source: SourceId(0), offset_bytes: 0 };
        let other = Content::Layer { diff_id: layer("other"), offset_bytes: 0 };
        let long = Content::Inline(vec![0; 2].into());
        for content in [host, range, other, long] {
            let changes = vec![Change::put(TreePath::clamp("a"), file(content))];
            let packs = pack([(layer("a"), LayerIndex { changes })]);
            assert_eq!(Pack::open(&packs[0].1).unwrap().index(layer("a")), None);
        }
        // A path is bytes on the wire.
        let changes = vec![Change::Remove { path: TreePath::clamp("xx/yyy") }];
        let mut hostile = postcard::to_stdvec(&(layer("a"), LayerIndex { changes })).unwrap();
        let at = hostile.windows(6).position(|window| window == b"xx/yyy").unwrap();
        hostile[at..at + 6].copy_from_slice(b"../../");
        let plain = [&(hostile.len() as u64).to_le_bytes()[..], &hostile].concat();
        assert_eq!(Pack::open(&compress(&plain)).unwrap().index(layer("a")), None);
    }

    #[test]
    fn nothing_unpacks_to_more_than_it_may() {
        assert!(decompress(&compress(&vec![0; 2000]), 1999).is_err());
        assert_eq!(decompress(&compress(&vec![0; 2000]), 2000).unwrap().len(), 2000);
    }
}
