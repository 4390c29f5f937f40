//! A state directory whose disk has too little room: each build says so and how to help, and leaves the directory usable.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use testkit::{Image, require, require_root};

const HINT: &str = "name a larger volume with --state-dir";

/// A disk of so many MiB at `path`, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(path: PathBuf, mebibytes: u32) -> Self {
        fs::create_dir(&path).unwrap();
        mount(&["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"], &path);
        Self(path)
    }

    fn grow(&self, mebibytes: u32) {
        mount(&["-o", &format!("remount,size={mebibytes}m")], &self.0);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status().is_ok_and(|status| status.success());
        assert!(unmounted || std::thread::panicking());
        let _ = fs::remove_dir(&self.0);
    }
}

fn mount(words: &[&str], path: &Path) {
    assert!(Command::new("mount").args(words).arg(path).status().unwrap().success());
}

/// An image of 8 MiB that cannot be made smaller, beside the programs of busybox.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        Image::new().busybox_layer().layer("bytes 0644 0:0 random=8388608").write(&scene.path("base"), "1");
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn build(&self, state: &Path, isolation: &str, step: &str, more: &[&str]) -> Output {
        let context = self.path("context");
        fs::create_dir_all(&context).unwrap();
        fs::write(context.join("Dockerfile"), format!("FROM base\nRUN {step}\n")).unwrap();
        let base = format!("base=oci-layout://{}:1", self.path("base").display());
        Command::new(env!("CARGO_BIN_EXE_cofferdam"))
            .args(["build", "--no-push", "--isolation", isolation, "--build-context", &base, "--state-dir"])
            .arg(state)
            .args(more)
            .arg(context)
            .env_clear()
            .output()
            .unwrap()
    }
}

/// What of a build is left in a state directory.
fn left_in(state: &Path) -> Vec<PathBuf> {
    let entries = |name: &str| fs::read_dir(state.join(name)).unwrap().map(|entry| entry.unwrap().path());
    ["builds", "parts"].into_iter().flat_map(entries).collect()
}

#[test]
fn privileged_a_full_state_directory_is_told_and_usable_when_it_has_room() {
    if !require_root() || !require(&["mount", "umount", "busybox"]) {
        return;
    }
    let scene = Scene::new();
    let fill = "dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null";
    for (name, isolation, mebibytes, step, code) in [
        ("no room for the base's layer", "emulated", 5, "true", 72),
        ("no room for the base's files", "emulated", 12, "true", 72),
        ("no room for what the step writes", "emulated", 30, fill, 1),
        ("no room for the layer of the step", "emulated", 30, "dd if=/dev/urandom of=/big bs=1M count=8 2>/dev/null", 72),
        ("no room for the base's layer, namespaces", "namespaces", 5, "true", 72),
        ("no room for what the step writes, namespaces", "namespaces", 30, fill, 1),
    ] {
        let disk = Disk::new(scene.path("disk"), mebibytes);
        let state = disk.0.join("state");
        let refused = scene.build(&state, isolation, step, &[]);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(code), "{name}: {said}");
        assert!(said.contains("Dockerfile:2") && said.contains(HINT), "{name}: {said}");
        assert_eq!(left_in(&state), Vec::<PathBuf>::new(), "{name}");

        disk.grow(200);
        let built = scene.build(&state, isolation, step, &[]);
        assert!(built.status.success(), "{name}: {}", String::from_utf8_lossy(&built.stderr));
    }
}

#[test]
fn privileged_an_image_that_finds_no_room_is_told_with_its_place() {
    if !require_root() || !require(&["mount", "umount", "busybox"]) {
        return;
    }
    let scene = Scene::new();
    let disk = Disk::new(scene.path("disk"), 5);
    let (layout, state) = (disk.0.join("image"), scene.path("state"));
    let words = ["--oci-layout-path", layout.to_str().unwrap()];
    let refused = scene.build(&state, "emulated", "true", &words);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(73), "{said}");
    assert!(said.contains(layout.to_str().unwrap()) && said.contains("No space left on device"), "{said}");

    disk.grow(50);
    let built = scene.build(&state, "emulated", "true", &words);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}
