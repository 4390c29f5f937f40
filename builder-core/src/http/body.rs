//! Bodies: what is sent (replayable, streamed from a blocking reader) and what comes back (counted, timed).

use super::{HttpError, Place, StatusCode, Url, error, retry};
use bytes::{Bytes, BytesMut};
use reqwest::header::HeaderMap;
use std::{
    fmt,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::mpsc;

/// Opens the bytes of a body; called again each time that they must be sent again. Runs on a blocking thread.
pub type Opener = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// What is sent with a request.
#[derive(Clone, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes from a file or anything else that can be read again from its start.
    Stream {
        /// How many there are; another number is an error.
        size_bytes: u64,
        /// Opens them.
        open: Opener,
    },
}

impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Body({} bytes)", self.size_bytes())
    }
}

impl Body {
    /// How many bytes are sent.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Stream { size_bytes, .. } => *size_bytes,
        }
    }
}

const CHUNK_BYTES: usize = 128 << 10;
const CHUNKS_AHEAD: usize = 4;

/// What the sender of a body tells the waiting side: when it last got on, and why it could not read.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    last_progress: Instant,
    failure: Option<io::Error>,
}

impl Sending {
    pub(super) fn new() -> Self {
        Self { state: Arc::new(Mutex::new(State { last_progress: Instant::now(), failure: None })) }
    }

    pub(super) fn idle(&self) -> Duration {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last_progress.elapsed()
    }

    pub(super) fn take_failure(&self) -> Option<io::Error> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure.take()
    }

    fn progressed(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last_progress = Instant::now();
    }

    fn failed(&self, error: io::Error) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure = Some(error);
    }

    /// A body that is read on a blocking thread, a few chunks ahead of the network.
    pub(super) fn stream(&self, size_bytes: u64, open: Opener) -> reqwest::Body {
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(CHUNKS_AHEAD);
        let sending = self.clone();
        tokio::task::spawn_blocking(move || {
            let outcome = feed(size_bytes, &open, |chunk| {
                let taken = sender.blocking_send(Ok(chunk)).is_ok();
                sending.progressed();
                taken
            });
            if let Err(error) = outcome {
                sending.failed(error);
                // The network side only has to know that the body is not whole.
                let _ = sender.blocking_send(Err(io::Error::other("the source failed")));
            }
        });
        reqwest::Body::wrap_stream(futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        }))
    }
}

/// Reads exactly `size_bytes` and gives them to `take`, which says whether anybody still wants them.
fn feed(size_bytes: u64, open: &Opener, mut take: impl FnMut(Bytes) -> bool) -> io::Result<()> {
    let mut reader = open()?;
    let mut left = size_bytes;
    while left > 0 {
        let mut chunk = BytesMut::zeroed(usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES)));
        let read = match reader.read(&mut chunk) {
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{left} of {size_bytes} bytes are missing")));
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        chunk.truncate(read);
        left -= read as u64;
        if left == 0 && reader.read(&mut [0])? > 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("there is more than the promised {size_bytes} bytes"),
            ));
        }
        if !take(chunk.freeze()) {
            return Ok(());
        }
    }
    Ok(())
}

/// An answer whose head has come; the body comes as it is asked for. Holds one of the host's places until it is dropped.
#[derive(Debug)]
pub struct Response {
    pub(super) inner: reqwest::Response,
    pub(super) url: Url,
    pub(super) idle_limit: Duration,
    pub(super) _place: Place,
}

impl Response {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// The first header of that name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// How long the server wants us to wait before we ask again, if it says so.
    pub fn retry_after(&self) -> Option<Duration> {
        retry::retry_after(self.header("retry-after")?, SystemTime::now())
    }

    /// Where the answer came from, after redirects.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// How many bytes the body has, if the server says so.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`HttpError::Broken`] or [`HttpError::Timeout`] if the connection ends before the body does.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        match tokio::time::timeout(self.idle_limit, self.inner.chunk()).await {
            Ok(read) => read.map_err(|error| error::classify(error, &self.url)),
            Err(_) => Err(HttpError::Timeout { host: error::host_of(&self.url), waited: self.idle_limit }),
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`HttpError::TooLarge`] as soon as it is known to have more than `limit_bytes`.
    pub async fn bytes(mut self, limit_bytes: u64) -> Result<Bytes, HttpError> {
        let too_large = |url: &Url| HttpError::TooLarge { host: error::host_of(url), limit_bytes };
        if self.content_length().is_some_and(|length| length > limit_bytes) {
            return Err(too_large(&self.url));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if (body.len() + chunk.len()) as u64 > limit_bytes {
                return Err(too_large(&self.url));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(size_bytes: u64, source: &'static [u8]) -> io::Result<Vec<u8>> {
        let mut taken = Vec::new();
        let open: Opener = Arc::new(move || Ok(Box::new(source)));
        feed(size_bytes, &open, |chunk| {
            taken.extend_from_slice(&chunk);
            true
        })?;
        Ok(taken)
    }

    #[test]
    fn a_source_must_have_the_size_that_was_promised() {
        assert_eq!(fed(3, b"abc").unwrap(), b"abc");
        assert_eq!(fed(0, b"").unwrap(), b"");
        assert_eq!(fed(4, b"abc").unwrap_err().to_string(), "1 of 4 bytes are missing");
        assert_eq!(fed(2, b"abc").unwrap_err().to_string(), "there is more than the promised 2 bytes");
    }
}
