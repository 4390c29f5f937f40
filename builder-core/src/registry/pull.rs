//! Pulling: from a reference to verified documents, and blobs verified while they stream.

use super::{
    Call, Client, RegistryError, answer_of,
    error::Action,
    pieces::{Arrival, LARGE_BYTES, Opened, PORTION_BYTES, Pieces, Source, range_of},
    place::places,
};
use crate::http::{
    HttpError, Lane, Method, Response, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, HeaderValue, RANGE},
};
use crate::oci::{Descriptor, Digest, Document, DocumentError, Hasher, ImageConfig, Manifest, MediaType, Platform, Reference};
use bytes::Bytes;
use futures_util::{
    Stream,
    future::{self, BoxFuture, FutureExt as _},
};
use std::{io, sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::mpsc, task::AbortHandle};

/// Manifests and indexes are small; registries refuse larger ones (distribution specification).
const MANIFEST_BYTES: u64 = 4 << 20;
/// Configs grow with the history, and with what build tools leave in them.
const CONFIG_BYTES: u64 = 8 << 20;
/// An index may name indexes; nobody nests them deeper.
const MOST_NESTED_INDEXES: usize = 3;
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// An image for one platform, as a registry describes it.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The reference that was asked for, with the digest of what it leads to: of the index if there is one.
    pub reference: Reference,
    /// The manifest of the image.
    pub manifest: Manifest,
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// The config.
    pub config: ImageConfig,
    /// The bytes of everything that was read for this: indexes, then the manifest, then the config.
    pub documents: Vec<Bytes>,
    /// The place that served it, by the manifest's digest: a mirror or the registry itself.
    pub origin: Arc<Reference>,
}

/// A manifest or an index, verified.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// What it is.
    pub document: Document,
    /// Its type, digest and size.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Bytes,
    /// The place that served it: a mirror or the registry itself.
    pub origin: Reference,
}

/// Documents that need not be fetched because somebody kept them. What it gives for a digest is checked.
pub type KnownDocuments<'a> = dyn Fn(Digest) -> BoxFuture<'a, Option<Bytes>> + Send + Sync + 'a;

impl Client {
    /// Finds out what `reference` means on `platform`: the manifest and the config of one image.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::NoPlatform`], [`RegistryError::WrongType`] if it is something else than
    /// an image, [`RegistryError::LayerCount`] if its documents contradict each other, and whatever goes wrong on the way.
    pub async fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved, RegistryError> {
        self.resolve_knowing(reference, platform, &|_| future::ready(None).boxed()).await
    }

    /// The same, where some of the documents may be known already. What a tag stands for is asked in any case.
    ///
    /// # Errors
    /// Those of [`Client::resolve`].
    pub async fn resolve_knowing(
        &self,
        reference: &Reference,
        platform: &Platform,
        known: &KnownDocuments<'_>,
    ) -> Result<Resolved, RegistryError> {
        let named = match reference.digest() {
            Some(digest) => known_manifest(reference, digest, None, known).await,
            None => None,
        };
        let first = match named {
            Some(first) => first,
            None => self.fetch(reference).await?,
        };
        let named = reference.with_digest(first.descriptor.digest);
        let mut documents = Vec::new();
        let mut found = first;
        let mut nested = 0;
        let manifest = loop {
            match found.document {
                Document::Manifest(manifest) => break manifest,
                Document::Index(index) => {
                    nested += 1;
                    let selected = index.select(platform).filter(|_| nested <= MOST_NESTED_INDEXES);
                    let Some(selected) = selected else {
                        return Err(RegistryError::NoPlatform {
                            reference: reference.to_string(),
                            wanted: platform.clone(),
                            offered: index.manifests.iter().filter_map(|offer| offer.platform.clone()).filter(is_real).collect(),
                        });
                    };
                    let place = found.origin.with_digest(selected.digest);
                    documents.push(found.bytes);
                    found = match known_manifest(&place, selected.digest, Some(selected), known).await {
                        Some(found) => found,
                        None => self.fetch_at(&place, Some(selected)).await?,
                    };
                }
            }
        };
        check_types(reference, &manifest)?;
        let origin = found.origin.with_digest(found.descriptor.digest);
        let config_bytes = match known_bytes(manifest.config.digest, known).await {
            Some(bytes) => bytes,
            None => self.document(&origin, &manifest.config, CONFIG_BYTES).await?,
        };
        let config: ImageConfig = serde_json::from_slice(&config_bytes)
            .map_err(|source| RegistryError::Config { reference: reference.to_string(), source })?;
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(RegistryError::LayerCount { reference: reference.to_string(), layers, diff_ids });
        }
        documents.extend([found.bytes, config_bytes]);
        Ok(Resolved { reference: named, manifest, descriptor: found.descriptor, config, documents, origin: Arc::new(origin) })
    }

    /// Fetches the manifest or index that `reference` names, from the first of its places that has it.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] if none has it; otherwise why the last place did not give it.
    pub async fn fetch(&self, reference: &Reference) -> Result<Fetched, RegistryError> {
        self.first(reference, reference.to_string(), |place| async move { self.fetch_at(&place, None).await }.boxed()).await
    }

    /// The digest that `reference` has at present; `None` if there is nothing. Costs no download, and at Docker Hub no part
    /// of the pulls that it allows.
    ///
    /// # Errors
    /// If the registry cannot be asked.
    pub async fn current_digest(&self, reference: &Reference) -> Result<Option<Digest>, RegistryError> {
        match self.first(reference, reference.to_string(), |place| self.digest_at(place).boxed()).await {
            Err(RegistryError::NotFound { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Opens a blob; `reference` says in which repository it is ([`Resolved::origin`], or a name whose mirrors are asked too).
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], or why it cannot be read.
    pub async fn blob(&self, reference: &Reference, blob: &Descriptor) -> Result<BlobReader, RegistryError> {
        self.first(reference, blob_of(reference, blob.digest), |place| {
            let mut reader = BlobReader::new(self.clone(), place, blob.clone());
            async move { reader.open().await.map(|()| reader) }.boxed()
        })
        .await
    }

    /// A small blob as a whole.
    ///
    /// # Errors
    /// [`RegistryError::TooLarge`] if it claims to be larger than `limit_bytes`, and those of [`Client::blob`].
    pub async fn document(&self, reference: &Reference, blob: &Descriptor, limit_bytes: u64) -> Result<Bytes, RegistryError> {
        if blob.size_bytes > limit_bytes {
            let what = blob_of(reference, blob.digest);
            return Err(RegistryError::TooLarge { what, size_bytes: blob.size_bytes, limit_bytes });
        }
        let mut reader = self.blob(reference, blob).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    /// What the first of the places gives that gives anything; `what` names it if none does.
    async fn first<'f, T>(
        &self,
        reference: &Reference,
        what: String,
        // A boxed future rather than an `AsyncFn`: of that the compiler cannot see that it may go to another thread.
        ask: impl Fn(Reference) -> BoxFuture<'f, Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let mut tried = Vec::new();
        let mut failed: Option<RegistryError> = None;
        for place in places(reference, &self.0.options.mirrors, self.0.options.skip_default_fallback) {
            match ask(place.clone()).await {
                Ok(found) => return Ok(found),
                // If the registry itself says that there is nothing, a mirror's trouble does not matter.
                Err(RegistryError::NotFound { .. }) if place == *reference => failed = None,
                // That one mirror lacks it says less than that another could not be asked.
                Err(RegistryError::NotFound { .. }) => {}
                Err(error) => failed = Some(error),
            }
            if place != *reference {
                tried.push(place.registry().to_owned());
            }
        }
        Err(failed.unwrap_or(RegistryError::NotFound { reference: what, tried }))
    }

    /// The digest that one place says.
    async fn digest_at(&self, place: Reference) -> Result<Digest, RegistryError> {
        let action = Action { doing: "look up", what: place.to_string() };
        let mut call = Call::new(action, &place, Method::HEAD, format!("manifests/{}", place.tag_or_digest()));
        call.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        let response = self.send(&call).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(not_found(&place)),
            _ => return Err(call.refused(answer_of(response).await)),
        }
        let said = response.header("docker-content-digest").and_then(|digest| digest.parse().ok());
        // It holds one of the places that the next request may wait for.
        drop(response);
        match said {
            Some(digest) => Ok(digest),
            // The header is optional in the specification.
            None => self.fetch_at(&place, None).await.map(|fetched| fetched.descriptor.digest),
        }
    }

    /// Fetches a manifest or index from one place, and compares it with what `named` it.
    async fn fetch_at(&self, place: &Reference, named: Option<&Descriptor>) -> Result<Fetched, RegistryError> {
        let what = format!("the manifest of {place}");
        if let Some(named) = named.filter(|named| named.size_bytes > MANIFEST_BYTES) {
            return Err(RegistryError::TooLarge { what, size_bytes: named.size_bytes, limit_bytes: MANIFEST_BYTES });
        }
        let action = Action { doing: "read the manifest of", what: place.to_string() };
        let mut call = Call::new(action, place, Method::GET, format!("manifests/{}", place.tag_or_digest()));
        call.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        let mut attempts = 0;
        let (media_type, bytes) = loop {
            let response = self.send(&call).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(not_found(place)),
                _ => return Err(call.refused(answer_of(response).await)),
            }
            let media_type = response.header("content-type").map(str::to_owned);
            attempts += 1;
            match response.bytes(MANIFEST_BYTES).await {
                Ok(bytes) => break (media_type, bytes),
                Err(error) if error.is_transient() && self.0.http.pause(attempts).await => {}
                Err(error) => return Err(call.http(error)),
            }
        };
        let actual = Digest::of(&bytes);
        if let Some(expected) = place.digest().filter(|expected| *expected != actual) {
            return Err(RegistryError::Digest { what, expected, actual });
        }
        if let Some(named) = named.filter(|named| named.size_bytes != bytes.len() as u64) {
            let (expected_bytes, actual_bytes) = (named.size_bytes, Some(bytes.len() as u64));
            return Err(RegistryError::Size { what, expected_bytes, actual_bytes });
        }
        read_manifest(place, bytes, media_type.as_deref())
            .map_err(|source| RegistryError::Document { reference: place.to_string(), source })
    }
}

fn read_manifest(place: &Reference, bytes: Bytes, media_type: Option<&str>) -> Result<Fetched, DocumentError> {
    let document = Document::parse(&bytes, media_type)?;
    let kind = match &document {
        Document::Manifest(manifest) => manifest.media_type().as_str(),
        Document::Index(_) => media_type.filter(|kind| MediaType::new(*kind).is_index()).unwrap_or(MediaType::OCI_INDEX),
    };
    Ok(Fetched { descriptor: Descriptor::of(kind, &bytes), document, bytes, origin: place.clone() })
}

async fn known_bytes(digest: Digest, known: &KnownDocuments<'_>) -> Option<Bytes> {
    known(digest).await.filter(|bytes| Digest::of(bytes) == digest)
}

/// The manifest or index of that digest, as if it had been fetched from `place`.
async fn known_manifest(
    place: &Reference,
    digest: Digest,
    named: Option<&Descriptor>,
    known: &KnownDocuments<'_>,
) -> Option<Fetched> {
    let bytes = known_bytes(digest, known).await?;
    read_manifest(place, bytes, named.map(|named| named.media_type.as_str())).ok()
}

/// Attestations stand in an index with a platform of `unknown/unknown`.
fn is_real(platform: &Platform) -> bool {
    platform.os != "unknown"
}

fn not_found(place: &Reference) -> RegistryError {
    RegistryError::NotFound { reference: place.to_string(), tried: Vec::new() }
}

pub(super) fn blob_of(reference: &Reference, digest: Digest) -> String {
    format!("blob {digest} of {}/{}", reference.registry(), reference.repository())
}

fn check_types(reference: &Reference, manifest: &Manifest) -> Result<(), RegistryError> {
    let config = manifest.config.media_type.as_str();
    let known = matches!(config, MediaType::OCI_CONFIG | MediaType::DOCKER_CONFIG);
    let odd_layer = manifest.layers.iter().find(|layer| layer.media_type.layer_compression().is_none());
    let found = if known { odd_layer.map(|layer| layer.media_type.to_string()) } else { Some(config.to_owned()) };
    found.map_or(Ok(()), |found| Err(RegistryError::WrongType { reference: reference.to_string(), found }))
}

/// How often in a row a download may end without having brought anything.
const MOST_BARREN_ATTEMPTS: u32 = 5;
/// How often a download may be resumed at all.
const MOST_RESUMPTIONS: u32 = 100;

/// The bytes of a blob, counted and hashed as they come.
///
/// The last piece is given only after the digest was found to be right; the pieces before it are as yet unverified, so a
/// reader must not act on them in a way that cannot be undone when an error follows. Broken connections are resumed where
/// they broke. A reader holds one of the host's places for downloads until it is dropped; a large blob is fetched from further
/// places as well, as long as nobody else wants them, and up to 16 MiB ahead of its reader.
#[derive(Debug)]
pub struct BlobReader {
    client: Client,
    place: Reference,
    blob: Descriptor,
    response: Option<Response>,
    /// In place of one response, where the registry sends ranges.
    pieces: Option<Box<Pieces>>,
    /// Whether ranges side by side are not tried, or not any more.
    is_one_stream: bool,
    received: u64,
    /// What a server that knows no ranges sends a second time.
    skip: u64,
    hasher: Hasher,
    verified: bool,
    barren: u32,
    resumptions: u32,
}

impl BlobReader {
    fn new(client: Client, place: Reference, blob: Descriptor) -> Self {
        // One place is always left to questions: with two there is none to spare.
        let is_one_stream = blob.size_bytes < LARGE_BYTES || client.http().options().connections_per_host <= 2;
        Self {
            client,
            place,
            blob,
            response: None,
            pieces: None,
            is_one_stream,
            received: 0,
            skip: 0,
            hasher: Hasher::new(),
            verified: false,
            barren: 0,
            resumptions: 0,
        }
    }

    /// The blob.
    pub fn descriptor(&self) -> &Descriptor {
        &self.blob
    }

    /// Where it comes from.
    pub fn place(&self) -> &Reference {
        &self.place
    }

    /// The next piece; `None` at the end of a blob that is right in size and digest.
    ///
    /// # Errors
    /// [`RegistryError::Digest`], [`RegistryError::Size`], or why it cannot be read to its end. After an error there is
    /// nothing more to come.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.received == self.blob.size_bytes && !self.verified {
                self.verify()?;
            }
            if let Some(pieces) = &mut self.pieces {
                if self.verified {
                    self.pieces = None;
                    return Ok(None);
                }
                match pieces.next().await {
                    Arrival::Bytes(bytes) => {
                        if let Some(bytes) = self.accept(bytes)? {
                            return Ok(Some(bytes));
                        }
                    }
                    Arrival::Interrupted { error, retry_after } => {
                        if !self.is_worth_another_try(retry_after).await {
                            self.pieces = None;
                            return Err(error);
                        }
                    }
                    Arrival::Odd => (self.pieces, self.is_one_stream) = (None, true),
                }
                continue;
            }
            let Some(response) = &mut self.response else {
                if self.verified {
                    return Ok(None);
                }
                self.open().await?;
                continue;
            };
            let outcome = response.chunk().await;
            if self.verified {
                self.response = None;
                // What comes after the last byte is too much; that nothing comes is as it should be, however it is said.
                return match outcome {
                    Ok(Some(more)) if !more.is_empty() => Err(self.wrong_size(None)),
                    _ => Ok(None),
                };
            }
            match outcome {
                Ok(Some(bytes)) => {
                    if let Some(bytes) = self.accept(bytes)? {
                        return Ok(Some(bytes));
                    }
                }
                Ok(None) => self.interrupted(None).await?,
                Err(error) => self.interrupted(Some(error)).await?,
            }
        }
    }

    /// The pieces as a stream that ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, RegistryError>> + Send {
        futures_util::stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            match reader.chunk().await {
                Ok(chunk) => chunk.map(|chunk| (Ok(chunk), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// The bytes for a reader on a blocking thread. `runtime` downloads a few portions ahead; it must not be the thread that
    /// reads. The download lasts no longer than the second value.
    pub fn into_read(mut self, runtime: &Handle) -> (BlobRead, Download) {
        let (sender, receiver) = mpsc::channel(PORTIONS_AHEAD);
        let download = runtime.spawn(async move {
            loop {
                let portion = tokio::select! {
                    portion = self.chunk() => portion,
                    // Nobody reads any more.
                    () = sender.closed() => return,
                };
                match portion {
                    Ok(Some(bytes)) => {
                        for portion in bytes.chunks(PORTION_BYTES) {
                            if sender.send(Ok(Bytes::copy_from_slice(portion))).await.is_err() {
                                return;
                            }
                        }
                    }
                    end => {
                        let _ = sender.send(end.map(Option::unwrap_or_default)).await;
                        return;
                    }
                }
            }
        });
        (BlobRead { receiver, portion: Bytes::new(), ended: false }, Download(download.abort_handle()))
    }

    /// Opens the blob where we are in it.
    async fn open(&mut self) -> Result<(), RegistryError> {
        if !self.is_one_stream && self.received == 0 {
            let source = Source::new(self.client.clone(), self.place.clone(), self.blob.clone());
            match Box::pin(source.open()).await? {
                Opened::Pieces(pieces) => {
                    self.pieces = Some(pieces);
                    return Ok(());
                }
                Opened::Whole(response) => {
                    self.is_one_stream = true;
                    return self.take_up(*response);
                }
                Opened::Size(actual) => return Err(self.wrong_size(Some(actual))),
                Opened::Missing => return Err(self.missing()),
                // Asked without a range, the registry does it or says why it does not.
                Opened::Odd => self.is_one_stream = true,
            }
        }
        let action = Action { doing: "download", what: blob_of(&self.place, self.blob.digest) };
        let mut call = Call::new(action, &self.place, Method::GET, format!("blobs/{}", self.blob.digest));
        call.lane = Lane::Download;
        // A proxy that compresses on its way would give us other bytes than the digest is of.
        call.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.received > 0 {
            let range = format!("bytes={}-", self.received);
            call.headers.insert(RANGE, HeaderValue::try_from(range).expect("a number is good in a header"));
        }
        let response = Box::pin(self.client.send(&call)).await?;
        let starts_at = |offset| range_of(&response).is_some_and(|(range, _)| range.start == offset);
        match response.status() {
            StatusCode::OK => self.skip = self.received,
            StatusCode::PARTIAL_CONTENT if self.received > 0 && starts_at(self.received) => self.skip = 0,
            StatusCode::NOT_FOUND if self.received == 0 => return Err(self.missing()),
            // The blob ends where we are: it is shorter than its descriptor says.
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(self.wrong_size(Some(self.received))),
            _ => return Err(call.refused(answer_of(response).await)),
        }
        self.take_up(response)
    }

    /// Goes on with `response`, if its length is right.
    fn take_up(&mut self, response: Response) -> Result<(), RegistryError> {
        let whole = response.content_length().map(|length| length.saturating_add(self.received - self.skip));
        if let Some(actual) = whole.filter(|actual| *actual != self.blob.size_bytes) {
            return Err(self.wrong_size(Some(actual)));
        }
        self.response = Some(response);
        Ok(())
    }

    /// Takes a piece in; `None` if we had all of it already.
    fn accept(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>, RegistryError> {
        let known = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        self.skip -= known as u64;
        let bytes = bytes.split_off(known);
        if bytes.is_empty() {
            return Ok(None);
        }
        self.received += bytes.len() as u64;
        if self.received > self.blob.size_bytes {
            (self.response, self.pieces) = (None, None);
            return Err(self.wrong_size(None));
        }
        self.hasher.update(&bytes);
        self.barren = 0;
        if self.received == self.blob.size_bytes {
            self.verify()?;
        }
        Ok(Some(bytes))
    }

    fn verify(&mut self) -> Result<(), RegistryError> {
        let (expected, actual) = (self.blob.digest, std::mem::take(&mut self.hasher).finish());
        if expected != actual {
            (self.response, self.pieces) = (None, None);
            return Err(RegistryError::Digest { what: blob_of(&self.place, expected), expected, actual });
        }
        self.verified = true;
        Ok(())
    }

    /// Prepares to resume after the download ended too early, as long as that gets us on.
    async fn interrupted(&mut self, error: Option<HttpError>) -> Result<(), RegistryError> {
        self.response = None;
        let is_hopeful = error.as_ref().is_none_or(HttpError::is_transient);
        if is_hopeful && self.is_worth_another_try(None).await {
            return Ok(());
        }
        Err(match error {
            Some(source) => {
                RegistryError::Http { action: Action { doing: "download", what: blob_of(&self.place, self.blob.digest) }, source }
            }
            None => self.wrong_size(Some(self.received)),
        })
    }

    /// Counts a failure and waits, as long as that is of use.
    async fn is_worth_another_try(&mut self, retry_after: Option<Duration>) -> bool {
        self.barren += 1;
        self.resumptions += 1;
        let is_patient = self.barren <= MOST_BARREN_ATTEMPTS && self.resumptions <= MOST_RESUMPTIONS;
        is_patient && self.client.http().pause_as_asked(self.barren, retry_after).await
    }

    fn missing(&self) -> RegistryError {
        RegistryError::NotFound { reference: blob_of(&self.place, self.blob.digest), tried: Vec::new() }
    }

    fn wrong_size(&self, actual_bytes: Option<u64>) -> RegistryError {
        let (what, expected_bytes) = (blob_of(&self.place, self.blob.digest), self.blob.size_bytes);
        RegistryError::Size { what, expected_bytes, actual_bytes }
    }
}

/// Portions that wait for a blocking reader.
const PORTIONS_AHEAD: usize = 16;

/// A download under way. Dropped, it ends, and the thread that waits for its bytes gets an error at once.
#[derive(Debug)]
pub struct Download(AbortHandle);

impl Drop for Download {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A blob for a blocking reader: an error of the download is an error of the read, its cause a [`RegistryError`].
#[derive(Debug)]
pub struct BlobRead {
    /// An empty portion is the end.
    receiver: mpsc::Receiver<Result<Bytes, RegistryError>>,
    portion: Bytes,
    ended: bool,
}

impl io::Read for BlobRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.portion.is_empty() && !self.ended && !buffer.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(portion)) => {
                    self.ended = portion.is_empty();
                    self.portion = portion;
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Err(io::Error::other(error));
                }
                // The download was dropped: what we have is not the whole blob.
                None => return Err(io::Error::other("the download was given up")),
            }
        }
        let taken = self.portion.split_to(self.portion.len().min(buffer.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}
