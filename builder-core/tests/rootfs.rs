//! Trees made real and read back: what a layer puts on disk, what a step changes, on overlays and plain directories alike.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::{
    isolation::{
        Access, CancelToken, ExitStatus, Identity, Isolation as _, Mount, MountKind, Namespaces, Network, Privileges, Step,
        Stream, choose, probe,
    },
    layer::read::Visitor,
    rootfs::{self, Copying, Dating, LoneUnpacker, OverlayAttributes, Owners, RootMount, Rootfs},
    tree::{Change, Content, ContentDigest, Entry, File, LayerIndex, Node, SourceId, Timestamp, Tree, TreePath, text},
};
use proptest::prelude::*;
use std::{
    ffi::OsString,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

const FORMS: [Option<OverlayAttributes>; 2] = [Some(OverlayAttributes::Trusted), None];

fn path(text: &str) -> TreePath {
    TreePath::clamp(text)
}

/// A root and the tree that is in it.
struct Root {
    rootfs: Rootfs,
    tree: Tree,
}

impl Root {
    fn new(state: &Path, form: Option<OverlayAttributes>) -> Self {
        Self { rootfs: Rootfs::new(state, form, Owners::REAL).unwrap(), tree: Tree::new() }
    }

    fn add(&mut self, changes: Vec<Change>) {
        let index = LayerIndex { changes };
        let mut unpacker = self.rootfs.unpacker(&self.tree, &index).unwrap();
        show(&index, &mut unpacker);
        let unpacked = unpacker.finish().unwrap();
        self.rootfs.push(unpacked);
        self.tree.apply(&index.changes);
    }

    /// Unpacks into `directory` without regard to the layers below; `false` if that is not possible with this layer.
    fn add_alone(&mut self, changes: Vec<Change>, directory: PathBuf) -> bool {
        fs::create_dir(&directory).unwrap();
        let index = LayerIndex { changes };
        let mut unpacker = LoneUnpacker::new(&directory, Owners::REAL).unwrap();
        show(&index, &mut unpacker);
        let mut tree = self.tree.clone();
        tree.apply(&index.changes);
        if !unpacker.finish().is_some_and(|layer| layer.settle(&self.tree, &index, &tree).unwrap()) {
            return false;
        }
        self.rootfs.push_directory(directory);
        self.tree = tree;
        true
    }

    /// Runs a script in it and gives the changes as text, contents included, times only where a script has set them.
    fn run(&mut self, isolation: &Namespaces, script: &str) -> String {
        let root = self.rootfs.begin_step(&self.tree).unwrap();
        let (status, output) = run(isolation, root, Vec::new(), script);
        let output = String::from_utf8_lossy(&output).into_owned();
        assert_eq!(status, ExitStatus::Code(0), "{script}: {output}");
        let step = self.rootfs.end_step(&self.tree, SourceId(1), None).unwrap();
        let mut changes = step.changes;
        for change in &mut changes {
            let Some(file) = change.file_mut() else { continue };
            let Content::Host { path, .. } = &file.content else { panic!("not on the host") };
            let mut bytes = Vec::new();
            step.files.open_file(path).unwrap().read_to_end(&mut bytes).unwrap();
            *file = file_of(&bytes);
        }
        self.tree.apply(&changes);
        for change in &mut changes {
            if let Some(entry) = change.entry_mut()
                && (entry.mtime.seconds > 1_500_000_000 || entry.is_directory())
            {
                entry.mtime = Timestamp::default();
            }
        }
        changes.iter().map(|change| text::format_change(change) + "\n").collect()
    }
}

/// Shows the changes of a layer with their bytes.
fn show(index: &LayerIndex, visitor: &mut dyn Visitor) {
    for change in &index.changes {
        let bytes = match change {
            Change::Put { entry, .. } => entry.file().map(|file| match &file.content {
                Content::Inline(bytes) => bytes.to_vec(),
                other => panic!("no bytes: {other:?}"),
            }),
            _ => None,
        };
        visitor.visit(change, &mut &bytes.unwrap_or_default()[..]).unwrap();
    }
}

fn file_of(bytes: &[u8]) -> File {
    File { size_bytes: bytes.len() as u64, digest: Some(ContentDigest::of(bytes)), content: Content::Inline(bytes.into()) }
}

fn run(isolation: &Namespaces, root: RootMount, mounts: Vec<Mount>, script: &str) -> (ExitStatus, Vec<u8>) {
    let step = Step {
        root,
        arguments: ["/bin/busybox", "sh", "-e", "-c", script].map(OsString::from).to_vec(),
        environment: vec![("PATH".into(), "/bin".into())],
        directory: TreePath::root(),
        identity: Identity::default(),
        host_name: "test".to_owned(),
        network: Network::Host,
        privileges: Privileges::Usual,
        mounts,
        resolv_conf: Vec::new(),
        hosts: Vec::new(),
        time_limit: Some(Duration::from_mins(1)),
    };
    let mut output = Vec::new();
    let sink = &mut |_: Stream, bytes: &[u8]| output.extend_from_slice(bytes);
    let status = isolation.run(&step, sink, &CancelToken::new().unwrap()).unwrap();
    (status, output)
}

fn isolation(state: &Path) -> Namespaces {
    Namespaces::new(choose(&probe(state).unwrap(), None).unwrap())
}

/// A layer with busybox and its names.
fn busybox() -> Vec<Change> {
    let program = fs::read("/bin/busybox").unwrap();
    let put = |path: TreePath, node: Node| {
        let mtime = Timestamp::from_seconds(9);
        Change::put(path, Entry { node, mode: 0o755, uid: 0, gid: 0, mtime, capability: None })
    };
    let names = [
        "sh", "mv", "rm", "ln", "mkdir", "touch", "chmod", "chown", "cat", "mkfifo", "mknod", "cp", "ls", "test", "rmdir",
        "sleep", "stat",
    ];
    let links = names.map(|name| put(path("bin").child(name.as_bytes()), Node::Symlink(b"busybox".to_vec())));
    [put(path("bin/busybox"), Node::File(file_of(&program)))].into_iter().chain(links).collect()
}

/// What scripts find besides busybox.
const BASE: &str = "bin/ 0755 0:0 @9\nd/ 0755 0:0 @9\nd/one 0644 0:0 @9 \"one\"\nd/two 0644 1:2 @9 \"two\"\nd/sub/ 0700 0:0 @9\n\
                    d/sub/f 0600 0:0 @9 \"f\"\nd/link -> one\nhl/ 0755 0:0 @9\nhl/a 0644 0:0 @9 \"same\"\nhl/b = hl/a\n\
                    capped 0755 0:0 @9 cap=0000000200040000000000000000000000000000 \"c\"\ndev/ 0755 0:0 @9\nproc/ 0755 0:0 @9\n\
                    sys/ 0755 0:0 @9\npipe 0644 0:0 @9 p\nchr 0600 0:0 @9 c 10 200";

fn base() -> Vec<Change> {
    text::parse(&BASE.replace("c 10 200", "c 10:200")).unwrap()
}

fn ready() -> Option<tempfile::TempDir> {
    (testkit::require_root() && testkit::require(&["busybox"])).then(|| tempfile::tempdir().unwrap())
}

#[test]
fn privileged_a_step_changes_the_same_on_an_overlay_and_in_a_plain_directory() {
    let Some(state) = ready() else { return };
    let isolation = isolation(state.path());
    for form in FORMS {
        let mut base_root = Root::new(state.path(), form);
        base_root.add(busybox());
        base_root.add(base());
        for (script, expected) in [
            ("true", ""),
            ("cat /d/one; ls /d", ""),
            ("echo new > /n; mkdir -m 700 /e; echo in > /e/f", "e/ 0700 0:0\ne/f 0644 0:0 \"in\\n\"\nn 0644 0:0 \"new\\n\""),
            ("echo more >> /d/one", "d/one 0644 0:0 \"onemore\\n\""),
            ("chmod 600 /d/one; chmod 711 /d", "d/ 0711 0:0\nd/one 0600 0:0 @9 \"one\""),
            ("chown 5:6 /d/two", "d/two 0644 5:6 @9 \"two\""),
            ("chmod 600 /d/one; chmod 644 /d/one", ""),
            ("touch -d '1970-01-01 00:00:42' /d/one", "d/one 0644 0:0 @42 \"one\""),
            ("touch -d '1970-01-01 00:00:42' /d", ""),
            ("rm /d/one", "- d/one"),
            ("rm -r /d", "- d"),
            ("rm -r /d; echo file > /d", "d 0644 0:0 \"file\\n\""),
            ("rm -r /d; mkdir /d; echo new > /d/new", "d/new 0644 0:0 \"new\\n\"\n- d/link\n- d/one\n- d/sub\n- d/two"),
            ("rm -r /d; mkdir -m 750 /d", "d/ 0750 0:0\n- d/link\n- d/one\n- d/sub\n- d/two"),
            ("mv /d/sub /moved", "- d/sub\nmoved/ 0700 0:0\nmoved/f 0600 0:0 @9 \"f\""),
            (
                "mv /d/sub /d/other; mkdir /d/sub; touch -d '1970-01-01 00:00:42' /d/sub/g",
                "d/other/ 0700 0:0\nd/other/f 0600 0:0 @9 \"f\"\nd/sub/ 0755 0:0\n- d/sub/f\nd/sub/g 0644 0:0 @42 \"\"",
            ),
            ("rm /d/one; mkdir /d/one; echo x > /d/one/x", "d/one/ 0755 0:0\nd/one/x 0644 0:0 \"x\\n\""),
            ("ln -sfn two /d/link", "d/link -> two"),
            ("rm /d/link; ln -s one /d/link", ""),
            ("rm /d/link; echo plain > /d/link", "d/link 0644 0:0 \"plain\\n\""),
            ("echo 1 > /x; ln /x /d/y; ln /x /z", "d/y 0644 0:0 \"1\\n\"\nx = d/y\nz = d/y"),
            ("ln /d/one /linked", "linked 0644 0:0 @9 \"one\""),
            ("rm /hl/b", "- hl/b"),
            ("rm /pipe; mkfifo -m 640 /pipe2", "- pipe\npipe2 0640 0:0 p"),
            ("rm /chr; mknod -m 600 /chr c 10 201", "chr 0600 0:0 c 10:201"),
            ("mknod -m 660 /blk b 7 3", "blk 0660 0:0 b 7:3"),
            ("chmod 700 /capped", "capped 0700 0:0 @9 cap=0000000200040000000000000000000000000000 \"c\""),
            ("echo c > /capped", "capped 0755 0:0 \"c\\n\""),
            (
                "touch /s /g; chmod 4755 /s; chmod 2755 /g; mkdir /t; chmod 1777 /t",
                "g 2755 0:0 \"\"\ns 4755 0:0 \"\"\nt/ 1777 0:0",
            ),
            ("rm /d/one; echo -n one > /d/one; touch -d '1970-01-01 00:00:09' /d/one", ""),
            ("echo -n two > /d/one; touch -d '1970-01-01 00:00:09' /d/one", "d/one 0644 0:0 @9 \"two\""),
            ("mv /d/sub/f /d/sub/g; mv /d/sub/g /d/sub/f", ""),
            ("chmod 711 /", "/ 0711 0:0"),
        ] {
            let rootfs = base_root.rootfs.fork(state.path(), &base_root.tree).unwrap();
            let mut root = Root { rootfs, tree: base_root.tree.clone() };
            let changes = root.run(&isolation, script);
            let sorted = |text: &str| {
                let mut lines: Vec<&str> = text.lines().collect();
                lines.sort_unstable();
                lines.join("\n")
            };
            assert_eq!(sorted(&changes), sorted(expected), "{script} ({form:?})");
            assert_eq!(root.run(&isolation, "true"), "", "after {script} ({form:?})");
        }
    }
}

#[test]
fn privileged_steps_build_on_each_other() {
    let Some(state) = ready() else { return };
    let isolation = isolation(state.path());
    for form in FORMS {
        let mut root = Root::new(state.path(), form);
        root.add(busybox());
        assert_eq!(
            root.run(&isolation, "mkdir /a; echo 1 > /a/f; ln /a/f /a/g"),
            "a/ 0755 0:0\na/f 0644 0:0 \"1\\n\"\na/g = a/f\n"
        );
        assert_eq!(root.run(&isolation, "rm /a/f; cat /a/g; mkdir /a/b"), "a/b/ 0755 0:0\n- a/f\n");
        root.add(text::parse("a/b/late 0644 3:4 @7 \"late\"\n- a/g").unwrap());
        assert_eq!(
            root.run(&isolation, "test ! -e /a/g; mv /a/b/late /a/b/later"),
            "- a/b/late\na/b/later 0644 3:4 @7 \"late\"\n"
        );
        assert_eq!(root.run(&isolation, "rm -r /a; mkdir /a"), "- a/b\n");
        assert_eq!(root.run(&isolation, "test ! -e /a/b; ls /a; rmdir /a"), "- a\n");
        assert_eq!(root.run(&isolation, "test ! -e /a"), "");
    }
}

#[test]
fn privileged_what_a_layer_would_say_again_has_not_changed() {
    let Some(state) = ready() else { return };
    let isolation = isolation(state.path());
    let dating = Dating { since: Timestamp::from_seconds(1_500_000_000), to: Timestamp::from_seconds(1_400_000_000) };
    for form in FORMS {
        let mut root = Root::new(state.path(), form);
        root.add(busybox());
        let mut run_dated = |script: &str| {
            let mount = root.rootfs.begin_step(&root.tree).unwrap();
            assert_eq!(run(&isolation, mount, Vec::new(), script).0, ExitStatus::Code(0), "{script}");
            let step = root.rootfs.end_step(&root.tree, SourceId(1), Some(dating)).unwrap();
            let mut changes = step.changes;
            for change in &mut changes {
                let Some(file) = change.file_mut() else { continue };
                let Content::Host { path, .. } = &file.content else { panic!("not on the host") };
                let mut bytes = Vec::new();
                step.files.open_file(path).unwrap().read_to_end(&mut bytes).unwrap();
                *file = file_of(&bytes);
            }
            root.tree.apply(&changes);
            changes.iter().map(|change| text::format_change(change) + "\n").collect::<String>()
        };
        let made = "a 0600 0:0 @1400000000 \"1\\n\"\nempty 0644 0:0 @1400000000 \"\"\nold 0644 0:0 @9 \"old\\n\"\n";
        for (script, expected) in [
            ("echo 1 > /a; chmod 600 /a; : > /empty; echo old > /old; touch -d '1970-01-01 00:00:09' /old", made),
            ("true", ""),
            (": >> /empty; : >> /a; : >> /old; chmod 600 /a; chown 0:0 /old", ""),
            ("touch /a; echo 1 > /a; rm /empty; : > /empty", ""),
            ("touch /old", "old 0644 0:0 @1400000000 \"old\\n\"\n"),
            ("echo 2 > /a", "a 0600 0:0 @1400000000 \"2\\n\"\n"),
        ] {
            assert_eq!(run_dated(script), expected, "{script} ({form:?})");
        }
    }
}

#[test]
fn privileged_a_step_may_make_paths_that_are_longer_than_the_kernel_takes() {
    let Some(state) = ready() else { return };
    let isolation = isolation(state.path());
    for form in FORMS {
        let mut root = Root::new(state.path(), form);
        root.add(busybox());
        // No shell goes that far, so one half is moved into the other.
        let script = "half() { mkdir $1; cd $1; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do mkdir $2; cd $2; done; }
                      d=$(printf %0200d 7); half /a $d; echo far > file; half /b $d; mv /a/$d a; rmdir /a";
        let changes = root.run(&isolation, script);
        let last = changes.lines().last().unwrap();
        assert_eq!(changes.lines().count(), 32, "{form:?}");
        assert!(last.len() > 5000 && last.ends_with("/file 0644 0:0 \"far\\n\""), "{form:?}: {last}");
        assert_eq!(root.run(&isolation, "true"), "", "{form:?}");
        drop(root);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0, "{form:?}");
    }
}

#[test]
fn privileged_nothing_is_left_when_a_root_is_dropped() {
    let Some(state) = ready() else { return };
    let isolation = isolation(state.path());
    for form in FORMS {
        let mut root = Root::new(state.path(), form);
        root.add(busybox());
        root.run(&isolation, "mkdir -p /closed/deep; touch /closed/deep/f; chmod 0 /closed/deep /closed");
        let mut fork = root.rootfs.fork(state.path(), &root.tree).unwrap();
        let view = fork.view(&root.tree).unwrap();
        drop(root);
        assert_eq!(run(&isolation, view, Vec::new(), "test -e /closed/deep/f").0, ExitStatus::Code(0), "{form:?}");
        drop(fork);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0, "{form:?}");
    }
}

#[test]
fn privileged_a_stage_can_be_mounted_and_what_is_written_is_discarded() {
    let Some(state) = ready() else { return };
    let isolation = isolation(state.path());
    let mut stage = Root::new(state.path(), FORMS[0]);
    stage.add(text::parse("art/f 0644 0:0 \"art\"").unwrap());
    stage.add(text::parse("art/g 0644 0:0 \"g\"").unwrap());
    let mut root = Root::new(state.path(), FORMS[0]);
    root.add(busybox());
    let view = stage.rootfs.view(&stage.tree).unwrap();
    let mount =
        Mount { kind: MountKind::Bind { root: view, path: path("art"), access: Access::ReadWrite }, target: path("from") };
    let step = root.rootfs.begin_step(&root.tree).unwrap();
    let (status, output) = run(&isolation, step, vec![mount], "cat /from/f /from/g; echo x > /from/f; cat /from/f");
    assert_eq!((status, &output[..]), (ExitStatus::Code(0), &b"artgx\n"[..]));
    assert_eq!(root.rootfs.end_step(&root.tree, SourceId(1), None).unwrap().changes, []);
    let again = stage.rootfs.view(&stage.tree).unwrap();
    let mount =
        Mount { kind: MountKind::Bind { root: again, path: path("art"), access: Access::ReadOnly }, target: path("from") };
    let step = root.rootfs.begin_step(&root.tree).unwrap();
    assert_eq!(run(&isolation, step, vec![mount], "cat /from/f").1, b"art");
}

/// The tree at `directory` of a root, read by a program that is not ours.
fn archived(isolation: &Namespaces, tools: &Path, root: RootMount) -> String {
    let mount = Mount { kind: MountKind::Bind { root, path: TreePath::root(), access: Access::ReadOnly }, target: path("mnt") };
    let tools = RootMount::Directory { path: tools.to_owned() };
    let (status, bytes) = run(isolation, tools, vec![mount], "/bin/busybox tar -c -f - -C /mnt .");
    assert_eq!(status, ExitStatus::Code(0), "{}", String::from_utf8_lossy(&bytes));
    let mut tree = Tree::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let at = TreePath::clamp(&*entry.path_bytes());
        let header = entry.header().clone();
        let target = entry.link_name_bytes().map(|target| target.to_vec()).unwrap_or_default();
        let devices = (header.device_major().ok().flatten().unwrap_or(0), header.device_minor().ok().flatten().unwrap_or(0));
        let (major, minor) = devices;
        let node = match header.entry_type() {
            tar::EntryType::Directory => Node::Directory,
            tar::EntryType::Regular => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                Node::File(file_of(&bytes))
            }
            tar::EntryType::Symlink => Node::Symlink(target),
            tar::EntryType::Char => Node::CharDevice { major, minor },
            tar::EntryType::Fifo => Node::Fifo,
            tar::EntryType::Link => {
                tree.link(&at, &TreePath::clamp(target));
                continue;
            }
            other => panic!("{other:?}"),
        };
        let mtime = Timestamp::from_seconds(i64::try_from(header.mtime().unwrap()).unwrap());
        let mode = u16::try_from(header.mode().unwrap() & 0o7777).unwrap();
        let (uid, gid) = (header.uid().unwrap().try_into().unwrap(), header.gid().unwrap().try_into().unwrap());
        tree.put(&at, Entry { node, mode, uid, gid, mtime, capability: None });
    }
    text::format(&tree)
}

/// Names in a small world, so that layers meet: links to directories, directories over files and back.
fn any_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4).prop_map(|parts| parts.join("/"))
}

fn any_record() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (any_path(), 0..4_u32).prop_map(|(path, uid)| format!("{path}/ 0755 {uid}:0 @5")),
        3 => (any_path(), 0..3_u32).prop_map(|(path, text)| format!("{path} 0644 0:{text} @{text} \"{text}\"")),
        2 => (any_path(), any_path()).prop_map(|(path, target)| format!("{path} -> /{target}")),
        1 => (any_path(), any_path()).prop_map(|(path, target)| format!("{path} = {target}")),
        1 => any_path().prop_map(|path| format!("{path} 0600 0:0 @3 p")),
        1 => any_path().prop_map(|path| format!("{path} 0600 0:0 @3 c 1:3")),
        2 => any_path().prop_map(|path| format!("- {path}")),
        1 => any_path().prop_map(|path| format!("! {path}")),
    ]
}

fn tools(state: &Path) -> PathBuf {
    let tools = state.join("tools");
    fs::create_dir_all(tools.join("bin")).unwrap();
    fs::copy("/bin/busybox", tools.join("bin/busybox")).unwrap();
    tools
}

/// Links to a file differ where overlay cannot keep them: a name that a later layer brought up is a file of its own.
fn without_links(tree: &str) -> String {
    let mut alone = Tree::new();
    let mut whole = Tree::new();
    whole.apply(&text::parse(tree).unwrap());
    for (path, _, entry) in whole.iter() {
        alone.put(path, entry.clone());
    }
    text::format(&alone)
}

#[test]
fn privileged_unpacked_layers_are_the_tree_that_they_fold_to() {
    let Some(state) = ready() else { return };
    let isolation = isolation(state.path());
    let tools = tools(state.path());
    let layer = proptest::collection::vec(any_record(), 0..7).prop_map(|records| records.join("\n"));
    let layers = proptest::collection::vec(layer, 1..4);
    let config = ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&layers, |layers| {
        for form in FORMS {
            let mut root = Root::new(state.path(), form);
            for layer in &layers {
                root.add(text::parse(layer).unwrap());
            }
            let mount = root.rootfs.view(&root.tree).unwrap();
            let expected = text::format(&root.tree);
            let found = archived(&isolation, &tools, mount);
            if form.is_some() {
                prop_assert_eq!(without_links(&found), without_links(&expected), "{:?}", form);
            } else {
                prop_assert_eq!(found, expected, "{:?}", form);
            }
        }
        Ok(())
    });
    result.unwrap();
}

/// What stands on disk at and below a directory, by path, with all that a layer keeps of it.
fn on_disk(directory: &Path, below: &Path) -> Vec<String> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory.join(below)).unwrap() {
        let path = below.join(entry.unwrap().file_name());
        let whole = directory.join(&path);
        let stat = fs::symlink_metadata(&whole).unwrap();
        let content = match stat.file_type() {
            kind if kind.is_dir() => {
                lines.extend(on_disk(directory, &path));
                String::new()
            }
            kind if kind.is_file() => format!("{:?}", ContentDigest::of(&fs::read(&whole).unwrap())),
            kind if kind.is_symlink() => fs::read_link(&whole).unwrap().display().to_string(),
            kind if kind.is_char_device() && stat.rdev() == 0 => "hidden".to_owned(),
            _ => stat.rdev().to_string(),
        };
        let times = if content == "hidden" { (0, 0) } else { (stat.mtime(), stat.mtime_nsec()) };
        lines.push(format!("{} {:o} {}:{} {times:?} {content:?}", path.display(), stat.mode(), stat.uid(), stat.gid()));
    }
    lines.sort();
    lines
}

/// What the layers below hold.
const LOWER: &str = "d/ 0750 1:2 @9\nd/f 0644 0:0 @9 \"f\"\nd/e/ 0711 0:3 @9\nd/e/x 0644 0:0 @9 \"x\"\nlib -> usr/lib\n\
                     usr/ 0755 0:0 @9\nusr/lib/ 0755 0:0 @9\nusr/lib/a 0644 0:0 @9 \"a\"";

#[test]
fn privileged_a_layer_unpacked_alone_is_the_one_that_is_unpacked_over_others() {
    let Some(state) = ready() else { return };
    for (claim, layer, alone) in [
        ("files in directories of the layer", "n/ 0700 1:1 @3\nn/f 4755 2:3 @4 \"f\"\nn/l -> f", true),
        ("a directory that it does not mention", "d/e/y 0600 5:6 @3 \"y\"", true),
        ("a directory that it mentions late", "d/e/y 0600 0:0 @3 \"y\"\nd/e/ 0700 4:4 @5", true),
        ("a hard link in the layer", "n/ 0755 0:0 @1\nn/a 0640 0:1 @2 \"a\"\nn/b = n/a", true),
        ("what it removes", "- d/f\n- d/e\nd/e/z 0644 0:0 @3 \"z\"", true),
        ("a directory that it empties", "! d\nd/new 0644 0:0 @3 \"n\"", true),
        ("a file over a directory", "d/e 0644 0:0 @3 \"e\"", true),
        ("a directory over a link", "lib/ 0755 0:0 @3\nlib/b 0644 0:0 @3 \"b\"", true),
        ("attributes of the root", "./ 0711 7:8 @6\nf 0644 0:0 @3 \"f\"", true),
        ("a path through a link below", "lib/b 0644 0:0 @3 \"b\"", false),
        ("a removal through a link below", "- lib/a", false),
        ("a path through a link of its own", "l -> d\nl/b 0644 0:0 @3 \"b\"", false),
        ("a hard link to a file below", "g = d/f", false),
        ("one path twice", "g 0644 0:0 @3 \"1\"\ng 0644 0:0 @3 \"2\"", false),
    ] {
        let scratch = tempfile::tempdir_in(state.path()).unwrap();
        let mut careful = Root::new(scratch.path(), FORMS[0]);
        careful.add(text::parse(LOWER).unwrap());
        let index = LayerIndex { changes: text::parse(layer).unwrap() };
        let expected = scratch.path().join("expected");
        fs::create_dir(&expected).unwrap();
        let mut unpacker = careful.rootfs.unpacker_into(&expected, &careful.tree, &index).unwrap();
        show(&index, &mut unpacker);
        unpacker.finish().unwrap();
        let found = scratch.path().join("found");
        assert_eq!(careful.add_alone(index.changes, found.clone()), alone, "{claim}");
        if alone {
            assert_eq!(on_disk(&found, Path::new("")), on_disk(&expected, Path::new("")), "{claim}");
        }
    }
}

#[test]
fn privileged_layers_unpacked_alone_are_the_tree_that_they_fold_to() {
    let Some(state) = ready() else { return };
    let isolation = isolation(state.path());
    let tools = tools(state.path());
    let layer = proptest::collection::vec(any_record(), 0..5).prop_map(|records| records.join("\n"));
    let layers = proptest::collection::vec(layer, 1..4);
    let config = ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let (made, alone) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let result = runner.run(&layers, |layers| {
        let mut root = Root::new(state.path(), FORMS[0]);
        let scratch = tempfile::tempdir_in(state.path()).unwrap();
        for (number, layer) in layers.iter().enumerate() {
            let changes = text::parse(layer).unwrap();
            made.set(made.get() + 1);
            if number > 0 && root.add_alone(changes.clone(), scratch.path().join(number.to_string())) {
                alone.set(alone.get() + 1);
            } else {
                root.add(changes);
            }
        }
        let mount = root.rootfs.view(&root.tree).unwrap();
        let found = archived(&isolation, &tools, mount);
        prop_assert_eq!(without_links(&found), without_links(&text::format(&root.tree)));
        Ok(())
    });
    result.unwrap();
    assert!(alone.get() * 8 > made.get(), "{} of {} layers say little", alone.get(), made.get());
}

/// What an image would have of a plain root, and what is on disk.
fn seen(root: &Path, owners: Owners) -> (Vec<String>, Vec<String>) {
    let contents = rootfs::contents(root, owners, SourceId(0)).unwrap().changes;
    (contents.iter().map(|change| format!("{change:?}")).collect(), on_disk(root, Path::new("")))
}

/// Says that copies of a plain root in `state` are what its layers unpack to.
fn copies_are_what_layers_unpack_to(state: &Path, owners: Owners, copying: Copying, layers: &[Vec<Change>]) {
    let mut root = Root { rootfs: Rootfs::new(state, None, owners).unwrap(), tree: Tree::new() };
    for layer in layers {
        root.add(layer.clone());
    }
    let directory = |rootfs: &Rootfs| match rootfs.as_directory() {
        Some(RootMount::Directory { path }) => path,
        other => panic!("{other:?}"),
    };
    let copy = Rootfs::copy_of(&directory(&root.rootfs), &root.tree, state, owners, copying).unwrap();
    assert_eq!(seen(&directory(&copy), owners), seen(&directory(&root.rootfs), owners), "{}", text::format(&root.tree));
    let mut copy = Root { rootfs: copy, tree: root.tree };
    copy.rootfs.begin_step(&copy.tree).unwrap();
    assert_eq!(copy.rootfs.end_step(&copy.tree, SourceId(1), None).unwrap().changes, [], "nothing has changed in it");
}

fn copies_of_any_layers(state: &Path, owners: Owners, copying: Copying) {
    copies_are_what_layers_unpack_to(state, owners, copying, &[busybox(), base()]);
    let layer = proptest::collection::vec(any_record(), 0..7).prop_map(|records| records.join("\n"));
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let layers = proptest::collection::vec(layer, 1..4);
    let result = runner.run(&layers, |layers| {
        let layers: Vec<_> = layers.iter().map(|layer| text::parse(layer).unwrap()).collect();
        copies_are_what_layers_unpack_to(state, owners, copying, &layers);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn a_copy_of_a_plain_root_is_what_its_layers_unpack_to() {
    let state = tempfile::tempdir().unwrap();
    if testkit::require(&["busybox"]) {
        for copying in [Copying::Apart, Copying::Shared] {
            copies_of_any_layers(state.path(), Owners::RECORDED, copying);
        }
    }
}

#[test]
fn privileged_files_of_a_copy_share_their_bytes_where_the_disk_can() {
    const SIZE_BYTES: u64 = 64 << 20;
    let Some(state) = ready() else { return };
    for kind in ["xfs", "btrfs"] {
        let Some(disk) = testkit::Disk::new(state.path(), kind) else { return };
        assert!(rootfs::can_share(disk.path()), "{kind}");
        for owners in [Owners::RECORDED, Owners::REAL] {
            copies_of_any_layers(disk.path(), owners, Copying::Shared);
        }
        let file = |node| Entry { node, mode: 0o644, uid: 0, gid: 0, mtime: Timestamp::from_seconds(9), capability: None };
        let content = Content::Inline(Vec::new().into());
        let node = Node::File(File { size_bytes: SIZE_BYTES, digest: None, content });
        let (mut tree, from) = (Tree::new(), disk.path().join("from"));
        tree.put(&path("big"), file(node));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("big"), vec![7; usize::try_from(SIZE_BYTES).unwrap()]).unwrap();
        let free = || {
            let synced = std::process::Command::new("sync").arg("-f").arg(disk.path()).status().unwrap();
            assert!(synced.success());
            let space = rustix::fs::statvfs(disk.path()).unwrap();
            space.f_bavail * space.f_frsize
        };
        let before = free();
        let copy = Rootfs::copy_of(&from, &tree, disk.path(), Owners::REAL, Copying::Shared).unwrap();
        assert!(before - free() < SIZE_BYTES / 8, "{kind}: {} bytes were taken", before - free());
        let Some(RootMount::Directory { path }) = copy.as_directory() else { panic!("a plain directory") };
        fs::write(path.join("big"), "changed").unwrap();
        assert_eq!(fs::read(from.join("big")).unwrap().len() as u64, SIZE_BYTES, "{kind}: the other has its own");
    }
}

#[test]
fn a_directory_that_is_not_what_was_kept_is_not_copied() {
    let state = tempfile::tempdir().unwrap();
    let tree: Tree = {
        let mut tree = Tree::new();
        tree.apply(&text::parse("d/ 0755 0:0\nd/f 0644 0:0 \"text\"").unwrap());
        tree
    };
    let kept = state.path().join("kept");
    fs::create_dir_all(kept.join("d")).unwrap();
    for content in [None, Some("tex"), Some("texts")] {
        if let Some(content) = content {
            fs::write(kept.join("d/f"), content).unwrap();
        }
        let copy = Rootfs::copy_of(&kept, &tree, state.path(), Owners::RECORDED, Copying::Shared);
        assert!(copy.is_err(), "{content:?}");
    }
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1, "nothing is left of them");
}
