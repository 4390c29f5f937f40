//! Base images that are brought ahead of the builds that want them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};
use testkit::{Image, Registry, require};

struct Bench {
    directory: tempfile::TempDir,
    registry: Registry,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { directory: tempfile::tempdir().unwrap(), registry: Registry::start() };
        Image::new().layer("etc/ 0755 0:0\netc/motd 0644 0:0 random=100000").push(&bench.registry, "base:1");
        Image::new().layer("opt/ 0755 0:0\nopt/tool 0755 0:0 random=100000").push(&bench.registry, "tool:2");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.address())
    }

    fn dockerfile(&self, text: &str) -> String {
        let path = self.path("context/Dockerfile");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text.replace("REGISTRY", self.registry.address())).unwrap();
        path.display().to_string()
    }

    /// The layers that were downloaded since, by their number.
    fn layers_asked_for(&self, since: usize) -> usize {
        let requests = self.registry.requests();
        let configs = requests[since..].iter().filter(|request| request.starts_with("GET") && request.contains("/blobs/"));
        // Each image has a config as well, which is a blob to the registry.
        configs.filter(|request| self.layers().iter().any(|digest| request.contains(digest.as_str()))).count()
    }

    /// Waits until that many were downloaded: the registry writes its log when it has answered.
    fn await_layers(&self, since: usize, expected: usize) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while self.layers_asked_for(since) < expected {
            assert!(Instant::now() < deadline, "{:?}", self.registry.requests());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.layers_asked_for(since), expected);
    }

    fn layers(&self) -> Vec<String> {
        let layer = |name| self.registry.manifest(name)["layers"][0]["digest"].as_str().unwrap().to_owned();
        ["base:1", "tool:2"].map(layer).to_vec()
    }
}

fn cofferdam(directory: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cofferdam")).args(words).current_dir(directory).env_clear().output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_warmed_image_is_not_downloaded_by_the_build_that_wants_it() {
    if !require(&["docker-registry"]) {
        return;
    }
    let bench = Bench::new();
    let here = bench.directory.path();
    let dockerfile = bench.dockerfile("ARG NAME\nFROM REGISTRY/$NAME AS unused\nFROM REGISTRY/base:1\nCOPY Dockerfile /\n");
    let warmed = cofferdam(here, &["warm", "--dockerfile", &dockerfile, "--build-arg=NAME=tool:2", "--state-dir=state"]);
    assert!(warmed.status.success(), "{}", said(&warmed));
    assert!(said(&warmed).contains("base:1 for linux/amd64: 1 layers of 10"), "{}", said(&warmed));
    assert!(said(&warmed).contains("tool:2"), "{}", said(&warmed));
    bench.await_layers(0, 2);

    // Exported, so that every byte of the base is wanted.
    let asked = bench.registry.requests().len();
    let words = ["build", "-f", &dockerfile, "--build-arg=NAME=tool:2", "--state-dir=state", "--tar-path=image.tar", "context"];
    let built = cofferdam(here, &words);
    assert!(built.status.success(), "{}", said(&built));
    assert_eq!(bench.layers_asked_for(asked), 0);

    let again = cofferdam(here, &["warm", "-i", &bench.image("base:1"), "--state-dir=state"]);
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(bench.layers_asked_for(asked), 0);
    let listed = String::from_utf8(cofferdam(here, &["cache", "ls", "--state-dir=state"]).stdout).unwrap();
    assert!(listed.contains(&format!("of {} for linux/amd64", bench.image("base:1"))), "{listed}");

    // Of the right length, with wrong bytes.
    let hex = bench.layers()[0].replace("sha256:", "");
    let blob = bench.path("state/blobs/sha256").join(hex);
    let whole = fs::read(&blob).unwrap();
    fs::write(&blob, vec![0; whole.len()]).unwrap();
    let forced = cofferdam(here, &["warm", "-f", "-i", &bench.image("base:1"), "--state-dir=state"]);
    assert!(forced.status.success(), "{}", said(&forced));
    bench.await_layers(asked, 1);
    assert_eq!(fs::read(&blob).unwrap(), whole);
}

#[test]
fn a_cache_directory_is_read_beside_the_state() {
    if !require(&["docker-registry"]) {
        return;
    }
    let bench = Bench::new();
    let here = bench.directory.path();
    let warmed = cofferdam(here, &["warm", "-i", &bench.image("base:1"), "-c", "warmed"]);
    assert!(warmed.status.success(), "{}", said(&warmed));
    let dockerfile = bench.dockerfile("FROM REGISTRY/base:1\nCOPY Dockerfile /\n");
    let asked = bench.registry.requests().len();
    let words = ["build", "-f", &dockerfile, "--cache-dir=warmed", "--state-dir=state", "--oci-layout-path=image", "context"];
    let before = files_below(&bench.path("warmed"));
    let built = cofferdam(here, &words);
    assert!(built.status.success(), "{}", said(&built));
    assert_eq!(bench.layers_asked_for(asked), 0);
    assert_eq!(files_below(&bench.path("warmed")), before, "it is only read");
    let layer = bench.layers()[0].replace("sha256:", "");
    assert!(!bench.path("state/blobs/sha256").join(&layer).exists());
    assert!(bench.path("image/blobs/sha256").join(&layer).exists());

    // Without a state directory the state goes there, if that can be written.
    let words = ["build", "-f", &dockerfile, "--cache-dir=warmed", "--no-push", "context"];
    assert!(cofferdam(here, &words).status.success());
    assert_ne!(files_below(&bench.path("warmed")), before);
}

#[test]
fn an_image_named_by_its_digest_is_built_upon_without_its_registry() {
    if !require(&["docker-registry"]) {
        return;
    }
    let bench = Bench::new();
    let image = format!("{}@{}", bench.image("base"), bench.registry.digest("base:1"));
    let warmed = cofferdam(bench.directory.path(), &["warm", "-i", &image, "--state-dir=state"]);
    assert!(warmed.status.success(), "{}", said(&warmed));
    let dockerfile = bench.dockerfile(&format!("FROM {image}\nCOPY Dockerfile /\n"));
    let Bench { directory, registry } = bench;
    drop(registry);
    let words = ["build", "-f", &dockerfile, "--state-dir=state", "--tar-path=image.tar", "context"];
    let built = cofferdam(directory.path(), &words);
    assert!(built.status.success(), "{}", said(&built));
}

#[test]
fn the_program_called_warmer_warms() {
    let directory = tempfile::tempdir().unwrap();
    let warmer = directory.path().join("warmer");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_cofferdam"), &warmer).unwrap();
    let warm = |words: &[&str]| Command::new(&warmer).args(words).env_clear().output().unwrap();
    let output = warm(&[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(said(&output).starts_with("error: no image is named\n"), "{}", said(&output));
    assert!(String::from_utf8(warm(&["--help"]).stdout).unwrap().contains("cofferdam warm"));
}

#[test]
fn an_image_that_cannot_be_had_is_a_failure_only_if_none_can() {
    if !require(&["docker-registry"]) {
        return;
    }
    let bench = Bench::new();
    let here = bench.directory.path();
    let (there, absent) = (bench.image("base:1"), bench.image("absent:1"));
    let some = cofferdam(here, &["warm", "-i", &there, "-i", &absent, "--state-dir=state"]);
    assert!(some.status.success(), "{}", said(&some));
    assert!(said(&some).contains(&format!("warning: {absent} is not here: ")), "{}", said(&some));
    let none = cofferdam(here, &["warm", "-i", &absent, "--state-dir=state"]);
    assert_eq!(none.status.code(), Some(69), "{}", said(&none));
    assert!(said(&none).contains(&absent), "{}", said(&none));
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}
