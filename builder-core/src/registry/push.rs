//! Pushing: what is there already is left, what is elsewhere in the registry is mounted, the rest is streamed.

use super::{
    Call, Client, RegistryError, Target, answer_of,
    challenge::Scopes,
    error::Action,
    place::canonical,
    upload::{Grown, Source, blob_in, check_digest, location, with_digest},
};
use crate::http::{
    Body, Lane, Method, Opener, Replay, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderValue},
    is_transient,
};
use crate::oci::{Descriptor, Digest, MediaType, Reference};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// Of a blob of this size it pays to ask what the registry has of it after an upload broke.
const RESUMED_BYTES: u64 = 1 << 20;

/// What became of a blob that was sent in one piece.
enum Uploaded {
    Yes,
    TooLarge,
    Refused(RegistryError, Option<Duration>),
}

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

    /// Puts a small blob into the repository of `to`, whether or not it is there: to ask would take as long as to send it.
    ///
    /// # Errors
    /// If the registry does not take it.
    pub async fn push_bytes(&self, to: &Reference, blob: &Descriptor, bytes: impl Into<Bytes>) -> Result<(), RegistryError> {
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
            let session = self.begin(to, &action).await?;
            let location = session.location.clone();
            let (outcome, retry_after) = match self.upload(to, blob, &body, location, action.clone()).await {
                Ok(Uploaded::Yes) => return Ok(()),
                Ok(Uploaded::TooLarge) => {
                    let session = self.begin(to, &action).await?;
                    (self.send_pieces(to, Source::Whole(&body, blob), session, &action).await.map(drop), None)
                }
                Ok(Uploaded::Refused(error, retry_after)) => (Err(error), retry_after),
                Err(error) => (Err(error), None),
            };
            let hopeful = match &outcome {
                Err(RegistryError::Http { source, .. }) => source.is_transient(),
                // An upload session that the registry has lost is begun anew.
                Err(RegistryError::Refused { answer, .. }) => {
                    let lost = answer.code.as_deref().is_some_and(|code| code.starts_with("BLOB_UPLOAD_"));
                    // Perhaps on the way; what is wrong here is wrong the next time too.
                    let damaged = attempts == 1 && answer.code.as_deref() == Some("DIGEST_INVALID");
                    lost || damaged || answer.status == 416 || StatusCode::from_u16(answer.status).is_ok_and(is_transient)
                }
                _ => false,
            };
            if !hopeful || !self.0.http.pause_as_asked(attempts, retry_after).await {
                return outcome;
            }
            // The connection may have broken after the registry had taken everything.
            if matches!(self.has_blob(to, blob.digest).await, Ok(true)) {
                return Ok(());
            }
            if blob.size_bytes >= RESUMED_BYTES
                && let Ok(session) = self.resume(to, session, &action).await
                && session.received > 0
                && session.received <= blob.size_bytes
                && matches!(self.send_pieces(to, Source::Whole(&body, blob), session, &action).await, Ok(Grown::Uploaded))
            {
                return Ok(());
            }
        }
    }

    /// One attempt in one piece.
    async fn upload(
        &self,
        to: &Reference,
        blob: &Descriptor,
        body: &Body,
        session: Url,
        action: Action,
    ) -> Result<Uploaded, RegistryError> {
        let mut put = Call::new(action, to, Method::PUT, String::new());
        put.target = Target::Location(with_digest(session, blob.digest));
        put.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        put.body = body.clone();
        put.lane = Lane::Upload;
        let response = self.send(&put).await?;
        match response.status() {
            status if status.is_success() => {
                check_digest(&response, &blob_in(to, blob.digest), blob.digest).map(|()| Uploaded::Yes)
            }
            StatusCode::PAYLOAD_TOO_LARGE => Ok(Uploaded::TooLarge),
            _ => {
                let retry_after = response.retry_after();
                Ok(Uploaded::Refused(put.refused(answer_of(response).await), retry_after))
            }
        }
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

/// Opens a file for [`Client::push_blob`].
pub fn file_opener(path: std::path::PathBuf) -> Opener {
    Arc::new(move || Ok(Box::new(std::fs::File::open(&path)?)))
}
