//! Files from elsewhere: web servers, Git repositories, archives and OCI layouts, all of them real and on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::build::{
    Backends, BuildError, BuildRequest, ContextSource, DockerfileSource, ErrorKind, Event, Export, Outcome, SecretSource,
    StepOutcome, build,
};
use builder_core::context::GitSource;
use builder_core::context::git::{Git, LocalRepositories};
use builder_core::http::{self, Secret};
use builder_core::{registry, store::Store};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};
use testkit::{Image, Layout, require, require_root};

/// A state directory, and builds with it into a layout.
struct Bench {
    directory: tempfile::TempDir,
    git: Git,
    input: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let git = Git { local: LocalRepositories::Allowed, ..Git::default() };
        Self { directory: tempfile::tempdir().unwrap(), git, input: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A build of `dockerfile` without a context.
    fn request(&self, dockerfile: &str) -> BuildRequest {
        let mut request = self.request_of(ContextSource::Empty);
        request.dockerfile = DockerfileSource::Inline { name: "Dockerfile".to_owned(), text: dockerfile.to_owned() };
        request
    }

    fn request_of(&self, context: ContextSource) -> BuildRequest {
        let mut request = BuildRequest::new("/nowhere");
        request.context = context;
        request.dockerfile = DockerfileSource::Path("Dockerfile".into());
        request.exports = vec![Export::OciLayout(self.path("out"))];
        request
    }

    async fn build(&self, request: BuildRequest) -> (Result<Outcome, BuildError>, Vec<Event>) {
        let _ = fs::remove_dir_all(self.path("out"));
        let client = http::Client::new(http::Options::default()).unwrap();
        let registry = registry::Client::new(client, registry::Options::default(), Arc::new(registry::Anonymous)).unwrap();
        let mut backends = Backends::new(Store::open(self.path("state")).unwrap(), registry);
        backends.git = self.git.clone();
        let input = self.input.clone();
        backends.input = Arc::new(move || Ok(Box::new(std::io::Cursor::new(input.clone()))));
        let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
        let listening = tokio::spawn(async move {
            let mut events = Vec::new();
            while let Some(event) = receiver.recv().await {
                events.push(event);
            }
            events
        });
        let result = Box::pin(build(request, backends, sender)).await;
        (result, listening.await.unwrap())
    }

    /// The tree of a build that succeeds.
    async fn tree(&self, request: BuildRequest) -> String {
        let (result, _) = self.build(request).await;
        result.unwrap_or_else(|error| panic!("{}", chain(&error)));
        Layout::open_only(&self.path("out")).tree()
    }

    /// What a build that fails says.
    async fn failure(&self, request: BuildRequest) -> (ErrorKind, String) {
        let error = self.build(request).await.0.unwrap_err();
        (error.kind, chain(&error))
    }
}

fn chain(error: &BuildError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn last_outcome(events: &[Event]) -> StepOutcome {
    let mut outcomes =
        events.iter().filter_map(|event| if let Event::StepFinished { outcome, .. } = event { Some(*outcome) } else { None });
    outcomes.next_back().unwrap()
}

/// A web server that answers each request with what `answer` makes of its first line and headers.
struct Web {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Web {
    fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = requests.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let request = head(&mut connection);
                seen.lock().unwrap().push(request.clone());
                // A client may go away in the middle.
                let _ = connection.write_all(&answer(&request));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn head(connection: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && connection.read(&mut byte).unwrap_or(0) == 1 {
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap().to_lowercase()
}

fn answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let first = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}", body.len());
    let head = [&[first.as_str()], headers, &["\r\n"]].concat().join("\r\n");
    [head.as_bytes(), body].concat()
}

const MODIFIED: &str = "Last-Modified: Fri, 11 Nov 2011 11:11:11 GMT";

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_downloaded_once_while_it_does_not_change() {
    let web = Web::start(|request| {
        if request.contains("if-none-match: \"v1\"") {
            return answer("304 Not Modified", &["ETag: \"v1\""], b"");
        }
        answer("200 OK", &["ETag: \"v1\"", MODIFIED], b"over http\n")
    });
    let bench = Bench::new();
    let dockerfile = format!("FROM scratch\nADD --chmod=640 --chown=5:6 http://{}/dl/file.txt?x=1 /d/\n", web.address);
    assert_eq!(bench.tree(bench.request(&dockerfile)).await, "d/ 0640 5:6\nd/file.txt 0640 5:6 \"over http\\n\"\n");
    let (result, events) = bench.build(bench.request(&dockerfile)).await;
    result.unwrap();
    assert_eq!(last_outcome(&events), StepOutcome::Cached);
    assert_eq!(web.requests().len(), 2);
    // What was promised by its digest is not even asked for.
    let promised =
        dockerfile.replace("--chmod=640", &format!("--checksum=sha256:{}", builder_core::oci::Digest::of(b"over http\n").hex()));
    assert_eq!(bench.tree(bench.request(&promised)).await, "d/ 0755 5:6\nd/file.txt 0600 5:6 \"over http\\n\"\n");
    assert_eq!(web.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_checksum_names_both_digests_and_leaves_nothing() {
    let web = Web::start(|_| answer("200 OK", &[MODIFIED], b"something else"));
    let bench = Bench::new();
    let promised = "ab".repeat(32);
    let dockerfile = format!("FROM scratch\nADD --checksum=sha256:{promised} http://{}/f /f\n", web.address);
    let error = bench.build(bench.request(&dockerfile)).await.0.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Dockerfile);
    assert_eq!(error.place.as_ref().unwrap().position.first_line, 2);
    let text = chain(&error);
    assert!(text.contains(&promised) && text.contains(&builder_core::oci::Digest::of(b"something else").hex()), "{text}");
    let kept = ["blobs/sha256", "steps"].map(|name| fs::read_dir(bench.path("state").join(name)).unwrap().count());
    assert_eq!(kept, [0, 0]);
    let (_, text) = bench.failure(bench.request("FROM scratch\nADD --checksum=md5:ab http://h/f /f\n")).await;
    assert!(text.contains("--checksum=md5:ab"), "{text}");
    let (_, text) = bench.failure(bench.request("FROM scratch\nADD --checksum=sha256:ab f /f\n")).await;
    assert!(text.contains("needs a URL"), "{text}");
    let (_, text) = bench.failure(bench.request("FROM scratch\nCOPY https://u:secret@h/f?token=secret /f\n")).await;
    assert!(text.contains("COPY cannot take https://h/f") && !text.contains("secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_followed_without_the_credential() {
    let other = Web::start(|_| answer("200 OK", &[MODIFIED], b"there"));
    let there = other.address.clone();
    let web = Web::start(move |request| {
        if request.contains("authorization: bearer hunter2") {
            answer("302 Found", &[&format!("Location: http://{there}/there")], b"")
        } else {
            answer("401 Unauthorized", &[], b"")
        }
    });
    let bench = Bench::new();
    let mut request = bench.request(&format!("FROM scratch\nADD http://{}/f /d/\n", web.address));
    let (_, text) = bench.failure(request.clone()).await;
    assert!(text.contains("the server answers 401"), "{text}");
    request.secrets.insert(format!("HTTP_AUTH_TOKEN_{}", web.address), SecretSource::Value(Secret::new("hunter2\n")));
    assert_eq!(bench.tree(request).await, "d/ 0755 0:0\nd/f 0600 0:0 \"there\"\n");
    assert!(other.requests().iter().all(|request| !request.contains("hunter2") && !request.contains("authorization")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_asked_for_again() {
    let count = Mutex::new(0);
    let web = Web::start(move |_| {
        *count.lock().unwrap() += 1;
        let whole = answer("200 OK", &[MODIFIED], b"all of it");
        if *count.lock().unwrap() == 1 { whole[..whole.len() - 4].to_vec() } else { whole }
    });
    let bench = Bench::new();
    let request = bench.request(&format!("FROM scratch\nADD http://{}/f /f\n", web.address));
    assert_eq!(bench.tree(request.clone()).await, "f 0600 0:0 \"all of it\"\n");
    assert_eq!(web.requests().len(), 2);
    let (_, text) = bench.failure(BuildRequest { max_unpacked_bytes: 3, ..request }).await;
    assert!(text.contains("is larger than 3 bytes"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_as_context_stays_inside() {
    let tar = testkit::tree::tar(
        "Dockerfile 0644 7:7 \"FROM scratch\\nCOPY . /all/\\n\"\nsub/ 0750 7:7\nsub/f 0640 7:7 \"F\"\nsub/Dockerfile 0644 7:7 \"FROM scratch\\nCOPY f /\\n\"\nsub/up -> ../../../etc\n",
    );
    let mut bench = Bench::new();
    bench.input = tar.clone();
    let all = "all/ 0755 0:0\nall/Dockerfile 0644 0:0 \"FROM scratch\\nCOPY . /all/\\n\"\nall/sub/ 0750 0:0\n\
        all/sub/Dockerfile 0644 0:0 \"FROM scratch\\nCOPY f /\\n\"\nall/sub/f 0640 0:0 \"F\"\nall/sub/up -> ../../../etc\n";
    assert_eq!(bench.tree(bench.request_of(ContextSource::Input)).await, all);
    fs::write(bench.path("c.tar"), &tar).unwrap();
    let mut request = bench.request_of(ContextSource::Archive(bench.path("c.tar")));
    request.context_directory = Some("sub".into());
    assert_eq!(bench.tree(request.clone()).await, "f 0640 0:0 \"F\"\n");
    // A link of the archive leads nowhere else.
    request.dockerfile = DockerfileSource::Inline { name: "D".to_owned(), text: "FROM scratch\nCOPY up/passwd /\n".to_owned() };
    assert_eq!(bench.failure(request).await.0, ErrorKind::Context);

    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..14].copy_from_slice(b"../../outside\0");
    header.set_size(1);
    header.set_mode(0o644);
    header.set_cksum();
    let mut hostile = tar::Builder::new(Vec::new());
    hostile.append(&header, &b"x"[..]).unwrap();
    bench.input = hostile.into_inner().unwrap();
    let (_, text) = bench.failure(bench.request_of(ContextSource::Input)).await;
    assert!(text.contains("cannot use the input as a context"), "{text}");
    assert!(!bench.path("outside").exists() && !bench.directory.path().parent().unwrap().join("outside").exists());

    // `docker build - < Dockerfile`
    bench.input = b"FROM scratch\nCOPY <<x /x\nX\nx\n".to_vec();
    assert_eq!(bench.tree(bench.request_of(ContextSource::Input)).await, "x 0644 0:0 \"X\\n\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_from_a_web_server_may_be_the_context() {
    let tar = testkit::tree::tar("Dockerfile 0644 0:0 \"FROM scratch\\nCOPY f /\\n\"\nf 0644 3:3 \"F\"\n");
    let web = Web::start(move |request| {
        let body = if request.contains("/dockerfile") { b"FROM scratch\nCOPY <<a /\nA\na\n".to_vec() } else { tar.clone() };
        answer("200 OK", &[MODIFIED], &body)
    });
    let bench = Bench::new();
    let url = |path: &str| format!("http://{}/{path}", web.address);
    assert_eq!(bench.tree(bench.request_of(ContextSource::Url(url("c.tar")))).await, "f 0644 0:0 \"F\"\n");
    assert_eq!(bench.tree(bench.request_of(ContextSource::Url(url("dockerfile")))).await, "a 0644 0:0 \"A\\n\"\n");
    let mut request = bench.request_of(ContextSource::Url(url("c.tar")));
    request.dockerfile = DockerfileSource::Url(url("dockerfile"));
    assert_eq!(bench.tree(request).await, "a 0644 0:0 \"A\\n\"\n");
    let mut request =
        bench.request("FROM tar\nFROM scratch\nCOPY --from=tar f /t\nCOPY --from=one dockerfile /o\nCOPY --from=file f /l\n");
    let tar = testkit::tree::tar("f 0644 3:3 \"L\"\n");
    fs::write(bench.path("l.tar"), tar).unwrap();
    request.build_contexts = BTreeMap::from([
        ("tar".to_owned(), ContextSource::Url(url("c.tar"))),
        ("one".to_owned(), ContextSource::Url(url("dockerfile"))),
        ("file".to_owned(), ContextSource::Directory(bench.path("l.tar"))),
    ]);
    let tree = bench.tree(request).await;
    assert_eq!(tree, "l 0644 0:0 \"L\"\no 0600 0:0 \"FROM scratch\\nCOPY <<a /\\nA\\na\\n\"\nt 0644 0:0 \"F\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_a_layout_has_its_config_and_its_files() {
    if !require(&["skopeo"]) {
        return;
    }
    let bench = Bench::new();
    Image::new()
        .layer("etc/ 0755 0:0\netc/passwd 0644 0:0 \"app:x:7:8::/:/bin/sh\\n\"\nbin 0755 1:1 \"B\"")
        .config(serde_json::json!({ "Env": ["A=b"], "User": "app" }))
        .write(&bench.path("layout"), "v1");
    let mut request = bench.request("FROM base\nCOPY --from=other bin /bin2\nCOPY --chown=app <<x /x\nX\nx\n");
    let layout = |image: Option<&str>| ContextSource::OciLayout { path: bench.path("layout"), image: image.map(str::to_owned) };
    request.build_contexts = BTreeMap::from([("base".to_owned(), layout(None)), ("other".to_owned(), layout(Some("v1")))]);
    let tree = bench.tree(request.clone()).await;
    assert!(tree.contains("bin2 0755 1:1 \"B\"\n") && tree.contains("x 0644 7:8 \"X\\n\""), "{tree}");
    let config = Layout::open_only(&bench.path("out")).config();
    assert_eq!((&config["config"]["User"], &config["config"]["Env"][0]), (&"app".into(), &"A=b".into()));

    request.build_contexts.insert("base".to_owned(), layout(Some("v2")));
    let (kind, text) = bench.failure(request.clone()).await;
    assert!(kind == ErrorKind::Base && text.contains("no image \"v2\"; it has v1"), "{text}");
    // Bytes that are not those that their name promises.
    request.build_contexts.insert("base".to_owned(), layout(None));
    for blob in fs::read_dir(bench.path("layout/blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if bytes.starts_with(b"{") {
            bytes.push(b'\n');
            fs::write(&path, bytes).unwrap();
        }
    }
    let (kind, text) = bench.failure(request).await;
    assert!(kind == ErrorKind::Base && text.contains("has the digest"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_can_stand_in_for_another_and_for_a_stage() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let server = testkit::Registry::start();
    Image::new().layer("real 0644 0:0 \"R\"").push(&server, "stand-in:1");
    let bench = Bench::new();
    let mut request = bench.request("FROM scratch AS stage\nFROM unknown/image\nCOPY --from=stage real /copy\n");
    let image = || ContextSource::Image(format!("{}/stand-in:1", server.address()).parse().unwrap());
    request.build_contexts =
        BTreeMap::from([("docker.io/unknown/image:latest".to_owned(), image()), ("stage".to_owned(), image())]);
    assert_eq!(bench.tree(request).await, "copy 0644 0:0 \"R\"\nreal 0644 0:0 \"R\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_run_mounts_what_is_elsewhere() {
    if !require_root() || !require(&["skopeo", "busybox"]) {
        return;
    }
    let bench = Bench::new();
    Image::new().busybox_layer().layer("of-layout 0644 0:0 \"L\"").write(&bench.path("layout"), "v1");
    fs::write(bench.path("t.tar"), testkit::tree::tar("d/ 0755 0:0\nd/of-tar 0644 0:0 \"T\"\n")).unwrap();
    let mut request = bench.request(
        "FROM base\nRUN --mount=from=tar,source=d,target=/t --mount=from=base,target=/l cat /t/of-tar /l/of-layout > /both\n",
    );
    request.build_contexts = BTreeMap::from([
        ("base".to_owned(), ContextSource::OciLayout { path: bench.path("layout"), image: None }),
        ("tar".to_owned(), ContextSource::Archive(bench.path("t.tar"))),
    ]);
    let tree = bench.tree(request).await;
    assert!(tree.contains("both 0644 0:0 \"TL\"\n"), "{tree}");
}

/// A repository with two commits on `main`, a tag on the first, and a submodule.
struct Repository(PathBuf);

impl Repository {
    fn new(directory: &Path) -> Self {
        let repository = Self(directory.join("repository"));
        let module = Self(directory.join("module"));
        for (place, files) in
            [(&module, vec![("m", "M")]), (&repository, vec![("a", "first"), ("d/x", "X"), (".dockerignore", "a")])]
        {
            fs::create_dir_all(&place.0).unwrap();
            place.git(&["init", "-q", "-b", "main"]);
            for (name, text) in files {
                fs::create_dir_all(place.0.join(name).parent().unwrap()).unwrap();
                fs::write(place.0.join(name), text).unwrap();
            }
            place.git(&["add", "-A"]);
            place.git(&["commit", "-qm", "one"]);
        }
        repository.git(&["-c", "protocol.file.allow=always", "submodule", "-q", "add", &module.url(), "module"]);
        repository.git(&["commit", "-qm", "module"]);
        repository.git(&["tag", "-a", "v1", "-m", "v1"]);
        fs::write(repository.0.join("a"), "second").unwrap();
        fs::write(repository.0.join("Dockerfile"), "FROM scratch\nCOPY a /\n").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", repository.0.join("link")).unwrap();
        repository.git(&["add", "-A"]);
        repository.git(&["commit", "-qm", "two"]);
        repository
    }

    fn url(&self) -> String {
        format!("file://{}", self.0.display())
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.0).args(["-c", "user.name=x", "-c", "user.email=x@x"]).args(arguments);
        command.env("GIT_COMMITTER_DATE", "1321009871 +0000").env("GIT_CONFIG_GLOBAL", "/dev/null");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// A web server of Git's own, for the repositories below a directory.
struct GitWeb {
    child: std::process::Child,
    port: u16,
}

impl GitWeb {
    fn start(directory: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("git");
        command.args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1"]);
        command.arg(format!("--port={port}")).arg(format!("--base-path={}", directory.display()));
        command.stderr(std::process::Stdio::null());
        let child = std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn().unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self { child, port }
    }
}

impl Drop for GitWeb {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_added_at_the_commit_that_is_asked_for() {
    if !require(&["git"]) {
        return;
    }
    let bench = Bench::new();
    let repository = Repository::new(bench.directory.path());
    let server = GitWeb::start(bench.directory.path());
    let url = format!("git://127.0.0.1:{}/repository", server.port);
    let add = |source: &str| bench.request(&format!("FROM scratch\nADD {source} /g/\n"));
    let tree = bench.tree(add(&url)).await;
    assert!(tree.contains("g/a 0644 0:0 \"second\"\n") && tree.contains("g/link -> /etc/passwd\n"), "{tree}");
    assert!(
        tree.contains("g/module/m 0644 0:0 \"M\"\n") && !tree.contains("g/.git/") && !tree.contains("g/module/.git"),
        "{tree}"
    );
    assert!(bench.tree(add(&format!("{url}#v1"))).await.contains("g/a 0644 0:0 \"first\"\n"));
    assert_eq!(bench.tree(add(&format!("{url}#v1:d"))).await, "g/ 0755 0:0\ng/x 0644 0:0 \"X\"\n");
    assert_eq!(bench.tree(add(&format!("{url}?tag=v1&subdir=d&submodules=0"))).await, "g/ 0755 0:0\ng/x 0644 0:0 \"X\"\n");
    let first = repository.git(&["rev-parse", "v1^{commit}"]);
    assert!(bench.tree(add(&format!("{url}#{first}"))).await.contains("\"first\""));
    assert!(bench.tree(add(&format!("--keep-git-dir=true {url}"))).await.contains("g/.git/"));
    assert!(!bench.tree(add(&format!("--exclude=a {url}#v1"))).await.contains("g/a "));
    let last = repository.git(&["rev-parse", "HEAD"]);
    assert!(bench.tree(add(&format!("--checksum={} {url}", &last[..12]))).await.contains("\"second\""));
    let (kind, text) = bench.failure(add(&format!("--checksum={} {url}", &first[..12]))).await;
    assert!(kind == ErrorKind::Dockerfile && text.contains(&last) && text.contains(&first[..12]), "{text}");
    let (_, text) = bench.failure(add(&format!("{url}#nowhere"))).await;
    assert!(text.contains("has no branch and no tag \"nowhere\""), "{text}");

    let (result, events) = bench.build(add(&url)).await;
    result.unwrap();
    assert_eq!(last_outcome(&events), StepOutcome::Cached);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_may_be_a_context() {
    if !require(&["git"]) {
        return;
    }
    let bench = Bench::new();
    let repository = Repository::new(bench.directory.path());
    let source = |reference: &str, directory: &str| {
        let mut source = GitSource::parse("https://h/x.git").unwrap().unwrap();
        source.remote = repository.url();
        source.refer_to(reference).unwrap();
        directory.clone_into(&mut source.directory);
        ContextSource::Git(source)
    };
    // The rules of an ignore file are for directories of this machine.
    let (result, events) = bench.build(bench.request_of(source("", ""))).await;
    result.unwrap();
    assert_eq!(Layout::open_only(&bench.path("out")).tree(), "a 0644 0:0 \"second\"\n");
    assert!(events.iter().any(|event| matches!(event, Event::Warning { message, .. } if message.contains(".dockerignore"))));
    let mut request = bench.request_of(source("", ""));
    request.build_args.insert("SOURCE_DATE_EPOCH".to_owned(), "context".to_owned());
    assert_eq!(bench.build(request).await.0.unwrap().config.created.unwrap(), "2011-11-11T11:11:11Z", "the time of the commit");
    let (_, text) = bench.failure(bench.request_of(source("v1", ""))).await;
    assert!(text.contains("the context has no Dockerfile Dockerfile"), "{text}");
    let mut request = bench.request("FROM scratch\nCOPY --from=code . /\n");
    request.build_contexts.insert("code".to_owned(), source("main", "d"));
    assert_eq!(bench.tree(request).await, "x 0644 0:0 \"X\"\n");
    let mut request = bench.request("FROM code\n");
    request.build_contexts.insert("code".to_owned(), source("main", "d"));
    assert_eq!(bench.tree(request).await, "x 0644 0:0 \"X\"\n");
}

#[tokio::test]
async fn a_named_directory_has_no_time_for_source_date_epoch_and_an_image_is_not_asked() {
    let bench = Bench::new();
    let mut request = bench.request("FROM scratch\n");
    request.build_args.insert("SOURCE_DATE_EPOCH".to_owned(), "code".to_owned());
    let place = |source| [("code".to_owned(), source)].into();
    request.build_contexts = place(ContextSource::Directory(bench.path("")));
    bench.build(request.clone()).await.0.unwrap();
    request.build_contexts = place(ContextSource::OciLayout { path: bench.path("layout"), image: None });
    let (kind, text) = bench.failure(request).await;
    assert_eq!(
        (kind, &*text),
        (ErrorKind::Request, "SOURCE_DATE_EPOCH is \"code\", and the time of what this names is not supported")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn git_reads_neither_this_machine_nor_the_settings_of_the_user() {
    if !require(&["git"]) {
        return;
    }
    let mut bench = Bench::new();
    let repository = Repository::new(bench.directory.path());
    bench.git.local = LocalRepositories::Refused;
    let mut source = GitSource::parse("https://h/x.git").unwrap().unwrap();
    source.remote = repository.url();
    let (_, text) = bench.failure(bench.request_of(ContextSource::Git(source.clone()))).await;
    assert!(text.contains("transport 'file' not allowed"), "{text}");
    bench.git.search_path = vec![bench.path("empty")];
    let (kind, text) = bench.failure(bench.request_of(ContextSource::Git(source))).await;
    assert!(kind == ErrorKind::Host && text.contains("the program git is needed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_reaches_the_server_of_a_repository_and_no_message() {
    if !require(&["git"]) {
        return;
    }
    let web = Web::start(|request| {
        let basic = "authorization: basic ";
        let header = if request.contains(basic) { vec![] } else { vec!["WWW-Authenticate: Basic realm=\"x\""] };
        answer(if header.is_empty() { "403 Forbidden" } else { "401 Unauthorized" }, &header, b"")
    });
    let bench = Bench::new();
    let mut request = bench.request(&format!("FROM scratch\nADD http://{}/a.git /g/\n", web.address));
    request.secrets.insert("GIT_AUTH_TOKEN".to_owned(), SecretSource::Value(Secret::new("hunter2")));
    let (_, text) = bench.failure(request.clone()).await;
    assert!(text.contains("403") && !text.contains("hunter2"), "{text}");
    // x-access-token:hunter2
    assert!(web.requests().iter().any(|request| request.contains(&"eC1hY2Nlc3MtdG9rZW46aHVudGVyMg==".to_lowercase())));
    request.secrets =
        BTreeMap::from([(format!("GIT_AUTH_HEADER.{}", web.address), SecretSource::Value(Secret::new("basic aGVhZGVy")))]);
    let (_, text) = bench.failure(request).await;
    assert!(text.contains("403"), "{text}");
    assert!(web.requests().iter().any(|request| request.contains("authorization: basic agvhzgvy")));
}
