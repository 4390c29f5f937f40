//! Where a shared cache lies: a repository of a registry, or an OCI layout in a directory.
//!
//! Both hold the same: a shard is a manifest under a name of its own, whose config is the shard and whose layers are all blobs
//! that the shard speaks of, so that whoever collects garbage leaves them. The bytes of the config stand in the manifest as
//! well (`data`), which saves a round trip. No name is ever written twice, unless a registry does not list its tags.

use super::shard::{Blob, Known, SHARD_TYPE};
use crate::http::HttpError;
use crate::image::Origin;
use crate::oci::{Descriptor, Digest, MediaType, Reference};
use crate::registry::{self, RegistryError, file_opener};
use crate::store::Store;
use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    error::Error,
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// The most bytes of a manifest of ours.
const MANIFEST_BYTES: u64 = 4 << 20;
/// What registries answer that cannot list tags.
const NO_LIST: [u16; 4] = [400, 404, 405, 501];
/// A shard with more bytes does not stand in its manifest a second time.
const MOST_EMBEDDED_BYTES: usize = 1 << 20;
/// How long a blob of a layout that nothing names stays: its build may be about to name it.
const UNNAMED_LIFE: Duration = Duration::from_hours(24);

pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// A place for shards, packs and layers.
#[derive(Clone, Debug)]
pub(super) enum Depot {
    Registry { client: registry::Client, place: Arc<Reference> },
    Layout { path: Arc<PathBuf> },
}

/// The shards of a depot.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Names, as they come.
    pub(super) names: Vec<String>,
    /// Whether names cannot be listed, so that there is only one, which is written again and again.
    pub(super) single: bool,
}

/// A shard that was read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) known: Known,
    /// Of its manifest.
    pub(super) digest: Digest,
}

impl Depot {
    /// For messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Registry { place, .. } => format!("{}/{}", place.registry(), place.repository()),
            Self::Layout { path } => path.display().to_string(),
        }
    }

    /// Where its layers can be had.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Registry { place, .. } => Origin::Registry(place.clone()),
            Self::Layout { path } => Origin::Layout(path.clone()),
        }
    }

    /// The names that begin with `prefix`, which is part of a tag. What does not exist yet is empty.
    pub(super) async fn list(&self, prefix: &str) -> Result<Listing, Failure> {
        let (names, single) = match self {
            // From the name before the first of ours.
            Self::Registry { client, place } => match client.tags(place, &prefix[..prefix.len() - 1]).await {
                Ok(tags) => (tags.unwrap_or_default(), false),
                // It has no such list. One that fails has: what is in the cache would be taken for nothing, and a tag be overwritten.
                Err(RegistryError::Refused { answer, .. }) if NO_LIST.contains(&answer.status) => (Vec::new(), true),
                Err(error) => return Err(error.into()),
            },
            Self::Layout { path } => {
                let path = path.clone();
                let index = on_disk(move || read_index(&path)).await?;
                (manifests(&index).filter_map(|entry| entry["annotations"][TAG].as_str().map(str::to_owned)).collect(), false)
            }
        };
        let names = names.into_iter().filter(|name| name.starts_with(prefix)).collect();
        Ok(Listing { names, single })
    }

    /// Reads a shard; `None` if it is gone or is none.
    pub(super) async fn shard(&self, name: &str) -> Result<Option<Found>, Failure> {
        let (bytes, digest) = match self {
            Self::Registry { client, place } => {
                let Some(place) = tagged(place, name) else { return Ok(None) };
                match client.fetch(&place).await {
                    Ok(fetched) => (fetched.bytes, fetched.descriptor.digest),
                    Err(RegistryError::NotFound { .. } | RegistryError::Document { .. }) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
            Self::Layout { path } => {
                let (path, name) = (path.clone(), name.to_owned());
                let read = move || {
                    let index = read_index(&path)?;
                    let named = manifests(&index).find(|entry| entry["annotations"][TAG].as_str() == Some(&name));
                    let Some(digest) = named.and_then(|entry| entry["digest"].as_str()?.parse().ok()) else { return Ok(None) };
                    Ok(read_blob(&path, digest, MANIFEST_BYTES)?.map(|bytes| (Bytes::from(bytes), digest)))
                };
                match on_disk(read).await? {
                    Some(found) => found,
                    None => return Ok(None),
                }
            }
        };
        let Some((config, embedded)) = config_of(&bytes) else { return Ok(None) };
        let bytes = match embedded {
            Some(bytes) => Some(bytes),
            None => self.blob(&Blob::from(&config), MANIFEST_BYTES).await?,
        };
        Ok(bytes.and_then(|bytes| Known::decode(&bytes)).map(|known| Found { known, digest }))
    }

    /// Reads a small blob whole, verified; `None` if it is not there or larger than it may be.
    pub(super) async fn blob(&self, blob: &Blob, limit_bytes: u64) -> Result<Option<Bytes>, Failure> {
        let blob = blob.descriptor();
        match self {
            Self::Registry { client, place } => match client.document(place, &blob, limit_bytes).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(RegistryError::NotFound { .. } | RegistryError::TooLarge { .. } | RegistryError::Digest { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Self::Layout { path } => {
                let path = path.clone();
                on_disk(move || Ok(read_blob(&path, blob.digest, limit_bytes)?.map(Bytes::from))).await
            }
        }
    }

    /// Puts bytes there.
    pub(super) async fn put_bytes(&self, media_type: &str, bytes: Vec<u8>) -> Result<Blob, Failure> {
        let blob = Descriptor::of(media_type, &bytes);
        match self {
            Self::Registry { client, place } => {
                client.push_bytes(place, &blob, bytes).await.map_err(|error| refused(place, error))?;
            }
            Self::Layout { path } => {
                let (path, digest) = (path.clone(), blob.digest);
                on_disk(move || write_blob(&path, digest, &mut &bytes[..])).await?;
            }
        }
        Ok(Blob::from(&blob))
    }

    /// Sees to it that the blob of a layer is there: by a mount from one of `elsewhere`, from the store, or not at all, which
    /// is `false`. The bytes are those of the image, whoever has them.
    pub(super) async fn adopt(&self, blob: &Descriptor, elsewhere: &[Reference], store: &Store) -> Result<bool, Failure> {
        match self {
            Self::Registry { client, place } => {
                for from in elsewhere {
                    if from.registry() == place.registry() && from.repository() == place.repository()
                        || client.mount_blob(place, from, blob.digest).await.map_err(|error| refused(place, error))?
                    {
                        return Ok(true);
                    }
                }
                if client.has_blob(place, blob.digest).await.map_err(|error| refused(place, error))? {
                    return Ok(true);
                }
                if !store.has_blob(blob) {
                    return Ok(false);
                }
                let opener = file_opener(store.blob_path(&blob.digest));
                client.push_blob(place, blob, opener).await.map_err(|error| refused(place, error))?;
                Ok(true)
            }
            Self::Layout { path } => {
                let (path, store, blob) = (path.clone(), store.clone(), blob.clone());
                on_disk(move || {
                    let target = blob_path(&path, blob.digest);
                    if fs::metadata(&target).is_ok_and(|found| found.is_file() && found.len() == blob.size_bytes) {
                        // Young again: nobody takes it for garbage before it is named.
                        let _ = fs::File::open(&target).and_then(|file| file.set_modified(SystemTime::now()));
                        return Ok(true);
                    }
                    let Some(mut file) = store.open_blob(&blob.digest).map_err(io::Error::other)? else { return Ok(false) };
                    write_blob(&path, blob.digest, &mut file)?;
                    Ok(true)
                })
                .await
            }
        }
    }

    /// Puts a shard there under `name`. All that it speaks of is there already.
    pub(super) async fn put_shard(&self, name: &str, known: &Known) -> Result<Digest, Failure> {
        let config = known.encode();
        let descriptor = Descriptor::of(SHARD_TYPE, &config);
        let manifest = manifest(&descriptor, &config, &known.blobs());
        self.put_bytes(SHARD_TYPE, config).await?;
        let digest = Digest::of(&manifest);
        match self {
            Self::Registry { client, place } => {
                let tagged = tagged(place, name).ok_or("a name that is no tag")?;
                let media_type = MediaType::new(MediaType::OCI_MANIFEST);
                client.push_manifest(&tagged, &media_type, manifest).await.map_err(|error| refused(place, error))?;
            }
            Self::Layout { path } => {
                let (path, name) = (path.clone(), name.to_owned());
                on_disk(move || {
                    write_blob(&path, digest, &mut &manifest[..])?;
                    change_index(&path, |entries| {
                        entries.retain(|entry| entry["annotations"][TAG].as_str() != Some(&name));
                        entries.push(json!({
                            "mediaType": MediaType::OCI_MANIFEST,
                            "digest": digest.to_string(),
                            "size": manifest.len(),
                            "annotations": {TAG: name},
                        }));
                    })
                })
                .await?;
            }
        }
        Ok(digest)
    }

    /// Removes shards of which another one holds everything, where the medium lets us: many registries do not.
    pub(super) async fn remove(&self, shards: &[(String, Digest)]) {
        match self {
            Self::Registry { client, place } => {
                for (_, digest) in shards {
                    // Who does not delete once never does.
                    if client.delete_manifest(place, *digest).await.is_err() {
                        return;
                    }
                }
            }
            Self::Layout { path } => {
                let (path, names): (_, BTreeSet<String>) = (path.clone(), shards.iter().map(|(name, _)| name.clone()).collect());
                let remove = move || {
                    change_index(&path, |entries| {
                        entries.retain(|entry| !entry["annotations"][TAG].as_str().is_some_and(|name| names.contains(name)));
                    })?;
                    remove_unnamed(&path)
                };
                // What stays is read once more.
                let _ = on_disk(remove).await;
            }
        }
    }
}

/// The repository of `place` with another tag.
fn tagged(place: &Reference, tag: &str) -> Option<Reference> {
    format!("{}/{}:{tag}", place.registry(), place.repository()).parse().ok()
}

/// With what to do about it where a registry wants repositories to be made first.
fn refused(place: &Reference, error: RegistryError) -> Failure {
    let missing = matches!(&error, RegistryError::Refused { answer, .. } if answer.status == 404);
    if !missing {
        return with_causes(error);
    }
    let repository = place.repository();
    format!("{}: if this registry wants repositories to be created first, create {repository}", chain(&error)).into()
}

fn with_causes(error: RegistryError) -> Failure {
    match &error {
        RegistryError::Http {
            source:
                HttpError::Untrusted { .. } | HttpError::Connect { .. } | HttpError::ProxyRefused { .. } | HttpError::Tls { .. },
            ..
        } => chain(&error).into(),
        _ => error.into(),
    }
}

fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// The manifest of a shard.
fn manifest(descriptor: &Descriptor, config: &[u8], blobs: &BTreeSet<Blob>) -> Vec<u8> {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": descriptor,
        "layers": blobs.iter().map(Blob::descriptor).collect::<Vec<_>>(),
    });
    if config.len() <= MOST_EMBEDDED_BYTES {
        manifest["config"]["data"] = base64::engine::general_purpose::STANDARD.encode(config).into();
    }
    manifest.to_string().into_bytes()
}

/// The config of a manifest of ours, with its bytes if they stand there too.
fn config_of(manifest: &[u8]) -> Option<(Descriptor, Option<Bytes>)> {
    let manifest: Value = serde_json::from_slice(manifest).ok()?;
    let config: Descriptor = serde_json::from_value(manifest.get("config")?.clone()).ok()?;
    if config.media_type.as_str() != SHARD_TYPE {
        return None;
    }
    let data = manifest["config"]["data"].as_str().and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    let data = data.filter(|bytes| Digest::of(bytes) == config.digest).map(Bytes::from);
    Some((config, data))
}

// An OCI layout.

const INDEX: &str = "index.json";
const TAG: &str = "org.opencontainers.image.ref.name";

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

fn blob_path(directory: &Path, digest: Digest) -> PathBuf {
    directory.join("blobs/sha256").join(digest.hex())
}

/// What `index.json` says; nothing if there is none.
fn read_index(directory: &Path) -> io::Result<Value> {
    match read_limited(&directory.join(INDEX), MANIFEST_BYTES)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
        None => Ok(json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": []})),
    }
}

fn manifests(index: &Value) -> impl Iterator<Item = &Value> {
    index["manifests"].as_array().into_iter().flatten()
}

fn read_limited(path: &Path, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
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

/// A damaged blob is none.
fn read_blob(directory: &Path, digest: Digest, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    Ok(read_limited(&blob_path(directory, digest), limit_bytes)?.filter(|bytes| Digest::of(bytes) == digest))
}

fn write_blob(directory: &Path, digest: Digest, from: &mut dyn io::Read) -> io::Result<()> {
    let path = blob_path(directory, digest);
    write_whole(&path, from)
}

/// Written beside its place and renamed; others may read a layout too.
fn write_whole(path: &Path, from: &mut dyn io::Read) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut file = tempfile::Builder::new().permissions(mode).tempfile_in(folder)?;
    io::copy(from, &mut file)?;
    file.flush()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Changes `index.json` while nobody else does.
fn change_index(directory: &Path, change: impl FnOnce(&mut Vec<Value>)) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let lock = fs::File::options().create(true).truncate(false).write(true).open(directory.join(".lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let mut index = read_index(directory)?;
    let mut entries = index["manifests"].as_array().cloned().unwrap_or_default();
    change(&mut entries);
    index["manifests"] = Value::Array(entries);
    write_whole(&directory.join("oci-layout"), &mut &br#"{"imageLayoutVersion":"1.0.0"}"#[..])?;
    write_whole(&directory.join(INDEX), &mut index.to_string().as_bytes())
}

/// Removes blobs that no manifest names any more, once they are so old that no build is about to name them.
fn remove_unnamed(directory: &Path) -> io::Result<()> {
    let index = read_index(directory)?;
    let mut named = BTreeSet::new();
    let mut open: Vec<String> = digests(&index);
    while let Some(digest) = open.pop() {
        let parsed: Digest = digest.parse().map_err(io::Error::other)?;
        if !named.insert(parsed.hex()) {
            continue;
        }
        // Only documents name others, and those are small.
        let path = blob_path(directory, parsed);
        if fs::metadata(&path).is_ok_and(|found| found.len() <= MANIFEST_BYTES)
            && let Some(bytes) = read_limited(&path, MANIFEST_BYTES)?
            && bytes.first() == Some(&b'{')
            && let Ok(document) = serde_json::from_slice::<Value>(&bytes)
        {
            open.extend(digests(&document));
        }
    }
    let oldest = SystemTime::now().checked_sub(UNNAMED_LIFE).unwrap_or(SystemTime::UNIX_EPOCH);
    for entry in fs::read_dir(directory.join("blobs/sha256"))? {
        let entry = entry?;
        let is_named = entry.file_name().to_str().is_some_and(|name| named.contains(name));
        if !is_named && entry.metadata()?.modified()? < oldest {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// All digests that a manifest or an index names.
fn digests(document: &Value) -> Vec<String> {
    let lists = ["manifests", "layers"].into_iter().flat_map(|list| document[list].as_array().into_iter().flatten());
    let descriptors = lists.chain([&document["config"]]);
    descriptors.filter_map(|descriptor| descriptor["digest"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_stands_in_its_manifest_and_a_wrong_one_does_not_count() {
        let config = Known::default().encode();
        let descriptor = Descriptor::of(SHARD_TYPE, &config);
        let whole = manifest(&descriptor, &config, &BTreeSet::new());
        assert_eq!(config_of(&whole), Some((descriptor.clone(), Some(Bytes::from(config.clone())))));
        let wrong = manifest(&descriptor, b"other", &BTreeSet::new());
        assert_eq!(config_of(&wrong), Some((descriptor, None)));
        let image = manifest(&Descriptor::of(MediaType::OCI_CONFIG, &config), &config, &BTreeSet::new());
        assert_eq!(config_of(&image), None);
        assert_eq!(config_of(b"{"), None);
    }

    #[tokio::test]
    async fn a_layout_forgets_what_nothing_names_once_it_is_old() {
        let directory = tempfile::tempdir().unwrap();
        let depot = Depot::Layout { path: Arc::new(directory.path().to_owned()) };
        let named = depot.put_bytes("x", b"named".to_vec()).await.unwrap();
        let (old, young) = (Digest::of(b"old"), Digest::of(b"young"));
        depot.put_bytes("x", b"old".to_vec()).await.unwrap();
        depot.put_bytes("x", b"young".to_vec()).await.unwrap();
        let mut known = Known::default();
        let layer = crate::oci::DiffId(Digest::of(b"layer"));
        known.layers.insert(layer, super::super::shard::KnownLayer { blob: Some(named.clone()), pack: None });
        let first = depot.put_shard("ns.1", &Known::default()).await.unwrap();
        depot.put_shard("ns.2", &known).await.unwrap();
        for digest in [old, named.descriptor().digest] {
            let file = fs::File::open(blob_path(directory.path(), digest)).unwrap();
            file.set_modified(SystemTime::now() - 2 * UNNAMED_LIFE).unwrap();
        }
        depot.remove(&[("ns.1".to_owned(), first)]).await;
        assert_eq!(depot.list("ns.").await.unwrap().names, ["ns.2"]);
        assert_eq!(depot.shard("ns.2").await.unwrap().unwrap().known, known);
        assert!(depot.shard("ns.1").await.unwrap().is_none());
        let is_there = |digest| blob_path(directory.path(), digest).exists();
        assert!(is_there(named.descriptor().digest) && is_there(young) && !is_there(old));
    }
}
