//! How a connection is made: directly or through a proxy, plain or over TLS; HTTP/1.1 is spoken on it.
//!
//! HTTP/2 is not offered to servers: all transfers would share one connection's window, which stalled uploads at several registries.

use super::{
    Cause, HttpError, Options, Proxies, StatusCode, Trust, Url,
    body::Outgoing,
    error, host_of, tls,
    tunnel::{Refused, Tunnel},
};
use hyper::{
    Uri,
    client::conn::http1::{self, SendRequest},
    header::HeaderValue,
    rt::{Read, Write},
};
use hyper_rustls::HttpsConnector;
use hyper_util::client::{
    legacy::connect::HttpConnector,
    proxy::matcher::{Intercept, Matcher},
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{sync::OwnedSemaphorePermit, task::AbortHandle};
use tower_service::Service as _;

/// How often a connection on which nothing is said is asked whether its other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How often in vain before it is closed.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long what was sent may go unacknowledged: while something is, nobody asks whether the other end is still there.
const LONGEST_UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// The way to the servers that are recognised alike.
pub(super) struct Transport {
    proxies: Matcher,
    to_server: HttpsConnector<HttpConnector>,
    to_proxy: HttpsConnector<HttpConnector>,
    tls: Arc<rustls::ClientConfig>,
    user_agent: HeaderValue,
    connect_timeout: Duration,
}

impl fmt::Debug for Transport {
    // A proxy's address may hold a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Transport")
    }
}

/// Where a request goes and in which form.
pub(super) struct Route {
    /// The address of the server.
    uri: Uri,
    proxy: Option<Intercept>,
}

impl Route {
    #[cfg(test)]
    pub(super) fn has_proxy(&self) -> bool {
        self.proxy.is_some()
    }

    /// The proxy that answers requests itself, rather than letting through what it cannot read.
    fn forwarding(&self) -> Option<&Intercept> {
        self.proxy.as_ref().filter(|_| self.uri.scheme_str() == Some("http"))
    }

    /// The refusal, if an answer of `status` is one of the proxy and not of the server.
    pub(super) fn refusal(&self, status: StatusCode, url: &Url) -> Option<HttpError> {
        let proxy = self.forwarding().filter(|_| status == StatusCode::PROXY_AUTHENTICATION_REQUIRED)?;
        Some(refusal(&Refused::new(proxy, status), url))
    }

    /// The target and the `Host` of a request, and what a proxy that forwards it wants to know of us.
    pub(super) fn addressed(&self) -> Option<(Uri, HeaderValue, Option<HeaderValue>)> {
        let host = HeaderValue::from_str(self.uri.authority()?.as_str()).ok()?;
        if let Some(proxy) = self.forwarding() {
            return Some((self.uri.clone(), host, proxy.basic_auth().cloned()));
        }
        Some((Uri::builder().path_and_query(self.uri.path_and_query()?.clone()).build().ok()?, host, None))
    }
}

/// An open connection. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct Connection {
    /// What takes requests.
    pub(super) sender: SendRequest<Outgoing>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Transport {
    pub(super) fn new(options: &Options, host: &str, trust: &Trust) -> Result<Self, HttpError> {
        let tls = Arc::new(tls::config(host, trust, &options.ca_paths)?);
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE));
        http.set_keepalive_interval(Some(KEEPALIVE));
        http.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        http.set_tcp_user_timeout(Some(LONGEST_UNACKNOWLEDGED));
        // Shared by the addresses of a name, so that one that swallows everything leaves time for the next.
        http.set_connect_timeout(Some(options.connect_timeout));
        // Whom a registry is trusted like says nothing of the proxy on the way to it.
        let tls_of_proxy = Arc::new(tls::config("the proxy", &options.trust, &options.ca_paths)?);
        let user_agent = HeaderValue::from_str(&options.user_agent)
            .map_err(|_| HttpError::Setup { source: Cause("the user agent is no text for a header".to_owned()) })?;
        Ok(Self {
            proxies: matcher(&options.proxies)?,
            to_server: HttpsConnector::from((http.clone(), tls.clone())),
            to_proxy: HttpsConnector::from((http, tls_of_proxy)),
            tls,
            user_agent,
            connect_timeout: options.connect_timeout,
        })
    }

    /// The way to `url`.
    pub(super) fn route(&self, url: &Url) -> Result<Route, HttpError> {
        let mut bare = url.clone();
        bare.set_fragment(None);
        // Neither fails where there is a host.
        let (_, _) = (bare.set_username(""), bare.set_password(None));
        let uri: Uri = bare.as_str().parse().map_err(|_| HttpError::Address { url: super::redacted(url) })?;
        let proxy = self.proxies.intercept(&uri);
        Ok(Route { uri, proxy })
    }

    /// Opens a connection that has `permit` until it is closed.
    pub(super) async fn connect(&self, route: &Route, url: &Url, permit: OwnedSemaphorePermit) -> Result<Connection, HttpError> {
        let (mut to_server, mut to_proxy) = (self.to_server.clone(), self.to_proxy.clone());
        let connecting = async {
            let refused = |error: Box<dyn std::error::Error + Send + Sync>| match error.downcast_ref::<Refused>() {
                Some(answer) if !answer.is_transient() => refusal(answer, url),
                _ => error::classify(&*error, url, error::During::Connecting),
            };
            match &route.proxy {
                Some(proxy) if route.uri.scheme_str() == Some("https") => {
                    let tunnel = Tunnel { proxy: proxy.clone(), to_proxy, user_agent: self.user_agent.clone() };
                    let io = HttpsConnector::from((tunnel, self.tls.clone())).call(route.uri.clone()).await.map_err(refused)?;
                    speak(io, url, permit).await
                }
                Some(proxy) => speak(to_proxy.call(proxy.uri().clone()).await.map_err(refused)?, url, permit).await,
                None => speak(to_server.call(route.uri.clone()).await.map_err(refused)?, url, permit).await,
            }
        };
        let too_long = || {
            let reason = format!("no connection within {} s", self.connect_timeout.as_secs());
            HttpError::Connect { host: host_of(url), source: Cause(reason) }
        };
        tokio::time::timeout(self.connect_timeout, connecting).await.unwrap_or_else(|_| Err(too_long()))
    }
}

fn refusal(answer: &Refused, url: &Url) -> HttpError {
    HttpError::ProxyRefused { proxy: answer.proxy.clone(), host: host_of(url), status: answer.status }
}

/// Prepares `io` for requests.
async fn speak<I>(io: I, url: &Url, permit: OwnedSemaphorePermit) -> Result<Connection, HttpError>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let shaken = http1::handshake(io).await;
    let (sender, connection) = shaken.map_err(|error| error::classify(&error, url, error::During::Exchange))?;
    let task = tokio::spawn(async move {
        // Dropped after the connection, whether that ends or is aborted: the socket is closed when another may be opened.
        let _permit = permit;
        // Whoever waits for an answer is told what went wrong; nobody else cares.
        let _ = connection.await;
    });
    Ok(Connection { sender, task: task.abort_handle() })
}

fn matcher(proxies: &Proxies) -> Result<Matcher, HttpError> {
    let address = |scheme, given: &Option<String>| {
        let Some(given) = given.as_deref().filter(|given| !given.is_empty()) else { return Ok(String::new()) };
        let address = if given.contains("://") { given.to_owned() } else { format!("http://{given}") };
        let refused = || HttpError::Proxy { scheme };
        let address = Url::parse(&address).map_err(|_| refused())?;
        if !matches!(address.scheme(), "http" | "https") || !address.has_host() {
            return Err(refused());
        }
        // The matcher takes one that it cannot read for none.
        let address = String::from(address);
        if address.parse::<Uri>().is_err() { Err(refused()) } else { Ok(address) }
    };
    let direct = format!("localhost,127.0.0.0/8,::1,{}", proxies.no_proxy.as_deref().unwrap_or_default());
    Ok(Matcher::builder().http(address("http", &proxies.http)?).https(address("https", &proxies.https)?).no(direct).build())
}
