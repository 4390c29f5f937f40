//! The processes of a step, and the builder as the first process of a container.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::{Duration, Instant},
};
use testkit::pod::{Pod, PodKind, RunningPod};

const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const COFFERDAM: &str = env!("CARGO_BIN_EXE_cofferdam");

/// A context with one step.
struct Scene(tempfile::TempDir);

impl Scene {
    /// One call of `testdata/escapes/escapes.c`.
    fn new(step: &[&str]) -> Self {
        Self::running(&[&["/escapes"], step].concat())
    }

    /// A script of a shell, which has `/busybox` and nothing else.
    fn shell(script: &str) -> Self {
        Self::running(&["/busybox", "sh", "-c", script])
    }

    fn running(words: &[&str]) -> Self {
        let scene = Self(tempfile::Builder::new().prefix("processes-").tempdir().unwrap());
        let place = scene.0.path();
        let source = Path::new(PROJECT).join("testdata/escapes/escapes.c");
        let compiled = Command::new("gcc").args(["-static", "-O1", "-o"]).arg(place.join("escapes")).arg(source).status();
        assert!(compiled.unwrap().success());
        for name in ["context", "state"] {
            fs::create_dir(place.join(name)).unwrap();
        }
        fs::copy(place.join("escapes"), place.join("context/escapes")).unwrap();
        fs::copy("/bin/busybox", place.join("context/busybox")).unwrap();
        let text = format!("FROM scratch\nCOPY escapes busybox /\nRUN {}\n", serde_json::to_string(words).unwrap());
        fs::write(place.join("context/Dockerfile"), text).unwrap();
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn words(&self, more: &[&str]) -> Vec<String> {
        let place = self.0.path().display();
        let words = [format!("--state-dir={place}/state"), format!("{place}/context")];
        ["build".to_owned(), "--no-push".to_owned()]
            .into_iter()
            .chain(words)
            .chain(more.iter().map(|word| (*word).to_owned()))
            .collect()
    }

    /// On this host, `without` what the kernel would grant (as `escapes.c` says).
    fn build(&self, without: &str, more: &[&str]) -> Output {
        let mut command = Command::new(self.path("escapes"));
        command.args(["without", without, COFFERDAM]).args(self.words(more)).output().unwrap()
    }

    /// Starts the same, waits for the step, and sends the builder a signal. Gives its exit code and what it said.
    fn interrupt(&self, without: &str, more: &[&str], signal: Signal) -> (Option<i32>, String) {
        let said = || fs::read_to_string(self.path("said")).unwrap();
        let mut command = Command::new(self.path("escapes"));
        command.args(["without", without, COFFERDAM]).args(self.words(more));
        let mut building = command.stderr(fs::File::create(self.path("said")).unwrap()).spawn().unwrap();
        wait_until(&mut building, said, |_| said().contains("    lingering\n"));
        kill_process(Pid::from_child(&building), signal).unwrap();
        wait_until(&mut building, said, |building| building.try_wait().unwrap().is_some());
        (building.wait().unwrap().code(), said())
    }

    /// Starts the build as the first process of a pod, and waits for the step.
    fn start_in(&self, kind: PodKind) -> (Pod, RunningPod) {
        let (uid, gid) = kind.host_ids();
        fs::copy(testkit::static_cofferdam(), self.path("cofferdam")).unwrap();
        for name in ["state", "context", "context/Dockerfile", "context/escapes", "context/busybox", "cofferdam"] {
            chown(self.path(name), Some(uid), Some(gid)).unwrap();
        }
        let pod = Pod::new(kind).bind(self.0.path(), self.0.path().to_str().unwrap());
        let program = self.path("cofferdam").display().to_string();
        let words: Vec<String> = [program].into_iter().chain(self.words(&[])).collect();
        let mut running = pod.spawn(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let started = Instant::now();
        while !running.stderr().contains("    lingering") {
            assert!(!running.has_ended() && started.elapsed() < Duration::from_mins(1), "{}", running.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
        (pod, running)
    }

    /// What steps leave in the state directory while they run.
    fn roots(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.path("state")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                if entry.file_name() == "emulation" {
                    found.push(entry.path());
                }
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                }
            }
        }
        found
    }
}

/// A build that does not come to it is ended, so that it does not outlive its test.
fn wait_until(building: &mut Child, said: impl Fn() -> String, is_there: impl Fn(&mut Child) -> bool) {
    let started = Instant::now();
    while !is_there(building) {
        if started.elapsed() > Duration::from_mins(1) {
            building.kill().unwrap();
            panic!("{}", said());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The command lines of the processes of this machine.
fn command_lines() -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().map(Result::unwrap);
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}

fn is_possible() -> bool {
    testkit::require(&["gcc", "runc", "busybox"]) && testkit::require_root()
}

#[test]
fn privileged_daemons_of_a_step_are_dead_when_it_ends() {
    if !is_possible() {
        return;
    }
    for (without, isolation) in [("0", "namespaces"), ("0", "emulated"), ("1", "emulated"), ("2", "emulated"), ("3", "emulated")]
    {
        let name = format!("daemon-{}-{without}-{isolation}", std::process::id());
        let scene = Scene::new(&["daemons", &name]);
        let output = scene.build(without, &["--isolation", isolation]);
        assert!(output.status.success(), "{without} {isolation}: {}", String::from_utf8_lossy(&output.stderr));
        let left: Vec<String> = command_lines().into_iter().filter(|line| line.starts_with(&name)).collect();
        assert_eq!(left, Vec::<String>::new(), "{without} {isolation}");
    }
}

#[test]
fn privileged_a_step_that_takes_too_long_is_stopped_and_named() {
    if !is_possible() {
        return;
    }
    for isolation in ["namespaces", "emulated"] {
        let scene = Scene::new(&["linger"]);
        let output = scene.build("0", &["--isolation", isolation, "--run-timeout=1s"]);
        let text = String::from_utf8_lossy(&output.stderr);
        // As with `timeout` of coreutils: the step failed, and not this host.
        assert_eq!(output.status.code(), Some(124), "{text}");
        assert!(
            text.contains("stopped after 1 s, its time limit") && text.contains("hint: --run-timeout sets the limit"),
            "{text}"
        );
        assert!(text.contains("/escapes linger") && text.contains("Dockerfile:3"), "{text}");
        assert_eq!(scene.roots(), Vec::<PathBuf>::new());
    }
}

#[test]
fn privileged_as_the_first_process_it_ends_on_a_signal_and_leaves_nothing() {
    if !is_possible() {
        return;
    }
    for (kind, signal, code) in [
        (PodKind::Restricted, "TERM", 143),
        (PodKind::Restricted, "INT", 130),
        (PodKind::Privileged, "TERM", 143),
        (PodKind::NonrootUnconfined, "TERM", 143),
    ] {
        let scene = Scene::new(&["linger"]);
        let (_pod, running) = scene.start_in(kind);
        running.signal(signal);
        let finished = running.wait();
        assert_eq!(finished.code, Some(code), "{kind:?} {signal}: {}", finished.stderr);
        assert!(finished.stderr.contains("the build was cancelled"), "{}", finished.stderr);
        assert_eq!(scene.roots(), Vec::<PathBuf>::new(), "{kind:?}");
    }
}

#[test]
fn privileged_a_command_gets_the_signal_and_may_end_by_itself() {
    if !is_possible() {
        return;
    }
    // A shell looks at its traps when the program that it waits for has ended.
    let program = "/busybox sh -c 'echo lingering; exec /busybox sleep 3600'";
    let script = "echo lingering; while :; do /busybox sleep 0.1; done";
    for (without, isolation, name, signal, code, lingering) in [
        ("0", "namespaces", "TERM", Signal::TERM, 143, script),
        ("0", "namespaces", "INT", Signal::INT, 130, program),
        ("0", "emulated", "TERM", Signal::TERM, 143, script),
        ("0", "emulated", "INT", Signal::INT, 130, program),
        ("3", "emulated", "HUP", Signal::HUP, 129, program),
    ] {
        let scene = Scene::shell(&format!("trap 'echo got-{name}; exit 3' {name}; {lingering}"));
        let (ended, said) = scene.interrupt(without, &["--isolation", isolation], signal);
        assert_eq!(ended, Some(code), "{without} {isolation} {name}: {said}");
        assert!(said.contains(&format!("    got-{name}\n")), "{without} {isolation}: {said}");
        assert!(said.ends_with("error: the build was cancelled\n"), "{said}");
        assert_eq!(scene.roots(), Vec::<PathBuf>::new());
    }
}

#[test]
fn privileged_what_ignores_the_signal_is_killed() {
    if !is_possible() {
        return;
    }
    let command = "trap '' TERM; echo lingering; while :; do /busybox sleep 0.1; done";
    let daemon = "(trap '' TERM; echo lingering; while :; do /busybox sleep 0.1; done) & /busybox sleep 3600";
    for (without, isolation) in [("0", "namespaces"), ("0", "emulated"), ("3", "emulated")] {
        for (number, script) in [command, daemon].into_iter().enumerate() {
            let name = format!("ignoring-{}-{without}-{isolation}-{number}", std::process::id());
            let scene = Scene::shell(&format!(": {name}; {script}"));
            let (ended, said) = scene.interrupt(without, &["--isolation", isolation], Signal::TERM);
            assert_eq!(ended, Some(143), "{name}: {said}");
            assert!(said.ends_with("error: the build was cancelled\n"), "{said}");
            let left: Vec<String> = command_lines().into_iter().filter(|line| line.contains(&name)).collect();
            assert_eq!(left, Vec::<String>::new(), "{name}");
            assert_eq!(scene.roots(), Vec::<PathBuf>::new());
        }
    }
}

#[test]
fn privileged_as_the_first_process_it_hands_the_signal_to_the_command() {
    if !is_possible() {
        return;
    }
    for kind in [PodKind::Restricted, PodKind::Privileged] {
        let scene = Scene::shell("trap 'echo got-TERM; exit 3' TERM; /busybox sh -c 'echo lingering; exec /busybox sleep 3600'");
        let (_pod, running) = scene.start_in(kind);
        running.signal("TERM");
        let finished = running.wait();
        assert_eq!(finished.code, Some(143), "{kind:?}: {}", finished.stderr);
        assert!(finished.stderr.contains("    got-TERM\n"), "{kind:?}: {}", finished.stderr);
        assert_eq!(scene.roots(), Vec::<PathBuf>::new(), "{kind:?}");
    }
}

#[test]
fn privileged_as_the_first_process_it_reaps_what_others_leave() {
    if !is_possible() {
        return;
    }
    for kind in [PodKind::Restricted, PodKind::Privileged] {
        let scene = Scene::new(&["linger"]);
        let (_pod, running) = scene.start_in(kind);
        // The inner process loses its parent, and ends when nobody knows it.
        let left = running.exec(&["sh", "-c", "(sh -c 'exit 0' & sleep 0.1 &) ; echo left"]);
        assert_eq!(left.stdout, "left\n", "{}", left.stderr);
        let started = Instant::now();
        loop {
            let states = running.exec(&["sh", "-c", "cat /proc/[0-9]*/stat; true"]).stdout;
            let zombies = states.lines().filter(|line| line.contains(") Z ")).count();
            let orphans = states.lines().filter(|line| line.contains("(sleep)")).count();
            if zombies + orphans == 0 {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{kind:?}: {states}");
            std::thread::sleep(Duration::from_millis(100));
        }
        running.signal("TERM");
        assert_eq!(running.wait().code, Some(143));
    }
}
