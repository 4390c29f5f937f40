//! Pushing: what is there already is left, what is elsewhere in the registry is mounted, the rest is streamed.

use super::{Answer, Call, Client, RegistryError, Target, answer_of, challenge::Scopes, error::Action, place::canonical};
use crate::http::{
    Body, HttpError, Lane, Method, Opener, Replay, Response, StatusCode, Url,
    header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue},
    is_transient,
};
use crate::oci::{Descriptor, Digest, MediaType, Reference};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::Arc,
};

/// What a chunk has at first where a registry refuses a body as too large; it is halved as long as chunks are refused too.
const CHUNK_BYTES: usize = 8 << 20;
const SMALLEST_CHUNK_BYTES: usize = 256 << 10;

impl Client {
    /// Whether the repository of `to` has the blob.
    ///
    /// # Errors
    /// If the registry cannot be asked.
    pub async fn has_blob(&self, to: &Reference, digest: Digest) -> Result<bool, RegistryError> {
        let action = Action { doing: "look for", what: blob_in(to, digest) };
        let mut call = Call::new(action, to, Method::HEAD, format!("blobs/{digest}"));
        // The token for the push that follows serves here too.
        call.scopes = Scopes::push(to.repository());
        let response = self.send(&call).await?;
        match response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            // The address that a registry redirects to may be signed for GET only; it redirects to what it has.
            StatusCode::FORBIDDEN if response.url().path() != format!("/v2/{}/blobs/{digest}", to.repository()) => Ok(true),
            _ => Err(call.refused(answer_of(response).await)),
        }
    }

    /// Makes a blob of the repository of `from` one of the repository of `to`, without moving it. `false` if that is not
    /// possible (another registry, no permission there, not supported): then it has to be pushed.
    ///
    /// # Errors
    /// If the registry cannot be asked.
    pub async fn mount_blob(&self, to: &Reference, from: &Reference, digest: Digest) -> Result<bool, RegistryError> {
        if canonical(to.registry()) != canonical(from.registry()) || to.repository() == from.repository() {
            return Ok(false);
        }
        let action = Action { doing: "mount", what: blob_in(to, digest) };
        let path = format!("blobs/uploads/?mount={digest}&from={}", from.repository());
        let mut call = Call::new(action, to, Method::POST, path);
        call.replay = Replay::Allowed;
        call.scopes.add(Scopes::pull(from.repository()));
        let response = match self.send(&call).await {
            Ok(response) => response,
            // Who may not read there may still push here.
            Err(RegistryError::Unauthorized { .. } | RegistryError::Denied { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        match response.status() {
            StatusCode::CREATED => Ok(true),
            StatusCode::ACCEPTED => {
                self.cancel(&call, response).await;
                Ok(false)
            }
            status if is_transient(status) => Err(call.refused(answer_of(response).await)),
            _ => Ok(false),
        }
    }

    /// Puts a blob into the repository of `to`. `open` is called for each attempt and must give the same bytes each time.
    ///
    /// # Errors
    /// If the bytes are not those of `blob`, cannot be read, or the registry does not take them.
    pub async fn push_blob(&self, to: &Reference, blob: &Descriptor, open: Opener) -> Result<(), RegistryError> {
        self.push_body(to, blob, Body::Stream { size_bytes: blob.size_bytes, open }).await
    }

    /// Puts a small blob into the repository of `to`, if it is not there yet.
    ///
    /// # Errors
    /// If the registry does not take it.
    pub async fn push_bytes(&self, to: &Reference, blob: &Descriptor, bytes: impl Into<Bytes>) -> Result<(), RegistryError> {
        if self.has_blob(to, blob.digest).await? {
            return Ok(());
        }
        self.push_body(to, blob, Body::Bytes(bytes.into())).await
    }

    /// Puts a manifest or an index at the tag of `to`, or at its digest.
    ///
    /// # Errors
    /// [`RegistryError::Digest`] if the registry stored something else, [`RegistryError::is_immutable_tag`], and others.
    pub async fn push_manifest(
        &self,
        to: &Reference,
        media_type: &MediaType,
        bytes: impl Into<Bytes>,
    ) -> Result<Digest, RegistryError> {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let action = Action { doing: "push the manifest of", what: to.to_string() };
        // A name with both is pushed by its tag: that is what the digest is then found by.
        let name = to.tag().map_or_else(|| to.tag_or_digest(), str::to_owned);
        let mut call = Call::new(action, to, Method::PUT, format!("manifests/{name}"));
        let kind = HeaderValue::try_from(media_type.as_str())
            .map_err(|_| RegistryError::WrongType { reference: to.to_string(), found: format!("the type {media_type:?}") })?;
        call.headers.insert(CONTENT_TYPE, kind);
        call.body = Body::Bytes(bytes);
        call.replay = Replay::Allowed;
        let response = self.send(&call).await?;
        if !response.status().is_success() {
            return Err(call.refused(answer_of(response).await));
        }
        check_digest(&response, &call.action.what, digest)?;
        Ok(digest)
    }

    /// Gives what `existing` names another name in the same repository.
    ///
    /// # Errors
    /// If it is not there or the registry refuses.
    pub async fn tag(&self, existing: &Reference, tagged: &Reference) -> Result<Digest, RegistryError> {
        let found = self.fetch(existing).await?;
        self.push_manifest(tagged, &found.descriptor.media_type, found.bytes).await
    }

    /// Finds out whether we may push to the repository of `to`, by beginning an upload and giving it up.
    ///
    /// # Errors
    /// Why we may not.
    pub async fn check_push(&self, to: &Reference) -> Result<(), RegistryError> {
        let action = Action { doing: "push to", what: format!("{}/{}", to.registry(), to.repository()) };
        let (call, response) = self.begin_upload(to, action).await?;
        self.cancel(&call, response).await;
        Ok(())
    }

    async fn push_body(&self, to: &Reference, blob: &Descriptor, body: Body) -> Result<(), RegistryError> {
        let action = Action { doing: "push", what: blob_in(to, blob.digest) };
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (call, response) = self.begin_upload(to, action.clone()).await?;
            let session = location(&call, &response)?;
            drop(response);
            let outcome = self.upload(to, blob, &body, session, action.clone()).await;
            let hopeful = match &outcome {
                Err(RegistryError::Http { source, .. }) => source.is_transient(),
                // An upload session that the registry has lost is begun anew.
                Err(RegistryError::Refused { answer, .. }) => {
                    let lost = answer.code.as_deref().is_some_and(|code| code.starts_with("BLOB_UPLOAD_"));
                    lost || answer.status == 416 || StatusCode::from_u16(answer.status).is_ok_and(is_transient)
                }
                _ => false,
            };
            if !hopeful || !self.0.http.pause(attempts).await {
                return outcome;
            }
            // The connection may have broken after the registry had taken everything.
            if matches!(self.has_blob(to, blob.digest).await, Ok(true)) {
                return Ok(());
            }
        }
    }

    /// One attempt: in one piece, or in chunks where one piece is too large.
    async fn upload(
        &self,
        to: &Reference,
        blob: &Descriptor,
        body: &Body,
        session: Url,
        action: Action,
    ) -> Result<(), RegistryError> {
        let mut put = Call::new(action.clone(), to, Method::PUT, String::new());
        put.target = Target::Location(with_digest(session, blob.digest));
        put.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        put.body = body.clone();
        put.lane = Lane::Upload;
        let response = self.send(&put).await?;
        match response.status() {
            status if status.is_success() => check_digest(&response, &blob_in(to, blob.digest), blob.digest),
            StatusCode::PAYLOAD_TOO_LARGE => {
                drop(response);
                self.upload_chunks(to, blob, body, action).await
            }
            _ => Err(put.refused(answer_of(response).await)),
        }
    }

    async fn upload_chunks(&self, to: &Reference, blob: &Descriptor, body: &Body, action: Action) -> Result<(), RegistryError> {
        let (call, response) = self.begin_upload(to, action.clone()).await?;
        let least = response.header("oci-chunk-min-length").and_then(|least| least.parse().ok()).unwrap_or(0_usize);
        let least = least.clamp(SMALLEST_CHUNK_BYTES, 2 * CHUNK_BYTES);
        let mut chunk_bytes = CHUNK_BYTES.max(least);
        let mut target = location(&call, &response)?;
        drop(response);
        let mut chunks = Chunks::new(body);
        let mut offset = 0;
        while let Some(chunk) = chunks
            .next(chunk_bytes)
            .await
            .map_err(|source| call.http(HttpError::Source { host: to.registry().to_owned(), source }))?
        {
            let mut patch = Call::new(action.clone(), to, Method::PATCH, String::new());
            patch.target = Target::Location(target.clone());
            patch.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            let range = format!("{offset}-{}", offset + chunk.len() as u64 - 1);
            patch.headers.insert(CONTENT_RANGE, HeaderValue::try_from(range).expect("numbers are good in a header"));
            patch.body = Body::Bytes(chunk.clone());
            patch.lane = Lane::Upload;
            let response = self.send(&patch).await?;
            match response.status() {
                status if status.is_success() => {
                    target = location(&patch, &response)?;
                    offset += chunk.len() as u64;
                }
                StatusCode::PAYLOAD_TOO_LARGE if chunk_bytes / 2 >= least => {
                    chunk_bytes /= 2;
                    chunks.give_back(chunk);
                }
                _ => return Err(patch.refused(answer_of(response).await)),
            }
        }
        let mut put = Call::new(action, to, Method::PUT, String::new());
        put.target = Target::Location(with_digest(target, blob.digest));
        let response = self.send(&put).await?;
        if !response.status().is_success() {
            return Err(put.refused(answer_of(response).await));
        }
        check_digest(&response, &blob_in(to, blob.digest), blob.digest)
    }

    async fn begin_upload<'a>(&self, to: &'a Reference, action: Action) -> Result<(Call<'a>, Response), RegistryError> {
        let mut call = Call::new(action, to, Method::POST, "blobs/uploads/".to_owned());
        // At worst the registry forgets a session later.
        call.replay = Replay::Allowed;
        let response = self.send(&call).await?;
        if response.status().is_success() {
            return Ok((call, response));
        }
        Err(call.refused(answer_of(response).await))
    }

    /// Gives an upload up. A registry that does not know how forgets it by itself.
    async fn cancel(&self, call: &Call<'_>, response: Response) {
        let location = location(call, &response);
        // It holds one of the places that the next request may wait for.
        drop(response);
        if let Ok(location) = location {
            let mut cancel = Call::new(call.action.clone(), call.place, Method::DELETE, String::new());
            cancel.target = Target::Location(location);
            cancel.scopes = call.scopes.clone();
            let _ = self.send(&cancel).await;
        }
    }
}

/// A body, cut into pieces. No more than one piece of the first size is in memory.
struct Chunks {
    source: Option<Source>,
    /// Read, but not sent: what comes next.
    waiting: VecDeque<Bytes>,
}

enum Source {
    Closed(Body),
    Open(Box<dyn Read + Send>),
}

impl Chunks {
    fn new(body: &Body) -> Self {
        Self { source: Some(Source::Closed(body.clone())), waiting: VecDeque::new() }
    }

    /// A chunk that is to be cut smaller.
    fn give_back(&mut self, chunk: Bytes) {
        self.waiting.push_front(chunk);
    }

    /// The next `size` bytes, fewer only at the end; `None` after it.
    async fn next(&mut self, size: usize) -> io::Result<Option<Bytes>> {
        if let Some(mut chunk) = self.waiting.pop_front() {
            if chunk.len() > size {
                self.waiting.push_front(chunk.split_off(size));
            }
            return Ok(Some(chunk));
        }
        let Some(source) = self.source.take() else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || {
            let mut reader: Box<dyn Read + Send> = match source {
                Source::Closed(Body::Empty) => Box::new(io::empty()),
                Source::Closed(Body::Bytes(bytes)) => Box::new(io::Cursor::new(bytes)),
                Source::Closed(Body::Stream { open, .. }) => open()?,
                Source::Open(reader) => reader,
            };
            let mut chunk = Vec::new();
            reader.by_ref().take(size as u64).read_to_end(&mut chunk)?;
            Ok::<_, io::Error>((reader, chunk))
        });
        let (reader, chunk) = read.await.map_err(io::Error::other)??;
        self.source = Some(Source::Open(reader));
        Ok(if chunk.is_empty() { None } else { Some(chunk.into()) })
    }
}

/// Where an upload goes on: relative or absolute, its query is part of it.
fn location(call: &Call<'_>, response: &Response) -> Result<Url, RegistryError> {
    let nowhere = || {
        let message = Some("it does not say where to upload to".to_owned());
        call.refused(Answer { status: response.status().as_u16(), code: None, message })
    };
    response.url().join(response.header("location").ok_or_else(nowhere)?).map_err(|_| nowhere())
}

fn with_digest(mut location: Url, digest: Digest) -> Url {
    location.query_pairs_mut().append_pair("digest", &digest.to_string());
    location
}

/// Registries may say what they stored; if they do, it must be what we sent.
fn check_digest(response: &Response, what: &str, expected: Digest) -> Result<(), RegistryError> {
    match response.header("docker-content-digest").and_then(|digest| digest.parse::<Digest>().ok()) {
        Some(actual) if actual != expected => Err(RegistryError::Digest { what: what.to_owned(), expected, actual }),
        _ => Ok(()),
    }
}

fn blob_in(to: &Reference, digest: Digest) -> String {
    format!("blob {digest} in {}/{}", to.registry(), to.repository())
}

/// Opens a file for [`Client::push_blob`].
pub fn file_opener(path: std::path::PathBuf) -> Opener {
    Arc::new(move || Ok(Box::new(std::fs::File::open(&path)?)))
}
