//! Uploads of a blob that is still being written, in one request that follows it, and uploads in pieces: of one whose upload
//! broke, and past a proxy that takes no large bodies or none without a length.

use super::{Call, Client, RegistryError, Target, answer_of, challenge::Scopes, error::Action};
use crate::http::{
    Body, HttpError, Lane, Method, Replay, Response, StatusCode, Url,
    header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue},
    is_transient,
};
use crate::oci::{Descriptor, Digest, Reference};
use crate::store::GrowingBlob;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// What is read at once of a blob that grows.
const CHUNK_BYTES: u64 = 256 << 10;
/// If no more than this is left of a blob, it is sent about as fast as a question whether it is there is answered.
const ASKED_BYTES: u64 = 1 << 20;
/// What a piece has at first where a registry refuses a body as too large; it is halved as long as pieces are refused too. A
/// blob that grows is sent in pieces of at least this size where it cannot be followed.
const UPLOAD_PIECE_BYTES: u64 = 8 << 20;
const SMALLEST_UPLOAD_PIECE_BYTES: u64 = 256 << 10;
/// The largest piece: what broke off is sent again, at worst.
const LARGEST_UPLOAD_PIECE_BYTES: u64 = 256 << 20;

/// What became of a blob that was uploaded while it grew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grown {
    /// The repository has it.
    Uploaded,
    /// The repository had it already.
    WasThere,
    /// It has to be pushed once it is whole, if it ever is: the registry does not take pieces, or had enough of them.
    Open,
}

/// An upload that was begun, and what the registry has of it.
pub(super) struct Session {
    pub(super) location: Url,
    pub(super) received: u64,
    /// The registry takes no smaller pieces.
    pub(super) least: u64,
    /// The registry, or what stands before it, may take no larger pieces.
    pub(super) most: u64,
}

/// Where the bytes come from.
pub(super) enum Source<'a> {
    Whole(&'a Body, &'a Descriptor),
    Growing(GrowingBlob),
}

/// What a registry says to a part of an upload, or to its end.
enum Said {
    Taken(Box<Response>),
    TooLarge,
    /// It may be taken another time.
    Later(RegistryError, Option<Duration>),
}

/// What became of a blob that was followed.
enum Followed {
    /// There may be more to send, or its end to be told.
    Until(Session),
    Ended(Grown),
}

impl Client {
    /// Puts a blob into the repository of `to` while it is being written. What a registry that knows how to resume has, it
    /// keeps when a connection breaks.
    ///
    /// # Errors
    /// If the registry does not let us begin, or stores something else than we send. That it takes no pieces is no error.
    pub async fn push_growing(&self, to: &Reference, blob: GrowingBlob) -> Result<Grown, RegistryError> {
        let action = Action { doing: "push", what: format!("a layer to {}/{}", to.registry(), to.repository()) };
        let session = self.begin(to, &action).await?;
        match self.send_growing(to, blob, session, &action).await {
            Err(error @ RegistryError::Digest { .. }) => Err(error),
            Err(_) => Ok(Grown::Open),
            sent => sent,
        }
    }

    async fn send_growing(
        &self,
        to: &Reference,
        blob: GrowingBlob,
        mut session: Session,
        action: &Action,
    ) -> Result<Grown, RegistryError> {
        if !self.registry(to.registry()).refuses_growing.load(Ordering::Relaxed) {
            session = match self.follow(to, &blob, session, action).await? {
                Followed::Until(session) => session,
                Followed::Ended(grown) => return Ok(grown),
            };
        }
        self.send_pieces(to, Source::Growing(blob), session, action).await
    }

    /// Sends a blob as it grows, in one request; gives what the registry has afterwards.
    ///
    /// A registry that refuses the request is not sent another of its kind. What only broke may go well the next time, unless
    /// the registry has nothing of it: there are proxies that hang up instead of refusing.
    async fn follow(
        &self,
        to: &Reference,
        blob: &GrowingBlob,
        mut session: Session,
        action: &Action,
    ) -> Result<Followed, RegistryError> {
        let sent_bytes = Arc::new(AtomicU64::new(session.received));
        let body = following(blob.clone(), session.received, sent_bytes.clone());
        let said = tokio::select! {
            said = self.send_piece(to, &session, body, action) => said,
            // The request has ended now, and its place is free for the next.
            () = self.found_meanwhile(to, blob.clone(), &sent_bytes) => {
                self.give_up(to, session, action).await;
                return Ok(Followed::Ended(Grown::WasThere));
            }
        };
        let refuses = || self.registry(to.registry()).refuses_growing.store(true, Ordering::Relaxed);
        match said {
            Ok(Said::Taken(response)) => {
                let sent_bytes = sent_bytes.load(Ordering::Relaxed);
                let whole = blob.clone().reach(0).await.and_then(|progress| progress.whole);
                // A server may answer before it has read to the end.
                let all = whole.filter(|whole| whole.size_bytes == sent_bytes).map(|whole| whole.size_bytes);
                let said = response.header("range").and_then(received).filter(|said| *said <= sent_bytes);
                if let Some(received) = said.or(all) {
                    let location = onward(&response, session.location);
                    return Ok(Followed::Until(Session { location, received, ..session }));
                }
            }
            Ok(Said::TooLarge) => {
                refuses();
                session.most = UPLOAD_PIECE_BYTES;
            }
            Ok(Said::Later(error, retry_after)) => {
                if !self.0.http.pause_as_asked(1, retry_after).await {
                    return Err(error);
                }
            }
            Err(RegistryError::Http { source: HttpError::Source { .. }, .. }) => {
                self.give_up(to, session, action).await;
                return Ok(Followed::Ended(Grown::Open));
            }
            // What stands before a registry may want a length, and says so in one of these ways.
            Err(RegistryError::Refused { answer, .. }) if matches!(answer.status, 400 | 411 | 501) => refuses(),
            Err(error) => {
                refuses();
                return Err(error);
            }
        }
        let session = self.resume(to, session, action).await?;
        if session.received == 0 {
            refuses();
        }
        Ok(Followed::Until(session))
    }

    /// Ends when it turns out that the repository has the blob, if that is known while much of it is still to be sent: an
    /// earlier build may have made the same.
    async fn found_meanwhile(&self, to: &Reference, mut blob: GrowingBlob, sent_bytes: &AtomicU64) {
        if let Some(whole) = blob.reach(u64::MAX).await.and_then(|progress| progress.whole)
            && whole.size_bytes.saturating_sub(sent_bytes.load(Ordering::Relaxed)) > ASKED_BYTES
            && matches!(self.has_blob(to, whole.digest).await, Ok(true))
        {
            return;
        }
        std::future::pending::<()>().await;
    }

    /// Begins an upload.
    pub(super) async fn begin(&self, to: &Reference, action: &Action) -> Result<Session, RegistryError> {
        let (call, response) = self.begin_upload(to, action.clone()).await?;
        let least = response.header("oci-chunk-min-length").and_then(|least| least.parse().ok()).unwrap_or(0_u64);
        let least = least.clamp(SMALLEST_UPLOAD_PIECE_BYTES, 2 * UPLOAD_PIECE_BYTES);
        Ok(Session { location: location(&call, &response)?, received: 0, least, most: LARGEST_UPLOAD_PIECE_BYTES })
    }

    pub(super) async fn begin_upload<'a>(
        &self,
        to: &'a Reference,
        action: Action,
    ) -> Result<(Call<'a>, Response), RegistryError> {
        let mut call = Call::new(action, to, Method::POST, "blobs/uploads/".to_owned());
        // At worst the registry forgets a session later.
        call.replay = Replay::Allowed;
        let response = self.send(&call).await?;
        if response.status().is_success() {
            return Ok((call, response));
        }
        Err(call.refused(answer_of(response).await))
    }

    /// Sends all that `session` lacks, and ends it.
    pub(super) async fn send_pieces(
        &self,
        to: &Reference,
        mut source: Source<'_>,
        mut session: Session,
        action: &Action,
    ) -> Result<Grown, RegistryError> {
        let mut failures = 0;
        // A registry that loses an upload again and again does not get on by what it had before.
        let mut furthest = session.received;
        let mut may_be_there = matches!(source, Source::Growing(_));
        loop {
            let Some((size_bytes, whole)) =
                source.reach(session.received.saturating_add(UPLOAD_PIECE_BYTES.min(session.most))).await
            else {
                self.give_up(to, session, action).await;
                return Ok(Grown::Open);
            };
            let left = size_bytes.saturating_sub(session.received);
            let piece = left.min(session.most);
            let ending = whole.as_ref().filter(|_| left == 0);
            // Now that we know what it is: an earlier build may have made the same.
            if let Some(whole) = whole.as_ref().filter(|_| left > 0 && may_be_there) {
                if matches!(self.has_blob(to, whole.digest).await, Ok(true)) {
                    self.give_up(to, session, action).await;
                    return Ok(Grown::WasThere);
                }
                may_be_there = false;
            }
            let stuck = || {
                let message =
                    format!("even {} KiB at a time are too much for it, or for a proxy before it", piece.div_ceil(1024));
                let message = Some(message);
                let answer = super::Answer { status: StatusCode::PAYLOAD_TOO_LARGE.as_u16(), code: None, message, wait: None };
                RegistryError::Refused { action: action.clone(), registry: to.registry().to_owned(), answer }
            };
            let said = match ending {
                Some(whole) => self.end(to, &session, whole.digest, action).await?,
                None => self.send_piece(to, &session, source.piece(session.received, piece), action).await?,
            };
            match said {
                Said::Taken(response) => {
                    if let Some(whole) = ending {
                        return check_digest(&response, &blob_in(to, whole.digest), whole.digest).map(|()| Grown::Uploaded);
                    }
                    session.location = onward(&response, session.location);
                    let end = session.received + piece;
                    let said = response.header("range").and_then(received);
                    let received = said.filter(|said| (session.received..end).contains(said)).unwrap_or(end);
                    let is_stuck = received <= session.received;
                    failures = if received > furthest { 0 } else { failures + u32::from(is_stuck) };
                    furthest = furthest.max(received);
                    session.received = received;
                    drop(response);
                    if is_stuck && !self.0.http.pause(failures).await {
                        return Err(stuck());
                    }
                }
                Said::TooLarge => {
                    let smaller = if piece > UPLOAD_PIECE_BYTES { UPLOAD_PIECE_BYTES } else { piece / 2 };
                    session.most = smaller.max(session.least);
                    if session.most >= piece {
                        return Err(stuck());
                    }
                }
                Said::Later(error, retry_after) => {
                    failures += 1;
                    if !self.0.http.pause_as_asked(failures, retry_after).await {
                        return Err(error);
                    }
                    // It may have taken the end before the answer got lost.
                    if let Some(whole) = ending
                        && matches!(self.has_blob(to, whole.digest).await, Ok(true))
                    {
                        return Ok(Grown::Uploaded);
                    }
                    session = self.resume(to, session, action).await?;
                }
            }
        }
    }

    /// Asks how far an upload is; begins a new one if the registry has lost it.
    pub(super) async fn resume(&self, to: &Reference, session: Session, action: &Action) -> Result<Session, RegistryError> {
        let mut ask = Call::new(action.clone(), to, Method::GET, String::new());
        ask.target = Target::Location(session.location.clone());
        ask.scopes = Scopes::push(to.repository());
        if let Ok(response) = self.send(&ask).await
            && response.status().is_success()
        {
            let received = response.header("range").and_then(received);
            let found = location(&ask, &response);
            if let (Some(received), Ok(location)) = (received, found) {
                return Ok(Session { location, received, ..session });
            }
        }
        let most = session.most;
        Ok(Session { most, ..self.begin(to, action).await? })
    }

    async fn send_piece(&self, to: &Reference, session: &Session, body: Body, action: &Action) -> Result<Said, RegistryError> {
        let mut patch = Call::new(action.clone(), to, Method::PATCH, String::new());
        patch.target = Target::Location(session.location.clone());
        patch.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        // One whose end is not known is sent as Docker sends all of its own, without a range.
        if let Some(size_bytes) = body.size_bytes() {
            let range = format!("{}-{}", session.received, session.received + size_bytes - 1);
            patch.headers.insert(CONTENT_RANGE, HeaderValue::try_from(range).expect("numbers are good in a header"));
        }
        patch.body = body;
        patch.lane = Lane::Upload;
        self.say(&patch).await
    }

    /// Says that all is there.
    async fn end(&self, to: &Reference, session: &Session, digest: Digest, action: &Action) -> Result<Said, RegistryError> {
        let mut put = Call::new(action.clone(), to, Method::PUT, String::new());
        put.target = Target::Location(with_digest(session.location.clone(), digest));
        self.say(&put).await
    }

    async fn say(&self, call: &Call<'_>) -> Result<Said, RegistryError> {
        let response = match self.send(call).await {
            Ok(response) => response,
            Err(RegistryError::Http { source, action }) if source.is_transient() => {
                return Ok(Said::Later(RegistryError::Http { source, action }, None));
            }
            Err(error) => return Err(error),
        };
        match response.status() {
            status if status.is_success() => Ok(Said::Taken(Box::new(response))),
            StatusCode::PAYLOAD_TOO_LARGE => Ok(Said::TooLarge),
            status => {
                let retry_after = response.retry_after();
                let answer = answer_of(response).await;
                let lost = answer.code.as_deref().is_some_and(|code| code.starts_with("BLOB_UPLOAD_"));
                let error = call.refused(answer);
                let hopeful = lost || status == StatusCode::RANGE_NOT_SATISFIABLE || is_transient(status);
                if hopeful { Ok(Said::Later(error, retry_after)) } else { Err(error) }
            }
        }
    }

    async fn give_up(&self, to: &Reference, session: Session, action: &Action) {
        let mut cancel = Call::new(action.clone(), to, Method::DELETE, String::new());
        cancel.target = Target::Location(session.location);
        // A registry that does not know how forgets it by itself.
        let _ = self.send(&cancel).await;
    }
}

impl Source<'_> {
    /// How many bytes there are, at least `size_bytes` of them unless that is all, and what it is if that is known.
    async fn reach(&mut self, size_bytes: u64) -> Option<(u64, Option<Descriptor>)> {
        match self {
            Self::Whole(_, blob) => Some((blob.size_bytes, Some((*blob).clone()))),
            Self::Growing(growing) => growing.reach(size_bytes).await.map(|progress| (progress.size_bytes, progress.whole)),
        }
    }

    fn piece(&self, offset_bytes: u64, size_bytes: u64) -> Body {
        match self {
            Self::Growing(growing) => {
                let growing = growing.clone();
                let open = move || Ok(Box::new(growing.reader(offset_bytes).take(size_bytes)) as Box<dyn Read + Send>);
                Body::Stream { size_bytes, open: Arc::new(open) }
            }
            // What is whole does not grow.
            Self::Whole(Body::Empty | Body::Growing(_), _) => Body::Empty,
            Self::Whole(Body::Bytes(bytes), _) => {
                let at = |position: u64| usize::try_from(position).map_or(bytes.len(), |position| position.min(bytes.len()));
                Body::Bytes(bytes.slice(at(offset_bytes)..at(offset_bytes + size_bytes)))
            }
            Self::Whole(Body::Stream { open, .. }, _) => {
                let open = open.clone();
                let skip = move || {
                    let mut reader = open()?;
                    io::copy(&mut reader.by_ref().take(offset_bytes), &mut io::sink())?;
                    Ok(Box::new(reader.take(size_bytes)) as Box<dyn Read + Send>)
                };
                Body::Stream { size_bytes, open: Arc::new(skip) }
            }
        }
    }
}

/// What there is of a blob from `offset_bytes` on, and what is added to it; `sent_bytes` tells how far it was read.
fn following(blob: GrowingBlob, offset_bytes: u64, sent_bytes: Arc<AtomicU64>) -> Body {
    let follow = move || {
        let start = (blob.clone(), offset_bytes, sent_bytes.clone());
        let chunks = stream::try_unfold(start, async |(mut blob, offset_bytes, sent_bytes)| {
            let progress = blob.reach(offset_bytes + 1).await.ok_or_else(|| io::Error::other("its writing was given up"))?;
            let size_bytes = progress.size_bytes.saturating_sub(offset_bytes).min(CHUNK_BYTES);
            if size_bytes == 0 {
                return Ok(None);
            }
            let mut reader = blob.reader(offset_bytes).take(size_bytes);
            let read = move || {
                let mut chunk = Vec::new();
                reader.read_to_end(&mut chunk).map(|_| Bytes::from(chunk))
            };
            let chunk = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
            if chunk.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let offset_bytes = offset_bytes + chunk.len() as u64;
            sent_bytes.store(offset_bytes, Ordering::Relaxed);
            Ok(Some((chunk, (blob, offset_bytes, sent_bytes))))
        });
        chunks.boxed()
    };
    Body::Growing(Arc::new(follow))
}

/// The number of bytes that a `Range` of an upload speaks of. `0-0` is what registries say of none.
fn received(range: &str) -> Option<u64> {
    let last: u64 = range.trim().trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last.checked_add(1)? })
}

/// Where an upload goes on: relative or absolute, its query is part of it.
pub(super) fn location(call: &Call<'_>, response: &Response) -> Result<Url, RegistryError> {
    let nowhere = || {
        let message = Some("it does not say where to upload to".to_owned());
        call.refused(super::Answer { status: response.status().as_u16(), code: None, message, wait: None })
    };
    response.url().join(response.header("location").ok_or_else(nowhere)?).map_err(|_| nowhere())
}

/// Where an upload goes on after a part of it: where it went on before, if the answer says nothing else.
fn onward(response: &Response, before: Url) -> Url {
    response.header("location").and_then(|location| response.url().join(location).ok()).unwrap_or(before)
}

pub(super) fn with_digest(mut location: Url, digest: Digest) -> Url {
    location.query_pairs_mut().append_pair("digest", &digest.to_string());
    location
}

/// Registries may say what they stored; if they do, it must be what we sent.
pub(super) fn check_digest(response: &Response, what: &str, expected: Digest) -> Result<(), RegistryError> {
    match response.header("docker-content-digest").and_then(|digest| digest.parse::<Digest>().ok()) {
        Some(actual) if actual != expected => Err(RegistryError::Digest { what: what.to_owned(), expected, actual }),
        _ => Ok(()),
    }
}

pub(super) fn blob_in(to: &Reference, digest: Digest) -> String {
    format!("blob {digest} in {}/{}", to.registry(), to.repository())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_says_how_far_an_upload_is() {
        for (range, expected) in [
            ("0-0", Some(0)),
            ("0-99", Some(100)),
            ("bytes=0-1", Some(2)),
            ("5-9", None),
            ("0--1", None),
            ("0-18446744073709551615", None),
            ("", None),
        ] {
            assert_eq!(received(range), expected, "{range:?}");
        }
    }
}
