//! Steps run for real: what they see, how they end, what stays.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::{
    isolation::{
        Access, CancelToken, Choice, ExitStatus, FileContent, Identity, Isolation as _, Mount, MountKind, Namespaces, Network,
        Privileges, Proc, RunError, Step, Stream, choose, probe,
    },
    rootfs::{OverlayAttributes, RootMount},
    tree::TreePath,
};
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A state directory with a busybox root in it.
struct Fixture {
    directory: tempfile::TempDir,
    isolation: Namespaces,
}

/// How a step went.
struct Ran {
    status: Result<ExitStatus, RunError>,
    output: String,
    error: String,
}

impl Fixture {
    fn new() -> Option<Self> {
        if !testkit::require_root() || !testkit::require(&["busybox"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("tmp")).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in ["sh", "ls", "cat", "env", "id", "sleep", "hostname", "wc", "mount", "ps", "grep", "touch", "stat", "mknod"] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let facts = probe(directory.path()).unwrap();
        let isolation = Namespaces::new(choose(&facts, None).unwrap());
        Some(Self { directory, isolation })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn step(&self, script: &str) -> Step {
        Step {
            root: RootMount::Directory { path: self.path("root") },
            arguments: ["/bin/sh", "-c", script].map(OsString::from).to_vec(),
            environment: vec![("PATH".into(), "/bin".into())],
            directory: TreePath::root(),
            identity: Identity::default(),
            host_name: "buildkitsandbox".to_owned(),
            network: Network::Host,
            privileges: Privileges::Usual,
            mounts: Vec::new(),
            resolv_conf: b"nameserver 192.0.2.1\n".to_vec(),
            hosts: b"127.0.0.1 localhost\n".to_vec(),
            time_limit: Some(Duration::from_mins(1)),
        }
    }

    fn run(&self, step: &Step) -> Ran {
        let (mut output, mut error) = (Vec::new(), Vec::new());
        let mut sink = |stream: Stream, bytes: &[u8]| match stream {
            Stream::Output => output.extend_from_slice(bytes),
            Stream::Error => error.extend_from_slice(bytes),
        };
        let status = self.isolation.run(step, &mut sink, &CancelToken::new().unwrap());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { status, output: text(output), error: text(error) }
    }

    fn sh(&self, script: &str) -> String {
        let ran = self.run(&self.step(script));
        assert_eq!(ran.status.unwrap(), ExitStatus::Code(0), "{script}: {}", ran.error);
        ran.output
    }

    /// The root over an upper directory, which is given too.
    fn overlay(&self, name: &str) -> (RootMount, PathBuf) {
        let [upper, work, mount_point] = ["upper", "work", "merged"].map(|kind| self.path(&format!("{kind}{name}")));
        for path in [&upper, &work, &mount_point] {
            fs::create_dir(path).unwrap();
        }
        let root = RootMount::Overlay {
            lower: vec![self.path("root")],
            upper: upper.clone(),
            work,
            attributes: OverlayAttributes::Trusted,
            mount_point,
        };
        (root, upper)
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

#[test]
fn privileged_a_step_ends_as_its_command_ended() {
    let Some(fixture) = Fixture::new() else { return };
    for (script, expected) in [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 7", ExitStatus::Code(7)),
        ("kill -TERM $$", ExitStatus::Signal(15)),
        ("kill -KILL $$", ExitStatus::Signal(9)),
        ("nosuchprogram", ExitStatus::Code(127)),
    ] {
        assert_eq!(fixture.run(&fixture.step(script)).status.unwrap(), expected, "{script}");
    }
    assert_eq!(ExitStatus::Signal(9).code(), 137);
}

#[test]
fn privileged_a_step_does_not_see_the_arguments_of_the_builder() {
    let Some(fixture) = Fixture::new() else { return };
    let shown = fixture.sh("cat /proc/1/cmdline");
    assert_eq!(shown.trim_end_matches('\0'), "", "they may hold secrets");
    assert!(fs::read("/proc/self/cmdline").unwrap().len() > 1, "the builder keeps its own");
}

#[test]
fn privileged_a_program_that_cannot_start_is_named() {
    let Some(fixture) = Fixture::new() else { return };
    fs::write(fixture.path("root/bin/plain"), "text").unwrap();
    fs::write(fixture.path("root/bin/script"), "#!/no/interpreter\n").unwrap();
    fs::set_permissions(fixture.path("root/bin/script"), fs::Permissions::from_mode(0o755)).unwrap();
    for (program, code, message) in [
        ("missing", 127, "\"missing\" not found in the image"),
        ("/missing", 127, "\"/missing\" not found in the image"),
        ("plain", 126, "cannot execute \"plain\""),
        ("/bin/script", 126, "cannot execute \"/bin/script\""),
        ("/etc", 126, "cannot execute \"/etc\""),
    ] {
        let step = Step { arguments: vec![program.into()], ..fixture.step("") };
        let error = fixture.run(&step).status.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit_code()), (message, Some(code)));
    }
    let step = Step { arguments: ["id", "-u"].map(OsString::from).to_vec(), ..fixture.step("") };
    assert_eq!(fixture.run(&step).output, "0\n", "found along PATH");
}

#[test]
fn privileged_output_comes_apart_and_whole() {
    let Some(fixture) = Fixture::new() else { return };
    let ran = fixture.run(
        &fixture.step("echo out; echo err >&2; i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done; printf end"),
    );
    assert_eq!(ran.error, "err\n");
    assert_eq!(ran.output.len(), 4 + 20000 * 11 + 3);
    assert!(ran.output.ends_with("end"));
}

#[test]
fn privileged_a_step_sees_nothing_of_the_builder() {
    let Some(fixture) = Fixture::new() else { return };
    let _inherited = fs::File::open("/etc/passwd").unwrap();
    assert_eq!(fixture.sh("env"), "SHLVL=1\nPATH=/bin\nPWD=/\n", "the shell's own variables and ours");
    assert_eq!(fixture.sh("hostname"), "buildkitsandbox\n");
    assert_eq!(fixture.sh("umask; cat; id -u; id -G; [ -t 0 ] || echo notty"), "0022\n0\n0\nnotty\n");
    assert_eq!(fixture.sh("ls /proc/self/fd | wc -l").trim(), "4", "three and the one that lists");
    let processes = fixture.sh("ls /proc | grep -c '^[0-9]'");
    assert!(processes.trim().parse::<u32>().unwrap() <= 5, "{processes}");
    let seen = fixture.sh("cat /proc/self/mountinfo");
    let points: Vec<&str> = seen.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    let ours = ["/", "/proc", "/dev", "/sys", "/etc/resolv.conf", "/etc/hosts"];
    for point in &points {
        assert!(ours.contains(point) || ["/proc/", "/dev/", "/sys/"].iter().any(|place| point.starts_with(place)), "{seen}");
    }
    for (script, why) in [
        ("cat /proc/1/environ", "init has the builder's memory"),
        ("cat /proc/1/maps", "the same"),
        ("mount -t tmpfs none /tmp", "no right to mount"),
        ("echo 1 > /proc/sys/kernel/panic", "the kernel's settings"),
        ("echo x > /sys/kernel/mm/ksm/run", "the kernel's settings"),
        ("test -s /proc/kcore", "the kernel's memory"),
        ("ls /proc/1/root/home", "another root"),
    ] {
        assert!(!fixture.run(&fixture.step(script)).status.unwrap().is_success(), "{script}: {why}");
    }
}

#[test]
fn privileged_the_builder_stays_closed_where_its_proc_is_shown() {
    let Some(mut fixture) = Fixture::new() else { return };
    fixture.isolation = Namespaces::new(Choice { proc: Proc::Bound, ..fixture.isolation.choice().clone() });
    assert_eq!(fixture.sh("cat < /dev/null; ls /proc/self/fd | wc -l; test -r /proc/self/status && echo ok"), "4\nok\n");
    let builder = std::process::id();
    for file in ["environ", "mem", "maps", "root/etc/passwd", "fd/0", "cwd/Cargo.toml"] {
        let script = format!("cat /proc/{builder}/{file} > /dev/null");
        assert!(!fixture.run(&fixture.step(&script)).status.unwrap().is_success(), "{script}");
    }
    for script in ["echo 1 > /proc/sys/kernel/panic", "test -s /proc/kcore"] {
        assert!(!fixture.run(&fixture.step(script)).status.unwrap().is_success(), "{script}");
    }
}

#[test]
fn privileged_root_has_the_default_capabilities_and_others_have_none() {
    let Some(fixture) = Fixture::new() else { return };
    let capabilities = "grep -E '^Cap' /proc/self/status";
    assert_eq!(
        fixture.sh(capabilities).split_whitespace().collect::<Vec<_>>().join(" "),
        "CapInh: 0000000000000000 CapPrm: 00000000a80425fb CapEff: 00000000a80425fb CapBnd: 00000000a80425fb CapAmb: 0000000000000000"
    );
    let identity = Identity { uid: 33, gid: 44, groups: vec![55, 66] };
    let script = format!("id -u; id -g; id -G; {capabilities}");
    let step = Step { identity, ..fixture.step(&script) };
    assert_eq!(
        fixture.run(&step).output.split_whitespace().collect::<Vec<_>>().join(" "),
        "33 44 44 55 66 CapInh: 0000000000000000 CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 00000000a80425fb CapAmb: 0000000000000000"
    );
}

#[test]
fn privileged_devices_are_there() {
    let Some(fixture) = Fixture::new() else { return };
    assert_eq!(
        fixture.sh("ls /dev").split_whitespace().collect::<Vec<_>>().join(" "),
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    let script = "test -c /dev/null && test -c /dev/urandom && test -e /dev/fd/0 && test -r /proc/self/status && test -d /sys/kernel \
                  && echo x > /dev/null && echo y > /dev/shm/z && echo z > /dev/stdout && stat -c %a /dev/null /dev/shm && mknod /tmp/n c 1 3";
    // Whether it can be opened depends on the host: docs/security.md.
    assert_eq!(fixture.sh(script), "z\n666\n1777\n");
    assert_eq!(fs::metadata(fixture.path("root/tmp/n")).unwrap().rdev(), 0x103);
}

#[test]
fn privileged_mount_points_leave_no_trace() {
    let Some(fixture) = Fixture::new() else { return };
    let root = fixture.path("root");
    // A hostile image could want /proc in a directory of the host.
    symlink("/elsewhere/../../proc-of-image", root.join("proc")).unwrap();
    symlink("../run/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    let old = filetime(&root.join("etc"), 1_000_000);
    let root_time = filetime(&root, 1_000_000);
    let context = fixture.path("context");
    fs::create_dir_all(context.join("d")).unwrap();
    fs::write(context.join("d/x"), "from outside").unwrap();
    symlink("/d", context.join("link")).unwrap();
    let directory = RootMount::Directory { path: context.clone() };
    let bind = |path: &str, access, target: &str| Mount {
        kind: MountKind::Bind { root: directory.clone(), path: TreePath::clamp(path), access },
        target: TreePath::clamp(target),
    };
    let mounts = vec![
        bind("link", Access::ReadOnly, "mnt/d"),
        bind("d/x", Access::ReadWrite, "one/file"),
        Mount {
            kind: MountKind::Tmpfs { size_bytes: Some(4096), mode: 0o700, access: Access::ReadWrite },
            target: TreePath::clamp("etc/sub/deep"),
        },
        Mount {
            kind: MountKind::File { content: FileContent(b"secret".to_vec()), mode: 0o400, uid: 33, gid: 0 },
            target: TreePath::clamp("run/secrets/id"),
        },
    ];
    let script = "cat /mnt/d/x; echo; cat /run/secrets/id; echo; stat -c '%a %u' /run/secrets/id /etc/sub/deep; cat /etc/resolv.conf /etc/hosts; \
                  touch /mnt/d/y 2>/dev/null || echo read-only; echo changed > /one/file; touch /etc/sub/deep/t && ls /etc/sub/deep";
    let ran = fixture.run(&Step { mounts, ..fixture.step(script) });
    assert_eq!(
        ran.output, "from outside\nsecret\n400 33\n700 0\nnameserver 192.0.2.1\n127.0.0.1 localhost\nread-only\nt\n",
        "{}",
        ran.error
    );
    ran.status.unwrap();
    assert_eq!(names(&root), ["bin", "etc", "proc", "tmp"]);
    assert_eq!(names(&root.join("etc")), ["resolv.conf"]);
    assert_eq!(fs::metadata(root.join("etc")).unwrap().mtime(), old);
    assert_eq!(fs::metadata(&root).unwrap().mtime(), root_time);
    assert_eq!(fs::read_to_string(context.join("d/x")).unwrap(), "changed\n");
}

fn filetime(path: &Path, seconds: u64) -> i64 {
    let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
    fs::metadata(path).unwrap().mtime()
}

#[test]
fn privileged_an_overlay_takes_what_is_written() {
    let Some(fixture) = Fixture::new() else { return };
    let (root, upper) = fixture.overlay("");
    let before = mounts();
    let step = Step {
        root,
        directory: TreePath::clamp("work/dir"),
        ..fixture.step("pwd; echo new > f; touch /etc/a; ls / > /tmp/list")
    };
    let ran = fixture.run(&step);
    assert_eq!(ran.output, "/work/dir\n", "{}", ran.error);
    ran.status.unwrap();
    assert_eq!(names(&upper), ["etc", "tmp", "work"], "the working directory stays, the mount points go");
    assert_eq!(names(&upper.join("etc")), ["a"]);
    assert_eq!(fs::read_to_string(upper.join("work/dir/f")).unwrap(), "new\n");
    assert_eq!(names(&fixture.path("root")), ["bin", "etc", "tmp"]);
    assert_eq!(names(&fixture.path("merged")), [""; 0]);
    assert_eq!(mounts(), before);
}

#[test]
fn privileged_many_layers_fit() {
    let Some(fixture) = Fixture::new() else { return };
    let (root, _) = fixture.overlay("");
    let RootMount::Overlay { mut lower, upper, work, attributes, mount_point } = root else { unreachable!() };
    for number in 0..300 {
        let path = fixture.path(&format!("a-rather-long-name-of-a-layer,with:characters\\{number}"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join(format!("file{number}")), "").unwrap();
        lower.push(path);
    }
    let root = RootMount::Overlay { lower, upper, work, attributes, mount_point };
    let ran = fixture.run(&Step { root, ..fixture.step("ls / | grep -c file") });
    assert_eq!(ran.output, "300\n", "{}", ran.error);
}

#[test]
fn privileged_everything_a_step_started_is_dead_when_it_ends() {
    let Some(fixture) = Fixture::new() else { return };
    let started = Instant::now();
    fixture.sh("sleep 4321 & (sleep 4322 > /dev/null 2>&1 &) ; echo started");
    assert!(started.elapsed() < Duration::from_secs(20));
    let running = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok());
    let left: Vec<_> = running.filter(|line| line.starts_with(b"sleep\x00432")).collect();
    assert_eq!(left, Vec::<Vec<u8>>::new());
}

#[test]
fn privileged_a_step_can_be_cancelled_and_timed_out() {
    let Some(fixture) = Fixture::new() else { return };
    let before = mounts();
    let cancel = CancelToken::new().unwrap();
    let step = fixture.step("echo ready; sleep 5323");
    let started = Instant::now();
    let mut sink = |_: Stream, _: &[u8]| cancel.cancel();
    assert!(matches!(fixture.isolation.run(&step, &mut sink, &cancel), Err(RunError::Cancelled)));
    assert!(matches!(fixture.isolation.run(&step, &mut |_, _| (), &cancel), Err(RunError::Cancelled)), "it stays cancelled");
    let step = Step { time_limit: Some(Duration::from_millis(300)), ..fixture.step("sleep 5324") };
    assert!(matches!(fixture.run(&step).status, Err(RunError::TimedOut { .. })));
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(names(&fixture.path("root")), ["bin", "etc", "tmp"]);
    assert_eq!(mounts(), before);
}

#[test]
fn privileged_a_step_dies_with_its_builder() {
    const BUILDER: &str = "TEST_ISOLATION_BUILDER";
    let Some(fixture) = Fixture::new() else { return };
    if std::env::var_os(BUILDER).is_some() {
        drop(fixture.run(&fixture.step("sleep 6543")));
        return;
    }
    let mut builder = std::process::Command::new(std::env::current_exe().unwrap());
    let builder = builder.args(["--exact", "privileged_a_step_dies_with_its_builder"]).env(BUILDER, "yes");
    let builder = builder.env("TMPDIR", fixture.directory.path()).stdout(std::process::Stdio::null());
    let mut builder = builder.spawn().unwrap();
    let is_running = |program: &[u8]| {
        let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok());
        lines.into_iter().any(|line| line == program)
    };
    let await_that = |wanted: bool| {
        let started = Instant::now();
        while is_running(b"sleep\x006543\0") != wanted {
            assert!(started.elapsed() < Duration::from_secs(20), "running: {wanted}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    await_that(true);
    builder.kill().unwrap();
    builder.wait().unwrap();
    await_that(false);
}

#[test]
fn privileged_a_step_can_be_cut_off_from_the_network() {
    let Some(fixture) = Fixture::new() else { return };
    let step = Step {
        network: Network::None,
        privileges: Privileges::Usual,
        ..fixture.step("ls /sys/class/net; cat /sys/class/net/lo/flags; wc -l < /proc/net/route")
    };
    let ran = fixture.run(&step);
    assert_eq!(ran.output, "lo\n0x9\n1\n", "{}", ran.error);
}

#[test]
fn privileged_steps_run_side_by_side() {
    let Some(fixture) = Fixture::new() else { return };
    let run = &|number: u32| {
        let (root, _) = fixture.overlay(&number.to_string());
        fixture.run(&Step { root, ..fixture.step("touch /made; sleep 0.1; ls /; cat /etc/hosts") }).output
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || run(number))).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), "bin\ndev\netc\nmade\nproc\nsys\ntmp\n127.0.0.1 localhost\n");
        }
    });
}
