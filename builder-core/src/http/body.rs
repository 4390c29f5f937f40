//! Bodies: what is sent (replayable, streamed from a blocking reader or while it is made) and what comes back (counted, timed).

use super::{HttpError, LongWait, Options, Seat, StatusCode, Url, error, is_transient, places::Line, retry};
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use hyper::{
    HeaderMap,
    body::{Body as _, Frame, Incoming, SizeHint},
    http::response::Parts,
};
use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io::{self, Read},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::mpsc;

/// Opens the bytes of a body; called again each time that they must be sent again. Runs on a blocking thread.
pub type Opener = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// Follows the bytes of a body while they are made, from their start; called again each time that they must be sent again.
pub type Follower = Arc<dyn Fn() -> BoxStream<'static, io::Result<Bytes>> + Send + Sync>;

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
    /// Bytes that are still being made: nobody knows yet how many there will be. The server is not blamed for the time that
    /// they take, and is told of their end by chunked transfer coding.
    Growing(Follower),
}

impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.size_bytes() {
            Some(size_bytes) => write!(formatter, "Body({size_bytes} bytes)"),
            None => formatter.write_str("Body(growing)"),
        }
    }
}

impl Body {
    /// How many bytes are sent, if that is known.
    pub fn size_bytes(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Stream { size_bytes, .. } => Some(*size_bytes),
            Self::Growing(_) => None,
        }
    }
}

const CHUNK_BYTES: usize = 128 << 10;
const CHUNKS_AHEAD: usize = 4;

/// What the sender of a body tells the waiting side: when it last got on, why it could not read, whether all was taken.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    state: Arc<Mutex<State>>,
    is_whole: Arc<AtomicBool>,
}

#[derive(Debug)]
struct State {
    last_progress: Instant,
    /// Whether all that there is was sent, and more is to come.
    awaits_source: bool,
    failure: Option<io::Error>,
}

impl Sending {
    pub(super) fn new() -> Self {
        let state = Arc::new(Mutex::new(State { last_progress: Instant::now(), awaits_source: false, failure: None }));
        Self { state, is_whole: Arc::default() }
    }

    /// For how long the other side has taken nothing of what there is for it.
    pub(super) fn idle(&self) -> Duration {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.awaits_source { Duration::ZERO } else { state.last_progress.elapsed() }
    }

    pub(super) fn take_failure(&self) -> Option<io::Error> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure.take()
    }

    pub(super) fn progressed(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.last_progress, state.awaits_source) = (Instant::now(), false);
    }

    fn awaits_source(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).awaits_source = true;
    }

    fn failed(&self, error: io::Error) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure = Some(error);
    }

    /// Whether the connection has taken all of the body.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// What the connection sends; a stream is read on a blocking thread, a few chunks ahead of the network.
    pub(super) fn outgoing(&self, body: Body) -> Outgoing {
        let left = body.size_bytes();
        self.is_whole.store(left == Some(0), Ordering::Release);
        let chunks = match body {
            Body::Empty => Chunks::One(Bytes::new()),
            Body::Bytes(bytes) => Chunks::One(bytes),
            Body::Stream { size_bytes, open } => Chunks::Many(self.stream(size_bytes, open)),
            Body::Growing(follow) => Chunks::Growing(follow()),
        };
        Outgoing { chunks, left, sending: self.clone() }
    }

    fn stream(&self, size_bytes: u64, open: Opener) -> mpsc::Receiver<io::Result<Bytes>> {
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
        receiver
    }
}

/// A body as the connection takes it.
pub(super) struct Outgoing {
    chunks: Chunks,
    /// What is still to be taken, if that is known.
    left: Option<u64>,
    sending: Sending,
}

enum Chunks {
    One(Bytes),
    Many(mpsc::Receiver<io::Result<Bytes>>),
    /// Asked for more as the connection has room: nothing is read ahead, and nothing goes on when the request ends.
    Growing(BoxStream<'static, io::Result<Bytes>>),
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.left == Some(0) {
            return Poll::Ready(None);
        }
        let chunk = match &mut this.chunks {
            Chunks::One(bytes) => std::mem::take(bytes),
            Chunks::Many(receiver) => match ready!(receiver.poll_recv(context)) {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                // The thread that reads gives all or an error.
                None => return Poll::Ready(Some(Err(io::Error::other("the source is gone")))),
            },
            Chunks::Growing(source) => {
                let Poll::Ready(chunk) = source.as_mut().poll_next(context) else {
                    this.sending.awaits_source();
                    return Poll::Pending;
                };
                this.sending.progressed();
                match chunk {
                    Some(Ok(chunk)) => chunk,
                    Some(Err(error)) => {
                        this.sending.failed(error);
                        return Poll::Ready(Some(Err(io::Error::other("the source failed"))));
                    }
                    None => {
                        this.left = Some(0);
                        this.sending.is_whole.store(true, Ordering::Release);
                        return Poll::Ready(None);
                    }
                }
            }
        };
        this.left = this.left.map(|left| left.saturating_sub(chunk.len() as u64));
        this.sending.is_whole.store(this.left == Some(0), Ordering::Release);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
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

/// A body of this length is read with its head.
const SHORT_BYTES: u64 = 16 << 10;
/// How long is waited for a body that perhaps nobody wants.
const LONGEST_UNWANTED: Duration = Duration::from_secs(1);
/// What is read of an answer that nobody wants, for the sake of its connection.
const LONGEST_UNWANTED_BYTES: usize = 64 << 10;

/// An answer whose head has come; the body comes as it is asked for. Holds one of the host's places until it is dropped.
///
/// One that is dropped before its end costs the connection, unless it is short.
#[derive(Debug)]
pub struct Response {
    head: Parts,
    body: Incoming,
    /// What was read before anybody asked for it.
    ahead: VecDeque<Result<Bytes, HttpError>>,
    line: Line,
    sending: Sending,
    url: Url,
    options: Arc<Options>,
}

impl Response {
    pub(super) fn new(answer: hyper::Response<Incoming>, line: Line, sending: Sending, url: Url, options: Arc<Options>) -> Self {
        let (head, body) = answer.into_parts();
        let mut response = Self { head, body, ahead: VecDeque::new(), line, sending, url, options };
        response.look_for_the_end(false);
        response
    }

    fn look_for_the_end(&mut self, is_end: bool) {
        self.line.is_clear = (is_end || self.body.is_end_stream()) && self.sending.is_whole();
    }

    /// The place that it holds, for a request to the same host that follows it ([`super::Request::seat`]).
    pub fn seat(&self) -> Seat {
        Seat(self.line.place.clone())
    }

    /// Reads a short body, unless it is slow: then the connection can be used again whether or not anybody wants the body. Most
    /// come with the head, and many are of no interest: refusals, and what is said beside a `Location`.
    pub(super) async fn read_ahead(&mut self) {
        // What hyper will not exceed: with a `Transfer-Encoding` beside it, the header says nothing.
        if self.body.size_hint().exact().is_none_or(|length| length > SHORT_BYTES) {
            return;
        }
        let reading = async {
            while !self.body.is_end_stream() {
                let read = self.read().await;
                let is_over = !matches!(read, Ok(Some(_)));
                self.ahead.extend(read.transpose());
                if is_over {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LONGEST_UNWANTED, reading).await;
    }

    /// Reads what is left of a body that nobody wants, so that the connection can be used again, unless it is long or slow.
    pub(super) async fn drain(mut self) {
        let reading = async {
            let mut left = LONGEST_UNWANTED_BYTES;
            while let Ok(Some(bytes)) = self.chunk().await {
                let Some(less) = left.checked_sub(bytes.len()) else { return };
                left = less;
            }
        };
        // What was not read to its end closes the connection.
        let _ = tokio::time::timeout(LONGEST_UNWANTED, reading).await;
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The first header of that name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// How long the server wants us to wait before we ask again, if it says so.
    pub fn retry_after(&self) -> Option<Duration> {
        retry::retry_after(self.header("retry-after")?, SystemTime::now())
    }

    /// The same of an answer that may be another one later, if that is longer than we wait.
    pub fn long_wait(&self) -> Option<LongWait> {
        self.retry_after().filter(|_| is_transient(self.status())).and_then(|asked| self.options.retry.too_long(asked))
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
        match self.ahead.pop_front() {
            Some(read) => read.map(Some),
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, HttpError> {
        let body = &mut self.body;
        let read = async {
            loop {
                match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
                    // Trailers are nothing to us.
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return Ok(Some(data));
                        }
                    }
                    Some(Err(error)) => return Err(error),
                    None => return Ok(None),
                }
            }
        };
        match tokio::time::timeout(self.options.idle_timeout, read).await {
            Ok(Ok(chunk)) => {
                self.look_for_the_end(chunk.is_none());
                Ok(chunk)
            }
            Ok(Err(error)) => Err(error::classify(&error, &self.url, error::During::Exchange)),
            Err(_) => Err(HttpError::Timeout { host: error::host_of(&self.url), waited: self.options.idle_timeout }),
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
