//! What opens a registry's doors: learns its challenge, fetches tokens, keeps them while they are good.
//!
//! A credential goes to the registry it belongs to and to the token server that this registry names; there only over TLS,
//! unless the registry itself is spoken to in plain HTTP. Tokens are kept per registry and scopes, and fetched once however
//! many requests wait for them.

use super::{
    RegistryError,
    challenge::{Challenge, Scopes},
    credentials::{Credential, Credentials},
    error::{Action, Answer},
};
use crate::http::{
    self, Body, Method, Replay, Request, Secret, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use base64::Engine as _;
use serde::Deserialize;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What we know of one registry.
#[derive(Default)]
pub(super) struct Access {
    challenge: Mutex<Option<Challenge>>,
    passes: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<Entry>>>>,
}

/// Credentials may differ by repository, tokens by scopes.
type Key = (String, Scopes);

#[derive(Default)]
struct Entry {
    pass: Option<Pass>,
    /// What the registry asked for beyond what we thought of.
    more: Scopes,
    credential: Option<Credential>,
    /// Whether `credential` was looked for.
    asked: bool,
}

/// The value of an `Authorization` header while it is good.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pass {
    pub(super) header: HeaderValue,
    good_until: Option<Instant>,
}

impl Pass {
    fn is_good(&self) -> bool {
        self.good_until.is_none_or(|until| Instant::now() < until)
    }
}

/// Who asks whom for what.
#[derive(Clone, Copy)]
pub(super) struct Visit<'a> {
    pub(super) http: &'a http::Client,
    pub(super) credentials: &'a Arc<dyn Credentials>,
    pub(super) registry: &'a str,
    /// `scheme://host[:port]` of the registry, and whose trust counts for its token server.
    pub(super) base: &'a Url,
    pub(super) repository: &'a str,
    pub(super) scopes: &'a Scopes,
    pub(super) action: &'a Action,
}

/// What came of asking for a new pass.
pub(super) enum Renewal {
    /// Another pass than the one that was refused.
    Pass(Pass),
    /// There is nothing else to try; whether there were credentials.
    Exhausted { known: bool },
}

impl Access {
    /// The pass to show without being asked: none as long as the registry has not asked anybody for one.
    pub(super) async fn known(&self, visit: Visit<'_>) -> Result<Option<Pass>, RegistryError> {
        let Some(challenge) = self.challenge() else { return Ok(None) };
        let entry = self.entry(visit);
        let mut entry = entry.lock().await;
        if let Some(pass) = entry.pass.as_ref().filter(|pass| pass.is_good()) {
            return Ok(Some(pass.clone()));
        }
        entry.pass = entry.obtain(visit, &challenge).await?;
        Ok(entry.pass.clone())
    }

    /// A pass after the registry refused `shown` with `challenges`; `round` counts from 0 how often it did so.
    pub(super) async fn renew(
        &self,
        visit: Visit<'_>,
        challenges: impl Iterator<Item = &str>,
        shown: Option<&Pass>,
        round: u32,
    ) -> Result<Renewal, RegistryError> {
        let learned = Challenge::strongest(challenges);
        if let Some(learned) = &learned {
            *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(learned.clone());
        }
        let entry = self.entry(visit);
        let mut entry = entry.lock().await;
        if let Some(pass) = entry.pass.as_ref().filter(|pass| pass.is_good() && Some(*pass) != shown) {
            // Somebody else was faster.
            return Ok(Renewal::Pass(pass.clone()));
        }
        let known = |entry: &Entry| entry.credential.is_some();
        let Some(challenge) = learned.or_else(|| self.challenge()) else {
            return Ok(Renewal::Exhausted { known: known(&entry) });
        };
        let before = (entry.credential.clone(), entry.more.clone());
        if let Challenge::Bearer { scopes, .. } = &challenge {
            let mut wanted = visit.scopes.clone();
            wanted.add(scopes.clone());
            if wanted != *visit.scopes {
                entry.more.add(scopes.clone());
            }
        }
        // What was refused once may have been replaced meanwhile: credentials of a CI job live shorter than the job.
        if round > 0 || (challenge == Challenge::Basic && shown.is_some()) {
            entry.asked = false;
            entry.credential(visit).await?;
            if (entry.credential.clone(), entry.more.clone()) == before {
                return Ok(Renewal::Exhausted { known: known(&entry) });
            }
        }
        entry.pass = entry.obtain(visit, &challenge).await?;
        Ok(match entry.pass.clone() {
            Some(pass) => Renewal::Pass(pass),
            None => Renewal::Exhausted { known: known(&entry) },
        })
    }

    fn challenge(&self) -> Option<Challenge> {
        self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn entry(&self, visit: Visit<'_>) -> Arc<tokio::sync::Mutex<Entry>> {
        let key = (visit.repository.to_owned(), visit.scopes.clone());
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }
}

impl Entry {
    /// A new pass; `None` if the registry wants credentials and there are none.
    async fn obtain(&mut self, visit: Visit<'_>, challenge: &Challenge) -> Result<Option<Pass>, RegistryError> {
        let credential = self.credential(visit).await?;
        let lasting = |header| Some(Pass { header, good_until: None });
        match (challenge, credential) {
            (_, Some(Credential::Bearer(token))) => Ok(bearer(&token).and_then(lasting)),
            (Challenge::Basic, Some(Credential::Basic { user, password })) => Ok(lasting(basic(&user, &password))),
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service, .. }, credential) => {
                let mut scopes = visit.scopes.clone();
                scopes.add(self.more.clone());
                match token(visit, realm, service.as_deref(), &scopes, credential.as_ref()).await {
                    // Credentials that were good when they were read may have been replaced since.
                    Err(RegistryError::Unauthorized { .. }) if credential.is_some() => {
                        self.asked = false;
                        let again = self.credential(visit).await?;
                        token(visit, realm, service.as_deref(), &scopes, again.as_ref()).await.map(Some)
                    }
                    other => other.map(Some),
                }
            }
        }
    }

    async fn credential(&mut self, visit: Visit<'_>) -> Result<Option<Credential>, RegistryError> {
        if self.asked {
            return Ok(self.credential.clone());
        }
        let (source, registry, repository) = (visit.credentials.clone(), visit.registry.to_owned(), visit.repository.to_owned());
        // It may start a process and wait for it.
        let found = tokio::task::spawn_blocking(move || source.for_registry(&registry, &repository))
            .await
            .expect("the search for credentials does not panic")
            .map_err(|source| RegistryError::Credentials { registry: visit.registry.to_owned(), source })?;
        (self.credential, self.asked) = (found.clone(), true);
        Ok(found)
    }
}

/// Token documents are small.
const TOKEN_DOCUMENT_BYTES: u64 = 1 << 20;
/// What a token lives if its server does not say.
const USUAL_LIFE_SECONDS: u64 = 60;

/// Asks a token server (distribution specification: token and `OAuth2` authentication).
async fn token(
    visit: Visit<'_>,
    realm: &str,
    service: Option<&str>,
    scopes: &Scopes,
    credential: Option<&Credential>,
) -> Result<Pass, RegistryError> {
    #[derive(Deserialize)]
    struct Document {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let failed = |reason: &str| RegistryError::Token { registry: visit.registry.to_owned(), reason: reason.to_owned() };
    let mut url = visit.base.join(realm).map_err(|_| failed("the address of its token server is none"))?;
    if credential.is_some() && url.scheme() != "https" && visit.base.scheme() == "https" {
        return Err(failed("its token server wants the credentials without TLS"));
    }
    let mut request = match credential {
        Some(Credential::Token(refresh)) => {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token").append_pair("client_id", "cofferdam");
            form.append_pair("service", service.unwrap_or_default()).append_pair("scope", &scopes.to_string());
            form.append_pair("refresh_token", &String::from_utf8_lossy(refresh.reveal()));
            let mut request = Request::new(Method::POST, url)
                .with_header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            request.body = Body::Bytes(form.finish().into());
            // A redirect would carry the token along in the body.
            request.most_redirects = 0;
            request
        }
        other => {
            {
                let mut query = url.query_pairs_mut();
                query.extend_pairs(service.map(|service| ("service", service)));
                query.extend_pairs(scopes.texts().map(|scope| ("scope", scope)));
            }
            let request = Request::new(Method::GET, url);
            match other {
                Some(Credential::Basic { user, password }) => request.with_header(AUTHORIZATION, basic(user, password)),
                _ => request,
            }
        }
    };
    request.replay = Replay::Allowed;
    request.trusted_as = Some(http::host_of(visit.base));
    let http_error =
        |source| RegistryError::Http { action: Action { doing: "get a token for", what: visit.registry.to_owned() }, source };
    let response = visit.http.send(&request).await.map_err(http_error)?;
    let (status, wait) = (response.status(), response.long_wait());
    let asked = Instant::now();
    let body = response.bytes(TOKEN_DOCUMENT_BYTES).await.map_err(http_error)?;
    if !status.is_success() {
        let answer = Answer { wait, ..Answer::parse(status.as_u16(), &body) };
        let (action, registry) = (visit.action.clone(), visit.registry.to_owned());
        return Err(match status.as_u16() {
            400 | 401 | 403 | 404 => RegistryError::Unauthorized { action, registry, known: credential.is_some(), answer },
            _ => RegistryError::Refused { action, registry, answer },
        });
    }
    let unreadable = || failed("the answer of its token server holds no token");
    let document: Document = serde_json::from_slice(&body).map_err(|_| unreadable())?;
    let token = document.token.filter(|token| !token.is_empty()).or(document.access_token).ok_or_else(unreadable)?;
    let life = document.expires_in.unwrap_or(USUAL_LIFE_SECONDS);
    // A token that dies under way costs a round; one with hardly any life is used while the registry takes it.
    let good_until = asked.checked_add(Duration::from_secs(life.saturating_sub(life.min(20) / 2)));
    Ok(Pass { header: bearer(&Secret::new(token)).ok_or_else(unreadable)?, good_until })
}

fn basic(user: &str, password: &Secret) -> HeaderValue {
    let mut pair = format!("{user}:").into_bytes();
    pair.extend_from_slice(password.reveal());
    let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let mut header = HeaderValue::try_from(text).expect("base64 is good in a header");
    header.set_sensitive(true);
    header
}

/// `None` if the token cannot stand in a header.
fn bearer(token: &Secret) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_bytes(&[b"Bearer ", token.reveal()].concat()).ok()?;
    header.set_sensitive(true);
    Some(header)
}
