//! Whole builds through the library, against a real registry; the results are read by tools that are not ours.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::build::{
    Backends, BuildError, BuildRequest, ConfigPlatform, DockerfileSource, ErrorKind, Event, Export, Outcome, StepOutcome, build,
    read_definition,
};
use builder_core::lint::Warning;
use builder_core::oci::Platform;
use builder_core::{http, registry, store::Store};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use testkit::{Image, Registry, require, require_root};

/// A context and a state directory, and builds with them.
struct Bench {
    directory: tempfile::TempDir,
    registry: Registry,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("context")).unwrap();
        Self { directory, registry: Registry::start() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path("context").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A request for `dockerfile`, in which `REGISTRY` stands for the address of the registry, pushed as `app:1`.
    fn request(&self, dockerfile: &str) -> BuildRequest {
        self.write("Dockerfile", &dockerfile.replace("REGISTRY", self.registry.address()));
        let destination = format!("{}/app:1", self.registry.address()).parse().unwrap();
        BuildRequest { destinations: vec![destination], ..BuildRequest::new(self.path("context")) }
    }

    fn backends(&self) -> Backends {
        let store = Store::open(self.path("state")).unwrap();
        let client = http::Client::new(http::Options::default()).unwrap();
        let registry = registry::Client::new(client, registry::Options::default(), Arc::new(registry::Anonymous)).unwrap();
        Backends::new(store, registry)
    }

    async fn build(&self, request: BuildRequest) -> (Result<Outcome, BuildError>, Vec<Event>) {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
        let listening = tokio::spawn(async move {
            let mut events = Vec::new();
            while let Some(event) = receiver.recv().await {
                events.push(event);
            }
            events
        });
        let result = build(request, self.backends(), sender).await;
        (result, listening.await.unwrap())
    }
}

fn outcomes(events: &[Event]) -> Vec<StepOutcome> {
    events
        .iter()
        .filter_map(|event| if let Event::StepFinished { outcome, .. } = event { Some(*outcome) } else { None })
        .collect()
}

fn output(events: &[Event]) -> String {
    let bytes =
        events.iter().filter_map(|event| if let Event::StepOutput { bytes, .. } = event { Some(&bytes[..]) } else { None });
    String::from_utf8_lossy(&bytes.flatten().copied().collect::<Vec<u8>>()).into_owned()
}

/// The error with its causes, as a user reads it.
fn chain(error: &BuildError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(directory)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_without_run_neither_unpacks_nor_keeps_its_base() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let bench = Bench::new();
    Image::new()
        .layer("etc/ 0755 0:0\netc/passwd 0644 0:0 \"app:x:7:8::/:/bin/sh\\n\"\nbig 0644 0:0 random=3000000")
        .push(&bench.registry, "base:1");
    bench.write("src/a", "A");
    let request = bench.request("FROM REGISTRY/base:1\nWORKDIR /srv\nCOPY --chown=app src ./\nCMD [\"/srv/a\"]\n");

    let (result, events) = bench.build(request.clone()).await;
    let outcome = result.unwrap();
    assert_eq!(outcomes(&events), [StepOutcome::Metadata, StepOutcome::Executed, StepOutcome::Executed, StepOutcome::Metadata]);
    let pulled = bench.registry.pull("app:1");
    assert_eq!(pulled.digest(), outcome.digest.to_string());
    assert!(pulled.tree().contains("srv/ 0755 0:0\nsrv/a 0644 7:8"), "{}", pulled.tree());
    assert_eq!(pulled.config()["config"]["Cmd"], serde_json::json!(["/srv/a"]));
    assert_eq!((outcome.pushed[0].layers_reused, outcome.pushed[0].layers_new), (1, 2));

    let kept: u64 = files_below(&bench.path("state")).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(kept < 100_000, "the base of 3 MB was written to disk: {kept} bytes are kept");
    assert!(bench.registry.requests().iter().any(|request| request.contains("mount=")), "the base was mounted, not uploaded");

    let (again, events) = bench.build(request).await;
    assert_eq!(again.unwrap().digest, outcome.digest);
    assert_eq!(outcomes(&events), [StepOutcome::Metadata, StepOutcome::Cached, StepOutcome::Cached, StepOutcome::Metadata]);
    assert!(!events.iter().any(|event| matches!(event, Event::PullStarted { .. })), "a known base was downloaded again");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_built_image_runs_and_the_second_build_executes_nothing() {
    if !require(&["docker-registry", "skopeo", "umoci", "runc", "busybox"]) || !require_root() {
        return;
    }
    let bench = Bench::new();
    Image::new().busybox_layer().push(&bench.registry, "base:1");
    bench.write("greeting", "hello\n");
    let request = bench.request(
        "FROM REGISTRY/base:1 AS build\nCOPY greeting /src/\nRUN tr a-z A-Z < /src/greeting > /out && echo made\n\
         FROM REGISTRY/base:1\nCOPY --from=build /out /message\nRUN chown 5:6 /message\nCMD [\"cat\", \"/message\"]\n",
    );

    let (result, events) = bench.build(request.clone()).await;
    let outcome = result.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(output(&events).contains("made\n"));
    let bundle = bench.registry.pull("app:1").unpack();
    assert_eq!(bundle.run(&["cat", "/message"]).stdout, "HELLO\n");
    assert!(bench.registry.pull("app:1").tree().contains("message 0644 5:6"), "{}", bench.registry.pull("app:1").tree());

    let (again, events) = bench.build(request).await;
    assert_eq!(again.unwrap().digest, outcome.digest);
    assert!(!outcomes(&events).contains(&StepOutcome::Executed), "{:?}", outcomes(&events));
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_failed_command_gives_its_exit_code_and_pushes_nothing() {
    if !require(&["docker-registry", "skopeo", "busybox"]) || !require_root() {
        return;
    }
    let bench = Bench::new();
    Image::new().busybox_layer().push(&bench.registry, "base:1");
    let request = bench.request("FROM REGISTRY/base:1\nRUN echo fine\nRUN echo doing && exit 3\n");
    let (result, events) = bench.build(request).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Step { exit_code: 3 });
    assert_eq!(error.place.as_ref().map(|place| place.position.first_line), Some(3));
    assert!(output(&events).contains("doing"));
    assert!(!bench.registry.requests().iter().any(|request| request.starts_with("PUT /v2/app/manifests")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_base_and_a_missing_file_are_told_with_their_line() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let bench = Bench::new();
    for (dockerfile, kind, line, word) in [
        ("FROM REGISTRY/nothere:1\n", ErrorKind::Base, 1, "nothere:1: not found"),
        ("FROM scratch\nCOPY missing.txt /\n", ErrorKind::Context, 2, "missing.txt"),
        ("FROM scratch\nCOPPY a /\n", ErrorKind::Dockerfile, 2, "COPPY"),
    ] {
        let error = bench.build(bench.request(dockerfile)).await.0.unwrap_err();
        assert_eq!(error.kind, kind, "{dockerfile}: {}", chain(&error));
        assert_eq!(error.place.as_ref().map(|place| place.position.first_line), Some(line), "{dockerfile}");
        assert!(chain(&error).contains(word), "{dockerfile}: {}", chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_and_archives_are_read_by_skopeo() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let bench = Bench::new();
    Image::new().layer("base 0644 0:0 \"b\"").push(&bench.registry, "base:1");
    bench.write("a", "A");
    let exports = vec![Export::OciLayout(bench.path("layout")), Export::DockerTar(bench.path("image.tar"))];
    let request = BuildRequest { exports, ..bench.request("FROM REGISTRY/base:1\nCOPY a /\n") };
    let outcome = bench.build(request).await.0.unwrap();
    for place in
        [format!("oci:{}:1", bench.path("layout").display()), format!("docker-archive:{}", bench.path("image.tar").display())]
    {
        let inspected = testkit::run("skopeo", ["inspect", "--config", &place]);
        assert_eq!(inspected.code, Some(0), "{place}: {}", inspected.stderr);
        let config: serde_json::Value = serde_json::from_str(&inspected.stdout).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), outcome.layers.len(), "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_dropping_the_future_leaves_no_process_no_mount_and_no_directory() {
    if !require(&["docker-registry", "skopeo", "busybox"]) || !require_root() {
        return;
    }
    let bench = Bench::new();
    Image::new().busybox_layer().push(&bench.registry, "base:1");
    let request = bench.request("FROM REGISTRY/base:1\nRUN (sleep 271828 &) ; echo started ; sleep 271828\n");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
    let mut building = Box::pin(build(request, bench.backends(), sender));
    let deadline = Instant::now() + Duration::from_mins(2);
    loop {
        tokio::select! {
            result = &mut building => panic!("the build ended: {:?}", result.map(|outcome| outcome.digest)),
            event = receiver.recv() => {
                if matches!(&event, Some(Event::StepOutput { bytes, .. }) if bytes.starts_with(b"started")) {
                    break;
                }
            }
        }
        assert!(Instant::now() < deadline, "the step never started");
    }
    assert!(!processes_with("271828").is_empty(), "the step is running");

    drop(building);

    assert_eq!(processes_with("271828"), [0; 0], "a process is left");
    let state = bench.path("state").display().to_string();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&state), "a mount is left");
    drop(receiver);
    let left: Vec<_> = fs::read_dir(bench.path("state/builds")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "directories are left: {left:?}");
}

#[tokio::test]
async fn who_can_mend_a_missing_file_is_told_apart() {
    if !require(&["docker-registry"]) {
        return;
    }
    let bench = Bench::new();
    let built = || BuildRequest { push: false, ..bench.request("FROM scratch\nCOPY Dockerfile /\n") };
    let no_file = BuildRequest { dockerfile: DockerfileSource::Path(bench.path("context/other")), ..built() };
    let no_context = BuildRequest { push: false, ..BuildRequest::new(bench.path("absent")) };
    let no_place = BuildRequest { exports: vec![Export::DockerTar("/dev/null/image.tar".into())], ..built() };
    let wrong = [(no_file, ErrorKind::Dockerfile), (no_context, ErrorKind::Context), (no_place, ErrorKind::Export)];
    for (request, kind) in wrong {
        let error = bench.build(request).await.0.unwrap_err();
        assert_eq!(error.kind, kind, "{}", chain(&error));
    }
}

#[tokio::test]
async fn a_base_with_triggers_ends_the_step_that_it_began() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let bench = Bench::new();
    bench.build(bench.request("FROM scratch\nONBUILD COPY Dockerfile /\n")).await.0.unwrap();
    let (result, events) = bench.build(bench.request("FROM REGISTRY/app:1\nCOPY Dockerfile /b\n")).await;
    result.unwrap();
    let started = events.iter().filter_map(|event| if let Event::StepStarted { step, .. } = event { Some(step) } else { None });
    let finished = events.iter().filter_map(|event| if let Event::StepFinished { step, .. } = event { Some(step) } else { None });
    assert_eq!(started.collect::<Vec<_>>(), finished.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_base_of_another_platform_is_not_taken_in_silence() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let bench = Bench::new();
    Image::new().layer("a 0644 0:0 \"a\"").push(&bench.registry, "base:1");
    for (platform, warned) in [("linux/amd64", false), ("linux/arm64", true)] {
        let request = BuildRequest { platform: platform.parse().unwrap(), ..bench.request("FROM REGISTRY/base:1\n") };
        let (result, events) = bench.build(request).await;
        result.unwrap();
        let warning = |event: &Event| matches!(event, Event::Warning { message, .. } if message.contains("linux/amd64 only"));
        assert_eq!(events.iter().any(warning), warned, "{platform}");
    }
}

#[tokio::test]
async fn an_image_is_for_the_platform_that_was_asked_for() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let bench = Bench::new();
    Image::new().layer("a 0644 0:0 \"a\"").push(&bench.registry, "base:1");
    for (platform, config_platform, from, expected) in [
        ("linux/arm64", ConfigPlatform::Base, "REGISTRY/base:1", "linux/amd64"),
        ("linux/arm64", ConfigPlatform::Request, "REGISTRY/base:1", "linux/arm64"),
        ("linux/arm64", ConfigPlatform::Request, "--platform=$BUILDPLATFORM REGISTRY/base:1", "linux/arm64"),
        ("linux/arm/v7", ConfigPlatform::Request, "REGISTRY/base:1", "linux/arm/v7"),
        ("linux/amd64", ConfigPlatform::Request, "--platform=linux/arm/v7 REGISTRY/base:1", "linux/amd64"),
    ] {
        let request = bench.request(&format!("FROM {from}\nCOPY Dockerfile /\n"));
        let request = BuildRequest { platform: platform.parse().unwrap(), config_platform, ..request };
        let config = bench.build(request).await.0.unwrap().config;
        let built = Platform { os: config.os, architecture: config.architecture, variant: config.variant };
        assert_eq!(built.to_string(), expected, "FROM {from} for {platform}");
    }
}

/// Builds until an event that `is_there` accepts, then gives the build up; says how long that took.
async fn dropped_after(bench: &Bench, request: BuildRequest, is_there: impl Fn(&Event) -> bool) -> Duration {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
    let mut building = Box::pin(build(request, bench.backends(), sender));
    loop {
        tokio::select! {
            result = &mut building => panic!("the build ended: {:?}", result.map(|outcome| outcome.digest)),
            event = receiver.recv() => if event.as_ref().is_some_and(&is_there) { break },
        }
    }
    // Whatever comes next has begun.
    let _ = tokio::time::timeout(Duration::from_millis(300), &mut building).await;
    let started = Instant::now();
    drop(building);
    let took = started.elapsed();
    drop(receiver);
    assert_eq!(fs::read_dir(bench.path("state/builds")).unwrap().count(), 0, "directories are left");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_file_does_not_hold_up_a_build_that_is_given_up() {
    if !require(&["docker-registry"]) {
        return;
    }
    let bench = Bench::new();
    let request = BuildRequest { push: false, ..bench.request("FROM scratch\nCOPY huge /\n") };
    fs::File::create(bench.path("context/huge")).unwrap().set_len(1 << 40).unwrap();
    let copying = |event: &Event| matches!(event, Event::StepStarted { step, .. } if step.number == 2);
    let took = dropped_after(&bench, request, copying).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_says_nothing_does_not_hold_up_a_build_that_is_given_up() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let bench = Bench::new();
    Image::new().layer("a 0644 0:0 \"a\"").push(&bench.registry, "base:1");
    let silent = silent_after_the_first_bytes(bench.registry.address().to_owned());
    let request = BuildRequest { push: false, ..bench.request(&format!("FROM {silent}/base:1\nCOPY Dockerfile /\n")) };
    let pulling = |event: &Event| matches!(event, Event::PullStarted { .. });
    let took = dropped_after(&bench, request, pulling).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// Passes requests on to `registry`, but gives only the first bytes of a layer and keeps the connection open.
fn silent_after_the_first_bytes(registry: String) -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move |mut client: std::net::TcpStream| {
        let mut request = vec![0; 16 << 10];
        let length = client.read(&mut request).unwrap_or(0);
        let text = String::from_utf8_lossy(&request[..length]).into_owned();
        if !text.starts_with("GET ") && !text.starts_with("HEAD ") {
            return;
        }
        let mut server = std::net::TcpStream::connect(&registry).unwrap();
        let closing = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        server.write_all(closing.as_bytes()).unwrap();
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).unwrap();
        if text.contains("/blobs/") && String::from_utf8_lossy(&answer).contains("\u{1f}\u{fffd}") {
            let _ = client.write_all(&answer[..answer.len() - 20]);
            std::thread::sleep(Duration::from_mins(1));
        }
        let _ = client.write_all(&answer);
    };
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(client.unwrap()));
        }
    });
    address
}

fn processes_with(word: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    processes
        .filter(|process| {
            let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            *process != std::process::id() && String::from_utf8_lossy(&command).contains(word)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_and_a_build_know_the_base_and_the_ignore_file() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let bench = Bench::new();
    let config = serde_json::json!({"Env": ["PATH=/bin", "HOME=/root"]});
    Image::new().layer("etc/ 0755 0:0").platform("linux/arm64").config(config).push(&bench.registry, "base:1");
    bench.write(".dockerignore", "secret\n");
    bench.write("a", "A");
    let rules = |warnings: &[Warning]| warnings.iter().map(|warning| warning.rule.name()).collect::<Vec<_>>();
    let text = "FROM REGISTRY/base:1\nWORKDIR $HOME\nCOPY a $HOMF/a\nFROM REGISTRY/none:1\nCOPY secret $WHO_KNOWS /\n\
        FROM REGISTRY/base:1\nCOPY a /\nENV X=$Y\n";

    let definition = read_definition(bench.request(text)).await.unwrap();
    let checked = definition.check(&bench.backends().registry).await.unwrap();
    assert_eq!(
        rules(&checked.report.warnings),
        ["InvalidBaseImagePlatform", "UndefinedVar", "CopyIgnoredFile", "InvalidBaseImagePlatform", "UndefinedVar"]
    );
    assert!(checked.notes.len() == 1 && checked.notes[0].contains("none:1"), "{:?}", checked.notes);

    let told = |events: Vec<Event>| {
        let warning = |event| match event {
            Event::Warning { message, place: Some(place) } => Some(format!("{} {message}", place.line())),
            _ => None,
        };
        events.into_iter().filter_map(warning).collect::<Vec<_>>()
    };
    let (result, events) = bench.build(bench.request(text)).await;
    result.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let warnings = told(events);
    assert!(
        warnings[0].starts_with("6 InvalidBaseImagePlatform: ") && warnings[1].starts_with("8 UndefinedVar: "),
        "{warnings:?}"
    );
    assert_eq!(warnings.len(), 2, "of the stages that are built: {warnings:?}");

    let (result, events) = bench.build(bench.request(&format!("# check=error=true\n{text}"))).await;
    let error = result.unwrap_err();
    assert_eq!(error.message, "lint violation found for rules: InvalidBaseImagePlatform, UndefinedVar");
    assert_eq!(told(events).len(), 2);
    let (result, _) = bench.build(bench.request(&format!("# check=error=true;skip=all\n{text}"))).await;
    result.unwrap_or_else(|error| panic!("{}", chain(&error)));
}
