//! The registry client against real registries, and against one that fails on cue.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::{
    http::{self, ClientCertificate, HttpError, Opener, RetryPolicy, Secret},
    oci::{Descriptor, Digest, Manifest, MediaType, Platform, Reference},
    registry::{
        Anonymous, BlobReader, Client, Credential, Credentials, CredentialsError, DockerConfig, Grown, Hosts, Mirror, Options,
        RegistryError, file_opener,
    },
    store::Store,
};
use bytes::Bytes;
use futures_util::future::{FutureExt as _, ready};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use testkit::{Access, Endpoint, Fault, FaultyRegistry, Image, Registry, RegistryOptions, Rule, TokenServer};

const PROGRAMS: [&str; 4] = ["docker-registry", "skopeo", "htpasswd", "openssl"];

fn http_client() -> http::Client {
    let longest = Duration::from_secs(2);
    let retry = RetryPolicy { attempts: 4, first_wait: Duration::from_millis(5), longest_wait: longest, longest_asked: longest };
    let (connect_timeout, idle_timeout) = (Duration::from_secs(5), Duration::from_secs(5));
    http::Client::new(http::Options { retry, connect_timeout, idle_timeout, ..http::Options::default() }).unwrap()
}

fn client_with(options: Options, credentials: impl Credentials + 'static) -> Client {
    Client::new(http_client(), options, Arc::new(credentials)).unwrap()
}

fn client() -> Client {
    client_with(Options::default(), Anonymous)
}

fn at(registry: &impl Endpoint, name: &str) -> Reference {
    format!("{}/{name}", registry.address()).parse().unwrap()
}

fn docker_config(registry: &Registry) -> DockerConfig {
    let bytes = std::fs::read(registry.docker_config().join("config.json")).unwrap();
    DockerConfig::parse(&bytes, None).unwrap()
}

fn base() -> Image {
    Image::new().layer("etc/ 0755 0:0\netc/hosts 0644 0:0 \"127.0.0.1 localhost\\n\"").layer("data 0644 0:0 random=1000000")
}

fn amd64() -> Platform {
    Platform::linux_amd64()
}

async fn read_all(mut reader: BlobReader) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn bytes_opener(bytes: &[u8]) -> Opener {
    let bytes = Arc::new(bytes.to_vec());
    Arc::new(move || Ok(Box::new(std::io::Cursor::new(bytes.as_ref().clone()))))
}

/// Bytes that no compression and no luck makes equal.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state & 0xff).unwrap()
    };
    (0..size).map(step).collect()
}

fn blob_of(bytes: &[u8]) -> Descriptor {
    Descriptor::of("application/octet-stream", bytes)
}

/// Pushes an image of one layer, and gives back what it should be found as.
async fn push_image(client: &Client, to: &Reference, layer: &[u8]) -> Result<Digest, RegistryError> {
    let mut layer_blob = blob_of(layer);
    layer_blob.media_type = MediaType::new("application/vnd.oci.image.layer.v1.tar");
    client.push_blob(to, &layer_blob, bytes_opener(layer)).await?;
    let config =
        format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#, layer_blob.digest);
    let config_blob = Descriptor::of(MediaType::OCI_CONFIG, config.as_bytes());
    client.push_bytes(to, &config_blob, config).await?;
    let manifest = Manifest::new(config_blob, vec![layer_blob]);
    client.push_manifest(to, manifest.media_type(), manifest.to_bytes()).await
}

#[tokio::test]
async fn what_was_pushed_is_pulled() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = Registry::start();
    let (client, to) = (client(), at(&registry, "a/b:c"));
    let layer = noise(3_000_000);
    assert!(!client.has_blob(&to, Digest::of(&layer)).await.unwrap());
    let digest = push_image(&client, &to, &layer).await.unwrap();
    assert!(client.has_blob(&to, Digest::of(&layer)).await.unwrap());
    assert_eq!(registry.digest("a/b:c"), digest.to_string());
    assert_eq!(client.current_digest(&to).await.unwrap(), Some(digest));

    let resolved = client.resolve(&to, &amd64()).await.unwrap();
    assert_eq!(resolved.reference, to.with_digest(digest));
    assert_eq!(*resolved.origin, to.with_digest(digest));
    assert_eq!(resolved.descriptor.digest, digest);
    let reader = client.blob(&resolved.origin, &resolved.manifest.layers[0]).await.unwrap();
    assert_eq!(read_all(reader).await.unwrap(), layer);

    let tagged = at(&registry, "a/b:d");
    assert_eq!(client.tag(&to, &tagged).await.unwrap(), digest);
    assert_eq!(client.current_digest(&tagged).await.unwrap(), Some(digest));
    client.check_push(&tagged).await.unwrap();
}

#[tokio::test]
async fn a_file_is_pushed_and_a_blob_is_read_on_another_thread() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = Registry::start();
    let (client, to) = (client(), at(&registry, "a:b"));
    let bytes = noise(5_000_000);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    std::fs::write(&path, &bytes).unwrap();
    client.push_blob(&to, &blob_of(&bytes), file_opener(path.clone())).await.unwrap();
    let (mut reader, _download) = client.blob(&to, &blob_of(&bytes)).await.unwrap().into_read(&tokio::runtime::Handle::current());
    let read = tokio::task::spawn_blocking(move || {
        let mut read = Vec::new();
        reader.read_to_end(&mut read).map(|_| read)
    });
    assert_eq!(read.await.unwrap().unwrap(), bytes);

    // A file that changes under us is our trouble, not the registry's, and is not tried again.
    std::fs::write(&path, b"shorter").unwrap();
    let other = Descriptor { digest: Digest::of(b"other"), ..blob_of(&bytes) };
    let error = client.push_blob(&to, &other, file_opener(path)).await.unwrap_err();
    assert!(matches!(error, RegistryError::Http { source: HttpError::Source { .. }, .. }), "{error:?}");
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = Registry::start();
    let (client, from, to) = (client(), at(&registry, "from:x"), at(&registry, "to:x"));
    let blob = blob_of(b"blob");
    client.push_bytes(&from, &blob, &b"blob"[..]).await.unwrap();
    assert!(client.mount_blob(&to, &from, blob.digest).await.unwrap());
    assert!(client.has_blob(&to, blob.digest).await.unwrap());
    // What is not there cannot be mounted; the upload that the registry begins instead is given up.
    assert!(!client.mount_blob(&to, &from, Digest::of(b"absent")).await.unwrap());
    assert!(registry.requests().iter().any(|line| line.starts_with("DELETE /v2/to/blobs/uploads/")));
    let elsewhere: Reference = "registry.invalid/from:x".parse().unwrap();
    assert!(!client.mount_blob(&to, &elsewhere, blob.digest).await.unwrap());
}

#[tokio::test]
async fn one_request_at_a_time_is_enough_for_everything() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = token_registry(false);
    let options = http::Options { connections_per_host: 1, ..http::Options::default() };
    let http = http::Client::new(options).unwrap();
    let client = Client::new(http, Options::default(), Arc::new(docker_config(&registry))).unwrap();
    let (to, other) = (at(&registry, "a:b"), at(&registry, "c:d"));
    let layer = noise(100_000);
    let work = async {
        let digest = push_image(&client, &to, &layer).await.unwrap();
        client.check_push(&other).await.unwrap();
        assert!(!client.mount_blob(&other, &to, Digest::of(b"absent")).await.unwrap());
        // A blob goes from one repository to another: what comes does not wait for what goes.
        let runtime = tokio::runtime::Handle::current();
        let (source, _download) = client.blob(&to, &blob_of(&layer)).await.unwrap().into_read(&runtime);
        let source = Mutex::new(Some(source));
        let open: Opener = Arc::new(move || Ok(Box::new(source.lock().unwrap().take().unwrap())));
        client.push_blob(&other, &blob_of(&layer), open).await.unwrap();
        assert_eq!(client.current_digest(&to).await.unwrap(), Some(digest));
        client.resolve(&to, &amd64()).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("nothing waits for itself");
}

#[tokio::test]
async fn images_of_other_builders_are_resolved() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = Registry::start();
    let pushed = base().push(&registry, "base:latest");
    let resolved = client().resolve(&at(&registry, "base"), &amd64()).await.unwrap();
    assert_eq!(resolved.descriptor.digest.to_string(), pushed);
    assert_eq!(resolved.manifest.layers.len(), 2);
    assert_eq!(resolved.config.rootfs.diff_ids.len(), 2);

    let images = [base().platform("linux/amd64"), base().platform("linux/arm/v6"), base().platform("linux/arm/v7")];
    let index = testkit::push_index(&images, &registry, "multi:latest");
    let multi = at(&registry, "multi");
    let resolved = client().resolve(&multi, &"linux/arm/v7".parse().unwrap()).await.unwrap();
    assert_eq!(resolved.reference.digest().unwrap().to_string(), index);
    assert_ne!(resolved.descriptor.digest.to_string(), index);
    assert_eq!(resolved.config.variant.as_deref(), Some("v7"));
    let error = client().resolve(&multi, &"linux/s390x".parse().unwrap()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{multi} has no image for linux/s390x; there are linux/amd64, linux/arm/v6, linux/arm/v7")
    );
}

#[tokio::test]
async fn documents_that_are_known_are_not_fetched_and_wrong_ones_do_not_count() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = Registry::start();
    testkit::push_index(&[base().platform("linux/amd64"), base().platform("linux/arm64")], &registry, "multi:latest");
    let multi = at(&registry, "multi");
    let first = client().resolve(&multi, &amd64()).await.unwrap();
    let kept: BTreeMap<Digest, Bytes> = first.documents.iter().map(|bytes| (Digest::of(bytes), bytes.clone())).collect();
    assert_eq!(kept.len(), 3);
    let wrong: BTreeMap<Digest, Bytes> = kept.keys().map(|digest| (*digest, Bytes::from_static(b"{}"))).collect();
    for (documents, reference, requests) in [
        // What the tag stands for; then nothing more.
        (&kept, &multi, 1),
        (&kept, &first.reference, 0),
        (&wrong, &first.reference, 3),
    ] {
        let before = registry.requests().len();
        let client = client();
        let known = |digest| ready(documents.get(&digest).cloned()).boxed();
        let found = client.resolve_knowing(reference, &amd64(), &known).await.unwrap();
        assert_eq!(
            (found.descriptor, found.origin, found.documents),
            (first.descriptor.clone(), first.origin.clone(), first.documents.clone())
        );
        let asked = registry.requests()[before..].iter().filter(|line| line.contains("/v2/multi/")).count();
        assert_eq!(asked, requests, "{reference}");
    }
}

#[tokio::test]
async fn a_password_opens_the_door() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let access = Access::Password { user: "user".to_owned(), password: "pass:word".to_owned() };
    let registry = Registry::start_with(RegistryOptions { access, ..RegistryOptions::default() });
    let to = at(&registry, "a:b");
    let client = client_with(Options::default(), docker_config(&registry));
    push_image(&client, &to, b"layer").await.unwrap();
    client.resolve(&to, &amd64()).await.unwrap();
    // The door is asked for once, not before each request.
    let refused = registry.requests().iter().filter(|line| line.ends_with(" 401")).count();
    assert_eq!(refused, 1, "{:#?}", registry.requests());

    let error = self::client().resolve(&to, &amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { known: false, .. }), "{error}");
    let wrong = DockerConfig::parse(
        format!(r#"{{"auths":{{"{}":{{"username":"user","password":"hunter2"}}}}}}"#, registry.address()).as_bytes(),
        None,
    );
    let error = client_with(Options::default(), wrong.unwrap()).resolve(&to, &amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { known: true, .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn credentials_that_were_replaced_meanwhile_are_read_again() {
    struct Rotating(Mutex<u32>);
    impl Credentials for Rotating {
        fn for_registry(&self, _: &str, _: &str) -> Result<Option<Credential>, CredentialsError> {
            let mut calls = self.0.lock().unwrap();
            *calls += 1;
            let password = Secret::new(if *calls == 1 { "old" } else { "new" });
            Ok(Some(Credential::Basic { user: "user".to_owned(), password }))
        }
    }
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let (user, password) = ("user".to_owned(), "new".to_owned());
    for access in [
        Access::Password { user: user.clone(), password: password.clone() },
        Access::Token { user, password, anonymous_pull: false },
    ] {
        let registry = Registry::start_with(RegistryOptions { access, ..RegistryOptions::default() });
        let client = client_with(Options::default(), Rotating(Mutex::new(0)));
        push_image(&client, &at(&registry, "a:b"), b"layer").await.unwrap();
    }
}

fn token_registry(anonymous_pull: bool) -> Registry {
    let access = Access::Token { user: "user".to_owned(), password: "password".to_owned(), anonymous_pull };
    Registry::start_with(RegistryOptions { access, ..RegistryOptions::default() })
}

#[tokio::test]
async fn a_token_is_fetched_once_for_many_requests() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = token_registry(true);
    let to = at(&registry, "a:b");
    let client = client_with(Options::default(), docker_config(&registry));
    push_image(&client, &to, b"layer").await.unwrap();
    assert_eq!(registry.tokens().requests().len(), 1, "{:#?}", registry.tokens().requests());
    assert_eq!(registry.tokens().requests()[0].scopes, ["repository:a:pull,push"]);

    // Several at once, all of them at a closed door.
    let client = client_with(Options::default(), docker_config(&registry));
    let asked = (0..8).map(|_| client.has_blob(&to, Digest::of(b"layer")));
    assert!(futures_util::future::join_all(asked).await.into_iter().all(Result::unwrap));
    assert_eq!(registry.tokens().requests().len(), 2);
}

#[tokio::test]
async fn a_mount_asks_for_one_token_of_two_scopes() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = token_registry(false);
    let (from, to) = (at(&registry, "from:x"), at(&registry, "to:x"));
    let client = client_with(Options::default(), docker_config(&registry));
    let blob = blob_of(b"blob");
    client.push_bytes(&from, &blob, &b"blob"[..]).await.unwrap();
    assert!(client.mount_blob(&to, &from, blob.digest).await.unwrap());
    let last = registry.tokens().requests().pop().unwrap();
    assert_eq!(last.scopes, ["repository:from:pull", "repository:to:pull,push"]);
}

#[tokio::test]
async fn whoever_is_nobody_may_pull_where_that_is_allowed() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = token_registry(true);
    base().push(&registry, "base:latest");
    let reference = at(&registry, "base");
    client().resolve(&reference, &amd64()).await.unwrap();
    let error = client().push_bytes(&reference, &blob_of(b"x"), &b"x"[..]).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { known: false, .. }), "{error}");
}

#[tokio::test]
async fn an_identity_token_is_exchanged() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = token_registry(false);
    let config = format!(r#"{{"auths":{{"{}":{{"identitytoken":"{}"}}}}}}"#, registry.address(), TokenServer::REFRESH_TOKEN);
    let client = client_with(Options::default(), DockerConfig::parse(config.as_bytes(), None).unwrap());
    push_image(&client, &at(&registry, "a:b"), b"layer").await.unwrap();
    let requests = registry.tokens().requests();
    assert!(requests.iter().all(|request| request.method == "POST" && request.granted), "{requests:#?}");
}

#[tokio::test]
async fn an_own_authority_is_trusted_where_it_was_given() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = Registry::start_with(RegistryOptions { tls: true, ..RegistryOptions::default() });
    let to = at(&registry, "a:b");
    let error = client().resolve(&to, &amd64()).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Http { source: HttpError::Untrusted { .. }, .. }), "{error:?}");

    let authority = std::fs::read(registry.authority_certificate().unwrap()).unwrap();
    let certificates = BTreeMap::from([(registry.address().to_owned(), authority)]);
    let trusting = client_with(Options { certificates, ..Options::default() }, Anonymous);
    push_image(&trusting, &to, b"layer").await.unwrap();
    let skip_tls_verify = Hosts::from_iter([registry.address().to_owned()]);
    client_with(Options { skip_tls_verify, ..Options::default() }, Anonymous).resolve(&to, &amd64()).await.unwrap();
    let insecure = Hosts::from_iter([registry.address().to_owned()]);
    client_with(Options { insecure, ..Options::default() }, Anonymous).resolve(&to, &amd64()).await.unwrap();
    let skip_tls_verify = Hosts::All;
    client_with(Options { skip_tls_verify, ..Options::default() }, Anonymous).resolve(&to, &amd64()).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_our_own_is_shown() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = Registry::start_with(RegistryOptions { tls: true, client_certificates: true, ..RegistryOptions::default() });
    let authority = std::fs::read(registry.authority_certificate().unwrap()).unwrap();
    let files = registry.client_certificate();
    let read = |path: &Path| std::fs::read(path).unwrap();
    let own = ClientCertificate { chain_pem: read(&files.certificate), key_pem: Secret::new(read(&files.key)) };
    let certificates = BTreeMap::from([(registry.address().to_owned(), authority)]);
    let client_certificates = BTreeMap::from([(registry.address().to_owned(), own)]);
    let to = at(&registry, "a:b");
    let options = Options { certificates, ..Options::default() };
    assert!(push_image(&client_with(options.clone(), Anonymous), &to, b"layer").await.is_err());
    push_image(&client_with(Options { client_certificates, ..options }, Anonymous), &to, b"layer").await.unwrap();
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_named_as_the_origin() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let (empty, mirror) = (Registry::start(), Registry::start());
    base().push(&mirror, "library/busybox:latest");
    base().push(&mirror, "cache/library/busybox:latest");
    let mirrors = |addresses: &[&str]| Options {
        mirrors: addresses.iter().map(|address| Mirror::new("docker.io", address).unwrap()).collect(),
        insecure: Hosts::from_iter([mirror.address().to_owned()]),
        skip_default_fallback: true,
        ..Options::default()
    };
    let busybox: Reference = "busybox".parse().unwrap();
    let client = client_with(mirrors(&[empty.address(), mirror.address()]), Anonymous);
    let resolved = client.resolve(&busybox, &amd64()).await.unwrap();
    assert_eq!(resolved.reference.registry(), "docker.io");
    assert_eq!(resolved.origin.registry(), mirror.address());
    let reader = client.blob(&resolved.origin, &resolved.manifest.layers[0]).await.unwrap();
    read_all(reader).await.unwrap();
    read_all(client.blob(&busybox, &resolved.manifest.layers[0]).await.unwrap()).await.unwrap();

    let prefixed = client_with(mirrors(&[&format!("{}/cache", mirror.address())]), Anonymous);
    let resolved = prefixed.resolve(&busybox, &amd64()).await.unwrap();
    assert_eq!(resolved.origin.repository(), "cache/library/busybox");

    let error = client.resolve(&"nothere".parse().unwrap(), &amd64()).await.unwrap_err();
    let asked = format!("{}, {}", empty.address(), mirror.address());
    assert_eq!(error.to_string(), format!("docker.io/library/nothere:latest: not found (asked {asked})"));
    let nothere = at(&mirror, "nothere:1");
    let error = client.resolve(&nothere, &amd64()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{nothere}: not found"));
    assert_eq!(client.current_digest(&nothere).await.unwrap(), None);
}

#[test]
fn what_the_client_does_may_move_between_threads() {
    fn moves<T: Send>(_: T) {}
    let (client, to) = (client(), "example.com/a:b".parse::<Reference>().unwrap());
    let (kind, blob) = (MediaType::new(MediaType::OCI_MANIFEST), blob_of(b""));
    moves(client.resolve(&to, &amd64()));
    moves(client.fetch(&to));
    moves(client.current_digest(&to));
    moves(client.blob(&to, &blob));
    moves(client.document(&to, &blob, 1));
    moves(client.has_blob(&to, blob.digest));
    moves(client.mount_blob(&to, &to, blob.digest));
    moves(client.push_blob(&to, &blob, bytes_opener(b"")));
    moves(client.push_bytes(&to, &blob, &b""[..]));
    moves(client.push_manifest(&to, &kind, &b""[..]));
    moves(client.tag(&to, &to));
    moves(client.check_push(&to));
}

// ---- a registry that fails on cue ----

fn rule(method: &'static str, path_contains: &str, times: usize, fault: Fault) -> Rule {
    Rule { method, path_contains: path_contains.to_owned(), times, fault }
}

#[tokio::test]
async fn passing_trouble_is_survived() {
    for fault in [Fault::status(503), Fault::status(500), Fault::HangUp] {
        let registry = FaultyRegistry::start();
        let to = at(&registry, "a:b");
        for (method, path) in
            [("HEAD", "/blobs/"), ("POST", "/uploads/"), ("PUT", "/uploads/"), ("PUT", "/manifests/"), ("GET", "")]
        {
            registry.fail(rule(method, path, 2, fault.clone()));
        }
        let client = client();
        push_image(&client, &to, b"layer").await.unwrap();
        client.resolve(&to, &amd64()).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_busy_says_when_to_come_back() {
    let registry = FaultyRegistry::start();
    let to = at(&registry, "a:b");
    let client = client();
    push_image(&client, &to, b"layer").await.unwrap();
    registry.fail(rule("GET", "/manifests/", 1, Fault::retry_after(1)));
    let begun = Instant::now();
    client.resolve(&to, &amd64()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // Longer than we are willing to wait.
    registry.fail(rule("GET", "/manifests/", usize::MAX, Fault::retry_after(3600)));
    registry.forget_requests();
    let error = client.resolve(&to, &amd64()).await.unwrap_err();
    let expected = "the registry answers 429; it asks to come back in 3600 s, more than the 2 s that are waited";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert_eq!(registry.requests().len(), 1);
    // The same of an upload, which is not simply sent again.
    registry.fail(rule("PUT", "/uploads/", usize::MAX, Fault::retry_after(3600)));
    let error = push_image(&client, &to, b"another").await.unwrap_err();
    assert!(error.to_string().ends_with(expected), "{error}");
}

#[tokio::test]
async fn a_broken_download_is_resumed_where_it_broke() {
    let bytes = noise(1_000_000);
    let blob = blob_of(&bytes);
    let digest = blob.digest.to_string();
    for (faults, requests) in [
        (vec![Fault::CutAfter(300_000), Fault::CutAfter(0), Fault::CutAfter(400_000)], 4),
        (vec![Fault::CutAfter(300_000), Fault::HangUp, Fault::status(503)], 4),
        (vec![Fault::CutAfter(300_000), Fault::IgnoreRange], 2),
    ] {
        let registry = FaultyRegistry::start();
        registry.put_blob("a", &digest, bytes.clone());
        for fault in faults {
            registry.fail(rule("GET", "/blobs/", 1, fault));
        }
        let reader = client().blob(&at(&registry, "a"), &blob).await.unwrap();
        assert_eq!(read_all(reader).await.unwrap(), bytes);
        let gets = registry.requests().iter().filter(|line| line.contains("/blobs/")).count();
        assert_eq!(gets, requests, "{:#?}", registry.requests());
    }
}

#[tokio::test]
async fn a_download_that_never_gets_on_is_given_up() {
    let registry = FaultyRegistry::start();
    let blob = blob_of(b"0123456789");
    registry.put_blob("a", &blob.digest.to_string(), b"0123456789".to_vec());
    registry.fail(rule("GET", "/blobs/", usize::MAX, Fault::CutAfter(0)));
    let reader = client().blob(&at(&registry, "a"), &blob).await.unwrap();
    let error = read_all(reader).await.unwrap_err();
    assert!(matches!(error, RegistryError::Http { source: HttpError::Broken { .. }, .. }), "{error:?}");
}

#[tokio::test]
async fn bytes_that_are_not_those_of_the_digest_never_arrive_whole() {
    let registry = FaultyRegistry::start();
    let bytes = noise(100_000);
    let blob = blob_of(&bytes);
    registry.put_blob("a", &blob.digest.to_string(), bytes.clone());
    registry.fail(rule("GET", "/blobs/", usize::MAX, Fault::WrongByte));
    let mut reader = client().blob(&at(&registry, "a"), &blob).await.unwrap();
    let mut received = 0;
    let error = loop {
        match reader.chunk().await {
            Ok(chunk) => received += chunk.unwrap().len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, RegistryError::Digest { .. }), "{error:?}");
    assert!(received < bytes.len());
}

#[tokio::test]
async fn a_size_that_lies_is_an_error() {
    let registry = FaultyRegistry::start();
    let bytes = noise(10_000);
    let honest = blob_of(&bytes);
    registry.put_blob("a", &honest.digest.to_string(), bytes);
    for size_bytes in [0, 9_999, 10_001, u64::MAX] {
        let lying = Descriptor { size_bytes, ..honest.clone() };
        let error = client().blob(&at(&registry, "a"), &lying).await.unwrap_err();
        assert!(matches!(error, RegistryError::Size { actual_bytes: Some(10_000), .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_blob_that_does_not_end_is_cut_off() {
    let registry = Scripted::start(|_| {
        let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..1000 {
            answer.extend_from_slice(b"a\r\n0123456789\r\n");
        }
        answer
    });
    for bytes in [&b"0123456789"[..], b"01234567890123", b""] {
        let reader = client().blob(&at(&registry, "a"), &blob_of(bytes)).await.unwrap();
        let error = read_all(reader).await.unwrap_err();
        assert!(matches!(error, RegistryError::Size { actual_bytes: None, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_manifest_that_is_none_is_refused() {
    let registry = FaultyRegistry::start();
    let client = client();
    let put = |tag: &str, media_type: &str, bytes: &[u8]| {
        registry.put_manifest("a", tag, media_type, bytes.to_vec());
    };
    let manifest = |config: &str, layers: &str| {
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{layers}]}}"#, MediaType::OCI_MANIFEST)
    };
    let config_bytes = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let config = Descriptor::of(MediaType::OCI_CONFIG, config_bytes);
    registry.put_blob("a", &config.digest.to_string(), config_bytes.to_vec());
    let config = serde_json::to_string(&config).unwrap();
    let helm = config.replace(MediaType::OCI_CONFIG, "application/vnd.cncf.helm.config.v1+json");
    let huge = config.replace(&format!("\"size\":{}", config_bytes.len()), "\"size\":99999999999");
    let layer = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":1}"#;
    put("html", "text/html", b"<html>");
    put("helm", MediaType::OCI_MANIFEST, manifest(&helm, "").as_bytes());
    put("odd-layer", MediaType::OCI_MANIFEST, manifest(&config, &layer.replace("v1.tar", "v1.exe")).as_bytes());
    put("layers", MediaType::OCI_MANIFEST, manifest(&config, layer).as_bytes());
    put("huge-config", MediaType::OCI_MANIFEST, manifest(&huge, "").as_bytes());
    put("huge", MediaType::OCI_MANIFEST, &vec![b' '; (4 << 20) + 1]);
    put("schema1", "application/vnd.docker.distribution.manifest.v1+json", br#"{"schemaVersion":1}"#);
    for (tag, expected) in [
        ("html", "cannot read the manifest of "),
        ("schema1", "cannot read the manifest of "),
        ("helm", "is no container image: it holds application/vnd.cncf.helm.config.v1+json"),
        ("odd-layer", "is no container image: it holds application/vnd.oci.image.layer.v1.exe"),
        ("layers", "is broken: its manifest lists 1 layers, its config 0"),
        ("huge-config", "claims to have 99999999999 bytes, more than the 8388608 allowed"),
        ("huge", "cannot read the manifest of "),
    ] {
        let error = client.resolve(&at(&registry, &format!("a:{tag}")), &amd64()).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{tag}: {error}");
    }
    // A digest names bytes, and others came.
    let other = Digest::of(b"other");
    registry.put_manifest("a", &other.to_string(), MediaType::OCI_MANIFEST, manifest(&config, "").into_bytes());
    let error = client.resolve(&at(&registry, "a").with_digest(other), &amd64()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Digest { expected, .. } if expected == other), "{error}");
}

// ---- servers of a few lines, for what no registry does ----

struct Asked {
    head: String,
    body: Vec<u8>,
}

/// Answers each request with what `answer` makes of it; keeps the heads.
struct Scripted {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Endpoint for Scripted {
    fn address(&self) -> &str {
        &self.address
    }
}

impl Scripted {
    fn start(answer: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (shared, answer) = (heads.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (Ok(mut connection), heads, answer) = (connection, shared.clone(), answer.clone()) else { continue };
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(connection.try_clone().unwrap());
                    let Some(head) = read_head(&mut reader) else { return };
                    let length = length_in(&head).unwrap_or_default();
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    heads.lock().unwrap().push(head.clone());
                    connection.write_all(&answer(&Asked { head, body })).unwrap();
                });
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// The head of a request; `None` if there is none.
fn read_head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        // The question whether TLS is spoken here is no text.
        reader.read_line(&mut head).ok().filter(|read| *read > 0)?;
    }
    Some(head)
}

fn length_in(head: &str) -> Option<usize> {
    head.to_lowercase().split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n").into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn password_for(registry: &impl Endpoint) -> DockerConfig {
    let text = format!(r#"{{"auths":{{"{}":{{"username":"user","password":"hunter2"}}}}}}"#, registry.address());
    DockerConfig::parse(text.as_bytes(), None).unwrap()
}

fn authorization(head: &str) -> Option<&str> {
    head.lines().find(|line| line.to_lowercase().starts_with("authorization:"))
}

#[tokio::test]
async fn a_redirect_to_another_host_carries_no_credentials() {
    let bytes = noise(1000);
    let served = bytes.clone();
    let store = Scripted::start(move |_| answer("200 OK", "", &served));
    let location = format!("Location: http://{}/bucket/blob?signature=s3cret\r\n", store.address());
    let registry = Scripted::start(move |asked| {
        if authorization(&asked.head).is_none() {
            return answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", b"");
        }
        answer("307 Temporary Redirect", &location, b"")
    });
    let client = client_with(Options::default(), password_for(&registry));
    let reader = client.blob(&at(&registry, "a"), &blob_of(&bytes)).await.unwrap();
    assert_eq!(read_all(reader).await.unwrap(), bytes);
    assert!(registry.heads().iter().any(|head| authorization(head).is_some()));
    assert!(store.heads().iter().all(|head| authorization(head).is_none()), "{:?}", store.heads());
}

#[tokio::test]
async fn no_error_tells_a_password_or_a_signed_address() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let location = format!("Location: http://user:hunter2@{closed}/blob?signature=hunter2\r\n");
    let registry = Scripted::start(move |_| answer("307 Temporary Redirect", &location, b""));
    let client = client_with(Options::default(), password_for(&registry));
    let error = client.blob(&at(&registry, "a"), &blob_of(b"x")).await.unwrap_err();
    let mut told = format!("{error:?} {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        told = format!("{told} {error:?} {error}");
        cause = error.source();
    }
    assert!(matches!(error, RegistryError::Http { source: HttpError::Connect { .. }, .. }), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn a_proxy_is_asked_as_the_caller_says() {
    let bytes = b"through the proxy";
    let proxy = Scripted::start(|asked| match asked.head.split(' ').next().unwrap() {
        "CONNECT" => answer("403 Forbidden", "", b""),
        _ => answer("200 OK", "", bytes),
    });
    let address = Some(format!("http://user:hunter2@{}", proxy.address()));
    let client = |no_proxy: &str| {
        let no_proxy = Some(no_proxy.to_owned());
        let proxies = http::Proxies { http: address.clone(), https: address.clone(), no_proxy };
        let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
        let http = http::Client::new(http::Options { proxies, retry, ..http::Options::default() }).unwrap();
        let insecure = Hosts::from_iter(["registry.invalid".to_owned()]);
        Client::new(http, Options { insecure, ..Options::default() }, Arc::new(Anonymous)).unwrap()
    };
    let reference: Reference = "registry.invalid/a".parse().unwrap();
    let reader = client("other.invalid").blob(&reference, &blob_of(bytes)).await.unwrap();
    assert_eq!(read_all(reader).await.unwrap(), bytes);
    let heads = proxy.heads();
    assert!(heads[0].starts_with("CONNECT registry.invalid:443 "), "{heads:?}");
    assert!(heads[1].starts_with("GET http://registry.invalid/v2/a/blobs/sha256:"), "{heads:?}");
    assert!(heads.iter().all(|head| head.to_lowercase().contains("proxy-authorization: basic ")), "{heads:?}");

    let error = client(".invalid").blob(&reference, &blob_of(bytes)).await.unwrap_err();
    assert!(matches!(error, RegistryError::Http { source: HttpError::Connect { .. }, .. }), "{error:?}");
    let registry = FaultyRegistry::start();
    client("").push_bytes(&at(&registry, "a"), &blob_of(bytes), &bytes[..]).await.unwrap();
    assert_eq!(proxy.heads().len(), heads.len());
}

#[tokio::test]
async fn a_proxy_that_refuses_is_asked_once_and_named_without_its_password() {
    for (scheme, status, times, expected) in [
        ("https", "407 Proxy Authentication Required", 1, "does not let us through to registry.invalid: it answers 407"),
        ("https", "403 Forbidden", 1, "does not let us through to registry.invalid: it answers 403"),
        ("http", "407 Proxy Authentication Required", 1, "does not let us through to registry.invalid: it answers 407"),
        // The proxy does not reach the server: perhaps it does a moment later.
        ("https", "503 Service Unavailable", 4, "answers 503"),
    ] {
        let proxy = Scripted::start(move |_| answer(status, "Proxy-Authenticate: Basic realm=\"x\"\r\n", b"no"));
        let address = Some(format!("http://user:hunter2@{}", proxy.address()));
        let proxies = http::Proxies { http: address.clone(), https: address, no_proxy: None };
        let options = http::Options { proxies, ..http_client().options().clone() };
        let request = http::Request::new(http::Method::GET, http::Url::parse(&format!("{scheme}://registry.invalid/")).unwrap());
        let error = http::Client::new(options).unwrap().send(&request).await.unwrap_err();
        let told = format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
        assert!(told.contains(&format!("the proxy http://{} {expected}", proxy.address())), "{told}");
        assert!(!format!("{told}{error:?}").contains("hunter2"), "{error:?}");
        assert_eq!(error.is_transient(), times > 1, "{told}");
        assert_eq!(proxy.heads().len(), times, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_through_a_proxy() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = Registry::start_with(RegistryOptions { tls: true, ..RegistryOptions::default() });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = listener.local_addr().unwrap();
    let (heads, to) = (Arc::new(Mutex::new(Vec::new())), registry.address().to_owned());
    let seen = heads.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, seen, to) = (client.unwrap(), seen.clone(), to.clone());
            std::thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    client.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                seen.lock().unwrap().push(String::from_utf8(head).unwrap());
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
                let server = std::net::TcpStream::connect(to).unwrap();
                for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            });
        }
    });
    let proxies = http::Proxies { https: Some(format!("user:hunter2@{proxy}")), ..http::Proxies::default() };
    let http = http::Client::new(http::Options { proxies, ..http::Options::default() }).unwrap();
    let options = Options { skip_tls_verify: Hosts::All, ..Options::default() };
    let client = Client::new(http, options, Arc::new(Anonymous)).unwrap();
    let to: Reference = "registry.invalid/a:b".parse().unwrap();
    let digest = push_image(&client, &to, &noise(100_000)).await.unwrap();
    assert_eq!(registry.digest("a:b"), digest.to_string());
    for head in heads.lock().unwrap().iter() {
        assert!(head.starts_with("CONNECT registry.invalid:443 HTTP/1.1\r\n"), "{head}");
        assert!(head.to_lowercase().contains("proxy-authorization: basic "), "{head}");
    }
}

#[tokio::test]
async fn a_user_and_a_password_in_an_address_are_used_and_an_authorization_counts_more() {
    let server = Scripted::start(|_| answer("200 OK", "", b""));
    let address = format!("http://us%65r:p%40ss@{}/path?query#fragment", server.address());
    let request = http::Request::new(http::Method::GET, http::Url::parse(&address).unwrap());
    let own = request.clone().with_header(http::header::AUTHORIZATION, http::header::HeaderValue::from_static("Bearer own"));
    for request in [&request, &own] {
        http_client().send(request).await.unwrap();
    }
    let heads = server.heads();
    assert!(heads[0].starts_with("GET /path?query HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads[0].to_lowercase().contains(&format!("host: {}\r\n", server.address())), "{heads:?}");
    // user:p@ss
    assert!(authorization(&heads[0]).unwrap().ends_with("Basic dXNlcjpwQHNz"), "{heads:?}");
    assert!(authorization(&heads[1]).unwrap().ends_with("Bearer own"), "{heads:?}");
}

#[tokio::test]
async fn redirects_end() {
    let registry = Scripted::start(|_| answer("307 Temporary Redirect", "Location: /v2/again\r\n", b""));
    let error = client().blob(&at(&registry, "a"), &blob_of(b"x")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Http { source: HttpError::Redirect { .. }, .. }), "{error}");
    assert!(registry.heads().len() < 20);
}

#[tokio::test]
async fn a_token_that_expired_is_replaced() {
    let issued = Arc::new(Mutex::new(0));
    let counter = issued.clone();
    let tokens = Scripted::start(move |_| {
        let mut issued = counter.lock().unwrap();
        *issued += 1;
        answer("200 OK", "", format!(r#"{{"access_token":"token-{issued}","expires_in":3600}}"#).as_bytes())
    });
    let realm = format!("WWW-Authenticate: Bearer realm=\"http://{}/t\",service=\"s\"\r\n", tokens.address());
    // Each token opens the door for one request.
    let used = Mutex::new(Vec::new());
    let registry = Scripted::start(move |asked| match authorization(&asked.head) {
        Some(token) if !used.lock().unwrap().contains(&token.to_owned()) => {
            used.lock().unwrap().push(token.to_owned());
            answer("200 OK", "", b"")
        }
        _ => answer("401 Unauthorized", &realm, b""),
    });
    let client = client();
    for _ in 0..3 {
        assert!(client.has_blob(&at(&registry, "a"), Digest::of(b"")).await.unwrap());
    }
    assert_eq!(*issued.lock().unwrap(), 3);
}

#[tokio::test]
async fn nonsense_of_a_token_server_is_an_error_that_says_so() {
    for (status, body) in [("200 OK", "<html>"), ("200 OK", "{}"), ("200 OK", r#"{"token":"a\nb"}"#)] {
        let tokens = Scripted::start(move |_| answer(status, "", body.as_bytes()));
        let realm = format!("WWW-Authenticate: Bearer realm=\"http://{}/t\"\r\n", tokens.address());
        let registry = Scripted::start(move |_| answer("401 Unauthorized", &realm, b""));
        let error = client().has_blob(&at(&registry, "a"), Digest::of(b"")).await.unwrap_err();
        assert!(matches!(error, RegistryError::Token { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_sent_in_chunks() {
    // A proxy in front of the registry lets no more than 2 MiB through.
    let limit = 2 << 20;
    let stored: Arc<Mutex<Vec<u8>>> = Arc::default();
    let sink = stored.clone();
    let registry = Scripted::start(move |asked| {
        let line = asked.head.lines().next().unwrap();
        if line.starts_with("HEAD") {
            answer("404 Not Found", "", b"")
        } else if asked.body.len() > limit {
            answer("413 Payload Too Large", "", b"<html>")
        } else if line.starts_with("POST") {
            answer("202 Accepted", "Location: /v2/a/blobs/uploads/1?state=0\r\n", b"")
        } else if line.starts_with("PATCH") {
            let mut stored = sink.lock().unwrap();
            assert!(line.contains(&format!("?state={}", stored.len())), "{line}");
            let range = format!("content-range: {}-{}", stored.len(), stored.len() + asked.body.len() - 1);
            assert!(asked.head.to_lowercase().contains(&range), "{}", asked.head);
            stored.extend_from_slice(&asked.body);
            answer("202 Accepted", &format!("Location: /v2/a/blobs/uploads/1?state={}\r\n", stored.len()), b"")
        } else {
            assert!(line.starts_with("PUT") && line.contains("?state=") && line.contains("&digest=sha256%3A"), "{line}");
            answer("201 Created", "", b"")
        }
    });
    let bytes = noise(9_000_000);
    client().push_blob(&at(&registry, "a"), &blob_of(&bytes), bytes_opener(&bytes)).await.unwrap();
    assert!(*stored.lock().unwrap() == bytes);
}

// ---- blobs that grow ----

/// What a proxy does to uploads.
#[derive(Clone, Copy, Debug)]
enum Whim {
    None,
    /// This answer to a body whose length it is not told.
    WantsLength(&'static str),
    /// 413 to a body of more bytes than that, as soon as it knows.
    Limit(usize),
    /// The connection breaks when so much of the first body without a length went through.
    Breaks(usize),
    /// The same, but it stays open and nothing goes through any more.
    Stalls(usize),
}

/// Stands before a registry, and lets through what its whim permits: one request on each connection.
struct Proxy {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
    /// Of bodies, with what frames their chunks.
    body_bytes: Arc<AtomicUsize>,
}

impl Endpoint for Proxy {
    fn address(&self) -> &str {
        &self.address
    }
}

impl Proxy {
    fn before(registry: &impl Endpoint, whim: Whim) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heads, body_bytes): (Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>) = <_>::default();
        let (seen, counted, to) = (heads.clone(), body_bytes.clone(), registry.address().to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), seen, counted, to) = (client, seen.clone(), counted.clone(), to.clone()) else { continue };
                std::thread::spawn(move || Self::serve(&client, &to, whim, &seen, &counted));
            }
        });
        Self { address, heads, body_bytes }
    }

    fn serve(mut client: &TcpStream, to: &str, whim: Whim, seen: &Mutex<Vec<String>>, counted: &AtomicUsize) {
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let Some(head) = read_head(&mut reader) else { return };
        let length = length_in(&head);
        let is_growing = head.to_lowercase().contains("transfer-encoding: chunked");
        let is_first = !seen.lock().unwrap().iter().any(|head| head.starts_with("PATCH"));
        seen.lock().unwrap().push(head.clone());
        let mut refuse = |reader: &mut BufReader<TcpStream>, status| {
            let _ = client.write_all(&answer(status, "", b"<html>"));
            let _ = client.shutdown(Shutdown::Write);
            // Whoever is still sending would not get to read the answer if the connection were reset.
            let _ = std::io::copy(reader, &mut std::io::sink());
        };
        match whim {
            Whim::WantsLength(status) if is_growing => return refuse(&mut reader, status),
            Whim::Limit(limit) if length.is_some_and(|length| length > limit) => {
                return refuse(&mut reader, "413 Request Entity Too Large");
            }
            Whim::Limit(limit) if is_growing => {
                std::io::copy(&mut reader.by_ref().take(limit as u64), &mut std::io::sink()).unwrap();
                return refuse(&mut reader, "413 Request Entity Too Large");
            }
            _ => {}
        }
        let most = match whim {
            Whim::Breaks(bytes) | Whim::Stalls(bytes) if is_growing && is_first => bytes,
            _ => usize::MAX,
        };
        let mut server = TcpStream::connect(to).unwrap();
        server.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).unwrap();
        let (mut answers, mut answered) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let answering = std::thread::spawn(move || {
            let _ = std::io::copy(&mut answers, &mut answered);
            let _ = answered.shutdown(Shutdown::Write);
        });
        let (mut left, mut buffer) = (most, vec![0; 64 << 10]);
        while left > 0 {
            let Ok(read @ 1..) = reader.read(&mut buffer[..left.min(64 << 10)]) else { break };
            counted.fetch_add(read, Ordering::SeqCst);
            left -= read;
            if server.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        if left == 0 && matches!(whim, Whim::Stalls(_)) {
            std::thread::sleep(Duration::from_secs(10));
        }
        if left == 0 {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
        // Whoever hangs up is not waiting for an answer.
        let _ = server.shutdown(Shutdown::Write);
        let _ = answering.join();
    }

    fn heads(&self, method: &str) -> Vec<String> {
        self.heads.lock().unwrap().iter().filter(|head| head.starts_with(method)).map(|head| head.to_lowercase()).collect()
    }
}

/// Writes `bytes` to a blob of a store while it is pushed; `pause` is called after each MiB.
async fn push_growing(
    client: &Client,
    to: &Reference,
    bytes: Vec<u8>,
    is_finished: bool,
    pause: impl Fn(usize) + Send + 'static,
) -> Grown {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut writer = store.hashed_blob_writer().unwrap();
    let growing = writer.follow().unwrap();
    let writing = tokio::task::spawn_blocking(move || {
        for (index, piece) in bytes.chunks(1 << 20).enumerate() {
            writer.write_all(piece).unwrap();
            pause(index + 1);
        }
        if is_finished {
            writer.finish_as(&blob_of(&bytes)).unwrap();
        }
    });
    let grown = client.push_growing(to, growing).await.unwrap();
    writing.await.unwrap();
    grown
}

/// The same, slowly.
async fn push_while_written(registry: &impl Endpoint, bytes: Vec<u8>, is_finished: bool) -> Grown {
    let pause = |_| std::thread::sleep(Duration::from_millis(2));
    push_growing(&client(), &at(registry, "a"), bytes, is_finished, pause).await
}

fn count(registry: &FaultyRegistry, method: &str) -> usize {
    registry.requests().iter().filter(|request| request.starts_with(method)).count()
}

async fn has(registry: &impl Endpoint, bytes: &[u8]) -> bool {
    let reader = client().blob(&at(registry, "a"), &blob_of(bytes)).await.unwrap();
    read_all(reader).await.unwrap() == bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_followed_by_one_request_from_its_first_bytes_on() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = Registry::start();
    let proxy = Proxy::before(&registry, Whim::None);
    let bytes = noise(5 << 20);
    let arrived = proxy.body_bytes.clone();
    // Nothing more is written before the registry has what was written so far.
    let pause = move |written: usize| {
        let begun = Instant::now();
        while arrived.load(Ordering::SeqCst) < written << 20 {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not begin before the blob is whole");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let grown = push_growing(&client(), &at(&proxy, "a"), bytes.clone(), true, pause).await;
    assert_eq!(grown, Grown::Uploaded);
    assert!(has(&registry, &bytes).await);
    let patches = proxy.heads("PATCH");
    assert_eq!((patches.len(), proxy.heads("PUT").len()), (1, 1));
    assert!(!patches[0].contains("content-range") && !patches[0].contains("content-length"), "{}", patches[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refuses_a_body_without_length_gets_pieces_and_is_not_tried_again() {
    for (whim, growing) in [
        (Whim::WantsLength("411 Length Required"), 1),
        (Whim::WantsLength("400 Bad Request"), 1),
        (Whim::WantsLength("501 Not Implemented"), 1),
        // It is told of what is too large before all of it was sent, and gets smaller pieces.
        (Whim::Limit(3 << 20), 1),
    ] {
        let registry = FaultyRegistry::start();
        let proxy = Proxy::before(&registry, whim);
        let client = client();
        for seed in 0..2 {
            let mut bytes = noise(9_000_000);
            bytes[0] = seed;
            let pause = |_| std::thread::sleep(Duration::from_millis(2));
            let grown = push_growing(&client, &at(&proxy, "a"), bytes.clone(), true, pause).await;
            assert_eq!(grown, Grown::Uploaded, "{whim:?}");
            assert!(registry.blob("a", &blob_of(&bytes).digest.to_string()).unwrap() == bytes, "{whim:?}");
        }
        let patches = proxy.heads("PATCH");
        assert_eq!(patches.iter().filter(|head| !head.contains("content-range")).count(), growing, "{whim:?}");
        assert!(patches.len() > 2, "{whim:?}");
        assert_eq!(count(&registry, "POST"), 2, "{whim:?}: the upload that was begun goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_has_of_a_blob_that_broke_off_is_not_sent_again() {
    let registry = FaultyRegistry::start();
    let proxy = Proxy::before(&registry, Whim::Breaks(12 << 20));
    let bytes = noise(20 << 20);
    // The registry notices before we ask.
    let retry = RetryPolicy { first_wait: Duration::from_secs(1), ..RetryPolicy::default() };
    let http = http::Client::new(http::Options { retry, ..http_client().options().clone() }).unwrap();
    let patient = Client::new(http, Options::default(), Arc::new(Anonymous)).unwrap();
    let pause = |_| std::thread::sleep(Duration::from_millis(2));
    let grown = push_growing(&patient, &at(&proxy, "a"), bytes.clone(), true, pause).await;
    assert_eq!(grown, Grown::Uploaded);
    assert!(registry.blob("a", &blob_of(&bytes).digest.to_string()).unwrap() == bytes);
    let sent = proxy.body_bytes.load(Ordering::SeqCst);
    assert!(sent < bytes.len() + (2 << 20), "{sent} bytes");
    assert_eq!(proxy.heads("POST").len(), 1, "the upload that was begun goes on");
    if !testkit::require(&PROGRAMS) {
        return;
    }
    // Distribution 2.8 gives an upload up when it is asked how far one is that broke within a request.
    let registry = Registry::start();
    let proxy = Proxy::before(&registry, Whim::Breaks(12 << 20));
    assert_eq!(push_while_written(&proxy, bytes.clone(), true).await, Grown::Uploaded);
    assert!(has(&registry, &bytes).await);
    assert_eq!(proxy.heads("POST").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_turns_out_to_be_there_is_given_up_while_it_is_sent() {
    let registry = FaultyRegistry::start();
    let proxy = Proxy::before(&registry, Whim::Stalls(1 << 20));
    let bytes = noise(30_000_000);
    registry.put_blob("a", &blob_of(&bytes).digest.to_string(), bytes.clone());
    let begun = Instant::now();
    assert_eq!(push_while_written(&proxy, bytes, true).await, Grown::WasThere);
    assert!(begun.elapsed() < Duration::from_secs(8), "the answer is not waited for");
    assert_eq!((count(&registry, "HEAD"), count(&registry, "DELETE"), count(&registry, "PUT")), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_blamed_for_its_own_time_only() {
    let impatient = || {
        let brief = Duration::from_millis(400);
        let options = http::Options { idle_timeout: brief, commit_timeout: brief, ..http_client().options().clone() };
        Client::new(http::Client::new(options).unwrap(), Options::default(), Arc::new(Anonymous)).unwrap()
    };
    let bytes = noise(30_000_000);
    let registry = FaultyRegistry::start();
    let proxy = Proxy::before(&registry, Whim::None);
    let slow = |written| std::thread::sleep(Duration::from_millis(if written == 3 { 1500 } else { 0 }));
    assert_eq!(push_growing(&impatient(), &at(&proxy, "a"), bytes.clone(), true, slow).await, Grown::Uploaded);
    assert_eq!(proxy.heads("PATCH").len(), 1, "we were slow, not the registry");

    let registry = FaultyRegistry::start();
    let proxy = Proxy::before(&registry, Whim::Stalls(1 << 20));
    assert_eq!(push_growing(&impatient(), &at(&proxy, "a"), bytes, true, |_| {}).await, Grown::Uploaded);
    assert!(proxy.heads("PATCH").len() > 1, "the registry was slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_dropped_ends_though_its_blob_still_grows() {
    let registry = FaultyRegistry::start();
    let proxy = Proxy::before(&registry, Whim::None);
    let (client, http) = client_with_three_places();
    let to = at(&proxy, "a");
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Store::open(directory.path()).unwrap().hashed_blob_writer().unwrap();
    let growing = writer.follow().unwrap();
    writer.write_all(&noise(1 << 20)).unwrap();
    let upload = tokio::spawn(async move { client.push_growing(&to, growing).await });
    while proxy.body_bytes.load(Ordering::SeqCst) < 1 << 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(free_places(&http, proxy.address()), 1);
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    assert_eq!(free_places(&http, proxy.address()), 2);
    // The registry sees a connection that broke, and no end of a blob.
    while count(&registry, "PATCH") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(registry.requests().iter().any(|request| request.starts_with("PATCH") && request.ends_with(" 0")));
    drop(writer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_in_pieces_is_resumed_where_it_broke() {
    let bytes = noise(30_000_000);
    let digest = blob_of(&bytes).digest.to_string();
    for fault in [None, Some(Fault::HangUp), Some(Fault::status(503)), Some(Fault::retry_after(1))] {
        let registry = FaultyRegistry::start();
        let proxy = Proxy::before(&registry, Whim::WantsLength("411 Length Required"));
        // The first piece arrives.
        registry.fail(rule("PATCH", "", 1, Fault::Delay(Duration::ZERO)));
        if let Some(fault) = fault.clone() {
            registry.fail(rule("PATCH", "", 1, fault));
        }
        let heads = proxy.heads.clone();
        // The first piece is on its way before there is more than two.
        let pause = move |written: usize| {
            let begun = Instant::now();
            while written == 15 && !heads.lock().unwrap().iter().any(|head| head.to_lowercase().contains("content-range")) {
                assert!(begun.elapsed() < Duration::from_secs(20), "no piece is sent before the blob is whole");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let grown = push_growing(&client(), &at(&proxy, "a"), bytes.clone(), true, pause).await;
        assert_eq!(grown, Grown::Uploaded, "{fault:?}");
        assert!(registry.blob("a", &digest).unwrap() == bytes, "{fault:?}");
        assert_eq!(count(&registry, "POST"), 1, "{fault:?}: the upload that was begun goes on");
        assert_eq!(count(&registry, "GET /v2/a/blobs/uploads/"), 1 + usize::from(fault.is_some()), "{fault:?}");
        assert!(count(&registry, "PATCH") > 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_end_failed_is_ended_again_and_not_for_ever() {
    let bytes = noise(3_000_000);
    for fault in [Fault::HangUp, Fault::status(503), Fault::retry_after(1)] {
        let registry = FaultyRegistry::start();
        registry.fail(rule("PUT", "uploads", 1, fault.clone()));
        assert_eq!(push_while_written(&registry, bytes.clone(), true).await, Grown::Uploaded, "{fault:?}");
        assert_eq!((count(&registry, "POST"), count(&registry, "PATCH"), count(&registry, "PUT")), (1, 1, 2), "{fault:?}");
    }
    // One that forgets what it has each time that it fails.
    let registry = FaultyRegistry::start();
    registry.fail(rule("PUT", "uploads", usize::MAX, Fault::status(503)));
    registry.fail(rule("GET", "uploads", usize::MAX, Fault::status(404)));
    assert_eq!(push_while_written(&registry, bytes, true).await, Grown::Open);
    assert_eq!(count(&registry, "PUT"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_registry_forgot_is_begun_anew() {
    let bytes = noise(20_000_000);
    let registry = FaultyRegistry::start();
    registry.fail(rule("PATCH", "", 1, Fault::HangUp));
    registry.fail(rule("GET", "uploads", 1, Fault::status(404)));
    assert_eq!(push_while_written(&registry, bytes.clone(), true).await, Grown::Uploaded);
    assert!(registry.blob("a", &blob_of(&bytes).digest.to_string()).unwrap() == bytes);
    assert_eq!(count(&registry, "POST"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_ends_with_what_it_is_of_and_where_nothing_but_the_whole_is_taken() {
    let bytes = noise(20_000_000);
    let registry = FaultyRegistry::start();
    assert_eq!(push_while_written(&registry, bytes.clone(), false).await, Grown::Open, "the writing was given up");
    assert_eq!(count(&registry, "DELETE"), 1);

    let registry = FaultyRegistry::start();
    registry.fail(rule("PATCH", "", usize::MAX, Fault::status(405)));
    assert_eq!(push_while_written(&registry, bytes.clone(), true).await, Grown::Open, "the registry takes no part of a blob");
    assert_eq!(count(&registry, "PATCH"), 1);

    let registry = FaultyRegistry::start();
    registry.put_blob("a", &blob_of(&bytes).digest.to_string(), bytes.clone());
    let grown = push_while_written(&registry, bytes, true).await;
    assert!(matches!(grown, Grown::WasThere | Grown::Uploaded), "{grown:?}");
}

// ---- large blobs, in pieces ----

const LARGE: usize = 40_000_000;
/// What is asked for at a time (`registry/pieces.rs`).
const PIECE: usize = 4 << 20;

/// The range that a request asks for.
fn asked_range(head: &str) -> Option<std::ops::Range<usize>> {
    let line = head.lines().find(|line| line.to_lowercase().starts_with("range:"))?;
    let (first, last) = line.split_once("bytes=")?.1.split_once('-')?;
    Some(first.parse().unwrap()..last.parse().map_or(usize::MAX, |last: usize| last + 1))
}

/// An answer of the range that is asked for, or of everything.
fn ranged(head: &str, bytes: &[u8]) -> Vec<u8> {
    let Some(range) = asked_range(head) else { return answer("200 OK", "", bytes) };
    let range = range.start..range.end.min(bytes.len());
    let header = format!("Content-Range: bytes {}-{}/{}\r\n", range.start, range.end - 1, bytes.len());
    answer("206 Partial Content", &header, &bytes[range])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_comes_in_ranges() {
    if !testkit::require(&PROGRAMS) {
        return;
    }
    let registry = token_registry(false);
    let to = at(&registry, "a:b");
    let client = client_with(Options::default(), docker_config(&registry));
    let bytes = noise(LARGE);
    client.push_blob(&to, &blob_of(&bytes), bytes_opener(&bytes)).await.unwrap();
    assert!(read_all(client.blob(&to, &blob_of(&bytes)).await.unwrap()).await.unwrap() == bytes);
    let (mut reader, _download) = client.blob(&to, &blob_of(&bytes)).await.unwrap().into_read(&tokio::runtime::Handle::current());
    let read = tokio::task::spawn_blocking(move || {
        let mut read = Vec::new();
        reader.read_to_end(&mut read).map(|_| read)
    });
    assert!(read.await.unwrap().unwrap() == bytes);
    let parts = registry.requests().iter().filter(|line| line.starts_with("GET /v2/a/blobs/") && line.ends_with(" 206")).count();
    assert!(parts >= 4, "{:#?}", registry.requests());
    assert_eq!(registry.tokens().requests().len(), 2, "one to push and one to pull");
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_are_fetched_side_by_side_and_no_more_of_them_than_there_are_places() {
    #[derive(Default)]
    struct Seen {
        second_and_third: [bool; 2],
        under_way: usize,
        most: usize,
    }
    let bytes = Arc::new(noise(LARGE));
    let seen = Arc::new((Mutex::new(Seen::default()), Condvar::new()));
    let (served, shared) = (bytes.clone(), seen.clone());
    let registry = Scripted::start(move |asked| {
        let start = asked_range(&asked.head).unwrap().start;
        let (seen, changed) = &*shared;
        let mut now = seen.lock().unwrap();
        now.under_way += 1;
        now.most = now.most.max(now.under_way);
        now.second_and_third[0] |= start == PIECE;
        now.second_and_third[1] |= start == 2 * PIECE;
        changed.notify_all();
        // Of the second and the third piece, whichever is asked for first, none is answered before both are.
        if start == PIECE || start == 2 * PIECE {
            let is_alone = |now: &mut Seen| now.second_and_third.contains(&false);
            now = changed.wait_timeout_while(now, Duration::from_secs(30), is_alone).unwrap().0;
            if is_alone(&mut now) {
                return answer("404 Not Found", "", b"");
            }
        }
        now.under_way -= 1;
        drop(now);
        ranged(&asked.head, &served)
    });
    let reader = client().blob(&at(&registry, "a"), &blob_of(&bytes)).await.unwrap();
    assert!(read_all(reader).await.unwrap() == *bytes);
    assert!(registry.heads().iter().all(|head| asked_range(head).is_some()), "no piece was in vain");
    let most = seen.0.lock().unwrap().most;
    assert!((2..=3).contains(&most), "{most} at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_fails_is_fetched_again_alone() {
    let bytes = noise(LARGE);
    let blob = blob_of(&bytes);
    let whole = LARGE.div_ceil(PIECE);
    for (fault, passing) in [
        (Fault::CutAfter(100_000), true),
        (Fault::CutAfter(0), true),
        (Fault::HangUp, true),
        (Fault::status(503), true),
        (Fault::retry_after(1), true),
        (Fault::Delay(Duration::from_millis(200)), true),
        (Fault::IgnoreRange, false),
        (Fault::WrongRange, false),
        (Fault::status(416), false),
        (Fault::status(403), false),
    ] {
        for undisturbed in [1, 3] {
            let registry = FaultyRegistry::start();
            registry.put_blob("a", &blob.digest.to_string(), bytes.clone());
            registry.fail(rule("GET", "/blobs/", undisturbed, Fault::Delay(Duration::ZERO)));
            registry.fail(rule("GET", "/blobs/", 1, fault.clone()));
            let reader = client().blob(&at(&registry, "a"), &blob).await.unwrap();
            assert!(read_all(reader).await.unwrap() == bytes, "{fault:?}");
            let gets = count(&registry, "GET /v2/a/blobs/");
            let most = if passing { whole + 1 } else { undisturbed + 1 + 4 + 1 };
            assert!(gets <= most, "{fault:?}: {gets} requests");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_sends_a_large_blob_once() {
    let bytes = noise(LARGE);
    let blob = blob_of(&bytes);
    for (fault, requests) in [(Fault::IgnoreRange, 1), (Fault::WrongRange, 2)] {
        let registry = FaultyRegistry::start();
        registry.put_blob("a", &blob.digest.to_string(), bytes.clone());
        registry.fail(rule("GET", "/blobs/", usize::MAX, fault.clone()));
        let reader = client().blob(&at(&registry, "a"), &blob).await.unwrap();
        assert!(read_all(reader).await.unwrap() == bytes, "{fault:?}");
        assert_eq!(count(&registry, "GET /v2/a/blobs/"), requests, "{fault:?}");
    }
    for status in [400, 416, 501] {
        let served = bytes.clone();
        let registry = Scripted::start(move |asked| match asked_range(&asked.head) {
            Some(_) => answer(&format!("{status} No Ranges"), "", b""),
            None => answer("200 OK", "", &served),
        });
        let reader = client().blob(&at(&registry, "a"), &blob).await.unwrap();
        assert!(read_all(reader).await.unwrap() == bytes, "{status}");
        assert!(registry.heads().len() <= 2, "{:#?}", registry.heads());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_of_wrong_bytes_or_of_another_size_is_caught() {
    let bytes = noise(LARGE);
    let blob = blob_of(&bytes);
    let registry = FaultyRegistry::start();
    registry.put_blob("a", &blob.digest.to_string(), bytes.clone());
    registry.fail(rule("GET", "/blobs/", 2, Fault::Delay(Duration::ZERO)));
    registry.fail(rule("GET", "/blobs/", 1, Fault::WrongByte));
    let error = read_all(client().blob(&at(&registry, "a"), &blob).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Digest { .. }), "{error:?}");

    for size_bytes in [blob.size_bytes - 1, blob.size_bytes + 1, u64::MAX] {
        let lying = Descriptor { size_bytes, ..blob.clone() };
        let error = client().blob(&at(&registry, "a"), &lying).await.unwrap_err();
        assert!(matches!(error, RegistryError::Size { actual_bytes: Some(40_000_000), .. }), "{error:?}");
    }

    // It says what was asked for and sends more; what it sends as one stream is right.
    let served = bytes.clone();
    let registry = Scripted::start(move |asked| match asked_range(&asked.head) {
        Some(range) if range.end != usize::MAX => {
            let total = served.len();
            let header = format!("Content-Range: bytes {}-{}/{total}\r\n", range.start, range.end - 1);
            answer("206 Partial Content", &header, &served[range.start..served.len().min(range.end + 10)])
        }
        _ => ranged(&asked.head, &served),
    });
    assert!(read_all(client().blob(&at(&registry, "a"), &blob).await.unwrap()).await.unwrap() == bytes);
    // Nothing that it sends ever ends well.
    let served = bytes[..30_000_000].to_vec();
    let registry = Scripted::start(move |asked| {
        let range = asked_range(&asked.head).unwrap_or(0..LARGE);
        let header = format!("Content-Range: bytes {}-{}/{LARGE}\r\n", range.start, range.end.min(LARGE) - 1);
        let part = served.get(range.start..range.end.min(served.len())).unwrap_or_default();
        answer("206 Partial Content", &header, part)
    });
    assert!(read_all(client().blob(&at(&registry, "a"), &blob).await.unwrap()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_come_from_where_the_registry_sent_us_until_that_expires() {
    let bytes = noise(LARGE);
    let (served, answered) = (bytes.clone(), Mutex::new(BTreeMap::<String, usize>::new()));
    // Each address is good for four requests.
    let store = Scripted::start(move |asked| {
        let address = asked.head.split(' ').nth(1).unwrap().to_owned();
        let mut answered = answered.lock().unwrap();
        let times = answered.entry(address).or_default();
        *times += 1;
        if *times > 4 { answer("403 Forbidden", "", b"expired") } else { ranged(&asked.head, &served) }
    });
    let (address, signed) = (store.address().to_owned(), Mutex::new(0));
    let registry = Scripted::start(move |asked| {
        if authorization(&asked.head).is_none() {
            return answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", b"");
        }
        let mut signed = signed.lock().unwrap();
        *signed += 1;
        answer("307 Temporary Redirect", &format!("Location: http://{address}/blob?signature={signed}\r\n"), b"moved")
    });
    let client = client_with(Options::default(), password_for(&registry));
    let reader = client.blob(&at(&registry, "a"), &blob_of(&bytes)).await.unwrap();
    assert!(read_all(reader).await.unwrap() == bytes);
    assert!(store.heads().iter().all(|head| authorization(head).is_none()), "{:?}", store.heads());
    let asked = registry.heads().iter().filter(|head| authorization(head).is_some()).count();
    assert!((2..=LARGE.div_ceil(PIECE)).contains(&asked), "{asked} questions");
}

/// Sends whoever asks for a blob to the store of `address`, with another signature each time.
fn signing(address: impl Fn(usize) -> String + Send + Sync + 'static) -> Scripted {
    let signed = AtomicUsize::new(0);
    Scripted::start(move |_| {
        let number = signed.fetch_add(1, Ordering::SeqCst);
        let location = format!("Location: http://{}/blob?signature={number}\r\n", address(number));
        answer("307 Temporary Redirect", &location, b"moved")
    })
}

/// A client with three places at each host, two of them for streams, and its network.
fn client_with_three_places() -> (Client, http::Client) {
    let http = http::Client::new(http::Options { connections_per_host: 3, ..http::Options::default() }).unwrap();
    (Client::new(http.clone(), Options::default(), Arc::new(Anonymous)).unwrap(), http)
}

/// How many places for streams are free at `address`.
fn free_places(http: &http::Client, address: &str) -> usize {
    let url = http::Url::parse(&format!("http://{address}/")).unwrap();
    std::iter::from_fn(|| http.spare_seat(&url)).take(3).collect::<Vec<_>>().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_the_registry_again_keeps_no_place_at_the_store() {
    let bytes = noise(LARGE);
    let (served, answered) = (bytes.clone(), Mutex::new(0));
    let store = Scripted::start(move |asked| {
        let mut answered = answered.lock().unwrap();
        *answered += 1;
        if asked.head.contains("signature=0 ") && *answered > 3 {
            return answer("403 Forbidden", "", b"expired");
        }
        ranged(&asked.head, &served)
    });
    let (client, http) = client_with_three_places();
    let (most_free, at) = (Arc::new(Mutex::new(0)), store.address().to_owned());
    let (seen, looking) = (most_free.clone(), at.clone());
    let registry = signing(move |number| {
        // All that is under way at the store when it is asked again comes to its end within this time.
        let until = Instant::now() + Duration::from_secs(10);
        while number > 0 && *seen.lock().unwrap() < 2 && Instant::now() < until {
            let mut most = seen.lock().unwrap();
            *most = free_places(&http, &looking).max(*most);
            drop(most);
            std::thread::sleep(Duration::from_millis(5));
        }
        at.clone()
    });
    let reader = client.blob(&self::at(&registry, "a"), &blob_of(&bytes)).await.unwrap();
    assert!(read_all(reader).await.unwrap() == bytes);
    assert_eq!(*most_free.lock().unwrap(), 2, "places for streams at the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_another_piece_was_given_meanwhile_is_used() {
    let bytes = noise(LARGE);
    // The third and the fourth piece are refused: one when both were asked for, the other when a piece behind them has come
    // from the address that the first was given then.
    let (served, seen) = (bytes.clone(), (Mutex::new(Vec::new()), Condvar::new()));
    let store = Scripted::start(move |asked| {
        let (is_old, start) = (asked.head.contains("signature=0 "), asked_range(&asked.head).unwrap().start);
        let (seen, changed) = &seen;
        let mut now = seen.lock().unwrap();
        now.push((is_old, start));
        changed.notify_all();
        if is_old && start >= 2 * PIECE {
            let is_early = |now: &mut Vec<(bool, usize)>| match start / PIECE {
                2 => !now.contains(&(true, 3 * PIECE)),
                _ => !now.contains(&(false, 4 * PIECE)),
            };
            drop(changed.wait_timeout_while(now, Duration::from_secs(10), is_early).unwrap());
            return answer("403 Forbidden", "", b"expired");
        }
        drop(now);
        ranged(&asked.head, &served)
    });
    let at = store.address().to_owned();
    let registry = signing(move |_| at.clone());
    let reader = client_with_three_places().0.blob(&self::at(&registry, "a"), &blob_of(&bytes)).await.unwrap();
    assert!(read_all(reader).await.unwrap() == bytes);
    assert_eq!(registry.heads().len(), 2, "{:#?}", registry.heads());
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_taken_where_the_registry_sends_us_now() {
    let bytes = noise(LARGE);
    let served = bytes.clone();
    let first = Scripted::start(move |asked| {
        // It has the first two pieces and expires.
        if asked_range(&asked.head).unwrap().start >= 2 * PIECE {
            return answer("403 Forbidden", "", b"expired");
        }
        ranged(&asked.head, &served)
    });
    let (client, http) = client_with_three_places();
    let (least_free, served) = (Arc::new(Mutex::new(usize::MAX)), bytes.clone());
    let (seen, left) = (least_free.clone(), first.address().to_owned());
    let second = Scripted::start(move |asked| {
        // By now the pieces of the first one were read.
        if asked_range(&asked.head).unwrap().start >= 6 * PIECE {
            let mut least = seen.lock().unwrap();
            *least = free_places(&http, &left).min(*least);
        }
        ranged(&asked.head, &served)
    });
    let stores = [first.address().to_owned(), second.address().to_owned()];
    let registry = signing(move |number| stores[number.min(1)].clone());
    let reader = client.blob(&at(&registry, "a"), &blob_of(&bytes)).await.unwrap();
    assert!(read_all(reader).await.unwrap() == bytes);
    assert_eq!(*least_free.lock().unwrap(), 2, "places for streams at the store that is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_a_large_blob_that_stops_leaves_room_for_others_and_reads_little_ahead() {
    let (large, small) = (noise(LARGE), noise(1_000_000));
    let registry = FaultyRegistry::start();
    for bytes in [&large, &small] {
        registry.put_blob("a", &blob_of(bytes).digest.to_string(), bytes.clone());
    }
    let options = http::Options { connections_per_host: 3, ..http::Options::default() };
    let client = Client::new(http::Client::new(options).unwrap(), Options::default(), Arc::new(Anonymous)).unwrap();
    let to = at(&registry, "a");
    let mut reader = client.blob(&to, &blob_of(&large)).await.unwrap();
    let mut read = reader.chunk().await.unwrap().unwrap().to_vec();
    let others = async {
        for _ in 0..5 {
            assert!(read_all(client.blob(&to, &blob_of(&small)).await.unwrap()).await.unwrap() == small);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), others).await.expect("a place is free");
    let pieces = registry.requests().iter().filter(|line| line.contains(&blob_of(&large).digest.to_string())).count();
    assert!(pieces <= 4, "{pieces} pieces of 4 MiB");
    while let Some(bytes) = reader.chunk().await.unwrap() {
        read.extend_from_slice(&bytes);
    }
    assert!(read == large);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_large_blobs_at_once_all_arrive() {
    let blobs: Vec<Vec<u8>> = (0..4).map(|number| noise(LARGE + number)).collect();
    let registry = FaultyRegistry::start();
    for bytes in &blobs {
        let digest = blob_of(bytes).digest.to_string();
        registry.put_blob("a", &digest, bytes.clone());
        for fault in [Fault::Delay(Duration::ZERO), Fault::CutAfter(1_000_000), Fault::status(503), Fault::HangUp] {
            registry.fail(rule("GET", &digest, 1, fault));
        }
    }
    for connections_per_host in [1, 2, 3, 4, 8] {
        let options = http::Options { connections_per_host, ..http::Options::default() };
        let client = Client::new(http::Client::new(options).unwrap(), Options::default(), Arc::new(Anonymous)).unwrap();
        let to = at(&registry, "a");
        let reading = blobs.iter().map(|bytes| {
            let (client, to) = (client.clone(), to.clone());
            async move { read_all(client.blob(&to, &blob_of(bytes)).await.unwrap()).await.unwrap() == *bytes }
        });
        let reading = tokio::time::timeout(Duration::from_mins(1), futures_util::future::join_all(reading));
        assert!(reading.await.expect("nobody waits for ever").into_iter().all(|is_equal| is_equal));
    }
}

// ---- connections ----

/// How many connections of this machine to a port of it are open, as seen by the side that made them.
fn open_to(address: &str) -> usize {
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let is_open = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // ESTABLISHED, SYN_SENT, and CLOSE_WAIT: the other side is done, and ours is not.
        fields[2].ends_with(&format!(":{port:04X}")) && matches!(fields[3], "01" | "02" | "08")
    };
    table.lines().skip(1).filter(is_open).count()
}

/// Waits until as many connections are left as there should be.
async fn closed_down_to(wanted: usize, address: &str) {
    let closing = async {
        while open_to(address) > wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closing).await.expect("they are closed");
    assert_eq!(open_to(address), wanted);
}

/// A server that keeps connections open and answers each request with `answer`; gives its port and the number of connections so far.
fn keeping_open(answer: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut connection = connection.unwrap();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(connection.try_clone().unwrap());
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if !matches!(reader.read_line(&mut head), Ok(1..)) {
                            return;
                        }
                    }
                    connection.write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
    (port, count)
}

fn get(address: &str) -> http::Request {
    http::Request::new(http::Method::GET, http::Url::parse(&format!("http://{address}/")).unwrap())
}

#[tokio::test]
async fn a_connection_is_closed_when_it_has_waited_too_long_and_nobody_asks_for_another() {
    let (port, _) = keeping_open("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let address = format!("127.0.0.1:{port}");
    let options = http::Options { connection_wait: Duration::from_millis(200), ..http::Options::default() };
    let client = http::Client::new(options).unwrap();
    for _ in 0..2 {
        drop(client.send(&get(&address)).await.unwrap());
        assert_eq!(open_to(&address), 1);
        closed_down_to(0, &address).await;
    }
}

#[tokio::test]
async fn connections_to_many_hosts_do_not_all_wait() {
    let (port, _) = keeping_open("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let client = http_client();
    for host in 1..=50 {
        drop(client.send(&get(&format!("127.0.0.{host}:{port}"))).await.unwrap());
    }
    // What was told to close does so as soon as its task runs.
    closed_down_to(32, &format!("127.0.0.1:{port}")).await;
}

#[tokio::test]
async fn a_short_answer_that_nobody_reads_does_not_cost_its_connection() {
    for answer in [
        "HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\naccepted",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found",
        "HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 5\r\n\r\nmoved",
    ] {
        let (port, connections) = keeping_open(answer);
        let client = http_client();
        for _ in 0..5 {
            drop(client.send(&get(&format!("127.0.0.1:{port}"))).await.unwrap());
        }
        let connections = connections.load(Ordering::SeqCst);
        assert_eq!(connections, 1, "{answer:?}");
    }
}

#[tokio::test]
async fn a_length_that_does_not_count_makes_no_answer_short() {
    const SENT_AHEAD_BYTES: usize = 32 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::task::spawn_blocking(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let (mut reader, mut head) = (BufReader::new(connection.try_clone().unwrap()), String::new());
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
        let mut sent = 0;
        // Until nobody listens; what the kernel holds for us counts as sent.
        while connection.write_all(chunk.as_bytes()).is_ok() {
            sent += chunk.len();
        }
        sent
    });
    drop(http_client().send(&get(&address)).await.unwrap());
    let sent = server.await.unwrap();
    assert!(sent < SENT_AHEAD_BYTES, "{sent} bytes were read of a body that nobody wants");
}

#[tokio::test]
async fn a_short_answer_that_breaks_off_is_an_answer_and_its_body_an_error() {
    let server = Scripted::start(|_| b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot".to_vec());
    let mut answer = http_client().send(&get(server.address())).await.unwrap();
    assert_eq!(answer.status(), http::StatusCode::NOT_FOUND);
    assert_eq!(answer.chunk().await.unwrap().unwrap(), &b"not"[..]);
    assert!(matches!(answer.chunk().await, Err(HttpError::Broken { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_are_open_than_allowed_whatever_becomes_of_the_answers() {
    // It keeps connections open, as far as the answer says so, and counts them whenever a request comes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, counted_at) = (most.clone(), address.clone());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (mut connection, counted, address) = (connection.unwrap(), counted.clone(), counted_at.clone());
            counted.fetch_max(open_to(&address), Ordering::SeqCst);
            std::thread::spawn(move || {
                let mut reader = BufReader::new(connection.try_clone().unwrap());
                let mut served = 0;
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if !matches!(reader.read_line(&mut head), Ok(1..)) {
                            return;
                        }
                    }
                    counted.fetch_max(open_to(&address), Ordering::SeqCst);
                    served += 1;
                    let body = vec![b'x'; if head.contains("/long") { 3_000_000 } else { 10 }];
                    let closing = if served == 5 { "Connection: close\r\n" } else { "" };
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{closing}\r\n", body.len());
                    if connection.write_all(&[head.as_bytes(), &body].concat()).is_err() || served == 5 {
                        return;
                    }
                }
            });
        }
    });
    let options = http::Options { connections_per_host: 3, ..http::Options::default() };
    let usual = http::Client::new(options).unwrap();
    // The same host for others, who trust otherwise and so share no connection.
    let trusting = BTreeMap::from([(address.clone(), http::Trust::default())]);
    let other = usual.clone().trusting(None, trusting).unwrap();
    let work = (0..300_usize).map(|number| {
        let client = if number % 4 == 0 { other.clone() } else { usual.clone() };
        let path = if number % 3 == 0 { "long" } else { "short" };
        let mut request = http::Request::new(http::Method::GET, http::Url::parse(&format!("http://{address}/{path}")).unwrap());
        request.lane = if number % 2 == 0 { http::Lane::Download } else { http::Lane::Brief };
        tokio::spawn(async move {
            let mut answer = client.send(&request).await.unwrap();
            match number % 5 {
                0 => drop(answer),
                1 => drop(answer.chunk().await.unwrap()),
                _ => drop(answer.bytes(4 << 20).await.unwrap()),
            }
        })
    });
    let work = futures_util::future::join_all(work.collect::<Vec<_>>());
    for outcome in tokio::time::timeout(Duration::from_mins(1), work).await.expect("nobody waits for ever") {
        outcome.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_registry_that_stores_something_else_is_caught() {
    let wrong = format!("Docker-Content-Digest: {}\r\n", Digest::of(b"other"));
    let registry = Scripted::start(move |_| answer("201 Created", &wrong, b""));
    let kind = MediaType::new(MediaType::OCI_MANIFEST);
    let error = client().push_manifest(&at(&registry, "a:b"), &kind, &b"{}"[..]).await.unwrap_err();
    assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
}

#[tokio::test]
async fn what_the_registry_says_reaches_the_user() {
    let body = br#"{"errors":[{"code":"DENIED","message":"quota exceeded for team"}]}"#;
    let registry = Scripted::start(|_| answer("403 Forbidden", "", body));
    let to = at(&registry, "a:b");
    let error = client().check_push(&to).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot push to {}/a: access denied: the registry answers 403 DENIED: quota exceeded for team",
            registry.address()
        )
    );
}
