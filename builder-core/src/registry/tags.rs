//! The tags and manifests of a repository: which there are, and one fewer of them.

use super::pull::ACCEPTED;
use super::{Answer, Call, Client, RegistryError, answer_of, challenge::Scopes, error::Action};
use crate::http::{
    Method, Replay, StatusCode,
    header::{ACCEPT, HeaderValue},
};
use crate::oci::{Digest, Reference};
use serde::Deserialize;

/// What one page of tags may have.
const PAGE_BYTES: u64 = 4 << 20;
/// How many tags a page is asked for.
const PAGE_TAGS: usize = 1000;
/// How many pages are read: one is a round trip.
const MOST_PAGES: usize = 8;

impl Client {
    /// The tags of the repository of `place` that sort behind `after`, at least the first few thousand; `None` if there is no
    /// such repository. Some registries give all tags, or in an order of their own.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] where a registry does not list tags, and whatever goes wrong on the way.
    pub async fn tags(&self, place: &Reference, after: &str) -> Result<Option<Vec<String>>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let action = Action { doing: "list the tags of", what: format!("{}/{}", place.registry(), place.repository()) };
        let mut tags = Vec::new();
        let mut last = after.to_owned();
        for _ in 0..MOST_PAGES {
            let path = format!("tags/list?n={PAGE_TAGS}&last={last}");
            let call = Call::new(action.clone(), place, Method::GET, path);
            let response = self.send(&call).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => {
                    let answer = answer_of(response).await;
                    // Otherwise it may be the request that nobody knows.
                    let no_repository = answer.code.as_deref() == Some("NAME_UNKNOWN");
                    return if no_repository { Ok(None) } else { Err(call.refused(answer)) };
                }
                _ => return Err(call.refused(answer_of(response).await)),
            }
            let more = response.header("link").is_some_and(|link| link.contains("rel=\"next\"") || link.contains("rel=next"));
            let bytes = response.bytes(PAGE_BYTES).await.map_err(|source| call.http(source))?;
            let page: Page = serde_json::from_slice(&bytes).map_err(|_| {
                let message = Some("the list of tags is malformed".to_owned());
                call.refused(Answer { status: 200, code: None, message, wait: None })
            })?;
            let page = page.tags.unwrap_or_default();
            // The specification's own way to the next page; a link may lead anywhere.
            let next = page.iter().max().filter(|next| more && **next > last).cloned();
            tags.extend(page);
            match next {
                Some(next) => last = next,
                None => break,
            }
        }
        Ok(Some(tags))
    }

    /// The digest of the manifest that `place` names by its tag or its digest; `None` if there is none. Where there is one, so is
    /// all that it names. No mirror is asked.
    ///
    /// # Errors
    /// If the registry cannot be asked, or does not say what a tag stands for.
    pub async fn pushed_digest(&self, place: &Reference) -> Result<Option<Digest>, RegistryError> {
        let action = Action { doing: "look up", what: place.to_string() };
        let mut call = Call::new(action, place, Method::HEAD, format!("manifests/{}", place.tag_or_digest()));
        call.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        // The token for the push that follows serves here too.
        call.scopes = Scopes::push(place.repository());
        let response = self.send(&call).await?;
        match response.status() {
            status if status.is_success() => {
                let said = response.header("docker-content-digest").and_then(|digest| digest.parse().ok());
                match place.digest().or(said) {
                    Some(digest) => Ok(Some(digest)),
                    None => Err(call.refused(answer_of(response).await)),
                }
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(call.refused(answer_of(response).await)),
        }
    }

    /// Removes the manifest of that digest with all its tags.
    ///
    /// # Errors
    /// If the registry does not, which many never do.
    pub async fn delete_manifest(&self, place: &Reference, digest: Digest) -> Result<(), RegistryError> {
        let action = Action { doing: "delete the manifest of", what: place.with_digest(digest).to_string() };
        let mut call = Call::new(action, place, Method::DELETE, format!("manifests/{digest}"));
        call.scopes = Scopes::push(place.repository());
        call.replay = Replay::Allowed;
        let response = self.send(&call).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Ok(()),
            _ => Err(call.refused(answer_of(response).await)),
        }
    }
}
