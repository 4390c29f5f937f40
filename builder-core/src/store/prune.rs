//! What a store keeps, and which of it goes: least recently used first, and never what a build in progress has used.

use super::{
    BaseRecord, Store, StoreError,
    uses::{LockFor, USED, last_use},
    workspace::{is_same_file, remove_tree},
};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// What a step led to.
    Step,
    /// Which blobs hold a layer.
    Layer,
    /// What the last build of a name depended on.
    Parts,
    /// What keys of steps need to know of layers.
    Reading,
    /// What the last build of a name pushed to a repository.
    Image,
    /// What a base image is made of.
    Base,
    /// What a layer does.
    Index,
    /// A directory with an unpacked layer of an image.
    Unpacked,
    /// A directory of `RUN --mount=type=cache`.
    CacheMount,
    /// A layer, a document or a download.
    Blob,
}

impl EntryKind {
    /// Each of them.
    pub const ALL: [Self; 10] = [
        Self::Blob,
        Self::Unpacked,
        Self::CacheMount,
        Self::Index,
        Self::Step,
        Self::Layer,
        Self::Parts,
        Self::Reading,
        Self::Image,
        Self::Base,
    ];

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Layer => "layer record",
            Self::Parts => "explanation",
            Self::Reading => "reading",
            Self::Image => "pushed image",
            Self::Base => "base",
            Self::Index => "layer index",
            Self::Unpacked => "unpacked layer",
            Self::CacheMount => "cache mount",
            Self::Blob => "blob",
        }
    }

    /// Its directory in the store.
    fn directory(self) -> &'static str {
        match self {
            Self::Step => "steps",
            Self::Layer => "layers",
            Self::Parts => "parts",
            Self::Reading => "readings",
            Self::Image => "images",
            Self::Base => "bases",
            Self::Index => "indexes",
            Self::Unpacked => "unpacked",
            Self::CacheMount => "caches",
            Self::Blob => "blobs/sha256",
        }
    }
}

/// Something that a store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Its name among those of its kind: hex digits.
    pub name: String,
    /// What people call it, if that is known: the image that a blob is of, the id of a cache.
    pub description: Option<String>,
    /// Of the file, or of all files in the directory.
    pub size_bytes: u64,
    /// When it was last used or written.
    pub last_used: SystemTime,
    /// Whether a build in progress has used it.
    pub in_use: bool,
    /// Entries without which this one is worth nothing: one of these blobs.
    needs: BTreeSet<String>,
}

/// Which entries go. Those in use stay in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Only as many, least recently used first, as it takes to get down to this size; all if not given.
    pub keep_bytes: Option<u64>,
    /// Only those that were not used for so long.
    pub unused_for: Option<Duration>,
    /// Says what would go and removes nothing.
    pub dry_run: bool,
}

/// What went.
#[derive(Debug, Default)]
pub struct Pruned {
    /// The entries, in the order in which they went.
    pub removed: Vec<Entry>,
    /// Those that should have gone and could not be removed.
    pub failed: Vec<(Entry, StoreError)>,
    /// The size of what stays.
    pub kept_bytes: u64,
}

impl Pruned {
    /// The size of what went.
    pub fn freed_bytes(&self) -> u64 {
        self.removed.iter().map(|entry| entry.size_bytes).sum()
    }
}

impl Store {
    /// What the store keeps, in no order. What appears or goes meanwhile may be missing. Looking at an entry is no use of it.
    ///
    /// # Errors
    /// [`StoreError`] if a directory cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let oldest = self.oldest_build();
        let mut entries = Vec::new();
        for kind in EntryKind::ALL {
            let directory = self.root().join(kind.directory());
            let names = fs::read_dir(&directory).map_err(|error| StoreError::io("read", &directory, error))?;
            for name in names.flatten() {
                let Ok(name) = name.file_name().into_string() else { continue };
                if kind == EntryKind::CacheMount && name.contains('.') {
                    continue;
                }
                let path = directory.join(&name);
                let Some(last_used) = last_use_of(kind, &path) else { continue };
                let in_use = match kind {
                    EntryKind::CacheMount => !is_free(&path.with_extension("lock")),
                    _ => oldest.is_some_and(|oldest| last_used >= oldest),
                };
                let size_bytes =
                    if path.is_dir() { size_of(&path) } else { fs::symlink_metadata(&path).map_or(0, |file| file.len()) };
                entries.push(Entry { kind, name, description: None, size_bytes, last_used, in_use, needs: BTreeSet::new() });
            }
        }
        self.describe(&mut entries);
        Ok(entries)
    }

    /// Removes entries. Builds may run: what they have used stays, and what they look for later is a miss.
    ///
    /// # Errors
    /// [`StoreError`] if a directory cannot be read, or the file system has no locks, without which nobody can tell what is
    /// in use.
    pub fn prune(&self, policy: PrunePolicy) -> Result<Pruned, StoreError> {
        drop(self.lock(LockFor::Change)?);
        let entries = self.entries()?;
        let total: u64 = entries.iter().map(|entry| entry.size_bytes).sum();
        let mut pruned = Pruned::default();
        for at in choose(&entries, policy, SystemTime::now()) {
            let entry = &entries[at];
            match if policy.dry_run { Ok(true) } else { self.remove(entry) } {
                Ok(true) => pruned.removed.push(entry.clone()),
                Ok(false) => {}
                Err(error) => pruned.failed.push((entry.clone(), error)),
            }
        }
        pruned.kept_bytes = total.saturating_sub(pruned.freed_bytes());
        Ok(pruned)
    }

    /// Removes an entry, unless somebody has used it since it was looked at. Says whether it went.
    fn remove(&self, entry: &Entry) -> Result<bool, StoreError> {
        let path = self.root().join(entry.kind.directory()).join(&entry.name);
        if entry.kind == EntryKind::CacheMount {
            return self.remove_cache(&path);
        }
        let lock = self.lock(LockFor::Change)?;
        if last_use_of(entry.kind, &path) != Some(entry.last_used) {
            return Ok(false);
        }
        let failed = |error| StoreError::io("remove", &path, error);
        self.forget_use(&path);
        if entry.kind != EntryKind::Unpacked {
            return fs::remove_file(&path).map(|()| true).map_err(failed);
        }
        let away = self.move_away(&path)?;
        // From here on nobody finds it, and nobody has to wait for the rest.
        drop(lock);
        remove_tree(&away).map(|()| true).map_err(failed)
    }

    /// Removes the directory of a cache, unless a step has it.
    fn remove_cache(&self, path: &Path) -> Result<bool, StoreError> {
        let lock_path = path.with_extension("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|error| StoreError::io("open the lock file", &lock_path, error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_same_file(&lock, &lock_path) => {}
            Ok(()) | Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(StoreError::io("lock", &lock_path, errno.into())),
        }
        let away = self.move_away(path)?;
        // Whoever waits for this lock sees that it is not the file of that name any more.
        for end in ["exported", "lock"] {
            let _ = fs::remove_file(path.with_extension(end));
        }
        drop(lock);
        remove_tree(&away).map(|()| true).map_err(|error| StoreError::io("remove", path, error))
    }

    /// Puts a directory to what goes with this process.
    fn move_away(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let name = path.file_name().unwrap_or_default();
        let away = self.shared.staging.path().join(name);
        fs::rename(path, &away).map_err(|error| StoreError::io("remove", path, error))?;
        Ok(away)
    }

    /// Adds what people call the entries, and which of them need which blobs.
    fn describe(&self, entries: &mut [Entry]) {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let read = |kind: EntryKind, name: &str| read_unnoticed(&self.root().join(kind.directory()).join(name));
        for entry in entries.iter_mut().filter(|entry| entry.kind == EntryKind::Base) {
            let Some(base) =
                read(EntryKind::Base, &entry.name).and_then(|bytes| serde_json::from_slice::<BaseRecord>(&bytes).ok())
            else {
                continue;
            };
            let name = format!("{} for {}", base.reference, base.platform);
            for blob in base.layers.iter().chain([&base.manifest, &base.config]) {
                names.entry(blob.hex()).or_insert_with(|| format!("of {name}"));
            }
            entry.description = Some(name);
        }
        for entry in entries.iter_mut().filter(|entry| matches!(entry.kind, EntryKind::Step | EntryKind::Layer)) {
            let record = read(entry.kind, &entry.name).and_then(|bytes| serde_json::from_slice(&bytes).ok());
            entry.needs = record.as_ref().map(blobs_in).unwrap_or_default();
            if entry.kind == EntryKind::Step {
                for blob in &entry.needs {
                    names.entry(blob.clone()).or_insert_with(|| "made by a step".to_owned());
                }
            }
        }
        for entry in entries.iter_mut() {
            match entry.kind {
                EntryKind::Blob => entry.description = names.get(&entry.name).cloned(),
                EntryKind::CacheMount => {
                    let id = entry.name.split('-').next().unwrap_or_default();
                    let id = read_unnoticed(&self.root().join(EntryKind::CacheMount.directory()).join(format!("{id}.id")));
                    entry.description = id.and_then(|bytes| String::from_utf8(bytes).ok());
                }
                _ => {}
            }
        }
    }
}

/// The entries that go, as places in the list, first the one that goes first. Pure.
fn choose(entries: &[Entry], policy: PrunePolicy, now: SystemTime) -> Vec<usize> {
    let total: u64 = entries.iter().map(|entry| entry.size_bytes).sum();
    let is_unused = |entry: &Entry| match policy.unused_for {
        Some(age) => now.duration_since(entry.last_used).is_ok_and(|unused| unused >= age),
        None => true,
    };
    let mut candidates: Vec<usize> = (0..entries.len()).filter(|at| !entries[*at].in_use && is_unused(&entries[*at])).collect();
    candidates.sort_by_key(|at| (entries[*at].last_used, entries[*at].kind, &entries[*at].name));
    let mut left = total;
    let mut chosen: Vec<usize> = candidates
        .into_iter()
        .take_while(|at| {
            let goes = policy.keep_bytes.is_none_or(|keep| left > keep);
            left -= if goes { entries[*at].size_bytes } else { 0 };
            goes
        })
        .collect();
    // What speaks of blobs that are gone is worth nothing.
    let gone: HashSet<usize> = chosen.iter().copied().collect();
    let blobs: HashSet<&str> = (0..entries.len())
        .filter(|at| entries[*at].kind == EntryKind::Blob && !gone.contains(at))
        .map(|at| entries[at].name.as_str())
        .collect();
    let is_worthless = |entry: &Entry| !entry.needs.is_empty() && entry.needs.iter().all(|blob| !blobs.contains(blob.as_str()));
    chosen.extend((0..entries.len()).filter(|at| !gone.contains(at) && !entries[*at].in_use && is_worthless(&entries[*at])));
    chosen
}

/// When an entry was last used; `None` if it is not there.
fn last_use_of(kind: EntryKind, path: &Path) -> Option<SystemTime> {
    let modified = |path: &Path| fs::symlink_metadata(path).and_then(|found| found.modified()).ok();
    match kind {
        EntryKind::Unpacked => modified(&path.join(USED)).or_else(|| modified(path)),
        EntryKind::CacheMount => modified(path).map(|made| modified(&path.with_extension("lock")).unwrap_or(made)),
        _ => fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map(|found| last_use(&found)),
    }
}

/// Whether nobody holds this lock.
fn is_free(lock: &Path) -> bool {
    match File::options().write(true).open(lock) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// All that lies in a directory; a file of several names counts once, and what cannot be read not at all.
fn size_of(directory: &Path) -> u64 {
    let mut size_bytes = 0;
    let mut seen = HashSet::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                open.push(entry.path());
            } else if found.nlink() == 1 || seen.insert((found.dev(), found.ino())) {
                size_bytes += found.len();
            }
        }
    }
    size_bytes
}

/// Reads a small file of the store without that being a use of it, where the kernel lets us.
fn read_unnoticed(path: &Path) -> Option<Vec<u8>> {
    let open = |flags| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty());
    let file = open(OFlags::NOATIME).or_else(|_| open(OFlags::empty())).ok()?;
    let mut bytes = Vec::new();
    File::from(file).take(1 << 20).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The digests of the descriptors in a record, whatever its form.
fn blobs_in(record: &serde_json::Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![record];
    while let Some(value) = open.pop() {
        match value {
            serde_json::Value::Object(fields) => {
                let digest = fields.get("digest").filter(|_| fields.contains_key("size")).and_then(|digest| digest.as_str());
                found.extend(digest.and_then(|digest| digest.strip_prefix("sha256:")).map(str::to_owned));
                open.extend(fields.values());
            }
            serde_json::Value::Array(values) => open.extend(values),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Sharing;
    use super::*;
    use crate::oci::{Descriptor, DiffId, Digest};
    use crate::tree::LayerIndex;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn entry(kind: EntryKind, name: &str, size_bytes: u64, last_used: u64) -> Entry {
        let (name, last_used) = (name.to_owned(), at(last_used));
        Entry { kind, name, description: None, size_bytes, last_used, in_use: false, needs: BTreeSet::new() }
    }

    #[test]
    fn the_least_recently_used_go_first_and_what_is_in_use_stays() {
        let needing = |entry: Entry, blob: &str| Entry { needs: [blob.to_owned()].into(), ..entry };
        let entries = [
            entry(EntryKind::Blob, "a", 100, 50),
            entry(EntryKind::Blob, "b", 100, 10),
            Entry { in_use: true, ..entry(EntryKind::Unpacked, "c", 100, 5) },
            needing(entry(EntryKind::Step, "d", 1, 10), "b"),
            needing(entry(EntryKind::Layer, "e", 1, 60), "b"),
            needing(entry(EntryKind::Step, "f", 1, 55), "a"),
            entry(EntryKind::CacheMount, "g", 100, 30),
        ];
        let policy = |keep_bytes: Option<u64>, unused_for: Option<u64>| PrunePolicy {
            keep_bytes,
            unused_for: unused_for.map(Duration::from_secs),
            dry_run: false,
        };
        for (keep_bytes, unused_for, expected) in [
            (Some(1000), None, ""),
            (Some(402), None, "d"),
            (Some(400), None, "dbe"),
            (Some(250), None, "dbge"),
            (Some(0), None, "dbgafe"),
            (None, Some(70), "dbge"),
            (None, Some(1000), ""),
            (Some(302), Some(70), "dbe"),
            (Some(0), Some(85), "dbe"),
            (None, None, "dbgafe"),
        ] {
            let chosen = choose(&entries, policy(keep_bytes, unused_for), at(100));
            let chosen: String = chosen.into_iter().map(|at| entries[at].name.as_str()).collect();
            assert_eq!(chosen, expected, "{keep_bytes:?} {unused_for:?}");
        }
    }

    #[test]
    fn a_build_keeps_what_it_has_used_and_finds_nothing_of_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let blob = Descriptor::of("x", b"used");
        let (old, chain) = (Digest::of(b"old"), Digest::of(b"chain"));
        let layer = DiffId(Digest::of(b"layer"));
        {
            let store = Store::open(directory.path()).unwrap();
            store.put_document(b"used").unwrap();
            store.put_document(b"old").unwrap();
            store.put_layer_index(layer, &LayerIndex::default()).unwrap();
            store.put_step(&[1; 32], &serde_json::json!({ "blob": blob })).unwrap();
            let base = BaseRecord {
                reference: "a".into(),
                platform: "b".into(),
                origin: "c".into(),
                manifest: old,
                config: old,
                layers: vec![],
            };
            store.put_base(&base).unwrap();
            let writer = store.unpacked_writer(&chain).unwrap();
            fs::create_dir(writer.path().join("root")).unwrap();
            fs::write(writer.path().join("root/f"), [0; 10]).unwrap();
            writer.finish().unwrap();
        }
        let build = Store::open(directory.path()).unwrap();
        assert!(build.has_blob(&blob));
        assert!(build.step::<serde_json::Value>(&[1; 32]).unwrap().is_some());
        let lease = build.lease_cache(&Digest::of(b"cache"), Sharing::Shared).unwrap().unwrap();
        let writer = lease.writer().unwrap();
        fs::create_dir(writer.path().join("root")).unwrap();
        writer.finish().unwrap();

        let store = Store::open(directory.path()).unwrap();
        let entries = store.entries().unwrap();
        let of = |kind| entries.iter().find(|entry| entry.kind == kind).unwrap();
        assert_eq!(entries.len(), 7, "{entries:?}");
        assert_eq!(of(EntryKind::Unpacked).size_bytes, 10);
        assert_eq!(of(EntryKind::Base).description.as_deref(), Some("a for b"));
        let names: Vec<_> = entries.iter().filter(|entry| entry.in_use).map(|entry| entry.kind).collect();
        assert_eq!(names, [EntryKind::Blob, EntryKind::CacheMount, EntryKind::Step]);

        let would = store.prune(PrunePolicy { dry_run: true, ..PrunePolicy::default() }).unwrap();
        assert_eq!(would.removed.len(), 4);
        assert!(store.open_blob(&old).unwrap().is_some());
        // Which the build may rely on from now on, but for what has just been looked at here.
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        let pruned = store.prune(PrunePolicy::default()).unwrap();
        assert!(pruned.failed.is_empty());
        assert_eq!(pruned.removed.len(), 3, "{:?}", pruned.removed);
        assert!(build.has_blob(&blob) && build.step::<serde_json::Value>(&[1; 32]).unwrap().is_some());
        assert!(lease.directory().is_some() && build.unpacked(&chain).is_none());

        drop((build, lease, store));
        let store = Store::open(directory.path()).unwrap();
        let pruned = store.prune(PrunePolicy::default()).unwrap();
        assert_eq!((pruned.removed.len(), pruned.kept_bytes), (4, 0), "{pruned:?}");
        let left: Vec<_> = walkdir::WalkDir::new(directory.path()).into_iter().map(|entry| entry.unwrap()).collect();
        let left: Vec<_> = left.iter().filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::file_name).collect();
        assert_eq!(left.len(), 3, "lock, settled and that of this process: {left:?}");
    }

    #[test]
    fn what_is_used_after_it_was_looked_at_stays() {
        let directory = tempfile::tempdir().unwrap();
        let digest = Store::open(directory.path()).unwrap().put_document(b"x").unwrap();
        let path = directory.path().join("blobs/sha256").join(digest.hex());
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(fs::FileTimes::new().set_accessed(at(1)).set_modified(at(1))).unwrap();
        let store = Store::open(directory.path()).unwrap();
        let seen = store.entries().unwrap();
        assert!(Store::open(directory.path()).unwrap().document(&digest).unwrap().is_some());
        assert!(!store.remove(&seen[0]).unwrap() && path.exists());
        let seen = store.entries().unwrap();
        assert!(store.remove(&seen[0]).unwrap() && !path.exists());
    }
}
