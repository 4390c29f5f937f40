//! Builds in real containers with the settings of every kind of pod: the programs of `testdata/pods/programs`, each judged by its
//! name, and the demanding Dockerfile beside them, which has to be the same image everywhere.
//!
//! What each kind passes is the table of `docs/pods.md`, which this test writes (`BLESS=1`) or compares. `POD_KINDS=restricted,openshift`
//! looks at these alone, `POD_JOBS=3` at so many at a time. What was said in a pod lies in `target/pods/KIND.log` after each of its
//! two builds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};
use testkit::{
    Compression, Finished, Image, Layout,
    pod::{Pod, PodKind},
    tree::{self, Kind, Node},
};

/// When the demanding image is said to be made.
const EPOCH: &str = "1700000000";

/// A build that takes longer than this hangs: it takes two minutes on two slow processors.
const LIMIT: Duration = Duration::from_mins(8);

/// What came out in one kind of pod.
struct Outcome {
    kind: PodKind,
    /// What the builder said of how it keeps steps apart.
    isolation: String,
    /// The programs in their order, and whether each passed.
    programs: Vec<(String, bool)>,
    /// The demanding image; else why there is none.
    image: Result<DemandingImage, String>,
}

struct DemandingImage {
    digest: String,
    /// Without the base, which is the same for all and large; files that are not short hold their digests here.
    layers: Arc<Vec<Vec<Node>>>,
}

/// The layers of the images so far, by digest: most images are equal.
type KnownLayers = Mutex<BTreeMap<String, Arc<Vec<Vec<Node>>>>>;

#[test]
fn privileged_programs_pass_and_the_image_is_the_same_in_every_kind_of_pod() {
    if !testkit::require_root() || !testkit::require(&["runc", "busybox", "mmdebstrap"]) {
        return;
    }
    let binary = testkit::static_cofferdam();
    let base = base();
    let chosen = chosen_kinds();
    let waiting = Mutex::new(chosen.clone());
    let outcomes = Mutex::new(Vec::new());
    let known = KnownLayers::default();
    // A build keeps about one processor busy.
    let processors = thread::available_parallelism().map_or(1, |count| count.get().min(4));
    let at_a_time = std::env::var("POD_JOBS").map_or(processors, |count| count.parse().expect("POD_JOBS is a number"));
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let Some(kind) = waiting.lock().unwrap().pop() else { break };
                    let outcome = builds_in(kind, &binary, &base, &known);
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by_key(|outcome| outcome.kind);

    let mut wrong = String::new();
    for outcome in &outcomes {
        judge_programs(outcome, &mut wrong);
    }
    judge_images(&outcomes, &mut wrong);
    if chosen.len() == PodKind::ALL.len() {
        compare_documentation(&outcomes, &mut wrong);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn chosen_kinds() -> Vec<PodKind> {
    let named = std::env::var("POD_KINDS").unwrap_or_default();
    let kind = |name: &str| PodKind::named(name).unwrap_or_else(|| panic!("POD_KINDS: no kind of pod is called {name}"));
    if named.is_empty() { PodKind::ALL.to_vec() } else { named.split(',').map(kind).collect() }
}

/// Builds both Dockerfiles in one pod, the second with the base that the first unpacked.
fn builds_in(kind: PodKind, binary: &Path, base: &Path, known: &KnownLayers) -> Outcome {
    let pod = Pod::new(kind)
        .read_only_bind(binary, "/cofferdam")
        .read_only_bind(base, "/base")
        .read_only_bind(&testdata(), "/pods")
        .volume("/workspace")
        .env("SOURCE_DATE_EPOCH", EPOCH);
    let build = |context: &str, more: &[&str]| -> Finished {
        let words = [
            "/cofferdam",
            "build",
            "--state-dir=/workspace/state",
            "--build-context=base=oci-layout:///base:latest",
            "--no-push",
        ];
        pod.run_at_most(LIMIT, &[&words, more, &[context]].concat())
    };
    let log = directory().join(format!("{}.log", kind.name()));
    // Nobody takes this image: compressing it is a tenth of the work.
    let programs = build("/pods/programs", &["--compression=uncompressed"]);
    let mut said = format!("{}{}", programs.stdout, programs.stderr);
    fs::write(&log, &said).unwrap();
    assert!(
        programs.code == Some(0),
        "the programs were not run to their end in {}:\n{}",
        kind.name(),
        last_lines(&programs.stderr)
    );
    let demanding = build("/pods/demanding", &["--oci-layout-path=/workspace/image"]);
    let image = if demanding.code == Some(0) {
        let layout = Layout::open_only(&pod.volume_path("/workspace").join("image"));
        let digest = layout.digest();
        let layers = known.lock().unwrap().get(&digest).cloned();
        let layers = layers.unwrap_or_else(|| Arc::new(layout.layers_above(1).map(abbreviated).collect()));
        known.lock().unwrap().insert(digest.clone(), Arc::clone(&layers));
        Ok(DemandingImage { digest, layers })
    } else {
        Err(last_lines(&demanding.stderr))
    };
    let isolation = said.lines().find_map(|line| Some(line.split_once("isolation: ")?.1.to_owned())).unwrap_or_default();
    let results = results_in(&said);
    write!(said, "{}{}", demanding.stdout, demanding.stderr).unwrap();
    fs::write(&log, &said).unwrap();
    Outcome { kind, isolation, programs: results, image }
}

/// Puts their digests in the place of what files hold that are not short.
fn abbreviated(mut layer: Vec<Node>) -> Vec<Node> {
    for node in &mut layer {
        if let Kind::File(content) = &mut node.kind
            && content.len() > 400
        {
            *content = format!("{} bytes, {}", content.len(), testkit::sha256(content)).into_bytes();
        }
    }
    layer
}

/// Reads `program NAME: pass` from what was said.
fn results_in(said: &str) -> Vec<(String, bool)> {
    let result = |line: &str| {
        let (name, word) = line.split_once("program ")?.1.split_once(": ")?;
        match word {
            "pass" => Some((name.to_owned(), true)),
            "fail" => Some((name.to_owned(), false)),
            _ => None,
        }
    };
    said.lines().filter_map(result).collect()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// The names of the programs, in their order.
fn program_names() -> Vec<String> {
    let mut names = Vec::new();
    for group in ["packages", "users", "files", "processes", "toolchains"] {
        let text = fs::read_to_string(testdata().join("programs").join(format!("{group}.sh"))).unwrap();
        names.extend(text.lines().filter_map(|line| Some(line.strip_prefix("try-")?.split_once("() {")?.0.to_owned())));
    }
    names
}

/// What is known to fail: the reason by kind and program, from lines `KIND PROGRAM REASON`.
fn known_failures() -> BTreeMap<(String, String), String> {
    let text = fs::read_to_string(testdata().join("known-failures")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.splitn(3, ' ').map(str::to_owned);
            let mut word = || words.next().unwrap_or_else(|| panic!("known-failures: {line}: KIND PROGRAM REASON"));
            ((word(), word()), word())
        })
        .collect()
}

/// Takes out of the list what passes now. What fails newly needs a reason, which only its reader can give.
fn forget_known_failures(outcomes: &[Outcome]) {
    let file = testdata().join("known-failures");
    let text = fs::read_to_string(&file).unwrap();
    let passes = |line: &&str| {
        let mut words = line.split(' ');
        let (kind, program) = (words.next(), words.next());
        let outcome = outcomes.iter().find(|outcome| Some(outcome.kind.name()) == kind);
        outcome.is_some_and(|outcome| outcome.programs.iter().any(|(name, passed)| *passed && Some(name.as_str()) == program))
    };
    let kept: Vec<&str> = text.lines().filter(|line| !passes(line)).collect();
    fs::write(file, format!("{}\n", kept.join("\n"))).unwrap();
}

/// The share of programs that has to pass, in hundredths.
fn share_wanted(kind: PodKind) -> usize {
    match kind {
        PodKind::Baseline | PodKind::HostusersFalse | PodKind::Privileged => 100,
        _ => 97,
    }
}

fn judge_programs(outcome: &Outcome, wrong: &mut String) {
    let kind = outcome.kind.name();
    let names: Vec<&str> = outcome.programs.iter().map(|(name, _)| name.as_str()).collect();
    if names != program_names() {
        writeln!(wrong, "{kind}: not every program was run once: {names:?}").unwrap();
    }
    let known = known_failures();
    let blessed = std::env::var_os("BLESS").is_some();
    for (name, passed) in &outcome.programs {
        let expected = known.contains_key(&(kind.to_owned(), name.clone()));
        if !passed && !expected {
            writeln!(wrong, "{kind}: {name} fails, see target/pods/{kind}.log").unwrap();
        }
        if *passed && expected && !blessed {
            writeln!(wrong, "{kind}: {name} passes now: take it out of testdata/pods/known-failures").unwrap();
        }
    }
    let (passed, all) = (passed(outcome), outcome.programs.len());
    let wanted = share_wanted(outcome.kind);
    if passed * 100 < all * wanted {
        writeln!(wrong, "{kind}: {passed} of {all} programs pass, {wanted} % are wanted").unwrap();
    }
}

fn passed(outcome: &Outcome) -> usize {
    outcome.programs.iter().filter(|(_, passed)| *passed).count()
}

fn judge_images(outcomes: &[Outcome], wrong: &mut String) {
    let mut first: Option<(PodKind, &DemandingImage)> = None;
    // What the privileged pod makes is what the others are compared with.
    for outcome in outcomes.iter().rev() {
        let kind = outcome.kind;
        match (&outcome.image, first) {
            (Err(said), _) => writeln!(wrong, "{}: the demanding image is not built: {said}", kind.name()).unwrap(),
            (Ok(image), None) => {
                judge_contents(kind, image, wrong);
                first = Some((kind, image));
            }
            (Ok(image), Some((other, reference))) if image.digest != reference.digest => {
                let differences = differences(reference, image);
                writeln!(wrong, "{}: the image is not that of {}:\n{differences}", kind.name(), other.name()).unwrap();
            }
            (Ok(_), Some(_)) => {}
        }
    }
}

/// What must be in the demanding image: equal images could be equally wrong.
fn judge_contents(kind: PodKind, image: &DemandingImage, wrong: &mut String) {
    let text = tree::text(&tree::flatten(&image.layers));
    let line_of = |path: &str| text.lines().find(|line| line.split(' ').next() == Some(path));
    let capability = |hex: &str| format!("cap={hex}");
    let ping = capability("0100000200200000000000000000000000000000");
    let bind = capability("0100000200040000000000000000000000000000");
    for (path, expected) in [
        ("usr/bin/sudo", vec!["4755 0:0"]),
        ("usr/bin/ping", vec!["0755 0:0", &ping]),
        ("usr/bin/crontab", vec!["2755 0:"]),
        ("usr/bin/hello", vec!["4750 0:4200"]),
        ("usr/local/bin/answer", vec!["0755 0:0", &bind]),
        ("usr/local/bin/reply", vec!["0750 0:0", &bind]),
        ("usr/local/bin/second", vec!["6711 1:60"]),
        ("opt/python/", vec!["2750 4100:4200"]),
        ("srv/common/", vec!["1777 0:0"]),
        ("srv/common/null", vec!["0660 0:5", "c 1:3"]),
        ("srv/common/pipe", vec!["0640 33:33 p"]),
        ("srv/common/link", vec!["-> pipe 34:35"]),
        ("srv/common/as-second", vec!["0644 4321:1234", "\"4321 1 1234 60\\n\""]),
        ("srv/from-java", vec!["0644 21:0"]),
        ("srv/from-go", vec!["0600 4100:4200"]),
        ("home/worker/a/b/file", vec!["0640 4100:4200 \"text\\n\""]),
        ("home/worker/a/linked", vec!["= home/worker/a/b/file"]),
        ("home/worker/run", vec!["0750 4100:4200"]),
        ("home/worker/work/who", vec!["0644 1:4200", "\"worker\\n\""]),
        ("home/worker/work/became", vec!["0644 4100:4200", "\"root\\n\""]),
        ("etc/shadow", vec!["0640 0:42"]),
        ("usr/share/moved/", vec!["0755 0:0"]),
    ] {
        match line_of(path) {
            Some(line) if expected.iter().all(|part| line.contains(part)) => {}
            found => writeln!(wrong, "{}: {path} should be {expected:?}, is {found:?}", kind.name()).unwrap(),
        }
    }
    for path in ["usr/bin/whois", "usr/share/nano/", "etc/machine-id"] {
        if let Some(line) = line_of(path) {
            writeln!(wrong, "{}: should be gone: {line}", kind.name()).unwrap();
        }
    }
}

/// The first entries that differ, with their times.
fn differences(reference: &DemandingImage, image: &DemandingImage) -> String {
    let mut text = String::new();
    if reference.layers.len() != image.layers.len() {
        writeln!(text, "{} layers, {} there", image.layers.len(), reference.layers.len()).unwrap();
    }
    for (number, (here, there)) in image.layers.iter().zip(reference.layers.iter()).enumerate() {
        let lines = |nodes: &[Node]| -> BTreeMap<PathBuf, String> {
            let line = |node: &Node| format!("{} @{}", tree::text(std::slice::from_ref(node)).trim_end(), node.mtime_seconds);
            nodes.iter().map(|node| (node.path.clone(), line(node))).collect()
        };
        let (here_by_path, there_by_path) = (lines(here), lines(there));
        let mut paths: Vec<&PathBuf> = here_by_path.keys().chain(there_by_path.keys()).collect();
        paths.sort_unstable();
        paths.dedup();
        let mut count = 0;
        for path in paths {
            let (one, other) = (here_by_path.get(path), there_by_path.get(path));
            if one != other {
                count += 1;
                if count <= 20 {
                    let shown = |line: Option<&String>| line.map_or("nothing", String::as_str).to_owned();
                    writeln!(text, "layer {number}: {}\n    there {}", shown(one), shown(other)).unwrap();
                }
            }
        }
        if count == 0 && here != there {
            writeln!(text, "layer {number}: the order of the entries differs").unwrap();
        } else if count > 20 {
            writeln!(text, "layer {number}: {} more", count - 20).unwrap();
        }
    }
    if text.is_empty() {
        text.push_str("the layers are equal: the config differs\n");
    }
    text
}

/// The table stands at the end of the page, below what is written by hand.
fn compare_documentation(outcomes: &[Outcome], wrong: &mut String) {
    const BEGIN: &str = "<!-- What follows is written by `BLESS=1 .ci/pods`. -->\n";

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pods.md");
    let page = fs::read_to_string(&file).unwrap();
    let (intro, recorded) = page.split_once(BEGIN).expect("docs/pods.md says where the table begins");
    if std::env::var_os("BLESS").is_some() {
        forget_known_failures(outcomes);
    }
    let table = documentation(outcomes);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, format!("{intro}{BEGIN}{table}")).unwrap();
    } else if recorded != table {
        let new: Vec<&str> = table.lines().filter(|line| !recorded.contains(line)).collect();
        writeln!(wrong, "docs/pods.md is not what came out (BLESS=1 .ci/pods rewrites it): {}", new.join("\n")).unwrap();
    }
}

fn documentation(outcomes: &[Outcome]) -> String {
    let mut text = String::from("\n| kind | isolation | programs | the demanding image |\n|---|---|---|---|\n");
    for outcome in outcomes {
        let image = if outcome.image.is_ok() { "equal" } else { "not built" };
        let (passed, all) = (passed(outcome), outcome.programs.len());
        writeln!(text, "| {} | {} | {passed} of {all} | {image} |", outcome.kind.name(), outcome.isolation).unwrap();
    }
    text.push_str("\n| program |");
    for outcome in outcomes {
        write!(text, " {} |", outcome.kind.name()).unwrap();
    }
    writeln!(text, "\n|---|{}", "---|".repeat(outcomes.len())).unwrap();
    for (number, (name, _)) in outcomes[0].programs.iter().enumerate() {
        write!(text, "| {name} |").unwrap();
        for outcome in outcomes {
            let passed = outcome.programs.get(number).is_some_and(|(_, passed)| *passed);
            write!(text, " {} |", if passed { "✓" } else { "fails" }).unwrap();
        }
        text.push('\n');
    }
    let known = known_failures();
    if !known.is_empty() {
        text.push_str("\nWhy they fail:\n\n");
    }
    for ((kind, program), reason) in known {
        writeln!(text, "- {program} in {kind}: {reason}").unwrap();
    }
    text
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/pods").canonicalize().unwrap()
}

/// Where the base and the logs lie.
fn directory() -> PathBuf {
    let directory = testkit::target_directory().join("pods");
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// The base image as a layout: made once, and again when `base.sh` changes.
fn base() -> PathBuf {
    let script = testdata().join("base.sh");
    let place = directory().join("base");
    let made_by = place.join("made-by");
    let wanted = fs::read(&script).unwrap();
    if fs::read(&made_by).is_ok_and(|made| made == wanted) {
        return place;
    }
    let archive = directory().join("base.tar");
    let made = Command::new(script).arg(&archive).output().unwrap();
    assert!(made.status.success(), "base.sh: {}", last_lines(&String::from_utf8_lossy(&made.stderr)));
    let _ = fs::remove_dir_all(&place);
    Image::new()
        .raw_layer(Compression::Zstd, fs::read(&archive).unwrap())
        .config(
            serde_json::json!({"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]}),
        )
        .write(&place, "latest");
    fs::remove_file(archive).unwrap();
    fs::write(made_by, wanted).unwrap();
    place
}
