//! The published image: built by Cofferdam from the Dockerfile at the top, unpacked by others, and used in real containers as
//! pipelines use it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::pod::{Pod, PodKind};
use testkit::{Access, Bundle, Image, Layout, Registry, RegistryOptions, require, require_root, static_cofferdam};

/// What the images are made of, and where they are.
struct Images(tempfile::TempDir);

impl Images {
    /// What this machine has in place of the stages that need a registry.
    fn new() -> Images {
        let images = Images(tempfile::tempdir().unwrap());
        let put = |from: &Path, to: &str| {
            let to = images.0.path().join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, &to).unwrap();
        };
        put(&static_cofferdam(), "build/cofferdam");
        put(Path::new("/bin/busybox"), "debian/bin/busybox");
        put(Path::new("/etc/ssl/certs/ca-certificates.crt"), "debian/etc/ssl/certs/ca-certificates.crt");
        images
    }

    /// The place of a target once it is built.
    fn layout(&self, target: &str) -> PathBuf {
        self.0.path().join(target)
    }

    /// Builds a target of the Dockerfile.
    fn build(&self, target: &str) -> Layout {
        let layout = self.layout(target);
        let stage = |name: &str| format!("--build-context={name}={}", self.0.path().join(name).display());
        let output = Command::new(static_cofferdam())
            .args(["build", "--no-push", "--destination=r.example/cofferdam:latest", "--target", target])
            .args([stage("build"), stage("debian")])
            .args([
                "--state-dir".as_ref(),
                self.0.path().join("state").as_os_str(),
                "--oci-layout-path".as_ref(),
                layout.as_os_str(),
            ])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Layout::open(&layout, "latest")
    }
}

/// A pod whose container is the image, as its config says.
fn pod(kind: PodKind, image: &Layout, files: &Bundle) -> Pod {
    let config = &image.config()["config"];
    let variables = config["Env"].as_array().unwrap().iter().filter_map(Value::as_str);
    let pod = Pod::with_rootfs(kind, &files.rootfs()).directory(config["WorkingDir"].as_str().unwrap());
    variables.fold(pod, |pod, variable| {
        let (name, value) = variable.split_once('=').unwrap();
        pod.env(name, value)
    })
}

/// A registry as companies have it, with a base image in it.
fn registry() -> Registry {
    let access = Access::Password { user: "anna".to_owned(), password: "hunter2".to_owned() };
    let registry = Registry::start_with(RegistryOptions { access, tls: true, ..RegistryOptions::default() });
    Image::new().busybox_layer().push(&registry, "base:latest");
    registry
}

fn dockerfile(registry: &Registry) -> String {
    format!("FROM {}/base\nRUN id -u > /who && chown 33:33 /who && mkdir /made\nCOPY greeting /made/\n", registry.address())
}

const CHANGES: [&str; 3] = ["made/ 0755 0:0", r#"made/greeting 0644 0:0 "hello\n""#, r#"who 0644 33:33 "0\n""#];

fn assert_built(registry: &Registry, name: &str) {
    let tree = registry.pull(name).tree();
    let lines: Vec<&str> = tree.lines().filter(|line| line.starts_with("made") || line.starts_with("who")).collect();
    assert_eq!(lines, CHANGES);
}

fn context(pod: &Pod, at: &str, registry: &Registry) {
    let directory = pod.volume_path(at);
    fs::write(directory.join("Dockerfile"), dockerfile(registry)).unwrap();
    fs::write(directory.join("greeting"), "hello\n").unwrap();
    for name in ["Dockerfile", "greeting"] {
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
}

#[test]
fn privileged_the_image_is_a_static_program_with_certificates_and_kanikos_places() {
    if !require(&["umoci", "skopeo", "busybox"]) || !require_root() {
        return;
    }
    let images = Images::new();
    let image = images.build("program");
    let config = &image.config()["config"];
    assert_eq!(config["Entrypoint"], serde_json::json!(["/kaniko/executor"]));
    assert_eq!(config["WorkingDir"], "/workspace");
    let files = image.unpack();
    let found = |path: &str| files.rootfs().join(path).symlink_metadata().unwrap_or_else(|error| panic!("{path}: {error}"));
    for name in ["bin/cofferdam", "kaniko/warmer"] {
        assert_eq!(found("kaniko/executor").ino(), found(name).ino(), "one file");
    }
    assert_eq!(found("kaniko/executor").mode() & 0o7777, 0o755);
    let certificates = fs::read_to_string(files.rootfs().join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert!(certificates.matches("BEGIN CERTIFICATE").count() > 50);
    for path in ["workspace", "cache", "tmp", "kaniko/.docker"] {
        assert_eq!(found(path).mode() & 0o7777, 0o1777, "{path}");
    }
    let mut all: Vec<PathBuf> = walk(&files.rootfs());
    all.retain(|path| path.is_file());
    assert_eq!(all.len(), 6, "nothing else: {all:?}");
    let program = fs::read(files.rootfs().join("bin/cofferdam")).unwrap();
    assert!(!program.windows(14).any(|bytes| bytes == b"ld-linux-x86-6"), "a static program");
}

#[test]
fn privileged_it_can_be_copied_into_another_image() {
    if !require(&["umoci", "skopeo", "runc", "busybox"]) || !require_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // Kaniko's users copy `executor` by its path; the other name is the same file.
    let dockerfile =
        "FROM base\nCOPY --from=builder /kaniko/executor /usr/local/bin/\nCOPY --from=builder /bin/cofferdam /usr/local/bin/\n";
    fs::create_dir(at("context")).unwrap();
    fs::write(at("context/Dockerfile"), dockerfile).unwrap();
    Image::new().busybox_layer().write(&at("base"), "latest");
    let images = Images::new();
    images.build("program");
    let builder = images.layout("program");
    let output = Command::new(static_cofferdam())
        .args(["build", "--no-push", "--destination=r.example/own:latest"])
        .args(
            [("base", at("base")), ("builder", builder)]
                .map(|(name, path)| format!("--build-context={name}=oci-layout://{}:latest", path.display())),
        )
        .args(["--state-dir".as_ref(), at("state").as_os_str(), "--oci-layout-path".as_ref(), at("own").as_os_str()])
        .arg(at("context"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let own = Layout::open(&at("own"), "latest").unpack();
    for program in ["/usr/local/bin/executor", "/usr/local/bin/cofferdam"] {
        let finished = own.run(&[program, "version"]);
        assert_eq!(
            (finished.code, finished.stdout),
            (Some(0), format!("cofferdam {}\n", env!("CARGO_PKG_VERSION"))),
            "{program}"
        );
    }
}

#[test]
fn privileged_it_builds_as_whoever_the_pod_says() {
    if !require(&["umoci", "skopeo", "runc", "busybox", "docker-registry", "htpasswd", "openssl"]) || !require_root() {
        return;
    }
    let images = Images::new();
    let (image, registry) = (images.build("program"), registry());
    let config = registry.docker_config().join("config.json");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let authority = registry.authority_certificate().unwrap();
    for kind in [PodKind::Restricted, PodKind::Openshift, PodKind::Baseline] {
        let files = image.unpack();
        let pod = pod(kind, &image, &files)
            .volume("/workspace")
            .read_only_bind(&config, "/kaniko/.docker/config.json")
            .read_only_bind(&authority, "/etc/ssl/certs/ca-certificates.crt");
        context(&pod, "/workspace", &registry);
        let name = kind.name();
        let destination = format!("--destination={}/{name}:1", registry.address());
        // As Kubernetes starts it: the entrypoint of the image and the arguments of the pod.
        let built = pod.run(&["/kaniko/executor", "--context=dir:///workspace", "--dockerfile=Dockerfile", &destination]);
        assert_eq!(built.code, Some(0), "{name}: {}{}", built.stdout, built.stderr);
        assert_built(&registry, &format!("{name}:1"));
        let state = files.rootfs().join("cache/cofferdam").metadata().unwrap();
        assert_eq!((state.uid(), state.mode() & 0o777), (kind.host_ids().0, 0o700), "{name}: the cache is its own");
    }
}

/// What GitLab's runner starts in place of an entrypoint, as far as it matters: the first shell of a list that is there reads
/// the script of the job.
const GITLAB_SHELL: &str = "if [ -x /usr/local/bin/bash ]; then exec /usr/local/bin/bash; elif [ -x /usr/bin/bash ]; then exec /usr/bin/bash; \
    elif [ -x /bin/bash ]; then exec /bin/bash; elif [ -x /usr/local/bin/sh ]; then exec /usr/local/bin/sh; elif [ -x /usr/bin/sh ]; then \
    exec /usr/bin/sh; elif [ -x /bin/sh ]; then exec /bin/sh; elif [ -x /busybox/sh ]; then exec /busybox/sh; else echo shell not found; exit 1; fi";

#[test]
fn privileged_the_debug_image_runs_the_script_of_a_gitlab_job() {
    if !require(&["umoci", "skopeo", "runc", "busybox", "docker-registry", "htpasswd", "openssl"]) || !require_root() {
        return;
    }
    let images = Images::new();
    let (image, registry) = (images.build("debug"), registry());
    let authority = registry.authority_certificate().unwrap();
    for kind in [PodKind::Baseline, PodKind::Restricted] {
        let files = image.unpack();
        let pod = pod(kind, &image, &files).volume("/builds").read_only_bind(&authority, "/etc/ssl/certs/ca-certificates.crt");
        context(&pod, "/builds", &registry);
        let script = format!(
            r#"set -eo pipefail
mkdir -p /kaniko/.docker
echo "{{\"auths\":{{\"$CI_REGISTRY\":{{\"auth\":\"$(printf "%s:%s" anna hunter2 | base64 | tr -d '\n')\"}}}}}}" > /kaniko/.docker/config.json
cofferdam doctor | head -n 1
/kaniko/executor --context "$CI_PROJECT_DIR" --dockerfile "$CI_PROJECT_DIR/Dockerfile" --destination "$CI_REGISTRY/{}:2"
ls -l /builds | wc -l
"#,
            kind.name()
        );
        fs::write(pod.volume_path("/builds").join("script"), script).unwrap();
        let pod = pod.env("CI_PROJECT_DIR", "/builds").env("CI_REGISTRY", registry.address());
        let finished = pod.run(&["sh", "-c", &format!("{{ {GITLAB_SHELL}; }} < /builds/script")]);
        assert_eq!(finished.code, Some(0), "{}: {}{}", kind.name(), finished.stdout, finished.stderr);
        assert!(finished.stdout.starts_with("RUN works here: "), "{}", finished.stdout);
        assert_built(&registry, &format!("{}:2", kind.name()));
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
