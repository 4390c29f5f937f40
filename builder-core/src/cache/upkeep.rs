//! What a cache in an OCI layout holds, and which of it goes: what was not used for longest, then what nothing names any more.
//!
//! Builds may run meanwhile. If one uses the cache, what it may rely on stays for a day, and goes with a later build or the
//! next time; what a build adds that had read the cache before is named again.

use super::depot::{config_of, manifest};
use super::layout::{DOCUMENT_BYTES, Layout, UNNAMED_LIFE, rename};
use super::shard::{Blob, Known, KnownBuild, SHARD_TYPE};
use super::shared::{NAMESPACE, is_shard, seconds_now, shard_name};
use crate::oci::{Descriptor, DiffId, Digest};
use crate::store::PrunePolicy;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A cache in a directory, to be looked at and made smaller.
#[derive(Debug)]
pub struct LayoutCache {
    path: PathBuf,
}

/// What an entry of a cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayoutEntryKind {
    /// A layer that steps have made.
    Layer,
    /// What belongs together, and what explains it.
    Build,
    /// What layers do.
    Index,
    /// What says all this.
    Shard,
    /// What nothing names, or was never finished.
    Unnamed,
}

impl LayoutEntryKind {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Layer, Self::Build, Self::Index, Self::Shard, Self::Unnamed];

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Build => "build",
            Self::Index => "layer indexes",
            Self::Shard => "shard",
            Self::Unnamed => "unnamed",
        }
    }
}

/// Something that a cache holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutEntry {
    /// What it is.
    pub kind: LayoutEntryKind,
    /// Its name among those of its kind.
    pub name: String,
    /// What is known of it.
    pub description: Option<String>,
    /// Of its file.
    pub size_bytes: u64,
    /// When it was last used or written, as far as that is known.
    pub last_used: SystemTime,
    /// The names of the indexes that it needs.
    needs: BTreeSet<String>,
}

/// What went.
#[derive(Debug, Default)]
pub struct LayoutPruned {
    /// What went.
    pub removed: Vec<LayoutEntry>,
    /// What is found no more and goes in a day, as a build may rely on it.
    pub later: Vec<LayoutEntry>,
    /// The size of what stays.
    pub kept_bytes: u64,
}

/// Why a cache cannot be looked at or made smaller.
#[derive(Debug, thiserror::Error)]
pub enum LayoutCacheError {
    /// It is something else, or nothing.
    #[error("{} is no cache of builds", .0.display())]
    NoCache(PathBuf),
    /// The file system refused.
    #[error("cannot {action} the cache in {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Everything that a cache holds.
struct Survey {
    known: Known,
    /// The names of the shards.
    shards: BTreeSet<String>,
    entries: Vec<LayoutEntry>,
}

impl LayoutCache {
    /// The cache at `path`; nothing is read yet.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// What the cache holds, in no order. Images that are in the same layout do not belong to it.
    ///
    /// # Errors
    /// [`LayoutCacheError`] if there is no cache of ours, or it cannot be read.
    pub fn entries(&self) -> Result<Vec<LayoutEntry>, LayoutCacheError> {
        let failed = |source| LayoutCacheError::Io { action: "read", path: self.path.clone(), source };
        let survey = survey(&Layout::new(self.path.clone())).map_err(failed)?;
        survey.map(|survey| survey.entries).ok_or_else(|| LayoutCacheError::NoCache(self.path.clone()))
    }

    /// Removes layers and builds as `policy` says, and everything that nothing names and no build may be about to name.
    ///
    /// # Errors
    /// [`LayoutCacheError`] if there is no cache of ours, or it cannot be read or written.
    pub fn prune(&self, policy: PrunePolicy) -> Result<LayoutPruned, LayoutCacheError> {
        // Before anything is made there, a lock included.
        self.entries()?;
        let failed = |source| LayoutCacheError::Io { action: "change", path: self.path.clone(), source };
        prune(&Layout::new(self.path.clone()), policy).map_err(failed)
    }
}

fn prune(layout: &Layout, policy: PrunePolicy) -> io::Result<LayoutPruned> {
    let is_alone = layout.hold_alone();
    let _lock = layout.lock()?;
    let Some(survey) = survey(layout)? else { return Ok(LayoutPruned::default()) };
    let goes: Vec<LayoutEntry> = choose(&survey.entries, policy, is_alone, SystemTime::now());
    let (unnamed, named): (Vec<_>, Vec<_>) = goes.into_iter().partition(|entry| entry.kind == LayoutEntryKind::Unnamed);
    let total = |entries: &[LayoutEntry]| entries.iter().map(|entry| entry.size_bytes).sum::<u64>();
    let mut pruned = LayoutPruned { removed: unnamed, later: Vec::new(), kept_bytes: 0 };
    if !policy.dry_run {
        for entry in &pruned.removed {
            remove(&layout.path.join(&entry.name))?;
        }
        if !named.is_empty() {
            forget(layout, survey.known, &survey.shards, &named, is_alone)?;
        }
    }
    if is_alone {
        pruned.removed.splice(0..0, named)
    } else {
        pruned.later.splice(0..0, named)
    };
    let left = if policy.dry_run { None } else { self::survey(layout)? };
    pruned.kept_bytes = left.map_or(total(&survey.entries) - total(&pruned.removed), |left| total(&left.entries));
    Ok(pruned)
}

/// Writes a shard without `gone` in the place of all others. The blobs that nothing names from then on go, or get young.
fn forget(layout: &Layout, mut known: Known, shards: &BTreeSet<String>, gone: &[LayoutEntry], is_alone: bool) -> io::Result<()> {
    let names =
        |kind| gone.iter().filter(move |entry| entry.kind == kind).map(|entry| entry.name.clone()).collect::<BTreeSet<_>>();
    let (layers, builds) = (names(LayoutEntryKind::Layer), names(LayoutEntryKind::Build));
    let is_gone = |layer: &DiffId| layers.contains(&layer.0.hex());
    known.records.retain(|_, record| !is_gone(&record.layer));
    known.builds.retain(|build| !builds.contains(&build.name.hex()));
    for (_, layer) in known.layers.iter_mut().filter(|(layer, _)| is_gone(layer)) {
        layer.blob = None;
    }
    known.merged.extend(shards.iter().cloned());
    known.prune(i64::MIN);

    let before = layout.named(&layout.read_index()?)?;
    let config = known.encode();
    let document = manifest(&Descriptor::of(SHARD_TYPE, &config), &config, &known.blobs());
    layout.write_blob(&config)?;
    layout.write_blob(&document)?;
    let name = shard_name(NAMESPACE, seconds_now(), &known);
    layout.change_locked(|entries| rename(entries, shards, &name, Digest::of(&document), document.len()))?;
    if !is_alone {
        return layout.make_unnamed_young(&before);
    }
    for name in before.difference(&layout.named(&layout.read_index()?)?) {
        remove(&layout.path.join("blobs/sha256").join(name))?;
    }
    Ok(())
}

/// `None` if there is no shard. What is named like one and cannot be read is one too.
fn survey(layout: &Layout) -> io::Result<Option<Survey>> {
    let mut survey = Survey { known: Known::default(), shards: BTreeSet::new(), entries: Vec::new() };
    let mut is_cache = false;
    for name in layout.listed()?.into_iter().filter(|name| name != NAMESPACE && is_shard(name, NAMESPACE)) {
        let mut entry = LayoutEntry {
            kind: LayoutEntryKind::Shard,
            name: name.clone(),
            description: None,
            size_bytes: 0,
            last_used: UNIX_EPOCH,
            needs: BTreeSet::new(),
        };
        if let Some((document, digest)) = layout.manifest(&name)? {
            let Some((config, embedded)) = config_of(&document) else { continue };
            let bytes = match embedded {
                Some(bytes) => Some(bytes.to_vec()),
                None => layout.read_blob(config.digest, DOCUMENT_BYTES)?,
            };
            if let Some(known) = bytes.and_then(|bytes| Known::decode(&bytes)) {
                survey.known.merge(known);
            }
            (entry.size_bytes, entry.last_used) = file(layout, digest);
            entry.size_bytes += file(layout, config.digest).0;
            is_cache = true;
        }
        survey.shards.insert(name);
        survey.entries.push(entry);
    }
    if !is_cache {
        return Ok(None);
    }
    survey.entries.extend(named_entries(layout, &survey.known));
    for (path, found) in layout.unnamed()? {
        survey.entries.push(LayoutEntry {
            kind: LayoutEntryKind::Unnamed,
            name: path.strip_prefix(&**layout.path).unwrap_or(&path).to_string_lossy().into_owned(),
            description: None,
            size_bytes: found.len(),
            last_used: found.modified()?,
            needs: BTreeSet::new(),
        });
    }
    Ok(Some(survey))
}

/// The layers, the builds and the indexes that shards speak of.
fn named_entries(layout: &Layout, known: &Known) -> Vec<LayoutEntry> {
    let digest = |blob: &Blob| blob.descriptor().digest;
    let pack = |layer: &DiffId| known.layers.get(layer).and_then(|layer| layer.pack.as_ref()).map(|pack| digest(pack).hex());
    let mut layers = BTreeMap::new();
    for (layer, blob) in known.layers.iter().filter_map(|(layer, known)| Some((layer, known.blob.as_ref()?))) {
        let records = known.records.values().filter(|record| record.layer == *layer);
        let (steps, made) = records.fold((0, i64::MIN), |(steps, made), record| (steps + 1, made.max(record.made_seconds)));
        let (size_bytes, used) = file(layout, digest(blob));
        let entry = LayoutEntry {
            kind: LayoutEntryKind::Layer,
            name: layer.0.hex(),
            description: Some(counted(steps, "step", "steps")),
            size_bytes,
            last_used: used.max(time(made)),
            needs: pack(layer).into_iter().collect(),
        };
        layers.insert(*layer, entry);
    }
    let build = |build: &KnownBuild| {
        let made = build.keys.iter().filter_map(|key| layers.get(&known.records.get(key)?.layer));
        LayoutEntry {
            kind: LayoutEntryKind::Build,
            name: build.name.hex(),
            description: Some(format!(
                "{}, {} of base images",
                counted(build.keys.len(), "step", "steps"),
                counted(build.bases.len(), "layer", "layers")
            )),
            size_bytes: build.parts.as_ref().map_or(0, |parts| file(layout, digest(parts)).0),
            last_used: made.map(|layer| layer.last_used).chain([time(build.made_seconds)]).max().unwrap_or(UNIX_EPOCH),
            needs: build.bases.iter().filter_map(pack).collect(),
        }
    };
    let mut entries: Vec<LayoutEntry> = known.builds.iter().map(build).collect();
    let packs: BTreeSet<Digest> = known.layers.values().filter_map(|layer| layer.pack.as_ref().map(digest)).collect();
    for pack in packs {
        let (size_bytes, last_used) = file(layout, pack);
        let (kind, name) = (LayoutEntryKind::Index, pack.hex());
        entries.push(LayoutEntry { kind, name, description: None, size_bytes, last_used, needs: BTreeSet::new() });
    }
    entries.extend(layers.into_values());
    entries
}

/// What goes, first what goes first. Pure.
fn choose(entries: &[LayoutEntry], policy: PrunePolicy, is_alone: bool, now: SystemTime) -> Vec<LayoutEntry> {
    let age = |entry: &LayoutEntry| now.duration_since(entry.last_used).unwrap_or_default();
    let of = |kind| entries.iter().filter(move |entry: &&LayoutEntry| entry.kind == kind);
    let mut chosen: Vec<LayoutEntry> =
        of(LayoutEntryKind::Unnamed).filter(|entry| is_alone || age(entry) > UNNAMED_LIFE).cloned().collect();
    let mut left: u64 = entries.iter().map(|entry| entry.size_bytes).sum();
    left -= chosen.iter().map(|entry| entry.size_bytes).sum::<u64>();
    let mut users: BTreeMap<&str, usize> = BTreeMap::new();
    for index in entries.iter().flat_map(|entry| &entry.needs) {
        *users.entry(index).or_default() += 1;
    }
    let mut candidates: Vec<&LayoutEntry> = of(LayoutEntryKind::Layer).chain(of(LayoutEntryKind::Build)).collect();
    candidates.retain(|entry| policy.unused_for.is_none_or(|unused| age(entry) >= unused));
    candidates.sort_by_key(|entry| (entry.last_used, entry.kind, &entry.name));
    for entry in candidates {
        if policy.keep_bytes.is_some_and(|keep| left <= keep) {
            break;
        }
        let mut goes = vec![entry];
        for index in &entry.needs {
            let users = users.entry(index).or_default();
            *users = users.saturating_sub(1);
            goes.extend(of(LayoutEntryKind::Index).filter(|entry| *users == 0 && entry.name == *index));
        }
        left -= goes.iter().map(|entry| entry.size_bytes).sum::<u64>();
        chosen.extend(goes.into_iter().cloned());
    }
    chosen
}

/// The size of a blob, and when it was written or last used; nothing if it is gone.
fn file(layout: &Layout, digest: Digest) -> (u64, SystemTime) {
    let found = fs::metadata(layout.blob_path(digest)).and_then(|found| Ok((found.len(), found.modified()?)));
    found.unwrap_or((0, UNIX_EPOCH))
}

fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::LayoutEntryKind::{Build, Index, Layer, Shard, Unnamed};
    use super::*;

    #[test]
    fn the_least_recently_used_go_first_and_an_index_with_the_last_that_needs_it() {
        let entry = |kind, name: &str, size_bytes, hours, needs: &str| LayoutEntry {
            kind,
            name: name.to_owned(),
            description: None,
            size_bytes,
            last_used: UNIX_EPOCH + Duration::from_hours(hours),
            needs: needs.chars().map(String::from).collect(),
        };
        let entries = [
            entry(Layer, "a", 100, 50, "p"),
            entry(Layer, "b", 100, 10, "p"),
            entry(Layer, "c", 100, 20, "q"),
            entry(Build, "d", 1, 50, "q"),
            entry(Index, "p", 10, 99, ""),
            entry(Index, "q", 10, 99, ""),
            entry(Shard, "s", 5, 99, ""),
            entry(Unnamed, "t", 100, 70, ""),
            entry(Unnamed, "u", 100, 90, ""),
        ];
        for (keep_bytes, unused_hours, is_alone, expected) in [
            (Some(1000), None, true, "tu"),
            (Some(1000), None, false, "t"),
            (Some(326), None, true, "tu"),
            (Some(325), None, true, "tub"),
            (Some(325), None, false, "tbc"),
            (Some(200), None, true, "tubc"),
            (Some(0), None, true, "tubcapdq"),
            (None, Some(80), true, "tubc"),
            (Some(0), Some(85), true, "tub"),
            (None, None, true, "tubcapdq"),
        ] {
            let unused_for = unused_hours.map(Duration::from_hours);
            let policy = PrunePolicy { keep_bytes, unused_for, dry_run: false };
            let now = UNIX_EPOCH + Duration::from_hours(100);
            let chosen: String = choose(&entries, policy, is_alone, now).into_iter().map(|entry| entry.name).collect();
            assert_eq!(chosen, expected, "{keep_bytes:?} {unused_hours:?} {is_alone}");
        }
    }
}
