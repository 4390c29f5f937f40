//! Programs that are not ours: whether they are there, how to run them, and containers run by `runc`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Tells whether all of `programs` are on the PATH, so that the test can go on.
///
/// A missing one is a failure where `CI` is set, and otherwise a reason to return from the test: it is named on
/// the standard error.
///
/// # Panics
/// Where `CI` is set and a program is missing.
#[must_use]
pub fn require(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        // Debian keeps some of them where the PATH of an ordinary user does not look.
        .filter(|program| {
            !std::env::split_paths(&path)
                .chain(["/usr/sbin".into(), "/sbin".into()])
                .any(|directory| directory.join(program).is_file())
        })
        .collect();
    granted(missing.is_empty(), &format!("missing programs: {}", missing.join(", ")))
}

/// Tells whether the test runs as root, with the same consequences as [`require`].
///
/// # Panics
/// Where `CI` is set and the test does not run as root.
#[must_use]
pub fn require_root() -> bool {
    granted(rustix::process::geteuid().is_root(), "this test needs root")
}

#[expect(clippy::print_stderr, reason = "a test that did not run has to say so")]
pub(crate) fn granted(there: bool, reason: &str) -> bool {
    assert!(there || std::env::var_os("CI").is_none(), "{reason} (.ci/install installs what is needed)");
    if !there {
        eprintln!("skipped: {reason}");
    }
    there
}

/// The static `cofferdam` for this machine as it is released, which runs in any root file system: the one that `COFFERDAM`
/// names, else made by cargo from what lies here. Where it was made before, that takes a moment.
///
/// The binary that cargo makes for the tests of a package is bound to the libraries of this machine, and its parts that are
/// slow without optimisation would make up most of what a test in a container costs.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn static_cofferdam() -> PathBuf {
    if let Some(named) = std::env::var_os("COFFERDAM") {
        return std::path::absolute(named).expect("COFFERDAM names a file");
    }
    let directory = target_directory();
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut build = Command::new(&cargo);
    build.args(["build", "--quiet", "--release", "--locked", "--package=builder-cli", "--target", &target]);
    build.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(&directory);
    // What cargo tells this test of its package, a build script may look at: it would be built anew for that.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"]
            .iter()
            .any(|start| name.as_encoded_bytes().starts_with(start.as_bytes()))
        {
            build.env_remove(name);
        }
    }
    let output = build.stdin(Stdio::null()).output().expect("cargo can be run");
    assert!(output.status.success(), "cofferdam cannot be built:\n{}", String::from_utf8_lossy(&output.stderr));
    directory.join(target).join("release/cofferdam")
}

/// Where cargo puts what it makes of the tests that run, for what is to be kept from one run to the next.
#[must_use]
pub fn target_directory() -> PathBuf {
    let program = std::env::current_exe().expect("a test knows its program");
    // <target directory>/<profile>/deps/<program>
    program.ancestors().nth(3).expect("cargo runs the test").to_owned()
}

/// What a program that ended left behind.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Everything from the standard output.
    pub stdout: String,
    /// Everything from the standard error.
    pub stderr: String,
}

/// Runs a program to its end, without input.
pub fn run<Argument: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = Argument>) -> Finished {
    let output = command(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a program that must succeed, and returns its standard output.
pub(crate) fn output_of<Argument: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = Argument>) -> String {
    let arguments: Vec<Argument> = arguments.into_iter().collect();
    let finished = run(program, &arguments);
    if finished.code != Some(0) {
        let line: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
        panic!("{program} {} failed:\n{}{}", line.join(" "), finished.stdout, finished.stderr);
    }
    finished.stdout
}

/// A command found also where only root's PATH looks.
pub(crate) fn command(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("/usr/bin/env");
    command.arg(format!("PATH={path}:/usr/sbin:/sbin")).arg(program);
    command
}

/// An image unpacked by `umoci`, ready for `runc`.
#[derive(Debug)]
pub struct Bundle {
    directory: tempfile::TempDir,
}

impl Bundle {
    pub(crate) fn unpack(layout: &Path, tag: &str) -> Bundle {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut arguments = vec!["unpack".to_owned()];
        if !rustix::process::geteuid().is_root() {
            arguments.push("--rootless".to_owned());
        }
        arguments.extend(["--image".to_owned(), format!("{}:{tag}", layout.display())]);
        arguments.push(directory.path().join("bundle").display().to_string());
        output_of("umoci", arguments);
        Bundle { directory }
    }

    /// Where the files of the image lie.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.directory.path().join("bundle/rootfs")
    }

    /// The files of the image in the text form of [`crate::tree`].
    #[must_use]
    pub fn tree(&self) -> String {
        crate::tree::of_directory(&self.rootfs())
    }

    /// Runs the image in a real container as its config says, or `arguments` in place of its command.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        static RUNS: AtomicU32 = AtomicU32::new(0);

        let bundle = self.directory.path().join("bundle");
        let file = bundle.join("config.json");
        let mut config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).expect("umoci writes a config.json")).expect("umoci writes JSON");
        config["process"]["terminal"] = false.into();
        if !arguments.is_empty() {
            config["process"]["args"] = arguments.into();
        }
        std::fs::write(&file, config.to_string()).expect("the bundle can be written");

        let name = format!("cofferdam-test-{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let state = self.directory.path().join("runc");
        run(
            "runc",
            [OsStr::new("--root"), state.as_os_str(), "run".as_ref(), "--bundle".as_ref(), bundle.as_os_str(), name.as_ref()],
        )
    }
}
