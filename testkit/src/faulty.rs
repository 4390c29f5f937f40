//! A registry in memory that fails on cue, for what a real registry does not show when asked: refusals for a while,
//! connections that break in the middle, bytes that are not those of the digest.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::http::{Request, Response, Server};
use crate::image::sha256;
use crate::registry::Endpoint;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status in place of an answer, with these headers (`Retry-After`, `Location`, …).
    Status(u16, Vec<(String, String)>),
    /// The connection is closed without an answer.
    HangUp,
    /// The connection is closed after so many bytes of the body, though the header promises all.
    CutAfter(usize),
    /// One byte in the middle of the body is another.
    WrongByte,
    /// The answer is right, but comes late.
    Delay(Duration),
    /// A range is asked for, and everything is answered.
    IgnoreRange,
    /// The answer of a range says that it begins one byte later than it does.
    WrongRange,
}

impl Fault {
    /// A bare status.
    #[must_use]
    pub fn status(status: u16) -> Fault {
        Fault::Status(status, Vec::new())
    }

    /// Too many requests: come back later.
    #[must_use]
    pub fn retry_after(seconds: u32) -> Fault {
        Fault::Status(429, vec![("Retry-After".to_owned(), seconds.to_string())])
    }
}

/// Which requests meet a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `GET`, `HEAD`, `PUT`, …
    pub method: &'static str,
    /// A part of the path; empty for any.
    pub path_contains: String,
    /// How many requests meet it before all is well; `usize::MAX` for always.
    pub times: usize,
    /// What they meet.
    pub fault: Fault,
}

/// A registry in memory, over plain HTTP and for everybody, with rules for what goes wrong.
///
/// Of an upload whose connection breaks it keeps what came.
///
/// ```
/// use testkit::{Endpoint as _, Fault, FaultyRegistry, Image, Rule};
///
/// if !testkit::require(&["skopeo"]) {
///     return;
/// }
/// let registry = FaultyRegistry::start();
/// let digest = Image::new().layer("etc/ 0755 0:0").push(&registry, "base:latest");
/// registry.fail(Rule { method: "GET", path_contains: digest, times: 2, fault: Fault::status(503) });
/// ```
#[derive(Debug)]
pub struct FaultyRegistry {
    address: String,
    state: Arc<Mutex<State>>,
    _server: Server,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<String>,
    /// By repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// Media type and bytes by repository and tag or digest.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
    uploads_begun: usize,
}

impl FaultyRegistry {
    /// Starts an empty registry where nothing goes wrong yet.
    #[must_use]
    pub fn start() -> FaultyRegistry {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server =
            Server::start(move |request| shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner).answer(request));
        FaultyRegistry { address: server.address().to_string(), state, _server: server }
    }

    /// Adds a rule. Of several that fit, the first that is not used up counts.
    pub fn fail(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// Every request so far with the status it got (0: hung up), as `GET /v2/base/manifests/latest 200`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.state().requests.clear();
    }

    /// Puts these bytes in the place of a blob, which need not have that digest.
    pub fn put_blob(&self, repository: &str, digest: &str, bytes: Vec<u8>) {
        self.state().blobs.insert((repository.to_owned(), digest.to_owned()), bytes);
    }

    /// Loses a blob.
    pub fn forget_blob(&self, repository: &str, digest: &str) {
        self.state().blobs.remove(&(repository.to_owned(), digest.to_owned()));
    }

    /// Puts these bytes in the place of a manifest under a tag or digest, which need not be one.
    pub fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: Vec<u8>) {
        let key = (repository.to_owned(), reference.to_owned());
        self.state().manifests.insert(key, (media_type.to_owned(), bytes));
    }

    /// The bytes of a blob, if it is there.
    #[must_use]
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        self.state().blobs.get(&(repository.to_owned(), digest.to_owned())).cloned()
    }

    /// The bytes of a manifest under a tag or digest, if it is there.
    #[must_use]
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        self.state().manifests.get(&(repository.to_owned(), reference.to_owned())).map(|(_, bytes)| bytes.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Endpoint for FaultyRegistry {
    fn address(&self) -> &str {
        &self.address
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Option<Response> {
        if request.is_broken {
            let upload = request.path.rsplit('/').next().and_then(|id| self.uploads.get_mut(id));
            if let Some(upload) = upload.filter(|_| request.method == "PATCH") {
                upload.extend_from_slice(&request.body);
            }
            self.requests.push(format!("{} {} 0", request.method, request.path));
            return None;
        }
        let rule = self
            .rules
            .iter_mut()
            .find(|rule| rule.times > 0 && rule.method == request.method && request.path.contains(&rule.path_contains));
        let fault = rule.map(|rule| {
            if rule.times != usize::MAX {
                rule.times -= 1;
            }
            rule.fault.clone()
        });
        let response = match fault {
            None => Some(self.serve(request)),
            Some(Fault::HangUp) => None,
            Some(Fault::Status(status, headers)) => {
                let mut response = Response::new(status, "");
                response.headers = headers;
                Some(response)
            }
            Some(Fault::CutAfter(length)) => Some(Response { cut_after: Some(length), ..self.serve(request) }),
            Some(Fault::Delay(delay)) => Some(Response { delay, ..self.serve(request) }),
            Some(Fault::WrongByte) => {
                let mut response = self.serve(request);
                let middle = response.body.len() / 2;
                if let Some(byte) = response.body.get_mut(middle) {
                    *byte ^= 1;
                }
                Some(response)
            }
            Some(Fault::WrongRange) => {
                let mut response = self.serve(request);
                for (_, value) in response.headers.iter_mut().filter(|(name, _)| name == "Content-Range") {
                    let range = value.trim_start_matches("bytes ");
                    let (first, rest) = range.split_once('-').unwrap_or((range, ""));
                    *value = format!("bytes {}-{rest}", first.parse::<u64>().unwrap_or_default() + 1);
                }
                Some(response)
            }
            Some(Fault::IgnoreRange) => {
                let mut request = request.clone();
                request.headers.retain(|(name, _)| name != "range");
                Some(self.serve(&request))
            }
        };
        let status = response.as_ref().map_or(0, |response| response.status);
        self.requests.push(format!("{} {} {status}", request.method, request.path));
        response
    }

    fn serve(&mut self, request: &Request) -> Response {
        if request.path == "/v2/" {
            return Response::new(200, "{}");
        }
        let path = request.path.trim_start_matches("/v2/").to_owned();
        if let Some(repository) = path.strip_suffix("/tags/list") {
            let tags = self.manifests.keys().filter(|(of, name)| of == repository && !name.starts_with("sha256:"));
            let tags: Vec<&str> = tags.map(|(_, name)| name.as_str()).collect();
            if tags.is_empty() {
                return unknown("NAME_UNKNOWN");
            }
            Response::new(200, serde_json::json!({"name": repository, "tags": tags}).to_string())
        } else if let Some((repository, reference)) = path.split_once("/manifests/") {
            self.serve_manifest(request, repository, reference)
        } else if let Some((repository, id)) = path.split_once("/blobs/uploads/") {
            self.serve_upload(request, repository, id)
        } else if let Some((repository, digest)) = path.split_once("/blobs/") {
            match self.blobs.get(&(repository.to_owned(), digest.to_owned())) {
                Some(bytes) => ranged(request, bytes).with("Docker-Content-Digest", digest),
                None => unknown("BLOB_UNKNOWN"),
            }
        } else {
            unknown("NAME_UNKNOWN")
        }
    }

    fn serve_manifest(&mut self, request: &Request, repository: &str, reference: &str) -> Response {
        let key = (repository.to_owned(), reference.to_owned());
        if request.method == "PUT" {
            let digest = sha256(&request.body);
            let media_type = request.header("content-type").unwrap_or_default().to_owned();
            for name in [reference, &digest] {
                let value = (media_type.clone(), request.body.clone());
                self.manifests.insert((repository.to_owned(), name.to_owned()), value);
            }
            return Response::new(201, "").with("Location", request.path.clone()).with("Docker-Content-Digest", digest);
        }
        match self.manifests.get(&key) {
            Some((media_type, bytes)) => {
                sized(request, 200, bytes).with("Content-Type", media_type).with("Docker-Content-Digest", sha256(bytes))
            }
            None => unknown("MANIFEST_UNKNOWN"),
        }
    }

    fn serve_upload(&mut self, request: &Request, repository: &str, id: &str) -> Response {
        if let (Some(digest), Some(from)) = (request.parameter("mount"), request.parameter("from"))
            && let Some(bytes) = self.blobs.get(&(from.to_owned(), digest.to_owned())).cloned()
        {
            return self.store(repository, digest.to_owned(), bytes);
        }
        let id = if request.method == "POST" {
            self.uploads_begun += 1;
            let id = self.uploads_begun.to_string();
            self.uploads.insert(id.clone(), Vec::new());
            id
        } else {
            id.to_owned()
        };
        let Some(upload) = self.uploads.get_mut(&id) else { return unknown("BLOB_UPLOAD_UNKNOWN") };
        let first = request.header("content-range").and_then(|range| range.split_once('-')?.0.parse().ok());
        if first.is_some_and(|first: usize| first != upload.len()) {
            return Response::new(416, "");
        }
        upload.extend_from_slice(&request.body);
        if let Some(digest) = request.parameter("digest").filter(|_| request.method != "PATCH") {
            let bytes = self.uploads.remove(&id).unwrap_or_default();
            if sha256(&bytes) != digest {
                return Response::new(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"wrong digest"}]}"#);
            }
            return self.store(repository, digest.to_owned(), bytes);
        }
        let received = upload.len();
        Response::new(if request.method == "GET" { 204 } else { 202 }, "")
            .with("Location", format!("/v2/{repository}/blobs/uploads/{id}"))
            .with("Docker-Upload-UUID", id)
            .with("Range", format!("0-{}", received.saturating_sub(1)))
    }

    fn store(&mut self, repository: &str, digest: String, bytes: Vec<u8>) -> Response {
        let location = format!("/v2/{repository}/blobs/{digest}");
        let response = Response::new(201, "").with("Location", location).with("Docker-Content-Digest", digest.clone());
        self.blobs.insert((repository.to_owned(), digest), bytes);
        response
    }
}

fn unknown(code: &str) -> Response {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"not known to this registry"}}]}}"#);
    Response::new(404, body).with("Content-Type", "application/json")
}

/// The answer to `GET`, and to `HEAD` the same without the body.
fn sized(request: &Request, status: u16, bytes: &[u8]) -> Response {
    let body = if request.method == "HEAD" { Vec::new() } else { bytes.to_vec() };
    Response::new(status, body).with("Content-Length", bytes.len().to_string())
}

fn ranged(request: &Request, bytes: &[u8]) -> Response {
    let asked = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let range = asked.and_then(|(first, last)| {
        let first: usize = first.parse().ok()?;
        let end = last.parse().map_or(bytes.len(), |last: usize| bytes.len().min(last + 1));
        (first < end).then_some(first..end)
    });
    match range {
        None => sized(request, 200, bytes),
        Some(range) => sized(request, 206, &bytes[range.clone()])
            .with("Content-Range", format!("bytes {}-{}/{}", range.start, range.end - 1, bytes.len())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::image::Image;

    fn get(registry: &FaultyRegistry, path: &str, headers: &str) -> (String, Vec<u8>) {
        let mut connection = std::net::TcpStream::connect(registry.address()).unwrap();
        write!(connection, "GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
            return (String::new(), answer);
        };
        let body = answer.split_off(end + 4);
        (String::from_utf8(answer).unwrap(), body)
    }

    #[test]
    fn skopeo_pushes_to_it_and_pulls_from_it() {
        if !crate::require(&["skopeo"]) {
            return;
        }
        let registry = FaultyRegistry::start();
        let text = "data 0644 0:0 random=3000000\n";
        let digest = Image::new().layer(text).push(&registry, "some/base:latest");
        let pulled = crate::image::Layout::pull(&registry, "some/base:latest");
        assert_eq!(pulled.digest(), digest);
        assert_eq!(pulled.tree(), crate::tree::text(&crate::tree::parse(text)));
        assert!(registry.requests().contains(&"PUT /v2/some/base/manifests/latest 201".to_owned()));
    }

    #[test]
    fn it_fails_as_often_as_it_is_told() {
        let registry = FaultyRegistry::start();
        registry.put_blob("base", "sha256:d", b"0123456789".to_vec());
        let rule = |times, fault| Rule { method: "GET", path_contains: "/blobs/".to_owned(), times, fault };
        for fault in [Fault::status(503), Fault::retry_after(7), Fault::HangUp, Fault::CutAfter(4), Fault::WrongByte] {
            registry.fail(rule(1, fault));
        }
        let mut answers = Vec::new();
        for _ in 0..6 {
            let (head, body) = get(&registry, "/v2/base/blobs/sha256:d", "");
            let retry = if head.contains("Retry-After: 7") { " later" } else { "" };
            let status = head.split(' ').nth(1).unwrap_or("none").to_owned();
            answers.push(format!("{status}{retry} {}", String::from_utf8(body).unwrap()));
        }
        assert_eq!(answers, ["503 ", "429 later ", "none ", "200 0123", "200 0123446789", "200 0123456789"]);
    }

    #[test]
    fn a_range_is_answered_unless_told_otherwise() {
        let registry = FaultyRegistry::start();
        registry.put_blob("base", "sha256:d", b"0123456789".to_vec());
        let path = "/v2/base/blobs/sha256:d";
        let (head, body) = get(&registry, path, "Range: bytes=7-\r\n");
        assert!(head.starts_with("HTTP/1.1 206 ") && head.contains("Content-Range: bytes 7-9/10"), "{head}");
        assert_eq!(body, b"789");
        let (head, body) = get(&registry, path, "Range: bytes=2-4\r\n");
        assert!(head.starts_with("HTTP/1.1 206 ") && head.contains("Content-Range: bytes 2-4/10"), "{head}");
        assert_eq!(body, b"234");
        registry.fail(Rule { method: "GET", path_contains: String::new(), times: 1, fault: Fault::WrongRange });
        let (head, body) = get(&registry, path, "Range: bytes=2-4\r\n");
        assert!(head.contains("Content-Range: bytes 3-4/10"), "{head}");
        assert_eq!(body, b"234");
        registry.fail(Rule { method: "GET", path_contains: String::new(), times: 1, fault: Fault::IgnoreRange });
        let (head, body) = get(&registry, path, "Range: bytes=7-\r\n");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(body.len(), 10);
    }
}
