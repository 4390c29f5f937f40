//! The places of a host: how many requests are under way there, and how many connections are open.
//!
//! A request has a [`Place`] and uses one connection from it. A connection takes its permit when it is opened and gives it back when
//! its socket is closed, so that there can never be more of them than the limit says, whoever uses them, in whatever state they
//! are. A connection whose answer was read waits, open, for the next request; it is put there before the place is free, so whoever
//! gets the place finds it, and waits until it is ready rather than opening another. One task for all hosts closes what has waited
//! too long, and ends when nothing waits.
//!
//! Nobody waits for ever. Whoever has a place and finds no connection to use closes one that waits for requests of another kind,
//! if there is no room; if none waits, those that fill the room are not all in use (there are as many places as permits, and he has
//! one), so one of them is being closed.

use super::{
    HttpError, Url,
    connect::{Connection, Route, Transport},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
};

/// How many connections wait at most, whatever hosts they lead to.
const MOST_WAITING: usize = 32;
/// How long a connection that is still busy with the last of what was said is waited for.
const LONGEST_CLEARING: Duration = Duration::from_secs(5);

/// All hosts.
#[derive(Debug)]
pub(super) struct Hosts {
    by_name: Mutex<HashMap<String, Arc<Host>>>,
    idle: Arc<Idle>,
}

impl Hosts {
    /// Hosts whose connections wait no longer than that.
    pub(super) fn new(longest_wait: Duration) -> Self {
        let idle = Idle { longest_wait, now: Mutex::default() };
        Self { by_name: Mutex::default(), idle: Arc::new(idle) }
    }

    /// The host of this name; if it is new, with this limit.
    pub(super) fn host(&self, name: &str, connections: usize) -> Arc<Host> {
        let mut hosts = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Host::new(name.to_owned(), connections, self.idle.clone()));
        hosts.entry(name.to_owned()).or_insert_with(new).clone()
    }
}

/// The places of one host.
#[derive(Debug)]
pub(super) struct Host {
    /// Host and port, as [`super::host_of`] gives them.
    pub(super) name: String,
    /// For all requests.
    any: Arc<Semaphore>,
    /// For those that stream.
    streaming: Arc<Semaphore>,
    /// For connections, from before they are opened until they are closed.
    open: Arc<Semaphore>,
    idle: Arc<Idle>,
}

/// The connections that wait, of all hosts.
#[derive(Debug)]
struct Idle {
    longest_wait: Duration,
    now: Mutex<IdleNow>,
}

#[derive(Debug, Default)]
struct IdleNow {
    /// The one that has waited longest is the first.
    waiting: Vec<Waiting>,
    /// The task that closes them in time.
    closing: Option<AbortHandle>,
}

/// A connection that waits for its next request.
#[derive(Debug)]
struct Waiting {
    kind: Kind,
    connection: Connection,
    since: Instant,
}

/// What requests that share a connection have in common.
#[derive(Clone, Debug)]
struct Kind {
    /// By its name: the host itself holds what waits.
    host: String,
    transport: Arc<Transport>,
    is_secure: bool,
}

impl Kind {
    fn is(&self, other: &Self) -> bool {
        self.host == other.host && Arc::ptr_eq(&self.transport, &other.transport) && self.is_secure == other.is_secure
    }
}

/// What there is for a request.
enum Found {
    Connection(Connection),
    Room(OwnedSemaphorePermit),
    /// One that is being closed will make room.
    Full,
}

impl Host {
    fn new(name: String, connections: usize, idle: Arc<Idle>) -> Self {
        let places = |number: usize| Arc::new(Semaphore::new(number.max(1)));
        Self { name, any: places(connections), streaming: places(connections.saturating_sub(1)), open: places(connections), idle }
    }

    /// Waits for a place; one for a stream leaves the last place to short questions.
    pub(super) async fn place(self: &Arc<Self>, is_stream: bool) -> Arc<Place> {
        let take = async |places: &Arc<Semaphore>| places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let streaming = if is_stream { Some(take(&self.streaming).await) } else { None };
        let any = take(&self.any).await;
        Arc::new(Place { host: self.clone(), is_used: AtomicBool::new(false), _streaming: streaming, _any: any })
    }

    /// A place for a stream if one is free and nobody waits for it.
    pub(super) fn spare_place(self: &Arc<Self>) -> Option<Arc<Place>> {
        let streaming = self.streaming.clone().try_acquire_owned().ok()?;
        let any = self.any.clone().try_acquire_owned().ok()?;
        Some(Arc::new(Place { host: self.clone(), is_used: AtomicBool::new(false), _streaming: Some(streaming), _any: any }))
    }

    fn find(&self, kind: &Kind) -> Found {
        let mut now = self.idle.swept();
        if let Some(index) = now.waiting.iter().rposition(|waiting| waiting.kind.is(kind)) {
            return Found::Connection(now.waiting.remove(index).connection);
        }
        if let Ok(permit) = self.open.clone().try_acquire_owned() {
            return Found::Room(permit);
        }
        if let Some(index) = now.waiting.iter().position(|waiting| waiting.kind.host == self.name) {
            drop(now.waiting.remove(index));
        }
        Found::Full
    }
}

impl Idle {
    /// What waits, without what has waited too long or was closed by the other side.
    fn swept(&self) -> MutexGuard<'_, IdleNow> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.waiting.retain(|waiting| !waiting.connection.sender.is_closed() && waiting.since.elapsed() < self.longest_wait);
        now
    }

    /// Lets a connection wait.
    fn put(self: &Arc<Self>, kind: Kind, connection: Connection) {
        let mut now = self.swept();
        if now.waiting.len() == MOST_WAITING {
            drop(now.waiting.remove(0));
        }
        now.waiting.push(Waiting { kind, connection, since: Instant::now() });
        // One that ended by itself said so; one whose runtime ended could not.
        if now.closing.as_ref().is_none_or(AbortHandle::is_finished)
            && let Ok(runtime) = Handle::try_current()
        {
            now.closing = Some(runtime.spawn(close_in_time(Arc::downgrade(self), self.longest_wait)).abort_handle());
        }
    }
}

/// Closes connections when they have waited long enough, until none waits or nobody is there to use one.
async fn close_in_time(idle: Weak<Idle>, longest_wait: Duration) {
    let mut pause = longest_wait;
    loop {
        tokio::time::sleep(pause).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut now = idle.swept();
        let Some(first) = now.waiting.first() else {
            now.closing = None;
            return;
        };
        pause = longest_wait.saturating_sub(first.since.elapsed());
    }
}

/// The right to one connection of a host.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) host: Arc<Host>,
    is_used: AtomicBool,
    _streaming: Option<OwnedSemaphorePermit>,
    _any: OwnedSemaphorePermit,
}

impl Place {
    /// Whether it is at `host` and no request uses it; then the caller does.
    pub(super) fn claim(&self, host: &Arc<Host>) -> bool {
        Arc::ptr_eq(&self.host, host) && !self.is_used.swap(true, Ordering::AcqRel)
    }
}

/// A claimed place with the connection that is used from it.
///
/// Dropped, it gives both free; a connection on which something was left unsaid or unread is closed.
#[derive(Debug)]
pub(super) struct Line {
    kind: Kind,
    connection: Option<Connection>,
    /// Whether the connection had requests before.
    pub(super) is_old: bool,
    /// Whether all was said and read.
    pub(super) is_clear: bool,
    pub(super) place: Arc<Place>,
}

impl Line {
    /// For a place that the caller has claimed.
    pub(super) fn new(place: Arc<Place>, transport: Arc<Transport>, url: &Url) -> Self {
        let kind = Kind { host: place.host.name.clone(), transport, is_secure: url.scheme() == "https" };
        Self { kind, connection: None, is_old: false, is_clear: false, place }
    }

    /// The connection, ready for a request: one that waited, or a new one. One that it had before is closed.
    pub(super) async fn connection(&mut self, route: &Route, url: &Url) -> Result<&mut Connection, HttpError> {
        self.connection = None;
        let host = &self.place.host;
        let permit = loop {
            match host.find(&self.kind) {
                Found::Connection(mut connection) => {
                    if let Ok(Ok(())) = tokio::time::timeout(LONGEST_CLEARING, connection.sender.ready()).await {
                        self.is_old = true;
                        return Ok(self.connection.insert(connection));
                    }
                }
                Found::Room(permit) => break permit,
                Found::Full => break host.open.clone().acquire_owned().await.expect("the semaphore is never closed"),
            }
        };
        self.is_old = false;
        Ok(self.connection.insert(self.kind.transport.connect(route, url, permit).await?))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| self.is_clear) {
            self.place.host.idle.put(self.kind.clone(), connection);
        }
        // Whoever uses the place next finds the connection.
        self.place.is_used.store(false, Ordering::Release);
    }
}
