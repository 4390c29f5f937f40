//! One state directory for many builds of the program: some are killed, some run at once, and some of what they keep is
//! removed meanwhile.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};
use testkit::{Image, require, require_root};

/// A context, a base image and a state directory.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Image::new()
            .busybox_layer()
            .layer("etc/ 0755 0:0\netc/greeting 0644 0:0 \"hello\"")
            .write(&directory.path().join("base"), "1");
        let context = directory.path().join("context");
        fs::create_dir(&context).unwrap();
        fs::write(context.join("data"), testkit::tree::random_bytes(300_000)).unwrap();
        let dockerfile = "FROM base AS other\n\
             ARG SALT=0\n\
             RUN mkdir /many && i=0; while [ $i -lt 30 ]; do echo $SALT $i >/many/$i; i=$((i+1)); done\n\
             FROM base\n\
             ARG SALT=0\n\
             COPY data /data\n\
             RUN --mount=type=cache,target=/cache,sharing=shared cat /data /data >/cache/data; cp /data /copy; echo $SALT >/salt\n\
             COPY --from=other /many /many/\n\
             RUN rm /data\n";
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Stands in the variables of the steps, which all of their processes inherit, so that these can be told from others.
    fn mark(&self) -> String {
        self.directory.path().file_name().unwrap().to_string_lossy().into_owned()
    }

    /// A build that prints the digest of its image.
    fn command(&self, salt: u32, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
        let base = format!("base=oci-layout://{}:1", self.path("base").display());
        command
            .args([
                "build",
                "--quiet",
                "--no-push",
                "--build-context",
                &base,
                "--build-arg",
                &format!("SALT={}-{salt}", self.mark()),
            ])
            .args(words)
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg(self.path("context"))
            .env_clear()
            .env("SOURCE_DATE_EPOCH", "1000000000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn start(&self, salt: u32, words: &[&str]) -> Child {
        self.command(salt, words).spawn().unwrap()
    }

    fn build(&self, salt: u32, words: &[&str]) -> String {
        digest_of(self.command(salt, words).output().unwrap())
    }

    /// What the build gives where nothing has been kept.
    fn expected(&self, salt: u32) -> String {
        let digest = self.build(salt, &["--no-cache"]);
        let _ = fs::remove_dir_all(self.path("state"));
        digest
    }

    /// What `cache ls` says of the state directory.
    fn listed(&self) -> serde_json::Value {
        let output = self.cofferdam(&["cache", "ls", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn cofferdam(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
        command.args(words).arg("--state-dir").arg(self.path("state")).env_clear().output().unwrap()
    }
}

fn digest_of(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn age(path: &Path, age: Duration) {
    fs::File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

/// The processes of steps, and of builds in this directory.
fn running(mark: &str) -> Vec<String> {
    let is_step = |process: &Path| {
        let read = |name: &str| fs::read(process.join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&[read("cmdline"), read("environ")].concat()).into_owned();
        text.contains(mark).then_some(text)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(|process| is_step(&process.path())).collect()
}

/// The processes of a build that was killed end by themselves, but not in the same moment.
fn await_end_of_steps(mark: &str, round: u32) {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let running = running(mark);
        if running.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "round {round}: still running: {running:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        // Steele, Lea and Flood's SplitMix.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most.max(1)
    }
}

#[test]
fn privileged_a_state_directory_and_a_cache_survive_200_killed_builds() {
    const KILLS: u32 = 200;
    if !require(&["busybox"]) || !require_root() {
        return;
    }
    let bench = Bench::new();
    let (state, cache) = (bench.path("state"), bench.path("cache"));
    let shared = format!("--cache-repo=oci:{}", cache.display());
    let with_cache = |words: &[&'static str]| [words, &[&*shared]].concat();
    let digests = [bench.expected(0), bench.expected(1)];
    let time = |words: &[&'static str]| {
        let one = || {
            let began = Instant::now();
            bench.build(0, &with_cache(words));
            u64::try_from(began.elapsed().as_micros()).unwrap()
        };
        (0..5).map(|_| one()).min().unwrap()
    };
    let (mut whole, mut cached) = (time(&["--no-cache"]), time(&[]));
    let mut emulated = time(&["--no-cache", "--isolation", "emulated"]);
    let mut dice = Dice(7);
    let (mut round, mut kills) = (0, 0);
    while kills < KILLS {
        round += 1;
        let salt = u32::try_from(dice.below(2)).unwrap();
        let (words, most): (&[&'static str], _) = match dice.below(8) {
            0 | 1 => (&[], &mut cached),
            2 | 3 => (&["--no-cache", "--isolation", "emulated"], &mut emulated),
            _ => (&["--no-cache"], &mut whole),
        };
        let mut killed = bench.start(salt, &with_cache(words));
        // In each tenth round another build shares the directories, and must not notice.
        let other = (round % 10 == 0).then(|| bench.start(0, &with_cache(&["--no-cache"])));
        std::thread::sleep(Duration::from_micros(dice.below(*most)));
        match killed.try_wait().unwrap() {
            None => kills += 1,
            // A machine that was busier when the time was taken.
            Some(_) => *most -= *most / 10,
        }
        killed.kill().unwrap();
        killed.wait().unwrap();
        let checked = match other {
            Some(other) => digest_of(other.wait_with_output().unwrap()),
            None => bench.build(0, &with_cache(&[])),
        };
        assert_eq!(checked, digests[0], "round {round}");
        await_end_of_steps(&bench.mark(), round);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&state.display().to_string()), "round {round}: a mount is left");
        if round % 5 == 0 {
            assert_eq!(bench.build(1, &with_cache(&[])), digests[1], "round {round}");
            let left: Vec<_> = fs::read_dir(state.join("builds")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(left.is_empty(), "round {round}: {left:?}");
        }
        // From the first file on.
        if round % 40 == 0 {
            fs::remove_dir_all(&state).unwrap();
        }
        if round % 40 == 20 {
            fs::remove_dir_all(&cache).unwrap();
        }
    }
    for salt in [0, 1] {
        bench.build(salt, &with_cache(&[]));
    }
    fs::remove_dir_all(&state).unwrap();
    for (salt, digest) in (0..).zip(&digests) {
        assert_eq!(&bench.build(salt, &with_cache(&[])), digest);
    }
    // Nothing was done again.
    let listed = bench.listed();
    assert!(listed["entries"].as_array().unwrap().iter().all(|entry| entry["kind"] != "step"), "{listed:#}");
}

#[test]
fn privileged_builds_do_not_notice_that_what_they_do_not_use_is_removed() {
    if !require(&["busybox"]) || !require_root() {
        return;
    }
    let bench = Bench::new();
    let digests: Vec<String> = (0..3).map(|salt| bench.expected(salt)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pruning = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                let output = bench.cofferdam(&["cache", "prune", "--all"]);
                // At first there is no state directory.
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success() || text.contains("there is no state directory"), "{text}");
                rounds += u32::from(output.status.success());
            }
            rounds
        });
        let building: Vec<_> = (0..3_usize)
            .map(|salt| {
                let (bench, digests) = (&bench, &digests);
                scope.spawn(move || {
                    for _ in 0..6 {
                        assert_eq!(bench.build(u32::try_from(salt).unwrap(), &[]), digests[salt]);
                    }
                })
            })
            .collect();
        let built = building.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>();
        done.store(true, Ordering::Relaxed);
        assert!(pruning.join().unwrap() > 1);
        assert!(built.iter().all(Result::is_ok));
    });
    assert!(bench.cofferdam(&["cache", "prune", "--all"]).status.success());
    let output = bench.cofferdam(&["cache", "ls", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&listed["total_bytes"], &listed["entries"]), (&0.into(), &serde_json::json!([])));
}

#[test]
fn privileged_a_damaged_layer_fails_one_build_and_no_more() {
    if !require(&["busybox"]) || !require_root() {
        return;
    }
    let bench = Bench::new();
    let expected = bench.expected(1);
    bench.build(0, &[]);
    let files = fs::read_dir(bench.path("state/blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let largest = files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    fs::write(&largest, vec![0; usize::try_from(fs::metadata(&largest).unwrap().len()).unwrap()]).unwrap();
    fs::remove_dir_all(bench.path("state/unpacked")).unwrap();
    let output = bench.command(1, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(72));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("hint: it was damaged in the state directory and has been removed from there: build again"), "{text}");
    assert_eq!(bench.build(1, &[]), expected);
}

#[test]
fn privileged_what_is_kept_is_listed_and_removed_down_to_a_size() {
    if !require(&["busybox"]) || !require_root() {
        return;
    }
    let bench = Bench::new();
    let digest = bench.build(0, &[]);
    let list = || bench.listed();
    let before = list();
    let entries = before["entries"].as_array().unwrap();
    for kind in ["blob", "index", "step", "layer", "unpacked", "cache-mount"] {
        assert!(entries.iter().any(|entry| entry["kind"] == kind), "{kind}: {before:#}");
    }
    assert!(entries.iter().all(|entry| entry["in_use"] == false));
    let mount = entries.iter().find(|entry| entry["kind"] == "cache-mount").unwrap();
    assert_eq!((&mount["description"], &mount["size_bytes"]), (&"/cache".into(), &600_000.into()));
    let text = String::from_utf8(bench.cofferdam(&["cache", "ls"]).stdout).unwrap();
    assert!(text.contains("KIND") && text.contains("/cache") && text.contains("TOTAL"), "{text}");

    let total = before["total_bytes"].as_u64().unwrap();
    let keep = (total / 2).to_string();
    let would = bench.cofferdam(&["cache", "prune", "--keep-storage", &keep, "--dry-run"]);
    assert!(String::from_utf8_lossy(&would.stdout).contains("would be freed"), "{would:?}");
    assert_eq!(list()["total_bytes"], total);
    assert!(bench.cofferdam(&["cache", "prune", "--until", "1h"]).status.success());
    assert_eq!(list()["total_bytes"], total, "everything is younger");
    let output = bench.cofferdam(&["cache", "prune", "--keep-storage", &keep, "--json"]);
    let pruned: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept = pruned["kept_bytes"].as_u64().unwrap();
    assert!(kept <= total / 2 && kept + pruned["freed_bytes"].as_u64().unwrap() == total, "{pruned:#}");
    assert_eq!(list()["total_bytes"], kept);
    assert_eq!(bench.build(0, &[]), digest);
    assert_eq!(bench.cofferdam(&["cache", "prune"]).status.code(), Some(64));

    assert_eq!(bench.build(1, &["--cache-keep-storage", &keep]).len(), digest.len());
    assert!(list()["total_bytes"].as_u64().unwrap() <= total / 2);
}

#[test]
fn privileged_a_cache_in_a_directory_is_listed_and_removed_down_to_a_size() {
    if !require(&["busybox"]) || !require_root() {
        return;
    }
    let bench = Bench::new();
    let cache = format!("--cache-repo=oci:{}", bench.path("cache").display());
    let digests = [0, 1].map(|salt| bench.build(salt, &[&cache]));
    let run = |words: &[&str]| {
        let words = [&["cache"], words, &[&*cache]].concat();
        Command::new(env!("CARGO_BIN_EXE_cofferdam")).args(words).env_clear().output().unwrap()
    };
    let json = |words: &[&str]| -> serde_json::Value {
        let output = run(&[words, &["--json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let list = || json(&["ls"]);
    let count = |listed: &serde_json::Value, kind: &str| {
        listed["entries"].as_array().unwrap().iter().filter(|entry| entry["kind"] == kind).count()
    };
    let before = list();
    // Four steps for each salt, of which COPY data and RUN rm are the same.
    assert!(count(&before, "layer") >= 6 && count(&before, "build") == 1 && count(&before, "shard") == 1, "{before:#}");
    let text = String::from_utf8(run(&["ls"]).stdout).unwrap();
    assert!(text.contains("KIND") && text.contains("1 step") && text.contains("TOTAL"), "{text}");

    // Those of the second build are used last.
    let layers = fs::read_dir(bench.path("cache/blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    for path in layers {
        age(&path, Duration::from_hours(30));
    }
    let state = bench.path("state");
    fs::remove_dir_all(&state).unwrap();
    assert_eq!(bench.build(1, &[&cache]), digests[1]);
    let total = before["total_bytes"].as_u64().unwrap();
    let would = run(&["prune", "--until", "24h", "--dry-run"]);
    assert!(String::from_utf8_lossy(&would.stdout).contains("would be freed"), "{would:?}");
    assert_eq!(list()["total_bytes"], total);
    // What the second build has put something else in the place of goes in any case.
    let pruned = json(&["prune", "--keep-storage", &total.to_string()]);
    assert!(pruned["removed"].as_array().unwrap().iter().all(|entry| entry["kind"] == "unnamed"), "{pruned:#}");
    let keep = (total / 2).to_string();
    let pruned = json(&["prune", "--keep-storage", &keep]);
    let (kept, freed) = (pruned["kept_bytes"].as_u64().unwrap(), pruned["freed_bytes"].as_u64().unwrap());
    assert!(kept <= total / 2 && freed > 0, "{pruned:#}");
    let after = list();
    assert_eq!((&after["total_bytes"], count(&after, "unnamed")), (&kept.into(), 0));
    assert!(count(&after, "layer") < count(&before, "layer"), "{after:#}");
    // What is gone is done again, and the rest is found.
    for (salt, digest) in (0..).zip(&digests) {
        fs::remove_dir_all(&state).unwrap();
        assert_eq!(&bench.build(salt, &[&cache]), digest);
    }

    // While a build uses it nothing is taken from under it: what it may have found stays for a day.
    let build = fs::File::open(bench.path("cache/.builds")).unwrap();
    build.lock_shared().unwrap();
    let layers = count(&list(), "layer");
    let pruned = json(&["prune", "--all"]);
    let later = pruned["later"].as_array().unwrap().iter().filter(|entry| entry["kind"] == "layer").count();
    assert_eq!((&pruned["removed"], later), (&serde_json::json!([]), layers), "{pruned:#}");
    let named_no_more = list();
    assert!(count(&named_no_more, "layer") == 0 && count(&named_no_more, "unnamed") > layers, "{named_no_more:#}");
    drop(build);
    assert!(run(&["prune", "--all"]).status.success());
    let empty = list();
    let kinds: Vec<&serde_json::Value> = empty["entries"].as_array().unwrap().iter().map(|entry| &entry["kind"]).collect();
    assert_eq!(kinds, ["shard"]);
    assert_eq!(bench.build(0, &[&cache]), digests[0]);
}

#[test]
fn what_is_no_cache_of_ours_is_not_emptied() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // Under the name that a cache has where names cannot be listed.
    for tag in ["1", "cofferdam", "cofferdam.00000000.0123456789abcdef"] {
        Image::new().layer("etc/ 0755 0:0\netc/greeting 0644 0:0 \"hello\"").write(&path(tag), tag);
    }
    fs::create_dir(path("empty")).unwrap();
    fs::create_dir(path("damaged")).unwrap();
    fs::write(path("damaged/index.json"), "{").unwrap();
    let files = || {
        let mut open = vec![directory.path().to_owned()];
        let mut found = BTreeSet::new();
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                open.extend(entry.metadata().unwrap().is_dir().then(|| entry.path()));
                found.insert((entry.path(), entry.metadata().unwrap().len()));
            }
        }
        found
    };
    let before = files();
    for name in ["1", "cofferdam", "cofferdam.00000000.0123456789abcdef", "empty", "damaged", "missing"] {
        for words in [&["ls"][..], &["prune", "--all"]] {
            let cache = format!("--cache-repo=oci:{}", path(name).display());
            let output = Command::new(env!("CARGO_BIN_EXE_cofferdam")).arg("cache").args(words).arg(cache).output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.code() == Some(72) && text.contains("is no cache of builds"), "{name}: {text}");
        }
    }
    assert_eq!(files(), before);
}
