//! Steps without any privilege: what they see, what is recorded of what they did, how they end. As root each test starts
//! itself again as another user, and one goes into the root file system as the program of a step and makes the calls itself.

#![expect(unsafe_code, reason = "the calls that the emulation answers are made as they are")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "arguments of system calls are words, whatever they mean"
)]
#![allow(clippy::print_stdout, reason = "a child says what was answered wrongly")]

use builder_core::{
    isolation::{
        self, Access, CancelToken, Choice, ExitStatus, FileContent, Identity, Isolation, Kind, Mount, MountKind, Network,
        Privileges, RunError, Step, Stream, choose, probe,
    },
    layer::read::Visitor as _,
    rootfs::{OverlayAttributes, Owners, RootMount, Rootfs, StepChanges},
    tree::{Change, Content, ContentDigest, Entry, File, LayerIndex, Node, SourceId, Timestamp, Tree, TreePath, text},
};
use std::{
    ffi::{CString, OsString},
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixDatagram,
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

/// Set for a test that was started again.
const AGAIN: &str = "TEST_EMULATED_AGAIN";
/// Set for the test that is the program of a step.
const GUEST: &str = "TEST_EMULATED_GUEST";

/// Whether to go on here: not as root, which starts the test again as somebody else.
fn unprivileged(test: &str) -> bool {
    if !testkit::require(&["busybox"]) {
        return false;
    }
    if !rustix::process::geteuid().is_root() || std::env::var_os(AGAIN).is_some() {
        return true;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for path in [directory.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(&program);
    command.args([test, "--exact", "--nocapture"]).env(AGAIN, "1").env_remove("TMPDIR").current_dir("/").uid(1000).gid(1000);
    let finished = command.output().unwrap();
    let output = format!("{}{}", String::from_utf8_lossy(&finished.stdout), String::from_utf8_lossy(&finished.stderr));
    assert!(finished.status.success() && output.contains("1 passed"), "{output}");
    false
}

/// A state directory with a root in it.
struct Fixture {
    directory: tempfile::TempDir,
    isolation: Arc<dyn Isolation>,
    rootfs: Rootfs,
    tree: Tree,
}

impl Fixture {
    fn new() -> Self {
        Self::of(Kind::Emulated)
    }

    fn of(kind: Kind) -> Self {
        Self::with(kind, |_| None)
    }

    /// Its layers lie over each other, as they do where the kernel does this.
    fn stacked() -> Self {
        Self::with(Kind::Namespaces, |choice| Some(choice.overlay.expect("this host has overlays")))
    }

    fn with(kind: Kind, overlay: impl FnOnce(&Choice) -> Option<OverlayAttributes>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let choice = choose(&probe(directory.path()).unwrap(), Some(kind)).unwrap();
        assert_eq!(choice.owners == Owners::RECORDED, kind == Kind::Emulated);
        let rootfs = Rootfs::new(directory.path(), overlay(&choice), choice.owners).unwrap();
        let mut fixture = Self { directory, isolation: isolation::open(choice), rootfs, tree: Tree::new() };
        fixture.add(busybox());
        fixture
    }

    fn add(&mut self, changes: Vec<Change>) {
        let index = LayerIndex { changes };
        let mut unpacker = self.rootfs.unpacker(&self.tree, &index).unwrap();
        for change in &index.changes {
            let file = if let Change::Put { entry, .. } = change { entry.file() } else { None };
            let bytes = match file.map(|file| &file.content) {
                Some(Content::Inline(bytes)) => bytes.to_vec(),
                _ => Vec::new(),
            };
            unpacker.visit(change, &mut &bytes[..]).unwrap();
        }
        let unpacked = unpacker.finish().unwrap();
        self.rootfs.push(unpacked);
        self.tree.apply(&index.changes);
    }

    fn step(&mut self, script: &str) -> Step {
        Step {
            root: self.rootfs.begin_step(&self.tree).unwrap(),
            arguments: ["/bin/sh", "-e", "-c", script].map(OsString::from).to_vec(),
            environment: vec![("PATH".into(), "/bin".into())],
            directory: TreePath::root(),
            identity: Identity::default(),
            host_name: "test".to_owned(),
            network: Network::Host,
            privileges: Privileges::Usual,
            mounts: Vec::new(),
            resolv_conf: b"nameserver 192.0.2.1\n".to_vec(),
            hosts: b"127.0.0.1 localhost\n".to_vec(),
            time_limit: Some(Duration::from_mins(1)),
        }
    }

    fn run(&self, step: &Step) -> (Result<ExitStatus, RunError>, String) {
        let mut output = Vec::new();
        let sink = &mut |_: Stream, bytes: &[u8]| output.extend_from_slice(bytes);
        let status = self.isolation.run(step, sink, &CancelToken::new().unwrap());
        (status, String::from_utf8_lossy(&output).into_owned())
    }

    /// What a script says.
    fn sh(&mut self, script: &str) -> String {
        let step = self.step(script);
        let (status, output) = self.run(&step);
        assert_eq!(status.unwrap(), ExitStatus::Code(0), "{script}: {output}");
        output
    }

    /// What was changed since the step began, without times.
    fn changes(&mut self) -> Vec<String> {
        let mut changes = self.rootfs.end_step(&self.tree, SourceId(1), None).unwrap().changes;
        for change in &mut changes {
            if let Some(entry) = change.entry_mut() {
                entry.mtime = Timestamp::default();
            }
        }
        changes.iter().map(text::format_change).collect()
    }

    /// The same with the contents of files and the times that were set on purpose. The next step begins with them.
    fn take_changes(&mut self) -> Vec<String> {
        let StepChanges { mut changes, files } = self.rootfs.end_step(&self.tree, SourceId(1), None).unwrap();
        for change in &mut changes {
            let path = change.path().clone();
            if let Some(file) = change.file_mut() {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut files.open_file(&path).unwrap(), &mut content).unwrap();
                *file = inline(content);
            }
        }
        self.tree.apply(&changes);
        for entry in changes.iter_mut().filter_map(Change::entry_mut) {
            if entry.mtime.seconds > 1000 {
                entry.mtime = Timestamp::default();
            }
        }
        changes.iter().map(text::format_change).collect()
    }

    fn root(&mut self) -> PathBuf {
        match self.rootfs.view(&self.tree).unwrap() {
            RootMount::Directory { path } => path,
            RootMount::Overlay { .. } => panic!("an overlay"),
        }
    }
}

fn inline(content: Vec<u8>) -> File {
    File { size_bytes: content.len() as u64, digest: Some(ContentDigest::of(&content)), content: Content::Inline(content.into()) }
}

fn busybox() -> Vec<Change> {
    let put = |path: &str, node: Node| {
        let mtime = Timestamp::from_seconds(9);
        Change::put(TreePath::clamp(path), Entry { node, mode: 0o755, uid: 0, gid: 0, mtime, capability: None })
    };
    let program = inline(fs::read("/bin/busybox").unwrap());
    let names = "sh id ls cat stat chown chmod mknod mkfifo ln mkdir rm mv touch readlink pwd sleep setsid echo su tar find test";
    let links = names.split(' ').map(|name| put(&format!("bin/{name}"), Node::Symlink(b"busybox".to_vec())));
    let files = "tmp/ 1777 0:0 @9\nd/theirs 0644 33:3000000 @9 \"theirs\"\nd/closed 0400 7:7 @9 \"closed\"\nd/device 0600 0:6 @9 c 10:200\nd/link -> theirs 5:6\netc/passwd 0644 0:0 @9 \"root:x:0:0::/:/bin/sh\\nwww:x:33:33::/:/bin/sh\\n\"";
    [put("bin/busybox", Node::File(program))].into_iter().chain(links).chain(text::parse(files).unwrap()).collect()
}

#[test]
fn what_an_image_has_is_seen_and_what_a_step_does_is_recorded() {
    if !unprivileged("what_an_image_has_is_seen_and_what_a_step_does_is_recorded") {
        return;
    }
    let mut fixture = Fixture::new();
    let seen = fixture.sh("id -u; id -g; cd /d; stat -c '%n %F %a %u:%g %t,%T' theirs closed device link; cat closed");
    let expected = "0\n0\ntheirs regular file 644 33:3000000 0,0\nclosed regular file 400 7:7 0,0\n\
                    device character special file 600 0:6 a,c8\nlink symbolic link 777 5:6 0,0\nclosed";
    assert_eq!(seen, expected);
    assert_eq!(fixture.changes(), Vec::<String>::new());
    fixture.sh(
        "echo new > /new; chown 1:2 /new; chmod 6750 /new; mknod /null c 1 3; mkfifo /pipe; chown 3 /pipe; ln -s /new /l; \
         chown -h 4:5 /l; mkdir -m 2775 /group; chown 0:50 /group; touch /group/member; mkdir /group/sub; rm /d/theirs; \
         chown 8 /d/closed; ln /new /other; mv /d/device /device; chown -h 9:9 /d/link; echo >> /etc/hosts; touch /dev/null",
    );
    let changes = fixture.changes();
    let expected = [
        "- d/theirs",
        "d/closed 0400 8:7 size=6",
        "- d/device",
        "d/link -> theirs 9:9",
        "device 0600 0:6 c 10:200",
        "group/ 2775 0:50",
        "group/member 0644 0:50 size=0",
        "group/sub/ 2755 0:50",
        "l -> /new 4:5",
        "new 6750 1:2 size=4",
        "null 0644 0:0 c 1:3",
        "other = new",
        "pipe 0644 3:0 p",
    ];
    let missing: Vec<&&str> = expected.iter().filter(|line| !changes.iter().any(|change| change.contains(**line))).collect();
    assert!(missing.is_empty() && changes.len() == expected.len(), "missing {missing:?} in {changes:#?}");
}

#[test]
fn a_step_sees_its_root_and_nothing_of_the_builder() {
    if !unprivileged("a_step_sees_its_root_and_nothing_of_the_builder") {
        return;
    }
    let mut fixture = Fixture::new();
    let root = fixture.root();
    symlink("../../../../../../../../etc/passwd", root.join("up")).unwrap();
    symlink(fixture.directory.path(), root.join("out")).unwrap();
    symlink("/dev", root.join("devices")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let output =
        fixture.sh("pwd; cat /up | head -n1 2>/dev/null || cat /up; ls /out 2>/dev/null || echo none; echo x > /devices/null; \
         cat /loop 2>/dev/null || echo loop; cd /tmp; pwd; cd ..; pwd; readlink /proc/self/exe; readlink /proc/self/cwd; \
         cat /etc/resolv.conf; cat /../../etc/hosts; ls /dev");
    for line in
        ["null", "root:x:0:0::/:/bin/sh", "none", "loop", "/tmp", "/bin/busybox", "nameserver 192.0.2.1", "127.0.0.1 localhost"]
    {
        assert!(output.lines().any(|found| found == line), "{line} in {output}");
    }
    assert!(!output.contains(fixture.directory.path().to_str().unwrap()), "{output}");
    assert!(!root.join("etc/resolv.conf").exists() && !root.join("dev").exists(), "what was put there is gone");
}

#[test]
fn what_a_step_makes_in_dev_is_gone_with_it() {
    if !unprivileged("what_a_step_makes_in_dev_is_gone_with_it") {
        return;
    }
    let mut fixture = Fixture::new();
    symlink("/dev", fixture.root().join("devices")).unwrap();
    for (step, said) in [
        (
            "mkdir -p /dev/own/net && mknod -m 600 /dev/own/net/tun c 10 200 && stat -c '%n %F %a %t,%T' /dev/own/net/tun",
            "/dev/own/net/tun character special file 600 a,c8",
        ),
        ("ls /dev/own 2>/dev/null || echo gone", "gone"),
        (
            "cd /dev; mkdir a; cd a; pwd; echo text >b; cat b /dev/a/b ../a/b /devices/a/b; ls; cd ..; ls null; pwd",
            "/dev/a\ntext\ntext\ntext\ntext\nb\nnull\n/dev",
        ),
        (
            "cd /dev; ln -s a c; readlink c; mkdir a; echo text >a/b; cat c/b; mv a d; cat c/b 2>/dev/null || cat d/b; \
             rm -r c d; ls -d c d 2>/dev/null || echo none",
            "a\ntext\ntext\nnone",
        ),
        ("cd /; echo text >dev/x; cat dev/x /devices/x; rm dev/x; cat /dev/x 2>/dev/null || echo none", "text\ntext\nnone"),
        ("cd /devices; touch e; stat -c '%F %a %u' /dev/e; echo x >null; cat null; ls zero", "regular empty file 644 0\nzero"),
        ("mkfifo /dev/one; ln /dev/one /dev/two; rm /dev/one; stat -c '%h %F' /dev/two", "1 fifo"),
        ("ln -s /dev/made /tmp/link; echo text >/tmp/link; cat /dev/made; rm /tmp/link", "text"),
    ] {
        assert_eq!(fixture.sh(step).trim_end(), said, "{step}");
    }
    assert_eq!(fixture.changes(), ["devices -> /dev"], "but for what the test itself has put there");
}

#[test]
fn another_user_may_do_less() {
    if !unprivileged("another_user_may_do_less") {
        return;
    }
    let mut fixture = Fixture::new();
    let mut step = fixture.step(
        "id -u; id -G; touch /no 2>/dev/null || echo refused; chown 0 /tmp/mine 2>/dev/null || echo refused; touch /tmp/mine; \
         cat /d/closed 2>/dev/null || echo refused; stat -c %u:%g /tmp/mine; chmod 600 /tmp/mine; chown 0 /tmp/mine 2>/dev/null || echo refused",
    );
    step.identity = Identity { uid: 33, gid: 34, groups: vec![35] };
    let (status, output) = fixture.run(&step);
    assert_eq!(status.unwrap(), ExitStatus::Code(0), "{output}");
    assert_eq!(output, "33\n34 35\nrefused\nrefused\nrefused\n33:34\nrefused\n");
}

#[test]
fn mounts_are_put_in_place_and_caches_keep_what_was_written() {
    if !unprivileged("mounts_are_put_in_place_and_caches_keep_what_was_written") {
        return;
    }
    let mut fixture = Fixture::new();
    let cache = fixture.directory.path().join("cache");
    let source = fixture.directory.path().join("source");
    fs::create_dir(&cache).unwrap();
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "read").unwrap();
    let bind = |path: &Path, target: &str, access| {
        let root = RootMount::Directory { path: path.to_owned() };
        Mount { kind: MountKind::Bind { root, path: TreePath::root(), access }, target: TreePath::clamp(target) }
    };
    let secret = MountKind::File { content: FileContent(b"word".to_vec()), mode: 0o400, uid: 33, gid: 0 };
    let mut step =
        fixture.step("cat /src/file /run/secret; stat -c ' %a %u' /run/secret; echo kept > /var/cache/x; echo > /src/y");
    step.mounts = vec![
        bind(&cache, "var/cache", Access::ReadWrite),
        bind(&source, "src", Access::ReadOnly),
        Mount { kind: secret, target: TreePath::clamp("run/secret") },
    ];
    let (status, output) = fixture.run(&step);
    assert_eq!((status.unwrap(), &output[..]), (ExitStatus::Code(0), "readword 400 33\n"));
    assert_eq!(fs::read_to_string(cache.join("x")).unwrap(), "kept\n");
    assert!(!source.join("y").exists());
    assert_eq!(fixture.changes(), Vec::<String>::new());
}

#[test]
fn a_step_ends_as_its_command_ended_and_leaves_no_process() {
    if !unprivileged("a_step_ends_as_its_command_ended_and_leaves_no_process") {
        return;
    }
    let mut fixture = Fixture::new();
    let mark = format!("{}", 100_000 + std::process::id());
    for (script, expected) in [
        ("exit 3", ExitStatus::Code(3)),
        ("kill -9 $$", ExitStatus::Signal(9)),
        (&format!("setsid sh -c 'setsid sleep {mark} & sleep {mark}' >/dev/null & sleep 0.1"), ExitStatus::Code(0)),
    ] {
        let step = fixture.step(script);
        assert_eq!(fixture.run(&step).0.unwrap(), expected, "{script}");
    }
    let alive = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    assert_eq!(alive.filter(|line| line.ends_with(format!("sleep\0{mark}\0").as_bytes())).count(), 0);

    let mut step = fixture.step("sleep 60");
    step.time_limit = Some(Duration::from_millis(200));
    let started = Instant::now();
    assert!(matches!(fixture.run(&step).0, Err(RunError::TimedOut { .. })));
    assert!(started.elapsed() < Duration::from_secs(20));
    step.arguments = vec!["absent".into()];
    assert!(matches!(fixture.run(&step).0, Err(RunError::NotFound { .. })));
    step.arguments = vec!["/etc/passwd".into()];
    assert!(matches!(fixture.run(&step).0, Err(RunError::NotExecutable { .. })));
    step.directory = TreePath::clamp("etc/passwd/x");
    assert!(fixture.run(&step).0.is_err());
}

/// This test is also the program: started in the root, with its libraries, it makes the calls of the table.
#[test]
fn calls_are_answered_as_root_would_have_them() {
    if std::env::var_os(GUEST).is_some() {
        return guest();
    }
    if !unprivileged("calls_are_answered_as_root_would_have_them") {
        return;
    }
    be_the_program(Fixture::new(), "emulated");
}

/// The same program in a root of its own, where the kernel answers: what is expected is what it does.
#[test]
fn privileged_the_kernel_answers_the_same() {
    if !testkit::require(&["busybox"]) || !testkit::require_root() {
        return;
    }
    be_the_program(Fixture::of(Kind::Namespaces), "native");
}

/// Runs this program as the program of a step.
fn be_the_program(mut fixture: Fixture, how: &str) {
    let root = fixture.root();
    let program = std::env::current_exe().unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let libraries = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).filter(|path| path.contains(".so"));
    for library in libraries.chain(["/lib64/ld-linux-x86-64.so.2"]) {
        let target = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        if !target.exists() {
            fs::copy(library, target).unwrap();
        }
    }
    fs::copy(&program, root.join("program")).unwrap();
    // A library's directory may be a link on this host.
    for (link, target) in [("lib", "usr/lib"), ("usr/lib", "../lib")] {
        if !root.join(link).exists() {
            symlink(target, root.join(link)).unwrap();
        }
    }
    let mut step = fixture.step("");
    step.arguments =
        ["/program", "calls_are_answered_as_root_would_have_them", "--exact", "--nocapture"].map(OsString::from).to_vec();
    step.environment.push((GUEST.into(), how.into()));
    let (status, output) = fixture.run(&step);
    assert!(matches!(status, Ok(ExitStatus::Code(0))) && output.contains("1 passed"), "{status:?} {output}");
}

#[test]
fn calls_that_are_made_often_are_answered_as_before() {
    if testkit::require(&["cc"]) && unprivileged("calls_that_are_made_often_are_answered_as_before") {
        run_often(Fixture::new(), "emulated");
    }
}

/// The program that asks expects of the stub what the kernel does.
#[test]
fn privileged_the_kernel_answers_calls_that_are_made_often_the_same() {
    if testkit::require(&["busybox", "cc"]) && testkit::require_root() {
        run_often(Fixture::of(Kind::Namespaces), "native");
    }
}

/// Compiles a program and runs it in a step: it ends by saying how much is wrong.
fn run_compiled(mut fixture: Fixture, source: &[u8], arguments: &[&str]) {
    compile(source, &fixture.root().join("compiled"));
    let mut step = fixture.step("");
    step.arguments = [&["/compiled"], arguments].concat().into_iter().map(OsString::from).collect();
    let (status, output) = fixture.run(&step);
    assert!(matches!(status, Ok(ExitStatus::Code(0))) && output.ends_with("0 wrong\n"), "{status:?} {output}");
}

/// Runs testdata/emulation/shortcuts.c as the program of a step.
fn run_often(mut fixture: Fixture, how: &str) {
    // Shortcuts are of x86-64.
    let how = if cfg!(target_arch = "x86_64") { how } else { "native" };
    fixture.add(text::parse("file 0644 33:34 @9 \"theirs\"").unwrap());
    run_compiled(fixture, include_bytes!("../../testdata/emulation/shortcuts.c"), &[how]);
}

#[test]
fn the_smallest_stack_for_signals_is_enough() {
    if testkit::require(&["busybox", "cc"]) && unprivileged("the_smallest_stack_for_signals_is_enough") {
        run_stacks(Fixture::new());
    }
}

/// The program that asks expects of the stub what the kernel does.
#[test]
fn privileged_the_kernel_answers_the_same_on_the_smallest_stack() {
    if testkit::require(&["busybox", "cc"]) && testkit::require_root() {
        run_stacks(Fixture::of(Kind::Namespaces));
    }
}

/// Runs testdata/emulation/stacks.c as the program of a step.
fn run_stacks(mut fixture: Fixture) {
    fixture.add(text::parse("tmp/ 1777 0:0 @9").unwrap());
    run_compiled(fixture, include_bytes!("../../testdata/emulation/stacks.c"), &[]);
}

#[test]
fn what_is_known_of_directories_holds_until_one_is_moved() {
    if testkit::require(&["busybox", "cc"]) && unprivileged("what_is_known_of_directories_holds_until_one_is_moved") {
        run_directories(Fixture::new());
    }
}

/// The program that asks expects of the stub what the kernel does.
#[test]
fn privileged_the_kernel_answers_the_same_of_directories() {
    if testkit::require(&["busybox", "cc"]) && testkit::require_root() {
        run_directories(Fixture::of(Kind::Namespaces));
    }
}

/// Runs testdata/emulation/directories.c as the program of a step.
fn run_directories(fixture: Fixture) {
    run_compiled(fixture, include_bytes!("../../testdata/emulation/directories.c"), &[]);
}

fn compile(source: &[u8], program: &Path) {
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-static", "-pthread", "-x", "c", "-", "-o"]).arg(program).stdin(std::process::Stdio::piped());
    let mut compiler = compiler.spawn().unwrap();
    std::io::Write::write_all(&mut compiler.stdin.take().unwrap(), source).unwrap();
    assert!(compiler.wait().unwrap().success());
}

/// Steps that change a file by one of the names that earlier ones gave it: `a`, `b` and `c`. `device` and `again` are one as well,
/// and `one` has no other name.
const CHANGES_OF_LINKED_FILES: &[&[&str]] = &[
    &["echo more >> a; cat b; stat -c %Y ."],
    &["for i in 1 2 3 4 5 6 7 8; do echo more >> a & done; wait"],
    &["echo new > a"],
    &["true > a"],
    &["echo new > a; echo newer > b"],
    &["chmod 600 a; chmod 604 a; stat -c %a a b"],
    &["chown 3:4 a; stat -c '%u:%g %a' a b"],
    &["chown 0:0 a; chown 33:44 a"],
    &["touch -d @77 a; stat -c %Y a b"],
    &["touch -h -d @77 a"],
    &["touch a"],
    &["busybox sed -i s/e/E/ a"],
    &["mv a m"],
    &["mv a m; echo more >> m"],
    &["mkdir d; mv a b d; echo more >> d/b"],
    &["ln a n; echo more >> n"],
    &["ln a n; ln b o"],
    &["echo more >> a; ln a n"],
    &["ln one n; echo more >> n"],
    &["ln -s a s; echo more >> s; chmod 600 s"],
    &["rm a; echo more >> b"],
    &["rm a b; echo more >> c"],
    &["rm a; ln b a; echo more >> a"],
    &["busybox cp one a"],
    &["mkdir n; busybox cp -a a b n"],
    &["busybox truncate -s 3 a; busybox truncate -s 7 b"],
    &["busybox dd if=one of=a bs=1 seek=1 conv=notrunc 2>/dev/null"],
    &["tar cf t a b; tar xf t; rm t"],
    &["tar cf t a b; tar xf t; rm t; echo more >> a"],
    &["chmod 640 device; chown 7 device; stat -c '%F %a %u' device again"],
    &["change fchmod a; stat -c %a b"],
    &["change fchown a"],
    &["change futimens a"],
    &["change utimes a"],
    &["change setcap a"],
    &["change fsetcap a"],
    &["change nocap a"],
    &["change note a"],
    &["change truncate a"],
    &["change empty-by-reading a"],
    &["change ask a"],
    &["change ask-more a"],
    &["change map a"],
    &["change reopen a"],
    &["change link a n; echo more >> n"],
    &["change exchange a one; echo more >> one"],
    &["change rename a b"],
    &["mkdir -m 500 d; chmod 500 .; echo more >> a", "echo more >> b"],
    &["ln one n; echo more >> n", "echo even more >> n"],
    &["echo more >> a", "echo even more >> a; echo more >> b"],
    &["chmod 600 a; ln a n", "echo more >> n"],
    &["ln one n", "rm one; echo more >> n"],
    &["echo > 1; ln 1 2", "ln 2 3", "chmod 600 3"],
    &["rm b c; ln a n; echo more >> n"],
    &["rm a b; ln c a; echo more >> a"],
    &["echo more >> a; echo more >> b; ln c n; echo more >> n"],
    &["rm b c; change link a n; echo more >> n"],
    &["rm b c; chmod 600 a; mv a b"],
    &["for i in 1 2 3 4 5 6; do echo more >> a & chmod 640 a & done; wait"],
    &["(cd / && rmdir dev) 2>/dev/null || :; echo more >> a"],
];

#[test]
fn a_file_of_earlier_steps_is_changed_under_one_name_alone() {
    if testkit::require(&["cc"]) && unprivileged("a_file_of_earlier_steps_is_changed_under_one_name_alone") {
        change_linked_files(Fixture::new());
    }
}

/// What is expected of the emulation is what an overlay does (`BLESS=1` writes it here).
#[test]
fn privileged_an_overlay_changes_a_file_of_earlier_steps_under_one_name_alone() {
    if testkit::require(&["busybox", "cc"]) && testkit::require_root() {
        change_linked_files(Fixture::stacked());
    }
}

/// Takes these steps, each case in directories of its own: one has files as most are, the other such as need a record.
fn change_linked_files(mut fixture: Fixture) {
    const KINDS: [(&str, &str); 2] =
        [("plain", "0644 0:0 @9"), ("recorded", "6751 33:44 @9 cap=0100000200040000000000000000000000000000")];
    let program = fixture.directory.path().join("change");
    compile(include_bytes!("../../testdata/emulation/change.c"), &program);
    let (node, mtime) = (Node::File(inline(fs::read(program).unwrap())), Timestamp::from_seconds(9));
    let program = Entry { node, mode: 0o755, uid: 0, gid: 0, mtime, capability: None };
    let mut base = vec![Change::put(TreePath::clamp("bin/change"), program)];
    let directories = CHANGES_OF_LINKED_FILES
        .iter()
        .enumerate()
        .flat_map(|(case, steps)| KINDS.map(|(kind, attributes)| (format!("{case:02}-{kind}"), attributes, steps)));
    let directories: Vec<_> = directories.collect();
    for (directory, attributes, _) in &directories {
        let files = format!(
            "D/ 0755 0:0 @9\nD/a {attributes} \"text\\n\"\nD/b = D/a\nD/c = D/a\nD/one 0640 0:44 @9 \"single\\n\"\n\
             D/device 0600 0:6 @9 c 10:200\nD/again = D/device"
        );
        base.extend(text::parse(&files.replace('D', directory)).unwrap());
    }
    fixture.add(base);
    let mut told = vec![String::new(); directories.len()];
    for step in 0..3 {
        let script = directories.iter().map(|(directory, _, steps)| {
            let script = steps.get(step).unwrap_or(&"");
            format!("cd /{directory}\n{script}\necho ---\n")
        });
        let output = fixture.sh(&script.collect::<String>());
        let changes = fixture.take_changes();
        for (((directory, _, steps), output), told) in directories.iter().zip(output.split("---\n")).zip(&mut told) {
            let lines = changes.iter().filter(|line| line.contains(directory)).map(|line| line.clone() + "\n");
            let lines = lines.collect::<String>().replace(&format!("{directory}/"), "");
            if let Some(script) = steps.get(step) {
                told.extend([directory, ": ", script, "\n", output]);
            }
            told.push_str(&lines);
        }
    }
    let told = told.join("\n");
    if std::env::var_os("BLESS").is_some() && fixture.rootfs.is_overlay() {
        fs::write("../testdata/emulation/linked-files", &told).unwrap();
    }
    let expected = include_str!("../../testdata/emulation/linked-files");
    let wrong = told.split("\n\n").zip(expected.split("\n\n")).filter(|(told, expected)| told != expected);
    let wrong: Vec<String> = wrong.map(|(told, expected)| format!("{told}\nand not\n{expected}\n")).collect();
    assert!(told == expected, "{}", wrong.join("\n"));
}

/// The result of a call, or its error number below zero.
fn call(number: libc::c_long, arguments: &[usize]) -> i64 {
    let argument = |at: usize| arguments.get(at).copied().unwrap_or(0);
    // SAFETY: each caller passes what its call expects.
    let result = unsafe { libc::syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4), argument(5)) };
    if result == -1 { -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap()) } else { result }
}

/// What was asked so far, and what was answered wrongly.
struct Checks {
    /// Whether the stub answers, not the kernel.
    is_emulated: bool,
    made: Vec<&'static str>,
    wrong: Vec<String>,
}

impl Checks {
    fn is(&mut self, call: &'static str, variant: &str, found: i64, expected: i64) {
        self.made.push(call.trim_start_matches("SYS_"));
        if found != expected {
            self.wrong.push(format!("{call} {variant}: {found}, not {expected}"));
        }
    }

    fn holds(&mut self, call: &'static str, variant: &str, holds: bool) {
        self.is(call, variant, i64::from(holds), 1);
    }
}

/// Makes calls, each with what tells it from others of its name, and what root is answered.
macro_rules! check {
    ($checks:ident: $($number:ident $variant:literal [$($argument:expr),* $(,)?] => $expected:expr;)*) => {
        $($checks.is(stringify!($number), $variant, call(libc::$number, &[$($argument as usize),*]), i64::from($expected));)*
    };
}

/// A text for the kernel.
fn text(text: &str) -> usize {
    Box::leak(CString::new(text).unwrap().into_boxed_c_str()).as_ptr() as usize
}

/// Memory for the kernel, with these words in it.
fn words<const N: usize>(words: [u64; N]) -> usize {
    Box::leak(Box::new(words)).as_ptr() as usize
}

/// What the kernel has put there.
fn word(address: usize, at: usize) -> u64 {
    // SAFETY: memory of `words`, which stays.
    unsafe { (address as *const u64).add(at).read_volatile() }
}

const HERE: libc::c_int = libc::AT_FDCWD;

fn guest() {
    let is_emulated = std::env::var_os(GUEST).is_some_and(|how| how == "emulated");
    let mut checks = Checks { is_emulated, made: Vec::new(), wrong: Vec::new() };
    fs::create_dir("/g").unwrap();
    std::env::set_current_dir("/g").unwrap();
    for group in [
        check_files,
        check_names,
        check_owners_and_modes,
        check_times,
        check_attributes,
        check_links_and_places,
        check_descriptors,
        check_sockets,
        check_signals,
        check_programs,
        check_bad_pointers,
        check_devices,
        check_proc,
        check_borrowed_memory,
        check_other_users,
        check_capabilities,
        check_identity,
        check_filters,
    ] {
        group(&mut checks);
    }
    let documented = include_str!("../../docs/emulation.md").lines().skip_while(|line| !line.starts_with("| group |")).skip(2);
    for calls in documented.take_while(|line| line.starts_with("| ")).filter_map(|line| line.split(" | ").nth(1)) {
        for call in calls.split_whitespace().filter(|_| is_emulated) {
            if !checks.made.contains(&call) {
                checks.wrong.push(format!("{call} was not made"));
            }
        }
    }
    assert!(checks.wrong.is_empty(), "{} of {}: {:#?}", checks.wrong.len(), checks.made.len(), checks.wrong);
}

/// Mode, owner and group.
fn owner(path: &str) -> (u32, u32, u32) {
    fs::symlink_metadata(path).map(|stat| (stat.mode() & 0o7777, stat.uid(), stat.gid())).unwrap()
}

fn check_files(checks: &mut Checks) {
    fs::write("file", "content").unwrap();
    let (close, out) = (|descriptor: i64| call(libc::SYS_close, &[usize::try_from(descriptor).unwrap()]), words([0; 32]));
    let first = call(libc::SYS_dup, &[1]);
    close(first);
    for (name, number, arguments) in [
        ("open", libc::SYS_open, vec![text("file"), 0]),
        ("open", libc::SYS_open, vec![text("/g/../g/./file"), 0]),
        ("open", libc::SYS_open, vec![text("made-by-open"), 0o101, 0o640]),
        ("openat", libc::SYS_openat, vec![HERE as usize, text("../../../etc/passwd"), 0]),
        ("openat", libc::SYS_openat, vec![HERE as usize, text("/dev/null"), 0o102, 0o600]),
        ("creat", libc::SYS_creat, vec![text("made-by-creat"), 0o604]),
        ("creat", libc::SYS_creat, vec![text("/tmp/made-elsewhere"), 0o604]),
        ("creat", libc::SYS_creat, vec![text("/tmp/made-elsewhere"), 0o604]),
        ("open", libc::SYS_open, vec![text("/proc/self/status"), 0]),
        ("openat2", libc::SYS_openat2, vec![HERE as usize, text("file"), words([0x8_0000, 0, 0]), 24]),
        ("openat2", libc::SYS_openat2, vec![HERE as usize, text("file"), words([0x8_0000, 0, 8]), 24]),
        ("openat2", libc::SYS_openat2, vec![HERE as usize, text("/g/file"), words([0, 0, 4]), 24]),
        ("openat2", libc::SYS_openat2, vec![HERE as usize, text("made-by-openat2"), words([0o101, 0o640, 8]), 24]),
        ("openat", libc::SYS_openat, vec![HERE as usize, text("."), 0o20_200_002, 0o600]),
    ] {
        let found = call(number, &arguments);
        checks.is(name, "that opens", found, first);
        if found >= 0 {
            close(found);
        }
    }
    check!(checks:
        SYS_open "of what is missing" [text("missing"), 0] => -libc::ENOENT;
        SYS_open "of a directory to write" [text("/g"), 1] => -libc::EISDIR;
        SYS_open "that must make" [text("file"), 0o301, 0o600] => -libc::EEXIST;
        SYS_open "below a file" [text("file/x"), 0] => -libc::ENOTDIR;
        SYS_creat "without a directory" [text("none/x"), 0o600] => -libc::ENOENT;
        SYS_openat2 "out of the directory" [HERE, text("../etc/passwd"), words([0, 0, 8]), 24] => -libc::EXDEV;
        SYS_openat2 "with unknown flags" [HERE, text("file"), words([1 << 40, 0, 0]), 24] => -libc::EINVAL;
        SYS_openat2 "with a mode for nothing" [HERE, text("file"), words([0, 0o600, 0]), 24] => -libc::EINVAL;
        SYS_openat2 "that is too short" [HERE, text("file"), words([0, 0, 0]), 8] => -libc::EINVAL;
        SYS_stat "" [text("file"), out] => 0;
        SYS_lstat "" [text("file"), out] => 0;
        SYS_fstat "" [1, out] => 0;
        SYS_fstat "of nothing" [999, out] => -libc::EBADF;
        SYS_newfstatat "" [HERE, text("/g/file"), out, 0] => 0;
        SYS_newfstatat "without a path" [HERE, text(""), out, 0] => -libc::ENOENT;
        SYS_newfstatat "of the directory" [HERE, text(""), out, 0x1000] => 0;
        SYS_newfstatat "with unknown flags" [HERE, text("file"), out, 0x4] => -libc::EINVAL;
        SYS_statx "" [HERE, text("file"), 0, 0x7ff, out] => 0;
        SYS_statx "with unknown flags" [HERE, text("file"), 0x8, 0x7ff, out] => -libc::EINVAL;
        SYS_access "to execute" [text("file"), 7] => -libc::EACCES;
        SYS_access "to read and write" [text("file"), 6] => 0;
        SYS_access "of unknown kind" [text("file"), 8] => -libc::EINVAL;
        SYS_access "to what is there" [text("missing"), 0] => -libc::ENOENT;
        SYS_faccessat "" [HERE, text("/g/file"), 4] => 0;
        SYS_faccessat2 "" [HERE, text("/g/../g/file"), 0, 0] => 0;
        SYS_faccessat2 "as effective user" [HERE, text("file"), 2, 0x200] => 0;
        SYS_faccessat2 "with unknown flags" [HERE, text("file"), 2, 0x4] => -libc::EINVAL;
        SYS_truncate "" [text("file"), 3] => 0;
        SYS_truncate "of a directory" [text("/g"), 3] => -libc::EISDIR;
        SYS_statfs "" [text("/g"), out] => 0;
        SYS_statfs "of what is missing" [text("missing"), out] => -libc::ENOENT;
    );
    checks.holds("open", "keeps the mode", owner("made-by-open") == (0o640, 0, 0));
    checks.holds("creat", "keeps the mode", owner("made-by-creat") == (0o604, 0, 0));
    checks.holds("openat2", "keeps the mode", owner("made-by-openat2") == (0o640, 0, 0));
    checks.holds("truncate", "cuts", fs::read("file").unwrap() == b"con");
    let inotify = call(libc::SYS_inotify_init1, &[0x8_0000]);
    symlink("file", "watched").unwrap();
    check!(checks:
        SYS_inotify_add_watch "behind a link" [inotify, text("/g/watched"), 2] => 1;
        SYS_inotify_add_watch "of the link itself" [inotify, text("watched"), 0x0200_0002] => 2;
        SYS_inotify_add_watch "of directories only" [inotify, text("file"), 0x0100_0002] => -libc::ENOTDIR;
        SYS_inotify_add_watch "of what is missing" [inotify, text("missing"), 2] => -libc::ENOENT;
    );
    close(inotify);
    if checks.is_emulated {
        check!(checks: SYS_name_to_handle_at "" [HERE, text("file"), words([8, 0, 0]), words([0]), 0] => -libc::EOPNOTSUPP;);
    }
}

fn check_names(checks: &mut Checks) {
    fs::write("named", "1").unwrap();
    fs::write("other", "2").unwrap();
    check!(checks:
        SYS_mkdir "" [text("made"), 0o1777] => 0;
        SYS_mkdir "again" [text("made"), 0o777] => -libc::EEXIST;
        SYS_mkdirat "with a slash behind" [HERE, text("/g/made/too/"), 0o700] => 0;
        SYS_mkdir "without a parent" [text("none/x"), 0o700] => -libc::ENOENT;
        SYS_mknod "of a device" [text("device"), 0o060_640, 0x0801] => 0;
        SYS_mknod "of a pipe" [text("pipe"), 0o010_600, 0] => 0;
        SYS_mknod "of a file" [text("plain"), 0o644, 0] => 0;
        SYS_mknod "of a directory" [text("x"), 0o040_644, 0] => -libc::EPERM;
        SYS_mknodat "of a device" [HERE, text("/g/made/null"), 0o020_666, 0x0103] => 0;
        SYS_symlink "" [text("/g/named"), text("link")] => 0;
        SYS_symlink "again" [text("x"), text("link")] => -libc::EEXIST;
        SYS_symlinkat "" [text("nowhere"), HERE, text("made/dangling")] => 0;
        SYS_link "" [text("named"), text("made/hard")] => 0;
        SYS_link "over another" [text("named"), text("other")] => -libc::EEXIST;
        SYS_linkat "of a link" [HERE, text("link"), HERE, text("linked"), 0] => 0;
        SYS_linkat "that follows" [HERE, text("link"), HERE, text("followed"), 0x400] => 0;
        SYS_linkat "with unknown flags" [HERE, text("link"), HERE, text("x"), 0x8] => -libc::EINVAL;
        SYS_rename "" [text("made/hard"), text("/g/moved")] => 0;
        SYS_rename "of what is missing" [text("missing"), text("x")] => -libc::ENOENT;
        SYS_renameat "over another" [HERE, text("plain"), HERE, text("linked")] => 0;
        SYS_renameat2 "that replaces nothing" [HERE, text("moved"), HERE, text("other"), 1] => -libc::EEXIST;
        SYS_renameat2 "that exchanges" [HERE, text("named"), HERE, text("other"), 2] => 0;
        SYS_renameat2 "that exchanges with nothing" [HERE, text("other"), HERE, text("missing"), 2] => -libc::ENOENT;
        SYS_renameat2 "with both" [HERE, text("other"), HERE, text("named"), 3] => -libc::EINVAL;
        SYS_unlink "" [text("moved")] => 0;
        SYS_unlink "of a directory" [text("made/too")] => -libc::EISDIR;
        SYS_unlinkat "" [HERE, text("made/dangling"), 0] => 0;
        SYS_unlinkat "of a directory" [HERE, text("/g/made/too"), 0x200] => 0;
        SYS_rmdir "that is full" [text("made")] => -libc::ENOTEMPTY;
        SYS_rmdir "of a file" [text("other")] => -libc::ENOTDIR;
        SYS_rmdir "of what is missing" [text("missing")] => -libc::ENOENT;
    );
    checks.holds("mkdir", "takes the umask off", owner("made") == (0o1755, 0, 0));
    checks.holds("renameat2", "has exchanged", fs::read("named").unwrap() == b"2" && fs::read("other").unwrap() == b"1");
    let kinds = ["device", "made/null", "pipe"].map(|path| fs::metadata(path).map(|stat| (stat.mode(), stat.rdev())).unwrap());
    checks.holds("mknod", "shows what was made", kinds == [(0o060_640, 0x0801), (0o020_644, 0x0103), (0o010_600, 0)]);
    let seen = words([0; 32]);
    check!(checks: SYS_statx "of a device" [HERE, text("device"), 0, 0x7ff, seen] => 0;);
    // stx_rdev_major and stx_rdev_minor.
    checks.is("statx", "shows the device", i64::try_from(word(seen, 16)).unwrap(), 1 << 32 | 8);
}

fn check_owners_and_modes(checks: &mut Checks) {
    fs::write("owned", "x").unwrap();
    symlink("owned", "to-owned").unwrap();
    let opened = fs::File::open("owned").unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&opened);
    check!(checks:
        SYS_chmod "" [text("owned"), 0o4711] => 0;
        SYS_chown "" [text("owned"), 33, 44] => 0;
    );
    checks.holds("chown", "takes the setuid bit of a program", owner("owned") == (0o711, 33, 44));
    check!(checks:
        SYS_fchmod "" [descriptor, 0o400] => 0;
        SYS_fchmodat "behind a link" [HERE, text("to-owned"), 0o2640] => 0;
        SYS_fchmodat2 "" [HERE, text("/g/owned"), 0o4640, 0] => 0;
        SYS_fchmodat2 "of a link" [HERE, text("to-owned"), 0o600, 0x100] => -libc::EOPNOTSUPP;
        SYS_fchmodat2 "with unknown flags" [HERE, text("owned"), 0o600, 0x4] => -libc::EINVAL;
        SYS_chmod "of what is missing" [text("missing"), 0o600] => -libc::ENOENT;
        SYS_fchmod "of nothing" [999, 0o600] => -libc::EBADF;
        SYS_lchown "of a link" [text("to-owned"), 5, 6] => 0;
        SYS_fchown "of the group" [descriptor, -1_isize, 9] => 0;
        SYS_fchownat "of a link" [HERE, text("to-owned"), 7, -1_isize, 0x100] => 0;
        SYS_fchownat "of a descriptor" [descriptor, text(""), 8, -1_isize, 0x1000] => 0;
        SYS_fchownat "with unknown flags" [HERE, text("owned"), 8, 8, 0x4] => -libc::EINVAL;
        SYS_chown "of what is missing" [text("missing"), 1, 1] => -libc::ENOENT;
    );
    checks.holds("fchown", "takes the setuid bit of what is no program too", owner("owned") == (0o640, 8, 9));
    checks.holds("lchown", "changes the link", (owner("to-owned").1, owner("to-owned").2) == (7, 6));
    // A setgid directory hands its group on.
    fs::create_dir("group").unwrap();
    check!(checks:
        SYS_chown "of a directory" [text("group"), 0, 77] => 0;
        SYS_chmod "of a directory" [text("group"), 0o2755] => 0;
    );
    fs::write("group/member", "").unwrap();
    fs::create_dir("group/sub").unwrap();
    checks.holds("open", "in a setgid directory", owner("group/member") == (0o644, 0, 77));
    // Without a right to write, as dpkg and Git make files: what is written changes nothing of that.
    for (path, mode) in [("/g/no-rights", 0), ("few-rights", 0o444), ("strange-rights", 0o044), ("own-right", 0o400)] {
        let closed = call(libc::SYS_open, &[text(path), 0o301, mode as usize]);
        call(libc::SYS_write, &[closed as usize, text("content"), 7]);
        checks.holds("open", "that gives few rights", owner(path) == (mode, 0, 0));
        check!(checks: SYS_fchmod "that gives more" [closed, 0o644] => 0;);
        checks.holds("fchmod", "of what had few rights", owner(path) == (0o644, 0, 0));
        check!(checks: SYS_fchmod "that takes them" [closed, mode] => 0;);
        checks.holds("fchmod", "to few rights", owner(path) == (mode, 0, 0));
        call(libc::SYS_close, &[closed as usize]);
    }
    // By a way that the kernel goes alone, and by one with a link.
    fs::create_dir("plain-way").unwrap();
    symlink("plain-way", "linked-way").unwrap();
    for (path, other) in
        [("/g/plain-way/new", "/g/plain-way/newer"), ("plain-way/new", "plain-way/newer"), ("linked-way/new", "linked-way/newer")]
    {
        let made = call(libc::SYS_open, &[text(path), 0o301, 0o640]);
        checks.holds("open", "makes a file in a directory", made >= 0 && owner(path) == (0o640, 0, 0));
        call(libc::SYS_close, &[made as usize]);
        check!(checks:
            SYS_open "that must make, in a directory" [text(path), 0o301, 0o600] => -libc::EEXIST;
            SYS_rename "in a directory" [text(path), text(other)] => 0;
            SYS_rename "of what is not there any more" [text(path), text(other)] => -libc::ENOENT;
        );
        let again = call(libc::SYS_open, &[text(other), 0o1101, 0o600]);
        checks.holds("open", "may make and finds", again >= 0 && owner(other) == (0o640, 0, 0));
        call(libc::SYS_close, &[again as usize]);
        fs::remove_file(other).unwrap();
    }
    checks.holds("mkdir", "in a setgid directory", owner("group/sub") == (0o2755, 0, 77));
}

fn check_times(checks: &mut Checks) {
    fs::write("timed", "x").unwrap();
    symlink("timed", "to-timed").unwrap();
    let opened = fs::File::open("timed").unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&opened);
    let seconds = |path: &str| fs::symlink_metadata(path).map(|stat| (stat.atime(), stat.mtime(), stat.mtime_nsec())).unwrap();
    check!(checks: SYS_utime "" [text("timed"), words([10, 20])] => 0;);
    checks.holds("utime", "sets both", seconds("timed") == (10, 20, 0));
    check!(checks: SYS_utimes "behind a link" [text("to-timed"), words([11, 1, 21, 2])] => 0;);
    checks.holds("utimes", "sets both", seconds("timed") == (11, 21, 2000));
    check!(checks: SYS_futimesat "" [HERE, text("/g/timed"), words([12, 0, 22, 0])] => 0;);
    checks.holds("futimesat", "sets both", seconds("timed") == (12, 22, 0));
    check!(checks: SYS_futimesat "of a descriptor" [descriptor, 0, words([13, 0, 23, 0])] => 0;);
    checks.holds("futimesat", "sets those of a descriptor", seconds("timed") == (13, 23, 0));
    check!(checks: SYS_utimensat "of a link" [HERE, text("to-timed"), words([14, 1, 24, 2]), 0x100] => 0;);
    checks.holds("utimensat", "leaves what the link leads to", seconds("timed").0 == 13 && seconds("to-timed") == (14, 24, 2));
    check!(checks: SYS_utimensat "of a link elsewhere" [HERE, text("/g/to-timed"), words([14, 1, 34, 2]), 0x100] => 0;);
    checks.holds("utimensat", "finds the link", seconds("to-timed").1 == 34);
    check!(checks: SYS_utimensat "of a descriptor" [descriptor, 0, words([15, 0, 0, (1 << 30) - 2]), 0] => 0;);
    checks.holds("utimensat", "omits one", seconds("timed") == (15, 23, 0));
    check!(checks:
        SYS_utimensat "now" [HERE, text("timed"), 0, 0] => 0;
        SYS_utimensat "with unknown flags" [HERE, text("timed"), 0, 0x4] => -libc::EINVAL;
        SYS_utimensat "of what is missing" [HERE, text("missing"), 0, 0] => -libc::ENOENT;
        SYS_utimes "with too much" [text("timed"), words([0, 2_000_000, 0, 0])] => -libc::EINVAL;
    );
    checks.holds("utimensat", "knows what time it is", seconds("timed").1 > 1_000_000_000);
}

fn check_attributes(checks: &mut Checks) {
    fs::write("kept", "x").unwrap();
    symlink("kept", "to-kept").unwrap();
    let opened = fs::File::open("kept").unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&opened);
    // Capabilities of revision 2: CAP_NET_RAW, effective.
    let value = words([0x2000_0200_0001, 0, 0]);
    let capability = text("security.capability");
    let room = words([0; 32]);
    check!(checks:
        SYS_setxattr "" [text("kept"), text("user.a"), text("12"), 2, 0] => 0;
        SYS_setxattr "that must make" [text("kept"), text("user.a"), text("12"), 2, 1] => -libc::EEXIST;
        SYS_setxattr "that must replace" [text("kept"), text("user.b"), text("12"), 2, 2] => -libc::ENODATA;
        SYS_setxattr "of a capability" [text("kept"), capability, value, 20, 0] => 0;
        SYS_setxattr "of a broken capability" [text("kept"), capability, value, 3, 0] => -libc::EINVAL;
        SYS_fsetxattr "" [descriptor, text("user.c"), text("345"), 3, 0] => 0;
        SYS_lsetxattr "" [text("kept"), text("user.d"), text("6"), 1, 0] => 0;
        SYS_getxattr "behind a link" [text("to-kept"), capability, 0, 0] => 20;
        SYS_getxattr "" [text("kept"), text("user.a"), room, 256] => 2;
        SYS_getxattr "with too little room" [text("kept"), text("user.c"), room, 1] => -libc::ERANGE;
        SYS_getxattr "of none" [text("kept"), text("user.none"), room, 256] => -libc::ENODATA;
        SYS_lgetxattr "" [text("kept"), text("user.d"), room, 256] => 1;
        SYS_lgetxattr "of a link" [text("to-kept"), capability, room, 256] => -libc::ENODATA;
        SYS_fgetxattr "" [descriptor, text("user.c"), room, 256] => 3;
        // user.a, user.c, user.d and the capability, each with its zero.
        SYS_listxattr "" [text("to-kept"), room, 256] => 41;
        SYS_flistxattr "" [descriptor, room, 256] => 41;
        SYS_llistxattr "of a link" [text("to-kept"), room, 256] => 0;
        SYS_removexattr "" [text("kept"), text("user.a")] => 0;
        SYS_fremovexattr "" [descriptor, text("user.c")] => 0;
        SYS_lremovexattr "" [text("kept"), text("user.d")] => 0;
        SYS_removexattr "of none" [text("kept"), text("user.a")] => -libc::ENODATA;
    );
    fs::write("kept", "written").unwrap();
    check!(checks: SYS_getxattr "of what was written to" [text("kept"), capability, 0, 0] => -libc::ENODATA;);
    check!(checks: SYS_setxattr "before a cut" [text("kept"), capability, value, 20, 0] => 0; SYS_truncate "" [text("kept"), 3] => 0;);
    check!(checks: SYS_getxattr "of what was cut" [text("kept"), capability, 0, 0] => -libc::ENODATA;);
    check!(checks: SYS_setxattr "before it is emptied" [text("kept"), capability, value, 20, 0] => 0;);
    let how = words([(libc::O_WRONLY | libc::O_TRUNC) as u64, 0, libc::RESOLVE_BENEATH]);
    let emptied = call(libc::SYS_openat2, &[libc::AT_FDCWD as usize, text("kept"), how, 24]);
    checks.holds("SYS_openat2", "to empty it", emptied > 0);
    check!(checks: SYS_close "" [emptied as usize] => 0; SYS_getxattr "of what was emptied" [text("kept"), capability, 0, 0] => -libc::ENODATA;);
    check!(checks: SYS_setxattr "again" [text("kept"), capability, value, 20, 0] => 0; SYS_chown "" [text("kept"), 1, 1] => 0;);
    check!(checks: SYS_getxattr "of what was given away" [text("kept"), capability, 0, 0] => -libc::ENODATA;);
    if checks.is_emulated {
        check!(checks:
            SYS_setxattr "of root's" [text("kept"), text("trusted.x"), text("1"), 1, 0] => 0;
            SYS_getxattr "of root's" [text("kept"), text("trusted.x"), 0, 0] => 1;
            SYS_getxattr "of ours" [text("kept"), text("user.cofferdam"), 0, 0] => -libc::EPERM;
            SYS_removexattr "of ours" [text("kept"), text("user.cofferdam")] => -libc::EPERM;
        );
    }
}

fn check_links_and_places(checks: &mut Checks) {
    let room = words([0; 64]);
    fs::create_dir_all("place/etc").unwrap();
    symlink("/g/place", "to-place").unwrap();
    check!(checks:
        SYS_readlink "" [text("to-place"), room, 512] => 8;
        SYS_readlink "with little room" [text("to-place"), room, 3] => 3;
        SYS_readlink "of no link" [text("place"), room, 512] => -libc::EINVAL;
        SYS_readlink "without room" [text("to-place"), room, 0] => -libc::EINVAL;
        SYS_readlinkat "" [HERE, text("/g/to-place"), room, 512] => 8;
        SYS_readlinkat "of what is missing" [HERE, text("missing"), room, 512] => -libc::ENOENT;
        SYS_getcwd "" [room, 512] => 3;
        SYS_getcwd "with little room" [room, 2] => -libc::ERANGE;
        SYS_chdir "behind a link" [text("to-place/etc")] => 0;
        SYS_getcwd "below" [room, 512] => 13;
        SYS_chdir "up" [text("../../../../..")] => 0;
        SYS_getcwd "of the root" [room, 512] => 2;
        SYS_chdir "to a file" [text("/etc/passwd")] => -libc::ENOTDIR;
        SYS_chdir "to nothing" [text("missing")] => -libc::ENOENT;
        SYS_fchdir "to a file" [1] => -libc::ENOTDIR;
        SYS_fchdir "of nothing" [999] => -libc::EBADF;
        SYS_chdir "back" [text("/g")] => 0;
        SYS_unshare "with the builder's namespaces" [libc::CLONE_NEWNS as usize] => -libc::EPERM;
        SYS_unshare "of nothing" [0] => 0;
        SYS_chroot "to a file" [text("/etc/passwd")] => -libc::ENOTDIR;
        SYS_chroot "to nothing" [text("missing")] => -libc::ENOENT;
        SYS_chroot "where it is" [text("/")] => 0;
    );
    // Deeper than a path may be long.
    fs::create_dir("deep").unwrap();
    std::env::set_current_dir("deep").unwrap();
    let name = text(&"d".repeat(200));
    for _ in 0..30 {
        check!(checks:
            SYS_mkdir "far below" [name, 0o755] => 0;
            SYS_chdir "far below" [name] => 0;
        );
    }
    let below = usize::try_from(call(libc::SYS_openat, &[HERE as usize, text("."), libc::O_PATH as usize])).unwrap();
    check!(checks:
        SYS_getcwd "far below" [room, 512] => -libc::ENAMETOOLONG;
        SYS_mkdirat "far below" [below, text("sub"), 0o755] => 0;
        SYS_unlinkat "far below" [below, text("sub"), libc::AT_REMOVEDIR] => 0;
        SYS_chdir "up from far below" [text("..")] => 0;
        SYS_rmdir "far below" [name] => 0;
        SYS_chdir "back from far below" [text("/g")] => 0;
        SYS_close "of what was far below" [below] => 0;
    );
    // In a further root, seen by a child.
    fs::write("place/etc/inside", "1").unwrap();
    // SAFETY: the child makes calls of its own and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let entered = call(libc::SYS_chroot, &[text("/g/place")]) == 0 && call(libc::SYS_chdir, &[text("/")]) == 0;
        let inside =
            call(libc::SYS_access, &[text("/etc/inside"), 0]) == 0 && call(libc::SYS_access, &[text("../etc/inside"), 0]) == 0;
        let outside = call(libc::SYS_access, &[text("/g"), 0]) == -i64::from(libc::ENOENT);
        let directory = std::env::current_dir().is_ok_and(|directory| directory == Path::new("/"));
        // SAFETY: nothing of the parent's is undone.
        unsafe { libc::_exit(i32::from(!(entered && inside && outside && directory))) };
    }
    checks.is("chroot", "to a directory", wait_for(child), 0);
    checks.holds("chroot", "of a child only", Path::new("/g/place").exists());
}

/// The exit code of a child.
fn wait_for(child: i32) -> i64 {
    let mut status = 0;
    // SAFETY: a child of ours.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status).into() } else { -i64::from(status) }
}

fn check_descriptors(checks: &mut Checks) {
    let first = call(libc::SYS_dup, &[1]);
    check!(checks:
        SYS_close "" [first] => 0;
        SYS_dup2 "" [1, first] => first as i32;
        SYS_dup3 "" [1, first, libc::O_CLOEXEC] => first as i32;
        SYS_close_range "" [first, first, 0] => 0;
        SYS_close "again" [first] => -libc::EBADF;
        SYS_close_range "the wrong way round" [9, 8, 0] => -libc::EINVAL;
        SYS_close_range "beyond all" [100, 0xffff_ffff_u32, 0] => 0;
    );
    if checks.is_emulated {
        check!(checks:
            SYS_close "of the root" [59] => 0;
            SYS_dup2 "over the root" [1, 59] => -libc::EBADF;
            SYS_dup3 "over the root" [1, 59, 0] => -libc::EBADF;
            SYS_close_range "around the root" [1000, 2000, 0] => 0;
            SYS_access "afterwards" [text("/etc/passwd"), 4] => 0;
        );
    }
}

fn check_sockets(checks: &mut Checks) {
    use std::os::{
        fd::AsRawFd as _,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    };
    let listener = UnixListener::bind("/g/socket").unwrap();
    checks.holds("bind", "to a path", owner("socket") == (0o755, 0, 0));
    let name = listener.local_addr().unwrap();
    checks.holds("getsockname", "is the step's", name.as_pathname() == Some(Path::new("/g/socket")));
    symlink("socket", "to-socket").unwrap();
    let client = UnixStream::connect("to-socket").unwrap();
    checks.holds("connect", "behind a link", client.peer_addr().unwrap().as_pathname() == Some(Path::new("/g/socket")));
    checks.made.push("getpeername");
    let (room, length) = (words([0; 16]), words([128]));
    let accepted = call(libc::SYS_accept, &[usize::try_from(listener.as_raw_fd()).unwrap(), room, length]);
    checks.holds("accept", "with an address", accepted > 2);
    let named = UnixDatagram::bind("named-client").unwrap();
    drop(named);
    let second = UnixStream::connect("/g/socket").unwrap();
    let also = call(libc::SYS_accept4, &[usize::try_from(listener.as_raw_fd()).unwrap(), room, length, 0x8_0000]);
    checks.holds("accept4", "with an address", also > accepted);
    drop((client, second));
    for descriptor in [accepted, also] {
        call(libc::SYS_close, &[usize::try_from(descriptor).unwrap()]);
    }
    checks.holds(
        "connect",
        "to nothing",
        UnixStream::connect("missing").is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT)),
    );
    checks.holds(
        "bind",
        "where something is",
        UnixListener::bind("socket").is_err_and(|error| error.raw_os_error() == Some(libc::EADDRINUSE)),
    );
    let receiver = UnixDatagram::bind("datagrams").unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    checks.holds("sendto", "a path", sender.send_to(b"1", "/g/datagrams").is_ok_and(|count| count == 1));
    let mut byte = [0; 8];
    checks.holds("sendto", "arrives", receiver.recv(&mut byte).is_ok_and(|count| count == 1));
    // `sendmsg` with an address.
    let mut address = [0_u8; 110];
    address[0] = 1;
    address[2..14].copy_from_slice(b"/g/datagrams");
    let part = words([text("22") as u64, 2]);
    let message = words([address.as_ptr() as u64, 15, part as u64, 1, 0, 0, 0]);
    check!(checks: SYS_sendmsg "to a path" [sender.as_raw_fd(), message, 0] => 2;);
    checks.holds("sendmsg", "arrives", receiver.recv(&mut byte).is_ok_and(|count| count == 2));
    // Behind links that are shorter than what they stand for, by more and more: the rest of the path moves to the front.
    fs::create_dir_all("/r/postgresql").unwrap();
    let behind = UnixListener::bind("/r/postgresql/.s.PGSQL.5432").unwrap();
    for length in 1..40 {
        let link = format!("/{}", "l".repeat(length));
        symlink("/r", &link).unwrap();
        let found = UnixStream::connect(format!("{link}/postgresql/.s.PGSQL.5432"));
        checks.holds("connect", &format!("behind a link of {length}"), found.is_ok());
        fs::remove_file(link).unwrap();
    }
    drop(behind);
    // A path that is too long on the host, but not for the step.
    let deep = format!("/g/{}", "d".repeat(90));
    fs::create_dir(&deep).unwrap();
    let long = format!("{deep}/socket");
    checks.holds("bind", "to a long path", UnixListener::bind(&long).is_ok() && fs::symlink_metadata(&long).is_ok());
}

fn check_signals(checks: &mut Checks) {
    static HEARD: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);
    extern "C" fn hear(signal: i32) {
        HEARD.fetch_add(signal, std::sync::atomic::Ordering::Relaxed);
    }
    // SAFETY: structures of ours, and a handler that only counts.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = hear as extern "C" fn(i32) as usize;
        let mut before: libc::sigaction = std::mem::zeroed();
        for signal in [libc::SIGSYS, libc::SIGUSR1] {
            checks.is("rt_sigaction", "", libc::sigaction(signal, &raw const action, std::ptr::null_mut()).into(), 0);
            checks.is("rt_sigaction", "again", libc::sigaction(signal, &raw const action, &raw mut before).into(), 0);
            checks.holds("rt_sigaction", "tells what was there", before.sa_sigaction == action.sa_sigaction);
        }
        libc::kill(libc::getpid(), libc::SIGSYS);
        // It may be another thread that hears it.
        for _ in 0..1000 {
            if HEARD.load(std::sync::atomic::Ordering::Relaxed) > 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        checks.is("rt_sigaction", "is heard", HEARD.swap(0, std::sync::atomic::Ordering::Relaxed).into(), libc::SIGSYS.into());
    }
    let (usr1, none, old) = (words([1 << (libc::SIGUSR1 - 1)]), words([0]), words([0]));
    check!(checks:
        SYS_rt_sigaction "of what cannot be caught" [libc::SIGKILL, words([0, 0, 0, 0]), 0, 8] => -libc::EINVAL;
        SYS_rt_sigaction "of another size" [libc::SIGUSR2, words([0, 0, 0, 0]), 0, 4] => -libc::EINVAL;
        SYS_rt_sigprocmask "blocks" [0, usr1, old, 8] => 0;
        SYS_rt_sigprocmask "of another size" [0, usr1, 0, 4] => -libc::EINVAL;
        SYS_rt_sigprocmask "of unknown kind" [9, usr1, 0, 8] => -libc::EINVAL;
    );
    let raise =
        || call(libc::SYS_tgkill, &[std::process::id() as usize, usize::try_from(call(libc::SYS_gettid, &[])).unwrap(), 10]);
    let heard = || HEARD.swap(0, std::sync::atomic::Ordering::Relaxed);
    let events = call(libc::SYS_epoll_create1, &[0]);
    raise();
    checks.is("rt_sigprocmask", "keeps it back", heard().into(), 0);
    check!(checks: SYS_rt_sigsuspend "" [none, 8] => -libc::EINTR;);
    checks.is("rt_sigsuspend", "lets it through", heard().into(), 10);
    raise();
    check!(checks: SYS_ppoll "" [0, 0, words([1, 0]), none, 8] => -libc::EINTR;);
    raise();
    check!(checks: SYS_pselect6 "" [0, 0, 0, 0, words([1, 0]), words([none as u64, 8])] => -libc::EINTR;);
    raise();
    check!(checks: SYS_epoll_pwait "" [events, words([0; 4]), 1, 1000, none, 8] => -libc::EINTR;);
    raise();
    check!(checks: SYS_epoll_pwait2 "" [events, words([0; 4]), 1, words([1, 0]), none, 8] => -libc::EINTR;);
    checks.is("ppoll", "and the others let it through", heard().into(), 40);
    check!(checks:
        SYS_ppoll "that waits in vain" [0, 0, words([0, 0]), usr1, 8] => 0;
        SYS_rt_sigprocmask "sets" [2, none, old, 8] => 0;
    );
    checks.is("rt_sigprocmask", "tells what was blocked", i64::try_from(word(old, 0)).unwrap(), 1 << 9);
    // All are blocked: the trap's signal is not.
    check!(checks:
        SYS_rt_sigprocmask "blocks all" [2, words([u64::MAX]), 0, 8] => 0;
        SYS_getuid "then" [] => 0;
        SYS_rt_sigprocmask "none" [2, none, 0, 8] => 0;
    );
    call(libc::SYS_close, &[usize::try_from(events).unwrap()]);
}

fn check_programs(checks: &mut Checks) {
    let list = |texts: &[&str]| {
        let pointers: Vec<u64> = texts.iter().map(|one| text(one) as u64).chain([0]).collect();
        Box::leak(pointers.into_boxed_slice()).as_ptr() as usize
    };
    let none = list(&[]);
    fs::write("script", "#!/bin/sh -e\n[ $0 = /g/script ] && [ $1 = a ] && exit 42\n").unwrap();
    fs::write("empty", "").unwrap();
    fs::write("strange", "#!/missing\n").unwrap();
    fs::write("of-32-bits", b"\x7fELF\x01\x01\x01").unwrap();
    for path in ["script", "empty", "strange", "of-32-bits"] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let directory = fs::File::open("/bin").unwrap();
    let program = fs::File::open("/bin/busybox").unwrap();
    let (bin, busybox) = (std::os::fd::AsRawFd::as_raw_fd(&directory), std::os::fd::AsRawFd::as_raw_fd(&program));
    let memory = usize::try_from(call(libc::SYS_memfd_create, &[text("program"), 1])).unwrap();
    fs::write(format!("/proc/self/fd/{memory}"), fs::read("/bin/busybox").unwrap()).unwrap();
    fs::copy("/bin/busybox", "unlinked").unwrap();
    let unlinked = usize::try_from(call(libc::SYS_open, &[text("unlinked"), 0x8_0000])).unwrap();
    fs::remove_file("unlinked").unwrap();
    fs::write("by-descriptor", "#!/bin/sh\n[ $0 = /dev/fd/${0##*/} ] && [ $1 = a ] && exit 42\n").unwrap();
    fs::set_permissions("by-descriptor", fs::Permissions::from_mode(0o755)).unwrap();
    let script = usize::try_from(call(libc::SYS_open, &[text("by-descriptor"), 0])).unwrap();
    let exit = ["sh", "-c", "exit 42"];
    for (name, number, arguments) in [
        ("execve", libc::SYS_execve, vec![text("/g/script"), list(&["x", "a"]), none]),
        ("execve", libc::SYS_execve, vec![text("../bin/sh"), list(&exit), none]),
        ("execveat", libc::SYS_execveat, vec![usize::try_from(bin).unwrap(), text("sh"), list(&exit), none, 0]),
        ("execveat", libc::SYS_execveat, vec![usize::try_from(busybox).unwrap(), text(""), list(&exit), none, 0x1000]),
        ("execveat", libc::SYS_execveat, vec![memory, text(""), list(&exit), none, 0x1000]),
        ("execveat", libc::SYS_execveat, vec![unlinked, text(""), list(&exit), none, 0x1000]),
        ("execveat", libc::SYS_execveat, vec![script, text(""), list(&["x", "a"]), none, 0x1000]),
    ] {
        // SAFETY: the child executes something or ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            call(number, &arguments);
            // SAFETY: as above.
            unsafe { libc::_exit(1) };
        }
        checks.is(name, "that succeeds", wait_for(child), 42);
    }
    check!(checks:
        SYS_execve "of nothing" [text("missing"), none, none] => -libc::ENOENT;
        SYS_execve "of a directory" [text("/g"), none, none] => -libc::EACCES;
        SYS_execve "of what is not executable" [text("/etc/passwd"), none, none] => -libc::EACCES;
        SYS_execve "of an empty file" [text("empty"), none, none] => -libc::ENOEXEC;
        SYS_execve "of a program of 32 bits" [text("of-32-bits"), none, none] => -libc::ENOEXEC;
        SYS_execve "without its interpreter" [text("strange"), none, none] => -libc::ENOENT;
        SYS_execveat "without a path" [HERE, text(""), none, none, 0] => -libc::ENOENT;
    );
    let threads: Vec<_> = (0..8).map(|number| std::thread::spawn(move || fs::write(format!("/g/t{number}"), "x"))).collect();
    checks.holds(
        "openat",
        "by many threads",
        threads.into_iter().all(|thread| thread.join().is_ok_and(|written| written.is_ok())),
    );
    let output = Command::new("/bin/sh").args(["-c", "echo $0", "zero"]).output().unwrap();
    checks.holds("execve", "by vfork", output.stdout == b"zero\n");
    if checks.is_emulated {
        let output = Command::new("/bin/sh").args(["-c", "./of-32-bits"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        checks.holds("execve", "of a program of 32 bits says so", said.contains("programs of 32 bits cannot run"));
    }
    checks.holds(
        "execve",
        "that fails in a child",
        Command::new("./absent").spawn().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound),
    );
}

fn check_bad_pointers(checks: &mut Checks) {
    // A page that nobody may read, and a pointer that is a small number.
    let closed = usize::try_from(call(libc::SYS_mmap, &[0, 4096, 0, 0x22, usize::MAX, 0])).unwrap();
    let socket = call(libc::SYS_socket, &[1, 1, 0]);
    for bad in [closed, 8] {
        check!(checks:
            SYS_open "of no pointer" [bad, 0] => -libc::EFAULT;
            SYS_openat2 "of no structure" [HERE, text("file"), bad, 24] => -libc::EFAULT;
            SYS_stat "of no pointer" [bad, words([0; 32])] => -libc::EFAULT;
            SYS_stat "to no pointer" [text("file"), bad] => -libc::EFAULT;
            SYS_fstat "to no pointer" [1, bad] => -libc::EFAULT;
            SYS_statx "to no pointer" [HERE, text("file"), 0, 0x7ff, bad] => -libc::EFAULT;
            SYS_statfs "to no pointer" [text("/g"), bad] => -libc::EFAULT;
            SYS_readlink "to no pointer" [text("to-place"), bad, 100] => -libc::EFAULT;
            SYS_getcwd "to no pointer" [bad, 100] => -libc::EFAULT;
            SYS_rename "to no pointer" [text("file"), bad] => -libc::EFAULT;
            SYS_fchmodat "of no pointer" [HERE, bad, 0o600] => -libc::EFAULT;
            SYS_utimensat "of no pointer" [HERE, bad, 0, 0] => -libc::EFAULT;
            SYS_utimensat "with no times" [HERE, text("file"), bad, 0] => -libc::EFAULT;
            SYS_setxattr "of no name" [text("file"), bad, text("1"), 1, 0] => -libc::EFAULT;
            SYS_getresuid "to no pointer" [bad, bad, bad] => -libc::EFAULT;
            SYS_setgroups "of no pointer" [2, bad] => -libc::EFAULT;
            SYS_capget "of no pointer" [bad, bad] => -libc::EFAULT;
            SYS_uname "to no pointer" [bad] => -libc::EFAULT;
            SYS_execve "of no pointer" [bad, 0, 0] => -libc::EFAULT;
            SYS_execve "with no arguments" [text("/bin/sh"), bad, 0] => -libc::EFAULT;
            SYS_bind "to no pointer" [socket, bad, 16] => -libc::EFAULT;
            SYS_rt_sigaction "of no pointer" [10, bad, 0, 8] => -libc::EFAULT;
            SYS_rt_sigprocmask "of no pointer" [0, bad, 0, 8] => -libc::EFAULT;
        );
    }
    call(libc::SYS_close, &[usize::try_from(socket).unwrap()]);
}

fn check_devices(checks: &mut Checks) {
    if !checks.is_emulated {
        return;
    }
    let before = fs::metadata("/dev/null").map(|stat| (stat.mode(), stat.uid(), stat.mtime())).unwrap();
    let opened = fs::File::open("/dev/null").unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&opened);
    check!(checks:
        SYS_chmod "of a device" [text("/dev/null"), 0o600] => 0;
        SYS_fchmod "of a device" [descriptor, 0o600] => 0;
        SYS_chown "of a device" [text("/dev/null"), 1, 1] => 0;
        SYS_utimensat "of a device" [HERE, text("/dev/null"), words([1, 0, 1, 0]), 0] => 0;
        SYS_open "of a device, as if to make it" [text("/dev/zero"), 0o301, 0o600] => -libc::EEXIST;
        SYS_unlink "in /dev" [text("/dev/null")] => -libc::EPERM;
        SYS_rename "out of /dev" [text("/dev/null"), text("/g/null")] => -libc::EPERM;
        SYS_rename "over a device" [text("/g/file"), text("/dev/null")] => -libc::EPERM;
        SYS_mkdir "in the place of a device" [text("/dev/pts"), 0o700] => -libc::EEXIST;
        SYS_chdir "to /dev" [text("/dev")] => 0;
        SYS_chmod "in /dev" [text("null"), 0o600] => 0;
        SYS_unlink "in /dev, from there" [text("null")] => -libc::EPERM;
        SYS_chdir "back" [text("/g")] => 0;
    );
    let after = fs::metadata("/dev/null").map(|stat| (stat.mode(), stat.uid(), stat.mtime())).unwrap();
    checks.holds("chmod", "leaves the host's devices", before == after);
    let listening = UnixDatagram::bind("/dev/log").unwrap();
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"said", "/dev/log"));
    let mut received = [0; 8];
    let length = listening.recv(&mut received).unwrap();
    checks.holds("bind", "in /dev", sent.is_ok() && &received[..length] == b"said" && fs::exists("/dev/log").unwrap());
}

fn check_proc(checks: &mut Checks) {
    let read = |path: &str| fs::read_to_string(path).unwrap();
    checks.holds("readlink", "of the program", fs::read_link("/proc/self/exe").unwrap() == Path::new("/program"));
    checks.holds("readlink", "of the directory", fs::read_link("/proc/self/cwd").unwrap() == Path::new("/g"));
    checks.holds("readlink", "of the root", fs::read_link("/proc/self/root").unwrap() == Path::new("/"));
    checks.holds(
        "open",
        "of the program",
        fs::metadata("/proc/self/exe").unwrap().ino() == fs::metadata("/program").unwrap().ino(),
    );
    checks.holds("open", "below the root", read("/proc/self/root/etc/passwd") == read("/etc/passwd"));
    checks.holds("open", "of the root", fs::read_dir("/proc/self/root").unwrap().any(|entry| entry.unwrap().file_name() == "g"));
    let line =
        |name: &str| read("/proc/self/status").lines().find_map(|line| line.strip_prefix(name).map(str::to_owned)).unwrap();
    checks.holds("open", "of the status", (&line("Uid:")[..], &line("CapEff:")[..]) == ("\t0\t0\t0\t0", "\t00000000a80425fb"));
    checks.holds("open", "of the maps", read("/proc/self/maps").lines().any(|line| line.ends_with(" /program")));
    checks.holds("open", "of the variables", !read("/proc/self/environ").contains("COFFERDAM"));
    checks.holds("open", "of the mounts", read("/proc/self/mountinfo").lines().any(|line| line.split(' ').nth(4) == Some("/")));
    checks.holds("open", "of the host name", read("/proc/sys/kernel/hostname") == "test\n");
    let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    let program = format!("/proc/{}/exe", child.id());
    // It has executed when this is known.
    checks.holds("readlink", "of another's program", fs::read_link(&program).unwrap() == Path::new("/bin/busybox"));
    checks.holds(
        "open",
        "of another's program",
        fs::metadata(&program).unwrap().ino() == fs::metadata("/bin/busybox").unwrap().ino(),
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let names = words([0; 49]);
    check!(checks:
        SYS_uname "" [names] => 0;
        SYS_sethostname "" [text("x"), 1] => -libc::EPERM;
        SYS_setdomainname "" [text("x"), 1] => -libc::EPERM;
    );
    // SAFETY: the second of six names, of 65 bytes each.
    let name = unsafe { std::ffi::CStr::from_ptr((names + 65) as *const libc::c_char) };
    checks.holds("uname", "says what the step is called", name == c"test");
}

/// What a child has changed in the memory that it shares with its parent until it executes something.
extern "C" fn change_everything(found: *mut libc::c_void) -> libc::c_int {
    let none = usize::MAX;
    let changed = [
        call(libc::SYS_umask, &[0o077]),
        call(libc::SYS_chroot, &[text("/g/place")]),
        call(libc::SYS_setresgid, &[none, 44, none]),
        call(libc::SYS_setresuid, &[none, 33, none]),
        call(libc::SYS_geteuid, &[]),
        call(libc::SYS_access, &[text("/etc/inside"), 0]),
        call(libc::SYS_umask, &[0]),
    ];
    // SAFETY: the parent's, which waits.
    unsafe { found.cast::<[i64; 7]>().write(changed) };
    0
}

fn check_borrowed_memory(checks: &mut Checks) {
    let mut stack = vec![0_u128; 16 * 1024];
    let mut found = [0_i64; 7];
    // SAFETY: the stack is large enough; the parent waits until the child has ended.
    let child = unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(change_everything, top.cast(), flags, (&raw mut found).cast())
    };
    checks.is("umask", "of a child by vfork", wait_for(child), 0);
    checks.holds("setresuid", "of a child by vfork", found == [0o022, 0, 0, 0, 33, 0, 0o077]);
    check!(checks:
        SYS_geteuid "after a child by vfork" [] => 0;
        SYS_getegid "after a child by vfork" [] => 0;
        SYS_access "after a child by vfork" [text("/etc/passwd"), 4] => 0;
        SYS_umask "after a child by vfork" [0o022] => 0o022;
    );
    // A thread shares what it changes.
    let changed = std::thread::spawn(|| call(libc::SYS_umask, &[0o027])).join().unwrap();
    checks.is("umask", "by a thread", changed, 0o022);
    check!(checks: SYS_umask "after a thread" [0o022] => 0o027;);
}

/// What others than root may do.
fn check_other_users(checks: &mut Checks) {
    fs::create_dir_all("closed/below/deep").unwrap();
    fs::write("closed/below/file", "").unwrap();
    fs::set_permissions("closed", fs::Permissions::from_mode(0o700)).unwrap();
    symlink("closed/below", "to-below").unwrap();
    fs::create_dir("sticky").unwrap();
    fs::set_permissions("sticky", fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write("sticky/roots", "").unwrap();
    fs::write("sticky/shared", "").unwrap();
    fs::set_permissions("sticky/shared", fs::Permissions::from_mode(0o666)).unwrap();
    fs::write("roots", "root's").unwrap();
    fs::create_dir("/g/theirs").unwrap();
    let to_empty = |access: libc::c_int| words([(access | libc::O_TRUNC) as u64, 0, libc::RESOLVE_BENEATH]);
    check!(checks:
        SYS_chown "for another" [text("theirs"), 33, 33] => 0;
        SYS_setresgid "to another" [-1_isize, 33, -1_isize] => 0;
        SYS_setresuid "to another" [-1_isize, 33, -1_isize] => 0;
        SYS_geteuid "" [] => 33;
        SYS_mknod "as another" [text("theirs/d"), 0o060_640, 0x0801] => -libc::EPERM;
        SYS_chown "as another" [text("roots"), 33, 33] => -libc::EPERM;
        SYS_chmod "as another" [text("roots"), 0o666] => -libc::EPERM;
        SYS_setgroups "as another" [0, 0] => -libc::EPERM;
        SYS_chroot "as another" [text("/g/theirs")] => -libc::EPERM;
        SYS_open "to write as another" [text("roots"), 1] => -libc::EACCES;
        SYS_openat2 "to empty it as another" [HERE, text("roots"), to_empty(libc::O_WRONLY), 24] => -libc::EACCES;
        SYS_openat2 "to empty and read it as another" [HERE, text("roots"), to_empty(libc::O_RDONLY), 24] => -libc::EACCES;
        SYS_truncate "as another" [text("roots"), 0] => -libc::EACCES;
        SYS_utimes "as another" [text("roots"), words([1, 0, 1, 0])] => -libc::EPERM;
        SYS_utimes "now as another" [text("roots"), 0] => -libc::EACCES;
        SYS_utimes "now as one who may write" [text("sticky/shared"), 0] => 0;
        SYS_setxattr "as another" [text("roots"), text("user.x"), text("1"), 1, 0] => -libc::EACCES;
        SYS_setxattr "of root's as another" [text("theirs"), text("security.capability"), words([0x200_0001, 0, 0]), 20, 0] => -libc::EPERM;
        SYS_mkdir "as another" [text("no"), 0o700] => -libc::EACCES;
        SYS_mkdir "where something is as another" [text("roots"), 0o700] => -libc::EEXIST;
        SYS_symlink "as another" [text("x"), text("no")] => -libc::EACCES;
        SYS_unlink "as another" [text("roots")] => -libc::EACCES;
        SYS_rename "as another" [text("roots"), text("theirs/x")] => -libc::EACCES;
        SYS_unlink "in a sticky directory" [text("sticky/roots")] => -libc::EPERM;
        SYS_rename "in a sticky directory" [text("sticky/roots"), text("sticky/x")] => -libc::EPERM;
        SYS_mkdir "in a sticky directory" [text("sticky/own"), 0o700] => 0;
        SYS_rmdir "in a sticky directory" [text("sticky/own")] => 0;
        SYS_stat "behind a closed directory" [text("closed/below/file"), words([0; 32])] => -libc::EACCES;
        SYS_stat "behind a closed directory, from the root" [text("/g/closed/below/file"), words([0; 32])] => -libc::EACCES;
        SYS_stat "behind a closed directory, by a link" [text("to-below/file"), words([0; 32])] => -libc::EACCES;
        SYS_chdir "behind a closed directory" [text("closed/below/deep")] => -libc::EACCES;
        SYS_chdir "to a closed directory" [text("closed")] => -libc::EACCES;
        SYS_stat "of a closed directory" [text("closed"), words([0; 32])] => 0;
        SYS_stat "of what is open" [text("/g/sticky/shared"), words([0; 32])] => 0;
    );
    fs::write("theirs/new", "").unwrap();
    checks.holds("open", "by another", owner("theirs/new") == (0o644, 33, 33));
    checks.holds("openat2", "empties nothing before it is allowed", fs::metadata("roots").is_ok_and(|roots| roots.len() == 6));
    check!(checks:
        SYS_setresuid "back" [-1_isize, 0, -1_isize] => 0;
        SYS_setresgid "back" [-1_isize, 0, -1_isize] => 0;
    );
}

fn check_capabilities(checks: &mut Checks) {
    let docker = 0xa804_25fb_u64;
    let (header, sets) = (words([0x2008_0522]), words([0; 3]));
    let clear = |capability: u32| words([docker & !(1 << capability) | docker << 32 & !(1_u64 << (capability + 32)), 0, 0]);
    // SAFETY: the child makes calls of its own and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut inner = Checks { is_emulated: checks.is_emulated, made: Vec::new(), wrong: Vec::new() };
        let inner_checks = &mut inner;
        check!(inner_checks:
            SYS_capget "of another version" [words([1]), sets] => -libc::EINVAL;
            SYS_capget "" [header, sets] => 0;
            SYS_prctl "a capability in bounds" [23, 0] => 1;
            SYS_prctl "a capability out of bounds" [23, 21] => 0;
            SYS_prctl "no capability" [23, 64] => -libc::EINVAL;
            SYS_prctl "drop from the bounds" [24, 27] => 0;
            SYS_prctl "dropped from the bounds" [23, 27] => 0;
            SYS_prctl "keep" [8, 1] => 0;
            SYS_prctl "kept" [7] => 1;
            SYS_prctl "keep not" [8, 0] => 0;
            SYS_prctl "keep perhaps" [8, 2] => -libc::EINVAL;
            SYS_prctl "secure bits" [27] => 0;
            SYS_prctl "ambient, not inheritable" [47, 2, 13, 0, 0] => -libc::EPERM;
            SYS_prctl "ambient" [47, 1, 13, 0, 0] => 0;
            SYS_prctl "clear ambient" [47, 4, 0, 0, 0] => 0;
            SYS_prctl "no new privileges, wrongly" [38, 2, 0, 0, 0] => -libc::EINVAL;
            SYS_capset "of another process" [words([1 << 32 | 0x2008_0522]), sets] => -libc::EPERM;
            SYS_capset "to more" [header, words([u64::MAX; 3])] => -libc::EPERM;
            SYS_capset "without chown" [header, clear(0)] => 0;
            SYS_chown "without the right" [text("roots"), 1, 1] => -libc::EPERM;
            SYS_capset "to get it back" [header, words([docker | docker << 32, 0, 0])] => -libc::EPERM;
            SYS_prctl "secure bits, a lock" [28, 0x20] => 0;
            SYS_prctl "secure bits, unlocked" [28, 0] => -libc::EPERM;
            SYS_prctl "no new privileges" [38, 1, 0, 0, 0] => 0;
            SYS_prctl "no new privileges, asked" [39, 0, 0, 0, 0] => 1;
        );
        inner.holds("capget", "is Docker's", word(sets, 0) == docker | docker << 32);
        for wrong in &inner.wrong {
            println!("{wrong}");
        }
        // SAFETY: nothing of the parent's is undone.
        unsafe { libc::_exit(inner.wrong.len().try_into().unwrap()) };
    }
    checks.is("capset", "and prctl in a child (see above)", wait_for(child), 0);
    checks.made.extend(["capget", "prctl"]);
    check!(checks: SYS_prctl "no new privileges, here" [39, 0, 0, 0, 0] => 0; SYS_prctl "bounds, here" [23, 27] => 1;);
}

fn check_identity(checks: &mut Checks) {
    let (none, three, groups) = (-1_isize, words([0; 2]), words([5 | 6 << 32]));
    // SAFETY: the child makes calls of its own and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut inner = Checks { is_emulated: checks.is_emulated, made: Vec::new(), wrong: Vec::new() };
        let inner_checks = &mut inner;
        check!(inner_checks:
            SYS_setgroups "" [2, groups] => 0;
            SYS_getgroups "how many" [0, 0] => 2;
            SYS_getgroups "with little room" [1, three] => -libc::EINVAL;
            SYS_getgroups "" [2, three] => 2;
            SYS_setfsuid "" [33] => 0;
            SYS_setfsuid "again" [none] => 33;
            SYS_setfsuid "back" [0] => 33;
            SYS_setfsgid "" [34] => 0;
            SYS_setfsgid "back" [0] => 34;
            SYS_setregid "" [7, 8] => 0;
            SYS_getgid "" [] => 7;
            SYS_getegid "" [] => 8;
            SYS_setresgid "" [9, 10, 11] => 0;
            SYS_getresgid "" [three, three + 4, three + 8] => 0;
            SYS_setgid "" [12] => 0;
            SYS_setreuid "" [1, 2] => 0;
            SYS_getuid "" [] => 1;
            SYS_geteuid "" [] => 2;
            SYS_setreuid "exchanged" [2, 1] => 0;
            SYS_setreuid "to another" [0, none] => -libc::EPERM;
            SYS_setuid "to root" [0] => -libc::EPERM;
            SYS_setuid "to the real one" [2] => 0;
            SYS_setresuid "to another" [none, 3, none] => -libc::EPERM;
            SYS_setgid "to another" [0] => -libc::EPERM;
            SYS_getresuid "" [three, three + 4, three + 8] => 0;
            SYS_setfsuid "to another" [0] => 2;
            SYS_setfsuid "which it did not become" [none] => 2;
            SYS_prctl "bounds of another user" [24, 0] => -libc::EPERM;
        );
        for wrong in &inner.wrong {
            println!("{wrong}");
        }
        // SAFETY: nothing of the parent's is undone.
        unsafe { libc::_exit(inner.wrong.len().try_into().unwrap()) };
    }
    checks.is("setuid", "and others in a child (see above)", wait_for(child), 0);
    checks.made.extend("getgroups setfsuid setfsgid setregid getgid getresgid setgid setreuid getresuid".split(' '));
    check!(checks: SYS_getuid "afterwards" [] => 0; SYS_umask "" [0o027] => 0o022; SYS_umask "back" [0o022] => 0o027;);
}

fn check_filters(checks: &mut Checks) {
    if !checks.is_emulated {
        return;
    }
    // One instruction: allow everything.
    let program = words([1, words([0x7fff_0000_0000_0006]) as u64]);
    check!(checks:
        SYS_seccomp "strict" [0, 0, 0] => -libc::EINVAL;
        SYS_seccomp "without a promise" [1, 0, program] => -libc::EACCES;
        SYS_seccomp "of no program" [1, 0, 8] => -libc::EFAULT;
        SYS_prctl "the kind of filter" [21] => 2;
        SYS_prctl "strict" [22, 1] => -libc::EINVAL;
        SYS_prctl "the promise" [38, 1, 0, 0, 0] => 0;
        SYS_seccomp "with unknown flags" [1, 1 << 20, program] => -libc::EINVAL;
        SYS_seccomp "" [1, 0, program] => 0;
        SYS_prctl "a filter" [22, 2, program] => 0;
    );
    for (name, number) in [
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("setxattrat", 463),
        ("getxattrat", 464),
        ("listxattrat", 465),
        ("removexattrat", 466),
        ("file_getattr", 468),
        ("file_setattr", 469),
        ("open_tree", libc::SYS_open_tree),
        ("fspick", libc::SYS_fspick),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("landlock_create_ruleset", 444),
    ] {
        checks.is(name, "", call(number, &[]), -i64::from(libc::ENOSYS));
    }
}
