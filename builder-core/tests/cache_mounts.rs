//! The caches of RUN, carried from one machine to the next.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::build::{
    Backends, BuildRequest, CacheMounts, CacheMountsPlace, ContextSource, DockerfileSource, Event, Export, build,
};
use builder_core::{http, isolation::Kind, registry, store::Store};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use testkit::{FaultyRegistry, Image, Registry, require, require_root};

/// Machines are state directories.
struct Bench {
    directory: tempfile::TempDir,
}

/// What the steps of a build wrote, and what the user was warned of.
struct Built {
    output: String,
    warnings: Vec<String>,
}

impl Bench {
    fn new() -> Option<Self> {
        if !require_root() || !require(&["busybox"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("context")).unwrap();
        Image::new().busybox_layer().write(&directory.path().join("base"), "1");
        Some(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn layout(&self, name: &str) -> CacheMounts {
        whole(CacheMountsPlace::Layout(self.path(name)))
    }

    async fn build(&self, machine: &str, mounts: CacheMounts, instructions: &str) -> Built {
        self.build_by(machine, None, mounts, instructions).await
    }

    async fn build_by(&self, machine: &str, kind: Option<Kind>, mounts: CacheMounts, instructions: &str) -> Built {
        let base = ContextSource::OciLayout { path: self.path("base"), image: Some("1".to_owned()) };
        let request = BuildRequest {
            dockerfile: DockerfileSource::Inline { name: "Dockerfile".to_owned(), text: format!("FROM base\n{instructions}\n") },
            build_contexts: [("base".to_owned(), base)].into(),
            cache_mounts: Some(mounts),
            exports: vec![Export::OciLayout(self.path("image"))],
            ..BuildRequest::new(self.path("context"))
        };
        let client = http::Client::new(http::Options::default()).unwrap();
        let registry = registry::Client::new(client, registry::Options::default(), Arc::new(registry::Anonymous)).unwrap();
        let backends = Backends::new(Store::open(self.path(machine)).unwrap(), registry);
        let backends = match kind {
            Some(kind) => backends.isolated_by(kind),
            None => backends,
        };
        let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
        let listening = tokio::spawn(async move {
            let mut built = Built { output: String::new(), warnings: Vec::new() };
            while let Some(event) = receiver.recv().await {
                match event {
                    Event::StepOutput { bytes, .. } => built.output.push_str(&String::from_utf8_lossy(&bytes)),
                    Event::Warning { message, .. } => built.warnings.push(message),
                    _ => {}
                }
            }
            built
        });
        Box::pin(build(request, backends, sender)).await.unwrap();
        listening.await.unwrap()
    }
}

fn whole(place: CacheMountsPlace) -> CacheMounts {
    CacheMounts { place, imports: true, exports: true, max_bytes: 1 << 20 }
}

const FILL: &str = "RUN --mount=type=cache,target=/c,id=one,uid=7,gid=8,mode=0750 cd /c && mkdir d && echo kept >d/f && \
                    chown 9:10 d/f && chmod 4711 d/f && ln d/f g && ln -s nowhere l && touch -d @1000000000 d/f";
const SHOW: &str = "RUN --mount=type=cache,target=/x,id=one,uid=7,gid=8,mode=0750 \
                    cd /x && stat -c '%n %u %g %a %h %Y %F' . d d/f g l && cat g && readlink l";
const SHOWN: &str = ". 7 8 750 3 TIME directory\nd 0 0 755 2 TIME directory\nd/f 9 10 4711 2 1000000000 regular file\n\
                     g 9 10 4711 2 1000000000 regular file\nl 0 0 777 1 TIME symbolic link\nkept\nnowhere\n";

/// Without the times that are those of this moment.
fn without_now(text: &str) -> String {
    let is_now = |word: &&str| word.len() == 10 && *word != "1000000000" && word.bytes().all(|byte| byte.is_ascii_digit());
    let line = |line: &str| line.split(' ').map(|word| if is_now(&word) { "TIME" } else { word }).collect::<Vec<_>>().join(" ");
    text.lines().map(|text| line(text) + "\n").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_cache_is_what_it_was_on_every_machine_and_in_every_place() {
    let Some(bench) = Bench::new() else { return };
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let repository = format!("{}/team/caches:main", registry.address()).parse().unwrap();
    for (place, mounts) in [("layout", bench.layout("caches")), ("registry", whole(CacheMountsPlace::Registry(repository)))] {
        let on = |machine: &str| format!("{machine}-{place}");
        let filled = bench.build(&on("one"), mounts.clone(), FILL).await;
        assert_eq!(filled.warnings, [""; 0], "{place}");
        for (machine, kind) in [("two", None), ("three", Some(Kind::Emulated))] {
            let shown = bench.build_by(&on(machine), kind, mounts.clone(), SHOW).await;
            assert_eq!(shown.warnings, [""; 0], "{place} {machine}");
            assert_eq!(without_now(&shown.output), SHOWN, "{place} {machine}");
        }
        // Another owner, mode or id is another cache.
        let other = bench.build(&on("four"), mounts.clone(), "RUN --mount=type=cache,target=/x,id=one ls /x").await;
        assert_eq!(other.output, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_only_a_changed_cache_is_exported_and_equal_contents_are_equal_images() {
    let Some(bench) = Bench::new() else { return };
    bench.build("one", bench.layout("caches"), FILL).await;
    let index = || fs::read_to_string(bench.path("caches/index.json")).unwrap();
    let (first, files) = (index(), files_below(&bench.path("caches")));
    let written = || fs::metadata(bench.path("caches/index.json")).unwrap().modified().unwrap();
    let then = written();
    bench.build("one", bench.layout("caches"), SHOW).await;
    bench.build("two", bench.layout("caches"), SHOW).await;
    assert_eq!(written(), then, "nothing has changed");

    // The machine that has imported it exports the same to a place that does not have it.
    let elsewhere = CacheMounts { imports: false, ..bench.layout("elsewhere") };
    bench.build("two", elsewhere, &SHOW.replace("/x", "/y")).await;
    assert_eq!(fs::read_to_string(bench.path("elsewhere/index.json")).unwrap(), first);

    let change = "RUN --mount=type=cache,target=/c,id=one,uid=7,gid=8,mode=0750 echo changed >/c/g";
    bench.build("two", bench.layout("caches"), change).await;
    assert_ne!(index(), first);
    assert_eq!(files_below(&bench.path("caches")).len(), files.len(), "what was replaced is gone");
    let show = "RUN --mount=type=cache,target=/c,id=one,uid=7,gid=8,mode=0750 cat /c/d/f";
    assert_eq!(bench.build("one", bench.layout("caches"), show).await.output, "kept\n", "what is here stays");
    assert_eq!(bench.build("three", bench.layout("caches"), show).await.output, "changed\n");

    // Another cache in the same place.
    bench.build("one", bench.layout("caches"), "RUN --mount=type=cache,target=/other echo x >/other/f").await;
    assert_eq!(bench.build("four", bench.layout("caches"), show).await.output, "changed\n");
    let images = serde_json::from_str::<serde_json::Value>(&index()).unwrap();
    assert_eq!(images["manifests"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_cache_that_cannot_be_carried_is_a_warning_and_one_that_is_not_wanted_is_not_asked_for() {
    let Some(bench) = Bench::new() else { return };
    if !require(&["docker-registry"]) {
        return;
    }
    let write = "RUN --mount=type=cache,target=/c head -c 100000 /dev/zero >/c/f";
    let small = CacheMounts { max_bytes: 99_999, ..bench.layout("caches") };
    let built = bench.build("one", small.clone(), write).await;
    assert_eq!(built.warnings, ["the cache \"/c\" is not exported: it has 100000 bytes, and 99999 are allowed"]);
    bench.build("one", bench.layout("caches"), &write.replace("head", "true; head")).await;
    let built = bench.build("two", CacheMounts { exports: false, ..small }, "RUN --mount=type=cache,target=/c ls /c").await;
    assert_eq!(built.output, "");
    assert!(built.warnings[0].starts_with("the cache \"/c\" cannot be imported and begins empty: "), "{:?}", built.warnings);

    // Wrong bytes under the right name.
    let largest = files_below(&bench.path("caches")).into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    fs::write(&largest, "nonsense").unwrap();
    let built = bench.build("three", bench.layout("caches"), "RUN --mount=type=cache,target=/c ls /c").await;
    assert_eq!((built.output.as_str(), built.warnings.len()), ("", 1), "{:?}", built.warnings);

    fs::write(bench.path("file"), "").unwrap();
    let built = bench.build("four", bench.layout("file"), write).await;
    assert!(built.warnings.iter().any(|text| text.starts_with("the cache \"/c\" is not exported: ")), "{:?}", built.warnings);

    let refusing = FaultyRegistry::start();
    let repository = format!("{}/caches", testkit::Endpoint::address(&refusing)).parse().unwrap();
    let mounts = whole(CacheMountsPlace::Registry(repository));
    let without = bench.build("five", mounts.clone(), "RUN echo none\nRUN --mount=type=tmpfs,target=/c echo x").await;
    assert_eq!((without.warnings.len(), refusing.requests().len()), (0, 0), "{:?}", refusing.requests());
    bench.build("six", bench.layout("caches"), "RUN --mount=type=cache,target=/c echo x >/c/f").await;
    let cached = bench.build("six", mounts, "RUN --mount=type=cache,target=/c echo x >/c/f").await;
    assert_eq!((cached.warnings.len(), refusing.requests().len()), (0, 0), "the step is known: {:?}", refusing.requests());
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(directory).into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}
