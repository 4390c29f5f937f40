//! Random small Dockerfiles with random contexts: what must hold for every build.
//!
//! No build panics or blames itself; two builds of the same give the same image; so does one that knows the results of the
//! other, by the same store or by a cache that machines share, and one that knows the results of another that differed in one
//! thing; each layer is well formed; and the image
//! is the same tree to us and to a reader that is not ours. `PROPTEST_CASES` says how many are tried.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use builder_core::build::{
    Backends, BuildRequest, CacheLayers, CachePlace, CacheRequest, CacheTarget, DockerfileSource, ErrorKind, Event, Export,
    Outcome, StepOutcome, build,
};
use builder_core::tree::{Node, Tree};
use builder_core::{http, registry, store::Store};
use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
};
use testkit::{Image, Layout, Registry, require, require_root, tree};

/// Files that every context has, so that most instructions find something.
const SKELETON: &str =
    "d/ 0755 0:0\nd/e/ 0711 0:0\nd/e/g 0600 0:0 \"g\"\nd/f 0644 0:0 \"f\"\nf 0640 0:0 \"top\"\nd/l -> f\nl -> d\nm -> d/f\n";

/// Layers of the base: links of both kinds, owners, a capability, and a layer that takes away.
const BASE: [&str; 2] = [
    "etc/ 0755 0:0\netc/passwd 0644 0:0 \"root:x:0:0::/root:/bin/sh\\napp:x:1000:1001::/app:/bin/sh\\n\"\n\
     etc/group 0644 0:0 \"staff:x:50:app\\n\"\nreal/ 0711 5:6\nreal/old 0600 7:8 \"old\"\nto -> real\nabs -> /real\nloop -> loop\n\
     h 0644 0:0 \"h\"\ni = h\nd/ 1777 0:0\nd/e/ 0700 3:3\nd/e/gone 0644 0:0 \"x\"\nd/x 0644 0:0 cap=0100000200200000000000000000000000000000 \"c\"\n\
     f 0644 0:0 \"base\"\nn 0666 0:0 c 1:3\n",
    "- d/e/gone\nreal/sub/ 0755 0:0\nreal/sub/y 0644 0:0 \"y\"\n",
];

/// One build to try.
#[derive(Clone, Debug)]
struct Sample {
    /// As tree text.
    context: String,
    ignore: Option<String>,
    archive: String,
    dockerfile: String,
    argument: String,
    epoch: i64,
}

fn name() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b.txt", "c.txt", ".h", "x[1]", "d", "e", "f", "g", "l", "\\xc3\\xa9", "t\\x20u", "-x", "y#"])
}

/// Lines of a tree below what is there already; those that cannot be made are left out.
fn files() -> impl Strategy<Value = String> {
    let parent = select(vec!["", "d/", "d/e/", "n/", "n/o/"]);
    let kind = select(vec![
        "0644 0:0 \"x\"",
        "0755 0:0 \"y\"",
        "4711 0:0 \"\"",
        "DIRECTORY 0700 0:0",
        "DIRECTORY 1777 0:0",
        "-> d",
        "-> ../f",
        "-> /etc/passwd",
        "-> nothere",
        "= f",
        "= d/f",
        "0622 0:0 p",
        "0600 0:0 random=3000",
    ]);
    prop::collection::vec((parent, name(), kind), 0..6).prop_map(|lines| {
        let mut text = String::new();
        let mut taken: BTreeSet<String> = ["d", "d/e", "d/e/g", "d/f", "f", "d/l", "l", "m"].map(str::to_owned).into();
        for (parent, name, kind) in lines {
            for (at, _) in parent.match_indices('/') {
                if taken.insert(parent[..at].to_owned()) {
                    text.extend([&parent[..at], "/ 0750 0:0\n"]);
                }
            }
            if taken.insert(format!("{parent}{name}")) {
                match kind.strip_prefix("DIRECTORY ") {
                    Some(rest) => text.extend([parent, name, "/ ", rest, "\n"]),
                    None => text.extend([parent, name, " ", kind, "\n"]),
                }
            }
        }
        text
    })
}

fn ignore() -> impl Strategy<Value = Option<String>> {
    let pattern =
        select(vec!["d", "*", "!d/e", "**/f", "!f", "d/*", "!**/g", "*.txt", "/l", "n/**", "!n/o", "x\\[1]", "d/e/", ".h"]);
    prop::option::weighted(0.4, prop::collection::vec(pattern, 1..4).prop_map(|patterns| patterns.join("\n")))
}

fn archive() -> impl Strategy<Value = String> {
    let line = select(vec![
        "q/ 0700 1:2",
        "q/r 0644 3:4 \"r\"",
        "q/s = q/r",
        "d/e/g 0600 0:0 \"archived\"",
        "to/z 0644 0:0 \"through\"",
        "f/ 0755 0:0",
        "real 0644 0:0 \"file\"",
        "w -> q",
        "w/v 0644 0:0 \"v\"",
        "k 0644 0:0 c 1:3",
        "q/r 0755 9:9 \"again\"",
    ]);
    prop::collection::vec(line, 0..6).prop_map(|lines| lines.join("\n"))
}

fn instruction(with_run: bool) -> BoxedStrategy<String> {
    let source = || {
        select(vec![
            "f", "d", "d/e", "d/f", "l", "m", ".", "*", "d/*", "*.txt", "?", "[a-d]", "l/e", "d/e/g", "d/../f", "**", "n*", "to",
            "re*", "*/f", "d/l", "[hi]", "abs/old", "x[[]1]", "*/*",
        ])
    };
    let destination = || {
        select(vec![
            "/",
            ".",
            "./",
            "/t",
            "/t/",
            "/t/u/v",
            "/t/.",
            "to",
            "/to/",
            "abs/sub",
            "/d",
            "/d/e/",
            "/f",
            "/real/old",
            "w",
            "../x/",
            "/l",
            "/h",
            "/loop",
            "''",
        ])
    };
    let flag = || {
        prop::collection::vec(
            select(vec![
                "--chown=1:2",
                "--chown=app",
                "--chown=app:staff",
                "--chmod=0750",
                "--chmod=u=rwX,go=rX",
                "--chmod=$A",
                "--link",
                "--exclude=e",
                "--exclude=**/f",
            ]),
            0..2,
        )
        .prop_map(|flags| flags.concat().replace("--", " --"))
    };
    let from =
        prop_oneof![3 => Just(""), 1 => Just(" --from=BEFORE"), 1 => Just(" --from=0"), 1 => Just(" --from=REGISTRY/base:1")];
    let parents = select(vec!["", "", "", " --parents"]);
    let copies = (flag(), from, parents, source(), prop::option::of(source()), destination());
    let copies = copies.prop_map(|(flags, from, parents, one, two, to)| {
        // Only a directory takes several.
        let two = two.filter(|_| to.ends_with(['/', '.'])).unwrap_or_default();
        format!("COPY{flags}{from}{parents} {one} {two} {to}")
    });
    let adds = (flag(), source(), destination()).prop_map(|(flags, source, to)| format!("ADD{flags} {source} {to}"));
    let archives = (select(vec!["", " --chown=4:5", " --link", " --unpack=false"]), destination())
        .prop_map(|(flag, to)| format!("ADD{flag} x.tar {to}"));
    let other = select(vec![
        "WORKDIR /w",
        "WORKDIR to/sub",
        "WORKDIR $B",
        "WORKDIR ..",
        "USER app",
        "USER 12",
        "USER nobody",
        "USER app:staff",
        "ENV A=700",
        "ENV B=$A",
        "ENV B=/${A:-x}",
        "ARG A",
        "ARG A=go+w",
        "LABEL l=$A",
        "EXPOSE 80 $NONE",
        "VOLUME /v",
        "CMD x",
        "ENTRYPOINT [\"x\"]",
        "STOPSIGNAL 9",
        "COPY <<EOF /here\n$A\nEOF",
        "COPY <<one <<'two' /here/\n$A\none\n$A\ntwo",
        "ONBUILD COPY f /triggered",
        "HEALTHCHECK NONE",
    ])
    .prop_map(str::to_owned);
    if !with_run {
        return prop_oneof![5 => copies, 1 => adds, 2 => archives, 3 => other].boxed();
    }
    let command = select(vec![
        "rm -rf /d",
        "rm -f /f /h",
        "mkdir -p /t/u && echo $A > /t/u/v",
        "mv /real /moved",
        "ln /h /j",
        "ln -sfn /t /l",
        "rm -rf /d && mkdir -p /d/e",
        "chmod 700 /real",
        "chown 3:4 /h",
        "echo more >> /i",
        "touch /new && rm /new",
        "rm -rf /to && mkdir /to && echo z > /to/z",
        "true",
        "rm -rf /real && echo f > /real",
        "id > /id",
        "mkfifo /p && mknod /z c 1 5",
        "cp -a /d /copy",
        "rm -rf /t; mv /d /t",
        "find / -xdev -name f > /found",
    ])
    .prop_map(|command| format!("RUN {command}"));
    prop_oneof![2 => copies, 1 => archives, 1 => other, 5 => command].boxed()
}

fn dockerfile(with_run: bool) -> impl Strategy<Value = String> {
    let base =
        if with_run { select(vec!["REGISTRY/busy:1"]) } else { select(vec!["scratch", "REGISTRY/base:1", "s0", "scratch"]) };
    let stage = (base, prop::collection::vec(instruction(with_run), 0..5));
    prop::collection::vec(stage, 1..4).prop_map(|stages| {
        let mut text = String::from("ARG A=0755\n");
        for (at, (base, instructions)) in stages.iter().enumerate() {
            let base = if at == 0 && *base == "s0" { "scratch" } else { base };
            let instructions = instructions.join("\n");
            let instructions = match at.checked_sub(1) {
                None => instructions.replace(" --from=BEFORE", "").replace(" --from=0", ""),
                Some(before) => instructions.replace("BEFORE", &format!("s{before}")),
            };
            writeln!(text, "FROM {base} AS s{at}\nARG A\n{instructions}").unwrap();
        }
        text
    })
}

fn sample(with_run: bool) -> impl Strategy<Value = Sample> {
    let argument = select(vec!["", "0700", "u+w"]);
    (files(), ignore(), archive(), dockerfile(with_run), argument).prop_map(|(files, ignore, archive, dockerfile, argument)| {
        Sample {
            context: format!("{SKELETON}{files}"),
            ignore,
            archive,
            dockerfile,
            argument: argument.to_owned(),
            epoch: 1_600_000_000,
        }
    })
}

/// One thing that is different in another build.
fn change() -> impl Strategy<Value = (&'static str, &'static str)> {
    select(vec![
        ("d/f 0644 0:0 \"f\"", "d/f 0644 0:0 \"F\""),
        ("d/f 0644 0:0 \"f\"", "d/f 0755 0:0 \"f\""),
        ("d/e/ 0711 0:0", "d/e/ 0700 0:0"),
        ("d/e/g 0600 0:0 \"g\"", "d/e/k 0600 0:0 \"g\""),
        ("d/l -> f", "d/l -> e"),
        ("m -> d/f", "m -> f"),
        ("m -> d/f", "m = d/f"),
        ("f 0640 0:0 \"top\"", "f 0640 0:0 \"xtar\""),
        ("l -> d\n", "l/ 0755 0:0\n"),
        ("ARG", ""),
        ("ARCHIVE", ""),
        ("BASE", ""),
        ("EPOCH", ""),
        ("ENV", ""),
        ("IGNORE", ""),
    ])
}

impl Sample {
    fn changed(&self, (from, to): (&str, &str)) -> Self {
        let mut other = self.clone();
        match from {
            "ARG" => "0711".clone_into(&mut other.argument),
            "ARCHIVE" => other.archive.push_str("\nd/new 0644 0:0 \"new\""),
            "BASE" => other.dockerfile = other.dockerfile.replace("base:1", "base:2").replace("busy:1", "busy:2"),
            "EPOCH" => other.epoch += 1,
            "ENV" => other.dockerfile = other.dockerfile.replace("\nARG A\n", "\nARG A\nENV B=/other\n"),
            "IGNORE" => other.ignore = Some("d/f".to_owned()),
            _ => other.context = other.context.replacen(from, to, 1),
        }
        other
    }
}

/// What builds need: a registry with the bases, and a runtime.
struct Bench {
    registry: Registry,
    /// The layers that are not ours.
    bases: Vec<Vec<u8>>,
    runtime: tokio::runtime::Runtime,
}

struct Built {
    outcome: Outcome,
    layout: Layout,
    steps: Vec<StepOutcome>,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let registry = Registry::start();
        let base = BASE.iter().fold(Image::new(), |image, layer| image.layer(layer));
        base.push(&registry, "base:1");
        let mut bases = registry.pull("base:1").layer_tars();
        let other = [BASE[0].replace("real/ 0711 5:6", "real/ 0700 5:6"), BASE[1].to_owned()];
        other.iter().fold(Image::new(), |image, layer| image.layer(layer)).push(&registry, "base:2");
        if Path::new("/bin/busybox").exists() {
            BASE.iter().fold(Image::new().busybox_layer(), |image, layer| image.layer(layer)).push(&registry, "busy:1");
            bases.extend(registry.pull("busy:1").layer_tars());
            other.iter().fold(Image::new().busybox_layer(), |image, layer| image.layer(layer)).push(&registry, "busy:2");
        }
        Self { registry, bases, runtime: tokio::runtime::Runtime::new().unwrap() }
    }

    /// Builds in `place`, with the results that are remembered under `state` alone.
    fn build(&self, sample: &Sample, place: &Path, state: &str) -> Result<Built, String> {
        self.build_with(sample, place, state, false)
    }

    /// Builds with what machines share, too.
    fn build_with(&self, sample: &Sample, place: &Path, state: &str, shared: bool) -> Result<Built, String> {
        let context = place.join("context");
        if context.exists() {
            fs::remove_dir_all(&context).unwrap();
        }
        fs::create_dir(&context).unwrap();
        tree::write(&sample.context, &context);
        if let Some(ignore) = &sample.ignore {
            fs::write(context.join(".dockerignore"), ignore).unwrap();
        }
        fs::write(context.join("x.tar"), tree::tar(&sample.archive)).unwrap();
        for name in ["x.tar", ".dockerignore"] {
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(tree::MTIME_SECONDS);
            let _ = fs::File::options().append(true).open(context.join(name)).map(|file| file.set_modified(time));
        }
        let layout = place.join(format!("layout-{}", fs::read_dir(place).unwrap().count()));
        let request = BuildRequest {
            dockerfile: DockerfileSource::Inline {
                name: "Dockerfile".to_owned(),
                text: sample.dockerfile.replace("REGISTRY", self.registry.address()),
            },
            build_args: BTreeMap::from([("A".to_owned(), sample.argument.clone())])
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .collect(),
            source_date_epoch: Some(sample.epoch),
            cache: if shared { in_directory(place.join("shared")) } else { CacheRequest::default() },
            push: false,
            exports: vec![Export::OciLayout(layout.clone())],
            ..BuildRequest::new(&context)
        };
        let store = Store::open(place.join(state)).unwrap();
        let client = http::Client::new(http::Options::default()).unwrap();
        let registry = registry::Client::new(client, registry::Options::default(), Arc::new(registry::Anonymous)).unwrap();
        let backends = Backends::new(store.clone(), registry);
        self.runtime.block_on(async {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
            let listening = tokio::spawn(async move {
                let mut steps = Vec::new();
                while let Some(event) = receiver.recv().await {
                    if let Event::StepFinished { outcome, .. } = event {
                        steps.push(outcome);
                    }
                }
                steps
            });
            let result = build(request, backends, sender).await;
            let steps = listening.await.unwrap();
            match result {
                Ok(outcome) => Ok(Built { outcome, layout: Layout::open_only(&layout), steps, store }),
                Err(error) => {
                    assert!(!matches!(error.kind, ErrorKind::Internal | ErrorKind::Host | ErrorKind::Base), "{error:?}");
                    Err(format!("{error}: {:?}", error.place.as_ref().map(|place| place.position)))
                }
            }
        })
    }

    fn check(&self, sample: &Sample, change: (&str, &str)) {
        let place = tempfile::tempdir().unwrap();
        let first = self.build_with(sample, place.path(), "first", true);
        let second = self.build(sample, place.path(), "second");

        match (&first, &second) {
            (Ok(first), Ok(second)) => {
                assert_eq!(first.layout.layers(), second.layout.layers(), "two builds give the same layers");
                assert_eq!(first.outcome.digest, second.outcome.digest, "two builds give the same image");
                well_formed(first, &self.bases);
                same_tree(first);
                let again =
                    self.build(sample, place.path(), "first").unwrap_or_else(|error| panic!("only the second time: {error}"));
                assert_eq!(again.outcome.digest, first.outcome.digest, "a cached build gives the same image");
                assert!(!again.steps.contains(&StepOutcome::Executed), "everything is known: {:?}", again.steps);
                let elsewhere = self.build_with(sample, place.path(), "elsewhere", true);
                let elsewhere = elsewhere.unwrap_or_else(|error| panic!("only on another machine: {error}"));
                assert_eq!(elsewhere.outcome.digest, first.outcome.digest, "another machine gives the same image");
                assert!(!elsewhere.steps.contains(&StepOutcome::Executed), "everything is shared: {:?}", elsewhere.steps);
            }
            // Stages are built side by side: where several fail, any of them may be the first.
            (Err(_), Err(_)) => {}
            (Ok(_), Err(error)) | (Err(error), Ok(_)) => panic!("only one of two builds failed: {error}"),
        }
        let other = sample.changed(change);
        match (self.build(&other, place.path(), "first"), self.build(&other, place.path(), "third")) {
            (Ok(knowing), Ok(fresh)) => {
                assert_eq!(knowing.layout.layers(), fresh.layout.layers(), "{change:?} is seen");
                assert_eq!(knowing.outcome.digest, fresh.outcome.digest, "{change:?} is seen");
            }
            (Err(_), Err(_)) => {}
            (Ok(_), Err(error)) | (Err(error), Ok(_)) => panic!("{change:?}: only one of two builds failed: {error}"),
        }
        match (self.build_with(&other, place.path(), "fourth", true), self.build(&other, place.path(), "third")) {
            (Ok(knowing), Ok(known)) => assert_eq!(knowing.outcome.digest, known.outcome.digest, "{change:?} is seen elsewhere"),
            (Err(_), Err(_)) => {}
            (Ok(_), Err(error)) | (Err(error), Ok(_)) => panic!("{change:?}: only one of two machines failed: {error}"),
        }
    }
}

fn in_directory(path: PathBuf) -> CacheRequest {
    let place = CachePlace::Layout(path);
    let to = vec![CacheTarget { place: place.clone(), layers: CacheLayers::Max }];
    CacheRequest { from: vec![place], to, ..CacheRequest::default() }
}

/// What holds for every layer that is ours.
fn well_formed(built: &Built, bases: &[Vec<u8>]) {
    let tars = built.layout.layer_tars();
    let layers: Vec<Vec<tree::Node>> = tars.iter().map(|tar| tree::of_tar(tar)).collect();
    for (at, layer) in layers.iter().enumerate().filter(|(at, _)| !bases.contains(&tars[*at])) {
        let below: BTreeSet<PathBuf> = tree::flatten(&layers[..at]).into_iter().map(|node| node.path).collect();
        let above: HashMap<PathBuf, tree::Kind> =
            tree::flatten(&layers[..=at]).into_iter().map(|node| (node.path, node.kind)).collect();
        let mut seen: BTreeMap<&Path, &tree::Kind> = BTreeMap::new();
        for (before, node) in std::iter::once(None).chain(layer.iter().map(Some)).zip(layer) {
            let shown = || format!("{} in layer {at}:\n{}", node.path.display(), tree::text(layer));
            assert!(node.path.components().all(|part| matches!(part, Component::Normal(_))), "a clean name: {}", shown());
            assert!(before.is_none_or(|before| before.path.as_os_str() <= node.path.as_os_str()), "sorted: {}", shown());
            assert!(seen.insert(&node.path, &node.kind).is_none(), "once: {}", shown());
            match &node.kind {
                tree::Kind::Whiteout => assert!(below.contains(&node.path), "a whiteout of what is there: {}", shown()),
                tree::Kind::Opaque => panic!("no opaque directory: {}", shown()),
                tree::Kind::HardLink(target) => {
                    let target = seen.get(target.as_path());
                    let is_file = target.is_some_and(|kind| !matches!(kind, tree::Kind::Directory | tree::Kind::Whiteout));
                    assert!(is_file, "a link to a file before it: {}", shown());
                }
                _ => {}
            }
            for parent in node.path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
                assert!(seen.contains_key(parent) || below.contains(parent), "parents first: {}", shown());
                let is_directory = above.get(parent).is_some_and(|kind| *kind == tree::Kind::Directory);
                assert!(is_directory || node.kind == tree::Kind::Whiteout, "in a directory: {}", shown());
            }
        }
    }
}

/// Our fold of the layers is that of a reader who is not us.
fn same_tree(built: &Built) {
    let mut ours = Tree::new();
    for layer in &built.outcome.layers {
        ours.apply(&built.store.layer_index(layer.diff_id).unwrap().unwrap().changes);
    }
    let mut first_names = HashMap::new();
    let line = |path: String, mode: u32, uid: u32, gid: u32, time: i64, node: String| {
        if node.starts_with("->") {
            format!("{path} {uid}:{gid} {node}")
        } else {
            format!("{path} {mode:o} {uid}:{gid} @{time} {node}")
        }
    };
    let ours: Vec<String> = ours
        .iter()
        .filter(|(path, ..)| !path.is_root())
        .map(|(path, inode, entry)| {
            let path = path.to_string();
            let first = first_names.entry(inode).or_insert_with(|| path.clone());
            if *first != path {
                return format!("{path} = {first}");
            }
            let node = match &entry.node {
                Node::Directory => "directory".to_owned(),
                Node::File(file) => format!("file {}", file.size_bytes),
                Node::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
                Node::CharDevice { major, minor } => format!("char {major}:{minor}"),
                Node::BlockDevice { major, minor } => format!("block {major}:{minor}"),
                Node::Fifo => "pipe".to_owned(),
            };
            let capability = if entry.capability.is_some() { " capability" } else { "" };
            line(path, entry.mode.into(), entry.uid, entry.gid, entry.mtime.seconds, format!("{node}{capability}"))
        })
        .collect();
    let nodes: Vec<Vec<tree::Node>> = built.layout.layer_tars().iter().map(|tar| tree::of_tar(tar)).collect();
    let theirs: Vec<String> = tree::flatten(&nodes)
        .into_iter()
        .map(|found| {
            let path = format!("/{}", found.path.to_string_lossy());
            let node = match &found.kind {
                tree::Kind::Directory => "directory".to_owned(),
                tree::Kind::File(bytes) => format!("file {}", bytes.len()),
                tree::Kind::Symlink(target) => format!("-> {}", target.to_string_lossy()),
                tree::Kind::HardLink(target) => return format!("{path} = /{}", target.to_string_lossy()),
                tree::Kind::Char(major, minor) => format!("char {major}:{minor}"),
                tree::Kind::Block(major, minor) => format!("block {major}:{minor}"),
                tree::Kind::Fifo => "pipe".to_owned(),
                other => panic!("{other:?} in a tree"),
            };
            let capability = if found.attributes.is_empty() { "" } else { " capability" };
            let (uid, gid) = (u32::try_from(found.uid).unwrap(), u32::try_from(found.gid).unwrap());
            line(path, found.mode, uid, gid, found.mtime_seconds.cast_signed(), format!("{node}{capability}"))
        })
        .collect();
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines.join("\n")
    };
    assert_eq!(sorted(ours), sorted(theirs), "one tree");
}

/// Fewer than usual: each case is eight builds. More with `PROPTEST_CASES`.
fn try_many(cases: u32, with_run: bool) {
    let default = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    let bench = Bench::new();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 300, ..default });
    runner
        .run(&(sample(with_run), change()), |(sample, change)| {
            bench.check(&sample, change);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn builds_without_run_are_reproducible_well_formed_and_never_stale() {
    if require(&["docker-registry", "skopeo"]) {
        try_many(36, false);
    }
}

#[test]
fn privileged_builds_with_run_are_reproducible_well_formed_and_never_stale() {
    if require(&["docker-registry", "skopeo", "busybox"]) && require_root() {
        try_many(6, true);
    }
}
