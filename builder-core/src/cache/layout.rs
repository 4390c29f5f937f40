//! An OCI layout as the place of a shared cache: its index, its blobs, and who uses them.
//!
//! `index.json` names shards and is changed under a lock (`.lock`); every file is renamed to its place when it is whole. A build
//! holds another lock (`.builds`), with others, as long as it relies on what it has read. What is named no more stays for a day
//! ([`UNNAMED_LIFE`]): a build may have read the name before it went, or be about to write it. Where a file system has no
//! locks, or a directory is only read, that day is what keeps builds safe.

use crate::oci::{Descriptor, Digest, Hasher, MediaType};
use crate::store::Store;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

/// The most bytes of a document of ours.
pub(super) const DOCUMENT_BYTES: u64 = 4 << 20;
/// How long a blob that nothing names stays, and what was being written.
pub(super) const UNNAMED_LIFE: Duration = Duration::from_hours(24);

const INDEX: &str = "index.json";
const TAG: &str = "org.opencontainers.image.ref.name";
const LOCK: &str = ".lock";
const BUILDS: &str = ".builds";
/// What files that are being written are called.
const UNFINISHED: &str = ".tmp";

/// A layout. Clones are one, and hold its lock together.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) path: Arc<PathBuf>,
    held: Arc<OnceLock<File>>,
}

impl Layout {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path), held: Arc::default() }
    }

    /// Says to others that a build uses the layout from now on, if `lock` can be had.
    fn hold(&self, lock: io::Result<File>) {
        if self.held.get().is_none()
            && let Ok(lock) = lock
            && flock(&lock, FlockOperation::LockShared).is_ok()
        {
            let _ = self.held.set(lock);
        }
    }

    /// Keeps builds from using the layout, if none does: says which. Before anything else is done with it.
    pub(super) fn hold_alone(&self) -> bool {
        let Ok(lock) = open_lock(&self.path.join(BUILDS)) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && self.held.set(lock).is_ok()
    }

    /// The names in the index, on which a build relies from now on.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        // To read makes nothing: it may be no cache.
        self.hold(File::open(self.path.join(BUILDS)));
        self.listed()
    }

    /// The names in the index.
    pub(super) fn listed(&self) -> io::Result<Vec<String>> {
        Ok(entries(&self.read_index()?).filter_map(tag).map(str::to_owned).collect())
    }

    /// The manifest of that name.
    pub(super) fn manifest(&self, name: &str) -> io::Result<Option<(Vec<u8>, Digest)>> {
        let index = self.read_index()?;
        let named = entries(&index).find(|entry| tag(entry) == Some(name));
        let Some(digest) = named.and_then(|entry| entry["digest"].as_str()?.parse().ok()) else { return Ok(None) };
        Ok(self.read_blob(digest, DOCUMENT_BYTES)?.map(|bytes| (bytes, digest)))
    }

    /// A damaged blob is none, and neither is one that is too large.
    pub(super) fn read_blob(&self, digest: Digest, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        if fs::metadata(self.blob_path(digest)).is_ok_and(|found| found.len() > limit_bytes) {
            return Ok(None);
        }
        Ok(read_limited(&self.blob_path(digest), limit_bytes)?.filter(|bytes| Digest::of(bytes) == digest))
    }

    /// Writes a blob, also where one of that name is.
    pub(super) fn write_blob(&self, bytes: &[u8]) -> io::Result<()> {
        self.make()?;
        write_whole(&self.blob_path(Digest::of(bytes)), |file| file.write_all(bytes))
    }

    /// Notes that a blob is used, so that it goes later than others. Says whether it is there, by its length.
    pub(super) fn note_use(&self, blob: &Descriptor) -> bool {
        let path = self.blob_path(blob.digest);
        let is_there = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == blob.size_bytes);
        if is_there {
            make_young(&path);
        }
        is_there
    }

    /// Takes a blob from the store, unless it is here. `false` if neither has it whole.
    pub(super) fn adopt(&self, blob: &Descriptor, store: &Store) -> io::Result<bool> {
        self.make()?;
        let path = self.blob_path(blob.digest);
        // Few are here already of those that come, so that it costs little to read them. Their damage ends here.
        if self.note_use(blob) && digest_of(File::open(&path)?, &mut io::sink())? == blob.digest {
            return Ok(true);
        }
        let Some(from) = store.open_blob(&blob.digest).map_err(io::Error::other)? else { return Ok(false) };
        let copied = write_whole(&path, |file| {
            let found = digest_of(from, file)?;
            if found == blob.digest { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        });
        match copied {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(false),
            copied => copied.map(|()| true),
        }
    }

    /// Names a manifest that is here, in the place of what has the name.
    pub(super) fn put_name(&self, name: &str, digest: Digest, size_bytes: usize) -> io::Result<()> {
        self.change(|entries| rename(entries, &BTreeSet::new(), name, digest, size_bytes))
    }

    /// Removes names, and what nothing has named for long.
    pub(super) fn remove(&self, names: &BTreeSet<String>) -> io::Result<()> {
        let _lock = self.lock()?;
        let before = self.named(&self.read_index()?)?;
        self.change_locked(|entries| entries.retain(|entry| !tag(entry).is_some_and(|name| names.contains(name))))?;
        self.make_unnamed_young(&before)?;
        self.remove_unnamed()
    }

    /// From now on they have [`UNNAMED_LIFE`].
    pub(super) fn make_unnamed_young(&self, named_before: &BTreeSet<String>) -> io::Result<()> {
        for name in named_before.difference(&self.named(&self.read_index()?)?) {
            make_young(&self.path.join("blobs/sha256").join(name));
        }
        Ok(())
    }

    /// What `index.json` says; nothing if there is none. One that was damaged counts as none, and the next one to write puts
    /// a good one in its place: what is known is lost with it, and no build fails.
    pub(super) fn read_index(&self) -> io::Result<Value> {
        let index: Option<Value> =
            read_limited(&self.path.join(INDEX), DOCUMENT_BYTES)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let empty = || json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": []});
        Ok(index.filter(|index| index["manifests"].is_array()).unwrap_or_else(empty))
    }

    /// Held by whoever changes the index.
    pub(super) fn lock(&self) -> io::Result<File> {
        self.make()?;
        let lock = open_lock(&self.path.join(LOCK))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    }

    /// Changes the index, whose lock is held.
    pub(super) fn change_locked(&self, change: impl FnOnce(&mut Vec<Value>)) -> io::Result<()> {
        let mut index = self.read_index()?;
        let mut entries = index["manifests"].as_array().cloned().unwrap_or_default();
        change(&mut entries);
        index["manifests"] = Value::Array(entries);
        write_whole(&self.path.join("oci-layout"), |file| file.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#))?;
        write_whole(&self.path.join(INDEX), |file| file.write_all(index.to_string().as_bytes()))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Value>)) -> io::Result<()> {
        let _lock = self.lock()?;
        self.change_locked(change)
    }

    /// The names of the files of all blobs that `index` speaks of, and of what these speak of.
    pub(super) fn named(&self, index: &Value) -> io::Result<BTreeSet<String>> {
        let mut named = BTreeSet::new();
        let mut open: Vec<String> = digests(index);
        while let Some(digest) = open.pop() {
            let Ok(digest) = digest.parse::<Digest>() else { continue };
            if !named.insert(digest.hex()) {
                continue;
            }
            // Only documents name others, and those are small.
            let path = self.blob_path(digest);
            if fs::metadata(&path).is_ok_and(|found| found.len() <= DOCUMENT_BYTES)
                && let Some(bytes) = read_limited(&path, DOCUMENT_BYTES)?
                && bytes.first() == Some(&b'{')
                && let Ok(document) = serde_json::from_slice::<Value>(&bytes)
            {
                open.extend(digests(&document));
            }
        }
        Ok(named)
    }

    /// What nothing names: blobs, and what somebody who died was writing. Where it is, and when it was written or last used.
    pub(super) fn unnamed(&self) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
        let named = self.named(&self.read_index()?)?;
        let is_unfinished = |name: &str| name.starts_with(UNFINISHED);
        let mut found = files(&self.path, is_unfinished)?;
        found.extend(files(&self.path.join("blobs/sha256"), |name| !named.contains(name))?);
        Ok(found)
    }

    fn remove_unnamed(&self) -> io::Result<()> {
        for (path, _) in self.unnamed()?.into_iter().filter(|(_, found)| is_old(found)) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    pub(super) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// Makes the directory for a build that writes.
    fn make(&self) -> io::Result<()> {
        fs::create_dir_all(self.path.join("blobs/sha256"))?;
        self.hold(open_lock(&self.path.join(BUILDS)));
        Ok(())
    }
}

/// Puts a manifest of ours in the place of those with `names`.
pub(super) fn rename(entries: &mut Vec<Value>, names: &BTreeSet<String>, name: &str, digest: Digest, size_bytes: usize) {
    entries.retain(|entry| tag(entry).is_none_or(|other| other != name && !names.contains(other)));
    entries.push(json!({
        "mediaType": MediaType::OCI_MANIFEST,
        "digest": digest.to_string(),
        "size": size_bytes,
        "annotations": {TAG: name},
    }));
}

/// Whether a file that nothing names has been so for long enough.
pub(super) fn is_old(found: &fs::Metadata) -> bool {
    let oldest = SystemTime::now().checked_sub(UNNAMED_LIFE).unwrap_or(SystemTime::UNIX_EPOCH);
    found.modified().is_ok_and(|written| written < oldest)
}

fn entries(index: &Value) -> impl Iterator<Item = &Value> {
    index["manifests"].as_array().into_iter().flatten()
}

fn tag(entry: &Value) -> Option<&str> {
    entry["annotations"][TAG].as_str()
}

/// All digests that a manifest or an index names.
fn digests(document: &Value) -> Vec<String> {
    let lists = ["manifests", "layers"].into_iter().flat_map(|list| document[list].as_array().into_iter().flatten());
    let descriptors = lists.chain([&document["config"]]);
    descriptors.filter_map(|descriptor| descriptor["digest"].as_str().map(str::to_owned)).collect()
}

/// The files in a directory with such names; none if there is no such directory.
fn files(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let mut found = Vec::new();
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        listed => {
            for entry in listed? {
                let entry = entry?;
                // Somebody else may remove it at this moment.
                if is_wanted(&entry.file_name().to_string_lossy())
                    && let Ok(metadata) = entry.metadata()
                    && metadata.is_file()
                {
                    found.push((entry.path(), metadata));
                }
            }
        }
    }
    Ok(found)
}

/// To be read as well: some network file systems want that for a lock that is shared.
fn open_lock(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).open(path)
}

fn make_young(path: &Path) {
    // Who may not write does not remove either.
    let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

fn read_limited(path: &Path, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(io::Error::other(format!("{} is larger than {limit_bytes} bytes", path.display())));
    }
    Ok(Some(bytes))
}

/// Copies everything and says what its digest is.
fn digest_of(mut from: impl Read, to: &mut dyn io::Write) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => {
                hasher.update(&buffer[..count]);
                to.write_all(&buffer[..count])?;
            }
        }
    }
}

/// Written beside its place and renamed; others may read a layout too.
fn write_whole(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).permissions(mode).tempfile_in(folder)?;
    fill(file.as_file_mut())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{
        depot::Depot,
        shard::{Known, KnownLayer},
    };
    use super::*;
    use crate::oci::DiffId;

    fn depot(directory: &Path) -> (Depot, Layout) {
        let layout = Layout::new(directory.to_owned());
        (Depot::Layout(layout.clone()), layout)
    }

    fn age(path: &Path) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - 2 * UNNAMED_LIFE).unwrap();
    }

    #[tokio::test]
    async fn a_layout_forgets_what_nothing_has_named_for_a_day() {
        let directory = tempfile::tempdir().unwrap();
        let (depot, layout) = depot(directory.path());
        let mut blobs = std::collections::BTreeMap::new();
        for name in ["named", "until now", "old", "young"] {
            blobs.insert(name, depot.put_bytes("x", name.as_bytes().to_vec()).await.unwrap());
        }
        let knowing = |name: &str| {
            let layer = KnownLayer { blob: Some(blobs[name].clone()), pack: None };
            Known { layers: [(DiffId(Digest::of(name.as_bytes())), layer)].into(), ..Known::default() }
        };
        let first = depot.put_shard("ns.1", &knowing("until now")).await.unwrap();
        depot.put_shard("ns.2", &knowing("named")).await.unwrap();
        let path = |name: &str| layout.blob_path(blobs[name].descriptor().digest);
        for name in ["named", "until now", "old"] {
            age(&path(name));
        }
        let missing = Descriptor::of("x", b"missing");
        assert!(depot.note_use(&blobs["young"].descriptor()) && !depot.note_use(&missing));
        // What somebody who was killed has left.
        let unfinished = |name: &str| [directory.path().join(name), directory.path().join("blobs/sha256").join(name)];
        for file in [unfinished(".tmpold"), unfinished(".tmpyoung")].concat() {
            fs::write(&file, "x").unwrap();
        }
        for file in unfinished(".tmpold") {
            age(&file);
        }
        fs::write(directory.path().join("notes"), "of somebody").unwrap();
        age(&directory.path().join("notes"));

        depot.remove(&[("ns.1".to_owned(), first)]).await;
        assert_eq!(depot.list("ns.").await.unwrap().names, ["ns.2"]);
        assert_eq!(depot.shard("ns.2").await.unwrap().unwrap().known, knowing("named"));
        assert!(depot.shard("ns.1").await.unwrap().is_none());
        // A build may rely on what was named until now.
        let left: Vec<&str> = blobs.keys().copied().filter(|name| path(name).exists()).collect();
        assert_eq!(left, ["named", "until now", "young"]);
        assert!(unfinished(".tmpyoung").iter().all(|file| file.exists()) && directory.path().join("notes").exists());
        assert!(!unfinished(".tmpold").iter().any(|file| file.exists()));
        age(&path("until now"));
        depot.remove(&[]).await;
        assert!(!path("until now").exists());
    }

    #[tokio::test]
    async fn a_damaged_index_counts_as_none_and_the_next_one_to_write_puts_a_good_one_there() {
        // It once failed everybody who read or wrote, for good.
        for damaged in [&b""[..], b"{\"manifests\": [", b"[1]", b"null", b"\xff\0", br#"{"manifests": {}}"#] {
            let directory = tempfile::tempdir().unwrap();
            let (depot, _) = depot(directory.path());
            depot.put_shard("ns.1", &Known::default()).await.unwrap();
            fs::write(directory.path().join(INDEX), damaged).unwrap();
            assert_eq!(depot.list("ns.").await.unwrap().names, Vec::<String>::new());
            depot.put_shard("ns.2", &Known::default()).await.unwrap();
            assert_eq!(depot.list("ns.").await.unwrap().names, ["ns.2"]);
            let index: Value = serde_json::from_slice(&fs::read(directory.path().join(INDEX)).unwrap()).unwrap();
            assert_eq!((&index["schemaVersion"], index["manifests"].as_array().unwrap().len()), (&2.into(), 1));
        }
    }

    #[tokio::test]
    async fn a_damaged_blob_is_written_again_and_one_that_is_damaged_in_the_store_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        let (depot, layout) = depot(&directory.path().join("layout"));
        let blob = Descriptor::of("x", b"layer");
        assert!(!depot.adopt(&blob, &[], &store).await.unwrap());
        store.put_document(b"layer").unwrap();
        for damaged in [None, Some("LAYER"), Some("")] {
            if let Some(bytes) = damaged {
                fs::write(layout.blob_path(blob.digest), bytes).unwrap();
            }
            assert!(depot.adopt(&blob, &[], &store).await.unwrap());
            assert_eq!(fs::read(layout.blob_path(blob.digest)).unwrap(), b"layer");
        }
        fs::remove_file(layout.blob_path(blob.digest)).unwrap();
        fs::write(store.blob_path(&blob.digest), "LAYER").unwrap();
        assert!(!depot.adopt(&blob, &[], &store).await.unwrap());
        assert!(!layout.blob_path(blob.digest).exists());
    }

    #[test]
    fn whoever_wants_a_layout_alone_gets_it_when_no_build_uses_it() {
        let directory = tempfile::tempdir().unwrap();
        let build = Layout::new(directory.path().to_owned());
        build.write_blob(b"x").unwrap();
        let reader = Layout::new(directory.path().to_owned());
        reader.names().unwrap();
        drop(build);
        assert!(!Layout::new(directory.path().to_owned()).hold_alone());
        drop(reader);
        let alone = Layout::new(directory.path().to_owned());
        assert!(alone.hold_alone());
        // And does not wait for itself.
        alone.write_blob(b"y").unwrap();
    }
}
