//! Puts the image where it belongs. A layer is on its way to the registries as soon as it is finished, while later steps
//! run; the manifest goes last, so nobody ever sees half an image.

use super::contents::{Contents, DAMAGED};
use super::{Build, BuildError, ErrorKind, Event, Export};
use crate::cache::PushedImage;
use crate::export::{self, Blobs, ExportError};
use crate::image::{Assembled, Image, Layer, Origin};
use crate::oci::{Digest, Hasher, MediaType, Reference};
use crate::registry::{Client, Grown, RegistryError, file_opener};
use crate::store::{GrowingBlob, Store};
use futures_util::future::{join, join_all, try_join, try_join_all};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{OnceCell, mpsc},
    task::JoinHandle,
};

/// What a destination got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The name.
    pub reference: Reference,
    /// The digest of the manifest.
    pub digest: Digest,
    /// Of manifest, config and layers.
    pub size_bytes: u64,
    /// Layers that were there already or could be mounted.
    pub layers_reused: usize,
    /// Layers that were uploaded.
    pub layers_new: usize,
}

/// Uploads under way. Dropped, it ends them.
pub(super) struct Publisher {
    registry: Client,
    store: Store,
    repositories: Vec<Reference>,
    events: mpsc::Sender<Event>,
    uploads: Mutex<BTreeMap<(usize, Digest), Upload>>,
    /// What each repository is known to have.
    present: Vec<OnceCell<Present>>,
    has_lost_images: AtomicBool,
    /// Held while an image is sent to a repository that was thought to have it.
    sending_again: tokio::sync::Mutex<()>,
}

/// Of what a repository has, that which one or two questions tell: where a manifest is, so is all that belongs to it.
struct Present {
    asked: Instant,
    manifests: BTreeSet<Digest>,
    /// The image of an earlier build, if it is there.
    image: Option<PushedImage>,
}

/// A repository that has everything that a manifest names.
#[derive(Clone, Copy)]
struct Filled {
    /// How many layers it had already.
    layers_reused: usize,
    certainty: Certainty,
}

/// How it is known that a repository has something.
#[derive(Clone, Copy)]
enum Certainty {
    /// The registry says so.
    Asked,
    /// An earlier build had pushed it.
    Told,
}

/// How long an answer about a repository is believed: a build may take hours, and registries remove images.
const BELIEVED: Duration = Duration::from_mins(1);

/// What is believed of a repository without asking for each blob.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// That it has what belongs to a manifest that it has.
    Known,
    Nothing,
}

/// Ends with whether the blob was there already.
struct Upload(JoinHandle<Result<bool, BuildError>>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A layer is uploaded while it is written once it has this size. Many are smaller: they are whole at once, their repository
/// often has them, and to ask first costs one request instead of an upload that is begun and given up.
const BEGUN_BYTES: u64 = 1 << 20;

/// Uploads of a layer that is still being written, one for each repository. Dropped, they end.
pub(super) struct Begun(Vec<JoinHandle<Grown>>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Publisher {
    pub(super) fn new(registry: Client, store: Store, destinations: &[Reference], events: mpsc::Sender<Event>) -> Self {
        let mut seen = BTreeSet::new();
        let repositories =
            destinations.iter().filter(|name| seen.insert((name.registry().to_owned(), name.repository().to_owned())));
        let repositories: Vec<Reference> = repositories.cloned().collect();
        let present = repositories.iter().map(|_| OnceCell::new()).collect();
        let (uploads, has_lost_images, sending_again) = (Mutex::default(), AtomicBool::new(false), tokio::sync::Mutex::default());
        Self { registry, store, repositories, events, uploads, present, has_lost_images, sending_again }
    }

    /// Begins to upload a layer whose blob is in the store.
    pub(super) fn offer(&self, layer: &Layer) {
        self.offer_begun(layer, None);
    }

    /// Whether anything is uploaded at all.
    pub(super) fn has_repositories(&self) -> bool {
        !self.repositories.is_empty()
    }

    /// Ends all uploads.
    pub(super) fn forget_uploads(&mut self) {
        self.uploads.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether an image that an earlier build pushed has been removed since.
    pub(super) fn has_lost_images(&self) -> bool {
        self.has_lost_images.load(Ordering::Relaxed)
    }

    /// Begins to upload a layer whose blob is being written.
    pub(super) fn begin(&self, blob: &GrowingBlob) -> Begun {
        let begin = |to: &Reference| {
            let (registry, to, mut blob) = (self.registry.clone(), to.clone(), blob.clone());
            tokio::spawn(async move {
                match blob.reach(BEGUN_BYTES).await {
                    Some(progress) if progress.whole.is_none() => {
                        // An error will come again when the whole is pushed, and stay.
                        registry.push_growing(&to, blob).await.unwrap_or(Grown::Open)
                    }
                    _ => Grown::Open,
                }
            })
        };
        Begun(self.repositories.iter().map(begin).collect())
    }

    /// The same as [`offer`](Self::offer) for a layer whose upload began while it was written.
    pub(super) fn offer_begun(&self, layer: &Layer, begun: Option<Begun>) {
        let mut begun = begun.map(|mut begun| std::mem::take(&mut begun.0)).unwrap_or_default().into_iter();
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        for at in 0..self.repositories.len() {
            let begun = begun.next().map(|upload| Begun(vec![upload]));
            uploads.entry((at, layer.blob.digest)).or_insert_with(|| self.upload(at, layer.clone(), begun));
        }
    }

    fn upload(&self, repository: usize, layer: Layer, begun: Option<Begun>) -> Upload {
        let (registry, store, events) = (self.registry.clone(), self.store.clone(), self.events.clone());
        let to = self.repositories[repository].clone();
        Upload(tokio::spawn(async move {
            let failed = || BuildError::new(ErrorKind::Push, format!("cannot push the layer {} to {to}", layer.blob.digest));
            let mut grown = Grown::Open;
            if let Some(mut begun) = begun
                && let Some(upload) = begun.0.first_mut()
            {
                grown = upload.await.unwrap_or(Grown::Open);
            }
            let reused = match grown {
                Grown::Uploaded => false,
                Grown::WasThere => true,
                Grown::Open => registry.has_blob(&to, layer.blob.digest).await.map_err(|error| failed().refused(error))?,
            };
            if !reused && grown == Grown::Open {
                let opener = file_opener(store.blob_path(&layer.blob.digest));
                if let Err(error) = registry.push_blob(&to, &layer.blob, opener).await {
                    let digest = layer.blob.digest;
                    // A registry refuses a blob that is not what its name says, each in its own words.
                    let damaged = tokio::task::spawn_blocking(move || store.remove_if_damaged(&digest)).await;
                    let failure = failed().refused(error);
                    return Err(if matches!(damaged, Ok(Ok(true))) { failure.hint(DAMAGED) } else { failure });
                }
            }
            let event = Event::BlobPushed { reference: to, digest: layer.blob.digest, size_bytes: layer.blob.size_bytes, reused };
            // Nobody listens any more: then nobody wants to know.
            let _ = events.send(event).await;
            Ok(reused)
        }))
    }

    /// Whether something was uploaded to a repository, or is being.
    fn is_busy(&self, repository: usize) -> bool {
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.keys().any(|(at, _)| *at == repository)
    }

    /// Whether the blob of the layer was there already, once its upload has ended.
    async fn uploaded(&self, repository: usize, layer: &Layer) -> Result<Option<bool>, BuildError> {
        let upload = self.uploads.lock().unwrap_or_else(PoisonError::into_inner).remove(&(repository, layer.blob.digest));
        let Some(mut upload) = upload else { return Ok(None) };
        match (&mut upload.0).await {
            Ok(result) => result.map(Some),
            Err(error) => Err(BuildError::new(ErrorKind::Internal, "an upload was lost").because(error)),
        }
    }
}

impl Build {
    /// Writes the image to every place that was asked for.
    pub(super) async fn publish(&self, image: Image, assembled: Assembled) -> Result<Vec<Pushed>, BuildError> {
        self.write_exports(&image, &assembled).await?;
        let repositories =
            try_join_all((0..self.publisher.repositories.len()).map(|at| self.fill_repository(at, &image, &assembled))).await?;
        let destinations = self.request.destinations.iter().filter(|_| self.request.push);
        try_join_all(destinations.map(|destination| self.push_manifest(destination, &image, &assembled, &repositories))).await
    }

    /// Gives a destination its manifest; its repository has all else, as `filled` says of each repository.
    async fn push_manifest(
        &self,
        destination: &Reference,
        image: &Image,
        assembled: &Assembled,
        filled: &[Filled],
    ) -> Result<Pushed, BuildError> {
        let failed = || BuildError::new(ErrorKind::Push, format!("cannot push {destination}"));
        let media_type = MediaType::new(MediaType::OCI_MANIFEST);
        let push = || self.registry.push_manifest(destination, &media_type, assembled.manifest_bytes.clone());
        let known = self.publisher.repositories.iter().position(|known| is_same_repository(known, destination));
        let at = known.unwrap_or_default();
        let filled = filled[at];
        let mut layers_reused = filled.layers_reused;
        // A registry may take a manifest without looking. A config belongs to one image, and goes with it.
        let look = async || match filled.certainty {
            Certainty::Asked => Ok(true),
            Certainty::Told => self.registry.has_blob(destination, assembled.manifest.config.digest).await,
        };
        let (mut pushed, is_whole) = join(push(), look()).await;
        // Removed since we knew of it, or by a collection of garbage that left the manifest.
        if is_whole.is_ok_and(|is_whole| !is_whole) || pushed.as_ref().is_err_and(RegistryError::is_unknown_blob) {
            // Another name in the same repository waits for what is sent for this one.
            let _sending = self.publisher.sending_again.lock().await;
            let sent = try_join(self.push_layers(at, image, Trust::Nothing), self.push_config(at, assembled));
            (layers_reused, ()) = sent.await?;
            pushed = push().await;
        }
        let digest = match pushed {
            // A name that may not move, and need not.
            Err(error) if error.is_immutable_tag() => match self.registry.pushed_digest(destination).await {
                Ok(Some(digest)) if digest == assembled.descriptor.digest => Ok(digest),
                _ => Err(error),
            },
            pushed => pushed,
        };
        let digest = digest.map_err(|error| failed().refused(error))?;
        let blobs = assembled.manifest.layers.iter().map(|layer| layer.size_bytes).sum::<u64>();
        Ok(Pushed {
            reference: destination.clone(),
            digest,
            size_bytes: blobs + assembled.manifest.config.size_bytes + assembled.descriptor.size_bytes,
            layers_reused,
            layers_new: image.layers.len() - layers_reused,
        })
    }

    /// Finds out what the repositories have, before the image is there.
    pub(super) async fn look_for_images(&self) {
        join_all((0..self.publisher.repositories.len()).map(|at| self.present(at))).await;
    }

    /// What a repository is known to have: what its names stand for now, and what an earlier build of the same pushed there, with
    /// all layers that this image may have in common with that one.
    async fn present(&self, repository: usize) -> &Present {
        let place = &self.publisher.repositories[repository];
        let look = async || {
            let names = self.request.destinations.iter().filter(|name| is_same_repository(name, place));
            let (named, before) =
                join(join_all(names.map(|name| self.registry.pushed_digest(name))), self.pushed_before(place)).await;
            // If it cannot be asked, the push will tell.
            let mut manifests: BTreeSet<Digest> = named.into_iter().flatten().flatten().collect();
            let mut image = None;
            if let Some(before) = before {
                let is_there = if manifests.contains(&before.manifest) {
                    Ok(true)
                } else {
                    self.has_manifest(repository, before.manifest).await
                };
                match is_there {
                    Ok(true) => {
                        manifests.insert(before.manifest);
                        image = Some(before);
                    }
                    Ok(false) => self.publisher.has_lost_images.store(true, Ordering::Relaxed),
                    Err(_) => {}
                }
            }
            Present { asked: Instant::now(), manifests, image }
        };
        self.publisher.present[repository].get_or_init(look).await
    }

    async fn has_manifest(&self, repository: usize, manifest: Digest) -> Result<bool, RegistryError> {
        let place = self.publisher.repositories[repository].with_digest(manifest);
        self.registry.pushed_digest(&place).await.map(|found| found.is_some())
    }

    /// Whether what is known of a repository can still be believed.
    async fn trust(&self, repository: usize) -> Trust {
        let present = self.present(repository).await;
        if present.asked.elapsed() < BELIEVED {
            return Trust::Known;
        }
        match &present.image {
            Some(image) if self.has_manifest(repository, image.manifest).await.unwrap_or_default() => Trust::Known,
            _ => Trust::Nothing,
        }
    }

    /// Whether a repository has the image already, under whatever name, and so all that belongs to it.
    async fn has_image(&self, repository: usize, manifest: Digest, trust: Trust) -> bool {
        // Something new was made: the image cannot be there.
        if self.publisher.is_busy(repository) {
            return false;
        }
        let present = self.present(repository).await;
        // Where layers of an earlier image are known, what is new is sent without asking.
        match trust {
            Trust::Known if present.manifests.contains(&manifest) => true,
            Trust::Known if present.image.is_some() => false,
            _ => self.has_manifest(repository, manifest).await.unwrap_or_default(),
        }
    }

    /// Sees to it that a repository has everything that the manifest names.
    async fn fill_repository(&self, repository: usize, image: &Image, assembled: &Assembled) -> Result<Filled, BuildError> {
        let (to, manifest) = (&self.publisher.repositories[repository], assembled.descriptor.digest);
        let before = self.pushed_before(to).await.map(|before| before.manifest);
        if before == Some(manifest) && !self.publisher.is_busy(repository) {
            // Whether it is still there is asked while its manifest is sent, if no answer has come yet.
            let answered = self.publisher.present[repository].get().filter(|present| present.asked.elapsed() < BELIEVED);
            let is_there = answered.is_some_and(|present| present.manifests.contains(&manifest));
            self.tell_reused(repository, &image.layers).await;
            let certainty = if is_there { Certainty::Asked } else { Certainty::Told };
            return Ok(Filled { layers_reused: image.layers.len(), certainty });
        }
        // A config that the last build had not is sent while it is asked what is there.
        let is_new = before.is_some();
        let config_if = async |wanted| if wanted { self.push_config(repository, assembled).await } else { Ok(()) };
        let rest = async {
            let trust = self.trust(repository).await;
            if !self.has_image(repository, manifest, trust).await {
                let sent = try_join(self.push_layers(repository, image, trust), config_if(!is_new));
                return sent.await.map(|(reused, ())| reused);
            }
            self.tell_reused(repository, &image.layers).await;
            Ok(image.layers.len())
        };
        let (layers_reused, ()) = try_join(rest, config_if(is_new)).await?;
        Ok(Filled { layers_reused, certainty: Certainty::Asked })
    }

    async fn tell_reused(&self, repository: usize, layers: &[Layer]) {
        let reference = &self.publisher.repositories[repository];
        let blobs: BTreeMap<Digest, u64> = layers.iter().map(|layer| (layer.blob.digest, layer.blob.size_bytes)).collect();
        for (digest, size_bytes) in blobs {
            self.tell(Event::BlobPushed { reference: reference.clone(), digest, size_bytes, reused: true }).await;
        }
    }

    async fn push_config(&self, repository: usize, assembled: &Assembled) -> Result<(), BuildError> {
        let to = &self.publisher.repositories[repository];
        let pushed = self.registry.push_bytes(to, &assembled.manifest.config, assembled.config_bytes.clone()).await;
        pushed.map_err(|error| BuildError::new(ErrorKind::Push, format!("cannot push {to}")).refused(error))
    }

    /// Sees to it that a repository has all layers; gives the number of those that it had already.
    async fn push_layers(&self, repository: usize, image: &Image, trust: Trust) -> Result<usize, BuildError> {
        let mut seen = BTreeSet::new();
        let distinct = image.layers.iter().filter(|layer| seen.insert(layer.blob.digest));
        let push =
            async |layer: &Layer| Ok::<_, BuildError>((layer.blob.digest, self.push_layer(repository, layer, trust).await?));
        let reused: BTreeMap<Digest, bool> = try_join_all(distinct.map(push)).await?.into_iter().collect();
        Ok(image.layers.iter().filter(|layer| reused.get(&layer.blob.digest).copied().unwrap_or_default()).count())
    }

    async fn push_layer(&self, repository: usize, layer: &Layer, trust: Trust) -> Result<bool, BuildError> {
        if let Some(reused) = self.publisher.uploaded(repository, layer).await? {
            return Ok(reused);
        }
        if self.is_there(repository, layer, trust).await? {
            self.tell_reused(repository, std::slice::from_ref(layer)).await;
            return Ok(true);
        }
        self.need_blob(layer.diff_id).await?;
        self.publisher.offer(layer);
        Ok(self.publisher.uploaded(repository, layer).await?.unwrap_or_default())
    }

    /// Whether a repository has a layer without its bytes being sent: it is known to, or can be given it by the registry.
    async fn is_there(&self, repository: usize, layer: &Layer, trust: Trust) -> Result<bool, BuildError> {
        let (to, digest) = (&self.publisher.repositories[repository], layer.blob.digest);
        if trust == Trust::Known
            && self.present(repository).await.image.as_ref().is_some_and(|image| image.blobs.contains(&digest))
        {
            return Ok(true);
        }
        let Origin::Registry(from) = &layer.origin else { return Ok(false) };
        if from.registry() != to.registry() {
            return Ok(false);
        }
        let failed = |error| BuildError::new(ErrorKind::Push, format!("cannot push the layer {digest} to {to}")).refused(error);
        // What can be mounted need not be asked for.
        Ok(self.registry.mount_blob(to, from, digest).await.map_err(failed)?
            || self.registry.has_blob(to, digest).await.map_err(failed)?)
    }

    async fn write_exports(&self, image: &Image, assembled: &Assembled) -> Result<(), BuildError> {
        if self.request.exports.is_empty() {
            return Ok(());
        }
        try_join_all(image.layers.iter().map(|layer| self.need_blob(layer.diff_id))).await?;
        for place in &self.request.exports {
            let (image, assembled, place) = (image.clone(), assembled.clone(), place.clone());
            let (names, blobs) = (self.request.destinations.clone(), Stored(self.store.clone(), self.contents.clone()));
            let write = move || {
                let path = match &place {
                    Export::OciLayout(path) | Export::DockerTar(path) => path.clone(),
                };
                match &place {
                    Export::OciLayout(path) => export::layout::write(&image, &assembled, names.first(), path, &blobs),
                    Export::DockerTar(path) => export::docker::write(&image, &assembled, &names, path, &blobs),
                }
                .map_err(|error| {
                    BuildError::new(ErrorKind::Export, format!("cannot write the image to {}", path.display())).because(error)
                })
            };
            self.work.run(write).await?;
        }
        Ok(())
    }
}

fn is_same_repository(one: &Reference, other: &Reference) -> bool {
    one.registry() == other.registry() && one.repository() == other.repository()
}

/// Blobs of the store. It checks no more than the length of a blob, so that looking one up costs nothing: whoever passes its
/// bytes on finds out what a failing disk has made of them.
struct Stored(Store, Arc<Contents>);

impl Blobs for Stored {
    fn open(&self, layer: &Layer) -> Result<Box<dyn Read + Send>, ExportError> {
        Ok(Box::new(self.1.stoppable(verified(&self.0, layer)?)))
    }
}

fn verified(store: &Store, layer: &Layer) -> Result<Verified, ExportError> {
    let (digest, left_bytes) = (layer.blob.digest, layer.blob.size_bytes);
    let failed = |source| ExportError::Blob { digest, source };
    match store.open_blob(&digest) {
        Ok(Some(file)) => Ok(Verified { file, hasher: Hasher::new(), digest, left_bytes, store: store.clone() }),
        Ok(None) => Err(failed("it is not in the store any more".into())),
        Err(error) => Err(failed(error.into())),
    }
}

/// A blob on its way out. With its last byte it is known whether it is the right one; a wrong one leaves the store.
struct Verified {
    file: File,
    hasher: Hasher,
    digest: Digest,
    left_bytes: u64,
    store: Store,
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.left_bytes = self.left_bytes.saturating_sub(count as u64);
        if self.left_bytes == 0 && self.hasher.clone().finish() != self.digest {
            // Gone or not, the next build makes it again.
            let _ = self.store.remove_blob(&self.digest);
            let message = format!("{} is damaged in the state directory; build again", self.digest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;
    use crate::oci::{Descriptor, DiffId};
    use crate::registry::{self, Anonymous};
    use std::{fs, io::Write as _, time::Duration};
    use testkit::Endpoint as _;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_layer_is_sent_before_it_is_whole_unless_it_is_small() {
        for (size_bytes, expected) in [(BEGUN_BYTES - 1, Grown::Open), (BEGUN_BYTES, Grown::Uploaded)] {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(directory.path()).unwrap();
            let server = testkit::FaultyRegistry::start();
            let client = http::Client::new(http::Options::default()).unwrap();
            let client = Client::new(client, registry::Options::default(), Arc::new(Anonymous)).unwrap();
            let to = format!("{}/a:b", server.address()).parse().unwrap();
            let publisher = Publisher::new(client, store.clone(), &[to], mpsc::channel(1).0);

            let bytes = vec![0; usize::try_from(size_bytes).unwrap()];
            let mut writer = store.hashed_blob_writer().unwrap();
            let mut begun = publisher.begin(&writer.follow().unwrap());
            writer.write_all(&bytes).unwrap();
            let is_begun = async {
                while server.requests().is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let patience = Duration::from_millis(if expected == Grown::Open { 100 } else { 20_000 });
            assert_eq!(tokio::time::timeout(patience, is_begun).await.is_ok(), expected == Grown::Uploaded);
            writer.finish_as(&Descriptor::of("x", &bytes)).unwrap();
            assert_eq!(begun.0.pop().unwrap().await.unwrap(), expected);
            assert_eq!(server.requests().is_empty(), expected == Grown::Open);
        }
    }

    #[test]
    fn a_damaged_blob_is_found_on_its_way_out_and_taken_out_of_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let blob = Descriptor::of("x", b"blob");
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"blob").unwrap();
        writer.finish(Some(&blob)).unwrap();
        let layer = Layer { diff_id: DiffId(blob.digest), blob: blob.clone(), origin: Origin::Store };
        let read = || io::read_to_string(verified(&store, &layer).unwrap().take(4));
        assert_eq!(read().unwrap(), "blob");

        let path = store.blob_path(&blob.digest);
        fs::remove_file(&path).unwrap();
        fs::write(path, "blub").unwrap();
        assert!(read().unwrap_err().to_string().contains("damaged"));
        assert!(!store.has_blob(&blob));
    }
}
