//! Steps without any privilege: what they see, what is recorded of what they did, how they end. As root each test starts
//! itself again as another user, and one goes into the root file system as the program of a step and makes the calls itself.

#![expect(unsafe_code, reason = "the calls that the emulation answers are made as they are")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::{
    isolation::{
        Access, CancelToken, Emulated, ExitStatus, FileContent, Identity, Isolation as _, Kind, Mount, MountKind, Network,
        Privileges, RunError, Step, Stream, choose, probe,
    },
    layer::read::Visitor as _,
    rootfs::{Owners, RootMount, Rootfs},
    tree::{Change, Content, ContentDigest, Entry, File, LayerIndex, Node, SourceId, Timestamp, Tree, TreePath, text},
};
use std::{
    ffi::{CString, OsString},
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
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
    isolation: Emulated,
    rootfs: Rootfs,
    tree: Tree,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let choice = choose(&probe(directory.path()).unwrap(), Some(Kind::Emulated)).unwrap();
        assert_eq!(choice.owners, Owners::RECORDED);
        let rootfs = Rootfs::new(directory.path(), None, choice.owners).unwrap();
        let mut fixture = Self { directory, isolation: Emulated::new(choice), rootfs, tree: Tree::new() };
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
        let mut changes = self.rootfs.end_step(&self.tree, SourceId(1)).unwrap().changes;
        for change in &mut changes {
            if let Change::Put { entry, .. } = change {
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

fn busybox() -> Vec<Change> {
    let put = |path: &str, node: Node| Change::Put {
        path: TreePath::clamp(path),
        entry: Entry { node, mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::from_seconds(9), capability: None },
    };
    let program = fs::read("/bin/busybox").unwrap();
    let program = File {
        size_bytes: program.len() as u64,
        digest: Some(ContentDigest::of(&program)),
        content: Content::Inline(program.into()),
    };
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
         cat /etc/resolv.conf; cat /../../etc/hosts");
    for line in ["root:x:0:0::/:/bin/sh", "none", "loop", "/tmp", "/bin/busybox", "nameserver 192.0.2.1", "127.0.0.1 localhost"] {
        assert!(output.lines().any(|found| found == line), "{line} in {output}");
    }
    assert!(!output.contains(fixture.directory.path().to_str().unwrap()), "{output}");
    assert!(!root.join("etc/resolv.conf").exists() && !root.join("dev").exists(), "what was put there is gone");
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
    let mut fixture = Fixture::new();
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
    step.environment.push((GUEST.into(), "1".into()));
    let (status, output) = fixture.run(&step);
    assert!(matches!(status, Ok(ExitStatus::Code(0))) && output.contains("1 passed"), "{status:?} {output}");
}

/// The result of a call, or its error number below zero.
fn call(number: libc::c_long, arguments: &[usize]) -> i64 {
    let argument = |at: usize| arguments.get(at).copied().unwrap_or(0);
    // SAFETY: each caller passes what its call expects.
    let result = unsafe { libc::syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4), argument(5)) };
    if result == -1 { -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap()) } else { result }
}

fn guest() {
    let text = |text: &str| Box::leak(CString::new(text).unwrap().into_boxed_c_str()).as_ptr() as usize;
    #[expect(clippy::cast_sign_loss, reason = "as the kernel takes it")]
    let here = libc::AT_FDCWD as usize;
    let eperm = -i64::from(libc::EPERM);
    fs::create_dir("/g").unwrap();
    std::env::set_current_dir("/g").unwrap();
    fs::write("file", "content").unwrap();
    let owner = |path: &str| fs::symlink_metadata(path).map(|stat| (stat.mode() & 0o7777, stat.uid(), stat.gid())).unwrap();
    // Each call with its arguments and the result that root gets.
    for (name, number, arguments, expected) in [
        ("getuid", libc::SYS_getuid, vec![], 0),
        ("getegid", libc::SYS_getegid, vec![], 0),
        ("access", libc::SYS_access, vec![text("file"), 7], -i64::from(libc::EACCES)),
        ("access to read", libc::SYS_access, vec![text("file"), 6], 0),
        ("faccessat2", libc::SYS_faccessat2, vec![here, text("/g/../g/file"), 0, 0], 0),
        ("chmod", libc::SYS_chmod, vec![text("file"), 0o4711], 0),
        ("chown", libc::SYS_chown, vec![text("file"), 33, 44], 0),
        ("mkdir", libc::SYS_mkdir, vec![text("made"), 0o1777], 0),
        ("mkdirat", libc::SYS_mkdirat, vec![here, text("/g/made/too/"), 0o700], 0),
        ("mknod", libc::SYS_mknod, vec![text("device"), 0o060_640, 0x0801], 0),
        ("symlink", libc::SYS_symlink, vec![text("/g/file"), text("link")], 0),
        ("lchown", libc::SYS_lchown, vec![text("link"), 5, 6], 0),
        ("link", libc::SYS_link, vec![text("file"), text("made/hard")], 0),
        ("linkat that follows", libc::SYS_linkat, vec![here, text("link"), here, text("followed"), 0x400], 0),
        ("rename", libc::SYS_rename, vec![text("made/hard"), text("/g/moved")], 0),
        ("renameat2", libc::SYS_renameat2, vec![here, text("moved"), here, text("file"), 1], -i64::from(libc::EEXIST)),
        ("unlink", libc::SYS_unlink, vec![text("moved")], 0),
        ("rmdir", libc::SYS_rmdir, vec![text("made/too")], 0),
        ("truncate", libc::SYS_truncate, vec![text("link"), 3], 0),
        ("utimensat", libc::SYS_utimensat, vec![here, text("link"), 0, 0x100], 0),
        ("utimes", libc::SYS_utimes, vec![text("link"), 0], 0),
        ("setxattr", libc::SYS_setxattr, vec![text("file"), text("security.capability"), text("1234"), 4, 0], 0),
        ("getxattr", libc::SYS_getxattr, vec![text("link"), text("security.capability"), 0, 0], 4),
        ("listxattr", libc::SYS_listxattr, vec![text("file"), Box::leak(Box::new([0_u8; 200])).as_ptr() as usize, 200], 20),
        ("removexattr", libc::SYS_removexattr, vec![text("file"), text("security.capability")], 0),
        ("our own attribute", libc::SYS_removexattr, vec![text("file"), text("user.cofferdam")], eperm),
        ("open of the parent", libc::SYS_openat, vec![here, text("../../../etc/passwd"), 0x8_0000], 3),
        ("close", libc::SYS_close, vec![3], 0),
        (
            "openat2",
            libc::SYS_openat2,
            vec![here, text("file"), Box::leak(Box::new([0x8_0000_u64, 0, 8])).as_ptr() as usize, 24],
            3,
        ),
        ("close again", libc::SYS_close, vec![3], 0),
        ("close of the root", libc::SYS_close, vec![1023], 0),
        ("dup over the root", libc::SYS_dup2, vec![1, 1023], -i64::from(libc::EBADF)),
        ("close_range", libc::SYS_close_range, vec![100, 0xffff_ffff, 0], 0),
        ("statfs", libc::SYS_statfs, vec![text("/g"), Box::leak(Box::new([0_u64; 20])).as_ptr() as usize], 0),
        ("chroot", libc::SYS_chroot, vec![text("/")], 0),
        ("umask", libc::SYS_umask, vec![0o027], 0o022),
        ("umask before", libc::SYS_umask, vec![0o022], 0o027),
        ("inotify", libc::SYS_inotify_init1, vec![0x8_0000], 3),
        ("inotify_add_watch", libc::SYS_inotify_add_watch, vec![3, text("/g/link"), 2], 1),
        ("close of inotify", libc::SYS_close, vec![3], 0),
        ("io_uring_setup", libc::SYS_io_uring_setup, vec![1, 0], -i64::from(libc::ENOSYS)),
        ("seccomp", libc::SYS_prctl, vec![22, 2, text("")], 0),
        ("setresuid", libc::SYS_setresuid, vec![0xffff_ffff, 33, 0xffff_ffff], 0),
        ("geteuid", libc::SYS_geteuid, vec![], 33),
        ("mknod as another", libc::SYS_mknod, vec![text("no"), 0o060_640, 0x0801], eperm),
        ("chown as another", libc::SYS_chown, vec![text("device"), 33, 33], eperm),
        ("setgroups as another", libc::SYS_setgroups, vec![0, 0], eperm),
        ("back to root", libc::SYS_setresuid, vec![0xffff_ffff, 0, 0xffff_ffff], 0),
    ] {
        assert_eq!(call(number, &arguments), expected, "{name}");
    }
    assert_eq!(owner("file"), (0o711, 33, 44), "chown takes the setuid bit of a program away");
    assert_eq!(owner("made"), (0o1755, 0, 0));
    assert_eq!(owner("link").1, 5);
    let device = fs::metadata("device").unwrap();
    assert_eq!((device.mode(), device.rdev()), (0o060_640, 0x0801));
    assert_eq!(fs::read_to_string("/g/link").unwrap(), "con");
    assert_eq!(std::env::current_dir().unwrap(), Path::new("/g"));
    assert_eq!(fs::read_link("/proc/self/exe").unwrap(), Path::new("/program"));
    assert_eq!(fs::read_link("/proc/self/cwd").unwrap(), Path::new("/g"));
    // Threads, and sockets by name.
    let threads: Vec<_> = (0..8).map(|number| std::thread::spawn(move || fs::write(format!("/g/t{number}"), "x"))).collect();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    let listener = std::os::unix::net::UnixListener::bind("/g/socket").unwrap();
    assert_eq!(listener.local_addr().unwrap().as_pathname().unwrap(), Path::new("/g/socket"));
    std::os::unix::net::UnixStream::connect("socket").unwrap();
    // A child by vfork, a script, and a program that is not there.
    fs::write("script", "#!/bin/sh -e\necho $0 $1\n").unwrap();
    fs::set_permissions("script", fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(Command::new("/g/script").arg("a").output().unwrap().stdout, b"/g/script a\n");
    assert_eq!(Command::new("./absent").spawn().unwrap_err().kind(), std::io::ErrorKind::NotFound);
    // The trap's signal cannot be blocked.
    // SAFETY: plain structures of ours.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
    assert_eq!(call(libc::SYS_getuid, &[]), 0);
}
