//! The caches of RUN, taken from a registry or a layout before the first step that mounts one the state directory lacks,
//! and put there after a build that has changed them. Only what executed steps mount is looked at.
//!
//! A cache is an image of one layer under a tag of its own, so any registry keeps it, and equal contents are equal blobs.
//! The place is trusted as much as the steps that wrote to it. Nothing here fails a build: a cache that cannot be had
//! begins empty, and one that cannot be put is put by the next build.

use super::{Build, BuildError, CacheMounts, CacheMountsPlace, ErrorKind, Event, copy::threads};
use crate::context::layout::{self, LayoutError};
use crate::export::{self, Blobs, ExportError};
use crate::image::{Assembled, Image, Layer, Origin};
use crate::layer::read::{self, Limits};
use crate::layer::write::{self, PackOptions};
use crate::oci::{Compression, Descriptor, DiffId, Digest, ImageConfig, Manifest, MediaType, Reference};
use crate::registry::{self, RegistryError, file_opener};
use crate::rootfs::{self, Owners, RootfsError, StepChanges, Unpacker};
use crate::store::{CacheLease, Sharing};
use crate::tree::{Change, Content, LayerIndex, SourceId, Tree};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Seek as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What tags of caches begin with.
const TAG: &str = "mount";
/// How many digits of a name stand in a tag: of 64, enough that no two are equal.
const TAG_DIGITS: usize = 40;
/// The label with the id of the cache.
const LABEL: &str = "dev.cofferdam.cache-mount.id";
/// How long an export waits for other builds that use the cache.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// zstd's own default: caches go back and forth more often than they are kept.
const COMPRESSION: Compression = Compression::Zstd;

/// The caches that steps of a build may have changed.
#[derive(Default)]
pub(super) struct UsedCaches(Mutex<BTreeMap<Digest, Used>>);

#[derive(Clone)]
struct Used {
    id: String,
    owners: Owners,
}

impl UsedCaches {
    pub(super) fn note(&self, name: Digest, id: &str, owners: Owners) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(name, Used { id: id.to_owned(), owners });
    }
}

/// A cache as its place has it.
struct Found {
    layer: Descriptor,
    diff_id: DiffId,
    from: From,
}

enum From {
    Registry(Arc<Reference>),
    Layout(PathBuf),
}

impl Build {
    /// Fills the cache that nobody has filled here from what another machine has put elsewhere.
    pub(super) async fn import_cache(&self, lease: &Arc<CacheLease>, name: Digest, id: &str, owners: Owners) -> Option<PathBuf> {
        let mounts = self.request.cache_mounts.as_ref().filter(|mounts| mounts.imports)?;
        let found = match self.find_exported(&mounts.place, name).await {
            Ok(found) => found?,
            Err(error) => return self.warn_about(id, "cannot be imported and begins empty", &error).await,
        };
        match self.import(found, mounts, lease, owners).await {
            Ok(directory) => Some(directory),
            Err(error) => self.warn_about(id, "cannot be imported and begins empty", &error).await,
        }
    }

    async fn find_exported(&self, place: &CacheMountsPlace, name: Digest) -> Result<Option<Found>, BuildError> {
        let failed = || BuildError::new(ErrorKind::Base, "its place cannot be read");
        let (manifest, config, from): (Manifest, ImageConfig, From) = match place {
            CacheMountsPlace::Registry(repository) => {
                let reference = tagged(repository, name)?;
                match self.registry.resolve(&reference, &self.request.platform).await {
                    Ok(found) => (found.manifest, found.config, From::Registry(found.origin)),
                    Err(RegistryError::NotFound { .. }) => return Ok(None),
                    Err(error) => return Err(failed().refused(error)),
                }
            }
            CacheMountsPlace::Layout(path) => {
                let (directory, platform) = (path.clone(), self.request.platform.clone());
                let find = move || {
                    if !directory.join("index.json").exists() {
                        return Ok(None);
                    }
                    match layout::resolve(&directory, Some(&tag(None, name)), &platform) {
                        Ok(found) => Ok(Some(found)),
                        Err(LayoutError::NotFound { .. }) => Ok(None),
                        Err(error) => Err(failed().because(error)),
                    }
                };
                let Some(found) = self.work.run(find).await? else { return Ok(None) };
                (found.manifest, found.config, From::Layout(path.clone()))
            }
        };
        match (&manifest.layers[..], &config.rootfs.diff_ids[..]) {
            ([layer], [diff_id]) => Ok(Some(Found { layer: layer.clone(), diff_id: *diff_id, from })),
            _ => Err(failed().because(io::Error::other("it has not one layer"))),
        }
    }

    async fn import(
        &self,
        found: Found,
        mounts: &CacheMounts,
        lease: &Arc<CacheLease>,
        owners: Owners,
    ) -> Result<PathBuf, BuildError> {
        let failed = || BuildError::new(ErrorKind::Base, "it cannot be unpacked");
        if found.layer.size_bytes > mounts.max_bytes {
            return Err(too_large(found.layer.size_bytes, mounts.max_bytes));
        }
        let file = match &found.from {
            From::Registry(reference) => self.spool_blob(reference, &found.layer).await?,
            From::Layout(path) => {
                let (path, blob) = (path.clone(), found.layer.clone());
                self.work.run(move || layout::open_blob(&path, &blob).map_err(|error| failed().because(error))).await?
            }
        };
        let limits = Limits { uncompressed_bytes: mounts.max_bytes, ..*self.contents.limits() };
        let (contents, lease, place) = (self.contents.clone(), lease.clone(), place_text(&mounts.place));
        let unpack = move || {
            let mut file = file;
            let again = |file: &mut fs::File| {
                file.rewind().map_err(|error| failed().because(error))?;
                file.try_clone().map(|file| contents.stoppable(file)).map_err(|error| failed().because(error))
            };
            let index = read::index(again(&mut file)?, found.diff_id, &limits).map_err(|error| failed().because(error))?;
            let writer = lease.writer().map_err(BuildError::store)?;
            let root = CacheLease::root_in(writer.path());
            fs::create_dir(&root).map_err(|error| failed().because(error))?;
            let on_disk = |error: RootfsError| failed().because(error);
            let mut unpacker = Unpacker::over(&root, &Tree::new(), &index, owners).map_err(on_disk)?;
            read::read(again(&mut file)?, found.diff_id, &limits, &mut unpacker).map_err(|error| failed().because(error))?;
            unpacker.finish().map_err(on_disk)?;
            let StepChanges { changes, .. } = rootfs::contents(&root, owners, SourceId(0)).map_err(on_disk)?;
            writer.finish().map_err(BuildError::store)?;
            note_exported(&lease, &place, &fingerprint(&changes))?;
            lease.directory().ok_or_else(|| BuildError::new(ErrorKind::Host, "a cache directory has vanished"))
        };
        self.work.run(unpack).await
    }

    /// Downloads a blob into a file without a name.
    async fn spool_blob(&self, reference: &Arc<Reference>, blob: &Descriptor) -> Result<fs::File, BuildError> {
        let failed = || BuildError::new(ErrorKind::Base, "it cannot be downloaded");
        let _permit = self.downloads.acquire().await.map_err(|error| failed().because(error))?;
        let event = Event::PullStarted { reference: (**reference).clone(), digest: blob.digest, size_bytes: blob.size_bytes };
        self.tell(event).await;
        let reader = self.registry.blob(reference, blob).await.map_err(|error| failed().refused(error))?;
        // The reader verifies size and digest.
        let (reader, _download) = reader.into_read(&tokio::runtime::Handle::current());
        let (mut reader, directory) = (self.contents.stoppable(reader), self.workspace.path().to_owned());
        let spool = move || {
            let mut file = tempfile::tempfile_in(directory).map_err(|error| failed().because(error))?;
            io::copy(&mut reader, &mut file).map_err(|error| failed().because(error))?;
            Ok(file)
        };
        let file = self.work.run(spool).await?;
        self.tell(Event::PullFinished { digest: blob.digest }).await;
        Ok(file)
    }

    /// Puts the caches that this build has changed where other machines find them.
    pub(super) async fn export_caches(&self) {
        let Some(mounts) = self.request.cache_mounts.as_ref().filter(|mounts| mounts.exports) else { return };
        let used = self.used_caches.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, used) in used {
            if let Err(error) = self.export_cache(mounts, name, &used).await {
                let _: Option<()> = self.warn_about(&used.id, "is not exported", &error).await;
            }
        }
    }

    async fn export_cache(&self, mounts: &CacheMounts, name: Digest, used: &Used) -> Result<(), BuildError> {
        // Nobody writes to it while it is read.
        let lease = Arc::new(self.lease_for_export(name).await?);
        let (contents, directory, owners) = (self.contents.clone(), self.workspace.path().to_owned(), used.owners);
        let (leased, place, max_bytes) = (lease.clone(), place_text(&mounts.place), mounts.max_bytes);
        let pack = move || {
            let failed = |error: RootfsError| BuildError::new(ErrorKind::Host, "it cannot be read").because(error);
            // Another one than this build has filled: somebody has removed that.
            let Some(root) = leased.directory() else { return Ok(None) };
            let source = contents.reserve();
            let StepChanges { changes, files } = rootfs::contents(&root, owners, source).map_err(failed)?;
            contents.fill(source, files);
            let fingerprint = fingerprint(&changes);
            if exported(&leased)?.get(&place) == Some(&fingerprint) {
                return Ok(None);
            }
            let size_bytes = size_of(&changes);
            if size_bytes > max_bytes {
                return Err(too_large(size_bytes, max_bytes));
            }
            let failed = |error| BuildError::new(ErrorKind::State, "it cannot be packed").because(error);
            let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
            let options = PackOptions { compression: COMPRESSION, level: None, mtime_limit: None, threads: threads() };
            let packed = write::pack(&changes, &*contents, &options, &mut file)
                .map_err(|error| BuildError::new(ErrorKind::Host, "it cannot be packed").because(error))?;
            Ok(Some((packed, file, fingerprint)))
        };
        let Some((packed, file, fingerprint)) = self.work.run(pack).await? else { return Ok(()) };
        let layer = Layer { diff_id: packed.diff_id, blob: packed.blob, origin: Origin::Store };
        let mut image = Image { layers: vec![layer], ..Image::scratch() };
        (image.config.os, image.config.architecture) =
            (self.request.platform.os.clone(), self.request.platform.architecture.clone());
        image.config.config.labels.insert(LABEL.to_owned(), used.id.clone());
        let assembled = image.assemble();
        match &mounts.place {
            CacheMountsPlace::Registry(repository) => {
                self.push_cache(&tagged(repository, name)?, &image, &assembled, file.path()).await?;
            }
            CacheMountsPlace::Layout(directory) => {
                let (directory, path) = (directory.clone(), file.path().to_owned());
                let put = move || {
                    export::layout::add(&image, &assembled, &tag(None, name), &directory, &OneFile(path))
                        .map_err(|error| BuildError::new(ErrorKind::Export, "it cannot be written").because(error))
                };
                self.work.run(put).await?;
            }
        }
        let place = place_text(&mounts.place);
        self.work.run(move || note_exported(&lease, &place, &fingerprint)).await
    }

    async fn push_cache(&self, to: &Reference, image: &Image, assembled: &Assembled, file: &Path) -> Result<(), BuildError> {
        let failed = |error| BuildError::new(ErrorKind::Push, format!("it cannot be pushed as {to}")).refused(error);
        let registry: &registry::Client = &self.registry;
        for layer in &image.layers {
            if !registry.has_blob(to, layer.blob.digest).await.map_err(failed)? {
                registry.push_blob(to, &layer.blob, file_opener(file.to_owned())).await.map_err(failed)?;
            }
        }
        registry.push_bytes(to, &assembled.manifest.config, assembled.config_bytes.clone()).await.map_err(failed)?;
        let kind = MediaType::new(MediaType::OCI_MANIFEST);
        registry.push_manifest(to, &kind, assembled.manifest_bytes.clone()).await.map_err(failed)?;
        Ok(())
    }

    async fn lease_for_export(&self, name: Digest) -> Result<CacheLease, BuildError> {
        let started = Instant::now();
        loop {
            let store = self.store.clone();
            let lease = self.work.run(move || store.lease_cache(&name, Sharing::Locked).map_err(BuildError::store)).await?;
            match lease {
                Some(lease) => return Ok(lease),
                None if started.elapsed() > PATIENCE => {
                    return Err(BuildError::new(ErrorKind::State, "another build uses it"));
                }
                None => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn warn_about<T>(&self, id: &str, what: &str, error: &BuildError) -> Option<T> {
        let mut message = format!("the cache {id:?} {what}: {error}");
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        self.tell(Event::Warning { message, place: None }).await;
        None
    }
}

fn too_large(size_bytes: u64, max_bytes: u64) -> BuildError {
    BuildError::new(ErrorKind::State, format!("it has {size_bytes} bytes, and {max_bytes} are allowed"))
}

/// The tag of the cache `name`.
fn tag(prefix: Option<&str>, name: Digest) -> String {
    let hex = name.hex();
    let prefix = prefix.map_or_else(String::new, |prefix| format!("{prefix}-"));
    format!("{prefix}{TAG}-{}", &hex[..TAG_DIGITS])
}

/// The cache `name` in the repository.
fn tagged(repository: &Reference, name: Digest) -> Result<Reference, BuildError> {
    let prefix = repository.tag().filter(|tag| *tag != "latest");
    let text = format!("{}/{}:{}", repository.registry(), repository.repository(), tag(prefix, name));
    text.parse().map_err(|error| BuildError::new(ErrorKind::Request, "its name is no tag").because(error))
}

/// Names a place among what is noted of a cache.
fn place_text(place: &CacheMountsPlace) -> String {
    match place {
        CacheMountsPlace::Registry(reference) => reference.to_string(),
        CacheMountsPlace::Layout(path) => format!("oci:{}", path.display()),
    }
}

/// What was last exported to, or imported from, which place.
fn exported(lease: &CacheLease) -> Result<BTreeMap<String, String>, BuildError> {
    let bytes = lease.exported().map_err(BuildError::store)?.unwrap_or_default();
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

fn note_exported(lease: &CacheLease, place: &str, fingerprint: &str) -> Result<(), BuildError> {
    let mut known = exported(lease)?;
    known.insert(place.to_owned(), fingerprint.to_owned());
    lease.note_exported(&serde_json::to_vec(&known).expect("a map of texts")).map_err(BuildError::store)
}

/// Stands for what is in a cache, without its bytes: a file that was written has another time.
fn fingerprint(changes: &[Change]) -> String {
    let mut changes = changes.to_vec();
    for change in &mut changes {
        if let Some(file) = change.file_mut() {
            (file.content, file.digest) = (Content::Inline(Arc::default()), None);
        }
    }
    let bytes = postcard::to_stdvec(&LayerIndex { changes }).expect("an index holds only bytes, numbers and lists");
    Digest::of(&bytes).to_string()
}

fn size_of(changes: &[Change]) -> u64 {
    changes.iter().filter_map(Change::file).map(|file| file.size_bytes).fold(0, u64::saturating_add)
}

/// The blob of an image that has one.
struct OneFile(PathBuf);

impl Blobs for OneFile {
    fn open(&self, _: &Layer) -> Result<Box<dyn io::Read + Send>, ExportError> {
        let file = fs::File::open(&self.0).map_err(|error| ExportError::write(&self.0, error))?;
        Ok(Box::new(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_has_a_tag_of_its_own() {
        let name = Digest::of(b"name");
        let of = |text: &str| tagged(&text.parse().unwrap(), name).unwrap().to_string();
        let digits = &name.hex()[..TAG_DIGITS];
        assert_eq!(of("r.example/a/b"), format!("r.example/a/b:mount-{digits}"));
        assert_eq!(of("r.example/a/b:main"), format!("r.example/a/b:main-mount-{digits}"));
    }
}
