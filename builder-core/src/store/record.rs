//! Layer indexes and small facts. A damaged record, or one of another version, is a miss.

use super::{Store, StoreError, uses::LockFor};
use crate::oci::{Descriptor, DiffId, Digest};
use crate::tree::LayerIndex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// An image that builds have started from, as it was found last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// Its name.
    pub reference: String,
    /// What it is for.
    pub platform: String,
    /// The place that served it.
    pub origin: String,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The digest of its config.
    pub config: Digest,
    /// The blobs of its layers.
    pub layers: Vec<Digest>,
}

/// First bytes of a layer index: raise the number when [`LayerIndex`] or what it holds changes.
const INDEX_VERSION: [u8; 4] = *b"cli1";

/// Length of the BLAKE3 checksum that stands between version and content.
const CHECKSUM_BYTES: usize = 32;

/// How much of an index is written at once.
const BUFFER_BYTES: usize = 64 << 10;

impl Store {
    /// The index of a layer, if it is known.
    ///
    /// # Errors
    /// [`StoreError`] if it is there and cannot be read.
    pub fn layer_index(&self, layer: DiffId) -> Result<Option<LayerIndex>, StoreError> {
        let path = self.find(&Path::new("indexes").join(layer.0.hex()));
        Ok(Self::read(&path)?.and_then(|bytes| decode(&bytes)))
    }

    /// Whether there is a whole index of the layer; cheaper than to have it.
    pub fn has_layer_index(&self, layer: DiffId) -> bool {
        let path = self.find(&Path::new("indexes").join(layer.0.hex()));
        Self::read(&path).is_ok_and(|bytes| bytes.is_some_and(|bytes| checked(&bytes).is_some()))
    }

    /// Keeps the index of a layer.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn put_layer_index(&self, layer: DiffId, index: &LayerIndex) -> Result<(), StoreError> {
        self.fill_whole(&self.index_path(layer), |file| encode(index, file))
    }

    /// The blobs that are known to hold a layer, those of this store and those of registries, in the order they became known.
    ///
    /// # Errors
    /// [`StoreError`] if the record is there and cannot be read.
    pub fn layer_blobs(&self, layer: DiffId) -> Result<Vec<Descriptor>, StoreError> {
        let name = Path::new("layers").join(layer.0.hex());
        let mut blobs: Vec<Descriptor> = Vec::new();
        self.note_use(&self.root().join(&name));
        for root in std::iter::once(self.root()).chain(self.shared.below.iter().map(PathBuf::as_path)) {
            for blob in Self::read_json::<Vec<Descriptor>>(&root.join(&name))?.unwrap_or_default() {
                if blobs.iter().all(|known| known.digest != blob.digest) {
                    blobs.push(blob);
                }
            }
        }
        Ok(blobs)
    }

    /// Remembers that `blob` holds `layer`.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn add_layer_blob(&self, layer: DiffId, blob: &Descriptor) -> Result<(), StoreError> {
        let is_known = |blobs: &[Descriptor]| blobs.iter().any(|known| known.digest == blob.digest);
        if is_known(&self.layer_blobs(layer)?) {
            return Ok(());
        }
        // Another process may add one too. Where there are no locks, that one may be forgotten.
        let _lock = self.lock(LockFor::Change);
        let mut blobs: Vec<Descriptor> = Self::read_json(&self.layer_path(layer))?.unwrap_or_default();
        if is_known(&blobs) {
            return Ok(());
        }
        blobs.push(blob.clone());
        self.write_json(&self.layer_path(layer), &blobs)
    }

    /// What the step with this key led to, if it is known and still has the form that the caller expects.
    ///
    /// # Errors
    /// [`StoreError`] if it is there and cannot be read.
    pub fn step<T: DeserializeOwned>(&self, key: &[u8; 32]) -> Result<Option<T>, StoreError> {
        self.read_used(&self.step_path(key))
    }

    /// Keeps what a step led to.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn put_step(&self, key: &[u8; 32], outcome: &impl Serialize) -> Result<(), StoreError> {
        self.write_json(&self.step_path(key), outcome)
    }

    /// What a key needs to know of layers, if it was read before and still has the form that the caller expects.
    ///
    /// # Errors
    /// [`StoreError`] if it is there and cannot be read.
    pub fn reading<T: DeserializeOwned>(&self, key: &[u8; 32]) -> Result<Option<T>, StoreError> {
        self.read_used(&self.reading_path(key))
    }

    /// Keeps what was read of layers.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn put_reading(&self, key: &[u8; 32], reading: &impl Serialize) -> Result<(), StoreError> {
        self.write_json(&self.reading_path(key), reading)
    }

    /// What the last build of that name depended on, as it was kept, and when that was.
    ///
    /// # Errors
    /// [`StoreError`] if it is there and cannot be read.
    pub fn build_parts(&self, name: &Digest) -> Result<Option<(Vec<u8>, SystemTime)>, StoreError> {
        let path = self.parts_path(name);
        self.note_use(&path);
        let Some(parts) = Self::read(&path)? else { return Ok(None) };
        let kept = fs::metadata(&path).and_then(|found| found.modified());
        Ok(Some((parts, kept.map_err(|error| StoreError::io("read", &path, error))?)))
    }

    /// Keeps what a build depended on. Where it is the same as before, only the time is new: of a large context it is much.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn put_build_parts(&self, name: &Digest, parts: &[u8]) -> Result<(), StoreError> {
        let path = self.parts_path(name);
        let renew = || fs::File::options().write(true).open(&path)?.set_modified(SystemTime::now());
        if Self::read(&path)?.as_deref() == Some(parts) && renew().is_ok() {
            return Ok(());
        }
        self.write_whole(&path, parts)
    }

    /// What the last build of that name pushed to `repository`, as it was noted.
    ///
    /// # Errors
    /// [`StoreError`] if it is there and cannot be read.
    pub fn pushed<T: DeserializeOwned>(&self, name: &Digest, repository: &str) -> Result<Option<T>, StoreError> {
        self.read_used(&self.image_path(name, repository))
    }

    /// Notes what a build of that name pushed to `repository`.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn put_pushed(&self, name: &Digest, repository: &str, image: &impl Serialize) -> Result<(), StoreError> {
        self.write_json(&self.image_path(name, repository), image)
    }

    /// What an image was made of when it was last asked for.
    ///
    /// # Errors
    /// [`StoreError`] if it is there and cannot be read.
    pub fn base(&self, reference: &str, platform: &str) -> Result<Option<BaseRecord>, StoreError> {
        let found: Option<BaseRecord> = Self::read_json(&self.find(&base_name(reference, platform)))?;
        Ok(found.filter(|base| base.reference == reference && base.platform == platform))
    }

    /// Remembers what an image is made of.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written.
    pub fn put_base(&self, base: &BaseRecord) -> Result<(), StoreError> {
        let path = self.root().join(base_name(&base.reference, &base.platform));
        self.note_use(&path);
        if Self::read_json::<BaseRecord>(&path)?.as_ref() == Some(base) {
            return Ok(());
        }
        self.write_json(&path, base)
    }

    /// Reads a record and notes that it is used.
    fn read_used<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, StoreError> {
        self.note_use(path);
        Self::read_json(path)
    }

    pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
        Ok(Self::read(path)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
        let bytes =
            serde_json::to_vec(value).map_err(|error| StoreError::io("write a record to", path, io::Error::other(error)))?;
        self.write_whole(path, &bytes)
    }

    fn index_path(&self, layer: DiffId) -> PathBuf {
        self.root().join("indexes").join(layer.0.hex())
    }

    fn layer_path(&self, layer: DiffId) -> PathBuf {
        self.root().join("layers").join(layer.0.hex())
    }

    fn parts_path(&self, name: &Digest) -> PathBuf {
        self.root().join("parts").join(name.hex())
    }

    fn reading_path(&self, key: &[u8; 32]) -> PathBuf {
        self.root().join("readings").join(crate::oci::Digest::from_bytes(*key).hex())
    }

    fn image_path(&self, name: &Digest, repository: &str) -> PathBuf {
        self.root().join("images").join(Digest::of(format!("{name} {repository}").as_bytes()).hex())
    }

    fn step_path(&self, key: &[u8; 32]) -> PathBuf {
        self.root().join("steps").join(crate::oci::Digest::from_bytes(*key).hex())
    }
}

fn base_name(reference: &str, platform: &str) -> PathBuf {
    Path::new("bases").join(Digest::of(format!("{reference} {platform}").as_bytes()).hex())
}

/// Writes version, checksum, postcard. An index of many files is large, so its bytes are never all in memory.
fn encode(index: &LayerIndex, mut file: impl Write + Seek) -> io::Result<()> {
    file.write_all(&[&INDEX_VERSION[..], &[0; CHECKSUM_BYTES]].concat())?;
    let hashing = Hashing { to: &mut file, hasher: blake3::Hasher::new(), failure: None };
    let mut content = BufWriter::with_capacity(BUFFER_BYTES, hashing);
    if let Err(error) = postcard::to_io(index, &mut content) {
        // It does not say why nothing could be written, a full disk say.
        return Err(content.get_mut().failure.take().unwrap_or_else(|| io::Error::other(error)));
    }
    let checksum = content.into_inner()?.hasher.finalize();
    file.seek(SeekFrom::Start(INDEX_VERSION.len() as u64))?;
    file.write_all(checksum.as_bytes())
}

/// Hashes what is written.
struct Hashing<W> {
    to: W,
    hasher: blake3::Hasher,
    /// Why nothing more could be written.
    failure: Option<io::Error>,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes);
        if let Err(error) = &written {
            self.failure = error.raw_os_error().map(io::Error::from_raw_os_error);
        }
        let count = written?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn decode(bytes: &[u8]) -> Option<LayerIndex> {
    postcard::from_bytes(checked(bytes)?).ok()
}

/// The content, if it is of this version and whole.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (checksum, content) = bytes.strip_prefix(&INDEX_VERSION)?.split_at_checked(CHECKSUM_BYTES)?;
    (blake3::hash(content).as_bytes() == checksum).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::text;

    #[test]
    fn an_index_is_read_as_it_was_written_and_a_damaged_one_is_a_miss() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let layer = DiffId(Digest::of(b"layer"));
        let index = LayerIndex { changes: text::parse("a 0644 0:0 @7 \"x\"\nb = a\n- c\nd -> e").unwrap() };
        assert_eq!(store.layer_index(layer).unwrap(), None);
        store.put_layer_index(layer, &index).unwrap();
        assert_eq!(store.layer_index(layer).unwrap(), Some(index.clone()));
        assert!(store.has_layer_index(layer) && !store.has_layer_index(DiffId(Digest::of(b"other"))));
        let mut whole = Vec::new();
        encode(&index, io::Cursor::new(&mut whole)).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged), None, "byte {at}");
            assert_eq!(decode(&whole[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn what_kept_a_large_index_from_being_written_is_said() {
        /// A disk that is full after some bytes.
        struct Small(usize);
        impl Write for Small {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(rustix::io::Errno::NOSPC)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        impl Seek for Small {
            fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
                Ok(0)
            }
        }
        let lines: Vec<String> = (0..20_000).map(|number| format!("- removed-{number}")).collect();
        let index = LayerIndex { changes: text::parse(&lines.join("\n")).unwrap() };
        let failure = encode(&index, Small(2 * BUFFER_BYTES)).unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_layer_knows_its_blobs() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let layer = DiffId(Digest::of(b"layer"));
        let (gzip, zstd) = (Descriptor::of("x/gzip", b"g"), Descriptor::of("x/zstd", b"z"));
        for blob in [&gzip, &zstd, &gzip] {
            store.add_layer_blob(layer, blob).unwrap();
        }
        assert_eq!(store.layer_blobs(layer).unwrap(), [gzip, zstd]);
        assert_eq!(store.layer_blobs(DiffId(Digest::of(b"other"))).unwrap(), []);
    }

    #[test]
    fn what_a_build_depended_on_is_as_new_as_the_last_build_that_did() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let name = Digest::of(b"name");
        assert_eq!(store.build_parts(&name).unwrap(), None);
        for parts in [&b"one"[..], b"one", b"two"] {
            store.put_build_parts(&name, parts).unwrap();
            let (kept, time) = store.build_parts(&name).unwrap().unwrap();
            assert_eq!(kept, parts);
            assert!(time.elapsed().unwrap_or_default() < std::time::Duration::from_hours(1));
            let file = fs::File::options().write(true).open(store.parts_path(&name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
    }

    #[test]
    fn a_step_record_of_another_form_is_a_miss() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let key = [7; 32];
        assert_eq!(store.step::<u32>(&key).unwrap(), None);
        store.put_step(&key, &"layer").unwrap();
        assert_eq!(store.step::<String>(&key).unwrap().as_deref(), Some("layer"));
        assert_eq!(store.step::<u32>(&key).unwrap(), None);
    }
}
