//! A large blob in pieces that are fetched side by side and given in order.
//!
//! A registry's store often sends no faster on one connection than it sends on each of several. So a large blob is asked for by ranges:
//! one of them always has the place that the reader waited for, others are fetched from places that are free at the moment and
//! wanted by nobody, and are given back after each piece. Little is read ahead: at most [`MOST_PIECES`] pieces of [`PIECE_BYTES`].
//!
//! What a registry says is not believed: each answer must be of exactly the range that was asked for. Whatever else comes ends
//! the pieces, and the reader goes on as one stream from where it is, with the errors that this has.

use super::{Call, Client, RegistryError, Target, answer_of, error::Action, pull::blob_of};
use crate::http::{
    self, HttpError, Lane, Method, Replay, Response, Seat, StatusCode, Url,
    header::{ACCEPT_ENCODING, HeaderValue, RANGE},
};
use crate::oci::{Descriptor, Reference};
use bytes::{Bytes, BytesMut};
use futures_util::future::FutureExt as _;
use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};

/// Blobs from this size on are fetched in pieces. A smaller one gains less than the requests cost.
pub(super) const LARGE_BYTES: u64 = 32 << 20;
/// The portions of a download on their way to the reader. Small ones of our own: the connection gets its large buffer back at once
/// instead of a new one each time, and the allocator holds no large blocks that another thread has freed.
pub(super) const PORTION_BYTES: usize = 64 << 10;
/// As many as a piece has: whoever fetches one never waits for the reader, except for a lone piece, which the reader is at.
const PORTIONS_AHEAD: usize = 64;
/// 4 MiB take as long as a request takes to be answered at 40 MB/s and 100 ms; larger pieces cost memory.
const PIECE_BYTES: u64 = PORTIONS_AHEAD as u64 * PORTION_BYTES as u64;
/// Pieces that are under way or wait for the reader.
const MOST_PIECES: usize = 4;
/// What is asked for at once while there is no place to spare: the reader takes it as it comes, and the pauses between requests
/// do not count.
const LONE_PIECE_BYTES: u64 = 32 << 20;

/// Where the pieces come from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) client: Client,
    pub(super) place: Reference,
    pub(super) blob: Descriptor,
    /// Where the last piece was found; `None` while that has to be asked again.
    location: Arc<Mutex<Option<Url>>>,
}

/// How a registry answered the question for the first piece.
pub(super) enum Opened {
    /// It sends ranges.
    Pieces(Box<Pieces>),
    /// It sends everything, whatever was asked for.
    Whole(Box<Response>),
    /// It says that the blob has another size.
    Size(u64),
    /// It does not have the blob.
    Missing,
    /// Something else, which may be due to the range.
    Odd,
}

/// What comes next of a blob.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Bytes.
    Bytes(Bytes),
    /// A piece broke off or was refused for now; it is asked for again when the next bytes are.
    Interrupted {
        /// How.
        error: RegistryError,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Ranges do not lead further.
    Odd,
}

/// The pieces of a blob from where its reader is.
#[derive(Debug)]
pub(super) struct Pieces {
    source: Source,
    /// Where the next piece begins.
    next: u64,
    /// The place that the reader waited for, while no piece uses it.
    seat: Option<Seat>,
    window: VecDeque<Piece>,
}

/// A piece under way, or what is left of it.
#[derive(Debug)]
struct Piece {
    range: Range<u64>,
    /// Whether its place is one that was free, and not the reader's own.
    is_spare: bool,
    arrivals: mpsc::Receiver<Bytes>,
    /// `None` when its end was taken note of.
    task: Option<JoinHandle<End>>,
    trouble: Option<Trouble>,
}

/// How the fetching of a piece ended.
#[derive(Debug)]
struct End {
    /// Where in the blob.
    at: u64,
    /// The place, if it has to be given back to the reader.
    seat: Option<Seat>,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
enum Trouble {
    Passing { error: RegistryError, retry_after: Option<Duration> },
    Odd,
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.task.iter().for_each(JoinHandle::abort);
    }
}

impl Source {
    pub(super) fn new(client: Client, place: Reference, blob: Descriptor) -> Self {
        Self { client, place, blob, location: Arc::default() }
    }

    /// Asks for the first piece.
    ///
    /// # Errors
    /// If there is no answer.
    pub(super) async fn open(self) -> Result<Opened, RegistryError> {
        let range = 0..PIECE_BYTES.min(self.blob.size_bytes);
        let response = self.ask(&range, None, Replay::Allowed).await?;
        Ok(match response.status() {
            StatusCode::OK => Opened::Whole(Box::new(response)),
            StatusCode::NOT_FOUND => Opened::Missing,
            StatusCode::PARTIAL_CONTENT => match range_of(&response) {
                Some((_, Some(total))) if total != self.blob.size_bytes => Opened::Size(total),
                Some((answered, _)) if answered == range => {
                    let next = range.end;
                    let piece = Piece::start(self.clone(), range, false, None, Some(response));
                    Opened::Pieces(Box::new(Pieces { source: self, next, seat: None, window: VecDeque::from([piece]) }))
                }
                _ => Opened::Odd,
            },
            _ => Opened::Odd,
        })
    }

    /// Asks where the last piece was found, or else the registry.
    async fn ask(&self, range: &Range<u64>, seat: Option<Seat>, replay: Replay) -> Result<Response, RegistryError> {
        let path = format!("blobs/{}", self.blob.digest);
        let action = Action { doing: "download", what: blob_of(&self.place, self.blob.digest) };
        let mut call = Call::new(action, &self.place, Method::GET, path.clone());
        (call.lane, call.replay) = (Lane::Download, replay);
        call.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let value = format!("bytes={}-{}", range.start, range.end - 1);
        call.headers.insert(RANGE, HeaderValue::try_from(value).expect("numbers are good in a header"));
        call.seat = seat;
        let registry = self.client.registry(self.place.registry());
        let own = || registry.base.get()?.join(&format!("v2/{}/{path}", self.place.repository())).ok();
        loop {
            let known = self.location().clone();
            // Whoever waits for a place keeps none elsewhere.
            call.seat = call.seat.take().filter(|seat| known.as_ref().is_some_and(|location| seat.is_at(location)));
            let Some(location) = known.filter(|location| own().as_ref() != Some(location)) else { break };
            call.target = Target::Location(location.clone());
            let outcome = self.client.send(&call).await;
            if outcome.as_ref().is_ok_and(|response| response.status() == StatusCode::PARTIAL_CONTENT) {
                return outcome;
            }
            // An address that was signed for a while may have expired; the registry gives us another, or has given one to
            // another piece meanwhile.
            self.location().take_if(|now| *now == location);
            if !outcome.as_ref().is_ok_and(|response| !http::is_transient(response.status())) {
                return outcome;
            }
        }
        call.target = Target::Path(path);
        let response = self.client.send(&call).await?;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            *self.location() = Some(response.url().clone());
        }
        Ok(response)
    }

    fn location(&self) -> MutexGuard<'_, Option<Url>> {
        self.location.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `seat` is where pieces come from at present.
    fn is_here(&self, seat: &Seat) -> bool {
        self.location().as_ref().is_some_and(|location| seat.is_at(location))
    }

    /// A place for a piece that nobody else wants. While it is not known where pieces come from there is none.
    fn spare_seat(&self) -> Option<Seat> {
        let location = self.location().clone()?;
        self.client.http().spare_seat(&location)
    }

    /// Fetches a piece, the answer to which may have begun.
    async fn fetch(
        self,
        range: Range<u64>,
        is_spare: bool,
        seat: Option<Seat>,
        begun: Option<Response>,
        portions: mpsc::Sender<Bytes>,
    ) -> End {
        let mut at = range.start;
        let ended = |at, trouble| End { at, seat: None, trouble: Some(trouble) };
        let asked = match begun {
            Some(response) => Ok(response),
            None => self.ask(&range, seat, Replay::Forbidden).await,
        };
        let mut response = match asked {
            Ok(response) => response,
            Err(error) => return ended(at, error.into()),
        };
        if http::is_transient(response.status()) {
            let retry_after = response.retry_after();
            let action = Action { doing: "download", what: blob_of(&self.place, self.blob.digest) };
            let registry = self.place.registry().to_owned();
            let error = RegistryError::Refused { action, registry, answer: answer_of(response).await };
            return ended(at, Trouble::Passing { error, retry_after });
        }
        let answered = range_of(&response).filter(|_| response.status() == StatusCode::PARTIAL_CONTENT);
        let is_right = |(answered, total): (Range<u64>, Option<u64>)| {
            answered == range && total.is_none_or(|total| total == self.blob.size_bytes)
        };
        if !answered.is_some_and(is_right) {
            return ended(at, Trouble::Odd);
        }
        let mut gathered = BytesMut::with_capacity(PORTION_BYTES);
        let trouble = loop {
            let outcome = response.chunk().await;
            match outcome {
                Ok(Some(bytes)) if bytes.len() as u64 > range.end - at => break Trouble::Odd,
                Ok(Some(mut bytes)) => {
                    at += bytes.len() as u64;
                    while !bytes.is_empty() {
                        let fitting = bytes.split_to(bytes.len().min(PORTION_BYTES - gathered.len()));
                        gathered.extend_from_slice(&fitting);
                        if gathered.len() == PORTION_BYTES {
                            let portion = std::mem::replace(&mut gathered, BytesMut::with_capacity(PORTION_BYTES));
                            if portions.send(portion.freeze()).await.is_err() {
                                return ended(at, Trouble::Odd);
                            }
                        }
                    }
                }
                // However the end is said: what was asked for is here.
                _ if at == range.end => {
                    if !gathered.is_empty() {
                        let _ = portions.send(gathered.freeze()).await;
                    }
                    let seat = if is_spare { None } else { Some(response.seat()) };
                    return End { at, seat, trouble: None };
                }
                Ok(None) => {
                    let (what, expected_bytes) = (blob_of(&self.place, self.blob.digest), self.blob.size_bytes);
                    let error = RegistryError::Size { what, expected_bytes, actual_bytes: Some(at) };
                    break Trouble::Passing { error, retry_after: None };
                }
                Err(source) => {
                    let action = Action { doing: "download", what: blob_of(&self.place, self.blob.digest) };
                    break RegistryError::Http { action, source }.into();
                }
            }
        };
        // The place is free before the reader has time for what came.
        drop(response);
        if !gathered.is_empty() {
            let _ = portions.send(gathered.freeze()).await;
        }
        ended(at, trouble)
    }
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Self {
        match &error {
            RegistryError::Http { source, .. } if HttpError::is_transient(source) => Self::Passing { error, retry_after: None },
            _ => Self::Odd,
        }
    }
}

impl Piece {
    fn start(source: Source, range: Range<u64>, is_spare: bool, seat: Option<Seat>, begun: Option<Response>) -> Self {
        let (sender, arrivals) = mpsc::channel(PORTIONS_AHEAD);
        let task = tokio::spawn(source.fetch(range.clone(), is_spare, seat, begun, sender));
        Self { range, is_spare, arrivals, task: Some(task), trouble: None }
    }

    /// Takes note of its end, and gives back what it had of the reader.
    fn note(&mut self, end: Result<End, tokio::task::JoinError>) -> Option<Seat> {
        self.task = None;
        let end = end.unwrap_or(End { at: self.range.end, seat: None, trouble: Some(Trouble::Odd) });
        (self.range.start, self.trouble) = (end.at, end.trouble);
        end.seat
    }

    async fn end(&mut self) -> Option<Seat> {
        let end = self.task.as_mut()?.await;
        self.note(end)
    }

    fn end_if_there(&mut self) -> Option<Seat> {
        let end = self.task.as_mut()?.now_or_never()?;
        self.note(end)
    }

    /// Whether it was given up under way, and no one fetches the rest.
    fn is_interrupted(&self) -> bool {
        self.task.is_none() && self.range.start < self.range.end
    }
}

impl Pieces {
    /// What comes next. There is something until the whole blob was given.
    pub(super) async fn next(&mut self) -> Arrival {
        loop {
            for piece in &mut self.window {
                let seat = piece.end_if_there();
                self.seat = self.seat.take().or(seat);
            }
            self.seat = self.seat.take().filter(|seat| self.source.is_here(seat));
            self.spread();
            let Some(first) = self.window.front_mut() else { return Arrival::Odd };
            if let Some(bytes) = first.arrivals.recv().await {
                return Arrival::Bytes(bytes);
            }
            let seat = first.end().await;
            self.seat = self.seat.take().or(seat);
            let Some(first) = self.window.front_mut() else { return Arrival::Odd };
            match first.trouble.take() {
                Some(Trouble::Passing { error, retry_after }) => return Arrival::Interrupted { error, retry_after },
                Some(Trouble::Odd) => return Arrival::Odd,
                None if first.is_interrupted() => self.resume().await,
                None => drop(self.window.pop_front()),
            }
        }
    }

    /// Fetches what is left of the first piece from the reader's own place: spare ones are for what goes well.
    async fn resume(&mut self) {
        if self.seat.is_none()
            && let Some(own) = self.window.iter_mut().find(|piece| !piece.is_spare && piece.task.is_some())
        {
            // It does not wait for the reader: only the first piece ever does.
            self.seat = own.end().await;
        }
        let (source, seat) = (self.source.clone(), self.seat.take());
        if let Some(first) = self.window.front_mut() {
            *first = Piece::start(source, first.range.clone(), false, seat, None);
        }
    }

    /// Starts pieces wherever there is a place for one.
    fn spread(&mut self) {
        let is_well = |piece: &Piece| piece.trouble.is_none() && !piece.is_interrupted();
        while self.next < self.source.blob.size_bytes && self.window.len() < MOST_PIECES {
            let is_calm = self.window.iter().all(is_well);
            let spare = if is_calm { self.source.spare_seat() } else { None };
            let is_first = self.window.is_empty();
            let is_shared = spare.is_some() || self.window.iter().any(|piece| piece.is_spare);
            if is_first || self.seat.is_some() && is_shared {
                let seat = self.seat.take();
                self.start(if is_first && spare.is_none() { LONE_PIECE_BYTES } else { PIECE_BYTES }, false, seat);
            } else if spare.is_some() {
                self.start(PIECE_BYTES, true, spare);
            } else {
                return;
            }
        }
    }

    fn start(&mut self, size_bytes: u64, is_spare: bool, seat: Option<Seat>) {
        let range = self.next..self.next.saturating_add(size_bytes).min(self.source.blob.size_bytes);
        self.next = range.end;
        self.window.push_back(Piece::start(self.source.clone(), range, is_spare, seat, None));
    }
}

/// Which part of how much an answer says that it is.
pub(super) fn range_of(response: &Response) -> Option<(Range<u64>, Option<u64>)> {
    parse_content_range(response.header("content-range")?)
}

fn parse_content_range(value: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) };
    let end = last.trim().parse::<u64>().ok()?.checked_add(1)?;
    Some((first.trim().parse().ok()?..end, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_as_a_whole_or_not_at_all() {
        for (value, expected) in [
            ("bytes 0-9/10", Some((0..10, Some(10)))),
            (" bytes  4 - 7 / * ", Some((4..8, None))),
            ("bytes 0-9", None),
            ("bytes */10", None),
            ("bytes 0-18446744073709551615/1", None),
            ("bytes -1-9/10", None),
            ("pages 0-9/10", None),
            ("bytes 0-9/ten", None),
        ] {
            assert_eq!(parse_content_range(value), expected, "{value}");
        }
    }
}
