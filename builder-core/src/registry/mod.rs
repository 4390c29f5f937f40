//! A registry as the distribution specification has it: pull, push, mount.
//!
//! [`Client`] takes references and gives verified documents and blobs; it takes blobs that can be read again and says that
//! they are there. It knows mirrors, credentials and tokens; retries, TLS and proxies are the business of [`crate::http`].
//! Every byte that comes from a registry is checked against the digest and the size that it was asked for by.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use builder_core::{http, oci::Platform, registry};
//! use std::sync::Arc;
//!
//! let credentials = registry::DockerConfig::parse(&std::fs::read("config.json")?, None)?;
//! let http = http::Client::new(http::Options::default())?;
//! let client = registry::Client::new(http, registry::Options::default(), Arc::new(credentials))?;
//! let base = client.resolve(&"busybox:1.36".parse()?, &Platform::linux_amd64()).await?;
//! let mut layer = client.blob(&base.origin, &base.manifest.layers[0]).await?;
//! while let Some(bytes) = layer.chunk().await? {
//!     println!("{} verified or soon to be", bytes.len());
//! }
//! # Ok(())
//! # }
//! ```

mod access;
mod challenge;
mod credentials;
mod error;
mod pieces;
mod place;
mod pull;
mod upload;

mod push;
mod tags;

pub use credentials::{Anonymous, Chain, Credential, Credentials, CredentialsError, DockerConfig, Helpers};
pub use error::{Action, Answer, RegistryError};
pub use place::{Hosts, Mirror, MirrorError};
pub use pull::{BlobRead, BlobReader, Download, Fetched, KnownDocuments, Resolved};
pub use push::file_opener;
pub use upload::Grown;

use crate::http::{
    self, Body, ClientCertificate, Lane, Method, Replay, Request, Response, StatusCode, Trust, Url, Verification,
    header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE},
};
use crate::oci::Reference;
use access::{Access, Pass, Renewal, Visit};
use challenge::Scopes;
use place::{api_host, canonical, is_loopback};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
};
use tokio::sync::OnceCell;

/// How registries are spoken to. Registries are named as in references.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Those that may be spoken to in plain HTTP; TLS is tried first. Loopback addresses are always among them. The
    /// certificate of one that is named here is checked only if `certificates` has one for it: who stands between us and a
    /// registry that may do without TLS could do without it too.
    pub insecure: Hosts,
    /// Those whose certificate is not checked.
    pub skip_tls_verify: Hosts,
    /// Certificates (PEM) that are trusted at one registry, its token server and its object store.
    pub certificates: BTreeMap<String, Vec<u8>>,
    /// Certificates that we show to one registry.
    pub client_certificates: BTreeMap<String, ClientCertificate>,
    /// Where images can be had before their registry is asked. Nothing is pushed there.
    pub mirrors: Vec<Mirror>,
    /// Whether a registry that has mirrors is not asked itself.
    pub skip_default_fallback: bool,
}

/// A client for all registries of a build: cheap to clone, connections and tokens are shared among the clones.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    /// As it was handed in.
    plain_http: http::Client,
    /// The same with whom we trust as registries.
    http: http::Client,
    options: Options,
    credentials: Arc<dyn Credentials>,
    registries: Mutex<HashMap<String, Arc<Registry>>>,
}

/// What we have learned of one registry.
#[derive(Default)]
struct Registry {
    /// `scheme://host[:port]/`
    base: OnceCell<Url>,
    access: Access,
    /// Whether it, or what stands before it, has refused a blob that was sent while it grew.
    refuses_growing: AtomicBool,
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "registry::Client({:?})", self.0.options)
    }
}

/// One request of the distribution specification.
struct Call<'a> {
    action: Action,
    place: &'a Reference,
    method: Method,
    target: Target,
    headers: HeaderMap,
    body: Body,
    lane: Lane,
    replay: Replay,
    /// What a token has to permit.
    scopes: Scopes,
    /// A place that was kept for it.
    seat: Option<http::Seat>,
}

/// Where a request goes.
enum Target {
    /// Below `/v2/<repository>/`.
    Path(String),
    /// Where the registry sent us.
    Location(Url),
}

impl<'a> Call<'a> {
    fn new(action: Action, place: &'a Reference, method: Method, path: String) -> Self {
        let scopes = if method.is_safe() { Scopes::pull(place.repository()) } else { Scopes::push(place.repository()) };
        let replay = if method.is_safe() { Replay::Allowed } else { Replay::Forbidden };
        let (headers, body, lane) = (HeaderMap::new(), Body::Empty, Lane::Brief);
        Self { action, place, method, target: Target::Path(path), headers, body, lane, replay, scopes, seat: None }
    }

    fn refused(&self, answer: Answer) -> RegistryError {
        let (action, registry) = (self.action.clone(), self.place.registry().to_owned());
        match answer.status {
            401 => RegistryError::Unauthorized { action, registry, known: true, answer },
            403 => RegistryError::Denied { action, registry, answer },
            _ => RegistryError::Refused { action, registry, answer },
        }
    }

    fn http(&self, source: http::HttpError) -> RegistryError {
        RegistryError::Http { action: self.action.clone(), source }
    }
}

/// How many rounds of asking for credentials one request may take.
const MOST_RENEWALS: u32 = 3;
/// What we read of an answer that explains a refusal.
const ERROR_DOCUMENT_BYTES: u64 = 64 << 10;

impl Client {
    /// A client that has not spoken to anybody yet.
    ///
    /// # Errors
    /// If a certificate of `options` cannot be used.
    pub fn new(http: http::Client, options: Options, credentials: Arc<dyn Credentials>) -> Result<Self, http::HttpError> {
        let mut hosts: BTreeMap<String, Trust> = BTreeMap::new();
        let mut usual = None;
        match &options.skip_tls_verify {
            Hosts::All => usual = Some(Trust { verification: Verification::Skipped, ..http.options().trust.clone() }),
            Hosts::Named(skipped) => {
                for registry in skipped {
                    hosts.entry(trust_key(registry)).or_default().verification = Verification::Skipped;
                }
            }
        }
        if let Hosts::Named(insecure) = &options.insecure {
            for registry in insecure.iter().filter(|registry| !options.certificates.contains_key(*registry)) {
                hosts.entry(trust_key(registry)).or_default().verification = Verification::Skipped;
            }
        }
        for (registry, pem) in &options.certificates {
            hosts.entry(trust_key(registry)).or_default().extra_roots_pem.clone_from(pem);
        }
        for (registry, certificate) in &options.client_certificates {
            hosts.entry(trust_key(registry)).or_default().client_certificate = Some(certificate.clone());
        }
        if let Some(usual) = &usual {
            for trust in hosts.values_mut() {
                trust.verification = usual.verification;
            }
        }
        let plain_http = http.clone();
        let http = http.trusting(usual, hosts)?;
        Ok(Self(Arc::new(Inner { plain_http, http, options, credentials, registries: Mutex::default() })))
    }

    /// The client for the network that this one was made with: what is trusted as a registry is not trusted there.
    pub fn plain_http(&self) -> &http::Client {
        &self.0.plain_http
    }

    fn http(&self) -> &http::Client {
        &self.0.http
    }

    /// Sends `call` with the pass that it needs. Any status is an answer, except 401 when nothing helps against it.
    async fn send(&self, call: &Call<'_>) -> Result<Response, RegistryError> {
        let name = call.place.registry();
        let registry = self.registry(name);
        let base = self.base(&registry, name, &call.action).await?;
        let url = match &call.target {
            Target::Path(path) => base.join(&format!("v2/{}/{path}", call.place.repository())).map_err(|_| {
                call.http(http::HttpError::Address { url: format!("{base}v2/{}/{path}", call.place.repository()) })
            })?,
            Target::Location(url) => url.clone(),
        };
        // A registry may send an upload elsewhere; our pass stays here.
        let at_home = url.origin() == base.origin();
        let visit = Visit {
            http: &self.0.http,
            credentials: &self.0.credentials,
            registry: canonical(name),
            base,
            repository: call.place.repository(),
            scopes: &call.scopes,
            action: &call.action,
        };
        let mut request = Request {
            headers: call.headers.clone(),
            body: call.body.clone(),
            lane: call.lane,
            replay: call.replay,
            trusted_as: Some(http::host_of(base)),
            seat: call.seat.clone(),
            ..Request::new(call.method.clone(), url)
        };
        let mut pass = if at_home { registry.access.known(visit).await? } else { None };
        let mut round = 0;
        loop {
            if let Some(Pass { header, .. }) = &pass {
                request.headers.insert(AUTHORIZATION, header.clone());
            }
            let response = self.0.http.send(&request).await.map_err(|source| call.http(source))?;
            // A 401 of the object store that we were redirected to is no question of ours.
            if response.status() != StatusCode::UNAUTHORIZED || !at_home || response.url().origin() != base.origin() {
                return Ok(response);
            }
            let texts = response.headers().get_all(WWW_AUTHENTICATE).into_iter().filter_map(|value| value.to_str().ok());
            let challenges: Vec<String> = texts.map(str::to_owned).collect();
            let body = response.bytes(ERROR_DOCUMENT_BYTES).await.unwrap_or_default();
            let challenges = challenges.iter().map(String::as_str);
            let renewal = registry.access.renew(visit, challenges, pass.as_ref(), round).await?;
            round += 1;
            match renewal {
                Renewal::Pass(renewed) if round < MOST_RENEWALS => pass = Some(renewed),
                Renewal::Pass(_) => return Err(call.refused(Answer::parse(401, &body))),
                Renewal::Exhausted { known } => {
                    let (action, registry) = (call.action.clone(), canonical(name).to_owned());
                    return Err(RegistryError::Unauthorized { action, registry, known, answer: Answer::parse(401, &body) });
                }
            }
        }
    }

    fn registry(&self, name: &str) -> Arc<Registry> {
        let mut registries = self.0.registries.lock().unwrap_or_else(PoisonError::into_inner);
        registries.entry(canonical(name).to_owned()).or_default().clone()
    }

    /// `https://host/`, or `http://host/` where that is allowed and no TLS is spoken.
    async fn base<'a>(&self, registry: &'a Registry, name: &str, action: &Action) -> Result<&'a Url, RegistryError> {
        let host = api_host(name);
        let address = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/")).map_err(|_| RegistryError::Http {
                action: action.clone(),
                source: http::HttpError::Address { url: format!("{scheme}://{host}/") },
            })
        };
        let find = async || {
            let secure = address("https")?;
            if !self.0.options.insecure.contains(name) && !is_loopback(name) {
                return Ok(secure);
            }
            // Nothing of ours goes out before we know: the question carries no pass.
            let mut question = Request::new(Method::GET, secure.join("v2/").expect("a path can be joined to a host"));
            question.replay = Replay::Forbidden;
            question.most_redirects = 0;
            match self.0.http.send(&question).await {
                // A certificate that is not trusted is TLS nevertheless, and the reason that the user wants to read.
                Ok(answer) => {
                    // Read to its end, so that the connection can be used again.
                    let _ = answer.bytes(ERROR_DOCUMENT_BYTES).await;
                    Ok(secure)
                }
                Err(http::HttpError::Untrusted { .. }) => Ok(secure),
                Err(_) => address("http"),
            }
        };
        registry.base.get_or_try_init(find).await
    }
}

/// The key under which [`http::Options::hosts`] finds a registry.
fn trust_key(registry: &str) -> String {
    let host = api_host(registry);
    host.strip_suffix(":443").unwrap_or(host).to_ascii_lowercase()
}

/// Reads what explains a refusal.
async fn answer_of(response: Response) -> Answer {
    let (status, wait) = (response.status().as_u16(), response.long_wait());
    let answer = Answer::parse(status, &response.bytes(ERROR_DOCUMENT_BYTES).await.unwrap_or_default());
    Answer { wait, ..answer }
}
