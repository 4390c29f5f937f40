//! Files from a web server: into the store, hashed while they come, and not fetched twice while they do not change.
//!
//! What a server says of a file (`ETag`, `Last-Modified`) is remembered beside its digest, and handed back with the next question:
//! an answer of 304 means the bytes that are here already. A file that was promised by its digest and is here is not even asked for.

use crate::http::{self, HttpError, Lane, Method, Request, Secret, StatusCode, Url, header};
use crate::oci::{Descriptor, Digest};
use crate::store::{BlobWriter, Store, StoreError};
use crate::tree::{ContentDigest, ContentHasher};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use tokio::sync::mpsc;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it is.
    pub url: Url,
    /// The value of the `Authorization` header; it stays with the host of `url`.
    pub authorization: Option<Secret>,
    /// What the bytes have to be.
    pub checksum: Option<Digest>,
    /// Most bytes that are taken.
    pub limit_bytes: u64,
}

/// A file that is in the store, under its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// Its digest: of the blob in the store.
    pub digest: Digest,
    /// For keys.
    pub content: ContentDigest,
    /// Number of its bytes.
    pub size_bytes: u64,
    /// `Last-Modified`, in seconds.
    pub modified_seconds: Option<i64>,
}

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// No answer, or it broke off.
    #[error("cannot download {url}")]
    Http {
        /// The address, without its secrets.
        url: String,
        /// Why.
        source: HttpError,
    },
    /// The server answers otherwise.
    #[error("cannot download {url}: the server answers {status}")]
    Status {
        /// The address, without its secrets.
        url: String,
        /// With what.
        status: StatusCode,
    },
    /// A token that no header can hold.
    #[error("the credential for {host} cannot be sent in a header")]
    Credential {
        /// Whom it is for.
        host: String,
    },
    /// Other bytes than were promised.
    #[error("{url} has the checksum {found}, not {expected}")]
    Checksum {
        /// The address, without its secrets.
        url: String,
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More bytes than are taken.
    #[error("{url} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The address, without its secrets.
        url: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be written.
    #[error("cannot keep what was downloaded")]
    Write(#[source] std::io::Error),
    /// The thread that writes is gone.
    #[error("the thread that writes a download was lost")]
    Lost,
}

/// What is remembered of an address.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    etag: Option<String>,
    last_modified: Option<String>,
    download: Download,
}

const CHUNKS_AHEAD: usize = 8;

/// Sees to it that the file is in `store`.
///
/// # Errors
/// [`DownloadError`]; nothing is kept then.
pub async fn download(http: &http::Client, store: &Store, wanted: &Wanted) -> Result<Download, DownloadError> {
    let key = ContentDigest::of(format!("download 1 {}", wanted.url).as_bytes());
    let remembered = recall(store, key).await;
    if let (Some(known), Some(checksum)) = (&remembered, wanted.checksum)
        && known.download.digest == checksum
    {
        return Ok(known.download.clone());
    }
    let mut attempts = 0;
    loop {
        let outcome = attempt(http, store, wanted, remembered.as_ref()).await;
        attempts += 1;
        match outcome {
            // The client repeats questions by itself; an answer that breaks off in the middle is asked for again here.
            Err(DownloadError::Http { source, .. }) if source.is_transient() && http.pause(attempts).await => {}
            Err(error) => return Err(error),
            Ok(found) => {
                let Remembered { download, .. } = &found;
                let download = download.clone();
                let store = store.clone();
                // A file that is not remembered is fetched again, no more.
                let _ = tokio::task::spawn_blocking(move || store.put_step(key.as_bytes(), &found)).await;
                return Ok(download);
            }
        }
    }
}

/// What is known of an address whose bytes are still here.
async fn recall(store: &Store, key: ContentDigest) -> Option<Remembered> {
    let store = store.clone();
    let recall = move || {
        let known: Remembered = store.step(key.as_bytes()).ok().flatten()?;
        let blob = Descriptor { digest: known.download.digest, size_bytes: known.download.size_bytes, ..Descriptor::of("", b"") };
        store.has_blob(&blob).then_some(known)
    };
    tokio::task::spawn_blocking(recall).await.ok().flatten()
}

async fn attempt(
    http: &http::Client,
    store: &Store,
    wanted: &Wanted,
    remembered: Option<&Remembered>,
) -> Result<Remembered, DownloadError> {
    let url = || http::redacted(&wanted.url);
    let failed = |source| DownloadError::Http { url: url(), source };
    let mut request = Request::new(Method::GET, wanted.url.clone());
    request.lane = Lane::Download;
    // What counts is the file, not how it travels.
    request.headers.insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static("identity"));
    if let Some(secret) = &wanted.authorization {
        let value = header::HeaderValue::from_bytes(secret.reveal());
        let mut value = value.map_err(|_| DownloadError::Credential { host: http::host_of(&wanted.url) })?;
        value.set_sensitive(true);
        request.headers.insert(header::AUTHORIZATION, value);
    }
    if let Some(known) = remembered {
        for (name, value) in [(header::IF_NONE_MATCH, &known.etag), (header::IF_MODIFIED_SINCE, &known.last_modified)] {
            if let Some(value) = value.as_deref().and_then(|value| header::HeaderValue::from_str(value).ok()) {
                request.headers.insert(name, value);
            }
        }
    }
    let mut response = http.send(&request).await.map_err(failed)?;
    let download = match (response.status(), remembered) {
        (StatusCode::NOT_MODIFIED, Some(known)) => {
            check(wanted, known.download.digest)?;
            let Remembered { etag, last_modified, download } = known;
            return Ok(Remembered { etag: etag.clone(), last_modified: last_modified.clone(), download: download.clone() });
        }
        (StatusCode::OK, _) => {
            let too_large = || DownloadError::TooLarge { url: url(), limit_bytes: wanted.limit_bytes };
            if response.content_length().is_some_and(|length| length > wanted.limit_bytes) {
                return Err(too_large());
            }
            let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
            let writing = tokio::task::spawn_blocking({
                let store = store.clone();
                move || write(&store, receiver)
            });
            let mut size_bytes = 0;
            while let Some(chunk) = response.chunk().await.map_err(failed)? {
                size_bytes += chunk.len() as u64;
                if size_bytes > wanted.limit_bytes {
                    return Err(too_large());
                }
                // A writer that is gone has a reason, which comes below.
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            drop(sender);
            let (writer, content) = writing.await.map_err(|_| DownloadError::Lost)??;
            let expected = wanted.checksum.map(|digest| Descriptor { digest, size_bytes, ..Descriptor::of("", b"") });
            let finish = tokio::task::spawn_blocking(move || writer.finish(expected.as_ref()));
            let digest = match finish.await.map_err(|_| DownloadError::Lost)? {
                Err(StoreError::WrongDigest { expected, found }) => {
                    return Err(DownloadError::Checksum { url: url(), expected, found });
                }
                other => other?,
            };
            let modified = response.header("last-modified").and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
            Download { digest, content, size_bytes, modified_seconds: modified.map(|time| time.timestamp().as_second()) }
        }
        (status, _) => return Err(DownloadError::Status { url: url(), status }),
    };
    let text = |name| response.header(name).map(str::to_owned);
    Ok(Remembered { etag: text("etag"), last_modified: text("last-modified"), download })
}

fn check(wanted: &Wanted, found: Digest) -> Result<(), DownloadError> {
    match wanted.checksum {
        Some(expected) if expected != found => Err(DownloadError::Checksum { url: http::redacted(&wanted.url), expected, found }),
        _ => Ok(()),
    }
}

/// Writes what comes, until the sender is gone.
fn write(store: &Store, mut chunks: mpsc::Receiver<Bytes>) -> Result<(BlobWriter, ContentDigest), DownloadError> {
    let mut writer = store.blob_writer()?;
    let mut hasher = ContentHasher::default();
    while let Some(chunk) = chunks.blocking_recv() {
        hasher.update(&chunk);
        writer.write_all(&chunk).map_err(DownloadError::Write)?;
    }
    Ok((writer, hasher.finish()))
}
