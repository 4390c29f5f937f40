//! The one door to the network: TLS, proxies, redirects, retries, limits.
//!
//! Takes a [`Request`] that can be sent again as a whole, gives a [`Response`] whose body streams. Credentials travel only in
//! the `Authorization` header, which the caller sets or the user and password of an address make, and never over a redirect to another
//! host; errors name neither credentials nor query strings. Nothing is read from the environment: proxies and places of certificates are given by the caller.

mod body;
mod connect;
mod error;
mod places;
mod retry;
mod secret;
mod tls;
mod tunnel;

pub use body::{Body, Follower, Opener, Response};
pub use error::{Cause, HttpError, host_of, redacted};
pub use hyper::{Method, StatusCode, header};
pub use retry::{LongWait, RetryPolicy, is_transient};
pub use secret::Secret;
pub use tls::{CaPaths, ClientCertificate, Trust, Verification};
pub use url::Url;

use base64::Engine as _;
use body::Sending;
use connect::Transport;
use header::{HeaderMap, HeaderName, HeaderValue};
use places::{Host, Hosts, Line, Place};
use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, SystemTime},
};

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
    /// How long an open connection waits for its next request; servers and what stands before them give up after a minute or so.
    pub connection_wait: Duration,
    /// How many connections to one host are open at a time, and how many requests under way. One of them is no stream
    /// ([`Lane`]), so that questions do not wait for long transfers; but at least one may be.
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
            connection_wait: Duration::from_secs(30),
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
/// All share the places of a host. Whoever holds an answer, an upload or a [`Seat`] must not need another place of that host to
/// be done with it.
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
    /// A place to use where it is one of the host's and no other request uses it.
    pub seat: Option<Seat>,
}

/// A place at a host that is kept between requests. The host has it back when all its clones and the answer that uses it are gone.
#[derive(Clone, Debug)]
pub struct Seat(Arc<Place>);

impl Seat {
    /// Whether it is one of the host of `url`.
    pub fn is_at(&self, url: &Url) -> bool {
        self.0.host.name == host_of(url)
    }
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
            seat: None,
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
    user_agent: HeaderValue,
    usual: Arc<Transport>,
    /// Those with a [`Trust`] of their own, by `host[:port]`.
    particular: Arc<BTreeMap<String, Arc<Transport>>>,
    hosts: Arc<Hosts>,
}

impl Client {
    /// A client that has not spoken to anybody yet.
    ///
    /// # Errors
    /// If a proxy's address or a certificate cannot be used.
    pub fn new(options: Options) -> Result<Self, HttpError> {
        let transport = |host: &str, trust| Ok::<_, HttpError>(Arc::new(Transport::new(&options, host, trust)?));
        let user_agent = HeaderValue::from_str(&options.user_agent)
            .map_err(|_| HttpError::Setup { source: Cause("the user agent is no text for a header".to_owned()) })?;
        let usual = transport("the usual servers", &options.trust)?;
        let particular = options.hosts.iter().map(|(host, trust)| Ok((host.clone(), transport(host, trust)?)));
        let particular = Arc::new(particular.collect::<Result<_, HttpError>>()?);
        let hosts = Arc::new(Hosts::new(options.connection_wait));
        Ok(Self { options: Arc::new(options), user_agent, usual, particular, hosts })
    }

    /// A client with the same options except for whom it trusts: `usual` for everybody (if given), `hosts` in addition to
    /// those known already. Both share the places of a host, and no connection.
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
        Ok(Self { hosts: self.hosts, ..Self::new(options)? })
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
                    // Afterwards the place is free while we wait.
                    if let Ok(response) = outcome {
                        response.drain().await;
                    }
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
            // Boxed, so that whoever waits for an answer does not hold all that a connection takes to be made.
            let response = Box::pin(self.exchange(request, &url, headers.clone())).await?;
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
            response.drain().await;
            url = next;
        }
    }

    async fn exchange(&self, request: &Request, url: &Url, headers: HeaderMap) -> Result<Response, HttpError> {
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(HttpError::Address { url: redacted(url) });
        }
        let transport = self.transport_for(url, request);
        let route = transport.route(url)?;
        let mut line = Line::new(self.place(url, request).await, transport.clone(), url);
        let sending = Sending::new();
        let mut outgoing = self.message(request, url, &route, headers, &sending)?;
        let patience = if request.body.size_bytes() == Some(0) { self.options.idle_timeout } else { self.options.commit_timeout };
        let inner = loop {
            let connection = line.connection(&route, url).await?;
            // What was waited for until now was no answer.
            sending.progressed();
            let answer = connection.sender.try_send_request(outgoing);
            tokio::pin!(answer);
            let outcome = loop {
                let left = patience.saturating_sub(sending.idle());
                match tokio::time::timeout(left, &mut answer).await {
                    Ok(outcome) => break outcome,
                    Err(_) if sending.idle() >= patience => {
                        return Err(HttpError::Timeout { host: host_of(url), waited: patience });
                    }
                    Err(_) => {}
                }
            };
            match outcome {
                Ok(inner) => break inner,
                Err(mut failure) => match (sending.take_failure(), failure.take_message()) {
                    (Some(source), _) => return Err(HttpError::Source { host: host_of(url), source }),
                    // The server closed a connection that had waited, and has seen nothing of the request.
                    (None, Some(unsent)) if line.is_old => outgoing = unsent,
                    (None, _) => return Err(error::classify(failure.error(), url, error::During::Exchange)),
                },
            }
        };
        if let Some(refusal) = route.refusal(inner.status(), url) {
            return Err(refusal);
        }
        let mut response = Response::new(inner, line, sending, url.clone(), self.options.clone());
        response.read_ahead().await;
        Ok(response)
    }

    /// The request as it is said to the server or the proxy.
    fn message(
        &self,
        request: &Request,
        url: &Url,
        route: &connect::Route,
        mut headers: HeaderMap,
        sending: &Sending,
    ) -> Result<hyper::Request<body::Outgoing>, HttpError> {
        let address = || HttpError::Address { url: redacted(url) };
        let (target, host, proxy_pass) = route.addressed().ok_or_else(address)?;
        headers.insert(header::HOST, host);
        headers.entry(header::USER_AGENT).or_insert_with(|| self.user_agent.clone());
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        if let Some(pass) = proxy_pass {
            headers.insert(header::PROXY_AUTHORIZATION, pass);
        }
        if let Some(pass) = pass_in(url) {
            headers.entry(header::AUTHORIZATION).or_insert(pass);
        }
        // Registries behind some proxies insist on a length where a body could be.
        let could_have_body = matches!(request.method, Method::POST | Method::PUT);
        if let Some(size_bytes) = request.body.size_bytes().filter(|size_bytes| *size_bytes > 0 || could_have_body) {
            headers.insert(header::CONTENT_LENGTH, size_bytes.into());
        }
        let mut message = hyper::Request::new(sending.outgoing(request.body.clone()));
        (*message.method_mut(), *message.uri_mut(), *message.headers_mut()) = (request.method.clone(), target, headers);
        Ok(message)
    }

    /// A place for a stream at the host of `url`, if one is free and nobody waits for it.
    pub fn spare_seat(&self, url: &Url) -> Option<Seat> {
        self.host(url).spare_place().map(Seat)
    }

    /// The place that `request` brings, or waits for one at the host of `url`; nobody else uses it.
    async fn place(&self, url: &Url, request: &Request) -> Arc<Place> {
        let host = self.host(url);
        if let Some(Seat(place)) = request.seat.as_ref().filter(|seat| seat.0.claim(&host)) {
            return place.clone();
        }
        let place = host.place(request.lane != Lane::Brief).await;
        place.claim(&host);
        place
    }

    fn host(&self, url: &Url) -> Arc<Host> {
        self.hosts.host(&host_of(url), self.options.connections_per_host)
    }

    fn transport_for(&self, url: &Url, request: &Request) -> &Arc<Transport> {
        let own = self.particular.get(&host_of(url));
        let borrowed = || self.particular.get(request.trusted_as.as_deref()?);
        own.or_else(borrowed).unwrap_or(&self.usual)
    }
}

/// The user and password that stand in an address.
fn pass_in(url: &Url) -> Option<HeaderValue> {
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let pair = [&decoded(url.username())[..], b":", &decoded(url.password().unwrap_or_default())].concat();
    let mut pass = HeaderValue::try_from(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))).ok()?;
    pass.set_sensitive(true);
    Some(pass)
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
    fn a_proxy_is_never_silently_left_out() {
        for (address, is_refused) in
            [("http://ci:pa^ss@proxy:3128", false), ("http://proxy:3128\n", false), ("proxy:3128", false), (" proxy:3128", true)]
        {
            let proxies = Proxies { https: Some(address.to_owned()), ..Proxies::default() };
            let made = Client::new(Options { proxies, ..Options::default() });
            assert_eq!(matches!(made, Err(HttpError::Proxy { .. })), is_refused, "{address:?}");
            let Ok(client) = made else { continue };
            let route = client.usual.route(&Url::parse("https://registry.example/v2/").unwrap()).unwrap();
            assert!(route.has_proxy(), "{address:?}");
        }
    }

    #[test]
    fn only_questions_are_repeated_by_default() {
        let replay = |method| Request::new(method, Url::parse("http://x/").unwrap()).replay;
        assert_eq!(replay(Method::GET), Replay::Allowed);
        assert_eq!(replay(Method::HEAD), Replay::Allowed);
        assert_eq!(replay(Method::POST), Replay::Forbidden);
    }
}
