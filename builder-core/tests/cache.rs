//! Caches that builds share: in a registry, in a directory, in an image. Each build here has a machine of its own unless it
//! says otherwise: nothing but the cache connects them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::build::{
    Backends, BuildError, BuildRequest, CacheLayers, CachePlace, CacheRequest, CacheTarget, CacheUse, Event, Outcome,
    StepOutcome, build,
};
use builder_core::{
    http,
    oci::{Digest, Reference},
    registry,
    store::Store,
};
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
};
use testkit::{Endpoint, Fault, FaultyRegistry, Image, Registry, Rule, require, require_root};

const PROGRAMS: [&str; 2] = ["docker-registry", "skopeo"];

/// Contexts and machines to build on.
struct Bench<R> {
    directory: tempfile::TempDir,
    registry: R,
    machines: AtomicUsize,
}

fn http_client() -> http::Client {
    http::Client::new(http::Options::default()).unwrap()
}

fn registry_client() -> registry::Client {
    registry::Client::new(http_client(), registry::Options::default(), Arc::new(registry::Anonymous)).unwrap()
}

/// What a build led to.
struct Built {
    result: Result<Outcome, BuildError>,
    events: Vec<Event>,
}

impl<R: Endpoint> Bench<R> {
    fn new(registry: R) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("context")).unwrap();
        Self { directory, registry, machines: AtomicUsize::new(0) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path("context").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn name(&self, text: &str) -> Reference {
        format!("{}/{text}", self.registry.address()).parse().unwrap()
    }

    /// Removes a blob from a repository, and no manifest.
    async fn lose_blob(&self, repository: &str, blob: Digest) {
        let address = format!("http://{}/v2/{repository}/blobs/{blob}", self.registry.address());
        let lose = http::Request::new(http::Method::DELETE, address.parse().unwrap());
        assert_eq!(http_client().send(&lose).await.unwrap().status(), 202);
    }

    /// A request for `dockerfile`, pushed as `app:1`, with the cache in `app/cache`.
    fn request(&self, dockerfile: &str) -> BuildRequest {
        self.write("Dockerfile", &dockerfile.replace("REGISTRY", self.registry.address()));
        BuildRequest {
            destinations: vec![self.name("app:1")],
            cache: in_place(CachePlace::Registry(self.name("app/cache"))),
            source_date_epoch: Some(1_600_000_000),
            ..BuildRequest::new(self.path("context"))
        }
    }

    /// Builds on a machine that has never built anything.
    async fn build(&self, request: &BuildRequest) -> Built {
        let machine = format!("machine-{}", self.machines.fetch_add(1, Ordering::Relaxed));
        self.build_on(&machine, request).await
    }

    async fn build_on(&self, machine: &str, request: &BuildRequest) -> Built {
        let store = Store::open(self.path(machine)).unwrap();
        let registry = registry_client();
        let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
        let listening = tokio::spawn(async move {
            let mut events = Vec::new();
            while let Some(event) = receiver.recv().await {
                events.push(event);
            }
            events
        });
        let result = build(request.clone(), Backends::new(store, registry), sender).await;
        Built { result, events: listening.await.unwrap() }
    }
}

fn in_place(place: CachePlace) -> CacheRequest {
    let to = vec![CacheTarget { place: place.clone(), layers: CacheLayers::Max }];
    CacheRequest { from: vec![place], to, ..CacheRequest::default() }
}

impl Built {
    fn outcome(&self) -> &Outcome {
        self.result.as_ref().unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn digest(&self) -> String {
        self.outcome().digest.to_string()
    }

    /// How the steps that make layers ended, by their text.
    fn steps(&self, wanted: StepOutcome) -> BTreeSet<String> {
        let mut texts = std::collections::HashMap::new();
        let mut found = BTreeSet::new();
        for event in &self.events {
            match event {
                Event::StepStarted { step, text, .. } => drop(texts.insert(step.clone(), text.clone())),
                Event::StepFinished { step, outcome, .. } if *outcome == wanted => drop(found.insert(texts[step].clone())),
                _ => {}
            }
        }
        found
    }

    fn executed(&self) -> Vec<String> {
        self.outcome();
        self.steps(StepOutcome::Executed).into_iter().collect()
    }

    /// Which steps were not known, and why.
    fn explained(&self) -> Vec<(usize, Vec<String>)> {
        self.outcome();
        let missed = self.events.iter().filter_map(|event| match event {
            Event::CacheMissed { step, reasons } => Some((step.number, reasons.clone())),
            _ => None,
        });
        missed.collect()
    }

    fn pulls(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::PullStarted { .. })).count()
    }

    fn warnings(&self) -> Vec<&str> {
        let warnings = self.events.iter().filter_map(|event| match event {
            Event::Warning { message, .. } => Some(message.as_str()),
            _ => None,
        });
        warnings.collect()
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(directory).into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// Requests from the `from`th on that go to the cache, with digests and tags left out.
fn cache_requests(requests: &[String], from: usize) -> Vec<String> {
    let shape = |line: &String| {
        let (request, status) = line.rsplit_once(' ').unwrap();
        let path = request.split(['?']).next().unwrap();
        let (head, last) = path.rsplit_once('/').unwrap();
        let last = if last.len() > 20 { "…" } else { last };
        format!("{head}/{last} {status}")
    };
    requests[from..].iter().filter(|line| line.contains("/v2/app/cache/")).map(shape).collect()
}

const STAGES: &str = "FROM REGISTRY/base:1 AS one\nCOPY a /one/a\nWORKDIR /w\n\
                      FROM REGISTRY/base:1 AS two\nCOPY --from=one /one /two\nCOPY b /two/b\n\
                      FROM scratch\nCOPY --from=two /two /three\nCOPY --from=one /one/a /etc/\n";

fn base<R: Endpoint>(bench: &Bench<R>) {
    Image::new().layer("etc/ 0755 0:0\netc/x 0644 0:0 \"x\"\nbig 0644 0:0 random=3000000").push(&bench.registry, "base:1");
    bench.write("a", "A");
    bench.write("b", "B");
}

/// A request for `FROM scratch` and one instruction, explained, with the cache in a directory and no registry.
fn in_a_directory<R>(bench: &Bench<R>, instruction: &str) -> BuildRequest {
    let cache = CacheRequest { explain: true, ..in_place(CachePlace::Layout(bench.directory.path().join("shared"))) };
    let text = format!("FROM scratch\n{instruction}\n");
    BuildRequest {
        dockerfile: builder_core::build::DockerfileSource::Inline { name: "Dockerfile".to_owned(), text },
        cache,
        source_date_epoch: Some(1_600_000_000),
        ..BuildRequest::new(bench.directory.path().join("context"))
    }
}

/// A registry that answers so to some requests.
fn rule(method: &'static str, path: &str, times: usize, status: u16) -> Rule {
    Rule { method, path_contains: path.to_owned(), times, fault: Fault::status(status) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_known_takes_two_round_trips_to_the_cache_and_one_to_push_however_many_steps_and_stages() {
    if !require(&PROGRAMS) {
        return;
    }
    for extra in [0, 30] {
        let bench = Bench::new(Registry::start());
        base(&bench);
        let mut dockerfile = STAGES.to_owned();
        for at in 0..extra {
            writeln!(dockerfile, "COPY a /more/{at}").unwrap();
        }
        let request = bench.request(&dockerfile);
        let first = bench.build(&request).await;
        assert!(!first.executed().is_empty());

        let before = bench.registry.requests().len();
        let again = bench.build(&request).await;
        assert_eq!((again.executed(), again.pulls(), again.digest()), (vec![], 0, first.digest()));
        assert!(again.warnings().is_empty(), "{:?}", again.warnings());
        // One after the other: which shards there are, the shard. Nothing else goes to the cache.
        assert_eq!(
            cache_requests(&bench.registry.requests(), before),
            ["GET /v2/app/cache/tags/list 200", "GET /v2/app/cache/manifests/… 200"]
        );
        // To the destination two more: what its name stands for, and its name. Of the base its tag alone is asked.
        let requests = bench.registry.requests();
        let elsewhere = |line: &&String| !line.contains("/v2/app/cache/") && line.contains("/v2/") && !line.contains("/v2/ ");
        // Whether the config is there is asked beside the manifest, where nothing else has told by then.
        let config = |line: &&String| line.starts_with("HEAD /v2/app/blobs/");
        let elsewhere = requests[before..].iter().filter(elsewhere).filter(|line| !config(line));
        let mut elsewhere: Vec<String> = elsewhere.cloned().collect();
        elsewhere.sort();
        let expected = ["GET /v2/base/manifests/1 200", "HEAD /v2/app/manifests/1 200", "PUT /v2/app/manifests/1 201"];
        assert_eq!(elsewhere, expected);
        let state = bench.path("machine-1");
        assert!(files_below(&state.join("indexes")).is_empty(), "what others say of layers is not kept");
        let store = Store::open(&state).unwrap();
        assert!(again.outcome().layers.iter().all(|layer| !store.has_blob(&layer.blob)), "no layer is on disk");
        let kept: u64 = files_below(&state.join("blobs")).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(kept < 100_000, "nor is a layer of the base, of 3 MB: {kept} bytes are kept");
        assert!(files_below(&state.join("unpacked")).is_empty(), "nothing was unpacked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_label_costs_a_config_and_a_manifest_however_many_layers_there_are() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    let mut dockerfile = STAGES.to_owned();
    for at in 0..30 {
        writeln!(dockerfile, "COPY a /more/{at}").unwrap();
    }
    let mut request = bench.request(&dockerfile);
    let first = bench.build_on("first", &request).await;
    let pushing = |from: usize| -> Vec<String> {
        let requests = bench.registry.requests();
        let pushing = requests[from..].iter().filter(|line| line.contains("/v2/app/") && !line.contains("/v2/app/cache/"));
        let verb = |line: &String| line.split(['?']).next().unwrap().rsplit_once('/').unwrap().0.to_owned();
        pushing.map(verb).collect()
    };
    // With what this machine knows, and with what a cache tells of the first build.
    for machine in ["first", "second"] {
        request.labels.insert("revision".to_owned(), machine.to_owned());
        let before = bench.registry.requests().len();
        let built = bench.build_on(machine, &request).await;
        assert_eq!((built.executed(), built.pulls()), (vec![], 0));
        let requests = pushing(before);
        let expected =
            ["HEAD /v2/app/manifests", "POST /v2/app/blobs/uploads", "PUT /v2/app/blobs/uploads", "PUT /v2/app/manifests"];
        // The cache tells of the first image, which the name does not stand for any more.
        assert_eq!(requests[usize::from(machine == "second")..], expected, "{machine}: {requests:?}");
        assert_eq!(bench.registry.pull("app:1").layers().len(), built.outcome().layers.len());
    }
    // The image that the cache tells of is removed: each layer is looked for once, and the cache learns of the new image.
    registry_client().delete_manifest(&bench.name("app"), first.outcome().digest).await.unwrap();
    for (machine, most) in [("third", 60), ("fourth", 5)] {
        request.labels.insert("revision".to_owned(), machine.to_owned());
        let before = bench.registry.requests().len();
        assert_eq!(bench.build_on(machine, &request).await.executed(), Vec::<String>::new());
        let requests = pushing(before);
        assert!(requests.len() <= most && requests.len() * 2 > most, "{machine}: {requests:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_a_registry_has_lost_is_sent_again() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    let mut request = bench.request(STAGES);
    let first = bench.build_on("first", &request).await;
    // Its manifest is still there.
    let layer = first.outcome().layers[0].blob.digest;
    for machine in ["first", "second"] {
        bench.lose_blob("app", layer).await;
        request.labels.insert("revision".to_owned(), machine.to_owned());
        request.destinations = ["app:1", "app:2", "app:3"].map(|name| bench.name(name)).to_vec();
        let built = bench.build_on(machine, &request).await;
        assert_eq!((built.executed(), built.pulls()), (vec![], 0), "{machine}");
        assert_eq!(bench.registry.pull("app:2").layers().len(), 2, "{machine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_a_registry_has_lost_is_sent_again_also_where_manifests_are_taken_blindly() {
    if !require(&["skopeo"]) {
        return;
    }
    let bench = Bench::new(FaultyRegistry::start());
    base(&bench);
    let request = bench.request("FROM REGISTRY/base:1\nCOPY a /\n");
    let first = bench.build_on("first", &request).await;
    let config = {
        let manifest = bench.registry.manifest("app", "1").unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        manifest["config"]["digest"].as_str().unwrap().to_owned()
    };
    bench.registry.forget_blob("app", &config);
    bench.registry.fail(rule("HEAD", "/v2/app/manifests/", usize::MAX, 404));
    let request = BuildRequest { destinations: ["app:2", "app:3"].map(|name| bench.name(name)).to_vec(), ..request };
    let again = bench.build_on("first", &request).await;
    assert_eq!((again.executed(), again.digest()), (vec![], first.digest()));
    assert!(bench.registry.blob("app", &config).is_some(), "{:#?}", bench.registry.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_layer_a_cache_has_lost_is_done_again() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    let in_registry = bench.request("FROM REGISTRY/base:1\nCOPY a /1/\nCOPY a /2/\nCOPY b /3/\n");
    let in_directory = BuildRequest { cache: in_place(CachePlace::Layout(bench.path("shared"))), ..in_registry.clone() };
    for (number, request) in [in_registry, in_directory].into_iter().enumerate() {
        let first = bench.build(&request).await;
        let lost: Vec<_> = first.outcome().layers[1..3].iter().map(|layer| layer.blob.digest).collect();
        for layer in &lost {
            let file = bench.path("shared/blobs/sha256").join(layer.hex());
            if let Ok(bytes) = fs::read(&file) {
                fs::write(&file, vec![7; bytes.len()]).unwrap();
            } else {
                bench.lose_blob("app/cache", *layer).await;
            }
        }
        // Where the layers are needed. Then the cache has them again.
        for (machine, executed) in [("first", 2), ("second", 0)] {
            let request = BuildRequest {
                destinations: vec![bench.name(&format!("{machine}-{number}:1"))],
                cache: request.cache.clone(),
                ..request.clone()
            };
            let built = bench.build(&request).await;
            assert_eq!((built.steps(StepOutcome::Executed).len(), built.digest()), (executed, first.digest()), "{machine}");
            let warnings = built.warnings();
            assert_eq!(warnings.len(), executed, "{warnings:?}");
            assert!(warnings.iter().all(|warning| warning.ends_with("; its step is done again")), "{warnings:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_source_costs_its_own_step_and_no_layer_of_the_base() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    let request = bench.request("FROM REGISTRY/base:1\nCOPY a /etc/\nCOPY b /etc/\n");
    bench.build(&request).await.outcome();
    bench.write("b", "changed");
    let changed = bench.build(&request).await;
    assert_eq!((changed.executed(), changed.pulls()), (vec!["COPY b /etc/".to_owned()], 0));
    let tree = bench.registry.pull("app:1").tree();
    assert!(tree.contains("etc/a 0644 0:0") && tree.contains("\"changed\""), "{tree}");

    let before = bench.registry.requests().len();
    let again = bench.build(&request).await;
    assert_eq!((again.executed(), again.digest()), (vec![], changed.digest()));
    assert_eq!(cache_requests(&bench.registry.requests(), before).len(), 2, "without a need for any tree there is no pack");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_takes_no_layer_once_it_is_known() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    let base = |uid: u32| {
        let passwd = format!("etc/ 0755 0:0\netc/passwd 0644 0:0 \"app:x:{uid}:8::/:/bin/sh\"");
        Image::new().layer(&passwd).push(&bench.registry, "base:1")
    };
    base(7);
    bench.write("a", "A");
    for dockerfile in [
        "FROM REGISTRY/base:1\nCOPY --chown=root:5 a /\nUSER 9\nWORKDIR /w\n",
        "FROM REGISTRY/base:1\nCOPY --chown=app a /\nUSER app\nWORKDIR /v\n",
    ] {
        let request = bench.request(dockerfile);
        bench.build(&request).await.outcome();
        let before = bench.registry.requests().len();
        assert_eq!(bench.build(&request).await.executed(), Vec::<String>::new());
        let requests = cache_requests(&bench.registry.requests(), before);
        assert_eq!(requests.iter().filter(|line| line.contains("/blobs/")).count(), 0, "{dockerfile}{requests:?}");
    }
    base(17);
    let request = bench.request("FROM REGISTRY/base:1\nCOPY --chown=app a /\nUSER app\nWORKDIR /v\n");
    assert_eq!(bench.build(&request).await.executed().len(), 2, "it means somebody else now");
    let tree = bench.registry.pull("app:1").tree();
    assert!(tree.contains("a 0644 17:8") && tree.contains("v/ 0755 17:8"), "{tree}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_mounted_into_the_cache_and_out_of_it_and_uploaded_once() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    let request = bench
        .request("FROM scratch AS one\nCOPY a /only-here\nFROM REGISTRY/base:1\nCOPY b /\nCOPY --from=one /only-here /moved\n");
    bench.build(&request).await.outcome();
    let uploads = |requests: &[String]| {
        let uploads = requests.iter().filter(|line| line.starts_with("PUT ") && line.contains("/blobs/uploads/"));
        uploads.filter(|line| line.contains("/v2/app/cache/")).count()
    };
    // The layer of the first stage, which is in no image; a pack, the parts, the shard.
    assert_eq!(uploads(&bench.registry.requests()), 4, "{:#?}", bench.registry.requests());

    let other = BuildRequest { destinations: vec![bench.name("elsewhere:1")], ..request };
    let before = bench.registry.requests().len();
    let built = bench.build(&other).await;
    built.outcome();
    assert_eq!((built.executed(), built.pulls()), (vec![], 0));
    let requests = &bench.registry.requests()[before..];
    let put = requests.iter().filter(|line| line.starts_with("PUT /v2/elsewhere/blobs/")).count();
    assert_eq!(put, 1, "the config alone is uploaded: {requests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_in_the_repository_of_the_image_has_the_layers_of_all_stages() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    let dockerfile = "FROM scratch AS one\nCOPY a /only-here\nFROM scratch\nCOPY --from=one /only-here /moved\n";
    let cache = in_place(CachePlace::Registry(bench.name("app:buildcache")));
    let request = BuildRequest { cache, ..bench.request(dockerfile) };
    for executed in [2, 0] {
        let built = bench.build(&request).await;
        assert_eq!((built.executed().len(), built.warnings()), (executed, vec![]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_that_end_at_once_lose_nothing_and_no_tag_is_written_twice() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    let build = |at: usize| {
        bench.write(&format!("own-{at}"), &at.to_string());
        let mut request = bench.request("FROM scratch\n");
        request.dockerfile = builder_core::build::DockerfileSource::Inline {
            name: "Dockerfile".to_owned(),
            text: format!("FROM scratch\nCOPY own-{at} /\n"),
        };
        request.destinations = vec![bench.name(&format!("app-{at}:1"))];
        request
    };
    let requests: Vec<BuildRequest> = (0..8).map(build).collect();
    let built = futures_util::future::join_all(requests.iter().map(|request| bench.build(request))).await;
    assert!(built.iter().all(|built| built.result.is_ok()));
    for request in &requests {
        assert_eq!(bench.build(request).await.executed(), Vec::<String>::new());
    }
    let all = bench.registry.requests();
    let tags: Vec<&String> = all.iter().filter(|line| line.starts_with("PUT /v2/app/cache/manifests/")).collect();
    assert_eq!(tags.iter().collect::<BTreeSet<_>>().len(), tags.len(), "{tags:#?}");
    // One more has merged what the eight left.
    bench.write("own-9", "9");
    bench.build(&build(9)).await.outcome();
    let before = bench.registry.requests().len();
    assert_eq!(bench.build(&requests[0]).await.executed(), Vec::<String>::new());
    let manifests = cache_requests(&bench.registry.requests(), before);
    assert_eq!(manifests.iter().filter(|line| line.contains("/manifests/")).count(), 1, "{manifests:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_neither_lists_tags_nor_deletes_serves_as_well() {
    if !require(&["skopeo"]) {
        return;
    }
    let bench = Bench::new(FaultyRegistry::start());
    base(&bench);
    bench.registry.fail(rule("GET", "/tags/list", usize::MAX, 405));
    let request = bench.request("FROM REGISTRY/base:1\nCOPY a /\n");
    let first = bench.build(&request).await;
    assert!(first.warnings().is_empty(), "{:?}", first.warnings());
    let again = bench.build(&request).await;
    assert_eq!((again.executed(), again.digest()), (vec![], first.digest()));
    bench.write("b", "more");
    let more = bench.request("FROM REGISTRY/base:1\nCOPY a /\nCOPY b /\n");
    assert_eq!(bench.build(&more).await.executed(), ["COPY b /"]);
    assert_eq!(bench.build(&more).await.executed(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_fails_is_not_taken_for_one_that_there_is_not() {
    if !require(&["skopeo"]) {
        return;
    }
    let bench = Bench::new(FaultyRegistry::start());
    base(&bench);
    let request = bench.request("FROM REGISTRY/base:1\nCOPY a /\n");
    bench.build(&request).await.outcome();
    bench.registry.fail(rule("GET", "/tags/list", 1, 409));
    bench.registry.forget_requests();
    let built = bench.build(&request).await;
    assert_eq!(built.warnings().len(), 1, "{:?}", built.warnings());
    assert!(built.warnings()[0].contains("cannot read the cache"), "{:?}", built.warnings());
    let requests = bench.registry.requests();
    assert!(!requests.iter().any(|line| line.starts_with("PUT /v2/app/cache/")), "{requests:#?}");
    assert_eq!(bench.build(&request).await.executed(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_replaces_while_it_is_read_is_looked_for_again() {
    if !require(&["skopeo"]) {
        return;
    }
    let bench = Bench::new(FaultyRegistry::start());
    base(&bench);
    let request = bench.request("FROM REGISTRY/base:1\nCOPY a /\n");
    bench.build(&request).await.outcome();
    // Listed, and gone when it is asked for.
    bench.registry.fail(rule("GET", "/v2/app/cache/manifests/", 1, 404));
    let built = bench.build(&request).await;
    assert_eq!((built.executed(), built.warnings()), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_cannot_be_written_or_read_is_said_once_and_fails_no_build() {
    if !require(&["skopeo"]) {
        return;
    }
    let bench = Bench::new(FaultyRegistry::start());
    base(&bench);
    // A registry that wants repositories to be created first.
    bench.registry.fail(rule("POST", "/v2/app/cache/", usize::MAX, 404));
    let request = bench.request("FROM scratch\nCOPY a /\nCOPY b /\n");
    let built = bench.build(&request).await;
    built.outcome();
    assert_eq!(built.warnings().len(), 1, "{:?}", built.warnings());
    assert!(built.warnings()[0].contains("cannot write the cache"), "{:?}", built.warnings());
    assert!(built.warnings()[0].contains("create app/cache"), "{:?}", built.warnings());

    bench.registry.fail(rule("GET", "/v2/app/cache/", usize::MAX, 403));
    let reading = BuildRequest { cache: CacheRequest { to: vec![], ..request.cache.clone() }, ..request };
    let built = bench.build(&reading).await;
    built.outcome();
    assert_eq!(built.warnings().len(), 1, "{:?}", built.warnings());
    assert!(built.warnings()[0].contains("cannot read the cache"), "{:?}", built.warnings());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_spoilt_is_a_miss() {
    if !require(&["skopeo"]) {
        return;
    }
    let bench = Bench::new(FaultyRegistry::start());
    base(&bench);
    let first = bench.build(&bench.request(STAGES)).await;
    // The pack: bytes that are not those of its digest.
    let blobs = |bench: &Bench<FaultyRegistry>| {
        let gets: Vec<String> = bench.registry.requests();
        gets.iter().filter(|line| line.starts_with("GET /v2/app/cache/blobs/")).cloned().collect::<Vec<_>>()
    };
    let reading = |request: BuildRequest| BuildRequest { cache: CacheRequest { to: vec![], ..request.cache.clone() }, ..request };
    bench.registry.forget_requests();
    let changed = reading(bench.request(&STAGES.replace("/two/b", "/two/c")));
    let second = bench.build(&changed).await;
    assert_eq!(second.executed().len(), 3, "{:#?}", bench.registry.requests());
    let pack = blobs(&bench)[0].split('/').next_back().unwrap().split(' ').next().unwrap().to_owned();
    bench.registry.put_blob("app/cache", &pack, b"(garbage)".to_vec());
    let spoilt = bench.build(&changed).await;
    assert_eq!((spoilt.executed(), spoilt.digest()), (second.executed(), second.digest()), "the layers are read instead");
    assert!(spoilt.pulls() > second.pulls());
    // The shard: no manifest of ours.
    let tags: Vec<String> = bench.registry.requests();
    let tag = tags.iter().find_map(|line| line.strip_prefix("GET /v2/app/cache/manifests/")?.strip_suffix(" 200")).unwrap();
    let oci = "application/vnd.oci.image.manifest.v1+json";
    for manifest in ["{", "{}", r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"y","size":-1},"layers":[]}"#] {
        bench.registry.put_manifest("app/cache", tag, oci, manifest.into());
        assert_eq!(bench.build(&reading(bench.request(STAGES))).await.digest(), first.digest(), "{manifest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_shared_as_a_registry_is() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    let request = BuildRequest { cache: in_place(CachePlace::Layout(bench.path("shared"))), ..bench.request(STAGES) };
    let first = bench.build(&request).await;
    let again = bench.build(&request).await;
    assert_eq!((again.executed(), again.digest()), (vec![], first.digest()));
    assert!(again.warnings().is_empty(), "{:?}", again.warnings());
    let index: serde_json::Value = serde_json::from_slice(&fs::read(bench.path("shared/index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    // To an image that no registry has: the layers come out of the directory.
    let layout = builder_core::build::Export::OciLayout(bench.path("image"));
    let exported = BuildRequest { destinations: vec![], exports: vec![layout], ..request };
    assert_eq!(bench.build(&exported).await.digest(), first.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_damaged_fails_no_build_and_is_a_cache_again() {
    let bench = Bench::new(FaultyRegistry::start());
    bench.write("a", "A");
    let request = in_a_directory(&bench, "COPY a /");
    let first = bench.build(&request).await;
    let layer = first.outcome().layers[0].blob.digest.hex();
    for damage in ["index.json", &format!("blobs/sha256/{layer}")] {
        // As a loss of power leaves files.
        fs::write(bench.path("shared").join(damage), "").unwrap();
        let healing = bench.build(&request).await;
        assert_eq!((healing.executed(), healing.digest()), (vec!["COPY a /".to_owned()], first.digest()), "{damage}");
        let again = bench.build(&request).await;
        assert_eq!((again.executed(), again.digest()), (vec![], first.digest()), "{damage}");
        assert!(healing.warnings().is_empty() && again.warnings().is_empty(), "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_builds_write_one_directory_at_once() {
    let bench = Bench::new(FaultyRegistry::start());
    bench.write("a", "A");
    let request = |at: usize| BuildRequest {
        dockerfile: builder_core::build::DockerfileSource::Inline {
            name: "Dockerfile".to_owned(),
            text: format!("FROM scratch\nCOPY a /{at}\n"),
        },
        cache: in_place(CachePlace::Layout(bench.path("shared"))),
        ..BuildRequest::new(bench.path("context"))
    };
    let requests: Vec<BuildRequest> = (0..6).map(request).collect();
    let built = futures_util::future::join_all(requests.iter().map(|request| bench.build(request))).await;
    assert!(built.iter().all(|built| built.warnings().is_empty() && built.executed().len() == 1));
    for request in &requests {
        assert_eq!(bench.build(request).await.executed(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_cache_of_its_own_layers() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    let inline = CachePlace::Inline(Some(bench.name("app:1")));
    let to = vec![CacheTarget { place: CachePlace::Inline(None), layers: CacheLayers::Min }];
    let cache = CacheRequest { from: vec![inline], to, ..CacheRequest::default() };
    let dockerfile = "FROM REGISTRY/base:1\nCOPY a /etc/\nCOPY b /\n";
    let request = BuildRequest { cache, ..bench.request(dockerfile) };
    let first = bench.build(&request).await;
    assert!(first.warnings().is_empty(), "{:?}", first.warnings());
    let again = bench.build(&request).await;
    assert_eq!((again.executed(), again.pulls(), again.digest()), (vec![], 0, first.digest()));
    bench.write("b", "changed");
    assert_eq!(bench.build(&request).await.executed(), ["COPY b /"]);

    // An image that starts from it says nothing of how its base was made.
    let above = bench.request("FROM REGISTRY/app:1\nLABEL x=y\n");
    let above = BuildRequest { destinations: vec![bench.name("above:1")], cache: CacheRequest::default(), ..above };
    bench.build(&above).await.outcome();
    assert!(bench.registry.config("app:1").to_string().contains("io.cofferdam.cache"));
    assert!(!bench.registry.config("above:1").to_string().contains("io.cofferdam.cache"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_and_for_how_long_can_be_chosen() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    let request =
        bench.request("FROM REGISTRY/base:1 AS one\nCOPY a /\nWORKDIR /w\nFROM scratch\nCOPY --from=one /a /\nWORKDIR /x\n");
    let with = |change: &dyn Fn(&mut CacheRequest)| {
        let mut cache = request.cache.clone();
        change(&mut cache);
        BuildRequest { cache, ..request.clone() }
    };
    // A cache that is only read has nothing.
    for _ in 0..2 {
        let read_only = with(&|cache| cache.to.clear());
        assert_eq!(bench.build(&read_only).await.executed().len(), 4);
    }
    assert!(!bench.registry.requests().iter().any(|line| line.starts_with("PUT /v2/app/cache")));
    let no_copies = with(&|cache| cache.copy_layers = false);
    assert_eq!(bench.build(&no_copies).await.executed().len(), 4);
    assert_eq!(bench.build(&no_copies).await.executed(), ["COPY --from=one /a /", "COPY a /"]);
    let no_runs = with(&|cache| cache.run_layers = false);
    assert_eq!(bench.build(&no_runs).await.executed().len(), 4);
    assert_eq!(bench.build(&no_runs).await.executed(), ["WORKDIR /w", "WORKDIR /x"]);
    assert_eq!(bench.build(&request).await.executed(), Vec::<String>::new(), "both together");

    // Nothing is looked up, and all of it is kept.
    let anew = BuildRequest { use_cache: CacheUse::WriteOnly, ..request.clone() };
    assert_eq!(bench.build(&anew).await.executed().len(), 4);
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let short = with(&|cache| cache.ttl_seconds = Some(1));
    assert_eq!(bench.build(&short).await.executed().len(), 4);
    assert_eq!(bench.build(&request).await.executed(), Vec::<String>::new());

    // What is too old and made again is as new as what it comes from, also where the same came out.
    tokio::time::sleep(std::time::Duration::from_millis(6100)).await;
    let short = with(&|cache| cache.ttl_seconds = Some(5));
    assert_eq!(bench.build(&short).await.executed().len(), 4);
    assert_eq!(bench.build(&short).await.executed(), Vec::<String>::new());

    let elsewhere = bench.name("min");
    let min = with(&|cache| {
        let place = CachePlace::Registry(elsewhere.clone());
        cache.from = vec![place.clone()];
        cache.to = vec![CacheTarget { place, layers: CacheLayers::Min }];
    });
    bench.build(&min).await.outcome();
    assert_eq!(bench.build(&min).await.executed(), ["COPY a /", "WORKDIR /w"]);
    // Several are looked into, in their order.
    let both = with(&|cache| {
        cache.from = vec![CachePlace::Registry(bench.name("nothing")), CachePlace::Registry(bench.name("app/cache"))];
    });
    assert_eq!(bench.build(&both).await.executed(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_in_one_repository_are_apart_by_their_tags() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    let request = |tag: &str| {
        let place = CachePlace::Registry(bench.name(&format!("app:{tag}")));
        BuildRequest { cache: in_place(place), ..bench.request("FROM scratch\nCOPY a /\n") }
    };
    bench.build(&request("buildcache")).await.outcome();
    assert_eq!(bench.build(&request("buildcache-arm")).await.executed(), ["COPY a /"]);
    assert_eq!(bench.build(&request("buildcache")).await.executed(), Vec::<String>::new());
    assert!(!bench.registry.requests().iter().any(|line| line.starts_with("DELETE") && !line.ends_with("202")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_is_explained_by_what_has_changed() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    base(&bench);
    bench.write("d/one", "1");
    bench.write("d/two", "2");
    let dockerfile = "FROM REGISTRY/base:1\nARG SECRET\nCOPY d /d\nCOPY b /\nWORKDIR /w\n";
    let mut request = bench.request(dockerfile);
    request.cache.explain = true;
    let unknown = vec!["no earlier build of this image is known".to_owned()];
    assert_eq!(bench.build(&request).await.explained()[0], (3, unknown));
    bench.write("d/two", "changed");
    bench.write("d/three", "new");
    let below = "a step before it has changed".to_owned();
    let expected = vec![
        (3, vec!["file /d/three is new".to_owned(), "file /d/two has changed".to_owned()]),
        (4, vec![below.clone()]),
        (5, vec![below.clone()]),
    ];
    // From the cache, on a machine that knows nothing.
    assert_eq!(bench.build(&request).await.explained(), expected);
    Image::new().layer("etc/ 0755 0:0\n").push(&bench.registry, "base:1");
    let base = vec!["its base image has changed".to_owned()];
    assert_eq!(bench.build(&request).await.explained(), [(3, base.clone()), (4, base.clone()), (5, base)]);
    let mut request = bench.request(&dockerfile.replace("COPY b /", "COPY b /moved"));
    request.cache.explain = true;
    let reasons = vec!["the instruction has changed".to_owned()];
    assert_eq!(bench.build(&request).await.explained()[0], (4, reasons));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_however_many_files_the_one_that_has_changed_is_named() {
    let bench = Bench::new(FaultyRegistry::start());
    for at in 0..6000 {
        bench.write(&format!("d/{:02}/file-{at:04}", at / 100), "x");
    }
    let request = in_a_directory(&bench, "COPY d /d");
    bench.build_on("one", &request).await.outcome();
    bench.write("d/30/file-3000", "changed");
    bench.write("d/30/new", "x");
    fs::remove_file(bench.path("context/d/59/file-5999")).unwrap();
    let expected = ["file /d/30/file-3000 has changed", "file /d/30/new is new", "file /d/59/file-5999 is gone"];
    // By the record of the machine, and by that of the cache.
    for machine in ["one", "another"] {
        let reading = BuildRequest { cache: CacheRequest { to: vec![], ..request.cache.clone() }, ..request.clone() };
        assert_eq!(bench.build_on(machine, &reading).await.explained(), [(2, expected.map(str::to_owned).to_vec())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_build_is_the_newest_wherever_it_was() {
    // What this machine had built itself was once compared with, however old it was.
    let bench = Bench::new(FaultyRegistry::start());
    let request = in_a_directory(&bench, "COPY a b /");
    for (machine, a, b) in [("one", "1", "1"), ("two", "2", "1")] {
        bench.write("a", a);
        bench.write("b", b);
        bench.build_on(machine, &request).await.outcome();
    }
    let age = |machine: &str, seconds: u64| {
        let record = files_below(&bench.path(machine).join("parts")).pop().unwrap();
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
        fs::File::options().write(true).open(record).unwrap().set_modified(time).unwrap();
    };
    let reading = BuildRequest { cache: CacheRequest { to: vec![], ..request.cache.clone() }, ..request.clone() };
    bench.write("b", "2");
    age("one", 60);
    assert_eq!(bench.build_on("one", &reading).await.explained(), [(2, vec!["file /b has changed".to_owned()])]);
    // The shared cache has not heard of this one.
    bench.write("a", "3");
    age("one", 0);
    assert_eq!(bench.build_on("one", &reading).await.explained(), [(2, vec!["file /a has changed".to_owned()])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_depends_on_nothing_below_it_does_not_hide_what_is_below_it() {
    if !require(&PROGRAMS) {
        return;
    }
    // The key of COPY --link once stood for all that was below it: a step after it on another base hit.
    let bench = Bench::new(Registry::start());
    bench.write("a", "A");
    for (base, mode) in [("one", "0755"), ("two", "0700")] {
        Image::new().layer(&format!("d/ {mode} 0:0\n")).push(&bench.registry, &format!("{base}:1"));
    }
    let build = async |base: &str| {
        let request = bench.request(&format!("FROM REGISTRY/{base}:1\nCOPY --link a /x/\nCOPY a /d/\n"));
        bench.build(&request).await.outcome();
        bench.registry.pull("app:1").tree()
    };
    assert!(build("one").await.contains("d/ 0755"));
    let second = build("two").await;
    assert!(second.contains("d/ 0700"), "{second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_known_run_needs_no_layer_and_the_first_unknown_one_gets_all_of_them() {
    if !require(&["docker-registry", "skopeo", "busybox"]) || !require_root() {
        return;
    }
    let bench = Bench::new(Registry::start());
    Image::new().busybox_layer().push(&bench.registry, "base:1");
    bench.write("a", "A");
    let dockerfile = "FROM REGISTRY/base:1 AS one\nCOPY a /a\nRUN cat /a /a > /aa\nRUN cat /aa /aa > /aaaa\n\
                      FROM REGISTRY/base:1\nRUN echo first > /first\nCOPY --from=one /aaaa /\nRUN cat /first /aaaa > /all\n";
    let request = bench.request(dockerfile);
    let first = bench.build(&request).await;
    assert_eq!(first.executed().len(), 6);
    let before = bench.registry.requests().len();
    let again = bench.build(&request).await;
    assert_eq!((again.executed(), again.pulls(), again.digest()), (vec![], 0, first.digest()));
    assert_eq!(cache_requests(&bench.registry.requests(), before).len(), 2);

    let changed = bench.request(&dockerfile.replace("> /all", "> /everything"));
    let changed = bench.build(&changed).await;
    assert_eq!(changed.executed(), ["RUN cat /first /aaaa > /everything"]);
    assert_eq!(changed.pulls(), 3, "the base, and the layers below the step");
    assert_eq!(bench.registry.pull("app:1").layers().last().unwrap(), "everything 0644 0:0 \"first\\nAAAA\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_mount_of_a_stage_takes_no_layer_once_it_is_known() {
    if !require(&["docker-registry", "skopeo", "busybox"]) || !require_root() {
        return;
    }
    let bench = Bench::new(Registry::start());
    Image::new().busybox_layer().push(&bench.registry, "base:1");
    bench.write("a", "A");
    let dockerfile = "FROM scratch AS one\nCOPY a /d/a\nFROM REGISTRY/base:1\n\
                      RUN --mount=from=one,source=/d,target=/m --mount=type=cache,from=one,source=/d,target=/c cat /m/a /c/a > /all\n";
    let request = bench.request(dockerfile);
    let first = bench.build(&request).await;
    let before = bench.registry.requests().len();
    let again = bench.build(&request).await;
    assert_eq!((again.executed(), again.pulls(), again.digest()), (vec![], 0, first.digest()));
    assert_eq!(cache_requests(&bench.registry.requests(), before).len(), 2);

    // Another command on what is known, and other files.
    let other = bench.request(&dockerfile.replace("> /all", "> /other"));
    assert_eq!(bench.build(&other).await.executed().len(), 1);
    assert_eq!(bench.registry.pull("app:1").layers().last().unwrap(), "other 0644 0:0 \"AA\"\n");
    bench.write("a", "B");
    assert_eq!(bench.build(&bench.request(dockerfile)).await.executed().len(), 2);
    assert_eq!(bench.registry.pull("app:1").layers().last().unwrap(), "all 0644 0:0 \"BB\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_under_another_umask_is_the_same_context() {
    if !require(&PROGRAMS) {
        return;
    }
    let bench = Bench::new(Registry::start());
    bench.write("d/plain", "1");
    bench.write("d/program", "2");
    bench.write("shared/x", "3");
    let request = bench.request("FROM scratch\nCOPY d /d\nADD d/plain shared /e/\n");
    let checkout = |umask: u32| {
        for (name, mode) in [("d/plain", 0o666), ("d/program", 0o777), ("d", 0o777), ("shared/x", 0o666)] {
            fs::set_permissions(bench.path("context").join(name), fs::Permissions::from_mode(mode & !umask)).unwrap();
        }
        // Meant, and kept.
        fs::set_permissions(bench.path("context/shared"), fs::Permissions::from_mode(0o1777)).unwrap();
    };
    checkout(0o022);
    let first = bench.build(&request).await;
    let tree = bench.registry.pull("app:1").tree();
    for umask in [0o002, 0o000] {
        checkout(umask);
        let again = bench.build(&request).await;
        assert_eq!((again.executed(), again.digest()), (vec![], first.digest()), "{umask:o}");
        // The same without anything that is known.
        let anew = BuildRequest { use_cache: CacheUse::WriteOnly, ..request.clone() };
        assert_eq!(bench.build(&anew).await.digest(), first.digest(), "{umask:o}");
    }
    assert!(tree.contains("d/plain 0644 0:0") && tree.contains("d/program 0755 0:0"), "{tree}");
    // What a stricter one takes away may be meant: the image differs, and so does the key.
    checkout(0o077);
    assert_eq!(bench.build(&request).await.executed().len(), 2);
    assert!(bench.registry.pull("app:1").tree().contains("d/plain 0600 0:0"));
}
