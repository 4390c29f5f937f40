//! A step that means harm: `testdata/escapes/escapes.c` tries many ways out, behind each kind of wall and in each kind of pod.
//! What it must reach, and what not, is the table in docs/security.md.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{PermissionsExt as _, chown},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::Command,
};
use testkit::Finished;
use testkit::Layout;
use testkit::pod::{Pod, PodKind};

const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// What nobody may find.
const CANARY: &str = "CANARY-4711";

/// The files of one build: what is the step's, and what is not.
struct Scene {
    directory: tempfile::TempDir,
    port: u16,
    _listeners: [UnixListener; 2],
}

impl Scene {
    fn new(owner: (u32, u32)) -> Self {
        let directory = tempfile::Builder::new().prefix("escapes-").tempdir().unwrap();
        let place = directory.path();
        let program = place.join("escapes");
        let source = Path::new(PROJECT).join("testdata/escapes/escapes.c");
        let compiled = Command::new("gcc").args(["-static", "-O1", "-o"]).arg(&program).arg(source).status().unwrap();
        assert!(compiled.success());
        // Somebody else may take it before it is used; then the build fails.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for name in ["context", "outside", "state"] {
            fs::create_dir(place.join(name)).unwrap();
        }
        fs::copy(&program, place.join("context/escapes")).unwrap();
        fs::write(place.join("context/private"), CANARY).unwrap();
        fs::write(place.join("outside/secret"), CANARY).unwrap();
        fs::write(place.join("outside/token"), CANARY).unwrap();
        fs::write(place.join("outside/config.json"), format!("{{\"auths\": {{}}, \"note\": \"{CANARY}\"}}")).unwrap();
        fs::copy(testkit::static_cofferdam(), place.join("cofferdam")).unwrap();
        let at_path = UnixListener::bind(place.join("outside/socket")).unwrap();
        let abstract_name = SocketAddr::from_abstract_name(format!("escape-{port}")).unwrap();
        let scene = Self { port, _listeners: [at_path, UnixListener::bind_addr(&abstract_name).unwrap()], directory };
        scene.write_dockerfile();
        scene.give(owner);
        scene
    }

    fn write_dockerfile(&self) {
        let Self { port, .. } = self;
        let place = self.place();
        let text = format!(
            "FROM scratch AS base\nCOPY escapes /escapes\n\
             FROM base AS victim\n\
             RUN --mount=type=secret,id=other [\"/escapes\", \"hold\", \"{port}\"]\n\
             FROM base AS attacker\n\
             RUN [\"/escapes\", \"attack\", \"plain\", \"{place}\", \"{port}\"]\n\
             RUN [\"/escapes\", \"attack\", \"hostile\", \"{place}\", \"{port}\"]\n\
             RUN [\"/escapes\", \"marks\", \"{place}\"]\nCOPY escapes /out/planted\n\
             FROM base\nCOPY --from=victim /escapes /v\nCOPY --from=attacker / /\n"
        );
        fs::write(self.directory.path().join("context/Dockerfile"), text).unwrap();
    }

    fn place(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    /// All of it belongs to the builder's user, who can open it.
    fn give(&self, (uid, gid): (u32, u32)) {
        for entry in walk(self.directory.path()) {
            chown(&entry, Some(uid), Some(gid)).unwrap();
        }
        fs::set_permissions(self.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn words(&self, more: &[&str]) -> Vec<String> {
        let place = self.place();
        let words = ["build", "--no-push", "--verbosity=info", "--log-format=text", "--secret"];
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        words.extend([
            format!("id=other,src={place}/outside/secret"),
            format!("--state-dir={place}/state"),
            format!("--oci-layout-path={place}/layout"),
            format!("{place}/context"),
        ]);
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    }

    fn environment(&self) -> [(&'static str, String); 2] {
        [("DOCKER_CONFIG", format!("{}/outside", self.place())), ("REGISTRY_PASSWORD", CANARY.to_owned())]
    }

    fn on_this_host(&self, more: &[&str]) -> Finished {
        let mut command = Command::new(self.directory.path().join("cofferdam"));
        let finished = command.args(self.words(more)).envs(self.environment()).output().unwrap();
        Finished {
            code: finished.status.code(),
            stdout: String::from_utf8_lossy(&finished.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&finished.stderr).into_owned(),
        }
    }

    fn in_pod(&self, kind: PodKind, before: &[&str], more: &[&str]) -> Finished {
        let place = self.place();
        let mut pod = Pod::new(kind)
            .bind(self.directory.path(), place)
            .bind(&self.directory.path().join("outside/token"), "/var/run/secrets/kubernetes.io/serviceaccount/token");
        for (name, value) in self.environment() {
            pod = pod.env(name, &value);
        }
        let program = format!("{place}/escapes");
        let mut words: Vec<String> = if before.is_empty() { Vec::new() } else { vec![program] };
        words.extend(before.iter().map(|word| (*word).to_owned()));
        words.push(format!("{place}/cofferdam"));
        words.extend(self.words(more));
        pod.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What was reached, by how it was tried, and the kind of isolation. The build itself must be as any other.
    fn judge(&self, finished: &Finished) -> (String, Ways) {
        let text = format!("{}{}", finished.stdout, finished.stderr);
        assert_eq!(finished.code, Some(0), "{text}");
        let isolation = text.split_once("isolation: ").map(|(_, rest)| rest.split([',', ';', '\n']).next().unwrap().to_owned());
        let mut found = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [.., how @ ("plain" | "hostile"), name, outcome @ ("reached" | "kept")] = words[..] {
                found.insert((how.to_owned(), name.to_owned()), outcome == "reached");
            }
        }
        let place = self.directory.path();
        let layout = Layout::open_only(&place.join("layout"));
        for tar in layout.layer_tars() {
            assert!(!tar.windows(CANARY.len()).any(|bytes| bytes == CANARY.as_bytes()), "a secret is in a layer");
        }
        assert!(!place.join("outside/planted").exists(), "a link of the image led the builder out");
        let state = fs::metadata(place.join("state")).unwrap().permissions().mode();
        let closed = state.trailing_zeros() >= 6;
        assert!(closed || walk(&place.join("state")).iter().all(|path| !is_setuid(path)), "{state:o}");
        (isolation.unwrap_or_else(|| panic!("no isolation in {text}")), found)
    }
}

fn is_setuid(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o6000 != 0)
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() { found.extend(walk(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

/// The table of docs/security.md: isolation → way → whether it is open.
fn documented() -> BTreeMap<String, BTreeMap<String, bool>> {
    let text = fs::read_to_string(Path::new(PROJECT).join("docs/security.md")).unwrap();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut lines = text.lines().skip_while(|line| !line.starts_with("| way out |"));
    let columns = cells(lines.next().expect("the table"));
    let mut table: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
    for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
        let row = cells(line);
        for (column, cell) in columns.iter().zip(&row).skip(1) {
            assert!(["open", "–"].contains(&cell.as_str()), "{line}");
            table.entry(column.clone()).or_default().insert(row[0].trim_matches('`').to_owned(), cell == "open");
        }
    }
    table
}

/// How a way was tried and its name → whether it was reached.
type Ways = BTreeMap<(String, String), bool>;

/// The name of a build, its isolation, and what it reached.
type Judged<'a> = (&'a str, String, Ways);

/// Judges several builds that have the same walls: together they reach what is documented, and nothing else.
fn judge(expected_isolation: &str, builds: Vec<Judged<'_>>) {
    let table = documented();
    let expected = table.get(expected_isolation).unwrap_or_else(|| panic!("no column {expected_isolation:?}"));
    let mut reached = BTreeSet::new();
    for (name, isolation, found) in builds {
        assert_eq!(isolation, expected_isolation, "{name}");
        for how in ["plain", "hostile"] {
            let tried: BTreeSet<&String> = found.keys().filter(|(tried, _)| tried == how).map(|(_, way)| way).collect();
            assert_eq!(tried, expected.keys().collect(), "{name}, {how}: not the ways of the table");
        }
        let open: Vec<_> = found.iter().filter(|(_, reached)| **reached).map(|(way, _)| way).collect();
        let more: Vec<_> = open.iter().filter(|(_, way)| !expected[way]).collect();
        assert!(more.is_empty(), "{name}: {expected_isolation} must not let a step reach {more:?}");
        reached.extend(open.iter().map(|(_, way)| way.clone()));
    }
    let documented: BTreeSet<String> = expected.iter().filter(|(_, open)| **open).map(|(way, _)| way.clone()).collect();
    assert_eq!(reached, documented, "{expected_isolation}: docs/security.md says more than is true");
}

fn is_possible() -> bool {
    testkit::require(&["gcc", "runc", "busybox"]) && testkit::require_root()
}

/// The builds in these pods, each with words before the program and after.
fn in_pods<'a>(cells: &[(PodKind, &[&str], &[&str])]) -> Vec<Judged<'a>> {
    let build = |(kind, before, more): &(PodKind, &[&str], &[&str])| {
        let scene = Scene::new(kind.host_ids());
        let (isolation, found) = scene.judge(&scene.in_pod(*kind, before, more));
        (kind.name(), isolation, found)
    };
    cells.iter().map(build).collect()
}

#[test]
fn privileged_a_step_in_namespaces_reaches_nothing_that_is_not_documented() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new((0, 0));
    let (isolation, found) = scene.judge(&scene.on_this_host(&[]));
    let mut builds = in_pods(&[(PodKind::Privileged, &[], &[])]);
    builds.push(("host", isolation, found));
    judge("namespaces", builds);
}

#[test]
fn privileged_an_emulated_step_in_namespaces_reaches_nothing_that_is_not_documented() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new((0, 0));
    let (isolation, found) = scene.judge(&scene.on_this_host(&["--isolation=emulated"]));
    let emulated: &[&str] = &["--isolation=emulated"];
    let mut builds = in_pods(&[(PodKind::NonrootUnconfined, &[], &[]), (PodKind::Privileged, &[], emulated)]);
    builds.push(("host", isolation, found));
    judge("emulated in namespaces behind Landlock", builds);
}

#[test]
fn privileged_an_emulated_step_in_namespaces_without_landlock_reaches_what_is_documented() {
    if !is_possible() {
        return;
    }
    let (without, emulated): (&[&str], &[&str]) = (&["without", "1"], &["--isolation=emulated"]);
    judge(
        "emulated in namespaces",
        in_pods(&[(PodKind::NonrootUnconfined, without, &[]), (PodKind::Privileged, without, emulated)]),
    );
}

#[test]
fn privileged_an_emulated_step_behind_landlock_reaches_what_is_documented() {
    if !is_possible() {
        return;
    }
    judge(
        "emulated behind Landlock",
        in_pods(&[
            (PodKind::Restricted, &[], &[]),
            (PodKind::Baseline, &[], &[]),
            (PodKind::HostusersFalse, &[], &[]),
            (PodKind::Privileged, &["without", "2"], &["--isolation=emulated"]),
        ]),
    );
}

#[test]
fn privileged_an_emulated_step_with_nothing_around_it_reaches_what_is_documented() {
    if !is_possible() {
        return;
    }
    let without: &[&str] = &["without", "1"];
    // The profile of CRI-O permits a call that the other one does not.
    judge(
        "emulated",
        in_pods(&[
            (PodKind::Restricted, without, &[]),
            (PodKind::Baseline, without, &[]),
            (PodKind::RestrictedCrio, without, &[]),
        ]),
    );
}
