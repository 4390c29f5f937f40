//! `RUN --mount` in whole builds: what a step sees, what stays, what counts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::build::{
    Backends, BuildError, BuildRequest, ContextSource, Entitlement, Event, Outcome, SecretSource, StepOutcome, build,
};
use builder_core::{
    http,
    isolation::{Choice, Namespaces, choose, probe},
    registry,
    store::Store,
    tree::Change,
};
use std::{
    fmt::Write as _,
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use testkit::{Image, Registry, require, require_root};

/// An image with a shell, made without a registry.
const BASE: &str = "FROM scratch AS base\nCOPY --from=tools busybox /bin/busybox\n\
                    RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nFROM base\n";

/// A context, a state directory, and builds with them.
struct Bench {
    directory: tempfile::TempDir,
    /// Whether a root file system is an overlay, where the kernel has them.
    overlay: bool,
}

/// How a build went.
struct Built {
    result: Result<Outcome, BuildError>,
    events: Vec<Event>,
}

impl Bench {
    fn new() -> Option<Self> {
        if !require_root() || !require(&["busybox"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let bench = Self { directory, overlay: true };
        for name in ["context", "tools", "other"] {
            fs::create_dir(bench.path(name)).unwrap();
        }
        fs::copy("/bin/busybox", bench.path("tools/busybox")).unwrap();
        Some(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A build of these instructions on an image with a shell.
    fn request(&self, instructions: &str) -> BuildRequest {
        let dockerfile = builder_core::build::DockerfileSource::Inline {
            name: "Dockerfile".to_owned(),
            text: if instructions.contains("FROM ") {
                instructions.replace("BASE", BASE)
            } else {
                format!("{BASE}{instructions}")
            },
        };
        let named = |name: &str| (name.to_owned(), ContextSource::Directory(self.path(name)));
        BuildRequest {
            dockerfile,
            build_contexts: [named("tools"), named("other")].into(),
            ..BuildRequest::new(self.path("context"))
        }
    }

    fn store(&self) -> Store {
        Store::open(self.path("state")).unwrap()
    }

    async fn build(&self, request: BuildRequest) -> Built {
        let client = http::Client::new(http::Options::default()).unwrap();
        let registry = registry::Client::new(client, registry::Options::default(), Arc::new(registry::Anonymous)).unwrap();
        let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
        let listening = tokio::spawn(async move {
            let mut events = Vec::new();
            while let Some(event) = receiver.recv().await {
                events.push(event);
            }
            events
        });
        let mut backends = Backends::new(self.store(), registry);
        if !self.overlay {
            let facts = probe(&self.path("state")).unwrap();
            let choice = Choice { overlay: None, ..choose(&facts, None).unwrap() };
            backends.isolation = Arc::new(move || Ok(Arc::new(Namespaces::new(choice.clone()))));
        }
        let result = Box::pin(build(request, backends, sender)).await;
        Built { result, events: listening.await.unwrap() }
    }

    /// What the commands of a build that succeeds write.
    async fn output(&self, instructions: &str) -> String {
        let built = self.build(self.request(instructions)).await;
        built.succeeded();
        built.output()
    }

    async fn error(&self, instructions: &str) -> String {
        self.build(self.request(instructions)).await.error()
    }

    /// What the last layer does.
    fn last_layer(&self, built: &Built) -> Vec<Change> {
        let layer = built.succeeded().layers.last().unwrap().diff_id;
        self.store().layer_index(layer).unwrap().unwrap().changes
    }
}

impl Built {
    fn succeeded(&self) -> &Outcome {
        self.result.as_ref().unwrap_or_else(|_| panic!("{}", self.error()))
    }

    fn output(&self) -> String {
        let bytes = self.events.iter();
        let bytes = bytes.filter_map(|event| if let Event::StepOutput { bytes, .. } = event { Some(&bytes[..]) } else { None });
        String::from_utf8_lossy(&bytes.flatten().copied().collect::<Vec<u8>>()).into_owned()
    }

    /// Place, error, its causes and the hint, as a user reads them.
    fn error(&self) -> String {
        let error = self.result.as_ref().err().unwrap();
        let line = error.place.as_ref().map_or(0, |place| place.position.first_line);
        let mut text = format!("line {line}: {error}");
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        format!("{text} ({}) {}", error.hint.as_deref().unwrap_or_default(), self.output())
    }

    fn last_outcome(&self) -> StepOutcome {
        let mut outcomes = self.events.iter().rev();
        let outcome =
            outcomes.find_map(|event| if let Event::StepFinished { outcome, .. } = event { Some(*outcome) } else { None });
        outcome.unwrap()
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(directory).into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_what_is_bound_is_seen_and_read_only() {
    let Some(bench) = Bench::new() else { return };
    what_is_bound_is_seen(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_what_is_bound_is_seen_without_overlays_too() {
    let Some(mut bench) = Bench::new() else { return };
    bench.overlay = false;
    what_is_bound_is_seen(&bench).await;
    what_is_written_reaches_nobody(&bench).await;
}

async fn what_is_bound_is_seen(bench: &Bench) {
    bench.write("context/d/x", "X");
    bench.write("context/a[1]*", "odd");
    bench.write("other/o", "O");
    std::os::unix::fs::symlink("d", bench.path("context/link")).unwrap();
    for (mount, command, expected) in [
        ("target=/c", "cat /c/d/x", "X"),
        ("source=d,target=/c", "ls /c", "x\n"),
        ("source=link/x,target=/c/file", "cat /c/file", "X"),
        ("source=a[1]*,target=/c", "cat /c", "odd"),
        ("target=.", "pwd; cat d/x", "/work\nX"),
        ("source=d,target=sub", "cat /work/sub/x", "X"),
        ("source=/../d/./x,target=/x", "cat /x", "X"),
        ("from=other,target=/c", "cat /c/o", "O"),
        ("from=copied,target=/c", "cat /c/new/x; cat /c/base/b", "XB"),
        ("from=copied,source=new,target=/c", "ls /c", "x\n"),
        ("from=ran,source=/made,target=/c", "cat /c", "ran\n"),
        ("from=scratch,target=/c", "ls -A /c | wc -l", "0\n"),
        ("target=/c", "touch /c/new 2>/dev/null || echo no", "no\n"),
        ("from=copied,target=/c", "touch /c/new 2>/dev/null || echo no", "no\n"),
    ] {
        let stages = "FROM scratch AS copied\nCOPY --from=other o /base/b\nCOPY d /new\n\
                      FROM base AS ran\nRUN echo ran > /made\nCOPY d /after\nFROM base\nWORKDIR /work\n";
        bench.write("other/o", if command.contains("base/b") { "B" } else { "O" });
        let text = format!("BASE{stages}RUN --mount={mount} {command}\n");
        assert_eq!(bench.output(&text).await, expected, "{mount}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_an_image_is_bound_and_read_once() {
    let Some(bench) = Bench::new() else { return };
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start();
    Image::new()
        .layer("old 0644 0:0 \"gone\"\nopt/ 0755 0:0\nopt/f 0644 5:6 \"F\"")
        .layer(".wh.old 0644 0:0 \"\"\nopt/g 0600 7:8 \"G\"")
        .push(&registry, "tool:1");
    let from = format!("from={}/tool:1", registry.address());
    let text = format!(
        "RUN --mount={from},target=/t cat /t/opt/f && stat -c '%a %u:%g' /t/opt/g && ls /t\n\
         RUN --mount=type=cache,{from},source=/opt,target=/c stat -c '%a %u:%g' /c/g\n"
    );
    let built = bench.build(bench.request(&text)).await;
    built.succeeded();
    assert_eq!(built.output(), "F600 7:8\nopt\n600 7:8\n");
    let pulls = built.events.iter().filter(|event| matches!(event, Event::PullStarted { .. })).count();
    assert_eq!(pulls, 2, "each layer once");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_what_a_step_writes_to_a_bind_reaches_nobody() {
    let Some(bench) = Bench::new() else { return };
    what_is_written_reaches_nobody(&bench).await;
}

async fn what_is_written_reaches_nobody(bench: &Bench) {
    for name in ["context", "other"] {
        fs::remove_dir_all(bench.path(name)).unwrap();
        fs::create_dir(bench.path(name)).unwrap();
    }
    bench.write("context/f", "old\n");
    for from in ["", "from=stage,", "from=other,"] {
        bench.write("other/f", "old\n");
        let run = format!("RUN --mount={from}target=/m,rw : {from}; cat /m/f; echo new > /m/f; touch /m/more; cat /m/f\n");
        let again = format!("RUN --mount={from}target=/m,rw : {from}; echo 2; cat /m/f; ls /m | grep -c more || true\n");
        let text = format!("BASEFROM scratch AS stage\nCOPY f /f\nFROM base\n{run}{again}");
        let built = bench.build(bench.request(&text)).await;
        built.succeeded();
        assert_eq!(built.output(), "old\nnew\n2\nold\n0\n", "{from}");
        assert_eq!(bench.last_layer(&built), []);
    }
    assert_eq!(fs::read_to_string(bench.path("context/f")).unwrap(), "old\n");
    assert_eq!(fs::read_dir(bench.path("context")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(bench.path("other")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_bound_context_is_what_a_copied_one_would_be() {
    let Some(bench) = Bench::new() else { return };
    for name in ["keep", "secret.key", "d/keep", "d/secret.key"] {
        bench.write(&format!("context/{name}"), name);
    }
    let owned = bench.path("context/d/keep");
    fs::set_permissions(&owned, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&owned, Some(1000), Some(1000)).unwrap();
    fs::File::open(&owned).unwrap().set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
    let list = "RUN --mount=target=/c cd /c && find . -type f | sort && stat -c '%a %u:%g %Y' d/keep\n";
    assert_eq!(bench.output(list).await, "./d/keep\n./d/secret.key\n./keep\n./secret.key\n640 0:0 1000000\n");
    bench.write("context/.dockerignore", "**/*.key\n.dockerignore\n");
    assert_eq!(bench.output(list).await, "./d/keep\n./keep\n640 0:0 1000000\n");
    let error = bench.error("RUN --mount=source=secret.key,target=/c true\n").await;
    assert!(error.starts_with("line 5: cannot mount: \"secret.key\" was not found"), "{error}");
    assert!(error.contains(".dockerignore leaves it out"), "{error}");
    let error = bench.error("RUN true\nRUN --mount=from=base,source=/none,target=/c true\n").await;
    assert!(error.starts_with("line 6: cannot mount: \"/none\" was not found"), "{error}");
    let error = bench.error("WORKDIR /\nRUN --mount=source=d true\n").await;
    assert!(error.starts_with("line 6: nothing can be mounted at /"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_step_is_known_by_the_content_that_it_binds() {
    let Some(bench) = Bench::new() else { return };
    bench.write("context/d/x", "1");
    bench.write("context/unrelated", "1");
    let run = |mount: &str| format!("RUN --mount={mount} true\n");
    let mounts = ["source=d,target=/c", "from=stage,source=/d,target=/stage"];
    let build = async |mount: &str| {
        let text = format!("BASEFROM scratch AS stage\nCOPY . /\nFROM base\n{}", run(mount));
        let built = bench.build(bench.request(&text)).await;
        built.succeeded();
        built.last_outcome()
    };
    for mount in mounts {
        assert_eq!(build(mount).await, StepOutcome::Executed);
        assert_eq!(build(mount).await, StepOutcome::Cached);
    }
    bench.write("context/unrelated", "2");
    for mount in mounts {
        assert_eq!(build(mount).await, StepOutcome::Cached, "{mount}");
    }
    bench.write("context/d/x", "2");
    for mount in mounts {
        assert_eq!(build(mount).await, StepOutcome::Executed, "{mount}");
    }
    for (known, executed) in [
        ("source=d,target=/c,ro", Some("source=d,target=/c,rw")),
        ("type=cache,target=/c,sharing=locked", None),
        ("type=cache,target=/c,sharing=shared", Some("type=cache,target=/c,id=other")),
        ("type=cache,target=/c,mode=0755", Some("type=cache,target=/c,mode=0700")),
        ("type=cache,target=/c,uid=0", Some("type=cache,target=/c,uid=1")),
        ("type=tmpfs,target=/c", Some("type=tmpfs,target=/c,size=1m")),
        ("type=secret,id=s", Some("type=secret,id=s,mode=0444")),
        ("type=secret,id=s,required=false", Some("type=secret,id=s,env=S")),
        ("type=ssh", Some("type=ssh,mode=0666")),
        ("type=ssh,id=default", Some("type=ssh,id=other")),
    ] {
        build(known).await;
        assert_eq!(build(known).await, StepOutcome::Cached, "{known}");
        if let Some(executed) = executed {
            assert_eq!(build(executed).await, StepOutcome::Executed, "{executed}");
        }
    }
    assert_eq!(build("type=cache,target=/c,sharing=private").await, StepOutcome::Cached);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_host_name_is_part_of_the_key_where_it_is_given() {
    let Some(bench) = Bench::new() else { return };
    for (name, expected) in [
        (None, StepOutcome::Executed),
        (Some("a"), StepOutcome::Executed),
        (Some("a"), StepOutcome::Cached),
        (Some("b"), StepOutcome::Executed),
        (Some(""), StepOutcome::Cached),
    ] {
        let mut request = bench.request("RUN uname -n\n");
        request.build_args.extend(name.map(|name| ("BUILDKIT_SANDBOX_HOSTNAME".to_owned(), name.to_owned())));
        let built = bench.build(request).await;
        built.succeeded();
        assert_eq!(built.last_outcome(), expected, "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_cache_outlives_the_build_and_is_known_by_id_owner_and_mode() {
    let Some(bench) = Bench::new() else { return };
    let first = "RUN --mount=type=cache,target=/c stat -c '%a %u:%g' /c; echo first > /c/f\n";
    assert_eq!(bench.output(first).await, "755 0:0\n");
    assert_eq!(bench.output("RUN --mount=type=cache,id=/c,target=/elsewhere cat /elsewhere/f\n").await, "first\n");
    assert_eq!(
        bench.output("RUN --mount=type=cache,target=/c/../c/,ro cat /c/f; touch /c/g 2>&- || echo ro\n").await,
        "first\nro\n"
    );
    assert_eq!(
        bench.output("RUN --mount=type=cache,target=/c,sharing=locked --mount=type=cache,id=/c,target=/d cat /d/f\n").await,
        "first\n"
    );
    for (mount, expected) in [
        ("target=/c,id=x", "755 0:0\n"),
        ("target=/c,uid=7", "755 7:0\n"),
        ("target=/c,gid=7", "755 0:7\n"),
        ("target=/c,mode=1777", "1777 0:0\n"),
    ] {
        let text = format!("RUN --mount=type=cache,{mount} stat -c '%a %u:%g' /c; ls -A /c\n");
        assert_eq!(bench.output(&text).await, expected, "{mount}");
    }
    let mut request = bench.request("RUN --mount=type=cache,target=/c ls -A /c | wc -l\n");
    request.build_args.insert("BUILDKIT_CACHE_MOUNT_NS".to_owned(), "mine".to_owned());
    assert_eq!(bench.build(request).await.output(), "0\n");
    let failing = bench.error("RUN --mount=type=cache,target=/c echo kept > /c/g; exit 3\n").await;
    assert!(failing.contains("exit code 3"), "{failing}");
    assert_eq!(bench.output("RUN --mount=type=cache,target=/c cat /c/g # again\n").await, "kept\n", "also when the step fails");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_new_cache_begins_with_what_it_is_told() {
    let Some(bench) = Bench::new() else { return };
    bench.write("context/f", "seed\n");
    bench.write("other/o", "other\n");
    let stage = "BASEFROM scratch AS seed\nCOPY --chown=3:4 . /s\nFROM base\n";
    let with = |run: &str| format!("{stage}RUN --mount=type=cache,target=/c,{run}\n");
    let text = with("id=a,from=seed,source=/s stat -c '%u:%g' /c/f; cat /c/f; echo more > /c/g");
    assert_eq!(bench.output(&text).await, "3:4\nseed\n");
    assert_eq!(bench.output(&with("id=a,from=seed,source=/s cat /c/g")).await, "more\n");
    assert_eq!(bench.output(&with("id=a,from=seed,source=/s,uid=9 stat -c %u /c; ls /c")).await, "9\nf\n");
    assert_eq!(bench.output(&with("id=a,from=other cat /c/o")).await, "other\n");
    let error = bench.error(&with("source=/s true")).await;
    assert!(error.contains("a cache has no /s to begin with"), "{error}");
    let error = bench.error(&with("from=seed,source=/s/f true")).await;
    assert!(error.contains("a cache is a directory, and /s/f is a file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_locked_cache_serves_one_step_at_a_time() {
    let Some(bench) = Bench::new() else { return };
    let step = |name: &str, sharing: &str| {
        let mount = format!("RUN --mount=type=cache,id=one,target=/c,sharing={sharing}");
        format!("{mount} [ ! -e /c/busy ] && : > /c/busy && sleep 0.4 && rm /c/busy && echo {name} > /{name}\n")
    };
    let two = |sharing: &str| {
        let (a, b) = (step("a", sharing), step("b", sharing));
        format!("BASEFROM base AS a\n{a}FROM base AS b\n{b}FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n")
    };
    // Two stages of one build, and at the same time those of another.
    let other = two("locked").replace("echo", "echo other");
    let (one, other) = tokio::join!(bench.build(bench.request(&two("locked"))), bench.build(bench.request(&other)));
    one.succeeded();
    other.succeeded();
    bench.build(bench.request(&two("private").replace("id=one", "id=two"))).await.succeeded();
    // They do meet if they may.
    let meet = "[ -e /c/busy ] && echo met; : > /c/busy; sleep 0.4";
    let mount = "RUN --mount=type=cache,id=three,target=/c";
    let text = format!(
        "BASEFROM base AS a\n{mount} {meet}; : > /a\nFROM base AS b\n{mount} sleep 0.2; {meet}; : > /b\n\
                        FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    );
    assert_eq!(bench.output(&text).await, "met\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_tmpfs_is_empty_limited_and_open_to_all() {
    let Some(bench) = Bench::new() else { return };
    bench.write("context/f", "");
    let built = bench
        .build(bench.request(
            "COPY --chmod=0750 . /there\n\
             RUN --mount=type=tmpfs,target=/there --mount=type=tmpfs,target=/new,size=64k --mount=type=tmpfs,target=/ro,readonly \
             stat -c %a /there /new; ls -A /there; head -c 100000 /dev/zero > /new/f 2>/dev/null || echo full; touch /ro/f 2>/dev/null || echo ro\n",
        ))
        .await;
    built.succeeded();
    assert_eq!(built.output(), "750\n1777\nfull\nro\n");
    assert_eq!(bench.last_layer(&built), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_secret_is_seen_by_the_step_and_kept_nowhere() {
    let Some(bench) = Bench::new() else { return };
    let (text, value) = ("hunter2-in-a-file", "hunter2-in-a-value");
    bench.write("elsewhere/file", text);
    let mut request = bench.request(
        "RUN --mount=type=secret,id=file cd /run/secrets && stat -c '%a %u:%g' file && wc -c < file\n\
         RUN --mount=type=secret,id=file,target=deep/er,mode=0440,uid=1000,gid=50 stat -c '%a %u:%g' /deep/er\n\
         RUN --mount=type=secret,id=value,env=TOKEN --mount=type=secret,id=file,env=F,target=/f \
             echo ${#TOKEN} ${#F} $(wc -c < /f); ls /run/secrets 2>/dev/null || echo none\n\
         RUN --mount=type=secret,id=none --mount=type=secret,id=none,env=NONE ls /run 2>/dev/null; echo ${NONE-unset}\n\
         USER 7\nRUN --mount=type=secret,id=file cat /run/secrets/file 2>/dev/null || echo denied\n",
    );
    request.secrets.insert("file".to_owned(), SecretSource::File(bench.path("elsewhere/file")));
    request.secrets.insert("value".to_owned(), SecretSource::Value(http::Secret::new(value)));
    let built = bench.build(request.clone()).await;
    built.succeeded();
    assert_eq!(built.output(), "400 0:0\n17\n440 1000:50\n18 17 17\nnone\nunset\ndenied\n");
    assert_eq!(bench.last_layer(&built), []);
    assert!(!format!("{:?}{:?}{request:?}", built.events, built.succeeded()).contains("hunter2"));
    for path in files_below(&bench.path("state")) {
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"), "{path:?}");
    }
    // Another value is no other step.
    bench.write("elsewhere/file", "changed");
    assert_eq!(bench.build(request).await.last_outcome(), StepOutcome::Cached);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_secret_that_is_missing_fails_only_a_step_that_requires_it() {
    let Some(bench) = Bench::new() else { return };
    let error = bench.error("RUN --mount=type=secret,id=tok,required true\n").await;
    assert!(error.starts_with("line 5: the secret \"tok\" is required, and missing"), "{error}");
    let error = bench.error("RUN --mount=type=ssh,id=me,required true\n").await;
    assert!(error.starts_with("line 5: the SSH agent \"me\" is required, and missing"), "{error}");
    let mut request = bench.request("RUN --mount=type=secret,id=tok true\n");
    request.secrets.insert("tok".to_owned(), SecretSource::File(bench.path("none")));
    let error = bench.build(request).await.error();
    assert!(error.starts_with("line 5: cannot read the secret \"tok\": No such file"), "{error}");
    let mut request = bench.request("RUN --mount=type=secret,id=tok,env=T true\n");
    request.secrets.insert("tok".to_owned(), SecretSource::Value(http::Secret::new("hunter2\0")));
    let error = bench.build(request).await.error();
    assert!(error.contains("variable T holds a zero byte") && !error.contains("hunter2"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_an_agent_is_reached_through_a_socket_in_the_step() {
    let Some(bench) = Bench::new() else { return };
    let _agent = UnixListener::bind(bench.path("agent")).unwrap();
    let mut request = bench.request(
        "RUN --mount=type=ssh echo $SSH_AUTH_SOCK; stat -c '%F %a %u:%g' $SSH_AUTH_SOCK\n\
         RUN --mount=type=ssh,id=second,mode=0666,uid=5,gid=6 --mount=type=ssh,target=/s stat -c '%F %a %u:%g' $SSH_AUTH_SOCK /s\n\
         RUN --mount=type=ssh,id=none echo ${SSH_AUTH_SOCK}; ls /run 2>/dev/null || echo none\n\
         ENV SSH_AUTH_SOCK=/mine\nRUN --mount=type=ssh echo $SSH_AUTH_SOCK\n",
    );
    for id in ["default", "second"] {
        request.ssh.insert(id.to_owned(), bench.path("agent"));
    }
    let built = bench.build(request).await;
    built.succeeded();
    assert_eq!(
        built.output(),
        "/run/buildkit/ssh_agent.0\nsocket 600 0:0\nsocket 666 5:6\nsocket 600 0:0\n/run/buildkit/ssh_agent.0\nnone\n/mine\n"
    );
    assert_eq!(bench.last_layer(&built), []);
    bench.write("key", "a private key");
    let mut request = bench.request("RUN --mount=type=ssh true # a key\n");
    request.ssh.insert("default".to_owned(), bench.path("key"));
    let error = bench.build(request).await.error();
    assert!(error.contains("as the SSH agent \"default\": it is no socket (it is the socket of a running agent"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_key_of_the_agent_can_be_used_and_not_be_taken_out() {
    let Some(bench) = Bench::new() else { return };
    if !require(&["ssh-agent", "ssh-add", "ssh-keygen", "ldd"]) {
        return;
    }
    // The program with its libraries, where the loader looks for them.
    let libraries = Command::new("ldd").arg("/usr/bin/ssh-add").output().unwrap().stdout;
    let libraries = String::from_utf8(libraries).unwrap();
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for path in libraries.chain(["/usr/bin/ssh-add"]) {
        let copy = bench.path("other").join(&path[1..]);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(path, copy).unwrap();
    }
    let socket = bench.path("agent");
    let mut agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let key = bench.path("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "of the test", "-f"]).arg(&key).status();
    assert!(made.unwrap().success());
    let added = Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket).status();
    assert!(added.unwrap().success());
    let mut request = bench.request(
        "COPY --from=other . /\n\
         RUN --mount=type=ssh --network=none ssh-add -L | cut -d ' ' -f 1,3-; ssh-add -D 2>/dev/null; ssh-add -L | wc -l\n",
    );
    request.ssh.insert("default".to_owned(), socket);
    let built = bench.build(request).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    built.succeeded();
    assert_eq!(built.output(), "ssh-ed25519 of the test\n1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_mounts_of_every_kind_leave_no_trace() {
    let Some(bench) = Bench::new() else { return };
    bench.write("context/d/x", "");
    bench.write("other/f", "");
    let mut text = "COPY --from=other . /there\nCOPY --from=other . /etc/deep\n".to_owned();
    let mut runs = 0;
    for mount in
        ["source=d", "source=d,rw", "source=d/x", "from=base", "type=cache", "type=tmpfs", "type=secret,id=s", "type=ssh"]
    {
        for target in ["/missing", "/quite/missing/at/all", "/there", "/there/below", "/etc/deep/er/still"] {
            let is_file = ["source=d/x", "type=secret,id=s", "type=ssh"].contains(&mount);
            if !is_file || target != "/there" {
                writeln!(text, "RUN --mount={mount},target={target} test -e {target}").unwrap();
                runs += 1;
            }
        }
    }
    let _agent = UnixListener::bind(bench.path("agent")).unwrap();
    let mut request = bench.request(&text);
    request.ssh.insert("default".to_owned(), bench.path("agent"));
    request.secrets.insert("s".to_owned(), SecretSource::Value(http::Secret::new("s")));
    let built = bench.build(request).await;
    let layers = &built.succeeded().layers;
    for (layer, line) in layers[layers.len() - runs..].iter().zip(text.lines().skip(2)) {
        assert_eq!(bench.store().layer_index(layer.diff_id).unwrap().unwrap().changes, [], "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_mount_inside_of_another_is_found_in_whatever_order_they_stand() {
    let Some(bench) = Bench::new() else { return };
    bench.write("context/d/sub/x", "X\n");
    bench.write("other/a/b/f", "");
    // /a/b is a directory of the image, and empty: a mount point of that name inside of another mount is not it.
    let text = "COPY --from=other . /\nRUN rm /a/b/f && touch -d @1000000 /a /a/b\n\
         RUN --mount=type=cache,target=/a/b/c/d --mount=source=d/sub,target=/a/b/bound --mount=type=tmpfs,target=/a \
         touch /a/b/c/d/kept && ls /a/b && cat /a/b/bound/x\n";
    let built = bench.build(bench.request(text)).await;
    built.succeeded();
    assert_eq!(built.output(), "bound\nc\nX\n");
    assert_eq!(bench.last_layer(&built), []);
    let after = "RUN --mount=type=cache,target=/a/b/c/d ls /a/b/c/d && ls -d /a/b\n";
    assert_eq!(bench.output(&format!("{text}{after}")).await, "kept\n/a/b\n");
    // A mount point made in a cache does not stay there.
    let nested = "RUN --mount=type=cache,id=outer,target=/o --mount=type=tmpfs,target=/o/in/ner ls -R /o\n";
    assert_eq!(bench.output(nested).await, "/o:\nin\n\n/o/in:\nner\n\n/o/in/ner:\n");
    assert_eq!(bench.output("RUN --mount=type=cache,id=outer,target=/o ls -A /o | wc -l\n").await, "0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_step_is_insecure_only_where_that_is_allowed() {
    let Some(bench) = Bench::new() else { return };
    let run = |options: &str| {
        let settings = "grep -q 'proc/sys ro' /proc/self/mountinfo && echo closed || echo open";
        format!("RUN {options} grep CapEff /proc/self/status; {settings}\n")
    };
    let mut insecure = bench.request(&run("--security=insecure"));
    let error = bench.build(insecure.clone()).await.error();
    assert!(error.starts_with("line 5: RUN --security=insecure is not allowed in this build"), "{error}");
    insecure.allowed.insert(Entitlement::SecurityInsecure);
    let built = bench.build(insecure).await;
    built.succeeded();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert_eq!(built.output(), format!("{own}\nopen\n"));
    let sandboxed = bench.output(&run("--security=sandbox --network=host")).await;
    assert_eq!(sandboxed, "CapEff:\t00000000a80425fb\nclosed\n");
    let error = bench.error("RUN --device=vendor.com/gpu=all true\n").await;
    assert!(error.starts_with("line 5: RUN --device is not supported"), "{error}");
}
