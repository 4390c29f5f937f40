//! The program copied into another image: it builds beside other commands, and nothing around it changes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use testkit::pod::{Pod, PodKind};
use testkit::{Image, require, require_root, static_cofferdam};

/// Builds in the way of Kaniko and in that of Docker; what a step does to its own root must not be done to this one.
const DOCKERFILE: &str = "FROM base
RUN rm -rf /home /usr /var /etc/passwd && mkdir /made && echo made > /made/file && ln -sf /nowhere /bin/ls
RUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo \\\"$0\\\" > /made/argument; chown 7:7 /made\"]
COPY --chown=5:5 Dockerfile /made/
";

/// The first process of the container. `look` shows everything outside of volumes: `ls -la /`, then each file, directory and link
/// with its mode, owner, size and times, then a checksum of each file.
const SCRIPT: &str = r#"
look() {
    echo "<<< look"
    # The number of links of /proc is that of the processes.
    ls -la / | grep -v ' proc$'
    find / -xdev -path /volumes/state -prune -o -exec stat -c '%n %F %f %u:%g %s %Y %Z %N' {} +
    find / -xdev -path /volumes/state -prune -o -type f -exec sha256sum {} + 2>/dev/null
    echo ">>>"
}
build() { "$@" --state-dir /volumes/state/kept --no-push --no-cache --build-context base=oci-layout:///base:latest >/volumes/state/log-$$-$# 2>&1 || { cat /volumes/state/log-$$-$#; exit 1; }; }
# Somebody else who works here.
( while :; do ls / >/dev/null && cat /etc/passwd >/dev/null && date >>/volumes/state/beside || echo broken >/volumes/state/broken; sleep 0.1; done ) &
beside=$!
look
build /kaniko/executor --context /context --dockerfile /context/Dockerfile
look
build cofferdam build /context
look
build /kaniko/executor --context=/context --label a=b & first=$!
build cofferdam build --label c=d /context & second=$!
ls -la / >/dev/null
wait $first || exit 2
wait $second || exit 3
look
kill -0 $beside || { echo "the one beside us is dead"; exit 4; }
test ! -e /volumes/state/broken || { echo "the one beside us was disturbed"; exit 5; }
echo "left: $(ls -A /volumes/state/kept/builds)"
"#;

#[test]
fn privileged_nothing_around_it_changes() {
    if !require(&["runc", "busybox", "skopeo", "umoci"]) || !require_root() {
        return;
    }
    let program = static_cofferdam();
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
    Image::new()
        .busybox_layer()
        .layer("etc/ 0755 0:0\netc/passwd 0644 0:0 \"root:x:0:0::/:/bin/sh\\n\"")
        .write(&base.path().join("layout"), "latest");
    for kind in [PodKind::Baseline, PodKind::Restricted, PodKind::Privileged] {
        let pod = Pod::new(kind).volume("/volumes/state").volume("/context").read_only_bind(&base.path().join("layout"), "/base");
        for at in ["kaniko/executor", "usr/bin/cofferdam"] {
            let path = pod.rootfs().join(at);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(&program, &path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(pod.volume_path("/context").join("Dockerfile"), DOCKERFILE).unwrap();
        let finished = pod.run(&["sh", "-c", SCRIPT]);
        let name = kind.name();
        let output = &finished.stdout;
        assert_eq!(
            finished.code,
            Some(0),
            "{name}: {}\n{}",
            output.lines().rev().take(30).collect::<Vec<_>>().join("\n"),
            finished.stderr
        );
        let looks: Vec<&str> = output.split("<<< look\n").skip(1).map(|rest| rest.split(">>>").next().unwrap()).collect();
        assert_eq!(looks.len(), 4, "{name}");
        for what in ["drwxrwxrwt", "/etc/passwd regular file 81a4 0:0", "'/bin/sh' -> 'busybox'", "  /kaniko/executor\n"] {
            assert!(looks[0].contains(what), "{name}: no {what:?} was seen");
        }
        for look in &looks[1..] {
            let changed: Vec<&str> = look.lines().filter(|line| !looks[0].contains(line)).collect();
            assert!(*look == looks[0], "{name}: {changed:#?}");
        }
        assert!(output.ends_with("left: \n"), "{name}: {output}");
    }
}

#[test]
fn privileged_one_writable_volume_suffices_where_the_root_is_read_only() {
    if !require(&["runc", "busybox", "skopeo", "umoci"]) || !require_root() {
        return;
    }
    let program = static_cofferdam();
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
    Image::new().busybox_layer().write(&base.path().join("layout"), "latest");
    let context = base.path().join("context");
    fs::create_dir(&context).unwrap();
    // A bind of the context, which is read-only like all else: what a step sees of it comes from there as it is.
    let dockerfile =
        "FROM base\nRUN --mount=type=bind,source=file,target=/file --mount=type=bind,target=/all cat /file /all/file > /who\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    fs::write(context.join("file"), "text").unwrap();
    for (kind, volume, variable, state) in [
        (PodKind::Restricted, "/cache", None, "/cache/cofferdam"),
        (PodKind::Baseline, "/workspace", None, "/workspace/cofferdam"),
        (PodKind::Openshift, "/tmp", None, "/tmp/.cache/cofferdam"),
        (PodKind::Restricted, "/scratch", Some("TMPDIR"), "/scratch/cofferdam-1000"),
        (PodKind::HostusersFalse, "/scratch", Some("XDG_CACHE_HOME"), "/scratch/cofferdam"),
        (PodKind::Privileged, "/scratch", Some("COFFERDAM_STATE"), "/scratch"),
    ] {
        let pod =
            Pod::new(kind).read_only_bind(&program, "/usr/bin/cofferdam").read_only_bind(&base.path().join("layout"), "/base");
        let pod = pod.read_only_bind(&context, "/context").volume(volume).read_only_root();
        let pod = variable.into_iter().fold(pod, |pod, variable| pod.env(variable, volume));
        let words = ["/usr/bin/cofferdam", "build", "--no-push", "--build-context=base=oci-layout:///base:latest", "/context"];
        let built = pod.run(&words);
        let name = kind.name();
        assert_eq!(built.code, Some(0), "{name} {volume}: {}", built.stderr);
        let kept = pod.volume_path(volume).join(state.strip_prefix(volume).unwrap().trim_start_matches('/'));
        assert!(kept.join("blobs").is_dir(), "{name}: the state is in {state}");
    }
}
