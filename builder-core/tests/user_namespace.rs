//! A builder without privileges: enters a user namespace, and steps run there as they do for root.
//!
//! Has a `main` of its own: a user namespace is entered by a process with one thread, and a test runner has several.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test with a main of its own")]

use builder_core::{
    isolation::{
        CancelToken, Entered, ExitStatus, Identity, Isolation as _, Kind, Namespaces, Network, Privileges, RunError, Step,
        choose, enter_user_namespace, probe,
    },
    layer::read::Visitor as _,
    rootfs::{Owners, RootMount, Rootfs},
    tree::{Change, Content, ContentDigest, Entry, File, LayerIndex, Node, SourceId, Timestamp, Tree, TreePath, text},
};
use std::{
    ffi::OsString,
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

/// Names the state directory for the process without privileges.
const INSIDE: &str = "TEST_USER_NAMESPACE_STATE";

fn main() {
    match std::env::var_os(INSIDE) {
        Some(state) => inside(Path::new(&state)),
        None => a_step_runs_without_privileges(),
    }
}

fn a_step_runs_without_privileges() {
    if !testkit::require(&["busybox"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (program, state) = (directory.path().join("test"), directory.path().join("state"));
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::create_dir(&state).unwrap();
    for path in [directory.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(&program);
    command.env(INSIDE, &state);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&state, Some(1000), Some(1000)).unwrap();
        command.uid(1000).gid(1000);
    }
    let finished = command.output().unwrap();
    let output = format!("{}{}", String::from_utf8_lossy(&finished.stdout), String::from_utf8_lossy(&finished.stderr));
    eprint!("{output}");
    assert!(finished.status.success(), "{output}");
    assert!(output.contains("inside: done") || std::env::var_os("CI").is_none(), "{output}");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "nothing is left");
}

/// Runs in the process that the test starts.
fn inside(state: &Path) {
    let entered = match enter_user_namespace() {
        Ok(entered) => entered,
        Err(refused) => return eprintln!("inside: {refused}"),
    };
    assert_ne!(entered, Entered::NotNeeded);
    let facts = probe(state).unwrap();
    let choice = choose(&facts, Some(Kind::Namespaces)).unwrap();
    eprintln!("inside: {entered:?}: {choice}");
    assert_eq!(choice.owners == Owners { storable_ids: 1 }, entered == Entered::SingleId);
    let isolation = Namespaces::new(choice.clone());
    for overlay in [choice.overlay, None] {
        let mut rootfs = Rootfs::new(state, overlay, choice.owners).unwrap();
        let tree = add(&mut rootfs, layer());
        let root = rootfs.begin_step(&tree).unwrap();
        let script = "id -u; echo new >> /d/theirs; chmod 600 /d/other; rm -r /gone; mkdir /gone; echo > /dev/null; ls /proc/self > /dev/null; \
                      test -d /sys/kernel; touch /mine";
        let (status, output) = run(&isolation, root, Identity::default(), script);
        assert_eq!((status.unwrap(), output.as_str()), (ExitStatus::Code(0), "0\n"));
        let changes = rootfs.end_step(&tree, SourceId(1), None).unwrap().changes;
        let lines: Vec<String> = changes.iter().map(without_time).collect();
        // Who owns the new directory cannot be known with a single id: it stands where another stood.
        let gone = if entered == Entered::Range { "gone/ 0755 0:0" } else { "" };
        let expected = ["d/other 0600 7:7 size=5", "d/theirs 0644 33:3000000 size=10", gone, "- gone/f", "mine 0644 0:0 size=0"];
        let expected: Vec<&str> = expected.into_iter().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines, expected, "{overlay:?}");
        let tree = add_to(&mut rootfs, tree, Vec::new());
        let root = rootfs.begin_step(&tree).unwrap();
        let other = Identity { uid: 33, gid: 33, groups: vec![33] };
        match (entered, run(&isolation, root, other, "id -u")) {
            (Entered::Range, (status, output)) => assert_eq!((status.unwrap(), output.as_str()), (ExitStatus::Code(0), "33\n")),
            (_, (status, _)) => assert!(matches!(status, Err(RunError::Identity { uid: 33, .. })), "{status:?}"),
        }
    }
    eprintln!("inside: done");
}

fn run(isolation: &Namespaces, root: RootMount, identity: Identity, script: &str) -> (Result<ExitStatus, RunError>, String) {
    let step = Step {
        root,
        arguments: ["/bin/busybox", "sh", "-e", "-c", script].map(OsString::from).to_vec(),
        environment: vec![("PATH".into(), "/bin".into())],
        directory: TreePath::root(),
        identity,
        host_name: "test".to_owned(),
        network: Network::Host,
        privileges: Privileges::Usual,
        mounts: Vec::new(),
        resolv_conf: Vec::new(),
        hosts: Vec::new(),
        time_limit: None,
    };
    let mut output = Vec::new();
    let status = isolation.run(&step, &mut |_, bytes| output.extend_from_slice(bytes), &CancelToken::new().unwrap());
    (status, String::from_utf8(output).unwrap())
}

/// Busybox with its names, files of others and a device that may be impossible to make.
fn layer() -> Vec<Change> {
    let put = |path: &str, node: Node| {
        let mtime = Timestamp::from_seconds(9);
        Change::put(TreePath::clamp(path), Entry { node, mode: 0o755, uid: 0, gid: 0, mtime, capability: None })
    };
    let program = fs::read("/bin/busybox").unwrap();
    let program = File {
        size_bytes: program.len() as u64,
        digest: Some(ContentDigest::of(&program)),
        content: Content::Inline(program.into()),
    };
    let names = ["id", "sh", "rm", "mkdir", "touch", "chmod", "ls", "test"].map(|name| format!("bin/{name}"));
    let links = names.iter().map(|name| put(name, Node::Symlink(b"busybox".to_vec())));
    let files = "d/theirs 0644 33:3000000 @9 \"their\\n\"\nd/other 0644 7:7 @9 \"other\"\nd/device 0600 0:0 @9 c 10:200\ngone/ 0755 9:9 @9\ngone/f 0644 9:9 @9 \"\"";
    [put("bin/busybox", Node::File(program))].into_iter().chain(links).chain(text::parse(files).unwrap()).collect()
}

fn add(rootfs: &mut Rootfs, changes: Vec<Change>) -> Tree {
    add_to(rootfs, Tree::new(), changes)
}

fn add_to(rootfs: &mut Rootfs, mut tree: Tree, changes: Vec<Change>) -> Tree {
    let index = LayerIndex { changes };
    let mut unpacker = rootfs.unpacker(&tree, &index).unwrap();
    for change in &index.changes {
        let bytes = match change.file() {
            Some(File { content: Content::Inline(bytes), .. }) => bytes.to_vec(),
            _ => Vec::new(),
        };
        unpacker.visit(change, &mut &bytes[..]).unwrap();
    }
    let unpacked = unpacker.finish().unwrap();
    rootfs.push(unpacked);
    tree.apply(&index.changes);
    tree
}

fn without_time(change: &Change) -> String {
    let mut change = change.clone();
    if let Some(entry) = change.entry_mut() {
        entry.mtime = Timestamp::default();
    }
    text::format_change(&change)
}
