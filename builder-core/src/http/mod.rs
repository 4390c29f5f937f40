//! The one door to the network: TLS, proxies, redirects, retries, limits.
//!
//! Takes a [`Request`] that can be sent again as a whole, gives a [`Response`] whose body streams. Credentials travel only in
//! the `Authorization` header that the caller sets, and never over a redirect to another host; errors name neither credentials
//! nor query strings. Nothing is read from the environment: proxies and places of certificates are given by the caller.

mod body;
mod error;
mod retry;
mod secret;
mod tls;

pub use body::{Body, Opener, Response};
pub use error::{Cause, HttpError, host_of, redacted};
pub use reqwest::{Method, StatusCode, Url, header};
pub use retry::{RetryPolicy, is_transient};
pub use secret::Secret;
pub use tls::{CaPaths, ClientCertificate, Trust, Verification};

use body::Sending;
use header::{HeaderMap, HeaderName, HeaderValue};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How the network is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who we say we are.
    pub user_agent: String,
    /// Ways around or through a firewall.
    pub proxies: Proxies,
    /// Where the host keeps the certificates that it trusts.
    pub ca_paths: CaPaths,
    /// How servers are recognised that `hosts` does not name.
    pub trust: Trust,
    /// How the servers of one `host` or `host:port` are recognised.
    pub hosts: BTreeMap<String, Trust>,
    /// When a request is sent again.
    pub retry: RetryPolicy,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a server may be silent in the middle of an answer or before a short one.
    pub idle_timeout: Duration,
    /// How long a server may take to answer after it has received all of an upload.
    pub commit_timeout: Duration,
    /// How many connections one host gets at a time. A connection whose answer was just read is not free at once, so there is
    /// one request less under way, and of those one is no stream ([`Lane`]), so that questions do not wait for long transfers;
    /// but never less than one.
    pub connections_per_host: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            user_agent: concat!("cofferdam/", env!("CARGO_PKG_VERSION")).to_owned(),
            proxies: Proxies::default(),
            ca_paths: CaPaths::default(),
            trust: Trust::default(),
            hosts: BTreeMap::new(),
            retry: RetryPolicy::default(),
            connect_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_mins(1),
            commit_timeout: Duration::from_mins(5),
            connections_per_host: 4,
        }
    }
}

/// The values of `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, as the caller found or was given them.
///
/// Loopback addresses are never asked for through a proxy.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For `http` addresses.
    pub http: Option<String>,
    /// For `https` addresses.
    pub https: Option<String>,
    /// Hosts, domains, addresses and networks, with commas between them, that are reached directly.
    pub no_proxy: Option<String>,
}

impl fmt::Debug for Proxies {
    // The address of a proxy may hold a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |proxy: &Option<String>| proxy.as_deref().and_then(|text| Url::parse(text).ok()).map(|url| redacted(&url));
        write!(formatter, "Proxies({:?}, {:?}, {:?})", shown(&self.http), shown(&self.https), self.no_proxy)
    }
}

/// What kind of traffic a request is.
///
/// All share the places of a host. Whoever holds an answer or an upload must not need another place of that host to be done
/// with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// A question with a short answer.
    Brief,
    /// An answer that streams for a while.
    Download,
    /// A body that streams for a while.
    Upload,
}

/// Whether a request may reach the server twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// It is sent again after a transient failure.
    Allowed,
    /// It is sent once.
    Forbidden,
}

/// A request. Its body can be read again, so that it can be sent again.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET, HEAD, …
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Headers; mark those that hold secrets as sensitive.
    pub headers: HeaderMap,
    /// What is sent.
    pub body: Body,
    /// The kind of traffic.
    pub lane: Lane,
    /// Whether it may be sent again.
    pub replay: Replay,
    /// How many redirects are followed; with 0 the answer that redirects is the answer.
    pub most_redirects: u8,
    /// The `host[:port]` whose [`Trust`] counts where the server's own host has none: a registry's token server and its
    /// object store usually stand behind the same private authority.
    pub trusted_as: Option<String>,
}

impl Request {
    /// A request without body that is sent once if it changes something and again if it only asks.
    pub fn new(method: Method, url: Url) -> Self {
        let replay = if method.is_safe() { Replay::Allowed } else { Replay::Forbidden };
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: Body::Empty,
            lane: Lane::Brief,
            replay,
            most_redirects: 10,
            trusted_as: None,
        }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// The client: cheap to clone, connections are pooled among the clones.
#[derive(Clone, Debug)]
pub struct Client {
    options: Arc<Options>,
    usual: reqwest::Client,
    /// Clients with a [`Trust`] of their own, by `host[:port]`.
    particular: Arc<BTreeMap<String, reqwest::Client>>,
    places: Arc<Mutex<Places>>,
}

/// Free places by host: of all requests, and of those that stream.
type Places = HashMap<String, (Arc<Semaphore>, Arc<Semaphore>)>;

/// Places that a request has until its answer is dropped, and a moment longer.
#[derive(Debug)]
struct Place(Option<(Option<OwnedSemaphorePermit>, OwnedSemaphorePermit)>);

/// The connection of an answer that was read goes back to its pool from a task of its own. Whoever took the place before it is there
/// would open another one.
const RETURN_OF_A_CONNECTION: Duration = Duration::from_millis(2);

impl Drop for Place {
    fn drop(&mut self) {
        let places = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(RETURN_OF_A_CONNECTION).await;
                drop(places);
            });
        }
    }
}

impl Client {
    /// A client that has not spoken to anybody yet.
    ///
    /// # Errors
    /// If a proxy's address or a certificate cannot be used.
    pub fn new(options: Options) -> Result<Self, HttpError> {
        let usual = transport(&options, "the usual servers", &options.trust)?;
        let particular = options.hosts.iter().map(|(host, trust)| Ok((host.clone(), transport(&options, host, trust)?)));
        let particular = Arc::new(particular.collect::<Result<_, HttpError>>()?);
        Ok(Self { options: Arc::new(options), usual, particular, places: Arc::default() })
    }

    /// A client with the same options except for whom it trusts: `usual` for everybody (if given), `hosts` in addition to
    /// those known already.
    ///
    /// # Errors
    /// If a certificate cannot be used.
    pub fn trusting(self, usual: Option<Trust>, hosts: BTreeMap<String, Trust>) -> Result<Self, HttpError> {
        if usual.is_none() && hosts.is_empty() {
            return Ok(self);
        }
        let mut options = Options::clone(&self.options);
        options.trust = usual.unwrap_or(options.trust);
        options.hosts.extend(hosts);
        Self::new(options)
    }

    /// How the network is used.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Sends `request` until an answer comes that is not transient, or patience ends; any status is an answer.
    ///
    /// # Errors
    /// If no answer comes. The last transient answer counts as an answer.
    pub async fn send(&self, request: &Request) -> Result<Response, HttpError> {
        let mut attempts = 0;
        loop {
            let outcome = self.send_once(request).await;
            attempts += 1;
            let retry_after = match &outcome {
                Ok(response) if is_transient(response.status()) => response.retry_after(),
                Err(error) if error.is_transient() => None,
                _ => return outcome,
            };
            match self.options.retry.wait(attempts, retry_after, jitter()) {
                Some(wait) if request.replay == Replay::Allowed => {
                    // The place is free while we wait.
                    drop(outcome);
                    tokio::time::sleep(wait).await;
                }
                _ => return outcome,
            }
        }
    }

    /// Waits as after `attempts` failures; `false` if patience has ended.
    pub async fn pause(&self, attempts: u32) -> bool {
        self.pause_as_asked(attempts, None).await
    }

    /// The same where the server may have said how long to wait ([`Response::retry_after`]).
    pub async fn pause_as_asked(&self, attempts: u32, retry_after: Option<Duration>) -> bool {
        let wait = self.options.retry.wait(attempts, retry_after, jitter());
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
        wait.is_some()
    }

    /// One attempt, redirects followed.
    async fn send_once(&self, request: &Request) -> Result<Response, HttpError> {
        let mut url = request.url.clone();
        let mut headers = request.headers.clone();
        let mut followed = 0;
        loop {
            let response = self.exchange(request, &url, headers.clone()).await?;
            let Some(location) = redirect(&request.method, &response) else { return Ok(response) };
            if request.most_redirects == 0 {
                return Ok(response);
            }
            followed += 1;
            let refused = |to| HttpError::Redirect { host: host_of(&url), to };
            if followed > request.most_redirects {
                return Err(refused("too often"));
            }
            let next = url.join(&location).map_err(|_| refused("to an address that cannot be used"))?;
            if !matches!(next.scheme(), "http" | "https") || !next.has_host() {
                return Err(refused("to an address that is neither http nor https"));
            }
            if next.origin() != url.origin() {
                headers.remove(header::AUTHORIZATION);
                headers.remove(header::COOKIE);
            }
            url = next;
        }
    }

    async fn exchange(&self, request: &Request, url: &Url, headers: HeaderMap) -> Result<Response, HttpError> {
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(HttpError::Address { url: redacted(url) });
        }
        let place = self.place(url, request.lane).await;
        let sending = Sending::new();
        let mut outgoing = self.transport_for(url, request).request(request.method.clone(), url.clone()).headers(headers);
        outgoing = match request.body.clone() {
            // Registries behind some proxies insist on a length where a body could be.
            Body::Empty if matches!(request.method, Method::POST | Method::PUT) => outgoing.header(header::CONTENT_LENGTH, 0),
            Body::Empty => outgoing,
            Body::Bytes(bytes) => outgoing.body(bytes),
            Body::Stream { size_bytes, open } => {
                outgoing.header(header::CONTENT_LENGTH, size_bytes).body(sending.stream(size_bytes, open))
            }
        };
        let patience = if request.body.size_bytes() > 0 { self.options.commit_timeout } else { self.options.idle_timeout };
        let answer = outgoing.send();
        tokio::pin!(answer);
        let inner = loop {
            let left = patience.saturating_sub(sending.idle());
            match tokio::time::timeout(left, &mut answer).await {
                Ok(Ok(inner)) => break inner,
                Ok(Err(error)) => {
                    return Err(match sending.take_failure() {
                        Some(source) => HttpError::Source { host: host_of(url), source },
                        None => error::classify(error, url),
                    });
                }
                Err(_) if sending.idle() >= patience => {
                    return Err(HttpError::Timeout { host: host_of(url), waited: patience });
                }
                Err(_) => {}
            }
        };
        Ok(Response { inner, url: url.clone(), idle_limit: self.options.idle_timeout, _place: place })
    }

    /// Waits for a place at the host of `url`.
    async fn place(&self, url: &Url, lane: Lane) -> Place {
        let (any, streaming) = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let free = |in_use: usize| Arc::new(Semaphore::new(self.options.connections_per_host.saturating_sub(in_use).max(1)));
            places.entry(host_of(url)).or_insert_with(|| (free(1), free(2))).clone()
        };
        let take = async |places: Arc<Semaphore>| places.acquire_owned().await.expect("the semaphore is never closed");
        let streaming = if lane == Lane::Brief { None } else { Some(take(streaming).await) };
        Place(Some((streaming, take(any).await)))
    }

    fn transport_for(&self, url: &Url, request: &Request) -> &reqwest::Client {
        let own = self.particular.get(&host_of(url));
        let borrowed = || self.particular.get(request.trusted_as.as_deref()?);
        own.or_else(borrowed).unwrap_or(&self.usual)
    }
}

/// Where `response` sends a request of `method`, if it does.
fn redirect(method: &Method, response: &Response) -> Option<String> {
    let followed = match response.status().as_u16() {
        307 | 308 => true,
        // Others turn into a GET by custom; what was asked with another method is not repeated as one.
        301..=303 => method.is_safe(),
        _ => false,
    };
    followed.then(|| response.header("location").map(str::to_owned)).flatten()
}

fn transport(options: &Options, host: &str, trust: &Trust) -> Result<reqwest::Client, HttpError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(&options.user_agent)
        .tls_backend_preconfigured(tls::config(host, trust, &options.ca_paths)?)
        // HTTP/2 shares one connection's window among all transfers, which stalled uploads at several registries.
        .http1_only()
        // reqwest would ask the environment.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(options.connect_timeout)
        .pool_idle_timeout(Duration::from_secs(30))
        .referer(false);
    let direct = format!("localhost,127.0.0.0/8,::1,{}", options.proxies.no_proxy.as_deref().unwrap_or_default());
    for (scheme, address) in [("http", &options.proxies.http), ("https", &options.proxies.https)] {
        let Some(address) = address.as_deref().filter(|address| !address.is_empty()) else { continue };
        let address = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let proxy = if scheme == "http" { reqwest::Proxy::http(address) } else { reqwest::Proxy::https(address) };
        let proxy = proxy.map_err(|_| HttpError::Proxy { scheme })?;
        builder = builder.proxy(proxy.no_proxy(reqwest::NoProxy::from_string(&direct)));
    }
    builder.build().map_err(|error| HttpError::Setup { source: Cause(error.without_url().to_string()) })
}

/// A number from 0 to 1 that differs from process to process and from call to call.
fn jitter() -> f64 {
    let random = RandomState::new().hash_one(SystemTime::now());
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_is_no_address_is_refused_without_showing_it() {
        let proxies = Proxies { https: Some("http://user:secret@".to_owned()), ..Proxies::default() };
        let error = Client::new(Options { proxies: proxies.clone(), ..Options::default() }).unwrap_err();
        assert_eq!(error.to_string(), "the address of the https proxy is no URL that can be used");
        let proxies = Proxies { https: Some("http://user:secret@proxy:3128".to_owned()), ..Proxies::default() };
        assert!(!format!("{proxies:?}").contains("secret"));
        assert!(Client::new(Options { proxies, ..Options::default() }).is_ok());
    }

    #[test]
    fn only_questions_are_repeated_by_default() {
        let replay = |method| Request::new(method, Url::parse("http://x/").unwrap()).replay;
        assert_eq!(replay(Method::GET), Replay::Allowed);
        assert_eq!(replay(Method::HEAD), Replay::Allowed);
        assert_eq!(replay(Method::POST), Replay::Forbidden);
    }
}
