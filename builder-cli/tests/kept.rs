//! What a state directory keeps of base images for steps that run in plain directories: it saves work, and changes no result.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use testkit::{Disk, Image, require, require_root};

/// A base with all that a layer can hold, and a build that prints what a step sees of it.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        let files = "etc/ 0755 0:0 @9\netc/shadow 0640 0:42 @9 \"secret\"\netc/link -> shadow\nhome/ 2775 1000:1000 @8\n\
                     home/a 0444 1000:1000 @7 \"a\"\nhome/b = home/a\nhome/none 0000 5:6 @7 \"none\"\npipe 0640 3:4 @6 p\n\
                     null 0666 0:0 @6 c 1:3\nsu 4755 0:0 @5 \"su\"\nbytes 0644 0:0 @4 random=3000000";
        Image::new().busybox_layer().layer(files).layer("- etc/link\nhome/c 0600 7:8 @3 \"c\"").write(&scene.path("base"), "1");
        fs::create_dir(scene.path("context")).unwrap();
        // BusyBox has hundreds of names. What the build itself writes has the time of the build.
        let list = "find / -xdev ! -path '/proc*' ! -path '/sys*' ! -path '/dev*' ! -path '/bin/*' ! -name hosts ! -name resolv.conf | sort \
                    | while read -r path; do if [ -d $path ]; then stat -c 'seen %n %a %u:%g' $path; \
                    else stat -c 'seen %N %a %u:%g %s %h %t:%T %F' $path; [ $(stat -c %Y $path) -gt 99 ] || stat -c 'seen %n %Y' $path; fi; \
                    if [ -f $path ]; then echo seen $(sha256sum $path); fi; done";
        let dockerfile = format!(
            "FROM base AS one\nARG SALT\nRUN {list}\nRUN echo more >>/home/a; ln /bytes /linked; mknod /dev0 c 1 5; rm /etc/shadow\n\
             FROM one AS two\nRUN {list}\nFROM one\nRUN {list}\nCOPY --from=two /home /two\n"
        );
        fs::write(scene.path("context/Dockerfile"), dockerfile).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// All that the steps saw, for a `salt` that no build before had.
    fn listing(&self, state: &Path, salt: &str) -> Vec<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_cofferdam"))
            .args(["build", "--no-push", "--isolation", "emulated", "--progress", "plain", "--build-arg"])
            .arg(format!("SALT={salt}"))
            .arg("--build-context")
            .arg(format!("base=oci-layout://{}:1", self.path("base").display()))
            .arg("--state-dir")
            .arg(state)
            .arg(self.path("context"))
            .env_clear()
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let mut seen: Vec<String> = said.lines().filter(|line| line.contains("seen ")).map(str::to_owned).collect();
        // Stages run side by side.
        seen.sort();
        assert!(seen.len() > 50, "{said}");
        seen
    }
}

fn unpacked_in(state: &Path) -> usize {
    fs::read_dir(state.join("unpacked")).map_or(0, Iterator::count)
}

#[test]
fn privileged_steps_see_the_same_base_whether_it_was_kept_or_not() {
    if !require_root() || !require(&["busybox"]) {
        return;
    }
    let scene = Scene::new();
    let expected = scene.listing(&scene.path("elsewhere"), "0");
    for kind in ["xfs", "btrfs"] {
        let Some(disk) = Disk::new(scene.0.path(), kind) else { return };
        let state = disk.path().join("state");
        for (salt, kept) in [("1", 0), ("2", 1), ("3", 1), ("4", 1)] {
            assert_eq!(scene.listing(&state, salt), expected, "{kind}, build {salt}");
            assert_eq!(unpacked_in(&state), kept, "{kind}, after build {salt}");
        }
    }
}
